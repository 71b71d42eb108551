/* SPDX-License-Identifier: Apache-2.0
 *
 * The mixture of experts (Eqn 5) with its gradients, and the experts' scales. With l_j = sum_d log q_j(z_d | x_j),
 *   log q(z|x) = log 1/M sum_j exp l_j,      d log q / d l_j = w_j = exp(l_j) / sum_k exp(l_k),
 * and the chain rule through each expert's mean and raw scale. A block takes one tuple and goes through its rows in
 * order, so that gradients add up in a fixed order without atomics. All in double: there are few numbers.
 */
#include "cuda_expert.h"
#include "cuda_launch.h"

struct mixture_arrays {
    mmebm_mixture mixture;
    const float *mean[MMEBM_MAX_MODALITIES], *raw[MMEBM_MAX_MODALITIES];
    float *mean_gradient[MMEBM_MAX_MODALITIES], *raw_gradient[MMEBM_MAX_MODALITIES];
};

static __device__ double sign_of(double x)
{
    return x > 0 ? 1.0 : x < 0 ? -1.0 : x; /* 0 and NaN stay */
}

static __device__ double log_density(uint32_t family, double z, double mean, double scale, double *by_mean,
                                     double *by_scale)
{
    const double difference = z - mean;
    if (family == MMEBM_LAPLACE) {
        *by_mean = sign_of(difference) / scale;
        *by_scale = (fabs(difference) / scale - 1.0) / scale;
        return -log(2.0 * scale) - fabs(difference) / scale;
    }
    const double log_two_pi = 1.8378770664093454836, ratio = difference / scale;
    *by_mean = ratio / scale;
    *by_scale = (ratio * ratio - 1.0) / scale;
    return -0.5 * (log_two_pi + ratio * ratio) - log(scale);
}

/* ds_d / draw_d; of the softmax only the part with k = d. */
static __device__ double scale_slope(const expert_scales &scales, int64_t d)
{
    const double raw = scales.raw[d];
    return scales.kind == MMEBM_SCALE_SOFTPLUS   ? sigmoid_of(raw)
           : scales.kind == MMEBM_SCALE_EXP_HALF ? 0.5 * exp(0.5 * raw)
                                                 : scale_of(scales, d) - scales.floor;
}

/* Adds weight * d l_j to the gradients of expert j, by one warp. Softmax p: ds_k / draw_d = (s_k - floor)
 * ([k = d] - p_d), so the sum over k leaves one number common to all d. */
static __device__ void add_expert_gradient(const mixture_arrays &arrays, const expert_scales &scales, uint32_t j,
                                           const float *z, int64_t first, double weight)
{
    const mmebm_mixture &mixture = arrays.mixture;
    float *mean_gradient = arrays.mean_gradient[j], *raw_gradient = arrays.raw_gradient[j];
    const int lane = (int)(threadIdx.x % 32);
    const float *mean = arrays.mean[j] + first;
    double by_mean, by_scale, common = 0.0;
    if (raw_gradient && mixture.scale_kind == MMEBM_SCALE_SOFTMAX) {
        for (int64_t d = lane; d < mixture.size; d += 32) {
            log_density(mixture.family, z[d], mean[d], scale_of(scales, d), &by_mean, &by_scale);
            common += by_scale * scale_slope(scales, d);
        }
        common = warp_sum(common) / (double)mixture.size;
    }
    for (int64_t d = lane; d < mixture.size; d += 32) {
        log_density(mixture.family, z[d], mean[d], scale_of(scales, d), &by_mean, &by_scale);
        if (mean_gradient) mean_gradient[first + d] = (float)(mean_gradient[first + d] + weight * by_mean);
        if (!raw_gradient) continue;
        const double by_raw = (by_scale - common) * scale_slope(scales, d);
        raw_gradient[first + d] = (float)(raw_gradient[first + d] + weight * by_raw);
    }
}

/* One row by the whole block, a warp for each expert in turn. */
static __device__ void mixture_row(const mixture_arrays &arrays, int64_t row, double *densities)
{
    const mmebm_mixture &mixture = arrays.mixture;
    const int64_t first = row % mixture.period * mixture.size;
    const float *z = mixture.z + row * mixture.size;
    const uint32_t warp = threadIdx.x / 32, warps = blockDim.x / 32;
    double unused_mean, unused_scale;
    for (uint32_t j = warp; j < mixture.experts; j += warps) {
        const expert_scales scales =
            open_scales(mixture.scale_kind, mixture.floor, arrays.raw[j] + first, mixture.size);
        double total = 0.0;
        for (int64_t d = threadIdx.x % 32; d < mixture.size; d += 32)
            total += log_density(mixture.family, z[d], arrays.mean[j][first + d], scale_of(scales, d), &unused_mean,
                                 &unused_scale);
        total = warp_sum(total);
        if (threadIdx.x % 32 == 0) densities[j] = total;
    }
    __syncthreads();
    double largest = -INFINITY, total = 0.0;
    for (uint32_t j = 0; j < mixture.experts; ++j) largest = fmax(largest, densities[j]);
    for (uint32_t j = 0; j < mixture.experts; ++j) total += exp(densities[j] - largest);
    if (threadIdx.x == 0) mixture.log_density[row] = (float)(largest + log(total / (double)mixture.experts));
    if (mixture.mean_gradient || mixture.raw_gradient) {
        for (uint32_t j = warp; j < mixture.experts; j += warps) {
            const expert_scales scales =
                open_scales(mixture.scale_kind, mixture.floor, arrays.raw[j] + first, mixture.size);
            add_expert_gradient(arrays, scales, j, z, first,
                                mixture.gradient_scale * exp(densities[j] - largest) / total);
        }
    }
    __syncthreads();
}

static __global__ void mixture_kernel(const __grid_constant__ mixture_arrays arrays)
{
    begin_kernel();
    __shared__ double densities[MMEBM_MAX_MODALITIES];
    for (int64_t tuple = blockIdx.x; tuple < arrays.mixture.period; tuple += gridDim.x)
        for (int64_t row = tuple; row < arrays.mixture.rows; row += arrays.mixture.period)
            mixture_row(arrays, row, densities);
}

mmebm_status mmebm__cuda_mixture(mmebm_device *device, const mmebm_mixture *mixture)
{
    const cuda_scope scope(device);
    mixture_arrays arrays;
    arrays.mixture = *mixture;
    for (uint32_t j = 0; j < mixture->experts; ++j) {
        arrays.mean[j] = mixture->mean[j];
        arrays.raw[j] = mixture->raw[j];
        arrays.mean_gradient[j] = mixture->mean_gradient ? mixture->mean_gradient[j] : NULL;
        arrays.raw_gradient[j] = mixture->raw_gradient ? mixture->raw_gradient[j] : NULL;
    }
    return mmebm__cuda_launch(device, "mixture", mixture_kernel, mmebm__cuda_blocks(mixture->period, 1), 128, 0,
                              arrays);
}

static __global__ void expert_scale_kernel(int64_t rows, int64_t size, const float *raw, uint32_t scale_kind,
                                           float floor, float *scale)
{
    begin_kernel();
    for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
        const expert_scales scales = open_scales(scale_kind, floor, raw + row * size, size);
        for (int64_t d = threadIdx.x; d < size; d += 32) scale[row * size + d] = (float)scale_of(scales, d);
    }
}

mmebm_status mmebm__cuda_expert_scale(mmebm_device *device, int64_t rows, int64_t size, const float *raw,
                                      uint32_t scale_kind, float floor, float *scale)
{
    const cuda_scope scope(device);
    return mmebm__cuda_launch(device, "expert_scale", expert_scale_kernel, mmebm__cuda_blocks(rows, 1), 32, 0, rows,
                              size, raw, scale_kind, floor, scale);
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * Elementwise operations, sums, Adam and spectral norm; backend_api.h states each formula. Values are worked out in
 * double and rounded once, as on the reference backend: all of these wait for memory, not for arithmetic. A factor 0
 * means that its operand is not read.
 */
#include "cuda_launch.h"
#include "cuda_sum.h"

#define FOR_EACH(i, count)                                                                                             \
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < (count); i += (int64_t)gridDim.x * blockDim.x)

/* ---- elementwise */

static __global__ void fill_kernel(int64_t count, float *target, float value)
{
    begin_kernel();
    FOR_EACH(i, count) target[i] = value;
}

mmebm_status mmebm__cuda_fill(mmebm_device *device, int64_t count, float *target, float value)
{
    const cuda_scope scope(device);
    return mmebm__cuda_launch(device, "fill", fill_kernel, mmebm__cuda_blocks(count, CUDA_BLOCK), CUDA_BLOCK, 0, count,
                              target, value);
}

static __global__ void combine_kernel(int64_t count, float *target, float alpha, const float *source, float beta)
{
    begin_kernel();
    FOR_EACH(i, count)
    {
        const double kept = alpha == 0.0f ? 0.0 : (double)alpha * target[i];
        target[i] = (float)(beta == 0.0f ? kept : kept + (double)beta * source[i]);
    }
}

mmebm_status mmebm__cuda_combine(mmebm_device *device, int64_t count, float *target, float alpha, const float *source,
                                 float beta)
{
    const cuda_scope scope(device);
    return mmebm__cuda_launch(device, "combine", combine_kernel, mmebm__cuda_blocks(count, CUDA_BLOCK), CUDA_BLOCK, 0,
                              count, target, alpha, source, beta);
}

static __global__ void lerp_kernel(int64_t count, float *target, const float *source, float source_scale,
                                   const float *t)
{
    begin_kernel();
    const double weight = *t;
    FOR_EACH(i, count)
    target[i] = (float)(target[i] + weight * ((double)source_scale * source[i] - target[i]));
}

mmebm_status mmebm__cuda_lerp(mmebm_device *device, int64_t count, float *target, const float *source,
                              float source_scale, const float *t)
{
    const cuda_scope scope(device);
    return mmebm__cuda_launch(device, "lerp", lerp_kernel, mmebm__cuda_blocks(count, CUDA_BLOCK), CUDA_BLOCK, 0, count,
                              target, source, source_scale, t);
}

static __global__ void adam_kernel(mmebm_adam_step step)
{
    begin_kernel();
    const double rate = step.control[0], correction1 = step.control[1], correction2 = step.control[2];
    const double beta1 = step.beta1, beta2 = step.beta2;
    const double norm = step.clip > 0.0f ? sqrt((double)*step.norm2) : 0.0;
    const double factor = step.clip > 0.0f && norm > step.clip ? step.clip / norm : 1.0;
    FOR_EACH(i, step.count)
    {
        const double gradient = factor * step.gradient[i];
        const double moment1 = beta1 * step.moment1[i] + (1.0 - beta1) * gradient;
        const double moment2 = beta2 * step.moment2[i] + (1.0 - beta2) * gradient * gradient;
        const double update = moment1 / correction1 / (sqrt(moment2 / correction2) + step.epsilon);
        step.moment1[i] = (float)moment1;
        step.moment2[i] = (float)moment2;
        step.weights[i] = (float)(step.weights[i] - rate * update);
    }
}

mmebm_status mmebm__cuda_adam(mmebm_device *device, const mmebm_adam_step *step)
{
    const cuda_scope scope(device);
    return mmebm__cuda_launch(device, "adam", adam_kernel, mmebm__cuda_blocks(step->count, CUDA_BLOCK), CUDA_BLOCK, 0,
                              *step);
}

/* ---- sums */

static __global__ void row_distance_kernel(int64_t rows, int64_t size, const float *a, const float *b, float *out)
{
    begin_kernel();
    for (int64_t r = blockIdx.x; r < rows; r += gridDim.x) {
        double total = 0.0;
        for (int64_t e = r * size + threadIdx.x; e < (r + 1) * size; e += blockDim.x) {
            const double difference = (double)a[e] - (b ? (double)b[e] : 0.0);
            total += difference * difference;
        }
        total = block_sum(total);
        if (threadIdx.x == 0) out[r] = (float)total;
    }
}

mmebm_status mmebm__cuda_row_distance(mmebm_device *device, int64_t rows, int64_t size, const float *a, const float *b,
                                      float *out)
{
    const cuda_scope scope(device);
    return mmebm__cuda_launch(device, "row_distance", row_distance_kernel, mmebm__cuda_blocks(rows, 1), CUDA_BLOCK, 0,
                              rows, size, a, b, out);
}

enum { SUM_DOT = 3 /* of two arrays; below it the powers of `reduce` */ };

static __device__ double sum_term(uint32_t power, const float *values, const float *others, int64_t i)
{
    const double value = values[i];
    return power == 1 ? value : power == 2 ? value * value : power == SUM_DOT ? value * others[i] : sqrt(value);
}

/* One partial sum a block, over terms that depend on the count alone. */
static __global__ void partial_sum_kernel(int64_t count, const float *values, const float *others, uint32_t power,
                                          double *partials)
{
    begin_kernel();
    double total = 0.0;
    FOR_EACH(i, count) total += sum_term(power, values, others, i);
    total = block_sum(total);
    if (threadIdx.x == 0) partials[blockIdx.x] = total;
}

static __global__ void total_kernel(int count, const double *partials, float scale, float *out, double *wide)
{
    begin_kernel();
    double total = 0.0;
    for (int i = (int)threadIdx.x; i < count; i += (int)blockDim.x) total += partials[i];
    total = block_sum(total);
    if (threadIdx.x) return;
    if (out) *out = (float)(scale * total);
    if (wide) *wide = total;
}

static int partial_blocks(int64_t count)
{
    const int most = CUDA_PARTIALS - 1; /* the last place holds a total */
    const int64_t wanted = (count + 16 * CUDA_BLOCK - 1) / (16 * CUDA_BLOCK);
    return (int)(wanted < most ? wanted : most);
}

/* Branches must not share them. */
static double *partials_of(const mmebm_device *device)
{
    return device->partials + device->branch * CUDA_PARTIALS;
}

/* To *out (scaled) or, if that is NULL, to the last place of the device's partial sums. */
static mmebm_status sum_all(mmebm_device *device, int64_t count, const float *values, const float *others,
                            uint32_t power, float scale, float *out)
{
    const int blocks = partial_blocks(count);
    CUDA_TRY(mmebm__cuda_launch(device, "reduce", partial_sum_kernel, blocks, CUDA_BLOCK, 0, count, values, others,
                                power, partials_of(device)));
    return mmebm__cuda_launch(device, "reduce", total_kernel, 1, CUDA_BLOCK, 0, blocks, partials_of(device), scale, out,
                              out ? NULL : partials_of(device) + CUDA_PARTIALS - 1);
}

mmebm_status mmebm__cuda_reduce(mmebm_device *device, int64_t count, const float *values, uint32_t power, float scale,
                                float *out)
{
    const cuda_scope scope(device);
    return sum_all(device, count, values, NULL, power, scale, out);
}

/* ---- spectral norm: v <- W'u / |W'u|, u <- W v / |W v|, sigma = |W v| */

/* v <- W' u */
static __global__ void transposed_product_kernel(mmebm_spectral spectral)
{
    begin_kernel();
    FOR_EACH(j, spectral.cols)
    {
        double total = 0.0;
        for (int64_t i = 0; i < spectral.rows; ++i)
            total += (double)spectral.u[i] * spectral.weight[i * spectral.cols + j];
        spectral.v[j] = (float)total;
    }
}

/* u <- W v, a block for each row */
static __global__ void product_kernel(mmebm_spectral spectral)
{
    begin_kernel();
    for (int64_t i = blockIdx.x; i < spectral.rows; i += gridDim.x) {
        double total = 0.0;
        for (int64_t j = threadIdx.x; j < spectral.cols; j += blockDim.x)
            total += (double)spectral.weight[i * spectral.cols + j] * spectral.v[j];
        total = block_sum(total);
        if (threadIdx.x == 0) spectral.u[i] = (float)total;
    }
}

/* vector <- vector / |vector| by one block; a zero vector stays zero. */
static __global__ void normalise_kernel(int64_t count, float *vector, float *norm_out)
{
    begin_kernel();
    double total = 0.0;
    for (int64_t i = threadIdx.x; i < count; i += blockDim.x) total += (double)vector[i] * vector[i];
    const double norm = fmax(sqrt(block_sum(total)), 1e-12);
    for (int64_t i = threadIdx.x; i < count; i += blockDim.x) vector[i] = (float)(vector[i] / norm);
    if (norm_out && threadIdx.x == 0) *norm_out = (float)norm;
}

static __global__ void divide_kernel(int64_t count, const float *weight, const float *sigma, float *normalised)
{
    begin_kernel();
    const double divisor = *sigma;
    FOR_EACH(i, count) normalised[i] = (float)(weight[i] / divisor);
}

mmebm_status mmebm__cuda_spectral_update(mmebm_device *device, const mmebm_spectral *spectral)
{
    const cuda_scope scope(device);
    const int64_t count = spectral->rows * spectral->cols;
    CUDA_TRY(mmebm__cuda_launch(device, "spectral_update", transposed_product_kernel,
                                mmebm__cuda_blocks(spectral->cols, 64), 64, 0, *spectral));
    CUDA_TRY(mmebm__cuda_launch(device, "spectral_update", normalise_kernel, 1, CUDA_BLOCK, 0, spectral->cols,
                                spectral->v, NULL));
    CUDA_TRY(mmebm__cuda_launch(device, "spectral_update", product_kernel, mmebm__cuda_blocks(spectral->rows, 1),
                                CUDA_BLOCK, 0, *spectral));
    CUDA_TRY(mmebm__cuda_launch(device, "spectral_update", normalise_kernel, 1, CUDA_BLOCK, 0, spectral->rows,
                                spectral->u, spectral->sigma));
    return mmebm__cuda_launch(device, "spectral_update", divide_kernel, mmebm__cuda_blocks(count, CUDA_BLOCK),
                              CUDA_BLOCK, 0, count, spectral->weight, spectral->sigma, spectral->normalised);
}

/* dL/dW = (G - <G, W/sigma> u v') / sigma */
static __global__ void spectral_gradient_kernel(mmebm_spectral spectral, const double *along)
{
    begin_kernel();
    const double sigma = *spectral.sigma;
    FOR_EACH(at, spectral.rows * spectral.cols)
    {
        const double outer = (double)spectral.u[at / spectral.cols] * spectral.v[at % spectral.cols];
        spectral.gradient[at] = (float)((spectral.gradient[at] - *along * outer) / sigma);
    }
}

mmebm_status mmebm__cuda_spectral_gradient(mmebm_device *device, const mmebm_spectral *spectral)
{
    const cuda_scope scope(device);
    const int64_t count = spectral->rows * spectral->cols;
    CUDA_TRY(sum_all(device, count, spectral->gradient, spectral->normalised, SUM_DOT, 1.0f, NULL));
    return mmebm__cuda_launch(device, "spectral_gradient", spectral_gradient_kernel,
                              mmebm__cuda_blocks(count, CUDA_BLOCK), CUDA_BLOCK, 0, *spectral,
                              partials_of(device) + CUDA_PARTIALS - 1);
}

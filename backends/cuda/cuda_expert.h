/* SPDX-License-Identifier: Apache-2.0
 *
 * The scales of one expert for one row, s_d from raw_d (ruling C1), worked out by a whole warp.
 */
#ifndef MMEBM_CUDA_EXPERT_H
#define MMEBM_CUDA_EXPERT_H

#include "cuda_sum.h"

struct expert_scales {
    const float *raw; /* of the row, `size` elements */
    uint32_t kind;    /* MMEBM_SCALE_* */
    int64_t size;
    double floor;
    double largest, total; /* softmax only: max raw, sum exp(raw - max) */
};

static __device__ __forceinline__ double sigmoid_of(double x)
{
    return x >= 0 ? 1.0 / (1.0 + exp(-x)) : exp(x) / (1.0 + exp(x));
}

/* Every lane of the warp must call it. */
static __device__ expert_scales open_scales(uint32_t kind, float floor, const float *raw, int64_t size)
{
    expert_scales scales = {raw, kind, size, floor, 0.0, 0.0};
    if (kind != MMEBM_SCALE_SOFTMAX) return scales;
    const int lane = (int)(threadIdx.x % 32);
    double largest = raw[0], total = 0.0;
    for (int64_t d = lane; d < size; d += 32) largest = fmax(largest, (double)raw[d]);
    for (int offset = 16; offset > 0; offset >>= 1)
        largest = fmax(largest, __shfl_xor_sync(0xffffffffu, largest, offset));
    for (int64_t d = lane; d < size; d += 32) total += exp(raw[d] - largest);
    scales.largest = largest;
    scales.total = warp_sum(total);
    return scales;
}

static __device__ __forceinline__ double scale_of(const expert_scales &scales, int64_t d)
{
    const double raw = scales.raw[d];
    if (scales.kind == MMEBM_SCALE_SOFTPLUS) return (raw > 0 ? raw + log1p(exp(-raw)) : log1p(exp(raw))) + scales.floor;
    if (scales.kind == MMEBM_SCALE_EXP_HALF) return exp(0.5 * raw) + scales.floor;
    return (double)scales.size * exp(raw - scales.largest) / scales.total + scales.floor;
}

#endif /* MMEBM_CUDA_EXPERT_H */

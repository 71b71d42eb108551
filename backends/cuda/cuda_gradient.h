/* SPDX-License-Identifier: Apache-2.0
 *
 * What the two kernels of weight gradients share (cuda_gradient.cu, cuda_gradient_tma.cu): sums of parts, and where
 * they go.
 */
#ifndef MMEBM_CUDA_GRADIENT_H
#define MMEBM_CUDA_GRADIENT_H

#include "cuda_async.h"
#include "cuda_tensor.h"

enum { MAX_PARTS = 128 /* summed at once */ };

/* Where sums of parts go: `first_count` numbers of one gradient, then those of another, the bias. */
struct part_target {
    float *first, *second;
    int64_t first_count, count;

    __device__ __forceinline__ void add(int64_t i, float scale, double sum) const
    {
        float *to = i < first_count ? first + i : second + (i - first_count);
        *to = (float)(*to + scale * sum);
    }
};

static inline part_target target_of(const cuda_weight_gradient *call, int32_t taps)
{
    const int64_t weights = (int64_t)call->small_channels * taps * call->large_channels;
    return {call->gradient, call->bias, weights, weights + (call->bias ? call->small_channels : 0)};
}

/* Whether a side's chunks lie at multiples of 16 bytes. Those of f32 may reach into what lies between pixels. */
static inline int lies_in_chunks(const cuda_tensor *side)
{
    const int32_t numbers = side->type == TYPE_BF16 ? CHUNK_CHANNELS : CHUNK_FLOATS;
    return side->stride % numbers == 0 && reinterpret_cast<uintptr_t>(side->data) % 16 == 0 &&
           (side->type == TYPE_F32 || side->channels % numbers == 0);
}

/* target += scale * (part 0 + part 1 + ...), in that order. */
mmebm_status mmebm__cuda_add_parts(const mmebm_device *device, const part_target *target, int parts,
                                   const float *partials, float scale);

/* By the copy engine (cuda_gradient_tma.cu), if that suits; *done says so. */
mmebm_status mmebm__cuda_gradient_tma(const mmebm_device *device, const cuda_weight_gradient *call, int *done);
/* Parts of it that so many rows of a layer make; 0 if its shape does not suit. */
int64_t mmebm__cuda_gradient_parts(const cuda_geometry *geometry, int64_t small_channels, int64_t large_channels,
                                   int64_t rows);

#endif /* MMEBM_CUDA_GRADIENT_H */

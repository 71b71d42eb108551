/* SPDX-License-Identifier: Apache-2.0
 *
 * Sums in a fixed order: the same threads add the same terms in every run.
 */
#ifndef MMEBM_CUDA_SUM_H
#define MMEBM_CUDA_SUM_H

#include "cuda_device.h"

static __device__ __forceinline__ double warp_sum(double value)
{
    for (int offset = 16; offset > 0; offset >>= 1) value += __shfl_xor_sync(0xffffffffu, value, offset);
    return value;
}

/* The sum over a block of at most 1024 threads, a multiple of 32; every thread gets it. */
static __device__ __forceinline__ double block_sum(double value)
{
    __shared__ double parts[32];
    value = warp_sum(value);
    __syncthreads(); /* parts of an earlier sum were read */
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
    __syncthreads();
    double total = 0.0;
    for (unsigned w = 0; w < blockDim.x / 32; ++w) total += parts[w];
    return total;
}

#endif /* MMEBM_CUDA_SUM_H */

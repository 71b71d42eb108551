/* SPDX-License-Identifier: Apache-2.0
 *
 * The plans of the CUDA backend as they stand: fusion, memory, weights, runs. What they call of the CUDA runtime is
 * done on host memory, and there is one stream.
 */
#include <cuda_runtime.h>
#include <string.h>

static cudaError_t host_memset(void *memory, int value, size_t bytes, cudaStream_t)
{
    memset(memory, value, bytes);
    return cudaSuccess;
}

static cudaError_t host_nothing(...)
{
    return cudaSuccess;
}

#define cudaMemsetAsync host_memset
#define cudaStreamSynchronize host_nothing
#define cudaEventRecord host_nothing
#define cudaStreamWaitEvent host_nothing

#include "../../backends/cuda/cuda_lanes.cu"
#include "../../backends/cuda/cuda_memory.cu"
#include "../../backends/cuda/cuda_plan.cu"
#include "../../backends/cuda/cuda_run.cu"
#include "../../backends/cuda/cuda_weights.cu"

/* SPDX-License-Identifier: Apache-2.0
 *
 * The plans of the CUDA backend as they stand: fusion, memory, weights, lanes, runs. What they call of the CUDA runtime
 * is done on host memory, in streams of ours.
 */
#include <cuda_runtime.h>
#include <string.h>

#include "host_streams.h"

static cudaError_t host_memset(void *memory, int value, size_t bytes, cudaStream_t stream)
{
    host_queue(stream, [=] { memset(memory, value, bytes); });
    return cudaSuccess;
}

static cudaError_t host_synchronize(cudaStream_t)
{
    host_drain();
    return cudaSuccess;
}

#define cudaMemsetAsync host_memset
#define cudaStreamSynchronize host_synchronize
#define cudaEventRecord host_record
#define cudaStreamWaitEvent host_wait

#include "../../backends/cuda/cuda_batch.cu"
#include "../../backends/cuda/cuda_lanes.cu"
#include "../../backends/cuda/cuda_memory.cu"
#include "../../backends/cuda/cuda_plan.cu"
#include "../../backends/cuda/cuda_run.cu"
#include "../../backends/cuda/cuda_weights.cu"

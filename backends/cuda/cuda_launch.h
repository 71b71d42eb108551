/* SPDX-License-Identifier: Apache-2.0
 *
 * Launching kernels. On sm_90 and newer a kernel is brought onto the chip while the one before it in the stream drains
 * (programmatic dependent launch): its launch costs no time of its own, and recorded sequences keep that. So every
 * kernel calls begin_kernel() before it touches device memory.
 */
#ifndef MMEBM_CUDA_LAUNCH_H
#define MMEBM_CUDA_LAUNCH_H

#include "cuda_device.h"

#ifdef __CUDACC__

/* Waits until the kernels before this one have written everything, then lets the next one in. */
static __device__ __forceinline__ void begin_kernel()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;\n" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;\n" ::: "memory");
#endif
}

template <typename... P, typename... A>
static mmebm_status mmebm__cuda_launch(const mmebm_device *device, const char *what, void (*kernel)(P...), dim3 grid,
                                       dim3 block, size_t shared, const A &...arguments)
{
    if (!grid.x || !grid.y || !grid.z) return MMEBM_OK; /* nothing to do */
    cudaLaunchAttribute early = {};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t launch = {};
    launch.gridDim = grid;
    launch.blockDim = block;
    launch.dynamicSmemBytes = shared;
    launch.stream = device->stream;
    launch.attrs = &early;
    launch.numAttrs = device->launches_early && !device->after_event ? 1 : 0;
    device->after_event = 0;
    return mmebm__cuda_check(device, cudaLaunchKernelEx(&launch, kernel, P(arguments)...), what);
}

#endif /* __CUDACC__ */

#endif /* MMEBM_CUDA_LAUNCH_H */

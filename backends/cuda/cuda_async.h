/* SPDX-License-Identifier: Apache-2.0
 *
 * The instructions of sm_80 and later that the tensor core kernels are made of, and the layout of their shared memory: a
 * tile has lines of 64 bf16 numbers = 8 chunks of 16 bytes; chunk c of line r lies at place c ^ (r % 8), so that eight
 * lines read at one chunk number meet 32 different banks.
 */
#ifndef MMEBM_CUDA_ASYNC_H
#define MMEBM_CUDA_ASYNC_H

#include "cuda_device.h"

enum { LINE_BYTES = 128, LINE_CHANNELS = 64, CHUNKS = 8, CHUNK_CHANNELS = 8 };

static __device__ __forceinline__ uint32_t shared_address(const void *pointer)
{
    return (uint32_t)__cvta_generic_to_shared(pointer);
}

static __device__ __forceinline__ uint32_t chunk_place(uint32_t line, uint32_t chunk)
{
    return line * LINE_BYTES + ((chunk ^ (line & 7u)) << 4);
}

/* 16 bytes to shared memory; zeros if !valid (then source is not read). */
static __device__ __forceinline__ void copy_async(uint32_t target, const void *source, bool valid)
{
    const int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(target), "l"(source), "r"(bytes) : "memory");
}

static __device__ __forceinline__ void commit_copies()
{
    asm volatile("cp.async.commit_group;\n" ::: "memory");
}

template <int PENDING> static __device__ __forceinline__ void wait_copies()
{
    asm volatile("cp.async.wait_group %0;\n" ::"n"(PENDING) : "memory");
}

static __device__ __forceinline__ void load_matrices(uint32_t (&m)[4], uint32_t address)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(address)
                 : "memory");
}

static __device__ __forceinline__ void load_transposed(uint32_t (&m)[4], uint32_t address)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(address)
                 : "memory");
}

/* c (16 x 8) += a (16 x 16) b (16 x 8) */
static __device__ __forceinline__ void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};\n"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#endif /* MMEBM_CUDA_ASYNC_H */

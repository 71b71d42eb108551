/* SPDX-License-Identifier: Apache-2.0
 *
 * The instructions of sm_80 and sm_90a that the tensor core kernels are made of, and the layout of their shared
 * memory: a tile has lines of 64 bf16 numbers = 8 chunks of 16 bytes; chunk c of line r lies at place c ^ (r % 8), so
 * that eight lines read at one chunk number meet 32 different banks.
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

/* ---- sm_90a: four warps at once, the right factor read from shared memory by the tensor cores */

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define CUDA_HAS_WARPGROUPS 1
#else
#define CUDA_HAS_WARPGROUPS 0
#endif

/* Makes copies that this thread waited for visible to the tensor cores; a barrier must follow. */
static __device__ __forceinline__ void publish_copies()
{
#if CUDA_HAS_WARPGROUPS
    asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
#endif
}

#if CUDA_HAS_WARPGROUPS

static __device__ __forceinline__ void warpgroup_fence()
{
    asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
}

static __device__ __forceinline__ void warpgroup_commit()
{
    asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
}

/* Until at most PENDING committed groups of products are under way. */
template <int PENDING> static __device__ __forceinline__ void warpgroup_wait()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(PENDING) : "memory");
}

/* A tile of lines as the right factor: 128-byte swizzle (which is chunk_place), 1024 bytes from one eight lines to the
 * next; `address` is a multiple of 1024, plus 32 for each 16 numbers along the lines. */
static __device__ __forceinline__ uint64_t tile_descriptor(uint32_t address)
{
    return (uint64_t)((address & 0x3ffffu) >> 4) | (uint64_t)1 << 16 | (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 62;
}

#define FOUR_SUMS(j) "+f"(c[j][0]), "+f"(c[j][1]), "+f"(c[j][2]), "+f"(c[j][3])
#define EIGHT_TILES(j)                                                                                                 \
    FOUR_SUMS(j), FOUR_SUMS(j + 1), FOUR_SUMS(j + 2), FOUR_SUMS(j + 3), FOUR_SUMS(j + 4), FOUR_SUMS(j + 5),            \
        FOUR_SUMS(j + 6), FOUR_SUMS(j + 7)
#define LEFT_AND_RIGHT "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(right)

/* c (64 x 8 TILES) += a (64 x 16) right (16 x 8 TILES); a thread holds of c and a what `multiply` gives its warp's 16
 * lines. */
static __device__ __forceinline__ void multiply_group(float (&c)[2][4], const uint32_t (&a)[4], uint64_t right)
{
    asm volatile("wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {"
                 "%0,%1,%2,%3,%4,%5,%6,%7"
                 "}, {%8,%9,%10,%11}, %12, 1, 1, 1, 0;\n"
                 : FOUR_SUMS(0), FOUR_SUMS(1)
                 : LEFT_AND_RIGHT);
}

static __device__ __forceinline__ void multiply_group(float (&c)[4][4], const uint32_t (&a)[4], uint64_t right)
{
    asm volatile("wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {"
                 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
                 "}, {%16,%17,%18,%19}, %20, 1, 1, 1, 0;\n"
                 : FOUR_SUMS(0), FOUR_SUMS(1), FOUR_SUMS(2), FOUR_SUMS(3)
                 : LEFT_AND_RIGHT);
}

static __device__ __forceinline__ void multiply_group(float (&c)[8][4], const uint32_t (&a)[4], uint64_t right)
{
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
                 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
                 "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
                 "}, {%32,%33,%34,%35}, %36, 1, 1, 1, 0;\n"
                 : EIGHT_TILES(0)
                 : LEFT_AND_RIGHT);
}

static __device__ __forceinline__ void multiply_group(float (&c)[10][4], const uint32_t (&a)[4], uint64_t right)
{
    asm volatile("wgmma.mma_async.sync.aligned.m64n80k16.f32.bf16.bf16 {"
                 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
                 "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
                 "%32,%33,%34,%35,%36,%37,%38,%39"
                 "}, {%40,%41,%42,%43}, %44, 1, 1, 1, 0;\n"
                 : EIGHT_TILES(0), FOUR_SUMS(8), FOUR_SUMS(9)
                 : LEFT_AND_RIGHT);
}

static __device__ __forceinline__ void multiply_group(float (&c)[16][4], const uint32_t (&a)[4], uint64_t right)
{
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
                 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
                 "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
                 "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"
                 "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
                 "}, {%64,%65,%66,%67}, %68, 1, 1, 1, 0;\n"
                 : EIGHT_TILES(0), EIGHT_TILES(8)
                 : LEFT_AND_RIGHT);
}

#undef FOUR_SUMS
#undef EIGHT_TILES
#undef LEFT_AND_RIGHT

#endif /* CUDA_HAS_WARPGROUPS */

#endif /* MMEBM_CUDA_ASYNC_H */

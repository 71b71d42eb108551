/* SPDX-License-Identifier: Apache-2.0
 *
 * The instructions of sm_80 and sm_90a that the tensor core kernels are made of, and the layout of their shared
 * memory: a tile has lines of 64 bf16 or 32 f32 numbers = 8 chunks of 16 bytes; chunk c of line r lies at place
 * c ^ (r % 8), so that eight lines read at one chunk number meet 32 different banks.
 */
#ifndef MMEBM_CUDA_ASYNC_H
#define MMEBM_CUDA_ASYNC_H

#include "cuda_device.h"

enum { LINE_BYTES = 128, LINE_CHANNELS = 64, LINE_FLOATS = 32, CHUNKS = 8, CHUNK_CHANNELS = 8, CHUNK_FLOATS = 4 };

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

/* 4 bytes; likewise. */
static __device__ __forceinline__ void copy_word_async(uint32_t target, const void *source, bool valid)
{
    const int bytes = valid ? 4 : 0;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;\n" ::"r"(target), "l"(source), "r"(bytes) : "memory");
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

/* The same of tf32: c (16 x 8) += a (16 x 8) b (8 x 8) */
static __device__ __forceinline__ void multiply_words_tf32(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                                           uint32_t a3, uint32_t b0, uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};\n"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

static __device__ __forceinline__ float load_shared(uint32_t address)
{
    float value;
    asm volatile("ld.shared.f32 %0, [%1];\n" : "=f"(value) : "r"(address) : "memory");
    return value;
}

static __device__ __forceinline__ float to_tf32(float value)
{
    uint32_t bits;
    asm("cvt.rna.tf32.f32 %0, %1;\n" : "=r"(bits) : "f"(value));
    return __uint_as_float(bits);
}

/* What tf32 leaves of a number, as tf32. */
static __device__ __forceinline__ float tf32_rest(float value, float high)
{
    return isinf(high) ? 0.0f : to_tf32(value - high);
}

/* ---- sm_90a: four warps at once, the right factor read from shared memory by the tensor cores */

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define CUDA_HAS_WARPGROUPS 1
#else
#define CUDA_HAS_WARPGROUPS 0
#endif

/* Barrier `id` of whole warps, `THREADS` in all: some wait there, others only arrive. */
template <int THREADS> static __device__ __forceinline__ void meet(int32_t id)
{
    asm volatile("bar.sync %0, %1;\n" ::"r"(id), "n"(THREADS) : "memory");
}

template <int THREADS> static __device__ __forceinline__ void arrive(int32_t id)
{
    asm volatile("bar.arrive %0, %1;\n" ::"r"(id), "n"(THREADS) : "memory");
}

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

/* A factor in shared memory; leading, stride: bytes. */
static __device__ __forceinline__ uint64_t factor_descriptor(uint32_t address, uint32_t leading, uint32_t stride,
                                                             uint32_t swizzle)
{
    return (uint64_t)((address & 0x3ffffu) >> 4) | (uint64_t)(leading >> 4) << 16 | (uint64_t)(stride >> 4) << 32 |
           (uint64_t)swizzle << 62;
}

enum { SWIZZLE_NONE = 0, SWIZZLE_128 = 1 /* which is chunk_place */ };

/* Lines as a factor that is wanted channel by channel: of the lines' 64 numbers one product takes all; `next` bytes on
 * begin the lines of the next 64. `address` is that of any line. */
static __device__ __forceinline__ uint64_t column_descriptor(uint32_t address, uint32_t next)
{
    return factor_descriptor(address, next, 1024, SWIZZLE_128);
}

/* A tile of lines as the right factor: 1024 bytes from one eight lines to the next; `address` is a multiple of 1024,
 * plus 32 for each 16 numbers along the lines. */
static __device__ __forceinline__ uint64_t tile_descriptor(uint32_t address)
{
    return factor_descriptor(address, 16, 1024, SWIZZLE_128);
}

/* 16 lines of eight numbers, all the same: however they are taken, they lie in 256 bytes from `address` on. */
static __device__ __forceinline__ uint64_t constant_descriptor(uint32_t address)
{
    return factor_descriptor(address, 128, 128, SWIZZLE_NONE);
}

#define FOUR_SUMS(j) "+f"(c[j][0]), "+f"(c[j][1]), "+f"(c[j][2]), "+f"(c[j][3])
#define EIGHT_TILES(j)                                                                                                 \
    FOUR_SUMS(j), FOUR_SUMS(j + 1), FOUR_SUMS(j + 2), FOUR_SUMS(j + 3), FOUR_SUMS(j + 4), FOUR_SUMS(j + 5),            \
        FOUR_SUMS(j + 6), FOUR_SUMS(j + 7)
#define SUMS_8 "%0,%1,%2,%3"
#define SUMS_16 "%0,%1,%2,%3,%4,%5,%6,%7"
#define SUMS_32 SUMS_16 ",%8,%9,%10,%11,%12,%13,%14,%15"
#define SUMS_64 SUMS_32 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define SUMS_80 SUMS_64 ",%32,%33,%34,%35,%36,%37,%38,%39"
#define SUMS_128                                                                                                       \
    SUMS_80 ",%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define SUMS_144 SUMS_128 ",%64,%65,%66,%67,%68,%69,%70,%71"
#define SUMS_192                                                                                                       \
    SUMS_144 ",%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83"                                                        \
             ",%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"

/* The products below of two factors in shared memory: 32 bytes along their lines. */
#define GROUP_LINES(NAME, SHAPE, ENDS, N, P0, P1, ...)                                                                 \
    static __device__ __forceinline__ void NAME(float (&c)[N / 8][4], uint64_t a, uint64_t right)                      \
    {                                                                                                                  \
        asm volatile("wgmma.mma_async.sync.aligned.m64n" #N SHAPE " {" SUMS_##N "}, %" #P0 ", %" #P1 ENDS ";\n"        \
                     : __VA_ARGS__                                                                                     \
                     : "l"(a), "l"(right));                                                                            \
    }

/* c (64 x N) += a (64 x 16) right (16 x N); a thread holds of c, and of a in registers, what `multiply` gives its
 * warp's 16 lines. tf32: numbers rounded to it, a (64 x 8), right (8 x N). P0 .. P4 are the numbers of the operands
 * after the sums. */
#define GROUP_PRODUCTS(N, P0, P1, P2, P3, P4, ...)                                                                     \
    static __device__ __forceinline__ void multiply_group(float (&c)[N / 8][4], const uint32_t (&a)[4],                \
                                                          uint64_t right)                                              \
    {                                                                                                                  \
        asm volatile("wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" SUMS_##N "}, {%" #P0 ",%" #P1        \
                     ",%" #P2 ",%" #P3 "}, %" #P4 ", 1, 1, 1, 0;\n"                                                    \
                     : __VA_ARGS__                                                                                     \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(right));                                        \
    }                                                                                                                  \
    GROUP_LINES(multiply_group, "k16.f32.bf16.bf16", ", 1, 1, 1, 0, 0", N, P0, P1, __VA_ARGS__)                        \
    GROUP_LINES(multiply_group_tf32, "k8.f32.tf32.tf32", ", 1, 1, 1", N, P0, P1, __VA_ARGS__)

GROUP_PRODUCTS(16, 8, 9, 10, 11, 12, FOUR_SUMS(0), FOUR_SUMS(1))
GROUP_PRODUCTS(32, 16, 17, 18, 19, 20, FOUR_SUMS(0), FOUR_SUMS(1), FOUR_SUMS(2), FOUR_SUMS(3))
GROUP_PRODUCTS(64, 32, 33, 34, 35, 36, EIGHT_TILES(0))
GROUP_PRODUCTS(80, 40, 41, 42, 43, 44, EIGHT_TILES(0), FOUR_SUMS(8), FOUR_SUMS(9))
GROUP_PRODUCTS(128, 64, 65, 66, 67, 68, EIGHT_TILES(0), EIGHT_TILES(8))
GROUP_LINES(multiply_group, "k16.f32.bf16.bf16", ", 1, 1, 1, 0, 0", 144, 72, 73, EIGHT_TILES(0), EIGHT_TILES(8),
            FOUR_SUMS(16), FOUR_SUMS(17))

/* c (64 x N) += a (16 x 64)' right (16 x N), both by column_descriptor */
GROUP_LINES(multiply_columns, "k16.f32.bf16.bf16", ", 1, 1, 1, 1, 1", 8, 4, 5, FOUR_SUMS(0))
GROUP_LINES(multiply_columns, "k16.f32.bf16.bf16", ", 1, 1, 1, 1, 1", 192, 96, 97, EIGHT_TILES(0), EIGHT_TILES(8),
            EIGHT_TILES(16))

/* ---- sm_90a: copies by the engine, which tell a barrier in shared memory how many bytes arrived. A barrier's phase
 * ends when `count` threads have arrived and all bytes that were announced are there. */

static __device__ __forceinline__ void barrier_open(uint32_t barrier, uint32_t count)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(barrier), "r"(count) : "memory");
}

/* After barrier_open, before a __syncthreads. */
static __device__ __forceinline__ void barriers_opened()
{
    asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
}

static __device__ __forceinline__ void barrier_arrive(uint32_t barrier)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(barrier) : "memory");
}

static __device__ __forceinline__ void barrier_announce(uint32_t barrier, uint32_t bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(barrier), "r"(bytes) : "memory");
}

/* Until the phase of that parity has ended; that of parity 1 counts as ended before the first. */
static __device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t parity)
{
    asm volatile("{\n"
                 ".reg .pred ended;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 ended, [%0], %1;\n"
                 "@ended bra done;\n"
                 "bra again;\n"
                 "done:\n"
                 "}\n" ::"r"(barrier),
                 "r"(parity)
                 : "memory");
}

/* A run of bytes: multiples of 16 at addresses of such. */
static __device__ __forceinline__ void copy_bulk(uint32_t target, const void *source, uint32_t bytes, uint32_t barrier)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];\n" ::"r"(
                     target),
                 "l"(source), "r"(bytes), "r"(barrier)
                 : "memory");
}

/* The lines that `map` gives from pixel (x, y) of a row on, from channel c on. */
static __device__ __forceinline__ void copy_pixels(uint32_t target, const void *map, int32_t c, int32_t x, int32_t y,
                                                   int32_t row, uint32_t barrier)
{
    const uint16_t none = 0;
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes [%0], [%1, "
                 "{%2, %3, %4, %5}], [%6], {%7, %7};\n" ::"r"(target),
                 "l"(map), "r"(c), "r"(x), "r"(y), "r"(row), "r"(barrier), "h"(none)
                 : "memory");
}

#undef FOUR_SUMS
#undef EIGHT_TILES
#undef SUMS_8
#undef SUMS_16
#undef SUMS_32
#undef SUMS_64
#undef SUMS_80
#undef SUMS_128
#undef SUMS_144
#undef SUMS_192
#undef GROUP_LINES
#undef GROUP_PRODUCTS

#endif /* CUDA_HAS_WARPGROUPS */

#endif /* MMEBM_CUDA_ASYNC_H */

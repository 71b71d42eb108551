/* SPDX-License-Identifier: Apache-2.0
 *
 * The processor's tile registers: eight of 16 rows of 64 bytes. The instructions, or with CPU_TILES_IN_C the same in
 * plain C, for tests on processors without them; elsewhere tiles are not offered. Names of tiles are numbers from 0 to
 * 7, written out.
 *
 *   TILES_BEGIN(), TILES_END()     around all others, in one thread
 *   TILE_ZERO(t)
 *   TILE_LOAD(t, from, stride)     16 rows of 64 bytes, `stride` bytes apart; TILE_STORE(t, to, stride) back
 *   TILE_MULTIPLY(c, a, b)         c[i][j] += sum_k a[i][2k] b[k][2j] + a[i][2k+1] b[k][2j+1], bf16 to f32
 */
#ifndef MMEBM_CPU_TILE_UNIT_H
#define MMEBM_CPU_TILE_UNIT_H

#include "cpu_simd.h"

enum { TILE_ROWS = 16, TILE_ROW_BYTES = 64, TILE_NUMBERS = 32 /* bf16, of a row */, TILE_BYTES = 1024 };

#if defined(__x86_64__) && defined(__linux__) && !defined(CPU_TILES_IN_C)

#include <sys/syscall.h>
#include <unistd.h>

#define TILE_CODE __attribute__((target("amx-tile,amx-bf16")))

/* Linux gives a process the tiles' state when it asks for it; asking again does no harm. */
static inline int cpu_tiles_offered(void)
{
    enum { REQUEST_STATE = 0x1023 /* ARCH_REQ_XCOMP_PERM */, TILE_DATA = 18 };
    return mmebm__dnnl_has_amx_bf16() && syscall(SYS_arch_prctl, REQUEST_STATE, TILE_DATA) == 0;
}

typedef struct tile_shapes {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_shapes;

TILE_CODE static inline void cpu_tiles_begin(void)
{
    tile_shapes all = {.palette = 1};
    for (int t = 0; t < 8; ++t) {
        all.row_bytes[t] = TILE_ROW_BYTES;
        all.rows[t] = TILE_ROWS;
    }
    __asm__ volatile("ldtilecfg %0" ::"m"(all));
}

#define TILES_BEGIN() cpu_tiles_begin()
#define TILES_END() __asm__ volatile("tilerelease" ::)
#define TILE_ZERO(t) __asm__ volatile("tilezero %%tmm" #t ::)
#define TILE_LOAD(t, from, stride)                                                                                     \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #t ::"r"(from), "r"((size_t)(stride)) : "memory")
#define TILE_STORE(t, to, stride)                                                                                      \
    __asm__ volatile("tilestored %%tmm" #t ", (%0,%1,1)" ::"r"(to), "r"((size_t)(stride)) : "memory")
#define TILE_MULTIPLY(c, a, b) __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c ::)

#else

#define TILE_CODE
static _Thread_local unsigned char cpu_tile[8][TILE_BYTES] __attribute__((aligned(TILE_ROW_BYTES)));

static inline int cpu_tiles_offered(void)
{
#if defined(CPU_TILES_IN_C)
    return 1;
#else
    return 0;
#endif
}

/* The first number of a pair is the lower half of its 32 bits. */
CPU_CLONES static void cpu_tile_multiply(float *c, const uint32_t *a, const uint32_t *b)
{
    for (int i = 0; i < TILE_ROWS; ++i, c += TILE_ROWS, a += TILE_ROWS) {
        float sums[TILE_ROWS];
        memcpy(sums, c, sizeof sums);
        for (int k = 0; k < TILE_ROWS; ++k) {
            const float first = cpu_from_bits(a[k] << 16), second = cpu_from_bits(a[k] & 0xffff0000u);
            for (int j = 0; j < TILE_ROWS; ++j) {
                const uint32_t pair = b[k * TILE_ROWS + j];
                sums[j] += first * cpu_from_bits(pair << 16);
                sums[j] += second * cpu_from_bits(pair & 0xffff0000u);
            }
        }
        memcpy(c, sums, sizeof sums);
    }
}

#define TILES_BEGIN() ((void)0)
#define TILES_END() ((void)0)
#define TILE_ZERO(t) memset(cpu_tile[t], 0, TILE_BYTES)
#define TILE_LOAD(t, from, stride)                                                                                     \
    for (size_t row_ = 0; row_ < TILE_ROWS; ++row_)                                                                    \
    memcpy(cpu_tile[t] + row_ * TILE_ROW_BYTES, (from) + row_ * (stride), TILE_ROW_BYTES)
#define TILE_STORE(t, to, stride)                                                                                      \
    for (size_t row_ = 0; row_ < TILE_ROWS; ++row_)                                                                    \
    memcpy((to) + row_ * (stride), cpu_tile[t] + row_ * TILE_ROW_BYTES, TILE_ROW_BYTES)
#define TILE_MULTIPLY(c, a, b)                                                                                         \
    cpu_tile_multiply((float *)(void *)cpu_tile[c], (const uint32_t *)(void *)cpu_tile[a],                             \
                      (const uint32_t *)(void *)cpu_tile[b])

#endif

#endif /* MMEBM_CPU_TILE_UNIT_H */

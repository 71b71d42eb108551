/* SPDX-License-Identifier: Apache-2.0
 *
 * Products with gathered pixels (cuda_tensor.h) of f32 numbers: a block makes BLOCK_M pixels by BLOCK_N channels, DEPTH
 * source numbers at a time, which stream through shared memory STAGES deep. The products are made in f32 by the
 * ordinary units, a thread 8 x 8 of them, or with factors rounded to tf32 by the tensor cores, a warp 32 x 64; sums
 * are f32 in the order tap, channel. Sources of channels in fours are copied 16 bytes at a time, others number by
 * number.
 */
#include "cuda_conv.h"
#include "cuda_launch.h"

enum {
    BLOCK_M = 128,
    BLOCK_N = F32_BLOCK_N,
    DEPTH = 16,
    STAGES = 3,
    TILE = 8,
    THREADS = BLOCK_M / TILE * (BLOCK_N / TILE),
    PITCH_A = DEPTH + 4,   /* pitches keep the tensor cores' reads off each other's banks */
    PITCH_B = BLOCK_N + 8,
    PITCH_SUMS = BLOCK_N + 4,
    STAGE_FLOATS = BLOCK_M * PITCH_A + DEPTH * PITCH_B,
    COLUMNS = DEPTH / 4,             /* 16-byte pieces of a line of the source */
    PIXELS = BLOCK_M * COLUMNS / THREADS /* whose pieces a thread copies */
};

struct f32_plan {
    cuda_product product;
    int32_t pixels, padded, wide;
    int32_t steps, chunks; /* in fours: a step is a tap and DEPTH channels; else DEPTH (tap, channel) pairs */
};

static __device__ __forceinline__ bool source_place(const cuda_geometry &g, int axis, int32_t at, int32_t tap,
                                                    int32_t *place)
{
    int32_t p = at * g.mul[axis] + g.offset[axis] + g.direction * tap;
    if (p < 0 || p % g.div[axis]) return false;
    p /= g.div[axis];
    *place = p;
    return p < g.in[axis];
}

/* The source pixel that a result pixel meets at a tap; NULL if none. */
static __device__ __forceinline__ const float *source_pixel(const cuda_product &product, const pixel_place &place,
                                                            int32_t tap)
{
    const cuda_geometry &g = product.geometry;
    int32_t y, x;
    if (!source_place(g, 0, place.y, tap / g.kernel[1], &y) || !source_place(g, 1, place.x, tap % g.kernel[1], &x))
        return NULL;
    return static_cast<const float *>(product.source.data) +
           pixel_at(product.source, place.row, y / product.shrink, x / product.shrink);
}

/* Asks for one step's source numbers [pixel][PITCH_A] and weights [number][PITCH_B]. */
template <bool FOURS>
static __device__ __forceinline__ void load_step(const f32_plan &plan, const pixel_place (&places)[PIXELS],
                                                 uint32_t stage, int32_t step, int32_t n0)
{
    const cuda_product &product = plan.product;
    const int32_t tid = (int32_t)threadIdx.x, channels = product.source.channels;
    const int32_t tap = step / plan.chunks, chunk = step % plan.chunks * DEPTH;
    const int32_t taps = product.geometry.kernel[0] * product.geometry.kernel[1];
    const float *weights = static_cast<const float *>(product.weights);
#pragma unroll
    for (int i = 0; i < PIXELS; ++i) {
        const int32_t m = tid / COLUMNS + i * (THREADS / COLUMNS), column = tid % COLUMNS * 4;
        const uint32_t target = stage + (uint32_t)(m * PITCH_A + column) * 4;
        if constexpr (FOURS) {
            const float *pixel = source_pixel(product, places[i], tap);
            const bool valid = pixel && chunk + column < channels;
            copy_async(target, valid ? pixel + chunk + column : weights, valid);
        } else {
            for (int k = 0; k < 4; ++k) {
                const int32_t number = step * DEPTH + column + k;
                const float *pixel =
                    number < taps * channels ? source_pixel(product, places[i], number / channels) : NULL;
                copy_word_async(target + 4 * k, pixel ? pixel + number % channels : weights, pixel);
            }
        }
    }
#pragma unroll
    for (int i = 0; i < DEPTH * BLOCK_N / 4 / THREADS; ++i) {
        const int32_t piece = tid + i * THREADS, k = piece / (BLOCK_N / 4), n = piece % (BLOCK_N / 4) * 4;
        const int32_t number = FOURS ? tap * channels + chunk + k : step * DEPTH + k;
        const bool valid = FOURS ? chunk + k < channels : number < taps * channels;
        copy_async(stage + (uint32_t)(BLOCK_M * PITCH_A + k * PITCH_B + n) * 4,
                   weights + (valid ? (int64_t)number * plan.padded + n0 + n : 0), valid);
    }
}

/* ---- ordinary units: a thread has pixels 8 (tid / 8) .. by channels 8 (tid % 8) .. */

static __device__ __forceinline__ void multiply_f32(const float *stage, float (&sums)[TILE][TILE])
{
    const float *a = stage + threadIdx.x / (BLOCK_N / TILE) * TILE * PITCH_A;
    const float *b = stage + BLOCK_M * PITCH_A + threadIdx.x % (BLOCK_N / TILE) * TILE;
#pragma unroll
    for (int k = 0; k < DEPTH; k += 4) {
        float4 left[TILE];
#pragma unroll
        for (int i = 0; i < TILE; ++i) left[i] = *reinterpret_cast<const float4 *>(a + i * PITCH_A + k);
#pragma unroll
        for (int d = 0; d < 4; ++d) {
            float right[TILE];
            *reinterpret_cast<float4 *>(right) = *reinterpret_cast<const float4 *>(b + (k + d) * PITCH_B);
            *reinterpret_cast<float4 *>(right + 4) = *reinterpret_cast<const float4 *>(b + (k + d) * PITCH_B + 4);
#pragma unroll
            for (int i = 0; i < TILE; ++i) {
                const float factor = d == 0 ? left[i].x : d == 1 ? left[i].y : d == 2 ? left[i].z : left[i].w;
#pragma unroll
                for (int j = 0; j < TILE; ++j) sums[i][j] = fmaf(factor, right[j], sums[i][j]);
            }
        }
    }
}

/* ---- tensor cores: warp w has pixels 32 w .. by all channels; sums [2 blocks of 16][8 blocks of 8] */

static __device__ __forceinline__ void multiply_tf32(const float *stage, float (&sums)[TILE][TILE])
{
    const int32_t lane = (int32_t)threadIdx.x % 32, warp = (int32_t)threadIdx.x / 32;
    const float *a = stage + (warp * 32 + lane / 4) * PITCH_A + lane % 4;
    const float *b = stage + BLOCK_M * PITCH_A + lane % 4 * PITCH_B + lane / 4;
#pragma unroll
    for (int k = 0; k < DEPTH; k += 8) {
        uint32_t left[2][4];
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
            for (int v = 0; v < 4; ++v)
                left[i][v] = __float_as_uint(to_tf32(a[(i * 16 + v % 2 * 8) * PITCH_A + k + v / 2 * 4]));
#pragma unroll
        for (int j = 0; j < BLOCK_N / 8; ++j) {
            const uint32_t low = __float_as_uint(to_tf32(b[k * PITCH_B + j * 8]));
            const uint32_t high = __float_as_uint(to_tf32(b[(k + 4) * PITCH_B + j * 8]));
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                float(&c)[TILE] = sums[j];
                asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                    "{%0,%1,%2,%3};\n"
                    : "+f"(c[i * 4]), "+f"(c[i * 4 + 1]), "+f"(c[i * 4 + 2]), "+f"(c[i * 4 + 3])
                    : "r"(left[i][0]), "r"(left[i][1]), "r"(left[i][2]), "r"(left[i][3]), "r"(low), "r"(high));
            }
        }
    }
}

/* From the warps' layout to the threads' 8 x 8, through shared memory. */
static __device__ __forceinline__ void turn(float *tile, float (&sums)[TILE][TILE])
{
    const int32_t lane = (int32_t)threadIdx.x % 32, warp = (int32_t)threadIdx.x / 32;
#pragma unroll
    for (int j = 0; j < TILE; ++j)
#pragma unroll
        for (int v = 0; v < TILE; ++v)
            tile[(warp * 32 + v / 4 * 16 + lane / 4 + v / 2 % 2 * 8) * PITCH_SUMS + j * 8 + lane % 4 * 2 + v % 2] =
                sums[j][v];
    __syncthreads();
    const int32_t line = (int32_t)threadIdx.x / (BLOCK_N / TILE) * TILE;
    const int32_t column = (int32_t)threadIdx.x % (BLOCK_N / TILE) * TILE;
    const float *from = tile + line * PITCH_SUMS + column;
#pragma unroll
    for (int i = 0; i < TILE; ++i)
#pragma unroll
        for (int j = 0; j < TILE; ++j) sums[i][j] = from[i * PITCH_SUMS + j];
}

/* Sums of windows of four consecutive pixels, if asked for, then the epilogue. */
static __device__ void finish_tile(const f32_plan &plan, int32_t m0, int32_t n0, float (&sums)[TILE][TILE])
{
    const cuda_product &product = plan.product;
    const bool windows = product.epilogue.window == 2;
    if (n0 >= product.out_channels) return;
#pragma unroll
    for (int i = 0; i < TILE; ++i) {
        if (windows && i % 4) continue;
        if (windows)
            for (int w = 1; w < 4; ++w)
#pragma unroll
                for (int j = 0; j < TILE; ++j) sums[i][j] += sums[(i & ~3) + w][j];
        const int32_t m = m0 + i, q = windows ? m / 4 : m;
        if (m >= plan.pixels) continue;
        const stored_pixel pixel = {q, residual_pixel(product, q)};
        if (plan.wide) {
            const lane_epilogue<float> epilogue(product, own_places(product.epilogue), n0, bias_in_memory(product));
            epilogue_reads<float> reads;
            epilogue.ask(pixel, &reads);
            epilogue.finish(q, sums[i], reads);
            continue;
        }
#pragma unroll
        for (int j = 0; j < TILE; ++j)
            if (n0 + j < product.out_channels)
                finish_number(product, own_places(product.epilogue), pixel, n0 + j, sums[i][j]);
    }
}

template <bool FOURS, bool TF32>
static __global__ void __launch_bounds__(THREADS) product_f32_kernel(const __grid_constant__ f32_plan plan)
{
    begin_kernel();
    __shared__ __align__(16) float stages[STAGES * STAGE_FLOATS];
    static_assert(STAGES * STAGE_FLOATS >= BLOCK_M * PITCH_SUMS, "the sums are turned in the same memory");
    const int32_t tid = (int32_t)threadIdx.x, m0 = (int32_t)blockIdx.x * BLOCK_M, n0 = (int32_t)blockIdx.y * BLOCK_N;
    const uint32_t base = shared_address(stages);
    pixel_place places[PIXELS];
    float sums[TILE][TILE] = {};
#pragma unroll
    for (int i = 0; i < PIXELS; ++i)
        places[i] = place_of(plan.product, min(m0 + tid / COLUMNS + i * (THREADS / COLUMNS), plan.pixels - 1));
    for (int32_t ahead = 0; ahead < STAGES - 1; ++ahead) {
        if (ahead < plan.steps) load_step<FOURS>(plan, places, base + (uint32_t)(ahead * STAGE_FLOATS) * 4, ahead, n0);
        commit_copies();
    }
    for (int32_t step = 0; step < plan.steps; ++step) {
        const int32_t next = step + STAGES - 1;
        wait_copies<STAGES - 2>();
        __syncthreads();
        if (next < plan.steps)
            load_step<FOURS>(plan, places, base + (uint32_t)(next % STAGES * STAGE_FLOATS) * 4, next, n0);
        commit_copies();
        const float *stage = stages + step % STAGES * STAGE_FLOATS;
        if constexpr (TF32)
            multiply_tf32(stage, sums);
        else
            multiply_f32(stage, sums);
    }
    if constexpr (TF32) {
        wait_copies<0>();
        __syncthreads();
        turn(stages, sums);
    }
    finish_tile(plan, m0 + tid / (BLOCK_N / TILE) * TILE, n0 + tid % (BLOCK_N / TILE) * TILE, sums);
}

mmebm_status mmebm__cuda_product_f32(const mmebm_device *device, const cuda_product *product)
{
    const int32_t taps = product->geometry.kernel[0] * product->geometry.kernel[1];
    const int32_t channels = product->source.channels;
    const int fours = channels % 4 == 0 && product->source.stride % 4 == 0 &&
                      reinterpret_cast<uintptr_t>(product->source.data) % 16 == 0;
    f32_plan plan;
    plan.product = *product;
    plan.pixels = (int32_t)(product->rows * product->geometry.out[0] * product->geometry.out[1]);
    plan.padded = padded_channels(product->factors, product->out_channels);
    plan.wide = epilogue_is_wide(product, TYPE_F32);
    plan.chunks = (channels + DEPTH - 1) / DEPTH;
    plan.steps = fours ? taps * plan.chunks : (taps * channels + DEPTH - 1) / DEPTH;
    const dim3 grid((unsigned)((plan.pixels + BLOCK_M - 1) / BLOCK_M), (unsigned)(plan.padded / BLOCK_N));
    static void (*const kernels[2][2])(f32_plan) = {{product_f32_kernel<false, false>, product_f32_kernel<false, true>},
                                                    {product_f32_kernel<true, false>, product_f32_kernel<true, true>}};
    const int tf32 = product->factors == FACTORS_ANY_TF32;
    return mmebm__cuda_launch(device, "convolution in f32", kernels[fours][tf32], grid, THREADS, 0, plan);
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * Products with gathered pixels (cuda_tensor.h) in f32: a block makes BLOCK_M pixels by BLOCK_N channels, DEPTH source
 * numbers at a time through shared memory; a thread makes 8 x 8 of them. Numbers are added in the order tap, channel.
 */
#include "cuda_epilogue.h"
#include "cuda_launch.h"

enum { BLOCK_M = 128, BLOCK_N = 64, DEPTH = 16, TILE = 8, THREADS = BLOCK_M / TILE * (BLOCK_N / TILE) };

struct f32_plan {
    cuda_product product;
    int32_t pixels, padded, wide;
};

static __host__ __device__ int32_t padded_channels(int32_t channels)
{
    return (channels + BLOCK_N - 1) / BLOCK_N * BLOCK_N;
}

static __device__ __forceinline__ bool source_place(const cuda_geometry &g, int axis, int32_t at, int32_t tap,
                                                    int32_t *place)
{
    int32_t p = at * g.mul[axis] + g.offset[axis] + g.direction * tap;
    if (p < 0 || p % g.div[axis]) return false;
    p /= g.div[axis];
    *place = p;
    return p < g.in[axis];
}

/* Source number k (tap, channel) that result pixel `place` meets. */
static __device__ __forceinline__ float source_value(const cuda_product &product, const pixel_place &place, int32_t k)
{
    const cuda_geometry &g = product.geometry;
    const int32_t tap = k / product.source.channels, channel = k % product.source.channels;
    int32_t y, x;
    if (!source_place(g, 0, place.y, tap / g.kernel[1], &y) || !source_place(g, 1, place.x, tap % g.kernel[1], &x))
        return 0.0f;
    return load_value(product.source,
                      pixel_at(product.source, place.row, y / product.shrink, x / product.shrink) + channel);
}

/* Sums of windows of four consecutive pixels, if asked for, then the epilogue. */
static __device__ void finish_tile(const f32_plan &plan, int32_t m0, int32_t n0, float (&sums)[TILE][TILE])
{
    const cuda_product &product = plan.product;
    const bool windows = product.epilogue.window == 2;
#pragma unroll
    for (int i = 0; i < TILE; ++i) {
        if (windows && i % 4) continue;
        if (windows)
            for (int w = 1; w < 4; ++w)
#pragma unroll
                for (int j = 0; j < TILE; ++j) sums[i][j] += sums[(i & ~3) + w][j];
        const int32_t m = m0 + i, q = windows ? m / 4 : m;
        if (m >= plan.pixels) continue;
        float bias[TILE];
        if (plan.wide && n0 < product.out_channels) {
            load_bias<LANES>(product, n0, bias);
            finish<LANES>(product, q, n0, sums[i], bias, NULL);
            continue;
        }
#pragma unroll
        for (int j = 0; j < TILE; ++j)
            if (n0 + j < product.out_channels) {
                load_bias<1>(product, n0 + j, &bias[j]);
                finish<1>(product, q, n0 + j, &sums[i][j], &bias[j], NULL);
            }
    }
}

static __global__ void __launch_bounds__(THREADS) product_f32_kernel(const __grid_constant__ f32_plan plan)
{
    begin_kernel();
    __shared__ __align__(16) float a[DEPTH][BLOCK_M + 4], b[DEPTH][BLOCK_N];
    __shared__ pixel_place places[BLOCK_M];
    const cuda_product &product = plan.product;
    const int32_t tid = (int32_t)threadIdx.x, m0 = (int32_t)blockIdx.x * BLOCK_M, n0 = (int32_t)blockIdx.y * BLOCK_N;
    const int32_t total = product.geometry.kernel[0] * product.geometry.kernel[1] * product.source.channels;
    const int32_t line = tid / (BLOCK_N / TILE) * TILE, column = tid % (BLOCK_N / TILE) * TILE;
    const float *weights = static_cast<const float *>(product.weights);
    float sums[TILE][TILE] = {};
    for (int32_t i = tid; i < BLOCK_M; i += THREADS)
        places[i] = place_of(product, m0 + i < plan.pixels ? m0 + i : plan.pixels - 1);
    __syncthreads();
    for (int32_t first = 0; first < total; first += DEPTH) {
        for (int32_t i = tid; i < BLOCK_M * DEPTH; i += THREADS) {
            const int32_t k = i % DEPTH, m = i / DEPTH;
            a[k][m] = first + k < total ? source_value(product, places[m], first + k) : 0.0f;
        }
        for (int32_t i = tid; i < BLOCK_N * DEPTH; i += THREADS) {
            const int32_t k = i / BLOCK_N, n = i % BLOCK_N;
            b[k][n] = first + k < total ? weights[(int64_t)(first + k) * plan.padded + n0 + n] : 0.0f;
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < DEPTH; ++k) {
            float left[TILE], right[TILE];
#pragma unroll
            for (int i = 0; i < TILE; ++i) {
                left[i] = a[k][line + i];
                right[i] = b[k][column + i];
            }
#pragma unroll
            for (int i = 0; i < TILE; ++i)
#pragma unroll
                for (int j = 0; j < TILE; ++j) sums[i][j] = fmaf(left[i], right[j], sums[i][j]);
        }
        __syncthreads();
    }
    finish_tile(plan, m0 + line, n0 + column, sums);
}

mmebm_status mmebm__cuda_product_f32(const mmebm_device *device, const cuda_product *product)
{
    f32_plan plan;
    plan.product = *product;
    plan.pixels = (int32_t)(product->rows * product->geometry.out[0] * product->geometry.out[1]);
    plan.padded = padded_channels(product->out_channels);
    plan.wide = epilogue_is_wide(product);
    const dim3 grid((unsigned)((plan.pixels + BLOCK_M - 1) / BLOCK_M), (unsigned)(plan.padded / BLOCK_N));
    return mmebm__cuda_launch(device, "convolution in f32", product_f32_kernel, grid, THREADS, 0, plan);
}

/* ---- weights */

size_t mmebm__cuda_packed_size_f32(int32_t taps, int32_t source_channels, int32_t out_channels)
{
    return (size_t)padded_channels(out_channels) * (size_t)taps * (size_t)source_channels * sizeof(float);
}

static __global__ void pack_f32_kernel(cuda_pack pack, int32_t padded, int64_t count)
{
    begin_kernel();
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += (int64_t)gridDim.x * blockDim.x) {
        const int32_t n = (int32_t)(i % padded), k = (int32_t)(i / padded);
        const int32_t c = k % pack.source_channels, tap = k / pack.source_channels;
        float value = 0.0f;
        if (n < pack.out_channels)
            value = pack.result_first ? pack.weights[((int64_t)n * pack.taps + tap) * pack.source_channels + c]
                                      : pack.weights[((int64_t)c * pack.taps + tap) * pack.out_channels + n];
        static_cast<float *>(pack.packed)[i] = value;
    }
}

mmebm_status mmebm__cuda_pack_f32(const mmebm_device *device, const cuda_pack *pack)
{
    const int32_t padded = padded_channels(pack->out_channels);
    const int64_t count = (int64_t)padded * pack->taps * pack->source_channels;
    return mmebm__cuda_launch(device, "packing of weights", pack_f32_kernel, mmebm__cuda_blocks(count, CUDA_BLOCK),
                              CUDA_BLOCK, 0, *pack, padded, count);
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * What the tensor core kernels share (cuda_conv*.cu): the plan of a product, the order of its sum,
 * where weights lie, and how a warp's sums become stored values.
 *   result[m, n] = sum over chunks of 64 (bf16) or 32 (f32) source channels, over taps, over channels:
 *                  source[pixel(m, tap), c] W[n, tap, c]
 * in this order whatever the number of rows, so that a row's bits do not depend on it; cuda_conv_narrow.cu has another,
 * for its shapes. Where numbers are two of tf32 each, a line of taps is summed on its own first; long sums over one tap
 * are cut into parts that are added in order.
 */
#ifndef MMEBM_CUDA_CONV_H
#define MMEBM_CUDA_CONV_H

#include "cuda_async.h"
#include "cuda_epilogue.h"

enum { PHASES = 4, PHASE_TAPS = 4, F32_BLOCK_N = 64 /* channels of a block in cuda_conv_f32.cu */ };

struct conv_plan {
    cuda_product product;
    int32_t pixels;       /* result pixels before windows, of all rows */
    int32_t padded;       /* result channels in the packed weights */
    int32_t chunks;       /* of source channels: lines of 128 bytes */
    int32_t groups;       /* chunks, of all of the source's phases */
    int32_t source_lines; /* of a source buffer: BM or those of a patch */
    int32_t source_buffers;
    int32_t wide;         /* stored by vectors */
    int32_t parts, part_chunks; /* parts of a long sum, each of so many chunks */
};

/* Products of 32 bytes along a chunk: `line` channels are four of them. */
static __device__ int32_t chunk_steps(int32_t channels, int32_t chunk, int32_t line = LINE_CHANNELS)
{
    const int32_t left = channels - chunk * line;
    return left >= line ? 4 : (4 * left + line - 1) / line;
}

/* A step of the sum: a chunk of source channels and a tap. A group is a chunk, of one of the source's phases if it is
 * cut into such; offset leads from a result pixel to the source pixel at tap (0, 0). */
struct conv_step {
    int32_t number, group, chunk, phase, tap, a, b;
    int32_t offset[2];
};

static __device__ __forceinline__ void enter_group(const conv_plan &plan, int32_t result_phase, conv_step *step)
{
    const cuda_geometry &g = plan.product.geometry;
    step->tap = step->a = step->b = 0;
    step->chunk = g.phases_in ? step->group % plan.chunks : step->group;
    step->phase = g.phases_in ? step->group / plan.chunks : result_phase;
    const int32_t py = step->phase >> 1, px = step->phase & 1;
    step->offset[0] = g.phases_in ? -py : g.phases_out ? py - 1 : g.offset[0];
    step->offset[1] = g.phases_in ? -px : g.phases_out ? px - 1 : g.offset[1];
}

static __device__ __forceinline__ void next_step(const conv_plan &plan, int32_t result_phase, conv_step *step)
{
    const cuda_geometry &g = plan.product.geometry;
    ++step->number;
    ++step->tap;
    if (++step->b < g.kernel[1]) return;
    step->b = 0;
    if (++step->a < g.kernel[0]) return;
    ++step->group;
    enter_group(plan, result_phase, step);
}

/* The slice of packed weights of a step, from result channel n0 on: lines whose chunks lie as in shared memory
 * (chunk_place). Weights in `parts` (FACTORS_SPLIT: high, low) have as many slices, one after another. */
static __device__ __forceinline__ const char *weight_slice(const conv_plan &plan, const void *weights,
                                                           int32_t result_phase, int32_t step, int32_t n0,
                                                           int32_t parts = 1, int32_t part = 0)
{
    const int64_t slice = (int64_t)(result_phase * plan.groups * PHASE_TAPS + step) * parts + part;
    return static_cast<const char *>(weights) + (slice * plan.padded + n0) * LINE_BYTES;
}

/* ---- from sums to stored values. A warp turns its sums around in a tile of shared memory, lines of tile_pitch<BN>()
 * floats, so that a thread gets LANES channels of a pixel. `pixel_of(r)` is the warp's stored pixel r: the lines
 * r << shift and, under a window, the three after it. */

template <int BN> static __host__ __device__ constexpr int tile_pitch()
{
    return BN + 4;
}

/* 16 pixels; `tile` begins at their first line. */
template <int NT>
static __device__ __forceinline__ void turn_sums(const float (&sums)[NT][4], float *tile, int32_t lane)
{
    constexpr int PITCH = tile_pitch<NT * 8>();
#pragma unroll
    for (int j = 0; j < NT; ++j) {
        float *place = tile + lane / 4 * PITCH + j * 8 + lane % 4 * 2;
        *reinterpret_cast<float2 *>(place) = make_float2(sums[j][0], sums[j][1]);
        *reinterpret_cast<float2 *>(place + 8 * PITCH) = make_float2(sums[j][2], sums[j][3]);
    }
}

/* What a thread has asked memory for, of ASKED pixels; q: where they are stored, -1 = nowhere. */
template <typename T, int ASKED> struct asked_pixels {
    epilogue_reads<T> reads[ASKED];
    int32_t q[ASKED];
};

/* Where lane_epilogue suits: a thread has LANES channels of every ROUND-th pixel of a tile and takes ASKED of them in a
 * step. It asks for what the epilogue reads for all of them before it finishes the first; a caller that can asks for
 * the next step's too, memory being far away. Its code should stand once in a kernel, and without what windows need
 * where there are none: more would not fit the instruction cache. */
template <typename T, int BN, int ASKED> struct wide_store {
    static constexpr int PITCH = tile_pitch<BN>(), NT = BN / LANES, ROUND = 32 / NT, STEP = ROUND * ASKED;
    static constexpr __host__ __device__ int steps(int pixels)
    {
        return (pixels + STEP - 1) / STEP;
    }

    int32_t vector, offset; /* of the thread: its channels, and its pixel among the first ROUND */
    bool works;
    lane_epilogue<T> epilogue;

    template <typename B>
    __device__ __forceinline__ wide_store(const cuda_product &product, const epilogue_places &places, int32_t lane,
                                          int32_t n0, B load_bias)
        : vector(lane % NT), offset(min(lane / NT, ROUND - 1)),
          works(lane < ROUND * NT && n0 + vector * LANES < product.out_channels),
          epilogue(product, places, works ? n0 + vector * LANES : n0, load_bias)
    {
    }

    /* pixel_of(r): the tile's stored pixel r, of `pixels`. */
    template <typename P>
    __device__ __forceinline__ void ask(int32_t step, int32_t pixels, P pixel_of, asked_pixels<T, ASKED> *asked) const
    {
#pragma unroll
        for (int u = 0; u < ASKED; ++u) {
            const int32_t r = step * STEP + offset + ROUND * u;
            asked->q[u] = -1;
            if (!works || r >= pixels) continue;
            const stored_pixel pixel = pixel_of(r);
            asked->q[u] = pixel.at;
            if (pixel.at >= 0) epilogue.ask(pixel, &asked->reads[u]);
        }
    }

    /* keep(r, vector, numbers) gets what was stored last for a vector of pixel r. */
    template <bool WINDOWS, typename K>
    __device__ __forceinline__ void finish(int32_t step, const float *tile, int32_t shift,
                                           const asked_pixels<T, ASKED> &asked, K keep) const
    {
#pragma unroll
        for (int u = 0; u < ASKED; ++u) {
            if (asked.q[u] < 0) continue;
            const int32_t r = step * STEP + offset + ROUND * u;
            const float4 *from = reinterpret_cast<const float4 *>(tile + (r << shift) * PITCH + vector * LANES);
            float4 low = from[0], high = from[1];
            for (int32_t w = 1; WINDOWS && w < 1 << shift; ++w) {
                const float4 a = from[w * (PITCH / 4)], b = from[w * (PITCH / 4) + 1];
                low.x += a.x, low.y += a.y, low.z += a.z, low.w += a.w;
                high.x += b.x, high.y += b.y, high.z += b.z, high.w += b.w;
            }
            float v[LANES] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
            epilogue.finish(asked.q[u], v, asked.reads[u]);
            keep(r, vector, v);
        }
    }
};

/* For finish: nobody keeps anything. */
static __device__ __forceinline__ auto keep_nothing()
{
    return [](int32_t, int32_t, const float *) {};
}

/* Anything else: a thread takes a channel of a pixel. */
template <int BN, typename P>
static __device__ __forceinline__ void store_narrow(const cuda_product &product, const epilogue_places &places,
                                                    const float *tile, int32_t lane, int32_t lines, int32_t n0,
                                                    P pixel_of)
{
    constexpr int PITCH = tile_pitch<BN>();
    const int32_t shift = product.epilogue.window == 2 ? 2 : 0;
    const uint32_t channels = (uint32_t)min((int32_t)BN, product.out_channels - n0);
    const uint32_t items = (uint32_t)(lines >> shift) * channels;
#pragma unroll 1
    for (uint32_t item = (uint32_t)lane; item < items; item += 32) {
        const int32_t r = (int32_t)(item / channels), n = (int32_t)(item % channels);
        const stored_pixel pixel = pixel_of(r);
        if (pixel.at < 0) continue;
        float v = 0.0f;
        for (int32_t w = 0; w < 1 << shift; ++w) v += tile[((r << shift) + w) * PITCH + n];
        finish_number(product, places, pixel, n0 + n, v);
    }
}

/* The place in memory of pixel (row, y, x) of the result, at the low resolution of phases. */
static __device__ __forceinline__ int32_t placed_pixel(const cuda_geometry &g, int32_t phase, int32_t row, int32_t y,
                                                       int32_t x)
{
    const int32_t line = row * g.out[0] + y;
    if (!g.phases_out) return line * g.out[1] + x;
    return (2 * line + (phase >> 1)) * 2 * g.out[1] + 2 * x + (phase & 1);
}

/* `count` equal products by way of the copy engine; *done = 0: it does not suit, nothing was done. Of f32 numbers the
 * shape alone decides that. Without rows it only says so. */
mmebm_status mmebm__cuda_products_tma(const mmebm_device *device, const conv_plan *plans, int32_t count, int *done);

/* Products of a succession (cuda_tensor.h), in the same way. */
mmebm_status mmebm__cuda_succession_tma(const mmebm_device *device, const conv_plan *plans, int32_t count, int *done);

/* Result channels of packed weights. */
static inline int32_t padded_channels(int32_t factors, int32_t channels)
{
    if (!has_lines(factors)) return (channels + F32_BLOCK_N - 1) / F32_BLOCK_N * F32_BLOCK_N;
    return channels <= 16   ? 16
           : channels <= 32 ? 32
           : channels <= 64 ? 64
           : channels <= 80 ? 80 /* the inputs of the preset's energy side by side */
                            : (channels + 127) / 128 * 128;
}

/* Source channels of a line of 128 bytes. */
static __host__ __device__ constexpr int32_t line_channels(int32_t factors)
{
    return factors == FACTORS_BF16 ? (int32_t)LINE_CHANNELS : (int32_t)LINE_FLOATS;
}

/* Slices that a step's weights have: high and low parts. */
static __host__ __device__ constexpr int32_t slices_of(int32_t factors)
{
    return factors == FACTORS_SPLIT ? 2 : 1;
}

static inline int32_t chunks_of(int32_t factors, int32_t channels)
{
    return (channels + line_channels(factors) - 1) / line_channels(factors);
}

/* FACTORS_ANY_*: f32 numbers in any shape. */
mmebm_status mmebm__cuda_product_f32(const mmebm_device *device, const cuda_product *product);

#endif /* MMEBM_CUDA_CONV_H */

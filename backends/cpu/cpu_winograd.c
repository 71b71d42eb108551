/* SPDX-License-Identifier: Apache-2.0
 *
 * See cpu_winograd.h. Transforms work on 16 channels of one tile at a time; where a count of channels is no multiple
 * of 16 the last 16 overlap those before. The points of interpolation are 0, +-sqrt(1/2), +-sqrt(2) and infinity: with
 * them no coefficient is above 3, where the usual 0, +-1, +-2 has 8, and errors are half as large. Blocks of tiles
 * keep transformed inputs and products in the L2 cache.
 */
#include "cpu_winograd.h"

#include <string.h>

#include "cpu_simd.h"

enum {
    TILE = 4,          /* results a side */
    SPAN = 6,          /* inputs a side */
    POINTS = SPAN * SPAN,
    LANES = 16,
    BLOCK_TILES = 49,  /* at most; 17 .. 65 are equally fast */
    OUTSIDE = -1
};

#define ROOT_HALF 0.70710678f
#define ROOT_TWO 1.41421356f

/* Sixteen channels; alignment of a float, as rows of channels have no other. */
typedef float lanes __attribute__((vector_size(LANES * sizeof(float)), aligned(sizeof(float))));

typedef int32_t lane_bits __attribute__((vector_size(LANES * sizeof(int32_t)), aligned(sizeof(int32_t))));

typedef struct tiling {
    int64_t down, across, count, block; /* of one map, of one map, of all rows, of one product */
} tiling;

static tiling tiling_of(const cpu_op_spec *conv)
{
    tiling t = {.down = (conv->in[0] + TILE - 1) / TILE, .across = (conv->in[1] + TILE - 1) / TILE};
    t.count = conv->rows * t.down * t.across;
    const int64_t blocks = (t.count + BLOCK_TILES - 1) / BLOCK_TILES;
    const int64_t block = (t.count + blocks - 1) / blocks, at_once = mmebm__dnnl_rows_at_once();
    /* odd, so that the 36 streams of a transform fall into different sets, if a product may have any number of rows */
    t.block = at_once == 1 ? block | 1 : (block + at_once - 1) / at_once * at_once;
    return t;
}

int mmebm__cpu_winograd_suits(const cpu_op_spec *conv)
{
    const int64_t in = conv->in_channels, out = conv->out_channels;
    if (conv->kind != CPU_CONV || conv->bf16 || conv->target_bf16) return 0;
    for (int i = 0; i < 2; ++i)
        if (conv->kernel[i] != 3 || conv->stride[i] != 1 || conv->padding[i] != 1) return 0;
    if (in < LANES || out < LANES) return 0;
    const tiling t = tiling_of(conv);
    /* multiplications, direct against here: below 2 the transforms eat what is gained */
    return 9 * conv->in[0] * conv->in[1] >= 2 * POINTS * t.down * t.across;
}

cpu_op_spec mmebm__cpu_winograd_product(const cpu_op_spec *conv, uint32_t flipped)
{
    const cpu_op_spec spec = {.kind = CPU_MATMUL,
                              .batch = POINTS,
                              .rows = tiling_of(conv).block,
                              .in_channels = conv->in_channels,
                              .out_channels = conv->out_channels,
                              .transposed = flipped};
    return spec;
}

static size_t input_floats(const cpu_op_spec *conv)
{
    return (size_t)(POINTS * tiling_of(conv).block * conv->in_channels);
}

static size_t weight_floats(const cpu_op_spec *conv)
{
    return (size_t)(POINTS * conv->in_channels * conv->out_channels);
}

size_t mmebm__cpu_winograd_scratch(const cpu_op_spec *conv)
{
    const tiling t = tiling_of(conv);
    const size_t products = (size_t)(POINTS * t.block * conv->out_channels), load = weight_floats(conv);
    const size_t run = input_floats(conv) + products + (size_t)conv->in_channels + 1;
    return (run > load ? run : load) * sizeof(float) + (size_t)(POINTS * t.down * t.across) * sizeof(int64_t);
}

/* First of the 16 channels that hold c. */
CPU_INLINE int64_t lane_start(int64_t c, int64_t channels)
{
    return c + LANES <= channels ? c : channels - LANES;
}

/* ---- weights: G w G' */

CPU_INLINE void weight_line(const lanes *w, int stride, lanes *u, int step)
{
    const lanes near = (-2.0f / 3.0f) * w[0] - (1.0f / 3.0f) * w[2 * stride];
    const lanes far = (1.0f / 6.0f) * w[0] + (1.0f / 3.0f) * w[2 * stride];
    const lanes near_odd = (2.0f / 3.0f * ROOT_HALF) * w[stride], far_odd = (1.0f / 6.0f * ROOT_TWO) * w[stride];
    u[0] = w[0];
    u[step] = near - near_odd;
    u[2 * step] = near + near_odd;
    u[3 * step] = far + far_odd;
    u[4 * step] = far - far_odd;
    u[5 * step] = w[2 * stride];
}

/* [first, 3, 3, second] -> [36, first, second]; turned: with both kernel axes reversed. */
CPU_CLONES static void transform_weights(int64_t first, int64_t second, uint32_t turned, const float *w, float *u)
{
    for (int64_t a = 0; a < first; ++a) {
        for (int64_t b0 = 0; b0 < second; b0 += LANES) {
            const int64_t b = lane_start(b0, second);
            lanes taps[9], half[SPAN * 3], whole[POINTS];
            for (int tap = 0; tap < 9; ++tap)
                taps[tap] = *(const lanes *)(w + (a * 9 + (turned ? 8 - tap : tap)) * second + b);
            for (int x = 0; x < 3; ++x) weight_line(taps + x, 3, half + x, 3);
            for (int y = 0; y < SPAN; ++y) weight_line(half + 3 * y, 1, whole + SPAN * y, 1);
            for (int p = 0; p < POINTS; ++p) *(lanes *)(u + (p * first + a) * second + b) = whole[p];
        }
    }
}

int mmebm__cpu_winograd_load(const cpu_op_spec *conv, const cpu_op *product, uint32_t flipped, uint32_t thread,
                             const float *plain, float *packed, float *scratch)
{
    if (flipped) { /* [36, layer's out, layer's in] is what the product wants */
        transform_weights(conv->in_channels, conv->out_channels, 1, plain, packed);
        return 0;
    }
    transform_weights(conv->out_channels, conv->in_channels, 0, plain, scratch);
    return mmebm__op_pack(product, thread, scratch, packed);
}

/* ---- inputs: B' x B */

CPU_INLINE void input_line(const lanes x[SPAN], lanes v[SPAN])
{
    const lanes near = x[4] - 2.0f * x[2], near_odd = ROOT_HALF * (x[3] - 2.0f * x[1]);
    const lanes far = x[4] - 0.5f * x[2], far_odd = ROOT_TWO * (x[3] - 0.5f * x[1]);
    v[0] = x[0] - 2.5f * x[2] + x[4];
    v[1] = near + near_odd;
    v[2] = near - near_odd;
    v[3] = far + far_odd;
    v[4] = far - far_odd;
    v[5] = x[1] - 2.5f * x[3] + x[5];
}

/* Where the 36 inputs of every tile of a map are, from the map's first float; OUTSIDE the map. */
static void find_pixels(const cpu_op_spec *conv, const tiling *t, int64_t *pixels)
{
    for (int64_t tile = 0; tile < t->down * t->across; ++tile)
        for (int64_t point = 0; point < POINTS; ++point) {
            const int64_t v = tile / t->across * TILE - 1 + point / SPAN;
            const int64_t u = tile % t->across * TILE - 1 + point % SPAN;
            const int inside = v >= 0 && v < conv->in[0] && u >= 0 && u < conv->in[1];
            *pixels++ = inside ? (v * conv->in[1] + u) * conv->in_channels : OUTSIDE;
        }
}

/* Tiles first .. first + block - 1 to v [36, block, in]. Past the last tile v keeps what it held: those products are
 * not read. */
CPU_CLONES static void transform_inputs(const cpu_op_spec *conv, const tiling *t, int64_t first, const float *source,
                                        const int64_t *places, const float *zeros, float *v)
{
    const int64_t channels = conv->in_channels, stride = t->block * channels, per_map = t->down * t->across;
    for (int64_t i = 0; i < t->block && first + i < t->count; ++i) {
        const float *map = source + (first + i) / per_map * conv->in[0] * conv->in[1] * channels, *pixels[POINTS];
        const int64_t *place = places + (first + i) % per_map * POINTS;
        for (int p = 0; p < POINTS; ++p) pixels[p] = place[p] == OUTSIDE ? zeros : map + place[p];
        for (int64_t c0 = 0; c0 < channels; c0 += LANES) {
            const int64_t c = lane_start(c0, channels);
            lanes half[SPAN][SPAN], line[SPAN];
            for (int x = 0; x < SPAN; ++x) {
                for (int y = 0; y < SPAN; ++y) line[y] = *(const lanes *)(pixels[y * SPAN + x] + c);
                input_line(line, half[x]);
            }
            float *to = v + i * channels + c;
            for (int y = 0; y < SPAN; ++y) {
                lanes row[SPAN];
                for (int x = 0; x < SPAN; ++x) row[x] = half[x][y];
                input_line(row, line);
                for (int x = 0; x < SPAN; ++x) *(lanes *)(to + (y * SPAN + x) * stride) = line[x];
            }
        }
    }
}

/* ---- results: A' m A */

CPU_INLINE void output_line(const lanes m[SPAN], lanes y[TILE])
{
    const lanes near = m[1] + m[2], near_odd = ROOT_HALF * (m[1] - m[2]);
    const lanes far = m[3] + m[4], far_odd = ROOT_TWO * (m[3] - m[4]);
    y[0] = m[0] + near + far;
    y[1] = near_odd + far_odd;
    y[2] = 0.5f * near + 2.0f * far;
    y[3] = 0.5f * near_odd + 2.0f * far_odd + m[5];
}

/* One result of 16 channels: + what is there, activation. `fresh` masks the lanes that no overlapping 16 wrote before.
 * */
CPU_INLINE void finish(const cpu_op_spec *conv, const lanes *result, const lane_bits *fresh, float *target)
{
    lanes value = *result;
    if (conv->add) {
        const lanes old = *(const lanes *)target;
        value = (lanes)((*fresh & (lane_bits)(value + old)) | (~*fresh & (lane_bits)old));
    }
    if (conv->activation) {
        const lane_bits below = value <= 0.0f;
        value = (lanes)((below & (lane_bits)(value * conv->slope)) | (~below & (lane_bits)value));
    }
    *(lanes *)target = value;
}

CPU_CLONES static void transform_outputs(const cpu_op_spec *conv, const tiling *t, int64_t first, const float *m,
                                         const float *bias, float *target)
{
    const int64_t channels = conv->out_channels, stride = t->block * channels, per_map = t->down * t->across;
    const int64_t height = conv->in[0], width = conv->in[1];
    for (int64_t i = 0; i < t->block && first + i < t->count; ++i) {
        const int64_t place = (first + i) % per_map, top = place / t->across * TILE, left = place % t->across * TILE;
        const int64_t rows = height - top < TILE ? height - top : TILE;
        const int64_t columns = width - left < TILE ? width - left : TILE;
        float *corner = target + (((first + i) / per_map * height + top) * width + left) * channels;
        for (int64_t c0 = 0; c0 < channels; c0 += LANES) {
            const int64_t c = lane_start(c0, channels);
            const float *from = m + i * channels + c;
            lanes half[SPAN][TILE], line[SPAN], result[TILE], shift = {0.0f};
            lane_bits fresh;
            for (int lane = 0; lane < LANES; ++lane) fresh[lane] = c + lane >= c0 ? -1 : 0;
            if (conv->bias) shift = *(const lanes *)(bias + c);
            for (int x = 0; x < SPAN; ++x) {
                for (int y = 0; y < SPAN; ++y) line[y] = *(const lanes *)(from + (y * SPAN + x) * stride);
                output_line(line, half[x]);
            }
            for (int64_t y = 0; y < rows; ++y) {
                for (int x = 0; x < SPAN; ++x) line[x] = half[x][y];
                output_line(line, result);
                for (int64_t x = 0; x < columns; ++x) {
                    result[x] += shift;
                    finish(conv, &result[x], &fresh, corner + (y * width + x) * channels + c);
                }
            }
        }
    }
}

int mmebm__cpu_winograd_run(const cpu_op_spec *conv, const cpu_op *product, uint32_t thread, const float *source,
                            float *packed, const float *bias, float *target, float *scratch, void *op_scratch)
{
    const tiling t = tiling_of(conv);
    float *v = scratch, *m = v + input_floats(conv);
    float *zeros = m + POINTS * t.block * conv->out_channels;
    int64_t *places = (int64_t *)(void *)(zeros + (conv->in_channels + 1) / 2 * 2);
    const cpu_op_buffers buffers = {v, packed, NULL, m, op_scratch};
    find_pixels(conv, &t, places);
    memset(zeros, 0, (size_t)conv->in_channels * sizeof *zeros);
    for (int64_t first = 0; first < t.count; first += t.block) {
        transform_inputs(conv, &t, first, source, places, zeros, v);
        const int error = mmebm__op_run(product, thread, &buffers);
        if (error) return error;
        transform_outputs(conv, &t, first, m, bias, target);
    }
    return 0;
}

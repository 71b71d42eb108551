/* SPDX-License-Identifier: Apache-2.0
 *
 * See cpu_narrow.h. The product's columns are (tap, channel), channel fastest. Four floats are read at every tap, so
 * the products are followed by four zeros.
 */
#include "cpu_narrow.h"

#include "cpu_simd.h"

enum { WIDEST = 4, SMALLEST_IN = 8, MOST_TAPS = 25 };

typedef float four __attribute__((vector_size(WIDEST * sizeof(float)), aligned(sizeof(float))));

static int64_t taps_of(const cpu_op_spec *conv)
{
    return conv->kernel[0] * conv->kernel[1];
}

int mmebm__cpu_narrow_suits(const cpu_op_spec *conv)
{
    return conv->kind == CPU_CONV && conv->stride[0] == 1 && conv->stride[1] == 1 && conv->out_channels <= WIDEST &&
           conv->in_channels >= SMALLEST_IN && taps_of(conv) > 1 && taps_of(conv) <= MOST_TAPS;
}

cpu_op_spec mmebm__cpu_narrow_product(const cpu_op_spec *conv)
{
    const cpu_op_spec spec = {.kind = CPU_LINEAR,
                              .bf16 = conv->bf16,
                              .rows = conv->in[0] * conv->in[1],
                              .in_channels = conv->in_channels,
                              .out_channels = taps_of(conv) * conv->out_channels};
    return spec;
}

size_t mmebm__cpu_narrow_scratch(const cpu_op_spec *conv)
{
    const size_t columns = (size_t)(taps_of(conv) * conv->out_channels);
    const size_t pixels = (size_t)(conv->in[0] * conv->in[1]), load = columns * (size_t)conv->in_channels;
    const size_t run = pixels * columns + WIDEST * (size_t)(conv->out[1] + 1);
    return (run > load ? run : load) * sizeof(float);
}

int mmebm__cpu_narrow_load(const cpu_op_spec *conv, const cpu_op *product, uint32_t flipped, uint32_t thread,
                           const float *plain, void *packed, float *scratch)
{
    const int64_t in = conv->in_channels, out = conv->out_channels, taps = taps_of(conv);
    for (int64_t tap = 0; tap < taps; ++tap)
        for (int64_t o = 0; o < out; ++o)
            for (int64_t i = 0; i < in; ++i)
                scratch[(tap * out + o) * in + i] =
                    flipped ? plain[(i * taps + taps - 1 - tap) * out + o] : plain[(o * taps + tap) * in + i];
    return mmebm__op_pack(product, thread, scratch, packed);
}

/* Sums of the taps of one line of results: tap by tap, so that no result asks where the map ends. */
CPU_INLINE void sum_line(const cpu_op_spec *conv, const float *products, const four *start, int64_t y, four *sums)
{
    const int64_t out = conv->out_channels, columns = taps_of(conv) * out, width = conv->in[1];
    for (int64_t x = 0; x < conv->out[1]; ++x) sums[x] = *start;
    for (int64_t v = 0; v < conv->kernel[0]; ++v) {
        const int64_t from_y = y + v - conv->padding[0];
        if (from_y < 0 || from_y >= conv->in[0]) continue;
        for (int64_t u = 0; u < conv->kernel[1]; ++u) {
            const int64_t shift = u - conv->padding[1];
            const int64_t first = shift < 0 ? -shift : 0;
            const int64_t end = conv->out[1] + shift > width ? width - shift : conv->out[1];
            const float *from = products + (from_y * width + shift) * columns + (v * conv->kernel[1] + u) * out;
            for (int64_t x = first; x < end; ++x) sums[x] += *(const four *)(from + x * columns);
        }
    }
}

CPU_INLINE float activated(const cpu_op_spec *conv, float value)
{
    return conv->activation && value <= 0.0f ? conv->slope * value : value;
}

CPU_INLINE void write_f32(const cpu_op_spec *conv, const four *sums, float *to)
{
    for (int64_t x = 0; x < conv->out[1]; ++x)
        for (int64_t o = 0; o < conv->out_channels; ++o, ++to)
            *to = activated(conv, conv->add ? *to + sums[x][o] : sums[x][o]);
}

CPU_INLINE void write_bf16(const cpu_op_spec *conv, const four *sums, uint16_t *to)
{
    for (int64_t x = 0; x < conv->out[1]; ++x)
        for (int64_t o = 0; o < conv->out_channels; ++o, ++to)
            *to = cpu_store_bf16(activated(conv, conv->add ? cpu_load_bf16(*to) + sums[x][o] : sums[x][o]));
}

/* One image; sums has room for a line of it. */
CPU_CLONES static void gather(const cpu_op_spec *conv, const float *products, const float *bias, four *sums,
                              void *target, int64_t first)
{
    const int64_t line = conv->out[1] * conv->out_channels;
    four start = {0.0f};
    for (int64_t o = 0; conv->bias && o < conv->out_channels; ++o) start[o] = bias[o];
    for (int64_t y = 0; y < conv->out[0]; ++y) {
        sum_line(conv, products, &start, y, sums);
        if (conv->target_bf16)
            write_bf16(conv, sums, (uint16_t *)target + first + y * line);
        else
            write_f32(conv, sums, (float *)target + first + y * line);
    }
}

int mmebm__cpu_narrow_run(const cpu_op_spec *conv, const cpu_op *product, uint32_t thread, const void *source,
                          void *packed, const float *bias, void *target, float *scratch, void *op_scratch)
{
    const int64_t pixels = conv->in[0] * conv->in[1], results = conv->out[0] * conv->out[1] * conv->out_channels;
    const size_t image = (size_t)(pixels * conv->in_channels) * mmebm__cpu_element_size(conv->bf16);
    float *zeros = scratch + pixels * taps_of(conv) * conv->out_channels;
    memset(zeros, 0, WIDEST * sizeof(float));
    for (int64_t r = 0; r < conv->rows; ++r) {
        const cpu_op_buffers buffers = {(const char *)source + (size_t)r * image, packed, NULL, scratch, op_scratch};
        const int error = mmebm__op_run(product, thread, &buffers);
        if (error) return error;
        gather(conv, scratch, bias, (four *)(zeros + WIDEST), target, r * results);
    }
    return 0;
}

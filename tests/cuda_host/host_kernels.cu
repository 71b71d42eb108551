/* SPDX-License-Identifier: Apache-2.0
 *
 * The kernels that plans call (cuda_tensor.h), in plain loops over host memory with sums in double. Weights are packed
 * as floats, [place][result channel][source channel], both channels padded to 16; places are taps, or four taps for
 * each of four phases.
 */
#include <math.h>
#include <string.h>
#include <vector>

#include "cuda_plan.h"
#include "host_streams.h"

extern "C" {
#include "ref_math.h"
}

/* ---- values */

static double value_at(const cuda_tensor &tensor, int64_t at)
{
    if (tensor.type == TYPE_F32) return static_cast<const float *>(tensor.data)[at];
    return __bfloat162float(static_cast<const __nv_bfloat16 *>(tensor.data)[at]);
}

static void store_at(const cuda_tensor &tensor, int64_t at, double value)
{
    if (tensor.type == TYPE_F32)
        static_cast<float *>(tensor.data)[at] = (float)value;
    else
        static_cast<__nv_bfloat16 *>(tensor.data)[at] = __float2bfloat16_rn((float)value);
}

static int64_t pixel_of(const cuda_tensor &tensor, int64_t row, int32_t y, int32_t x)
{
    if (tensor.period) row %= tensor.period;
    return ((row * tensor.height + y) * tensor.width + x) * tensor.stride;
}

/* What an operand gives for channel c of pixel (y, x), its scale included. */
static double operand_at(const cuda_operand &operand, int64_t row, int32_t y, int32_t x, int32_t c)
{
    const cuda_tensor &tensor = operand.tensor;
    double sum = 0.0;
    if (operand.scale == 0.0f || c >= tensor.channels) return 0.0;
    for (int32_t dy = 0; dy < operand.window; ++dy)
        for (int32_t dx = 0; dx < operand.window; ++dx) {
            const int32_t v = (y * operand.window + dy) / operand.shrink;
            const int32_t u = (x * operand.window + dx) / operand.shrink;
            sum += tensor.data ? value_at(tensor, pixel_of(tensor, row, v, u) + c) : 1.0;
        }
    return operand.scale * sum;
}

template <typename F> static void for_each(const cuda_tensor &shape, int64_t rows, F call)
{
    for (int64_t row = 0; row < rows; ++row)
        for (int32_t y = 0; y < shape.height; ++y)
            for (int32_t x = 0; x < shape.width; ++x)
                for (int32_t c = 0; c < shape.channels; ++c) call(row, y, x, c);
}

static void combine_now(const cuda_combine *call)
{
    for_each(call->out, call->rows, [&](int64_t row, int32_t y, int32_t x, int32_t c) {
        double v = operand_at(call->a, row, y, x, c);
        if (call->mask.data && !(value_at(call->mask, pixel_of(call->mask, row, y, x) + c) > 0.0)) v *= call->slope;
        store_at(call->out, pixel_of(call->out, row, y, x) + c, v + operand_at(call->b, row, y, x, c));
    });
}

static void add_shares_now(const cuda_shares *call)
{
    for (int64_t i = 0; i < call->numbers; ++i) {
        double sum = 0.0;
        for (int32_t k = 0; k < call->count; ++k) sum += (double)call->scales[k] * call->parts[k][i];
        call->out[i] = (float)sum;
    }
}

static void gather_now(const cuda_side_by_side *call)
{
    for_each(call->packed, call->rows, [&](int64_t row, int32_t y, int32_t x, int32_t channel) {
        int32_t k = 0, c = channel;
        for (; k < call->count && c >= call->parts[k].channels; ++k) c -= call->parts[k].channels;
        store_at(call->packed, pixel_of(call->packed, row, y, x) + channel,
                 k < call->count ? value_at(call->parts[k], pixel_of(call->parts[k], row, y, x) + c) : 0.0);
    });
}

static void split_now(const cuda_side_by_side *call)
{
    int32_t first = 0;
    for (int32_t k = 0; k < call->count; first += call->parts[k++].channels) {
        const cuda_tensor &part = call->parts[k];
        if (!part.data) continue;
        for_each(part, call->rows, [&](int64_t row, int32_t y, int32_t x, int32_t c) {
            store_at(part, pixel_of(part, row, y, x) + c,
                     value_at(call->packed, pixel_of(call->packed, row, y, x) + first + c));
        });
    }
}

/* ---- packed weights */

static int32_t padded(int32_t channels)
{
    return (channels + 15) / 16 * 16;
}

size_t mmebm__cuda_packed_size(int32_t, int32_t taps, int32_t source_channels, int32_t out_channels)
{
    return (size_t)taps * (size_t)padded(source_channels) * (size_t)padded(out_channels) * sizeof(float);
}

/* How often tap a of the kernel, along one axis, stands between the finer pixel 2 i + p (of the source under the kinds
 * whose phases go in, of the result under those whose phases go out) and the coarse one that phase tap b meets; i = 0
 * is as good as any. */
static int32_t meetings(int32_t phases, int32_t p, int32_t b, int32_t a)
{
    const int in = phases == CUDA_HALVED || phases == CUDA_DOUBLED_BACK || phases == CUDA_STRIDED;
    const int32_t coarse = in ? -p + b : p - 1 + b;
    const int32_t fine = in ? 2 * coarse + p : p, other = in ? 0 : coarse;
    switch (phases) {
    case CUDA_DOUBLED:
    case CUDA_DOUBLED_BACK: /* fine pixel f of the convolution reads pixel floor((f - 1 + a) / 2) */
        return (fine - 1 + a + 2) / 2 - 1 == other;
    case CUDA_HALVED:
    case CUDA_HALVED_BACK: /* coarse pixel q sums the fine 2 q and 2 q + 1, which read 2 q - 1 + a and 2 q + a */
        return (2 * other - 1 + a == fine) + (2 * other + a == fine);
    default: /* coarse pixel q reads 2 q - 1 + a */
        return 2 * other - 1 + a == fine;
    }
}

static double packed_weight(const cuda_pack &pack, int32_t place, int32_t n, int32_t c)
{
    const int32_t second = pack.result_first ? pack.source_channels : pack.out_channels;
    const int64_t high = pack.result_first ? n : c, low = pack.result_first ? c : n;
    const float *taps = pack.weights + high * pack.taps * second + low;
    if (pack.phases == CUDA_WHOLE) return taps[(int64_t)place * second];
    const int32_t width = pack.taps == 16 ? 4 : 3, phase = place / 4, tap = place % 4;
    double sum = 0.0;
    for (int32_t t = 0; t < pack.taps; ++t)
        sum += (double)meetings(pack.phases, phase / 2, tap / 2, t / width) *
               meetings(pack.phases, phase % 2, tap % 2, t % width) * taps[(int64_t)t * second];
    return sum;
}

static void pack_now(const cuda_pack *pack)
{
    const int64_t sources = padded(pack->all_source_channels), results = padded(pack->all_out_channels);
    for (int32_t place = 0; place < (pack->phases == CUDA_WHOLE ? pack->taps : 16); ++place)
        for (int32_t c = 0; c < pack->source_channels; ++c)
            for (int32_t n = 0; n < pack->out_channels; ++n)
                static_cast<float *>(pack->packed)[(place * results + pack->out_first + n) * sources +
                                                  pack->source_first + c] =
                    (float)packed_weight(*pack, place, n, c);
}

mmebm_status mmebm__cuda_pack(const mmebm_device *device, const cuda_pack *packs, int32_t count)
{
    for (int32_t k = 0; k < count; ++k) CUDA_TRY((queued<cuda_pack, pack_now>(device, &packs[k])));
    return MMEBM_OK;
}

/* ---- products */

/* Along one axis: the source's coordinate that result `at` meets at a tap, -1 = none. */
static int32_t met(const cuda_geometry &g, int axis, int32_t at, int32_t tap)
{
    const int32_t p = at * g.mul[axis] + g.offset[axis] + g.direction * tap;
    return p < 0 || p % g.div[axis] || p / g.div[axis] >= g.in[axis] ? -1 : p / g.div[axis];
}

static int32_t met_by_phase(const cuda_geometry &g, int axis, int32_t at, int32_t phase, int32_t tap)
{
    const int32_t p = g.phases_out ? at + phase - 1 + tap : at - phase + tap;
    return p < 0 || p >= g.in[axis] ? -1 : g.phases_out ? p : 2 * p + phase;
}

/* Sum over the source's channels at source pixel (v, u). */
static double add_channels(const cuda_product &product, int64_t row, int32_t v, int32_t u, int32_t place, int32_t n)
{
    const cuda_tensor &source = product.source;
    const int32_t height = product.geometry.in[0] * (product.geometry.phases_in ? 2 : 1) / product.shrink;
    const int32_t width = product.geometry.in[1] * (product.geometry.phases_in ? 2 : 1) / product.shrink;
    const int64_t sources = padded(source.channels), results = padded(product.out_channels);
    const float *weights = static_cast<const float *>(product.weights) + (place * results + n) * sources;
    double sum = 0.0;
    if (source.period) row %= source.period;
    const int64_t at = ((row * height + v / product.shrink) * width + u / product.shrink) * source.stride;
    if (source.type == TYPE_F32) {
        const float *values = static_cast<const float *>(source.data) + at;
        for (int32_t c = 0; c < source.channels; ++c) sum += (double)values[c] * weights[c];
    } else {
        for (int32_t c = 0; c < source.channels; ++c) sum += value_at(source, at + c) * weights[c];
    }
    return sum;
}

/* Result pixel (y, x) before windows; of phases_out at the fine resolution. */
static double sum_at(const cuda_product &product, int64_t row, int32_t y, int32_t x, int32_t n)
{
    const cuda_geometry &g = product.geometry;
    double sum = 0.0;
    if (!g.phases_in && !g.phases_out) {
        for (int32_t t = 0; t < g.kernel[0] * g.kernel[1]; ++t) {
            const int32_t v = met(g, 0, y, t / g.kernel[1]), u = met(g, 1, x, t % g.kernel[1]);
            if (v >= 0 && u >= 0) sum += add_channels(product, row, v, u, t, n);
        }
        return sum;
    }
    for (int32_t place = 0; place < 16; ++place) {
        const int32_t py = place / 8, px = place / 4 % 2;
        if (g.phases_out && (py != y % 2 || px != x % 2)) continue;
        const int32_t i = g.phases_out ? y / 2 : y, j = g.phases_out ? x / 2 : x;
        const int32_t v = met_by_phase(g, 0, i, py, place / 2 % 2), u = met_by_phase(g, 1, j, px, place % 2);
        if (v >= 0 && u >= 0) sum += add_channels(product, row, v, u, place, n);
    }
    return sum;
}

/* v is the sum; q the stored pixel among all, of which residual_at is the residual's. */
static void finish(const cuda_product &product, int64_t q, int64_t residual_at, int32_t n, double v)
{
    const cuda_epilogue &end = product.epilogue;
    v = end.source_scale * v + (end.bias ? end.bias[n] : 0.0);
    if (end.mask.data && !(value_at(end.mask, q * end.mask.stride + n) > 0.0)) v *= end.mask_slope;
    v *= end.scale;
    if (end.residual.scale != 0.0f)
        v += end.residual.scale * value_at(end.residual.tensor, residual_at * end.residual.tensor.stride + n);
    if (end.raw.data) store_at(end.raw, q * end.raw.stride + n, v);
    if (!end.activated.data) return;
    store_at(end.activated, q * end.activated.stride + n, v > 0.0 ? v : end.activated_slope * v);
}

/* The sums of parts, which kernels keep in `partials`, are of no use here, but what lies there does not survive. */
static void spoil_partials(const cuda_product *product)
{
    const cuda_geometry &g = product->geometry;
    const int32_t taps = g.kernel[0] * g.kernel[1];
    const int32_t parts = product_parts(taps, product->source.channels, product->epilogue.window);
    const int64_t numbers = product->rows * g.out[0] * g.out[1] * padded(product->out_channels);
    for (int64_t i = 0; parts > 1 && i < parts * numbers; ++i) product->partials[i] = NAN;
}

static void product_now(const cuda_product *product)
{
    spoil_partials(product);
    const cuda_geometry &g = product->geometry;
    const cuda_operand &residual = product->epilogue.residual;
    const int32_t window = product->epilogue.window, finer = g.phases_out ? 2 : 1;
    const int32_t height = g.out[0] * finer / window, width = g.out[1] * finer / window;
    for (int64_t row = 0; row < product->rows; ++row)
        for (int32_t y = 0; y < height; ++y)
            for (int32_t x = 0; x < width; ++x)
                for (int32_t n = 0; n < product->out_channels; ++n) {
                    const int64_t q = (row * height + y) * width + x;
                    const int64_t line = row * residual.tensor.height + y / residual.shrink;
                    const int64_t shrunk = line * residual.tensor.width + x / residual.shrink;
                    double v = 0.0;
                    for (int32_t w = 0; w < window * window; ++w)
                        v += sum_at(*product, row, y * window + w / window, x * window + w % window, n);
                    finish(*product, q, residual.shrink == 1 ? q : shrunk, n, v);
                }
}

size_t mmebm__cuda_product_scratch(int32_t, int32_t taps, int32_t source_channels, int32_t out_channels, int64_t pixels)
{
    const int32_t parts = product_parts(taps, source_channels, 1);
    return parts == 1 ? 0 : (size_t)parts * (size_t)pixels * (size_t)padded(out_channels);
}

int mmebm__cuda_phases_fit(int32_t height, int32_t width)
{
    return width <= 32 && height > 0;
}

/* As on sm_90a: same-size 3 x 3 convolutions, single taps, phases. */
int mmebm__cuda_engine_suits(const mmebm_device *, int32_t, const cuda_geometry *g, int32_t source_channels, int32_t)
{
    return source_channels % 4 == 0 && taps_are_near(g);
}

/* ---- gradients by weights */

/* The channels of pixel (y, x) of a side that is read as height x width pixels. */
static void read_side(const cuda_tensor &side, int32_t shrink, int64_t row, int32_t height, int32_t width, int32_t y,
                      int32_t x, std::vector<double> *channels)
{
    if (side.period) row %= side.period;
    const int64_t at = ((row * (height / shrink) + y / shrink) * (width / shrink) + x / shrink) * side.stride;
    for (size_t c = 0; c < channels->size(); ++c) (*channels)[c] = value_at(side, at + (int64_t)c);
}

static void weight_gradient_now(const cuda_weight_gradient *call)
{
    const cuda_geometry &g = call->geometry;
    const int32_t taps = g.kernel[0] * g.kernel[1], area = g.out[0] * g.out[1];
    const size_t smalls = (size_t)call->small_channels, larges = (size_t)call->large_channels;
    std::vector<double> small(smalls), large(larges), sums(smalls * taps * larges), bias(smalls);
    for (int64_t at = 0; at < call->rows * area; ++at) {
        const int32_t y = (int32_t)(at % area / g.out[1]), x = (int32_t)(at % area % g.out[1]);
        read_side(call->small_side, call->small_shrink, at / area, g.out[0], g.out[1], y, x, &small);
        for (size_t s = 0; s < smalls; ++s) bias[s] += small[s];
        for (int32_t t = 0; t < taps; ++t) {
            const int32_t v = met(g, 0, y, t / g.kernel[1]), u = met(g, 1, x, t % g.kernel[1]);
            if (v < 0 || u < 0) continue;
            read_side(call->large_side, call->large_shrink, at / area, g.in[0], g.in[1], v, u, &large);
            for (size_t s = 0; s < smalls; ++s)
                for (size_t l = 0; l < larges; ++l) sums[(s * taps + t) * larges + l] += small[s] * large[l];
        }
    }
    for (size_t i = 0; i < sums.size(); ++i) call->gradient[i] += (float)(call->scale * sums[i]);
    for (size_t s = 0; call->bias && s < smalls; ++s) call->bias[s] += (float)(call->scale * bias[s]);
}

struct bias_gradient {
    cuda_operand gradient;
    int64_t rows;
    float *bias;
};

static void bias_gradient_now(const bias_gradient *call)
{
    const cuda_tensor &tensor = call->gradient.tensor;
    const double scale = (double)call->gradient.scale * call->gradient.shrink * call->gradient.shrink;
    for (int32_t c = 0; c < tensor.channels; ++c) {
        double sum = 0.0;
        for (int64_t pixel = 0; pixel < call->rows * tensor.height * tensor.width; ++pixel)
            sum += value_at(tensor, pixel * tensor.stride + c);
        call->bias[c] += (float)(scale * sum);
    }
}

mmebm_status mmebm__cuda_bias_gradient(const mmebm_device *device, const cuda_operand *gradient, int64_t rows,
                                       float *bias, float *)
{
    const bias_gradient call = {*gradient, rows, bias};
    return queued<bias_gradient, bias_gradient_now>(device, &call);
}

size_t mmebm__cuda_gradient_scratch(const cuda_geometry *, int64_t, int64_t, int64_t)
{
    return 0;
}

size_t mmebm__cuda_bias_scratch(int64_t)
{
    return 0;
}

/* ---- layers without weights */

static void elementwise_forward(const cuda_layer_call *call)
{
    const mmebm_layer *layer = call->layer;
    for_each(call->y, call->rows, [&](int64_t row, int32_t y, int32_t x, int32_t c) {
        double slope, v = operand_at(call->x, row, y, x, c);
        if (layer->kind == MMEBM_LAYER_ACTIVATION)
            v = mmebm__ref_activation(layer->activation, layer->parameter, v, &slope);
        else
            v = call->gain[c] * (v - call->mean[c]) / sqrt(call->variance[c] + (double)layer->epsilon) + call->shift[c];
        store_at(call->y, pixel_of(call->y, row, y, x) + c, v);
    });
}

static void activation_backward(const cuda_layer_call *call)
{
    for_each(call->by_x, call->rows, [&](int64_t row, int32_t y, int32_t x, int32_t c) {
        double slope;
        const double value = operand_at(call->x, row, y, x, c);
        mmebm__ref_activation(call->layer->activation, call->layer->parameter, value, &slope);
        store_at(call->by_x, pixel_of(call->by_x, row, y, x) + c, slope * operand_at(call->by_y, row, y, x, c));
    });
}

static void batch_norm_backward(const cuda_layer_call *call)
{
    const int32_t area = call->y.height * call->y.width;
    for (int32_t c = 0; c < call->y.channels; ++c) {
        const double scale = 1.0 / sqrt(call->variance[c] + (double)call->layer->epsilon);
        double sums[4] = {};
        for (int64_t at = 0; at < call->rows * area; ++at) {
            const int64_t row = at / area;
            const int32_t y = (int32_t)(at % area) / call->y.width, x = (int32_t)(at % area) % call->y.width;
            const double value = operand_at(call->x, row, y, x, c), from = value - call->mean[c];
            const double by_y = operand_at(call->by_y, row, y, x, c);
            if (call->by_x.data)
                store_at(call->by_x, pixel_of(call->by_x, row, y, x) + c, call->gain[c] * scale * by_y);
            sums[0] += from * scale * by_y;
            sums[1] += by_y;
            sums[2] += value / area;
            sums[3] += from * from / area;
        }
        for (int k = 0; call->by_weights[0] && k < 4; ++k) call->by_weights[k][c] += (float)sums[k];
    }
}

/* Forward, or backward where by_y is given. */
static void softmax(const cuda_layer_call *call, int backward)
{
    const cuda_tensor &out = backward ? call->by_x : call->y;
    cuda_tensor pixels = out;
    pixels.channels = 1;
    for_each(pixels, call->rows, [&](int64_t row, int32_t y, int32_t x, int32_t) {
        double largest = -INFINITY, total = 0.0, mean = 0.0;
        const auto from = [&](int32_t c) { return operand_at(call->x, row, y, x, c); };
        for (int32_t c = 0; c < out.channels; ++c) largest = fmax(largest, from(c));
        for (int32_t c = 0; c < out.channels; ++c) total += exp(from(c) - largest);
        for (int32_t c = 0; backward && c < out.channels; ++c)
            mean += exp(from(c) - largest) / total * operand_at(call->by_y, row, y, x, c);
        for (int32_t c = 0; c < out.channels; ++c) {
            const double p = exp(from(c) - largest) / total;
            store_at(out, pixel_of(out, row, y, x) + c,
                     backward ? p * (operand_at(call->by_y, row, y, x, c) - mean) : p);
        }
    });
}

static void softmax_forward(const cuda_layer_call *call)
{
    softmax(call, 0);
}

static void softmax_backward(const cuda_layer_call *call)
{
    softmax(call, 1);
}

static void pool_forward(const cuda_layer_call *call)
{
    const mmebm_layer *layer = call->layer;
    const cuda_tensor &x = call->x.tensor;
    const int64_t window = layer->kernel[0] * layer->kernel[1];
    for_each(call->y, call->rows, [&](int64_t row, int32_t i, int32_t j, int32_t c) {
        double sum = 0.0;
        for (int64_t t = 0; t < window; ++t) {
            const int64_t v = i * layer->stride[0] - layer->padding[0] + t / layer->kernel[1];
            const int64_t u = j * layer->stride[1] - layer->padding[1] + t % layer->kernel[1];
            if (v >= 0 && v < x.height * call->x.shrink && u >= 0 && u < x.width * call->x.shrink)
                sum += operand_at(call->x, row, (int32_t)v, (int32_t)u, c);
        }
        store_at(call->y, pixel_of(call->y, row, i, j) + c, sum / (double)window);
    });
}

static void pool_backward(const cuda_layer_call *call)
{
    const mmebm_layer *layer = call->layer;
    const int64_t window = layer->kernel[0] * layer->kernel[1];
    for_each(call->by_x, call->rows, [&](int64_t row, int32_t v, int32_t u, int32_t c) {
        double sum = 0.0;
        for (int64_t i = 0; i < layer->shape[0]; ++i)
            for (int64_t j = 0; j < layer->shape[1]; ++j) {
                const int64_t a = v - i * layer->stride[0] + layer->padding[0];
                const int64_t b = u - j * layer->stride[1] + layer->padding[1];
                if (a >= 0 && a < layer->kernel[0] && b >= 0 && b < layer->kernel[1])
                    sum += operand_at(call->by_y, row, (int32_t)i, (int32_t)j, c);
            }
        store_at(call->by_x, pixel_of(call->by_x, row, v, u) + c, sum / (double)window);
    });
}

static void global_pool_forward(const cuda_layer_call *call)
{
    const int32_t height = call->x.tensor.height * call->x.shrink, width = call->x.tensor.width * call->x.shrink;
    for_each(call->y, call->rows, [&](int64_t row, int32_t, int32_t, int32_t c) {
        double sum = 0.0;
        for (int32_t p = 0; p < height * width; ++p) sum += operand_at(call->x, row, p / width, p % width, c);
        store_at(call->y, pixel_of(call->y, row, 0, 0) + c, sum / (height * width));
    });
}

/* PRIOR is the NLL of z with mean 0. Forward writes y, backward the gradients. */
static void loss(const cuda_layer_call *call, int backward)
{
    const int prior = call->layer->kind == MMEBM_LAYER_PRIOR;
    const cuda_operand none = {}, &mean = prior ? none : call->x, &target = prior ? call->x : call->target;
    const cuda_tensor &by_mean = prior ? none.tensor : call->by_x, &by_target = prior ? call->by_x : call->by_target;
    for (int64_t row = 0; row < call->rows; ++row) {
        double total = 0.0;
        for_each(call->x.tensor, 1, [&](int64_t, int32_t y, int32_t x, int32_t c) {
            double mean_slope, target_slope;
            total += mmebm__ref_likelihood(call->layer->likelihood, call->layer->scale,
                                           prior ? 1.0 : call->layer->loss_factor, operand_at(mean, row, y, x, c),
                                           operand_at(target, row, y, x, c), &mean_slope, &target_slope);
            if (!backward) return;
            const double by_loss = operand_at(call->by_y, row, 0, 0, 0);
            if (by_mean.data) store_at(by_mean, pixel_of(by_mean, row, y, x) + c, by_loss * mean_slope);
            if (by_target.data) store_at(by_target, pixel_of(by_target, row, y, x) + c, by_loss * target_slope);
        });
        if (!backward) store_at(call->y, row * call->y.stride, total);
    }
}

static void loss_forward(const cuda_layer_call *call)
{
    loss(call, 0);
}

static void loss_backward(const cuda_layer_call *call)
{
    loss(call, 1);
}

/* ---- calls made together */

/* What a call reads and, of that, what it writes. */
struct touched_memory {
    const void *all[16], *written[8];
    int32_t count, writes;

    void reads(const void *memory)
    {
        if (memory) all[count++] = memory;
    }

    void stores(const void *memory)
    {
        reads(memory);
        if (memory) written[writes++] = memory;
    }
};

static touched_memory memory_touched_by(const cuda_product &call)
{
    touched_memory touched = {};
    touched.reads(call.source.data);
    touched.reads(call.epilogue.mask.data);
    if (call.epilogue.residual.scale != 0.0f) touched.reads(call.epilogue.residual.tensor.data);
    touched.stores(call.epilogue.raw.data);
    touched.stores(call.epilogue.activated.data);
    const int32_t taps = call.geometry.kernel[0] * call.geometry.kernel[1];
    if (product_parts(taps, call.source.channels, call.epilogue.window) > 1) touched.stores(call.partials);
    return touched;
}

static touched_memory memory_touched_by(const cuda_combine &call)
{
    touched_memory touched = {};
    for (const cuda_operand *operand : {&call.a, &call.b})
        if (operand->scale != 0.0f) touched.reads(operand->tensor.data);
    touched.reads(call.mask.data);
    touched.stores(call.out.data);
    return touched;
}

static touched_memory memory_touched_by(const cuda_layer_call &call)
{
    touched_memory touched = {};
    for (const cuda_operand *operand : {&call.x, &call.target, &call.by_y}) touched.reads(operand->tensor.data);
    for (const cuda_tensor *tensor : {&call.y, &call.by_x, &call.by_target}) touched.stores(tensor->data);
    return touched;
}

/* Whether one reads or writes what the other writes. */
static bool meet_in_memory(const touched_memory &a, const touched_memory &b)
{
    for (int32_t i = 0; i < a.count; ++i)
        for (int32_t k = 0; k < b.writes; ++k)
            if (a.all[i] == b.written[k]) return true;
    return false;
}

/* The last one first. */
template <typename C, void (*NOW)(const C *)>
static mmebm_status together(const mmebm_device *device, const C *calls, int32_t count)
{
    for (int32_t a = 0; a < count; ++a)
        for (int32_t b = 0; b < count; ++b)
            if (a != b && meet_in_memory(memory_touched_by(calls[a]), memory_touched_by(calls[b])))
                return device->host.fail(device->host.owner, MMEBM_E_DEVICE,
                                         "cudahost: of calls made together two meet in memory");
    for (int32_t k = count; k-- > 0;) CUDA_TRY((queued<C, NOW>(device, &calls[k])));
    return MMEBM_OK;
}

cuda_layer_pass mmebm__cuda_forward(mmebm_layer_kind kind)
{
    switch (kind) {
    case MMEBM_LAYER_ACTIVATION:
    case MMEBM_LAYER_BATCH_NORM: return together<cuda_layer_call, elementwise_forward>;
    case MMEBM_LAYER_SOFTMAX: return together<cuda_layer_call, softmax_forward>;
    case MMEBM_LAYER_AVG_POOL: return together<cuda_layer_call, pool_forward>;
    case MMEBM_LAYER_GLOBAL_AVG_POOL: return together<cuda_layer_call, global_pool_forward>;
    case MMEBM_LAYER_NLL:
    case MMEBM_LAYER_PRIOR: return together<cuda_layer_call, loss_forward>;
    default: return NULL;
    }
}

cuda_layer_pass mmebm__cuda_backward(mmebm_layer_kind kind)
{
    switch (kind) {
    case MMEBM_LAYER_ACTIVATION: return together<cuda_layer_call, activation_backward>;
    case MMEBM_LAYER_BATCH_NORM: return together<cuda_layer_call, batch_norm_backward>;
    case MMEBM_LAYER_SOFTMAX: return together<cuda_layer_call, softmax_backward>;
    case MMEBM_LAYER_AVG_POOL: return together<cuda_layer_call, pool_backward>;
    case MMEBM_LAYER_NLL:
    case MMEBM_LAYER_PRIOR: return together<cuda_layer_call, loss_backward>;
    default: return NULL;
    }
}

/* ---- calls: each waits in its stream for its turn */

/* Row `row` of a tensor with rows one after another, as its only one. */
static void take_row(cuda_tensor *tensor, int64_t row)
{
    const size_t numbers = (size_t)tensor->height * (size_t)tensor->width * (size_t)tensor->stride;
    if (!tensor->data) return;
    tensor->data = static_cast<char *>(tensor->data) + (size_t)row * numbers * number_size(tensor->type);
}

/* The last image first, and of each all products, as blocks that do not wait for each other may do it. */
mmebm_status mmebm__cuda_succession(const mmebm_device *device, const cuda_product *products, int32_t count)
{
    for (int32_t k = 1; k < count; ++k)
        if (!may_follow(&products[k - 1], &products[k]))
            return device->host.fail(device->host.owner, MMEBM_E_DEVICE, "cudahost: a product that may not follow");
    for (int64_t row = products->rows; row-- > 0;)
        for (int32_t k = 0; k < count; ++k) {
            cuda_product one = products[k];
            one.rows = 1;
            for (cuda_tensor *tensor : {&one.source, &one.epilogue.mask, &one.epilogue.residual.tensor,
                                        &one.epilogue.raw, &one.epilogue.activated})
                take_row(tensor, row);
            CUDA_TRY((queued<cuda_product, product_now>(device, &one)));
        }
    return MMEBM_OK;
}

mmebm_status mmebm__cuda_combine_tensors(const mmebm_device *device, const cuda_combine *calls, int32_t count)
{
    return together<cuda_combine, combine_now>(device, calls, count);
}

mmebm_status mmebm__cuda_add_shares(const mmebm_device *device, const cuda_shares *call)
{
    return queued<cuda_shares, add_shares_now>(device, call);
}

mmebm_status mmebm__cuda_gather_parts(const mmebm_device *device, const cuda_side_by_side *call)
{
    return queued<cuda_side_by_side, gather_now>(device, call);
}

mmebm_status mmebm__cuda_split_parts(const mmebm_device *device, const cuda_side_by_side *call)
{
    return queued<cuda_side_by_side, split_now>(device, call);
}

mmebm_status mmebm__cuda_products(const mmebm_device *device, const cuda_product *products, int32_t count)
{
    return together<cuda_product, product_now>(device, products, count);
}

mmebm_status mmebm__cuda_weight_gradient(const mmebm_device *device, const cuda_weight_gradient *call)
{
    return queued<cuda_weight_gradient, weight_gradient_now>(device, call);
}

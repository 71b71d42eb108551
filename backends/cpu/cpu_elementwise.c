/* SPDX-License-Identifier: Apache-2.0
 *
 * The plain loops of the backend. Loops that exist for f32 and bf16 are in cpu_elementwise_typed.h; losses and softmax
 * are f32 in every plan. Sums run in sixteen interleaved partial sums, so that their order does not depend on the
 * processor's vector length.
 */
#include "cpu_elementwise.h"

#include "cpu_simd.h"

CPU_INLINE float activation_value(uint32_t kind, float slope, float x)
{
    switch (kind) {
    case MMEBM_RELU: return x <= 0.0f ? 0.0f : x;
    case MMEBM_LEAKY_RELU: return x <= 0.0f ? slope * x : x;
    case MMEBM_SILU: return x * cpu_sigmoid(x);
    case MMEBM_SOFTPLUS: return cpu_softplus(x);
    case MMEBM_TANH: return cpu_tanh(x);
    default: return cpu_sigmoid(x);
    }
}

/* saved: see mmebm__cpu_activation_gradient */
CPU_INLINE float activation_slope(uint32_t kind, float slope, float saved)
{
    switch (kind) {
    case MMEBM_RELU: return saved <= 0.0f ? 0.0f : 1.0f;
    case MMEBM_LEAKY_RELU: return saved <= 0.0f ? slope : 1.0f;
    case MMEBM_SILU: {
        const float s = cpu_sigmoid(saved);
        return s + saved * s * (1.0f - s);
    }
    case MMEBM_SOFTPLUS: return cpu_sigmoid(saved);
    case MMEBM_TANH: return 1.0f - saved * saved;
    default: return saved * (1.0f - saved);
    }
}

uint32_t mmebm__cpu_activation_saves_input(uint32_t kind)
{
    return kind == MMEBM_SILU || kind == MMEBM_SOFTPLUS;
}

/* Pixels first .. last - 1 of a map of that width. */
typedef struct cpu_window {
    int64_t first[2], last[2], width;
} cpu_window;

/* The input pixels under one output pixel of a pool. */
static cpu_window window_of(const mmebm_layer *layer, const mmebm_layer *from, int64_t pixel)
{
    const int64_t at[2] = {pixel / layer->shape[1], pixel % layer->shape[1]};
    cpu_window w = {.width = from->shape[1]};
    for (int i = 0; i < 2; ++i) {
        const int64_t first = at[i] * layer->stride[i] - layer->padding[i], last = first + layer->kernel[i];
        w.first[i] = first < 0 ? 0 : first;
        w.last[i] = last > from->shape[i] ? from->shape[i] : last;
    }
    return w;
}

/* The output pixels whose windows hold one input pixel; may be empty. */
static cpu_window reverse_window_of(const mmebm_layer *layer, const mmebm_layer *from, int64_t pixel)
{
    const int64_t at[2] = {pixel / from->shape[1], pixel % from->shape[1]};
    cpu_window w = {.width = layer->shape[1]};
    for (int i = 0; i < 2; ++i) {
        const int64_t place = at[i] + layer->padding[i], beyond = place - layer->kernel[i];
        const int64_t last = place / layer->stride[i] + 1;
        w.first[i] = beyond < 0 ? 0 : beyond / layer->stride[i] + 1;
        w.last[i] = last > layer->shape[i] ? layer->shape[i] : last;
    }
    return w;
}

int mmebm__cpu_is_quads(const mmebm_layer *layer, const mmebm_layer *from)
{
    for (int i = 0; i < 2; ++i)
        if (layer->kernel[i] != 2 || layer->stride[i] != 2 || from->shape[i] != 2 * layer->shape[i]) return 0;
    return 1;
}

#define ELEMENT float
#define LOAD(x) (x)
#define STORE(x) (x)
#define TYPED(name) name##_f32
#include "cpu_elementwise_typed.h"
#undef ELEMENT
#undef LOAD
#undef STORE
#undef TYPED
#define ELEMENT uint16_t
#define LOAD(x) cpu_load_bf16(x)
#define STORE(x) cpu_store_bf16(x)
#define TYPED(name) name##_bf16
#include "cpu_elementwise_typed.h"
#undef ELEMENT
#undef LOAD
#undef STORE
#undef TYPED

/* ---- the choice between the two */

#define CHOOSE(bf16, name, ...) ((bf16) ? name##_bf16(__VA_ARGS__) : name##_f32(__VA_ARGS__))

void mmebm__cpu_activation(uint32_t bf16, uint32_t kind, float slope, int64_t count, const void *x, void *y)
{
    CHOOSE(bf16, activation, kind, slope, count, x, y);
}

void mmebm__cpu_activation_gradient(uint32_t bf16, uint32_t kind, float slope, uint32_t add, int64_t count,
                                    const void *saved, const void *by_y, void *by_x)
{
    CHOOSE(bf16, activation_gradient, kind, slope, add, count, saved, by_y, by_x);
}

void mmebm__cpu_bias(uint32_t bf16, uint32_t kind, float slope, int64_t pixels, int64_t channels, const float *bias,
                     void *y)
{
    CHOOSE(bf16, bias, pixels, channels, bias, y);
    if (kind) mmebm__cpu_activation(bf16, kind, slope, pixels * channels, y, y);
}

void mmebm__cpu_bias_gradient(uint32_t bf16, int64_t pixels, int64_t channels, const void *by_y, float *by_bias)
{
    CHOOSE(bf16, bias_gradient, pixels, channels, by_y, by_bias);
}

void mmebm__cpu_add(uint32_t bf16, int64_t count, float alpha, const void *a, float beta, const void *b, void *y)
{
    CHOOSE(bf16, add, count, alpha, a, beta, b, y);
}

void mmebm__cpu_scale(uint32_t bf16, uint32_t add, int64_t count, float alpha, const void *a, void *y)
{
    if (!add && alpha == 1.0f) {
        memcpy(y, a, (size_t)count * mmebm__cpu_element_size(bf16));
        return;
    }
    CHOOSE(bf16, scale, add, count, alpha, a, y);
}

void mmebm__cpu_copy_channels(uint32_t bf16, uint32_t add, int64_t pixels, int64_t channels, int64_t from_stride,
                              const void *from, int64_t to_stride, void *to)
{
    CHOOSE(bf16, copy_channels, add, pixels, channels, from_stride, from, to_stride, to);
}

void mmebm__cpu_avg_pool(uint32_t bf16, const mmebm_layer *layer, const mmebm_layer *from, int64_t rows, const void *x,
                         void *y)
{
    CHOOSE(bf16, avg_pool, layer, from, rows, x, y);
}

void mmebm__cpu_avg_pool_gradient(uint32_t bf16, uint32_t add, const mmebm_layer *layer, const mmebm_layer *from,
                                  int64_t rows, const void *by_y, void *by_x)
{
    CHOOSE(bf16, avg_pool_gradient, add, layer, from, rows, by_y, by_x);
}

void mmebm__cpu_upsample(uint32_t bf16, const mmebm_layer *layer, const mmebm_layer *from, int64_t rows, const void *x,
                         void *y)
{
    CHOOSE(bf16, upsample, layer, from, rows, x, y);
}

void mmebm__cpu_upsample_gradient(uint32_t bf16, uint32_t add, const mmebm_layer *layer, const mmebm_layer *from,
                                  int64_t rows, const void *by_y, void *by_x)
{
    CHOOSE(bf16, upsample_gradient, add, layer, from, rows, by_y, by_x);
}

void mmebm__cpu_global_pool(uint32_t bf16, int64_t rows, int64_t pixels, int64_t channels, const void *x, float *y)
{
    CHOOSE(bf16, global_pool, rows, pixels, channels, x, y);
}

void mmebm__cpu_global_pool_gradient(uint32_t bf16, uint32_t add, int64_t rows, int64_t pixels, int64_t channels,
                                     const float *by_y, void *by_x)
{
    CHOOSE(bf16, global_pool_gradient, add, rows, pixels, channels, by_y, by_x);
}

void mmebm__cpu_scale_shift(uint32_t bf16, int64_t pixels, int64_t channels, const float *scale, const float *shift,
                            const void *x, void *y)
{
    CHOOSE(bf16, scale_shift, pixels, channels, scale, shift, x, y);
}

void mmebm__cpu_scale_shift_gradient(uint32_t bf16, uint32_t add, int64_t pixels, int64_t channels, const float *scale,
                                     const void *by_y, void *by_x)
{
    CHOOSE(bf16, scale_shift_gradient, add, pixels, channels, scale, by_y, by_x);
}

void mmebm__cpu_norm_gradient(uint32_t bf16, int64_t rows, int64_t pixels, int64_t channels, const void *x,
                              const void *by_y, const cpu_norm_sums *sums)
{
    CHOOSE(bf16, norm_gradient, rows, pixels, channels, x, by_y, sums);
}

/* ---- conversions, sums */

CPU_CLONES static void to_bf16(uint32_t add, int64_t count, const float *from, uint16_t *to)
{
    for (int64_t i = 0; i < count; ++i) to[i] = cpu_store_bf16(add ? cpu_load_bf16(to[i]) + from[i] : from[i]);
}

CPU_CLONES static void from_bf16(uint32_t add, int64_t count, const uint16_t *from, float *to)
{
    for (int64_t i = 0; i < count; ++i) put_f32(add, &to[i], cpu_load_bf16(from[i]));
}

void mmebm__cpu_convert(uint32_t to_is_bf16, uint32_t add, int64_t count, const void *from, void *to)
{
    if (to_is_bf16)
        to_bf16(add, count, from, to);
    else
        from_bf16(add, count, from, to);
}

CPU_CLONES void mmebm__cpu_add_floats(int64_t count, const float *from, float *to)
{
    for (int64_t i = 0; i < count; ++i) to[i] += from[i];
}

enum { LANES = 16 };

CPU_INLINE float sum_lanes(const float lane[LANES])
{
    double sum = 0.0;
    for (int i = 0; i < LANES; ++i) sum += lane[i];
    return (float)sum;
}

CPU_CLONES void mmebm__cpu_dot(int64_t rows, int64_t width, const float *x, const float *w, float shift, float *y)
{
    for (int64_t r = 0; r < rows; ++r, x += width) {
        float lane[LANES] = {0};
        int64_t i = 0;
        for (; i + LANES <= width; i += LANES)
            for (int j = 0; j < LANES; ++j) lane[j] += x[i + j] * w[i + j];
        for (int j = 0; i < width; ++i, ++j) lane[j] += x[i] * w[i];
        y[r] = shift + sum_lanes(lane);
    }
}

/* ---- softmax over the last axis */

CPU_CLONES void mmebm__cpu_softmax(int64_t vectors, int64_t width, const float *x, float *y)
{
    for (int64_t v = 0; v < vectors; ++v, x += width, y += width) {
        float largest = x[0], lane[LANES] = {0};
        for (int64_t i = 1; i < width; ++i) largest = x[i] > largest ? x[i] : largest;
        for (int64_t i = 0; i < width; ++i) y[i] = cpu_exp(x[i] - largest);
        for (int64_t i = 0; i < width; ++i) lane[i % LANES] += y[i];
        const float inverse = 1.0f / sum_lanes(lane);
        for (int64_t i = 0; i < width; ++i) y[i] *= inverse;
    }
}

CPU_CLONES void mmebm__cpu_softmax_gradient(uint32_t add, int64_t vectors, int64_t width, const float *y,
                                            const float *by_y, float *by_x)
{
    for (int64_t v = 0; v < vectors; ++v, y += width, by_y += width, by_x += width) {
        float lane[LANES] = {0};
        for (int64_t i = 0; i < width; ++i) lane[i % LANES] += y[i] * by_y[i];
        const float mean = sum_lanes(lane);
        for (int64_t i = 0; i < width; ++i) put_f32(add, &by_x[i], y[i] * (by_y[i] - mean));
    }
}

/* ---- likelihoods (graph.h): term, slope by the mean, slope by the target, of one element before `factor` */

enum { SMALLEST_MEAN_BITS = 0x0da24260 /* 1e-30 */ };

CPU_INLINE float likelihood_term(uint32_t likelihood, float mean, float target)
{
    const float d = target - mean;
    if (likelihood == MMEBM_GAUSSIAN) return d * d;
    if (likelihood == MMEBM_LAPLACE) return d < 0.0f ? -d : d;
    const float floor = cpu_from_bits(SMALLEST_MEAN_BITS);
    return target * cpu_log(mean < floor ? floor : mean);
}

CPU_INLINE float sign_of(float d)
{
    return d > 0.0f ? 1.0f : d < 0.0f ? -1.0f : d;
}

CPU_INLINE float slope_by_mean(uint32_t likelihood, float mean, float target)
{
    if (likelihood == MMEBM_GAUSSIAN) return mean - target;
    if (likelihood == MMEBM_LAPLACE) return sign_of(mean - target);
    return mean < cpu_from_bits(SMALLEST_MEAN_BITS) ? 0.0f : target / mean;
}

CPU_INLINE float slope_by_target(uint32_t likelihood, float mean, float target)
{
    if (likelihood == MMEBM_GAUSSIAN) return target - mean;
    if (likelihood == MMEBM_LAPLACE) return sign_of(target - mean);
    const float floor = cpu_from_bits(SMALLEST_MEAN_BITS);
    return cpu_log(mean < floor ? floor : mean);
}

/* What multiplies the sum of terms, and what multiplies a slope. */
static double term_factor(const mmebm_layer *layer, double factor)
{
    const double scale = layer->scale;
    return layer->likelihood == MMEBM_GAUSSIAN  ? factor / (2.0 * scale * scale)
           : layer->likelihood == MMEBM_LAPLACE ? factor / scale
                                                : -factor;
}

static float slope_factor(const mmebm_layer *layer, double factor)
{
    return (float)(term_factor(layer, factor) * (layer->likelihood == MMEBM_GAUSSIAN ? 2.0 : 1.0));
}

CPU_INLINE double sum_terms(uint32_t likelihood, int64_t count, const float *mean, const float *target)
{
    double sum = 0.0;
    for (int64_t first = 0; first < count; first += 64 * LANES) { /* short f32 sums, added in double */
        float lane[LANES] = {0};
        const int64_t end = count - first < 64 * LANES ? count : first + 64 * LANES;
        int64_t i = first;
        for (; i + LANES <= end; i += LANES)
            for (int j = 0; j < LANES; ++j) lane[j] += likelihood_term(likelihood, mean[i + j], target[i + j]);
        for (int j = 0; i < end; ++i, ++j) lane[j] += likelihood_term(likelihood, mean[i], target[i]);
        for (int j = 0; j < LANES; ++j) sum += lane[j];
    }
    return sum;
}

CPU_CLONES void mmebm__cpu_likelihood(const mmebm_layer *layer, int64_t rows, int64_t count, const float *mean,
                                      const float *target, float *loss)
{
    const double factor = term_factor(layer, layer->loss_factor);
    for (int64_t r = 0; r < rows; ++r, mean += count, target += count) {
        double sum;
        switch (layer->likelihood) {
        case MMEBM_GAUSSIAN: sum = sum_terms(MMEBM_GAUSSIAN, count, mean, target); break;
        case MMEBM_LAPLACE: sum = sum_terms(MMEBM_LAPLACE, count, mean, target); break;
        default: sum = sum_terms(MMEBM_CATEGORICAL, count, mean, target); break;
        }
        loss[r] = (float)(factor * sum);
    }
}

CPU_INLINE void slope_terms(uint32_t likelihood, int64_t count, float factor, const float *mean, const float *target,
                            uint32_t add, float *by_mean, uint32_t add_target, float *by_target)
{
    if (by_mean)
        for (int64_t i = 0; i < count; ++i)
            put_f32(add, &by_mean[i], factor * slope_by_mean(likelihood, mean[i], target[i]));
    if (by_target)
        for (int64_t i = 0; i < count; ++i)
            put_f32(add_target, &by_target[i], factor * slope_by_target(likelihood, mean[i], target[i]));
}

CPU_CLONES void mmebm__cpu_likelihood_gradient(const mmebm_layer *layer, int64_t rows, int64_t count, const float *mean,
                                               const float *target, const float *by_loss, uint32_t add, float *by_mean,
                                               uint32_t add_target, float *by_target)
{
    const float base = slope_factor(layer, layer->loss_factor);
    for (int64_t r = 0; r < rows; ++r) {
        const float *m = mean + r * count, *t = target + r * count, factor = base * by_loss[r];
        float *gm = by_mean ? by_mean + r * count : NULL, *gt = by_target ? by_target + r * count : NULL;
        switch (layer->likelihood) {
        case MMEBM_GAUSSIAN: slope_terms(MMEBM_GAUSSIAN, count, factor, m, t, add, gm, add_target, gt); break;
        case MMEBM_LAPLACE: slope_terms(MMEBM_LAPLACE, count, factor, m, t, add, gm, add_target, gt); break;
        default: slope_terms(MMEBM_CATEGORICAL, count, factor, m, t, add, gm, add_target, gt); break;
        }
    }
}

void mmebm__cpu_prior(const mmebm_layer *layer, int64_t rows, int64_t count, const float *z, float *loss)
{
    const double factor = term_factor(layer, 1.0);
    for (int64_t r = 0; r < rows; ++r, z += count) {
        double sum = 0.0;
        for (int64_t i = 0; i < count; ++i)
            sum += layer->likelihood == MMEBM_GAUSSIAN ? (double)z[i] * z[i] : z[i] < 0.0f ? -z[i] : z[i];
        loss[r] = (float)(factor * sum);
    }
}

void mmebm__cpu_prior_gradient(const mmebm_layer *layer, uint32_t add, int64_t rows, int64_t count, const float *z,
                               const float *by_loss, float *by_z)
{
    const float base = slope_factor(layer, 1.0);
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t i = 0; i < count; ++i) {
            const float value = z[r * count + i];
            const float slope = layer->likelihood == MMEBM_GAUSSIAN ? value : sign_of(value);
            put_f32(add, &by_z[r * count + i], base * by_loss[r] * slope);
        }
}

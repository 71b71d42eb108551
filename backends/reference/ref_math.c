/* SPDX-License-Identifier: Apache-2.0
 *
 * Formulas of ref_math.h. The mixture (Eqn 5): with l_j = sum_d log q_j(z_d | x_j),
 *   log q(z|x) = log 1/M sum_j exp l_j,      d log q / d l_j = w_j = exp(l_j) / sum_k exp(l_k),
 * and the chain rule through each expert's mean and raw scale.
 */
#include "ref_math.h"

static const double LOG_TWO_PI = 1.8378770664093454836;

static double sigmoid(double x)
{
    return x >= 0 ? 1.0 / (1.0 + exp(-x)) : exp(x) / (1.0 + exp(x));
}

static double softplus(double x)
{
    return x > 0 ? x + log1p(exp(-x)) : log1p(exp(x));
}

double mmebm__ref_activation(uint32_t kind, double parameter, double x, double *slope)
{
    double y;
    switch (kind) {
    case MMEBM_RELU:
        *slope = x <= 0 ? 0.0 : 1.0;
        return x <= 0 ? 0.0 : x;
    case MMEBM_LEAKY_RELU:
        *slope = x <= 0 ? parameter : 1.0;
        return x <= 0 ? parameter * x : x;
    case MMEBM_SILU:
        y = sigmoid(x);
        *slope = y * (1.0 + x * (1.0 - y));
        return x * y;
    case MMEBM_SOFTPLUS:
        *slope = sigmoid(x);
        return softplus(x);
    case MMEBM_TANH:
        y = tanh(x);
        *slope = 1.0 - y * y;
        return y;
    default: /* MMEBM_SIGMOID */
        y = sigmoid(x);
        *slope = y * (1.0 - y);
        return y;
    }
}

static double sign(double x)
{
    return x > 0 ? 1.0 : x < 0 ? -1.0 : x; /* 0 and NaN stay */
}

double mmebm__ref_likelihood(uint32_t likelihood, double scale, double factor, double mean, double target,
                             double *by_mean, double *by_target)
{
    static const double smallest_probability = 1e-30;
    const double difference = target - mean;
    if (likelihood == MMEBM_CATEGORICAL) {
        const int floored = mean < smallest_probability;
        const double log_mean = log(floored ? smallest_probability : mean);
        *by_mean = floored ? 0.0 : -factor * target / mean;
        *by_target = -factor * log_mean;
        return -factor * target * log_mean;
    }
    if (likelihood == MMEBM_LAPLACE) {
        *by_target = factor * sign(difference) / scale;
        *by_mean = -*by_target;
        return factor * fabs(difference) / scale;
    }
    *by_target = factor * difference / (scale * scale);
    *by_mean = -*by_target;
    return factor * difference * difference / (2.0 * scale * scale);
}

mmebm_ref_scales mmebm__ref_scales(uint32_t kind, double floor, const void *raw, int wide, int64_t size)
{
    mmebm_ref_scales scales = {raw, wide, kind, size, floor, 0.0, 0.0};
    if (kind != MMEBM_SCALE_SOFTMAX) return scales;
    scales.largest = mmebm__ref_get(raw, wide, 0);
    for (int64_t d = 1; d < size; ++d) scales.largest = fmax(scales.largest, mmebm__ref_get(raw, wide, d));
    for (int64_t d = 0; d < size; ++d) scales.total += exp(mmebm__ref_get(raw, wide, d) - scales.largest);
    return scales;
}

double mmebm__ref_scale(const mmebm_ref_scales *scales, int64_t d)
{
    const double raw = mmebm__ref_get(scales->raw, scales->wide, d);
    switch (scales->kind) {
    case MMEBM_SCALE_SOFTPLUS:
        return softplus(raw) + scales->floor;
    case MMEBM_SCALE_EXP_HALF:
        return exp(0.5 * raw) + scales->floor;
    default: /* MMEBM_SCALE_SOFTMAX */
        return (double)scales->size * exp(raw - scales->largest) / scales->total + scales->floor;
    }
}

double mmebm__ref_log_density(uint32_t family, double z, double mean, double scale, double *by_mean, double *by_scale)
{
    const double difference = z - mean;
    if (family == MMEBM_LAPLACE) {
        *by_mean = sign(difference) / scale;
        *by_scale = (fabs(difference) / scale - 1.0) / scale;
        return -log(2.0 * scale) - fabs(difference) / scale;
    }
    const double ratio = difference / scale;
    *by_mean = ratio / scale;
    *by_scale = (ratio * ratio - 1.0) / scale;
    return -0.5 * (LOG_TWO_PI + ratio * ratio) - log(scale);
}

/* ---- the mixture */

/* Element d of expert j's row b: value and both derivatives of log q_j(z_d). */
typedef struct expert_row {
    const mmebm_mixture *mixture;
    int wide;
    uint32_t expert;
    int64_t z_first, first; /* elements before the row in z, in mean and raw */
    mmebm_ref_scales scales;
} expert_row;

static size_t element_size(int wide)
{
    return wide ? sizeof(double) : sizeof(float);
}

static expert_row open_expert(const mmebm_mixture *mixture, int wide, int64_t row, uint32_t expert)
{
    expert_row open = {.mixture = mixture, .wide = wide, .expert = expert};
    open.z_first = row * mixture->size;
    open.first = row % mixture->period * mixture->size;
    const char *raw = (const char *)mixture->raw[expert] + (size_t)open.first * element_size(wide);
    open.scales = mmebm__ref_scales(mixture->scale_kind, mixture->floor, raw, wide, mixture->size);
    return open;
}

static double expert_log_density(const expert_row *open, int64_t d, double *by_mean, double *by_scale)
{
    const mmebm_mixture *mixture = open->mixture;
    return mmebm__ref_log_density(mixture->family, mmebm__ref_get(mixture->z, open->wide, open->z_first + d),
                                  mmebm__ref_get(mixture->mean[open->expert], open->wide, open->first + d),
                                  mmebm__ref_scale(&open->scales, d), by_mean, by_scale);
}

/* ds_d / draw_d; of the softmax only the part with k = d. */
static double scale_slope(const mmebm_ref_scales *scales, int64_t d)
{
    const double raw = mmebm__ref_get(scales->raw, scales->wide, d);
    return scales->kind == MMEBM_SCALE_SOFTPLUS   ? sigmoid(raw)
           : scales->kind == MMEBM_SCALE_EXP_HALF ? 0.5 * exp(0.5 * raw)
                                                  : mmebm__ref_scale(scales, d) - scales->floor;
}

/* Adds weight * d l_j to the gradients of expert j. Softmax p: ds_k / draw_d = (s_k - floor) ([k = d] - p_d), so the
 * sum over k leaves one number common to all d. */
static void add_expert_gradient(const expert_row *open, double weight)
{
    const mmebm_mixture *mixture = open->mixture;
    void *mean_gradient = mixture->mean_gradient ? mixture->mean_gradient[open->expert] : NULL;
    void *raw_gradient = mixture->raw_gradient ? mixture->raw_gradient[open->expert] : NULL;
    double by_mean, by_scale, common = 0.0;
    if (raw_gradient && mixture->scale_kind == MMEBM_SCALE_SOFTMAX) {
        for (int64_t d = 0; d < mixture->size; ++d) {
            expert_log_density(open, d, &by_mean, &by_scale);
            common += by_scale * scale_slope(&open->scales, d);
        }
        common /= (double)mixture->size;
    }
    for (int64_t d = 0; d < mixture->size; ++d) {
        expert_log_density(open, d, &by_mean, &by_scale);
        if (mean_gradient) mmebm__ref_add(mean_gradient, open->wide, open->first + d, weight * by_mean);
        if (raw_gradient)
            mmebm__ref_add(raw_gradient, open->wide, open->first + d,
                           weight * (by_scale - common) * scale_slope(&open->scales, d));
    }
}

static void mixture_row(const mmebm_mixture *mixture, int wide, int64_t row)
{
    double log_density[MMEBM_MAX_MODALITIES];
    double largest = -INFINITY, total = 0.0, unused;
    for (uint32_t j = 0; j < mixture->experts; ++j) {
        const expert_row open = open_expert(mixture, wide, row, j);
        log_density[j] = 0.0;
        for (int64_t d = 0; d < mixture->size; ++d) log_density[j] += expert_log_density(&open, d, &unused, &unused);
        largest = fmax(largest, log_density[j]);
    }
    for (uint32_t j = 0; j < mixture->experts; ++j) total += exp(log_density[j] - largest);
    mmebm__ref_set(mixture->log_density, wide, row, largest + log(total / (double)mixture->experts));
    if (!mixture->mean_gradient && !mixture->raw_gradient) return;
    for (uint32_t j = 0; j < mixture->experts; ++j) {
        const expert_row open = open_expert(mixture, wide, row, j);
        add_expert_gradient(&open, mixture->gradient_scale * exp(log_density[j] - largest) / total);
    }
}

void mmebm__ref_mixture(const mmebm_mixture *mixture, int wide)
{
    for (int64_t row = 0; row < mixture->rows; ++row) mixture_row(mixture, wide, row);
}

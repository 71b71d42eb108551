/* SPDX-License-Identifier: Apache-2.0
 *
 * Elementwise operations, sums, Adam and spectral norm of the reference backend; backend_api.h states each formula.
 * Values are worked out in double and rounded once, when they are stored. A factor 0 means that its operand is not
 * read: what a failed chain left behind does not live on.
 */
#include "reference.h"

mmebm_status mmebm__ref_fill(mmebm_device *device, int64_t count, float *target, float value)
{
    (void)device;
    for (int64_t i = 0; i < count; ++i) target[i] = value;
    return MMEBM_OK;
}

mmebm_status mmebm__ref_combine(mmebm_device *device, int64_t count, float *target, float alpha, const float *source,
                                float beta)
{
    (void)device;
    for (int64_t i = 0; i < count; ++i) {
        const double kept = alpha == 0.0f ? 0.0 : (double)alpha * target[i];
        target[i] = (float)(beta == 0.0f ? kept : kept + (double)beta * source[i]);
    }
    return MMEBM_OK;
}

mmebm_status mmebm__ref_lerp(mmebm_device *device, int64_t count, float *target, const float *source,
                             float source_scale, const float *t)
{
    (void)device;
    for (int64_t i = 0; i < count; ++i)
        target[i] = (float)(target[i] + (double)*t * ((double)source_scale * source[i] - target[i]));
    return MMEBM_OK;
}

mmebm_status mmebm__ref_row_distance(mmebm_device *device, int64_t rows, int64_t size, const float *a, const float *b,
                                     float *out)
{
    (void)device;
    for (int64_t r = 0; r < rows; ++r) {
        double total = 0.0;
        for (int64_t e = r * size; e < (r + 1) * size; ++e) {
            const double difference = (double)a[e] - (b ? (double)b[e] : 0.0);
            total += difference * difference;
        }
        out[r] = (float)total;
    }
    return MMEBM_OK;
}

mmebm_status mmebm__ref_reduce(mmebm_device *device, int64_t count, const float *values, uint32_t power, float scale,
                               float *out)
{
    (void)device;
    double total = 0.0;
    for (int64_t i = 0; i < count; ++i) {
        const double value = values[i];
        total += power == 1 ? value : power == 2 ? value * value : sqrt(value);
    }
    *out = (float)(scale * total);
    return MMEBM_OK;
}

mmebm_status mmebm__ref_adam(mmebm_device *device, const mmebm_adam_step *step)
{
    (void)device;
    const double rate = step->control[0], correction1 = step->control[1], correction2 = step->control[2];
    const double beta1 = step->beta1, beta2 = step->beta2;
    double factor = 1.0;
    if (step->clip > 0.0f && sqrt((double)*step->norm2) > step->clip) factor = step->clip / sqrt((double)*step->norm2);
    for (int64_t i = 0; i < step->count; ++i) {
        const double gradient = factor * step->gradient[i];
        const double moment1 = beta1 * step->moment1[i] + (1.0 - beta1) * gradient;
        const double moment2 = beta2 * step->moment2[i] + (1.0 - beta2) * gradient * gradient;
        const double update = moment1 / correction1 / (sqrt(moment2 / correction2) + step->epsilon);
        step->moment1[i] = (float)moment1;
        step->moment2[i] = (float)moment2;
        step->weights[i] = (float)(step->weights[i] - rate * update);
    }
    return MMEBM_OK;
}

/* ---- spectral norm */

static const double SMALLEST_NORM = 1e-12; /* a zero matrix stays zero instead of becoming NaN */

/* vector <- vector / |vector|; returns |vector|. */
static double normalise(int64_t count, float *vector)
{
    double total = 0.0;
    for (int64_t i = 0; i < count; ++i) total += (double)vector[i] * vector[i];
    const double norm = fmax(sqrt(total), SMALLEST_NORM);
    for (int64_t i = 0; i < count; ++i) vector[i] = (float)(vector[i] / norm);
    return norm;
}

/* v <- W' u, a few columns at a time so that their sums can be doubles. */
static void multiply_transposed(const mmebm_spectral *spectral)
{
    enum { COLUMNS = 64 };
    for (int64_t first = 0; first < spectral->cols; first += COLUMNS) {
        const int64_t width = spectral->cols - first < COLUMNS ? spectral->cols - first : COLUMNS;
        double sum[COLUMNS] = {0.0};
        for (int64_t i = 0; i < spectral->rows; ++i)
            for (int64_t j = 0; j < width; ++j)
                sum[j] += (double)spectral->u[i] * spectral->weight[i * spectral->cols + first + j];
        for (int64_t j = 0; j < width; ++j) spectral->v[first + j] = (float)sum[j];
    }
}

static double dot(int64_t count, const float *a, const float *b)
{
    double total = 0.0;
    for (int64_t i = 0; i < count; ++i) total += (double)a[i] * b[i];
    return total;
}

/* v <- W'u / |W'u|, u <- W v / |W v|, sigma = u' W v = |W v|. */
mmebm_status mmebm__ref_spectral_update(mmebm_device *device, const mmebm_spectral *spectral)
{
    (void)device;
    multiply_transposed(spectral);
    normalise(spectral->cols, spectral->v);
    for (int64_t i = 0; i < spectral->rows; ++i)
        spectral->u[i] = (float)dot(spectral->cols, spectral->weight + i * spectral->cols, spectral->v);
    const double sigma = normalise(spectral->rows, spectral->u);
    *spectral->sigma = (float)sigma;
    for (int64_t i = 0; i < spectral->rows * spectral->cols; ++i)
        spectral->normalised[i] = (float)(spectral->weight[i] / sigma);
    return MMEBM_OK;
}

mmebm_status mmebm__ref_spectral_gradient(mmebm_device *device, const mmebm_spectral *spectral)
{
    (void)device;
    const double sigma = *spectral->sigma;
    const double along = dot(spectral->rows * spectral->cols, spectral->gradient, spectral->normalised);
    for (int64_t i = 0; i < spectral->rows; ++i) {
        for (int64_t j = 0; j < spectral->cols; ++j) {
            float *gradient = &spectral->gradient[i * spectral->cols + j];
            *gradient = (float)((*gradient - along * spectral->u[i] * spectral->v[j]) / sigma);
        }
    }
    return MMEBM_OK;
}

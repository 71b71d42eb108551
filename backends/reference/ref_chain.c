/* SPDX-License-Identifier: Apache-2.0
 *
 * Operations of the reference backend that draw random numbers: noise, the Langevin update (Eqns 3, 8), Metropolis
 * adjustment and draws from experts. Element e of row r takes number e % 4 of block e / 4 of the row's chain. Random
 * numbers and state updates are float arithmetic in the order written here, so that other backends can match bits;
 * norms and log densities are sums in double.
 */
#include "reference.h"

static mmebm_philox_block random_block(const mmebm_noise *noise, int64_t row, int64_t block)
{
    const uint32_t stream = noise->stream + (uint32_t)(row / noise->period);
    const uint64_t chain = noise->key[1] + (uint64_t)(row % noise->period);
    return mmebm__random_block(noise->key[0], stream, chain, noise->step, (uint32_t)block);
}

/* xi of elements first .. first + 3 of a row, first a multiple of 4. */
static void draw_four(const mmebm_noise *noise, uint32_t family, int64_t row, int64_t first, float xi[4])
{
    const mmebm_philox_block block = random_block(noise, row, first / 4);
    if (family == MMEBM_LAPLACE)
        for (int k = 0; k < 4; ++k) xi[k] = mmebm__laplace(block.word[k]);
    else
        mmebm__normals(block, xi);
}

mmebm_status mmebm__ref_noise(mmebm_device *device, int64_t rows, int64_t size, float *target, uint32_t family,
                              float scale, float add, const mmebm_noise *noise)
{
    (void)device;
    float xi[4] = {0};
    for (int64_t r = 0; r < rows; ++r, target += size) {
        for (int64_t e = 0; e < size; ++e) {
            if (e % 4 == 0) draw_four(noise, family, r, e, xi);
            const float drawn = scale * xi[e % 4];
            target[e] = add == 0.0f ? drawn : add * target[e] + drawn; /* 0: what was there is not read */
        }
    }
    return MMEBM_OK;
}

/* ---- Langevin */

/* value within [low, high]; NaN stays NaN */
static float bounded(float value, float low, float high)
{
    return value < low ? low : value > high ? high : value;
}

/* An element of b(g), before the row's norm is bounded. */
static float clamped_drift(const mmebm_drift *drift, float l, float gradient)
{
    const float b = 0.5f * l * l * drift->factor * gradient;
    return drift->clamp > 0.0f ? bounded(b, -drift->clamp, drift->clamp) : b;
}

/* The factor that brings a row's drift within norm_clip. */
static float norm_factor(const mmebm_drift *drift, float l, const float *gradient, int64_t size)
{
    if (drift->norm_clip <= 0.0f) return 1.0f;
    double total = 0.0;
    for (int64_t e = 0; e < size; ++e) {
        const double b = clamped_drift(drift, l, gradient[e]);
        total += b * b;
    }
    const double norm = sqrt(total);
    return norm > drift->norm_clip ? (float)(drift->norm_clip / norm) : 1.0f;
}

static void move_state(const mmebm_langevin_step *step)
{
    const float l = step->scales[0], n = step->scales[1];
    const int has_range = step->state_min != step->state_max;
    float xi[4] = {0};
    for (int64_t r = 0; r < step->rows; ++r) {
        const float *gradient = step->gradient + r * step->size;
        const float factor = norm_factor(&step->drift, l, gradient, step->size);
        for (int64_t e = 0; e < step->size; ++e) {
            if (e % 4 == 0) draw_four(&step->noise, MMEBM_GAUSSIAN, r, e, xi);
            float *state = &step->state[r * step->size + e];
            const float moved = *state - factor * clamped_drift(&step->drift, l, gradient[e]) + n * xi[e % 4];
            *state = has_range ? bounded(moved, step->state_min, step->state_max) : moved;
        }
    }
}

mmebm_status mmebm__ref_langevin(mmebm_device *device, const mmebm_langevin_step *steps, uint32_t count)
{
    (void)device;
    for (uint32_t k = 0; k < count; ++k) move_state(&steps[k]);
    return MMEBM_OK;
}

/* ---- Metropolis adjustment */

mmebm_status mmebm__ref_mala_propose(mmebm_device *device, const mmebm_mala_step *step)
{
    (void)device;
    const float l = step->scales[0];
    float xi[4] = {0};
    for (int64_t r = 0; r < step->rows; ++r) {
        const float *gradient = step->gradient + r * step->size;
        const float factor = norm_factor(&step->drift, l, gradient, step->size);
        for (int64_t e = 0; e < step->size; ++e) {
            const int64_t at = r * step->size + e;
            if (e % 4 == 0) draw_four(&step->noise, MMEBM_GAUSSIAN, r, e, xi);
            step->y[at] = step->z[at] - factor * clamped_drift(&step->drift, l, gradient[e]) + l * xi[e % 4];
        }
    }
    return MMEBM_OK;
}

/* clamped_drift in double: the ratio is of small differences. */
static double exact_drift(const mmebm_drift *drift, double l, float gradient)
{
    const double b = 0.5 * l * l * drift->factor * gradient;
    return drift->clamp > 0.0f ? fmin(fmax(b, -drift->clamp), drift->clamp) : b;
}

/* log of the acceptance ratio of row r; NaN, which accepts nothing, if the proposal is not finite. */
static double log_ratio(const mmebm_mala_step *step, int64_t row)
{
    const mmebm_drift *drift = &step->drift;
    const double l = step->scales[0];
    const float *gradient = step->gradient + row * step->size, *gradient_y = step->gradient_y + row * step->size;
    const double factor = norm_factor(drift, step->scales[0], gradient, step->size);
    const double factor_y = norm_factor(drift, step->scales[0], gradient_y, step->size);
    double forward = 0.0, reverse = 0.0;
    int finite = isfinite(step->energy_y[row]);
    for (int64_t e = 0; e < step->size; ++e) {
        const double move = (double)step->y[row * step->size + e] - step->z[row * step->size + e];
        const double there = move + factor * exact_drift(drift, l, gradient[e]); /* l xi */
        const double back = factor_y * exact_drift(drift, l, gradient_y[e]) - move;
        finite = finite && isfinite(gradient_y[e]);
        forward += there * there;
        reverse += back * back;
    }
    if (!finite) return NAN;
    return drift->factor * ((double)step->energy[row] - step->energy_y[row]) + (forward - reverse) / (2.0 * l * l);
}

mmebm_status mmebm__ref_mala_accept(mmebm_device *device, const mmebm_mala_step *step)
{
    (void)device;
    for (int64_t r = 0; r < step->rows; ++r) {
        const mmebm_philox_block block = random_block(&step->noise, r, 0);
        if (!((double)mmebm__log_unit(mmebm__uniform(block.word[0])) < log_ratio(step, r))) continue;
        for (int64_t at = r * step->size; at < (r + 1) * step->size; ++at) {
            step->z[at] = step->y[at];
            step->gradient[at] = step->gradient_y[at];
        }
        step->energy[r] = step->energy_y[r];
        step->accepted[r] += 1.0f;
    }
    return MMEBM_OK;
}

mmebm_status mmebm__ref_mala_adapt(mmebm_device *device, const mmebm_mala_adapt *adapt)
{
    (void)device;
    double total = 0.0;
    for (int64_t r = 0; r < adapt->rows; ++r) total += adapt->accepted[r];
    const double mean = total / (double)adapt->rows / adapt->steps;
    const double l = adapt->scales[0] * exp(adapt->rate * (mean - adapt->target));
    adapt->scales[0] = adapt->scales[1] = bounded((float)l, adapt->min, adapt->max);
    *adapt->mean_acceptance = (float)mean;
    return MMEBM_OK;
}

/* ---- experts */

mmebm_status mmebm__ref_expert_scale(mmebm_device *device, int64_t rows, int64_t size, const float *raw,
                                     uint32_t scale_kind, float floor, float *scale)
{
    (void)device;
    for (int64_t r = 0; r < rows; ++r) {
        const mmebm_ref_scales scales = mmebm__ref_scales(scale_kind, floor, raw + r * size, 0, size);
        for (int64_t d = 0; d < size; ++d) scale[r * size + d] = (float)mmebm__ref_scale(&scales, d);
    }
    return MMEBM_OK;
}

static uint32_t chosen_expert(const mmebm_expert_draw *draw, int64_t row)
{
    if (!draw->choose) return (uint32_t)(row / draw->noise.period);
    mmebm_noise choice = draw->noise;
    choice.stream = MMEBM_STREAM_EXPERT;
    return mmebm__choice(random_block(&choice, row % choice.period, 0).word[0], draw->experts);
}

static float average_mean(const mmebm_expert_draw *draw, int64_t at)
{
    double sum = 0;
    for (uint32_t e = 0; e < draw->experts; ++e) sum += draw->mean[e][at];
    return (float)(sum / draw->experts);
}

mmebm_status mmebm__ref_expert_draw(mmebm_device *device, const mmebm_expert_draw *draw)
{
    (void)device;
    float xi[4] = {0};
    for (int64_t r = 0; r < draw->rows; ++r) {
        const uint32_t expert = chosen_expert(draw, r);
        const int64_t tuple = r % draw->noise.period;
        const float *mean = draw->mean[expert] + tuple * draw->size;
        const mmebm_ref_scales scales =
            mmebm__ref_scales(draw->scale_kind, draw->floor, draw->raw[expert] + tuple * draw->size, 0, draw->size);
        mmebm_noise noise = draw->noise;
        noise.stream += expert;
        for (int64_t d = 0; d < draw->size; ++d) {
            float *z = &draw->z[r * draw->size + d];
            if (d % 4 == 0) draw_four(&noise, draw->family, tuple, d, xi);
            switch (draw->start) {
            case MMEBM_START_MEAN: *z = mean[d]; break;
            case MMEBM_START_AVERAGE: *z = average_mean(draw, tuple * draw->size + d); break;
            default: *z = (float)(mean[d] + mmebm__ref_scale(&scales, d) * xi[d % 4]); break;
            }
        }
    }
    return MMEBM_OK;
}

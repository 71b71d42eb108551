/* SPDX-License-Identifier: Apache-2.0
 *
 * Operations that draw random numbers for whole states: noise and the Langevin update (Eqns 3, 8), bit for bit as in
 * the reference backend. Element e of row r takes number e % 4 of block e / 4 of the row's chain; blocks are drawn
 * in batches that become vector code.
 */
#include <math.h>

#include "cpu_simd.h"
#include "cpu_vector.h"

enum { BATCH = 64 /* numbers drawn at once */ };

CPU_INLINE void draw_batch(const mmebm_noise *noise, uint32_t family, int64_t row, int64_t first, float xi[BATCH])
{
    const uint32_t stream = noise->stream + (uint32_t)(row / noise->period);
    const uint64_t seed = noise->key[0], chain = noise->key[1] + (uint64_t)(row % noise->period);
    for (int i = 0; i < BATCH / 4; ++i) {
        const mmebm_philox_block block =
            mmebm__random_block(seed, stream, chain, noise->step, (uint32_t)(first / 4 + i));
        if (family == MMEBM_LAPLACE)
            for (int k = 0; k < 4; ++k) xi[4 * i + k] = mmebm__laplace(block.word[k]);
        else
            mmebm__normals(block, xi + 4 * i);
    }
}

/* ---- noise */

typedef struct noise_job {
    int64_t size;
    float *target;
    uint32_t family;
    float scale, add;
    const mmebm_noise *noise;
} noise_job;

CPU_INLINE void noise_loop(const noise_job *job, uint32_t family, int64_t row)
{
    float *target = job->target + row * job->size, xi[BATCH];
    for (int64_t first = 0; first < job->size; first += BATCH) {
        const int64_t count = job->size - first < BATCH ? job->size - first : BATCH;
        draw_batch(job->noise, family, row, first, xi);
        if (job->add == 0.0f)
            for (int64_t i = 0; i < count; ++i) target[first + i] = job->scale * xi[i];
        else
            for (int64_t i = 0; i < count; ++i) target[first + i] = job->add * target[first + i] + job->scale * xi[i];
    }
}

CPU_CLONES static void noise_row(void *argument, uint32_t thread, int64_t row)
{
    const noise_job *job = argument;
    (void)thread;
    if (job->family == MMEBM_LAPLACE)
        noise_loop(job, MMEBM_LAPLACE, row);
    else
        noise_loop(job, MMEBM_GAUSSIAN, row);
}

mmebm_status mmebm__cpu_noise(mmebm_device *device, int64_t rows, int64_t size, float *target, uint32_t family,
                              float scale, float add, const mmebm_noise *noise)
{
    noise_job job = {size, target, family, scale, add, noise};
    mmebm__cpu_for_each(device, rows, size, noise_row, &job);
    return MMEBM_OK;
}

/* ---- Langevin */

/* value within [low, high]; NaN stays NaN */
CPU_INLINE float bounded(float value, float low, float high)
{
    return value < low ? low : value > high ? high : value;
}

typedef struct drift_rule {
    float factor; /* l^2/2 drift.factor */
    float bound;  /* of one element; infinite = none */
} drift_rule;

CPU_INLINE float drift_of(drift_rule rule, float gradient)
{
    return bounded(rule.factor * gradient, -rule.bound, rule.bound);
}

static drift_rule rule_of(const mmebm_langevin_step *step)
{
    const float l = step->scales[0];
    const float bound = step->drift.clamp > 0.0f ? step->drift.clamp : INFINITY;
    return (drift_rule){0.5f * l * l * step->drift.factor, bound};
}

/* The factor that brings the clamped drift of a row within drift.norm_clip. */
CPU_INLINE float norm_factor(const mmebm_langevin_step *step, drift_rule rule, const float *gradient)
{
    double total = 0.0;
    if (step->drift.norm_clip <= 0.0f) return 1.0f;
    for (int64_t i = 0; i < step->size; ++i) {
        const double drift = drift_of(rule, gradient[i]);
        total += drift * drift;
    }
    const double norm = sqrt(total);
    return norm > step->drift.norm_clip ? (float)(step->drift.norm_clip / norm) : 1.0f;
}

CPU_CLONES static void langevin_row(void *argument, uint32_t thread, int64_t row)
{
    const mmebm_langevin_step *step = argument;
    const drift_rule rule = rule_of(step);
    const float *gradient = step->gradient + row * step->size;
    float *state = step->state + row * step->size, xi[BATCH];
    const float n = step->scales[1], factor = norm_factor(step, rule, gradient);
    const int has_range = step->state_min != step->state_max;
    const float low = has_range ? step->state_min : -INFINITY, high = has_range ? step->state_max : INFINITY;
    (void)thread;
    for (int64_t first = 0; first < step->size; first += BATCH) {
        const int64_t count = step->size - first < BATCH ? step->size - first : BATCH;
        draw_batch(&step->noise, MMEBM_GAUSSIAN, row, first, xi);
        for (int64_t i = 0; i < count; ++i) {
            const float moved = state[first + i] - factor * drift_of(rule, gradient[first + i]) + n * xi[i];
            state[first + i] = bounded(moved, low, high);
        }
    }
}

mmebm_status mmebm__cpu_langevin(mmebm_device *device, const mmebm_langevin_step *steps, uint32_t count)
{
    for (uint32_t k = 0; k < count; ++k) {
        union {
            const mmebm_langevin_step *read;
            void *argument;
        } job = {&steps[k]};
        mmebm__cpu_for_each(device, steps[k].rows, steps[k].size, langevin_row, job.argument);
    }
    return MMEBM_OK;
}

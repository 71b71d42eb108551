/* SPDX-License-Identifier: Apache-2.0
 *
 * Elementwise operations, sums and Adam over flat arrays, cut into pieces of a fixed length. As in the reference
 * backend values are worked out in double and rounded once: these loops wait for memory, not for arithmetic. A factor
 * 0 means that its operand is not read.
 */
#include "cpu_vector.h"

#include <math.h>

#include "cpu_simd.h"

enum { PIECE = 16384 /* floats */, INLINE_FLOATS = 8192, SUM_PIECES = 64 };

void mmebm__cpu_for_each(mmebm_device *device, int64_t items, int64_t floats_each, cpu_task task, void *argument)
{
    if (items > 1 && items * floats_each > INLINE_FLOATS) {
        mmebm__cpu_threads_run(device->threads, items, task, argument);
        return;
    }
    for (int64_t i = 0; i < items; ++i) task(argument, 0, i);
}

typedef struct flat_job {
    int64_t count;
    float *target;
    const float *source;
    float alpha, beta; /* fill: alpha = value; lerp: alpha = t, beta = source_scale */
} flat_job;

static void for_pieces(mmebm_device *device, int64_t count, cpu_task task, void *job)
{
    mmebm__cpu_for_each(device, (count + PIECE - 1) / PIECE, PIECE, task, job);
}

static int64_t piece_end(int64_t count, int64_t item)
{
    return (item + 1) * PIECE < count ? (item + 1) * PIECE : count;
}

CPU_CLONES static void fill_piece(void *argument, uint32_t thread, int64_t item)
{
    const flat_job *job = argument;
    const int64_t end = piece_end(job->count, item);
    (void)thread;
    for (int64_t i = item * PIECE; i < end; ++i) job->target[i] = job->alpha;
}

mmebm_status mmebm__cpu_fill(mmebm_device *device, int64_t count, float *target, float value)
{
    flat_job job = {.count = count, .target = target, .alpha = value};
    for_pieces(device, count, fill_piece, &job);
    return MMEBM_OK;
}

CPU_CLONES static void combine_piece(void *argument, uint32_t thread, int64_t item)
{
    const flat_job *job = argument;
    const int64_t end = piece_end(job->count, item);
    const double alpha = job->alpha, beta = job->beta;
    float *target = job->target;
    const float *source = job->source;
    (void)thread;
    for (int64_t i = item * PIECE; i < end; ++i) {
        const double kept = alpha == 0.0 ? 0.0 : alpha * target[i];
        target[i] = (float)(beta == 0.0 ? kept : kept + beta * source[i]);
    }
}

mmebm_status mmebm__cpu_combine(mmebm_device *device, int64_t count, float *target, float alpha, const float *source,
                                float beta)
{
    flat_job job = {count, target, source, alpha, beta};
    for_pieces(device, count, combine_piece, &job);
    return MMEBM_OK;
}

CPU_CLONES static void lerp_piece(void *argument, uint32_t thread, int64_t item)
{
    const flat_job *job = argument;
    const int64_t end = piece_end(job->count, item);
    const double t = job->alpha, scale = job->beta;
    float *target = job->target;
    const float *source = job->source;
    (void)thread;
    for (int64_t i = item * PIECE; i < end; ++i) target[i] = (float)(target[i] + t * (scale * source[i] - target[i]));
}

mmebm_status mmebm__cpu_lerp(mmebm_device *device, int64_t count, float *target, const float *source,
                             float source_scale, const float *t)
{
    flat_job job = {count, target, source, *t, source_scale};
    for_pieces(device, count, lerp_piece, &job);
    return MMEBM_OK;
}

/* ---- sums: a fixed number of pieces, eight interleaved partial sums in each */

typedef struct sum_job {
    int64_t count, piece;
    const float *values;
    uint32_t power;
    double sums[SUM_PIECES];
} sum_job;

CPU_INLINE double powered(uint32_t power, double value)
{
    return power == 1 ? value : power == 2 ? value * value : sqrt(value);
}

CPU_INLINE double sum_range(uint32_t power, int64_t count, const float *values)
{
    enum { LANES = 8 };
    double lane[LANES] = {0.0}, sum = 0.0;
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        for (int j = 0; j < LANES; ++j) lane[j] += powered(power, values[i + j]);
    for (int j = 0; i < count; ++i, ++j) lane[j] += powered(power, values[i]);
    for (int j = 0; j < LANES; ++j) sum += lane[j];
    return sum;
}

CPU_CLONES static void sum_piece(void *argument, uint32_t thread, int64_t item)
{
    sum_job *job = argument;
    const int64_t first = item * job->piece, rest = job->count - first;
    const int64_t count = rest < job->piece ? rest : job->piece;
    (void)thread;
    switch (job->power) {
    case 1: job->sums[item] = sum_range(1, count, job->values + first); break;
    case 2: job->sums[item] = sum_range(2, count, job->values + first); break;
    default: job->sums[item] = sum_range(0, count, job->values + first); break;
    }
}

mmebm_status mmebm__cpu_reduce(mmebm_device *device, int64_t count, const float *values, uint32_t power, float scale,
                               float *out)
{
    sum_job job = {.count = count, .values = values, .power = power};
    double total = 0.0;
    job.piece = (count + SUM_PIECES - 1) / SUM_PIECES;
    if (job.piece < 1024) job.piece = 1024;
    const int64_t pieces = (count + job.piece - 1) / job.piece;
    mmebm__cpu_for_each(device, pieces, job.piece, sum_piece, &job);
    for (int64_t i = 0; i < pieces; ++i) total += job.sums[i];
    *out = (float)(scale * total);
    return MMEBM_OK;
}

/* ---- Adam */

typedef struct adam_job {
    const mmebm_adam_step *step;
    double factor; /* of the gradient: clipping */
} adam_job;

CPU_CLONES static void adam_piece(void *argument, uint32_t thread, int64_t item)
{
    const adam_job *job = argument;
    const mmebm_adam_step *step = job->step;
    const double rate = step->control[0], correction1 = step->control[1], correction2 = step->control[2];
    const double beta1 = step->beta1, beta2 = step->beta2, epsilon = step->epsilon, factor = job->factor;
    const int64_t end = piece_end(step->count, item);
    float *restrict weights = step->weights, *restrict moments1 = step->moment1, *restrict moments2 = step->moment2;
    const float *restrict gradients = step->gradient;
    (void)thread;
    for (int64_t i = item * PIECE; i < end; ++i) {
        const double gradient = factor * gradients[i];
        const double moment1 = beta1 * moments1[i] + (1.0 - beta1) * gradient;
        const double moment2 = beta2 * moments2[i] + (1.0 - beta2) * gradient * gradient;
        const double update = moment1 / correction1 / (sqrt(moment2 / correction2) + epsilon);
        moments1[i] = (float)moment1;
        moments2[i] = (float)moment2;
        weights[i] = (float)(weights[i] - rate * update);
    }
}

mmebm_status mmebm__cpu_adam(mmebm_device *device, const mmebm_adam_step *step)
{
    adam_job job = {step, 1.0};
    if (step->clip > 0.0f && sqrt((double)*step->norm2) > step->clip)
        job.factor = step->clip / sqrt((double)*step->norm2);
    for_pieces(device, step->count, adam_piece, &job);
    return MMEBM_OK;
}

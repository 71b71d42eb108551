/* SPDX-License-Identifier: Apache-2.0
 *
 * The divergence guard (docs/training.md): two snapshots of all optimiser state are kept. The newer is a candidate, the
 * older has been followed by guard_interval good steps and so is proven. A bad step brings the proven one back, lowers
 * the rates and draws other noise.
 */
#include <math.h>

#include "trainer.h"

/* Rates below this share of what they were train nothing: a trainer that stays near a limit would go on for ever. */
static const double smallest_rate_factor = 1e-3;

/* The diagnostic that makes the step bad, or -1. */
static int bad_diagnostic(const mmebm_trainer *t)
{
    const mmebm_trainer_options *options = &t->options;
    const double *d = t->diagnostics;
    for (int i = 0; i < MMEBM_DIAGNOSTIC_COUNT; ++i) {
        if (!isfinite(d[i])) return i;
    }
    const double mean = t->counters.reconstruction_mean;
    /* Adam first overshoots: the paper's networks pass through six times the reconstruction that they begin at */
    const int settled = t->counters.updates > options->guard_interval;
    if (settled && mean > 0.0 && d[MMEBM_DIAGNOSTIC_RECONSTRUCTION] > options->guard_loss * mean + 50.0)
        return MMEBM_DIAGNOSTIC_RECONSTRUCTION;
    if (fabs(d[MMEBM_DIAGNOSTIC_DE_RAW]) > options->guard_energy) return MMEBM_DIAGNOSTIC_DE_RAW;
    if (d[MMEBM_DIAGNOSTIC_LATENT_NORM] > options->guard_latent) return MMEBM_DIAGNOSTIC_LATENT_NORM;
    return -1;
}

static mmebm_status copy_scales(const mmebm_trainer *t, float *target, const float *source)
{
    return t->context->ops->copy(t->context->device, target, source, 4 * sizeof(float));
}

mmebm_status mmebm__guard_snapshot(mmebm_trainer *t)
{
    const uint64_t slot = t->counters.valid_snapshots ? 1 - t->counters.newest_snapshot : 0;
    for (uint32_t p = 0; p < MMEBM_PART_COUNT; ++p) {
        const mmebm_optimiser *optimiser = &t->optimisers[p];
        MMEBM_TRY(t->context->ops->copy(t->context->device, optimiser->snapshot[slot], optimiser->block,
                                        optimiser->block_count * sizeof(float)));
    }
    MMEBM_TRY(copy_scales(t, t->scales_snapshot[slot], t->scales));
    t->counters.snapshot_step[slot] = t->counters.step;
    t->counters.snapshot_updates[slot] = t->counters.updates;
    t->counters.newest_snapshot = slot;
    t->counters.valid_snapshots += t->counters.valid_snapshots < 2;
    t->counters.since_snapshot = 0;
    return MMEBM_OK;
}

/* Back to the proven snapshot; with one snapshot only, to that. */
static mmebm_status restore(mmebm_trainer *t)
{
    const uint64_t newest = t->counters.newest_snapshot, slot = t->counters.valid_snapshots == 2 ? 1 - newest : newest;
    for (uint32_t p = 0; p < MMEBM_PART_COUNT; ++p) {
        mmebm_optimiser *optimiser = &t->optimisers[p];
        MMEBM_TRY(t->context->ops->copy(t->context->device, optimiser->block, optimiser->snapshot[slot],
                                        optimiser->block_count * sizeof(float)));
        MMEBM_TRY(mmebm__optimiser_publish(optimiser));
    }
    MMEBM_TRY(copy_scales(t, t->scales, t->scales_snapshot[slot]));
    t->counters.step = t->counters.snapshot_step[slot];
    t->counters.updates = t->counters.snapshot_updates[slot];
    t->counters.since_snapshot = 0;
    /* the candidate was made on the way to the bad step: only the proven one is left */
    t->counters.newest_snapshot = slot;
    t->counters.valid_snapshots = 1;
    return MMEBM_OK;
}

static mmebm_status roll_back(mmebm_trainer *t, int bad)
{
    const uint64_t bad_step = t->counters.step;
    const double value = t->diagnostics[bad];
    MMEBM_TRY(restore(t));
    t->counters.rate_factor *= t->options.guard_rate;
    ++t->counters.rollbacks;
    ++t->counters.tries;
    t->diagnostics[MMEBM_DIAGNOSTIC_ROLLBACKS] = (double)t->counters.rollbacks;
    t->diagnostics[MMEBM_DIAGNOSTIC_RATE_FACTOR] = t->counters.rate_factor;
    mmebm__log(t->context, MMEBM_LOG_WARNING,
               "trainer: step %llu diverged (%s = %g); back to step %llu, rates times %g",
               (unsigned long long)bad_step, mmebm_trainer_diagnostic_name((uint32_t)bad), value,
               (unsigned long long)t->counters.step, t->counters.rate_factor);
    if (t->counters.rate_factor < smallest_rate_factor)
        return mmebm__fail(t->context, MMEBM_E_DIVERGED,
                           "trainer_step: step %llu diverged (%s = %g): %llu rollbacks have taken the rates to %g of "
                           "what they were, wanted at least %g; the model is at step %llu",
                           (unsigned long long)bad_step, mmebm_trainer_diagnostic_name((uint32_t)bad), value,
                           (unsigned long long)t->counters.rollbacks, t->counters.rate_factor, smallest_rate_factor,
                           (unsigned long long)t->counters.step);
    if (t->counters.tries <= t->options.guard_tries) return MMEBM_OK;
    return mmebm__fail(t->context, MMEBM_E_DIVERGED,
                       "trainer_step: step %llu diverged (%s = %g): rollback %llu in a row, wanted at most %u; "
                       "the model is at step %llu",
                       (unsigned long long)bad_step, mmebm_trainer_diagnostic_name((uint32_t)bad), value,
                       (unsigned long long)t->counters.tries, t->options.guard_tries,
                       (unsigned long long)t->counters.step);
}

mmebm_status mmebm__guard_watch(mmebm_trainer *t, int *good)
{
    const int bad = bad_diagnostic(t);
    *good = bad < 0;
    if (*good) {
        const double value = t->diagnostics[MMEBM_DIAGNOSTIC_RECONSTRUCTION];
        double *mean = &t->counters.reconstruction_mean;
        *mean = *mean > 0.0 ? 0.99 * *mean + 0.01 * value : value;
        if (!t->options.guard_interval || ++t->counters.since_snapshot < t->options.guard_interval) return MMEBM_OK;
        t->counters.tries = 0;
        return mmebm__guard_snapshot(t);
    }
    if (t->options.guard_interval) return roll_back(t, bad);
    return mmebm__fail(t->context, MMEBM_E_DIVERGED,
                       "trainer_step: step %llu diverged (%s = %g) and guard_interval is 0, so nothing can be restored",
                       (unsigned long long)t->counters.step, mmebm_trainer_diagnostic_name((uint32_t)bad),
                       t->diagnostics[bad]);
}

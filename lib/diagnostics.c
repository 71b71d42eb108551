/* SPDX-License-Identifier: Apache-2.0
 *
 * The numbers of a training step by name (formulas: docs/training.md).
 */
#include <string.h>

#include "trainer.h"

static const char *const names[MMEBM_DIAGNOSTIC_COUNT] = {
#define NAME(id, name) name,
    MMEBM_DIAGNOSTIC_LIST(NAME)
#undef NAME
};

uint32_t mmebm_trainer_diagnostic_count(void)
{
    return MMEBM_DIAGNOSTIC_COUNT;
}

const char *mmebm_trainer_diagnostic_name(uint32_t index)
{
    return index < MMEBM_DIAGNOSTIC_COUNT ? names[index] : NULL;
}

mmebm_status mmebm_trainer_diagnostic(const mmebm_trainer *trainer, const char *name, double *value)
{
    if (!trainer) return MMEBM_E_ARGUMENT;
    mmebm__clear_error(trainer->context);
    if (!name || !value)
        return mmebm__fail(trainer->context, MMEBM_E_ARGUMENT, "trainer_diagnostic: %s is NULL",
                           name ? "value" : "name");
    MMEBM_TRY(mmebm__trainer_collect((mmebm_trainer *)trainer)); /* what the caller sees does not change by it */
    for (uint32_t i = 0; i < MMEBM_DIAGNOSTIC_COUNT; ++i) {
        if (strcmp(names[i], name) == 0) {
            *value = trainer->diagnostics[i];
            return MMEBM_OK;
        }
    }
    return mmebm__fail(trainer->context, MMEBM_E_NAME,
                       "trainer_diagnostic: '%.64s' is no diagnostic; mmebm_trainer_diagnostic_name lists them", name);
}

void mmebm__diagnostics_complete(mmebm_trainer *trainer)
{
    const mmebm_trainer_options *options = &trainer->options;
    double *d = trainer->diagnostics;
    const double difference = d[MMEBM_DIAGNOSTIC_ENERGY_DATA] - d[MMEBM_DIAGNOSTIC_ENERGY_REVISED];
    const double match = d[MMEBM_DIAGNOSTIC_ENERGY_DATA] - d[MMEBM_DIAGNOSTIC_ENERGY_MISMATCHED];
    const double squares = d[MMEBM_DIAGNOSTIC_ENERGY_SQUARE_DATA] + d[MMEBM_DIAGNOSTIC_ENERGY_SQUARE_REVISED] +
                           d[MMEBM_DIAGNOSTIC_ENERGY_SQUARE_MISMATCHED];
    d[MMEBM_DIAGNOSTIC_STEP] = (double)trainer->counters.step;
    d[MMEBM_DIAGNOSTIC_LOSS_GENERATOR] = options->weight_reconstruction * d[MMEBM_DIAGNOSTIC_RECONSTRUCTION] +
                                         options->weight_synthesis * d[MMEBM_DIAGNOSTIC_SYNTHESIS];
    d[MMEBM_DIAGNOSTIC_LOSS_INFERENCE] = -options->weight_inference * d[MMEBM_DIAGNOSTIC_LOG_Q_DATA] -
                                         options->weight_inference_revised * d[MMEBM_DIAGNOSTIC_LOG_Q_REVISED];
    d[MMEBM_DIAGNOSTIC_LOSS_ENERGY] =
        (difference + options->weight_mismatched * match + options->energy_penalty * squares) / options->temperature;
    d[MMEBM_DIAGNOSTIC_DE_RAW] = difference;
    d[MMEBM_DIAGNOSTIC_DE_SCALED] = difference / options->temperature;
    d[MMEBM_DIAGNOSTIC_LOG_P_REVISED] = -d[MMEBM_DIAGNOSTIC_SYNTHESIS];
    d[MMEBM_DIAGNOSTIC_RATE_FACTOR] = trainer->counters.rate_factor;
    d[MMEBM_DIAGNOSTIC_ROLLBACKS] = (double)trainer->counters.rollbacks;
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * The prior as the energy tilts it, E(z) = U(G(z)) / T - log p0(z): one plan of decoders and energy, on a copy of the
 * weights of both. It is made at the first call, and anew at one with another temperature.
 */
#include <string.h>

#include "sampler.h"

void mmebm__tilt_close(mmebm_sampler *sampler)
{
    mmebm_tilt *tilt = &sampler->tilt;
    mmebm__plan_close(sampler->context, &tilt->plan);
    mmebm__device_free(sampler->context, tilt->part.weights, tilt->part.graph.weight_count);
    mmebm__graph_free(sampler->context, &tilt->part.graph);
    memset(tilt, 0, sizeof *tilt);
}

static mmebm_status open_tilt(mmebm_sampler *sampler, float temperature)
{
    mmebm_context *context = sampler->context;
    mmebm_tilt *tilt = &sampler->tilt;
    MMEBM_TRY(mmebm__graph_tilted(sampler->model, temperature, &tilt->part.graph));
    MMEBM_TRY(mmebm__device_floats(context, tilt->part.graph.weight_count, &tilt->part.weights));
    return mmebm__sampler_plan(sampler, &tilt->part.graph, &tilt->part, 1, sampler->capacity, &tilt->plan);
}

/* Takes over weights that changed. */
static mmebm_status copy_weights(mmebm_sampler *sampler)
{
    static const uint32_t order[] = {MMEBM_PART_GENERATOR, MMEBM_PART_ENERGY}; /* as in the graph */
    const mmebm_context *context = sampler->context;
    mmebm_tilt *tilt = &sampler->tilt;
    float *to = tilt->part.weights;
    for (uint32_t k = 0; k < 2; ++k) {
        const mmebm_part *part = &sampler->model->parts[order[k]];
        if (tilt->taken[k] != part->revision) {
            MMEBM_TRY(context->ops->copy(context->device, to, part->weights, part->graph.weight_count * sizeof *to));
            tilt->taken[k] = part->revision;
            ++tilt->part.revision;
        }
        to += part->graph.weight_count;
    }
    return MMEBM_OK;
}

mmebm_status mmebm__tilt_find(mmebm_sampler *sampler, float temperature)
{
    mmebm_tilt *tilt = &sampler->tilt;
    if (tilt->temperature != temperature) {
        mmebm__tilt_close(sampler);
        const mmebm_status status = open_tilt(sampler, temperature);
        if (status != MMEBM_OK) {
            mmebm__tilt_close(sampler);
            return status;
        }
        tilt->temperature = temperature;
    }
    return copy_weights(sampler);
}

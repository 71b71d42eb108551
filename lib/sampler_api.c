/* SPDX-License-Identifier: Apache-2.0
 *
 * The calls that work on a model without keeping a plan: make a sampler, call it, destroy it.
 */
#include "sampler.h"

/* Its capacity fits small calls without waste; larger ones loop. */
static mmebm_status open_sampler(mmebm_model *model, const mmebm_view *view, mmebm_sampler **sampler)
{
    mmebm_sampler_options options;
    MMEBM_TRY(mmebm_sampler_options_init(&options));
    if (view && view->rank >= 1 && view->shape[0] >= 1 && view->shape[0] < (int64_t)options.capacity)
        options.capacity = (uint32_t)view->shape[0];
    return mmebm_sampler_create(model, &options, sampler);
}

#define ONE_USE(model, view, call)                                                                 \
    do {                                                                                           \
        mmebm_sampler *sampler;                                                                    \
        MMEBM_TRY(open_sampler((model), (view), &sampler));                                        \
        const mmebm_status status = (call);                                                        \
        mmebm_sampler_destroy(&sampler);                                                           \
        return status;                                                                             \
    } while (0)

mmebm_status mmebm_energy(mmebm_model *model, const mmebm_view *x, mmebm_view *u)
{
    ONE_USE(model, x, mmebm_sampler_energy(sampler, x, u));
}

mmebm_status mmebm_score(mmebm_model *model, const mmebm_view *x, float temperature, mmebm_view *score)
{
    ONE_USE(model, x, mmebm_sampler_score(sampler, x, temperature, score));
}

mmebm_status mmebm_encode(mmebm_model *model, uint32_t modality, const mmebm_view *x, mmebm_view *mean,
                          mmebm_view *scale)
{
    ONE_USE(model, x, mmebm_sampler_encode(sampler, modality, x, mean, scale));
}

mmebm_status mmebm_generate(mmebm_model *model, const mmebm_view *z, mmebm_view *x)
{
    ONE_USE(model, z, mmebm_sampler_generate(sampler, z, x));
}

mmebm_status mmebm_langevin_x(mmebm_model *model, const mmebm_langevin_options *options, mmebm_view *x,
                              mmebm_chain_record *record)
{
    ONE_USE(model, x, mmebm_sampler_langevin_x(sampler, options, x, record));
}

mmebm_status mmebm_langevin_z(mmebm_model *model, const mmebm_langevin_options *options, const mmebm_view *x,
                              mmebm_view *z, mmebm_chain_record *record)
{
    ONE_USE(model, NULL, mmebm_sampler_langevin_z(sampler, options, x, z, record));
}

mmebm_status mmebm_sample(mmebm_model *model, const mmebm_sample_options *options, mmebm_view *x)
{
    ONE_USE(model, x, mmebm_sampler_sample(sampler, options, x));
}

mmebm_status mmebm_sample_given(mmebm_model *model, const mmebm_sample_options *options, mmebm_view *x)
{
    ONE_USE(model, x, mmebm_sampler_sample_given(sampler, options, x));
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * Draws made of the pieces: z ~ p0 or a fitted mixture -> langevin_prior -> generator -> langevin_x, and for given
 * modalities x_O -> q -> langevin_z -> generator -> langevin_x with x_O clamped (rulings F8, F11, F12).
 */
#include <math.h>

#include "latent_mixture.h"
#include "sampler.h"
#include "struct_size.h"

typedef struct sample_plan {
    mmebm_sample_options options;
    mmebm_langevin_options z, x;
    mmebm_posterior *posterior;
    mmebm_latent_mixture prior; /* if options.prior */
} sample_plan;

/* The chain of latents: langevin_z, or without anything given langevin_prior. */
static mmebm_status read_latent_chain(mmebm_sampler *sampler, const char *what, int with_given, sample_plan *plan)
{
    const mmebm_sample_options *options = &plan->options;
    if (!options->langevin_z) return MMEBM_OK;
    if (options->prior)
        return mmebm__fail(sampler->context, MMEBM_E_ARGUMENT,
                           "%s: prior and langevin_z are set, wanted one of them, for langevin_prior tilts p0", what);
    MMEBM_TRY(with_given ? mmebm__langevin_z_options(sampler, options->langevin_z, &plan->z)
                         : mmebm__langevin_prior_options(sampler, options->langevin_z, &plan->z));
    MMEBM_TRY(mmebm__posterior_find(sampler, options->observed, plan->z.prior_temperature, &plan->posterior));
    return mmebm__upload_scales_z(sampler, &plan->z);
}

static mmebm_status read_options(mmebm_sampler *sampler, const char *what, const mmebm_sample_options *given,
                                 int with_given, sample_plan *plan)
{
    mmebm_context *context = sampler->context;
    MMEBM_TRY(mmebm_sample_options_init(&plan->options));
    mmebm_sample_options *options = &plan->options;
    if (given) MMEBM_TRY(mmebm__struct_read(context, what, given, options, sizeof *options, sizeof *options));
    MMEBM_TRY(mmebm__check_start(context, what, options->start));
    const uint64_t observed = options->observed;
    if (!with_given && (observed || options->all_experts || options->guidance != 0.0f))
        return mmebm__fail(context, MMEBM_E_ARGUMENT,
                           "%s: observed, all_experts or guidance is set, wanted all of them unset here", what);
    if (with_given && (observed == 0 || observed & ~sampler->all || observed == sampler->all))
        return mmebm__fail(context, MMEBM_E_ARGUMENT,
                           "%s: observed is 0x%llx, wanted some but not all of the %u lowest bits", what,
                           (unsigned long long)observed, sampler->modalities);
    if (!isfinite(options->guidance) || options->guidance < 0.0f)
        return mmebm__fail(context, MMEBM_E_ARGUMENT, "%s: guidance is %g, wanted a positive number, or 0 for none",
                           what, (double)options->guidance);
    MMEBM_TRY(mmebm__reserved_check(context, what, options->reserved));
    MMEBM_TRY(mmebm__reserved_check(context, what, options->reserved1));
    if (options->all_experts > 1 || (options->all_experts && !options->langevin_z))
        return mmebm__fail(context, MMEBM_E_ARGUMENT, "%s: all_experts is %u %s langevin_z, wanted 0, or 1 with it",
                           what, options->all_experts, options->langevin_z ? "with" : "without");
    if (options->prior && with_given)
        return mmebm__fail(context, MMEBM_E_ARGUMENT, "%s: prior is set, but what is given decides z here; wanted NULL",
                           what);
    if (options->prior)
        MMEBM_TRY(mmebm__latent_mixture_check(context, "sample: prior", options->prior, sampler->latent_size,
                                              &plan->prior));
    MMEBM_TRY(read_latent_chain(sampler, what, with_given, plan));
    if (options->langevin_x) {
        MMEBM_TRY(mmebm__langevin_x_options(sampler, options->langevin_x, &plan->x));
        MMEBM_TRY(mmebm__upload_scales_x(sampler, &plan->x));
        plan->x.observed = observed;
    }
    return MMEBM_OK;
}

/* z is in place: the missing modalities follow, then their revision. */
static mmebm_status generate_and_revise(mmebm_sampler *sampler, const sample_plan *plan, uint64_t missing, int64_t rows)
{
    MMEBM_TRY(mmebm__generate_rows(sampler, missing, rows));
    if (!plan->options.langevin_x) return MMEBM_OK;
    return mmebm__langevin_x_rows(sampler, &plan->x, rows, NULL, NULL);
}

/* z from p0, or from the mixture that takes its place. */
static mmebm_status draw_prior(mmebm_sampler *sampler, const sample_plan *plan, int64_t first, int64_t rows)
{
    const mmebm_context *context = sampler->context;
    const mmebm_model_options *model = &sampler->model->options;
    const uint64_t chain = plan->options.first_chain + (uint64_t)first;
    MMEBM_TRY(mmebm__set_key(sampler, plan->options.seed, chain));
    if (plan->options.prior) {
        mmebm__latent_mixture_draw(&plan->prior, plan->options.seed, chain, rows, sampler->host);
        return context->ops->upload(context->device, sampler->z, sampler->host,
                                    (size_t)(rows * sampler->latent_size) * sizeof(float));
    }
    const mmebm_noise noise = {sampler->key, rows, MMEBM_STREAM_PRIOR, 0};
    return context->ops->noise(context->device, rows, sampler->latent_size, sampler->z, model->prior,
                               model->prior_scale, 0.0f, &noise);
}

mmebm_status mmebm_sampler_sample(mmebm_sampler *sampler, const mmebm_sample_options *given, mmebm_view *x)
{
    if (!sampler) return MMEBM_E_ARGUMENT;
    mmebm__clear_error(sampler->context);
    sample_plan plan = {0};
    int64_t n = 0;
    MMEBM_TRY(mmebm__check_tuples(sampler, "sample", x, sampler->all, &n));
    MMEBM_TRY(read_options(sampler, "sample", given, 0, &plan));
    for (int64_t first = 0; first < n; first += sampler->capacity) {
        const int64_t rows = n - first < sampler->capacity ? n - first : sampler->capacity;
        MMEBM_TRY(draw_prior(sampler, &plan, first, rows));
        if (plan.options.langevin_z)
            MMEBM_TRY(mmebm__langevin_z_rows(sampler, &plan.z, plan.posterior, 1, rows, NULL, NULL));
        MMEBM_TRY(generate_and_revise(sampler, &plan, sampler->all, rows));
        MMEBM_TRY(mmebm__download_tuples(sampler, x, sampler->all, first, rows));
    }
    return MMEBM_OK;
}

/* An observer for its effect: under ULA a chain has energies only if somebody looks on. MALA needs them itself. */
static mmebm_status look_on(void *user, uint32_t step)
{
    (void)user;
    (void)step;
    return MMEBM_OK;
}

/* Of each tuple's chains from all experts, one after another in z, the one of lowest energy goes to the first's place.
 * An energy that is not finite is never the lowest. */
static mmebm_status keep_lowest(mmebm_sampler *sampler, uint32_t experts, int64_t rows)
{
    const mmebm_context *context = sampler->context;
    const int64_t size = sampler->latent_size;
    const float *energy = sampler->host;
    MMEBM_TRY(context->ops->download(context->device, sampler->host, sampler->row_energy,
                                     (size_t)(experts * rows) * sizeof(float)));
    for (int64_t r = 0; r < rows; ++r) {
        int64_t lowest = r;
        for (int64_t chain = r + rows; chain < experts * rows; chain += rows) {
            const int lower = energy[chain] < energy[lowest] || !isfinite(energy[lowest]);
            if (lower && isfinite(energy[chain])) lowest = chain;
        }
        if (lowest != r)
            MMEBM_TRY(context->ops->copy(context->device, sampler->z + r * size, sampler->z + lowest * size,
                                         (size_t)size * sizeof(float)));
    }
    return MMEBM_OK;
}

/* z <- guidance z */
static mmebm_status guide(mmebm_sampler *sampler, float guidance, int64_t rows)
{
    const mmebm_context *context = sampler->context;
    if (guidance == 0.0f || guidance == 1.0f) return MMEBM_OK;
    return context->ops->combine(context->device, rows * sampler->latent_size, sampler->z, guidance, sampler->z, 0.0f);
}

/* z <- q(z | x_O), guided, then langevin_z if asked. */
static mmebm_status draw_given(mmebm_sampler *sampler, const sample_plan *plan, int64_t rows)
{
    const mmebm_sample_options *options = &plan->options;
    const uint32_t experts = options->all_experts ? (uint32_t)__builtin_popcountll(options->observed) : 1;
    MMEBM_TRY(mmebm__draw_rows(sampler, options->observed, options->start, !options->all_experts, rows));
    MMEBM_TRY(guide(sampler, options->guidance, experts * rows));
    if (!options->langevin_z) return MMEBM_OK;
    const mmebm_chain_observer observer = options->all_experts && plan->z.method != MMEBM_MALA ? look_on : NULL;
    MMEBM_TRY(mmebm__langevin_z_rows(sampler, &plan->z, plan->posterior, experts, rows, observer, NULL));
    return options->all_experts ? keep_lowest(sampler, experts, rows) : MMEBM_OK;
}

mmebm_status mmebm_sampler_sample_given(mmebm_sampler *sampler, const mmebm_sample_options *given, mmebm_view *x)
{
    if (!sampler) return MMEBM_E_ARGUMENT;
    mmebm__clear_error(sampler->context);
    sample_plan plan = {0};
    int64_t n = 0;
    MMEBM_TRY(mmebm__check_tuples(sampler, "sample_given", x, sampler->all, &n));
    MMEBM_TRY(read_options(sampler, "sample_given", given, 1, &plan));
    const uint64_t observed = plan.options.observed, missing = sampler->all & ~observed;
    for (int64_t first = 0; first < n; first += sampler->capacity) {
        const int64_t rows = n - first < sampler->capacity ? n - first : sampler->capacity;
        MMEBM_TRY(mmebm__upload_tuples(sampler, x, observed, first, rows));
        MMEBM_TRY(mmebm__set_key(sampler, plan.options.seed, plan.options.first_chain + (uint64_t)first));
        MMEBM_TRY(draw_given(sampler, &plan, rows));
        MMEBM_TRY(generate_and_revise(sampler, &plan, missing, rows));
        MMEBM_TRY(mmebm__download_tuples(sampler, x, missing, first, rows));
    }
    return MMEBM_OK;
}

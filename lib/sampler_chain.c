/* SPDX-License-Identifier: Apache-2.0
 *
 * langevin_x, langevin_z and langevin_prior on a sampler's buffers, and what they record. Each is mmebm__chain_run
 * (chain.c) on another energy graph.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "sampler.h"
#include "struct_size.h"

enum { MAX_STEPS = 1 << 24 };

/* ---- options */

static mmebm_status check_scale(const mmebm_sampler *sampler, const char *what, const char *field, float value,
                                int zero_is_fine)
{
    if (isfinite(value) && (value > 0.0f || (zero_is_fine && value == 0.0f))) return MMEBM_OK;
    return mmebm__fail(sampler->context, MMEBM_E_ARGUMENT, "%s: %s is %g, wanted a finite number %s 0", what, field,
                       (double)value, zero_is_fine ? "of at least" : "above");
}

static mmebm_status check_common(const mmebm_sampler *sampler, const char *what, const mmebm_langevin_options *options)
{
    if (options->n_steps > MAX_STEPS)
        return mmebm__fail(sampler->context, MMEBM_E_ARGUMENT, "%s: n_steps is %u, wanted at most %d", what,
                           options->n_steps, MAX_STEPS);
    MMEBM_TRY(check_scale(sampler, what, "step_size", options->step_size, 0));
    MMEBM_TRY(check_scale(sampler, what, "noise_scale", options->noise_scale, 1));
    MMEBM_TRY(check_scale(sampler, what, "drift_clamp", options->drift_clamp, 1));
    MMEBM_TRY(check_scale(sampler, what, "drift_norm_clip", options->drift_norm_clip, 1));
    MMEBM_TRY(mmebm__prior_temperature_check(sampler->context, what, options->prior_temperature));
    if (options->trajectory_stride < 1)
        return mmebm__fail(sampler->context, MMEBM_E_ARGUMENT, "%s: trajectory_stride is 0, wanted at least 1", what);
    return mmebm__reserved_check(sampler->context, what, options->reserved | options->reserved1);
}

mmebm_status mmebm__langevin_x_options(const mmebm_sampler *sampler, const mmebm_langevin_options *given,
                                       mmebm_langevin_options *options)
{
    mmebm_context *context = sampler->context;
    const char *what = "langevin_x";
    MMEBM_TRY(mmebm_langevin_x_options_init(options));
    if (given) MMEBM_TRY(mmebm__struct_read(context, what, given, options, sizeof *options, sizeof *options));
    MMEBM_TRY(check_common(sampler, what, options));
    if (options->method != MMEBM_ULA)
        return mmebm__fail(context, options->method == MMEBM_MALA ? MMEBM_E_UNSUPPORTED : MMEBM_E_ARGUMENT,
                           "%s: method is %u, wanted MMEBM_ULA", what, options->method);
    if (options->observed & ~sampler->all || options->observed == sampler->all)
        return mmebm__fail(context, MMEBM_E_ARGUMENT,
                           "%s: observed is 0x%llx, wanted some but not all of the %u lowest bits", what,
                           (unsigned long long)options->observed, sampler->modalities);
    if (!isfinite(options->state_min) || !isfinite(options->state_max) || options->state_min > options->state_max)
        return mmebm__fail(context, MMEBM_E_ARGUMENT, "%s: state range is [%g, %g], wanted finite and rising", what,
                           (double)options->state_min, (double)options->state_max);
    if (options->prior_temperature != 0.0f)
        return mmebm__fail(context, MMEBM_E_ARGUMENT, "%s: prior_temperature is %g, but no latents are moved; wanted 0",
                           what, (double)options->prior_temperature);
    for (uint32_t i = 0; i < sampler->modalities; ++i) {
        if (options->step_sizes) MMEBM_TRY(check_scale(sampler, what, "a step size", options->step_sizes[i], 0));
        if (options->noise_scales) MMEBM_TRY(check_scale(sampler, what, "a noise scale", options->noise_scales[i], 1));
    }
    return MMEBM_OK;
}

/* Of a chain of latents. */
static mmebm_status latent_options(const mmebm_sampler *sampler, const char *what, const mmebm_langevin_options *given,
                                   mmebm_langevin_options *options)
{
    mmebm_context *context = sampler->context;
    MMEBM_TRY(mmebm_langevin_z_options_init(options));
    if (given) MMEBM_TRY(mmebm__struct_read(context, what, given, options, sizeof *options, sizeof *options));
    MMEBM_TRY(check_common(sampler, what, options));
    if (options->method != MMEBM_ULA && options->method != MMEBM_MALA)
        return mmebm__fail(context, MMEBM_E_ARGUMENT, "%s: method is %u, wanted MMEBM_ULA or MMEBM_MALA", what,
                           options->method);
    if (options->method == MMEBM_MALA && options->noise_scale != options->step_size)
        return mmebm__fail(context, MMEBM_E_ARGUMENT, "%s: noise_scale is %g, but MALA wants it equal to step_size, %g",
                           what, (double)options->noise_scale, (double)options->step_size);
    if (options->reduction != MMEBM_REDUCE_SUM && options->reduction != MMEBM_REDUCE_MEAN)
        return mmebm__fail(context, MMEBM_E_ARGUMENT, "%s: reduction is %u, wanted MMEBM_REDUCE_SUM or _MEAN", what,
                           options->reduction);
    if (options->step_sizes || options->noise_scales || options->state_min != 0.0f || options->state_max != 0.0f)
        return mmebm__fail(context, MMEBM_E_ARGUMENT,
                           "%s: step_sizes, noise_scales, state_min and state_max are langevin_x's; wanted unset",
                           what);
    return MMEBM_OK;
}

mmebm_status mmebm__langevin_z_options(const mmebm_sampler *sampler, const mmebm_langevin_options *given,
                                       mmebm_langevin_options *options)
{
    MMEBM_TRY(latent_options(sampler, "langevin_z", given, options));
    return mmebm__observed_set(sampler, "langevin_z", options->observed, &options->observed);
}

mmebm_status mmebm__langevin_prior_options(const mmebm_sampler *sampler, const mmebm_langevin_options *given,
                                           mmebm_langevin_options *options)
{
    const char *what = "langevin_prior";
    MMEBM_TRY(latent_options(sampler, what, given, options));
    return check_scale(sampler, what, "prior_temperature", options->prior_temperature, 0);
}

static mmebm_status upload_scales(mmebm_sampler *sampler, uint32_t slot, float step_size, float noise_scale)
{
    const float pair[2] = {step_size, noise_scale};
    return sampler->context->ops->upload(sampler->context->device, sampler->scales + 2 * slot, pair, sizeof pair);
}

mmebm_status mmebm__upload_scales_x(mmebm_sampler *sampler, const mmebm_langevin_options *options)
{
    for (uint32_t i = 0; i < sampler->modalities; ++i)
        MMEBM_TRY(upload_scales(sampler, i, options->step_sizes ? options->step_sizes[i] : options->step_size,
                                options->noise_scales ? options->noise_scales[i] : options->noise_scale));
    return MMEBM_OK;
}

mmebm_status mmebm__upload_scales_z(mmebm_sampler *sampler, const mmebm_langevin_options *options)
{
    return upload_scales(sampler, sampler->modalities, options->step_size, options->noise_scale);
}

static mmebm_chain_rule rule_of(const mmebm_langevin_options *options, float drift_factor)
{
    return (mmebm_chain_rule){
        .n_steps = options->n_steps,
        .method = options->method,
        .drift = {drift_factor, options->drift_clamp, options->drift_norm_clip},
        .state_min = options->state_min,
        .state_max = options->state_max,
    };
}

/* ---- chains on the device buffers */

mmebm_status mmebm__langevin_x_rows(mmebm_sampler *sampler, const mmebm_langevin_options *options, int64_t rows,
                                    mmebm_chain_observer observer, void *user)
{
    mmebm_chain chain = {
        .context = sampler->context,
        .plan = &sampler->energy,
        .input_count = sampler->modalities,
        .key = sampler->key,
        .energy = sampler->row_energy,
    };
    for (uint32_t i = 0; i < sampler->modalities; ++i) {
        chain.inputs[i] = (mmebm_chain_input){
            .value = sampler->x[i],
            .period = rows,
            .size = sampler->model->modality_count[i],
            .gradient = options->observed >> i & 1 ? NULL : sampler->x_gradient[i],
            .scales = sampler->scales + 2 * i,
            .stream = MMEBM_STREAM_X + i,
        };
    }
    const mmebm_chain_rule rule = rule_of(options, 1.0f);
    return mmebm__chain_run(&chain, &rule, rows, rows, observer, user);
}

mmebm_status mmebm__langevin_z_rows(mmebm_sampler *sampler, const mmebm_langevin_options *options,
                                    mmebm_posterior *posterior, uint32_t experts, int64_t rows,
                                    mmebm_chain_observer observer, void *user)
{
    mmebm_chain chain = {
        .context = sampler->context,
        .plan = &posterior->plan,
        .input_count = 1,
        .key = sampler->key,
        .energy = sampler->row_energy,
        .proposal = sampler->proposal,
        .proposal_gradient = sampler->proposal_gradient,
        .proposal_energy = sampler->proposal_energy,
        .accepted = sampler->accepted,
    };
    chain.inputs[0] = (mmebm_chain_input){
        .value = sampler->z,
        .period = rows * experts,
        .size = sampler->latent_size,
        .gradient = sampler->z_gradient,
        .scales = sampler->scales + 2 * sampler->modalities,
        .stream = MMEBM_STREAM_Z,
    };
    for (uint32_t i = 0; i < sampler->modalities; ++i) {
        if (!(posterior->observed >> i & 1)) continue;
        chain.inputs[chain.input_count++] = (mmebm_chain_input){
            .value = sampler->x[i], .period = rows, .size = sampler->model->modality_count[i]};
    }
    const float factor = options->reduction == MMEBM_REDUCE_MEAN ? 1.0f / (float)experts : 1.0f;
    const mmebm_chain_rule rule = rule_of(options, factor);
    return mmebm__chain_run(&chain, &rule, rows * experts, rows, observer, user);
}

/* ---- records */

/* One part of a call that records: chains e n + first .. + rows for each expert e of the call. */
typedef struct recorder {
    mmebm_sampler *sampler;
    const mmebm_langevin_options *options;
    mmebm_chain_record *record;
    float **state;         /* device states: M of them for x, one for z */
    const int64_t *size;   /* floats in a row of each */
    uint32_t state_count;
    int64_t experts, n, first, rows;
} recorder;

/* Copies device rows [experts * rows, size] to their places in frame `frame` of a [frames, experts * n, size] view. */
static mmebm_status store(const recorder *r, const float *device, int64_t size, const mmebm_view *view, int64_t frame)
{
    for (int64_t e = 0; e < r->experts; ++e)
        MMEBM_TRY(mmebm__view_from_device(r->sampler->context, view,
                                          ((frame * r->experts + e) * r->n + r->first) * size, r->rows * size,
                                          device + e * r->rows * size));
    return MMEBM_OK;
}

static mmebm_status observe(void *user, uint32_t k)
{
    const recorder *r = user;
    const mmebm_chain_record *record = r->record;
    if (record->energy) MMEBM_TRY(store(r, r->sampler->row_energy, 1, record->energy, k));
    if (!record->trajectory || k % r->options->trajectory_stride) return MMEBM_OK;
    for (uint32_t i = 0; i < r->state_count; ++i)
        MMEBM_TRY(store(r, r->state[i], r->size[i], mmebm__view_at(record->trajectory, i),
                        k / r->options->trajectory_stride));
    return MMEBM_OK;
}

/* Adds the part's sum over chains of |end - start|^2 and of accepted shares; writes acceptances. */
static mmebm_status record_end(const recorder *r, float *const *start, double *displacement, double *acceptance)
{
    mmebm_sampler *sampler = r->sampler;
    const mmebm_context *context = sampler->context;
    const int64_t chains = r->rows * r->experts;
    for (uint32_t i = 0; i < r->state_count; ++i) {
        MMEBM_TRY(context->ops->row_distance(context->device, chains, r->size[i], r->state[i], start[i],
                                             sampler->row_value));
        MMEBM_TRY(context->ops->download(context->device, sampler->host, sampler->row_value,
                                         (size_t)chains * sizeof(float)));
        for (int64_t c = 0; c < chains; ++c)
            *displacement += sampler->host[c];
    }
    const int mala = r->options->method == MMEBM_MALA && r->options->n_steps > 0;
    if (mala)
        MMEBM_TRY(context->ops->download(context->device, sampler->host, sampler->accepted,
                                         (size_t)chains * sizeof(float)));
    for (int64_t c = 0; c < chains; ++c) {
        sampler->host[c] = mala ? sampler->host[c] / (float)r->options->n_steps : 1.0f;
        *acceptance += sampler->host[c];
    }
    for (int64_t e = 0; r->record->acceptance && e < r->experts; ++e)
        MMEBM_TRY(mmebm__view_from_host(sampler->context, r->record->acceptance, e * r->n + r->first, r->rows,
                                        sampler->host + e * r->rows));
    return MMEBM_OK;
}

/* Checks the record's views and reads the struct; shape[i] = axes after the frame's. */
static mmebm_status read_record(const mmebm_sampler *sampler, const char *what, mmebm_chain_record *given,
                                const mmebm_langevin_options *options, const recorder *r,
                                const uint32_t *rank, int64_t (*shape)[MMEBM_MAX_RANK], mmebm_chain_record *record)
{
    mmebm_context *context = sampler->context;
    MMEBM_TRY(mmebm__struct_read(context, "chain record", given, record, sizeof *record, sizeof *record));
    MMEBM_TRY(mmebm__reserved_check(context, "chain record", record->reserved));
    int64_t chains = r->n * r->experts, frames = (int64_t)options->n_steps / options->trajectory_stride + 1;
    int64_t states = (int64_t)options->n_steps + 1;
    char name[64];
    snprintf(name, sizeof name, "%s: record 'energy'", what);
    if (record->energy) MMEBM_TRY(mmebm__view_check(context, name, record->energy, 1, &chains, &states));
    snprintf(name, sizeof name, "%s: record 'acceptance'", what);
    if (record->acceptance) MMEBM_TRY(mmebm__view_check(context, name, record->acceptance, 0, NULL, &chains));
    snprintf(name, sizeof name, "%s: record 'trajectory'", what);
    for (uint32_t i = 0; record->trajectory && i < r->state_count; ++i)
        MMEBM_TRY(mmebm__view_check(context, name, mmebm__view_at(record->trajectory, i), rank[i], shape[i], &frames));
    return MMEBM_OK;
}

static mmebm_status finish_record(mmebm_sampler *sampler, mmebm_chain_record *given, mmebm_chain_record *record,
                                  double displacement, double acceptance, int64_t chains)
{
    record->displacement = (float)(displacement / (double)chains);
    record->mean_acceptance = (float)(acceptance / (double)chains);
    return mmebm__struct_write(sampler->context, "chain record", given, record, sizeof *record, sizeof *record);
}

static mmebm_status keep_start(const recorder *r, float *const *start)
{
    const mmebm_context *context = r->sampler->context;
    for (uint32_t i = 0; i < r->state_count; ++i)
        MMEBM_TRY(context->ops->copy(context->device, start[i], r->state[i],
                                     (size_t)(r->rows * r->experts * r->size[i]) * sizeof(float)));
    return MMEBM_OK;
}

/* ---- the public calls */

mmebm_status mmebm_sampler_langevin_x(mmebm_sampler *sampler, const mmebm_langevin_options *given, mmebm_view *x,
                                      mmebm_chain_record *given_record)
{
    if (!sampler) return MMEBM_E_ARGUMENT;
    mmebm__clear_error(sampler->context);
    mmebm_langevin_options options;
    MMEBM_TRY(mmebm__langevin_x_options(sampler, given, &options));
    int64_t n = 0;
    MMEBM_TRY(mmebm__check_tuples(sampler, "langevin_x", x, sampler->all, &n));
    mmebm_chain_record record;
    recorder r = {sampler, &options, &record, sampler->x, sampler->model->modality_count, sampler->modalities,
                  1,       n,        0,       0};
    if (given_record) {
        uint32_t rank[MMEBM_MAX_MODALITIES];
        int64_t shape[MMEBM_MAX_MODALITIES][MMEBM_MAX_RANK] = {{0}};
        for (uint32_t i = 0; i < sampler->modalities; ++i) {
            const mmebm_modality *modality = &sampler->model->modalities[i];
            rank[i] = modality->rank + 1;
            shape[i][0] = n;
            memcpy(shape[i] + 1, modality->shape, modality->rank * sizeof(int64_t));
        }
        MMEBM_TRY(read_record(sampler, "langevin_x", given_record, &options, &r, rank, shape, &record));
    }
    double displacement = 0.0, acceptance = 0.0;
    MMEBM_TRY(mmebm__upload_scales_x(sampler, &options));
    for (r.first = 0; r.first < n; r.first += sampler->capacity) {
        r.rows = n - r.first < sampler->capacity ? n - r.first : sampler->capacity;
        MMEBM_TRY(mmebm__upload_tuples(sampler, x, sampler->all, r.first, r.rows));
        MMEBM_TRY(mmebm__set_key(sampler, options.seed, options.first_chain + (uint64_t)r.first));
        if (given_record) MMEBM_TRY(keep_start(&r, sampler->x_start));
        MMEBM_TRY(mmebm__langevin_x_rows(sampler, &options, r.rows, given_record ? observe : NULL, &r));
        MMEBM_TRY(mmebm__download_tuples(sampler, x, sampler->all & ~options.observed, r.first, r.rows));
        if (given_record) MMEBM_TRY(record_end(&r, sampler->x_start, &displacement, &acceptance));
    }
    return given_record ? finish_record(sampler, given_record, &record, displacement, acceptance, n) : MMEBM_OK;
}

/* z is [n, D] or [e, n, D]; finds n and e. */
static mmebm_status check_latents(const mmebm_sampler *sampler, const mmebm_view *z, int64_t *n, int64_t *experts)
{
    mmebm_context *context = sampler->context;
    const char *what = "langevin_z: view 'z'";
    if (z && z->rank != 3) {
        *experts = 1;
        return mmebm__view_check(context, what, z, 1, &sampler->latent_size, n);
    }
    int64_t shape[2] = {*n, sampler->latent_size};
    *experts = 0;
    MMEBM_TRY(mmebm__view_check(context, what, z, 2, shape, experts));
    if (*experts > sampler->modalities)
        return mmebm__fail(context, MMEBM_E_SHAPE, "%s has %lld chains a tuple, wanted at most %u", what,
                           (long long)*experts, sampler->modalities);
    return MMEBM_OK;
}

static mmebm_status move_latents(const recorder *r, mmebm_view *z, int upload)
{
    mmebm_sampler *sampler = r->sampler;
    const int64_t size = sampler->latent_size;
    if (!upload) return store(r, sampler->z, size, z, 0);
    for (int64_t e = 0; e < r->experts; ++e)
        MMEBM_TRY(mmebm__view_to_device(sampler->context, z, (e * r->n + r->first) * size, r->rows * size,
                                        sampler->z + e * r->rows * size));
    return MMEBM_OK;
}

static mmebm_status read_latent_record(const recorder *r, const char *what, mmebm_chain_record *given,
                                       mmebm_chain_record *record)
{
    const uint32_t rank[1] = {2};
    int64_t shape[1][MMEBM_MAX_RANK] = {{r->experts * r->n, r->sampler->latent_size}};
    return given ? read_record(r->sampler, what, given, r->options, r, rank, shape, record) : MMEBM_OK;
}

/* A checked call, part by part; langevin_prior's posterior has nothing observed, and x is NULL. */
static mmebm_status revise_latents(recorder *r, mmebm_posterior *posterior, const mmebm_view *x, mmebm_view *z,
                                   mmebm_chain_record *given_record)
{
    mmebm_sampler *sampler = r->sampler;
    const mmebm_langevin_options *options = r->options;
    const mmebm_chain_observer observer = given_record ? observe : NULL;
    double displacement = 0.0, acceptance = 0.0;
    MMEBM_TRY(mmebm__upload_scales_z(sampler, options));
    for (r->first = 0; r->first < r->n; r->first += sampler->capacity) {
        r->rows = r->n - r->first < sampler->capacity ? r->n - r->first : sampler->capacity;
        MMEBM_TRY(mmebm__upload_tuples(sampler, x, posterior->observed, r->first, r->rows));
        MMEBM_TRY(move_latents(r, z, 1));
        MMEBM_TRY(mmebm__set_key(sampler, options->seed, options->first_chain + (uint64_t)r->first));
        if (given_record) MMEBM_TRY(keep_start(r, &sampler->z_start));
        MMEBM_TRY(mmebm__langevin_z_rows(sampler, options, posterior, (uint32_t)r->experts, r->rows, observer, r));
        MMEBM_TRY(move_latents(r, z, 0));
        if (given_record) MMEBM_TRY(record_end(r, &sampler->z_start, &displacement, &acceptance));
    }
    if (!given_record) return MMEBM_OK;
    return finish_record(sampler, given_record, r->record, displacement, acceptance, r->n * r->experts);
}

mmebm_status mmebm_sampler_langevin_z(mmebm_sampler *sampler, const mmebm_langevin_options *given, const mmebm_view *x,
                                      mmebm_view *z, mmebm_chain_record *given_record)
{
    if (!sampler) return MMEBM_E_ARGUMENT;
    mmebm__clear_error(sampler->context);
    mmebm_langevin_options options;
    MMEBM_TRY(mmebm__langevin_z_options(sampler, given, &options));
    int64_t n = 0, experts;
    MMEBM_TRY(mmebm__check_tuples(sampler, "langevin_z", x, options.observed, &n));
    MMEBM_TRY(check_latents(sampler, z, &n, &experts));
    mmebm_chain_record record;
    recorder r = {sampler, &options, &record, &sampler->z, &sampler->latent_size, 1, experts, n, 0, 0};
    MMEBM_TRY(read_latent_record(&r, "langevin_z", given_record, &record));
    mmebm_posterior *posterior;
    MMEBM_TRY(mmebm__posterior_find(sampler, options.observed, options.prior_temperature, &posterior));
    return revise_latents(&r, posterior, x, z, given_record);
}

mmebm_status mmebm_sampler_langevin_prior(mmebm_sampler *sampler, const mmebm_langevin_options *given,
                                          mmebm_view *z, mmebm_chain_record *given_record)
{
    if (!sampler) return MMEBM_E_ARGUMENT;
    mmebm__clear_error(sampler->context);
    mmebm_langevin_options options;
    MMEBM_TRY(mmebm__langevin_prior_options(sampler, given, &options));
    if (options.observed || options.reduction != MMEBM_REDUCE_SUM)
        return mmebm__fail(sampler->context, MMEBM_E_ARGUMENT,
                           "langevin_prior: observed or reduction is set, wanted both unset where nothing is given");
    int64_t n = 0;
    MMEBM_TRY(mmebm__view_check(sampler->context, "langevin_prior: view 'z'", z, 1, &sampler->latent_size, &n));
    mmebm_chain_record record;
    recorder r = {sampler, &options, &record, &sampler->z, &sampler->latent_size, 1, 1, n, 0, 0};
    MMEBM_TRY(read_latent_record(&r, "langevin_prior", given_record, &record));
    mmebm_posterior *tilted;
    MMEBM_TRY(mmebm__posterior_find(sampler, 0, options.prior_temperature, &tilted));
    return revise_latents(&r, tilted, NULL, z, given_record);
}

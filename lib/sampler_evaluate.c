/* SPDX-License-Identifier: Apache-2.0
 *
 * What a sampler computes without a chain: U, its score, the experts of q, draws from them, generator means.
 */
#include "sampler.h"

#include <stdio.h>

mmebm_status mmebm__check_tuples(const mmebm_sampler *sampler, const char *what, const mmebm_view *x, uint64_t mask,
                                 int64_t *n)
{
    if (!x)
        return mmebm__fail(sampler->context, MMEBM_E_ARGUMENT, "%s: x is NULL, wanted %u views", what,
                           sampler->modalities);
    for (uint32_t i = 0; i < sampler->modalities; ++i) {
        if (!(mask >> i & 1)) continue;
        const mmebm_modality *modality = &sampler->model->modalities[i];
        char name[96];
        snprintf(name, sizeof name, "%s: view of modality '%s'", what, sampler->model->modality_names[i]);
        MMEBM_TRY(mmebm__view_check(sampler->context, name, mmebm__view_at(x, i), modality->rank, modality->shape, n));
    }
    return MMEBM_OK;
}

mmebm_status mmebm__upload_tuples(mmebm_sampler *sampler, const mmebm_view *x, uint64_t mask, int64_t first,
                                  int64_t rows)
{
    for (uint32_t i = 0; i < sampler->modalities; ++i) {
        if (mask >> i & 1)
            MMEBM_TRY(mmebm__view_upload(sampler->context, mmebm__view_at(x, i), first, rows, sampler->x[i]));
    }
    return MMEBM_OK;
}

mmebm_status mmebm__download_tuples(mmebm_sampler *sampler, const mmebm_view *x, uint64_t mask, int64_t first,
                                    int64_t rows)
{
    for (uint32_t i = 0; i < sampler->modalities; ++i) {
        if (mask >> i & 1)
            MMEBM_TRY(mmebm__view_download(sampler->context, mmebm__view_at(x, i), first, rows, sampler->x[i]));
    }
    return MMEBM_OK;
}

mmebm_status mmebm__set_key(mmebm_sampler *sampler, uint64_t seed, uint64_t first_chain)
{
    const uint64_t key[2] = {seed, first_chain};
    return sampler->context->ops->upload(sampler->context->device, sampler->key, key, sizeof key);
}

static mmebm_status energy_rows(mmebm_sampler *sampler, int64_t rows, int with_gradient, float scale)
{
    mmebm_plan_input inputs[MMEBM_MAX_MODALITIES];
    for (uint32_t i = 0; i < sampler->modalities; ++i)
        inputs[i] = (mmebm_plan_input){sampler->x[i], rows};
    float *outputs[1] = {sampler->row_energy};
    const mmebm_plan_seed seeds[1] = {{NULL, scale}};
    const mmebm_plan_run run = {
        .rows = rows,
        .inputs = inputs,
        .outputs = outputs,
        .seeds = with_gradient ? seeds : NULL,
        .input_gradients = with_gradient ? sampler->x_gradient : NULL,
    };
    return mmebm__plan_run(sampler->context, &sampler->energy, &run);
}

mmebm_status mmebm_sampler_energy(mmebm_sampler *sampler, const mmebm_view *x, mmebm_view *u)
{
    if (!sampler) return MMEBM_E_ARGUMENT;
    mmebm__clear_error(sampler->context);
    int64_t n = 0;
    MMEBM_TRY(mmebm__check_tuples(sampler, "energy", x, sampler->all, &n));
    MMEBM_TRY(mmebm__view_check(sampler->context, "energy: view 'u'", u, 0, NULL, &n));
    for (int64_t first = 0; first < n; first += sampler->capacity) {
        const int64_t rows = n - first < sampler->capacity ? n - first : sampler->capacity;
        MMEBM_TRY(mmebm__upload_tuples(sampler, x, sampler->all, first, rows));
        MMEBM_TRY(energy_rows(sampler, rows, 0, 0.0f));
        MMEBM_TRY(mmebm__view_download(sampler->context, u, first, rows, sampler->row_energy));
    }
    return MMEBM_OK;
}

mmebm_status mmebm_sampler_score(mmebm_sampler *sampler, const mmebm_view *x, float temperature, mmebm_view *score)
{
    if (!sampler) return MMEBM_E_ARGUMENT;
    mmebm__clear_error(sampler->context);
    if (!(temperature > 0.0f) || temperature > 3e38f)
        return mmebm__fail(sampler->context, MMEBM_E_ARGUMENT,
                           "score: temperature is %g, wanted a finite number above 0",
                           (double)temperature);
    int64_t n = 0;
    MMEBM_TRY(mmebm__check_tuples(sampler, "score", x, sampler->all, &n));
    MMEBM_TRY(mmebm__check_tuples(sampler, "score: output", score, sampler->all, &n));
    for (int64_t first = 0; first < n; first += sampler->capacity) {
        const int64_t rows = n - first < sampler->capacity ? n - first : sampler->capacity;
        MMEBM_TRY(mmebm__upload_tuples(sampler, x, sampler->all, first, rows));
        MMEBM_TRY(energy_rows(sampler, rows, 1, -1.0f / temperature));
        for (uint32_t i = 0; i < sampler->modalities; ++i)
            MMEBM_TRY(mmebm__view_download(sampler->context, mmebm__view_at(score, i), first, rows,
                                           sampler->x_gradient[i]));
    }
    return MMEBM_OK;
}

mmebm_status mmebm__encode_rows(mmebm_sampler *sampler, uint32_t modality, int64_t rows)
{
    const mmebm_plan_input inputs[1] = {{sampler->x[modality], rows}};
    float *outputs[2] = {sampler->mean[modality], sampler->raw[modality]};
    const mmebm_plan_run run = {.rows = rows, .inputs = inputs, .outputs = outputs};
    return mmebm__plan_run(sampler->context, &sampler->encoder[modality], &run);
}

mmebm_status mmebm_sampler_encode(mmebm_sampler *sampler, uint32_t modality, const mmebm_view *x, mmebm_view *mean,
                                  mmebm_view *scale)
{
    if (!sampler) return MMEBM_E_ARGUMENT;
    mmebm_context *context = sampler->context;
    mmebm__clear_error(context);
    if (modality >= sampler->modalities)
        return mmebm__fail(context, MMEBM_E_ARGUMENT, "encode: modality is %u, wanted 0 to %u", modality,
                           sampler->modalities - 1);
    const mmebm_modality *shape = &sampler->model->modalities[modality];
    const mmebm_model_options *options = &sampler->model->options;
    int64_t n = 0;
    MMEBM_TRY(mmebm__view_check(context, "encode: view 'x'", x, shape->rank, shape->shape, &n));
    MMEBM_TRY(mmebm__view_check(context, "encode: view 'mean'", mean, 1, &sampler->latent_size, &n));
    MMEBM_TRY(mmebm__view_check(context, "encode: view 'scale'", scale, 1, &sampler->latent_size, &n));
    for (int64_t first = 0; first < n; first += sampler->capacity) {
        const int64_t rows = n - first < sampler->capacity ? n - first : sampler->capacity;
        MMEBM_TRY(mmebm__view_upload(context, x, first, rows, sampler->x[modality]));
        MMEBM_TRY(mmebm__encode_rows(sampler, modality, rows));
        MMEBM_TRY(context->ops->expert_scale(context->device, rows, sampler->latent_size, sampler->raw[modality],
                                             options->posterior_scale, options->posterior_floor, sampler->z));
        MMEBM_TRY(mmebm__view_download(context, mean, first, rows, sampler->mean[modality]));
        MMEBM_TRY(mmebm__view_download(context, scale, first, rows, sampler->z));
    }
    return MMEBM_OK;
}

mmebm_status mmebm__check_start(mmebm_context *context, const char *what, uint32_t start)
{
    if (start >= MMEBM_START_SAMPLE && start <= MMEBM_START_AVERAGE) return MMEBM_OK;
    return mmebm__fail(context, MMEBM_E_ARGUMENT, "%s: start is %u, wanted MMEBM_START_SAMPLE, _MEAN or _AVERAGE",
                       what, start);
}

mmebm_status mmebm__draw_rows(mmebm_sampler *sampler, uint64_t observed, uint32_t start, int choose, int64_t rows)
{
    const mmebm_model_options *options = &sampler->model->options;
    const float *mean[MMEBM_MAX_MODALITIES], *raw[MMEBM_MAX_MODALITIES];
    uint32_t experts = 0;
    for (uint32_t i = 0; i < sampler->modalities; ++i) {
        if (!(observed >> i & 1)) continue;
        MMEBM_TRY(mmebm__encode_rows(sampler, i, rows));
        mean[experts] = sampler->mean[i];
        raw[experts++] = sampler->raw[i];
    }
    const mmebm_expert_draw draw = {
        .rows = choose ? rows : rows * experts,
        .size = sampler->latent_size,
        .z = sampler->z,
        .mean = mean,
        .raw = raw,
        .floor = options->posterior_floor,
        .experts = experts,
        .family = options->posterior,
        .scale_kind = options->posterior_scale,
        .start = start,
        .choose = choose ? 1 : 0,
        .noise = {sampler->key, rows, MMEBM_STREAM_START, 0},
    };
    return sampler->context->ops->expert_draw(sampler->context->device, &draw);
}

mmebm_status mmebm_sampler_encode_draw(mmebm_sampler *sampler, uint64_t observed, uint32_t start, uint64_t seed,
                                       uint64_t first_chain, const mmebm_view *x, mmebm_view *z)
{
    if (!sampler) return MMEBM_E_ARGUMENT;
    mmebm_context *context = sampler->context;
    mmebm__clear_error(context);
    MMEBM_TRY(mmebm__observed_set(sampler, "encode_draw", observed, &observed));
    MMEBM_TRY(mmebm__check_start(context, "encode_draw", start));
    int64_t n = 0, experts = __builtin_popcountll(observed);
    MMEBM_TRY(mmebm__check_tuples(sampler, "encode_draw", x, observed, &n));
    const int64_t shape[2] = {n, sampler->latent_size};
    MMEBM_TRY(mmebm__view_check(context, "encode_draw: view 'z'", z, 2, shape, &experts));
    const int64_t size = sampler->latent_size;
    for (int64_t first = 0; first < n; first += sampler->capacity) {
        const int64_t rows = n - first < sampler->capacity ? n - first : sampler->capacity;
        MMEBM_TRY(mmebm__upload_tuples(sampler, x, observed, first, rows));
        MMEBM_TRY(mmebm__set_key(sampler, seed, first_chain + (uint64_t)first));
        MMEBM_TRY(mmebm__draw_rows(sampler, observed, start, 0, rows));
        for (int64_t e = 0; e < experts; ++e)
            MMEBM_TRY(mmebm__view_from_device(context, z, (e * n + first) * size, rows * size,
                                              sampler->z + e * rows * size));
    }
    return MMEBM_OK;
}

mmebm_status mmebm__generate_rows(mmebm_sampler *sampler, uint64_t wanted, int64_t rows)
{
    const mmebm_plan_input inputs[1] = {{sampler->z, rows}};
    float *outputs[MMEBM_MAX_MODALITIES];
    for (uint32_t i = 0; i < sampler->modalities; ++i)
        outputs[i] = wanted >> i & 1 ? sampler->x[i] : NULL;
    const mmebm_plan_run run = {.rows = rows, .inputs = inputs, .outputs = outputs};
    return mmebm__plan_run(sampler->context, &sampler->generator, &run);
}

mmebm_status mmebm_sampler_generate(mmebm_sampler *sampler, const mmebm_view *z, mmebm_view *x)
{
    if (!sampler) return MMEBM_E_ARGUMENT;
    mmebm__clear_error(sampler->context);
    int64_t n = 0;
    MMEBM_TRY(mmebm__view_check(sampler->context, "generate: view 'z'", z, 1, &sampler->latent_size, &n));
    MMEBM_TRY(mmebm__check_tuples(sampler, "generate", x, sampler->all, &n));
    for (int64_t first = 0; first < n; first += sampler->capacity) {
        const int64_t rows = n - first < sampler->capacity ? n - first : sampler->capacity;
        MMEBM_TRY(mmebm__view_upload(sampler->context, z, first, rows, sampler->z));
        MMEBM_TRY(mmebm__generate_rows(sampler, sampler->all, rows));
        MMEBM_TRY(mmebm__download_tuples(sampler, x, sampler->all, first, rows));
    }
    return MMEBM_OK;
}

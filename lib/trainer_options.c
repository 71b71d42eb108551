/* SPDX-License-Identifier: Apache-2.0
 *
 * The presets of mmebm_trainer_options and the check of every field.
 *
 * "default" is what trains: docs/training.md says which failure each setting ends. "listing1" is Listing 1 as printed,
 * with the rulings' repairs; "listing1-sn" adds spectral norm on the energy (ruling D10).
 */
#include <math.h>
#include <string.h>

#include "struct_size.h"
#include "trainer.h"

static const mmebm_trainer_options preset_default = {
    .batch = 64,
    .precision = MMEBM_PRECISION_F32,
    .langevin_x = {.n_steps = 30, .method = MMEBM_ULA, .reduction = MMEBM_REDUCE_SUM, .step_size = 0.1f,
                   .noise_scale = 0.001f, .drift_clamp = 0.02f},
    .langevin_z = {.n_steps = 20, .method = MMEBM_MALA, .reduction = MMEBM_REDUCE_SUM, .step_size = 0.1f,
                   .noise_scale = 0.1f},
    .langevin_prior = {.n_steps = 60, .method = MMEBM_ULA, .reduction = MMEBM_REDUCE_SUM, .step_size = 0.07f,
                       .noise_scale = 0.07f},
    .mala_target = 0.57f,
    .mala_rate = 0.05f,
    .mala_min = 0.002f,
    .mala_max = 0.6f,
    .energy = {.rate = 1e-4f, .beta1 = 0.0f, .beta2 = 0.999f, .epsilon = 1e-8f},
    .generator = {.rate = 1e-3f, .beta1 = 0.9f, .beta2 = 0.999f, .epsilon = 1e-8f},
    .inference = {.rate = 5e-4f, .beta1 = 0.9f, .beta2 = 0.999f, .epsilon = 1e-8f, .clip_norm = 50.0f},
    .weight_reconstruction = 1.0f,
    .weight_synthesis = 1.0f,
    .weight_inference = 1.0f,
    .weight_inference_revised = 1.0f,
    .energy_penalty = 1e-5f,
    .ema = 0.999f,
    .schedule_end = 0.05f,
    .guard_interval = 100,
    .guard_tries = 8,
    .guard_rate = 0.7f,
    .guard_loss = 4.0f,
    .guard_energy = 3000.0f,
    .guard_latent = 60.0f,
};

static void make_listing1(mmebm_trainer_options *options)
{
    const mmebm_training_chain x = {.n_steps = 30, .method = MMEBM_ULA, .reduction = MMEBM_REDUCE_SUM,
                                    .step_size = 0.1f, .noise_scale = 0.001f};
    const mmebm_training_chain z = {.n_steps = 30, .method = MMEBM_ULA, .reduction = MMEBM_REDUCE_MEAN,
                                    .step_size = 0.1f, .noise_scale = 0.1f};
    const mmebm_adam_options adam = {.rate = 1e-3f, .beta1 = 0.9f, .beta2 = 0.999f, .epsilon = 1e-8f};
    options->batch = 256;
    options->stratified = 1;
    options->langevin_x = x;
    options->langevin_z = z;
    options->mala_target = 0.0f;
    options->energy = options->generator = options->inference = adam;
    options->energy.rate = 4e-4f;
    options->energy_penalty = 0.0f;
    options->ema = 0.0f;
}

mmebm_status mmebm_trainer_options_init_sized(mmebm_trainer_options *options, size_t size, const char *preset)
{
    if (!options || !preset) return MMEBM_E_ARGUMENT;
    mmebm_trainer_options made = preset_default;
    if (strcmp(preset, "listing1") == 0 || strcmp(preset, "listing1-sn") == 0) {
        make_listing1(&made);
        made.energy.spectral_norm = strcmp(preset, "listing1-sn") == 0;
    } else if (strcmp(preset, "default") != 0) {
        return MMEBM_E_NAME;
    }
    return mmebm__struct_init(options, size, &made, sizeof made, sizeof made);
}

/* ---- checks: a field must be finite and lie in [low, high], or (low, high] if open. */
typedef struct field_range {
    const char *name;
    float value, low, high;
    int open;
} field_range;

static mmebm_status check_ranges(mmebm_context *context, const field_range *fields, size_t count)
{
    for (size_t i = 0; i < count; ++i) {
        const field_range *f = &fields[i];
        const int above = f->open ? f->value > f->low : f->value >= f->low;
        if (!isfinite(f->value) || !above || f->value > f->high)
            return mmebm__fail(context, MMEBM_E_ARGUMENT, "trainer options: %s is %g, wanted %g %s it and at most %g",
                               f->name, (double)f->value, (double)f->low, f->open ? "below" : "at most",
                               (double)f->high);
    }
    return MMEBM_OK;
}

static const float LARGE = 1e30f;

static mmebm_status check_chain(mmebm_context *context, const char *name, const mmebm_training_chain *chain,
                                int mala_is_fine)
{
    if (chain->method != MMEBM_ULA && !(mala_is_fine && chain->method == MMEBM_MALA))
        return mmebm__fail(context, MMEBM_E_ARGUMENT, "trainer options: %s.method is %u, wanted MMEBM_ULA%s", name,
                           chain->method, mala_is_fine ? " or MMEBM_MALA" : "");
    if (chain->reduction != MMEBM_REDUCE_SUM && chain->reduction != MMEBM_REDUCE_MEAN)
        return mmebm__fail(context, MMEBM_E_ARGUMENT, "trainer options: %s.reduction is %u, wanted MMEBM_REDUCE_*",
                           name, chain->reduction);
    if (chain->n_steps > 1u << 20)
        return mmebm__fail(context, MMEBM_E_ARGUMENT, "trainer options: %s.n_steps is %u, wanted at most %u", name,
                           chain->n_steps, 1u << 20);
    if (chain->method == MMEBM_MALA && chain->noise_scale != chain->step_size)
        return mmebm__fail(context, MMEBM_E_ARGUMENT,
                           "trainer options: %s.noise_scale is %g, but MALA wants it equal to step_size, %g", name,
                           (double)chain->noise_scale, (double)chain->step_size);
    if (chain->reserved)
        return mmebm__fail(context, MMEBM_E_UNKNOWN_OPTION, "trainer options: %s.reserved is %u, wanted 0", name,
                           chain->reserved);
    const field_range fields[] = {
        {"a chain's step_size", chain->step_size, 0.0f, LARGE, 1},
        {"a chain's noise_scale", chain->noise_scale, 0.0f, LARGE, 0},
        {"a chain's drift_clamp", chain->drift_clamp, 0.0f, LARGE, 0},
        {"a chain's drift_norm_clip", chain->drift_norm_clip, 0.0f, LARGE, 0},
    };
    return check_ranges(context, fields, sizeof fields / sizeof *fields);
}

static mmebm_status check_adam(mmebm_context *context, const mmebm_adam_options *adam)
{
    const field_range fields[] = {
        {"a network's rate", adam->rate, 0.0f, LARGE, 0},     {"a network's beta1", adam->beta1, 0.0f, 0.999999f, 0},
        {"a network's beta2", adam->beta2, 0.0f, 0.999999f, 0}, {"a network's epsilon", adam->epsilon, 0.0f, 1.0f, 1},
        {"a network's clip_norm", adam->clip_norm, 0.0f, LARGE, 0},
    };
    if (adam->spectral_norm > 1)
        return mmebm__fail(context, MMEBM_E_ARGUMENT, "trainer options: spectral_norm is %u, wanted 0 or 1",
                           adam->spectral_norm);
    return check_ranges(context, fields, sizeof fields / sizeof *fields);
}

/* Callers of before there was a tilt leave its chain zero. */
static mmebm_status check_tilt(mmebm_context *context, const mmebm_trainer_options *o)
{
    MMEBM_TRY(mmebm__prior_temperature_check(context, "trainer options", o->prior_temperature));
    return o->prior_temperature == 0.0f ? MMEBM_OK : check_chain(context, "langevin_prior", &o->langevin_prior, 0);
}

mmebm_status mmebm__trainer_options_check(mmebm_context *context, const mmebm_trainer_options *o)
{
    if (o->batch < 1 || o->batch > 65536)
        return mmebm__fail(context, MMEBM_E_ARGUMENT, "trainer options: batch is %u, wanted 1 to 65536", o->batch);
    if (o->precision > MMEBM_PRECISION_TF32)
        return mmebm__fail(context, MMEBM_E_ARGUMENT, "trainer options: precision is %u, wanted MMEBM_PRECISION_*",
                           o->precision);
    if (o->stratified > 1)
        return mmebm__fail(context, MMEBM_E_ARGUMENT, "trainer options: stratified is %u, wanted 0 or 1",
                           o->stratified);
    MMEBM_TRY(mmebm__reserved_check(context, "trainer options", o->reserved | o->reserved1));
    MMEBM_TRY(check_chain(context, "langevin_x", &o->langevin_x, 0));
    MMEBM_TRY(check_chain(context, "langevin_z", &o->langevin_z, 1));
    MMEBM_TRY(check_adam(context, &o->energy));
    MMEBM_TRY(check_adam(context, &o->generator));
    MMEBM_TRY(check_adam(context, &o->inference));
    if (o->temperature == 0.0f && o->langevin_x.noise_scale == 0.0f)
        return mmebm__fail(context, MMEBM_E_ARGUMENT,
                           "trainer options: temperature and langevin_x.noise_scale are both 0, wanted one above 0");
    MMEBM_TRY(check_tilt(context, o));
    if (o->weight_mismatched != 0.0f && o->batch < 2)
        return mmebm__fail(context, MMEBM_E_ARGUMENT,
                           "trainer options: weight_mismatched is %g with batch 1, wanted 0, or a batch of at least 2",
                           (double)o->weight_mismatched);
    const field_range fields[] = {
        {"mala_target", o->mala_target, 0.0f, 0.999f, 0},
        {"mala_rate", o->mala_rate, 0.0f, 10.0f, 0},
        {"mala_min", o->mala_min, 0.0f, LARGE, 0},
        {"mala_max", o->mala_max, o->mala_min, LARGE, 0},
        {"weight_reconstruction", o->weight_reconstruction, 0.0f, LARGE, 0},
        {"weight_synthesis", o->weight_synthesis, 0.0f, LARGE, 0},
        {"weight_inference", o->weight_inference, 0.0f, LARGE, 0},
        {"weight_inference_revised", o->weight_inference_revised, 0.0f, LARGE, 0},
        {"weight_mismatched", o->weight_mismatched, 0.0f, LARGE, 0},
        {"energy_penalty", o->energy_penalty, 0.0f, LARGE, 0},
        {"temperature", o->temperature, 0.0f, LARGE, 0},
        {"data_noise", o->data_noise, 0.0f, LARGE, 0},
        {"ema", o->ema, 0.0f, 0.999999f, 0},
        {"schedule_end", o->schedule_end, 0.0f, 1.0f, 0},
        {"guard_rate", o->guard_rate, 0.0f, 1.0f, 1},
        {"guard_loss", o->guard_loss, 1.0f, LARGE, 0},
        {"guard_energy", o->guard_energy, 0.0f, LARGE, 1},
        {"guard_latent", o->guard_latent, 0.0f, LARGE, 1},
    };
    return check_ranges(context, fields, sizeof fields / sizeof *fields);
}

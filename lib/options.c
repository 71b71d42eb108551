/* SPDX-License-Identifier: Apache-2.0
 *
 * The defaults of every options struct side by side (those of the trainer, which has presets, are in
 * trainer_options.c), and the two ways to say how large a Langevin step is:
 *     s = n^2 / 2,  T = (n / l)^2   <=>   n = sqrt(2 s),  l = n / sqrt(T)        ruling A2
 * Called by host programs only.
 */
#include <math.h>

#include "struct_size.h"

/* ---- defaults */

static const mmebm_context_options context_defaults = {.log_level = MMEBM_LOG_WARNING};

static const mmebm_conv2d_options conv2d_defaults = {
    .bias = 1, .kernel = {3, 3}, .stride = {1, 1}, .padding = {1, 1}};

static const mmebm_linear_options linear_defaults = {.bias = 1, .flatten = 1};

static const mmebm_save_options save_defaults = {.dtype = MMEBM_F32};

/* scale sqrt(1/2): a Gaussian's |x - mu|^2 / (2 scale^2) is then the paper's plain squared error (ruling B1). */
static const mmebm_modality modality_defaults = {
    .likelihood = MMEBM_GAUSSIAN, .scale = 0.70710678f, .weight = 1.0f, .data_max = 1.0f};

static const mmebm_model_options model_defaults = {.prior = MMEBM_GAUSSIAN,
                                                   .prior_scale = 1.0f,
                                                   .posterior = MMEBM_GAUSSIAN,
                                                   .posterior_scale = MMEBM_SCALE_SOFTPLUS,
                                                   .posterior_floor = 1e-6f};

static const mmebm_preset_options preset_defaults = {.likelihood_scale = 0.70710678f,
                                                     .posterior_floor = 0.02f,
                                                     .n_modalities = 5,
                                                     .latent_size = 32,
                                                     .image_size = 28,
                                                     .channels = 3,
                                                     .nf = 64,
                                                     .nef = 128,
                                                     .stem_channels = 16,
                                                     .hidden = 128,
                                                     .n_hidden = 2};

static const mmebm_langevin_options langevin_x_defaults = {.n_steps = 30,
                                                           .step_size = 0.1f,
                                                           .noise_scale = 0.001f,
                                                           .method = MMEBM_ULA,
                                                           .reduction = MMEBM_REDUCE_SUM,
                                                           .trajectory_stride = 1};

static const mmebm_langevin_options langevin_z_defaults = {.n_steps = 30,
                                                           .step_size = 0.1f,
                                                           .noise_scale = 0.1f,
                                                           .method = MMEBM_ULA,
                                                           .reduction = MMEBM_REDUCE_SUM,
                                                           .trajectory_stride = 1};

static const mmebm_chain_record chain_record_defaults = {.reserved = 0};

static const mmebm_sampler_options sampler_defaults = {.capacity = 64, .precision = MMEBM_PRECISION_F32};

static const mmebm_sample_options sample_defaults = {.start = MMEBM_START_SAMPLE};

static const mmebm_latent_mixture latent_mixture_defaults = {.components = 1};

static const mmebm_latent_mixture_options latent_mixture_options_defaults = {
    .max_steps = 200, .tolerance = 1e-4f, .scale_floor = 0.01f};

/* ---- init functions. All structs are of their first release, so the first size is the present one. */

#define DEFINE_INIT(function, type, defaults)                                                      \
    mmebm_status function(type *options, size_t size)                                              \
    {                                                                                              \
        return mmebm__struct_init(options, size, &(defaults), sizeof(type), sizeof(type));         \
    }

DEFINE_INIT(mmebm_context_options_init_sized, mmebm_context_options, context_defaults)
DEFINE_INIT(mmebm_conv2d_options_init_sized, mmebm_conv2d_options, conv2d_defaults)
DEFINE_INIT(mmebm_linear_options_init_sized, mmebm_linear_options, linear_defaults)
DEFINE_INIT(mmebm_save_options_init_sized, mmebm_save_options, save_defaults)
DEFINE_INIT(mmebm_modality_init_sized, mmebm_modality, modality_defaults)
DEFINE_INIT(mmebm_model_options_init_sized, mmebm_model_options, model_defaults)
DEFINE_INIT(mmebm_preset_options_init_sized, mmebm_preset_options, preset_defaults)
DEFINE_INIT(mmebm_langevin_x_options_init_sized, mmebm_langevin_options, langevin_x_defaults)
DEFINE_INIT(mmebm_langevin_z_options_init_sized, mmebm_langevin_options, langevin_z_defaults)
DEFINE_INIT(mmebm_chain_record_init_sized, mmebm_chain_record, chain_record_defaults)
DEFINE_INIT(mmebm_sampler_options_init_sized, mmebm_sampler_options, sampler_defaults)
DEFINE_INIT(mmebm_sample_options_init_sized, mmebm_sample_options, sample_defaults)
DEFINE_INIT(mmebm_latent_mixture_init_sized, mmebm_latent_mixture, latent_mixture_defaults)
DEFINE_INIT(mmebm_latent_mixture_options_init_sized, mmebm_latent_mixture_options, latent_mixture_options_defaults)

/* ---- step sizes */

static int is_positive(double value)
{
    return isfinite(value) && value > 0.0;
}

/* Writes both results or neither: a result may overflow or vanish where the arguments do not. */
static mmebm_status set_positive_pair(double first, double second, double *first_out, double *second_out)
{
    if (!first_out || !second_out || !is_positive(first) || !is_positive(second)) return MMEBM_E_ARGUMENT;
    *first_out = first;
    *second_out = second;
    return MMEBM_OK;
}

mmebm_status mmebm_step_from_scales(double step_size, double noise_scale, double *s, double *t)
{
    if (!is_positive(step_size) || !is_positive(noise_scale)) return MMEBM_E_ARGUMENT;
    const double ratio = noise_scale / step_size;
    return set_positive_pair(0.5 * noise_scale * noise_scale, ratio * ratio, s, t);
}

mmebm_status mmebm_scales_from_step(double s, double t, double *step_size, double *noise_scale)
{
    if (!is_positive(s) || !is_positive(t)) return MMEBM_E_ARGUMENT;
    const double noise = sqrt(2.0 * s);
    return set_positive_pair(noise / sqrt(t), noise, step_size, noise_scale);
}

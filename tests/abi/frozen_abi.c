/* SPDX-License-Identifier: Apache-2.0
 *
 * The frozen interface: the place and type of every public member, the value of every public constant. Append only: a
 * line that must change is a break of the ABI (docs/abi-policy.md). The sums prove two things at once: no struct has
 * unnamed padding, and no member is missing here. check_abi.py compiles this file against headers with planted breaks.
 */
#include "mmebm.h"

#include "harness.h"

#define MEMBER(type, member, offset, member_type)                                                  \
    _Static_assert(offsetof(type, member) == (offset), #type "." #member " has moved");            \
    _Static_assert(__builtin_types_compatible_p(__typeof__(((type *)0)->member), member_type),     \
                   #type "." #member " has another type");
#define MEMBER_SIZE(type, member, offset, member_type) +sizeof(((type *)0)->member)
#define FROZEN(type, size, MEMBERS)                                                                \
    MEMBERS(MEMBER)                                                                                \
    _Static_assert(sizeof(type) == (size), #type " has another size");                             \
    _Static_assert((0 MEMBERS(MEMBER_SIZE)) == (size), #type " has padding or a member that is not listed");
#define CONSTANT(name, value) _Static_assert((long long)(name) == (value), #name " has another value")

/* ---- structs, as laid out on 64-bit systems */

#define CONTEXT_OPTIONS_MEMBERS(M) \
    M(mmebm_context_options, struct_size, 0, uint32_t) \
    M(mmebm_context_options, n_threads, 4, uint32_t) \
    M(mmebm_context_options, backend, 8, const char *) \
    M(mmebm_context_options, backend_dir, 16, const char *) \
    M(mmebm_context_options, allocate, 24, void * (*)(void *, size_t, size_t)) \
    M(mmebm_context_options, release, 32, void (*)(void *, void *, size_t)) \
    M(mmebm_context_options, allocator_user, 40, void *) \
    M(mmebm_context_options, log, 48, void (*)(void *, int32_t, const char *)) \
    M(mmebm_context_options, log_user, 56, void *) \
    M(mmebm_context_options, log_level, 64, int32_t) \
    M(mmebm_context_options, reserved, 68, uint32_t) \
    M(mmebm_context_options, stream, 72, void *)
FROZEN(mmebm_context_options, 80, CONTEXT_OPTIONS_MEMBERS)

#define VIEW_MEMBERS(M) \
    M(mmebm_view, struct_size, 0, uint32_t) \
    M(mmebm_view, dtype, 4, uint32_t) \
    M(mmebm_view, data, 8, void *) \
    M(mmebm_view, rank, 16, uint32_t) \
    M(mmebm_view, place, 20, uint32_t) \
    M(mmebm_view, device_id, 24, int32_t) \
    M(mmebm_view, reserved0, 28, uint32_t) \
    M(mmebm_view, shape, 32, int64_t[6])
FROZEN(mmebm_view, 80, VIEW_MEMBERS)

#define CONV2D_OPTIONS_MEMBERS(M) \
    M(mmebm_conv2d_options, struct_size, 0, uint32_t) \
    M(mmebm_conv2d_options, bias, 4, uint32_t) \
    M(mmebm_conv2d_options, name, 8, const char *) \
    M(mmebm_conv2d_options, out_channels, 16, int64_t) \
    M(mmebm_conv2d_options, kernel, 24, int64_t[2]) \
    M(mmebm_conv2d_options, stride, 40, int64_t[2]) \
    M(mmebm_conv2d_options, padding, 56, int64_t[2]) \
    M(mmebm_conv2d_options, output_padding, 72, int64_t[2])
FROZEN(mmebm_conv2d_options, 88, CONV2D_OPTIONS_MEMBERS)

#define LINEAR_OPTIONS_MEMBERS(M) \
    M(mmebm_linear_options, struct_size, 0, uint32_t) \
    M(mmebm_linear_options, bias, 4, uint32_t) \
    M(mmebm_linear_options, name, 8, const char *) \
    M(mmebm_linear_options, out_features, 16, int64_t) \
    M(mmebm_linear_options, flatten, 24, uint32_t) \
    M(mmebm_linear_options, reserved, 28, uint32_t)
FROZEN(mmebm_linear_options, 32, LINEAR_OPTIONS_MEMBERS)

#define SAVE_OPTIONS_MEMBERS(M) \
    M(mmebm_save_options, struct_size, 0, uint32_t) \
    M(mmebm_save_options, dtype, 4, uint32_t) \
    M(mmebm_save_options, gzip, 8, uint32_t) \
    M(mmebm_save_options, reserved, 12, uint32_t)
FROZEN(mmebm_save_options, 16, SAVE_OPTIONS_MEMBERS)

#define MODALITY_MEMBERS(M) \
    M(mmebm_modality, struct_size, 0, uint32_t) \
    M(mmebm_modality, likelihood, 4, uint32_t) \
    M(mmebm_modality, name, 8, const char *) \
    M(mmebm_modality, rank, 16, uint32_t) \
    M(mmebm_modality, reserved, 20, uint32_t) \
    M(mmebm_modality, shape, 24, int64_t[6]) \
    M(mmebm_modality, scale, 72, float) \
    M(mmebm_modality, weight, 76, float) \
    M(mmebm_modality, data_min, 80, float) \
    M(mmebm_modality, data_max, 84, float)
FROZEN(mmebm_modality, 88, MODALITY_MEMBERS)

#define MODEL_OPTIONS_MEMBERS(M) \
    M(mmebm_model_options, struct_size, 0, uint32_t) \
    M(mmebm_model_options, n_modalities, 4, uint32_t) \
    M(mmebm_model_options, modalities, 8, const mmebm_modality *) \
    M(mmebm_model_options, latent_size, 16, uint32_t) \
    M(mmebm_model_options, prior, 20, uint32_t) \
    M(mmebm_model_options, prior_scale, 24, float) \
    M(mmebm_model_options, posterior, 28, uint32_t) \
    M(mmebm_model_options, posterior_scale, 32, uint32_t) \
    M(mmebm_model_options, posterior_floor, 36, float)
FROZEN(mmebm_model_options, 40, MODEL_OPTIONS_MEMBERS)

#define PRESET_OPTIONS_MEMBERS(M) \
    M(mmebm_preset_options, struct_size, 0, uint32_t) \
    M(mmebm_preset_options, n_modalities, 4, uint32_t) \
    M(mmebm_preset_options, latent_size, 8, uint32_t) \
    M(mmebm_preset_options, image_size, 12, uint32_t) \
    M(mmebm_preset_options, channels, 16, uint32_t) \
    M(mmebm_preset_options, nf, 20, uint32_t) \
    M(mmebm_preset_options, nef, 24, uint32_t) \
    M(mmebm_preset_options, stem_channels, 28, uint32_t) \
    M(mmebm_preset_options, sizes, 32, const int64_t *) \
    M(mmebm_preset_options, hidden, 40, uint32_t) \
    M(mmebm_preset_options, n_hidden, 44, uint32_t) \
    M(mmebm_preset_options, seed, 48, uint64_t) \
    M(mmebm_preset_options, likelihood_scale, 56, float) \
    M(mmebm_preset_options, posterior_floor, 60, float)
FROZEN(mmebm_preset_options, 64, PRESET_OPTIONS_MEMBERS)

#define LANGEVIN_OPTIONS_MEMBERS(M) \
    M(mmebm_langevin_options, struct_size, 0, uint32_t) \
    M(mmebm_langevin_options, n_steps, 4, uint32_t) \
    M(mmebm_langevin_options, step_size, 8, float) \
    M(mmebm_langevin_options, noise_scale, 12, float) \
    M(mmebm_langevin_options, step_sizes, 16, const float *) \
    M(mmebm_langevin_options, noise_scales, 24, const float *) \
    M(mmebm_langevin_options, drift_clamp, 32, float) \
    M(mmebm_langevin_options, drift_norm_clip, 36, float) \
    M(mmebm_langevin_options, method, 40, uint32_t) \
    M(mmebm_langevin_options, reduction, 44, uint32_t) \
    M(mmebm_langevin_options, observed, 48, uint64_t) \
    M(mmebm_langevin_options, seed, 56, uint64_t) \
    M(mmebm_langevin_options, first_chain, 64, uint64_t) \
    M(mmebm_langevin_options, state_min, 72, float) \
    M(mmebm_langevin_options, state_max, 76, float) \
    M(mmebm_langevin_options, trajectory_stride, 80, uint32_t) \
    M(mmebm_langevin_options, reserved, 84, uint32_t) \
    M(mmebm_langevin_options, prior_temperature, 88, float) \
    M(mmebm_langevin_options, reserved1, 92, uint32_t)
FROZEN(mmebm_langevin_options, 96, LANGEVIN_OPTIONS_MEMBERS)

#define CHAIN_RECORD_MEMBERS(M) \
    M(mmebm_chain_record, struct_size, 0, uint32_t) \
    M(mmebm_chain_record, reserved, 4, uint32_t) \
    M(mmebm_chain_record, trajectory, 8, mmebm_view *) \
    M(mmebm_chain_record, energy, 16, mmebm_view *) \
    M(mmebm_chain_record, acceptance, 24, mmebm_view *) \
    M(mmebm_chain_record, mean_acceptance, 32, float) \
    M(mmebm_chain_record, displacement, 36, float)
FROZEN(mmebm_chain_record, 40, CHAIN_RECORD_MEMBERS)

#define SAMPLER_OPTIONS_MEMBERS(M) \
    M(mmebm_sampler_options, struct_size, 0, uint32_t) \
    M(mmebm_sampler_options, capacity, 4, uint32_t) \
    M(mmebm_sampler_options, precision, 8, uint32_t) \
    M(mmebm_sampler_options, reserved, 12, uint32_t)
FROZEN(mmebm_sampler_options, 16, SAMPLER_OPTIONS_MEMBERS)

#define SAMPLE_OPTIONS_MEMBERS(M) \
    M(mmebm_sample_options, struct_size, 0, uint32_t) \
    M(mmebm_sample_options, start, 4, uint32_t) \
    M(mmebm_sample_options, seed, 8, uint64_t) \
    M(mmebm_sample_options, first_chain, 16, uint64_t) \
    M(mmebm_sample_options, observed, 24, uint64_t) \
    M(mmebm_sample_options, langevin_z, 32, const mmebm_langevin_options *) \
    M(mmebm_sample_options, langevin_x, 40, const mmebm_langevin_options *) \
    M(mmebm_sample_options, prior, 48, const mmebm_latent_mixture *) \
    M(mmebm_sample_options, all_experts, 56, uint32_t) \
    M(mmebm_sample_options, reserved, 60, uint32_t) \
    M(mmebm_sample_options, guidance, 64, float) \
    M(mmebm_sample_options, reserved1, 68, uint32_t)
FROZEN(mmebm_sample_options, 72, SAMPLE_OPTIONS_MEMBERS)

#define LATENT_MIXTURE_MEMBERS(M) \
    M(mmebm_latent_mixture, struct_size, 0, uint32_t) \
    M(mmebm_latent_mixture, components, 4, uint32_t) \
    M(mmebm_latent_mixture, latent_size, 8, uint32_t) \
    M(mmebm_latent_mixture, reserved, 12, uint32_t) \
    M(mmebm_latent_mixture, weights, 16, float *) \
    M(mmebm_latent_mixture, means, 24, float *) \
    M(mmebm_latent_mixture, scales, 32, float *)
FROZEN(mmebm_latent_mixture, 40, LATENT_MIXTURE_MEMBERS)

#define LATENT_MIXTURE_OPTIONS_MEMBERS(M) \
    M(mmebm_latent_mixture_options, struct_size, 0, uint32_t) \
    M(mmebm_latent_mixture_options, max_steps, 4, uint32_t) \
    M(mmebm_latent_mixture_options, seed, 8, uint64_t) \
    M(mmebm_latent_mixture_options, tolerance, 16, float) \
    M(mmebm_latent_mixture_options, scale_floor, 20, float)
FROZEN(mmebm_latent_mixture_options, 24, LATENT_MIXTURE_OPTIONS_MEMBERS)

#define ADAM_OPTIONS_MEMBERS(M) \
    M(mmebm_adam_options, rate, 0, float) \
    M(mmebm_adam_options, beta1, 4, float) \
    M(mmebm_adam_options, beta2, 8, float) \
    M(mmebm_adam_options, epsilon, 12, float) \
    M(mmebm_adam_options, clip_norm, 16, float) \
    M(mmebm_adam_options, spectral_norm, 20, uint32_t)
FROZEN(mmebm_adam_options, 24, ADAM_OPTIONS_MEMBERS)

#define TRAINING_CHAIN_MEMBERS(M) \
    M(mmebm_training_chain, n_steps, 0, uint32_t) \
    M(mmebm_training_chain, method, 4, uint32_t) \
    M(mmebm_training_chain, reduction, 8, uint32_t) \
    M(mmebm_training_chain, step_size, 12, float) \
    M(mmebm_training_chain, noise_scale, 16, float) \
    M(mmebm_training_chain, drift_clamp, 20, float) \
    M(mmebm_training_chain, drift_norm_clip, 24, float) \
    M(mmebm_training_chain, reserved, 28, uint32_t)
FROZEN(mmebm_training_chain, 32, TRAINING_CHAIN_MEMBERS)

#define TRAINER_OPTIONS_MEMBERS(M) \
    M(mmebm_trainer_options, struct_size, 0, uint32_t) \
    M(mmebm_trainer_options, batch, 4, uint32_t) \
    M(mmebm_trainer_options, precision, 8, uint32_t) \
    M(mmebm_trainer_options, stratified, 12, uint32_t) \
    M(mmebm_trainer_options, seed, 16, uint64_t) \
    M(mmebm_trainer_options, langevin_x, 24, mmebm_training_chain) \
    M(mmebm_trainer_options, langevin_z, 56, mmebm_training_chain) \
    M(mmebm_trainer_options, mala_target, 88, float) \
    M(mmebm_trainer_options, mala_rate, 92, float) \
    M(mmebm_trainer_options, mala_min, 96, float) \
    M(mmebm_trainer_options, mala_max, 100, float) \
    M(mmebm_trainer_options, energy, 104, mmebm_adam_options) \
    M(mmebm_trainer_options, generator, 128, mmebm_adam_options) \
    M(mmebm_trainer_options, inference, 152, mmebm_adam_options) \
    M(mmebm_trainer_options, weight_reconstruction, 176, float) \
    M(mmebm_trainer_options, weight_synthesis, 180, float) \
    M(mmebm_trainer_options, weight_inference, 184, float) \
    M(mmebm_trainer_options, weight_inference_revised, 188, float) \
    M(mmebm_trainer_options, energy_penalty, 192, float) \
    M(mmebm_trainer_options, temperature, 196, float) \
    M(mmebm_trainer_options, data_noise, 200, float) \
    M(mmebm_trainer_options, ema, 204, float) \
    M(mmebm_trainer_options, schedule_steps, 208, uint32_t) \
    M(mmebm_trainer_options, schedule_end, 212, float) \
    M(mmebm_trainer_options, guard_interval, 216, uint32_t) \
    M(mmebm_trainer_options, guard_tries, 220, uint32_t) \
    M(mmebm_trainer_options, guard_rate, 224, float) \
    M(mmebm_trainer_options, guard_loss, 228, float) \
    M(mmebm_trainer_options, guard_energy, 232, float) \
    M(mmebm_trainer_options, guard_latent, 236, float) \
    M(mmebm_trainer_options, reserved, 240, uint32_t) \
    M(mmebm_trainer_options, reserved1, 244, uint32_t) \
    M(mmebm_trainer_options, weight_mismatched, 248, float) \
    M(mmebm_trainer_options, prior_temperature, 252, float) \
    M(mmebm_trainer_options, langevin_prior, 256, mmebm_training_chain)
FROZEN(mmebm_trainer_options, 288, TRAINER_OPTIONS_MEMBERS)

/* ---- constants */

_Static_assert(sizeof(mmebm_status) == 4, "mmebm_status has another size");
CONSTANT(MMEBM_OK, 0);
CONSTANT(MMEBM_E_ARGUMENT, -1);
CONSTANT(MMEBM_E_SHAPE, -2);
CONSTANT(MMEBM_E_DTYPE, -3);
CONSTANT(MMEBM_E_STRUCT_SIZE, -4);
CONSTANT(MMEBM_E_UNKNOWN_OPTION, -5);
CONSTANT(MMEBM_E_MEMORY, -6);
CONSTANT(MMEBM_E_BACKEND, -7);
CONSTANT(MMEBM_E_DEVICE, -8);
CONSTANT(MMEBM_E_IO, -9);
CONSTANT(MMEBM_E_FORMAT, -10);
CONSTANT(MMEBM_E_VERSION, -11);
CONSTANT(MMEBM_E_UNSUPPORTED, -12);
CONSTANT(MMEBM_E_DIVERGED, -13);
CONSTANT(MMEBM_E_STOPPED, -14);
CONSTANT(MMEBM_E_STATE, -15);
CONSTANT(MMEBM_E_NAME, -16);
CONSTANT(MMEBM_STATUS_MAX_, 0x7fffffff);

CONSTANT(MMEBM_LOG_ERROR, 1);
CONSTANT(MMEBM_LOG_WARNING, 2);
CONSTANT(MMEBM_LOG_INFO, 3);
CONSTANT(MMEBM_LOG_DEBUG, 4);
CONSTANT(MMEBM_PRECISION_AUTO, 0);
CONSTANT(MMEBM_PRECISION_F32, 1);
CONSTANT(MMEBM_PRECISION_BF16, 2);
CONSTANT(MMEBM_PRECISION_TF32, 3);
CONSTANT(MMEBM_MAX_RANK, 6);
CONSTANT(MMEBM_F32, 1);
CONSTANT(MMEBM_BF16, 2);
CONSTANT(MMEBM_HOST, 0);
CONSTANT(MMEBM_DEVICE, 1);
CONSTANT(MMEBM_RELU, 1);
CONSTANT(MMEBM_LEAKY_RELU, 2);
CONSTANT(MMEBM_SILU, 3);
CONSTANT(MMEBM_SOFTPLUS, 4);
CONSTANT(MMEBM_TANH, 5);
CONSTANT(MMEBM_SIGMOID, 6);
CONSTANT(MMEBM_INIT_XAVIER_NORMAL, 1);
CONSTANT(MMEBM_INIT_PYTORCH, 2);
CONSTANT(MMEBM_MAX_MODALITIES, 16);
CONSTANT(MMEBM_GAUSSIAN, 1);
CONSTANT(MMEBM_LAPLACE, 2);
CONSTANT(MMEBM_CATEGORICAL, 3);
CONSTANT(MMEBM_SCALE_SOFTPLUS, 1);
CONSTANT(MMEBM_SCALE_EXP_HALF, 2);
CONSTANT(MMEBM_SCALE_SOFTMAX, 3);
CONSTANT(MMEBM_ULA, 1);
CONSTANT(MMEBM_MALA, 2);
CONSTANT(MMEBM_REDUCE_SUM, 1);
CONSTANT(MMEBM_REDUCE_MEAN, 2);
CONSTANT(MMEBM_START_SAMPLE, 1);
CONSTANT(MMEBM_START_MEAN, 2);
CONSTANT(MMEBM_START_AVERAGE, 3);
CONSTANT(MMEBM_ALL_MODALITIES, 0);

/* The checks above are the compiler's; that this program exists means that they hold. */
TEST(frozen_layout_holds)
{
    CHECK(sizeof(mmebm_node) == 4);
}

int main(void)
{
    RUN(frozen_layout_holds);
    return HARNESS_RESULT();
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * Algorithm 1 as rulings section K states it. One step:
 *     z_prior ~ p0;  x_rev = langevin_x(G(z_prior));  z_e = langevin_z(q_e(x))                         draw
 *     errG = g_rec mean_b,e sum_i NLL_i(x_i | z_e) + g_smp mean_b sum_i NLL_i(x_rev,i | z_prior)       Eqn 11
 *     errI = -i_t mean_b,e log q(z_e | x) - i_f mean_b log q(z_prior | x_rev)                          Eqn 12
 *     errE = (mean_b U(x) - mean_b U(x_rev) + p (mean U(x)^2 + mean U(x_rev)^2)) / T                   Eqn 10
 *     Adam on generator, inference, energy: all draws were made before any update (ruling D6).
 * With prior_temperature, z_prior is what langevin_prior makes of a draw from p0.
 * Making and destroying a trainer is in trainer_setup.c.
 */
#include "trainer.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "view.h"

typedef float *const *buffer_list;

/* Branches of the draws. */
enum { CHAIN_X, CHAIN_Z };

static int64_t chains_of(const mmebm_trainer *t)
{
    return (int64_t)t->experts * t->options.batch;
}

static mmebm_status mean_of_rows(const mmebm_trainer *t, int64_t rows, const float *values, uint32_t power,
                                 uint32_t diagnostic)
{
    return t->context->ops->reduce(t->context->device, rows, values, power, 1.0f / (float)rows,
                                   t->results + diagnostic);
}

/* ---- draws */

static mmebm_status draw_prior(mmebm_trainer *t)
{
    const mmebm_backend_ops *ops = t->context->ops;
    const int64_t batch = t->options.batch, size = t->model->options.latent_size;
    if (t->witness_prior)
        return ops->upload(t->context->device, t->prior, t->witness_prior, (size_t)(batch * size) * sizeof(float));
    const mmebm_noise noise = {t->key, batch, MMEBM_STREAM_PRIOR, 0};
    return ops->noise(t->context->device, batch, size, t->prior, t->model->options.prior, t->model->options.prior_scale,
                      0.0f, &noise);
}

static mmebm_chain_rule rule_of(const mmebm_training_chain *chain, uint32_t experts)
{
    const float factor = chain->reduction == MMEBM_REDUCE_MEAN ? 1.0f / (float)experts : 1.0f;
    return (mmebm_chain_rule){
        .n_steps = chain->n_steps,
        .method = chain->method,
        .drift = {factor, chain->drift_clamp, chain->drift_norm_clip},
    };
}

/* prior <- steps of langevin_prior from there, if it is to be tilted. */
static mmebm_status tilt_prior(mmebm_trainer *t)
{
    const int64_t batch = t->options.batch;
    if (t->options.prior_temperature == 0.0f) return MMEBM_OK;
    MMEBM_TRY(mmebm__joint_refresh(t->model, &t->joint));
    const mmebm_chain chain = {
        .context = t->context,
        .plan = &t->tilted_plan,
        .input_count = 1,
        .inputs[0] = {t->prior, batch, t->model->options.latent_size, t->prior_gradient, t->prior_scales,
                      MMEBM_STREAM_TILT},
        .key = t->key,
        .energy = t->row_value[CHAIN_X],
        .recorded = 1,
    };
    const mmebm_chain_rule rule = rule_of(&t->options.langevin_prior, 1);
    return mmebm__chain_run(&chain, &rule, batch, batch, NULL, NULL);
}

/* revised <- generated <- G(z_prior), then k_x steps on it; displacement. */
static mmebm_status draw_revised(mmebm_trainer *t)
{
    const mmebm_backend_ops *ops = t->context->ops;
    mmebm_device *device = t->context->device;
    const int64_t batch = t->options.batch;
    const mmebm_plan_input latent[1] = {{t->prior, batch}};
    const mmebm_plan_run generate = {.rows = batch, .inputs = latent, .outputs = t->generated};
    MMEBM_TRY(mmebm__plan_run(t->context, &t->generator_plan, &generate));
    mmebm_chain chain = {
        .context = t->context,
        .plan = &t->energy_plan,
        .input_count = t->model->options.n_modalities,
        .key = t->key,
        .energy = t->row_value[CHAIN_X],
        .recorded = 1,
    };
    for (uint32_t i = 0; i < chain.input_count; ++i) {
        const int64_t size = t->model->modality_count[i];
        MMEBM_TRY(ops->copy(device, t->revised[i], t->generated[i], (size_t)(batch * size) * sizeof(float)));
        chain.inputs[i] =
            (mmebm_chain_input){t->revised[i], batch, size, t->gradient_x[i], t->scales, MMEBM_STREAM_X + i};
    }
    const mmebm_chain_rule rule = rule_of(&t->options.langevin_x, 1);
    MMEBM_TRY(mmebm__chain_run(&chain, &rule, batch, batch, NULL, NULL));
    MMEBM_TRY(ops->fill(device, batch, t->row_value[CHAIN_X], 0.0f));
    for (uint32_t i = 0; i < chain.input_count; ++i) {
        MMEBM_TRY(ops->row_distance(device, batch, t->model->modality_count[i], t->revised[i], t->generated[i],
                                    t->row_other));
        MMEBM_TRY(ops->combine(device, batch, t->row_value[CHAIN_X], 1.0f, t->row_other, 1.0f));
    }
    return mean_of_rows(t, batch, t->row_value[CHAIN_X], 1, MMEBM_DIAGNOSTIC_DISPLACEMENT);
}

/* All encoders forward: mean, raw. */
static mmebm_status encode(mmebm_trainer *t, buffer_list x)
{
    const int64_t batch = t->options.batch;
    mmebm_plan_input inputs[MMEBM_MAX_MODALITIES];
    float *outputs[2 * MMEBM_MAX_MODALITIES];
    for (uint32_t i = 0; i < t->model->options.n_modalities; ++i) {
        inputs[i] = (mmebm_plan_input){x[i], batch};
        outputs[2 * i] = t->mean[i];
        outputs[2 * i + 1] = t->raw[i];
    }
    const mmebm_plan_run run = {.rows = batch, .inputs = inputs, .outputs = outputs};
    return mmebm__plan_run(t->context, &t->inference_plan, &run);
}

static mmebm_status start_latents(mmebm_trainer *t)
{
    const mmebm_model_options *model = &t->model->options;
    const mmebm_expert_draw draw = {
        .rows = chains_of(t),
        .size = model->latent_size,
        .z = t->latent,
        .mean = (const float *const *)t->mean,
        .raw = (const float *const *)t->raw,
        .floor = model->posterior_floor,
        .experts = model->n_modalities,
        .family = model->posterior,
        .scale_kind = model->posterior_scale,
        .start = t->witness_prior ? MMEBM_START_MEAN : MMEBM_START_SAMPLE,
        .choose = t->options.stratified ? 0 : 1,
        .noise = {t->key, t->options.batch, MMEBM_STREAM_START, 0},
    };
    return t->context->ops->expert_draw(t->context->device, &draw);
}

static mmebm_status adapt_step_size(mmebm_trainer *t)
{
    const mmebm_trainer_options *options = &t->options;
    float *acceptance = t->results + MMEBM_DIAGNOSTIC_ACCEPTANCE;
    const int mala = options->langevin_z.method == MMEBM_MALA && options->langevin_z.n_steps > 0;
    if (!mala) return t->context->ops->fill(t->context->device, 1, acceptance, 1.0f);
    const mmebm_mala_adapt adapt = {
        .rows = chains_of(t),
        .accepted = t->accepted,
        .scales = t->scales + 2,
        .mean_acceptance = acceptance,
        .steps = (float)options->langevin_z.n_steps,
        .rate = options->mala_target > 0.0f ? options->mala_rate : 0.0f,
        .target = options->mala_target,
        .min = options->mala_min,
        .max = options->mala_max,
    };
    return t->context->ops->mala_adapt(t->context->device, &adapt);
}

/* latent <- k_z steps from a draw of q(z | data). */
static mmebm_status draw_latents(mmebm_trainer *t)
{
    const mmebm_backend_ops *ops = t->context->ops;
    const int64_t batch = t->options.batch, chains = chains_of(t), size = t->model->options.latent_size;
    MMEBM_TRY(encode(t, t->data));
    MMEBM_TRY(start_latents(t));
    mmebm_chain chain = {
        .context = t->context,
        .plan = &t->posterior_plan,
        .input_count = 1 + t->model->options.n_modalities,
        .key = t->key,
        .energy = t->energy_z,
        .recorded = 1,
        .proposal = t->proposal,
        .proposal_gradient = t->proposal_gradient,
        .proposal_energy = t->proposal_energy,
        .accepted = t->accepted,
    };
    chain.inputs[0] =
        (mmebm_chain_input){t->latent, chains, size, t->gradient_z, t->scales + 2, MMEBM_STREAM_Z};
    for (uint32_t i = 1; i < chain.input_count; ++i)
        chain.inputs[i] = (mmebm_chain_input){
            .value = t->data[i - 1], .period = batch, .size = t->model->modality_count[i - 1]};
    const mmebm_chain_rule rule = rule_of(&t->options.langevin_z, t->experts);
    MMEBM_TRY(mmebm__chain_run(&chain, &rule, chains, batch, NULL, NULL));
    MMEBM_TRY(adapt_step_size(t));
    MMEBM_TRY(ops->row_distance(t->context->device, chains, size, t->latent, NULL, t->row_value[CHAIN_Z]));
    return mean_of_rows(t, chains, t->row_value[CHAIN_Z], 0, MMEBM_DIAGNOSTIC_LATENT_NORM);
}

/* ---- gradients */

/* Adds the gradient of weight * mean over rows of sum_i NLL_i(x_i | z) to the generator's. */
static mmebm_status likelihood_gradient(mmebm_trainer *t, float *z, buffer_list x, int64_t rows, float weight,
                                        uint32_t diagnostic)
{
    mmebm_plan_input inputs[MMEBM_CHAIN_MAX_INPUTS] = {{z, rows}};
    for (uint32_t i = 0; i < t->model->options.n_modalities; ++i)
        inputs[i + 1] = (mmebm_plan_input){x[i], t->options.batch};
    float *outputs[2] = {NULL, t->row_value[MMEBM_PART_GENERATOR]};
    const mmebm_plan_seed seeds[2] = {{NULL, 0.0f}, {NULL, weight / (float)rows}};
    const mmebm_plan_run run = {
        .rows = rows,
        .inputs = inputs,
        .outputs = outputs,
        .seeds = seeds,
        .weight_gradient = t->optimisers[MMEBM_PART_GENERATOR].gradient,
    };
    MMEBM_TRY(mmebm__plan_run(t->context, &t->posterior_plan, &run));
    return mean_of_rows(t, rows, t->row_value[MMEBM_PART_GENERATOR], 1, diagnostic);
}

static mmebm_status generator_gradient(mmebm_trainer *t)
{
    MMEBM_TRY(likelihood_gradient(t, t->latent, t->data, chains_of(t), t->options.weight_reconstruction,
                                  MMEBM_DIAGNOSTIC_RECONSTRUCTION));
    return likelihood_gradient(t, t->prior, t->revised, t->options.batch, t->options.weight_synthesis,
                               MMEBM_DIAGNOSTIC_SYNTHESIS);
}

/* Adds the gradient of -weight * mean over rows of log q(z | x) to the encoders'; mean and raw hold q(. | x). */
static mmebm_status inference_term(mmebm_trainer *t, const float *z, int64_t rows, buffer_list x, float weight,
                                   uint32_t diagnostic)
{
    const mmebm_backend_ops *ops = t->context->ops;
    const mmebm_model_options *model = &t->model->options;
    const int64_t batch = t->options.batch;
    mmebm_plan_input inputs[MMEBM_MAX_MODALITIES];
    mmebm_plan_seed seeds[2 * MMEBM_MAX_MODALITIES];
    for (uint32_t i = 0; i < model->n_modalities; ++i) {
        MMEBM_TRY(ops->fill(t->context->device, batch * model->latent_size, t->mean_gradient[i], 0.0f));
        MMEBM_TRY(ops->fill(t->context->device, batch * model->latent_size, t->raw_gradient[i], 0.0f));
        inputs[i] = (mmebm_plan_input){x[i], batch};
        seeds[2 * i] = (mmebm_plan_seed){t->mean_gradient[i], 1.0f};
        seeds[2 * i + 1] = (mmebm_plan_seed){t->raw_gradient[i], 1.0f};
    }
    const mmebm_mixture mixture = {
        .rows = rows,
        .period = batch,
        .size = model->latent_size,
        .z = z,
        .mean = (const float *const *)t->mean,
        .raw = (const float *const *)t->raw,
        .mean_gradient = t->mean_gradient,
        .raw_gradient = t->raw_gradient,
        .log_density = t->row_value[MMEBM_PART_INFERENCE],
        .gradient_scale = -weight / (float)rows,
        .floor = model->posterior_floor,
        .experts = model->n_modalities,
        .family = model->posterior,
        .scale_kind = model->posterior_scale,
    };
    MMEBM_TRY(ops->mixture(t->context->device, &mixture));
    const mmebm_plan_run run = {
        .rows = batch,
        .inputs = inputs,
        .seeds = seeds,
        .weight_gradient = t->optimisers[MMEBM_PART_INFERENCE].gradient,
    };
    MMEBM_TRY(mmebm__plan_run(t->context, &t->inference_plan, &run));
    return mean_of_rows(t, rows, t->row_value[MMEBM_PART_INFERENCE], 1, diagnostic);
}

/* mean and raw still hold q(. | data) from draw_latents. */
static mmebm_status inference_gradient(mmebm_trainer *t)
{
    MMEBM_TRY(inference_term(t, t->latent, chains_of(t), t->data, t->options.weight_inference,
                             MMEBM_DIAGNOSTIC_LOG_Q_DATA));
    MMEBM_TRY(encode(t, t->revised));
    return inference_term(t, t->prior, t->options.batch, t->revised, t->options.weight_inference_revised,
                          MMEBM_DIAGNOSTIC_LOG_Q_REVISED);
}

/* Adds the gradient of (sign mean U + p mean U^2) / T over x to the energy's: row r's share is
 * (sign + 2 p U_r) / (B T). */
static mmebm_status energy_term(mmebm_trainer *t, buffer_list x, float sign, uint32_t mean, uint32_t square)
{
    const mmebm_backend_ops *ops = t->context->ops;
    const int64_t batch = t->options.batch;
    const float share = 1.0f / ((float)batch * t->options.temperature), penalty = t->options.energy_penalty;
    mmebm_plan_input inputs[MMEBM_MAX_MODALITIES];
    for (uint32_t i = 0; i < t->model->options.n_modalities; ++i)
        inputs[i] = (mmebm_plan_input){x[i], batch};
    float *outputs[1] = {t->row_value[MMEBM_PART_ENERGY]};
    mmebm_plan_run run = {.rows = batch, .inputs = inputs, .outputs = outputs};
    MMEBM_TRY(mmebm__plan_run(t->context, &t->energy_plan, &run));
    MMEBM_TRY(ops->fill(t->context->device, batch, t->row_other, sign * share));
    MMEBM_TRY(ops->combine(t->context->device, batch, t->row_other, 1.0f, t->row_value[MMEBM_PART_ENERGY],
                           2.0f * penalty * share));
    const mmebm_plan_seed seeds[1] = {{t->row_other, 1.0f}};
    run.outputs = NULL;
    run.seeds = seeds;
    run.weight_gradient = t->optimisers[MMEBM_PART_ENERGY].gradient;
    MMEBM_TRY(mmebm__plan_run(t->context, &t->energy_plan, &run));
    MMEBM_TRY(mean_of_rows(t, batch, t->row_value[MMEBM_PART_ENERGY], 1, mean));
    return mean_of_rows(t, batch, t->row_value[MMEBM_PART_ENERGY], 2, square);
}

/* mismatched_i[b] <- positive_i[(b + i) mod batch]: pictures of different things. */
static mmebm_status mismatch(const mmebm_trainer *t)
{
    const mmebm_backend_ops *ops = t->context->ops;
    for (uint32_t i = 0; i < t->model->options.n_modalities; ++i) {
        const size_t row = (size_t)t->model->modality_count[i], batch = t->options.batch, on = i % batch;
        MMEBM_TRY(ops->copy(t->context->device, t->mismatched[i], t->positive[i] + on * row,
                            (batch - on) * row * sizeof(float)));
        if (on)
            MMEBM_TRY(ops->copy(t->context->device, t->mismatched[i] + (batch - on) * row, t->positive[i],
                                on * row * sizeof(float)));
    }
    return MMEBM_OK;
}

static mmebm_status energy_gradient(mmebm_trainer *t)
{
    const float w = t->options.weight_mismatched;
    const mmebm_backend_ops *ops = t->context->ops;
    const int64_t batch = t->options.batch;
    for (uint32_t i = 0; t->options.data_noise > 0.0f && i < t->model->options.n_modalities; ++i) {
        const int64_t size = t->model->modality_count[i];
        const mmebm_noise noise = {t->key, batch, MMEBM_STREAM_DATA + i, 0};
        MMEBM_TRY(ops->copy(t->context->device, t->positive[i], t->data[i], (size_t)(batch * size) * sizeof(float)));
        MMEBM_TRY(ops->noise(t->context->device, batch, size, t->positive[i], MMEBM_GAUSSIAN, t->options.data_noise,
                             1.0f, &noise));
    }
    MMEBM_TRY(
        energy_term(t, t->positive, 1.0f + w, MMEBM_DIAGNOSTIC_ENERGY_DATA, MMEBM_DIAGNOSTIC_ENERGY_SQUARE_DATA));
    MMEBM_TRY(
        energy_term(t, t->revised, -1.0f, MMEBM_DIAGNOSTIC_ENERGY_REVISED, MMEBM_DIAGNOSTIC_ENERGY_SQUARE_REVISED));
    if (w == 0.0f) return MMEBM_OK;
    MMEBM_TRY(mismatch(t));
    return energy_term(t, t->mismatched, -w, MMEBM_DIAGNOSTIC_ENERGY_MISMATCHED,
                       MMEBM_DIAGNOSTIC_ENERGY_SQUARE_MISMATCHED);
}

/* ---- the step */

/* Work that does not wait for other work: side by side where the backend has branches. */
typedef mmebm_status (*branch_work)(mmebm_trainer *t);

static mmebm_status run_branches(mmebm_trainer *t, const branch_work *work, uint32_t count)
{
    const mmebm_backend_ops *ops = t->context->ops;
    mmebm_status status = MMEBM_OK;
    if (count == 0) return MMEBM_OK;
    if (ops->branch_fork) MMEBM_TRY(ops->branch_fork(t->context->device, count));
    for (uint32_t k = 0; k < count && status == MMEBM_OK; ++k) {
        if (ops->branch_enter) ops->branch_enter(t->context->device, k);
        status = work[k](t);
    }
    if (!ops->branch_join) return status;
    char sentence[MMEBM_ERROR_SIZE];
    memcpy(sentence, t->context->error, sizeof sentence);
    const mmebm_status joined = ops->branch_join(t->context->device);
    if (status == MMEBM_OK) return joined;
    memcpy(t->context->error, sentence, sizeof sentence); /* the first failure */
    return status;
}

static mmebm_status update(mmebm_trainer *t, uint32_t part, branch_work gradient, int64_t rows, uint32_t norm)
{
    MMEBM_TRY(mmebm__optimiser_begin(&t->optimisers[part]));
    MMEBM_TRY(gradient(t));
    return mmebm__optimiser_step(&t->optimisers[part], t->control + 3 * part, t->control + 3 * MMEBM_PART_COUNT, rows,
                                 t->results + norm);
}

/* A network of rate 0 stays as it is, and nothing is computed for it alone. */
static int is_trained(const mmebm_trainer *t, uint32_t part)
{
    return t->optimisers[part].adam.rate > 0.0f;
}

static int wants_latents(const mmebm_trainer *t)
{
    return is_trained(t, MMEBM_PART_GENERATOR) || is_trained(t, MMEBM_PART_INFERENCE);
}

static mmebm_status update_energy(mmebm_trainer *t)
{
    const int64_t terms = t->options.weight_mismatched > 0.0f ? 3 : 2;
    return update(t, MMEBM_PART_ENERGY, energy_gradient, terms * t->options.batch,
                  MMEBM_DIAGNOSTIC_GRADIENT_NORM_ENERGY);
}

static mmebm_status update_generator(mmebm_trainer *t)
{
    return update(t, MMEBM_PART_GENERATOR, generator_gradient, chains_of(t) + t->options.batch,
                  MMEBM_DIAGNOSTIC_GRADIENT_NORM_GENERATOR);
}

static mmebm_status update_inference(mmebm_trainer *t)
{
    return update(t, MMEBM_PART_INFERENCE, inference_gradient, 2 * (int64_t)t->options.batch,
                  MMEBM_DIAGNOSTIC_GRADIENT_NORM_INFERENCE);
}

static mmebm_status draw_tuples(mmebm_trainer *t)
{
    MMEBM_TRY(draw_prior(t));
    MMEBM_TRY(tilt_prior(t));
    return draw_revised(t);
}

/* Everything that happens on the device; the device memory that it reads was uploaded before, so that a backend may
 * record it. */
static mmebm_status device_step(mmebm_trainer *t)
{
    static const branch_work draws[] = {[CHAIN_X] = draw_tuples, [CHAIN_Z] = draw_latents};
    static const branch_work updates[MMEBM_PART_COUNT] = {[MMEBM_PART_ENERGY] = update_energy,
                                                          [MMEBM_PART_GENERATOR] = update_generator,
                                                          [MMEBM_PART_INFERENCE] = update_inference};
    branch_work trained[MMEBM_PART_COUNT];
    uint32_t count = 0;
    for (uint32_t p = 0; p < MMEBM_PART_COUNT; ++p)
        if (is_trained(t, p)) trained[count++] = updates[p];
    MMEBM_TRY(run_branches(t, draws, wants_latents(t) ? 2 : 1));
    MMEBM_TRY(run_branches(t, trained, count));
    return t->context->ops->copy(t->context->device, t->results + MMEBM_DIAGNOSTIC_STEP_SIZE_Z, t->scales + 2,
                                 sizeof(float));
}

/* ---- recording: every argument of a step is fixed for the trainer's life. At its start the plans of networks that are
 * trained have stale weights, because the step before published new ones, and those of the others have not. The joint
 * weights are stale where the networks' own plans are. */

static mmebm_status step_calls(void *user)
{
    return device_step(user);
}

enum { STEP_PLANS = 4 };

/* The plans that a step runs; returns how many. */
static uint32_t plans_of_step(mmebm_trainer *t, mmebm_weighted_plan *plans[STEP_PLANS])
{
    uint32_t count = 0;
    plans[count++] = &t->energy_plan;
    plans[count++] = &t->generator_plan;
    if (!wants_latents(t)) return count;
    plans[count++] = &t->posterior_plan;
    plans[count++] = &t->inference_plan;
    return count;
}

static uint32_t part_of(const mmebm_trainer *t, const mmebm_weighted_plan *plan)
{
    return (uint32_t)(plan->part - t->model->parts);
}

static int plans_are_as_recorded(mmebm_trainer *t)
{
    mmebm_weighted_plan *plans[STEP_PLANS];
    const uint32_t count = plans_of_step(t, plans);
    for (uint32_t p = 0; p < count; ++p)
        if ((plans[p]->revision != plans[p]->part->revision) != is_trained(t, part_of(t, plans[p]))) return 0;
    return 1;
}

/* What the calls of a step do to the host's counters, for a replay that makes none: plans take the weights, optimisers
 * publish new ones. */
static void count_revisions(mmebm_trainer *t, const uint64_t before[MMEBM_PART_COUNT])
{
    mmebm_weighted_plan *plans[STEP_PLANS];
    const uint32_t count = plans_of_step(t, plans);
    for (uint32_t p = 0; p < count; ++p) plans[p]->revision = before[part_of(t, plans[p])];
    for (uint32_t p = 0; p < MMEBM_PART_COUNT; ++p)
        if (is_trained(t, p)) t->optimisers[p].revision = t->model->parts[p].revision = before[p] + 1;
}

static mmebm_status run_device_step(mmebm_trainer *t)
{
    if (t->witness_prior || !plans_are_as_recorded(t)) return device_step(t);
    uint64_t before[MMEBM_PART_COUNT];
    for (uint32_t p = 0; p < MMEBM_PART_COUNT; ++p) before[p] = t->model->parts[p].revision;
    const mmebm_sequence_key key = {.count = 0};
    MMEBM_TRY(mmebm__sequence_run(t->context, &t->sequences, &key, step_calls, t));
    count_revisions(t, before);
    return MMEBM_OK;
}

/* Cosine from 1 to schedule_end. */
static double schedule_factor(const mmebm_trainer *t)
{
    const mmebm_trainer_options *options = &t->options;
    if (!options->schedule_steps) return 1.0;
    const double share = fmin(1.0, (double)(t->counters.step + t->pending) / options->schedule_steps);
    return options->schedule_end + (1.0 - options->schedule_end) * 0.5 * (1.0 + cos(3.14159265358979323846 * share));
}

/* SplitMix64's finaliser: unrelated keys for consecutive steps. */
static uint64_t key_of_draw(uint64_t seed, uint64_t draw)
{
    uint64_t k = seed + (draw + 1) * 0x9E3779B97F4A7C15u;
    k = (k ^ (k >> 30)) * 0xBF58476D1CE4E5B9u;
    k = (k ^ (k >> 27)) * 0x94D049BB133111EBu;
    return k ^ (k >> 31);
}

/* What changes from step to step: noise key, rates, bias corrections, weight of the average. */
static mmebm_status upload_control(mmebm_trainer *t)
{
    const mmebm_backend_ops *ops = t->context->ops;
    const double updates = (double)(t->counters.updates + t->pending + 1);
    const double factor = schedule_factor(t) * t->counters.rate_factor;
    float control[3 * MMEBM_PART_COUNT + 1];
    for (uint32_t p = 0; p < MMEBM_PART_COUNT; ++p) {
        const mmebm_adam_options *adam = &t->optimisers[p].adam;
        control[3 * p] = (float)(adam->rate * factor);
        control[3 * p + 1] = (float)(1.0 - pow(adam->beta1, updates));
        control[3 * p + 2] = (float)(1.0 - pow(adam->beta2, updates));
    }
    /* early averages follow the weights more closely */
    control[3 * MMEBM_PART_COUNT] = (float)(1.0 - fmin(t->options.ema, updates / (updates + 9.0)));
    const uint64_t key[2] = {key_of_draw(t->options.seed, t->counters.draws), 0};
    MMEBM_TRY(ops->upload(t->context->device, t->control, control, sizeof control));
    return ops->upload(t->context->device, t->key, key, sizeof key);
}

/* Index of the first value that is not finite, or count. Its exponent is all ones, so that 1 added at its lowest bit
 * carries into the sign's place, masked off before: a loop without branches, which the compiler vectorises. */
static int64_t find_not_finite(const float *values, int64_t count)
{
    enum { BLOCK = 4096 };
    const uint32_t exponent = 0x7f800000u, one = 0x00800000u;
    for (int64_t first = 0; first < count; first += BLOCK) {
        const int64_t end = count - first < BLOCK ? count : first + BLOCK;
        uint32_t carries = 0;
        for (int64_t k = first; k < end; ++k) {
            uint32_t bits;
            memcpy(&bits, &values[k], sizeof bits);
            carries |= (bits & exponent) + one;
        }
        if (!(carries >> 31)) continue;
        for (int64_t k = first; k < end; ++k)
            if (!isfinite(values[k])) return k;
    }
    return count;
}

static mmebm_status check_batch(mmebm_trainer *t, const mmebm_view *x)
{
    int64_t batch = t->options.batch;
    if (!x) return mmebm__fail(t->context, MMEBM_E_ARGUMENT, "trainer_step: x is NULL");
    for (uint32_t i = 0; i < t->model->options.n_modalities; ++i) {
        const mmebm_modality *modality = &t->model->modalities[i];
        const mmebm_view *view = mmebm__view_at(x, i);
        char what[96];
        snprintf(what, sizeof what, "trainer_step: view of modality '%s'", t->model->modality_names[i]);
        MMEBM_TRY(mmebm__view_check(t->context, what, view, modality->rank, modality->shape, &batch));
        if (view->place != MMEBM_HOST) continue; /* the guard sees what comes of data on the device */
        const float *values = view->data;
        const int64_t count = batch * t->model->modality_count[i], bad = find_not_finite(values, count);
        if (bad < count)
            return mmebm__fail(t->context, MMEBM_E_ARGUMENT, "%s holds %g at element %lld, wanted finite data", what,
                               (double)values[bad], (long long)bad);
    }
    return MMEBM_OK;
}

/* ---- steps on their way */

/* The results of the step just queued. */
static mmebm_status post_results(mmebm_trainer *t)
{
    mmebm_mailbox *mail = t->mail[(t->oldest_mail + t->pending) % MMEBM_STEPS_UNDER_WAY];
    if (mail) MMEBM_TRY(t->context->ops->mailbox_post(mail, t->results));
    ++t->pending;
    return MMEBM_OK;
}

/* Of the oldest step that is on its way. Steps after a bad one began from its weights: they are dropped with it. */
static mmebm_status collect_one(mmebm_trainer *t)
{
    const mmebm_backend_ops *ops = t->context->ops;
    mmebm_mailbox *mail = t->mail[t->oldest_mail];
    const uint32_t later = t->pending - 1;
    float results[MMEBM_DIAGNOSTIC_DEVICE_COUNT];
    t->pending = 0;
    t->oldest_mail = (t->oldest_mail + 1) % MMEBM_STEPS_UNDER_WAY;
    if (mail)
        MMEBM_TRY(ops->mailbox_receive(mail, results));
    else
        MMEBM_TRY(ops->download(t->context->device, results, t->results, sizeof results));
    for (uint32_t i = 0; i < MMEBM_DIAGNOSTIC_DEVICE_COUNT; ++i)
        t->diagnostics[i] = results[i];
    ++t->counters.step;
    ++t->counters.updates;
    mmebm__diagnostics_complete(t);
    int good;
    MMEBM_TRY(mmebm__guard_watch(t, &good));
    if (good) t->pending = later;
    return MMEBM_OK;
}

mmebm_status mmebm__trainer_collect(mmebm_trainer *t)
{
    while (t->pending) MMEBM_TRY(collect_one(t));
    return MMEBM_OK;
}

/* Makes room for a step. One may be under way, so that the device need not wait for the host's work on the next, unless
 * the guard may take a snapshot after it. */
static mmebm_status collect_for_step(mmebm_trainer *t)
{
    const uint32_t interval = t->options.guard_interval;
    while (t->pending == MMEBM_STEPS_UNDER_WAY) MMEBM_TRY(collect_one(t));
    return interval && t->counters.since_snapshot + t->pending >= interval ? mmebm__trainer_collect(t) : MMEBM_OK;
}

/* The new batch is on its way while the host does the rest, behind the last reader of the old one. */
mmebm_status mmebm_trainer_step(mmebm_trainer *t, const mmebm_view *x)
{
    if (!t) return MMEBM_E_ARGUMENT;
    mmebm__clear_error(t->context);
    MMEBM_TRY(check_batch(t, x));
    for (uint32_t i = 0; i < t->model->options.n_modalities; ++i)
        MMEBM_TRY(mmebm__view_upload(t->context, mmebm__view_at(x, i), 0, t->options.batch, t->data[i]));
    MMEBM_TRY(collect_for_step(t));
    for (uint32_t p = 0; p < MMEBM_PART_COUNT; ++p)
        MMEBM_TRY(mmebm__optimiser_sync(&t->optimisers[p]));
    if (t->options.guard_interval && !t->counters.valid_snapshots) MMEBM_TRY(mmebm__guard_snapshot(t));
    MMEBM_TRY(upload_control(t));
    ++t->counters.draws;
    MMEBM_TRY(run_device_step(t));
    MMEBM_TRY(post_results(t));
    return t->mail[0] ? MMEBM_OK : mmebm__trainer_collect(t);
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * Making, destroying and questioning a trainer; what a checkpoint must hold of it.
 */
#include <stdio.h>
#include <string.h>

#include "struct_size.h"
#include "trainer.h"

/* ---- device memory */

typedef struct buffer_row {
    float **buffer;
    size_t count;
} buffer_row;
enum { MAX_BUFFERS = 10 * MMEBM_MAX_MODALITIES + 26 };

static uint32_t list_data_buffers(mmebm_trainer *t, buffer_row *rows)
{
    const size_t batch = t->options.batch, latents = batch * t->model->options.latent_size;
    uint32_t n = 0;
    for (uint32_t i = 0; i < t->model->options.n_modalities; ++i) {
        const size_t count = batch * (size_t)t->model->modality_count[i];
        float **const tuples[] = {&t->data[i], &t->generated[i], &t->revised[i], &t->gradient_x[i]};
        float **const experts[] = {&t->mean[i], &t->raw[i], &t->mean_gradient[i], &t->raw_gradient[i]};
        for (size_t k = 0; k < 4; ++k)
            rows[n++] = (buffer_row){tuples[k], count};
        for (size_t k = 0; k < 4; ++k)
            rows[n++] = (buffer_row){experts[k], latents};
        if (t->options.data_noise > 0.0f) rows[n++] = (buffer_row){&t->positive[i], count};
        if (t->options.weight_mismatched > 0.0f) rows[n++] = (buffer_row){&t->mismatched[i], count};
    }
    return n;
}

static uint32_t list_buffers(mmebm_trainer *t, buffer_row rows[MAX_BUFFERS])
{
    const size_t batch = t->options.batch, size = t->model->options.latent_size, chains = batch * t->experts;
    uint32_t n = list_data_buffers(t, rows);
    float **const latents[] = {&t->latent, &t->gradient_z, &t->proposal, &t->proposal_gradient};
    float **const values[] = {&t->row_value[0], &t->row_value[1],      &t->row_value[2], &t->row_other,
                              &t->energy_z,     &t->proposal_energy, &t->accepted};
    rows[n++] = (buffer_row){&t->prior, batch * size};
    for (size_t k = 0; k < sizeof latents / sizeof *latents; ++k)
        rows[n++] = (buffer_row){latents[k], chains * size};
    for (size_t k = 0; k < sizeof values / sizeof *values; ++k)
        rows[n++] = (buffer_row){values[k], chains};
    if (t->options.prior_temperature > 0.0f) {
        rows[n++] = (buffer_row){&t->prior_gradient, batch * size};
        rows[n++] = (buffer_row){&t->prior_scales, 2};
    }
    rows[n++] = (buffer_row){&t->scales, 4};
    rows[n++] = (buffer_row){&t->scales_snapshot[0], 4};
    rows[n++] = (buffer_row){&t->scales_snapshot[1], 4};
    rows[n++] = (buffer_row){&t->control, 3 * MMEBM_PART_COUNT + 1};
    rows[n++] = (buffer_row){&t->results, MMEBM_DIAGNOSTIC_DEVICE_COUNT};
    return n;
}

static mmebm_status open_buffers(mmebm_trainer *t)
{
    const mmebm_backend_ops *ops = t->context->ops;
    buffer_row rows[MAX_BUFFERS];
    const uint32_t count = list_buffers(t, rows);
    for (uint32_t i = 0; i < count; ++i)
        MMEBM_TRY(mmebm__device_floats(t->context, rows[i].count, rows[i].buffer));
    for (uint32_t i = 0; t->options.data_noise == 0.0f && i < t->model->options.n_modalities; ++i)
        t->positive[i] = t->data[i];
    void *key;
    MMEBM_TRY(ops->buffer_create(t->context->device, 2 * sizeof(uint64_t), &key));
    t->key = key;
    t->user_state = mmebm__allocate(t->context, MMEBM_USER_STATE_SIZE);
    if (!t->user_state) return MMEBM_E_MEMORY;
    const mmebm_training_chain *x = &t->options.langevin_x, *z = &t->options.langevin_z;
    const mmebm_training_chain *prior = &t->options.langevin_prior;
    const float scales[4] = {x->step_size, x->noise_scale, z->step_size, z->noise_scale};
    const float prior_scales[2] = {prior->step_size, prior->noise_scale};
    MMEBM_TRY(ops->upload(t->context->device, t->scales, scales, sizeof scales));
    if (!t->prior_scales) return MMEBM_OK;
    return ops->upload(t->context->device, t->prior_scales, prior_scales, sizeof prior_scales);
}

/* ---- plans */

static mmebm_status open_plan(mmebm_trainer *t, const mmebm_graph *graph, const mmebm_part *part,
                              uint64_t input_gradients, uint32_t weight_gradient, int64_t capacity,
                              mmebm_weighted_plan *plan)
{
    const mmebm_plan_spec spec = {
        .graph = graph,
        .precision = t->options.precision,
        .weight_gradient = weight_gradient,
        .input_gradients = input_gradients,
        .capacity = capacity,
    };
    return mmebm__plan_open(t->context, &spec, part, plan);
}

static mmebm_status open_tilted_plan(mmebm_trainer *t)
{
    if (t->options.prior_temperature == 0.0f) return MMEBM_OK;
    MMEBM_TRY(mmebm__joint_open(t->model, &t->joint));
    MMEBM_TRY(mmebm__graph_tilted(t->model, 0, t->options.prior_temperature, &t->tilted_graph));
    return open_plan(t, &t->tilted_graph, &t->joint.part, 1, 0, t->options.batch, &t->tilted_plan);
}

static mmebm_status open_plans(mmebm_trainer *t)
{
    const mmebm_part *energy = &t->model->parts[MMEBM_PART_ENERGY], *inference = &t->model->parts[MMEBM_PART_INFERENCE];
    const mmebm_part *generator = &t->model->parts[MMEBM_PART_GENERATOR];
    const uint64_t all = ((uint64_t)1 << t->model->options.n_modalities) - 1;
    const int64_t batch = t->options.batch;
    MMEBM_TRY(mmebm__graph_posterior(t->model, all, &t->posterior_graph));
    MMEBM_TRY(open_plan(t, &energy->graph, energy, all, 1, batch, &t->energy_plan));
    MMEBM_TRY(open_plan(t, &generator->graph, generator, 0, 0, batch, &t->generator_plan));
    MMEBM_TRY(open_plan(t, &t->posterior_graph, generator, 1, 1, batch * t->experts, &t->posterior_plan));
    MMEBM_TRY(open_plan(t, &inference->graph, inference, 0, 1, batch, &t->inference_plan));
    return open_tilted_plan(t);
}

static mmebm_status open_optimisers(mmebm_trainer *t)
{
    const mmebm_adam_options *adam[MMEBM_PART_COUNT] = {&t->options.energy, &t->options.generator,
                                                        &t->options.inference};
    for (uint32_t p = 0; p < MMEBM_PART_COUNT; ++p) {
        const mmebm_optimiser_spec spec = {
            .part = &t->model->parts[p],
            .adam = adam[p],
            .average = t->options.ema > 0.0f,
            .snapshots = t->options.guard_interval > 0,
            .seed = t->options.seed + p,
        };
        MMEBM_TRY(mmebm__optimiser_open(t->context, &spec, &t->optimisers[p]));
    }
    return MMEBM_OK;
}

void mmebm_trainer_destroy(mmebm_trainer **handle)
{
    if (!handle || !*handle) return;
    mmebm_trainer *t = *handle;
    mmebm_context *context = t->context;
    *handle = NULL;
    for (uint32_t p = 0; p < MMEBM_PART_COUNT; ++p)
        mmebm__optimiser_close(&t->optimisers[p]);
    mmebm__sequence_close(context, &t->sequences);
    for (uint32_t k = 0; k < MMEBM_STEPS_UNDER_WAY; ++k)
        if (t->mail[k]) context->ops->mailbox_destroy(t->mail[k]);
    mmebm_weighted_plan *const plans[] = {&t->energy_plan, &t->generator_plan, &t->posterior_plan, &t->inference_plan,
                                          &t->tilted_plan};
    for (size_t i = 0; i < sizeof plans / sizeof *plans; ++i)
        mmebm__plan_close(context, plans[i]);
    mmebm__graph_free(context, &t->posterior_graph);
    mmebm__graph_free(context, &t->tilted_graph);
    mmebm__joint_close(context, &t->joint);
    buffer_row rows[MAX_BUFFERS];
    const uint32_t count = list_buffers(t, rows);
    for (uint32_t i = 0; i < count; ++i)
        mmebm__device_free(context, *rows[i].buffer, rows[i].count);
    if (t->key) context->ops->buffer_destroy(context->device, t->key, 2 * sizeof(uint64_t));
    mmebm__free(context, t->user_state, MMEBM_USER_STATE_SIZE);
    mmebm_model *model = t->model;
    mmebm__free(context, t, sizeof *t);
    mmebm__model_release(model);
}

static mmebm_status read_options(mmebm_context *context, const mmebm_trainer_options *given,
                                 mmebm_trainer_options *options)
{
    MMEBM_TRY(mmebm_trainer_options_init(options, "default"));
    if (given)
        MMEBM_TRY(mmebm__struct_read(context, "trainer options", given, options, sizeof *options, sizeof *options));
    MMEBM_TRY(mmebm__trainer_options_check(context, options));
    if (options->precision == MMEBM_PRECISION_AUTO) options->precision = mmebm_context_fast_precision(context);
    const float l = options->langevin_x.step_size, n = options->langevin_x.noise_scale;
    if (options->temperature == 0.0f) options->temperature = (n / l) * (n / l);
    return MMEBM_OK;
}

mmebm_status mmebm_trainer_create(mmebm_model *model, const mmebm_trainer_options *given, mmebm_trainer **handle)
{
    if (handle) *handle = NULL;
    if (!model) return MMEBM_E_ARGUMENT;
    mmebm_context *context = model->context;
    mmebm__clear_error(context);
    if (!handle) return mmebm__fail(context, MMEBM_E_ARGUMENT, "trainer_create: trainer is NULL");
    mmebm_trainer_options options;
    MMEBM_TRY(read_options(context, given, &options));
    mmebm_trainer *t = mmebm__allocate(context, sizeof *t);
    if (!t) return MMEBM_E_MEMORY;
    mmebm__model_retain(model);
    t->context = context;
    t->model = model;
    t->options = options;
    t->options.struct_size = sizeof options;
    t->experts = options.stratified ? model->options.n_modalities : 1;
    t->counters.rate_factor = 1.0;
    mmebm_status status = open_buffers(t);
    if (status == MMEBM_OK) status = open_plans(t);
    if (status == MMEBM_OK) status = open_optimisers(t);
    if (status == MMEBM_OK) status = mmebm__sequence_open(context, &t->sequences);
    for (uint32_t k = 0; context->ops->mailbox_create && status == MMEBM_OK && k < MMEBM_STEPS_UNDER_WAY; ++k)
        status = context->ops->mailbox_create(context->device, MMEBM_DIAGNOSTIC_DEVICE_COUNT * sizeof(float),
                                              &t->mail[k]);
    if (status != MMEBM_OK) {
        mmebm_trainer_destroy(&t);
        return status;
    }
    *handle = t;
    return MMEBM_OK;
}

/* ---- weights, user state, checkpoints */

mmebm_status mmebm_trainer_copy_average(const mmebm_trainer *t, mmebm_model *model)
{
    if (!t) return MMEBM_E_ARGUMENT;
    mmebm_context *context = t->context;
    mmebm__clear_error(context);
    if (!model) return mmebm__fail(context, MMEBM_E_ARGUMENT, "trainer_copy_average: model is NULL");
    if (!t->optimisers[0].average)
        return mmebm__fail(context, MMEBM_E_STATE, "trainer_copy_average: the trainer was made with ema = 0");
    if (model->context != context)
        return mmebm__fail(context, MMEBM_E_ARGUMENT, "trainer_copy_average: the model belongs to another context");
    for (uint32_t p = 0; p < MMEBM_PART_COUNT; ++p) {
        if (model->parts[p].graph.weight_count != t->optimisers[p].count)
            return mmebm__fail(context, MMEBM_E_SHAPE,
                               "trainer_copy_average: the model has %zu weights in part %u, wanted %zu",
                               model->parts[p].graph.weight_count, p, t->optimisers[p].count);
    }
    MMEBM_TRY(mmebm__trainer_collect((mmebm_trainer *)t)); /* a bad step must not be in the average */
    for (uint32_t p = 0; p < MMEBM_PART_COUNT; ++p) {
        const mmebm_optimiser *optimiser = &t->optimisers[p];
        MMEBM_TRY(context->ops->copy(context->device, model->parts[p].weights, optimiser->average,
                                     optimiser->count * sizeof(float)));
        ++model->parts[p].revision;
    }
    return MMEBM_OK;
}

mmebm_status mmebm_trainer_set_user_state(mmebm_trainer *t, const void *data, size_t size)
{
    if (!t) return MMEBM_E_ARGUMENT;
    mmebm__clear_error(t->context);
    if ((!data && size) || size > MMEBM_USER_STATE_SIZE)
        return mmebm__fail(t->context, MMEBM_E_ARGUMENT, "trainer_set_user_state: %s, %zu bytes; wanted at most %d",
                           data ? "data" : "NULL", size, MMEBM_USER_STATE_SIZE);
    if (size) memcpy(t->user_state, data, size);
    t->user_state_size = size;
    return MMEBM_OK;
}

mmebm_status mmebm_trainer_get_user_state(const mmebm_trainer *t, void *data, size_t *size)
{
    if (!t) return MMEBM_E_ARGUMENT;
    mmebm__clear_error(t->context);
    if (!size) return mmebm__fail(t->context, MMEBM_E_ARGUMENT, "trainer_get_user_state: size is NULL");
    const size_t room = *size;
    *size = t->user_state_size;
    if (!data) return MMEBM_OK;
    if (room < t->user_state_size)
        return mmebm__fail(t->context, MMEBM_E_ARGUMENT, "trainer_get_user_state: room for %zu bytes, wanted %zu", room,
                           t->user_state_size);
    memcpy(data, t->user_state, t->user_state_size);
    return MMEBM_OK;
}

uint32_t mmebm__trainer_arrays(const mmebm_trainer *t, mmebm_named_array list[MMEBM_TRAINER_MAX_ARRAYS])
{
    static const char *const part_names[MMEBM_PART_COUNT] = {"energy", "generator", "inference"};
    uint32_t n = 0;
    for (uint32_t p = 0; p < MMEBM_PART_COUNT; ++p) {
        const mmebm_optimiser *optimiser = &t->optimisers[p];
        float *const blocks[3] = {optimiser->block, optimiser->snapshot[0], optimiser->snapshot[1]};
        static const char *const block_names[3] = {"state", "snapshot0", "snapshot1"};
        for (uint32_t b = 0; b < 3; ++b) {
            if (!blocks[b]) continue;
            snprintf(list[n].name, sizeof list[n].name, "trainer.%s.%s", part_names[p], block_names[b]);
            list[n].device = blocks[b];
            list[n++].count = optimiser->block_count;
        }
    }
    float *const scales[3] = {t->scales, t->scales_snapshot[0], t->scales_snapshot[1]};
    static const char *const scale_names[3] = {"trainer.scales", "trainer.scales_snapshot0",
                                               "trainer.scales_snapshot1"};
    for (uint32_t s = 0; s < 3; ++s) {
        snprintf(list[n].name, sizeof list[n].name, "%s", scale_names[s]);
        list[n].device = scales[s];
        list[n++].count = 4;
    }
    return n;
}

mmebm_status mmebm__trainer_restored(mmebm_trainer *t)
{
    /* The file's weights are what was published; the masters are in the blocks. */
    for (uint32_t p = 0; p < MMEBM_PART_COUNT; ++p)
        t->optimisers[p].revision = t->optimisers[p].part->revision;
    mmebm__diagnostics_complete(t);
    return MMEBM_OK;
}

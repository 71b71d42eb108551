/* SPDX-License-Identifier: Apache-2.0
 *
 * Making a sampler: one plan for U with input gradients, one for the generator, one for each encoder, and the device
 * memory of a part. The energy of latents depends on the observed set and is compiled for each set once, under a tilted
 * prior once more for the temperature last asked for.
 */
#include "sampler.h"

#include <string.h>

#include "struct_size.h"

mmebm_status mmebm__observed_set(const mmebm_sampler *sampler, const char *what, uint64_t mask, uint64_t *observed)
{
    if (mask & ~sampler->all)
        return mmebm__fail(sampler->context, MMEBM_E_ARGUMENT,
                           "%s: observed is 0x%llx, but the model has %u modalities (bits 0 to %u)", what,
                           (unsigned long long)mask, sampler->modalities, sampler->modalities - 1);
    *observed = mask ? mask : sampler->all;
    return MMEBM_OK;
}

/* A plan of a graph on the weights of a part, in the sampler's precision. */
static mmebm_status open_plan(mmebm_sampler *sampler, const mmebm_graph *graph, const mmebm_part *part,
                              uint64_t input_gradients, int64_t capacity, mmebm_weighted_plan *plan)
{
    const mmebm_plan_spec spec = {
        .graph = graph,
        .precision = sampler->precision,
        .input_gradients = input_gradients,
        .capacity = capacity,
    };
    return mmebm__plan_open(sampler->context, &spec, part, plan);
}

/* A posterior's graph and plan; *posterior has none. */
static mmebm_status open_posterior(mmebm_sampler *sampler, float temperature, mmebm_posterior *posterior)
{
    const mmebm_model *model = sampler->model;
    const int64_t chains = sampler->capacity * (posterior->observed ? sampler->modalities : 1);
    const mmebm_part *part = &model->parts[MMEBM_PART_GENERATOR];
    if (temperature > 0.0f) {
        part = &sampler->joint.part;
        if (!part->weights) MMEBM_TRY(mmebm__joint_open(model, &sampler->joint));
        MMEBM_TRY(mmebm__graph_tilted(model, posterior->observed, temperature, &posterior->graph));
    } else {
        MMEBM_TRY(mmebm__graph_posterior(model, posterior->observed, &posterior->graph));
    }
    posterior->temperature = temperature;
    return open_plan(sampler, &posterior->graph, part, 1, chains, &posterior->plan);
}

/* What open_posterior has made, also in part. */
static void close_posterior(mmebm_sampler *sampler, mmebm_posterior *posterior)
{
    mmebm__plan_close(sampler->context, &posterior->plan);
    mmebm__graph_free(sampler->context, &posterior->graph);
}

/* Takes the posterior out of the list. */
static void drop_posterior(mmebm_sampler *sampler, mmebm_posterior **place)
{
    mmebm_posterior *posterior = *place;
    *place = posterior->next;
    close_posterior(sampler, posterior);
    mmebm__free(sampler->context, posterior, sizeof *posterior);
}

mmebm_status mmebm__posterior_find(mmebm_sampler *sampler, uint64_t observed, float temperature,
                                   mmebm_posterior **found)
{
    const int tilted = temperature > 0.0f;
    mmebm_posterior **place = &sampler->posteriors;
    while (*place && ((*place)->observed != observed || ((*place)->temperature > 0.0f) != tilted))
        place = &(*place)->next;
    if (!*place) {
        *place = mmebm__allocate(sampler->context, sizeof **place);
        if (!*place) return MMEBM_E_MEMORY;
        (*place)->observed = observed;
    }
    mmebm_posterior *posterior = *place;
    if (!posterior->plan.plan || posterior->temperature != temperature) {
        close_posterior(sampler, posterior);
        const mmebm_status status = open_posterior(sampler, temperature, posterior);
        if (status != MMEBM_OK) {
            drop_posterior(sampler, place);
            return status;
        }
    }
    *found = posterior;
    return tilted ? mmebm__joint_refresh(sampler->model, &sampler->joint) : MMEBM_OK;
}

mmebm_status mmebm_sampler_prepare(mmebm_sampler *sampler, uint64_t observed)
{
    if (!sampler) return MMEBM_E_ARGUMENT;
    mmebm__clear_error(sampler->context);
    mmebm_posterior *posterior;
    MMEBM_TRY(mmebm__observed_set(sampler, "sampler_prepare", observed, &observed));
    return mmebm__posterior_find(sampler, observed, 0.0f, &posterior);
}

static mmebm_status open_plans(mmebm_sampler *sampler)
{
    const mmebm_part *parts = sampler->model->parts, *energy = &parts[MMEBM_PART_ENERGY];
    const mmebm_part *generator = &parts[MMEBM_PART_GENERATOR], *inference = &parts[MMEBM_PART_INFERENCE];
    const int64_t capacity = sampler->capacity;
    MMEBM_TRY(open_plan(sampler, &energy->graph, energy, sampler->all, capacity, &sampler->energy));
    MMEBM_TRY(open_plan(sampler, &generator->graph, generator, 0, capacity, &sampler->generator));
    for (uint32_t i = 0; i < sampler->modalities; ++i) {
        const uint32_t outputs[2] = {2 * i, 2 * i + 1};
        mmebm_graph *graph = &sampler->encoder_graph[i];
        MMEBM_TRY(mmebm__graph_extract(sampler->context, &inference->graph, 2, outputs, graph));
        MMEBM_TRY(open_plan(sampler, graph, inference, 0, capacity, &sampler->encoder[i]));
    }
    return MMEBM_OK;
}

/* One row of the list of device buffers: where it is kept and how many floats it has. */
typedef struct buffer_row {
    float **buffer;
    size_t count;
} buffer_row;
enum { MAX_BUFFERS = 5 * MMEBM_MAX_MODALITIES + 10 };

static uint32_t list_buffers(mmebm_sampler *sampler, buffer_row rows[MAX_BUFFERS])
{
    const size_t tuples = (size_t)sampler->capacity, chains = tuples * sampler->modalities;
    const size_t latents = tuples * (size_t)sampler->latent_size, chain_latents = chains * (size_t)sampler->latent_size;
    uint32_t n = 0;
    for (uint32_t i = 0; i < sampler->modalities; ++i) {
        const size_t count = tuples * (size_t)sampler->model->modality_count[i];
        rows[n++] = (buffer_row){&sampler->x[i], count};
        rows[n++] = (buffer_row){&sampler->x_start[i], count};
        rows[n++] = (buffer_row){&sampler->x_gradient[i], count};
        rows[n++] = (buffer_row){&sampler->mean[i], latents};
        rows[n++] = (buffer_row){&sampler->raw[i], latents};
    }
    float **const latent_buffers[] = {&sampler->z, &sampler->z_start, &sampler->z_gradient, &sampler->proposal,
                                      &sampler->proposal_gradient};
    float **const row_buffers[] = {&sampler->row_energy, &sampler->proposal_energy, &sampler->accepted,
                                   &sampler->row_value};
    for (size_t i = 0; i < sizeof latent_buffers / sizeof *latent_buffers; ++i)
        rows[n++] = (buffer_row){latent_buffers[i], chain_latents};
    for (size_t i = 0; i < sizeof row_buffers / sizeof *row_buffers; ++i)
        rows[n++] = (buffer_row){row_buffers[i], chains};
    rows[n++] = (buffer_row){&sampler->scales, 2 * ((size_t)sampler->modalities + 1)};
    return n;
}

static mmebm_status open_buffers(mmebm_sampler *sampler)
{
    buffer_row rows[MAX_BUFFERS];
    const uint32_t count = list_buffers(sampler, rows);
    for (uint32_t i = 0; i < count; ++i) {
        MMEBM_TRY(mmebm__device_floats(sampler->context, rows[i].count, rows[i].buffer));
        sampler->buffer_bytes += rows[i].count * sizeof(float);
    }
    void *key;
    MMEBM_TRY(sampler->context->ops->buffer_create(sampler->context->device, 2 * sizeof(uint64_t), &key));
    sampler->key = key;
    const int64_t width = sampler->latent_size > sampler->modalities ? sampler->latent_size : sampler->modalities;
    sampler->host_count = (size_t)(sampler->capacity * width);
    sampler->host = mmebm__allocate(sampler->context, sampler->host_count * sizeof(float));
    if (!sampler->host) return MMEBM_E_MEMORY;
    sampler->buffer_bytes += sampler->host_count * sizeof(float) + 2 * sizeof(uint64_t);
    return MMEBM_OK;
}

void mmebm_sampler_destroy(mmebm_sampler **handle)
{
    if (!handle || !*handle) return;
    mmebm_sampler *sampler = *handle;
    mmebm_context *context = sampler->context;
    *handle = NULL;
    while (sampler->posteriors) drop_posterior(sampler, &sampler->posteriors);
    mmebm__joint_close(context, &sampler->joint);
    mmebm__plan_close(context, &sampler->energy);
    mmebm__plan_close(context, &sampler->generator);
    for (uint32_t i = 0; i < sampler->modalities; ++i) {
        mmebm__plan_close(context, &sampler->encoder[i]);
        mmebm__graph_free(context, &sampler->encoder_graph[i]);
    }
    buffer_row rows[MAX_BUFFERS];
    const uint32_t count = list_buffers(sampler, rows);
    for (uint32_t i = 0; i < count; ++i)
        mmebm__device_free(context, *rows[i].buffer, rows[i].count);
    if (sampler->key) context->ops->buffer_destroy(context->device, sampler->key, 2 * sizeof(uint64_t));
    mmebm__free(context, sampler->host, sampler->host_count * sizeof(float));
    mmebm_model *model = sampler->model;
    mmebm__free(context, sampler, sizeof *sampler);
    mmebm__model_release(model);
}

static mmebm_status read_options(mmebm_context *context, const mmebm_sampler_options *given,
                                 mmebm_sampler_options *options)
{
    MMEBM_TRY(mmebm_sampler_options_init(options));
    if (given)
        MMEBM_TRY(mmebm__struct_read(context, "sampler options", given, options, sizeof *options, sizeof *options));
    if (options->capacity < 1 || options->capacity > 65536)
        return mmebm__fail(context, MMEBM_E_ARGUMENT, "sampler_create: capacity is %u, wanted 1 to 65536",
                           options->capacity);
    if (options->precision > MMEBM_PRECISION_TF32)
        return mmebm__fail(context, MMEBM_E_ARGUMENT, "sampler_create: precision is %u, wanted MMEBM_PRECISION_*",
                           options->precision);
    MMEBM_TRY(mmebm__reserved_check(context, "sampler_create", options->reserved));
    if (options->precision == MMEBM_PRECISION_AUTO) options->precision = mmebm_context_fast_precision(context);
    return MMEBM_OK;
}

mmebm_status mmebm_sampler_create(mmebm_model *model, const mmebm_sampler_options *given, mmebm_sampler **handle)
{
    if (handle) *handle = NULL;
    if (!model) return MMEBM_E_ARGUMENT;
    mmebm_context *context = model->context;
    mmebm__clear_error(context);
    if (!handle) return mmebm__fail(context, MMEBM_E_ARGUMENT, "sampler_create: sampler is NULL");
    mmebm_sampler_options options;
    MMEBM_TRY(read_options(context, given, &options));
    mmebm_sampler *sampler = mmebm__allocate(context, sizeof *sampler);
    if (!sampler) return MMEBM_E_MEMORY;
    mmebm__model_retain(model);
    sampler->context = context;
    sampler->model = model;
    sampler->capacity = options.capacity;
    sampler->precision = options.precision;
    sampler->modalities = model->options.n_modalities;
    sampler->all = ((uint64_t)1 << sampler->modalities) - 1;
    sampler->latent_size = model->options.latent_size;
    mmebm_status status = open_plans(sampler);
    if (status == MMEBM_OK) status = open_buffers(sampler);
    if (status != MMEBM_OK) {
        mmebm_sampler_destroy(&sampler);
        return status;
    }
    *handle = sampler;
    return MMEBM_OK;
}

static uint64_t plan_bytes(const mmebm_sampler *sampler, const mmebm_weighted_plan *plan)
{
    return sampler->context->ops->plan_size(plan->plan) + mmebm__sequence_size(&plan->sequences);
}

uint64_t mmebm_sampler_workspace_size(const mmebm_sampler *sampler)
{
    if (!sampler) return 0;
    uint64_t bytes = sizeof *sampler + sampler->buffer_bytes;
    bytes += plan_bytes(sampler, &sampler->energy) + plan_bytes(sampler, &sampler->generator);
    for (uint32_t i = 0; i < sampler->modalities; ++i)
        bytes += plan_bytes(sampler, &sampler->encoder[i]);
    for (const mmebm_posterior *p = sampler->posteriors; p; p = p->next)
        bytes += sizeof *p + plan_bytes(sampler, &p->plan);
    return bytes + sampler->joint.part.graph.weight_count * sizeof(float);
}

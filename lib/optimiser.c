/* SPDX-License-Identifier: Apache-2.0
 *
 * From gradients to weights for one network: spectral norm (ruling D10), gradient clipping, Adam (Eqns 10-12, ruling
 * D9), weight averages, running statistics of batch norm (ruling B12).
 *
 * The optimiser owns the master weights; the part of the model that plans read holds what is published of them: the
 * same, or each matrix divided by its largest singular value. All state lies in one block, so that a snapshot is one
 * copy.
 */
#include <string.h>

#include "trainer.h"

static mmebm_status copy_floats(const mmebm_context *context, float *target, const float *source, size_t count)
{
    return context->ops->copy(context->device, target, source, count * sizeof(float));
}

static int is_statistic(const mmebm_tensor *tensor)
{
    return tensor->role == MMEBM_ROLE_MEAN || tensor->role == MMEBM_ROLE_VARIANCE;
}

static int64_t matrix_columns(const mmebm_tensor *tensor)
{
    return (int64_t)tensor->count / tensor->shape[0];
}

/* u, v and sigma of tensor t in `spectral`, which follow each other over the weight tensors. */
static size_t spectral_size(const mmebm_tensor *tensor)
{
    return tensor->role == MMEBM_ROLE_WEIGHT ? (size_t)(tensor->shape[0] + matrix_columns(tensor)) + 1 : 0;
}

static mmebm_spectral spectral_of(const mmebm_optimiser *optimiser, const mmebm_tensor *tensor, size_t place)
{
    const int64_t rows = tensor->shape[0], columns = matrix_columns(tensor);
    float *u = optimiser->spectral + place;
    return (mmebm_spectral){
        .rows = rows,
        .cols = columns,
        .weight = optimiser->master + tensor->offset,
        .normalised = optimiser->part->weights + tensor->offset,
        .u = u,
        .v = u + rows,
        .sigma = u + rows + columns,
        .gradient = optimiser->gradient + tensor->offset,
    };
}

typedef mmebm_status (*spectral_operation)(mmebm_device *device, const mmebm_spectral *spectral);

static mmebm_status each_matrix(const mmebm_optimiser *optimiser, spectral_operation operation)
{
    const mmebm_graph *graph = &optimiser->part->graph;
    size_t place = 0;
    for (uint32_t t = 0; optimiser->spectral && t < graph->tensor_count; ++t) {
        const mmebm_tensor *tensor = &graph->tensors[t];
        if (tensor->role != MMEBM_ROLE_WEIGHT) continue;
        const mmebm_spectral spectral = spectral_of(optimiser, tensor, place);
        MMEBM_TRY(operation(optimiser->context->device, &spectral));
        place += spectral_size(tensor);
    }
    return MMEBM_OK;
}

/* Running statistics move by their momentum towards the means over the step's tuples, which the weight gradient holds
 * in their places; there the gradient is then cleared. */
static mmebm_status update_statistics(const mmebm_optimiser *optimiser, int64_t rows)
{
    const mmebm_backend_ops *ops = optimiser->context->ops;
    mmebm_device *device = optimiser->context->device;
    const mmebm_graph *graph = &optimiser->part->graph;
    for (uint32_t t = 0; optimiser->momentum && t < graph->tensor_count; ++t) {
        const mmebm_tensor *tensor = &graph->tensors[t];
        if (!is_statistic(tensor)) continue;
        float *gradient = optimiser->gradient + tensor->offset;
        MMEBM_TRY(ops->lerp(device, (int64_t)tensor->count, optimiser->master + tensor->offset, gradient,
                            1.0f / (float)rows, optimiser->momentum + t));
        MMEBM_TRY(ops->fill(device, (int64_t)tensor->count, gradient, 0.0f));
    }
    return MMEBM_OK;
}

mmebm_status mmebm__optimiser_publish(mmebm_optimiser *optimiser)
{
    mmebm_part *part = optimiser->part;
    MMEBM_TRY(copy_floats(optimiser->context, part->weights, optimiser->master, optimiser->count));
    MMEBM_TRY(each_matrix(optimiser, optimiser->context->ops->spectral_update));
    optimiser->revision = ++part->revision;
    return MMEBM_OK;
}

mmebm_status mmebm__optimiser_sync(mmebm_optimiser *optimiser)
{
    if (optimiser->revision == optimiser->part->revision) return MMEBM_OK;
    MMEBM_TRY(copy_floats(optimiser->context, optimiser->master, optimiser->part->weights, optimiser->count));
    MMEBM_TRY(mmebm__optimiser_publish(optimiser));
    if (!optimiser->average) return MMEBM_OK;
    return copy_floats(optimiser->context, optimiser->average, optimiser->part->weights, optimiser->count);
}

mmebm_status mmebm__optimiser_begin(mmebm_optimiser *optimiser)
{
    return optimiser->context->ops->fill(optimiser->context->device, (int64_t)optimiser->count, optimiser->gradient,
                                         0.0f);
}

mmebm_status mmebm__optimiser_step(mmebm_optimiser *optimiser, const float *control, const float *average_weight,
                                   int64_t rows, float *norm)
{
    const mmebm_backend_ops *ops = optimiser->context->ops;
    mmebm_device *device = optimiser->context->device;
    const int64_t count = (int64_t)optimiser->count;
    MMEBM_TRY(update_statistics(optimiser, rows));
    MMEBM_TRY(each_matrix(optimiser, ops->spectral_gradient));
    MMEBM_TRY(ops->reduce(device, count, optimiser->gradient, 2, 1.0f, optimiser->norm2));
    MMEBM_TRY(ops->reduce(device, 1, optimiser->norm2, 0, 1.0f, norm));
    const mmebm_adam_step step = {
        .count = count,
        .weights = optimiser->master,
        .moment1 = optimiser->moment1,
        .moment2 = optimiser->moment2,
        .gradient = optimiser->gradient,
        .control = control,
        .norm2 = optimiser->norm2,
        .beta1 = optimiser->adam.beta1,
        .beta2 = optimiser->adam.beta2,
        .epsilon = optimiser->adam.epsilon,
        .clip = optimiser->adam.clip_norm,
    };
    MMEBM_TRY(ops->adam(device, &step));
    MMEBM_TRY(mmebm__optimiser_publish(optimiser));
    if (!optimiser->average) return MMEBM_OK;
    return ops->lerp(device, count, optimiser->average, optimiser->part->weights, 1.0f, average_weight);
}

/* ---- making one */

/* Random start vectors; their length does not matter, the first power iteration normalises them. */
static mmebm_status start_spectral(mmebm_optimiser *optimiser, uint64_t seed)
{
    mmebm_context *context = optimiser->context;
    uint64_t *key;
    void *memory;
    MMEBM_TRY(context->ops->buffer_create(context->device, 2 * sizeof *key, &memory));
    key = memory;
    const uint64_t values[2] = {seed, 0};
    mmebm_status status = context->ops->upload(context->device, key, values, sizeof values);
    const mmebm_noise noise = {key, 1, MMEBM_STREAM_SPECTRAL, 0};
    if (status == MMEBM_OK)
        status = context->ops->noise(context->device, 1, (int64_t)optimiser->spectral_count, optimiser->spectral,
                                     MMEBM_GAUSSIAN, 1.0f, 0.0f, &noise);
    if (status == MMEBM_OK) status = context->ops->synchronize(context->device);
    context->ops->buffer_destroy(context->device, memory, 2 * sizeof *key);
    return status;
}

static mmebm_status upload_momentum(mmebm_optimiser *optimiser)
{
    mmebm_context *context = optimiser->context;
    const mmebm_graph *graph = &optimiser->part->graph;
    uint32_t statistics = 0;
    for (uint32_t t = 0; t < graph->tensor_count; ++t)
        statistics += is_statistic(&graph->tensors[t]) ? 1 : 0;
    if (!statistics) return MMEBM_OK;
    MMEBM_TRY(mmebm__device_floats(context, graph->tensor_count, &optimiser->momentum));
    for (uint32_t t = 0; t < graph->tensor_count; ++t)
        MMEBM_TRY(context->ops->fill(context->device, 1, optimiser->momentum + t, graph->tensors[t].momentum));
    return MMEBM_OK;
}

static void lay_out(mmebm_optimiser *optimiser, int average)
{
    const mmebm_graph *graph = &optimiser->part->graph;
    optimiser->count = graph->weight_count;
    for (uint32_t t = 0; optimiser->adam.spectral_norm && t < graph->tensor_count; ++t)
        optimiser->spectral_count += spectral_size(&graph->tensors[t]);
    optimiser->block_count = (average ? 4 : 3) * optimiser->count + optimiser->spectral_count;
}

mmebm_status mmebm__optimiser_open(mmebm_context *context, const mmebm_optimiser_spec *spec, mmebm_optimiser *optimiser)
{
    optimiser->context = context;
    optimiser->part = spec->part;
    optimiser->adam = *spec->adam;
    lay_out(optimiser, spec->average);
    const size_t count = optimiser->count;
    MMEBM_TRY(mmebm__device_floats(context, optimiser->block_count, &optimiser->block));
    MMEBM_TRY(mmebm__device_floats(context, count, &optimiser->gradient));
    MMEBM_TRY(mmebm__device_floats(context, 1, &optimiser->norm2));
    for (int slot = 0; spec->snapshots && slot < 2; ++slot)
        MMEBM_TRY(mmebm__device_floats(context, optimiser->block_count, &optimiser->snapshot[slot]));
    MMEBM_TRY(upload_momentum(optimiser));
    optimiser->master = optimiser->block;
    optimiser->moment1 = optimiser->block + count;
    optimiser->moment2 = optimiser->block + 2 * count;
    optimiser->average = spec->average ? optimiser->block + 3 * count : NULL;
    if (optimiser->spectral_count) {
        optimiser->spectral = optimiser->block + optimiser->block_count - optimiser->spectral_count;
        MMEBM_TRY(start_spectral(optimiser, spec->seed));
    }
    return mmebm__optimiser_sync(optimiser);
}

void mmebm__optimiser_close(mmebm_optimiser *optimiser)
{
    mmebm_context *context = optimiser->context;
    if (!context) return;
    mmebm__device_free(context, optimiser->block, optimiser->block_count);
    mmebm__device_free(context, optimiser->gradient, optimiser->count);
    mmebm__device_free(context, optimiser->norm2, 1);
    mmebm__device_free(context, optimiser->momentum, optimiser->part->graph.tensor_count);
    for (int slot = 0; slot < 2; ++slot)
        mmebm__device_free(context, optimiser->snapshot[slot], optimiser->block_count);
    memset(optimiser, 0, sizeof *optimiser);
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * mmebm_model: its life. mmebm_model_create joins the caller's networks into the three graphs of model.h (compose.c);
 * mmebm__model_assemble checks options and graphs against each other, whoever made them (create or the file reader),
 * and puts the weights on the device. Questions and tensors are in model_tensors.c.
 */
#include <stdio.h>
#include <string.h>

#include "model.h"
#include "struct_size.h"
#include "view.h"

enum { MAX_LATENT_SIZE = 65536 };

/* ---- options */

static mmebm_status read_modality_count(mmebm_context *context, const mmebm_model_options *given,
                                        mmebm_model_options *options)
{
    MMEBM_TRY(mmebm__struct_read(context, "model options", given, options, sizeof *options, sizeof *options));
    if (options->n_modalities < 1 || options->n_modalities > MMEBM_MAX_MODALITIES)
        return mmebm__fail(context, MMEBM_E_ARGUMENT, "model options: n_modalities is %u, wanted 1 to %d",
                           (unsigned)options->n_modalities, MMEBM_MAX_MODALITIES);
    if (!options->modalities)
        return mmebm__fail(context, MMEBM_E_ARGUMENT, "model options: modalities is NULL, wanted %u of them",
                           (unsigned)options->n_modalities);
    return MMEBM_OK;
}

static mmebm_status check_choice(mmebm_context *context, const char *what, uint32_t found, uint32_t last)
{
    if (found >= 1 && found <= last) return MMEBM_OK;
    return mmebm__fail(context, MMEBM_E_ARGUMENT, "model options: %s is %u, wanted 1 to %u", what, (unsigned)found,
                       (unsigned)last);
}

static mmebm_status check_options(mmebm_context *context, const mmebm_model_options *options)
{
    MMEBM_TRY(check_choice(context, "latent_size", options->latent_size, MAX_LATENT_SIZE));
    MMEBM_TRY(check_choice(context, "prior", options->prior, MMEBM_LAPLACE));
    MMEBM_TRY(check_choice(context, "posterior", options->posterior, MMEBM_LAPLACE));
    MMEBM_TRY(check_choice(context, "posterior_scale", options->posterior_scale, MMEBM_SCALE_SOFTMAX));
    if (!isfinite(options->prior_scale) || options->prior_scale <= 0.0f)
        return mmebm__fail(context, MMEBM_E_ARGUMENT, "model options: prior_scale is %g, wanted a number above 0",
                           (double)options->prior_scale);
    if (!isfinite(options->posterior_floor) || options->posterior_floor < 0.0f)
        return mmebm__fail(context, MMEBM_E_ARGUMENT,
                           "model options: posterior_floor is %g, wanted a number from 0 on",
                           (double)options->posterior_floor);
    return MMEBM_OK;
}

static mmebm_status check_modality_numbers(mmebm_context *context, uint32_t index, const mmebm_modality *modality)
{
    if (modality->likelihood < 1 || modality->likelihood > MMEBM_CATEGORICAL)
        return mmebm__fail(context, MMEBM_E_ARGUMENT, "modality %u: likelihood is %u, wanted 1 to %d", (unsigned)index,
                           (unsigned)modality->likelihood, MMEBM_CATEGORICAL);
    if (modality->reserved)
        return mmebm__fail(context, MMEBM_E_UNKNOWN_OPTION, "modality %u: reserved is %u, wanted 0", (unsigned)index,
                           (unsigned)modality->reserved);
    if (!isfinite(modality->scale) || modality->scale <= 0.0f)
        return mmebm__fail(context, MMEBM_E_ARGUMENT, "modality %u: scale is %g, wanted a number above 0",
                           (unsigned)index, (double)modality->scale);
    if (!isfinite(modality->weight) || modality->weight < 0.0f)
        return mmebm__fail(context, MMEBM_E_ARGUMENT, "modality %u: weight is %g, wanted a number from 0 on",
                           (unsigned)index, (double)modality->weight);
    if (!isfinite(modality->data_min) || !isfinite(modality->data_max) || modality->data_min >= modality->data_max)
        return mmebm__fail(context, MMEBM_E_ARGUMENT, "modality %u: the data range is %g to %g, wanted rising numbers",
                           (unsigned)index, (double)modality->data_min, (double)modality->data_max);
    return MMEBM_OK;
}

static mmebm_status take_modality_name(mmebm_context *context, mmebm_model *model, uint32_t index, const char *name)
{
    char *taken = model->modality_names[index];
    if (name && !mmebm__name_valid(name, MMEBM_MODALITY_NAME_SIZE))
        return mmebm__fail(context, MMEBM_E_ARGUMENT,
                           "modality %u: the name '%.40s' is not 1 to %d of the characters A-Z a-z 0-9 _ . -",
                           (unsigned)index, name, MMEBM_MODALITY_NAME_SIZE - 1);
    if (name)
        snprintf(taken, MMEBM_MODALITY_NAME_SIZE, "%s", name);
    else
        snprintf(taken, MMEBM_MODALITY_NAME_SIZE, "x%u", (unsigned)index);
    for (uint32_t i = 0; i < index; ++i)
        if (strcmp(model->modality_names[i], taken) == 0)
            return mmebm__fail(context, MMEBM_E_NAME, "modality %u: modality %u is named '%s' already", (unsigned)index,
                               (unsigned)i, taken);
    model->modalities[index].name = taken;
    return MMEBM_OK;
}

/* Shape and number of elements; the graphs' inputs, which were capped when they were built, are compared with them. */
static mmebm_status take_modality_shape(mmebm_context *context, mmebm_model *model, uint32_t index)
{
    mmebm_modality *modality = &model->modalities[index];
    int64_t count = 1;
    if (modality->rank < 1 || modality->rank > 3)
        return mmebm__fail(context, MMEBM_E_SHAPE, "modality %u: rank is %u, wanted 1 to 3", (unsigned)index,
                           (unsigned)modality->rank);
    for (uint32_t d = 0; d < MMEBM_MAX_RANK; ++d) {
        if (d >= modality->rank)
            modality->shape[d] = 0;
        else if (modality->shape[d] < 1 || __builtin_mul_overflow(count, modality->shape[d], &count))
            return mmebm__fail(context, MMEBM_E_SHAPE, "modality %u: axis %u is %lld, which is out of range",
                               (unsigned)index, (unsigned)d, (long long)modality->shape[d]);
    }
    model->modality_count[index] = count;
    return MMEBM_OK;
}

static mmebm_status read_options(mmebm_context *context, const mmebm_model_options *given, mmebm_model *model)
{
    MMEBM_TRY(read_modality_count(context, given, &model->options));
    MMEBM_TRY(check_options(context, &model->options));
    const mmebm_modality *first = model->options.modalities;
    for (uint32_t i = 0; i < model->options.n_modalities; ++i) {
        /* entries are as far apart as the caller's struct is large, like those of an array of views */
        const void *entry = (const char *)first + (size_t)i * first->struct_size;
        mmebm_modality *modality = &model->modalities[i];
        MMEBM_TRY(mmebm__struct_read(context, "modality", entry, modality, sizeof *modality, sizeof *modality));
        modality->struct_size = sizeof *modality;
        MMEBM_TRY(check_modality_numbers(context, i, modality));
        MMEBM_TRY(take_modality_name(context, model, i, modality->name));
        MMEBM_TRY(take_modality_shape(context, model, i));
    }
    model->options.struct_size = sizeof model->options;
    model->options.modalities = model->modalities;
    return MMEBM_OK;
}

/* ---- graphs against options */

static mmebm_status check_ports(mmebm_context *context, const char *what, const mmebm_graph *graph, uint32_t inputs,
                                uint32_t outputs)
{
    if (graph->input_count == inputs && graph->output_count == outputs) return MMEBM_OK;
    return mmebm__fail(context, MMEBM_E_SHAPE, "model: %s has %u inputs and %u outputs, wanted %u and %u", what,
                       (unsigned)graph->input_count, (unsigned)graph->output_count, (unsigned)inputs,
                       (unsigned)outputs);
}

static mmebm_status check_shape(mmebm_context *context, const char *what, uint32_t index, const char *port,
                                const mmebm_layer *layer, uint32_t rank, const int64_t *shape)
{
    char found[128], wanted[128];
    if (layer->rank == rank && memcmp(layer->shape, shape, rank * sizeof *shape) == 0) return MMEBM_OK;
    return mmebm__fail(context, MMEBM_E_SHAPE, "model: %s, modality %u: %s has shape %s, wanted %s", what,
                       (unsigned)index, port, mmebm__shape_text(found, 0, layer->rank, layer->shape),
                       mmebm__shape_text(wanted, 0, rank, shape));
}

static mmebm_status check_data_inputs(const mmebm_model *model, const char *what, const mmebm_graph *graph)
{
    for (uint32_t i = 0; i < model->options.n_modalities; ++i)
        MMEBM_TRY(check_shape(model->context, what, i, "the input", &graph->layers[graph->inputs[i]],
                              model->modalities[i].rank, model->modalities[i].shape));
    return MMEBM_OK;
}

static mmebm_status check_energy(const mmebm_model *model, const mmebm_graph *graph)
{
    static const int64_t scalar[1] = {1};
    MMEBM_TRY(check_ports(model->context, "energy", graph, model->options.n_modalities, 1));
    MMEBM_TRY(check_data_inputs(model, "energy", graph));
    return check_shape(model->context, "energy", 0, "the output", &graph->layers[graph->outputs[0]], 1, scalar);
}

/* A categorical mean must sum to one over the last axis: softmax, at most reshaped with that axis kept. */
static int ends_in_softmax(const mmebm_graph *graph, int32_t output)
{
    const mmebm_layer *layer = &graph->layers[output];
    while (layer->kind == MMEBM_LAYER_RESHAPE) {
        const mmebm_layer *before = mmebm__layer_input(graph, layer, 0);
        if (before->shape[before->rank - 1] != layer->shape[layer->rank - 1]) return 0;
        layer = before;
    }
    return layer->kind == MMEBM_LAYER_SOFTMAX;
}

static mmebm_status check_generator(const mmebm_model *model, const mmebm_graph *graph)
{
    mmebm_context *context = model->context;
    const int64_t latent[1] = {model->options.latent_size};
    MMEBM_TRY(check_ports(context, "generator", graph, 1, model->options.n_modalities));
    MMEBM_TRY(check_shape(context, "decoder", 0, "the input", &graph->layers[graph->inputs[0]], 1, latent));
    for (uint32_t i = 0; i < model->options.n_modalities; ++i) {
        const mmebm_modality *modality = &model->modalities[i];
        MMEBM_TRY(check_shape(context, "decoder", i, "the output", &graph->layers[graph->outputs[i]], modality->rank,
                              modality->shape));
        if (modality->likelihood == MMEBM_CATEGORICAL && !ends_in_softmax(graph, graph->outputs[i]))
            return mmebm__fail(context, MMEBM_E_ARGUMENT,
                               "model: decoder, modality %u: a categorical likelihood wants softmax as the last layer",
                               (unsigned)i);
    }
    return MMEBM_OK;
}

/* Expert i may read x_i only (Eqn 5). reached: layer_count entries. */
static mmebm_status check_expert(const mmebm_model *model, const mmebm_graph *graph, uint32_t expert,
                                 unsigned char *reached)
{
    memset(reached, 0, graph->layer_count);
    mmebm__graph_reach(graph, 2, &graph->outputs[2 * expert], reached);
    for (uint32_t i = 0; i < graph->input_count; ++i)
        if (i != expert && reached[graph->inputs[i]])
            return mmebm__fail(model->context, MMEBM_E_ARGUMENT,
                               "model: encoder %u reads modality %u, wanted its own only", (unsigned)expert,
                               (unsigned)i);
    return MMEBM_OK;
}

static mmebm_status check_inference(const mmebm_model *model, const mmebm_graph *graph)
{
    mmebm_context *context = model->context;
    const uint32_t modalities = model->options.n_modalities;
    const int64_t latent[1] = {model->options.latent_size};
    MMEBM_TRY(check_ports(context, "inference", graph, modalities, 2 * modalities));
    MMEBM_TRY(check_data_inputs(model, "encoder", graph));
    for (uint32_t o = 0; o < 2 * modalities; ++o)
        MMEBM_TRY(check_shape(context, "encoder", o / 2, o % 2 ? "the raw scale" : "the mean",
                              &graph->layers[graph->outputs[o]], 1, latent));
    unsigned char *reached = mmebm__allocate(context, graph->layer_count);
    mmebm_status status = reached ? MMEBM_OK : MMEBM_E_MEMORY;
    for (uint32_t i = 0; i < modalities && status == MMEBM_OK; ++i)
        status = check_expert(model, graph, i, reached);
    mmebm__free(context, reached, graph->layer_count);
    return status;
}

/* Tensors of a part begin with its networks' names; so no two parts have the same. */
static mmebm_status check_tensor_names(mmebm_context *context, const mmebm_graph graphs[MMEBM_PART_COUNT])
{
    static const char *const beginning[MMEBM_PART_COUNT] = {"energy.", "decoder", "encoder"};
    for (uint32_t p = 0; p < MMEBM_PART_COUNT; ++p)
        for (uint32_t t = 0; t < graphs[p].tensor_count; ++t)
            if (strncmp(graphs[p].tensors[t].name, beginning[p], strlen(beginning[p])) != 0)
                return mmebm__fail(context, MMEBM_E_NAME, "model: tensor '%s' does not begin with '%s'",
                                   graphs[p].tensors[t].name, beginning[p]);
    return MMEBM_OK;
}

/* ---- life */

void mmebm__model_retain(mmebm_model *model)
{
    ++model->references;
}

/* Also of a model that is not complete. */
static void free_model(mmebm_model *model)
{
    mmebm_context *context = model->context;
    for (uint32_t p = 0; p < MMEBM_PART_COUNT; ++p) {
        mmebm_part *part = &model->parts[p];
        mmebm__device_free(context, part->weights, part->graph.weight_count);
        mmebm__graph_free(context, &part->graph);
    }
    mmebm__free(context, model, sizeof *model);
    mmebm__context_release(context);
}

void mmebm__model_release(mmebm_model *model)
{
    if (--model->references == 0) free_model(model);
}

void mmebm_model_destroy(mmebm_model **model)
{
    if (!model || !*model) return;
    mmebm__model_release(*model);
    *model = NULL;
}

static mmebm_status check_graphs(const mmebm_model *model, const mmebm_graph graphs[MMEBM_PART_COUNT])
{
    MMEBM_TRY(check_energy(model, &graphs[MMEBM_PART_ENERGY]));
    MMEBM_TRY(check_generator(model, &graphs[MMEBM_PART_GENERATOR]));
    MMEBM_TRY(check_inference(model, &graphs[MMEBM_PART_INFERENCE]));
    return check_tensor_names(model->context, graphs);
}

/* weights[p] are on the device when this returns. */
static mmebm_status upload_weights(mmebm_context *context, const mmebm_graph graphs[MMEBM_PART_COUNT],
                                   const float *const weights[MMEBM_PART_COUNT], float *device[MMEBM_PART_COUNT])
{
    for (uint32_t p = 0; p < MMEBM_PART_COUNT; ++p) {
        const size_t count = graphs[p].weight_count;
        MMEBM_TRY(mmebm__device_floats(context, count, &device[p]));
        if (weights) MMEBM_TRY(context->ops->upload(context->device, device[p], weights[p], count * sizeof(float)));
    }
    return context->ops->synchronize(context->device);
}

mmebm_status mmebm__model_assemble(mmebm_context *context, const mmebm_model_options *options,
                                   mmebm_graph graphs[MMEBM_PART_COUNT], const float *const weights[MMEBM_PART_COUNT],
                                   mmebm_model **model)
{
    float *device[MMEBM_PART_COUNT] = {NULL};
    mmebm_model *made = mmebm__allocate(context, sizeof *made);
    if (!made) return MMEBM_E_MEMORY;
    made->context = context;
    made->references = 1;
    mmebm__context_retain(context);
    mmebm_status status = read_options(context, options, made);
    if (status == MMEBM_OK) status = check_graphs(made, graphs);
    if (status == MMEBM_OK) status = upload_weights(context, graphs, weights, device);
    if (status != MMEBM_OK) {
        for (uint32_t p = 0; p < MMEBM_PART_COUNT; ++p)
            mmebm__device_free(context, device[p], graphs[p].weight_count);
        free_model(made);
        return status;
    }
    for (uint32_t p = 0; p < MMEBM_PART_COUNT; ++p) {
        made->parts[p] = (mmebm_part){.graph = graphs[p], .weights = device[p], .revision = 1};
        memset(&graphs[p], 0, sizeof graphs[p]);
    }
    *model = made;
    return MMEBM_OK;
}

/* ---- from networks */

/* The networks of one part. */
typedef struct part_source {
    const char *name; /* prefix of the tensors; several networks are numbered */
    const mmebm_network *const *networks;
    uint32_t count, numbered;
    uint32_t inputs, outputs; /* of each network */
    int share_inputs;
} part_source;

static mmebm_status check_source(mmebm_context *context, const part_source *source,
                                 const char (*names)[MMEBM_PREFIX_SIZE])
{
    if (!source->networks)
        return mmebm__fail(context, MMEBM_E_ARGUMENT, "model_create: %ss is NULL", source->name);
    for (uint32_t k = 0; k < source->count; ++k) {
        const mmebm_network *network = source->networks[k];
        if (!network) return mmebm__fail(context, MMEBM_E_ARGUMENT, "model_create: %s is NULL", names[k]);
        if (network->context != context)
            return mmebm__fail(context, MMEBM_E_ARGUMENT, "model_create: %s belongs to another context", names[k]);
        if (!network->finished)
            return mmebm__fail(context, MMEBM_E_STATE, "model_create: %s is not finished yet", names[k]);
        MMEBM_TRY(check_ports(context, names[k], &network->graph, source->inputs, source->outputs));
    }
    return MMEBM_OK;
}

/* The part's graph and its host weights, in the order of the networks. */
static mmebm_status join_networks(mmebm_context *context, const part_source *source, mmebm_graph *graph,
                                  float **weights)
{
    char names[MMEBM_MAX_MODALITIES][MMEBM_PREFIX_SIZE];
    const mmebm_graph *graphs[MMEBM_MAX_MODALITIES];
    for (uint32_t k = 0; k < source->count; ++k)
        if (source->numbered)
            snprintf(names[k], sizeof names[k], "%s%u", source->name, (unsigned)k);
        else
            snprintf(names[k], sizeof names[k], "%s", source->name);
    const char(*const prefix)[MMEBM_PREFIX_SIZE] = (const char(*)[MMEBM_PREFIX_SIZE])names;
    MMEBM_TRY(check_source(context, source, prefix));
    for (uint32_t k = 0; k < source->count; ++k) graphs[k] = &source->networks[k]->graph;
    MMEBM_TRY(mmebm__graph_join(context, source->count, graphs, prefix, source->share_inputs, graph));
    *weights = mmebm__allocate(context, graph->weight_count * sizeof(float));
    if (!*weights) return MMEBM_E_MEMORY;
    float *target = *weights;
    for (uint32_t k = 0; k < source->count; ++k) {
        memcpy(target, source->networks[k]->weights, graphs[k]->weight_count * sizeof(float));
        target += graphs[k]->weight_count;
    }
    return MMEBM_OK;
}

mmebm_status mmebm_model_create(mmebm_context *context, const mmebm_model_options *given, const mmebm_network *energy,
                                const mmebm_network *const *decoders, const mmebm_network *const *encoders,
                                mmebm_model **model)
{
    if (model) *model = NULL;
    if (!context) return MMEBM_E_ARGUMENT;
    mmebm__clear_error(context);
    if (!model) return mmebm__fail(context, MMEBM_E_ARGUMENT, "model_create: model is NULL");
    mmebm_model_options options;
    MMEBM_TRY(read_modality_count(context, given, &options));
    const uint32_t modalities = options.n_modalities;
    const part_source sources[MMEBM_PART_COUNT] = {
        [MMEBM_PART_ENERGY] = {"energy", &energy, 1, 0, modalities, 1, 0},
        [MMEBM_PART_GENERATOR] = {"decoder", decoders, modalities, 1, 1, 1, 1},
        [MMEBM_PART_INFERENCE] = {"encoder", encoders, modalities, 1, 1, 2, 0},
    };
    mmebm_graph graphs[MMEBM_PART_COUNT] = {{0}};
    float *weights[MMEBM_PART_COUNT] = {NULL};
    size_t counts[MMEBM_PART_COUNT] = {0};
    mmebm_status status = MMEBM_OK;
    for (uint32_t p = 0; p < MMEBM_PART_COUNT && status == MMEBM_OK; ++p) {
        status = join_networks(context, &sources[p], &graphs[p], &weights[p]);
        counts[p] = graphs[p].weight_count;
    }
    if (status == MMEBM_OK) {
        const float *const filled[MMEBM_PART_COUNT] = {weights[0], weights[1], weights[2]};
        status = mmebm__model_assemble(context, given, graphs, filled, model);
    }
    for (uint32_t p = 0; p < MMEBM_PART_COUNT; ++p) {
        mmebm__free(context, weights[p], counts[p] * sizeof(float));
        mmebm__graph_free(context, &graphs[p]); /* empty when the model took it over */
    }
    return status;
}

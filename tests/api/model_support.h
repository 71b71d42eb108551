/* SPDX-License-Identifier: Apache-2.0
 *
 * What the tests of models and of operations on graphs share: networks built by hand for three modalities, one of each
 * likelihood, and a way to run any graph.
 */
#ifndef MMEBM_MODEL_SUPPORT_H
#define MMEBM_MODEL_SUPPORT_H

#include "api_support.h"
#include "model.h"

enum { MIXED_MODALITIES = 3, MIXED_LATENT = 2, MIXED_MOST = 6 };

/* [4] Gaussian, [2,3,1] Laplace, [2,3] categorical */
static const struct {
    uint32_t likelihood, rank;
    int64_t shape[3];
    int64_t count;
    float scale, weight;
} mixed[MIXED_MODALITIES] = {{MMEBM_GAUSSIAN, 1, {4}, 4, 0.5f, 2.0f},
                             {MMEBM_LAPLACE, 3, {2, 3, 1}, 6, 0.75f, 1.0f},
                             {MMEBM_CATEGORICAL, 2, {2, 3}, 6, 1.0f, 0.25f}};

typedef struct mixed_parts {
    mmebm_modality modalities[MIXED_MODALITIES];
    mmebm_model_options options;
    mmebm_network *energy, *decoders[MIXED_MODALITIES], *encoders[MIXED_MODALITIES];
} mixed_parts;

static inline mmebm_status mixed_linear(mmebm_network *network, mmebm_node x, const char *name, int64_t out,
                                        mmebm_node *node)
{
    mmebm_linear_options options;
    MMEBM_TRY(mmebm_linear_options_init(&options));
    options.name = name;
    options.out_features = out;
    return mmebm_network_linear(network, x, &options, node);
}

static inline mmebm_status mixed_decoder(mmebm_context *context, int i, mmebm_network **network)
{
    mmebm_node x;
    MMEBM_TRY(mmebm_network_create(context, "decoder", network));
    MMEBM_TRY(mmebm_network_input(*network, "z", 1, (const int64_t[]){MIXED_LATENT}, &x));
    MMEBM_TRY(mixed_linear(*network, x, "map", mixed[i].count, &x));
    MMEBM_TRY(mmebm_network_reshape(*network, x, mixed[i].rank, mixed[i].shape, &x));
    if (mixed[i].likelihood == MMEBM_CATEGORICAL) MMEBM_TRY(mmebm_network_softmax(*network, x, &x));
    MMEBM_TRY(mmebm_network_output(*network, x, "mean"));
    return mmebm_network_finish(*network, MMEBM_INIT_PYTORCH, 10u + (uint64_t)i);
}

static inline mmebm_status mixed_encoder(mmebm_context *context, int i, mmebm_network **network)
{
    mmebm_node x, mean, raw;
    MMEBM_TRY(mmebm_network_create(context, "encoder", network));
    MMEBM_TRY(mmebm_network_input(*network, "x", mixed[i].rank, mixed[i].shape, &x));
    MMEBM_TRY(mixed_linear(*network, x, "mean", MIXED_LATENT, &mean));
    MMEBM_TRY(mixed_linear(*network, x, "raw", MIXED_LATENT, &raw));
    MMEBM_TRY(mmebm_network_output(*network, mean, NULL));
    MMEBM_TRY(mmebm_network_output(*network, raw, NULL));
    return mmebm_network_finish(*network, MMEBM_INIT_PYTORCH, 20u + (uint64_t)i);
}

static inline mmebm_status mixed_energy(mmebm_context *context, mmebm_network **network)
{
    mmebm_node inputs[MIXED_MODALITIES], x;
    MMEBM_TRY(mmebm_network_create(context, "energy", network));
    for (int i = 0; i < MIXED_MODALITIES; ++i) {
        MMEBM_TRY(mmebm_network_input(*network, NULL, mixed[i].rank, mixed[i].shape, &x));
        MMEBM_TRY(mmebm_network_reshape(*network, x, 1, &mixed[i].count, &inputs[i]));
    }
    MMEBM_TRY(mmebm_network_concat(*network, MIXED_MODALITIES, inputs, &x));
    MMEBM_TRY(mmebm_network_activation(*network, x, MMEBM_TANH, 0.0f, &x));
    MMEBM_TRY(mixed_linear(*network, x, "sum", 1, &x));
    MMEBM_TRY(mmebm_network_output(*network, x, NULL));
    return mmebm_network_finish(*network, MMEBM_INIT_XAVIER_NORMAL, 30);
}

static inline mmebm_status mixed_open(mmebm_context *context, mixed_parts *parts)
{
    memset(parts, 0, sizeof *parts);
    MMEBM_TRY(mmebm_model_options_init(&parts->options));
    parts->options.n_modalities = MIXED_MODALITIES;
    parts->options.modalities = parts->modalities;
    parts->options.latent_size = MIXED_LATENT;
    parts->options.prior = MMEBM_LAPLACE;
    parts->options.prior_scale = 1.5f;
    MMEBM_TRY(mixed_energy(context, &parts->energy));
    for (int i = 0; i < MIXED_MODALITIES; ++i) {
        mmebm_modality *modality = &parts->modalities[i];
        MMEBM_TRY(mmebm_modality_init(modality));
        modality->likelihood = mixed[i].likelihood;
        modality->rank = mixed[i].rank;
        memcpy(modality->shape, mixed[i].shape, sizeof mixed[i].shape);
        modality->scale = mixed[i].scale;
        modality->weight = mixed[i].weight;
        MMEBM_TRY(mixed_decoder(context, i, &parts->decoders[i]));
        MMEBM_TRY(mixed_encoder(context, i, &parts->encoders[i]));
    }
    return MMEBM_OK;
}

static inline void mixed_close(mixed_parts *parts)
{
    mmebm_network_destroy(&parts->energy);
    for (int i = 0; i < MIXED_MODALITIES; ++i) {
        mmebm_network_destroy(&parts->decoders[i]);
        mmebm_network_destroy(&parts->encoders[i]);
    }
}

static inline mmebm_status mixed_model(mmebm_context *context, const mixed_parts *parts, mmebm_model **model)
{
    return mmebm_model_create(context, &parts->options, parts->energy,
                              (const mmebm_network *const *)parts->decoders,
                              (const mmebm_network *const *)parts->encoders, model);
}

/* Runs a graph on host arrays of `rows` rows; weights: device. */
static inline void run_graph(mmebm_context *context, const mmebm_graph *graph, const float *weights, int64_t rows,
                             const float *const *inputs, float *const *outputs)
{
    const mmebm_backend_ops *ops = context->ops;
    const mmebm_plan_spec spec = {.graph = graph, .precision = MMEBM_PRECISION_F32, .capacity = rows};
    mmebm_plan_input plan_inputs[MMEBM_MAX_PORTS];
    float *in[MMEBM_MAX_PORTS] = {NULL}, *out[MMEBM_MAX_PORTS] = {NULL};
    mmebm_plan *plan = NULL;
    CHECK(ops->plan_create(context->device, &spec, &plan) == MMEBM_OK);
    CHECK(ops->plan_load_weights(plan, weights) == MMEBM_OK);
    for (uint32_t i = 0; i < graph->input_count; ++i) {
        const size_t count = (size_t)(rows * graph->layers[graph->inputs[i]].count);
        CHECK(mmebm__device_floats(context, count, &in[i]) == MMEBM_OK);
        CHECK(ops->upload(context->device, in[i], inputs[i], count * sizeof(float)) == MMEBM_OK);
        plan_inputs[i] = (mmebm_plan_input){.data = in[i], .period = rows};
    }
    for (uint32_t o = 0; o < graph->output_count; ++o) {
        const size_t count = (size_t)(rows * graph->layers[graph->outputs[o]].count);
        CHECK(mmebm__device_floats(context, count, &out[o]) == MMEBM_OK);
    }
    const mmebm_plan_run run = {.rows = rows, .inputs = plan_inputs, .outputs = out};
    CHECK(ops->plan_run(plan, &run) == MMEBM_OK);
    for (uint32_t o = 0; o < graph->output_count; ++o) {
        const size_t count = (size_t)(rows * graph->layers[graph->outputs[o]].count);
        CHECK(ops->download(context->device, outputs[o], out[o], count * sizeof(float)) == MMEBM_OK);
        mmebm__device_free(context, out[o], count);
    }
    for (uint32_t i = 0; i < graph->input_count; ++i)
        mmebm__device_free(context, in[i], (size_t)(rows * graph->layers[graph->inputs[i]].count));
    ops->plan_destroy(plan);
}

#endif /* MMEBM_MODEL_SUPPORT_H */

/* SPDX-License-Identifier: Apache-2.0
 *
 * From the graph's layers to the plan's nodes: dead layers go, a reshape is its input under another name, a relu
 * behind a matrix product that nothing else reads becomes part of it, and conversions are put between f32 and bf16
 * values.
 *
 * Element types of a bf16 plan: inputs, losses, softmax, the global mean and what is computed from it alone, and
 * results that only those or the outputs read are f32; so are layers for which oneDNN has no bf16 operation; all else
 * is bf16, and what a resampled convolution reads (cpu_resample.h), whatever it is.
 */
#include "cpu_plan.h"

#include <string.h>

typedef struct node_builder {
    mmebm_plan *plan;
    const mmebm_graph *graph;
    uint32_t *live, *readers, *stays_f32; /* by layer; readers: edges and outputs that read it */
    int32_t *fused;                       /* by layer: the activation that its matrix product takes in, or -1 */
    int32_t *converted;                   /* by node: its value in the other element type, or -1 */
    uint32_t *raw;                        /* by node: an input, or made of inputs without arithmetic worth f32 */
} node_builder;

static mmebm_status no_memory(const mmebm_plan *plan)
{
    const mmebm_host *host = plan->device->host;
    return host->fail(host->owner, MMEBM_E_MEMORY, "cpu: no memory for a plan of %u layers",
                      plan->spec.graph->layer_count);
}

/* A reader that takes f32, whatever the plan's precision. */
static int wants_f32(const node_builder *b, uint32_t layer)
{
    switch (b->graph->layers[layer].kind) {
    case MMEBM_LAYER_NLL:
    case MMEBM_LAYER_PRIOR:
    case MMEBM_LAYER_SOFTMAX: return 1;
    case MMEBM_LAYER_RESHAPE: return (int)b->stays_f32[layer];
    default: return 0;
    }
}

/* Backwards: which layers reach an output, who reads each, and whose readers all take f32. */
static void find_readers(node_builder *b)
{
    const mmebm_graph *graph = b->graph;
    for (uint32_t l = 0; l < graph->layer_count; ++l) b->stays_f32[l] = 1;
    for (uint32_t o = 0; o < graph->output_count; ++o) {
        b->live[graph->outputs[o]] = 1;
        ++b->readers[graph->outputs[o]];
    }
    for (uint32_t i = 0; i < graph->input_count; ++i) b->live[graph->inputs[i]] = 1;
    for (uint32_t l = graph->layer_count; l-- > 0;) {
        if (!b->live[l]) continue;
        const mmebm_layer *layer = &graph->layers[l];
        for (uint32_t k = 0; k < layer->edge_count; ++k) {
            const int32_t from = graph->edges[layer->first_edge + k];
            b->live[from] = 1;
            ++b->readers[from];
            if (!wants_f32(b, l)) b->stays_f32[from] = 0;
        }
    }
}

static void find_fusions(node_builder *b)
{
    const mmebm_graph *graph = b->graph;
    for (uint32_t l = 0; l < graph->layer_count; ++l) b->fused[l] = -1;
    for (uint32_t l = 0; l < graph->layer_count; ++l) {
        const mmebm_layer *layer = &graph->layers[l];
        if (!b->live[l] || layer->kind != MMEBM_LAYER_ACTIVATION) continue;
        if (layer->activation != MMEBM_RELU && layer->activation != MMEBM_LEAKY_RELU) continue;
        const int32_t from = graph->edges[layer->first_edge];
        if (b->readers[from] != 1 || !mmebm__cpu_is_matrix(graph->layers[from].kind)) continue;
        b->fused[from] = (int32_t)l;
        b->stays_f32[from] = b->stays_f32[l];
    }
}

static int32_t append_node(node_builder *b, uint32_t kind, const mmebm_layer *layer, int64_t count)
{
    mmebm_plan *plan = b->plan;
    cpu_node *node = &plan->nodes[plan->node_count];
    node->kind = kind;
    node->layer = layer;
    node->count = count;
    node->first_edge = plan->edge_count;
    node->matrix = node->norm = -1;
    return (int32_t)plan->node_count++;
}

static void append_edge(node_builder *b, int32_t node, int32_t from)
{
    mmebm_plan *plan = b->plan;
    cpu_node *to = &plan->nodes[node], *source = &plan->nodes[from];
    plan->edges[plan->edge_count++].node = from;
    ++to->edge_count;
    to->by_inputs |= source->by_inputs;
    to->by_weights |= source->by_weights;
}

/* `node` in the wanted element type: itself or a conversion. */
static int32_t typed_node(node_builder *b, int32_t node, uint32_t bf16)
{
    const cpu_node *source = &b->plan->nodes[node];
    if (source->bf16 == bf16) return node;
    if (b->converted[node] < 0) {
        const int32_t conversion = append_node(b, CPU_NODE_CONVERT, source->layer, source->count);
        b->plan->nodes[conversion].bf16 = bf16;
        append_edge(b, conversion, node);
        b->converted[conversion] = node;
        b->converted[node] = conversion;
    }
    return b->converted[node];
}

/* Element types of what layer l reads and writes. */
static void choose_types(const node_builder *b, uint32_t l, uint32_t *reads, uint32_t *writes)
{
    const mmebm_layer *layer = &b->graph->layers[l];
    uint32_t any_bf16 = 0, all_raw = 1;
    *reads = *writes = 0;
    if (!b->plan->bf16) return;
    for (uint32_t k = 0; k < layer->edge_count; ++k) {
        const int32_t node = b->plan->node_of_layer[b->graph->edges[layer->first_edge + k]];
        any_bf16 |= b->plan->nodes[node].bf16;
        all_raw &= b->raw[node];
    }
    if (mmebm__cpu_is_matrix(layer->kind)) {
        *reads = (any_bf16 || all_raw || mmebm__cpu_resample_of(b->plan, layer)) && !b->plan->keeps_f32[l];
        *writes = *reads && !b->stays_f32[l];
        return;
    }
    if (layer->kind == MMEBM_LAYER_GLOBAL_AVG_POOL) {
        *reads = any_bf16;
        return;
    }
    if (layer->kind != MMEBM_LAYER_INPUT && !wants_f32(b, l)) *reads = *writes = any_bf16;
}

static int is_rearrangement(uint32_t kind)
{
    return kind == MMEBM_LAYER_INPUT || kind == MMEBM_LAYER_CONCAT || kind == MMEBM_LAYER_UPSAMPLE ||
           kind == MMEBM_LAYER_ADD || kind == MMEBM_LAYER_ACTIVATION || kind == MMEBM_LAYER_AVG_POOL ||
           kind == MMEBM_LAYER_BATCH_NORM;
}

static void append_layer(node_builder *b, uint32_t l)
{
    mmebm_plan *plan = b->plan;
    const mmebm_graph *graph = b->graph;
    const mmebm_layer *layer = &graph->layers[l];
    const int32_t first = layer->edge_count ? graph->edges[layer->first_edge] : -1;
    if (layer->kind == MMEBM_LAYER_RESHAPE || (first >= 0 && b->fused[first] == (int32_t)l)) {
        plan->node_of_layer[l] = plan->node_of_layer[first];
        return;
    }
    uint32_t reads, writes, raw = is_rearrangement(layer->kind) != 0;
    choose_types(b, l, &reads, &writes);
    for (uint32_t k = 0; k < layer->edge_count; ++k) { /* conversions become nodes before this one does */
        const int32_t source = plan->node_of_layer[graph->edges[layer->first_edge + k]];
        raw &= b->raw[source];
        (void)typed_node(b, source, reads);
    }
    const int32_t number = append_node(b, layer->kind, layer, layer->count);
    cpu_node *node = &plan->nodes[number];
    for (uint32_t k = 0; k < layer->edge_count; ++k)
        append_edge(b, number, typed_node(b, plan->node_of_layer[graph->edges[layer->first_edge + k]], reads));
    node->bf16 = writes;
    b->raw[number] = raw;
    plan->node_of_layer[l] = number;
    if (mmebm__cpu_is_matrix(layer->kind)) {
        node->matrix = (int32_t)plan->matrix_count++;
        node->by_weights = 1;
        if (b->fused[l] >= 0) {
            node->activation = graph->layers[b->fused[l]].activation;
            node->slope = graph->layers[b->fused[l]].parameter;
        }
    }
    if (layer->kind == MMEBM_LAYER_BATCH_NORM) {
        node->norm = (int32_t)plan->norm_count++;
        node->by_weights = 1;
    }
    if (layer->kind == MMEBM_LAYER_INPUT)
        for (uint32_t i = 0; i < graph->input_count; ++i)
            if (graph->inputs[i] == (int32_t)l) node->by_inputs |= (uint64_t)1 << i;
}

/* Which gradients runs may need, and in which order their parts arrive: the outputs' seeds first, then from the last
 * reader to the first. `converted` is free by now and counts the parts. */
static void order_gradients(node_builder *b)
{
    mmebm_plan *plan = b->plan;
    int32_t *parts = b->converted;
    for (uint32_t n = 0; n < plan->node_count; ++n) {
        cpu_node *node = &plan->nodes[n];
        node->has_gradient = (node->by_inputs & plan->spec.input_gradients) != 0 ||
                             (node->by_weights && plan->spec.weight_gradient);
        parts[n] = 0;
    }
    for (uint32_t o = 0; o < b->graph->output_count; ++o)
        plan->add_seed[o] = parts[plan->node_of_layer[b->graph->outputs[o]]]++ > 0;
    for (uint32_t n = plan->node_count; n-- > 0;) {
        cpu_node *node = &plan->nodes[n];
        node->no_gradient_source = parts[n] == 0;
        if (!node->has_gradient) continue;
        for (uint32_t k = 0; k < node->edge_count; ++k) {
            cpu_edge *edge = &plan->edges[node->first_edge + k];
            edge->add = parts[edge->node]++ > 0;
        }
    }
}

mmebm_status mmebm__cpu_make_nodes(mmebm_plan *plan)
{
    const mmebm_graph *graph = plan->spec.graph;
    const size_t layers = graph->layer_count, nodes = 2 * layers, edges = graph->edge_count + layers;
    node_builder b = {.plan = plan, .graph = graph};
    plan->nodes = mmebm__cpu_plan_take(plan, nodes * sizeof *plan->nodes);
    plan->edges = mmebm__cpu_plan_take(plan, edges * sizeof *plan->edges);
    plan->node_of_layer = mmebm__cpu_plan_take(plan, layers * sizeof *plan->node_of_layer);
    plan->add_seed = mmebm__cpu_plan_take(plan, graph->output_count * sizeof *plan->add_seed);
    uint32_t *work = mmebm__cpu_plan_take(plan, (4 * layers + 2 * nodes) * sizeof *work);
    if (!plan->nodes || !plan->edges || !plan->node_of_layer || !plan->add_seed || !work) return no_memory(plan);
    b.live = work;
    b.readers = work + layers;
    b.stays_f32 = work + 2 * layers;
    b.fused = (int32_t *)(work + 3 * layers);
    b.converted = (int32_t *)(work + 4 * layers);
    b.raw = work + 4 * layers + nodes;
    memset(b.converted, 0xff, nodes * sizeof *b.converted);
    find_readers(&b);
    find_fusions(&b);
    for (uint32_t l = 0; l < layers; ++l)
        if (b.live[l]) append_layer(&b, l);
    order_gradients(&b);
    return MMEBM_OK;
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * See cpu_merge.h. In the rewritten graph the concatenation's place holds the merged convolution and the last part's
 * place the concatenation of the inputs; the other parts are read by nobody and so never run.
 */
#include "cpu_merge.h"

#include <string.h>

enum { MOST_CHANNELS = 32 /* of the concatenated inputs: what one step of a matrix unit takes anyway */ };

static int same_pair(const int64_t a[2], const int64_t b[2])
{
    return a[0] == b[0] && a[1] == b[1];
}

/* Whether a part reads an input as it is and has the geometry of the first. */
static int fits(const mmebm_plan *plan, const mmebm_layer *first, const mmebm_layer *part)
{
    const mmebm_graph *graph = plan->spec.graph;
    if (part->kind != MMEBM_LAYER_CONV2D || mmebm__cpu_resample_of(plan, part)) return 0;
    const mmebm_layer *a = mmebm__layer_input(graph, first, 0), *b = mmebm__layer_input(graph, part, 0);
    return b->kind == MMEBM_LAYER_INPUT && same_pair(a->shape, b->shape) && same_pair(first->kernel, part->kernel) &&
           same_pair(first->stride, part->stride) && same_pair(first->padding, part->padding) &&
           (first->bias >= 0) == (part->bias >= 0);
}

static int can_merge(const mmebm_plan *plan, const uint32_t *readers, const mmebm_layer *concat)
{
    const mmebm_graph *graph = plan->spec.graph;
    int64_t channels = 0;
    if (concat->kind != MMEBM_LAYER_CONCAT || concat->rank != 3 || concat->edge_count < 2) return 0;
    const mmebm_layer *first = mmebm__layer_input(graph, concat, 0);
    for (uint32_t k = 0; k < concat->edge_count; ++k) {
        const int32_t part = graph->edges[concat->first_edge + k];
        if (readers[part] != 1 || !fits(plan, first, &graph->layers[part])) return 0;
        channels += mmebm__layer_input(graph, &graph->layers[part], 0)->shape[2];
    }
    return channels <= MOST_CHANNELS;
}

/* A tensor of the merged convolution; offsets count from merge->plain. */
static int32_t add_tensor(mmebm_graph *graph, mmebm_tensor tensor, size_t offset, size_t count)
{
    tensor.offset = offset;
    tensor.count = count;
    graph->tensors[graph->tensor_count] = tensor;
    return (int32_t)graph->tensor_count++;
}

static mmebm_status merge_concat(mmebm_plan *plan, mmebm_graph *graph, uint32_t number)
{
    const mmebm_layer concat = graph->layers[number];
    const mmebm_layer part = *mmebm__layer_input(graph, &concat, 0);
    cpu_merge *merge = &plan->merges[plan->merge_count];
    merge->layer = &graph->layers[number];
    merge->part_count = concat.edge_count;
    merge->first_part = (int32_t)plan->merge_part_count;
    int32_t last = 0;
    mmebm_layer inputs = {.kind = MMEBM_LAYER_CONCAT, .rank = 3, .first_edge = graph->edge_count,
                          .edge_count = concat.edge_count, .weight = -1, .bias = -1, .mean = -1, .variance = -1};
    for (uint32_t k = 0; k < concat.edge_count; ++k) {
        const int32_t at = graph->edges[concat.first_edge + k], from = graph->edges[graph->layers[at].first_edge];
        plan->merge_parts[plan->merge_part_count++] = at;
        graph->edges[graph->edge_count++] = from;
        if (at > last) last = at;
        memcpy(inputs.shape, graph->layers[from].shape, 2 * sizeof *inputs.shape);
        inputs.shape[2] += graph->layers[from].shape[2];
    }
    inputs.count = inputs.shape[0] * inputs.shape[1] * inputs.shape[2];
    mmebm_layer conv = part;
    memcpy(conv.shape, concat.shape, sizeof conv.shape);
    conv.count = concat.count;
    conv.first_edge = graph->edge_count;
    graph->edges[graph->edge_count++] = last;
    merge->weight_floats = (size_t)(concat.shape[2] * part.kernel[0] * part.kernel[1] * inputs.shape[2]);
    conv.weight = add_tensor(graph, graph->tensors[part.weight], 0, merge->weight_floats);
    if (part.bias >= 0)
        conv.bias = add_tensor(graph, graph->tensors[part.bias], merge->weight_floats, (size_t)concat.shape[2]);
    graph->layers[last] = inputs;
    graph->layers[number] = conv;
    merge->plain = mmebm__cpu_plan_take(plan, (merge->weight_floats + (size_t)concat.shape[2]) * sizeof(float));
    if (!merge->plain) return mmebm__cpu_no_memory(plan, "the layers");
    ++plan->merge_count;
    return MMEBM_OK;
}

/* A copy of the graph with room for what merges add. */
static mmebm_graph *copy_graph(mmebm_plan *plan, uint32_t merges)
{
    const mmebm_graph *from = plan->spec.graph;
    mmebm_graph *graph = mmebm__cpu_plan_take(plan, sizeof *graph);
    if (!graph) return NULL;
    *graph = *from;
    graph->layers = mmebm__cpu_plan_take(plan, from->layer_count * sizeof *from->layers);
    graph->edges = mmebm__cpu_plan_take(plan, (2 * from->edge_count + merges) * sizeof *from->edges);
    graph->tensors = mmebm__cpu_plan_take(plan, (from->tensor_count + 2 * merges) * sizeof *from->tensors);
    plan->merges = mmebm__cpu_plan_take(plan, merges * sizeof *plan->merges);
    plan->merge_parts = mmebm__cpu_plan_take(plan, from->edge_count * sizeof *plan->merge_parts);
    if (!graph->layers || !graph->edges || !graph->tensors || !plan->merges || !plan->merge_parts) return NULL;
    memcpy(graph->layers, from->layers, from->layer_count * sizeof *from->layers);
    memcpy(graph->edges, from->edges, from->edge_count * sizeof *from->edges);
    memcpy(graph->tensors, from->tensors, from->tensor_count * sizeof *from->tensors);
    return graph;
}

mmebm_status mmebm__cpu_merge_graph(mmebm_plan *plan)
{
    const mmebm_graph *graph = plan->spec.graph;
    uint32_t merges = 0, *readers = mmebm__cpu_count_readers(plan);
    if (!readers) return mmebm__cpu_no_memory(plan, "the layers");
    for (uint32_t l = 0; l < graph->layer_count; ++l) merges += (uint32_t)can_merge(plan, readers, &graph->layers[l]);
    if (!merges) return MMEBM_OK;
    mmebm_graph *rewritten = copy_graph(plan, merges);
    if (!rewritten) return mmebm__cpu_no_memory(plan, "the layers");
    for (uint32_t l = 0; l < graph->layer_count; ++l) {
        if (!can_merge(plan, readers, &graph->layers[l])) continue;
        const mmebm_status status = merge_concat(plan, rewritten, l);
        if (status != MMEBM_OK) return status;
    }
    plan->original = graph;
    plan->spec.graph = rewritten;
    return MMEBM_OK;
}

const cpu_merge *mmebm__cpu_merge_of(const mmebm_plan *plan, const mmebm_layer *layer)
{
    for (uint32_t m = 0; m < plan->merge_count; ++m)
        if (plan->merges[m].layer == layer) return &plan->merges[m];
    return NULL;
}

/* Calls `move` for each run of neighbouring numbers that a part's tensor and the merged one share. */
static void for_each_run(const mmebm_plan *plan, const cpu_merge *merge, float *weights,
                         void (*move)(float *merged, float *part, size_t count))
{
    const mmebm_graph *graph = plan->original;
    float *bias = merge->plain + merge->weight_floats, *row = merge->plain;
    const int64_t taps = merge->layer->kernel[0] * merge->layer->kernel[1];
    const int64_t in = (int64_t)merge->weight_floats / (taps * merge->layer->shape[2]);
    int64_t first_in = 0;
    for (uint32_t k = 0; k < merge->part_count; ++k) {
        const mmebm_layer *part = &graph->layers[plan->merge_parts[merge->first_part + (int32_t)k]];
        const int64_t part_in = mmebm__layer_input(graph, part, 0)->shape[2], out = part->shape[2];
        float *from = weights + graph->tensors[part->weight].offset;
        for (int64_t i = 0; i < out * taps; ++i, row += in, from += part_in)
            move(row + first_in, from, (size_t)part_in);
        if (part->bias >= 0) move(bias, weights + graph->tensors[part->bias].offset, (size_t)out);
        bias += out;
        first_in += part_in;
    }
}

static void take_part(float *merged, float *part, size_t count)
{
    memcpy(merged, part, count * sizeof *merged);
}

static void give_part(float *merged, float *part, size_t count)
{
    for (size_t i = 0; i < count; ++i) part[i] += merged[i];
}

void mmebm__cpu_merge_clear(const cpu_merge *merge)
{
    memset(merge->plain, 0, (merge->weight_floats + (size_t)merge->layer->shape[2]) * sizeof *merge->plain);
}

void mmebm__cpu_merge_load(const mmebm_plan *plan, const cpu_merge *merge, const float *weights)
{
    union {
        const float *read;
        float *handle;
    } source = {weights};
    mmebm__cpu_merge_clear(merge);
    for_each_run(plan, merge, source.handle, take_part);
}

void mmebm__cpu_merge_add_gradient(const mmebm_plan *plan, const cpu_merge *merge, float *gradient)
{
    for_each_run(plan, merge, gradient, give_part);
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * Plans of the reference backend: the value and gradient of every layer for one row, in double, in one block of
 * memory. A run takes the rows one after the other: bind inputs, forward through the layers, hand out outputs, seed,
 * backward through the layers in reverse, hand out input gradients. Weight gradients add up in double over the
 * rows of a run, in order, and are then added to the caller's.
 */
#include <string.h>

#include "reference.h"

struct mmebm_plan {
    mmebm_device *device;
    const mmebm_graph *graph;
    size_t bytes; /* of the block that starts here */
    int wide;     /* the caller's memory holds doubles: MMEBM_PRECISION_F64 */
    double *weights, *weight_gradient;
    double **value, **gradient; /* [layer]; gradient NULL in plans without gradients */
    unsigned char *wanted;      /* [layer]: something that a run asked for lies below; set by every run */
    unsigned char *reached;     /* [layer]: a gradient has come in; set for every row */
};

/* Cuts `count` items off a block that starts at base, or only measures when base is NULL. *used sticks at SIZE_MAX on
 * overflow. */
static void *cut(char *base, size_t *used, size_t count, size_t item_size)
{
    enum { ALIGNMENT = 64 };
    const size_t first = *used;
    size_t bytes;
    if (__builtin_mul_overflow(count, item_size, &bytes) || __builtin_add_overflow(bytes, ALIGNMENT - 1, &bytes) ||
        __builtin_add_overflow(first, bytes / ALIGNMENT * ALIGNMENT, used))
        *used = SIZE_MAX;
    return base ? base + first : NULL;
}

static double **cut_layers(char *base, size_t *used, const mmebm_graph *graph)
{
    double **layers = cut(base, used, graph->layer_count, sizeof *layers);
    for (uint32_t l = 0; l < graph->layer_count; ++l) {
        double *values = cut(base, used, (size_t)graph->layers[l].count, sizeof *values);
        if (layers) layers[l] = values;
    }
    return layers;
}

/* Lays out the plan in its block; returns the block's size. */
static size_t lay_out(char *base, const mmebm_plan_spec *spec)
{
    const mmebm_graph *graph = spec->graph;
    size_t used = 0;
    mmebm_plan unplaced;
    mmebm_plan *plan = cut(base, &used, 1, sizeof *plan);
    if (!plan) plan = &unplaced;
    plan->weights = cut(base, &used, graph->weight_count, sizeof(double));
    plan->weight_gradient = spec->weight_gradient ? cut(base, &used, graph->weight_count, sizeof(double)) : NULL;
    plan->value = cut_layers(base, &used, graph);
    plan->gradient = spec->weight_gradient || spec->input_gradients ? cut_layers(base, &used, graph) : NULL;
    plan->wanted = cut(base, &used, graph->layer_count, 1);
    plan->reached = cut(base, &used, graph->layer_count, 1);
    return used;
}

mmebm_status mmebm__ref_plan_create(mmebm_device *device, const mmebm_plan_spec *spec, mmebm_plan **plan)
{
    const mmebm_host *host = &device->host;
    if (spec->precision != MMEBM_PRECISION_F32 && spec->precision != MMEBM_PRECISION_BF16 &&
        spec->precision != (uint32_t)MMEBM_PRECISION_F64)
        return host->fail(host->owner, MMEBM_E_UNSUPPORTED, "reference: precision %u, it offers f32 and bf16",
                          spec->precision);
    const size_t bytes = lay_out(NULL, spec);
    mmebm_plan *block = bytes == SIZE_MAX ? NULL : host->allocate(host->owner, bytes, 64);
    if (!block)
        return host->fail(host->owner, MMEBM_E_MEMORY, "reference: no memory for a plan of %zu bytes", bytes);
    lay_out((char *)block, spec);
    block->device = device;
    block->graph = spec->graph;
    block->bytes = bytes;
    block->wide = spec->precision == (uint32_t)MMEBM_PRECISION_F64;
    *plan = block;
    return MMEBM_OK;
}

void mmebm__ref_plan_destroy(mmebm_plan *plan)
{
    if (!plan) return;
    const mmebm_host host = plan->device->host;
    host.release(host.owner, plan, plan->bytes);
}

size_t mmebm__ref_plan_size(const mmebm_plan *plan)
{
    return plan->bytes;
}

mmebm_status mmebm__ref_plan_load_weights(mmebm_plan *plan, const float *weights)
{
    for (size_t i = 0; i < plan->graph->weight_count; ++i)
        plan->weights[i] = mmebm__ref_get(weights, plan->wide, (int64_t)i);
    return MMEBM_OK;
}

/* ---- a run */

/* A layer's gradient is wanted if a wanted input lies below it, or weights whose gradient is. */
static void mark_wanted(mmebm_plan *plan, const mmebm_plan_run *run)
{
    const mmebm_graph *graph = plan->graph;
    memset(plan->wanted, 0, graph->layer_count);
    if (!run->seeds) return;
    for (uint32_t i = 0; i < graph->input_count; ++i)
        plan->wanted[graph->inputs[i]] = run->input_gradients && run->input_gradients[i];
    for (uint32_t l = 0; l < graph->layer_count; ++l) {
        const mmebm_layer *layer = &graph->layers[l];
        if (layer->kind == MMEBM_LAYER_INPUT) continue;
        plan->wanted[l] = run->weight_gradient && (layer->weight >= 0 || layer->bias >= 0);
        for (uint32_t k = 0; k < layer->edge_count; ++k)
            plan->wanted[l] |= plan->wanted[graph->edges[layer->first_edge + k]];
    }
}

static void forward(const mmebm_plan *plan, const mmebm_plan_run *run, const mmebm_ref_row *pass, int64_t row)
{
    const mmebm_graph *graph = plan->graph;
    for (uint32_t i = 0; i < graph->input_count; ++i) {
        const int64_t count = graph->layers[graph->inputs[i]].count;
        const int64_t first = row % run->inputs[i].period * count;
        for (int64_t e = 0; e < count; ++e)
            plan->value[graph->inputs[i]][e] = mmebm__ref_get(run->inputs[i].data, plan->wide, first + e);
    }
    for (uint32_t l = 0; l < graph->layer_count; ++l)
        if (graph->layers[l].kind != MMEBM_LAYER_INPUT) mmebm__ref_forward(graph->layers[l].kind)(pass, l);
    for (uint32_t o = 0; run->outputs && o < graph->output_count; ++o) {
        const int64_t count = graph->layers[graph->outputs[o]].count;
        for (int64_t e = 0; run->outputs[o] && e < count; ++e)
            mmebm__ref_set(run->outputs[o], plan->wide, row * count + e, plan->value[graph->outputs[o]][e]);
    }
}

static void set_seeds(mmebm_plan *plan, const mmebm_plan_run *run, int64_t row)
{
    const mmebm_graph *graph = plan->graph;
    memset(plan->reached, 0, graph->layer_count);
    for (uint32_t l = 0; l < graph->layer_count; ++l)
        if (plan->wanted[l]) memset(plan->gradient[l], 0, (size_t)graph->layers[l].count * sizeof(double));
    for (uint32_t o = 0; o < graph->output_count; ++o) {
        const mmebm_plan_seed *seed = &run->seeds[o];
        const int32_t l = graph->outputs[o];
        const int64_t count = graph->layers[l].count;
        if (seed->scale == 0.0f || !plan->wanted[l]) continue;
        plan->reached[l] = 1;
        for (int64_t e = 0; e < count; ++e) {
            const double value = seed->data ? mmebm__ref_get(seed->data, plan->wide, row * count + e) : 1.0;
            plan->gradient[l][e] += (double)seed->scale * value;
        }
    }
}

static void backward(mmebm_plan *plan, const mmebm_plan_run *run, const mmebm_ref_row *pass, int64_t row)
{
    const mmebm_graph *graph = plan->graph;
    set_seeds(plan, run, row);
    for (uint32_t l = graph->layer_count; l-- > 0;) {
        const mmebm_layer *layer = &graph->layers[l];
        if (!plan->reached[l] || layer->kind == MMEBM_LAYER_INPUT) continue;
        mmebm__ref_backward(layer->kind)(pass, l);
        for (uint32_t k = 0; k < layer->edge_count; ++k) {
            const int32_t source = graph->edges[layer->first_edge + k];
            plan->reached[source] = plan->wanted[source];
        }
    }
    for (uint32_t i = 0; run->input_gradients && i < graph->input_count; ++i) {
        const int64_t count = graph->layers[graph->inputs[i]].count;
        for (int64_t e = 0; run->input_gradients[i] && e < count; ++e)
            mmebm__ref_set(run->input_gradients[i], plan->wide, row * count + e,
                           plan->gradient[graph->inputs[i]][e]);
    }
}

mmebm_status mmebm__ref_plan_run(mmebm_plan *plan, const mmebm_plan_run *run)
{
    const mmebm_graph *graph = plan->graph;
    const int by_weights = run->seeds && run->weight_gradient;
    const mmebm_ref_row pass = {.graph = graph,
                                .weights = plan->weights,
                                .weight_gradient = by_weights ? plan->weight_gradient : NULL,
                                .value = plan->value,
                                .gradient = plan->gradient,
                                .wanted = plan->wanted};
    mark_wanted(plan, run);
    if (by_weights) memset(plan->weight_gradient, 0, graph->weight_count * sizeof(double));
    for (int64_t row = 0; row < run->rows; ++row) {
        forward(plan, run, &pass, row);
        if (run->seeds) backward(plan, run, &pass, row);
    }
    if (by_weights)
        for (size_t i = 0; i < graph->weight_count; ++i)
            mmebm__ref_add(run->weight_gradient, plan->wide, (int64_t)i, plan->weight_gradient[i]);
    return MMEBM_OK;
}

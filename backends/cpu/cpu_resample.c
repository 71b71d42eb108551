/* SPDX-License-Identifier: Apache-2.0
 *
 * See cpu_resample.h. Layers are written anew in their order. Of an image that was doubled there is at first only the
 * small one (`doubled`); the large one is made for the first layer that needs it.
 */
#include "cpu_resample.h"

#include <string.h>

#include "cpu_elementwise.h"
#include "cpu_tiles.h"

typedef struct rewriter {
    const mmebm_graph *from;
    mmebm_graph *to;
    uint8_t *resample;  /* by layer of `to` */
    uint32_t *readers;  /* by layer of `from`: edges and outputs that read it */
    int32_t *place;     /* by layer of `from`: the one of `to` that has its value, or the small image; -1 = none yet */
    int32_t *large;     /* the one that has the doubled image, -1 = none yet */
    uint8_t *doubled;
} rewriter;

static void set_size(mmebm_layer *layer, int64_t height, int64_t width)
{
    layer->shape[0] = height;
    layer->shape[1] = width;
    layer->count = height * width * layer->shape[2];
}

static int32_t append(rewriter *w, const mmebm_layer *layer)
{
    w->to->layers[w->to->layer_count] = *layer;
    w->to->layers[w->to->layer_count].first_edge = w->to->edge_count;
    w->to->layers[w->to->layer_count].edge_count = 0;
    return (int32_t)w->to->layer_count++;
}

/* Edges of the last layer appended. */
static void append_edge(rewriter *w, int32_t from)
{
    w->to->edges[w->to->edge_count++] = from;
    ++w->to->layers[w->to->layer_count - 1].edge_count;
}

/* Where the whole value of a layer of `from` is. */
static int32_t whole_value(rewriter *w, int32_t l)
{
    if (!w->doubled[l]) return w->place[l];
    if (w->large[l] >= 0) return w->large[l];
    mmebm_layer doubling = {.kind = MMEBM_LAYER_UPSAMPLE, .rank = 3, .factor = 2, .weight = -1, .bias = -1, .mean = -1,
                            .variance = -1};
    memcpy(doubling.shape, w->from->layers[l].shape, sizeof doubling.shape);
    doubling.count = w->from->layers[l].count;
    w->large[l] = append(w, &doubling);
    append_edge(w, w->place[l]);
    return w->large[l];
}

static int has_kernel(const mmebm_layer *layer, int64_t kernel)
{
    if (layer->kind != MMEBM_LAYER_CONV2D) return 0;
    for (int i = 0; i < 2; ++i)
        if (layer->kernel[i] != kernel || layer->stride[i] != 1 || layer->padding[i] != kernel / 2) return 0;
    return 1;
}

static int suits(const rewriter *w, const mmebm_layer *conv)
{
    if (!has_kernel(conv, 3)) return 0;
    const cpu_op_spec spec = {.kind = CPU_CONV,
                              .bf16 = 1,
                              .in_channels = mmebm__layer_input(w->from, conv, 0)->shape[2],
                              .out_channels = conv->shape[2],
                              .kernel = {3, 3},
                              .stride = {1, 1},
                              .padding = {1, 1}};
    return mmebm__cpu_tiles_suit(&spec);
}

/* The mean of 2 x 2 results that alone reads a convolution, or -1. */
static int32_t pool_of(const rewriter *w, int32_t conv)
{
    const mmebm_layer *results = &w->from->layers[conv];
    if (w->readers[conv] != 1) return -1;
    for (uint32_t l = (uint32_t)conv + 1; l < w->from->layer_count; ++l) {
        const mmebm_layer *pool = &w->from->layers[l];
        if (pool->kind != MMEBM_LAYER_AVG_POOL || w->from->edges[pool->first_edge] != conv) continue;
        return mmebm__cpu_is_quads(pool, results) ? (int32_t)l : -1;
    }
    return -1;
}

/* A layer that reads the small image in place of the doubled one, or the convolution with its pool. 0: neither. */
static int rewrite(rewriter *w, int32_t l)
{
    const mmebm_layer *layer = &w->from->layers[l];
    const int32_t source = w->from->edges[layer->first_edge], small = w->place[source];
    const int doubled = w->doubled[source];
    mmebm_layer written = *layer;
    if (layer->kind == MMEBM_LAYER_UPSAMPLE && layer->factor == 2 && layer->rank == 3) {
        w->place[l] = whole_value(w, source);
        w->doubled[l] = 1;
        return 1;
    }
    if (doubled && (layer->kind == MMEBM_LAYER_ACTIVATION || has_kernel(layer, 1))) {
        set_size(&written, layer->shape[0] / 2, layer->shape[1] / 2);
        w->place[l] = append(w, &written);
        append_edge(w, small);
        w->doubled[l] = 1;
        return 1;
    }
    if (!suits(w, layer)) return 0;
    const int32_t pool = doubled ? -1 : pool_of(w, l);
    if (!doubled && pool < 0) return 0;
    if (pool >= 0) set_size(&written, layer->shape[0] / 2, layer->shape[1] / 2);
    w->place[l] = append(w, &written);
    append_edge(w, small);
    w->resample[w->place[l]] = pool >= 0 ? CPU_POOLED : CPU_DOUBLED;
    if (pool >= 0) w->place[pool] = w->place[l];
    return 1;
}

static void rewrite_layer(rewriter *w, int32_t l)
{
    const mmebm_layer *layer = &w->from->layers[l];
    if (w->place[l] >= 0 || (layer->edge_count && rewrite(w, l))) return;
    for (uint32_t k = 0; k < layer->edge_count; ++k) (void)whole_value(w, w->from->edges[layer->first_edge + k]);
    w->place[l] = append(w, layer); /* after what it reads */
    for (uint32_t k = 0; k < layer->edge_count; ++k)
        append_edge(w, whole_value(w, w->from->edges[layer->first_edge + k]));
}

/* Room for `to`: each layer may have its doubled image beside it. */
static int take_room(mmebm_plan *plan, rewriter *w)
{
    const mmebm_graph *from = w->from;
    const size_t layers = from->layer_count;
    w->to = mmebm__cpu_plan_take(plan, sizeof *w->to);
    if (!w->to) return 0;
    *w->to = *from;
    w->to->layer_count = w->to->edge_count = 0;
    w->to->layers = mmebm__cpu_plan_take(plan, 2 * layers * sizeof *from->layers);
    w->to->edges = mmebm__cpu_plan_take(plan, (from->edge_count + layers) * sizeof *from->edges);
    w->to->inputs = mmebm__cpu_plan_take(plan, from->input_count * sizeof *from->inputs);
    w->to->outputs = mmebm__cpu_plan_take(plan, from->output_count * sizeof *from->outputs);
    w->resample = mmebm__cpu_plan_take(plan, 2 * layers);
    w->place = mmebm__cpu_plan_take(plan, layers * sizeof *w->place);
    w->large = mmebm__cpu_plan_take(plan, layers * sizeof *w->large);
    w->doubled = mmebm__cpu_plan_take(plan, layers);
    return w->to->layers && w->to->edges && w->to->inputs && w->to->outputs && w->resample && w->place && w->large &&
           w->doubled;
}

mmebm_status mmebm__cpu_resample_graph(mmebm_plan *plan)
{
    const mmebm_graph *from = plan->spec.graph;
    rewriter w = {.from = from, .readers = mmebm__cpu_count_readers(plan)};
    if (!w.readers || !take_room(plan, &w)) return mmebm__cpu_no_memory(plan, "the layers");
    memset(w.place, 0xff, from->layer_count * sizeof *w.place);
    memset(w.large, 0xff, from->layer_count * sizeof *w.large);
    for (uint32_t l = 0; l < from->layer_count; ++l) rewrite_layer(&w, (int32_t)l);
    for (uint32_t i = 0; i < from->input_count; ++i) w.to->inputs[i] = w.place[from->inputs[i]];
    for (uint32_t o = 0; o < from->output_count; ++o) w.to->outputs[o] = whole_value(&w, from->outputs[o]);
    plan->spec.graph = w.to;
    plan->resample = w.resample;
    return MMEBM_OK;
}

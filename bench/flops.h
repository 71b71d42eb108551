/* SPDX-License-Identifier: Apache-2.0
 *
 * Floating point operations of a graph, counted from its layers: two for each multiply-add of a convolution or matrix
 * product. Element-wise work and pooling, a few percent, are left out.
 */
#ifndef MMEBM_BENCH_FLOPS_H
#define MMEBM_BENCH_FLOPS_H

#include "graph.h"

/* Multiply-adds of one row through one layer, forward. */
static inline double layer_multiply_adds(const mmebm_graph *graph, const mmebm_layer *layer)
{
    const mmebm_layer *input = layer->edge_count ? mmebm__layer_input(graph, layer, 0) : NULL;
    const double window = (double)(layer->kernel[0] * layer->kernel[1]);
    switch (layer->kind) {
    case MMEBM_LAYER_CONV2D:
        return (double)layer->count * window * (double)input->shape[2];
    case MMEBM_LAYER_CONV_TRANSPOSE2D:
        return (double)input->count * window * (double)layer->shape[2];
    case MMEBM_LAYER_LINEAR:
        return (double)layer->count * (double)(layer->flatten ? input->count : input->shape[input->rank - 1]);
    default:
        return 0.0;
    }
}

/* Operations of one row, forward. The input gradient takes as many again, the weight gradient too. */
static inline double graph_flops(const mmebm_graph *graph)
{
    double flops = 0.0;
    for (uint32_t i = 0; i < graph->layer_count; ++i) flops += 2.0 * layer_multiply_adds(graph, &graph->layers[i]);
    return flops;
}

#endif /* MMEBM_BENCH_FLOPS_H */

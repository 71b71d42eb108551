/* SPDX-License-Identifier: Apache-2.0
 *
 * A network as data: layers in topological order, tensors packed into one flat weight vector. The builder
 * (network.c) makes graphs and checks every shape; compose.c joins several into one; backends compile a graph into
 * a plan and trust it. Tensors are channels last; shapes are those of one tuple (one row).
 *
 * Losses are layers too, so that the gradient of any energy or likelihood is one plan:
 *   NLL    (mean, target) -> [1]:  gaussian     factor * sum (target - mean)^2 / (2 scale^2)
 *                                  laplace      factor * sum |target - mean| / scale
 *                                  categorical  -factor * sum target log(max(mean, 1e-30))
 *   PRIOR  (z) -> [1]:             gaussian     sum z^2 / (2 scale^2)
 *                                  laplace      sum |z| / scale
 * (density constants left out: they have no gradient; ruling B1).
 */
#ifndef MMEBM_GRAPH_H
#define MMEBM_GRAPH_H

#include <stddef.h>
#include <stdint.h>

#include "mmebm.h"

typedef enum mmebm_layer_kind {
    MMEBM_LAYER_INPUT = 0,
    MMEBM_LAYER_CONV2D = 1,
    MMEBM_LAYER_CONV_TRANSPOSE2D = 2,
    MMEBM_LAYER_LINEAR = 3,
    MMEBM_LAYER_ACTIVATION = 4,
    MMEBM_LAYER_SOFTMAX = 5,
    MMEBM_LAYER_AVG_POOL = 6,
    MMEBM_LAYER_GLOBAL_AVG_POOL = 7,
    MMEBM_LAYER_UPSAMPLE = 8,
    MMEBM_LAYER_ADD = 9,
    MMEBM_LAYER_CONCAT = 10,
    MMEBM_LAYER_RESHAPE = 11,
    MMEBM_LAYER_BATCH_NORM = 12,
    MMEBM_LAYER_NLL = 13,
    MMEBM_LAYER_PRIOR = 14,
    MMEBM_LAYER_KIND_COUNT = 15
} mmebm_layer_kind;

typedef enum mmebm_tensor_role {
    MMEBM_ROLE_WEIGHT = 0,   /* matrix or kernel: spectral norm applies, first axis = rows */
    MMEBM_ROLE_BIAS = 1,     /* also batch norm's beta */
    MMEBM_ROLE_GAIN = 2,     /* batch norm's gamma */
    MMEBM_ROLE_MEAN = 3,     /* running statistics: not trained by gradient */
    MMEBM_ROLE_VARIANCE = 4
} mmebm_tensor_role;

enum { MMEBM_TENSOR_NAME_SIZE = 96 };

typedef struct mmebm_tensor {
    char name[MMEBM_TENSOR_NAME_SIZE];
    mmebm_tensor_role role;
    uint32_t rank;
    int64_t shape[4];
    size_t offset; /* in floats, into the graph's weight vector */
    size_t count;
    int64_t fan_in, fan_out; /* for the initialisers; of a bias: those of its weight */
    float momentum;          /* running statistics only */
} mmebm_tensor;

/* A weight, bias, ... field is an index into graph->tensors or -1. */
typedef struct mmebm_layer {
    mmebm_layer_kind kind;
    uint32_t first_edge, edge_count; /* its inputs: graph->edges[first_edge ...], indices of earlier layers */
    uint32_t rank;
    int64_t shape[MMEBM_MAX_RANK]; /* of its output, one row */
    int64_t count;                 /* elements of that */
    int32_t weight, bias;          /* conv, linear; batch norm: gain, shift */
    int32_t mean, variance;        /* batch norm */
    int64_t kernel[2], stride[2], padding[2], output_padding[2]; /* conv, avg_pool */
    int64_t factor;                /* upsample */
    uint32_t activation;           /* MMEBM_RELU ... */
    uint32_t likelihood;           /* NLL, PRIOR: MMEBM_GAUSSIAN ... */
    uint32_t flatten;              /* linear */
    float parameter;               /* leaky relu: slope */
    float alpha, beta;             /* add */
    float epsilon;                 /* batch norm */
    float scale, loss_factor;      /* NLL, PRIOR */
} mmebm_layer;

/* Made by graph_append.c and compose.c only, so that this holds: edges point to earlier layers; every layer but the
 * inputs has at least one edge; outputs are distinct and no inputs; tensors stand in the order of their layers. */
typedef struct mmebm_graph {
    mmebm_layer *layers;
    int32_t *edges;
    mmebm_tensor *tensors;
    int32_t *inputs; /* layer numbers */
    int32_t *outputs;
    uint32_t layer_count, edge_count, tensor_count, input_count, output_count;
    size_t weight_count; /* floats in the weight vector */
    uint32_t layer_room, edge_room, tensor_room, input_room, output_room; /* entries allocated */
} mmebm_graph;

static inline const mmebm_layer *mmebm__layer_input(const mmebm_graph *graph, const mmebm_layer *layer, uint32_t k)
{
    return &graph->layers[graph->edges[layer->first_edge + k]];
}

#endif /* MMEBM_GRAPH_H */

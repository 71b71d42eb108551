/* SPDX-License-Identifier: Apache-2.0
 *
 * The reference backend: plain C, one thread, all sums in double. It is the yardstick of the conformance tests and
 * the backend that is always there.
 *   ref_backend.c  table, device, buffers          ref_layers.c  layers without weights, batch norm, losses
 *   ref_plan.c     plans, run row by row           ref_conv.c    convolutions and linear layers
 *   ref_vector.c   elementwise, sums, optimiser    ref_chain.c   noise, chains, experts
 *   ref_math.c     formulas
 */
#ifndef MMEBM_REFERENCE_H
#define MMEBM_REFERENCE_H

#include "ref_vector.h"

struct mmebm_device {
    mmebm_host host;
};

/* One row on its way through a graph; arrays are indexed by layer number or follow graph->tensors. */
typedef struct mmebm_ref_row {
    const mmebm_graph *graph;
    const double *weights;
    double *weight_gradient; /* added to; NULL = not wanted */
    double *const *value;
    double *const *gradient;   /* of the loss by value; added to */
    const unsigned char *wanted; /* 1 = gradient[layer] is wanted */
} mmebm_ref_row;

/* What a layer kind does: value of layer `number` from those of its inputs; gradients of its inputs and weights from
 * its own. */
typedef void (*mmebm_ref_pass)(const mmebm_ref_row *row, uint32_t number);

static inline uint32_t mmebm__ref_source(const mmebm_ref_row *row, uint32_t number, uint32_t k)
{
    return (uint32_t)row->graph->edges[row->graph->layers[number].first_edge + k];
}

static inline const double *mmebm__ref_input(const mmebm_ref_row *row, uint32_t number, uint32_t k)
{
    return row->value[mmebm__ref_source(row, number, k)];
}

/* NULL where the gradient is not wanted. */
static inline double *mmebm__ref_input_gradient(const mmebm_ref_row *row, uint32_t number, uint32_t k)
{
    const uint32_t source = mmebm__ref_source(row, number, k);
    return row->wanted[source] ? row->gradient[source] : NULL;
}

/* A tensor's weights; NULL for tensor -1. */
static inline const double *mmebm__ref_weights(const mmebm_ref_row *row, int32_t tensor)
{
    return tensor < 0 ? NULL : row->weights + row->graph->tensors[tensor].offset;
}

static inline double *mmebm__ref_weight_gradient(const mmebm_ref_row *row, int32_t tensor)
{
    return tensor < 0 || !row->weight_gradient ? NULL : row->weight_gradient + row->graph->tensors[tensor].offset;
}

/* ref_conv.c: the three kinds share both passes. */
void mmebm__ref_conv_forward(const mmebm_ref_row *row, uint32_t number);
void mmebm__ref_conv_backward(const mmebm_ref_row *row, uint32_t number);

/* ref_layers.c: NULL for MMEBM_LAYER_INPUT. */
mmebm_ref_pass mmebm__ref_forward(mmebm_layer_kind kind);
mmebm_ref_pass mmebm__ref_backward(mmebm_layer_kind kind);

/* Table entries; backend_api.h says what they do. */
mmebm_status mmebm__ref_plan_create(mmebm_device *device, const mmebm_plan_spec *spec, mmebm_plan **plan);
void mmebm__ref_plan_destroy(mmebm_plan *plan);
size_t mmebm__ref_plan_size(const mmebm_plan *plan);
mmebm_status mmebm__ref_plan_load_weights(mmebm_plan *plan, const float *weights);
mmebm_status mmebm__ref_plan_run(mmebm_plan *plan, const mmebm_plan_run *run);

#endif /* MMEBM_REFERENCE_H */

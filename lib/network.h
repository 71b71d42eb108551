/* SPDX-License-Identifier: Apache-2.0
 *
 * mmebm_network: the builder (network.c), the initialisers (initialise.c) and the operations on whole graphs (compose.c)
 * from which a model is made.
 */
#ifndef MMEBM_NETWORK_H
#define MMEBM_NETWORK_H

#include "context.h"

struct mmebm_network {
    mmebm_context *context;
    char name[64];
    mmebm_graph graph;
    uint32_t finished;
    float *weights; /* host, graph.weight_count floats; from finish on */
    mmebm_plan *plan; /* of mmebm_network_forward, made at the first call; NULL before */
    uint32_t plan_stale; /* weights changed since the plan took them */
};

void mmebm__graph_free(mmebm_context *context, mmebm_graph *graph); /* safe on a zeroed or half-built graph */
mmebm_status mmebm__graph_copy(mmebm_context *context, const mmebm_graph *source, mmebm_graph *copy);

/* One graph from several: tensors of part p are renamed "<prefix[p]>.<name>" and follow each other in the weight
 * vector in order of p. share_inputs: all parts read the same inputs (the decoders' z), else inputs are concatenated. */
mmebm_status mmebm__graph_join(mmebm_context *context, uint32_t count, const mmebm_graph *const *parts,
                               const char (*prefix)[32], int share_inputs, mmebm_graph *joined);

/* The part of graph that computes outputs[0..count-1]: unreached layers go, the inputs that are reached stay in
 * order; the tensor table and weight vector stay whole, so the same weights fit. */
mmebm_status mmebm__graph_extract(mmebm_context *context, const mmebm_graph *graph, uint32_t count,
                                  const uint32_t *outputs, mmebm_graph *part);

/* The energy of z given x_O (Eqns 8, 17), for O = the set bits of observed: inputs z, then x_i for i in O in order; one output [1]
 * = sum_{i in O} NLL_i(x_i | z), plus -log p0(z) up to its constant if with_prior. Weights: the generator's. */
struct mmebm_model;
mmebm_status mmebm__graph_posterior(const struct mmebm_model *model, uint64_t observed, int with_prior,
                                    mmebm_graph *posterior);

/* Draws initial weights for a finished graph (initialise.c); tensor t of the graph draws as chain t. */
void mmebm__initialise(const mmebm_graph *graph, uint32_t initialiser, uint64_t seed, float *weights);

/* Internal builder call for compose.c and the file reader: appends a layer whose fields are set except first_edge;
 * infers and checks its shape exactly as the public calls do. */
mmebm_status mmebm__network_finish_graph(mmebm_network *network); /* checks inputs and outputs, allocates weights, no draw */

#endif /* MMEBM_NETWORK_H */

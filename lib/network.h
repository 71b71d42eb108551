/* SPDX-License-Identifier: Apache-2.0
 *
 * mmebm_network: the builder (network.c, network_layers.c, graph_append.c), the initialisers (initialise.c) and the
 * operations on whole graphs (compose.c) from which a model is made.
 */
#ifndef MMEBM_NETWORK_H
#define MMEBM_NETWORK_H

#include "context.h"

enum { MMEBM_NETWORK_NAME_SIZE = 64 };
enum { MMEBM_PORT_NAME_SIZE = 32, MMEBM_MAX_PORTS = 64 /* inputs, outputs: bits of mmebm_plan_spec.input_gradients */ };

struct mmebm_network {
    mmebm_context *context;
    char name[MMEBM_NETWORK_NAME_SIZE];
    mmebm_graph graph;
    char input_names[MMEBM_MAX_PORTS][MMEBM_PORT_NAME_SIZE];
    char output_names[MMEBM_MAX_PORTS][MMEBM_PORT_NAME_SIZE];
    uint32_t finished;
    float *weights; /* host, graph.weight_count floats; from finish on */
    mmebm_plan *plan; /* of mmebm_network_forward, made at the first call; NULL before */
    float *plan_ports; /* device: inputs and outputs of the plan's rows */
    uint32_t plan_stale; /* weights changed since the plan took them */
};

void mmebm__graph_free(mmebm_context *context, mmebm_graph *graph); /* safe on a zeroed or half-built graph */
mmebm_status mmebm__graph_copy(mmebm_context *context, const mmebm_graph *source, mmebm_graph *copy);

enum { MMEBM_PREFIX_SIZE = 32 };
/* One graph from several: tensors of part p are renamed "<prefix[p]>.<name>" and follow each other in the weight
 * vector in order of p; so do the outputs. share_inputs: all parts read the same inputs (the decoders' z), else the
 * inputs follow each other too. */
mmebm_status mmebm__graph_join(mmebm_context *context, uint32_t count, const mmebm_graph *const *parts,
                               const char (*prefix)[MMEBM_PREFIX_SIZE], int share_inputs, mmebm_graph *joined);

/* The part of graph that computes outputs[0..count-1]: unreached layers go, the inputs that are reached stay in
 * order; the tensor table and weight vector stay whole, so the same weights fit. */
mmebm_status mmebm__graph_extract(mmebm_context *context, const mmebm_graph *graph, uint32_t count,
                                  const uint32_t *outputs, mmebm_graph *part);

/* The energy of z given x_O (Eqns 8, 17), for O = the set bits of observed. Inputs: z, then x_i for i in O in order.
 * Outputs [1]: 0 the energy, sum_{i in O} NLL_i(x_i | z) - log p0(z) up to p0's constant; 1 the first sum alone, whose
 * gradient by the weights Eqn 11 wants. The weights are the generator's. */
struct mmebm_model;
mmebm_status mmebm__graph_posterior(const struct mmebm_model *model, uint64_t observed, mmebm_graph *posterior);
/* The same under the prior as U tilts it: U(G(z)) / temperature + sum_{i in O} NLL_i(x_i | z) - log p0(z), O may be
 * empty, and it is the one output. The weights are the generator's, then the energy's (joint.h). */
mmebm_status mmebm__graph_tilted(const struct mmebm_model *model, uint64_t observed, float temperature,
                                 mmebm_graph *tilted);
/* Whether it may be that temperature, or 0 for p0 as it is. `what` names the caller's options. */
mmebm_status mmebm__prior_temperature_check(mmebm_context *context, const char *what, float temperature);

/* Draws initial weights for a finished graph (initialise.c); tensor t of the graph draws as chain t. */
void mmebm__initialise(const mmebm_graph *graph, uint32_t initialiser, uint64_t seed, float *weights);

/* What one layer is made from. Of `settings` these are read: kind; the kind's own settings (kernel ... loss_factor);
 * rank and shape of an input or a reshape; bias >= 0 asks conv and linear for a bias. The rest follows from the
 * inputs. */
typedef struct mmebm_layer_request {
    const char *owner; /* begins the sentence of a refusal: a network's name */
    mmebm_layer settings;
    int64_t out_channels; /* conv, linear: last axis of the result */
    float momentum;       /* batch norm */
    const char *name;     /* of its tensors, "<name>.weight", ...; NULL = the kind and the layer's number, "conv3" */
    uint32_t input_count;
    const mmebm_node *inputs;
} mmebm_layer_request;

/* The one place where layers are made (graph_append.c): for the builder, compose.c and the file reader. Infers and
 * checks the shape, adds the tensors. A refused or failed call adds nothing. */
mmebm_status mmebm__graph_append(mmebm_context *context, mmebm_graph *graph, const mmebm_layer_request *request,
                                 mmebm_node *node);
mmebm_status mmebm__graph_output(mmebm_context *context, mmebm_graph *graph, const char *owner, mmebm_node node);

/* Checks inputs and outputs, allocates the weights (zero, nothing is drawn) and ends building. */
mmebm_status mmebm__network_finish_graph(mmebm_network *network);

/* Marks the layers from which outputs[0..count-1] (layer numbers) are computed; reached: layer_count zeros. */
void mmebm__graph_reach(const mmebm_graph *graph, uint32_t count, const int32_t *outputs, unsigned char *reached);

/* Tensors by name, for networks and models: NULL if there is none; the view must have exactly the tensor's shape. */
const mmebm_tensor *mmebm__tensor_find(const mmebm_graph *graph, const char *name);
mmebm_status mmebm__tensor_view_check(mmebm_context *context, const mmebm_tensor *tensor, const mmebm_view *view);
void mmebm__tensor_info(const mmebm_tensor *tensor, const char **name, uint32_t *rank, int64_t *shape);

/* True for 1 .. size - 1 of the characters [A-Za-z0-9_.-]: names of networks, layers, modalities. */
int mmebm__name_valid(const char *name, size_t size);

#endif /* MMEBM_NETWORK_H */

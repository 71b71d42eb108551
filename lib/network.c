/* SPDX-License-Identifier: Apache-2.0
 *
 * mmebm_network: its life, its tensors and running it. The layers' calls are in network_layers.c. Weights live on the
 * host; mmebm_network_forward keeps one plan and one device buffer for its inputs and outputs from the first call on.
 */
#include <stdio.h>
#include <string.h>

#include "network.h"
#include "view.h"

enum { FORWARD_ROWS = 64 };                              /* most rows of the forward plan */
static const int64_t forward_floats = INT64_C(1) << 26; /* ... fewer when their activations would take over 256 MiB */

/* ---- life */

mmebm_status mmebm_network_create(mmebm_context *context, const char *name, mmebm_network **network)
{
    if (network) *network = NULL;
    if (!context) return MMEBM_E_ARGUMENT;
    mmebm__clear_error(context);
    if (!network) return mmebm__fail(context, MMEBM_E_ARGUMENT, "network_create: network is NULL");
    if (!name) name = "network";
    if (!mmebm__name_valid(name, MMEBM_NETWORK_NAME_SIZE))
        return mmebm__fail(context, MMEBM_E_ARGUMENT,
                           "network_create: the name '%.70s' is not 1 to %d of the characters A-Z a-z 0-9 _ . -", name,
                           MMEBM_NETWORK_NAME_SIZE - 1);
    mmebm_network *made = mmebm__allocate(context, sizeof *made);
    if (!made) return MMEBM_E_MEMORY;
    memcpy(made->name, name, strlen(name) + 1);
    made->context = context;
    mmebm__context_retain(context);
    *network = made;
    return MMEBM_OK;
}

/* Rows of the forward plan: decided by the graph alone, so that later calls find the buffers they need. */
static int64_t forward_capacity(const mmebm_graph *graph)
{
    int64_t row = 0; /* at most MAX_LAYERS * 2^31 */
    for (uint32_t i = 0; i < graph->layer_count; ++i) row += graph->layers[i].count;
    const int64_t rows = forward_floats / row;
    return rows < 1 ? 1 : rows > FORWARD_ROWS ? FORWARD_ROWS : rows;
}

/* Floats of one row of all inputs and outputs. */
static int64_t port_floats(const mmebm_graph *graph)
{
    int64_t floats = 0;
    for (uint32_t i = 0; i < graph->input_count; ++i) floats += graph->layers[graph->inputs[i]].count;
    for (uint32_t o = 0; o < graph->output_count; ++o) floats += graph->layers[graph->outputs[o]].count;
    return floats;
}

void mmebm_network_destroy(mmebm_network **network)
{
    if (!network || !*network) return;
    mmebm_network *old = *network;
    mmebm_context *context = old->context;
    if (old->plan) context->ops->plan_destroy(old->plan);
    if (old->plan_ports)
        mmebm__device_free(context, old->plan_ports,
                           (size_t)(forward_capacity(&old->graph) * port_floats(&old->graph)));
    mmebm__free(context, old->weights, old->graph.weight_count * sizeof(float));
    mmebm__graph_free(context, &old->graph);
    mmebm__free(context, old, sizeof *old);
    mmebm__context_release(context);
    *network = NULL;
}

/* Every layer but the inputs must lead to an output: a forgotten branch is a mistake, and plans need no dead layers. */
static mmebm_status check_reached(mmebm_network *network)
{
    const mmebm_graph *graph = &network->graph;
    mmebm_context *context = network->context;
    unsigned char *reached = mmebm__allocate(context, graph->layer_count);
    if (!reached) return MMEBM_E_MEMORY;
    mmebm__graph_reach(graph, graph->output_count, graph->outputs, reached);
    mmebm_status status = MMEBM_OK;
    for (uint32_t i = 0; i < graph->layer_count && status == MMEBM_OK; ++i)
        if (!reached[i] && graph->layers[i].kind != MMEBM_LAYER_INPUT)
            status = mmebm__fail(context, MMEBM_E_STATE, "network '%s': finish: node %u leads to no output",
                                 network->name, (unsigned)i);
    mmebm__free(context, reached, graph->layer_count);
    return status;
}

mmebm_status mmebm__network_finish_graph(mmebm_network *network)
{
    mmebm_context *context = network->context;
    const mmebm_graph *graph = &network->graph;
    if (network->finished)
        return mmebm__fail(context, MMEBM_E_STATE, "network '%s': finish: it is finished already", network->name);
    if (!graph->input_count || !graph->output_count)
        return mmebm__fail(context, MMEBM_E_STATE, "network '%s': finish: it has %u inputs and %u outputs, wanted at "
                           "least one of each", network->name, (unsigned)graph->input_count,
                           (unsigned)graph->output_count);
    MMEBM_TRY(check_reached(network));
    network->weights = mmebm__allocate(context, graph->weight_count * sizeof(float)); /* at most 2^42 bytes */
    if (!network->weights) return MMEBM_E_MEMORY;
    network->finished = 1;
    network->plan_stale = 1;
    return MMEBM_OK;
}

mmebm_status mmebm_network_finish(mmebm_network *network, uint32_t initialiser, uint64_t seed)
{
    if (!network) return MMEBM_E_ARGUMENT;
    mmebm__clear_error(network->context);
    if (initialiser != MMEBM_INIT_XAVIER_NORMAL && initialiser != MMEBM_INIT_PYTORCH)
        return mmebm__fail(network->context, MMEBM_E_ARGUMENT,
                           "network '%s': finish: initialiser is %u, wanted MMEBM_INIT_XAVIER_NORMAL or _PYTORCH",
                           network->name, (unsigned)initialiser);
    MMEBM_TRY(mmebm__network_finish_graph(network));
    mmebm__initialise(&network->graph, initialiser, seed, network->weights);
    return MMEBM_OK;
}

/* ---- questions and tensors */

mmebm_status mmebm_network_node_shape(const mmebm_network *network, mmebm_node node, uint32_t *rank, int64_t *shape)
{
    if (!network) return MMEBM_E_ARGUMENT;
    mmebm__clear_error(network->context);
    if (node < 0 || (uint32_t)node >= network->graph.layer_count)
        return mmebm__fail(network->context, MMEBM_E_ARGUMENT,
                           "network '%s': node_shape: there is no node %d, nodes are 0 to %d", network->name, (int)node,
                           (int)network->graph.layer_count - 1);
    const mmebm_layer *layer = &network->graph.layers[node];
    if (rank) *rank = layer->rank;
    if (shape) memcpy(shape, layer->shape, sizeof layer->shape);
    return MMEBM_OK;
}

uint32_t mmebm_network_tensor_count(const mmebm_network *network)
{
    return network ? network->graph.tensor_count : 0;
}

mmebm_status mmebm_network_tensor_info(const mmebm_network *network, uint32_t index, const char **name, uint32_t *rank,
                                       int64_t *shape)
{
    if (!network) return MMEBM_E_ARGUMENT;
    mmebm__clear_error(network->context);
    if (!network->finished) /* tensors move in memory while layers are added: a name would not last */
        return mmebm__fail(network->context, MMEBM_E_STATE, "network '%s': tensor_info: it is not finished yet",
                           network->name);
    if (index >= network->graph.tensor_count)
        return mmebm__fail(network->context, MMEBM_E_ARGUMENT, "network '%s': there is no tensor %u, it has %u",
                           network->name, (unsigned)index, (unsigned)network->graph.tensor_count);
    mmebm__tensor_info(&network->graph.tensors[index], name, rank, shape);
    return MMEBM_OK;
}

const mmebm_tensor *mmebm__tensor_find(const mmebm_graph *graph, const char *name)
{
    for (uint32_t t = 0; t < graph->tensor_count; ++t)
        if (strcmp(graph->tensors[t].name, name) == 0) return &graph->tensors[t];
    return NULL;
}

/* A tensor has no axis of tuples: its own first axis stands there. */
mmebm_status mmebm__tensor_view_check(mmebm_context *context, const mmebm_tensor *tensor, const mmebm_view *view)
{
    int64_t first = tensor->shape[0];
    char what[MMEBM_TENSOR_NAME_SIZE + 16];
    snprintf(what, sizeof what, "tensor '%s'", tensor->name);
    return mmebm__view_check(context, what, view, tensor->rank - 1, tensor->shape + 1, &first);
}

void mmebm__tensor_info(const mmebm_tensor *tensor, const char **name, uint32_t *rank, int64_t *shape)
{
    if (name) *name = tensor->name;
    if (rank) *rank = tensor->rank;
    if (shape) memcpy(shape, tensor->shape, tensor->rank * sizeof *shape);
}

/* Finds a tensor by name and checks the view against it. */
static mmebm_status find_tensor(const mmebm_network *network, const char *what, const char *name,
                                const mmebm_view *value, const mmebm_tensor **tensor)
{
    mmebm_context *context = network->context;
    if (!network->finished)
        return mmebm__fail(context, MMEBM_E_STATE, "network '%s': %s: it is not finished yet", network->name, what);
    if (!name) return mmebm__fail(context, MMEBM_E_ARGUMENT, "network '%s': %s: name is NULL", network->name, what);
    *tensor = mmebm__tensor_find(&network->graph, name);
    if (!*tensor)
        return mmebm__fail(context, MMEBM_E_NAME, "network '%s': %s: there is no tensor '%.100s'", network->name, what,
                           name);
    return mmebm__tensor_view_check(context, *tensor, value);
}

mmebm_status mmebm_network_get_tensor(const mmebm_network *network, const char *name, mmebm_view *value)
{
    if (!network) return MMEBM_E_ARGUMENT;
    mmebm__clear_error(network->context);
    const mmebm_tensor *tensor;
    MMEBM_TRY(find_tensor(network, "get_tensor", name, value, &tensor));
    return mmebm__view_from_host(network->context, value, 0, (int64_t)tensor->count,
                                 network->weights + tensor->offset);
}

mmebm_status mmebm_network_set_tensor(mmebm_network *network, const char *name, const mmebm_view *value)
{
    if (!network) return MMEBM_E_ARGUMENT;
    mmebm__clear_error(network->context);
    const mmebm_tensor *tensor;
    MMEBM_TRY(find_tensor(network, "set_tensor", name, value, &tensor));
    network->plan_stale = 1;
    return mmebm__view_to_host(network->context, value, 0, (int64_t)tensor->count, network->weights + tensor->offset);
}

/* ---- running */

static mmebm_status open_plan(mmebm_network *network)
{
    mmebm_context *context = network->context;
    const mmebm_graph *graph = &network->graph;
    const int64_t capacity = forward_capacity(graph);
    if (!network->plan_ports)
        MMEBM_TRY(mmebm__device_floats(context, (size_t)(capacity * port_floats(graph)), &network->plan_ports));
    if (network->plan) return MMEBM_OK;
    const mmebm_plan_spec spec = {.graph = graph, .precision = MMEBM_PRECISION_F32, .capacity = capacity};
    return context->ops->plan_create(context->device, &spec, &network->plan);
}

static mmebm_status load_weights(mmebm_network *network)
{
    if (!network->plan_stale) return MMEBM_OK;
    mmebm_context *context = network->context;
    const size_t count = network->graph.weight_count;
    float *device;
    MMEBM_TRY(mmebm__device_floats(context, count, &device));
    mmebm_status status = context->ops->upload(context->device, device, network->weights, count * sizeof(float));
    if (status == MMEBM_OK) status = context->ops->plan_load_weights(network->plan, device);
    if (status == MMEBM_OK) status = context->ops->synchronize(context->device);
    mmebm__device_free(context, device, count);
    if (status == MMEBM_OK) network->plan_stale = 0;
    return status;
}

/* Checks the views of all inputs or of all outputs; *n is their common number of tuples. */
static mmebm_status check_views(const mmebm_network *network, int is_output, const mmebm_view *views, int64_t *n)
{
    const mmebm_graph *graph = &network->graph;
    const char *kind = is_output ? "output" : "input";
    const uint32_t count = is_output ? graph->output_count : graph->input_count;
    if (!views)
        return mmebm__fail(network->context, MMEBM_E_ARGUMENT, "network '%s': forward: %ss is NULL", network->name,
                           kind);
    for (uint32_t i = 0; i < count; ++i) {
        char what[160];
        snprintf(what, sizeof what, "network '%s': forward: %s '%s'", network->name, kind,
                 is_output ? network->output_names[i] : network->input_names[i]);
        const mmebm_layer *layer = &graph->layers[is_output ? graph->outputs[i] : graph->inputs[i]];
        MMEBM_TRY(mmebm__view_check(network->context, what, mmebm__view_at(views, i), layer->rank, layer->shape, n));
    }
    return MMEBM_OK;
}

/* Rows first .. first + rows - 1 through the plan. */
static mmebm_status forward_rows(mmebm_network *network, const mmebm_view *inputs, mmebm_view *outputs, int64_t first,
                                 int64_t rows)
{
    mmebm_context *context = network->context;
    const mmebm_graph *graph = &network->graph;
    const int64_t capacity = forward_capacity(graph);
    mmebm_plan_input plan_inputs[MMEBM_MAX_PORTS];
    float *plan_outputs[MMEBM_MAX_PORTS];
    float *port = network->plan_ports;
    for (uint32_t i = 0; i < graph->input_count; ++i) {
        MMEBM_TRY(mmebm__view_upload(context, mmebm__view_at(inputs, i), first, rows, port));
        plan_inputs[i] = (mmebm_plan_input){.data = port, .period = rows};
        port += capacity * graph->layers[graph->inputs[i]].count;
    }
    for (uint32_t o = 0; o < graph->output_count; ++o) {
        plan_outputs[o] = port;
        port += capacity * graph->layers[graph->outputs[o]].count;
    }
    const mmebm_plan_run run = {.rows = rows, .inputs = plan_inputs, .outputs = plan_outputs};
    MMEBM_TRY(context->ops->plan_run(network->plan, &run));
    for (uint32_t o = 0; o < graph->output_count; ++o)
        MMEBM_TRY(mmebm__view_download(context, mmebm__view_at(outputs, o), first, rows, plan_outputs[o]));
    return MMEBM_OK;
}

mmebm_status mmebm_network_forward(mmebm_network *network, const mmebm_view *inputs, mmebm_view *outputs)
{
    if (!network) return MMEBM_E_ARGUMENT;
    mmebm__clear_error(network->context);
    if (!network->finished)
        return mmebm__fail(network->context, MMEBM_E_STATE, "network '%s': forward: it is not finished yet",
                           network->name);
    int64_t n = 0;
    MMEBM_TRY(check_views(network, 0, inputs, &n));
    MMEBM_TRY(check_views(network, 1, outputs, &n));
    MMEBM_TRY(open_plan(network));
    MMEBM_TRY(load_weights(network));
    const int64_t capacity = forward_capacity(&network->graph);
    for (int64_t first = 0; first < n; first += capacity)
        MMEBM_TRY(forward_rows(network, inputs, outputs, first, n - first < capacity ? n - first : capacity));
    return MMEBM_OK;
}

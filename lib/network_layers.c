/* SPDX-License-Identifier: Apache-2.0
 *
 * The builder's calls, one for each kind of layer: each reads its options and hands a request to mmebm__graph_append
 * (graph_append.c), which checks and infers.
 */
#include <stdio.h>
#include <string.h>

#include "network.h"
#include "struct_size.h"

/* ---- what all calls share */

/* Building is possible and the result has a place to go. */
static mmebm_status check_open(mmebm_network *network, const char *call, const mmebm_node *node)
{
    mmebm__clear_error(network->context);
    if (network->finished)
        return mmebm__fail(network->context, MMEBM_E_STATE, "network '%s': %s: it is finished, its graph is fixed",
                           network->name, call);
    if (!node)
        return mmebm__fail(network->context, MMEBM_E_ARGUMENT, "network '%s': %s: node is NULL", network->name, call);
    return MMEBM_OK;
}

static mmebm_status append(mmebm_network *network, mmebm_layer_request *request, mmebm_node *node)
{
    char owner[MMEBM_NETWORK_NAME_SIZE + 16];
    snprintf(owner, sizeof owner, "network '%s'", network->name);
    request->owner = owner;
    return mmebm__graph_append(network->context, &network->graph, request, node);
}

/* A layer with one input and without tensors. */
static mmebm_status append_plain(mmebm_network *network, const char *call, mmebm_node x, const mmebm_layer *settings,
                                 mmebm_node *node)
{
    if (!network) return MMEBM_E_ARGUMENT;
    MMEBM_TRY(check_open(network, call, node));
    mmebm_layer_request request = {.settings = *settings, .inputs = &x, .input_count = 1};
    return append(network, &request, node);
}

static mmebm_status check_bias(const mmebm_network *network, const char *call, uint32_t bias)
{
    if (bias <= 1) return MMEBM_OK;
    return mmebm__fail(network->context, MMEBM_E_ARGUMENT, "network '%s': %s: bias is %u, wanted 0 or 1", network->name,
                       call, (unsigned)bias);
}

/* ---- inputs and outputs */

/* Takes the name of input or output `index` into names; NULL means "<kind><index>". */
static mmebm_status take_port_name(const mmebm_network *network, const char *kind, const char *name, uint32_t index,
                                   char (*names)[MMEBM_PORT_NAME_SIZE])
{
    mmebm_context *context = network->context;
    char taken[MMEBM_PORT_NAME_SIZE];
    if (index >= MMEBM_MAX_PORTS)
        return mmebm__fail(context, MMEBM_E_ARGUMENT, "network '%s': there are %d %ss, which is the most",
                           network->name, MMEBM_MAX_PORTS, kind);
    if (name && !mmebm__name_valid(name, sizeof taken))
        return mmebm__fail(context, MMEBM_E_ARGUMENT,
                           "network '%s': %s: the name '%.40s' is not 1 to %d of the characters A-Z a-z 0-9 _ . -",
                           network->name, kind, name, MMEBM_PORT_NAME_SIZE - 1);
    if (name)
        snprintf(taken, sizeof taken, "%s", name);
    else
        snprintf(taken, sizeof taken, "%s%u", kind, (unsigned)index);
    for (uint32_t i = 0; i < index; ++i)
        if (strcmp(names[i], taken) == 0)
            return mmebm__fail(context, MMEBM_E_NAME, "network '%s': there is an %s '%s' already", network->name, kind,
                               taken);
    memcpy(names[index], taken, sizeof taken);
    return MMEBM_OK;
}

mmebm_status mmebm_network_input(mmebm_network *network, const char *name, uint32_t rank, const int64_t *shape,
                                 mmebm_node *node)
{
    if (!network) return MMEBM_E_ARGUMENT;
    MMEBM_TRY(check_open(network, "input", node));
    if (!shape)
        return mmebm__fail(network->context, MMEBM_E_ARGUMENT, "network '%s': input: shape is NULL", network->name);
    MMEBM_TRY(take_port_name(network, "input", name, network->graph.input_count, network->input_names));
    mmebm_layer_request request = {.settings = {.kind = MMEBM_LAYER_INPUT, .rank = rank}};
    if (rank <= MMEBM_MAX_RANK) memcpy(request.settings.shape, shape, rank * sizeof *shape); /* else it is refused */
    return append(network, &request, node);
}

mmebm_status mmebm_network_output(mmebm_network *network, mmebm_node x, const char *name)
{
    if (!network) return MMEBM_E_ARGUMENT;
    MMEBM_TRY(check_open(network, "output", &x));
    MMEBM_TRY(take_port_name(network, "output", name, network->graph.output_count, network->output_names));
    char owner[MMEBM_NETWORK_NAME_SIZE + 16];
    snprintf(owner, sizeof owner, "network '%s'", network->name);
    return mmebm__graph_output(network->context, &network->graph, owner, x);
}

/* ---- layers with weights */

static mmebm_status append_convolution(mmebm_network *network, const char *call, mmebm_layer_kind kind, mmebm_node x,
                                       const mmebm_conv2d_options *given, mmebm_node *node)
{
    if (!network) return MMEBM_E_ARGUMENT;
    MMEBM_TRY(check_open(network, call, node));
    mmebm_conv2d_options options;
    MMEBM_TRY(mmebm__struct_read(network->context, "conv2d options", given, &options, sizeof options, sizeof options));
    MMEBM_TRY(check_bias(network, call, options.bias));
    mmebm_layer_request request = {.settings = {.kind = kind, .bias = options.bias ? 0 : -1},
                                   .out_channels = options.out_channels,
                                   .name = options.name,
                                   .inputs = &x,
                                   .input_count = 1};
    memcpy(request.settings.kernel, options.kernel, sizeof options.kernel);
    memcpy(request.settings.stride, options.stride, sizeof options.stride);
    memcpy(request.settings.padding, options.padding, sizeof options.padding);
    memcpy(request.settings.output_padding, options.output_padding, sizeof options.output_padding);
    if (kind == MMEBM_LAYER_CONV2D && (options.output_padding[0] || options.output_padding[1]))
        return mmebm__fail(network->context, MMEBM_E_ARGUMENT,
                           "network '%s': conv2d: output_padding is set, which only conv_transpose2d knows",
                           network->name);
    return append(network, &request, node);
}

mmebm_status mmebm_network_conv2d(mmebm_network *network, mmebm_node x, const mmebm_conv2d_options *options,
                                  mmebm_node *node)
{
    return append_convolution(network, "conv2d", MMEBM_LAYER_CONV2D, x, options, node);
}

mmebm_status mmebm_network_conv_transpose2d(mmebm_network *network, mmebm_node x, const mmebm_conv2d_options *options,
                                            mmebm_node *node)
{
    return append_convolution(network, "conv_transpose2d", MMEBM_LAYER_CONV_TRANSPOSE2D, x, options, node);
}

mmebm_status mmebm_network_linear(mmebm_network *network, mmebm_node x, const mmebm_linear_options *given,
                                  mmebm_node *node)
{
    if (!network) return MMEBM_E_ARGUMENT;
    MMEBM_TRY(check_open(network, "linear", node));
    mmebm_linear_options options;
    MMEBM_TRY(mmebm__struct_read(network->context, "linear options", given, &options, sizeof options, sizeof options));
    MMEBM_TRY(check_bias(network, "linear", options.bias));
    if (options.reserved)
        return mmebm__fail(network->context, MMEBM_E_UNKNOWN_OPTION,
                           "network '%s': linear: options.reserved is %u, wanted 0", network->name,
                           (unsigned)options.reserved);
    mmebm_layer_request request = {
        .settings = {.kind = MMEBM_LAYER_LINEAR, .bias = options.bias ? 0 : -1, .flatten = options.flatten},
        .out_channels = options.out_features,
        .name = options.name,
        .inputs = &x,
        .input_count = 1};
    return append(network, &request, node);
}

mmebm_status mmebm_network_batch_norm(mmebm_network *network, mmebm_node x, float epsilon, float momentum,
                                      mmebm_node *node)
{
    if (!network) return MMEBM_E_ARGUMENT;
    MMEBM_TRY(check_open(network, "batch_norm", node));
    mmebm_layer_request request = {.settings = {.kind = MMEBM_LAYER_BATCH_NORM, .epsilon = epsilon},
                                   .momentum = momentum,
                                   .inputs = &x,
                                   .input_count = 1};
    return append(network, &request, node);
}

/* ---- layers without weights */

mmebm_status mmebm_network_activation(mmebm_network *network, mmebm_node x, uint32_t kind, float parameter,
                                      mmebm_node *node)
{
    const mmebm_layer settings = {.kind = MMEBM_LAYER_ACTIVATION,
                                  .activation = kind,
                                  .parameter = kind == MMEBM_LEAKY_RELU ? parameter : 0.0f};
    return append_plain(network, "activation", x, &settings, node);
}

mmebm_status mmebm_network_softmax(mmebm_network *network, mmebm_node x, mmebm_node *node)
{
    return append_plain(network, "softmax", x, &(mmebm_layer){.kind = MMEBM_LAYER_SOFTMAX}, node);
}

mmebm_status mmebm_network_avg_pool(mmebm_network *network, mmebm_node x, int64_t kernel, int64_t stride,
                                    int64_t padding, mmebm_node *node)
{
    const mmebm_layer settings = {.kind = MMEBM_LAYER_AVG_POOL,
                                  .kernel = {kernel, kernel},
                                  .stride = {stride, stride},
                                  .padding = {padding, padding}};
    return append_plain(network, "avg_pool", x, &settings, node);
}

mmebm_status mmebm_network_global_avg_pool(mmebm_network *network, mmebm_node x, mmebm_node *node)
{
    return append_plain(network, "global_avg_pool", x, &(mmebm_layer){.kind = MMEBM_LAYER_GLOBAL_AVG_POOL}, node);
}

mmebm_status mmebm_network_upsample_nearest(mmebm_network *network, mmebm_node x, int64_t factor, mmebm_node *node)
{
    return append_plain(network, "upsample_nearest", x,
                        &(mmebm_layer){.kind = MMEBM_LAYER_UPSAMPLE, .factor = factor}, node);
}

mmebm_status mmebm_network_reshape(mmebm_network *network, mmebm_node x, uint32_t rank, const int64_t *shape,
                                   mmebm_node *node)
{
    if (!network) return MMEBM_E_ARGUMENT;
    if (!shape)
        return mmebm__fail(network->context, MMEBM_E_ARGUMENT, "network '%s': reshape: shape is NULL", network->name);
    mmebm_layer settings = {.kind = MMEBM_LAYER_RESHAPE, .rank = rank};
    if (rank <= MMEBM_MAX_RANK) memcpy(settings.shape, shape, rank * sizeof *shape); /* else it is refused */
    return append_plain(network, "reshape", x, &settings, node);
}

mmebm_status mmebm_network_add(mmebm_network *network, mmebm_node a, float alpha, mmebm_node b, float beta,
                               mmebm_node *node)
{
    if (!network) return MMEBM_E_ARGUMENT;
    MMEBM_TRY(check_open(network, "add", node));
    mmebm_layer_request request = {.settings = {.kind = MMEBM_LAYER_ADD, .alpha = alpha, .beta = beta},
                                   .inputs = (const mmebm_node[]){a, b},
                                   .input_count = 2};
    return append(network, &request, node);
}

mmebm_status mmebm_network_concat(mmebm_network *network, uint32_t count, const mmebm_node *nodes, mmebm_node *node)
{
    if (!network) return MMEBM_E_ARGUMENT;
    MMEBM_TRY(check_open(network, "concat", node));
    mmebm_layer_request request = {
        .settings = {.kind = MMEBM_LAYER_CONCAT}, .inputs = nodes, .input_count = count};
    return append(network, &request, node);
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * What the tests of networks share: short forms of the options structs, a network with two inputs, and the check that a
 * refused call adds nothing, for which internal structs are looked at.
 */
#ifndef MMEBM_NETWORK_SUPPORT_H
#define MMEBM_NETWORK_SUPPORT_H

#include "api_support.h"
#include "network.h"

static inline mmebm_conv2d_options conv(int64_t out, int64_t kernel, int64_t stride, int64_t padding)
{
    mmebm_conv2d_options options;
    CHECK(mmebm_conv2d_options_init(&options) == MMEBM_OK);
    options.out_channels = out;
    for (int d = 0; d < 2; ++d) {
        options.kernel[d] = kernel;
        options.stride[d] = stride;
        options.padding[d] = padding;
    }
    return options;
}

static inline mmebm_linear_options linear(int64_t out, uint32_t flatten)
{
    mmebm_linear_options options;
    CHECK(mmebm_linear_options_init(&options) == MMEBM_OK);
    options.out_features = out;
    options.flatten = flatten;
    return options;
}

/* [a, b], or [a] if b is 0 */
static inline mmebm_view view_of(float *data, int64_t a, int64_t b)
{
    mmebm_view view;
    const int64_t shape[2] = {a, b};
    CHECK(mmebm_view_init(&view, data, b ? 2 : 1, shape) == MMEBM_OK);
    return view;
}

/* A call on network n must give `wanted`, a sentence that holds `fragment`, and leave the graph as it was. */
#define REFUSED(n, call, wanted, fragment)                                                         \
    do {                                                                                           \
        const mmebm_graph before_ = (n)->graph;                                                    \
        const mmebm_status status_ = (call);                                                       \
        CHECK_MSG(status_ == (wanted), "%s gave %s", #call, mmebm_status_name(status_));           \
        const char *sentence_ = mmebm_last_error((n)->context);                                    \
        CHECK_MSG(strstr(sentence_, (fragment)), "%s said '%s'", #call, sentence_);                \
        CHECK((n)->graph.layer_count == before_.layer_count);                                      \
        CHECK((n)->graph.edge_count == before_.edge_count);                                        \
        CHECK((n)->graph.tensor_count == before_.tensor_count);                                    \
        CHECK((n)->graph.input_count == before_.input_count);                                      \
        CHECK((n)->graph.output_count == before_.output_count);                                    \
        CHECK((n)->graph.weight_count == before_.weight_count);                                    \
    } while (0)

static const int64_t image_shape[3] = {9, 7, 4};
static const int64_t vector_shape[1] = {5};

/* Nodes 0: image [9,7,4], 1: vector [5]. */
static inline mmebm_network *open_network(mmebm_context *context)
{
    mmebm_network *network = NULL;
    mmebm_node node;
    CHECK(mmebm_network_create(context, "net", &network) == MMEBM_OK);
    CHECK(mmebm_network_input(network, "image", 3, image_shape, &node) == MMEBM_OK && node == 0);
    CHECK(mmebm_network_input(network, "vector", 1, vector_shape, &node) == MMEBM_OK && node == 1);
    return network;
}

#endif /* MMEBM_NETWORK_SUPPORT_H */

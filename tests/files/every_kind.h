/* SPDX-License-Identifier: Apache-2.0
 *
 * A network that has every kind of layer, with and without biases and names, two inputs and two outputs.
 */
#ifndef MMEBM_EVERY_KIND_H
#define MMEBM_EVERY_KIND_H

#include "mmebm.h"

/* floats of one row of its inputs and outputs */
enum { EVERY_KIND_IMAGE = 6 * 5 * 3, EVERY_KIND_VECTOR = 4, EVERY_KIND_SECOND = 6, EVERY_KIND_FIRST = 7 };

#define BUILD(call)                                                                                \
    do {                                                                                           \
        status = (call);                                                                           \
        if (status != MMEBM_OK) goto failed;                                                       \
    } while (0)

static inline mmebm_status make_every_kind(mmebm_context *context, mmebm_network **network)
{
    static const uint32_t activations[] = {MMEBM_RELU,     MMEBM_LEAKY_RELU, MMEBM_SILU,
                                           MMEBM_SOFTPLUS, MMEBM_TANH,       MMEBM_SIGMOID};
    mmebm_node image, vector, x, y, z;
    mmebm_conv2d_options conv;
    mmebm_linear_options linear;
    mmebm_status status;
    BUILD(mmebm_network_create(context, "every-kind", network));
    BUILD(mmebm_network_input(*network, "image", 3, (const int64_t[]){6, 5, 3}, &image));
    BUILD(mmebm_network_input(*network, "vector", 1, (const int64_t[]){EVERY_KIND_VECTOR}, &vector));
    BUILD(mmebm_conv2d_options_init(&conv));
    conv.out_channels = 4;
    conv.name = "stem.conv";
    conv.kernel[1] = 2;
    conv.padding[1] = 0;
    conv.stride[0] = 2;
    BUILD(mmebm_network_conv2d(*network, image, &conv, &x)); /* [3, 4, 4] */
    BUILD(mmebm_conv2d_options_init(&conv));
    conv.out_channels = 5;
    conv.bias = 0;
    conv.stride[0] = conv.stride[1] = 2;
    conv.output_padding[0] = 1;
    BUILD(mmebm_network_conv_transpose2d(*network, x, &conv, &x)); /* [6, 7, 5] */
    BUILD(mmebm_network_batch_norm(*network, x, 1e-5f, 0.1f, &x));
    for (int a = 0; a < 6; ++a) BUILD(mmebm_network_activation(*network, x, activations[a], 0.2f, &x));
    BUILD(mmebm_network_avg_pool(*network, x, 3, 2, 1, &y)); /* [3, 4, 5] */
    BUILD(mmebm_network_upsample_nearest(*network, y, 2, &y)); /* [6, 8, 5] */
    BUILD(mmebm_network_global_avg_pool(*network, y, &y)); /* [5] */
    BUILD(mmebm_linear_options_init(&linear));
    linear.out_features = 5;
    BUILD(mmebm_network_linear(*network, vector, &linear, &z));
    BUILD(mmebm_network_add(*network, y, 0.1f, z, -1.5f, &z));
    BUILD(mmebm_network_concat(*network, 2, (const mmebm_node[]){z, vector}, &z)); /* [9] */
    linear.out_features = EVERY_KIND_FIRST;
    linear.bias = 0;
    linear.name = "head-0";
    BUILD(mmebm_network_linear(*network, z, &linear, &y));
    BUILD(mmebm_network_softmax(*network, y, &y));
    BUILD(mmebm_network_reshape(*network, z, 2, (const int64_t[]){3, 3}, &z));
    linear.out_features = 2;
    linear.flatten = 0;
    linear.bias = 1;
    linear.name = "head-1";
    BUILD(mmebm_network_linear(*network, z, &linear, &z)); /* [3, 2] */
    BUILD(mmebm_network_output(*network, z, "second"));
    BUILD(mmebm_network_output(*network, y, "first"));
    return mmebm_network_finish(*network, MMEBM_INIT_PYTORCH, 3);
failed:
    mmebm_network_destroy(network);
    return status;
}
#undef BUILD

#endif /* MMEBM_EVERY_KIND_H */

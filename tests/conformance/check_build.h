/* SPDX-License-Identifier: Apache-2.0
 *
 * Layers of small graphs. Those with `x` put one on top of it.
 */
#ifndef MMEBM_TEST_CHECK_BUILD_H
#define MMEBM_TEST_CHECK_BUILD_H

#include "check.h"

static inline mmebm_status image(mmebm_network *network, int64_t size, int64_t channels, mmebm_node *node)
{
    return mmebm_network_input(network, NULL, 3, (const int64_t[]){size, size, channels}, node);
}

static inline mmebm_status convolution(mmebm_network *network, uint32_t kernel, uint32_t channels, mmebm_node *x)
{
    mmebm_conv2d_options options;
    MMEBM_TRY(mmebm_conv2d_options_init(&options));
    options.out_channels = channels;
    options.kernel[0] = options.kernel[1] = kernel;
    options.padding[0] = options.padding[1] = kernel / 2;
    return mmebm_network_conv2d(network, *x, &options, x);
}

static inline mmebm_status linear(mmebm_network *network, uint32_t features, mmebm_node *x)
{
    mmebm_linear_options options;
    MMEBM_TRY(mmebm_linear_options_init(&options));
    options.out_features = features;
    return mmebm_network_linear(network, *x, &options, x);
}

#endif /* MMEBM_TEST_CHECK_BUILD_H */

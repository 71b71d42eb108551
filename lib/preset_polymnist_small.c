/* SPDX-License-Identifier: Apache-2.0
 *
 * Preset "polymnist-small": M equal images, networks that a CPU trains in minutes (docs/training.md says how they were
 * found).
 *   energy    as "polymnist" with stems of 4x4 convolutions of stride 2 and with bias: its blocks see half the image
 *   decoder   linear to `hidden` units twice, linear to the image; leaky relu between
 *   encoder   4x4 convolutions of stride 2 to nf, 2 nf and 4 nf channels, leaky relu after each; two linear heads
 */
#include "preset.h"

static const float leaky_slope = 0.2f;

static mmebm_status halving_conv(mmebm_network *network, mmebm_node x, const char *name, int64_t out, mmebm_node *node)
{
    mmebm_conv2d_options options;
    MMEBM_TRY(mmebm_conv2d_options_init(&options));
    options.name = name;
    options.out_channels = out;
    for (int d = 0; d < 2; ++d) {
        options.kernel[d] = 4;
        options.stride[d] = 2;
    }
    return mmebm_network_conv2d(network, x, &options, node);
}

static mmebm_status leaky_relu(mmebm_network *network, mmebm_node x, mmebm_node *node)
{
    return mmebm_network_activation(network, x, MMEBM_LEAKY_RELU, leaky_slope, node);
}

static mmebm_status check(mmebm_context *context, const mmebm_preset_options *options)
{
    MMEBM_TRY(mmebm__preset_images_check(context, options));
    return mmebm__preset_need(context, "hidden", options->hidden, 1, MMEBM_PRESET_MAX_WIDTH);
}

static mmebm_status energy(mmebm_network *network, const mmebm_preset_options *options, uint32_t i)
{
    (void)i;
    return mmebm__preset_image_energy(network, options, halving_conv);
}

static mmebm_status decoder(mmebm_network *network, const mmebm_preset_options *options, uint32_t i)
{
    (void)i;
    static const char *const names[] = {"linear1", "linear2"};
    const int64_t latent[1] = {options->latent_size};
    const int64_t image[3] = {options->image_size, options->image_size, options->channels};
    mmebm_node x;
    MMEBM_TRY(mmebm_network_input(network, "z", 1, latent, &x));
    for (int layer = 0; layer < 2; ++layer) {
        MMEBM_TRY(mmebm__preset_linear(network, x, names[layer], options->hidden, 1, &x));
        MMEBM_TRY(leaky_relu(network, x, &x));
    }
    MMEBM_TRY(mmebm__preset_linear(network, x, "image", image[0] * image[1] * image[2], 1, &x));
    MMEBM_TRY(mmebm_network_reshape(network, x, 3, image, &x));
    return mmebm_network_output(network, x, "mean");
}

static mmebm_status encoder(mmebm_network *network, const mmebm_preset_options *options, uint32_t i)
{
    (void)i;
    static const char *const names[] = {"conv1", "conv2", "conv3"};
    mmebm_node x;
    MMEBM_TRY(mmebm__preset_image_input(network, options, "x", &x));
    for (int layer = 0; layer < 3; ++layer) {
        MMEBM_TRY(halving_conv(network, x, names[layer], (int64_t)options->nf << layer, &x));
        MMEBM_TRY(leaky_relu(network, x, &x));
    }
    return mmebm__preset_heads(network, x, options->latent_size);
}

const mmebm_preset mmebm__preset_polymnist_small = {.name = "polymnist-small",
                                                    .energy_initialiser = MMEBM_INIT_PYTORCH,
                                                    .check = check,
                                                    .modality = mmebm__preset_image_modality,
                                                    .energy = energy,
                                                    .decoder = decoder,
                                                    .encoder = encoder};

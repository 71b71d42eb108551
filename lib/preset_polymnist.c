/* SPDX-License-Identifier: Apache-2.0
 *
 * Preset "polymnist": M equal images.
 *   energy    a 3x3 convolution to c channels for each image, concatenated; four residual blocks of width nef, the
 *             first two of which halve the image; relu, mean over the image, linear to U. No bias anywhere.
 *             (Table 6 with rulings E1-E9)
 *   decoder   linear to [s, s, 4 nf], s = image_size / 4; residual blocks to 2 nf, nf, nf with upsampling between;
 *             leaky relu, 3x3 convolution to the image's channels, no activation     (ruling E14)
 *   encoder   its mirror, with average pools 3x3 of stride 2 and two linear heads    (ruling E14)
 */
#include <stdio.h>

#include "preset.h"

enum { MIN_IMAGE_SIZE = 8, MAX_IMAGE_SIZE = 65536, NAME_SIZE = 48 };
static const float leaky_slope = 0.2f; /* of decoders and encoders */
static const float branch_scale = 0.1f; /* of the residual branch of decoders and encoders */

mmebm_status mmebm__preset_images_check(mmebm_context *context, const mmebm_preset_options *options)
{
    MMEBM_TRY(mmebm__preset_need(context, "image_size", options->image_size, MIN_IMAGE_SIZE, MAX_IMAGE_SIZE));
    if (options->image_size % 4)
        return mmebm__fail(context, MMEBM_E_ARGUMENT, "preset options: image_size is %u, wanted a multiple of 4",
                           (unsigned)options->image_size);
    MMEBM_TRY(mmebm__preset_need(context, "channels", options->channels, 1, MMEBM_PRESET_MAX_WIDTH));
    MMEBM_TRY(mmebm__preset_need(context, "nf", options->nf, 1, MMEBM_PRESET_MAX_WIDTH));
    MMEBM_TRY(mmebm__preset_need(context, "nef", options->nef, 1, MMEBM_PRESET_MAX_WIDTH));
    return mmebm__preset_need(context, "stem_channels", options->stem_channels, 1, MMEBM_PRESET_MAX_WIDTH);
}

void mmebm__preset_image_modality(const mmebm_preset_options *options, uint32_t i, mmebm_modality *modality)
{
    (void)i;
    modality->rank = 3;
    modality->shape[0] = modality->shape[1] = options->image_size;
    modality->shape[2] = options->channels;
}

mmebm_status mmebm__preset_image_input(mmebm_network *network, const mmebm_preset_options *options, const char *name,
                                       mmebm_node *node)
{
    const int64_t shape[3] = {options->image_size, options->image_size, options->channels};
    return mmebm_network_input(network, name, 3, shape, node);
}

/* "<block>.<layer>", or "<layer>" outside blocks; the image keeps its size. */
static mmebm_status conv(mmebm_network *network, mmebm_node x, const char *block, const char *layer, int64_t kernel,
                         int64_t out, uint32_t bias, mmebm_node *node)
{
    char name[2 * NAME_SIZE];
    snprintf(name, sizeof name, "%s%s%s", block, *block ? "." : "", layer);
    mmebm_conv2d_options options;
    MMEBM_TRY(mmebm_conv2d_options_init(&options));
    options.name = name;
    options.out_channels = out;
    options.bias = bias;
    for (int d = 0; d < 2; ++d) {
        options.kernel[d] = kernel;
        options.padding[d] = kernel / 2;
    }
    return mmebm_network_conv2d(network, x, &options, node);
}

static mmebm_status channels_of(const mmebm_network *network, mmebm_node x, int64_t *channels)
{
    uint32_t rank;
    int64_t shape[MMEBM_MAX_RANK];
    MMEBM_TRY(mmebm_network_node_shape(network, x, &rank, shape));
    *channels = shape[rank - 1];
    return MMEBM_OK;
}

/* ---- energy */

enum { BLOCK_DOWN = 1, BLOCK_HEAD = 2 };

static mmebm_status relu(mmebm_network *network, mmebm_node x, mmebm_node *node)
{
    return mmebm_network_activation(network, x, MMEBM_RELU, 0.0f, node);
}

/* y = conv1(relu(conv0(relu(x)))) + shortcut(x), without the first relu in a head (E1), both halved if down. The pool
 * stands before the shortcut's 1x1 convolution, with which it commutes (E4), since that costs a quarter. */
static mmebm_status energy_block(mmebm_network *network, mmebm_node x, const char *name, int64_t out, int kind,
                                 mmebm_node *node)
{
    const int down = kind & BLOCK_DOWN;
    mmebm_node branch = x, shortcut = x;
    int64_t in;
    MMEBM_TRY(channels_of(network, x, &in));
    if (!(kind & BLOCK_HEAD)) MMEBM_TRY(relu(network, branch, &branch));
    MMEBM_TRY(conv(network, branch, name, "conv0", 3, out, 0, &branch));
    MMEBM_TRY(relu(network, branch, &branch));
    MMEBM_TRY(conv(network, branch, name, "conv1", 3, out, 0, &branch));
    if (down) {
        MMEBM_TRY(mmebm_network_avg_pool(network, branch, 2, 2, 0, &branch));
        MMEBM_TRY(mmebm_network_avg_pool(network, shortcut, 2, 2, 0, &shortcut));
    }
    if (down || in != out) MMEBM_TRY(conv(network, shortcut, name, "shortcut", 1, out, 0, &shortcut)); /* E2, E5 */
    return mmebm_network_add(network, branch, 1.0f, shortcut, 1.0f, node);
}

mmebm_status mmebm__preset_image_energy(mmebm_network *network, const mmebm_preset_options *options,
                                        mmebm_preset_stem stem)
{
    static const int blocks[] = {BLOCK_DOWN | BLOCK_HEAD, BLOCK_DOWN, 0, 0};
    mmebm_node stems[MMEBM_MAX_MODALITIES], x;
    char name[NAME_SIZE];
    for (uint32_t m = 0; m < options->n_modalities; ++m) {
        snprintf(name, sizeof name, "x%u", (unsigned)m);
        MMEBM_TRY(mmebm__preset_image_input(network, options, name, &x));
        snprintf(name, sizeof name, "stem%u", (unsigned)m);
        MMEBM_TRY(stem(network, x, name, options->stem_channels, &stems[m]));
    }
    MMEBM_TRY(mmebm_network_concat(network, options->n_modalities, stems, &x));
    for (unsigned b = 0; b < sizeof blocks / sizeof blocks[0]; ++b) {
        snprintf(name, sizeof name, "block%u", b + 1);
        MMEBM_TRY(energy_block(network, x, name, options->nef, blocks[b], &x));
    }
    MMEBM_TRY(relu(network, x, &x));
    MMEBM_TRY(mmebm_network_global_avg_pool(network, x, &x)); /* E6 */
    MMEBM_TRY(mmebm__preset_linear(network, x, "head", 1, 0, &x));
    return mmebm_network_output(network, x, "energy");
}

static mmebm_status stem(mmebm_network *network, mmebm_node x, const char *name, int64_t out, mmebm_node *node)
{
    return conv(network, x, "", name, 3, out, 0, node);
}

static mmebm_status energy(mmebm_network *network, const mmebm_preset_options *options, uint32_t i)
{
    (void)i;
    return mmebm__preset_image_energy(network, options, stem);
}

/* ---- decoders and encoders */

static mmebm_status leaky_relu(mmebm_network *network, mmebm_node x, mmebm_node *node)
{
    return mmebm_network_activation(network, x, MMEBM_LEAKY_RELU, leaky_slope, node);
}

/* y = shortcut(x) + 0.1 conv1(lrelu(conv0(lrelu(x)))), hidden width the smaller of both. */
static mmebm_status residual_block(mmebm_network *network, mmebm_node x, const char *name, int64_t out,
                                   mmebm_node *node)
{
    mmebm_node branch, shortcut = x;
    int64_t in;
    MMEBM_TRY(channels_of(network, x, &in));
    MMEBM_TRY(leaky_relu(network, x, &branch));
    MMEBM_TRY(conv(network, branch, name, "conv0", 3, in < out ? in : out, 1, &branch));
    MMEBM_TRY(leaky_relu(network, branch, &branch));
    MMEBM_TRY(conv(network, branch, name, "conv1", 3, out, 1, &branch));
    if (in != out) MMEBM_TRY(conv(network, x, name, "shortcut", 1, out, 0, &shortcut));
    return mmebm_network_add(network, shortcut, 1.0f, branch, branch_scale, node);
}

static mmebm_status decoder(mmebm_network *network, const mmebm_preset_options *options, uint32_t i)
{
    (void)i;
    const int64_t nf = options->nf, small = options->image_size / 4;
    const int64_t latent[1] = {options->latent_size}, start[3] = {small, small, 4 * nf};
    mmebm_node x;
    MMEBM_TRY(mmebm_network_input(network, "z", 1, latent, &x));
    MMEBM_TRY(mmebm__preset_linear(network, x, "start", small * small * 4 * nf, 1, &x));
    MMEBM_TRY(mmebm_network_reshape(network, x, 3, start, &x));
    MMEBM_TRY(residual_block(network, x, "block1", 2 * nf, &x));
    MMEBM_TRY(mmebm_network_upsample_nearest(network, x, 2, &x));
    MMEBM_TRY(residual_block(network, x, "block2", nf, &x));
    MMEBM_TRY(mmebm_network_upsample_nearest(network, x, 2, &x));
    MMEBM_TRY(residual_block(network, x, "block3", nf, &x));
    MMEBM_TRY(leaky_relu(network, x, &x));
    MMEBM_TRY(conv(network, x, "", "image", 3, options->channels, 1, &x));
    return mmebm_network_output(network, x, "mean");
}

static mmebm_status encoder(mmebm_network *network, const mmebm_preset_options *options, uint32_t i)
{
    (void)i;
    const int64_t nf = options->nf;
    mmebm_node x;
    MMEBM_TRY(mmebm__preset_image_input(network, options, "x", &x));
    MMEBM_TRY(conv(network, x, "", "image", 3, nf, 1, &x));
    MMEBM_TRY(residual_block(network, x, "block1", nf, &x));
    MMEBM_TRY(mmebm_network_avg_pool(network, x, 3, 2, 1, &x));
    MMEBM_TRY(residual_block(network, x, "block2", 2 * nf, &x));
    MMEBM_TRY(mmebm_network_avg_pool(network, x, 3, 2, 1, &x));
    MMEBM_TRY(residual_block(network, x, "block3", 4 * nf, &x));
    return mmebm__preset_heads(network, x, options->latent_size);
}

const mmebm_preset mmebm__preset_polymnist = {.name = "polymnist",
                                              .energy_initialiser = MMEBM_INIT_XAVIER_NORMAL,
                                              .check = mmebm__preset_images_check,
                                              .modality = mmebm__preset_image_modality,
                                              .energy = energy,
                                              .decoder = decoder,
                                              .encoder = encoder};

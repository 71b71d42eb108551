/* SPDX-License-Identifier: Apache-2.0
 *
 * Presets: models by name. A preset says what its modalities are and adds the layers of each network; preset.c does
 * the rest through the public builder, so a preset is an example of a user's own networks.
 */
#ifndef MMEBM_PRESET_H
#define MMEBM_PRESET_H

#include "network.h"

typedef struct mmebm_preset {
    const char *name;
    uint32_t energy_initialiser; /* MMEBM_INIT_*; decoders and encoders start as PyTorch's (ruling E16) */
    /* The options that this preset reads; n_modalities and latent_size were checked. */
    mmebm_status (*check)(mmebm_context *context, const mmebm_preset_options *options);
    /* Sets rank and shape of modality i; all else has its default. */
    void (*modality)(const mmebm_preset_options *options, uint32_t i, mmebm_modality *modality);
    /* Inputs, layers and outputs of one network as mmebm_model_create wants them. i: the modality; energy: 0. */
    mmebm_status (*energy)(mmebm_network *network, const mmebm_preset_options *options, uint32_t i);
    mmebm_status (*decoder)(mmebm_network *network, const mmebm_preset_options *options, uint32_t i);
    mmebm_status (*encoder)(mmebm_network *network, const mmebm_preset_options *options, uint32_t i);
} mmebm_preset;

extern const mmebm_preset mmebm__preset_polymnist;
extern const mmebm_preset mmebm__preset_polymnist_small;
extern const mmebm_preset mmebm__preset_mlp;

enum { MMEBM_PRESET_MAX_WIDTH = 65536 };
/* `found` is the option called `what`; wanted: low .. high. */
mmebm_status mmebm__preset_need(mmebm_context *context, const char *what, uint32_t found, uint32_t low, uint32_t high);

/* A linear layer over all of x. */
mmebm_status mmebm__preset_linear(mmebm_network *network, mmebm_node x, const char *name, int64_t out, uint32_t bias,
                                  mmebm_node *node);
/* Two linear layers on x, head_mean and head_scale, as the outputs of an encoder. */
mmebm_status mmebm__preset_heads(mmebm_network *network, mmebm_node x, int64_t latent_size);

/* ---- what the presets of equal images share (preset_polymnist.c) */

mmebm_status mmebm__preset_images_check(mmebm_context *context, const mmebm_preset_options *options);
void mmebm__preset_image_modality(const mmebm_preset_options *options, uint32_t i, mmebm_modality *modality);
mmebm_status mmebm__preset_image_input(mmebm_network *network, const mmebm_preset_options *options, const char *name,
                                       mmebm_node *node);
/* The first convolution of one image in the energy, to `out` channels. */
typedef mmebm_status (*mmebm_preset_stem)(mmebm_network *network, mmebm_node x, const char *name, int64_t out,
                                          mmebm_node *node);
/* Stems, concat, four residual blocks, relu, mean over the image, linear to U (Table 6). */
mmebm_status mmebm__preset_image_energy(mmebm_network *network, const mmebm_preset_options *options,
                                        mmebm_preset_stem stem);

#endif /* MMEBM_PRESET_H */

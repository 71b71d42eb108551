/* SPDX-License-Identifier: Apache-2.0
 *
 * Preset "mlp": M vectors of any lengths; each network is n_hidden times (linear to `hidden` units, SiLU), then linear.
 *   energy x_1..x_M concatenated -> U    decoder z -> x_i    encoder x_i -> mean, raw scale
 */
#include <stdio.h>

#include "preset.h"

enum { MAX_HIDDEN_LAYERS = 64 };

static mmebm_status check(mmebm_context *context, const mmebm_preset_options *options)
{
    MMEBM_TRY(mmebm__preset_need(context, "hidden", options->hidden, 1, MMEBM_PRESET_MAX_WIDTH));
    MMEBM_TRY(mmebm__preset_need(context, "n_hidden", options->n_hidden, 0, MAX_HIDDEN_LAYERS));
    if (!options->sizes)
        return mmebm__fail(context, MMEBM_E_ARGUMENT, "preset options: sizes is NULL, wanted %u vector lengths",
                           (unsigned)options->n_modalities);
    for (uint32_t i = 0; i < options->n_modalities; ++i)
        if (options->sizes[i] < 1)
            return mmebm__fail(context, MMEBM_E_ARGUMENT, "preset options: sizes[%u] is %lld, wanted 1 or more",
                               (unsigned)i, (long long)options->sizes[i]);
    return MMEBM_OK;
}

static void modality(const mmebm_preset_options *options, uint32_t i, mmebm_modality *modality)
{
    modality->rank = 1;
    modality->shape[0] = options->sizes[i];
}

/* The hidden layers "linear1", "linear2", ... */
static mmebm_status hidden_layers(mmebm_network *network, const mmebm_preset_options *options, mmebm_node x,
                                  mmebm_node *node)
{
    for (uint32_t layer = 0; layer < options->n_hidden; ++layer) {
        char name[24];
        snprintf(name, sizeof name, "linear%u", (unsigned)layer + 1);
        MMEBM_TRY(mmebm__preset_linear(network, x, name, options->hidden, 1, &x));
        MMEBM_TRY(mmebm_network_activation(network, x, MMEBM_SILU, 0.0f, &x));
    }
    *node = x;
    return MMEBM_OK;
}

static mmebm_status energy(mmebm_network *network, const mmebm_preset_options *options, uint32_t i)
{
    (void)i;
    mmebm_node inputs[MMEBM_MAX_MODALITIES], x;
    for (uint32_t m = 0; m < options->n_modalities; ++m) {
        char name[24];
        snprintf(name, sizeof name, "x%u", (unsigned)m);
        MMEBM_TRY(mmebm_network_input(network, name, 1, &options->sizes[m], &inputs[m]));
    }
    MMEBM_TRY(mmebm_network_concat(network, options->n_modalities, inputs, &x));
    MMEBM_TRY(hidden_layers(network, options, x, &x));
    MMEBM_TRY(mmebm__preset_linear(network, x, "head", 1, 1, &x));
    return mmebm_network_output(network, x, "energy");
}

static mmebm_status decoder(mmebm_network *network, const mmebm_preset_options *options, uint32_t i)
{
    const int64_t latent[1] = {options->latent_size};
    mmebm_node x;
    MMEBM_TRY(mmebm_network_input(network, "z", 1, latent, &x));
    MMEBM_TRY(hidden_layers(network, options, x, &x));
    MMEBM_TRY(mmebm__preset_linear(network, x, "head", options->sizes[i], 1, &x));
    return mmebm_network_output(network, x, "mean");
}

static mmebm_status encoder(mmebm_network *network, const mmebm_preset_options *options, uint32_t i)
{
    mmebm_node x;
    MMEBM_TRY(mmebm_network_input(network, "x", 1, &options->sizes[i], &x));
    MMEBM_TRY(hidden_layers(network, options, x, &x));
    return mmebm__preset_heads(network, x, options->latent_size);
}

const mmebm_preset mmebm__preset_mlp = {.name = "mlp",
                                        .energy_initialiser = MMEBM_INIT_XAVIER_NORMAL,
                                        .check = check,
                                        .modality = modality,
                                        .energy = energy,
                                        .decoder = decoder,
                                        .encoder = encoder};

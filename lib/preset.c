/* SPDX-License-Identifier: Apache-2.0
 *
 * mmebm_model_create_preset: builds the networks of a preset and makes the model of them. Energies start as the preset
 * says, decoders and encoders as PyTorch's do (ruling E16). Network k (0 the energy, 1 + i decoder i, 1 + M + i encoder
 * i) has the seed in words 0 (low) and 1 of random block 0 of chain k, stream MMEBM_STREAM_WEIGHTS, step 2^32 - 1, of
 * the preset's seed.
 */
#include <stdio.h>
#include <string.h>

#include "model.h"
#include "preset.h"
#include "struct_size.h"

static const mmebm_preset *const presets[] = {&mmebm__preset_polymnist, &mmebm__preset_polymnist_small,
                                              &mmebm__preset_mlp};
enum { PRESET_COUNT = sizeof presets / sizeof presets[0], MAX_NETWORKS = 1 + 2 * MMEBM_MAX_MODALITIES };

static mmebm_status find_preset(mmebm_context *context, const char *name, const mmebm_preset **preset)
{
    char known[128] = "";
    if (!name) return mmebm__fail(context, MMEBM_E_ARGUMENT, "model_create_preset: preset is NULL");
    for (int p = 0; p < PRESET_COUNT; ++p) {
        *preset = presets[p];
        if (strcmp(name, presets[p]->name) == 0) return MMEBM_OK;
        snprintf(known + strlen(known), sizeof known - strlen(known), "%s'%s'", p ? ", " : "", presets[p]->name);
    }
    return mmebm__fail(context, MMEBM_E_NAME, "model_create_preset: there is no preset '%.60s', wanted one of %s", name,
                       known);
}

mmebm_status mmebm__preset_need(mmebm_context *context, const char *what, uint32_t found, uint32_t low, uint32_t high)
{
    if (found >= low && found <= high) return MMEBM_OK;
    return mmebm__fail(context, MMEBM_E_ARGUMENT, "preset options: %s is %u, wanted %u to %u", what, (unsigned)found,
                       (unsigned)low, (unsigned)high);
}

static mmebm_status read_options(mmebm_context *context, const mmebm_preset *preset, const mmebm_preset_options *given,
                                 mmebm_preset_options *options)
{
    if (given)
        MMEBM_TRY(mmebm__struct_read(context, "preset options", given, options, sizeof *options, sizeof *options));
    else
        MMEBM_TRY(mmebm_preset_options_init(options));
    MMEBM_TRY(mmebm__preset_need(context, "n_modalities", options->n_modalities, 1, MMEBM_MAX_MODALITIES));
    MMEBM_TRY(mmebm__preset_need(context, "latent_size", options->latent_size, 1, MMEBM_PRESET_MAX_WIDTH));
    return preset->check(context, options);
}

/* ---- layers that presets share */

mmebm_status mmebm__preset_linear(mmebm_network *network, mmebm_node x, const char *name, int64_t out, uint32_t bias,
                                  mmebm_node *node)
{
    mmebm_linear_options options;
    MMEBM_TRY(mmebm_linear_options_init(&options));
    options.name = name;
    options.out_features = out;
    options.bias = bias;
    return mmebm_network_linear(network, x, &options, node);
}

mmebm_status mmebm__preset_heads(mmebm_network *network, mmebm_node x, int64_t latent_size)
{
    mmebm_node mean, scale;
    MMEBM_TRY(mmebm__preset_linear(network, x, "head_mean", latent_size, 1, &mean));
    MMEBM_TRY(mmebm__preset_linear(network, x, "head_scale", latent_size, 1, &scale));
    MMEBM_TRY(mmebm_network_output(network, mean, "mean"));
    return mmebm_network_output(network, scale, "raw_scale");
}

/* ---- the networks of a model */

static uint64_t network_seed(uint64_t seed, uint32_t k)
{
    const mmebm_philox_block block = mmebm__random_block(seed, MMEBM_STREAM_WEIGHTS, k, UINT32_MAX, 0);
    return (uint64_t)block.word[1] << 32 | block.word[0];
}

/* Network k in the order of the file's comment. On failure *network is NULL or half-built: destroy it. */
static mmebm_status build_network(mmebm_context *context, const mmebm_preset *preset,
                                  const mmebm_preset_options *options, uint32_t k, mmebm_network **network)
{
    const uint32_t modalities = options->n_modalities;
    char name[32];
    if (k == 0) {
        MMEBM_TRY(mmebm_network_create(context, "energy", network));
        MMEBM_TRY(preset->energy(*network, options, 0));
        return mmebm_network_finish(*network, preset->energy_initialiser, network_seed(options->seed, k));
    }
    const int is_decoder = k <= modalities;
    const uint32_t i = is_decoder ? k - 1 : k - 1 - modalities;
    snprintf(name, sizeof name, "%s%u", is_decoder ? "decoder" : "encoder", (unsigned)i);
    MMEBM_TRY(mmebm_network_create(context, name, network));
    MMEBM_TRY((is_decoder ? preset->decoder : preset->encoder)(*network, options, i));
    return mmebm_network_finish(*network, MMEBM_INIT_PYTORCH, network_seed(options->seed, k));
}

static mmebm_status create_model(mmebm_context *context, const mmebm_preset *preset,
                                 const mmebm_preset_options *options, mmebm_network *const *networks,
                                 mmebm_model **model)
{
    const uint32_t modalities = options->n_modalities;
    mmebm_modality list[MMEBM_MAX_MODALITIES];
    const mmebm_network *decoders[MMEBM_MAX_MODALITIES], *encoders[MMEBM_MAX_MODALITIES];
    mmebm_model_options model_options;
    MMEBM_TRY(mmebm_model_options_init(&model_options));
    for (uint32_t i = 0; i < modalities; ++i) {
        MMEBM_TRY(mmebm_modality_init(&list[i]));
        preset->modality(options, i, &list[i]);
        list[i].scale = options->likelihood_scale;
        decoders[i] = networks[1 + i];
        encoders[i] = networks[1 + modalities + i];
    }
    model_options.n_modalities = modalities;
    model_options.modalities = list;
    model_options.latent_size = options->latent_size;
    model_options.posterior_floor = options->posterior_floor;
    return mmebm_model_create(context, &model_options, networks[0], decoders, encoders, model);
}

mmebm_status mmebm_model_create_preset(mmebm_context *context, const char *name, const mmebm_preset_options *given,
                                       mmebm_model **model)
{
    if (model) *model = NULL;
    if (!context) return MMEBM_E_ARGUMENT;
    mmebm__clear_error(context);
    if (!model) return mmebm__fail(context, MMEBM_E_ARGUMENT, "model_create_preset: model is NULL");
    const mmebm_preset *preset;
    mmebm_preset_options options;
    MMEBM_TRY(find_preset(context, name, &preset));
    MMEBM_TRY(read_options(context, preset, given, &options));
    mmebm_network *networks[MAX_NETWORKS] = {NULL};
    const uint32_t count = 1 + 2 * options.n_modalities;
    mmebm_status status = MMEBM_OK;
    for (uint32_t k = 0; k < count && status == MMEBM_OK; ++k)
        status = build_network(context, preset, &options, k, &networks[k]);
    if (status == MMEBM_OK) status = create_model(context, preset, &options, networks, model);
    for (uint32_t k = 0; k < count; ++k) mmebm_network_destroy(&networks[k]);
    return status;
}

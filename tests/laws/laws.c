/* SPDX-License-Identifier: Apache-2.0 */
#include "laws.h"

static mmebm_status input(mmebm_network *network, int64_t size, mmebm_node *node)
{
    char name[16];
    snprintf(name, sizeof name, "x%u", network->graph.input_count);
    return mmebm_network_input(network, name, 1, &size, node);
}

static mmebm_status add_linear(mmebm_network *network, mmebm_node x, const char *name, int64_t out,
                               mmebm_node *node)
{
    mmebm_linear_options options;
    MMEBM_TRY(mmebm_linear_options_init(&options));
    options.out_features = out;
    options.name = name;
    return mmebm_network_linear(network, x, &options, node);
}

/* U = sum over inputs of |x|^2 / (2 scale^2), or the same of `features` linear functions of them, or, with a momentum,
 * of what batch norm makes of them: the prior layer, which has no public builder call. */
static mmebm_status make_energy(mmebm_context *context, uint32_t inputs, int64_t size, float scale, int64_t features,
                                float momentum, mmebm_network **network)
{
    mmebm_node x[MMEBM_MAX_MODALITIES], node;
    MMEBM_TRY(mmebm_network_create(context, "energy", network));
    for (uint32_t i = 0; i < inputs; ++i)
        MMEBM_TRY(input(*network, size, &x[i]));
    MMEBM_TRY(mmebm_network_concat(*network, inputs, x, &node));
    if (features) MMEBM_TRY(add_linear(*network, node, "features", features, &node));
    if (momentum > 0.0f) MMEBM_TRY(mmebm_network_batch_norm(*network, node, 1e-3f, momentum, &node));
    mmebm_layer_request request = {.owner = "energy", .input_count = 1, .inputs = &node};
    request.settings.kind = MMEBM_LAYER_PRIOR;
    request.settings.likelihood = MMEBM_GAUSSIAN;
    request.settings.scale = scale;
    MMEBM_TRY(mmebm__graph_append(context, &(*network)->graph, &request, &node));
    MMEBM_TRY(mmebm_network_output(*network, node, "u"));
    return mmebm_network_finish(*network, MMEBM_INIT_PYTORCH, 0);
}

static mmebm_status linear(mmebm_network *network, mmebm_node x, const char *name, int64_t out, mmebm_node *node)
{
    MMEBM_TRY(add_linear(network, x, name, out, node));
    return mmebm_network_output(network, *node, name);
}

static mmebm_status fill_tensor(mmebm_network *network, const char *name, uint64_t seed, float scale)
{
    uint32_t rank;
    int64_t shape[MMEBM_MAX_RANK], count = 1;
    for (uint32_t t = 0; t < network->graph.tensor_count; ++t) {
        const char *found;
        MMEBM_TRY(mmebm_network_tensor_info(network, t, &found, &rank, shape));
        if (strcmp(found, name) == 0) break;
    }
    for (uint32_t a = 0; a < rank; ++a)
        count *= shape[a];
    float *values = malloc((size_t)count * sizeof *values);
    for (int64_t k = 0; k < count; ++k)
        values[k] = scale * test_number(seed, (uint32_t)k);
    const mmebm_view view = view_of(values, rank, shape);
    const mmebm_status status = mmebm_network_set_tensor(network, name, &view);
    free(values);
    return status;
}

static mmebm_status make_decoder(mmebm_context *context, uint32_t i, int64_t size, int64_t latent,
                                 mmebm_network **network)
{
    mmebm_node x;
    MMEBM_TRY(mmebm_network_create(context, "decoder", network));
    MMEBM_TRY(input(*network, latent, &x));
    MMEBM_TRY(linear(*network, x, "mean", size, &x));
    MMEBM_TRY(mmebm_network_finish(*network, MMEBM_INIT_PYTORCH, 0));
    MMEBM_TRY(fill_tensor(*network, "mean.weight", 10 + i, 1.0f));
    return fill_tensor(*network, "mean.bias", 20 + i, 0.5f);
}

static mmebm_status make_encoder(mmebm_context *context, int64_t size, int64_t latent, mmebm_network **network)
{
    mmebm_node x, out;
    MMEBM_TRY(mmebm_network_create(context, "encoder", network));
    MMEBM_TRY(input(*network, size, &x));
    MMEBM_TRY(linear(*network, x, "mean", latent, &out));
    MMEBM_TRY(linear(*network, x, "scale", latent, &out));
    MMEBM_TRY(mmebm_network_finish(*network, MMEBM_INIT_PYTORCH, 0));
    const char *const names[] = {"mean.weight", "mean.bias", "scale.weight", "scale.bias"};
    for (size_t k = 0; k < sizeof names / sizeof *names; ++k)
        MMEBM_TRY(fill_tensor(*network, names[k], 0, 0.0f));
    return MMEBM_OK;
}

static mmebm_model *assemble(mmebm_context *context, uint32_t modalities, int64_t size, uint32_t latent, float sigma,
                             float energy_scale, int64_t features, float momentum)
{
    mmebm_network *networks[1 + 2 * MMEBM_MAX_MODALITIES] = {NULL};
    mmebm_modality list[MMEBM_MAX_MODALITIES];
    mmebm_model_options options;
    mmebm_model *model = NULL;
    mmebm_status status = mmebm_model_options_init(&options);
    if (status == MMEBM_OK)
        status = make_energy(context, modalities, size, energy_scale, features, momentum, &networks[0]);
    for (uint32_t i = 0; i < modalities && status == MMEBM_OK; ++i) {
        status = make_decoder(context, i, size, latent, &networks[1 + i]);
        if (status == MMEBM_OK) status = make_encoder(context, size, latent, &networks[1 + modalities + i]);
        if (status == MMEBM_OK) status = mmebm_modality_init(&list[i]);
        list[i].rank = 1;
        list[i].shape[0] = size;
        list[i].scale = sigma;
    }
    options.n_modalities = modalities;
    options.modalities = list;
    options.latent_size = latent;
    if (status == MMEBM_OK)
        status = mmebm_model_create(context, &options, networks[0], (const mmebm_network *const *)networks + 1,
                                    (const mmebm_network *const *)networks + 1 + modalities, &model);
    if (status != MMEBM_OK) printf("  toy model: %s\n", mmebm_last_error(context));
    for (size_t k = 0; k < sizeof networks / sizeof *networks; ++k)
        mmebm_network_destroy(&networks[k]);
    return model;
}

mmebm_model *make_quadratic_model(mmebm_context *context, int64_t size, float scale)
{
    return assemble(context, 1, size, 1, 1.0f, scale, 0, 0.0f);
}

mmebm_model *make_gaussian_model(mmebm_context *context, uint32_t modalities, int64_t size, uint32_t latent,
                                 float sigma)
{
    return assemble(context, modalities, size, latent, sigma, 1.0f, 0, 0.0f);
}

mmebm_model *make_feature_model(mmebm_context *context, int64_t size, int64_t features)
{
    return assemble(context, 1, size, 1, 1.0f, 1.0f, features, 0.0f);
}

mmebm_model *make_normalised_model(mmebm_context *context, int64_t size, float momentum)
{
    return assemble(context, 1, size, 1, 1.0f, 1.0f, 0, momentum);
}

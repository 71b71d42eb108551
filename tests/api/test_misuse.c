/* SPDX-License-Identifier: Apache-2.0
 *
 * Misuse of every public call: NULL, wrong shape, wrong dtype, n = 0, numbers that are not finite, masks without a
 * modality, unknown names, the wrong order. Each line of the tables below must give its status and, where there is an
 * object to ask, a sentence; after each table every object must still work and give the bits that it gave before.
 * (Struct sizes: test_options.c. Views in all detail: test_views.c. Files: tests/files.)
 */
#include "api_support.h"

enum { ROWS = 3 };

typedef struct scene {
    mmebm_context *context;
    mmebm_network *open;                       /* still being built */
    mmebm_network *finished, *energy, *encoder; /* from [2] to [2], [1], and two times [2] */
    mmebm_node image, vector;       /* inputs of `open`, [4, 4, 3] and [5] */
    mmebm_model *model;
    mmebm_sampler *sampler;
    mmebm_trainer *trainer;
    small_data data;
    float energies[ROWS]; /* of data.x before any misuse */
} scene;

/* ---- the scene */

static void scene_close(scene *on)
{
    mmebm_trainer_destroy(&on->trainer);
    mmebm_sampler_destroy(&on->sampler);
    mmebm_model_destroy(&on->model);
    mmebm_network_destroy(&on->open);
    mmebm_network_destroy(&on->finished);
    mmebm_network_destroy(&on->energy);
    mmebm_network_destroy(&on->encoder);
    mmebm_context_destroy(&on->context);
}

/* From [2] to `outputs` times [size], linear, tensors "y0.weight", "y0.bias", "y1.weight", ... */
static int make_finished(mmebm_context *context, int outputs, int64_t size, mmebm_network **network)
{
    static const char *const names[2] = {"y0", "y1"};
    const int64_t shape[1] = {2};
    mmebm_node x = 0, node = 0;
    mmebm_linear_options linear;
    int made = mmebm_linear_options_init(&linear) == MMEBM_OK &&
               mmebm_network_create(context, "finished", network) == MMEBM_OK &&
               mmebm_network_input(*network, "x", 1, shape, &x) == MMEBM_OK;
    linear.out_features = size;
    for (int i = 0; made && i < outputs; ++i) {
        linear.name = names[i];
        made = mmebm_network_linear(*network, x, &linear, &node) == MMEBM_OK &&
               mmebm_network_output(*network, node, names[i]) == MMEBM_OK;
    }
    return made && mmebm_network_finish(*network, MMEBM_INIT_PYTORCH, 1) == MMEBM_OK;
}

static mmebm_status make_trainer(scene *on, mmebm_trainer **trainer)
{
    mmebm_trainer_options options;
    mmebm_status status = mmebm_trainer_options_init(&options, "default");
    if (status != MMEBM_OK) return status;
    options.batch = ROWS;
    options.langevin_x.n_steps = options.langevin_z.n_steps = 2;
    return mmebm_trainer_create(on->model, &options, trainer);
}

static int scene_open(scene *on)
{
    memset(on, 0, sizeof *on);
    const int64_t image[3] = {4, 4, 3}, vector[1] = {5};
    on->context = open_context(NULL);
    const int opened = on->context && (on->model = small_model(on->context)) != NULL &&
                       mmebm_sampler_create(on->model, NULL, &on->sampler) == MMEBM_OK &&
                       mmebm_network_create(on->context, "open", &on->open) == MMEBM_OK &&
                       mmebm_network_input(on->open, "image", 3, image, &on->image) == MMEBM_OK &&
                       mmebm_network_input(on->open, "vector", 1, vector, &on->vector) == MMEBM_OK &&
                       make_finished(on->context, 1, 2, &on->finished) &&
                       make_finished(on->context, 1, 1, &on->energy) &&
                       make_finished(on->context, 2, 2, &on->encoder) &&
                       small_data_init(&on->data, ROWS) == MMEBM_OK &&
                       mmebm_sampler_energy(on->sampler, on->data.x, &on->data.energy) == MMEBM_OK;
    CHECK(opened);
    memcpy(on->energies, on->data.energy_values, sizeof on->energies);
    return opened;
}

/* Every object answers, the model with the bits of before (its weights are untouched). */
static void check_usable(scene *on)
{
    mmebm_node node = 0;
    float values[2] = {0.5f, -1.0f}, results[2] = {0};
    const int64_t shape[2] = {1, 2};
    mmebm_view input, output;
    CHECK(small_data_init(&on->data, ROWS) == MMEBM_OK);
    CHECK(mmebm_sampler_energy(on->sampler, on->data.x, &on->data.energy) == MMEBM_OK);
    CHECK(!memcmp(on->energies, on->data.energy_values, sizeof on->energies));
    CHECK(!mmebm_last_error(on->context)[0]);
    CHECK(mmebm_network_activation(on->open, on->vector, MMEBM_RELU, 0.0f, &node) == MMEBM_OK);
    CHECK(mmebm_view_init(&input, values, 2, shape) == MMEBM_OK);
    CHECK(mmebm_view_init(&output, results, 2, shape) == MMEBM_OK);
    CHECK(mmebm_network_forward(on->finished, &input, &output) == MMEBM_OK);
    if (on->trainer) CHECK(mmebm_trainer_step(on->trainer, on->data.x) == MMEBM_OK);
}

static void check_refusal(const scene *on, const char *call, int line, mmebm_status found, mmebm_status wanted,
                          int with_sentence)
{
    const char *sentence = mmebm_last_error(on->context);
    CHECK_MSG(found == wanted, "line %d, %.90s: %s, wanted %s", line, call, mmebm_status_name(found),
              mmebm_status_name(wanted));
    if (!with_sentence) return;
    CHECK_MSG(strlen(sentence) > 10 && !strchr(sentence, '\n'), "line %d, %.90s: '%s'", line, call, sentence);
}

/* A call that must fail with that status and a sentence; NULL_OBJECT: without an object there is nobody to ask. */
#define REFUSES(status, call) check_refusal(on, #call, __LINE__, (call), MMEBM_E_##status, 1)
#define NULL_OBJECT(call) check_refusal(on, #call, __LINE__, (call), MMEBM_E_ARGUMENT, 0)

/* A test on a fresh scene: `table` is called, then all must still work. */
static void with_scene(void (*table)(scene *on))
{
    scene on;
    if (scene_open(&on)) {
        table(&on);
        check_usable(&on);
    }
    scene_close(&on);
}

/* ---- networks */

static void misuse_builder(scene *on)
{
    mmebm_node node = 77;
    mmebm_network *made = NULL;
    const int64_t good[4] = {4, 4, 3, 1}, zero[3] = {4, 0, 3}, negative[1] = {-5}, huge[2] = {INT64_MAX, 2};
    NULL_OBJECT(mmebm_network_create(NULL, "n", &made));
    REFUSES(ARGUMENT, mmebm_network_create(on->context, "n", NULL));
    REFUSES(ARGUMENT, mmebm_network_create(on->context, "with space", &made));
    NULL_OBJECT(mmebm_network_input(NULL, "x", 3, good, &node));
    REFUSES(ARGUMENT, mmebm_network_input(on->open, "x", 3, NULL, &node));
    REFUSES(ARGUMENT, mmebm_network_input(on->open, "x", 3, good, NULL));
    REFUSES(NAME, mmebm_network_input(on->open, "image", 3, good, &node));
    REFUSES(ARGUMENT, mmebm_network_input(on->open, "x", 0, good, &node));
    REFUSES(ARGUMENT, mmebm_network_input(on->open, "x", 4, good, &node));
    REFUSES(SHAPE, mmebm_network_input(on->open, "x", 3, zero, &node));
    REFUSES(SHAPE, mmebm_network_input(on->open, "x", 1, negative, &node));
    REFUSES(SHAPE, mmebm_network_input(on->open, "x", 2, huge, &node));
    NULL_OBJECT(mmebm_network_output(NULL, on->image, "y"));
    REFUSES(ARGUMENT, mmebm_network_output(on->open, -1, "y"));
    REFUSES(ARGUMENT, mmebm_network_output(on->open, 1000, "y"));
    NULL_OBJECT(mmebm_network_finish(NULL, MMEBM_INIT_PYTORCH, 0));
    REFUSES(STATE, mmebm_network_finish(on->open, MMEBM_INIT_PYTORCH, 0)); /* no output */
    REFUSES(ARGUMENT, mmebm_network_finish(on->open, 9, 0));
    REFUSES(STATE, mmebm_network_finish(on->finished, MMEBM_INIT_PYTORCH, 0));
    REFUSES(STATE, mmebm_network_input(on->finished, "z", 3, good, &node));
    REFUSES(STATE, mmebm_network_softmax(on->finished, 0, &node));
    REFUSES(STATE, mmebm_network_output(on->finished, 0, "z"));
    uint32_t rank = 0;
    int64_t shape[MMEBM_MAX_RANK];
    NULL_OBJECT(mmebm_network_node_shape(NULL, 0, &rank, shape));
    REFUSES(ARGUMENT, mmebm_network_node_shape(on->open, 5000, &rank, shape));
    CHECK(node == 77 && !made);
    mmebm_network_destroy(NULL);
    mmebm_network_destroy(&made);
}
TEST(builder)
{
    with_scene(misuse_builder);
}

/* Calls conv2d (or its transpose) with one number changed. */
static mmebm_status convolve(scene *on, int transpose, int64_t out, int64_t kernel, int64_t stride, int64_t padding,
                             int64_t output_padding)
{
    mmebm_conv2d_options options;
    mmebm_node node = 0;
    mmebm_status status = mmebm_conv2d_options_init(&options);
    if (status != MMEBM_OK) return status;
    options.out_channels = out;
    options.kernel[1] = kernel;
    options.stride[0] = stride;
    options.padding[1] = padding;
    options.output_padding[0] = output_padding;
    return transpose ? mmebm_network_conv_transpose2d(on->open, on->image, &options, &node)
                     : mmebm_network_conv2d(on->open, on->image, &options, &node);
}

static mmebm_status linear_of(scene *on, int64_t out, uint32_t bias, uint32_t flatten, const char *name)
{
    mmebm_linear_options options;
    mmebm_node node = 0;
    mmebm_status status = mmebm_linear_options_init(&options);
    if (status != MMEBM_OK) return status;
    options.out_features = out;
    options.bias = bias;
    options.flatten = flatten;
    options.name = name;
    return mmebm_network_linear(on->open, on->vector, &options, &node);
}

static void misuse_weighted_layers(scene *on)
{
    mmebm_node node = 0;
    mmebm_conv2d_options conv;
    mmebm_linear_options linear;
    CHECK(mmebm_conv2d_options_init(&conv) == MMEBM_OK && mmebm_linear_options_init(&linear) == MMEBM_OK);
    conv.out_channels = 2;
    linear.out_features = 2;
    NULL_OBJECT(mmebm_network_conv2d(NULL, 0, &conv, &node));
    NULL_OBJECT(mmebm_network_conv_transpose2d(NULL, 0, &conv, &node));
    NULL_OBJECT(mmebm_network_linear(NULL, 0, &linear, &node));
    REFUSES(ARGUMENT, mmebm_network_conv2d(on->open, on->image, NULL, &node));
    REFUSES(ARGUMENT, mmebm_network_conv2d(on->open, on->image, &conv, NULL));
    REFUSES(ARGUMENT, mmebm_network_conv2d(on->open, -1, &conv, &node));
    REFUSES(SHAPE, mmebm_network_conv2d(on->open, on->vector, &conv, &node));
    REFUSES(ARGUMENT, mmebm_network_conv_transpose2d(on->open, on->image, NULL, &node));
    REFUSES(ARGUMENT, mmebm_network_linear(on->open, on->image, NULL, &node));
    REFUSES(ARGUMENT, mmebm_network_linear(on->open, on->image, &linear, NULL));
    REFUSES(ARGUMENT, mmebm_network_linear(on->open, 99, &linear, &node));
    for (int transpose = 0; transpose < 2; ++transpose) {
        REFUSES(ARGUMENT, convolve(on, transpose, 0, 3, 1, 1, 0));
        REFUSES(ARGUMENT, convolve(on, transpose, -2, 3, 1, 1, 0));
        REFUSES(ARGUMENT, convolve(on, transpose, 2, 0, 1, 1, 0));
        REFUSES(ARGUMENT, convolve(on, transpose, 2, 3, 0, 1, 0));
        REFUSES(ARGUMENT, convolve(on, transpose, 2, 3, 1, -1, 0));
        REFUSES(ARGUMENT, convolve(on, transpose, INT64_MAX, 3, 1, 1, 0));
        REFUSES(ARGUMENT, convolve(on, transpose, 2, INT64_MAX, 1, 1, 0));
    }
    REFUSES(SHAPE, convolve(on, 0, 2, 7, 1, 1, 0)); /* kernel 7 over a width of 4 + 2 */
    REFUSES(ARGUMENT, convolve(on, 1, 2, 3, 1, 1, -1));
    REFUSES(ARGUMENT, linear_of(on, 0, 1, 1, NULL));
    REFUSES(ARGUMENT, linear_of(on, INT64_MAX, 1, 1, NULL));
    REFUSES(ARGUMENT, linear_of(on, 2, 2, 1, NULL));
    REFUSES(ARGUMENT, linear_of(on, 2, 1, 2, NULL));
    REFUSES(ARGUMENT, linear_of(on, 2, 1, 1, "a name/with a slash"));
    CHECK(linear_of(on, 2, 1, 1, "twice") == MMEBM_OK);
    REFUSES(NAME, linear_of(on, 2, 1, 1, "twice"));
}
TEST(layers_with_weights)
{
    with_scene(misuse_weighted_layers);
}

static void misuse_other_layers(scene *on)
{
    mmebm_node node = 0;
    const mmebm_node mixed[2] = {on->image, on->vector}, unknown[2] = {on->image, 500};
    const int64_t shape[2] = {6, 8}, wrong[2] = {6, 9}, zero[2] = {0, 48};
    NULL_OBJECT(mmebm_network_activation(NULL, 0, MMEBM_RELU, 0.0f, &node));
    NULL_OBJECT(mmebm_network_softmax(NULL, 0, &node));
    NULL_OBJECT(mmebm_network_avg_pool(NULL, 0, 2, 2, 0, &node));
    NULL_OBJECT(mmebm_network_global_avg_pool(NULL, 0, &node));
    NULL_OBJECT(mmebm_network_upsample_nearest(NULL, 0, 2, &node));
    NULL_OBJECT(mmebm_network_add(NULL, 0, 1.0f, 0, 1.0f, &node));
    NULL_OBJECT(mmebm_network_concat(NULL, 2, mixed, &node));
    NULL_OBJECT(mmebm_network_reshape(NULL, 0, 2, shape, &node));
    NULL_OBJECT(mmebm_network_batch_norm(NULL, 0, 1e-5f, 0.1f, &node));
    REFUSES(ARGUMENT, mmebm_network_activation(on->open, on->image, 0, 0.0f, &node));
    REFUSES(ARGUMENT, mmebm_network_activation(on->open, on->image, 7, 0.0f, &node));
    REFUSES(ARGUMENT, mmebm_network_activation(on->open, on->image, MMEBM_LEAKY_RELU, 0.0f, &node));
    REFUSES(ARGUMENT, mmebm_network_activation(on->open, on->image, MMEBM_LEAKY_RELU, 1.0f, &node));
    REFUSES(ARGUMENT, mmebm_network_activation(on->open, on->image, MMEBM_LEAKY_RELU, NAN, &node));
    REFUSES(ARGUMENT, mmebm_network_activation(on->open, on->image, MMEBM_RELU, 0.0f, NULL));
    REFUSES(ARGUMENT, mmebm_network_activation(on->open, 500, MMEBM_RELU, 0.0f, &node));
    REFUSES(ARGUMENT, mmebm_network_softmax(on->open, -3, &node));
    REFUSES(SHAPE, mmebm_network_avg_pool(on->open, on->vector, 2, 2, 0, &node));
    REFUSES(ARGUMENT, mmebm_network_avg_pool(on->open, on->image, 0, 2, 0, &node));
    REFUSES(ARGUMENT, mmebm_network_avg_pool(on->open, on->image, 2, 0, 0, &node));
    REFUSES(ARGUMENT, mmebm_network_avg_pool(on->open, on->image, 3, 2, 2, &node)); /* 2 padding > kernel */
    REFUSES(SHAPE, mmebm_network_avg_pool(on->open, on->image, 5, 1, 0, &node));
    REFUSES(SHAPE, mmebm_network_global_avg_pool(on->open, on->vector, &node));
    REFUSES(ARGUMENT, mmebm_network_upsample_nearest(on->open, on->image, 0, &node));
    REFUSES(ARGUMENT, mmebm_network_upsample_nearest(on->open, on->image, INT64_MAX, &node));
    REFUSES(SHAPE, mmebm_network_add(on->open, on->image, 1.0f, on->vector, 1.0f, &node));
    REFUSES(ARGUMENT, mmebm_network_add(on->open, on->image, INFINITY, on->image, 1.0f, &node));
    REFUSES(ARGUMENT, mmebm_network_add(on->open, on->image, 1.0f, 500, 1.0f, &node));
    REFUSES(SHAPE, mmebm_network_concat(on->open, 2, mixed, &node));
    REFUSES(ARGUMENT, mmebm_network_concat(on->open, 2, unknown, &node));
    REFUSES(ARGUMENT, mmebm_network_concat(on->open, 2, NULL, &node));
    REFUSES(ARGUMENT, mmebm_network_concat(on->open, 0, mixed, &node));
    REFUSES(SHAPE, mmebm_network_reshape(on->open, on->image, 2, wrong, &node));
    REFUSES(SHAPE, mmebm_network_reshape(on->open, on->image, 2, zero, &node));
    REFUSES(ARGUMENT, mmebm_network_reshape(on->open, on->image, 9, shape, &node));
    REFUSES(ARGUMENT, mmebm_network_reshape(on->open, on->image, 2, NULL, &node));
    REFUSES(ARGUMENT, mmebm_network_batch_norm(on->open, on->image, 0.0f, 0.1f, &node));
    REFUSES(ARGUMENT, mmebm_network_batch_norm(on->open, on->image, NAN, 0.1f, &node));
    REFUSES(ARGUMENT, mmebm_network_batch_norm(on->open, on->image, 1e-5f, 0.0f, &node));
    REFUSES(ARGUMENT, mmebm_network_batch_norm(on->open, on->image, 1e-5f, 1.5f, &node));
}
TEST(layers_without_weights)
{
    with_scene(misuse_other_layers);
}

static void misuse_network_values(scene *on)
{
    float values[4] = {1, 2, 3, 4};
    const int64_t square[2] = {2, 2}, flat[1] = {4}, none[2] = {0, 2};
    mmebm_view view, bf16, wrong, empty;
    CHECK(mmebm_view_init(&view, values, 2, square) == MMEBM_OK);
    CHECK(mmebm_view_init(&wrong, values, 1, flat) == MMEBM_OK);
    CHECK(mmebm_view_init(&empty, values, 2, none) == MMEBM_OK);
    bf16 = view;
    bf16.dtype = MMEBM_BF16;
    CHECK(mmebm_network_tensor_count(NULL) == 0);
    NULL_OBJECT(mmebm_network_tensor_info(NULL, 0, NULL, NULL, NULL));
    REFUSES(ARGUMENT, mmebm_network_tensor_info(on->finished, 2, NULL, NULL, NULL));
    CHECK(mmebm_network_tensor_info(on->finished, 1, NULL, NULL, NULL) == MMEBM_OK);
    NULL_OBJECT(mmebm_network_get_tensor(NULL, "y0.weight", &view));
    NULL_OBJECT(mmebm_network_set_tensor(NULL, "y0.weight", &view));
    REFUSES(ARGUMENT, mmebm_network_get_tensor(on->finished, NULL, &view));
    REFUSES(ARGUMENT, mmebm_network_get_tensor(on->finished, "y0.weight", NULL));
    REFUSES(NAME, mmebm_network_get_tensor(on->finished, "y0", &view));
    REFUSES(SHAPE, mmebm_network_get_tensor(on->finished, "y0.weight", &wrong));
    REFUSES(DTYPE, mmebm_network_get_tensor(on->finished, "y0.weight", &bf16));
    REFUSES(ARGUMENT, mmebm_network_set_tensor(on->finished, "y0.weight", NULL));
    REFUSES(NAME, mmebm_network_set_tensor(on->finished, "", &view));
    REFUSES(SHAPE, mmebm_network_set_tensor(on->finished, "y0.bias", &view));
    REFUSES(STATE, mmebm_network_get_tensor(on->open, "y0.weight", &view));
    REFUSES(STATE, mmebm_network_set_tensor(on->open, "y0.weight", &view));
    NULL_OBJECT(mmebm_network_forward(NULL, &view, &view));
    REFUSES(ARGUMENT, mmebm_network_forward(on->finished, NULL, &view));
    REFUSES(ARGUMENT, mmebm_network_forward(on->finished, &view, NULL));
    REFUSES(SHAPE, mmebm_network_forward(on->finished, &wrong, &view));
    REFUSES(SHAPE, mmebm_network_forward(on->finished, &view, &wrong));
    REFUSES(SHAPE, mmebm_network_forward(on->finished, &empty, &empty));
    REFUSES(DTYPE, mmebm_network_forward(on->finished, &bf16, &view));
    REFUSES(STATE, mmebm_network_forward(on->open, &view, &view));
}
TEST(tensors_and_forward)
{
    with_scene(misuse_network_values);
}

/* ---- models */

/* What mmebm_model_create takes, one modality of [2]. */
typedef struct model_parts {
    mmebm_model_options options;
    mmebm_modality modality;
    const mmebm_network *energy, *decoder, *encoder;
} model_parts;

static model_parts good_parts(const scene *on)
{
    model_parts parts = {.energy = on->energy, .decoder = on->finished, .encoder = on->encoder};
    CHECK(mmebm_model_options_init(&parts.options) == MMEBM_OK && mmebm_modality_init(&parts.modality) == MMEBM_OK);
    parts.modality.rank = 1;
    parts.modality.shape[0] = 2;
    parts.options.n_modalities = 1;
    parts.options.latent_size = 2;
    return parts;
}

/* modalities: 0 leaves options.modalities NULL. */
static mmebm_status create_from(scene *on, model_parts *parts, int modalities)
{
    mmebm_model *made = NULL;
    parts->options.modalities = modalities ? &parts->modality : NULL;
    const mmebm_status status = mmebm_model_create(on->context, &parts->options, parts->energy, &parts->decoder,
                                                   &parts->encoder, &made);
    CHECK((status == MMEBM_OK) == (made != NULL));
    mmebm_model_destroy(&made);
    return status;
}

static void misuse_model_create(scene *on)
{
    mmebm_model *made = NULL;
    model_parts parts = good_parts(on);
    CHECK(create_from(on, &parts, 1) == MMEBM_OK);
    const mmebm_model_options *options = &parts.options;
    NULL_OBJECT(mmebm_model_create(NULL, options, parts.energy, &parts.decoder, &parts.encoder, &made));
    REFUSES(ARGUMENT, mmebm_model_create(on->context, NULL, parts.energy, &parts.decoder, &parts.encoder, &made));
    REFUSES(ARGUMENT, mmebm_model_create(on->context, options, NULL, &parts.decoder, &parts.encoder, &made));
    REFUSES(ARGUMENT, mmebm_model_create(on->context, options, parts.energy, NULL, &parts.encoder, &made));
    REFUSES(ARGUMENT, mmebm_model_create(on->context, options, parts.energy, &parts.decoder, NULL, &made));
    REFUSES(ARGUMENT, mmebm_model_create(on->context, options, parts.energy, &parts.decoder, &parts.encoder, NULL));
    REFUSES(ARGUMENT, create_from(on, &parts, 0));
#define PARTS_WITH(status, change)                                                                 \
    parts = good_parts(on);                                                                        \
    change;                                                                                        \
    REFUSES(status, create_from(on, &parts, 1))
    PARTS_WITH(ARGUMENT, parts.encoder = NULL);
    PARTS_WITH(STATE, parts.decoder = on->open);
    PARTS_WITH(SHAPE, parts.energy = on->finished);
    PARTS_WITH(SHAPE, parts.decoder = on->energy);
    PARTS_WITH(SHAPE, parts.encoder = on->finished);
    PARTS_WITH(SHAPE, parts.options.latent_size = 3);
    PARTS_WITH(ARGUMENT, parts.options.n_modalities = 0);
    PARTS_WITH(ARGUMENT, parts.options.n_modalities = MMEBM_MAX_MODALITIES + 1);
    PARTS_WITH(ARGUMENT, parts.options.latent_size = 0);
    PARTS_WITH(ARGUMENT, parts.options.prior = 9);
    PARTS_WITH(ARGUMENT, parts.options.prior_scale = 0.0f);
    PARTS_WITH(ARGUMENT, parts.options.prior_scale = NAN);
    PARTS_WITH(ARGUMENT, parts.options.posterior = MMEBM_CATEGORICAL);
    PARTS_WITH(ARGUMENT, parts.options.posterior_scale = 0);
    PARTS_WITH(ARGUMENT, parts.options.posterior_floor = -1.0f);
    PARTS_WITH(ARGUMENT, parts.modality.likelihood = 0);
    PARTS_WITH(SHAPE, parts.modality.rank = 0);
    PARTS_WITH(SHAPE, parts.modality.rank = 4);
    PARTS_WITH(SHAPE, parts.modality.shape[0] = 0);
    PARTS_WITH(SHAPE, parts.modality.shape[0] = 3);
    PARTS_WITH(ARGUMENT, parts.modality.scale = 0.0f);
    PARTS_WITH(ARGUMENT, parts.modality.scale = INFINITY);
    PARTS_WITH(ARGUMENT, parts.modality.weight = -1.0f);
    PARTS_WITH(ARGUMENT, parts.modality.data_max = -1.0f);
    PARTS_WITH(ARGUMENT, parts.modality.name = "no/slash");
    PARTS_WITH(UNKNOWN_OPTION, parts.modality.reserved = 1);
    PARTS_WITH(STRUCT_SIZE, parts.modality.struct_size = 8);
#undef PARTS_WITH
    CHECK(!made);
}
TEST(model_create)
{
    with_scene(misuse_model_create);
}

static void misuse_presets(scene *on)
{
    mmebm_model *made = NULL;
    mmebm_preset_options options;
    CHECK(mmebm_preset_options_init(&options) == MMEBM_OK);
    const mmebm_preset_options defaults = options;
    NULL_OBJECT(mmebm_model_create_preset(NULL, "mlp", NULL, &made));
    REFUSES(ARGUMENT, mmebm_model_create_preset(on->context, NULL, NULL, &made));
    REFUSES(ARGUMENT, mmebm_model_create_preset(on->context, "polymnist", NULL, NULL));
    REFUSES(NAME, mmebm_model_create_preset(on->context, "", NULL, &made));
    REFUSES(NAME, mmebm_model_create_preset(on->context, "Polymnist", NULL, &made));
    REFUSES(NAME, mmebm_model_create_preset(on->context, "%n%s", NULL, &made));
    REFUSES(ARGUMENT, mmebm_model_create_preset(on->context, "mlp", NULL, &made)); /* no sizes */
    const int64_t wrong_sizes[5] = {3, 2, 0, 1, 1};
#define WITH_OPTION(preset, change)                                                                \
    options = defaults;                                                                            \
    change;                                                                                        \
    REFUSES(ARGUMENT, mmebm_model_create_preset(on->context, preset, &options, &made))
    WITH_OPTION("mlp", options.sizes = wrong_sizes);
    WITH_OPTION("polymnist", options.n_modalities = 0);
    WITH_OPTION("polymnist", options.n_modalities = MMEBM_MAX_MODALITIES + 1);
    WITH_OPTION("polymnist", options.latent_size = 0);
    WITH_OPTION("polymnist", options.image_size = 30);
    WITH_OPTION("polymnist", options.image_size = 4);
    WITH_OPTION("polymnist", options.image_size = UINT32_MAX - 3);
    WITH_OPTION("polymnist", options.channels = 0);
    WITH_OPTION("polymnist", options.nf = 0);
    WITH_OPTION("polymnist", options.nef = 0);
    WITH_OPTION("polymnist", options.stem_channels = UINT32_MAX);
    WITH_OPTION("polymnist", options.likelihood_scale = 0.0f);
    WITH_OPTION("polymnist", options.posterior_floor = NAN);
#undef WITH_OPTION
    CHECK(!made);
}
TEST(presets)
{
    with_scene(misuse_presets);
}

static void misuse_model_values(scene *on)
{
    mmebm_modality modality;
    CHECK(mmebm_modality_init(&modality) == MMEBM_OK);
    CHECK(mmebm_model_modality_count(NULL) == 0 && mmebm_model_latent_size(NULL) == 0);
    CHECK(mmebm_model_tensor_count(NULL) == 0);
    NULL_OBJECT(mmebm_model_modality(NULL, 0, &modality));
    REFUSES(ARGUMENT, mmebm_model_modality(on->model, SMALL_MODALITIES, &modality));
    REFUSES(ARGUMENT, mmebm_model_modality(on->model, 0, NULL));
    mmebm_model_options options;
    CHECK(mmebm_model_options_init(&options) == MMEBM_OK);
    NULL_OBJECT(mmebm_model_get_options(NULL, &options));
    REFUSES(ARGUMENT, mmebm_model_get_options(on->model, NULL));
    const uint32_t count = mmebm_model_tensor_count(on->model);
    NULL_OBJECT(mmebm_model_tensor_info(NULL, 0, NULL, NULL, NULL));
    REFUSES(ARGUMENT, mmebm_model_tensor_info(on->model, count, NULL, NULL, NULL));
    REFUSES(ARGUMENT, mmebm_model_tensor_info(on->model, UINT32_MAX, NULL, NULL, NULL));
    const char *name = NULL;
    CHECK(mmebm_model_tensor_info(on->model, 0, &name, NULL, NULL) == MMEBM_OK && name);
    NULL_OBJECT(mmebm_model_get_tensor(NULL, name, &on->data.z));
    NULL_OBJECT(mmebm_model_set_tensor(NULL, name, &on->data.z));
    REFUSES(ARGUMENT, mmebm_model_get_tensor(on->model, NULL, &on->data.z));
    REFUSES(ARGUMENT, mmebm_model_get_tensor(on->model, name, NULL));
    REFUSES(NAME, mmebm_model_get_tensor(on->model, "no.such", &on->data.z));
    REFUSES(SHAPE, mmebm_model_get_tensor(on->model, name, &on->data.chains));
    REFUSES(ARGUMENT, mmebm_model_set_tensor(on->model, name, NULL));
    REFUSES(NAME, mmebm_model_set_tensor(on->model, "energy", &on->data.z));
    REFUSES(SHAPE, mmebm_model_set_tensor(on->model, name, &on->data.chains));
    mmebm_model_destroy(NULL);
}
TEST(model_questions)
{
    with_scene(misuse_model_values);
}

static void misuse_files(scene *on)
{
    mmebm_model *model = NULL;
    mmebm_network *network = NULL;
    mmebm_trainer *trainer = NULL;
    mmebm_save_options save;
    CHECK(mmebm_save_options_init(&save) == MMEBM_OK);
    const char *path = "/nonexistent/folder/model.safetensors";
    NULL_OBJECT(mmebm_model_save(NULL, path, NULL));
    REFUSES(ARGUMENT, mmebm_model_save(on->model, NULL, NULL));
    REFUSES(IO, mmebm_model_save(on->model, path, NULL));
    REFUSES(IO, mmebm_model_save(on->model, "", NULL));
    save.dtype = 9;
    REFUSES(ARGUMENT, mmebm_model_save(on->model, path, &save));
    save.dtype = MMEBM_F32;
    save.gzip = 2;
    REFUSES(ARGUMENT, mmebm_model_save(on->model, path, &save));
    save.gzip = 0;
    save.reserved = 1;
    REFUSES(UNKNOWN_OPTION, mmebm_model_save(on->model, path, &save));
    NULL_OBJECT(mmebm_model_load(NULL, path, &model));
    REFUSES(ARGUMENT, mmebm_model_load(on->context, NULL, &model));
    REFUSES(ARGUMENT, mmebm_model_load(on->context, path, NULL));
    REFUSES(IO, mmebm_model_load(on->context, path, &model));
    REFUSES(IO, mmebm_model_load(on->context, "/", &model));
    NULL_OBJECT(mmebm_network_save(NULL, path, NULL));
    REFUSES(ARGUMENT, mmebm_network_save(on->finished, NULL, NULL));
    REFUSES(STATE, mmebm_network_save(on->open, path, NULL));
    REFUSES(IO, mmebm_network_save(on->finished, path, NULL));
    NULL_OBJECT(mmebm_network_load(NULL, path, &network));
    REFUSES(ARGUMENT, mmebm_network_load(on->context, NULL, &network));
    REFUSES(ARGUMENT, mmebm_network_load(on->context, path, NULL));
    REFUSES(IO, mmebm_network_load(on->context, path, &network));
    NULL_OBJECT(mmebm_trainer_save(NULL, path, NULL));
    NULL_OBJECT(mmebm_trainer_load(NULL, path, &model, &trainer));
    REFUSES(ARGUMENT, mmebm_trainer_load(on->context, NULL, &model, &trainer));
    REFUSES(ARGUMENT, mmebm_trainer_load(on->context, path, NULL, &trainer));
    REFUSES(ARGUMENT, mmebm_trainer_load(on->context, path, &model, NULL));
    REFUSES(IO, mmebm_trainer_load(on->context, path, &model, &trainer));
    CHECK(!model && !network && !trainer);
}
TEST(files)
{
    with_scene(misuse_files);
}

/* ---- samplers */

static void misuse_sampler_create(scene *on)
{
    mmebm_sampler *made = NULL;
    mmebm_sampler_options options;
    CHECK(mmebm_sampler_options_init(&options) == MMEBM_OK);
    NULL_OBJECT(mmebm_sampler_create(NULL, &options, &made));
    REFUSES(ARGUMENT, mmebm_sampler_create(on->model, &options, NULL));
    options.capacity = 0;
    REFUSES(ARGUMENT, mmebm_sampler_create(on->model, &options, &made));
    options.capacity = 65537;
    REFUSES(ARGUMENT, mmebm_sampler_create(on->model, &options, &made));
    options.capacity = 4;
    options.precision = 4;
    REFUSES(ARGUMENT, mmebm_sampler_create(on->model, &options, &made));
    options.precision = MMEBM_PRECISION_TF32;
    if (strcmp(mmebm_context_backend(on->context), "cuda") != 0)
        REFUSES(UNSUPPORTED, mmebm_sampler_create(on->model, &options, &made));
    options.precision = MMEBM_PRECISION_F32;
    options.reserved = 1;
    REFUSES(UNKNOWN_OPTION, mmebm_sampler_create(on->model, &options, &made));
    CHECK(!made && mmebm_sampler_workspace_size(NULL) == 0);
    NULL_OBJECT(mmebm_sampler_prepare(NULL, 1));
    REFUSES(ARGUMENT, mmebm_sampler_prepare(on->sampler, 4));
    REFUSES(ARGUMENT, mmebm_sampler_prepare(on->sampler, UINT64_MAX));
    mmebm_sampler_destroy(NULL);
    mmebm_sampler_destroy(&made);
}
TEST(sampler_create)
{
    with_scene(misuse_sampler_create);
}

static void misuse_evaluation(scene *on)
{
    small_data *d = &on->data;
    mmebm_sampler *s = on->sampler;
    NULL_OBJECT(mmebm_sampler_energy(NULL, d->x, &d->energy));
    NULL_OBJECT(mmebm_sampler_score(NULL, d->x, 1.0f, d->score));
    NULL_OBJECT(mmebm_sampler_encode(NULL, 0, d->x, &d->mean, &d->scale));
    NULL_OBJECT(mmebm_sampler_encode_draw(NULL, 0, MMEBM_START_MEAN, 0, 0, d->x, &d->chains));
    NULL_OBJECT(mmebm_sampler_generate(NULL, &d->z, d->x));
    REFUSES(ARGUMENT, mmebm_sampler_energy(s, NULL, &d->energy));
    REFUSES(ARGUMENT, mmebm_sampler_energy(s, d->x, NULL));
    REFUSES(SHAPE, mmebm_sampler_energy(s, d->x, &d->z));
    REFUSES(ARGUMENT, mmebm_sampler_score(s, NULL, 1.0f, d->score));
    REFUSES(ARGUMENT, mmebm_sampler_score(s, d->x, 1.0f, NULL));
    REFUSES(ARGUMENT, mmebm_sampler_score(s, d->x, 0.0f, d->score));
    REFUSES(ARGUMENT, mmebm_sampler_score(s, d->x, -1.0f, d->score));
    REFUSES(ARGUMENT, mmebm_sampler_score(s, d->x, NAN, d->score));
    REFUSES(ARGUMENT, mmebm_sampler_score(s, d->x, INFINITY, d->score));
    REFUSES(ARGUMENT, mmebm_sampler_encode(s, SMALL_MODALITIES, d->x, &d->mean, &d->scale));
    REFUSES(ARGUMENT, mmebm_sampler_encode(s, 0, NULL, &d->mean, &d->scale));
    REFUSES(ARGUMENT, mmebm_sampler_encode(s, 0, d->x, NULL, &d->scale));
    REFUSES(ARGUMENT, mmebm_sampler_encode(s, 0, d->x, &d->mean, NULL));
    REFUSES(SHAPE, mmebm_sampler_encode(s, 1, d->x, &d->mean, &d->scale)); /* x_0 for modality 1 */
    REFUSES(ARGUMENT, mmebm_sampler_encode_draw(s, 0, 0, 0, 0, d->x, &d->chains));
    REFUSES(ARGUMENT, mmebm_sampler_encode_draw(s, 0, MMEBM_START_MEAN, 0, 0, NULL, &d->chains));
    REFUSES(ARGUMENT, mmebm_sampler_encode_draw(s, 0, MMEBM_START_MEAN, 0, 0, d->x, NULL));
    REFUSES(ARGUMENT, mmebm_sampler_encode_draw(s, 0, MMEBM_START_AVERAGE + 1, 0, 0, d->x, &d->chains));
    REFUSES(ARGUMENT, mmebm_sampler_encode_draw(s, 4, MMEBM_START_MEAN, 0, 0, d->x, &d->chains));
    REFUSES(ARGUMENT, mmebm_sampler_encode_draw(s, UINT64_MAX, MMEBM_START_MEAN, 0, 0, d->x, &d->chains));
    REFUSES(SHAPE, mmebm_sampler_encode_draw(s, 1, MMEBM_START_MEAN, 0, 0, d->x, &d->chains)); /* 1 expert, 2 wide */
    REFUSES(ARGUMENT, mmebm_sampler_generate(s, NULL, d->x));
    REFUSES(ARGUMENT, mmebm_sampler_generate(s, &d->z, NULL));
    REFUSES(SHAPE, mmebm_sampler_generate(s, &d->energy, d->x));
    /* shapes within x, one change at a time */
    d->x[1].shape[0] = ROWS - 1;
    REFUSES(SHAPE, mmebm_sampler_energy(s, d->x, &d->energy));
    d->x[0].shape[0] = d->x[1].shape[0] = 0;
    REFUSES(SHAPE, mmebm_sampler_energy(s, d->x, &d->energy));
    d->x[0].shape[0] = d->x[1].shape[0] = ROWS;
    d->x[1].shape[1] = 3;
    REFUSES(SHAPE, mmebm_sampler_score(s, d->x, 1.0f, d->score));
    d->x[1].shape[1] = 2;
    d->x[1].dtype = MMEBM_BF16;
    REFUSES(DTYPE, mmebm_sampler_energy(s, d->x, &d->energy));
    d->x[1].dtype = MMEBM_F32;
    d->x[1].data = NULL;
    REFUSES(ARGUMENT, mmebm_sampler_energy(s, d->x, &d->energy));
}
TEST(evaluation)
{
    with_scene(misuse_evaluation);
}

/* One option of a chain changed at a time; `call` runs the chain with `options`. */
#define WITH_CHAIN(status, call, change)                                                           \
    options = good;                                                                                \
    change;                                                                                        \
    REFUSES(status, call)

static void misuse_langevin_x(scene *on)
{
    small_data *d = &on->data;
    mmebm_langevin_options options;
    CHECK(mmebm_langevin_x_options_init(&options) == MMEBM_OK);
    const mmebm_langevin_options good = options;
    const float wrong_steps[SMALL_MODALITIES] = {0.1f, NAN}, wrong_noise[SMALL_MODALITIES] = {0.1f, -0.1f};
    NULL_OBJECT(mmebm_sampler_langevin_x(NULL, &options, d->x, NULL));
    REFUSES(ARGUMENT, mmebm_sampler_langevin_x(on->sampler, &options, NULL, NULL));
#define X_WITH(status, change) WITH_CHAIN(status, mmebm_sampler_langevin_x(on->sampler, &options, d->x, NULL), change)
    X_WITH(ARGUMENT, options.step_size = NAN);
    X_WITH(ARGUMENT, options.step_size = INFINITY);
    X_WITH(ARGUMENT, options.step_size = -0.1f);
    X_WITH(ARGUMENT, options.noise_scale = NAN);
    X_WITH(ARGUMENT, options.noise_scale = -0.1f);
    X_WITH(ARGUMENT, options.step_sizes = wrong_steps);
    X_WITH(ARGUMENT, options.noise_scales = wrong_noise);
    X_WITH(ARGUMENT, options.drift_clamp = -1.0f);
    X_WITH(ARGUMENT, options.drift_norm_clip = NAN);
    X_WITH(ARGUMENT, options.observed = 4);
    X_WITH(ARGUMENT, options.observed = 3); /* nothing left to revise */
    X_WITH(ARGUMENT, options.state_min = 1.0f);
    X_WITH(ARGUMENT, options.state_max = INFINITY);
    X_WITH(ARGUMENT, options.trajectory_stride = 0);
    X_WITH(ARGUMENT, options.prior_temperature = 1.0f); /* of a chain of latents */
    X_WITH(ARGUMENT, options.method = 7);
    X_WITH(UNSUPPORTED, options.method = MMEBM_MALA);
    X_WITH(ARGUMENT, options.n_steps = UINT32_MAX);
    X_WITH(UNKNOWN_OPTION, options.reserved = 1);
    X_WITH(SHAPE, d->x[0].shape[1] = 4);
#undef X_WITH
    CHECK(small_data_init(d, ROWS) == MMEBM_OK);
}
TEST(langevin_x)
{
    with_scene(misuse_langevin_x);
}

static void misuse_langevin_z(scene *on)
{
    small_data *d = &on->data;
    mmebm_langevin_options options;
    CHECK(mmebm_langevin_z_options_init(&options) == MMEBM_OK);
    const mmebm_langevin_options good = options;
    const float steps[SMALL_MODALITIES] = {0.1f, 0.1f};
    NULL_OBJECT(mmebm_sampler_langevin_z(NULL, &options, d->x, &d->z, NULL));
    REFUSES(ARGUMENT, mmebm_sampler_langevin_z(on->sampler, &options, NULL, &d->z, NULL));
    REFUSES(ARGUMENT, mmebm_sampler_langevin_z(on->sampler, &options, d->x, NULL, NULL));
#define Z_WITH(status, change)                                                                     \
    WITH_CHAIN(status, mmebm_sampler_langevin_z(on->sampler, &options, d->x, &d->z, NULL), change)
    Z_WITH(ARGUMENT, options.step_size = NAN);
    Z_WITH(ARGUMENT, options.step_size = -INFINITY);
    Z_WITH(ARGUMENT, options.noise_scale = INFINITY);
    Z_WITH(ARGUMENT, options.step_sizes = steps);
    Z_WITH(ARGUMENT, options.state_max = 1.0f);
    Z_WITH(ARGUMENT, options.observed = 4);
    Z_WITH(ARGUMENT, options.reduction = 0);
    Z_WITH(ARGUMENT, options.method = 0);
    Z_WITH(ARGUMENT, (options.method = MMEBM_MALA, options.noise_scale = 0.2f));
    Z_WITH(ARGUMENT, options.trajectory_stride = 0);
    Z_WITH(ARGUMENT, options.prior_temperature = -1.0f);
    Z_WITH(ARGUMENT, options.prior_temperature = NAN);
    Z_WITH(ARGUMENT, options.prior_temperature = 1e-40f);
    Z_WITH(UNKNOWN_OPTION, options.reserved = 1);
    Z_WITH(SHAPE, d->z.shape[1] = 1);
    Z_WITH(SHAPE, d->z.shape[0] = ROWS + 1);
#undef Z_WITH
    d->chains.shape[0] = SMALL_MODALITIES + 1; /* more chains a tuple than experts */
    options = good;
    REFUSES(SHAPE, mmebm_sampler_langevin_z(on->sampler, &options, d->x, &d->chains, NULL));
    CHECK(small_data_init(d, ROWS) == MMEBM_OK);
}
TEST(langevin_z)
{
    with_scene(misuse_langevin_z);
}

static void misuse_langevin_prior(scene *on)
{
    small_data *d = &on->data;
    mmebm_langevin_options options;
    CHECK(mmebm_langevin_z_options_init(&options) == MMEBM_OK);
    options.prior_temperature = 1.0f;
    const mmebm_langevin_options good = options;
    NULL_OBJECT(mmebm_sampler_langevin_prior(NULL, &options, &d->z, NULL));
    REFUSES(ARGUMENT, mmebm_sampler_langevin_prior(on->sampler, &options, NULL, NULL));
    REFUSES(ARGUMENT, mmebm_sampler_langevin_prior(on->sampler, NULL, &d->z, NULL)); /* without a temperature */
#define PRIOR_WITH(status, change)                                                                 \
    WITH_CHAIN(status, mmebm_sampler_langevin_prior(on->sampler, &options, &d->z, NULL), change)
    PRIOR_WITH(ARGUMENT, options.prior_temperature = 0.0f);
    PRIOR_WITH(ARGUMENT, options.prior_temperature = -1.0f);
    PRIOR_WITH(ARGUMENT, options.prior_temperature = NAN);
    PRIOR_WITH(ARGUMENT, options.prior_temperature = INFINITY);
    PRIOR_WITH(ARGUMENT, options.prior_temperature = 1e-40f);
    PRIOR_WITH(ARGUMENT, options.step_size = NAN);
    PRIOR_WITH(ARGUMENT, options.observed = 1);
    PRIOR_WITH(ARGUMENT, options.reduction = MMEBM_REDUCE_MEAN);
    PRIOR_WITH(ARGUMENT, options.state_max = 1.0f);
    PRIOR_WITH(ARGUMENT, (options.method = MMEBM_MALA, options.noise_scale = 0.2f));
    PRIOR_WITH(UNKNOWN_OPTION, options.reserved = 1);
    PRIOR_WITH(UNKNOWN_OPTION, options.reserved1 = 1);
    PRIOR_WITH(SHAPE, d->z.shape[1] = 1);
#undef PRIOR_WITH
    CHECK(small_data_init(d, ROWS) == MMEBM_OK);
    options = good;
    REFUSES(SHAPE, mmebm_sampler_langevin_prior(on->sampler, &options, &d->chains, NULL)); /* wants rank 2 */
}
TEST(langevin_prior)
{
    with_scene(misuse_langevin_prior);
}

static void misuse_records(scene *on)
{
    small_data *d = &on->data;
    mmebm_langevin_options options;
    mmebm_chain_record record;
    CHECK(mmebm_langevin_z_options_init(&options) == MMEBM_OK && mmebm_chain_record_init(&record) == MMEBM_OK);
    options.n_steps = 2;
    record.energy = &d->energy; /* wanted [3, n] */
    REFUSES(SHAPE, mmebm_sampler_langevin_z(on->sampler, &options, d->x, &d->z, &record));
    record.energy = NULL;
    record.trajectory = &d->z; /* wanted [3, n, D] */
    REFUSES(SHAPE, mmebm_sampler_langevin_z(on->sampler, &options, d->x, &d->z, &record));
    REFUSES(SHAPE, mmebm_sampler_langevin_x(on->sampler, &options, d->x, &record));
    record.trajectory = NULL;
    record.acceptance = &d->z; /* wanted [n] */
    REFUSES(SHAPE, mmebm_sampler_langevin_z(on->sampler, &options, d->x, &d->z, &record));
    record.acceptance = NULL;
    record.reserved = 1;
    REFUSES(UNKNOWN_OPTION, mmebm_sampler_langevin_z(on->sampler, &options, d->x, &d->z, &record));
}
TEST(records)
{
    with_scene(misuse_records);
}

static void misuse_samples(scene *on)
{
    small_data *d = &on->data;
    mmebm_sampler *s = on->sampler;
    mmebm_sample_options options;
    mmebm_langevin_options chain;
    mmebm_latent_mixture mixture;
    CHECK(mmebm_sample_options_init(&options) == MMEBM_OK && mmebm_langevin_x_options_init(&chain) == MMEBM_OK);
    CHECK(mmebm_latent_mixture_init(&mixture) == MMEBM_OK);
    NULL_OBJECT(mmebm_sampler_sample(NULL, &options, d->x));
    NULL_OBJECT(mmebm_sampler_sample_given(NULL, &options, d->x));
    REFUSES(ARGUMENT, mmebm_sampler_sample(s, &options, NULL));
    REFUSES(ARGUMENT, mmebm_sampler_sample_given(s, NULL, d->x)); /* no modality is given */
    REFUSES(ARGUMENT, mmebm_sampler_sample_given(s, &options, d->x));
    options.observed = 4;
    REFUSES(ARGUMENT, mmebm_sampler_sample_given(s, &options, d->x));
    options.observed = 3; /* nothing is missing */
    REFUSES(ARGUMENT, mmebm_sampler_sample_given(s, &options, d->x));
    options.observed = 1;
    REFUSES(ARGUMENT, mmebm_sampler_sample_given(s, &options, NULL));
    options.start = 0;
    REFUSES(ARGUMENT, mmebm_sampler_sample_given(s, &options, d->x));
    options.start = MMEBM_START_AVERAGE + 1;
    REFUSES(ARGUMENT, mmebm_sampler_sample_given(s, &options, d->x));
    options.start = MMEBM_START_MEAN;
    chain.step_size = NAN;
    options.langevin_x = &chain;
    REFUSES(ARGUMENT, mmebm_sampler_sample_given(s, &options, d->x));
    chain.struct_size = 3;
    REFUSES(STRUCT_SIZE, mmebm_sampler_sample_given(s, &options, d->x));
    options.langevin_x = NULL;
    options.langevin_z = &chain;
    REFUSES(STRUCT_SIZE, mmebm_sampler_sample_given(s, &options, d->x));
    options.langevin_z = NULL;
    options.all_experts = 1; /* of chains that are not asked for */
    REFUSES(ARGUMENT, mmebm_sampler_sample_given(s, &options, d->x));
    REFUSES(ARGUMENT, mmebm_sampler_sample(s, &options, d->x));
    CHECK(mmebm_langevin_z_options_init(&chain) == MMEBM_OK);
    options.langevin_z = &chain;
    options.all_experts = 2;
    REFUSES(ARGUMENT, mmebm_sampler_sample_given(s, &options, d->x));
    options.all_experts = 0;
    options.langevin_z = NULL;
    options.reserved = 1;
    REFUSES(UNKNOWN_OPTION, mmebm_sampler_sample_given(s, &options, d->x));
    options.reserved = 0;
    options.reserved1 = 1;
    REFUSES(UNKNOWN_OPTION, mmebm_sampler_sample_given(s, &options, d->x));
    options.reserved1 = 0;
    options.guidance = -1.0f;
    REFUSES(ARGUMENT, mmebm_sampler_sample_given(s, &options, d->x));
    options.guidance = INFINITY;
    REFUSES(ARGUMENT, mmebm_sampler_sample_given(s, &options, d->x));
    options.observed = 0;
    options.guidance = 2.0f; /* of nothing that is given */
    REFUSES(ARGUMENT, mmebm_sampler_sample(s, &options, d->x));
    options.guidance = 0.0f;
    options.langevin_z = &chain; /* at no temperature */
    REFUSES(ARGUMENT, mmebm_sampler_sample(s, &options, d->x));
    chain.prior_temperature = -1.0f;
    REFUSES(ARGUMENT, mmebm_sampler_sample(s, &options, d->x));
    chain.prior_temperature = 1.0f;
    options.prior = &mixture; /* only p0 is tilted */
    REFUSES(ARGUMENT, mmebm_sampler_sample(s, &options, d->x));
    options.prior = NULL;
    options.all_experts = 1; /* there are none without anything given */
    REFUSES(ARGUMENT, mmebm_sampler_sample(s, &options, d->x));
    options.all_experts = 0;
    options.langevin_z = NULL;
    d->x[0].shape[0] = ROWS + 2;
    REFUSES(SHAPE, mmebm_sampler_sample(s, &options, d->x));
}
TEST(samples)
{
    with_scene(misuse_samples);
}

static void misuse_model_calls(scene *on)
{
    small_data *d = &on->data;
    mmebm_sample_options given;
    CHECK(mmebm_sample_options_init(&given) == MMEBM_OK);
    NULL_OBJECT(mmebm_energy(NULL, d->x, &d->energy));
    NULL_OBJECT(mmebm_score(NULL, d->x, 1.0f, d->score));
    NULL_OBJECT(mmebm_encode(NULL, 0, d->x, &d->mean, &d->scale));
    NULL_OBJECT(mmebm_generate(NULL, &d->z, d->x));
    NULL_OBJECT(mmebm_langevin_x(NULL, NULL, d->x, NULL));
    NULL_OBJECT(mmebm_langevin_z(NULL, NULL, d->x, &d->z, NULL));
    NULL_OBJECT(mmebm_sample(NULL, NULL, d->x));
    NULL_OBJECT(mmebm_sample_given(NULL, NULL, d->x));
    REFUSES(ARGUMENT, mmebm_energy(on->model, NULL, &d->energy));
    REFUSES(ARGUMENT, mmebm_energy(on->model, d->x, NULL));
    REFUSES(ARGUMENT, mmebm_score(on->model, d->x, 0.0f, d->score));
    REFUSES(ARGUMENT, mmebm_encode(on->model, 9, d->x, &d->mean, &d->scale));
    REFUSES(ARGUMENT, mmebm_generate(on->model, NULL, d->x));
    REFUSES(ARGUMENT, mmebm_langevin_x(on->model, NULL, NULL, NULL));
    REFUSES(ARGUMENT, mmebm_langevin_z(on->model, NULL, NULL, &d->z, NULL));
    REFUSES(ARGUMENT, mmebm_sample(on->model, NULL, NULL));
    REFUSES(ARGUMENT, mmebm_sample_given(on->model, NULL, d->x));
    REFUSES(ARGUMENT, mmebm_sample_given(on->model, &given, d->x));
}
TEST(calls_on_the_model)
{
    with_scene(misuse_model_calls);
}

/* ---- training */

static void misuse_trainer_create(scene *on)
{
    mmebm_trainer *made = NULL;
    mmebm_trainer_options options;
    CHECK(mmebm_trainer_options_init(&options, "default") == MMEBM_OK);
    const mmebm_trainer_options good = options;
    NULL_OBJECT(mmebm_trainer_create(NULL, &options, &made));
    REFUSES(ARGUMENT, mmebm_trainer_create(on->model, &options, NULL));
    CHECK(mmebm_trainer_options_init_sized(&options, sizeof options, NULL) == MMEBM_E_ARGUMENT);
#define WITH_OPTION(status, change)                                                                \
    options = good;                                                                                \
    change;                                                                                        \
    REFUSES(status, mmebm_trainer_create(on->model, &options, &made))
    WITH_OPTION(ARGUMENT, options.batch = 0);
    WITH_OPTION(ARGUMENT, options.batch = UINT32_MAX);
    WITH_OPTION(ARGUMENT, options.precision = 5);
    WITH_OPTION(ARGUMENT, options.stratified = 2);
    WITH_OPTION(ARGUMENT, options.energy.rate = NAN);
    WITH_OPTION(ARGUMENT, options.generator.rate = -1.0f);
    WITH_OPTION(ARGUMENT, options.inference.beta1 = 1.0f);
    WITH_OPTION(ARGUMENT, options.inference.beta2 = INFINITY);
    WITH_OPTION(ARGUMENT, options.energy.epsilon = -1e-8f);
    WITH_OPTION(ARGUMENT, options.energy.clip_norm = NAN);
    WITH_OPTION(ARGUMENT, options.energy.spectral_norm = 2);
    WITH_OPTION(ARGUMENT, options.langevin_x.step_size = NAN);
    WITH_OPTION(ARGUMENT, options.langevin_x.method = MMEBM_MALA);
    WITH_OPTION(ARGUMENT, options.langevin_z.step_size = INFINITY);
    WITH_OPTION(ARGUMENT, options.langevin_z.reduction = 9);
    WITH_OPTION(ARGUMENT, options.langevin_z.n_steps = UINT32_MAX);
    WITH_OPTION(UNKNOWN_OPTION, options.langevin_z.reserved = 1);
    WITH_OPTION(ARGUMENT, options.weight_reconstruction = NAN);
    WITH_OPTION(ARGUMENT, options.energy_penalty = -1.0f);
    WITH_OPTION(ARGUMENT, options.weight_mismatched = -1.0f);
    WITH_OPTION(ARGUMENT, (options.weight_mismatched = 1.0f, options.batch = 1));
    WITH_OPTION(ARGUMENT, options.prior_temperature = -1.0f);
    WITH_OPTION(ARGUMENT, options.prior_temperature = NAN);
    WITH_OPTION(ARGUMENT, options.prior_temperature = 1e-40f);
    WITH_OPTION(ARGUMENT, (options.prior_temperature = 20.0f, options.langevin_prior.method = MMEBM_MALA));
    WITH_OPTION(ARGUMENT, (options.prior_temperature = 20.0f, options.langevin_prior.step_size = 0.0f));
    WITH_OPTION(UNKNOWN_OPTION, (options.prior_temperature = 20.0f, options.langevin_prior.reserved = 1));
    WITH_OPTION(ARGUMENT, options.temperature = -1.0f);
    WITH_OPTION(ARGUMENT, options.data_noise = NAN);
    WITH_OPTION(ARGUMENT, options.ema = 1.0f);
    WITH_OPTION(ARGUMENT, options.schedule_end = NAN);
    WITH_OPTION(UNKNOWN_OPTION, options.reserved = 1);
    WITH_OPTION(UNKNOWN_OPTION, options.reserved1 = 1);
#undef WITH_OPTION
    CHECK(!made);
    mmebm_trainer_destroy(NULL);
    mmebm_trainer_destroy(&made);
}
TEST(trainer_create)
{
    with_scene(misuse_trainer_create);
}

static void misuse_trainer(scene *on)
{
    small_data *d = &on->data;
    double value = 0.0;
    char state[16];
    size_t size = sizeof state;
    NULL_OBJECT(mmebm_trainer_step(NULL, d->x));
    NULL_OBJECT(mmebm_trainer_diagnostic(NULL, "step", &value));
    NULL_OBJECT(mmebm_trainer_copy_average(NULL, on->model));
    NULL_OBJECT(mmebm_trainer_set_user_state(NULL, state, 1));
    NULL_OBJECT(mmebm_trainer_get_user_state(NULL, state, &size));
    CHECK(make_trainer(on, &on->trainer) == MMEBM_OK);
    if (!on->trainer) return;
    REFUSES(ARGUMENT, mmebm_trainer_step(on->trainer, NULL));
    d->x[0].shape[0] = d->x[1].shape[0] = ROWS + 1;
    REFUSES(SHAPE, mmebm_trainer_step(on->trainer, d->x));
    d->x[0].shape[0] = d->x[1].shape[0] = ROWS;
    d->x_values[1][2] = NAN;
    REFUSES(ARGUMENT, mmebm_trainer_step(on->trainer, d->x));
    d->x_values[1][2] = -INFINITY;
    REFUSES(ARGUMENT, mmebm_trainer_step(on->trainer, d->x));
    REFUSES(ARGUMENT, mmebm_trainer_diagnostic(on->trainer, NULL, &value));
    REFUSES(ARGUMENT, mmebm_trainer_diagnostic(on->trainer, "step", NULL));
    REFUSES(NAME, mmebm_trainer_diagnostic(on->trainer, "no such", &value));
    CHECK(mmebm_trainer_diagnostic_name(0) != NULL);
    CHECK(mmebm_trainer_diagnostic_name(mmebm_trainer_diagnostic_count()) == NULL);
    REFUSES(ARGUMENT, mmebm_trainer_copy_average(on->trainer, NULL));
    REFUSES(ARGUMENT, mmebm_trainer_set_user_state(on->trainer, NULL, 4));
    REFUSES(ARGUMENT, mmebm_trainer_set_user_state(on->trainer, state, 65537));
    REFUSES(ARGUMENT, mmebm_trainer_get_user_state(on->trainer, state, NULL));
    CHECK(mmebm_trainer_set_user_state(on->trainer, "place 7", 8) == MMEBM_OK);
    size = 7;
    REFUSES(ARGUMENT, mmebm_trainer_get_user_state(on->trainer, state, &size));
    REFUSES(ARGUMENT, mmebm_trainer_save(on->trainer, NULL, NULL));
    REFUSES(IO, mmebm_trainer_save(on->trainer, "/nonexistent/folder/trainer.safetensors", NULL));
    /* the refused data changed nothing: the model still gives the energies of before (check_usable) */
}
TEST(trainer)
{
    with_scene(misuse_trainer);
}

int main(void)
{
    SKIP_WITHOUT_DEVICE(test_backend());
    RUN(builder);
    RUN(layers_with_weights);
    RUN(layers_without_weights);
    RUN(tensors_and_forward);
    RUN(model_create);
    RUN(presets);
    RUN(model_questions);
    RUN(files);
    RUN(sampler_create);
    RUN(evaluation);
    RUN(langevin_x);
    RUN(langevin_z);
    RUN(langevin_prior);
    RUN(records);
    RUN(samples);
    RUN(calls_on_the_model);
    RUN(trainer_create);
    RUN(trainer);
    return HARNESS_RESULT();
}

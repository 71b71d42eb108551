/* SPDX-License-Identifier: Apache-2.0
 *
 * Presets: sizes and shapes against the rulings (E1-E9, E14, test L6), initial weights, options, failing memory. That
 * the networks compute what PyTorch's do is shown by tests/golden.
 */
#include "model_support.h"

static mmebm_preset_options options_of(uint32_t modalities, uint32_t image_size, uint32_t width)
{
    mmebm_preset_options options;
    CHECK(mmebm_preset_options_init(&options) == MMEBM_OK);
    options.n_modalities = modalities;
    options.image_size = image_size;
    options.nf = options.nef = options.stem_channels = width;
    options.latent_size = 3;
    return options;
}

static mmebm_model *create(mmebm_context *context, const char *preset, const mmebm_preset_options *options)
{
    mmebm_model *model = NULL;
    const mmebm_status status = mmebm_model_create_preset(context, preset, options, &model);
    CHECK_MSG(status == MMEBM_OK, "%s", mmebm_last_error(context));
    return model;
}

static size_t count_weights(const mmebm_model *model, const char *prefix)
{
    size_t count = 0;
    for (int p = 0; p < MMEBM_PART_COUNT; ++p)
        for (uint32_t t = 0; t < model->parts[p].graph.tensor_count; ++t) {
            const mmebm_tensor *tensor = &model->parts[p].graph.tensors[t];
            if (strncmp(tensor->name, prefix, strlen(prefix)) == 0) count += tensor->count;
        }
    return count;
}

/* ---- polymnist */

/* Numbers of a PyTorch model with the same layers. */
TEST(default_networks_have_their_sizes)
{
    mmebm_context *context = open_context(NULL);
    REQUIRE(context);
    mmebm_model *model = create(context, "polymnist", NULL);
    REQUIRE(model);
    CHECK(mmebm_model_modality_count(model) == 5 && mmebm_model_latent_size(model) == 32);
    CHECK(count_weights(model, "energy.stem") == 5 * 432);
    CHECK(count_weights(model, "energy.") == 5 * 432 + 1151104);
    for (int i = 0; i < 5; ++i) {
        char prefix[16];
        snprintf(prefix, sizeof prefix, "decoder%d.", i);
        CHECK(count_weights(model, prefix) == 1083843);
        snprintf(prefix, sizeof prefix, "encoder%d.", i);
        CHECK(count_weights(model, prefix) == 1473024);
        mmebm_modality modality = {.struct_size = sizeof modality};
        CHECK(mmebm_model_modality(model, (uint32_t)i, &modality) == MMEBM_OK);
        CHECK(modality.likelihood == MMEBM_GAUSSIAN && modality.rank == 3);
        CHECK(modality.shape[0] == 28 && modality.shape[1] == 28 && modality.shape[2] == 3);
    }
    mmebm_model_destroy(&model);
    mmebm_context_destroy(&context);
}

/* Ruling E9: the trunk behind 64 stem channels. */
TEST(trunks_have_their_sizes)
{
    mmebm_context *context = open_context(NULL);
    REQUIRE(context);
    static const struct {
        uint32_t nef;
        size_t weights;
    } cases[] = {{128, 1130624}, {160, 1740960}, {192, 2482368}, {256, 4358400}};
    for (int i = 0; i < 4; ++i) {
        mmebm_preset_options options = options_of(1, 8, 1);
        options.stem_channels = 64;
        options.nef = cases[i].nef;
        mmebm_model *model = create(context, "polymnist", &options);
        REQUIRE(model);
        const size_t trunk = count_weights(model, "energy.") - count_weights(model, "energy.stem");
        CHECK_MSG(trunk == cases[i].weights, "nef %u: %zu weights", cases[i].nef, trunk);
        mmebm_model_destroy(&model);
    }
    mmebm_context_destroy(&context);
}

/* Every layer of a kind in a graph: number found, and the shape of the last one's input. */
static int count_layers(const mmebm_graph *graph, mmebm_layer_kind kind, const mmebm_layer **last_input)
{
    int count = 0;
    for (uint32_t i = 0; i < graph->layer_count; ++i) {
        if (graph->layers[i].kind != kind) continue;
        ++count;
        if (last_input) *last_input = mmebm__layer_input(graph, &graph->layers[i], 0);
    }
    return count;
}

/* All networks of a model run on one tuple. map_size: of the energy's last map (E6). */
static void check_images(mmebm_context *context, const char *preset, uint32_t size, uint32_t map_size)
{
    mmebm_preset_options options = options_of(2, size, 2);
    options.hidden = 2;
    const size_t image = (size_t)size * size * 3;
    mmebm_model *model = create(context, preset, &options);
    REQUIRE(model);
    const mmebm_part *energy = &model->parts[MMEBM_PART_ENERGY], *generator = &model->parts[MMEBM_PART_GENERATOR];
    const mmebm_part *inference = &model->parts[MMEBM_PART_INFERENCE];
    const mmebm_layer *map = NULL;
    CHECK(count_layers(&energy->graph, MMEBM_LAYER_GLOBAL_AVG_POOL, &map) == 1);
    CHECK(map && map->shape[0] == map_size && map->shape[1] == map_size);
    float *x[2] = {calloc(image, sizeof(float)), calloc(image, sizeof(float))}, u = NAN;
    float z[3] = {0.5f, -1.0f, 2.0f}, q[4][3];
    for (int o = 0; o < 4; ++o) q[o][0] = q[o][1] = q[o][2] = NAN;
    run_graph(context, &generator->graph, generator->weights, 1, (const float *const[]){z}, x);
    run_graph(context, &energy->graph, energy->weights, 1, (const float *const *)x, (float *const[]){&u});
    run_graph(context, &inference->graph, inference->weights, 1, (const float *const *)x,
              (float *const[]){q[0], q[1], q[2], q[3]});
    CHECK_MSG(isfinite(u), "%s of %u: energy %g", preset, size, (double)u);
    for (int o = 0; o < 4; ++o) CHECK(isfinite(q[o][0]) && isfinite(q[o][1]) && isfinite(q[o][2]));
    CHECK(isfinite(x[0][0]) && isfinite(x[1][image - 1]) && x[0][0] != x[0][image - 1]);
    free(x[0]);
    free(x[1]);
    mmebm_model_destroy(&model);
}

/* Test L6: sizes at which the networks must work, the smallest, and one that halves to odd numbers. */
TEST(all_image_sizes_work)
{
    mmebm_context *context = open_context(NULL);
    REQUIRE(context);
    static const uint32_t sizes[] = {8, 12, 28, 32, 64, 256};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; ++i) {
        check_images(context, "polymnist", sizes[i], sizes[i] / 4);
        check_images(context, "polymnist-small", sizes[i], sizes[i] / 8);
    }
    mmebm_context_destroy(&context);
}

TEST(energy_follows_the_rulings)
{
    mmebm_context *context = open_context(NULL);
    REQUIRE(context);
    const mmebm_preset_options options = options_of(3, 8, 4);
    mmebm_model *model = create(context, "polymnist", &options);
    REQUIRE(model);
    const mmebm_graph *graph = &model->parts[MMEBM_PART_ENERGY].graph;
    for (uint32_t t = 0; t < graph->tensor_count; ++t) CHECK(graph->tensors[t].role == MMEBM_ROLE_WEIGHT); /* E3 */
    CHECK(count_layers(graph, MMEBM_LAYER_AVG_POOL, NULL) == 4);
    CHECK(count_layers(graph, MMEBM_LAYER_ADD, NULL) == 4);
    /* E1: one relu in the head, two in each other block, one before the pool */
    CHECK(count_layers(graph, MMEBM_LAYER_ACTIVATION, NULL) == 1 + 3 * 2 + 1);
    /* E2, E5, E8: a stem for each modality, two a block, shortcuts where the image is halved */
    CHECK(count_layers(graph, MMEBM_LAYER_CONV2D, NULL) == 3 + 4 * 2 + 2);
    const mmebm_tensor *shortcut = mmebm__tensor_find(graph, "energy.block1.shortcut.weight");
    REQUIRE(shortcut);
    CHECK(shortcut->shape[0] == 4 && shortcut->shape[1] == 1 && shortcut->shape[2] == 1 && shortcut->shape[3] == 12);
    for (uint32_t i = 0; i < graph->layer_count; ++i) { /* E4: pool first */
        const mmebm_layer *layer = &graph->layers[i];
        if (layer->kind == MMEBM_LAYER_CONV2D && layer->kernel[0] == 1)
            CHECK(mmebm__layer_input(graph, layer, 0)->kind == MMEBM_LAYER_AVG_POOL);
    }
    mmebm_model_destroy(&model);
    mmebm_context_destroy(&context);
}

/* Ruling E4: a 2x2 mean and a 1x1 convolution without bias commute. Both orders are compared with sums in double; the
 * bound counts the roundings of IN products and of the means, each 2^-24 of the sum of magnitudes. */
TEST(pool_and_shortcut_commute)
{
    enum { SIZE = 6, IN = 12, OUT = 5, HALF = SIZE / 2 };
    mmebm_context *context = open_context(NULL);
    REQUIRE(context);
    mmebm_network *network = NULL;
    mmebm_node x, a, b;
    const int64_t shape[4] = {1, SIZE, SIZE, IN}, half[4] = {1, HALF, HALF, OUT};
    static float in[SIZE * SIZE * IN], out[2][HALF * HALF * OUT];
    mmebm_view input, outputs[2], weight;
    mmebm_conv2d_options conv;
    CHECK(mmebm_conv2d_options_init(&conv) == MMEBM_OK);
    conv.bias = 0;
    conv.out_channels = OUT;
    conv.kernel[0] = conv.kernel[1] = 1;
    conv.padding[0] = conv.padding[1] = 0;
    CHECK(mmebm_network_create(context, "commute", &network) == MMEBM_OK);
    CHECK(mmebm_network_input(network, "x", 3, shape + 1, &x) == MMEBM_OK);
    CHECK(mmebm_network_avg_pool(network, x, 2, 2, 0, &a) == MMEBM_OK);
    conv.name = "after";
    CHECK(mmebm_network_conv2d(network, a, &conv, &a) == MMEBM_OK);
    conv.name = "before";
    CHECK(mmebm_network_conv2d(network, x, &conv, &b) == MMEBM_OK);
    CHECK(mmebm_network_avg_pool(network, b, 2, 2, 0, &b) == MMEBM_OK);
    CHECK(mmebm_network_output(network, a, NULL) == MMEBM_OK);
    CHECK(mmebm_network_output(network, b, NULL) == MMEBM_OK);
    REQUIRE(mmebm_network_finish(network, MMEBM_INIT_PYTORCH, 1) == MMEBM_OK);
    const int64_t weight_shape[4] = {OUT, 1, 1, IN};
    float w[OUT * IN];
    fill_numbers(in, SIZE * SIZE * IN, 1);
    CHECK(mmebm_view_init(&weight, w, 4, weight_shape) == MMEBM_OK);
    CHECK(mmebm_network_get_tensor(network, "after.weight", &weight) == MMEBM_OK);
    CHECK(mmebm_network_set_tensor(network, "before.weight", &weight) == MMEBM_OK);
    CHECK(mmebm_view_init(&input, in, 4, shape) == MMEBM_OK);
    for (int k = 0; k < 2; ++k) CHECK(mmebm_view_init(&outputs[k], out[k], 4, half) == MMEBM_OK);
    REQUIRE(mmebm_network_forward(network, &input, outputs) == MMEBM_OK);
    for (int e = 0; e < HALF * HALF * OUT; ++e) {
        const int o = e % OUT, column = e / OUT % HALF, row = e / OUT / HALF;
        double sum = 0.0, magnitude = 0.0;
        for (int k = 0; k < 4 * IN; ++k) {
            const int y = 2 * row + k / IN / 2, c = 2 * column + k / IN % 2;
            const double product = (double)w[o * IN + k % IN] * (double)in[(y * SIZE + c) * IN + k % IN] / 4.0;
            sum += product;
            magnitude += fabs(product);
        }
        for (int k = 0; k < 2; ++k)
            CHECK_MSG(fabs((double)out[k][e] - sum) <= (IN + 8) * 0x1p-24 * magnitude, "%g, wanted %g",
                      (double)out[k][e], sum);
    }
    mmebm_network_destroy(&network);
    mmebm_context_destroy(&context);
}

static const char *const tensor_names[] = {
    "energy.stem0.weight", "energy.block1.conv0.weight", "energy.block1.conv1.weight", "energy.block1.shortcut.weight",
    "energy.block2.conv0.weight", "energy.block2.conv1.weight", "energy.block2.shortcut.weight",
    "energy.block3.conv0.weight", "energy.block3.conv1.weight", "energy.block4.conv0.weight",
    "energy.block4.conv1.weight", "energy.head.weight",
    "decoder0.start.weight", "decoder0.start.bias", "decoder0.block1.conv0.weight", "decoder0.block1.conv0.bias",
    "decoder0.block1.conv1.weight", "decoder0.block1.conv1.bias", "decoder0.block1.shortcut.weight",
    "decoder0.block2.conv0.weight", "decoder0.block2.conv0.bias", "decoder0.block2.conv1.weight",
    "decoder0.block2.conv1.bias", "decoder0.block2.shortcut.weight", "decoder0.block3.conv0.weight",
    "decoder0.block3.conv0.bias", "decoder0.block3.conv1.weight", "decoder0.block3.conv1.bias", "decoder0.image.weight",
    "decoder0.image.bias",
    "encoder0.image.weight", "encoder0.image.bias", "encoder0.block1.conv0.weight", "encoder0.block1.conv0.bias",
    "encoder0.block1.conv1.weight", "encoder0.block1.conv1.bias", "encoder0.block2.conv0.weight",
    "encoder0.block2.conv0.bias", "encoder0.block2.conv1.weight", "encoder0.block2.conv1.bias",
    "encoder0.block2.shortcut.weight", "encoder0.block3.conv0.weight", "encoder0.block3.conv0.bias",
    "encoder0.block3.conv1.weight", "encoder0.block3.conv1.bias", "encoder0.block3.shortcut.weight",
    "encoder0.head_mean.weight", "encoder0.head_mean.bias", "encoder0.head_scale.weight", "encoder0.head_scale.bias"};

/* Programs and files know the tensors by these names. */
TEST(tensors_keep_their_names)
{
    mmebm_context *context = open_context(NULL);
    REQUIRE(context);
    const mmebm_preset_options options = options_of(1, 8, 2);
    mmebm_model *model = create(context, "polymnist", &options);
    REQUIRE(model);
    CHECK(mmebm_model_tensor_count(model) == sizeof tensor_names / sizeof tensor_names[0]);
    for (uint32_t t = 0; t < mmebm_model_tensor_count(model); ++t) {
        const char *name = "";
        CHECK(mmebm_model_tensor_info(model, t, &name, NULL, NULL) == MMEBM_OK);
        CHECK_MSG(strcmp(name, tensor_names[t]) == 0, "tensor %u is %s, wanted %s", t, name, tensor_names[t]);
    }
    mmebm_model_destroy(&model);
    mmebm_context_destroy(&context);
}

/* ---- initial weights */

enum { MOST = 1 << 16 };

static size_t read_tensor(const mmebm_model *model, const char *name, float values[MOST])
{
    for (uint32_t t = 0; t < mmebm_model_tensor_count(model); ++t) {
        const char *found = "";
        uint32_t rank = 0;
        int64_t shape[MMEBM_MAX_RANK];
        mmebm_view view;
        size_t count = 1;
        CHECK(mmebm_model_tensor_info(model, t, &found, &rank, shape) == MMEBM_OK);
        if (strcmp(found, name) != 0) continue;
        for (uint32_t d = 0; d < rank; ++d) count *= (size_t)shape[d];
        CHECK(count <= MOST && mmebm_view_init(&view, values, rank, shape) == MMEBM_OK);
        CHECK(mmebm_model_get_tensor(model, name, &view) == MMEBM_OK);
        return count;
    }
    CHECK_MSG(0, "no tensor %s", name);
    return 0;
}

static double mean_square(const float *values, size_t count)
{
    double sum = 0.0;
    for (size_t e = 0; e < count; ++e) sum += (double)values[e] * (double)values[e];
    return sum / (double)count;
}

/* Ruling E16. The moments themselves: test_initialise.c; here, which network starts how (five deviations). */
TEST(networks_start_as_ruled)
{
    static float values[MOST];
    mmebm_context *context = open_context(NULL);
    REQUIRE(context);
    const mmebm_preset_options options = options_of(2, 8, 16);
    mmebm_model *model = create(context, "polymnist", &options);
    REQUIRE(model);
    size_t count = read_tensor(model, "energy.block3.conv0.weight", values);
    const double normal = 2.0 / (9.0 * (16.0 + 16.0));
    CHECK(fabs(mean_square(values, count) - normal) <= 5.0 * normal * sqrt(2.0 / (double)count));
    static const char *const uniform[] = {"decoder1.block3.conv0.weight", "encoder1.block1.conv0.weight"};
    for (int i = 0; i < 2; ++i) {
        count = read_tensor(model, uniform[i], values);
        const double wanted = 1.0 / (9.0 * 16.0) / 3.0;
        CHECK(fabs(mean_square(values, count) - wanted) <= 5.0 * wanted * sqrt(0.8 / (double)count));
        for (size_t e = 0; e < count; ++e) CHECK(fabsf(values[e]) <= 1.0f / 12.0f);
    }
    count = read_tensor(model, "decoder0.image.bias", values);
    CHECK(mean_square(values, count) > 0.0);
    mmebm_model_destroy(&model);
    mmebm_context_destroy(&context);
}

static int equal_tensors(const mmebm_model *a, const char *name_a, const mmebm_model *b, const char *name_b)
{
    static float first[MOST], second[MOST];
    const size_t count = read_tensor(a, name_a, first);
    return read_tensor(b, name_b, second) == count && memcmp(first, second, count * sizeof(float)) == 0;
}

TEST(seed_decides_the_weights)
{
    mmebm_context *context = open_context(NULL);
    REQUIRE(context);
    mmebm_preset_options options = options_of(2, 8, 3);
    mmebm_model *a = create(context, "polymnist", &options), *b = create(context, "polymnist", &options);
    options.seed = 1;
    mmebm_model *c = create(context, "polymnist", &options);
    REQUIRE(a && b && c);
    for (uint32_t t = 0; t < mmebm_model_tensor_count(a); ++t) {
        const char *name = "";
        CHECK(mmebm_model_tensor_info(a, t, &name, NULL, NULL) == MMEBM_OK);
        CHECK(equal_tensors(a, name, b, name));
        CHECK_MSG(!equal_tensors(a, name, c, name), "%s is the same under another seed", name);
    }
    /* networks of one model differ: each has a seed of its own */
    CHECK(!equal_tensors(a, "decoder0.block1.conv0.weight", a, "decoder1.block1.conv0.weight"));
    CHECK(!equal_tensors(a, "encoder0.image.weight", a, "encoder1.image.weight"));
    CHECK(!equal_tensors(a, "encoder0.head_mean.weight", a, "encoder0.head_scale.weight"));
    mmebm_model_destroy(&a);
    mmebm_model_destroy(&b);
    mmebm_model_destroy(&c);
    mmebm_context_destroy(&context);
}

/* ---- mlp */

TEST(mlp_has_its_layers)
{
    static const int64_t sizes[3] = {7, 1, 4};
    mmebm_context *context = open_context(NULL);
    REQUIRE(context);
    for (uint32_t n_hidden = 0; n_hidden < 3; ++n_hidden) {
        mmebm_preset_options options = options_of(3, 0, 0);
        options.sizes = sizes;
        options.hidden = 10;
        options.n_hidden = n_hidden;
        options.likelihood_scale = 0.25f;
        options.posterior_floor = 0.5f;
        mmebm_model *model = create(context, "mlp", &options);
        REQUIRE(model);
        const size_t between = n_hidden > 1 ? (n_hidden - 1) * 110 : 0;
        CHECK(count_weights(model, "energy.") == (n_hidden ? 12 * 10 + 10 + between + 10 + 1 : 12 + 1));
        CHECK(count_weights(model, "decoder0.") == (n_hidden ? 3 * 10 + 10 + between + 10 * 7 + 7 : 3 * 7 + 7));
        CHECK(count_weights(model, "encoder2.") == (n_hidden ? 4 * 10 + 10 + between + 2 * 33 : 2 * (4 * 3 + 3)));
        mmebm_modality modality = {.struct_size = sizeof modality};
        CHECK(mmebm_model_modality(model, 2, &modality) == MMEBM_OK && modality.rank == 1 && modality.shape[0] == 4);
        CHECK(modality.scale == 0.25f && model->options.posterior_floor == 0.5f);
        mmebm_model_destroy(&model);
    }
    mmebm_context_destroy(&context);
}

/* ---- refusals */

static void check_refused(mmebm_context *context, const char *preset, const mmebm_preset_options *options,
                          mmebm_status wanted, const char *fragment)
{
    mmebm_model *model = (mmebm_model *)(uintptr_t)8;
    const mmebm_status status = mmebm_model_create_preset(context, preset, options, &model);
    CHECK_MSG(status == wanted, "%s, wanted %s", mmebm_status_name(status), mmebm_status_name(wanted));
    CHECK_MSG(strstr(mmebm_last_error(context), fragment), "'%s' has no '%s'", mmebm_last_error(context), fragment);
    CHECK(!model);
}

#define REFUSED(preset, field, value, wanted, fragment)                                            \
    do {                                                                                           \
        mmebm_preset_options changed_ = options_of(2, 8, 2);                                       \
        changed_.sizes = sizes;                                                                    \
        changed_.field = (value);                                                                  \
        check_refused(context, (preset), &changed_, (wanted), (fragment));                         \
    } while (0)

TEST(options_are_checked)
{
    static const int64_t sizes[2] = {3, 3}, wrong_sizes[2] = {3, 0}, huge_sizes[2] = {3, INT64_MAX};
    mmebm_context *context = open_context(NULL);
    REQUIRE(context);
    REFUSED("polymnist", struct_size, 1, MMEBM_E_STRUCT_SIZE, "preset options");
    REFUSED("polymnist", n_modalities, 0, MMEBM_E_ARGUMENT, "n_modalities is 0, wanted 1 to 16");
    REFUSED("polymnist", n_modalities, 17, MMEBM_E_ARGUMENT, "n_modalities is 17");
    REFUSED("polymnist", latent_size, 0, MMEBM_E_ARGUMENT, "latent_size is 0");
    REFUSED("polymnist", latent_size, 65537, MMEBM_E_ARGUMENT, "latent_size is 65537");
    REFUSED("polymnist", image_size, 4, MMEBM_E_ARGUMENT, "image_size is 4, wanted 8 to");
    REFUSED("polymnist", image_size, 30, MMEBM_E_ARGUMENT, "image_size is 30, wanted a multiple of 4");
    REFUSED("polymnist", image_size, 65536, MMEBM_E_SHAPE, "at most 2147483648 elements");
    REFUSED("polymnist", channels, 0, MMEBM_E_ARGUMENT, "channels is 0");
    REFUSED("polymnist", nf, 0, MMEBM_E_ARGUMENT, "nf is 0");
    REFUSED("polymnist", nef, 0, MMEBM_E_ARGUMENT, "nef is 0");
    REFUSED("polymnist", nef, 65537, MMEBM_E_ARGUMENT, "nef is 65537");
    REFUSED("polymnist", stem_channels, 0, MMEBM_E_ARGUMENT, "stem_channels is 0");
    REFUSED("mlp", sizes, NULL, MMEBM_E_ARGUMENT, "sizes is NULL, wanted 2 vector lengths");
    REFUSED("mlp", sizes, wrong_sizes, MMEBM_E_ARGUMENT, "sizes[1] is 0");
    REFUSED("mlp", sizes, huge_sizes, MMEBM_E_SHAPE, "at most 2147483648 elements");
    REFUSED("mlp", hidden, 0, MMEBM_E_ARGUMENT, "hidden is 0");
    REFUSED("mlp", n_hidden, 65, MMEBM_E_ARGUMENT, "n_hidden is 65, wanted 0 to 64");
    REFUSED("polymnist-small", hidden, 0, MMEBM_E_ARGUMENT, "hidden is 0");
    REFUSED("mlp", likelihood_scale, 0.0f, MMEBM_E_ARGUMENT, "modality 0: scale is 0");
    REFUSED("mlp", posterior_floor, NAN, MMEBM_E_ARGUMENT, "posterior_floor is nan");
    REFUSED("polymnist-x", nf, 2, MMEBM_E_NAME, "no preset 'polymnist-x', wanted one of 'polymnist', 'polym");
    check_refused(context, NULL, NULL, MMEBM_E_ARGUMENT, "preset is NULL");
    check_refused(context, "mlp", NULL, MMEBM_E_ARGUMENT, "sizes is NULL");
    mmebm_model *model = NULL;
    CHECK(mmebm_model_create_preset(NULL, "mlp", NULL, &model) == MMEBM_E_ARGUMENT);
    CHECK(mmebm_model_create_preset(context, "mlp", NULL, NULL) == MMEBM_E_ARGUMENT);
    mmebm_context_destroy(&context);
}

/* ---- memory */

TEST(every_allocation_may_fail)
{
    counting_allocator allocator = {0};
    mmebm_context *context = open_context(&allocator);
    REQUIRE(context);
    const mmebm_preset_options options = options_of(2, 8, 1);
    const uint64_t blocks = allocator.blocks;
    mmebm_status status = MMEBM_E_MEMORY;
    int n = 0;
    while (status == MMEBM_E_MEMORY && n < 2000) {
        mmebm_model *model = NULL;
        allocator.fail_at = allocator.calls + (uint64_t)++n;
        status = mmebm_model_create_preset(context, "polymnist", &options, &model);
        allocator.fail_at = 0;
        mmebm_model_destroy(&model);
        CHECK_MSG(allocator.blocks == blocks, "allocation %d left %d blocks", n, (int)(allocator.blocks - blocks));
    }
    CHECK_MSG(status == MMEBM_OK && n > 50, "ended with %s after %d", mmebm_status_name(status), n);
    mmebm_context_destroy(&context);
    CHECK(allocator.blocks == 0 && allocator.errors == 0);
}

int main(void)
{
    SKIP_WITHOUT_DEVICE(test_backend());
    RUN(default_networks_have_their_sizes);
    RUN(trunks_have_their_sizes);
    RUN(all_image_sizes_work);
    RUN(energy_follows_the_rulings);
    RUN(pool_and_shortcut_commute);
    RUN(tensors_keep_their_names);
    RUN(networks_start_as_ruled);
    RUN(seed_decides_the_weights);
    RUN(mlp_has_its_layers);
    RUN(options_are_checked);
    RUN(every_allocation_may_fail);
    return HARNESS_RESULT();
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * Networks and models in files: what is loaded is what was saved, bit for bit; a file that is damaged, hostile or of
 * another kind gives a status and a sentence, whatever is wrong with it.
 */
#include "every_kind.h"
#include "header_edit.h"
#include "model.h"

static mmebm_context *context;
static counting_allocator allocator;

static mmebm_save_options save_options(uint32_t dtype, uint32_t gzip)
{
    mmebm_save_options options;
    if (mmebm_save_options_init(&options) != MMEBM_OK) printf("  save options\n");
    options.dtype = dtype;
    options.gzip = gzip;
    return options;
}

/* ---- networks */

static mmebm_status forward(mmebm_network *network, float *second, float *first)
{
    enum { N = 2 };
    float image[N * EVERY_KIND_IMAGE], vector[N * EVERY_KIND_VECTOR];
    static const int64_t image_shape[] = {N, 6, 5, 3}, vector_shape[] = {N, EVERY_KIND_VECTOR};
    static const int64_t second_shape[] = {N, 3, 2}, first_shape[] = {N, EVERY_KIND_FIRST};
    mmebm_view inputs[2], outputs[2];
    fill_numbers(image, N * EVERY_KIND_IMAGE, 1);
    fill_numbers(vector, N * EVERY_KIND_VECTOR, 2);
    mmebm_status status = mmebm_view_init(&inputs[0], image, 4, image_shape);
    status |= mmebm_view_init(&inputs[1], vector, 2, vector_shape);
    status |= mmebm_view_init(&outputs[0], second, 3, second_shape);
    status |= mmebm_view_init(&outputs[1], first, 2, first_shape);
    return status == MMEBM_OK ? mmebm_network_forward(network, inputs, outputs) : status;
}

static void check_same_networks(mmebm_network *a, mmebm_network *b)
{
    float second[2][2 * EVERY_KIND_SECOND], first[2][2 * EVERY_KIND_FIRST];
    CHECK(strcmp(a->name, b->name) == 0);
    for (uint32_t i = 0; i < a->graph.input_count; ++i) CHECK(strcmp(a->input_names[i], b->input_names[i]) == 0);
    for (uint32_t o = 0; o < a->graph.output_count; ++o) CHECK(strcmp(a->output_names[o], b->output_names[o]) == 0);
    REQUIRE(a->graph.tensor_count == b->graph.tensor_count && a->graph.weight_count == b->graph.weight_count);
    for (uint32_t t = 0; t < a->graph.tensor_count; ++t)
        CHECK(strcmp(a->graph.tensors[t].name, b->graph.tensors[t].name) == 0);
    CHECK(memcmp(a->weights, b->weights, a->graph.weight_count * sizeof(float)) == 0);
    CHECK(forward(a, second[0], first[0]) == MMEBM_OK && forward(b, second[1], first[1]) == MMEBM_OK);
    CHECK(memcmp(second[0], second[1], sizeof second[0]) == 0);
    CHECK(memcmp(first[0], first[1], sizeof first[0]) == 0);
}

TEST(a_network_with_every_kind_of_layer_survives)
{
    mmebm_network *network = NULL, *loaded;
    REQUIRE(make_every_kind(context, &network) == MMEBM_OK);
    for (uint32_t gzip = 0; gzip <= 1; ++gzip) {
        const mmebm_save_options options = save_options(MMEBM_F32, gzip);
        REQUIRE(mmebm_network_save(network, in_folder("network"), &options) == MMEBM_OK);
        REQUIRE(mmebm_network_load(context, in_folder("network"), &loaded) == MMEBM_OK);
        check_same_networks(network, loaded);
        mmebm_network_destroy(&loaded);
    }
    mmebm_network_destroy(&network);
}

TEST(an_unfinished_network_is_not_saved)
{
    mmebm_network *network = NULL;
    REQUIRE(mmebm_network_create(context, "n", &network) == MMEBM_OK);
    CHECK(mmebm_network_save(network, in_folder("unfinished"), NULL) == MMEBM_E_STATE);
    CHECK(access(in_folder("unfinished"), F_OK) != 0);
    mmebm_network_destroy(&network);
}

/* ---- models */

enum { ENERGY_ROWS = 3, LARGEST_INPUT = 16 * 16 * 3 };

static mmebm_status energies(mmebm_model *model, float u[ENERGY_ROWS])
{
    static float values[MMEBM_MAX_MODALITIES][ENERGY_ROWS * LARGEST_INPUT];
    mmebm_view x[MMEBM_MAX_MODALITIES], view;
    mmebm_status status = mmebm_view_init(&view, u, 1, (const int64_t[]){ENERGY_ROWS});
    for (uint32_t i = 0; i < mmebm_model_modality_count(model); ++i) {
        const mmebm_modality *modality = &model->modalities[i];
        int64_t shape[MMEBM_MAX_RANK + 1] = {ENERGY_ROWS};
        memcpy(shape + 1, modality->shape, modality->rank * sizeof *shape);
        fill_numbers(values[i], ENERGY_ROWS * LARGEST_INPUT, i);
        status |= mmebm_view_init(&x[i], values[i], modality->rank + 1, shape);
    }
    return status == MMEBM_OK ? mmebm_energy(model, x, &view) : status;
}

/* Every tensor of the model to one array, which the caller frees; *count floats. */
static float *all_weights(const mmebm_model *model, size_t *count)
{
    *count = 0;
    for (int p = 0; p < MMEBM_PART_COUNT; ++p) *count += model->parts[p].graph.weight_count;
    float *weights = malloc(*count * sizeof *weights), *at = weights;
    for (int p = 0; p < MMEBM_PART_COUNT && weights; ++p) {
        const mmebm_part *part = &model->parts[p];
        const size_t part_count = part->graph.weight_count;
        if (context->ops->download(context->device, at, part->weights, part_count * sizeof *at) != MMEBM_OK)
            printf("  download failed\n");
        at += part_count;
    }
    return weights;
}

static void check_same_options(const mmebm_model *a, const mmebm_model *b)
{
    CHECK(a->options.n_modalities == b->options.n_modalities && a->options.latent_size == b->options.latent_size);
    CHECK(a->options.prior == b->options.prior && a->options.prior_scale == b->options.prior_scale);
    CHECK(a->options.posterior == b->options.posterior && a->options.posterior_scale == b->options.posterior_scale);
    CHECK(a->options.posterior_floor == b->options.posterior_floor);
    for (uint32_t i = 0; i < a->options.n_modalities; ++i) {
        const mmebm_modality *x = &a->modalities[i], *y = &b->modalities[i];
        CHECK(strcmp(x->name, y->name) == 0 && x->likelihood == y->likelihood && x->rank == y->rank);
        CHECK(memcmp(x->shape, y->shape, sizeof x->shape) == 0 && x->scale == y->scale && x->weight == y->weight);
        CHECK(x->data_min == y->data_min && x->data_max == y->data_max);
    }
}

static void check_same_models(mmebm_model *a, mmebm_model *b)
{
    size_t counts[2];
    float u[2][ENERGY_ROWS];
    check_same_options(a, b);
    REQUIRE(mmebm_model_tensor_count(a) == mmebm_model_tensor_count(b));
    for (uint32_t t = 0; t < mmebm_model_tensor_count(a); ++t) {
        const char *names[2];
        CHECK(mmebm_model_tensor_info(a, t, &names[0], NULL, NULL) == MMEBM_OK);
        CHECK(mmebm_model_tensor_info(b, t, &names[1], NULL, NULL) == MMEBM_OK);
        CHECK(strcmp(names[0], names[1]) == 0);
    }
    float *weights[2] = {all_weights(a, &counts[0]), all_weights(b, &counts[1])};
    REQUIRE(weights[0] && weights[1] && counts[0] == counts[1]);
    CHECK(memcmp(weights[0], weights[1], counts[0] * sizeof(float)) == 0);
    free(weights[0]);
    free(weights[1]);
    CHECK(energies(a, u[0]) == MMEBM_OK && energies(b, u[1]) == MMEBM_OK);
    CHECK(memcmp(u[0], u[1], sizeof u[0]) == 0);
    CHECK(u[0][0] != u[0][1]);
}

static mmebm_model *preset_model(const char *preset)
{
    mmebm_preset_options options;
    mmebm_model *model = NULL;
    if (mmebm_preset_options_init(&options) != MMEBM_OK) return NULL;
    options.n_modalities = 2;
    options.latent_size = 4;
    options.image_size = 16;
    options.nf = options.nef = options.stem_channels = options.hidden = 8;
    options.sizes = small_sizes;
    options.seed = 5;
    if (mmebm_model_create_preset(context, preset, &options, &model) != MMEBM_OK)
        printf("  %s\n", mmebm_last_error(context));
    return model;
}

static void check_survives(mmebm_model *model)
{
    for (uint32_t gzip = 0; gzip <= 1; ++gzip) {
        const mmebm_save_options options = save_options(MMEBM_F32, gzip);
        mmebm_model *loaded;
        REQUIRE(mmebm_model_save(model, in_folder("model"), &options) == MMEBM_OK);
        REQUIRE(mmebm_model_load(context, in_folder("model"), &loaded) == MMEBM_OK);
        check_same_models(model, loaded);
        mmebm_model_destroy(&loaded);
    }
}

TEST(models_of_every_preset_survive)
{
    static const char *const presets[] = {"mlp", "polymnist", "polymnist-small"};
    for (size_t p = 0; p < sizeof presets / sizeof presets[0]; ++p) {
        mmebm_model *model = preset_model(presets[p]);
        REQUIRE(model);
        check_survives(model);
        mmebm_model_destroy(&model);
    }
}

static mmebm_status make_vector_network(const char *name, uint32_t inputs, const int64_t *sizes, uint32_t outputs,
                                        int64_t out, int softmax, mmebm_network **network)
{
    mmebm_node nodes[4], x;
    mmebm_linear_options linear;
    mmebm_status status = mmebm_network_create(context, name, network);
    for (uint32_t i = 0; i < inputs && status == MMEBM_OK; ++i)
        status = mmebm_network_input(*network, NULL, 1, &sizes[i], &nodes[i]);
    if (status == MMEBM_OK) status = mmebm_linear_options_init(&linear);
    linear.out_features = out;
    if (status == MMEBM_OK && inputs > 1) status = mmebm_network_concat(*network, inputs, nodes, &nodes[0]);
    for (uint32_t o = 0; o < outputs && status == MMEBM_OK; ++o) {
        status = mmebm_network_linear(*network, nodes[0], &linear, &x);
        if (status == MMEBM_OK && softmax) status = mmebm_network_softmax(*network, x, &x);
        if (status == MMEBM_OK) status = mmebm_network_output(*network, x, NULL);
    }
    return status == MMEBM_OK ? mmebm_network_finish(*network, MMEBM_INIT_XAVIER_NORMAL, 1) : status;
}

/* No option of model or modality has its default. */
TEST(every_model_option_survives)
{
    static const int64_t sizes[] = {3, 2}, latent[] = {5};
    mmebm_network *networks[5] = {NULL};
    mmebm_modality modalities[2];
    mmebm_model_options options;
    mmebm_model *model = NULL;
    REQUIRE(make_vector_network("energy", 2, sizes, 1, 1, 0, &networks[0]) == MMEBM_OK);
    for (int i = 0; i < 2; ++i) {
        REQUIRE(make_vector_network("decoder", 1, latent, 1, sizes[i], i == 0, &networks[1 + i]) == MMEBM_OK);
        REQUIRE(make_vector_network("encoder", 1, &sizes[i], 2, 5, 0, &networks[3 + i]) == MMEBM_OK);
        REQUIRE(mmebm_modality_init(&modalities[i]) == MMEBM_OK);
        modalities[i].name = i ? "words" : "sensor-1";
        modalities[i].likelihood = i ? MMEBM_LAPLACE : MMEBM_CATEGORICAL;
        modalities[i].rank = 1;
        modalities[i].shape[0] = sizes[i];
        modalities[i].scale = 0.1f + (float)i;
        modalities[i].weight = 0.3f;
        modalities[i].data_min = -1.1f;
        modalities[i].data_max = 1e-7f;
    }
    REQUIRE(mmebm_model_options_init(&options) == MMEBM_OK);
    options.n_modalities = 2;
    options.modalities = modalities;
    options.latent_size = 5;
    options.prior = options.posterior = MMEBM_LAPLACE;
    options.prior_scale = 0.7f;
    options.posterior_scale = MMEBM_SCALE_SOFTMAX;
    options.posterior_floor = 1.7e-5f;
    REQUIRE(mmebm_model_create(context, &options, networks[0], (const mmebm_network *const *)&networks[1],
                               (const mmebm_network *const *)&networks[3], &model) == MMEBM_OK);
    check_survives(model);
    mmebm_model_destroy(&model);
    for (int k = 0; k < 5; ++k) mmebm_network_destroy(&networks[k]);
}

/* Half the size; loads as the rounded weights, which are then stored exactly. */
TEST(bf16_files_hold_rounded_weights)
{
    const mmebm_save_options half = save_options(MMEBM_BF16, 0), full = save_options(MMEBM_F32, 0);
    mmebm_model *model = preset_model("polymnist"), *loaded, *again;
    size_t count;
    REQUIRE(model);
    REQUIRE(mmebm_model_save(model, in_folder("half"), &half) == MMEBM_OK);
    REQUIRE(mmebm_model_save(model, in_folder("full"), &full) == MMEBM_OK);
    REQUIRE(mmebm_model_load(context, in_folder("half"), &loaded) == MMEBM_OK);
    float *exact = all_weights(model, &count), *rounded = all_weights(loaded, &count);
    REQUIRE(exact && rounded);
    int changed = 0;
    for (size_t i = 0; i < count; ++i) {
        CHECK(fabsf(rounded[i] - exact[i]) <= fabsf(exact[i]) / 256); /* 8 bits of significand: half a unit is 2^-9 */
        changed += rounded[i] != exact[i];
    }
    CHECK(changed > 0);
    free(exact);
    free(rounded);
    const file_bytes small = read_bytes(in_folder("half")), large = read_bytes(in_folder("full"));
    CHECK(small.size < large.size && large.size - small.size > count * 2 - count / 10);
    REQUIRE(mmebm_model_save(loaded, in_folder("half2"), &half) == MMEBM_OK);
    const file_bytes second = read_bytes(in_folder("half2"));
    CHECK(second.size == small.size && memcmp(second.data, small.data, small.size) == 0);
    REQUIRE(mmebm_model_load(context, in_folder("half2"), &again) == MMEBM_OK);
    check_same_models(loaded, again);
    free(small.data);
    free(large.data);
    free(second.data);
    mmebm_model_destroy(&again);
    mmebm_model_destroy(&loaded);
    mmebm_model_destroy(&model);
}

/* The weights exist once, on the device; the rest is the header and a piece of data. */
TEST(loading_holds_one_copy_of_the_weights)
{
    mmebm_model *model = preset_model("polymnist"), *loaded;
    REQUIRE(model && mmebm_model_save(model, in_folder("model"), NULL) == MMEBM_OK);
    mmebm_model_destroy(&model);
    const uint64_t before = allocator.bytes;
    allocator.peak = before;
    REQUIRE(mmebm_model_load(context, in_folder("model"), &loaded) == MMEBM_OK);
    const uint64_t taken = allocator.peak - before, held = allocator.bytes - before;
    CHECK_MSG(taken < held + (1 << 20), "%llu bytes at most, %llu are held", (unsigned long long)taken,
              (unsigned long long)held);
    mmebm_model_destroy(&loaded);
}

/* ---- wrong files */

static mmebm_status try_load(const char *path)
{
    mmebm_model *model = NULL;
    const mmebm_status status = mmebm_model_load(context, path, &model);
    CHECK((status == MMEBM_OK) == (model != NULL));
    mmebm_model_destroy(&model);
    return status;
}

static file_bytes small_model_file(void)
{
    file_bytes bytes = {NULL, 0};
    mmebm_model *model = small_model(context);
    if (model && mmebm_model_save(model, in_folder("small"), NULL) == MMEBM_OK) bytes = read_bytes(in_folder("small"));
    mmebm_model_destroy(&model);
    return bytes;
}

TEST(a_model_file_cut_anywhere_is_refused)
{
    const file_bytes bytes = small_model_file();
    REQUIRE(bytes.data);
    for (size_t size = 0; size < bytes.size; ++size) CHECK(try_load(bytes_as_file(bytes.data, size)) == MMEBM_E_FORMAT);
    CHECK(try_load(bytes_as_file(bytes.data, bytes.size)) == MMEBM_OK);
    free(bytes.data);
}

TEST(a_flipped_bit_in_any_byte_of_a_model_file_is_found)
{
    const file_bytes bytes = small_model_file();
    REQUIRE(bytes.data);
    for (size_t i = 0; i < bytes.size; ++i) {
        const unsigned char mask = (unsigned char)(1u << i % 8);
        bytes.data[i] ^= mask;
        const mmebm_status status = try_load(bytes_as_file(bytes.data, bytes.size));
        CHECK_MSG(status == MMEBM_E_FORMAT || status == MMEBM_E_DTYPE || status == MMEBM_E_SHAPE, "byte %zu: %s", i,
                  mmebm_status_name(status));
        bytes.data[i] ^= mask;
    }
    free(bytes.data);
}

/* Values that a careful author could have written: the checksums are right. */
TEST(hostile_metadata_is_refused)
{
    static const struct {
        const char *key, *found, *wanted;
        mmebm_status status;
        const char *sentence;
    } rows[] = {
        {"mmebm.format", "1", "2", MMEBM_E_VERSION, "format 2"},
        {"mmebm.format", "1", "4294967296", MMEBM_E_FORMAT, "number"},
        {"mmebm.format", "1", "0", MMEBM_E_FORMAT, "wanted 1"},
        {"mmebm.format", "1", "one", MMEBM_E_FORMAT, "number"},
        {"mmebm.format", "1", "", MMEBM_E_FORMAT, "wanted 1"},
        {"mmebm.kind", "model", "network", MMEBM_E_FORMAT, "holds a network"},
        {"mmebm.kind", "model", "picture", MMEBM_E_FORMAT, "holds a picture"},
        {"mmebm.version", "0", "99", MMEBM_OK, ""}, /* for people: the format decides */
        {"mmebm.model", "{", "", MMEBM_E_FORMAT, "JSON"},
        {"mmebm.model", "\"latent_size\":2", "\"latent_size\":3", MMEBM_E_FORMAT, "shape"},
        {"mmebm.model", "\"latent_size\":2", "\"latent_size\":-2", MMEBM_E_FORMAT, "integer"},
        {"mmebm.model", "\"latent_size\":2", "\"latent_size\":0", MMEBM_E_FORMAT, "latent_size"},
        {"mmebm.model", "\"latent_size\":2,", "", MMEBM_E_FORMAT, "missing"},
        {"mmebm.model", "\"latent_size\":2,", "\"latent_size\":2,\"new\":1,", MMEBM_E_FORMAT, "known key"},
        {"mmebm.model", "gaussian", "uniform", MMEBM_E_FORMAT, "known name"},
        {"mmebm.model", "softplus", "softmin", MMEBM_E_FORMAT, "known name"},
        {"mmebm.model", "\"prior_scale\":1", "\"prior_scale\":0", MMEBM_E_FORMAT, "prior_scale"},
        {"mmebm.model", "\"shape\":[3]", "\"shape\":[4]", MMEBM_E_FORMAT, "shape"},
        {"mmebm.model", "\"shape\":[3]", "\"shape\":[1099511627776]", MMEBM_E_FORMAT, "shape"},
        {"mmebm.model", "\"shape\":[3]", "\"shape\":[3,1,1,1,1,1,1]", MMEBM_E_FORMAT, "at most 6"},
        {"mmebm.model", "\"weight\":1", "\"weight\":-1", MMEBM_E_FORMAT, "weight"},
        {"mmebm.model", "\"weight\":1", "\"weight\":1e99", MMEBM_E_FORMAT, "float"},
        {"mmebm.model", "\"modalities\":[", "\"modalities\":[{},", MMEBM_E_FORMAT, "missing"},
        {"mmebm.model", "\"modalities\":", "\"modalities\":1,\"others\":", MMEBM_E_FORMAT, "known key"},
        {"mmebm.graph.energy", "\"shape\":[3]", "\"shape\":[4]", MMEBM_E_FORMAT, "that follows"},
        {"mmebm.graph.energy", "\"kind\":\"linear\"", "\"kind\":\"lin\"", MMEBM_E_FORMAT, "known kind"},
        {"mmebm.graph.energy", "\"bias\":1", "\"bias\":0", MMEBM_E_FORMAT, "asks for"},
        {"mmebm.graph.energy", "energy.", "anergy.", MMEBM_E_FORMAT, "anergy."},
        {"mmebm.graph.energy", "silu", "relu", MMEBM_OK, ""}, /* another sound model */
        {"mmebm.graph.inference", "encoder1.", "encoder0.", MMEBM_E_FORMAT, "already"},
        {"mmebm.graph.generator", "\"outputs\":[", "\"outputs\":[1,", MMEBM_E_FORMAT, "outputs"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; ++i) {
        const file_bytes bytes = small_model_file();
        REQUIRE(bytes.data);
        CHECK_MSG(write_edited(in_folder("edited"), bytes, rows[i].key, rows[i].found, rows[i].wanted), "%s: no '%s'",
                  rows[i].key, rows[i].found);
        const mmebm_status status = try_load(in_folder("edited"));
        CHECK_MSG(status == rows[i].status, "%s, %s: %s: %s", rows[i].key, rows[i].wanted, mmebm_status_name(status),
                  mmebm_last_error(context));
        CHECK_MSG(strstr(mmebm_last_error(context), rows[i].sentence) != NULL, "%s, %s: %s", rows[i].key,
                  rows[i].wanted, mmebm_last_error(context));
        free(bytes.data);
    }
}

TEST(files_of_another_kind_are_named)
{
    mmebm_network *network = NULL;
    mmebm_model *model = small_model(context);
    mmebm_trainer *trainer = NULL;
    REQUIRE(model && make_every_kind(context, &network) == MMEBM_OK);
    REQUIRE(mmebm_network_save(network, in_folder("network"), NULL) == MMEBM_OK);
    REQUIRE(mmebm_model_save(model, in_folder("model"), NULL) == MMEBM_OK);
    mmebm_network_destroy(&network);
    mmebm_model_destroy(&model);
    CHECK(mmebm_model_load(context, in_folder("network"), &model) == MMEBM_E_FORMAT && !model);
    CHECK(strstr(mmebm_last_error(context), "holds a network, wanted a model") != NULL);
    CHECK(mmebm_network_load(context, in_folder("model"), &network) == MMEBM_E_FORMAT && !network);
    CHECK(strstr(mmebm_last_error(context), "holds a model, wanted a network") != NULL);
    CHECK(mmebm_trainer_load(context, in_folder("model"), &model, &trainer) == MMEBM_E_FORMAT && !model && !trainer);
    CHECK(strstr(mmebm_last_error(context), "holds a model, wanted a trainer") != NULL);
}

/* ---- calls that make no sense */

TEST(wrong_arguments_are_refused)
{
    mmebm_model *model = small_model(context), *loaded = NULL;
    mmebm_network *network = NULL;
    mmebm_save_options options = save_options(MMEBM_F32, 0);
    REQUIRE(model && make_every_kind(context, &network) == MMEBM_OK);
    CHECK(mmebm_model_save(NULL, in_folder("none"), NULL) == MMEBM_E_ARGUMENT);
    CHECK(mmebm_model_save(model, NULL, NULL) == MMEBM_E_ARGUMENT);
    CHECK(mmebm_model_load(NULL, in_folder("none"), &loaded) == MMEBM_E_ARGUMENT);
    CHECK(mmebm_model_load(context, NULL, &loaded) == MMEBM_E_ARGUMENT);
    CHECK(mmebm_model_load(context, in_folder("none"), NULL) == MMEBM_E_ARGUMENT);
    CHECK(mmebm_network_save(NULL, in_folder("none"), NULL) == MMEBM_E_ARGUMENT);
    CHECK(mmebm_network_save(network, NULL, NULL) == MMEBM_E_ARGUMENT);
    options.gzip = 2;
    CHECK(mmebm_model_save(model, in_folder("none"), &options) == MMEBM_E_ARGUMENT);
    options = save_options(77, 0);
    CHECK(mmebm_model_save(model, in_folder("none"), &options) == MMEBM_E_ARGUMENT);
    options = save_options(MMEBM_F32, 0);
    options.reserved = 1;
    CHECK(mmebm_network_save(network, in_folder("none"), &options) == MMEBM_E_UNKNOWN_OPTION);
    options = save_options(MMEBM_F32, 0);
    options.struct_size = 3;
    CHECK(mmebm_network_save(network, in_folder("none"), &options) == MMEBM_E_STRUCT_SIZE);
    CHECK(access(in_folder("none"), F_OK) != 0);
    CHECK(mmebm_model_save(model, in_folder("some"), NULL) == MMEBM_OK); /* the objects are as usable as before */
    mmebm_network_destroy(&network);
    mmebm_model_destroy(&model);
}

/* ---- memory */

static mmebm_status save_model(void *user)
{
    return mmebm_model_save(user, in_folder("memory"), NULL);
}

static mmebm_status load_model(void *user)
{
    mmebm_model *model = NULL;
    const mmebm_status status = mmebm_model_load(user, in_folder("memory"), &model);
    mmebm_model_destroy(&model);
    return status;
}

static mmebm_status save_network(void *user)
{
    return mmebm_network_save(user, in_folder("memory"), NULL);
}

static mmebm_status load_network(void *user)
{
    mmebm_network *network = NULL;
    const mmebm_status status = mmebm_network_load(user, in_folder("memory"), &network);
    mmebm_network_destroy(&network);
    return status;
}

TEST(memory_may_end_anywhere)
{
    mmebm_model *model = small_model(context);
    mmebm_network *network = NULL;
    REQUIRE(model && make_every_kind(context, &network) == MMEBM_OK);
    CHECK(survives_allocation_failures(&allocator, save_model, model));
    CHECK(survives_allocation_failures(&allocator, load_model, context));
    CHECK(survives_allocation_failures(&allocator, save_network, network));
    CHECK(survives_allocation_failures(&allocator, load_network, context));
    mmebm_network_destroy(&network);
    mmebm_model_destroy(&model);
}

int main(void)
{
    SKIP_WITHOUT_DEVICE(test_backend());
    context = open_context(&allocator);
    if (!context || !open_folder()) return EXIT_FAILURE;
    RUN(a_network_with_every_kind_of_layer_survives);
    RUN(an_unfinished_network_is_not_saved);
    RUN(models_of_every_preset_survive);
    RUN(every_model_option_survives);
    RUN(bf16_files_hold_rounded_weights);
    RUN(loading_holds_one_copy_of_the_weights);
    RUN(a_model_file_cut_anywhere_is_refused);
    RUN(a_flipped_bit_in_any_byte_of_a_model_file_is_found);
    RUN(hostile_metadata_is_refused);
    RUN(files_of_another_kind_are_named);
    RUN(wrong_arguments_are_refused);
    RUN(memory_may_end_anywhere);
    close_folder();
    mmebm_context_destroy(&context);
    CHECK(allocator.blocks == 0);
    return HARNESS_RESULT();
}

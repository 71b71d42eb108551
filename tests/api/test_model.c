/* SPDX-License-Identifier: Apache-2.0
 *
 * Models from networks: what options and networks must agree on, order and names of tensors, reading and writing them,
 * lifetimes, failing memory.
 */
#include "model_support.h"

typedef struct fixture {
    mmebm_context *context;
    mixed_parts parts;
} fixture;

static int fixture_open(fixture *f)
{
    f->context = open_context(NULL);
    if (f->context && mixed_open(f->context, &f->parts) == MMEBM_OK) return 1;
    CHECK_MSG(0, "%s", f->context ? mmebm_last_error(f->context) : "no context");
    return 0;
}

static void fixture_close(fixture *f)
{
    mixed_close(&f->parts);
    mmebm_context_destroy(&f->context);
}

/* mmebm_model_create with the fixture's parts must give `wanted` and a sentence that holds `fragment`. */
static void check_refused(const fixture *f, mmebm_status wanted, const char *fragment)
{
    mmebm_model *model = (mmebm_model *)(uintptr_t)8;
    const mmebm_status status = mixed_model(f->context, &f->parts, &model);
    CHECK_MSG(status == wanted, "%s, wanted %s ('%s')", mmebm_status_name(status), mmebm_status_name(wanted), fragment);
    CHECK_MSG(strstr(mmebm_last_error(f->context), fragment), "'%s' has no '%s'", mmebm_last_error(f->context),
              fragment);
    CHECK(!model);
    if (status == MMEBM_OK) mmebm_model_destroy(&model);
}

/* One changed field of the options or of modality 1. */
#define REFUSED(f, field, value, wanted, fragment)                                                 \
    do {                                                                                           \
        const mixed_parts kept_ = (f)->parts;                                                      \
        (f)->parts.field = (value);                                                                \
        check_refused((f), (wanted), (fragment));                                                  \
        (f)->parts = kept_;                                                                        \
    } while (0)

TEST(options_are_checked)
{
    fixture f;
    REQUIRE(fixture_open(&f));
    REFUSED(&f, options.struct_size, 4, MMEBM_E_STRUCT_SIZE, "model options");
    REFUSED(&f, options.n_modalities, 0, MMEBM_E_ARGUMENT, "n_modalities is 0, wanted 1 to 16");
    REFUSED(&f, options.n_modalities, 17, MMEBM_E_ARGUMENT, "n_modalities is 17");
    REFUSED(&f, options.modalities, NULL, MMEBM_E_ARGUMENT, "modalities is NULL");
    REFUSED(&f, options.latent_size, 0, MMEBM_E_ARGUMENT, "latent_size is 0");
    REFUSED(&f, options.latent_size, 65537, MMEBM_E_ARGUMENT, "latent_size is 65537, wanted 1 to 65536");
    REFUSED(&f, options.prior, MMEBM_CATEGORICAL, MMEBM_E_ARGUMENT, "prior is 3");
    REFUSED(&f, options.posterior, 0, MMEBM_E_ARGUMENT, "posterior is 0");
    REFUSED(&f, options.posterior_scale, 4, MMEBM_E_ARGUMENT, "posterior_scale is 4");
    REFUSED(&f, options.prior_scale, 0.0f, MMEBM_E_ARGUMENT, "prior_scale is 0");
    REFUSED(&f, options.prior_scale, INFINITY, MMEBM_E_ARGUMENT, "prior_scale is inf");
    REFUSED(&f, options.posterior_floor, -1.0f, MMEBM_E_ARGUMENT, "posterior_floor is -1");
    REFUSED(&f, options.posterior_floor, NAN, MMEBM_E_ARGUMENT, "posterior_floor is nan");
    REFUSED(&f, modalities[1].struct_size, 3, MMEBM_E_STRUCT_SIZE, "modality");
    REFUSED(&f, modalities[1].likelihood, 4, MMEBM_E_ARGUMENT, "modality 1: likelihood is 4");
    REFUSED(&f, modalities[1].reserved, 1, MMEBM_E_UNKNOWN_OPTION, "modality 1: reserved is 1");
    REFUSED(&f, modalities[1].scale, -0.5f, MMEBM_E_ARGUMENT, "modality 1: scale is -0.5");
    REFUSED(&f, modalities[1].weight, NAN, MMEBM_E_ARGUMENT, "modality 1: weight is nan");
    REFUSED(&f, modalities[1].data_max, INFINITY, MMEBM_E_ARGUMENT, "modality 1: the data range is 0 to inf");
    REFUSED(&f, modalities[1].data_min, 1.0f, MMEBM_E_ARGUMENT, "modality 1: the data range is 1 to 1");
    REFUSED(&f, modalities[1].name, "two words", MMEBM_E_ARGUMENT, "modality 1: the name 'two words'");
    REFUSED(&f, modalities[1].name, "x0", MMEBM_E_NAME, "modality 0 is named 'x0' already");
    REFUSED(&f, modalities[1].rank, 0, MMEBM_E_SHAPE, "modality 1: rank is 0");
    REFUSED(&f, modalities[1].rank, 4, MMEBM_E_SHAPE, "modality 1: rank is 4");
    REFUSED(&f, modalities[1].shape[0], -2, MMEBM_E_SHAPE, "modality 1: axis 0 is -2");
    REFUSED(&f, modalities[1].shape[0], INT64_MAX, MMEBM_E_SHAPE, "modality 1: axis 1 is 3");
    fixture_close(&f);
}

TEST(networks_must_fit_the_options)
{
    fixture f;
    REQUIRE(fixture_open(&f));
    REFUSED(&f, energy, NULL, MMEBM_E_ARGUMENT, "energy is NULL");
    REFUSED(&f, decoders[2], NULL, MMEBM_E_ARGUMENT, "decoder2 is NULL");
    REFUSED(&f, encoders[0], NULL, MMEBM_E_ARGUMENT, "encoder0 is NULL");
    REFUSED(&f, energy, f.parts.decoders[0], MMEBM_E_SHAPE, "energy has 1 inputs and 1 outputs, wanted 3 and 1");
    REFUSED(&f, decoders[1], f.parts.encoders[1], MMEBM_E_SHAPE, "decoder1 has 1 inputs and 2 outputs");
    REFUSED(&f, encoders[1], f.parts.decoders[1], MMEBM_E_SHAPE, "encoder1 has 1 inputs and 1 outputs");
    REFUSED(&f, decoders[0], f.parts.decoders[1], MMEBM_E_SHAPE, "decoder, modality 0: the output has shape [2,3,1]");
    REFUSED(&f, encoders[0], f.parts.encoders[1], MMEBM_E_SHAPE, "encoder, modality 0: the input has shape [2,3,1]");
    REFUSED(&f, options.latent_size, 3, MMEBM_E_SHAPE, "decoder, modality 0: the input has shape [2], wanted [3]");
    REFUSED(&f, modalities[0].shape[0], 5, MMEBM_E_SHAPE, "energy, modality 0: the input has shape [4], wanted [5]");
    REFUSED(&f, modalities[1].likelihood, MMEBM_CATEGORICAL, MMEBM_E_ARGUMENT,
            "decoder, modality 1: a categorical likelihood wants softmax");
    mmebm_network *unfinished = NULL;
    CHECK(mmebm_network_create(f.context, "unfinished", &unfinished) == MMEBM_OK);
    REFUSED(&f, decoders[0], unfinished, MMEBM_E_STATE, "decoder0 is not finished yet");
    mmebm_network_destroy(&unfinished);
    fixture other;
    REQUIRE(fixture_open(&other));
    REFUSED(&f, decoders[0], other.parts.decoders[0], MMEBM_E_ARGUMENT, "decoder0 belongs to another context");
    fixture_close(&other);
    mmebm_model *model = NULL;
    CHECK(mmebm_model_create(f.context, &f.parts.options, f.parts.energy, NULL, NULL, &model) == MMEBM_E_ARGUMENT);
    CHECK(mmebm_model_create(f.context, NULL, f.parts.energy, NULL, NULL, &model) == MMEBM_E_ARGUMENT);
    CHECK(mmebm_model_create(NULL, &f.parts.options, f.parts.energy, NULL, NULL, &model) == MMEBM_E_ARGUMENT);
    CHECK(mixed_model(f.context, &f.parts, NULL) == MMEBM_E_ARGUMENT);
    CHECK(mixed_model(f.context, &f.parts, &model) == MMEBM_OK); /* after all that */
    mmebm_model_destroy(&model);
    fixture_close(&f);
}

/* z -> 6 -> [layers] -> [2,3] */
static mmebm_network *categorical_decoder(mmebm_context *context, int softmax_at_6, int softmax_at_2_1_3,
                                          int softmax_last)
{
    mmebm_network *network = NULL;
    mmebm_node x;
    CHECK(mmebm_network_create(context, "decoder", &network) == MMEBM_OK);
    CHECK(mmebm_network_input(network, "z", 1, (const int64_t[]){MIXED_LATENT}, &x) == MMEBM_OK);
    CHECK(mixed_linear(network, x, "map", 6, &x) == MMEBM_OK);
    if (softmax_at_6) CHECK(mmebm_network_softmax(network, x, &x) == MMEBM_OK);
    CHECK(mmebm_network_reshape(network, x, 3, (const int64_t[]){2, 1, 3}, &x) == MMEBM_OK);
    if (softmax_at_2_1_3) CHECK(mmebm_network_softmax(network, x, &x) == MMEBM_OK);
    CHECK(mmebm_network_reshape(network, x, 2, (const int64_t[]){2, 3}, &x) == MMEBM_OK);
    if (softmax_last) CHECK(mmebm_network_softmax(network, x, &x) == MMEBM_OK);
    CHECK(mmebm_network_output(network, x, NULL) == MMEBM_OK);
    CHECK(mmebm_network_finish(network, MMEBM_INIT_PYTORCH, 0) == MMEBM_OK);
    return network;
}

TEST(categorical_means_end_in_softmax)
{
    fixture f;
    REQUIRE(fixture_open(&f));
    static const int where[4][3] = {{0, 0, 1}, {0, 1, 0}, {1, 0, 0}, {0, 0, 0}};
    for (int i = 0; i < 4; ++i) {
        const mixed_parts kept = f.parts;
        f.parts.decoders[2] = categorical_decoder(f.context, where[i][0], where[i][1], where[i][2]);
        mmebm_model *model = NULL;
        if (i < 2) /* a reshape that keeps the last axis keeps the sums */
            CHECK(mixed_model(f.context, &f.parts, &model) == MMEBM_OK);
        else
            check_refused(&f, MMEBM_E_ARGUMENT, "wants softmax as the last layer");
        mmebm_model_destroy(&model);
        mmebm_network_destroy(&f.parts.decoders[2]);
        f.parts = kept;
    }
    fixture_close(&f);
}

/* A file may hold an inference graph whose experts look at each other's data. */
TEST(experts_read_their_own_modality)
{
    fixture f;
    REQUIRE(fixture_open(&f));
    mmebm_model *model = NULL, *second = NULL;
    REQUIRE(mixed_model(f.context, &f.parts, &model) == MMEBM_OK);
    mmebm_graph graphs[MMEBM_PART_COUNT];
    float *weights[MMEBM_PART_COUNT];
    for (int p = 0; p < MMEBM_PART_COUNT; ++p) {
        const mmebm_part *part = &model->parts[p];
        CHECK(mmebm__graph_copy(f.context, &part->graph, &graphs[p]) == MMEBM_OK);
        weights[p] = calloc(part->graph.weight_count, sizeof(float));
    }
    int32_t *outputs = graphs[MMEBM_PART_INFERENCE].outputs;
    const int32_t third = outputs[2];
    outputs[2] = outputs[0];
    outputs[0] = third;
    const float *const filled[MMEBM_PART_COUNT] = {weights[0], weights[1], weights[2]};
    CHECK(mmebm__model_assemble(f.context, &f.parts.options, graphs, filled, &second) == MMEBM_E_ARGUMENT);
    CHECK(strstr(mmebm_last_error(f.context), "encoder 0 reads modality 1"));
    CHECK(graphs[MMEBM_PART_ENERGY].layers && graphs[MMEBM_PART_INFERENCE].layers); /* still the caller's */
    outputs[0] = outputs[2];
    outputs[2] = third;
    memcpy(graphs[MMEBM_PART_ENERGY].tensors[0].name, "decoder", 7);
    CHECK(mmebm__model_assemble(f.context, &f.parts.options, graphs, filled, &second) == MMEBM_E_NAME);
    memcpy(graphs[MMEBM_PART_ENERGY].tensors[0].name, "energy.", 7);
    CHECK(mmebm__model_assemble(f.context, &f.parts.options, graphs, filled, &second) == MMEBM_OK);
    for (int p = 0; p < MMEBM_PART_COUNT; ++p) {
        CHECK(!graphs[p].layers);
        free(weights[p]);
    }
    mmebm_model_destroy(&second);
    mmebm_model_destroy(&model);
    fixture_close(&f);
}

TEST(modalities_can_be_asked_for)
{
    fixture f;
    REQUIRE(fixture_open(&f));
    mmebm_model *model = NULL;
    char name[16] = "sound";
    f.parts.modalities[1].name = name;
    f.parts.modalities[1].data_min = -2.0f;
    REQUIRE(mixed_model(f.context, &f.parts, &model) == MMEBM_OK);
    memset(name, 'z', 5); /* names are copied */
    CHECK(mmebm_model_modality_count(model) == MIXED_MODALITIES && mmebm_model_latent_size(model) == MIXED_LATENT);
    CHECK(mmebm_model_modality_count(NULL) == 0 && mmebm_model_latent_size(NULL) == 0);
    mmebm_modality modality = {.struct_size = sizeof modality};
    CHECK(mmebm_model_modality(model, 1, &modality) == MMEBM_OK);
    CHECK(strcmp(modality.name, "sound") == 0 && modality.likelihood == MMEBM_LAPLACE && modality.rank == 3);
    CHECK(modality.shape[0] == 2 && modality.shape[1] == 3 && modality.shape[2] == 1 && modality.shape[3] == 0);
    CHECK(modality.scale == 0.75f && modality.weight == 1.0f);
    CHECK(modality.data_min == -2.0f && modality.data_max == 1.0f);
    CHECK(modality.struct_size == sizeof modality);
    CHECK(mmebm_model_modality(model, 2, &modality) == MMEBM_OK && strcmp(modality.name, "x2") == 0);
    CHECK(mmebm_model_modality(model, 3, &modality) == MMEBM_E_ARGUMENT);
    CHECK(mmebm_model_modality(model, 0, NULL) == MMEBM_E_ARGUMENT);
    modality.struct_size = 1;
    CHECK(mmebm_model_modality(model, 0, &modality) == MMEBM_E_STRUCT_SIZE);
    mmebm_model_destroy(&model);
    fixture_close(&f);
}

/* What was asked for, and what it is good for: a second model of the same networks. */
TEST(options_come_back_as_given)
{
    fixture f;
    REQUIRE(fixture_open(&f));
    mmebm_model *model = NULL, *second = NULL;
    mmebm_model_options asked = {.struct_size = sizeof asked}, again = asked;
    f.parts.options.prior = MMEBM_LAPLACE;
    f.parts.options.prior_scale = 0.7f;
    f.parts.options.posterior = MMEBM_LAPLACE;
    f.parts.options.posterior_scale = MMEBM_SCALE_SOFTMAX;
    f.parts.options.posterior_floor = 0.03f;
    REQUIRE(mixed_model(f.context, &f.parts, &model) == MMEBM_OK);
    REQUIRE(mmebm_model_get_options(model, &asked) == MMEBM_OK);
    CHECK(asked.n_modalities == MIXED_MODALITIES && asked.latent_size == MIXED_LATENT);
    CHECK(asked.prior == MMEBM_LAPLACE && asked.prior_scale == 0.7f && asked.posterior == MMEBM_LAPLACE);
    CHECK(asked.posterior_scale == MMEBM_SCALE_SOFTMAX && asked.posterior_floor == 0.03f);
    CHECK(asked.modalities && asked.modalities != f.parts.modalities);
    f.parts.options = asked;
    REQUIRE(mixed_model(f.context, &f.parts, &second) == MMEBM_OK);
    REQUIRE(mmebm_model_get_options(second, &again) == MMEBM_OK);
    CHECK(again.modalities != asked.modalities && again.prior_scale == 0.7f && again.posterior_floor == 0.03f);
    for (uint32_t i = 0; i < MIXED_MODALITIES; ++i)
        CHECK(strcmp(again.modalities[i].name, asked.modalities[i].name) == 0 &&
              again.modalities[i].rank == asked.modalities[i].rank);
    mmebm_model_destroy(&model);
    mmebm_model_destroy(&second);
    fixture_close(&f);
}

static const char *const tensor_names[] = {
    "energy.sum.weight",    "energy.sum.bias",     "decoder0.map.weight",  "decoder0.map.bias", "decoder1.map.weight",
    "decoder1.map.bias",    "decoder2.map.weight", "decoder2.map.bias",    "encoder0.mean.weight", "encoder0.mean.bias",
    "encoder0.raw.weight",  "encoder0.raw.bias",   "encoder1.mean.weight", "encoder1.mean.bias", "encoder1.raw.weight",
    "encoder1.raw.bias",    "encoder2.mean.weight", "encoder2.mean.bias",  "encoder2.raw.weight", "encoder2.raw.bias"};
enum { TENSORS = sizeof tensor_names / sizeof tensor_names[0] };

TEST(tensors_are_those_of_the_networks)
{
    fixture f;
    REQUIRE(fixture_open(&f));
    mmebm_model *model = NULL;
    REQUIRE(mixed_model(f.context, &f.parts, &model) == MMEBM_OK);
    CHECK(mmebm_model_tensor_count(model) == TENSORS && mmebm_model_tensor_count(NULL) == 0);
    const mmebm_network *networks[7] = {f.parts.energy};
    memcpy(networks + 1, f.parts.decoders, sizeof f.parts.decoders);
    memcpy(networks + 4, f.parts.encoders, sizeof f.parts.encoders);
    uint32_t t = 0;
    for (int k = 0; k < 7; ++k) {
        for (uint32_t own = 0; own < mmebm_network_tensor_count(networks[k]); ++own, ++t) {
            const char *name = "", *own_name = "";
            uint32_t rank = 0, own_rank = 0;
            int64_t shape[MMEBM_MAX_RANK], own_shape[MMEBM_MAX_RANK];
            float value[64], own_value[64];
            mmebm_view view, own_view;
            CHECK(mmebm_model_tensor_info(model, t, &name, &rank, shape) == MMEBM_OK);
            CHECK(mmebm_network_tensor_info(networks[k], own, &own_name, &own_rank, own_shape) == MMEBM_OK);
            CHECK_MSG(strcmp(name, tensor_names[t]) == 0, "tensor %u is %s", t, name);
            CHECK(strcmp(strchr(name, '.') + 1, own_name) == 0);
            CHECK(rank == own_rank && memcmp(shape, own_shape, rank * sizeof *shape) == 0);
            CHECK(mmebm_view_init(&view, value, rank, shape) == MMEBM_OK);
            CHECK(mmebm_view_init(&own_view, own_value, rank, shape) == MMEBM_OK);
            CHECK(mmebm_model_get_tensor(model, name, &view) == MMEBM_OK);
            CHECK(mmebm_network_get_tensor(networks[k], own_name, &own_view) == MMEBM_OK);
            const size_t count = (size_t)(shape[0] * (rank > 1 ? shape[1] : 1));
            CHECK(memcmp(value, own_value, count * sizeof(float)) == 0);
        }
    }
    CHECK(t == TENSORS);
    CHECK(mmebm_model_tensor_info(model, TENSORS, NULL, NULL, NULL) == MMEBM_E_ARGUMENT);
    CHECK(mmebm_model_tensor_info(model, UINT32_MAX, NULL, NULL, NULL) == MMEBM_E_ARGUMENT);
    mmebm_model_destroy(&model);
    fixture_close(&f);
}

TEST(tensors_can_be_written)
{
    fixture f;
    REQUIRE(fixture_open(&f));
    mmebm_model *model = NULL;
    REQUIRE(mixed_model(f.context, &f.parts, &model) == MMEBM_OK);
    float values[12], back[12] = {0};
    fill_numbers(values, 12, 3);
    mmebm_view view, back_view;
    const int64_t shape[2] = {6, 2}, wrong[2] = {2, 6};
    CHECK(mmebm_view_init(&view, values, 2, shape) == MMEBM_OK);
    CHECK(mmebm_view_init(&back_view, back, 2, shape) == MMEBM_OK);
    const uint64_t energy = model->parts[MMEBM_PART_ENERGY].revision;
    const uint64_t generator = model->parts[MMEBM_PART_GENERATOR].revision;
    CHECK(mmebm_model_set_tensor(model, "decoder1.map.weight", &view) == MMEBM_OK);
    CHECK(model->parts[MMEBM_PART_GENERATOR].revision == generator + 1); /* samplers see it */
    CHECK(model->parts[MMEBM_PART_ENERGY].revision == energy);
    CHECK(mmebm_model_get_tensor(model, "decoder1.map.weight", &back_view) == MMEBM_OK);
    CHECK(memcmp(values, back, sizeof values) == 0);
    CHECK(mmebm_model_set_tensor(model, "decoder1.map", &view) == MMEBM_E_NAME);
    CHECK(strstr(mmebm_last_error(f.context), "there is no tensor 'decoder1.map'"));
    CHECK(mmebm_model_set_tensor(model, NULL, &view) == MMEBM_E_ARGUMENT);
    CHECK(mmebm_model_set_tensor(NULL, "decoder1.map.weight", &view) == MMEBM_E_ARGUMENT);
    CHECK(mmebm_view_init(&view, values, 2, wrong) == MMEBM_OK);
    CHECK(mmebm_model_set_tensor(model, "decoder1.map.weight", &view) == MMEBM_E_SHAPE);
    CHECK(mmebm_model_get_tensor(model, "decoder1.map.weight", &view) == MMEBM_E_SHAPE);
    CHECK(mmebm_model_get_tensor(model, "decoder1.map.weight", NULL) == MMEBM_E_ARGUMENT);
    CHECK(model->parts[MMEBM_PART_GENERATOR].revision == generator + 1);
    mmebm_model_destroy(&model);
    fixture_close(&f);
}

/* Networks and context may go before the model does. */
TEST(any_order_of_destruction)
{
    counting_allocator allocator = {0};
    fixture f = {.context = open_context(&allocator)};
    REQUIRE(f.context && mixed_open(f.context, &f.parts) == MMEBM_OK);
    mmebm_model *model = NULL;
    CHECK(mixed_model(f.context, &f.parts, &model) == MMEBM_OK);
    fixture_close(&f);
    float bias[1];
    mmebm_view view;
    const int64_t one[1] = {1};
    CHECK(mmebm_view_init(&view, bias, 1, one) == MMEBM_OK);
    CHECK(mmebm_model_get_tensor(model, "energy.sum.bias", &view) == MMEBM_OK && bias[0] == 0.0f);
    mmebm_model_destroy(&model);
    CHECK(!model);
    mmebm_model_destroy(&model);
    mmebm_model_destroy(NULL);
    CHECK(allocator.blocks == 0 && allocator.errors == 0);
}

TEST(every_allocation_may_fail)
{
    counting_allocator allocator = {0};
    fixture f = {.context = open_context(&allocator)};
    REQUIRE(f.context && mixed_open(f.context, &f.parts) == MMEBM_OK);
    const uint64_t blocks = allocator.blocks;
    mmebm_status status = MMEBM_E_MEMORY;
    int n = 0;
    while (status == MMEBM_E_MEMORY && n < 1000) {
        mmebm_model *model = NULL;
        allocator.fail_at = allocator.calls + (uint64_t)++n;
        status = mixed_model(f.context, &f.parts, &model);
        allocator.fail_at = 0;
        mmebm_model_destroy(&model);
        CHECK_MSG(allocator.blocks == blocks, "allocation %d left %d blocks", n, (int)(allocator.blocks - blocks));
    }
    CHECK_MSG(status == MMEBM_OK && n > 20, "ended with %s after %d", mmebm_status_name(status), n);
    fixture_close(&f);
    CHECK(allocator.blocks == 0 && allocator.errors == 0);
}

int main(void)
{
    SKIP_WITHOUT_DEVICE(test_backend());
    RUN(options_are_checked);
    RUN(networks_must_fit_the_options);
    RUN(categorical_means_end_in_softmax);
    RUN(experts_read_their_own_modality);
    RUN(modalities_can_be_asked_for);
    RUN(options_come_back_as_given);
    RUN(tensors_are_those_of_the_networks);
    RUN(tensors_can_be_written);
    RUN(any_order_of_destruction);
    RUN(every_allocation_may_fail);
    return HARNESS_RESULT();
}

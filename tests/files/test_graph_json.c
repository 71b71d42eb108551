/* SPDX-License-Identifier: Apache-2.0
 *
 * Graphs as text: what is written makes the same graph again, layer for layer, tensor for tensor; text that would make
 * another one than a user could build is refused.
 */
#include "every_kind.h"
#include "file_support.h"
#include "graph_json.h"
#include "model.h"

static mmebm_context *context;
static counting_allocator allocator;

static int same_layers(const mmebm_graph *a, const mmebm_graph *b)
{
    if (a->layer_count != b->layer_count || a->edge_count != b->edge_count) return 0;
    for (uint32_t i = 0; i < a->layer_count; ++i) {
        const mmebm_layer *x = &a->layers[i], *y = &b->layers[i];
        const int same =
            x->kind == y->kind && x->first_edge == y->first_edge && x->edge_count == y->edge_count &&
            x->rank == y->rank && memcmp(x->shape, y->shape, sizeof x->shape) == 0 && x->count == y->count &&
            x->weight == y->weight && x->bias == y->bias && x->mean == y->mean && x->variance == y->variance &&
            memcmp(x->kernel, y->kernel, sizeof x->kernel) == 0 &&
            memcmp(x->stride, y->stride, sizeof x->stride) == 0 &&
            memcmp(x->padding, y->padding, sizeof x->padding) == 0 &&
            memcmp(x->output_padding, y->output_padding, sizeof x->output_padding) == 0 && x->factor == y->factor &&
            x->activation == y->activation && x->flatten == y->flatten &&
            (x->parameter == y->parameter || x->activation != MMEBM_LEAKY_RELU) && x->alpha == y->alpha &&
            x->beta == y->beta && x->epsilon == y->epsilon;
        if (!same) {
            printf("  layer %u differs\n", i);
            return 0;
        }
    }
    return memcmp(a->edges, b->edges, a->edge_count * sizeof *a->edges) == 0;
}

static int same_tensors(const mmebm_graph *a, const mmebm_graph *b)
{
    if (a->tensor_count != b->tensor_count || a->weight_count != b->weight_count) return 0;
    for (uint32_t t = 0; t < a->tensor_count; ++t) {
        const mmebm_tensor *x = &a->tensors[t], *y = &b->tensors[t];
        if (strcmp(x->name, y->name) != 0 || x->role != y->role || x->rank != y->rank || x->offset != y->offset ||
            x->count != y->count || memcmp(x->shape, y->shape, sizeof x->shape) != 0 || x->fan_in != y->fan_in ||
            x->fan_out != y->fan_out || x->momentum != y->momentum) {
            printf("  tensor %s and %s differ\n", x->name, y->name);
            return 0;
        }
    }
    return 1;
}

static int same_graphs(const mmebm_graph *a, const mmebm_graph *b)
{
    return same_layers(a, b) && same_tensors(a, b) && a->input_count == b->input_count &&
           a->output_count == b->output_count &&
           memcmp(a->inputs, b->inputs, a->input_count * sizeof *a->inputs) == 0 &&
           memcmp(a->outputs, b->outputs, a->output_count * sizeof *a->outputs) == 0;
}

static mmebm_status read_again(const mmebm_graph *graph, mmebm_graph *again)
{
    mmebm_text text = {.context = context};
    mmebm__graph_write(&text, graph);
    mmebm_status status = text.status;
    if (status == MMEBM_OK) status = mmebm__graph_read(context, "graph", text.data, again);
    mmebm__text_free(&text);
    return status;
}

static void check_survives(const mmebm_graph *graph)
{
    mmebm_graph again;
    REQUIRE(read_again(graph, &again) == MMEBM_OK);
    CHECK(same_graphs(graph, &again));
    mmebm__graph_free(context, &again);
}

TEST(every_kind_of_layer_survives)
{
    mmebm_network *network = NULL;
    REQUIRE(make_every_kind(context, &network) == MMEBM_OK);
    for (uint32_t kind = 0; kind < MMEBM_LAYER_NLL; ++kind) {
        uint32_t found = 0;
        for (uint32_t i = 0; i < network->graph.layer_count; ++i) found += network->graph.layers[i].kind == kind;
        CHECK_MSG(found > 0, "the test network has no layer of kind %u", kind);
    }
    check_survives(&network->graph);
    mmebm_network_destroy(&network);
}

TEST(joined_graphs_survive)
{
    static const char *const presets[] = {"mlp", "polymnist"};
    for (int p = 0; p < 2; ++p) {
        mmebm_preset_options options;
        mmebm_model *model;
        REQUIRE(mmebm_preset_options_init(&options) == MMEBM_OK);
        options.n_modalities = 2;
        options.sizes = small_sizes;
        options.nf = options.nef = options.stem_channels = options.hidden = 8;
        options.image_size = 16;
        REQUIRE(mmebm_model_create_preset(context, presets[p], &options, &model) == MMEBM_OK);
        for (int part = 0; part < MMEBM_PART_COUNT; ++part) check_survives(&model->parts[part].graph);
        mmebm_model_destroy(&model);
    }
}

TEST(graphs_with_losses_are_not_stored)
{
    mmebm_model *model = small_model(context);
    mmebm_graph posterior;
    mmebm_text text = {.context = context};
    REQUIRE(model && mmebm__graph_posterior(model, 1, &posterior) == MMEBM_OK);
    mmebm__graph_write(&text, &posterior);
    CHECK(text.status == MMEBM_E_UNSUPPORTED);
    mmebm__text_free(&text);
    mmebm__graph_free(context, &posterior);
    mmebm_model_destroy(&model);
}

/* ---- hostile text */

#define NOTHING ""
#define LAYER(kind, inputs, shape, rest)                                                           \
    "{\"kind\":\"" kind "\",\"inputs\":" inputs ",\"shape\":" shape rest "}"
#define GRAPH(layers, outputs) "{\"layers\":[" layers "],\"outputs\":[" outputs "]}"
#define INPUT LAYER("input", "[]", "[4]", NOTHING)
#define IMAGE LAYER("input", "[]", "[4,4,1]", NOTHING)
#define TANH LAYER("activation", "[0]", "[4]", ",\"function\":\"tanh\",\"parameter\":0")
#define LINEAR(shape, name, rest) LAYER("linear", "[0]", shape, ",\"name\":\"" name "\"," rest)
#define SOUND_LINEAR "\"bias\":1,\"flatten\":1"
#define WINDOW(kernel, stride) "\"kernel\":" kernel ",\"stride\":" stride ",\"padding\":[1,1]"
#define CONV(shape, window) LAYER("conv2d", "[0]", shape, ",\"name\":\"c\",\"bias\":1," window)
#define AFTER_INPUT(layer) GRAPH(INPUT "," layer, "1")
#define AFTER_IMAGE(layer) GRAPH(IMAGE "," layer, "1")

static const struct {
    const char *text, *sentence;
} hostile[] = {
    {"", "JSON"},
    {"[]", "an object"},
    {"{}", "missing"},
    {"{\"layers\":[],\"outputs\":[]}", "at least one"},
    {"{\"layers\":{},\"outputs\":[]}", "an array"},
    {GRAPH(INPUT, ""), "at least one"},
    {GRAPH(INPUT, "0"), "input"},
    {GRAPH(INPUT "," TANH, "2"), "node"},
    {GRAPH(INPUT "," TANH, "-1"), "integer"},
    {GRAPH(INPUT "," TANH, "1,1"), "already"},
    {GRAPH(INPUT "," TANH, "4294967297"), "integer"},
    {AFTER_INPUT(TANH "," TANH), "leads to no output"},
    {GRAPH(INPUT "," TANH, "1],\"more\":[1"), "known key"},
    {AFTER_INPUT("1"), "an object"},
    {AFTER_INPUT("{}"), "kind"},
    {AFTER_INPUT("{\"kind\":1}"), "a string"},
    {AFTER_INPUT("{\"kind\":\"nll\"}"), "known kind"},
    {AFTER_INPUT("{\"kind\":\"conv9d\"}"), "known kind"},
    {AFTER_INPUT("{\"kind\":\"softmax\",\"inputs\":[0]}"), "missing"},
    {AFTER_INPUT("{\"kind\":\"softmax\",\"inputs\":[0]}"), "missing"},
    {AFTER_INPUT(LAYER("softmax", "[0]", "[4]", ",\"name\":\"x\"")), "known key"},
    {AFTER_INPUT(LAYER("softmax", "[1]", "[4]", NOTHING)), "no node 1"},
    {AFTER_INPUT(LAYER("softmax", "[-1]", "[4]", NOTHING)), "integer"},
    {AFTER_INPUT(LAYER("softmax", "[0.5]", "[4]", NOTHING)), "integer"},
    {AFTER_INPUT(LAYER("softmax", "[]", "[4]", NOTHING)), "number of inputs"},
    {AFTER_INPUT(LAYER("softmax", "[0,0]", "[4]", NOTHING)), "number of inputs"},
    {AFTER_INPUT(LAYER("softmax", "0", "[4]", NOTHING)), "an array"},
    {AFTER_INPUT(LAYER("softmax", "[0]", "[5]", NOTHING)), "shape that follows"},
    {AFTER_INPUT(LAYER("softmax", "[0]", "[2,2]", NOTHING)), "shape that follows"},
    {AFTER_INPUT(LAYER("reshape", "[0]", "[2,3]", NOTHING)), "elements"},
    {AFTER_INPUT(LAYER("reshape", "[0]", "[4,0]", NOTHING)), "integer"},
    {AFTER_INPUT(LAYER("reshape", "[0]", "[]", NOTHING)), "rank"},
    {GRAPH(LAYER("input", "[]", "[9223372036854775807]", NOTHING) "," TANH, "1"), "shape"},
    {GRAPH(LAYER("input", "[]", "[65536,65536,65536]", NOTHING) "," TANH, "1"), "shape"},
    {GRAPH(LAYER("input", "[]", "[1,1,1,4]", NOTHING) "," TANH, "1"), "rank"},
    {AFTER_INPUT(LINEAR("[9223372036854775807]", "a", SOUND_LINEAR)), "out_features"},
    {AFTER_INPUT(LINEAR("[3]", "a", "\"bias\":2,\"flatten\":1")), "bias"},
    {AFTER_INPUT(LINEAR("[3]", "a", "\"bias\":1,\"flatten\":9")), "flatten"},
    {AFTER_INPUT(LINEAR("[3]", "a b", SOUND_LINEAR)), "name"},
    {AFTER_INPUT(LINEAR("[3]", "a\\u00e4", SOUND_LINEAR)), "name"},
    {GRAPH(INPUT "," LINEAR("[4]", "a", SOUND_LINEAR) "," LINEAR("[4]", "a", SOUND_LINEAR)
           "," LAYER("add", "[1,2]", "[4]", ",\"alpha\":1,\"beta\":1"), "3"), "already"},
    {AFTER_INPUT(LAYER("add", "[0,0]", "[4]", ",\"alpha\":1e39,\"beta\":1")), "float"},
    {AFTER_INPUT(LAYER("add", "[0,0]", "[4]", ",\"alpha\":null,\"beta\":1")), "number"},
    {AFTER_INPUT(LAYER("activation", "[0]", "[4]", ",\"function\":7,\"parameter\":0")), "kind"},
    {AFTER_INPUT(LAYER("activation", "[0]", "[4]", ",\"function\":\"sin\",\"parameter\":0")), "known name"},
    {AFTER_INPUT(LAYER("activation", "[0]", "[4]", ",\"function\":\"leaky_relu\",\"parameter\":2")), "slope"},
    {AFTER_IMAGE(CONV("[4,4,1]", WINDOW("[3,3]", "[0,1]"))), "stride"},
    {AFTER_IMAGE(CONV("[4,4,1]", WINDOW("[-3,3]", "[1,1]"))), "kernel"},
    {AFTER_IMAGE(CONV("[4,4,1]", WINDOW("[3]", "[1,1]"))), "two integers"},
    {AFTER_IMAGE(CONV("[4,4,1]", WINDOW("[3,[3]]", "[1,1]"))), "number"},
    {AFTER_IMAGE(CONV("[4,4]", WINDOW("[3,3]", "[1,1]"))), "shape that follows"},
    {AFTER_IMAGE(CONV("[]", WINDOW("[3,3]", "[1,1]"))), "out_channels"},
    {AFTER_IMAGE(CONV("[9,9,1]", WINDOW("[9,9]", "[1,1]"))), "fit"},
    {AFTER_IMAGE(LAYER("upsample_nearest", "[0]", "[4,4,1]", ",\"factor\":0")), "factor"},
};

TEST(hostile_text_is_refused)
{
    for (size_t i = 0; i < sizeof hostile / sizeof hostile[0]; ++i) {
        mmebm_graph graph;
        const uint64_t blocks = allocator.blocks;
        const mmebm_status status = mmebm__graph_read(context, "graph", hostile[i].text, &graph);
        CHECK_MSG(status == MMEBM_E_FORMAT, "%s: %s", hostile[i].text, mmebm_status_name(status));
        CHECK_MSG(strstr(mmebm_last_error(context), hostile[i].sentence) != NULL, "%s: %s", hostile[i].text,
                  mmebm_last_error(context));
        if (status == MMEBM_OK) mmebm__graph_free(context, &graph);
        CHECK(allocator.blocks == blocks && allocator.errors == 0);
    }
}

TEST(the_sound_layers_of_the_hostile_texts_are_read)
{
    mmebm_graph graph;
    REQUIRE(mmebm__graph_read(context, "graph", AFTER_INPUT(TANH), &graph) == MMEBM_OK);
    mmebm__graph_free(context, &graph);
    REQUIRE(mmebm__graph_read(context, "graph", AFTER_IMAGE(CONV("[4,4,7]", WINDOW("[3,3]", "[1,1]"))), &graph) ==
            MMEBM_OK);
    CHECK(graph.tensor_count == 2 && strcmp(graph.tensors[0].name, "c.weight") == 0 && graph.weight_count == 7 * 9 + 7);
    mmebm__graph_free(context, &graph);
    REQUIRE(mmebm__graph_read(context, "graph", AFTER_INPUT(LINEAR("[3]", "a", "\"flatten\":1,\"bias\":0")), &graph) ==
            MMEBM_OK); /* the order of keys is free */
    CHECK(graph.tensor_count == 1 && graph.weight_count == 12);
    mmebm__graph_free(context, &graph);
}

/* Every text that is one byte away from a sound one is refused or makes a graph that survives again. */
TEST(no_changed_byte_makes_an_inconsistent_graph)
{
    mmebm_network *network = NULL;
    mmebm_text text = {.context = context};
    int accepted = 0;
    REQUIRE(make_every_kind(context, &network) == MMEBM_OK);
    mmebm__graph_write(&text, &network->graph);
    REQUIRE(text.status == MMEBM_OK);
    for (size_t i = 0; i < text.length; ++i) {
        static const char replacements[] = "019-,]}\"e";
        const char old = text.data[i];
        for (const char *c = replacements; *c; ++c) {
            mmebm_graph graph;
            text.data[i] = *c;
            const mmebm_status status = mmebm__graph_read(context, "graph", text.data, &graph);
            CHECK(status == MMEBM_OK || status == MMEBM_E_FORMAT);
            if (status != MMEBM_OK) continue;
            ++accepted;
            check_survives(&graph);
            mmebm__graph_free(context, &graph);
        }
        text.data[i] = old;
    }
    CHECK(accepted > 0);
    mmebm__text_free(&text);
    mmebm_network_destroy(&network);
}

static mmebm_status write_and_read(void *user)
{
    const mmebm_network *network = user;
    mmebm_graph again;
    const mmebm_status status = read_again(&network->graph, &again);
    if (status == MMEBM_OK) mmebm__graph_free(context, &again);
    return status;
}

TEST(memory_may_end_anywhere)
{
    mmebm_network *network = NULL;
    REQUIRE(make_every_kind(context, &network) == MMEBM_OK);
    CHECK(survives_allocation_failures(&allocator, write_and_read, network));
    mmebm_network_destroy(&network);
}

int main(void)
{
    context = open_context(&allocator);
    if (!context) return EXIT_FAILURE;
    RUN(every_kind_of_layer_survives);
    RUN(joined_graphs_survive);
    RUN(graphs_with_losses_are_not_stored);
    RUN(hostile_text_is_refused);
    RUN(the_sound_layers_of_the_hostile_texts_are_read);
    RUN(no_changed_byte_makes_an_inconsistent_graph);
    RUN(memory_may_end_anywhere);
    mmebm_context_destroy(&context);
    return HARNESS_RESULT();
}

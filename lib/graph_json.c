/* SPDX-License-Identifier: Apache-2.0
 *
 * Graphs as JSON (graph_json.h): {"layers":[{"kind":...,"inputs":[...],"shape":[...],...},...],"outputs":[...]}.
 */
#include "graph_json.h"

#include <stdio.h>
#include <string.h>

#include "fields.h"

enum { NODES_OF_LAYER = 40 /* JSON values of the largest layer but its inputs, rounded up */ };

/* A layer between graph and text. */
typedef struct stored_layer {
    mmebm_layer settings;
    char name[MMEBM_TENSOR_NAME_SIZE]; /* common beginning of its tensors' names */
    uint32_t bias;                     /* 1 = there is one */
    float momentum;
} stored_layer;

static const char *const activation_names[] = {"relu", "leaky_relu", "silu", "softplus", "tanh", "sigmoid", NULL};

#define AT(member) offsetof(stored_layer, member)
#define SHAPE {"shape", MMEBM_FIELD_SHAPE, AT(settings.shape), AT(settings.rank), NULL, NULL}
#define NAME {"name", MMEBM_FIELD_TEXT, AT(name), MMEBM_TENSOR_NAME_SIZE, NULL, NULL}
#define BIAS {"bias", MMEBM_FIELD_U32, AT(bias), 0, NULL, NULL}
#define WINDOW                                                                                     \
    {"kernel", MMEBM_FIELD_PAIR, AT(settings.kernel), 0, NULL, NULL},                              \
    {"stride", MMEBM_FIELD_PAIR, AT(settings.stride), 0, NULL, NULL},                              \
    {"padding", MMEBM_FIELD_PAIR, AT(settings.padding), 0, NULL, NULL}
#define ONE(key, type, member) {key, type, AT(member), 0, NULL, NULL}

static const mmebm_field shape_fields[] = {SHAPE};
static const mmebm_field conv_fields[] = {SHAPE, NAME, BIAS, WINDOW};
static const mmebm_field conv_transpose_fields[] = {
    SHAPE, NAME, BIAS, WINDOW, ONE("output_padding", MMEBM_FIELD_PAIR, settings.output_padding)};
static const mmebm_field linear_fields[] = {SHAPE, NAME, BIAS, ONE("flatten", MMEBM_FIELD_U32, settings.flatten)};
static const mmebm_field activation_fields[] = {
    SHAPE,
    {"function", MMEBM_FIELD_CHOICE, AT(settings.activation), 0, activation_names, NULL},
    ONE("parameter", MMEBM_FIELD_FLOAT, settings.parameter)};
static const mmebm_field pool_fields[] = {SHAPE, WINDOW};
static const mmebm_field upsample_fields[] = {SHAPE, ONE("factor", MMEBM_FIELD_I64, settings.factor)};
static const mmebm_field add_fields[] = {SHAPE, ONE("alpha", MMEBM_FIELD_FLOAT, settings.alpha),
                                         ONE("beta", MMEBM_FIELD_FLOAT, settings.beta)};
static const mmebm_field batch_norm_fields[] = {SHAPE, NAME, ONE("epsilon", MMEBM_FIELD_FLOAT, settings.epsilon),
                                                ONE("momentum", MMEBM_FIELD_FLOAT, momentum)};

#define TABLE(fields) {fields, sizeof fields / sizeof fields[0], 0}

/* Kinds without a name are not stored. */
static const struct {
    const char *name;
    mmebm_field_table table;
} kinds[MMEBM_LAYER_KIND_COUNT] = {
    [MMEBM_LAYER_INPUT] = {"input", TABLE(shape_fields)},
    [MMEBM_LAYER_CONV2D] = {"conv2d", TABLE(conv_fields)},
    [MMEBM_LAYER_CONV_TRANSPOSE2D] = {"conv_transpose2d", TABLE(conv_transpose_fields)},
    [MMEBM_LAYER_LINEAR] = {"linear", TABLE(linear_fields)},
    [MMEBM_LAYER_ACTIVATION] = {"activation", TABLE(activation_fields)},
    [MMEBM_LAYER_SOFTMAX] = {"softmax", TABLE(shape_fields)},
    [MMEBM_LAYER_AVG_POOL] = {"avg_pool", TABLE(pool_fields)},
    [MMEBM_LAYER_GLOBAL_AVG_POOL] = {"global_avg_pool", TABLE(shape_fields)},
    [MMEBM_LAYER_UPSAMPLE] = {"upsample_nearest", TABLE(upsample_fields)},
    [MMEBM_LAYER_ADD] = {"add", TABLE(add_fields)},
    [MMEBM_LAYER_CONCAT] = {"concat", TABLE(shape_fields)},
    [MMEBM_LAYER_RESHAPE] = {"reshape", TABLE(shape_fields)},
    [MMEBM_LAYER_BATCH_NORM] = {"batch_norm", TABLE(batch_norm_fields)},
};

/* ---- writing */

static void store_layer(const mmebm_graph *graph, const mmebm_layer *layer, stored_layer *stored)
{
    *stored = (stored_layer){.settings = *layer, .bias = layer->bias >= 0};
    if (layer->kind == MMEBM_LAYER_ACTIVATION && layer->activation != MMEBM_LEAKY_RELU)
        stored->settings.parameter = 0.0f; /* not used: it may be anything */
    if (layer->mean >= 0) stored->momentum = graph->tensors[layer->mean].momentum;
    if (layer->weight < 0) return;
    snprintf(stored->name, sizeof stored->name, "%s", graph->tensors[layer->weight].name);
    char *dot = strrchr(stored->name, '.'); /* every tensor is "<name>.<suffix>": graph_append.c */
    if (dot) *dot = '\0';
}

static void write_indices(mmebm_text *text, uint32_t count, const int32_t *indices)
{
    mmebm__text_raw(text, "[");
    for (uint32_t i = 0; i < count; ++i) {
        if (i > 0) mmebm__text_raw(text, ",");
        mmebm__text_integer(text, indices[i]);
    }
    mmebm__text_raw(text, "]");
}

static void refuse_write(mmebm_text *text, const char *why)
{
    if (text->status == MMEBM_OK)
        text->status = mmebm__fail(text->context, MMEBM_E_UNSUPPORTED, "a graph cannot be stored: %s", why);
}

void mmebm__graph_write(mmebm_text *text, const mmebm_graph *graph)
{
    if ((uint64_t)graph->layer_count * NODES_OF_LAYER + graph->edge_count > MMEBM_JSON_MAX_NODES)
        refuse_write(text, "it has too many layers and connections to be read again");
    mmebm__text_raw(text, "{\"layers\":[");
    for (uint32_t i = 0; i < graph->layer_count && text->status == MMEBM_OK; ++i) {
        const mmebm_layer *layer = &graph->layers[i];
        stored_layer stored;
        if (!kinds[layer->kind].name) {
            refuse_write(text, "it holds losses");
            return;
        }
        store_layer(graph, layer, &stored);
        mmebm__text_raw(text, i > 0 ? ",{" : "{");
        mmebm__text_key(text, "kind");
        mmebm__text_string(text, kinds[layer->kind].name);
        mmebm__text_key(text, "inputs");
        write_indices(text, layer->edge_count, graph->edges + layer->first_edge);
        mmebm__fields_write(text, &kinds[layer->kind].table, &stored);
        mmebm__text_raw(text, "}");
    }
    mmebm__text_raw(text, "],\"outputs\":");
    write_indices(text, graph->output_count, graph->outputs);
    mmebm__text_raw(text, "}");
}

/* ---- reading */

mmebm_status mmebm__refused_content(mmebm_context *context, const char *what, mmebm_status status)
{
    switch ((int)status) {
    case MMEBM_E_ARGUMENT:
    case MMEBM_E_SHAPE:
    case MMEBM_E_NAME:
    case MMEBM_E_STATE:
    case MMEBM_E_STRUCT_SIZE:
    case MMEBM_E_UNKNOWN_OPTION:
    case MMEBM_E_UNSUPPORTED:
        return mmebm__fail(context, MMEBM_E_FORMAT, "%s: %s", what, context->error);
    default:
        return status;
    }
}

static mmebm_status read_kind(const mmebm_json *json, uint32_t node, mmebm_layer_kind *kind)
{
    char name[32];
    MMEBM_TRY(mmebm__json_string(json, node, name, sizeof name));
    for (uint32_t k = 0; k < MMEBM_LAYER_KIND_COUNT; ++k) {
        if (!kinds[k].name || strcmp(name, kinds[k].name) != 0) continue;
        *kind = (mmebm_layer_kind)k;
        return MMEBM_OK;
    }
    return mmebm__json_fail(json, node, "a known kind of layer");
}

/* An array of layer numbers; graph_append.c checks what they point at. */
static mmebm_status read_indices(const mmebm_json *json, uint32_t array, mmebm_node *indices)
{
    for (uint32_t i = 0; i < json->nodes[array].children; ++i) {
        int64_t index;
        MMEBM_TRY(mmebm__json_integer(json, array + 1 + i, 0, INT32_MAX, &index));
        indices[i] = (mmebm_node)index;
    }
    return MMEBM_OK;
}

/* Appends what was stored; the shape that follows must be the stored one. */
static mmebm_status append_layer(const mmebm_json *json, uint32_t object, const stored_layer *stored,
                                 uint32_t input_count, const mmebm_node *inputs, mmebm_graph *graph)
{
    const mmebm_layer *settings = &stored->settings;
    mmebm_layer_request request = {.owner = json->what,
                                   .settings = *settings,
                                   .out_channels = settings->rank > 0 ? settings->shape[settings->rank - 1] : 0,
                                   .momentum = stored->momentum,
                                   .name = stored->name[0] ? stored->name : NULL,
                                   .input_count = input_count,
                                   .inputs = inputs};
    mmebm_node node;
    if (stored->bias > 1) return mmebm__json_fail(json, object, "bias 0 or 1");
    request.settings.bias = stored->bias ? 0 : -1;
    const mmebm_status status = mmebm__graph_append(json->context, graph, &request, &node);
    if (status != MMEBM_OK) return mmebm__refused_content(json->context, "a stored layer was refused", status);
    const mmebm_layer *made = &graph->layers[node];
    if (made->rank != settings->rank || memcmp(made->shape, settings->shape, made->rank * sizeof made->shape[0]) != 0)
        return mmebm__json_fail(json, object, "the shape that follows from the inputs");
    return MMEBM_OK;
}

static mmebm_status read_layer(const mmebm_json *json, uint32_t object, mmebm_graph *graph)
{
    static const char *const others[] = {"kind", "inputs"};
    stored_layer stored = {0};
    uint32_t kind, nodes[2];
    MMEBM_TRY(mmebm__json_member(json, object, "kind", &kind));
    MMEBM_TRY(read_kind(json, kind, &stored.settings.kind));
    MMEBM_TRY(mmebm__fields_read(json, object, &kinds[stored.settings.kind].table, &stored, 2, others, nodes));
    MMEBM_TRY(mmebm__json_expect(json, nodes[1], MMEBM_JSON_ARRAY));
    const uint32_t count = json->nodes[nodes[1]].children;
    mmebm_node *inputs = mmebm__allocate(json->context, count * sizeof *inputs);
    if (!inputs) return MMEBM_E_MEMORY;
    mmebm_status status = read_indices(json, nodes[1], inputs);
    if (status == MMEBM_OK) status = append_layer(json, object, &stored, count, inputs, graph);
    mmebm__free(json->context, inputs, count * sizeof *inputs);
    return status;
}

/* Plans are made for graphs in which every layer but the inputs leads to an output. */
static mmebm_status check_reached(const mmebm_json *json, const mmebm_graph *graph)
{
    unsigned char *reached = mmebm__allocate(json->context, graph->layer_count);
    if (!reached) return MMEBM_E_MEMORY;
    mmebm__graph_reach(graph, graph->output_count, graph->outputs, reached);
    mmebm_status status = MMEBM_OK;
    for (uint32_t i = 0; i < graph->layer_count && status == MMEBM_OK; ++i)
        if (!reached[i] && graph->layers[i].kind != MMEBM_LAYER_INPUT)
            status = mmebm__fail(json->context, MMEBM_E_FORMAT, "%s: layer %u leads to no output", json->what, i);
    mmebm__free(json->context, reached, graph->layer_count);
    return status;
}

static mmebm_status read_graph(const mmebm_json *json, mmebm_graph *graph)
{
    static const char *const keys[] = {"layers", "outputs"};
    uint32_t nodes[2];
    MMEBM_TRY(mmebm__json_members(json, 0, 2, 0, keys, nodes));
    MMEBM_TRY(mmebm__json_expect(json, nodes[0], MMEBM_JSON_ARRAY));
    MMEBM_TRY(mmebm__json_expect(json, nodes[1], MMEBM_JSON_ARRAY));
    const uint32_t end = json->nodes[nodes[0]].next;
    for (uint32_t node = nodes[0] + 1; node < end; node = json->nodes[node].next)
        MMEBM_TRY(read_layer(json, node, graph));
    for (uint32_t i = 0; i < json->nodes[nodes[1]].children; ++i) {
        int64_t index;
        MMEBM_TRY(mmebm__json_integer(json, nodes[1] + 1 + i, 0, INT32_MAX, &index));
        MMEBM_TRY(mmebm__refused_content(
            json->context, "a stored output was refused",
            mmebm__graph_output(json->context, graph, json->what, (mmebm_node)index)));
    }
    if (graph->input_count == 0 || graph->output_count == 0)
        return mmebm__fail(json->context, MMEBM_E_FORMAT, "%s: %u inputs and %u outputs, wanted at least one of each",
                           json->what, graph->input_count, graph->output_count);
    return check_reached(json, graph);
}

mmebm_status mmebm__graph_read(mmebm_context *context, const char *what, const char *text, mmebm_graph *graph)
{
    mmebm_json json;
    memset(graph, 0, sizeof *graph);
    MMEBM_TRY(mmebm__json_parse(context, what, text, strlen(text), &json));
    const mmebm_status status = read_graph(&json, graph);
    mmebm__json_free(&json);
    if (status != MMEBM_OK) mmebm__graph_free(context, graph);
    return status;
}

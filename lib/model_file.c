/* SPDX-License-Identifier: Apache-2.0
 *
 * Networks and models in files (docs/file-format.md): options and graphs as JSON in the metadata, weights as tensors.
 * Reading builds everything through the checks that a user's own networks pass (graph_append.c,
 * mmebm__model_assemble), so that no file can make an object that the library could not have made.
 */
#include "model_file.h"

#include <stdio.h>
#include <string.h>

#include "fields.h"
#include "struct_size.h"

static const char *const kind_names[MMEBM_FILE_KIND_COUNT] = {"network", "model", "trainer"};
static const char *const part_keys[MMEBM_PART_COUNT] = {"mmebm.graph.energy", "mmebm.graph.generator",
                                                        "mmebm.graph.inference"};
static const char network_graph_key[] = "mmebm.graph.network", network_key[] = "mmebm.network",
                  model_key[] = "mmebm.model", format_key[] = "mmebm.format", kind_key[] = "mmebm.kind";

/* ---- options as JSON */

static const char *const likelihoods[] = {"gaussian", "laplace", "categorical", NULL};
static const char *const scale_kinds[] = {"softplus", "exp_half", "softmax", NULL};

/* A modality with room for its name. */
typedef struct stored_modality {
    mmebm_modality modality;
    char name[MMEBM_MODALITY_NAME_SIZE];
} stored_modality;

#define AT(member) offsetof(stored_modality, member)
static const mmebm_field modality_fields[] = {
    {"name", MMEBM_FIELD_TEXT, AT(name), MMEBM_MODALITY_NAME_SIZE, NULL, NULL},
    {"likelihood", MMEBM_FIELD_CHOICE, AT(modality.likelihood), 0, likelihoods, NULL},
    {"shape", MMEBM_FIELD_SHAPE, AT(modality.shape), AT(modality.rank), NULL, NULL},
    {"scale", MMEBM_FIELD_FLOAT, AT(modality.scale), 0, NULL, NULL},
    {"weight", MMEBM_FIELD_FLOAT, AT(modality.weight), 0, NULL, NULL},
    {"data_min", MMEBM_FIELD_FLOAT, AT(modality.data_min), 0, NULL, NULL},
    {"data_max", MMEBM_FIELD_FLOAT, AT(modality.data_max), 0, NULL, NULL},
};
#undef AT
#define AT(member) offsetof(mmebm_model_options, member)
static const mmebm_field model_fields[] = {
    {"latent_size", MMEBM_FIELD_U32, AT(latent_size), 0, NULL, NULL},
    {"prior", MMEBM_FIELD_CHOICE, AT(prior), 0, likelihoods, NULL},
    {"prior_scale", MMEBM_FIELD_FLOAT, AT(prior_scale), 0, NULL, NULL},
    {"posterior", MMEBM_FIELD_CHOICE, AT(posterior), 0, likelihoods, NULL},
    {"posterior_scale", MMEBM_FIELD_CHOICE, AT(posterior_scale), 0, scale_kinds, NULL},
    {"posterior_floor", MMEBM_FIELD_FLOAT, AT(posterior_floor), 0, NULL, NULL},
};
#undef AT
static const mmebm_field_table modality_table = {modality_fields, sizeof modality_fields / sizeof modality_fields[0],
                                                 0};
static const mmebm_field_table model_table = {model_fields, sizeof model_fields / sizeof model_fields[0], 0};
static const char *const modalities_key[] = {"modalities"};

static void write_model_options(mmebm_text *text, const mmebm_model *model)
{
    mmebm__text_raw(text, "{");
    mmebm__fields_write(text, &model_table, &model->options);
    mmebm__text_key(text, modalities_key[0]);
    mmebm__text_raw(text, "[");
    for (uint32_t i = 0; i < model->options.n_modalities; ++i) {
        stored_modality stored = {.modality = model->modalities[i]};
        memcpy(stored.name, model->modality_names[i], sizeof stored.name);
        mmebm__text_raw(text, i > 0 ? ",{" : "{");
        mmebm__fields_write(text, &modality_table, &stored);
        mmebm__text_raw(text, "}");
    }
    mmebm__text_raw(text, "]}");
}

/* options->modalities will point at `modalities`, whose names point at `stored`: MMEBM_MAX_MODALITIES entries each. */
static mmebm_status read_model_options(const mmebm_json *json, mmebm_model_options *options, mmebm_modality *modalities,
                                       stored_modality *stored)
{
    uint32_t array;
    MMEBM_TRY(mmebm_model_options_init(options));
    MMEBM_TRY(mmebm__fields_read(json, 0, &model_table, options, 1, modalities_key, &array));
    MMEBM_TRY(mmebm__json_expect(json, array, MMEBM_JSON_ARRAY));
    options->n_modalities = json->nodes[array].children;
    options->modalities = modalities;
    if (options->n_modalities > MMEBM_MAX_MODALITIES) return mmebm__json_fail(json, array, "fewer modalities");
    uint32_t node = array + 1;
    for (uint32_t i = 0; i < options->n_modalities; ++i, node = json->nodes[node].next) {
        MMEBM_TRY(mmebm_modality_init(&stored[i].modality));
        MMEBM_TRY(mmebm__fields_read(json, node, &modality_table, &stored[i], 0, NULL, NULL));
        modalities[i] = stored[i].modality;
        modalities[i].name = stored[i].name;
    }
    return MMEBM_OK;
}

/* ---- drafts */

mmebm_text *mmebm__draft_value(mmebm_file_draft *draft, const char *key)
{
    draft->values[draft->value_count].key = key;
    draft->values[draft->value_count].text.context = draft->context;
    return &draft->values[draft->value_count++].text;
}

mmebm_stored_tensor *mmebm__draft_tensor(mmebm_file_draft *draft)
{
    return &draft->tensors[draft->tensor_count++];
}

mmebm_status mmebm__draft_begin(mmebm_context *context, mmebm_file_kind kind, uint32_t tensor_room,
                                mmebm_file_draft *draft)
{
    memset(draft, 0, sizeof *draft);
    draft->context = context;
    draft->tensor_room = tensor_room;
    draft->tensors = mmebm__allocate(context, tensor_room * sizeof *draft->tensors);
    if (!draft->tensors) return MMEBM_E_MEMORY;
    mmebm__text_unsigned(mmebm__draft_value(draft, format_key), MMEBM_FILE_FORMAT);
    mmebm__text_raw(mmebm__draft_value(draft, kind_key), kind_names[kind]);
    mmebm__text_raw(mmebm__draft_value(draft, "mmebm.version"), mmebm_version());
    return MMEBM_OK;
}

void mmebm__draft_end(mmebm_file_draft *draft)
{
    for (uint32_t v = 0; v < draft->value_count; ++v) mmebm__text_free(&draft->values[v].text);
    mmebm__free(draft->context, draft->tensors, draft->tensor_room * sizeof *draft->tensors);
    memset(draft, 0, sizeof *draft);
}

/* A graph under `key` and its tensors, whose memory lies at `weights`. */
static void draft_graph(mmebm_file_draft *draft, const char *key, const mmebm_graph *graph, float *weights,
                        uint32_t on_device, mmebm_stored_dtype dtype)
{
    mmebm__graph_write(mmebm__draft_value(draft, key), graph);
    for (uint32_t t = 0; t < graph->tensor_count; ++t) {
        const mmebm_tensor *tensor = &graph->tensors[t];
        mmebm_stored_tensor *stored = mmebm__draft_tensor(draft);
        mmebm__stored_describe(stored, tensor->name, dtype, tensor->rank, tensor->shape);
        stored->memory = weights + tensor->offset;
        stored->on_device = on_device;
    }
}

void mmebm__draft_model(mmebm_file_draft *draft, const mmebm_model *model, mmebm_stored_dtype dtype)
{
    write_model_options(mmebm__draft_value(draft, model_key), model);
    for (uint32_t p = 0; p < MMEBM_PART_COUNT; ++p)
        draft_graph(draft, part_keys[p], &model->parts[p].graph, model->parts[p].weights, 1, dtype);
}

mmebm_status mmebm__draft_save(mmebm_file_draft *draft, const char *path, const mmebm_save_options *options)
{
    mmebm_metadata metadata[MMEBM_DRAFT_MAX_VALUES];
    for (uint32_t v = 0; v < draft->value_count; ++v) {
        MMEBM_TRY(draft->values[v].text.status);
        metadata[v] = (mmebm_metadata){draft->values[v].key, draft->values[v].text.data};
    }
    return mmebm__safetensors_save(draft->context, path, options->gzip != 0, draft->tensor_count, draft->tensors,
                                   draft->value_count, metadata);
}

mmebm_status mmebm__save_options_read(mmebm_context *context, const char *call, const char *path,
                                      const mmebm_save_options *given, mmebm_save_options *options)
{
    MMEBM_TRY(mmebm_save_options_init(options));
    if (!path) return mmebm__fail(context, MMEBM_E_ARGUMENT, "%s: path is NULL", call);
    if (given) MMEBM_TRY(mmebm__struct_read(context, call, given, options, sizeof *options, sizeof *options));
    if (options->reserved)
        return mmebm__fail(context, MMEBM_E_UNKNOWN_OPTION, "%s: reserved is %u, wanted 0", call, options->reserved);
    if (options->gzip > 1)
        return mmebm__fail(context, MMEBM_E_ARGUMENT, "%s: gzip is %u, wanted 0 or 1", call, options->gzip);
    if (options->dtype != MMEBM_F32 && options->dtype != MMEBM_BF16)
        return mmebm__fail(context, MMEBM_E_ARGUMENT, "%s: dtype is %u, wanted MMEBM_F32 or MMEBM_BF16", call,
                           options->dtype);
    return MMEBM_OK;
}

static mmebm_stored_dtype stored_dtype(const mmebm_save_options *options)
{
    return options->dtype == MMEBM_BF16 ? MMEBM_STORED_BF16 : MMEBM_STORED_F32;
}

/* ---- opening */

static mmebm_status check_format(mmebm_context *context, const char *path, const char *format)
{
    uint32_t number = 0;
    for (const char *digit = format; *digit; ++digit) {
        if (*digit < '0' || *digit > '9' || number > UINT32_MAX / 10 - 1)
            return mmebm__fail(context, MMEBM_E_FORMAT, "'%s': metadata '%s' is '%.20s', wanted a number", path,
                               format_key, format);
        number = number * 10 + (uint32_t)(*digit - '0');
    }
    if (number > MMEBM_FILE_FORMAT)
        return mmebm__fail(context, MMEBM_E_VERSION, "'%s' has format %u, this library reads up to %d", path, number,
                           MMEBM_FILE_FORMAT);
    if (number == 0)
        return mmebm__fail(context, MMEBM_E_FORMAT, "'%s': metadata '%s' is '%.20s', wanted 1 to %d", path, format_key,
                           format, MMEBM_FILE_FORMAT);
    return MMEBM_OK;
}

static mmebm_status check_header(mmebm_context *context, const char *path, const mmebm_safetensors *file,
                                 mmebm_file_kind kind, mmebm_file_kind other)
{
    const char *format, *found;
    MMEBM_TRY(mmebm__safetensors_metadata(file, format_key, &format));
    MMEBM_TRY(check_format(context, path, format));
    MMEBM_TRY(mmebm__safetensors_metadata(file, kind_key, &found));
    if (strcmp(found, kind_names[kind]) == 0 || strcmp(found, kind_names[other]) == 0) return MMEBM_OK;
    return mmebm__fail(context, MMEBM_E_FORMAT, "'%s' holds a %.20s, wanted a %s", path, found, kind_names[kind]);
}

mmebm_status mmebm__file_open(mmebm_context *context, const char *path, mmebm_file_kind kind, mmebm_file_kind other,
                              mmebm_safetensors **file)
{
    MMEBM_TRY(mmebm__safetensors_open(context, path, file));
    const mmebm_status status = check_header(context, path, *file, kind, other);
    if (status != MMEBM_OK) mmebm__safetensors_close(file);
    return status;
}

mmebm_status mmebm__file_check_count(mmebm_context *context, const char *path, const mmebm_safetensors *file,
                                     uint32_t wanted)
{
    const uint32_t found = mmebm__safetensors_count(file);
    if (found == wanted) return MMEBM_OK;
    return mmebm__fail(context, MMEBM_E_FORMAT, "'%s' holds %u tensors, its metadata asks for %u", path, found, wanted);
}

/* The graph stored under key. All its tensors are in the file with their shapes, so that the file's size bounds the
 * memory for weights that the caller allocates next. */
static mmebm_status read_graph(mmebm_context *context, const char *path, mmebm_safetensors *file, const char *key,
                               mmebm_graph *graph)
{
    char what[256];
    const char *text;
    snprintf(what, sizeof what, "'%.180s': %s", path, key);
    MMEBM_TRY(mmebm__safetensors_metadata(file, key, &text));
    MMEBM_TRY(mmebm__graph_read(context, what, text, graph));
    for (uint32_t t = 0; t < graph->tensor_count; ++t) {
        const mmebm_tensor *tensor = &graph->tensors[t];
        const mmebm_status status =
            mmebm__safetensors_target(file, tensor->name, tensor->rank, tensor->shape, NULL, 0);
        if (status == MMEBM_OK) continue;
        mmebm__graph_free(context, graph);
        return status;
    }
    return MMEBM_OK;
}

/* Their shapes were checked by read_graph. */
static mmebm_status target_weights(mmebm_safetensors *file, const mmebm_graph *graph, float *weights,
                                   uint32_t on_device)
{
    for (uint32_t t = 0; t < graph->tensor_count; ++t) {
        const mmebm_tensor *tensor = &graph->tensors[t];
        MMEBM_TRY(mmebm__safetensors_target(file, tensor->name, tensor->rank, tensor->shape, weights + tensor->offset,
                                            on_device));
    }
    return MMEBM_OK;
}

/* ---- networks */

static void write_names(mmebm_text *text, const char *key, uint32_t count, char names[][MMEBM_PORT_NAME_SIZE])
{
    mmebm__text_key(text, key);
    mmebm__text_raw(text, "[");
    for (uint32_t i = 0; i < count; ++i) {
        if (i > 0) mmebm__text_raw(text, ",");
        mmebm__text_string(text, names[i]);
    }
    mmebm__text_raw(text, "]");
}

mmebm_status mmebm_network_save(const mmebm_network *network, const char *path, const mmebm_save_options *given)
{
    if (!network) return MMEBM_E_ARGUMENT;
    mmebm_context *context = network->context;
    mmebm_save_options options;
    mmebm_file_draft draft;
    mmebm__clear_error(context);
    MMEBM_TRY(mmebm__save_options_read(context, "network_save", path, given, &options));
    if (!network->finished)
        return mmebm__fail(context, MMEBM_E_STATE, "network_save: network '%s' is not finished", network->name);
    MMEBM_TRY(mmebm__draft_begin(context, MMEBM_FILE_NETWORK, network->graph.tensor_count, &draft));
    mmebm_text *text = mmebm__draft_value(&draft, network_key);
    mmebm__text_raw(text, "{");
    mmebm__text_key(text, "name");
    mmebm__text_string(text, network->name);
    write_names(text, "inputs", network->graph.input_count, (char(*)[MMEBM_PORT_NAME_SIZE])network->input_names);
    write_names(text, "outputs", network->graph.output_count, (char(*)[MMEBM_PORT_NAME_SIZE])network->output_names);
    mmebm__text_raw(text, "}");
    draft_graph(&draft, network_graph_key, &network->graph, network->weights, 0, stored_dtype(&options));
    const mmebm_status status = mmebm__draft_save(&draft, path, &options);
    mmebm__draft_end(&draft);
    return status;
}

static mmebm_status read_names(const mmebm_json *json, uint32_t array, uint32_t count,
                               char names[][MMEBM_PORT_NAME_SIZE])
{
    MMEBM_TRY(mmebm__json_expect(json, array, MMEBM_JSON_ARRAY));
    if (json->nodes[array].children != count) return mmebm__json_fail(json, array, "as many names as the graph has");
    for (uint32_t i = 0; i < count; ++i) {
        MMEBM_TRY(mmebm__json_string(json, array + 1 + i, names[i], MMEBM_PORT_NAME_SIZE));
        if (!mmebm__name_valid(names[i], MMEBM_PORT_NAME_SIZE)) return mmebm__json_fail(json, array + 1 + i, "a name");
    }
    return MMEBM_OK;
}

/* Makes the network that `json` and the graph in the file describe. */
static mmebm_status make_network(const mmebm_json *json, const char *path, mmebm_safetensors *file,
                                 mmebm_network **network)
{
    static const char *const keys[] = {"name", "inputs", "outputs"};
    mmebm_context *context = json->context;
    uint32_t nodes[3];
    char name[MMEBM_NETWORK_NAME_SIZE];
    MMEBM_TRY(mmebm__json_members(json, 0, 3, 0, keys, nodes));
    MMEBM_TRY(mmebm__json_string(json, nodes[0], name, sizeof name));
    const mmebm_status status = mmebm_network_create(context, name, network);
    if (status != MMEBM_OK) return mmebm__refused_content(context, json->what, status);
    mmebm_network *made = *network;
    MMEBM_TRY(read_graph(context, path, file, network_graph_key, &made->graph));
    MMEBM_TRY(mmebm__file_check_count(context, path, file, made->graph.tensor_count));
    MMEBM_TRY(read_names(json, nodes[1], made->graph.input_count, made->input_names));
    MMEBM_TRY(read_names(json, nodes[2], made->graph.output_count, made->output_names));
    MMEBM_TRY(mmebm__refused_content(context, json->what, mmebm__network_finish_graph(made)));
    return target_weights(file, &made->graph, made->weights, 0);
}

static mmebm_status load_network(mmebm_context *context, const char *path, mmebm_safetensors *file,
                                 mmebm_network **network)
{
    const char *text;
    char what[256];
    mmebm_json json;
    snprintf(what, sizeof what, "'%.180s': %s", path, network_key);
    MMEBM_TRY(mmebm__safetensors_metadata(file, network_key, &text));
    MMEBM_TRY(mmebm__json_parse(context, what, text, strlen(text), &json));
    mmebm_status status = make_network(&json, path, file, network);
    mmebm__json_free(&json);
    if (status == MMEBM_OK) status = mmebm__safetensors_load(file);
    if (status != MMEBM_OK) mmebm_network_destroy(network);
    return status;
}

mmebm_status mmebm_network_load(mmebm_context *context, const char *path, mmebm_network **network)
{
    if (network) *network = NULL;
    if (!context) return MMEBM_E_ARGUMENT;
    mmebm__clear_error(context);
    if (!path || !network)
        return mmebm__fail(context, MMEBM_E_ARGUMENT, "network_load: %s is NULL", path ? "network" : "path");
    mmebm_safetensors *file;
    MMEBM_TRY(mmebm__file_open(context, path, MMEBM_FILE_NETWORK, MMEBM_FILE_NETWORK, &file));
    const mmebm_status status = load_network(context, path, file, network);
    mmebm__safetensors_close(&file);
    return status;
}

/* ---- models */

mmebm_status mmebm_model_save(const mmebm_model *model, const char *path, const mmebm_save_options *given)
{
    if (!model) return MMEBM_E_ARGUMENT;
    mmebm_context *context = model->context;
    mmebm_save_options options;
    mmebm_file_draft draft;
    mmebm__clear_error(context);
    MMEBM_TRY(mmebm__save_options_read(context, "model_save", path, given, &options));
    MMEBM_TRY(mmebm__draft_begin(context, MMEBM_FILE_MODEL, mmebm_model_tensor_count(model), &draft));
    mmebm__draft_model(&draft, model, stored_dtype(&options));
    const mmebm_status status = mmebm__draft_save(&draft, path, &options);
    mmebm__draft_end(&draft);
    return status;
}

static mmebm_status parse_model_options(mmebm_context *context, const char *what, const mmebm_safetensors *file,
                                        mmebm_model_options *options, mmebm_modality *modalities,
                                        stored_modality *stored)
{
    const char *text;
    mmebm_json json;
    MMEBM_TRY(mmebm__safetensors_metadata(file, model_key, &text));
    MMEBM_TRY(mmebm__json_parse(context, what, text, strlen(text), &json));
    const mmebm_status status = read_model_options(&json, options, modalities, stored);
    mmebm__json_free(&json);
    return status;
}

mmebm_status mmebm__file_model(mmebm_context *context, const char *path, mmebm_safetensors *file, mmebm_model **model,
                               uint32_t *tensor_count)
{
    char what[256];
    mmebm_model_options options;
    mmebm_modality modalities[MMEBM_MAX_MODALITIES];
    stored_modality stored[MMEBM_MAX_MODALITIES];
    mmebm_graph graphs[MMEBM_PART_COUNT] = {{0}};
    snprintf(what, sizeof what, "'%.180s': %s", path, model_key);
    MMEBM_TRY(parse_model_options(context, what, file, &options, modalities, stored));
    mmebm_status status = MMEBM_OK;
    *tensor_count = 0;
    for (uint32_t p = 0; p < MMEBM_PART_COUNT && status == MMEBM_OK; ++p) {
        status = read_graph(context, path, file, part_keys[p], &graphs[p]);
        *tensor_count += graphs[p].tensor_count;
    }
    if (status == MMEBM_OK)
        status = mmebm__refused_content(context, what,
                                        mmebm__model_assemble(context, &options, graphs, NULL, model));
    for (uint32_t p = 0; p < MMEBM_PART_COUNT; ++p) mmebm__graph_free(context, &graphs[p]); /* empty if taken over */
    for (uint32_t p = 0; p < MMEBM_PART_COUNT && status == MMEBM_OK; ++p)
        status = target_weights(file, &(*model)->parts[p].graph, (*model)->parts[p].weights, 1);
    if (status != MMEBM_OK) mmebm_model_destroy(model);
    return status;
}

static mmebm_status load_model(mmebm_context *context, const char *path, mmebm_safetensors *file, mmebm_model **model)
{
    const char *kind;
    uint32_t tensor_count;
    MMEBM_TRY(mmebm__file_model(context, path, file, model, &tensor_count));
    MMEBM_TRY(mmebm__safetensors_metadata(file, kind_key, &kind));
    if (strcmp(kind, kind_names[MMEBM_FILE_MODEL]) == 0)
        MMEBM_TRY(mmebm__file_check_count(context, path, file, tensor_count));
    MMEBM_TRY(mmebm__safetensors_load(file));
    return context->ops->synchronize(context->device);
}

/* A checkpoint holds a model too: what belongs to its trainer is checked and left aside. */
mmebm_status mmebm_model_load(mmebm_context *context, const char *path, mmebm_model **model)
{
    if (model) *model = NULL;
    if (!context) return MMEBM_E_ARGUMENT;
    mmebm__clear_error(context);
    if (!path || !model)
        return mmebm__fail(context, MMEBM_E_ARGUMENT, "model_load: %s is NULL", path ? "model" : "path");
    mmebm_safetensors *file;
    MMEBM_TRY(mmebm__file_open(context, path, MMEBM_FILE_MODEL, MMEBM_FILE_TRAINER, &file));
    const mmebm_status status = load_model(context, path, file, model);
    mmebm__safetensors_close(&file);
    if (status != MMEBM_OK) mmebm_model_destroy(model);
    return status;
}

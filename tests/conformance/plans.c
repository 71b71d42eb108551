/* SPDX-License-Identifier: Apache-2.0
 *
 * plans.h: backends, guarded memory, graphs of one layer, data and runs for the conformance programs.
 */
#include "plans.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "view.h"

/* ---- a backend */

static void *counting_allocate(void *user, size_t size, size_t alignment)
{
    side *owner = user;
    ++owner->allocations;
    return aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
}

static void counting_release(void *user, void *memory, size_t size)
{
    (void)user;
    (void)size;
    free(memory);
}

const char *side_open(side *opened, const char *backend, uint32_t threads, char message[256])
{
    mmebm_context_options options;
    *opened = (side){0};
    if (mmebm_context_options_init(&options) != MMEBM_OK) return "mmebm_context_options_init failed";
    options.backend = backend;
    options.n_threads = threads;
    options.allocate = counting_allocate;
    options.release = counting_release;
    options.allocator_user = opened;
    return mmebm_context_create(&options, &opened->context, message, 256) == MMEBM_OK ? NULL : message;
}

void side_close(side *opened)
{
    mmebm_context_destroy(&opened->context);
}

void *test_memory(size_t count, size_t size)
{
    void *memory = calloc(count ? count : 1, size);
    if (memory) return memory;
    fprintf(stderr, "no memory for the test itself\n");
    exit(EXIT_FAILURE);
}

enum { GUARD = 64 /* bytes before and after, also the alignment of a buffer */ };
static const unsigned char guard_byte = 0xA5;

guarded guarded_create(const side *owner, const void *content, size_t bytes)
{
    guarded memory = {owner, NULL, bytes};
    unsigned char *image = test_memory(bytes + 2 * GUARD, 1);
    memset(image, guard_byte, bytes + 2 * GUARD);
    memcpy(image + GUARD, content, bytes);
    const mmebm_backend_ops *ops = owner->context->ops;
    if (ops->buffer_create(owner->context->device, bytes + 2 * GUARD, &memory.buffer) != MMEBM_OK ||
        ops->upload(owner->context->device, memory.buffer, image, bytes + 2 * GUARD) != MMEBM_OK) {
        fprintf(stderr, "no device memory for the test: %s\n", mmebm_last_error(owner->context));
        exit(EXIT_FAILURE);
    }
    free(image);
    return memory;
}

void *guarded_data(const guarded *memory)
{
    return (unsigned char *)memory->buffer + GUARD;
}

int guarded_read(const guarded *memory, void *content)
{
    const mmebm_context *context = memory->owner->context;
    unsigned char *image = test_memory(memory->bytes + 2 * GUARD, 1);
    int intact =
        context->ops->download(context->device, image, memory->buffer, memory->bytes + 2 * GUARD) == MMEBM_OK;
    memcpy(content, image + GUARD, memory->bytes);
    for (size_t i = 0; i < GUARD; ++i)
        intact = intact && image[i] == guard_byte && image[GUARD + memory->bytes + i] == guard_byte;
    free(image);
    return intact;
}

void guarded_destroy(guarded *memory)
{
    const mmebm_context *context = memory->owner->context;
    if (memory->buffer) context->ops->buffer_destroy(context->device, memory->buffer, memory->bytes + 2 * GUARD);
    memory->buffer = NULL;
}

/* ---- graphs of one layer */

char *case_text(const layer_case *wanted, char text[256])
{
    const mmebm_layer *layer = &wanted->settings;
    char shape[128];
    int at = 0;
    for (uint32_t k = 0; k < wanted->input_count; ++k)
        at += snprintf(text + at, 256 - (size_t)at, "%s ",
                       mmebm__shape_text(shape, 0, wanted->inputs[k].rank, wanted->inputs[k].shape));
    snprintf(text + at, 256 - (size_t)at,
             "out %d kernel %dx%d stride %dx%d padding %dx%d+%dx%d bias %d flatten %u activation %u likelihood %u",
             (int)wanted->out_channels, (int)layer->kernel[0], (int)layer->kernel[1], (int)layer->stride[0],
             (int)layer->stride[1], (int)layer->padding[0], (int)layer->padding[1], (int)layer->output_padding[0],
             (int)layer->output_padding[1], (int)layer->bias, (unsigned)layer->flatten, (unsigned)layer->activation,
             (unsigned)layer->likelihood);
    return text;
}

const char *case_graph(const side *owner, const layer_case *wanted, mmebm_graph *graph)
{
    mmebm_context *context = owner->context;
    mmebm_node nodes[CASE_INPUTS], node;
    *graph = (mmebm_graph){0};
    for (uint32_t k = 0; k < wanted->input_count; ++k) {
        mmebm_layer_request request = {.owner = "case", .settings = wanted->inputs[k]};
        request.settings.kind = MMEBM_LAYER_INPUT;
        if (mmebm__graph_append(context, graph, &request, &nodes[k]) != MMEBM_OK) return mmebm_last_error(context);
    }
    const mmebm_layer_request request = {.owner = "case",
                                         .settings = wanted->settings,
                                         .out_channels = wanted->out_channels,
                                         .momentum = 0.1f,
                                         .input_count = wanted->input_count,
                                         .inputs = nodes};
    if (mmebm__graph_append(context, graph, &request, &node) != MMEBM_OK ||
        mmebm__graph_output(context, graph, "case", node) != MMEBM_OK)
        return mmebm_last_error(context);
    return NULL;
}

/* ---- graphs of whole models */

const char *preset_model(const side *owner, const char *preset, uint32_t width, mmebm_model **model)
{
    static const int64_t sizes[] = {5, 1, 8};
    mmebm_preset_options options;
    if (mmebm_preset_options_init(&options) != MMEBM_OK) return "mmebm_preset_options_init failed";
    options.n_modalities = 3;
    options.latent_size = 5;
    options.image_size = 8;
    options.nf = width;
    options.nef = width + 1;
    options.stem_channels = 3;
    options.sizes = sizes;
    options.hidden = 17;
    return mmebm_model_create_preset(owner->context, preset, &options, model) == MMEBM_OK
               ? NULL
               : mmebm_last_error(owner->context);
}

const char *model_graph(const mmebm_model *model, uint32_t number, mmebm_graph *graph, const char **name)
{
    static const char *const names[MODEL_GRAPHS] = {"energy",       "generator",        "inference",
                                                    "posterior of all", "posterior of second", "posterior of two",
                                                    "tilted prior", "tilted posterior of two"};
    static const uint64_t observed[MODEL_GRAPHS] = {0, 0, 0, 7, 2, 5, 0, 6};
    static const float temperature[MODEL_GRAPHS] = {0, 0, 0, 0, 0, 0, 1.5f, 1.5f};
    *name = names[number];
    const mmebm_status status = number < MMEBM_PART_COUNT
                                    ? mmebm__graph_copy(model->context, &model->parts[number].graph, graph)
                                : temperature[number] > 0
                                    ? mmebm__graph_tilted(model, observed[number], temperature[number], graph)
                                    : mmebm__graph_posterior(model, observed[number], graph);
    return status == MMEBM_OK ? NULL : mmebm_last_error(model->context);
}

/* ---- data */

double draw_uniform(uint64_t *state)
{
    const uint64_t at = (*state)++;
    const mmebm_philox_block block =
        mmebm__philox(0x6d6d65626d, (uint32_t)at, (uint32_t)(at >> 32), 0, 0); /* any key will do */
    const double unit = ((double)block.word[0] + (double)block.word[1] * 0x1p-32) * 0x1p-32;
    return 2.0 * unit - 1.0;
}

static double draw_away_from_zero(uint64_t *state)
{
    const double value = draw_uniform(state);
    return value < 0 ? value * 0.95 - 0.05 : value * 0.95 + 0.05;
}

static int64_t input_count(const mmebm_graph *graph, uint32_t i)
{
    return graph->layers[graph->inputs[i]].count;
}

static int64_t output_count(const mmebm_graph *graph, uint32_t o)
{
    return graph->layers[graph->outputs[o]].count;
}

static void draw_weights(const mmebm_graph *graph, double *weights, uint64_t *state)
{
    for (uint32_t t = 0; t < graph->tensor_count; ++t) {
        const mmebm_tensor *tensor = &graph->tensors[t];
        const double size = sqrt(3.0 / (double)(tensor->fan_in > 0 ? tensor->fan_in : 1));
        for (size_t e = 0; e < tensor->count; ++e) {
            const double value = draw_uniform(state);
            weights[tensor->offset + e] = tensor->role == MMEBM_ROLE_VARIANCE ? 1.0 + 0.5 * value
                                          : tensor->role == MMEBM_ROLE_WEIGHT ? size * value
                                                                              : value;
        }
    }
}

/* The layer that reads input i as an NLL does: 1 = its mean, 2 = its target; 0 = none does. */
static int nll_place(const mmebm_graph *graph, uint32_t i, const mmebm_layer **nll)
{
    for (uint32_t l = 0; l < graph->layer_count; ++l) {
        *nll = &graph->layers[l];
        if ((*nll)->kind != MMEBM_LAYER_NLL) continue;
        for (int k = 0; k < 2; ++k)
            if (graph->edges[(*nll)->first_edge + k] == graph->inputs[i]) return k + 1;
    }
    return 0;
}

static double draw_input(const mmebm_graph *graph, uint32_t i, uint64_t *state)
{
    const mmebm_layer *nll;
    const int place = nll_place(graph, i, &nll);
    const double value = draw_away_from_zero(state);
    if (place && nll->likelihood == MMEBM_CATEGORICAL) return 0.5 + 0.45 * value;
    return place == 2 ? value + (value < 0 ? -1.5 : 1.5) : value;
}

static double *draw_seeds(int64_t count, uint64_t *state)
{
    double *seeds = test_memory((size_t)count, sizeof *seeds);
    for (int64_t e = 0; e < count; ++e) seeds[e] = draw_away_from_zero(state);
    return seeds;
}

plan_data *data_create(const mmebm_graph *graph, int64_t rows, uint64_t seed)
{
    uint64_t state = seed << 40;
    plan_data *data = test_memory(1, sizeof *data);
    data->graph = graph;
    data->rows = rows;
    data->weights = test_memory(graph->weight_count, sizeof *data->weights);
    draw_weights(graph, data->weights, &state);
    for (uint32_t i = 0; i < graph->input_count; ++i) {
        data->period[i] = rows;
        data->inputs[i] = test_memory((size_t)(rows * input_count(graph, i)), sizeof(double));
        for (int64_t e = 0; e < rows * input_count(graph, i); ++e)
            data->inputs[i][e] = draw_input(graph, i, &state);
    }
    for (uint32_t o = 0; o < graph->output_count; ++o) {
        data->seeds[o] = draw_seeds(rows * output_count(graph, o), &state);
        data->seed_scale[o] = o % 2 ? -0.75f : 1.0f;
    }
    return data;
}

static double *copy_values(const double *values, int64_t count)
{
    double *copy = test_memory((size_t)count, sizeof *copy);
    memcpy(copy, values, (size_t)count * sizeof *copy);
    return copy;
}

plan_data *data_copy(const plan_data *data)
{
    const mmebm_graph *graph = data->graph;
    plan_data *copy = test_memory(1, sizeof *copy);
    *copy = *data;
    copy->weights = copy_values(data->weights, (int64_t)graph->weight_count);
    for (uint32_t i = 0; i < graph->input_count; ++i)
        copy->inputs[i] = copy_values(data->inputs[i], data->period[i] * input_count(graph, i));
    for (uint32_t o = 0; o < graph->output_count; ++o)
        if (data->seeds[o]) copy->seeds[o] = copy_values(data->seeds[o], data->rows * output_count(graph, o));
    return copy;
}

void data_destroy(plan_data *data)
{
    for (uint32_t i = 0; i < data->graph->input_count; ++i) free(data->inputs[i]);
    for (uint32_t o = 0; o < data->graph->output_count; ++o) free(data->seeds[o]);
    free(data->weights);
    free(data);
}

static void round_values(double *values, int64_t count)
{
    for (int64_t e = 0; values && e < count; ++e) values[e] = (float)values[e];
}

void data_round(plan_data *data)
{
    const mmebm_graph *graph = data->graph;
    round_values(data->weights, (int64_t)graph->weight_count);
    for (uint32_t i = 0; i < graph->input_count; ++i)
        round_values(data->inputs[i], data->period[i] * input_count(graph, i));
    for (uint32_t o = 0; o < graph->output_count; ++o)
        round_values(data->seeds[o], data->rows * output_count(graph, o));
}

/* ---- results */

plan_result *result_create(const mmebm_graph *graph, int64_t rows)
{
    plan_result *result = test_memory(1, sizeof *result);
    result->rows = rows;
    result->field_count = graph->output_count + graph->input_count + graph->tensor_count;
    result->fields = test_memory(result->field_count, sizeof *result->fields);
    size_t total = graph->weight_count;
    result_field *field = result->fields;
    for (uint32_t o = 0; o < graph->output_count; ++o, ++field) {
        snprintf(field->name, sizeof field->name, "output %u", (unsigned)o);
        field->count = output_count(graph, o);
        total += (size_t)(field->count * rows);
    }
    for (uint32_t i = 0; i < graph->input_count; ++i, ++field) {
        snprintf(field->name, sizeof field->name, "gradient by input %u", (unsigned)i);
        field->count = input_count(graph, i);
        total += (size_t)(field->count * rows);
    }
    for (uint32_t t = 0; t < graph->tensor_count; ++t, ++field) {
        snprintf(field->name, sizeof field->name, "gradient by %s", graph->tensors[t].name);
        field->count = (int64_t)graph->tensors[t].count;
        field->is_weight = 1;
    }
    double *next = result->memory = test_memory(total, sizeof *result->memory);
    for (uint32_t f = 0; f < result->field_count; ++f) {
        result->fields[f].values = next; /* tensors follow each other as in the weight vector */
        next += field_size(result, f);
    }
    return result;
}

void result_destroy(plan_result *result)
{
    free(result->fields);
    free(result->memory);
    free(result);
}

/* ---- plans */

const char *plan_open(side *owner, const mmebm_graph *graph, uint32_t precision, int64_t capacity, unsigned wanted,
                      tested_plan *plan)
{
    const uint64_t all_inputs = UINT64_MAX >> (MMEBM_MAX_PORTS - graph->input_count);
    const mmebm_plan_spec spec = {graph, precision, graph->weight_count > 0 && wanted & WANT_WEIGHTS,
                                  wanted & WANT_INPUT_GRADIENTS  ? all_inputs
                                  : wanted & WANT_FIRST_GRADIENT ? 1
                                                                 : 0,
                                  capacity};
    *plan = (tested_plan){owner, graph, NULL, precision == (uint32_t)MMEBM_PRECISION_F64};
    return owner->context->ops->plan_create(owner->context->device, &spec, &plan->plan) == MMEBM_OK
               ? NULL
               : mmebm_last_error(owner->context);
}

void plan_close(tested_plan *plan)
{
    if (plan->plan) plan->owner->context->ops->plan_destroy(plan->plan);
    plan->plan = NULL;
}

/* Everything that one run reads and writes, on the device. */
typedef struct run_memory {
    const tested_plan *plan;
    guarded inputs[MMEBM_MAX_PORTS], seeds[MMEBM_MAX_PORTS], weights;
    guarded outputs[MMEBM_MAX_PORTS], input_gradients[MMEBM_MAX_PORTS], weight_gradient;
} run_memory;

/* `count` values in the plan's element type; to be freed. values NULL: `fill` everywhere. */
static void *packed(const tested_plan *plan, const double *values, int64_t count, double fill)
{
    void *target = test_memory((size_t)count, plan->wide ? sizeof(double) : sizeof(float));
    for (int64_t e = 0; e < count; ++e) {
        const double value = values ? values[e] : fill;
        if (plan->wide)
            ((double *)target)[e] = value;
        else
            ((float *)target)[e] = (float)value;
    }
    return target;
}

static guarded placed(const tested_plan *plan, const double *values, int64_t count, double fill)
{
    void *content = packed(plan, values, count, fill);
    const guarded memory =
        guarded_create(plan->owner, content, (size_t)count * (plan->wide ? sizeof(double) : sizeof(float)));
    free(content);
    return memory;
}

/* Reads `count` values back; a NULL target only looks at guards and, with expected, at changes. */
static int fetched(const guarded *memory, const tested_plan *plan, int64_t count, double *target,
                   const double *expected)
{
    void *content = test_memory((size_t)count, plan->wide ? sizeof(double) : sizeof(float));
    int good = guarded_read(memory, content);
    if (expected) {
        void *before = packed(plan, expected, count, 0.0);
        good = good && memcmp(before, content, memory->bytes) == 0;
        free(before);
    }
    for (int64_t e = 0; target && e < count; ++e)
        target[e] = plan->wide ? ((double *)content)[e] : (double)((float *)content)[e];
    free(content);
    return good;
}

/* Rows that an input or seed needs for rows first ..: all of the period from row 0 on, else just those. */
static int64_t needed_rows(const plan_data *data, uint32_t i, int64_t first, int64_t rows)
{
    return first == 0 && data->period[i] < rows ? data->period[i] : rows;
}

static double *gather_input(const plan_data *data, uint32_t i, int64_t first, int64_t rows)
{
    const int64_t count = input_count(data->graph, i);
    double *gathered = test_memory((size_t)(rows * count), sizeof *gathered);
    for (int64_t r = 0; r < rows; ++r)
        memcpy(gathered + r * count, data->inputs[i] + (first + r) % data->period[i] * count,
               (size_t)count * sizeof *gathered);
    return gathered;
}

static void place_run(const tested_plan *plan, const plan_data *data, int64_t first, int64_t rows, double weight_start,
                      run_memory *memory)
{
    const mmebm_graph *graph = plan->graph;
    memory->plan = plan;
    memory->weights = placed(plan, data->weights, (int64_t)graph->weight_count, 0.0);
    memory->weight_gradient = placed(plan, NULL, (int64_t)graph->weight_count, weight_start);
    for (uint32_t i = 0; i < graph->input_count; ++i) {
        const int64_t held = needed_rows(data, i, first, rows), count = input_count(graph, i);
        double *gathered = gather_input(data, i, first, held);
        memory->inputs[i] = placed(plan, gathered, held * count, 0.0);
        memory->input_gradients[i] = placed(plan, NULL, rows * count, NAN); /* every element must be written */
        free(gathered);
    }
    for (uint32_t o = 0; o < graph->output_count; ++o) {
        const int64_t count = output_count(graph, o);
        memory->outputs[o] = placed(plan, NULL, rows * count, NAN);
        if (data->seeds[o]) memory->seeds[o] = placed(plan, data->seeds[o] + first * count, rows * count, 0.0);
    }
}

static void drop_run(run_memory *memory)
{
    const mmebm_graph *graph = memory->plan->graph;
    for (uint32_t i = 0; i < graph->input_count; ++i) {
        guarded_destroy(&memory->inputs[i]);
        guarded_destroy(&memory->input_gradients[i]);
    }
    for (uint32_t o = 0; o < graph->output_count; ++o) {
        guarded_destroy(&memory->outputs[o]);
        if (memory->seeds[o].buffer) guarded_destroy(&memory->seeds[o]);
    }
    guarded_destroy(&memory->weights);
    guarded_destroy(&memory->weight_gradient);
}

static const char *call_plan(const run_memory *memory, const plan_data *data, int64_t first, int64_t rows,
                             unsigned wanted)
{
    const tested_plan *plan = memory->plan;
    const mmebm_graph *graph = plan->graph;
    const mmebm_backend_ops *ops = plan->owner->context->ops;
    mmebm_plan_input inputs[MMEBM_MAX_PORTS];
    mmebm_plan_seed seeds[MMEBM_MAX_PORTS];
    float *outputs[MMEBM_MAX_PORTS], *input_gradients[MMEBM_MAX_PORTS];
    for (uint32_t i = 0; i < graph->input_count; ++i) {
        inputs[i] = (mmebm_plan_input){guarded_data(&memory->inputs[i]), needed_rows(data, i, first, rows)};
        const int asked = wanted & WANT_INPUT_GRADIENTS || (wanted & WANT_FIRST_GRADIENT && i == 0);
        input_gradients[i] = asked ? guarded_data(&memory->input_gradients[i]) : NULL;
    }
    for (uint32_t o = 0; o < graph->output_count; ++o) {
        outputs[o] = guarded_data(&memory->outputs[o]);
        seeds[o].data = data->seeds[o] ? guarded_data(&memory->seeds[o]) : NULL;
        seeds[o].scale = data->seed_scale[o];
    }
    const int by_inputs = wanted & (WANT_INPUT_GRADIENTS | WANT_FIRST_GRADIENT), by_weights = wanted & WANT_WEIGHTS;
    const mmebm_plan_run run = {.rows = rows,
                                .inputs = inputs,
                                .outputs = wanted & WANT_OUTPUTS ? outputs : NULL,
                                .seeds = by_inputs || by_weights ? seeds : NULL,
                                .input_gradients = by_inputs ? input_gradients : NULL,
                                .weight_gradient = by_weights && graph->weight_count
                                                       ? guarded_data(&memory->weight_gradient)
                                                       : NULL};
    if (ops->plan_load_weights(plan->plan, guarded_data(&memory->weights)) != MMEBM_OK)
        return mmebm_last_error(plan->owner->context);
    const uint64_t before = plan->owner->allocations;
    if (ops->plan_run(plan->plan, &run) != MMEBM_OK ||
        ops->synchronize(plan->owner->context->device) != MMEBM_OK)
        return mmebm_last_error(plan->owner->context);
    return plan->owner->allocations == before ? NULL : "plan_run allocated memory";
}

static const char *read_run(const run_memory *memory, const plan_data *data, int64_t first, plan_result *result)
{
    const tested_plan *plan = memory->plan;
    const mmebm_graph *graph = plan->graph;
    const int64_t rows = result->rows;
    int written = 1, unchanged = 1;
    result_field *field = result->fields;
    for (uint32_t o = 0; o < graph->output_count; ++o, ++field) {
        written &= fetched(&memory->outputs[o], plan, rows * field->count, field->values, NULL);
        if (data->seeds[o])
            unchanged &= fetched(&memory->seeds[o], plan, rows * field->count, NULL,
                                 data->seeds[o] + first * field->count);
    }
    for (uint32_t i = 0; i < graph->input_count; ++i, ++field) {
        const int64_t held = needed_rows(data, i, first, rows);
        double *gathered = gather_input(data, i, first, held);
        written &= fetched(&memory->input_gradients[i], plan, rows * field->count, field->values, NULL);
        unchanged &= fetched(&memory->inputs[i], plan, held * field->count, NULL, gathered);
        free(gathered);
    }
    const int64_t weights = (int64_t)graph->weight_count;
    written &= fetched(&memory->weight_gradient, plan, weights, weights ? field->values : NULL, NULL);
    unchanged &= fetched(&memory->weights, plan, weights, NULL, data->weights);
    return !written ? "wrote past the end of an output" : !unchanged ? "changed an input" : NULL;
}

const char *plan_execute(const tested_plan *plan, const plan_data *data, int64_t first, unsigned wanted,
                         double weight_start, plan_result *result)
{
    run_memory memory = {0};
    place_run(plan, data, first, result->rows, weight_start, &memory);
    const char *error = call_plan(&memory, data, first, result->rows, wanted);
    if (!error) error = read_run(&memory, data, first, result);
    drop_run(&memory);
    return error;
}

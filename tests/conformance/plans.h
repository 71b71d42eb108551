/* SPDX-License-Identifier: Apache-2.0
 *
 * What the conformance programs share: a backend opened with a counting allocator, device memory between guard words,
 * graphs of one layer, random data for a graph and runs of a plan on them. All host values are doubles; what a float
 * backend gets are floats stored in doubles, so that the yardstick computes from exactly the same numbers. Nothing here
 * reports: functions return NULL or a sentence.
 */
#ifndef MMEBM_TEST_PLANS_H
#define MMEBM_TEST_PLANS_H

#include "model.h"

/* ---- a backend */

typedef struct side {
    mmebm_context *context; /* ops and device are in it */
    uint64_t allocations;   /* calls of the allocator hook so far */
} side;

/* NULL and an open side, or the context's sentence in message, which is returned. */
const char *side_open(side *opened, const char *backend, uint32_t threads, char message[256]);
void side_close(side *opened);

/* Memory of the test program itself, zero-filled; never NULL. */
void *test_memory(size_t count, size_t size);

/* Device memory between guard words. */
typedef struct guarded {
    const side *owner;
    void *buffer;
    size_t bytes; /* between the guards */
} guarded;

guarded guarded_create(const side *owner, const void *content, size_t bytes);
void *guarded_data(const guarded *memory);
/* Copies the content; 0 if a guard word was overwritten. */
int guarded_read(const guarded *memory, void *content);
void guarded_destroy(guarded *memory);

/* ---- graphs of one layer */

enum { CASE_INPUTS = 3 };

typedef struct layer_case {
    mmebm_layer settings; /* as in mmebm_layer_request */
    int64_t out_channels;
    uint32_t input_count;
    mmebm_layer inputs[CASE_INPUTS]; /* rank and shape */
} layer_case;

#define IMAGE(height, width, channels) {.rank = 3, .shape = {height, width, channels}}
#define VECTOR(size) {.rank = 1, .shape = {size}}
#define PAIR(height, width) {height, width} /* to pass through a macro */
/* conv2d and conv_transpose2d; bias 0 = with, -1 = without */
#define CONV_CASE(kind_, image_, out_, kernel_, stride_, padding_, output_padding_, bias_)         \
    {                                                                                              \
        .settings = {.kind = (mmebm_layer_kind)(kind_), .kernel = kernel_, .stride = stride_, .padding = padding_,   \
                     .output_padding = output_padding_, .bias = (bias_)},                          \
        .out_channels = (out_), .input_count = 1, .inputs = {image_}                               \
    }

/* "[7,7,16] kernel 3x3 ..." into text, which it returns. */
char *case_text(const layer_case *wanted, char text[256]);

/* The layer of a case with its inputs as a graph; free it with mmebm__graph_free. */
const char *case_graph(const side *owner, const layer_case *wanted, mmebm_graph *graph);

/* ---- graphs of whole models */

/* A small model of a preset ("polymnist", "polymnist-small", "mlp") with three modalities of 8x8 pixels; width:
 * channels of the narrowest decoder layer. */
const char *preset_model(const side *owner, const char *preset, uint32_t width, mmebm_model **model);

enum { MODEL_GRAPHS = 8 };
/* Graph `number` of a model: its three parts, the posterior of all modalities, of the second, of the first and third,
 * then the prior as the energy tilts it and the posterior of the second and third under that. Its name goes to *name;
 * free the graph with mmebm__graph_free. */
const char *model_graph(const mmebm_model *model, uint32_t number, mmebm_graph *graph, const char **name);

/* ---- data and results of a graph */

typedef struct plan_data {
    const mmebm_graph *graph;
    int64_t rows;
    int64_t period[MMEBM_MAX_PORTS];
    double *inputs[MMEBM_MAX_PORTS]; /* [period, count] */
    double *seeds[MMEBM_MAX_PORTS];  /* [rows, count]; NULL = constant */
    float seed_scale[MMEBM_MAX_PORTS];
    double *weights;
} plan_data;

/* A number in (-1, 1) from a counter that it moves on. */
double draw_uniform(uint64_t *state);

/* Values that suit every layer: inputs and seeds in (-1, 1), at least 0.05 from 0; targets away from their means and
 * probabilities positive; weights of the size that PyTorch would give them; variances in (0.5, 1.5). */
plan_data *data_create(const mmebm_graph *graph, int64_t rows, uint64_t seed);
plan_data *data_copy(const plan_data *data);
void data_destroy(plan_data *data);
/* Rounds all values to floats. */
void data_round(plan_data *data);

/* Fields of a result: outputs, gradients of inputs, gradients of tensors, in this order. */
typedef struct result_field {
    char name[MMEBM_TENSOR_NAME_SIZE + 24];
    int is_weight; /* a sum over rows */
    int64_t count; /* values of one row, or of the tensor */
    double *values;
} result_field;

typedef struct plan_result {
    uint32_t field_count;
    int64_t rows;
    result_field *fields;
    double *memory;
} plan_result;

plan_result *result_create(const mmebm_graph *graph, int64_t rows);
void result_destroy(plan_result *result);
static inline int64_t field_size(const plan_result *result, uint32_t f)
{
    return result->fields[f].is_weight ? result->fields[f].count : result->fields[f].count * result->rows;
}

/* ---- plans */

typedef struct tested_plan {
    side *owner;
    const mmebm_graph *graph;
    mmebm_plan *plan;
    int wide; /* MMEBM_PRECISION_F64 */
} tested_plan;

/* What a plan offers or a run asks for; runs without gradients have no seeds. */
enum { WANT_OUTPUTS = 1, WANT_INPUT_GRADIENTS = 2, WANT_FIRST_GRADIENT = 4 /* by input 0 alone */, WANT_WEIGHTS = 8 };
enum { WANT_STATES = WANT_OUTPUTS | WANT_INPUT_GRADIENTS, WANT_ALL = WANT_STATES | WANT_WEIGHTS };

const char *plan_open(side *owner, const mmebm_graph *graph, uint32_t precision, int64_t capacity, unsigned wanted,
                      tested_plan *plan);
void plan_close(tested_plan *plan);

/* Runs rows first .. first + result->rows - 1 of the data. weight_start: what the weight gradient's memory holds before
 * the run adds to it. Looks after guard words, unchanged inputs and allocations. Fields that were not wanted come back
 * as they were before the run: NaN, or weight_start. */
const char *plan_execute(const tested_plan *plan, const plan_data *data, int64_t first, unsigned wanted,
                         double weight_start, plan_result *result);

#endif /* MMEBM_TEST_PLANS_H */

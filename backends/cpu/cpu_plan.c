/* SPDX-License-Identifier: Apache-2.0
 *
 * Making, loading and destroying plans. oneDNN's operations are built by the workers, several at once, since each
 * takes milliseconds and must see one OpenMP thread.
 */
#include "cpu_merge.h"

#include <math.h>
#include <string.h>

#include "cpu_elementwise.h"
#include "cpu_resample.h"
#include "cpu_tiles.h"

enum {
    CHUNK_VECTORS = 64,            /* rows of a chunk of vector networks */
    CHUNK_IMAGES = 8,              /* and of image networks ... */
    CHUNK_LARGE_IMAGES = 4,        /* ... whose row has more than LARGE_ROW floats of activations */
    SMALL_ROW = 16384,
    LARGE_ROW = 1000000
};

void *mmebm__cpu_plan_take(mmebm_plan *plan, size_t size)
{
    const mmebm_host *host = plan->device->host;
    const size_t head = mmebm__cpu_round_up(sizeof(cpu_plan_memory)), whole = head + mmebm__cpu_round_up(size);
    cpu_plan_memory *memory = host->allocate(host->owner, whole, 64);
    if (!memory) return NULL;
    memory->next = plan->memory;
    memory->size = whole;
    plan->memory = memory;
    plan->size += whole;
    return (char *)memory + head;
}

void mmebm__cpu_plan_destroy(mmebm_plan *plan)
{
    if (!plan) return;
    const mmebm_host *host = plan->device->host;
    if (plan->matrices)
        for (uint32_t m = 0; m < plan->matrix_count; ++m) mmebm__cpu_matrix_destroy(&plan->matrices[m]);
    while (plan->memory) {
        cpu_plan_memory *memory = plan->memory;
        plan->memory = memory->next;
        host->release(host->owner, memory, memory->size);
    }
    host->release(host->owner, plan, sizeof *plan);
}

size_t mmebm__cpu_plan_size(const mmebm_plan *plan)
{
    return plan->size + sizeof *plan;
}

mmebm_status mmebm__cpu_no_memory(const mmebm_plan *plan, const char *what)
{
    const mmebm_host *host = plan->device->host;
    return host->fail(host->owner, MMEBM_E_MEMORY, "cpu: no memory for %s of a plan", what);
}

uint32_t *mmebm__cpu_count_readers(mmebm_plan *plan)
{
    const mmebm_graph *graph = plan->spec.graph;
    uint32_t *readers = mmebm__cpu_plan_take(plan, graph->layer_count * sizeof *readers);
    for (uint32_t e = 0; readers && e < graph->edge_count; ++e) ++readers[graph->edges[e]];
    for (uint32_t o = 0; readers && o < graph->output_count; ++o) ++readers[graph->outputs[o]];
    return readers;
}

/* By the graph and the processor alone: a row's bits must not depend on the plan's capacity, nor on its place. */
static int64_t chunk_rows(const mmebm_graph *graph)
{
    const int64_t at_once = mmebm__dnnl_rows_at_once();
    int64_t floats = 0;
    for (uint32_t l = 0; l < graph->layer_count; ++l) floats += graph->layers[l].count;
    const int64_t rows = floats <= SMALL_ROW   ? CHUNK_VECTORS
                         : floats <= LARGE_ROW ? CHUNK_IMAGES
                                               : CHUNK_LARGE_IMAGES;
    return rows < at_once ? at_once : rows / at_once * at_once;
}

/* ---- operations */

static mmebm_status make_matrices(mmebm_plan *plan)
{
    plan->matrices = mmebm__cpu_plan_take(plan, plan->matrix_count * sizeof *plan->matrices);
    plan->norms = mmebm__cpu_plan_take(plan, plan->norm_count * sizeof *plan->norms);
    if (!plan->matrices || !plan->norms) return mmebm__cpu_no_memory(plan, "the layers");
    for (uint32_t n = 0; n < plan->node_count; ++n) {
        const cpu_node *node = &plan->nodes[n];
        if (node->norm >= 0) {
            cpu_norm *norm = &plan->norms[node->norm];
            norm->channels = node->layer->shape[node->layer->rank - 1];
            norm->data = mmebm__cpu_plan_take(plan, 4 * (size_t)norm->channels * sizeof *norm->data);
            if (!norm->data) return mmebm__cpu_no_memory(plan, "the layers");
        }
        if (node->matrix < 0) continue;
        const cpu_edge *edge = &plan->edges[node->first_edge];
        const cpu_node *from = &plan->nodes[edge->node];
        const cpu_matrix_wish wish = {.rows = plan->chunk,
                                      .bf16 = from->bf16,
                                      .target_bf16 = node->bf16,
                                      .activation = node->activation,
                                      .slope = node->slope,
                                      .input_gradient = from->has_gradient,
                                      .add_input_gradient = edge->add,
                                      .weight_gradient = plan->spec.weight_gradient,
                                      .resample = mmebm__cpu_resample_of(plan, node->layer)};
        if (!mmebm__cpu_matrix_create(&plan->matrices[node->matrix], plan->device->dnnl, plan->spec.graph, node->layer,
                                      &wish))
            return mmebm__cpu_no_memory(plan, "the operations");
        cpu_op *ops[3];
        plan->size += mmebm__cpu_matrix_ops(&plan->matrices[node->matrix], ops) * mmebm__op_bytes(plan->device->dnnl);
    }
    return MMEBM_OK;
}

static void build_matrix(void *argument, uint32_t thread, int64_t item)
{
    const mmebm_plan *plan = argument;
    cpu_op *ops[3];
    (void)thread;
    const uint32_t count = mmebm__cpu_matrix_ops(&plan->matrices[item], ops);
    for (uint32_t i = 0; i < count; ++i) mmebm__op_build(ops[i]);
}

/* MMEBM_OK; or the operation's failure, or *again = 1 when layers that oneDNN has no bf16 operation for were marked. */
static mmebm_status check_ops(mmebm_plan *plan, const cpu_node *node, int *again)
{
    const mmebm_host *host = plan->device->host;
    const mmebm_graph *graph = plan->spec.graph;
    const cpu_matrix *matrix = &plan->matrices[node->matrix];
    const char *tensor = graph->tensors[node->layer->weight].name;
    cpu_op *ops[3];
    const uint32_t count = mmebm__cpu_matrix_ops(matrix, ops);
    for (uint32_t i = 0; i < count; ++i) {
        if (!*mmebm__op_problem(ops[i])) {
            host->log(host->owner, MMEBM_LOG_DEBUG, "cpu: '%s' operation %u: %s", tensor, i,
                      mmebm__op_implementation(ops[i]));
            continue;
        }
        if (!matrix->bf16 || !mmebm__op_missing(ops[i]))
            return host->fail(host->owner, MMEBM_E_DEVICE, "cpu: no %s operation for the layer of '%s': %s",
                              matrix->bf16 ? "bf16" : "f32", tensor, mmebm__op_problem(ops[i]));
        host->log(host->owner, MMEBM_LOG_INFO, "cpu: the layer of '%s' stays in f32: %s", tensor,
                  mmebm__op_problem(ops[i]));
        plan->keeps_f32[node->layer - graph->layers] = 1;
        *again = 1;
    }
    return MMEBM_OK;
}

static mmebm_status build_matrices(mmebm_plan *plan, int *again)
{
    mmebm__cpu_threads_run(plan->device->threads, plan->matrix_count, build_matrix, plan);
    for (uint32_t n = 0; n < plan->node_count; ++n) {
        if (plan->nodes[n].matrix < 0) continue;
        const mmebm_status status = check_ops(plan, &plan->nodes[n], again);
        if (status != MMEBM_OK) return status;
    }
    for (uint32_t m = 0; m < plan->matrix_count && !*again; ++m)
        mmebm__cpu_matrix_sizes(&plan->matrices[m], &plan->scratch);
    return MMEBM_OK;
}

/* ---- memory */

/* Packed weights and biases, one after another; returns their bytes. memory NULL: no more than that. */
static size_t place_weights(mmebm_plan *plan, char *memory)
{
    size_t at = 0;
    for (uint32_t m = 0; m < plan->matrix_count; ++m) {
        cpu_matrix *matrix = &plan->matrices[m];
        cpu_product *products[2] = {&matrix->forward, &matrix->backward};
        for (int i = 0; i < 2; ++i) {
            if (memory && products[i]->weight_bytes) products[i]->weights = memory + at;
            at += mmebm__cpu_round_up(products[i]->weight_bytes);
        }
        if (memory) matrix->bias = (float *)(memory + at);
        at += mmebm__cpu_round_up(matrix->bias_count * sizeof(float));
    }
    return at;
}

/* In one buffer, which has large pages where each layer's own would not. */
static mmebm_status take_weights(mmebm_plan *plan)
{
    char *memory = mmebm__cpu_plan_take(plan, place_weights(plan, NULL));
    if (!memory) return mmebm__cpu_no_memory(plan, "the packed weights");
    place_weights(plan, memory);
    return MMEBM_OK;
}

/* A workspace: values and gradients, oneDNN's scratch, our scratch, one gradient in the other element type. */
static mmebm_status take_workspaces(mmebm_plan *plan)
{
    const uint32_t threads = mmebm__cpu_threads_count(plan->device->threads);
    plan->scratch.op = mmebm__cpu_round_up(plan->scratch.op);
    plan->scratch.other = mmebm__cpu_round_up(plan->scratch.other);
    for (uint32_t n = 0; n < plan->node_count; ++n) {
        const cpu_node *node = &plan->nodes[n];
        if (node->matrix < 0 || !node->has_gradient) continue;
        if (plan->matrices[node->matrix].bf16 == node->bf16) continue;
        const size_t bytes = mmebm__cpu_round_up((size_t)(node->count * plan->chunk) * sizeof(uint16_t));
        if (plan->convert_bytes < bytes) plan->convert_bytes = bytes;
    }
    plan->workspace = plan->value_bytes + plan->scratch.op + plan->scratch.other + plan->convert_bytes;
    plan->workspaces = mmebm__cpu_plan_take(plan, threads * sizeof *plan->workspaces);
    if (!plan->workspaces) return mmebm__cpu_no_memory(plan, "the workspaces");
    for (uint32_t t = 0; t < threads; ++t) {
        plan->workspaces[t] = mmebm__cpu_plan_take(plan, plan->workspace);
        if (!plan->workspaces[t]) return mmebm__cpu_no_memory(plan, "the workspaces");
    }
    return MMEBM_OK;
}

/* Partial sums of the weight gradient, in the packed layouts. */
static mmebm_status take_sums(mmebm_plan *plan)
{
    if (!plan->spec.weight_gradient) return MMEBM_OK;
    for (uint32_t n = 0; n < plan->node_count; ++n) {
        cpu_node *node = &plan->nodes[n];
        size_t floats = 0;
        if (node->matrix >= 0)
            floats = mmebm__cpu_matrix_gradient_floats(&plan->matrices[node->matrix]) +
                     plan->matrices[node->matrix].bias_count;
        if (node->norm >= 0) floats = 4 * (size_t)plan->norms[node->norm].channels;
        node->sums = plan->sums_floats;
        plan->sums_floats += (floats + 15) / 16 * 16;
    }
    const int64_t chunks = (plan->spec.capacity + plan->chunk - 1) / plan->chunk;
    plan->group_count = (uint32_t)(chunks < CPU_MAX_GROUPS ? chunks : CPU_MAX_GROUPS);
    for (uint32_t g = 0; g < plan->group_count; ++g) {
        plan->sums[g] = mmebm__cpu_plan_take(plan, plan->sums_floats * sizeof(float));
        if (!plan->sums[g]) return mmebm__cpu_no_memory(plan, "the weight gradient");
    }
    return MMEBM_OK;
}

/* *again = 1: to be made once more, with the layers marked in keeps_f32. */
static mmebm_status make_plan(mmebm_device *device, const mmebm_plan_spec *spec, uint8_t *keeps_f32, int *again,
                              mmebm_plan **out)
{
    const mmebm_host *host = device->host;
    mmebm_plan *plan = host->allocate(host->owner, sizeof *plan, 64);
    if (!plan) return host->fail(host->owner, MMEBM_E_MEMORY, "cpu: no memory for a plan");
    plan->device = device;
    plan->spec = *spec;
    plan->bf16 = spec->precision == MMEBM_PRECISION_BF16;
    plan->keeps_f32 = keeps_f32;
    plan->chunk = chunk_rows(spec->graph);
    *again = 0;
    mmebm_status status = MMEBM_OK;
    if (plan->bf16 && !spec->weight_gradient && mmebm__cpu_tiles_offered()) status = mmebm__cpu_resample_graph(plan);
    if (status == MMEBM_OK && plan->bf16) status = mmebm__cpu_merge_graph(plan);
    if (status == MMEBM_OK) status = mmebm__cpu_make_nodes(plan);
    if (status == MMEBM_OK) status = mmebm__cpu_place_values(plan);
    if (status == MMEBM_OK) status = make_matrices(plan);
    if (status == MMEBM_OK) status = build_matrices(plan, again);
    if (status == MMEBM_OK && !*again) status = take_weights(plan);
    if (status == MMEBM_OK && !*again) status = take_sums(plan);
    if (status == MMEBM_OK && !*again) status = take_workspaces(plan);
    if (status != MMEBM_OK || *again) {
        mmebm__cpu_plan_destroy(plan);
        return status;
    }
    *out = plan;
    return MMEBM_OK;
}

mmebm_status mmebm__cpu_plan_create(mmebm_device *device, const mmebm_plan_spec *spec, mmebm_plan **out)
{
    const mmebm_host *host = device->host;
    *out = NULL;
    if (spec->precision != MMEBM_PRECISION_F32 && spec->precision != MMEBM_PRECISION_BF16)
        return host->fail(host->owner, MMEBM_E_UNSUPPORTED, "cpu: precision %u is not offered, only f32 and bf16",
                          spec->precision);
    const size_t layers = 2 * (size_t)spec->graph->layer_count; /* a rewritten graph has at most so many */
    uint8_t *keeps_f32 = host->allocate(host->owner, layers, 64);
    if (!keeps_f32) return host->fail(host->owner, MMEBM_E_MEMORY, "cpu: no memory for a plan");
    mmebm_status status;
    int again;
    do {
        status = make_plan(device, spec, keeps_f32, &again, out);
    } while (status == MMEBM_OK && again);
    host->release(host->owner, keeps_f32, layers);
    if (*out) (*out)->keeps_f32 = NULL;
    return status;
}

/* ---- weights */

typedef struct load_job {
    const mmebm_plan *plan;
    const float *weights;
    int *error;
} load_job;

static void load_norm(const mmebm_plan *plan, const cpu_node *node, const float *weights)
{
    const cpu_norm *norm = &plan->norms[node->norm];
    const mmebm_tensor *tensors = plan->spec.graph->tensors;
    const float *gain = weights + tensors[node->layer->weight].offset;
    const float *shift = weights + tensors[node->layer->bias].offset;
    const float *mean = weights + tensors[node->layer->mean].offset;
    const float *variance = weights + tensors[node->layer->variance].offset;
    for (int64_t c = 0; c < norm->channels; ++c) {
        const double inverse = 1.0 / sqrt((double)variance[c] + node->layer->epsilon);
        norm->data[c] = (float)(gain[c] * inverse);
        norm->data[norm->channels + c] = (float)(shift[c] - mean[c] * gain[c] * inverse);
        norm->data[2 * norm->channels + c] = mean[c];
        norm->data[3 * norm->channels + c] = (float)inverse;
    }
}

static void load_node(void *argument, uint32_t thread, int64_t item)
{
    const load_job *job = argument;
    const mmebm_plan *plan = job->plan;
    const cpu_node *node = &plan->nodes[item];
    char *base = plan->workspaces[thread] + plan->value_bytes;
    const cpu_scratch scratch = {base, base + plan->scratch.op};
    if (node->norm >= 0) load_norm(plan, node, job->weights);
    if (node->matrix < 0) return;
    const cpu_merge *merge = mmebm__cpu_merge_of(plan, node->layer);
    if (merge) mmebm__cpu_merge_load(plan, merge, job->weights);
    const int error = mmebm__cpu_matrix_load(&plan->matrices[node->matrix], thread,
                                             merge ? merge->plain : job->weights, &scratch);
    if (error) __atomic_store_n(job->error, error, __ATOMIC_RELAXED);
}

mmebm_status mmebm__cpu_plan_load_weights(mmebm_plan *plan, const float *weights)
{
    const mmebm_host *host = plan->device->host;
    int error = 0;
    load_job job = {plan, weights, &error};
    mmebm__cpu_threads_run(plan->device->threads, plan->node_count, load_node, &job);
    if (error) return host->fail(host->owner, MMEBM_E_DEVICE, "cpu: oneDNN could not pack weights (status %d)", error);
    return MMEBM_OK;
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * plan_run: every chunk forward and, if a gradient is wanted, backward. Chunks without weight gradient are one item
 * each. With it the chunks are cut into group_count runs of neighbours; an item is one such group, summed in order of
 * the chunks; groups are then added in order: the bits depend on the number of rows alone.
 */
#include <string.h>

#include "cpu_elementwise.h"
#include "cpu_merge.h"

typedef struct run_job {
    const mmebm_plan *plan;
    const mmebm_plan_run *run;
    int64_t chunks, groups;
    uint64_t wanted_inputs;
    uint32_t backward;
    int error;
} run_job;

/* One chunk in one thread. */
typedef struct chunk_run {
    const run_job *job;
    const mmebm_plan *plan;
    uint32_t thread;
    int64_t first, valid; /* rows of the run; the chunk may have more */
    char *base;
    cpu_scratch scratch;
    void *converted;
    float *sums; /* of the group; NULL = no weight gradient */
    uint32_t add_sums;
    int error;
} chunk_run;

static void *value_of(const chunk_run *c, const cpu_node *node)
{
    return c->base + node->value;
}

static void *gradient_of(const chunk_run *c, const cpu_node *node)
{
    return c->base + node->gradient;
}

static const cpu_node *source_of(const chunk_run *c, const cpu_node *node, uint32_t k)
{
    return &c->plan->nodes[c->plan->edges[node->first_edge + k].node];
}

static int64_t last_axis(const mmebm_layer *layer)
{
    return layer->rank ? layer->shape[layer->rank - 1] : 1;
}

/* Of a map: all axes but the last. */
static int64_t pixels_of(const mmebm_layer *layer)
{
    return layer->count / last_axis(layer);
}

/* ---- forward */

static void read_input(chunk_run *c, const cpu_node *node)
{
    const mmebm_graph *graph = c->plan->spec.graph;
    const int64_t count = node->count;
    uint32_t i = 0;
    while (&graph->layers[graph->inputs[i]] != node->layer) ++i;
    const mmebm_plan_input *input = &c->job->run->inputs[i];
    float *to = value_of(c, node);
    for (int64_t r = 0; r < c->valid; ++r)
        memcpy(to + r * count, input->data + (c->first + r) % input->period * count, (size_t)count * sizeof *to);
    memset(to + c->valid * count, 0, (size_t)((c->plan->chunk - c->valid) * count) * sizeof *to);
}

static void concat_forward(chunk_run *c, const cpu_node *node)
{
    const size_t size = mmebm__cpu_element_size(node->bf16);
    const int64_t width = last_axis(node->layer), pixels = c->plan->chunk * pixels_of(node->layer);
    char *y = value_of(c, node);
    for (uint32_t k = 0; k < node->edge_count; ++k) {
        const int64_t part = last_axis(mmebm__cpu_input_layer(c->plan, node, k));
        mmebm__cpu_copy_channels(node->bf16, 0, pixels, part, part, value_of(c, source_of(c, node, k)), width, y);
        y += (size_t)part * size;
    }
}

static void norm_forward(chunk_run *c, const cpu_node *node, const void *x, void *y)
{
    const cpu_norm *norm = &c->plan->norms[node->norm];
    mmebm__cpu_scale_shift(node->bf16, c->plan->chunk * pixels_of(node->layer), norm->channels, norm->data,
                           norm->data + norm->channels, x, y);
}

static void forward_node(chunk_run *c, const cpu_node *node)
{
    const mmebm_plan *plan = c->plan;
    const mmebm_layer *layer = node->layer;
    const int64_t rows = plan->chunk, all = rows * node->count;
    const cpu_node *from = node->edge_count ? source_of(c, node, 0) : NULL;
    const void *x = from ? value_of(c, from) : NULL;
    void *y = value_of(c, node);
    switch (node->kind) {
    case MMEBM_LAYER_INPUT: read_input(c, node); break;
    case CPU_NODE_CONVERT: mmebm__cpu_convert(node->bf16, 0, all, x, y); break;
    case MMEBM_LAYER_ACTIVATION:
        mmebm__cpu_activation(node->bf16, layer->activation, layer->parameter, all, x, y);
        break;
    case MMEBM_LAYER_SOFTMAX: mmebm__cpu_softmax(rows * pixels_of(layer), last_axis(layer), x, y); break;
    case MMEBM_LAYER_AVG_POOL:
        mmebm__cpu_avg_pool(node->bf16, layer, mmebm__cpu_input_layer(plan, node, 0), rows, x, y);
        break;
    case MMEBM_LAYER_GLOBAL_AVG_POOL:
        mmebm__cpu_global_pool(from->bf16, rows, from->count / node->count, node->count, x, y);
        break;
    case MMEBM_LAYER_UPSAMPLE:
        mmebm__cpu_upsample(node->bf16, layer, mmebm__cpu_input_layer(plan, node, 0), rows, x, y);
        break;
    case MMEBM_LAYER_ADD:
        mmebm__cpu_add(node->bf16, all, layer->alpha, x, layer->beta, value_of(c, source_of(c, node, 1)), y);
        break;
    case MMEBM_LAYER_CONCAT: concat_forward(c, node); break;
    case MMEBM_LAYER_BATCH_NORM: norm_forward(c, node, x, y); break;
    case MMEBM_LAYER_NLL:
        mmebm__cpu_likelihood(layer, rows, from->count, x, value_of(c, source_of(c, node, 1)), y);
        break;
    case MMEBM_LAYER_PRIOR: mmebm__cpu_prior(layer, rows, from->count, x, y); break;
    default: c->error = mmebm__cpu_matrix_forward(&plan->matrices[node->matrix], c->thread, x, y, &c->scratch); break;
    }
}

static void write_outputs(chunk_run *c)
{
    const mmebm_graph *graph = c->plan->spec.graph;
    for (uint32_t o = 0; c->job->run->outputs && o < graph->output_count; ++o) {
        const cpu_node *node = &c->plan->nodes[c->plan->node_of_layer[graph->outputs[o]]];
        if (!c->job->run->outputs[o]) continue;
        float *to = c->job->run->outputs[o] + c->first * node->count;
        if (node->bf16)
            mmebm__cpu_convert(0, 0, c->valid * node->count, value_of(c, node), to);
        else
            memcpy(to, value_of(c, node), (size_t)(c->valid * node->count) * sizeof *to);
    }
}

/* ---- backward */

static int needed(const chunk_run *c, const cpu_node *node)
{
    return node->has_gradient && ((node->by_inputs & c->job->wanted_inputs) != 0 || (node->by_weights && c->sums));
}

/* The gradients that runs of the plan may start from, zero where this run gives none and for rows that only fill up. */
static void read_seeds(chunk_run *c)
{
    const mmebm_graph *graph = c->plan->spec.graph;
    for (uint32_t o = 0; o < graph->output_count; ++o) {
        const cpu_node *node = &c->plan->nodes[c->plan->node_of_layer[graph->outputs[o]]];
        const mmebm_plan_seed *seed = &c->job->run->seeds[o];
        const uint32_t add = c->plan->add_seed[o];
        if (!needed(c, node)) continue;
        const int64_t count = node->count, used = c->valid * count;
        const size_t size = mmebm__cpu_element_size(node->bf16);
        void *to = gradient_of(c, node);
        if (!add) memset(to, 0, (size_t)(c->plan->chunk * count) * size);
        if (seed->scale == 0.0f) continue;
        for (int64_t i = 0; i < used; ++i) {
            const float value = seed->scale * (seed->data ? seed->data[c->first * count + i] : 1.0f);
            if (node->bf16)
                mmebm__cpu_convert(1, 1, 1, &value, (uint16_t *)to + i);
            else
                ((float *)to)[i] += value;
        }
    }
}

static void write_input_gradient(chunk_run *c, const cpu_node *node)
{
    const mmebm_graph *graph = c->plan->spec.graph;
    uint32_t i = 0;
    while (&graph->layers[graph->inputs[i]] != node->layer) ++i;
    float *to = c->job->run->input_gradients[i];
    memcpy(to + c->first * node->count, gradient_of(c, node), (size_t)(c->valid * node->count) * sizeof *to);
}

static void concat_backward(chunk_run *c, const cpu_node *node)
{
    const size_t size = mmebm__cpu_element_size(node->bf16);
    const int64_t width = last_axis(node->layer), pixels = c->plan->chunk * pixels_of(node->layer);
    const char *by_y = gradient_of(c, node);
    for (uint32_t k = 0; k < node->edge_count; ++k) {
        const cpu_node *from = source_of(c, node, k);
        const int64_t part = last_axis(mmebm__cpu_input_layer(c->plan, node, k));
        if (needed(c, from))
            mmebm__cpu_copy_channels(node->bf16, c->plan->edges[node->first_edge + k].add, pixels, part, width, by_y,
                                     part, gradient_of(c, from));
        by_y += (size_t)part * size;
    }
}

static void norm_backward(chunk_run *c, const cpu_node *node, const cpu_node *from, uint32_t add)
{
    const cpu_norm *norm = &c->plan->norms[node->norm];
    const int64_t channels = norm->channels, pixels = pixels_of(node->layer);
    if (c->sums) {
        float *to = c->sums + node->sums;
        if (!c->add_sums) memset(to, 0, 4 * (size_t)channels * sizeof *to);
        const cpu_norm_sums sums = {norm->data + 2 * channels, norm->data + 3 * channels, to, to + channels,
                                    to + 2 * channels, to + 3 * channels};
        mmebm__cpu_norm_gradient(node->bf16, c->valid, pixels, channels, value_of(c, from), gradient_of(c, node),
                                 &sums);
    }
    if (needed(c, from))
        mmebm__cpu_scale_shift_gradient(node->bf16, add, c->plan->chunk * pixels, channels, norm->data,
                                        gradient_of(c, node), gradient_of(c, from));
}

/* A matrix product: the slope of its fused activation, the weights' gradient, the input's. */
static void matrix_backward(chunk_run *c, const cpu_node *node, const cpu_node *from)
{
    const cpu_matrix *matrix = &c->plan->matrices[node->matrix];
    const int64_t all = c->plan->chunk * node->count;
    void *by_y = gradient_of(c, node);
    if (node->activation)
        mmebm__cpu_activation_gradient(node->bf16, node->activation, node->slope, 0, all, value_of(c, node), by_y,
                                       by_y);
    if (node->bf16 != matrix->bf16) {
        mmebm__cpu_convert(matrix->bf16, 0, all, by_y, c->converted);
        by_y = c->converted;
    }
    if (c->sums) {
        const size_t weights = mmebm__cpu_matrix_gradient_floats(matrix), floats = weights + matrix->bias_count;
        float *sums = c->sums + node->sums, *to = c->add_sums ? c->scratch.other : sums;
        c->error = mmebm__cpu_matrix_weights(matrix, c->thread, value_of(c, from), by_y, to, to + weights, &c->scratch);
        if (c->error) return;
        if (c->add_sums) mmebm__cpu_add_floats((int64_t)floats, to, sums);
    }
    if (needed(c, from))
        c->error = mmebm__cpu_matrix_backward(matrix, c->thread, by_y, gradient_of(c, from), &c->scratch);
}

static void likelihood_backward(chunk_run *c, const cpu_node *node)
{
    const cpu_edge *edges = c->plan->edges + node->first_edge;
    const cpu_node *mean = source_of(c, node, 0), *target = source_of(c, node, 1);
    mmebm__cpu_likelihood_gradient(node->layer, c->plan->chunk, mean->count, value_of(c, mean), value_of(c, target),
                                   gradient_of(c, node), edges[0].add, needed(c, mean) ? gradient_of(c, mean) : NULL,
                                   edges[1].add, needed(c, target) ? gradient_of(c, target) : NULL);
}

static void add_backward(chunk_run *c, const cpu_node *node)
{
    const float factors[2] = {node->layer->alpha, node->layer->beta};
    for (uint32_t k = 0; k < 2; ++k) {
        const cpu_node *from = source_of(c, node, k);
        if (needed(c, from))
            mmebm__cpu_scale(node->bf16, c->plan->edges[node->first_edge + k].add, c->plan->chunk * node->count,
                             factors[k], gradient_of(c, node), gradient_of(c, from));
    }
}

/* Layers of one input that only pass a gradient on. */
static void pass_backward(chunk_run *c, const cpu_node *node, const cpu_node *from, uint32_t add)
{
    const mmebm_plan *plan = c->plan;
    const mmebm_layer *layer = node->layer;
    const int64_t rows = plan->chunk, all = rows * node->count;
    const void *by_y = gradient_of(c, node);
    void *by_x = gradient_of(c, from);
    switch (node->kind) {
    case CPU_NODE_CONVERT: mmebm__cpu_convert(from->bf16, add, all, by_y, by_x); break;
    case MMEBM_LAYER_ACTIVATION: {
        const int saved_input = (int)mmebm__cpu_activation_saves_input(layer->activation);
        mmebm__cpu_activation_gradient(node->bf16, layer->activation, layer->parameter, add, all,
                                       value_of(c, saved_input ? from : node), by_y, by_x);
        break;
    }
    case MMEBM_LAYER_SOFTMAX:
        mmebm__cpu_softmax_gradient(add, rows * pixels_of(layer), last_axis(layer), value_of(c, node), by_y, by_x);
        break;
    case MMEBM_LAYER_AVG_POOL:
        mmebm__cpu_avg_pool_gradient(node->bf16, add, layer, mmebm__cpu_input_layer(plan, node, 0), rows, by_y, by_x);
        break;
    case MMEBM_LAYER_GLOBAL_AVG_POOL:
        mmebm__cpu_global_pool_gradient(from->bf16, add, rows, from->count / node->count, node->count, by_y, by_x);
        break;
    case MMEBM_LAYER_UPSAMPLE:
        mmebm__cpu_upsample_gradient(node->bf16, add, layer, mmebm__cpu_input_layer(plan, node, 0), rows, by_y, by_x);
        break;
    default: /* MMEBM_LAYER_PRIOR */
        mmebm__cpu_prior_gradient(layer, add, rows, from->count, value_of(c, from), by_y, by_x);
        break;
    }
}

static void backward_node(chunk_run *c, const cpu_node *node)
{
    if (node->no_gradient_source)
        memset(gradient_of(c, node), 0, (size_t)(c->plan->chunk * node->count) * mmebm__cpu_element_size(node->bf16));
    const cpu_edge *edge = &c->plan->edges[node->first_edge];
    switch (node->kind) {
    case MMEBM_LAYER_INPUT: write_input_gradient(c, node); break;
    case MMEBM_LAYER_ADD: add_backward(c, node); break;
    case MMEBM_LAYER_CONCAT: concat_backward(c, node); break;
    case MMEBM_LAYER_NLL: likelihood_backward(c, node); break;
    case MMEBM_LAYER_BATCH_NORM: norm_backward(c, node, source_of(c, node, 0), edge->add); break;
    case MMEBM_LAYER_CONV2D:
    case MMEBM_LAYER_CONV_TRANSPOSE2D:
    case MMEBM_LAYER_LINEAR: matrix_backward(c, node, source_of(c, node, 0)); break;
    default: pass_backward(c, node, source_of(c, node, 0), edge->add); break;
    }
}

/* ---- chunks, groups */

static void run_chunk(run_job *job, uint32_t thread, int64_t chunk, float *sums, uint32_t add_sums)
{
    const mmebm_plan *plan = job->plan;
    char *base = plan->workspaces[thread], *scratch = base + plan->value_bytes;
    chunk_run c = {.job = job, .plan = plan, .thread = thread, .first = chunk * plan->chunk, .base = base, .sums = sums,
                   .add_sums = add_sums};
    c.scratch = (cpu_scratch){scratch, scratch + plan->scratch.op};
    c.converted = scratch + plan->scratch.op + plan->scratch.other;
    c.valid = job->run->rows - c.first < plan->chunk ? job->run->rows - c.first : plan->chunk;
    for (uint32_t n = 0; n < plan->node_count && !c.error; ++n) forward_node(&c, &plan->nodes[n]);
    if (!c.error) write_outputs(&c);
    if (!c.error && job->backward) {
        read_seeds(&c);
        for (uint32_t n = plan->node_count; n-- > 0 && !c.error;)
            if (needed(&c, &plan->nodes[n])) backward_node(&c, &plan->nodes[n]);
    }
    if (c.error) __atomic_store_n(&job->error, c.error, __ATOMIC_RELAXED);
}

static void chunk_task(void *argument, uint32_t thread, int64_t item)
{
    run_chunk(argument, thread, item, NULL, 0);
}

static void group_task(void *argument, uint32_t thread, int64_t item)
{
    run_job *job = argument;
    const int64_t first = item * job->chunks / job->groups, end = (item + 1) * job->chunks / job->groups;
    for (int64_t chunk = first; chunk < end; ++chunk)
        run_chunk(job, thread, chunk, job->plan->sums[item], chunk > first);
}

/* Adds a node's groups in order, then its gradient to the caller's. */
static void collect_task(void *argument, uint32_t thread, int64_t item)
{
    run_job *job = argument;
    const mmebm_plan *plan = job->plan;
    const cpu_node *node = &plan->nodes[item];
    float *to = job->run->weight_gradient, *total = plan->sums[0] + node->sums;
    if (node->matrix < 0 && node->norm < 0) return;
    const cpu_matrix *matrix = node->matrix >= 0 ? &plan->matrices[node->matrix] : NULL;
    const size_t weights = matrix ? mmebm__cpu_matrix_gradient_floats(matrix) : 0;
    const size_t floats = matrix ? weights + matrix->bias_count : 4 * (size_t)plan->norms[node->norm].channels;
    for (int64_t g = 1; g < job->groups; ++g) mmebm__cpu_add_floats((int64_t)floats, plan->sums[g] + node->sums, total);
    if (matrix) {
        char *base = plan->workspaces[thread] + plan->value_bytes;
        const cpu_scratch scratch = {base, base + plan->scratch.op};
        const cpu_merge *merge = mmebm__cpu_merge_of(plan, node->layer);
        if (merge) mmebm__cpu_merge_clear(merge);
        float *plain = merge ? merge->plain : to;
        const int error = mmebm__cpu_matrix_add_gradient(matrix, thread, total, plain, &scratch);
        if (error) __atomic_store_n(&job->error, error, __ATOMIC_RELAXED);
        mmebm__cpu_add_floats((int64_t)matrix->bias_count, total + weights, plain + matrix->bias_offset);
        if (merge) mmebm__cpu_merge_add_gradient(plan, merge, to);
        return;
    }
    const mmebm_tensor *tensors = plan->spec.graph->tensors;
    const int32_t parts[4] = {node->layer->weight, node->layer->bias, node->layer->mean, node->layer->variance};
    for (int i = 0; i < 4; ++i)
        mmebm__cpu_add_floats(plan->norms[node->norm].channels, total + i * plan->norms[node->norm].channels,
                              to + tensors[parts[i]].offset);
}

mmebm_status mmebm__cpu_plan_run(mmebm_plan *plan, const mmebm_plan_run *run)
{
    const mmebm_host *host = plan->device->host;
    cpu_threads *threads = plan->device->threads;
    run_job job = {.plan = plan, .run = run, .chunks = (run->rows + plan->chunk - 1) / plan->chunk};
    for (uint32_t i = 0; run->input_gradients && i < plan->spec.graph->input_count; ++i)
        if (run->input_gradients[i]) job.wanted_inputs |= (uint64_t)1 << i;
    job.backward = run->seeds && (job.wanted_inputs || run->weight_gradient);
    if (job.backward && run->weight_gradient) {
        job.groups = job.chunks < CPU_MAX_GROUPS ? job.chunks : CPU_MAX_GROUPS;
        mmebm__cpu_threads_run(threads, job.groups, group_task, &job);
        mmebm__cpu_threads_run(threads, plan->node_count, collect_task, &job);
    } else {
        mmebm__cpu_threads_run(threads, job.chunks, chunk_task, &job);
    }
    if (job.error) return host->fail(host->owner, MMEBM_E_DEVICE, "cpu: oneDNN failed in a run (status %d)", job.error);
    return MMEBM_OK;
}

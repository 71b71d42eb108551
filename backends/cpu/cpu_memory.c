/* SPDX-License-Identifier: Apache-2.0
 *
 * Where values and gradients lie in a thread's workspace. Node i runs forward at time i and backward at time 2 N - i
 * (N = number of nodes; outputs and seeds are handled at N). Buffers whose times do not meet may share memory: largest
 * first, each at the lowest place that is free for all of its time.
 */
#include "cpu_plan.h"

#include <string.h>

#include "cpu_elementwise.h"

typedef struct span {
    size_t size, offset;
    int64_t first, last; /* times, both included; first > last: unused */
} span;

static void reach(span *s, int64_t time)
{
    if (time > s->last) s->last = time;
    if (time < s->first) s->first = time;
}

/* Marks the values that the backward step of node n reads. */
static void keep_for_backward(const mmebm_plan *plan, uint32_t n, span *values)
{
    const cpu_node *node = &plan->nodes[n];
    const cpu_edge *edges = plan->edges + node->first_edge;
    const int64_t time = 2 * (int64_t)plan->node_count - n;
    int own = node->activation != 0, inputs = 0;
    switch (node->kind) {
    case MMEBM_LAYER_CONV2D:
    case MMEBM_LAYER_CONV_TRANSPOSE2D:
    case MMEBM_LAYER_LINEAR:
    case MMEBM_LAYER_BATCH_NORM: inputs = plan->spec.weight_gradient != 0; break;
    case MMEBM_LAYER_ACTIVATION:
        inputs = (int)mmebm__cpu_activation_saves_input(node->layer->activation);
        own = !inputs;
        break;
    case MMEBM_LAYER_SOFTMAX: own = 1; break;
    case MMEBM_LAYER_NLL:
    case MMEBM_LAYER_PRIOR: inputs = 1; break;
    default: break;
    }
    if (own) reach(&values[n], time);
    for (uint32_t k = 0; inputs && k < node->edge_count; ++k) reach(&values[edges[k].node], time);
}

static void find_spans(const mmebm_plan *plan, span *values, span *gradients)
{
    const int64_t end = plan->node_count;
    for (uint32_t n = 0; n < plan->node_count; ++n) {
        const cpu_node *node = &plan->nodes[n];
        const size_t bytes = (size_t)(node->count * plan->chunk) * mmebm__cpu_element_size(node->bf16);
        values[n] = gradients[n] = (span){.size = mmebm__cpu_round_up(bytes), .first = INT64_MAX, .last = -1};
        reach(&values[n], n);
        if (node->has_gradient) reach(&gradients[n], 2 * end - n);
        for (uint32_t k = 0; k < node->edge_count; ++k) {
            const int32_t from = plan->edges[node->first_edge + k].node;
            reach(&values[from], n);
            if (node->has_gradient && plan->nodes[from].has_gradient) reach(&gradients[from], 2 * end - n);
        }
        if (node->has_gradient) keep_for_backward(plan, n, values);
    }
    for (uint32_t o = 0; o < plan->spec.graph->output_count; ++o) {
        const int32_t n = plan->node_of_layer[plan->spec.graph->outputs[o]];
        reach(&values[n], end);
        if (plan->nodes[n].has_gradient) reach(&gradients[n], end);
    }
}

static int overlap(const span *a, const span *b)
{
    return a->first <= b->last && b->first <= a->last;
}

/* The lowest place for s beside the spans already placed. */
static size_t lowest_place(const span *s, span *const *placed, uint32_t count)
{
    size_t offset = 0;
    for (uint32_t i = 0; i < count; ++i) {
        if (!overlap(s, placed[i])) continue;
        if (offset + s->size <= placed[i]->offset || placed[i]->offset + placed[i]->size <= offset) continue;
        offset = placed[i]->offset + placed[i]->size;
        i = UINT32_MAX; /* look again from the start */
    }
    return offset;
}

static size_t place_spans(span **order, uint32_t count)
{
    size_t total = 0;
    for (uint32_t i = 1; i < count; ++i) { /* insertion sort: stable, a few hundred entries */
        span *s = order[i];
        uint32_t at = i;
        for (; at > 0 && order[at - 1]->size < s->size; --at) order[at] = order[at - 1];
        order[at] = s;
    }
    for (uint32_t i = 0; i < count; ++i) {
        order[i]->offset = lowest_place(order[i], order, i);
        if (total < order[i]->offset + order[i]->size) total = order[i]->offset + order[i]->size;
    }
    return total;
}

mmebm_status mmebm__cpu_place_values(mmebm_plan *plan)
{
    const mmebm_host *host = plan->device->host;
    const uint32_t count = plan->node_count;
    const size_t bytes = 2 * count * (sizeof(span) + sizeof(span *));
    span *values = host->allocate(host->owner, bytes, 64);
    if (!values) return host->fail(host->owner, MMEBM_E_MEMORY, "cpu: no memory to lay out a plan of %u nodes", count);
    span *gradients = values + count, **order = (span **)(gradients + count);
    find_spans(plan, values, gradients);
    uint32_t used = 0;
    for (uint32_t i = 0; i < 2 * count; ++i)
        if (values[i].last >= 0) order[used++] = &values[i];
    plan->value_bytes = place_spans(order, used);
    for (uint32_t n = 0; n < count; ++n) {
        plan->nodes[n].value = values[n].offset;
        plan->nodes[n].gradient = gradients[n].offset;
    }
    host->release(host->owner, values, bytes);
    return MMEBM_OK;
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * Taking over weights (plan_load_weights): which tensors are packed how (cuda_pack) for a layer and for the gradient by
 * its source.
 */
#include "cuda_plan.h"

/* Tensors to pack: as many as go into one launch. */
struct pack_queue {
    const mmebm_plan *plan;
    int32_t count;
    cuda_pack packs[MAX_PACKS];
};

static mmebm_status flush_packs(pack_queue *queue)
{
    const int32_t count = queue->count;
    queue->count = 0;
    return count ? mmebm__cuda_pack(queue->plan->device, queue->packs, count) : MMEBM_OK;
}

static mmebm_status add_pack(pack_queue *queue, const cuda_pack *pack)
{
    queue->packs[queue->count++] = *pack;
    return queue->count == MAX_PACKS ? flush_packs(queue) : MMEBM_OK;
}

/* Of the gradient by the source. */
static int32_t phases_back(int32_t phases)
{
    return phases == CUDA_WHOLE ? phases : ((phases - 1) ^ 1) + 1;
}

/* Forward, a convolution's or linear layer's weights [out][tap][in] have the result's channels first; the other way,
 * and for a transposed one, the source's. */
static mmebm_status pack_both(pack_queue *queue, cuda_pack *call, const cuda_node *node)
{
    call->factors = node->factors;
    call->packed = node->packed_forward;
    call->phases = node->phases;
    CUDA_TRY(add_pack(queue, call));
    if (!node->packed_backward) return MMEBM_OK;
    cuda_pack other = *call;
    other.factors = node->factors_back;
    other.packed = node->packed_backward;
    other.source_channels = call->out_channels;
    other.out_channels = call->source_channels;
    other.source_first = call->out_first;
    other.out_first = call->source_first;
    other.result_first = !call->result_first;
    other.phases = phases_back(node->phases);
    other.all_source_channels = call->all_out_channels;
    other.all_out_channels = call->all_source_channels;
    return add_pack(queue, &other);
}

static cuda_pack pack_call(const mmebm_plan *plan, int32_t l)
{
    const mmebm_layer *layer = &plan->graph->layers[l];
    const cuda_node *node = &plan->nodes[l];
    cuda_pack call = {};
    call.weights = plan->weights + plan->graph->tensors[layer->weight].offset;
    call.taps = node->forward.kernel[0] * node->forward.kernel[1];
    call.source_channels = call.all_source_channels = node->in_channels;
    call.out_channels = call.all_out_channels = node->out_channels;
    call.result_first = layer->kind != MMEBM_LAYER_CONV_TRANSPOSE2D;
    return call;
}

static mmebm_status pack_merged(pack_queue *queue, int32_t l)
{
    const mmebm_plan *plan = queue->plan;
    const mmebm_graph *graph = plan->graph;
    const cuda_node *node = &plan->nodes[l];
    int32_t source_first = 0, out_first = 0;
    for (uint32_t k = 0; k < graph->layers[l].edge_count; ++k) {
        const mmebm_layer *layer = merged_part(graph, l, k);
        cuda_pack call = pack_call(plan, layer_input(graph, l, k));
        call.source_first = source_first;
        call.out_first = out_first;
        call.all_source_channels = node->in_channels;
        call.all_out_channels = node->out_channels;
        CUDA_TRY(pack_both(queue, &call, node));
        if (node->merged_bias)
            CUDA_TRY(mmebm__cuda_copy(plan->device, node->merged_bias + out_first,
                                      plan->weights + graph->tensors[layer->bias].offset,
                                      (size_t)call.out_channels * sizeof(float)));
        source_first += call.source_channels;
        out_first += call.out_channels;
    }
    return MMEBM_OK;
}

static mmebm_status pack_layer(pack_queue *queue, int32_t l)
{
    const mmebm_layer *layer = &queue->plan->graph->layers[l];
    const cuda_node *node = &queue->plan->nodes[l];
    if (node->merged) return layer->kind == MMEBM_LAYER_CONCAT ? pack_merged(queue, l) : MMEBM_OK;
    if (!is_product(layer)) return MMEBM_OK;
    cuda_pack call = pack_call(queue->plan, l);
    return pack_both(queue, &call, node);
}

mmebm_status mmebm__cuda_plan_load_weights(mmebm_plan *plan, const float *weights)
{
    const cuda_scope scope(plan->device);
    const mmebm_graph *graph = plan->graph;
    pack_queue queue;
    queue.plan = plan;
    queue.count = 0;
    if (!graph->weight_count) return MMEBM_OK;
    CUDA_TRY(mmebm__cuda_copy(plan->device, plan->weights, weights, graph->weight_count * sizeof(float)));
    for (uint32_t l = 0; l < graph->layer_count; ++l) CUDA_TRY(pack_layer(&queue, (int32_t)l));
    return flush_packs(&queue);
}

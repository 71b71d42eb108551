/* SPDX-License-Identifier: Apache-2.0
 *
 * Where everything of a plan lies in its one block of device memory, which is laid out twice: to measure, and for good.
 *
 * Slots. Without gradients a layer's values are wanted until the last layer that reads them has run, and gradients
 * until they have been passed on; both then leave their memory, a slot, to others. A lane's layers run in the order of
 * their numbers, a group when its tail does, and backward in reverse. Lanes run side by side, so a slot belongs to a
 * lane: what another lane reads or writes has memory of its own, or a slot that it keeps to the end of the pass.
 */
#include "cuda_plan.h"

struct cuda_cutter {
    char *memory; /* NULL: only measure */
    size_t used;  /* SIZE_MAX after an overflow */
};

static void *cut(cuda_cutter *cutter, size_t bytes)
{
    const size_t alignment = 256, first = cutter->used;
    size_t padded;
    if (first == SIZE_MAX || __builtin_add_overflow(bytes, alignment - 1, &padded) ||
        __builtin_add_overflow(first, padded / alignment * alignment, &cutter->used)) {
        cutter->used = SIZE_MAX;
        return NULL;
    }
    /* while measuring, any address that is not NULL will do */
    return cutter->memory ? cutter->memory + first : reinterpret_cast<char *>(alignment) + first;
}

static size_t bytes_of(const mmebm_plan *plan, const cuda_tensor *tensor)
{
    const size_t size = number_size(tensor->type);
    const size_t pixels = (size_t)tensor->height * (size_t)tensor->width;
    size_t count;
    if (__builtin_mul_overflow((size_t)plan->capacity, pixels * (size_t)tensor->stride, &count) ||
        __builtin_mul_overflow(count, size, &count))
        return SIZE_MAX;
    return count;
}

static void cut_tensor(cuda_cutter *cutter, const mmebm_plan *plan, cuda_tensor shape, int32_t type,
                       cuda_tensor *tensor)
{
    *tensor = shape;
    tensor->type = type;
    tensor->data = cut(cutter, bytes_of(plan, tensor));
}

/* ---- how long memory is wanted */

/* Which layer's turn each layer runs in. */
static void note_turns(mmebm_plan *plan)
{
    const mmebm_graph *graph = plan->graph;
    for (int32_t l = (int32_t)graph->layer_count; l-- > 0;)
        plan->nodes[l].turn = plan->nodes[l].folded ? plan->nodes[plan->sole_reader[l]].turn : l;
    for (uint32_t l = 0; l < graph->layer_count; ++l) {
        const cuda_node *node = &plan->nodes[l];
        const int merged = node->merged && graph->layers[l].kind == MMEBM_LAYER_CONCAT;
        for (int32_t m = (int32_t)l; is_product(&graph->layers[l]) && m != node->tail; m = plan->sole_reader[m])
            plan->nodes[m].turn = node->tail;
        for (uint32_t k = 0; merged && k < graph->layers[l].edge_count; ++k)
            plan->nodes[layer_input(graph, (int32_t)l, k)].turn = (int32_t)l;
    }
}

/* Of each base: the last turn in which its memory is read, by views' readers too, layer_count if it is an output; and
 * whether all of that is in its own lane. */
static void note_last_readers(mmebm_plan *plan)
{
    const mmebm_graph *graph = plan->graph;
    for (uint32_t l = 0; l < graph->layer_count; ++l) {
        plan->nodes[l].last_turn = (int32_t)l;
        plan->nodes[l].read_in_lane = 1;
    }
    for (uint32_t l = 0; l < graph->layer_count; ++l) {
        const int32_t turn = plan->nodes[l].turn;
        if (plan->is_output[l]) plan->nodes[plan->nodes[l].base].last_turn = (int32_t)graph->layer_count;
        for (uint32_t k = 0; plan->nodes[l].base == (int32_t)l && k < graph->layers[l].edge_count; ++k) {
            cuda_node *base = &plan->nodes[plan->nodes[layer_input(graph, (int32_t)l, k)].base];
            if (base->last_turn < turn) base->last_turn = turn;
            base->read_in_lane &= plan->nodes[turn].lane == base->lane;
        }
    }
}

/* Where the backward pass of base l may leave references to its gradient: the bases of these layers. */
static uint32_t referring_inputs(const mmebm_plan *plan, int32_t l, int32_t *inputs)
{
    const mmebm_graph *graph = plan->graph;
    const mmebm_layer *layer = &graph->layers[l];
    const cuda_node *node = &plan->nodes[l];
    uint32_t count = 0;
    if (node->product >= 0) {
        const cuda_node *product = &plan->nodes[node->product];
        if (product->sum >= 0)
            inputs[count++] = layer_input(graph, product->sum, 1 - (uint32_t)product->sum_edge);
        return count;
    }
    switch (layer->kind) {
    case MMEBM_LAYER_ADD:
    case MMEBM_LAYER_UPSAMPLE:
    case MMEBM_LAYER_RESHAPE:
    case MMEBM_LAYER_AVG_POOL:
    case MMEBM_LAYER_GLOBAL_AVG_POOL:
        for (uint32_t k = 0; k < layer->edge_count; ++k) inputs[count++] = layer_input(graph, l, k);
        return count;
    default: return 0;
    }
}

/* Of base l's gradient: `until`, the lowest turn that may read it by a reference, -1 = the end of the pass;
 * `contained`: these are in l's lane, or wait for the end. Concatenations refer to any number of inputs: theirs never
 * leaves its memory. */
static void note_references(mmebm_plan *plan, int32_t l)
{
    cuda_node *node = &plan->nodes[l];
    int32_t inputs[2];
    node->until = plan->graph->layers[l].kind == MMEBM_LAYER_CONCAT ? -1 : l;
    node->contained = 1;
    for (uint32_t k = referring_inputs(plan, l, inputs); k-- > 0;) {
        const int32_t base = plan->nodes[inputs[k]].base;
        const int input = plan->graph->layers[base].kind == MMEBM_LAYER_INPUT;
        const int32_t until = input ? -1 : plan->nodes[base].until;
        if (node->until > until) node->until = until;
        node->contained &= input || (plan->nodes[base].read_in_lane && plan->nodes[base].contained &&
                                     plan->nodes[base].lane == node->lane);
    }
}

/* ---- slots: from begin to end, counted in turns */

static int32_t take_slot(mmebm_plan *plan, int32_t lane, int32_t begin, int32_t end, size_t bytes)
{
    int32_t best = -1;
    for (int32_t k = 0; k < plan->slot_count; ++k) {
        const cuda_slot *slot = &plan->slots[k];
        if (slot->lane != lane || slot->end >= begin) continue;
        const size_t size = slot->bytes, found = best < 0 ? 0 : plan->slots[best].bytes;
        /* the smallest that is large enough, else the largest */
        if (best < 0 || (found < bytes ? size > found : size >= bytes && size < found)) best = k;
    }
    if (best < 0) {
        best = plan->slot_count++;
        plan->slots[best].lane = lane;
        plan->slots[best].bytes = 0;
    }
    cuda_slot *slot = &plan->slots[best];
    slot->end = end;
    if (slot->bytes < bytes) slot->bytes = bytes;
    return best;
}

/* Whether a layer has values of its own that may be shared: not those that others write into. */
static int may_share(const mmebm_plan *plan, int32_t l)
{
    const cuda_node *node = &plan->nodes[l];
    const mmebm_layer *layer = &plan->graph->layers[l];
    return layer->kind != MMEBM_LAYER_INPUT && layer->kind != MMEBM_LAYER_CONCAT && !node->done && !node->placed &&
           !node->merged;
}

static void share_values(mmebm_plan *plan)
{
    for (int32_t l = 0; l < (int32_t)plan->graph->layer_count; ++l) {
        cuda_node *node = &plan->nodes[l];
        if (!may_share(plan, l) || !node->read_in_lane) continue;
        if (node->raw.height)
            node->raw_slot = take_slot(plan, node->lane, l, node->last_turn, bytes_of(plan, &node->raw));
        if (node->act.height)
            node->act_slot = take_slot(plan, node->lane, l, node->last_turn, bytes_of(plan, &node->act));
    }
}

/* Backward: the gradient of base l is first written in the turn of its last reader. */
static void share_gradients(mmebm_plan *plan)
{
    const int32_t layers = (int32_t)plan->graph->layer_count;
    for (int32_t l = 0; l < layers; ++l) note_references(plan, l);
    for (int32_t turn = layers; turn >= 0; --turn) {
        for (int32_t l = 0; l < layers; ++l) {
            cuda_node *node = &plan->nodes[l];
            if (!node->gradient.height || node->last_turn != turn || !node->read_in_lane || !node->contained) continue;
            node->gradient_slot =
                take_slot(plan, node->lane, layers - turn, layers - node->until, bytes_of(plan, &node->gradient));
        }
    }
}

/* ---- values and gradients */

/* Shapes; what stays 0 high is not stored. */
static void shape_values(mmebm_plan *plan, int32_t l)
{
    cuda_node *node = &plan->nodes[l];
    const cuda_tensor shape = layer_shape(&plan->graph->layers[l], node->shrink), none = {};
    node->raw_slot = node->act_slot = node->gradient_slot = -1;
    if (!node->placed) node->raw = none;
    node->act = node->gradient = none;
    if (plan->graph->layers[l].kind == MMEBM_LAYER_INPUT || node->done) return;
    if (!node->placed && !node->folded && (node->raw_read || node->act_layer < 0)) node->raw = shape;
    if (node->act_layer >= 0) node->act = shape;
    if (plan->wanted[l]) node->gradient = shape;
    node->raw.type = node->gradient.type = mmebm__cuda_value_type(plan, l);
    node->act.type = plan->type;
}

static void cut_values(mmebm_plan *plan, cuda_cutter *cutter, cuda_tensor *tensor, int32_t slot)
{
    if (!tensor->height) return;
    tensor->data = slot < 0 ? cut(cutter, bytes_of(plan, tensor)) : plan->slots[slot].data;
}

/* Products that end in a concatenation alone write straight into it. */
static void place_parts(mmebm_plan *plan, int32_t l)
{
    const mmebm_graph *graph = plan->graph;
    const cuda_tensor *whole = &plan->nodes[l].raw;
    const size_t size = number_size(whole->type);
    int32_t offset = 0;
    for (uint32_t k = 0; k < graph->layers[l].edge_count; ++k) {
        const int32_t part = layer_input(graph, l, k);
        cuda_node *node = &plan->nodes[part];
        const int32_t channels = layer_shape(&graph->layers[part], 1).channels;
        if (node->placed) {
            node->raw = *whole;
            node->raw.data = static_cast<char *>(whole->data) + (size_t)offset * size;
            node->raw.channels = channels;
        }
        offset += channels;
    }
}

static void lay_out_values(mmebm_plan *plan, cuda_cutter *cutter, int with_gradients)
{
    const int32_t layers = (int32_t)plan->graph->layer_count;
    for (int32_t l = 0; l < layers; ++l) shape_values(plan, l);
    note_turns(plan);
    note_last_readers(plan);
    plan->slot_count = 0;
    if (with_gradients)
        share_gradients(plan);
    else
        share_values(plan);
    for (int32_t k = 0; k < plan->slot_count; ++k) plan->slots[k].data = cut(cutter, plan->slots[k].bytes);
    for (int32_t l = 0; l < layers; ++l) {
        cuda_node *node = &plan->nodes[l];
        if (!node->placed) cut_values(plan, cutter, &node->raw, node->raw_slot);
        cut_values(plan, cutter, &node->act, node->act_slot);
        cut_values(plan, cutter, &node->gradient, node->gradient_slot);
        if (plan->graph->layers[l].kind == MMEBM_LAYER_CONCAT) place_parts(plan, l);
    }
}

/* ---- gradients on their way */

/* Products of one input (decoders of one latent) would wait for each other to add to its gradient: each has a place. */
static void cut_shares(mmebm_plan *plan, cuda_cutter *cutter, int32_t input)
{
    const mmebm_graph *graph = plan->graph;
    int32_t products[MAX_SHARES], count = 0;
    for (uint32_t l = 0; l < graph->layer_count && count < (int32_t)MAX_SHARES; ++l)
        if (is_product(&graph->layers[l]) && !plan->nodes[l].merged && layer_input(graph, (int32_t)l, 0) == input)
            products[count++] = (int32_t)l;
    const cuda_tensor shape = layer_shape(&graph->layers[input], 1);
    for (int32_t k = 0; count > 1 && k < count; ++k)
        cut_tensor(cutter, plan, shape, TYPE_F32, &plan->nodes[products[k]].by_input[0]);
}

/* Inputs of a layer that passes gradients on through memory of its own. */
static void cut_by_input(mmebm_plan *plan, cuda_cutter *cutter, int32_t l)
{
    const mmebm_graph *graph = plan->graph;
    const mmebm_layer *layer = &graph->layers[l];
    if (!mmebm__cuda_backward(layer->kind) || is_halving_pool(layer, mmebm__layer_input(graph, layer, 0))) return;
    for (uint32_t k = 0; k < layer->edge_count && k < 2; ++k) {
        const int32_t from = layer_input(graph, l, k);
        cuda_tensor shape = layer_shape(&graph->layers[from], 1);
        int32_t type = mmebm__cuda_value_type(plan, plan->nodes[from].base);
        if (!plan->wanted[from]) continue;
        if (layer->kind == MMEBM_LAYER_NLL && plan->nodes[from].product >= 0 && shape.height * shape.width > 1) {
            /* where the product can read it at once; the channels between stay zero */
            type = plan->type;
            if (type == TYPE_BF16) shape.channels = shape.stride = padded_to_lanes(shape.channels);
        }
        cut_tensor(cutter, plan, shape, type, &plan->nodes[l].by_input[k]);
    }
}

/* ---- products */

/* Taps of packed weights. */
static int32_t packed_taps(const cuda_node *node)
{
    return node->phases == CUDA_WHOLE ? node->forward.kernel[0] * node->forward.kernel[1] : 16;
}

static void cut_packed_weights(cuda_cutter *cutter, cuda_node *node, int backward)
{
    const int32_t taps = packed_taps(node), in = node->in_channels, out = node->out_channels;
    node->packed_forward = cut(cutter, mmebm__cuda_packed_size(node->factors, taps, in, out));
    if (backward) node->packed_backward = cut(cutter, mmebm__cuda_packed_size(node->factors_back, taps, out, in));
}

/* An aligned copy of a product's source. */
static cuda_tensor packed_shape(const cuda_node *node)
{
    cuda_tensor shape = {};
    shape.height = node->forward.in[0];
    shape.width = node->forward.in[1];
    shape.channels = shape.stride = padded_to_lanes(node->in_channels);
    return shape;
}

static void cut_product(mmebm_plan *plan, cuda_cutter *cutter, int32_t l)
{
    cuda_node *node = &plan->nodes[l];
    if (!node->merged) cut_packed_weights(cutter, node, plan->wanted[layer_input(plan->graph, l, 0)]);
    if (mmebm__cuda_needs_copy(plan, l)) cut_tensor(cutter, plan, packed_shape(node), TYPE_BF16, &node->packed_source);
}

static void cut_merged(mmebm_plan *plan, cuda_cutter *cutter, int32_t l)
{
    const mmebm_graph *graph = plan->graph;
    cuda_node *node = &plan->nodes[l];
    int backward = 0;
    for (uint32_t k = 0; k < graph->layers[l].edge_count; ++k)
        backward |= plan->wanted[layer_input(graph, layer_input(graph, l, k), 0)];
    cut_tensor(cutter, plan, packed_shape(node), plan->type, &node->packed_source);
    cut_packed_weights(cutter, node, backward);
    if (merged_part(graph, l, 0)->bias >= 0)
        node->merged_bias = static_cast<float *>(cut(cutter, (size_t)node->out_channels * sizeof(float)));
    if (backward) cut_tensor(cutter, plan, packed_shape(node), TYPE_F32, &node->merged_gradient);
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* Floats of partial sums that a product needs. */
static size_t product_partials(const mmebm_plan *plan, int32_t l, int weight_gradient)
{
    const cuda_node *node = &plan->nodes[l];
    const cuda_geometry *gather = node->forward.direction > 0 ? &node->forward : &node->backward;
    const int32_t taps = gather->kernel[0] * gather->kernel[1];
    const int64_t in = (int64_t)node->forward.in[0] * node->forward.in[1],
                  out = (int64_t)node->forward.out[0] * node->forward.out[1];
    size_t floats = larger(mmebm__cuda_product_scratch(node->factors, taps, padded_to_lanes(node->in_channels),
                                                       node->out_channels, plan->capacity * out),
                           mmebm__cuda_product_scratch(node->factors_back, taps, padded_to_lanes(node->out_channels),
                                                       node->in_channels, plan->capacity * in));
    if (!weight_gradient) return floats;
    const int transposed = gather == &node->backward;
    floats = larger(floats, mmebm__cuda_bias_scratch(node->out_channels));
    return larger(floats, mmebm__cuda_gradient_scratch(gather, transposed ? node->in_channels : node->out_channels,
                                                       transposed ? node->out_channels : node->in_channels,
                                                       plan->capacity));
}

/* Scratch that the products of a lane share: partial sums, and an aligned copy of one gradient. */
static void cut_scratch(mmebm_plan *plan, cuda_cutter *cutter, const mmebm_plan_spec *spec)
{
    const mmebm_graph *graph = plan->graph;
    const size_t size = number_size(plan->type);
    size_t partials[CUDA_LANES] = {}, copies[CUDA_LANES] = {};
    for (uint32_t l = 0; l < graph->layer_count; ++l) {
        const cuda_node *node = &plan->nodes[l];
        const int merged = node->merged && graph->layers[l].kind == MMEBM_LAYER_CONCAT;
        const int32_t lane = plan->nodes[node->tail].lane;
        if (!is_product(&graph->layers[l]) && !merged) continue;
        copies[lane] = larger(copies[lane], (size_t)plan->capacity * (size_t)node->forward.out[0] *
                                                (size_t)node->forward.out[1] *
                                                (size_t)padded_to_lanes(node->out_channels));
        partials[lane] =
            larger(partials[lane], product_partials(plan, (int32_t)l, !merged && (int)spec->weight_gradient));
    }
    for (int32_t lane = 0; lane < plan->lanes; ++lane) {
        plan->partials[lane] = static_cast<float *>(cut(cutter, partials[lane] * sizeof(float)));
        if (spec->weight_gradient || spec->input_gradients)
            plan->gradient_copy[lane] = cut(cutter, copies[lane] * size);
    }
}

size_t mmebm__cuda_lay_out(mmebm_plan *plan, const mmebm_plan_spec *spec, char *memory)
{
    const mmebm_graph *graph = plan->graph;
    cuda_cutter cutter = {memory, 0};
    plan->weights = static_cast<float *>(cut(&cutter, graph->weight_count * sizeof(float)));
    lay_out_values(plan, &cutter, spec->weight_gradient || spec->input_gradients);
    for (uint32_t l = 0; l < graph->layer_count; ++l) {
        const mmebm_layer *layer = &graph->layers[l];
        const cuda_node *node = &plan->nodes[l];
        if (layer->kind == MMEBM_LAYER_INPUT && plan->wanted[l]) cut_shares(plan, &cutter, (int32_t)l);
        if (layer->kind == MMEBM_LAYER_INPUT) continue;
        if (is_product(layer)) cut_product(plan, &cutter, (int32_t)l);
        if (layer->kind == MMEBM_LAYER_CONCAT && node->merged) cut_merged(plan, &cutter, (int32_t)l);
        if (plan->wanted[l] && !node->done) cut_by_input(plan, &cutter, (int32_t)l);
    }
    cut_scratch(plan, &cutter, spec);
    return cutter.used;
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * Making plans: which layers become views, which a product takes over (cuda_plan.h), by which kernels each runs.
 */
#include "cuda_plan.h"

/* ---- reading the graph */

void mmebm__cuda_mark_wanted(const mmebm_graph *graph, int weight_gradient, unsigned char *wanted)
{
    for (uint32_t l = 0; l < graph->layer_count; ++l) {
        const mmebm_layer *layer = &graph->layers[l];
        if (layer->kind == MMEBM_LAYER_INPUT) continue;
        wanted[l] = weight_gradient && (layer->weight >= 0 || layer->bias >= 0);
        for (uint32_t k = 0; k < layer->edge_count; ++k) wanted[l] |= wanted[layer_input(graph, (int32_t)l, k)];
    }
}

static void read_graph(mmebm_plan *plan)
{
    const mmebm_graph *graph = plan->graph;
    for (uint32_t l = 0; l < graph->layer_count; ++l) {
        cuda_node *node = &plan->nodes[l];
        node->base = (int32_t)l;
        node->shrink = 1;
        node->product = node->sum = node->act_layer = -1;
        node->tail = (int32_t)l;
        for (uint32_t k = 0; k < graph->layers[l].edge_count; ++k) {
            const int32_t from = layer_input(graph, (int32_t)l, k);
            ++plan->readers[from];
            plan->sole_reader[from] = (int32_t)l;
        }
    }
    for (uint32_t o = 0; o < graph->output_count; ++o) plan->is_output[graph->outputs[o]] = 1;
}

/* ---- groups */

/* The addition that reads `from` can be taken over: nobody has, and its other operand lies in the plan's memory, in its
 * own shape. */
static int may_take_sum(const mmebm_plan *plan, int32_t from, int32_t sum, int32_t *edge)
{
    const mmebm_graph *graph = plan->graph;
    if (graph->layers[sum].kind != MMEBM_LAYER_ADD || plan->nodes[sum].product >= 0) return 0;
    *edge = layer_input(graph, sum, 1) == from;
    const int32_t other = layer_input(graph, sum, 1 - (uint32_t)*edge);
    int32_t base = other; /* these may become views of an input */
    while (graph->layers[base].kind == MMEBM_LAYER_UPSAMPLE || graph->layers[base].kind == MMEBM_LAYER_RESHAPE)
        base = layer_input(graph, base, 0);
    return graph->layers[base].kind != MMEBM_LAYER_INPUT && graph->layers[other].kind != MMEBM_LAYER_RESHAPE;
}

static void grow_group(mmebm_plan *plan, int32_t product)
{
    const mmebm_graph *graph = plan->graph;
    cuda_node *node = &plan->nodes[product];
    int32_t tail = product, edge = 0;
    while (!plan->is_output[tail] && plan->readers[tail] == 1) {
        const int32_t next = plan->sole_reader[tail];
        const mmebm_layer *layer = &graph->layers[next];
        if (!node->pooled && node->sum < 0 && graph->layers[product].kind != MMEBM_LAYER_LINEAR &&
            is_halving_pool(layer, &graph->layers[tail])) {
            node->pooled = 1;
        } else if (node->sum < 0 && may_take_sum(plan, tail, next, &edge)) {
            node->sum = next;
            node->sum_edge = edge;
        } else {
            break;
        }
        plan->nodes[tail].done = 1;
        tail = next;
    }
    node->tail = tail;
    plan->nodes[tail].product = product;
    plan->nodes[tail].done = 0;
}

/* Large kernels first: of the two operands of a sum, the costlier takes it over. */
static void find_groups(mmebm_plan *plan)
{
    const mmebm_graph *graph = plan->graph;
    for (int pass = 0; pass < 2; ++pass) {
        for (uint32_t l = 0; l < graph->layer_count; ++l) {
            const mmebm_layer *layer = &graph->layers[l];
            const int large = layer->kind != MMEBM_LAYER_LINEAR && layer->kernel[0] * layer->kernel[1] > 1;
            if (is_product(layer) && large == !pass) grow_group(plan, (int32_t)l);
        }
    }
}

/* ---- views */

static int read_by(const mmebm_plan *plan, int32_t layer, int (*is_kind)(const mmebm_layer *), int all)
{
    const mmebm_graph *graph = plan->graph;
    for (uint32_t l = 0; l < graph->layer_count; ++l)
        for (uint32_t k = 0; k < graph->layers[l].edge_count; ++k)
            if (layer_input(graph, (int32_t)l, k) == layer && !is_kind(&graph->layers[l]) == all) return !all;
    return all;
}

/* These read at halved coordinates. */
static int reads_halved(const mmebm_layer *layer)
{
    return layer->kind == MMEBM_LAYER_CONV2D || layer->kind == MMEBM_LAYER_ADD || layer->kind == MMEBM_LAYER_ACTIVATION;
}

static void become_view(cuda_node *node, const cuda_node *of, int32_t activated, int32_t shrink)
{
    node->base = of->base;
    node->activated = activated;
    node->shrink = shrink;
    node->done = 1;
}

static void try_activation(mmebm_plan *plan, int32_t l)
{
    const mmebm_layer *layer = &plan->graph->layers[l];
    const cuda_node *from = &plan->nodes[layer_input(plan->graph, l, 0)];
    cuda_node *base = &plan->nodes[from->base];
    const float slope = layer->activation == MMEBM_LEAKY_RELU ? layer->parameter : 0.0f;
    if (layer->activation != MMEBM_RELU && layer->activation != MMEBM_LEAKY_RELU) return;
    if (from->activated || base->product < 0 || read_by(plan, l, is_loss, 0)) return;
    if (base->act_layer >= 0 && base->act_slope != slope) return;
    base->act_layer = l;
    base->act_slope = slope;
    become_view(&plan->nodes[l], from, 1, from->shrink);
}

static int is_single_tap(const mmebm_layer *layer)
{
    for (int axis = 0; axis < 2; ++axis)
        if (layer->kernel[axis] != 1 || layer->stride[axis] != 1 || layer->padding[axis] != 0) return 0;
    return layer->kind == MMEBM_LAYER_CONV2D;
}

static void find_views(mmebm_plan *plan)
{
    const mmebm_graph *graph = plan->graph;
    for (uint32_t l = 0; l < graph->layer_count; ++l) {
        const mmebm_layer *layer = &graph->layers[l];
        if (layer->kind == MMEBM_LAYER_INPUT || plan->is_output[l] || plan->nodes[l].done) continue;
        const cuda_node *from = &plan->nodes[layer_input(graph, (int32_t)l, 0)];
        if (layer->kind == MMEBM_LAYER_ACTIVATION)
            try_activation(plan, (int32_t)l);
        else if (layer->kind == MMEBM_LAYER_RESHAPE && from->shrink == 1)
            become_view(&plan->nodes[l], from, from->activated, 1);
        else if (layer->kind == MMEBM_LAYER_UPSAMPLE && layer->factor == 2 && from->shrink == 1 &&
                 read_by(plan, (int32_t)l, reads_halved, 1))
            become_view(&plan->nodes[l], from, from->activated, 2);
        else if (is_single_tap(layer) && from->shrink == 2 && plan->nodes[l].tail == (int32_t)l &&
                 read_by(plan, (int32_t)l, reads_halved, 1))
            plan->nodes[l].shrink = 2;
    }
}

static void note_reading(mmebm_plan *plan, int32_t layer)
{
    const cuda_node *node = &plan->nodes[layer];
    if (!node->activated) plan->nodes[node->base].raw_read = 1;
}

/* Which raw copies are read: by layers that run, by the sums of groups, as outputs. */
static void note_readers(mmebm_plan *plan)
{
    const mmebm_graph *graph = plan->graph;
    for (uint32_t l = 0; l < graph->layer_count; ++l) {
        const cuda_node *node = &plan->nodes[l];
        if (plan->is_output[l]) note_reading(plan, (int32_t)l);
        if (is_product(&graph->layers[l])) {
            note_reading(plan, layer_input(graph, (int32_t)l, 0));
            if (node->sum >= 0) note_reading(plan, layer_input(graph, node->sum, 1 - (uint32_t)node->sum_edge));
        } else if (!node->done && node->product < 0) {
            for (uint32_t k = 0; k < graph->layers[l].edge_count; ++k)
                note_reading(plan, layer_input(graph, (int32_t)l, k));
        }
    }
}

/* ---- lanes */

/* A layer that reads inputs alone begins a lane; others stay in the lane of what they read and, where lanes meet, go on
 * in the lowest. */
static void choose_lanes(mmebm_plan *plan)
{
    const mmebm_graph *graph = plan->graph;
    int32_t begun = 0;
    for (uint32_t l = 0; l < graph->layer_count; ++l) {
        int32_t lane = CUDA_LANES;
        if (graph->layers[l].kind == MMEBM_LAYER_INPUT) continue;
        for (uint32_t k = 0; k < graph->layers[l].edge_count; ++k) {
            const int32_t from = layer_input(graph, (int32_t)l, k);
            if (graph->layers[from].kind != MMEBM_LAYER_INPUT && plan->nodes[from].lane < lane)
                lane = plan->nodes[from].lane;
        }
        plan->nodes[l].lane = lane < CUDA_LANES ? lane : begun++ % CUDA_LANES;
    }
    plan->lanes = begun < CUDA_LANES ? begun : (int32_t)CUDA_LANES;
}

/* ---- sums of single numbers: the terms of an energy, added by one kernel */

/* Numbers that operand `from` of an addition stands for; 0: it is none that can be added so. */
static int32_t terms_of(const mmebm_plan *plan, int32_t from)
{
    const cuda_node *node = &plan->nodes[from];
    if (plan->graph->layers[from].kind == MMEBM_LAYER_INPUT || node->base != from) return 0;
    return node->terms && plan->readers[from] == 1 && !plan->is_output[from] ? node->terms : 1;
}

static void fold_sums(mmebm_plan *plan)
{
    for (uint32_t l = 0; l < plan->graph->layer_count; ++l) {
        const mmebm_layer *layer = &plan->graph->layers[l];
        cuda_node *node = &plan->nodes[l];
        if (layer->kind != MMEBM_LAYER_ADD || layer->count != 1 || node->product >= 0 || node->done) continue;
        const int32_t from[2] = {layer_input(plan->graph, (int32_t)l, 0), layer_input(plan->graph, (int32_t)l, 1)};
        const int32_t terms[2] = {terms_of(plan, from[0]), terms_of(plan, from[1])};
        if (!terms[0] || !terms[1]) continue;
        const int fits = terms[0] + terms[1] <= (int32_t)MAX_SHARES;
        node->terms = fits ? terms[0] + terms[1] : 2;
        for (int k = 0; k < 2; ++k) plan->nodes[from[k]].folded = fits && terms[k] > 1;
    }
}

/* ---- phases (cuda_tensor.h) */

static int taps_are(const mmebm_layer *layer, int64_t kernel, int64_t stride, int64_t padding)
{
    for (int axis = 0; axis < 2; ++axis)
        if (layer->kernel[axis] != kernel || layer->stride[axis] != stride || layer->padding[axis] != padding) return 0;
    return 1;
}

/* Whether a product is a 4 x 4 convolution of stride 2 that halves an image exactly, or the transpose of one. */
static int is_strided(const mmebm_plan *plan, int32_t l)
{
    const mmebm_layer *layer = &plan->graph->layers[l];
    const cuda_node *node = &plan->nodes[l];
    const int transposed = layer->kind == MMEBM_LAYER_CONV_TRANSPOSE2D;
    if (layer->kind == MMEBM_LAYER_LINEAR || !taps_are(layer, 4, 2, 1)) return 0;
    if (node->pooled || plan->nodes[layer_input(plan->graph, l, 0)].shrink != 1) return 0;
    const int32_t *high = transposed ? node->forward.out : node->forward.in;
    const int32_t *low = transposed ? node->forward.in : node->forward.out;
    return high[0] == 2 * low[0] && high[1] == 2 * low[1] && mmebm__cuda_phases_fit(low[0], low[1]);
}

static void set_phases(cuda_node *node, int32_t phases)
{
    const int out = phases == CUDA_DOUBLED || phases == CUDA_STRIDED_BACK; /* the result is the finer side */
    cuda_geometry forward = {};
    for (int axis = 0; axis < 2; ++axis) {
        forward.out[axis] = forward.in[axis] = (out ? node->forward.out[axis] : node->forward.in[axis]) / 2;
        forward.kernel[axis] = 2;
        forward.mul[axis] = forward.div[axis] = 1;
    }
    forward.direction = 1;
    node->phases = phases;
    node->phased_forward = node->phased_backward = forward;
    node->phased_forward.phases_out = node->phased_backward.phases_in = out;
    node->phased_forward.phases_in = node->phased_backward.phases_out = !out;
}

/* ---- merged convolutions */

/* A convolution of an input, equal to `first` in all that decides its geometry, that writes into a concatenation. */
static int may_merge(const mmebm_plan *plan, int32_t part, int32_t first)
{
    const mmebm_layer *layers = plan->graph->layers, *a = &layers[part], *b = &layers[first];
    if (a->kind != MMEBM_LAYER_CONV2D || !plan->nodes[part].placed || plan->nodes[part].tail != part) return 0;
    if (b->kind != MMEBM_LAYER_CONV2D || (a->bias < 0) != (b->bias < 0)) return 0;
    const mmebm_layer *from = mmebm__layer_input(plan->graph, a, 0), *other = mmebm__layer_input(plan->graph, b, 0);
    if (from->kind != MMEBM_LAYER_INPUT || from->shape[0] != other->shape[0] || from->shape[1] != other->shape[1])
        return 0;
    for (int axis = 0; axis < 2; ++axis)
        if (a->kernel[axis] != b->kernel[axis] || a->stride[axis] != b->stride[axis] ||
            a->padding[axis] != b->padding[axis])
            return 0;
    return 1;
}

/* What a product of f32 numbers multiplies: on the copy engine's kernel if its shape and its source suit that. */
static int32_t f32_factors(const mmebm_plan *plan, const cuda_geometry *geometry, int32_t source_channels,
                           int32_t out_channels, int suits)
{
    const int32_t engine = plan->tf32 ? FACTORS_TF32 : FACTORS_SPLIT;
    if (suits && mmebm__cuda_engine_suits(plan->device, engine, geometry, source_channels, out_channels)) return engine;
    return plan->tf32 ? FACTORS_ANY_TF32 : FACTORS_ANY_F32;
}

/* Merged convolutions of f32 numbers want the copy engine's kernel both ways. */
static int choose_merged_factors(const mmebm_plan *plan, cuda_node *node)
{
    const int whole = node->phases == CUDA_WHOLE;
    if (plan->type == TYPE_BF16) return 1;
    node->factors = f32_factors(plan, whole ? &node->forward : &node->phased_forward,
                                padded_to_lanes(node->in_channels), node->out_channels, 1);
    node->factors_back = f32_factors(plan, whole ? &node->backward : &node->phased_backward, node->out_channels,
                                     node->in_channels, 1);
    return has_lines(node->factors) && has_lines(node->factors_back);
}

static void merge_parts(mmebm_plan *plan, int32_t l)
{
    const mmebm_graph *graph = plan->graph;
    const uint32_t count = graph->layers[l].edge_count;
    cuda_node *node = &plan->nodes[l];
    int32_t channels = 0;
    if (count < 2 || count > MAX_PARTS_SIDE_BY_SIDE) return;
    for (uint32_t k = 0; k < count; ++k) {
        const int32_t part = layer_input(graph, l, k);
        if (!may_merge(plan, part, layer_input(graph, l, 0))) return;
        for (uint32_t j = 0; j < k; ++j) /* two gradients cannot be split into one place */
            if (layer_input(graph, layer_input(graph, l, j), 0) == layer_input(graph, part, 0)) return;
        channels += plan->nodes[part].in_channels;
    }
    if (channels > MAX_CHANNELS_SIDE_BY_SIDE) return;
    const int32_t first = layer_input(graph, l, 0);
    node->forward = plan->nodes[first].forward;
    node->backward = plan->nodes[first].backward;
    if (is_strided(plan, first)) set_phases(node, CUDA_STRIDED);
    node->in_channels = channels;
    node->out_channels = layer_shape(&graph->layers[l], 1).channels;
    if (!choose_merged_factors(plan, node)) return;
    for (uint32_t k = 0; k < count; ++k) plan->nodes[layer_input(graph, l, k)].merged = 1;
    node->merged = 1;
}

/* ---- types and geometry */

/* Whether a loss reads the layer, or a view of it. */
static int loss_reads(const mmebm_plan *plan, int32_t base)
{
    const mmebm_graph *graph = plan->graph;
    for (uint32_t l = 0; l < graph->layer_count; ++l)
        for (uint32_t k = 0; is_loss(&graph->layers[l]) && k < graph->layers[l].edge_count; ++k)
            if (plan->nodes[layer_input(graph, (int32_t)l, k)].base == base) return 1;
    return 0;
}

/* Inputs, outputs, single numbers and what losses read stay f32. */
int32_t mmebm__cuda_value_type(const mmebm_plan *plan, int32_t l)
{
    const mmebm_layer *layer = &plan->graph->layers[l];
    const int wide =
        layer->kind == MMEBM_LAYER_INPUT || plan->is_output[l] || layer->count == 1 || loss_reads(plan, l);
    return wide ? (int32_t)TYPE_F32 : plan->type;
}

static void set_geometry(const mmebm_plan *plan, int32_t l)
{
    const mmebm_layer *layer = &plan->graph->layers[l], *from = mmebm__layer_input(plan->graph, layer, 0);
    cuda_node *node = &plan->nodes[l];
    cuda_geometry gather = {}, scatter;
    const int linear = layer->kind == MMEBM_LAYER_LINEAR, transposed = layer->kind == MMEBM_LAYER_CONV_TRANSPOSE2D;
    const cuda_tensor in = layer_shape(from, 1), out = layer_shape(layer, 1);
    const int flat = linear && layer->flatten;
    node->in_channels = flat ? (int32_t)from->count : in.channels;
    node->out_channels = flat ? (int32_t)layer->count : out.channels;
    const int32_t small[2] = {transposed ? in.height : out.height, transposed ? in.width : out.width};
    const int32_t large[2] = {transposed ? out.height : in.height, transposed ? out.width : in.width};
    for (int axis = 0; axis < 2; ++axis) {
        gather.out[axis] = flat ? 1 : small[axis] / node->shrink;
        gather.in[axis] = flat ? 1 : large[axis] / node->shrink;
        gather.kernel[axis] = linear ? 1 : (int32_t)layer->kernel[axis];
        gather.mul[axis] = linear ? 1 : (int32_t)layer->stride[axis];
        gather.offset[axis] = linear ? 0 : -(int32_t)layer->padding[axis];
        gather.div[axis] = 1;
    }
    gather.direction = 1;
    scatter = gather;
    for (int axis = 0; axis < 2; ++axis) {
        scatter.out[axis] = gather.in[axis];
        scatter.in[axis] = gather.out[axis];
        scatter.mul[axis] = 1;
        scatter.div[axis] = gather.mul[axis];
        scatter.offset[axis] = -gather.offset[axis];
    }
    scatter.direction = -1;
    node->forward = transposed ? scatter : gather;
    node->backward = transposed ? gather : scatter;
}

/* Whether each part of a concatenation begins at a multiple of 16 bytes, for the kernels that want that of f32 numbers
 * (bf16 ones are copied where it is not so). */
static int parts_align(const mmebm_plan *plan, int32_t l)
{
    const mmebm_graph *graph = plan->graph;
    for (uint32_t k = 0; plan->type == TYPE_F32 && k < graph->layers[l].edge_count; ++k)
        if (layer_shape(&graph->layers[layer_input(graph, l, k)], 1).channels % 4) return 0;
    return 1;
}

static void choose_placed(mmebm_plan *plan)
{
    const mmebm_graph *graph = plan->graph;
    for (uint32_t l = 0; l < graph->layer_count; ++l) {
        if (graph->layers[l].kind != MMEBM_LAYER_CONCAT || !parts_align(plan, (int32_t)l)) continue;
        for (uint32_t k = 0; k < graph->layers[l].edge_count; ++k) {
            const int32_t part = layer_input(graph, (int32_t)l, k);
            cuda_node *node = &plan->nodes[part];
            node->placed = node->product >= 0 && plan->readers[part] == 1 && !plan->is_output[part] &&
                           mmebm__cuda_value_type(plan, part) == mmebm__cuda_value_type(plan, (int32_t)l);
        }
    }
}

int mmebm__cuda_needs_copy(const mmebm_plan *plan, int32_t product)
{
    const int32_t from = layer_input(plan->graph, product, 0);
    const cuda_node *node = &plan->nodes[from];
    const int32_t type = node->activated ? plan->type : mmebm__cuda_value_type(plan, node->base);
    return plan->type == TYPE_BF16 && (type != TYPE_BF16 || plan->nodes[product].in_channels % LANES != 0);
}

/* ---- kernels of products */

static int reads_input(const mmebm_plan *plan, int32_t product)
{
    const int32_t base = plan->nodes[layer_input(plan->graph, product, 0)].base;
    return plan->graph->layers[base].kind == MMEBM_LAYER_INPUT;
}

static void choose_factors(mmebm_plan *plan, int32_t l)
{
    cuda_node *node = &plan->nodes[l];
    const cuda_node *source = &plan->nodes[layer_input(plan->graph, l, 0)];
    const int whole = node->phases == CUDA_WHOLE;
    /* at one resolution, without windows; inputs lie anywhere */
    const int plain = !whole || (!node->pooled && source->shrink == node->shrink);
    node->factors = node->factors_back = FACTORS_BF16;
    if (plan->type == TYPE_BF16) return;
    node->factors = f32_factors(plan, whole ? &node->forward : &node->phased_forward, node->in_channels,
                                node->out_channels, plain && !reads_input(plan, l));
    node->factors_back = f32_factors(plan, whole ? &node->backward : &node->phased_backward, node->out_channels,
                                     node->in_channels, plain);
}

/* Whether the phases of a product can be worked on, forward and back. */
static int phases_fit(const mmebm_plan *plan, int32_t l)
{
    const cuda_node *node = &plan->nodes[l];
    const cuda_geometry *forward = &node->phased_forward, *backward = &node->phased_backward;
    if (plan->type == TYPE_BF16) return mmebm__cuda_phases_fit(forward->out[0], forward->out[1]);
    return has_lines(f32_factors(plan, forward, node->in_channels, node->out_channels, !reads_input(plan, l))) &&
           has_lines(f32_factors(plan, backward, node->out_channels, node->in_channels, 1));
}

/* What phases suit a product, if they can be worked on. */
static int32_t suitable_phases(const mmebm_plan *plan, int32_t l)
{
    const mmebm_layer *layer = &plan->graph->layers[l];
    const cuda_node *node = &plan->nodes[l], *source = &plan->nodes[layer_input(plan->graph, l, 0)];
    if (is_strided(plan, l)) return layer->kind == MMEBM_LAYER_CONV2D ? CUDA_STRIDED : CUDA_STRIDED_BACK;
    if (layer->kind != MMEBM_LAYER_CONV2D || !taps_are(layer, 3, 1, 1)) return CUDA_WHOLE;
    if (!node->pooled && source->shrink == 2 && !mmebm__cuda_needs_copy(plan, l)) return CUDA_DOUBLED;
    return node->pooled && source->shrink == 1 ? CUDA_HALVED : CUDA_WHOLE;
}

static void choose_phases(mmebm_plan *plan, int32_t l)
{
    cuda_node *node = &plan->nodes[l];
    const int32_t phases = node->merged ? (int32_t)CUDA_WHOLE : suitable_phases(plan, l);
    if (phases == CUDA_WHOLE) return;
    set_phases(node, phases);
    if (!phases_fit(plan, l)) node->phases = CUDA_WHOLE;
}

/* ---- order */

/* Whether layer l reads one of the present round, or one that has not had its turn. */
static int must_wait(const mmebm_plan *plan, int32_t l, int32_t round)
{
    for (uint32_t k = 0; k < plan->graph->layers[l].edge_count; ++k) {
        const int32_t from = layer_input(plan->graph, l, k);
        if (plan->round[from] < 0 || plan->round[from] == round) return 1;
    }
    return 0;
}

/* The next layer of a lane from `l` on; layer_count at its end. */
static int32_t next_of_lane(const mmebm_plan *plan, int32_t lane, int32_t l)
{
    const int32_t layers = (int32_t)plan->graph->layer_count;
    while (l < layers && (plan->graph->layers[l].kind == MMEBM_LAYER_INPUT || plan->nodes[l].lane != lane)) ++l;
    return l;
}

/* Lanes in turn, a layer of each in a round. */
static void order_by_rounds(mmebm_plan *plan)
{
    const int32_t layers = (int32_t)plan->graph->layer_count;
    int32_t next[CUDA_LANES], count = 0;
    for (int32_t l = 0; l < layers; ++l) {
        plan->round[l] = -1;
        if (plan->graph->layers[l].kind == MMEBM_LAYER_INPUT) plan->order[count++] = l, plan->round[l] = 0;
    }
    for (int32_t lane = 0; lane < plan->lanes; ++lane) next[lane] = next_of_lane(plan, lane, 0);
    for (int32_t round = 1; count < layers; ++round)
        for (int32_t lane = 0; lane < plan->lanes; ++lane) {
            const int32_t l = next[lane];
            if (l == layers || must_wait(plan, l, round)) continue;
            plan->order[count++] = l;
            plan->round[l] = round;
            next[lane] = next_of_lane(plan, lane, l + 1);
        }
}

/* Whether the i-th layer that runs and the one before it are equal products of a round. */
static int are_paired(const mmebm_plan *plan, uint32_t i)
{
    if (i >= plan->graph->layer_count || begins_round(plan, i)) return 0;
    const int32_t a = plan->order[i - 1], b = plan->order[i];
    const cuda_node *x = &plan->nodes[a], *y = &plan->nodes[b];
    return is_product(&plan->graph->layers[a]) && is_product(&plan->graph->layers[b]) &&
           x->in_channels == y->in_channels && x->out_channels == y->out_channels && x->factors == y->factors &&
           x->phases == y->phases && memcmp(&x->forward, &y->forward, sizeof x->forward) == 0;
}

/* Whether nearly every product has an equal one in its round. */
static int lanes_are_equal(const mmebm_plan *plan)
{
    int32_t products = 0, paired = 0;
    for (uint32_t i = 0; i < plan->graph->layer_count; ++i) {
        products += is_product(&plan->graph->layers[plan->order[i]]);
        paired += are_paired(plan, i) || are_paired(plan, i + 1);
    }
    return products && 10 * paired >= 9 * products;
}

/* Rows with which no product has more than so many pixels for each multiprocessor. One that has many more gains less
 * from beginning and ending together with others than from other kinds of work beside it. */
static int64_t rows_in_step(const mmebm_plan *plan)
{
    enum { PIXELS_IN_STEP = 2048 };
    int64_t most = 1;
    for (uint32_t l = 0; l < plan->graph->layer_count; ++l) {
        const cuda_node *node = &plan->nodes[l];
        const int64_t pixels = (int64_t)node->forward.out[0] * node->forward.out[1];
        if (is_product(&plan->graph->layers[l]) && most < pixels) most = pixels;
    }
    return (int64_t)plan->device->processors * PIXELS_IN_STEP / most;
}

/* Equal branches in step, if the device's kernels make their products together; else layers as they are numbered. */
static void choose_order(mmebm_plan *plan)
{
    if (plan->lanes > 1 && plan->device->encode_pixels) {
        order_by_rounds(plan);
        if (lanes_are_equal(plan)) plan->in_step = rows_in_step(plan);
        if (plan->in_step) return;
    }
    for (int32_t l = 0; l < (int32_t)plan->graph->layer_count; ++l) plan->order[l] = plan->round[l] = l;
}

/* ---- making and destroying */

static mmebm_plan *allocate_plan(mmebm_device *device, const mmebm_plan_spec *spec)
{
    const mmebm_host *host = &device->host;
    const size_t layers = spec->graph->layer_count;
    const size_t bytes =
        sizeof(mmebm_plan) +
        layers * (sizeof(cuda_node) + sizeof(cuda_collected) + 2 * sizeof(cuda_slot) + 4 * sizeof(int32_t) + 3);
    char *block = static_cast<char *>(host->allocate(host->owner, bytes, 64));
    if (!block) {
        host->fail(host->owner, MMEBM_E_MEMORY, "cuda: no memory for a plan of %zu bytes", bytes);
        return NULL;
    }
    mmebm_plan *plan = reinterpret_cast<mmebm_plan *>(block);
    plan->device = device;
    plan->graph = spec->graph;
    plan->host_bytes = bytes;
    plan->capacity = spec->capacity;
    plan->type = spec->precision == MMEBM_PRECISION_BF16 ? TYPE_BF16 : TYPE_F32;
    plan->tf32 = spec->precision == MMEBM_PRECISION_TF32;
    plan->nodes = reinterpret_cast<cuda_node *>(block + sizeof *plan);
    plan->collected = reinterpret_cast<cuda_collected *>(plan->nodes + layers);
    plan->slots = reinterpret_cast<cuda_slot *>(plan->collected + layers);
    plan->readers = reinterpret_cast<int32_t *>(plan->slots + 2 * layers);
    plan->sole_reader = plan->readers + layers;
    plan->order = plan->sole_reader + layers;
    plan->round = plan->order + layers;
    plan->wanted = reinterpret_cast<unsigned char *>(plan->round + layers);
    plan->is_output = plan->wanted + layers;
    plan->idle = plan->is_output + layers;
    return plan;
}

static mmebm_status check_spec(const mmebm_device *device, const mmebm_plan_spec *spec)
{
    const mmebm_host *host = &device->host;
    if (spec->precision != MMEBM_PRECISION_F32 && spec->precision != MMEBM_PRECISION_BF16 &&
        spec->precision != MMEBM_PRECISION_TF32)
        return host->fail(host->owner, MMEBM_E_UNSUPPORTED, "cuda: precision %u, it offers f32, tf32 and bf16",
                          (unsigned)spec->precision);
    for (uint32_t l = 0; l < spec->graph->layer_count; ++l) {
        const int64_t count = spec->graph->layers[l].count;
        if (count > INT32_MAX || spec->capacity > INT32_MAX / count)
            return host->fail(host->owner, MMEBM_E_UNSUPPORTED,
                              "cuda: layer %u has %lld numbers for each of %lld tuples, wanted fewer than 2^31 in all",
                              (unsigned)l, (long long)count, (long long)spec->capacity);
    }
    return MMEBM_OK;
}

/* Grids of blocks have 65535 of them at most across channels, of CHANNELS_OF_BLOCK or more each. */
static mmebm_status check_channels(const mmebm_plan *plan)
{
    enum { CHANNELS_OF_BLOCK = 64, MOST_BLOCKS = 65535 };
    const mmebm_host *host = &plan->device->host;
    for (uint32_t l = 0; l < plan->graph->layer_count; ++l) {
        const cuda_node *node = &plan->nodes[l];
        if (!is_product(&plan->graph->layers[l])) continue;
        const int64_t taps = (int64_t)node->forward.kernel[0] * node->forward.kernel[1];
        const int64_t channels = node->in_channels > node->out_channels ? node->in_channels : node->out_channels;
        if (taps * channels > (int64_t)CHANNELS_OF_BLOCK * MOST_BLOCKS)
            return host->fail(host->owner, MMEBM_E_UNSUPPORTED,
                              "cuda: layer %u has %lld channels by %lld taps, wanted %lld or fewer in all", (unsigned)l,
                              (long long)channels, (long long)taps, (long long)CHANNELS_OF_BLOCK * MOST_BLOCKS);
    }
    return MMEBM_OK;
}

static mmebm_status open_memory(mmebm_plan *plan, const mmebm_plan_spec *spec)
{
    const mmebm_host *host = &plan->device->host;
    const mmebm_graph *graph = plan->graph;
    for (uint32_t i = 0; i < graph->input_count; ++i)
        plan->wanted[graph->inputs[i]] = (unsigned char)(spec->input_gradients >> i & 1);
    mmebm__cuda_mark_wanted(graph, (int)spec->weight_gradient, plan->wanted);
    plan->device_bytes = mmebm__cuda_lay_out(plan, spec, NULL);
    if (plan->device_bytes == SIZE_MAX)
        return host->fail(host->owner, MMEBM_E_MEMORY, "cuda: a plan for %lld tuples is more than a device can hold",
                          (long long)plan->capacity);
    void *memory;
    CUDA_TRY(mmebm__cuda_allocate(plan->device, plan->device_bytes, &memory));
    plan->memory = static_cast<char *>(memory);
    mmebm__cuda_lay_out(plan, spec, plan->memory);
    return mmebm__cuda_check(plan->device, cudaMemsetAsync(memory, 0, plan->device_bytes, plan->device->stream),
                             "cudaMemsetAsync");
}

mmebm_status mmebm__cuda_plan_create(mmebm_device *device, const mmebm_plan_spec *spec, mmebm_plan **plan)
{
    const cuda_scope scope(device);
    CUDA_TRY(check_spec(device, spec));
    mmebm_plan *made = allocate_plan(device, spec);
    if (!made) return MMEBM_E_MEMORY;
    read_graph(made);
    find_groups(made);
    find_views(made);
    note_readers(made);
    choose_placed(made);
    fold_sums(made);
    choose_lanes(made);
    for (uint32_t l = 0; l < made->graph->layer_count; ++l)
        if (is_product(&made->graph->layers[l])) set_geometry(made, (int32_t)l);
    for (uint32_t l = 0; l < made->graph->layer_count; ++l)
        if (made->graph->layers[l].kind == MMEBM_LAYER_CONCAT) merge_parts(made, (int32_t)l);
    for (uint32_t l = 0; l < made->graph->layer_count; ++l)
        if (is_product(&made->graph->layers[l])) choose_phases(made, (int32_t)l), choose_factors(made, (int32_t)l);
    choose_order(made);
    mmebm_status status = check_channels(made);
    if (status == MMEBM_OK) status = open_memory(made, spec);
    if (status != MMEBM_OK) {
        mmebm__cuda_plan_destroy(made);
        return status;
    }
    *plan = made;
    return MMEBM_OK;
}

void mmebm__cuda_plan_destroy(mmebm_plan *plan)
{
    if (!plan) return;
    const cuda_scope scope(plan->device);
    if (plan->memory) {
        cudaStreamSynchronize(plan->device->stream);
        mmebm__cuda_free(plan->device, plan->memory, plan->device_bytes);
    }
    plan->device->host.release(plan->device->host.owner, plan, plan->host_bytes);
}

size_t mmebm__cuda_plan_size(const mmebm_plan *plan)
{
    return plan->host_bytes + plan->device_bytes;
}

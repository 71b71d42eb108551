/* SPDX-License-Identifier: Apache-2.0
 *
 * One run of a plan. Forward, in the plan's order: every layer that is not a view, not inside a group, a folded sum or
 * merged convolutions, and not left out because nobody reads its values. Backward, in reverse:
 * the gradient of a base is collected as a reference to memory where somebody has it already (with a factor and halved
 * coordinates, if need be), and only a second contribution, a mask or a window makes it be written to the base's own
 * memory. The input gradient of a product does that in its epilogue. Nothing is allocated.
 */
#include <string.h>

#include "cuda_batch.h"
#include "cuda_plan.h"

struct cuda_pass {
    mmebm_plan *plan;
    const mmebm_graph *graph;
    const mmebm_plan_run *run;
    cuda_fork *fork;
    cuda_batch *batch;
};

static uint32_t lane_set(int32_t lane)
{
    return 1u << lane;
}

/* The device, for a call in the present lane, which comes after what is kept of the lane's. */
static const mmebm_device *device_of(const cuda_pass *pass)
{
    if (lanes_keeping(pass->batch, 0) & lane_set(pass->fork->now)) mmebm__cuda_batch_make(pass->batch);
    return fork_device(pass->fork);
}

static int64_t elements_of(const cuda_tensor *tensor)
{
    return (int64_t)tensor->height * tensor->width * tensor->channels;
}

/* The number of an input layer among the inputs. */
static uint32_t input_number(const mmebm_graph *graph, int32_t layer)
{
    uint32_t i = 0;
    while (graph->inputs[i] != layer) ++i;
    return i;
}

/* The values of a layer as another reads them. */
static cuda_operand values_of(const cuda_pass *pass, int32_t l, float scale)
{
    const cuda_node *node = &pass->plan->nodes[l], *base = &pass->plan->nodes[node->base];
    cuda_operand operand = {layer_shape(&pass->graph->layers[l], node->shrink), node->shrink, 1, scale};
    if (pass->graph->layers[node->base].kind == MMEBM_LAYER_INPUT) {
        const mmebm_plan_input *input = &pass->run->inputs[input_number(pass->graph, node->base)];
        operand.tensor.data = const_cast<float *>(input->data);
        operand.tensor.type = TYPE_F32;
        operand.tensor.period = input->period < pass->run->rows ? input->period : 0;
        return operand;
    }
    const cuda_tensor *memory = node->activated ? &base->act : &base->raw;
    operand.tensor.data = memory->data;
    operand.tensor.type = memory->type;
    if (memory->stride != memory->channels) operand.tensor.stride = memory->stride; /* inside a concatenation */
    return operand;
}

/* Memory for a gradient in the shape of layer l's values in memory. */
static cuda_tensor gradient_memory(const cuda_pass *pass, int32_t l)
{
    const cuda_node *node = &pass->plan->nodes[l];
    cuda_tensor shape = layer_shape(&pass->graph->layers[l], node->shrink);
    if (pass->graph->layers[node->base].kind == MMEBM_LAYER_INPUT) {
        shape.data = pass->run->input_gradients[input_number(pass->graph, node->base)];
        shape.type = TYPE_F32;
        return shape;
    }
    shape.data = pass->plan->nodes[node->base].gradient.data;
    shape.type = pass->plan->nodes[node->base].gradient.type;
    return shape;
}

static mmebm_status run_combine(const cuda_pass *pass, const cuda_combine *combine)
{
    cuda_call call;
    call.kind = CALL_COMBINE;
    call.combine = *combine;
    call.combine.rows = pass->run->rows;
    return mmebm__cuda_batch_call(pass->batch, &call);
}

static mmebm_status combine(const cuda_pass *pass, const cuda_tensor *out, const cuda_operand *a, const cuda_operand *b)
{
    cuda_combine call = {};
    call.out = *out;
    call.a = *a;
    if (b) call.b = *b;
    return run_combine(pass, &call);
}

/* ---- forward */

static int32_t positions_in(const cuda_geometry *geometry)
{
    return geometry->in[0] * geometry->in[1];
}

/* The source of a product; a flattened linear layer sees one pixel. */
static cuda_operand source_of(const cuda_pass *pass, int32_t product)
{
    cuda_operand source = values_of(pass, layer_input(pass->graph, product, 0), 1.0f);
    const cuda_node *node = &pass->plan->nodes[product];
    source.shrink /= node->shrink; /* a single tap at a doubled image reads it as it lies */
    if (positions_in(&node->forward) == 1 && source.shrink == 1) {
        source.tensor.height = source.tensor.width = 1;
        source.tensor.channels = source.tensor.stride = node->in_channels;
    }
    return source;
}

/* The source where the product's kernel can read it. */
static cuda_operand readable_source(const cuda_pass *pass, int32_t product)
{
    const cuda_node *node = &pass->plan->nodes[product];
    if (!node->packed_source.data) return source_of(pass, product);
    const cuda_operand copy = {node->packed_source, 1, 1, 1.0f};
    return copy;
}

/* The aligned copy of a product's source. */
static mmebm_status pack_source(const cuda_pass *pass, int32_t product)
{
    const cuda_tensor *packed = &pass->plan->nodes[product].packed_source;
    const cuda_operand source = source_of(pass, product);
    const int is_image = packed->height * packed->width > 1;
    const int few = packed->channels <= (int32_t)MAX_CHANNELS_SIDE_BY_SIDE;
    if (source.tensor.type != TYPE_F32 || source.shrink != 1 || !is_image || !few)
        return combine(pass, packed, &source, NULL);
    cuda_side_by_side image = {}; /* pixel by pixel */
    image.packed = *packed;
    image.rows = pass->run->rows;
    image.count = 1;
    image.parts[0] = source.tensor;
    return mmebm__cuda_gather_parts(device_of(pass), &image);
}

static mmebm_status run_product(const cuda_pass *pass, const cuda_product *product)
{
    cuda_call call;
    call.kind = CALL_PRODUCT;
    call.product = *product;
    call.product.partials = pass->plan->partials[pass->fork->now];
    return mmebm__cuda_batch_call(pass->batch, &call);
}

static mmebm_status product_forward(const cuda_pass *pass, int32_t l)
{
    const mmebm_layer *layer = &pass->graph->layers[l];
    const cuda_node *node = &pass->plan->nodes[l], *tail = &pass->plan->nodes[node->tail];
    if (node->packed_source.data) CUDA_TRY(pack_source(pass, l));
    const cuda_operand source = readable_source(pass, l);
    cuda_product product = {};
    product.factors = node->factors;
    product.geometry = node->phases == CUDA_WHOLE ? node->forward : node->phased_forward;
    product.source = source.tensor;
    product.shrink = node->phases == CUDA_DOUBLED ? 1 : source.shrink; /* the low resolution's own pixels */
    product.weights = node->packed_forward;
    product.out_channels = node->out_channels;
    product.rows = pass->run->rows;
    cuda_epilogue *end = &product.epilogue;
    end->bias = layer->bias < 0 ? NULL : pass->plan->weights + pass->graph->tensors[layer->bias].offset;
    end->window = node->pooled && node->phases == CUDA_WHOLE ? 2 : 1;
    end->source_scale = node->pooled ? 0.25f : 1.0f;
    end->scale = 1.0f;
    end->residual.shrink = 1;
    if (node->sum >= 0) {
        const mmebm_layer *sum = &pass->graph->layers[node->sum];
        const int32_t other = layer_input(pass->graph, node->sum, 1 - (uint32_t)node->sum_edge);
        end->scale = node->sum_edge ? sum->beta : sum->alpha;
        end->residual = values_of(pass, other, node->sum_edge ? sum->alpha : sum->beta);
    }
    end->raw = tail->raw;
    if (positions_in(&node->forward) == 1) end->raw.stride = tail->placed ? tail->raw.stride : node->out_channels;
    end->activated = tail->act;
    if (positions_in(&node->forward) == 1) end->activated.stride = node->out_channels;
    end->activated_slope = tail->act_slope;
    return run_product(pass, &product);
}

/* Inputs of merged convolutions, or the memory for their gradients. */
static cuda_side_by_side merged_images(const cuda_pass *pass, int32_t l, int gradients)
{
    cuda_side_by_side images = {};
    images.rows = pass->run->rows;
    images.packed = gradients ? pass->plan->nodes[l].merged_gradient : pass->plan->nodes[l].packed_source;
    images.count = (int32_t)pass->graph->layers[l].edge_count;
    for (int32_t k = 0; k < images.count; ++k)
        images.parts[k] =
            values_of(pass, layer_input(pass->graph, layer_input(pass->graph, l, (uint32_t)k), 0), 1.0f).tensor;
    return images;
}

static cuda_product merged_product(const cuda_pass *pass, int32_t l, int backward)
{
    const cuda_node *node = &pass->plan->nodes[l];
    cuda_product product = {};
    product.factors = backward ? node->factors_back : node->factors;
    product.geometry = backward ? node->backward : node->forward;
    if (node->phases != CUDA_WHOLE) product.geometry = backward ? node->phased_backward : node->phased_forward;
    product.source = node->packed_source;
    product.shrink = 1;
    product.weights = backward ? node->packed_backward : node->packed_forward;
    product.out_channels = backward ? padded_to_lanes(node->in_channels) : node->out_channels; /* zeros: by vectors */
    product.rows = pass->run->rows;
    product.epilogue.bias = backward ? NULL : node->merged_bias;
    product.epilogue.source_scale = product.epilogue.scale = 1.0f;
    product.epilogue.window = product.epilogue.residual.shrink = 1;
    product.epilogue.raw = backward ? node->merged_gradient : node->raw;
    return product;
}

static mmebm_status merged_forward(const cuda_pass *pass, int32_t l)
{
    const cuda_side_by_side images = merged_images(pass, l, 0);
    CUDA_TRY(mmebm__cuda_gather_parts(device_of(pass), &images));
    cuda_product product = merged_product(pass, l, 0);
    return run_product(pass, &product);
}

static mmebm_status concat_forward(const cuda_pass *pass, int32_t l)
{
    if (pass->plan->nodes[l].merged) return merged_forward(pass, l);
    cuda_tensor part = pass->plan->nodes[l].raw;
    const size_t size = number_size(part.type);
    for (uint32_t k = 0; k < pass->graph->layers[l].edge_count; ++k) {
        const int32_t from = layer_input(pass->graph, l, k);
        const cuda_operand values = values_of(pass, from, 1.0f);
        part.channels = values.tensor.channels;
        if (!pass->plan->nodes[from].placed) CUDA_TRY(combine(pass, &part, &values, NULL));
        part.data = static_cast<char *>(part.data) + (size_t)part.channels * size;
    }
    return MMEBM_OK;
}

static mmebm_status run_layer(const cuda_pass *pass, cuda_call_kind kind, const cuda_layer_call *layer)
{
    cuda_call call;
    call.kind = kind;
    call.layer = *layer;
    return mmebm__cuda_batch_call(pass->batch, &call);
}

/* The call of a layer with passes in cuda_layers.cu, forward part. */
static cuda_layer_call layer_call(const cuda_pass *pass, int32_t l)
{
    const mmebm_layer *layer = &pass->graph->layers[l];
    cuda_layer_call call = {};
    call.layer = layer;
    call.rows = pass->run->rows;
    call.x = values_of(pass, layer_input(pass->graph, l, 0), 1.0f);
    if (layer->edge_count > 1) call.target = values_of(pass, layer_input(pass->graph, l, 1), 1.0f);
    call.y = pass->plan->nodes[l].raw;
    if (layer->kind != MMEBM_LAYER_BATCH_NORM) return call;
    const float *weights = pass->plan->weights;
    call.gain = weights + pass->graph->tensors[layer->weight].offset;
    call.shift = weights + pass->graph->tensors[layer->bias].offset;
    call.mean = weights + pass->graph->tensors[layer->mean].offset;
    call.variance = weights + pass->graph->tensors[layer->variance].offset;
    return call;
}

static void add_share(cuda_shares *shares, const void *part, float scale)
{
    shares->parts[shares->count] = static_cast<const float *>(part);
    shares->scales[shares->count++] = scale;
}

/* The terms of an addition of single numbers, with those of additions that it takes over. */
static void add_terms(const cuda_pass *pass, int32_t l, float scale, cuda_shares *shares)
{
    const mmebm_layer *layer = &pass->graph->layers[l];
    for (uint32_t k = 0; k < 2; ++k) {
        const int32_t from = layer_input(pass->graph, l, k);
        const float factor = scale * (k ? layer->beta : layer->alpha);
        if (pass->plan->nodes[from].folded)
            add_terms(pass, from, factor, shares);
        else
            add_share(shares, pass->plan->nodes[from].raw.data, factor);
    }
}

static mmebm_status sum_forward(const cuda_pass *pass, int32_t l)
{
    cuda_shares shares = {};
    shares.out = static_cast<float *>(pass->plan->nodes[l].raw.data);
    shares.numbers = pass->run->rows;
    add_terms(pass, l, 1.0f, &shares);
    return mmebm__cuda_add_shares(device_of(pass), &shares);
}

static mmebm_status layer_forward(const cuda_pass *pass, int32_t l)
{
    const mmebm_layer *layer = &pass->graph->layers[l];
    const cuda_node *node = &pass->plan->nodes[l];
    if (node->product >= 0) return product_forward(pass, node->product);
    const int halving = is_halving_pool(layer, mmebm__layer_input(pass->graph, layer, 0));
    if (mmebm__cuda_forward(layer->kind) && !halving) {
        const cuda_layer_call call = layer_call(pass, l);
        return run_layer(pass, CALL_FORWARD, &call);
    }
    if (layer->kind == MMEBM_LAYER_CONCAT) return concat_forward(pass, l);
    const int add = layer->kind == MMEBM_LAYER_ADD;
    if (node->terms) return sum_forward(pass, l);
    cuda_operand a = values_of(pass, layer_input(pass->graph, l, 0), add ? layer->alpha : 1.0f);
    if (layer->kind == MMEBM_LAYER_UPSAMPLE) a.shrink = (int32_t)layer->factor;
    if (halving) {
        a.window = 2;
        a.scale = 0.25f;
    }
    cuda_tensor out = node->raw;
    if (layer->kind == MMEBM_LAYER_RESHAPE) {
        a.tensor.height = a.tensor.width = out.height = out.width = 1;
        a.tensor.channels = a.tensor.stride = out.channels = out.stride = (int32_t)layer->count;
    }
    if (!add) return combine(pass, &out, &a, NULL);
    const cuda_operand b = values_of(pass, layer_input(pass->graph, l, 1), layer->beta);
    return combine(pass, &out, &a, &b);
}

/* A layer that may be left out of the forward pass, if nobody reads its values. */
static int may_idle(const cuda_pass *pass, int32_t l)
{
    const cuda_node *node = &pass->plan->nodes[l];
    switch (pass->graph->layers[l].kind) {
    case MMEBM_LAYER_LINEAR: /* its copy of the source serves the weights' gradient */
        return node->product == l && node->tail == l && node->sum < 0 && !node->act.data && !pass->run->weight_gradient;
    case MMEBM_LAYER_ADD: return node->product < 0 && !node->act.data;
    case MMEBM_LAYER_NLL:
    case MMEBM_LAYER_PRIOR:
    case MMEBM_LAYER_GLOBAL_AVG_POOL: return 1;
    default: return 0;
    }
}

/* Whether a layer's backward pass reads the values of its inputs. */
static int reads_back(const cuda_pass *pass, int32_t l)
{
    const mmebm_layer *layer = &pass->graph->layers[l];
    if (!pass->run->seeds) return 0;
    if (is_loss(layer) || (is_product(layer) && pass->run->weight_gradient)) return 1;
    for (uint32_t k = 0; k < layer->edge_count; ++k)
        if (pass->plan->nodes[layer_input(pass->graph, l, k)].activated) return 1;
    return 0;
}

/* What only leads to outputs that nobody asked for, as a chain's energy. */
static void mark_idle(const cuda_pass *pass)
{
    const mmebm_graph *graph = pass->graph;
    unsigned char *idle = pass->plan->idle;
    memset(idle, 1, graph->layer_count);
    for (uint32_t o = 0; pass->run->outputs && o < graph->output_count; ++o)
        if (pass->run->outputs[o]) idle[graph->outputs[o]] = 0;
    for (int32_t l = (int32_t)graph->layer_count; l-- > 0;) {
        idle[l] = idle[l] && may_idle(pass, l);
        for (uint32_t k = 0; k < graph->layers[l].edge_count; ++k)
            if (!idle[l] || reads_back(pass, l)) idle[layer_input(graph, l, k)] = 0;
    }
}

/* Lanes of what layer l reads; of a group, what its layers read. Inputs are there from the beginning. */
static uint32_t lanes_read(const cuda_pass *pass, int32_t l)
{
    const mmebm_graph *graph = pass->graph;
    const int32_t product = pass->plan->nodes[l].product;
    uint32_t lanes = 0;
    for (uint32_t k = 0; k < graph->layers[l].edge_count; ++k) {
        const int32_t from = layer_input(graph, l, k);
        if (graph->layers[from].kind == MMEBM_LAYER_INPUT) continue;
        lanes |= pass->plan->nodes[from].folded ? lanes_read(pass, from) : lane_set(pass->plan->nodes[from].lane);
    }
    return product < 0 || product == l ? lanes : lanes | lanes_read(pass, product);
}

static mmebm_status forward(const cuda_pass *pass)
{
    const mmebm_graph *graph = pass->graph;
    mark_idle(pass);
    for (uint32_t i = 0; i < graph->layer_count; ++i) {
        const int32_t l = pass->plan->order[i];
        const cuda_node *node = &pass->plan->nodes[l];
        if (begins_round(pass->plan, i)) CUDA_TRY(mmebm__cuda_batch_end_round(pass->batch));
        if (graph->layers[l].kind == MMEBM_LAYER_INPUT || node->done || (is_product(&graph->layers[l]) && node->merged))
            continue;
        const int runs = !node->folded && !pass->plan->idle[l];
        if (!runs && !reads_back(pass, l)) continue;
        const uint32_t read = lanes_read(pass, l);
        if (!runs && !read) continue;
        /* also if it does not run: backward, the lane reads the same values */
        CUDA_TRY(mmebm__cuda_batch_enter(pass->batch, node->lane, read));
        if (runs) CUDA_TRY(layer_forward(pass, l));
    }
    CUDA_TRY(mmebm__cuda_batch_make(pass->batch));
    for (uint32_t o = 0; pass->run->outputs && o < graph->output_count; ++o) {
        if (!pass->run->outputs[o]) continue;
        const cuda_operand values = values_of(pass, graph->outputs[o], 1.0f);
        cuda_tensor out = layer_shape(&graph->layers[graph->outputs[o]], 1);
        out.data = pass->run->outputs[o];
        out.type = TYPE_F32;
        CUDA_TRY(mmebm__cuda_batch_enter(pass->batch, pass->plan->nodes[graph->outputs[o]].lane, 0));
        CUDA_TRY(combine(pass, &out, &values, NULL));
    }
    const int meet = !pass->run->seeds || pass->run->outputs;
    return meet ? mmebm__cuda_batch_meet(pass->batch) : mmebm__cuda_batch_make(pass->batch);
}

/* ---- collecting gradients */

static int same_shape(const cuda_tensor *a, const cuda_tensor *b)
{
    return a->height == b->height && a->width == b->width && a->channels == b->channels;
}

/* Numbers one after another, one for each of the layer: they may be seen in another shape. */
static int is_plain(const cuda_operand *operand)
{
    return operand->shrink == 1 && operand->window == 1 &&
           (!operand->tensor.data || operand->tensor.stride == operand->tensor.channels);
}

static void set_shape(cuda_operand *operand, const cuda_tensor *shape)
{
    operand->tensor.height = shape->height;
    operand->tensor.width = shape->width;
    operand->tensor.channels = operand->tensor.stride = shape->channels;
}

/* Writes what base b has collected to its own memory. */
static mmebm_status settle(const cuda_pass *pass, int32_t b)
{
    cuda_collected *collected = &pass->plan->collected[b];
    const cuda_tensor own = gradient_memory(pass, b);
    if (collected->value.tensor.data == own.data) return MMEBM_OK;
    CUDA_TRY(combine(pass, &own, &collected->value, NULL));
    collected->value = {own, 1, 1, 1.0f};
    collected->lanes = lane_set(pass->fork->now);
    return MMEBM_OK;
}

/* What l's base has collected so far, in the shape of l's values in memory, for an epilogue or a sum; scale 0:
 * nothing. */
static mmebm_status collected_for(const cuda_pass *pass, int32_t l, cuda_operand *value)
{
    const int32_t b = pass->plan->nodes[l].base;
    const cuda_collected *collected = &pass->plan->collected[b];
    const cuda_tensor shape = layer_shape(&pass->graph->layers[l], pass->plan->nodes[l].shrink);
    const cuda_tensor base_shape = layer_shape(&pass->graph->layers[b], pass->plan->nodes[b].shrink);
    memset(value, 0, sizeof *value);
    value->shrink = value->window = 1;
    if (!collected->set) return MMEBM_OK;
    CUDA_TRY(mmebm__cuda_batch_wait(pass->batch, collected->lanes));
    const int reshaped = !same_shape(&shape, &base_shape);
    if (!collected->value.tensor.data || collected->value.window != 1 || collected->value.shrink > 2 ||
        (reshaped && !is_plain(&collected->value)))
        CUDA_TRY(settle(pass, b));
    *value = collected->value;
    if (reshaped) set_shape(value, &shape);
    return MMEBM_OK;
}

/* The gradient of base b now lies in its own memory. */
static void mark_settled(const cuda_pass *pass, int32_t b)
{
    pass->plan->collected[b].value = {gradient_memory(pass, b), 1, 1, 1.0f};
    pass->plan->collected[b].set = 1;
    pass->plan->collected[b].lanes = lane_set(pass->fork->now);
}

/* Adds a gradient of layer l's values, given in the shape of l. */
static mmebm_status contribute(const cuda_pass *pass, int32_t l, cuda_operand gradient)
{
    const cuda_node *node = &pass->plan->nodes[l];
    cuda_collected *collected = &pass->plan->collected[node->base];
    if (!pass->plan->wanted[l] || gradient.scale == 0.0f) return MMEBM_OK;
    const cuda_tensor shape = layer_shape(&pass->graph->layers[l], 1);
    const cuda_tensor base_shape = layer_shape(&pass->graph->layers[node->base], 1);
    const int reshaped = !same_shape(&shape, &base_shape);
    if (!collected->set && !node->activated && node->shrink == 1 && gradient.window == 1 &&
        (!reshaped || is_plain(&gradient))) {
        if (reshaped) set_shape(&gradient, &base_shape);
        collected->value = gradient;
        collected->set = 1;
        collected->lanes = lane_set(pass->fork->now);
        return MMEBM_OK;
    }
    cuda_combine call = {};
    CUDA_TRY(collected_for(pass, l, &call.b));
    call.out = gradient_memory(pass, l);
    call.a = gradient;
    call.a.window *= node->shrink;
    if (node->activated) {
        call.mask = values_of(pass, l, 1.0f).tensor;
        call.slope = pass->plan->nodes[node->base].act_slope;
    }
    CUDA_TRY(run_combine(pass, &call));
    mark_settled(pass, node->base);
    return MMEBM_OK;
}

/* ---- backward */

/* A gradient in the shape of layer l where a product's kernels can read it: as it lies, in halved coordinates if it may
 * be so, or as a copy. */
static mmebm_status readable_gradient(const cuda_pass *pass, int32_t l, int32_t factors, int32_t shrink,
                                      cuda_operand *gradient)
{
    const mmebm_plan *plan = pass->plan;
    const int halves = gradient->window == 1 && gradient->shrink <= shrink;
    if (halves && product_reads(factors, gradient)) return MMEBM_OK;
    cuda_tensor copy = layer_shape(&pass->graph->layers[l], plan->nodes[l].shrink);
    copy.data = plan->gradient_copy[pass->fork->now];
    copy.type = plan->type;
    if (plan->type == TYPE_BF16) copy.channels = copy.stride = padded_to_lanes(copy.channels);
    cuda_operand unscaled = *gradient; /* the factor comes after the sums, as it does without a copy */
    unscaled.scale = 1.0f;
    CUDA_TRY(combine(pass, &copy, &unscaled, NULL));
    *gradient = {copy, 1, 1, gradient->scale};
    return MMEBM_OK;
}

static float *weight_gradient_of(const cuda_pass *pass, int32_t tensor)
{
    return tensor < 0 || !pass->run->weight_gradient ? NULL
                                                     : pass->run->weight_gradient + pass->graph->tensors[tensor].offset;
}

static mmebm_status product_weight_gradients(const cuda_pass *pass, int32_t l, const cuda_operand *gradient)
{
    const mmebm_layer *layer = &pass->graph->layers[l];
    const cuda_node *node = &pass->plan->nodes[l];
    if (node->merged && node->packed_source.data) /* the forward pass copied all sources side by side instead */
        CUDA_TRY(pack_source(pass, l));
    const cuda_operand source = readable_source(pass, l);
    const int transposed = layer->kind == MMEBM_LAYER_CONV_TRANSPOSE2D;
    cuda_weight_gradient call = {};
    call.factors = pass->plan->type == TYPE_BF16 ? FACTORS_BF16 : pass->plan->tf32 ? FACTORS_TF32 : FACTORS_SPLIT;
    call.geometry = transposed ? node->backward : node->forward;
    call.small_side = transposed ? source.tensor : gradient->tensor;
    call.large_side = transposed ? gradient->tensor : source.tensor;
    call.small_shrink = transposed ? source.shrink : gradient->shrink;
    call.large_shrink = transposed ? gradient->shrink : source.shrink;
    call.small_channels = transposed ? node->in_channels : node->out_channels;
    call.large_channels = transposed ? node->out_channels : node->in_channels;
    call.scale = gradient->scale;
    call.rows = pass->run->rows;
    call.gradient = weight_gradient_of(pass, layer->weight);
    call.partials = pass->plan->partials[pass->fork->now];
    float *bias = weight_gradient_of(pass, layer->bias);
    if (!transposed) call.bias = bias;
    CUDA_TRY(mmebm__cuda_weight_gradient(device_of(pass), &call));
    if (!bias || !transposed) return MMEBM_OK;
    cuda_operand sums = *gradient;
    sums.tensor.channels = node->out_channels;
    return mmebm__cuda_bias_gradient(device_of(pass), &sums, pass->run->rows, bias, call.partials);
}

static mmebm_status product_input_gradient(const cuda_pass *pass, int32_t l, const cuda_operand *gradient)
{
    const cuda_node *node = &pass->plan->nodes[l];
    const int32_t from = layer_input(pass->graph, l, 0);
    const cuda_node *source = &pass->plan->nodes[from];
    const cuda_node *base = &pass->plan->nodes[source->base];
    cuda_product product = {};
    product.factors = node->factors_back;
    product.geometry = node->phases == CUDA_WHOLE ? node->backward : node->phased_backward;
    product.source = gradient->tensor;
    product.shrink = node->phases == CUDA_WHOLE ? gradient->shrink : 1;
    product.weights = node->packed_backward;
    product.out_channels = node->in_channels;
    product.rows = pass->run->rows;
    cuda_epilogue *end = &product.epilogue;
    end->source_scale = gradient->scale;
    end->scale = 1.0f;
    end->window = node->phases == CUDA_WHOLE ? source->shrink / node->shrink : 1;
    if (source->activated) {
        end->mask = values_of(pass, from, 1.0f).tensor;
        end->mask_slope = base->act_slope;
    }
    const int shares = node->by_input[0].data != NULL;
    end->raw = gradient_memory(pass, from);
    end->residual.shrink = 1;
    if (shares)
        end->raw.data = node->by_input[0].data;
    else
        CUDA_TRY(collected_for(pass, from, &end->residual));
    if (positions_in(&node->forward) == 1 && source->shrink == 1) { /* flattened: one pixel */
        if (end->residual.scale != 0.0f && !is_plain(&end->residual)) {
            CUDA_TRY(settle(pass, source->base));
            CUDA_TRY(collected_for(pass, from, &end->residual));
        }
        end->raw.stride = end->mask.stride = end->residual.tensor.stride = node->in_channels;
        end->raw.channels = end->mask.channels = end->residual.tensor.channels = node->in_channels;
    }
    CUDA_TRY(run_product(pass, &product));
    if (!shares) mark_settled(pass, source->base);
    return MMEBM_OK;
}

/* The tail's gradient goes to the other operand of the sum, through the pool, and to weights and source. */
static mmebm_status product_backward(const cuda_pass *pass, int32_t l, cuda_operand gradient)
{
    const cuda_node *node = &pass->plan->nodes[l];
    if (node->sum >= 0) {
        const mmebm_layer *sum = &pass->graph->layers[node->sum];
        cuda_operand other = gradient;
        other.scale *= node->sum_edge ? sum->alpha : sum->beta;
        CUDA_TRY(contribute(pass, layer_input(pass->graph, node->sum, 1 - (uint32_t)node->sum_edge), other));
        gradient.scale *= node->sum_edge ? sum->beta : sum->alpha;
    }
    const int32_t from = layer_input(pass->graph, l, 0);
    if (!pass->plan->wanted[l]) return MMEBM_OK;
    /* phases read the gradient at the resolution of the result that is stored */
    if (node->phases != CUDA_WHOLE) CUDA_TRY(readable_gradient(pass, node->tail, node->factors_back, 1, &gradient));
    if (node->pooled) {
        gradient.shrink *= 2;
        gradient.scale *= 0.25f;
    }
    if (node->phases == CUDA_WHOLE) CUDA_TRY(readable_gradient(pass, l, node->factors_back, 2, &gradient));
    if (pass->run->weight_gradient) CUDA_TRY(product_weight_gradients(pass, l, &gradient));
    return pass->plan->wanted[from] && !node->merged ? product_input_gradient(pass, l, &gradient) : MMEBM_OK;
}

/* The gradient by all inputs of merged convolutions at once; one that something else reads too gets its sum as usual */
static mmebm_status merged_backward(const cuda_pass *pass, int32_t l, cuda_operand gradient)
{
    const mmebm_graph *graph = pass->graph;
    cuda_side_by_side images = merged_images(pass, l, 1);
    cuda_operand share = {pass->plan->nodes[l].merged_gradient, 1, 1, 1.0f};
    int any = 0;
    for (int32_t k = 0; k < images.count; ++k)
        any |= pass->plan->wanted[layer_input(graph, layer_input(graph, l, (uint32_t)k), 0)];
    if (!any) return MMEBM_OK;
    const cuda_node *node = &pass->plan->nodes[l];
    CUDA_TRY(readable_gradient(pass, l, node->factors_back, node->phases == CUDA_WHOLE ? 2 : 1, &gradient));
    cuda_product product = merged_product(pass, l, 1);
    product.source = gradient.tensor;
    product.shrink = gradient.shrink;
    product.epilogue.source_scale = gradient.scale;
    CUDA_TRY(run_product(pass, &product));
    for (int32_t k = 0; k < images.count; ++k) {
        const int32_t input = layer_input(graph, layer_input(graph, l, (uint32_t)k), 0);
        share.tensor.channels = images.parts[k].channels;
        images.parts[k].data = NULL;
        if (pass->plan->wanted[input] && !pass->plan->collected[input].set) {
            images.parts[k] = gradient_memory(pass, input);
            mark_settled(pass, input);
        } else {
            CUDA_TRY(contribute(pass, input, share));
        }
        share.tensor.data = static_cast<float *>(share.tensor.data) + share.tensor.channels;
    }
    return mmebm__cuda_split_parts(device_of(pass), &images);
}

static mmebm_status concat_backward(const cuda_pass *pass, int32_t l, cuda_operand gradient)
{
    if (pass->plan->nodes[l].merged) CUDA_TRY(merged_backward(pass, l, gradient));
    const size_t size = number_size(gradient.tensor.type);
    for (uint32_t k = 0; k < pass->graph->layers[l].edge_count; ++k) {
        const int32_t from = layer_input(pass->graph, l, k);
        gradient.tensor.channels = layer_shape(&pass->graph->layers[from], 1).channels;
        CUDA_TRY(contribute(pass, from, gradient));
        if (gradient.tensor.data)
            gradient.tensor.data = static_cast<char *>(gradient.tensor.data) + (size_t)gradient.tensor.channels * size;
    }
    return MMEBM_OK;
}

/* Layers with passes in cuda_layers.cu: they write gradients by their inputs, which are then passed on. */
static mmebm_status other_backward(const cuda_pass *pass, int32_t l, const cuda_operand *gradient)
{
    const mmebm_layer *layer = &pass->graph->layers[l];
    const cuda_node *node = &pass->plan->nodes[l];
    cuda_layer_call call = layer_call(pass, l);
    call.by_y = *gradient;
    for (uint32_t k = 0; k < layer->edge_count && k < 2; ++k)
        if (pass->plan->wanted[layer_input(pass->graph, l, k)]) (k ? call.by_target : call.by_x) = node->by_input[k];
    if (layer->kind == MMEBM_LAYER_BATCH_NORM) {
        const int32_t tensors[4] = {layer->weight, layer->bias, layer->mean, layer->variance};
        for (int k = 0; k < 4; ++k) call.by_weights[k] = weight_gradient_of(pass, tensors[k]);
    }
    CUDA_TRY(run_layer(pass, CALL_BACKWARD, &call));
    for (uint32_t k = 0; k < layer->edge_count && k < 2; ++k) {
        const cuda_operand by_input = {node->by_input[k], 1, 1, 1.0f};
        if (pass->plan->wanted[layer_input(pass->graph, l, k)])
            CUDA_TRY(contribute(pass, layer_input(pass->graph, l, k), by_input));
    }
    return MMEBM_OK;
}

static mmebm_status layer_backward(const cuda_pass *pass, int32_t l, cuda_operand gradient)
{
    const mmebm_layer *layer = &pass->graph->layers[l];
    const int32_t from = layer_input(pass->graph, l, 0);
    const cuda_tensor from_shape = layer_shape(&pass->graph->layers[from], 1);
    if (pass->plan->nodes[l].product >= 0) return product_backward(pass, pass->plan->nodes[l].product, gradient);
    switch (layer->kind) {
    case MMEBM_LAYER_ADD: {
        cuda_operand share = gradient;
        share.scale = gradient.scale * layer->alpha;
        CUDA_TRY(contribute(pass, from, share));
        share.scale = gradient.scale * layer->beta;
        return contribute(pass, layer_input(pass->graph, l, 1), share);
    }
    case MMEBM_LAYER_CONCAT:
        return concat_backward(pass, l, gradient);
    case MMEBM_LAYER_UPSAMPLE:
        if (gradient.shrink > 1) CUDA_TRY(settle(pass, l));
        gradient = pass->plan->collected[l].value;
        gradient.window *= (int32_t)layer->factor;
        return contribute(pass, from, gradient);
    case MMEBM_LAYER_RESHAPE:
        if (!is_plain(&gradient)) CUDA_TRY(settle(pass, l));
        gradient = pass->plan->collected[l].value;
        set_shape(&gradient, &from_shape);
        return contribute(pass, from, gradient);
    case MMEBM_LAYER_GLOBAL_AVG_POOL:
        gradient.shrink = from_shape.height > from_shape.width ? from_shape.height : from_shape.width;
        gradient.scale /= (float)(from_shape.height * from_shape.width);
        return contribute(pass, from, gradient);
    default:
        break;
    }
    if (!is_halving_pool(layer, &pass->graph->layers[from])) return other_backward(pass, l, &gradient);
    gradient.shrink *= 2;
    gradient.scale *= 0.25f;
    return contribute(pass, from, gradient);
}

static mmebm_status seed_outputs(const cuda_pass *pass)
{
    const mmebm_graph *graph = pass->graph;
    for (uint32_t o = 0; o < graph->output_count; ++o) {
        const mmebm_plan_seed *seed = &pass->run->seeds[o];
        cuda_operand gradient = {layer_shape(&graph->layers[graph->outputs[o]], 1), 1, 1, seed->scale};
        gradient.tensor.data = const_cast<float *>(seed->data);
        gradient.tensor.type = TYPE_F32;
        CUDA_TRY(contribute(pass, graph->outputs[o], gradient));
    }
    return MMEBM_OK;
}

/* What products that share an input gave for its gradient. */
static cuda_shares shares_of(const cuda_pass *pass, int32_t input)
{
    const mmebm_plan *plan = pass->plan;
    cuda_shares shares = {};
    for (uint32_t l = 0; l < pass->graph->layer_count; ++l) {
        const cuda_node *node = &plan->nodes[l];
        if (is_product(&pass->graph->layers[l]) && node->by_input[0].data && plan->wanted[l] &&
            plan->collected[node->tail].set && layer_input(pass->graph, (int32_t)l, 0) == input)
            add_share(&shares, node->by_input[0].data, 1.0f);
    }
    return shares;
}

/* Gradients by inputs that do not lie in their places yet. */
static mmebm_status deliver_input_gradients(const cuda_pass *pass)
{
    const mmebm_graph *graph = pass->graph;
    for (uint32_t i = 0; pass->run->input_gradients && i < graph->input_count; ++i) {
        const int32_t l = graph->inputs[i];
        if (!pass->run->input_gradients[i]) continue;
        const cuda_tensor own = gradient_memory(pass, l);
        cuda_shares shares = shares_of(pass, l);
        shares.out = static_cast<float *>(own.data);
        shares.numbers = pass->run->rows * elements_of(&own);
        if (pass->plan->collected[l].set) {
            CUDA_TRY(settle(pass, l));
            add_share(&shares, shares.out, 1.0f);
        }
        if (!shares.count)
            CUDA_TRY(mmebm__cuda_check(device_of(pass),
                                       cudaMemsetAsync(own.data, 0, (size_t)shares.numbers * sizeof(float),
                                                       device_of(pass)->stream),
                                       "cudaMemsetAsync"));
        else if (shares.count > 1 || shares.parts[0] != shares.out)
            CUDA_TRY(mmebm__cuda_add_shares(device_of(pass), &shares));
    }
    return MMEBM_OK;
}

static mmebm_status backward(const cuda_pass *pass)
{
    mmebm_plan *plan = pass->plan;
    const mmebm_graph *graph = pass->graph;
    memset(plan->collected, 0, graph->layer_count * sizeof *plan->collected);
    for (uint32_t i = 0; i < graph->input_count; ++i)
        plan->wanted[graph->inputs[i]] = pass->run->input_gradients && pass->run->input_gradients[i];
    mmebm__cuda_mark_wanted(graph, pass->run->weight_gradient != NULL, plan->wanted);
    CUDA_TRY(mmebm__cuda_batch_enter(pass->batch, 0, 0));
    CUDA_TRY(seed_outputs(pass));
    for (uint32_t i = graph->layer_count; i-- > 0;) {
        const int32_t l = plan->order[i];
        if (graph->layers[l].kind != MMEBM_LAYER_INPUT && plan->collected[l].set) {
            CUDA_TRY(mmebm__cuda_batch_enter(pass->batch, plan->nodes[l].lane, plan->collected[l].lanes));
            CUDA_TRY(layer_backward(pass, l, plan->collected[l].value));
        }
        if (begins_round(plan, i)) CUDA_TRY(mmebm__cuda_batch_end_round(pass->batch));
    }
    CUDA_TRY(mmebm__cuda_batch_meet(pass->batch));
    CUDA_TRY(deliver_input_gradients(pass));
    return mmebm__cuda_batch_make(pass->batch);
}

mmebm_status mmebm__cuda_plan_run(mmebm_plan *plan, const mmebm_plan_run *run)
{
    const cuda_scope scope(plan->device);
    cuda_fork fork;
    cuda_batch batch;
    mmebm__cuda_batch_begin(&batch, &fork);
    /* gradients by weights, which are not made together, run side by side */
    const int in_step = run->rows <= plan->in_step && !run->weight_gradient;
    CUDA_TRY(mmebm__cuda_fork_begin(&fork, plan->device, plan->lanes, in_step));
    const cuda_pass pass = {plan, plan->graph, run, &fork, &batch};
    mmebm_status status = forward(&pass);
    if (status == MMEBM_OK && run->seeds) status = backward(&pass);
    if (status == MMEBM_OK) return status;
    const mmebm_status met = mmebm__cuda_fork_meet(&fork); /* no lane works on while the next run begins */
    return met == MMEBM_OK ? status : met;
}

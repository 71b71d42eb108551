/* SPDX-License-Identifier: Apache-2.0
 *
 * Adds layers to a graph. Each kind has one function that checks the settings and infers the result's shape and
 * tensors from the inputs' shapes; one table names them. Called by the builder (network_layers.c), by compose.c for
 * losses and by the file reader, so that a graph is checked in the same way wherever it comes from.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "network.h"
#include "view.h"

enum {
    MAX_LAYERS = 8192,      /* sixteen ResNet decoders have under two thousand */
    MAX_LAYER_INPUTS = 4096,
    MAX_LAYER_TENSORS = 4,
    MAX_WINDOW = 65535,     /* kernel, stride, factor */
    FIRST_ROOM = 16         /* entries of a graph's arrays when they are first allocated; doubled when full */
};
static const int64_t max_node_count = INT64_C(1) << 31;   /* floats of one row of a node */
static const size_t max_weight_count = (size_t)1 << 40; /* floats of a graph's weight vector */

/* A layer on its way into the graph. */
typedef struct layer_draft {
    mmebm_context *context;
    const mmebm_graph *graph;
    const mmebm_layer_request *request;
    mmebm_layer layer;
    char name[MMEBM_TENSOR_NAME_SIZE];
    mmebm_tensor tensors[MAX_LAYER_TENSORS];
    uint32_t tensor_count;
    size_t weight_count; /* of the graph with this layer */
} layer_draft;

typedef struct layer_rule {
    const char *name; /* also of unnamed tensors */
    uint32_t min_inputs, max_inputs;
    mmebm_status (*infer)(layer_draft *draft);
} layer_rule;

static const layer_rule rules[MMEBM_LAYER_KIND_COUNT];

/* ---- helpers */

/* "network 'energy': conv2d: " before the sentence */
static mmebm_status __attribute__((format(printf, 3, 4))) refuse(const layer_draft *draft, mmebm_status status,
                                                                  const char *format, ...)
{
    char sentence[MMEBM_ERROR_SIZE];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(sentence, sizeof sentence, format, arguments);
    va_end(arguments);
    return mmebm__fail(draft->context, status, "%s: %s: %s", draft->request->owner,
                       rules[draft->request->settings.kind].name, sentence);
}

static const mmebm_layer *input_of(const layer_draft *draft, uint32_t k)
{
    return &draft->graph->layers[draft->request->inputs[k]];
}

static char *shape_of(const mmebm_layer *layer, char text[128])
{
    return mmebm__shape_text(text, 0, layer->rank, layer->shape);
}

static void copy_shape(layer_draft *draft, const mmebm_layer *source)
{
    draft->layer.rank = source->rank;
    memcpy(draft->layer.shape, source->shape, sizeof source->shape);
}

static mmebm_status need_image(const layer_draft *draft)
{
    const mmebm_layer *x = input_of(draft, 0);
    char text[128];
    if (x->rank == 3) return MMEBM_OK;
    return refuse(draft, MMEBM_E_SHAPE, "node %d has shape %s, wanted [height,width,channels]",
                  (int)draft->request->inputs[0], shape_of(x, text));
}

static mmebm_status need_range(const layer_draft *draft, const char *what, int64_t found, int64_t low, int64_t high)
{
    if (found >= low && found <= high) return MMEBM_OK;
    return refuse(draft, MMEBM_E_ARGUMENT, "%s is %lld, wanted %lld to %lld", what, (long long)found, (long long)low,
                  (long long)high);
}

static mmebm_status need_choice(const layer_draft *draft, const char *what, uint32_t found, uint32_t last)
{
    if (found >= 1 && found <= last) return MMEBM_OK;
    return refuse(draft, MMEBM_E_ARGUMENT, "%s is %u, wanted 1 to %u", what, (unsigned)found, (unsigned)last);
}

static mmebm_status need_positive(const layer_draft *draft, const char *what, float found)
{
    if (isfinite(found) && found > 0.0f) return MMEBM_OK;
    return refuse(draft, MMEBM_E_ARGUMENT, "%s is %g, wanted a finite number above 0", what, (double)found);
}

/* Adds tensor "<layer's name>.<suffix>" to the draft and returns its number in the graph. */
static mmebm_status add_tensor(layer_draft *draft, const char *suffix, mmebm_tensor_role role, uint32_t rank,
                               const int64_t *shape, int64_t fan_in, int64_t fan_out, int32_t *index)
{
    mmebm_tensor *tensor = &draft->tensors[draft->tensor_count];
    *tensor = (mmebm_tensor){.role = role, .rank = rank, .count = 1, .fan_in = fan_in, .fan_out = fan_out};
    const int length = snprintf(tensor->name, sizeof tensor->name, "%s.%s", draft->name, suffix);
    if (length >= (int)sizeof tensor->name)
        return refuse(draft, MMEBM_E_ARGUMENT, "with '.%s' the name '%.20s...' has %d characters, wanted at most %d",
                      suffix, draft->name, length, (int)sizeof tensor->name - 1);
    for (uint32_t t = 0; t < draft->graph->tensor_count; ++t)
        if (strcmp(draft->graph->tensors[t].name, tensor->name) == 0)
            return refuse(draft, MMEBM_E_NAME, "there is a tensor '%s' already", tensor->name);
    for (uint32_t d = 0; d < rank; ++d) {
        tensor->shape[d] = shape[d];
        if (!mmebm__checked_mul(tensor->count, (size_t)shape[d], &tensor->count)) tensor->count = SIZE_MAX;
    }
    tensor->offset = draft->weight_count;
    if (!mmebm__checked_add(draft->weight_count, tensor->count, &draft->weight_count) ||
        draft->weight_count > max_weight_count)
        return refuse(draft, MMEBM_E_ARGUMENT, "with tensor '%s' the network has more than %zu weights", tensor->name,
                      max_weight_count);
    *index = (int32_t)(draft->graph->tensor_count + draft->tensor_count++);
    return MMEBM_OK;
}

/* Weight and, if asked for, bias. */
static mmebm_status add_weights(layer_draft *draft, uint32_t rank, const int64_t *shape, int64_t fan_in,
                                int64_t fan_out)
{
    const int with_bias = draft->request->settings.bias >= 0;
    MMEBM_TRY(add_tensor(draft, "weight", MMEBM_ROLE_WEIGHT, rank, shape, fan_in, fan_out, &draft->layer.weight));
    if (!with_bias) return MMEBM_OK;
    return add_tensor(draft, "bias", MMEBM_ROLE_BIAS, 1, &draft->request->out_channels, fan_in, fan_out,
                      &draft->layer.bias);
}

/* ---- one function for each kind: fills layer.rank, layer.shape and the tensors */

static mmebm_status infer_input(layer_draft *draft)
{
    MMEBM_TRY(need_range(draft, "rank", draft->request->settings.rank, 1, 3));
    copy_shape(draft, &draft->request->settings);
    return MMEBM_OK;
}

static mmebm_status check_kernel(const layer_draft *draft)
{
    const mmebm_layer *layer = &draft->layer;
    for (int d = 0; d < 2; ++d) {
        MMEBM_TRY(need_range(draft, "kernel", layer->kernel[d], 1, MAX_WINDOW));
        MMEBM_TRY(need_range(draft, "stride", layer->stride[d], 1, MAX_WINDOW));
        MMEBM_TRY(need_range(draft, "padding", layer->padding[d], 0, layer->kernel[d] - 1));
    }
    return need_range(draft, "out_channels", draft->request->out_channels, 1, max_node_count);
}

/* Product of sizes that were checked one by one; beyond the cap, any value beyond it. */
static int64_t capped_product(int64_t a, int64_t b, int64_t c)
{
    int64_t product;
    if (__builtin_mul_overflow(a, b, &product) || __builtin_mul_overflow(product, c, &product)) return INT64_MAX;
    return product;
}

static mmebm_status infer_window(layer_draft *draft, int64_t channels)
{
    const mmebm_layer *x = input_of(draft, 0);
    mmebm_layer *layer = &draft->layer;
    layer->rank = 3;
    layer->shape[2] = channels;
    for (int d = 0; d < 2; ++d) {
        const int64_t span = x->shape[d] + 2 * layer->padding[d] - layer->kernel[d];
        char text[128];
        if (span < 0)
            return refuse(draft, MMEBM_E_SHAPE, "a kernel of %lld with padding %lld does not fit into %s",
                          (long long)layer->kernel[d], (long long)layer->padding[d], shape_of(x, text));
        layer->shape[d] = span / layer->stride[d] + 1;
    }
    return MMEBM_OK;
}

static mmebm_status infer_conv2d(layer_draft *draft)
{
    MMEBM_TRY(need_image(draft));
    MMEBM_TRY(check_kernel(draft));
    const int64_t in = input_of(draft, 0)->shape[2], out = draft->request->out_channels;
    const int64_t *kernel = draft->layer.kernel;
    MMEBM_TRY(infer_window(draft, out));
    const int64_t shape[4] = {out, kernel[0], kernel[1], in};
    return add_weights(draft, 4, shape, capped_product(in, kernel[0], kernel[1]),
                       capped_product(out, kernel[0], kernel[1]));
}

static mmebm_status infer_conv_transpose2d(layer_draft *draft)
{
    MMEBM_TRY(need_image(draft));
    MMEBM_TRY(check_kernel(draft));
    const mmebm_layer *x = input_of(draft, 0);
    mmebm_layer *layer = &draft->layer;
    const int64_t in = x->shape[2], out = draft->request->out_channels;
    layer->rank = 3;
    layer->shape[2] = out;
    for (int d = 0; d < 2; ++d) {
        MMEBM_TRY(need_range(draft, "output_padding", layer->output_padding[d], 0, layer->stride[d] - 1));
        layer->shape[d] = (x->shape[d] - 1) * layer->stride[d] - 2 * layer->padding[d] + layer->kernel[d] +
                          layer->output_padding[d];
        char text[128];
        if (layer->shape[d] < 1)
            return refuse(draft, MMEBM_E_SHAPE, "padding %lld leaves nothing of %s", (long long)layer->padding[d],
                          shape_of(x, text));
    }
    const int64_t shape[4] = {in, layer->kernel[0], layer->kernel[1], out};
    /* PyTorch's fans follow its weight layout [in, out, kh, kw]: fan_in counts the second axis. */
    return add_weights(draft, 4, shape, capped_product(out, layer->kernel[0], layer->kernel[1]),
                       capped_product(in, layer->kernel[0], layer->kernel[1]));
}

static mmebm_status infer_linear(layer_draft *draft)
{
    const mmebm_layer *x = input_of(draft, 0);
    const int64_t out = draft->request->out_channels;
    MMEBM_TRY(need_range(draft, "out_features", out, 1, max_node_count));
    MMEBM_TRY(need_range(draft, "flatten", draft->layer.flatten, 0, 1));
    if (draft->layer.flatten)
        draft->layer.rank = 1;
    else
        copy_shape(draft, x);
    draft->layer.shape[draft->layer.rank - 1] = out;
    const int64_t in = draft->layer.flatten ? x->count : x->shape[x->rank - 1];
    return add_weights(draft, 2, (const int64_t[]){out, in}, in, out);
}

static mmebm_status infer_activation(layer_draft *draft)
{
    const float slope = draft->layer.parameter;
    MMEBM_TRY(need_choice(draft, "kind", draft->layer.activation, MMEBM_SIGMOID));
    if (draft->layer.activation == MMEBM_LEAKY_RELU && !(slope > 0.0f && slope < 1.0f))
        return refuse(draft, MMEBM_E_ARGUMENT, "the slope below zero is %g, wanted a number between 0 and 1",
                      (double)slope);
    copy_shape(draft, input_of(draft, 0));
    return MMEBM_OK;
}

static mmebm_status infer_same(layer_draft *draft)
{
    copy_shape(draft, input_of(draft, 0));
    return MMEBM_OK;
}

static mmebm_status infer_avg_pool(layer_draft *draft)
{
    const mmebm_layer *layer = &draft->layer;
    MMEBM_TRY(need_image(draft));
    for (int d = 0; d < 2; ++d) {
        MMEBM_TRY(need_range(draft, "kernel", layer->kernel[d], 1, MAX_WINDOW));
        MMEBM_TRY(need_range(draft, "stride", layer->stride[d], 1, MAX_WINDOW));
        MMEBM_TRY(need_range(draft, "padding", layer->padding[d], 0, layer->kernel[d] / 2));
    }
    return infer_window(draft, input_of(draft, 0)->shape[2]);
}

static mmebm_status infer_global_avg_pool(layer_draft *draft)
{
    MMEBM_TRY(need_image(draft));
    draft->layer.rank = 1;
    draft->layer.shape[0] = input_of(draft, 0)->shape[2];
    return MMEBM_OK;
}

static mmebm_status infer_upsample(layer_draft *draft)
{
    MMEBM_TRY(need_image(draft));
    MMEBM_TRY(need_range(draft, "factor", draft->layer.factor, 1, MAX_WINDOW));
    copy_shape(draft, input_of(draft, 0));
    draft->layer.shape[0] *= draft->layer.factor;
    draft->layer.shape[1] *= draft->layer.factor;
    return MMEBM_OK;
}

/* All axes of a and b equal but the last `free_axes`. */
static mmebm_status need_equal(const layer_draft *draft, uint32_t a, uint32_t b, uint32_t free_axes)
{
    const mmebm_layer *first = input_of(draft, a), *second = input_of(draft, b);
    char first_text[128], second_text[128];
    if (first->rank == second->rank &&
        memcmp(first->shape, second->shape, (first->rank - free_axes) * sizeof *first->shape) == 0)
        return MMEBM_OK;
    return refuse(draft, MMEBM_E_SHAPE, "nodes %d and %d have shapes %s and %s, wanted equal axes%s",
                  (int)draft->request->inputs[a], (int)draft->request->inputs[b], shape_of(first, first_text),
                  shape_of(second, second_text), free_axes ? " but for the last" : "");
}

static mmebm_status infer_add(layer_draft *draft)
{
    if (!isfinite(draft->layer.alpha) || !isfinite(draft->layer.beta))
        return refuse(draft, MMEBM_E_ARGUMENT, "alpha and beta are %g and %g, wanted finite numbers",
                      (double)draft->layer.alpha, (double)draft->layer.beta);
    MMEBM_TRY(need_equal(draft, 0, 1, 0));
    copy_shape(draft, input_of(draft, 0));
    return MMEBM_OK;
}

static mmebm_status infer_concat(layer_draft *draft)
{
    copy_shape(draft, input_of(draft, 0));
    int64_t *last = &draft->layer.shape[draft->layer.rank - 1];
    for (uint32_t k = 1; k < draft->request->input_count; ++k) {
        MMEBM_TRY(need_equal(draft, 0, k, 1));
        *last += input_of(draft, k)->shape[draft->layer.rank - 1];
    }
    return MMEBM_OK;
}

static mmebm_status infer_reshape(layer_draft *draft)
{
    MMEBM_TRY(need_range(draft, "rank", draft->request->settings.rank, 1, MMEBM_MAX_RANK));
    copy_shape(draft, &draft->request->settings);
    return MMEBM_OK; /* the number of elements is compared when it is known: append */
}

static mmebm_status infer_batch_norm(layer_draft *draft)
{
    const mmebm_layer *x = input_of(draft, 0);
    mmebm_layer *layer = &draft->layer;
    const int64_t *channels = &x->shape[x->rank - 1];
    const float momentum = draft->request->momentum;
    MMEBM_TRY(need_positive(draft, "epsilon", layer->epsilon));
    if (!(momentum > 0.0f && momentum <= 1.0f))
        return refuse(draft, MMEBM_E_ARGUMENT, "momentum is %g, wanted a number above 0 and at most 1",
                      (double)momentum);
    copy_shape(draft, x);
    MMEBM_TRY(add_tensor(draft, "gain", MMEBM_ROLE_GAIN, 1, channels, *channels, *channels, &layer->weight));
    MMEBM_TRY(add_tensor(draft, "shift", MMEBM_ROLE_BIAS, 1, channels, *channels, *channels, &layer->bias));
    MMEBM_TRY(add_tensor(draft, "mean", MMEBM_ROLE_MEAN, 1, channels, *channels, *channels, &layer->mean));
    MMEBM_TRY(add_tensor(draft, "variance", MMEBM_ROLE_VARIANCE, 1, channels, *channels, *channels, &layer->variance));
    draft->tensors[2].momentum = draft->tensors[3].momentum = momentum;
    return MMEBM_OK;
}

static mmebm_status infer_nll(layer_draft *draft)
{
    MMEBM_TRY(need_choice(draft, "likelihood", draft->layer.likelihood, MMEBM_CATEGORICAL));
    MMEBM_TRY(need_positive(draft, "scale", draft->layer.scale));
    if (!isfinite(draft->layer.loss_factor))
        return refuse(draft, MMEBM_E_ARGUMENT, "the factor is %g, wanted a finite number",
                      (double)draft->layer.loss_factor);
    MMEBM_TRY(need_equal(draft, 0, 1, 0));
    draft->layer.rank = 1;
    draft->layer.shape[0] = 1;
    return MMEBM_OK;
}

static mmebm_status infer_prior(layer_draft *draft)
{
    MMEBM_TRY(need_choice(draft, "likelihood", draft->layer.likelihood, MMEBM_LAPLACE));
    MMEBM_TRY(need_positive(draft, "scale", draft->layer.scale));
    draft->layer.rank = 1;
    draft->layer.shape[0] = 1;
    return MMEBM_OK;
}

static const layer_rule rules[MMEBM_LAYER_KIND_COUNT] = {
    [MMEBM_LAYER_INPUT] = {"input", 0, 0, infer_input},
    [MMEBM_LAYER_CONV2D] = {"conv", 1, 1, infer_conv2d},
    [MMEBM_LAYER_CONV_TRANSPOSE2D] = {"conv_transpose", 1, 1, infer_conv_transpose2d},
    [MMEBM_LAYER_LINEAR] = {"linear", 1, 1, infer_linear},
    [MMEBM_LAYER_ACTIVATION] = {"activation", 1, 1, infer_activation},
    [MMEBM_LAYER_SOFTMAX] = {"softmax", 1, 1, infer_same},
    [MMEBM_LAYER_AVG_POOL] = {"avg_pool", 1, 1, infer_avg_pool},
    [MMEBM_LAYER_GLOBAL_AVG_POOL] = {"global_avg_pool", 1, 1, infer_global_avg_pool},
    [MMEBM_LAYER_UPSAMPLE] = {"upsample", 1, 1, infer_upsample},
    [MMEBM_LAYER_ADD] = {"add", 2, 2, infer_add},
    [MMEBM_LAYER_CONCAT] = {"concat", 1, MAX_LAYER_INPUTS, infer_concat},
    [MMEBM_LAYER_RESHAPE] = {"reshape", 1, 1, infer_reshape},
    [MMEBM_LAYER_BATCH_NORM] = {"batch_norm", 1, 1, infer_batch_norm},
    [MMEBM_LAYER_NLL] = {"nll", 2, 2, infer_nll},
    [MMEBM_LAYER_PRIOR] = {"prior", 1, 1, infer_prior},
};

/* ---- appending */

static mmebm_status check_inputs(const layer_draft *draft)
{
    const mmebm_layer_request *request = draft->request;
    const layer_rule *rule = &rules[request->settings.kind];
    MMEBM_TRY(need_range(draft, "the number of inputs", request->input_count, rule->min_inputs, rule->max_inputs));
    if (request->input_count && !request->inputs) return refuse(draft, MMEBM_E_ARGUMENT, "nodes is NULL");
    for (uint32_t k = 0; k < request->input_count; ++k)
        if (request->inputs[k] < 0 || (uint32_t)request->inputs[k] >= draft->graph->layer_count)
            return refuse(draft, MMEBM_E_ARGUMENT, "there is no node %d, nodes are 0 to %d", (int)request->inputs[k],
                          (int)draft->graph->layer_count - 1);
    return MMEBM_OK;
}

static mmebm_status name_layer(layer_draft *draft)
{
    const char *name = draft->request->name;
    if (!name) {
        snprintf(draft->name, sizeof draft->name, "%s%u", rules[draft->request->settings.kind].name,
                 (unsigned)draft->graph->layer_count);
        return MMEBM_OK;
    }
    if (!mmebm__name_valid(name, sizeof draft->name))
        return refuse(draft, MMEBM_E_ARGUMENT, "the name '%.40s' is not 1 to %d of the characters A-Z a-z 0-9 _ . -",
                      name, (int)sizeof draft->name - 1);
    memcpy(draft->name, name, strlen(name) + 1);
    return MMEBM_OK;
}

/* Every axis >= 1 and the product below the cap. */
static mmebm_status count_elements(layer_draft *draft)
{
    mmebm_layer *layer = &draft->layer;
    layer->count = 1;
    for (uint32_t d = 0; d < layer->rank; ++d) {
        const int64_t axis = layer->shape[d];
        char text[128];
        if (axis < 1 || axis > max_node_count || layer->count * axis > max_node_count)
            return refuse(draft, MMEBM_E_SHAPE, "the shape would be %s, wanted axes from 1 on, at most %lld elements",
                          shape_of(layer, text), (long long)max_node_count);
        layer->count *= axis;
    }
    for (uint32_t d = layer->rank; d < MMEBM_MAX_RANK; ++d) layer->shape[d] = 0;
    if (layer->kind == MMEBM_LAYER_RESHAPE && layer->count != input_of(draft, 0)->count) {
        char from[128], to[128];
        return refuse(draft, MMEBM_E_SHAPE, "%s does not have as many elements as %s", shape_of(layer, to),
                      shape_of(input_of(draft, 0), from));
    }
    return MMEBM_OK;
}

/* Makes room for `more` entries after `count` in the array whose address is given. It stays valid on failure. */
static mmebm_status reserve(mmebm_context *context, void *array_address, uint32_t count, uint32_t more, uint32_t *room,
                            size_t item_size)
{
    if (count + more <= *room) return MMEBM_OK; /* no overflow: at most MAX_LAYERS * MAX_LAYER_INPUTS = 2^25 entries */
    uint32_t wanted = *room ? *room : FIRST_ROOM;
    while (wanted < count + more) wanted *= 2;
    void *array;
    memcpy(&array, array_address, sizeof array);
    if (!mmebm__grow(context, &array, *room, wanted, item_size)) return MMEBM_E_MEMORY;
    memcpy(array_address, &array, sizeof array);
    *room = wanted;
    return MMEBM_OK;
}

#define RESERVE(context, graph, array, more)                                                       \
    reserve((context), &(graph)->array##s, (graph)->array##_count, (more), &(graph)->array##_room, \
            sizeof *(graph)->array##s)

static mmebm_status commit(layer_draft *draft, mmebm_graph *graph)
{
    const mmebm_layer_request *request = draft->request;
    const int is_input = draft->layer.kind == MMEBM_LAYER_INPUT;
    MMEBM_TRY(RESERVE(draft->context, graph, layer, 1));
    MMEBM_TRY(RESERVE(draft->context, graph, edge, request->input_count));
    MMEBM_TRY(RESERVE(draft->context, graph, tensor, draft->tensor_count));
    MMEBM_TRY(RESERVE(draft->context, graph, input, 1));
    draft->layer.first_edge = graph->edge_count;
    draft->layer.edge_count = request->input_count;
    for (uint32_t k = 0; k < request->input_count; ++k) graph->edges[graph->edge_count++] = request->inputs[k];
    for (uint32_t t = 0; t < draft->tensor_count; ++t) graph->tensors[graph->tensor_count++] = draft->tensors[t];
    if (is_input) graph->inputs[graph->input_count++] = (int32_t)graph->layer_count;
    graph->layers[graph->layer_count++] = draft->layer;
    graph->weight_count = draft->weight_count;
    return MMEBM_OK;
}

mmebm_status mmebm__graph_append(mmebm_context *context, mmebm_graph *graph, const mmebm_layer_request *request,
                                 mmebm_node *node)
{
    if ((uint32_t)request->settings.kind >= MMEBM_LAYER_KIND_COUNT)
        return mmebm__fail(context, MMEBM_E_UNSUPPORTED, "%s: there is no layer kind %d", request->owner,
                           (int)request->settings.kind);
    layer_draft draft = {.context = context, .graph = graph, .request = request, .layer = request->settings,
                         .weight_count = graph->weight_count};
    draft.layer.weight = draft.layer.bias = draft.layer.mean = draft.layer.variance = -1;
    if (graph->layer_count >= MAX_LAYERS)
        return refuse(&draft, MMEBM_E_ARGUMENT, "the network has %d layers, which is the most", MAX_LAYERS);
    if (request->settings.kind == MMEBM_LAYER_INPUT && graph->input_count >= MMEBM_MAX_PORTS)
        return refuse(&draft, MMEBM_E_ARGUMENT, "the network has %d inputs, which is the most", MMEBM_MAX_PORTS);
    MMEBM_TRY(check_inputs(&draft));
    MMEBM_TRY(name_layer(&draft));
    MMEBM_TRY(rules[request->settings.kind].infer(&draft));
    MMEBM_TRY(count_elements(&draft));
    MMEBM_TRY(commit(&draft, graph));
    *node = (mmebm_node)graph->layer_count - 1;
    return MMEBM_OK;
}

mmebm_status mmebm__graph_output(mmebm_context *context, mmebm_graph *graph, const char *owner, mmebm_node node)
{
    if (node < 0 || (uint32_t)node >= graph->layer_count)
        return mmebm__fail(context, MMEBM_E_ARGUMENT, "%s: output: there is no node %d, nodes are 0 to %d", owner,
                           (int)node, (int)graph->layer_count - 1);
    if (graph->layers[node].kind == MMEBM_LAYER_INPUT)
        return mmebm__fail(context, MMEBM_E_ARGUMENT, "%s: output: node %d is an input, wanted a layer", owner,
                           (int)node);
    for (uint32_t o = 0; o < graph->output_count; ++o)
        if (graph->outputs[o] == node)
            return mmebm__fail(context, MMEBM_E_ARGUMENT, "%s: output: node %d is output %u already", owner, (int)node,
                               (unsigned)o);
    if (graph->output_count >= MMEBM_MAX_PORTS)
        return mmebm__fail(context, MMEBM_E_ARGUMENT, "%s: output: there are %d outputs, which is the most", owner,
                           MMEBM_MAX_PORTS);
    MMEBM_TRY(RESERVE(context, graph, output, 1));
    graph->outputs[graph->output_count++] = node;
    return MMEBM_OK;
}

int mmebm__name_valid(const char *name, size_t size)
{
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-";
    if (!name) return 0;
    const size_t length = strspn(name, allowed);
    return length > 0 && length < size && name[length] == '\0';
}

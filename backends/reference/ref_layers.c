/* SPDX-License-Identifier: Apache-2.0
 *
 * The layers other than convolutions, one row in double: a forward and a backward pass for each kind, and the table
 * of all kinds. Backward passes add to the gradients of their inputs, since a value may be read more than once.
 */
#include <string.h>

#include "reference.h"

/* Elements of the last axis. */
static int64_t last_axis(const mmebm_layer *layer)
{
    return layer->rank ? layer->shape[layer->rank - 1] : 1;
}

/* ---- activation, softmax */

static void activation_forward(const mmebm_ref_row *row, uint32_t number)
{
    const mmebm_layer *layer = &row->graph->layers[number];
    const double *x = mmebm__ref_input(row, number, 0);
    double *y = row->value[number], slope;
    for (int64_t e = 0; e < layer->count; ++e)
        y[e] = mmebm__ref_activation(layer->activation, layer->parameter, x[e], &slope);
}

static void activation_backward(const mmebm_ref_row *row, uint32_t number)
{
    const mmebm_layer *layer = &row->graph->layers[number];
    const double *x = mmebm__ref_input(row, number, 0), *by_y = row->gradient[number];
    double *by_x = mmebm__ref_input_gradient(row, number, 0), slope;
    if (!by_x) return;
    for (int64_t e = 0; e < layer->count; ++e) {
        mmebm__ref_activation(layer->activation, layer->parameter, x[e], &slope);
        by_x[e] += slope * by_y[e];
    }
}

static void softmax_forward(const mmebm_ref_row *row, uint32_t number)
{
    const mmebm_layer *layer = &row->graph->layers[number];
    const int64_t width = last_axis(layer);
    const double *x = mmebm__ref_input(row, number, 0);
    double *y = row->value[number];
    for (int64_t first = 0; first < layer->count; first += width) {
        double largest = x[first], total = 0.0;
        for (int64_t e = first; e < first + width; ++e) largest = fmax(largest, x[e]);
        for (int64_t e = first; e < first + width; ++e) total += y[e] = exp(x[e] - largest);
        for (int64_t e = first; e < first + width; ++e) y[e] /= total;
    }
}

static void softmax_backward(const mmebm_ref_row *row, uint32_t number)
{
    const mmebm_layer *layer = &row->graph->layers[number];
    const int64_t width = last_axis(layer);
    const double *y = row->value[number], *by_y = row->gradient[number];
    double *by_x = mmebm__ref_input_gradient(row, number, 0);
    if (!by_x) return;
    for (int64_t first = 0; first < layer->count; first += width) {
        double mean = 0.0;
        for (int64_t e = first; e < first + width; ++e) mean += y[e] * by_y[e];
        for (int64_t e = first; e < first + width; ++e) by_x[e] += y[e] * (by_y[e] - mean);
    }
}

/* ---- pooling, upsampling */

/* Adds factor * source to target for every (output, input) pair of elements that a pooling window joins; forward reads
 * inputs and writes outputs, backward the other way round. */
static void pool(const mmebm_ref_row *row, uint32_t number, double *by_x)
{
    const mmebm_layer *layer = &row->graph->layers[number];
    const mmebm_layer *from = mmebm__layer_input(row->graph, layer, 0);
    const double *x = mmebm__ref_input(row, number, 0);
    double *y = by_x ? row->gradient[number] : row->value[number];
    const int64_t channels = layer->shape[2], window = layer->kernel[0] * layer->kernel[1];
    for (int64_t pixel = 0; pixel < layer->shape[0] * layer->shape[1]; ++pixel, y += channels) {
        for (int64_t tap = 0; tap < window; ++tap) {
            const int64_t v = pixel / layer->shape[1] * layer->stride[0] - layer->padding[0] + tap / layer->kernel[1];
            const int64_t u = pixel % layer->shape[1] * layer->stride[1] - layer->padding[1] + tap % layer->kernel[1];
            if (v < 0 || v >= from->shape[0] || u < 0 || u >= from->shape[1]) continue;
            const int64_t at = (v * from->shape[1] + u) * channels;
            for (int64_t c = 0; c < channels; ++c) {
                if (by_x)
                    by_x[at + c] += y[c] / (double)window;
                else
                    y[c] += x[at + c] / (double)window;
            }
        }
    }
}

static void avg_pool_forward(const mmebm_ref_row *row, uint32_t number)
{
    memset(row->value[number], 0, (size_t)row->graph->layers[number].count * sizeof(double));
    pool(row, number, NULL);
}

static void avg_pool_backward(const mmebm_ref_row *row, uint32_t number)
{
    double *by_x = mmebm__ref_input_gradient(row, number, 0);
    if (by_x) pool(row, number, by_x);
}

static void global_avg_pool_forward(const mmebm_ref_row *row, uint32_t number)
{
    const mmebm_layer *layer = &row->graph->layers[number];
    const int64_t count = mmebm__layer_input(row->graph, layer, 0)->count, channels = layer->count;
    const double *x = mmebm__ref_input(row, number, 0);
    double *y = row->value[number];
    memset(y, 0, (size_t)channels * sizeof *y);
    for (int64_t e = 0; e < count; ++e) y[e % channels] += x[e];
    for (int64_t c = 0; c < channels; ++c) y[c] /= (double)(count / channels);
}

static void global_avg_pool_backward(const mmebm_ref_row *row, uint32_t number)
{
    const mmebm_layer *layer = &row->graph->layers[number];
    const int64_t count = mmebm__layer_input(row->graph, layer, 0)->count, channels = layer->count;
    double *by_x = mmebm__ref_input_gradient(row, number, 0);
    if (!by_x) return;
    for (int64_t e = 0; e < count; ++e) by_x[e] += row->gradient[number][e % channels] / (double)(count / channels);
}

/* Element of the input under element e of an upsampled output. */
static int64_t upsample_source(const mmebm_layer *layer, int64_t e)
{
    const int64_t width = layer->shape[1], channels = layer->shape[2], pixel = e / channels;
    const int64_t row = pixel / width / layer->factor, column = pixel % width / layer->factor;
    return (row * (width / layer->factor) + column) * channels + e % channels;
}

static void upsample_forward(const mmebm_ref_row *row, uint32_t number)
{
    const mmebm_layer *layer = &row->graph->layers[number];
    const double *x = mmebm__ref_input(row, number, 0);
    for (int64_t e = 0; e < layer->count; ++e) row->value[number][e] = x[upsample_source(layer, e)];
}

static void upsample_backward(const mmebm_ref_row *row, uint32_t number)
{
    const mmebm_layer *layer = &row->graph->layers[number];
    double *by_x = mmebm__ref_input_gradient(row, number, 0);
    if (!by_x) return;
    for (int64_t e = 0; e < layer->count; ++e) by_x[upsample_source(layer, e)] += row->gradient[number][e];
}

/* ---- add, concat, reshape */

static void add_forward(const mmebm_ref_row *row, uint32_t number)
{
    const mmebm_layer *layer = &row->graph->layers[number];
    const double *a = mmebm__ref_input(row, number, 0), *b = mmebm__ref_input(row, number, 1);
    for (int64_t e = 0; e < layer->count; ++e)
        row->value[number][e] = (double)layer->alpha * a[e] + (double)layer->beta * b[e];
}

static void add_backward(const mmebm_ref_row *row, uint32_t number)
{
    const mmebm_layer *layer = &row->graph->layers[number];
    const double factors[2] = {layer->alpha, layer->beta};
    for (uint32_t k = 0; k < 2; ++k) {
        double *by_x = mmebm__ref_input_gradient(row, number, k);
        if (!by_x) continue;
        for (int64_t e = 0; e < layer->count; ++e) by_x[e] += factors[k] * row->gradient[number][e];
    }
}

static void concat_forward(const mmebm_ref_row *row, uint32_t number)
{
    const mmebm_layer *layer = &row->graph->layers[number];
    const int64_t width = last_axis(layer);
    double *y = row->value[number];
    for (uint32_t k = 0; k < layer->edge_count; ++k) {
        const mmebm_layer *part = mmebm__layer_input(row->graph, layer, k);
        const int64_t part_width = last_axis(part);
        const double *x = mmebm__ref_input(row, number, k);
        for (int64_t e = 0; e < part->count; ++e) y[e / part_width * width + e % part_width] = x[e];
        y += part_width;
    }
}

static void concat_backward(const mmebm_ref_row *row, uint32_t number)
{
    const mmebm_layer *layer = &row->graph->layers[number];
    const int64_t width = last_axis(layer);
    const double *by_y = row->gradient[number];
    for (uint32_t k = 0; k < layer->edge_count; ++k) {
        const mmebm_layer *part = mmebm__layer_input(row->graph, layer, k);
        const int64_t part_width = last_axis(part);
        double *by_x = mmebm__ref_input_gradient(row, number, k);
        if (by_x)
            for (int64_t e = 0; e < part->count; ++e) by_x[e] += by_y[e / part_width * width + e % part_width];
        by_y += part_width;
    }
}

static void reshape_forward(const mmebm_ref_row *row, uint32_t number)
{
    memcpy(row->value[number], mmebm__ref_input(row, number, 0),
           (size_t)row->graph->layers[number].count * sizeof(double));
}

static void reshape_backward(const mmebm_ref_row *row, uint32_t number)
{
    double *by_x = mmebm__ref_input_gradient(row, number, 0);
    if (!by_x) return;
    for (int64_t e = 0; e < row->graph->layers[number].count; ++e) by_x[e] += row->gradient[number][e];
}

/* ---- batch norm with running statistics: y = gain (x - mean) / sqrt(variance + epsilon) + shift */

static void batch_norm_forward(const mmebm_ref_row *row, uint32_t number)
{
    const mmebm_layer *layer = &row->graph->layers[number];
    const int64_t channels = last_axis(layer);
    const double *x = mmebm__ref_input(row, number, 0);
    const double *gain = mmebm__ref_weights(row, layer->weight), *shift = mmebm__ref_weights(row, layer->bias);
    const double *mean = mmebm__ref_weights(row, layer->mean), *variance = mmebm__ref_weights(row, layer->variance);
    for (int64_t e = 0; e < layer->count; ++e) {
        const int64_t c = e % channels;
        row->value[number][e] = gain[c] * (x[e] - mean[c]) / sqrt(variance[c] + (double)layer->epsilon) + shift[c];
    }
}

/* The gradient slots of mean and variance collect the row's own statistics, from which the trainer moves the running
 * ones (backend_api.h, mmebm_plan_run). */
static void batch_norm_backward(const mmebm_ref_row *row, uint32_t number)
{
    const mmebm_layer *layer = &row->graph->layers[number];
    const int64_t channels = last_axis(layer), positions = layer->count / channels;
    const double *x = mmebm__ref_input(row, number, 0), *by_y = row->gradient[number];
    const double *gain = mmebm__ref_weights(row, layer->weight);
    const double *mean = mmebm__ref_weights(row, layer->mean), *variance = mmebm__ref_weights(row, layer->variance);
    double *by_x = mmebm__ref_input_gradient(row, number, 0);
    double *by_gain = mmebm__ref_weight_gradient(row, layer->weight);
    double *by_shift = mmebm__ref_weight_gradient(row, layer->bias);
    double *mean_sum = mmebm__ref_weight_gradient(row, layer->mean);
    double *variance_sum = mmebm__ref_weight_gradient(row, layer->variance);
    for (int64_t e = 0; e < layer->count; ++e) {
        const int64_t c = e % channels;
        const double scale = 1.0 / sqrt(variance[c] + (double)layer->epsilon), centred = x[e] - mean[c];
        if (by_x) by_x[e] += gain[c] * scale * by_y[e];
        if (!row->weight_gradient) continue;
        by_gain[c] += centred * scale * by_y[e];
        by_shift[c] += by_y[e];
        mean_sum[c] += x[e] / (double)positions;
        variance_sum[c] += centred * centred / (double)positions;
    }
}

/* ---- losses: NLL (mean, target) and PRIOR (z), which is the NLL of z with mean 0 */

static void loss_forward(const mmebm_ref_row *row, uint32_t number)
{
    const mmebm_layer *layer = &row->graph->layers[number];
    const int prior = layer->kind == MMEBM_LAYER_PRIOR;
    const double *mean = prior ? NULL : mmebm__ref_input(row, number, 0);
    const double *target = mmebm__ref_input(row, number, prior ? 0 : 1);
    const int64_t count = mmebm__layer_input(row->graph, layer, 0)->count;
    double total = 0.0, unused;
    for (int64_t e = 0; e < count; ++e)
        total += mmebm__ref_likelihood(layer->likelihood, layer->scale, prior ? 1.0 : layer->loss_factor,
                                       mean ? mean[e] : 0.0, target[e], &unused, &unused);
    row->value[number][0] = total;
}

static void loss_backward(const mmebm_ref_row *row, uint32_t number)
{
    const mmebm_layer *layer = &row->graph->layers[number];
    const int prior = layer->kind == MMEBM_LAYER_PRIOR;
    const double *mean = prior ? NULL : mmebm__ref_input(row, number, 0);
    const double *target = mmebm__ref_input(row, number, prior ? 0 : 1);
    double *mean_gradient = prior ? NULL : mmebm__ref_input_gradient(row, number, 0);
    double *target_gradient = mmebm__ref_input_gradient(row, number, prior ? 0 : 1);
    const int64_t count = mmebm__layer_input(row->graph, layer, 0)->count;
    const double by_loss = row->gradient[number][0];
    for (int64_t e = 0; e < count; ++e) {
        double by_mean, by_target;
        mmebm__ref_likelihood(layer->likelihood, layer->scale, prior ? 1.0 : layer->loss_factor, mean ? mean[e] : 0.0,
                              target[e], &by_mean, &by_target);
        if (mean_gradient) mean_gradient[e] += by_loss * by_mean;
        if (target_gradient) target_gradient[e] += by_loss * by_target;
    }
}

/* ---- the table */

static const mmebm_ref_pass passes[MMEBM_LAYER_KIND_COUNT][2] = {
    [MMEBM_LAYER_CONV2D] = {mmebm__ref_conv_forward, mmebm__ref_conv_backward},
    [MMEBM_LAYER_CONV_TRANSPOSE2D] = {mmebm__ref_conv_forward, mmebm__ref_conv_backward},
    [MMEBM_LAYER_LINEAR] = {mmebm__ref_conv_forward, mmebm__ref_conv_backward},
    [MMEBM_LAYER_ACTIVATION] = {activation_forward, activation_backward},
    [MMEBM_LAYER_SOFTMAX] = {softmax_forward, softmax_backward},
    [MMEBM_LAYER_AVG_POOL] = {avg_pool_forward, avg_pool_backward},
    [MMEBM_LAYER_GLOBAL_AVG_POOL] = {global_avg_pool_forward, global_avg_pool_backward},
    [MMEBM_LAYER_UPSAMPLE] = {upsample_forward, upsample_backward},
    [MMEBM_LAYER_ADD] = {add_forward, add_backward},
    [MMEBM_LAYER_CONCAT] = {concat_forward, concat_backward},
    [MMEBM_LAYER_RESHAPE] = {reshape_forward, reshape_backward},
    [MMEBM_LAYER_BATCH_NORM] = {batch_norm_forward, batch_norm_backward},
    [MMEBM_LAYER_NLL] = {loss_forward, loss_backward},
    [MMEBM_LAYER_PRIOR] = {loss_forward, loss_backward},
};

mmebm_ref_pass mmebm__ref_forward(mmebm_layer_kind kind)
{
    return passes[kind][0];
}

mmebm_ref_pass mmebm__ref_backward(mmebm_layer_kind kind)
{
    return passes[kind][1];
}

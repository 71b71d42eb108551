/* SPDX-License-Identifier: Apache-2.0
 *
 * conv2d, conv_transpose2d and linear, one row in double. All three tie a small grid to a large one: small pixel
 * (i, j) meets large pixel (i s - p + a, j s - p + b) through the matrix W[., a, b, .] of kernel tap (a, b), with rows
 * for the small grid's channels and columns for the large one's. A convolution maps large to small, a transposed one
 * small to large, a linear layer is a convolution with one tap. So three operations serve them all:
 *   gather   small += W large         forward of conv, linear;   input gradient of transposed
 *   scatter  large += W' small        forward of transposed;     input gradient of conv, linear
 *   outer    W     += small large'    weight gradient of all
 * The innermost loops run over the large grid's channels, which lie together in W and in the large grid.
 */
#include "reference.h"

enum { SMALL = 0, LARGE = 1, KERNEL = 2 };

typedef struct grid_pair {
    int64_t height[2], width[2], channels[2]; /* of SMALL and LARGE */
    int64_t kernel[2], stride[2], padding[2];
    int64_t row_stride; /* doubles between two rows of a tap's matrix */
} grid_pair;

/* out += a (x) b at one tap */
typedef void (*tap_function)(const grid_pair *grids, double *out, const double *a, const double *b);

static void gather(const grid_pair *grids, double *restrict small, const double *restrict large,
                   const double *restrict weight)
{
    const int64_t rows = grids->channels[SMALL], columns = grids->channels[LARGE], stride = grids->row_stride;
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4, weight += 4 * stride) { /* four sums that do not wait for each other */
        double sum0 = 0.0, sum1 = 0.0, sum2 = 0.0, sum3 = 0.0;
        for (int64_t c = 0; c < columns; ++c) {
            sum0 += weight[c] * large[c];
            sum1 += weight[stride + c] * large[c];
            sum2 += weight[2 * stride + c] * large[c];
            sum3 += weight[3 * stride + c] * large[c];
        }
        small[r] += sum0;
        small[r + 1] += sum1;
        small[r + 2] += sum2;
        small[r + 3] += sum3;
    }
    for (; r < rows; ++r, weight += stride) {
        double sum = 0.0;
        for (int64_t c = 0; c < columns; ++c) sum += weight[c] * large[c];
        small[r] += sum;
    }
}

static void scatter(const grid_pair *grids, double *restrict large, const double *restrict small,
                    const double *restrict weight)
{
    for (int64_t r = 0; r < grids->channels[SMALL]; ++r, weight += grids->row_stride)
        for (int64_t c = 0; c < grids->channels[LARGE]; ++c) large[c] += small[r] * weight[c];
}

static void outer(const grid_pair *grids, double *restrict weight, const double *restrict small,
                  const double *restrict large)
{
    for (int64_t r = 0; r < grids->channels[SMALL]; ++r, weight += grids->row_stride)
        for (int64_t c = 0; c < grids->channels[LARGE]; ++c) weight[c] += small[r] * large[c];
}

/* Calls function at every pair of pixels that meet; out, a and b are of the given kinds (SMALL, LARGE, KERNEL). */
static void visit_taps(const grid_pair *grids, tap_function function, double *out, int out_kind, const double *a,
                       int a_kind, const double *b, int b_kind)
{
    int64_t at[3];
    for (int64_t i = 0; i < grids->height[SMALL]; ++i) {
        for (int64_t j = 0; j < grids->width[SMALL]; ++j) {
            at[SMALL] = (i * grids->width[SMALL] + j) * grids->channels[SMALL];
            for (int64_t tap = 0; tap < grids->kernel[0] * grids->kernel[1]; ++tap) {
                const int64_t y = i * grids->stride[0] - grids->padding[0] + tap / grids->kernel[1];
                const int64_t x = j * grids->stride[1] - grids->padding[1] + tap % grids->kernel[1];
                if (y < 0 || y >= grids->height[LARGE] || x < 0 || x >= grids->width[LARGE]) continue;
                at[LARGE] = (y * grids->width[LARGE] + x) * grids->channels[LARGE];
                at[KERNEL] = tap * grids->channels[LARGE];
                function(grids, out + at[out_kind], a + at[a_kind], b + at[b_kind]);
            }
        }
    }
}

/* A linear layer's grid is one column: one pixel if flattened, else one for each position before the last axis. */
static void set_grid(grid_pair *grids, int which, const mmebm_layer *layer, const mmebm_layer *linear)
{
    const int64_t channels = linear && linear->flatten ? layer->count : layer->shape[layer->rank - 1];
    grids->channels[which] = channels;
    grids->height[which] = linear ? layer->count / channels : layer->shape[0];
    grids->width[which] = linear ? 1 : layer->shape[1];
}

static grid_pair layer_grids(const mmebm_graph *graph, const mmebm_layer *layer)
{
    const int transposed = layer->kind == MMEBM_LAYER_CONV_TRANSPOSE2D;
    const mmebm_layer *linear = layer->kind == MMEBM_LAYER_LINEAR ? layer : NULL;
    grid_pair grids;
    set_grid(&grids, transposed ? LARGE : SMALL, layer, linear);
    set_grid(&grids, transposed ? SMALL : LARGE, mmebm__layer_input(graph, layer, 0), linear);
    for (int axis = 0; axis < 2; ++axis) {
        grids.kernel[axis] = linear ? 1 : layer->kernel[axis];
        grids.stride[axis] = linear ? 1 : layer->stride[axis];
        grids.padding[axis] = linear ? 0 : layer->padding[axis];
    }
    grids.row_stride = grids.kernel[0] * grids.kernel[1] * grids.channels[LARGE];
    return grids;
}

void mmebm__ref_conv_forward(const mmebm_ref_row *row, uint32_t number)
{
    const mmebm_layer *layer = &row->graph->layers[number];
    const grid_pair grids = layer_grids(row->graph, layer);
    const double *x = mmebm__ref_input(row, number, 0), *weight = mmebm__ref_weights(row, layer->weight);
    const double *bias = mmebm__ref_weights(row, layer->bias);
    const int transposed = layer->kind == MMEBM_LAYER_CONV_TRANSPOSE2D;
    const int64_t channels = grids.channels[transposed ? LARGE : SMALL];
    double *y = row->value[number];
    for (int64_t e = 0; e < layer->count; ++e) y[e] = bias ? bias[e % channels] : 0.0;
    if (transposed)
        visit_taps(&grids, scatter, y, LARGE, x, SMALL, weight, KERNEL);
    else
        visit_taps(&grids, gather, y, SMALL, x, LARGE, weight, KERNEL);
}

void mmebm__ref_conv_backward(const mmebm_ref_row *row, uint32_t number)
{
    const mmebm_layer *layer = &row->graph->layers[number];
    const grid_pair grids = layer_grids(row->graph, layer);
    const double *x = mmebm__ref_input(row, number, 0), *weight = mmebm__ref_weights(row, layer->weight);
    const double *by_y = row->gradient[number];
    double *by_x = mmebm__ref_input_gradient(row, number, 0);
    double *by_weight = mmebm__ref_weight_gradient(row, layer->weight);
    double *by_bias = mmebm__ref_weight_gradient(row, layer->bias);
    const int transposed = layer->kind == MMEBM_LAYER_CONV_TRANSPOSE2D;
    const int64_t channels = grids.channels[transposed ? LARGE : SMALL];
    if (by_bias)
        for (int64_t e = 0; e < layer->count; ++e) by_bias[e % channels] += by_y[e];
    if (by_weight)
        visit_taps(&grids, outer, by_weight, KERNEL, transposed ? x : by_y, SMALL, transposed ? by_y : x, LARGE);
    if (by_x && transposed)
        visit_taps(&grids, gather, by_x, SMALL, by_y, LARGE, weight, KERNEL);
    else if (by_x)
        visit_taps(&grids, scatter, by_x, LARGE, by_y, SMALL, weight, KERNEL);
}

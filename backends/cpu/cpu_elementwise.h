/* SPDX-License-Identifier: Apache-2.0
 *
 * Every layer that is no matrix product, on `rows` rows of channels-last data: forward and backward. Values are f32
 * or, where `bf16` is set, bf16 with arithmetic in f32. Backward functions write the gradient of an input or, with
 * `add`, add to it. Called by cpu_run.c from a worker.
 */
#ifndef MMEBM_CPU_ELEMENTWISE_H
#define MMEBM_CPU_ELEMENTWISE_H

#include "backend_api.h"

/* f32 to bf16 or back. */
void mmebm__cpu_convert(uint32_t to_is_bf16, uint32_t add, int64_t count, const void *from, void *to);
/* to += from */
void mmebm__cpu_add_floats(int64_t count, const float *from, float *to);

/* kind MMEBM_RELU .. MMEBM_SIGMOID; to may be from. */
void mmebm__cpu_activation(uint32_t bf16, uint32_t kind, float slope, int64_t count, const void *x, void *y);
/* saved: the result y for RELU, LEAKY_RELU, TANH, SIGMOID (its sign or value gives the slope), else the input x. by_x
 * may be by_y. */
void mmebm__cpu_activation_gradient(uint32_t bf16, uint32_t kind, float slope, uint32_t add, int64_t count,
                                    const void *saved, const void *by_y, void *by_x);
uint32_t mmebm__cpu_activation_saves_input(uint32_t kind);

/* y += bias over the last axis, then the activation if not 0. */
void mmebm__cpu_bias(uint32_t bf16, uint32_t kind, float slope, int64_t pixels, int64_t channels, const float *bias,
                     void *y);
/* by_bias[c] <- sum of by_y over pixels */
void mmebm__cpu_bias_gradient(uint32_t bf16, int64_t pixels, int64_t channels, const void *by_y, float *by_bias);

/* y = alpha a + beta b; and y = [y +] alpha a */
void mmebm__cpu_add(uint32_t bf16, int64_t count, float alpha, const void *a, float beta, const void *b, void *y);
void mmebm__cpu_scale(uint32_t bf16, uint32_t add, int64_t count, float alpha, const void *a, void *y);

/* Channels of one part into or out of a concatenation: to[p * to_stride + c] = from[p * from_stride + c]. */
void mmebm__cpu_copy_channels(uint32_t bf16, uint32_t add, int64_t pixels, int64_t channels, int64_t from_stride,
                              const void *from, int64_t to_stride, void *to);

/* Whether a pool's windows are of 2 x 2 pixels, side by side, and cover the whole map. */
int mmebm__cpu_is_quads(const mmebm_layer *layer, const mmebm_layer *from);

/* layer: the pool or upsampling; from: the layer that it reads. */
void mmebm__cpu_avg_pool(uint32_t bf16, const mmebm_layer *layer, const mmebm_layer *from, int64_t rows, const void *x,
                         void *y);
void mmebm__cpu_avg_pool_gradient(uint32_t bf16, uint32_t add, const mmebm_layer *layer, const mmebm_layer *from,
                                  int64_t rows, const void *by_y, void *by_x);
void mmebm__cpu_upsample(uint32_t bf16, const mmebm_layer *layer, const mmebm_layer *from, int64_t rows, const void *x,
                         void *y);
void mmebm__cpu_upsample_gradient(uint32_t bf16, uint32_t add, const mmebm_layer *layer, const mmebm_layer *from,
                                  int64_t rows, const void *by_y, void *by_x);
/* The mean is f32 in all plans. */
void mmebm__cpu_global_pool(uint32_t bf16, int64_t rows, int64_t pixels, int64_t channels, const void *x, float *y);
void mmebm__cpu_global_pool_gradient(uint32_t bf16, uint32_t add, int64_t rows, int64_t pixels, int64_t channels,
                                     const float *by_y, void *by_x);

/* y = scale[c] x + shift[c] */
void mmebm__cpu_scale_shift(uint32_t bf16, int64_t pixels, int64_t channels, const float *scale, const float *shift,
                            const void *x, void *y);
void mmebm__cpu_scale_shift_gradient(uint32_t bf16, uint32_t add, int64_t pixels, int64_t channels, const float *scale,
                                     const void *by_y, void *by_x);
/* Adds to each of four [channels] arrays: by_gain += sum by_y (x - mean) inverse, by_shift += sum by_y, and the sums
 * over rows of the row's channel means of x and of (x - mean)^2. */
typedef struct cpu_norm_sums {
    const float *mean, *inverse; /* running mean; 1 / sqrt(variance + epsilon) */
    float *by_gain, *by_shift, *row_means, *row_variances;
} cpu_norm_sums;
void mmebm__cpu_norm_gradient(uint32_t bf16, int64_t rows, int64_t pixels, int64_t channels, const void *x,
                              const void *by_y, const cpu_norm_sums *sums);

/* ---- f32 only */
/* y[r] = shift + <x_r, w> */
void mmebm__cpu_dot(int64_t rows, int64_t width, const float *x, const float *w, float shift, float *y);
void mmebm__cpu_softmax(int64_t vectors, int64_t width, const float *x, float *y);
void mmebm__cpu_softmax_gradient(uint32_t add, int64_t vectors, int64_t width, const float *y, const float *by_y,
                                 float *by_x);
/* layer: NLL or PRIOR; count: elements of one row. Gradients: either may be NULL. */
void mmebm__cpu_likelihood(const mmebm_layer *layer, int64_t rows, int64_t count, const float *mean,
                           const float *target, float *loss);
void mmebm__cpu_likelihood_gradient(const mmebm_layer *layer, int64_t rows, int64_t count, const float *mean,
                                    const float *target, const float *by_loss, uint32_t add, float *by_mean,
                                    uint32_t add_target, float *by_target);
void mmebm__cpu_prior(const mmebm_layer *layer, int64_t rows, int64_t count, const float *z, float *loss);
void mmebm__cpu_prior_gradient(const mmebm_layer *layer, uint32_t add, int64_t rows, int64_t count, const float *z,
                               const float *by_loss, float *by_z);

#endif /* MMEBM_CPU_ELEMENTWISE_H */

/* SPDX-License-Identifier: Apache-2.0
 *
 * Convolutions of stride 1 to at most four channels (a decoder's picture, the gradient of a picture), where oneDNN
 * computes sixteen: one matrix product gives, at each input pixel, what it adds through every tap; each result is the
 * sum of its taps' numbers.
 */
#ifndef MMEBM_CPU_NARROW_H
#define MMEBM_CPU_NARROW_H

#include "cpu_dnnl.h"

/* Whether the convolution is of that kind and faster this way. */
int mmebm__cpu_narrow_suits(const cpu_op_spec *conv);

/* The matrix product of one image. */
cpu_op_spec mmebm__cpu_narrow_product(const cpu_op_spec *conv);

/* Bytes of scratch of a run, and of a load. */
size_t mmebm__cpu_narrow_scratch(const cpu_op_spec *conv);

/* plain: [out, kh, kw, in] of the layer; flipped: conv is its input gradient (its out channels are the layer's in). */
int mmebm__cpu_narrow_load(const cpu_op_spec *conv, const cpu_op *product, uint32_t flipped, uint32_t thread,
                           const float *plain, void *packed, float *scratch);

/* target = activation(conv(source) + bias [+ target]) as conv says. op_scratch: the product's. */
int mmebm__cpu_narrow_run(const cpu_op_spec *conv, const cpu_op *product, uint32_t thread, const void *source,
                          void *packed, const float *bias, void *target, float *scratch, void *op_scratch);

#endif /* MMEBM_CPU_NARROW_H */

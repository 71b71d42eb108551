/* SPDX-License-Identifier: Apache-2.0
 *
 * Winograd's F(4x4, 3x3): a 3x3 convolution of stride 1 and padding 1 in f32 with a quarter of the multiplications.
 * The map is cut into tiles of 4x4 results; each of the 36 numbers of a transformed tile is one matrix product over
 * channels:
 *     Y = A' [ (G w G') * (B' x B) ] A                     (Lavin and Gray, CVPR 2016)
 * Rounding errors are about twice those of adding up in f32, at most 0.05 n eps sum |x| |w| of the n terms (16
 * channels; 0.004 at 128). bf16 has no room for that.
 */
#ifndef MMEBM_CPU_WINOGRAD_H
#define MMEBM_CPU_WINOGRAD_H

#include "cpu_dnnl.h"

/* Whether the convolution is of that kind and faster this way. */
int mmebm__cpu_winograd_suits(const cpu_op_spec *conv);

/* The matrix product of one block of tiles. */
cpu_op_spec mmebm__cpu_winograd_product(const cpu_op_spec *conv, uint32_t flipped);

/* Bytes of scratch of a run, and of a load. */
size_t mmebm__cpu_winograd_scratch(const cpu_op_spec *conv);

/* plain: [out, 3, 3, in] of the layer; flipped: conv is its input gradient (its out channels are the layer's in). */
int mmebm__cpu_winograd_load(const cpu_op_spec *conv, const cpu_op *product, uint32_t flipped, uint32_t thread,
                             const float *plain, float *packed, float *scratch);

/* target = activation(conv(source) + bias [+ target]) as conv says. op_scratch: the product's. */
int mmebm__cpu_winograd_run(const cpu_op_spec *conv, const cpu_op *product, uint32_t thread, const float *source,
                            float *packed, const float *bias, float *target, float *scratch, void *op_scratch);

#endif /* MMEBM_CPU_WINOGRAD_H */

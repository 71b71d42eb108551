/* SPDX-License-Identifier: Apache-2.0
 *
 * Convolutions of stride 1 that keep an image's size, in bf16 on the tile registers of a processor with AMX: 16 pixels
 * by 32 numbers times those by 16 channels in one instruction. With a resampling (cpu_resample.h) the whole is done at
 * the low resolution, with 4 multiplications for each 9.
 */
#ifndef MMEBM_CPU_TILES_H
#define MMEBM_CPU_TILES_H

#include "cpu_dnnl.h"

/* Whether the processor and its system offer tiles. */
int mmebm__cpu_tiles_offered(void);
/* Whether the convolution is of that kind, and tiles are offered. */
int mmebm__cpu_tiles_suit(const cpu_op_spec *conv);

/* Bytes of the packed weights, and of a run's scratch. */
size_t mmebm__cpu_tiles_weight_bytes(const cpu_op_spec *conv);
size_t mmebm__cpu_tiles_scratch(const cpu_op_spec *conv, uint32_t flipped);

/* plain: [out, kh, kw, in] of the layer; flipped: conv is its input gradient (its out channels are the layer's in). */
void mmebm__cpu_tiles_load(const cpu_op_spec *conv, uint32_t flipped, const float *plain, uint16_t *packed);

/* target = activation(conv(source) + bias [+ target]) as conv says; target: bf16 or f32. */
void mmebm__cpu_tiles_run(const cpu_op_spec *conv, uint32_t flipped, const uint16_t *source, const uint16_t *packed,
                          const float *bias, void *target, void *scratch);

#endif /* MMEBM_CPU_TILES_H */

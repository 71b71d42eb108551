/* SPDX-License-Identifier: Apache-2.0
 *
 * The vector operations that this backend does itself, in threads; backend_api.h states each formula. The others are
 * the reference backend's (cpu_backend.c).
 */
#ifndef MMEBM_CPU_VECTOR_H
#define MMEBM_CPU_VECTOR_H

#include "cpu_device.h"

mmebm_status mmebm__cpu_fill(mmebm_device *device, int64_t count, float *target, float value);
mmebm_status mmebm__cpu_combine(mmebm_device *device, int64_t count, float *target, float alpha, const float *source,
                                float beta);
mmebm_status mmebm__cpu_lerp(mmebm_device *device, int64_t count, float *target, const float *source,
                             float source_scale, const float *t);
mmebm_status mmebm__cpu_reduce(mmebm_device *device, int64_t count, const float *values, uint32_t power, float scale,
                               float *out);
mmebm_status mmebm__cpu_adam(mmebm_device *device, const mmebm_adam_step *step);

/* cpu_noise.c */
mmebm_status mmebm__cpu_noise(mmebm_device *device, int64_t rows, int64_t size, float *target, uint32_t family,
                              float scale, float add, const mmebm_noise *noise);
mmebm_status mmebm__cpu_langevin(mmebm_device *device, const mmebm_langevin_step *steps, uint32_t count);

/* Items in the workers, or here if all of them together are less work than waking a worker. */
void mmebm__cpu_for_each(mmebm_device *device, int64_t items, int64_t floats_each, cpu_task task, void *argument);

#endif /* MMEBM_CPU_VECTOR_H */

/* SPDX-License-Identifier: Apache-2.0
 *
 * The reference backend's vector operations: table entries, which backend_api.h describes. None looks at the device, so
 * other backends on host memory may offer them too.
 */
#ifndef MMEBM_REF_VECTOR_H
#define MMEBM_REF_VECTOR_H

#include "ref_math.h"

mmebm_status mmebm__ref_fill(mmebm_device *device, int64_t count, float *target, float value);
mmebm_status mmebm__ref_combine(mmebm_device *device, int64_t count, float *target, float alpha, const float *source,
                                float beta);
mmebm_status mmebm__ref_lerp(mmebm_device *device, int64_t count, float *target, const float *source,
                             float source_scale, const float *t);
mmebm_status mmebm__ref_row_distance(mmebm_device *device, int64_t rows, int64_t size, const float *a, const float *b,
                                     float *out);
mmebm_status mmebm__ref_reduce(mmebm_device *device, int64_t count, const float *values, uint32_t power, float scale,
                               float *out);
mmebm_status mmebm__ref_adam(mmebm_device *device, const mmebm_adam_step *step);
mmebm_status mmebm__ref_spectral_update(mmebm_device *device, const mmebm_spectral *spectral);
mmebm_status mmebm__ref_spectral_gradient(mmebm_device *device, const mmebm_spectral *spectral);

mmebm_status mmebm__ref_noise(mmebm_device *device, int64_t rows, int64_t size, float *target, uint32_t family,
                              float scale, float add, const mmebm_noise *noise);
mmebm_status mmebm__ref_langevin(mmebm_device *device, const mmebm_langevin_step *steps, uint32_t count);
mmebm_status mmebm__ref_mala_propose(mmebm_device *device, const mmebm_mala_step *step);
mmebm_status mmebm__ref_mala_accept(mmebm_device *device, const mmebm_mala_step *step);
mmebm_status mmebm__ref_mala_adapt(mmebm_device *device, const mmebm_mala_adapt *adapt);
mmebm_status mmebm__ref_expert_draw(mmebm_device *device, const mmebm_expert_draw *draw);
mmebm_status mmebm__ref_expert_scale(mmebm_device *device, int64_t rows, int64_t size, const float *raw,
                                     uint32_t scale_kind, float floor, float *scale);

#endif /* MMEBM_REF_VECTOR_H */

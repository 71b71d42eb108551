/* SPDX-License-Identifier: Apache-2.0
 *
 * The scalar formulas of the reference backend, in double: activations, likelihoods, the experts' scales and the
 * mixture of experts with its gradients. The layers and the vector operations are loops over these, and the tests
 * check them against central differences.
 *
 * Memory of the caller is "wide" (doubles behind float pointers) in F64 plans and in those tests, else floats.
 */
#ifndef MMEBM_REF_MATH_H
#define MMEBM_REF_MATH_H

#include "backend_api.h"

static inline double mmebm__ref_get(const void *data, int wide, int64_t index)
{
    return wide ? ((const double *)data)[index] : (double)((const float *)data)[index];
}

static inline void mmebm__ref_set(void *data, int wide, int64_t index, double value)
{
    if (wide)
        ((double *)data)[index] = value;
    else
        ((float *)data)[index] = (float)value;
}

static inline void mmebm__ref_add(void *data, int wide, int64_t index, double value)
{
    mmebm__ref_set(data, wide, index, mmebm__ref_get(data, wide, index) + value);
}

/* f(x) of MMEBM_RELU ...; *slope = f'(x), at a kink that of the left side. NaN stays NaN. */
double mmebm__ref_activation(uint32_t kind, double parameter, double x, double *slope);

/* One element of -log p(target | mean) without its constant: graph.h's NLL before the sum. The gradient of
 * |target - mean| at 0 is 0 (ruling B8). */
double mmebm__ref_likelihood(uint32_t likelihood, double scale, double factor, double mean, double target,
                             double *by_mean, double *by_target);

/* The scales of one expert for one row, s_d from raw_d (ruling C1). */
typedef struct mmebm_ref_scales {
    const void *raw; /* of the row, `size` elements */
    int wide;
    uint32_t kind; /* MMEBM_SCALE_* */
    int64_t size;
    double floor;
    double largest, total; /* softmax only: max raw, sum exp(raw - max) */
} mmebm_ref_scales;

mmebm_ref_scales mmebm__ref_scales(uint32_t kind, double floor, const void *raw, int wide, int64_t size);
double mmebm__ref_scale(const mmebm_ref_scales *scales, int64_t d);

/* log q(z_d) of one normalised density of family MMEBM_GAUSSIAN or MMEBM_LAPLACE, and its derivatives. */
double mmebm__ref_log_density(uint32_t family, double z, double mean, double scale, double *by_mean, double *by_scale);

/* The whole operation `mixture` of the table. */
void mmebm__ref_mixture(const mmebm_mixture *mixture, int wide);

#endif /* MMEBM_REF_MATH_H */

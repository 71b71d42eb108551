/* SPDX-License-Identifier: Apache-2.0 */
#ifndef POLYMNIST_FITTED_PRIOR_H
#define POLYMNIST_FITTED_PRIOR_H

#include "evaluate.h"

/* A mixture of Gaussians fitted to the latents of real tuples, to draw from in place of the prior p0: training pulls
 * the latents of data away from p0, and samples from p0 then fall beside them. */
typedef struct fitted_prior {
    mmebm_latent_mixture mixture;
    float *memory;
} fitted_prior;

/* Fits to one draw of every expert's q(z|x) for tuples of `set`, which should be one to train on. 0 or -1. */
int fitted_prior_make(const drawing *d, const polymnist_set *set, fitted_prior *prior);
void fitted_prior_free(fitted_prior *prior);

#endif

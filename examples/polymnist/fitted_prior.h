/* SPDX-License-Identifier: Apache-2.0 */
#ifndef POLYMNIST_FITTED_PRIOR_H
#define POLYMNIST_FITTED_PRIOR_H

#include "evaluate.h"

/* A mixture of Gaussians fitted to what experts agree on in real tuples, the averages of their means, to draw from in
 * place of the prior p0: these lie in clusters, and samples from p0 fall between them. */
typedef struct fitted_prior {
    mmebm_latent_mixture mixture;
    float *memory;
} fitted_prior;

/* Fits to averages from tuples of `set`, which should be one to train on. An average of means varies less than the
 * latents that decoders have learnt from: they are spread to vary as draws from p0 do. 0 or -1. */
int fitted_prior_make(const drawing *d, const polymnist_set *set, fitted_prior *prior);
void fitted_prior_free(fitted_prior *prior);

#endif

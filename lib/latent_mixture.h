/* SPDX-License-Identifier: Apache-2.0
 *
 * Drawing z from a mixture in place of p0: for sampler_sample.c.
 */
#ifndef MMEBM_LATENT_MIXTURE_H
#define MMEBM_LATENT_MIXTURE_H

#include "context.h"

/* Reads and checks a caller's mixture over latent_size numbers. */
mmebm_status mmebm__latent_mixture_check(mmebm_context *context, const char *what, const mmebm_latent_mixture *given,
                                         int64_t latent_size, mmebm_latent_mixture *mixture);

/* z [rows, D] on the host, row r drawn as chain first_chain + r of a checked mixture. */
void mmebm__latent_mixture_draw(const mmebm_latent_mixture *mixture, uint64_t seed, uint64_t first_chain, int64_t rows,
                                float *z);

#endif /* MMEBM_LATENT_MIXTURE_H */

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef POLYMNIST_EVALUATE_H
#define POLYMNIST_EVALUATE_H

#include "judge.h"

/* What to draw with. */
typedef struct drawing {
    mmebm_context *context;
    mmebm_sampler *sampler;
    uint32_t latent_size;
    mmebm_langevin_options chain_x, chain_z, chain_prior;
    const mmebm_latent_mixture *prior; /* in place of p0; NULL = p0 */
    uint64_t seed;
    float guidance; /* of fillings-in: z starts at so many times an expert's mean */
    uint32_t judged; /* samples and energies to judge; fillings-in are made for 2/5 as many test tuples */
} drawing;

/* How often a filled-in picture shows the digit of the given ones. */
typedef struct conditional {
    uint32_t pictures, tuples;
    double right;  /* share */
    double error;  /* its standard error, from the tuples: pictures of one tuple go together */
    double chance; /* share that would be right if what is read had nothing to do with what was given */
    int valid;     /* 0: a value was not finite, nothing is counted */
} conditional;

typedef struct measures {
    double judge_accuracy[MODALITIES]; /* on the test pictures */
    uint32_t test_tuples, samples, energies;
    coherence real;      /* of real test tuples: what the judges allow at best */
    coherence generated; /* generator means for z ~ p0 */
    coherence revised;   /* the same after langevin_x */
    coherence tilted;    /* generator means for z ~ p0 after langevin_prior */
    gain revision, tilt; /* from generated to revised, and to tilted */
    coherence fitted, fitted_revised; /* both for z from a mixture fitted to latents of data: beside p0, not instead */
    conditional given_one;  /* from its expert's mean, guided; the four others are read */
    conditional unguided;   /* the same from the mean itself */
    conditional given_four; /* from the average of their experts' means, guided; the fifth is read */
    conditional refined;    /* the same after langevin_z */
    conditional tilted_refined; /* the same under a prior that the energy tilts, as chain_prior's */
    double energy_real, energy_shuffled; /* means */
    double ranked_right; /* share of real tuples below the energy of their shuffled ones; chance 0.5 */
    int energies_valid;
} measures;

int measure_judges(const judges *panel, mmebm_context *context, const polymnist_set *test, measures *m);
/* fit: a mixture fitted to latents */
int measure_unconditional(const drawing *d, const mmebm_latent_mixture *fit, const judges *panel,
                          const polymnist_set *test, measures *m);
int measure_conditional(const drawing *d, const judges *panel, const polymnist_set *test, measures *m);
int measure_energies(const drawing *d, const polymnist_set *test, measures *m);

/* Adapts l of langevin_z, under MALA, until about `target` of its moves are accepted: as the training does, for weights
 * that come without their l. Every modality of some test tuples is given; no digit is looked at. 0 or -1. */
int adapt_step_size(drawing *d, const polymnist_set *test, double target);

/* Fills in what `observed` leaves out, from the average of the given experts' means, guided, and after langevin_z
 * unless `chain` is NULL. 0 or -1. */
int draw_given(const drawing *d, uint64_t observed, const mmebm_langevin_options *chain, uint64_t first_chain,
               tuples *x);
/* Generator means of draws from the prior, REVISED by langevin_x afterwards or TILTED by langevin_prior before: of the
 * same chains the same tuples. 0 or -1. */
typedef enum sample_kind { PLAIN, REVISED, TILTED } sample_kind;
int draw_samples(const drawing *d, sample_kind kind, uint64_t first_chain, tuples *x);

#endif

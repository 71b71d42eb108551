/* SPDX-License-Identifier: Apache-2.0
 *
 * mmebm_sampler: plans and device memory for work on one model. sampler.c makes and prepares it, sampler_evaluate.c
 * holds energy, score, encode and generate, sampler_chain.c the chains, sampler_sample.c the draws made of them,
 * sampler_api.c the calls that make a sampler for one use.
 *
 * Every call loops over parts of at most `capacity` tuples: upload, work on the device, download.
 */
#ifndef MMEBM_SAMPLER_H
#define MMEBM_SAMPLER_H

#include "chain.h"
#include "joint.h"
#include "view.h"

/* The energy of latents for one observed set: langevin_z's, or with none observed langevin_prior's. */
typedef struct mmebm_posterior {
    struct mmebm_posterior *next;
    uint64_t observed;
    float temperature; /* of the energy that tilts the prior; 0 = p0 */
    mmebm_graph graph;
    mmebm_weighted_plan plan;
} mmebm_posterior;

struct mmebm_sampler {
    mmebm_context *context;
    mmebm_model *model; /* retained */
    int64_t capacity;
    uint32_t precision;
    uint32_t modalities;   /* M */
    uint64_t all;          /* M low bits */
    int64_t latent_size;   /* D */
    uint64_t buffer_bytes; /* of the device and host buffers below */
    mmebm_weighted_plan energy, generator;
    mmebm_graph encoder_graph[MMEBM_MAX_MODALITIES];
    mmebm_weighted_plan encoder[MMEBM_MAX_MODALITIES];
    mmebm_posterior *posteriors;
    mmebm_joint joint; /* weights of posteriors under tilted priors */
    /* device, [capacity, ...] */
    float *x[MMEBM_MAX_MODALITIES], *x_start[MMEBM_MAX_MODALITIES], *x_gradient[MMEBM_MAX_MODALITIES];
    float *mean[MMEBM_MAX_MODALITIES], *raw[MMEBM_MAX_MODALITIES];
    /* device, [M capacity, ...]: one chain for each expert */
    float *z, *z_start, *z_gradient, *proposal, *proposal_gradient;
    float *row_energy, *proposal_energy, *accepted, *row_value;
    float *scales; /* l, n of each modality, then of z */
    uint64_t *key; /* seed, first chain */
    float *host;   /* host, host_count = capacity max(M, D) */
    size_t host_count;
};

/* The set that a mask means, checked: 0 = all. `what` names the call. */
mmebm_status mmebm__observed_set(const mmebm_sampler *sampler, const char *what, uint64_t mask, uint64_t *observed);
/* temperature 0 = p0; then something is observed. Of a set's tilted posteriors the last is kept. */
mmebm_status mmebm__posterior_find(mmebm_sampler *sampler, uint64_t observed, float temperature,
                                   mmebm_posterior **posterior);

/* Checks the views of the modalities in mask; all have the same n, which is returned. */
mmebm_status mmebm__check_tuples(const mmebm_sampler *sampler, const char *what, const mmebm_view *x, uint64_t mask,
                                 int64_t *n);
mmebm_status mmebm__upload_tuples(mmebm_sampler *sampler, const mmebm_view *x, uint64_t mask, int64_t first,
                                  int64_t rows);
mmebm_status mmebm__download_tuples(mmebm_sampler *sampler, const mmebm_view *x, uint64_t mask, int64_t first,
                                    int64_t rows);
mmebm_status mmebm__set_key(mmebm_sampler *sampler, uint64_t seed, uint64_t first_chain);

/* ---- on the sampler's device buffers, `rows` tuples */
mmebm_status mmebm__encode_rows(mmebm_sampler *sampler, uint32_t modality, int64_t rows); /* x -> mean, raw */
mmebm_status mmebm__check_start(mmebm_context *context, const char *what, uint32_t start);
/* z from the experts in `observed`: one chain for each ([|O| rows]), or one drawn uniformly (choose, [rows]). */
mmebm_status mmebm__draw_rows(mmebm_sampler *sampler, uint64_t observed, uint32_t start, int choose, int64_t rows);
mmebm_status mmebm__generate_rows(mmebm_sampler *sampler, uint64_t wanted, int64_t rows); /* z -> x of `wanted` */

/* Reads (NULL = defaults) and checks a caller's options of either chain. */
mmebm_status mmebm__langevin_x_options(const mmebm_sampler *sampler, const mmebm_langevin_options *given,
                                       mmebm_langevin_options *options);
mmebm_status mmebm__langevin_z_options(const mmebm_sampler *sampler, const mmebm_langevin_options *given,
                                       mmebm_langevin_options *options);
mmebm_status mmebm__langevin_prior_options(const mmebm_sampler *sampler, const mmebm_langevin_options *given,
                                           mmebm_langevin_options *options);
/* The chains on checked options; the key is set, the states are in x and z. */
mmebm_status mmebm__langevin_x_rows(mmebm_sampler *sampler, const mmebm_langevin_options *options, int64_t rows,
                                    mmebm_chain_observer observer, void *user);
mmebm_status mmebm__langevin_z_rows(mmebm_sampler *sampler, const mmebm_langevin_options *options,
                                    mmebm_posterior *posterior, uint32_t experts, int64_t rows,
                                    mmebm_chain_observer observer, void *user);
mmebm_status mmebm__upload_scales_x(mmebm_sampler *sampler, const mmebm_langevin_options *options);
mmebm_status mmebm__upload_scales_z(mmebm_sampler *sampler, const mmebm_langevin_options *options);

#endif /* MMEBM_SAMPLER_H */

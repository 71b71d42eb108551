/* SPDX-License-Identifier: Apache-2.0 */
#ifndef POLYMNIST_FEEDER_H
#define POLYMNIST_FEEDER_H

#include "tuples.h"

typedef struct feeder {
    const digit_set *digits;
    const photo *photos;
    uint64_t seed, epoch;
    uint64_t painted;  /* the step whose batch is in `batch`, plus 1; 0 = none yet */
    polymnist_set set; /* of this epoch: pairings, crops and order */
    tuples batch;      /* what feeder_paint has painted */
    mmebm_context *context; /* of what decodes it then; NULL: it stays as it is */
    mmebm_sampler *decoder;
    float *latents;    /* [MODALITIES][batch][latent size] */
    uint32_t latent_size;
    float guidance;
} feeder;

/* digits and the five photographs stay the caller's. 0 or -1. */
int feeder_open(feeder *f, const digit_set *digits, const photo *photos, uint64_t seed, uint32_t batch);
void feeder_close(feeder *f);
/* From now on batches are what a model makes of them: the average of its experts' means, `guidance` times as far,
 * through its decoders. 0 or -1. */
int feeder_decode(feeder *f, mmebm_context *context, mmebm_model *model, uint32_t precision, float guidance);

/* Has the batch of training step `step` in f->batch, painting it unless it is there. 0 or -1. */
int feeder_paint(feeder *f, uint64_t step);

#endif

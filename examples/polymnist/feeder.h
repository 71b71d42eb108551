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
} feeder;

/* digits and the five photographs stay the caller's. 0 or -1. */
int feeder_open(feeder *f, const digit_set *digits, const photo *photos, uint64_t seed, uint32_t batch);
void feeder_close(feeder *f);

/* Has the batch of training step `step` in f->batch, painting it unless it is there. 0 or -1. */
int feeder_paint(feeder *f, uint64_t step);

#endif

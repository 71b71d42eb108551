/* SPDX-License-Identifier: Apache-2.0 */
#ifndef POLYMNIST_TRAIN_H
#define POLYMNIST_TRAIN_H

#include <mmebm.h>

#include "history.h"
#include "options.h"
#include "tuples.h"

/* What the checkpoint carries for us beside the library's own state. Plain numbers only. */
typedef struct run_state {
    uint32_t magic, size;            /* of this struct, so that another version's is refused */
    char preset[32];                 /* what the run was started with */
    uint32_t nf, nef, stem, hidden, latent, tuples;
    double likelihood_scale;
    mmebm_trainer_options settings;  /* those of the trainer, which does not tell them */
    uint64_t step, steps;            /* done and planned: also the place in the data */
    double seconds;                  /* trained so far */
    double step_size_z;              /* to which langevin_z has adapted */
    double asked[CURVES];            /* diagnostics when they were last asked for */
    history curves;
} run_state;

typedef struct training {
    mmebm_context *context;
    const digit_set *digits;
    const photo *photos;
    mmebm_model *model;
    mmebm_trainer *trainer;
    char checkpoint[1024]; /* path */
    run_state state;
} training;

enum { TRAINING_FAILED = -1, TRAINING_DONE = 0, TRAINING_STOPPED = 1 };

/* Takes up the run whose checkpoint lies in the folder o->out, or starts one. The tuples are made anew for every epoch
 * from digits and the five photographs, which stay the caller's. 0 or -1. */
int training_open(mmebm_context *context, const options *o, const digit_set *digits, const photo *photos, training *t);
void training_close(training *t);

/* Trains until the planned steps are done, or a signal came: then with a checkpoint. Every o->measure_every seconds of
 * training it calls measure(user), whose time does not count and whose failure (not 0) ends the training. */
int training_run(training *t, const options *o, int (*measure)(void *user), void *user);

/* A model of the same networks, to hold averaged weights. 0 or -1. */
int training_make_model(const training *t, const options *o, mmebm_model **model);
/* Fills it with the averaged weights: the ones to draw with. 0 or -1. */
int training_average(const training *t, mmebm_model *model);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef POLYMNIST_OPTIONS_H
#define POLYMNIST_OPTIONS_H

#include <stdint.h>

enum { SETS_MAX = 48 };

typedef struct options {
    const char *data;    /* folder of the shipped data */
    const char *mnist;   /* folder of the digits; data unless given */
    const char *out;     /* folder of the results */
    const char *backend; /* "auto", "cuda", "cpu", "reference" */
    uint32_t threads;    /* 0 = one for each core */
    uint32_t precision;  /* MMEBM_PRECISION_* */
    uint64_t seed;
    const char *preset;  /* of the networks and their settings */
    const char *set[SETS_MAX]; /* NAME=VALUE, changes to those settings */
    uint32_t sets;
    uint32_t judged;     /* tuples to judge */
    uint32_t fresh;      /* 1: the run in `out` is discarded */
    uint32_t whiten;     /* 1: latents are renamed to fit the prior (whiten.h) */
    uint32_t z_steps;    /* of langevin_z when filling in; 0 = as many as settings.c says */
    double z_step;       /* of langevin_z when drawing; 0 = as trained, or adapted */
    double guidance;     /* when filling in */
    double temperature;  /* of the energy that tilts the prior; 0 = as settings.c says */
    uint32_t prior_steps; /* of langevin_prior when drawing; likewise */

    uint32_t train;      /* 1: train; 0: show the weights in `model` */
    char model[1024];    /* path of trained weights, where not training */
    const char *energy;  /* of weights whose energy is taken instead of the model's; NULL = its own */

    double seconds;      /* of training; used where steps is 0 */
    uint64_t steps;
    uint32_t batch, nf, nef, stem, hidden, latent; /* those of the preset unless given */
    double likelihood_scale;                       /* 0 = the library's */
    double measure_every; /* seconds of training between measures; 0 = only at the end */
    uint32_t decoded;     /* of the preset: 1: the energy learns from what the model makes of tuples (feeder.h) */
    uint32_t save_bf16;   /* 1: the model's weights are stored in bf16 */
    uint32_t resume;      /* 1: go on with the run in `out`, which must be there */
} options;

enum { OPTIONS_OK, OPTIONS_HELP, OPTIONS_BAD };

/* Fills in defaults and reads the command line; says what is wrong with it. */
int options_parse(int count, char **words, options *o);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef POLYMNIST_OPTIONS_H
#define POLYMNIST_OPTIONS_H

#include <stdint.h>

typedef struct options {
    const char *data;    /* folder of the shipped data */
    const char *mnist;   /* folder of the digits; data unless given */
    const char *out;     /* folder of the results */
    const char *backend; /* "auto", "cpu", "reference" */
    uint32_t threads;    /* 0 = one for each core */
    uint32_t precision;  /* MMEBM_PRECISION_* */
    double seconds;      /* of training; used where steps is 0 */
    uint64_t steps;
    const char *preset;  /* of the networks */
    uint32_t batch, nf, nef, stem, hidden, latent;
    uint64_t seed;
    uint32_t resume;     /* 1: go on with the run in `out`, which must be there */
    uint32_t fresh;      /* 1: the run in `out` is discarded */
} options;

enum { OPTIONS_OK, OPTIONS_HELP, OPTIONS_BAD };

/* Fills in defaults and reads the command line; says what is wrong with it. */
int options_parse(int count, char **words, options *o);

#endif

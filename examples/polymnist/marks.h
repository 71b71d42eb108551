/* SPDX-License-Identifier: Apache-2.0 */
#ifndef POLYMNIST_MARKS_H
#define POLYMNIST_MARKS_H

#include "evaluate.h"

/* Where a training stood when it was measured. */
typedef struct mark {
    uint64_t step;
    double seconds; /* of training, measuring left out */
    double rollbacks, latent_norm, displacement, dE_raw; /* the trainer's diagnostics */
} mark;

/* Adds a line to the table of measures at path, in a new one after a line of names. What is not valid is "nan".
 * 0 or -1. */
int marks_append(const char *path, const mark *at, const measures *m);

/* The same in short, for the reader. */
void marks_note(const mark *at, const measures *m);

#endif

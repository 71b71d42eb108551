/* SPDX-License-Identifier: Apache-2.0 */
#ifndef POLYMNIST_TUPLES_H
#define POLYMNIST_TUPLES_H

#include <mmebm.h>

#include "polymnist.h"

/* Room for n tuples as the library takes them: five views [n, 28, 28, 3] on memory of our own. */
typedef struct tuples {
    uint32_t n;
    float *x[MODALITIES];
    mmebm_view view[MODALITIES];
} tuples;

/* Filled with zeros. 0 or -1. */
int tuples_create(tuples *t, uint32_t n);
void tuples_free(tuples *t);
/* Uses only the first n of the tuples that there is room for. */
void tuples_use(tuples *t, uint32_t n);

/* Paints rows[0 .. n - 1] of the set, or its tuples first, first + 1, ... where rows is NULL. */
void tuples_paint(tuples *t, const polymnist_set *set, const uint32_t *rows, uint32_t first);
void tuples_copy(tuples *to, const tuples *from); /* equal n */

static inline float *tuples_at(const tuples *t, uint32_t modality, uint32_t row)
{
    return t->x[modality] + (size_t)row * PICTURE_VALUES;
}

#endif

/* SPDX-License-Identifier: Apache-2.0
 *
 * Batches of tuples: the memory behind the views that the library reads and writes.
 */
#include "tuples.h"

#include <stdlib.h>
#include <string.h>

#include "message.h"

int tuples_create(tuples *t, uint32_t n)
{
    const int64_t shape[4] = {n, DIGIT_SIZE, DIGIT_SIZE, CHANNELS};
    memset(t, 0, sizeof *t);
    t->n = n;
    for (int m = 0; m < MODALITIES; ++m) {
        t->x[m] = calloc((size_t)n * PICTURE_VALUES, sizeof(float));
        if (!t->x[m] || mmebm_view_init(&t->view[m], t->x[m], 4, shape) != MMEBM_OK) {
            tuples_free(t);
            return failed("no memory for %u tuples", n);
        }
    }
    return 0;
}

void tuples_free(tuples *t)
{
    for (int m = 0; m < MODALITIES; ++m) free(t->x[m]);
    memset(t, 0, sizeof *t);
}

void tuples_use(tuples *t, uint32_t n)
{
    t->n = n;
    for (int m = 0; m < MODALITIES; ++m) t->view[m].shape[0] = n;
}

void tuples_paint(tuples *t, const polymnist_set *set, const uint32_t *rows, uint32_t first)
{
    for (uint32_t i = 0; i < t->n; ++i)
        for (uint32_t m = 0; m < MODALITIES; ++m)
            polymnist_paint(set, rows ? rows[i] : first + i, m, tuples_at(t, m, i));
}

void tuples_copy(tuples *to, const tuples *from)
{
    for (int m = 0; m < MODALITIES; ++m)
        memcpy(to->x[m], from->x[m], (size_t)from->n * PICTURE_VALUES * sizeof(float));
}

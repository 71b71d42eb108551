/* SPDX-License-Identifier: Apache-2.0
 *
 * Loss curves of a run, kept in a fixed room whatever its length.
 */
#include "history.h"

#include <stdio.h>
#include <string.h>

#include "message.h"

const char *const curve_name[CURVES] = {
    [CURVE_RECONSTRUCTION] = "reconstruction", [CURVE_SYNTHESIS] = "synthesis",
    [CURVE_LOG_Q_DATA] = "log_q_data",         [CURVE_LOG_Q_REVISED] = "log_q_revised",
    [CURVE_DE] = "dE_raw",
};

void history_start(history *h)
{
    memset(h, 0, sizeof *h);
    h->stride = 1;
}

static void merge_neighbours(history *h)
{
    for (uint32_t i = 0; i < HISTORY_POINTS / 2; ++i)
        for (int c = 0; c < CURVES; ++c) h->point[i][c] = 0.5f * (h->point[2 * i][c] + h->point[2 * i + 1][c]);
    h->count = HISTORY_POINTS / 2;
    h->stride *= 2;
}

void history_add(history *h, const double value[CURVES])
{
    for (int c = 0; c < CURVES; ++c) h->open[c] += value[c];
    if (++h->open_steps < h->stride) return;
    if (h->count == HISTORY_POINTS) {
        merge_neighbours(h); /* the open point is now half of a longer one */
        return;
    }
    for (int c = 0; c < CURVES; ++c) h->point[h->count][c] = (float)(h->open[c] / h->open_steps);
    ++h->count;
    h->open_steps = 0;
    memset(h->open, 0, sizeof h->open);
}

int history_write(const history *h, const char *path)
{
    FILE *file = fopen(path, "w");
    if (!file) return failed("cannot write %s", path);
    fputs("step", file);
    for (int c = 0; c < CURVES; ++c) fprintf(file, "\t%s", curve_name[c]);
    for (uint32_t i = 0; i < h->count; ++i) {
        fprintf(file, "\n%llu", (unsigned long long)((i + 1) * h->stride));
        for (int c = 0; c < CURVES; ++c) fprintf(file, "\t%.6g", h->point[i][c]);
    }
    fputc('\n', file);
    return fclose(file) ? failed("cannot write %s", path) : 0;
}

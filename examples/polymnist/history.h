/* SPDX-License-Identifier: Apache-2.0 */
#ifndef POLYMNIST_HISTORY_H
#define POLYMNIST_HISTORY_H

#include <stdint.h>

/* The curves that are kept; names are those of the trainer's diagnostics. */
enum { CURVE_RECONSTRUCTION, CURVE_SYNTHESIS, CURVE_LOG_Q_DATA, CURVE_LOG_Q_REVISED, CURVE_DE, CURVES };
extern const char *const curve_name[CURVES];

enum { HISTORY_POINTS = 512 };

/* A run of any length in a fixed room: each point is the mean of `stride` steps, and when the room is full
 * neighbours are merged and the stride doubles. Plain numbers only: it travels in the checkpoint. */
typedef struct history {
    uint64_t stride;      /* steps of a point */
    uint32_t count;       /* complete points */
    uint32_t open_steps;  /* steps in the point that is being filled */
    double open[CURVES];  /* their sums */
    float point[HISTORY_POINTS][CURVES];
} history;

void history_start(history *h);
void history_add(history *h, const double value[CURVES]);
/* Tab-separated text: step, curves. 0 or -1. */
int history_write(const history *h, const char *path);

#endif

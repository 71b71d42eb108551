/* SPDX-License-Identifier: Apache-2.0 */
#ifndef POLYMNIST_PROGRESS_H
#define POLYMNIST_PROGRESS_H

#include <mmebm.h>

/* When the progress of a training was last shown, and how fast it is. */
typedef struct progress {
    double started, shown, logged; /* seconds_now() */
    uint64_t first_step;
} progress;

void progress_start(progress *p, uint64_t first_step);
/* Shows step `step` of `steps` with the trainer's losses and the time left: five times a second on a terminal, every
 * fifteen seconds elsewhere and in the log file, and at the last step. */
void progress_step(progress *p, const mmebm_trainer *trainer, uint64_t step, uint64_t steps);

#endif

/* SPDX-License-Identifier: Apache-2.0
 *
 * The progress line of the training: where it is, how it goes, when it ends.
 */
#include "progress.h"

#include <stdio.h>

#include "message.h"

static const double LIVE_INTERVAL = 0.2, PLAIN_INTERVAL = 15; /* seconds */

void progress_start(progress *p, uint64_t first_step)
{
    *p = (progress){seconds_now(), 0, 0, first_step};
}

static double diagnostic(const mmebm_trainer *trainer, const char *name)
{
    double value = 0;
    return mmebm_trainer_diagnostic(trainer, name, &value) == MMEBM_OK ? value : 0;
}

void progress_step(progress *p, const mmebm_trainer *trainer, uint64_t step, uint64_t steps)
{
    const double now = seconds_now();
    const double pace = (double)(step - p->first_step) / (now - p->started + 1e-9); /* steps a second */
    const int live = now - p->shown >= (progress_is_live() ? LIVE_INTERVAL : PLAIN_INTERVAL) || step == steps;
    const int log = now - p->logged >= PLAIN_INTERVAL || step == steps;
    char line[256], time[32];
    if (!live && !log) return;
    snprintf(line, sizeof line,
             "step %llu of %llu  reconstruction %.0f  synthesis %.0f  log q %.1f  dE %+.2f  rollbacks %.0f  "
             "%.1f steps/s  %s to go",
             (unsigned long long)step, (unsigned long long)steps, diagnostic(trainer, "reconstruction"),
             diagnostic(trainer, "synthesis"), diagnostic(trainer, "log_q_data"), diagnostic(trainer, "dE_raw"),
             diagnostic(trainer, "rollbacks"), pace, seconds_text((double)(steps - step) / pace, time));
    if (live) {
        progress_line("%s", line);
        p->shown = now;
    }
    if (log) {
        note_in_log("%s", line);
        p->logged = now;
    }
}

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef POLYMNIST_SUMMARY_H
#define POLYMNIST_SUMMARY_H

#include "evaluate.h"
#include "train.h"

/* Prints the closing table and writes it to path. 0 or -1. */
int summary_write(const measures *m, const run_state *run, const char *path);
/* Prints the table of an earlier run. Returns 0 where there is none. */
int summary_show(const char *path);

#endif

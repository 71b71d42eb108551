/* SPDX-License-Identifier: Apache-2.0 */
#ifndef POLYMNIST_SUMMARY_H
#define POLYMNIST_SUMMARY_H

#include "evaluate.h"

/* Prints the closing table under a title that says where the weights come from, and writes it to path. 0 or -1. */
int summary_write(const measures *m, const char *title, const char *path);
/* Prints the table at path if its title begins so. Returns 0 where there is no such table. */
int summary_show(const char *path, const char *beginning);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef POLYMNIST_CHART_H
#define POLYMNIST_CHART_H

#include "history.h"

/* Draws the loss curves to a PNG file: three panels over one axis of steps. 0 or -1. */
int chart_write(const history *h, const char *path);

#endif

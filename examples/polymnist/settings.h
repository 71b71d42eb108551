/* SPDX-License-Identifier: Apache-2.0 */
#ifndef POLYMNIST_SETTINGS_H
#define POLYMNIST_SETTINGS_H

#include <mmebm.h>

#include "options.h"

/* Gives the widths, the size of z and the batch that the command line left open (0) the values of the preset, and says
 * what it learns from. -1 if there is no such preset. */
int settings_complete(options *o);

/* The library's preset for the networks of o->preset, which is known. */
const char *settings_networks(const options *o);

/* The trainer's options for a run of so many steps: those of the preset, changed by --set. 0 or -1. */
int settings_make(const options *o, uint64_t steps, mmebm_trainer_options *s);

/* One change, "langevin_x.n_steps=5". 0, or -1 having said why not. */
int settings_set(mmebm_trainer_options *s, const char *assignment);

/* Name of the first field that --set can change and that differs, with both values; NULL if there is none. */
const char *settings_difference(const mmebm_trainer_options *a, const mmebm_trainer_options *b, double *in_a,
                                double *in_b);

/* The chains for drawing: those of the training. Those of latents take more steps, langevin_z step_size as its l under
 * MALA, and langevin_prior is colder. */
MMEBM_CHECKED mmebm_status settings_chain_x(const mmebm_trainer_options *s, mmebm_langevin_options *chain);
MMEBM_CHECKED mmebm_status settings_chain_z(const mmebm_trainer_options *s, double step_size,
                                            mmebm_langevin_options *chain);
MMEBM_CHECKED mmebm_status settings_chain_prior(const mmebm_trainer_options *s, mmebm_langevin_options *chain);

/* All of them into the log file. */
void settings_log(const mmebm_trainer_options *s);
/* For --help. */
void settings_print_names(void);

#endif

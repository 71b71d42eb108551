/* SPDX-License-Identifier: Apache-2.0
 *
 * The weights of decoders and energy as one part, for plans of both: those of a prior that the energy tilts, and of
 * posteriors under it (compose.c). A copy, that follows the model's.
 */
#ifndef MMEBM_JOINT_H
#define MMEBM_JOINT_H

#include "model.h"

typedef struct mmebm_joint {
    mmebm_part part;                  /* no graph but for the count of weights: every plan has its own */
    uint64_t taken[MMEBM_PART_COUNT]; /* revisions of the model's parts whose weights those are */
} mmebm_joint;

/* *joint is zero before. Weights come with a refresh. */
mmebm_status mmebm__joint_open(const mmebm_model *model, mmebm_joint *joint);
void mmebm__joint_close(mmebm_context *context, mmebm_joint *joint);
/* Takes over weights of the model that changed. */
mmebm_status mmebm__joint_refresh(const mmebm_model *model, mmebm_joint *joint);

#endif /* MMEBM_JOINT_H */

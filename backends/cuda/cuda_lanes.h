/* SPDX-License-Identifier: Apache-2.0
 *
 * Branches of a graph that do not read each other (decoders of one latent, encoders of several images) run side by
 * side, each on a stream of its own, a lane: one such branch alone does not fill the chip. Lane 0 is the device's
 * stream, or that of the branch that the core's calls go to (backend_api.h, branch_fork), which has lanes of its own.
 * A lane follows what was queued when the run began, waits for another where it reads that one's results, and all meet
 * again at the end; inside a recorded sequence this makes a graph with parallel branches. No lane waits for what it has
 * waited for already: in such a graph an edge too many parts what would be a line of kernels, each launched early.
 * Where all branches are equal, the rows few and no gradients by weights wanted, they go on in step in one stream
 * instead (cuda_plan.cu, choose_order), what they ask for made together (cuda_batch.h); lanes then only keep their
 * scratch apart.
 */
#ifndef MMEBM_CUDA_LANES_H
#define MMEBM_CUDA_LANES_H

#include "cuda_device.h"

struct cuda_fork {
    const mmebm_device *device;
    mmebm_device side[CUDA_LANES - 1]; /* the device as lanes 1, 2, ... see it: with their stream */
    int32_t now;                       /* the lane that layers run in */
    int32_t in_step;                   /* all lanes in one stream */
    uint32_t queued[CUDA_LANES];           /* calls and waits of each lane; 0 = a side lane has not opened */
    uint32_t seen[CUDA_LANES][CUDA_LANES]; /* [a][b]: those of b that a comes after */
};

/* A run of so many lanes begins, in lane 0. */
mmebm_status mmebm__cuda_fork_begin(cuda_fork *fork, const mmebm_device *device, int32_t lanes, int32_t in_step);
/* Layers that follow run in `lane`, after all that the lanes in the set have queued. */
mmebm_status mmebm__cuda_fork_enter(cuda_fork *fork, int32_t lane, uint32_t after);
/* The present lane waits for all that the lanes in the set have queued. */
mmebm_status mmebm__cuda_fork_wait(cuda_fork *fork, uint32_t lanes);
/* Back to lane 0, after all others so far. */
mmebm_status mmebm__cuda_fork_meet(cuda_fork *fork);

/* The device as the present lane sees it, for a call that queues work there. */
static inline const mmebm_device *fork_device(cuda_fork *fork)
{
    ++fork->queued[fork->now];
    return fork->now && !fork->in_step ? &fork->side[fork->now - 1] : fork->device;
}

#endif /* MMEBM_CUDA_LANES_H */

/* SPDX-License-Identifier: Apache-2.0
 *
 * Branches of a graph that do not read each other (decoders of one latent, encoders of several images) run side by
 * side, each on a stream of its own, a lane: one such branch alone does not fill the chip. Lane 0 is the device's
 * stream, or that of the branch that the core's calls go to (backend_api.h, branch_fork), which has lanes of its own.
 * All lanes open at the beginning of a run, one waits for another where it reads that one's results, and all meet again
 * at the end; inside a recorded sequence this makes a graph with parallel branches.
 */
#ifndef MMEBM_CUDA_LANES_H
#define MMEBM_CUDA_LANES_H

#include "cuda_device.h"

struct cuda_fork {
    const mmebm_device *device;
    mmebm_device side[CUDA_LANES - 1]; /* the device as lanes 1, 2, ... see it: with their stream */
    uint32_t open;                     /* bit k: lane k is open */
    int32_t now;                       /* the lane that layers run in */
};

/* Lanes 1 .. lanes - 1 open and wait for what the device has queued so far. */
mmebm_status mmebm__cuda_fork_begin(cuda_fork *fork, const mmebm_device *device, int32_t lanes);
/* Layers that follow run in `lane`. */
void mmebm__cuda_fork_enter(cuda_fork *fork, int32_t lane);
/* The present lane waits for all that the lanes in the set have queued. */
mmebm_status mmebm__cuda_fork_wait(cuda_fork *fork, uint32_t lanes);
/* Back to lane 0, after all others so far. */
mmebm_status mmebm__cuda_fork_meet(cuda_fork *fork);

static inline const mmebm_device *fork_device(const cuda_fork *fork)
{
    return fork->now ? &fork->side[fork->now - 1] : fork->device;
}

#endif /* MMEBM_CUDA_LANES_H */

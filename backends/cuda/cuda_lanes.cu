/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "cuda_lanes.h"

/* Stream `later` goes on after what `earlier` has queued. */
static mmebm_status follow(const mmebm_device *device, cudaStream_t later, cudaStream_t earlier, cudaEvent_t reached)
{
    CUDA_TRY(mmebm__cuda_check(device, cudaEventRecord(reached, earlier), "cudaEventRecord"));
    return mmebm__cuda_check(device, cudaStreamWaitEvent(later, reached, 0), "cudaStreamWaitEvent");
}

static const mmebm_device *lane_device(const cuda_fork *fork, int32_t lane)
{
    return lane ? &fork->side[lane - 1] : fork->device;
}

/* ---- lanes of a plan */

static mmebm_status wait_for(const cuda_fork *fork, int32_t later, int32_t earlier)
{
    const mmebm_device *device = fork->device, *waiting = lane_device(fork, later);
    const cudaEvent_t reached = device->lanes[device->branch][earlier].reached;
    waiting->after_event = 1;
    return follow(device, waiting->stream, lane_device(fork, earlier)->stream, reached);
}

mmebm_status mmebm__cuda_fork_begin(cuda_fork *fork, const mmebm_device *device, int32_t lanes, int32_t in_step)
{
    memset(fork->queued, 0, sizeof fork->queued);
    memset(fork->seen, 0, sizeof fork->seen);
    fork->device = device;
    fork->now = 0;
    fork->in_step = in_step;
    if (lanes == 1 || in_step) return MMEBM_OK;
    return mmebm__cuda_check(device, cudaEventRecord(device->begun[device->branch], device->stream), "cudaEventRecord");
}

static mmebm_status open_lane(cuda_fork *fork, int32_t lane)
{
    const mmebm_device *device = fork->device;
    mmebm_device *side = &fork->side[lane - 1];
    ++fork->queued[lane]; /* in a recorded sequence every stream that was opened must be joined */
    *side = *device;
    side->stream = device->lanes[device->branch][lane].stream;
    side->after_event = 1;
    return mmebm__cuda_check(device, cudaStreamWaitEvent(side->stream, device->begun[device->branch], 0),
                             "cudaStreamWaitEvent");
}

mmebm_status mmebm__cuda_fork_enter(cuda_fork *fork, int32_t lane, uint32_t after)
{
    fork->now = lane;
    if (fork->in_step) return MMEBM_OK;
    if (lane && !fork->queued[lane]) CUDA_TRY(open_lane(fork, lane));
    return mmebm__cuda_fork_wait(fork, after);
}

/* What the other lane has waited for, this one then has too; and having waited is news of its own: a gradient may be
 * handed on from here without any call. */
static void see(cuda_fork *fork, int32_t lane)
{
    uint32_t *seen = fork->seen[fork->now];
    for (int32_t k = 0; k < CUDA_LANES; ++k)
        if (fork->seen[lane][k] > seen[k]) seen[k] = fork->seen[lane][k];
    seen[lane] = fork->queued[lane];
    ++fork->queued[fork->now];
}

mmebm_status mmebm__cuda_fork_wait(cuda_fork *fork, uint32_t lanes)
{
    if (fork->in_step) return MMEBM_OK;
    for (int32_t lane = 0; lane < CUDA_LANES; ++lane) {
        const bool news = fork->seen[fork->now][lane] < fork->queued[lane];
        if (lane == fork->now || !(lanes >> lane & 1) || !news) continue;
        CUDA_TRY(wait_for(fork, fork->now, lane));
        see(fork, lane);
    }
    return MMEBM_OK;
}

mmebm_status mmebm__cuda_fork_meet(cuda_fork *fork)
{
    return mmebm__cuda_fork_enter(fork, 0, ~0u);
}

/* ---- branches of the core's calls */

mmebm_status mmebm__cuda_branch_fork(mmebm_device *device, uint32_t branches)
{
    const cuda_scope scope(device);
    device->trunk = device->stream;
    device->branches = branches;
    for (uint32_t k = 1; k < branches; ++k)
        CUDA_TRY(follow(device, device->lanes[k][0].stream, device->trunk, device->lanes[0][0].reached));
    return MMEBM_OK;
}

void mmebm__cuda_branch_enter(mmebm_device *device, uint32_t branch)
{
    device->branch = branch;
    device->stream = branch ? device->lanes[branch][0].stream : device->trunk;
    device->after_event = 1;
}

mmebm_status mmebm__cuda_branch_join(mmebm_device *device)
{
    const cuda_scope scope(device);
    const uint32_t branches = device->branches;
    mmebm__cuda_branch_enter(device, 0);
    device->branches = 0;
    for (uint32_t k = 1; k < branches; ++k)
        CUDA_TRY(follow(device, device->trunk, device->lanes[k][0].stream, device->lanes[k][0].reached));
    return MMEBM_OK;
}

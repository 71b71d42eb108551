/* SPDX-License-Identifier: Apache-2.0 */
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

static mmebm_status wait_for(const cuda_fork *fork, int32_t later, int32_t earlier)
{
    const mmebm_device *device = fork->device, *waiting = lane_device(fork, later);
    const cudaEvent_t reached = device->lanes[device->branch][earlier].reached;
    waiting->after_event = 1;
    return follow(device, waiting->stream, lane_device(fork, earlier)->stream, reached);
}

/* ---- lanes of a plan */

mmebm_status mmebm__cuda_fork_begin(cuda_fork *fork, const mmebm_device *device, int32_t lanes)
{
    fork->device = device;
    fork->open = 1;
    fork->now = 0;
    for (int32_t lane = 1; lane < lanes; ++lane) {
        fork->open |= 1u << lane;
        fork->side[lane - 1] = *device;
        fork->side[lane - 1].stream = device->lanes[device->branch][lane].stream;
        CUDA_TRY(wait_for(fork, lane, 0));
    }
    return MMEBM_OK;
}

void mmebm__cuda_fork_enter(cuda_fork *fork, int32_t lane)
{
    fork->now = lane;
}

mmebm_status mmebm__cuda_fork_wait(cuda_fork *fork, uint32_t lanes)
{
    for (int32_t lane = 0; lane < CUDA_LANES; ++lane)
        if (lane != fork->now && (lanes & fork->open) >> lane & 1) CUDA_TRY(wait_for(fork, fork->now, lane));
    return MMEBM_OK;
}

mmebm_status mmebm__cuda_fork_meet(cuda_fork *fork)
{
    fork->now = 0;
    return mmebm__cuda_fork_wait(fork, fork->open);
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

/* SPDX-License-Identifier: Apache-2.0
 *
 * Streams and events of the device of plain loops. Work waits in its stream until the end of a call, and is then done
 * in the order that is worst for lanes that forget to wait: one stream as far as it gets, then the next; from the first
 * to the last, or from the last to the first where MMEBM_CUDAHOST_LANES says "falling". Where it says "step", equal
 * lanes go in step in one stream, as on sm_90a.
 */
#ifndef MMEBM_HOST_STREAMS_H
#define MMEBM_HOST_STREAMS_H

#include <functional>

#include "cuda_device.h"

void host_streams_open(mmebm_device *device);
void host_queue(cudaStream_t stream, std::function<void()> work);
cudaError_t host_record(cudaEvent_t event, cudaStream_t stream);
cudaError_t host_wait(cudaStream_t stream, cudaEvent_t event, unsigned flags);
void host_drain();
bool host_lanes_in_step();

template <typename T, void (*DO)(const T *)> static mmebm_status queued(const mmebm_device *device, const T *call)
{
    const T copy = *call;
    host_queue(device->stream, [copy] { DO(&copy); });
    return MMEBM_OK;
}

#endif

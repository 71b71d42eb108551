/* SPDX-License-Identifier: Apache-2.0 */
#include "host_streams.h"

#include <deque>
#include <stdlib.h>
#include <string.h>

struct task {
    std::function<void()> work; /* none: only waits */
    size_t awaited, count;      /* until so much of that stream is done */
};

struct stream_state {
    std::deque<task> tasks;
    size_t queued, done;
};

struct moment {
    size_t stream, count;
};

/* Streams and events are numbers from 1 on: those of lane k are k + 1; the last event is a run's beginning. */
static thread_local stream_state streams[CUDA_LANES + 1];
static thread_local moment events[CUDA_LANES + 2];

void host_streams_open(mmebm_device *device)
{
    for (uintptr_t k = 0; k < CUDA_LANES; ++k)
        device->lanes[0][k] = {reinterpret_cast<cudaStream_t>(k + 1), reinterpret_cast<cudaEvent_t>(k + 1)};
    device->begun[0] = reinterpret_cast<cudaEvent_t>((uintptr_t)CUDA_LANES + 1);
    device->stream = device->lanes[0][0].stream;
}

static void add_task(cudaStream_t stream, const task &added)
{
    stream_state &state = streams[reinterpret_cast<uintptr_t>(stream)];
    state.tasks.push_back(added);
    ++state.queued;
}

void host_queue(cudaStream_t stream, std::function<void()> work)
{
    add_task(stream, {work, 0, 0});
}

cudaError_t host_record(cudaEvent_t event, cudaStream_t stream)
{
    const uintptr_t number = reinterpret_cast<uintptr_t>(stream);
    events[reinterpret_cast<uintptr_t>(event)] = {number, streams[number].queued};
    return cudaSuccess;
}

cudaError_t host_wait(cudaStream_t stream, cudaEvent_t event, unsigned)
{
    const moment &reached = events[reinterpret_cast<uintptr_t>(event)];
    add_task(stream, {nullptr, reached.stream, reached.count});
    return cudaSuccess;
}

/* One task of the stream, if it may be done now. */
static bool advance(stream_state *state)
{
    if (state->tasks.empty()) return false;
    const task next = state->tasks.front();
    if (!next.work && streams[next.awaited].done < next.count) return false;
    state->tasks.pop_front();
    if (next.work) next.work();
    ++state->done;
    return true;
}

static bool lanes_are(const char *wanted)
{
    const char *order = getenv("MMEBM_CUDAHOST_LANES");
    return order && strstr(order, wanted);
}

bool host_lanes_in_step()
{
    return lanes_are("step");
}

void host_drain()
{
    const bool falling = lanes_are("falling");
    for (int32_t k = 0; k < CUDA_LANES;) k = advance(&streams[falling ? CUDA_LANES - k : k + 1]) ? 0 : k + 1;
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * The device of the CUDA backend: a CUDA device, the stream on which all calls queue (the caller's or one of its own),
 * its memory, and sequences, which are CUDA graphs. They are captured from the own stream, whatever the caller's is:
 * the legacy default stream cannot be captured, and work that others queue there would break the capture of a stream
 * that waits for it.
 */
#include <stdio.h>

#include "cuda_device.h"

static const size_t PARTIALS_BYTES = (size_t)MMEBM_BRANCHES * CUDA_PARTIALS * sizeof(double);

struct mmebm_sequence {
    cudaGraphExec_t graph; /* NULL = empty */
};

cuda_scope::cuda_scope(const mmebm_device *device)
{
    if (cudaGetDevice(&before) != cudaSuccess) before = device->ordinal;
    if (before != device->ordinal) cudaSetDevice(device->ordinal);
}

cuda_scope::~cuda_scope()
{
    int now = before;
    if (cudaGetDevice(&now) == cudaSuccess && now != before) cudaSetDevice(before);
}

mmebm_status mmebm__cuda_check(const mmebm_device *device, cudaError_t code, const char *what)
{
    if (code == cudaSuccess) return MMEBM_OK;
    return device->host.fail(device->host.owner, MMEBM_E_DEVICE, "cuda: %s: %s (%s)", what, cudaGetErrorString(code),
                             cudaGetErrorName(code));
}

/* ---- opening */

enum { OLDEST_MAJOR = 8 /* sm_80: bf16 tensor cores, asynchronous copies */ };

static mmebm_status find_device(const mmebm_host *host, int ordinal, cudaDeviceProp *about)
{
    int count = 0;
    const cudaError_t code = cudaGetDeviceCount(&count);
    if (code != cudaSuccess)
        return host->fail(host->owner, MMEBM_E_BACKEND, "backend 'cuda': no CUDA device can be used: %s (%s)",
                          cudaGetErrorString(code), cudaGetErrorName(code));
    if (!count) return host->fail(host->owner, MMEBM_E_BACKEND, "backend 'cuda': there is no CUDA device");
    if (ordinal >= count)
        return host->fail(host->owner, MMEBM_E_BACKEND, "backend 'cuda': there is no device %d, the last is %d",
                          ordinal, count - 1);
    const cudaError_t asked = cudaGetDeviceProperties(about, ordinal);
    if (asked != cudaSuccess)
        return host->fail(host->owner, MMEBM_E_DEVICE, "backend 'cuda': cudaGetDeviceProperties: %s",
                          cudaGetErrorString(asked));
    if (about->major < OLDEST_MAJOR)
        return host->fail(host->owner, MMEBM_E_BACKEND,
                          "backend 'cuda': %s has compute capability %d.%d, wanted at least %d.0", about->name,
                          about->major, about->minor, OLDEST_MAJOR);
    return MMEBM_OK;
}

static mmebm_status open_event(const mmebm_device *device, cudaEvent_t *event)
{
    return mmebm__cuda_check(device, cudaEventCreateWithFlags(event, cudaEventDisableTiming), "cudaEventCreate");
}

static mmebm_status open_lanes(mmebm_device *device)
{
    for (int number = 0; number < MMEBM_BRANCHES * CUDA_LANES; ++number) {
        cuda_lane *opened = &device->lanes[0][0] + number;
        if (number)
            CUDA_TRY(mmebm__cuda_check(device, cudaStreamCreateWithFlags(&opened->stream, cudaStreamNonBlocking),
                                       "cudaStreamCreate"));
        CUDA_TRY(open_event(device, &opened->reached));
    }
    for (cudaEvent_t &begun : device->begun) CUDA_TRY(open_event(device, &begun));
    return MMEBM_OK;
}

static void close_lanes(mmebm_device *device)
{
    for (auto &branch : device->lanes)
        for (cuda_lane &lane : branch) {
            if (lane.stream) cudaStreamDestroy(lane.stream);
            if (lane.reached) cudaEventDestroy(lane.reached);
        }
    for (cudaEvent_t begun : device->begun)
        if (begun) cudaEventDestroy(begun);
}

static mmebm_status check_callers_stream(const mmebm_device *device)
{
    int owner = device->ordinal;
    CUDA_TRY(mmebm__cuda_check(device, cudaStreamGetDevice(device->callers, &owner), "context_create: stream"));
    if (owner == device->ordinal) return MMEBM_OK;
    return device->host.fail(device->host.owner, MMEBM_E_ARGUMENT,
                             "context_create: stream belongs to device %d, wanted device %d", owner, device->ordinal);
}

static mmebm_status open_stream(mmebm_device *device)
{
    CUDA_TRY(mmebm__cuda_check(device, cudaStreamCreateWithFlags(&device->own, cudaStreamNonBlocking),
                               "cudaStreamCreate"));
    device->stream = device->own;
    if (device->callers) {
        CUDA_TRY(check_callers_stream(device));
        device->stream = device->callers;
    }
    CUDA_TRY(mmebm__cuda_staging_open(device));
    void *partials;
    CUDA_TRY(mmebm__cuda_allocate(device, PARTIALS_BYTES, &partials));
    device->partials = static_cast<double *>(partials);
    return open_lanes(device);
}

/* The driver's maker of maps for the copy engine, where this build has kernels that use them. */
static void *find_encoder(const cudaDeviceProp *about)
{
    void *function = NULL;
#ifdef MMEBM_CUDA_SM90A
    cudaDriverEntryPointQueryResult found;
    if (about->major != 9 || about->minor != 0) return NULL;
    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeIm2col", &function, 12000, cudaEnableDefault, &found) !=
            cudaSuccess ||
        found != cudaDriverEntryPointSuccess)
        return NULL;
#else
    (void)about;
#endif
    return function;
}

mmebm_status mmebm__cuda_device_open(const mmebm_host *host, const mmebm_device_spec *spec, mmebm_device **device)
{
    const int ordinal = spec->ordinal < 0 ? 0 : spec->ordinal;
    cudaDeviceProp about;
    CUDA_TRY(find_device(host, ordinal, &about));
    mmebm_device *opened = static_cast<mmebm_device *>(host->allocate(host->owner, sizeof *opened, 64));
    if (!opened)
        return host->fail(host->owner, MMEBM_E_MEMORY, "cuda: no memory for a device of %zu bytes", sizeof *opened);
    opened->host = *host;
    opened->ordinal = ordinal;
    opened->callers = static_cast<cudaStream_t>(spec->stream);
    opened->processors = about.multiProcessorCount;
    opened->block_shared = about.sharedMemPerBlockOptin;
    opened->launches_early = about.major >= 9;
    opened->encode_pixels = find_encoder(&about);
    int driver = 0;
    cudaDriverGetVersion(&driver);
    snprintf(opened->description, sizeof opened->description,
             "%.64s, sm_%d%d, %d multiprocessors, CUDA %d.%d, driver %d.%d", about.name, about.major, about.minor,
             about.multiProcessorCount, CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10, driver / 1000,
             driver % 1000 / 10);
    const cuda_scope scope(opened);
    const mmebm_status status = open_stream(opened);
    if (status != MMEBM_OK) {
        mmebm__cuda_device_close(opened);
        return status;
    }
    *device = opened;
    return MMEBM_OK;
}

void mmebm__cuda_device_close(mmebm_device *device)
{
    if (!device) return;
    {
        const cuda_scope scope(device);
        if (device->stream) cudaStreamSynchronize(device->stream);
        if (device->own) cudaStreamDestroy(device->own);
        mmebm__cuda_staging_close(device);
        close_lanes(device);
        mmebm__cuda_free(device, device->partials, PARTIALS_BYTES);
    }
    const mmebm_host host = device->host;
    host.release(host.owner, device, sizeof *device);
}

const char *mmebm__cuda_device_describe(const mmebm_device *device)
{
    return device->description;
}

uint32_t mmebm__cuda_fast_precision(const mmebm_device *device)
{
    (void)device;
    return MMEBM_PRECISION_BF16;
}

int32_t mmebm__cuda_device_number(const mmebm_device *device)
{
    return device->ordinal;
}

/* ---- memory */

mmebm_status mmebm__cuda_allocate(const mmebm_device *device, size_t bytes, void **memory)
{
    *memory = NULL;
    const cudaError_t code = cudaMalloc(memory, bytes ? bytes : 1);
    if (code == cudaSuccess) device->host.count_device(device->host.owner, (int64_t)bytes);
    if (code != cudaErrorMemoryAllocation) return mmebm__cuda_check(device, code, "cudaMalloc");
    cudaGetLastError(); /* reported here; the next launch must not find it */
    size_t free_bytes = 0, total = 0;
    cudaMemGetInfo(&free_bytes, &total);
    return device->host.fail(device->host.owner, MMEBM_E_MEMORY,
                             "cuda: %zu bytes of device memory could not be had; %zu of %zu are free", bytes,
                             free_bytes, total);
}

void mmebm__cuda_free(const mmebm_device *device, void *memory, size_t bytes)
{
    if (!memory) return;
    cudaFree(memory);
    device->host.count_device(device->host.owner, -(int64_t)bytes);
}

mmebm_status mmebm__cuda_buffer_create(mmebm_device *device, size_t bytes, void **buffer)
{
    const cuda_scope scope(device);
    void *memory;
    CUDA_TRY(mmebm__cuda_allocate(device, bytes, &memory));
    const mmebm_status status =
        mmebm__cuda_check(device, cudaMemsetAsync(memory, 0, bytes, device->stream), "cudaMemsetAsync");
    if (status != MMEBM_OK) {
        mmebm__cuda_free(device, memory, bytes);
        return status;
    }
    *buffer = memory;
    return MMEBM_OK;
}

/* Work in the queue may still use the buffer. */
void mmebm__cuda_buffer_destroy(mmebm_device *device, void *buffer, size_t bytes)
{
    if (!buffer) return;
    const cuda_scope scope(device);
    cudaStreamSynchronize(device->stream);
    mmebm__cuda_free(device, buffer, bytes);
}

mmebm_status mmebm__cuda_copy(mmebm_device *device, void *target, const void *source, size_t bytes)
{
    const cuda_scope scope(device);
    return mmebm__cuda_check(device, cudaMemcpyAsync(target, source, bytes, cudaMemcpyDeviceToDevice, device->stream),
                             "copy");
}

mmebm_status mmebm__cuda_synchronize(mmebm_device *device)
{
    const cuda_scope scope(device);
    return mmebm__cuda_check(device, cudaStreamSynchronize(device->stream), "synchronize");
}

/* ---- sequences */

mmebm_status mmebm__cuda_sequence_create(mmebm_device *device, mmebm_sequence **sequence)
{
    const mmebm_host *host = &device->host;
    mmebm_sequence *made = static_cast<mmebm_sequence *>(host->allocate(host->owner, sizeof *made, 64));
    if (!made)
        return host->fail(host->owner, MMEBM_E_MEMORY, "cuda: no memory for a sequence of %zu bytes", sizeof *made);
    made->graph = NULL;
    *sequence = made;
    return MMEBM_OK;
}

mmebm_status mmebm__cuda_sequence_begin(mmebm_device *device)
{
    const cuda_scope scope(device);
    CUDA_TRY(mmebm__cuda_check(device, cudaStreamBeginCapture(device->own, cudaStreamCaptureModeThreadLocal),
                               "cudaStreamBeginCapture"));
    device->stream = device->own;
    return MMEBM_OK;
}

/* A replay may still be running. */
static void drop_graph(mmebm_device *device, mmebm_sequence *sequence)
{
    if (!sequence->graph) return;
    cudaStreamSynchronize(device->stream);
    cudaGraphExecDestroy(sequence->graph);
    sequence->graph = NULL;
}

mmebm_status mmebm__cuda_sequence_end(mmebm_device *device, mmebm_sequence *sequence)
{
    const cuda_scope scope(device);
    cudaGraph_t graph = NULL;
    const cudaError_t code = cudaStreamEndCapture(device->own, &graph);
    if (device->callers) device->stream = device->callers;
    drop_graph(device, sequence);
    if (code != cudaSuccess || !graph) {
        cudaGetLastError();
        return mmebm__cuda_check(device, code != cudaSuccess ? code : cudaErrorStreamCaptureInvalidated,
                                 "cudaStreamEndCapture");
    }
    const mmebm_status status =
        mmebm__cuda_check(device, cudaGraphInstantiate(&sequence->graph, graph, 0), "cudaGraphInstantiate");
    if (status != MMEBM_OK) sequence->graph = NULL;
    cudaGraphDestroy(graph);
    return status;
}

mmebm_status mmebm__cuda_sequence_replay(mmebm_device *device, mmebm_sequence *sequence)
{
    const cuda_scope scope(device);
    return mmebm__cuda_check(device, cudaGraphLaunch(sequence->graph, device->stream), "cudaGraphLaunch");
}

void mmebm__cuda_sequence_destroy(mmebm_device *device, mmebm_sequence *sequence)
{
    if (!sequence) return;
    const cuda_scope scope(device);
    drop_graph(device, sequence);
    device->host.release(device->host.owner, sequence, sizeof *sequence);
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * A backend for machines without a GPU, to test by: the CUDA backend's plans (planning.cu) with kernels of plain loops
 * (host_kernels.cu), and the reference backend's everything else.
 */
#include <string.h>

#include "cuda_device.h"
#include "host_streams.h"

extern "C" const mmebm_backend_ops *mmebm__reference_backend(void);

/* The reference's functions see the head of this device, which is all of theirs: mmebm_host. */
static mmebm_status device_open(const mmebm_host *host, const mmebm_device_spec *, mmebm_device **device)
{
    mmebm_device *opened = static_cast<mmebm_device *>(host->allocate(host->owner, sizeof *opened, 64));
    if (!opened) return host->fail(host->owner, MMEBM_E_MEMORY, "cudahost: no memory for a device");
    opened->host = *host;
    opened->processors = 132;
    opened->block_shared = 227 * 1024;
    host_streams_open(opened);
    opened->encode_pixels = host_lanes_in_step() ? opened : NULL; /* a sign that products can be made together */
    *device = opened;
    return MMEBM_OK;
}

static void device_close(mmebm_device *device)
{
    if (device) device->host.release(device->host.owner, device, sizeof *device);
}

static const char *device_describe(const mmebm_device *)
{
    return "the CUDA backend's plans on a processor";
}

mmebm_status mmebm__cuda_check(const mmebm_device *, cudaError_t, const char *)
{
    return MMEBM_OK;
}

mmebm_status mmebm__cuda_allocate(const mmebm_device *device, size_t bytes, void **memory)
{
    *memory = device->host.allocate(device->host.owner, bytes, 256);
    if (*memory || !bytes) return MMEBM_OK;
    return device->host.fail(device->host.owner, MMEBM_E_MEMORY, "cudahost: no memory for %zu bytes", bytes);
}

void mmebm__cuda_free(const mmebm_device *device, void *memory, size_t bytes)
{
    if (memory) device->host.release(device->host.owner, memory, bytes);
}

mmebm_status mmebm__cuda_copy(mmebm_device *device, void *target, const void *source, size_t bytes)
{
    host_queue(device->stream, [=] { memmove(target, source, bytes); });
    return MMEBM_OK;
}

cuda_scope::cuda_scope(const mmebm_device *) : before(0)
{
}

cuda_scope::~cuda_scope()
{
}

/* Every call ends with its work done. */
template <auto CALL, typename... T> static mmebm_status drained(T... arguments)
{
    const mmebm_status status = CALL(arguments...);
    host_drain();
    return status;
}

static mmebm_backend_ops make_table()
{
    mmebm_backend_ops ops = *mmebm__reference_backend();
    ops.name = "cudahost";
    ops.device_open = device_open;
    ops.device_close = device_close;
    ops.device_describe = device_describe;
    ops.plan_create = drained<mmebm__cuda_plan_create>;
    ops.plan_destroy = mmebm__cuda_plan_destroy;
    ops.plan_size = mmebm__cuda_plan_size;
    ops.plan_load_weights = drained<mmebm__cuda_plan_load_weights>;
    ops.plan_run = drained<mmebm__cuda_plan_run>;
    return ops;
}

extern "C" __attribute__((visibility("default"))) const mmebm_backend_ops *mmebm_backend_entry(uint32_t core_abi)
{
    static const mmebm_backend_ops ops = make_table();
    return core_abi == MMEBM_BACKEND_ABI ? &ops : NULL;
}

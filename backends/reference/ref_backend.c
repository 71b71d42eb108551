/* SPDX-License-Identifier: Apache-2.0
 *
 * The reference backend's table and its "device", which is host memory and the calling thread. Everything is done when
 * a call returns. Sequences are not offered: there is nothing to gain from recording plain calls.
 */
#include <string.h>

#include "reference.h"

static mmebm_status device_open(const mmebm_host *host, const mmebm_device_spec *spec, mmebm_device **device)
{
    (void)spec; /* one thread, the caller's */
    mmebm_device *opened = host->allocate(host->owner, sizeof *opened, 64);
    if (!opened)
        return host->fail(host->owner, MMEBM_E_MEMORY, "reference: no memory for a device of %zu bytes",
                          sizeof *opened);
    opened->host = *host;
    *device = opened;
    return MMEBM_OK;
}

static void device_close(mmebm_device *device)
{
    if (!device) return;
    const mmebm_host host = device->host;
    host.release(host.owner, device, sizeof *device);
}

static const char *device_describe(const mmebm_device *device)
{
    (void)device;
    return "plain C, sums in double, 1 thread";
}

static uint32_t fast_precision(const mmebm_device *device)
{
    (void)device;
    return MMEBM_PRECISION_F32;
}

static int32_t device_number(const mmebm_device *device)
{
    (void)device;
    return 0;
}

static mmebm_status buffer_create(mmebm_device *device, size_t bytes, void **buffer)
{
    const mmebm_host *host = &device->host;
    void *memory = host->allocate(host->owner, bytes, 64);
    if (!memory) return host->fail(host->owner, MMEBM_E_MEMORY, "reference: no memory for %zu bytes", bytes);
    *buffer = memory;
    return MMEBM_OK;
}

static void buffer_destroy(mmebm_device *device, void *buffer, size_t bytes)
{
    if (buffer) device->host.release(device->host.owner, buffer, bytes);
}

/* Upload, download and copy alike. */
static mmebm_status copy(mmebm_device *device, void *target, const void *source, size_t bytes)
{
    (void)device;
    memmove(target, source, bytes);
    return MMEBM_OK;
}

static mmebm_status synchronize(mmebm_device *device)
{
    (void)device;
    return MMEBM_OK;
}

static mmebm_status mixture(mmebm_device *device, const mmebm_mixture *arguments)
{
    (void)device;
    mmebm__ref_mixture(arguments, 0);
    return MMEBM_OK;
}

const mmebm_backend_ops *mmebm__reference_backend(void)
{
    static const mmebm_backend_ops ops = {
        .struct_size = sizeof ops,
        .abi = MMEBM_BACKEND_ABI,
        .name = "reference",
        .device_open = device_open,
        .device_close = device_close,
        .device_describe = device_describe,
        .fast_precision = fast_precision,
        .device_number = device_number,
        .buffer_create = buffer_create,
        .buffer_destroy = buffer_destroy,
        .upload = copy,
        .download = copy,
        .copy = copy,
        .synchronize = synchronize,
        .plan_create = mmebm__ref_plan_create,
        .plan_destroy = mmebm__ref_plan_destroy,
        .plan_size = mmebm__ref_plan_size,
        .plan_load_weights = mmebm__ref_plan_load_weights,
        .plan_run = mmebm__ref_plan_run,
        .fill = mmebm__ref_fill,
        .combine = mmebm__ref_combine,
        .lerp = mmebm__ref_lerp,
        .noise = mmebm__ref_noise,
        .langevin = mmebm__ref_langevin,
        .mala_propose = mmebm__ref_mala_propose,
        .mala_accept = mmebm__ref_mala_accept,
        .mala_adapt = mmebm__ref_mala_adapt,
        .mixture = mixture,
        .expert_draw = mmebm__ref_expert_draw,
        .expert_scale = mmebm__ref_expert_scale,
        .row_distance = mmebm__ref_row_distance,
        .reduce = mmebm__ref_reduce,
        .adam = mmebm__ref_adam,
        .spectral_update = mmebm__ref_spectral_update,
        .spectral_gradient = mmebm__ref_spectral_gradient,
    };
    return &ops;
}

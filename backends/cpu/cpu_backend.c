/* SPDX-License-Identifier: Apache-2.0
 *
 * The table of the "cpu" backend: oneDNN for matrix products, own vectorised loops for the rest, a pool of threads of
 * its own for each device. Calls are done when they return. Operations that no profile ever showed are the reference
 * backend's.
 */
#include <stdio.h>
#include <string.h>

#include "cpu_plan.h"
#include "cpu_vector.h"
#include "ref_vector.h"

enum { MAX_THREADS = 1024 };

static void device_close(mmebm_device *device)
{
    if (!device) return;
    const mmebm_host *host = device->host;
    mmebm__cpu_threads_destroy(device->threads);
    mmebm__dnnl_close(device->dnnl);
    host->release(host->owner, device, sizeof *device);
}

static mmebm_status device_open(const mmebm_host *host, const mmebm_device_spec *spec, mmebm_device **out)
{
    uint32_t count = spec->n_threads ? spec->n_threads : mmebm__cpu_usable_cores();
    if (count > MAX_THREADS) count = MAX_THREADS;
    mmebm_device *device = host->allocate(host->owner, sizeof *device, 64);
    if (!device) return host->fail(host->owner, MMEBM_E_MEMORY, "cpu: no memory for a device");
    device->host = host;
    mmebm_status status = mmebm__dnnl_open(host, count, &device->dnnl);
    if (status == MMEBM_OK)
        status = mmebm__cpu_threads_create(host, count, mmebm__dnnl_start_worker, &device->threads);
    if (status != MMEBM_OK) {
        device_close(device);
        return status;
    }
    char version[32];
    mmebm__dnnl_version(version);
    snprintf(device->description, sizeof device->description, "oneDNN %s, %u thread%s, %s", version, count,
             count == 1 ? "" : "s", mmebm__dnnl_processor());
    *out = device;
    return MMEBM_OK;
}

static const char *device_describe(const mmebm_device *device)
{
    return device->description;
}

/* bf16 pays where there are matrix units for it. Where vectors multiply it at twice the rate of f32 (AMD Zen 4)
 * Winograd in f32 is as fast and far more exact; elsewhere bf16 is slower than f32. */
static uint32_t fast_precision(const mmebm_device *device)
{
    (void)device;
    return mmebm__dnnl_has_amx_bf16() ? MMEBM_PRECISION_BF16 : MMEBM_PRECISION_F32;
}

static int32_t device_number(const mmebm_device *device)
{
    (void)device;
    return 0;
}

static mmebm_status buffer_create(mmebm_device *device, size_t bytes, void **buffer)
{
    const mmebm_host *host = device->host;
    void *memory = host->allocate(host->owner, bytes, 64);
    if (!memory) return host->fail(host->owner, MMEBM_E_MEMORY, "cpu: no memory for %zu bytes", bytes);
    *buffer = memory;
    return MMEBM_OK;
}

static void buffer_destroy(mmebm_device *device, void *buffer, size_t bytes)
{
    if (buffer) device->host->release(device->host->owner, buffer, bytes);
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

static const mmebm_backend_ops ops = {
    .struct_size = sizeof ops,
    .abi = MMEBM_BACKEND_ABI,
    .name = "cpu",
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
    .plan_create = mmebm__cpu_plan_create,
    .plan_destroy = mmebm__cpu_plan_destroy,
    .plan_size = mmebm__cpu_plan_size,
    .plan_load_weights = mmebm__cpu_plan_load_weights,
    .plan_run = mmebm__cpu_plan_run,
    .fill = mmebm__cpu_fill,
    .combine = mmebm__cpu_combine,
    .lerp = mmebm__cpu_lerp,
    .noise = mmebm__cpu_noise,
    .langevin = mmebm__cpu_langevin,
    .mala_propose = mmebm__ref_mala_propose,
    .mala_accept = mmebm__ref_mala_accept,
    .mala_adapt = mmebm__ref_mala_adapt,
    .mixture = mixture,
    .expert_draw = mmebm__ref_expert_draw,
    .expert_scale = mmebm__ref_expert_scale,
    .row_distance = mmebm__ref_row_distance,
    .reduce = mmebm__cpu_reduce,
    .adam = mmebm__cpu_adam,
    .spectral_update = mmebm__ref_spectral_update,
    .spectral_gradient = mmebm__ref_spectral_gradient,
};

const mmebm_backend_ops *mmebm_backend_entry(uint32_t core_abi);

__attribute__((visibility("default"))) const mmebm_backend_ops *mmebm_backend_entry(uint32_t core_abi)
{
    return core_abi == MMEBM_BACKEND_ABI ? &ops : NULL;
}

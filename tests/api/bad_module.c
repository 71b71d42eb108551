/* SPDX-License-Identifier: Apache-2.0
 *
 * Backend modules for the tests: the reference backend under the name BACKEND_NAME, right in variant GOOD, with all
 * that a backend with devices says of itself in DEVICES (its device memory is host memory, its number 3), in every
 * other variant wrong in one way. tests/api/meson.build says which file has which VARIANT and what ENTRY is called.
 */
#include "backend_api.h"

#include <stdlib.h>
#include <string.h>

enum { GOOD = 0, STALE = 1, REFUSES = 2, SHORT_TABLE = 3, OTHER_NAME = 4, EMPTY_ENTRY = 5, NO_DEVICE = 6, DEVICES = 7 };

static mmebm_status open_nothing(const mmebm_host *host, const mmebm_device_spec *spec, mmebm_device **device)
{
    (void)device;
    return host->fail(host->owner, MMEBM_E_DEVICE, "no device for %u threads", (unsigned)spec->n_threads);
}

/* The reference's device begins so (reference.h). */
struct mmebm_device {
    mmebm_host host;
};

/* Device memory is the reference's host memory, counted as a device's too. */
static mmebm_status buffer_create(mmebm_device *device, size_t bytes, void **buffer)
{
    const mmebm_status status = mmebm__reference_backend()->buffer_create(device, bytes, buffer);
    if (status == MMEBM_OK) device->host.count_device(device->host.owner, (int64_t)bytes);
    return status;
}

static void buffer_destroy(mmebm_device *device, void *buffer, size_t bytes)
{
    if (buffer) device->host.count_device(device->host.owner, -(int64_t)bytes);
    mmebm__reference_backend()->buffer_destroy(device, buffer, bytes);
}

static int32_t number_three(const mmebm_device *device)
{
    (void)device;
    return 3;
}

/* A mailbox that is full as soon as it is posted to. */
struct mmebm_mailbox {
    size_t bytes;
    unsigned char content[1024];
};

static mmebm_status mailbox_create(mmebm_device *device, size_t bytes, mmebm_mailbox **mailbox)
{
    (void)device;
    *mailbox = bytes <= sizeof (*mailbox)->content ? calloc(1, sizeof **mailbox) : NULL;
    if (!*mailbox) return MMEBM_E_MEMORY;
    (*mailbox)->bytes = bytes;
    return MMEBM_OK;
}

static mmebm_status mailbox_post(mmebm_mailbox *mailbox, const void *source)
{
    memcpy(mailbox->content, source, mailbox->bytes);
    return MMEBM_OK;
}

static mmebm_status mailbox_receive(mmebm_mailbox *mailbox, void *target)
{
    memcpy(target, mailbox->content, mailbox->bytes);
    return MMEBM_OK;
}

static void mailbox_destroy(mmebm_mailbox *mailbox)
{
    free(mailbox);
}

static void become_devices(mmebm_backend_ops *ops)
{
    ops->capabilities = MMEBM_BACKEND_NUMBERED | MMEBM_BACKEND_STREAM | MMEBM_BACKEND_DEVICE_VIEWS;
    ops->device_number = number_three;
    ops->buffer_create = buffer_create;
    ops->buffer_destroy = buffer_destroy;
    ops->mailbox_create = mailbox_create;
    ops->mailbox_post = mailbox_post;
    ops->mailbox_receive = mailbox_receive;
    ops->mailbox_destroy = mailbox_destroy;
}

__attribute__((visibility("default"))) const mmebm_backend_ops *ENTRY(uint32_t core_abi);

const mmebm_backend_ops *ENTRY(uint32_t core_abi)
{
    static mmebm_backend_ops ops;
    if (core_abi != MMEBM_BACKEND_ABI || VARIANT == REFUSES) return NULL;
    ops = *mmebm__reference_backend();
    ops.name = VARIANT == OTHER_NAME ? "another" : BACKEND_NAME;
    if (VARIANT == STALE) ops.abi = MMEBM_BACKEND_ABI - 1;
    if (VARIANT == SHORT_TABLE) ops.struct_size = 64;
    if (VARIANT == EMPTY_ENTRY) ops.langevin = NULL;
    if (VARIANT == NO_DEVICE) ops.device_open = open_nothing;
    if (VARIANT == DEVICES) become_devices(&ops);
    return &ops;
}

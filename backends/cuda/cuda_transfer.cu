/* SPDX-License-Identifier: Apache-2.0
 *
 * Bytes between host and device. The caller's memory is pageable: a copy from it would hold the caller up until the
 * device comes to it. So uploads go through a ring of pinned slots, filled one after another; a slot is taken again
 * when the copies that left it are done. An upload returns as soon as its bytes lie there. Small downloads land in
 * pinned memory too, which saves the driver's detour, and so does what a mailbox receives.
 */
#include <string.h>

#include "cuda_device.h"

enum { SLOTS = 8 };
static const size_t SLOT_BYTES = (size_t)2 << 20, LANDING_BYTES = 4096, ALIGNMENT = 256;

struct cuda_staging {
    char *memory; /* pinned: the slots, then where small downloads land */
    cudaEvent_t left[SLOTS]; /* recorded when the ring goes on to the next slot */
    int in_use[SLOTS];       /* left was recorded and not yet waited for */
    int slot;                /* the one that is being filled */
    size_t filled;
};

mmebm_status mmebm__cuda_staging_open(mmebm_device *device)
{
    const mmebm_host *host = &device->host;
    cuda_staging *staging = static_cast<cuda_staging *>(host->allocate(host->owner, sizeof *staging, 64));
    if (!staging)
        return host->fail(host->owner, MMEBM_E_MEMORY, "cuda: no memory for %zu bytes", sizeof *staging);
    device->staging = staging;
    void *memory = NULL;
    const size_t bytes = SLOTS * SLOT_BYTES + LANDING_BYTES;
    const cudaError_t code = cudaHostAlloc(&memory, bytes, cudaHostAllocDefault);
    if (code == cudaErrorMemoryAllocation) {
        cudaGetLastError(); /* reported here */
        return host->fail(host->owner, MMEBM_E_MEMORY, "cuda: %zu bytes of pinned host memory could not be had", bytes);
    }
    CUDA_TRY(mmebm__cuda_check(device, code, "cudaHostAlloc"));
    staging->memory = static_cast<char *>(memory);
    for (int slot = 0; slot < SLOTS; ++slot)
        CUDA_TRY(mmebm__cuda_check(device, cudaEventCreateWithFlags(&staging->left[slot], cudaEventDisableTiming),
                                   "cudaEventCreate"));
    return MMEBM_OK;
}

void mmebm__cuda_staging_close(mmebm_device *device)
{
    cuda_staging *staging = device->staging;
    if (!staging) return;
    for (int slot = 0; slot < SLOTS; ++slot)
        if (staging->left[slot]) cudaEventDestroy(staging->left[slot]);
    if (staging->memory) cudaFreeHost(staging->memory);
    device->host.release(device->host.owner, staging, sizeof *staging);
    device->staging = NULL;
}

/* *place: pinned room for `bytes`, at most SLOT_BYTES. */
static mmebm_status take_room(mmebm_device *device, size_t bytes, char **place)
{
    cuda_staging *staging = device->staging;
    if (staging->filled + bytes > SLOT_BYTES) {
        CUDA_TRY(mmebm__cuda_check(device, cudaEventRecord(staging->left[staging->slot], device->stream),
                                   "upload: cudaEventRecord"));
        staging->in_use[staging->slot] = 1;
        staging->slot = (staging->slot + 1) % SLOTS;
        staging->filled = 0;
        if (staging->in_use[staging->slot])
            CUDA_TRY(mmebm__cuda_check(device, cudaEventSynchronize(staging->left[staging->slot]),
                                       "upload: cudaEventSynchronize"));
        staging->in_use[staging->slot] = 0;
    }
    *place = staging->memory + (size_t)staging->slot * SLOT_BYTES + staging->filled;
    staging->filled += (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    return MMEBM_OK;
}

mmebm_status mmebm__cuda_upload(mmebm_device *device, void *target, const void *source, size_t bytes)
{
    const cuda_scope scope(device);
    for (size_t done = 0; done < bytes;) {
        const size_t piece = bytes - done < SLOT_BYTES ? bytes - done : SLOT_BYTES;
        char *place;
        CUDA_TRY(take_room(device, piece, &place));
        memcpy(place, static_cast<const char *>(source) + done, piece);
        CUDA_TRY(mmebm__cuda_check(device, cudaMemcpyAsync(static_cast<char *>(target) + done, place, piece,
                                                           cudaMemcpyHostToDevice, device->stream),
                                   "upload"));
        done += piece;
    }
    return MMEBM_OK;
}

mmebm_status mmebm__cuda_download(mmebm_device *device, void *target, const void *source, size_t bytes)
{
    const cuda_scope scope(device);
    char *landing = device->staging->memory + SLOTS * SLOT_BYTES;
    const int small = bytes <= LANDING_BYTES;
    CUDA_TRY(mmebm__cuda_check(device, cudaMemcpyAsync(small ? landing : target, source, bytes, cudaMemcpyDeviceToHost,
                                                       device->stream),
                               "download"));
    CUDA_TRY(mmebm__cuda_check(device, cudaStreamSynchronize(device->stream), "download"));
    if (small) memcpy(target, landing, bytes);
    return MMEBM_OK;
}

/* ---- mailboxes */

struct mmebm_mailbox {
    mmebm_device *device;
    size_t bytes;
    void *content; /* pinned */
    cudaEvent_t posted;
};

void mmebm__cuda_mailbox_destroy(mmebm_mailbox *mailbox)
{
    const cuda_scope scope(mailbox->device);
    if (mailbox->posted) { /* a copy may be on its way */
        cudaEventSynchronize(mailbox->posted);
        cudaEventDestroy(mailbox->posted);
    }
    if (mailbox->content) cudaFreeHost(mailbox->content);
    mailbox->device->host.release(mailbox->device->host.owner, mailbox, sizeof *mailbox);
}

mmebm_status mmebm__cuda_mailbox_create(mmebm_device *device, size_t bytes, mmebm_mailbox **mailbox)
{
    const cuda_scope scope(device);
    const mmebm_host *host = &device->host;
    mmebm_mailbox *made = static_cast<mmebm_mailbox *>(host->allocate(host->owner, sizeof *made, 64));
    if (!made) return host->fail(host->owner, MMEBM_E_MEMORY, "cuda: no memory for a mailbox of %zu bytes", bytes);
    *made = {device, bytes, NULL, NULL};
    mmebm_status status =
        mmebm__cuda_check(device, cudaHostAlloc(&made->content, bytes, cudaHostAllocDefault), "cudaHostAlloc");
    if (status == MMEBM_OK)
        status = mmebm__cuda_check(device, cudaEventCreateWithFlags(&made->posted, cudaEventDisableTiming),
                                   "cudaEventCreate");
    if (status != MMEBM_OK) {
        mmebm__cuda_mailbox_destroy(made);
        return status;
    }
    *mailbox = made;
    return MMEBM_OK;
}

mmebm_status mmebm__cuda_mailbox_post(mmebm_mailbox *mailbox, const void *source)
{
    const mmebm_device *device = mailbox->device;
    const cuda_scope scope(device);
    CUDA_TRY(mmebm__cuda_check(device, cudaMemcpyAsync(mailbox->content, source, mailbox->bytes,
                                                       cudaMemcpyDeviceToHost, device->stream),
                               "post"));
    return mmebm__cuda_check(device, cudaEventRecord(mailbox->posted, device->stream), "post");
}

mmebm_status mmebm__cuda_mailbox_receive(mmebm_mailbox *mailbox, void *target)
{
    const cuda_scope scope(mailbox->device);
    CUDA_TRY(mmebm__cuda_check(mailbox->device, cudaEventSynchronize(mailbox->posted), "receive"));
    memcpy(target, mailbox->content, mailbox->bytes);
    return MMEBM_OK;
}

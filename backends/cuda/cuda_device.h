/* SPDX-License-Identifier: Apache-2.0
 *
 * What all files of the CUDA backend share: the device with its one stream, the scope that keeps the caller's current
 * device, error sentences with CUDA's text, and the entries of the table.
 *   cuda_backend.cu   the table                       cuda_plan.cu      plans: fusion, choice of kernels
 *   cuda_device.cu    device, memory, sequences       cuda_memory.cu    plans: where everything lies
 *   cuda_transfer.cu  uploads, downloads, mailboxes   cuda_weights.cu   plans: taking over weights
 *   cuda_vector.cu    sums, optimiser, spectral       cuda_run.cu       plans: one run forward and backward
 *   cuda_noise.cu     noise, chains (no contraction)  cuda_pack.cu      weights as the products read them
 *   cuda_mixture.cu   experts                         cuda_conv.cu      bf16 convolutions of any shape
 *   cuda_lanes.cu     streams side by side            cuda_conv_f32.cu  f32 convolutions of any shape
 *   cuda_batch.cu     calls made together             cuda_conv_tma.cu  most of both on sm_90a, by the copy engine
 *   cuda_gradient.cu  weight gradients                cuda_layers.cu    layers without weights
 * Of what runs by the copy engine, cuda_conv_narrow.cu has convolutions to few channels, cuda_conv_succession.cu those
 * of small images that follow each other.
 */
#ifndef MMEBM_CUDA_DEVICE_H
#define MMEBM_CUDA_DEVICE_H

#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <stddef.h>
#include <stdint.h>

extern "C" {
#include "backend_api.h"
}

enum {
    CUDA_PARTIALS = 1024, /* doubles of scratch for sums over a whole array */
    CUDA_BLOCK = 256,     /* threads of an elementwise block */
    CUDA_MAX_GRID_Y = 65535,
    CUDA_LANES = 8 /* streams side by side: cuda_lanes.h */
};

struct cuda_lane {
    cudaStream_t stream; /* NULL for lane 0 of branch 0, which is the device's stream */
    cudaEvent_t reached;
};

struct mmebm_device {
    mmebm_host host;
    int ordinal;        /* CUDA's number of the device */
    int processors;     /* multiprocessors */
    size_t block_shared; /* bytes of shared memory that a block may have */
    int launches_early;      /* sm_90 and newer: cuda_launch.h */
    void *encode_pixels; /* cuTensorMapEncodeIm2col of the driver; NULL without code for this chip: cuda_conv_tma.cu */
    mutable int after_event; /* the next kernel follows an event, so it must not launch early */
    cuda_lane lanes[MMEBM_BRANCHES][CUDA_LANES];
    cudaEvent_t begun[MMEBM_BRANCHES]; /* where a plan's run begins in lane 0 */
    uint32_t branch, branches; /* that calls go to; that are open, 0 without a fork: cuda_lanes.h */
    cudaStream_t trunk;        /* of branch 0, while there are branches */
    cudaStream_t stream;  /* where work is queued now: own while a sequence is recorded, else as below */
    cudaStream_t own;     /* made with the device */
    cudaStream_t callers; /* the caller's, which is used instead; NULL = none */
    struct cuda_staging *staging; /* cuda_transfer.cu */
    double *partials; /* CUDA_PARTIALS for each branch */
    char description[160];
};

/* Makes a device current and gives the caller's back at the end of the scope. */
struct cuda_scope {
    int before;
    explicit cuda_scope(const mmebm_device *device);
    ~cuda_scope();
    cuda_scope(const cuda_scope &) = delete;
    cuda_scope &operator=(const cuda_scope &) = delete;
};

/* MMEBM_OK, or the error's sentence: "cuda: <what>: <CUDA's text>". */
mmebm_status mmebm__cuda_check(const mmebm_device *device, cudaError_t code, const char *what);

/* Device memory, counted by the host, not cleared; on failure the sentence says what was asked and what was free. */
mmebm_status mmebm__cuda_allocate(const mmebm_device *device, size_t bytes, void **memory);
void mmebm__cuda_free(const mmebm_device *device, void *memory, size_t bytes); /* NULL is fine */

#define CUDA_TRY(call)                                                                                                 \
    do {                                                                                                               \
        const mmebm_status try_status_ = (call);                                                                       \
        if (try_status_ != MMEBM_OK) return try_status_;                                                               \
    } while (0)

static inline unsigned mmebm__cuda_blocks(int64_t threads, int64_t block)
{
    const int64_t most = (int64_t)1 << 20; /* kernels stride over the rest */
    const int64_t blocks = (threads + block - 1) / block;
    return (unsigned)(blocks < most ? blocks : most);
}

/* ---- entries of the table; backend_api.h says what they do */

/* The device's pinned memory. Close takes what a failed open left. */
mmebm_status mmebm__cuda_staging_open(mmebm_device *device);
void mmebm__cuda_staging_close(mmebm_device *device);

mmebm_status mmebm__cuda_device_open(const mmebm_host *host, const mmebm_device_spec *spec, mmebm_device **device);
void mmebm__cuda_device_close(mmebm_device *device);
const char *mmebm__cuda_device_describe(const mmebm_device *device);
uint32_t mmebm__cuda_fast_precision(const mmebm_device *device);
int32_t mmebm__cuda_device_number(const mmebm_device *device);
mmebm_status mmebm__cuda_buffer_create(mmebm_device *device, size_t bytes, void **buffer);
void mmebm__cuda_buffer_destroy(mmebm_device *device, void *buffer, size_t bytes);
mmebm_status mmebm__cuda_upload(mmebm_device *device, void *target, const void *source, size_t bytes);
mmebm_status mmebm__cuda_download(mmebm_device *device, void *target, const void *source, size_t bytes);
mmebm_status mmebm__cuda_copy(mmebm_device *device, void *target, const void *source, size_t bytes);
mmebm_status mmebm__cuda_synchronize(mmebm_device *device);
mmebm_status mmebm__cuda_mailbox_create(mmebm_device *device, size_t bytes, mmebm_mailbox **mailbox);
mmebm_status mmebm__cuda_mailbox_post(mmebm_mailbox *mailbox, const void *source);
mmebm_status mmebm__cuda_mailbox_receive(mmebm_mailbox *mailbox, void *target);
void mmebm__cuda_mailbox_destroy(mmebm_mailbox *mailbox);
mmebm_status mmebm__cuda_branch_fork(mmebm_device *device, uint32_t branches);
void mmebm__cuda_branch_enter(mmebm_device *device, uint32_t branch);
mmebm_status mmebm__cuda_branch_join(mmebm_device *device);
mmebm_status mmebm__cuda_sequence_create(mmebm_device *device, mmebm_sequence **sequence);
mmebm_status mmebm__cuda_sequence_begin(mmebm_device *device);
mmebm_status mmebm__cuda_sequence_end(mmebm_device *device, mmebm_sequence *sequence);
mmebm_status mmebm__cuda_sequence_replay(mmebm_device *device, mmebm_sequence *sequence);
void mmebm__cuda_sequence_destroy(mmebm_device *device, mmebm_sequence *sequence);

mmebm_status mmebm__cuda_plan_create(mmebm_device *device, const mmebm_plan_spec *spec, mmebm_plan **plan);
void mmebm__cuda_plan_destroy(mmebm_plan *plan);
size_t mmebm__cuda_plan_size(const mmebm_plan *plan);
mmebm_status mmebm__cuda_plan_load_weights(mmebm_plan *plan, const float *weights);
mmebm_status mmebm__cuda_plan_run(mmebm_plan *plan, const mmebm_plan_run *run);

mmebm_status mmebm__cuda_fill(mmebm_device *device, int64_t count, float *target, float value);
mmebm_status mmebm__cuda_combine(mmebm_device *device, int64_t count, float *target, float alpha, const float *source,
                                 float beta);
mmebm_status mmebm__cuda_lerp(mmebm_device *device, int64_t count, float *target, const float *source,
                              float source_scale, const float *t);
mmebm_status mmebm__cuda_row_distance(mmebm_device *device, int64_t rows, int64_t size, const float *a, const float *b,
                                      float *out);
mmebm_status mmebm__cuda_reduce(mmebm_device *device, int64_t count, const float *values, uint32_t power, float scale,
                                float *out);
mmebm_status mmebm__cuda_adam(mmebm_device *device, const mmebm_adam_step *step);
mmebm_status mmebm__cuda_spectral_update(mmebm_device *device, const mmebm_spectral *spectral);
mmebm_status mmebm__cuda_spectral_gradient(mmebm_device *device, const mmebm_spectral *spectral);

mmebm_status mmebm__cuda_noise(mmebm_device *device, int64_t rows, int64_t size, float *target, uint32_t family,
                               float scale, float add, const mmebm_noise *noise);
mmebm_status mmebm__cuda_langevin(mmebm_device *device, const mmebm_langevin_step *steps, uint32_t count);
mmebm_status mmebm__cuda_mala_propose(mmebm_device *device, const mmebm_mala_step *step);
mmebm_status mmebm__cuda_mala_accept(mmebm_device *device, const mmebm_mala_step *step);
mmebm_status mmebm__cuda_mala_adapt(mmebm_device *device, const mmebm_mala_adapt *adapt);
mmebm_status mmebm__cuda_expert_draw(mmebm_device *device, const mmebm_expert_draw *draw);

mmebm_status mmebm__cuda_mixture(mmebm_device *device, const mmebm_mixture *mixture);
mmebm_status mmebm__cuda_expert_scale(mmebm_device *device, int64_t rows, int64_t size, const float *raw,
                                      uint32_t scale_kind, float floor, float *scale);

#endif /* MMEBM_CUDA_DEVICE_H */

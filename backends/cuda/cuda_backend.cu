/* SPDX-License-Identifier: Apache-2.0
 *
 * The CUDA backend's table and the module's one symbol.
 */
#include "cuda_device.h"

extern "C" __attribute__((visibility("default"))) const mmebm_backend_ops *mmebm_backend_entry(uint32_t core_abi)
{
    static const mmebm_backend_ops ops = {
        /* struct_size */ sizeof(mmebm_backend_ops),
        /* abi */ MMEBM_BACKEND_ABI,
        /* name */ "cuda",
        /* capabilities */ MMEBM_BACKEND_NUMBERED | MMEBM_BACKEND_STREAM | MMEBM_BACKEND_DEVICE_VIEWS,
        /* reserved */ 0,
        mmebm__cuda_device_open,
        mmebm__cuda_device_close,
        mmebm__cuda_device_describe,
        mmebm__cuda_fast_precision,
        mmebm__cuda_device_number,
        mmebm__cuda_buffer_create,
        mmebm__cuda_buffer_destroy,
        mmebm__cuda_upload,
        mmebm__cuda_download,
        mmebm__cuda_copy,
        mmebm__cuda_synchronize,
        mmebm__cuda_plan_create,
        mmebm__cuda_plan_destroy,
        mmebm__cuda_plan_size,
        mmebm__cuda_plan_load_weights,
        mmebm__cuda_plan_run,
        mmebm__cuda_fill,
        mmebm__cuda_combine,
        mmebm__cuda_lerp,
        mmebm__cuda_noise,
        mmebm__cuda_langevin,
        mmebm__cuda_mala_propose,
        mmebm__cuda_mala_accept,
        mmebm__cuda_mala_adapt,
        mmebm__cuda_mixture,
        mmebm__cuda_expert_draw,
        mmebm__cuda_expert_scale,
        mmebm__cuda_row_distance,
        mmebm__cuda_reduce,
        mmebm__cuda_adam,
        mmebm__cuda_spectral_update,
        mmebm__cuda_spectral_gradient,
        mmebm__cuda_mailbox_create,
        mmebm__cuda_mailbox_post,
        mmebm__cuda_mailbox_receive,
        mmebm__cuda_mailbox_destroy,
        mmebm__cuda_branch_fork,
        mmebm__cuda_branch_enter,
        mmebm__cuda_branch_join,
        mmebm__cuda_sequence_create,
        mmebm__cuda_sequence_begin,
        mmebm__cuda_sequence_end,
        mmebm__cuda_sequence_replay,
        mmebm__cuda_sequence_destroy,
    };
    return core_abi == MMEBM_BACKEND_ABI ? &ops : NULL;
}

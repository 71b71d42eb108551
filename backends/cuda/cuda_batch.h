/* SPDX-License-Identifier: Apache-2.0
 *
 * Calls that are kept for a while, so that one launch makes several.
 *
 * Lanes in step. Branches of a graph that are equal go from round to round together (cuda_plan.cu, choose_order): what
 * their lanes ask for within a round is kept, and at its end the first calls of all lanes are made, then the second
 * ones, equal ones in one launch. A lane's calls keep their order; those of different lanes do not read each other's
 * results in a round, or cuda_run.cu ends it early.
 *
 * Otherwise products of the present lane are kept as long as one follows another (may_follow), and made in succession
 * before the lane is left: so runs enter, wait and meet by way of this file.
 */
#ifndef MMEBM_CUDA_BATCH_H
#define MMEBM_CUDA_BATCH_H

#include "cuda_lanes.h"
#include "cuda_tensor.h"

enum cuda_call_kind { CALL_PRODUCT, CALL_COMBINE, CALL_FORWARD, CALL_BACKWARD };

struct cuda_call {
    cuda_call_kind kind;
    union {
        cuda_product product;
        cuda_combine combine;
        cuda_layer_call layer; /* of a layer with passes in cuda_layers.cu */
    };
};

enum { CALLS_KEPT = MAX_TOGETHER /* of a lane */ };

struct cuda_batch {
    cuda_fork *fork;
    cuda_call calls[CUDA_LANES][CALLS_KEPT];
    int32_t count[CUDA_LANES];
    mmebm_status status; /* of what was kept and made */
};

void mmebm__cuda_batch_begin(cuda_batch *batch, cuda_fork *fork);
/* A call of the present lane, kept or made. */
mmebm_status mmebm__cuda_batch_call(cuda_batch *batch, const cuda_call *call);
/* mmebm__cuda_fork_enter, _wait and _meet, after what is kept where that matters: to wait for a lane that keeps calls
 * of the round, as where layers of one round add to one gradient, ends the round. */
mmebm_status mmebm__cuda_batch_enter(cuda_batch *batch, int32_t lane, uint32_t after);
mmebm_status mmebm__cuda_batch_wait(cuda_batch *batch, uint32_t lanes);
mmebm_status mmebm__cuda_batch_meet(cuda_batch *batch);
/* Makes all that is kept. */
mmebm_status mmebm__cuda_batch_make(cuda_batch *batch);
/* Makes what lanes in step keep. */
mmebm_status mmebm__cuda_batch_end_round(cuda_batch *batch);

/* The lanes that keep more than `number` calls, as a set. */
static inline uint32_t lanes_keeping(const cuda_batch *batch, int32_t number)
{
    uint32_t lanes = 0;
    for (int32_t lane = 0; lane < CUDA_LANES; ++lane)
        if (number < batch->count[lane]) lanes |= 1u << lane;
    return lanes;
}

#endif /* MMEBM_CUDA_BATCH_H */

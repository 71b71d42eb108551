/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda_batch.h"
#include "cuda_plan.h"

static int shapes_match(const cuda_tensor *a, const cuda_tensor *b)
{
    return a->height == b->height && a->width == b->width && a->channels == b->channels;
}

/* Whether one launch can make both. */
static int calls_match(const cuda_call *a, const cuda_call *b)
{
    if (a->kind != b->kind) return 0;
    switch (a->kind) {
    case CALL_PRODUCT: return products_match(&a->product, &b->product);
    case CALL_COMBINE:
        return a->combine.rows == b->combine.rows && shapes_match(&a->combine.out, &b->combine.out);
    default:
        return is_loss(a->layer.layer) && a->layer.layer->kind == b->layer.layer->kind &&
               a->layer.rows == b->layer.rows && shapes_match(&a->layer.x.tensor, &b->layer.x.tensor);
    }
}

/* Calls that match. */
static mmebm_status make_calls(const mmebm_device *device, const cuda_call *const *calls, int32_t count)
{
    cuda_product products[MAX_TOGETHER];
    cuda_combine combines[MAX_TOGETHER];
    cuda_layer_call layers[MAX_TOGETHER];
    switch (calls[0]->kind) {
    case CALL_PRODUCT:
        for (int32_t k = 0; k < count; ++k) products[k] = calls[k]->product;
        return mmebm__cuda_products(device, products, count);
    case CALL_COMBINE:
        for (int32_t k = 0; k < count; ++k) combines[k] = calls[k]->combine;
        return mmebm__cuda_combine_tensors(device, combines, count);
    default:
        for (int32_t k = 0; k < count; ++k) layers[k] = calls[k]->layer;
        return (calls[0]->kind == CALL_FORWARD ? mmebm__cuda_forward : mmebm__cuda_backward)(layers->layer->kind)(
            device, layers, count);
    }
}

void mmebm__cuda_batch_begin(cuda_batch *batch, cuda_fork *fork)
{
    batch->fork = fork;
    memset(batch->count, 0, sizeof batch->count);
    batch->status = MMEBM_OK;
}

/* Whether a call can be kept after one of its lane. */
static int goes_with(const cuda_batch *batch, const cuda_call *before, const cuda_call *call)
{
    return batch->fork->in_step || (call->kind == CALL_PRODUCT && may_follow(&before->product, &call->product));
}

mmebm_status mmebm__cuda_batch_call(cuda_batch *batch, const cuda_call *call)
{
    const int32_t lane = batch->fork->now;
    int32_t *count = &batch->count[lane];
    if (*count == CALLS_KEPT || (*count && !goes_with(batch, &batch->calls[lane][*count - 1], call)))
        CUDA_TRY(mmebm__cuda_batch_make(batch));
    if (!batch->fork->in_step && (call->kind != CALL_PRODUCT || !product_is_local(&call->product)))
        return make_calls(fork_device(batch->fork), &call, 1);
    batch->calls[lane][(*count)++] = *call;
    return batch->status;
}

/* Of the present lane. */
static mmebm_status make_succession(cuda_batch *batch)
{
    cuda_product products[CALLS_KEPT];
    const int32_t lane = batch->fork->now, count = batch->count[lane];
    for (int32_t k = 0; k < count; ++k) products[k] = batch->calls[lane][k].product;
    return count ? mmebm__cuda_succession(fork_device(batch->fork), products, count) : MMEBM_OK;
}

/* Of the calls of that number of a set of lanes, makes those that match the first. Returns the lanes of the others. */
static uint32_t make_matching(cuda_batch *batch, int32_t number, uint32_t lanes)
{
    const cuda_call *calls[MAX_TOGETHER];
    int32_t count = 0;
    for (int32_t lane = 0; lane < CUDA_LANES; ++lane) {
        const cuda_call *call = &batch->calls[lane][number];
        if (!(lanes >> lane & 1) || count == MAX_TOGETHER) continue;
        if (count && !calls_match(calls[0], call)) continue;
        calls[count++] = call;
        lanes &= ~(1u << lane);
    }
    if (batch->status == MMEBM_OK) batch->status = make_calls(fork_device(batch->fork), calls, count);
    return lanes;
}

mmebm_status mmebm__cuda_batch_make(cuda_batch *batch)
{
    if (batch->fork->in_step) {
        for (int32_t number = 0; number < CALLS_KEPT; ++number)
            for (uint32_t lanes = lanes_keeping(batch, number); lanes;) lanes = make_matching(batch, number, lanes);
    } else if (batch->status == MMEBM_OK) {
        batch->status = make_succession(batch);
    }
    memset(batch->count, 0, sizeof batch->count);
    return batch->status;
}

mmebm_status mmebm__cuda_batch_enter(cuda_batch *batch, int32_t lane, uint32_t after)
{
    const bool leaves = lane != batch->fork->now || (after & ~(1u << lane));
    if (leaves && !batch->fork->in_step) CUDA_TRY(mmebm__cuda_batch_make(batch));
    return mmebm__cuda_fork_enter(batch->fork, lane, after);
}

mmebm_status mmebm__cuda_batch_wait(cuda_batch *batch, uint32_t lanes)
{
    if (batch->fork->in_step && (lanes & lanes_keeping(batch, 0))) CUDA_TRY(mmebm__cuda_batch_make(batch));
    return mmebm__cuda_batch_enter(batch, batch->fork->now, lanes);
}

mmebm_status mmebm__cuda_batch_meet(cuda_batch *batch)
{
    CUDA_TRY(mmebm__cuda_batch_make(batch));
    return mmebm__cuda_fork_meet(batch->fork);
}

mmebm_status mmebm__cuda_batch_end_round(cuda_batch *batch)
{
    return batch->fork->in_step ? mmebm__cuda_batch_make(batch) : batch->status;
}

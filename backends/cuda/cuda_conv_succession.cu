/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of small images in succession (cuda_tensor.h), on sm_90a: each block makes all of them for its own images.
 * A result stays in shared memory as the patch of the next product: two sets of patches, one for products 0, 2, ...,
 * one for the others, where pixels of zeros are zeros from the beginning. A warpgroup's 64 pixels are whole images: it
 * waits for its own results alone, and one multiplies while the other's are stored. Weights stream ahead of all that.
 */
#include "cuda_conv_block.h"
#include "cuda_launch.h"

struct tma_succession {
    tma_plan plan; /* its members are one after another */
    cuda_product products[MAX_TOGETHER];
};

#if CUDA_HAS_WARPGROUPS

template <int GROUPS, int BN> struct succession_block : public tma_block<FACTORS_BF16, false, GROUPS, BN, 3> {
    using base = tma_block<FACTORS_BF16, false, GROUPS, BN, 3>;
    using base::plan, base::conv, base::head, base::first_tile, base::STORERS, base::TILE, base::WARPS;
    const tma_succession &all;
    unsigned char *first_patch; /* where `patches` begin */

    /* Of a product, group by group. */
    __device__ __forceinline__ int32_t patch_number(int32_t product, int32_t group) const
    {
        return (product & 1) * conv.groups + group;
    }

    /* By all threads: the second set. */
    __device__ __forceinline__ void clear_patches() const
    {
        const int32_t bytes = conv.groups * plan.patch_lines * LINE_BYTES, vector = (int32_t)sizeof(uint4);
        for (int32_t i = (int32_t)threadIdx.x * vector; i < bytes; i += (int32_t)blockDim.x * vector)
            *reinterpret_cast<uint4 *>(first_patch + bytes + i) = make_uint4(0, 0, 0, 0);
        publish_copies();
    }

    __device__ __forceinline__ void load_products() const
    {
        ring_place slice = {0, 0}, buffer = {0, 0};
        for (conv_step step = {0, 0}; step.group < conv.groups; ++step.group, ++buffer.at) {
            enter_group(conv, 0, &step);
            this->load_patch(first_tile, step, buffer);
        }
#pragma unroll 1
        for (int32_t k = 0; k < plan.count; ++k)
            for (int32_t group = 0; group < conv.groups; ++group)
                this->stream_weights(&plan.members[k], group, &slice);
    }

    __device__ __forceinline__ void multiply_products(int32_t warp, int32_t lane) const
    {
        ring_place slice = {0, 0};
#pragma unroll 1
        for (int32_t k = 0; k < plan.count; ++k) {
            typename base::group_sums sums;
            base::clear(sums);
            if (k) barrier_wait(shared_address(&head->stored[warp / 4]), (uint32_t)(k - 1 & 1));
            for (conv_step step = {0, 0}; step.group < conv.groups; ++step.group) {
                enter_group(conv, 0, &step);
                if (!k) barrier_wait(shared_address(&head->patch_full[step.group]), 0);
                const uint32_t lines = this->patch(patch_number(k, step.group)) + warp / 4 * 64 * LINE_BYTES;
                const int32_t shift = reach_of(plan) + step.offset[0] * plan.pitch + step.offset[1];
                this->multiply_patch(tile_descriptor(lines + shift * LINE_BYTES), step, &slice, sums, sums);
            }
            this->hand_over(sums, warp, lane, (uint32_t)k);
        }
    }

    /* What an epilogue reads of a product before, the same thread has stored. */
    __device__ __forceinline__ void store_products(int32_t warp, int32_t part, int32_t lane) const
    {
        using store = wide_store<__nv_bfloat16, BN, 2>;
        constexpr int LINES = 16 / STORERS, STEPS = store::steps(LINES);
        const int32_t first = warp * 16 + part * LINES;
        const float *lines = this->turn + first * tile_pitch<BN>();
        stored_pixel *places = head->places[warp] + part * LINES;
        const auto pixel_of = [=](int32_t r) { return places[r]; };
        const pixel_place place = find_pixel(plan, first_tile * TILE + reach_of(plan) + first + lane % LINES);
        if (lane < LINES) places[lane] = memory_of(plan, 0, place);
        __syncwarp();
#pragma unroll 1
        for (int32_t k = 0; k < plan.count; ++k) {
            const uint32_t line = (uint32_t)(reach_of(plan) + first);
            unsigned char *set = first_patch + patch_number(k + 1, 0) * plan.patch_lines * LINE_BYTES;
            const auto keep = [=](int32_t r, int32_t vector, const float *v) {
                unsigned char *patch = set + vector / CHUNKS * plan.patch_lines * LINE_BYTES;
                put_words(patch + chunk_place(line + (uint32_t)r, (uint32_t)(vector % CHUNKS)), v);
            };
            const store wide(all.products[k], plan.members[k].places, lane, 0, bias_in_memory(all.products[k]));
            asked_pixels<__nv_bfloat16, 2> next;
#pragma unroll 1
            for (int32_t step = -1; step < STEPS; ++step) {
                const asked_pixels<__nv_bfloat16, 2> present = next;
                if (step + 1 < STEPS) wide.ask(step + 1, LINES, pixel_of, &next);
                if (step < 0)
                    this->wait_for_sums(warp);
                else
                    wide.template finish<false>(step, lines, 0, present, keep);
            }
            publish_copies();
            release_by_lanes(&head->sums_empty[warp]);
            release(&head->stored[warp / 4]);
        }
    }
};

#endif /* CUDA_HAS_WARPGROUPS */

template <int GROUPS, int BN>
__global__ void __launch_bounds__(tma_shape<FACTORS_BF16, GROUPS, BN>::THREADS, GROUPS == 1 ? 2 : 1)
    succession_kernel(const __grid_constant__ tma_succession all)
{
#if CUDA_HAS_WARPGROUPS
    using block_type = succession_block<GROUPS, BN>;
    constexpr int WARPS = block_type::WARPS, STORING = block_type::STORERS * WARPS;
    extern __shared__ __align__(1024) unsigned char shared[];
    const tma_plan &plan = all.plan;
    const int32_t tid = (int32_t)threadIdx.x, lane = tid % 32;
    const int32_t warp = __shfl_sync(0xffffffffu, tid / 32, 0); /* so that the compiler sees that it is the warp's */
    tma_head *head = reinterpret_cast<tma_head *>(shared);
    const uint32_t weights = HEAD_BYTES, patches = weights + (uint32_t)plan.stages * block_type::SLICE;
    const uint32_t turn = patches + (uint32_t)(plan.buffers * plan.patch_lines) * LINE_BYTES;
    const block_type block = {{{},
                               plan,
                               plan.conv,
                               &plan.members[0],
                               head,
                               reinterpret_cast<float *>(shared + turn),
                               shared_address(shared) + weights,
                               shared_address(shared) + patches,
                               0,
                               0,
                               (int32_t)blockIdx.x},
                              all,
                              shared + patches};
    block.clear_patches();
    open_barriers<WARPS, block_type::STORERS>(head);
    begin_kernel();
    if (warp < WARPS)
        block.multiply_products(warp, lane);
    else if (warp < WARPS + STORING)
        block.store_products((warp - WARPS) % WARPS, (warp - WARPS) / WARPS, lane);
    else if (tid == block_type::THREADS - 32)
        block.load_products();
#endif
}

/* ---- launching */

/* Shared memory's parts, for one block of a multiprocessor or two; returns its size, 0 if they do not fit. */
template <int GROUPS, int BN>
static size_t divide_for_succession(const mmebm_device *device, tma_plan *plan)
{
    using shape = tma_shape<FACTORS_BF16, GROUPS, BN>;
    const size_t budget = plan->tiles > device->processors ? (size_t)HALF_SHARED : device->block_shared;
    plan->buffers = 2 * plan->conv.groups;
    const size_t fixed =
        HEAD_BYTES + turn_bytes<GROUPS, BN>() + (size_t)(plan->buffers * plan->patch_lines) * LINE_BYTES;
    if (fixed + (size_t)FEWEST_STREAMED * shape::SLICE > budget) return 0;
    const size_t fit = (budget - fixed) / shape::SLICE, most = MAX_STAGES;
    plan->stages = (int32_t)(fit < most ? fit : most);
    return fixed + (size_t)plan->stages * shape::SLICE;
}

template <int GROUPS, int BN>
static mmebm_status launch_succession(const mmebm_device *device, tma_plan *plan, const conv_plan *plans, int *done)
{
    using shape = tma_shape<FACTORS_BF16, GROUPS, BN>;
    count_tiles(plan, shape::TILE);
    const size_t shared = divide_for_succession<GROUPS, BN>(device, plan);
    if (!shared || plan->tiles > device->processors * (GROUPS == 1 ? 2 : 1)) return MMEBM_OK;
    *done = 1;
    if (!plan->pixels) return MMEBM_OK;
    CUDA_TRY(mmebm__cuda_describe_sources(device, plan, plans));
    CUDA_TRY(mmebm__cuda_check(device,
                               cudaFuncSetAttribute(succession_kernel<GROUPS, BN>,
                                                    cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared),
                               "shared memory of convolutions"));
    tma_succession all;
    all.plan = *plan;
    for (int32_t k = 0; k < plan->count; ++k) all.products[k] = plans[k].product;
    return mmebm__cuda_launch(device, "convolutions in succession", succession_kernel<GROUPS, BN>,
                              (unsigned)plan->tiles, shape::THREADS, shared, all);
}

/* All channels in one block; tiles as small as fill the chip. Without room for all at once a block that stays for many
 * tiles is faster. */
mmebm_status mmebm__cuda_succession_tma(const mmebm_device *device, const conv_plan *plans, int32_t count, int *done)
{
    tma_plan plan;
    *done = 0;
    for (int32_t k = 0; k < count; ++k)
        if (!plans[k].wide || !product_is_local(&plans[k].product)) return MMEBM_OK;
    if (!device->encode_pixels || !mmebm__cuda_open_plan(plans, count, &plan)) return MMEBM_OK;
    const bool few = plan.pixels / 128 * 4 < 3 * device->processors;
    if (plans->padded == 64)
        return few ? launch_succession<1, 64>(device, &plan, plans, done)
                   : launch_succession<2, 64>(device, &plan, plans, done);
    return few ? launch_succession<1, 128>(device, &plan, plans, done)
               : launch_succession<2, 128>(device, &plan, plans, done);
}

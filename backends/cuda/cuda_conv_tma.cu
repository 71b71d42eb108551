/* SPDX-License-Identifier: Apache-2.0
 *
 * The products of cuda_conv.h on sm_90a, for same-size convolutions of 3 x 3 taps, phases and single taps, of bf16 or
 * f32 numbers. In the order of pixels of cuda_conv_tma.h the patch of lines around a tile's pixels is copied once for
 * each chunk of channels, and each tap's left factor is the patch from another line on.
 *
 * A block stays for many tiles, and its warps have one job each: some multiply, both factors from shared memory; some
 * store the sums, which they get through shared memory, while the next tile is multiplied; one asks the copy engine
 * for patches and weights, ahead of their use and across tiles. Weights are resident, copied once, where they fit, or
 * stream, a slice of 128 bytes for each (chunk, tap).
 *
 * Under FACTORS_SPLIT every number is the sum of two of tf32, high and low. Of the patch, some warps more make the two;
 * of weights the packing did. What is summed is high high + high low + low high; low low is below f32's precision. The
 * tensor cores drop what does not fit the sum, always toward zero, so that no more than a line of taps is added up
 * there and the rest by ordinary additions.
 */
#include <type_traits>

#include "cuda_conv_tma.h"
#include "cuda_launch.h"

enum {
    MAX_STAGES = 16, /* of weights: slices if they stream, else those of a group of steps */
    FEWEST_STREAMED = 3,
    MOST_STREAMED = 6,
    MAX_BUFFERS = 5, /* patches; two at least */
    MAX_WARPS = 8,   /* that multiply */
    SPLITTERS = 2,   /* warps, under FACTORS_SPLIT */
    HALF_SHARED = 113 * 1024 /* of a multiprocessor's shared memory, less what a block takes beside it */
};

/* Barriers of warps. SUMS_FULL, + the number of the warp that multiplies, is one of them because checkers of races
 * follow these; an mbarrier at which a lane arrives for its warp they do not. */
enum { BIAS_THERE = 1, SUMS_FULL = 2 };

/* What the parts of a block share. A warp that multiplies and one that stores have a place of 16 lines between them. */
struct tma_head {
    uint64_t weights_full[MAX_STAGES], weights_empty[MAX_STAGES];
    uint64_t patch_full[MAX_BUFFERS], patch_split[MAX_BUFFERS], patch_empty[MAX_BUFFERS];
    uint64_t sums_empty[MAX_WARPS], stored[MAX_WARPS / 4]; /* the latter for each warpgroup */
    stored_pixel places[MAX_WARPS][2][16]; /* for each warp that stores */
    alignas(16) float bias[128];
};
enum { HEAD_BYTES = 3072 }; /* weights and patches begin at multiples of 1024 */
static_assert(sizeof(tma_head) <= HEAD_BYTES, "the head's place");

/* A kind of numbers, and a block's shape for them: GROUPS warpgroups of 64 pixels each multiply, by BN channels. */
template <int FACTORS, int GROUPS, int BN> struct tma_shape {
    typedef typename std::conditional<FACTORS == FACTORS_BF16, __nv_bfloat16, float>::type number;
    static constexpr int LINE = line_channels(FACTORS);
    static constexpr int PARTS = slices_of(FACTORS); /* of a patch too */
    static constexpr int PART = BN * LINE_BYTES, SLICE = PARTS * PART; /* bytes */
    static constexpr int TILE = GROUPS * 64, WARPS = GROUPS * 4;
    /* Warps that store what one multiplies: it takes longer where there is less to multiply. */
    static constexpr int STORERS = BN < 128 && FACTORS != FACTORS_SPLIT ? 2 : 1;
    static constexpr int THREADS = 32 * (WARPS * (1 + STORERS) + (PARTS == 2 ? (int)SPLITTERS : 0) + 1);
};

/* Where sums are turned around. */
template <int GROUPS, int BN> static __host__ __device__ constexpr uint32_t turn_bytes()
{
    return GROUPS * 64 * tile_pitch<BN>() * sizeof(float);
}

#if CUDA_HAS_WARPGROUPS

/* By each warp: all its lanes are done. */
static __device__ __forceinline__ void release(uint64_t *barrier)
{
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(shared_address(barrier));
}

template <int FACTORS, bool RESIDENT, int GROUPS, int BN, int EDGE>
struct tma_block : public tma_shape<FACTORS, GROUPS, BN> {
    using shape = tma_shape<FACTORS, GROUPS, BN>;
    using shape::PART, shape::PARTS, shape::SLICE, shape::STORERS, shape::TILE, shape::WARPS;
    static constexpr int TAPS = EDGE * EDGE;
    static constexpr int HANDED_OVER = 32 * (1 + STORERS); /* threads between which a warp's sums go over */
    typedef float group_sums[BN / 8][4];
    const tma_plan &plan;
    const conv_plan &conv;
    const tma_member *member;
    tma_head *head;
    float *turn;
    uint32_t weights, patches; /* in shared memory */
    int32_t n0, phase, first_tile;

    /* Of sums in parts, which have one tap. */
    __device__ __forceinline__ int32_t part() const
    {
        return EDGE == 1 && conv.parts > 1 ? (int32_t)blockIdx.z : 0;
    }

    __device__ __forceinline__ int32_t first_group() const
    {
        return part() * conv.part_chunks;
    }

    __device__ __forceinline__ int32_t end_group() const
    {
        return EDGE == 1 ? min(first_group() + conv.part_chunks, conv.groups) : conv.groups;
    }

    __device__ __forceinline__ uint32_t stage(int32_t at) const
    {
        return weights + (uint32_t)at * (RESIDENT ? TAPS * SLICE : SLICE);
    }

    __device__ __forceinline__ uint32_t patch(int32_t at) const
    {
        return patches + (uint32_t)(at * PARTS * plan.patch_lines) * LINE_BYTES;
    }

    /* From a high part to the low one. */
    __device__ __forceinline__ uint32_t patch_part() const
    {
        return (uint32_t)plan.patch_lines * LINE_BYTES;
    }

    /* ---- loading: one thread */

    __device__ __forceinline__ void load_patch(int32_t tile, const conv_step &group, const ring_place &buffer) const
    {
        const pixel_place first = find_pixel(plan, tile * TILE);
        const uint32_t full = shared_address(&head->patch_full[buffer.at]);
        barrier_wait(shared_address(&head->patch_empty[buffer.at]), buffer.parity ^ 1);
        barrier_announce(full, (uint32_t)plan.patch_lines * LINE_BYTES);
        copy_pixels(patch(buffer.at), &member->source[conv.product.geometry.phases_in ? group.phase : 0],
                    group.chunk * shape::LINE, first.x, first.y, first.row, full);
    }

    __device__ __forceinline__ void copy_slice(const tma_member *of, int32_t number, uint32_t target,
                                               uint32_t full) const
    {
#pragma unroll
        for (int part = 0; part < PARTS; ++part)
            copy_bulk(target + part * PART, weight_slice(conv, of->weights, phase, number, n0, PARTS, part), PART, full);
    }

    /* A group's weights slice by slice. */
    __device__ __forceinline__ void stream_weights(const tma_member *of, int32_t group, ring_place *slice) const
    {
#pragma unroll 1
        for (int32_t t = 0; t < TAPS; ++t) {
            const uint32_t full = shared_address(&head->weights_full[slice->at]);
            barrier_wait(shared_address(&head->weights_empty[slice->at]), slice->parity ^ 1);
            barrier_announce(full, SLICE);
            copy_slice(of, group * TAPS + t, stage(slice->at), full);
            advance(slice, plan.stages);
        }
    }

    /* A group's weights that are resident, with one barrier. */
    __device__ __forceinline__ void load_weights(int32_t group) const
    {
        const uint32_t full = shared_address(&head->weights_full[group]);
        barrier_announce(full, TAPS * SLICE);
#pragma unroll 1
        for (int32_t t = 0; t < TAPS; ++t) copy_slice(member, group * TAPS + t, stage(group) + t * SLICE, full);
    }

    __device__ __forceinline__ void load_tiles() const
    {
        ring_place slice = {0, 0}, buffer = {0, 0};
#pragma unroll 1
        for (int32_t tile = first_tile; tile < plan.tiles; tile += plan.blocks) {
            for (conv_step step = {0, first_group()}; step.group < end_group(); ++step.group) {
                enter_group(conv, phase, &step);
                load_patch(tile, step, buffer);
                advance(&buffer, plan.buffers);
                if (!RESIDENT)
                    stream_weights(member, step.group, &slice);
                else if (tile == first_tile)
                    load_weights(step.group);
            }
        }
    }

    /* ---- splitting: SPLITTERS warps */

    /* The order of numbers in a patch does not matter here. */
    __device__ __forceinline__ void split_patch(unsigned char *patch, int32_t thread) const
    {
        float4 *high = reinterpret_cast<float4 *>(patch), *low = reinterpret_cast<float4 *>(patch + patch_part());
#pragma unroll 4
        for (int32_t i = thread; i < plan.patch_lines * CHUNKS; i += SPLITTERS * 32) {
            const float4 v = high[i];
            const float4 h = make_float4(to_tf32(v.x), to_tf32(v.y), to_tf32(v.z), to_tf32(v.w));
            high[i] = h;
            low[i] =
                make_float4(tf32_rest(v.x, h.x), tf32_rest(v.y, h.y), tf32_rest(v.z, h.z), tf32_rest(v.w, h.w));
        }
    }

    __device__ __forceinline__ void split_patches(unsigned char *first, int32_t thread) const
    {
        ring_place buffer = {0, 0};
#pragma unroll 1
        for (int32_t tile = first_tile; tile < plan.tiles; tile += plan.blocks) {
            for (int32_t group = first_group(); group < end_group(); ++group, advance(&buffer, plan.buffers)) {
                barrier_wait(shared_address(&head->patch_full[buffer.at]), buffer.parity);
                split_patch(first + (size_t)buffer.at * PARTS * patch_part(), thread);
                publish_copies();
                release(&head->patch_split[buffer.at]);
            }
        }
    }

    /* ---- multiplying: a warpgroup */

    static __device__ __forceinline__ void multiply_lines(group_sums &sums, uint64_t left, uint64_t right)
    {
        if constexpr (FACTORS == FACTORS_BF16)
            multiply_group(sums, left, right);
        else
            multiply_group_tf32(sums, left, right);
    }

    /* 32 bytes of lines; the small products first. */
    __device__ __forceinline__ void multiply_parts(group_sums &sums, uint64_t left, uint64_t right) const
    {
        if constexpr (PARTS == 2) {
            multiply_lines(sums, left + patch_part() / UNIT, right);
            multiply_lines(sums, left, right + PART / UNIT);
        }
        multiply_lines(sums, left, right);
    }

    static __device__ __forceinline__ void clear(group_sums &sums)
    {
#pragma unroll
        for (int j = 0; j < BN / 8; ++j) sums[j][0] = sums[j][1] = sums[j][2] = sums[j][3] = 0.0f;
    }

    /* To the totals of a tile, after all products. */
    static __device__ __forceinline__ void add_sums(group_sums &sums, group_sums &totals)
    {
#pragma unroll
        for (int j = 0; j < BN / 8; ++j)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                asm volatile("" : "+f"(sums[j][i])); /* not before the products have ended */
                totals[j][i] += sums[j][i];
            }
        clear(sums);
    }

    /* A group of steps; left: the descriptor of the patch from the first pixel at tap (0, 0) on. A slice that streams
     * is given back when the products after its own have been started. */
    template <int DEPTH>
    __device__ __forceinline__ void multiply_taps(uint64_t left, int32_t group, ring_place *slice, group_sums &sums,
                                                  group_sums &totals) const
    {
        const int32_t across = conv.product.geometry.direction * (LINE_BYTES / UNIT);
        const int32_t to_next_line = across * (plan.pitch - EDGE + 1);
        const uint64_t slices = tile_descriptor(stage(RESIDENT ? group : 0));
        int32_t before = 0, column = EDGE;
        if (RESIDENT) barrier_wait(shared_address(&head->weights_full[group]), 0);
#pragma unroll 1 /* copies of this loop's body would miss the instruction cache */
        for (int t = 0; t < TAPS; ++t) {
            const uint64_t right = slices + (uint32_t)((RESIDENT ? t : slice->at) * (SLICE / UNIT));
            if (!RESIDENT) barrier_wait(shared_address(&head->weights_full[slice->at]), slice->parity);
            warpgroup_fence();
#pragma unroll
            for (int k = 0; k < DEPTH; ++k) multiply_parts(sums, left + 2 * k, right + 2 * k);
            warpgroup_commit();
            const bool ends = --column == 0;
            if (!RESIDENT) {
                if (t > 0 && (PARTS == 1 || column != EDGE - 1)) {
                    warpgroup_wait<1>();
                    release(&head->weights_empty[before]);
                }
                before = slice->at;
                advance(slice, plan.stages);
            }
            left += ends ? to_next_line : across;
            column = ends ? EDGE : column;
            if (PARTS == 2 && ends) {
                warpgroup_wait<0>();
                release(&head->weights_empty[before]);
                add_sums(sums, totals);
            }
        }
        warpgroup_wait<0>();
        if (!RESIDENT && PARTS == 1) release(&head->weights_empty[before]);
    }

    /* A depth known only at run time would make the compiler wait after each product. */
    __device__ __forceinline__ void multiply_patch(uint64_t left, const conv_step &step, ring_place *slice,
                                                   group_sums &sums, group_sums &totals) const
    {
        switch (chunk_steps(conv.product.source.channels, step.chunk, shape::LINE)) {
        case 1: multiply_taps<1>(left, step.group, slice, sums, totals); break;
        case 2: multiply_taps<2>(left, step.group, slice, sums, totals); break;
        case 3: multiply_taps<3>(left, step.group, slice, sums, totals); break;
        default: multiply_taps<4>(left, step.group, slice, sums, totals); break;
        }
    }

    __device__ __forceinline__ void multiply_tile(int32_t warpgroup, ring_place *slice, ring_place *buffer,
                                                  group_sums &sums, group_sums &totals) const
    {
        uint64_t *const ready = PARTS == 2 ? head->patch_split : head->patch_full;
        for (conv_step step = {0, first_group()}; step.group < end_group(); ++step.group) {
            enter_group(conv, phase, &step);
            const int32_t shift = EDGE == 1 ? 0 : reach_of(plan) + step.offset[0] * plan.pitch + step.offset[1];
            const uint32_t line = patch(buffer->at) + (uint32_t)((warpgroup * 64 + shift) * LINE_BYTES);
            barrier_wait(shared_address(&ready[buffer->at]), buffer->parity);
            multiply_patch(tile_descriptor(line), step, slice, sums, totals);
            release(&head->patch_empty[buffer->at]);
            advance(buffer, plan.buffers);
        }
    }

    __device__ __forceinline__ float *lines_of(int32_t warp) const
    {
        return turn + warp * 16 * tile_pitch<BN>();
    }

    /* To the warps that store, when they are done with the sums before; round: how many those are. */
    __device__ __forceinline__ void hand_over(group_sums &sums, int32_t warp, int32_t lane, uint32_t round) const
    {
        barrier_wait(shared_address(&head->sums_empty[warp]), (round & 1) ^ 1);
        turn_sums(sums, lines_of(warp), lane);
        __syncwarp(); /* the arrival is of a warp whose lanes are together */
        arrive<HANDED_OVER>(SUMS_FULL + warp);
    }

    __device__ __forceinline__ void multiply_tiles(int32_t warp, int32_t lane) const
    {
        ring_place slice = {0, 0}, buffer = {0, 0};
        uint32_t round = 0;
#pragma unroll 1
        for (int32_t tile = first_tile; tile < plan.tiles; tile += plan.blocks, ++round) {
            group_sums sums, line; /* of the tile; under FACTORS_SPLIT of a line of taps, to be added to the others */
            clear(sums);
            clear(line);
            multiply_tile(warp / 4, &slice, &buffer, PARTS == 2 ? line : sums, sums);
            hand_over(sums, warp, lane, round);
        }
    }

    /* ---- storing */

    __device__ __forceinline__ stored_pixel place_in_memory(const pixel_place &place) const
    {
        stored_pixel pixel = memory_of(plan, phase, place);
        if (pixel.at >= 0) pixel.at += part() * conv.pixels;
        return pixel;
    }

    /* part: of the STORERS warps for the same pixels: those before and after the middle. */
    __device__ __forceinline__ void store_tiles(int32_t warp, int32_t part, int32_t lane) const
    {
        constexpr int LINES = 16 / STORERS, ASKED = BN < 64 || FACTORS != FACTORS_BF16 ? 1 : 2;
        constexpr bool AHEAD = BN == 128;
        const int32_t first = warp * 16 + part * LINES;
        const float *lines = turn + first * tile_pitch<BN>();
        stored_pixel *places = head->places[warp][part];
        const auto pixel_of = [=](int32_t r) { return places[r]; };
        const auto load_bias = [this](int32_t n, float *bias) {
            const float4 *from = reinterpret_cast<const float4 *>(head->bias + n - n0);
            const float4 low = from[0], high = from[1];
            bias[0] = low.x, bias[1] = low.y, bias[2] = low.z, bias[3] = low.w;
            bias[4] = high.x, bias[5] = high.y, bias[6] = high.z, bias[7] = high.w;
        };
        const cuda_product &product = conv.product;
        pixel_place place = find_pixel(plan, first_tile * TILE + reach_of(plan) + first + lane % LINES);
#pragma unroll 1
        for (int32_t tile = first_tile; tile < plan.tiles; tile += plan.blocks) {
            if (lane < LINES) places[lane] = place_in_memory(place);
            next_pixel(plan, &place);
            __syncwarp();
            const auto wait_for_sums = [=] {
                __syncwarp();
                meet<HANDED_OVER>(SUMS_FULL + warp);
            };
            if (!AHEAD) wait_for_sums();
            if (conv.wide) {
                store_wide<typename shape::number, BN, ASKED, AHEAD, false>(product, member->places, lines, lane, LINES,
                                                                            n0, pixel_of, load_bias, wait_for_sums,
                                                                            [](int32_t, int32_t, const float *) {});
            } else {
                if (AHEAD) wait_for_sums();
                store_narrow<BN>(product, member->places, lines, lane, LINES, n0, pixel_of);
            }
            release(&head->sums_empty[warp]);
        }
    }
};

/* By all threads of a block. */
template <int WARPS, int STORERS> static __device__ __forceinline__ void open_barriers(tma_head *head)
{
    const int32_t tid = (int32_t)threadIdx.x;
    if (tid < MAX_STAGES) {
        barrier_open(shared_address(&head->weights_full[tid]), 1);
        barrier_open(shared_address(&head->weights_empty[tid]), WARPS);
    } else if (tid < MAX_STAGES + MAX_BUFFERS) {
        barrier_open(shared_address(&head->patch_full[tid - MAX_STAGES]), 1);
        barrier_open(shared_address(&head->patch_split[tid - MAX_STAGES]), SPLITTERS);
        barrier_open(shared_address(&head->patch_empty[tid - MAX_STAGES]), WARPS);
    } else if (tid >= 32 && tid < 32 + MAX_WARPS) {
        barrier_open(shared_address(&head->sums_empty[tid - 32]), STORERS);
    } else if (tid >= 32 + MAX_WARPS && tid < 32 + MAX_WARPS + MAX_WARPS / 4) {
        barrier_open(shared_address(&head->stored[tid - 32 - MAX_WARPS]), STORERS * 4);
    }
    if (tid < 64) barriers_opened();
    __syncthreads();
}

#endif /* CUDA_HAS_WARPGROUPS */

template <int FACTORS, bool RESIDENT, int GROUPS, int BN, int EDGE>
__global__ void __launch_bounds__(tma_shape<FACTORS, GROUPS, BN>::THREADS, GROUPS == 1 ? 2 : 1)
    tma_kernel(const __grid_constant__ tma_plan plan)
{
#if CUDA_HAS_WARPGROUPS
    using block_type = tma_block<FACTORS, RESIDENT, GROUPS, BN, EDGE>;
    constexpr int WARPS = block_type::WARPS, STORING = block_type::STORERS * WARPS, PARTS = block_type::PARTS;
    extern __shared__ __align__(1024) unsigned char shared[];
    const int32_t tid = (int32_t)threadIdx.x, lane = tid % 32;
    const int32_t warp = __shfl_sync(0xffffffffu, tid / 32, 0); /* so that the compiler sees that it is the warp's */
    tma_head *head = reinterpret_cast<tma_head *>(shared);
    const uint32_t weights = HEAD_BYTES;
    const uint32_t patches = weights + (uint32_t)plan.stages * (RESIDENT ? block_type::TAPS : 1) * block_type::SLICE;
    const uint32_t turn = patches + plan.buffers * PARTS * plan.patch_lines * LINE_BYTES;
    const int32_t number = (int32_t)blockIdx.x / plan.blocks;
    const block_type block = {{},
                              plan,
                              plan.conv,
                              &plan.members[number],
                              head,
                              reinterpret_cast<float *>(shared + turn),
                              shared_address(shared) + weights,
                              shared_address(shared) + patches,
                              (int32_t)blockIdx.y * BN,
                              plan.conv.product.geometry.phases_out ? (int32_t)blockIdx.z : 0,
                              (int32_t)blockIdx.x - number * plan.blocks};
    open_barriers<WARPS, block_type::STORERS>(head);
    begin_kernel();
    const float *bias = block.member->places.bias;
    if (tid >= WARPS * 32 && tid < WARPS * 32 + BN) {
        const int32_t n = tid - WARPS * 32;
        head->bias[n] = bias && block.n0 + n < plan.conv.product.out_channels ? bias[block.n0 + n] : 0.0f;
    }
    if (warp < WARPS) {
        block.multiply_tiles(warp, lane);
    } else if (warp < WARPS + STORING) {
        __syncwarp(); /* half of a warp may have fetched a bias */
        meet<STORING * 32>(BIAS_THERE);
        block.store_tiles((warp - WARPS) % WARPS, (warp - WARPS) / WARPS, lane);
    } else if (tid == block_type::THREADS - 32) {
        block.load_tiles();
    } else if (PARTS == 2 && warp < WARPS + STORING + SPLITTERS) {
        block.split_patches(shared + patches, tid - (WARPS + STORING) * 32);
    }
#endif
}

/* ---- products in succession: each block makes all of them for its own images. A result stays in shared memory as the
 * patch of the next product: two sets of patches, one for products 0, 2, ..., one for the others, where pixels of zeros
 * are zeros from the beginning. A warpgroup's 64 pixels are whole images: it waits for its own results alone, and one
 * multiplies while the other's are stored. */

struct tma_succession {
    tma_plan plan; /* its members are one after another */
    cuda_product products[MAX_TOGETHER];
};

#if CUDA_HAS_WARPGROUPS

template <int GROUPS, int BN> struct succession_block : public tma_block<FACTORS_BF16, false, GROUPS, BN, 3> {
    using base = tma_block<FACTORS_BF16, false, GROUPS, BN, 3>;
    using base::plan, base::conv, base::head, base::first_tile, base::STORERS, base::TILE, base::WARPS;
    const tma_succession &all;
    unsigned char *patches; /* base::patches */

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
            *reinterpret_cast<uint4 *>(patches + bytes + i) = make_uint4(0, 0, 0, 0);
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
        constexpr int LINES = 16 / STORERS;
        constexpr bool AHEAD = BN == 128;
        const int32_t first = warp * 16 + part * LINES;
        const float *lines = this->turn + first * tile_pitch<BN>();
        stored_pixel *places = head->places[warp][part];
        const auto pixel_of = [=](int32_t r) { return places[r]; };
        const auto wait_for_sums = [=] {
            __syncwarp();
            meet<base::HANDED_OVER>(SUMS_FULL + warp);
        };
        const pixel_place place = find_pixel(plan, first_tile * TILE + reach_of(plan) + first + lane % LINES);
        if (lane < LINES) places[lane] = memory_of(plan, 0, place);
        __syncwarp();
#pragma unroll 1
        for (int32_t k = 0; k < plan.count; ++k) {
            const uint32_t line = (uint32_t)(reach_of(plan) + first);
            unsigned char *set = patches + patch_number(k + 1, 0) * plan.patch_lines * LINE_BYTES;
            const auto keep = [=](int32_t r, int32_t vector, const float *v) {
                unsigned char *patch = set + vector / CHUNKS * plan.patch_lines * LINE_BYTES;
                put_words(patch + chunk_place(line + (uint32_t)r, (uint32_t)(vector % CHUNKS)), v);
            };
            if (!AHEAD) wait_for_sums();
            store_wide<__nv_bfloat16, BN, 2, AHEAD, false>(all.products[k], plan.members[k].places, lines, lane, LINES,
                                                           0, pixel_of, bias_in_memory(all.products[k]), wait_for_sums,
                                                           keep);
            publish_copies();
            release(&head->sums_empty[warp]);
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

static int suits(const conv_plan *plan)
{
    const cuda_product *product = &plan->product;
    return product->shrink == 1 && product->epilogue.window == 1 && taps_are_near(&product->geometry);
}

static mmebm_status describe_source(const mmebm_device *device, const tma_plan *plan, const cuda_product *product,
                                    tma_member *member)
{
    const cuda_geometry *g = &product->geometry;
    const cuda_tensor *source = &product->source;
    const int32_t step = g->phases_in ? 2 : 1;
    const int32_t factors = product->factors;
    const size_t number = factors == FACTORS_BF16 ? sizeof(__nv_bfloat16) : sizeof(float);
    const CUtensorMapDataType type = factors == FACTORS_BF16   ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                     : factors == FACTORS_TF32 ? CU_TENSOR_MAP_DATA_TYPE_TFLOAT32
                                                               : CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
    const cuuint64_t pixel = (cuuint64_t)source->stride * number, line = pixel * step * g->in[1];
    const cuuint64_t size[4] = {(cuuint64_t)source->channels, (cuuint64_t)g->in[1], (cuuint64_t)g->in[0],
                                (cuuint64_t)product->rows};
    const cuuint64_t strides[3] = {pixel * step, line * step, line * step * g->in[0]};
    const int first[2] = {-plan->zeros, -plan->zeros}, last[2] = {0, 0};
    const cuuint32_t every[4] = {1, 1, 1, 1};
    for (int phase = 0; phase < (g->phases_in ? (int)PHASES : 1); ++phase) {
        char *data = static_cast<char *>(source->data) + (phase >> 1) * line + (phase & 1) * pixel;
        const CUresult code = reinterpret_cast<decltype(&cuTensorMapEncodeIm2col)>(device->encode_pixels)(
            &member->source[phase], type, 4, data, size, strides, first, last,
            (cuuint32_t)line_channels(factors), (cuuint32_t)plan->patch_lines, every, CU_TENSOR_MAP_INTERLEAVE_NONE,
            CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
        if (code != CUDA_SUCCESS)
            return device->host.fail(device->host.owner, MMEBM_E_BACKEND, "cuda: cuTensorMapEncodeIm2col: error %d",
                                     (int)code);
    }
    return MMEBM_OK;
}

mmebm_status mmebm__cuda_describe_sources(const mmebm_device *device, tma_plan *plan, const conv_plan *plans)
{
    for (int32_t k = 0; k < plan->count; ++k)
        CUDA_TRY(describe_source(device, plan, &plans[k].product, &plan->members[k]));
    return MMEBM_OK;
}

/* Shared memory's parts; returns its size, 0 if they do not fit. */
template <int FACTORS, bool RESIDENT, int GROUPS, int BN, int EDGE>
static size_t divide_shared(const mmebm_device *device, tma_plan *plan)
{
    using shape = tma_shape<FACTORS, GROUPS, BN>;
    const size_t budget = GROUPS == 1 ? (size_t)HALF_SHARED : device->block_shared;
    const size_t patch = (size_t)shape::PARTS * plan->patch_lines * LINE_BYTES;
    const size_t fixed = HEAD_BYTES + turn_bytes<GROUPS, BN>() + 2 * patch;
    const int32_t groups = plan->conv.groups;
    const size_t stage = (size_t)shape::SLICE * (RESIDENT ? EDGE * EDGE : 1);
    const size_t fewest = RESIDENT ? (size_t)groups : (size_t)FEWEST_STREAMED;
    if (fewest > MAX_STAGES || fixed + fewest * stage > budget) return 0;
    const size_t fit = (budget - fixed) / stage;
    plan->stages = RESIDENT ? groups : fit < MOST_STREAMED ? (int32_t)fit : (int32_t)MOST_STREAMED;
    const size_t more = (budget - fixed - plan->stages * stage) / patch, most = MAX_BUFFERS - 2;
    plan->buffers = 2 + (int32_t)(more < most ? more : most);
    return fixed + (plan->buffers - 2) * patch + plan->stages * stage;
}

static void count_tiles(tma_plan *plan, int32_t tile)
{
    plan->patch_lines = (tile + 2 * reach_of(*plan) + 7) / 8 * 8;
    plan->tiles = (plan->pixels - reach_of(*plan) + tile - 1) / tile;
}

template <int FACTORS, bool RESIDENT, int GROUPS, int BN, int EDGE>
static mmebm_status launch_edge(const mmebm_device *device, tma_plan *plan, const conv_plan *plans, int *done)
{
    using shape = tma_shape<FACTORS, GROUPS, BN>;
    const int32_t tile = shape::TILE;
    count_tiles(plan, tile);
    if (plan->patch_lines > MAX_PATCH_LINES) return MMEBM_OK;
    const size_t shared = divide_shared<FACTORS, RESIDENT, GROUPS, BN, EDGE>(device, plan);
    if (!shared) return MMEBM_OK;
    *done = 1;
    if (!plan->pixels) return MMEBM_OK;
    CUDA_TRY(mmebm__cuda_describe_sources(device, plan, plans));
    CUDA_TRY(mmebm__cuda_check(device,
                               cudaFuncSetAttribute(tma_kernel<FACTORS, RESIDENT, GROUPS, BN, EDGE>,
                                                    cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared),
                               "shared memory of a convolution"));
    dim3 grid(1, (unsigned)((plan->conv.product.out_channels + BN - 1) / BN),
              plan->conv.product.geometry.phases_out ? (unsigned)PHASES : (unsigned)plan->conv.parts);
    /* no more blocks than there is room for, with the same number of tiles each */
    const int32_t across = (int32_t)(grid.y * grid.z) * plan->count;
    const int32_t room = device->processors * (GROUPS == 1 ? 2 : 1);
    const int32_t most = room > across ? room / across : 1, rounds = (plan->tiles + most - 1) / most;
    plan->blocks = (plan->tiles + rounds - 1) / rounds;
    grid.x = (unsigned)(plan->blocks * plan->count);
    const int32_t further = plan->blocks * tile;
    plan->step = {further / plan->image, further % plan->image / plan->pitch, further % plan->pitch};
    return mmebm__cuda_launch(device, "convolution", tma_kernel<FACTORS, RESIDENT, GROUPS, BN, EDGE>, grid,
                              shape::THREADS, shared, *plan);
}

/* Weights of bf16 are resident if they fit. */
template <int FACTORS, int GROUPS, int BN, int EDGE>
static mmebm_status launch_either(const mmebm_device *device, tma_plan *plan, const conv_plan *plans, int *done)
{
    if constexpr (FACTORS == FACTORS_BF16) {
        CUDA_TRY((launch_edge<FACTORS, true, GROUPS, BN, EDGE>(device, plan, plans, done)));
        if (*done) return MMEBM_OK;
    }
    return launch_edge<FACTORS, false, GROUPS, BN, EDGE>(device, plan, plans, done);
}

template <int FACTORS, int GROUPS, int BN>
static mmebm_status launch(const mmebm_device *device, tma_plan *plan, const conv_plan *plans, int *done)
{
    switch (plan->conv.product.geometry.kernel[0]) {
    case 1: return launch_either<FACTORS, GROUPS, BN, 1>(device, plan, plans, done);
    case 2: return launch_either<FACTORS, GROUPS, BN, 2>(device, plan, plans, done);
    default: return launch_either<FACTORS, GROUPS, BN, 3>(device, plan, plans, done);
    }
}

/* Tiles as large as the pixels allow. */
static mmebm_status launch_bf16(const mmebm_device *device, tma_plan *plan, const conv_plan *plans, int *done)
{
    const int64_t across =
        (plan->conv.product.geometry.phases_out ? (int64_t)PHASES : 1) * ((plan->conv.padded + 127) / 128);
    const int64_t tiles = plan->pixels / 128 * across * plan->count, processors = device->processors;
    switch (plan->conv.padded) {
    case 16: return launch<FACTORS_BF16, 2, 16>(device, plan, plans, done);
    case 32: return launch<FACTORS_BF16, 2, 32>(device, plan, plans, done);
    case 64:
        return tiles < processors ? launch<FACTORS_BF16, 1, 64>(device, plan, plans, done)
                                  : launch<FACTORS_BF16, 2, 64>(device, plan, plans, done);
    case 80: return launch<FACTORS_BF16, 2, 80>(device, plan, plans, done);
    default: break;
    }
    if (4 * tiles >= 3 * processors) return launch<FACTORS_BF16, 2, 128>(device, plan, plans, done);
    return tiles >= processors / 2 ? launch<FACTORS_BF16, 1, 128>(device, plan, plans, done)
                                   : launch<FACTORS_BF16, 1, 64>(device, plan, plans, done);
}

/* One tile for a shape, whatever the rows: another kernel would give other bits. WIDEST: channels at once. */
template <int FACTORS, int WIDEST>
static mmebm_status launch_f32(const mmebm_device *device, tma_plan *plan, const conv_plan *plans, int *done)
{
    switch (plan->conv.padded) {
    case 16: return launch<FACTORS, 2, 16>(device, plan, plans, done);
    case 32: return launch<FACTORS, 2, 32>(device, plan, plans, done);
    case 64: return launch<FACTORS, 2, 64>(device, plan, plans, done);
    case 80: return launch<FACTORS, 2, 80>(device, plan, plans, done);
    default: return launch<FACTORS, 2, WIDEST>(device, plan, plans, done);
    }
}

/* What is stored of a part is its sums: one set of partial results after another. */
static cuda_epilogue parts_stored(const conv_plan *conv)
{
    cuda_epilogue end = {};
    end.source_scale = end.scale = 1.0f;
    end.window = end.residual.shrink = 1;
    end.raw.data = conv->product.partials;
    end.raw.type = TYPE_F32;
    end.raw.channels = end.raw.stride = conv->padded;
    return end;
}

/* Pixels and places of `count` products; false if they are too many. */
static bool open_plan(const conv_plan *plans, int32_t count, tma_plan *plan)
{
    const cuda_geometry *g = &plans->product.geometry;
    memset(plan, 0, sizeof *plan);
    plan->conv = *plans;
    plan->count = count;
    if (plans->parts > 1) {
        plan->conv.product.epilogue = parts_stored(plans);
        plan->conv.product.out_channels = plans->padded;
        plan->conv.wide = 1;
    }
    plan->zeros = g->kernel[0] > 1;
    plan->pitch = g->in[1] + plan->zeros;
    plan->image = plan->pitch * (g->in[0] + plan->zeros);
    for (int32_t k = 0; k < count; ++k) {
        plan->members[k].weights = plans[k].product.weights;
        plan->members[k].places = own_places(plans->parts > 1 ? parts_stored(&plans[k]) : plans[k].product.epilogue);
    }
    const int64_t pixels = plans->product.rows * plan->image;
    plan->pixels = (int32_t)pixels;
    return pixels <= INT32_MAX - 2 * MAX_PATCH_LINES;
}

mmebm_status mmebm__cuda_products_tma(const mmebm_device *device, const conv_plan *plans, int32_t count, int *done)
{
    tma_plan plan;
    *done = 0;
    if (!device->encode_pixels || !suits(plans) || !open_plan(plans, count, &plan)) return MMEBM_OK;
    CUDA_TRY(mmebm__cuda_products_narrow(device, &plan, plans, done));
    if (*done) return MMEBM_OK;
    switch (plans->product.factors) {
    case FACTORS_TF32: return launch_f32<FACTORS_TF32, 128>(device, &plan, plans, done);
    case FACTORS_SPLIT: return launch_f32<FACTORS_SPLIT, 64>(device, &plan, plans, done);
    default: return launch_bf16(device, &plan, plans, done);
    }
}

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
    if (!device->encode_pixels || !open_plan(plans, count, &plan)) return MMEBM_OK;
    const bool few = plan.pixels / 128 * 4 < 3 * device->processors;
    if (plans->padded == 64)
        return few ? launch_succession<1, 64>(device, &plan, plans, done)
                   : launch_succession<2, 64>(device, &plan, plans, done);
    return few ? launch_succession<1, 128>(device, &plan, plans, done)
               : launch_succession<2, 128>(device, &plan, plans, done);
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * What a block of products by the copy engine is made of (cuda_conv_tma.cu, cuda_conv_succession.cu). Its warps have
 * one job each: some multiply, both factors from shared memory; some store the sums, which they get through shared
 * memory; one asks the copy engine for patches and weights, ahead of their use. The patch of lines around a tile's
 * pixels is copied once for each chunk of channels, and each tap's left factor is the patch from another line on.
 * Weights are resident, copied once, where they fit, or stream, a slice of 128 bytes for each (chunk, tap).
 *
 * Under FACTORS_SPLIT every number is the sum of two of tf32, high and low. Of the patch, some warps more make the two;
 * of weights the packing did. What is summed is high high + high low + low high; low low is below f32's precision. The
 * tensor cores drop what does not fit the sum, always toward zero, so that no more than a line of taps is added up
 * there and the rest by ordinary additions.
 */
#ifndef MMEBM_CUDA_CONV_BLOCK_H
#define MMEBM_CUDA_CONV_BLOCK_H

#include <type_traits>

#include "cuda_conv_tma.h"

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
    stored_pixel places[MAX_WARPS][2 * 16]; /* of two tiles, for the warps that store what one multiplies */
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

template <int FACTORS, bool RESIDENT, int GROUPS, int BN, int EDGE>
struct tma_block : public tma_shape<FACTORS, GROUPS, BN> {
    using shape = tma_shape<FACTORS, GROUPS, BN>;
    using shape::PART, shape::PARTS, shape::SLICE, shape::STORERS, shape::TILE, shape::WARPS;
    static constexpr int TAPS = EDGE * EDGE, LINES = 16 / STORERS; /* that a warp stores */
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
            copy_bulk(target + part * PART, weight_slice(conv, of->weights, phase, number, n0, PARTS, part), PART,
                      full);
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

    __device__ __forceinline__ void wait_for_sums(int32_t warp) const
    {
        __syncwarp();
        meet<HANDED_OVER>(SUMS_FULL + warp);
    }

    __device__ __forceinline__ auto bias_of_block() const
    {
        return [this](int32_t n, float *bias) {
            const float4 *from = reinterpret_cast<const float4 *>(head->bias + n - n0);
            const float4 low = from[0], high = from[1];
            bias[0] = low.x, bias[1] = low.y, bias[2] = low.z, bias[3] = low.w;
            bias[4] = high.x, bias[5] = high.y, bias[6] = high.z, bias[7] = high.w;
        };
    }

    /* place: that of the warp's pixel `lane` of the block's first tile. What a step reads is asked for before the step
     * in front is finished, in the next tile too, so that memory is always at work; the first round only asks. */
    __device__ __forceinline__ void store_by_vectors(int32_t warp, const float *lines, stored_pixel *places,
                                                     pixel_place place, int32_t lane) const
    {
        typedef typename shape::number number;
        constexpr int ASKED = BN < 64 || FACTORS != FACTORS_BF16 ? 1 : 2;
        using store = wide_store<number, BN, ASKED>;
        constexpr int STEPS = store::steps(LINES);
        const store wide(conv.product, member->places, lane, n0, bias_of_block());
        asked_pixels<number, ASKED> next;
        int32_t set = 0;
#pragma unroll 1
        for (int32_t tile = first_tile - plan.blocks; tile < plan.tiles; tile += plan.blocks, set ^= LINES) {
            const stored_pixel *present = places + (set ^ LINES), *following = places + set;
            const bool begun = tile >= first_tile;
            if (lane < LINES) places[set + lane] = place_in_memory(place);
            next_pixel(plan, &place);
            __syncwarp();
#pragma unroll 1
            for (int32_t step = begun ? 0 : STEPS - 1; step < STEPS; ++step) {
                const asked_pixels<number, ASKED> asked = next;
                const bool last = step == STEPS - 1;
                const stored_pixel *of = last ? following : present;
                wide.ask(last ? 0 : step + 1, LINES, [=](int32_t r) { return of[r]; }, &next);
                if (!begun) continue;
                if (step == 0) wait_for_sums(warp);
                wide.template finish<false>(step, lines, 0, asked, keep_nothing());
            }
            if (begun) release_by_lanes(&head->sums_empty[warp]);
        }
    }

    __device__ __forceinline__ void store_by_numbers(int32_t warp, const float *lines, stored_pixel *places,
                                                     pixel_place place, int32_t lane) const
    {
#pragma unroll 1
        for (int32_t tile = first_tile; tile < plan.tiles; tile += plan.blocks) {
            if (lane < LINES) places[lane] = place_in_memory(place);
            next_pixel(plan, &place);
            wait_for_sums(warp);
            store_narrow<BN>(conv.product, member->places, lines, lane, LINES, n0,
                             [=](int32_t r) { return places[r]; });
            release_by_lanes(&head->sums_empty[warp]);
        }
    }

    /* part: of the STORERS warps for the same pixels: those before and after the middle. */
    __device__ __forceinline__ void store_tiles(int32_t warp, int32_t part, int32_t lane) const
    {
        const int32_t first = warp * 16 + part * LINES;
        const float *lines = turn + first * tile_pitch<BN>();
        stored_pixel *places = head->places[warp] + part * 2 * LINES;
        const pixel_place place = find_pixel(plan, first_tile * TILE + reach_of(plan) + first + lane % LINES);
        if (conv.wide)
            store_by_vectors(warp, lines, places, place, lane);
        else
            store_by_numbers(warp, lines, places, place, lane);
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
        barrier_open(shared_address(&head->sums_empty[tid - 32]), STORERS * 32);
    } else if (tid >= 32 + MAX_WARPS && tid < 32 + MAX_WARPS + MAX_WARPS / 4) {
        barrier_open(shared_address(&head->stored[tid - 32 - MAX_WARPS]), STORERS * 4);
    }
    if (tid < 64) barriers_opened();
    __syncthreads();
}

#endif /* CUDA_HAS_WARPGROUPS */

#endif /* MMEBM_CUDA_CONV_BLOCK_H */

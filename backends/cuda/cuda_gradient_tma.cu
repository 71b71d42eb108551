/* SPDX-License-Identifier: Apache-2.0
 *
 * Weight gradients of same-size 3 x 3 convolutions of bf16 numbers on sm_90a. Pixels are numbered as cuda_conv_tma.h
 * says, with zeros between lines and images; both sides are copied in that order, lines of 64 channels, and are wanted
 * channel by channel, which the tensor cores read from such lines as well:
 *   gradient[s][tap][l] = sum over pixels k: small[k][s] * large[k + distance(tap)][l]
 * So a step is 128 pixels of the small side and a patch of the large one, and each tap's factor is the patch from
 * another line on. The three taps of a line lie one line apart: they are a single product of 64 by 3 x 64 channels.
 * Zeros of the small side add nothing, wherever the large side's lines beside them lie.
 *
 * A block makes 64 x 64 channels at all taps over one part of the pixels, a warpgroup for each line of taps. Parts
 * depend on the layer's shape alone.
 */
#include "cuda_conv_tma.h"
#include "cuda_gradient.h"
#include "cuda_launch.h"

enum {
    EDGE = 3,
    TAPS = EDGE * EDGE,
    STEP = 128, /* pixels */
    STEP_BYTES = STEP * LINE_BYTES,
    DEEP = 16,            /* pixels of a product */
    PART_PIXELS = 1024,   /* at least, about */
    FEWEST_CHANNELS = 32, /* of a side: of fewer the other kernel puts several taps into a tile */
    WARPS = EDGE * 4,     /* that multiply */
    GRADIENT_THREADS = WARPS * 32 + 32,
    BIAS_LINE = 1, /* the line of taps whose warpgroup sums the bias too */
    FEWEST_STAGES = 3,
    MOST_STAGES = 5,
    SLACK_BYTES = EDGE * DEEP * LINE_BYTES, /* checkers of memory take the taps of a product to lie one after another */
    TURN_PITCH = TAPS * LINE_CHANNELS + 8, /* numbers; neighbouring lines meet different banks */
    TURN_BYTES = LINE_CHANNELS * TURN_PITCH * 4,
    ALL_MULTIPLIED = 1 /* a barrier of the warps that multiply */
};

struct gradient_head {
    uint64_t full[MOST_STAGES], empty[MOST_STAGES];
    alignas(16) __nv_bfloat16 ones[DEEP * LANES];
};
enum { GRADIENT_HEAD_BYTES = 1024 }; /* stages begin at multiples of that */
static_assert(sizeof(gradient_head) <= GRADIENT_HEAD_BYTES, "the head's place");

struct gradient_tma_plan {
    CUtensorMap small_map, large_map;
    cuda_weight_gradient call;
    part_target target;
    int32_t pitch, image, zeros; /* as in tma_plan */
    int32_t patch_lines, stages;
    int32_t steps, part_steps, first_part;
};

#if CUDA_HAS_WARPGROUPS

struct gradient_block {
    const gradient_tma_plan &plan;
    gradient_head *head;
    uint32_t stages; /* in shared memory: pixels of the small side, then the patch */
    int32_t small0, large0, first_step, end_step;

    __device__ __forceinline__ uint32_t stage(int32_t at) const
    {
        return stages + (uint32_t)at * (STEP_BYTES + plan.patch_lines * LINE_BYTES);
    }

    /* One thread. The patch of a step begins as far before its pixels as taps reach. */
    __device__ __forceinline__ void load_steps() const
    {
        ring_place ring = {0, 0};
#pragma unroll 1
        for (int32_t step = first_step; step < end_step; ++step, advance(&ring, plan.stages)) {
            const uint32_t full = shared_address(&head->full[ring.at]);
            const pixel_place pixel = find_pixel(plan, step * STEP + reach_of(plan));
            const pixel_place patch = find_pixel(plan, step * STEP);
            barrier_wait(shared_address(&head->empty[ring.at]), ring.parity ^ 1);
            barrier_announce(full, (uint32_t)(STEP_BYTES + plan.patch_lines * LINE_BYTES));
            copy_pixels(stage(ring.at), &plan.small_map, small0, pixel.x, pixel.y, pixel.row, full);
            copy_pixels(stage(ring.at) + STEP_BYTES, &plan.large_map, large0, patch.x, patch.y, patch.row, full);
        }
    }

    /* A warpgroup, of its line of taps. */
    template <bool WITH_BIAS>
    __device__ __forceinline__ void multiply_steps(int32_t line, float (&sums)[EDGE * 8][4], float (&bias)[1][4]) const
    {
        ring_place ring = {0, 0};
        int32_t before = 0;
        const uint64_t ones = constant_descriptor(shared_address(head->ones));
#pragma unroll 1
        for (int32_t step = first_step; step < end_step; ++step, advance(&ring, plan.stages)) {
            const uint64_t left = column_descriptor(stage(ring.at), 0);
            const uint64_t right =
                column_descriptor(stage(ring.at) + STEP_BYTES + (uint32_t)(line * plan.pitch) * LINE_BYTES, LINE_BYTES);
            barrier_wait(shared_address(&head->full[ring.at]), ring.parity);
            warpgroup_fence();
#pragma unroll
            for (int k = 0; k < STEP / DEEP; ++k) {
                const uint32_t further = (uint32_t)(k * DEEP * LINE_BYTES / UNIT);
                multiply_columns(sums, left + further, right + further);
                if (WITH_BIAS) multiply_columns(bias, left + further, ones);
            }
            warpgroup_commit();
            warpgroup_wait<1>();
            if (step > first_step) release(&head->empty[before]);
            before = ring.at;
        }
        warpgroup_wait<0>();
    }

    /* To lines of a small channel each, in the memory of the stages, which all warps are done with. */
    __device__ __forceinline__ void turn(int32_t line, const float (&sums)[EDGE * 8][4], float *lines) const
    {
        const int32_t lane = (int32_t)threadIdx.x % 32, warp = (int32_t)threadIdx.x / 32 % 4;
        float *to = lines + (warp * 16 + lane / 4) * TURN_PITCH + line * EDGE * LINE_CHANNELS + lane % 4 * 2;
#pragma unroll
        for (int j = 0; j < EDGE * 8; ++j)
#pragma unroll
            for (int k = 0; k < 4; k += 2)
                *reinterpret_cast<float2 *>(to + k / 2 * 8 * TURN_PITCH + j * 8) =
                    make_float2(sums[j][k], sums[j][k + 1]);
    }

    /* A warp stores the channels of a tap at once. */
    __device__ __forceinline__ void store(const float *lines, float *out) const
    {
        const cuda_weight_gradient &call = plan.call;
        const int32_t lane = (int32_t)threadIdx.x % 32;
        const int32_t lines_used = min(call.small_channels - small0, (int)LINE_CHANNELS);
        const int32_t channels = min(call.large_channels - large0, (int)LINE_CHANNELS);
#pragma unroll 4
        for (int32_t row = (int32_t)threadIdx.x / 32; row < lines_used * TAPS; row += WARPS) {
            const float *from = lines + row / TAPS * TURN_PITCH + row % TAPS * LINE_CHANNELS;
            float *to = out + (int64_t)(small0 * TAPS + row) * call.large_channels + large0;
            if (lane < channels) to[lane] = from[lane];
            if (lane + 32 < channels) to[lane + 32] = from[lane + 32];
        }
    }

    /* All columns of a bias are the same. */
    __device__ __forceinline__ void store_bias(const float (&bias)[1][4], float *out) const
    {
        const int32_t lane = (int32_t)threadIdx.x % 32, first = small0 + (int32_t)threadIdx.x / 32 % 4 * 16 + lane / 4;
#pragma unroll
        for (int k = 0; k < 4; k += 2)
            if (lane % 4 == 0 && first + k / 2 * 8 < plan.call.small_channels)
                out[plan.target.first_count + first + k / 2 * 8] = bias[0][k];
    }
};

#endif /* CUDA_HAS_WARPGROUPS */

static __global__ void __launch_bounds__(GRADIENT_THREADS, 1)
    gradient_tma_kernel(const __grid_constant__ gradient_tma_plan plan)
{
#if CUDA_HAS_WARPGROUPS
    extern __shared__ __align__(1024) unsigned char shared[];
    gradient_head *head = reinterpret_cast<gradient_head *>(shared);
    const int32_t tid = (int32_t)threadIdx.x, warp = __shfl_sync(0xffffffffu, tid / 32, 0);
    const int32_t part = (int32_t)blockIdx.z + plan.first_part, first = part * plan.part_steps;
    const gradient_block block = {plan,
                                  head,
                                  shared_address(shared) + GRADIENT_HEAD_BYTES,
                                  (int32_t)blockIdx.x * LINE_CHANNELS,
                                  (int32_t)blockIdx.y * LINE_CHANNELS,
                                  first,
                                  min(first + plan.part_steps, plan.steps)};
    if (tid < MOST_STAGES) {
        barrier_open(shared_address(&head->full[tid]), 1);
        barrier_open(shared_address(&head->empty[tid]), WARPS);
        barriers_opened();
    }
    if (tid < DEEP * (int)LANES) head->ones[tid] = __float2bfloat16(1.0f);
    publish_copies();
    __syncthreads();
    begin_kernel();
    if (warp == WARPS) {
        if (tid == WARPS * 32) block.load_steps();
        return;
    }
    float sums[EDGE * 8][4] = {}, bias[1][4] = {};
    const int32_t line = warp / 4;
    const bool with_bias = plan.call.bias && line == BIAS_LINE && blockIdx.y == 0;
    if (with_bias)
        block.multiply_steps<true>(line, sums, bias);
    else
        block.multiply_steps<false>(line, sums, bias);
    float *out = plan.call.partials + (int64_t)blockIdx.z * plan.target.count;
    if (with_bias) block.store_bias(bias, out);
    float *lines = reinterpret_cast<float *>(shared + GRADIENT_HEAD_BYTES);
    meet<WARPS * 32>(ALL_MULTIPLIED);
    block.turn(line, sums, lines);
    meet<WARPS * 32>(ALL_MULTIPLIED);
    block.store(lines, out);
#endif
}

/* ---- launching */

static int side_suits(const cuda_tensor *side, int32_t shrink)
{
    return shrink == 1 && !side->period && side->type == TYPE_BF16 && lies_in_chunks(side);
}

static int shape_suits(const cuda_geometry *g, int64_t small_channels, int64_t large_channels)
{
    return g->kernel[0] == EDGE && taps_are_near(g) && g->offset[0] == -1 && g->offset[1] == -1 &&
           small_channels >= FEWEST_CHANNELS && large_channels >= FEWEST_CHANNELS;
}

static int64_t tiles_of(int64_t channels)
{
    return (channels + LINE_CHANNELS - 1) / LINE_CHANNELS;
}

/* Of an image, with zeros. */
static int64_t image_pixels(const cuda_geometry *g)
{
    return (int64_t)(g->in[0] + 1) * (g->in[1] + 1);
}

/* As many images as make a block of each tile for every image, or more if they are small. */
static int64_t steps_of_part(const cuda_geometry *g, int64_t small_channels, int64_t large_channels)
{
    const int64_t image = image_pixels(g), wanted = (PART_PIXELS + image - 1) / image;
    const int64_t tiles = tiles_of(small_channels) * tiles_of(large_channels);
    return ((tiles > wanted ? tiles : wanted) * image + STEP - 1) / STEP;
}

int64_t mmebm__cuda_gradient_parts(const cuda_geometry *g, int64_t small_channels, int64_t large_channels, int64_t rows)
{
    if (!shape_suits(g, small_channels, large_channels)) return 0;
    const int64_t part = steps_of_part(g, small_channels, large_channels) * STEP;
    return (rows * image_pixels(g) + part - 1) / part;
}

/* False if too large. */
static bool plan_gradient(const mmebm_device *device, const cuda_weight_gradient *call, gradient_tma_plan *plan)
{
    const cuda_geometry *g = &call->geometry;
    plan->call = *call;
    plan->target = target_of(call, TAPS);
    plan->zeros = 1;
    plan->pitch = g->in[1] + 1;
    plan->image = (int32_t)image_pixels(g);
    plan->patch_lines = (STEP + 2 * reach_of(*plan) + 7) / 8 * 8;
    const int64_t pixels = call->rows * plan->image, stage = STEP_BYTES + plan->patch_lines * LINE_BYTES;
    const int64_t stages = ((int64_t)device->block_shared - GRADIENT_HEAD_BYTES - SLACK_BYTES) / stage;
    plan->stages = (int32_t)(stages < (int64_t)MOST_STAGES ? stages : (int64_t)MOST_STAGES);
    plan->steps = (int32_t)((pixels - reach_of(*plan) + STEP - 1) / STEP);
    plan->part_steps = (int32_t)steps_of_part(g, call->small_channels, call->large_channels);
    return stages >= FEWEST_STAGES && plan->patch_lines <= MAX_PATCH_LINES && pixels <= INT32_MAX - 2 * MAX_PATCH_LINES;
}

static mmebm_status describe_side(const mmebm_device *device, const gradient_tma_plan *plan, const cuda_tensor *side,
                                  int32_t lines, CUtensorMap *map)
{
    const cuda_geometry *g = &plan->call.geometry;
    const tma_pixels pixels = {side->data,
                               FACTORS_BF16,
                               side->channels,
                               g->in[0],
                               g->in[1],
                               1,
                               side->stride * (int64_t)sizeof(__nv_bfloat16),
                               plan->call.rows,
                               plan->zeros,
                               lines};
    return mmebm__cuda_describe_pixels(device, &pixels, map);
}

mmebm_status mmebm__cuda_gradient_tma(const mmebm_device *device, const cuda_weight_gradient *call, int *done)
{
    gradient_tma_plan plan = {};
    *done = device->encode_pixels && call->factors == FACTORS_BF16 &&
            shape_suits(&call->geometry, call->small_channels, call->large_channels) &&
            side_suits(&call->small_side, call->small_shrink) && side_suits(&call->large_side, call->large_shrink) &&
            plan_gradient(device, call, &plan);
    if (!*done || !call->rows) return MMEBM_OK;
    const int staged = plan.stages * (STEP_BYTES + plan.patch_lines * LINE_BYTES) + SLACK_BYTES;
    const int bytes = GRADIENT_HEAD_BYTES + (staged > TURN_BYTES ? staged : (int)TURN_BYTES);
    CUDA_TRY(describe_side(device, &plan, &call->small_side, STEP, &plan.small_map));
    CUDA_TRY(describe_side(device, &plan, &call->large_side, plan.patch_lines, &plan.large_map));
    CUDA_TRY(mmebm__cuda_check(
        device, cudaFuncSetAttribute(gradient_tma_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
        "shared memory of a weight gradient"));
    const int32_t parts = (plan.steps + plan.part_steps - 1) / plan.part_steps;
    for (; plan.first_part < parts; plan.first_part += MAX_PARTS) {
        const int now = parts - plan.first_part < MAX_PARTS ? parts - plan.first_part : (int)MAX_PARTS;
        const dim3 grid((unsigned)tiles_of(call->small_channels), (unsigned)tiles_of(call->large_channels),
                        (unsigned)now);
        CUDA_TRY(
            mmebm__cuda_launch(device, "weight gradient", gradient_tma_kernel, grid, GRADIENT_THREADS, bytes, plan));
        CUDA_TRY(mmebm__cuda_add_parts(device, &plan.target, now, call->partials, call->scale));
    }
    return MMEBM_OK;
}

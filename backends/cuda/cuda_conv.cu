/* SPDX-License-Identifier: Apache-2.0
 *
 * Products with gathered pixels (cuda_tensor.h) in bf16 on tensor cores, sums in f32:
 *   result[m, n] = sum over chunks of 64 source channels, over taps, over channels:
 *                  source[pixel(m, tap), c] W[n, tap, c]
 * in this order whatever the tile, so that a row's bits do not depend on the number of rows. A block makes BM pixels by
 * BN channels, on sm_90a by warpgroup products (left factor in registers, weights in shared memory), else by warp
 * products. Its weights stream through shared memory, a slice of 64 numbers for each (chunk, tap). Its source comes in
 * one of three ways:
 *   patch    once for each chunk: the lines of the image that any tap of any of its pixels meets; each tap reads other
 *            lines of the same patch (a line of zeros where it falls outside). For same-size convolutions.
 *   whole    the same, and all weights with it: sums of a single chunk wait once and then run without a barrier.
 *   gather   for each (chunk, tap), the BM pixels that it meets. For everything else.
 */
#include "cuda_conv.h"
#include "cuda_launch.h"

enum {
    THREADS = 128,
    LINES_AT_ONCE = THREADS / 8 /* a thread copies one chunk of a line */,
    STAGES = 3,
    MAX_PATCH_BYTES = 84 * 1024,
    LARGE_TILE_BYTES = 128 * 1024, /* most that a tile of 256 pixels takes */
    HALF_SHARED_BYTES = 113 * 1024 /* of a multiprocessor's shared memory, less what a block takes beside it */
};

/* How a block gets its factors. */
enum conv_way { GATHER, PATCH, WHOLE };

/* Position along one axis of the source; false if the tap meets nothing. */
static __device__ __forceinline__ bool source_place(const cuda_geometry &g, int axis, int32_t at, int32_t tap,
                                                    int32_t *place)
{
    int32_t p = at * g.mul[axis] + g.offset[axis] + g.direction * tap;
    if (g.div[axis] != 1) {
        if (p < 0 || p % g.div[axis]) return false;
        p /= g.div[axis];
    }
    *place = p;
    return p >= 0 && p < g.in[axis];
}

/* Source pixels that any tap of result pixels `first` .. `last` meets, one range of pixel numbers. Where the range's
 * first or last line is cut off by the image's edge, or pixels are halved, whole lines are taken. */
static __device__ void find_patch(const conv_plan &plan, int32_t first, int32_t last, int32_t *start, int32_t *count)
{
    const cuda_geometry &g = plan.product.geometry;
    const int32_t halved = plan.product.shrink - 1, height = g.in[0] >> halved, width = g.in[1] >> halved;
    const int32_t reach_y = g.direction * (g.kernel[0] - 1), reach_x = g.direction * (g.kernel[1] - 1);
    const pixel_place low = place_of(plan.product, first);
    const pixel_place high = place_of(plan.product, plan.product.epilogue.window == 2 ? last | 3 : last);
    const bool phases = g.phases_out || g.phases_in; /* reach by 1 each way */
    const int32_t y0 = phases ? low.y - 1 : low.y + g.offset[0] + min(reach_y, 0);
    const int32_t y1 = phases ? high.y + 1 : high.y + g.offset[0] + max(reach_y, 0);
    const int32_t x0 = phases ? low.x - 1 : low.x + g.offset[1] + min(reach_x, 0);
    const int32_t x1 = phases ? high.x + 1 : high.x + g.offset[1] + max(reach_x, 0);
    const int32_t left = halved || y0 < 0 ? 0 : max(x0, 0);
    const int32_t right = halved || y1 >= g.in[0] ? width - 1 : min(x1, width - 1);
    *start = (low.row * height + (max(y0, 0) >> halved)) * width + left;
    *count = (high.row * height + (min(y1, g.in[0] - 1) >> halved)) * width + right + 1 - *start;
}

/* Shared memory: zeros and pixel places | STAGES slices of weights | source buffers. Every part begins at a multiple of
 * 1024 bytes, as the tensor cores want it. */
template <int BM, conv_way WAY> static __host__ __device__ constexpr uint32_t head_bytes()
{
    return (uint32_t)(LINE_BYTES + (WAY == GATHER ? BM * sizeof(pixel_place) : 0) + 1023) / 1024 * 1024;
}

/* Weights in shared memory at once, in steps. */
template <conv_way WAY> static __host__ __device__ __forceinline__ int32_t weight_slices(const cuda_geometry &g)
{
    return WAY == WHOLE ? g.kernel[0] * g.kernel[1] : (int32_t)STAGES;
}

/* A block is four warps; of every 64 pixels, warp w has 16 w .. 16 w + 15. */
template <int BM, int BN, conv_way WAY> struct conv_block {
    static constexpr int MB = BM / 64, NT = BN / 8;
    const conv_plan &plan;
    const cuda_product &product;
    const cuda_geometry &g;
    int32_t tid, lane, warp, m0, n0, phase /* of the result */, halved;
    int32_t patch_start, patch_count;
    uint32_t zeros, weight_base, source_base;
    pixel_place *places;
    pixel_place mine[MB]; /* whose lines this thread names to the matrix loads; row: first line of the image */

    __device__ __forceinline__ uint32_t slice_of(const conv_step &step) const
    {
        return weight_base + (uint32_t)(WAY == WHOLE ? step.number : step.number % STAGES) * BN * LINE_BYTES;
    }

    __device__ __forceinline__ uint32_t buffer_of(const conv_step &step) const
    {
        if (WAY == GATHER) return source_base + (uint32_t)(step.number % STAGES) * BM * LINE_BYTES;
        return source_base +
               (uint32_t)(step.group & (plan.source_buffers - 1)) * plan.source_lines * LINE_BYTES; /* 1 or 2 */
    }

    __device__ __forceinline__ void load_weights(const conv_step &step) const
    {
        const uint32_t target = slice_of(step) + tid * 16;
        const char *from = weight_slice(plan, product.weights, phase, step.number, n0) + tid * 16;
#pragma unroll
        for (int i = 0; i < BN * CHUNKS / THREADS; ++i)
            copy_async(target + i * THREADS * 16, from + i * THREADS * 16, true);
    }

    /* The patch of one of the source's phases: its lines are every other pixel of every other line of the image. */
    __device__ __forceinline__ void load_phase(const conv_step &step, uint32_t buffer, const __nv_bfloat16 *source,
                                               bool has_channel) const
    {
        const int32_t width = g.in[1], step_y = LINES_AT_ONCE / width, step_x = LINES_AT_ONCE % width;
        const int32_t py = step.phase >> 1, px = step.phase & 1;
        const int32_t line = patch_start + tid / CHUNKS;
        int32_t x = line % width, y = line / width % g.in[0], row = line / width / g.in[0];
        const uint32_t target = buffer + chunk_place(tid / CHUNKS, tid % CHUNKS);
#pragma unroll 4
        for (int32_t i = 0; i < (patch_count - tid / CHUNKS + LINES_AT_ONCE - 1) / LINES_AT_ONCE; ++i) {
            const int64_t pixel = ((int64_t)(row * g.in[0] + y) * 2 + py) * 2 * width + 2 * x + px;
            copy_async(target + i * LINES_AT_ONCE * LINE_BYTES,
                       has_channel ? source + pixel * product.source.stride : source, has_channel);
            x += step_x;
            if (x >= width) x -= width, ++y;
            y += step_y;
            if (y >= g.in[0]) y -= g.in[0], ++row;
        }
    }

    __device__ __forceinline__ void load_source(const conv_step &step) const
    {
        const int32_t column = tid % CHUNKS, channel = step.chunk * LINE_CHANNELS + column * CHUNK_CHANNELS;
        if ((WAY != GATHER && step.tap) || column >= 2 * chunk_steps(product.source.channels, step.chunk)) return;
        const __nv_bfloat16 *source = static_cast<const __nv_bfloat16 *>(product.source.data);
        const bool has_channel = channel < product.source.channels;
        const uint32_t buffer = buffer_of(step);
        if constexpr (WAY != GATHER) {
            if (g.phases_in) {
                load_phase(step, buffer, has_channel ? source + channel : source, has_channel);
                return;
            }
            const int64_t stride = product.source.stride;
            const __nv_bfloat16 *from = has_channel ? source + (patch_start + tid / CHUNKS) * stride + channel : source;
            const uint32_t target = buffer + chunk_place(tid / CHUNKS, column);
            const int64_t step_stride = has_channel ? LINES_AT_ONCE * stride : 0;
#pragma unroll 4
            for (int32_t i = 0; i < (patch_count - tid / CHUNKS + LINES_AT_ONCE - 1) / LINES_AT_ONCE; ++i)
                copy_async(target + i * LINES_AT_ONCE * LINE_BYTES, from + i * step_stride, has_channel);
        } else {
#pragma unroll 4
            for (int i = 0; i < BM / LINES_AT_ONCE; ++i) {
                const int32_t r = tid / CHUNKS + i * LINES_AT_ONCE;
                const pixel_place place = places[r];
                int32_t y, x;
                const bool inside =
                    source_place(g, 0, place.y, step.a, &y) & source_place(g, 1, place.x, step.b, &x) & has_channel;
                const int64_t pixel =
                    ((int64_t)place.row * (g.in[0] >> halved) + (y >> halved)) * (g.in[1] >> halved) + (x >> halved);
                copy_async(buffer + chunk_place(r, column),
                           inside ? source + pixel * product.source.stride + channel : source, inside);
            }
        }
    }

    /* Address and swizzle of the line that this thread names, for pixel block i. */
    __device__ __forceinline__ void find_line(const conv_step &step, uint32_t buffer, int i, uint32_t *line,
                                              uint32_t *key) const
    {
        int32_t r = i * 64 + warp * 16 + lane % 16;
        bool inside = true;
        if constexpr (WAY != GATHER) {
            const int32_t y = mine[i].y + step.offset[0] + g.direction * step.a,
                          x = mine[i].x + step.offset[1] + g.direction * step.b;
            inside = (uint32_t)y < (uint32_t)g.in[0] && (uint32_t)x < (uint32_t)g.in[1];
            r = (mine[i].row + (y >> halved)) * (g.in[1] >> halved) + (x >> halved) - patch_start;
        }
        *line = inside ? buffer + (uint32_t)r * LINE_BYTES : zeros;
        *key = inside ? (uint32_t)r & 7u : 0u;
    }

    /* Left factors for up to 32 channels of a step. There are two of these, so that one is loaded while the tensor
     * cores read the other. */
    struct half {
        uint32_t left[2][MB][4];
    };

    /* `blocks` times 16 channels from block number `first` on, two at most. */
    __device__ __forceinline__ void load_half(half &h, const uint32_t (&line)[MB], const uint32_t (&key)[MB], int first,
                                              int32_t blocks) const
    {
#pragma unroll
        for (int k = 0; k < 2; ++k) {
            if (k >= blocks) break;
#pragma unroll
            for (int i = 0; i < MB; ++i)
                load_matrices(h.left[k][i], line[i] + (((uint32_t)(2 * (first + k) + lane / 16) ^ key[i]) << 4));
        }
    }

    /* Starts sums += left times weights. */
    __device__ __forceinline__ void multiply_half(const half &h, uint32_t slice, int first, int32_t blocks,
                                                  float (&sums)[MB][NT][4]) const
    {
#if CUDA_HAS_WARPGROUPS
        warpgroup_fence();
#pragma unroll
        for (int k = 0; k < 2; ++k) {
            if (k >= blocks) break;
#pragma unroll
            for (int i = 0; i < MB; ++i)
                multiply_group(sums[i], h.left[k][i], tile_descriptor(slice) + 2 * (uint32_t)(first + k));
        }
        warpgroup_commit();
#else
#pragma unroll
        for (int k = 0; k < 2; ++k) {
            if (k >= blocks) break;
#pragma unroll
            for (int j = 0; j < NT / 2; ++j) {
                uint32_t right[4];
                load_matrices(right, slice + chunk_place((uint32_t)(j * 16 + lane / 16 * 8 + lane % 8),
                                                         (uint32_t)(2 * (first + k) + lane / 8 % 2)));
#pragma unroll
                for (int i = 0; i < MB; ++i) {
                    multiply(sums[i][2 * j], h.left[k][i], right[0], right[1]);
                    multiply(sums[i][2 * j + 1], h.left[k][i], right[2], right[3]);
                }
            }
        }
#endif
    }

    /* Until at most PENDING calls of multiply_half are under way. */
    template <int PENDING> static __device__ __forceinline__ void wait_products()
    {
#if CUDA_HAS_WARPGROUPS
        warpgroup_wait<PENDING>();
#endif
    }

    __device__ __forceinline__ void find_lines(const conv_step &step, uint32_t buffer, uint32_t (&line)[MB],
                                               uint32_t (&key)[MB]) const
    {
#pragma unroll
        for (int i = 0; i < MB; ++i) find_line(step, buffer, i, &line[i], &key[i]);
    }

    /* Copies for the step STAGES - 1 ahead are asked for while the products run. */
    __device__ __forceinline__ void run_step(const conv_step &step, const conv_step &loading, int32_t steps,
                                             float (&sums)[MB][NT][4]) const
    {
        const uint32_t slice = slice_of(step);
        const int32_t depth = chunk_steps(product.source.channels, step.chunk);
        uint32_t line[MB], key[MB];
        half low, high;
        find_lines(step, buffer_of(step), line, key);
        load_half(low, line, key, 0, depth);
        multiply_half(low, slice, 0, depth, sums);
        if (depth > 2) {
            load_half(high, line, key, 2, depth - 2);
            multiply_half(high, slice, 2, depth - 2, sums);
        }
        if (loading.number < steps) load_weights(loading), load_source(loading);
        commit_copies();
        wait_products<0>();
    }

    /* All steps, of one chunk whose factors are there: without a barrier. */
    __device__ __forceinline__ void run_whole(conv_step step, int32_t steps, float (&sums)[MB][NT][4]) const
    {
        const uint32_t buffer = buffer_of(step);
        const int32_t depth = chunk_steps(product.source.channels, 0);
        uint32_t line[MB], key[MB];
        half low, high;
#pragma unroll 1
        while (step.number < steps) {
            find_lines(step, buffer, line, key);
            wait_products<1>();
            load_half(low, line, key, 0, depth);
            multiply_half(low, slice_of(step), 0, depth, sums);
            if (depth <= 2) { /* a tap needs one half: the next one takes the other */
                next_step(plan, phase, &step);
                if (step.number >= steps) break;
                find_lines(step, buffer, line, key);
            }
            const int32_t first = depth > 2 ? 2 : 0;
            wait_products<1>();
            load_half(high, line, key, first, depth - first);
            multiply_half(high, slice_of(step), first, depth - first, sums);
            next_step(plan, phase, &step);
        }
        wait_products<0>();
    }

    __device__ __forceinline__ void store(const float (&sums)[MB][NT][4], float *shared_tiles) const
    {
        float *tile = shared_tiles + warp * MB * 16 * tile_pitch<BN>();
        const int32_t shift = product.epilogue.window == 2 ? 2 : 0, end = plan.pixels >> shift;
#pragma unroll
        for (int i = 0; i < MB; ++i) turn_sums(sums[i], tile + i * 16 * tile_pitch<BN>(), lane);
        __syncwarp();
        const auto pixel_of = [&](int32_t r) {
            const int32_t line = r << shift, q = (m0 + line / 16 * 64 + warp * 16 + line % 16) >> shift;
            if (q >= end) return stored_pixel{-1, -1};
            const int32_t at = g.phases_out ? placed_pixel(g, phase, 0, q / g.out[1], q % g.out[1]) : q;
            return stored_pixel{at, residual_pixel(product, at)};
        };
        if (!plan.wide)
            return store_narrow<BN>(product, own_places(product.epilogue), tile, lane, MB * 16, n0, pixel_of);
        const int32_t pixels = MB * 16 >> shift;
        const wide_store<__nv_bfloat16, BN, 4> wide(product, own_places(product.epilogue), lane, n0,
                                                    bias_in_memory(product));
#pragma unroll 1
        for (int32_t step = 0; step < wide.steps(pixels); ++step) {
            asked_pixels<__nv_bfloat16, 4> asked;
            wide.ask(step, pixels, pixel_of, &asked);
            wide.template finish<true>(step, tile, shift, asked, keep_nothing());
        }
    }

    /* Sums of one part of the chunks, as they are. */
    __device__ __forceinline__ void store_part(const float (&sums)[MB][NT][4]) const
    {
#pragma unroll
        for (int i = 0; i < MB; ++i)
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                const int32_t m = m0 + i * 64 + warp * 16 + lane / 4 + k / 2 * 8;
                float *out =
                    product.partials + ((int64_t)blockIdx.z * plan.pixels + m) * plan.padded + n0 + lane % 4 * 2;
                if (m >= plan.pixels) continue;
#pragma unroll
                for (int j = 0; j < NT; ++j) out[j * 8 + k % 2] = sums[i][j][k];
            }
    }
};

template <int BM, int BN, conv_way WAY>
__global__ void __launch_bounds__(THREADS, 2) product_kernel(const __grid_constant__ conv_plan plan)
{
    begin_kernel();
    extern __shared__ __align__(1024) unsigned char shared[];
    using block_type = conv_block<BM, BN, WAY>;
    const int32_t tid = (int32_t)threadIdx.x;
    block_type block = {plan, plan.product, plan.product.geometry, tid, tid % 32, tid / 32};
    block.m0 = (int32_t)blockIdx.x * BM;
    block.n0 = (int32_t)blockIdx.y * BN;
    block.phase = block.g.phases_out ? (int32_t)blockIdx.z : 0;
    block.halved = plan.product.shrink - 1; /* 1 or 2: a shift */
    block.zeros = shared_address(shared);
    block.weight_base = block.zeros + head_bytes<BM, WAY>();
    block.source_base = block.weight_base + weight_slices<WAY>(plan.product.geometry) * BN * LINE_BYTES;
    block.places = reinterpret_cast<pixel_place *>(shared + LINE_BYTES);
    for (int32_t i = tid; WAY == GATHER && i < BM; i += THREADS)
        block.places[i] = place_of(plan.product, min(block.m0 + i, plan.pixels - 1));
    if (tid < CHUNKS) reinterpret_cast<uint4 *>(shared)[tid] = make_uint4(0, 0, 0, 0);
    if (WAY != GATHER)
        find_patch(plan, block.m0, min(block.m0 + BM, plan.pixels) - 1, &block.patch_start, &block.patch_count);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < block_type::MB; ++i) {
        const int32_t m = block.m0 + i * 64 + block.warp * 16 + block.lane % 16;
        if (WAY != GATHER) block.mine[i] = place_of(plan.product, min(m, plan.pixels - 1));
        block.mine[i].row *= block.g.in[0] >> block.halved;
    }

    float sums[block_type::MB][block_type::NT][4];
#pragma unroll
    for (int i = 0; i < block_type::MB; ++i)
#pragma unroll
        for (int j = 0; j < block_type::NT; ++j) sums[i][j][0] = sums[i][j][1] = sums[i][j][2] = sums[i][j][3] = 0.0f;

    const int32_t taps = block.g.kernel[0] * block.g.kernel[1];
    const int32_t first_group = plan.parts > 1 ? (int32_t)blockIdx.z * plan.part_chunks : 0;
    const int32_t steps = min(first_group + plan.part_chunks, plan.groups) * taps;
    conv_step loading = {first_group * taps, first_group};
    enter_group(plan, block.phase, &loading);
    conv_step step = loading;
    if constexpr (WAY == WHOLE) {
        for (; loading.number < steps; next_step(plan, block.phase, &loading))
            block.load_weights(loading), block.load_source(loading);
        commit_copies();
        wait_copies<0>();
        publish_copies();
        __syncthreads();
        block.run_whole(step, steps, sums);
    } else {
        for (int ahead = 0; ahead < STAGES - 1; ++ahead, next_step(plan, block.phase, &loading)) {
            if (loading.number < steps) block.load_weights(loading), block.load_source(loading);
            commit_copies();
        }
        for (; step.number < steps; next_step(plan, block.phase, &step), next_step(plan, block.phase, &loading)) {
            wait_copies<STAGES - 2>();
            publish_copies();
            __syncthreads();
            block.run_step(step, loading, steps, sums);
        }
    }
    wait_copies<0>();
    __syncthreads();
    if (plan.parts > 1)
        block.store_part(sums);
    else
        block.store(sums, reinterpret_cast<float *>(shared));
}

struct parted_plans {
    conv_plan of[MAX_TOGETHER];
};

/* Adds parts in order: a thread for a channel of a pixel; blockIdx.y: which product. */
static __global__ void finish_parts_kernel(const __grid_constant__ parted_plans plans)
{
    begin_kernel();
    const conv_plan &plan = plans.of[blockIdx.y];
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    const int32_t m = (int32_t)(i / plan.padded), n = (int32_t)(i % plan.padded);
    if (m >= plan.pixels || n >= plan.product.out_channels) return;
    float v = 0.0f;
#pragma unroll 7
    for (int32_t part = 0; part < plan.parts; ++part)
        v += plan.product.partials[((int64_t)part * plan.pixels + m) * plan.padded + n];
    finish_number(plan.product, own_places(plan.product.epilogue), {m, residual_pixel(plan.product, m)}, n, v);
}

/* ---- launching */

/* Most source pixels that a block of `block` result pixels meets; 0 if a patch does not suit. */
static int64_t patch_lines(const cuda_product *product, int block)
{
    const cuda_geometry *g = &product->geometry;
    const int window = product->epilogue.window, shrink = product->shrink;
    if (g->phases_out || g->phases_in) return block + 2 * g->in[1] + 3;
    for (int axis = 0; axis < 2; ++axis)
        if (g->out[axis] != g->in[axis] || g->mul[axis] != 1 || g->div[axis] != 1) return 0;
    if (g->kernel[0] * g->kernel[1] < STAGES) return 0;
    const int64_t width = g->in[1];
    if (shrink == 1) return block + (g->kernel[0] + 1 - 2 * (window == 1)) * width + g->kernel[1];
    const int64_t windows = width / window;
    const int64_t touched = ((block / (window * window) + windows - 2) / windows + 1) * window + g->kernel[0] - 1;
    return (touched / 2 + 2) * (width / 2);
}

template <int BM, int BN, conv_way WAY> static size_t factor_bytes(const conv_plan *plan)
{
    const size_t weights = (size_t)weight_slices<WAY>(plan->product.geometry) * BN;
    return head_bytes<BM, WAY>() + (weights + (size_t)plan->source_lines * plan->source_buffers) * LINE_BYTES;
}

template <int BM, int BN, conv_way WAY>
static mmebm_status launch_kernel(const mmebm_device *device, const conv_plan *plan)
{
    const size_t bytes = factor_bytes<BM, BN, WAY>(plan);
    const size_t turned = (size_t)BM * tile_pitch<BN>() * sizeof(float);
    const size_t shared = bytes > turned ? bytes : turned;
    CUDA_TRY(mmebm__cuda_check(
        device,
        cudaFuncSetAttribute(product_kernel<BM, BN, WAY>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared),
        "shared memory of a convolution"));
    const dim3 grid((unsigned)((plan->pixels + BM - 1) / BM), (unsigned)((plan->product.out_channels + BN - 1) / BN),
                    plan->product.geometry.phases_out ? (unsigned)PHASES : (unsigned)plan->parts);
    return mmebm__cuda_launch(device, "convolution", product_kernel<BM, BN, WAY>, grid, THREADS, shared, *plan);
}

template <int BM, int BN> static mmebm_status launch(const mmebm_device *device, conv_plan *plan)
{
    const int64_t lines = patch_lines(&plan->product, BM);
    plan->source_buffers = plan->groups > 1 ? 2 : 1;
    if (lines && lines * plan->source_buffers * LINE_BYTES <= MAX_PATCH_BYTES) {
        plan->source_lines = (int32_t)((lines + 7) / 8 * 8);
        const size_t bytes = factor_bytes<BM, BN, WHOLE>(plan);
        const bool whole = plan->groups == 1 && bytes <= HALF_SHARED_BYTES && bytes <= device->block_shared;
        if (whole) return launch_kernel<BM, BN, WHOLE>(device, plan);
        if (factor_bytes<BM, BN, PATCH>(plan) <= device->block_shared)
            return launch_kernel<BM, BN, PATCH>(device, plan);
    }
    plan->source_lines = BM;
    plan->source_buffers = STAGES;
    return launch_kernel<BM, BN, GATHER>(device, plan);
}

size_t mmebm__cuda_product_scratch(int32_t factors, int32_t taps, int32_t source_channels, int32_t out_channels,
                                   int64_t pixels)
{
    const int32_t parts = has_lines(factors) ? product_parts(taps, source_channels, 1) : 1;
    return parts == 1 ? 0 : (size_t)parts * (size_t)pixels * (size_t)padded_channels(factors, out_channels);
}

static conv_plan plan_of(const cuda_product *product)
{
    const cuda_geometry *g = &product->geometry;
    conv_plan plan;
    plan.product = *product;
    plan.pixels = (int32_t)(product->rows * g->out[0] * g->out[1]);
    plan.padded = padded_channels(product->factors, product->out_channels);
    plan.chunks = chunks_of(product->factors, product->source.channels);
    plan.parts = product_parts(g->kernel[0] * g->kernel[1], product->source.channels, product->epilogue.window);
    plan.groups = g->phases_in ? (int32_t)PHASES * plan.chunks : plan.chunks;
    plan.part_chunks = plan.parts == 1 ? plan.groups : (int32_t)PART_CHANNELS / line_channels(product->factors);
    plan.wide = epilogue_is_wide(product, product->factors == FACTORS_BF16 ? TYPE_BF16 : TYPE_F32);
    return plan;
}

static mmebm_status product_bf16(const mmebm_device *device, conv_plan *plan)
{
    const int64_t pixels = (int64_t)plan->pixels * (plan->product.geometry.phases_out ? (int64_t)PHASES : 1);
    const int64_t processors = device->processors;
    const bool large = device->block_shared >= LARGE_TILE_BYTES; /* not on sm_86, sm_89, sm_120 */
    if (plan->padded == 16 && large && pixels / 256 >= 4 * processors) return launch<256, 16>(device, plan);
    if (plan->padded == 16) return launch<128, 16>(device, plan);
    if (plan->padded == 32) return launch<128, 32>(device, plan);
    if (plan->padded == 80) return launch<128, 80>(device, plan);
    const int64_t blocks = plan->padded == 64 ? pixels / 256 : pixels / 128 * (plan->padded / 128);
    const bool few = blocks < processors; /* pixels: smaller tiles fill the chip */
    if (few || (plan->padded == 64 && !large)) return launch<64, 64>(device, plan);
    return plan->padded == 64 ? launch<256, 64>(device, plan) : launch<128, 128>(device, plan);
}

static mmebm_status finish_parts(const mmebm_device *device, const conv_plan *plans, int32_t count)
{
    parted_plans all;
    const int64_t numbers = (int64_t)plans->pixels * plans->padded;
    if (plans->parts == 1) return MMEBM_OK;
    for (int32_t k = 0; k < count; ++k) all.of[k] = plans[k];
    return mmebm__cuda_launch(device, "sum of parts", finish_parts_kernel,
                              dim3((unsigned)((numbers + CUDA_BLOCK - 1) / CUDA_BLOCK), (unsigned)count), CUDA_BLOCK, 0,
                              all);
}

/* By the copy engine if it suits, together; else one by one. */
static mmebm_status run_products(const mmebm_device *device, conv_plan *plans, int32_t count)
{
    int done;
    CUDA_TRY(mmebm__cuda_products_tma(device, plans, count, &done));
    if (!done && plans->product.factors != FACTORS_BF16)
        return device->host.fail(device->host.owner, MMEBM_E_UNSUPPORTED,
                                 "cuda: a convolution of %lld rows, wanted fewer", (long long)plans->product.rows);
    for (int32_t k = 0; k < count && !done; ++k) CUDA_TRY(product_bf16(device, &plans[k]));
    return finish_parts(device, plans, count);
}

mmebm_status mmebm__cuda_products(const mmebm_device *device, const cuda_product *products, int32_t count)
{
    conv_plan plans[MAX_TOGETHER];
    if (!has_lines(products->factors)) {
        for (int32_t k = 0; k < count; ++k) CUDA_TRY(mmebm__cuda_product_f32(device, &products[k]));
        return MMEBM_OK;
    }
    for (int32_t k = 0; k < count; ++k) {
        plans[k] = plan_of(&products[k]);
        if (plans[k].wide == plans[0].wide) continue;
        CUDA_TRY(run_products(device, plans, k));
        return mmebm__cuda_products(device, products + k, count - k);
    }
    return run_products(device, plans, count);
}

mmebm_status mmebm__cuda_succession(const mmebm_device *device, const cuda_product *products, int32_t count)
{
    conv_plan plans[MAX_TOGETHER];
    int done = 0;
    for (int32_t k = 0; k < count; ++k) plans[k] = plan_of(&products[k]);
    if (count > 1) CUDA_TRY(mmebm__cuda_succession_tma(device, plans, count, &done));
    for (int32_t k = 0; k < count && !done; ++k) CUDA_TRY(mmebm__cuda_products(device, &products[k], 1));
    return MMEBM_OK;
}

int mmebm__cuda_engine_suits(const mmebm_device *device, int32_t factors, const cuda_geometry *geometry,
                             int32_t source_channels, int32_t out_channels)
{
    cuda_product shape = {};
    shape.factors = factors;
    shape.geometry = *geometry;
    shape.source.channels = source_channels;
    shape.out_channels = out_channels;
    shape.shrink = shape.epilogue.window = 1;
    const conv_plan plan = plan_of(&shape);
    int suits;
    return source_channels % CHUNK_FLOATS == 0 && mmebm__cuda_products_tma(device, &plan, 1, &suits) == MMEBM_OK &&
           suits;
}

/* Patches of the largest tile must fit, and LINES_AT_ONCE pixels further on must be less than an image. */
int mmebm__cuda_phases_fit(int32_t height, int32_t width)
{
    return width <= 32 && LINES_AT_ONCE / width + 1 <= height;
}

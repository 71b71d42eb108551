/* SPDX-License-Identifier: Apache-2.0
 *
 * Same-size 3 x 3 convolutions of bf16 numbers to at most NARROWEST channels, as decoders end, on sm_90a. With so few
 * there is little to multiply for each left factor that the tensor cores read; so all taps share it, as if they were
 * result channels of a single tap,
 *   y[m, tap, n] = sum over channels: source[m, c] W[n, tap, c],
 *   result[m, n] = sum over taps: y[pixel(m, tap), tap, n]
 * where the second sum is of f32 numbers in shared memory. So each pixel is read once for nine taps.
 *
 * A block goes through consecutive tiles of pixels, in the order of cuda_conv_tma.h. What it keeps of y are three
 * tiles' numbers, a ring: taps reach half a tile at most, so that when a tile's y is there, the results that lie
 * between the one before and this one can be had, and the third is free for those who are ahead.
 */
#include "cuda_conv_tma.h"
#include "cuda_launch.h"

enum {
    TILE = 128, /* pixels: two warpgroups */
    NARROW_THREADS = 2 * TILE,
    RING = 3 * TILE,
    RING_PITCH = RING + 11, /* neighbouring channels and pixels meet different banks */
    EDGE = 3,
    TAPS = EDGE * EDGE,
    SLICE_CHANNELS = 16, /* result channels of a tap in the packed weights */
    WEIGHT_BYTES = TAPS * SLICE_CHANNELS * LINE_BYTES,
    TILE_BYTES = TILE * LINE_BYTES,
    NARROW_STAGES = 3
};

struct narrow_head {
    uint64_t full[NARROW_STAGES], weights_full;
};
enum { NARROW_HEAD_BYTES = 1024 }; /* weights and tiles begin at multiples of that */

#if CUDA_HAS_WARPGROUPS

struct narrow_block {
    const tma_plan &plan;
    const tma_member &member;
    narrow_head *head;
    float *ring;
    uint32_t weights, stages; /* in shared memory */
    int32_t first_tile, tiles; /* tiles of results */

    __device__ __forceinline__ int32_t channels() const
    {
        return plan.conv.product.out_channels;
    }

    /* By one thread, when the stage's tile before has been multiplied. */
    __device__ __forceinline__ void load_tile(int32_t tile) const
    {
        const int32_t stage = tile % NARROW_STAGES;
        const pixel_place first = find_pixel(plan, (first_tile + tile) * TILE);
        const uint32_t full = shared_address(&head->full[stage]);
        if (tile > tiles) return;
        barrier_announce(full, TILE_BYTES);
        copy_pixels(stages + (uint32_t)(stage * TILE_BYTES), &member.source[0], 0, first.x, first.y, first.row, full);
    }

    __device__ __forceinline__ void begin_loading() const
    {
        barrier_announce(shared_address(&head->weights_full), WEIGHT_BYTES);
        copy_bulk(weights, member.weights, WEIGHT_BYTES, shared_address(&head->weights_full));
        for (int32_t tile = 0; tile < NARROW_STAGES; ++tile) load_tile(tile);
    }

    typedef float tile_sums[TAPS * SLICE_CHANNELS / 8][4];

    /* Starts a tile's products when it is there. Beyond the source's channels both factors are zeros. */
    __device__ __forceinline__ void begin_products(int32_t tile, tile_sums &sums) const
    {
        const int32_t stage = tile % NARROW_STAGES;
        const uint32_t lines = stages + (uint32_t)(stage * TILE_BYTES) + threadIdx.x / 128 * (TILE_BYTES / 2);
        const uint64_t left = tile_descriptor(lines), right = tile_descriptor(weights);
#pragma unroll
        for (int j = 0; j < TAPS * SLICE_CHANNELS / 8; ++j) sums[j][0] = sums[j][1] = sums[j][2] = sums[j][3] = 0.0f;
        barrier_wait(shared_address(&head->full[stage]), (uint32_t)(tile / NARROW_STAGES & 1));
        warpgroup_fence();
#pragma unroll
        for (int d = 0; d < LINE_BYTES / 32; ++d) multiply_group(sums, left + 2 * d, right + 2 * d);
        warpgroup_commit();
    }

    /* From a tap's first two tiles of 8 channels, the first holds all that count: lanes 0 and 1 of four have them. */
    __device__ __forceinline__ void keep(const tile_sums &sums, int32_t tile) const
    {
        const int32_t tid = (int32_t)threadIdx.x, quarter = tid % 4, row = tid / 32 * 16 + tid % 32 / 4;
        float *own = ring + tile % 3 * TILE + row + 2 * quarter * RING_PITCH;
        if (2 * quarter >= channels()) return;
        const bool second = 2 * quarter + 1 < channels();
#pragma unroll
        for (int t = 0; t < TAPS; ++t) {
            float *place = own + t * channels() * RING_PITCH;
            place[0] = sums[2 * t][0];
            place[8] = sums[2 * t][2];
            if (second) place[RING_PITCH] = sums[2 * t][1], place[RING_PITCH + 8] = sums[2 * t][3];
        }
    }

    /* All threads' sums are kept, and the stage is given to a tile to come. */
    __device__ __forceinline__ void end_products(tile_sums &sums, int32_t tile) const
    {
        warpgroup_wait<0>();
#pragma unroll
        for (int j = 0; j < TAPS * SLICE_CHANNELS / 8; ++j)
#pragma unroll
            for (int i = 0; i < 4; ++i) asm volatile("" : "+f"(sums[j][i])); /* not before the products have ended */
        keep(sums, tile);
        __syncthreads();
        if (threadIdx.x == 0) load_tile(tile + NARROW_STAGES);
    }

    /* A thread's result pixel in the tile before `tile`, reach_of() further on: of two threads for a pixel, one takes
     * channels 0 and 2. */
    __device__ __forceinline__ void store(int32_t tile, const pixel_place &place) const
    {
        const bool forward = plan.conv.product.geometry.direction > 0;
        const int32_t pixel = (int32_t)threadIdx.x % TILE;
        const int32_t from = (tile + 2) % 3 * TILE + pixel + (forward ? 0 : 2 * reach_of(plan));
        const int32_t down = forward ? plan.pitch : -plan.pitch, across = forward ? 1 : -1;
        const stored_pixel stored = memory_of(plan, 0, place);
        if (stored.at < 0) return;
        int32_t at[TAPS];
#pragma unroll
        for (int t = 0; t < TAPS; ++t) {
            at[t] = from + t / EDGE * down + t % EDGE * across;
            at[t] += t * channels() * RING_PITCH - (at[t] >= RING ? (int32_t)RING : 0);
        }
        for (int32_t n = (int32_t)threadIdx.x / TILE; n < channels(); n += NARROW_THREADS / TILE) {
            float sum = 0.0f;
#pragma unroll
            for (int t = 0; t < TAPS; ++t) sum += ring[n * RING_PITCH + at[t]];
            finish_number(plan.conv.product, member.places, stored, n, sum);
        }
    }

    /* The next tile is multiplied while results of this one are stored. */
    __device__ __forceinline__ void run() const
    {
        tile_sums sums;
        if (threadIdx.x == 0) begin_loading();
        pixel_place place = find_pixel(plan, first_tile * TILE + (int32_t)threadIdx.x % TILE + reach_of(plan));
        barrier_wait(shared_address(&head->weights_full), 0);
        begin_products(0, sums);
        end_products(sums, 0);
        begin_products(1, sums);
#pragma unroll 1
        for (int32_t k = 1; k < tiles; ++k, next_pixel(plan, &place)) {
            end_products(sums, k);
            begin_products(k + 1, sums);
            store(k, place);
        }
        end_products(sums, tiles);
        store(tiles, place);
    }
};

#endif /* CUDA_HAS_WARPGROUPS */

static __global__ void __launch_bounds__(NARROW_THREADS, 2) narrow_kernel(const __grid_constant__ tma_plan plan)
{
#if CUDA_HAS_WARPGROUPS
    extern __shared__ __align__(1024) unsigned char shared[];
    narrow_head *head = reinterpret_cast<narrow_head *>(shared);
    const int32_t tid = (int32_t)threadIdx.x, number = (int32_t)blockIdx.x / plan.blocks;
    const int32_t share = (plan.tiles + plan.blocks - 1) / plan.blocks;
    const int32_t first = ((int32_t)blockIdx.x - number * plan.blocks) * share;
    const uint32_t weights = NARROW_HEAD_BYTES, stages = weights + WEIGHT_BYTES;
    const narrow_block block = {plan,
                                plan.members[number],
                                head,
                                reinterpret_cast<float *>(shared + stages + NARROW_STAGES * TILE_BYTES),
                                shared_address(shared) + weights,
                                shared_address(shared) + stages,
                                first,
                                min(share, plan.tiles - first)};
    if (tid < NARROW_STAGES) barrier_open(shared_address(&head->full[tid]), 1);
    if (tid == NARROW_STAGES) barrier_open(shared_address(&head->weights_full), 1);
    if (tid < 32) barriers_opened();
    __syncthreads();
    begin_kernel();
    block.run();
#endif
}

/* ---- launching */

/* By the shape alone: another kernel would give other bits. */
static int suits(const tma_plan *plan)
{
    const cuda_product *product = &plan->conv.product;
    const cuda_geometry *g = &product->geometry;
    return product->factors == FACTORS_BF16 && g->kernel[0] == EDGE && !g->phases_in && !g->phases_out &&
           plan->conv.chunks == 1 && product->out_channels <= (int32_t)NARROWEST &&
           2 * reach_of(*plan) <= (int32_t)TILE;
}

mmebm_status mmebm__cuda_products_narrow(const mmebm_device *device, tma_plan *plan, const conv_plan *plans, int *done)
{
    const size_t numbers = (size_t)TAPS * (size_t)plan->conv.product.out_channels * RING_PITCH;
    const size_t shared =
        NARROW_HEAD_BYTES + WEIGHT_BYTES + NARROW_STAGES * TILE_BYTES + numbers * sizeof(float);
    if (!suits(plan) || shared > device->block_shared) return MMEBM_OK;
    *done = 1;
    if (!plan->pixels) return MMEBM_OK;
    plan->patch_lines = TILE;
    plan->tiles = (plan->pixels - reach_of(*plan) + TILE - 1) / TILE;
    CUDA_TRY(mmebm__cuda_describe_sources(device, plan, plans));
    CUDA_TRY(mmebm__cuda_check(
        device, cudaFuncSetAttribute(narrow_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared),
        "shared memory of a convolution"));
    const int32_t room = 2 * device->processors / plan->count, most = room > 1 ? room : 1;
    const int32_t share = (plan->tiles + most - 1) / most;
    plan->blocks = (plan->tiles + share - 1) / share;
    plan->step = {TILE / plan->image, TILE % plan->image / plan->pitch, TILE % plan->pitch};
    return mmebm__cuda_launch(device, "convolution", narrow_kernel, (unsigned)(plan->blocks * plan->count),
                              NARROW_THREADS, shared, *plan);
}

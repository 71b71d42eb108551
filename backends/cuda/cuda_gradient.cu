/* SPDX-License-Identifier: Apache-2.0
 *
 * Gradients by weights and biases: sums over all rows and pixels. Rows are cut into parts by their numbers and the
 * layer's shape alone, each part is summed on its own, and the parts are added in order; so neither the number of
 * blocks nor of rows in flight changes a bit, and no atomics are needed.
 *   gradient[s][tap][l] += scale * sum over rows, small pixels of small[., s] * large[pixel(., tap), l]
 * On tensor cores, of bf16 numbers, of f32 numbers rounded to tf32, or of f32 numbers as two of tf32 each, high and low
 * (high high + high low + low high).
 */
#include <type_traits>

#include "cuda_async.h"
#include "cuda_gradient.h"
#include "cuda_launch.h"

enum {
    PART_PIXELS = 1024,   /* about so many in a part: few, for a part is one block's, and its steps follow each other */
    FEW_WEIGHTS = 8192,   /* have parts of a quarter of that, for there are few blocks otherwise */
    MANY_WEIGHTS = 16384, /* of large maps have parts of four times that, for there are many, and all are added up */
    LARGE_MAP = 512,      /* pixels */
    TILE_SMALL = 64,
    TILE_LARGE = 64,
    STEP_BYTES = 8 * 1024, /* of one side's pixels in a step */
    STAGES = 3,
    THREADS = 128
};

struct gradient_plan {
    cuda_weight_gradient call;
    part_target target;
    int32_t taps;
    int32_t part_rows, first_part;
    int32_t width;                     /* large channels of a tap in a tile; the tile holds TILE_LARGE / width taps */
    int32_t step_row, step_y, step_x;  /* as many small pixels further on as a step has */
    int32_t small_whole, large_whole;  /* chunks may be copied whole: they lie at multiples of 16 bytes */
    int32_t single;                    /* one part: it needs no place of its own */
};

/* ---- a tile: 64 small channels by 64 large ones, or by several taps of fewer, by four warps of 32 x 32 */

/* A kind of numbers, and how a step's pixels lie in shared memory: lines of 64 channels, in chunks of 16 bytes. */
template <int FACTORS> struct gradient_shape {
    typedef typename std::conditional<FACTORS == FACTORS_BF16, __nv_bfloat16, float>::type number;
    static constexpr int CHUNK = 16 / sizeof(number), LINE = TILE_SMALL / CHUNK; /* numbers; chunks */
    static constexpr int BYTES = TILE_SMALL * sizeof(number), PIXELS = STEP_BYTES / BYTES;
    static constexpr int AT_ONCE = THREADS / LINE, COPIES = PIXELS / AT_ONCE;

    /* f32: so that four pixels by eight channels, which a warp's factor is read by, meet 32 different banks. */
    static __device__ __forceinline__ uint32_t place(uint32_t pixel, uint32_t chunk)
    {
        return FACTORS == FACTORS_BF16 ? chunk_place(pixel, chunk)
                                       : pixel * BYTES + ((chunk ^ (pixel & 3u) * 2) << 4);
    }
};
static_assert((int)TILE_SMALL == (int)TILE_LARGE, "both sides have lines of one length");

struct small_pixel {
    int32_t row, y, x;
};

static __device__ __forceinline__ void walk(const gradient_plan &plan, small_pixel *pixel)
{
    const cuda_geometry &g = plan.call.geometry;
    pixel->x += plan.step_x;
    if (pixel->x >= g.out[1]) pixel->x -= g.out[1], ++pixel->y;
    pixel->y += plan.step_y;
    if (pixel->y >= g.out[0]) pixel->y -= g.out[0], ++pixel->row;
    pixel->row += plan.step_row;
}

/* A thread copies one chunk of every AT_ONCE-th pixel of a step, for both sides. */
template <int FACTORS> struct gradient_loader {
    using shape = gradient_shape<FACTORS>;
    typedef typename shape::number number;
    const gradient_plan &plan;
    int32_t line, column, last_row;
    int32_t small_channel, large_channel, tap_y, tap_x; /* channels -1: zeros */
    small_pixel pixels[shape::COPIES];

    static __device__ __forceinline__ int64_t pixel_number(const cuda_tensor &side, int32_t shrink, int32_t row,
                                                           int32_t y, int32_t x)
    {
        const int32_t halved = shrink - 1;
        if (FACTORS != FACTORS_BF16 && side.period) row = (int32_t)(row % side.period);
        return (int64_t)((row * side.height + (y >> halved)) * side.width + (x >> halved)) * side.stride;
    }

    static __device__ __forceinline__ void copy_chunk(uint32_t target, const cuda_tensor &side, int64_t at,
                                                      int32_t channel, bool valid, int32_t whole)
    {
        const number *source = static_cast<const number *>(side.data) + (valid ? at + channel : 0);
        if (FACTORS == FACTORS_BF16 || whole) {
            copy_async(target, source, valid);
        } else {
#pragma unroll
            for (int k = 0; k < shape::CHUNK; ++k) {
                const bool has = valid && channel + k < side.channels;
                copy_word_async(target + k * 4, has ? source + k : source, has);
            }
        }
    }

    /* Steps come in order. */
    __device__ __forceinline__ void load(uint32_t left, uint32_t right)
    {
        const cuda_geometry &g = plan.call.geometry;
        const cuda_tensor &small = plan.call.small_side, &large = plan.call.large_side;
#pragma unroll
        for (int i = 0; i < shape::COPIES; ++i) {
            small_pixel &p = pixels[i];
            const int32_t y = p.y * g.mul[0] + tap_y, x = p.x * g.mul[1] + tap_x;
            const bool has_small = p.row < last_row && small_channel >= 0;
            const bool has_large = p.row < last_row && large_channel >= 0 && (uint32_t)y < (uint32_t)g.in[0] &&
                                   (uint32_t)x < (uint32_t)g.in[1];
            const uint32_t place = shape::place((uint32_t)(line + i * shape::AT_ONCE), (uint32_t)column);
            copy_chunk(left + place, small, pixel_number(small, plan.call.small_shrink, p.row, p.y, p.x),
                       small_channel, has_small, plan.small_whole);
            copy_chunk(right + place, large, pixel_number(large, plan.call.large_shrink, p.row, y, x), large_channel,
                       has_large, plan.large_whole);
            walk(plan, &p);
        }
    }
};

template <int FACTORS>
static __device__ __forceinline__ gradient_loader<FACTORS> open_loader(const gradient_plan &plan, int32_t first_row,
                                                                       int32_t last_row, int32_t tap0, int32_t small0,
                                                                       int32_t large0)
{
    using shape = gradient_shape<FACTORS>;
    const cuda_geometry &g = plan.call.geometry;
    gradient_loader<FACTORS> loader = {plan, (int32_t)threadIdx.x / shape::LINE, (int32_t)threadIdx.x % shape::LINE,
                                       last_row};
    const int32_t channel = loader.column * shape::CHUNK, tap = tap0 + channel / plan.width;
    loader.small_channel = small0 + channel < plan.call.small_side.channels ? small0 + channel : -1;
    loader.large_channel = large0 + channel % plan.width;
    if (tap >= plan.taps || loader.large_channel >= plan.call.large_side.channels) loader.large_channel = -1;
    loader.tap_y = g.offset[0] + tap / g.kernel[1];
    loader.tap_x = g.offset[1] + tap % g.kernel[1];
#pragma unroll
    for (int i = 0; i < shape::COPIES; ++i) {
        const int32_t pixel = loader.line + i * shape::AT_ONCE, area = g.out[0] * g.out[1];
        loader.pixels[i] = {first_row + pixel / area, pixel % area / g.out[1], pixel % area % g.out[1]};
    }
    return loader;
}

/* A warp's 32 x 32: [16 small][8 large] and what `multiply` gives a thread. The last eight "large channels" are ones,
 * for the bias. */
enum { ONES = 4 };
typedef float gradient_sums[2][ONES + 1][4];

/* Adds up a step; both factors lie pixel by pixel and are wanted channel by channel. */
template <int FACTORS, bool WITH_BIAS> struct gradient_product;

template <bool WITH_BIAS> struct gradient_product<FACTORS_BF16, WITH_BIAS> {
    static __device__ __forceinline__ void add_step(uint32_t left, uint32_t right, int32_t warp, int32_t lane,
                                                    gradient_sums &sums)
    {
        const uint32_t matrix = lane / 8, within = lane % 8, ones = 0x3f803f80u;
#pragma unroll
        for (int k = 0; k < gradient_shape<FACTORS_BF16>::PIXELS / 16; ++k) {
            uint32_t a[2][4], b[2][4];
            /* transposed loads give channels by pixels */
#pragma unroll
            for (int i = 0; i < 2; ++i)
                load_transposed(a[i], left + chunk_place(k * 16 + matrix / 2 * 8 + within,
                                                         (uint32_t)(warp / 2 * 4 + i * 2) + matrix % 2));
#pragma unroll
            for (int j = 0; j < 2; ++j)
                load_transposed(b[j], right + chunk_place(k * 16 + matrix % 2 * 8 + within,
                                                          (uint32_t)(warp % 2 * 4 + j * 2) + matrix / 2));
#pragma unroll
            for (int i = 0; i < 2; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j) multiply(sums[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
#pragma unroll
            for (int i = 0; WITH_BIAS && i < 2; ++i) multiply(sums[i][ONES], a[i], ones, ones);
        }
    }
};

/* f32: there are no transposed loads of 32 bits, a thread reads single numbers. */
template <int FACTORS, bool WITH_BIAS> struct gradient_product_f32 {
    using shape = gradient_shape<FACTORS>;
    static constexpr int PARTS = FACTORS == FACTORS_SPLIT ? 2 : 1;

    static __device__ __forceinline__ void load_number(uint32_t address, uint32_t (&parts)[PARTS])
    {
        const float value = load_shared(address), high = to_tf32(value);
        parts[0] = __float_as_uint(high);
        if (PARTS == 2) parts[PARTS - 1] = __float_as_uint(tf32_rest(value, high));
    }

    static __device__ __forceinline__ void add_step(uint32_t left, uint32_t right, int32_t warp, int32_t lane,
                                                    gradient_sums &totals)
    {
        const uint32_t pixel = lane % 4, channel = lane / 4, one = __float_as_uint(1.0f);
        gradient_sums sums = {};
        gradient_sums &to = PARTS == 2 ? sums : totals; /* the tensor cores drop what does not fit a long sum */
        uint32_t a_at[4], b_at[4];                      /* eight channels each */
#pragma unroll
        for (int n = 0; n < 4; ++n) {
            const uint32_t chunk = n * 2 + channel / 4, within = channel % 4 * 4;
            a_at[n] = left + shape::place(pixel, (uint32_t)(warp / 2 * 8) + chunk) + within;
            b_at[n] = right + shape::place(pixel, (uint32_t)(warp % 2 * 8) + chunk) + within;
        }
#pragma unroll
        for (int k = 0; k < shape::PIXELS / 8; ++k) {
            uint32_t a[2][4][PARTS], b[4][2][PARTS];
#pragma unroll
            for (int n = 0; n < 8; ++n) {
                const uint32_t further = (uint32_t)(k * 8 + n / 4 * 4) * shape::BYTES;
                load_number(a_at[n % 4] + further, a[n % 4 / 2][n / 4 * 2 + n % 2]);
                load_number(b_at[n % 4] + further, b[n % 4][n / 4]);
            }
#pragma unroll
            for (int i = 0; i < 2; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    if (PARTS == 2) { /* the small products first */
                        multiply_tf32(to[i][j], a[i], PARTS - 1, b[j], 0);
                        multiply_tf32(to[i][j], a[i], 0, b[j], PARTS - 1);
                    }
                    multiply_tf32(to[i][j], a[i], 0, b[j], 0);
                }
            const uint32_t ones[2][PARTS] = {{one}, {one}};
#pragma unroll
            for (int i = 0; WITH_BIAS && i < 2; ++i)
#pragma unroll
                for (int part = PARTS - 1; part >= 0; --part) multiply_tf32(to[i][ONES], a[i], part, ones, 0);
        }
        if constexpr (PARTS == 2) {
#pragma unroll
            for (int i = 0; i < 2; ++i)
#pragma unroll
                for (int j = 0; j <= ONES; ++j)
#pragma unroll
                    for (int k = 0; k < 4; ++k) totals[i][j][k] += sums[i][j][k];
        }
    }

    static __device__ __forceinline__ void multiply_tf32(float (&c)[4], const uint32_t (&a)[4][PARTS], int part_a,
                                                         const uint32_t (&b)[2][PARTS], int part_b)
    {
        multiply_words_tf32(c, a[0][part_a], a[1][part_a], a[2][part_a], a[3][part_a], b[0][part_b], b[1][part_b]);
    }
};
template <bool WITH_BIAS>
struct gradient_product<FACTORS_TF32, WITH_BIAS> : public gradient_product_f32<FACTORS_TF32, WITH_BIAS> {};
template <bool WITH_BIAS>
struct gradient_product<FACTORS_SPLIT, WITH_BIAS> : public gradient_product_f32<FACTORS_SPLIT, WITH_BIAS> {};

template <int FACTORS>
static __global__ void __launch_bounds__(THREADS, 3) gradient_kernel(const __grid_constant__ gradient_plan plan)
{
    begin_kernel();
    extern __shared__ __align__(1024) unsigned char shared[];
    using shape = gradient_shape<FACTORS>;
    const cuda_weight_gradient &call = plan.call;
    const int32_t tid = (int32_t)threadIdx.x, lane = tid % 32, warp = tid / 32;
    const int32_t tile_taps = TILE_LARGE / plan.width, tap_tiles = (plan.taps + tile_taps - 1) / tile_taps;
    const int32_t tap0 = (int32_t)blockIdx.y % tap_tiles * tile_taps;
    const int32_t large0 = (int32_t)blockIdx.y / tap_tiles * TILE_LARGE, small0 = (int32_t)blockIdx.x * TILE_SMALL;
    const int32_t first_row = ((int32_t)blockIdx.z + plan.first_part) * plan.part_rows;
    const int32_t last_row = min(first_row + plan.part_rows, (int32_t)call.rows);
    const int32_t pixels = (last_row - first_row) * call.geometry.out[0] * call.geometry.out[1];
    const int32_t steps = (pixels + shape::PIXELS - 1) / shape::PIXELS;
    const uint32_t base = shared_address(shared);
    gradient_loader<FACTORS> loader = open_loader<FACTORS>(plan, first_row, last_row, tap0, small0, large0);
    const auto stage = [&](int32_t step) { return base + (uint32_t)(step % STAGES) * 2 * STEP_BYTES; };
    const auto load_step = [&](int32_t step) { loader.load(stage(step), stage(step) + STEP_BYTES); };
    const bool with_bias = call.bias && blockIdx.y == 0;

    gradient_sums sums = {};
    for (int32_t step = 0; step < STAGES - 1; ++step) {
        if (step < steps) load_step(step);
        commit_copies();
    }
    const auto add_steps = [&](auto product) {
        for (int32_t step = 0; step < steps; ++step) {
            wait_copies<STAGES - 2>();
            __syncthreads();
            if (step + STAGES - 1 < steps) load_step(step + STAGES - 1);
            commit_copies();
            product.add_step(stage(step), stage(step) + STEP_BYTES, warp, lane, sums);
        }
    };
    if (with_bias)
        add_steps(gradient_product<FACTORS, true>());
    else
        add_steps(gradient_product<FACTORS, false>());
    float *out = call.partials + (int64_t)blockIdx.z * plan.target.count;
    const auto store = [&](int64_t at, float sum) {
        if (plan.single)
            plan.target.add(at, call.scale, sum);
        else
            out[at] = sum;
    };
    const int32_t first_small = small0 + warp / 2 * 32 + lane / 4;
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j)
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                const int32_t s = first_small + i * 16 + k / 2 * 8;
                const int32_t n = warp % 2 * 32 + j * 8 + lane % 4 * 2 + k % 2, tap = tap0 + n / plan.width;
                const int32_t l = large0 + n % plan.width;
                if (s < call.small_channels && l < call.large_channels && tap < plan.taps)
                    store(((int64_t)s * plan.taps + tap) * call.large_channels + l, sums[i][j][k]);
            }
    if (!with_bias || warp % 2 || lane % 4) return;
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int k = 0; k < 4; k += 2) {
            const int32_t s = first_small + i * 16 + k / 2 * 8;
            if (s < call.small_channels) store(plan.target.first_count + s, sums[i][ONES][k]);
        }
}

/* target += scale * (part 0 + part 1 + ...). A block adds 32 numbers, each by PART_SLICES threads whose sums are then
 * added in order: the order depends on the number of parts alone. */
enum { PART_SLICES = 8 };

static __global__ void add_parts_kernel(part_target target, int parts, const float *partials, float scale)
{
    begin_kernel();
    __shared__ double sums[PART_SLICES][33];
    const int64_t i = (int64_t)blockIdx.x * 32 + threadIdx.x;
    double total = 0.0;
    for (int p = (int)threadIdx.y; p < parts && i < target.count; p += PART_SLICES)
        total += partials[p * target.count + i];
    sums[threadIdx.y][threadIdx.x] = total;
    __syncthreads();
    if (threadIdx.y || i >= target.count) return;
    for (int slice = 1; slice < PART_SLICES; ++slice) total += sums[slice][threadIdx.x];
    target.add(i, scale, total);
}

mmebm_status mmebm__cuda_add_parts(const mmebm_device *device, const part_target *target, int parts,
                                   const float *partials, float scale)
{
    const dim3 grid((unsigned)((target->count + 31) / 32));
    return mmebm__cuda_launch(device, "sum of gradients", add_parts_kernel, grid, dim3(32, PART_SLICES), 0, *target,
                              parts, partials, scale);
}

/* count: numbers of the gradient, compared with `slack` times what counts as few or many. */
static int32_t rows_of_part(int64_t count, int64_t slack, int64_t pixels)
{
    const bool few = count <= slack * FEW_WEIGHTS, many = count >= slack * MANY_WEIGHTS && pixels >= LARGE_MAP;
    const int64_t wanted = few ? (int64_t)PART_PIXELS / 4 : many ? (int64_t)PART_PIXELS * 4 : (int64_t)PART_PIXELS;
    return (int32_t)(pixels < wanted ? (wanted + pixels - 1) / pixels : 1);
}

size_t mmebm__cuda_gradient_scratch(const cuda_geometry *geometry, int64_t small_channels, int64_t large_channels,
                                    int64_t rows)
{
    const int64_t count = small_channels * (geometry->kernel[0] * geometry->kernel[1] * large_channels + 1);
    /* without its bias, of which there is at most one for each weight, a gradient may count as few, or not as many */
    const int64_t part_rows = rows_of_part(count, 2, (int64_t)geometry->out[0] * geometry->out[1]);
    const int64_t either[] = {rows / part_rows + 1,
                              mmebm__cuda_gradient_parts(geometry, small_channels, large_channels, rows)};
    const int64_t parts = either[0] > either[1] ? either[0] : either[1];
    return (size_t)(count * (parts < (int64_t)MAX_PARTS ? parts : (int64_t)MAX_PARTS));
}

size_t mmebm__cuda_bias_scratch(int64_t channels)
{
    return (size_t)channels * MAX_PARTS;
}

/* Channels of a tap in a tile: the narrowest of 8, 16, 32, 64 that holds them. */
static int32_t tile_width(int32_t channels)
{
    int32_t width = LANES;
    while (width < channels && width < (int32_t)TILE_LARGE) width *= 2;
    return width;
}

static gradient_plan plan_gradient(const cuda_weight_gradient *call, int32_t step_pixels)
{
    const cuda_geometry *g = &call->geometry;
    gradient_plan plan = {};
    plan.call = *call;
    plan.taps = g->kernel[0] * g->kernel[1];
    plan.target = target_of(call, plan.taps);
    plan.part_rows = rows_of_part(plan.target.count, 1, (int64_t)g->out[0] * g->out[1]);
    plan.single = call->rows <= plan.part_rows;
    plan.width = tile_width(call->large_side.channels);
    plan.step_row = step_pixels / (g->out[0] * g->out[1]);
    plan.step_y = step_pixels / g->out[1] % g->out[0];
    plan.step_x = step_pixels % g->out[1];
    plan.small_whole = lies_in_chunks(&call->small_side);
    plan.large_whole = lies_in_chunks(&call->large_side);
    return plan;
}

mmebm_status mmebm__cuda_weight_gradient(const mmebm_device *device, const cuda_weight_gradient *call)
{
    int done;
    CUDA_TRY(mmebm__cuda_gradient_tma(device, call, &done));
    if (done) return MMEBM_OK;
    static void (*const kernels[])(gradient_plan) = {gradient_kernel<FACTORS_BF16>, gradient_kernel<FACTORS_TF32>,
                                                     gradient_kernel<FACTORS_SPLIT>}; /* by enum cuda_factors */
    const auto kernel = kernels[call->factors];
    const int bytes = STAGES * 2 * STEP_BYTES;
    gradient_plan plan = plan_gradient(call, call->factors == FACTORS_BF16 ? gradient_shape<FACTORS_BF16>::PIXELS
                                                                           : gradient_shape<FACTORS_TF32>::PIXELS);
    const int64_t parts = (call->rows + plan.part_rows - 1) / plan.part_rows;
    const int tile_taps = (int)TILE_LARGE / plan.width;
    const unsigned tap_tiles = (unsigned)((plan.taps + tile_taps - 1) / tile_taps);
    CUDA_TRY(mmebm__cuda_check(device, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
                               "shared memory of a weight gradient"));
    for (int64_t first = 0; first < parts; first += MAX_PARTS) {
        const int now = (int)(parts - first < (int64_t)MAX_PARTS ? parts - first : (int64_t)MAX_PARTS);
        const dim3 grid((unsigned)((call->small_channels + TILE_SMALL - 1) / TILE_SMALL),
                        (unsigned)((call->large_channels + TILE_LARGE - 1) / TILE_LARGE) * tap_tiles, (unsigned)now);
        plan.first_part = (int32_t)first;
        CUDA_TRY(mmebm__cuda_launch(device, "weight gradient", kernel, grid, THREADS, bytes, plan));
        if (!plan.single) CUDA_TRY(mmebm__cuda_add_parts(device, &plan.target, now, call->partials, call->scale));
    }
    return MMEBM_OK;
}

/* ---- biases alone: a block sums BIAS_COLUMNS V channels over one part of the rows, a thread V of some pixels */

enum { BIAS_SLICES = 32, BIAS_COLUMNS = 8 };

template <int V>
static __global__ void bias_kernel(cuda_operand gradient, int64_t rows, int32_t part_rows, int64_t first_part,
                                   float *partials)
{
    begin_kernel();
    __shared__ float sums[BIAS_SLICES][BIAS_COLUMNS * V + 1];
    const cuda_tensor &tensor = gradient.tensor;
    const int32_t c = (int32_t)(blockIdx.x * BIAS_COLUMNS + threadIdx.x) * V, area = tensor.height * tensor.width;
    const int64_t first_row = (first_part + blockIdx.y) * part_rows;
    const int64_t last_row = first_row + part_rows < rows ? first_row + part_rows : rows;
    const int32_t pixels = (int32_t)(last_row - first_row) * area; /* they follow each other in memory */
    float total[V] = {};
    const auto add_all = [&](auto load) { /* a loop without branches, so that loads are under way together */
        float value[V];
#pragma unroll 8
        for (int32_t at = (int32_t)threadIdx.y; at < pixels && c < tensor.channels; at += BIAS_SLICES) {
            load((first_row * area + at) * tensor.stride + c, value);
#pragma unroll
            for (int k = 0; k < V; ++k) total[k] += value[k];
        }
    };
    if (V == LANES && tensor.type == TYPE_BF16)
        add_all([&](int64_t at, float *value) { unpack_words(load_words(tensor, at), value); });
    else
        add_all([&](int64_t at, float *value) { load_values<V>(tensor, at, value); });
#pragma unroll
    for (int k = 0; k < V; ++k) sums[threadIdx.y][threadIdx.x * V + k] = total[k];
    __syncthreads();
    for (int32_t n = (int32_t)(threadIdx.y * BIAS_COLUMNS + threadIdx.x); n < BIAS_COLUMNS * V;
         n += BIAS_SLICES * BIAS_COLUMNS) {
        const int32_t channel = (int32_t)blockIdx.x * BIAS_COLUMNS * V + n;
        double all = 0.0;
        for (int slice = 0; slice < BIAS_SLICES; ++slice) all += sums[slice][n];
        if (channel < tensor.channels) partials[blockIdx.y * tensor.channels + channel] = (float)all;
    }
}

mmebm_status mmebm__cuda_bias_gradient(const mmebm_device *device, const cuda_operand *gradient, int64_t rows,
                                       float *bias, float *partials)
{
    const cuda_tensor *tensor = &gradient->tensor;
    const int32_t part_rows = rows_of_part(tensor->channels, 1, (int64_t)tensor->height * tensor->width);
    const part_target target = {bias, NULL, tensor->channels, tensor->channels};
    const int64_t parts = (rows + part_rows - 1) / part_rows;
    const int wide = tensor_is_wide(tensor);
    const int32_t block_channels = BIAS_COLUMNS * (wide ? (int32_t)LANES : 1);
    /* every number of the tensor stands for shrink x shrink pixels of the layer */
    const float scale = gradient->scale * (float)(gradient->shrink * gradient->shrink);
    for (int64_t first = 0; first < parts; first += MAX_PARTS) {
        const int now = (int)(parts - first < (int64_t)MAX_PARTS ? parts - first : (int64_t)MAX_PARTS);
        const dim3 grid((unsigned)((tensor->channels + block_channels - 1) / block_channels), (unsigned)now);
        CUDA_TRY(mmebm__cuda_launch(device, "bias gradient", wide ? bias_kernel<LANES> : bias_kernel<1>, grid,
                                    dim3(BIAS_COLUMNS, BIAS_SLICES), 0, *gradient, rows, part_rows, first, partials));
        CUDA_TRY(mmebm__cuda_add_parts(device, &target, now, partials, scale));
    }
    return MMEBM_OK;
}

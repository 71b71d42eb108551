/* SPDX-License-Identifier: Apache-2.0
 *
 * Gradients by weights and biases: sums over all rows and pixels. Rows are cut into parts by their numbers alone, each
 * part is summed on its own, and the parts are added in order; so neither the number of blocks nor of rows in flight
 * changes a bit, and no atomics are needed.
 *   gradient[s][tap][l] += scale * sum over rows, small pixels of small[., s] * large[pixel(., tap), l]
 * bf16 tensors that allow it go through the tensor cores, everything else through plain f32.
 */
#include "cuda_async.h"
#include "cuda_launch.h"
#include "cuda_sum.h"
#include "cuda_tensor.h"

enum {
    PART_PIXELS = 1024, /* about so many in a part: few, for a part is one block's, and its steps follow each other */
    MAX_PARTS = 128,    /* summed at once */
    TILE_SMALL = 64,
    TILE_LARGE = 64,
    PIXELS = 64, /* of a step */
    STAGES = 3,
    THREADS = 128,
    LINES_AT_ONCE = THREADS / 8 /* a thread copies one chunk of a line */
};

struct gradient_plan {
    cuda_weight_gradient call;
    int32_t taps;
    int32_t part_rows, first_part;
    int32_t width;                     /* large channels of a tap in a tile; the tile holds TILE_LARGE / width taps */
    int32_t step_row, step_y, step_x;  /* PIXELS small pixels further on */
    int64_t weight_count;
};

/* Large pixel that small pixel (y, x) meets at a tap. */
static __device__ __forceinline__ bool large_place(const cuda_geometry &g, int32_t y, int32_t x, int32_t tap,
                                                   int32_t *large_y, int32_t *large_x)
{
    *large_y = y * g.mul[0] + g.offset[0] + tap / g.kernel[1];
    *large_x = x * g.mul[1] + g.offset[1] + tap % g.kernel[1];
    return *large_y >= 0 && *large_y < g.in[0] && *large_x >= 0 && *large_x < g.in[1];
}

/* ---- tensor cores: 64 small channels by 64 large ones, or by several taps of fewer, by four warps of 32 x 32 */

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

/* A thread copies one chunk of every LINES_AT_ONCE-th pixel of a step, for both sides. */
struct gradient_loader {
    const gradient_plan &plan;
    int32_t line, column, last_row;
    int32_t small_channel, large_channel, tap_y, tap_x; /* channels -1: zeros */
    small_pixel pixels[PIXELS / LINES_AT_ONCE];

    __device__ __forceinline__ int64_t small_at(const small_pixel &p) const
    {
        const cuda_tensor &side = plan.call.small_side;
        const int32_t halved = plan.call.small_shrink - 1;
        return (int64_t)((p.row * side.height + (p.y >> halved)) * side.width + (p.x >> halved)) * side.stride +
               small_channel;
    }

    __device__ __forceinline__ int64_t large_at(int32_t row, int32_t y, int32_t x) const
    {
        const cuda_tensor &side = plan.call.large_side;
        const int32_t halved = plan.call.large_shrink - 1;
        return (int64_t)((row * side.height + (y >> halved)) * side.width + (x >> halved)) * side.stride +
               large_channel;
    }

    /* Steps come in order. */
    __device__ __forceinline__ void load(uint32_t left, uint32_t right)
    {
        const cuda_geometry &g = plan.call.geometry;
        const __nv_bfloat16 *small_data = static_cast<const __nv_bfloat16 *>(plan.call.small_side.data);
        const __nv_bfloat16 *large_data = static_cast<const __nv_bfloat16 *>(plan.call.large_side.data);
#pragma unroll
        for (int i = 0; i < PIXELS / LINES_AT_ONCE; ++i) {
            small_pixel &p = pixels[i];
            const int32_t y = p.y * g.mul[0] + tap_y, x = p.x * g.mul[1] + tap_x;
            const bool has_small = p.row < last_row && small_channel >= 0;
            const bool has_large = p.row < last_row && large_channel >= 0 && (uint32_t)y < (uint32_t)g.in[0] &&
                                   (uint32_t)x < (uint32_t)g.in[1];
            const uint32_t place = chunk_place((uint32_t)(line + i * LINES_AT_ONCE), (uint32_t)column);
            copy_async(left + place, small_data + (has_small ? small_at(p) : 0), has_small);
            copy_async(right + place, large_data + (has_large ? large_at(p.row, y, x) : 0), has_large);
            walk(plan, &p);
        }
    }
};

static __device__ __forceinline__ gradient_loader open_loader(const gradient_plan &plan, int32_t first_row,
                                                              int32_t last_row, int32_t tap0, int32_t small0,
                                                              int32_t large0)
{
    const cuda_geometry &g = plan.call.geometry;
    gradient_loader loader = {plan, (int32_t)threadIdx.x / CHUNKS, (int32_t)threadIdx.x % CHUNKS, last_row};
    const int32_t channel = loader.column * CHUNK_CHANNELS, tap = tap0 + channel / plan.width;
    loader.small_channel = small0 + channel < plan.call.small_side.channels ? small0 + channel : -1;
    loader.large_channel = large0 + channel % plan.width;
    if (tap >= plan.taps || loader.large_channel >= plan.call.large_side.channels) loader.large_channel = -1;
    loader.tap_y = g.offset[0] + tap / g.kernel[1];
    loader.tap_x = g.offset[1] + tap % g.kernel[1];
#pragma unroll
    for (int i = 0; i < PIXELS / LINES_AT_ONCE; ++i) {
        const int32_t pixel = loader.line + i * LINES_AT_ONCE, area = g.out[0] * g.out[1];
        loader.pixels[i] = {first_row + pixel / area, pixel % area / g.out[1], pixel % area % g.out[1]};
    }
    return loader;
}

static __global__ void __launch_bounds__(THREADS) gradient_kernel(const __grid_constant__ gradient_plan plan)
{
    begin_kernel();
    extern __shared__ __align__(1024) unsigned char shared[];
    const cuda_weight_gradient &call = plan.call;
    const int32_t tid = (int32_t)threadIdx.x, lane = tid % 32, warp = tid / 32;
    const int32_t tile_taps = TILE_LARGE / plan.width, tap_tiles = (plan.taps + tile_taps - 1) / tile_taps;
    const int32_t tap0 = (int32_t)blockIdx.y % tap_tiles * tile_taps;
    const int32_t large0 = (int32_t)blockIdx.y / tap_tiles * TILE_LARGE, small0 = (int32_t)blockIdx.x * TILE_SMALL;
    const int32_t first_row = ((int32_t)blockIdx.z + plan.first_part) * plan.part_rows;
    const int32_t last_row = min(first_row + plan.part_rows, (int32_t)call.rows);
    const int32_t pixels = (last_row - first_row) * call.geometry.out[0] * call.geometry.out[1];
    const int32_t steps = (pixels + PIXELS - 1) / PIXELS;
    const uint32_t base = shared_address(shared);
    gradient_loader loader = open_loader(plan, first_row, last_row, tap0, small0, large0);
    const auto load_step = [&](int32_t step) {
        const uint32_t left = base + (uint32_t)(step % STAGES) * 2 * PIXELS * LINE_BYTES;
        loader.load(left, left + PIXELS * LINE_BYTES);
    };

    float sums[2][4][4] = {};
    const auto multiply_step = [&](int32_t step) {
        const uint32_t left = base + (uint32_t)(step % STAGES) * 2 * PIXELS * LINE_BYTES,
                       right = left + PIXELS * LINE_BYTES;
        const uint32_t matrix = lane / 8, within = lane % 8;
#pragma unroll
        for (int k = 0; k < PIXELS / 16; ++k) {
            uint32_t a[2][4], b[2][4];
            /* both lie pixel by pixel: transposed loads give channels by pixels */
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
        }
    };

    for (int32_t step = 0; step < STAGES - 1; ++step) {
        if (step < steps) load_step(step);
        commit_copies();
    }
    for (int32_t step = 0; step < steps; ++step) {
        wait_copies<STAGES - 2>();
        __syncthreads();
        if (step + STAGES - 1 < steps) load_step(step + STAGES - 1);
        commit_copies();
        multiply_step(step);
    }
    float *out = call.partials + (int64_t)blockIdx.z * plan.weight_count;
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j)
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                const int32_t s = small0 + warp / 2 * 32 + i * 16 + lane / 4 + k / 2 * 8;
                const int32_t n = warp % 2 * 32 + j * 8 + lane % 4 * 2 + k % 2, tap = tap0 + n / plan.width;
                const int32_t l = large0 + n % plan.width;
                if (s < call.small_channels && l < call.large_channels && tap < plan.taps)
                    out[((int64_t)s * plan.taps + tap) * call.large_channels + l] = sums[i][j][k];
            }
}

/* ---- plain f32: 64 x 64 numbers of one tap, a thread makes 8 x 4 */

enum { DEPTH = 16 };

static __global__ void __launch_bounds__(THREADS) gradient_f32_kernel(const __grid_constant__ gradient_plan plan)
{
    begin_kernel();
    __shared__ __align__(16) float a[DEPTH][TILE_SMALL + 4], b[DEPTH][TILE_LARGE + 4];
    const cuda_weight_gradient &call = plan.call;
    const cuda_geometry &g = call.geometry;
    const int32_t tid = (int32_t)threadIdx.x;
    const int32_t tap = (int32_t)blockIdx.y % plan.taps, large0 = (int32_t)blockIdx.y / plan.taps * TILE_LARGE;
    const int32_t small0 = (int32_t)blockIdx.x * TILE_SMALL, part = (int32_t)blockIdx.z + plan.first_part;
    const int64_t first_row = (int64_t)part * plan.part_rows;
    const int64_t last_row = first_row + plan.part_rows < call.rows ? first_row + plan.part_rows : call.rows;
    const int32_t area = g.out[0] * g.out[1], pixels = (int32_t)(last_row - first_row) * area;
    const int32_t line = tid / 16 * 8, place = tid % 16 * 4;
    float sums[8][4] = {};
    for (int32_t first = 0; first < pixels; first += DEPTH) {
        for (int32_t i = tid; i < DEPTH * TILE_SMALL; i += THREADS) {
            const int32_t c = i % TILE_SMALL, k = i / TILE_SMALL, pixel = first + k;
            const int64_t row = first_row + pixel / area;
            const int32_t y = pixel % area / g.out[1], x = pixel % area % g.out[1];
            int32_t large_y, large_x;
            a[k][c] = b[k][c] = 0.0f;
            if (pixel >= pixels) continue;
            if (small0 + c < call.small_side.channels)
                a[k][c] = load_value(call.small_side,
                                     pixel_at(call.small_side, row, y / call.small_shrink, x / call.small_shrink) +
                                         small0 + c);
            if (large0 + c < call.large_side.channels && large_place(g, y, x, tap, &large_y, &large_x))
                b[k][c] = load_value(call.large_side, pixel_at(call.large_side, row, large_y / call.large_shrink,
                                                               large_x / call.large_shrink) +
                                                          large0 + c);
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < DEPTH; ++k)
#pragma unroll
            for (int i = 0; i < 8; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j) sums[i][j] = fmaf(a[k][line + i], b[k][place + j], sums[i][j]);
        __syncthreads();
    }
    float *out = call.partials + (int64_t)blockIdx.z * plan.weight_count;
#pragma unroll
    for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j)
            if (small0 + line + i < call.small_channels && large0 + place + j < call.large_channels)
                out[((int64_t)(small0 + line + i) * plan.taps + tap) * call.large_channels + large0 + place + j] =
                    sums[i][j];
}

/* gradient += scale * (part 0 + part 1 + ...). A block adds 32 numbers, each by PART_SLICES threads whose sums are then
 * added in order: the order depends on the number of parts alone. */
enum { PART_SLICES = 8 };

static __global__ void add_parts_kernel(int64_t count, int parts, const float *partials, float scale, float *gradient)
{
    begin_kernel();
    __shared__ double sums[PART_SLICES][33];
    const int64_t i = (int64_t)blockIdx.x * 32 + threadIdx.x;
    double total = 0.0;
    for (int p = (int)threadIdx.y; p < parts && i < count; p += PART_SLICES) total += partials[p * count + i];
    sums[threadIdx.y][threadIdx.x] = total;
    __syncthreads();
    if (threadIdx.y || i >= count) return;
    for (int slice = 1; slice < PART_SLICES; ++slice) total += sums[slice][threadIdx.x];
    gradient[i] = (float)(gradient[i] + scale * total);
}

static mmebm_status add_parts(const mmebm_device *device, int64_t count, int parts, const float *partials, float scale,
                              float *gradient)
{
    const dim3 grid((unsigned)((count + 31) / 32));
    return mmebm__cuda_launch(device, "sum of gradients", add_parts_kernel, grid, dim3(32, PART_SLICES), 0, count,
                              parts, partials, scale, gradient);
}

static int32_t rows_of_part(int64_t pixels)
{
    return (int32_t)(pixels < PART_PIXELS ? (PART_PIXELS + pixels - 1) / pixels : 1);
}

size_t mmebm__cuda_gradient_scratch(int64_t weight_count, int64_t pixels, int64_t rows)
{
    const int64_t part_rows = rows_of_part(pixels), parts = rows / part_rows + 1;
    return (size_t)(weight_count * (parts < (int64_t)MAX_PARTS ? parts : (int64_t)MAX_PARTS));
}

/* Channels of a tap in a tile: the narrowest of 8, 16, 32, 64 that holds them. */
static int32_t tile_width(int32_t channels)
{
    int32_t width = LANES;
    while (width < channels && width < (int32_t)TILE_LARGE) width *= 2;
    return width;
}

static gradient_plan plan_gradient(const cuda_weight_gradient *call, int tensor_cores)
{
    const cuda_geometry *g = &call->geometry;
    gradient_plan plan = {};
    plan.call = *call;
    plan.taps = g->kernel[0] * g->kernel[1];
    plan.part_rows = rows_of_part((int64_t)g->out[0] * g->out[1]);
    plan.weight_count = (int64_t)call->small_channels * plan.taps * call->large_channels;
    plan.width = tensor_cores ? tile_width(call->large_side.channels) : (int32_t)TILE_LARGE;
    plan.step_row = PIXELS / (g->out[0] * g->out[1]);
    plan.step_y = PIXELS / g->out[1] % g->out[0];
    plan.step_x = PIXELS % g->out[1];
    return plan;
}

mmebm_status mmebm__cuda_weight_gradient(const mmebm_device *device, const cuda_weight_gradient *call)
{
    const cuda_operand small = {call->small_side, call->small_shrink, 1, 1.0f};
    const cuda_operand large = {call->large_side, call->large_shrink, 1, 1.0f};
    const int tensor_cores =
        mmebm__cuda_product_reads(FACTORS_BF16, &small) && mmebm__cuda_product_reads(FACTORS_BF16, &large);
    gradient_plan plan = plan_gradient(call, tensor_cores);
    const int64_t parts = (call->rows + plan.part_rows - 1) / plan.part_rows;
    const int bytes = STAGES * 2 * PIXELS * LINE_BYTES, tile_taps = (int)TILE_LARGE / plan.width;
    const unsigned tap_tiles = (unsigned)((plan.taps + tile_taps - 1) / tile_taps);
    if (tensor_cores)
        CUDA_TRY(mmebm__cuda_check(
            device, cudaFuncSetAttribute(gradient_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
            "shared memory of a weight gradient"));
    for (int64_t first = 0; first < parts; first += MAX_PARTS) {
        const int now = (int)(parts - first < (int64_t)MAX_PARTS ? parts - first : (int64_t)MAX_PARTS);
        const dim3 grid((unsigned)((call->small_channels + TILE_SMALL - 1) / TILE_SMALL),
                        (unsigned)((call->large_channels + TILE_LARGE - 1) / TILE_LARGE) * tap_tiles, (unsigned)now);
        plan.first_part = (int32_t)first;
        if (tensor_cores)
            CUDA_TRY(mmebm__cuda_launch(device, "weight gradient", gradient_kernel, grid, THREADS, bytes, plan));
        else
            CUDA_TRY(mmebm__cuda_launch(device, "weight gradient", gradient_f32_kernel, grid, THREADS, 0, plan));
        CUDA_TRY(add_parts(device, plan.weight_count, now, call->partials, call->scale, call->gradient));
    }
    return MMEBM_OK;
}

/* ---- biases: a block sums BIAS_COLUMNS V channels over one part of the rows, a thread V of some pixels */

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
    else if (tensor.data)
        add_all([&](int64_t at, float *value) { load_values<V>(tensor, at, value); });
    else
        add_all([](int64_t, float *value) { value[0] = 1.0f; }); /* V is 1 */
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
    const int32_t part_rows = rows_of_part((int64_t)tensor->height * tensor->width);
    const int64_t parts = (rows + part_rows - 1) / part_rows;
    const int wide = tensor->data && tensor_is_wide(tensor);
    const int32_t block_channels = BIAS_COLUMNS * (wide ? (int32_t)LANES : 1);
    /* every number of the tensor stands for shrink x shrink pixels of the layer */
    const float scale = gradient->scale * (float)(gradient->shrink * gradient->shrink);
    for (int64_t first = 0; first < parts; first += MAX_PARTS) {
        const int now = (int)(parts - first < (int64_t)MAX_PARTS ? parts - first : (int64_t)MAX_PARTS);
        const dim3 grid((unsigned)((tensor->channels + block_channels - 1) / block_channels), (unsigned)now);
        CUDA_TRY(mmebm__cuda_launch(device, "bias gradient", wide ? bias_kernel<LANES> : bias_kernel<1>, grid,
                                    dim3(BIAS_COLUMNS, BIAS_SLICES), 0, *gradient, rows, part_rows, first, partials));
        CUDA_TRY(add_parts(device, tensor->channels, now, partials, scale, bias));
    }
    return MMEBM_OK;
}

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
    PART_PIXELS = 4096, /* about so many in a part */
    MAX_PARTS = 64,     /* summed at once */
    TILE_SMALL = 64,
    TILE_LARGE = 64,
    PIXELS = 64, /* of a step */
    STAGES = 3,
    THREADS = 128
};

struct gradient_plan {
    cuda_weight_gradient call;
    int32_t taps;
    int32_t part_rows, first_part;
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

/* ---- tensor cores: 64 x 64 numbers of one tap by four warps of 32 x 32 */

static __global__ void __launch_bounds__(THREADS) gradient_kernel(const __grid_constant__ gradient_plan plan)
{
    begin_kernel();
    extern __shared__ __align__(1024) unsigned char shared[];
    const cuda_weight_gradient &call = plan.call;
    const cuda_geometry &g = call.geometry;
    const int32_t tid = (int32_t)threadIdx.x, lane = tid % 32, warp = tid / 32, column = tid % CHUNKS;
    const int32_t tap = (int32_t)blockIdx.y % plan.taps, large0 = (int32_t)blockIdx.y / plan.taps * TILE_LARGE;
    const int32_t small0 = (int32_t)blockIdx.x * TILE_SMALL, part = (int32_t)blockIdx.z + plan.first_part;
    const int64_t first_row = (int64_t)part * plan.part_rows;
    const int64_t last_row = first_row + plan.part_rows < call.rows ? first_row + plan.part_rows : call.rows;
    const int32_t area = g.out[0] * g.out[1], pixels = (int32_t)(last_row - first_row) * area;
    const int32_t steps = (pixels + PIXELS - 1) / PIXELS;
    const uint32_t base = shared_address(shared);
    const __nv_bfloat16 *small_data = static_cast<const __nv_bfloat16 *>(call.small_side.data);
    const __nv_bfloat16 *large_data = static_cast<const __nv_bfloat16 *>(call.large_side.data);
    const int32_t small_channel = small0 + column * CHUNK_CHANNELS, large_channel = large0 + column * CHUNK_CHANNELS;

    const auto load_step = [&](int32_t step) {
        const uint32_t left = base + (uint32_t)(step % STAGES) * 2 * PIXELS * LINE_BYTES,
                       right = left + PIXELS * LINE_BYTES;
#pragma unroll
        for (int32_t r = tid / CHUNKS; r < PIXELS; r += THREADS / CHUNKS) {
            const int32_t pixel = step * PIXELS + r;
            const int64_t row = first_row + pixel / area;
            const int32_t y = pixel % area / g.out[1], x = pixel % area % g.out[1];
            int32_t large_y = 0, large_x = 0;
            const bool here = pixel < pixels, has_small = here && small_channel < call.small_side.channels;
            const bool has_large =
                here && large_channel < call.large_side.channels && large_place(g, y, x, tap, &large_y, &large_x);
            const __nv_bfloat16 *small_at = small_data, *large_at = large_data;
            if (has_small)
                small_at +=
                    pixel_at(call.small_side, row, y / call.small_shrink, x / call.small_shrink) + small_channel;
            if (has_large)
                large_at += pixel_at(call.large_side, row, large_y / call.large_shrink, large_x / call.large_shrink) +
                            large_channel;
            copy_async(left + chunk_place(r, column), small_at, has_small);
            copy_async(right + chunk_place(r, column), large_at, has_large);
        }
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
                const int32_t l = large0 + warp % 2 * 32 + j * 8 + lane % 4 * 2 + k % 2;
                if (s < call.small_channels && l < call.large_channels)
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

/* gradient += scale * (part 0 + part 1 + ...), added in order */
static __global__ void add_parts_kernel(int64_t count, int parts, const float *partials, float scale, float *gradient)
{
    begin_kernel();
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += (int64_t)gridDim.x * blockDim.x) {
        double total = gradient[i];
        for (int p = 0; p < parts; ++p) total += (double)scale * partials[p * count + i];
        gradient[i] = (float)total;
    }
}

static mmebm_status add_parts(const mmebm_device *device, int64_t count, int parts, const float *partials, float scale,
                              float *gradient)
{
    return mmebm__cuda_launch(device, "sum of gradients", add_parts_kernel, mmebm__cuda_blocks(count, CUDA_BLOCK),
                              CUDA_BLOCK, 0, count, parts, partials, scale, gradient);
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

mmebm_status mmebm__cuda_weight_gradient(const mmebm_device *device, const cuda_weight_gradient *call)
{
    gradient_plan plan;
    plan.call = *call;
    plan.taps = call->geometry.kernel[0] * call->geometry.kernel[1];
    plan.part_rows = rows_of_part((int64_t)call->geometry.out[0] * call->geometry.out[1]);
    plan.weight_count = (int64_t)call->small_channels * plan.taps * call->large_channels;
    const int64_t parts = (call->rows + plan.part_rows - 1) / plan.part_rows;
    const int tensor_cores = mmebm__cuda_product_reads(&call->small_side, call->small_shrink) &&
                             mmebm__cuda_product_reads(&call->large_side, call->large_shrink);
    const int bytes = STAGES * 2 * PIXELS * LINE_BYTES;
    if (tensor_cores)
        CUDA_TRY(mmebm__cuda_check(
            device, cudaFuncSetAttribute(gradient_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
            "shared memory of a weight gradient"));
    for (int64_t first = 0; first < parts; first += MAX_PARTS) {
        const int now = (int)(parts - first < (int64_t)MAX_PARTS ? parts - first : (int64_t)MAX_PARTS);
        const dim3 grid((unsigned)((call->small_channels + TILE_SMALL - 1) / TILE_SMALL),
                        (unsigned)((call->large_channels + TILE_LARGE - 1) / TILE_LARGE * plan.taps), (unsigned)now);
        plan.first_part = (int32_t)first;
        if (tensor_cores)
            CUDA_TRY(mmebm__cuda_launch(device, "weight gradient", gradient_kernel, grid, THREADS, bytes, plan));
        else
            CUDA_TRY(mmebm__cuda_launch(device, "weight gradient", gradient_f32_kernel, grid, THREADS, 0, plan));
        CUDA_TRY(add_parts(device, plan.weight_count, now, call->partials, call->scale, call->gradient));
    }
    return MMEBM_OK;
}

/* ---- biases: a block sums 32 channels over one part of the rows */

static __global__ void bias_kernel(cuda_operand gradient, int64_t rows, int32_t part_rows, int64_t first_part,
                                   float *partials)
{
    begin_kernel();
    __shared__ double sums[8][33];
    const cuda_tensor &tensor = gradient.tensor;
    const int32_t c = (int32_t)(blockIdx.x * 32 + threadIdx.x), area = tensor.height * tensor.width;
    const int64_t first_row = (first_part + blockIdx.y) * part_rows;
    const int64_t last_row = first_row + part_rows < rows ? first_row + part_rows : rows;
    double total = 0.0;
    for (int64_t at = threadIdx.y; at < (last_row - first_row) * area && c < tensor.channels; at += 8) {
        const int32_t pixel = (int32_t)(at % area);
        total +=
            tensor.data
                ? load_value(tensor,
                             pixel_at(tensor, first_row + at / area, pixel / tensor.width, pixel % tensor.width) + c)
                : 1.0f;
    }
    sums[threadIdx.y][threadIdx.x] = total;
    __syncthreads();
    if (threadIdx.y || c >= tensor.channels) return;
    for (int k = 1; k < 8; ++k) total += sums[k][threadIdx.x];
    partials[blockIdx.y * tensor.channels + c] = (float)total;
}

mmebm_status mmebm__cuda_bias_gradient(const mmebm_device *device, const cuda_operand *gradient, int64_t rows,
                                       float *bias, float *partials)
{
    const cuda_tensor *tensor = &gradient->tensor;
    const int32_t part_rows = rows_of_part((int64_t)tensor->height * tensor->width);
    const int64_t parts = (rows + part_rows - 1) / part_rows;
    /* every number of the tensor stands for shrink x shrink pixels of the layer */
    const float scale = gradient->scale * (float)(gradient->shrink * gradient->shrink);
    for (int64_t first = 0; first < parts; first += MAX_PARTS) {
        const int now = (int)(parts - first < (int64_t)MAX_PARTS ? parts - first : (int64_t)MAX_PARTS);
        const dim3 grid((unsigned)((tensor->channels + 31) / 32), (unsigned)now);
        CUDA_TRY(mmebm__cuda_launch(device, "bias gradient", bias_kernel, grid, dim3(32, 8), 0, *gradient, rows,
                                    part_rows, first, partials));
        CUDA_TRY(add_parts(device, tensor->channels, now, partials, scale, bias));
    }
    return MMEBM_OK;
}

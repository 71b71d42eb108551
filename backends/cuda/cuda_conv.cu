/* SPDX-License-Identifier: Apache-2.0
 *
 * Products with gathered pixels (cuda_tensor.h) in bf16 on tensor cores, sums in f32:
 *   result[m, n] = sum over chunks of 64 source channels, over taps, over channels: source[pixel(m, tap), c] W[n, tap, c]
 * in this order whatever the tile, so that a row's bits do not depend on the number of rows. A block makes BM pixels by BN
 * channels. Its weights stream through shared memory, a slice of 64 numbers for each (chunk, tap). Its source comes in one
 * of two ways:
 *   patch    once for each chunk: the lines of the image that any tap of any of its pixels meets; each tap reads other
 *            lines of the same patch (a line of zeros where it falls outside). For same-size convolutions.
 *   gather   for each (chunk, tap), the BM pixels that it meets. For everything else.
 */
#include "cuda_async.h"
#include "cuda_epilogue.h"

enum { STAGES = 3, MAX_PATCH_BYTES = 84 * 1024 /* two blocks with their weights fit into 227 KB */ };

struct conv_plan {
    cuda_product product;
    int32_t pixels;       /* result pixels before windows, of all rows */
    int32_t padded;       /* result channels in the packed weights */
    int32_t chunks;       /* of LINE_CHANNELS source channels */
    int32_t source_lines; /* of a source buffer: BM or those of a patch */
    int32_t source_buffers;
    int32_t wide;
};

static __device__ int32_t chunk_steps(int32_t channels, int32_t chunk)
{
    const int32_t left = channels - chunk * LINE_CHANNELS;
    return left >= LINE_CHANNELS ? 4 : (left + 15) / 16;
}

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

/* First source line of the patch and how many pixels it has. */
static __device__ void find_patch(const conv_plan &plan, int32_t first, int32_t last, int32_t *start, int32_t *count)
{
    const cuda_geometry &g = plan.product.geometry;
    const int32_t reach = g.direction * (g.kernel[0] - 1), shrink = plan.product.shrink;
    const int32_t window = plan.product.epilogue.window;
    const pixel_place low = place_of(plan.product, first);
    const pixel_place high = place_of(plan.product, window == 2 ? last | 3 : last);
    int32_t y0 = low.y + g.offset[0] + min(reach, 0), y1 = high.y + g.offset[0] + max(reach, 0);
    if (window == 2) y0 -= low.y & 1;
    y0 = max(y0, 0) / shrink;
    y1 = min(y1, g.in[0] - 1) / shrink;
    const int32_t lines = g.in[0] / shrink, width = g.in[1] / shrink;
    *start = (low.row * lines + y0) * width;
    *count = (high.row * lines + y1 + 1) * width - *start;
}

template <int BM, int BN, int WARPS_M, int WARPS_N, bool PATCH>
__global__ void __launch_bounds__(WARPS_M *WARPS_N * 32, 2) product_kernel(const __grid_constant__ conv_plan plan)
{
    constexpr int THREADS = WARPS_M * WARPS_N * 32, TM = BM / WARPS_M, TN = BN / WARPS_N, MT = TM / 16, NT = TN / 8;
    static_assert(NT % 2 == 0, "weights are read 16 channels at a time");
    extern __shared__ __align__(1024) unsigned char shared[];
    __shared__ pixel_place places[BM];
    const cuda_product &product = plan.product;
    const cuda_geometry &g = product.geometry;
    const int32_t tid = (int32_t)threadIdx.x, lane = tid % 32, warp = tid / 32;
    const int32_t warp_m = warp / WARPS_N * TM, warp_n = warp % WARPS_N * TN;
    const int32_t m0 = (int32_t)blockIdx.x * BM, n0 = (int32_t)blockIdx.y * BN;
    const int32_t taps = g.kernel[0] * g.kernel[1], steps = plan.chunks * taps;
    const int32_t halved = product.shrink - 1; /* shrink is 1 or 2: a shift */
    const int32_t source_height = g.in[0] >> halved, source_width = g.in[1] >> halved;
    const __nv_bfloat16 *source = static_cast<const __nv_bfloat16 *>(product.source.data);
    const __nv_bfloat16 *weights = static_cast<const __nv_bfloat16 *>(product.weights);
    const uint32_t zeros = shared_address(shared), weight_base = zeros + LINE_BYTES * 8;
    const uint32_t source_base = weight_base + STAGES * BN * LINE_BYTES;

    for (int32_t i = tid; i < BM; i += THREADS) {
        const int32_t m = m0 + i;
        places[i] = place_of(product, m < plan.pixels ? m : plan.pixels - 1);
    }
    if (tid < CHUNKS) reinterpret_cast<uint4 *>(shared)[tid] = make_uint4(0, 0, 0, 0);
    int32_t patch_start = 0, patch_count = 0;
    if (PATCH) find_patch(plan, m0, min(m0 + BM, plan.pixels) - 1, &patch_start, &patch_count);
    __syncthreads();

    const auto load_step = [&](int32_t step) {
        const int32_t chunk = step / taps, tap = step % taps, column = tid % CHUNKS;
        const uint32_t slice = weight_base + (uint32_t)(step % STAGES) * BN * LINE_BYTES;
        const __nv_bfloat16 *from = weights + ((int64_t)step * plan.padded + n0) * LINE_CHANNELS + column * CHUNK_CHANNELS;
#pragma unroll
        for (int32_t n = tid / CHUNKS; n < BN; n += THREADS / CHUNKS)
            copy_async(slice + chunk_place(n, column), from + n * LINE_CHANNELS, true);
        const int32_t channel = chunk * LINE_CHANNELS + column * CHUNK_CHANNELS;
        if (column >= 2 * chunk_steps(product.source.channels, chunk)) return;
        const bool has_channel = channel < product.source.channels;
        if (PATCH) {
            if (tap) return;
            const uint32_t buffer = source_base + (uint32_t)(chunk % plan.source_buffers) * plan.source_lines * LINE_BYTES;
            for (int32_t p = tid / CHUNKS; p < patch_count; p += THREADS / CHUNKS)
                copy_async(buffer + chunk_place(p, column),
                           has_channel ? source + (int64_t)(patch_start + p) * product.source.stride + channel : source,
                           has_channel);
            return;
        }
        const uint32_t buffer = source_base + (uint32_t)(step % STAGES) * BM * LINE_BYTES;
        const int32_t a = tap / g.kernel[1], b = tap % g.kernel[1];
#pragma unroll 4
        for (int32_t r = tid / CHUNKS; r < BM; r += THREADS / CHUNKS) {
            const pixel_place place = places[r];
            int32_t y, x;
            const bool inside = source_place(g, 0, place.y, a, &y) & source_place(g, 1, place.x, b, &x) & has_channel;
            const int64_t pixel = ((int64_t)place.row * source_height + (y >> halved)) * source_width + (x >> halved);
            copy_async(buffer + chunk_place(r, column), inside ? source + pixel * product.source.stride + channel : source,
                       inside);
        }
    };

    float sums[MT][NT][4];
#pragma unroll
    for (int i = 0; i < MT; ++i)
#pragma unroll
        for (int j = 0; j < NT; ++j)
#pragma unroll
            for (int k = 0; k < 4; ++k) sums[i][j][k] = 0.0f;

    const auto multiply_step = [&](int32_t step) {
        const int32_t chunk = step / taps, tap = step % taps;
        const uint32_t slice = weight_base + (uint32_t)(step % STAGES) * BN * LINE_BYTES;
        const uint32_t buffer = source_base + (PATCH ? (uint32_t)(chunk % plan.source_buffers) * plan.source_lines
                                                     : (uint32_t)(step % STAGES) * BM) * LINE_BYTES;
        uint32_t line[MT], key[MT];
#pragma unroll
        for (int i = 0; i < MT; ++i) {
            const int32_t r = warp_m + i * 16 + lane % 16;
            line[i] = buffer + (uint32_t)r * LINE_BYTES;
            key[i] = (uint32_t)r & 7u;
            if (!PATCH) continue;
            const pixel_place place = places[r];
            const int32_t y = place.y + g.offset[0] + g.direction * (tap / g.kernel[1]);
            const int32_t x = place.x + g.offset[1] + g.direction * (tap % g.kernel[1]);
            const bool inside = y >= 0 && y < g.in[0] && x >= 0 && x < g.in[1];
            const int32_t pixel = (place.row * source_height + (y >> halved)) * source_width + (x >> halved) - patch_start;
            line[i] = inside ? buffer + (uint32_t)pixel * LINE_BYTES : zeros;
            key[i] = inside ? (uint32_t)pixel & 7u : 0u;
        }
        const int32_t depth = chunk_steps(product.source.channels, chunk);
        uint32_t a[2][MT][4], b[2][NT / 2][4]; /* one set is loaded while the other is multiplied */
        const auto load_fragments = [&](int k) {
#pragma unroll
            for (int i = 0; i < MT; ++i)
                load_matrices(a[k % 2][i], line[i] + (((uint32_t)(2 * k + lane / 16) ^ key[i]) << 4));
#pragma unroll
            for (int j = 0; j < NT / 2; ++j)
                load_matrices(b[k % 2][j], slice + chunk_place((uint32_t)(warp_n + j * 16 + lane / 16 * 8 + lane % 8),
                                                               (uint32_t)(2 * k + lane / 8 % 2)));
        };
        load_fragments(0);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            if (k >= depth) break;
            if (k < 3 && k + 1 < depth) load_fragments(k + 1);
#pragma unroll
            for (int i = 0; i < MT; ++i)
#pragma unroll
                for (int j = 0; j < NT; ++j)
                    multiply(sums[i][j], a[k % 2][i], b[k % 2][j / 2][j % 2 * 2], b[k % 2][j / 2][j % 2 * 2 + 1]);
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
    wait_copies<0>();
    __syncthreads();

    /* Each warp turns 16 pixels at a time around in shared memory, so that a thread gets LANES channels of a pixel. */
    constexpr int PITCH = TN + 4;
    float *tile = reinterpret_cast<float *>(shared) + warp * 16 * PITCH;
    const int32_t window = product.epilogue.window == 2 ? 4 : 1, lines = 16 / window;
#pragma unroll
    for (int i = 0; i < MT; ++i) {
#pragma unroll
        for (int j = 0; j < NT; ++j) {
            float *place = tile + lane / 4 * PITCH + j * 8 + lane % 4 * 2;
            *reinterpret_cast<float2 *>(place) = make_float2(sums[i][j][0], sums[i][j][1]);
            *reinterpret_cast<float2 *>(place + 8 * PITCH) = make_float2(sums[i][j][2], sums[i][j][3]);
        }
        __syncwarp();
        for (int32_t item = lane; item < lines * NT; item += 32) {
            const int32_t r = item / NT, column = item % NT * LANES;
            const int32_t m = m0 + warp_m + i * 16 + r * window, n = n0 + warp_n + column;
            if (m >= plan.pixels || n >= product.out_channels) continue;
            float v[LANES];
#pragma unroll
            for (int k = 0; k < LANES; ++k) {
                v[k] = tile[r * window * PITCH + column + k];
                for (int w = 1; w < window; ++w) v[k] += tile[(r * window + w) * PITCH + column + k];
            }
            if (plan.wide) {
                finish<LANES>(product, m / window, n, v);
            } else {
#pragma unroll
                for (int k = 0; k < LANES; ++k)
                    if (n + k < product.out_channels) finish<1>(product, m / window, n + k, v + k);
            }
        }
        __syncwarp();
    }
}

/* ---- launching */

/* Most source pixels that a block of `block` result pixels meets; 0 if a patch does not suit. */
static int64_t patch_lines(const cuda_product *product, int block)
{
    const cuda_geometry *g = &product->geometry;
    const int window = product->epilogue.window, shrink = product->shrink;
    for (int axis = 0; axis < 2; ++axis)
        if (g->out[axis] != g->in[axis] || g->mul[axis] != 1 || g->div[axis] != 1) return 0;
    if (g->kernel[0] * g->kernel[1] < STAGES) return 0;
    const int64_t width = g->out[1] / window, pixels = block / (window * window);
    const int64_t touched = ((pixels + width - 2) / width + 1) * window + g->kernel[0] - 1;
    return (shrink == 1 ? touched : touched / 2 + 2) * (g->in[1] / shrink);
}

template <int BM, int BN, int WARPS_M, int WARPS_N, bool PATCH>
static mmebm_status launch_kernel(const mmebm_device *device, const conv_plan *plan)
{
    const size_t source = (size_t)plan->source_lines * plan->source_buffers * LINE_BYTES;
    const size_t bytes = 8 * LINE_BYTES + (size_t)STAGES * BN * LINE_BYTES + source;
    const size_t turned = (size_t)WARPS_M * WARPS_N * 16 * (BN / WARPS_N + 4) * sizeof(float);
    const size_t shared = bytes > turned ? bytes : turned;
    CUDA_TRY(mmebm__cuda_check(device,
                               cudaFuncSetAttribute(product_kernel<BM, BN, WARPS_M, WARPS_N, PATCH>,
                                                    cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared),
                               "shared memory of a convolution"));
    const dim3 grid((unsigned)((plan->pixels + BM - 1) / BM), (unsigned)((plan->product.out_channels + BN - 1) / BN));
    product_kernel<BM, BN, WARPS_M, WARPS_N, PATCH><<<grid, WARPS_M * WARPS_N * 32, shared, device->stream>>>(*plan);
    return mmebm__cuda_launched(device, "convolution");
}

template <int BM, int BN, int WARPS_M, int WARPS_N>
static mmebm_status launch(const mmebm_device *device, conv_plan *plan)
{
    const int64_t lines = patch_lines(&plan->product, BM);
    plan->source_buffers = plan->chunks > 1 ? 2 : 1;
    if (lines && lines * plan->source_buffers * LINE_BYTES <= MAX_PATCH_BYTES) {
        plan->source_lines = (int32_t)((lines + 7) / 8 * 8);
        return launch_kernel<BM, BN, WARPS_M, WARPS_N, true>(device, plan);
    }
    plan->source_lines = BM;
    plan->source_buffers = STAGES;
    return launch_kernel<BM, BN, WARPS_M, WARPS_N, false>(device, plan);
}

static int32_t padded_channels(int32_t channels)
{
    return channels <= 16 ? 16 : channels <= 32 ? 32 : channels <= 64 ? 64 : (channels + 127) / 128 * 128;
}

mmebm_status mmebm__cuda_product_bf16(const mmebm_device *device, const cuda_product *product)
{
    conv_plan plan;
    plan.product = *product;
    plan.pixels = (int32_t)(product->rows * product->geometry.out[0] * product->geometry.out[1]);
    plan.padded = padded_channels(product->out_channels);
    plan.chunks = (product->source.channels + LINE_CHANNELS - 1) / LINE_CHANNELS;
    plan.wide = epilogue_is_wide(product);
    if (plan.padded == 16) return launch<128, 16, 4, 1>(device, &plan);
    if (plan.padded == 32) return launch<128, 32, 4, 1>(device, &plan);
    const int64_t blocks = plan.padded == 64 ? plan.pixels / 256 : (int64_t)plan.pixels / 128 * (plan.padded / 128);
    if (blocks < device->processors) return launch<64, 64, 2, 2>(device, &plan); /* few pixels: smaller tiles fill the chip */
    return plan.padded == 64 ? launch<256, 64, 4, 1>(device, &plan) : launch<128, 128, 2, 2>(device, &plan);
}

int mmebm__cuda_product_reads(const cuda_tensor *tensor, int shrink)
{
    return tensor->type == TYPE_BF16 && tensor->data && !tensor->period && (shrink == 1 || shrink == 2) &&
           tensor_is_wide(tensor);
}

/* ---- weights */

size_t mmebm__cuda_packed_size_bf16(int32_t taps, int32_t source_channels, int32_t out_channels)
{
    const size_t chunks = (size_t)((source_channels + LINE_CHANNELS - 1) / LINE_CHANNELS);
    return (size_t)padded_channels(out_channels) * (size_t)taps * chunks * LINE_BYTES;
}

static __global__ void pack_kernel(cuda_pack pack, int32_t padded, int64_t count)
{
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += (int64_t)gridDim.x * blockDim.x) {
        const int32_t within = (int32_t)(i % LINE_CHANNELS), n = (int32_t)(i / LINE_CHANNELS % padded);
        const int32_t step = (int32_t)(i / LINE_CHANNELS / padded), tap = step % pack.taps;
        const int32_t c = step / pack.taps * LINE_CHANNELS + within;
        float value = 0.0f;
        if (n < pack.out_channels && c < pack.source_channels)
            value = pack.result_first ? pack.weights[((int64_t)n * pack.taps + tap) * pack.source_channels + c]
                                      : pack.weights[((int64_t)c * pack.taps + tap) * pack.out_channels + n];
        static_cast<__nv_bfloat16 *>(pack.packed)[i] = __float2bfloat16_rn(value);
    }
}

mmebm_status mmebm__cuda_pack_bf16(const mmebm_device *device, const cuda_pack *pack)
{
    const int64_t count = (int64_t)(mmebm__cuda_packed_size_bf16(pack->taps, pack->source_channels,
                                                                 pack->out_channels) / sizeof(__nv_bfloat16));
    pack_kernel<<<mmebm__cuda_blocks(count, CUDA_BLOCK), CUDA_BLOCK, 0, device->stream>>>(
        *pack, padded_channels(pack->out_channels), count);
    return mmebm__cuda_launched(device, "packing of weights");
}

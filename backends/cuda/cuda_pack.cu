/* SPDX-License-Identifier: Apache-2.0
 *
 * Weights in the layouts that the products' kernels read (cuda_tensor.h, cuda_pack).
 */
#include "cuda_conv.h"
#include "cuda_launch.h"

size_t mmebm__cuda_packed_size(int32_t factors, int32_t taps, int32_t source_channels, int32_t out_channels)
{
    const size_t lines = (size_t)padded_channels(factors, out_channels) * (size_t)taps;
    if (!has_lines(factors)) return lines * (size_t)source_channels * sizeof(float);
    return lines * (size_t)chunks_of(factors, source_channels) * (size_t)slices_of(factors) * LINE_BYTES;
}

/* Where number c of a line lies: its chunks as in shared memory, so that slices are copied as they are. Slices begin at
 * multiples of eight lines. */
template <typename T> static __device__ __forceinline__ T *packed_place(const cuda_pack &pack, int64_t line, int32_t c)
{
    const int32_t chunk = 16 / (int32_t)sizeof(T), of_line = c % (LINE_BYTES / (int32_t)sizeof(T));
    const uint32_t place = (uint32_t)(of_line / chunk) ^ (uint32_t)(line & 7);
    return reinterpret_cast<T *>(static_cast<char *>(pack.packed) + line * LINE_BYTES + place * 16) + of_line % chunk;
}

/* The weight of a step (chunk of source channel c, tap) and result channel n. */
static __device__ __forceinline__ void store_packed(const cuda_pack &pack, int32_t padded, int64_t step, int32_t n,
                                                    int32_t c, float value)
{
    const int64_t line = step * slices_of(pack.factors) * padded + n;
    if (pack.factors == FACTORS_BF16) {
        *packed_place<__nv_bfloat16>(pack, line, c) = __float2bfloat16_rn(value);
        return;
    }
    const float high = to_tf32(value);
    *packed_place<float>(pack, line, c) = high;
    if (pack.factors == FACTORS_SPLIT) *packed_place<float>(pack, line + padded, c) = tf32_rest(value, high);
}

static __global__ void pack_kernel(cuda_pack pack, int32_t padded, int32_t count)
{
    begin_kernel();
    for (int32_t i = (int32_t)(blockIdx.x * blockDim.x + threadIdx.x); i < count;
         i += (int32_t)(gridDim.x * blockDim.x)) {
        const int32_t second = pack.result_first ? pack.source_channels : pack.out_channels;
        const int32_t tap = i / second % pack.taps, low = i % second, high = i / second / pack.taps;
        const int32_t n = pack.out_first + (pack.result_first ? high : low);
        const int32_t c = pack.source_first + (pack.result_first ? low : high);
        const int64_t step = (int64_t)(c / line_channels(pack.factors)) * pack.taps + tap;
        store_packed(pack, padded, step, n, c, pack.weights[i]);
    }
}

/* [kind - 1][phase][tap]: of the three taps along an axis, those that tap of that phase adds up, as a set. */
static __device__ const unsigned char phase_sets[4][2][2] = {
    {{1, 6}, {3, 4}}, /* CUDA_DOUBLED */
    {{6, 1}, {4, 3}}, /* CUDA_DOUBLED_BACK */
    {{3, 4}, {1, 6}}, /* CUDA_HALVED */
    {{4, 3}, {6, 1}}, /* CUDA_HALVED_BACK */
};

static __global__ void pack_phases_kernel(cuda_pack pack, int32_t padded, int32_t count)
{
    begin_kernel();
    const int32_t line = line_channels(pack.factors), chunks = (pack.source_channels + line - 1) / line;
    for (int32_t i = (int32_t)(blockIdx.x * blockDim.x + threadIdx.x); i < count;
         i += (int32_t)(gridDim.x * blockDim.x)) {
        const int32_t second = pack.result_first ? pack.source_channels : pack.out_channels;
        const int32_t low = i % second, place = i / second % (PHASES * PHASE_TAPS);
        const int32_t high = i / second / (PHASES * PHASE_TAPS), phase = place / PHASE_TAPS, tap = place % PHASE_TAPS;
        const int32_t n = pack.result_first ? high : low, c = pack.result_first ? low : high;
        const int rows = phase_sets[pack.phases - 1][phase >> 1][tap >> 1];
        const int columns = phase_sets[pack.phases - 1][phase & 1][tap & 1];
        float sum = 0.0f;
        for (int t = 0; t < 9; ++t)
            if ((rows >> t / 3 & 1) && (columns >> t % 3 & 1)) sum += pack.weights[(high * 9 + t) * second + low];
        store_packed(pack, padded, (int64_t)(phase * chunks + c / line) * PHASE_TAPS + tap, n, c, sum);
    }
}

/* [tap][source channel][padded result channel] */
static __global__ void pack_plain_kernel(cuda_pack pack, int32_t padded, int64_t count)
{
    begin_kernel();
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += (int64_t)gridDim.x * blockDim.x) {
        const int32_t n = (int32_t)(i % padded), k = (int32_t)(i / padded);
        const int32_t c = k % pack.source_channels, tap = k / pack.source_channels;
        float value = 0.0f;
        if (n < pack.out_channels)
            value = pack.result_first ? pack.weights[((int64_t)n * pack.taps + tap) * pack.source_channels + c]
                                      : pack.weights[((int64_t)c * pack.taps + tap) * pack.out_channels + n];
        static_cast<float *>(pack.packed)[i] = value;
    }
}

static mmebm_status pack_plain(const mmebm_device *device, const cuda_pack *pack, int32_t padded)
{
    const int64_t count = (int64_t)padded * pack->taps * pack->source_channels;
    return mmebm__cuda_launch(device, "packing of weights", pack_plain_kernel, mmebm__cuda_blocks(count, CUDA_BLOCK),
                              CUDA_BLOCK, 0, *pack, padded, count);
}

mmebm_status mmebm__cuda_pack(const mmebm_device *device, const cuda_pack *pack)
{
    const int32_t padded = padded_channels(pack->factors, pack->all_out_channels);
    if (!has_lines(pack->factors)) return pack_plain(device, pack, padded);
    const int whole = pack->phases == CUDA_WHOLE;
    const int32_t taps = whole ? pack->taps : (int32_t)(PHASES * PHASE_TAPS);
    const int32_t count = taps * pack->source_channels * pack->out_channels;
    return mmebm__cuda_launch(device, "packing of weights", whole ? pack_kernel : pack_phases_kernel,
                              mmebm__cuda_blocks(count, CUDA_BLOCK), CUDA_BLOCK, 0, *pack, padded, count);
}

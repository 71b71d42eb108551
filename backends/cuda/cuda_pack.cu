/* SPDX-License-Identifier: Apache-2.0
 *
 * Weights in the layouts that the products' kernels read (cuda_tensor.h, cuda_pack). A training step packs hundreds of
 * small tensors; one launch does as many as its parameters hold.
 */
#include "cuda_conv.h"
#include "cuda_launch.h"

size_t mmebm__cuda_packed_size(int32_t factors, int32_t taps, int32_t source_channels, int32_t out_channels)
{
    const size_t lines = (size_t)padded_channels(factors, out_channels) * (size_t)taps;
    if (!has_lines(factors)) return lines * (size_t)source_channels * sizeof(float);
    return lines * (size_t)chunks_of(factors, source_channels) * (size_t)slices_of(factors) * LINE_BYTES;
}

/* Of three or four taps along an axis, those that a tap of a phase adds up, as a set: [kind - 1][phase][tap]. */
static __device__ const unsigned char phase_sets[6][2][2] = {
    {{1, 6}, {3, 4}}, /* CUDA_DOUBLED */
    {{6, 1}, {4, 3}}, /* CUDA_DOUBLED_BACK */
    {{3, 4}, {1, 6}}, /* CUDA_HALVED */
    {{4, 3}, {6, 1}}, /* CUDA_HALVED_BACK */
    {{2, 8}, {1, 4}}, /* CUDA_STRIDED */
    {{8, 2}, {4, 1}}, /* CUDA_STRIDED_BACK */
};

/* Taps of a packed step's kind: of the tensor, or of all phases. */
static __host__ __device__ __forceinline__ int32_t places_of(const cuda_pack &pack)
{
    return pack.phases == CUDA_WHOLE ? pack.taps : (int32_t)(PHASES * PHASE_TAPS);
}

/* The weight between channel c of the source and n of the result at a place: a tap's, or the sum of those that a
 * phase's tap is made of. c and n count in the tensor. */
static __device__ __forceinline__ float weight_at(const cuda_pack &pack, int32_t place, int32_t n, int32_t c)
{
    const int32_t second = pack.result_first ? pack.source_channels : pack.out_channels;
    const int32_t high = pack.result_first ? n : c, low = pack.result_first ? c : n;
    const float *taps = pack.weights + (int64_t)high * pack.taps * second + low;
    if (pack.phases == CUDA_WHOLE) return taps[place * second];
    const int32_t phase = place / PHASE_TAPS, tap = place % PHASE_TAPS, width = pack.taps == 16 ? 4 : 3;
    const int rows = phase_sets[pack.phases - 1][phase >> 1][tap >> 1];
    const int columns = phase_sets[pack.phases - 1][phase & 1][tap & 1];
    float sum = 0.0f;
    for (int32_t y = 0; y < width; ++y)
        for (int32_t x = 0; x < width; ++x)
            if ((rows >> y & 1) && (columns >> x & 1)) sum += taps[(y * width + x) * second];
    return sum;
}

/* The line of result channel n (of all) at a place of a chunk of source channels: [chunk][tap], or
 * [phase][chunk][tap]. */
static __device__ __forceinline__ int64_t packed_line(const cuda_pack &pack, int32_t padded, int32_t chunk,
                                                      int32_t place, int32_t n)
{
    const int32_t line = line_channels(pack.factors), chunks = (pack.all_source_channels + line - 1) / line;
    const int64_t step = pack.phases == CUDA_WHOLE
                             ? (int64_t)chunk * pack.taps + place
                             : (int64_t)(place / PHASE_TAPS * chunks + chunk) * PHASE_TAPS + place % PHASE_TAPS;
    return step * slices_of(pack.factors) * padded + n;
}

/* 16 bytes of a line lie as in shared memory, so that slices are copied as they are; slices begin at multiples of eight
 * lines. */
static __device__ __forceinline__ void *packed_place(const cuda_pack &pack, int64_t line, int32_t piece)
{
    return static_cast<char *>(pack.packed) + line * LINE_BYTES + ((uint32_t)piece ^ (uint32_t)(line & 7)) * 16;
}

/* Numbers in 16 bytes. */
static __host__ __device__ __forceinline__ int32_t piece_numbers(int32_t factors)
{
    return line_channels(factors) / CHUNKS;
}

/* Piece i of a tensor that has the packed lines for itself. */
static __device__ __forceinline__ void pack_piece(const cuda_pack &pack, int32_t padded, int32_t i)
{
    const int32_t piece = i % CHUNKS, n = i / CHUNKS % pack.out_channels, step = i / CHUNKS / pack.out_channels;
    const int32_t places = places_of(pack), place = step % places, chunk = step / places;
    const int32_t numbers = piece_numbers(pack.factors), first = chunk * line_channels(pack.factors) + piece * numbers;
    if (first >= pack.source_channels) return; /* stays zero */
    float v[LANES] = {};
#pragma unroll
    for (int k = 0; k < LANES; ++k)
        if (k < numbers && first + k < pack.source_channels) v[k] = weight_at(pack, place, n, first + k);
    const int64_t line = packed_line(pack, padded, chunk, place, pack.out_first + n);
    if (pack.factors == FACTORS_BF16) {
        *static_cast<uint4 *>(packed_place(pack, line, piece)) =
            make_uint4(pack_pair(v[0], v[1]), pack_pair(v[2], v[3]), pack_pair(v[4], v[5]), pack_pair(v[6], v[7]));
        return;
    }
    const float4 high = make_float4(to_tf32(v[0]), to_tf32(v[1]), to_tf32(v[2]), to_tf32(v[3]));
    *static_cast<float4 *>(packed_place(pack, line, piece)) = high;
    if (pack.factors == FACTORS_SPLIT)
        *static_cast<float4 *>(packed_place(pack, line + padded, piece)) =
            make_float4(tf32_rest(v[0], high.x), tf32_rest(v[1], high.y), tf32_rest(v[2], high.z),
                        tf32_rest(v[3], high.w));
}

/* Number i of a tensor that shares lines with others. */
static __device__ __forceinline__ void pack_number(const cuda_pack &pack, int32_t padded, int32_t i)
{
    const int32_t own = i % pack.source_channels, rest = i / pack.source_channels, places = places_of(pack);
    const int32_t n = rest % pack.out_channels, place = rest / pack.out_channels % places;
    const int32_t c = pack.source_first + own, of_line = c % line_channels(pack.factors);
    const int32_t numbers = piece_numbers(pack.factors), piece = of_line / numbers, within = of_line % numbers;
    const float value = weight_at(pack, place, n, own), high = to_tf32(value);
    const int64_t line = packed_line(pack, padded, c / line_channels(pack.factors), place, pack.out_first + n);
    if (pack.factors == FACTORS_BF16) {
        static_cast<__nv_bfloat16 *>(packed_place(pack, line, piece))[within] = __float2bfloat16_rn(value);
        return;
    }
    static_cast<float *>(packed_place(pack, line, piece))[within] = high;
    if (pack.factors == FACTORS_SPLIT)
        static_cast<float *>(packed_place(pack, line + padded, piece))[within] = tf32_rest(value, high);
}

/* Number i of those packed: [tap][source channel][padded result channel] */
static __device__ __forceinline__ void pack_plain(const cuda_pack &pack, int32_t padded, int64_t i)
{
    const int32_t n = (int32_t)(i % padded), k = (int32_t)(i / padded);
    const int32_t c = k % pack.source_channels, tap = k / pack.source_channels;
    static_cast<float *>(pack.packed)[i] = n < pack.out_channels ? weight_at(pack, tap, n, c) : 0.0f;
}

enum pack_way { PLAIN, PIECES, NUMBERS };
struct pack_job {
    cuda_pack pack;
    int32_t padded, way;
    int64_t items;
};
struct pack_jobs {
    pack_job jobs[MAX_PACKS];
};
static_assert(sizeof(pack_jobs) <= 4000, "parameters of a kernel");

static __global__ void pack_kernel(const __grid_constant__ pack_jobs list)
{
    begin_kernel();
    const pack_job &job = list.jobs[blockIdx.y];
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < job.items;
         i += (int64_t)gridDim.x * blockDim.x) {
        if (job.way == PIECES)
            pack_piece(job.pack, job.padded, (int32_t)i);
        else if (job.way == NUMBERS)
            pack_number(job.pack, job.padded, (int32_t)i);
        else
            pack_plain(job.pack, job.padded, i);
    }
}

static pack_job job_of(const cuda_pack *pack)
{
    pack_job job;
    job.pack = *pack;
    job.padded = padded_channels(pack->factors, pack->all_out_channels);
    const int64_t places = places_of(*pack);
    if (!has_lines(pack->factors)) {
        job.way = PLAIN;
        job.items = (int64_t)job.padded * pack->taps * pack->source_channels;
    } else if (pack->source_channels == pack->all_source_channels) {
        job.way = PIECES;
        job.items = places * chunks_of(pack->factors, pack->source_channels) * pack->out_channels * (int64_t)CHUNKS;
    } else {
        job.way = NUMBERS;
        job.items = places * pack->source_channels * pack->out_channels;
    }
    return job;
}

mmebm_status mmebm__cuda_pack(const mmebm_device *device, const cuda_pack *packs, int32_t count)
{
    const int64_t most = 64; /* blocks of a tensor: there are tens of them */
    pack_jobs list;
    int64_t items = 0;
    for (int32_t k = 0; k < count; ++k) {
        list.jobs[k] = job_of(&packs[k]);
        if (items < list.jobs[k].items) items = list.jobs[k].items;
    }
    const int64_t blocks = mmebm__cuda_blocks(items, CUDA_BLOCK);
    return mmebm__cuda_launch(device, "packing of weights", pack_kernel,
                              dim3((unsigned)(blocks < most ? blocks : most), (unsigned)count), CUDA_BLOCK, 0, list);
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * Values of a layer in device memory and the calls that work on them. A tensor holds rows of height x width pixels, all
 * channels of a pixel together, `stride` elements from one pixel to the next (more than `channels` inside a
 * concatenation). Row r of a tensor with a period is row r % period in memory.
 */
#ifndef MMEBM_CUDA_TENSOR_H
#define MMEBM_CUDA_TENSOR_H

#include <string.h>

#include "cuda_device.h"

enum { TYPE_F32 = 0, TYPE_BF16 = 1 };

static inline size_t number_size(int32_t type)
{
    return type == TYPE_BF16 ? sizeof(uint16_t) : sizeof(float);
}
enum { LANES = 8 /* elements of a 16-byte bf16 vector */ };

/* Calls that one launch may make: of a short one alone, most of the time is what beginning and end take. None of them
 * writes what another reads or writes, unless they are a succession. */
enum { MAX_TOGETHER = 5 };

struct cuda_tensor {
    void *data;
    int32_t type;
    int32_t height, width, channels, stride;
    int64_t period; /* 0 = none */
};

/* How a call reads a tensor: pixel (y, x) of the result takes pixel (y / shrink, x / shrink) of it, or sums window x
 * window pixels of it. data NULL reads as 1. */
struct cuda_operand {
    cuda_tensor tensor;
    int32_t shrink, window;
    float scale;
};

/* out <- scale_a a (mask > 0 ? 1 : slope) + scale_b b. Channels of out beyond those of an operand get nothing from it.
 * A scale 0 is an absent operand. Serves sums, copies, conversions, concatenation, and gathers gradients. Calls that
 * are made together have the same rows and shape of out. */
struct cuda_combine {
    cuda_tensor out;
    int64_t rows;
    cuda_operand a, b;
    cuda_tensor mask; /* data NULL = none */
    float slope;
};
mmebm_status mmebm__cuda_combine_tensors(const mmebm_device *device, const cuda_combine *calls, int32_t count);

/* out <- the sum of scale * part, f32 numbers one after another, in order; out may be one of the parts. */
enum { MAX_SHARES = 16 };
struct cuda_shares {
    float *out;
    int64_t numbers;
    int32_t count;
    const float *parts[MAX_SHARES + 1];
    float scales[MAX_SHARES + 1];
};
mmebm_status mmebm__cuda_add_shares(const mmebm_device *device, const cuda_shares *call);

/* Images of few channels each, side by side: pixel p of packed holds those of parts[0], parts[1], ... and zeros. split
 * goes back; parts whose data is NULL are left out. Parts are f32. */
enum { MAX_PARTS_SIDE_BY_SIDE = 16, MAX_CHANNELS_SIDE_BY_SIDE = 64 /* of all; then zeros cost too much */ };
struct cuda_side_by_side {
    cuda_tensor packed; /* split: f32 */
    int64_t rows;
    int32_t count;
    cuda_tensor parts[MAX_PARTS_SIDE_BY_SIDE];
};
mmebm_status mmebm__cuda_gather_parts(const mmebm_device *device, const cuda_side_by_side *call);
mmebm_status mmebm__cuda_split_parts(const mmebm_device *device, const cuda_side_by_side *call);

/* ---- products with gathered pixels: convolutions, their input gradients, linear layers.
 * Result pixel (i, j) meets, at tap (a, b), source pixel ((i mul + offset + direction a) / div, ...) if that is whole
 * and inside:
 *   convolution     mul = stride, offset = -padding, direction = 1
 *   its transpose   div = stride, offset = padding,  direction = -1     (input gradient, conv_transpose2d)
 *   linear          one tap
 * Phases. A same-size 3 x 3 convolution that reads an image doubled by nearest neighbours, or whose result is halved by
 * 2 x 2 sums, is four convolutions of 2 x 2 taps at the low resolution, whose weights are sums of the nine: 4/9 of the
 * arithmetic. A 4 x 4 convolution of stride 2 and padding 1 of an even image is so too, by four of its taps at a time;
 * back through it, phases spare the three taps in four that meet nothing.
 * out and in are then the low resolution's, and result or source is seen as four images, pixels (2 i + py,
 * 2 j + px) of the high one; low pixel i meets at tap a low pixel
 *   phases_out   i + py - 1 + a      one image of the result at a time
 *   phases_in    i - py + a          summed over the source's four images */
struct cuda_geometry {
    int32_t out[2], in[2], kernel[2], mul[2], offset[2], div[2];
    int32_t direction;
    int32_t phases_out, phases_in; /* 0 or 1 */
};

/* Whether pixels keep their places and taps reach by one at most. */
static inline int taps_are_near(const cuda_geometry *g)
{
    if (g->kernel[0] != g->kernel[1] || g->kernel[0] > 3) return 0;
    for (int axis = 0; axis < 2; ++axis) {
        const int32_t near = g->offset[axis], far = near + g->direction * (g->kernel[axis] - 1);
        if (g->out[axis] != g->in[axis] || g->mul[axis] != 1 || g->div[axis] != 1) return 0;
        if (near < -1 || near > 1 || far < -1 || far > 1 || (g->kernel[0] == 1 && near)) return 0;
    }
    return 1;
}

/* Which sums of weights four phases are made of; CUDA_WHOLE: none. Gradients by the source want the _BACK ones; a
 * transposed convolution has CUDA_STRIDED's the other way round. */
enum {
    CUDA_WHOLE,
    CUDA_DOUBLED,
    CUDA_DOUBLED_BACK,
    CUDA_HALVED,
    CUDA_HALVED_BACK,
    CUDA_STRIDED,
    CUDA_STRIDED_BACK
};
/* Whether phases of such low resolution can be worked on. */
int mmebm__cuda_phases_fit(int32_t height, int32_t width);

/* What happens to a sum before it is stored; v = 0 where the source gives nothing.
 *   v <- window sums (2 x 2 result pixels) if window == 2
 *   v <- source_scale v + bias;  v <- v (mask > 0 ? 1 : slope);  v <- scale v + residual.scale * residual
 *   raw <- v;  activated <- v > 0 ? v : activated_slope v */
struct cuda_epilogue {
    const float *bias;
    float source_scale, scale;
    int32_t window;
    cuda_tensor mask;
    float mask_slope;
    cuda_operand residual;      /* scale 0 = none; shrink 1 or 2 */
    cuda_tensor raw, activated; /* data NULL = not wanted */
    float activated_slope;
};

/* What a product multiplies, and with it the kernel and the layout of packed weights. */
enum cuda_factors {
    FACTORS_BF16,     /* bf16, on tensor cores */
    FACTORS_TF32,     /* f32 rounded to tf32, on sm_90a's tensor cores (mmebm__cuda_engine_suits) */
    FACTORS_SPLIT,    /* f32 as the sum of two tf32 numbers, there too: three products for each, to f32's precision */
    FACTORS_ANY_TF32, /* f32 rounded to tf32, any shape */
    FACTORS_ANY_F32   /* f32, any shape, by the ordinary units */
};

/* Whether weights are packed by lines of source channels (cuda_pack). */
static __host__ __device__ inline int has_lines(int32_t factors)
{
    return factors != FACTORS_ANY_F32 && factors != FACTORS_ANY_TF32;
}

struct cuda_product {
    int32_t factors;
    cuda_geometry geometry;
    cuda_tensor source; /* its memory is geometry.in / shrink pixels */
    int32_t shrink;
    const void *weights; /* packed, see cuda_pack */
    int32_t out_channels;
    int64_t rows;
    cuda_epilogue epilogue;
    float *partials; /* mmebm__cuda_product_scratch() floats */
};

/* Sums over one tap and many channels (large linear layers) are cut into parts, whatever the number of rows; not those
 * of windows, which the kernel that adds the parts does not know. */
enum { PARTED_CHANNELS = 1024, PART_CHANNELS = 256 };

static inline int32_t product_parts(int32_t taps, int32_t channels, int32_t window)
{
    const int cut = taps == 1 && window == 1 && channels >= PARTED_CHANNELS;
    return cut ? (channels + PART_CHANNELS - 1) / PART_CHANNELS : 1;
}

/* Floats for the sums of parts. pixels: result pixels of all rows. */
size_t mmebm__cuda_product_scratch(int32_t factors, int32_t taps, int32_t source_channels, int32_t out_channels,
                                   int64_t pixels);
/* Products that are made together differ in nothing but where their tensors lie (products_match). */
mmebm_status mmebm__cuda_products(const mmebm_device *device, const cuda_product *products, int32_t count);

static inline int tensors_match(const cuda_tensor *a, const cuda_tensor *b)
{
    return !a->data == !b->data && a->type == b->type && a->height == b->height && a->width == b->width &&
           a->channels == b->channels && a->stride == b->stride && a->period == b->period;
}

static inline int operands_match(const cuda_operand *a, const cuda_operand *b)
{
    return tensors_match(&a->tensor, &b->tensor) && a->shrink == b->shrink && a->window == b->window &&
           a->scale == b->scale;
}

static inline int epilogues_match(const cuda_epilogue *a, const cuda_epilogue *b)
{
    return !a->bias == !b->bias && a->source_scale == b->source_scale && a->scale == b->scale &&
           a->window == b->window && tensors_match(&a->mask, &b->mask) && a->mask_slope == b->mask_slope &&
           operands_match(&a->residual, &b->residual) && tensors_match(&a->raw, &b->raw) &&
           tensors_match(&a->activated, &b->activated) && a->activated_slope == b->activated_slope;
}

static inline int products_match(const cuda_product *a, const cuda_product *b)
{
    return a->factors == b->factors && memcmp(&a->geometry, &b->geometry, sizeof a->geometry) == 0 &&
           tensors_match(&a->source, &b->source) && a->shrink == b->shrink && a->out_channels == b->out_channels &&
           a->rows == b->rows && epilogues_match(&a->epilogue, &b->epilogue);
}

/* Products in succession: of the same shape, each with the result of the one before as its source, which need not leave
 * the multiprocessor; by blocks that do not wait for each other. So what one image gives must depend on that image
 * alone, and every tensor has an image where any other has it: it has the result's shape and no gaps. And an image with
 * its zeros is a whole part of a tile. */
static inline int tensor_is_local(const cuda_tensor *tensor, const cuda_product *product)
{
    const cuda_geometry *g = &product->geometry;
    return !tensor->data || (tensor->type == TYPE_BF16 && !tensor->period && tensor->height == g->out[0] &&
                             tensor->width == g->out[1] && tensor->channels == product->out_channels &&
                             tensor->stride == tensor->channels);
}

static inline int product_is_local(const cuda_product *product)
{
    enum { PIXELS_OF_TILE = 64 };
    const cuda_geometry *g = &product->geometry;
    const cuda_epilogue *end = &product->epilogue;
    const int adds = end->residual.scale != 0.0f;
    return product->factors == FACTORS_BF16 && g->kernel[0] == 3 && taps_are_near(g) && !g->phases_in &&
           !g->phases_out && PIXELS_OF_TILE % ((g->out[0] + 1) * (g->out[1] + 1)) == 0 && product->shrink == 1 &&
           end->window == 1 && (product->out_channels == 64 || product->out_channels == 128) &&
           tensor_is_local(&product->source, product) && tensor_is_local(&end->mask, product) &&
           tensor_is_local(&end->raw, product) && tensor_is_local(&end->activated, product) &&
           (!adds || (end->residual.shrink == 1 && end->residual.window == 1 &&
                      tensor_is_local(&end->residual.tensor, product)));
}

static inline int may_follow(const cuda_product *before, const cuda_product *product)
{
    const cuda_epilogue *end = &before->epilogue;
    const void *result = end->activated.data ? end->activated.data : end->raw.data;
    return product_is_local(product) && product->source.data == result &&
           product->out_channels == before->out_channels && product->rows == before->rows &&
           memcmp(&product->geometry, &before->geometry, sizeof product->geometry) == 0;
}

/* `count` products, one after another, all but the first of which may_follow() the one before. */
mmebm_status mmebm__cuda_succession(const mmebm_device *device, const cuda_product *products, int32_t count);

/* Whether a product of a shape can be made by FACTORS_TF32 or FACTORS_SPLIT, of a source at multiples of 16 bytes. */
int mmebm__cuda_engine_suits(const mmebm_device *device, int32_t factors, const cuda_geometry *geometry,
                             int32_t source_channels, int32_t out_channels);

/* Packed weights of a product, zero where padded. FACTORS_ANY_*: [tap][source channel][padded result channel]; others:
 * [chunk of source channels][tap][padded result channel][128 bytes of channels, in the order of chunk_place], and with
 * FACTORS_SPLIT two such lines, [high and low part], before the result channels. `weights` is the graph's tensor:
 * [first][tap][second], and the first axis is the result's channels (result_first) or the source's. */
struct cuda_pack {
    int32_t factors;
    const float *weights;
    void *packed;
    int32_t taps, source_channels, out_channels; /* of the tensor; the packed ones are padded */
    int32_t result_first;
    int32_t phases;        /* not CUDA_WHOLE: [phase] comes first and taps are 2 x 2 */
    /* not FACTORS_ANY_*: the tensor's place among the packed channels; places that no tensor has stay zero */
    int32_t source_first, out_first, all_source_channels, all_out_channels;
};
/* bytes */
size_t mmebm__cuda_packed_size(int32_t factors, int32_t taps, int32_t source_channels, int32_t out_channels);
/* count: at most MAX_PACKS */
enum { MAX_PACKS = 32 };
mmebm_status mmebm__cuda_pack(const mmebm_device *device, const cuda_pack *packs, int32_t count);

/* gradient[small channel][tap][large channel] += scale * sum over rows and small pixels of small * large, where
 * geometry (a convolution's) says which large pixel meets a small one. Rows are summed in parts of fixed size into
 * `partials` (mmebm__cuda_gradient_scratch() floats) which are then added in order. */
struct cuda_weight_gradient {
    int32_t factors;        /* FACTORS_BF16, FACTORS_TF32 or FACTORS_SPLIT */
    cuda_geometry geometry; /* out = small, in = large */
    cuda_tensor small_side, large_side; /* bf16: as a product reads them; f32 ones may lie anyhow */
    int32_t small_shrink, large_shrink; /* 1 or 2 */
    float scale;
    int64_t rows;
    float *gradient, *partials;
    float *bias; /* += scale * sum over rows and small pixels of small; NULL = not wanted */
    int32_t small_channels, large_channels; /* of the weights: without padding */
};
mmebm_status mmebm__cuda_weight_gradient(const mmebm_device *device, const cuda_weight_gradient *call);
/* bias[c] += sum over rows and pixels of gradient, in the same way. */
mmebm_status mmebm__cuda_bias_gradient(const mmebm_device *device, const cuda_operand *gradient, int64_t rows,
                                       float *bias, float *partials);
/* Floats of partials; rows: the most of a call. */
size_t mmebm__cuda_gradient_scratch(const cuda_geometry *geometry, int64_t small_channels, int64_t large_channels,
                                    int64_t rows);
size_t mmebm__cuda_bias_scratch(int64_t channels);

/* ---- layers without weights (cuda_layers.cu). Tensors have the shape of their layers. */
struct cuda_layer_call {
    const mmebm_layer *layer;
    int64_t rows;
    cuda_operand x, target; /* inputs 0 and 1 */
    cuda_tensor y;
    cuda_operand by_y;                           /* gradient of y */
    cuda_tensor by_x, by_target;                 /* data NULL = not wanted; written */
    const float *gain, *shift, *mean, *variance; /* batch norm */
    float *by_weights[4]; /* batch norm: of gain, shift; sums for mean, variance; NULL = not wanted */
};
/* Layers that are passed together are of one kind, rows and shape. NULL for kinds that are done otherwise. */
typedef mmebm_status (*cuda_layer_pass)(const mmebm_device *device, const cuda_layer_call *calls, int32_t count);
cuda_layer_pass mmebm__cuda_forward(mmebm_layer_kind kind);
cuda_layer_pass mmebm__cuda_backward(mmebm_layer_kind kind);

#ifdef __CUDACC__

static __device__ __forceinline__ int64_t tensor_row(const cuda_tensor &tensor, int64_t row)
{
    return tensor.period ? row % tensor.period : row;
}

/* Element number of a pixel's first channel. */
static __device__ __forceinline__ int64_t pixel_at(const cuda_tensor &tensor, int64_t row, int32_t y, int32_t x)
{
    return ((tensor_row(tensor, row) * tensor.height + y) * tensor.width + x) * tensor.stride;
}

static __device__ __forceinline__ float load_number(const void *data, int32_t type, int64_t at)
{
    return type == TYPE_BF16 ? __bfloat162float(static_cast<const __nv_bfloat16 *>(data)[at])
                             : static_cast<const float *>(data)[at];
}

static __device__ __forceinline__ void store_number(void *data, int32_t type, int64_t at, float value)
{
    if (type == TYPE_BF16)
        static_cast<__nv_bfloat16 *>(data)[at] = __float2bfloat16_rn(value);
    else
        static_cast<float *>(data)[at] = value;
}

static __device__ __forceinline__ float load_value(const cuda_tensor &tensor, int64_t at)
{
    return load_number(tensor.data, tensor.type, at);
}

static __device__ __forceinline__ void store_value(const cuda_tensor &tensor, int64_t at, float value)
{
    store_number(tensor.data, tensor.type, at, value);
}

/* LANES bf16 elements. */
static __device__ __forceinline__ uint4 load_words(const cuda_tensor &tensor, int64_t at)
{
    return *reinterpret_cast<const uint4 *>(static_cast<const __nv_bfloat16 *>(tensor.data) + at);
}

static __device__ __forceinline__ void unpack_words(const uint4 &words, float *out)
{
    const uint32_t word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        out[2 * k] = __uint_as_float(word[k] << 16);
        out[2 * k + 1] = __uint_as_float(word[k] & 0xffff0000u);
    }
}

/* V elements, V = 1 or LANES; the latter aligned to 16 bytes. */
template <int V> static __device__ __forceinline__ void load_values(const cuda_tensor &tensor, int64_t at, float *out)
{
    if constexpr (V == 1) {
        out[0] = load_value(tensor, at);
    } else if (tensor.type == TYPE_BF16) {
        unpack_words(load_words(tensor, at), out);
    } else {
        const float4 *values = reinterpret_cast<const float4 *>(static_cast<const float *>(tensor.data) + at);
#pragma unroll
        for (int k = 0; k < V / 4; ++k) {
            const float4 four = values[k];
            out[4 * k] = four.x, out[4 * k + 1] = four.y, out[4 * k + 2] = four.z, out[4 * k + 3] = four.w;
        }
    }
}

static __device__ __forceinline__ uint32_t pack_pair(float low, float high)
{
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const uint32_t *>(&pair);
}

/* LANES numbers as bf16. */
static __device__ __forceinline__ void put_words(void *to, const float *v)
{
    *static_cast<uint4 *>(to) =
        make_uint4(pack_pair(v[0], v[1]), pack_pair(v[2], v[3]), pack_pair(v[4], v[5]), pack_pair(v[6], v[7]));
}

/* V f32 numbers, V a multiple of 4. */
template <int V> static __device__ __forceinline__ void put_floats(void *to, const float *v)
{
    float4 *values = static_cast<float4 *>(to);
#pragma unroll
    for (int k = 0; k < V / 4; ++k) values[k] = make_float4(v[4 * k], v[4 * k + 1], v[4 * k + 2], v[4 * k + 3]);
}

template <int V>
static __device__ __forceinline__ void store_values(const cuda_tensor &tensor, int64_t at, const float *v)
{
    if (V == 1) {
        store_value(tensor, at, v[0]);
    } else if (tensor.type == TYPE_BF16) {
        put_words(static_cast<__nv_bfloat16 *>(tensor.data) + at, v);
    } else {
        put_floats<V>(static_cast<float *>(tensor.data) + at, v);
    }
}

#endif /* __CUDACC__ */

/* Whether vectors of LANES elements may be read and written. */
static inline int tensor_is_wide(const cuda_tensor *tensor)
{
    return !tensor->data || (tensor->channels % LANES == 0 && tensor->stride % LANES == 0 &&
                             reinterpret_cast<uintptr_t>(tensor->data) % 16 == 0);
}

/* Whether a product can read an operand as its source. */
static inline int product_reads(int32_t factors, const cuda_operand *operand)
{
    const cuda_tensor *tensor = &operand->tensor;
    if (!tensor->data) return 0;
    if (!has_lines(factors)) return tensor->type == TYPE_F32;
    if (tensor->period) return 0;
    if (factors == FACTORS_BF16)
        return tensor->type == TYPE_BF16 && (operand->shrink == 1 || operand->shrink == 2) && tensor_is_wide(tensor);
    return tensor->type == TYPE_F32 && operand->shrink == 1 && tensor->stride % 4 == 0 &&
           reinterpret_cast<uintptr_t>(tensor->data) % 16 == 0;
}

#endif /* MMEBM_CUDA_TENSOR_H */

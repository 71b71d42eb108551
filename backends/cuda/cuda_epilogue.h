/* SPDX-License-Identifier: Apache-2.0
 *
 * The common end of all product kernels (cuda_tensor.h, cuda_epilogue): from sums to stored values, of one or LANES
 * channels of a pixel at a time; and the order in which result pixels are enumerated.
 */
#ifndef MMEBM_CUDA_EPILOGUE_H
#define MMEBM_CUDA_EPILOGUE_H

#include "cuda_tensor.h"

struct pixel_place {
    int32_t row, y, x;
};

/* Pixel m of all result pixels, before windows are summed; the four of a window follow each other. */
static __device__ __forceinline__ pixel_place place_of(const cuda_product &product, int32_t m)
{
    const int32_t height = product.geometry.out[0], width = product.geometry.out[1];
    pixel_place place;
    if (product.epilogue.window == 2) {
        const int32_t within = m & 3, columns = width / 2, lines = height / 2;
        m >>= 2;
        place.x = m % columns * 2 + (within & 1);
        m /= columns;
        place.y = m % lines * 2 + (within >> 1);
        place.row = m / lines;
    } else {
        place.x = m % width;
        m /= width;
        place.y = m % height;
        place.row = m / height;
    }
    return place;
}

/* The residual's pixel at stored pixel q. */
static __device__ __forceinline__ int32_t residual_pixel(const cuda_product &product, int32_t q)
{
    const cuda_epilogue &end = product.epilogue;
    if (end.residual.shrink == 1) return q;
    const int32_t finer = product.geometry.phases_out;
    const int32_t width = (product.geometry.out[1] << finer) / end.window;
    const int32_t height = (product.geometry.out[0] << finer) / end.window;
    const int32_t x = q % width, y = q / width % height, row = q / width / height;
    return (row * end.residual.tensor.height + y / end.residual.shrink) * end.residual.tensor.width +
           x / end.residual.shrink;
}

/* Where a result pixel is stored, -1 = nowhere, and what residual it meets. */
struct stored_pixel {
    int32_t at, residual;
};

/* Where an epilogue's bias and tensors lie. Products that are made together differ in these and in their factors. */
struct epilogue_places {
    const float *bias;
    void *mask, *residual, *raw, *activated;
};

static __host__ __device__ __forceinline__ epilogue_places own_places(const cuda_epilogue &end)
{
    return {end.bias, end.mask.data, end.residual.tensor.data, end.raw.data, end.activated.data};
}

/* Channel n of a stored pixel. */
static __device__ __forceinline__ void finish_number(const cuda_product &product, const epilogue_places &places,
                                                     const stored_pixel &pixel, int32_t n, float v)
{
    const cuda_epilogue &end = product.epilogue;
    const cuda_tensor &residual = end.residual.tensor;
    v = end.source_scale * v + (places.bias ? places.bias[n] : 0.0f);
    if (end.mask.data) {
        const float mask = load_number(places.mask, end.mask.type, (int64_t)pixel.at * end.mask.stride + n);
        v = mask > 0.0f ? v : end.mask_slope * v;
    }
    v *= end.scale;
    if (end.residual.scale != 0.0f)
        v += end.residual.scale *
             load_number(places.residual, residual.type, (int64_t)pixel.residual * residual.stride + n);
    if (end.raw.data) store_number(places.raw, end.raw.type, (int64_t)pixel.at * end.raw.stride + n, v);
    if (!end.activated.data) return;
    store_number(places.activated, end.activated.type, (int64_t)pixel.at * end.activated.stride + n,
                 v > 0.0f ? v : end.activated_slope * v);
}

/* ---- the same for LANES channels, where the mask, the residual and what is stored are of type T; raw may be f32 */

/* LANES numbers as they lie in memory. */
template <typename T> struct lane_words {
    uint32_t word[LANES * sizeof(T) / sizeof(uint32_t)];

    __device__ __forceinline__ void load(const char *from)
    {
        const uint4 *words = reinterpret_cast<const uint4 *>(from);
#pragma unroll
        for (int k = 0; k < (int)(LANES * sizeof(T) / sizeof(uint4)); ++k) {
            const uint4 four = words[k];
            word[4 * k] = four.x, word[4 * k + 1] = four.y, word[4 * k + 2] = four.z, word[4 * k + 3] = four.w;
        }
    }

    __device__ __forceinline__ float operator[](int k) const
    {
        if (sizeof(T) == sizeof(uint32_t)) return __uint_as_float(word[k]);
        return __uint_as_float(k % 2 ? word[k / 2] & 0xffff0000u : word[k / 2] << 16);
    }
};

/* What is read for LANES channels of a pixel: asked for before it is needed. */
template <typename T> struct epilogue_reads {
    lane_words<T> mask, residual;
};

/* An epilogue for channels n .. n + LANES - 1: where they lie in pixel 0 of each tensor, and their bias, which
 * load_bias(n, b) fetches if there is any. One for all pixels of a thread spares it most of its instructions. */
template <typename T> struct lane_epilogue {
    const cuda_epilogue &end;
    char *mask, *residual, *raw, *activated;
    float bias[LANES];

    template <typename B>
    __device__ __forceinline__ lane_epilogue(const cuda_product &product, const epilogue_places &places, int32_t n,
                                             B load_bias)
        : end(product.epilogue), mask(channel<T>(places.mask, n)), residual(channel<T>(places.residual, n)),
          raw(raw_is_f32() ? channel<float>(places.raw, n) : channel<T>(places.raw, n)),
          activated(channel<T>(places.activated, n))
    {
        if (end.bias) load_bias(n, bias);
    }

    template <typename U> static __device__ __forceinline__ char *channel(void *place, int32_t n)
    {
        return static_cast<char *>(place) + (int64_t)n * (int64_t)sizeof(U);
    }

    /* One multiplication with an addition: neither number is negative. */
    static __device__ __forceinline__ char *at_pixel(char *first, int32_t pixel, uint32_t bytes)
    {
        return first + (uint64_t)(uint32_t)pixel * bytes;
    }

    __device__ __forceinline__ bool raw_is_f32() const
    {
        return end.raw.type == TYPE_F32;
    }

    __device__ __forceinline__ void ask(const stored_pixel &pixel, epilogue_reads<T> *reads) const
    {
        if (end.mask.data) reads->mask.load(at_pixel(mask, pixel.at, end.mask.stride * (uint32_t)sizeof(T)));
        if (end.residual.scale != 0.0f)
            reads->residual.load(
                at_pixel(residual, pixel.residual, end.residual.tensor.stride * (uint32_t)sizeof(T)));
    }

    static __device__ __forceinline__ void store(char *to, const float *v)
    {
        if (sizeof(T) == sizeof(__nv_bfloat16))
            put_words(to, v);
        else
            put_floats<LANES>(to, v);
    }

    __device__ __forceinline__ void finish(int32_t q, float *v, const epilogue_reads<T> &reads) const
    {
        if (end.bias) {
#pragma unroll
            for (int k = 0; k < LANES; ++k) v[k] = end.source_scale * v[k] + bias[k];
        } else if (end.source_scale != 1.0f) {
#pragma unroll
            for (int k = 0; k < LANES; ++k) v[k] *= end.source_scale;
        }
        if (end.mask.data) {
#pragma unroll
            for (int k = 0; k < LANES; ++k) v[k] = reads.mask[k] > 0.0f ? v[k] : end.mask_slope * v[k];
        }
        if (end.residual.scale != 0.0f) {
#pragma unroll
            for (int k = 0; k < LANES; ++k) v[k] = end.scale * v[k] + end.residual.scale * reads.residual[k];
        } else if (end.scale != 1.0f) {
#pragma unroll
            for (int k = 0; k < LANES; ++k) v[k] *= end.scale;
        }
        if (end.raw.data) {
            if (raw_is_f32())
                put_floats<LANES>(at_pixel(raw, q, end.raw.stride * (uint32_t)sizeof(float)), v);
            else
                store(at_pixel(raw, q, end.raw.stride * (uint32_t)sizeof(T)), v);
        }
        if (!end.activated.data) return;
#pragma unroll
        for (int k = 0; k < LANES; ++k) v[k] = v[k] > 0.0f ? v[k] : end.activated_slope * v[k];
        store(at_pixel(activated, q, end.activated.stride * (uint32_t)sizeof(T)), v);
    }
};

/* Fetches the bias of LANES channels from where it lies. */
static __device__ __forceinline__ auto bias_in_memory(const cuda_product &product)
{
    return [&product](int32_t n, float *bias) {
#pragma unroll
        for (int k = 0; k < LANES; ++k) bias[k] = product.epilogue.bias[n + k];
    };
}

static inline int tensor_is(const cuda_tensor *tensor, int32_t type)
{
    return !tensor->data || (tensor->type == type && tensor_is_wide(tensor));
}

/* Whether lane_epilogue suits an epilogue, with numbers of a type. */
static inline int epilogue_is_wide(const cuda_product *product, int32_t type)
{
    const cuda_epilogue *end = &product->epilogue;
    return product->out_channels % LANES == 0 && tensor_is(&end->mask, type) &&
           (tensor_is(&end->raw, type) || tensor_is(&end->raw, TYPE_F32)) && tensor_is(&end->activated, type) &&
           (end->residual.scale == 0.0f || tensor_is(&end->residual.tensor, type));
}

#endif /* MMEBM_CUDA_EPILOGUE_H */

/* SPDX-License-Identifier: Apache-2.0
 *
 * The common end of both product kernels (cuda_tensor.h, cuda_epilogue): from sums to stored values, V channels of one
 * pixel at a time; and the order in which result pixels are enumerated.
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

/* Channels n .. n + V - 1 of stored pixel q. */
template <int V>
static __device__ __forceinline__ void finish(const cuda_product &product, int32_t q, int32_t n, float *v)
{
    const cuda_epilogue &end = product.epilogue;
#pragma unroll
    for (int k = 0; k < V; ++k) v[k] = end.source_scale * v[k] + (end.bias ? end.bias[n + k] : 0.0f);
    float other[V > 1 ? V : LANES];
    if (end.mask.data) {
        load_values<V>(end.mask, (int64_t)q * end.mask.stride + n, other);
#pragma unroll
        for (int k = 0; k < V; ++k) v[k] = other[k] > 0.0f ? v[k] : end.mask_slope * v[k];
    }
    if (end.residual.scale != 0.0f) {
        const int64_t pixel = residual_pixel(product, q);
        load_values<V>(end.residual.tensor, pixel * end.residual.tensor.stride + n, other);
#pragma unroll
        for (int k = 0; k < V; ++k) v[k] = end.scale * v[k] + end.residual.scale * other[k];
    } else {
#pragma unroll
        for (int k = 0; k < V; ++k) v[k] *= end.scale;
    }
    if (end.raw.data) store_values<V>(end.raw, (int64_t)q * end.raw.stride + n, v);
    if (!end.activated.data) return;
#pragma unroll
    for (int k = 0; k < V; ++k) v[k] = v[k] > 0.0f ? v[k] : end.activated_slope * v[k];
    store_values<V>(end.activated, (int64_t)q * end.activated.stride + n, v);
}

/* ---- the same where the mask, the residual and what is stored are bf16 */

/* What is read for LANES channels of a pixel: asked for before it is needed. */
struct epilogue_reads {
    uint4 mask, residual;
};

static __device__ __forceinline__ void ask(const cuda_product &product, const stored_pixel &pixel, int32_t n,
                                           epilogue_reads *reads)
{
    const cuda_epilogue &end = product.epilogue;
    if (end.mask.data) reads->mask = load_words(end.mask, (int64_t)pixel.at * end.mask.stride + n);
    if (end.residual.scale != 0.0f)
        reads->residual =
            load_words(end.residual.tensor, (int64_t)pixel.residual * end.residual.tensor.stride + n);
}

/* v > 0 ? v : slope v, where mask holds the signs' values for two of LANES numbers. */
static __device__ __forceinline__ void mask_pair(uint32_t mask, float slope, float *v)
{
    v[0] = __uint_as_float(mask << 16) > 0.0f ? v[0] : slope * v[0];
    v[1] = __uint_as_float(mask & 0xffff0000u) > 0.0f ? v[1] : slope * v[1];
}

/* load_bias(n, b) fetches the bias of LANES channels, if there is any. */
template <typename B>
static __device__ __forceinline__ void finish_bf16(const cuda_product &product, B load_bias, int32_t q, int32_t n,
                                                   float *v, const epilogue_reads &reads)
{
    const cuda_epilogue &end = product.epilogue;
    if (end.bias) {
        float b[LANES];
        load_bias(n, b);
#pragma unroll
        for (int k = 0; k < LANES; ++k) v[k] = end.source_scale * v[k] + b[k];
    } else if (end.source_scale != 1.0f) {
#pragma unroll
        for (int k = 0; k < LANES; ++k) v[k] *= end.source_scale;
    }
    if (end.mask.data) {
        mask_pair(reads.mask.x, end.mask_slope, v), mask_pair(reads.mask.y, end.mask_slope, v + 2);
        mask_pair(reads.mask.z, end.mask_slope, v + 4), mask_pair(reads.mask.w, end.mask_slope, v + 6);
    }
    if (end.residual.scale != 0.0f) {
        float other[LANES];
        unpack_words(reads.residual, other);
#pragma unroll
        for (int k = 0; k < LANES; ++k) v[k] = end.scale * v[k] + end.residual.scale * other[k];
    } else if (end.scale != 1.0f) {
#pragma unroll
        for (int k = 0; k < LANES; ++k) v[k] *= end.scale;
    }
    if (end.raw.data) store_words(end.raw, (int64_t)q * end.raw.stride + n, v);
    if (!end.activated.data) return;
#pragma unroll
    for (int k = 0; k < LANES; ++k) v[k] = v[k] > 0.0f ? v[k] : end.activated_slope * v[k];
    store_words(end.activated, (int64_t)q * end.activated.stride + n, v);
}

static inline int tensor_is_bf16(const cuda_tensor *tensor)
{
    return !tensor->data || tensor->type == TYPE_BF16;
}

/* Whether finish_bf16 suits a wide epilogue. */
static inline int epilogue_is_bf16(const cuda_product *product)
{
    const cuda_epilogue *end = &product->epilogue;
    return tensor_is_bf16(&end->mask) && tensor_is_bf16(&end->raw) && tensor_is_bf16(&end->activated) &&
           (end->residual.scale == 0.0f || tensor_is_bf16(&end->residual.tensor));
}

static inline int epilogue_is_wide(const cuda_product *product)
{
    const cuda_epilogue *end = &product->epilogue;
    return product->out_channels % LANES == 0 && tensor_is_wide(&end->mask) && tensor_is_wide(&end->raw) &&
           tensor_is_wide(&end->activated) && (end->residual.scale == 0.0f || tensor_is_wide(&end->residual.tensor));
}

#endif /* MMEBM_CUDA_EPILOGUE_H */

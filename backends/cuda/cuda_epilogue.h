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

/* Element of the residual at stored pixel q. */
static __device__ __forceinline__ int64_t residual_at(const cuda_product &product, int32_t q)
{
    const cuda_epilogue &end = product.epilogue;
    if (end.residual.shrink == 1) return (int64_t)q * end.residual.tensor.stride;
    const int32_t finer = product.geometry.phases_out;
    const int32_t width = (product.geometry.out[1] << finer) / end.window;
    const int32_t height = (product.geometry.out[0] << finer) / end.window;
    const int32_t x = q % width, y = q / width % height, row = q / width / height;
    return pixel_at(end.residual.tensor, row, y / end.residual.shrink, x / end.residual.shrink);
}

/* What the epilogue reads for LANES channels of a pixel, if it is bf16: asked for before it is needed. */
struct epilogue_reads {
    uint4 mask, residual;
};

static __device__ __forceinline__ void ask(const cuda_product &product, int32_t q, int32_t n, epilogue_reads *reads)
{
    const cuda_epilogue &end = product.epilogue;
    if (end.mask.data && end.mask.type == TYPE_BF16)
        reads->mask = load_words(end.mask, (int64_t)q * end.mask.stride + n);
    if (end.residual.scale != 0.0f && end.residual.tensor.type == TYPE_BF16)
        reads->residual = load_words(end.residual.tensor, residual_at(product, q) + n);
}

template <int V>
static __device__ __forceinline__ void get(const cuda_tensor &tensor, int64_t at, const uint4 *words, float *out)
{
    if (V == LANES && words && tensor.type == TYPE_BF16)
        unpack_words(*words, out);
    else
        load_values<V>(tensor, at, out);
}

/* Channels n .. n + V - 1 of stored pixel q. reads: NULL or what `ask` got. */
template <int V>
static __device__ __forceinline__ void finish(const cuda_product &product, int32_t q, int32_t n, float *v,
                                              const epilogue_reads *reads)
{
    const cuda_epilogue &end = product.epilogue;
#pragma unroll
    for (int k = 0; k < V; ++k) v[k] = end.source_scale * v[k] + (end.bias ? end.bias[n + k] : 0.0f);
    float other[V > 1 ? V : LANES];
    if (end.mask.data) {
        get<V>(end.mask, (int64_t)q * end.mask.stride + n, reads ? &reads->mask : NULL, other);
#pragma unroll
        for (int k = 0; k < V; ++k) v[k] = other[k] > 0.0f ? v[k] : end.mask_slope * v[k];
    }
    if (end.residual.scale != 0.0f) {
        get<V>(end.residual.tensor, residual_at(product, q) + n, reads ? &reads->residual : NULL, other);
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

static inline int epilogue_is_wide(const cuda_product *product)
{
    const cuda_epilogue *end = &product->epilogue;
    return product->out_channels % LANES == 0 && tensor_is_wide(&end->mask) && tensor_is_wide(&end->raw) &&
           tensor_is_wide(&end->activated) && (end->residual.scale == 0.0f || tensor_is_wide(&end->residual.tensor));
}

#endif /* MMEBM_CUDA_EPILOGUE_H */

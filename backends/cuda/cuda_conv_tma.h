/* SPDX-License-Identifier: Apache-2.0
 *
 * What the products by the copy engine share (cuda_conv_block.h, cuda_conv_narrow.cu): their plan, the order of pixels,
 * and where a result's pixels lie.
 *
 * Pixels are numbered as if every image had a line of zeros above it and a pixel of zeros before each of its lines,
 * (height + 1) (width + 1) an image; where a line or an image ends, those of the next one serve. The copy engine makes
 * this order itself from the image as it lies (a box that begins at pixel -1, zeros outside). So a tap is the same
 * distance in lines for all pixels, edges and other images included. What is computed at pixels of zeros is not stored.
 * Single taps go without zeros.
 */
#ifndef MMEBM_CUDA_CONV_TMA_H
#define MMEBM_CUDA_CONV_TMA_H

#include <cuda.h>

#include "cuda_conv.h"

enum {
    UNIT = 16,             /* bytes that a descriptor counts */
    MAX_PATCH_LINES = 1024 /* of a copy */
};

/* One of the products that are made together. */
struct tma_member {
    CUtensorMap source[PHASES]; /* more than one under phases_in */
    const void *weights;
    epilogue_places places;
};

struct tma_plan {
    conv_plan conv;             /* of the first; where factors and tensors of all lie, see members */
    int32_t pitch, image;       /* pixels of a line, of an image, with zeros */
    int32_t zeros;              /* 0 or 1 before a line, above an image */
    int32_t pixels, tiles;      /* of all images, with zeros */
    int32_t patch_lines, buffers, stages;
    pixel_place step; /* from a pixel of a tile to that of the block's next tile */
    int32_t blocks;   /* of a member, along x */
    int32_t count;
    tma_member members[MAX_TOGETHER];
};
static_assert(sizeof(tma_plan) <= 4096, "longer parameters make a launch slower");

/* Lines from a pixel's own to that of its farthest tap. A plan is whatever has pitch, image and zeros. */
template <typename plan_type> static __host__ __device__ __forceinline__ int32_t reach_of(const plan_type &plan)
{
    return plan.zeros * (plan.pitch + 1);
}

#if CUDA_HAS_WARPGROUPS

/* A place in a ring of buffers and the parity of the round. */
struct ring_place {
    int32_t at;
    uint32_t parity;
};

static __device__ __forceinline__ void advance(ring_place *place, int32_t count)
{
    if (++place->at < count) return;
    place->at = 0;
    place->parity ^= 1;
}

/* A pixel with zeros counted: row, and lines and pixels from -zeros on. */
template <typename plan_type>
static __device__ __forceinline__ pixel_place find_pixel(const plan_type &plan, int32_t pixel)
{
    const int32_t within = pixel % plan.image;
    return {pixel / plan.image, within / plan.pitch - plan.zeros, within % plan.pitch - plan.zeros};
}

/* By each warp: all its lanes are done with memory that wgmma reads. */
static __device__ __forceinline__ void release(uint64_t *barrier)
{
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(shared_address(barrier));
}

/* The same of memory that lanes read themselves: each arrives, since checkers of races do not follow one that arrives
 * for its warp. */
static __device__ __forceinline__ void release_by_lanes(uint64_t *barrier)
{
    __syncwarp();
    barrier_arrive(shared_address(barrier));
}

/* The same pixel of the block's next tile. */
static __device__ __forceinline__ void next_pixel(const tma_plan &plan, pixel_place *place)
{
    place->x += plan.step.x;
    place->y += plan.step.y;
    place->row += plan.step.row;
    if (place->x >= plan.pitch - plan.zeros) place->x -= plan.pitch, ++place->y;
    if (place->y >= plan.conv.product.geometry.in[0]) place->y -= plan.image / plan.pitch, ++place->row;
}

/* Where a pixel of a phase is stored; of zeros, and beyond the last row: nowhere. */
static __device__ __forceinline__ stored_pixel memory_of(const tma_plan &plan, int32_t phase, const pixel_place &place)
{
    const cuda_product &product = plan.conv.product;
    const cuda_tensor &residual = product.epilogue.residual.tensor;
    if (place.row >= (int32_t)product.rows || place.y < 0 || place.x < 0) return {-1, -1};
    const int32_t at = placed_pixel(product.geometry, phase, place.row, place.y, place.x);
    if (product.epilogue.residual.shrink == 1) return {at, at};
    const int32_t halved = !product.geometry.phases_out; /* else a phase is the low resolution already */
    return {at, (place.row * residual.height + (place.y >> halved)) * residual.width + (place.x >> halved)};
}

#endif /* CUDA_HAS_WARPGROUPS */

/* Pixels and places of `count` products; false if they are too many. */
bool mmebm__cuda_open_plan(const conv_plan *plans, int32_t count, tma_plan *plan);

/* Tiles of so many pixels, and lines of the patch around one. */
static inline void count_tiles(tma_plan *plan, int32_t tile)
{
    plan->patch_lines = (tile + 2 * reach_of(*plan) + 7) / 8 * 8;
    plan->tiles = (plan->pixels - reach_of(*plan) + tile - 1) / tile;
}

/* Pixels that the copy engine gives in order, `lines` at once, from an image of which every step-th pixel and line is
 * taken. */
struct tma_pixels {
    const void *data;
    int32_t factors, channels, height, width, step;
    int64_t pixel_bytes; /* from a pixel to its neighbour */
    int64_t rows;
    int32_t zeros, lines;
};
mmebm_status mmebm__cuda_describe_pixels(const mmebm_device *device, const tma_pixels *pixels, CUtensorMap *map);

/* The copy engine's maps of the members' sources, by lines of patch_lines pixels. */
mmebm_status mmebm__cuda_describe_sources(const mmebm_device *device, tma_plan *plan, const conv_plan *plans);

/* Products of at most NARROWEST result channels (cuda_conv_narrow.cu), if that suits; *done as in
 * mmebm__cuda_products_tma. */
enum { NARROWEST = 3 };
mmebm_status mmebm__cuda_products_narrow(const mmebm_device *device, tma_plan *plan, const conv_plan *plans, int *done);

#endif /* MMEBM_CUDA_CONV_TMA_H */

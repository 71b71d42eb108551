/* SPDX-License-Identifier: Apache-2.0
 *
 * The products of cuda_conv.h on sm_90a, for same-size convolutions of 3 x 3 taps, phases and single taps, of bf16 or
 * f32 numbers. A block (cuda_conv_block.h) stays for many tiles: while the sums of one are stored, the next is
 * multiplied, and patches and weights are asked for across tiles.
 */
#include "cuda_conv_block.h"
#include "cuda_launch.h"

template <int FACTORS, bool RESIDENT, int GROUPS, int BN, int EDGE>
__global__ void __launch_bounds__(tma_shape<FACTORS, GROUPS, BN>::THREADS, GROUPS == 1 ? 2 : 1)
    tma_kernel(const __grid_constant__ tma_plan plan)
{
#if CUDA_HAS_WARPGROUPS
    using block_type = tma_block<FACTORS, RESIDENT, GROUPS, BN, EDGE>;
    constexpr int WARPS = block_type::WARPS, STORING = block_type::STORERS * WARPS, PARTS = block_type::PARTS;
    extern __shared__ __align__(1024) unsigned char shared[];
    const int32_t tid = (int32_t)threadIdx.x, lane = tid % 32;
    const int32_t warp = __shfl_sync(0xffffffffu, tid / 32, 0); /* so that the compiler sees that it is the warp's */
    tma_head *head = reinterpret_cast<tma_head *>(shared);
    const uint32_t weights = HEAD_BYTES;
    const uint32_t patches = weights + (uint32_t)plan.stages * (RESIDENT ? block_type::TAPS : 1) * block_type::SLICE;
    const uint32_t turn = patches + plan.buffers * PARTS * plan.patch_lines * LINE_BYTES;
    const int32_t number = (int32_t)blockIdx.x / plan.blocks;
    const block_type block = {{},
                              plan,
                              plan.conv,
                              &plan.members[number],
                              head,
                              reinterpret_cast<float *>(shared + turn),
                              shared_address(shared) + weights,
                              shared_address(shared) + patches,
                              (int32_t)blockIdx.y * BN,
                              plan.conv.product.geometry.phases_out ? (int32_t)blockIdx.z : 0,
                              (int32_t)blockIdx.x - number * plan.blocks};
    open_barriers<WARPS, block_type::STORERS>(head);
    begin_kernel();
    const float *bias = block.member->places.bias;
    if (tid >= WARPS * 32 && tid < WARPS * 32 + BN) {
        const int32_t n = tid - WARPS * 32;
        head->bias[n] = bias && block.n0 + n < plan.conv.product.out_channels ? bias[block.n0 + n] : 0.0f;
    }
    if (warp < WARPS) {
        block.multiply_tiles(warp, lane);
    } else if (warp < WARPS + STORING) {
        __syncwarp(); /* half of a warp may have fetched a bias */
        meet<STORING * 32>(BIAS_THERE);
        block.store_tiles((warp - WARPS) % WARPS, (warp - WARPS) / WARPS, lane);
    } else if (tid == block_type::THREADS - 32) {
        block.load_tiles();
    } else if (PARTS == 2 && warp < WARPS + STORING + SPLITTERS) {
        block.split_patches(shared + patches, tid - (WARPS + STORING) * 32);
    }
#endif
}

/* ---- launching */

static int suits(const conv_plan *plan)
{
    const cuda_product *product = &plan->product;
    return product->shrink == 1 && product->epilogue.window == 1 && taps_are_near(&product->geometry);
}

mmebm_status mmebm__cuda_describe_pixels(const mmebm_device *device, const tma_pixels *pixels, CUtensorMap *map)
{
    const int32_t factors = pixels->factors, step = pixels->step;
    const CUtensorMapDataType type = factors == FACTORS_BF16   ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                     : factors == FACTORS_TF32 ? CU_TENSOR_MAP_DATA_TYPE_TFLOAT32
                                                               : CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
    const cuuint64_t pixel = (cuuint64_t)pixels->pixel_bytes * step, line = pixel * pixels->width * step;
    const cuuint64_t size[4] = {(cuuint64_t)pixels->channels, (cuuint64_t)pixels->width, (cuuint64_t)pixels->height,
                                (cuuint64_t)pixels->rows};
    const cuuint64_t strides[3] = {pixel, line, line * pixels->height};
    const int first[2] = {-pixels->zeros, -pixels->zeros}, last[2] = {0, 0};
    const cuuint32_t every[4] = {1, 1, 1, 1};
    const CUresult code = reinterpret_cast<decltype(&cuTensorMapEncodeIm2col)>(device->encode_pixels)(
        map, type, 4, const_cast<void *>(pixels->data), size, strides, first, last, (cuuint32_t)line_channels(factors),
        (cuuint32_t)pixels->lines, every, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
        CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (code == CUDA_SUCCESS) return MMEBM_OK;
    return device->host.fail(device->host.owner, MMEBM_E_BACKEND, "cuda: cuTensorMapEncodeIm2col: error %d",
                             (int)code);
}

/* One map, or one for each phase of an image that is read by phases. */
static mmebm_status describe_source(const mmebm_device *device, const tma_plan *plan, const cuda_product *product,
                                    tma_member *member)
{
    const cuda_geometry *g = &product->geometry;
    const cuda_tensor *source = &product->source;
    const int32_t step = g->phases_in ? 2 : 1;
    const int64_t number = product->factors == FACTORS_BF16 ? sizeof(__nv_bfloat16) : sizeof(float);
    const int64_t pixel = source->stride * number, line = pixel * step * g->in[1];
    tma_pixels pixels = {NULL, product->factors, source->channels, g->in[0], g->in[1], step, pixel, product->rows,
                         plan->zeros, plan->patch_lines};
    for (int phase = 0; phase < (g->phases_in ? (int)PHASES : 1); ++phase) {
        pixels.data = static_cast<const char *>(source->data) + (phase >> 1) * line + (phase & 1) * pixel;
        CUDA_TRY(mmebm__cuda_describe_pixels(device, &pixels, &member->source[phase]));
    }
    return MMEBM_OK;
}

mmebm_status mmebm__cuda_describe_sources(const mmebm_device *device, tma_plan *plan, const conv_plan *plans)
{
    for (int32_t k = 0; k < plan->count; ++k)
        CUDA_TRY(describe_source(device, plan, &plans[k].product, &plan->members[k]));
    return MMEBM_OK;
}

/* Shared memory's parts; returns its size, 0 if they do not fit. */
template <int FACTORS, bool RESIDENT, int GROUPS, int BN, int EDGE>
static size_t divide_shared(const mmebm_device *device, tma_plan *plan)
{
    using shape = tma_shape<FACTORS, GROUPS, BN>;
    const size_t budget = GROUPS == 1 ? (size_t)HALF_SHARED : device->block_shared;
    const size_t patch = (size_t)shape::PARTS * plan->patch_lines * LINE_BYTES;
    const size_t fixed = HEAD_BYTES + turn_bytes<GROUPS, BN>() + 2 * patch;
    const int32_t groups = plan->conv.groups;
    const size_t stage = (size_t)shape::SLICE * (RESIDENT ? EDGE * EDGE : 1);
    const size_t fewest = RESIDENT ? (size_t)groups : (size_t)FEWEST_STREAMED;
    if (fewest > MAX_STAGES || fixed + fewest * stage > budget) return 0;
    const size_t fit = (budget - fixed) / stage;
    plan->stages = RESIDENT ? groups : fit < MOST_STREAMED ? (int32_t)fit : (int32_t)MOST_STREAMED;
    const size_t more = (budget - fixed - plan->stages * stage) / patch, most = MAX_BUFFERS - 2;
    plan->buffers = 2 + (int32_t)(more < most ? more : most);
    return fixed + (plan->buffers - 2) * patch + plan->stages * stage;
}

template <int FACTORS, bool RESIDENT, int GROUPS, int BN, int EDGE>
static mmebm_status launch_edge(const mmebm_device *device, tma_plan *plan, const conv_plan *plans, int *done)
{
    using shape = tma_shape<FACTORS, GROUPS, BN>;
    const int32_t tile = shape::TILE;
    count_tiles(plan, tile);
    if (plan->patch_lines > MAX_PATCH_LINES) return MMEBM_OK;
    const size_t shared = divide_shared<FACTORS, RESIDENT, GROUPS, BN, EDGE>(device, plan);
    if (!shared) return MMEBM_OK;
    *done = 1;
    if (!plan->pixels) return MMEBM_OK;
    CUDA_TRY(mmebm__cuda_describe_sources(device, plan, plans));
    CUDA_TRY(mmebm__cuda_check(device,
                               cudaFuncSetAttribute(tma_kernel<FACTORS, RESIDENT, GROUPS, BN, EDGE>,
                                                    cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared),
                               "shared memory of a convolution"));
    dim3 grid(1, (unsigned)((plan->conv.product.out_channels + BN - 1) / BN),
              plan->conv.product.geometry.phases_out ? (unsigned)PHASES : (unsigned)plan->conv.parts);
    /* no more blocks than there is room for, with the same number of tiles each */
    const int32_t across = (int32_t)(grid.y * grid.z) * plan->count;
    const int32_t room = device->processors * (GROUPS == 1 ? 2 : 1);
    const int32_t most = room > across ? room / across : 1, rounds = (plan->tiles + most - 1) / most;
    plan->blocks = (plan->tiles + rounds - 1) / rounds;
    grid.x = (unsigned)(plan->blocks * plan->count);
    const int32_t further = plan->blocks * tile;
    plan->step = {further / plan->image, further % plan->image / plan->pitch, further % plan->pitch};
    return mmebm__cuda_launch(device, "convolution", tma_kernel<FACTORS, RESIDENT, GROUPS, BN, EDGE>, grid,
                              shape::THREADS, shared, *plan);
}

/* Weights of bf16 are resident if they fit. */
template <int FACTORS, int GROUPS, int BN, int EDGE>
static mmebm_status launch_either(const mmebm_device *device, tma_plan *plan, const conv_plan *plans, int *done)
{
    if constexpr (FACTORS == FACTORS_BF16) {
        CUDA_TRY((launch_edge<FACTORS, true, GROUPS, BN, EDGE>(device, plan, plans, done)));
        if (*done) return MMEBM_OK;
    }
    return launch_edge<FACTORS, false, GROUPS, BN, EDGE>(device, plan, plans, done);
}

template <int FACTORS, int GROUPS, int BN>
static mmebm_status launch(const mmebm_device *device, tma_plan *plan, const conv_plan *plans, int *done)
{
    switch (plan->conv.product.geometry.kernel[0]) {
    case 1: return launch_either<FACTORS, GROUPS, BN, 1>(device, plan, plans, done);
    case 2: return launch_either<FACTORS, GROUPS, BN, 2>(device, plan, plans, done);
    default: return launch_either<FACTORS, GROUPS, BN, 3>(device, plan, plans, done);
    }
}

/* Tiles as large as the pixels allow. */
static mmebm_status launch_bf16(const mmebm_device *device, tma_plan *plan, const conv_plan *plans, int *done)
{
    const int64_t across =
        (plan->conv.product.geometry.phases_out ? (int64_t)PHASES : 1) * ((plan->conv.padded + 127) / 128);
    const int64_t tiles = plan->pixels / 128 * across * plan->count, processors = device->processors;
    switch (plan->conv.padded) {
    case 16: return launch<FACTORS_BF16, 2, 16>(device, plan, plans, done);
    case 32: return launch<FACTORS_BF16, 2, 32>(device, plan, plans, done);
    case 64:
        return tiles < processors ? launch<FACTORS_BF16, 1, 64>(device, plan, plans, done)
                                  : launch<FACTORS_BF16, 2, 64>(device, plan, plans, done);
    case 80: return launch<FACTORS_BF16, 2, 80>(device, plan, plans, done);
    default: break;
    }
    if (4 * tiles >= 3 * processors) return launch<FACTORS_BF16, 2, 128>(device, plan, plans, done);
    return tiles >= processors / 2 ? launch<FACTORS_BF16, 1, 128>(device, plan, plans, done)
                                   : launch<FACTORS_BF16, 1, 64>(device, plan, plans, done);
}

/* One tile for a shape, whatever the rows: another kernel would give other bits. WIDEST: channels at once. */
template <int FACTORS, int WIDEST>
static mmebm_status launch_f32(const mmebm_device *device, tma_plan *plan, const conv_plan *plans, int *done)
{
    switch (plan->conv.padded) {
    case 16: return launch<FACTORS, 2, 16>(device, plan, plans, done);
    case 32: return launch<FACTORS, 2, 32>(device, plan, plans, done);
    case 64: return launch<FACTORS, 2, 64>(device, plan, plans, done);
    case 80: return launch<FACTORS, 2, 80>(device, plan, plans, done);
    default: return launch<FACTORS, 2, WIDEST>(device, plan, plans, done);
    }
}

/* What is stored of a part is its sums: one set of partial results after another. */
static cuda_epilogue parts_stored(const conv_plan *conv)
{
    cuda_epilogue end = {};
    end.source_scale = end.scale = 1.0f;
    end.window = end.residual.shrink = 1;
    end.raw.data = conv->product.partials;
    end.raw.type = TYPE_F32;
    end.raw.channels = end.raw.stride = conv->padded;
    return end;
}

bool mmebm__cuda_open_plan(const conv_plan *plans, int32_t count, tma_plan *plan)
{
    const cuda_geometry *g = &plans->product.geometry;
    memset(plan, 0, sizeof *plan);
    plan->conv = *plans;
    plan->count = count;
    if (plans->parts > 1) {
        plan->conv.product.epilogue = parts_stored(plans);
        plan->conv.product.out_channels = plans->padded;
        plan->conv.wide = 1;
    }
    plan->zeros = g->kernel[0] > 1;
    plan->pitch = g->in[1] + plan->zeros;
    plan->image = plan->pitch * (g->in[0] + plan->zeros);
    for (int32_t k = 0; k < count; ++k) {
        plan->members[k].weights = plans[k].product.weights;
        plan->members[k].places = own_places(plans->parts > 1 ? parts_stored(&plans[k]) : plans[k].product.epilogue);
    }
    const int64_t pixels = plans->product.rows * plan->image;
    plan->pixels = (int32_t)pixels;
    return pixels <= INT32_MAX - 2 * MAX_PATCH_LINES;
}

mmebm_status mmebm__cuda_products_tma(const mmebm_device *device, const conv_plan *plans, int32_t count, int *done)
{
    tma_plan plan;
    *done = 0;
    if (!device->encode_pixels || !suits(plans) || !mmebm__cuda_open_plan(plans, count, &plan)) return MMEBM_OK;
    CUDA_TRY(mmebm__cuda_products_narrow(device, &plan, plans, done));
    if (*done) return MMEBM_OK;
    switch (plans->product.factors) {
    case FACTORS_TF32: return launch_f32<FACTORS_TF32, 128>(device, &plan, plans, done);
    case FACTORS_SPLIT: return launch_f32<FACTORS_SPLIT, 64>(device, &plan, plans, done);
    default: return launch_bf16(device, &plan, plans, done);
    }
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * Layers without weights, batch norm and losses, and the sum of two tensors that serves add, concat, upsampling, copies
 * and the collection of gradients. Tensors are f32 or bf16, arithmetic is f32; sums over a row are in double.
 * A backward pass writes the gradients by its inputs; cuda_run.cu adds them to what other layers gave.
 */
#include "cuda_launch.h"
#include "cuda_sum.h"
#include "cuda_tensor.h"

/* Blocks of x: elements of one row; of y: rows. */
static dim3 row_grid(int64_t per_row, int64_t rows)
{
    return dim3(mmebm__cuda_blocks(per_row, CUDA_BLOCK),
                (unsigned)(rows < (int64_t)CUDA_MAX_GRID_Y ? rows : (int64_t)CUDA_MAX_GRID_Y));
}

#define FOR_EACH_ROW(row, rows) for (int64_t row = blockIdx.y; row < (rows); row += gridDim.y)
#define FOR_EACH_IN_ROW(i, count)                                                                                      \
    for (int32_t i = (int32_t)(blockIdx.x * blockDim.x + threadIdx.x); i < (count);                                    \
         i += (int32_t)(gridDim.x * blockDim.x))

/* Pixel and channel of element i of a row. */
struct element {
    int32_t y, x, c;
};

static __device__ __forceinline__ element element_of(const cuda_tensor &tensor, int32_t i)
{
    const uint32_t channels = (uint32_t)tensor.channels, width = (uint32_t)tensor.width; /* cheaper to divide by */
    const uint32_t pixel = (uint32_t)i / channels, y = pixel / width;
    return {(int32_t)y, (int32_t)(pixel - y * width), (int32_t)((uint32_t)i - pixel * channels)};
}

static __device__ __forceinline__ int64_t element_at(const cuda_tensor &tensor, int64_t row, const element &place)
{
    return pixel_at(tensor, row, place.y, place.x) + place.c;
}

static int32_t row_count(const cuda_tensor *tensor)
{
    return tensor->height * tensor->width * tensor->channels;
}

/* The parameters of a kernel that makes calls together: each its own by blockIdx.z. */
template <typename C> struct together {
    C calls[MAX_TOGETHER];
};

template <typename C>
static mmebm_status launch_together(const mmebm_device *device, const char *what, void (*kernel)(together<C>),
                                    dim3 grid, const together<C> &calls, int32_t count)
{
    grid.z = (unsigned)count;
    return mmebm__cuda_launch(device, what, kernel, grid, CUDA_BLOCK, 0, calls);
}

static int operand_is_wide(const cuda_operand *operand)
{
    return operand->scale == 0.0f || tensor_is_wide(&operand->tensor);
}

/* ---- the sum of two tensors */

/* Coordinate of a tensor that is read `shrink` times as large; most are read at 1 or 2, without a division. */
static __device__ __forceinline__ int32_t shrunk(int32_t at, int32_t shrink)
{
    return shrink == 1 ? at : shrink == 2 ? at >> 1 : at / shrink;
}

/* The element of a tensor that pixel (y, x) takes, before windows are summed. */
static __device__ __forceinline__ int64_t operand_at(const cuda_operand &operand, int64_t row, int32_t y, int32_t x)
{
    return pixel_at(operand.tensor, row, shrunk(y, operand.shrink), shrunk(x, operand.shrink));
}

/* sum <- sum + scale * what the operand gives for LANES or one channel of a pixel */
template <int V>
static __device__ __forceinline__ void add_operand(const cuda_operand &operand, int64_t row, const element &place,
                                                   float *sum)
{
    const cuda_tensor &tensor = operand.tensor;
    const int32_t window = operand.window, y = place.y * window, x = place.x * window;
    if (operand.scale == 0.0f || place.c >= tensor.channels) return;
    if (tensor.data && window == 2) { /* all loads before the first sum */
        float value[4][V];
#pragma unroll
        for (int w = 0; w < 4; ++w)
            load_values<V>(tensor, operand_at(operand, row, y + w / 2, x + w % 2) + place.c, value[w]);
#pragma unroll
        for (int w = 0; w < 4; ++w)
#pragma unroll
            for (int k = 0; k < V; ++k) sum[k] += operand.scale * value[w][k];
        return;
    }
    for (int32_t dy = 0; dy < window; ++dy) {
        for (int32_t dx = 0; dx < window; ++dx) {
            float value[V];
            if (tensor.data) load_values<V>(tensor, operand_at(operand, row, y + dy, x + dx) + place.c, value);
#pragma unroll
            for (int k = 0; k < V; ++k) sum[k] += operand.scale * (tensor.data ? value[k] : 1.0f);
        }
    }
}

template <int V> static __global__ void combine_tensors_kernel(const __grid_constant__ together<cuda_combine> all)
{
    begin_kernel();
    const cuda_combine &call = all.calls[blockIdx.z];
    const int32_t count = call.out.height * call.out.width * call.out.channels / V;
    FOR_EACH_ROW(row, call.rows)
    FOR_EACH_IN_ROW(i, count)
    {
        const element place = element_of(call.out, i * V);
        float sum[V] = {};
        add_operand<V>(call.a, row, place, sum);
        if (call.mask.data) {
            float mask[V];
            load_values<V>(call.mask, element_at(call.mask, row, place), mask);
#pragma unroll
            for (int k = 0; k < V; ++k) sum[k] = mask[k] > 0.0f ? sum[k] : call.slope * sum[k];
        }
        add_operand<V>(call.b, row, place, sum);
        store_values<V>(call.out, element_at(call.out, row, place), sum);
    }
}

/* The same for 2 x 2 sums of one bf16 tensor, where memory is all that takes time: few registers, all loads at once. */
static __global__ void __launch_bounds__(CUDA_BLOCK, 6)
    halve_tensor_kernel(const __grid_constant__ together<cuda_combine> all)
{
    begin_kernel();
    const cuda_combine &call = all.calls[blockIdx.z];
    const cuda_tensor &a = call.a.tensor, &out = call.out;
    const uint32_t vectors = (uint32_t)out.channels / LANES, width = (uint32_t)out.width;
    const uint32_t stride = (uint32_t)a.stride, line = stride * (uint32_t)a.width;
    FOR_EACH_ROW(row, call.rows)
    {
        const int64_t first = row * a.height * line, first_out = row * out.height * out.width * out.stride;
        FOR_EACH_IN_ROW(i, out.height * out.width * (int32_t)vectors)
        {
            const uint32_t pixel = (uint32_t)i / vectors, c = ((uint32_t)i - pixel * vectors) * LANES;
            const uint32_t y = pixel / width, x = pixel - y * width;
            const int64_t at = first + (2 * y * line + 2 * x * stride + c);
            const uint4 words[4] = {load_words(a, at), load_words(a, at + stride), load_words(a, at + line),
                                    load_words(a, at + line + stride)};
            float sum[LANES] = {};
#pragma unroll
            for (int w = 0; w < 4; ++w) {
                float value[LANES];
                unpack_words(words[w], value);
#pragma unroll
                for (int k = 0; k < LANES; ++k) sum[k] += call.a.scale * value[k];
            }
            store_values<LANES>(out, first_out + (pixel * (uint32_t)out.stride + c), sum);
        }
    }
}

static int combine_is_wide(const cuda_combine *call)
{
    return tensor_is_wide(&call->out) && tensor_is_wide(&call->mask) && operand_is_wide(&call->a) &&
           operand_is_wide(&call->b);
}

static int combine_halves(const cuda_combine *call)
{
    const cuda_operand *a = &call->a;
    return a->tensor.data && a->tensor.type == TYPE_BF16 && a->window == 2 && a->shrink == 1 && !a->tensor.period &&
           a->tensor.channels == call->out.channels && a->scale != 0.0f && call->b.scale == 0.0f && !call->mask.data &&
           combine_is_wide(call);
}

typedef void (*combine_kernel)(together<cuda_combine>);

static combine_kernel kernel_for(const cuda_combine *call)
{
    if (combine_halves(call)) return halve_tensor_kernel;
    return combine_is_wide(call) ? combine_tensors_kernel<LANES> : combine_tensors_kernel<1>;
}

/* The kernel is that of the first, if all have the same, whatever the company. */
mmebm_status mmebm__cuda_combine_tensors(const mmebm_device *device, const cuda_combine *calls, int32_t count)
{
    together<cuda_combine> all;
    const combine_kernel kernel = kernel_for(calls);
    for (int32_t k = 0; k < count; ++k) {
        all.calls[k] = calls[k];
        if (kernel_for(&calls[k]) == kernel) continue;
        CUDA_TRY(mmebm__cuda_combine_tensors(device, calls, k));
        return mmebm__cuda_combine_tensors(device, calls + k, count - k);
    }
    const int32_t at_once = combine_is_wide(calls) ? (int32_t)LANES : 1;
    return launch_together(device, "sum of tensors", kernel, row_grid(row_count(&calls->out) / at_once, calls->rows),
                           all, count);
}

static __global__ void add_shares_kernel(const __grid_constant__ cuda_shares call)
{
    begin_kernel();
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < call.numbers;
         i += (int64_t)gridDim.x * blockDim.x) {
        float sum = 0.0f;
        for (int32_t k = 0; k < call.count; ++k) sum += call.scales[k] * call.parts[k][i];
        call.out[i] = sum;
    }
}

mmebm_status mmebm__cuda_add_shares(const mmebm_device *device, const cuda_shares *call)
{
    return mmebm__cuda_launch(device, "sum", add_shares_kernel,
                              mmebm__cuda_blocks(call->numbers, CUDA_BLOCK), CUDA_BLOCK, 0, *call);
}

/* ---- images side by side */

/* Where a row of an f32 image begins. */
static __device__ __forceinline__ float *image_row(const cuda_tensor &image, int64_t row)
{
    const int64_t at = row < image.period ? row : tensor_row(image, row); /* most rows need no division */
    return static_cast<float *>(image.data) + at * image.height * image.width * image.stride;
}

/* For each packed channel, where a row's first pixel has it (NULL = zeros) and how far apart pixels are. */
struct channel_places {
    const float *from[MAX_CHANNELS_SIDE_BY_SIDE];
    int32_t stride[MAX_CHANNELS_SIDE_BY_SIDE];
};

static __device__ __forceinline__ void find_channel(const cuda_side_by_side &call, int64_t row, int32_t channel,
                                                    channel_places *places)
{
    int32_t k = 0, c = channel;
    for (; k < call.count && c >= call.parts[k].channels; ++k) c -= call.parts[k].channels;
    places->from[channel] = k < call.count ? image_row(call.parts[k], row) + c : NULL;
    places->stride[channel] = k < call.count ? call.parts[k].stride : 0;
}

/* threadIdx.x: which LANES channels; threadIdx.y: pixel. */
static __global__ void gather_parts_kernel(const __grid_constant__ cuda_side_by_side call)
{
    __shared__ channel_places places;
    begin_kernel();
    const int32_t thread = (int32_t)(threadIdx.y * blockDim.x + threadIdx.x), first = (int32_t)threadIdx.x * LANES;
    const int32_t area = call.packed.height * call.packed.width;
    FOR_EACH_ROW(row, call.rows)
    {
        __syncthreads(); /* places of an earlier row were read */
        if (thread < call.packed.channels) find_channel(call, row, thread, &places);
        __syncthreads();
        for (int32_t pixel = (int32_t)(blockIdx.x * blockDim.y + threadIdx.y); pixel < area;
             pixel += (int32_t)(gridDim.x * blockDim.y)) {
            float v[LANES];
#pragma unroll
            for (int lane = 0; lane < LANES; ++lane) {
                const float *from = places.from[first + lane];
                v[lane] = from ? from[pixel * places.stride[first + lane]] : 0.0f;
            }
            store_values<LANES>(call.packed, pixel_at(call.packed, row, 0, pixel) + first, v);
        }
    }
}

/* Each block has a run of pixels, of which it writes one part after another, neighbouring threads neighbouring numbers;
 * all but the first part find the pixels in the L1 cache. */
static __global__ void split_parts_kernel(const __grid_constant__ cuda_side_by_side call)
{
    begin_kernel();
    const int32_t area = call.packed.height * call.packed.width;
    const int32_t share = (area + (int32_t)gridDim.x - 1) / (int32_t)gridDim.x;
    const int32_t begin = (int32_t)blockIdx.x * share, end = min(begin + share, area);
    FOR_EACH_ROW(row, call.rows)
    {
        const float *from = image_row(call.packed, row);
        for (int32_t k = 0; k < call.count; from += call.parts[k++].channels) {
            const cuda_tensor &part = call.parts[k];
            const uint32_t channels = (uint32_t)part.channels, at_once = CUDA_BLOCK / channels; /* pixels */
            const uint32_t own = threadIdx.x / channels, c = threadIdx.x % channels;
            if (!part.data || own >= at_once) continue;
            float *to = image_row(part, row) + c;
            for (int32_t pixel = begin + (int32_t)own; pixel < end; pixel += (int32_t)at_once)
                to[pixel * part.stride] = from[pixel * call.packed.stride + (int32_t)c];
        }
    }
}

mmebm_status mmebm__cuda_gather_parts(const mmebm_device *device, const cuda_side_by_side *call)
{
    const int32_t vectors = call->packed.channels / LANES;
    const dim3 block((unsigned)vectors, (unsigned)(CUDA_BLOCK / vectors));
    dim3 grid = row_grid(1, call->rows);
    grid.x = mmebm__cuda_blocks((int64_t)call->packed.height * call->packed.width, block.y);
    return mmebm__cuda_launch(device, "gathering of images", gather_parts_kernel, grid, block, 0, *call);
}

mmebm_status mmebm__cuda_split_parts(const mmebm_device *device, const cuda_side_by_side *call)
{
    const dim3 grid = row_grid((int64_t)call->packed.height * call->packed.width, call->rows);
    return mmebm__cuda_launch(device, "splitting of images", split_parts_kernel, grid, CUDA_BLOCK, 0, *call);
}

/* ---- reading an operand element by element */

static __device__ __forceinline__ float read(const cuda_operand &operand, int64_t row, const element &place)
{
    float value = 0.0f;
    add_operand<1>(operand, row, place, &value);
    return value;
}

/* ---- activation */

static __device__ __forceinline__ float sigmoid(float x)
{
    return x >= 0.0f ? 1.0f / (1.0f + expf(-x)) : expf(x) / (1.0f + expf(x));
}

static __device__ float activation(uint32_t kind, float parameter, float x, float *slope)
{
    float y;
    switch (kind) {
    case MMEBM_RELU:
        *slope = x <= 0.0f ? 0.0f : 1.0f;
        return x <= 0.0f ? 0.0f : x;
    case MMEBM_LEAKY_RELU:
        *slope = x <= 0.0f ? parameter : 1.0f;
        return x <= 0.0f ? parameter * x : x;
    case MMEBM_SILU:
        y = sigmoid(x);
        *slope = y * (1.0f + x * (1.0f - y));
        return x * y;
    case MMEBM_SOFTPLUS:
        *slope = sigmoid(x);
        return x > 0.0f ? x + log1pf(expf(-x)) : log1pf(expf(x));
    case MMEBM_TANH:
        y = tanhf(x);
        *slope = 1.0f - y * y;
        return y;
    default: /* MMEBM_SIGMOID */
        y = sigmoid(x);
        *slope = y * (1.0f - y);
        return y;
    }
}

struct activation_call {
    uint32_t kind;
    float parameter;
    int64_t rows;
    cuda_operand x, by_y; /* by_y.scale 0: forward */
    cuda_tensor out;
};

template <int V> static __global__ void activation_kernel(const __grid_constant__ activation_call call)
{
    begin_kernel();
    FOR_EACH_ROW(row, call.rows)
    FOR_EACH_IN_ROW(i, call.out.height * call.out.width * call.out.channels / V)
    {
        const element place = element_of(call.out, i * V);
        float x[V] = {}, by_y[V] = {}, slope;
        add_operand<V>(call.x, row, place, x);
        add_operand<V>(call.by_y, row, place, by_y);
#pragma unroll
        for (int k = 0; k < V; ++k) {
            const float y = activation(call.kind, call.parameter, x[k], &slope);
            x[k] = call.by_y.scale == 0.0f ? y : slope * by_y[k];
        }
        store_values<V>(call.out, element_at(call.out, row, place), x);
    }
}

static mmebm_status run_activation(const mmebm_device *device, const cuda_layer_call *call, const cuda_operand *by_y,
                                   const cuda_tensor *out)
{
    activation_call arguments = {};
    arguments.kind = call->layer->activation;
    arguments.parameter = call->layer->parameter;
    arguments.rows = call->rows;
    arguments.x = call->x;
    if (by_y) arguments.by_y = *by_y;
    arguments.out = *out;
    const int wide = tensor_is_wide(out) && operand_is_wide(&arguments.x) && operand_is_wide(&arguments.by_y);
    return mmebm__cuda_launch(device, "activation", wide ? activation_kernel<LANES> : activation_kernel<1>,
                              row_grid(row_count(out) / (wide ? (int)LANES : 1), call->rows), CUDA_BLOCK, 0, arguments);
}

static mmebm_status activation_forward(const mmebm_device *device, const cuda_layer_call *call)
{
    return run_activation(device, call, NULL, &call->y);
}

static mmebm_status activation_backward(const mmebm_device *device, const cuda_layer_call *call)
{
    return run_activation(device, call, &call->by_y, &call->by_x);
}

/* ---- softmax over the channels: a warp for each pixel */

static __global__ void softmax_kernel(const __grid_constant__ cuda_layer_call call, int backward)
{
    begin_kernel();
    const cuda_tensor &shape = call.y;
    const int32_t lane = (int32_t)threadIdx.x;
    FOR_EACH_ROW(row, call.rows)
    for (int32_t pixel = (int32_t)blockIdx.x; pixel < shape.height * shape.width; pixel += (int32_t)gridDim.x) {
        element place = {pixel / shape.width, pixel % shape.width, 0};
        if (backward) {
            double mean = 0.0;
            for (place.c = lane; place.c < shape.channels; place.c += 32)
                mean += (double)load_value(call.y, element_at(call.y, row, place)) * read(call.by_y, row, place);
            mean = warp_sum(mean);
            for (place.c = lane; place.c < shape.channels; place.c += 32) {
                const float y = load_value(call.y, element_at(call.y, row, place));
                store_value(call.by_x, element_at(call.by_x, row, place),
                            y * (read(call.by_y, row, place) - (float)mean));
            }
            continue;
        }
        float largest = -INFINITY;
        double total = 0.0;
        for (place.c = lane; place.c < shape.channels; place.c += 32)
            largest = fmaxf(largest, read(call.x, row, place));
        for (int offset = 16; offset > 0; offset >>= 1)
            largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, offset));
        for (place.c = lane; place.c < shape.channels; place.c += 32) total += expf(read(call.x, row, place) - largest);
        const float inverse = (float)(1.0 / warp_sum(total));
        for (place.c = lane; place.c < shape.channels; place.c += 32)
            store_value(call.y, element_at(call.y, row, place), expf(read(call.x, row, place) - largest) * inverse);
    }
}

static mmebm_status run_softmax(const mmebm_device *device, const cuda_layer_call *call, int backward)
{
    const dim3 grid = row_grid((int64_t)call->y.height * call->y.width * CUDA_BLOCK, call->rows);
    return mmebm__cuda_launch(device, "softmax", softmax_kernel, grid, 32, 0, *call, backward);
}

static mmebm_status softmax_forward(const mmebm_device *device, const cuda_layer_call *call)
{
    return run_softmax(device, call, 0);
}

static mmebm_status softmax_backward(const mmebm_device *device, const cuda_layer_call *call)
{
    return run_softmax(device, call, 1);
}

/* ---- average pooling; padded zeros count */

struct pool_call {
    int64_t rows;
    int32_t kernel[2], stride[2], padding[2];
    cuda_operand source; /* x, or the gradient of y */
    cuda_tensor out;     /* y, or the gradient of x */
    int32_t source_height, source_width;
};

template <int V> static __global__ void pool_kernel(const __grid_constant__ pool_call call)
{
    begin_kernel();
    const float share = 1.0f / (float)(call.kernel[0] * call.kernel[1]);
    FOR_EACH_ROW(row, call.rows)
    FOR_EACH_IN_ROW(i, call.out.height * call.out.width * call.out.channels / V)
    {
        const element place = element_of(call.out, i * V);
        float sum[V] = {};
        for (int32_t a = 0; a < call.kernel[0]; ++a)
            for (int32_t b = 0; b < call.kernel[1]; ++b) {
                const element from = {place.y * call.stride[0] - call.padding[0] + a,
                                      place.x * call.stride[1] - call.padding[1] + b, place.c};
                if (from.y >= 0 && from.y < call.source_height && from.x >= 0 && from.x < call.source_width)
                    add_operand<V>(call.source, row, from, sum);
            }
#pragma unroll
        for (int k = 0; k < V; ++k) sum[k] *= share;
        store_values<V>(call.out, element_at(call.out, row, place), sum);
    }
}

/* Every input pixel collects from the windows that hold it. */
template <int V> static __global__ void pool_backward_kernel(const __grid_constant__ pool_call call)
{
    begin_kernel();
    const float share = 1.0f / (float)(call.kernel[0] * call.kernel[1]);
    FOR_EACH_ROW(row, call.rows)
    FOR_EACH_IN_ROW(i, call.out.height * call.out.width * call.out.channels / V)
    {
        const element place = element_of(call.out, i * V);
        float sum[V] = {};
        for (int32_t a = 0; a < call.kernel[0]; ++a)
            for (int32_t b = 0; b < call.kernel[1]; ++b) {
                const int32_t y = place.y + call.padding[0] - a, x = place.x + call.padding[1] - b;
                if (y < 0 || x < 0 || y % call.stride[0] || x % call.stride[1]) continue;
                const element from = {y / call.stride[0], x / call.stride[1], place.c};
                if (from.y < call.source_height && from.x < call.source_width)
                    add_operand<V>(call.source, row, from, sum);
            }
#pragma unroll
        for (int k = 0; k < V; ++k) sum[k] *= share;
        store_values<V>(call.out, element_at(call.out, row, place), sum);
    }
}

static pool_call pool_arguments(const cuda_layer_call *call, const cuda_operand *source,
                                const cuda_tensor *source_shape, const cuda_tensor *out)
{
    pool_call arguments = {};
    arguments.rows = call->rows;
    for (int axis = 0; axis < 2; ++axis) {
        arguments.kernel[axis] = (int32_t)call->layer->kernel[axis];
        arguments.stride[axis] = (int32_t)call->layer->stride[axis];
        arguments.padding[axis] = (int32_t)call->layer->padding[axis];
    }
    arguments.source = *source;
    arguments.out = *out;
    arguments.source_height = source_shape->height;
    arguments.source_width = source_shape->width;
    return arguments;
}

static mmebm_status run_pool(const mmebm_device *device, const pool_call *call, int backward)
{
    const int wide = tensor_is_wide(&call->out) && operand_is_wide(&call->source);
    const dim3 grid = row_grid(row_count(&call->out) / (wide ? (int)LANES : 1), call->rows);
    void (*const kernel)(pool_call) = backward ? (wide ? pool_backward_kernel<LANES> : pool_backward_kernel<1>)
                                               : (wide ? pool_kernel<LANES> : pool_kernel<1>);
    return mmebm__cuda_launch(device, "avg_pool", kernel, grid, CUDA_BLOCK, 0, *call);
}

static mmebm_status pool_forward(const mmebm_device *device, const cuda_layer_call *call)
{
    const pool_call arguments = pool_arguments(call, &call->x, &call->x.tensor, &call->y);
    return run_pool(device, &arguments, 0);
}

static mmebm_status pool_backward(const mmebm_device *device, const cuda_layer_call *call)
{
    const pool_call arguments = pool_arguments(call, &call->by_y, &call->y, &call->by_x);
    return run_pool(device, &arguments, 1);
}

enum { POOL_SLICES = 16 /* of the pixels, added in order */ };

template <int V> static __global__ void global_pool_kernel(const __grid_constant__ cuda_layer_call call)
{
    begin_kernel();
    __shared__ float sums[POOL_SLICES][16 * V];
    const cuda_tensor &x = call.x.tensor;
    const int32_t area = x.height * x.width, c = (int32_t)(blockIdx.x * 16 + threadIdx.x) * V;
    FOR_EACH_ROW(row, call.rows)
    {
        float sum[V] = {};
#pragma unroll 4
        for (int32_t pixel = (int32_t)threadIdx.y; pixel < area && c < x.channels; pixel += POOL_SLICES) {
            const element place = {pixel / x.width, pixel % x.width, c};
            add_operand<V>(call.x, row, place, sum);
        }
        for (int k = 0; k < V; ++k) sums[threadIdx.y][threadIdx.x * V + k] = sum[k];
        __syncthreads();
        const int32_t own = (int32_t)(threadIdx.y * 16 + threadIdx.x), channel = (int32_t)blockIdx.x * 16 * V + own;
        if (own < 16 * V && channel < x.channels) {
            float total = 0.0f;
#pragma unroll
            for (int slice = 0; slice < POOL_SLICES; ++slice) total += sums[slice][own];
            store_value(call.y, element_at(call.y, row, element_of(call.y, channel)), total / (float)area);
        }
        __syncthreads();
    }
}

static mmebm_status global_pool_forward(const mmebm_device *device, const cuda_layer_call *call)
{
    const int wide = tensor_is_wide(&call->x.tensor);
    dim3 grid = row_grid(1, call->rows);
    grid.x = (unsigned)((call->x.tensor.channels / (wide ? (int)LANES : 1) + 15) / 16);
    if (wide)
        return mmebm__cuda_launch(device, "global_avg_pool", global_pool_kernel<LANES>, grid, dim3(16, POOL_SLICES), 0,
                                  *call);
    return mmebm__cuda_launch(device, "global_avg_pool", global_pool_kernel<1>, grid, dim3(16, POOL_SLICES), 0, *call);
}

/* ---- batch norm with running statistics: y = gain (x - mean) / sqrt(variance + epsilon) + shift */

/* Forward, or the gradient by x. */
static __global__ void batch_norm_kernel(const __grid_constant__ cuda_layer_call call, float epsilon, int backward)
{
    begin_kernel();
    const cuda_tensor &out = backward ? call.by_x : call.y;
    FOR_EACH_ROW(row, call.rows)
    FOR_EACH_IN_ROW(i, out.height * out.width * out.channels)
    {
        const element place = element_of(out, i);
        const int32_t c = place.c;
        const float factor = call.gain[c] * (1.0f / sqrtf(call.variance[c] + epsilon));
        const float value = backward ? factor * read(call.by_y, row, place)
                                     : factor * (read(call.x, row, place) - call.mean[c]) + call.shift[c];
        store_value(out, element_at(out, row, place), value);
    }
}

/* Sums over all rows and pixels for one channel, by one block: gradients of gain and shift, and the row's statistics
 * (mmebm_plan_run). */
static __global__ void batch_norm_sums_kernel(const __grid_constant__ cuda_layer_call call, float epsilon)
{
    begin_kernel();
    const cuda_tensor &shape = call.y;
    const int32_t c = (int32_t)blockIdx.x, area = shape.height * shape.width;
    const double scale = 1.0 / sqrt((double)call.variance[c] + epsilon), mean = call.mean[c];
    double sums[4] = {};
    for (int64_t at = threadIdx.x; at < call.rows * area; at += blockDim.x) {
        const int32_t pixel = (int32_t)(at % area);
        const element place = {pixel / shape.width, pixel % shape.width, c};
        const double x = read(call.x, at / area, place), by_y = read(call.by_y, at / area, place);
        sums[0] += (x - mean) * scale * by_y;
        sums[1] += by_y;
        sums[2] += x / area;
        sums[3] += (x - mean) * (x - mean) / area;
    }
    for (int k = 0; k < 4; ++k) {
        const double total = block_sum(sums[k]);
        if (threadIdx.x == 0) call.by_weights[k][c] = (float)(call.by_weights[k][c] + total);
    }
}

static mmebm_status batch_norm_forward(const mmebm_device *device, const cuda_layer_call *call)
{
    return mmebm__cuda_launch(device, "batch_norm", batch_norm_kernel, row_grid(row_count(&call->y), call->rows),
                              CUDA_BLOCK, 0, *call, call->layer->epsilon, 0);
}

static mmebm_status batch_norm_backward(const mmebm_device *device, const cuda_layer_call *call)
{
    if (call->by_weights[0])
        CUDA_TRY(mmebm__cuda_launch(device, "sums of batch_norm", batch_norm_sums_kernel, (unsigned)call->y.channels,
                                    CUDA_BLOCK, 0, *call, call->layer->epsilon));
    if (call->by_x.data)
        return mmebm__cuda_launch(device, "gradient of batch_norm", batch_norm_kernel,
                                  row_grid(row_count(&call->by_x), call->rows), CUDA_BLOCK, 0, *call,
                                  call->layer->epsilon, 1);
    return MMEBM_OK;
}

/* ---- losses: NLL (mean, target) and PRIOR (z), which is the NLL of z with mean 0 */

struct loss_call {
    int64_t rows;
    uint32_t likelihood;
    float scale, factor;
    cuda_operand mean, target; /* mean.scale 0: zeros */
    cuda_operand by_loss;
    cuda_tensor loss, by_mean, by_target;
    cuda_tensor shape;
};

static __device__ __forceinline__ float sign_of(float x)
{
    return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : x; /* 0 and NaN stay */
}

static __device__ __forceinline__ float element_loss(const loss_call &call, float mean, float target, float *by_mean,
                                                     float *by_target)
{
    const float difference = target - mean, smallest_probability = 1e-30f;
    if (call.likelihood == MMEBM_CATEGORICAL) {
        const bool floored = mean < smallest_probability;
        const float log_mean = logf(floored ? smallest_probability : mean);
        *by_mean = floored ? 0.0f : -call.factor * target / mean;
        *by_target = -call.factor * log_mean;
        return -call.factor * target * log_mean;
    }
    if (call.likelihood == MMEBM_LAPLACE) {
        *by_target = call.factor * sign_of(difference) / call.scale;
        *by_mean = -*by_target;
        return call.factor * fabsf(difference) / call.scale;
    }
    *by_target = call.factor * difference / (call.scale * call.scale);
    *by_mean = -*by_target;
    return call.factor * difference * difference / (2.0f * call.scale * call.scale);
}

static __global__ void loss_kernel(const __grid_constant__ together<loss_call> all)
{
    begin_kernel();
    const loss_call &call = all.calls[blockIdx.z];
    const int32_t count = call.shape.height * call.shape.width * call.shape.channels;
    for (int64_t row = blockIdx.x; row < call.rows; row += gridDim.x) {
        double total = 0.0;
        float by_mean, by_target;
        for (int32_t i = (int32_t)threadIdx.x; i < count; i += (int32_t)blockDim.x) {
            const element place = element_of(call.shape, i);
            total +=
                element_loss(call, read(call.mean, row, place), read(call.target, row, place), &by_mean, &by_target);
        }
        total = block_sum(total);
        if (threadIdx.x == 0) store_value(call.loss, row * call.loss.stride, (float)total);
    }
}

static __global__ void loss_backward_kernel(const __grid_constant__ together<loss_call> all)
{
    begin_kernel();
    const loss_call &call = all.calls[blockIdx.z];
    const element first = {0, 0, 0};
    FOR_EACH_ROW(row, call.rows)
    {
        const float by_loss = read(call.by_loss, row, first);
        FOR_EACH_IN_ROW(i, call.shape.height * call.shape.width * call.shape.channels)
        {
            const element place = element_of(call.shape, i);
            float by_mean, by_target;
            element_loss(call, read(call.mean, row, place), read(call.target, row, place), &by_mean, &by_target);
            if (call.by_mean.data) store_value(call.by_mean, element_at(call.by_mean, row, place), by_loss * by_mean);
            if (call.by_target.data)
                store_value(call.by_target, element_at(call.by_target, row, place), by_loss * by_target);
        }
    }
}

/* ---- the same where mean and target lie without gaps: pixel by pixel, without a division for each number */

static __device__ __forceinline__ const float *flat_row(const cuda_tensor &tensor, int64_t row, int64_t count)
{
    return static_cast<const float *>(tensor.data) + tensor_row(tensor, row) * count;
}

static __global__ void flat_loss_kernel(const __grid_constant__ together<loss_call> all)
{
    begin_kernel();
    const loss_call &call = all.calls[blockIdx.z];
    const int32_t count = call.shape.height * call.shape.width * call.shape.channels;
    for (int64_t row = blockIdx.x; row < call.rows; row += gridDim.x) {
        const float4 *means = reinterpret_cast<const float4 *>(flat_row(call.mean.tensor, row, count));
        const float4 *targets = reinterpret_cast<const float4 *>(flat_row(call.target.tensor, row, count));
        double total = 0.0;
        float by_mean, by_target;
#pragma unroll 4
        for (int32_t i = (int32_t)threadIdx.x; i < count / 4; i += (int32_t)blockDim.x) {
            const float4 m = means[i], t = targets[i];
            total += element_loss(call, m.x, t.x, &by_mean, &by_target);
            total += element_loss(call, m.y, t.y, &by_mean, &by_target);
            total += element_loss(call, m.z, t.z, &by_mean, &by_target);
            total += element_loss(call, m.w, t.w, &by_mean, &by_target);
        }
        total = block_sum(total);
        if (threadIdx.x == 0) store_value(call.loss, row * call.loss.stride, (float)total);
    }
}

/* The gradient by the mean alone, as the product that made the mean reads it: LANES bf16 channels, padded by zeros. */
static __global__ void flat_loss_backward_kernel(const __grid_constant__ together<loss_call> all)
{
    begin_kernel();
    const loss_call &call = all.calls[blockIdx.z];
    const element first = {0, 0, 0};
    const int32_t channels = call.shape.channels, area = call.shape.height * call.shape.width;
    FOR_EACH_ROW(row, call.rows)
    {
        const float by_loss = read(call.by_loss, row, first);
        const float *means = flat_row(call.mean.tensor, row, (int64_t)area * channels);
        const float *targets = flat_row(call.target.tensor, row, (int64_t)area * channels);
        FOR_EACH_IN_ROW(pixel, area)
        {
            float v[LANES] = {}, by_target;
#pragma unroll
            for (int c = 0; c < LANES; ++c) {
                if (c >= channels) break;
                element_loss(call, means[pixel * channels + c], targets[pixel * channels + c], &v[c], &by_target);
                v[c] *= by_loss;
            }
            store_values<LANES>(call.by_mean, (row * area + pixel) * LANES, v);
        }
    }
}

/* The same for a mean without gaps: four numbers a thread. */
static __global__ void dense_loss_backward_kernel(const __grid_constant__ together<loss_call> all)
{
    begin_kernel();
    const loss_call &call = all.calls[blockIdx.z];
    const element first = {0, 0, 0};
    const int32_t count = call.shape.height * call.shape.width * call.shape.channels;
    FOR_EACH_ROW(row, call.rows)
    {
        const float by_loss = read(call.by_loss, row, first);
        const float4 *means = reinterpret_cast<const float4 *>(flat_row(call.mean.tensor, row, count));
        const float4 *targets = reinterpret_cast<const float4 *>(flat_row(call.target.tensor, row, count));
        FOR_EACH_IN_ROW(i, count / 4)
        {
            const float4 m = means[i], t = targets[i];
            float v[4], by_target;
            element_loss(call, m.x, t.x, &v[0], &by_target);
            element_loss(call, m.y, t.y, &v[1], &by_target);
            element_loss(call, m.z, t.z, &v[2], &by_target);
            element_loss(call, m.w, t.w, &v[3], &by_target);
#pragma unroll
            for (int k = 0; k < 4; ++k) v[k] *= by_loss;
            const int64_t at = row * count + 4 * i;
            if (call.by_mean.type == TYPE_BF16)
                *reinterpret_cast<uint2 *>(static_cast<__nv_bfloat16 *>(call.by_mean.data) + at) =
                    make_uint2(pack_pair(v[0], v[1]), pack_pair(v[2], v[3]));
            else
                put_floats<4>(static_cast<float *>(call.by_mean.data) + at, v);
        }
    }
}

static int is_flat(const cuda_operand *operand, const cuda_tensor *shape)
{
    const cuda_tensor *t = &operand->tensor;
    return operand->scale == 1.0f && operand->shrink == 1 && operand->window == 1 && t->data && t->type == TYPE_F32 &&
           t->stride == t->channels && t->height == shape->height && t->width == shape->width &&
           t->channels == shape->channels && reinterpret_cast<uintptr_t>(t->data) % 16 == 0;
}

/* Rows begin at multiples of 16 bytes. */
static int has_flat_rows(const loss_call *call)
{
    return call->shape.height * call->shape.width * call->shape.channels % 4 == 0 &&
           is_flat(&call->mean, &call->shape) && is_flat(&call->target, &call->shape);
}

static loss_call loss_arguments(const cuda_layer_call *call)
{
    const int prior = call->layer->kind == MMEBM_LAYER_PRIOR;
    loss_call arguments = {};
    arguments.rows = call->rows;
    arguments.likelihood = call->layer->likelihood;
    arguments.scale = call->layer->scale;
    arguments.factor = prior ? 1.0f : call->layer->loss_factor;
    if (!prior) arguments.mean = call->x;
    arguments.target = prior ? call->x : call->target;
    arguments.by_loss = call->by_y;
    arguments.loss = call->y;
    if (!prior) arguments.by_mean = call->by_x;
    arguments.by_target = prior ? call->by_x : call->by_target;
    arguments.shape = call->x.tensor;
    return arguments;
}

/* Kernels for layers that are passed together: those of the first, if all have the same, whatever the company. */
struct loss_kernels {
    void (*forward)(together<loss_call>), (*backward)(together<loss_call>);
    int64_t per_row; /* of the backward one */
};

static loss_kernels kernels_for(const loss_call *call)
{
    const cuda_tensor *by_mean = &call->by_mean, *shape = &call->shape;
    const int flat = has_flat_rows(call), alone = flat && !call->by_target.data && by_mean->data;
    loss_kernels kernels = {flat ? flat_loss_kernel : loss_kernel, loss_backward_kernel, row_count(shape)};
    if (alone && by_mean->type == TYPE_BF16 && by_mean->stride == (int32_t)LANES && shape->channels < (int32_t)LANES) {
        kernels.backward = flat_loss_backward_kernel;
        kernels.per_row = (int64_t)shape->height * shape->width;
    } else if (alone && by_mean->stride == shape->channels && reinterpret_cast<uintptr_t>(by_mean->data) % 16 == 0) {
        kernels.backward = dense_loss_backward_kernel;
        kernels.per_row = row_count(shape) / 4;
    }
    return kernels;
}

static mmebm_status losses(const mmebm_device *device, const cuda_layer_call *calls, int32_t count, int backward)
{
    together<loss_call> all;
    all.calls[0] = loss_arguments(calls);
    const loss_kernels kernels = kernels_for(&all.calls[0]);
    for (int32_t k = 1; k < count; ++k) {
        all.calls[k] = loss_arguments(&calls[k]);
        const loss_kernels other = kernels_for(&all.calls[k]);
        if (other.forward != kernels.forward || other.backward != kernels.backward) {
            CUDA_TRY(losses(device, calls, k, backward));
            return losses(device, calls + k, count - k, backward);
        }
    }
    if (backward)
        return launch_together(device, "gradient of likelihood", kernels.backward,
                               row_grid(kernels.per_row, calls->rows), all, count);
    return launch_together(device, "likelihood", kernels.forward, mmebm__cuda_blocks(calls->rows, 1), all, count);
}

static mmebm_status losses_forward(const mmebm_device *device, const cuda_layer_call *calls, int32_t count)
{
    return losses(device, calls, count, 0);
}

static mmebm_status losses_backward(const mmebm_device *device, const cuda_layer_call *calls, int32_t count)
{
    return losses(device, calls, count, 1);
}

/* ---- the table */

template <mmebm_status (*PASS)(const mmebm_device *, const cuda_layer_call *)>
static mmebm_status one_by_one(const mmebm_device *device, const cuda_layer_call *calls, int32_t count)
{
    for (int32_t k = 0; k < count; ++k) CUDA_TRY(PASS(device, &calls[k]));
    return MMEBM_OK;
}

struct layer_passes {
    mmebm_layer_kind kind;
    cuda_layer_pass forward, backward;
};

static const layer_passes passes[] = {
    {MMEBM_LAYER_ACTIVATION, one_by_one<activation_forward>, one_by_one<activation_backward>},
    {MMEBM_LAYER_SOFTMAX, one_by_one<softmax_forward>, one_by_one<softmax_backward>},
    {MMEBM_LAYER_AVG_POOL, one_by_one<pool_forward>, one_by_one<pool_backward>},
    {MMEBM_LAYER_GLOBAL_AVG_POOL, one_by_one<global_pool_forward>, NULL},
    {MMEBM_LAYER_BATCH_NORM, one_by_one<batch_norm_forward>, one_by_one<batch_norm_backward>},
    {MMEBM_LAYER_NLL, losses_forward, losses_backward},
    {MMEBM_LAYER_PRIOR, losses_forward, losses_backward},
};

static const layer_passes *passes_of(mmebm_layer_kind kind)
{
    for (const layer_passes &entry : passes)
        if (entry.kind == kind) return &entry;
    return NULL;
}

cuda_layer_pass mmebm__cuda_forward(mmebm_layer_kind kind)
{
    const layer_passes *entry = passes_of(kind);
    return entry ? entry->forward : NULL;
}

cuda_layer_pass mmebm__cuda_backward(mmebm_layer_kind kind)
{
    const layer_passes *entry = passes_of(kind);
    return entry ? entry->backward : NULL;
}

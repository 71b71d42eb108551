/* SPDX-License-Identifier: Apache-2.0
 *
 * Operations that draw random numbers: noise, the Langevin update (Eqns 3, 8), Metropolis adjustment and draws from
 * experts. Element e of row r takes number e % 4 of block e / 4 of the row's chain; a thread makes one such block.
 * Compiled without contraction of a * b + c, and in the order of the reference backend, so that random numbers and
 * states have the bits of the other backends. Norms and log densities are sums in double.
 */
#include "cuda_expert.h"
#include "cuda_launch.h"

static __device__ mmebm_philox_block random_block(const mmebm_noise &noise, int64_t row, int64_t block)
{
    const int64_t repeat = row < noise.period ? 0 : row / noise.period; /* most calls need no division */
    const uint32_t stream = noise.stream + (uint32_t)repeat;
    const uint64_t chain = noise.key[1] + (uint64_t)(row - repeat * noise.period);
    return mmebm__random_block(noise.key[0], stream, chain, noise.step, (uint32_t)block);
}

static __device__ void draw_four(const mmebm_noise &noise, uint32_t family, int64_t row, int64_t block, float xi[4])
{
    const mmebm_philox_block words = random_block(noise, row, block);
    if (family == MMEBM_LAPLACE)
        for (int k = 0; k < 4; ++k) xi[k] = mmebm__laplace(words.word[k]);
    else
        mmebm__normals(words, xi);
}

/* Blocks of four in a row; the last may be partial. */
static __host__ __device__ int64_t fours(int64_t size)
{
    return (size + 3) / 4;
}

#define FOR_EACH_FOUR(at, rows, size)                                                                                  \
    for (int64_t at = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; at < (rows)*fours(size);                         \
         at += (int64_t)gridDim.x * blockDim.x)

/* ---- noise */

static __global__ void noise_kernel(int64_t rows, int64_t size, float *target, uint32_t family, float scale, float add,
                                    mmebm_noise noise)
{
    begin_kernel();
    FOR_EACH_FOUR(at, rows, size)
    {
        const int64_t row = at / fours(size), block = at % fours(size);
        float xi[4];
        draw_four(noise, family, row, block, xi);
        for (int k = 0; k < 4 && 4 * block + k < size; ++k) {
            float *value = target + row * size + 4 * block + k;
            const float drawn = scale * xi[k];
            *value = add == 0.0f ? drawn : add * *value + drawn;
        }
    }
}

mmebm_status mmebm__cuda_noise(mmebm_device *device, int64_t rows, int64_t size, float *target, uint32_t family,
                               float scale, float add, const mmebm_noise *noise)
{
    const cuda_scope scope(device);
    return mmebm__cuda_launch(device, "noise", noise_kernel, mmebm__cuda_blocks(rows * fours(size), CUDA_BLOCK),
                              CUDA_BLOCK, 0, rows, size, target, family, scale, add, *noise);
}

/* ---- Langevin */

static __device__ __forceinline__ float bounded(float value, float low, float high)
{
    return value < low ? low : value > high ? high : value; /* NaN stays NaN */
}

static __device__ __forceinline__ float clamped_drift(const mmebm_drift &drift, float l, float gradient)
{
    const float b = 0.5f * l * l * drift.factor * gradient;
    return drift.clamp > 0.0f ? bounded(b, -drift.clamp, drift.clamp) : b;
}

/* A thread's part of the squared norm of a row's drift, by all threads of a block. */
static __device__ double drift_square(const mmebm_drift &drift, float l, const float *gradient, int64_t size)
{
    double total = 0.0;
    for (int64_t e = threadIdx.x; e < size; e += blockDim.x) {
        const double b = clamped_drift(drift, l, gradient[e]);
        total += b * b;
    }
    return total;
}

/* What brings a row's drift of that squared norm within norm_clip. */
static __device__ __forceinline__ float norm_factor(const mmebm_drift &drift, double square)
{
    const double norm = sqrt(square);
    return norm > drift.norm_clip ? (float)(drift.norm_clip / norm) : 1.0f;
}

/* The first `count` of four elements, at once if `whole`. */
static __device__ __forceinline__ void load_four(const float *from, int64_t count, bool whole, float out[4])
{
    if (whole) {
        const float4 all = *reinterpret_cast<const float4 *>(from);
        out[0] = all.x, out[1] = all.y, out[2] = all.z, out[3] = all.w;
        return;
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) out[k] = k < count ? from[k] : 0.0f;
}

static __device__ __forceinline__ void store_four(float *to, int64_t count, bool whole, const float v[4])
{
    if (whole) {
        *reinterpret_cast<float4 *>(to) = make_float4(v[0], v[1], v[2], v[3]);
        return;
    }
#pragma unroll
    for (int k = 0; k < 4; ++k)
        if (k < count) to[k] = v[k];
}

/* Elements 4 block .. of a row: drift, noise and bounds in one go. They are read first, to arrive while drawing. */
static __device__ __forceinline__ void move_four(const mmebm_langevin_step &step, int64_t row, int64_t block,
                                                 float factor)
{
    const float l = step.scales[0], n = step.scales[1];
    const bool has_range = step.state_min != step.state_max;
    const int64_t at = row * step.size + 4 * block, count = step.size - 4 * block;
    const uintptr_t addresses =
        reinterpret_cast<uintptr_t>(step.state + at) | reinterpret_cast<uintptr_t>(step.gradient + at);
    const bool whole = count >= 4 && addresses % sizeof(float4) == 0;
    float state[4], gradient[4], xi[4];
    load_four(step.state + at, count, whole, state);
    load_four(step.gradient + at, count, whole, gradient);
    draw_four(step.noise, MMEBM_GAUSSIAN, row, block, xi);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        const float moved = state[k] - factor * clamped_drift(step.drift, l, gradient[k]) + n * xi[k];
        state[k] = has_range ? bounded(moved, step.state_min, step.state_max) : moved;
    }
    store_four(step.state + at, count, whole, state);
}

/* Blocks of x: a state; of y: steps. */
struct langevin_steps {
    mmebm_langevin_step step[MMEBM_MAX_LANGEVIN_STEPS];
};

/* Registers for six blocks at a time: enough reads under way to keep the memory busy. */
static __global__ void __launch_bounds__(CUDA_BLOCK, 6) langevin_kernel(const __grid_constant__ langevin_steps steps)
{
    begin_kernel();
    const mmebm_langevin_step &step = steps.step[blockIdx.y];
    FOR_EACH_FOUR(at, step.rows, step.size)
    {
        const int64_t row = at / fours(step.size);
        move_four(step, row, at - row * fours(step.size), 1.0f);
    }
}

/* With a bound on a row's norm: a block for each row. */
static __global__ void clipped_langevin_kernel(const __grid_constant__ langevin_steps steps)
{
    begin_kernel();
    const mmebm_langevin_step &step = steps.step[blockIdx.y];
    for (int64_t row = blockIdx.x; row < step.rows; row += gridDim.x) {
        const double square =
            drift_square(step.drift, step.scales[0], step.gradient + row * step.size, step.size);
        const float factor = norm_factor(step.drift, block_sum(square));
        for (int64_t block = threadIdx.x; block < fours(step.size); block += blockDim.x)
            move_four(step, row, block, factor);
    }
}

mmebm_status mmebm__cuda_langevin(mmebm_device *device, const mmebm_langevin_step *steps, uint32_t count)
{
    const cuda_scope scope(device);
    const bool clipped = steps[0].drift.norm_clip > 0.0f;
    langevin_steps all = {};
    unsigned blocks = 0; /* of the largest */
    for (uint32_t k = 0; k < count; ++k) {
        const int64_t threads = clipped ? steps[k].rows * CUDA_BLOCK : steps[k].rows * fours(steps[k].size);
        const unsigned wanted = mmebm__cuda_blocks(threads, CUDA_BLOCK);
        blocks = wanted > blocks ? wanted : blocks;
        all.step[k] = steps[k];
    }
    return mmebm__cuda_launch(device, "langevin", clipped ? clipped_langevin_kernel : langevin_kernel,
                              dim3(blocks, count), CUDA_BLOCK, 0, all);
}

/* ---- Metropolis adjustment */

static __device__ __forceinline__ void propose_four(const mmebm_mala_step &step, int64_t row, int64_t block,
                                                    float factor)
{
    const float l = step.scales[0];
    float xi[4];
    draw_four(step.noise, MMEBM_GAUSSIAN, row, block, xi);
    for (int k = 0; k < 4 && 4 * block + k < step.size; ++k) {
        const int64_t e = row * step.size + 4 * block + k;
        step.y[e] = step.z[e] - factor * clamped_drift(step.drift, l, step.gradient[e]) + l * xi[k];
    }
}

static __global__ void propose_kernel(mmebm_mala_step step)
{
    begin_kernel();
    FOR_EACH_FOUR(at, step.rows, step.size) propose_four(step, at / fours(step.size), at % fours(step.size), 1.0f);
}

/* By a block of one warp: norm_factor of a row. */
static __device__ float row_factor(const mmebm_mala_step &step, const float *gradient)
{
    if (step.drift.norm_clip <= 0.0f) return 1.0f;
    return norm_factor(step.drift, warp_sum(drift_square(step.drift, step.scales[0], gradient, step.size)));
}

/* With a bound on a row's norm: a warp for each row. */
static __global__ void clipped_propose_kernel(mmebm_mala_step step)
{
    begin_kernel();
    for (int64_t row = blockIdx.x; row < step.rows; row += gridDim.x) {
        const float factor = row_factor(step, step.gradient + row * step.size);
        for (int64_t block = threadIdx.x; block < fours(step.size); block += 32) propose_four(step, row, block, factor);
    }
}

mmebm_status mmebm__cuda_mala_propose(mmebm_device *device, const mmebm_mala_step *step)
{
    const cuda_scope scope(device);
    if (step->drift.norm_clip > 0.0f)
        return mmebm__cuda_launch(device, "mala_propose", clipped_propose_kernel, mmebm__cuda_blocks(step->rows, 1), 32,
                                  0, *step);
    return mmebm__cuda_launch(device, "mala_propose", propose_kernel,
                              mmebm__cuda_blocks(step->rows * fours(step->size), CUDA_BLOCK), CUDA_BLOCK, 0, *step);
}

/* clamped_drift in double: the ratio is of small differences. */
static __device__ __forceinline__ double exact_drift(const mmebm_drift &drift, double l, float gradient)
{
    const double b = 0.5 * l * l * drift.factor * gradient;
    return drift.clamp > 0.0f ? fmin(fmax(b, -(double)drift.clamp), (double)drift.clamp) : b;
}

/* log of the acceptance ratio of a row, by one warp; NaN, which accepts nothing, if the proposal is not finite. */
static __device__ double log_ratio(const mmebm_mala_step &step, int64_t row)
{
    const double l = step.scales[0];
    const float *gradient = step.gradient + row * step.size, *gradient_y = step.gradient_y + row * step.size;
    const double factor = row_factor(step, gradient), factor_y = row_factor(step, gradient_y);
    double forward = 0.0, reverse = 0.0;
    bool finite = isfinite(step.energy_y[row]);
    for (int64_t e = threadIdx.x; e < step.size; e += 32) {
        const double move = (double)step.y[row * step.size + e] - step.z[row * step.size + e];
        const double there = move + factor * exact_drift(step.drift, l, gradient[e]); /* l xi */
        const double back = factor_y * exact_drift(step.drift, l, gradient_y[e]) - move;
        finite = finite && isfinite(gradient_y[e]);
        forward += there * there;
        reverse += back * back;
    }
    forward = warp_sum(forward);
    reverse = warp_sum(reverse);
    if (!__all_sync(0xffffffffu, finite)) return nan("");
    return step.drift.factor * ((double)step.energy[row] - step.energy_y[row]) + (forward - reverse) / (2.0 * l * l);
}

static __global__ void accept_kernel(mmebm_mala_step step)
{
    begin_kernel();
    for (int64_t row = blockIdx.x; row < step.rows; row += gridDim.x) {
        const mmebm_philox_block words = random_block(step.noise, row, 0);
        if (!((double)mmebm__log_unit(mmebm__uniform(words.word[0])) < log_ratio(step, row))) continue;
        for (int64_t at = row * step.size + threadIdx.x; at < (row + 1) * step.size; at += 32) {
            step.z[at] = step.y[at];
            step.gradient[at] = step.gradient_y[at];
        }
        if (threadIdx.x) continue;
        step.energy[row] = step.energy_y[row];
        step.accepted[row] += 1.0f;
    }
}

mmebm_status mmebm__cuda_mala_accept(mmebm_device *device, const mmebm_mala_step *step)
{
    const cuda_scope scope(device);
    return mmebm__cuda_launch(device, "mala_accept", accept_kernel, mmebm__cuda_blocks(step->rows, 1), 32, 0, *step);
}

static __global__ void adapt_kernel(mmebm_mala_adapt adapt)
{
    begin_kernel();
    double total = 0.0;
    for (int64_t r = threadIdx.x; r < adapt.rows; r += blockDim.x) total += adapt.accepted[r];
    const double mean = block_sum(total) / (double)adapt.rows / adapt.steps;
    if (threadIdx.x) return;
    const double l = adapt.scales[0] * exp(adapt.rate * (mean - adapt.target));
    adapt.scales[0] = adapt.scales[1] = bounded((float)l, adapt.min, adapt.max);
    *adapt.mean_acceptance = (float)mean;
}

mmebm_status mmebm__cuda_mala_adapt(mmebm_device *device, const mmebm_mala_adapt *adapt)
{
    const cuda_scope scope(device);
    return mmebm__cuda_launch(device, "mala_adapt", adapt_kernel, 1, CUDA_BLOCK, 0, *adapt);
}

/* ---- draws from experts: a warp for each row */

struct expert_rows {
    mmebm_expert_draw draw;
    const float *mean[MMEBM_MAX_MODALITIES], *raw[MMEBM_MAX_MODALITIES];
};

static __device__ uint32_t chosen_expert(const mmebm_expert_draw &draw, int64_t row)
{
    if (!draw.choose) return (uint32_t)(row / draw.noise.period);
    mmebm_noise choice = draw.noise;
    choice.stream = MMEBM_STREAM_EXPERT;
    return mmebm__choice(random_block(choice, row % choice.period, 0).word[0], draw.experts);
}

static __device__ float average_mean(const expert_rows &experts, int64_t at)
{
    double sum = 0;
    for (uint32_t e = 0; e < experts.draw.experts; ++e) sum += experts.mean[e][at];
    return (float)(sum / experts.draw.experts);
}

static __global__ void expert_draw_kernel(const __grid_constant__ expert_rows experts)
{
    begin_kernel();
    const mmebm_expert_draw &draw = experts.draw;
    for (int64_t row = blockIdx.x; row < draw.rows; row += gridDim.x) {
        const uint32_t expert = chosen_expert(draw, row);
        const int64_t tuple = row % draw.noise.period;
        const float *mean = experts.mean[expert] + tuple * draw.size;
        const expert_scales scales =
            open_scales(draw.scale_kind, draw.floor, experts.raw[expert] + tuple * draw.size, draw.size);
        mmebm_noise noise = draw.noise;
        noise.stream += expert;
        for (int64_t d = threadIdx.x; d < draw.size; d += 32) {
            float xi[4];
            draw_four(noise, draw.family, tuple, d / 4, xi);
            const float drawn = d % 4 == 0 ? xi[0] : d % 4 == 1 ? xi[1] : d % 4 == 2 ? xi[2] : xi[3];
            float *z = &draw.z[row * draw.size + d];
            switch (draw.start) {
            case MMEBM_START_MEAN: *z = mean[d]; break;
            case MMEBM_START_AVERAGE: *z = average_mean(experts, tuple * draw.size + d); break;
            default: *z = (float)(mean[d] + scale_of(scales, d) * drawn); break;
            }
        }
    }
}

mmebm_status mmebm__cuda_expert_draw(mmebm_device *device, const mmebm_expert_draw *draw)
{
    const cuda_scope scope(device);
    expert_rows experts;
    experts.draw = *draw;
    for (uint32_t j = 0; j < draw->experts; ++j) {
        experts.mean[j] = draw->mean[j];
        experts.raw[j] = draw->raw[j];
    }
    return mmebm__cuda_launch(device, "expert_draw", expert_draw_kernel, mmebm__cuda_blocks(draw->rows, 1), 32, 0,
                              experts);
}

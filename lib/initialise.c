/* SPDX-License-Identifier: Apache-2.0
 *
 * Initial weights (ruling E16). Element e of tensor t draws as element e of chain t of stream MMEBM_STREAM_WEIGHTS, so
 * a tensor's values depend on the seed, its number and its fans only. Called by mmebm_network_finish.
 *   xavier normal   weights N(0, 2 / (fan_in + fan_out)), biases 0
 *   PyTorch         weights and biases U(-1, 1) / sqrt(fan_in)
 * Batch norm starts as the identity: gain 1, shift 0, mean 0, variance 1.
 */
#include "network.h"

static void fill(float *target, size_t count, float value)
{
    for (size_t e = 0; e < count; ++e) target[e] = value;
}

/* The step word of the counter takes what 32 bits of block number cannot hold. */
static mmebm_philox_block block_of(uint64_t seed, uint64_t chain, size_t block)
{
    return mmebm__random_block(seed, MMEBM_STREAM_WEIGHTS, chain, (uint32_t)((uint64_t)block >> 32), (uint32_t)block);
}

static void draw_normal(float *target, size_t count, uint64_t seed, uint64_t chain, float deviation)
{
    for (size_t first = 0; first < count; first += 4) {
        float values[4];
        mmebm__normals(block_of(seed, chain, first / 4), values);
        for (size_t k = 0; k < 4 && first + k < count; ++k) target[first + k] = deviation * values[k];
    }
}

static void draw_uniform(float *target, size_t count, uint64_t seed, uint64_t chain, float bound)
{
    for (size_t first = 0; first < count; first += 4) {
        const mmebm_philox_block block = block_of(seed, chain, first / 4);
        for (size_t k = 0; k < 4 && first + k < count; ++k)
            target[first + k] = bound * (2.0f * mmebm__uniform(block.word[k]) - 1.0f);
    }
}

/* Batch norm's shift has the role of a bias, but follows its gain: graph_append.c. */
static int is_shift(const mmebm_graph *graph, uint32_t index)
{
    return index > 0 && graph->tensors[index - 1].role == MMEBM_ROLE_GAIN;
}

void mmebm__initialise(const mmebm_graph *graph, uint32_t initialiser, uint64_t seed, float *weights)
{
    for (uint32_t t = 0; t < graph->tensor_count; ++t) {
        const mmebm_tensor *tensor = &graph->tensors[t];
        float *target = weights + tensor->offset;
        const int is_bias = tensor->role == MMEBM_ROLE_BIAS;
        if (tensor->role == MMEBM_ROLE_GAIN || tensor->role == MMEBM_ROLE_VARIANCE)
            fill(target, tensor->count, 1.0f);
        else if (tensor->role == MMEBM_ROLE_MEAN || (is_bias && is_shift(graph, t)))
            fill(target, tensor->count, 0.0f);
        else if (initialiser == MMEBM_INIT_PYTORCH)
            draw_uniform(target, tensor->count, seed, t, 1.0f / sqrtf((float)tensor->fan_in));
        else if (is_bias)
            fill(target, tensor->count, 0.0f);
        else
            draw_normal(target, tensor->count, seed, t, sqrtf(2.0f / ((float)tensor->fan_in + (float)tensor->fan_out)));
    }
}

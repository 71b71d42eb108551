/* SPDX-License-Identifier: Apache-2.0
 *
 * mmebm_model: three graphs with their weights on the device.
 *   energy     inputs x_1..x_M             output  U [1]
 *   generator  input  z                    outputs means of p(x_i|z), i = 1..M
 *   inference  inputs x_1..x_M             outputs mean_1, raw_1, ..., mean_M, raw_M
 */
#ifndef MMEBM_MODEL_H
#define MMEBM_MODEL_H

#include "network.h"

enum { MMEBM_PART_ENERGY = 0, MMEBM_PART_GENERATOR = 1, MMEBM_PART_INFERENCE = 2, MMEBM_PART_COUNT = 3 };
enum { MMEBM_MODALITY_NAME_SIZE = 32 };

typedef struct mmebm_part {
    mmebm_graph graph;
    float *weights;    /* device, graph.weight_count floats */
    uint64_t revision; /* grows by one at every change of the weights; plans compare it */
} mmebm_part;

struct mmebm_model {
    mmebm_context *context;
    uint32_t references; /* the caller's handle, samplers, trainers */
    mmebm_model_options options; /* .modalities points at the array below */
    mmebm_modality modalities[MMEBM_MAX_MODALITIES];
    char modality_names[MMEBM_MAX_MODALITIES][MMEBM_MODALITY_NAME_SIZE];
    int64_t modality_count[MMEBM_MAX_MODALITIES]; /* floats in one x_i */
    mmebm_part parts[MMEBM_PART_COUNT];
};

void mmebm__model_retain(mmebm_model *model);
void mmebm__model_release(mmebm_model *model);

/* Checks options (struct sizes included) and the three graphs against them, takes the graphs over (zeroes *graphs)
 * and uploads weights[p] (host; weights NULL: they stay zero, the file reader writes them to the device). On failure
 * the graphs stay the caller's. */
mmebm_status mmebm__model_assemble(mmebm_context *context, const mmebm_model_options *options,
                                   mmebm_graph graphs[MMEBM_PART_COUNT], const float *const weights[MMEBM_PART_COUNT],
                                   mmebm_model **model);

#endif /* MMEBM_MODEL_H */

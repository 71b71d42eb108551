/* SPDX-License-Identifier: Apache-2.0
 *
 * A graph rewritten for bf16: convolutions of several small inputs whose results are concatenated (the energy's stem)
 * become one convolution of the concatenated inputs, with zeros where an output does not see an input. The zeros cost
 * less than the small convolutions' idle matrix units.
 */
#ifndef MMEBM_CPU_MERGE_H
#define MMEBM_CPU_MERGE_H

#include "cpu_plan.h"

/* One merged convolution of the rewritten graph. */
typedef struct cpu_merge {
    const mmebm_layer *layer;
    int32_t first_part;    /* its parts: layers merge_parts[first_part ...] of plan->original */
    uint32_t part_count;
    size_t weight_floats;  /* of the merged weight; the bias follows */
    float *plain;          /* merged weight and bias, then gradient of both on their way back */
} cpu_merge;

/* Replaces plan->spec.graph where there is something to merge. */
mmebm_status mmebm__cpu_merge_graph(mmebm_plan *plan);

/* The merge behind a node's layer, or NULL. */
const cpu_merge *mmebm__cpu_merge_of(const mmebm_plan *plan, const mmebm_layer *layer);

/* Fills merge->plain from the graph's weight vector. */
void mmebm__cpu_merge_load(const mmebm_plan *plan, const cpu_merge *merge, const float *weights);
/* Before and after a gradient is added to merge->plain: zeroes it; adds its parts to the graph's gradient vector. */
void mmebm__cpu_merge_clear(const cpu_merge *merge);
void mmebm__cpu_merge_add_gradient(const mmebm_plan *plan, const cpu_merge *merge, float *gradient);

#endif /* MMEBM_CPU_MERGE_H */

/* SPDX-License-Identifier: Apache-2.0
 *
 * Copying the weights of two parts into one (joint.h).
 */
#include "joint.h"

#include <string.h>

static const uint32_t order[] = {MMEBM_PART_GENERATOR, MMEBM_PART_ENERGY}; /* as in the graphs of compose.c */
enum { PARTS = sizeof order / sizeof *order };

mmebm_status mmebm__joint_open(const mmebm_model *model, mmebm_joint *joint)
{
    size_t count = 0;
    for (uint32_t k = 0; k < PARTS; ++k) count += model->parts[order[k]].graph.weight_count;
    MMEBM_TRY(mmebm__device_floats(model->context, count, &joint->part.weights));
    joint->part.graph.weight_count = count;
    return MMEBM_OK;
}

void mmebm__joint_close(mmebm_context *context, mmebm_joint *joint)
{
    mmebm__device_free(context, joint->part.weights, joint->part.graph.weight_count);
    memset(joint, 0, sizeof *joint);
}

mmebm_status mmebm__joint_refresh(const mmebm_model *model, mmebm_joint *joint)
{
    const mmebm_context *context = model->context;
    float *to = joint->part.weights;
    for (uint32_t k = 0; k < PARTS; ++k) {
        const mmebm_part *part = &model->parts[order[k]];
        if (joint->taken[order[k]] != part->revision) {
            MMEBM_TRY(context->ops->copy(context->device, to, part->weights, part->graph.weight_count * sizeof *to));
            joint->taken[order[k]] = part->revision;
            ++joint->part.revision;
        }
        to += part->graph.weight_count;
    }
    return MMEBM_OK;
}

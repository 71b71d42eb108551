/* SPDX-License-Identifier: Apache-2.0
 *
 * Questions to a model: modalities, latent size, options, and its tensors, which are numbered over the three parts in
 * order. Writing a tensor raises its part's revision, so that samplers and trainers take the change over.
 */
#include <string.h>

#include "model.h"
#include "struct_size.h"
#include "view.h"

uint32_t mmebm_model_modality_count(const mmebm_model *model)
{
    return model ? model->options.n_modalities : 0;
}

uint32_t mmebm_model_latent_size(const mmebm_model *model)
{
    return model ? model->options.latent_size : 0;
}

mmebm_status mmebm_model_modality(const mmebm_model *model, uint32_t index, mmebm_modality *modality)
{
    if (!model) return MMEBM_E_ARGUMENT;
    mmebm__clear_error(model->context);
    if (index >= model->options.n_modalities)
        return mmebm__fail(model->context, MMEBM_E_ARGUMENT, "model_modality: index is %u, the model has %u modalities",
                           (unsigned)index, (unsigned)model->options.n_modalities);
    return mmebm__struct_write(model->context, "model_modality: modality", modality, &model->modalities[index],
                               sizeof *modality, sizeof *modality);
}

mmebm_status mmebm_model_get_options(const mmebm_model *model, mmebm_model_options *options)
{
    if (!model) return MMEBM_E_ARGUMENT;
    mmebm__clear_error(model->context);
    return mmebm__struct_write(model->context, "model_get_options: options", options, &model->options, sizeof *options,
                               sizeof *options);
}

uint32_t mmebm_model_tensor_count(const mmebm_model *model)
{
    uint32_t count = 0;
    for (uint32_t p = 0; model && p < MMEBM_PART_COUNT; ++p) count += model->parts[p].graph.tensor_count;
    return count;
}

mmebm_status mmebm_model_tensor_info(const mmebm_model *model, uint32_t index, const char **name, uint32_t *rank,
                                     int64_t *shape)
{
    if (!model) return MMEBM_E_ARGUMENT;
    mmebm__clear_error(model->context);
    uint32_t first = 0;
    for (uint32_t p = 0; p < MMEBM_PART_COUNT; ++p) {
        const mmebm_graph *graph = &model->parts[p].graph;
        if (index - first < graph->tensor_count) {
            mmebm__tensor_info(&graph->tensors[index - first], name, rank, shape);
            return MMEBM_OK;
        }
        first += graph->tensor_count;
    }
    return mmebm__fail(model->context, MMEBM_E_ARGUMENT, "model: there is no tensor %u, it has %u", (unsigned)index,
                       (unsigned)first);
}

/* Finds a tensor by name and checks the view against it; *number is its part's. */
static mmebm_status find_tensor(const mmebm_model *model, const char *call, const char *name, const mmebm_view *value,
                                const mmebm_tensor **tensor, uint32_t *number)
{
    mmebm_context *context = model->context;
    if (!name) return mmebm__fail(context, MMEBM_E_ARGUMENT, "%s: name is NULL", call);
    for (uint32_t p = 0; p < MMEBM_PART_COUNT; ++p) {
        *number = p;
        *tensor = mmebm__tensor_find(&model->parts[p].graph, name);
        if (*tensor) return mmebm__tensor_view_check(context, *tensor, value);
    }
    return mmebm__fail(context, MMEBM_E_NAME, "%s: there is no tensor '%.100s'", call, name);
}

mmebm_status mmebm_model_get_tensor(const mmebm_model *model, const char *name, mmebm_view *value)
{
    if (!model) return MMEBM_E_ARGUMENT;
    mmebm_context *context = model->context;
    mmebm__clear_error(context);
    const mmebm_tensor *tensor = NULL;
    uint32_t p = 0;
    MMEBM_TRY(find_tensor(model, "model_get_tensor", name, value, &tensor, &p));
    return mmebm__view_from_device(context, value, 0, (int64_t)tensor->count, model->parts[p].weights + tensor->offset);
}

mmebm_status mmebm_model_set_tensor(mmebm_model *model, const char *name, const mmebm_view *value)
{
    if (!model) return MMEBM_E_ARGUMENT;
    mmebm_context *context = model->context;
    mmebm__clear_error(context);
    const mmebm_tensor *tensor = NULL;
    uint32_t p = 0;
    MMEBM_TRY(find_tensor(model, "model_set_tensor", name, value, &tensor, &p));
    ++model->parts[p].revision;
    return mmebm__view_to_device(context, value, 0, (int64_t)tensor->count, model->parts[p].weights + tensor->offset);
}

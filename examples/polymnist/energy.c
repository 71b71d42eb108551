/* SPDX-License-Identifier: Apache-2.0 */
#include "energy.h"

#include <stdlib.h>
#include <string.h>

#include "message.h"

typedef struct tensor {
    const char *name;
    uint32_t rank;
    int64_t shape[MMEBM_MAX_RANK];
} tensor;

static mmebm_status describe(const mmebm_model *model, uint32_t i, tensor *t)
{
    return mmebm_model_tensor_info(model, i, &t->name, &t->rank, t->shape);
}

static int is_energys(const tensor *t)
{
    return strncmp(t->name, "energy.", 7) == 0;
}

/* Energies come first in a model, in the order of their layers. */
static int same_networks(const mmebm_context *context, const mmebm_model *model, const mmebm_model *from,
                         const char *path)
{
    const uint32_t count = mmebm_model_tensor_count(model), others = mmebm_model_tensor_count(from);
    for (uint32_t i = 0; i < count; ++i) {
        tensor a, b = {.name = ""};
        mmebm_status status = describe(model, i, &a);
        if (status == MMEBM_OK && i < others) status = describe(from, i, &b);
        if (status != MMEBM_OK) return library_failed(context, status, "comparing energies");
        if (!is_energys(&a) && !is_energys(&b)) return 0;
        if (strcmp(a.name, b.name) != 0 || a.rank != b.rank || memcmp(a.shape, b.shape, a.rank * sizeof *a.shape) != 0)
            return failed("%s has another energy network: no %s of the same shape", path, a.name);
    }
    return 0;
}

static int take_tensor(const mmebm_context *context, mmebm_model *model, const mmebm_model *from, const tensor *t)
{
    size_t count = 1;
    mmebm_view view;
    for (uint32_t axis = 0; axis < t->rank; ++axis) count *= (size_t)t->shape[axis];
    float *values = malloc(count * sizeof *values);
    if (!values) return failed("no memory for %s", t->name);
    mmebm_status status = mmebm_view_init(&view, values, t->rank, t->shape);
    if (status == MMEBM_OK) status = mmebm_model_get_tensor(from, t->name, &view);
    if (status == MMEBM_OK) status = mmebm_model_set_tensor(model, t->name, &view);
    free(values);
    return status == MMEBM_OK ? 0 : library_failed(context, status, "taking over an energy");
}

int energy_take(mmebm_context *context, mmebm_model *model, const char *path)
{
    mmebm_model *from = NULL;
    const mmebm_status status = mmebm_model_load(context, path, &from);
    if (status != MMEBM_OK) return library_failed(context, status, "loading the energy");
    int result = same_networks(context, model, from, path);
    for (uint32_t i = 0; i < mmebm_model_tensor_count(model) && !result; ++i) {
        tensor t;
        if (describe(model, i, &t) == MMEBM_OK && is_energys(&t)) result = take_tensor(context, model, from, &t);
    }
    mmebm_model_destroy(&from);
    if (!result) note("Energy of %s", path);
    return result;
}

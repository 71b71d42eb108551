/* SPDX-License-Identifier: Apache-2.0
 *
 * mmebm_view: making one, checking what a caller passes against the wanted shape, copying between views, in host or
 * device memory, and the library's own memory of both kinds. Every public call that takes data comes through
 * mmebm__view_check, so that no wrong shape gets further.
 */
#include <stdio.h>
#include <string.h>

#include "struct_size.h"
#include "view.h"

mmebm_status mmebm_view_init_sized(mmebm_view *view, size_t size, void *data, uint32_t rank, const int64_t *shape)
{
    if (rank > MMEBM_MAX_RANK || (rank && !shape)) return MMEBM_E_ARGUMENT;
    mmebm_view made = {.dtype = MMEBM_F32, .data = data, .rank = rank, .place = MMEBM_HOST};
    for (uint32_t i = 0; i < rank; ++i) {
        if (shape[i] < 0) return MMEBM_E_SHAPE;
        made.shape[i] = shape[i];
    }
    return mmebm__struct_init(view, size, &made, sizeof made, sizeof made);
}

const mmebm_view *mmebm__view_at(const mmebm_view *views, uint32_t index)
{
    return views ? (const mmebm_view *)((const char *)views + (size_t)index * views->struct_size) : NULL;
}

char *mmebm__shape_text(char text[128], int64_t rows, uint32_t rank, const int64_t *shape)
{
    /* six axes of 20 digits would not fit: the guard leaves room for one whole axis and the bracket */
    size_t used = 0;
    const char *separator = "[";
    if (rows < 0) used += (size_t)snprintf(text, 128, "[*");
    if (rows > 0) used += (size_t)snprintf(text, 128, "[%lld", (long long)rows);
    if (rows) separator = ",";
    for (uint32_t i = 0; i < rank && used < 100; ++i, separator = ",")
        used += (size_t)snprintf(text + used, 128 - used, "%s%lld", separator, (long long)shape[i]);
    snprintf(text + used, 128 - used, "%s", used ? "]" : "[]");
    return text;
}

/* Host memory, or memory of the context's device where the backend lets callers hold such. */
static mmebm_status check_place(mmebm_context *context, const char *what, const mmebm_view *view)
{
    int32_t number = 0;
    if (view->place == MMEBM_DEVICE) {
        if (!(context->ops->capabilities & MMEBM_BACKEND_DEVICE_VIEWS))
            return mmebm__fail(context, MMEBM_E_UNSUPPORTED,
                               "%s is in device memory, wanted MMEBM_HOST: backend '%s' works in host memory", what,
                               context->ops->name);
        number = context->ops->device_number(context->device);
    } else if (view->place != MMEBM_HOST) {
        return mmebm__fail(context, MMEBM_E_ARGUMENT, "%s has place %u, wanted MMEBM_HOST or MMEBM_DEVICE", what,
                           (unsigned)view->place);
    }
    if (view->device_id == number) return MMEBM_OK;
    return mmebm__fail(context, MMEBM_E_ARGUMENT, "%s has device_id %d, wanted %d%s", what, (int)view->device_id,
                       (int)number, view->place == MMEBM_DEVICE ? ", the context's device" : "");
}

/* Everything but the shape. */
static mmebm_status check_kind(mmebm_context *context, const char *what, const mmebm_view *view)
{
    mmebm_view known;
    MMEBM_TRY(mmebm__struct_read(context, what, view, &known, sizeof known, sizeof known));
    if (view->struct_size % sizeof(void *))
        return mmebm__fail(context, MMEBM_E_STRUCT_SIZE, "%s has struct_size %u, wanted a multiple of %zu", what,
                           (unsigned)view->struct_size, sizeof(void *));
    if (view->dtype != MMEBM_F32)
        return mmebm__fail(context, MMEBM_E_DTYPE, "%s has dtype %u, wanted MMEBM_F32", what, (unsigned)view->dtype);
    MMEBM_TRY(check_place(context, what, view));
    if (view->reserved0)
        return mmebm__fail(context, MMEBM_E_UNKNOWN_OPTION, "%s has reserved0 %u, wanted 0", what,
                           (unsigned)view->reserved0);
    if (!view->data) return mmebm__fail(context, MMEBM_E_ARGUMENT, "%s has no data", what);
    if ((uintptr_t)view->data % sizeof(float))
        return mmebm__fail(context, MMEBM_E_ARGUMENT, "%s has data at an address that is no multiple of %zu", what,
                           sizeof(float));
    return MMEBM_OK;
}

static mmebm_status fail_shape(mmebm_context *context, const char *what, const mmebm_view *view, uint32_t row_rank,
                               const int64_t *row_shape, int64_t n)
{
    char found[128], wanted[128];
    if (view->rank > MMEBM_MAX_RANK)
        return mmebm__fail(context, MMEBM_E_SHAPE, "%s has rank %u, wanted %s", what, (unsigned)view->rank,
                           mmebm__shape_text(wanted, n ? n : -1, row_rank, row_shape));
    return mmebm__fail(context, MMEBM_E_SHAPE, "%s has shape %s, wanted %s%s", what,
                       mmebm__shape_text(found, 0, view->rank, view->shape),
                       mmebm__shape_text(wanted, n ? n : -1, row_rank, row_shape), n ? "" : " with at least one tuple");
}

/* True if rows * (product of row_shape) floats can be addressed. */
static int fits_memory(int64_t rows, uint32_t row_rank, const int64_t *row_shape)
{
    int64_t bytes = (int64_t)sizeof(float);
    if (__builtin_mul_overflow(bytes, rows, &bytes)) return 0;
    for (uint32_t i = 0; i < row_rank; ++i)
        if (__builtin_mul_overflow(bytes, row_shape[i], &bytes)) return 0;
    return bytes <= PTRDIFF_MAX;
}

mmebm_status mmebm__view_check(mmebm_context *context, const char *what, const mmebm_view *view, uint32_t row_rank,
                               const int64_t *row_shape, int64_t *n)
{
    MMEBM_TRY(check_kind(context, what, view));
    const int64_t rows = view->rank ? view->shape[0] : 0;
    int fits = view->rank == 1 + row_rank && rows >= 1 && (*n == 0 || rows == *n);
    for (uint32_t i = 0; fits && i < row_rank; ++i) fits = view->shape[1 + i] == row_shape[i];
    if (!fits) return fail_shape(context, what, view, row_rank, row_shape, *n);
    if (!fits_memory(rows, row_rank, row_shape))
        return mmebm__fail(context, MMEBM_E_SHAPE, "%s has %lld tuples, more than memory can hold", what,
                           (long long)rows);
    *n = rows;
    return MMEBM_OK;
}

int64_t mmebm__view_row_count(const mmebm_view *view)
{
    int64_t count = 1;
    for (uint32_t i = 1; i < view->rank; ++i) count *= view->shape[i];
    return count;
}

static float *element(const mmebm_view *view, int64_t first)
{
    return (float *)view->data + first;
}

mmebm_status mmebm__view_to_device(mmebm_context *context, const mmebm_view *view, int64_t first, int64_t count,
                                   float *device)
{
    const mmebm_backend_ops *ops = context->ops;
    const size_t bytes = (size_t)count * sizeof(float);
    return view->place == MMEBM_DEVICE ? ops->copy(context->device, device, element(view, first), bytes)
                                       : ops->upload(context->device, device, element(view, first), bytes);
}

mmebm_status mmebm__view_from_device(mmebm_context *context, const mmebm_view *view, int64_t first, int64_t count,
                                     const float *device)
{
    const mmebm_backend_ops *ops = context->ops;
    const size_t bytes = (size_t)count * sizeof(float);
    return view->place == MMEBM_DEVICE ? ops->copy(context->device, element(view, first), device, bytes)
                                       : ops->download(context->device, element(view, first), device, bytes);
}

mmebm_status mmebm__view_to_host(mmebm_context *context, const mmebm_view *view, int64_t first, int64_t count,
                                 float *host)
{
    const size_t bytes = (size_t)count * sizeof(float);
    if (view->place == MMEBM_DEVICE) return context->ops->download(context->device, host, element(view, first), bytes);
    memcpy(host, element(view, first), bytes);
    return MMEBM_OK;
}

mmebm_status mmebm__view_from_host(mmebm_context *context, const mmebm_view *view, int64_t first, int64_t count,
                                   const float *host)
{
    const size_t bytes = (size_t)count * sizeof(float);
    if (view->place == MMEBM_DEVICE) return context->ops->upload(context->device, element(view, first), host, bytes);
    memcpy(element(view, first), host, bytes);
    return MMEBM_OK;
}

mmebm_status mmebm__view_upload(mmebm_context *context, const mmebm_view *view, int64_t first, int64_t rows,
                                float *device)
{
    const int64_t row = mmebm__view_row_count(view);
    return mmebm__view_to_device(context, view, first * row, rows * row, device);
}

mmebm_status mmebm__view_download(mmebm_context *context, const mmebm_view *view, int64_t first, int64_t rows,
                                  const float *device)
{
    const int64_t row = mmebm__view_row_count(view);
    return mmebm__view_from_device(context, view, first * row, rows * row, device);
}

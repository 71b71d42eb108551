/* SPDX-License-Identifier: Apache-2.0
 *
 * Checks of mmebm_view and copies between views and the library's memory. The data of a view is touched here only: it
 * may lie on the device.
 */
#ifndef MMEBM_VIEW_H
#define MMEBM_VIEW_H

#include "context.h"

/* Entry i of a caller's array of views (entries are views[0].struct_size apart). */
const mmebm_view *mmebm__view_at(const mmebm_view *views, uint32_t index);

/* Checks one view: not NULL, struct_size, f32, place, data not NULL, rank == 1 + row_rank, trailing axes == row_shape,
 * leading axis n >= 1 and, if *n != 0, equal to *n. Sets *n. `what` names it in the sentence: "langevin_x: view 2". */
mmebm_status mmebm__view_check(mmebm_context *context, const char *what, const mmebm_view *view, uint32_t row_rank,
                               const int64_t *row_shape, int64_t *n);

/* Floats in one row of a checked view. */
int64_t mmebm__view_row_count(const mmebm_view *view);

/* Copies `count` floats of a checked view from the `first` on, to or from the library's device or host memory. Work on
 * a view in device memory is only queued when the call returns, but for _to_host. */
mmebm_status mmebm__view_to_device(mmebm_context *context, const mmebm_view *view, int64_t first, int64_t count,
                                   float *device);
mmebm_status mmebm__view_from_device(mmebm_context *context, const mmebm_view *view, int64_t first, int64_t count,
                                     const float *device);
mmebm_status mmebm__view_to_host(mmebm_context *context, const mmebm_view *view, int64_t first, int64_t count,
                                 float *host);
mmebm_status mmebm__view_from_host(mmebm_context *context, const mmebm_view *view, int64_t first, int64_t count,
                                   const float *host);

/* Rows first .. first + rows - 1 to or from device memory. */
mmebm_status mmebm__view_upload(mmebm_context *context, const mmebm_view *view, int64_t first, int64_t rows,
                                float *device);
mmebm_status mmebm__view_download(mmebm_context *context, const mmebm_view *view, int64_t first, int64_t rows,
                                  const float *device);

/* "[64,28,28,3]" into text, which it returns. rows < 0 prints "*" as the first axis; rows 0 prints none. */
char *mmebm__shape_text(char text[128], int64_t rows, uint32_t rank, const int64_t *shape);

#endif /* MMEBM_VIEW_H */

/* SPDX-License-Identifier: Apache-2.0
 *
 * Finding, checking and opening a backend.
 */
#ifndef MMEBM_BACKEND_LOAD_H
#define MMEBM_BACKEND_LOAD_H

#include "context.h"

/* Opens backend `name` ("auto" included) on n_threads and sets context->ops and context->device. folder: of modules, or
 * NULL for MMEBM_BACKEND_DIR and then the installed folder. context->host must be filled in. */
mmebm_status mmebm__backend_open(mmebm_context *context, const char *name, const char *folder, uint32_t n_threads);

#endif /* MMEBM_BACKEND_LOAD_H */

/* SPDX-License-Identifier: Apache-2.0
 *
 * Finding, checking and opening a backend.
 */
#ifndef MMEBM_BACKEND_LOAD_H
#define MMEBM_BACKEND_LOAD_H

#include "context.h"

/* Opens the backend that checked options name and sets context->ops and context->device. context->host must be filled
 * in. */
mmebm_status mmebm__backend_open(mmebm_context *context, const mmebm_context_options *options);

#endif /* MMEBM_BACKEND_LOAD_H */

/* SPDX-License-Identifier: Apache-2.0
 *
 * The one check of caller structs (docs/abi-policy.md). A caller built against an older header passes a smaller
 * struct: missing tail bytes count as zero. One built against a newer header passes a larger one: bytes that this
 * library does not know must be zero.
 */
#ifndef MMEBM_STRUCT_SIZE_H
#define MMEBM_STRUCT_SIZE_H

#include "context.h"

enum { MMEBM_MAX_STRUCT_SIZE = 4096 };

/* Copies *given into *known (known_size bytes, first_size = the struct's size in its first release). */
mmebm_status mmebm__struct_read(mmebm_context *context, const char *what, const void *given, void *known,
                                size_t known_size, size_t first_size);
/* Writes the first given->struct_size bytes of *known to *given, keeping given's own struct_size. */
mmebm_status mmebm__struct_write(mmebm_context *context, const char *what, void *given, const void *known,
                                 size_t known_size, size_t first_size);
/* What every _init_sized does: zeroes `size` bytes, copies min(size, known_size) bytes of defaults, sets struct_size.
 * Never writes past size. */
mmebm_status mmebm__struct_init(void *options, size_t size, const void *defaults, size_t known_size, size_t first_size);

/* A member that must be 0 until a later version gives it a meaning. */
mmebm_status mmebm__reserved_check(mmebm_context *context, const char *what, uint32_t reserved);

#endif /* MMEBM_STRUCT_SIZE_H */

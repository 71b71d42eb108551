/* SPDX-License-Identifier: Apache-2.0
 *
 * The context: hooks for memory and log, the last error, the open backend. Everything else is made from it and
 * holds a counted reference. All memory of the core goes through mmebm__allocate / mmebm__free.
 */
#ifndef MMEBM_CONTEXT_H
#define MMEBM_CONTEXT_H

#include "backend_api.h"

enum { MMEBM_ERROR_SIZE = 512 };

typedef struct mmebm_tally {
    uint64_t in_use, peak; /* bytes */
} mmebm_tally;

struct mmebm_context {
    uint32_t references; /* the caller's handle and one for each child */
    void *(*allocate)(void *user, size_t size, size_t alignment);
    void (*release)(void *user, void *memory, size_t size);
    void *allocator_user;
    void (*log)(void *user, int32_t level, const char *line);
    void *log_user;
    int32_t log_level;
    mmebm_tally memory, device_memory;
    const mmebm_backend_ops *ops;
    mmebm_device *device;
    mmebm_host host;
    char error[MMEBM_ERROR_SIZE];
};

void mmebm__context_retain(mmebm_context *context);
void mmebm__context_release(mmebm_context *context);

/* Every public call that can fail starts with this: "" after a success. */
static inline void mmebm__clear_error(mmebm_context *context)
{
    context->error[0] = '\0';
}

/* Writes the sentence and returns status. The lowest level that knows writes it; callers pass the status on. */
mmebm_status mmebm__fail(mmebm_context *context, mmebm_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void mmebm__log(mmebm_context *context, int32_t level, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Zero-filled and 64-byte aligned; size 0 gives a valid pointer. On failure sets MMEBM_E_MEMORY's sentence and returns
 * NULL. */
void *mmebm__allocate(mmebm_context *context, size_t size);
void mmebm__free(mmebm_context *context, void *memory, size_t size); /* NULL is fine */
/* Grows an array from old_count to new_count items, zero-filling; 0 on failure with the old array intact. */
int mmebm__grow(mmebm_context *context, void **array, size_t old_count, size_t new_count, size_t item_size);

/* False on overflow. */
static inline int mmebm__checked_mul(size_t a, size_t b, size_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}
static inline int mmebm__checked_add(size_t a, size_t b, size_t *out)
{
    return !__builtin_add_overflow(a, b, out);
}

/* Zero-filled device floats; counted in the context's memory when the backend is a CPU one. */
mmebm_status mmebm__device_floats(mmebm_context *context, size_t count, float **buffer);
void mmebm__device_free(mmebm_context *context, float *buffer, size_t count); /* NULL is fine */

/* ends the calling function with the status of a failed call */
#define MMEBM_TRY(call)                                                                            \
    do {                                                                                           \
        const mmebm_status try_status_ = (call);                                                   \
        if (try_status_ != MMEBM_OK) return try_status_;                                           \
    } while (0)

#endif /* MMEBM_CONTEXT_H */

/* SPDX-License-Identifier: Apache-2.0
 *
 * mmebm_context: the memory hooks with their byte count, the log, the last error, the open backend, and the table of
 * host functions that a backend gets. Every other file of the core allocates, fails and logs through this one; it
 * calls backend_load.c to open the backend and nothing else of the core.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "backend_load.h"
#include "struct_size.h"

enum { LOG_LINE_SIZE = 1024, MEMORY_ALIGNMENT = 64, MAX_THREADS = 1024 };

/* ---- versions and statuses */

#define TEXT_OF(number) #number
#define VERSION_TEXT(major, minor, patch) TEXT_OF(major) "." TEXT_OF(minor) "." TEXT_OF(patch)

const char *mmebm_version(void)
{
    return VERSION_TEXT(MMEBM_VERSION_MAJOR, MMEBM_VERSION_MINOR, MMEBM_VERSION_PATCH);
}

const char *mmebm_status_name(mmebm_status status)
{
    switch ((int)status) {
#define STATUS_CASE(name, number, text)                                                            \
    case number:                                                                                   \
        return "MMEBM_" #name;
        MMEBM_STATUS_LIST(STATUS_CASE)
#undef STATUS_CASE
    default:
        return "MMEBM_UNKNOWN";
    }
}

/* ---- errors and log */

/* Formats aside first: an argument may be the old sentence itself. */
static void write_error(mmebm_context *context, const char *format, va_list arguments)
{
    char sentence[MMEBM_ERROR_SIZE];
    vsnprintf(sentence, sizeof sentence, format, arguments);
    memcpy(context->error, sentence, sizeof sentence);
}

static void write_log(const mmebm_context *context, int32_t level, const char *format, va_list arguments)
{
    if (!context->log || level > context->log_level) return;
    char line[LOG_LINE_SIZE];
    vsnprintf(line, sizeof line, format, arguments);
    context->log(context->log_user, level, line);
}

mmebm_status mmebm__fail(mmebm_context *context, mmebm_status status, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    write_error(context, format, arguments);
    va_end(arguments);
    return status;
}

void mmebm__log(mmebm_context *context, int32_t level, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    write_log(context, level, format, arguments);
    va_end(arguments);
}

const char *mmebm_last_error(const mmebm_context *context)
{
    return context ? context->error : "context is NULL";
}

/* ---- memory */

/* Of the common processors; elsewhere an alignment like any other. */
static const size_t LARGE_PAGE = (size_t)2 << 20;

/* Buffers of so many bytes in large pages, where the system gives these to those who ask: to be given small ones, one
 * at each first touch, takes longer than what is written there. Refused: small ones serve. */
static void ask_for_large_pages(void *memory, size_t size)
{
#ifdef MADV_HUGEPAGE
    (void)madvise(memory, size / LARGE_PAGE * LARGE_PAGE, MADV_HUGEPAGE);
#else
    (void)memory;
    (void)size;
#endif
}

/* Zero-filled by calloc, which does not touch pages that are fresh from the system: workspace that is never used costs
 * nothing. calloc's own address stands before the aligned one. */
static void *default_allocate(void *user, size_t size, size_t alignment)
{
    (void)user;
    size_t padded;
    const int large = size >= LARGE_PAGE;
    if (large) alignment = LARGE_PAGE;
    if (!mmebm__checked_add(size, alignment - 1 + sizeof(void *), &padded)) return NULL;
    char *whole = calloc(1, padded);
    if (!whole) return NULL;
    const uintptr_t first = (uintptr_t)whole + sizeof(void *);
    char *memory = whole + sizeof(void *) + (alignment - first % alignment) % alignment;
    memcpy(memory - sizeof whole, &whole, sizeof whole);
    if (large) ask_for_large_pages(memory, size);
    return memory;
}

static void default_release(void *user, void *memory, size_t size)
{
    (void)user;
    (void)size;
    char *whole;
    memcpy(&whole, (char *)memory - sizeof whole, sizeof whole);
    free(whole);
}

static void count(mmebm_tally *tally, int64_t bytes)
{
    tally->in_use += (uint64_t)bytes;
    if (tally->in_use > tally->peak) tally->peak = tally->in_use;
}

/* Zero-filled. Hooks never see size 0, whose meaning differs between allocators. */
static void *allocate_counted(mmebm_context *context, size_t size, size_t alignment)
{
    const size_t bytes = size ? size : 1;
    void *memory = context->allocate(context->allocator_user, bytes, alignment);
    if (!memory) return NULL;
    if (context->allocate != default_allocate) memset(memory, 0, bytes);
    count(&context->memory, (int64_t)bytes);
    return memory;
}

static void release_counted(mmebm_context *context, void *memory, size_t size)
{
    if (!memory) return;
    const size_t bytes = size ? size : 1;
    count(&context->memory, -(int64_t)bytes);
    context->release(context->allocator_user, memory, bytes);
}

void *mmebm__allocate(mmebm_context *context, size_t size)
{
    void *memory = allocate_counted(context, size, MEMORY_ALIGNMENT);
    if (memory) return memory;
    mmebm__fail(context, MMEBM_E_MEMORY, "%zu bytes of memory could not be had; %llu bytes are in use", size,
                (unsigned long long)context->memory.in_use);
    return NULL;
}

void mmebm__free(mmebm_context *context, void *memory, size_t size)
{
    release_counted(context, memory, size);
}

int mmebm__grow(mmebm_context *context, void **array, size_t old_count, size_t new_count, size_t item_size)
{
    size_t new_size;
    if (!mmebm__checked_mul(new_count, item_size, &new_size)) {
        mmebm__fail(context, MMEBM_E_MEMORY, "%zu items of %zu bytes are more than memory can hold", new_count,
                    item_size);
        return 0;
    }
    void *grown = mmebm__allocate(context, new_size);
    if (!grown) return 0;
    if (*array) {
        memcpy(grown, *array, old_count * item_size);
        mmebm__free(context, *array, old_count * item_size);
    }
    *array = grown;
    return 1;
}

mmebm_status mmebm__device_floats(mmebm_context *context, size_t count, float **buffer)
{
    *buffer = NULL;
    size_t bytes;
    if (!mmebm__checked_mul(count ? count : 1, sizeof(float), &bytes))
        return mmebm__fail(context, MMEBM_E_MEMORY, "%zu floats are more than a device can hold", count);
    void *memory = NULL;
    MMEBM_TRY(context->ops->buffer_create(context->device, bytes, &memory));
    *buffer = memory;
    return MMEBM_OK;
}

void mmebm__device_free(mmebm_context *context, float *buffer, size_t count)
{
    if (buffer) context->ops->buffer_destroy(context->device, buffer, (count ? count : 1) * sizeof(float));
}

/* ---- what a backend gets */

static void *host_allocate(void *owner, size_t size, size_t alignment)
{
    return allocate_counted(owner, size, alignment);
}

static void host_release(void *owner, void *memory, size_t size)
{
    release_counted(owner, memory, size);
}

static void host_count_device(void *owner, int64_t bytes)
{
    mmebm_context *context = owner;
    count(&context->device_memory, bytes);
}

static mmebm_status host_fail(void *owner, mmebm_status status, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    write_error(owner, format, arguments);
    va_end(arguments);
    return status;
}

static void host_log(void *owner, int32_t level, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    write_log(owner, level, format, arguments);
    va_end(arguments);
}

/* ---- life */

/* Checks the caller's options and puts the hooks into draft. */
static mmebm_status read_options(mmebm_context *draft, const mmebm_context_options *given,
                                 mmebm_context_options *options)
{
    if (given)
        MMEBM_TRY(mmebm__struct_read(draft, "context_create: options", given, options, sizeof *options,
                                     sizeof *options));
    else
        MMEBM_TRY(mmebm_context_options_init(options));
    MMEBM_TRY(mmebm__reserved_check(draft, "context_create", options->reserved));
    if (!options->allocate != !options->release)
        return mmebm__fail(draft, MMEBM_E_ARGUMENT, "context_create: options has %s without %s, wanted both or neither",
                           options->allocate ? "allocate" : "release", options->allocate ? "release" : "allocate");
    if (options->n_threads > MAX_THREADS)
        return mmebm__fail(draft, MMEBM_E_ARGUMENT, "context_create: n_threads is %u, wanted 0 to %d",
                           (unsigned)options->n_threads, MAX_THREADS);
    if (options->backend_dir && !options->backend_dir[0])
        return mmebm__fail(draft, MMEBM_E_ARGUMENT, "context_create: backend_dir is empty, wanted a folder or NULL");
    if (options->log_level < 0 || options->log_level > MMEBM_LOG_DEBUG)
        return mmebm__fail(draft, MMEBM_E_ARGUMENT, "context_create: log_level is %d, wanted 0 to %d",
                           (int)options->log_level, MMEBM_LOG_DEBUG);
    draft->allocate = options->allocate ? options->allocate : default_allocate;
    draft->release = options->allocate ? options->release : default_release;
    draft->allocator_user = options->allocator_user;
    draft->log = options->log;
    draft->log_user = options->log_user;
    draft->log_level = options->log_level;
    return MMEBM_OK;
}

/* draft lives on the caller's stack and takes the sentence while there is no context. */
static mmebm_status create_from_draft(mmebm_context *draft, const mmebm_context_options *given, mmebm_context **created)
{
    mmebm_context_options options;
    MMEBM_TRY(read_options(draft, given, &options));
    mmebm_context *context = mmebm__allocate(draft, sizeof *context);
    if (!context) return MMEBM_E_MEMORY;
    *context = *draft;
    context->references = 1;
    context->host = (mmebm_host){.struct_size = sizeof(mmebm_host),
                                 .owner = context,
                                 .allocate = host_allocate,
                                 .release = host_release,
                                 .fail = host_fail,
                                 .count_device = host_count_device,
                                 .log = host_log};
    const mmebm_status status = mmebm__backend_open(context, &options);
    if (status != MMEBM_OK) {
        memcpy(draft->error, context->error, sizeof draft->error);
        mmebm__free(draft, context, sizeof *context);
        return status;
    }
    mmebm__clear_error(context);
    *created = context;
    return MMEBM_OK;
}

mmebm_status mmebm_context_create(const mmebm_context_options *options, mmebm_context **context, char *message,
                                  size_t message_size)
{
    mmebm_context draft;
    memset(&draft, 0, sizeof draft);
    mmebm_status status;
    if (context) {
        *context = NULL;
        status = create_from_draft(&draft, options, context);
    } else {
        status = mmebm__fail(&draft, MMEBM_E_ARGUMENT, "context_create: context is NULL");
    }
    if (message && message_size) snprintf(message, message_size, "%s", status == MMEBM_OK ? "" : draft.error);
    return status;
}

void mmebm__context_retain(mmebm_context *context)
{
    ++context->references;
}

void mmebm__context_release(mmebm_context *context)
{
    if (--context->references) return;
    context->ops->device_close(context->device);
    context->release(context->allocator_user, context, sizeof *context);
}

void mmebm_context_destroy(mmebm_context **context)
{
    if (!context || !*context) return;
    mmebm__context_release(*context);
    *context = NULL;
}

/* ---- questions */

const char *mmebm_context_backend(const mmebm_context *context)
{
    return context ? context->ops->name : "";
}

const char *mmebm_context_device(const mmebm_context *context)
{
    return context ? context->ops->device_describe(context->device) : "";
}

static mmebm_status read_tally(const mmebm_tally *tally, uint64_t *in_use, uint64_t *peak)
{
    if (in_use) *in_use = tally->in_use;
    if (peak) *peak = tally->peak;
    return MMEBM_OK;
}

mmebm_status mmebm_context_memory(const mmebm_context *context, uint64_t *in_use, uint64_t *peak)
{
    return context ? read_tally(&context->memory, in_use, peak) : MMEBM_E_ARGUMENT;
}

mmebm_status mmebm_context_device_memory(const mmebm_context *context, uint64_t *in_use, uint64_t *peak)
{
    return context ? read_tally(&context->device_memory, in_use, peak) : MMEBM_E_ARGUMENT;
}

mmebm_status mmebm_context_synchronize(mmebm_context *context)
{
    if (!context) return MMEBM_E_ARGUMENT;
    mmebm__clear_error(context);
    return context->ops->synchronize(context->device);
}

uint32_t mmebm_context_fast_precision(const mmebm_context *context)
{
    return context ? context->ops->fast_precision(context->device) : MMEBM_PRECISION_F32;
}

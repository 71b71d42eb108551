/* SPDX-License-Identifier: Apache-2.0
 *
 * Finding, checking and opening a backend; called by mmebm_context_create alone. "reference" is built in. Any other
 * backend is the module mmebm-<name>-<backend abi>.so of one folder: never of the current directory, never found by a
 * pattern, never unloaded (device libraries run code at exit). Of its table, struct_size and abi are read first and
 * nothing else until both fit.
 */
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "backend_load.h"

#ifndef MMEBM_BACKEND_INSTALL_DIR
#define MMEBM_BACKEND_INSTALL_DIR "/usr/local/lib/mmebm"
#endif

enum { PATH_SIZE = 4096, MAX_NAME_LENGTH = 16, MAX_ORDINAL_DIGITS = 4 };

static const char builtin_name[] = "reference";

/* The backends of this project, in the order in which "auto" tries them. */
static const char *const known_backends[] = {"cuda", "cpu", builtin_name};
enum { KNOWN_COUNT = sizeof known_backends / sizeof known_backends[0] };

static int is_known(const char *name)
{
    for (int i = 0; i < KNOWN_COUNT; ++i)
        if (!strcmp(name, known_backends[i])) return 1;
    return 0;
}

/* A name becomes part of a path: lower-case letters and digits only. */
static int is_valid_name(const char *name)
{
    const size_t length = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789");
    return length >= 1 && length <= MAX_NAME_LENGTH && !name[length];
}

static mmebm_status module_path(mmebm_context *context, const char *name, const char *folder, char path[PATH_SIZE])
{
    if (!folder) folder = secure_getenv("MMEBM_BACKEND_DIR");
    if (!folder || !folder[0]) folder = MMEBM_BACKEND_INSTALL_DIR;
    const int length = snprintf(path, PATH_SIZE, "%s/mmebm-%s-%u.so", folder, name, MMEBM_BACKEND_ABI);
    if (length < 0 || length >= PATH_SIZE)
        return mmebm__fail(context, MMEBM_E_ARGUMENT, "backend '%s': the path of its module is longer than %d bytes",
                           name, PATH_SIZE - 1);
    return MMEBM_OK;
}

/* Entries lie between device_open and mailbox_create, the first optional one. */
static int has_all_entries(const mmebm_backend_ops *ops)
{
    typedef void (*entry)(void);
    for (size_t at = offsetof(mmebm_backend_ops, device_open); at < offsetof(mmebm_backend_ops, mailbox_create);
         at += sizeof(entry)) {
        entry function;
        memcpy(&function, (const char *)ops + at, sizeof function);
        if (!function) return 0;
    }
    return 1;
}

static mmebm_status check_table(mmebm_context *context, const char *name, const char *path,
                                const mmebm_backend_ops *ops)
{
    if (!ops)
        return mmebm__fail(context, MMEBM_E_BACKEND, "backend '%s': %s does not know backend ABI %u of this library",
                           name, path, MMEBM_BACKEND_ABI);
    if (ops->abi != MMEBM_BACKEND_ABI)
        return mmebm__fail(context, MMEBM_E_BACKEND, "backend '%s': %s has backend ABI %u, this library wants %u", name,
                           path, (unsigned)ops->abi, MMEBM_BACKEND_ABI);
    if (ops->struct_size < sizeof *ops)
        return mmebm__fail(context, MMEBM_E_BACKEND,
                           "backend '%s': %s has a table of %u bytes for ABI %u, this library wants %zu", name, path,
                           (unsigned)ops->struct_size, MMEBM_BACKEND_ABI, sizeof *ops);
    if (!ops->name || strcmp(ops->name, name))
        return mmebm__fail(context, MMEBM_E_BACKEND, "backend '%s': %s calls itself '%s'", name, path,
                           ops->name ? ops->name : "");
    if (!has_all_entries(ops))
        return mmebm__fail(context, MMEBM_E_BACKEND, "backend '%s': %s leaves a required entry of its table empty",
                           name, path);
    return MMEBM_OK;
}

/* *missing: there is no such file, which "auto" finds normal. */
static mmebm_status load_module(mmebm_context *context, const char *name, const char *folder,
                                const mmebm_backend_ops **ops, int *missing)
{
    char path[PATH_SIZE];
    MMEBM_TRY(module_path(context, name, folder, path));
    struct stat about;
    if (stat(path, &about) != 0) {
        *missing = errno == ENOENT || errno == ENOTDIR;
        return mmebm__fail(context, is_known(name) ? MMEBM_E_BACKEND : MMEBM_E_NAME, "backend '%s': %s: %s", name, path,
                           strerror(errno));
    }
    void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (!module) {
        const char *why = dlerror();
        return mmebm__fail(context, MMEBM_E_BACKEND, "backend '%s': %s does not load: %s", name, path, why ? why : "?");
    }
    void *symbol = dlsym(module, "mmebm_backend_entry");
    if (!symbol)
        return mmebm__fail(context, MMEBM_E_BACKEND,
                           "backend '%s': %s has no function mmebm_backend_entry: it is no backend module", name, path);
    mmebm_backend_entry_fn entry;
    memcpy(&entry, &symbol, sizeof entry); /* ISO C has no cast from void * to a function */
    *ops = entry(MMEBM_BACKEND_ABI);
    return check_table(context, name, path, *ops);
}

/* A device number or a stream where there is none is a mistake of the caller's. */
static mmebm_status check_spec(mmebm_context *context, const mmebm_backend_ops *ops, const mmebm_device_spec *spec)
{
    if (spec->ordinal >= 0 && !(ops->capabilities & MMEBM_BACKEND_NUMBERED))
        return mmebm__fail(context, MMEBM_E_ARGUMENT, "backend '%s' has one device without a number, found '%s:%d'",
                           ops->name, ops->name, (int)spec->ordinal);
    if (spec->stream && !(ops->capabilities & MMEBM_BACKEND_STREAM))
        return mmebm__fail(context, MMEBM_E_ARGUMENT,
                           "backend '%s' has no streams, but context_create: stream is set, wanted NULL", ops->name);
    return MMEBM_OK;
}

static mmebm_status open_named(mmebm_context *context, const char *name, const char *folder,
                               const mmebm_device_spec *spec, int *missing)
{
    const mmebm_backend_ops *ops = NULL;
    if (!strcmp(name, builtin_name))
        ops = mmebm__reference_backend();
    else
        MMEBM_TRY(load_module(context, name, folder, &ops, missing));
    mmebm__clear_error(context);
    MMEBM_TRY(check_spec(context, ops, spec));
    mmebm_device *device = NULL;
    const mmebm_status status = ops->device_open(&context->host, spec, &device);
    if (status != MMEBM_OK) {
        if (context->error[0]) return status;
        return mmebm__fail(context, status, "backend '%s': its device does not open: %s", name,
                           mmebm_status_name(status));
    }
    context->ops = ops;
    context->device = device;
    return MMEBM_OK;
}

/* The first that opens. Lack of memory is not a backend's fault and ends the search. */
static mmebm_status open_fastest(mmebm_context *context, const char *folder, const mmebm_device_spec *spec)
{
    mmebm_status status = MMEBM_E_BACKEND;
    for (int i = 0; i < KNOWN_COUNT; ++i) {
        int missing = 0;
        status = open_named(context, known_backends[i], folder, spec, &missing);
        if (status == MMEBM_OK) {
            mmebm__log(context, MMEBM_LOG_INFO, "backend '%s' (%s): %s", known_backends[i],
                       context->ops->device_describe(context->device),
                       i ? "the faster ones do not open" : "the fastest of this library");
            return MMEBM_OK;
        }
        if (status == MMEBM_E_MEMORY) return status;
        mmebm__log(context, missing ? MMEBM_LOG_DEBUG : MMEBM_LOG_WARNING, "backend auto: %s", context->error);
    }
    return status;
}

/* "cuda:1" -> "cuda", 1; "cuda" -> "cuda", -1. */
static mmebm_status split_name(mmebm_context *context, const char *text, char name[MAX_NAME_LENGTH + 1],
                               int32_t *ordinal)
{
    const size_t length = strcspn(text, ":");
    const char *digits = text[length] ? text + length + 1 : NULL;
    name[0] = '\0';
    if (length <= MAX_NAME_LENGTH) {
        memcpy(name, text, length);
        name[length] = '\0';
    }
    if (!is_valid_name(name))
        return mmebm__fail(context, MMEBM_E_NAME,
                           "backend '%.64s': wanted \"auto\" or a name of 1 to %d lower-case letters and digits", text,
                           MAX_NAME_LENGTH);
    *ordinal = -1;
    if (!digits) return MMEBM_OK;
    const size_t count = strspn(digits, "0123456789");
    if (count < 1 || count > MAX_ORDINAL_DIGITS || digits[count] || !strcmp(name, "auto"))
        return mmebm__fail(context, MMEBM_E_NAME,
                           "backend '%.64s': wanted a backend's name, \":\" and a device number of 1 to %d digits",
                           text, MAX_ORDINAL_DIGITS);
    *ordinal = atoi(digits);
    return MMEBM_OK;
}

mmebm_status mmebm__backend_open(mmebm_context *context, const mmebm_context_options *options)
{
    char name[MAX_NAME_LENGTH + 1];
    mmebm_device_spec spec = {
        .struct_size = sizeof spec, .n_threads = options->n_threads, .stream = options->stream};
    MMEBM_TRY(split_name(context, options->backend ? options->backend : "auto", name, &spec.ordinal));
    if (!strcmp(name, "auto")) return open_fastest(context, options->backend_dir, &spec);
    int missing = 0;
    return open_named(context, name, options->backend_dir, &spec, &missing);
}

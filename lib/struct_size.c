/* SPDX-License-Identifier: Apache-2.0
 *
 * The one check of caller structs, both ways (struct_size.h). Every public call that takes or fills a struct with a
 * struct_size comes through here, and so does every _init_sized of options.c.
 */
#include <string.h>

#include "struct_size.h"

/* Sets *size when `given` can be a struct of at least first_size bytes. */
static mmebm_status check_size(mmebm_context *context, const char *what, const void *given, size_t first_size,
                               size_t *size)
{
    if (!given) return mmebm__fail(context, MMEBM_E_ARGUMENT, "%s is NULL", what);
    uint32_t stored;
    memcpy(&stored, given, sizeof stored);
    if (stored < first_size || stored > MMEBM_MAX_STRUCT_SIZE)
        return mmebm__fail(context, MMEBM_E_STRUCT_SIZE,
                           "%s has struct_size %u, wanted %zu to %d; call its _init macro", what, (unsigned)stored,
                           first_size, MMEBM_MAX_STRUCT_SIZE);
    *size = stored;
    return MMEBM_OK;
}

static void set_size(void *known, size_t size)
{
    const uint32_t stored = (uint32_t)size;
    memcpy(known, &stored, sizeof stored);
}

mmebm_status mmebm__struct_read(mmebm_context *context, const char *what, const void *given, void *known,
                                size_t known_size, size_t first_size)
{
    size_t size = 0;
    MMEBM_TRY(check_size(context, what, given, first_size, &size));
    const unsigned char *bytes = given;
    for (size_t i = known_size; i < size; ++i)
        if (bytes[i])
            return mmebm__fail(context, MMEBM_E_UNKNOWN_OPTION,
                               "%s has %zu bytes and sets byte %zu, this library knows %zu", what, size, i, known_size);
    memset(known, 0, known_size);
    memcpy(known, given, size < known_size ? size : known_size);
    set_size(known, known_size);
    return MMEBM_OK;
}

mmebm_status mmebm__struct_write(mmebm_context *context, const char *what, void *given, const void *known,
                                 size_t known_size, size_t first_size)
{
    size_t size = 0;
    MMEBM_TRY(check_size(context, what, given, first_size, &size));
    memcpy(given, known, size < known_size ? size : known_size);
    set_size(given, size);
    return MMEBM_OK;
}

mmebm_status mmebm__struct_init(void *options, size_t size, const void *defaults, size_t known_size, size_t first_size)
{
    if (!options) return MMEBM_E_ARGUMENT;
    if (size < first_size || size > MMEBM_MAX_STRUCT_SIZE) return MMEBM_E_STRUCT_SIZE;
    memset(options, 0, size);
    memcpy(options, defaults, size < known_size ? size : known_size);
    set_size(options, size);
    return MMEBM_OK;
}

mmebm_status mmebm__reserved_check(mmebm_context *context, const char *what, uint32_t reserved)
{
    if (!reserved) return MMEBM_OK;
    return mmebm__fail(context, MMEBM_E_UNKNOWN_OPTION, "%s: reserved is %u, wanted 0", what, (unsigned)reserved);
}

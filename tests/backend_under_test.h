/* SPDX-License-Identifier: Apache-2.0
 *
 * The backend that a test program runs on: MMEBM_TEST_BACKEND names it, "reference" without that. A main starts with
 * SKIP_WITHOUT_DEVICE, which ends the program with one line where the backend's device is not in this machine.
 */
#ifndef MMEBM_BACKEND_UNDER_TEST_H
#define MMEBM_BACKEND_UNDER_TEST_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mmebm.h"

enum { SKIPPED_PROGRAM = 77 }; /* the exit status that meson and tests/run_group.py know */

static inline const char *test_backend(void)
{
    const char *name = getenv("MMEBM_TEST_BACKEND");
    return name && name[0] ? name : "reference";
}

/* A module that is missing or does not fit is a failure of the tests to come; only a device may be absent. */
static inline int device_is_missing(const char *backend)
{
    mmebm_context *context = NULL;
    mmebm_context_options options;
    char message[512] = "";
    if (mmebm_context_options_init(&options) != MMEBM_OK) return 0;
    options.backend = backend;
    options.n_threads = 1;
    const mmebm_status status = mmebm_context_create(&options, &context, message, sizeof message);
    mmebm_context_destroy(&context);
    if (status == MMEBM_OK || !strstr(message, "no CUDA device")) return 0;
    printf("%s\n", message);
    return 1;
}

#define SKIP_WITHOUT_DEVICE(backend)                                                               \
    do {                                                                                           \
        if (device_is_missing(backend)) return SKIPPED_PROGRAM;                                    \
    } while (0)

#endif /* MMEBM_BACKEND_UNDER_TEST_H */

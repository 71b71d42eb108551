/* SPDX-License-Identifier: Apache-2.0
 *
 * The device of this backend: its workers and oneDNN's engine. Made in cpu_backend.c.
 */
#ifndef MMEBM_CPU_DEVICE_H
#define MMEBM_CPU_DEVICE_H

#include "cpu_dnnl.h"
#include "cpu_threads.h"

struct mmebm_device {
    const mmebm_host *host;
    cpu_threads *threads;
    cpu_dnnl *dnnl;
    char description[128];
};

#endif /* MMEBM_CPU_DEVICE_H */

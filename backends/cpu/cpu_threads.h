/* SPDX-License-Identifier: Apache-2.0
 *
 * The worker threads of one device. One call runs one job: items 0 .. items - 1 are handed out in order to whichever
 * worker is free. The caller only waits, so its own thread settings (OpenMP's above all) are never touched.
 */
#ifndef MMEBM_CPU_THREADS_H
#define MMEBM_CPU_THREADS_H

#include "backend_api.h"

typedef struct cpu_threads cpu_threads;

/* `thread` is 0 .. count - 1: which worker runs this. */
typedef void (*cpu_task)(void *argument, uint32_t thread, int64_t item);

/* start, if not NULL, runs once in each worker before its first item. */
mmebm_status mmebm__cpu_threads_create(const mmebm_host *host, uint32_t count, void (*start)(void),
                                       cpu_threads **threads);
void mmebm__cpu_threads_destroy(cpu_threads *threads); /* NULL is fine */
uint32_t mmebm__cpu_threads_count(const cpu_threads *threads);

/* Returns when every item is done. At most 2^31 - 1 items. */
void mmebm__cpu_threads_run(cpu_threads *threads, int64_t items, cpu_task task, void *argument);

/* Cores that this process may use. */
uint32_t mmebm__cpu_usable_cores(void);

#endif /* MMEBM_CPU_THREADS_H */

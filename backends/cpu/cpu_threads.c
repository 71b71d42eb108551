/* SPDX-License-Identifier: Apache-2.0
 *
 * A pool without a barrier: `ticket` holds the job's number (high half) and how many items are still to be taken (low
 * half). A worker takes an item by decreasing it; the job's other fields may be read after that, since they cannot
 * change before the item is done. The caller waits for the count of finished items, never for a worker that came
 * late: with a competing process one slow worker costs one item, not a step.
 */
#include "cpu_threads.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>

enum { SPIN_YIELDS = 64 /* about 30 us: covers the gap between the calls of a chain */ };

typedef struct worker {
    struct cpu_threads *threads;
    pthread_t handle;
    uint32_t index;
} worker;

struct cpu_threads {
    const mmebm_host *host;
    uint32_t count, started;
    void (*start)(void);
    pthread_mutex_t lock;
    pthread_cond_t wake, finished;
    _Atomic uint64_t ticket;
    _Atomic int64_t done;
    atomic_uint sleepers, stop;
    cpu_task task;
    void *argument;
    int64_t items;
    worker workers[];
};

static int64_t items_left(uint64_t ticket)
{
    return (int64_t)(ticket & 0xffffffffu);
}

static void work(cpu_threads *threads, uint32_t index)
{
    uint64_t ticket = atomic_load(&threads->ticket);
    while (items_left(ticket) > 0) {
        if (!atomic_compare_exchange_weak(&threads->ticket, &ticket, ticket - 1)) continue;
        const int64_t items = threads->items;
        threads->task(threads->argument, index, items - items_left(ticket));
        if (atomic_fetch_add(&threads->done, 1) + 1 == items) {
            pthread_mutex_lock(&threads->lock);
            pthread_cond_signal(&threads->finished);
            pthread_mutex_unlock(&threads->lock);
        }
        ticket = atomic_load(&threads->ticket);
    }
}

/* Waits for items or for the end: a short time awake, then asleep. */
static void wait_for_work(cpu_threads *threads)
{
    for (int i = 0; i < SPIN_YIELDS; ++i) {
        if (items_left(atomic_load(&threads->ticket)) > 0 || atomic_load(&threads->stop)) return;
        sched_yield();
    }
    pthread_mutex_lock(&threads->lock);
    atomic_fetch_add(&threads->sleepers, 1);
    while (items_left(atomic_load(&threads->ticket)) == 0 && !atomic_load(&threads->stop))
        pthread_cond_wait(&threads->wake, &threads->lock);
    atomic_fetch_sub(&threads->sleepers, 1);
    pthread_mutex_unlock(&threads->lock);
}

static void *worker_main(void *argument)
{
    const worker *self = argument;
    cpu_threads *threads = self->threads;
    if (threads->start) threads->start();
    while (!atomic_load(&threads->stop)) {
        work(threads, self->index);
        wait_for_work(threads);
    }
    return NULL;
}

void mmebm__cpu_threads_run(cpu_threads *threads, int64_t items, cpu_task task, void *argument)
{
    if (items <= 0) return;
    threads->task = task;
    threads->argument = argument;
    threads->items = items;
    atomic_store(&threads->done, 0);
    const uint64_t job = (atomic_load(&threads->ticket) >> 32) + 1;
    atomic_store(&threads->ticket, (job << 32) | (uint64_t)items);
    if (atomic_load(&threads->sleepers) > 0) {
        pthread_mutex_lock(&threads->lock);
        pthread_cond_broadcast(&threads->wake);
        pthread_mutex_unlock(&threads->lock);
    }
    pthread_mutex_lock(&threads->lock);
    while (atomic_load(&threads->done) != items) pthread_cond_wait(&threads->finished, &threads->lock);
    pthread_mutex_unlock(&threads->lock);
}

static size_t threads_size(uint32_t count)
{
    return sizeof(cpu_threads) + count * sizeof(worker);
}

/* Signals stay with the program's own threads. */
static int start_worker(worker *self)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    const int error = pthread_create(&self->handle, NULL, worker_main, self);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return error;
}

mmebm_status mmebm__cpu_threads_create(const mmebm_host *host, uint32_t count, void (*start)(void),
                                       cpu_threads **out)
{
    *out = NULL;
    cpu_threads *threads = host->allocate(host->owner, threads_size(count), 64);
    if (!threads) return host->fail(host->owner, MMEBM_E_MEMORY, "cpu: no memory for %u threads", count);
    threads->host = host;
    threads->count = count;
    threads->start = start;
    pthread_mutex_init(&threads->lock, NULL);
    pthread_cond_init(&threads->wake, NULL);
    pthread_cond_init(&threads->finished, NULL);
    for (uint32_t i = 0; i < count; ++i) {
        threads->workers[i] = (worker){.threads = threads, .index = i};
        const int error = start_worker(&threads->workers[i]);
        if (error) {
            mmebm__cpu_threads_destroy(threads);
            return host->fail(host->owner, MMEBM_E_DEVICE, "cpu: thread %u of %u cannot be started (error %d)", i + 1,
                              count, error);
        }
        ++threads->started;
    }
    *out = threads;
    return MMEBM_OK;
}

void mmebm__cpu_threads_destroy(cpu_threads *threads)
{
    if (!threads) return;
    pthread_mutex_lock(&threads->lock);
    atomic_store(&threads->stop, 1);
    pthread_cond_broadcast(&threads->wake);
    pthread_mutex_unlock(&threads->lock);
    for (uint32_t i = 0; i < threads->started; ++i) pthread_join(threads->workers[i].handle, NULL);
    pthread_cond_destroy(&threads->finished);
    pthread_cond_destroy(&threads->wake);
    pthread_mutex_destroy(&threads->lock);
    threads->host->release(threads->host->owner, threads, threads_size(threads->count));
}

uint32_t mmebm__cpu_threads_count(const cpu_threads *threads)
{
    return threads->count;
}

uint32_t mmebm__cpu_usable_cores(void)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
    const int count = CPU_COUNT(&set);
    return count > 0 ? (uint32_t)count : 1;
}

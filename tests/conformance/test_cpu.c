/* SPDX-License-Identifier: Apache-2.0
 *
 * What only the cpu backend has to show: contexts in several threads at once, the caller's OpenMP setting left alone,
 * every failing allocation survived, runs that take no memory whatever their precision.
 */
#include <dlfcn.h>
#include <pthread.h>

#include "../harness.h"
#include "plans.h"

enum { ROWS = 19, RUNS = 20 };

/* A context with the posterior graph of a small model, which has most kinds of layers. */
typedef struct bench {
    side owner;
    mmebm_model *model;
    mmebm_graph graph;
} bench;

static const char *bench_open(bench *opened, uint32_t threads, char message[256])
{
    const char *name;
    memset(opened, 0, sizeof *opened);
    const char *error = side_open(&opened->owner, "cpu", threads, message);
    if (!error) error = preset_model(&opened->owner, "polymnist", 16, &opened->model);
    if (!error) error = model_graph(opened->model, MODEL_GRAPHS - 1, &opened->graph, &name);
    return error;
}

static void bench_close(bench *opened)
{
    if (opened->owner.context) mmebm__graph_free(opened->owner.context, &opened->graph);
    mmebm_model_destroy(&opened->model);
    side_close(&opened->owner);
}

/* RUNS runs of one plan with everything wanted; the result of the last. */
static const char *run_often(bench *b, uint32_t precision, plan_result *result)
{
    tested_plan plan;
    plan_data *data = data_create(&b->graph, ROWS, 5);
    data_round(data);
    const char *error = plan_open(&b->owner, &b->graph, precision, ROWS, WANT_ALL, &plan);
    for (int r = 0; !error && r < RUNS; ++r) error = plan_execute(&plan, data, 0, WANT_ALL, 0.0, result);
    plan_close(&plan);
    data_destroy(data);
    return error;
}

typedef struct worker {
    bench b;
    uint32_t threads;
    plan_result *result;
    const char *error;
    char message[256];
} worker;

static void *work(void *argument)
{
    worker *self = argument;
    self->error = bench_open(&self->b, self->threads, self->message);
    if (self->error) return NULL;
    self->result = result_create(&self->b.graph, ROWS);
    self->error = run_often(&self->b, MMEBM_PRECISION_F32, self->result);
    return NULL;
}

TEST(two_contexts_in_two_threads_give_the_same_bits)
{
    worker workers[2] = {{.threads = 1}, {.threads = 2}};
    pthread_t handles[2];
    for (int w = 0; w < 2; ++w) REQUIRE(pthread_create(&handles[w], NULL, work, &workers[w]) == 0);
    for (int w = 0; w < 2; ++w) pthread_join(handles[w], NULL);
    for (int w = 0; w < 2; ++w) CHECK_MSG(!workers[w].error, "%s", workers[w].error);
    const plan_result *a = workers[0].result, *b = workers[1].result;
    for (uint32_t f = 0; a && b && f < a->field_count; ++f)
        CHECK(memcmp(a->fields[f].values, b->fields[f].values, (size_t)field_size(a, f) * sizeof(double)) == 0);
    for (int w = 0; w < 2; ++w) {
        if (workers[w].result) result_destroy(workers[w].result);
        bench_close(&workers[w].b);
    }
}

TEST(callers_openmp_threads_are_left_alone)
{
    bench b;
    char message[256];
    const char *error = bench_open(&b, 2, message);
    void *runtime = error ? NULL : dlopen("libgomp.so.1", RTLD_NOW | RTLD_NOLOAD);
    if (!runtime) bench_close(&b);
    CHECK_MSG(!error, "%s", error);
    if (!runtime) SKIP("oneDNN here does not use libgomp");
    void (*set_threads)(int);
    int (*max_threads)(void);
    *(void **)&set_threads = dlsym(runtime, "omp_set_num_threads");
    *(void **)&max_threads = dlsym(runtime, "omp_get_max_threads");
    set_threads(7);
    plan_result *result = result_create(&b.graph, ROWS);
    error = run_often(&b, MMEBM_PRECISION_F32, result);
    CHECK_MSG(!error, "%s", error);
    CHECK(max_threads() == 7);
    result_destroy(result);
    bench_close(&b);
    dlclose(runtime);
}

/* ---- failing allocations */

typedef struct failing {
    int64_t left; /* allocations that still succeed */
    int64_t held; /* blocks not yet given back */
} failing;

static void *failing_allocate(void *user, size_t size, size_t alignment)
{
    failing *f = user;
    if (f->left-- <= 0) return NULL;
    ++f->held;
    return aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
}

static void failing_release(void *user, void *memory, size_t size)
{
    (void)size;
    --((failing *)user)->held;
    free(memory);
}

/* Opens a context and makes a plan of the graph with the n-th allocation failing. */
static mmebm_status open_with_failure(failing *f, const mmebm_graph *graph, uint32_t precision)
{
    mmebm_context_options options;
    mmebm_context *context;
    mmebm_plan *plan = NULL;
    char message[256] = "";
    mmebm_status status = mmebm_context_options_init(&options);
    options.backend = "cpu";
    options.n_threads = 2;
    options.allocate = failing_allocate;
    options.release = failing_release;
    options.allocator_user = f;
    if (status == MMEBM_OK) status = mmebm_context_create(&options, &context, message, sizeof message);
    if (status != MMEBM_OK) {
        CHECK(*message);
        return status;
    }
    const mmebm_plan_spec spec = {.graph = graph, .precision = precision, .weight_gradient = 1, .input_gradients = 1,
                                  .capacity = ROWS};
    status = context->ops->plan_create(context->device, &spec, &plan);
    CHECK(status == MMEBM_OK || *mmebm_last_error(context));
    if (plan) context->ops->plan_destroy(plan);
    mmebm_context_destroy(&context);
    return status;
}

TEST(every_allocation_may_fail)
{
    bench b;
    char message[256];
    const char *error = bench_open(&b, 1, message);
    CHECK_MSG(!error, "%s", error);
    for (uint32_t precision = MMEBM_PRECISION_F32; !error && precision <= MMEBM_PRECISION_BF16; ++precision) {
        mmebm_status status = MMEBM_E_MEMORY;
        for (int64_t n = 0; status == MMEBM_E_MEMORY && n < 10000; ++n) {
            failing f = {.left = n};
            status = open_with_failure(&f, &b.graph, precision);
            CHECK_MSG(f.held == 0, "%d blocks leak when allocation %d fails", (int)f.held, (int)n);
        }
        CHECK_MSG(status == MMEBM_OK, "status %d", (int)status);
    }
    bench_close(&b);
}

TEST(other_precisions_are_refused)
{
    bench b;
    char message[256];
    const char *error = bench_open(&b, 1, message);
    CHECK_MSG(!error, "%s", error);
    if (!error) {
        const mmebm_context *context = b.owner.context;
        const mmebm_plan_spec spec = {.graph = &b.graph, .precision = MMEBM_PRECISION_F64, .capacity = 1};
        mmebm_plan *plan;
        CHECK(context->ops->plan_create(context->device, &spec, &plan) == MMEBM_E_UNSUPPORTED);
        CHECK(strstr(mmebm_last_error(context), "precision"));
    }
    bench_close(&b);
}

int main(void)
{
    RUN(two_contexts_in_two_threads_give_the_same_bits);
    RUN(callers_openmp_threads_are_left_alone);
    RUN(every_allocation_may_fail);
    RUN(other_precisions_are_refused);
    return HARNESS_RESULT();
}

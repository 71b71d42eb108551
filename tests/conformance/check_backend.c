/* SPDX-License-Identifier: Apache-2.0
 *
 * check_backend --backend NAME [--precision f32|bf16|tf32] [--seed N] [--op NAME] [--once] [--verbose]
 *
 * Compares a backend with the reference, one line for each family of operations: see check.h. With --op only families
 * whose names contain NAME; with --verbose errors as shares of their bounds. The seed changes all random data; failures
 * print it. With --once no plan runs again with other splits, threads or neighbours: a tenth of the runs, for
 * `compute-sanitizer --tool racecheck`. A precision that the backend does not offer on this machine is skipped.
 */
#include "check.h"

check_setting setting = {.backend = "reference", .precision = MMEBM_PRECISION_F32};

static int usage(void)
{
    printf("usage: check_backend --backend NAME [--precision f32|bf16|tf32] [--seed N] [--op NAME] [--once]"
           " [--verbose]\n");
    return EXIT_FAILURE;
}

static int read_precision(const char *name)
{
    static const char *const names[] = {"f32", "bf16", "tf32"}; /* MMEBM_PRECISION_F32 and on */
    for (uint32_t p = 0; p < sizeof names / sizeof names[0]; ++p) {
        if (strcmp(name, names[p]) != 0) continue;
        setting.precision = MMEBM_PRECISION_F32 + p;
        return 1;
    }
    return 0;
}

static int read_options(int count, char **words)
{
    for (int k = 1; k < count; ++k) {
        const char *value = k + 1 < count ? words[k + 1] : NULL;
        int *flag = !strcmp(words[k], "--verbose") ? &setting.verbose
                    : !strcmp(words[k], "--once")  ? &setting.once
                                                   : NULL;
        if (flag) {
            *flag = 1;
            continue;
        }
        if (!value) return 0;
        if (!strcmp(words[k], "--backend"))
            setting.backend = value;
        else if (!strcmp(words[k], "--op"))
            setting.only = value;
        else if (!strcmp(words[k], "--seed"))
            setting.seed = strtoull(value, NULL, 10);
        else if (strcmp(words[k], "--precision") || !read_precision(value))
            return 0;
        ++k;
    }
    return 1;
}

static int no_device;

TEST(backend_opens)
{
    static char message[256]; /* SKIP prints it after the test */
    const char *error = side_open(&setting.reference, "reference", 1, message);
    for (uint32_t s = 0; !error && s < TESTED_SIDES; ++s)
        error = side_open(&setting.tested[s], setting.backend, s + 1, message);
    no_device = error && strstr(error, "no CUDA device") != NULL;
    if (no_device) SKIP(error);
    CHECK_MSG(!error, "%s", error);
}

/* Memory that a plan takes is what it says, and all of it comes back; on a device of its own, host memory is a part. */
TEST(plan_says_its_size)
{
    const layer_case wanted =
        CONV_CASE(MMEBM_LAYER_CONV2D, IMAGE(9, 7, 5), 17, PAIR(3, 3), PAIR(1, 1), PAIR(1, 1), PAIR(0, 0), 0);
    mmebm_context *context = setting.tested[0].context;
    uint64_t before, during, after, peak;
    mmebm_graph graph;
    tested_plan plan;
    const char *error = case_graph(&setting.reference, &wanted, &graph);
    REQUIRE(!error);
    REQUIRE(mmebm_context_memory(context, &before, &peak) == MMEBM_OK);
    error = plan_open(&setting.tested[0], &graph, setting.precision, 17, WANT_ALL, &plan);
    CHECK_MSG(!error, "%s", error);
    REQUIRE(mmebm_context_memory(context, &during, &peak) == MMEBM_OK);
    const uint64_t said = error ? 0 : context->ops->plan_size(plan.plan);
    if (!error) CHECK(strcmp(setting.backend, "cuda") ? said == during - before : said > during - before);
    plan_close(&plan);
    REQUIRE(mmebm_context_memory(context, &after, &peak) == MMEBM_OK);
    CHECK(after == before);
    mmebm__graph_free(setting.reference.context, &graph);
}

/* Why the precision cannot be had, or NULL. */
static const char *missing_precision(void)
{
    const layer_case wanted = {.settings = {.kind = MMEBM_LAYER_SOFTMAX}, .input_count = 1, .inputs = {VECTOR(3)}};
    const mmebm_context *context = setting.tested[0].context;
    mmebm_graph graph;
    const char *error = case_graph(&setting.reference, &wanted, &graph);
    const mmebm_plan_spec spec = {&graph, setting.precision, 0, 0, 1};
    mmebm_plan *plan = NULL;
    if (!error && context->ops->plan_create(context->device, &spec, &plan) == MMEBM_E_UNSUPPORTED)
        error = mmebm_last_error(context);
    if (plan) context->ops->plan_destroy(plan);
    mmebm__graph_free(setting.reference.context, &graph);
    return error;
}

int main(int count, char **words)
{
    if (!read_options(count, words)) return usage();
    setting.plain = !strcmp(setting.backend, "reference") || !strcmp(setting.backend, "cudahost");
    RUN(backend_opens);
    if (HARNESS_RESULT() != EXIT_SUCCESS || no_device) return HARNESS_RESULT();
    printf("%s: %s, seed %llu\n", setting.backend, mmebm_context_device(setting.tested[0].context),
           (unsigned long long)setting.seed);
    int failed = 0;
    const char *missing = missing_precision();
    if (missing) {
        printf("SKIP plans: %s\n", missing);
    } else {
        RUN_SELECTED(plan_says_its_size);
        failed |= check_layers() | check_models() | check_branches() | check_random();
    }
    failed |= check_vectors() | check_chains() | check_experts() | HARNESS_RESULT();
    side_close(&setting.reference);
    for (int s = 0; s < TESTED_SIDES; ++s) side_close(&setting.tested[s]);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

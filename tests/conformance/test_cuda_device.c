/* SPDX-License-Identifier: Apache-2.0
 *
 * The module of the cuda backend on any machine: with a usable device it opens, by number too and on every kind of
 * stream, and leaves the library's rules alone; without a driver or a device "cuda" says why, and "auto" says so too
 * and takes another backend.
 */
#include "../harness.h"
#include "mmebm.h"

enum { ROWS = 8, MODALITIES = 2, LATENT = 3, RUNS = 4 };

static char log_text[4096];

static void keep_log(void *user, int32_t level, const char *line)
{
    (void)user;
    (void)level;
    strncat(log_text, line, sizeof log_text - strlen(log_text) - 1);
}

static mmebm_status open_on_stream(const char *name, void *stream, mmebm_context **context, char message[512])
{
    mmebm_context_options options;
    if (mmebm_context_options_init(&options) != MMEBM_OK) return MMEBM_E_STATE;
    options.backend = name;
    options.stream = stream;
    options.log = keep_log;
    options.log_level = MMEBM_LOG_INFO;
    log_text[0] = '\0';
    return mmebm_context_create(&options, context, message, 512);
}

static mmebm_status open_backend(const char *name, mmebm_context **context, char message[512])
{
    return open_on_stream(name, NULL, context, message);
}

TEST(cuda_opens_or_says_why)
{
    mmebm_context *context = NULL;
    char message[512];
    const mmebm_status status = open_backend("cuda", &context, message);
    if (status == MMEBM_OK) {
        CHECK(!strcmp(mmebm_context_backend(context), "cuda"));
        CHECK(mmebm_context_device(context)[0] != '\0');
        CHECK(mmebm_context_fast_precision(context) == MMEBM_PRECISION_BF16);
    } else {
        CHECK(status == MMEBM_E_BACKEND);
        CHECK_MSG(strstr(message, "backend 'cuda': no CUDA device can be used: ") != NULL, "%s", message);
        CHECK(context == NULL);
    }
    mmebm_context_destroy(&context);
}

TEST(auto_takes_the_fastest_that_opens)
{
    mmebm_context *cuda = NULL, *context = NULL;
    char message[512];
    const int has_cuda = open_backend("cuda", &cuda, message) == MMEBM_OK;
    mmebm_context_destroy(&cuda);
    REQUIRE(open_backend("auto", &context, message) == MMEBM_OK);
    CHECK(has_cuda == !strcmp(mmebm_context_backend(context), "cuda"));
    CHECK_MSG(has_cuda || strstr(log_text, "no CUDA device can be used"), "log: %s", log_text);
    CHECK_MSG(strstr(log_text, mmebm_context_backend(context)) != NULL, "log: %s", log_text);
    mmebm_context_destroy(&context);
}

TEST(devices_are_chosen_by_number)
{
    mmebm_context *context = NULL;
    char message[512];
    if (open_backend("cuda", &context, message) != MMEBM_OK) SKIP("there is no CUDA device");
    char first[256];
    snprintf(first, sizeof first, "%s", mmebm_context_device(context));
    mmebm_context_destroy(&context);
    CHECK_MSG(open_backend("cuda:0", &context, message) == MMEBM_OK, "%s", message);
    CHECK(!strcmp(mmebm_context_device(context), first) && !strcmp(mmebm_context_backend(context), "cuda"));
    mmebm_context_destroy(&context);
    CHECK(open_backend("cuda:999", &context, message) == MMEBM_E_BACKEND);
    CHECK_MSG(strstr(message, "there is no device 999, the last is ") != NULL, "%s", message);
}

typedef struct run_result {
    float x[MODALITIES][ROWS * 4];
    double loss;
} run_result;

/* Chains and training steps often enough that they are recorded and replayed. */
static mmebm_status work(mmebm_context *context, run_result *result)
{
    static const int64_t sizes[MODALITIES] = {4, 3};
    mmebm_model *model = NULL;
    mmebm_trainer *trainer = NULL;
    mmebm_sampler *sampler = NULL;
    mmebm_preset_options networks;
    mmebm_trainer_options options;
    mmebm_view x[MODALITIES];
    mmebm_status status = mmebm_preset_options_init(&networks);
    networks.n_modalities = MODALITIES;
    networks.latent_size = LATENT;
    networks.sizes = sizes;
    networks.hidden = 16;
    if (status == MMEBM_OK) status = mmebm_model_create_preset(context, "mlp", &networks, &model);
    if (status == MMEBM_OK) status = mmebm_trainer_options_init(&options, "default");
    options.batch = ROWS;
    if (status == MMEBM_OK) status = mmebm_trainer_create(model, &options, &trainer);
    for (int i = 0; i < MODALITIES && status == MMEBM_OK; ++i) {
        const int64_t shape[2] = {ROWS, sizes[i]};
        for (int k = 0; k < ROWS * 4; ++k) result->x[i][k] = (float)(k * (7 + i) % 11) / 11.0f;
        status = mmebm_view_init(&x[i], result->x[i], 2, shape);
    }
    for (int run = 0; run < RUNS && status == MMEBM_OK; ++run) status = mmebm_trainer_step(trainer, x);
    if (status == MMEBM_OK) status = mmebm_trainer_diagnostic(trainer, "loss_energy", &result->loss);
    if (status == MMEBM_OK) status = mmebm_sampler_create(model, NULL, &sampler);
    for (int run = 0; run < RUNS && status == MMEBM_OK; ++run)
        status = mmebm_sampler_langevin_x(sampler, NULL, x, NULL);
    CHECK_MSG(status == MMEBM_OK, "%s", mmebm_last_error(context));
    mmebm_sampler_destroy(&sampler);
    mmebm_trainer_destroy(&trainer);
    mmebm_model_destroy(&model);
    return status;
}

/* Handles that every CUDA program has: cudaStreamLegacy, which cannot be captured, and cudaStreamPerThread. */
TEST(every_stream_gives_the_same_bits)
{
    void *const streams[] = {NULL, (void *)1, (void *)2};
    static run_result results[3];
    for (int s = 0; s < 3; ++s) {
        mmebm_context *context = NULL;
        char message[512];
        const mmebm_status status = open_on_stream("cuda", streams[s], &context, message);
        if (status == MMEBM_E_BACKEND && !s) SKIP("there is no CUDA device");
        CHECK_MSG(status == MMEBM_OK, "stream %d: %s", s, message);
        if (status != MMEBM_OK) continue;
        CHECK(work(context, &results[s]) == MMEBM_OK);
        mmebm_context_destroy(&context);
        CHECK_MSG(!memcmp(&results[0], &results[s], sizeof results[0]), "stream %d gives other bits", s);
    }
}

int main(void)
{
    RUN(cuda_opens_or_says_why);
    RUN(auto_takes_the_fastest_that_opens);
    RUN(devices_are_chosen_by_number);
    RUN(every_stream_gives_the_same_bits);
    return HARNESS_RESULT();
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * The module of the cuda backend on any machine: with a usable device it opens and leaves the library's rules alone;
 * without a driver or a device "cuda" says why, and "auto" says so too and takes another backend.
 */
#include "../harness.h"
#include "mmebm.h"

static char log_text[4096];

static void keep_log(void *user, int32_t level, const char *line)
{
    (void)user;
    (void)level;
    strncat(log_text, line, sizeof log_text - strlen(log_text) - 1);
}

static mmebm_status open_backend(const char *name, mmebm_context **context, char message[512])
{
    mmebm_context_options options;
    if (mmebm_context_options_init(&options) != MMEBM_OK) return MMEBM_E_STATE;
    options.backend = name;
    options.log = keep_log;
    options.log_level = MMEBM_LOG_INFO;
    log_text[0] = '\0';
    return mmebm_context_create(&options, context, message, 512);
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

int main(void)
{
    RUN(cuda_opens_or_says_why);
    RUN(auto_takes_the_fastest_that_opens);
    return HARNESS_RESULT();
}

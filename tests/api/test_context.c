/* SPDX-License-Identifier: Apache-2.0
 *
 * The context: versions, statuses, choice of a backend and its refusals, memory hooks and their count, log, lifetime.
 */
#include <sys/stat.h>
#include <unistd.h>

#include "api_support.h"

#define ABI TEST_BACKEND_ABI /* as in the modules' file names */

enum { MESSAGE_SIZE = 512, MAX_LINES = 16 };

/* ---- versions and statuses */

TEST(version_is_that_of_the_header)
{
    char text[32];
    snprintf(text, sizeof text, "%d.%d.%d", MMEBM_VERSION_MAJOR, MMEBM_VERSION_MINOR, MMEBM_VERSION_PATCH);
    CHECK(!strcmp(mmebm_version(), text));
    CHECK(MMEBM_VERSION_AT_LEAST(MMEBM_VERSION_MAJOR, MMEBM_VERSION_MINOR, MMEBM_VERSION_PATCH));
    CHECK(!MMEBM_VERSION_AT_LEAST(MMEBM_VERSION_MAJOR, MMEBM_VERSION_MINOR, MMEBM_VERSION_PATCH + 1));
}

TEST(every_status_has_its_name)
{
#define CHECK_NAME(name, number, text)                                                             \
    CHECK(!strcmp(mmebm_status_name(MMEBM_##name), "MMEBM_" #name));                               \
    CHECK(MMEBM_##name == (number));                                                               \
    CHECK(sizeof(text) > 1);
    MMEBM_STATUS_LIST(CHECK_NAME)
#undef CHECK_NAME
    CHECK(!strcmp(mmebm_status_name((mmebm_status)-9999), "MMEBM_UNKNOWN"));
    CHECK(!strcmp(mmebm_status_name((mmebm_status)1), "MMEBM_UNKNOWN"));
}

/* ---- creation and its refusals */

TEST(defaults_open_something)
{
    mmebm_context *context = NULL;
    char message[MESSAGE_SIZE] = "old";
    REQUIRE(mmebm_context_create(NULL, &context, message, sizeof message) == MMEBM_OK);
    CHECK(!message[0]);
    CHECK(!mmebm_last_error(context)[0]);
    CHECK(mmebm_context_backend(context)[0]);
    CHECK(mmebm_context_device(context)[0]);
    const uint32_t precision = mmebm_context_fast_precision(context);
    CHECK(precision == MMEBM_PRECISION_F32 || precision == MMEBM_PRECISION_BF16);
    mmebm_context_destroy(&context);
    CHECK(!context);
    mmebm_context_destroy(&context);
    mmebm_context_destroy(NULL);
}

/* Creates with `options`, expects `wanted` and a sentence that contains `part`. */
static void check_create(const mmebm_context_options *options, mmebm_status wanted, const char *part)
{
    mmebm_context *context = (mmebm_context *)(void *)&wanted; /* must be overwritten */
    char message[MESSAGE_SIZE] = "";
    const mmebm_status status = mmebm_context_create(options, &context, message, sizeof message);
    CHECK_MSG(status == wanted, "%s, wanted %s: %s", mmebm_status_name(status), mmebm_status_name(wanted), message);
    CHECK_MSG(strstr(message, part) != NULL, "'%s' lacks '%s'", message, part);
    if (status == MMEBM_OK)
        mmebm_context_destroy(&context);
    else
        CHECK(!context);
}

static mmebm_context_options default_options(void)
{
    mmebm_context_options options;
    if (mmebm_context_options_init(&options) != MMEBM_OK) memset(&options, 0, sizeof options);
    options.backend = "reference";
    return options;
}

TEST(impossible_options_are_refused)
{
    mmebm_context_options options = default_options();
    check_create(&options, MMEBM_OK, "");
    options.reserved = 3;
    check_create(&options, MMEBM_E_UNKNOWN_OPTION, "reserved is 3");
    options = default_options();
    options.allocate = counting_allocate;
    check_create(&options, MMEBM_E_ARGUMENT, "allocate without release");
    options = default_options();
    options.release = counting_release;
    check_create(&options, MMEBM_E_ARGUMENT, "release without allocate");
    options = default_options();
    options.n_threads = UINT32_MAX;
    check_create(&options, MMEBM_E_ARGUMENT, "n_threads is 4294967295");
    options = default_options();
    options.log_level = -1;
    check_create(&options, MMEBM_E_ARGUMENT, "log_level is -1");
    options.log_level = MMEBM_LOG_DEBUG + 1;
    check_create(&options, MMEBM_E_ARGUMENT, "log_level is 5");
    options = default_options();
    options.backend_dir = "";
    check_create(&options, MMEBM_E_ARGUMENT, "backend_dir is empty");
}

TEST(the_message_fits_its_buffer)
{
    mmebm_context_options options = default_options();
    options.backend = "No Such";
    mmebm_context *context = NULL;
    CHECK(mmebm_context_create(&options, &context, NULL, 100) == MMEBM_E_NAME);
    char full[MESSAGE_SIZE];
    CHECK(mmebm_context_create(&options, &context, full, sizeof full) == MMEBM_E_NAME);
    for (size_t size = 0; size < 12; ++size) {
        char message[16];
        memset(message, '#', sizeof message);
        CHECK(mmebm_context_create(&options, &context, message, size) == MMEBM_E_NAME);
        CHECK(message[size] == '#');
        if (size) CHECK(strlen(message) == size - 1 && !strncmp(message, full, size - 1));
    }
    CHECK(mmebm_context_create(NULL, NULL, full, sizeof full) == MMEBM_E_ARGUMENT);
    CHECK(strstr(full, "context is NULL") != NULL);
}

/* ---- backends */

TEST(names_of_backends)
{
    static const char *const impossible[] = {"",       "Reference",     "reference ", "../reference", "a/b",
                                             "cpu\n",  "cpu.so",        "c-p-u",      "\xc3\xa9",     "%s",
                                             "averyveryverylongname"};
    mmebm_context_options options = default_options();
    options.backend_dir = TEST_MODULE_FOLDER;
    for (size_t i = 0; i < sizeof impossible / sizeof impossible[0]; ++i) {
        options.backend = impossible[i];
        check_create(&options, MMEBM_E_NAME, "letters and digits");
    }
    options.backend = "nosuch";
    check_create(&options, MMEBM_E_NAME, TEST_MODULE_FOLDER "/mmebm-nosuch-" ABI ".so");
    options.backend = "cpu";
    check_create(&options, MMEBM_E_BACKEND, TEST_MODULE_FOLDER "/mmebm-cpu-" ABI ".so");
}

TEST(devices_have_numbers_where_there_are_several)
{
    static const char *const impossible[] = {"devices:",   "devices:x", "devices:-1", "devices:1:1", "devices:12345",
                                             "devices:1 ", "auto:1",    "devices:+1"};
    mmebm_context_options options = default_options();
    options.backend_dir = TEST_MODULE_FOLDER;
    for (size_t i = 0; i < sizeof impossible / sizeof impossible[0]; ++i) {
        options.backend = impossible[i];
        check_create(&options, MMEBM_E_NAME, "a device number of 1 to 4 digits");
    }
    options.backend = ":1";
    check_create(&options, MMEBM_E_NAME, "letters and digits");
    options.backend = "devices:3";
    check_create(&options, MMEBM_OK, "");
    options.backend = "reference:0";
    check_create(&options, MMEBM_E_ARGUMENT, "backend 'reference' has one device without a number");
}

TEST(a_stream_is_for_backends_that_have_some)
{
    int queue = 0;
    mmebm_context_options options = default_options();
    options.backend_dir = TEST_MODULE_FOLDER;
    options.stream = &queue;
    check_create(&options, MMEBM_E_ARGUMENT, "backend 'reference' has no streams");
    options.backend = "devices";
    check_create(&options, MMEBM_OK, "");
    options.backend = "auto"; /* no module of ours is in that folder: reference is all there is */
    check_create(&options, MMEBM_E_ARGUMENT, "has no streams");
}

TEST(wrong_modules_are_refused_with_the_reason)
{
    static const struct {
        const char *name;
        mmebm_status status;
        const char *part;
    } modules[] = {
        {"good", MMEBM_OK, ""},
        {"stale", MMEBM_E_BACKEND, "mmebm-stale-" ABI ".so has backend ABI 2, this library wants " ABI},
        {"refuses", MMEBM_E_BACKEND, "mmebm-refuses-" ABI ".so does not know backend ABI " ABI},
        {"short", MMEBM_E_BACKEND, "mmebm-short-" ABI ".so has a table of 64 bytes"},
        {"othername", MMEBM_E_BACKEND, "mmebm-othername-" ABI ".so calls itself 'another'"},
        {"hole", MMEBM_E_BACKEND, "leaves a required entry"},
        {"nodevice", MMEBM_E_DEVICE, "no device for 3 threads"},
        {"noentry", MMEBM_E_BACKEND, "no function mmebm_backend_entry"},
    };
    mmebm_context_options options = default_options();
    options.backend_dir = TEST_MODULE_FOLDER;
    options.n_threads = 3;
    for (size_t i = 0; i < sizeof modules / sizeof modules[0]; ++i) {
        options.backend = modules[i].name;
        check_create(&options, modules[i].status, modules[i].part);
    }
}

/* A folder of its own under the system's one for temporary files. */
static int make_folder(char folder[64])
{
    snprintf(folder, 64, "/tmp/mmebm-test-XXXXXX");
    return mkdtemp(folder) != NULL;
}

static int write_file(const char *folder, const char *name, const char *text)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "w");
    if (!file) return 0;
    fputs(text, file);
    return fclose(file) == 0;
}

static void remove_folder(const char *folder, const char *name)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    unlink(path);
    rmdir(folder);
}

TEST(a_file_that_is_no_module_is_refused)
{
    char folder[64];
    REQUIRE(make_folder(folder));
    mmebm_context_options options = default_options();
    options.backend_dir = folder;
    options.backend = "cpu";
    REQUIRE(write_file(folder, "mmebm-cpu-" ABI ".so", "not a module"));
    check_create(&options, MMEBM_E_BACKEND, "mmebm-cpu-" ABI ".so does not load");
    REQUIRE(write_file(folder, "mmebm-cpu-" ABI ".so", ""));
    check_create(&options, MMEBM_E_BACKEND, "mmebm-cpu-" ABI ".so does not load");
    remove_folder(folder, "mmebm-cpu-" ABI ".so");
    options.backend_dir = "/dev/null";
    check_create(&options, MMEBM_E_BACKEND, "/dev/null/mmebm-cpu-" ABI ".so");
    char *endless = malloc(9000);
    REQUIRE(endless);
    memset(endless, 'd', 8999);
    endless[8999] = '\0';
    options.backend_dir = endless;
    check_create(&options, MMEBM_E_ARGUMENT, "longer than");
    free(endless);
}

TEST(folders_are_searched_in_order)
{
    char *before = getenv("MMEBM_BACKEND_DIR");
    char *kept = before ? strdup(before) : NULL;
    mmebm_context_options options = default_options();
    options.backend = "good";
    setenv("MMEBM_BACKEND_DIR", TEST_MODULE_FOLDER, 1);
    check_create(&options, MMEBM_OK, "");
    options.backend_dir = "/nonexistent";
    check_create(&options, MMEBM_E_NAME, "/nonexistent/mmebm-good-" ABI ".so");
    options.backend_dir = NULL;
    /* never the current directory */
    char here[4096];
    REQUIRE(getcwd(here, sizeof here) && chdir(TEST_MODULE_FOLDER) == 0);
    setenv("MMEBM_BACKEND_DIR", "", 1);
    check_create(&options, MMEBM_E_NAME, "/mmebm/mmebm-good-" ABI ".so");
    unsetenv("MMEBM_BACKEND_DIR");
    check_create(&options, MMEBM_E_NAME, "/mmebm/mmebm-good-" ABI ".so");
    REQUIRE(chdir(here) == 0);
    if (kept) setenv("MMEBM_BACKEND_DIR", kept, 1);
    free(kept);
}

/* ---- log */

typedef struct line_log {
    int count;
    int32_t levels[MAX_LINES];
    char lines[MAX_LINES][MESSAGE_SIZE];
} line_log;

static void keep_line(void *user, int32_t level, const char *line)
{
    line_log *log = user;
    if (log->count == MAX_LINES) return;
    log->levels[log->count] = level;
    snprintf(log->lines[log->count++], MESSAGE_SIZE, "%s", line);
}

/* Number of lines of that level that contain `part`. */
static int count_lines(const line_log *log, int32_t level, const char *part)
{
    int found = 0;
    for (int i = 0; i < log->count; ++i) found += log->levels[i] == level && strstr(log->lines[i], part) != NULL;
    return found;
}

/* Opens "auto" with modules from `folder`; the log tells what happened. */
static line_log log_of_auto(const char *folder, int32_t level)
{
    line_log log = {.count = 0};
    mmebm_context_options options = default_options();
    options.backend = "auto";
    options.backend_dir = folder;
    options.log = keep_line;
    options.log_user = &log;
    options.log_level = level;
    mmebm_context *context = NULL;
    char message[MESSAGE_SIZE] = "";
    const mmebm_status status = mmebm_context_create(&options, &context, message, sizeof message);
    CHECK_MSG(status == MMEBM_OK, "%s", message);
    if (status == MMEBM_OK) CHECK(!strcmp(mmebm_context_backend(context), "reference"));
    mmebm_context_destroy(&context);
    return log;
}

TEST(auto_falls_back_and_says_so)
{
    line_log log = log_of_auto("/nonexistent", MMEBM_LOG_DEBUG);
    CHECK(count_lines(&log, MMEBM_LOG_DEBUG, "/nonexistent/mmebm-cpu-" ABI ".so") == 1);
    CHECK(count_lines(&log, MMEBM_LOG_INFO, "'reference'") == 1);
    log = log_of_auto("/nonexistent", MMEBM_LOG_INFO);
    CHECK(log.count == 1);
    log = log_of_auto("/nonexistent", MMEBM_LOG_WARNING);
    CHECK(log.count == 0);

    char folder[64];
    REQUIRE(make_folder(folder));
    REQUIRE(write_file(folder, "mmebm-cpu-" ABI ".so", "broken"));
    log = log_of_auto(folder, MMEBM_LOG_WARNING);
    CHECK(log.count == 1 && count_lines(&log, MMEBM_LOG_WARNING, "does not load") == 1);
    log = log_of_auto(folder, MMEBM_LOG_ERROR);
    CHECK(log.count == 0);
    for (int i = 0; i < log.count; ++i) CHECK(!strchr(log.lines[i], '\n'));
    remove_folder(folder, "mmebm-cpu-" ABI ".so");
}

/* ---- memory */

TEST(memory_is_counted)
{
    counting_allocator allocator = {.calls = 0};
    mmebm_context *context = open_context(&allocator);
    REQUIRE(context);
    uint64_t in_use = 0, peak = 0;
    CHECK(mmebm_context_memory(context, &in_use, &peak) == MMEBM_OK);
    CHECK(in_use == allocator.bytes && in_use > 0);
    CHECK(peak == allocator.peak);
    mmebm_network *network = NULL;
    REQUIRE(mmebm_network_create(context, "counted", &network) == MMEBM_OK);
    uint64_t with_network = 0;
    CHECK(mmebm_context_memory(context, &with_network, NULL) == MMEBM_OK);
    CHECK(with_network > in_use && with_network == allocator.bytes);
    mmebm_network_destroy(&network);
    CHECK(mmebm_context_memory(context, NULL, &peak) == MMEBM_OK);
    CHECK(peak == allocator.peak && peak >= with_network);
    CHECK(allocator.bytes == in_use);
    CHECK(mmebm_context_memory(context, NULL, NULL) == MMEBM_OK);
    CHECK(mmebm_context_memory(NULL, &in_use, &peak) == MMEBM_E_ARGUMENT);
    mmebm_context_destroy(&context);
    CHECK(allocator.blocks == 0 && allocator.bytes == 0 && allocator.errors == 0);
}

/* ---- errors and lifetime */

TEST(the_last_error_is_that_of_the_last_call)
{
    mmebm_context *context = open_context(NULL);
    REQUIRE(context);
    mmebm_network *network = NULL;
    mmebm_node node = 0;
    REQUIRE(mmebm_network_create(context, "errors", &network) == MMEBM_OK);
    CHECK(!mmebm_last_error(context)[0]);
    const int64_t shape[1] = {0};
    CHECK(mmebm_network_input(network, "x", 1, shape, &node) < 0);
    CHECK(mmebm_last_error(context)[0]);
    const int64_t good[1] = {3};
    CHECK(mmebm_network_input(network, "x", 1, good, &node) == MMEBM_OK);
    CHECK(!mmebm_last_error(context)[0]);
    mmebm_network_destroy(&network);
    mmebm_context_destroy(&context);
    CHECK(mmebm_last_error(NULL)[0]);
    CHECK(!mmebm_context_backend(NULL)[0]);
    CHECK(!mmebm_context_device(NULL)[0]);
    CHECK(mmebm_context_fast_precision(NULL) == MMEBM_PRECISION_F32);
}

/* Destroys a context, a model and a sampler of it in the order that `order` says, using what is left meanwhile. */
static void destroy_in_order(const char *order)
{
    counting_allocator allocator = {.calls = 0};
    mmebm_context *context = open_context(&allocator);
    REQUIRE(context);
    mmebm_model *model = small_model(context);
    REQUIRE(model);
    mmebm_sampler *sampler = NULL;
    REQUIRE(mmebm_sampler_create(model, NULL, &sampler) == MMEBM_OK);
    small_data data;
    REQUIRE(small_data_init(&data, 3) == MMEBM_OK);
    for (const char *next = order; *next; ++next) {
        if (*next == 'c') mmebm_context_destroy(&context);
        if (*next == 'm') mmebm_model_destroy(&model);
        if (*next == 's') mmebm_sampler_destroy(&sampler);
        if (model) CHECK(mmebm_model_modality_count(model) == SMALL_MODALITIES);
        if (sampler) CHECK(mmebm_sampler_energy(sampler, data.x, &data.energy) == MMEBM_OK);
        if (context) CHECK(mmebm_context_memory(context, NULL, NULL) == MMEBM_OK);
    }
    CHECK(!context && !model && !sampler);
    CHECK_MSG(allocator.blocks == 0 && allocator.errors == 0, "order %s: %llu blocks left", order,
              (unsigned long long)allocator.blocks);
}

TEST(any_order_of_destruction_is_fine)
{
    static const char *const orders[] = {"cms", "csm", "mcs", "msc", "scm", "smc"};
    for (size_t i = 0; i < sizeof orders / sizeof orders[0]; ++i) destroy_in_order(orders[i]);
}

int main(void)
{
    SKIP_WITHOUT_DEVICE(test_backend());
    RUN(version_is_that_of_the_header);
    RUN(every_status_has_its_name);
    RUN(defaults_open_something);
    RUN(impossible_options_are_refused);
    RUN(the_message_fits_its_buffer);
    RUN(names_of_backends);
    RUN(devices_have_numbers_where_there_are_several);
    RUN(a_stream_is_for_backends_that_have_some);
    RUN(wrong_modules_are_refused_with_the_reason);
    RUN(a_file_that_is_no_module_is_refused);
    RUN(folders_are_searched_in_order);
    RUN(auto_falls_back_and_says_so);
    RUN(memory_is_counted);
    RUN(the_last_error_is_that_of_the_last_call);
    RUN(any_order_of_destruction_is_fine);
    return HARNESS_RESULT();
}

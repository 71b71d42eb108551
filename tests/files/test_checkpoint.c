/* SPDX-License-Identifier: Apache-2.0
 *
 * Checkpoints: training goes on as if it had not stopped. Two trainers in the same state write the same bytes, so that
 * one comparison of files covers weights, optimiser state, counters and options.
 */
#include "header_edit.h"
#include "model.h"
#include "trainer.h"

static mmebm_context *context;
static counting_allocator allocator;

enum { BATCH = 4, STEPS_BEFORE = 3, STEPS_AFTER = 4 };

/* ---- one small trainer in several settings */

typedef struct setting {
    const char *name, *preset;
    uint32_t guard_interval, stratified, schedule_steps, spectral;
    float ema, guard_latent, data_noise, prior_temperature;
} setting;

static const setting settings[] = {
    {"default", "default", 100, 0, 0, 0, 0.999f, 60.0f, 0.0f, 0.0f},
    {"snapshots", "default", 2, 1, 20, 0, 0.9f, 60.0f, 0.1f, 0.0f},
    {"no guard, no average", "default", 0, 0, 0, 0, 0.0f, 60.0f, 0.0f, 0.0f},
    {"spectral norm", "default", 2, 0, 0, 1, 0.9f, 60.0f, 0.0f, 0.0f},
    {"rollbacks", "default", 2, 0, 0, 0, 0.9f, 1e-20f, 0.0f, 0.0f}, /* every step is bad */
    {"listing 1", "listing1", 100, 1, 0, 0, 0.0f, 60.0f, 0.0f, 0.0f},
    {"tilted prior", "default", 100, 0, 0, 0, 0.0f, 60.0f, 0.0f, 5.0f},
};
enum { SETTINGS = sizeof settings / sizeof settings[0] };

static mmebm_trainer *make_trainer(const setting *setting, mmebm_model *model)
{
    mmebm_trainer_options options;
    mmebm_trainer *trainer = NULL;
    if (mmebm_trainer_options_init(&options, setting->preset) != MMEBM_OK) return NULL;
    options.batch = BATCH;
    options.seed = 11;
    options.langevin_x.n_steps = 2;
    options.langevin_z.n_steps = 3;
    options.guard_interval = setting->guard_interval;
    options.guard_tries = 1000;
    options.guard_latent = setting->guard_latent;
    options.stratified = setting->stratified;
    options.schedule_steps = setting->schedule_steps;
    options.energy.spectral_norm = setting->spectral;
    options.ema = setting->ema;
    options.data_noise = setting->data_noise;
    options.prior_temperature = setting->prior_temperature;
    if (mmebm_trainer_create(model, &options, &trainer) != MMEBM_OK) printf("  %s\n", mmebm_last_error(context));
    return trainer;
}

static int train(mmebm_trainer *trainer, int first, int steps)
{
    small_data data;
    for (int s = first; s < first + steps; ++s) {
        if (small_data_init(&data, BATCH) != MMEBM_OK) return 0;
        for (int i = 0; i < SMALL_MODALITIES; ++i)
            fill_numbers(data.x_values[i], BATCH * 3, (uint32_t)(s * SMALL_MODALITIES + i));
        if (mmebm_trainer_step(trainer, data.x) != MMEBM_OK) {
            printf("  step %d: %s\n", s, mmebm_last_error(context));
            return 0;
        }
    }
    return 1;
}

static int same_files(const char *a, const char *b)
{
    const file_bytes x = read_bytes(a), y = read_bytes(b);
    const int same = x.data && y.data && x.size == y.size && memcmp(x.data, y.data, x.size) == 0;
    free(x.data);
    free(y.data);
    return same;
}

static int same_diagnostics(const mmebm_trainer *a, const mmebm_trainer *b)
{
    for (uint32_t d = 0; d < mmebm_trainer_diagnostic_count(); ++d) {
        const char *name = mmebm_trainer_diagnostic_name(d);
        double x = 0, y = 1;
        if (mmebm_trainer_diagnostic(a, name, &x) != MMEBM_OK || mmebm_trainer_diagnostic(b, name, &y) != MMEBM_OK ||
            memcmp(&x, &y, sizeof x) != 0) {
            printf("  %s: %.17g and %.17g\n", name, x, y);
            return 0;
        }
    }
    return 1;
}

/* N + M steps without a stop in *trainer; N steps, save, load, M steps in *resumed. */
static void check_resumes(const setting *setting, const mmebm_save_options *options)
{
    mmebm_model *model = small_model(context), *model_again = NULL;
    mmebm_trainer *again = NULL;
    REQUIRE(model);
    mmebm_trainer *trainer = make_trainer(setting, model);
    REQUIRE(trainer && train(trainer, 0, STEPS_BEFORE));
    REQUIRE(mmebm_trainer_save(trainer, in_folder("middle"), options) == MMEBM_OK);
    const mmebm_status status = mmebm_trainer_load(context, in_folder("middle"), &model_again, &again);
    CHECK_MSG(status == MMEBM_OK, "%s: %s", setting->name, mmebm_last_error(context));
    REQUIRE(status == MMEBM_OK);
    REQUIRE(mmebm_trainer_save(again, in_folder("middle2"), options) == MMEBM_OK);
    CHECK_MSG(same_files(in_folder("middle"), in_folder("middle2")), "%s: right after loading", setting->name);
    REQUIRE(train(trainer, STEPS_BEFORE, STEPS_AFTER) && train(again, STEPS_BEFORE, STEPS_AFTER));
    CHECK_MSG(same_diagnostics(trainer, again), "%s", setting->name);
    REQUIRE(mmebm_trainer_save(trainer, in_folder("end"), NULL) == MMEBM_OK);
    REQUIRE(mmebm_trainer_save(again, in_folder("end2"), NULL) == MMEBM_OK);
    CHECK_MSG(same_files(in_folder("end"), in_folder("end2")), "%s: after %d more steps", setting->name, STEPS_AFTER);
    CHECK_MSG(!same_files(in_folder("middle"), in_folder("end")), "%s: nothing was trained", setting->name);
    mmebm_trainer_destroy(&trainer);
    mmebm_trainer_destroy(&again);
    mmebm_model_destroy(&model);
    mmebm_model_destroy(&model_again);
}

TEST(stopping_changes_nothing)
{
    for (int s = 0; s < SETTINGS; ++s) check_resumes(&settings[s], NULL);
}

/* dtype is for files of weights: a checkpoint always holds f32. */
TEST(no_way_of_saving_changes_anything)
{
    mmebm_save_options options;
    REQUIRE(mmebm_save_options_init(&options) == MMEBM_OK);
    options.dtype = MMEBM_BF16;
    check_resumes(&settings[1], &options);
    options.gzip = 1;
    check_resumes(&settings[1], &options);
}

/* The published weights are set between the last step and the save: the next step starts from them. */
TEST(weights_that_were_set_survive)
{
    mmebm_model *model = small_model(context), *model_again = NULL;
    mmebm_trainer *again = NULL;
    REQUIRE(model);
    mmebm_trainer *trainer = make_trainer(&settings[0], model);
    REQUIRE(trainer && train(trainer, 0, 2));
    const mmebm_tensor *tensor = &model->parts[MMEBM_PART_ENERGY].graph.tensors[0];
    float values[64];
    mmebm_view view;
    REQUIRE(tensor->count <= 64 && mmebm_view_init(&view, values, tensor->rank, tensor->shape) == MMEBM_OK);
    fill_numbers(values, tensor->count, 77);
    REQUIRE(mmebm_model_set_tensor(model, tensor->name, &view) == MMEBM_OK);
    REQUIRE(mmebm_trainer_save(trainer, in_folder("set"), NULL) == MMEBM_OK);
    REQUIRE(mmebm_trainer_load(context, in_folder("set"), &model_again, &again) == MMEBM_OK);
    REQUIRE(train(trainer, 2, 2) && train(again, 2, 2));
    REQUIRE(mmebm_trainer_save(trainer, in_folder("end"), NULL) == MMEBM_OK);
    REQUIRE(mmebm_trainer_save(again, in_folder("end2"), NULL) == MMEBM_OK);
    CHECK(same_files(in_folder("end"), in_folder("end2")));
    mmebm_trainer_destroy(&trainer);
    mmebm_trainer_destroy(&again);
    mmebm_model_destroy(&model);
    mmebm_model_destroy(&model_again);
}

TEST(user_state_survives)
{
    static const size_t sizes[] = {0, 1, 1000, 65536};
    static unsigned char state[65536], found[65536];
    mmebm_model *model = small_model(context), *model_again;
    mmebm_trainer *again;
    REQUIRE(model);
    mmebm_trainer *trainer = make_trainer(&settings[0], model);
    REQUIRE(trainer);
    for (size_t i = 0; i < sizeof state; ++i) state[i] = (unsigned char)(i * 7 + i / 256);
    for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; ++k) {
        size_t size = sizeof found;
        REQUIRE(mmebm_trainer_set_user_state(trainer, state, sizes[k]) == MMEBM_OK);
        REQUIRE(mmebm_trainer_save(trainer, in_folder("state"), NULL) == MMEBM_OK);
        REQUIRE(mmebm_trainer_load(context, in_folder("state"), &model_again, &again) == MMEBM_OK);
        CHECK(mmebm_trainer_get_user_state(again, found, &size) == MMEBM_OK && size == sizes[k]);
        CHECK(memcmp(found, state, size) == 0);
        mmebm_trainer_destroy(&again);
        mmebm_model_destroy(&model_again);
    }
    mmebm_trainer_destroy(&trainer);
    mmebm_model_destroy(&model);
}

/* The same model as the trainer's, without the trainer. */
TEST(a_checkpoint_is_a_model_file_too)
{
    mmebm_model *model = small_model(context), *loaded = NULL;
    REQUIRE(model);
    mmebm_trainer *trainer = make_trainer(&settings[0], model);
    REQUIRE(trainer && train(trainer, 0, 2));
    REQUIRE(mmebm_trainer_save(trainer, in_folder("checkpoint"), NULL) == MMEBM_OK);
    REQUIRE(mmebm_model_load(context, in_folder("checkpoint"), &loaded) == MMEBM_OK);
    REQUIRE(mmebm_model_save(model, in_folder("model"), NULL) == MMEBM_OK);
    REQUIRE(mmebm_model_save(loaded, in_folder("model2"), NULL) == MMEBM_OK);
    CHECK(same_files(in_folder("model"), in_folder("model2")));
    mmebm_trainer_destroy(&trainer);
    mmebm_model_destroy(&model);
    mmebm_model_destroy(&loaded);
}

/* ---- wrong files */

static mmebm_status try_load(const char *path)
{
    mmebm_model *model;
    mmebm_trainer *trainer;
    const mmebm_status status = mmebm_trainer_load(context, path, &model, &trainer);
    CHECK((status == MMEBM_OK) == (model != NULL) && (status == MMEBM_OK) == (trainer != NULL));
    mmebm_trainer_destroy(&trainer);
    mmebm_model_destroy(&model);
    return status;
}

static file_bytes small_checkpoint(void)
{
    file_bytes bytes = {NULL, 0};
    mmebm_model *model = small_model(context);
    mmebm_trainer *trainer = model ? make_trainer(&settings[2], model) : NULL;
    if (trainer && mmebm_trainer_save(trainer, in_folder("small"), NULL) == MMEBM_OK)
        bytes = read_bytes(in_folder("small"));
    mmebm_trainer_destroy(&trainer);
    mmebm_model_destroy(&model);
    return bytes;
}

TEST(hostile_metadata_is_refused)
{
    static const char options[] = "mmebm.trainer.options", counters[] = "mmebm.trainer.counters";
    static const struct {
        const char *key, *found, *wanted;
        mmebm_status status;
        const char *sentence;
    } rows[] = {
        {options, "{", "[", MMEBM_E_FORMAT, "JSON"},
        {options, "\"batch\":4,", "", MMEBM_E_FORMAT, "missing"},
        {options, "\"batch\":4,", "\"batch\":4,\"batch\":4,", MMEBM_E_FORMAT, "once"},
        {options, "\"batch\":4,", "\"batch\":4,\"new\":4,", MMEBM_E_FORMAT, "known key"},
        {options, "\"batch\":4,", "\"batch\":5,", MMEBM_OK, ""}, /* sound: another batch fits the same state */
        {options, "\"batch\":4,", "\"batch\":0,", MMEBM_E_FORMAT, "batch"},
        {options, "\"batch\":4,", "\"batch\":4294967295,", MMEBM_E_FORMAT, "batch"},
        {options, "\"batch\":4,", "\"batch\":4294967296,", MMEBM_E_FORMAT, "integer"},
        {options, "\"batch\":4,", "\"batch\":-4,", MMEBM_E_FORMAT, "integer"},
        {options, "\"batch\":4,", "\"batch\":\"4\",", MMEBM_E_FORMAT, "number"},
        {options, "\"precision\":\"f32\"", "\"precision\":\"f8\"", MMEBM_E_FORMAT, "known name"},
        {options, "\"method\":\"ula\"", "\"method\":9", MMEBM_E_FORMAT, "method"},
        {options, "\"langevin_x\":{", "\"langevin_x\":{\"reserved\":1,", MMEBM_E_FORMAT, "known key"},
        {options, "\"langevin_x\":{", "\"langevin_x\":1,\"x\":{", MMEBM_E_FORMAT, "known key"},
        {options, "\"prior_temperature\":0,", "", MMEBM_OK, ""}, /* as before there was one */
        {options, "\"prior_temperature\":0", "\"prior_temperature\":-1", MMEBM_E_FORMAT, "prior_temperature"},
        {options, "\"ema\":0", "\"ema\":\"nan\"", MMEBM_E_FORMAT, "number"},
        {options, "\"ema\":0", "\"ema\":0.5", MMEBM_E_SHAPE, "trainer.energy.state"},
        {options, "\"guard_interval\":0", "\"guard_interval\":1", MMEBM_E_FORMAT, "trainer.energy.snapshot"},
        {options, "\"spectral_norm\":0", "\"spectral_norm\":1", MMEBM_E_SHAPE, "trainer.energy.state"},
        {counters, "\"newest_snapshot\":0", "\"newest_snapshot\":2", MMEBM_E_FORMAT, "range"},
        {counters, "\"valid_snapshots\":0", "\"valid_snapshots\":3", MMEBM_E_FORMAT, "range"},
        {counters, "\"rate_factor\":1", "\"rate_factor\":\"nan\"", MMEBM_E_FORMAT, "range"},
        {counters, "\"rate_factor\":1", "\"rate_factor\":-1", MMEBM_E_FORMAT, "range"},
        {counters, "\"reconstruction_mean\":0", "\"reconstruction_mean\":\"inf\"", MMEBM_OK, ""},
        {counters, "\"reconstruction_mean\":0", "\"reconstruction_mean\":\"none\"", MMEBM_E_FORMAT, "inf"},
        {counters, "\"snapshot_step\":[0,0]", "\"snapshot_step\":[0]", MMEBM_E_FORMAT, "two integers"},
        {counters, "\"step\":0", "\"step\":1.5", MMEBM_E_FORMAT, "integer"},
        {"mmebm.kind", "trainer", "model", MMEBM_E_FORMAT, "wanted a trainer"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; ++i) {
        const file_bytes bytes = small_checkpoint();
        REQUIRE(bytes.data);
        CHECK_MSG(write_edited(in_folder("edited"), bytes, rows[i].key, rows[i].found, rows[i].wanted), "%s: no '%s'",
                  rows[i].key, rows[i].found);
        const mmebm_status status = try_load(in_folder("edited"));
        CHECK_MSG(status == rows[i].status, "%s, %s: %s: %s", rows[i].key, rows[i].wanted, mmebm_status_name(status),
                  mmebm_last_error(context));
        CHECK_MSG(strstr(mmebm_last_error(context), rows[i].sentence) != NULL, "%s, %s: %s", rows[i].key,
                  rows[i].wanted, mmebm_last_error(context));
        free(bytes.data);
    }
}

/* A model file that calls itself a trainer lacks the state. */
TEST(a_model_that_claims_to_be_a_trainer_is_refused)
{
    mmebm_model *model = small_model(context);
    REQUIRE(model && mmebm_model_save(model, in_folder("model"), NULL) == MMEBM_OK);
    const file_bytes bytes = read_bytes(in_folder("model"));
    REQUIRE(write_edited(in_folder("edited"), bytes, "mmebm.kind", "model", "trainer"));
    CHECK(try_load(in_folder("edited")) == MMEBM_E_FORMAT);
    CHECK(strstr(mmebm_last_error(context), "mmebm.trainer.options") != NULL);
    free(bytes.data);
    mmebm_model_destroy(&model);
}

/* A sound file of a trainer that this backend cannot run. */
TEST(a_precision_that_is_not_offered_is_said_so)
{
    if (!strcmp(mmebm_context_backend(context), "cuda")) SKIP("cuda offers them all");
    const file_bytes bytes = small_checkpoint();
    REQUIRE(bytes.data);
    CHECK(write_edited(in_folder("edited"), bytes, "mmebm.trainer.options", "\"precision\":\"f32\"",
                       "\"precision\":\"tf32\""));
    free(bytes.data);
    CHECK(try_load(in_folder("edited")) == MMEBM_E_UNSUPPORTED);
    CHECK_MSG(strstr(mmebm_last_error(context), "edited': ") && strstr(mmebm_last_error(context), "precision"), "%s",
              mmebm_last_error(context));
}

/* Prime steps over the file: all kinds of bytes are met. */
TEST(damaged_checkpoints_are_refused)
{
    const file_bytes bytes = small_checkpoint();
    REQUIRE(bytes.data);
    CHECK(try_load(bytes_as_file(bytes.data, bytes.size)) == MMEBM_OK);
    for (size_t i = 0; i < bytes.size; i += 7) {
        CHECK(try_load(bytes_as_file(bytes.data, i)) == MMEBM_E_FORMAT);
        bytes.data[i] ^= (unsigned char)(1u << i % 8);
        const mmebm_status status = try_load(bytes_as_file(bytes.data, bytes.size));
        CHECK_MSG(status == MMEBM_E_FORMAT || status == MMEBM_E_DTYPE || status == MMEBM_E_SHAPE, "byte %zu: %s", i,
                  mmebm_status_name(status));
        bytes.data[i] ^= (unsigned char)(1u << i % 8);
    }
    free(bytes.data);
}

TEST(wrong_arguments_are_refused)
{
    mmebm_model *model = small_model(context), *loaded;
    REQUIRE(model);
    mmebm_trainer *trainer = make_trainer(&settings[0], model), *again;
    REQUIRE(trainer);
    CHECK(mmebm_trainer_save(NULL, in_folder("none"), NULL) == MMEBM_E_ARGUMENT);
    CHECK(mmebm_trainer_save(trainer, NULL, NULL) == MMEBM_E_ARGUMENT);
    CHECK(mmebm_trainer_load(NULL, in_folder("none"), &loaded, &again) == MMEBM_E_ARGUMENT);
    CHECK(mmebm_trainer_load(context, NULL, &loaded, &again) == MMEBM_E_ARGUMENT);
    CHECK(mmebm_trainer_load(context, in_folder("none"), NULL, &again) == MMEBM_E_ARGUMENT);
    CHECK(mmebm_trainer_load(context, in_folder("none"), &loaded, NULL) == MMEBM_E_ARGUMENT);
    CHECK(mmebm_trainer_load(context, in_folder("none"), &loaded, &again) == MMEBM_E_IO && !loaded && !again);
    mmebm_trainer_destroy(&trainer);
    mmebm_model_destroy(&model);
}

/* ---- memory */

static mmebm_status save_trainer(void *user)
{
    return mmebm_trainer_save(user, in_folder("memory"), NULL);
}

static mmebm_status load_trainer(void *user)
{
    mmebm_model *model;
    mmebm_trainer *trainer;
    const mmebm_status status = mmebm_trainer_load(user, in_folder("memory"), &model, &trainer);
    mmebm_trainer_destroy(&trainer);
    mmebm_model_destroy(&model);
    return status;
}

TEST(memory_may_end_anywhere)
{
    mmebm_model *model = small_model(context);
    REQUIRE(model);
    mmebm_trainer *trainer = make_trainer(&settings[1], model);
    REQUIRE(trainer);
    CHECK(survives_allocation_failures(&allocator, save_trainer, trainer));
    CHECK(survives_allocation_failures(&allocator, load_trainer, context));
    mmebm_trainer_destroy(&trainer);
    mmebm_model_destroy(&model);
}

int main(void)
{
    SKIP_WITHOUT_DEVICE(test_backend());
    context = open_context(&allocator);
    if (!context || !open_folder()) return EXIT_FAILURE;
    RUN(stopping_changes_nothing);
    RUN(no_way_of_saving_changes_anything);
    RUN(weights_that_were_set_survive);
    RUN(user_state_survives);
    RUN(a_checkpoint_is_a_model_file_too);
    RUN(hostile_metadata_is_refused);
    RUN(a_precision_that_is_not_offered_is_said_so);
    RUN(a_model_that_claims_to_be_a_trainer_is_refused);
    RUN(damaged_checkpoints_are_refused);
    RUN(wrong_arguments_are_refused);
    RUN(memory_may_end_anywhere);
    close_folder();
    mmebm_context_destroy(&context);
    return HARNESS_RESULT();
}

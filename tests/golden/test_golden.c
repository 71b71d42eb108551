/* SPDX-License-Identifier: Apache-2.0
 *
 * The library against PyTorch in float64: networks, both chains and whole training steps without noise, on the vectors
 * that make_golden.py wrote. Usage: test_golden BACKEND.
 *
 * Bounds, relative to the largest entry of each vector. A value passes through at most DEPTH layers of sums (twenty
 * of a network forward and backward, times the steps of a chain that follow each other) and each rounds to single
 * precision. reference sums in double, so an entry's error is about DEPTH 2^-24 = 5e-6, and 1e-5 is allowed. cpu sums
 * up to LONGEST_SUM products in single precision, whose worst case is LONGEST_SUM 2^-24 a layer; rounding errors of
 * random sign grow with the square root instead, and three times that is allowed.
 */
#include "backend_under_test.h"
#include "harness.h"
#include "trainer.h"
#include "vectors.h"

enum { M = 3, LATENT = 7, DEPTH = 80, LONGEST_SUM = 9 * 24 };
static const double single = 5.960464477539063e-8; /* 2^-24 */

static const char *backend;
static double bound;

/* ---- a model with the weights of a file */

typedef struct fixture {
    vectors vectors;
    mmebm_context *context;
    mmebm_model *model;
    mmebm_sampler *sampler;
    int64_t rows, image;
} fixture;

static const float *find(const fixture *f, const char *name, size_t wanted)
{
    size_t count = 0;
    const float *values = vectors_find(&f->vectors, name, &count);
    CHECK_MSG(values && count == wanted, "%s has %zu values, wanted %zu", name, count, wanted);
    return values && count == wanted ? values : NULL;
}

/* The largest error is below `bound` times the largest entry plus `rounding`. */
static void check_close(const char *name, const float *got, const float *wanted, size_t count, double rounding)
{
    double error = 0.0, size = 0.0;
    for (size_t i = 0; i < count; ++i) {
        const double difference = fabs((double)got[i] - (double)wanted[i]);
        if (!(difference <= error)) error = difference; /* a NaN stays */
        if (fabs((double)wanted[i]) > size) size = fabs((double)wanted[i]);
    }
    const double allowed = bound * size + rounding;
    CHECK_MSG(error <= allowed, "%s: largest error %.3g of %.3g, allowed %.3g", name, error, size, allowed);
}

static void compare(const fixture *f, const char *name, const float *got, size_t count)
{
    const float *wanted = find(f, name, count);
    if (wanted) check_close(name, got, wanted, count, 0.0);
}

static size_t image_floats(const fixture *f)
{
    return (size_t)(f->rows * f->image * f->image * 3);
}

/* A copy that may be written. */
static float *copy_of(const fixture *f, const char *name, size_t count)
{
    float *copy = calloc(count, sizeof *copy);
    const float *values = find(f, name, count);
    if (values) memcpy(copy, values, count * sizeof *copy);
    return copy;
}

static void view_images(const fixture *f, float *const data[M], mmebm_view views[M])
{
    const int64_t shape[4] = {f->rows, f->image, f->image, 3};
    for (int i = 0; i < M; ++i) CHECK(mmebm_view_init(&views[i], data[i], 4, shape) == MMEBM_OK);
}

/* x0, x1, x2 behind a prefix. */
static void load_images(const fixture *f, const char *prefix, float *data[M], mmebm_view views[M])
{
    for (int i = 0; i < M; ++i) {
        char name[32];
        snprintf(name, sizeof name, "%sx%d", prefix, i);
        data[i] = copy_of(f, name, image_floats(f));
    }
    view_images(f, data, views);
}

static void drop(float *data[M])
{
    for (int i = 0; i < M; ++i) free(data[i]);
}

static size_t count_of(uint32_t rank, const int64_t *shape)
{
    size_t count = 1;
    for (uint32_t a = 0; a < rank; ++a) count *= (size_t)shape[a];
    return count;
}

static void set_weights(const fixture *f)
{
    for (uint32_t t = 0; t < mmebm_model_tensor_count(f->model); ++t) {
        const char *name;
        uint32_t rank;
        int64_t shape[MMEBM_MAX_RANK];
        char key[128];
        mmebm_view view;
        CHECK(mmebm_model_tensor_info(f->model, t, &name, &rank, shape) == MMEBM_OK);
        snprintf(key, sizeof key, "weight/%s", name);
        float *values = copy_of(f, key, count_of(rank, shape));
        CHECK(mmebm_view_init(&view, values, rank, shape) == MMEBM_OK);
        CHECK(mmebm_model_set_tensor(f->model, name, &view) == MMEBM_OK);
        free(values);
    }
}

static int open_fixture(fixture *f, const char *file, int64_t rows, int64_t image)
{
    memset(f, 0, sizeof *f);
    f->rows = rows;
    f->image = image;
    char path[512], message[256];
    snprintf(path, sizeof path, "%s/%s", GOLDEN_FOLDER, file);
    CHECK_MSG(vectors_open(&f->vectors, path), "%s", path);
    mmebm_context_options context_options;
    CHECK(mmebm_context_options_init(&context_options) == MMEBM_OK);
    context_options.backend = backend;
    context_options.n_threads = 2;
    if (mmebm_context_create(&context_options, &f->context, message, sizeof message) != MMEBM_OK) {
        printf("  %s\n", message);
        return 0;
    }
    mmebm_preset_options options;
    CHECK(mmebm_preset_options_init(&options) == MMEBM_OK);
    options.n_modalities = M;
    options.latent_size = LATENT;
    options.image_size = (uint32_t)image;
    options.nf = 6;
    options.nef = 12;
    options.stem_channels = 5;
    options.posterior_floor = 1e-6f;
    CHECK_MSG(mmebm_model_create_preset(f->context, "polymnist", &options, &f->model) == MMEBM_OK, "%s",
              mmebm_last_error(f->context));
    if (!f->model) return 0;
    set_weights(f);
    return 1;
}

static void close_fixture(fixture *f)
{
    mmebm_sampler_destroy(&f->sampler);
    mmebm_model_destroy(&f->model);
    mmebm_context_destroy(&f->context);
    vectors_close(&f->vectors);
}

static int open_networks(fixture *f)
{
    if (!open_fixture(f, "networks.safetensors", 2, 28)) return 0;
    CHECK_MSG(mmebm_sampler_create(f->model, NULL, &f->sampler) == MMEBM_OK, "%s", mmebm_last_error(f->context));
    return f->sampler != NULL;
}

/* ---- networks */

TEST(energy_and_its_gradient)
{
    fixture f;
    REQUIRE(open_networks(&f));
    float *x[M], *score[M], u[2];
    mmebm_view views[M], scores[M], energy;
    load_images(&f, "", x, views);
    for (int i = 0; i < M; ++i) score[i] = calloc(image_floats(&f), sizeof(float));
    view_images(&f, score, scores);
    CHECK(mmebm_view_init(&energy, u, 1, &f.rows) == MMEBM_OK);
    CHECK(mmebm_sampler_energy(f.sampler, views, &energy) == MMEBM_OK);
    compare(&f, "energy", u, 2);
    CHECK(mmebm_sampler_score(f.sampler, views, 1.0f, scores) == MMEBM_OK);
    for (int i = 0; i < M; ++i) {
        char name[32];
        snprintf(name, sizeof name, "energy_gradient%d", i);
        for (size_t e = 0; e < image_floats(&f); ++e) score[i][e] = -score[i][e];
        compare(&f, name, score[i], image_floats(&f));
    }
    drop(x);
    drop(score);
    close_fixture(&f);
}

TEST(encoders)
{
    fixture f;
    REQUIRE(open_networks(&f));
    const int64_t shape[2] = {f.rows, LATENT};
    float *x[M], mean[2 * LATENT], scale[2 * LATENT];
    mmebm_view views[M], mean_view, scale_view;
    load_images(&f, "", x, views);
    CHECK(mmebm_view_init(&mean_view, mean, 2, shape) == MMEBM_OK);
    CHECK(mmebm_view_init(&scale_view, scale, 2, shape) == MMEBM_OK);
    for (uint32_t i = 0; i < M; ++i) {
        char name[32];
        CHECK(mmebm_sampler_encode(f.sampler, i, &views[i], &mean_view, &scale_view) == MMEBM_OK);
        snprintf(name, sizeof name, "mean%u", i);
        compare(&f, name, mean, 2 * LATENT);
        snprintf(name, sizeof name, "scale%u", i);
        compare(&f, name, scale, 2 * LATENT);
    }
    drop(x);
    close_fixture(&f);
}

TEST(decoders)
{
    fixture f;
    REQUIRE(open_networks(&f));
    const int64_t shape[2] = {f.rows, LATENT};
    float *z = copy_of(&f, "z", 2 * LATENT), *x[M];
    mmebm_view views[M], z_view;
    for (int i = 0; i < M; ++i) x[i] = calloc(image_floats(&f), sizeof(float));
    view_images(&f, x, views);
    CHECK(mmebm_view_init(&z_view, z, 2, shape) == MMEBM_OK);
    CHECK(mmebm_sampler_generate(f.sampler, &z_view, views) == MMEBM_OK);
    for (int i = 0; i < M; ++i) {
        char name[32];
        snprintf(name, sizeof name, "decoded%d", i);
        compare(&f, name, x[i], image_floats(&f));
    }
    free(z);
    drop(x);
    close_fixture(&f);
}

/* ---- chains */

TEST(langevin_x)
{
    fixture f;
    REQUIRE(open_networks(&f));
    const float step_sizes[M] = {10.0f, 12.0f, 14.0f};
    float *x[M];
    mmebm_view views[M];
    mmebm_langevin_options options;
    CHECK(mmebm_langevin_x_options_init(&options) == MMEBM_OK);
    options.n_steps = 2;
    options.step_sizes = step_sizes;
    options.noise_scale = 0.0f;
    options.observed = 1u << 1;
    load_images(&f, "", x, views);
    CHECK(mmebm_sampler_langevin_x(f.sampler, &options, views, NULL) == MMEBM_OK);
    compare(&f, "langevin_x0", x[0], image_floats(&f));
    compare(&f, "langevin_x2", x[2], image_floats(&f));
    const float *clamped = find(&f, "x1", image_floats(&f));
    CHECK(clamped && !memcmp(clamped, x[1], image_floats(&f) * sizeof(float)));
    drop(x);

    load_images(&f, "", x, views);
    options.n_steps = 1;
    options.step_sizes = NULL;
    options.step_size = 12.0f;
    options.drift_clamp = 0.03f;
    options.observed = 0;
    CHECK(mmebm_sampler_langevin_x(f.sampler, &options, views, NULL) == MMEBM_OK);
    compare(&f, "langevin_x_bounded0", x[0], image_floats(&f));
    drop(x);
    close_fixture(&f);
}

typedef struct chain_case {
    const char *name;
    int64_t chains; /* 1: z is [n, D] */
    uint64_t observed;
    uint32_t reduction;
    float norm_clip, prior_temperature;
} chain_case;

TEST(langevin_z)
{
    static const chain_case cases[] = {
        {"langevin_z_sum", 3, MMEBM_ALL_MODALITIES, MMEBM_REDUCE_SUM, 0.0f, 0.0f},
        {"langevin_z_mean", 3, MMEBM_ALL_MODALITIES, MMEBM_REDUCE_MEAN, 0.0f, 0.0f},
        {"langevin_z_subset", 2, 1u << 0 | 1u << 2, MMEBM_REDUCE_SUM, 0.0f, 0.0f},
        {"langevin_z_one", 1, 1u << 1, MMEBM_REDUCE_SUM, 0.0f, 0.0f},
        {"langevin_z_clipped", 3, MMEBM_ALL_MODALITIES, MMEBM_REDUCE_SUM, 0.05f, 0.0f},
        {"langevin_z_tilted", 2, 1u << 0 | 1u << 2, MMEBM_REDUCE_SUM, 0.0f, 0.001f},
    };
    fixture f;
    REQUIRE(open_networks(&f));
    float *x[M];
    mmebm_view views[M], z_view;
    load_images(&f, "", x, views);
    for (size_t c = 0; c < sizeof cases / sizeof *cases; ++c) {
        const int64_t shape[3] = {cases[c].chains, f.rows, LATENT};
        const size_t count = count_of(3, shape);
        const int single_chain = cases[c].chains == 1;
        float *z = copy_of(&f, "start", M * 2 * LATENT);
        CHECK(mmebm_view_init(&z_view, z, single_chain ? 2 : 3, single_chain ? shape + 1 : shape) == MMEBM_OK);
        mmebm_langevin_options options;
        CHECK(mmebm_langevin_z_options_init(&options) == MMEBM_OK);
        options.n_steps = 2;
        options.step_size = 0.05f;
        options.noise_scale = 0.0f;
        options.observed = cases[c].observed;
        options.reduction = cases[c].reduction;
        options.drift_norm_clip = cases[c].norm_clip;
        options.prior_temperature = cases[c].prior_temperature;
        CHECK_MSG(mmebm_sampler_langevin_z(f.sampler, &options, views, &z_view, NULL) == MMEBM_OK, "%s: %s",
                  cases[c].name, mmebm_last_error(f.context));
        compare(&f, cases[c].name, z, count);
        free(z);
    }
    drop(x);
    close_fixture(&f);
}

TEST(langevin_prior)
{
    fixture f;
    REQUIRE(open_networks(&f));
    const int64_t shape[2] = {f.rows, LATENT}, states[2] = {3, f.rows};
    float *z = copy_of(&f, "start", M * 2 * LATENT), energy[3 * 2];
    mmebm_view z_view, energies;
    mmebm_langevin_options options;
    mmebm_chain_record record;
    CHECK(mmebm_view_init(&z_view, z, 2, shape) == MMEBM_OK);
    CHECK(mmebm_view_init(&energies, energy, 2, states) == MMEBM_OK);
    CHECK(mmebm_langevin_z_options_init(&options) == MMEBM_OK && mmebm_chain_record_init(&record) == MMEBM_OK);
    options.n_steps = 2;
    options.step_size = 0.5f;
    options.noise_scale = 0.0f;
    options.prior_temperature = 0.01f;
    record.energy = &energies;
    CHECK_MSG(mmebm_sampler_langevin_prior(f.sampler, &options, &z_view, &record) == MMEBM_OK, "%s",
              mmebm_last_error(f.context));
    compare(&f, "tilted_energy", energy, 2);
    compare(&f, "langevin_prior", z, 2 * LATENT);
    free(z);
    close_fixture(&f);
}

/* ---- training */

static const char *const checked_diagnostics[] = {
    "reconstruction", "synthesis", "log_q_data", "log_q_revised", "energy_data", "energy_revised",
    "energy_square_data", "energy_square_revised", "displacement", "latent_norm", "loss_generator", "loss_inference",
    "loss_energy", "dE_raw", "dE_scaled", "log_p_revised", "gradient_norm_generator", "gradient_norm_inference",
    "gradient_norm_energy"};

static mmebm_trainer_options plain_options(void)
{
    mmebm_trainer_options o;
    CHECK(mmebm_trainer_options_init(&o, "default") == MMEBM_OK);
    o.batch = 4;
    o.stratified = 1;
    o.langevin_x = (mmebm_training_chain){.n_steps = 3, .method = MMEBM_ULA, .reduction = MMEBM_REDUCE_SUM,
                                          .step_size = 4.0f};
    o.langevin_z = (mmebm_training_chain){.n_steps = 3, .method = MMEBM_ULA, .reduction = MMEBM_REDUCE_SUM,
                                          .step_size = 0.05f};
    o.mala_target = 0.0f;
    o.energy = (mmebm_adam_options){.rate = 0.01f, .beta1 = 0.5f, .beta2 = 0.9f, .epsilon = 0.75f};
    o.generator = (mmebm_adam_options){.rate = 0.02f, .beta1 = 0.9f, .beta2 = 0.99f, .epsilon = 1.0f};
    o.inference = (mmebm_adam_options){.rate = 0.03f, .beta1 = 0.8f, .beta2 = 0.999f, .epsilon = 0.2f};
    o.weight_reconstruction = o.weight_synthesis = o.weight_inference = o.weight_inference_revised = 1.0f;
    o.energy_penalty = 0.0f;
    o.temperature = 0.05f;
    o.data_noise = 0.0f;
    o.ema = 0.0f;
    o.schedule_steps = 0;
    o.guard_interval = 0;
    return o;
}

/* Every option that a step has, on a model whose every choice is another than the default. */
static mmebm_trainer_options every_option(mmebm_model *model)
{
    mmebm_trainer_options o = plain_options();
    o.langevin_x = (mmebm_training_chain){.n_steps = 2, .method = MMEBM_ULA, .reduction = MMEBM_REDUCE_SUM,
                                          .step_size = 6.0f, .drift_clamp = 0.02f};
    o.langevin_z = (mmebm_training_chain){.n_steps = 2, .method = MMEBM_ULA, .reduction = MMEBM_REDUCE_MEAN,
                                          .step_size = 0.1f, .drift_norm_clip = 0.06f};
    o.energy.clip_norm = 20.0f;
    o.generator.clip_norm = 300.0f;
    o.inference.clip_norm = 5.0f;
    o.weight_reconstruction = 0.7f;
    o.weight_synthesis = 1.5f;
    o.weight_inference = 0.8f;
    o.weight_inference_revised = 0.4f;
    o.energy_penalty = 0.01f;
    o.temperature = 0.1f;
    model->modalities[0].scale = 0.9f;
    model->modalities[0].weight = 1.2f;
    model->modalities[1].likelihood = MMEBM_LAPLACE;
    model->modalities[1].scale = 0.75f;
    model->modalities[2].weight = 0.5f;
    model->options.prior = MMEBM_LAPLACE;
    model->options.prior_scale = 0.8f;
    model->options.posterior = MMEBM_LAPLACE;
    model->options.posterior_scale = MMEBM_SCALE_SOFTMAX;
    model->options.posterior_floor = 0.02f;
    return o;
}

static void check_diagnostics(const fixture *f, const mmebm_trainer *trainer, const char *name, int step)
{
    for (size_t d = 0; d < sizeof checked_diagnostics / sizeof *checked_diagnostics; ++d) {
        char key[96];
        double value;
        snprintf(key, sizeof key, "%s/step%d/%s", name, step, checked_diagnostics[d]);
        const float *wanted = find(f, key, 1);
        CHECK_MSG(mmebm_trainer_diagnostic(trainer, checked_diagnostics[d], &value) == MMEBM_OK, "%s", key);
        const float got = (float)value;
        if (wanted) check_close(key, &got, wanted, 1, 0.0);
    }
}

/* The change of each tensor since the weights of the file, against the change that PyTorch found. */
static void check_changes(const fixture *f, const char *case_name)
{
    for (uint32_t t = 0; t < mmebm_model_tensor_count(f->model); ++t) {
        const char *name;
        uint32_t rank;
        int64_t shape[MMEBM_MAX_RANK];
        char key[160];
        mmebm_view view;
        size_t stored;
        CHECK(mmebm_model_tensor_info(f->model, t, &name, &rank, shape) == MMEBM_OK);
        const size_t count = count_of(rank, shape);
        snprintf(key, sizeof key, "%s/change/%s", case_name, name);
        const float *wanted = vectors_find(&f->vectors, key, &stored);
        if (!wanted) continue;
        float *now = calloc(count, sizeof *now);
        CHECK(mmebm_view_init(&view, now, rank, shape) == MMEBM_OK);
        CHECK(mmebm_model_get_tensor(f->model, name, &view) == MMEBM_OK);
        char weight[128];
        snprintf(weight, sizeof weight, "weight/%s", name);
        const float *before = find(f, weight, count);
        double largest = 0.0;
        for (size_t i = 0; before && i < count; ++i) {
            largest = fmax(largest, fabs((double)now[i]));
            now[i] -= before[i];
        }
        check_close(key, now, wanted, count, 2.0 * single * largest); /* the weight itself is rounded at each step */
        free(now);
    }
}

static void train(const char *name, int every)
{
    fixture f;
    REQUIRE(open_fixture(&f, "training.safetensors", 4, 12));
    const mmebm_trainer_options options = every ? every_option(f.model) : plain_options();
    mmebm_trainer *trainer = NULL;
    CHECK_MSG(mmebm_trainer_create(f.model, &options, &trainer) == MMEBM_OK, "%s", mmebm_last_error(f.context));
    REQUIRE(trainer);
    for (int step = 0; step < 2; ++step) {
        char prefix[32];
        float *x[M];
        mmebm_view views[M];
        snprintf(prefix, sizeof prefix, "step%d/prior", step);
        float *prior = copy_of(&f, prefix, 4 * LATENT);
        snprintf(prefix, sizeof prefix, "step%d/", step);
        load_images(&f, prefix, x, views);
        trainer->witness_prior = prior;
        CHECK_MSG(mmebm_trainer_step(trainer, views) == MMEBM_OK, "%s", mmebm_last_error(f.context));
        check_diagnostics(&f, trainer, name, step);
        free(prior);
        drop(x);
    }
    check_changes(&f, name);
    mmebm_trainer_destroy(&trainer);
    close_fixture(&f);
}

TEST(training_step)
{
    train("plain", 0);
}

TEST(training_step_with_every_option)
{
    train("every_option", 1);
}

int main(int argument_count, char **arguments)
{
    backend = argument_count > 1 ? arguments[1] : "reference";
    SKIP_WITHOUT_DEVICE(backend);
    const int sums_in_double = !strcmp(backend, "reference");
    bound = sums_in_double ? 1e-5 : 3.0 * DEPTH * sqrt(LONGEST_SUM) * single;
    RUN(energy_and_its_gradient);
    RUN(encoders);
    RUN(decoders);
    RUN(langevin_x);
    RUN(langevin_z);
    RUN(langevin_prior);
    RUN(training_step);
    RUN(training_step_with_every_option);
    return HARNESS_RESULT();
}

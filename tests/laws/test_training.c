/* SPDX-License-Identifier: Apache-2.0
 *
 * What a training step promises: the energy's gradient is Eqn 10 (rulings section L, test 3), no network's update sees
 * another's (test 7), negatives of a tilted prior are langevin_prior's, the diagnostic of ruling C6 falls when
 * revision leads away from the generator (test 9), threads change no bit, a bad step leaves nothing behind. That
 * stopping changes nothing is in tests/files.
 */
#include "laws.h"
#include "trainer.h"

enum { MODALITIES = 2, BATCH = 6, LATENT = 3, MAX_SIZE = 5 };

typedef struct fixture {
    mmebm_context *context;
    mmebm_model *model;
    mmebm_trainer *trainer;
    mmebm_trainer_options options;
    float x[MODALITIES][BATCH * MAX_SIZE];
    mmebm_view views[MODALITIES];
} fixture;

static mmebm_model *make_mlp(mmebm_context *context)
{
    static const int64_t sizes[MODALITIES] = {MAX_SIZE, 4};
    mmebm_preset_options options;
    mmebm_model *model = NULL;
    if (mmebm_preset_options_init(&options) != MMEBM_OK) return NULL;
    options.n_modalities = MODALITIES;
    options.latent_size = LATENT;
    options.sizes = sizes;
    options.hidden = 16;
    options.seed = 3;
    if (mmebm_model_create_preset(context, "mlp", &options, &model) != MMEBM_OK)
        printf("  %s\n", mmebm_last_error(context));
    return model;
}

/* Options that every test starts from: short chains, no guard. */
static int open_fixture(fixture *f, uint32_t threads)
{
    memset(f, 0, sizeof *f);
    f->context = open_backend(test_backend(), threads);
    if (!f->context || mmebm_trainer_options_init(&f->options, "default") != MMEBM_OK) return 0;
    f->options.batch = BATCH;
    f->options.seed = 11;
    f->options.stratified = 1;
    f->options.langevin_x.n_steps = f->options.langevin_z.n_steps = 3;
    f->options.guard_interval = 0;
    return 1;
}

static int open_trainer(fixture *f, mmebm_model *model)
{
    f->model = model;
    if (!model) return 0;
    for (uint32_t i = 0; i < mmebm_model_modality_count(model); ++i) {
        mmebm_modality about;
        if (mmebm_modality_init(&about) != MMEBM_OK || mmebm_model_modality(model, i, &about) != MMEBM_OK) return 0;
        for (uint32_t k = 0; k < BATCH * MAX_SIZE; ++k)
            f->x[i][k] = test_number(90 + i, k);
        f->views[i] = view_of(f->x[i], 2, (int64_t[]){BATCH, about.shape[0]});
    }
    if (mmebm_trainer_create(model, &f->options, &f->trainer) == MMEBM_OK) return 1;
    printf("  %s\n", mmebm_last_error(f->context));
    return 0;
}

static void close_fixture(fixture *f)
{
    mmebm_trainer_destroy(&f->trainer);
    mmebm_model_destroy(&f->model);
    mmebm_context_destroy(&f->context);
}

/* All tensors whose names start with `prefix`, one after another. Returns how many numbers. */
enum { MAX_WEIGHTS = 4096 };
static size_t read_weights(const mmebm_model *model, const char *prefix, float weights[MAX_WEIGHTS])
{
    size_t used = 0;
    for (uint32_t t = 0; t < mmebm_model_tensor_count(model); ++t) {
        const char *name;
        uint32_t rank;
        int64_t shape[MMEBM_MAX_RANK], count = 1;
        if (mmebm_model_tensor_info(model, t, &name, &rank, shape) != MMEBM_OK) return 0;
        if (strncmp(name, prefix, strlen(prefix)) != 0) continue;
        for (uint32_t a = 0; a < rank; ++a)
            count *= shape[a];
        if (used + (size_t)count > MAX_WEIGHTS) return 0;
        mmebm_view view = view_of(weights + used, rank, shape);
        if (mmebm_model_get_tensor(model, name, &view) != MMEBM_OK) return 0;
        used += (size_t)count;
    }
    return used;
}

static double diagnostic(const fixture *f, const char *name)
{
    double value = NAN;
    CHECK(mmebm_trainer_diagnostic(f->trainer, name, &value) == MMEBM_OK);
    return value;
}

/* ---- Eqn 10 */

enum { SIZE = 4, FEATURES = 3 };

/* Adds factor times the gradient of |A x + c|^2 / 2 by (A, c), which lie in that order as in the model. */
static void add_gradient(const float *a, const float *c, const float *x, double factor, double *gradient)
{
    for (int k = 0; k < FEATURES; ++k) {
        double feature = c[k];
        for (int d = 0; d < SIZE; ++d)
            feature += (double)a[k * SIZE + d] * x[d];
        for (int d = 0; d < SIZE; ++d)
            gradient[k * SIZE + d] += factor * feature * x[d];
        gradient[FEATURES * SIZE + k] += factor * feature;
    }
}

/* The generator gives its bias for every z, so that without a chain's steps x_rev is known. */
static void give_the_bias(fixture *f, float revised[SIZE])
{
    float zeros[SIZE] = {0};
    const mmebm_view nothing = view_of(zeros, 2, (int64_t[]){SIZE, 1});
    mmebm_view bias = view_of(revised, 1, (int64_t[]){SIZE});
    OK(f->context, mmebm_model_set_tensor(f->model, "decoder0.mean.weight", &nothing));
    OK(f->context, mmebm_model_get_tensor(f->model, "decoder0.mean.bias", &bias));
}

/* Adam's first step without momentum and with epsilon 1 is rate g / (|g| + 1), from which g follows. */
static void check_eqn_10(float weight_mismatched)
{
    fixture f;
    REQUIRE(open_fixture(&f, 2));
    f.options.weight_mismatched = weight_mismatched;
    f.options.stratified = 0;
    f.options.langevin_x.n_steps = 0;
    f.options.temperature = 0.5f;
    f.options.energy_penalty = 0.0f;
    f.options.energy = (mmebm_adam_options){.rate = 1.0f, .beta1 = 0.0f, .beta2 = 0.999f, .epsilon = 1.0f};
    REQUIRE(open_trainer(&f, make_feature_model(f.context, SIZE, FEATURES)));
    float revised[SIZE], before[MAX_WEIGHTS], after[MAX_WEIGHTS];
    give_the_bias(&f, revised);
    enum { COUNT = FEATURES * SIZE + FEATURES };
    CHECK(read_weights(f.model, "energy.", before) == COUNT);
    OK(f.context, mmebm_trainer_step(f.trainer, f.views));
    CHECK(read_weights(f.model, "energy.", after) == COUNT);
    double wanted[COUNT] = {0.0};
    for (int b = 0; b < BATCH; ++b)
        add_gradient(before, before + FEATURES * SIZE, f.x[0] + b * SIZE, 1.0 / (BATCH * 0.5), wanted);
    add_gradient(before, before + FEATURES * SIZE, revised, -1.0 / 0.5, wanted);
    for (int k = 0; k < COUNT; ++k) {
        const double step = (double)before[k] - after[k], found = step / (1.0 - fabs(step));
        CHECK_MSG(fabs(found - wanted[k]) < 2e-5 * (1.0 + fabs(wanted[k])), "weight %d: %g, wanted %g", k, found,
                  wanted[k]);
    }
    close_fixture(&f);
}

/* One modality has nothing to be mismatched with: what is added cancels out. */
TEST(the_gradient_of_the_energy_is_eqn_10)
{
    check_eqn_10(0.0f);
    check_eqn_10(0.75f);
}

/* Running statistics are means over all tuples that the energy's gradient is of: with momentum 1, of this step's. */
static void check_statistics(float weight_mismatched)
{
    fixture f;
    float revised[SIZE], mean[SIZE];
    const double terms = weight_mismatched > 0.0f ? 2.0 : 1.0; /* of the data: mismatched with nothing else */
    mmebm_view view = view_of(mean, 1, (int64_t[]){SIZE});
    REQUIRE(open_fixture(&f, 2));
    f.options.weight_mismatched = weight_mismatched;
    f.options.langevin_x.n_steps = 0;
    REQUIRE(open_trainer(&f, make_normalised_model(f.context, SIZE, 1.0f)));
    give_the_bias(&f, revised);
    OK(f.context, mmebm_trainer_step(f.trainer, f.views));
    OK(f.context, mmebm_model_get_tensor(f.model, "energy.batch_norm2.mean", &view));
    for (int d = 0; d < SIZE; ++d) {
        double data = 0.0;
        for (int b = 0; b < BATCH; ++b) data += f.x[0][b * SIZE + d] / (double)BATCH;
        const double wanted = (terms * data + revised[d]) / (terms + 1.0);
        CHECK_MSG(fabs(mean[d] - wanted) < 1e-6 * (1.0 + fabs(wanted)), "mean %d: %g, wanted %g", d, (double)mean[d],
                  wanted);
    }
    close_fixture(&f);
}

TEST(running_statistics_are_means_over_all_terms)
{
    check_statistics(0.0f);
    check_statistics(0.75f);
}

/* ---- mismatched tuples */

static double mean_energy(fixture *f, const mmebm_view *x)
{
    float energy[BATCH];
    double sum = 0.0;
    mmebm_view view = view_of(energy, 1, (int64_t[]){BATCH});
    CHECK(mmebm_energy(f->model, x, &view) == MMEBM_OK);
    for (int b = 0; b < BATCH; ++b) sum += energy[b];
    return sum / BATCH;
}

/* Modality 1 is that of the next tuple; U learns to tell. */
TEST(mismatched_tuples_are_taught)
{
    fixture f;
    float next[BATCH * MAX_SIZE];
    REQUIRE(open_fixture(&f, 2));
    f.options.weight_mismatched = 2.0f;
    f.options.energy_penalty = 1e-3f;
    f.options.energy.rate = 1e-2f;
    REQUIRE(open_trainer(&f, make_mlp(f.context)));
    const size_t size = (size_t)f.views[1].shape[1], rest = (BATCH - 1) * size;
    memcpy(next, f.x[1] + size, rest * sizeof *next);
    memcpy(next + rest, f.x[1], size * sizeof *next);
    mmebm_view mixed[MODALITIES] = {f.views[0], f.views[1]};
    mixed[1].data = next;
    const double real = mean_energy(&f, f.views), other = mean_energy(&f, mixed);
    OK(f.context, mmebm_trainer_step(f.trainer, f.views));
    const double scale = 1e-5 * (1.0 + fabs(real) + fabs(other));
    CHECK(fabs(diagnostic(&f, "energy_data") - real) < scale);
    CHECK(fabs(diagnostic(&f, "energy_mismatched") - other) < scale);
    const double squares = diagnostic(&f, "energy_square_data") + diagnostic(&f, "energy_square_revised") +
                           diagnostic(&f, "energy_square_mismatched");
    const double ratio = f.options.langevin_x.step_size / f.options.langevin_x.noise_scale; /* T = 1 / ratio^2 */
    const double loss = (diagnostic(&f, "dE_raw") + 2.0 * (real - other) + 1e-3 * squares) * ratio * ratio;
    CHECK(fabs(diagnostic(&f, "loss_energy") - loss) < 1e-4 * (1.0 + fabs(loss)));
    for (int k = 0; k < 300; ++k) OK(f.context, mmebm_trainer_step(f.trainer, f.views));
    CHECK_MSG(mean_energy(&f, mixed) - mean_energy(&f, f.views) > 1.0, "real %g, mismatched %g",
              mean_energy(&f, f.views), mean_energy(&f, mixed));
    close_fixture(&f);
}

/* ---- negatives of a tilted prior */

static void tilt(mmebm_trainer_options *options, float noise_scale)
{
    options->prior_temperature = 0.1f;
    options->langevin_prior = (mmebm_training_chain){.n_steps = 7, .method = MMEBM_ULA,
                                                     .reduction = MMEBM_REDUCE_SUM, .step_size = 0.3f,
                                                     .noise_scale = noise_scale};
    options->langevin_x.n_steps = 0;
    options->energy.rate = options->generator.rate = 1e-2f;
}

/* The mean of U(G(z)) for what langevin_prior makes of these z with the present weights. */
static void energy_of_tilted(fixture *f, const float start[BATCH * LATENT], double *energy)
{
    const mmebm_trainer_options *trained = &f->options;
    float z[BATCH * LATENT], x[MODALITIES][BATCH * MAX_SIZE];
    mmebm_view latents = view_of(z, 2, (int64_t[]){BATCH, LATENT}), views[MODALITIES] = {f->views[0], f->views[1]};
    mmebm_langevin_options options;
    mmebm_sampler *sampler = NULL;
    memcpy(z, start, sizeof z);
    for (int m = 0; m < MODALITIES; ++m) views[m].data = x[m];
    OK(f->context, mmebm_langevin_z_options_init(&options));
    options.n_steps = trained->langevin_prior.n_steps;
    options.step_size = trained->langevin_prior.step_size;
    options.noise_scale = trained->langevin_prior.noise_scale;
    OK(f->context, mmebm_sampler_create(f->model, NULL, &sampler));
    options.prior_temperature = trained->prior_temperature;
    OK(f->context, mmebm_sampler_langevin_prior(sampler, &options, &latents, NULL));
    OK(f->context, mmebm_sampler_generate(sampler, &latents, views));
    mmebm_sampler_destroy(&sampler);
    *energy = mean_energy(f, views);
}

/* Without noise, from a known start: with the weights of each step, though both networks move. */
TEST(negatives_of_a_tilted_prior_are_langevin_priors)
{
    fixture f;
    float start[BATCH * LATENT];
    double first = 0.0;
    for (uint32_t k = 0; k < BATCH * LATENT; ++k) start[k] = test_number(70, k);
    REQUIRE(open_fixture(&f, 2));
    tilt(&f.options, 0.0f);
    REQUIRE(open_trainer(&f, make_mlp(f.context)));
    f.trainer->witness_prior = start;
    for (int step = 0; step < 3; ++step) {
        double wanted = NAN;
        energy_of_tilted(&f, start, &wanted);
        OK(f.context, mmebm_trainer_step(f.trainer, f.views));
        const double found = diagnostic(&f, "energy_revised");
        CHECK_MSG(fabs(found - wanted) < 1e-5 * (1.0 + fabs(wanted)), "step %d: %g, wanted %g", step, found, wanted);
        if (step) CHECK_MSG(fabs(wanted - first) > 1e-3, "nothing was learnt: %g", wanted);
        if (!step) first = wanted;
    }
    close_fixture(&f);
}

/* A decoder's first tensor, to itself. */
static int set_again(mmebm_model *model)
{
    float numbers[MAX_WEIGHTS];
    const char *name = "";
    uint32_t rank, t = 0;
    int64_t shape[MMEBM_MAX_RANK];
    while (strncmp(name, "decoder", 7) != 0)
        if (mmebm_model_tensor_info(model, t++, &name, &rank, shape) != MMEBM_OK) return 0;
    mmebm_view view = view_of(numbers, rank, shape);
    return mmebm_model_get_tensor(model, name, &view) == MMEBM_OK &&
           mmebm_model_set_tensor(model, name, &view) == MMEBM_OK;
}

/* Setting a tensor to what it is makes the next step run as if it were the first: not as a backend recorded it. */
static int train_tilted(int anew, float weights[MAX_WEIGHTS], size_t *count)
{
    fixture f;
    int done = open_fixture(&f, 2);
    tilt(&f.options, 0.3f);
    f.options.generator.rate = 0.0f; /* of the two copied parts one moves */
    done = done && open_trainer(&f, make_mlp(f.context));
    for (int step = 0; done && step < 6; ++step)
        done = (!anew || set_again(f.model)) && mmebm_trainer_step(f.trainer, f.views) == MMEBM_OK;
    *count = done ? read_weights(f.model, "", weights) : 0;
    close_fixture(&f);
    return done;
}

TEST(a_tilted_prior_follows_the_weights_in_recorded_steps)
{
    float once[MAX_WEIGHTS], anew[MAX_WEIGHTS];
    size_t count = 0, again = 0;
    REQUIRE(train_tilted(0, once, &count) && count > 0);
    REQUIRE(train_tilted(1, anew, &again));
    CHECK(count == again && memcmp(once, anew, count * sizeof *once) == 0);
}

/* ---- no update sees another */

static int step_with_rates(float energy, float generator, float inference, const char *prefix,
                           float weights[MAX_WEIGHTS], size_t *count)
{
    fixture f;
    int done = open_fixture(&f, 2);
    f.options.energy.rate = energy;
    f.options.generator.rate = generator;
    f.options.inference.rate = inference;
    done = done && open_trainer(&f, make_mlp(f.context)) && mmebm_trainer_step(f.trainer, f.views) == MMEBM_OK;
    *count = done ? read_weights(f.model, prefix, weights) : 0;
    close_fixture(&f);
    return done;
}

/* All draws and gradients are made before any update (ruling D6). So the order of updates cannot matter: each network
 * gets the same bits whether the others move at all. */
TEST(no_update_sees_another)
{
    static const char *const prefixes[3] = {"energy.", "decoder", "encoder"};
    for (int p = 0; p < 3; ++p) {
        float together[MAX_WEIGHTS], alone[MAX_WEIGHTS], still[MAX_WEIGHTS];
        size_t count = 0, other = 0;
        const float rate = 1e-2f;
        REQUIRE(step_with_rates(rate, rate, rate, prefixes[p], together, &count) && count > 0);
        REQUIRE(step_with_rates(p == 0 ? rate : 0, p == 1 ? rate : 0, p == 2 ? rate : 0, prefixes[p], alone, &other));
        CHECK(count == other && memcmp(together, alone, count * sizeof *alone) == 0);
        REQUIRE(step_with_rates(p == 0 ? 0 : rate, p == 1 ? 0 : rate, p == 2 ? 0 : rate, prefixes[p], still, &other));
        CHECK(memcmp(together, still, count * sizeof *still) != 0);
    }
}

/* ---- the diagnostic of ruling C6 */

/* U = |x|^2 / 2 draws every x to 0, which is not where the generator puts it. */
TEST(log_p_revised_falls_with_the_length_of_the_revision)
{
    static const uint32_t lengths[] = {0, 3, 30, 300};
    double last = 0.0;
    for (size_t k = 0; k < sizeof lengths / sizeof lengths[0]; ++k) {
        fixture f;
        REQUIRE(open_fixture(&f, 2));
        f.options.langevin_x.n_steps = lengths[k];
        f.options.langevin_x.drift_clamp = 0.0f;
        REQUIRE(open_trainer(&f, make_gaussian_model(f.context, MODALITIES, 4, LATENT, 0.5f)));
        OK(f.context, mmebm_trainer_step(f.trainer, f.views));
        const double found = diagnostic(&f, "log_p_revised");
        if (k == 0)
            CHECK_MSG(fabs(found) < 1e-6, "%g without revision, wanted 0: the generator's own means", found);
        else
            CHECK_MSG(found < 1.2 * last && found < 0.0, "%u steps: %g, before %g", lengths[k], found, last);
        last = found;
        close_fixture(&f);
    }
}

/* ---- bits */

static int train(uint32_t threads, float weights[MAX_WEIGHTS], double diagnostics[64], size_t *count)
{
    fixture f;
    int done = open_fixture(&f, threads);
    f.options.data_noise = 0.1f;
    f.options.prior_temperature = 2.0f;
    f.options.energy.spectral_norm = 1;
    f.options.guard_interval = 2;
    done = done && open_trainer(&f, make_mlp(f.context));
    for (int step = 0; done && step < 5; ++step) {
        f.x[1][step] = 0.125f * (float)step; /* the caller's memory may change between calls */
        done = mmebm_trainer_step(f.trainer, f.views) == MMEBM_OK;
    }
    for (uint32_t d = 0; done && d < mmebm_trainer_diagnostic_count(); ++d)
        diagnostics[d] = diagnostic(&f, mmebm_trainer_diagnostic_name(d));
    *count = done ? read_weights(f.model, "", weights) : 0;
    close_fixture(&f);
    return done;
}

TEST(threads_change_no_bit)
{
    float one[MAX_WEIGHTS], other[MAX_WEIGHTS];
    double numbers[64] = {0}, others[64] = {0};
    size_t count = 0, again = 0;
    REQUIRE(train(1, one, numbers, &count) && count > 0);
    for (uint32_t threads = 1; threads <= 3; ++threads) {
        REQUIRE(train(threads, other, others, &again));
        CHECK_MSG(count == again && memcmp(one, other, count * sizeof *one) == 0, "%u threads", threads);
        CHECK_MSG(memcmp(numbers, others, sizeof numbers) == 0, "%u threads: diagnostics", threads);
    }
}

/* ---- the guard */

/* A trainer to whose guard every step is bad. */
static int open_guarded(fixture *f, uint32_t tries)
{
    if (!open_fixture(f, 2)) return 0;
    f->options.guard_interval = 10;
    f->options.guard_tries = tries;
    f->options.guard_energy = 1e-20f;
    return open_trainer(f, make_mlp(f->context));
}

/* Every step is bad: the weights stay those of the start, and after guard_tries rollbacks it is an error. A backend may
 * find a step's result in the next call (mmebm.h), so the diagnostic's status counts too. */
TEST(a_bad_step_leaves_nothing_behind)
{
    enum { TRIES = 2 };
    fixture f;
    REQUIRE(open_guarded(&f, TRIES));
    float before[MAX_WEIGHTS], after[MAX_WEIGHTS];
    const size_t count = read_weights(f.model, "", before);
    for (int try = 1; try <= TRIES + 1; ++try) {
        double rollbacks = 0.0;
        mmebm_status status = mmebm_trainer_step(f.trainer, f.views);
        if (status == MMEBM_OK) status = mmebm_trainer_diagnostic(f.trainer, "rollbacks", &rollbacks);
        CHECK(status == (try <= TRIES ? MMEBM_OK : MMEBM_E_DIVERGED));
        CHECK(status == MMEBM_OK || strstr(mmebm_last_error(f.context), "rollback 3 in a row"));
        CHECK(diagnostic(&f, "rollbacks") == try && diagnostic(&f, "rate_factor") < 1.0);
        CHECK(read_weights(f.model, "", after) == count && memcmp(before, after, count * sizeof *before) == 0);
    }
    close_fixture(&f);
}

/* However many tries are allowed: rates that would train nothing are an error. */
TEST(rates_do_not_fall_for_ever)
{
    enum { LEAST = 2 }; /* 0.01 * 0.01 < 1e-3 */
    fixture f;
    REQUIRE(open_fixture(&f, 2));
    f.options.guard_interval = 10;
    f.options.guard_tries = 1000;
    f.options.guard_rate = 0.01f;
    f.options.guard_energy = 1e-20f;
    REQUIRE(open_trainer(&f, make_mlp(f.context)));
    for (int try = 1; try <= LEAST; ++try) {
        double rollbacks = 0.0;
        mmebm_status status = mmebm_trainer_step(f.trainer, f.views);
        if (status == MMEBM_OK) status = mmebm_trainer_diagnostic(f.trainer, "rollbacks", &rollbacks);
        CHECK(status == (try < LEAST ? MMEBM_OK : MMEBM_E_DIVERGED));
    }
    CHECK(strstr(mmebm_last_error(f.context), "2 rollbacks have taken the rates to 0.0001 of what they were"));
    close_fixture(&f);
}

/* Nothing is asked between the steps. A backend with mailboxes finds a failure two calls later and drops the step that
 * was queued meanwhile. */
TEST(a_failure_is_returned_by_the_call_that_finds_it)
{
    enum { TRIES = 2 };
    fixture f;
    REQUIRE(open_guarded(&f, TRIES));
    float before[MAX_WEIGHTS], after[MAX_WEIGHTS];
    const size_t count = read_weights(f.model, "", before);
    const int last = f.context->ops->mailbox_create ? 2 * TRIES + 3 : TRIES + 1;
    for (int call = 1; call <= last; ++call) {
        const mmebm_status status = mmebm_trainer_step(f.trainer, f.views);
        CHECK_MSG(status == (call < last ? MMEBM_OK : MMEBM_E_DIVERGED), "call %d: %s", call,
                  mmebm_last_error(f.context));
    }
    CHECK(read_weights(f.model, "", after) == count && memcmp(before, after, count * sizeof *before) == 0);
    CHECK(diagnostic(&f, "rollbacks") == TRIES + 1);
    close_fixture(&f);
}

TEST(the_average_never_holds_a_bad_step)
{
    fixture f;
    REQUIRE(open_guarded(&f, 2));
    mmebm_model *average = make_mlp(f.context);
    float before[MAX_WEIGHTS], after[MAX_WEIGHTS];
    const size_t count = read_weights(f.model, "", before);
    OK(f.context, mmebm_trainer_step(f.trainer, f.views));
    OK(f.context, mmebm_trainer_copy_average(f.trainer, average));
    CHECK(read_weights(average, "", after) == count && memcmp(before, after, count * sizeof *before) == 0);
    mmebm_model_destroy(&average);
    close_fixture(&f);
}

static void scale_data(fixture *f, float factor)
{
    for (int i = 0; i < MODALITIES; ++i)
        for (uint32_t k = 0; k < BATCH * MAX_SIZE; ++k) f->x[i][k] *= factor;
}

/* A reconstruction that leaps up is let pass in the first guard_interval steps, where Adam overshoots, not after. */
TEST(the_first_steps_may_overshoot)
{
    enum { INTERVAL = 3 };
    fixture f;
    REQUIRE(open_fixture(&f, 2));
    f.options.guard_interval = INTERVAL;
    f.options.guard_latent = 1e6f;
    f.options.guard_energy = 1e12f;
    REQUIRE(open_trainer(&f, make_mlp(f.context)));
    for (int step = 1; step <= 2 * INTERVAL; ++step) {
        const float leap = step == INTERVAL || step == 2 * INTERVAL ? 100.0f : 1.0f;
        scale_data(&f, leap);
        OK(f.context, mmebm_trainer_step(f.trainer, f.views));
        CHECK_MSG(diagnostic(&f, "rollbacks") == (step == 2 * INTERVAL), "step %d: %g rollbacks", step,
                  diagnostic(&f, "rollbacks"));
        scale_data(&f, 1.0f / leap);
    }
    close_fixture(&f);
}

/* A step that never was asked about leaves no trace when the trainer goes. */
TEST(a_trainer_may_go_with_a_step_under_way)
{
    fixture f;
    REQUIRE(open_fixture(&f, 2));
    REQUIRE(open_trainer(&f, make_mlp(f.context)));
    OK(f.context, mmebm_trainer_step(f.trainer, f.views));
    mmebm_trainer_destroy(&f.trainer);
    float weights[MAX_WEIGHTS];
    CHECK(read_weights(f.model, "", weights) > 0);
    close_fixture(&f);
}

int main(void)
{
    SKIP_WITHOUT_DEVICE(test_backend());
    RUN(the_gradient_of_the_energy_is_eqn_10);
    RUN(running_statistics_are_means_over_all_terms);
    RUN(mismatched_tuples_are_taught);
    RUN(negatives_of_a_tilted_prior_are_langevin_priors);
    RUN(a_tilted_prior_follows_the_weights_in_recorded_steps);
    RUN(no_update_sees_another);
    RUN(log_p_revised_falls_with_the_length_of_the_revision);
    RUN(threads_change_no_bit);
    RUN(a_bad_step_leaves_nothing_behind);
    RUN(rates_do_not_fall_for_ever);
    RUN(a_failure_is_returned_by_the_call_that_finds_it);
    RUN(the_first_steps_may_overshoot);
    RUN(the_average_never_holds_a_bad_step);
    RUN(a_trainer_may_go_with_a_step_under_way);
    return HARNESS_RESULT();
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * Two contexts in two threads share nothing: each makes a model, trains it and samples from it while the other does the
 * same, and both get the bits of a thread that works alone.
 */
#include <pthread.h>

#include "api_support.h"

enum { ROWS = 8, STEPS = 3, THREADS = 2, REPEATS = 3 };

typedef struct work {
    mmebm_status status; /* of the first call that failed */
    char sentence[256];
    float x[SMALL_MODALITIES][ROWS * 3], energy[ROWS], z[SMALL_MODALITIES * ROWS * SMALL_LATENT];
    double losses[STEPS];
} work;

/* Keeps the first failure. Returns true while all is well. */
static int went_well(work *of, const mmebm_context *context, mmebm_status status)
{
    if (status != MMEBM_OK && of->status == MMEBM_OK) {
        of->status = status;
        if (context) snprintf(of->sentence, sizeof of->sentence, "%s", mmebm_last_error(context));
    }
    return of->status == MMEBM_OK;
}

static void train(work *of, mmebm_context *context, mmebm_model *model, const small_data *data)
{
    mmebm_trainer_options options;
    mmebm_trainer *trainer = NULL;
    if (!went_well(of, context, mmebm_trainer_options_init(&options, "default"))) return;
    options.batch = ROWS;
    options.langevin_x.n_steps = options.langevin_z.n_steps = 4;
    if (went_well(of, context, mmebm_trainer_create(model, &options, &trainer)))
        for (int i = 0; i < STEPS; ++i)
            if (went_well(of, context, mmebm_trainer_step(trainer, data->x)))
                (void)went_well(of, context, mmebm_trainer_diagnostic(trainer, "loss_generator", &of->losses[i]));
    mmebm_trainer_destroy(&trainer);
}

static void sample(work *of, mmebm_context *context, mmebm_model *model, small_data *data)
{
    mmebm_langevin_options chain;
    mmebm_sample_options options;
    if (!went_well(of, context, mmebm_langevin_x_options_init(&chain))) return;
    if (!went_well(of, context, mmebm_sample_options_init(&options))) return;
    options.langevin_x = &chain;
    (void)(went_well(of, context, mmebm_langevin_z(model, NULL, data->x, &data->chains, NULL)) &&
           went_well(of, context, mmebm_sample(model, &options, data->x)) &&
           went_well(of, context, mmebm_energy(model, data->x, &data->energy)));
    for (int i = 0; i < SMALL_MODALITIES; ++i)
        memcpy(of->x[i], data->x_values[i], (size_t)(ROWS * small_sizes[i]) * sizeof(float));
    memcpy(of->energy, data->energy_values, sizeof of->energy);
    memcpy(of->z, data->chains_values, sizeof of->z);
}

static void *do_work(void *argument)
{
    work *of = argument;
    memset(of, 0, sizeof *of);
    mmebm_context *context = NULL;
    mmebm_model *model = NULL;
    small_data data;
    if (went_well(of, NULL, try_open_context(NULL, 2, &context, of->sentence, sizeof of->sentence)) &&
        went_well(of, context, create_small_model(context, &model)) &&
        went_well(of, context, small_data_init(&data, ROWS))) {
        train(of, context, model, &data);
        sample(of, context, model, &data);
    }
    mmebm_model_destroy(&model);
    mmebm_context_destroy(&context);
    return NULL;
}

TEST(two_contexts_in_two_threads)
{
    work alone, together[THREADS];
    do_work(&alone);
    CHECK_MSG(alone.status == MMEBM_OK, "%s", alone.sentence);
    for (int repeat = 0; repeat < REPEATS; ++repeat) {
        pthread_t threads[THREADS];
        int started = 0;
        while (started < THREADS && pthread_create(&threads[started], NULL, do_work, &together[started]) == 0)
            ++started;
        CHECK(started == THREADS);
        for (int i = 0; i < started; ++i) {
            CHECK(pthread_join(threads[i], NULL) == 0);
            CHECK_MSG(!memcmp(&alone, &together[i], sizeof alone), "thread %d: %s", i, together[i].sentence);
        }
    }
}

typedef struct handover {
    mmebm_context *context;
    mmebm_model *model;
    small_data data;
    mmebm_status status;
} handover;

static void *use_and_destroy(void *argument)
{
    handover *of = argument;
    of->status = mmebm_energy(of->model, of->data.x, &of->data.energy);
    mmebm_model_destroy(&of->model);
    mmebm_context_destroy(&of->context);
    return NULL;
}

/* A context belongs to one thread at a time, not to the one that made it. */
TEST(a_context_changes_hands)
{
    handover of = {.context = open_context(NULL)};
    REQUIRE(of.context);
    of.model = small_model(of.context);
    CHECK(of.model && small_data_init(&of.data, ROWS) == MMEBM_OK);
    float before[ROWS];
    CHECK(mmebm_energy(of.model, of.data.x, &of.data.energy) == MMEBM_OK);
    memcpy(before, of.data.energy_values, sizeof before);
    memset(of.data.energy_values, 0, sizeof of.data.energy_values);
    pthread_t thread;
    REQUIRE(pthread_create(&thread, NULL, use_and_destroy, &of) == 0);
    REQUIRE(pthread_join(thread, NULL) == 0);
    CHECK(of.status == MMEBM_OK && !of.model && !of.context);
    CHECK(!memcmp(before, of.data.energy_values, sizeof before));
}

int main(void)
{
    SKIP_WITHOUT_DEVICE(test_backend());
    RUN(two_contexts_in_two_threads);
    RUN(a_context_changes_hands);
    return HARNESS_RESULT();
}

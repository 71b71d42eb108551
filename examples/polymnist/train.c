/* SPDX-License-Identifier: Apache-2.0
 *
 * The training run: settings, batches, checkpoints, and going on where an earlier run stopped.
 *
 * Repeatable by --seed and --steps: batches depend on the seed and the number of the step only (feeder.c), so that this
 * number is the whole place in the data.
 */
#include "train.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "feeder.h"
#include "interrupt.h"
#include "message.h"
#include "progress.h"
#include "settings.h"

enum {
    STATE_MAGIC = 0x504d4e32, /* "PMN2" */
    ASK_INTERVAL = 8,         /* steps */
    UNTIMED_STEPS = 3,        /* of the trial */
    TRIAL_STEPS = 24,
    LEAST_STEPS = 20
};
static const double CHECKPOINT_INTERVAL = 120; /* seconds */
static const double PATIENCE = 1.15; /* a machine that has become slower may take so much longer than --seconds */

/* ---- opening */

static mmebm_status make_model(mmebm_context *context, const options *o, mmebm_model **model)
{
    mmebm_preset_options preset;
    const mmebm_status status = mmebm_preset_options_init(&preset);
    if (status != MMEBM_OK) return status;
    preset.n_modalities = MODALITIES;
    preset.latent_size = o->latent;
    preset.image_size = DIGIT_SIZE;
    preset.channels = CHANNELS;
    preset.nf = o->nf;
    preset.nef = o->nef;
    preset.stem_channels = o->stem;
    preset.hidden = o->hidden;
    preset.seed = o->seed;
    if (o->likelihood_scale > 0) preset.likelihood_scale = (float)o->likelihood_scale;
    return mmebm_model_create_preset(context, settings_networks(o), &preset, model);
}

/* New ones, or those of a file, whose sizes and settings they keep. */
static mmebm_status begin_model(mmebm_context *context, const options *o, mmebm_model **model)
{
    return *o->model ? mmebm_model_load(context, o->model, model) : make_model(context, o, model);
}

/* One step. While a device still works on it, the next batch is painted. Diagnostics wait for the step's end, so they
 * are asked for every ASK_INTERVAL steps only: else the device would stand still while the next batch goes to it.
 * 0 or -1; *status tells of the library's part. */
static int step_with_diagnostics(mmebm_trainer *trainer, feeder *food, uint64_t step, double value[CURVES],
                                 mmebm_status *status)
{
    if (feeder_paint(food, step)) return -1;
    *status = mmebm_trainer_step(trainer, food->batch.view);
    if (*status == MMEBM_OK && feeder_paint(food, step + 1)) return -1;
    for (int c = 0; c < CURVES && *status == MMEBM_OK && step % ASK_INTERVAL == 0; ++c)
        *status = mmebm_trainer_diagnostic(trainer, curve_name[c], &value[c]);
    return *status == MMEBM_OK ? 0 : -1;
}

static int decode_if_asked(const training *t, const options *o, mmebm_model *model, feeder *food)
{
    return o->decoded ? feeder_decode(food, t->context, model, o->precision, (float)o->guidance) : 0;
}

/* Seconds of a step on this machine, by a model that is thrown away. Negative on failure. */
static double time_of_step(const training *t, const options *o)
{
    mmebm_model *model = NULL;
    mmebm_trainer *trainer = NULL;
    mmebm_trainer_options settings;
    feeder food;
    double start = 0, seconds = -1, value[CURVES];
    mmebm_status status = MMEBM_OK;
    int bad = feeder_open(&food, t->digits, t->photos, o->seed, o->batch) || settings_make(o, 1, &settings);
    if (!bad) status = begin_model(t->context, o, &model);
    if (!bad && status == MMEBM_OK) bad = decode_if_asked(t, o, model, &food);
    if (!bad && status == MMEBM_OK) status = mmebm_trainer_create(model, &settings, &trainer);
    for (uint64_t i = 0; i < UNTIMED_STEPS + TRIAL_STEPS && status == MMEBM_OK && !bad; ++i) {
        if (i == UNTIMED_STEPS) start = seconds_now();
        bad = step_with_diagnostics(trainer, &food, i, value, &status);
    }
    if (status == MMEBM_OK && !bad) status = mmebm_trainer_diagnostic(trainer, curve_name[0], &value[0]);
    if (status != MMEBM_OK)
        library_failed(t->context, status, "trying how long a step takes");
    else if (!bad)
        seconds = (seconds_now() - start) / TRIAL_STEPS;
    mmebm_trainer_destroy(&trainer);
    mmebm_model_destroy(&model);
    feeder_close(&food);
    return seconds;
}

static int plan_steps(const training *t, const options *o, uint64_t *steps)
{
    char text[32];
    *steps = o->steps;
    if (*steps == 0) {
        const double seconds = time_of_step(t, o);
        if (seconds < 0) return -1;
        *steps = (uint64_t)(o->seconds / (seconds + 1e-9));
        if (*steps < LEAST_STEPS) *steps = LEAST_STEPS;
        note("A step of %u tuples takes %.0f ms here: %llu steps in %s.", o->batch, 1000 * seconds,
             (unsigned long long)*steps, seconds_text(o->seconds, text));
    }
    return 0;
}

static int start(const options *o, training *t)
{
    uint64_t steps;
    mmebm_status status;
    if (plan_steps(t, o, &steps)) return -1;
    t->state = (run_state){.magic = STATE_MAGIC, .size = sizeof t->state, .nf = o->nf, .nef = o->nef, .stem = o->stem,
                           .hidden = o->hidden, .latent = o->latent, .tuples = t->digits->count,
                           .likelihood_scale = o->likelihood_scale, .steps = steps};
    snprintf(t->state.preset, sizeof t->state.preset, "%s", o->preset);
    history_start(&t->state.curves);
    if (settings_make(o, steps, &t->state.settings)) return -1;
    settings_log(&t->state.settings);
    status = begin_model(t->context, o, &t->model);
    if (status == MMEBM_OK) status = mmebm_trainer_create(t->model, &t->state.settings, &t->trainer);
    return status == MMEBM_OK ? 0 : library_failed(t->context, status, "making the model and its trainer");
}

static int another_run(const char *out, const char *what, double then, double now)
{
    failed("the run in %s has %s %.7g, not %.7g: use another --out, or --fresh to discard it", out, what, then, now);
    return 0;
}

/* A run goes on only with what it was started with. */
static int same_run(const options *o, const training *t)
{
    const run_state *s = &t->state;
    const struct {
        const char *what;
        double then, now;
    } numbers[] = {{"--batch", s->settings.batch, o->batch}, {"--nf", s->nf, o->nf},
                   {"--nef", s->nef, o->nef},                {"--stem", s->stem, o->stem},
                   {"--hidden", s->hidden, o->hidden},       {"--latent", s->latent, o->latent},
                   {"--seed", (double)s->settings.seed, (double)o->seed},
                   {"--likelihood-scale", s->likelihood_scale, o->likelihood_scale},
                   {"the number of digits", s->tuples, t->digits->count},
                   {"--steps", o->steps ? (double)s->steps : 0, (double)o->steps}};
    mmebm_trainer_options wanted;
    const char *name;
    double then, now;
    if (strncmp(s->preset, o->preset, sizeof s->preset) != 0) {
        failed("the run in %s has --preset %.32s, not %s: use another --out, or --fresh to discard it", o->out,
               s->preset, o->preset);
        return 0;
    }
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; ++i)
        if (numbers[i].then != numbers[i].now)
            return another_run(o->out, numbers[i].what, numbers[i].then, numbers[i].now);
    if (settings_make(o, s->settings.schedule_steps, &wanted)) return 0;
    name = settings_difference(&s->settings, &wanted, &then, &now);
    return name ? another_run(o->out, name, then, now) : 1;
}

static int resume(const options *o, training *t)
{
    size_t size = sizeof t->state;
    mmebm_status status = mmebm_trainer_load(t->context, t->checkpoint, &t->model, &t->trainer);
    if (status == MMEBM_OK) status = mmebm_trainer_get_user_state(t->trainer, &t->state, &size);
    if (status != MMEBM_OK) {
        library_failed(t->context, status, "going on with the earlier run");
        return failed("--fresh discards it and starts over");
    }
    if (size != sizeof t->state || t->state.magic != STATE_MAGIC || t->state.size != sizeof t->state)
        return failed("%s was not written by this program; --fresh discards it and starts over", t->checkpoint);
    return same_run(o, t) ? 0 : -1;
}

int training_open(mmebm_context *context, const options *o, const digit_set *digits, const photo *photos, training *t)
{
    int there;
    memset(t, 0, sizeof *t);
    t->context = context;
    t->digits = digits;
    t->photos = photos;
    snprintf(t->checkpoint, sizeof t->checkpoint, "%s/checkpoint.safetensors", o->out);
    if (o->batch > digits->count)
        return failed("--batch %u is more than the %u digits that there are", o->batch, digits->count);
    there = access(t->checkpoint, F_OK) == 0;
    if (there && o->fresh) {
        if (unlink(t->checkpoint)) return failed("cannot remove %s", t->checkpoint);
        there = 0;
    }
    if (!there && o->resume) return failed("there is no run in %s to go on with", o->out);
    return there ? resume(o, t) : start(o, t);
}

void training_close(training *t)
{
    mmebm_trainer_destroy(&t->trainer);
    mmebm_model_destroy(&t->model);
}

/* ---- running */

/* l of the z chain as it is now, for drawing. */
static mmebm_status take_step_size(training *t)
{
    return mmebm_trainer_diagnostic(t->trainer, "step_size_z", &t->state.step_size_z);
}

static int save_checkpoint(training *t)
{
    mmebm_status status = take_step_size(t);
    if (status == MMEBM_OK) status = mmebm_trainer_set_user_state(t->trainer, &t->state, sizeof t->state);
    if (status == MMEBM_OK) status = mmebm_trainer_save(t->trainer, t->checkpoint, NULL);
    return status == MMEBM_OK ? 0 : library_failed(t->context, status, "writing the checkpoint");
}

static int step_once(training *t, feeder *food)
{
    mmebm_status status = MMEBM_OK;
    const int bad = step_with_diagnostics(t->trainer, food, t->state.step, t->state.asked, &status);
    if (status != MMEBM_OK) return library_failed(t->context, status, "a step of the training");
    if (bad) return -1;
    history_add(&t->state.curves, t->state.asked);
    ++t->state.step;
    return 0;
}

/* The mark of training time after `seconds`; far away without --measure-every. */
static double next_mark(const options *o, double seconds)
{
    return o->measure_every > 0 ? (floor(seconds / o->measure_every) + 1) * o->measure_every : INFINITY;
}

/* When the machine has become much slower than in the trial, the run is cut short. */
static void shorten(training *t, const options *o)
{
    if (o->steps || t->state.seconds <= PATIENCE * o->seconds) return;
    note("This machine has become slower since the trial: the training ends at step %llu of %llu.",
         (unsigned long long)t->state.step, (unsigned long long)t->state.steps);
    t->state.steps = t->state.step;
}

static int steps_until_stopped(training *t, const options *o, feeder *food, int (*measure)(void *user), void *user)
{
    double start_time = seconds_now() - t->state.seconds; /* as if trained without a break, measuring left out */
    double saved = seconds_now(), mark = next_mark(o, t->state.seconds);
    progress shown;
    progress_start(&shown, t->state.step);
    while (t->state.step < t->state.steps) {
        if (step_once(t, food)) return TRAINING_FAILED;
        t->state.seconds = seconds_now() - start_time;
        shorten(t, o);
        progress_step(&shown, t->trainer, t->state.step, t->state.steps);
        if (interrupt_came()) return TRAINING_STOPPED;
        if (t->state.seconds >= mark && t->state.step < t->state.steps) { /* the end is measured anyway */
            const double before = seconds_now();
            if (take_step_size(t) != MMEBM_OK || measure(user)) return TRAINING_FAILED;
            start_time += seconds_now() - before;
            mark = next_mark(o, t->state.seconds);
        }
        if (seconds_now() - saved > CHECKPOINT_INTERVAL) {
            if (save_checkpoint(t)) return TRAINING_FAILED;
            saved = seconds_now();
        }
    }
    return TRAINING_DONE;
}

int training_run(training *t, const options *o, int (*measure)(void *user), void *user)
{
    feeder food;
    int result;
    if (feeder_open(&food, t->digits, t->photos, o->seed, o->batch)) return TRAINING_FAILED;
    result = decode_if_asked(t, o, t->model, &food) ? TRAINING_FAILED
                                                    : steps_until_stopped(t, o, &food, measure, user);
    feeder_close(&food);
    if (result != TRAINING_FAILED && save_checkpoint(t)) return TRAINING_FAILED;
    return result;
}

int training_make_model(const training *t, const options *o, mmebm_model **model)
{
    const mmebm_status status = begin_model(t->context, o, model);
    return status == MMEBM_OK ? 0 : library_failed(t->context, status, "making a model for the averaged weights");
}

int training_average(const training *t, mmebm_model *model)
{
    const mmebm_status status = mmebm_trainer_copy_average(t->trainer, model);
    return status == MMEBM_OK ? 0 : library_failed(t->context, status, "taking the averaged weights");
}

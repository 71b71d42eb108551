/* SPDX-License-Identifier: Apache-2.0
 *
 * The PolyMNIST example: what a program that links libmmebm does from data to numbers. Take trained weights, or train
 * (train.c); draw pictures (gallery.c), judge them (evaluate.c), print a table (summary.c).
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "chart.h"
#include "energy.h"
#include "evaluate.h"
#include "fitted_prior.h"
#include "gallery.h"
#include "interrupt.h"
#include "marks.h"
#include "message.h"
#include "options.h"
#include "settings.h"
#include "summary.h"
#include "train.h"
#include "whiten.h"

/* Everything that a run holds. */
typedef struct program {
    options given;
    mmebm_context *context;
    photo photos[MODALITIES];
    digit_set train_digits, test_digits;
    polymnist_set test, fitted_to;
    training run;
    mmebm_model *model; /* what is drawn with: weights from a file, or a training's averages */
    judges panel;
    drawing draw;
    fitted_prior fit;
    measures found;
    char summary[1024]; /* path; the file is written last, so it marks a finished run */
} program;

enum { FAILED = -1, FINISHED = 0, STOPPED = 1 };
enum { CAPACITY = 200 }; /* tuples drawn at once: a GPU wants many, a processor does not mind */

/* The title of the table says which kind of run the folder holds, so that one is not taken for the other. */
static const char trained_here[] = "Weights trained here:", trained_before[] = "Weights of";

static const char *in_out(const program *p, const char *name, char path[1024])
{
    snprintf(path, 1024, "%s/%s", p->given.out, name);
    return path;
}

static void library_log(void *user, int32_t level, const char *line)
{
    (void)user;
    note("libmmebm%s: %s", level <= MMEBM_LOG_WARNING ? " warns" : "", line);
}

static int discard(const char *path)
{
    return unlink(path) && errno != ENOENT ? failed("cannot remove %s: %s", path, strerror(errno)) : 0;
}

static int open_folder(program *p)
{
    char path[1024];
    if (mkdir(p->given.out, 0777) && errno != EEXIST)
        return failed("cannot make the folder %s: %s", p->given.out, strerror(errno));
    in_out(p, "summary.txt", p->summary);
    if (p->given.fresh && discard(p->summary)) return -1;
    if (p->given.fresh && p->given.train && discard(in_out(p, "measures.tsv", path))) return -1;
    return message_open_log(in_out(p, "log.txt", path));
}

static int open_context(program *p)
{
    char message[256] = "";
    mmebm_context_options o;
    mmebm_status status = mmebm_context_options_init(&o);
    o.backend = p->given.backend;
    o.n_threads = p->given.threads;
    o.log = library_log;
    if (status == MMEBM_OK) status = mmebm_context_create(&o, &p->context, message, sizeof message);
    if (status != MMEBM_OK) return failed("opening the library: %s (%s)", message, mmebm_status_name(status));
    if (p->given.precision == MMEBM_PRECISION_AUTO) p->given.precision = mmebm_context_fast_precision(p->context);
    note("libmmebm %s, backend %s (%s), networks in %s", mmebm_version(), mmebm_context_backend(p->context),
         mmebm_context_device(p->context), p->given.precision == MMEBM_PRECISION_BF16 ? "bf16" : "f32");
    return 0;
}

static int read_data(program *p)
{
    const options *o = &p->given;
    char path[1024];
    for (int m = 0; m < MODALITIES; ++m) {
        snprintf(path, sizeof path, "%s/background_%d.jpg", o->data, m);
        if (photo_read(path, &p->photos[m])) return -1;
    }
    if (digit_set_read(o->mnist, "t10k", &p->test_digits) ||
        polymnist_build(&p->test_digits, p->photos, o->seed, &p->test))
        return -1;
    if (digit_set_read(o->mnist, "train", &p->train_digits) ||
        polymnist_build(&p->train_digits, p->photos, o->seed, &p->fitted_to))
        return -1;
    if (o->train) note("PolyMNIST to train on: %u tuples from %s", p->train_digits.count, o->mnist);
    note("PolyMNIST to judge by: %u tuples from %s", p->test.count, o->mnist);
    return judges_load(p->context, o->data, &p->panel);
}

/* ---- weights */

static mmebm_status set_chain_z(program *p, const mmebm_trainer_options *settings, double step_size)
{
    const mmebm_status status = settings_chain_z(settings, step_size, &p->draw.chain_z);
    if (p->given.z_steps) p->draw.chain_z.n_steps = p->given.z_steps;
    return status;
}

static mmebm_status set_chain_prior(program *p, const mmebm_trainer_options *settings)
{
    const mmebm_status status = settings_chain_prior(settings, &p->draw.chain_prior);
    if (p->given.prior_steps) p->draw.chain_prior.n_steps = p->given.prior_steps;
    if (p->given.temperature > 0) p->draw.chain_prior.prior_temperature = (float)p->given.temperature;
    return status;
}

/* p->model is there. step_size: of langevin_z */
static int prepare_drawing(program *p, const mmebm_trainer_options *settings, double step_size)
{
    mmebm_sampler_options o;
    mmebm_status status;
    p->draw = (drawing){.context = p->context, .latent_size = mmebm_model_latent_size(p->model), .seed = p->given.seed,
                        .guidance = (float)p->given.guidance, .judged = p->given.judged};
    status = mmebm_sampler_options_init(&o);
    o.capacity = CAPACITY;
    o.precision = p->given.precision;
    if (status == MMEBM_OK) status = mmebm_sampler_create(p->model, &o, &p->draw.sampler);
    if (status == MMEBM_OK) status = settings_chain_x(settings, &p->draw.chain_x);
    if (status == MMEBM_OK) status = set_chain_z(p, settings, step_size);
    if (status == MMEBM_OK) status = set_chain_prior(p, settings);
    return status == MMEBM_OK ? 0 : library_failed(p->context, status, "preparing to draw");
}

/* To the weights as they are. */
static int fit_prior(program *p)
{
    fitted_prior_free(&p->fit);
    return fitted_prior_make(&p->draw, &p->fitted_to, &p->fit);
}

static int save_model(program *p)
{
    char path[1024];
    mmebm_save_options o;
    mmebm_status status = mmebm_save_options_init(&o);
    o.dtype = p->given.save_bf16 ? MMEBM_BF16 : MMEBM_F32;
    if (status == MMEBM_OK) status = mmebm_model_save(p->model, in_out(p, "model.safetensors", path), &o);
    return status == MMEBM_OK ? 0 : library_failed(p->context, status, "saving the model");
}

/* Adapts l of langevin_z, unless it is given or fixed. 0 or -1. */
static int adapt_chain_z(program *p, const mmebm_trainer_options *settings)
{
    if (p->given.z_step > 0 || settings->langevin_z.method != MMEBM_MALA) return 0;
    return adapt_step_size(&p->draw, &p->test, settings->mala_target);
}

/* Renames latents if asked, and finds the l of langevin_z that suits them. 0 or -1. */
static int settle_latents(program *p, const mmebm_trainer_options *settings)
{
    if (p->given.whiten && whiten_latents(p->context, p->model, p->draw.sampler, &p->fitted_to)) return -1;
    return adapt_chain_z(p, settings);
}

/* Trained weights from a file. */
static int load_weights(program *p)
{
    const options *o = &p->given;
    mmebm_trainer_options settings;
    mmebm_status status;
    const double step_size = o->z_step > 0 ? o->z_step : 0.1; /* to begin with */
    status = mmebm_model_load(p->context, o->model, &p->model);
    if (status != MMEBM_OK) return library_failed(p->context, status, "loading trained weights");
    if (mmebm_model_modality_count(p->model) != MODALITIES)
        return failed("%s is a model of %u modalities, wanted %d pictures of 28 x 28", o->model,
                      mmebm_model_modality_count(p->model), MODALITIES);
    note("Weights of %s", o->model);
    if (o->energy && energy_take(p->context, p->model, o->energy)) return -1;
    if (settings_make(o, 1, &settings) || prepare_drawing(p, &settings, step_size)) return -1;
    if (settle_latents(p, &settings)) return -1;
    return (o->whiten || o->energy) && save_model(p) ? -1 : 0;
}

/* The averages of the training as it stands, ready to draw with, and saved. */
static int take_average(program *p)
{
    const run_state *state = &p->run.state;
    const double step_size = p->given.z_step > 0 ? p->given.z_step : state->step_size_z;
    mmebm_status status;
    if (!p->model && training_make_model(&p->run, &p->given, &p->model)) return -1;
    if (training_average(&p->run, p->model)) return -1;
    if (!p->draw.sampler && prepare_drawing(p, &state->settings, step_size)) return -1;
    status = set_chain_z(p, &state->settings, step_size);
    if (status != MMEBM_OK) return library_failed(p->context, status, "preparing to draw");
    return settle_latents(p, &state->settings) || save_model(p) ? -1 : 0;
}

static int write_mark(program *p)
{
    const mmebm_trainer *trainer = p->run.trainer;
    mark at = {.step = p->run.state.step, .seconds = p->run.state.seconds};
    char path[1024];
    mmebm_status status = mmebm_trainer_diagnostic(trainer, "rollbacks", &at.rollbacks);
    if (status == MMEBM_OK) status = mmebm_trainer_diagnostic(trainer, "latent_norm", &at.latent_norm);
    if (status == MMEBM_OK) status = mmebm_trainer_diagnostic(trainer, "displacement", &at.displacement);
    if (status == MMEBM_OK) status = mmebm_trainer_diagnostic(trainer, "dE_raw", &at.dE_raw);
    if (status != MMEBM_OK) return library_failed(p->context, status, "asking for diagnostics");
    marks_note(&at, &p->found);
    return marks_append(in_out(p, "measures.tsv", path), &at, &p->found);
}

/* In the middle of the training. */
static int measure_at_mark(void *user)
{
    program *p = user;
    if (take_average(p) || fit_prior(p) ||
        measure_unconditional(&p->draw, &p->fit.mixture, &p->panel, &p->test, &p->found) ||
        measure_conditional(&p->draw, &p->panel, &p->test, &p->found) ||
        measure_energies(&p->draw, &p->test, &p->found))
        return -1;
    return interrupt_came() ? 0 : write_mark(p);
}

/* FINISHED: go on to the results. */
static int train(program *p)
{
    char path[1024];
    const run_state *state = &p->run.state;
    int result = training_open(p->context, &p->given, &p->train_digits, p->photos, &p->run);
    if (result || discard(p->summary)) return FAILED;
    if (state->step < state->steps) {
        note("%s step %llu of %llu. Ctrl-C stops with a checkpoint, and the same command goes on from there.",
             state->step ? "Going on at" : "Training:", (unsigned long long)state->step,
             (unsigned long long)state->steps);
        result = training_run(&p->run, &p->given, measure_at_mark, p);
        if (result == TRAINING_FAILED) return FAILED;
    }
    if (history_write(&state->curves, in_out(p, "losses.tsv", path)) ||
        chart_write(&state->curves, in_out(p, "losses.png", path)))
        return FAILED;
    if (result == TRAINING_STOPPED) {
        note("Stopped at step %llu of %llu; the checkpoint is %s. The same command goes on from there.",
             (unsigned long long)state->step, (unsigned long long)state->steps, p->run.checkpoint);
        return STOPPED;
    }
    return take_average(p) ? FAILED : FINISHED;
}

/* ---- results */

static int draw_pictures(program *p)
{
    note("Drawing pictures into %s", p->given.out);
    return gallery_write(&p->draw, &p->fit.mixture, &p->test, p->given.out);
}

static int judge_the_judges(program *p)
{
    const double *a = p->found.judge_accuracy;
    if (measure_judges(&p->panel, p->context, &p->test, &p->found)) return -1;
    note("Judges: digit classifiers, one for each modality; right on %.3f %.3f %.3f %.3f %.3f of real test pictures",
         a[0], a[1], a[2], a[3], a[4]);
    return 0;
}

static int judge_samples(program *p)
{
    note("Judging samples");
    return measure_unconditional(&p->draw, &p->fit.mixture, &p->panel, &p->test, &p->found);
}

static int judge_filled_in(program *p)
{
    note("Judging pictures filled in from others");
    return measure_conditional(&p->draw, &p->panel, &p->test, &p->found);
}

static int compare_energies(program *p)
{
    return measure_energies(&p->draw, &p->test, &p->found);
}

static int write_summary(program *p)
{
    const run_state *run = &p->run.state;
    char title[1200], time[32];
    if (p->given.train)
        snprintf(title, sizeof title, "%s %s, %llu steps of %u from %u tuples in %s", trained_here, p->given.preset,
                 (unsigned long long)run->step, p->given.batch, run->tuples, seconds_text(run->seconds, time));
    else
        snprintf(title, sizeof title, "%s %s", trained_before, p->given.model);
    if (p->given.train && write_mark(p)) return -1;
    return summary_write(&p->found, title, p->summary);
}

static int results(program *p)
{
    static int (*const stages[])(program *) = {fit_prior,     draw_pictures,   judge_the_judges,
                                               judge_samples, judge_filled_in, compare_energies};
    for (size_t i = 0; i < sizeof stages / sizeof *stages; ++i) {
        if (stages[i](p)) return FAILED;
        if (interrupt_came()) {
            note("Stopped before the results were complete; the same command goes on.");
            return STOPPED;
        }
    }
    if (write_summary(p)) return FAILED;
    note("\nPictures, numbers and log are in %s", p->given.out);
    return FINISHED;
}

static int run(program *p)
{
    int result;
    if (!p->given.train && access(p->given.model, R_OK)) {
        failed("there are no trained weights at %s (%s): name others with --model FILE, or train with --train",
               p->given.model, strerror(errno));
        return FAILED;
    }
    if (open_folder(p)) return FAILED;
    if (p->given.train && summary_show(p->summary, trained_here)) {
        note("\nThis run in %s is finished. To start over, add --fresh; to keep it, choose another folder with --out.",
             p->given.out);
        return FINISHED;
    }
    if (open_context(p) || read_data(p)) return FAILED;
    if (p->given.train)
        result = train(p);
    else
        result = load_weights(p) || discard(p->summary) ? FAILED : FINISHED;
    return result == FINISHED ? results(p) : result;
}

static void close_program(program *p)
{
    mmebm_sampler_destroy(&p->draw.sampler);
    judges_free(&p->panel);
    mmebm_model_destroy(&p->model);
    training_close(&p->run);
    mmebm_context_destroy(&p->context);
    fitted_prior_free(&p->fit);
    polymnist_free(&p->test);
    polymnist_free(&p->fitted_to);
    digit_set_free(&p->train_digits);
    digit_set_free(&p->test_digits);
    for (int m = 0; m < MODALITIES; ++m) photo_free(&p->photos[m]);
    message_close_log();
}

int main(int count, char **words)
{
    static program p; /* zero, and too large for a stack */
    int result;
    switch (options_parse(count, words, &p.given)) {
    case OPTIONS_HELP: return EXIT_SUCCESS;
    case OPTIONS_BAD: return 2;
    default: break;
    }
    interrupt_catch();
    result = run(&p);
    close_program(&p);
    if (result == STOPPED) return 128 + interrupt_came(); /* as a shell reports it */
    return result == FINISHED ? EXIT_SUCCESS : EXIT_FAILURE;
}

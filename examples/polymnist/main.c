/* SPDX-License-Identifier: Apache-2.0
 *
 * The PolyMNIST example: what a program that links libmmebm does from data to numbers. Train (train.c), draw pictures
 * (gallery.c), judge them (evaluate.c), print a table (summary.c).
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "chart.h"
#include "evaluate.h"
#include "gallery.h"
#include "interrupt.h"
#include "message.h"
#include "options.h"
#include "summary.h"
#include "train.h"

/* Everything that a run holds. */
typedef struct program {
    options given;
    mmebm_context *context;
    photo photos[MODALITIES];
    digit_set train_digits, test_digits;
    polymnist_set test;
    training run;
    mmebm_model *model; /* the averaged weights */
    judges panel;
    drawing draw;
    measures found;
    char summary[1024]; /* path; the file is written last, so it marks a finished run */
} program;

enum { FAILED = -1, FINISHED = 0, STOPPED = 1 };

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

static int open_folder(program *p)
{
    char path[1024];
    if (mkdir(p->given.out, 0777) && errno != EEXIST)
        return failed("cannot make the folder %s: %s", p->given.out, strerror(errno));
    in_out(p, "summary.txt", p->summary);
    if (p->given.fresh && unlink(p->summary) && errno != ENOENT) return failed("cannot remove %s", p->summary);
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
    if (digit_set_read(o->mnist, "train", &p->train_digits) || digit_set_read(o->mnist, "t10k", &p->test_digits) ||
        polymnist_build(&p->test_digits, p->photos, o->seed, &p->test))
        return -1;
    note("PolyMNIST from %s: %u tuples to train on, %u to test on", o->mnist, p->train_digits.count, p->test.count);
    return 0;
}

/* FINISHED: go on to the results. */
static int train(program *p)
{
    char path[1024];
    const run_state *state = &p->run.state;
    int result = training_open(p->context, &p->given, &p->train_digits, p->photos, &p->run);
    if (result) return FAILED;
    if (state->step < state->steps) {
        note("%s step %llu of %llu. Ctrl-C stops with a checkpoint, and the same command goes on from there.",
             state->step ? "Going on at" : "Training:", (unsigned long long)state->step,
             (unsigned long long)state->steps);
        result = training_run(&p->run, &p->given);
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
    return FINISHED;
}

static int prepare_drawing(program *p)
{
    char path[1024];
    mmebm_sampler_options o;
    mmebm_status status;
    if (training_result(&p->run, &p->given, &p->model)) return -1;
    p->draw = (drawing){.context = p->context, .seed = p->given.seed};
    status = mmebm_model_save(p->model, in_out(p, "model.safetensors", path), NULL);
    if (status == MMEBM_OK) status = mmebm_sampler_options_init(&o);
    o.precision = p->given.precision;
    if (status == MMEBM_OK) status = mmebm_sampler_create(p->model, &o, &p->draw.sampler);
    if (status == MMEBM_OK) status = training_chain_x(&p->run, &p->draw.chain_x);
    if (status == MMEBM_OK) status = training_chain_z(&p->run, &p->draw.chain_z);
    return status == MMEBM_OK ? 0 : library_failed(p->context, status, "preparing to draw");
}

static int draw_pictures(program *p)
{
    note("Drawing pictures into %s", p->given.out);
    return gallery_write(&p->draw, &p->test, mmebm_model_latent_size(p->model), p->given.out);
}

static int judge_the_judges(program *p)
{
    const double *a = p->found.judge_accuracy;
    if (judges_load(p->context, p->given.data, &p->panel) ||
        measure_judges(&p->panel, p->context, &p->test, &p->found))
        return -1;
    note("Judges: digit classifiers, one for each modality; right on %.3f %.3f %.3f %.3f %.3f of real test pictures",
         a[0], a[1], a[2], a[3], a[4]);
    return 0;
}

static int judge_samples(program *p)
{
    note("Judging samples");
    return measure_unconditional(&p->draw, &p->panel, &p->test, &p->found);
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

static int results(program *p)
{
    static int (*const stages[])(program *) = {prepare_drawing, draw_pictures,   judge_the_judges,
                                               judge_samples,   judge_filled_in, compare_energies};
    for (size_t i = 0; i < sizeof stages / sizeof *stages; ++i) {
        if (stages[i](p)) return FAILED;
        if (interrupt_came()) {
            note("Stopped before the results were complete; the same command goes on from the trained model.");
            return STOPPED;
        }
    }
    if (summary_write(&p->found, &p->run.state, p->summary)) return FAILED;
    note("\nPictures, model and log are in %s", p->given.out);
    return FINISHED;
}

static int run(program *p)
{
    int result;
    if (open_folder(p)) return FAILED;
    if (summary_show(p->summary)) {
        note("\nThis run in %s is finished. To start over, add --fresh; to keep it, choose another folder with --out.",
             p->given.out);
        return FINISHED;
    }
    if (open_context(p) || read_data(p)) return FAILED;
    result = train(p);
    return result == FINISHED ? results(p) : result;
}

static void close_program(program *p)
{
    mmebm_sampler_destroy(&p->draw.sampler);
    judges_free(&p->panel);
    mmebm_model_destroy(&p->model);
    training_close(&p->run);
    mmebm_context_destroy(&p->context);
    polymnist_free(&p->test);
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

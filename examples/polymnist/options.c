/* SPDX-License-Identifier: Apache-2.0
 *
 * The command line: one table of all options, with the lines of --help.
 */
#include "options.h"

#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "message.h"
#include "settings.h"

typedef enum option_kind { TEXT, U32, U64, REAL, PRECISION, FLAG, LIST, MODEL } option_kind;
typedef enum option_use { ALWAYS, TRAINING } option_use;

typedef struct option_row {
    const char *name;
    option_use use;
    option_kind kind;
    size_t offset;
    double least, most; /* of a number */
    const char *help;
} option_row;

#define ROW(name, use, kind, field, least, most, help) {name, use, kind, offsetof(options, field), least, most, help}
static const option_row rows[] = {
    ROW("--model", ALWAYS, MODEL, model, 0, 0,
        "FILE  show these trained weights (DATA/model.safetensors); with --train: begin with them"),
    ROW("--energy", ALWAYS, TEXT, energy, 0, 0, "FILE  but with the energy of these"),
    ROW("--train", ALWAYS, FLAG, train, 0, 0, "train new ones instead"),
    ROW("--data", ALWAYS, TEXT, data, 0, 0, "DIR  photographs, judges, weights and a part of MNIST (examples/data)"),
    ROW("--mnist", ALWAYS, TEXT, mnist, 0, 0, "DIR  take the digits from here, such as the four full-size MNIST files"),
    ROW("--out", ALWAYS, TEXT, out, 0, 0, "DIR  results, checkpoint and log (demo-out)"),
    ROW("--fresh", ALWAYS, FLAG, fresh, 0, 0, "discard the run in --out and start over"),
    ROW("--backend", ALWAYS, TEXT, backend, 0, 0, "NAME  auto, cuda, cpu or reference (auto)"),
    ROW("--threads", ALWAYS, U32, threads, 0, 1024, "N  of the processor; 0 = one for each core (0)"),
    ROW("--precision", ALWAYS, PRECISION, precision, 0, 0, "auto|f32|bf16  auto: bf16 where it is fast (auto)"),
    ROW("--seed", ALWAYS, U64, seed, 0, 1e18, "N  of data, weights and chains (0)"),
    ROW("--judge", ALWAYS, U32, judged, 10, 1e5,
        "N  samples to judge, and 2/5 as many test tuples to fill in (1000)"),
    ROW("--preset", ALWAYS, TEXT, preset, 0, 0,
        "NAME  networks and settings: polymnist (the paper's), polymnist-small, polymnist-long; polymnist-energy: the\n"
        "                     energy of --model FILE alone learns, to tilt its prior by (with --train)"),
    ROW("--set", ALWAYS, LIST, set, 0, 0,
        "NAME=VALUE  another setting of the training and its chains (names below); repeatable"),
    ROW("--whiten", ALWAYS, FLAG, whiten, 0, 0,
        "rename z so that what experts agree on varies as the prior does, pictures stay (with --train always)"),
    ROW("--z-step", ALWAYS, REAL, z_step, 1e-6, 100, "X  l of langevin_z when drawing (as trained, else adapted)"),
    ROW("--z-steps", ALWAYS, U32, z_steps, 1, 1e6, "N  steps of langevin_z when filling in (30)"),
    ROW("--temperature", ALWAYS, REAL, temperature, 1e-3, 1e9,
        "X  of the energy where it tilts the prior: langevin_prior, langevin_z (7)"),
    ROW("--prior-steps", ALWAYS, U32, prior_steps, 1, 1e6, "N  steps of langevin_prior (60)"),
    ROW("--guidance", ALWAYS, REAL, guidance, 1e-3, 1e3,
        "X  when filling in, z starts at X times the experts' mean (2)"),
    ROW("--seconds", TRAINING, REAL, seconds, 1, 1e6, "N  train for about so long (330); a trial sets the steps"),
    ROW("--steps", TRAINING, U64, steps, 1, 4e9, "N  train for exactly so many steps: repeatable, unlike --seconds"),
    ROW("--resume", TRAINING, FLAG, resume, 0, 0, "go on with the run in --out, or fail; else: go on if there is one"),
    ROW("--measure-every", TRAINING, REAL, measure_every, 0, 1e6,
        "N  every N seconds of training save the model and add a line to measures.tsv; 0 = at the end (0)"),
    ROW("--save-bf16", ALWAYS, FLAG, save_bf16, 0, 0, "store saved weights in bf16"),
    ROW("--batch", TRAINING, U32, batch, 1, 4096, "N  tuples of a step (polymnist and -long 128, -small 32)"),
    ROW("--latent", TRAINING, U32, latent, 1, 1024, "N  size of z (polymnist 32, others 20)"),
    ROW("--nf", TRAINING, U32, nf, 1, 1024, "N  width of encoders, and of the paper's decoders (32, 32)"),
    ROW("--hidden", TRAINING, U32, hidden, 1, 8192, "N  width of polymnist-small's decoders (256)"),
    ROW("--nef", TRAINING, U32, nef, 1, 1024, "N  width of the energy network (64, 32)"),
    ROW("--stem", TRAINING, U32, stem, 1, 1024, "N  channels of the energy's first layer for each modality (16, 8)"),
    ROW("--likelihood-scale", TRAINING, REAL, likelihood_scale, 1e-3, 1e3, "X  standard deviation of p(x|z) (0.7071)"),
};
enum { ROWS = sizeof rows / sizeof *rows };

static void print_rows(option_use use)
{
    for (int i = 0; i < ROWS; ++i)
        if (rows[i].use == use) printf("  %-18s %s\n", rows[i].name, rows[i].help);
}

static void print_help(void)
{
    puts("usage: polymnist [options]\n"
         "\n"
         "A multimodal energy-based model of PolyMNIST: five pictures of one digit, each on another background.\n"
         "Draws, fills in, revises and judges, and writes pictures and numbers: with trained weights, or with\n"
         "--train with its own. A training interrupted by Ctrl-C leaves a checkpoint, and the same command goes\n"
         "on from there.\n");
    print_rows(ALWAYS);
    puts("  --help             this\n\nOnly with --train:");
    print_rows(TRAINING);
    settings_print_names();
}

static int read_number(const option_row *row, const char *word, double *number)
{
    char *end;
    errno = 0;
    *number = strtod(word, &end);
    if (end == word || *end || errno || !isfinite(*number) || *number < row->least || *number > row->most ||
        (row->kind != REAL && *number != floor(*number)))
        return failed("%s takes a %snumber from %g to %g, not '%s'", row->name, row->kind == REAL ? "" : "whole ",
                      row->least, row->most, word);
    return 0;
}

static int read_precision(const char *word, uint32_t *precision)
{
    static const struct {
        const char *name;
        uint32_t value;
    } known[] = {{"auto", MMEBM_PRECISION_AUTO}, {"f32", MMEBM_PRECISION_F32}, {"bf16", MMEBM_PRECISION_BF16}};
    for (size_t i = 0; i < sizeof known / sizeof *known; ++i) {
        if (strcmp(word, known[i].name) == 0) {
            *precision = known[i].value;
            return 0;
        }
    }
    return failed("--precision is auto, f32 or bf16, not '%s'", word);
}

static int set_option(options *o, const option_row *row, const char *word)
{
    void *field = (char *)o + row->offset;
    double number = 0;
    if (row->kind == U32 || row->kind == U64 || row->kind == REAL) {
        if (read_number(row, word, &number)) return -1;
    }
    switch (row->kind) {
    case TEXT: *(const char **)field = word; break;
    case U32: *(uint32_t *)field = (uint32_t)number; break;
    case U64: *(uint64_t *)field = (uint64_t)number; break;
    case REAL: *(double *)field = number; break;
    case FLAG: *(uint32_t *)field = 1; break;
    case PRECISION: return read_precision(word, field);
    case LIST:
        if (o->sets == SETS_MAX) return failed("%s is taken at most %d times", row->name, SETS_MAX);
        o->set[o->sets++] = word;
        break;
    case MODEL: snprintf(o->model, sizeof o->model, "%s", word); break;
    }
    return 0;
}

/* What can only be seen once all words are read. training_word: an option of the training that was given, or NULL. */
static int complete(options *o, const char *training_word)
{
    mmebm_trainer_options settings;
    if (!o->train && training_word) return failed("%s is an option of the training: add --train", training_word);
    if (o->train && o->energy) return failed("--train makes an energy, --energy takes a trained one: choose one");
    if (o->fresh && o->resume) return failed("--fresh and --resume contradict each other");
    if (!o->mnist) o->mnist = o->data;
    if (!o->preset) o->preset = "polymnist-small";
    if (!o->judged) o->judged = 1000;
    if (!o->train && !*o->model) snprintf(o->model, sizeof o->model, "%s/model.safetensors", o->data);
    if (settings_complete(o) || settings_make(o, 1, &settings)) return -1; /* says now what is wrong with --set */
    if (o->train && o->decoded && (!*o->model || settings.generator.rate > 0 || settings.inference.rate > 0))
        return failed("--preset polymnist-energy wants --model FILE, whose decoders and encoders stay as they are");
    if (o->train) o->whiten = !o->decoded;
    return 0;
}

static const option_row *row_of(const char *word)
{
    for (int i = 0; i < ROWS; ++i)
        if (strcmp(word, rows[i].name) == 0) return &rows[i];
    failed("there is no option '%s'; --help lists them", word);
    return NULL;
}

int options_parse(int count, char **words, options *o)
{
    const char *training_word = NULL;
    *o = (options){.data = "examples/data", .out = "demo-out", .backend = "auto", .precision = MMEBM_PRECISION_AUTO,
                   .seconds = 330, .guidance = 2};
    for (int i = 1; i < count; ++i) {
        const option_row *row;
        if (strcmp(words[i], "--help") == 0 || strcmp(words[i], "-h") == 0) {
            print_help();
            return OPTIONS_HELP;
        }
        row = row_of(words[i]);
        if (!row) return OPTIONS_BAD;
        if (row->kind != FLAG && i + 1 == count) {
            failed("%s wants a value; --help lists the options", row->name);
            return OPTIONS_BAD;
        }
        if (row->use == TRAINING) training_word = row->name;
        if (set_option(o, row, row->kind == FLAG ? "" : words[++i])) return OPTIONS_BAD;
    }
    return complete(o, training_word) ? OPTIONS_BAD : OPTIONS_OK;
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * The command line: one table of all options, with their defaults and the lines of --help.
 */
#include "options.h"

#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "message.h"

typedef enum option_kind { TEXT, U32, U64, SECONDS, PRECISION, FLAG } option_kind;

typedef struct option_row {
    const char *name;
    option_kind kind;
    size_t offset;
    double least, most; /* of a number */
    const char *help;
} option_row;

#define ROW(name, kind, field, least, most, help) {name, kind, offsetof(options, field), least, most, help}
static const option_row rows[] = {
    ROW("--data", TEXT, data, 0, 0, "DIR  photographs, judges and a part of MNIST (examples/data)"),
    ROW("--mnist", TEXT, mnist, 0, 0, "DIR  take the digits from here, such as the four full-size MNIST files"),
    ROW("--out", TEXT, out, 0, 0, "DIR  results, checkpoint and log (demo-out)"),
    ROW("--seconds", SECONDS, seconds, 1, 1e6, "N  train for about so long (330); a trial sets the steps"),
    ROW("--steps", U64, steps, 1, 1e9, "N  train for exactly so many steps: repeatable, unlike --seconds"),
    ROW("--batch", U32, batch, 1, 4096, "N  tuples of a step (32)"),
    ROW("--preset", TEXT, preset, 0, 0, "NAME  networks: polymnist-small or polymnist, the paper's (polymnist-small)"),
    ROW("--nf", U32, nf, 1, 1024, "N  width of encoders, and of the paper's decoders (32)"),
    ROW("--hidden", U32, hidden, 1, 8192, "N  width of polymnist-small's decoders (256)"),
    ROW("--nef", U32, nef, 1, 1024, "N  width of the energy network (32)"),
    ROW("--stem", U32, stem, 1, 1024, "N  channels of the energy's first layer for each modality (8)"),
    ROW("--latent", U32, latent, 1, 1024, "N  size of z (20)"),
    ROW("--seed", U64, seed, 0, 1e18, "N  of data, weights and chains (0)"),
    ROW("--backend", TEXT, backend, 0, 0, "NAME  auto, cpu or reference (auto)"),
    ROW("--threads", U32, threads, 0, 1024, "N  0 = one for each core (0)"),
    ROW("--precision", PRECISION, precision, 0, 0, "auto|f32|bf16  auto: bf16 where the processor has it (auto)"),
    ROW("--resume", FLAG, resume, 0, 0, "go on with the run in --out, or fail; without it: go on if there is one"),
    ROW("--fresh", FLAG, fresh, 0, 0, "discard the run in --out and start over"),
};
enum { ROWS = sizeof rows / sizeof *rows };

static void print_help(void)
{
    puts("usage: polymnist [options]\n"
         "\n"
         "Trains a multimodal energy-based model on PolyMNIST: five pictures of one digit, each on another\n"
         "background. Then draws, fills in, revises and judges, and writes pictures and numbers. Interrupted by\n"
         "Ctrl-C it leaves a checkpoint, and the same command goes on from there.\n");
    for (int i = 0; i < ROWS; ++i) printf("  %-12s %s\n", rows[i].name, rows[i].help);
    puts("  --help       this");
}

static int read_number(const option_row *row, const char *word, double *number)
{
    char *end;
    errno = 0;
    *number = strtod(word, &end);
    if (end == word || *end || errno || !isfinite(*number) || *number < row->least || *number > row->most ||
        (row->kind != SECONDS && *number != floor(*number)))
        return failed("%s takes a %snumber from %g to %g, not '%s'", row->name, row->kind == SECONDS ? "" : "whole ",
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
    if (row->kind == U32 || row->kind == U64 || row->kind == SECONDS) {
        if (read_number(row, word, &number)) return -1;
    }
    switch (row->kind) {
    case TEXT: *(const char **)field = word; break;
    case U32: *(uint32_t *)field = (uint32_t)number; break;
    case U64: *(uint64_t *)field = (uint64_t)number; break;
    case SECONDS: *(double *)field = number; break;
    case FLAG: *(uint32_t *)field = 1; break;
    case PRECISION: return read_precision(word, field);
    }
    return 0;
}

int options_parse(int count, char **words, options *o)
{
    *o = (options){.data = "examples/data", .out = "demo-out", .backend = "auto", .precision = MMEBM_PRECISION_AUTO,
                   .seconds = 330, .preset = "polymnist-small", .batch = 32, .nf = 32, .nef = 32, .stem = 8,
                   .hidden = 256, .latent = 20};
    for (int i = 1; i < count; ++i) {
        const option_row *row = NULL;
        if (strcmp(words[i], "--help") == 0 || strcmp(words[i], "-h") == 0) {
            print_help();
            return OPTIONS_HELP;
        }
        for (int k = 0; k < ROWS && !row; ++k)
            if (strcmp(words[i], rows[k].name) == 0) row = &rows[k];
        if (!row) {
            failed("there is no option '%s'; --help lists them", words[i]);
            return OPTIONS_BAD;
        }
        if (row->kind != FLAG && i + 1 == count) {
            failed("%s wants a value; --help lists the options", row->name);
            return OPTIONS_BAD;
        }
        if (set_option(o, row, row->kind == FLAG ? "" : words[++i])) return OPTIONS_BAD;
    }
    if (!o->mnist) o->mnist = o->data;
    if (o->fresh && o->resume) {
        failed("--fresh and --resume contradict each other");
        return OPTIONS_BAD;
    }
    return OPTIONS_OK;
}

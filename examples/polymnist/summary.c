/* SPDX-License-Identifier: Apache-2.0
 *
 * The closing table. Every coherence stands beside what chance would give and the number of digits that it rests on.
 */
#include "summary.h"

#include <stdio.h>

#include "message.h"

static void row_of_coherence(FILE *out, const char *what, const coherence *c)
{
    if (c->verdict == VERDICT_INVALID)
        fprintf(out, "  %-28s %s\n", what, verdict_text[c->verdict]);
    else
        fprintf(out, "  %-28s %6.3f  %7.4f   %6.3f  %6.3f   %6.1f   %s\n", what, c->agreement, c->chance, c->pairwise,
                c->pairwise_chance, c->agreed_digits, verdict_text[c->verdict]);
}

static void row_of_conditional(FILE *out, const char *what, const conditional *c)
{
    if (!c->valid)
        fprintf(out, "  %-28s %s\n", what, verdict_text[VERDICT_INVALID]);
    else
        fprintf(out, "  %-28s %6.3f  %7.4f   %8u\n", what, c->right, c->chance, c->pictures);
}

static void print_table(FILE *out, const measures *m, const run_state *run)
{
    char text[32];
    fprintf(out, "\nPolyMNIST, %u tuples, %llu steps of %u tuples in %s; judged on %u shuffled test tuples\n",
            run->tuples, (unsigned long long)run->step, run->batch, seconds_text(run->seconds, text), m->test_tuples);
    fprintf(out, "\nDo all five pictures show one digit?  %u tuples\n", m->samples);
    fprintf(out, "  %-28s %6s  %7s   %6s  %6s   %6s\n", "", "all 5", "chance", "pairs", "chance", "digits");
    row_of_coherence(out, "real test tuples", &m->real);
    row_of_coherence(out, "generator samples", &m->generated);
    row_of_coherence(out, "revised by langevin_x", &m->revised);
    fprintf(out, "  (digits: effective number, e^entropy, among the tuples that agree; 10 is best)\n");
    fprintf(out, "\nDo filled-in pictures show the digit that was given?\n");
    fprintf(out, "  %-28s %6s  %7s   %8s\n", "", "right", "chance", "pictures");
    row_of_conditional(out, "from one given", &m->given_one);
    row_of_conditional(out, "from four given, refined", &m->given_four);
    fprintf(out, "\nDoes the energy know what belongs together?  (low = likely)\n");
    if (m->energies_valid)
        fprintf(out, "  mean U: real tuples %.3f, shuffled ones %.3f; real lower in %.3f of pairs, chance 0.5\n",
                m->energy_real, m->energy_shuffled, m->ranked_right);
    else
        fprintf(out, "  %s\n", verdict_text[VERDICT_INVALID]);
    fprintf(out, "\nThe judges' own accuracy on real test pictures, by modality:");
    for (int k = 0; k < MODALITIES; ++k) fprintf(out, " %.3f", m->judge_accuracy[k]);
    fputc('\n', out);
}

int summary_show(const char *path)
{
    char line[512];
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    while (fgets(line, sizeof line, file)) fputs(line, stdout);
    fclose(file);
    return 1;
}

int summary_write(const measures *m, const run_state *run, const char *path)
{
    char line[512];
    FILE *file = fopen(path, "w+");
    if (!file) return failed("cannot write %s", path);
    print_table(file, m, run);
    rewind(file);
    while (fgets(line, sizeof line, file)) {
        for (char *end = line; *end; ++end)
            if (*end == '\n') *end = '\0';
        note("%s", line);
    }
    return fclose(file) ? failed("cannot write %s", path) : 0;
}

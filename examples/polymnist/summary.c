/* SPDX-License-Identifier: Apache-2.0
 *
 * The closing table. Every coherence stands beside its standard error, what chance would give and the number of digits
 * that it rests on.
 */
#include "summary.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "message.h"

static double error_of_share(double share, uint32_t n)
{
    return sqrt(fmax(0, share * (1 - share)) / n);
}

static void row_of_coherence(FILE *out, const char *what, const coherence *c, uint32_t n)
{
    if (c->verdict == VERDICT_INVALID)
        fprintf(out, "  %-25s %s\n", what, verdict_text[c->verdict]);
    else
        fprintf(out, "  %-25s %6.3f +-%.3f %7.4f   %6.3f  %6.3f   %6.1f   %s\n", what, c->agreement,
                error_of_share(c->agreement, n), c->chance, c->pairwise, c->pairwise_chance, c->agreed_digits,
                verdict_text[c->verdict]);
}

static void row_of_gain(FILE *out, const char *what, const gain *g, const coherence *before, const coherence *after)
{
    if (before->verdict != VERDICT_INVALID && after->verdict != VERDICT_INVALID)
        fprintf(out, "  %s - generator samples: %+.4f +-%.4f (from the same z; %u tuples gained, %u lost)\n", what,
                g->mean, g->error, g->gained, g->lost);
}

static void row_of_conditional(FILE *out, const char *what, const conditional *c)
{
    if (!c->valid)
        fprintf(out, "  %-25s %s\n", what, verdict_text[VERDICT_INVALID]);
    else
        fprintf(out, "  %-25s %6.3f +-%.3f %7.4f   %8u  %6u\n", what, c->right, c->error, c->chance, c->pictures,
                c->tuples);
}

static void print_table(FILE *out, const measures *m, const char *title)
{
    const uint32_t real = m->samples < m->test_tuples ? m->samples : m->test_tuples;
    fprintf(out, "%s\nPolyMNIST, judged on %u shuffled test tuples; +- is one standard error\n", title, m->test_tuples);
    fprintf(out, "\nDo all five pictures show one digit?  %u tuples\n", m->samples);
    fprintf(out, "  %-25s %6s         %7s   %6s  %6s   %6s\n", "", "all 5", "chance", "pairs", "chance", "digits");
    row_of_coherence(out, "real test tuples", &m->real, real);
    row_of_coherence(out, "generator samples", &m->generated, m->samples);
    row_of_coherence(out, "revised by langevin_x", &m->revised, m->samples);
    row_of_coherence(out, "tilted by the energy", &m->tilted, m->samples);
    row_of_coherence(out, "samples, fitted prior", &m->fitted, m->samples);
    row_of_coherence(out, "the same, revised", &m->fitted_revised, m->samples);
    row_of_gain(out, "revised", &m->revision, &m->generated, &m->revised);
    row_of_gain(out, "tilted", &m->tilt, &m->generated, &m->tilted);
    fprintf(out, "  (digits: effective number, e^entropy, among the tuples that agree; 10 is best.\n"
                 "  tilted: z from p0, then langevin_prior by the energy of what decoders make of them.\n"
                 "  fitted prior: z from 40 Gaussians fitted to what experts agree on in real tuples, not from p0)\n");
    fprintf(out, "\nDo filled-in pictures show the digit that was given?\n");
    fprintf(out, "  %-25s %6s         %7s   %8s  %6s\n", "", "right", "chance", "pictures", "tuples");
    row_of_conditional(out, "from one given", &m->given_one);
    row_of_conditional(out, "the same, unguided", &m->unguided);
    row_of_conditional(out, "from four given", &m->given_four);
    row_of_conditional(out, "the same, refined", &m->refined);
    row_of_conditional(out, "refined, prior tilted", &m->tilted_refined);
    fprintf(out, "  (refined: after langevin_z on the four that are given; tilted: which the energy takes part in.)\n");
    fprintf(out, "\nDoes the energy know what belongs together?  (low = likely; %u tuples of each)\n", m->energies);
    if (m->energies_valid)
        fprintf(out, "  mean U: real %.3f, shuffled %.3f; real lower in %.3f +-%.3f of pairs, chance 0.5\n",
                m->energy_real, m->energy_shuffled, m->ranked_right, error_of_share(m->ranked_right, m->energies));
    else
        fprintf(out, "  %s\n", verdict_text[VERDICT_INVALID]);
    fprintf(out, "\nThe judges' own accuracy on real test pictures, by modality:");
    for (int k = 0; k < MODALITIES; ++k) fprintf(out, " %.3f", m->judge_accuracy[k]);
    fputc('\n', out);
}

int summary_show(const char *path, const char *beginning)
{
    char line[512];
    int found = 0;
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    if (fgets(line, sizeof line, file) && strncmp(line, beginning, strlen(beginning)) == 0) {
        found = 1;
        do fputs(line, stdout);
        while (fgets(line, sizeof line, file));
    }
    fclose(file);
    return found;
}

int summary_write(const measures *m, const char *title, const char *path)
{
    char line[512];
    FILE *file = fopen(path, "w+");
    if (!file) return failed("cannot write %s", path);
    print_table(file, m, title);
    rewind(file);
    note("%s", "");
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = '\0';
        note("%s", line);
    }
    return fclose(file) ? failed("cannot write %s", path) : 0;
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * Measures of a training over time: one tab-separated line for each mark and one for the end.
 */
#include "marks.h"

#include <math.h>
#include <stdio.h>

#include "message.h"

static const char names[] =
    "step\tseconds\tgenerated\tgenerated_digits\trevised\trevised_digits\tgenerated_pairs\trevised_pairs\tsamples\t"
    "from_one\tfrom_one_error\tfrom_four\tfrom_four_error\tenergy_real\tenergy_shuffled\tranked_right\trollbacks\t"
    "latent_norm\tdisplacement\tdE_raw\tfitted\tfitted_digits\trefined\trefined_error\ttilted\ttilted_digits\t"
    "tilted_refined\ttilted_refined_error\n";

static double if_valid(int valid, double value)
{
    return valid ? value : NAN;
}

int marks_append(const char *path, const mark *at, const measures *m)
{
    const coherence *g = &m->generated, *r = &m->revised, *f = &m->fitted, *t = &m->tilted;
    const conditional *one = &m->given_one, *four = &m->given_four, *refined = &m->refined;
    const conditional *tilted_refined = &m->tilted_refined;
    const int g_valid = g->verdict != VERDICT_INVALID, r_valid = r->verdict != VERDICT_INVALID;
    const int f_valid = f->verdict != VERDICT_INVALID, t_valid = t->verdict != VERDICT_INVALID;
    FILE *file = fopen(path, "a");
    if (!file) return failed("cannot write %s", path);
    fseek(file, 0, SEEK_END);
    if (ftell(file) == 0) fputs(names, file);
    fprintf(file, "%llu\t%.1f", (unsigned long long)at->step, at->seconds);
    fprintf(file, "\t%.4f\t%.2f", if_valid(g_valid, g->agreement), if_valid(g_valid, g->agreed_digits));
    fprintf(file, "\t%.4f\t%.2f", if_valid(r_valid, r->agreement), if_valid(r_valid, r->agreed_digits));
    fprintf(file, "\t%.4f\t%.4f\t%u", if_valid(g_valid, g->pairwise), if_valid(r_valid, r->pairwise), m->samples);
    fprintf(file, "\t%.4f\t%.4f", if_valid(one->valid, one->right), if_valid(one->valid, one->error));
    fprintf(file, "\t%.4f\t%.4f", if_valid(four->valid, four->right), if_valid(four->valid, four->error));
    fprintf(file, "\t%.4g\t%.4g", m->energy_real, m->energy_shuffled);
    fprintf(file, "\t%.4f", if_valid(m->energies_valid, m->ranked_right));
    fprintf(file, "\t%.0f\t%.4g\t%.4g\t%.4g", at->rollbacks, at->latent_norm, at->displacement, at->dE_raw);
    fprintf(file, "\t%.4f\t%.2f", if_valid(f_valid, f->agreement), if_valid(f_valid, f->agreed_digits));
    fprintf(file, "\t%.4f\t%.4f", if_valid(refined->valid, refined->right), if_valid(refined->valid, refined->error));
    fprintf(file, "\t%.4f\t%.2f", if_valid(t_valid, t->agreement), if_valid(t_valid, t->agreed_digits));
    fprintf(file, "\t%.4f\t%.4f\n", if_valid(tilted_refined->valid, tilted_refined->right),
            if_valid(tilted_refined->valid, tilted_refined->error));
    return fclose(file) ? failed("cannot write %s", path) : 0;
}

void marks_note(const mark *at, const measures *m)
{
    note("At %.0f s, step %llu: all five agree %.3f (%.1f digits), revised %.3f (%.1f), tilted %.3f (%.1f), fitted "
         "prior %.3f (%.1f); from one given %.3f, from four %.3f, refined %.3f, tilted %.3f; real below shuffled "
         "%.3f; latent norm %.1f, dE %+.1f, rollbacks %.0f",
         at->seconds, (unsigned long long)at->step, m->generated.agreement, m->generated.agreed_digits,
         m->revised.agreement, m->revised.agreed_digits, m->tilted.agreement, m->tilted.agreed_digits,
         m->fitted.agreement, m->fitted.agreed_digits, m->given_one.right, m->given_four.right, m->refined.right,
         m->tilted_refined.right, m->ranked_right, at->latent_norm, at->dE_raw, at->rollbacks);
}

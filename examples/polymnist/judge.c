/* SPDX-License-Identifier: Apache-2.0
 *
 * Judging of sampled tuples: digit classifiers read every picture, and a tuple is coherent when all five read the same
 * digit. The verdict says first whether the count means anything at all.
 */
#include "judge.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "message.h"

/* A real modality varies by 0.2 to 0.3 a value; noise that no eye can see by less than this. */
static const double LEAST_VARIATION = 0.01;
/* Fewer than two digits in effect: nearly all samples show one. */
static const double LEAST_DIGITS = 2.0;
/* Agreement must lie this many standard errors above chance to be more than chance. */
static const double STANDARD_ERRORS = 4.0;

const char *const verdict_text[VERDICT_COUNT] = {
    [VERDICT_INVALID] = "INVALID: values that are not finite",
    [VERDICT_CONSTANT] = "CONSTANT: the same picture again and again",
    [VERDICT_COLLAPSED] = "COLLAPSED: fewer than two digits in effect",
    [VERDICT_INCOHERENT] = "INCOHERENT: agreement by chance",
    [VERDICT_COHERENT] = "coherent above chance",
};

int judges_load(mmebm_context *context, const char *folder, judges *panel)
{
    *panel = (judges){{NULL}};
    for (int m = 0; m < MODALITIES; ++m) {
        char path[1024];
        mmebm_status status;
        snprintf(path, sizeof path, "%s/judge_%d.safetensors", folder, m);
        status = mmebm_network_load(context, path, &panel->network[m]);
        if (status != MMEBM_OK) {
            judges_free(panel);
            return library_failed(context, status, "loading a judge");
        }
    }
    return 0;
}

void judges_free(judges *panel)
{
    for (int m = 0; m < MODALITIES; ++m) mmebm_network_destroy(&panel->network[m]);
}

int judge_read(const judges *panel, mmebm_context *context, uint32_t modality, float *pictures, uint32_t n,
               uint8_t *digit)
{
    const int64_t picture_shape[4] = {n, DIGIT_SIZE, DIGIT_SIZE, CHANNELS}, score_shape[2] = {n, DIGIT_CLASSES};
    mmebm_view input, output;
    mmebm_status status;
    float *score = malloc((size_t)n * DIGIT_CLASSES * sizeof *score);
    if (!score) return failed("no memory to judge %u pictures", n);
    status = mmebm_view_init(&input, pictures, 4, picture_shape);
    if (status == MMEBM_OK) status = mmebm_view_init(&output, score, 2, score_shape);
    if (status == MMEBM_OK) status = mmebm_network_forward(panel->network[modality], &input, &output);
    for (uint32_t i = 0; status == MMEBM_OK && i < n; ++i) {
        const float *row = score + (size_t)i * DIGIT_CLASSES;
        digit[i] = 0;
        for (uint8_t d = 1; d < DIGIT_CLASSES; ++d)
            if (row[d] > row[digit[i]]) digit[i] = d;
    }
    free(score);
    return status == MMEBM_OK ? 0 : library_failed(context, status, "judging");
}

double effective_number(const double count[DIGIT_CLASSES])
{
    double sum = 0, entropy = 0;
    for (int d = 0; d < DIGIT_CLASSES; ++d) sum += count[d];
    if (sum == 0) return 0;
    for (int d = 0; d < DIGIT_CLASSES; ++d)
        if (count[d] > 0) entropy -= count[d] / sum * log(count[d] / sum);
    return exp(entropy);
}

static int all_finite(const tuples *samples)
{
    for (uint32_t m = 0; m < MODALITIES; ++m)
        for (size_t i = 0; i < (size_t)samples->n * PICTURE_VALUES; ++i)
            if (!isfinite(samples->x[m][i])) return 0;
    return 1;
}

/* Root mean square distance from the mean picture of the set. */
static double variation(const tuples *samples, uint32_t modality)
{
    const float *x = samples->x[modality];
    double squares = 0;
    for (size_t value = 0; value < PICTURE_VALUES; ++value) {
        double mean = 0, square = 0;
        for (uint32_t i = 0; i < samples->n; ++i) mean += (double)x[i * (size_t)PICTURE_VALUES + value] / samples->n;
        for (uint32_t i = 0; i < samples->n; ++i) {
            const double distance = (double)x[i * (size_t)PICTURE_VALUES + value] - mean;
            square += distance * distance / samples->n;
        }
        squares += square / PICTURE_VALUES;
    }
    return sqrt(squares);
}

static int all_agree(const uint8_t *const digit[MODALITIES], uint32_t i)
{
    int agree = 1;
    for (int m = 1; m < MODALITIES; ++m) agree &= digit[m][i] == digit[0][i];
    return agree;
}

static void count_agreement(const uint8_t *const digit[MODALITIES], uint32_t n, coherence *c)
{
    double agreed[DIGIT_CLASSES] = {0};
    uint64_t equal_pairs = 0;
    for (uint32_t i = 0; i < n; ++i) {
        int pairs = 0;
        for (int a = 0; a < MODALITIES; ++a)
            for (int b = a + 1; b < MODALITIES; ++b) pairs += digit[a][i] == digit[b][i];
        equal_pairs += (uint64_t)pairs;
        if (all_agree(digit, i)) {
            c->agreement += 1.0 / n;
            agreed[digit[0][i]] += 1;
        }
    }
    c->pairwise = (double)equal_pairs / (n * (MODALITIES * (MODALITIES - 1) / 2.0));
    c->agreed_digits = effective_number(agreed);
}

/* From the shares of the digits in each modality alone. */
static void count_chance(const uint8_t *const digit[MODALITIES], uint32_t n, coherence *c)
{
    double count[MODALITIES][DIGIT_CLASSES] = {{0}};
    for (int m = 0; m < MODALITIES; ++m) {
        for (uint32_t i = 0; i < n; ++i) count[m][digit[m][i]] += 1;
        c->read_digits += effective_number(count[m]) / MODALITIES;
    }
    for (int d = 0; d < DIGIT_CLASSES; ++d) {
        double product = 1;
        for (int a = 0; a < MODALITIES; ++a) {
            product *= count[a][d] / n;
            for (int b = a + 1; b < MODALITIES; ++b)
                c->pairwise_chance += count[a][d] / n * (count[b][d] / n) / (MODALITIES * (MODALITIES - 1) / 2.0);
        }
        c->chance += product;
    }
}

static verdict decide(const coherence *c, uint32_t n)
{
    const double error = sqrt(c->chance * (1 - c->chance) / n);
    if (c->least_variation < LEAST_VARIATION) return VERDICT_CONSTANT;
    if (c->read_digits < LEAST_DIGITS) return VERDICT_COLLAPSED;
    if (c->agreement <= c->chance + STANDARD_ERRORS * error) return VERDICT_INCOHERENT;
    if (c->agreed_digits < LEAST_DIGITS) return VERDICT_COLLAPSED;
    return VERDICT_COHERENT;
}

coherence coherence_of(const tuples *samples, const uint8_t *const digit[MODALITIES])
{
    coherence c = {.verdict = VERDICT_INVALID};
    if (samples->n == 0 || !all_finite(samples)) return c;
    c.least_variation = variation(samples, 0);
    for (uint32_t m = 1; m < MODALITIES; ++m) c.least_variation = fmin(c.least_variation, variation(samples, m));
    count_agreement(digit, samples->n, &c);
    count_chance(digit, samples->n, &c);
    c.verdict = decide(&c, samples->n);
    return c;
}

int coherence_judge(const judges *panel, mmebm_context *context, const tuples *samples, coherence *result,
                    uint8_t *agrees)
{
    const uint32_t n = samples->n;
    uint8_t *memory;
    const uint8_t *digit[MODALITIES];
    int bad = 0;
    *result = (coherence){.verdict = VERDICT_INVALID};
    if (agrees) memset(agrees, 0, n);
    if (!all_finite(samples)) return 0;
    memory = malloc((size_t)MODALITIES * n);
    if (!memory) return failed("no memory to judge %u tuples", n);
    for (uint32_t m = 0; m < MODALITIES && !bad; ++m) {
        digit[m] = memory + (size_t)m * n;
        bad = judge_read(panel, context, m, samples->x[m], n, memory + (size_t)m * n);
    }
    if (!bad) *result = coherence_of(samples, digit);
    for (uint32_t i = 0; agrees && i < n && !bad; ++i) agrees[i] = (uint8_t)all_agree(digit, i);
    free(memory);
    return bad;
}

gain gain_of(const uint8_t *before, const uint8_t *after, uint32_t n)
{
    gain g = {0, 0, 0, 0};
    for (uint32_t i = 0; i < n; ++i) {
        g.gained += after[i] && !before[i];
        g.lost += before[i] && !after[i];
    }
    g.mean = ((double)g.gained - g.lost) / n;
    g.error = sqrt(((double)g.gained + g.lost - n * g.mean * g.mean) / n / n);
    return g;
}

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef POLYMNIST_JUDGE_H
#define POLYMNIST_JUDGE_H

#include "tuples.h"

/* One digit classifier for each modality. */
typedef struct judges {
    mmebm_network *network[MODALITIES];
} judges;

/* Loads <folder>/judge_0.safetensors ... judge_4.safetensors. 0 or -1. */
int judges_load(mmebm_context *context, const char *folder, judges *panel);
void judges_free(judges *panel);

/* What judge `modality` reads in n pictures: digit[i], 0..9. 0 or -1. */
int judge_read(const judges *panel, mmebm_context *context, uint32_t modality, float *pictures, uint32_t n,
               uint8_t *digit);

/* What a set of sampled tuples is worth, worst first. */
typedef enum verdict {
    VERDICT_INVALID,    /* a value is not finite: nothing is counted */
    VERDICT_CONSTANT,   /* a modality shows the same picture again and again */
    VERDICT_COLLAPSED,  /* fewer than two digits, by the effective number */
    VERDICT_INCOHERENT, /* the judges agree no more often than they would by chance */
    VERDICT_COHERENT,
    VERDICT_COUNT
} verdict;

extern const char *const verdict_text[VERDICT_COUNT];

/* Coherence of n tuples without a given digit. A broken model can reach 1.0 in `agreement`: constant pictures are all
 * read as one digit. So it is never printed without the effective number of digits, the agreement that chance would
 * give, and the verdict. */
typedef struct coherence {
    verdict verdict;
    double agreement;        /* share of tuples in which all five judges read the same digit */
    double chance;           /* the same if modalities were independent: sum_d prod_m (share of d in modality m) */
    double pairwise;         /* mean share of agreeing pairs of judges */
    double pairwise_chance;
    double agreed_digits;    /* e^entropy of the digit among agreeing tuples, 0 without any; 10 is best */
    double read_digits;      /* e^entropy of the digits read, mean over modalities */
    double least_variation;  /* of a modality: root mean square distance of a value from its mean over the tuples */
} coherence;

/* digit: [5][n], what the judges read. Pure arithmetic, apart from the judges. */
coherence coherence_of(const tuples *samples, const uint8_t *const digit[MODALITIES]);
/* Reads the samples and counts; refuses non-finite samples before any judge sees them. agrees: NULL, or [n] for
 * whether all five judges read the same digit in a tuple. 0 or -1. */
int coherence_judge(const judges *panel, mmebm_context *context, const tuples *samples, coherence *result,
                    uint8_t *agrees);

/* What a revision of the same n tuples adds to their agreement, with its standard error. */
typedef struct gain {
    uint32_t gained, lost; /* tuples that agree only after, only before */
    double mean, error;
} gain;
gain gain_of(const uint8_t *before, const uint8_t *after, uint32_t n);

/* e^entropy of counts; 0 when all are 0. */
double effective_number(const double count[DIGIT_CLASSES]);

#endif

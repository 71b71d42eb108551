/* SPDX-License-Identifier: Apache-2.0
 *
 * check_backend: one program that compares a backend with the reference, operation by operation. Its files:
 *   check_backend.c  options, opening, order         check_layers.c   graphs of one layer
 *   check_models.c   graphs of whole models          check_vectors.c  elementwise operations, sums, optimiser
 *   check_branches.c small graphs of branches        check_chains.c   noise, Langevin, Metropolis
 *   check_random.c   graphs drawn at random          check_experts.c  mixture, draws from experts
 *   check_build.h    layers of small graphs          check_plan.h     comparing plans, and their laws
 *   check_op.h       running and comparing vector operations
 */
#ifndef MMEBM_TEST_CHECK_H
#define MMEBM_TEST_CHECK_H

#include "../harness.h"
#include "plans.h"

enum { TESTED_SIDES = 3 /* the backend with 1, 2 and 3 threads */ };

typedef struct check_setting {
    const char *backend;
    uint32_t precision; /* MMEBM_PRECISION_F32, _BF16 or _TF32 */
    uint64_t seed;
    const char *only; /* runs only families whose names contain this; NULL = all */
    int verbose;      /* prints the largest error of every comparison as a share of its bound */
    int once;         /* plans are compared, their laws left out: instruments slow a run a thousandfold */
    int plain;        /* a backend of plain loops: it has no tiles, and would take minutes for many rows */
    side reference, tested[TESTED_SIDES];
} check_setting;

extern check_setting setting;

/* Each runs its families and returns EXIT_SUCCESS or EXIT_FAILURE. */
int check_layers(void);
int check_models(void);
int check_branches(void);
int check_random(void);
int check_vectors(void);
int check_chains(void);
int check_experts(void);

#define RUN_SELECTED(family)                                                                       \
    do {                                                                                           \
        if (!setting.only || strstr(#family, setting.only)) RUN(family);                           \
    } while (0)

static const double UNIT_F32 = 0x1p-24; /* half a unit in the last place: the largest relative error of a rounding */
static const double UNIT_BF16 = 0x1p-9, UNIT_TF32 = 0x1p-11;

static inline void report_share(const char *what, const char *part, double share)
{
    if (setting.verbose) printf("  %s: %s: %.3g of the bound\n", what, part, share);
}

#endif /* MMEBM_TEST_CHECK_H */

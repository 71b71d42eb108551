/* SPDX-License-Identifier: Apache-2.0
 *
 * One Langevin chain, written once for both spaces: it moves some inputs of an energy graph down the energy's
 * gradient, with noise (Eqns 3, 8, 17). langevin_x runs it on U over x_1..x_M, langevin_z on the posterior graph
 * over z with x_O as fixed inputs. Used by the sampler and the trainer; calls the backend only.
 */
#ifndef MMEBM_CHAIN_H
#define MMEBM_CHAIN_H

#include "model.h"
#include "sequence.h"

enum { MMEBM_CHAIN_MAX_INPUTS = MMEBM_MAX_LANGEVIN_STEPS };

/* A plan that follows the weights of one part of a model. */
typedef struct mmebm_weighted_plan {
    mmebm_plan *plan;
    const mmebm_part *part;
    uint64_t revision; /* of part when its weights were loaded; 0 = never */
    mmebm_sequence_cache sequences; /* chains on this plan */
} mmebm_weighted_plan;

mmebm_status mmebm__plan_open(mmebm_context *context, const mmebm_plan_spec *spec, const mmebm_part *part,
                              mmebm_weighted_plan *plan);
void mmebm__plan_close(mmebm_context *context, mmebm_weighted_plan *plan);
/* Loads weights that changed. */
mmebm_status mmebm__plan_refresh(mmebm_context *context, mmebm_weighted_plan *plan);
/* The same, then runs. */
mmebm_status mmebm__plan_run(mmebm_context *context, mmebm_weighted_plan *plan, const mmebm_plan_run *run);

typedef struct mmebm_chain_input {
    float *value;    /* device [rows, size], or [period, size] when it does not move */
    int64_t period;
    int64_t size;
    float *gradient; /* device [rows, size]; NULL = this input stays as it is */
    const float *scales; /* device: l, n */
    uint32_t stream; /* of its noise */
} mmebm_chain_input;

typedef struct mmebm_chain {
    mmebm_context *context;
    mmebm_weighted_plan *plan; /* the energy is output 0 */
    uint32_t input_count;
    mmebm_chain_input inputs[MMEBM_CHAIN_MAX_INPUTS];
    const uint64_t *key; /* device: seed, first chain */
    float *energy;       /* device [rows] */
    int recorded;        /* 1 = inside calls that are recorded as a whole already */
    /* MALA moves input 0 only and needs a second state: */
    float *proposal, *proposal_gradient, *proposal_energy, *accepted;
} mmebm_chain;

typedef struct mmebm_chain_rule {
    uint32_t n_steps, method;
    mmebm_drift drift;
    float state_min, state_max;
} mmebm_chain_rule;

/* Called with the state and its energy current, k = 0 .. n_steps. */
typedef mmebm_status (*mmebm_chain_observer)(void *user, uint32_t k);

/* Runs the chain on `rows` rows; row r draws as chain key[1] + r % period of stream + r / period. */
mmebm_status mmebm__chain_run(const mmebm_chain *chain, const mmebm_chain_rule *rule, int64_t rows, int64_t period,
                              mmebm_chain_observer observer, void *user);

#endif /* MMEBM_CHAIN_H */

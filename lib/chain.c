/* SPDX-License-Identifier: Apache-2.0
 *
 * The Langevin chain of chain.h:
 *     v <- v - (l^2 / 2) dE/dv + n xi                                          ULA, Eqns 3, 8, 17
 *     the same as a proposal, taken with the Metropolis probability            MALA
 * A step under ULA is one plan run (energy and gradient at once) and one update of all moving inputs, which see the
 * gradient at the old state (ruling A11). Called by sampler.c and trainer.c.
 */
#include "chain.h"

#include <string.h>

mmebm_status mmebm__plan_open(mmebm_context *context, const mmebm_plan_spec *spec, const mmebm_part *part,
                              mmebm_weighted_plan *plan)
{
    plan->part = part;
    plan->revision = 0;
    MMEBM_TRY(context->ops->plan_create(context->device, spec, &plan->plan));
    if (!spec->input_gradients) return MMEBM_OK; /* chains need them */
    const mmebm_status status = mmebm__sequence_open(context, &plan->sequences);
    if (status != MMEBM_OK) mmebm__plan_close(context, plan);
    return status;
}

void mmebm__plan_close(mmebm_context *context, mmebm_weighted_plan *plan)
{
    mmebm__sequence_close(context, &plan->sequences);
    if (plan->plan) context->ops->plan_destroy(plan->plan);
    memset(plan, 0, sizeof *plan);
}

mmebm_status mmebm__plan_refresh(mmebm_context *context, mmebm_weighted_plan *plan)
{
    if (plan->revision == plan->part->revision) return MMEBM_OK;
    MMEBM_TRY(context->ops->plan_load_weights(plan->plan, plan->part->weights));
    plan->revision = plan->part->revision;
    return MMEBM_OK;
}

mmebm_status mmebm__plan_run(mmebm_context *context, mmebm_weighted_plan *plan, const mmebm_plan_run *run)
{
    MMEBM_TRY(mmebm__plan_refresh(context, plan));
    return context->ops->plan_run(plan->plan, run);
}

/* Energy and, if asked, its gradient at the state; input 0 may be replaced by `value0`, its gradient by `gradient0`. */
static mmebm_status evaluate(const mmebm_chain *chain, int64_t rows, float *value0, float *gradient0, float *energy,
                             int with_gradient)
{
    mmebm_plan_input inputs[MMEBM_CHAIN_MAX_INPUTS];
    float *gradients[MMEBM_CHAIN_MAX_INPUTS];
    for (uint32_t i = 0; i < chain->input_count; ++i) {
        const mmebm_chain_input *input = &chain->inputs[i];
        inputs[i] = (mmebm_plan_input){input->value, input->period};
        gradients[i] = input->gradient;
    }
    inputs[0].data = value0;
    gradients[0] = gradient0;
    float *outputs[MMEBM_CHAIN_MAX_INPUTS] = {energy};
    const mmebm_plan_seed seeds[MMEBM_CHAIN_MAX_INPUTS] = {{NULL, 1.0f}};
    const mmebm_plan_run run = {
        .rows = rows,
        .inputs = inputs,
        .outputs = energy ? outputs : NULL,
        .seeds = with_gradient ? seeds : NULL,
        .input_gradients = with_gradient ? gradients : NULL,
    };
    return mmebm__plan_run(chain->context, chain->plan, &run);
}

/* Step k of all inputs that move. */
static mmebm_status move_inputs(const mmebm_chain *chain, const mmebm_chain_rule *rule, int64_t rows, int64_t period,
                                uint32_t k)
{
    mmebm_langevin_step steps[MMEBM_MAX_LANGEVIN_STEPS];
    uint32_t count = 0;
    for (uint32_t i = 0; i < chain->input_count; ++i) {
        const mmebm_chain_input *input = &chain->inputs[i];
        if (!input->gradient) continue;
        steps[count++] = (mmebm_langevin_step){
            .rows = rows,
            .size = input->size,
            .state = input->value,
            .gradient = input->gradient,
            .scales = input->scales,
            .drift = rule->drift,
            .state_min = rule->state_min,
            .state_max = rule->state_max,
            .noise = {chain->key, period, input->stream, k},
        };
    }
    return chain->context->ops->langevin(chain->context->device, steps, count);
}

static mmebm_status run_ula(const mmebm_chain *chain, const mmebm_chain_rule *rule, int64_t rows, int64_t period,
                            mmebm_chain_observer observer, void *user)
{
    float *value0 = chain->inputs[0].value;
    for (uint32_t k = 0; k < rule->n_steps; ++k) {
        MMEBM_TRY(evaluate(chain, rows, value0, chain->inputs[0].gradient, observer ? chain->energy : NULL, 1));
        if (observer) MMEBM_TRY(observer(user, k));
        MMEBM_TRY(move_inputs(chain, rule, rows, period, k));
    }
    if (!observer) return MMEBM_OK;
    MMEBM_TRY(evaluate(chain, rows, value0, NULL, chain->energy, 0));
    return observer(user, rule->n_steps);
}

static mmebm_status run_mala(const mmebm_chain *chain, const mmebm_chain_rule *rule, int64_t rows, int64_t period,
                             mmebm_chain_observer observer, void *user)
{
    const mmebm_backend_ops *ops = chain->context->ops;
    mmebm_device *device = chain->context->device;
    const mmebm_chain_input *input = &chain->inputs[0];
    mmebm_mala_step step = {
        .rows = rows,
        .size = input->size,
        .z = input->value,
        .y = chain->proposal,
        .energy = chain->energy,
        .gradient = input->gradient,
        .energy_y = chain->proposal_energy,
        .gradient_y = chain->proposal_gradient,
        .scales = input->scales,
        .drift = rule->drift,
        .accepted = chain->accepted,
    };
    MMEBM_TRY(ops->fill(device, rows, chain->accepted, 0.0f));
    MMEBM_TRY(evaluate(chain, rows, input->value, input->gradient, chain->energy, 1));
    for (uint32_t k = 0; k < rule->n_steps; ++k) {
        if (observer) MMEBM_TRY(observer(user, k));
        step.noise = (mmebm_noise){chain->key, period, input->stream, k};
        MMEBM_TRY(ops->mala_propose(device, &step));
        MMEBM_TRY(evaluate(chain, rows, chain->proposal, chain->proposal_gradient, chain->proposal_energy, 1));
        step.noise.stream = input->stream - MMEBM_STREAM_Z + MMEBM_STREAM_ACCEPT;
        MMEBM_TRY(ops->mala_accept(device, &step));
    }
    return observer ? observer(user, rule->n_steps) : MMEBM_OK;
}

/* ---- recording */

typedef struct chain_calls {
    const mmebm_chain *chain;
    const mmebm_chain_rule *rule;
    int64_t rows, period;
} chain_calls;

static mmebm_status run_calls(void *user)
{
    const chain_calls *calls = user;
    return calls->rule->method == MMEBM_MALA
               ? run_mala(calls->chain, calls->rule, calls->rows, calls->period, NULL, NULL)
               : run_ula(calls->chain, calls->rule, calls->rows, calls->period, NULL, NULL);
}

static void describe_rule(const mmebm_chain_rule *rule, mmebm_sequence_key *key)
{
    const float numbers[] = {rule->drift.factor, rule->drift.clamp, rule->drift.norm_clip, rule->state_min,
                             rule->state_max};
    mmebm__sequence_key_add(key, rule->n_steps);
    mmebm__sequence_key_add(key, rule->method);
    for (unsigned k = 0; k < sizeof numbers / sizeof numbers[0]; ++k) mmebm__sequence_key_add_float(key, numbers[k]);
}

static void describe(const chain_calls *calls, mmebm_sequence_key *key)
{
    const mmebm_chain *chain = calls->chain;
    const void *const memory[] = {chain->key,      chain->energy,   chain->proposal, chain->proposal_gradient,
                                  chain->proposal_energy, chain->accepted};
    key->count = 0;
    mmebm__sequence_key_add(key, (uint64_t)calls->rows);
    mmebm__sequence_key_add(key, (uint64_t)calls->period);
    describe_rule(calls->rule, key);
    for (unsigned k = 0; k < sizeof memory / sizeof memory[0]; ++k) mmebm__sequence_key_add_pointer(key, memory[k]);
    for (uint32_t i = 0; i < chain->input_count; ++i) {
        const mmebm_chain_input *input = &chain->inputs[i];
        mmebm__sequence_key_add_pointer(key, input->value);
        mmebm__sequence_key_add_pointer(key, input->gradient);
        mmebm__sequence_key_add_pointer(key, input->scales);
        mmebm__sequence_key_add(key, (uint64_t)input->period);
        mmebm__sequence_key_add(key, (uint64_t)input->size);
        mmebm__sequence_key_add(key, input->stream);
    }
}

/* A chain that nobody watches is a fixed sequence of backend calls, once its plan has its weights. */
mmebm_status mmebm__chain_run(const mmebm_chain *chain, const mmebm_chain_rule *rule, int64_t rows, int64_t period,
                              mmebm_chain_observer observer, void *user)
{
    chain_calls calls = {chain, rule, rows, period};
    if (observer)
        return rule->method == MMEBM_MALA ? run_mala(chain, rule, rows, period, observer, user)
                                          : run_ula(chain, rule, rows, period, observer, user);
    if (chain->recorded) return run_calls(&calls);
    mmebm_sequence_key key;
    describe(&calls, &key);
    MMEBM_TRY(mmebm__plan_refresh(chain->context, chain->plan));
    return mmebm__sequence_run(chain->context, &chain->plan->sequences, &key, run_calls, &calls);
}

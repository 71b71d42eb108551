/* SPDX-License-Identifier: Apache-2.0
 *
 * What trains which networks: a table of presets with their sizes and their changes to the library's "default" options,
 * and the names by which --set changes single fields.
 */
#include "settings.h"

#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "message.h"

enum {
    CHANGES_MAX = 16,
    REFINEMENT_STEPS = 30, /* of langevin_z when filling in (ruling F9) */
    PRIOR_STEPS = 60       /* of langevin_prior when drawing */
};

/* Of the energy when drawing: colder than in training (docs/training.md, "An energy that learns to tilt"). */
static const float DRAWING_TEMPERATURE = 7;

typedef struct preset_row {
    const char *name, *networks; /* the library's preset */
    int decoded; /* only the energy learns, from what the other networks make of tuples */
    uint32_t batch, nf, nef, stem, hidden, latent;
    double likelihood_scale; /* 0 = the library's */
    const char *change[CHANGES_MAX]; /* as --set takes them, up to the first NULL */
} preset_row;

#define SHORT_CHAINS "langevin_x.n_steps=5", "langevin_z.n_steps=4", "mala_max=0.3", "energy.rate=3e-5"
static const preset_row presets[] = {
    {"polymnist", "polymnist", 0, 128, 32, 64, 16, 128, 32, 0, {NULL}},
    /* high rates: it has minutes on a processor (docs/training.md, "On a CPU") */
    {"polymnist-small", "polymnist-small", 0, 32, 32, 32, 8, 256, 20, 0,
     {SHORT_CHAINS, "generator.rate=0.002", "inference.rate=0.001", "ema=0.99"}},
    /* tens of thousands of steps, on a GPU (docs/training.md, "On a GPU") */
    {"polymnist-long", "polymnist-small", 0, 128, 48, 32, 8, 256, 20, 0.5,
     {SHORT_CHAINS, "stratified=1", "langevin_z.n_steps=12", "mala_target=0.35", "generator.rate=5e-4",
      "inference.rate=2e-4", "weight_inference_revised=0.25", "energy_penalty=3e-5", "guard_energy=20000"}},
    /* of a trained model (docs/training.md, "An energy that learns to tilt") */
    {"polymnist-energy", "polymnist-small", 1, 32, 48, 32, 8, 256, 20, 0.5,
     {"generator.rate=0", "inference.rate=0", "energy.rate=3e-4", "langevin_x.n_steps=0", "prior_temperature=20",
      "langevin_prior.n_steps=30", "ema=0.99", "guard_energy=20000"}},
};

static const preset_row *preset_of(const char *name)
{
    for (size_t i = 0; i < sizeof presets / sizeof *presets; ++i)
        if (strcmp(name, presets[i].name) == 0) return &presets[i];
    failed("--preset is polymnist, polymnist-small, polymnist-long or polymnist-energy, not '%s'", name);
    return NULL;
}

const char *settings_networks(const options *o)
{
    return preset_of(o->preset)->networks;
}

int settings_complete(options *o)
{
    const preset_row *row = preset_of(o->preset);
    if (!row) return -1;
    if (!o->batch) o->batch = row->batch;
    if (!o->nf) o->nf = row->nf;
    if (!o->nef) o->nef = row->nef;
    if (!o->stem) o->stem = row->stem;
    if (!o->hidden) o->hidden = row->hidden;
    if (!o->latent) o->latent = row->latent;
    if (o->likelihood_scale == 0) o->likelihood_scale = row->likelihood_scale;
    o->decoded = (uint32_t)row->decoded;
    return 0;
}

/* ---- fields by name */

typedef struct field {
    const char *name;
    int whole; /* uint32_t; else float */
    size_t offset;
} field;

#define WHOLE(name) {#name, 1, offsetof(mmebm_trainer_options, name)}
#define REAL(name) {#name, 0, offsetof(mmebm_trainer_options, name)}
#define CHAIN(name)                                                                                \
    WHOLE(name.n_steps), WHOLE(name.method), WHOLE(name.reduction), REAL(name.step_size), REAL(name.noise_scale),      \
        REAL(name.drift_clamp), REAL(name.drift_norm_clip)
#define ADAM(name)                                                                                 \
    REAL(name.rate), REAL(name.beta1), REAL(name.beta2), REAL(name.epsilon), REAL(name.clip_norm),                     \
        WHOLE(name.spectral_norm)

/* All but batch, precision and seed, which are options of their own. */
static const field fields[] = {
    WHOLE(stratified),
    CHAIN(langevin_x),
    CHAIN(langevin_z),
    CHAIN(langevin_prior),
    REAL(prior_temperature),
    REAL(mala_target),
    REAL(mala_rate),
    REAL(mala_min),
    REAL(mala_max),
    ADAM(energy),
    ADAM(generator),
    ADAM(inference),
    REAL(weight_reconstruction),
    REAL(weight_synthesis),
    REAL(weight_inference),
    REAL(weight_inference_revised),
    REAL(weight_mismatched),
    REAL(energy_penalty),
    REAL(temperature),
    REAL(data_noise),
    REAL(ema),
    WHOLE(schedule_steps),
    REAL(schedule_end),
    WHOLE(guard_interval),
    WHOLE(guard_tries),
    REAL(guard_rate),
    REAL(guard_loss),
    REAL(guard_energy),
    REAL(guard_latent),
};
enum { FIELDS = sizeof fields / sizeof *fields };

static double value_of(const mmebm_trainer_options *s, const field *f)
{
    const char *at = (const char *)s + f->offset;
    return f->whole ? *(const uint32_t *)at : (double)*(const float *)at;
}

int settings_set(mmebm_trainer_options *s, const char *assignment)
{
    const char *equals = strchr(assignment, '=');
    const size_t length = equals ? (size_t)(equals - assignment) : 0;
    double number;
    char *end;
    const field *f = NULL;
    if (!equals) return failed("--set takes NAME=VALUE, not '%s'", assignment);
    for (int i = 0; i < FIELDS && !f; ++i)
        if (strlen(fields[i].name) == length && memcmp(fields[i].name, assignment, length) == 0) f = &fields[i];
    if (!f) return failed("--set knows no '%.*s'; --help lists the names", (int)length, assignment);
    errno = 0;
    number = strtod(equals + 1, &end);
    if (end == equals + 1 || *end || errno || !isfinite(number) || fabs(number) > 3e38)
        return failed("--set %s wants a number, not '%s'", f->name, equals + 1);
    if (f->whole && (number < 0 || number > UINT32_MAX || number != floor(number)))
        return failed("--set %s wants a whole number from 0 on, not '%s'", f->name, equals + 1);
    if (f->whole)
        *(uint32_t *)((char *)s + f->offset) = (uint32_t)number;
    else
        *(float *)((char *)s + f->offset) = (float)number;
    return 0;
}

int settings_make(const options *o, uint64_t steps, mmebm_trainer_options *s)
{
    const preset_row *row = preset_of(o->preset);
    if (!row) return -1;
    if (mmebm_trainer_options_init(s, "default") != MMEBM_OK) return failed("the library refuses its own defaults");
    s->batch = o->batch;
    s->precision = o->precision;
    s->seed = o->seed;
    s->schedule_steps = (uint32_t)steps;
    for (int i = 0; i < CHANGES_MAX && row->change[i]; ++i)
        if (settings_set(s, row->change[i])) return -1;
    for (uint32_t i = 0; i < o->sets; ++i)
        if (settings_set(s, o->set[i])) return -1;
    return 0;
}

const char *settings_difference(const mmebm_trainer_options *a, const mmebm_trainer_options *b, double *in_a,
                                double *in_b)
{
    for (int i = 0; i < FIELDS; ++i) {
        *in_a = value_of(a, &fields[i]);
        *in_b = value_of(b, &fields[i]);
        if (*in_a != *in_b) return fields[i].name;
    }
    return NULL;
}

static void take_over(const mmebm_training_chain *trained, mmebm_langevin_options *chain)
{
    chain->n_steps = trained->n_steps;
    chain->step_size = trained->step_size;
    chain->noise_scale = trained->noise_scale;
    chain->drift_clamp = trained->drift_clamp;
    chain->drift_norm_clip = trained->drift_norm_clip;
}

mmebm_status settings_chain_x(const mmebm_trainer_options *s, mmebm_langevin_options *chain)
{
    const mmebm_status status = mmebm_langevin_x_options_init(chain);
    take_over(&s->langevin_x, chain);
    return status;
}

mmebm_status settings_chain_z(const mmebm_trainer_options *s, double step_size, mmebm_langevin_options *chain)
{
    const mmebm_status status = mmebm_langevin_z_options_init(chain);
    take_over(&s->langevin_z, chain);
    chain->n_steps = REFINEMENT_STEPS;
    chain->method = s->langevin_z.method;
    chain->reduction = s->langevin_z.reduction;
    if (chain->method == MMEBM_MALA) chain->step_size = chain->noise_scale = (float)step_size;
    return status;
}

mmebm_status settings_chain_prior(const mmebm_trainer_options *s, mmebm_langevin_options *chain)
{
    const mmebm_status status = mmebm_langevin_z_options_init(chain);
    take_over(&s->langevin_prior, chain);
    chain->n_steps = PRIOR_STEPS;
    chain->prior_temperature = DRAWING_TEMPERATURE;
    return status;
}

void settings_log(const mmebm_trainer_options *s)
{
    note_in_log("Settings of the training:");
    for (int i = 0; i < FIELDS; ++i) note_in_log("  %s=%.7g", fields[i].name, value_of(s, &fields[i]));
}

void settings_print_names(void)
{
    int column = 0;
    puts("\nNames for --set (fields of mmebm_trainer_options, docs/training.md):");
    for (int i = 0; i < FIELDS; ++i) {
        const int length = (int)strlen(fields[i].name) + 2;
        if (column + length > 100) column = 0;
        if (column == 0) fputs(i ? "\n " : " ", stdout);
        column += printf(" %s", fields[i].name);
    }
    putchar('\n');
}

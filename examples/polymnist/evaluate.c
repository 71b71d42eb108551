/* SPDX-License-Identifier: Apache-2.0
 *
 * The numbers at the end: coherence of samples drawn without anything given, of pictures filled in from one and from
 * four given ones, and energies of real against shuffled tuples. The test set is shuffled (polymnist.c), so that a part
 * of it shows all digits.
 */
#include "evaluate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "interrupt.h"
#include "message.h"
#include "random.h"

enum {
    PORTION = 200,        /* tuples held at once */
    ADAPTING_TUPLES = 24, /* one chain each, for so many rounds of so many steps */
    ADAPTING_ROUNDS = 10,
    ADAPTING_STEPS = 5,
    STREAM_SHUFFLED = 200 /* random stream of the shuffled tuples */
};

static uint32_t at_most(uint32_t wanted, uint32_t there)
{
    return wanted < there ? wanted : there;
}

/* ---- drawing */

int draw_given(const drawing *d, uint64_t observed, const mmebm_langevin_options *chain, uint64_t first_chain,
               tuples *x)
{
    mmebm_sample_options o;
    mmebm_status status = mmebm_sample_options_init(&o);
    o.seed = d->seed;
    o.first_chain = first_chain;
    o.observed = observed;
    o.start = MMEBM_START_AVERAGE; /* half of the draws from an expert show another digit (docs/training.md) */
    o.guidance = d->guidance;
    o.langevin_z = chain;
    if (status == MMEBM_OK) status = mmebm_sampler_sample_given(d->sampler, &o, x->view);
    return status == MMEBM_OK ? 0 : library_failed(d->context, status, "filling in what is missing");
}

int draw_samples(const drawing *d, sample_kind kind, uint64_t first_chain, tuples *x)
{
    mmebm_sample_options o;
    mmebm_status status = mmebm_sample_options_init(&o);
    o.seed = d->seed;
    o.first_chain = first_chain;
    o.langevin_x = kind == REVISED ? &d->chain_x : NULL;
    o.langevin_z = kind == TILTED ? &d->chain_prior : NULL;
    o.prior = d->prior;
    if (status == MMEBM_OK) status = mmebm_sampler_sample(d->sampler, &o, x->view);
    return status == MMEBM_OK ? 0 : library_failed(d->context, status, "drawing samples");
}

int adapt_step_size(drawing *d, const polymnist_set *test, double target)
{
    tuples x;
    mmebm_view z;
    mmebm_chain_record record;
    mmebm_langevin_options chain = d->chain_z;
    const int64_t shape[3] = {1, at_most(ADAPTING_TUPLES, test->count), d->latent_size};
    float *states = malloc(sizeof *states * ADAPTING_TUPLES * d->latent_size);
    mmebm_status status = mmebm_chain_record_init(&record);
    if (!states || tuples_create(&x, (uint32_t)shape[1])) {
        free(states);
        return failed("no memory to adapt langevin_z");
    }
    tuples_paint(&x, test, NULL, 0);
    if (status == MMEBM_OK) status = mmebm_view_init(&z, states, 3, shape);
    chain.n_steps = ADAPTING_STEPS;
    chain.seed = d->seed;
    if (status == MMEBM_OK)
        status = mmebm_sampler_encode_draw(d->sampler, 1, MMEBM_START_SAMPLE, d->seed, 0, x.view, &z);
    for (int round = 0; round < ADAPTING_ROUNDS && status == MMEBM_OK; ++round) { /* the chains go on, round by round */
        ++chain.seed;
        status = mmebm_sampler_langevin_z(d->sampler, &chain, x.view, &z, &record);
        chain.step_size *= (float)exp(1.5 / (1 + 0.3 * round) * (record.mean_acceptance - target));
        chain.noise_scale = chain.step_size;
    }
    d->chain_z.step_size = d->chain_z.noise_scale = chain.step_size;
    tuples_free(&x);
    free(states);
    if (status != MMEBM_OK) return library_failed(d->context, status, "adapting langevin_z");
    note("langevin_z: l adapted to %.3f; it accepts %.2f of its moves", chain.step_size, record.mean_acceptance);
    return 0;
}

/* ---- measures */

int measure_judges(const judges *panel, mmebm_context *context, const polymnist_set *test, measures *m)
{
    tuples x;
    uint8_t digit[PORTION];
    int bad = 0;
    m->test_tuples = test->count;
    memset(m->judge_accuracy, 0, sizeof m->judge_accuracy);
    if (tuples_create(&x, PORTION)) return -1;
    for (uint32_t first = 0; first < test->count && !bad; first += PORTION) {
        const uint32_t n = at_most(PORTION, test->count - first);
        tuples_use(&x, n);
        tuples_paint(&x, test, NULL, first);
        for (uint32_t k = 0; k < MODALITIES && !bad; ++k) {
            bad = judge_read(panel, context, k, x.x[k], n, digit);
            for (uint32_t i = 0; i < n && !bad; ++i)
                m->judge_accuracy[k] += (digit[i] == test->labels[first + i]) / (double)test->count;
        }
    }
    tuples_free(&x);
    return bad;
}

int measure_unconditional(const drawing *d, const mmebm_latent_mixture *fit, const judges *panel,
                          const polymnist_set *test, measures *m)
{
    drawing fitted = *d;
    tuples x;
    int bad;
    uint8_t *agrees = calloc(3, d->judged); /* by sample_kind */
    uint8_t *revised, *tilted;
    fitted.prior = fit;
    m->samples = d->judged;
    if (!agrees) return failed("no memory to judge %u samples", d->judged);
    revised = agrees + (size_t)REVISED * d->judged;
    tilted = agrees + (size_t)TILTED * d->judged;
    if (tuples_create(&x, m->samples)) {
        free(agrees);
        return -1;
    }
    bad = draw_samples(d, PLAIN, 0, &x) || coherence_judge(panel, d->context, &x, &m->generated, agrees) ||
          draw_samples(d, REVISED, 0, &x) || coherence_judge(panel, d->context, &x, &m->revised, revised) ||
          draw_samples(d, TILTED, 0, &x) || coherence_judge(panel, d->context, &x, &m->tilted, tilted) ||
          draw_samples(&fitted, PLAIN, 0, &x) || coherence_judge(panel, d->context, &x, &m->fitted, NULL) ||
          draw_samples(&fitted, REVISED, 0, &x) || coherence_judge(panel, d->context, &x, &m->fitted_revised, NULL);
    m->revision = gain_of(agrees, revised, d->judged);
    m->tilt = gain_of(agrees, tilted, d->judged);
    free(agrees);
    if (!bad) {
        tuples_use(&x, at_most(m->samples, test->count));
        tuples_paint(&x, test, NULL, 0);
        bad = coherence_judge(panel, d->context, &x, &m->real, NULL);
    }
    tuples_free(&x);
    return bad ? -1 : 0;
}

/* What was read against what was given, in counts. */
typedef struct tally {
    double right, total;
    double given[DIGIT_CLASSES], read[DIGIT_CLASSES];
    double of_tuple[PORTION]; /* right pictures of the tuples at hand */
    double squares;           /* of those numbers, summed over all tuples done */
    uint32_t tuples;
    int finite;
} tally;

static int tally_picture(const drawing *d, const judges *panel, uint32_t modality, const tuples *x,
                         const uint8_t *label, tally *t)
{
    uint8_t digit[PORTION];
    for (size_t i = 0; i < (size_t)x->n * PICTURE_VALUES; ++i) t->finite &= isfinite(x->x[modality][i]) != 0;
    if (!t->finite) return 0;
    if (judge_read(panel, d->context, modality, x->x[modality], x->n, digit)) return -1;
    for (uint32_t i = 0; i < x->n; ++i) {
        t->right += digit[i] == label[i];
        t->of_tuple[i] += digit[i] == label[i];
        t->total += 1;
        t->given[label[i]] += 1;
        t->read[digit[i]] += 1;
    }
    return 0;
}

static void end_portion(tally *t, uint32_t n)
{
    for (uint32_t i = 0; i < n; ++i) t->squares += t->of_tuple[i] * t->of_tuple[i];
    memset(t->of_tuple, 0, sizeof t->of_tuple);
    t->tuples += n;
}

static conditional conditional_of(const tally *t)
{
    conditional c = {.pictures = (uint32_t)t->total, .tuples = t->tuples, .valid = t->finite};
    if (t->finite && t->total > 0) {
        const double of_one = t->total / t->tuples, mean = t->right / t->tuples; /* pictures of a tuple: all, right */
        c.right = t->right / t->total;
        c.error = sqrt(fmax(0, t->squares / t->tuples - mean * mean) / t->tuples) / of_one;
        for (int d = 0; d < DIGIT_CLASSES; ++d) c.chance += t->given[d] / t->total * (t->read[d] / t->total);
    }
    return c;
}

/* For each modality m: given only m, or all but m; reads those that were filled in. */
static int judge_filled_in(const drawing *d, const judges *panel, const polymnist_set *test, uint32_t count,
                           int from_one, const mmebm_langevin_options *chain, conditional *result)
{
    const uint64_t all = (UINT64_C(1) << MODALITIES) - 1;
    tally t = {.finite = 1};
    tuples real, filled;
    int bad = 0;
    if (tuples_create(&real, PORTION)) return -1;
    if (tuples_create(&filled, PORTION)) {
        tuples_free(&real);
        return -1;
    }
    for (uint32_t first = 0; first < count && !bad; first += PORTION) {
        tuples_use(&real, at_most(PORTION, count - first));
        tuples_use(&filled, real.n);
        tuples_paint(&real, test, NULL, first);
        for (uint32_t m = 0; m < MODALITIES && !bad; ++m) {
            const uint64_t observed = from_one ? UINT64_C(1) << m : all ^ UINT64_C(1) << m;
            tuples_copy(&filled, &real);
            bad = draw_given(d, observed, chain, (uint64_t)m << 32 | first, &filled);
            for (uint32_t k = 0; k < MODALITIES && !bad; ++k)
                if (!(observed >> k & 1)) bad = tally_picture(d, panel, k, &filled, test->labels + first, &t);
        }
        end_portion(&t, real.n);
    }
    tuples_free(&real);
    tuples_free(&filled);
    *result = conditional_of(&t);
    return bad;
}

int measure_conditional(const drawing *d, const judges *panel, const polymnist_set *test, measures *m)
{
    const uint32_t count = at_most(d->judged * 2 / 5, test->count);
    mmebm_langevin_options tilted = d->chain_z;
    drawing plain = *d;
    plain.guidance = 1;
    tilted.prior_temperature = d->chain_prior.prior_temperature;
    if (judge_filled_in(d, panel, test, count, 1, NULL, &m->given_one) ||
        judge_filled_in(&plain, panel, test, count, 1, NULL, &m->unguided) ||
        judge_filled_in(d, panel, test, count, 0, NULL, &m->given_four))
        return -1;
    if (interrupt_came()) return 0;
    return judge_filled_in(d, panel, test, count, 0, &d->chain_z, &m->refined) ||
                   judge_filled_in(d, panel, test, count, 0, &tilted, &m->tilted_refined)
               ? -1
               : 0;
}

/* Five pictures of five different digits, each modality's from another test tuple. */
static void paint_shuffled(tuples *x, const polymnist_set *test, uint64_t seed)
{
    random_stream random = random_start(seed, STREAM_SHUFFLED);
    for (uint32_t i = 0; i < x->n; ++i) {
        uint32_t used = 0; /* digits, as bits */
        for (uint32_t m = 0; m < MODALITIES; ++m) {
            uint32_t row;
            do {
                row = random_below(&random, test->count);
            } while (used >> test->labels[row] & 1);
            used |= UINT32_C(1) << test->labels[row];
            polymnist_paint(test, row, m, tuples_at(x, m, i));
        }
    }
}

int measure_energies(const drawing *d, const polymnist_set *test, measures *m)
{
    const uint32_t n = at_most(d->judged, test->count);
    const int64_t shape[1] = {n};
    float *energy = malloc((size_t)2 * n * sizeof *energy);
    tuples x;
    mmebm_view real, shuffled;
    mmebm_status status;
    m->energy_real = m->energy_shuffled = m->ranked_right = 0;
    m->energies_valid = 1;
    m->energies = n;
    if (!energy || tuples_create(&x, n)) {
        free(energy);
        return failed("no memory for %u energies", n);
    }
    status = mmebm_view_init(&real, energy, 1, shape);
    if (status == MMEBM_OK) status = mmebm_view_init(&shuffled, energy + n, 1, shape);
    tuples_paint(&x, test, NULL, 0);
    if (status == MMEBM_OK) status = mmebm_sampler_energy(d->sampler, x.view, &real);
    paint_shuffled(&x, test, d->seed);
    if (status == MMEBM_OK) status = mmebm_sampler_energy(d->sampler, x.view, &shuffled);
    for (uint32_t i = 0; i < n && status == MMEBM_OK; ++i) {
        m->energy_real += (double)energy[i] / n;
        m->energy_shuffled += (double)energy[n + i] / n;
        m->ranked_right += (energy[i] < energy[n + i]) / (double)n;
        m->energies_valid &= isfinite(energy[i]) && isfinite(energy[n + i]);
    }
    tuples_free(&x);
    free(energy);
    return status == MMEBM_OK ? 0 : library_failed(d->context, status, "asking for energies");
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * Comparing plans of a backend with the yardstick (F64 plans of the reference backend).
 *
 * The bound. A backend may round every number it reads and every number it makes to the tested precision (unit u). What
 * that does to a result is measured on the yardstick itself: `spread` is how far each result moves, at most, over
 * SPREAD_DRAWS runs in which all inputs, weights and seeds are changed by random relative amounts up to u. A result
 * passes if its error is within
 *     factor * spread + 4 u |result|
 * The factor counts roundings: ROUNDINGS = 16 for those that a careful implementation makes beside the inputs' own
 * (stored activations, a bias, an approximated function), and since eight random draws may all fall on the small side
 * of the worst. In f32, where sums are no more exact than their terms, rounding of the partial sums of n terms adds
 * about sqrt(n) of them: 4 sqrt(n). bf16 backends add up in f32, which disappears beside u. The draws of a sum of
 * products may cancel by chance, and fast convolutions mix the terms of neighbours: there the spread of an element is
 * at least the root mean square of its tensor's.
 * In f32 a 3x3 convolution of stride 1 may be Winograd's F(4x4, 3x3). In each direction a result then is the sum over
 * k of A_ik (G w)_k (B x)_k, whose mean square is sum_k A_ik^2 |G_k|^2 |B_k|^2 where that of the direct sum is 3; with
 * the points 0, +-sqrt(1/2), +-sqrt(2) and infinity it is 21.4, 8.8, 8.8, 21.4 for the four results. In two directions
 * errors are thus up to 21.4 / 3 = 7.1 times larger: GROWTH = 8 times ROUNDINGS. (The points 0, +-1, +-2 give 31.)
 * One-layer graphs are judged element by element; and since errors average out, tensors of MANY elements must lie
 * within a quarter of that bound in the Euclidean norm. Whole networks are judged tensor by tensor in that norm alone:
 * a unit may cross a kink in one backend and not in the other, and its own gradient is then off by more than any bound.
 *
 * Laws, in bits: a row's results do not depend on the rows beside it (even if those are NaN), its place, the capacity,
 * what else the run asks for, the thread count; nor does a weight gradient depend on the latter two.
 */
#ifndef MMEBM_TEST_CHECK_PLAN_H
#define MMEBM_TEST_CHECK_PLAN_H

#include "check.h"

enum { SPREAD_DRAWS = 8, ROUNDINGS = 16, ALL_ROWS = 17, FEW_ROWS = 3, PERIOD_OF_TARGETS = 3, MANY = 64, GROWTH = 8,
       MANY_PIXELS = 45000 };

typedef struct plan_check {
    const mmebm_graph *graph;
    const char *what;
    plan_data *data;
    int by_norm; /* else element by element */
    unsigned offered; /* by the plans that the laws are about */
    plan_result *expected, *spread;
} plan_check;

static inline double unit_of_setting(void)
{
    if (setting.precision == MMEBM_PRECISION_BF16) return UNIT_BF16;
    return setting.precision == MMEBM_PRECISION_TF32 ? UNIT_TF32 : UNIT_F32;
}

static inline void perturb(double *values, int64_t count, uint64_t *state)
{
    for (int64_t e = 0; values && e < count; ++e) values[e] *= 1.0 + unit_of_setting() * draw_uniform(state);
}

static inline void perturb_data(plan_data *data, uint64_t *state)
{
    const mmebm_graph *graph = data->graph;
    perturb(data->weights, (int64_t)graph->weight_count, state);
    for (uint32_t i = 0; i < graph->input_count; ++i)
        perturb(data->inputs[i], data->period[i] * graph->layers[graph->inputs[i]].count, state);
    for (uint32_t o = 0; o < graph->output_count; ++o)
        perturb(data->seeds[o], data->rows * graph->layers[graph->outputs[o]].count, state);
}

/* The yardstick's results for `rows` rows and their spread. */
static inline const char *measure(const plan_check *check, plan_result *expected, plan_result *spread)
{
    tested_plan plan;
    uint64_t state = setting.seed + 1;
    const char *error =
        plan_open(&setting.reference, check->graph, MMEBM_PRECISION_F64, expected->rows, WANT_ALL, &plan);
    if (!error) error = plan_execute(&plan, check->data, 0, WANT_ALL, 0.0, expected);
    plan_result *moved = result_create(check->graph, expected->rows);
    for (int draw = 0; !error && draw < SPREAD_DRAWS; ++draw) {
        plan_data *data = data_copy(check->data);
        perturb_data(data, &state);
        error = plan_execute(&plan, data, 0, WANT_ALL, 0.0, moved);
        for (uint32_t f = 0; f < moved->field_count; ++f)
            for (int64_t e = 0; e < field_size(moved, f); ++e)
                spread->fields[f].values[e] = fmax(spread->fields[f].values[e],
                                                   fabs(moved->fields[f].values[e] - expected->fields[f].values[e]));
        data_destroy(data);
    }
    result_destroy(moved);
    plan_close(&plan);
    return error;
}

/* Terms of the longest sum behind a field: a weight gradient's runs over rows and positions, any other's over a
 * kernel, or over the whole input of a loss or a pool. */
static inline double longest_sum(const mmebm_graph *graph, const result_field *field, int64_t rows)
{
    int64_t longest = 1;
    for (uint32_t l = 0; l < graph->layer_count; ++l) {
        const mmebm_layer *layer = &graph->layers[l];
        if (field->is_weight) {
            const int64_t positions = layer->count / layer->shape[layer->rank - 1];
            longest = positions * rows > longest ? positions * rows : longest;
        } else if (layer->kind != MMEBM_LAYER_INPUT && layer->weight < 0) {
            const int64_t count = mmebm__layer_input(graph, layer, 0)->count;
            longest = count > longest ? count : longest;
        } else if (layer->kind != MMEBM_LAYER_INPUT) {
            const mmebm_tensor *tensor = &graph->tensors[layer->weight];
            const int64_t fan = tensor->fan_in > tensor->fan_out ? tensor->fan_in : tensor->fan_out;
            longest = fan > longest ? fan : longest;
        }
    }
    return (double)longest;
}

/* Whether results can come from a Winograd convolution. A weight gradient of one layer cannot. */
static inline int may_be_fast(const plan_check *check, const result_field *field)
{
    if (setting.precision != MMEBM_PRECISION_F32 || (field->is_weight && !check->by_norm)) return 0;
    for (uint32_t l = 0; l < check->graph->layer_count; ++l) {
        const mmebm_layer *layer = &check->graph->layers[l];
        const int is_conv = layer->kind == MMEBM_LAYER_CONV2D || layer->kind == MMEBM_LAYER_CONV_TRANSPOSE2D;
        if (is_conv && layer->kernel[0] == 3 && layer->kernel[1] == 3 && layer->stride[0] == 1 && layer->stride[1] == 1)
            return 1;
    }
    return 0;
}

/* How many spreads a result may be off. */
static inline double spreads_allowed(const plan_check *check, const result_field *field, int64_t rows)
{
    if (setting.precision != MMEBM_PRECISION_F32) return ROUNDINGS; /* sums are f32: far below one rounding */
    return ROUNDINGS * (may_be_fast(check, field) ? GROWTH : 1) + 4.0 * sqrt(longest_sum(check->graph, field, rows));
}

/* The least spread of an element: see above; 0 where results are not sums of products. */
static inline double least_spread(const mmebm_graph *graph, const plan_result *spread, uint32_t f)
{
    const int has_products = graph->tensor_count && graph->tensors[0].role == MMEBM_ROLE_WEIGHT;
    const int64_t count = field_size(spread, f);
    double total = 0.0;
    if (!has_products && !spread->fields[f].is_weight) return 0.0;
    for (int64_t e = 0; e < count; ++e) total += spread->fields[f].values[e] * spread->fields[f].values[e];
    return sqrt(total / (double)count);
}

/* Largest error as a share of the bound. Infinite where a value is not finite. */
static inline double worst_share(const plan_check *check, const plan_result *expected, const plan_result *spread,
                                 const plan_result *found, uint32_t f, double weight_start)
{
    const result_field *field = &expected->fields[f];
    const double unit = unit_of_setting(), start = field->is_weight ? weight_start : 0.0;
    const double factor = spreads_allowed(check, field, expected->rows);
    const double least = check->by_norm ? 0.0 : least_spread(check->graph, spread, f);
    double worst = 0.0, error2 = 0.0, bound2 = 0.0;
    for (int64_t e = 0; e < field_size(expected, f); ++e) {
        const double value = field->values[e] + start;
        const double error = fabs(found->fields[f].values[e] - value);
        const double moved = fmax(spread->fields[f].values[e], least);
        const double bound = factor * moved + 4.0 * unit * fabs(value) + 1e-37;
        if (!(error <= bound * 1e30)) return INFINITY; /* NaN too */
        worst = fmax(worst, error / bound);
        error2 += error * error;
        bound2 += bound * bound;
    }
    const double in_norm = bound2 > 0.0 ? sqrt(error2 / bound2) : 0.0;
    return check->by_norm ? in_norm : field_size(expected, f) >= MANY ? fmax(worst, 4.0 * in_norm) : worst;
}

static inline int field_wanted(const plan_check *check, uint32_t f, unsigned wanted)
{
    const uint32_t outputs = check->graph->output_count, inputs = check->graph->input_count;
    if (f < outputs) return !!(wanted & WANT_OUTPUTS);
    if (f < outputs + inputs) return wanted & WANT_INPUT_GRADIENTS || (wanted & WANT_FIRST_GRADIENT && f == outputs);
    return !!(wanted & WANT_WEIGHTS);
}

static inline void check_close(const plan_check *check, const plan_result *expected, const plan_result *spread,
                               const plan_result *found, unsigned wanted, double weight_start)
{
    for (uint32_t f = 0; f < expected->field_count; ++f) {
        if (!field_wanted(check, f, wanted)) continue;
        const double share = worst_share(check, expected, spread, found, f, weight_start);
        report_share(check->what, expected->fields[f].name, share);
        CHECK_MSG(share <= 1.0, "%s, %d rows: %s is off by %.3g times its bound", check->what, (int)expected->rows,
                  expected->fields[f].name, share);
    }
}

/* Bits of the wanted fields; rows of b begin at row `first` of a. */
static inline void check_same(const plan_check *check, const plan_result *a, int64_t first, const plan_result *b,
                              unsigned wanted, const char *law)
{
    for (uint32_t f = 0; f < b->field_count; ++f) {
        const result_field *field = &b->fields[f];
        if (!field_wanted(check, f, wanted)) continue;
        const double *values = a->fields[f].values + (field->is_weight ? 0 : first * field->count);
        CHECK_MSG(memcmp(values, field->values, (size_t)field_size(b, f) * sizeof *values) == 0, "%s: %s: %s",
                  check->what, law, field->name);
    }
}

/* One plan, one run; the result is to be destroyed. */
static inline plan_result *run_once(const plan_check *check, side *owner, const plan_data *data, int64_t capacity,
                                    unsigned offered, int64_t first, int64_t rows, double weight_start)
{
    tested_plan plan;
    plan_result *result = result_create(check->graph, rows);
    const char *error = plan_open(owner, check->graph, setting.precision, capacity, offered, &plan);
    if (!error) error = plan_execute(&plan, data, first, offered, weight_start, result);
    CHECK_MSG(!error, "%s: %s", check->what, error);
    plan_close(&plan);
    return result;
}

/* ---- the laws */

static inline int64_t largest_image(const mmebm_graph *graph)
{
    int64_t largest = 1;
    for (uint32_t l = 0; l < graph->layer_count; ++l) {
        const mmebm_layer *layer = &graph->layers[l];
        const int64_t pixels = layer->rank == 3 ? layer->shape[0] * layer->shape[1] : 1;
        largest = pixels > largest ? pixels : largest;
    }
    return largest;
}

/* target [rows, count] <- the ALL_ROWS rows of source, over and over */
static inline void repeat_rows(double *target, const double *source, int64_t count, int64_t rows)
{
    for (int64_t e = 0; e < rows * count; ++e) target[e] = source[e % (ALL_ROWS * count)];
}

static inline void check_rows(const plan_check *check, const plan_result *all)
{
    static const struct {
        int64_t capacity, first, rows;
    } splits[] = {{ALL_ROWS, 0, 1}, {ALL_ROWS, 0, 8}, {ALL_ROWS, 0, 9},
                  {ALL_ROWS, ALL_ROWS - 1, 1}, {1, 5, 1}, {9, 8, 9}};
    for (size_t k = 0; k < sizeof splits / sizeof *splits; ++k) {
        plan_result *part = run_once(check, &setting.tested[0], check->data, splits[k].capacity, check->offered,
                                     splits[k].first, splits[k].rows, 0.0);
        check_same(check, all, splits[k].first, part, WANT_STATES,
                   "a row's bits depend on the rows beside it");
        result_destroy(part);
    }
}

static inline void check_threads(const plan_check *check, const plan_result *all)
{
    for (int s = 1; s < TESTED_SIDES; ++s) {
        plan_result *other =
            run_once(check, &setting.tested[s], check->data, ALL_ROWS, check->offered, 0, ALL_ROWS, 1.0);
        check_same(check, all, 0, other, check->offered, "bits depend on the thread count");
        result_destroy(other);
    }
}

/* A row of NaN spoils neither its neighbours nor, once it is gone, a later run of the same plan. */
static inline void check_containment(const plan_check *check)
{
    const mmebm_graph *graph = check->graph;
    plan_data *spoilt = data_copy(check->data);
    for (uint32_t i = 0; i < graph->input_count; ++i) {
        const int64_t count = graph->layers[graph->inputs[i]].count;
        for (int64_t e = 0; e < count; ++e) spoilt->inputs[i][(ALL_ROWS - 1) * count + e] = NAN;
    }
    plan_result *clean =
        run_once(check, &setting.tested[0], check->data, ALL_ROWS, check->offered, 0, ALL_ROWS - 1, 0.0);
    plan_result *mixed = result_create(graph, ALL_ROWS), *later = result_create(graph, ALL_ROWS - 1);
    tested_plan plan;
    const char *error = plan_open(&setting.tested[0], graph, setting.precision, ALL_ROWS, check->offered, &plan);
    if (!error) error = plan_execute(&plan, spoilt, 0, check->offered, 0.0, mixed);
    if (!error) error = plan_execute(&plan, check->data, 0, check->offered, 0.0, later);
    CHECK_MSG(!error, "%s: %s", check->what, error);
    check_same(check, mixed, 0, clean, WANT_STATES, "NaN in one row reaches another");
    check_same(check, later, 0, clean, check->offered, "NaN of an earlier run lives on");
    plan_close(&plan);
    result_destroy(clean);
    result_destroy(mixed);
    result_destroy(later);
    data_destroy(spoilt);
}

/* Inputs that repeat and seeds that are constant give what the written-out ones give. */
static inline void check_broadcast(const plan_check *check)
{
    const mmebm_graph *graph = check->graph;
    plan_data *brief = data_copy(check->data), *full = data_copy(check->data);
    for (uint32_t i = graph->input_count > 1; i < graph->input_count; ++i) {
        const int64_t count = graph->layers[graph->inputs[i]].count;
        brief->period[i] = PERIOD_OF_TARGETS;
        for (int64_t e = 0; e < ALL_ROWS * count; ++e)
            full->inputs[i][e] = brief->inputs[i][e % (PERIOD_OF_TARGETS * count)];
    }
    for (uint32_t o = 0; o < graph->output_count; ++o) {
        for (int64_t e = 0; e < ALL_ROWS * graph->layers[graph->outputs[o]].count; ++e) full->seeds[o][e] = 1.0;
        free(brief->seeds[o]);
        brief->seeds[o] = NULL;
    }
    plan_result *a = run_once(check, &setting.tested[0], full, ALL_ROWS, check->offered, 0, ALL_ROWS, 0.0);
    plan_result *b = run_once(check, &setting.tested[0], brief, ALL_ROWS, check->offered, 0, ALL_ROWS, 0.0);
    check_same(check, a, 0, b, check->offered, "period or constant seed");
    result_destroy(a);
    result_destroy(b);
    data_destroy(brief);
    data_destroy(full);
}

/* One plan that offers everything, asked for less: the same bits, and nothing else is written. Gradients alone come
 * first, so that no values lie there from an earlier run. */
static inline void check_partial_runs(const plan_check *check, const plan_result *all)
{
    static const unsigned wishes[] = {WANT_INPUT_GRADIENTS, WANT_OUTPUTS, WANT_WEIGHTS,
                                      WANT_OUTPUTS | WANT_FIRST_GRADIENT};
    tested_plan plan;
    const char *error = plan_open(&setting.tested[0], check->graph, setting.precision, ALL_ROWS, check->offered, &plan);
    for (size_t k = 0; !error && k < sizeof wishes / sizeof *wishes; ++k) {
        if (wishes[k] & ~check->offered) continue;
        plan_result *part = result_create(check->graph, ALL_ROWS);
        error = plan_execute(&plan, check->data, 0, wishes[k], 1.0, part);
        if (!error) check_same(check, all, 0, part, wishes[k], "bits depend on what else a run asks for");
        for (uint32_t f = 0; !error && f < part->field_count; ++f) {
            const double value = part->fields[f].values[0];
            if (!field_wanted(check, f, wishes[k]))
                CHECK_MSG(part->fields[f].is_weight ? value == 1.0 : isnan(value), "%s: %s was written unasked",
                          check->what, part->fields[f].name);
        }
        result_destroy(part);
    }
    CHECK_MSG(!error, "%s: %s", check->what, error);
    plan_close(&plan);
}

/* So many rows that a backend takes its largest tiles: the same rows over and over have the bits that ALL_ROWS have,
 * and weight gradients are a multiple of theirs, up to the rounding of f32 sums. */
static inline void check_many_rows(const mmebm_graph *graph, uint64_t seed, const char *what)
{
    const plan_check check = {.graph = graph, .what = what};
    const int64_t times = MANY_PIXELS / (ALL_ROWS * largest_image(graph)) + 1, rows = times * ALL_ROWS;
    seed += setting.seed * 1000;
    plan_data *brief = data_create(graph, ALL_ROWS, seed), *full = data_create(graph, rows, seed);
    data_round(brief);
    memcpy(full->weights, brief->weights, (size_t)graph->weight_count * sizeof *full->weights);
    for (uint32_t i = 0; i < graph->input_count; ++i)
        repeat_rows(full->inputs[i], brief->inputs[i], graph->layers[graph->inputs[i]].count, rows);
    for (uint32_t o = 0; o < graph->output_count; ++o)
        repeat_rows(full->seeds[o], brief->seeds[o], graph->layers[graph->outputs[o]].count, rows);
    plan_result *few = run_once(&check, &setting.tested[0], brief, ALL_ROWS, WANT_ALL, 0, ALL_ROWS, 0.0);
    plan_result *many = run_once(&check, &setting.tested[0], full, rows, WANT_ALL, 0, rows, 0.0);
    for (int64_t k = 0; k < times; ++k)
        check_same(&check, many, k * ALL_ROWS, few, WANT_STATES,
                   "a row's bits depend on the number of rows");
    for (uint32_t f = 0; f < few->field_count; ++f) {
        double error2 = 0.0, size2 = 0.0;
        for (int64_t e = 0; few->fields[f].is_weight && e < field_size(few, f); ++e) {
            const double wanted = (double)times * few->fields[f].values[e];
            error2 += (many->fields[f].values[e] - wanted) * (many->fields[f].values[e] - wanted);
            size2 += wanted * wanted;
        }
        CHECK_MSG(error2 <= 1e-8 * size2, "%s, %lld rows: %s is off by %.3g in the norm", what, (long long)rows,
                  few->fields[f].name, sqrt(error2 / size2));
    }
    result_destroy(few);
    result_destroy(many);
    data_destroy(brief);
    data_destroy(full);
}

/* What a test does with each of its graphs. */
typedef void (*graph_check)(const mmebm_graph *graph, uint64_t seed, const char *what);

/* ---- all of it */

/* Compares ALL_ROWS rows and FEW_ROWS rows, with weight gradients that start at 1, and plans that offer less. */
static inline void check_results(const plan_check *check, const plan_result *all)
{
    static const unsigned offers[] = {WANT_OUTPUTS, WANT_OUTPUTS | WANT_FIRST_GRADIENT, WANT_WEIGHTS};
    check_close(check, check->expected, check->spread, all, WANT_ALL, 1.0);
    for (size_t k = 0; k < sizeof offers / sizeof *offers; ++k) {
        plan_result *part =
            run_once(check, &setting.tested[0], check->data, ALL_ROWS, offers[k], 0, ALL_ROWS, 1.0);
        check_close(check, check->expected, check->spread, part, offers[k], 1.0);
        result_destroy(part);
    }
    plan_result *expected = result_create(check->graph, FEW_ROWS), *spread = result_create(check->graph, FEW_ROWS);
    plan_result *few = run_once(check, &setting.tested[0], check->data, ALL_ROWS, WANT_ALL, 0, FEW_ROWS, 1.0);
    const char *error = measure(check, expected, spread);
    CHECK_MSG(!error, "%s: %s", check->what, error);
    check_close(check, expected, spread, few, WANT_ALL, 1.0);
    result_destroy(expected);
    result_destroy(spread);
    result_destroy(few);
}

/* all: the result of ALL_ROWS rows of plans that offer so much. */
static inline void check_laws(plan_check *check, unsigned offered, const plan_result *all)
{
    if (setting.once) return;
    check->offered = offered;
    check_rows(check, all);
    check_threads(check, all);
    check_containment(check);
    check_broadcast(check);
    check_partial_runs(check, all);
}

/* Plans that offer no gradients by weights, as chains have them: a backend may make other operations of a graph
 * then. */
static inline void check_states(plan_check *check)
{
    plan_result *states =
        run_once(check, &setting.tested[0], check->data, ALL_ROWS, WANT_STATES, 0, ALL_ROWS, 1.0);
    check_close(check, check->expected, check->spread, states, WANT_STATES, 1.0);
    if (check->graph->weight_count) check_laws(check, WANT_STATES, states);
    result_destroy(states);
}

static inline void check_graph(const mmebm_graph *graph, int by_norm, uint64_t seed, const char *what)
{
    plan_check check = {.graph = graph, .what = what, .by_norm = by_norm};
    check.data = data_create(graph, ALL_ROWS, setting.seed * 1000 + seed);
    check.data->seed_scale[0] = 1.25f;
    data_round(check.data);
    check.expected = result_create(graph, ALL_ROWS);
    check.spread = result_create(graph, ALL_ROWS);
    const char *error = measure(&check, check.expected, check.spread);
    CHECK_MSG(!error, "%s: %s", what, error);
    plan_result *all = run_once(&check, &setting.tested[0], check.data, ALL_ROWS, WANT_ALL, 0, ALL_ROWS, 1.0);
    check_results(&check, all);
    check_laws(&check, WANT_ALL, all);
    check_states(&check);
    result_destroy(all);
    result_destroy(check.expected);
    result_destroy(check.spread);
    data_destroy(check.data);
}

#endif /* MMEBM_TEST_CHECK_PLAN_H */

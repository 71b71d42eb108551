/* SPDX-License-Identifier: Apache-2.0
 *
 * The mixture of experts of a backend, its gradients, draws from experts and their scales. The yardstick of the mixture
 * is ref_math.h in double; the bound is that of check_plan.h: 16 + 4 sqrt(size) times how far results move when every
 * number that the operation reads changes by up to a float rounding, and four roundings of the terms that are added up.
 */
#include "check_op.h"
#include "ref_math.h"

enum { MAX_EXPERTS = 5, PERIOD = 4, SPREAD_DRAWS = 8 };
static const uint32_t families[] = {MMEBM_GAUSSIAN, MMEBM_LAPLACE};
static const uint32_t scale_kinds[] = {MMEBM_SCALE_SOFTPLUS, MMEBM_SCALE_EXP_HALF, MMEBM_SCALE_SOFTMAX};
static const int64_t sizes[] = {1, 5, 16, 33};
enum { SIZES = sizeof sizes / sizeof *sizes };
static const float FLOOR = 0.02f, GRADIENT_SCALE = -0.3f;

/* ---- the mixture. Arrays: z, log density, then of each expert mean, raw and their gradients. */

typedef struct mixture_case {
    uint32_t experts, family, scale_kind;
    int64_t rows, period, size;
    int with_gradients;
} mixture_case;

enum { Z = 0, LOG_DENSITY = 1, FIRST_EXPERT = 2, OF_EXPERT = 4 /* arrays of one expert */ };
enum { MEAN = 0, RAW = 1, MEAN_GRADIENT = 2, RAW_GRADIENT = 3 };

/* Where the operation's arrays of pointers live. */
typedef struct mixture_pointers {
    const float *mean[MAX_EXPERTS], *raw[MAX_EXPERTS];
    float *mean_gradient[MAX_EXPERTS], *raw_gradient[MAX_EXPERTS];
} mixture_pointers;

static mmebm_mixture mixture_of(const mixture_case *wanted, float **arrays, mixture_pointers *pointers)
{
    for (uint32_t j = 0; j < wanted->experts; ++j) {
        float **own = arrays + FIRST_EXPERT + j * OF_EXPERT;
        pointers->mean[j] = own[MEAN];
        pointers->raw[j] = own[RAW];
        pointers->mean_gradient[j] = own[MEAN_GRADIENT];
        pointers->raw_gradient[j] = own[RAW_GRADIENT];
    }
    return (mmebm_mixture){.rows = wanted->rows, .period = wanted->period, .size = wanted->size, .z = arrays[Z],
                           .mean = pointers->mean, .raw = pointers->raw,
                           .mean_gradient = wanted->with_gradients ? pointers->mean_gradient : NULL,
                           .raw_gradient = wanted->with_gradients ? pointers->raw_gradient : NULL,
                           .log_density = arrays[LOG_DENSITY], .gradient_scale = GRADIENT_SCALE, .floor = FLOOR,
                           .experts = wanted->experts, .family = wanted->family, .scale_kind = wanted->scale_kind};
}

static mmebm_status call_mixture(const mmebm_context *context, float **arrays, const void *arguments)
{
    mixture_pointers pointers;
    const mmebm_mixture mixture = mixture_of(arguments, arrays, &pointers);
    return context->ops->mixture(context->device, &mixture);
}

static void add_mixture(op_run *op, const mixture_case *wanted, double distance)
{
    *op = (op_run){.what = "mixture"};
    op_add_random(op, "z", wanted->rows * wanted->size, READ_ONLY, distance);
    op_add(op, "log density", wanted->rows, WRITTEN);
    for (uint32_t j = 0; j < wanted->experts; ++j) {
        const int64_t count = wanted->period * wanted->size;
        op_add_random(op, "mean", count, READ_ONLY, 1.0);
        op_add_random(op, "raw", count, READ_ONLY, 2.0);
        op_add_random(op, "gradient by mean", count, wanted->with_gradients, 0.5);
        op_add_random(op, "gradient by raw", count, wanted->with_gradients, 0.5);
    }
}

static void call_wide(const mixture_case *wanted, double **arrays)
{
    float *addresses[OP_ARRAYS];
    mixture_pointers pointers;
    for (uint32_t a = 0; a < FIRST_EXPERT + wanted->experts * OF_EXPERT; ++a) {
        void *address = arrays[a];
        addresses[a] = address;
    }
    const mmebm_mixture mixture = mixture_of(wanted, addresses, &pointers);
    mmebm__ref_mixture(&mixture, 1);
}

/* The wide operation on the op's arrays, each number that it reads moved by up to `unit`. */
static void run_wide(const op_run *op, const mixture_case *wanted, double unit, uint64_t *state, double **arrays)
{
    for (int a = 0; a < op->count; ++a) {
        const int is_read = !op->arrays[a].written;
        for (int64_t e = 0; e < op->arrays[a].count; ++e)
            arrays[a][e] = op->arrays[a].initial[e] * (is_read ? 1.0 + unit * draw_uniform(state) : 1.0);
    }
    call_wide(wanted, arrays);
}

/* Sizes of the terms: of a gradient, what it held and what each of the chains that share an expert's row adds; of a log
 * density itself. work: like sizes, for the wide operation on one chain after the other. */
static void measure_terms(const op_run *op, const mixture_case *wanted, double **work, double **sizes)
{
    uint64_t unmoved = 0;
    for (int64_t first = 0; first < wanted->rows; first += wanted->period) {
        mixture_case chain = *wanted;
        double *shifted[OP_ARRAYS];
        chain.rows = wanted->period;
        run_wide(op, wanted, 0.0, &unmoved, work);
        for (int a = 0; a < op->count; ++a) {
            shifted[a] = work[a];
            for (int64_t e = 0; a > LOG_DENSITY && op->arrays[a].written && e < op->arrays[a].count; ++e)
                work[a][e] = 0.0;
        }
        shifted[Z] += first * wanted->size;
        shifted[LOG_DENSITY] += first;
        call_wide(&chain, shifted);
        for (int a = FIRST_EXPERT; a < op->count; ++a)
            for (int64_t e = 0; e < op->arrays[a].count; ++e)
                sizes[a][e] += fabs(work[a][e]) + (first ? 0.0 : fabs(op->arrays[a].initial[e]));
        for (int64_t r = first; r < first + wanted->period; ++r) sizes[LOG_DENSITY][r] = fabs(work[LOG_DENSITY][r]);
    }
}

static void check_wide(const op_run *op, int a, const double *expected, const double *spread, const double *size,
                       double factor)
{
    const op_array *array = &op->arrays[a];
    double worst = 0.0;
    for (int64_t e = 0; e < array->count; ++e) {
        const double bound = factor * spread[e] + 4.0 * UNIT_F32 * size[e];
        const double error = fabs(array->found[1][e] - expected[e]);
        worst = fmax(worst, error / bound);
        if (error <= bound) continue;
        CHECK_MSG(0, "mixture: '%s' [%lld] is %.9g, wanted %.9g +- %.3g", array->name, (long long)e,
                  (double)array->found[1][e], expected[e], bound);
        return;
    }
    report_share("mixture", array->name, worst);
}

static void check_mixture(mixture_case wanted, double distance)
{
    op_run op;
    double *expected[OP_ARRAYS], *moved[OP_ARRAYS], *spread[OP_ARRAYS], *size[OP_ARRAYS];
    uint64_t state = setting.seed;
    add_mixture(&op, &wanted, distance);
    op_execute(&op, call_mixture, &wanted);
    for (int a = 0; a < op.count; ++a) {
        expected[a] = test_memory((size_t)op.arrays[a].count, sizeof(double));
        moved[a] = test_memory((size_t)op.arrays[a].count, sizeof(double));
        spread[a] = test_memory((size_t)op.arrays[a].count, sizeof(double));
        size[a] = test_memory((size_t)op.arrays[a].count, sizeof(double));
    }
    measure_terms(&op, &wanted, moved, size);
    run_wide(&op, &wanted, 0.0, &state, expected);
    for (int draw = 0; draw < SPREAD_DRAWS; ++draw) {
        run_wide(&op, &wanted, UNIT_F32, &state, moved);
        for (int a = 0; a < op.count; ++a)
            for (int64_t e = 0; e < op.arrays[a].count; ++e)
                spread[a][e] = fmax(spread[a][e], fabs(moved[a][e] - expected[a][e]));
    }
    for (int a = 0; a < op.count; ++a) {
        if (op.arrays[a].written)
            check_wide(&op, a, expected[a], spread[a], size[a], 16.0 + 4.0 * sqrt((double)wanted.size));
        free(expected[a]);
        free(moved[a]);
        free(spread[a]);
        free(size[a]);
    }
    op_destroy(&op);
}

static void check_mixtures(int with_gradients)
{
    static const uint32_t expert_counts[] = {1, 3, MAX_EXPERTS};
    for (int f = 0; f < 2; ++f) {
        for (int s = 0; s < 3; ++s) {
            for (int k = 0; k < SIZES; ++k) {
                for (int c = 0; c < 3; ++c) {
                    const mixture_case wanted = {expert_counts[c], families[f], scale_kinds[s], 3 * PERIOD, PERIOD,
                                                 sizes[k], with_gradients};
                    check_mixture(wanted, 1.5);
                    check_mixture(wanted, 100.0); /* far from all experts: densities that no float could hold */
                }
            }
        }
    }
}

TEST(mixture)
{
    check_mixtures(0);
}

TEST(mixture_gradients)
{
    check_mixtures(1);
}

/* A row alone has the same log density, in bits. */
TEST(mixture_row_alone)
{
    const mixture_case all = {3, MMEBM_GAUSSIAN, MMEBM_SCALE_SOFTPLUS, 3 * PERIOD, PERIOD, 33, 0};
    const mixture_case one = {3, MMEBM_GAUSSIAN, MMEBM_SCALE_SOFTPLUS, 1, 1, 33, 0};
    op_run many, alone;
    add_mixture(&many, &all, 1.5);
    add_mixture(&alone, &one, 1.5);
    op_execute(&many, call_mixture, &all);
    op_execute(&alone, call_mixture, &one);
    check_rows_alone(&many, &alone, LOG_DENSITY, 0, 1);
    op_destroy(&many);
    op_destroy(&alone);
}

/* ---- scales */

typedef struct scale_case {
    int64_t rows, size;
    uint32_t scale_kind;
} scale_case;

static mmebm_status call_expert_scale(const mmebm_context *context, float **arrays, const void *arguments)
{
    const scale_case *wanted = arguments;
    return context->ops->expert_scale(context->device, wanted->rows, wanted->size, arrays[0], wanted->scale_kind,
                                      FLOOR, arrays[1]);
}

/* Units of a scale: exp turns an error of raw's size into one of the result; a softmax adds up `size` terms. */
static double units_of_scale(int64_t size, double largest_raw)
{
    return 8.0 + 2.0 * largest_raw + sqrt((double)size);
}

TEST(expert_scale)
{
    enum { ROWS = 17 };
    for (int s = 0; s < 3; ++s) {
        for (int k = 0; k < SIZES; ++k) {
            for (int wide_range = 0; wide_range < 2; ++wide_range) {
                const double range = wide_range ? 30.0 : 2.0;
                const scale_case wanted = {ROWS, sizes[k], scale_kinds[s]}, one = {1, sizes[k], scale_kinds[s]};
                op_run many = {.what = "expert_scale"}, alone = {.what = "expert_scale"};
                op_add_random(&many, "raw", ROWS * sizes[k], READ_ONLY, range);
                op_add(&many, "scale", ROWS * sizes[k], WRITTEN);
                op_add_random(&alone, "raw", sizes[k], READ_ONLY, range);
                op_add(&alone, "scale", sizes[k], WRITTEN);
                op_execute(&many, call_expert_scale, &wanted);
                op_execute(&alone, call_expert_scale, &one);
                double *size = test_memory((size_t)(ROWS * sizes[k]), sizeof *size);
                for (int64_t e = 0; e < ROWS * sizes[k]; ++e) size[e] = many.arrays[1].found[0][e];
                check_units(&many, 1, units_of_scale(sizes[k], range), size);
                check_rows_alone(&many, &alone, 1, 0, sizes[k]);
                free(size);
                op_destroy(&many);
                op_destroy(&alone);
            }
        }
    }
}

/* ---- draws. Arrays: z, key, then of each expert mean and raw. */

typedef struct draw_case {
    int64_t size;
    uint32_t family, scale_kind, start, choose;
} draw_case;

enum { DRAW_EXPERTS = 3, DRAW_KEY = 1, DRAW_FIRST = 2, DRAW_STEP = 5 };

static int64_t rows_of(const draw_case *wanted)
{
    return wanted->choose ? PERIOD : DRAW_EXPERTS * PERIOD;
}

static mmebm_status call_expert_draw(const mmebm_context *context, float **arrays, const void *arguments)
{
    const draw_case *wanted = arguments;
    const float *mean[DRAW_EXPERTS], *raw[DRAW_EXPERTS];
    for (int j = 0; j < DRAW_EXPERTS; ++j) {
        mean[j] = arrays[DRAW_FIRST + 2 * j];
        raw[j] = arrays[DRAW_FIRST + 2 * j + 1];
    }
    const mmebm_expert_draw draw = {
        .rows = rows_of(wanted), .size = wanted->size, .z = arrays[0], .mean = mean, .raw = raw, .floor = FLOOR,
        .experts = DRAW_EXPERTS, .family = wanted->family, .scale_kind = wanted->scale_kind, .start = wanted->start,
        .choose = wanted->choose,
        .noise = {.key = op_key(arrays[DRAW_KEY]), .period = PERIOD, .stream = MMEBM_STREAM_START, .step = DRAW_STEP}};
    return context->ops->expert_draw(context->device, &draw);
}

/* xi of an element, and the expert that a row must have drawn from, by philox.h alone. */
static mmebm_philox_block block_of(uint32_t stream, int64_t tuple, int64_t block)
{
    return mmebm__random_block(0x123456789abcdef0u + setting.seed, stream, (uint64_t)tuple, DRAW_STEP,
                               (uint32_t)block);
}

static uint32_t expert_of(const draw_case *wanted, int64_t row)
{
    return wanted->choose
               ? mmebm__choice(block_of(MMEBM_STREAM_EXPERT, row % PERIOD, 0).word[0], DRAW_EXPERTS)
               : (uint32_t)(row / PERIOD);
}

static float number_of(const draw_case *wanted, uint32_t expert, int64_t tuple, int64_t d)
{
    const mmebm_philox_block block = block_of(MMEBM_STREAM_START + expert, tuple, d / 4);
    float normals[4];
    mmebm__normals(block, normals);
    return wanted->family == MMEBM_LAPLACE ? mmebm__laplace(block.word[d % 4]) : normals[d % 4];
}

/* What is drawn exactly, and the size of what is added up to it. */
static double exact_draw(const draw_case *wanted, const op_run *op, int64_t row, int64_t d, double *size)
{
    const int64_t tuple = row % PERIOD, at = tuple * wanted->size + d;
    const uint32_t expert = expert_of(wanted, row);
    const float *raw = op->arrays[DRAW_FIRST + 2 * expert + 1].initial + tuple * wanted->size;
    const double mean = op->arrays[DRAW_FIRST + 2 * expert].initial[at];
    double average = 0;
    *size = 0.0;
    if (wanted->start == MMEBM_START_MEAN) return mean;
    if (wanted->start == MMEBM_START_AVERAGE) {
        for (int j = 0; j < DRAW_EXPERTS; ++j) average += op->arrays[DRAW_FIRST + 2 * j].initial[at];
        return average / DRAW_EXPERTS;
    }
    const mmebm_ref_scales scales = mmebm__ref_scales(wanted->scale_kind, FLOOR, raw, 0, wanted->size);
    const double moved = mmebm__ref_scale(&scales, d) * number_of(wanted, expert, tuple, d);
    *size = fabs(mean) + fabs(moved);
    return mean + moved;
}

static void check_draw(draw_case wanted)
{
    op_run op = {.what = "expert_draw"};
    const int64_t count = rows_of(&wanted) * wanted.size;
    op_add(&op, "z", count, WRITTEN);
    op_add_key(&op, 0);
    for (int j = 0; j < DRAW_EXPERTS; ++j) {
        op_add_random(&op, "mean", PERIOD * wanted.size, READ_ONLY, 1.0);
        op_add_random(&op, "raw", PERIOD * wanted.size, READ_ONLY, 2.0);
    }
    op_execute(&op, call_expert_draw, &wanted);
    double *size = test_memory((size_t)count, sizeof *size);
    for (int64_t e = 0; e < count; ++e) {
        const double exact = exact_draw(&wanted, &op, e / wanted.size, e % wanted.size, &size[e]);
        CHECK(fabs(op.arrays[0].found[0][e] - exact) <= 2.0 * UNIT_F32 * fabs(exact)); /* the yardstick itself */
    }
    if (wanted.start != MMEBM_START_SAMPLE)
        check_bits_of(&op, 0);
    else
        check_units(&op, 0, units_of_scale(wanted.size, 2.0), size);
    free(size);
    op_destroy(&op);
}

TEST(expert_draw)
{
    for (int f = 0; f < 2; ++f)
        for (int s = 0; s < 3; ++s)
            for (int k = 0; k < SIZES; ++k)
                for (uint32_t start = MMEBM_START_SAMPLE; start <= MMEBM_START_AVERAGE; ++start)
                    for (uint32_t choose = 0; choose < 2; ++choose)
                        check_draw((draw_case){sizes[k], families[f], scale_kinds[s], start, choose});
}

int check_experts(void)
{
    RUN_SELECTED(mixture);
    RUN_SELECTED(mixture_gradients);
    RUN_SELECTED(mixture_row_alone);
    RUN_SELECTED(expert_scale);
    RUN_SELECTED(expert_draw);
    return HARNESS_RESULT();
}

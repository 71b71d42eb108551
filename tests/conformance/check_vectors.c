/* SPDX-License-Identifier: Apache-2.0
 *
 * Transfers, elementwise operations, sums, Adam and spectral norm of a backend against the reference.
 */
#include "check_op.h"

static const int64_t counts[] = {1, 3, 4, 15, 16, 17, 255, 1000, 70001};
enum { COUNTS = sizeof counts / sizeof *counts };

/* Values that are not finite, too large or too small, at the front of an array. */
static void plant_specials(float *values, int64_t count)
{
    static const float specials[] = {NAN, INFINITY, -INFINITY, 3e38f, -3e38f, 1e-42f, -0.0f};
    for (int64_t e = 0; e < count && e < (int64_t)(sizeof specials / sizeof *specials); ++e) values[e] = specials[e];
}

/* ---- transfers and fill */

static mmebm_status call_copy(const mmebm_context *context, float **arrays, const void *arguments)
{
    const int64_t *count = arguments;
    return context->ops->copy(context->device, arrays[0], arrays[1], (size_t)*count * sizeof(float));
}

TEST(copy)
{
    for (int k = 0; k < COUNTS; ++k) {
        op_run op = {.what = "copy"};
        op_add_random(&op, "target", counts[k], WRITTEN, 1.0);
        plant_specials(op_add_random(&op, "source", counts[k], READ_ONLY, 1.0), counts[k]);
        op_execute(&op, call_copy, &counts[k]);
        check_bits(&op, &op.arrays[0], op.arrays[1].initial);
        op_destroy(&op);
    }
}

static mmebm_status call_fill(const mmebm_context *context, float **arrays, const void *arguments)
{
    const int64_t *count = arguments;
    return context->ops->fill(context->device, *count, arrays[0], -0.3f);
}

TEST(fill)
{
    for (int k = 0; k < COUNTS; ++k) {
        op_run op = {.what = "fill"};
        op_add_random(&op, "target", counts[k], WRITTEN, 1.0);
        op_execute(&op, call_fill, &counts[k]);
        for (int64_t e = 0; e < counts[k]; ++e) CHECK(op.arrays[0].found[1][e] == -0.3f);
        op_destroy(&op);
    }
}

/* ---- combine, lerp */

typedef struct combine_case {
    int64_t count;
    float alpha, beta;
} combine_case;

static mmebm_status call_combine(const mmebm_context *context, float **arrays, const void *arguments)
{
    const combine_case *wanted = arguments;
    return context->ops->combine(context->device, wanted->count, arrays[0], wanted->alpha, arrays[1], wanted->beta);
}

static void check_combine(const combine_case *wanted)
{
    op_run op = {.what = "combine"};
    float *target = op_add_random(&op, "target", wanted->count, WRITTEN, 1.0);
    float *source = op_add_random(&op, "source", wanted->count, READ_ONLY, 2.0);
    plant_specials(wanted->alpha == 0.0f ? target : source, wanted->count);
    op_execute(&op, call_combine, wanted);
    double *size = test_memory((size_t)wanted->count, sizeof *size);
    for (int64_t e = 0; e < wanted->count; ++e)
        size[e] = (wanted->alpha == 0.0f ? 0.0 : fabs((double)wanted->alpha * target[e])) +
                  fabs((double)wanted->beta * source[e]);
    check_units(&op, 0, 2.0, size); /* two products; the sum's own rounding is check_units' */
    for (int64_t e = 0; wanted->alpha == 0.0f && e < wanted->count; ++e)
        CHECK_MSG(isfinite(op.arrays[0].found[1][e]), "combine read a target whose factor is 0");
    free(size);
    op_destroy(&op);
}

TEST(combine)
{
    for (int k = 0; k < COUNTS; ++k) {
        check_combine(&(combine_case){counts[k], 0.9f, -1.7f});
        check_combine(&(combine_case){counts[k], 1.0f, 1.0f});
        check_combine(&(combine_case){counts[k], 0.0f, 0.3f});
    }
}

static mmebm_status call_lerp(const mmebm_context *context, float **arrays, const void *arguments)
{
    const int64_t *count = arguments;
    return context->ops->lerp(context->device, *count, arrays[0], arrays[1], 0.25f, arrays[2]);
}

TEST(lerp)
{
    for (int k = 0; k < COUNTS; ++k) {
        op_run op = {.what = "lerp"};
        float *target = op_add_random(&op, "target", counts[k], WRITTEN, 1.0);
        float *source = op_add_random(&op, "source", counts[k], READ_ONLY, 2.0);
        op_add(&op, "t", 1, READ_ONLY)[0] = 0.125f;
        plant_specials(source, counts[k]);
        op_execute(&op, call_lerp, &counts[k]);
        double *size = test_memory((size_t)counts[k], sizeof *size);
        for (int64_t e = 0; e < counts[k]; ++e) size[e] = fabs((double)target[e]) + fabs((double)source[e]);
        check_units(&op, 0, 3.0, size); /* product, difference, product */
        free(size);
        op_destroy(&op);
    }
}

/* ---- sums. The terms have one sign, or their sizes are added up: rounding n partial sums adds at most about sqrt(n)
 * units of that, and four more for the terms. */

static double units_of_sum(int64_t terms)
{
    return 4.0 + sqrt((double)terms);
}

typedef struct distance_case {
    int64_t rows, size;
    int to_zero;
} distance_case;

static mmebm_status call_row_distance(const mmebm_context *context, float **arrays, const void *arguments)
{
    const distance_case *wanted = arguments;
    return context->ops->row_distance(context->device, wanted->rows, wanted->size, arrays[0],
                                      wanted->to_zero ? NULL : arrays[1], arrays[2]);
}

static void run_row_distance(op_run *op, const distance_case *wanted)
{
    *op = (op_run){.what = "row_distance"};
    op_add_random(op, "a", wanted->rows * wanted->size, READ_ONLY, 1.0);
    op_add_random(op, "b", wanted->rows * wanted->size, READ_ONLY, 1.0);
    op_add(op, "out", wanted->rows, WRITTEN);
    op_execute(op, call_row_distance, wanted);
}

TEST(row_distance)
{
    enum { ROWS = 17 };
    for (int k = 0; k < COUNTS; ++k) {
        if (counts[k] > 10000) continue;
        for (int to_zero = 0; to_zero < 2; ++to_zero) {
            op_run many, one;
            double size[ROWS];
            run_row_distance(&many, &(distance_case){ROWS, counts[k], to_zero});
            run_row_distance(&one, &(distance_case){1, counts[k], to_zero});
            for (int r = 0; r < ROWS; ++r) size[r] = many.arrays[2].found[0][r];
            check_units(&many, 2, units_of_sum(counts[k]), size);
            check_rows_alone(&many, &one, 2, 0, 1);
            op_destroy(&many);
            op_destroy(&one);
        }
    }
}

typedef struct reduce_case {
    int64_t count;
    uint32_t power;
} reduce_case;

static mmebm_status call_reduce(const mmebm_context *context, float **arrays, const void *arguments)
{
    const reduce_case *wanted = arguments;
    return context->ops->reduce(context->device, wanted->count, arrays[0], wanted->power, 0.75f, arrays[1]);
}

TEST(reduce)
{
    for (int k = 0; k < COUNTS; ++k) {
        for (uint32_t power = 0; power <= 2; ++power) {
            const reduce_case wanted = {counts[k], power};
            op_run op = {.what = "reduce"};
            float *values = op_add_random(&op, "values", counts[k], READ_ONLY, 1.0);
            double size = 0.0;
            op_add(&op, "out", 1, WRITTEN);
            for (int64_t e = 0; e < counts[k]; ++e) {
                if (power == 0) values[e] = fabsf(values[e]);
                size += 0.75 * (power == 0 ? sqrt(values[e]) : pow(fabs(values[e]), power));
            }
            op_execute(&op, call_reduce, &wanted);
            check_units(&op, 1, units_of_sum(counts[k]), &size);
            op_destroy(&op);
        }
    }
}

/* ---- Adam */

typedef struct adam_case {
    int64_t count;
    float clip;
} adam_case;

enum { WEIGHTS = 0, MOMENT1 = 1, MOMENT2 = 2, GRADIENT = 3, CONTROL = 4, NORM2 = 5 };
static const float adam_beta1 = 0.9f, adam_beta2 = 0.999f, adam_epsilon = 1e-8f;

static mmebm_status call_adam(const mmebm_context *context, float **arrays, const void *arguments)
{
    const adam_case *wanted = arguments;
    const mmebm_adam_step step = {.count = wanted->count, .weights = arrays[WEIGHTS], .moment1 = arrays[MOMENT1],
                                  .moment2 = arrays[MOMENT2], .gradient = arrays[GRADIENT],
                                  .control = arrays[CONTROL], .norm2 = arrays[NORM2], .beta1 = adam_beta1,
                                  .beta2 = adam_beta2, .epsilon = adam_epsilon, .clip = wanted->clip};
    return context->ops->adam(context->device, &step);
}

/* The sizes of the terms of one element: the new moments' and the new weight's. */
static void adam_sizes(const op_run *op, int64_t e, double factor, double size[3])
{
    const float *control = op->arrays[CONTROL].initial;
    const double gradient = factor * fabs(op->arrays[GRADIENT].initial[e]);
    size[MOMENT1] = adam_beta1 * fabs(op->arrays[MOMENT1].initial[e]) + (1.0 - adam_beta1) * gradient;
    size[MOMENT2] = adam_beta2 * fabs(op->arrays[MOMENT2].initial[e]) + (1.0 - adam_beta2) * gradient * gradient;
    size[WEIGHTS] = fabs(op->arrays[WEIGHTS].initial[e]) +
                    control[0] * size[MOMENT1] / control[1] / (sqrt(size[MOMENT2] / control[2]) + adam_epsilon);
}

static void check_adam(const adam_case *wanted)
{
    op_run op = {.what = "adam"};
    op_add_random(&op, "weights", wanted->count, WRITTEN, 1.0);
    op_add_random(&op, "first moment", wanted->count, WRITTEN, 0.1);
    float *moment2 = op_add_random(&op, "second moment", wanted->count, WRITTEN, 0.1);
    op_add_random(&op, "gradient", wanted->count, READ_ONLY, 0.5);
    float *control = op_add(&op, "control", 3, READ_ONLY);
    op_add(&op, "norm2", 1, READ_ONLY)[0] = 4.0f;
    control[0] = 1e-3f;
    control[1] = 1.0f - 0.729f;
    control[2] = 0.002997f;
    for (int64_t e = 0; e < wanted->count; ++e) moment2[e] = e % 5 ? fabsf(moment2[e]) : 0.0f;
    if (wanted->count > 20) plant_specials(op.arrays[GRADIENT].initial, 3);
    op_execute(&op, call_adam, wanted);
    double *size[3];
    for (int a = 0; a < 3; ++a) size[a] = test_memory((size_t)wanted->count, sizeof(double));
    for (int64_t e = 0; e < wanted->count; ++e) {
        double sizes[3];
        adam_sizes(&op, e, wanted->clip > 0.0f && wanted->clip < 2.0f ? wanted->clip / 2.0 : 1.0, sizes);
        for (int a = 0; a < 3; ++a) size[a][e] = sizes[a];
    }
    /* clip / norm, 1 - beta, two products, a sum; squared for the second moment; then divisions and a root */
    check_units(&op, MOMENT1, 6.0, size[MOMENT1]);
    check_units(&op, MOMENT2, 10.0, size[MOMENT2]);
    check_units(&op, WEIGHTS, 16.0, size[WEIGHTS]);
    for (int a = 0; a < 3; ++a) free(size[a]);
    op_destroy(&op);
}

TEST(adam)
{
    for (int k = 0; k < COUNTS; ++k) {
        check_adam(&(adam_case){counts[k], 0.0f});
        check_adam(&(adam_case){counts[k], 0.5f});
        check_adam(&(adam_case){counts[k], 10.0f});
    }
}

/* ---- spectral norm */

typedef struct matrix_size {
    int64_t rows, cols;
} matrix_size;

static const matrix_size matrices[] = {{1, 1}, {1, 37}, {37, 1}, {3, 5}, {16, 27}, {33, 130}, {128, 64}};
enum { MATRICES = sizeof matrices / sizeof *matrices };
enum { MATRIX = 0, NORMALISED = 1, LEFT = 2, RIGHT = 3, SIGMA = 4, MATRIX_GRADIENT = 5 };

static mmebm_spectral spectral_of(float **arrays, const matrix_size *size)
{
    return (mmebm_spectral){size->rows,   size->cols,    arrays[MATRIX], arrays[NORMALISED],
                            arrays[LEFT], arrays[RIGHT], arrays[SIGMA],  arrays[MATRIX_GRADIENT]};
}

static mmebm_status call_spectral_update(const mmebm_context *context, float **arrays, const void *arguments)
{
    const mmebm_spectral spectral = spectral_of(arrays, arguments);
    return context->ops->spectral_update(context->device, &spectral);
}

static mmebm_status call_spectral_gradient(const mmebm_context *context, float **arrays, const void *arguments)
{
    const mmebm_spectral spectral = spectral_of(arrays, arguments);
    return context->ops->spectral_gradient(context->device, &spectral);
}

static double norm_of(const float *values, int64_t count)
{
    double total = 0.0;
    for (int64_t e = 0; e < count; ++e) total += (double)values[e] * values[e];
    return sqrt(total);
}

/* A matrix with vectors of unit length and its first sigma; `written` says which operation. */
static void add_spectral(op_run *op, const matrix_size *size, int is_update)
{
    op_add_random(op, "W", size->rows * size->cols, READ_ONLY, 1.0);
    op_add_random(op, "W / sigma", size->rows * size->cols, is_update, 0.3);
    float *left = op_add_random(op, "u", size->rows, is_update, 1.0);
    float *right = op_add_random(op, "v", size->cols, is_update, 1.0);
    op_add(op, "sigma", 1, is_update)[0] = 1.75f;
    op_add_random(op, "gradient", size->rows * size->cols, !is_update, 1.0);
    const double left_norm = norm_of(left, size->rows), right_norm = norm_of(right, size->cols);
    for (int64_t e = 0; e < size->rows; ++e) left[e] = (float)(left[e] / left_norm);
    for (int64_t e = 0; e < size->cols; ++e) right[e] = (float)(right[e] / right_norm);
}

/* How much larger than a product W' u (transposed) or W v rounding errors of its sums can look: |W| |u| over |W' u| in
 * norm. */
static double cancellation(const op_run *op, const matrix_size *size, int transposed)
{
    const float *matrix = op->arrays[MATRIX].initial;
    const float *vector = transposed ? op->arrays[LEFT].initial : op->arrays[RIGHT].found[0];
    const int64_t results = transposed ? size->cols : size->rows, terms = transposed ? size->rows : size->cols;
    double total = 0.0, absolute = 0.0;
    for (int64_t i = 0; i < results; ++i) {
        double sum = 0.0, sizes = 0.0;
        for (int64_t k = 0; k < terms; ++k) {
            const double term = matrix[transposed ? k * size->cols + i : i * size->cols + k] * (double)vector[k];
            sum += term;
            sizes += fabs(term);
        }
        total += sum * sum;
        absolute += sizes * sizes;
    }
    return sqrt(absolute / total);
}

static void check_norm_of_difference(const op_run *op, int a, double units)
{
    const op_array *array = &op->arrays[a];
    double error2 = 0.0;
    for (int64_t e = 0; e < array->count; ++e) {
        const double error = (double)array->found[1][e] - array->found[0][e];
        error2 += error * error;
    }
    const double bound = units * UNIT_F32 * norm_of(array->found[0], array->count);
    report_share(op->what, array->name, sqrt(error2) / bound);
    CHECK_MSG(sqrt(error2) <= bound, "%s: '%s' is off by %.3g in norm, bound %.3g", op->what, array->name,
              sqrt(error2), bound);
}

TEST(spectral_update)
{
    for (int k = 0; k < MATRICES; ++k) {
        const matrix_size *size = &matrices[k];
        op_run op = {.what = "spectral_update"};
        add_spectral(&op, size, 1);
        op_execute(&op, call_spectral_update, size);
        /* v: sums and a normalisation. u: the same, and v's error through W, at most |W|_F / sigma times larger. */
        const double matrix_norm = norm_of(op.arrays[MATRIX].initial, size->rows * size->cols);
        const double spread = matrix_norm / op.arrays[SIGMA].found[0][0];
        const double right = units_of_sum(size->rows) * cancellation(&op, size, 1) + 4.0;
        const double left = units_of_sum(size->cols) * cancellation(&op, size, 0) + 4.0 + spread * right;
        check_norm_of_difference(&op, RIGHT, right);
        check_norm_of_difference(&op, LEFT, left);
        check_norm_of_difference(&op, SIGMA, left);
        check_norm_of_difference(&op, NORMALISED, left + 2.0);
        op_destroy(&op);
    }
}

TEST(spectral_gradient)
{
    for (int k = 0; k < MATRICES; ++k) {
        const matrix_size *matrix = &matrices[k];
        const int64_t count = matrix->rows * matrix->cols;
        op_run op = {.what = "spectral_gradient"};
        add_spectral(&op, matrix, 0);
        op_execute(&op, call_spectral_gradient, matrix);
        double *size = test_memory((size_t)count, sizeof *size), along = 0.0;
        for (int64_t e = 0; e < count; ++e)
            along += fabs((double)op.arrays[MATRIX_GRADIENT].initial[e] * op.arrays[NORMALISED].initial[e]);
        for (int64_t e = 0; e < count; ++e)
            size[e] = (fabs(op.arrays[MATRIX_GRADIENT].initial[e]) +
                       along * fabs((double)op.arrays[LEFT].initial[e / matrix->cols] *
                                    op.arrays[RIGHT].initial[e % matrix->cols])) /
                      op.arrays[SIGMA].initial[0];
        check_units(&op, MATRIX_GRADIENT, units_of_sum(count), size);
        free(size);
        op_destroy(&op);
    }
}

int check_vectors(void)
{
    RUN_SELECTED(copy);
    RUN_SELECTED(fill);
    RUN_SELECTED(combine);
    RUN_SELECTED(lerp);
    RUN_SELECTED(row_distance);
    RUN_SELECTED(reduce);
    RUN_SELECTED(adam);
    RUN_SELECTED(spectral_update);
    RUN_SELECTED(spectral_gradient);
    return HARNESS_RESULT();
}

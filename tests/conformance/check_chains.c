/* SPDX-License-Identifier: Apache-2.0
 *
 * Operations of a backend that draw random numbers, against the reference and against philox.h itself: noise, the
 * Langevin update, Metropolis-adjusted Langevin. Random numbers must agree in every bit. Every case is run for all rows
 * and for one row alone as its own chain.
 */
#include "check_op.h"

enum { ROWS = 10, PERIOD = 5, ALONE = 3 /* the row that is run alone */, STEP_NUMBER = 11 };
static const uint64_t FIRST_CHAIN = (UINT64_C(1) << 32) - 2; /* chains of a call cross the 32-bit boundary */
static const int64_t sizes[] = {1, 3, 4, 5, 16, 31, 32, 1001};
enum { SIZES = sizeof sizes / sizeof *sizes };

/* Rows first .. first + rows - 1 of ROWS rows of random numbers. */
static float *add_rows(op_run *op, const char *name, int64_t first, int64_t rows, int64_t size, int written,
                       double bound)
{
    uint64_t state = (setting.seed * 64 + (uint64_t)op->count) << 32;
    float *values = op_add(op, name, rows * size, written);
    state += (uint64_t)(first * size);
    for (int64_t e = 0; e < rows * size; ++e) values[e] = (float)(bound * draw_uniform(&state));
    return values;
}

/* A row alone is a call of period 1 that begins at the row's chain. */
static int64_t period_of(int64_t rows)
{
    return rows == 1 ? 1 : PERIOD;
}

static mmebm_noise noise_of(const float *key, uint32_t stream, int64_t rows)
{
    return (mmebm_noise){.key = op_key(key), .period = period_of(rows), .stream = stream, .step = STEP_NUMBER};
}

/* xi by philox.h alone. */
static float drawn(uint32_t family, uint32_t stream, int64_t row, int64_t element)
{
    const mmebm_philox_block block =
        mmebm__random_block(0x123456789abcdef0u + setting.seed, stream + (uint32_t)(row / PERIOD),
                            FIRST_CHAIN + (uint64_t)(row % PERIOD), STEP_NUMBER, (uint32_t)(element / 4));
    float normals[4];
    mmebm__normals(block, normals);
    return family == MMEBM_LAPLACE ? mmebm__laplace(block.word[element % 4]) : normals[element % 4];
}

/* ---- noise */

typedef struct noise_case {
    int64_t rows, size;
    uint32_t family;
    float scale, add;
} noise_case;

static mmebm_status call_noise(const mmebm_context *context, float **arrays, const void *arguments)
{
    const noise_case *wanted = arguments;
    const mmebm_noise noise = noise_of(arrays[1], MMEBM_STREAM_X + 2, wanted->rows);
    return context->ops->noise(context->device, wanted->rows, wanted->size, arrays[0], wanted->family, wanted->scale,
                               wanted->add, &noise);
}

static void run_noise(op_run *op, noise_case wanted, int64_t first)
{
    *op = (op_run){.what = "noise"};
    float *target = add_rows(op, "target", first, wanted.rows, wanted.size, WRITTEN, 1.0);
    if (wanted.add == 0.0f) target[0] = NAN; /* must not be read */
    op_add_key(op, FIRST_CHAIN + (uint64_t)first);
    op_execute(op, call_noise, &wanted);
}

static void check_noise(noise_case wanted)
{
    op_run many, one;
    run_noise(&many, wanted, 0);
    const int64_t count = wanted.rows * wanted.size;
    float *exact = test_memory((size_t)count, sizeof *exact);
    double *size = test_memory((size_t)count, sizeof *size);
    for (int64_t e = 0; e < count; ++e) {
        exact[e] = wanted.scale * drawn(wanted.family, MMEBM_STREAM_X + 2, e / wanted.size, e % wanted.size);
        size[e] = fabs((double)exact[e]) + fabs((double)wanted.add * many.arrays[0].initial[e]);
    }
    if (wanted.add == 0.0f)
        check_bits(&many, &many.arrays[0], exact);
    else
        check_units(&many, 0, 2.0, size); /* two products */
    wanted.rows = 1;
    run_noise(&one, wanted, ALONE);
    check_rows_alone(&many, &one, 0, ALONE, wanted.size);
    free(exact);
    free(size);
    op_destroy(&many);
    op_destroy(&one);
}

TEST(noise)
{
    for (int k = 0; k < SIZES; ++k) {
        for (uint32_t family = MMEBM_GAUSSIAN; family <= MMEBM_LAPLACE; ++family) {
            check_noise((noise_case){ROWS, sizes[k], family, 1.0f, 0.0f});
            check_noise((noise_case){ROWS, sizes[k], family, 0.3f, 0.0f});
            check_noise((noise_case){ROWS, sizes[k], family, 0.03f, 1.0f});
            check_noise((noise_case){ROWS, sizes[k], family, 0.7f, -0.4f});
        }
    }
}

/* ---- Langevin */

typedef struct langevin_case {
    int64_t rows, size;
    float l, n;
    mmebm_drift drift;
    float state_min, state_max;
    int with_specials;
} langevin_case;

enum { STATE = 0, GRADIENT = 1, SCALES = 2, KEY = 3 };

static mmebm_langevin_step step_of(const langevin_case *wanted, float **arrays)
{
    return (mmebm_langevin_step){.rows = wanted->rows,
                                 .size = wanted->size,
                                 .state = arrays[STATE],
                                 .gradient = arrays[GRADIENT],
                                 .scales = arrays[SCALES],
                                 .drift = wanted->drift,
                                 .state_min = wanted->state_min,
                                 .state_max = wanted->state_max,
                                 .noise = noise_of(arrays[KEY], MMEBM_STREAM_Z, wanted->rows)};
}

static mmebm_status call_langevin(const mmebm_context *context, float **arrays, const void *arguments)
{
    const mmebm_langevin_step step = step_of(arguments, arrays);
    return context->ops->langevin(context->device, &step, 1);
}

static void run_langevin(op_run *op, langevin_case wanted, int64_t first)
{
    *op = (op_run){.what = "langevin"};
    float *state = add_rows(op, "state", first, wanted.rows, wanted.size, WRITTEN, 1.0);
    float *gradient = add_rows(op, "gradient", first, wanted.rows, wanted.size, READ_ONLY, 5.0);
    float *scales = op_add(op, "scales", 2, READ_ONLY);
    scales[0] = wanted.l;
    scales[1] = wanted.n;
    op_add_key(op, FIRST_CHAIN + (uint64_t)first);
    if (wanted.with_specials && wanted.rows > 1) { /* not in the first rows, which other cases run alone */
        state[4 * wanted.size] = NAN;
        gradient[5 * wanted.size] = NAN;
        gradient[6 * wanted.size] = INFINITY;
        state[7 * wanted.size] = -INFINITY;
    }
    op_execute(op, call_langevin, &wanted);
}

/* Terms: the state, the drift as it would be unbounded or its bound, the noise. The drift has four roundings, a row's
 * norm that of its sum, the noise one, the sum two; bounding makes no error larger. */
static void check_langevin(langevin_case wanted)
{
    op_run many, one;
    run_langevin(&many, wanted, 0);
    const int64_t count = wanted.rows * wanted.size;
    double *size = test_memory((size_t)count, sizeof *size);
    for (int64_t e = 0; e < count; ++e) {
        double drift = fabs(0.5 * wanted.l * wanted.l * wanted.drift.factor * many.arrays[GRADIENT].initial[e]);
        if (wanted.drift.clamp > 0.0f) drift = fmin(drift, wanted.drift.clamp);
        size[e] = fabs(many.arrays[STATE].initial[e]) + drift +
                  fabs(wanted.n * drawn(MMEBM_GAUSSIAN, MMEBM_STREAM_Z, e / wanted.size, e % wanted.size));
    }
    check_units(&many, STATE, 8.0 + (wanted.drift.norm_clip > 0.0f ? sqrt((double)wanted.size) : 0.0), size);
    wanted.rows = 1;
    run_langevin(&one, wanted, ALONE);
    check_rows_alone(&many, &one, STATE, ALONE, wanted.size);
    free(size);
    op_destroy(&many);
    op_destroy(&one);
}

TEST(langevin)
{
    for (int k = 0; k < SIZES; ++k) {
        const int64_t size = sizes[k];
        check_langevin((langevin_case){ROWS, size, 0.1f, 0.001f, {1.0f, 0.0f, 0.0f}, 0.0f, 0.0f, 0});
        check_langevin((langevin_case){ROWS, size, 0.5f, 0.5f, {0.2f, 0.0f, 0.0f}, 0.0f, 0.0f, 1});
        check_langevin((langevin_case){ROWS, size, 0.5f, 0.0f, {1.0f, 0.1f, 0.0f}, 0.0f, 0.0f, 1});
        check_langevin((langevin_case){ROWS, size, 0.5f, 0.1f, {1.0f, 0.0f, 0.7f}, 0.0f, 0.0f, 0});
        check_langevin((langevin_case){ROWS, size, 0.5f, 0.1f, {1.0f, 0.2f, 0.7f}, -0.5f, 0.25f, 0});
        check_langevin((langevin_case){ROWS, size, 0.5f, 0.1f, {1.0f, 0.0f, 0.0f}, 0.0f, 1.0f, 1});
    }
}

/* From state 0 without drift the update is the noise itself: every bit. */
TEST(langevin_noise)
{
    for (int k = 0; k < SIZES; ++k) {
        const langevin_case wanted = {.rows = ROWS, .size = sizes[k], .l = 0.0f, .n = 1.0f, .drift = {.factor = 1.0f}};
        op_run op = {.what = "langevin"};
        op_add(&op, "state", ROWS * sizes[k], WRITTEN);
        op_add_random(&op, "gradient", ROWS * sizes[k], READ_ONLY, 1.0);
        op_add(&op, "scales", 2, READ_ONLY)[1] = 1.0f;
        op_add_key(&op, FIRST_CHAIN);
        op_execute(&op, call_langevin, &wanted);
        float *exact = test_memory((size_t)(ROWS * sizes[k]), sizeof *exact);
        for (int64_t e = 0; e < ROWS * sizes[k]; ++e)
            exact[e] = drawn(MMEBM_GAUSSIAN, MMEBM_STREAM_Z, e / sizes[k], e % sizes[k]);
        check_bits(&op, &op.arrays[STATE], exact);
        free(exact);
        op_destroy(&op);
    }
}

/* As many states of several sizes as a call may have, one after another in memory: some begin where vectors do. */
typedef struct several_case {
    langevin_case rule;
    int together; /* 1: in one call */
} several_case;

static int64_t several_size(uint32_t k)
{
    return sizes[k % SIZES];
}

static mmebm_status call_several(const mmebm_context *context, float **arrays, const void *arguments)
{
    const several_case *wanted = arguments;
    mmebm_langevin_step steps[MMEBM_MAX_LANGEVIN_STEPS];
    int64_t at = 0;
    for (uint32_t k = 0; k < MMEBM_MAX_LANGEVIN_STEPS; ++k) {
        steps[k] = step_of(&wanted->rule, arrays);
        steps[k].size = several_size(k);
        steps[k].state += at;
        steps[k].gradient += at;
        steps[k].noise.stream = MMEBM_STREAM_X + k;
        at += ROWS * several_size(k);
    }
    if (wanted->together) return context->ops->langevin(context->device, steps, MMEBM_MAX_LANGEVIN_STEPS);
    for (uint32_t k = 0; k < MMEBM_MAX_LANGEVIN_STEPS; ++k) {
        const mmebm_status status = context->ops->langevin(context->device, &steps[k], 1);
        if (status != MMEBM_OK) return status;
    }
    return MMEBM_OK;
}

static void run_several(op_run *op, langevin_case rule, int together)
{
    const several_case wanted = {rule, together};
    int64_t count = 0;
    for (uint32_t k = 0; k < MMEBM_MAX_LANGEVIN_STEPS; ++k) count += ROWS * several_size(k);
    *op = (op_run){.what = "langevin of several states"};
    op_add_random(op, "states", count, WRITTEN, 1.0);
    op_add_random(op, "gradients", count, READ_ONLY, 5.0);
    float *scales = op_add(op, "scales", 2, READ_ONLY);
    scales[0] = rule.l;
    scales[1] = rule.n;
    op_add_key(op, FIRST_CHAIN);
    op_execute(op, call_several, &wanted);
}

/* Every bit is that of single calls. */
TEST(langevin_of_several_states)
{
    const langevin_case rules[] = {{ROWS, 0, 0.1f, 0.1f, {1.0f, 0.0f, 0.0f}, 0.0f, 0.0f, 0},
                                   {ROWS, 0, 0.5f, 0.1f, {0.2f, 0.2f, 0.0f}, -0.5f, 0.25f, 0},
                                   {ROWS, 0, 0.5f, 0.1f, {1.0f, 0.2f, 0.7f}, 0.0f, 1.0f, 0}};
    for (size_t k = 0; k < sizeof rules / sizeof *rules; ++k) {
        op_run together, single;
        run_several(&together, rules[k], 1);
        run_several(&single, rules[k], 0);
        for (int s = 0; s < OP_SIDES; ++s)
            CHECK_MSG(memcmp(together.arrays[STATE].found[s], single.arrays[STATE].found[s],
                             (size_t)single.arrays[STATE].count * sizeof(float)) == 0,
                      "rule %d, side %d: a state's bits depend on the states beside it", (int)k, s);
        op_destroy(&together);
        op_destroy(&single);
    }
}

/* ---- Metropolis-adjusted Langevin */

enum {
    Z = 0,
    Y = 1,
    ENERGY = 2,
    Z_GRADIENT = 3,
    ENERGY_Y = 4,
    Y_GRADIENT = 5,
    MALA_SCALES = 6,
    ACCEPTED = 7,
    MALA_KEY = 8
};
static const float mala_l = 0.4f;
/* The norm of an unbounded drift is 0.02 sqrt(size); bounds take hold in most rows, of size 1 too. */
static const mmebm_drift mala_drifts[] = {{0.75f, 0.0f, 0.0f}, {0.75f, 0.01f, 0.0f}, {0.75f, 0.0f, 0.015f},
                                          {0.75f, 0.02f, 0.03f}};
enum { MALA_DRIFTS = sizeof mala_drifts / sizeof *mala_drifts };

typedef struct mala_case {
    int64_t rows, size;
    int accept; /* else propose */
    mmebm_drift drift;
} mala_case;

/* b(g) of element e of an array of rows. */
static double mala_drift(const mala_case *wanted, const float *gradient, int64_t e)
{
    const mmebm_drift *drift = &wanted->drift;
    const int64_t row = e / wanted->size;
    const double half = 0.5 * mala_l * mala_l * drift->factor, clamp = drift->clamp > 0.0f ? drift->clamp : INFINITY;
    double square = 0.0;
    for (int64_t i = row * wanted->size; i < (row + 1) * wanted->size; ++i) {
        const double b = fmax(-clamp, fmin(clamp, half * gradient[i]));
        square += b * b;
    }
    const double b = fmax(-clamp, fmin(clamp, half * gradient[e])), norm = sqrt(square);
    return drift->norm_clip > 0.0f && norm > drift->norm_clip ? b * drift->norm_clip / norm : b;
}

static mmebm_status call_mala(const mmebm_context *context, float **arrays, const void *arguments)
{
    const mala_case *wanted = arguments;
    const uint32_t stream = wanted->accept ? MMEBM_STREAM_ACCEPT : MMEBM_STREAM_Z;
    const mmebm_mala_step step = {.rows = wanted->rows,
                                  .size = wanted->size,
                                  .z = arrays[Z],
                                  .y = arrays[Y],
                                  .energy = arrays[ENERGY],
                                  .gradient = arrays[Z_GRADIENT],
                                  .energy_y = arrays[ENERGY_Y],
                                  .gradient_y = arrays[Y_GRADIENT],
                                  .scales = arrays[MALA_SCALES],
                                  .drift = wanted->drift,
                                  .accepted = arrays[ACCEPTED],
                                  .noise = noise_of(arrays[MALA_KEY], stream, wanted->rows)};
    return wanted->accept ? context->ops->mala_accept(context->device, &step)
                          : context->ops->mala_propose(context->device, &step);
}

/* A state, a proposal made from it, and energies near each other, so that about half are accepted. */
static void add_mala(op_run *op, const mala_case *wanted, int64_t first)
{
    const int64_t rows = wanted->rows, size = wanted->size;
    *op = (op_run){.what = wanted->accept ? "mala_accept" : "mala_propose"};
    const float *z = add_rows(op, "z", first, rows, size, wanted->accept, 1.0);
    float *y = add_rows(op, "y", first, rows, size, !wanted->accept, 1.0);
    add_rows(op, "E", first, rows, 1, wanted->accept, 3.0);
    const float *gradient = add_rows(op, "g", first, rows, size, wanted->accept, 0.5);
    add_rows(op, "E at y", first, rows, 1, READ_ONLY, 3.0);
    float *gradient_y = add_rows(op, "g at y", first, rows, size, READ_ONLY, 0.5);
    float *scales = op_add(op, "scales", 2, READ_ONLY);
    scales[0] = scales[1] = mala_l;
    add_rows(op, "accepted", first, rows, 1, wanted->accept, 0.0);
    op_add_key(op, FIRST_CHAIN + (uint64_t)first);
    for (int64_t e = 0; wanted->accept && e < rows * size; ++e) {
        const float xi = drawn(MMEBM_GAUSSIAN, MMEBM_STREAM_Z, first + e / size, e % size);
        y[e] = (float)(z[e] - mala_drift(wanted, gradient, e) + mala_l * xi);
        gradient_y[e] = gradient[e] + 0.1f * gradient_y[e];
    }
}

/* Terms: the state, the gradient, of which the drift is less than a tenth, the noise. */
static void check_propose(mala_case wanted)
{
    const int64_t count = wanted.rows * wanted.size;
    op_run many, one;
    add_mala(&many, &wanted, 0);
    op_execute(&many, call_mala, &wanted);
    double *size = test_memory((size_t)count, sizeof *size);
    for (int64_t e = 0; e < count; ++e) {
        const double xi = drawn(MMEBM_GAUSSIAN, MMEBM_STREAM_Z, e / wanted.size, e % wanted.size);
        const double z = many.arrays[Z].initial[e];
        const double exact = z - mala_drift(&wanted, many.arrays[Z_GRADIENT].initial, e) + mala_l * xi;
        size[e] = fabs(z) + fabs(many.arrays[Z_GRADIENT].initial[e]) + fabs(xi);
        CHECK(fabs(many.arrays[Y].found[0][e] - exact) <= 8.0 * UNIT_F32 * size[e]); /* the yardstick itself */
    }
    check_units(&many, Y, 8.0, size);
    wanted.rows = 1;
    add_mala(&one, &wanted, ALONE);
    op_execute(&one, call_mala, &wanted);
    check_rows_alone(&many, &one, Y, ALONE, wanted.size);
    free(size);
    op_destroy(&many);
    op_destroy(&one);
}

TEST(mala_propose)
{
    for (int k = 0; k < SIZES; ++k)
        for (int d = 0; d < MALA_DRIFTS; ++d) check_propose((mala_case){ROWS, sizes[k], 0, mala_drifts[d]});
}

/* log of the acceptance ratio of a row less log of its uniform number; *size is the sum of the terms' sizes. */
static double acceptance_margin(const op_run *op, const mala_case *wanted, int64_t row, double *terms)
{
    const int64_t size = wanted->size;
    const double before = wanted->drift.factor * op->arrays[ENERGY].initial[row];
    const double after = wanted->drift.factor * op->arrays[ENERGY_Y].initial[row];
    double forward = 0.0, reverse = 0.0;
    for (int64_t e = row * size; e < (row + 1) * size; ++e) {
        const double move = (double)op->arrays[Y].initial[e] - op->arrays[Z].initial[e];
        const double there = move + mala_drift(wanted, op->arrays[Z_GRADIENT].initial, e);
        const double back = move - mala_drift(wanted, op->arrays[Y_GRADIENT].initial, e);
        forward += there * there / (2.0 * mala_l * mala_l);
        reverse += back * back / (2.0 * mala_l * mala_l);
    }
    const mmebm_philox_block block =
        mmebm__random_block(0x123456789abcdef0u + setting.seed, MMEBM_STREAM_ACCEPT + (uint32_t)(row / PERIOD),
                            FIRST_CHAIN + (uint64_t)(row % PERIOD), STEP_NUMBER, 0);
    *terms = fabs(before) + fabs(after) + forward + reverse;
    return before - after + forward - reverse - log(((double)(block.word[0] >> 9) + 0.5) * 0x1p-23);
}

static void check_accepted_row(const op_run *op, int64_t row, int64_t size, int accepted)
{
    const op_array *arrays = op->arrays;
    const size_t bytes = (size_t)size * sizeof(float);
    const int64_t at = row * size;
    const float *z = accepted ? arrays[Y].initial : arrays[Z].initial;
    const float *gradient = accepted ? arrays[Y_GRADIENT].initial : arrays[Z_GRADIENT].initial;
    const float *energy = accepted ? arrays[ENERGY_Y].initial : arrays[ENERGY].initial;
    CHECK_MSG(arrays[ACCEPTED].found[1][row] == (accepted ? 1.0f : 0.0f), "row %d of size %d: accepted %g, wanted %d",
              (int)row, (int)size, (double)arrays[ACCEPTED].found[1][row], accepted);
    CHECK(memcmp(arrays[Z].found[1] + at, z + at, bytes) == 0);
    CHECK(memcmp(arrays[Z_GRADIENT].found[1] + at, gradient + at, bytes) == 0);
    CHECK(memcmp(&arrays[ENERGY].found[1][row], &energy[row], sizeof(float)) == 0);
}

/* The decision must be the exact one, unless the margin is within 16 + sqrt(size) units of its terms. */
static void check_accept(mala_case wanted, int *decided, int *accepted)
{
    op_run many, one;
    add_mala(&many, &wanted, 0);
    op_execute(&many, call_mala, &wanted);
    for (int64_t row = 0; row < ROWS; ++row) {
        double terms;
        const double margin = acceptance_margin(&many, &wanted, row, &terms);
        if (fabs(margin) <= (16.0 + sqrt((double)wanted.size)) * UNIT_F32 * terms) continue;
        check_accepted_row(&many, row, wanted.size, margin > 0.0);
        ++*decided;
        *accepted += margin > 0.0;
    }
    wanted.rows = 1;
    add_mala(&one, &wanted, ALONE);
    op_execute(&one, call_mala, &wanted);
    check_rows_alone(&many, &one, Z, ALONE, wanted.size);
    op_destroy(&many);
    op_destroy(&one);
}

TEST(mala_accept)
{
    for (int d = 0; d < MALA_DRIFTS; ++d) {
        int decided = 0, accepted = 0;
        for (int k = 0; k < SIZES; ++k)
            check_accept((mala_case){ROWS, sizes[k], 1, mala_drifts[d]}, &decided, &accepted);
        CHECK_MSG(decided >= 70 && accepted >= 10 && decided - accepted >= 10,
                  "%d of %d accepted: no test of the rule", accepted, decided);
    }
}

/* What is not finite is never accepted, however much lower its energy. */
TEST(mala_accept_refuses_what_is_not_finite)
{
    enum { SIZE = 5 };
    const mala_case wanted = {ROWS, SIZE, 1, mala_drifts[0]};
    op_run op;
    add_mala(&op, &wanted, 0);
    for (int64_t row = 0; row < ROWS; ++row) op.arrays[ENERGY_Y].initial[row] = -1e30f;
    op.arrays[ENERGY_Y].initial[0] = NAN;
    op.arrays[ENERGY_Y].initial[1] = INFINITY;
    op.arrays[ENERGY_Y].initial[2] = -INFINITY;
    op.arrays[Y_GRADIENT].initial[3 * SIZE + 4] = NAN;
    op.arrays[Y_GRADIENT].initial[4 * SIZE] = INFINITY;
    op_execute(&op, call_mala, &wanted);
    for (int64_t row = 0; row < ROWS; ++row) check_accepted_row(&op, row, SIZE, row > 4);
    op_destroy(&op);
}

typedef struct adapt_case {
    int64_t rows;
    float min, max;
} adapt_case;

static mmebm_status call_mala_adapt(const mmebm_context *context, float **arrays, const void *arguments)
{
    const adapt_case *wanted = arguments;
    const mmebm_mala_adapt adapt = {.rows = wanted->rows, .accepted = arrays[0], .scales = arrays[1],
                                    .mean_acceptance = arrays[2], .steps = 20.0f, .rate = 0.2f, .target = 0.6f,
                                    .min = wanted->min, .max = wanted->max};
    return context->ops->mala_adapt(context->device, &adapt);
}

TEST(mala_adapt)
{
    static const adapt_case cases[] = {{1, 0.001f, 1.0f}, {17, 0.001f, 1.0f}, {640, 0.001f, 1.0f}, {640, 0.5f, 1.0f},
                                       {33, 0.001f, 0.05f}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; ++k) {
        op_run op = {.what = "mala_adapt"};
        uint64_t state = k;
        float *accepted = op_add(&op, "accepted", cases[k].rows, READ_ONLY);
        for (int64_t r = 0; r < cases[k].rows; ++r) accepted[r] = (float)floor(10.0 + 10.0 * draw_uniform(&state));
        float *scales = op_add(&op, "scales", 2, WRITTEN);
        scales[0] = scales[1] = 0.1f;
        op_add(&op, "mean acceptance", 1, WRITTEN);
        op_execute(&op, call_mala_adapt, &cases[k]);
        const double size[2] = {op.arrays[1].found[0][0], op.arrays[1].found[0][0]}, mean = op.arrays[2].found[0][0];
        check_units(&op, 1, 6.0, size); /* difference, product, exp, product */
        check_units(&op, 2, 4.0, &mean); /* counts add up exactly; two divisions */
        CHECK(op.arrays[1].found[1][0] == op.arrays[1].found[1][1]);
        CHECK(op.arrays[1].found[1][0] >= cases[k].min && op.arrays[1].found[1][0] <= cases[k].max);
        op_destroy(&op);
    }
}

int check_chains(void)
{
    RUN_SELECTED(noise);
    RUN_SELECTED(langevin);
    RUN_SELECTED(langevin_noise);
    RUN_SELECTED(langevin_of_several_states);
    RUN_SELECTED(mala_propose);
    RUN_SELECTED(mala_accept);
    RUN_SELECTED(mala_accept_refuses_what_is_not_finite);
    RUN_SELECTED(mala_adapt);
    return HARNESS_RESULT();
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * Running one vector operation on the reference and on the tested backend with 1, 2 and 3 threads, from the same
 * arrays. A test adds arrays, fills them, runs, compares. Every run checks by itself: guard words, unchanged inputs,
 * nothing allocated, the same bits for every thread count.
 *
 * Bounds are counted in units 2^-24, the largest relative error of one float rounding, of the size of the terms that
 * make up an element. A value that is not finite must be so in the same way on both sides.
 */
#ifndef MMEBM_TEST_CHECK_OP_H
#define MMEBM_TEST_CHECK_OP_H

#include "check.h"

enum { OP_ARRAYS = 32, OP_SIDES = 1 + TESTED_SIDES };
enum { READ_ONLY = 0, WRITTEN = 1 };

typedef struct op_array {
    const char *name;
    int64_t count;
    int written;
    float *initial;
    float *found[OP_SIDES]; /* reference, then the tested sides */
} op_array;

typedef struct op_run {
    const char *what;
    int count;
    op_array arrays[OP_ARRAYS];
} op_run;

/* Calls the operation with device addresses in the order in which arrays were added. */
typedef mmebm_status (*op_call)(const mmebm_context *context, float **arrays, const void *arguments);

/* Adds an array of zeros and returns it for filling. */
static inline float *op_add(op_run *op, const char *name, int64_t count, int written)
{
    op_array *array = &op->arrays[op->count++];
    *array = (op_array){.name = name, .count = count, .written = written};
    array->initial = test_memory((size_t)count, sizeof(float));
    for (int s = 0; s < OP_SIDES; ++s) array->found[s] = test_memory((size_t)count, sizeof(float));
    return array->initial;
}

/* The same, filled with numbers in (-size, size) that depend on the seed, the array's number and the element. */
static inline float *op_add_random(op_run *op, const char *name, int64_t count, int written, double size)
{
    uint64_t state = (setting.seed * 64 + (uint64_t)op->count) << 32;
    float *values = op_add(op, name, count, written);
    for (int64_t e = 0; e < count; ++e) values[e] = (float)(size * draw_uniform(&state));
    return values;
}

/* Noise keys: a seed and the number of the first chain. */
static inline void op_add_key(op_run *op, uint64_t first_chain)
{
    const uint64_t key[2] = {0x123456789abcdef0u + setting.seed, first_chain};
    memcpy(op_add(op, "key", sizeof key / (sizeof(float)), READ_ONLY), key, sizeof key);
}

static inline const uint64_t *op_key(const float *device)
{
    const void *memory = device;
    return memory;
}

static inline void op_destroy(op_run *op)
{
    for (int a = 0; a < op->count; ++a) {
        free(op->arrays[a].initial);
        for (int s = 0; s < OP_SIDES; ++s) free(op->arrays[a].found[s]);
    }
    op->count = 0;
}

static inline void run_on_side(op_run *op, int s, op_call call, const void *arguments)
{
    const side *owner = s == 0 ? &setting.reference : &setting.tested[s - 1];
    guarded memory[OP_ARRAYS];
    float *device[OP_ARRAYS];
    for (int a = 0; a < op->count; ++a) {
        memory[a] = guarded_create(owner, op->arrays[a].initial, (size_t)op->arrays[a].count * sizeof(float));
        device[a] = guarded_data(&memory[a]);
    }
    const uint64_t before = owner->allocations;
    const mmebm_status status = call(owner->context, device, arguments);
    const mmebm_status waited = owner->context->ops->synchronize(owner->context->device);
    CHECK_MSG(status == MMEBM_OK && waited == MMEBM_OK, "%s: %s", op->what, mmebm_last_error(owner->context));
    CHECK_MSG(owner->allocations == before, "%s allocated memory", op->what);
    for (int a = 0; a < op->count; ++a) {
        op_array *array = &op->arrays[a];
        CHECK_MSG(guarded_read(&memory[a], array->found[s]), "%s wrote beside '%s'", op->what, array->name);
        CHECK_MSG(array->written || memcmp(array->initial, array->found[s], memory[a].bytes) == 0,
                  "%s changed its input '%s'", op->what, array->name);
        guarded_destroy(&memory[a]);
    }
}

static inline void op_execute(op_run *op, op_call call, const void *arguments)
{
    for (int s = 0; s < OP_SIDES; ++s) run_on_side(op, s, call, arguments);
    for (int a = 0; a < op->count; ++a)
        for (int s = 2; s < OP_SIDES; ++s)
            CHECK_MSG(memcmp(op->arrays[a].found[1], op->arrays[a].found[s],
                             (size_t)op->arrays[a].count * sizeof(float)) == 0,
                      "%s: '%s' depends on the thread count", op->what, op->arrays[a].name);
}

/* ---- comparing */

static inline void check_bits(const op_run *op, const op_array *array, const float *expected)
{
    for (int64_t e = 0; e < array->count; ++e) {
        if (memcmp(&array->found[1][e], &expected[e], sizeof(float)) == 0) continue;
        CHECK_MSG(0, "%s: '%s' [%lld] of %lld is %.9g, wanted exactly %.9g", op->what, array->name, (long long)e,
                  (long long)array->count, (double)array->found[1][e], (double)expected[e]);
        return;
    }
}

/* Bits of the reference. */
static inline void check_bits_of(const op_run *op, int a)
{
    check_bits(op, &op->arrays[a], op->arrays[a].found[0]);
}

static inline int same_kind(double a, double b)
{
    return isnan(a) ? isnan(b) : isinf(a) ? a == b : isfinite(b);
}

/* Element e within units * 2^-24 * size[e] of the reference, and a rounding of its own. */
static inline void check_units(const op_run *op, int a, double units, const double *size)
{
    const op_array *array = &op->arrays[a];
    double worst = 0.0;
    for (int64_t e = 0; e < array->count; ++e) {
        const double expected = array->found[0][e], found = array->found[1][e];
        const double bound = UNIT_F32 * (units * size[e] + 2.0 * fabs(expected)) + 1e-37;
        if (same_kind(expected, found) && (!isfinite(expected) || fabs(found - expected) <= bound)) {
            if (isfinite(expected)) worst = fmax(worst, fabs(found - expected) / bound);
            continue;
        }
        CHECK_MSG(0, "%s: '%s' [%lld] of %lld is %.9g, wanted %.9g +- %.3g", op->what, array->name, (long long)e,
                  (long long)array->count, found, expected, bound);
        return;
    }
    report_share(op->what, array->name, worst);
}

/* Rows first .. of an array of `many` are, in bits, the rows of the same array of `few`. */
static inline void check_rows_alone(const op_run *many, const op_run *few, int a, int64_t first, int64_t row_count)
{
    const op_array *all = &many->arrays[a], *part = &few->arrays[a];
    CHECK_MSG(memcmp(all->found[1] + first * row_count, part->found[1], (size_t)part->count * sizeof(float)) == 0,
              "%s: '%s': a row's bits depend on the rows beside it", many->what, all->name);
}

#endif /* MMEBM_TEST_CHECK_OP_H */

/* SPDX-License-Identifier: Apache-2.0
 *
 * The mixture density q(z|x) (Eqn 5) against brute force in double: rulings section L, test 5.
 */
#include "laws.h"

enum { EXPERTS = 4, TUPLES = 3, CHAINS = 2, SIZE = 5, ROWS = CHAINS * TUPLES, PERIOD = TUPLES };

typedef struct mixture_case {
    uint32_t family, scale_kind;
} mixture_case;

typedef struct fixture {
    mmebm_context *context;
    float *device[2 * EXPERTS + 2];
    float mean[EXPERTS][TUPLES * SIZE], raw[EXPERTS][TUPLES * SIZE], z[ROWS * SIZE];
} fixture;

static const float FLOOR = 0.03f;

static double softplus(double a)
{
    return a > 30.0 ? a : log1p(exp(a));
}

static void scales(const float *raw, uint32_t kind, double scale[SIZE])
{
    double total = 0.0;
    for (int d = 0; d < SIZE; ++d)
        total += exp(raw[d]);
    for (int d = 0; d < SIZE; ++d)
        scale[d] = FLOOR + (kind == MMEBM_SCALE_SOFTPLUS   ? softplus(raw[d])
                            : kind == MMEBM_SCALE_EXP_HALF ? exp(0.5 * raw[d])
                                                           : SIZE * exp(raw[d]) / total);
}

static double brute_force(const fixture *f, const mixture_case *c, int row, int experts)
{
    double density = 0.0;
    for (int e = 0; e < experts; ++e) {
        const int at = row % PERIOD * SIZE;
        double scale[SIZE], product = 1.0;
        scales(f->raw[e] + at, c->scale_kind, scale);
        for (int d = 0; d < SIZE; ++d) {
            const double t = (f->z[row * SIZE + d] - f->mean[e][at + d]) / scale[d];
            product *= c->family == MMEBM_GAUSSIAN ? exp(-0.5 * t * t) / (scale[d] * sqrt(2.0 * 3.14159265358979323846))
                                                   : exp(-fabs(t)) / (2.0 * scale[d]);
        }
        density += product / experts;
    }
    return log(density);
}

/* Runs the operation on the experts that `order` lists. */
static mmebm_status run(fixture *f, const mixture_case *c, int experts, const int *order, float out[ROWS])
{
    const mmebm_backend_ops *ops = f->context->ops;
    const float *mean[EXPERTS], *raw[EXPERTS];
    for (int e = 0; e < experts; ++e) {
        mean[e] = f->device[2 * order[e]];
        raw[e] = f->device[2 * order[e] + 1];
    }
    const mmebm_mixture mixture = {
        .rows = ROWS,
        .period = PERIOD,
        .size = SIZE,
        .z = f->device[2 * EXPERTS],
        .mean = mean,
        .raw = raw,
        .log_density = f->device[2 * EXPERTS + 1],
        .floor = FLOOR,
        .experts = (uint32_t)experts,
        .family = c->family,
        .scale_kind = c->scale_kind,
    };
    MMEBM_TRY(ops->mixture(f->context->device, &mixture));
    return ops->download(f->context->device, out, f->device[2 * EXPERTS + 1], ROWS * sizeof(float));
}

static mmebm_status fill_fixture(fixture *f)
{
    f->context = open_context();
    if (!f->context) return MMEBM_E_BACKEND;
    const mmebm_backend_ops *ops = f->context->ops;
    for (uint32_t i = 0; i < ROWS * SIZE; ++i)
        f->z[i] = 2.0f * test_number(3, i);
    for (uint32_t e = 0; e < EXPERTS; ++e)
        for (uint32_t i = 0; i < TUPLES * SIZE; ++i) {
            f->mean[e][i] = test_number(40 + e, i);
            f->raw[e][i] = 2.0f * test_number(50 + e, i);
        }
    for (int k = 0; k < 2 * EXPERTS + 2; ++k)
        MMEBM_TRY(mmebm__device_floats(f->context, ROWS * SIZE, &f->device[k]));
    for (int e = 0; e < EXPERTS; ++e) {
        MMEBM_TRY(ops->upload(f->context->device, f->device[2 * e], f->mean[e], sizeof f->mean[e]));
        MMEBM_TRY(ops->upload(f->context->device, f->device[2 * e + 1], f->raw[e], sizeof f->raw[e]));
    }
    return ops->upload(f->context->device, f->device[2 * EXPERTS], f->z, sizeof f->z);
}

static void free_fixture(fixture *f)
{
    for (int k = 0; k < 2 * EXPERTS + 2; ++k)
        mmebm__device_free(f->context, f->device[k], ROWS * SIZE);
    mmebm_context_destroy(&f->context);
}

TEST(log_density_is_the_mixture)
{
    fixture f;
    memset(&f, 0, sizeof f);
    OK(f.context, fill_fixture(&f));
    const int order[EXPERTS] = {0, 1, 2, 3}, other[EXPERTS] = {2, 0, 3, 1}, same[EXPERTS] = {1, 1, 1, 1};
    for (uint32_t family = MMEBM_GAUSSIAN; family <= MMEBM_LAPLACE; ++family)
        for (uint32_t kind = MMEBM_SCALE_SOFTPLUS; kind <= MMEBM_SCALE_SOFTMAX; ++kind) {
            const mixture_case c = {family, kind};
            float found[ROWS], shuffled[ROWS], repeated[ROWS], single[ROWS];
            OK(f.context, run(&f, &c, EXPERTS, order, found));
            OK(f.context, run(&f, &c, EXPERTS, other, shuffled));
            OK(f.context, run(&f, &c, EXPERTS, same, repeated));
            OK(f.context, run(&f, &c, 1, same, single));
            for (int r = 0; r < ROWS; ++r) {
                const double wanted = brute_force(&f, &c, r, EXPERTS), bound = 4e-6 * (1.0 + fabs(wanted));
                CHECK_MSG(fabs(found[r] - wanted) < bound, "family %u, scale %u, row %d: %g, wanted %g", family, kind,
                          r, (double)found[r], wanted);
                CHECK(fabs(shuffled[r] - found[r]) < bound); /* the order of experts does not matter */
                /* four equal experts are one: the constant -log M is there */
                CHECK(fabs(repeated[r] - single[r]) < 4e-6 * (1.0 + fabs(single[r])));
            }
        }
    free_fixture(&f);
}

int main(void)
{
    SKIP_WITHOUT_DEVICE(test_backend());
    RUN(log_density_is_the_mixture);
    return HARNESS_RESULT();
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * Chains against known moments: rulings section L, tests 1, 2 and 4. For the energy E = x' P x / 2 - b' x the rule
 * x <- x - (l^2/2) f dE/dx + n xi has the stationary mean P^-1 b and, for l = n, the covariance
 * (f P (1 - f l^2 P / 4))^-1.
 */
#include "laws.h"

/* Mean square of the states of `rows` x `size` chains after k steps from the stationary law. */
static double variance_after(const float *x, size_t count)
{
    double sum = 0.0;
    for (size_t i = 0; i < count; ++i)
        sum += (double)x[i] * x[i];
    return sum / (double)count;
}

/* langevin_x on U = x^2 / 2 from a normal start of about the right variance. The estimate from N numbers has the
 * relative standard deviation sqrt(2 / N); 4.5 of them are allowed. */
static void check_variance(float step_size, float noise_scale, uint32_t steps, double expected)
{
    enum { ROWS = 64, SIZE = 2048 };
    mmebm_context *context = open_context();
    REQUIRE(context);
    mmebm_model *model = make_quadratic_model(context, SIZE, 1.0f);
    REQUIRE(model);
    float *x = malloc(sizeof(float) * ROWS * SIZE);
    for (uint32_t i = 0; i < ROWS * SIZE / 4; ++i) {
        mmebm__normals(mmebm__random_block(99, 200, 0, 0, i), x + 4 * i);
        for (int k = 0; k < 4; ++k)
            x[4 * i + k] *= (float)sqrt(expected);
    }
    mmebm_langevin_options options;
    OK(context, mmebm_langevin_x_options_init(&options));
    options.n_steps = steps;
    options.step_size = step_size;
    options.noise_scale = noise_scale;
    options.seed = 5;
    mmebm_view view = view_of(x, 2, (int64_t[]){ROWS, SIZE});
    OK(context, mmebm_langevin_x(model, &options, &view, NULL));
    const double found = variance_after(x, (size_t)ROWS * SIZE);
    const double bound = 4.5 * sqrt(2.0 / (ROWS * SIZE));
    CHECK_MSG(fabs(found / expected - 1.0) < bound, "variance %g, wanted %g within %g", found, expected, bound);
    free(x);
    mmebm_model_destroy(&model);
    mmebm_context_destroy(&context);
}

TEST(langevin_x_has_the_stationary_variance)
{
    /* T = 1e-4 and the discretisation's 0.25 %: n^2 / (1 - (1 - l^2/2)^2) */
    check_variance(0.1f, 0.001f, 500, 1.00251e-4);
    /* a step so large that the discretisation is a third of the variance */
    check_variance(1.0f, 1.0f, 30, 4.0 / 3.0);
}

TEST(step_and_temperature_round_trip)
{
    double s, t, l, n;
    CHECK(mmebm_step_from_scales(0.1, 0.001, &s, &t) == MMEBM_OK);
    CHECK(fabs(s - 5e-7) < 1e-20 && fabs(t - 1e-4) < 1e-17);
    CHECK(mmebm_scales_from_step(s, t, &l, &n) == MMEBM_OK);
    CHECK(fabs(l - 0.1) < 1e-15 && fabs(n - 0.001) < 1e-17);
    CHECK(mmebm_step_from_scales(0.1, 0.1, &s, &t) == MMEBM_OK);
    CHECK(fabs(s - 0.005) < 1e-16 && fabs(t - 1.0) < 1e-13);
}

/* ---- z on a linear Gaussian model of two latents */

typedef struct gaussian_case {
    uint64_t observed;
    uint32_t method, reduction;
    float step_size;
    uint32_t steps;
    float drift_clamp, drift_norm_clip, prior_temperature;
} gaussian_case;

enum { MODALITIES = 3, SIZE = 4, LATENT = 2, ROWS = 12000 };
static const float SIGMA = 0.8f;

/* Adds what p(x_i | z) of those in the set adds to precision P and P mean, with noise of a variance; x NULL: zeros. */
static void add_likelihoods(uint64_t set, float *const *x, double variance, double precision[2][2], double shift[2])
{
    for (uint32_t i = 0; i < MODALITIES; ++i) {
        if (!(set >> i & 1)) continue;
        for (uint32_t k = 0; k < SIZE; ++k) {
            const double w[2] = {test_number(10 + i, k * LATENT), test_number(10 + i, k * LATENT + 1)};
            const double residual = (x ? x[i][k] : 0.0f) - 0.5f * test_number(20 + i, k);
            for (int a = 0; a < 2; ++a) {
                shift[a] += w[a] * residual / variance;
                for (int b = 0; b < 2; ++b)
                    precision[a][b] += w[a] * w[b] / variance;
            }
        }
    }
}

/* Posterior precision P and P mean of z given x_O. U(x) is |x|^2 / 2, so that U(G(z)) / T is one more likelihood: of
 * x = 0 in all modalities, with noise of variance T. */
static void posterior(const gaussian_case *c, float *const *x, double precision[2][2], double shift[2])
{
    precision[0][0] = precision[1][1] = 1.0;
    precision[0][1] = precision[1][0] = shift[0] = shift[1] = 0.0;
    add_likelihoods(c->observed, x, SIGMA * SIGMA, precision, shift);
    if (c->prior_temperature > 0.0f) add_likelihoods(7, NULL, (double)c->prior_temperature, precision, shift);
}

static void invert(double m[2][2], double inverse[2][2])
{
    const double det = m[0][0] * m[1][1] - m[0][1] * m[1][0];
    inverse[0][0] = m[1][1] / det;
    inverse[1][1] = m[0][0] / det;
    inverse[0][1] = -m[0][1] / det;
    inverse[1][0] = -m[1][0] / det;
}

/* Covariance (f P (1 - f l^2 P / 4))^-1 of the unadjusted rule, (f P)^-1 of the adjusted one. */
static void stationary(double p[2][2], double f, const gaussian_case *c, double covariance[2][2])
{
    const double h = c->method == MMEBM_MALA ? 0.0 : f * c->step_size * c->step_size / 4.0;
    double m[2][2];
    for (int a = 0; a < 2; ++a)
        for (int b = 0; b < 2; ++b)
            m[a][b] = f * (p[a][b] - h * (p[a][0] * p[0][b] + p[a][1] * p[1][b]));
    invert(m, covariance);
}

static void check_moments(const float *z, size_t chains, const double mean[2], double covariance[2][2])
{
    double found[2] = {0.0, 0.0}, square[2][2] = {{0.0, 0.0}, {0.0, 0.0}};
    for (size_t c = 0; c < chains; ++c)
        for (int a = 0; a < 2; ++a) {
            found[a] += z[2 * c + a] / (double)chains;
            for (int b = 0; b < 2; ++b)
                square[a][b] += (z[2 * c + a] - mean[a]) * (z[2 * c + b] - mean[b]) / (double)chains;
        }
    for (int a = 0; a < 2; ++a) {
        CHECK_MSG(fabs(found[a] - mean[a]) < 4.5 * sqrt(covariance[a][a] / (double)chains), "mean %g, wanted %g",
                  found[a], mean[a]);
        for (int b = 0; b < 2; ++b) {
            const double ab = covariance[a][b];
            const double bound = 4.5 * sqrt((covariance[a][a] * covariance[b][b] + ab * ab) / (double)chains);
            CHECK_MSG(fabs(square[a][b] - ab) < bound, "covariance[%d][%d] %g, wanted %g within %g", a, b,
                      square[a][b], ab, bound);
        }
    }
}

static void check_law(const gaussian_case *c, float *const *x, const float *z, size_t experts, size_t chains,
                      float acceptance)
{
    double p[2][2], shift[2], inverse[2][2], covariance[2][2];
    posterior(c, x, p, shift);
    invert(p, inverse);
    const double mean[2] = {inverse[0][0] * shift[0] + inverse[0][1] * shift[1],
                            inverse[1][0] * shift[0] + inverse[1][1] * shift[1]};
    stationary(p, c->reduction == MMEBM_REDUCE_MEAN ? 1.0 / (double)experts : 1.0, c, covariance);
    check_moments(z, chains, mean, covariance);
    if (c->method == MMEBM_ULA)
        CHECK(acceptance == 1.0f);
    else
        CHECK_MSG(acceptance > 0.2f && acceptance < 0.98f, "acceptance %g", (double)acceptance);
}

static void check_gaussian(const gaussian_case *c)
{
    mmebm_context *context = open_context();
    REQUIRE(context);
    mmebm_model *model = make_gaussian_model(context, MODALITIES, SIZE, LATENT, SIGMA);
    REQUIRE(model);
    const int64_t experts = __builtin_popcountll(c->observed);
    const int64_t rows = ROWS / experts;
    float *x[MODALITIES], *z = calloc((size_t)(experts * rows * LATENT), sizeof *z);
    mmebm_view views[MODALITIES];
    for (uint32_t i = 0; i < MODALITIES; ++i) {
        x[i] = malloc(sizeof(float) * (size_t)rows * SIZE);
        for (int64_t k = 0; k < rows * SIZE; ++k) /* the same tuple in every row */
            x[i][k] = test_number(30 + i, (uint32_t)(k % SIZE));
        views[i] = view_of(x[i], 2, (int64_t[]){rows, SIZE});
    }
    mmebm_langevin_options options;
    OK(context, mmebm_langevin_z_options_init(&options));
    options.observed = c->observed;
    options.method = c->method;
    options.reduction = c->reduction;
    options.step_size = options.noise_scale = c->step_size;
    options.n_steps = c->steps;
    options.drift_clamp = c->drift_clamp;
    options.drift_norm_clip = c->drift_norm_clip;
    options.prior_temperature = c->prior_temperature;
    mmebm_view zview = view_of(z, 3, (int64_t[]){experts, rows, LATENT});
    mmebm_chain_record record;
    OK(context, mmebm_chain_record_init(&record));
    OK(context, mmebm_langevin_z(model, &options, views, &zview, &record));
    check_law(c, x, z, (size_t)experts, (size_t)(experts * rows), record.mean_acceptance);
    for (uint32_t i = 0; i < MODALITIES; ++i)
        free(x[i]);
    free(z);
    mmebm_model_destroy(&model);
    mmebm_context_destroy(&context);
}

TEST(langevin_z_samples_every_subset_posterior)
{
    for (uint64_t observed = 1; observed < 1 << MODALITIES; ++observed) {
        const gaussian_case c = {observed, MMEBM_ULA, MMEBM_REDUCE_SUM, 0.5f, 60, 0.0f, 0.0f, 0.0f};
        check_gaussian(&c);
    }
}

TEST(listing1_mean_over_chains_is_hotter)
{
    const gaussian_case c = {7, MMEBM_ULA, MMEBM_REDUCE_MEAN, 0.5f, 150, 0.0f, 0.0f, 0.0f};
    check_gaussian(&c);
}

TEST(mala_has_no_discretisation_bias)
{
    const gaussian_case c = {7, MMEBM_MALA, MMEBM_REDUCE_SUM, 0.9f, 60, 0.0f, 0.0f, 0.0f};
    check_gaussian(&c);
    const gaussian_case hot = {7, MMEBM_MALA, MMEBM_REDUCE_MEAN, 1.2f, 80, 0.0f, 0.0f, 0.0f};
    check_gaussian(&hot);
}

/* Bounds on the drift, here on most of the moves, change the proposals and not the target. */
TEST(mala_with_a_bounded_drift_has_the_same_target)
{
    const gaussian_case clamped = {7, MMEBM_MALA, MMEBM_REDUCE_SUM, 0.9f, 150, 0.2f, 0.0f, 0.0f};
    check_gaussian(&clamped);
    const gaussian_case clipped = {7, MMEBM_MALA, MMEBM_REDUCE_SUM, 0.9f, 150, 0.0f, 0.2f, 0.0f};
    check_gaussian(&clipped);
    const gaussian_case hot = {7, MMEBM_MALA, MMEBM_REDUCE_MEAN, 1.2f, 200, 0.3f, 0.3f, 0.0f};
    check_gaussian(&hot);
}

TEST(langevin_z_samples_posteriors_under_a_tilted_prior)
{
    for (uint64_t observed = 1; observed < 1 << MODALITIES; observed += 2) {
        const gaussian_case c = {observed, MMEBM_ULA, MMEBM_REDUCE_SUM, 0.4f, 80, 0.0f, 0.0f, 2.0f};
        check_gaussian(&c);
    }
    const gaussian_case adjusted = {2, MMEBM_MALA, MMEBM_REDUCE_SUM, 0.7f, 60, 0.0f, 0.0f, 0.7f};
    check_gaussian(&adjusted);
}

/* One sampler for both temperatures, in parts. */
TEST(langevin_prior_samples_the_tilted_prior)
{
    static const gaussian_case cases[] = {{0, MMEBM_ULA, MMEBM_REDUCE_SUM, 0.5f, 60, 0.0f, 0.0f, 2.0f},
                                          {0, MMEBM_MALA, MMEBM_REDUCE_SUM, 0.8f, 60, 0.0f, 0.0f, 0.7f}};
    mmebm_context *context = open_context();
    REQUIRE(context);
    mmebm_model *model = make_gaussian_model(context, MODALITIES, SIZE, LATENT, SIGMA);
    REQUIRE(model);
    mmebm_sampler_options settings;
    mmebm_sampler *sampler;
    OK(context, mmebm_sampler_options_init(&settings));
    settings.capacity = 5000;
    OK(context, mmebm_sampler_create(model, &settings, &sampler));
    for (size_t k = 0; k < sizeof cases / sizeof *cases; ++k) {
        const gaussian_case *c = &cases[k];
        float *z = calloc(ROWS * LATENT, sizeof *z);
        mmebm_view view = view_of(z, 2, (int64_t[]){ROWS, LATENT});
        mmebm_langevin_options options;
        mmebm_chain_record record;
        OK(context, mmebm_langevin_z_options_init(&options));
        OK(context, mmebm_chain_record_init(&record));
        options.method = c->method;
        options.step_size = options.noise_scale = c->step_size;
        options.n_steps = c->steps;
        options.prior_temperature = c->prior_temperature;
        OK(context, mmebm_sampler_langevin_prior(sampler, &options, &view, &record));
        check_law(c, NULL, z, 1, ROWS, record.mean_acceptance);
        free(z);
    }
    mmebm_sampler_destroy(&sampler);
    mmebm_model_destroy(&model);
    mmebm_context_destroy(&context);
}

/* L1: langevin_z on the prior alone, with five experts: 1.00251, and 5.0025 under LISTING1. */
TEST(langevin_z_on_the_prior_alone)
{
    enum { EXPERTS = 5, N = 400, D = 60, STEPS = 300 }; /* few rows of many numbers: a row costs more than a number */
    const double expected[2] = {1.00251, 5.0025};
    for (int mean = 0; mean < 2; ++mean) {
        mmebm_context *context = open_context();
        REQUIRE(context);
        /* a likelihood so wide that it says nothing */
        mmebm_model *model = make_gaussian_model(context, EXPERTS, 1, D, 1e6f);
        REQUIRE(model);
        float *z = malloc(sizeof(float) * EXPERTS * N * D), x[N] = {0};
        for (uint32_t i = 0; i < EXPERTS * N * D / 4; ++i) {
            mmebm__normals(mmebm__random_block(7, 200, 0, 0, i), z + 4 * i);
            for (int k = 0; k < 4; ++k)
                z[4 * i + k] *= (float)sqrt(expected[mean]);
        }
        mmebm_view views[EXPERTS], zview = view_of(z, 3, (int64_t[]){EXPERTS, N, D});
        for (int i = 0; i < EXPERTS; ++i)
            views[i] = view_of(x, 2, (int64_t[]){N, 1});
        mmebm_langevin_options options;
        OK(context, mmebm_langevin_z_options_init(&options));
        options.n_steps = STEPS;
        options.reduction = mean ? MMEBM_REDUCE_MEAN : MMEBM_REDUCE_SUM;
        OK(context, mmebm_langevin_z(model, &options, views, &zview, NULL));
        const double found = variance_after(z, (size_t)EXPERTS * N * D);
        CHECK_MSG(fabs(found / expected[mean] - 1.0) < 4.5 * sqrt(2.0 / (EXPERTS * N * D)), "variance %g, wanted %g",
                  found, expected[mean]);
        free(z);
        mmebm_model_destroy(&model);
        mmebm_context_destroy(&context);
    }
}

int main(void)
{
    SKIP_WITHOUT_DEVICE(test_backend());
    RUN(langevin_x_has_the_stationary_variance);
    RUN(step_and_temperature_round_trip);
    RUN(langevin_z_samples_every_subset_posterior);
    RUN(listing1_mean_over_chains_is_hotter);
    RUN(mala_has_no_discretisation_bias);
    RUN(mala_with_a_bounded_drift_has_the_same_target);
    RUN(langevin_z_samples_posteriors_under_a_tilted_prior);
    RUN(langevin_prior_samples_the_tilted_prior);
    RUN(langevin_z_on_the_prior_alone);
    return HARNESS_RESULT();
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * The mixture that may take the prior's place: its fit finds a known mixture, draws from it have the promised numbers
 * and do not depend on how calls are split, everything wrong is refused.
 */
#include "api_support.h"
#include "philox.h"

enum { N = 6000, SIZE = 3, MOST = 4, DRAWS = 15 };

typedef struct arrays {
    float weights[MOST], means[MOST * 8], scales[MOST * 8];
} arrays;

static mmebm_latent_mixture mixture_of(arrays *a, uint32_t components, uint32_t size)
{
    mmebm_latent_mixture mixture;
    if (mmebm_latent_mixture_init(&mixture) != MMEBM_OK) memset(&mixture, 0, sizeof mixture);
    mixture.components = components;
    mixture.latent_size = size;
    mixture.weights = a->weights;
    mixture.means = a->means;
    mixture.scales = a->scales;
    return mixture;
}

static mmebm_view view_of(float *data, int64_t n, int64_t size)
{
    const int64_t shape[2] = {n, size};
    mmebm_view view;
    if (mmebm_view_init(&view, data, 2, shape) != MMEBM_OK) memset(&view, 0, sizeof view);
    return view;
}

/* ---- the fit */

static const float true_weights[2] = {0.3f, 0.7f};
static const float true_means[2][SIZE] = {{-2.0f, 0.5f, 0.0f}, {1.0f, 1.5f, -1.0f}};
static const float true_scales[2][SIZE] = {{0.3f, 1.0f, 0.5f}, {0.8f, 0.4f, 0.5f}};

/* Returns how many rows are of the first component. */
static int draw_known(float z[N * SIZE])
{
    int first = 0;
    for (uint32_t n = 0; n < N; ++n) {
        float normal[4];
        mmebm__normals(mmebm__random_block(8, 200, n, 0, 0), normal);
        const int k = mmebm__uniform(mmebm__random_block(8, 201, n, 0, 0).word[0]) > true_weights[0];
        first += !k;
        for (int d = 0; d < SIZE; ++d) z[n * SIZE + d] = true_means[k][d] + true_scales[k][d] * normal[d];
    }
    return first;
}

/* The components lie far apart for their size, so an estimate's standard deviation is about s / sqrt(n_k) (mean) and
 * s / sqrt(2 n_k) (scale); five are allowed for what little they overlap. */
TEST(a_known_mixture_is_found)
{
    static float z[N * SIZE];
    mmebm_context *context = open_context(NULL);
    REQUIRE(context);
    const int first = draw_known(z);
    const mmebm_view latents = view_of(z, N, SIZE);
    for (uint64_t seed = 0; seed < 4; ++seed) {
        arrays a;
        const mmebm_latent_mixture mixture = mixture_of(&a, 2, SIZE);
        mmebm_latent_mixture_options options;
        double density = 0.0;
        CHECK(mmebm_latent_mixture_options_init(&options) == MMEBM_OK);
        options.seed = seed;
        options.tolerance = 1e-7f;
        CHECK(mmebm_latent_mixture_fit(context, &options, &latents, &mixture, &density) == MMEBM_OK);
        const int swap = a.means[0] > a.means[SIZE];
        for (int k = 0; k < 2; ++k) {
            const int at = swap ? 1 - k : k, rows = k ? N - first : first;
            CHECK_MSG(fabs(a.weights[at] - (double)rows / N) < 5e-3, "weight %g", (double)a.weights[at]);
            for (int d = 0; d < SIZE; ++d) {
                const float mean = a.means[at * SIZE + d], scale = a.scales[at * SIZE + d], s = true_scales[k][d];
                CHECK_MSG(fabs(mean - true_means[k][d]) < 5.0 * s / sqrt(rows), "mean %g, wanted %g", (double)mean,
                          (double)true_means[k][d]);
                CHECK_MSG(fabs(scale - s) < 5.0 * s / sqrt(2.0 * rows), "scale %g, wanted %g", (double)scale,
                          (double)s);
            }
        }
        CHECK(density < 0.0 && density > -10.0);
    }
    mmebm_context_destroy(&context);
}

TEST(a_fit_is_repeatable_and_more_steps_are_no_worse)
{
    static float z[N * SIZE];
    mmebm_context *context = open_context(NULL);
    REQUIRE(context);
    draw_known(z);
    const mmebm_view latents = view_of(z, N, SIZE);
    mmebm_latent_mixture_options options;
    CHECK(mmebm_latent_mixture_options_init(&options) == MMEBM_OK);
    options.tolerance = 0.0f;
    double last = -1e300, density = 0.0;
    for (uint32_t steps = 0; steps < 6; ++steps) {
        arrays a, b;
        memset(&a, 0, sizeof a);
        memset(&b, 0, sizeof b);
        const mmebm_latent_mixture mixture = mixture_of(&a, 3, SIZE), again = mixture_of(&b, 3, SIZE);
        options.max_steps = steps;
        CHECK(mmebm_latent_mixture_fit(context, &options, &latents, &mixture, &density) == MMEBM_OK);
        CHECK(mmebm_latent_mixture_fit(context, &options, &latents, &again, NULL) == MMEBM_OK);
        CHECK(!memcmp(&a, &b, sizeof a));
        CHECK_MSG(density >= last - 1e-12, "%u steps: %.17g after %.17g", (unsigned)steps, density, last);
        last = density;
    }
    mmebm_context_destroy(&context);
}

/* One component is the moments; equal rows meet the floor; as many components as rows is fine. */
TEST(simple_cases_have_known_results)
{
    float z[4 * 2] = {1.0f, 5.0f, 3.0f, 5.0f, 1.0f, 5.0f, 3.0f, 5.0f};
    mmebm_context *context = open_context(NULL);
    REQUIRE(context);
    arrays a;
    const mmebm_view latents = view_of(z, 4, 2);
    mmebm_latent_mixture mixture = mixture_of(&a, 1, 2);
    CHECK(mmebm_latent_mixture_fit(context, NULL, &latents, &mixture, NULL) == MMEBM_OK);
    CHECK(a.weights[0] == 1.0f && a.means[0] == 2.0f && a.means[1] == 5.0f);
    CHECK(fabsf(a.scales[0] - 1.0f) < 1e-6f && fabsf(a.scales[1] - 0.01f) < 1e-7f);
    mixture = mixture_of(&a, 4, 2);
    CHECK(mmebm_latent_mixture_fit(context, NULL, &latents, &mixture, NULL) == MMEBM_OK);
    float sum = 0.0f;
    for (int k = 0; k < 4; ++k) sum += a.weights[k];
    CHECK(fabsf(sum - 1.0f) < 1e-6f);
    for (int e = 0; e < 8; ++e) CHECK(a.scales[e] >= 0.0099f && isfinite(a.means[e]));
    mmebm_context_destroy(&context);
}

/* ---- draws */

typedef struct bench {
    mmebm_context *context;
    mmebm_model *model;
} bench;

static int bench_open(bench *on)
{
    on->context = open_context(NULL);
    on->model = on->context ? small_model(on->context) : NULL;
    return on->model != NULL;
}

static void bench_close(bench *on)
{
    mmebm_model_destroy(&on->model);
    mmebm_context_destroy(&on->context);
}

/* Draws rows first .. first + n - 1 into data, with that capacity. */
static void draw(const bench *on, const mmebm_latent_mixture *prior, uint32_t capacity, int64_t first, int64_t n,
                 small_data *data)
{
    mmebm_sampler *sampler = NULL;
    mmebm_sampler_options options;
    mmebm_sample_options sample;
    mmebm_status status = mmebm_sampler_options_init(&options);
    if (status == MMEBM_OK) status = mmebm_sample_options_init(&sample);
    options.capacity = capacity;
    sample.seed = 5;
    sample.first_chain = (uint64_t)first;
    sample.prior = prior;
    if (status == MMEBM_OK) status = small_data_init(data, n);
    if (status == MMEBM_OK) status = mmebm_sampler_create(on->model, &options, &sampler);
    if (status == MMEBM_OK) status = mmebm_sampler_sample(sampler, &sample, data->x);
    CHECK_MSG(status == MMEBM_OK, "%s", mmebm_last_error(on->context));
    mmebm_sampler_destroy(&sampler);
}

static arrays three_components(void)
{
    arrays a = {{0.5f, 0.0f, 0.5f}, {0}, {0}};
    for (int e = 0; e < 3 * SMALL_LATENT; ++e) {
        a.means[e] = (float)(e % 3) - 1.0f;
        a.scales[e] = 0.5f;
    }
    return a;
}

/* N(0, I) as a mixture is the prior, bit for bit: the normals are the same numbers. */
TEST(the_standard_normal_is_the_prior)
{
    bench on;
    REQUIRE(bench_open(&on));
    arrays a = {{1.0f}, {0.0f}, {1.0f, 1.0f}};
    const mmebm_latent_mixture mixture = mixture_of(&a, 1, SMALL_LATENT);
    small_data plain, mixed;
    draw(&on, NULL, 4, 0, DRAWS, &plain);
    draw(&on, &mixture, 4, 0, DRAWS, &mixed);
    CHECK(!memcmp(plain.x_values, mixed.x_values, sizeof plain.x_values));
    a.means[0] = 1.0f;
    draw(&on, &mixture, 4, 0, DRAWS, &mixed);
    CHECK(memcmp(plain.x_values, mixed.x_values, sizeof plain.x_values) != 0);
    bench_close(&on);
}

TEST(splits_do_not_change_a_bit)
{
    bench on;
    REQUIRE(bench_open(&on));
    arrays a = three_components();
    const mmebm_latent_mixture mixture = mixture_of(&a, 3, SMALL_LATENT);
    small_data whole, parts;
    draw(&on, &mixture, 64, 0, DRAWS, &whole);
    for (uint32_t capacity = 1; capacity < 6; ++capacity) {
        draw(&on, &mixture, capacity, 0, DRAWS, &parts);
        CHECK(!memcmp(whole.x_values, parts.x_values, sizeof whole.x_values));
    }
    draw(&on, &mixture, 64, 7, DRAWS - 7, &parts);
    for (int i = 0; i < SMALL_MODALITIES; ++i)
        CHECK(!memcmp(whole.x_values[i] + 7 * small_sizes[i], parts.x_values[i],
                      sizeof(float) * (size_t)((DRAWS - 7) * small_sizes[i])));
    bench_close(&on);
}

/* Scales next to nothing: every tuple is the generator's answer to one of the means, and the shares are the weights. */
TEST(components_come_by_their_weights)
{
    enum { MANY = 2000 };
    bench on;
    REQUIRE(bench_open(&on));
    arrays a = {{0.25f, 0.0f, 0.75f}, {-2.0f, 1.0f, 0.0f, 0.0f, 2.0f, -1.0f}, {0}};
    for (int e = 0; e < 6; ++e) a.scales[e] = 1e-20f;
    const mmebm_latent_mixture mixture = mixture_of(&a, 3, SMALL_LATENT);
    small_data centre;
    CHECK(small_data_init(&centre, 3) == MMEBM_OK);
    const mmebm_view means = view_of(a.means, 3, SMALL_LATENT);
    CHECK(mmebm_generate(on.model, &means, centre.x) == MMEBM_OK);
    static float x[SMALL_MODALITIES][MANY * 3];
    const mmebm_view views[SMALL_MODALITIES] = {view_of(x[0], MANY, 3), view_of(x[1], MANY, 2)};
    mmebm_sample_options sample;
    CHECK(mmebm_sample_options_init(&sample) == MMEBM_OK);
    sample.prior = &mixture;
    mmebm_view written[SMALL_MODALITIES] = {views[0], views[1]};
    CHECK(mmebm_sample(on.model, &sample, written) == MMEBM_OK);
    int count[3] = {0, 0, 0};
    for (int n = 0; n < MANY; ++n)
        for (int k = 0; k < 3; ++k) count[k] += !memcmp(x[0] + 3 * n, centre.x_values[0] + 3 * k, 3 * sizeof(float));
    CHECK_MSG(count[0] + count[2] == MANY && !count[1], "%d, %d, %d", count[0], count[1], count[2]);
    CHECK(fabs(count[0] - 0.25 * MANY) < 4.5 * sqrt(0.25 * 0.75 * MANY));
    bench_close(&on);
}

/* ---- misuse */

#define REFUSED(status, part, call)                                                                \
    do {                                                                                           \
        CHECK((call) == MMEBM_E_##status);                                                         \
        CHECK_MSG(strstr(mmebm_last_error(on.context), part), "%s", mmebm_last_error(on.context)); \
    } while (0)

TEST(a_wrong_fit_is_refused)
{
    bench on;
    REQUIRE(bench_open(&on));
    float z[4 * 2] = {0.0f, 1.0f, 2.0f, 3.0f, 4.0f, 5.0f, 6.0f, 7.0f};
    mmebm_view latents = view_of(z, 4, 2);
    arrays a;
    mmebm_latent_mixture mixture = mixture_of(&a, 2, 2);
    mmebm_latent_mixture_options options;
    CHECK(mmebm_latent_mixture_options_init(&options) == MMEBM_OK);
#define FIT() mmebm_latent_mixture_fit(on.context, &options, &latents, &mixture, NULL)
    CHECK(mmebm_latent_mixture_fit(NULL, &options, &latents, &mixture, NULL) == MMEBM_E_ARGUMENT);
    REFUSED(ARGUMENT, "latents' is NULL", mmebm_latent_mixture_fit(on.context, NULL, NULL, &mixture, NULL));
    REFUSED(ARGUMENT, "mixture is NULL", mmebm_latent_mixture_fit(on.context, NULL, &latents, NULL, NULL));
    mixture.components = 0;
    REFUSED(ARGUMENT, "has 0 components", FIT());
    mixture.components = 5000;
    REFUSED(ARGUMENT, "has 5000 components", FIT());
    mixture.components = 5;
    REFUSED(SHAPE, "4 latents, wanted at least one a component, 5", FIT());
    mixture = mixture_of(&a, 2, 3);
    REFUSED(SHAPE, "shape [4,2], wanted [*,3]", FIT());
    mixture = mixture_of(&a, 2, 0);
    REFUSED(ARGUMENT, "latent_size 0", FIT());
    mixture = mixture_of(&a, 2, 2);
    mixture.scales = NULL;
    REFUSED(ARGUMENT, "scales is NULL", FIT());
    mixture = mixture_of(&a, 2, 2);
    mixture.reserved = 1;
    REFUSED(UNKNOWN_OPTION, "reserved is 1", FIT());
    mixture = mixture_of(&a, 2, 2);
    z[5] = NAN;
    REFUSED(ARGUMENT, "at element 5, wanted finite numbers", FIT());
    z[5] = 5.0f;
    options.scale_floor = 0.0f;
    REFUSED(ARGUMENT, "scale_floor is 0", FIT());
    options.scale_floor = 0.01f;
    options.tolerance = -1.0f;
    REFUSED(ARGUMENT, "tolerance is -1", FIT());
    options.tolerance = INFINITY;
    REFUSED(ARGUMENT, "tolerance is inf", FIT());
    options.tolerance = 0.0f;
    options.max_steps = UINT32_MAX;
    REFUSED(ARGUMENT, "max_steps is 4294967295", FIT());
    options.max_steps = 3;
    CHECK(FIT() == MMEBM_OK);
    bench_close(&on);
}

TEST(a_wrong_prior_is_refused)
{
    bench on;
    REQUIRE(bench_open(&on));
    small_data data;
    mmebm_sample_options sample;
    CHECK(small_data_init(&data, 3) == MMEBM_OK && mmebm_sample_options_init(&sample) == MMEBM_OK);
    arrays a = three_components();
    mmebm_latent_mixture mixture = mixture_of(&a, 3, SMALL_LATENT);
    sample.prior = &mixture;
#define WITH(part, change)                                                                         \
    do {                                                                                           \
        a = three_components();                                                                    \
        mixture = mixture_of(&a, 3, SMALL_LATENT);                                                 \
        change;                                                                                    \
        REFUSED(ARGUMENT, part, mmebm_sample(on.model, &sample, data.x));                          \
    } while (0)
    CHECK(mmebm_sample(on.model, &sample, data.x) == MMEBM_OK);
    WITH("has 0 components", mixture.components = 0);
    WITH("means is NULL", mixture.means = NULL);
    WITH("weights' sum is 0.5", a.weights[0] = 0.0f);
    WITH("weight 1 is -0.5", a.weights[1] = -0.5f);
    WITH("weight 2 is nan", a.weights[2] = NAN);
    WITH("component 1 has mean inf", a.means[3] = INFINITY);
    WITH("and scale 0, wanted", a.scales[0] = 0.0f);
    WITH("and scale nan", a.scales[5] = NAN);
    mixture = mixture_of(&a, 2, SMALL_LATENT + 1);
    REFUSED(SHAPE, "sample: prior has latent_size 3, the model has 2", mmebm_sample(on.model, &sample, data.x));
    a = three_components();
    mixture = mixture_of(&a, 3, SMALL_LATENT);
    mixture.struct_size = 3;
    REFUSED(STRUCT_SIZE, "sample: prior has struct_size 3", mmebm_sample(on.model, &sample, data.x));
    mixture = mixture_of(&a, 3, SMALL_LATENT);
    sample.observed = 1;
    REFUSED(ARGUMENT, "prior is set", mmebm_sample_given(on.model, &sample, data.x));
    bench_close(&on);
}

int main(void)
{
    SKIP_WITHOUT_DEVICE(test_backend());
    RUN(a_known_mixture_is_found);
    RUN(a_fit_is_repeatable_and_more_steps_are_no_worse);
    RUN(simple_cases_have_known_results);
    RUN(the_standard_normal_is_the_prior);
    RUN(splits_do_not_change_a_bit);
    RUN(components_come_by_their_weights);
    RUN(a_wrong_fit_is_refused);
    RUN(a_wrong_prior_is_refused);
    return HARNESS_RESULT();
}

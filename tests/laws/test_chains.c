/* SPDX-License-Identifier: Apache-2.0
 *
 * What a chain promises beside its moments: clamped modalities keep their bits (rulings section L, test 8), the score
 * is the energy's slope (test 2), records agree with the energy, bounds hold, a step is the formula.
 */
#include "laws.h"

enum { MODALITIES = 3, N = 5 };

static mmebm_model *make_mlp(mmebm_context *context, const int64_t *sizes)
{
    mmebm_preset_options options;
    mmebm_model *model = NULL;
    if (mmebm_preset_options_init(&options) != MMEBM_OK) return NULL;
    options.n_modalities = MODALITIES;
    options.latent_size = 4;
    options.sizes = sizes;
    options.hidden = 24;
    options.seed = 3;
    if (mmebm_model_create_preset(context, "mlp", &options, &model) != MMEBM_OK)
        printf("  %s\n", mmebm_last_error(context));
    return model;
}

typedef struct fixture {
    mmebm_context *context;
    mmebm_model *model;
    mmebm_sampler *sampler;
    int64_t sizes[MODALITIES];
    float x[MODALITIES][N * 8], start[MODALITIES][N * 8];
    mmebm_view views[MODALITIES];
} fixture;

static int open_fixture(fixture *f)
{
    memset(f, 0, sizeof *f);
    f->context = open_context();
    if (!f->context) return 0;
    for (int i = 0; i < MODALITIES; ++i) {
        f->sizes[i] = 6 + i % 3;
        for (uint32_t k = 0; k < (uint32_t)(N * f->sizes[i]); ++k)
            f->x[i][k] = f->start[i][k] = test_number(60 + (uint64_t)i, k);
        f->views[i] = view_of(f->x[i], 2, (int64_t[]){N, f->sizes[i]});
    }
    f->model = make_mlp(f->context, f->sizes);
    mmebm_sampler_options options;
    return f->model && mmebm_sampler_options_init(&options) == MMEBM_OK &&
           mmebm_sampler_create(f->model, &options, &f->sampler) == MMEBM_OK;
}

static void close_fixture(fixture *f)
{
    mmebm_context_destroy(&f->context); /* any order of destruction is fine */
    mmebm_model_destroy(&f->model);
    mmebm_sampler_destroy(&f->sampler);
}

/* Not only in the caller's memory: the recorded states are those that the energy saw. */
TEST(observed_modalities_keep_their_bits)
{
    enum { STEPS = 4 };
    static float frames[MODALITIES][(STEPS + 1) * N * 8];
    fixture f;
    REQUIRE(open_fixture(&f));
    mmebm_view trajectory[MODALITIES];
    for (int i = 0; i < MODALITIES; ++i)
        trajectory[i] = view_of(frames[i], 3, (int64_t[]){STEPS + 1, N, f.sizes[i]});
    mmebm_langevin_options options;
    mmebm_chain_record record;
    OK(f.context, mmebm_langevin_x_options_init(&options));
    OK(f.context, mmebm_chain_record_init(&record));
    options.observed = 5;
    options.n_steps = STEPS;
    record.trajectory = trajectory;
    OK(f.context, mmebm_sampler_langevin_x(f.sampler, &options, f.views, &record));
    for (int frame = 0; frame <= STEPS; ++frame)
        for (int i = 0; i < MODALITIES; ++i) {
            const size_t count = (size_t)(N * f.sizes[i]);
            const int same = memcmp(frames[i] + (size_t)frame * count, f.start[i], count * sizeof(float)) == 0;
            CHECK_MSG(same == (i != 1 || frame == 0), "modality %d, state %d", i, frame);
        }
    CHECK(memcmp(f.x[0], f.start[0], sizeof f.x[0]) == 0);
    CHECK(memcmp(f.x[1], f.start[1], sizeof f.x[1]) != 0);
    CHECK(memcmp(f.x[2], f.start[2], sizeof f.x[2]) == 0);
    close_fixture(&f);
}

/* Central differences of U along one direction in all modalities at once: rulings section L, test 2. Their error is
 * h^2/6 U''' (below 1e-4 for these networks) and the rounding of U, about 1e-7 |U| / h. */
TEST(the_score_is_the_slope_of_the_energy)
{
    const float h = 0.01f, temperature = 0.25f;
    fixture f;
    REQUIRE(open_fixture(&f));
    float score[MODALITIES][N * 8], u[2][N];
    mmebm_view scores[MODALITIES], energies[2];
    for (int i = 0; i < MODALITIES; ++i)
        scores[i] = view_of(score[i], 2, (int64_t[]){N, f.sizes[i]});
    OK(f.context, mmebm_sampler_score(f.sampler, f.views, temperature, scores));
    for (int side = 0; side < 2; ++side) {
        energies[side] = view_of(u[side], 1, (int64_t[]){N});
        for (int i = 0; i < MODALITIES; ++i)
            for (uint32_t k = 0; k < (uint32_t)(N * f.sizes[i]); ++k)
                f.x[i][k] = f.start[i][k] + (side ? h : -h) * test_number(80 + (uint64_t)i, k);
        OK(f.context, mmebm_sampler_energy(f.sampler, f.views, &energies[side]));
    }
    for (int r = 0; r < N; ++r) {
        const double slope = -((double)u[1][r] - u[0][r]) / (2.0 * h) / temperature;
        double along = 0.0, size = 0.0;
        for (int i = 0; i < MODALITIES; ++i)
            for (int64_t k = r * f.sizes[i]; k < (r + 1) * f.sizes[i]; ++k) {
                along += score[i][k] * test_number(80 + (uint64_t)i, (uint32_t)k);
                size += fabs(score[i][k]);
            }
        CHECK_MSG(size > 1e-3 && fabs(along - slope) < 4e-4 + 1e-3 * size, "row %d: %g, by differences %g", r, along,
                  slope);
    }
    close_fixture(&f);
}

/* x_1 = x_0 - l^2/2 dU/dx_0 with the gradient from mmebm_score, and each modality with its own l. */
TEST(a_step_without_noise_is_the_formula)
{
    fixture f;
    REQUIRE(open_fixture(&f));
    float score[MODALITIES][N * 8];
    mmebm_view scores[MODALITIES];
    for (int i = 0; i < MODALITIES; ++i)
        scores[i] = view_of(score[i], 2, (int64_t[]){N, f.sizes[i]});
    OK(f.context, mmebm_sampler_score(f.sampler, f.views, 0.25f, scores));
    const float step_sizes[MODALITIES] = {0.1f, 0.5f, 1.5f}, noise_scales[MODALITIES] = {0.0f, 0.0f, 0.0f};
    mmebm_langevin_options options;
    OK(f.context, mmebm_langevin_x_options_init(&options));
    options.n_steps = 1;
    options.step_sizes = step_sizes;
    options.noise_scales = noise_scales;
    OK(f.context, mmebm_sampler_langevin_x(f.sampler, &options, f.views, NULL));
    for (int i = 0; i < MODALITIES; ++i)
        for (int64_t k = 0; k < N * f.sizes[i]; ++k) {
            const double wanted = f.start[i][k] + 0.5 * step_sizes[i] * step_sizes[i] * 0.25 * score[i][k];
            CHECK_MSG(fabs(f.x[i][k] - wanted) < 2e-6, "modality %d, element %lld: %g, wanted %g", i, (long long)k,
                      (double)f.x[i][k], wanted);
        }
    close_fixture(&f);
}

TEST(records_agree_with_the_energy)
{
    enum { STEPS = 6, STRIDE = 2, FRAMES = STEPS / STRIDE + 1 };
    fixture f;
    REQUIRE(open_fixture(&f));
    static float frames[MODALITIES][FRAMES * N * 8];
    float energy[(STEPS + 1) * N], acceptance[N], u[N];
    mmebm_view trajectory[MODALITIES], energies = view_of(energy, 2, (int64_t[]){STEPS + 1, N});
    mmebm_view acceptances = view_of(acceptance, 1, (int64_t[]){N});
    for (int i = 0; i < MODALITIES; ++i)
        trajectory[i] = view_of(frames[i], 3, (int64_t[]){FRAMES, N, f.sizes[i]});
    mmebm_langevin_options options;
    OK(f.context, mmebm_langevin_x_options_init(&options));
    options.n_steps = STEPS;
    options.trajectory_stride = STRIDE;
    options.step_size = 0.5f;
    options.noise_scale = 0.05f;
    mmebm_chain_record record;
    OK(f.context, mmebm_chain_record_init(&record));
    record.trajectory = trajectory;
    record.energy = &energies;
    record.acceptance = &acceptances;
    OK(f.context, mmebm_sampler_langevin_x(f.sampler, &options, f.views, &record));
    double displacement = 0.0;
    for (int i = 0; i < MODALITIES; ++i) {
        CHECK(memcmp(frames[i], f.start[i], sizeof(float) * (size_t)(N * f.sizes[i])) == 0);
        CHECK(memcmp(frames[i] + (FRAMES - 1) * N * f.sizes[i], f.x[i], sizeof(float) * (size_t)(N * f.sizes[i])) == 0);
        for (int64_t k = 0; k < N * f.sizes[i]; ++k)
            displacement += pow(f.x[i][k] - f.start[i][k], 2.0) / N;
    }
    CHECK(fabs(record.displacement / displacement - 1.0) < 1e-5);
    CHECK(record.mean_acceptance == 1.0f && acceptance[0] == 1.0f);
    for (int frame = 0; frame < FRAMES; ++frame) {
        mmebm_view at[MODALITIES], values = view_of(u, 1, (int64_t[]){N});
        for (int i = 0; i < MODALITIES; ++i)
            at[i] = view_of(frames[i] + frame * N * f.sizes[i], 2, (int64_t[]){N, f.sizes[i]});
        OK(f.context, mmebm_sampler_energy(f.sampler, at, &values));
        CHECK(memcmp(u, energy + frame * STRIDE * N, sizeof u) == 0);
    }
    close_fixture(&f);
}

TEST(bounds_hold)
{
    fixture f;
    REQUIRE(open_fixture(&f));
    mmebm_langevin_options options;
    OK(f.context, mmebm_langevin_x_options_init(&options));
    options.n_steps = 1;
    options.step_size = 100.0f;
    options.noise_scale = 0.0f;
    options.drift_clamp = 0.01f;
    OK(f.context, mmebm_sampler_langevin_x(f.sampler, &options, f.views, NULL));
    for (int i = 0; i < MODALITIES; ++i)
        for (int64_t k = 0; k < N * f.sizes[i]; ++k)
            CHECK(fabsf(f.x[i][k] - f.start[i][k]) <= 0.01001f);
    options.drift_clamp = 0.0f;
    options.drift_norm_clip = 0.5f;
    memcpy(f.x, f.start, sizeof f.x);
    OK(f.context, mmebm_sampler_langevin_x(f.sampler, &options, f.views, NULL));
    for (int i = 0; i < MODALITIES; ++i)
        for (int r = 0; r < N; ++r) {
            double norm = 0.0;
            for (int64_t k = r * f.sizes[i]; k < (r + 1) * f.sizes[i]; ++k)
                norm += pow(f.x[i][k] - f.start[i][k], 2.0);
            CHECK_MSG(fabs(sqrt(norm) - 0.5) < 1e-4, "norm %g", sqrt(norm));
        }
    options.drift_norm_clip = 0.0f;
    options.noise_scale = 1.0f;
    options.n_steps = 3;
    options.state_min = -0.25f;
    options.state_max = 0.5f;
    OK(f.context, mmebm_sampler_langevin_x(f.sampler, &options, f.views, NULL));
    for (int i = 0; i < MODALITIES; ++i)
        for (int64_t k = 0; k < N * f.sizes[i]; ++k)
            CHECK(f.x[i][k] >= -0.25f && f.x[i][k] <= 0.5f);
    close_fixture(&f);
}

static void view_generated(const fixture *f, float generated[MODALITIES][N * 8], mmebm_view outputs[MODALITIES])
{
    for (int i = 0; i < MODALITIES; ++i) outputs[i] = view_of(generated[i], 2, (int64_t[]){N, f->sizes[i]});
}

/* sample_given without chains is encode (mean) and generate; observed views stay untouched. */
TEST(sample_given_is_made_of_its_pieces)
{
    fixture f;
    REQUIRE(open_fixture(&f));
    float mean[N * 4], scale[N * 4], generated[MODALITIES][N * 8];
    mmebm_view means = view_of(mean, 2, (int64_t[]){N, 4}), scales = view_of(scale, 2, (int64_t[]){N, 4});
    mmebm_view outputs[MODALITIES];
    view_generated(&f, generated, outputs);
    OK(f.context, mmebm_sampler_encode(f.sampler, 1, &f.views[1], &means, &scales));
    OK(f.context, mmebm_sampler_generate(f.sampler, &means, outputs));
    mmebm_sample_options options;
    OK(f.context, mmebm_sample_options_init(&options));
    options.observed = 2;
    options.start = MMEBM_START_MEAN;
    OK(f.context, mmebm_sampler_sample_given(f.sampler, &options, f.views));
    CHECK(memcmp(f.x[0], generated[0], sizeof(float) * (size_t)(N * f.sizes[0])) == 0);
    CHECK(memcmp(f.x[1], f.start[1], sizeof f.x[1]) == 0);
    CHECK(memcmp(f.x[2], generated[2], sizeof(float) * (size_t)(N * f.sizes[2])) == 0);
    for (int k = 0; k < N * 4; ++k)
        CHECK(scale[k] > 0.0f);
    close_fixture(&f);
}

/* Two of three are given: what is missing is decoded from the average of their experts' means, for every expert's chain
 * the same. */
TEST(the_average_is_of_what_is_given)
{
    enum { EXPERTS = 2, D = 4 };
    fixture f;
    REQUIRE(open_fixture(&f));
    float mean[EXPERTS][N * D], average[EXPERTS][N * D], generated[MODALITIES][N * 8];
    mmebm_view outputs[MODALITIES];
    view_generated(&f, generated, outputs);
    mmebm_view means = view_of(mean[0], 3, (int64_t[]){EXPERTS, N, D});
    mmebm_view averages = view_of(average[0], 3, (int64_t[]){EXPERTS, N, D});
    mmebm_view listed = view_of(average[0], 2, (int64_t[]){N, D});
    OK(f.context, mmebm_sampler_encode_draw(f.sampler, 5, MMEBM_START_MEAN, 1, 0, f.views, &means));
    OK(f.context, mmebm_sampler_encode_draw(f.sampler, 5, MMEBM_START_AVERAGE, 2, 9, f.views, &averages));
    CHECK(memcmp(mean[0], mean[1], sizeof mean[0]) != 0);
    for (int k = 0; k < N * D; ++k) {
        CHECK(average[0][k] == (float)(((double)mean[0][k] + mean[1][k]) / EXPERTS));
        CHECK(average[1][k] == average[0][k]);
    }
    OK(f.context, mmebm_sampler_generate(f.sampler, &listed, outputs));
    mmebm_sample_options options;
    OK(f.context, mmebm_sample_options_init(&options));
    options.observed = 5;
    options.start = MMEBM_START_AVERAGE;
    OK(f.context, mmebm_sampler_sample_given(f.sampler, &options, f.views));
    CHECK(memcmp(f.x[1], generated[1], sizeof(float) * (size_t)(N * f.sizes[1])) == 0);
    close_fixture(&f);
}

/* Guidance 2 decodes from twice the mean of q; chains start from there. */
TEST(guidance_multiplies_the_start)
{
    enum { D = 4 };
    fixture f;
    REQUIRE(open_fixture(&f));
    float mean[N * D], scale[N * D], z[N * D], generated[2][N * 8];
    mmebm_view means = view_of(mean, 2, (int64_t[]){N, D}), scales = view_of(scale, 2, (int64_t[]){N, D});
    mmebm_view latents = view_of(z, 3, (int64_t[]){1, N, D}), listed = view_of(z, 2, (int64_t[]){N, D});
    mmebm_sample_options options;
    mmebm_langevin_options chain;
    OK(f.context, mmebm_langevin_z_options_init(&chain));
    chain.n_steps = 3;
    chain.observed = 2;
    OK(f.context, mmebm_sampler_encode(f.sampler, 1, &f.views[1], &means, &scales));
    for (int refined = 0; refined < 2; ++refined) {
        mmebm_view outputs[MODALITIES];
        for (int i = 0; i < MODALITIES; ++i)
            outputs[i] = i == 1 ? f.views[1] : view_of(generated[i / 2], 2, (int64_t[]){N, f.sizes[i]});
        for (int k = 0; k < N * D; ++k) z[k] = 2.0f * mean[k];
        if (refined) OK(f.context, mmebm_sampler_langevin_z(f.sampler, &chain, f.views, &latents, NULL));
        OK(f.context, mmebm_sampler_generate(f.sampler, &listed, outputs));
        memcpy(f.x[1], f.start[1], sizeof f.x[1]);
        OK(f.context, mmebm_sample_options_init(&options));
        options.observed = 2;
        options.start = MMEBM_START_MEAN;
        options.guidance = 2.0f;
        options.langevin_z = refined ? &chain : NULL;
        OK(f.context, mmebm_sampler_sample_given(f.sampler, &options, f.views));
        CHECK(memcmp(f.x[0], generated[0], sizeof(float) * (size_t)(N * f.sizes[0])) == 0);
        CHECK(memcmp(f.x[2], generated[1], sizeof(float) * (size_t)(N * f.sizes[2])) == 0);
    }
    close_fixture(&f);
}

/* E(z) of langevin_prior by the calls that it is made of. */
static void check_tilted_energy(fixture *f, float temperature)
{
    enum { D = 4 };
    float z[N * D], energy[N], u[N], generated[MODALITIES][N * 8];
    mmebm_view latents = view_of(z, 2, (int64_t[]){N, D}), energies = view_of(energy, 2, (int64_t[]){1, N});
    mmebm_view us = view_of(u, 1, (int64_t[]){N}), outputs[MODALITIES];
    view_generated(f, generated, outputs);
    for (uint32_t k = 0; k < N * D; ++k) z[k] = test_number(90, k);
    mmebm_langevin_options options;
    mmebm_chain_record record;
    OK(f->context, mmebm_langevin_z_options_init(&options));
    OK(f->context, mmebm_chain_record_init(&record));
    options.n_steps = 0;
    options.prior_temperature = temperature;
    record.energy = &energies;
    OK(f->context, mmebm_sampler_langevin_prior(f->sampler, &options, &latents, &record));
    OK(f->context, mmebm_sampler_generate(f->sampler, &latents, outputs));
    OK(f->context, mmebm_sampler_energy(f->sampler, outputs, &us));
    for (int r = 0; r < N; ++r) {
        double wanted = (double)u[r] / temperature;
        for (int d = 0; d < D; ++d) wanted += z[r * D + d] * (double)z[r * D + d] / 2.0;
        CHECK_MSG(fabs(energy[r] - wanted) < 1e-5 * (1.0 + fabs(wanted)), "row %d: %g, wanted %g", r,
                  (double)energy[r], wanted);
    }
}

/* ... at every temperature, and after the weights of the energy or of a decoder have changed. */
TEST(the_tilted_prior_follows_temperature_and_weights)
{
    static const char *const parts[] = {"energy.", "decoder1."};
    fixture f;
    REQUIRE(open_fixture(&f));
    check_tilted_energy(&f, 1.0f);
    check_tilted_energy(&f, 0.25f);
    for (uint32_t t = 0; t < mmebm_model_tensor_count(f.model); ++t) {
        const char *name;
        int64_t shape[4];
        uint32_t rank;
        OK(f.context, mmebm_model_tensor_info(f.model, t, &name, &rank, shape));
        for (size_t p = 0; p < sizeof parts / sizeof *parts; ++p) {
            if (strncmp(name, parts[p], strlen(parts[p])) != 0) continue;
            float values[1024];
            mmebm_view view = view_of(values, rank, shape);
            OK(f.context, mmebm_model_get_tensor(f.model, name, &view));
            for (size_t k = 0; k < sizeof values / sizeof *values; ++k) values[k] = test_number(95 + t, (uint32_t)k);
            OK(f.context, mmebm_model_set_tensor(f.model, name, &view));
            check_tilted_energy(&f, 0.25f);
        }
    }
    close_fixture(&f);
}

/* sample with a prior_temperature is the prior's draw, langevin_prior, the decoders. */
TEST(a_sample_may_be_tilted)
{
    enum { D = 4 };
    fixture f;
    REQUIRE(open_fixture(&f));
    float z[N * D], generated[MODALITIES][N * 8];
    mmebm_view latents = view_of(z, 2, (int64_t[]){N, D}), outputs[MODALITIES];
    view_generated(&f, generated, outputs);
    const uint64_t key[2] = {9, 4};
    for (uint32_t r = 0; r < N; ++r) /* the draw from p0, as docs/repeatability.md says */
        mmebm__normals(mmebm__random_block(key[0], MMEBM_STREAM_PRIOR, key[1] + r, 0, 0), z + r * D);
    mmebm_langevin_options chain;
    mmebm_sample_options options;
    OK(f.context, mmebm_langevin_z_options_init(&chain));
    OK(f.context, mmebm_sample_options_init(&options));
    options.seed = chain.seed = key[0];
    options.first_chain = chain.first_chain = key[1];
    chain.n_steps = 3;
    chain.prior_temperature = 0.5f;
    OK(f.context, mmebm_sampler_langevin_prior(f.sampler, &chain, &latents, NULL));
    OK(f.context, mmebm_sampler_generate(f.sampler, &latents, outputs));
    options.langevin_z = &chain;
    chain.seed = chain.first_chain = 0; /* replaced by those of options */
    OK(f.context, mmebm_sampler_sample(f.sampler, &options, f.views));
    for (int i = 0; i < MODALITIES; ++i)
        CHECK(memcmp(f.x[i], generated[i], sizeof(float) * (size_t)(N * f.sizes[i])) == 0);
    close_fixture(&f);
}

/* With all_experts, of a tuple's chains the one whose energy ends lowest makes the pictures: the calls one by one. */
static void check_all_experts(uint32_t method)
{
    enum { EXPERTS = 2, STEPS = 6, D = 4 };
    fixture f;
    REQUIRE(open_fixture(&f));
    float z[EXPERTS][N][D], energy[STEPS + 1][EXPERTS][N], generated[MODALITIES][N * 8];
    mmebm_view latents = view_of(z[0][0], 3, (int64_t[]){EXPERTS, N, D});
    mmebm_view energies = view_of(energy[0][0], 2, (int64_t[]){STEPS + 1, EXPERTS * N});
    mmebm_view means = view_of(z[0][0], 2, (int64_t[]){N, D}), outputs[MODALITIES];
    view_generated(&f, generated, outputs);
    mmebm_langevin_options chain;
    OK(f.context, mmebm_langevin_z_options_init(&chain));
    chain.method = method;
    chain.n_steps = STEPS;
    chain.seed = 9;
    chain.observed = 3;
    mmebm_chain_record record;
    OK(f.context, mmebm_chain_record_init(&record));
    record.energy = &energies;
    OK(f.context, mmebm_sampler_encode_draw(f.sampler, 3, MMEBM_START_SAMPLE, 9, 0, f.views, &latents));
    OK(f.context, mmebm_sampler_langevin_z(f.sampler, &chain, f.views, &latents, &record));
    int second = 0;
    for (int r = 0; r < N; ++r) {
        if (energy[STEPS][1][r] >= energy[STEPS][0][r]) continue;
        memcpy(z[0][r], z[1][r], sizeof z[0][r]);
        ++second;
    }
    CHECK_MSG(second > 0 && second < N, "%d of %d tuples take the second chain", second, N);
    OK(f.context, mmebm_sampler_generate(f.sampler, &means, outputs));
    mmebm_sample_options options;
    OK(f.context, mmebm_sample_options_init(&options));
    options.seed = 9;
    options.observed = 3;
    options.langevin_z = &chain;
    options.all_experts = 1;
    OK(f.context, mmebm_sampler_sample_given(f.sampler, &options, f.views));
    CHECK(memcmp(f.x[2], generated[2], sizeof(float) * (size_t)(N * f.sizes[2])) == 0);
    for (int64_t first = 0, rows = 2; first < N; first += rows, rows = N - first) { /* in two calls */
        mmebm_view part[MODALITIES];
        for (int i = 0; i < MODALITIES; ++i)
            part[i] = view_of(f.x[i] + first * f.sizes[i], 2, (int64_t[]){rows, f.sizes[i]});
        memset(part[2].data, 0, sizeof(float) * (size_t)(rows * f.sizes[2]));
        options.first_chain = (uint64_t)first;
        OK(f.context, mmebm_sampler_sample_given(f.sampler, &options, part));
    }
    CHECK(memcmp(f.x[2], generated[2], sizeof(float) * (size_t)(N * f.sizes[2])) == 0);
    close_fixture(&f);
}

TEST(of_all_experts_the_lowest_is_kept)
{
    check_all_experts(MMEBM_ULA);
    check_all_experts(MMEBM_MALA);
}

int main(void)
{
    SKIP_WITHOUT_DEVICE(test_backend());
    RUN(observed_modalities_keep_their_bits);
    RUN(the_score_is_the_slope_of_the_energy);
    RUN(a_step_without_noise_is_the_formula);
    RUN(records_agree_with_the_energy);
    RUN(bounds_hold);
    RUN(sample_given_is_made_of_its_pieces);
    RUN(the_average_is_of_what_is_given);
    RUN(guidance_multiplies_the_start);
    RUN(the_tilted_prior_follows_temperature_and_weights);
    RUN(a_sample_may_be_tilted);
    RUN(of_all_experts_the_lowest_is_kept);
    return HARNESS_RESULT();
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * Results do not depend on how work is split: calls, capacity, threads (docs/repeatability.md). Bits are compared.
 */
#include "laws.h"

enum { MODALITIES = 2, N = 13, LATENT = 6, IMAGE = 8, CHANNELS = 3, PIXELS = IMAGE * IMAGE * CHANNELS };

typedef struct results {
    float sampled[MODALITIES][N * PIXELS], given[MODALITIES][N * PIXELS], z[MODALITIES * N * LATENT], energy[N];
    float tilted[N * LATENT];
} results;

static mmebm_model *make_images(mmebm_context *context)
{
    mmebm_preset_options options;
    mmebm_model *model = NULL;
    if (mmebm_preset_options_init(&options) != MMEBM_OK) return NULL;
    options.n_modalities = MODALITIES;
    options.latent_size = LATENT;
    options.image_size = IMAGE;
    options.nf = 4;
    options.nef = 8;
    options.stem_channels = 4;
    if (mmebm_model_create_preset(context, "polymnist", &options, &model) != MMEBM_OK)
        printf("  %s\n", mmebm_last_error(context));
    return model;
}

/* Everything for tuples first .. first + count - 1. */
static mmebm_status run_part(mmebm_sampler *sampler, int64_t first, int64_t count, const results *source, results *r)
{
    mmebm_view sampled[MODALITIES], given[MODALITIES], data[MODALITIES];
    for (int i = 0; i < MODALITIES; ++i) {
        const int64_t shape[4] = {count, IMAGE, IMAGE, CHANNELS};
        sampled[i] = view_of(r->sampled[i] + first * PIXELS, 4, shape);
        given[i] = view_of(r->given[i] + first * PIXELS, 4, shape);
        data[i] = view_of((float *)source->given[i] + first * PIXELS, 4, shape);
        memcpy(r->given[i] + first * PIXELS, source->given[i] + first * PIXELS,
               sizeof(float) * (size_t)(count * PIXELS));
    }
    mmebm_langevin_options x, z;
    mmebm_sample_options options;
    MMEBM_TRY(mmebm_langevin_x_options_init(&x));
    MMEBM_TRY(mmebm_langevin_z_options_init(&z));
    x.n_steps = z.n_steps = 3;
    x.noise_scale = 0.05f;
    MMEBM_TRY(mmebm_sample_options_init(&options));
    options.seed = 77;
    options.first_chain = (uint64_t)first;
    options.langevin_x = &x;
    MMEBM_TRY(mmebm_sampler_sample(sampler, &options, sampled));
    options.observed = 2;
    options.langevin_z = &z;
    MMEBM_TRY(mmebm_sampler_sample_given(sampler, &options, given));
    mmebm_view energies = view_of(r->energy + first, 1, &count);
    MMEBM_TRY(mmebm_sampler_energy(sampler, sampled, &energies));
    float part[MODALITIES * N * LATENT];
    mmebm_view latents = view_of(part, 3, (int64_t[]){MODALITIES, count, LATENT});
    MMEBM_TRY(mmebm_sampler_encode_draw(sampler, 0, MMEBM_START_SAMPLE, 5, (uint64_t)first, data, &latents));
    z.method = MMEBM_MALA;
    z.prior_temperature = 2.0f;
    z.seed = 5;
    z.first_chain = (uint64_t)first;
    MMEBM_TRY(mmebm_sampler_langevin_z(sampler, &z, data, &latents, NULL));
    mmebm_view tilted = view_of(r->tilted + first * LATENT, 2, (int64_t[]){count, LATENT});
    for (int64_t k = 0; k < count * LATENT; ++k) r->tilted[first * LATENT + k] = part[k];
    z.prior_temperature = 3.0f;
    MMEBM_TRY(mmebm_sampler_langevin_prior(sampler, &z, &tilted, NULL));
    for (int e = 0; e < MODALITIES; ++e)
        memcpy(r->z + (e * N + first) * LATENT, part + e * count * LATENT, sizeof(float) * (size_t)(count * LATENT));
    return MMEBM_OK;
}

static mmebm_status run_split(uint32_t threads, uint32_t capacity, const int64_t *parts, const results *source,
                              results *r)
{
    mmebm_context *context = open_backend(test_backend(), threads);
    if (!context) return MMEBM_E_BACKEND;
    mmebm_model *model = make_images(context);
    mmebm_sampler *sampler = NULL;
    mmebm_sampler_options options;
    mmebm_status status = model ? mmebm_sampler_options_init(&options) : MMEBM_E_ARGUMENT;
    options.capacity = capacity;
    if (status == MMEBM_OK) status = mmebm_sampler_create(model, &options, &sampler);
    for (int64_t first = 0; first < N && status == MMEBM_OK; first += *parts++)
        status = run_part(sampler, first, *parts, source, r);
    if (status != MMEBM_OK) printf("  %s\n", mmebm_last_error(context));
    mmebm_sampler_destroy(&sampler);
    mmebm_model_destroy(&model);
    mmebm_context_destroy(&context);
    return status;
}

TEST(splits_do_not_change_a_bit)
{
    static results source, whole, other;
    for (int i = 0; i < MODALITIES; ++i)
        for (uint32_t k = 0; k < N * PIXELS; ++k)
            source.given[i][k] = 0.5f + 0.5f * test_number(70 + (uint64_t)i, k);
    const int64_t one[] = {N}, several[] = {1, 7, 5}, two[] = {6, 7};
    const struct {
        const char *name;
        uint32_t threads, capacity;
        const int64_t *parts;
    } ways[] = {{"capacity 4", 2, 4, one}, {"capacity 1", 2, 1, one}, {"three calls", 2, 64, several},
                {"two calls, capacity 5", 2, 5, two}, {"one thread", 1, 64, one}, {"three threads", 3, 64, one}};
    CHECK(run_split(2, 64, one, &source, &whole) == MMEBM_OK);
    for (size_t w = 0; w < sizeof ways / sizeof *ways; ++w) {
        memset(&other, 0, sizeof other);
        CHECK(run_split(ways[w].threads, ways[w].capacity, ways[w].parts, &source, &other) == MMEBM_OK);
        CHECK_MSG(memcmp(whole.sampled, other.sampled, sizeof whole.sampled) == 0, "sample, %s", ways[w].name);
        CHECK_MSG(memcmp(whole.given, other.given, sizeof whole.given) == 0, "sample_given, %s", ways[w].name);
        CHECK_MSG(memcmp(whole.energy, other.energy, sizeof whole.energy) == 0, "energy, %s", ways[w].name);
        CHECK_MSG(memcmp(whole.z, other.z, sizeof whole.z) == 0, "langevin_z, %s", ways[w].name);
        CHECK_MSG(memcmp(whole.tilted, other.tilted, sizeof whole.tilted) == 0, "langevin_prior, %s", ways[w].name);
    }
}

TEST(each_chain_draws_its_own_numbers)
{
    static results source, a;
    const int64_t one[] = {N};
    CHECK(run_split(1, 64, one, &source, &a) == MMEBM_OK);
    for (int r = 1; r < N; ++r)
        CHECK(memcmp(a.sampled[0], a.sampled[0] + r * PIXELS, sizeof(float) * PIXELS) != 0);
}

int main(void)
{
    SKIP_WITHOUT_DEVICE(test_backend());
    RUN(splits_do_not_change_a_bit);
    RUN(each_chain_draws_its_own_numbers);
    return HARNESS_RESULT();
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * Whitening changes how z is named and nothing else: pictures decoded from encoders' means stay, for every modality
 * given and read, and the averages of the experts' means vary alike in all directions, as much as whiten.c says.
 */
#include <math.h>

#include "whiten.h"
#include "../../tests/harness.h"

enum { TUPLES = 60, LATENT = 5 };

typedef struct fixture {
    mmebm_context *context;
    mmebm_model *model;
    mmebm_sampler *sampler;
    photo photos[MODALITIES];
    digit_set digits;
    polymnist_set set;
    tuples real, decoded[2]; /* decoded: before and after */
} fixture;

static mmebm_status make_model(mmebm_context *context, const char *preset, mmebm_model **model)
{
    mmebm_preset_options o;
    const mmebm_status status = mmebm_preset_options_init(&o);
    o.n_modalities = MODALITIES;
    o.latent_size = LATENT;
    o.image_size = DIGIT_SIZE;
    o.channels = CHANNELS;
    o.nf = o.nef = o.stem_channels = 2;
    o.hidden = 8;
    o.seed = 7;
    return status == MMEBM_OK ? mmebm_model_create_preset(context, preset, &o, model) : status;
}

static int open_fixture(fixture *f, const char *preset)
{
    mmebm_sampler_options o;
    char path[1024];
    memset(f, 0, sizeof *f);
    for (int m = 0; m < MODALITIES; ++m) {
        snprintf(path, sizeof path, "%s/background_%d.jpg", POLYMNIST_DATA, m);
        if (photo_read(path, &f->photos[m])) return 0;
    }
    if (digit_set_read(POLYMNIST_DATA, "t10k", &f->digits)) return 0;
    f->digits.count = TUPLES;
    return polymnist_build(&f->digits, f->photos, 5, &f->set) == 0 && tuples_create(&f->real, TUPLES) == 0 &&
           tuples_create(&f->decoded[0], TUPLES) == 0 && tuples_create(&f->decoded[1], TUPLES) == 0 &&
           mmebm_context_create(NULL, &f->context, NULL, 0) == MMEBM_OK &&
           make_model(f->context, preset, &f->model) == MMEBM_OK && mmebm_sampler_options_init(&o) == MMEBM_OK &&
           mmebm_sampler_create(f->model, &o, &f->sampler) == MMEBM_OK;
}

static void close_fixture(fixture *f)
{
    mmebm_sampler_destroy(&f->sampler);
    mmebm_model_destroy(&f->model);
    mmebm_context_destroy(&f->context);
    tuples_free(&f->real);
    tuples_free(&f->decoded[0]);
    tuples_free(&f->decoded[1]);
    polymnist_free(&f->set);
    digit_set_free(&f->digits);
    for (int m = 0; m < MODALITIES; ++m) photo_free(&f->photos[m]);
}

static void encode(fixture *f, int expert, float mean[TUPLES * LATENT], float scale[TUPLES * LATENT])
{
    const int64_t shape[2] = {TUPLES, LATENT};
    mmebm_view m, s;
    CHECK(mmebm_view_init(&m, mean, 2, shape) == MMEBM_OK && mmebm_view_init(&s, scale, 2, shape) == MMEBM_OK);
    CHECK(mmebm_sampler_encode(f->sampler, (uint32_t)expert, &f->real.view[expert], &m, &s) == MMEBM_OK);
}

/* Of expert's means, into `decoded`. */
static void reconstruct(fixture *f, int expert, tuples *decoded)
{
    const int64_t shape[2] = {TUPLES, LATENT};
    float mean[TUPLES * LATENT], scale[TUPLES * LATENT];
    mmebm_view z;
    encode(f, expert, mean, scale);
    CHECK(mmebm_view_init(&z, mean, 2, shape) == MMEBM_OK);
    CHECK(mmebm_sampler_generate(f->sampler, &z, decoded->view) == MMEBM_OK);
}

static double largest_difference(const tuples *a, const tuples *b)
{
    double most = 0;
    for (int m = 0; m < MODALITIES; ++m)
        for (size_t k = 0; k < (size_t)TUPLES * PICTURE_VALUES; ++k) {
            const double d = fabs((double)a->x[m][k] - b->x[m][k]);
            if (!(d <= most)) most = d; /* NaN too */
        }
    return most;
}

/* Of the experts' averages: mean and covariance S; and T, the covariance of draws of all experts. */
typedef struct latent_moments {
    double mean[LATENT], shared[LATENT][LATENT], total[LATENT][LATENT];
} latent_moments;

static void moments(fixture *f, latent_moments *found)
{
    static double average[TUPLES][LATENT];
    const double share = 1.0 / (MODALITIES * TUPLES);
    float m[TUPLES * LATENT], s[TUPLES * LATENT];
    memset(found, 0, sizeof *found);
    memset(average, 0, sizeof average);
    for (int e = 0; e < MODALITIES; ++e) {
        encode(f, e, m, s);
        for (int t = 0; t < TUPLES; ++t)
            for (int i = 0; i < LATENT; ++i) {
                const double scale = s[t * LATENT + i];
                average[t][i] += (double)m[t * LATENT + i] / MODALITIES;
                found->mean[i] += share * m[t * LATENT + i];
                found->total[i][i] += share * scale * scale;
                for (int j = 0; j < LATENT; ++j)
                    found->total[i][j] += share * m[t * LATENT + i] * m[t * LATENT + j];
            }
    }
    for (int i = 0; i < LATENT; ++i)
        for (int j = 0; j < LATENT; ++j) {
            const double square = found->mean[i] * found->mean[j];
            for (int t = 0; t < TUPLES; ++t) found->shared[i][j] += average[t][i] * average[t][j] / TUPLES;
            found->shared[i][j] -= square;
            found->total[i][j] -= square;
        }
}

/* trace(T^-1 S), by elimination without pivots: T is positive definite. Both are used up. */
static double trace_of_ratio(double t[LATENT][LATENT], double s[LATENT][LATENT])
{
    double trace = 0;
    for (int p = 0; p < LATENT; ++p) {
        const double pivot = t[p][p];
        for (int j = 0; j < LATENT; ++j) t[p][j] /= pivot, s[p][j] /= pivot;
        for (int i = 0; i < LATENT; ++i) {
            const double factor = t[i][p];
            for (int j = 0; j < LATENT && i != p; ++j) t[i][j] -= factor * t[p][j], s[i][j] -= factor * s[p][j];
        }
    }
    for (int p = 0; p < LATENT; ++p) trace += s[p][p];
    return trace;
}

static void check_preset(const char *preset)
{
    fixture f;
    latent_moments before, after;
    double most = 0;
    REQUIRE(open_fixture(&f, preset));
    tuples_paint(&f.real, &f.set, NULL, 0);
    moments(&f, &before);
    const double wanted = trace_of_ratio(before.total, before.shared) / LATENT; /* variance of averages */
    CHECK_MSG(wanted > 0 && wanted < 1, "%s: averages vary %g times as much as draws", preset, wanted);
    reconstruct(&f, 1, &f.decoded[0]);
    CHECK(whiten_latents(f.context, f.model, f.sampler, &f.set) == 0);
    reconstruct(&f, 1, &f.decoded[1]);
    CHECK_MSG(largest_difference(&f.decoded[0], &f.decoded[1]) < 1e-4, "%s: pictures differ by %g", preset,
              largest_difference(&f.decoded[0], &f.decoded[1]));
    moments(&f, &after);
    for (int i = 0; i < LATENT; ++i) {
        CHECK_MSG(fabs(after.mean[i]) < 1e-3, "%s: mean %d is %g", preset, i, after.mean[i]);
        for (int j = 0; j < LATENT; ++j) most = fmax(most, fabs(after.shared[i][j] / wanted - (i == j)));
    }
    CHECK_MSG(most < 1e-3, "%s: the averages' covariance is off by %g", preset, most);
    close_fixture(&f);
}

TEST(whitening_renames_latents_and_changes_no_picture)
{
    check_preset("polymnist-small");
    check_preset("polymnist");
}

int main(void)
{
    RUN(whitening_renames_latents_and_changes_no_picture);
    return HARNESS_RESULT();
}

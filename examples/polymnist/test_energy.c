/* SPDX-License-Identifier: Apache-2.0
 *
 * An energy from another model's file: its tensors are taken over, no others, and only if the networks are the same.
 */
#include "energy.h"
#include "../../tests/harness.h"
#include "polymnist.h"

enum { MOST = 4096, LATENT = 3 };

static int make_model(mmebm_context *context, uint64_t seed, uint32_t nef, mmebm_model **model)
{
    mmebm_preset_options o;
    if (mmebm_preset_options_init(&o) != MMEBM_OK) return 0;
    o.n_modalities = MODALITIES;
    o.latent_size = LATENT;
    o.image_size = DIGIT_SIZE;
    o.channels = CHANNELS;
    o.nf = o.stem_channels = 2;
    o.nef = nef;
    o.hidden = 4;
    o.seed = seed;
    return mmebm_model_create_preset(context, "polymnist-small", &o, model) == MMEBM_OK;
}

/* Whether tensor i of two models has the same numbers. */
static int same_tensor(const mmebm_model *a, const mmebm_model *b, uint32_t i, int *is_energy)
{
    static float values[2][16 * MOST];
    const mmebm_model *models[2] = {a, b};
    const char *name = "";
    int64_t shape[MMEBM_MAX_RANK];
    uint32_t rank;
    size_t count = 1;
    for (int k = 0; k < 2; ++k) {
        mmebm_view view;
        if (mmebm_model_tensor_info(models[k], i, &name, &rank, shape) != MMEBM_OK) return -1;
        if (mmebm_view_init(&view, values[k], rank, shape) != MMEBM_OK) return -1;
        if (mmebm_model_get_tensor(models[k], name, &view) != MMEBM_OK) return -1;
    }
    for (uint32_t axis = 0; axis < rank; ++axis) count *= (size_t)shape[axis];
    *is_energy = strncmp(name, "energy.", 7) == 0;
    return memcmp(values[0], values[1], count * sizeof(float)) == 0;
}

/* A model, one like it to compare with, and another in a file. */
typedef struct fixture {
    mmebm_context *context;
    mmebm_model *model, *before, *other;
} fixture;

static const char *const path = "test_energy.safetensors";

static int open_fixture(fixture *f, uint32_t nef_of_other)
{
    return mmebm_context_create(NULL, &f->context, NULL, 0) == MMEBM_OK && make_model(f->context, 1, 2, &f->model) &&
           make_model(f->context, 1, 2, &f->before) && make_model(f->context, 2, nef_of_other, &f->other) &&
           mmebm_model_save(f->other, path, NULL) == MMEBM_OK;
}

static void close_fixture(fixture *f)
{
    remove(path);
    mmebm_model_destroy(&f->model);
    mmebm_model_destroy(&f->before);
    mmebm_model_destroy(&f->other);
    mmebm_context_destroy(&f->context);
}

TEST(the_energy_alone_is_taken_over)
{
    fixture f;
    int energies = 0, others = 0, is_energy;
    REQUIRE(open_fixture(&f, 2));
    CHECK(energy_take(f.context, f.model, path) == 0);
    for (uint32_t i = 0; i < mmebm_model_tensor_count(f.model); ++i) {
        const int as_other = same_tensor(f.model, f.other, i, &is_energy);
        const int as_before = same_tensor(f.model, f.before, i, &is_energy);
        if (is_energy) {
            CHECK(as_other == 1);
            energies += as_before == 0;
        } else {
            CHECK(as_before == 1);
            others += as_other == 0;
        }
    }
    CHECK(energies > 10 && others > 10); /* the two models do differ */
    close_fixture(&f);
}

TEST(another_network_is_refused)
{
    fixture f;
    int is_energy;
    REQUIRE(open_fixture(&f, 4));
    CHECK(energy_take(f.context, f.model, path) == -1);
    CHECK(energy_take(f.context, f.model, "/nonexistent/model.safetensors") == -1);
    for (uint32_t i = 0; i < mmebm_model_tensor_count(f.model); ++i)
        CHECK(same_tensor(f.model, f.before, i, &is_energy) == 1);
    close_fixture(&f);
}

int main(void)
{
    RUN(the_energy_alone_is_taken_over);
    RUN(another_network_is_refused);
    return HARNESS_RESULT();
}

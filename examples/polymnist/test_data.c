/* SPDX-License-Identifier: Apache-2.0
 *
 * The example's data: IDX files good and damaged, the recipe of PolyMNIST, the room-bounded history.
 */
#include <stdint.h>
#include <unistd.h>

#include "feeder.h"
#include "history.h"
#include "random.h"
#include "../../tests/harness.h"

static char folder[] = "/tmp/polymnist-test-XXXXXX";
static photo photos[MODALITIES];
static digit_set shipped;

static void path_of(char path[256], const char *name)
{
    snprintf(path, 256, "%s/%s", folder, name);
}

static void put(FILE *file, uint32_t number)
{
    for (int shift = 24; shift >= 0; shift -= 8) fputc((int)(number >> shift & 255), file);
}

/* Writes a pair of files: header numbers as given, then so many bytes. */
static void write_pair(const uint32_t images[4], long image_bytes, const uint32_t labels[2], long label_bytes,
                       int label)
{
    char path[256];
    FILE *file;
    path_of(path, "part-images-idx3-ubyte");
    file = fopen(path, "wb");
    for (int i = 0; i < 4; ++i) put(file, images[i]);
    for (long i = 0; i < image_bytes; ++i) fputc(200, file);
    fclose(file);
    path_of(path, "part-labels-idx1-ubyte");
    file = fopen(path, "wb");
    for (int i = 0; i < 2; ++i) put(file, labels[i]);
    for (long i = 0; i < label_bytes; ++i) fputc(label, file);
    fclose(file);
}

TEST(good_files_are_read)
{
    digit_set set;
    write_pair((uint32_t[]){2051, 3, 28, 28}, 3 * 784, (uint32_t[]){2049, 3}, 3, 9);
    REQUIRE(digit_set_read(folder, "part", &set) == 0);
    CHECK(set.count == 3 && set.pixels[3 * 784 - 1] == 200 && set.labels[2] == 9);
    digit_set_free(&set);
    CHECK(shipped.count == 2000);
}

TEST(damaged_files_are_refused)
{
    static const struct {
        uint32_t images[4];
        long image_bytes;
        uint32_t labels[2];
        long label_bytes;
        int label;
    } cases[] = {
        {{2051, 3, 28, 28}, 3 * 784 - 1, {2049, 3}, 3, 0},   /* too short */
        {{2051, 3, 28, 28}, 3 * 784 + 1, {2049, 3}, 3, 0},   /* too long */
        {{2049, 3, 28, 28}, 3 * 784, {2049, 3}, 3, 0},       /* of the wrong kind */
        {{2051, 3, 29, 28}, 3 * 812, {2049, 3}, 3, 0},       /* of another size */
        {{2051, 0xffffffff, 28, 28}, 784, {2049, 3}, 3, 0},  /* a huge count */
        {{2051, 0, 28, 28}, 0, {2049, 0}, 0, 0},             /* nothing in it */
        {{2051, 3, 28, 28}, 3 * 784, {2049, 4}, 4, 0},       /* more labels than pictures */
        {{2051, 3, 28, 28}, 3 * 784, {2049, 3}, 2, 0},       /* labels too short */
        {{2051, 3, 28, 28}, 3 * 784, {2049, 3}, 3, 10},      /* a label that is no digit */
    };
    digit_set set;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; ++i) {
        write_pair(cases[i].images, cases[i].image_bytes, cases[i].labels, cases[i].label_bytes, cases[i].label);
        CHECK_MSG(digit_set_read(folder, "part", &set) == -1, "case %zu", i);
        CHECK(set.pixels == NULL && set.labels == NULL);
    }
    CHECK(digit_set_read(folder, "absent", &set) == -1);
}

TEST(a_file_that_is_no_photograph_is_refused)
{
    char path[256];
    photo none;
    path_of(path, "part-labels-idx1-ubyte");
    CHECK(photo_read(path, &none) == -1 && none.rgb == NULL);
    path_of(path, "absent.jpg");
    CHECK(photo_read(path, &none) == -1 && none.rgb == NULL);
}

TEST(tuples_follow_the_recipe)
{
    static float picture[PICTURE_VALUES];
    polymnist_set set;
    REQUIRE(polymnist_build(&shipped, photos, 3, &set) == 0);
    for (uint32_t m = 0; m < MODALITIES; ++m) {
        uint8_t used[2000] = {0};
        for (uint32_t i = 0; i < set.count; ++i) {
            const polymnist_picture *p = &set.pictures[(size_t)i * MODALITIES + m];
            CHECK(shipped.labels[p->digit] == set.labels[i]);
            CHECK(p->x < photos[m].width - 28 && p->y < photos[m].height - 28);
            used[p->digit] += 1;
        }
        for (uint32_t i = 0; i < set.count; ++i) CHECK(used[i] == 1); /* a permutation */
    }
    for (uint32_t m = 0; m < MODALITIES; ++m) {
        const polymnist_picture *p = &set.pictures[7 * MODALITIES + m];
        polymnist_paint(&set, 7, m, picture);
        for (uint32_t y = 0; y < 28; ++y) {
            for (uint32_t x = 0; x < 28; ++x) {
                const uint8_t *rgb = photos[m].rgb + 3 * ((p->y + y) * (size_t)photos[m].width + p->x + x);
                const int inked = shipped.pixels[p->digit * 784 + y * 28 + x] > 128;
                for (int c = 0; c < 3; ++c)
                    CHECK(picture[(y * 28 + x) * 3 + (uint32_t)c] == (float)(inked ? 255 - rgb[c] : rgb[c]) / 255.0f);
            }
        }
    }
    polymnist_free(&set);
}

TEST(tuples_are_shuffled_and_keyed_by_the_seed)
{
    polymnist_set a, b, c;
    uint32_t digits_seen = 0, equal = 0, moved = 0;
    REQUIRE(polymnist_build(&shipped, photos, 3, &a) == 0);
    REQUIRE(polymnist_build(&shipped, photos, 3, &b) == 0);
    REQUIRE(polymnist_build(&shipped, photos, 4, &c) == 0);
    for (uint32_t i = 0; i < 100; ++i) digits_seen |= UINT32_C(1) << a.labels[i];
    CHECK(digits_seen == 1023); /* a set in the order of classes would begin with 196 zeros */
    for (size_t i = 0; i < (size_t)a.count * MODALITIES; ++i) {
        equal += a.pictures[i].digit == b.pictures[i].digit && a.pictures[i].x == b.pictures[i].x;
        moved += a.pictures[i].digit != c.pictures[i].digit;
    }
    CHECK(equal == a.count * MODALITIES && moved > a.count);
    polymnist_free(&a);
    polymnist_free(&b);
    polymnist_free(&c);
}

TEST(batches_depend_on_the_step_alone)
{
    feeder straight, jumping;
    REQUIRE(feeder_open(&straight, &shipped, photos, 1, 64) == 0);
    REQUIRE(feeder_open(&jumping, &shipped, photos, 1, 64) == 0);
    for (uint64_t step = 0; step <= 40; ++step) REQUIRE(feeder_paint(&straight, step) == 0); /* 31 steps an epoch */
    REQUIRE(feeder_paint(&jumping, 40) == 0);
    for (uint32_t m = 0; m < MODALITIES; ++m)
        CHECK(memcmp(straight.batch.x[m], jumping.batch.x[m], 64 * PICTURE_VALUES * sizeof(float)) == 0);
    feeder_close(&straight);
    feeder_close(&jumping);
}

/* Of a small model with weights as they are drawn. */
TEST(decoded_batches_are_what_decoders_make_of_experts)
{
    enum { BATCH = 5, LATENT = 3 };
    char message[256];
    mmebm_context *context;
    mmebm_model *model;
    mmebm_context_options options;
    mmebm_preset_options preset;
    feeder plain, decoded;
    tuples wanted;
    float z[MODALITIES][BATCH * LATENT];
    const int64_t experts[3] = {MODALITIES, BATCH, LATENT}, one[2] = {BATCH, LATENT};
    mmebm_view averages, first;
    REQUIRE(mmebm_context_options_init(&options) == MMEBM_OK && mmebm_preset_options_init(&preset) == MMEBM_OK);
    options.backend = "reference";
    preset.n_modalities = MODALITIES;
    preset.latent_size = LATENT;
    preset.image_size = DIGIT_SIZE;
    preset.nf = preset.nef = preset.stem_channels = preset.hidden = 4;
    REQUIRE(mmebm_context_create(&options, &context, message, sizeof message) == MMEBM_OK);
    REQUIRE(mmebm_model_create_preset(context, "polymnist-small", &preset, &model) == MMEBM_OK);
    REQUIRE(feeder_open(&plain, &shipped, photos, 1, BATCH) == 0);
    REQUIRE(feeder_open(&decoded, &shipped, photos, 1, BATCH) == 0 && tuples_create(&wanted, BATCH) == 0);
    REQUIRE(feeder_decode(&decoded, context, model, MMEBM_PRECISION_F32, 2) == 0);
    for (uint64_t step = 2; step < 4; ++step) {
        REQUIRE(feeder_paint(&plain, step) == 0 && feeder_paint(&decoded, step) == 0);
        REQUIRE(mmebm_view_init(&averages, z, 3, experts) == MMEBM_OK);
        REQUIRE(mmebm_view_init(&first, z, 2, one) == MMEBM_OK);
        REQUIRE(mmebm_sampler_encode_draw(decoded.decoder, 0, MMEBM_START_AVERAGE, 0, 0, plain.batch.view,
                                          &averages) == MMEBM_OK);
        for (int i = 0; i < BATCH * LATENT; ++i) z[0][i] *= 2;
        REQUIRE(mmebm_generate(model, &first, wanted.view) == MMEBM_OK);
        for (uint32_t m = 0; m < MODALITIES; ++m)
            CHECK(memcmp(decoded.batch.x[m], wanted.x[m], BATCH * PICTURE_VALUES * sizeof(float)) == 0);
    }
    tuples_free(&wanted);
    feeder_close(&plain);
    feeder_close(&decoded);
    mmebm_model_destroy(&model);
    mmebm_context_destroy(&context);
}

TEST(numbers_below_a_bound_are_even)
{
    random_stream random = random_start(1, 2);
    int count[10] = {0};
    for (int i = 0; i < 100000; ++i) ++count[random_below(&random, 10)];
    for (int i = 0; i < 10; ++i) CHECK(abs(count[i] - 10000) < 5 * 95); /* 5 standard deviations */
}

TEST(history_of_any_length_keeps_its_means)
{
    static history h;
    double sum = 0;
    const uint32_t steps = 5000;
    history_start(&h);
    for (uint32_t i = 0; i < steps; ++i) history_add(&h, (double[CURVES]){i, 1, 2, 3, 4});
    CHECK(h.count <= HISTORY_POINTS && h.stride == 16 && h.count == steps / 16);
    for (uint32_t i = 0; i < h.count; ++i) {
        CHECK(fabs(h.point[i][0] - (i * 16 + 7.5)) < 1e-3); /* the mean of its sixteen steps */
        sum += h.point[i][4];
    }
    CHECK(fabs(sum - 4.0 * h.count) < 1e-6);
}

static int open_all(void)
{
    char path[1024];
    if (!mkdtemp(folder)) return -1;
    for (int m = 0; m < MODALITIES; ++m) {
        snprintf(path, sizeof path, "%s/background_%d.jpg", POLYMNIST_DATA, m);
        if (photo_read(path, &photos[m])) return -1;
    }
    return digit_set_read(POLYMNIST_DATA, "t10k", &shipped);
}

static void close_all(void)
{
    char path[256];
    path_of(path, "part-images-idx3-ubyte");
    unlink(path);
    path_of(path, "part-labels-idx1-ubyte");
    unlink(path);
    rmdir(folder);
    digit_set_free(&shipped);
    for (int m = 0; m < MODALITIES; ++m) photo_free(&photos[m]);
}

int main(void)
{
    if (open_all()) {
        printf("FAIL data_loads\n");
        return EXIT_FAILURE;
    }
    RUN(good_files_are_read);
    RUN(damaged_files_are_refused);
    RUN(a_file_that_is_no_photograph_is_refused);
    RUN(tuples_follow_the_recipe);
    RUN(tuples_are_shuffled_and_keyed_by_the_seed);
    RUN(batches_depend_on_the_step_alone);
    RUN(decoded_batches_are_what_decoders_make_of_experts);
    RUN(numbers_below_a_bound_are_even);
    RUN(history_of_any_length_keeps_its_means);
    close_all();
    return HARNESS_RESULT();
}

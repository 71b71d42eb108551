/* SPDX-License-Identifier: Apache-2.0
 *
 * Measures that cannot be fooled: models that are broken in ways that once scored well must get the verdict they
 * deserve. Their decoders are lists of real pictures, among which z chooses: z -> logits -> softmax -> mixture.
 */
#include <stdint.h>

#include "judge.h"
#include "../../tests/harness.h"

enum { PICTURES = 40, LATENT = 20, SAMPLES = 100, TEST_TUPLES = 200 };

static mmebm_context *context;
static judges panel;
static photo photos[MODALITIES];
static digit_set digits;
static polymnist_set test;

static int open_all(void)
{
    char path[1024];
    if (mmebm_context_create(NULL, &context, NULL, 0) != MMEBM_OK) return -1;
    for (int m = 0; m < MODALITIES; ++m) {
        snprintf(path, sizeof path, "%s/background_%d.jpg", POLYMNIST_DATA, m);
        if (photo_read(path, &photos[m])) return -1;
    }
    return digit_set_read(POLYMNIST_DATA, "t10k", &digits) || polymnist_build(&digits, photos, 5, &test) ||
           judges_load(context, POLYMNIST_DATA, &panel);
}

static void close_all(void)
{
    judges_free(&panel);
    mmebm_context_destroy(&context);
    polymnist_free(&test);
    digit_set_free(&digits);
    for (int m = 0; m < MODALITIES; ++m) photo_free(&photos[m]);
}

/* ---- models of pictures */

/* Which digit the k-th picture of a modality shows. */
typedef int (*choice)(int modality, int k);

static int every_digit(int modality, int k)
{
    (void)modality;
    return k % 10;
}

static int another_digit_each(int modality, int k)
{
    return (k + 3 * modality) % 10;
}

static int only_three(int modality, int k)
{
    (void)modality;
    (void)k;
    return 3;
}

static mmebm_network *flat_network(uint32_t inputs, const int64_t *shape, uint32_t rank, int64_t out, int outputs)
{
    mmebm_network *network = NULL;
    mmebm_linear_options linear;
    mmebm_node x[MODALITIES], y;
    int bad = mmebm_network_create(context, "flat", &network) != MMEBM_OK ||
              mmebm_linear_options_init(&linear) != MMEBM_OK;
    linear.out_features = out;
    for (uint32_t i = 0; i < inputs; ++i) bad |= mmebm_network_input(network, NULL, rank, shape, &x[i]) != MMEBM_OK;
    if (inputs > 1) bad |= mmebm_network_concat(network, inputs, x, &x[0]) != MMEBM_OK;
    for (int i = 0; i < outputs; ++i) {
        bad |= mmebm_network_linear(network, x[0], &linear, &y) != MMEBM_OK;
        bad |= mmebm_network_output(network, y, NULL) != MMEBM_OK;
    }
    bad |= mmebm_network_finish(network, MMEBM_INIT_PYTORCH, 1) != MMEBM_OK;
    CHECK_MSG(!bad, "%s", mmebm_last_error(context));
    return network;
}

static void set_tensor(mmebm_network *network, uint32_t index, float *values)
{
    const char *name;
    uint32_t rank;
    int64_t shape[MMEBM_MAX_RANK];
    mmebm_view view;
    const int bad = mmebm_network_tensor_info(network, index, &name, &rank, shape) != MMEBM_OK ||
                    mmebm_view_init(&view, values, rank, shape) != MMEBM_OK ||
                    mmebm_network_set_tensor(network, name, &view) != MMEBM_OK;
    CHECK_MSG(!bad, "%s", mmebm_last_error(context));
}

/* sharpness: of the choice among pictures; large values pick one, 0 shows the mean of all. */
static mmebm_network *picture_decoder(int modality, choice digit_of, float sharpness)
{
    static float logits[PICTURES * LATENT], pictures[PICTURE_VALUES * PICTURES], picture[PICTURE_VALUES];
    const int64_t latent[1] = {LATENT}, shape[3] = {DIGIT_SIZE, DIGIT_SIZE, CHANNELS};
    mmebm_network *network = NULL;
    mmebm_linear_options linear;
    mmebm_node x;
    uint32_t row = 0;
    int bad = mmebm_network_create(context, "pictures", &network) != MMEBM_OK ||
              mmebm_linear_options_init(&linear) != MMEBM_OK;
    linear.bias = 0;
    linear.out_features = PICTURES;
    bad |= mmebm_network_input(network, "z", 1, latent, &x) || mmebm_network_linear(network, x, &linear, &x) ||
           mmebm_network_softmax(network, x, &x);
    linear.out_features = PICTURE_VALUES;
    bad |= mmebm_network_linear(network, x, &linear, &x) || mmebm_network_reshape(network, x, 3, shape, &x) ||
           mmebm_network_output(network, x, "mean") || mmebm_network_finish(network, MMEBM_INIT_PYTORCH, 0);
    CHECK_MSG(!bad, "%s", mmebm_last_error(context));
    for (int k = 0; k < PICTURES; ++k) {
        for (int d = 0; d < LATENT; ++d) /* +-z_d: each picture has a direction of its own, alike in all modalities */
            logits[k * LATENT + d] = d == k / 2 ? (k % 2 ? -sharpness : sharpness) : 0;
        while (test.labels[row % test.count] != digit_of(modality, k)) ++row;
        polymnist_paint(&test, row++ % test.count, (uint32_t)modality, picture);
        for (int i = 0; i < PICTURE_VALUES; ++i) pictures[i * PICTURES + k] = picture[i];
    }
    set_tensor(network, 0, logits);
    set_tensor(network, 1, pictures);
    return network;
}

static mmebm_model *picture_model(choice digit_of, float sharpness)
{
    const int64_t shape[3] = {DIGIT_SIZE, DIGIT_SIZE, CHANNELS};
    mmebm_modality modalities[MODALITIES];
    mmebm_model_options options;
    mmebm_network *energy = flat_network(MODALITIES, shape, 3, 1, 1), *decoder[MODALITIES], *encoder[MODALITIES];
    mmebm_model *model = NULL;
    int bad = mmebm_model_options_init(&options) != MMEBM_OK;
    for (int m = 0; m < MODALITIES; ++m) {
        bad |= mmebm_modality_init(&modalities[m]) != MMEBM_OK;
        modalities[m].rank = 3;
        memcpy(modalities[m].shape, shape, sizeof shape);
        decoder[m] = picture_decoder(m, digit_of, sharpness);
        encoder[m] = flat_network(1, shape, 3, LATENT, 2);
    }
    options.n_modalities = MODALITIES;
    options.modalities = modalities;
    options.latent_size = LATENT;
    bad |= mmebm_model_create(context, &options, energy, (const mmebm_network *const *)decoder,
                              (const mmebm_network *const *)encoder, &model) != MMEBM_OK;
    CHECK_MSG(!bad, "%s", mmebm_last_error(context));
    mmebm_network_destroy(&energy);
    for (int m = 0; m < MODALITIES; ++m) {
        mmebm_network_destroy(&decoder[m]);
        mmebm_network_destroy(&encoder[m]);
    }
    return model;
}

static coherence judged(mmebm_model *model)
{
    coherence result = {.verdict = VERDICT_COUNT};
    tuples x;
    if (tuples_create(&x, SAMPLES) == 0) {
        CHECK_MSG(mmebm_sample(model, NULL, x.view) == MMEBM_OK, "%s", mmebm_last_error(context));
        CHECK(coherence_judge(&panel, context, &x, &result, NULL) == 0);
    }
    tuples_free(&x);
    return result;
}

/* ---- tests */

TEST(coherent_model_is_called_coherent)
{
    mmebm_model *model = picture_model(every_digit, 20);
    const coherence c = judged(model);
    CHECK_MSG(c.verdict == VERDICT_COHERENT, "%s, agreement %.3f", verdict_text[c.verdict], c.agreement);
    CHECK(c.agreement > 0.5 && c.chance < 0.01 && c.agreed_digits > 5);
    mmebm_model_destroy(&model);
}

TEST(model_of_unrelated_digits_is_called_incoherent)
{
    mmebm_model *model = picture_model(another_digit_each, 20);
    const coherence c = judged(model);
    CHECK_MSG(c.verdict == VERDICT_INCOHERENT, "%s, agreement %.3f", verdict_text[c.verdict], c.agreement);
    CHECK(c.read_digits > 5);
    mmebm_model_destroy(&model);
}

TEST(model_of_one_digit_is_called_collapsed)
{
    mmebm_model *model = picture_model(only_three, 20);
    const coherence c = judged(model);
    CHECK_MSG(c.verdict == VERDICT_COLLAPSED, "%s", verdict_text[c.verdict]);
    CHECK(c.agreement > 0.5); /* the trap: by agreement alone it is the best of all */
    CHECK(c.chance > 0.5 && c.agreed_digits < 2);
    mmebm_model_destroy(&model);
}

TEST(model_of_one_picture_is_called_constant)
{
    mmebm_model *model = picture_model(every_digit, 0);
    const coherence c = judged(model);
    CHECK_MSG(c.verdict == VERDICT_CONSTANT, "%s", verdict_text[c.verdict]);
    CHECK(c.least_variation < 1e-6);
    mmebm_model_destroy(&model);
}

TEST(model_with_nan_weights_is_called_invalid)
{
    static float weights[PICTURES * LATENT];
    const int64_t shape[2] = {PICTURES, LATENT};
    mmebm_model *model = picture_model(every_digit, 20);
    mmebm_view view;
    uint32_t tensor = 0;
    const char *name = "";
    coherence c;
    for (; tensor < mmebm_model_tensor_count(model); ++tensor) {
        REQUIRE(mmebm_model_tensor_info(model, tensor, &name, NULL, NULL) == MMEBM_OK);
        if (strncmp(name, "decoder2.", 9) == 0) break; /* one broken modality of five is enough */
    }
    weights[7] = NAN;
    REQUIRE(mmebm_view_init(&view, weights, 2, shape) == MMEBM_OK);
    REQUIRE(mmebm_model_set_tensor(model, name, &view) == MMEBM_OK);
    c = judged(model);
    CHECK_MSG(c.verdict == VERDICT_INVALID, "%s", verdict_text[c.verdict]);
    CHECK(c.agreement == 0 && c.pairwise == 0);
    mmebm_model_destroy(&model);
}

TEST(untrained_model_is_not_called_coherent)
{
    mmebm_preset_options options;
    mmebm_model *model = NULL;
    coherence c;
    REQUIRE(mmebm_preset_options_init(&options) == MMEBM_OK);
    options.nf = options.nef = options.stem_channels = 8;
    options.hidden = 16;
    REQUIRE(mmebm_model_create_preset(context, "polymnist-small", &options, &model) == MMEBM_OK);
    c = judged(model);
    CHECK_MSG(c.verdict < VERDICT_COHERENT, "%s", verdict_text[c.verdict]);
    mmebm_model_destroy(&model);
}

TEST(judges_read_real_pictures)
{
    tuples x;
    uint8_t digit[TEST_TUPLES];
    coherence c;
    int agreeing = 0;
    REQUIRE(tuples_create(&x, TEST_TUPLES) == 0);
    tuples_paint(&x, &test, NULL, 0);
    for (uint32_t m = 0; m < MODALITIES; ++m) {
        int right = 0;
        REQUIRE(judge_read(&panel, context, m, x.x[m], TEST_TUPLES, digit) == 0);
        for (int i = 0; i < TEST_TUPLES; ++i) right += digit[i] == test.labels[i];
        /* >= 0.984 on 10 000 pictures; 4 standard errors of 200 below */
        CHECK_MSG(right >= 0.984 * TEST_TUPLES - 4 * sqrt(TEST_TUPLES * 0.984 * 0.016), "judge %u: %d of %d", m, right,
                  TEST_TUPLES);
    }
    CHECK(coherence_judge(&panel, context, &x, &c, digit) == 0);
    CHECK_MSG(c.verdict == VERDICT_COHERENT && c.agreed_digits > 9, "%.2f digits", c.agreed_digits);
    for (int i = 0; i < TEST_TUPLES; ++i) agreeing += digit[i];
    CHECK(fabs(c.agreement - (double)agreeing / TEST_TUPLES) < 1e-9);
    tuples_free(&x);
}

TEST(counts_are_right)
{
    static const uint8_t read[MODALITIES][4] = {{1, 2, 3, 4}, {1, 2, 3, 5}, {1, 2, 3, 6}, {1, 2, 0, 7}, {1, 2, 0, 8}};
    const uint8_t *digit[MODALITIES] = {read[0], read[1], read[2], read[3], read[4]};
    const double even[DIGIT_CLASSES] = {3, 3, 3, 3}, none[DIGIT_CLASSES] = {0}, one[DIGIT_CLASSES] = {[7] = 2};
    tuples x;
    coherence c;
    REQUIRE(tuples_create(&x, 4) == 0);
    for (uint32_t m = 0; m < MODALITIES; ++m)
        for (uint32_t i = 0; i < 4; ++i)
            for (int k = 0; k < PICTURE_VALUES; ++k) tuples_at(&x, m, i)[k] = (float)(i % 2);
    c = coherence_of(&x, digit);
    CHECK(fabs(c.agreement - 0.5) < 1e-12);                    /* the tuples of 1 and of 2 */
    CHECK(fabs(c.pairwise - (10 + 10 + 3 + 1) / 40.0) < 1e-12); /* pairs that agree in each of the four tuples */
    CHECK(fabs(c.agreed_digits - 2) < 1e-12);
    CHECK(fabs(c.chance - 2 * pow(0.25, 5)) < 1e-12);          /* only 1 and 2 occur in all five modalities */
    CHECK(fabs(c.least_variation - 0.5) < 1e-6);
    CHECK(fabs(effective_number(even) - 4) < 1e-12 && effective_number(none) == 0 && effective_number(one) == 1);
    tuples_free(&x);
}

TEST(gains_are_right)
{
    static const uint8_t before[8] = {1, 1, 0, 0, 0, 0, 0, 1}, after[8] = {1, 0, 1, 1, 1, 0, 0, 1};
    const gain g = gain_of(before, after, 8), none = gain_of(before, before, 8);
    CHECK(g.gained == 3 && g.lost == 1 && fabs(g.mean - 0.25) < 1e-12);
    CHECK(fabs(g.error - sqrt((4 / 8.0 - 0.0625) / 8)) < 1e-12); /* variance of the changes -1, 0, 1 */
    CHECK(none.gained == 0 && none.lost == 0 && none.mean == 0 && none.error == 0);
}

int main(void)
{
    if (open_all()) {
        printf("FAIL judges_and_data_load\n");
        return EXIT_FAILURE;
    }
    RUN(counts_are_right);
    RUN(gains_are_right);
    RUN(judges_read_real_pictures);
    RUN(coherent_model_is_called_coherent);
    RUN(model_of_unrelated_digits_is_called_incoherent);
    RUN(model_of_one_digit_is_called_collapsed);
    RUN(model_of_one_picture_is_called_constant);
    RUN(model_with_nan_weights_is_called_invalid);
    RUN(untrained_model_is_not_called_coherent);
    close_all();
    return HARNESS_RESULT();
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * Initial weights: moments and ranges of both initialisers, batch norm's start, the part of the seed.
 */
#include "network_support.h"

/* ---- initial weights */

/* A network with a convolution 4 -> 50 of 5x3, its transpose 50 -> 40 and a linear layer 40 * 9 * 7 -> 20. */
static mmebm_network *weights_network(mmebm_context *context, uint32_t initialiser, uint64_t seed)
{
    mmebm_network *n = open_network(context);
    mmebm_node x;
    mmebm_conv2d_options c = conv(50, 5, 1, 2);
    c.kernel[1] = 3;
    c.padding[1] = 1;
    mmebm_linear_options l = linear(20, 1);
    CHECK(mmebm_network_conv2d(n, 0, &c, &x) == MMEBM_OK);
    c.out_channels = 40;
    CHECK(mmebm_network_conv_transpose2d(n, x, &c, &x) == MMEBM_OK);
    CHECK(mmebm_network_batch_norm(n, x, 1e-5f, 0.1f, &x) == MMEBM_OK);
    CHECK(mmebm_network_linear(n, x, &l, &x) == MMEBM_OK);
    CHECK(mmebm_network_output(n, x, NULL) == MMEBM_OK);
    CHECK(mmebm_network_finish(n, initialiser, seed) == MMEBM_OK);
    return n;
}

static const mmebm_tensor *tensor_of(const mmebm_network *n, const char *name)
{
    const mmebm_tensor *tensor = mmebm__tensor_find(&n->graph, name);
    CHECK_MSG(tensor, "no tensor %s", name);
    return tensor;
}

/* N numbers of standard deviation s: their mean has deviation s / sqrt N, their mean square
 * (kurtosis - 1)^1/2 s^2 / sqrt N. Five of these are allowed. */
static void check_moments(const mmebm_network *n, const char *name, double deviation, double kurtosis, double largest)
{
    const mmebm_tensor *tensor = tensor_of(n, name);
    if (!tensor) return;
    double sum = 0.0, squares = 0.0, most = 0.0;
    const double count = (double)tensor->count;
    for (size_t e = 0; e < tensor->count; ++e) {
        const double v = (double)n->weights[tensor->offset + e];
        sum += v;
        squares += v * v;
        if (fabs(v) > most) most = fabs(v);
    }
    const double mean_bound = 5.0 * deviation / sqrt(count);
    const double square_bound = 5.0 * sqrt((kurtosis - 1.0) / count) * deviation * deviation;
    CHECK_MSG(fabs(sum / count) <= mean_bound, "%s: mean %g, allowed %g", name, sum / count, mean_bound);
    CHECK_MSG(fabs(squares / count - deviation * deviation) <= square_bound, "%s: mean square %g, wanted %g", name,
              squares / count, deviation * deviation);
    CHECK_MSG(most <= largest, "%s: largest %g, allowed %g", name, most, largest);
    CHECK_MSG(most >= deviation, "%s: largest %g", name, most);
}

static void check_constant(const mmebm_network *n, const char *name, float value)
{
    const mmebm_tensor *tensor = tensor_of(n, name);
    if (!tensor) return;
    for (size_t e = 0; e < tensor->count; ++e) CHECK(n->weights[tensor->offset + e] == value);
}

TEST(xavier_normal_has_its_moments)
{
    mmebm_context *context = open_context(NULL);
    REQUIRE(context);
    mmebm_network *n = weights_network(context, MMEBM_INIT_XAVIER_NORMAL, 3);
    /* fan_in + fan_out: (4 + 50) 15, (40 + 50) 15, 40 63 + 20. No normal of 23 bits is beyond 5.77. */
    check_moments(n, "conv2.weight", sqrt(2.0 / (54.0 * 15.0)), 3.0, 5.8 * sqrt(2.0 / (54.0 * 15.0)));
    check_moments(n, "conv_transpose3.weight", sqrt(2.0 / (90.0 * 15.0)), 3.0, 5.8 * sqrt(2.0 / (90.0 * 15.0)));
    check_moments(n, "linear5.weight", sqrt(2.0 / 2540.0), 3.0, 5.8 * sqrt(2.0 / 2540.0));
    check_constant(n, "conv2.bias", 0.0f);
    check_constant(n, "linear5.bias", 0.0f);
    check_constant(n, "batch_norm4.gain", 1.0f);
    check_constant(n, "batch_norm4.shift", 0.0f);
    mmebm_network_destroy(&n);
    mmebm_context_destroy(&context);
}

/* U(-b, b): deviation b / sqrt 3, kurtosis 9/5. b = 1 / sqrt fan_in; a transposed convolution's fan_in counts its
 * results, as torch.nn.ConvTranspose2d's does. */
TEST(pytorch_default_has_its_moments)
{
    mmebm_context *context = open_context(NULL);
    REQUIRE(context);
    mmebm_network *n = weights_network(context, MMEBM_INIT_PYTORCH, 4);
    const struct {
        const char *weight, *bias;
        double fan_in;
    } cases[] = {{"conv2.weight", "conv2.bias", 4 * 15},
                 {"conv_transpose3.weight", "conv_transpose3.bias", 40 * 15},
                 {"linear5.weight", "linear5.bias", 40 * 63}};
    for (int i = 0; i < 3; ++i) {
        const double bound = 1.0 / sqrt(cases[i].fan_in);
        check_moments(n, cases[i].weight, bound / sqrt(3.0), 1.8, bound);
        check_moments(n, cases[i].bias, bound / sqrt(3.0), 1.8, bound);
    }
    check_constant(n, "batch_norm4.gain", 1.0f);
    check_constant(n, "batch_norm4.shift", 0.0f);
    check_constant(n, "batch_norm4.mean", 0.0f);
    check_constant(n, "batch_norm4.variance", 1.0f);
    mmebm_network_destroy(&n);
    mmebm_context_destroy(&context);
}

TEST(seed_decides_the_weights)
{
    mmebm_context *context = open_context(NULL);
    REQUIRE(context);
    const uint32_t initialisers[] = {MMEBM_INIT_XAVIER_NORMAL, MMEBM_INIT_PYTORCH};
    for (int i = 0; i < 2; ++i) {
        mmebm_network *a = weights_network(context, initialisers[i], 5);
        mmebm_network *b = weights_network(context, initialisers[i], 5);
        mmebm_network *c = weights_network(context, initialisers[i], 6);
        const size_t bytes = a->graph.weight_count * sizeof(float);
        CHECK(memcmp(a->weights, b->weights, bytes) == 0);
        size_t equal = 0;
        const mmebm_tensor *tensor = tensor_of(a, "linear5.weight");
        for (size_t e = 0; tensor && e < tensor->count; ++e)
            equal += a->weights[tensor->offset + e] == c->weights[tensor->offset + e];
        CHECK_MSG(equal <= 10, "%zu equal weights under another seed", equal); /* of 50400 draws from 2^23 values */
        mmebm_network_destroy(&a);
        mmebm_network_destroy(&b);
        mmebm_network_destroy(&c);
    }
    mmebm_context_destroy(&context);
}

int main(void)
{
    SKIP_WITHOUT_DEVICE(test_backend());
    RUN(xavier_normal_has_its_moments);
    RUN(pytorch_default_has_its_moments);
    RUN(seed_decides_the_weights);
    return HARNESS_RESULT();
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * The yardstick itself: the reference backend against the formulas of mmebm.h, graph.h and backend_api.h, written out
 * once more in the plainest way. (Its gradients are in test_gradients.c, its random numbers in check_chains.c.)
 */
#include "../harness.h"
#include "plans.h"

static side reference;

/* ---- layers, forward, in F64: equal up to the order of sums, some 1e-15 of terms below 100 */

static const double EXACT = 1e-12;

typedef struct forward_run {
    mmebm_graph graph;
    plan_data *data;
    plan_result *result;
} forward_run;

static const mmebm_layer *layer_of(const forward_run *run)
{
    return &run->graph.layers[run->graph.layer_count - 1];
}

static void open_run(const layer_case *wanted, forward_run *run)
{
    enum { ROWS = 2 };
    tested_plan plan;
    const char *error = case_graph(&reference, wanted, &run->graph);
    run->data = data_create(&run->graph, ROWS, 5);
    run->result = result_create(&run->graph, ROWS);
    if (!error) error = plan_open(&reference, &run->graph, MMEBM_PRECISION_F64, ROWS, WANT_ALL, &plan);
    if (!error) error = plan_execute(&plan, run->data, 0, WANT_ALL, 0.0, run->result);
    plan_close(&plan);
    CHECK_MSG(!error, "%s", error);
}

static void close_run(forward_run *run)
{
    result_destroy(run->result);
    data_destroy(run->data);
    mmebm__graph_free(reference.context, &run->graph);
}

/* What the layer's output should be at element e of row r. */
typedef double (*formula)(const forward_run *run, int64_t r, int64_t e);

static void check_layer(const layer_case *wanted, formula expected)
{
    forward_run run;
    open_run(wanted, &run);
    const int64_t count = layer_of(&run)->count;
    for (int64_t at = 0; at < run.data->rows * count; ++at) {
        const double value = expected(&run, at / count, at % count);
        CHECK_MSG(fabs(run.result->fields[0].values[at] - value) <= EXACT, "[%lld] is %.15g, wanted %.15g",
                  (long long)at, run.result->fields[0].values[at], value);
    }
    close_run(&run);
}

static const double *input_row(const forward_run *run, uint32_t i, int64_t r)
{
    return run->data->inputs[i] + r * run->graph.layers[run->graph.inputs[i]].count;
}

static const double *weights_of(const forward_run *run, int32_t tensor)
{
    return run->data->weights + run->graph.tensors[tensor].offset;
}

/* An input pixel, 0 outside. */
static double pixel(const forward_run *run, int64_t r, int64_t y, int64_t x, int64_t c)
{
    const int64_t *shape = run->graph.layers[0].shape;
    if (y < 0 || y >= shape[0] || x < 0 || x >= shape[1]) return 0.0;
    return input_row(run, 0, r)[(y * shape[1] + x) * shape[2] + c];
}

static double conv_formula(const forward_run *run, int64_t r, int64_t e)
{
    const mmebm_layer *layer = layer_of(run);
    const int64_t in = run->graph.layers[0].shape[2], out = layer->shape[2], o = e % out;
    const int64_t top = e / out / layer->shape[1] * layer->stride[0] - layer->padding[0];
    const int64_t left = e / out % layer->shape[1] * layer->stride[1] - layer->padding[1];
    double sum = weights_of(run, layer->bias)[o];
    for (int64_t a = 0; a < layer->kernel[0]; ++a)
        for (int64_t b = 0; b < layer->kernel[1]; ++b)
            for (int64_t c = 0; c < in; ++c)
                sum += pixel(run, r, top + a, left + b, c) *
                       weights_of(run, layer->weight)[((o * layer->kernel[0] + a) * layer->kernel[1] + b) * in + c];
    return sum;
}

/* Output (y, x) of a transposed convolution gets input (i, j) through tap (y + p - i s, x + p - j s). */
static double conv_transpose_formula(const forward_run *run, int64_t r, int64_t e)
{
    const mmebm_layer *layer = layer_of(run);
    const int64_t *from = run->graph.layers[0].shape, out = layer->shape[2], o = e % out;
    const int64_t y = e / out / layer->shape[1] + layer->padding[0];
    const int64_t x = e / out % layer->shape[1] + layer->padding[1];
    double sum = weights_of(run, layer->bias)[o];
    for (int64_t i = 0; i < from[0]; ++i) {
        for (int64_t j = 0; j < from[1]; ++j) {
            const int64_t a = y - i * layer->stride[0], b = x - j * layer->stride[1];
            if (a < 0 || a >= layer->kernel[0] || b < 0 || b >= layer->kernel[1]) continue;
            for (int64_t c = 0; c < from[2]; ++c)
                sum += pixel(run, r, i, j, c) *
                       weights_of(run, layer->weight)[((c * layer->kernel[0] + a) * layer->kernel[1] + b) * out + o];
        }
    }
    return sum;
}

TEST(convolutions)
{
    static const layer_case conv =
        CONV_CASE(MMEBM_LAYER_CONV2D, IMAGE(5, 7, 3), 4, PAIR(2, 3), PAIR(2, 1), PAIR(1, 2), PAIR(0, 0), 0);
    static const layer_case transposed =
        CONV_CASE(MMEBM_LAYER_CONV_TRANSPOSE2D, IMAGE(3, 4, 2), 5, PAIR(4, 3), PAIR(2, 3), PAIR(1, 2), PAIR(1, 0), 0);
    check_layer(&conv, conv_formula);
    check_layer(&transposed, conv_transpose_formula);
}

static double linear_formula(const forward_run *run, int64_t r, int64_t e)
{
    const mmebm_layer *layer = layer_of(run), *from = &run->graph.layers[0];
    const int64_t out = layer->shape[layer->rank - 1];
    const int64_t in = layer->flatten ? from->count : from->shape[from->rank - 1];
    double sum = weights_of(run, layer->bias)[e % out];
    for (int64_t c = 0; c < in; ++c)
        sum += input_row(run, 0, r)[e / out * in + c] * weights_of(run, layer->weight)[e % out * in + c];
    return sum;
}

TEST(linear_layers)
{
    const layer_case flat = {.settings = {.kind = MMEBM_LAYER_LINEAR, .flatten = 1}, .out_channels = 6,
                             .input_count = 1, .inputs = {IMAGE(2, 3, 4)}};
    const layer_case last = {.settings = {.kind = MMEBM_LAYER_LINEAR, .flatten = 0}, .out_channels = 6,
                             .input_count = 1, .inputs = {IMAGE(2, 3, 4)}};
    check_layer(&flat, linear_formula);
    check_layer(&last, linear_formula);
}

static double activation_formula(const forward_run *run, int64_t r, int64_t e)
{
    const double x = input_row(run, 0, r)[e];
    switch (layer_of(run)->activation) {
    case MMEBM_RELU:
        return x > 0 ? x : 0.0;
    case MMEBM_LEAKY_RELU:
        return x > 0 ? x : (double)0.2f * x;
    case MMEBM_SILU:
        return x / (1.0 + exp(-x));
    case MMEBM_SOFTPLUS:
        return log(1.0 + exp(x));
    case MMEBM_TANH:
        return (exp(x) - exp(-x)) / (exp(x) + exp(-x));
    default:
        return 1.0 / (1.0 + exp(-x));
    }
}

static double softmax_formula(const forward_run *run, int64_t r, int64_t e)
{
    const int64_t width = run->graph.layers[0].shape[2], first = e / width * width;
    double total = 0.0;
    for (int64_t k = first; k < first + width; ++k) total += exp(input_row(run, 0, r)[k]);
    return exp(input_row(run, 0, r)[e]) / total;
}

TEST(activations_and_softmax)
{
    for (uint32_t kind = MMEBM_RELU; kind <= MMEBM_SIGMOID; ++kind) {
        const layer_case wanted = {
            .settings = {.kind = MMEBM_LAYER_ACTIVATION, .activation = kind, .parameter = 0.2f}, .input_count = 1,
            .inputs = {VECTOR(9)}};
        check_layer(&wanted, activation_formula);
    }
    const layer_case softmax = {.settings = {.kind = MMEBM_LAYER_SOFTMAX}, .input_count = 1,
                                .inputs = {IMAGE(2, 3, 4)}};
    check_layer(&softmax, softmax_formula);
}

static double pool_formula(const forward_run *run, int64_t r, int64_t e)
{
    const mmebm_layer *layer = layer_of(run);
    const int64_t channels = layer->shape[2], kernel = layer->kernel[0];
    double sum = 0.0;
    for (int64_t k = 0; k < kernel * kernel; ++k)
        sum += pixel(run, r, e / channels / layer->shape[1] * layer->stride[0] - layer->padding[0] + k / kernel,
                     e / channels % layer->shape[1] * layer->stride[1] - layer->padding[1] + k % kernel, e % channels);
    return sum / (double)(kernel * kernel);
}

static double global_pool_formula(const forward_run *run, int64_t r, int64_t e)
{
    const int64_t *shape = run->graph.layers[0].shape;
    double sum = 0.0;
    for (int64_t y = 0; y < shape[0]; ++y)
        for (int64_t x = 0; x < shape[1]; ++x) sum += pixel(run, r, y, x, e);
    return sum / (double)(shape[0] * shape[1]);
}

static double upsample_formula(const forward_run *run, int64_t r, int64_t e)
{
    const mmebm_layer *layer = layer_of(run);
    const int64_t channels = layer->shape[2], place = e / channels;
    return pixel(run, r, place / layer->shape[1] / layer->factor, place % layer->shape[1] / layer->factor,
                 e % channels);
}

TEST(pooling_and_upsampling)
{
    const layer_case pool = {
        .settings = {.kind = MMEBM_LAYER_AVG_POOL, .kernel = {3, 3}, .stride = {2, 2}, .padding = {1, 1}},
        .input_count = 1, .inputs = {IMAGE(7, 4, 2)}};
    const layer_case global = {.settings = {.kind = MMEBM_LAYER_GLOBAL_AVG_POOL}, .input_count = 1,
                               .inputs = {IMAGE(3, 5, 2)}};
    const layer_case up = {.settings = {.kind = MMEBM_LAYER_UPSAMPLE, .factor = 2}, .input_count = 1,
                           .inputs = {IMAGE(3, 2, 3)}};
    check_layer(&pool, pool_formula);
    check_layer(&global, global_pool_formula);
    check_layer(&up, upsample_formula);
}

static double add_formula(const forward_run *run, int64_t r, int64_t e)
{
    return 0.5 * input_row(run, 0, r)[e] - 2.0 * input_row(run, 1, r)[e];
}

static double concat_formula(const forward_run *run, int64_t r, int64_t e)
{
    const int64_t place = e / 6, c = e % 6; /* channels 1 + 3 + 2 */
    return c < 1   ? input_row(run, 0, r)[place]
           : c < 4 ? input_row(run, 1, r)[place * 3 + c - 1]
                   : input_row(run, 2, r)[place * 2 + c - 4];
}

static double same_formula(const forward_run *run, int64_t r, int64_t e)
{
    return input_row(run, 0, r)[e];
}

TEST(add_concat_reshape)
{
    const layer_case add = {.settings = {.kind = MMEBM_LAYER_ADD, .alpha = 0.5f, .beta = -2.0f}, .input_count = 2,
                            .inputs = {VECTOR(5), VECTOR(5)}};
    const layer_case concat = {.settings = {.kind = MMEBM_LAYER_CONCAT}, .input_count = 3,
                               .inputs = {IMAGE(2, 2, 1), IMAGE(2, 2, 3), IMAGE(2, 2, 2)}};
    const layer_case reshape = {.settings = {.kind = MMEBM_LAYER_RESHAPE, .rank = 2, .shape = {6, 2}},
                                .input_count = 1, .inputs = {IMAGE(2, 3, 2)}};
    check_layer(&add, add_formula);
    check_layer(&concat, concat_formula);
    check_layer(&reshape, same_formula);
}

static double batch_norm_formula(const forward_run *run, int64_t r, int64_t e)
{
    const mmebm_layer *layer = layer_of(run);
    const int64_t c = e % 3;
    return weights_of(run, layer->weight)[c] * (input_row(run, 0, r)[e] - weights_of(run, layer->mean)[c]) /
               sqrt(weights_of(run, layer->variance)[c] + (double)0.01f) +
           weights_of(run, layer->bias)[c];
}

/* The slots of running statistics get the sums over rows of channel means, not gradients. */
TEST(batch_norm_and_its_statistics)
{
    enum { CHANNELS = 3, POSITIONS = 4 };
    const layer_case wanted = {.settings = {.kind = MMEBM_LAYER_BATCH_NORM, .epsilon = 0.01f}, .input_count = 1,
                               .inputs = {IMAGE(2, 2, CHANNELS)}};
    forward_run run;
    check_layer(&wanted, batch_norm_formula);
    open_run(&wanted, &run);
    const mmebm_layer *layer = layer_of(&run);
    const result_field *tensors = run.result->fields + run.graph.output_count + run.graph.input_count;
    for (int64_t c = 0; c < CHANNELS; ++c) {
        const double centre = weights_of(&run, layer->mean)[c];
        double mean = 0.0, variance = 0.0;
        for (int64_t k = c; k < run.data->rows * POSITIONS * CHANNELS; k += CHANNELS) {
            mean += run.data->inputs[0][k] / POSITIONS;
            variance += (run.data->inputs[0][k] - centre) * (run.data->inputs[0][k] - centre) / POSITIONS;
        }
        CHECK(fabs(tensors[layer->mean].values[c] - mean) <= EXACT);
        CHECK(fabs(tensors[layer->variance].values[c] - variance) <= EXACT);
    }
    close_run(&run);
}

static double loss_formula(const forward_run *run, int64_t r, int64_t e)
{
    const mmebm_layer *layer = layer_of(run);
    const int prior = layer->kind == MMEBM_LAYER_PRIOR;
    const double scale = layer->scale, factor = prior ? 1.0 : layer->loss_factor;
    double sum = 0.0;
    (void)e;
    for (int64_t k = 0; k < run->graph.layers[0].count; ++k) {
        const double mean = prior ? 0.0 : input_row(run, 0, r)[k], x = input_row(run, prior ? 0 : 1, r)[k];
        sum += layer->likelihood == MMEBM_GAUSSIAN  ? factor * (x - mean) * (x - mean) / (2.0 * scale * scale)
               : layer->likelihood == MMEBM_LAPLACE ? factor * fabs(x - mean) / scale
                                                    : -factor * x * log(mean);
    }
    return sum;
}

TEST(likelihoods_and_priors)
{
    for (uint32_t likelihood = MMEBM_GAUSSIAN; likelihood <= MMEBM_CATEGORICAL; ++likelihood) {
        const layer_case nll = {
            .settings = {.kind = MMEBM_LAYER_NLL, .likelihood = likelihood, .scale = 0.75f, .loss_factor = 1.5f},
            .input_count = 2, .inputs = {IMAGE(2, 3, 2), IMAGE(2, 3, 2)}};
        const layer_case prior = {.settings = {.kind = MMEBM_LAYER_PRIOR, .likelihood = likelihood, .scale = 1.25f},
                                  .input_count = 1, .inputs = {VECTOR(7)}};
        check_layer(&nll, loss_formula);
        if (likelihood != MMEBM_CATEGORICAL) check_layer(&prior, loss_formula);
    }
}

/* ---- vector operations on numbers whose results can be written down; host memory is the device's */

static const mmebm_backend_ops *ops(void)
{
    return reference.context->ops;
}

static mmebm_device *device(void)
{
    return reference.context->device;
}

static int is_near(double a, double b)
{
    return fabs(a - b) <= 4 * 0x1p-24 * fabs(b); /* results are floats after one or two roundings */
}

TEST(combine_lerp_reduce_distance)
{
    const float source[4] = {1, -2, 3, 0.5f}, half = 0.5f, roots[3] = {4, 9, 0.25f};
    float target[4] = {10, 20, -30, 40}, mean[4] = {0, 1, 2, 3}, out[2];
    REQUIRE(ops()->combine(device(), 4, target, 0.5f, source, 2.0f) == MMEBM_OK);
    CHECK(target[0] == 7 && target[1] == 6 && target[2] == -9 && target[3] == 21);
    REQUIRE(ops()->lerp(device(), 4, mean, source, 2.0f, &half) == MMEBM_OK);
    CHECK(mean[0] == 1 && mean[1] == -1.5f && mean[2] == 4 && mean[3] == 2);
    REQUIRE(ops()->reduce(device(), 4, source, 1, 2.0f, out) == MMEBM_OK);
    CHECK(out[0] == 5);
    REQUIRE(ops()->reduce(device(), 4, source, 2, 2.0f, out) == MMEBM_OK);
    CHECK(out[0] == 28.5f);
    REQUIRE(ops()->reduce(device(), 3, roots, 0, 2.0f, out) == MMEBM_OK);
    CHECK(out[0] == 11);
    REQUIRE(ops()->row_distance(device(), 2, 2, source, mean, out) == MMEBM_OK);
    CHECK(out[0] == 0.25f && out[1] == 3.25f);
    REQUIRE(ops()->row_distance(device(), 2, 2, source, NULL, out) == MMEBM_OK);
    CHECK(out[0] == 5 && out[1] == 9.25f);
}

/* Without noise: the drift is l^2/2 factor gradient, clamped, then clipped in norm; then the state is clamped. */
TEST(langevin_update)
{
    const uint64_t key[2] = {0, 0};
    const float gradient[3] = {4, -1, 20}, scales[2] = {1, 0};
    float state[3] = {1, 1, 1};
    mmebm_langevin_step step = {.rows = 1, .size = 3, .state = state, .gradient = gradient, .scales = scales,
                                .drift = {.factor = 0.5f}, .noise = {.key = key, .period = 1}};
    REQUIRE(ops()->langevin(device(), &step, 1) == MMEBM_OK);
    CHECK(state[0] == 0 && state[1] == 1.25f && state[2] == -4);
    step.drift.factor = 2; /* drifts 4, -1, 20 */
    step.drift.clamp = 3;  /* 3, -1, 3 */
    REQUIRE(ops()->langevin(device(), &step, 1) == MMEBM_OK);
    CHECK(state[0] == -3 && state[1] == 2.25f && state[2] == -7);
    step.drift.clamp = 4;     /* 4, -1, 4 */
    step.drift.norm_clip = 2; /* times 2 / sqrt(33) */
    step.state_min = -6;
    step.state_max = 2;
    REQUIRE(ops()->langevin(device(), &step, 1) == MMEBM_OK);
    CHECK(is_near(state[0], -3 - 8 / sqrt(33)) && state[1] == 2 && state[2] == -6);
}

TEST(adam_step)
{
    const float gradient[2] = {3, -4}, control[3] = {0.1f, 0.5f, 0.25f}, norm2 = 25;
    float weights[2] = {1, 2}, moment1[2] = {0.5f, 0}, moment2[2] = {4, 0};
    const mmebm_adam_step step = {.count = 2, .weights = weights, .moment1 = moment1, .moment2 = moment2,
                                  .gradient = gradient, .control = control, .norm2 = &norm2, .beta1 = 0.5f,
                                  .beta2 = 0.75f, .epsilon = 0.125f, .clip = 2.5f};
    REQUIRE(ops()->adam(device(), &step) == MMEBM_OK);
    /* the clip halves the gradient: 1.5, -2 */
    CHECK(moment1[0] == 1 && moment1[1] == -1);
    CHECK(moment2[0] == 3.5625f && moment2[1] == 1);
    CHECK(is_near(weights[0], 1 - (double)0.1f * 2 / (sqrt(14.25) + 0.125)));
    CHECK(is_near(weights[1], 2 + (double)0.1f * 2 / (2 + 0.125)));
}

/* A matrix with singular values 5 and 1 comes out with largest singular value 1; a zero matrix stays finite. */
TEST(spectral_norm)
{
    const float weight[4] = {3, -0.8f, 4, 0.6f}, zero[4] = {0}; /* columns of length 5 and 1, at right angles */
    float normalised[4], u[2] = {0.8f, 0.6f}, v[2] = {1, 1}, sigma;
    mmebm_spectral spectral = {2, 2, weight, normalised, u, v, &sigma, NULL};
    for (int k = 0; k < 30; ++k) REQUIRE(ops()->spectral_update(device(), &spectral) == MMEBM_OK);
    CHECK(is_near(sigma, 5));
    CHECK(is_near(normalised[0], 0.6) && is_near(normalised[2], 0.8));
    CHECK(is_near(fabs(v[0]), 1) && fabs(v[1]) < 1e-6);
    spectral.weight = zero;
    REQUIRE(ops()->spectral_update(device(), &spectral) == MMEBM_OK);
    for (int e = 0; e < 4; ++e) CHECK(normalised[e] == 0);
}

TEST(mala_step_size_adapts)
{
    const float accepted[3] = {10, 4, 4};
    float scales[2] = {0.5f, 0.25f}, mean;
    const mmebm_mala_adapt adapt = {.rows = 3, .accepted = accepted, .scales = scales, .mean_acceptance = &mean,
                                    .steps = 10, .rate = 2, .target = 0.5f, .min = 0.1f, .max = 0.55f};
    REQUIRE(ops()->mala_adapt(device(), &adapt) == MMEBM_OK);
    CHECK(is_near(mean, 0.6) && scales[0] == 0.55f && scales[1] == 0.55f); /* 0.5 exp(0.2) = 0.61 */
}

/* ---- experts */

static double scale_formula(uint32_t kind, const float *raw, int d, int size)
{
    double total = 0.0;
    for (int k = 0; k < size; ++k) total += exp(raw[k]);
    return (kind == MMEBM_SCALE_SOFTPLUS   ? log(1.0 + exp(raw[d]))
            : kind == MMEBM_SCALE_EXP_HALF ? exp(raw[d] / 2.0)
                                           : size * exp(raw[d]) / total) +
           0.125;
}

/* The density of the mixture as the mean of products of densities; two chains a tuple. */
TEST(mixture_density)
{
    enum { EXPERTS = 2, TUPLES = 2, CHAINS = 2, SIZE = 3, COUNT = TUPLES * SIZE, ROWS = CHAINS * TUPLES };
    float z[CHAINS * COUNT], mean[EXPERTS][COUNT], raw[EXPERTS][COUNT], log_density[ROWS], scale[COUNT];
    const float *means[EXPERTS] = {mean[0], mean[1]}, *raws[EXPERTS] = {raw[0], raw[1]};
    uint64_t state = 3;
    for (int e = 0; e < CHAINS * COUNT; ++e) z[e] = (float)draw_uniform(&state);
    for (int e = 0; e < EXPERTS * COUNT; ++e) mean[e / COUNT][e % COUNT] = (float)draw_uniform(&state);
    for (int e = 0; e < EXPERTS * COUNT; ++e) raw[e / COUNT][e % COUNT] = (float)draw_uniform(&state);
    for (int variant = 0; variant < 6; ++variant) {
        const uint32_t family = variant % 2 ? MMEBM_LAPLACE : MMEBM_GAUSSIAN, kind = 1 + (uint32_t)variant / 2;
        const mmebm_mixture mixture = {.rows = ROWS, .period = TUPLES, .size = SIZE, .z = z, .mean = means,
                                       .raw = raws, .log_density = log_density, .floor = 0.125f, .experts = EXPERTS,
                                       .family = family, .scale_kind = kind};
        REQUIRE(ops()->mixture(device(), &mixture) == MMEBM_OK);
        for (int r = 0; r < ROWS; ++r) {
            double density = 0.0;
            for (int j = 0; j < EXPERTS; ++j) {
                double product = 1.0;
                for (int d = 0; d < SIZE; ++d) {
                    const int at = r % TUPLES * SIZE + d;
                    const double s = scale_formula(kind, raw[j] + r % TUPLES * SIZE, d, SIZE);
                    const double x = (z[r * SIZE + d] - mean[j][at]) / s;
                    product *= family == MMEBM_LAPLACE ? exp(-fabs(x)) / (2.0 * s)
                                                       : exp(-x * x / 2.0) / (s * sqrt(2.0 * 3.14159265358979323846));
                }
                density += product / EXPERTS;
            }
            CHECK(fabs(log_density[r] - log(density)) <= 1e-6);
        }
        REQUIRE(ops()->expert_scale(device(), TUPLES, SIZE, raw[0], kind, 0.125f, scale) == MMEBM_OK);
        for (int e = 0; e < COUNT; ++e)
            CHECK(is_near(scale[e], scale_formula(kind, raw[0] + e / SIZE * SIZE, e % SIZE, SIZE)));
    }
}

int main(void)
{
    char message[256];
    const char *error = side_open(&reference, "reference", 1, message);
    if (error) {
        printf("FAIL open: %s\n", error);
        return EXIT_FAILURE;
    }
    RUN(convolutions);
    RUN(linear_layers);
    RUN(activations_and_softmax);
    RUN(pooling_and_upsampling);
    RUN(add_concat_reshape);
    RUN(batch_norm_and_its_statistics);
    RUN(likelihoods_and_priors);
    RUN(combine_lerp_reduce_distance);
    RUN(langevin_update);
    RUN(adam_step);
    RUN(spectral_norm);
    RUN(mala_step_size_adapts);
    RUN(mixture_density);
    side_close(&reference);
    return HARNESS_RESULT();
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * Every gradient of the reference backend against central differences in double (F64 plans):
 *   (L(v + h e) - L(v - h e)) / 2h = dL/dv + h^2/6 L''' + rounding
 * for L = sum of seed * output over all outputs and rows, and S the sum of those terms' sizes. With h = 2^-17 the first
 * error is below 1e-11 |L'''|, and seeds and weights keep L''' below a thousand times the largest gradient or 1: hence
 * TOLERANCE. Rounding is a few units 2^-52 of S, divided by h; half a dozen such units are allowed. Inputs stay away
 * from kinks (plans.h). Inside whole networks kinks cannot be avoided: there h = 2^-20, so that few are crossed.
 */
#include "../harness.h"
#include "plans.h"
#include "ref_math.h"

static const double STEP = 0x1p-17, NETWORK_STEP = 0x1p-20;
static const double TOLERANCE = 1e-7, ROUNDING = 6 * 0x1p-52;

static side reference;

/* ---- graphs */

/* L, and S in *size. */
static double loss_of(const plan_data *data, const plan_result *result, double *size)
{
    double loss = *size = 0.0;
    for (uint32_t o = 0; o < data->graph->output_count; ++o) {
        for (int64_t e = 0; e < field_size(result, o); ++e) {
            const double seed = data->seed_scale[o] * (data->seeds[o] ? data->seeds[o][e] : 1.0);
            loss += seed * result->fields[o].values[e];
            *size += fabs(seed * result->fields[o].values[e]);
        }
    }
    return loss;
}

static double loss_at(const tested_plan *plan, const plan_data *data, plan_result *scratch, double *size)
{
    const char *error = plan_execute(plan, data, 0, WANT_OUTPUTS, 0.0, scratch);
    CHECK_MSG(!error, "%s", error);
    return loss_of(data, scratch, size);
}

/* (L(v + h) - L(v - h)) / 2h, and S. */
static double difference(const tested_plan *plan, const plan_data *data, double *value, double step,
                         plan_result *scratch, double *size)
{
    const double kept = *value;
    *value = kept + step;
    const double above = loss_at(plan, data, scratch, size);
    *value = kept - step;
    const double below = loss_at(plan, data, scratch, size);
    *value = kept;
    return (above - below) / (2.0 * step);
}

static double largest(const double *values, int64_t count)
{
    double found = 0.0;
    for (int64_t e = 0; e < count; ++e) found = fmax(found, fabs(values[e]));
    return found;
}

/* Compares gradients of `count` values with differences; at most `samples` of them, evenly spread. */
static void check_values(const tested_plan *plan, const plan_data *data, const result_field *field, double *values,
                         int64_t count, int64_t samples, double step, plan_result *scratch, const char *what)
{
    const int64_t stride = count > samples ? count / samples : 1;
    for (int64_t e = 0; e < count; e += stride) {
        double size;
        const double expected = difference(plan, data, &values[e], step, scratch, &size);
        const double bound = TOLERANCE * (1.0 + largest(field->values, count)) + ROUNDING * size / step;
        if (fabs(field->values[e] - expected) <= bound) continue;
        CHECK_MSG(0, "%s: %s [%lld] is %.12g, differences give %.12g", what, field->name, (long long)e,
                  field->values[e], expected);
        return;
    }
}

static int is_statistic(const mmebm_tensor *tensor)
{
    return tensor->role == MMEBM_ROLE_MEAN || tensor->role == MMEBM_ROLE_VARIANCE;
}

static void check_graph(const mmebm_graph *graph, plan_data *data, int64_t samples, double step, const char *what)
{
    tested_plan plan;
    const char *error = plan_open(&reference, graph, MMEBM_PRECISION_F64, data->rows, WANT_ALL, &plan);
    plan_result *result = result_create(graph, data->rows), *scratch = result_create(graph, data->rows);
    if (!error) error = plan_execute(&plan, data, 0, WANT_ALL, 0.0, result);
    CHECK_MSG(!error, "%s: %s", what, error);
    const result_field *field = result->fields + graph->output_count;
    for (uint32_t i = 0; !error && i < graph->input_count; ++i, ++field)
        if (data->period[i] == data->rows)
            check_values(&plan, data, field, data->inputs[i], data->rows * field->count, samples, step, scratch, what);
    for (uint32_t t = 0; !error && t < graph->tensor_count; ++t, ++field)
        if (!is_statistic(&graph->tensors[t]))
            check_values(&plan, data, field, data->weights + graph->tensors[t].offset, field->count, samples, step,
                         scratch, what);
    result_destroy(result);
    result_destroy(scratch);
    plan_close(&plan);
}

static void check_cases(const layer_case *cases, size_t count)
{
    enum { ROWS = 2, ALL = 1 << 30 };
    for (size_t c = 0; c < count; ++c) {
        mmebm_graph graph;
        char text[256];
        const char *error = case_graph(&reference, &cases[c], &graph);
        CHECK_MSG(!error, "%s: %s", case_text(&cases[c], text), error);
        if (!error) {
            plan_data *data = data_create(&graph, ROWS, c + 1);
            check_graph(&graph, data, ALL, STEP, case_text(&cases[c], text));
            data_destroy(data);
        }
        mmebm__graph_free(reference.context, &graph);
    }
}

#define CHECK_CASES(cases) check_cases((cases), sizeof(cases) / sizeof *(cases))

TEST(gradient_of_conv2d)
{
    enum { KIND = MMEBM_LAYER_CONV2D };
    static const layer_case cases[] = {
        CONV_CASE(KIND, IMAGE(5, 4, 2), 3, PAIR(3, 3), PAIR(1, 1), PAIR(1, 1), PAIR(0, 0), 0),
        CONV_CASE(KIND, IMAGE(5, 7, 3), 5, PAIR(2, 3), PAIR(2, 1), PAIR(1, 2), PAIR(0, 0), 0),
        CONV_CASE(KIND, IMAGE(6, 5, 1), 2, PAIR(4, 1), PAIR(2, 3), PAIR(2, 0), PAIR(0, 0), -1),
        CONV_CASE(KIND, IMAGE(1, 6, 2), 6, PAIR(1, 3), PAIR(1, 2), PAIR(0, 1), PAIR(0, 0), 0),
        CONV_CASE(KIND, IMAGE(3, 3, 5), 1, PAIR(1, 1), PAIR(1, 1), PAIR(0, 0), PAIR(0, 0), -1),
    };
    CHECK_CASES(cases);
}

TEST(gradient_of_conv_transpose2d)
{
    enum { KIND = MMEBM_LAYER_CONV_TRANSPOSE2D };
    static const layer_case cases[] = {
        CONV_CASE(KIND, IMAGE(3, 4, 2), 3, PAIR(4, 4), PAIR(2, 2), PAIR(1, 1), PAIR(0, 0), 0),
        CONV_CASE(KIND, IMAGE(3, 2, 3), 5, PAIR(3, 2), PAIR(2, 3), PAIR(1, 0), PAIR(1, 2), 0),
        CONV_CASE(KIND, IMAGE(1, 1, 7), 2, PAIR(4, 3), PAIR(1, 1), PAIR(0, 0), PAIR(0, 0), -1),
        CONV_CASE(KIND, IMAGE(4, 1, 1), 4, PAIR(2, 5), PAIR(3, 1), PAIR(0, 2), PAIR(2, 0), 0),
    };
    CHECK_CASES(cases);
}

TEST(gradient_of_linear)
{
    static const layer_case cases[] = {
        {.settings = {.kind = MMEBM_LAYER_LINEAR, .flatten = 1}, .out_channels = 5, .input_count = 1,
         .inputs = {IMAGE(2, 3, 3)}},
        {.settings = {.kind = MMEBM_LAYER_LINEAR, .flatten = 0}, .out_channels = 6, .input_count = 1,
         .inputs = {IMAGE(3, 2, 4)}},
        {.settings = {.kind = MMEBM_LAYER_LINEAR, .flatten = 1, .bias = -1}, .out_channels = 1, .input_count = 1,
         .inputs = {VECTOR(7)}},
    };
    CHECK_CASES(cases);
}

TEST(gradient_of_activations)
{
    for (uint32_t kind = MMEBM_RELU; kind <= MMEBM_SIGMOID; ++kind) {
        const layer_case cases[] = {
            {.settings = {.kind = MMEBM_LAYER_ACTIVATION, .activation = kind, .parameter = 0.2f}, .input_count = 1,
             .inputs = {IMAGE(3, 5, 2)}},
        };
        CHECK_CASES(cases);
    }
}

TEST(gradient_of_softmax)
{
    static const layer_case cases[] = {
        {.settings = {.kind = MMEBM_LAYER_SOFTMAX}, .input_count = 1, .inputs = {IMAGE(2, 3, 5)}},
        {.settings = {.kind = MMEBM_LAYER_SOFTMAX}, .input_count = 1, .inputs = {VECTOR(1)}},
    };
    CHECK_CASES(cases);
}

TEST(gradient_of_pooling_and_upsampling)
{
    static const layer_case cases[] = {
        {.settings = {.kind = MMEBM_LAYER_AVG_POOL, .kernel = {3, 3}, .stride = {2, 2}, .padding = {1, 1}},
         .input_count = 1, .inputs = {IMAGE(7, 5, 3)}},
        {.settings = {.kind = MMEBM_LAYER_AVG_POOL, .kernel = {2, 2}, .stride = {3, 3}, .padding = {0, 0}},
         .input_count = 1, .inputs = {IMAGE(5, 8, 2)}},
        {.settings = {.kind = MMEBM_LAYER_GLOBAL_AVG_POOL}, .input_count = 1, .inputs = {IMAGE(3, 5, 4)}},
        {.settings = {.kind = MMEBM_LAYER_UPSAMPLE, .factor = 3}, .input_count = 1, .inputs = {IMAGE(2, 3, 2)}},
    };
    CHECK_CASES(cases);
}

TEST(gradient_of_add_concat_reshape)
{
    static const layer_case cases[] = {
        {.settings = {.kind = MMEBM_LAYER_ADD, .alpha = 0.5f, .beta = -2.0f}, .input_count = 2,
         .inputs = {IMAGE(2, 3, 4), IMAGE(2, 3, 4)}},
        {.settings = {.kind = MMEBM_LAYER_CONCAT}, .input_count = 3,
         .inputs = {IMAGE(2, 3, 1), IMAGE(2, 3, 4), IMAGE(2, 3, 2)}},
        {.settings = {.kind = MMEBM_LAYER_CONCAT}, .input_count = 1, .inputs = {VECTOR(3)}},
        {.settings = {.kind = MMEBM_LAYER_RESHAPE, .rank = 2, .shape = {6, 4}}, .input_count = 1,
         .inputs = {IMAGE(2, 3, 4)}},
    };
    CHECK_CASES(cases);
}

TEST(gradient_of_batch_norm)
{
    static const layer_case cases[] = {
        {.settings = {.kind = MMEBM_LAYER_BATCH_NORM, .epsilon = 1e-2f}, .input_count = 1, .inputs = {IMAGE(3, 2, 5)}},
        {.settings = {.kind = MMEBM_LAYER_BATCH_NORM, .epsilon = 1e-5f}, .input_count = 1, .inputs = {VECTOR(7)}},
    };
    CHECK_CASES(cases);
}

TEST(gradient_of_likelihoods_and_priors)
{
    for (uint32_t likelihood = MMEBM_GAUSSIAN; likelihood <= MMEBM_CATEGORICAL; ++likelihood) {
        const layer_case cases[] = {
            {.settings = {.kind = MMEBM_LAYER_NLL, .likelihood = likelihood, .scale = 0.75f, .loss_factor = 1.5f},
             .input_count = 2, .inputs = {IMAGE(2, 3, 4), IMAGE(2, 3, 4)}},
            {.settings = {.kind = MMEBM_LAYER_PRIOR, .likelihood = MMEBM_GAUSSIAN + likelihood % 2, .scale = 1.25f},
             .input_count = 1, .inputs = {VECTOR(9)}},
        };
        CHECK_CASES(cases);
    }
}

/* ---- a value that two layers read, several outputs, an input without influence on one of them */

TEST(gradient_of_a_branching_graph)
{
    mmebm_network *network = NULL;
    mmebm_node x, y, sum, joined, hidden;
    mmebm_linear_options linear;
    REQUIRE(mmebm_linear_options_init(&linear) == MMEBM_OK);
    linear.out_features = 4;
    REQUIRE(mmebm_network_create(reference.context, "branching", &network) == MMEBM_OK);
    REQUIRE(mmebm_network_input(network, "x", 1, (const int64_t[]){4}, &x) == MMEBM_OK);
    REQUIRE(mmebm_network_input(network, "y", 1, (const int64_t[]){4}, &y) == MMEBM_OK);
    REQUIRE(mmebm_network_linear(network, x, &linear, &hidden) == MMEBM_OK);
    REQUIRE(mmebm_network_activation(network, hidden, MMEBM_TANH, 0.0f, &hidden) == MMEBM_OK);
    REQUIRE(mmebm_network_add(network, hidden, 2.0f, hidden, -0.5f, &sum) == MMEBM_OK);
    REQUIRE(mmebm_network_concat(network, 3, (const mmebm_node[]){sum, y, hidden}, &joined) == MMEBM_OK);
    REQUIRE(mmebm_network_linear(network, joined, &linear, &joined) == MMEBM_OK);
    REQUIRE(mmebm_network_output(network, hidden, "hidden") == MMEBM_OK);
    REQUIRE(mmebm_network_output(network, joined, "joined") == MMEBM_OK);
    REQUIRE(mmebm_network_finish(network, MMEBM_INIT_PYTORCH, 1) == MMEBM_OK);
    plan_data *data = data_create(&network->graph, 3, 99);
    check_graph(&network->graph, data, 1000, STEP, "branching");
    data->seed_scale[1] = 0.0f; /* now y must get zeros */
    check_graph(&network->graph, data, 1000, STEP, "branching, second output without seed");
    free(data->seeds[0]);
    data->seeds[0] = NULL;
    check_graph(&network->graph, data, 1000, STEP, "branching, constant seed");
    data_destroy(data);
    mmebm_network_destroy(&network);
}

/* ---- whole networks */

static void check_model(const char *preset)
{
    enum { WIDTH = 5, ROWS_OF_NETWORK = 1, SAMPLES = 4 /* of each input and tensor */ };
    mmebm_model *model = NULL;
    const char *error = preset_model(&reference, preset, WIDTH, &model);
    CHECK_MSG(!error, "%s", error);
    for (uint32_t number = 0; !error && number < MODEL_GRAPHS; ++number) {
        mmebm_graph graph;
        const char *name;
        error = model_graph(model, number, &graph, &name);
        CHECK_MSG(!error, "%s", error);
        if (error) break;
        plan_data *data = data_create(&graph, ROWS_OF_NETWORK, number + 1);
        check_graph(&graph, data, SAMPLES, NETWORK_STEP, name);
        data_destroy(data);
        mmebm__graph_free(reference.context, &graph);
    }
    mmebm_model_destroy(&model);
}

TEST(gradient_of_polymnist_networks)
{
    check_model("polymnist");
}

TEST(gradient_of_polymnist_small_networks)
{
    check_model("polymnist-small");
}

TEST(gradient_of_mlp_networks)
{
    check_model("mlp");
}

/* ---- the mixture of experts */

enum { EXPERTS = 3, ROWS = 4, PERIOD = 2, SIZE = 3 };

typedef struct mixture_case {
    double z[ROWS * SIZE], mean[EXPERTS][PERIOD * SIZE], raw[EXPERTS][PERIOD * SIZE];
    double mean_gradient[EXPERTS][PERIOD * SIZE], raw_gradient[EXPERTS][PERIOD * SIZE], log_density[ROWS];
} mixture_case;

/* A "float *" that is a double pointer: ref_math.h's wide memory. */
static float *wide(double *values)
{
    void *memory = values;
    return memory;
}

static double mixture_total(mixture_case *data, uint32_t family, uint32_t scale_kind, int with_gradients)
{
    const float *mean[EXPERTS], *raw[EXPERTS];
    float *mean_gradient[EXPERTS], *raw_gradient[EXPERTS];
    for (int j = 0; j < EXPERTS; ++j) {
        mean[j] = wide(data->mean[j]);
        raw[j] = wide(data->raw[j]);
        mean_gradient[j] = wide(data->mean_gradient[j]);
        raw_gradient[j] = wide(data->raw_gradient[j]);
    }
    const mmebm_mixture mixture = {.rows = ROWS, .period = PERIOD, .size = SIZE, .z = wide(data->z), .mean = mean,
                                   .raw = raw, .mean_gradient = with_gradients ? mean_gradient : NULL,
                                   .raw_gradient = with_gradients ? raw_gradient : NULL,
                                   .log_density = wide(data->log_density), .gradient_scale = -0.5f, .floor = 0.125f,
                                   .experts = EXPERTS, .family = family, .scale_kind = scale_kind};
    mmebm__ref_mixture(&mixture, 1);
    double total = 0.0;
    for (int r = 0; r < ROWS; ++r) total += (double)mixture.gradient_scale * data->log_density[r];
    return total;
}

static void check_mixture_values(mixture_case *data, double *values, const double *gradients, uint32_t family,
                                 uint32_t scale_kind, const char *what)
{
    for (int e = 0; e < PERIOD * SIZE; ++e) {
        const double kept = values[e];
        values[e] = kept + STEP;
        const double above = mixture_total(data, family, scale_kind, 0);
        values[e] = kept - STEP;
        const double below = mixture_total(data, family, scale_kind, 0);
        values[e] = kept;
        const double expected = (above - below) / (2.0 * STEP);
        CHECK_MSG(fabs(gradients[e] - expected) <= TOLERANCE * (1.0 + fabs(expected)),
                  "family %u scale %u by %s [%d]: %.12g, differences give %.12g", family, scale_kind, what, e,
                  gradients[e], expected);
    }
}

TEST(gradient_of_the_mixture)
{
    for (uint32_t family = MMEBM_GAUSSIAN; family <= MMEBM_LAPLACE; ++family) {
        for (uint32_t scale_kind = MMEBM_SCALE_SOFTPLUS; scale_kind <= MMEBM_SCALE_SOFTMAX; ++scale_kind) {
            mixture_case data = {0};
            uint64_t state = family * 100 + scale_kind;
            for (int e = 0; e < ROWS * SIZE; ++e) data.z[e] = 1.5 * draw_uniform(&state);
            for (int j = 0; j < EXPERTS; ++j) {
                for (int e = 0; e < PERIOD * SIZE; ++e) {
                    data.mean[j][e] = draw_uniform(&state);
                    data.raw[j][e] = draw_uniform(&state);
                }
            }
            mixture_total(&data, family, scale_kind, 1);
            for (int j = 0; j < EXPERTS; ++j) {
                check_mixture_values(&data, data.mean[j], data.mean_gradient[j], family, scale_kind, "mean");
                check_mixture_values(&data, data.raw[j], data.raw_gradient[j], family, scale_kind, "raw");
            }
        }
    }
}

/* ---- spectral norm: with u and v held, f(W) = sum G o W / (u' W v) */

TEST(gradient_through_the_spectral_norm)
{
    enum { OUT = 3, IN = 5, COUNT = OUT * IN };
    float weight[COUNT], normalised[COUNT], gradient[COUNT], u[OUT], v[IN], sigma;
    double loss_gradient[COUNT];
    uint64_t state = 7;
    for (int e = 0; e < COUNT; ++e) weight[e] = (float)draw_uniform(&state);
    for (int e = 0; e < COUNT; ++e) loss_gradient[e] = gradient[e] = (float)draw_uniform(&state);
    for (int e = 0; e < OUT; ++e) u[e] = (float)draw_uniform(&state);
    const mmebm_spectral spectral = {OUT, IN, weight, normalised, u, v, &sigma, gradient};
    const mmebm_backend_ops *ops = reference.context->ops;
    for (int k = 0; k < 50; ++k) REQUIRE(ops->spectral_update(reference.context->device, &spectral) == MMEBM_OK);
    REQUIRE(ops->spectral_gradient(reference.context->device, &spectral) == MMEBM_OK);
    for (int e = 0; e < COUNT; ++e) {
        double values[2];
        for (int side_of = 0; side_of < 2; ++side_of) {
            double product = 0.0, norm = 0.0;
            for (int i = 0; i < COUNT; ++i) {
                const double w = weight[i] + (i == e ? (side_of ? -STEP : STEP) : 0.0);
                product += loss_gradient[i] * w;
                norm += u[i / IN] * w * v[i % IN];
            }
            values[side_of] = product / norm;
        }
        const double expected = (values[0] - values[1]) / (2.0 * STEP);
        /* u, v, sigma, W / sigma and the result are floats: a dozen roundings of 2^-24 of numbers below 4 */
        CHECK_MSG(fabs(gradient[e] - expected) <= 12 * 4 * 0x1p-24, "[%d] is %.9g, differences give %.9g", e,
                  (double)gradient[e], expected);
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
    RUN(gradient_of_conv2d);
    RUN(gradient_of_conv_transpose2d);
    RUN(gradient_of_linear);
    RUN(gradient_of_activations);
    RUN(gradient_of_softmax);
    RUN(gradient_of_pooling_and_upsampling);
    RUN(gradient_of_add_concat_reshape);
    RUN(gradient_of_batch_norm);
    RUN(gradient_of_likelihoods_and_priors);
    RUN(gradient_of_a_branching_graph);
    RUN(gradient_of_polymnist_networks);
    RUN(gradient_of_polymnist_small_networks);
    RUN(gradient_of_mlp_networks);
    RUN(gradient_of_the_mixture);
    RUN(gradient_through_the_spectral_norm);
    side_close(&reference);
    return HARNESS_RESULT();
}

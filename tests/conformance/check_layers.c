/* SPDX-License-Identifier: Apache-2.0
 *
 * Every layer kind of a backend against the yardstick, as graphs of one layer: shapes from 1 to beyond a vector
 * register, primes, channel counts around 16, square and rectangular kernels, strides 1 to 3, images 1xN, 7 and 28.
 */
#include "check_plan.h"

/* Activations reach far from 0 here: nothing overflows where the function does not. */
static const double EXTREME = 60.0;

static void check_elements(const mmebm_graph *graph, uint64_t seed, const char *what)
{
    check_graph(graph, 0, seed, what);
}

static void check_case(const layer_case *wanted, uint64_t seed, graph_check check)
{
    mmebm_graph graph;
    char text[256];
    const char *error = case_graph(&setting.reference, wanted, &graph);
    CHECK_MSG(!error, "%s: %s", case_text(wanted, text), error);
    if (!error) check(&graph, seed, case_text(wanted, text));
    mmebm__graph_free(setting.reference.context, &graph);
}

static void check_cases(const layer_case *cases, size_t count, graph_check check)
{
    for (size_t c = 0; c < count; ++c) check_case(&cases[c], c, check);
}

#define CHECK_CASES(cases) check_cases((cases), sizeof(cases) / sizeof *(cases), check_elements)

TEST(conv2d)
{
    enum { KIND = MMEBM_LAYER_CONV2D };
    static const layer_case cases[] = {
        CONV_CASE(KIND, IMAGE(1, 1, 1), 1, PAIR(1, 1), PAIR(1, 1), PAIR(0, 0), PAIR(0, 0), 0),
        CONV_CASE(KIND, IMAGE(7, 7, 16), 16, PAIR(3, 3), PAIR(1, 1), PAIR(1, 1), PAIR(0, 0), -1),
        CONV_CASE(KIND, IMAGE(7, 7, 15), 17, PAIR(3, 3), PAIR(1, 1), PAIR(1, 1), PAIR(0, 0), 0),
        CONV_CASE(KIND, IMAGE(7, 7, 17), 15, PAIR(3, 3), PAIR(2, 2), PAIR(1, 1), PAIR(0, 0), 0),
        CONV_CASE(KIND, IMAGE(7, 7, 32), 48, PAIR(1, 1), PAIR(1, 1), PAIR(0, 0), PAIR(0, 0), -1),
        CONV_CASE(KIND, IMAGE(7, 7, 33), 7, PAIR(1, 1), PAIR(2, 2), PAIR(0, 0), PAIR(0, 0), 0),
        CONV_CASE(KIND, IMAGE(7, 7, 64), 32, PAIR(3, 3), PAIR(1, 1), PAIR(1, 1), PAIR(0, 0), 0),
        CONV_CASE(KIND, IMAGE(6, 10, 20), 37, PAIR(3, 3), PAIR(1, 1), PAIR(1, 1), PAIR(0, 0), -1),
        CONV_CASE(KIND, IMAGE(8, 4, 33), 16, PAIR(3, 3), PAIR(1, 1), PAIR(1, 1), PAIR(0, 0), 0),
        CONV_CASE(KIND, IMAGE(5, 9, 40), 72, PAIR(3, 3), PAIR(1, 1), PAIR(1, 1), PAIR(0, 0), 0),
        CONV_CASE(KIND, IMAGE(30, 1, 72), 33, PAIR(3, 3), PAIR(1, 1), PAIR(1, 1), PAIR(0, 0), -1),
        CONV_CASE(KIND, IMAGE(28, 28, 3), 16, PAIR(3, 3), PAIR(1, 1), PAIR(1, 1), PAIR(0, 0), 0),
        CONV_CASE(KIND, IMAGE(28, 28, 1), 5, PAIR(4, 4), PAIR(2, 2), PAIR(1, 1), PAIR(0, 0), 0),
        CONV_CASE(KIND, IMAGE(14, 10, 40), 72, PAIR(4, 4), PAIR(2, 2), PAIR(1, 1), PAIR(0, 0), 0),
        CONV_CASE(KIND, IMAGE(9, 12, 24), 16, PAIR(4, 4), PAIR(2, 2), PAIR(1, 1), PAIR(0, 0), -1),
        CONV_CASE(KIND, IMAGE(14, 14, 16), 3, PAIR(3, 3), PAIR(1, 1), PAIR(1, 1), PAIR(0, 0), 0),
        CONV_CASE(KIND, IMAGE(8, 8, 5), 16, PAIR(4, 4), PAIR(1, 1), PAIR(2, 2), PAIR(0, 0), 0),
        CONV_CASE(KIND, IMAGE(4, 4, 16), 11, PAIR(4, 4), PAIR(1, 1), PAIR(0, 0), PAIR(0, 0), 0),
        CONV_CASE(KIND, IMAGE(11, 13, 2), 7, PAIR(2, 5), PAIR(3, 1), PAIR(1, 2), PAIR(0, 0), 0),
        CONV_CASE(KIND, IMAGE(13, 11, 7), 1, PAIR(3, 1), PAIR(1, 3), PAIR(2, 0), PAIR(0, 0), -1),
        CONV_CASE(KIND, IMAGE(1, 31, 4), 9, PAIR(1, 3), PAIR(1, 2), PAIR(0, 1), PAIR(0, 0), 0),
        CONV_CASE(KIND, IMAGE(31, 1, 16), 16, PAIR(5, 1), PAIR(1, 1), PAIR(2, 0), PAIR(0, 0), 0),
        CONV_CASE(KIND, IMAGE(9, 9, 1), 1, PAIR(3, 3), PAIR(3, 3), PAIR(0, 0), PAIR(0, 0), -1),
        CONV_CASE(KIND, IMAGE(6, 6, 8), 16, PAIR(2, 2), PAIR(2, 2), PAIR(0, 0), PAIR(0, 0), 0),
    };
    CHECK_CASES(cases);
}

TEST(conv_transpose2d)
{
    enum { KIND = MMEBM_LAYER_CONV_TRANSPOSE2D };
    static const layer_case cases[] = {
        CONV_CASE(KIND, IMAGE(1, 1, 1), 1, PAIR(1, 1), PAIR(1, 1), PAIR(0, 0), PAIR(0, 0), 0),
        CONV_CASE(KIND, IMAGE(7, 7, 16), 16, PAIR(4, 4), PAIR(2, 2), PAIR(1, 1), PAIR(0, 0), 0),
        CONV_CASE(KIND, IMAGE(7, 7, 15), 17, PAIR(3, 3), PAIR(2, 2), PAIR(1, 1), PAIR(1, 1), 0),
        CONV_CASE(KIND, IMAGE(14, 14, 5), 3, PAIR(4, 4), PAIR(2, 2), PAIR(1, 1), PAIR(0, 0), 0),
        CONV_CASE(KIND, IMAGE(5, 7, 72), 40, PAIR(4, 4), PAIR(2, 2), PAIR(1, 1), PAIR(0, 0), -1),
        CONV_CASE(KIND, IMAGE(4, 6, 24), 16, PAIR(4, 4), PAIR(2, 2), PAIR(1, 1), PAIR(1, 0), 0),
        CONV_CASE(KIND, IMAGE(1, 1, 37), 16, PAIR(7, 7), PAIR(1, 1), PAIR(0, 0), PAIR(0, 0), -1),
        CONV_CASE(KIND, IMAGE(5, 3, 2), 7, PAIR(2, 3), PAIR(3, 2), PAIR(0, 1), PAIR(2, 0), 0),
        CONV_CASE(KIND, IMAGE(7, 7, 16), 1, PAIR(3, 3), PAIR(1, 1), PAIR(1, 1), PAIR(0, 0), 0),
        CONV_CASE(KIND, IMAGE(1, 9, 16), 32, PAIR(1, 2), PAIR(1, 2), PAIR(0, 0), PAIR(0, 0), -1),
    };
    CHECK_CASES(cases);
}

TEST(linear)
{
#define LINEAR_CASE(image, out, flatten_, bias_)                                                                   \
    {                                                                                                              \
        .settings = {.kind = MMEBM_LAYER_LINEAR, .flatten = (flatten_), .bias = (bias_)}, .out_channels = (out),   \
        .input_count = 1, .inputs = {image}                                                                        \
    }
    static const layer_case cases[] = {
        LINEAR_CASE(VECTOR(1), 1, 1, 0),          LINEAR_CASE(VECTOR(17), 31, 1, 0),
        LINEAR_CASE(VECTOR(64), 16, 1, -1),       LINEAR_CASE(IMAGE(28, 28, 1), 10, 1, 0),
        LINEAR_CASE(IMAGE(7, 7, 15), 33, 1, 0),   LINEAR_CASE(IMAGE(7, 5, 3), 8, 0, 0),
        LINEAR_CASE(IMAGE(1, 31, 16), 17, 0, -1), LINEAR_CASE(VECTOR(33), 1, 0, 0),
        LINEAR_CASE(VECTOR(5), 784, 1, 0),        LINEAR_CASE(IMAGE(4, 4, 32), 128, 1, 0),
    };
    CHECK_CASES(cases);
}

/* Channels of every kind of tile; the reference has no tiles. */
TEST(many_rows)
{
    enum { KIND = MMEBM_LAYER_CONV2D };
    static const layer_case cases[] = {
        CONV_CASE(KIND, IMAGE(28, 28, 16), 80, PAIR(3, 3), PAIR(1, 1), PAIR(1, 1), PAIR(0, 0), -1),
        CONV_CASE(KIND, IMAGE(28, 28, 80), 128, PAIR(3, 3), PAIR(1, 1), PAIR(1, 1), PAIR(0, 0), 0),
        CONV_CASE(KIND, IMAGE(14, 14, 64), 64, PAIR(3, 3), PAIR(1, 1), PAIR(1, 1), PAIR(0, 0), 0),
        CONV_CASE(KIND, IMAGE(7, 7, 128), 256, PAIR(3, 3), PAIR(1, 1), PAIR(1, 1), PAIR(0, 0), 0),
        CONV_CASE(KIND, IMAGE(14, 14, 128), 64, PAIR(1, 1), PAIR(1, 1), PAIR(0, 0), PAIR(0, 0), -1),
        CONV_CASE(KIND, IMAGE(28, 28, 32), 3, PAIR(3, 3), PAIR(1, 1), PAIR(1, 1), PAIR(0, 0), 0),
        {.settings = {.kind = MMEBM_LAYER_LINEAR, .flatten = 1, .bias = 0}, .out_channels = 784, .input_count = 1,
         .inputs = {VECTOR(32)}},
        {.settings = {.kind = MMEBM_LAYER_LINEAR, .flatten = 1, .bias = 0}, .out_channels = 32, .input_count = 1,
         .inputs = {IMAGE(7, 7, 64)}}, /* a long sum */
        CONV_CASE(KIND, IMAGE(28, 28, 16), 64, PAIR(4, 4), PAIR(2, 2), PAIR(1, 1), PAIR(0, 0), 0),
    };
    if (!setting.plain) check_cases(cases, sizeof cases / sizeof *cases, check_many_rows);
}

static const char *const activation_names[] = {"", "relu", "leaky relu", "silu", "softplus", "tanh", "sigmoid"};

/* Far from 0 a slope is a difference of nearly equal numbers of size up to |x|: errors of 16 units of that are allowed,
 * but no NaN, no infinity. */
static void check_extremes(const mmebm_graph *graph, const char *what)
{
    plan_check check = {.graph = graph, .what = what};
    check.data = data_create(graph, ALL_ROWS, 1);
    for (int64_t e = 0; e < ALL_ROWS * graph->layers[0].count; ++e) check.data->inputs[0][e] *= EXTREME;
    data_round(check.data);
    plan_result *expected = result_create(graph, ALL_ROWS), *unused = result_create(graph, ALL_ROWS);
    const char *error = measure(&check, expected, unused);
    CHECK_MSG(!error, "%s: %s", what, error);
    plan_result *found = run_once(&check, &setting.tested[0], check.data, ALL_ROWS, WANT_ALL, 0, ALL_ROWS, 0.0);
    for (uint32_t f = 0; f < found->field_count; ++f) {
        for (int64_t e = 0; e < field_size(found, f); ++e) {
            const double bound = 16.0 * unit_of_setting() * (1.0 + fabs(check.data->inputs[0][e]));
            const double value = found->fields[f].values[e];
            if (fabs(value - expected->fields[f].values[e]) <= bound) continue;
            CHECK_MSG(0, "%s of %g: %s is %.9g, wanted %.9g", what, check.data->inputs[0][e], found->fields[f].name,
                      value, expected->fields[f].values[e]);
            break;
        }
    }
    result_destroy(expected);
    result_destroy(unused);
    result_destroy(found);
    data_destroy(check.data);
}

TEST(activation)
{
    for (uint32_t kind = MMEBM_RELU; kind <= MMEBM_SIGMOID; ++kind) {
        const layer_case cases[] = {
            {.settings = {.kind = MMEBM_LAYER_ACTIVATION, .activation = kind, .parameter = 0.2f}, .input_count = 1,
             .inputs = {IMAGE(5, 3, 17)}},
            {.settings = {.kind = MMEBM_LAYER_ACTIVATION, .activation = kind, .parameter = 0.01f}, .input_count = 1,
             .inputs = {VECTOR(1)}},
            {.settings = {.kind = MMEBM_LAYER_ACTIVATION, .activation = kind, .parameter = 0.2f}, .input_count = 1,
             .inputs = {VECTOR(64)}},
        };
        CHECK_CASES(cases);
        mmebm_graph graph;
        const char *error = case_graph(&setting.reference, &cases[0], &graph);
        CHECK_MSG(!error, "%s", error);
        if (!error) check_extremes(&graph, activation_names[kind]);
        mmebm__graph_free(setting.reference.context, &graph);
    }
}

TEST(softmax)
{
    static const layer_case cases[] = {
        {.settings = {.kind = MMEBM_LAYER_SOFTMAX}, .input_count = 1, .inputs = {VECTOR(1)}},
        {.settings = {.kind = MMEBM_LAYER_SOFTMAX}, .input_count = 1, .inputs = {VECTOR(37)}},
        {.settings = {.kind = MMEBM_LAYER_SOFTMAX}, .input_count = 1, .inputs = {IMAGE(1, 7, 16)}},
        {.settings = {.kind = MMEBM_LAYER_SOFTMAX}, .input_count = 1, .inputs = {IMAGE(3, 5, 2)}},
    };
    CHECK_CASES(cases);
}

TEST(avg_pool)
{
#define POOL_CASE(image, kernel_, stride_, padding_)                                                               \
    {                                                                                                              \
        .settings = {.kind = MMEBM_LAYER_AVG_POOL, .kernel = PAIR(kernel_, kernel_), .stride = PAIR(stride_, stride_), \
                     .padding = PAIR(padding_, padding_)},                                                         \
        .input_count = 1, .inputs = {image}                                                                        \
    }
    static const layer_case cases[] = {
        POOL_CASE(IMAGE(28, 28, 3), 3, 2, 1), POOL_CASE(IMAGE(7, 7, 16), 3, 2, 1), POOL_CASE(IMAGE(8, 8, 17), 2, 2, 0),
        POOL_CASE(IMAGE(7, 7, 15), 7, 1, 0),  POOL_CASE(IMAGE(5, 9, 1), 2, 3, 1),  POOL_CASE(IMAGE(1, 1, 1), 1, 1, 0),
    };
    CHECK_CASES(cases);
}

TEST(global_avg_pool)
{
    static const layer_case cases[] = {
        {.settings = {.kind = MMEBM_LAYER_GLOBAL_AVG_POOL}, .input_count = 1, .inputs = {IMAGE(7, 7, 17)}},
        {.settings = {.kind = MMEBM_LAYER_GLOBAL_AVG_POOL}, .input_count = 1, .inputs = {IMAGE(1, 1, 3)}},
        {.settings = {.kind = MMEBM_LAYER_GLOBAL_AVG_POOL}, .input_count = 1, .inputs = {IMAGE(28, 28, 16)}},
    };
    CHECK_CASES(cases);
}

TEST(upsample)
{
    static const layer_case cases[] = {
        {.settings = {.kind = MMEBM_LAYER_UPSAMPLE, .factor = 2}, .input_count = 1, .inputs = {IMAGE(7, 7, 16)}},
        {.settings = {.kind = MMEBM_LAYER_UPSAMPLE, .factor = 3}, .input_count = 1, .inputs = {IMAGE(1, 5, 7)}},
        {.settings = {.kind = MMEBM_LAYER_UPSAMPLE, .factor = 1}, .input_count = 1, .inputs = {IMAGE(3, 3, 1)}},
    };
    CHECK_CASES(cases);
}

TEST(add)
{
    static const layer_case cases[] = {
        {.settings = {.kind = MMEBM_LAYER_ADD, .alpha = 1.0f, .beta = 1.0f}, .input_count = 2,
         .inputs = {IMAGE(7, 7, 17), IMAGE(7, 7, 17)}},
        {.settings = {.kind = MMEBM_LAYER_ADD, .alpha = 1.0f, .beta = 0.1f}, .input_count = 2,
         .inputs = {IMAGE(7, 7, 16), IMAGE(7, 7, 16)}},
        {.settings = {.kind = MMEBM_LAYER_ADD, .alpha = -0.3f, .beta = 2.0f}, .input_count = 2,
         .inputs = {VECTOR(1), VECTOR(1)}},
    };
    CHECK_CASES(cases);
}

TEST(concat)
{
    static const layer_case cases[] = {
        {.settings = {.kind = MMEBM_LAYER_CONCAT}, .input_count = 3,
         .inputs = {IMAGE(7, 7, 1), IMAGE(7, 7, 16), IMAGE(7, 7, 5)}},
        {.settings = {.kind = MMEBM_LAYER_CONCAT}, .input_count = 2, .inputs = {VECTOR(16), VECTOR(17)}},
        {.settings = {.kind = MMEBM_LAYER_CONCAT}, .input_count = 1, .inputs = {VECTOR(3)}},
    };
    CHECK_CASES(cases);
}

TEST(reshape)
{
    static const layer_case cases[] = {
        {.settings = {.kind = MMEBM_LAYER_RESHAPE, .rank = 1, .shape = {98}}, .input_count = 1,
         .inputs = {IMAGE(7, 7, 2)}},
        {.settings = {.kind = MMEBM_LAYER_RESHAPE, .rank = 3, .shape = {2, 3, 17}}, .input_count = 1,
         .inputs = {VECTOR(102)}},
    };
    CHECK_CASES(cases);
}

TEST(batch_norm)
{
    static const layer_case cases[] = {
        {.settings = {.kind = MMEBM_LAYER_BATCH_NORM, .epsilon = 1e-5f}, .input_count = 1, .inputs = {IMAGE(7, 7, 16)}},
        {.settings = {.kind = MMEBM_LAYER_BATCH_NORM, .epsilon = 1e-2f}, .input_count = 1, .inputs = {IMAGE(5, 3, 7)}},
        {.settings = {.kind = MMEBM_LAYER_BATCH_NORM, .epsilon = 1e-5f}, .input_count = 1, .inputs = {VECTOR(33)}},
    };
    CHECK_CASES(cases);
}

TEST(likelihood)
{
    for (uint32_t likelihood = MMEBM_GAUSSIAN; likelihood <= MMEBM_CATEGORICAL; ++likelihood) {
        const layer_case cases[] = {
            {.settings = {.kind = MMEBM_LAYER_NLL, .likelihood = likelihood, .scale = 0.70710678f, .loss_factor = 1.0f},
             .input_count = 2, .inputs = {IMAGE(7, 7, 3), IMAGE(7, 7, 3)}},
            {.settings = {.kind = MMEBM_LAYER_NLL, .likelihood = likelihood, .scale = 0.75f, .loss_factor = 0.0026f},
             .input_count = 2, .inputs = {VECTOR(1), VECTOR(1)}},
        };
        CHECK_CASES(cases);
    }
}

TEST(prior)
{
    for (uint32_t family = MMEBM_GAUSSIAN; family <= MMEBM_LAPLACE; ++family) {
        const layer_case cases[] = {
            {.settings = {.kind = MMEBM_LAYER_PRIOR, .likelihood = family, .scale = 0.693f}, .input_count = 1,
             .inputs = {VECTOR(37)}},
            {.settings = {.kind = MMEBM_LAYER_PRIOR, .likelihood = family, .scale = 1.0f}, .input_count = 1,
             .inputs = {VECTOR(1)}},
        };
        CHECK_CASES(cases);
    }
}

int check_layers(void)
{
    RUN_SELECTED(conv2d);
    RUN_SELECTED(conv_transpose2d);
    RUN_SELECTED(linear);
    RUN_SELECTED(many_rows);
    RUN_SELECTED(activation);
    RUN_SELECTED(softmax);
    RUN_SELECTED(avg_pool);
    RUN_SELECTED(global_avg_pool);
    RUN_SELECTED(upsample);
    RUN_SELECTED(add);
    RUN_SELECTED(concat);
    RUN_SELECTED(reshape);
    RUN_SELECTED(batch_norm);
    RUN_SELECTED(likelihood);
    RUN_SELECTED(prior);
    return HARNESS_RESULT();
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * Operations on graphs: copy, join, extract, the posterior's energy, under p0 and tilted. Results are compared by
 * running the graphs: the same layers with the same weights must give the same bits, wherever they stand.
 */
#include "joint.h"
#include "model_support.h"

enum { ROWS = 3 };

typedef struct fixture {
    mmebm_context *context;
    mixed_parts parts;
    mmebm_model *model;
    float z[ROWS * MIXED_LATENT];
    float x[MIXED_MODALITIES][ROWS * MIXED_MOST];
    float mean[MIXED_MODALITIES][ROWS * MIXED_MOST]; /* of the generator at z */
} fixture;

static int fixture_open(fixture *f)
{
    memset(f, 0, sizeof *f);
    f->context = open_context(NULL);
    if (!f->context || mixed_open(f->context, &f->parts) != MMEBM_OK ||
        mixed_model(f->context, &f->parts, &f->model) != MMEBM_OK) {
        CHECK_MSG(0, "%s", f->context ? mmebm_last_error(f->context) : "no context");
        return 0;
    }
    fill_numbers(f->z, ROWS * MIXED_LATENT, 1);
    for (int i = 0; i < MIXED_MODALITIES; ++i) fill_numbers(f->x[i], ROWS * MIXED_MOST, 2 + (uint32_t)i);
    const mmebm_part *generator = &f->model->parts[MMEBM_PART_GENERATOR];
    run_graph(f->context, &generator->graph, generator->weights, ROWS, (const float *const[]){f->z},
              (float *const[]){f->mean[0], f->mean[1], f->mean[2]});
    return 1;
}

static void fixture_close(fixture *f)
{
    mmebm_model_destroy(&f->model);
    mixed_close(&f->parts);
    mmebm_context_destroy(&f->context);
}

/* What every graph promises: graph.h. */
static void check_sound(const mmebm_graph *graph)
{
    uint32_t edges = 0, inputs = 0;
    size_t weights = 0;
    for (uint32_t i = 0; i < graph->layer_count; ++i) {
        const mmebm_layer *layer = &graph->layers[i];
        CHECK(layer->first_edge == edges);
        edges += layer->edge_count;
        for (uint32_t k = 0; k < layer->edge_count; ++k)
            CHECK(graph->edges[layer->first_edge + k] >= 0 && graph->edges[layer->first_edge + k] < (int32_t)i);
        if (layer->kind == MMEBM_LAYER_INPUT) CHECK(graph->inputs[inputs++] == (int32_t)i);
        CHECK(layer->weight < (int32_t)graph->tensor_count && layer->bias < (int32_t)graph->tensor_count);
    }
    for (uint32_t t = 0; t < graph->tensor_count; ++t) {
        CHECK(graph->tensors[t].offset == weights);
        weights += graph->tensors[t].count;
    }
    CHECK(edges == graph->edge_count && inputs == graph->input_count && weights == graph->weight_count);
}

TEST(copy_stands_alone)
{
    fixture f;
    REQUIRE(fixture_open(&f));
    mmebm_graph first, second;
    mmebm_part *generator = &f.model->parts[MMEBM_PART_GENERATOR];
    CHECK(mmebm__graph_copy(f.context, &generator->graph, &first) == MMEBM_OK);
    CHECK(mmebm__graph_copy(f.context, &first, &second) == MMEBM_OK);
    mmebm__graph_free(f.context, &first);
    check_sound(&second);
    float mean[MIXED_MODALITIES][ROWS * MIXED_MOST];
    run_graph(f.context, &second, generator->weights, ROWS, (const float *const[]){f.z},
              (float *const[]){mean[0], mean[1], mean[2]});
    for (int i = 0; i < MIXED_MODALITIES; ++i)
        CHECK(memcmp(mean[i], f.mean[i], (size_t)(ROWS * mixed[i].count) * sizeof(float)) == 0);
    mmebm__graph_free(f.context, &second);
    mmebm__graph_free(f.context, &second); /* an empty graph is fine */
    fixture_close(&f);
}

/* Each network run alone gives the bits of its place in the model. */
TEST(join_keeps_order_and_weights)
{
    fixture f;
    REQUIRE(fixture_open(&f));
    for (int i = 0; i < MIXED_MODALITIES; ++i) {
        float mean[ROWS * MIXED_MOST];
        mmebm_view z, x;
        const int64_t latent[2] = {ROWS, MIXED_LATENT};
        int64_t shape[4] = {ROWS};
        memcpy(shape + 1, mixed[i].shape, sizeof mixed[i].shape);
        CHECK(mmebm_view_init(&z, f.z, 2, latent) == MMEBM_OK);
        CHECK(mmebm_view_init(&x, mean, 1 + mixed[i].rank, shape) == MMEBM_OK);
        CHECK(mmebm_network_forward(f.parts.decoders[i], &z, &x) == MMEBM_OK);
        CHECK(memcmp(mean, f.mean[i], (size_t)(ROWS * mixed[i].count) * sizeof(float)) == 0);
    }
    for (int p = 0; p < MMEBM_PART_COUNT; ++p) check_sound(&f.model->parts[p].graph);
    const mmebm_graph *generator = &f.model->parts[MMEBM_PART_GENERATOR].graph;
    const mmebm_graph *inference = &f.model->parts[MMEBM_PART_INFERENCE].graph;
    CHECK(generator->input_count == 1 && generator->output_count == 3);
    CHECK(inference->input_count == 3 && inference->output_count == 6);
    static const char *const decoder_names[] = {"decoder0.map.weight", "decoder0.map.bias", "decoder1.map.weight",
                                                "decoder1.map.bias",   "decoder2.map.weight", "decoder2.map.bias"};
    for (uint32_t t = 0; t < 6 && t < generator->tensor_count; ++t)
        CHECK_MSG(strcmp(generator->tensors[t].name, decoder_names[t]) == 0, "%s", generator->tensors[t].name);
    CHECK(strcmp(inference->tensors[6].name, "encoder1.raw.weight") == 0);
    for (uint32_t i = 0; i < 3; ++i)
        CHECK(inference->layers[inference->inputs[i]].count == mixed[i].count);
    fixture_close(&f);
}

TEST(join_refuses_what_does_not_fit)
{
    fixture f;
    REQUIRE(fixture_open(&f));
    mmebm_graph joined;
    const char prefix[2][MMEBM_PREFIX_SIZE] = {"first", "second"};
    const mmebm_graph *parts[2] = {&f.parts.decoders[0]->graph, &f.parts.encoders[0]->graph};
    CHECK(mmebm__graph_join(f.context, 2, parts, prefix, 1, &joined) == MMEBM_E_SHAPE);
    CHECK(strstr(mmebm_last_error(f.context), "second: input 0"));
    CHECK(!joined.layers && !joined.layer_count);
    parts[1] = &f.parts.energy->graph;
    CHECK(mmebm__graph_join(f.context, 2, parts, prefix, 1, &joined) == MMEBM_E_SHAPE);
    CHECK(strstr(mmebm_last_error(f.context), "3 inputs, wanted 1"));
    char name[MMEBM_TENSOR_NAME_SIZE];
    memset(name, 'n', sizeof name);
    name[MMEBM_TENSOR_NAME_SIZE - 8] = '\0'; /* with ".weight" it fills the room that a tensor has */
    mmebm_network *network = NULL;
    mmebm_node x;
    CHECK(mmebm_network_create(f.context, "long", &network) == MMEBM_OK);
    CHECK(mmebm_network_input(network, "x", 1, mixed[0].shape, &x) == MMEBM_OK);
    CHECK(mixed_linear(network, x, name, 1, &x) == MMEBM_OK);
    CHECK(mmebm_network_output(network, x, NULL) == MMEBM_OK);
    CHECK(mmebm_network_finish(network, MMEBM_INIT_PYTORCH, 0) == MMEBM_OK);
    parts[1] = &network->graph;
    CHECK(mmebm__graph_join(f.context, 2, parts, prefix, 0, &joined) == MMEBM_E_ARGUMENT);
    CHECK(strstr(mmebm_last_error(f.context), "with 'second.'"));
    mmebm_network_destroy(&network);
    fixture_close(&f);
}

TEST(extract_keeps_weights)
{
    fixture f;
    REQUIRE(fixture_open(&f));
    mmebm_graph part;
    const mmebm_part *generator = &f.model->parts[MMEBM_PART_GENERATOR];
    const uint32_t outputs[2] = {2, 0};
    CHECK(mmebm__graph_extract(f.context, &generator->graph, 2, outputs, &part) == MMEBM_OK);
    check_sound(&part);
    CHECK(part.weight_count == generator->graph.weight_count && part.tensor_count == generator->graph.tensor_count);
    CHECK(part.input_count == 1 && part.output_count == 2);
    CHECK(part.layer_count == 6); /* z; linear, reshape, softmax; linear, reshape */
    float mean[2][ROWS * MIXED_MOST];
    run_graph(f.context, &part, generator->weights, ROWS, (const float *const[]){f.z},
              (float *const[]){mean[0], mean[1]});
    for (int k = 0; k < 2; ++k)
        CHECK(memcmp(mean[k], f.mean[outputs[k]], (size_t)(ROWS * mixed[outputs[k]].count) * sizeof(float)) == 0);
    mmebm__graph_free(f.context, &part);
    const mmebm_graph *inference = &f.model->parts[MMEBM_PART_INFERENCE].graph;
    for (uint32_t i = 0; i < MIXED_MODALITIES; ++i) {
        CHECK(mmebm__graph_extract(f.context, inference, 2, (const uint32_t[]){2 * i, 2 * i + 1}, &part) == MMEBM_OK);
        check_sound(&part);
        CHECK(part.input_count == 1 && part.layer_count == 3);
        CHECK(part.layers[part.inputs[0]].count == mixed[i].count);
        mmebm__graph_free(f.context, &part);
    }
    fixture_close(&f);
}

/* ---- posterior */

static double term(int i, double x, double mean)
{
    const double scale = (double)mixed[i].scale, weight = (double)mixed[i].weight;
    if (mixed[i].likelihood == MMEBM_GAUSSIAN) return weight * (x - mean) * (x - mean) / (2.0 * scale * scale);
    if (mixed[i].likelihood == MMEBM_LAPLACE) return weight * fabs(x - mean) / scale;
    return -weight * x * log(mean > 1e-30 ? mean : 1e-30);
}

/* -log p(x_O | z), or with the prior -log p(x_O, z), without constants, from the generator's means. All terms are
 * positive. */
static double posterior_energy(const fixture *f, uint32_t observed, int with_prior, int row)
{
    double sum = 0.0;
    for (int i = 0; i < MIXED_MODALITIES; ++i)
        for (int64_t e = row * mixed[i].count; observed >> i & 1 && e < (row + 1) * mixed[i].count; ++e)
            sum += term(i, (double)f->x[i][e], (double)f->mean[i][e]);
    for (int d = 0; with_prior && d < MIXED_LATENT; ++d)
        sum += fabs((double)f->z[row * MIXED_LATENT + d]) / (double)f->parts.options.prior_scale;
    return sum;
}

static void check_posterior(const fixture *f, uint32_t observed)
{
    mmebm_graph posterior;
    const float *inputs[1 + MIXED_MODALITIES] = {f->z};
    uint32_t count = 1;
    float energy[2][ROWS]; /* with the prior, without */
    REQUIRE(mmebm__graph_posterior(f->model, observed, &posterior) == MMEBM_OK);
    check_sound(&posterior);
    for (uint32_t i = 0; i < MIXED_MODALITIES; ++i) {
        if (!(observed >> i & 1)) continue;
        const mmebm_layer *input = &posterior.layers[posterior.inputs[count]];
        CHECK(input->rank == mixed[i].rank);
        CHECK(memcmp(input->shape, mixed[i].shape, mixed[i].rank * sizeof(int64_t)) == 0);
        inputs[count++] = f->x[i];
    }
    CHECK(posterior.input_count == count && posterior.output_count == 2);
    CHECK(posterior.weight_count == f->model->parts[MMEBM_PART_GENERATOR].graph.weight_count);
    run_graph(f->context, &posterior, f->model->parts[MMEBM_PART_GENERATOR].weights, ROWS, inputs,
              (float *const[]){energy[0], energy[1]});
    for (int row = 0; row < ROWS; ++row)
        for (int output = 0; output < 2; ++output) {
            /* at most 18 terms, each with a few roundings of its own, summed in any order: 40 roundings of 2^-24 */
            const double wanted = posterior_energy(f, observed, output == 0, row);
            const double found = (double)energy[output][row];
            CHECK_MSG(fabs(found - wanted) <= 40.0 * 0x1p-24 * wanted, "O = %u, output %d: %.9g, wanted %.9g", observed,
                      output, found, wanted);
        }
    mmebm__graph_free(f->context, &posterior);
}

TEST(posterior_is_the_sum_of_its_terms)
{
    fixture f;
    REQUIRE(fixture_open(&f));
    for (uint32_t observed = 1; observed < 1u << MIXED_MODALITIES; ++observed) check_posterior(&f, observed);
    fixture_close(&f);
}

TEST(posterior_wants_an_observed_set)
{
    fixture f;
    REQUIRE(fixture_open(&f));
    const uint64_t wrong[] = {0, 1u << MIXED_MODALITIES, UINT64_MAX, UINT64_C(1) << 63 | 1};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; ++i) {
        mmebm_graph posterior;
        CHECK(mmebm__graph_posterior(f.model, wrong[i], &posterior) == MMEBM_E_ARGUMENT);
        CHECK(strstr(mmebm_last_error(f.context), "wanted at least one of modalities 0 to 2"));
        CHECK(!posterior.layers);
    }
    fixture_close(&f);
}

/* The energy over T, and what posterior_energy says. */
static void check_tilted(const fixture *f, const mmebm_part *joint, uint32_t observed)
{
    const float temperature = 0.3f, *inputs[1 + MIXED_MODALITIES] = {f->z};
    const mmebm_part *part = &f->model->parts[MMEBM_PART_ENERGY];
    mmebm_graph tilted;
    uint32_t count = 1;
    float u[ROWS], energy[ROWS];
    REQUIRE(mmebm__graph_tilted(f->model, observed, temperature, &tilted) == MMEBM_OK);
    check_sound(&tilted);
    for (uint32_t i = 0; i < MIXED_MODALITIES; ++i)
        if (observed >> i & 1) inputs[count++] = f->x[i];
    CHECK(tilted.input_count == count && tilted.output_count == 1);
    CHECK(tilted.weight_count == joint->graph.weight_count);
    run_graph(f->context, &part->graph, part->weights, ROWS, (const float *const[]){f->mean[0], f->mean[1], f->mean[2]},
              (float *const[]){u});
    run_graph(f->context, &tilted, joint->weights, ROWS, inputs, (float *const[]){energy});
    for (int row = 0; row < ROWS; ++row) {
        const double wanted = (double)u[row] / (double)temperature + posterior_energy(f, observed, 1, row);
        CHECK_MSG(fabs((double)energy[row] - wanted) <= 1e-5 * (1.0 + fabs(wanted)), "O = %u: %.9g, wanted %.9g",
                  observed, (double)energy[row], wanted);
    }
    mmebm__graph_free(f->context, &tilted);
}

/* By weights that are taken over from the model, nothing given among the sets. */
TEST(tilted_posterior_is_energy_over_temperature_and_posterior)
{
    fixture f;
    mmebm_joint joint = {0};
    REQUIRE(fixture_open(&f));
    REQUIRE(mmebm__joint_open(f.model, &joint) == MMEBM_OK && mmebm__joint_refresh(f.model, &joint) == MMEBM_OK);
    CHECK(joint.part.graph.weight_count == f.model->parts[MMEBM_PART_GENERATOR].graph.weight_count +
                                               f.model->parts[MMEBM_PART_ENERGY].graph.weight_count);
    CHECK(joint.part.revision > 0);
    for (uint32_t observed = 0; observed < 1u << MIXED_MODALITIES; ++observed) check_tilted(&f, &joint.part, observed);
    mmebm__joint_close(f.context, &joint);
    fixture_close(&f);
}

/* ---- memory */

static mmebm_status attempt(const fixture *f, int operation, mmebm_graph *graph)
{
    static const char prefix[2][MMEBM_PREFIX_SIZE] = {"a", "b"};
    const mmebm_graph *parts[2] = {&f->parts.decoders[0]->graph, &f->parts.decoders[1]->graph};
    const uint32_t output = 1;
    switch (operation) {
    case 0: return mmebm__graph_copy(f->context, parts[0], graph);
    case 1: return mmebm__graph_join(f->context, 2, parts, prefix, 1, graph);
    case 2: return mmebm__graph_extract(f->context, &f->model->parts[MMEBM_PART_GENERATOR].graph, 1, &output, graph);
    case 3: return mmebm__graph_posterior(f->model, 5, graph);
    default: return mmebm__graph_tilted(f->model, 6, 2.0f, graph);
    }
}

TEST(every_allocation_may_fail)
{
    counting_allocator allocator = {0};
    fixture f = {.context = open_context(&allocator)};
    REQUIRE(f.context);
    REQUIRE(mixed_open(f.context, &f.parts) == MMEBM_OK);
    REQUIRE(mixed_model(f.context, &f.parts, &f.model) == MMEBM_OK);
    const uint64_t blocks = allocator.blocks;
    for (int operation = 0; operation < 5; ++operation) {
        mmebm_status status = MMEBM_E_MEMORY;
        int n = 0;
        while (status == MMEBM_E_MEMORY && n < 100) {
            mmebm_graph graph;
            allocator.fail_at = allocator.calls + (uint64_t)++n;
            status = attempt(&f, operation, &graph);
            allocator.fail_at = 0;
            if (status == MMEBM_OK) mmebm__graph_free(f.context, &graph);
            CHECK_MSG(allocator.blocks == blocks, "operation %d, allocation %d: %d blocks left", operation, n,
                      (int)(allocator.blocks - blocks));
        }
        CHECK_MSG(status == MMEBM_OK && n > 5, "operation %d ended with %s after %d", operation,
                  mmebm_status_name(status), n);
    }
    fixture_close(&f);
    CHECK(allocator.blocks == 0 && allocator.errors == 0);
}

int main(void)
{
    SKIP_WITHOUT_DEVICE(test_backend());
    RUN(copy_stands_alone);
    RUN(join_keeps_order_and_weights);
    RUN(join_refuses_what_does_not_fit);
    RUN(extract_keeps_weights);
    RUN(posterior_is_the_sum_of_its_terms);
    RUN(posterior_wants_an_observed_set);
    RUN(tilted_posterior_is_energy_over_temperature_and_posterior);
    RUN(every_allocation_may_fail);
    return HARNESS_RESULT();
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * Networks: the order of calls, reading and writing tensors, running, failing memory.
 */
#include "network_support.h"

/* ---- order of calls */

TEST(finish_ends_building)
{
    mmebm_context *context = open_context(NULL);
    REQUIRE(context);
    mmebm_network *n = NULL;
    mmebm_node x, y, dead;
    float number = 0.0f;
    mmebm_view view = view_of(&number, 1, 0);
    CHECK(mmebm_network_create(context, "order", &n) == MMEBM_OK);
    REFUSED(n, mmebm_network_finish(n, MMEBM_INIT_PYTORCH, 0), MMEBM_E_STATE, "0 inputs and 0 outputs");
    CHECK(mmebm_network_input(n, NULL, 1, vector_shape, &x) == MMEBM_OK);
    CHECK(mmebm_network_input(n, "unused", 1, vector_shape, &y) == MMEBM_OK);
    CHECK(mmebm_network_softmax(n, x, &y) == MMEBM_OK);
    CHECK(mmebm_network_activation(n, x, MMEBM_SILU, 0.0f, &dead) == MMEBM_OK);
    REFUSED(n, mmebm_network_finish(n, MMEBM_INIT_PYTORCH, 0), MMEBM_E_STATE, "2 inputs and 0 outputs");
    REFUSED(n, mmebm_network_output(n, x, "out"), MMEBM_E_ARGUMENT, "node 0 is an input");
    REFUSED(n, mmebm_network_output(n, 99, "out"), MMEBM_E_ARGUMENT, "no node 99");
    CHECK(mmebm_network_output(n, y, "out") == MMEBM_OK);
    REFUSED(n, mmebm_network_output(n, y, "again"), MMEBM_E_ARGUMENT, "node 2 is output 0 already");
    REFUSED(n, mmebm_network_output(n, dead, "out"), MMEBM_E_NAME, "an output 'out' already");
    REFUSED(n, mmebm_network_finish(n, MMEBM_INIT_PYTORCH, 0), MMEBM_E_STATE, "node 3 leads to no output");
    CHECK(mmebm_network_output(n, dead, NULL) == MMEBM_OK);
    REFUSED(n, mmebm_network_finish(n, 3, 0), MMEBM_E_ARGUMENT, "initialiser is 3");
    REFUSED(n, mmebm_network_get_tensor(n, "a", &view), MMEBM_E_STATE, "not finished yet");
    REFUSED(n, mmebm_network_forward(n, &view, &view), MMEBM_E_STATE, "not finished yet");
    CHECK(mmebm_network_finish(n, MMEBM_INIT_PYTORCH, 0) == MMEBM_OK);
    REFUSED(n, mmebm_network_finish(n, MMEBM_INIT_PYTORCH, 0), MMEBM_E_STATE, "finished already");
    REFUSED(n, mmebm_network_softmax(n, x, &y), MMEBM_E_STATE, "its graph is fixed");
    REFUSED(n, mmebm_network_output(n, dead, NULL), MMEBM_E_STATE, "its graph is fixed");
    REFUSED(n, mmebm_network_node_shape(n, 4, NULL, NULL), MMEBM_E_ARGUMENT, "no node 4");
    mmebm_network_destroy(&n);
    mmebm_network_destroy(&n);
    mmebm_context_destroy(&context);
}

TEST(ports_are_bounded)
{
    mmebm_context *context = open_context(NULL);
    REQUIRE(context);
    mmebm_network *n = NULL;
    mmebm_node x, y;
    CHECK(mmebm_network_create(context, "ports", &n) == MMEBM_OK);
    for (int i = 0; i < MMEBM_MAX_PORTS; ++i) CHECK(mmebm_network_input(n, NULL, 1, vector_shape, &x) == MMEBM_OK);
    REFUSED(n, mmebm_network_input(n, NULL, 1, vector_shape, &x), MMEBM_E_ARGUMENT, "64 inputs, which is the most");
    for (int i = 0; i < MMEBM_MAX_PORTS; ++i) {
        CHECK(mmebm_network_softmax(n, i, &y) == MMEBM_OK);
        CHECK(mmebm_network_output(n, y, NULL) == MMEBM_OK);
    }
    CHECK(mmebm_network_softmax(n, 0, &y) == MMEBM_OK);
    REFUSED(n, mmebm_network_output(n, y, NULL), MMEBM_E_ARGUMENT, "64 outputs, which is the most");
    mmebm_network_destroy(&n);
    mmebm_context_destroy(&context);
}

/* ---- tensors and running */

enum { ROWS = 150 }; /* more than the plan's 64, no multiple of it */

/* y = W x + b with W [2, 3], and x itself doubled as a second output. */
static mmebm_network *small_network(mmebm_context *context)
{
    mmebm_network *n = NULL;
    mmebm_node x, y;
    mmebm_linear_options l = linear(2, 1);
    l.name = "map";
    CHECK(mmebm_network_create(context, "small", &n) == MMEBM_OK);
    CHECK(mmebm_network_input(n, "x", 1, (int64_t[]){3}, &x) == MMEBM_OK);
    CHECK(mmebm_network_linear(n, x, &l, &y) == MMEBM_OK);
    CHECK(mmebm_network_output(n, y, "y") == MMEBM_OK);
    CHECK(mmebm_network_add(n, x, 1.0f, x, 1.0f, &y) == MMEBM_OK);
    CHECK(mmebm_network_output(n, y, "twice") == MMEBM_OK);
    CHECK(mmebm_network_finish(n, MMEBM_INIT_PYTORCH, 1) == MMEBM_OK);
    return n;
}

TEST(tensors_can_be_read_and_written)
{
    mmebm_context *context = open_context(NULL);
    REQUIRE(context);
    mmebm_network *n = small_network(context);
    float values[6] = {1, 2, 3, 4, 5, 6};
    float back[6] = {0};
    const mmebm_view to = view_of(values, 2, 3), wrong = view_of(back, 3, 2);
    mmebm_view from = view_of(back, 2, 3);
    CHECK(mmebm_network_set_tensor(n, "map.weight", &to) == MMEBM_OK);
    CHECK(mmebm_network_get_tensor(n, "map.weight", &from) == MMEBM_OK);
    CHECK(memcmp(values, back, sizeof values) == 0);
    REFUSED(n, mmebm_network_set_tensor(n, "map.weight", &wrong), MMEBM_E_SHAPE, "tensor 'map.weight' has shape [3,2]");
    REFUSED(n, mmebm_network_set_tensor(n, "map.bias", &to), MMEBM_E_SHAPE, "wanted [2]");
    REFUSED(n, mmebm_network_get_tensor(n, "weight", &from), MMEBM_E_NAME, "no tensor 'weight'");
    REFUSED(n, mmebm_network_get_tensor(n, NULL, &from), MMEBM_E_ARGUMENT, "name is NULL");
    REFUSED(n, mmebm_network_get_tensor(n, "map.weight", NULL), MMEBM_E_ARGUMENT, "map.weight");
    uint32_t rank = 0;
    int64_t shape[MMEBM_MAX_RANK] = {0};
    CHECK(mmebm_network_tensor_info(n, 0, NULL, &rank, shape) == MMEBM_OK);
    CHECK(rank == 2 && shape[0] == 2 && shape[1] == 3);
    mmebm_network_destroy(&n);
    mmebm_context_destroy(&context);
}

/* Small whole numbers: every sum is exact in single precision. */
TEST(forward_computes_any_number_of_tuples)
{
    mmebm_context *context = open_context(NULL);
    REQUIRE(context);
    mmebm_network *n = small_network(context);
    static float x[ROWS * 3], y[ROWS * 2], twice[ROWS * 3];
    float weight[6] = {1, -2, 3, 0, 5, -1}, bias[2] = {7, -8};
    mmebm_view in, outputs[2], tensor;
    const int64_t counts[] = {ROWS, 1, 64, 65};
    for (int e = 0; e < ROWS * 3; ++e) x[e] = (float)(e % 17 - 8);
    for (int round = 0; round < 4; ++round) {
        const int64_t rows = counts[round];
        weight[0] = (float)round; /* a change that the kept plan must see */
        tensor = view_of(weight, 2, 3);
        CHECK(mmebm_network_set_tensor(n, "map.weight", &tensor) == MMEBM_OK);
        tensor = view_of(bias, 2, 0);
        CHECK(mmebm_network_set_tensor(n, "map.bias", &tensor) == MMEBM_OK);
        in = view_of(x, rows, 3);
        outputs[0] = view_of(y, rows, 2);
        outputs[1] = view_of(twice, rows, 3);
        memset(y, 0, sizeof y);
        memset(twice, 0, sizeof twice);
        REQUIRE(mmebm_network_forward(n, &in, outputs) == MMEBM_OK);
        int wrong = 0;
        for (int r = 0; r < rows; ++r) {
            const float *v = x + 3 * r;
            for (int o = 0; o < 2; ++o) {
                const float *w = weight + 3 * o;
                wrong += y[2 * r + o] != w[0] * v[0] + w[1] * v[1] + w[2] * v[2] + bias[o];
            }
            for (int e = 0; e < 3; ++e) wrong += twice[3 * r + e] != 2.0f * v[e];
        }
        CHECK_MSG(!wrong, "%d wrong values for %d tuples", wrong, (int)rows);
        CHECK(rows == ROWS || y[2 * rows] == 0.0f); /* not one row too many */
    }
    in = view_of(x, 2, 4);
    REFUSED(n, mmebm_network_forward(n, &in, outputs), MMEBM_E_SHAPE, "input 'x' has shape [2,4]");
    in = view_of(x, 2, 3);
    REFUSED(n, mmebm_network_forward(n, &in, outputs), MMEBM_E_SHAPE, "output 'y' has shape [65,2], wanted [2,2]");
    REFUSED(n, mmebm_network_forward(n, NULL, outputs), MMEBM_E_ARGUMENT, "inputs is NULL");
    REFUSED(n, mmebm_network_forward(n, &in, NULL), MMEBM_E_ARGUMENT, "outputs is NULL");
    mmebm_context_destroy(&context); /* the network keeps what it needs */
    mmebm_network_destroy(&n);
}

/* ---- memory */

static mmebm_status build_and_run(mmebm_context *context, mmebm_network **network)
{
    mmebm_node x, y;
    float in[3] = {1, 2, 3}, out[2];
    const mmebm_view input = view_of(in, 1, 3);
    mmebm_view output = view_of(out, 1, 2);
    const mmebm_linear_options l = linear(2, 1);
    MMEBM_TRY(mmebm_network_create(context, "small", network));
    MMEBM_TRY(mmebm_network_input(*network, "x", 1, (int64_t[]){3}, &x));
    for (int i = 0; i < 20; ++i) /* the graph's arrays grow */
        MMEBM_TRY(mmebm_network_activation(*network, x, MMEBM_TANH, 0.0f, &x));
    MMEBM_TRY(mmebm_network_linear(*network, x, &l, &y));
    MMEBM_TRY(mmebm_network_output(*network, y, "y"));
    MMEBM_TRY(mmebm_network_finish(*network, MMEBM_INIT_PYTORCH, 1));
    return mmebm_network_forward(*network, &input, &output);
}

TEST(every_allocation_may_fail)
{
    counting_allocator allocator = {0};
    mmebm_context *context = open_context(&allocator);
    REQUIRE(context);
    const uint64_t blocks = allocator.blocks;
    mmebm_status status = MMEBM_E_MEMORY;
    int n = 0;
    while (status == MMEBM_E_MEMORY && n < 1000) {
        mmebm_network *network = NULL;
        allocator.fail_at = allocator.calls + (uint64_t)++n;
        status = build_and_run(context, &network);
        if (status != MMEBM_OK) CHECK(strstr(mmebm_last_error(context), "memory"));
        allocator.fail_at = 0;
        mmebm_network_destroy(&network);
        CHECK_MSG(allocator.blocks == blocks, "allocation %d left %d blocks", n, (int)(allocator.blocks - blocks));
    }
    CHECK_MSG(status == MMEBM_OK, "ended with %s", mmebm_status_name(status));
    CHECK(n > 10);
    mmebm_context_destroy(&context);
    CHECK(allocator.blocks == 0 && allocator.errors == 0);
}

int main(void)
{
    SKIP_WITHOUT_DEVICE(test_backend());
    RUN(finish_ends_building);
    RUN(ports_are_bounded);
    RUN(tensors_can_be_read_and_written);
    RUN(forward_computes_any_number_of_tuples);
    RUN(every_allocation_may_fail);
    return HARNESS_RESULT();
}

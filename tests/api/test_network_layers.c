/* SPDX-License-Identifier: Apache-2.0
 *
 * What the builder accepts and refuses, layer by layer; the shapes it infers and the names it gives.
 */
#include "network_support.h"

static void check_shape(const mmebm_network *network, mmebm_node node, const char *wanted)
{
    uint32_t rank = 0;
    int64_t shape[MMEBM_MAX_RANK] = {0};
    char text[128] = "";
    CHECK(mmebm_network_node_shape(network, node, &rank, shape) == MMEBM_OK);
    for (uint32_t d = 0; d < rank; ++d)
        snprintf(text + strlen(text), sizeof text - strlen(text), "%s%lld", d ? "," : "", (long long)shape[d]);
    CHECK_MSG(strcmp(text, wanted) == 0, "node %d has shape %s, wanted %s", (int)node, text, wanted);
}

/* ---- shapes */

TEST(shapes_follow_from_settings)
{
    mmebm_context *context = open_context(NULL);
    REQUIRE(context);
    mmebm_network *n = open_network(context);
    mmebm_node x, y;
    mmebm_conv2d_options c = conv(6, 3, 1, 1);
    CHECK(mmebm_network_conv2d(n, 0, &c, &x) == MMEBM_OK);
    check_shape(n, x, "9,7,6");
    c = conv(2, 3, 2, 0);
    CHECK(mmebm_network_conv2d(n, 0, &c, &x) == MMEBM_OK);
    check_shape(n, x, "4,3,2"); /* (9 - 3) / 2 + 1, (7 - 3) / 2 + 1 */
    c = conv(3, 1, 1, 0);
    c.kernel[0] = 5;
    c.padding[0] = 2;
    c.stride[1] = 4;
    CHECK(mmebm_network_conv2d(n, 0, &c, &x) == MMEBM_OK);
    check_shape(n, x, "9,2,3"); /* rectangular: 9 + 4 - 5 + 1, (7 - 1) / 4 + 1 */
    c = conv(2, 4, 2, 1);
    CHECK(mmebm_network_conv_transpose2d(n, 0, &c, &x) == MMEBM_OK);
    check_shape(n, x, "18,14,2"); /* 8 * 2 - 2 + 4, 6 * 2 - 2 + 4 */
    c = conv(2, 3, 2, 1);
    c.output_padding[1] = 1;
    CHECK(mmebm_network_conv_transpose2d(n, 0, &c, &x) == MMEBM_OK);
    check_shape(n, x, "17,14,2");
    mmebm_linear_options l = linear(11, 1);
    CHECK(mmebm_network_linear(n, 0, &l, &x) == MMEBM_OK);
    check_shape(n, x, "11");
    l = linear(11, 0);
    CHECK(mmebm_network_linear(n, 0, &l, &x) == MMEBM_OK);
    check_shape(n, x, "9,7,11");
    CHECK(mmebm_network_activation(n, x, MMEBM_TANH, 0.0f, &y) == MMEBM_OK);
    check_shape(n, y, "9,7,11");
    CHECK(mmebm_network_softmax(n, y, &y) == MMEBM_OK);
    check_shape(n, y, "9,7,11");
    CHECK(mmebm_network_batch_norm(n, y, 1e-5f, 0.1f, &y) == MMEBM_OK);
    check_shape(n, y, "9,7,11");
    CHECK(mmebm_network_add(n, x, 0.5f, y, -2.0f, &x) == MMEBM_OK);
    check_shape(n, x, "9,7,11");
    CHECK(mmebm_network_avg_pool(n, 0, 3, 2, 1, &x) == MMEBM_OK);
    check_shape(n, x, "5,4,4"); /* (9 + 2 - 3) / 2 + 1, (7 + 2 - 3) / 2 + 1 */
    CHECK(mmebm_network_global_avg_pool(n, 0, &x) == MMEBM_OK);
    check_shape(n, x, "4");
    CHECK(mmebm_network_upsample_nearest(n, 0, 3, &x) == MMEBM_OK);
    check_shape(n, x, "27,21,4");
    CHECK(mmebm_network_concat(n, 3, (mmebm_node[]){0, 0, 0}, &x) == MMEBM_OK);
    check_shape(n, x, "9,7,12");
    CHECK(mmebm_network_reshape(n, x, 2, (int64_t[]){63, 12}, &x) == MMEBM_OK);
    check_shape(n, x, "63,12");
    mmebm_network_destroy(&n);
    mmebm_context_destroy(&context);
}

/* ---- refusals */

TEST(windows_are_checked)
{
    mmebm_context *context = open_context(NULL);
    REQUIRE(context);
    mmebm_network *n = open_network(context);
    mmebm_node x;
    const struct {
        int64_t out, kernel, stride, padding;
        mmebm_status wanted;
        const char *fragment;
    } cases[] = {
        {0, 3, 1, 1, MMEBM_E_ARGUMENT, "out_channels is 0"},
        {-5, 3, 1, 1, MMEBM_E_ARGUMENT, "out_channels is -5"},
        {INT64_MAX, 3, 1, 1, MMEBM_E_ARGUMENT, "out_channels is"},
        {2, 0, 1, 0, MMEBM_E_ARGUMENT, "kernel is 0"},
        {2, 70000, 1, 0, MMEBM_E_ARGUMENT, "kernel is 70000"},
        {2, 3, 0, 1, MMEBM_E_ARGUMENT, "stride is 0"},
        {2, 3, INT64_MIN, 1, MMEBM_E_ARGUMENT, "stride is"},
        {2, 3, 1, 3, MMEBM_E_ARGUMENT, "padding is 3, wanted 0 to 2"},
        {2, 3, 1, -1, MMEBM_E_ARGUMENT, "padding is -1"},
        {2, 12, 1, 1, MMEBM_E_SHAPE, "a kernel of 12 with padding 1 does not fit into [9,7,4]"},
        {INT64_C(1) << 30, 1, 1, 0, MMEBM_E_SHAPE, "wanted axes from 1 on, at most 2147483648 elements"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; ++i) {
        const mmebm_conv2d_options c = conv(cases[i].out, cases[i].kernel, cases[i].stride, cases[i].padding);
        REFUSED(n, mmebm_network_conv2d(n, 0, &c, &x), cases[i].wanted, cases[i].fragment);
    }
    mmebm_conv2d_options c = conv(2, 3, 1, 1);
    REFUSED(n, mmebm_network_conv2d(n, 1, &c, &x), MMEBM_E_SHAPE, "node 1 has shape [5], wanted [height,width,chan");
    REFUSED(n, mmebm_network_conv2d(n, 0, NULL, &x), MMEBM_E_ARGUMENT, "conv2d options");
    REFUSED(n, mmebm_network_conv2d(n, 0, &c, NULL), MMEBM_E_ARGUMENT, "node is NULL");
    c.bias = 2;
    REFUSED(n, mmebm_network_conv2d(n, 0, &c, &x), MMEBM_E_ARGUMENT, "bias is 2");
    c.bias = 1;
    c.output_padding[0] = 1;
    REFUSED(n, mmebm_network_conv2d(n, 0, &c, &x), MMEBM_E_ARGUMENT, "output_padding");
    REFUSED(n, mmebm_network_conv_transpose2d(n, 0, &c, &x), MMEBM_E_ARGUMENT, "output_padding is 1, wanted 0 to 0");
    c = conv(2, 30, 1, 29);
    REFUSED(n, mmebm_network_conv_transpose2d(n, 0, &c, &x), MMEBM_E_SHAPE, "padding 29 leaves nothing of [9,7,4]");
    c.struct_size = 4;
    REFUSED(n, mmebm_network_conv2d(n, 0, &c, &x), MMEBM_E_STRUCT_SIZE, "conv2d options");
    REFUSED(n, mmebm_network_avg_pool(n, 0, 3, 2, 2, &x), MMEBM_E_ARGUMENT, "padding is 2, wanted 0 to 1");
    REFUSED(n, mmebm_network_avg_pool(n, 0, 0, 1, 0, &x), MMEBM_E_ARGUMENT, "kernel is 0");
    REFUSED(n, mmebm_network_avg_pool(n, 0, 8, 1, 0, &x), MMEBM_E_SHAPE, "does not fit into [9,7,4]");
    REFUSED(n, mmebm_network_avg_pool(n, 1, 2, 2, 0, &x), MMEBM_E_SHAPE, "[5]");
    REFUSED(n, mmebm_network_global_avg_pool(n, 1, &x), MMEBM_E_SHAPE, "[5]");
    REFUSED(n, mmebm_network_upsample_nearest(n, 0, 0, &x), MMEBM_E_ARGUMENT, "factor is 0");
    REFUSED(n, mmebm_network_upsample_nearest(n, 0, 65535, &x), MMEBM_E_SHAPE, "at most 2147483648 elements");
    mmebm_network_destroy(&n);
    mmebm_context_destroy(&context);
}

TEST(other_layers_are_checked)
{
    mmebm_context *context = open_context(NULL);
    REQUIRE(context);
    mmebm_network *n = open_network(context);
    mmebm_node x;
    mmebm_linear_options l = linear(0, 1);
    REFUSED(n, mmebm_network_linear(n, 0, &l, &x), MMEBM_E_ARGUMENT, "out_features is 0");
    l = linear(3, 2);
    REFUSED(n, mmebm_network_linear(n, 0, &l, &x), MMEBM_E_ARGUMENT, "flatten is 2");
    l = linear(3, 1);
    l.reserved = 1;
    REFUSED(n, mmebm_network_linear(n, 0, &l, &x), MMEBM_E_UNKNOWN_OPTION, "reserved");
    l = linear(3, 1);
    REFUSED(n, mmebm_network_linear(n, 2, &l, &x), MMEBM_E_ARGUMENT, "there is no node 2, nodes are 0 to 1");
    REFUSED(n, mmebm_network_linear(n, -1, &l, &x), MMEBM_E_ARGUMENT, "there is no node -1");
    REFUSED(n, mmebm_network_activation(n, 0, 0, 0.0f, &x), MMEBM_E_ARGUMENT, "kind is 0, wanted 1 to 6");
    REFUSED(n, mmebm_network_activation(n, 0, 7, 0.0f, &x), MMEBM_E_ARGUMENT, "kind is 7");
    REFUSED(n, mmebm_network_activation(n, 0, MMEBM_LEAKY_RELU, 1.0f, &x), MMEBM_E_ARGUMENT, "slope below zero is 1");
    REFUSED(n, mmebm_network_activation(n, 0, MMEBM_LEAKY_RELU, NAN, &x), MMEBM_E_ARGUMENT, "slope");
    REFUSED(n, mmebm_network_softmax(n, 9, &x), MMEBM_E_ARGUMENT, "there is no node 9");
    REFUSED(n, mmebm_network_add(n, 0, 1.0f, 1, 1.0f, &x), MMEBM_E_SHAPE, "shapes [9,7,4] and [5], wanted equal axes");
    REFUSED(n, mmebm_network_add(n, 0, INFINITY, 0, 1.0f, &x), MMEBM_E_ARGUMENT, "alpha and beta are inf and 1");
    REFUSED(n, mmebm_network_concat(n, 2, (mmebm_node[]){0, 1}, &x), MMEBM_E_SHAPE, "but for the last");
    REFUSED(n, mmebm_network_concat(n, 0, (mmebm_node[]){0}, &x), MMEBM_E_ARGUMENT, "number of inputs is 0");
    REFUSED(n, mmebm_network_concat(n, 2, NULL, &x), MMEBM_E_ARGUMENT, "nodes is NULL");
    REFUSED(n, mmebm_network_reshape(n, 0, 1, (int64_t[]){251}, &x), MMEBM_E_SHAPE,
            "[251] does not have as many elements as [9,7,4]");
    REFUSED(n, mmebm_network_reshape(n, 0, 2, (int64_t[]){-252, -1}, &x), MMEBM_E_SHAPE, "[-252,-1]");
    REFUSED(n, mmebm_network_reshape(n, 0, 0, (int64_t[]){1}, &x), MMEBM_E_ARGUMENT, "rank is 0");
    REFUSED(n, mmebm_network_reshape(n, 0, 7, (int64_t[]){9, 7, 4, 1, 1, 1, 1}, &x), MMEBM_E_ARGUMENT, "rank is 7");
    REFUSED(n, mmebm_network_reshape(n, 0, 1, NULL, &x), MMEBM_E_ARGUMENT, "shape is NULL");
    REFUSED(n, mmebm_network_batch_norm(n, 0, 0.0f, 0.1f, &x), MMEBM_E_ARGUMENT, "epsilon is 0");
    REFUSED(n, mmebm_network_batch_norm(n, 0, 1e-5f, 0.0f, &x), MMEBM_E_ARGUMENT, "momentum is 0");
    REFUSED(n, mmebm_network_batch_norm(n, 0, 1e-5f, NAN, &x), MMEBM_E_ARGUMENT, "momentum is");
    REFUSED(n, mmebm_network_input(n, "third", 4, (int64_t[]){1, 1, 1, 1}, &x), MMEBM_E_ARGUMENT, "rank is 4");
    REFUSED(n, mmebm_network_input(n, "third", 2, (int64_t[]){3, 0}, &x), MMEBM_E_SHAPE, "[3,0]");
    REFUSED(n, mmebm_network_input(n, "third", 2, (int64_t[]){65536, 65536}, &x), MMEBM_E_SHAPE, "at most");
    REFUSED(n, mmebm_network_input(n, "third", 1, NULL, &x), MMEBM_E_ARGUMENT, "shape is NULL");
    CHECK(mmebm_network_input(NULL, "x", 1, vector_shape, &x) == MMEBM_E_ARGUMENT);
    CHECK(mmebm_network_softmax(NULL, 0, &x) == MMEBM_E_ARGUMENT);
    mmebm_network_destroy(&n);
    mmebm_context_destroy(&context);
}

/* A weight matrix of 2^45 numbers, asked for with sizes that are each allowed. */
TEST(weights_are_bounded)
{
    mmebm_context *context = open_context(NULL);
    REQUIRE(context);
    mmebm_network *n = NULL;
    mmebm_node x, y;
    CHECK(mmebm_network_create(context, "big", &n) == MMEBM_OK);
    CHECK(mmebm_network_input(n, "x", 1, (int64_t[]){INT64_C(1) << 30}, &x) == MMEBM_OK);
    mmebm_linear_options l = linear(1 << 15, 1);
    REFUSED(n, mmebm_network_linear(n, x, &l, &y), MMEBM_E_ARGUMENT, "'linear1.weight' the network has more than");
    mmebm_conv2d_options c = conv(INT64_C(1) << 28, 65535, 65535, 65534);
    CHECK(mmebm_network_reshape(n, x, 3, (int64_t[]){1, 1, INT64_C(1) << 30}, &x) == MMEBM_OK);
    REFUSED(n, mmebm_network_conv2d(n, x, &c, &y), MMEBM_E_ARGUMENT, "more than"); /* 2^90: beyond 64 bits */
    l = linear(1 << 9, 1);
    CHECK(mmebm_network_linear(n, x, &l, &y) == MMEBM_OK);
    l = linear((1 << 9) + 1, 1);
    l.bias = 0;
    REFUSED(n, mmebm_network_linear(n, x, &l, &y), MMEBM_E_ARGUMENT, "more than"); /* together above 2^40 */
    mmebm_network_destroy(&n);
    mmebm_context_destroy(&context);
}

/* ---- names */

TEST(tensors_are_named)
{
    mmebm_context *context = open_context(NULL);
    REQUIRE(context);
    mmebm_network *n = open_network(context);
    mmebm_node x;
    mmebm_conv2d_options c = conv(2, 3, 1, 1);
    mmebm_linear_options l = linear(3, 1);
    CHECK(mmebm_network_conv2d(n, 0, &c, &x) == MMEBM_OK);
    CHECK(mmebm_network_conv_transpose2d(n, x, &c, &x) == MMEBM_OK);
    CHECK(mmebm_network_batch_norm(n, x, 1e-5f, 0.1f, &x) == MMEBM_OK);
    c.name = "block1.conv-A_0";
    c.bias = 0;
    CHECK(mmebm_network_conv2d(n, x, &c, &x) == MMEBM_OK);
    REFUSED(n, mmebm_network_conv2d(n, x, &c, &x), MMEBM_E_NAME, "there is a tensor 'block1.conv-A_0.weight' already");
    CHECK(mmebm_network_linear(n, x, &l, &x) == MMEBM_OK);
    const char *const bad[] = {"", "with space", "slash/", "quote\"", "umlaut\xc3\xa4", "line\n"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; ++i) {
        l.name = bad[i];
        REFUSED(n, mmebm_network_linear(n, 1, &l, &x), MMEBM_E_ARGUMENT, "A-Z a-z 0-9");
        REFUSED(n, mmebm_network_input(n, bad[i], 1, vector_shape, &x), MMEBM_E_ARGUMENT, "A-Z a-z 0-9");
    }
    char longest[MMEBM_TENSOR_NAME_SIZE + 1];
    memset(longest, 'a', sizeof longest);
    longest[sizeof longest - 1] = '\0';
    l.name = longest;
    REFUSED(n, mmebm_network_linear(n, 1, &l, &x), MMEBM_E_ARGUMENT, "A-Z a-z 0-9");
    longest[MMEBM_TENSOR_NAME_SIZE - 5] = '\0';
    REFUSED(n, mmebm_network_linear(n, 1, &l, &x), MMEBM_E_ARGUMENT, "with '.weight'");
    REFUSED(n, mmebm_network_input(n, "vector", 1, vector_shape, &x), MMEBM_E_NAME, "an input 'vector' already");
    static const char *const wanted[] = {"conv2.weight",           "conv2.bias",       "conv_transpose3.weight",
                                         "conv_transpose3.bias",   "batch_norm4.gain", "batch_norm4.shift",
                                         "batch_norm4.mean",       "batch_norm4.variance",
                                         "block1.conv-A_0.weight", "linear6.weight",   "linear6.bias"};
    CHECK(mmebm_network_output(n, 6, NULL) == MMEBM_OK);
    CHECK(mmebm_network_finish(n, MMEBM_INIT_PYTORCH, 0) == MMEBM_OK);
    CHECK(mmebm_network_tensor_count(n) == sizeof wanted / sizeof wanted[0]);
    for (uint32_t t = 0; t < sizeof wanted / sizeof wanted[0]; ++t) {
        const char *name = "";
        CHECK(mmebm_network_tensor_info(n, t, &name, NULL, NULL) == MMEBM_OK);
        CHECK_MSG(strcmp(name, wanted[t]) == 0, "tensor %u is %s, wanted %s", t, name, wanted[t]);
    }
    CHECK(mmebm_network_tensor_info(n, 11, NULL, NULL, NULL) == MMEBM_E_ARGUMENT);
    CHECK(mmebm_network_tensor_count(NULL) == 0);
    mmebm_network_destroy(&n);
    CHECK(mmebm_network_create(context, "no spaces please", &n) == MMEBM_E_ARGUMENT && !n);
    CHECK(mmebm_network_create(context, NULL, NULL) == MMEBM_E_ARGUMENT);
    CHECK(mmebm_network_create(NULL, "x", &n) == MMEBM_E_ARGUMENT);
    mmebm_context_destroy(&context);
}

int main(void)
{
    SKIP_WITHOUT_DEVICE(test_backend());
    RUN(shapes_follow_from_settings);
    RUN(windows_are_checked);
    RUN(other_layers_are_checked);
    RUN(weights_are_bounded);
    RUN(tensors_are_named);
    return HARNESS_RESULT();
}

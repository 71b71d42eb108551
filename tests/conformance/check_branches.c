/* SPDX-License-Identifier: Apache-2.0
 *
 * Small graphs where branches of several inputs meet, and sums over many channels: what no preset has. A backend may
 * run branches side by side, and leave out what only leads to an output that a run does not ask for.
 */
#include "check_build.h"
#include "check_plan.h"

enum { SIDE = 8, MANY_CHANNELS = 1024 };

typedef mmebm_status (*builder)(mmebm_network *network);

static void check_built(builder build, uint64_t seed, const char *what)
{
    mmebm_network *network = NULL;
    REQUIRE(mmebm_network_create(setting.reference.context, "branches", &network) == MMEBM_OK);
    const mmebm_status status = build(network);
    CHECK_MSG(status == MMEBM_OK, "%s: %s", what, mmebm_last_error(setting.reference.context));
    if (status == MMEBM_OK) check_graph(&network->graph, 1, seed, what);
    mmebm_network_destroy(&network);
}

static mmebm_status end(mmebm_network *network, mmebm_node x)
{
    MMEBM_TRY(linear(network, 1, &x));
    MMEBM_TRY(mmebm_network_output(network, x, NULL));
    return mmebm_network_finish(network, MMEBM_INIT_PYTORCH, 1);
}

/* The energy linear(relu(a) + relu(b)): without its value, only the masks of both are read. */
static mmebm_status build_sum_of_masked(mmebm_network *network)
{
    mmebm_node x[2];
    for (int k = 0; k < 2; ++k) {
        MMEBM_TRY(mmebm_network_input(network, NULL, 1, (const int64_t[]){SIDE}, &x[k]));
        MMEBM_TRY(linear(network, 4 * SIDE, &x[k]));
        MMEBM_TRY(mmebm_network_activation(network, x[k], MMEBM_RELU, 0.0f, &x[k]));
    }
    MMEBM_TRY(mmebm_network_add(network, x[0], 1.0f, x[1], -0.5f, &x[0]));
    return end(network, x[0]);
}

TEST(sum_of_masked_branches)
{
    check_built(build_sum_of_masked, 1, "linear(relu + relu)");
}

/* Two images, each through a convolution. */
static mmebm_status two_images(mmebm_network *network, uint32_t kernel, uint32_t channels, mmebm_node x[2])
{
    for (int k = 0; k < 2; ++k) {
        MMEBM_TRY(image(network, SIDE, 3, &x[k]));
        MMEBM_TRY(convolution(network, kernel, channels, &x[k]));
    }
    return MMEBM_OK;
}

static mmebm_status end_with_average(mmebm_network *network, mmebm_node x)
{
    MMEBM_TRY(mmebm_network_global_avg_pool(network, x, &x));
    return end(network, x);
}

/* The same of pictures that are averaged. */
static mmebm_status build_average_of_masked(mmebm_network *network)
{
    mmebm_node x[2];
    MMEBM_TRY(two_images(network, 3, SIDE, x));
    for (int k = 0; k < 2; ++k)
        MMEBM_TRY(mmebm_network_activation(network, x[k], MMEBM_LEAKY_RELU, 0.2f, &x[k]));
    MMEBM_TRY(mmebm_network_add(network, x[0], 1.0f, x[1], 1.0f, &x[0]));
    return end_with_average(network, x[0]);
}

TEST(average_of_masked_branches)
{
    check_built(build_average_of_masked, 2, "average of leaky + leaky");
}

/* A sum whose other operand is a view of an input: an input may have fewer rows, over and over. */
static mmebm_status build_enlarged_input(mmebm_network *network)
{
    mmebm_node x, small;
    MMEBM_TRY(image(network, SIDE, 4, &x));
    MMEBM_TRY(image(network, SIDE / 2, SIDE, &small));
    MMEBM_TRY(convolution(network, 3, SIDE, &x));
    MMEBM_TRY(mmebm_network_upsample_nearest(network, small, 2, &small));
    MMEBM_TRY(mmebm_network_add(network, x, 1.0f, small, 1.0f, &x));
    MMEBM_TRY(convolution(network, 3, SIDE, &x));
    return end(network, x);
}

TEST(sum_with_an_enlarged_input)
{
    check_built(build_enlarged_input, 3, "conv + enlarged input");
}

/* Backward, each input's gradient is a sum over all channels of the concatenation. */
static mmebm_status build_many_channels_joined(mmebm_network *network)
{
    mmebm_node x[2];
    MMEBM_TRY(two_images(network, 1, MANY_CHANNELS / 2, x));
    MMEBM_TRY(mmebm_network_concat(network, 2, x, &x[0]));
    return end_with_average(network, x[0]);
}

TEST(many_channels_joined)
{
    check_built(build_many_channels_joined, 4, "concat of many channels");
}

static mmebm_status build_many_channels_halved(mmebm_network *network)
{
    mmebm_node x;
    MMEBM_TRY(image(network, SIDE, MANY_CHANNELS, &x));
    MMEBM_TRY(convolution(network, 1, 2 * SIDE, &x));
    MMEBM_TRY(mmebm_network_avg_pool(network, x, 2, 2, 0, &x));
    return end(network, x);
}

TEST(many_channels_halved)
{
    check_built(build_many_channels_halved, 5, "pool of many channels");
}

/* Backward, the sum over many channels is over windows of pixels too. */
static mmebm_status build_few_channels_enlarged(mmebm_network *network)
{
    mmebm_node x;
    MMEBM_TRY(image(network, SIDE / 2, 2 * SIDE, &x));
    MMEBM_TRY(mmebm_network_upsample_nearest(network, x, 2, &x));
    MMEBM_TRY(convolution(network, 1, MANY_CHANNELS, &x));
    MMEBM_TRY(mmebm_network_activation(network, x, MMEBM_TANH, 0.0f, &x));
    return end(network, x);
}

TEST(few_channels_enlarged)
{
    check_built(build_few_channels_enlarged, 6, "many channels of an enlarged image");
}

/* Convolutions with a mean of 2 x 2 results behind them or a doubling in front, and what may stand between: a backend
 * may take these together. Channels and sides are no round numbers; two outputs end in a doubling. */
static mmebm_status build_resampled(mmebm_network *network)
{
    mmebm_node x, large, shortcut;
    MMEBM_TRY(mmebm_network_input(network, NULL, 3, (const int64_t[]){6, 10, 24}, &x));
    MMEBM_TRY(convolution(network, 3, 40, &x));
    MMEBM_TRY(mmebm_network_activation(network, x, MMEBM_LEAKY_RELU, 0.2f, &x));
    MMEBM_TRY(convolution(network, 3, 21, &x));
    MMEBM_TRY(mmebm_network_avg_pool(network, x, 2, 2, 0, &x));
    MMEBM_TRY(mmebm_network_activation(network, x, MMEBM_RELU, 0.0f, &x));
    MMEBM_TRY(mmebm_network_upsample_nearest(network, x, 2, &large));
    shortcut = large;
    MMEBM_TRY(mmebm_network_output(network, large, NULL));
    MMEBM_TRY(mmebm_network_activation(network, large, MMEBM_TANH, 0.0f, &large));
    MMEBM_TRY(convolution(network, 3, 24, &large));
    MMEBM_TRY(convolution(network, 1, 24, &shortcut));
    MMEBM_TRY(mmebm_network_add(network, shortcut, 1.0f, large, 0.5f, &large));
    MMEBM_TRY(mmebm_network_upsample_nearest(network, large, 2, &large));
    MMEBM_TRY(mmebm_network_activation(network, large, MMEBM_SILU, 0.0f, &shortcut));
    MMEBM_TRY(convolution(network, 3, 9, &shortcut));
    MMEBM_TRY(mmebm_network_avg_pool(network, shortcut, 2, 2, 0, &shortcut));
    MMEBM_TRY(mmebm_network_output(network, shortcut, NULL));
    MMEBM_TRY(mmebm_network_upsample_nearest(network, large, 2, &large));
    MMEBM_TRY(convolution(network, 1, 8, &large));
    MMEBM_TRY(mmebm_network_output(network, large, NULL));
    return mmebm_network_finish(network, MMEBM_INIT_PYTORCH, 1);
}

/* Convolutions of inputs side by side, which a backend may merge, of halved results, and of doubled inputs. */
static mmebm_status build_resampled_inputs(mmebm_network *network)
{
    mmebm_node halved[2], doubled[2], all[2];
    for (int k = 0; k < 2; ++k) {
        MMEBM_TRY(image(network, 2 * SIDE, SIDE, &halved[k]));
        MMEBM_TRY(image(network, SIDE / 2, SIDE, &doubled[k]));
        MMEBM_TRY(convolution(network, 3, SIDE, &halved[k]));
        MMEBM_TRY(mmebm_network_avg_pool(network, halved[k], 2, 2, 0, &halved[k]));
        MMEBM_TRY(mmebm_network_upsample_nearest(network, doubled[k], 2, &doubled[k]));
        MMEBM_TRY(convolution(network, 3, SIDE, &doubled[k]));
    }
    MMEBM_TRY(mmebm_network_concat(network, 2, halved, &all[0]));
    MMEBM_TRY(mmebm_network_concat(network, 2, doubled, &all[1]));
    MMEBM_TRY(mmebm_network_add(network, all[0], 1.0f, all[1], 1.0f, &all[0]));
    return end(network, all[0]);
}

TEST(resampled_images)
{
    check_built(build_resampled, 18, "resampled images");
    check_built(build_resampled_inputs, 19, "resampled inputs side by side");
}

/* A decoder of latents: one of many equal ones, or one of its own width. */
static mmebm_status decoder(mmebm_network *network, mmebm_node z, uint32_t width, mmebm_node *x)
{
    *x = z;
    MMEBM_TRY(linear(network, SIDE * SIDE / 4 * SIDE, x));
    MMEBM_TRY(mmebm_network_reshape(network, *x, 3, (const int64_t[]){SIDE / 2, SIDE / 2, SIDE}, x));
    MMEBM_TRY(convolution(network, 3, width, x));
    MMEBM_TRY(mmebm_network_activation(network, *x, MMEBM_LEAKY_RELU, 0.2f, x));
    mmebm_node shortcut = *x;
    MMEBM_TRY(mmebm_network_upsample_nearest(network, *x, 2, x));
    MMEBM_TRY(convolution(network, 3, SIDE, x));
    MMEBM_TRY(mmebm_network_upsample_nearest(network, shortcut, 2, &shortcut));
    MMEBM_TRY(convolution(network, 1, SIDE, &shortcut));
    MMEBM_TRY(mmebm_network_add(network, shortcut, 1.0f, *x, 0.1f, x));
    MMEBM_TRY(mmebm_network_activation(network, *x, MMEBM_LEAKY_RELU, 0.2f, x));
    return convolution(network, 3, 3, x);
}

/* `odd`: of the width of its own, -1 = none. */
static mmebm_status build_decoders(mmebm_network *network, int count, int odd)
{
    mmebm_node z, x, sum = 0;
    MMEBM_TRY(mmebm_network_input(network, NULL, 1, (const int64_t[]){2 * SIDE}, &z));
    for (int k = 0; k < count; ++k) {
        MMEBM_TRY(decoder(network, z, k == odd ? 3 * SIDE : 2 * SIDE, &x));
        if (k) MMEBM_TRY(mmebm_network_add(network, sum, 1.0f, x, 0.5f, &x));
        sum = x;
    }
    return end(network, sum);
}

/* More than a backend may have streams for, or products in a launch. */
static mmebm_status build_equal_decoders(mmebm_network *network)
{
    return build_decoders(network, 9, -1);
}

TEST(equal_decoders)
{
    check_built(build_equal_decoders, 7, "nine equal decoders");
}

static mmebm_status build_unequal_decoders(mmebm_network *network)
{
    return build_decoders(network, 6, 2);
}

TEST(decoders_of_which_one_is_wider)
{
    check_built(build_unequal_decoders, 8, "six decoders, one of them wider");
}

static mmebm_status convolve_twice(mmebm_network *network, mmebm_node *x)
{
    MMEBM_TRY(convolution(network, 3, SIDE, x));
    MMEBM_TRY(mmebm_network_activation(network, *x, MMEBM_RELU, 0.0f, x));
    return convolution(network, 3, SIDE, x);
}

/* Branches that read views of one input, whose gradient all of them add to. */
static mmebm_status build_views(mmebm_network *network, int with_tanh)
{
    mmebm_node z, x, sum = 0;
    MMEBM_TRY(mmebm_network_input(network, NULL, 1, (const int64_t[]){SIDE * SIDE * SIDE}, &z));
    for (int k = 0; k < 5; ++k) {
        x = z;
        if (with_tanh && k == 4) MMEBM_TRY(mmebm_network_activation(network, x, MMEBM_TANH, 0.0f, &x));
        MMEBM_TRY(mmebm_network_reshape(network, x, 3, (const int64_t[]){SIDE, SIDE, SIDE}, &x));
        MMEBM_TRY(convolve_twice(network, &x));
        if (k) MMEBM_TRY(mmebm_network_add(network, sum, 1.0f, x, 0.5f, &x));
        sum = x;
    }
    return end(network, sum);
}

static mmebm_status build_views_of_one_input(mmebm_network *network)
{
    return build_views(network, 0);
}

TEST(views_of_one_input)
{
    check_built(build_views_of_one_input, 10, "five views of one input");
}

static mmebm_status build_views_and_tanh(mmebm_network *network)
{
    return build_views(network, 1);
}

TEST(views_of_one_input_and_a_layer)
{
    check_built(build_views_and_tanh, 11, "four views of one input and its tanh");
}

/* Equal convolutions in branches of which one goes on with what the other has, too. */
static mmebm_status build_crossing(mmebm_network *network)
{
    mmebm_node x[2], both;
    for (int k = 0; k < 2; ++k) {
        MMEBM_TRY(image(network, SIDE, SIDE, &x[k]));
        MMEBM_TRY(convolve_twice(network, &x[k]));
    }
    MMEBM_TRY(mmebm_network_add(network, x[0], 1.0f, x[1], 1.0f, &both));
    MMEBM_TRY(convolution(network, 3, SIDE, &x[0]));
    MMEBM_TRY(convolution(network, 3, SIDE, &x[1]));
    MMEBM_TRY(convolution(network, 3, SIDE, &both));
    MMEBM_TRY(mmebm_network_add(network, x[0], 1.0f, x[1], -1.0f, &x[0]));
    MMEBM_TRY(mmebm_network_add(network, x[0], 1.0f, both, 0.5f, &x[0]));
    return end_with_average(network, x[0]);
}

TEST(crossing_branches)
{
    check_built(build_crossing, 9, "branches that cross");
}

enum { DEPTH = 5 };

static mmebm_status tower(mmebm_network *network, int depth, mmebm_node *x)
{
    for (int j = 0; j < depth; ++j) MMEBM_TRY(convolution(network, 3, SIDE, x));
    return MMEBM_OK;
}

/* Equal towers on images that something else reads, too: both add to the images' gradients. */
static mmebm_status build_towers_and_averages(mmebm_network *network)
{
    mmebm_node x[2], small[2];
    for (int k = 0; k < 2; ++k) MMEBM_TRY(image(network, SIDE, SIDE, &x[k]));
    for (int k = 0; k < 2; ++k) MMEBM_TRY(mmebm_network_avg_pool(network, x[k], 2, 2, 0, &small[k]));
    for (int k = 0; k < 2; ++k) {
        MMEBM_TRY(tower(network, DEPTH, &x[k]));
        MMEBM_TRY(mmebm_network_activation(network, x[k], MMEBM_TANH, 0.0f, &x[k]));
        MMEBM_TRY(mmebm_network_avg_pool(network, x[k], 2, 2, 0, &x[k]));
        MMEBM_TRY(mmebm_network_add(network, small[k], 1.0f, x[k], 1.0f, &x[k]));
    }
    MMEBM_TRY(mmebm_network_add(network, x[0], 1.0f, x[1], 1.0f, &x[0]));
    return end(network, x[0]);
}

TEST(towers_beside_averages)
{
    check_built(build_towers_and_averages, 12, "towers beside averages of the same images");
}

/* Equal convolutions of one trunk, each taking over a sum with another branch: all add to the trunk's gradient. */
static mmebm_status build_trunk(mmebm_network *network)
{
    mmebm_node x[4], twig;
    for (int k = 0; k < 4; ++k) {
        MMEBM_TRY(image(network, SIDE, SIDE, &x[k]));
        MMEBM_TRY(tower(network, k < 3 ? DEPTH : 1, &x[k]));
    }
    for (int k = 0; k < 3; ++k) {
        twig = x[3];
        MMEBM_TRY(convolution(network, 3, SIDE, &twig));
        MMEBM_TRY(mmebm_network_activation(network, x[k], MMEBM_TANH, 0.0f, &x[k]));
        MMEBM_TRY(mmebm_network_add(network, x[k], 1.0f, twig, 1.0f, &x[k]));
        MMEBM_TRY(convolution(network, 3, SIDE, &x[k]));
        if (k) MMEBM_TRY(mmebm_network_add(network, x[0], 1.0f, x[k], 1.0f, &x[0]));
    }
    return end(network, x[0]);
}

TEST(twigs_of_one_trunk)
{
    check_built(build_trunk, 13, "twigs of one trunk");
}

/* More shares of an input's gradient than a backend may add up at once. */
static mmebm_status build_many_shares(mmebm_network *network)
{
    enum { SHARES = 20 };
    mmebm_node z, x[SHARES];
    MMEBM_TRY(mmebm_network_input(network, NULL, 1, (const int64_t[]){2 * SIDE}, &z));
    for (int k = 0; k < SHARES; ++k) {
        x[k] = z;
        MMEBM_TRY(linear(network, 2 * SIDE, &x[k]));
    }
    for (int k = 0; k < SHARES; ++k) {
        MMEBM_TRY(mmebm_network_activation(network, x[k], MMEBM_TANH, 0.0f, &x[k]));
        MMEBM_TRY(linear(network, 2 * SIDE, &x[k]));
        if (k) MMEBM_TRY(mmebm_network_add(network, x[0], 1.0f, x[k], 1.0f, &x[0]));
    }
    return end(network, x[0]);
}

TEST(many_shares_of_a_gradient)
{
    check_built(build_many_shares, 14, "twenty branches of one input");
}

/* Residual blocks of images so small that a backend may make several convolutions of one at once. */
static mmebm_status build_blocks(mmebm_network *network, int64_t size, uint32_t channels, int blocks)
{
    mmebm_node x, y;
    MMEBM_TRY(image(network, size, 3, &x));
    MMEBM_TRY(convolution(network, 3, channels, &x));
    for (int block = 0; block < blocks; ++block) {
        y = x;
        for (int k = 0; k < 2; ++k) {
            MMEBM_TRY(mmebm_network_activation(network, y, MMEBM_LEAKY_RELU, 0.2f, &y));
            MMEBM_TRY(convolution(network, 3, channels, &y));
        }
        MMEBM_TRY(mmebm_network_add(network, x, 1.0f, y, 0.5f, &x));
    }
    MMEBM_TRY(mmebm_network_activation(network, x, MMEBM_LEAKY_RELU, 0.2f, &x));
    return end_with_average(network, x);
}

static mmebm_status build_blocks_of_seven(mmebm_network *network)
{
    return build_blocks(network, 7, 64, 2);
}

static mmebm_status build_blocks_of_three(mmebm_network *network)
{
    return build_blocks(network, 3, 128, 3);
}

TEST(residual_blocks_of_small_images)
{
    check_built(build_blocks_of_seven, 15, "two residual blocks at 7 x 7");
    check_built(build_blocks_of_three, 16, "three residual blocks at 3 x 3");
}

/* Where only the first image's gradient is wanted, the branch that comes first has nothing to do backward, and the last
 * that happens is a convolution's gradient by a sum that hands it on to its images as it is. */
static mmebm_status build_sum_of_images(mmebm_network *network)
{
    mmebm_node x[2], z;
    MMEBM_TRY(image(network, 7, 64, &x[0]));
    MMEBM_TRY(image(network, 7, 64, &x[1]));
    MMEBM_TRY(image(network, 7, 4, &z));
    MMEBM_TRY(mmebm_network_activation(network, z, MMEBM_TANH, 0.0f, &z));
    MMEBM_TRY(mmebm_network_add(network, x[0], 1.0f, x[1], -0.5f, &x[0]));
    MMEBM_TRY(convolution(network, 3, 64, &x[0]));
    MMEBM_TRY(mmebm_network_global_avg_pool(network, x[0], &x[0]));
    MMEBM_TRY(mmebm_network_global_avg_pool(network, z, &z));
    MMEBM_TRY(linear(network, 1, &z));
    MMEBM_TRY(linear(network, 1, &x[0]));
    MMEBM_TRY(mmebm_network_add(network, x[0], 1.0f, z, 1.0f, &x[0]));
    MMEBM_TRY(mmebm_network_output(network, x[0], NULL));
    return mmebm_network_finish(network, MMEBM_INIT_PYTORCH, 1);
}

TEST(sum_of_images_beside_another_branch)
{
    check_built(build_sum_of_images, 17, "convolution of a sum of images");
}

int check_branches(void)
{
    RUN_SELECTED(sum_of_masked_branches);
    RUN_SELECTED(average_of_masked_branches);
    RUN_SELECTED(sum_with_an_enlarged_input);
    RUN_SELECTED(many_channels_joined);
    RUN_SELECTED(many_channels_halved);
    RUN_SELECTED(few_channels_enlarged);
    RUN_SELECTED(resampled_images);
    RUN_SELECTED(equal_decoders);
    RUN_SELECTED(decoders_of_which_one_is_wider);
    RUN_SELECTED(views_of_one_input);
    RUN_SELECTED(views_of_one_input_and_a_layer);
    RUN_SELECTED(crossing_branches);
    RUN_SELECTED(towers_beside_averages);
    RUN_SELECTED(twigs_of_one_trunk);
    RUN_SELECTED(many_shares_of_a_gradient);
    RUN_SELECTED(residual_blocks_of_small_images);
    RUN_SELECTED(sum_of_images_beside_another_branch);
    return HARNESS_RESULT();
}

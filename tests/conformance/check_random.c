/* SPDX-License-Identifier: Apache-2.0
 *
 * Graphs drawn at random, of several inputs, whose branches cross, join and share what they read: what a backend fuses,
 * orders and puts in the same memory must not depend on what anybody thought of.
 */
#include <string.h>

#include "check_build.h"
#include "check_plan.h"

enum { GRAPHS = 16, MOST_NODES = 48, FEWEST_LAYERS = 8, CHANNELS = 8, SMALLEST = 4 };

typedef struct drawing {
    mmebm_network *network;
    uint64_t state; /* of the random numbers */
    mmebm_node nodes[MOST_NODES];
    uint32_t count;
} drawing;

static uint32_t pick(drawing *d, uint32_t n)
{
    return (uint32_t)((draw_uniform(&d->state) + 1.0) * 0.5 * n) % n;
}

static const mmebm_layer *layer_of(const drawing *d, mmebm_node node)
{
    return &d->network->graph.layers[node];
}

static int same_shape(const drawing *d, mmebm_node a, mmebm_node b)
{
    return memcmp(layer_of(d, a)->shape, layer_of(d, b)->shape, sizeof layer_of(d, a)->shape) == 0;
}

static mmebm_status join(drawing *d, mmebm_node a, mmebm_node b, mmebm_node *node)
{
    const mmebm_node both[2] = {a, b};
    MMEBM_TRY(mmebm_network_concat(d->network, 2, both, node));
    return convolution(d->network, 3, CHANNELS, node);
}

/* A layer on top of one or two nodes, mostly late ones; *node < 0 where what was drawn does not fit. */
static mmebm_status add_layer(drawing *d, mmebm_node *node)
{
    const uint32_t late = d->count < 8 ? d->count : 8;
    const mmebm_node a = d->nodes[pick(d, 3) ? d->count - 1 - pick(d, late) : pick(d, d->count)];
    const mmebm_node b = d->nodes[pick(d, d->count)];
    const int64_t side = layer_of(d, a)->shape[0];
    const uint32_t kind = pick(d, 9);
    *node = kind < 4 ? a : -1;
    switch (kind) {
    case 0:
    case 1:
    case 2: return convolution(d->network, 3, CHANNELS, node);
    case 3: return convolution(d->network, 1, CHANNELS, node);
    case 4: return mmebm_network_activation(d->network, a, pick(d, 2) ? MMEBM_LEAKY_RELU : MMEBM_TANH, 0.2f, node);
    case 5: return side == SMALLEST ? MMEBM_OK : mmebm_network_avg_pool(d->network, a, 2, 2, 0, node);
    case 6: return side > SMALLEST ? MMEBM_OK : mmebm_network_upsample_nearest(d->network, a, 2, node);
    case 7: return a == b || !same_shape(d, a, b) ? MMEBM_OK : join(d, a, b, node);
    default: return same_shape(d, a, b) ? mmebm_network_add(d->network, a, 1.0f, b, 0.5f, node) : MMEBM_OK;
    }
}

static int is_read(const drawing *d, mmebm_node node)
{
    const mmebm_graph *graph = &d->network->graph;
    for (uint32_t e = 0; e < graph->edge_count; ++e)
        if (graph->edges[e] == node) return 1;
    return 0;
}

/* One number from all that nobody reads. */
static mmebm_status end(drawing *d)
{
    mmebm_node sum = -1;
    for (uint32_t k = 0; k < d->count; ++k) {
        mmebm_node x = d->nodes[k];
        if (is_read(d, x)) continue;
        MMEBM_TRY(mmebm_network_global_avg_pool(d->network, x, &x));
        MMEBM_TRY(linear(d->network, 1, &x));
        if (sum >= 0) MMEBM_TRY(mmebm_network_add(d->network, sum, 1.0f, x, 1.0f, &x));
        sum = x;
    }
    MMEBM_TRY(mmebm_network_output(d->network, sum, NULL));
    return mmebm_network_finish(d->network, MMEBM_INIT_PYTORCH, 1);
}

static mmebm_status draw(drawing *d)
{
    const uint32_t inputs = 2 + pick(d, 4), layers = FEWEST_LAYERS + pick(d, MOST_NODES - FEWEST_LAYERS - 6);
    for (uint32_t k = 0; k < inputs; ++k) {
        const int64_t side = (int64_t)SMALLEST << (pick(d, 4) == 0);
        MMEBM_TRY(image(d->network, side, CHANNELS, &d->nodes[d->count++]));
    }
    for (uint32_t k = 0; k < layers; ++k) {
        MMEBM_TRY(add_layer(d, &d->nodes[d->count]));
        d->count += d->nodes[d->count] >= 0;
    }
    return end(d);
}

TEST(random_graphs)
{
    for (uint64_t k = 0; k < GRAPHS; ++k) {
        char what[64];
        drawing d = {.state = (setting.seed * GRAPHS + k) << 32};
        snprintf(what, sizeof what, "random graph %u", (unsigned)k);
        REQUIRE(mmebm_network_create(setting.reference.context, "random", &d.network) == MMEBM_OK);
        const mmebm_status status = draw(&d);
        CHECK_MSG(status == MMEBM_OK, "%s: %s", what, mmebm_last_error(setting.reference.context));
        if (status == MMEBM_OK) check_graph(&d.network->graph, 1, k, what);
        mmebm_network_destroy(&d.network);
    }
}

int check_random(void)
{
    RUN_SELECTED(random_graphs);
    return HARNESS_RESULT();
}

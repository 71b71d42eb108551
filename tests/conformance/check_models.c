/* SPDX-License-Identifier: Apache-2.0
 *
 * Whole networks of a backend against the yardstick: energy, generator, inference, tilted prior and posteriors of every
 * preset.
 * Here layers are fused, activations are kept or dropped, memory is shared.
 */
#include "check_plan.h"

static void check_close_by_norm(const mmebm_graph *graph, uint64_t seed, const char *name)
{
    check_graph(graph, 1, seed, name);
}

/* width: see preset_model */
static void check_preset(const char *preset, uint32_t width, graph_check check)
{
    mmebm_model *model = NULL;
    const char *error = preset_model(&setting.reference, preset, width, &model);
    CHECK_MSG(!error, "%s", error);
    for (uint32_t number = 0; !error && number < MODEL_GRAPHS; ++number) {
        mmebm_graph graph;
        const char *name;
        error = model_graph(model, number, &graph, &name);
        CHECK_MSG(!error, "%s", error);
        if (error) break;
        check(&graph, number, name);
        mmebm__graph_free(setting.reference.context, &graph);
    }
    mmebm_model_destroy(&model);
}

enum {
    WIDTH = 16, /* from here on vector units and fast convolutions are used */
    WIDE = 64   /* as wide as the preset's own */
};

TEST(polymnist_networks)
{
    check_preset("polymnist", WIDTH, check_close_by_norm);
}

/* Fused layers at many rows: phases of doubled and halved images, pools, sums. The reference has no tiles. */
TEST(polymnist_networks_of_many_rows)
{
    if (!setting.plain) check_preset("polymnist", WIDE, check_many_rows);
}

TEST(polymnist_small_networks)
{
    check_preset("polymnist-small", WIDTH, check_close_by_norm);
}

TEST(mlp_networks)
{
    check_preset("mlp", WIDTH, check_close_by_norm);
}

int check_models(void)
{
    RUN_SELECTED(polymnist_networks);
    RUN_SELECTED(polymnist_networks_of_many_rows);
    RUN_SELECTED(polymnist_small_networks);
    RUN_SELECTED(mlp_networks);
    return HARNESS_RESULT();
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * Whole networks of a backend against the yardstick: energy, generator, inference and posteriors of every preset.
 * Here layers are fused, activations are kept or dropped, memory is shared.
 */
#include "check_plan.h"

static void check_preset(const char *preset)
{
    enum { WIDTH = 16 /* from here on vector units and fast convolutions are used */ };
    mmebm_model *model = NULL;
    const char *error = preset_model(&setting.reference, preset, WIDTH, &model);
    CHECK_MSG(!error, "%s", error);
    for (uint32_t number = 0; !error && number < MODEL_GRAPHS; ++number) {
        mmebm_graph graph;
        const char *name;
        error = model_graph(model, number, &graph, &name);
        CHECK_MSG(!error, "%s", error);
        if (error) break;
        check_graph(&graph, 1, number, name);
        mmebm__graph_free(setting.reference.context, &graph);
    }
    mmebm_model_destroy(&model);
}

TEST(polymnist_networks)
{
    check_preset("polymnist");
}

TEST(polymnist_small_networks)
{
    check_preset("polymnist-small");
}

TEST(mlp_networks)
{
    check_preset("mlp");
}

int check_models(void)
{
    RUN_SELECTED(polymnist_networks);
    RUN_SELECTED(polymnist_small_networks);
    RUN_SELECTED(mlp_networks);
    return HARNESS_RESULT();
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * For read_with_python.py: writes files of every kind and, beside them, what must be in them. With a file as second
 * argument it loads that model and prints one tensor.
 *
 *   write_samples FOLDER                 FOLDER/<sample>.safetensors and <sample>.expected: "name values ..." per line
 *   write_samples --show FILE TENSOR     the tensor's values, one a line
 *
 * Values are printed as %a: exact. Only the public interface is used.
 */
#include "every_kind.h"

#include "../api/api_support.h"

enum { LARGEST_TENSOR = 1 << 16 };

static float values[LARGEST_TENSOR];

static int print_values(FILE *out, const char *name, const mmebm_view *view)
{
    int64_t count = 1;
    for (uint32_t d = 0; d < view->rank; ++d) count *= view->shape[d];
    fprintf(out, "%s", name);
    for (int64_t i = 0; i < count; ++i) fprintf(out, " %a", (double)values[i]);
    return fprintf(out, "\n") > 0;
}

typedef mmebm_status (*info_call)(const void *object, uint32_t index, const char **name, uint32_t *rank,
                                  int64_t *shape);
typedef mmebm_status (*get_call)(const void *object, const char *name, mmebm_view *value);

static mmebm_status network_info(const void *network, uint32_t index, const char **name, uint32_t *rank, int64_t *shape)
{
    return mmebm_network_tensor_info(network, index, name, rank, shape);
}

static mmebm_status network_get(const void *network, const char *name, mmebm_view *value)
{
    return mmebm_network_get_tensor(network, name, value);
}

static mmebm_status model_info(const void *model, uint32_t index, const char **name, uint32_t *rank, int64_t *shape)
{
    return mmebm_model_tensor_info(model, index, name, rank, shape);
}

static mmebm_status model_get(const void *model, const char *name, mmebm_view *value)
{
    return mmebm_model_get_tensor(model, name, value);
}

static int expect(const char *folder, const char *sample, const void *object, uint32_t count, info_call info,
                  get_call get)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s.expected", folder, sample);
    FILE *out = fopen(path, "w");
    if (!out) return 0;
    int fine = 1;
    for (uint32_t t = 0; t < count && fine; ++t) {
        const char *name;
        uint32_t rank;
        int64_t shape[MMEBM_MAX_RANK];
        mmebm_view view;
        fine = info(object, t, &name, &rank, shape) == MMEBM_OK &&
               mmebm_view_init(&view, values, rank, shape) == MMEBM_OK && get(object, name, &view) == MMEBM_OK &&
               print_values(out, name, &view);
    }
    return fclose(out) == 0 && fine;
}

static int write_models(mmebm_model *model, const char *folder)
{
    static const struct {
        const char *name;
        uint32_t dtype, gzip;
    } samples[] = {{"model", MMEBM_F32, 0}, {"half", MMEBM_BF16, 0}, {"compressed", MMEBM_F32, 1}};
    for (size_t s = 0; s < sizeof samples / sizeof samples[0]; ++s) {
        char path[512];
        mmebm_save_options options;
        if (mmebm_save_options_init(&options) != MMEBM_OK) return 0;
        options.dtype = samples[s].dtype;
        options.gzip = samples[s].gzip;
        snprintf(path, sizeof path, "%s/%s.safetensors", folder, samples[s].name);
        if (mmebm_model_save(model, path, &options) != MMEBM_OK) return 0;
        if (!expect(folder, samples[s].name, model, mmebm_model_tensor_count(model), model_info, model_get)) return 0;
    }
    return 1;
}

static int write_all(mmebm_context *context, const char *folder)
{
    char path[512];
    mmebm_network *network = NULL;
    mmebm_trainer *trainer = NULL;
    mmebm_trainer_options options;
    mmebm_model *model = small_model(context);
    int fine = model && write_models(model, folder) && make_every_kind(context, &network) == MMEBM_OK;
    snprintf(path, sizeof path, "%s/network.safetensors", folder);
    fine = fine && mmebm_network_save(network, path, NULL) == MMEBM_OK &&
           expect(folder, "network", network, mmebm_network_tensor_count(network), network_info, network_get);
    snprintf(path, sizeof path, "%s/checkpoint.safetensors", folder);
    fine = fine && mmebm_trainer_options_init(&options, "default") == MMEBM_OK &&
           mmebm_trainer_create(model, &options, &trainer) == MMEBM_OK &&
           mmebm_trainer_set_user_state(trainer, "user", 4) == MMEBM_OK &&
           mmebm_trainer_save(trainer, path, NULL) == MMEBM_OK &&
           expect(folder, "checkpoint", model, mmebm_model_tensor_count(model), model_info, model_get);
    mmebm_trainer_destroy(&trainer);
    mmebm_network_destroy(&network);
    mmebm_model_destroy(&model);
    return fine;
}

static int show(mmebm_context *context, const char *path, const char *tensor)
{
    mmebm_model *model;
    if (mmebm_model_load(context, path, &model) != MMEBM_OK) return 0;
    int found = 0;
    for (uint32_t t = 0; t < mmebm_model_tensor_count(model); ++t) {
        const char *name;
        uint32_t rank;
        int64_t shape[MMEBM_MAX_RANK];
        mmebm_view view;
        if (mmebm_model_tensor_info(model, t, &name, &rank, shape) != MMEBM_OK || strcmp(name, tensor) != 0) continue;
        found = mmebm_view_init(&view, values, rank, shape) == MMEBM_OK &&
                mmebm_model_get_tensor(model, name, &view) == MMEBM_OK && print_values(stdout, name, &view);
    }
    mmebm_model_destroy(&model);
    return found;
}

int main(int count, char **arguments)
{
    mmebm_context *context = open_context(NULL);
    if (!context || count < 2) return EXIT_FAILURE;
    const int fine = count == 4 && strcmp(arguments[1], "--show") == 0 ? show(context, arguments[2], arguments[3])
                                                                      : write_all(context, arguments[1]);
    if (!fine) printf("%s\n", mmebm_last_error(context));
    mmebm_context_destroy(&context);
    return fine ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * A host program outside the tree (check_install.sh): for each backend named on its command line it makes a model,
 * samples from it, saves and loads it, samples again, and prints "asked for NAME, got NAME: MEAN". Exit status 0 if all
 * went well and the loaded model drew the same bits.
 */
#include <mmebm.h>
#include <stdio.h>
#include <string.h>

enum { ROWS = 4, SIZE = 3, MODALITIES = 2 };

typedef struct host {
    mmebm_context *context;
    mmebm_model *model, *loaded;
    float values[2][MODALITIES][ROWS * SIZE];
} host;

static mmebm_status create_model(host *on)
{
    static const int64_t sizes[MODALITIES] = {SIZE, SIZE};
    mmebm_preset_options options;
    mmebm_status status = mmebm_preset_options_init(&options);
    options.n_modalities = MODALITIES;
    options.sizes = sizes;
    options.latent_size = 2;
    options.hidden = 8;
    return status == MMEBM_OK ? mmebm_model_create_preset(on->context, "mlp", &options, &on->model) : status;
}

static mmebm_status draw(mmebm_model *model, float (*values)[ROWS * SIZE])
{
    const int64_t shape[2] = {ROWS, SIZE};
    mmebm_view x[MODALITIES];
    mmebm_langevin_options chain;
    mmebm_sample_options options;
    mmebm_status status = mmebm_sample_options_init(&options);
    if (status == MMEBM_OK) status = mmebm_langevin_x_options_init(&chain);
    for (int i = 0; i < MODALITIES && status == MMEBM_OK; ++i) status = mmebm_view_init(&x[i], values[i], 2, shape);
    options.seed = 11;
    options.langevin_x = &chain;
    return status == MMEBM_OK ? mmebm_sample(model, &options, x) : status;
}

static mmebm_status run(host *on, const char *backend, const char *path)
{
    char message[256] = "";
    mmebm_context_options options;
    mmebm_status status = mmebm_context_options_init(&options);
    options.backend = backend;
    if (status == MMEBM_OK) status = mmebm_context_create(&options, &on->context, message, sizeof message);
    if (status != MMEBM_OK) return puts(message), status;
    status = create_model(on);
    if (status == MMEBM_OK) status = draw(on->model, on->values[0]);
    if (status == MMEBM_OK) status = mmebm_model_save(on->model, path, NULL);
    if (status == MMEBM_OK) status = mmebm_model_load(on->context, path, &on->loaded);
    if (status == MMEBM_OK) status = draw(on->loaded, on->values[1]);
    if (status != MMEBM_OK) puts(mmebm_last_error(on->context));
    return status;
}

int main(int count, char **arguments)
{
    int failures = count < 3;
    for (int i = 2; i < count; ++i) {
        host on;
        memset(&on, 0, sizeof on);
        if (run(&on, arguments[i], arguments[1]) == MMEBM_OK) {
            float sum = 0.0f;
            for (int k = 0; k < ROWS * SIZE; ++k) sum += on.values[0][0][k];
            failures += memcmp(on.values[0], on.values[1], sizeof on.values[0]) != 0;
            printf("asked for %s, got %s: %.3f\n", arguments[i], mmebm_context_backend(on.context),
                   (double)(sum / (ROWS * SIZE)));
        } else {
            ++failures;
        }
        mmebm_model_destroy(&on.loaded);
        mmebm_model_destroy(&on.model);
        mmebm_context_destroy(&on.context);
    }
    return failures != 0;
}

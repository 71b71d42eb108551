/* SPDX-License-Identifier: Apache-2.0
 *
 * Turns the raw weights that train_judges.py writes into a network file that judge.c loads:
 *     make_judge judge_0.f32 judge_0.safetensors
 * Layers: four 3x3 convolutions with ReLU, two of them of stride 2, and one linear layer over all of the last map.
 */
#include <stdio.h>
#include <stdlib.h>

#include "message.h"
#include "polymnist.h"

static const struct {
    int64_t channels, stride;
} convolutions[] = {{16, 1}, {32, 2}, {32, 1}, {48, 2}};
enum { CONVOLUTIONS = sizeof convolutions / sizeof *convolutions };

#define TRY(call)                                                                                  \
    do {                                                                                           \
        const mmebm_status try_status_ = (call);                                                   \
        if (try_status_ != MMEBM_OK) return try_status_;                                           \
    } while (0)

static mmebm_status build(mmebm_network *network)
{
    const int64_t shape[3] = {DIGIT_SIZE, DIGIT_SIZE, CHANNELS};
    mmebm_linear_options linear;
    mmebm_node x;
    TRY(mmebm_network_input(network, "picture", 3, shape, &x));
    for (int i = 0; i < CONVOLUTIONS; ++i) {
        mmebm_conv2d_options conv;
        TRY(mmebm_conv2d_options_init(&conv));
        conv.out_channels = convolutions[i].channels;
        conv.stride[0] = conv.stride[1] = convolutions[i].stride;
        TRY(mmebm_network_conv2d(network, x, &conv, &x));
        TRY(mmebm_network_activation(network, x, MMEBM_RELU, 0, &x));
    }
    TRY(mmebm_linear_options_init(&linear));
    linear.out_features = DIGIT_CLASSES;
    TRY(mmebm_network_linear(network, x, &linear, &x));
    TRY(mmebm_network_output(network, x, "score"));
    return mmebm_network_finish(network, MMEBM_INIT_PYTORCH, 0);
}

/* The file's floats go to the tensors in their order of creation. */
static int fill(mmebm_context *context, mmebm_network *network, const char *path)
{
    int bad = 0;
    FILE *file = fopen(path, "rb");
    if (!file) return failed("cannot open %s", path);
    for (uint32_t t = 0; t < mmebm_network_tensor_count(network) && !bad; ++t) {
        const char *name;
        uint32_t rank;
        int64_t shape[MMEBM_MAX_RANK];
        size_t count = 1;
        float *values;
        mmebm_view view;
        mmebm_status status = mmebm_network_tensor_info(network, t, &name, &rank, shape);
        if (status != MMEBM_OK) bad = library_failed(context, status, "asking for a tensor");
        for (uint32_t i = 0; i < rank && !bad; ++i) count *= (size_t)shape[i];
        values = malloc(count * sizeof *values);
        if (!bad && (!values || fread(values, sizeof *values, count, file) != count))
            bad = failed("%s ends before tensor %s", path, name);
        if (!bad) {
            status = mmebm_view_init(&view, values, rank, shape);
            if (status == MMEBM_OK) status = mmebm_network_set_tensor(network, name, &view);
            if (status != MMEBM_OK) bad = library_failed(context, status, "setting a tensor");
        }
        free(values);
    }
    if (!bad && fgetc(file) != EOF) bad = failed("%s is longer than the network's weights", path);
    fclose(file);
    return bad;
}

int main(int count, char **words)
{
    char message[256] = "";
    mmebm_context *context = NULL;
    mmebm_network *network = NULL;
    mmebm_context_options options;
    mmebm_save_options save;
    mmebm_status status;
    int bad = -1;
    if (count != 3) {
        fprintf(stderr, "usage: make_judge WEIGHTS.f32 NETWORK.safetensors\n");
        return EXIT_FAILURE;
    }
    status = mmebm_context_options_init(&options);
    options.backend = "reference";
    if (status == MMEBM_OK) status = mmebm_context_create(&options, &context, message, sizeof message);
    if (status != MMEBM_OK) {
        failed("%s (%s)", message, mmebm_status_name(status));
        return EXIT_FAILURE;
    }
    status = mmebm_network_create(context, "judge", &network);
    if (status == MMEBM_OK) status = build(network);
    if (status == MMEBM_OK) {
        bad = fill(context, network, words[1]);
        status = mmebm_save_options_init(&save);
        save.dtype = MMEBM_BF16;
        if (!bad && status == MMEBM_OK) status = mmebm_network_save(network, words[2], &save);
    }
    if (status != MMEBM_OK) bad = library_failed(context, status, "making the judge");
    mmebm_network_destroy(&network);
    mmebm_context_destroy(&context);
    return bad ? EXIT_FAILURE : EXIT_SUCCESS;
}

// SPDX-License-Identifier: Apache-2.0
//
// The same as program.c for a C++ host: handles in smart pointers, data in vectors, failures as exceptions.
#include <mmebm.h>

#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

struct Destroy {
    void operator()(mmebm_context *context) const { mmebm_context_destroy(&context); }
    void operator()(mmebm_model *model) const { mmebm_model_destroy(&model); }
};
using Context = std::unique_ptr<mmebm_context, Destroy>;
using Model = std::unique_ptr<mmebm_model, Destroy>;

void check(mmebm_status status, const std::string &sentence)
{
    if (status != MMEBM_OK) throw std::runtime_error(std::string(mmebm_status_name(status)) + ": " + sentence);
}

Context open_context(const std::string &backend)
{
    mmebm_context_options options;
    check(mmebm_context_options_init(&options), "options");
    options.backend = backend.c_str();
    char message[256] = "";
    mmebm_context *context = nullptr;
    const mmebm_status status = mmebm_context_create(&options, &context, message, sizeof message);
    check(status, message);
    return Context(context);
}

Model create_model(mmebm_context *context)
{
    const std::vector<int64_t> sizes{3, 3};
    mmebm_preset_options options;
    check(mmebm_preset_options_init(&options), "options");
    options.n_modalities = 2;
    options.sizes = sizes.data();
    options.latent_size = 2;
    options.hidden = 8;
    mmebm_model *model = nullptr;
    const mmebm_status status = mmebm_model_create_preset(context, "mlp", &options, &model);
    check(status, mmebm_last_error(context));
    return Model(model);
}

Model save_and_load(mmebm_context *context, mmebm_model *model, const std::string &path)
{
    check(mmebm_model_save(model, path.c_str(), nullptr), mmebm_last_error(context));
    mmebm_model *loaded = nullptr;
    const mmebm_status status = mmebm_model_load(context, path.c_str(), &loaded);
    check(status, mmebm_last_error(context));
    return Model(loaded);
}

std::vector<float> draw(mmebm_context *context, mmebm_model *model)
{
    const int64_t rows = 4, shape[2] = {rows, 3};
    std::vector<float> values(2 * rows * 3);
    mmebm_view x[2];
    for (int i = 0; i < 2; ++i) check(mmebm_view_init(&x[i], values.data() + i * rows * 3, 2, shape), "view");
    mmebm_langevin_options chain;
    mmebm_sample_options options;
    check(mmebm_langevin_x_options_init(&chain), "options");
    check(mmebm_sample_options_init(&options), "options");
    options.seed = 11;
    options.langevin_x = &chain;
    const mmebm_status status = mmebm_sample(model, &options, x);
    check(status, mmebm_last_error(context));
    return values;
}

} // namespace

int main(int count, char **arguments)
try {
    if (count < 3) return 1;
    for (int i = 2; i < count; ++i) {
        const Context context = open_context(arguments[i]);
        const Model model = create_model(context.get());
        const Model loaded = save_and_load(context.get(), model.get(), arguments[1]);
        const std::vector<float> first = draw(context.get(), model.get());
        if (first != draw(context.get(), loaded.get()))
            throw std::runtime_error("the loaded model draws other numbers");
        std::printf("asked for %s, got %s: %.3f\n", arguments[i], mmebm_context_backend(context.get()),
                    static_cast<double>(first[0]));
    }
    return 0;
} catch (const std::exception &error) {
    std::puts(error.what());
    return 1;
}

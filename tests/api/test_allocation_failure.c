/* SPDX-License-Identifier: Apache-2.0
 *
 * Memory that cannot be had: for each operation the n-th allocation fails, n = 1, 2, ... until the operation passes.
 * Each time it must return MMEBM_E_MEMORY with a sentence, leave the objects it was given usable (the same call then
 * passes), and nothing may be left once all is destroyed. (What oneDNN allocates by itself does not pass the hooks.)
 */
#include <unistd.h>

#include "api_support.h"

enum { ROWS = 3, MAX_ALLOCATIONS = 20000 };

typedef struct scene {
    counting_allocator allocator;
    mmebm_context *context;
    mmebm_network *network; /* finished, from [4, 4, 2] to [1] */
    mmebm_model *model;
    mmebm_sampler *sampler;
    mmebm_trainer *trainer;
    small_data data;
    char path[64]; /* of the file that the scene may save to and load from */
} scene;

/* ---- operations. Each undoes what it made, whether it passed or not. */

static mmebm_status build_network(mmebm_context *context, mmebm_network **network)
{
    const int64_t shape[3] = {4, 4, 2};
    mmebm_node x = 0, a = 0, b = 0;
    mmebm_conv2d_options conv;
    mmebm_linear_options linear;
    mmebm_status status = mmebm_conv2d_options_init(&conv);
    if (status == MMEBM_OK) status = mmebm_linear_options_init(&linear);
    if (status == MMEBM_OK) status = mmebm_network_create(context, "built", network);
    if (status == MMEBM_OK) status = mmebm_network_input(*network, "x", 3, shape, &x);
    conv.out_channels = 3;
    for (int i = 0; i < 10 && status == MMEBM_OK; ++i) { /* enough for every array of the graph to grow twice */
        status = mmebm_network_conv2d(*network, i ? b : x, &conv, &a);
        if (status == MMEBM_OK) status = mmebm_network_activation(*network, a, MMEBM_SILU, 0.0f, &b);
        if (status == MMEBM_OK) status = mmebm_network_add(*network, a, 0.5f, b, 0.5f, &b);
    }
    const mmebm_node both[2] = {a, b};
    if (status == MMEBM_OK) status = mmebm_network_concat(*network, 2, both, &a);
    if (status == MMEBM_OK) status = mmebm_network_batch_norm(*network, a, 1e-5f, 0.1f, &a);
    linear.out_features = 1;
    if (status == MMEBM_OK) status = mmebm_network_linear(*network, a, &linear, &b);
    if (status == MMEBM_OK) status = mmebm_network_output(*network, b, "y");
    if (status == MMEBM_OK) status = mmebm_network_finish(*network, MMEBM_INIT_XAVIER_NORMAL, 3);
    return status;
}

static mmebm_status op_network_build(scene *on)
{
    mmebm_network *network = NULL;
    const mmebm_status status = build_network(on->context, &network);
    mmebm_network_destroy(&network);
    return status;
}

static mmebm_status op_network_forward(scene *on)
{
    float x[2 * 32] = {0}, y[2];
    const int64_t in[4] = {2, 4, 4, 2}, out[2] = {2, 1};
    mmebm_view from, to;
    mmebm_status status = mmebm_view_init(&from, x, 4, in);
    if (status == MMEBM_OK) status = mmebm_view_init(&to, y, 2, out);
    return status == MMEBM_OK ? mmebm_network_forward(on->network, &from, &to) : status;
}

static mmebm_status op_network_save(scene *on)
{
    return mmebm_network_save(on->network, on->path, NULL);
}

static mmebm_status op_network_load(scene *on)
{
    mmebm_network *network = NULL;
    const mmebm_status status = mmebm_network_load(on->context, on->path, &network);
    mmebm_network_destroy(&network);
    return status;
}

static mmebm_status op_preset_mlp(scene *on)
{
    mmebm_model *model = NULL;
    const mmebm_status status = create_small_model(on->context, &model);
    mmebm_model_destroy(&model);
    return status;
}

static mmebm_status op_preset_polymnist(scene *on)
{
    mmebm_preset_options options;
    mmebm_model *model = NULL;
    mmebm_status status = mmebm_preset_options_init(&options);
    options.n_modalities = 2;
    options.image_size = 8;
    options.channels = 1;
    options.latent_size = 2;
    options.nf = options.nef = 4;
    options.stem_channels = 2;
    if (status == MMEBM_OK) status = mmebm_model_create_preset(on->context, "polymnist", &options, &model);
    mmebm_model_destroy(&model);
    return status;
}

static mmebm_status op_model_tensors(scene *on)
{
    const char *name = NULL;
    uint32_t rank = 0;
    int64_t shape[MMEBM_MAX_RANK] = {0};
    float values[64] = {0};
    mmebm_view view;
    mmebm_status status = mmebm_model_tensor_info(on->model, 0, &name, &rank, shape);
    if (status == MMEBM_OK) status = mmebm_view_init(&view, values, rank, shape);
    if (status == MMEBM_OK) status = mmebm_model_get_tensor(on->model, name, &view);
    if (status == MMEBM_OK) status = mmebm_model_set_tensor(on->model, name, &view);
    return status;
}

static mmebm_status save_model(scene *on, uint32_t gzip)
{
    mmebm_save_options options;
    mmebm_status status = mmebm_save_options_init(&options);
    options.gzip = gzip;
    options.dtype = gzip ? MMEBM_BF16 : MMEBM_F32;
    return status == MMEBM_OK ? mmebm_model_save(on->model, on->path, &options) : status;
}

static mmebm_status op_model_save(scene *on)
{
    return save_model(on, 0);
}

static mmebm_status op_model_save_gzip(scene *on)
{
    return save_model(on, 1);
}

static mmebm_status op_model_load(scene *on)
{
    mmebm_model *model = NULL;
    const mmebm_status status = mmebm_model_load(on->context, on->path, &model);
    mmebm_model_destroy(&model);
    return status;
}

static mmebm_status op_sampler_create(scene *on)
{
    mmebm_sampler *sampler = NULL;
    const mmebm_status status = mmebm_sampler_create(on->model, NULL, &sampler);
    mmebm_sampler_destroy(&sampler);
    return status;
}

static mmebm_status op_sampler_prepare(scene *on)
{
    return mmebm_sampler_prepare(on->sampler, 2);
}

static mmebm_status op_sampler_energy(scene *on)
{
    return mmebm_sampler_energy(on->sampler, on->data.x, &on->data.energy);
}

static mmebm_status op_sampler_score(scene *on)
{
    return mmebm_sampler_score(on->sampler, on->data.x, 1.0f, on->data.score);
}

static mmebm_status op_sampler_encode(scene *on)
{
    return mmebm_sampler_encode(on->sampler, 0, on->data.x, &on->data.mean, &on->data.scale);
}

static mmebm_status op_sampler_encode_draw(scene *on)
{
    return mmebm_sampler_encode_draw(on->sampler, 0, MMEBM_START_SAMPLE, 1, 0, on->data.x, &on->data.chains);
}

static mmebm_status op_sampler_generate(scene *on)
{
    return mmebm_sampler_generate(on->sampler, &on->data.z, on->data.x);
}

static mmebm_status op_sampler_langevin_x(scene *on)
{
    return mmebm_sampler_langevin_x(on->sampler, NULL, on->data.x, NULL);
}

static mmebm_status op_sampler_langevin_z(scene *on)
{
    mmebm_langevin_options options;
    mmebm_status status = mmebm_langevin_z_options_init(&options);
    options.method = MMEBM_MALA;
    options.n_steps = 3;
    options.observed = 1;
    return status == MMEBM_OK ? mmebm_sampler_langevin_z(on->sampler, &options, on->data.x, &on->data.z, NULL) : status;
}

static mmebm_status op_sampler_langevin_prior(scene *on)
{
    mmebm_langevin_options options;
    mmebm_status status = mmebm_langevin_z_options_init(&options);
    options.n_steps = 3;
    options.prior_temperature = 2.0f;
    return status == MMEBM_OK ? mmebm_sampler_langevin_prior(on->sampler, &options, &on->data.z, NULL) : status;
}

static mmebm_status op_sampler_sample(scene *on)
{
    return mmebm_sampler_sample(on->sampler, NULL, on->data.x);
}

static mmebm_status op_sampler_sample_given(scene *on)
{
    mmebm_sample_options options;
    mmebm_langevin_options x, z;
    mmebm_status status = mmebm_sample_options_init(&options);
    if (status == MMEBM_OK) status = mmebm_langevin_x_options_init(&x);
    if (status == MMEBM_OK) status = mmebm_langevin_z_options_init(&z);
    x.n_steps = z.n_steps = 3;
    options.observed = 2;
    options.langevin_x = &x;
    options.langevin_z = &z;
    return status == MMEBM_OK ? mmebm_sampler_sample_given(on->sampler, &options, on->data.x) : status;
}

static mmebm_status op_sampler_sample_mixture(scene *on)
{
    float weights[1] = {1.0f}, means[SMALL_LATENT] = {0}, scales[SMALL_LATENT] = {1.0f, 1.0f};
    mmebm_latent_mixture mixture;
    mmebm_sample_options options;
    mmebm_status status = mmebm_latent_mixture_init(&mixture);
    if (status == MMEBM_OK) status = mmebm_sample_options_init(&options);
    mixture.latent_size = SMALL_LATENT;
    mixture.weights = weights;
    mixture.means = means;
    mixture.scales = scales;
    options.prior = &mixture;
    return status == MMEBM_OK ? mmebm_sampler_sample(on->sampler, &options, on->data.x) : status;
}

static mmebm_status op_latent_mixture_fit(scene *on)
{
    float weights[2], means[2 * SMALL_LATENT], scales[2 * SMALL_LATENT];
    mmebm_latent_mixture mixture;
    const mmebm_status status = mmebm_latent_mixture_init(&mixture);
    mixture.components = 2;
    mixture.latent_size = SMALL_LATENT;
    mixture.weights = weights;
    mixture.means = means;
    mixture.scales = scales;
    return status == MMEBM_OK ? mmebm_latent_mixture_fit(on->context, NULL, &on->data.z, &mixture, NULL) : status;
}

static mmebm_status op_energy(scene *on)
{
    return mmebm_energy(on->model, on->data.x, &on->data.energy);
}

static mmebm_status op_langevin_z(scene *on)
{
    return mmebm_langevin_z(on->model, NULL, on->data.x, &on->data.z, NULL);
}

static mmebm_status make_trainer(scene *on, mmebm_trainer **trainer)
{
    mmebm_trainer_options options;
    mmebm_status status = mmebm_trainer_options_init(&options, "listing1-sn");
    options.batch = ROWS;
    options.langevin_x.n_steps = options.langevin_z.n_steps = 2;
    options.ema = 0.9f;
    options.guard_interval = 2;
    options.prior_temperature = 2.0f;
    return status == MMEBM_OK ? mmebm_trainer_create(on->model, &options, trainer) : status;
}

static mmebm_status op_trainer_create(scene *on)
{
    mmebm_trainer *trainer = NULL;
    const mmebm_status status = make_trainer(on, &trainer);
    mmebm_trainer_destroy(&trainer);
    return status;
}

static mmebm_status op_trainer_step(scene *on)
{
    return mmebm_trainer_step(on->trainer, on->data.x);
}

static mmebm_status op_trainer_copy_average(scene *on)
{
    return mmebm_trainer_copy_average(on->trainer, on->model);
}

static mmebm_status op_trainer_user_state(scene *on)
{
    return mmebm_trainer_set_user_state(on->trainer, "state", 6);
}

static mmebm_status op_trainer_save(scene *on)
{
    return mmebm_trainer_save(on->trainer, on->path, NULL);
}

static mmebm_status op_trainer_load(scene *on)
{
    mmebm_model *model = NULL;
    mmebm_trainer *trainer = NULL;
    const mmebm_status status = mmebm_trainer_load(on->context, on->path, &model, &trainer);
    mmebm_trainer_destroy(&trainer);
    mmebm_model_destroy(&model);
    return status;
}

/* ---- the table */

enum { NEEDS_NETWORK = 1, NEEDS_MODEL = 2, NEEDS_SAMPLER = 6, NEEDS_TRAINER = 10, KEEPS_CACHE = 16 };

typedef struct operation {
    const char *name;
    mmebm_status (*run)(scene *on);
    mmebm_status (*before)(scene *on); /* once for each n, with all the memory it wants; may be NULL */
    int flags;                         /* what the scene holds; KEEPS_CACHE: the object may hold more afterwards */
} operation;

static const operation operations[] = {
    {"network build", op_network_build, NULL, 0},
    {"network_forward", op_network_forward, NULL, NEEDS_NETWORK | KEEPS_CACHE},
    {"network_save", op_network_save, NULL, NEEDS_NETWORK},
    {"network_load", op_network_load, op_network_save, NEEDS_NETWORK},
    {"model_create_preset mlp", op_preset_mlp, NULL, 0},
    {"model_create_preset polymnist", op_preset_polymnist, NULL, 0},
    {"model tensors", op_model_tensors, NULL, NEEDS_MODEL},
    {"model_save", op_model_save, NULL, NEEDS_MODEL},
    {"model_save gzip", op_model_save_gzip, NULL, NEEDS_MODEL},
    {"model_load", op_model_load, op_model_save, NEEDS_MODEL},
    {"model_load gzip", op_model_load, op_model_save_gzip, NEEDS_MODEL},
    {"sampler_create", op_sampler_create, NULL, NEEDS_MODEL},
    {"sampler_prepare", op_sampler_prepare, NULL, NEEDS_SAMPLER | KEEPS_CACHE},
    {"sampler_energy", op_sampler_energy, NULL, NEEDS_SAMPLER | KEEPS_CACHE},
    {"sampler_score", op_sampler_score, NULL, NEEDS_SAMPLER | KEEPS_CACHE},
    {"sampler_encode", op_sampler_encode, NULL, NEEDS_SAMPLER | KEEPS_CACHE},
    {"sampler_encode_draw", op_sampler_encode_draw, NULL, NEEDS_SAMPLER | KEEPS_CACHE},
    {"sampler_generate", op_sampler_generate, NULL, NEEDS_SAMPLER | KEEPS_CACHE},
    {"sampler_langevin_x", op_sampler_langevin_x, NULL, NEEDS_SAMPLER | KEEPS_CACHE},
    {"sampler_langevin_z", op_sampler_langevin_z, NULL, NEEDS_SAMPLER | KEEPS_CACHE},
    {"sampler_langevin_prior", op_sampler_langevin_prior, NULL, NEEDS_SAMPLER | KEEPS_CACHE},
    {"sampler_sample", op_sampler_sample, NULL, NEEDS_SAMPLER | KEEPS_CACHE},
    {"sampler_sample_given", op_sampler_sample_given, NULL, NEEDS_SAMPLER | KEEPS_CACHE},
    {"sampler_sample mixture", op_sampler_sample_mixture, NULL, NEEDS_SAMPLER | KEEPS_CACHE},
    {"latent_mixture_fit", op_latent_mixture_fit, NULL, 0},
    {"energy", op_energy, NULL, NEEDS_MODEL},
    {"langevin_z", op_langevin_z, NULL, NEEDS_MODEL},
    {"trainer_create", op_trainer_create, NULL, NEEDS_MODEL},
    {"trainer_step", op_trainer_step, NULL, NEEDS_TRAINER | KEEPS_CACHE},
    {"trainer_copy_average", op_trainer_copy_average, op_trainer_step, NEEDS_TRAINER},
    {"trainer_set_user_state", op_trainer_user_state, NULL, NEEDS_TRAINER},
    {"trainer_save", op_trainer_save, op_trainer_step, NEEDS_TRAINER},
    {"trainer_load", op_trainer_load, op_trainer_save, NEEDS_TRAINER},
};

static int scene_open(scene *on, const operation *of, const char *path)
{
    memset(on, 0, sizeof *on);
    snprintf(on->path, sizeof on->path, "%s", path);
    on->context = open_context(&on->allocator);
    if (!on->context || small_data_init(&on->data, ROWS) != MMEBM_OK) return 0;
    const int network = of->flags & NEEDS_NETWORK, model = of->flags & NEEDS_MODEL;
    const int sampler = (of->flags & NEEDS_SAMPLER) == NEEDS_SAMPLER;
    const int trainer = (of->flags & NEEDS_TRAINER) == NEEDS_TRAINER;
    return (!network || build_network(on->context, &on->network) == MMEBM_OK) &&
           (!model || (on->model = small_model(on->context)) != NULL) &&
           (!sampler || mmebm_sampler_create(on->model, NULL, &on->sampler) == MMEBM_OK) &&
           (!trainer || make_trainer(on, &on->trainer) == MMEBM_OK) &&
           (!of->before || of->before(on) == MMEBM_OK);
}

static void scene_close(scene *on)
{
    mmebm_trainer_destroy(&on->trainer);
    mmebm_sampler_destroy(&on->sampler);
    mmebm_model_destroy(&on->model);
    mmebm_network_destroy(&on->network);
    mmebm_context_destroy(&on->context);
    CHECK(on->allocator.blocks == 0 && on->allocator.bytes == 0 && on->allocator.errors == 0);
}

/* Runs `of` on a fresh scene with its n-th allocation failing. Returns 1 when there were fewer than n. */
static int run_once(const operation *of, uint64_t n, const char *path)
{
    scene on;
    const int opened = scene_open(&on, of, path);
    CHECK_MSG(opened, "%s: %s", of->name, mmebm_last_error(on.context));
    int passed = !opened;
    if (opened) {
        const uint64_t blocks = on.allocator.blocks, bytes = on.allocator.bytes;
        on.allocator.fail_at = on.allocator.calls + n;
        const mmebm_status status = of->run(&on);
        passed = on.allocator.calls < on.allocator.fail_at;
        on.allocator.fail_at = 0;
        CHECK_MSG(status == (passed ? MMEBM_OK : MMEBM_E_MEMORY), "%s, allocation %d: %s, %s", of->name, (int)n,
                  mmebm_status_name(status), mmebm_last_error(on.context));
        CHECK_MSG(passed == !mmebm_last_error(on.context)[0], "%s, allocation %d: '%s'", of->name, (int)n,
                  mmebm_last_error(on.context));
        CHECK_MSG(of->flags & KEEPS_CACHE || (blocks == on.allocator.blocks && bytes == on.allocator.bytes),
                  "%s, allocation %d: %d blocks more", of->name, (int)n, (int)(on.allocator.blocks - blocks));
        const mmebm_status again = of->run(&on);
        CHECK_MSG(again == MMEBM_OK, "%s, after allocation %d: %s, %s", of->name, (int)n, mmebm_status_name(again),
                  mmebm_last_error(on.context));
    }
    scene_close(&on);
    return passed;
}

static int make_path(char path[64])
{
    snprintf(path, 64, "/tmp/mmebm-memory-XXXXXX");
    const int file = mkstemp(path);
    return file >= 0 && close(file) == 0;
}

TEST(every_allocation_of_every_operation)
{
    char path[64];
    REQUIRE(make_path(path));
    for (size_t i = 0; i < sizeof operations / sizeof operations[0]; ++i) {
        uint64_t n = 1;
        while (n < MAX_ALLOCATIONS && !run_once(&operations[i], n, path)) ++n;
        CHECK_MSG(n < MAX_ALLOCATIONS, "%s does not end", operations[i].name);
        if (getenv("MMEBM_TEST_VERBOSE")) printf("  %s: %d allocations\n", operations[i].name, (int)n - 1);
    }
    remove(path);
}

TEST(every_allocation_of_context_create)
{
    int passed = 0;
    uint64_t n = 0;
    while (!passed && n < MAX_ALLOCATIONS) {
        counting_allocator allocator = {.fail_at = ++n};
        mmebm_context *context = NULL;
        char message[256] = "";
        const mmebm_status status = try_open_context(&allocator, 2, &context, message, sizeof message);
        passed = allocator.calls < n;
        CHECK_MSG(status == (passed ? MMEBM_OK : MMEBM_E_MEMORY), "allocation %d: %s, %s", (int)n,
                  mmebm_status_name(status), message);
        CHECK((context != NULL) == passed && (message[0] == '\0') == passed);
        mmebm_context_destroy(&context);
        CHECK(allocator.blocks == 0 && allocator.errors == 0);
    }
    CHECK(passed && n > 2);
}

/* The header's promise: a sampler's calls take no memory, those with an observed set from its preparation on,
 * langevin_prior's from the first at its temperature. */
TEST(prepared_calls_allocate_nothing)
{
    char path[64];
    REQUIRE(make_path(path));
    scene on;
    const operation sampler = {"prepared", NULL, NULL, NEEDS_SAMPLER};
    int opened = scene_open(&on, &sampler, path);
    for (uint64_t observed = 1; opened && observed < 4; ++observed)
        opened = mmebm_sampler_prepare(on.sampler, observed) == MMEBM_OK;
    CHECK(opened && op_sampler_langevin_prior(&on) == MMEBM_OK);
    const uint64_t calls = on.allocator.calls, size = mmebm_sampler_workspace_size(on.sampler);
    for (size_t i = 0; opened && i < sizeof operations / sizeof operations[0]; ++i) {
        const operation *of = &operations[i];
        if ((of->flags & NEEDS_SAMPLER) != NEEDS_SAMPLER) continue;
        CHECK(of->run(&on) == MMEBM_OK);
        CHECK_MSG(on.allocator.calls == calls, "%s allocates", of->name);
        CHECK_MSG(mmebm_sampler_workspace_size(on.sampler) == size, "%s grows the sampler", of->name);
    }
    scene_close(&on);
    remove(path);
}

int main(void)
{
    SKIP_WITHOUT_DEVICE(test_backend());
    RUN(prepared_calls_allocate_nothing);
    RUN(every_allocation_of_context_create);
    RUN(every_allocation_of_every_operation);
    return HARNESS_RESULT();
}

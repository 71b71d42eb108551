/* SPDX-License-Identifier: Apache-2.0
 *
 * Options structs: the documented defaults, and one table of every struct with a struct_size that runs its _init and a
 * call that reads it with sizes of every kind (docs/abi-policy.md). Conversions between (l, n) and (s, T).
 */
#include <float.h>

#include "api_support.h"

enum { LARGEST = 4096, ROWS = 2 };

/* What the calls of the table work on. */
typedef struct bench {
    mmebm_context *context;
    mmebm_network *network; /* open, with one input of [4, 4, 3] */
    mmebm_node image;
    mmebm_model *model;
    mmebm_sampler *sampler;
    small_data data;
    char path[64];
} bench;

static void bench_close(bench *on)
{
    mmebm_sampler_destroy(&on->sampler);
    mmebm_model_destroy(&on->model);
    mmebm_network_destroy(&on->network);
    mmebm_context_destroy(&on->context);
    if (on->path[0]) remove(on->path);
}

static int bench_open(bench *on)
{
    memset(on, 0, sizeof *on);
    snprintf(on->path, sizeof on->path, "/tmp/mmebm-options-XXXXXX");
    const int file = mkstemp(on->path);
    if (file < 0) on->path[0] = '\0';
    FILE *closed = file < 0 ? NULL : fdopen(file, "w");
    if (closed) fclose(closed);
    on->context = open_context(NULL);
    const int64_t shape[3] = {4, 4, 3};
    return on->context && closed && (on->model = small_model(on->context)) != NULL &&
           mmebm_sampler_create(on->model, NULL, &on->sampler) == MMEBM_OK &&
           mmebm_network_create(on->context, "open", &on->network) == MMEBM_OK &&
           mmebm_network_input(on->network, "image", 3, shape, &on->image) == MMEBM_OK &&
           small_data_init(&on->data, ROWS) == MMEBM_OK;
}

/* ---- for each struct: init, fill in what has no default, a call that reads it */

static mmebm_status init_context(void *options, size_t size)
{
    return mmebm_context_options_init_sized(options, size);
}
static mmebm_status init_view(void *options, size_t size)
{
    static float values[ROWS];
    const int64_t shape[1] = {ROWS};
    return mmebm_view_init_sized(options, size, values, 1, shape);
}
static mmebm_status init_conv2d(void *options, size_t size)
{
    return mmebm_conv2d_options_init_sized(options, size);
}
static mmebm_status init_linear(void *options, size_t size)
{
    return mmebm_linear_options_init_sized(options, size);
}
static mmebm_status init_save(void *options, size_t size)
{
    return mmebm_save_options_init_sized(options, size);
}
static mmebm_status init_modality(void *options, size_t size)
{
    return mmebm_modality_init_sized(options, size);
}
static mmebm_status init_model(void *options, size_t size)
{
    return mmebm_model_options_init_sized(options, size);
}
static mmebm_status init_preset(void *options, size_t size)
{
    return mmebm_preset_options_init_sized(options, size);
}
static mmebm_status init_langevin_x(void *options, size_t size)
{
    return mmebm_langevin_x_options_init_sized(options, size);
}
static mmebm_status init_langevin_z(void *options, size_t size)
{
    return mmebm_langevin_z_options_init_sized(options, size);
}
static mmebm_status init_record(void *options, size_t size)
{
    return mmebm_chain_record_init_sized(options, size);
}
static mmebm_status init_sampler(void *options, size_t size)
{
    return mmebm_sampler_options_init_sized(options, size);
}
static mmebm_status init_sample(void *options, size_t size)
{
    return mmebm_sample_options_init_sized(options, size);
}
static mmebm_status init_mixture(void *options, size_t size)
{
    return mmebm_latent_mixture_init_sized(options, size);
}
static mmebm_status init_fit(void *options, size_t size)
{
    return mmebm_latent_mixture_options_init_sized(options, size);
}
static mmebm_status init_trainer(void *options, size_t size)
{
    return mmebm_trainer_options_init_sized(options, size, "default");
}

static mmebm_status use_context(bench *on, void *options)
{
    (void)on;
    mmebm_context_options *given = options;
    const char *kept = given->backend;
    mmebm_context *made = NULL;
    given->backend = "reference";
    const mmebm_status status = mmebm_context_create(given, &made, NULL, 0);
    given->backend = kept;
    mmebm_context_destroy(&made);
    return status;
}
static mmebm_status use_view(bench *on, void *options)
{
    return mmebm_sampler_energy(on->sampler, on->data.x, options);
}
static mmebm_status use_conv2d(bench *on, void *options)
{
    ((mmebm_conv2d_options *)options)->out_channels = 2;
    mmebm_node node = 0;
    return mmebm_network_conv2d(on->network, on->image, options, &node);
}
static mmebm_status use_linear(bench *on, void *options)
{
    ((mmebm_linear_options *)options)->out_features = 2;
    mmebm_node node = 0;
    return mmebm_network_linear(on->network, on->image, options, &node);
}
static mmebm_status use_save(bench *on, void *options)
{
    return mmebm_model_save(on->model, on->path, options);
}
static mmebm_status use_modality(bench *on, void *options)
{
    return mmebm_model_modality(on->model, 0, options);
}
static mmebm_status use_model_questions(bench *on, void *options)
{
    return mmebm_model_get_options(on->model, options);
}
/* The first thing that create does is to read the struct; what is missing after that is another error. */
static mmebm_status use_model(bench *on, void *options)
{
    mmebm_model *made = NULL;
    mmebm_model_options *given = options;
    given->n_modalities = 0;
    const mmebm_status status = mmebm_model_create(on->context, given, NULL, NULL, NULL, &made);
    mmebm_model_destroy(&made);
    return status == MMEBM_E_ARGUMENT ? MMEBM_OK : status;
}
static mmebm_status use_preset(bench *on, void *options)
{
    mmebm_preset_options *given = options;
    given->n_modalities = SMALL_MODALITIES;
    given->sizes = small_sizes;
    given->hidden = 4;
    mmebm_model *made = NULL;
    const mmebm_status status = mmebm_model_create_preset(on->context, "mlp", given, &made);
    mmebm_model_destroy(&made);
    return status;
}
static mmebm_status use_langevin_x(bench *on, void *options)
{
    return mmebm_sampler_langevin_x(on->sampler, options, on->data.x, NULL);
}
static mmebm_status use_langevin_z(bench *on, void *options)
{
    return mmebm_sampler_langevin_z(on->sampler, options, on->data.x, &on->data.z, NULL);
}
static mmebm_status use_record(bench *on, void *options)
{
    return mmebm_sampler_langevin_z(on->sampler, NULL, on->data.x, &on->data.z, options);
}
static mmebm_status use_sampler(bench *on, void *options)
{
    mmebm_sampler *made = NULL;
    const mmebm_status status = mmebm_sampler_create(on->model, options, &made);
    mmebm_sampler_destroy(&made);
    return status;
}
static mmebm_status use_sample(bench *on, void *options)
{
    return mmebm_sampler_sample(on->sampler, options, on->data.x);
}
static mmebm_status use_mixture(bench *on, void *options)
{
    static float weights[1] = {1.0f}, means[SMALL_LATENT], scales[SMALL_LATENT] = {1.0f, 1.0f};
    mmebm_latent_mixture *given = options;
    given->latent_size = SMALL_LATENT;
    given->weights = weights;
    given->means = means;
    given->scales = scales;
    mmebm_sample_options sample;
    const mmebm_status status = mmebm_sample_options_init(&sample);
    sample.prior = given;
    return status == MMEBM_OK ? mmebm_sampler_sample(on->sampler, &sample, on->data.x) : status;
}
static mmebm_status use_fit(bench *on, void *options)
{
    float weights[1], means[SMALL_LATENT], scales[SMALL_LATENT];
    mmebm_latent_mixture mixture;
    const mmebm_status status = mmebm_latent_mixture_init(&mixture);
    mixture.latent_size = SMALL_LATENT;
    mixture.weights = weights;
    mixture.means = means;
    mixture.scales = scales;
    return status == MMEBM_OK ? mmebm_latent_mixture_fit(on->context, options, &on->data.z, &mixture, NULL) : status;
}
static mmebm_status use_trainer(bench *on, void *options)
{
    mmebm_trainer *made = NULL;
    ((mmebm_trainer_options *)options)->batch = ROWS;
    const mmebm_status status = mmebm_trainer_create(on->model, options, &made);
    mmebm_trainer_destroy(&made);
    return status;
}

typedef struct struct_case {
    const char *name;
    size_t size;
    mmebm_status (*init)(void *options, size_t size);
    mmebm_status (*use)(bench *on, void *options);
    int is_output; /* the call fills the struct: bytes that it does not know stay as they are */
} struct_case;

static const struct_case struct_cases[] = {
    {"context_options", sizeof(mmebm_context_options), init_context, use_context, 0},
    {"view", sizeof(mmebm_view), init_view, use_view, 0},
    {"conv2d_options", sizeof(mmebm_conv2d_options), init_conv2d, use_conv2d, 0},
    {"linear_options", sizeof(mmebm_linear_options), init_linear, use_linear, 0},
    {"save_options", sizeof(mmebm_save_options), init_save, use_save, 0},
    {"modality", sizeof(mmebm_modality), init_modality, use_modality, 1},
    {"model_options", sizeof(mmebm_model_options), init_model, use_model, 0},
    {"model_options, asked for", sizeof(mmebm_model_options), init_model, use_model_questions, 1},
    {"preset_options", sizeof(mmebm_preset_options), init_preset, use_preset, 0},
    {"langevin_options, x", sizeof(mmebm_langevin_options), init_langevin_x, use_langevin_x, 0},
    {"langevin_options, z", sizeof(mmebm_langevin_options), init_langevin_z, use_langevin_z, 0},
    {"chain_record", sizeof(mmebm_chain_record), init_record, use_record, 0},
    {"sampler_options", sizeof(mmebm_sampler_options), init_sampler, use_sampler, 0},
    {"sample_options", sizeof(mmebm_sample_options), init_sample, use_sample, 0},
    {"latent_mixture", sizeof(mmebm_latent_mixture), init_mixture, use_mixture, 0},
    {"latent_mixture_options", sizeof(mmebm_latent_mixture_options), init_fit, use_fit, 0},
    {"trainer_options", sizeof(mmebm_trainer_options), init_trainer, use_trainer, 0},
};
enum { STRUCT_CASES = sizeof struct_cases / sizeof struct_cases[0] };

/* The structs stand in a block as large as the largest that is allowed, and some. */
typedef union block {
    uint32_t struct_size;
    uint64_t aligned;
    unsigned char bytes[LARGEST + 64];
} block;

/* ---- init */

/* True if bytes from `first` on all are `value`. */
static int is_filled(const block *given, size_t first, unsigned char value)
{
    for (size_t i = first; i < sizeof given->bytes; ++i)
        if (given->bytes[i] != value) return 0;
    return 1;
}

static void check_init(const struct_case *of, size_t size, mmebm_status wanted)
{
    block given;
    memset(&given, 0x5a, sizeof given);
    const mmebm_status status = of->init(&given, size);
    CHECK_MSG(status == wanted, "%s, size %zu: %s", of->name, size, mmebm_status_name(status));
    CHECK_MSG(is_filled(&given, status == MMEBM_OK ? size : 0, 0x5a), "%s, size %zu: writes outside", of->name, size);
    if (status != MMEBM_OK) return;
    CHECK(given.struct_size == size);
    block usual;
    memset(&usual, 0, sizeof usual);
    CHECK(of->init(&usual, of->size) == MMEBM_OK);
    const size_t first = sizeof(uint32_t);
    CHECK_MSG(!memcmp(given.bytes + first, usual.bytes + first, of->size - first), "%s, size %zu", of->name, size);
    memset(given.bytes + size, 0, sizeof given.bytes - size);
    CHECK_MSG(is_filled(&given, of->size, 0), "%s, size %zu: the tail is not zero", of->name, size);
}

TEST(init_of_every_size)
{
    for (int i = 0; i < STRUCT_CASES; ++i) {
        const struct_case *of = &struct_cases[i];
        CHECK(of->init(NULL, of->size) == MMEBM_E_ARGUMENT);
        check_init(of, 0, MMEBM_E_STRUCT_SIZE);
        check_init(of, 1, MMEBM_E_STRUCT_SIZE);
        check_init(of, of->size - 1, MMEBM_E_STRUCT_SIZE);
        check_init(of, of->size, MMEBM_OK);
        check_init(of, of->size + 8, MMEBM_OK);
        check_init(of, LARGEST, MMEBM_OK);
        check_init(of, LARGEST + 1, MMEBM_E_STRUCT_SIZE);
        check_init(of, SIZE_MAX, MMEBM_E_STRUCT_SIZE);
    }
}

/* ---- use */

/* Calls with defaults whose struct_size says `size` and whose byte `dirty` (0 = none) is set. */
static void check_use(bench *on, const struct_case *of, uint32_t size, size_t dirty, mmebm_status wanted)
{
    block given;
    memset(&given, 0, sizeof given);
    CHECK(of->init(&given, of->size) == MMEBM_OK);
    given.struct_size = size;
    if (dirty) given.bytes[dirty] = 1;
    const mmebm_status status = of->use(on, &given);
    CHECK_MSG(status == wanted, "%s, struct_size %u, byte %zu: %s, %s", of->name, size, dirty,
              mmebm_status_name(status), mmebm_last_error(on->context));
    CHECK(given.struct_size == size && (!dirty || given.bytes[dirty] == 1));
}

TEST(use_of_every_size)
{
    bench on;
    const int opened = bench_open(&on);
    CHECK(opened);
    for (int i = 0; opened && i < STRUCT_CASES; ++i) {
        const struct_case *of = &struct_cases[i];
        const uint32_t size = (uint32_t)of->size;
        const mmebm_status unknown = of->is_output ? MMEBM_OK : MMEBM_E_UNKNOWN_OPTION;
        check_use(&on, of, 0, 0, MMEBM_E_STRUCT_SIZE);
        check_use(&on, of, 1, 0, MMEBM_E_STRUCT_SIZE);
        check_use(&on, of, size - 1, 0, MMEBM_E_STRUCT_SIZE);
        check_use(&on, of, size + 16, 0, MMEBM_OK);
        check_use(&on, of, size + 16, of->size, unknown);
        check_use(&on, of, size + 16, of->size + 15, unknown);
        check_use(&on, of, size + 16, of->size + 16, MMEBM_OK); /* that byte lies outside */
        check_use(&on, of, LARGEST, 0, MMEBM_OK);
        check_use(&on, of, LARGEST, LARGEST - 1, unknown);
        check_use(&on, of, LARGEST + 1, 0, MMEBM_E_STRUCT_SIZE);
        check_use(&on, of, UINT32_MAX, 0, MMEBM_E_STRUCT_SIZE);
        check_use(&on, of, size, 0, MMEBM_OK);
    }
    bench_close(&on);
}

/* ---- defaults */

TEST(defaults_are_those_of_the_header)
{
    mmebm_context_options context;
    mmebm_conv2d_options conv2d;
    mmebm_linear_options linear;
    mmebm_save_options save;
    mmebm_modality modality;
    mmebm_model_options model;
    mmebm_preset_options preset;
    REQUIRE(mmebm_context_options_init(&context) == MMEBM_OK && mmebm_conv2d_options_init(&conv2d) == MMEBM_OK);
    REQUIRE(mmebm_linear_options_init(&linear) == MMEBM_OK && mmebm_save_options_init(&save) == MMEBM_OK);
    REQUIRE(mmebm_modality_init(&modality) == MMEBM_OK && mmebm_model_options_init(&model) == MMEBM_OK);
    REQUIRE(mmebm_preset_options_init(&preset) == MMEBM_OK);
    CHECK(context.n_threads == 0 && !context.backend && !context.log && context.log_level == MMEBM_LOG_WARNING);
    CHECK(conv2d.bias == 1 && conv2d.kernel[0] == 3 && conv2d.kernel[1] == 3 && conv2d.stride[0] == 1);
    CHECK(conv2d.stride[1] == 1 && conv2d.padding[0] == 1 && conv2d.padding[1] == 1 && !conv2d.output_padding[0]);
    CHECK(linear.bias == 1 && linear.flatten == 1);
    CHECK(save.dtype == MMEBM_F32 && save.gzip == 0);
    CHECK(modality.likelihood == MMEBM_GAUSSIAN && modality.weight == 1.0f);
    CHECK(fabsf(modality.scale * modality.scale - 0.5f) < FLT_EPSILON);
    CHECK(modality.data_min == 0.0f && modality.data_max == 1.0f);
    CHECK(model.prior == MMEBM_GAUSSIAN && model.prior_scale == 1.0f && model.posterior == MMEBM_GAUSSIAN);
    CHECK(model.posterior_scale == MMEBM_SCALE_SOFTPLUS && model.posterior_floor == 1e-6f);
    CHECK(preset.n_modalities == 5 && preset.latent_size == 32 && preset.image_size == 28 && preset.channels == 3);
    CHECK(preset.nf == 64 && preset.nef == 128 && preset.stem_channels == 16);
    CHECK(preset.hidden == 128 && preset.n_hidden == 2 && preset.seed == 0);
    CHECK(preset.likelihood_scale == modality.scale && preset.posterior_floor == 0.02f);
}

TEST(defaults_of_chains_are_those_of_the_header)
{
    mmebm_langevin_options x, z;
    mmebm_sampler_options sampler;
    mmebm_sample_options sample;
    REQUIRE(mmebm_langevin_x_options_init(&x) == MMEBM_OK && mmebm_langevin_z_options_init(&z) == MMEBM_OK);
    REQUIRE(mmebm_sampler_options_init(&sampler) == MMEBM_OK && mmebm_sample_options_init(&sample) == MMEBM_OK);
    CHECK(x.n_steps == 30 && x.step_size == 0.1f && x.noise_scale == 0.001f);
    z.noise_scale = 0.001f; /* the only difference */
    CHECK(!memcmp(&x, &z, sizeof x));
    CHECK(x.method == MMEBM_ULA && x.reduction == MMEBM_REDUCE_SUM && x.observed == MMEBM_ALL_MODALITIES);
    CHECK(x.state_min == 0.0f && x.state_max == 0.0f && x.trajectory_stride == 1);
    CHECK(x.drift_clamp == 0.0f && x.drift_norm_clip == 0.0f && x.seed == 0 && x.first_chain == 0);
    CHECK(sampler.capacity == 64 && sampler.precision == MMEBM_PRECISION_F32);
    CHECK(sample.start == MMEBM_START_SAMPLE && !sample.langevin_x && !sample.langevin_z && !sample.observed);
    CHECK(!sample.prior && z.prior_temperature == 0.0f);
    mmebm_latent_mixture mixture;
    mmebm_latent_mixture_options fit;
    REQUIRE(mmebm_latent_mixture_init(&mixture) == MMEBM_OK && mmebm_latent_mixture_options_init(&fit) == MMEBM_OK);
    CHECK(mixture.components == 1 && !mixture.latent_size && !mixture.weights && !mixture.means && !mixture.scales);
    CHECK(fit.max_steps == 200 && fit.seed == 0 && fit.tolerance == 1e-4f && fit.scale_floor == 0.01f);
}

TEST(presets_of_the_trainer_have_names)
{
    mmebm_trainer_options options;
    static const char *const known[] = {"default", "listing1", "listing1-sn"};
    static const char *const unknown[] = {"", "Default", "listing1 ", "paper"};
    for (int i = 0; i < 3; ++i) CHECK(mmebm_trainer_options_init(&options, known[i]) == MMEBM_OK);
    CHECK(options.energy.spectral_norm == 1);
    for (int i = 0; i < 4; ++i) CHECK(mmebm_trainer_options_init(&options, unknown[i]) == MMEBM_E_NAME);
}

/* ---- (l, n) <-> (s, T) */

TEST(scales_and_steps_convert_both_ways)
{
    double s = 0, t = 0, l = 0, n = 0;
    REQUIRE(mmebm_step_from_scales(0.1, 0.001, &s, &t) == MMEBM_OK);
    CHECK(fabs(s - 5e-7) <= 4 * DBL_EPSILON * 5e-7); /* ruling A2's numbers; three roundings */
    CHECK(fabs(t - 1e-4) <= 4 * DBL_EPSILON * 1e-4);
    REQUIRE(mmebm_scales_from_step(s, t, &l, &n) == MMEBM_OK);
    CHECK(fabs(l - 0.1) <= 8 * DBL_EPSILON * 0.1);
    CHECK(fabs(n - 0.001) <= 8 * DBL_EPSILON * 0.001);
}

TEST(impossible_scales_are_refused)
{
    static const double wrong[] = {0.0, -1.0, INFINITY, -INFINITY, NAN};
    double a = 7.0, b = 7.0;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; ++i) {
        CHECK(mmebm_step_from_scales(wrong[i], 1.0, &a, &b) == MMEBM_E_ARGUMENT);
        CHECK(mmebm_step_from_scales(1.0, wrong[i], &a, &b) == MMEBM_E_ARGUMENT);
        CHECK(mmebm_scales_from_step(wrong[i], 1.0, &a, &b) == MMEBM_E_ARGUMENT);
        CHECK(mmebm_scales_from_step(1.0, wrong[i], &a, &b) == MMEBM_E_ARGUMENT);
    }
    /* possible arguments, impossible results */
    CHECK(mmebm_step_from_scales(1.0, 1e200, &a, &b) == MMEBM_E_ARGUMENT);
    CHECK(mmebm_step_from_scales(1.0, 1e-200, &a, &b) == MMEBM_E_ARGUMENT);
    CHECK(mmebm_scales_from_step(DBL_MAX, 1.0, &a, &b) == MMEBM_E_ARGUMENT);
    CHECK(mmebm_step_from_scales(1.0, 1.0, NULL, &b) == MMEBM_E_ARGUMENT);
    CHECK(mmebm_scales_from_step(1.0, 1.0, &a, NULL) == MMEBM_E_ARGUMENT);
    CHECK(a == 7.0 && b == 7.0);
}

int main(void)
{
    SKIP_WITHOUT_DEVICE(test_backend());
    RUN(init_of_every_size);
    RUN(use_of_every_size);
    RUN(defaults_are_those_of_the_header);
    RUN(defaults_of_chains_are_those_of_the_header);
    RUN(presets_of_the_trainer_have_names);
    RUN(scales_and_steps_convert_both_ways);
    RUN(impossible_scales_are_refused);
    return HARNESS_RESULT();
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * mmebm-bench: times the chains and the training step of the preset polymnist and prints one JSON line for each
 * measurement. bench/README.md says how to get steady numbers; bench/compare.py runs it in turn with PyTorch.
 *
 *     mmebm-bench --chain langevin_x --backend cpu --precision bf16 --threads 2 --batch 64
 *
 * A measurement repeats a call (a chain of --steps steps, or one training step) for --seconds after one call to warm
 * up, and gives the median time of a step, the fastest and the slowest.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "flops.h"
#include "model.h"

enum { MAX_ROUNDS = 4096 };

typedef struct setting {
    const char *chain, *backend, *precision, *model_path;
    uint32_t threads, batch, steps;
    double seconds;
    int on_device; /* where tuples and latents lie: in memory of the backend's device */
    mmebm_preset_options preset;
} setting;

typedef struct bench {
    const setting *setting;
    mmebm_context *context;
    mmebm_model *model;
    mmebm_sampler *sampler;
    mmebm_trainer *trainer;
    float *data[MMEBM_MAX_MODALITIES], *start[MMEBM_MAX_MODALITIES];
    mmebm_view x[MMEBM_MAX_MODALITIES], z;
    float *latent, *latent_start;
    size_t counts[MMEBM_MAX_MODALITIES], latent_count;
    uint64_t seed;
    float *target; /* device: for noise */
    void *key;     /* device: seed, first chain; zeros */
} bench;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void stop(const char *what, const char *why)
{
    fprintf(stderr, "mmebm-bench: %s: %s\n", what, why);
    exit(EXIT_FAILURE);
}

static void check(const bench *b, const char *what, mmebm_status status)
{
    if (status == MMEBM_OK) return;
    stop(what, b->context ? mmebm_last_error(b->context) : mmebm_status_name(status));
}

/* Where views lie. */
static float *array(const bench *b, size_t count)
{
    float *values;
    if (b->setting->on_device)
        check(b, "buffer", mmebm__device_floats(b->context, count, &values));
    else
        values = malloc(count * sizeof *values);
    if (!values) stop("memory", "none left");
    return values;
}

static void release(const bench *b, float *values, size_t count)
{
    if (b->setting->on_device)
        mmebm__device_free(b->context, values, count);
    else
        free(values);
}

static void copy(const bench *b, float *target, const float *source, size_t count)
{
    if (b->setting->on_device)
        check(b, "copy", b->context->ops->copy(b->context->device, target, source, count * sizeof *target));
    else
        memcpy(target, source, count * sizeof *target);
}

static uint32_t precision_number(const char *name)
{
    return !strcmp(name, "bf16") ? MMEBM_PRECISION_BF16
           : !strcmp(name, "f32") ? MMEBM_PRECISION_F32
           : !strcmp(name, "tf32") ? MMEBM_PRECISION_TF32
                                  : MMEBM_PRECISION_AUTO;
}

/* ---- what is measured: one call and the operations it takes */

static double rows_of_latents(const bench *b)
{
    return (double)b->setting->batch * mmebm_model_modality_count(b->model);
}

static void call_langevin_x(bench *b)
{
    mmebm_langevin_options options;
    check(b, "options", mmebm_langevin_x_options_init(&options));
    options.n_steps = b->setting->steps;
    options.seed = b->seed++;
    for (uint32_t i = 0; i < mmebm_model_modality_count(b->model); ++i)
        copy(b, b->data[i], b->start[i], b->counts[i]);
    check(b, "langevin_x", mmebm_sampler_langevin_x(b->sampler, &options, b->x, NULL));
    check(b, "synchronize", mmebm_context_synchronize(b->context));
}

static double flops_langevin_x(const bench *b)
{
    return 2.0 * graph_flops(&b->model->parts[MMEBM_PART_ENERGY].graph) * b->setting->batch;
}

static void call_langevin_z(bench *b)
{
    mmebm_langevin_options options;
    check(b, "options", mmebm_langevin_z_options_init(&options));
    options.n_steps = b->setting->steps;
    options.seed = b->seed++;
    copy(b, b->latent, b->latent_start, b->latent_count);
    check(b, "langevin_z", mmebm_sampler_langevin_z(b->sampler, &options, b->x, &b->z, NULL));
    check(b, "synchronize", mmebm_context_synchronize(b->context));
}

static double flops_langevin_z(const bench *b)
{
    return 2.0 * graph_flops(&b->model->parts[MMEBM_PART_GENERATOR].graph) * rows_of_latents(b);
}

/* One chain a tuple. */
static void call_langevin_prior(bench *b)
{
    mmebm_langevin_options options;
    mmebm_view z = b->z;
    check(b, "options", mmebm_langevin_z_options_init(&options));
    options.n_steps = b->setting->steps;
    options.seed = b->seed++;
    options.prior_temperature = 20.0f;
    z.rank = 2;
    z.shape[0] = b->setting->batch;
    z.shape[1] = mmebm_model_latent_size(b->model);
    copy(b, b->latent, b->latent_start, b->latent_count);
    check(b, "langevin_prior", mmebm_sampler_langevin_prior(b->sampler, &options, &z, NULL));
    check(b, "synchronize", mmebm_context_synchronize(b->context));
}

static double flops_langevin_prior(const bench *b)
{
    const double generator = graph_flops(&b->model->parts[MMEBM_PART_GENERATOR].graph);
    return flops_langevin_x(b) + 2.0 * generator * b->setting->batch;
}

static mmebm_trainer_options step_options(const bench *b)
{
    mmebm_trainer_options options;
    check(b, "options", mmebm_trainer_options_init(&options, "default"));
    options.batch = b->setting->batch;
    options.precision = precision_number(b->setting->precision);
    return options;
}

/* On a device a step is queued behind one under way: each call takes as long as a step, but for the first ones. */
static void call_step(bench *b)
{
    check(b, "trainer_step", mmebm_trainer_step(b->trainer, b->x));
}

/* Both chains, and each network forward with one or both gradients as often as rulings section K asks. */
static double flops_step(const bench *b)
{
    const mmebm_trainer_options o = step_options(b);
    const double energy = graph_flops(&b->model->parts[MMEBM_PART_ENERGY].graph);
    const double generator = graph_flops(&b->model->parts[MMEBM_PART_GENERATOR].graph);
    const double inference = graph_flops(&b->model->parts[MMEBM_PART_INFERENCE].graph);
    const double experts = o.stratified ? mmebm_model_modality_count(b->model) : 1.0;
    const double z_runs = o.langevin_z.n_steps + (o.langevin_z.method == MMEBM_MALA ? 1.0 : 0.0);
    const double chains = 2.0 * energy * o.langevin_x.n_steps + 2.0 * generator * experts * z_runs;
    const double updates = generator + 3.0 * generator * (experts + 1.0) + inference + 2.0 * 3.0 * inference +
                           2.0 * 3.0 * energy;
    return (chains + updates) * b->setting->batch;
}

/* One vector operation of the backend: normals for all modalities of a batch. */
static void call_noise(bench *b)
{
    const mmebm_backend_ops *ops = b->context->ops;
    const int64_t size = b->model->modality_count[0];
    for (uint32_t k = 0; k < b->setting->steps; ++k) {
        const mmebm_noise noise = {.key = b->key, .period = b->setting->batch, .stream = MMEBM_STREAM_X, .step = k};
        for (uint32_t i = 0; i < mmebm_model_modality_count(b->model); ++i)
            check(b, "noise", ops->noise(b->context->device, b->setting->batch, size, b->target, MMEBM_GAUSSIAN, 1.0f,
                                         0.0f, &noise));
    }
    check(b, "synchronize", ops->synchronize(b->context->device));
}

static double flops_noise(const bench *b)
{
    (void)b;
    return 0.0;
}

typedef struct measurement {
    const char *name;
    void (*call)(bench *);
    double (*flops)(const bench *); /* of one step */
    uint32_t steps_of_a_call;       /* 0: setting.steps */
} measurement;

static const measurement measurements[] = {
    {"langevin_x", call_langevin_x, flops_langevin_x, 0},
    {"langevin_z", call_langevin_z, flops_langevin_z, 0},
    {"langevin_prior", call_langevin_prior, flops_langevin_prior, 0},
    {"step", call_step, flops_step, 1},
    {"noise", call_noise, flops_noise, 0},
};

/* ---- set-up */

static void open_model(bench *b)
{
    char message[512];
    mmebm_context_options options;
    check(b, "options", mmebm_context_options_init(&options));
    options.backend = b->setting->backend;
    options.n_threads = b->setting->threads;
    if (mmebm_context_create(&options, &b->context, message, sizeof message) != MMEBM_OK) stop("context", message);
    if (b->setting->model_path && !strcmp(b->setting->chain, "start"))
        check(b, "model_load", mmebm_model_load(b->context, b->setting->model_path, &b->model));
    else
        check(b, "model", mmebm_model_create_preset(b->context, "polymnist", &b->setting->preset, &b->model));
}

static void fill(const bench *b, float *values, size_t count, float low, float high)
{
    uint32_t word = 12345;
    float *host = malloc(count * sizeof *host);
    if (!host) stop("memory", "none left");
    for (size_t i = 0; i < count; ++i) {
        word = word * 1664525u + 1013904223u;
        host[i] = low + (high - low) * (float)(word >> 8) * 0x1p-24f;
    }
    if (b->setting->on_device)
        check(b, "upload", b->context->ops->upload(b->context->device, values, host, count * sizeof *host));
    else
        memcpy(values, host, count * sizeof *host);
    free(host);
}

static void open_view(const bench *b, mmebm_view *view, float *data, uint32_t rank, const int64_t *shape)
{
    check(b, "view", mmebm_view_init(view, data, rank, shape));
    if (!b->setting->on_device) return;
    view->place = MMEBM_DEVICE;
    view->device_id = b->context->ops->device_number(b->context->device);
}

static void open_views(bench *b)
{
    for (uint32_t i = 0; i < mmebm_model_modality_count(b->model); ++i) {
        mmebm_modality modality;
        check(b, "modality", mmebm_modality_init(&modality));
        check(b, "modality", mmebm_model_modality(b->model, i, &modality));
        int64_t shape[MMEBM_MAX_RANK] = {b->setting->batch};
        memcpy(shape + 1, modality.shape, modality.rank * sizeof shape[0]);
        b->counts[i] = (size_t)(b->model->modality_count[i] * b->setting->batch);
        b->data[i] = array(b, b->counts[i]);
        b->start[i] = array(b, b->counts[i]);
        fill(b, b->start[i], b->counts[i], 0.0f, 1.0f);
        copy(b, b->data[i], b->start[i], b->counts[i]);
        open_view(b, &b->x[i], b->data[i], modality.rank + 1, shape);
    }
    const int64_t shape[3] = {mmebm_model_modality_count(b->model), b->setting->batch,
                              mmebm_model_latent_size(b->model)};
    b->latent_count = (size_t)(shape[0] * shape[1] * shape[2]);
    b->latent = array(b, b->latent_count);
    b->latent_start = array(b, b->latent_count);
    fill(b, b->latent_start, b->latent_count, -1.5f, 1.5f);
    open_view(b, &b->z, b->latent, 3, shape);
}

static size_t target_count(const bench *b)
{
    return (size_t)(b->model->modality_count[0] * b->setting->batch);
}

static void open_worker(bench *b)
{
    if (!strcmp(b->setting->chain, "noise")) {
        check(b, "buffer", b->context->ops->buffer_create(b->context->device, 2 * sizeof(uint64_t), &b->key));
        check(b, "buffer", mmebm__device_floats(b->context, target_count(b), &b->target));
        return;
    }
    if (!strcmp(b->setting->chain, "step")) {
        const mmebm_trainer_options options = step_options(b);
        check(b, "trainer_create", mmebm_trainer_create(b->model, &options, &b->trainer));
        return;
    }
    mmebm_sampler_options options;
    check(b, "options", mmebm_sampler_options_init(&options));
    options.capacity = b->setting->batch;
    options.precision = precision_number(b->setting->precision);
    check(b, "sampler_create", mmebm_sampler_create(b->model, &options, &b->sampler));
}

/* ---- measuring */

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* VmHWM, the most memory that the process held, in bytes. */
static uint64_t process_peak(void)
{
    char line[256];
    unsigned long long kilobytes = 0;
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(line, sizeof line, status))
        if (sscanf(line, "VmHWM: %llu kB", &kilobytes) == 1) break;
    if (status) fclose(status);
    return kilobytes * 1024;
}

static void measure(bench *b, const measurement *m)
{
    static double times[MAX_ROUNDS];
    const double steps = m->steps_of_a_call ? m->steps_of_a_call : b->setting->steps;
    int rounds = 0;
    m->call(b);
    const double begin = now();
    do {
        const double start = now();
        m->call(b);
        times[rounds++] = (now() - start) * 1e3 / steps;
    } while (now() - begin < b->setting->seconds && rounds < MAX_ROUNDS);
    qsort(times, (size_t)rounds, sizeof times[0], by_size);
    const double median = times[rounds / 2];
    uint64_t peak, device_peak;
    check(b, "memory", mmebm_context_memory(b->context, NULL, &peak));
    check(b, "device_memory", mmebm_context_device_memory(b->context, NULL, &device_peak));
    printf("{\"chain\":\"%s\",\"backend\":\"%s\",\"device\":\"%s\",\"precision\":\"%s\",\"threads\":%u,\"batch\":%u,"
           "\"ms\":%.4f,\"ms_min\":%.4f,\"ms_max\":%.4f,\"gflops\":%.1f,\"peak_bytes\":%llu,\"device_bytes\":%llu,"
           "\"process_bytes\":%llu,\"rounds\":%d}\n",
           m->name, mmebm_context_backend(b->context), mmebm_context_device(b->context), b->setting->precision,
           b->setting->threads, b->setting->batch, median, times[0], times[rounds - 1],
           m->flops(b) / median * 1e-6, (unsigned long long)peak, (unsigned long long)device_peak,
           (unsigned long long)process_peak(), rounds);
}

/* What a small program does from start to end: load a model, draw tuples, revise them. Timed from outside. */
static void start_and_sample(bench *b)
{
    mmebm_sample_options options;
    mmebm_langevin_options langevin;
    check(b, "options", mmebm_sample_options_init(&options));
    check(b, "options", mmebm_langevin_x_options_init(&langevin));
    langevin.n_steps = 1;
    options.langevin_x = &langevin;
    check(b, "sample", mmebm_sampler_sample(b->sampler, &options, b->x));
}

static void close_bench(bench *b)
{
    if (b->key) b->context->ops->buffer_destroy(b->context->device, b->key, 2 * sizeof(uint64_t));
    mmebm__device_free(b->context, b->target, b->target ? target_count(b) : 0);
    mmebm_trainer_destroy(&b->trainer);
    mmebm_sampler_destroy(&b->sampler);
    mmebm_model_destroy(&b->model);
    for (int i = 0; i < MMEBM_MAX_MODALITIES; ++i) {
        release(b, b->data[i], b->counts[i]);
        release(b, b->start[i], b->counts[i]);
    }
    release(b, b->latent, b->latent_count);
    release(b, b->latent_start, b->latent_count);
    mmebm_context_destroy(&b->context);
}

/* ---- command line */

static void usage(void)
{
    fputs("usage: mmebm-bench [--chain langevin_x|langevin_z|langevin_prior|step|noise|start|save]\n"
          "                   [--backend cpu|cuda|reference|auto]\n"
          "                   [--precision f32|tf32|bf16|auto] [--threads N] [--batch N] [--steps N] [--seconds S]\n"
          "                   [--memory host|device]\n"
          "                   [--nef N] [--stem N] [--nf N] [--latent N] [--model FILE]\n"
          "save writes the model to FILE; start loads it, draws one batch and ends.\n", stderr);
    exit(2);
}

static void read_arguments(int count, char **arguments, setting *s)
{
    static const struct option options[] = {
        {"chain", 1, NULL, 'c'},   {"backend", 1, NULL, 'k'}, {"precision", 1, NULL, 'p'}, {"threads", 1, NULL, 't'},
        {"batch", 1, NULL, 'b'},   {"steps", 1, NULL, 's'},   {"seconds", 1, NULL, 'S'},   {"nef", 1, NULL, 'e'},
        {"stem", 1, NULL, 'm'},    {"nf", 1, NULL, 'f'},      {"latent", 1, NULL, 'l'},    {"model", 1, NULL, 'M'},
        {"memory", 1, NULL, 'y'},  {NULL, 0, NULL, 0},
    };
    int option;
    while ((option = getopt_long(count, arguments, "", options, NULL)) != -1) {
        const uint32_t number = optarg ? (uint32_t)strtoul(optarg, NULL, 10) : 0;
        switch (option) {
        case 'c': s->chain = optarg; break;
        case 'k': s->backend = optarg; break;
        case 'p': s->precision = optarg; break;
        case 't': s->threads = number; break;
        case 'b': s->batch = number; break;
        case 's': s->steps = number; break;
        case 'S': s->seconds = strtod(optarg, NULL); break;
        case 'e': s->preset.nef = number; break;
        case 'm': s->preset.stem_channels = number; break;
        case 'f': s->preset.nf = number; break;
        case 'l': s->preset.latent_size = number; break;
        case 'M': s->model_path = optarg; break;
        case 'y':
            s->on_device = !strcmp(optarg, "device");
            if (!s->on_device && strcmp(optarg, "host")) usage();
            break;
        default: usage();
        }
    }
    if (!s->batch || !s->steps) usage();
}

int main(int count, char **arguments)
{
    setting s = {.chain = "langevin_x", .backend = "auto", .precision = "f32", .threads = 2, .batch = 64, .steps = 5,
                 .seconds = 3.0};
    bench b = {.setting = &s};
    check(&b, "options", mmebm_preset_options_init(&s.preset));
    read_arguments(count, arguments, &s);
    open_model(&b);
    if (!strcmp(s.chain, "save")) {
        check(&b, "model_save", mmebm_model_save(b.model, s.model_path, NULL));
        close_bench(&b);
        return EXIT_SUCCESS;
    }
    open_views(&b);
    open_worker(&b);
    const measurement *found = NULL;
    for (size_t i = 0; i < sizeof measurements / sizeof *measurements; ++i)
        if (!strcmp(measurements[i].name, s.chain)) found = &measurements[i];
    if (found)
        measure(&b, found);
    else if (!strcmp(s.chain, "start"))
        start_and_sample(&b);
    else
        usage();
    close_bench(&b);
    return EXIT_SUCCESS;
}

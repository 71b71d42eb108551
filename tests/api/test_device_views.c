/* SPDX-License-Identifier: Apache-2.0
 *
 * Views in device memory: where the backend takes them, every call gives the bits that it gives with host memory; where
 * it does not, a sentence says so. They must name the context's device.
 */
#include "api_support.h"
#include "view.h"

enum { ROWS = 5, MAX_COPIES = 16, STEPS = 3 };

/* A host array with a view of it, and the same on the device. */
typedef struct twin {
    float *host, *device;
    size_t count;
    mmebm_view view, device_view;
} twin;

typedef struct bench {
    mmebm_context *context;
    mmebm_model *model;
    mmebm_sampler *sampler;
    small_data data;
    twin twins[MAX_COPIES];
    int used;
} bench;

static int takes_device_views(const bench *on)
{
    return (on->context->ops->capabilities & MMEBM_BACKEND_DEVICE_VIEWS) != 0;
}

static int bench_open(bench *on)
{
    memset(on, 0, sizeof *on);
    on->context = open_context(NULL);
    if (!on->context || small_data_init(&on->data, ROWS) != MMEBM_OK) return 0;
    on->model = small_model(on->context);
    mmebm_sampler_options options;
    if (mmebm_sampler_options_init(&options) != MMEBM_OK) return 0;
    options.capacity = 2; /* several parts */
    return on->model && mmebm_sampler_create(on->model, &options, &on->sampler) == MMEBM_OK;
}

static void bench_close(bench *on)
{
    for (int t = 0; t < on->used; ++t) {
        mmebm__device_free(on->context, on->twins[t].device, on->twins[t].count);
        free(on->twins[t].host);
    }
    mmebm_sampler_destroy(&on->sampler);
    mmebm_model_destroy(&on->model);
    mmebm_context_destroy(&on->context);
}

/* A twin with the values of a host view, in both places. */
static twin *make_twin(bench *on, const mmebm_view *source)
{
    twin *t = &on->twins[on->used++];
    t->count = 1;
    for (uint32_t a = 0; a < source->rank; ++a) t->count *= (size_t)source->shape[a];
    t->host = malloc(t->count * sizeof(float));
    t->view = t->device_view = *source;
    t->view.data = t->host;
    CHECK(mmebm__device_floats(on->context, t->count, &t->device) == MMEBM_OK);
    memcpy(t->host, source->data, t->count * sizeof(float));
    CHECK(on->context->ops->upload(on->context->device, t->device, t->host, t->count * sizeof(float)) == MMEBM_OK);
    t->device_view.data = t->device;
    t->device_view.place = MMEBM_DEVICE;
    t->device_view.device_id = on->context->ops->device_number(on->context->device);
    return t;
}

static void check_same(bench *on, const twin *t, const char *what)
{
    float *back = malloc(t->count * sizeof(float));
    CHECK(mmebm_context_synchronize(on->context) == MMEBM_OK);
    CHECK(on->context->ops->download(on->context->device, back, t->device, t->count * sizeof(float)) == MMEBM_OK);
    CHECK_MSG(!memcmp(back, t->host, t->count * sizeof(float)), "%s", what);
    free(back);
}

#define BOTH(on, call)                                                                             \
    do {                                                                                           \
        const mmebm_status both_ = (call);                                                         \
        CHECK_MSG(both_ == MMEBM_OK, "%s", mmebm_last_error((on)->context));                       \
    } while (0)

/* x[2]: the views of both modalities in one of the two places. */
static void views_of(twin *const *twins, int device, mmebm_view x[SMALL_MODALITIES])
{
    for (int i = 0; i < SMALL_MODALITIES; ++i) x[i] = device ? twins[i]->device_view : twins[i]->view;
}

TEST(evaluations_are_the_same)
{
    bench on;
    REQUIRE(bench_open(&on));
    if (!takes_device_views(&on)) {
        bench_close(&on);
        SKIP("this backend works in host memory");
    }
    twin *x[SMALL_MODALITIES], *score[SMALL_MODALITIES];
    for (int i = 0; i < SMALL_MODALITIES; ++i) {
        x[i] = make_twin(&on, &on.data.x[i]);
        score[i] = make_twin(&on, &on.data.score[i]);
    }
    twin *energy = make_twin(&on, &on.data.energy), *mean = make_twin(&on, &on.data.mean);
    twin *scale = make_twin(&on, &on.data.scale), *chains = make_twin(&on, &on.data.chains);
    for (int device = 0; device < 2; ++device) {
        mmebm_view xs[SMALL_MODALITIES], scores[SMALL_MODALITIES];
        views_of(x, device, xs);
        views_of(score, device, scores);
        BOTH(&on, mmebm_sampler_energy(on.sampler, xs, device ? &energy->device_view : &energy->view));
        BOTH(&on, mmebm_sampler_score(on.sampler, xs, 0.5f, scores));
        BOTH(&on, mmebm_sampler_encode(on.sampler, 1, &xs[1], device ? &mean->device_view : &mean->view,
                                       device ? &scale->device_view : &scale->view));
        BOTH(&on, mmebm_sampler_encode_draw(on.sampler, 0, MMEBM_START_SAMPLE, 4, 0, xs,
                                            device ? &chains->device_view : &chains->view));
        BOTH(&on, mmebm_sampler_generate(on.sampler, device ? &mean->device_view : &mean->view, scores));
    }
    check_same(&on, energy, "energy");
    check_same(&on, mean, "mean");
    check_same(&on, scale, "scale");
    check_same(&on, chains, "encode_draw");
    for (int i = 0; i < SMALL_MODALITIES; ++i) check_same(&on, score[i], "generate");
    /* one call may mix the places */
    mmebm_view mixed[SMALL_MODALITIES] = {x[0]->view, x[1]->device_view};
    BOTH(&on, mmebm_sampler_energy(on.sampler, mixed, &energy->device_view));
    check_same(&on, energy, "energy of mixed places");
    bench_close(&on);
}

/* A chain on z with everything recorded. */
static mmebm_status run_z(bench *on, const mmebm_view *x, mmebm_view *z, mmebm_view *energy, mmebm_view *trajectory,
                          mmebm_view *acceptance, float *displacement)
{
    mmebm_langevin_options options;
    mmebm_chain_record record;
    mmebm_status status = mmebm_langevin_z_options_init(&options);
    if (status == MMEBM_OK) status = mmebm_chain_record_init(&record);
    options.method = MMEBM_MALA;
    options.n_steps = STEPS;
    record.energy = energy;
    record.trajectory = trajectory;
    record.acceptance = acceptance;
    if (status == MMEBM_OK) status = mmebm_sampler_langevin_z(on->sampler, &options, x, z, &record);
    *displacement = record.displacement;
    return status;
}

TEST(chains_are_the_same)
{
    enum { CHAINS = SMALL_MODALITIES * ROWS, FRAMES = STEPS + 1 };
    bench on;
    REQUIRE(bench_open(&on));
    if (!takes_device_views(&on)) {
        bench_close(&on);
        SKIP("this backend works in host memory");
    }
    static float zeros[FRAMES * CHAINS * SMALL_LATENT];
    const int64_t energies[2] = {FRAMES, CHAINS}, frames[3] = {FRAMES, CHAINS, SMALL_LATENT}, shares[1] = {CHAINS};
    mmebm_view energy_view, frame_view, share_view;
    CHECK(mmebm_view_init(&energy_view, zeros, 2, energies) == MMEBM_OK);
    CHECK(mmebm_view_init(&frame_view, zeros, 3, frames) == MMEBM_OK);
    CHECK(mmebm_view_init(&share_view, zeros, 1, shares) == MMEBM_OK);
    twin *x[SMALL_MODALITIES], *z = make_twin(&on, &on.data.chains), *energy = make_twin(&on, &energy_view);
    twin *frame = make_twin(&on, &frame_view), *share = make_twin(&on, &share_view);
    for (int i = 0; i < SMALL_MODALITIES; ++i) x[i] = make_twin(&on, &on.data.x[i]);
    float displacement[2];
    for (int device = 0; device < 2; ++device) {
        mmebm_view xs[SMALL_MODALITIES];
        views_of(x, device, xs);
        BOTH(&on, run_z(&on, xs, device ? &z->device_view : &z->view, device ? &energy->device_view : &energy->view,
                        device ? &frame->device_view : &frame->view, device ? &share->device_view : &share->view,
                        &displacement[device]));
        BOTH(&on, mmebm_sampler_langevin_x(on.sampler, NULL, xs, NULL));
    }
    CHECK(displacement[0] == displacement[1] && displacement[0] > 0.0f);
    check_same(&on, z, "langevin_z");
    check_same(&on, energy, "record's energy");
    check_same(&on, frame, "record's trajectory");
    check_same(&on, share, "record's acceptance");
    for (int i = 0; i < SMALL_MODALITIES; ++i) check_same(&on, x[i], "langevin_x");
    bench_close(&on);
}

TEST(tensors_are_read_and_written)
{
    bench on;
    REQUIRE(bench_open(&on));
    if (!takes_device_views(&on)) {
        bench_close(&on);
        SKIP("this backend works in host memory");
    }
    const char *name = NULL;
    uint32_t rank = 0;
    int64_t shape[MMEBM_MAX_RANK];
    float values[64] = {0};
    mmebm_view view;
    REQUIRE(mmebm_model_tensor_info(on.model, 0, &name, &rank, shape) == MMEBM_OK);
    CHECK(mmebm_view_init(&view, values, rank, shape) == MMEBM_OK);
    twin *tensor = make_twin(&on, &view);
    BOTH(&on, mmebm_model_get_tensor(on.model, name, &tensor->device_view));
    BOTH(&on, mmebm_model_get_tensor(on.model, name, &tensor->view));
    check_same(&on, tensor, "get_tensor");
    for (size_t k = 0; k < tensor->count; ++k) tensor->host[k] += 1.0f;
    BOTH(&on, mmebm_model_set_tensor(on.model, name, &tensor->view));
    BOTH(&on, mmebm_model_get_tensor(on.model, name, &tensor->device_view));
    check_same(&on, tensor, "set_tensor from the host");
    memset(tensor->host, 0, tensor->count * sizeof(float));
    BOTH(&on, mmebm_model_set_tensor(on.model, name, &tensor->device_view));
    BOTH(&on, mmebm_model_get_tensor(on.model, name, &tensor->view));
    check_same(&on, tensor, "set_tensor from the device");
    CHECK(tensor->host[0] != 0.0f);
    bench_close(&on);
}

static int train(bench *on, const mmebm_view *x, double *loss)
{
    mmebm_trainer_options options;
    mmebm_trainer *trainer = NULL;
    mmebm_model *model = small_model(on->context);
    mmebm_status status = mmebm_trainer_options_init(&options, "default");
    options.batch = ROWS;
    options.langevin_x.n_steps = options.langevin_z.n_steps = 2;
    if (status == MMEBM_OK) status = mmebm_trainer_create(model, &options, &trainer);
    for (int step = 0; step < 4 && status == MMEBM_OK; ++step) status = mmebm_trainer_step(trainer, x);
    if (status == MMEBM_OK) status = mmebm_trainer_diagnostic(trainer, "loss_generator", loss);
    CHECK_MSG(status == MMEBM_OK, "%s", mmebm_last_error(on->context));
    mmebm_trainer_destroy(&trainer);
    mmebm_model_destroy(&model);
    return status == MMEBM_OK;
}

TEST(training_is_the_same)
{
    bench on;
    REQUIRE(bench_open(&on));
    if (!takes_device_views(&on)) {
        bench_close(&on);
        SKIP("this backend works in host memory");
    }
    twin *x[SMALL_MODALITIES];
    double loss[2] = {0.0, 1.0};
    for (int i = 0; i < SMALL_MODALITIES; ++i) x[i] = make_twin(&on, &on.data.x[i]);
    for (int device = 0; device < 2; ++device) {
        mmebm_view xs[SMALL_MODALITIES];
        views_of(x, device, xs);
        CHECK(train(&on, xs, &loss[device]));
    }
    CHECK(loss[0] == loss[1]);
    bench_close(&on);
}

/* Every kind of call, refused: the view is in device memory where there is none, or names another device. */
TEST(other_places_are_refused)
{
    bench on;
    REQUIRE(bench_open(&on));
    const int takes = takes_device_views(&on);
    const mmebm_status wanted = takes ? MMEBM_E_ARGUMENT : MMEBM_E_UNSUPPORTED;
    const char *part = takes ? "the context's device" : "is in device memory, wanted MMEBM_HOST: backend '";
    mmebm_trainer_options options;
    mmebm_trainer *trainer = NULL;
    REQUIRE(mmebm_trainer_options_init(&options, "default") == MMEBM_OK);
    options.batch = ROWS;
    REQUIRE(mmebm_trainer_create(on.model, &options, &trainer) == MMEBM_OK);
    on.data.x[1].place = on.data.energy.place = on.data.z.place = MMEBM_DEVICE;
    on.data.x[1].device_id = on.data.energy.device_id = on.data.z.device_id = 77;
#define REFUSED(call)                                                                              \
    do {                                                                                           \
        CHECK((call) == wanted);                                                                   \
        CHECK_MSG(strstr(mmebm_last_error(on.context), part), "%s", mmebm_last_error(on.context)); \
    } while (0)
    REFUSED(mmebm_sampler_energy(on.sampler, on.data.x, &on.data.energy));
    REFUSED(mmebm_sampler_generate(on.sampler, &on.data.z, on.data.x));
    REFUSED(mmebm_sampler_langevin_x(on.sampler, NULL, on.data.x, NULL));
    REFUSED(mmebm_sampler_sample(on.sampler, NULL, on.data.x));
    REFUSED(mmebm_trainer_step(trainer, on.data.x));
    const char *name = NULL;
    CHECK(mmebm_model_tensor_info(on.model, 0, &name, NULL, NULL) == MMEBM_OK);
    REFUSED(mmebm_model_get_tensor(on.model, name, &on.data.energy));
    on.data.energy.place = MMEBM_HOST;
    on.data.x[1].place = MMEBM_HOST;
    on.data.x[1].device_id = 0;
    CHECK(mmebm_sampler_energy(on.sampler, on.data.x, &on.data.energy) == MMEBM_E_ARGUMENT);
    CHECK(strstr(mmebm_last_error(on.context), "device_id 77, wanted 0") != NULL);
    mmebm_trainer_destroy(&trainer);
    bench_close(&on);
}

TEST(memory_of_the_device_is_counted)
{
    bench on;
    REQUIRE(bench_open(&on));
    const size_t bytes = 4096 * sizeof(float);
    uint64_t before = 0, with_buffer = 0, after = 1, peak = 0;
    CHECK(mmebm_context_device_memory(on.context, &before, NULL) == MMEBM_OK);
    CHECK((before > 0) == takes_device_views(&on)); /* the sampler's buffers, where a device has memory of its own */
    float *buffer = NULL;
    REQUIRE(mmebm__device_floats(on.context, 4096, &buffer) == MMEBM_OK);
    CHECK(mmebm_context_device_memory(on.context, &with_buffer, &peak) == MMEBM_OK);
    CHECK(with_buffer == before + (takes_device_views(&on) ? bytes : 0) && peak >= with_buffer);
    mmebm__device_free(on.context, buffer, 4096);
    CHECK(mmebm_context_device_memory(on.context, &after, NULL) == MMEBM_OK);
    CHECK(after == before);
    CHECK(mmebm_context_device_memory(NULL, &after, &peak) == MMEBM_E_ARGUMENT);
    bench_close(&on);
}

TEST(synchronize_wants_a_context)
{
    mmebm_context *context = open_context(NULL);
    REQUIRE(context);
    CHECK(mmebm_context_synchronize(context) == MMEBM_OK);
    CHECK(mmebm_context_synchronize(NULL) == MMEBM_E_ARGUMENT);
    mmebm_context_destroy(&context);
}

int main(void)
{
    SKIP_WITHOUT_DEVICE(test_backend());
    RUN(evaluations_are_the_same);
    RUN(chains_are_the_same);
    RUN(tensors_are_read_and_written);
    RUN(training_is_the_same);
    RUN(other_places_are_refused);
    RUN(memory_of_the_device_is_counted);
    RUN(synchronize_wants_a_context);
    return HARNESS_RESULT();
}

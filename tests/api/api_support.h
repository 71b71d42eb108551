/* SPDX-License-Identifier: Apache-2.0
 *
 * What the tests of the public interface share: an allocator that counts and can fail, a context of the backend under
 * test (MMEBM_TEST_BACKEND, "reference" without it), a small model and views of its data.
 */
#ifndef MMEBM_API_SUPPORT_H
#define MMEBM_API_SUPPORT_H

#include "mmebm.h"

#include "backend_under_test.h"
#include "harness.h"

/* ---- allocator */

typedef struct counting_allocator {
    uint64_t calls;   /* of allocate, failed ones included */
    uint64_t fail_at; /* number of the call that fails, counted from 1; 0 = none */
    uint64_t blocks, bytes, peak;
    uint64_t errors; /* releases with another size than allocated, odd alignments, size 0 */
} counting_allocator;

/* Size and alignment stand right before the memory, which starts out as garbage: nothing may rely on zeros. */
static inline void *counting_allocate(void *user, size_t size, size_t alignment)
{
    counting_allocator *allocator = user;
    if (!size || alignment < 2 * sizeof(size_t) || (alignment & (alignment - 1))) ++allocator->errors;
    if (++allocator->calls == allocator->fail_at) return NULL;
    char *block = aligned_alloc(alignment, (size + 2 * alignment - 1) & ~(alignment - 1));
    if (!block) return NULL;
    size_t *memory = (size_t *)(void *)(block + alignment);
    memory[-1] = size;
    memory[-2] = alignment;
    ++allocator->blocks;
    allocator->bytes += size;
    if (allocator->bytes > allocator->peak) allocator->peak = allocator->bytes;
    return memset(memory, 0xa5, size);
}

static inline void counting_release(void *user, void *memory, size_t size)
{
    counting_allocator *allocator = user;
    const size_t allocated = ((size_t *)memory)[-1], alignment = ((size_t *)memory)[-2];
    if (size != allocated) ++allocator->errors;
    --allocator->blocks;
    allocator->bytes -= allocated;
    free((char *)memory - alignment);
}

/* ---- context */

/* Prints why when there is none. allocator NULL = the default. */
static inline mmebm_status try_open_context(counting_allocator *allocator, uint32_t n_threads, mmebm_context **context,
                                            char *message, size_t message_size)
{
    mmebm_context_options options;
    mmebm_status status = mmebm_context_options_init(&options);
    if (status != MMEBM_OK) return status;
    options.backend = test_backend();
    options.n_threads = n_threads;
    if (allocator) {
        options.allocate = counting_allocate;
        options.release = counting_release;
        options.allocator_user = allocator;
    }
    return mmebm_context_create(&options, context, message, message_size);
}

static inline mmebm_context *open_context(counting_allocator *allocator)
{
    mmebm_context *context = NULL;
    char message[512] = "";
    if (try_open_context(allocator, 1, &context, message, sizeof message) != MMEBM_OK) printf("  %s\n", message);
    return context;
}

/* ---- a model of two vectors of 3 and 2 numbers with latent size 2 */

enum { SMALL_MODALITIES = 2, SMALL_LATENT = 2, SMALL_MAX_ROWS = 16 };
static const int64_t small_sizes[SMALL_MODALITIES] = {3, 2};

static inline mmebm_status create_small_model(mmebm_context *context, mmebm_model **model)
{
    mmebm_preset_options options;
    const mmebm_status status = mmebm_preset_options_init(&options);
    if (status != MMEBM_OK) return status;
    options.n_modalities = SMALL_MODALITIES;
    options.latent_size = SMALL_LATENT;
    options.sizes = small_sizes;
    options.hidden = 4;
    options.n_hidden = 1;
    options.seed = 7;
    return mmebm_model_create_preset(context, "mlp", &options, model);
}

static inline mmebm_model *small_model(mmebm_context *context)
{
    mmebm_model *model = NULL;
    if (create_small_model(context, &model) != MMEBM_OK) printf("  %s\n", mmebm_last_error(context));
    return model;
}

/* Every array that a call on the small model may take, with views of n rows. */
typedef struct small_data {
    float x_values[SMALL_MODALITIES][SMALL_MAX_ROWS * 3];
    float score_values[SMALL_MODALITIES][SMALL_MAX_ROWS * 3];
    float z_values[SMALL_MAX_ROWS * SMALL_LATENT];
    float mean_values[SMALL_MAX_ROWS * SMALL_LATENT], scale_values[SMALL_MAX_ROWS * SMALL_LATENT];
    float chains_values[SMALL_MODALITIES * SMALL_MAX_ROWS * SMALL_LATENT];
    float energy_values[SMALL_MAX_ROWS];
    mmebm_view x[SMALL_MODALITIES], score[SMALL_MODALITIES];
    mmebm_view z, mean, scale;   /* [n, D] */
    mmebm_view chains;           /* [M, n, D] */
    mmebm_view energy;           /* [n] */
} small_data;

/* Numbers in [0, 1), the same for every call. */
static inline void fill_numbers(float *values, size_t count, uint32_t seed)
{
    for (size_t i = 0; i < count; ++i) values[i] = (float)(((uint32_t)i * 37u + seed * 11u) % 101u) / 101.0f;
}

static inline mmebm_status small_data_init(small_data *data, int64_t n)
{
    mmebm_status status = MMEBM_OK;
    memset(data, 0, sizeof *data);
    for (int i = 0; i < SMALL_MODALITIES; ++i) {
        const int64_t shape[2] = {n, small_sizes[i]};
        fill_numbers(data->x_values[i], SMALL_MAX_ROWS * 3, (uint32_t)i);
        status |= mmebm_view_init(&data->x[i], data->x_values[i], 2, shape);
        status |= mmebm_view_init(&data->score[i], data->score_values[i], 2, shape);
    }
    const int64_t latent[3] = {SMALL_MODALITIES, n, SMALL_LATENT};
    fill_numbers(data->z_values, SMALL_MAX_ROWS * SMALL_LATENT, 5);
    fill_numbers(data->chains_values, SMALL_MODALITIES * SMALL_MAX_ROWS * SMALL_LATENT, 6);
    status |= mmebm_view_init(&data->z, data->z_values, 2, latent + 1);
    status |= mmebm_view_init(&data->mean, data->mean_values, 2, latent + 1);
    status |= mmebm_view_init(&data->scale, data->scale_values, 2, latent + 1);
    status |= mmebm_view_init(&data->chains, data->chains_values, 3, latent);
    status |= mmebm_view_init(&data->energy, data->energy_values, 1, &n);
    return status;
}

#endif /* MMEBM_API_SUPPORT_H */

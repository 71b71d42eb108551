/* SPDX-License-Identifier: Apache-2.0
 *
 * What the law tests share: a context on the backend under test, toy models with known answers, a small generator for
 * test data.
 */
#ifndef MMEBM_LAWS_H
#define MMEBM_LAWS_H

#include "backend_under_test.h"
#include "harness.h"
#include "model.h"

static inline mmebm_context *open_backend(const char *backend, uint32_t n_threads)
{
    mmebm_context *context = NULL;
    mmebm_context_options options;
    char message[512] = "";
    if (mmebm_context_options_init(&options) != MMEBM_OK) return NULL;
    options.backend = backend;
    options.n_threads = n_threads;
    if (mmebm_context_create(&options, &context, message, sizeof message) != MMEBM_OK) printf("  %s\n", message);
    return context;
}

static inline mmebm_context *open_context(void)
{
    return open_backend(test_backend(), 2);
}

/* Prints the library's sentence when a call fails. */
#define OK(context, call)                                                                          \
    do {                                                                                           \
        const mmebm_status ok_status_ = (call);                                                    \
        CHECK_MSG(ok_status_ == MMEBM_OK, "%s: %s", mmebm_status_name(ok_status_),                 \
                  (context) ? mmebm_last_error(context) : "no context");                           \
        if (ok_status_ != MMEBM_OK) return;                                                        \
    } while (0)

/* Numbers in (-1, 1) for weights and data. */
static inline float test_number(uint64_t seed, uint32_t i)
{
    return 2.0f * mmebm__uniform(mmebm__random_block(seed, 200, i, 0, 0).word[0]) - 1.0f;
}

static inline mmebm_view view_of(float *data, uint32_t rank, const int64_t *shape)
{
    mmebm_view view;
    if (mmebm_view_init(&view, data, rank, shape) != MMEBM_OK) memset(&view, 0, sizeof view);
    return view;
}

/* One modality of `size` numbers with U(x) = |x|^2 / (2 scale^2), decoder mean(z) = W z, encoder mean(x) = 0 and
 * raw(x) = 0. */
mmebm_model *make_quadratic_model(mmebm_context *context, int64_t size, float scale);

/* `modalities` vectors of `size` numbers; x_i = W_i z + b_i + noise of std sigma, z ~ N(0, I) of `latent` numbers;
 * encoders start at zero. U is a quadratic in all modalities. W_i[k][d] = test_number(10 + i, k latent + d),
 * b_i[k] = test_number(20 + i, k) / 2. */
mmebm_model *make_gaussian_model(mmebm_context *context, uint32_t modalities, int64_t size, uint32_t latent,
                                 float sigma);

/* One modality of `size` numbers with U(x) = |A x + c|^2 / 2, A [features, size]: an energy with weights,
 * "energy.features.weight" and "energy.features.bias", which start as PyTorch's. */
mmebm_model *make_feature_model(mmebm_context *context, int64_t size, int64_t features);

/* The same with U = |batch norm of x|^2 / 2, whose running statistics move with that momentum. */
mmebm_model *make_normalised_model(mmebm_context *context, int64_t size, float momentum);

#endif /* MMEBM_LAWS_H */

/* SPDX-License-Identifier: Apache-2.0 */
#include "fitted_prior.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "message.h"

enum { COMPONENTS = 40, FITTED_TUPLES = 3000 };

static int make_room(uint32_t latent_size, fitted_prior *prior)
{
    const size_t numbers = (size_t)COMPONENTS * (1 + 2 * latent_size);
    mmebm_latent_mixture *m = &prior->mixture;
    if (mmebm_latent_mixture_init(m) != MMEBM_OK) return -1;
    prior->memory = malloc(numbers * sizeof *prior->memory);
    if (!prior->memory) return failed("no memory for a mixture of %d components", COMPONENTS);
    m->components = COMPONENTS;
    m->latent_size = latent_size;
    m->weights = prior->memory;
    m->means = m->weights + COMPONENTS;
    m->scales = m->means + (size_t)COMPONENTS * latent_size;
    return 0;
}

static double mean_of(const float *latents, size_t n, size_t size, size_t d)
{
    double sum = 0;
    for (size_t t = 0; t < n; ++t) sum += latents[t * size + d];
    return sum / (double)n;
}

/* Spreads n latents around their mean until they vary as much as draws from N(0, I). */
static void spread(float *latents, size_t n, size_t size)
{
    double squares = 0;
    for (size_t d = 0; d < size; ++d) {
        const double mean = mean_of(latents, n, size, d);
        for (size_t t = 0; t < n; ++t) squares += (latents[t * size + d] - mean) * (latents[t * size + d] - mean);
    }
    const double factor = squares > 0 ? sqrt((double)(n * size) / squares) : 1;
    for (size_t d = 0; d < size; ++d) {
        const double mean = mean_of(latents, n, size, d);
        for (size_t t = 0; t < n; ++t) latents[t * size + d] = (float)(mean + factor * (latents[t * size + d] - mean));
    }
}

/* latents: room for a state of each expert; all of a tuple are the same average */
static mmebm_status encode_and_fit(const drawing *d, const tuples *x, float *latents, fitted_prior *prior)
{
    const int64_t encoded[3] = {MODALITIES, x->n, d->latent_size}, listed[2] = {x->n, d->latent_size};
    mmebm_view z;
    mmebm_status status = mmebm_view_init(&z, latents, 3, encoded);
    if (status == MMEBM_OK)
        status =
            mmebm_sampler_encode_draw(d->sampler, MMEBM_ALL_MODALITIES, MMEBM_START_AVERAGE, d->seed, 0, x->view, &z);
    if (status != MMEBM_OK) return status;
    spread(latents, x->n, d->latent_size);
    status = mmebm_view_init(&z, latents, 2, listed);
    return status == MMEBM_OK ? mmebm_latent_mixture_fit(d->context, NULL, &z, &prior->mixture, NULL) : status;
}

int fitted_prior_make(const drawing *d, const polymnist_set *set, fitted_prior *prior)
{
    const uint32_t n = set->count < FITTED_TUPLES ? set->count : FITTED_TUPLES;
    float *latents = malloc((size_t)n * MODALITIES * d->latent_size * sizeof *latents);
    mmebm_status status;
    tuples x;
    memset(prior, 0, sizeof *prior);
    if (!latents || make_room(d->latent_size, prior) || tuples_create(&x, n)) {
        free(latents);
        return failed("no memory to fit a prior to %u tuples", n);
    }
    tuples_paint(&x, set, NULL, 0);
    status = encode_and_fit(d, &x, latents, prior);
    tuples_free(&x);
    free(latents);
    return status == MMEBM_OK ? 0 : library_failed(d->context, status, "fitting a prior to latents");
}

void fitted_prior_free(fitted_prior *prior)
{
    free(prior->memory);
    memset(prior, 0, sizeof *prior);
}

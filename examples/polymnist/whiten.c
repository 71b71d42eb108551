/* SPDX-License-Identifier: Apache-2.0
 *
 *     c = mean over tuples and experts of the means of q_e(z|x_e)
 *     T = the means' covariance + the mean of the variances: that of draws from the experts
 *     S = covariance over tuples of the average of a tuple's means
 *     R R^T = S D / trace(T^-1 S)
 *     decoders    W z + b = (W R) z' + (b + W c)         first layers
 *     encoders    mean' = R^-1 (mean - c)                last layers
 *                 scale' = sqrt(diag(R^-1 S_e^2 R^-T)) at the mean scale S_e, to first order in the layer's output
 *                 around it: an expert's covariance is diagonal before and after, so this part is not exact
 *
 * What one expert knows of its own picture alone averages out in S; what all of them see stays. So draws from the prior
 * vary most in what pictures have in common, and as much in all as draws from the experts do, by the measure T.
 */
#include "whiten.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "message.h"

enum { MEASURED_TUPLES = 2000, PORTION = 200 };

typedef struct whitening {
    mmebm_context *context;
    mmebm_model *model;
    uint32_t size;
    double *memory;
    double *c, *r;                  /* [D], [D, D], lower triangle: T, then R */
    double *inverse;                /* of r's factor, lower triangle */
    double *shared;                 /* [D, D], lower triangle: S */
    double *scale[MODALITIES];      /* [D]: mean over tuples */
    double tuples;
    double floor;                   /* of the encoders' scale */
} whitening;

static int open_whitening(mmebm_context *context, mmebm_model *model, whitening *w)
{
    const size_t size = mmebm_model_latent_size(model);
    mmebm_model_options options = {.struct_size = sizeof options};
    const mmebm_status status = mmebm_model_get_options(model, &options);
    *w = (whitening){.context = context, .model = model, .size = (uint32_t)size, .floor = options.posterior_floor};
    if (status != MMEBM_OK) return library_failed(context, status, "asking for the model's options");
    if (options.posterior_scale != MMEBM_SCALE_SOFTPLUS)
        return failed("whitening wants encoders with a scale of softplus, the model's is of kind %u",
                      (unsigned)options.posterior_scale);
    w->memory = calloc(size * (1 + 3 * size + MODALITIES), sizeof *w->memory);
    if (!w->memory) return failed("no memory for the moments of %zu latents", size);
    w->c = w->memory;
    w->r = w->c + size;
    w->inverse = w->r + size * size;
    w->shared = w->inverse + size * size;
    for (int e = 0; e < MODALITIES; ++e) w->scale[e] = w->shared + size * (size + (size_t)e);
    return 0;
}

/* ---- moments */

/* Adds n tuples of one expert to r, which gets second moments about 0, and to the tuples' averages. */
static void add_expert(whitening *w, int expert, uint32_t n, const float *mean, const float *scale, double *average)
{
    const uint32_t size = w->size;
    for (uint32_t t = 0; t < n; ++t, mean += size, scale += size, average += size) {
        for (uint32_t i = 0; i < size; ++i) {
            average[i] += (double)mean[i] / MODALITIES;
            w->scale[expert][i] += scale[i];
            for (uint32_t j = 0; j <= i; ++j) w->r[i * size + j] += (double)mean[i] * mean[j];
            w->r[i * size + i] += (double)scale[i] * scale[i];
        }
    }
}

static void add_averages(whitening *w, uint32_t n, const double *average)
{
    const uint32_t size = w->size;
    for (uint32_t t = 0; t < n; ++t, average += size) {
        for (uint32_t i = 0; i < size; ++i) {
            w->c[i] += average[i];
            for (uint32_t j = 0; j <= i; ++j) w->shared[i * size + j] += average[i] * average[j];
        }
    }
    w->tuples += n;
}

/* Sums <- means and covariances. */
static void end_moments(whitening *w)
{
    const uint32_t size = w->size;
    for (uint32_t i = 0; i < size; ++i) {
        w->c[i] /= w->tuples;
        for (int e = 0; e < MODALITIES; ++e) w->scale[e][i] /= w->tuples;
    }
    for (uint32_t i = 0; i < size; ++i)
        for (uint32_t j = 0; j <= i; ++j) {
            const double square = w->c[i] * w->c[j];
            w->r[i * size + j] = w->r[i * size + j] / (w->tuples * MODALITIES) - square;
            w->shared[i * size + j] = w->shared[i * size + j] / w->tuples - square;
        }
}

static mmebm_status measure_portion(whitening *w, mmebm_sampler *sampler, const tuples *x, float *memory,
                                    double *average)
{
    const int64_t shape[2] = {x->n, w->size};
    const size_t numbers = (size_t)x->n * w->size;
    mmebm_view mean, scale;
    mmebm_status status = mmebm_view_init(&mean, memory, 2, shape);
    if (status == MMEBM_OK) status = mmebm_view_init(&scale, memory + numbers, 2, shape);
    memset(average, 0, numbers * sizeof *average);
    for (uint32_t e = 0; e < MODALITIES && status == MMEBM_OK; ++e) {
        status = mmebm_sampler_encode(sampler, e, &x->view[e], &mean, &scale);
        if (status == MMEBM_OK) add_expert(w, (int)e, x->n, memory, memory + numbers, average);
    }
    add_averages(w, x->n, average);
    return status;
}

static int measure(whitening *w, mmebm_sampler *sampler, const polymnist_set *set)
{
    const uint32_t count = set->count < MEASURED_TUPLES ? set->count : MEASURED_TUPLES;
    const size_t numbers = (size_t)PORTION * w->size;
    mmebm_status status = MMEBM_OK;
    double *average = malloc(numbers * sizeof *average);
    float *memory = malloc(2 * numbers * sizeof *memory);
    tuples x;
    if (!average || !memory || tuples_create(&x, PORTION)) {
        free(average);
        free(memory);
        return failed("no memory to encode tuples");
    }
    for (uint32_t first = 0; first < count && status == MMEBM_OK; first += PORTION) {
        tuples_use(&x, count - first < PORTION ? count - first : PORTION);
        tuples_paint(&x, set, NULL, first);
        status = measure_portion(w, sampler, &x, memory, average);
    }
    tuples_free(&x);
    free(average);
    free(memory);
    end_moments(w);
    return status == MMEBM_OK ? 0 : library_failed(w->context, status, "measuring the latents' moments");
}

/* r <- its Cholesky factor; inverse <- of that */
static int factorise(whitening *w)
{
    const uint32_t size = w->size;
    double *r = w->r, *inverse = w->inverse;
    for (uint32_t i = 0; i < size; ++i) {
        for (uint32_t j = 0; j <= i; ++j) {
            double sum = r[i * size + j];
            for (uint32_t k = 0; k < j; ++k) sum -= r[i * size + k] * r[j * size + k];
            if (i == j && !(sum > 0 && isfinite(sum))) return failed("the latents' covariance has no inverse");
            r[i * size + j] = i == j ? sqrt(sum) : sum / r[j * size + j];
        }
    }
    for (uint32_t j = 0; j < size; ++j) {
        for (uint32_t i = j; i < size; ++i) {
            double sum = i == j;
            for (uint32_t k = j; k < i; ++k) sum -= r[i * size + k] * inverse[k * size + j];
            inverse[i * size + j] = sum / r[i * size + i];
        }
    }
    return 0;
}

/* trace(T^-1 S), from the inverse of T's factor */
static double shared_trace(const whitening *w)
{
    const uint32_t size = w->size;
    double trace = 0;
    for (uint32_t i = 0; i < size; ++i) {
        const double *row = w->inverse + (size_t)i * size;
        for (uint32_t j = 0; j <= i; ++j)
            for (uint32_t k = 0; k <= j; ++k) trace += (j == k ? 1 : 2) * row[j] * row[k] * w->shared[j * size + k];
    }
    return trace;
}

/* r <- R, inverse <- R^-1 */
static int choose_names(whitening *w)
{
    if (factorise(w)) return -1;
    const double gain = w->size / shared_trace(w);
    for (size_t k = 0; k < (size_t)w->size * w->size; ++k) w->r[k] = gain * w->shared[k];
    return factorise(w);
}

/* ---- layers */

/* A linear layer's weight [out, in] and bias [out], in one block of memory. */
typedef struct linear {
    char weight_name[64], bias_name[64];
    int64_t out, in, shape[2]; /* shape: out, in as the library wants them */
    float *weight, *bias;
    mmebm_view weight_view, bias_view;
} linear;

static mmebm_status read_linear(const mmebm_model *model, linear *l)
{
    mmebm_status status;
    l->weight = malloc((size_t)(l->out * (l->in + 1)) * sizeof *l->weight);
    if (!l->weight) return MMEBM_E_MEMORY;
    l->bias = l->weight + l->out * l->in;
    status = mmebm_view_init(&l->weight_view, l->weight, 2, l->shape);
    if (status == MMEBM_OK) status = mmebm_view_init(&l->bias_view, l->bias, 1, l->shape);
    if (status == MMEBM_OK) status = mmebm_model_get_tensor(model, l->weight_name, &l->weight_view);
    return status == MMEBM_OK ? mmebm_model_get_tensor(model, l->bias_name, &l->bias_view) : status;
}

static mmebm_status write_linear(mmebm_model *model, linear *l)
{
    const mmebm_status status = mmebm_model_set_tensor(model, l->weight_name, &l->weight_view);
    return status == MMEBM_OK ? mmebm_model_set_tensor(model, l->bias_name, &l->bias_view) : status;
}

/* The first weight whose name begins with `prefix`, and its bias. */
static mmebm_status find_linear(const mmebm_model *model, const char *prefix, linear *l)
{
    const uint32_t count = mmebm_model_tensor_count(model);
    *l = (linear){.out = 0};
    for (uint32_t t = 0; t < count; ++t) {
        const char *name;
        uint32_t rank;
        int64_t shape[MMEBM_MAX_RANK];
        const mmebm_status status = mmebm_model_tensor_info(model, t, &name, &rank, shape);
        const char *end = status == MMEBM_OK ? strrchr(name, '.') : NULL;
        if (status != MMEBM_OK) return status;
        if (strncmp(name, prefix, strlen(prefix)) != 0 || !end || strcmp(end, ".weight") != 0 || rank != 2) continue;
        snprintf(l->weight_name, sizeof l->weight_name, "%s", name);
        snprintf(l->bias_name, sizeof l->bias_name, "%.*s.bias", (int)(end - name), name);
        l->out = l->shape[0] = shape[0];
        l->in = l->shape[1] = shape[1];
        return read_linear(model, l);
    }
    return MMEBM_E_NAME;
}

static void whiten_decoder(const whitening *w, linear *l)
{
    for (int64_t o = 0; o < l->out; ++o) {
        float *row = l->weight + o * l->in;
        for (uint32_t j = 0; j < w->size; ++j) {
            double sum = 0; /* column j of R has nothing above row j, so that row[j] is not needed afterwards */
            l->bias[o] += (float)(row[j] * w->c[j]);
            for (uint32_t i = j; i < w->size; ++i) sum += row[i] * w->r[i * w->size + j];
            row[j] = (float)sum;
        }
    }
}

static void whiten_mean(const whitening *w, linear *l)
{
    for (uint32_t i = w->size; i-- > 0;) { /* row i needs those above it as they were */
        float *row = l->weight + i * l->in;
        const double *inverse = w->inverse + (size_t)i * w->size;
        double shift = 0;
        for (uint32_t j = 0; j <= i; ++j) shift += inverse[j] * (l->bias[j] - w->c[j]);
        l->bias[i] = (float)shift;
        for (int64_t k = 0; k < l->in; ++k) {
            double sum = 0;
            for (uint32_t j = 0; j <= i; ++j) sum += inverse[j] * l->weight[j * l->in + k];
            row[k] = (float)sum;
        }
    }
}

/* raw with softplus(raw) + floor = scale */
static double raw_of(double scale, double floor)
{
    return log(expm1(fmax(scale - floor, 1e-6)));
}

static double slope_at(double raw)
{
    return 1 / (1 + exp(-raw));
}

static void whiten_scale(const whitening *w, const double *scale, linear *l)
{
    for (uint32_t i = 0; i < w->size; ++i) {
        const double *inverse = w->inverse + (size_t)i * w->size;
        double square = 0, before, after, gain;
        for (uint32_t j = 0; j <= i; ++j) square += inverse[j] * scale[j] * inverse[j] * scale[j];
        before = raw_of(scale[i], w->floor);
        after = raw_of(sqrt(square), w->floor);
        gain = sqrt(square) / scale[i] * slope_at(before) / slope_at(after);
        for (int64_t k = 0; k < l->in; ++k) l->weight[i * l->in + k] *= (float)gain;
        l->bias[i] = (float)(gain * (l->bias[i] - before) + after);
    }
}

enum { DECODER, MEAN, SCALE, KINDS };

static mmebm_status whiten_layer(const whitening *w, int modality, int kind)
{
    static const char *const prefix[KINDS] = {"decoder%d.", "encoder%d.head_mean.", "encoder%d.head_scale."};
    char name[64];
    linear l;
    mmebm_status status;
    snprintf(name, sizeof name, prefix[kind], modality);
    status = find_linear(w->model, name, &l);
    if (status == MMEBM_OK && (kind == DECODER ? l.in : l.out) != w->size) status = MMEBM_E_SHAPE;
    if (status == MMEBM_OK) {
        switch (kind) {
        case DECODER: whiten_decoder(w, &l); break;
        case MEAN: whiten_mean(w, &l); break;
        default: whiten_scale(w, w->scale[modality], &l); break;
        }
        status = write_linear(w->model, &l);
    }
    free(l.weight);
    return status;
}

int whiten_latents(mmebm_context *context, mmebm_model *model, mmebm_sampler *sampler, const polymnist_set *set)
{
    whitening w;
    mmebm_status status = MMEBM_OK;
    int bad = open_whitening(context, model, &w) || measure(&w, sampler, set) || choose_names(&w);
    for (int m = 0; m < MODALITIES && !bad; ++m)
        for (int kind = 0; kind < KINDS && status == MMEBM_OK; ++kind) status = whiten_layer(&w, m, kind);
    free(w.memory);
    return status == MMEBM_OK ? bad : library_failed(context, status, "whitening the latents");
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * mmebm_latent_mixture, a mixture of Gaussians with diagonal covariance over z: its check, draws from it, and the fit
 *     r_nk = w_k N(z_n; m_k, s_k^2) / sum_j w_j N(z_n; m_j, s_j^2)                      E step
 *     w_k = mean_n r_nk,  m_k = sum_n r_nk z_n / sum_n r_nk,  s_k^2 likewise about m_k   M step
 * from a k-means++ start. All on the host in double: it is done once after training. The fit keeps numbers of all
 * components side by side ([D, K]), so that the inner loops run over components and vectorise.
 */
#include "latent_mixture.h"

#include <math.h>
#include <string.h>

#include "struct_size.h"
#include "view.h"

enum { MAX_COMPONENTS = 4096, MAX_LATENT_SIZE = 65536, MAX_STEPS = 1 << 20 };
static const double LOG_2_PI = 1.8378770664093454836;

/* ---- check */

/* Everything but the arrays' values. */
static mmebm_status read_mixture(mmebm_context *context, const char *what, const mmebm_latent_mixture *given,
                                 mmebm_latent_mixture *mixture)
{
    MMEBM_TRY(mmebm__struct_read(context, what, given, mixture, sizeof *mixture, sizeof *mixture));
    MMEBM_TRY(mmebm__reserved_check(context, what, mixture->reserved));
    if (mixture->components < 1 || mixture->components > MAX_COMPONENTS)
        return mmebm__fail(context, MMEBM_E_ARGUMENT, "%s has %u components, wanted 1 to %d", what,
                           (unsigned)mixture->components, MAX_COMPONENTS);
    if (mixture->latent_size < 1 || mixture->latent_size > MAX_LATENT_SIZE)
        return mmebm__fail(context, MMEBM_E_ARGUMENT, "%s has latent_size %u, wanted 1 to %d", what,
                           (unsigned)mixture->latent_size, MAX_LATENT_SIZE);
    if (mixture->weights && mixture->means && mixture->scales) return MMEBM_OK;
    return mmebm__fail(context, MMEBM_E_ARGUMENT, "%s: %s is NULL", what,
                       !mixture->weights ? "weights" : !mixture->means ? "means" : "scales");
}

mmebm_status mmebm__latent_mixture_check(mmebm_context *context, const char *what, const mmebm_latent_mixture *given,
                                         int64_t latent_size, mmebm_latent_mixture *mixture)
{
    MMEBM_TRY(read_mixture(context, what, given, mixture));
    if (mixture->latent_size != latent_size)
        return mmebm__fail(context, MMEBM_E_SHAPE, "%s has latent_size %u, the model has %lld", what,
                           (unsigned)mixture->latent_size, (long long)latent_size);
    double sum = 0.0;
    for (uint32_t k = 0; k < mixture->components; ++k) {
        if (!isfinite(mixture->weights[k]) || mixture->weights[k] < 0.0f)
            return mmebm__fail(context, MMEBM_E_ARGUMENT, "%s: weight %u is %g, wanted a finite number of at least 0",
                               what, (unsigned)k, (double)mixture->weights[k]);
        sum += mixture->weights[k];
    }
    if (fabs(sum - 1.0) > 1e-3)
        return mmebm__fail(context, MMEBM_E_ARGUMENT, "%s: the weights' sum is %g, wanted 1", what, sum);
    for (size_t e = 0; e < (size_t)mixture->components * mixture->latent_size; ++e) {
        if (!isfinite(mixture->means[e]) || !isfinite(mixture->scales[e]) || mixture->scales[e] <= 0.0f)
            return mmebm__fail(context, MMEBM_E_ARGUMENT,
                               "%s: component %u has mean %g and scale %g, wanted finite numbers, scales above 0", what,
                               (unsigned)(e / mixture->latent_size), (double)mixture->means[e],
                               (double)mixture->scales[e]);
    }
    return MMEBM_OK;
}

/* ---- draws */

/* The component whose part of (0, 1) holds u; the last that has any weight takes what rounding leaves over. */
static uint32_t component_of(const mmebm_latent_mixture *mixture, double u)
{
    double sum = 0.0, below = 0.0;
    for (uint32_t k = 0; k < mixture->components; ++k) sum += mixture->weights[k];
    uint32_t last = 0;
    for (uint32_t k = 0; k < mixture->components; ++k) {
        if (mixture->weights[k] <= 0.0f) continue;
        last = k;
        below += mixture->weights[k];
        if (u * sum < below) return k;
    }
    return last;
}

void mmebm__latent_mixture_draw(const mmebm_latent_mixture *mixture, uint64_t seed, uint64_t first_chain, int64_t rows,
                                float *z)
{
    const uint32_t size = mixture->latent_size;
    for (int64_t r = 0; r < rows; ++r, z += size) {
        const uint64_t chain = first_chain + (uint64_t)r;
        const uint32_t word = mmebm__random_block(seed, MMEBM_STREAM_COMPONENT, chain, 0, 0).word[0];
        const size_t at = (size_t)component_of(mixture, mmebm__uniform(word)) * size;
        float normal[4];
        for (uint32_t d = 0; d < size; ++d) {
            if (d % 4 == 0) mmebm__normals(mmebm__random_block(seed, MMEBM_STREAM_PRIOR, chain, 0, d / 4), normal);
            z[d] = mixture->means[at + d] + mixture->scales[at + d] * normal[d % 4];
        }
    }
}

/* ---- fit */

typedef struct fit {
    mmebm_context *context;
    int64_t n;
    uint32_t size, components;
    double floor;
    float *z;         /* [n, D] */
    double *distance; /* [n]: start only, squared, to the nearest centre so far */
    double *mean, *variance, *precision;      /* [D, K] */
    double *weight, *constant, *share;        /* [K]; share: a row's r_nk */
    double *count, *first_moment, *second_moment; /* [K], [D, K] twice: of the M step, about the old mean */
    double *memory; /* all the doubles */
    size_t memory_count;
} fit;

static mmebm_status open_fit(fit *f)
{
    const size_t k = f->components, kd = k * f->size, n = (size_t)f->n;
    f->memory_count = n + 5 * kd + 4 * k;
    f->z = mmebm__allocate(f->context, n * f->size * sizeof(float));
    f->memory = mmebm__allocate(f->context, f->memory_count * sizeof(double));
    if (!f->z || !f->memory) return MMEBM_E_MEMORY;
    double *next = f->memory;
    double **const large[] = {&f->mean, &f->variance, &f->precision, &f->first_moment, &f->second_moment};
    double **const small[] = {&f->weight, &f->constant, &f->share, &f->count};
    f->distance = next;
    next += n;
    for (size_t i = 0; i < 5; ++i, next += kd) *large[i] = next;
    for (size_t i = 0; i < 4; ++i, next += k) *small[i] = next;
    return MMEBM_OK;
}

static void close_fit(fit *f)
{
    mmebm__free(f->context, f->z, (size_t)f->n * f->size * sizeof(float));
    mmebm__free(f->context, f->memory, f->memory_count * sizeof(double));
}

static double start_uniform(uint64_t seed, uint32_t k)
{
    const mmebm_philox_block random = mmebm__random_block(seed, MMEBM_STREAM_COMPONENT, k, 1, 0);
    return ((double)(((uint64_t)random.word[0] << 20) | (random.word[1] >> 12)) + 0.5) * 0x1p-52;
}

/* The row in whose part of the distances' sum u lies; any row with equal chance while all distances are 0. */
static int64_t far_row(const fit *f, double u)
{
    double sum = 0.0, below = 0.0;
    for (int64_t n = 0; n < f->n; ++n) sum += f->distance[n];
    if (!(sum > 0.0)) return (int64_t)(u * (double)f->n);
    for (int64_t n = 0; n < f->n; ++n) {
        below += f->distance[n];
        if (u * sum < below) return n;
    }
    return f->n - 1;
}

/* k-means++: each centre is a row, drawn by its squared distance to the centres before. */
static void start(fit *f, uint64_t seed)
{
    const uint32_t size = f->size, components = f->components;
    double spread = 0.0;
    memset(f->distance, 0, (size_t)f->n * sizeof *f->distance);
    for (uint32_t k = 0; k < components; ++k) {
        const float *centre = f->z + far_row(f, start_uniform(seed, k)) * size;
        for (uint32_t d = 0; d < size; ++d) f->mean[(size_t)d * components + k] = centre[d];
        for (int64_t n = 0; n < f->n; ++n) {
            double distance = 0.0;
            for (uint32_t d = 0; d < size; ++d) {
                const double step = (double)f->z[n * size + d] - centre[d];
                distance += step * step;
            }
            if (k == 0 || distance < f->distance[n]) f->distance[n] = distance;
        }
    }
    for (int64_t n = 0; n < f->n; ++n) spread += f->distance[n] / ((double)f->n * size);
    spread = fmax(spread, f->floor * f->floor);
    for (size_t e = 0; e < (size_t)size * components; ++e) f->variance[e] = spread;
    for (uint32_t k = 0; k < components; ++k) f->weight[k] = 1.0 / components;
}

static void prepare_step(fit *f)
{
    const size_t components = f->components, all = components * f->size;
    for (size_t k = 0; k < components; ++k)
        f->constant[k] = f->weight[k] > 0.0 ? log(f->weight[k]) - 0.5 * LOG_2_PI * f->size : -INFINITY;
    for (size_t e = 0; e < all; ++e) {
        f->precision[e] = 1.0 / f->variance[e];
        f->constant[e % components] -= 0.5 * log(f->variance[e]);
    }
    memset(f->count, 0, components * sizeof *f->count);
    memset(f->first_moment, 0, all * sizeof *f->first_moment);
    memset(f->second_moment, 0, all * sizeof *f->second_moment);
}

/* Leaves r_nk in share and returns the row's log density. */
static double share_row(fit *f, const float *z)
{
    const size_t components = f->components;
    double *share = f->share, most = -INFINITY, sum = 0.0;
    memcpy(share, f->constant, components * sizeof *share);
    for (size_t d = 0; d < f->size; ++d) {
        const double value = z[d], *mean = f->mean + d * components, *precision = f->precision + d * components;
        for (size_t k = 0; k < components; ++k)
            share[k] -= 0.5 * precision[k] * (value - mean[k]) * (value - mean[k]);
    }
    for (size_t k = 0; k < components; ++k) most = share[k] > most ? share[k] : most;
    for (size_t k = 0; k < components; ++k) {
        share[k] = exp(share[k] - most);
        sum += share[k];
    }
    for (size_t k = 0; k < components; ++k) share[k] /= sum;
    return most + log(sum);
}

static void add_row(fit *f, const float *z)
{
    const size_t components = f->components;
    for (size_t k = 0; k < components; ++k) f->count[k] += f->share[k];
    for (size_t d = 0; d < f->size; ++d) {
        const double value = z[d], *mean = f->mean + d * components;
        double *first = f->first_moment + d * components, *second = f->second_moment + d * components;
        for (size_t k = 0; k < components; ++k) {
            const double step = value - mean[k];
            first[k] += f->share[k] * step;
            second[k] += f->share[k] * step * step;
        }
    }
}

/* A component that lost every row keeps its place without weight. */
static void move_components(fit *f)
{
    const size_t components = f->components;
    for (size_t k = 0; k < components; ++k) f->weight[k] = f->count[k] / (double)f->n;
    for (size_t e = 0; e < components * f->size; ++e) {
        const double count = f->count[e % components];
        if (!(count > 1e-9)) continue;
        const double step = f->first_moment[e] / count;
        f->mean[e] += step;
        f->variance[e] = fmax(f->second_moment[e] / count - step * step, f->floor * f->floor);
    }
}

/* One E step over all rows; returns their mean log density under the mixture as it was. */
static double measure(fit *f)
{
    double density = 0.0;
    prepare_step(f);
    for (int64_t n = 0; n < f->n; ++n) {
        density += share_row(f, f->z + n * f->size);
        add_row(f, f->z + n * f->size);
    }
    return density / (double)f->n;
}

static double run(fit *f, const mmebm_latent_mixture_options *options)
{
    double density = measure(f);
    for (uint32_t step = 0; step < options->max_steps; ++step) {
        move_components(f);
        const double next = measure(f);
        const double gain = next - density;
        density = next;
        if (gain < (double)options->tolerance) break;
    }
    return density;
}

static void write_mixture(const fit *f, const mmebm_latent_mixture *mixture)
{
    for (size_t k = 0; k < f->components; ++k) {
        mixture->weights[k] = (float)f->weight[k];
        for (size_t d = 0; d < f->size; ++d) {
            const size_t at = d * f->components + k, to = k * f->size + d;
            mixture->means[to] = (float)f->mean[at];
            mixture->scales[to] = (float)sqrt(f->variance[at]);
        }
    }
}

static mmebm_status read_options(mmebm_context *context, const mmebm_latent_mixture_options *given,
                                 mmebm_latent_mixture_options *options)
{
    const char *what = "latent_mixture_fit: options";
    MMEBM_TRY(mmebm_latent_mixture_options_init(options));
    if (given) MMEBM_TRY(mmebm__struct_read(context, what, given, options, sizeof *options, sizeof *options));
    if (options->max_steps > MAX_STEPS)
        return mmebm__fail(context, MMEBM_E_ARGUMENT, "%s: max_steps is %u, wanted at most %d", what,
                           (unsigned)options->max_steps, MAX_STEPS);
    if (!isfinite(options->tolerance) || options->tolerance < 0.0f)
        return mmebm__fail(context, MMEBM_E_ARGUMENT, "%s: tolerance is %g, wanted a finite number of at least 0", what,
                           (double)options->tolerance);
    if (isfinite(options->scale_floor) && options->scale_floor >= 1e-6f) return MMEBM_OK;
    return mmebm__fail(context, MMEBM_E_ARGUMENT, "%s: scale_floor is %g, wanted a finite number of at least 1e-6",
                       what, (double)options->scale_floor);
}

/* The rows on the host, all of them finite. */
static mmebm_status read_latents(fit *f, const mmebm_view *latents)
{
    const int64_t count = f->n * f->size;
    MMEBM_TRY(mmebm__view_to_host(f->context, latents, 0, count, f->z));
    for (int64_t e = 0; e < count; ++e) {
        if (!isfinite(f->z[e]))
            return mmebm__fail(f->context, MMEBM_E_ARGUMENT,
                               "latent_mixture_fit: view 'latents' holds %g at element %lld, wanted finite numbers",
                               (double)f->z[e], (long long)e);
    }
    return MMEBM_OK;
}

mmebm_status mmebm_latent_mixture_fit(mmebm_context *context, const mmebm_latent_mixture_options *given,
                                      const mmebm_view *latents, const mmebm_latent_mixture *target,
                                      double *mean_log_density)
{
    if (!context) return MMEBM_E_ARGUMENT;
    mmebm__clear_error(context);
    mmebm_latent_mixture_options options;
    mmebm_latent_mixture mixture;
    MMEBM_TRY(read_options(context, given, &options));
    MMEBM_TRY(read_mixture(context, "latent_mixture_fit: mixture", target, &mixture));
    fit f = {.context = context, .size = mixture.latent_size, .components = mixture.components,
             .floor = (double)options.scale_floor};
    const int64_t size = f.size;
    MMEBM_TRY(mmebm__view_check(context, "latent_mixture_fit: view 'latents'", latents, 1, &size, &f.n));
    if (f.n < mixture.components)
        return mmebm__fail(context, MMEBM_E_SHAPE,
                           "latent_mixture_fit: %lld latents, wanted at least one a component, %u", (long long)f.n,
                           (unsigned)mixture.components);
    mmebm_status status = open_fit(&f);
    if (status == MMEBM_OK) status = read_latents(&f, latents);
    if (status == MMEBM_OK) {
        start(&f, options.seed);
        const double density = run(&f, &options);
        if (mean_log_density) *mean_log_density = density;
        write_mixture(&f, &mixture);
    }
    close_fit(&f);
    return status;
}

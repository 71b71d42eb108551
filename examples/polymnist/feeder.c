/* SPDX-License-Identifier: Apache-2.0
 *
 * The batches of a training. Digits are paired, placed and ordered anew for every epoch: a fixed set of 10 000 tuples
 * is learnt by heart. An epoch's set is keyed by seed and epoch, so that step number and seed give the batch.
 */
#include "feeder.h"

#include <stdlib.h>

#include "message.h"
#include "random.h"

int feeder_open(feeder *f, const digit_set *digits, const photo *photos, uint64_t seed, uint32_t batch)
{
    *f = (feeder){.digits = digits, .photos = photos, .seed = seed, .epoch = UINT64_MAX};
    return tuples_create(&f->batch, batch);
}

void feeder_close(feeder *f)
{
    polymnist_free(&f->set);
    tuples_free(&f->batch);
    mmebm_sampler_destroy(&f->decoder);
    free(f->latents);
}

int feeder_decode(feeder *f, mmebm_context *context, mmebm_model *model, uint32_t precision, float guidance)
{
    mmebm_sampler_options o;
    mmebm_status status = mmebm_sampler_options_init(&o);
    o.capacity = f->batch.n;
    o.precision = precision;
    if (status == MMEBM_OK) status = mmebm_sampler_create(model, &o, &f->decoder);
    f->context = context;
    f->guidance = guidance;
    f->latent_size = mmebm_model_latent_size(model);
    f->latents = malloc((size_t)MODALITIES * f->batch.n * f->latent_size * sizeof *f->latents);
    if (!f->latents) return failed("no memory to decode batches");
    return status == MMEBM_OK ? 0 : library_failed(context, status, "preparing to decode batches");
}

static int decode_batch(feeder *f)
{
    const int64_t experts[3] = {MODALITIES, f->batch.n, f->latent_size}, one[2] = {f->batch.n, f->latent_size};
    mmebm_view averages, z;
    mmebm_status status = mmebm_view_init(&averages, f->latents, 3, experts); /* all experts' are the same */
    if (status == MMEBM_OK) status = mmebm_view_init(&z, f->latents, 2, one);
    if (status == MMEBM_OK)
        status = mmebm_sampler_encode_draw(f->decoder, 0, MMEBM_START_AVERAGE, 0, 0, f->batch.view, &averages);
    for (size_t i = 0; i < (size_t)f->batch.n * f->latent_size; ++i) f->latents[i] *= f->guidance;
    if (status == MMEBM_OK) status = mmebm_sampler_generate(f->decoder, &z, f->batch.view);
    return status == MMEBM_OK ? 0 : library_failed(f->context, status, "decoding a batch");
}

/* An epoch's last tuples, which fill no batch, are left out. */
int feeder_paint(feeder *f, uint64_t step)
{
    const uint64_t steps_of_epoch = f->digits->count / f->batch.n;
    const uint64_t epoch = step / steps_of_epoch;
    if (f->painted == step + 1) return 0;
    f->painted = 0;
    if (epoch != f->epoch) {
        polymnist_free(&f->set);
        if (polymnist_build(f->digits, f->photos, random_mix(~f->seed) + epoch, &f->set)) return -1;
        f->epoch = epoch;
    }
    tuples_paint(&f->batch, &f->set, NULL, (uint32_t)(step % steps_of_epoch) * f->batch.n);
    if (f->decoder && decode_batch(f)) return -1;
    f->painted = step + 1;
    return 0;
}

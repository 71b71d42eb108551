/* SPDX-License-Identifier: Apache-2.0
 *
 * The batches of a training. Digits are paired, placed and ordered anew for every epoch: a fixed set of 10 000 tuples
 * is learnt by heart. An epoch's set is keyed by seed and epoch, so that step number and seed give the batch.
 */
#include "feeder.h"

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
    f->painted = step + 1;
    return 0;
}

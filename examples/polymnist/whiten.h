/* SPDX-License-Identifier: Apache-2.0 */
#ifndef POLYMNIST_WHITEN_H
#define POLYMNIST_WHITEN_H

#include "tuples.h"

/* Renames the latents of a model of this program so that those of the set's tuples have mean 0 and covariance I, as
 * the prior has: training lets them grow past it, and draws from the prior then fall beside them. With z = R z' + c the
 * decoders' first layers and the encoders' last ones absorb R and c, so that every reconstruction stays as it was.
 * `sampler` is of `model`; the set should be one to train on. 0 or -1. */
int whiten_latents(mmebm_context *context, mmebm_model *model, mmebm_sampler *sampler, const polymnist_set *set);

#endif

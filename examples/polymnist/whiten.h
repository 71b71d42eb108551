/* SPDX-License-Identifier: Apache-2.0 */
#ifndef POLYMNIST_WHITEN_H
#define POLYMNIST_WHITEN_H

#include "tuples.h"

/* Renames the latents of a model of this program so that what its experts agree on, the average of their means for a
 * tuple, varies as the prior does: alike in all directions. Otherwise draws from the prior fall beside the latents of
 * real tuples, which training lets grow past it, or vary mostly in what a single picture shows. With z = R z' + c the
 * decoders' first layers and the encoders' last ones absorb R and c, so that every reconstruction stays as it was.
 * `sampler` is of `model`; the set should be one to train on. 0 or -1. */
int whiten_latents(mmebm_context *context, mmebm_model *model, mmebm_sampler *sampler, const polymnist_set *set);

#endif

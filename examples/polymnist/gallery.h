/* SPDX-License-Identifier: Apache-2.0 */
#ifndef POLYMNIST_GALLERY_H
#define POLYMNIST_GALLERY_H

#include "evaluate.h"

/* Draws with d and writes real.png, generated.png, revised.png, fitted.png (z from `fit`, a mixture fitted to latents),
 * given_one.png, given_three.png and chain.png to folder. 0 or -1. */
int gallery_write(const drawing *d, const mmebm_latent_mixture *fit, const polymnist_set *test, const char *folder);

#endif

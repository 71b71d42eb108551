/* SPDX-License-Identifier: Apache-2.0
 *
 * U scores pictures, whatever drew them: it may come from another training than decoders and encoders.
 */
#ifndef POLYMNIST_ENERGY_H
#define POLYMNIST_ENERGY_H

#include <mmebm.h>

/* Gives model the energy's weights of the model in the file, whose energy network must be the same. 0 or -1. */
int energy_take(mmebm_context *context, mmebm_model *model, const char *path);

#endif

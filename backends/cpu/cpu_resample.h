/* SPDX-License-Identifier: Apache-2.0
 *
 * A graph rewritten for tile registers (cpu_tiles.h), where no gradients by weights are wanted: a 3 x 3 convolution and
 * the mean of 2 x 2 results behind it become one operation, and so do the doubling of an image and the convolution
 * behind it. What stands between the two and does not look at neighbours, activations and 1 x 1 convolutions, moves in
 * front of the doubling.
 */
#ifndef MMEBM_CPU_RESAMPLE_H
#define MMEBM_CPU_RESAMPLE_H

#include "cpu_plan.h"

/* Replaces plan->spec.graph and makes plan->resample. */
mmebm_status mmebm__cpu_resample_graph(mmebm_plan *plan);

#endif /* MMEBM_CPU_RESAMPLE_H */

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef POLYMNIST_POLYMNIST_H
#define POLYMNIST_POLYMNIST_H

#include "idx.h"
#include "photo.h"

enum { MODALITIES = 5, CHANNELS = 3, PICTURE_VALUES = DIGIT_PIXELS * CHANNELS };

/* One picture of one modality: which handwritten digit lies on which part of the modality's photograph. */
typedef struct polymnist_picture {
    uint32_t digit; /* row of the digit set */
    uint16_t x, y;  /* of the crop's upper left corner */
} polymnist_picture;

/* Tuples of five pictures that show the same digit and share nothing else. Pixels are made when they are asked for:
 * 60 000 tuples would fill 2.8 GB as floats. */
typedef struct polymnist_set {
    uint32_t count;
    uint8_t *labels;             /* [count] */
    polymnist_picture *pictures; /* [count, 5] */
    const digit_set *digits;     /* the caller's, as are the photographs */
    const photo *photos;         /* 5 */
    float shade[2][256];         /* a photograph's byte as a value in [0, 1]: as it is, and inverted under ink */
} polymnist_set;

/* Pairs and places the digits by seed, and shuffles the tuples. 0 or -1. */
int polymnist_build(const digit_set *digits, const photo *photos, uint64_t seed, polymnist_set *set);
void polymnist_free(polymnist_set *set);

/* The picture of one tuple and modality: 28 x 28 x 3 floats in [0, 1], channels last. */
void polymnist_paint(const polymnist_set *set, uint32_t tuple, uint32_t modality, float *values);

#endif

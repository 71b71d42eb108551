/* SPDX-License-Identifier: Apache-2.0 */
#ifndef POLYMNIST_IDX_H
#define POLYMNIST_IDX_H

#include <stdint.h>

enum { DIGIT_SIZE = 28, DIGIT_PIXELS = DIGIT_SIZE * DIGIT_SIZE, DIGIT_CLASSES = 10 };

/* Handwritten digits with their labels, as MNIST's pairs of files hold them. */
typedef struct digit_set {
    uint32_t count;
    uint8_t *pixels; /* [count, 28, 28], 0 = background */
    uint8_t *labels; /* [count], 0..9 */
} digit_set;

/* Reads <folder>/<part>-images-idx3-ubyte.gz and <part>-labels-idx1-ubyte.gz, or the same without .gz. 0 or -1. */
int digit_set_read(const char *folder, const char *part, digit_set *set);
void digit_set_free(digit_set *set);

#endif

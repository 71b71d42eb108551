/* SPDX-License-Identifier: Apache-2.0 */
#ifndef POLYMNIST_PHOTO_H
#define POLYMNIST_PHOTO_H

#include <stdint.h>

typedef struct photo {
    uint32_t width, height;
    uint8_t *rgb; /* [height, width, 3] */
} photo;

/* Decodes a JPEG file to RGB. 0 or -1. */
int photo_read(const char *path, photo *picture);
void photo_free(photo *picture);

#endif

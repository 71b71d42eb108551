/* SPDX-License-Identifier: Apache-2.0 */
#ifndef POLYMNIST_PICTURE_H
#define POLYMNIST_PICTURE_H

#include <stdint.h>

/* A canvas of 8-bit RGB. Drawing outside of it is cut off. */
typedef struct picture {
    int width, height;
    uint8_t *rgb;
} picture;

typedef uint32_t colour; /* 0xrrggbb */

enum { WHITE = 0xffffff, BLACK = 0x000000, DARK_GREY = 0x404040, LIGHT_GREY = 0xdddddd, ORANGE = 0xff7f0e };

/* White. 0 or -1. */
int picture_create(picture *p, int width, int height);
void picture_free(picture *p);

void picture_rectangle(picture *p, int x, int y, int width, int height, colour fill);
void picture_line(picture *p, int x0, int y0, int x1, int y1, colour ink); /* two pixels thick */
/* One line of text with its upper left corner at x, y; letters are scale times 5 x 8 pixels. */
void picture_text(picture *p, int x, int y, int scale, colour ink, const char *text);
int picture_text_width(int scale, const char *text);
/* A 28 x 28 picture of floats, clamped to [0, 1], every pixel scale x scale large; magenta = a value is not finite. */
void picture_tile(picture *p, int x, int y, int scale, const float *values);

/* Writes a PNG file. 0 or -1. */
int picture_write(const picture *p, const char *path);

#endif

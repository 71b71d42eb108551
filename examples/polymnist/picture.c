/* SPDX-License-Identifier: Apache-2.0
 *
 * A canvas: rectangles, lines, text and tiles of PolyMNIST pictures.
 */
#include "picture.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "font.h"
#include "message.h"
#include "polymnist.h"

enum { MAGENTA = 0xff00ff };

int picture_create(picture *p, int width, int height)
{
    *p = (picture){width, height, malloc((size_t)3 * (size_t)width * (size_t)height)};
    if (!p->rgb) return failed("no memory for a picture of %d x %d pixels", width, height);
    memset(p->rgb, 0xff, (size_t)3 * (size_t)width * (size_t)height);
    return 0;
}

void picture_free(picture *p)
{
    free(p->rgb);
    *p = (picture){0};
}

static void put(picture *p, int x, int y, colour ink)
{
    uint8_t *pixel;
    if (x < 0 || y < 0 || x >= p->width || y >= p->height) return;
    pixel = p->rgb + 3 * ((size_t)y * (size_t)p->width + (size_t)x);
    pixel[0] = (uint8_t)(ink >> 16);
    pixel[1] = (uint8_t)(ink >> 8);
    pixel[2] = (uint8_t)ink;
}

void picture_rectangle(picture *p, int x, int y, int width, int height, colour fill)
{
    for (int j = 0; j < height; ++j)
        for (int i = 0; i < width; ++i) put(p, x + i, y + j, fill);
}

void picture_line(picture *p, int x0, int y0, int x1, int y1, colour ink)
{
    const int dx = x1 - x0, dy = y1 - y0;
    const int steps = abs(dx) > abs(dy) ? abs(dx) : abs(dy);
    for (int i = 0; i <= steps; ++i)
        picture_rectangle(p, x0 + (steps ? dx * i / steps : 0), y0 + (steps ? dy * i / steps : 0), 2, 2, ink);
}

void picture_text(picture *p, int x, int y, int scale, colour ink, const char *text)
{
    for (; *text; ++text, x += (FONT_WIDTH + 1) * scale)
        for (int j = 0; j < FONT_HEIGHT; ++j)
            for (int i = 0; i < FONT_WIDTH; ++i)
                if (font_pixel(*text, i, j)) picture_rectangle(p, x + i * scale, y + j * scale, scale, scale, ink);
}

int picture_text_width(int scale, const char *text)
{
    return (int)strlen(text) * (FONT_WIDTH + 1) * scale;
}

static uint32_t byte_of(float value)
{
    return value <= 0 ? 0 : value >= 1 ? 255 : (uint32_t)(255 * value + 0.5f);
}

void picture_tile(picture *p, int x, int y, int scale, const float *values)
{
    for (int j = 0; j < DIGIT_SIZE; ++j) {
        for (int i = 0; i < DIGIT_SIZE; ++i, values += CHANNELS) {
            const int finite = isfinite(values[0]) && isfinite(values[1]) && isfinite(values[2]);
            const colour ink = byte_of(values[0]) << 16 | byte_of(values[1]) << 8 | byte_of(values[2]);
            picture_rectangle(p, x + i * scale, y + j * scale, scale, scale, finite ? ink : MAGENTA);
        }
    }
}

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef POLYMNIST_FONT_H
#define POLYMNIST_FONT_H

enum { FONT_WIDTH = 5, FONT_HEIGHT = 8 };

/* True where letter has ink; x in 0..4, y in 0..7. Letters that are not there are blank. */
int font_pixel(char letter, int x, int y);

#endif

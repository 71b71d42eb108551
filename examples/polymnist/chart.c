/* SPDX-License-Identifier: Apache-2.0
 *
 * The loss curves as a picture: panels with axes, tick numbers and a legend, each panel with its own scale.
 */
#include "chart.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "message.h"
#include "picture.h"

enum { WIDTH = 960, LEFT = 110, RIGHT = 20, TOP = 50, PANEL = 210, GAP = 68, BOTTOM = 20, TICKS = 5 };

typedef struct panel {
    const char *title;
    int curve[2];
    int curves;
} panel;

static const panel panels[] = {
    {"generator: squared error of a tuple (sum over pixels, nats)", {CURVE_RECONSTRUCTION, CURVE_SYNTHESIS}, 2},
    {"inference: log q of latents", {CURVE_LOG_Q_DATA, CURVE_LOG_Q_REVISED}, 2},
    {"energy: mean U(real) - mean U(revised)", {CURVE_DE}, 1},
};
enum { PANELS = sizeof panels / sizeof *panels };

static const colour inks[2] = {0x1f77b4, ORANGE};

typedef struct scale {
    double low, high, step; /* step: between ticks */
} scale;

static int by_value(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* The next of 1, 2, 5, 10, 20, 50, ... */
static double round_step(double least)
{
    const double magnitude = pow(10, floor(log10(least)));
    return magnitude * (least <= magnitude ? 1 : least <= 2 * magnitude ? 2 : least <= 5 * magnitude ? 5 : 10);
}

/* From the 1st to the 99th percentile, so that the first steps do not flatten the rest, out to round numbers. */
static int fit(const history *h, const panel *p, scale *s)
{
    const uint32_t count = h->count * (uint32_t)p->curves;
    uint32_t finite = 0;
    float *sorted = malloc((count + 1) * sizeof *sorted);
    if (!sorted) return failed("no memory for the chart");
    for (int c = 0; c < p->curves; ++c)
        for (uint32_t i = 0; i < h->count; ++i)
            if (isfinite(h->point[i][p->curve[c]])) sorted[finite++] = h->point[i][p->curve[c]];
    qsort(sorted, finite, sizeof *sorted, by_value);
    s->low = finite ? sorted[finite / 100] : 0;
    s->high = finite ? sorted[finite - 1 - finite / 100] : 1;
    free(sorted);
    s->step = round_step(fmax(s->high - s->low, 1e-6 * (fabs(s->high) + 1)) / TICKS);
    s->low = s->step * floor(s->low / s->step);
    s->high = s->step * ceil(s->high / s->step);
    if (s->high <= s->low) s->high = s->low + s->step;
    return 0;
}

static int x_of(double step, double steps)
{
    return LEFT + (int)(step / steps * (WIDTH - LEFT - RIGHT));
}

static int y_of(const scale *s, int top, double value)
{
    const double height = (s->high - value) / (s->high - s->low);
    return top + (int)(fmin(fmax(height, 0), 1) * PANEL);
}

static void draw_axes(picture *p, const scale *s, int top, double steps)
{
    char text[32];
    const int ticks = (int)floor((s->high - s->low) / s->step + 0.5);
    for (int t = 0; t <= ticks; ++t) {
        const double value = s->low + t * s->step;
        const int y = y_of(s, top, value);
        picture_rectangle(p, LEFT, y, WIDTH - LEFT - RIGHT, 1, LIGHT_GREY);
        snprintf(text, sizeof text, "%.6g", fabs(value) < 1e-9 * s->step ? 0.0 : value);
        picture_text(p, LEFT - 8 - picture_text_width(2, text), y - 7, 2, DARK_GREY, text);
    }
    for (double step = 0; step <= steps; step += round_step(steps / TICKS)) {
        const int x = x_of(step, steps);
        const int half = snprintf(text, sizeof text, "%.0f", step) * picture_text_width(1, " ");
        picture_rectangle(p, x, top + PANEL, 1, 5, DARK_GREY);
        picture_text(p, x + half > WIDTH ? WIDTH - 2 * half : x - half, top + PANEL + 8, 2, DARK_GREY, text);
    }
    picture_rectangle(p, LEFT, top, 1, PANEL, DARK_GREY);
    picture_rectangle(p, LEFT, top + PANEL, WIDTH - LEFT - RIGHT, 1, DARK_GREY);
}

static void draw_curve(picture *p, const history *h, int curve, const scale *s, int top, colour ink)
{
    const double steps = (double)h->stride * h->count;
    for (uint32_t i = 1; i < h->count; ++i) {
        const float before = h->point[i - 1][curve], here = h->point[i][curve];
        if (!isfinite(before) || !isfinite(here)) continue;
        picture_line(p, x_of((double)(i * h->stride), steps), y_of(s, top, before),
                     x_of((double)((i + 1) * h->stride), steps), y_of(s, top, here), ink);
    }
}

static int draw_panel(picture *p, const history *h, const panel *of, int top)
{
    scale s = {0, 1, 1};
    int x = WIDTH - RIGHT;
    if (fit(h, of, &s)) return -1;
    draw_axes(p, &s, top, (double)h->stride * h->count);
    picture_text(p, LEFT, top - 22, 2, BLACK, of->title);
    for (int c = 0; c < of->curves; ++c) draw_curve(p, h, of->curve[c], &s, top, inks[c]);
    for (int c = of->curves - 1; c >= 0; --c) { /* legend, right to left */
        const char *name = curve_name[of->curve[c]];
        x -= picture_text_width(2, name);
        picture_text(p, x, top + 6, 2, BLACK, name);
        picture_rectangle(p, x - 30, top + 12, 24, 4, inks[c]);
        x -= 50;
    }
    return 0;
}

int chart_write(const history *h, const char *path)
{
    picture p;
    int bad;
    if (h->count < 2) return 0; /* no curve yet */
    if (picture_create(&p, WIDTH, TOP + PANELS * (PANEL + GAP) + BOTTOM)) return -1;
    bad = 0;
    for (int i = 0; i < PANELS && !bad; ++i) bad = draw_panel(&p, h, &panels[i], TOP + i * (PANEL + GAP));
    picture_text(&p, (WIDTH - picture_text_width(2, "training step")) / 2, TOP + PANELS * (PANEL + GAP) - 18, 2, BLACK,
                 "training step");
    if (!bad) bad = picture_write(&p, path);
    picture_free(&p);
    return bad;
}

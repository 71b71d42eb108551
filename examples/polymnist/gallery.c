/* SPDX-License-Identifier: Apache-2.0
 *
 * The pictures at the end. A tuple is a column of five tiles, one for each modality; a picture shows twenty of them in
 * two blocks, or the states of one chain from left to right.
 */
#include "gallery.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "message.h"
#include "picture.h"

enum {
    SCALE = 3,
    TILE = DIGIT_SIZE * SCALE,
    GAP = 4,      /* between tiles */
    FRAME = 3,    /* around a tile that was given */
    MARGIN = 16,
    TITLE = 24,   /* height of a line of text */
    COLUMNS = 10,
    BLOCKS = 2,
    SHOWN = COLUMNS * BLOCKS,
    CHAINS = 3,
    CHAIN_FRAMES = 11,
    CELL = TILE + 2 * FRAME + GAP,
    CHAIN_BLOCK = TITLE + MODALITIES * CELL + MARGIN
};

static int save(picture *p, const char *folder, const char *name)
{
    char path[1024];
    int bad;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    bad = picture_write(p, path);
    picture_free(p);
    return bad;
}

/* Column c of the block whose upper left corner is at x, y. given: bits of the modalities to frame. */
static void draw_column(picture *p, const tuples *t, uint32_t row, int column, int x, int y, uint64_t given)
{
    for (uint32_t m = 0; m < MODALITIES; ++m) {
        const int left = x + column * CELL, top = y + (int)m * CELL;
        if (given >> m & 1) picture_rectangle(p, left, top, TILE + 2 * FRAME, TILE + 2 * FRAME, ORANGE);
        picture_tile(p, left + FRAME, top + FRAME, SCALE, tuples_at(t, m, row));
    }
}

/* Twenty tuples; given[i] as above, NULL = none. */
static int write_grid(const tuples *t, const uint64_t *given, const char *title, const char *folder, const char *name)
{
    const int block = MODALITIES * CELL + MARGIN;
    picture p;
    if (picture_create(&p, 2 * MARGIN + COLUMNS * CELL, 2 * MARGIN + TITLE + BLOCKS * block)) return -1;
    picture_text(&p, MARGIN, MARGIN, 2, BLACK, title);
    for (int i = 0; i < SHOWN; ++i)
        draw_column(&p, t, (uint32_t)i, i % COLUMNS, MARGIN, MARGIN + TITLE + i / COLUMNS * block,
                    given ? given[i] : 0);
    return save(&p, folder, name);
}

/* Test tuples 0, 1, ..., 9, 0, 1, ... in the order of their digits, the first of each that the set holds. */
static void choose_rows(const polymnist_set *test, uint32_t rows[SHOWN])
{
    for (uint32_t i = 0; i < SHOWN; ++i) {
        uint32_t found = 0, row = 0;
        while (row + 1 < test->count) { /* the (i / 10)-th tuple of digit i % 10; the last row if there are too few */
            if (test->labels[row] == i % COLUMNS && found++ == i / COLUMNS) break;
            ++row;
        }
        rows[i] = row;
    }
}

/* Which modalities column i has: `count` of them, another choice in each column. */
static uint64_t given_in_column(uint32_t i, uint32_t count)
{
    uint64_t mask = 0;
    for (uint32_t k = 0; k < count; ++k) mask |= UINT64_C(1) << (i + 2 * k) % MODALITIES;
    return mask;
}

static int write_given(const drawing *d, const tuples *real, tuples *drawn, uint32_t count, const char *title,
                       const char *folder, const char *name)
{
    uint64_t given[SHOWN];
    tuples all;
    int bad = 0;
    if (tuples_create(&all, SHOWN)) return -1;
    for (uint32_t kind = 0; kind < MODALITIES && !bad; ++kind) { /* all columns of one kind by one call */
        tuples_copy(drawn, real);
        bad = draw_given(d, given_in_column(kind, count), NULL, 0, drawn);
        for (uint32_t i = kind; i < SHOWN && !bad; i += MODALITIES) {
            given[i] = given_in_column(i, count);
            for (uint32_t m = 0; m < MODALITIES; ++m)
                memcpy(tuples_at(&all, m, i), tuples_at(drawn, m, i), PICTURE_VALUES * sizeof(float));
        }
    }
    if (!bad) bad = write_grid(&all, given, title, folder, name);
    tuples_free(&all);
    return bad;
}

/* ---- one chain from start to end */

static int stride_of(const mmebm_langevin_options *chain)
{
    const int stride = (int)((chain->n_steps + CHAIN_FRAMES - 2) / (CHAIN_FRAMES - 1));
    return stride ? stride : 1;
}

/* From far away MALA's whole drift overshoots, and nothing would be accepted for hundreds of steps. */
static const float FAR_STEP = 0.13f, FAR_CLIP = 0.2f;

/* A chain from z = 0, decoded state by state: langevin_z where all five modalities of tuple 0 of `real` are given,
 * langevin_prior where that is NULL. */
static int run_latents(const drawing *d, mmebm_langevin_options chain, const tuples *real, tuples *frames)
{
    mmebm_chain_record record;
    mmebm_view x[MODALITIES], z, trajectory;
    const uint32_t latent_size = d->latent_size;
    const int64_t one[2] = {1, latent_size};
    int64_t many[3] = {0, 1, latent_size};
    float *start = calloc(latent_size, sizeof *start), *path;
    mmebm_status status = mmebm_chain_record_init(&record);
    chain.trajectory_stride = (uint32_t)stride_of(&chain);
    many[0] = chain.n_steps / chain.trajectory_stride + 1;
    path = calloc((size_t)many[0] * latent_size, sizeof *path);
    if (real) memcpy(x, real->view, sizeof x);
    for (int m = 0; real && m < MODALITIES; ++m) x[m].shape[0] = 1;
    tuples_use(frames, (uint32_t)many[0]);
    if (start && path) {
        if (status == MMEBM_OK) status = mmebm_view_init(&z, start, 2, one);
        if (status == MMEBM_OK) status = mmebm_view_init(&trajectory, path, 3, many);
        record.trajectory = &trajectory;
        if (status == MMEBM_OK)
            status = real ? mmebm_sampler_langevin_z(d->sampler, &chain, x, &z, &record)
                          : mmebm_sampler_langevin_prior(d->sampler, &chain, &z, &record);
        many[1] = latent_size; /* the frames as so many latents */
        if (status == MMEBM_OK) status = mmebm_view_init(&z, path, 2, many);
        if (status == MMEBM_OK) status = mmebm_sampler_generate(d->sampler, &z, frames->view);
    }
    free(start);
    free(path);
    return status == MMEBM_OK ? 0 : library_failed(d->context, status, "following a chain of latents");
}

/* langevin_x from a generator sample. */
static int run_chain_x(const drawing *d, tuples *frames)
{
    mmebm_langevin_options chain = d->chain_x;
    mmebm_chain_record record;
    mmebm_view trajectory[MODALITIES];
    tuples start;
    mmebm_status status = mmebm_chain_record_init(&record);
    int bad = tuples_create(&start, 1);
    if (bad) return bad;
    chain.trajectory_stride = (uint32_t)stride_of(&chain);
    tuples_use(frames, chain.n_steps / chain.trajectory_stride + 1);
    for (int m = 0; m < MODALITIES && status == MMEBM_OK; ++m) {
        const int64_t shape[5] = {frames->n, 1, DIGIT_SIZE, DIGIT_SIZE, CHANNELS};
        status = mmebm_view_init(&trajectory[m], frames->x[m], 5, shape);
    }
    record.trajectory = trajectory;
    bad = draw_samples(d, PLAIN, 0, &start);
    if (!bad && status == MMEBM_OK) status = mmebm_sampler_langevin_x(d->sampler, &chain, start.view, &record);
    tuples_free(&start);
    if (bad) return bad;
    return status == MMEBM_OK ? 0 : library_failed(d->context, status, "following langevin_x");
}

/* The states of a chain, in block number `place` of the picture. */
static void draw_frames(picture *p, const tuples *frames, int place, const char *what,
                        const mmebm_langevin_options *chain)
{
    const int top = MARGIN + place * CHAIN_BLOCK;
    char title[128];
    snprintf(title, sizeof title, "%s, %u steps, %d to a frame", what, chain->n_steps, stride_of(chain));
    picture_text(p, MARGIN, top, 2, BLACK, title);
    for (uint32_t i = 0; i < frames->n; ++i)
        draw_column(p, frames, i, (int)i, 2 * MARGIN + CELL, top + TITLE, 0);
}

static int write_chain(const drawing *d, const tuples *real, const char *folder)
{
    mmebm_langevin_options far = d->chain_z;
    tuples frames;
    picture p = {0};
    int bad = tuples_create(&frames, CHAIN_FRAMES);
    if (bad) return -1;
    far.drift_norm_clip = FAR_CLIP;
    far.step_size = far.noise_scale = FAR_STEP;
    bad = picture_create(&p, 2 * MARGIN + (CHAIN_FRAMES + 1) * CELL + MARGIN, 2 * MARGIN + CHAINS * CHAIN_BLOCK) ||
          run_latents(d, far, real, &frames);
    if (!bad) {
        draw_frames(&p, &frames, 0, "langevin_z: the framed tuple given, z from 0, decoded", &far);
        draw_column(&p, real, 0, 0, MARGIN, MARGIN + TITLE, (UINT64_C(1) << MODALITIES) - 1);
        bad = run_latents(d, d->chain_prior, NULL, &frames);
    }
    if (!bad) {
        draw_frames(&p, &frames, 1, "langevin_prior: nothing given, z from 0, decoded", &d->chain_prior);
        bad = run_chain_x(d, &frames);
    }
    if (!bad) {
        draw_frames(&p, &frames, 2, "langevin_x: from a generator sample", &d->chain_x);
        bad = save(&p, folder, "chain.png");
    }
    picture_free(&p);
    tuples_free(&frames);
    return bad;
}

int gallery_write(const drawing *d, const mmebm_latent_mixture *fit, const polymnist_set *test, const char *folder)
{
    drawing fitted = *d;
    uint32_t rows[SHOWN];
    tuples real, drawn;
    int bad;
    if (tuples_create(&real, SHOWN)) return -1;
    if (tuples_create(&drawn, SHOWN)) {
        tuples_free(&real);
        return -1;
    }
    fitted.prior = fit;
    choose_rows(test, rows);
    tuples_paint(&real, test, rows, 0);
    bad = write_grid(&real, NULL, "real tuples: each column one digit in five modalities", folder, "real.png") ||
          draw_samples(d, PLAIN, 0, &drawn) ||
          write_grid(&drawn, NULL, "generator samples: z from the prior", folder, "generated.png") ||
          draw_samples(d, REVISED, 0, &drawn) ||
          write_grid(&drawn, NULL, "the same samples revised by langevin_x", folder, "revised.png") ||
          draw_samples(d, TILTED, 0, &drawn) ||
          write_grid(&drawn, NULL, "their z tilted by the energy: langevin_prior", folder, "tilted.png") ||
          draw_samples(&fitted, PLAIN, 0, &drawn) ||
          write_grid(&drawn, NULL, "generator samples: z from a fitted mixture", folder, "fitted.png") ||
          write_given(d, &real, &drawn, 1, "filled in from one given (framed)", folder, "given_one.png") ||
          write_given(d, &real, &drawn, 3, "filled in from three given (framed)", folder, "given_three.png") ||
          write_chain(d, &real, folder);
    tuples_free(&real);
    tuples_free(&drawn);
    return bad ? -1 : 0;
}

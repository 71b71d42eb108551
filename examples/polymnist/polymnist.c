/* SPDX-License-Identifier: Apache-2.0
 *
 * PolyMNIST, rebuilt by the recipe of its authors from MNIST and one photograph for each modality:
 *   for each digit class and modality a random permutation of that class's images, so that tuple i of a class pairs
 *   the i-th image of every modality's permutation; under each image a random 28 x 28 crop of the modality's
 *   photograph; where the image is brighter than 128 the photograph's colours are inverted.
 * Built class after class, the set would begin with zeros only, so the tuples are shuffled at the end.
 */
#include "polymnist.h"

#include <stdlib.h>
#include <string.h>

#include "message.h"
#include "random.h"

enum { INK = 128 }; /* the recipe's threshold */

/* Numbers of the random streams, so that no two uses share one. */
enum { STREAM_MODALITY = 0 /* 0..4 */, STREAM_SHUFFLE = 100 };

/* Rows of each class one after the other; first[c] .. first[c + 1] - 1 are class c. */
static void sort_by_class(const digit_set *digits, uint32_t *rows, uint32_t first[DIGIT_CLASSES + 1])
{
    uint32_t next[DIGIT_CLASSES];
    memset(first, 0, (DIGIT_CLASSES + 1) * sizeof *first);
    for (uint32_t i = 0; i < digits->count; ++i) ++first[digits->labels[i] + 1];
    for (int c = 0; c < DIGIT_CLASSES; ++c) {
        first[c + 1] += first[c];
        next[c] = first[c];
    }
    for (uint32_t i = 0; i < digits->count; ++i) rows[next[digits->labels[i]]++] = i;
}

/* order: the place of the n-th tuple, in class order, within the shuffled set */
static void place_modality(polymnist_set *set, uint32_t modality, uint64_t seed, uint32_t *rows, const uint32_t *first,
                           const uint32_t *order)
{
    const photo *under = &set->photos[modality];
    random_stream random = random_start(seed, STREAM_MODALITY + modality);
    for (int c = 0; c < DIGIT_CLASSES; ++c) {
        random_shuffle(&random, rows + first[c], first[c + 1] - first[c]);
        for (uint32_t i = first[c]; i < first[c + 1]; ++i) {
            polymnist_picture *picture = &set->pictures[(size_t)order[i] * MODALITIES + modality];
            picture->digit = rows[i];
            picture->x = (uint16_t)random_below(&random, under->width - DIGIT_SIZE);
            picture->y = (uint16_t)random_below(&random, under->height - DIGIT_SIZE);
            set->labels[order[i]] = (uint8_t)c;
        }
    }
}

static int check(const digit_set *digits, const photo *photos)
{
    uint32_t seen = 0; /* digits, as bits */
    for (uint32_t m = 0; m < MODALITIES; ++m)
        if (photos[m].width <= DIGIT_SIZE || photos[m].height <= DIGIT_SIZE)
            return failed("photograph %u is %u x %u pixels; it must be larger than 28 x 28", m, photos[m].width,
                          photos[m].height);
    for (uint32_t i = 0; i < digits->count; ++i) seen |= UINT32_C(1) << digits->labels[i];
    return seen == (UINT32_C(1) << DIGIT_CLASSES) - 1 ? 0 : failed("the MNIST files do not hold all ten digits");
}

int polymnist_build(const digit_set *digits, const photo *photos, uint64_t seed, polymnist_set *set)
{
    const uint32_t count = digits->count;
    uint32_t first[DIGIT_CLASSES + 1];
    uint32_t *rows = malloc(count * sizeof *rows), *order = malloc(count * sizeof *order);
    random_stream random = random_start(seed, STREAM_SHUFFLE);
    int result = -1;
    *set = (polymnist_set){.count = count, .digits = digits, .photos = photos};
    for (int byte = 0; byte < 256; ++byte) set->shade[0][byte] = set->shade[1][255 - byte] = (float)byte / 255.0f;
    set->labels = malloc(count);
    set->pictures = calloc((size_t)count * MODALITIES, sizeof *set->pictures);
    if (!rows || !order || !set->labels || !set->pictures) {
        failed("no memory for %u tuples", count);
        goto done;
    }
    if (check(digits, photos)) goto done;
    for (uint32_t i = 0; i < count; ++i) order[i] = i;
    random_shuffle(&random, order, count);
    for (uint32_t m = 0; m < MODALITIES; ++m) {
        sort_by_class(digits, rows, first);
        place_modality(set, m, seed, rows, first, order);
    }
    result = 0;
done:
    free(rows);
    free(order);
    if (result) polymnist_free(set);
    return result;
}

void polymnist_free(polymnist_set *set)
{
    free(set->labels);
    free(set->pictures);
    *set = (polymnist_set){0};
}

/* Tables, since a training paints millions of values a second: one look-up instead of a branch and a division. */
void polymnist_paint(const polymnist_set *set, uint32_t tuple, uint32_t modality, float *values)
{
    const polymnist_picture *picture = &set->pictures[(size_t)tuple * MODALITIES + modality];
    const uint8_t *ink = set->digits->pixels + (size_t)picture->digit * DIGIT_PIXELS;
    const photo *under = &set->photos[modality];
    for (uint32_t y = 0; y < DIGIT_SIZE; ++y) {
        const uint8_t *rgb = under->rgb + CHANNELS * ((size_t)(picture->y + y) * under->width + picture->x);
        for (uint32_t x = 0; x < DIGIT_SIZE; ++x) {
            const float *shade = set->shade[ink[y * DIGIT_SIZE + x] > INK];
            for (uint32_t c = 0; c < CHANNELS; ++c) *values++ = shade[*rgb++];
        }
    }
}

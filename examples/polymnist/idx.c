/* SPDX-License-Identifier: Apache-2.0
 *
 * Reader of MNIST's IDX files, compressed or not (zlib reads both):
 *   images  u32 magic 2051, u32 n, u32 28, u32 28, n * 784 bytes     labels  u32 magic 2049, u32 n, n bytes (0..9)
 * with big-endian numbers. A file is believed only as far as its length bears it out.
 */
#include "idx.h"

#include <stdio.h>
#include <stdlib.h>
#include <zlib.h>

#include "message.h"

enum { MAGIC_IMAGES = 2051, MAGIC_LABELS = 2049, MOST_DIGITS = 1000000 };

static gzFile open_either(char path[1024], const char *folder, const char *name)
{
    gzFile file;
    snprintf(path, 1024, "%s/%s.gz", folder, name);
    file = gzopen(path, "rb");
    if (!file) {
        snprintf(path, 1024, "%s/%s", folder, name);
        file = gzopen(path, "rb");
    }
    if (!file) failed("there is no %s.gz in the folder %s", name, folder);
    return file;
}

static int read_header(gzFile file, const char *path, uint32_t *numbers, int count)
{
    for (int i = 0; i < count; ++i) {
        uint8_t b[4];
        if (gzread(file, b, 4) != 4) return failed("%s ends within its header", path);
        numbers[i] = (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
    }
    return 0;
}

/* The rest of the file, which must be exactly `size` bytes long. NULL on failure. */
static uint8_t *read_rest(gzFile file, const char *path, uint32_t size)
{
    uint8_t *bytes = malloc((size_t)size + 1);
    int got;
    if (!bytes) {
        failed("no memory for the %u bytes of %s", size, path);
        return NULL;
    }
    got = gzread(file, bytes, size + 1);
    if (got == (int)size) return bytes;
    failed("%s is damaged: its header promises %u bytes, %s", path, size,
           got < 0 ? "but it cannot be decompressed" : got < (int)size ? "it holds fewer" : "it holds more");
    free(bytes);
    return NULL;
}

/* wanted: magic number, then every dimension after the first; dimensions counts all. */
static uint8_t *read_file(const char *folder, const char *name, const uint32_t *wanted, int dimensions, uint32_t *count)
{
    char path[1024];
    uint32_t found[4], row_size = 1;
    uint8_t *bytes = NULL;
    gzFile file = open_either(path, folder, name);
    if (!file) return NULL;
    if (read_header(file, path, found, dimensions + 1)) goto done;
    if (found[0] != wanted[0]) {
        failed("%s is not the expected kind of IDX file: its magic number is %u, wanted %u", path, found[0], wanted[0]);
        goto done;
    }
    for (int i = 1; i < dimensions; ++i) {
        row_size *= wanted[i];
        if (found[i + 1] != wanted[i]) {
            failed("%s holds pictures of another size: %u, wanted %u", path, found[i + 1], wanted[i]);
            goto done;
        }
    }
    if (found[1] == 0 || found[1] > MOST_DIGITS) {
        failed("%s claims to hold %u digits; between 1 and %d are taken", path, found[1], MOST_DIGITS);
        goto done;
    }
    *count = found[1];
    bytes = read_rest(file, path, found[1] * row_size);
done:
    gzclose(file);
    return bytes;
}

int digit_set_read(const char *folder, const char *part, digit_set *set)
{
    static const uint32_t images[3] = {MAGIC_IMAGES, DIGIT_SIZE, DIGIT_SIZE}, labels[1] = {MAGIC_LABELS};
    char name[64];
    uint32_t label_count = 0;
    *set = (digit_set){0};
    snprintf(name, sizeof name, "%s-images-idx3-ubyte", part);
    set->pixels = read_file(folder, name, images, 3, &set->count);
    if (!set->pixels) return -1;
    snprintf(name, sizeof name, "%s-labels-idx1-ubyte", part);
    set->labels = read_file(folder, name, labels, 1, &label_count);
    if (!set->labels) goto fail;
    if (label_count != set->count) {
        failed("%s/%s: %u labels for %u pictures", folder, name, label_count, set->count);
        goto fail;
    }
    for (uint32_t i = 0; i < label_count; ++i) {
        if (set->labels[i] >= DIGIT_CLASSES) {
            failed("%s/%s: label %u is %u, wanted 0 to 9", folder, name, i, set->labels[i]);
            goto fail;
        }
    }
    return 0;
fail:
    digit_set_free(set);
    return -1;
}

void digit_set_free(digit_set *set)
{
    free(set->pixels);
    free(set->labels);
    *set = (digit_set){0};
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * A reader for the files of make_golden.py, on purpose not the library's own: it knows float32 tensors only and trusts
 * the file.
 */
#ifndef MMEBM_GOLDEN_VECTORS_H
#define MMEBM_GOLDEN_VECTORS_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct vectors {
    char *file;         /* all of it */
    char *header;       /* the JSON text, ended by 0 */
    const float *body;
} vectors;

static int vectors_open(vectors *v, const char *path)
{
    memset(v, 0, sizeof *v);
    FILE *stream = fopen(path, "rb");
    if (!stream) return 0;
    uint64_t length = 0;
    fseek(stream, 0, SEEK_END);
    const long size = ftell(stream);
    rewind(stream);
    v->file = malloc((size_t)size);
    const int complete = fread(v->file, 1, (size_t)size, stream) == (size_t)size;
    fclose(stream);
    memcpy(&length, v->file, sizeof length);
    v->header = calloc(length + 1, 1);
    memcpy(v->header, v->file + 8, length);
    v->body = (const float *)(const void *)(v->file + 8 + length); /* the header is padded to 8 bytes */
    return complete;
}

static void vectors_close(vectors *v)
{
    free(v->file);
    free(v->header);
}

/* The values of a tensor and their number; NULL if there is none of that name. */
static const float *vectors_find(const vectors *v, const char *name, size_t *count)
{
    char key[192];
    snprintf(key, sizeof key, "\"%s\":{", name);
    const char *entry = strstr(v->header, key);
    const char *offsets = entry ? strstr(entry, "\"data_offsets\":[") : NULL;
    unsigned long begin, end;
    if (!offsets || sscanf(offsets, "\"data_offsets\":[%lu,%lu]", &begin, &end) != 2) return NULL;
    *count = (end - begin) / sizeof(float);
    return v->body + begin / sizeof(float);
}

#endif /* MMEBM_GOLDEN_VECTORS_H */

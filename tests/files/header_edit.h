/* SPDX-License-Identifier: Apache-2.0
 *
 * Changes one metadata value of a file and makes its checksum right again: files that only their author could have
 * damaged.
 */
#ifndef MMEBM_HEADER_EDIT_H
#define MMEBM_HEADER_EDIT_H

#include "file_support.h"
#include "stored_tensor.h"

enum { EDIT_ROOM = 1 << 18 };

/* A JSON string's inside between quotes, decoded; only \" and \\ occur in what is edited. Returns what follows it. */
static inline const char *edit_decode(const char *from, char *to)
{
    for (; *from != '"'; ++from) {
        if (*from == '\\') ++from;
        *to++ = *from;
    }
    *to = '\0';
    return from;
}

static inline char *edit_encode(const char *from, char *to)
{
    for (; *from; ++from) {
        if (*from == '"' || *from == '\\') *to++ = '\\';
        *to++ = *from;
    }
    return to;
}

/* Writes to `path` the file `source` with the first `found` in the value of `key` replaced by `wanted`. 0 if there is
 * none. */
static inline int write_edited(const char *path, file_bytes source, const char *key, const char *found,
                               const char *wanted)
{
    static char header[EDIT_ROOM], value[EDIT_ROOM], edited[EDIT_ROOM], quoted[128];
    const size_t length = source.data[0] | (size_t)source.data[1] << 8 | (size_t)source.data[2] << 16;
    const char *const text = (const char *)source.data + 8;
    uint32_t sum;
    snprintf(quoted, sizeof quoted, "\"%s\":\"", key);
    source.data[8 + length - 1] = '\0'; /* a space or the last brace: the text gets an end */
    const char *begin = strstr(text, quoted), *sum_at = strstr(text, "\"" MMEBM_METADATA_SUM_KEY "\":\"");
    if (!begin || !sum_at || length > EDIT_ROOM / 2) return 0;
    begin += strlen(quoted);
    sum_at += strlen(MMEBM_METADATA_SUM_KEY) + 4;
    const char *const end = edit_decode(begin, value);
    const char *const place = strstr(value, found);
    if (!place) return 0;
    snprintf(edited, sizeof edited, "%.*s%s%s", (int)(place - value), value, wanted, place + strlen(found));
    memcpy(header, text, (size_t)(begin - text));
    char *to = edit_encode(edited, header + (begin - text));
    char *const sum_to = to + (sum_at - end); /* the checksum stands behind all other metadata */
    strcpy(to, end);
    if (sscanf(sum_at, "%8x", &sum) != 1) return 0;
    sum += mmebm__metadata_crc(key, edited) - mmebm__metadata_crc(key, value);
    snprintf(quoted, sizeof quoted, "%08x", sum);
    memcpy(sum_to, quoted, MMEBM_CRC_DIGITS);
    for (to += strlen(to); to[-1] == ' '; --to) continue;
    if (to[-2] != '}' || to[-1] != '}') *to++ = '}'; /* the brace that made room for the end */
    *to = '\0';
    return write_container(path, header, source.data + 8 + length, source.size - 8 - length);
}

#endif /* MMEBM_HEADER_EDIT_H */

/* SPDX-License-Identifier: Apache-2.0
 *
 * Reading of the container (safetensors.h): header, checksums, streaming of tensor data.
 *
 * Checks that one reading makes, in this order: length field, JSON, kinds and caps, names unique, dtype known, size of
 * each tensor = elements times bytes, data section covered without overlap or hole, size of the file, a checksum for
 * each tensor, checksum of the metadata; then, with the data, the tensors' checksums and the end of the file. Only
 * after the header's checks passed does anybody allocate memory for data.
 */
#include "safetensors.h"

#include <stdio.h>
#include <string.h>
#include <zlib.h>

#include "file_stream.h"
#include "json.h"

enum { LENGTH_BYTES = 8 };

static const char metadata_key[] = "__metadata__";

struct mmebm_safetensors {
    mmebm_context *context;
    const char *path;
    char what[256]; /* of the header, in sentences */
    mmebm_file_reader *reader;
    char *header, *strings; /* strings: names, keys and values, decoded */
    size_t header_size, strings_used;
    mmebm_stored_tensor *tensors;
    mmebm_metadata *metadata;
    uint32_t tensor_room, tensor_count, metadata_room, metadata_count;
    uint32_t *order;        /* tensors by name, tensors by offset, metadata by key */
    uint64_t data_size;
};

static uint32_t get_u32(const unsigned char *bytes)
{
    return (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

/* ---- order: heap sort of indices, which needs no memory and has no bad case */

typedef int (*compare_fn)(const void *table, uint32_t a, uint32_t b);

static int compare_names(const void *table, uint32_t a, uint32_t b)
{
    const mmebm_stored_tensor *tensors = table;
    return strcmp(tensors[a].name, tensors[b].name);
}

static int compare_offsets(const void *table, uint32_t a, uint32_t b)
{
    const mmebm_stored_tensor *x = (const mmebm_stored_tensor *)table + a, *y = (const mmebm_stored_tensor *)table + b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

static int compare_keys(const void *table, uint32_t a, uint32_t b)
{
    const mmebm_metadata *metadata = table;
    return strcmp(metadata[a].key, metadata[b].key);
}

static void sift(uint32_t *order, uint32_t root, uint32_t count, compare_fn compare, const void *table)
{
    const uint32_t moved = order[root];
    for (uint32_t child; (child = 2 * root + 1) < count; root = child) {
        if (child + 1 < count && compare(table, order[child], order[child + 1]) < 0) ++child;
        if (compare(table, moved, order[child]) >= 0) break;
        order[root] = order[child];
    }
    order[root] = moved;
}

static void sort(uint32_t *order, uint32_t count, compare_fn compare, const void *table)
{
    for (uint32_t i = 0; i < count; ++i) order[i] = i;
    for (uint32_t i = count / 2; i-- > 0;) sift(order, i, count, compare, table);
    for (uint32_t i = count; i-- > 1;) {
        const uint32_t last = order[i];
        order[i] = order[0];
        order[0] = last;
        sift(order, 0, i, compare, table);
    }
}

static uint32_t *by_name(const mmebm_safetensors *file)
{
    return file->order;
}

static uint32_t *by_offset(const mmebm_safetensors *file)
{
    return file->order + file->tensor_room;
}

static uint32_t *by_key(const mmebm_safetensors *file)
{
    return file->order + 2 * (size_t)file->tensor_room;
}

/* ---- reading the header */

static mmebm_status damaged(const mmebm_safetensors *file, const char *what, const char *name)
{
    return mmebm__fail(file->context, MMEBM_E_FORMAT, "%s: %s '%s'", file->what, what, name);
}

/* Decodes a string node to file->strings, which has room: no string is longer decoded than written. */
static mmebm_status keep_string(mmebm_safetensors *file, const mmebm_json *json, uint32_t node, const char **kept)
{
    char *to = file->strings + file->strings_used;
    MMEBM_TRY(mmebm__json_string(json, node, to, file->header_size - file->strings_used));
    file->strings_used += strlen(to) + 1;
    *kept = to;
    return MMEBM_OK;
}

static mmebm_status read_metadata(mmebm_safetensors *file, const mmebm_json *json, uint32_t object)
{
    MMEBM_TRY(mmebm__json_expect(json, object, MMEBM_JSON_OBJECT));
    if (file->metadata) return mmebm__json_fail(json, object - 1, "each key once");
    if (json->nodes[object].children > MMEBM_FILE_MAX_METADATA)
        return mmebm__json_fail(json, object, "less metadata");
    file->metadata_room = json->nodes[object].children;
    file->metadata = mmebm__allocate(file->context, file->metadata_room * sizeof *file->metadata);
    if (!file->metadata) return MMEBM_E_MEMORY;
    for (uint32_t node = object + 1; file->metadata_count < file->metadata_room; node += 2) {
        mmebm_metadata *pair = &file->metadata[file->metadata_count];
        MMEBM_TRY(keep_string(file, json, node, &pair->key));
        MMEBM_TRY(keep_string(file, json, node + 1, &pair->value)); /* a string: the next key follows it */
        ++file->metadata_count;
    }
    return MMEBM_OK;
}

static mmebm_status read_dtype(const mmebm_safetensors *file, const mmebm_json *json, uint32_t node,
                               mmebm_stored_tensor *tensor)
{
    char name[16];
    MMEBM_TRY(mmebm__json_string(json, node, name, sizeof name));
    for (uint32_t d = 0; d < MMEBM_STORED_DTYPE_COUNT; ++d) {
        if (strcmp(name, mmebm__stored_dtype_name((mmebm_stored_dtype)d)) != 0) continue;
        tensor->dtype = (mmebm_stored_dtype)d;
        return MMEBM_OK;
    }
    return mmebm__fail(file->context, MMEBM_E_DTYPE, "%s: tensor '%s' has dtype '%s', wanted F32, BF16 or U8",
                       file->what, tensor->name, name);
}

static mmebm_status read_tensor(mmebm_safetensors *file, const mmebm_json *json, uint32_t key,
                                mmebm_stored_tensor *tensor)
{
    static const char *const keys[] = {"dtype", "shape", "data_offsets"};
    uint32_t values[3];
    MMEBM_TRY(keep_string(file, json, key, &tensor->name));
    if (strlen(tensor->name) > MMEBM_FILE_MAX_NAME) return mmebm__json_fail(json, key, "a shorter tensor name");
    MMEBM_TRY(mmebm__json_members(json, key + 1, 3, 0, keys, values));
    MMEBM_TRY(read_dtype(file, json, values[0], tensor));
    MMEBM_TRY(mmebm__json_integers(json, values[1], MMEBM_MAX_RANK, 0, INT64_MAX, &tensor->rank, tensor->shape));
    int64_t offsets[2];
    uint32_t offset_count;
    MMEBM_TRY(mmebm__json_integers(json, values[2], 2, 0, INT64_MAX, &offset_count, offsets));
    if (offset_count != 2) return mmebm__json_fail(json, values[2], "two offsets");
    tensor->begin = (uint64_t)offsets[0];
    tensor->end = (uint64_t)offsets[1];
    tensor->count = 1;
    size_t size;
    int fits = 1;
    for (uint32_t d = 0; d < tensor->rank; ++d)
        fits &= mmebm__checked_mul(tensor->count, (size_t)tensor->shape[d], &tensor->count);
    fits &= mmebm__checked_mul(tensor->count, mmebm__stored_dtype_size(tensor->dtype), &size);
    if (!fits || tensor->end < tensor->begin || tensor->end - tensor->begin != size)
        return damaged(file, "shape and offsets do not agree, tensor", tensor->name);
    return MMEBM_OK;
}

static mmebm_status read_entries(mmebm_safetensors *file, const mmebm_json *json)
{
    MMEBM_TRY(mmebm__json_expect(json, 0, MMEBM_JSON_OBJECT));
    if (json->nodes[0].children > MMEBM_FILE_MAX_TENSORS + 1)
        return mmebm__fail(file->context, MMEBM_E_FORMAT, "%s: %u tensors, at most %d are read", file->what,
                           json->nodes[0].children, MMEBM_FILE_MAX_TENSORS);
    file->tensor_room = json->nodes[0].children;
    file->tensors = mmebm__allocate(file->context, file->tensor_room * sizeof *file->tensors);
    if (!file->tensors) return MMEBM_E_MEMORY;
    for (uint32_t pair = 0, key = 1; pair < json->nodes[0].children; ++pair, key = json->nodes[key + 1].next) {
        char name[sizeof metadata_key];
        const uint32_t length = json->nodes[key].end - json->nodes[key].start;
        name[0] = '\0';
        if (length < sizeof name) MMEBM_TRY(mmebm__json_string(json, key, name, sizeof name));
        if (strcmp(name, metadata_key) == 0)
            MMEBM_TRY(read_metadata(file, json, key + 1));
        else
            MMEBM_TRY(read_tensor(file, json, key, &file->tensors[file->tensor_count++]));
    }
    return MMEBM_OK;
}

/* Names and keys unique; the data section covered from 0 to its end by one tensor after another. */
static mmebm_status check_order(mmebm_safetensors *file)
{
    file->order =
        mmebm__allocate(file->context, (2 * (size_t)file->tensor_room + file->metadata_room) * sizeof *file->order);
    if (!file->order) return MMEBM_E_MEMORY;
    sort(by_name(file), file->tensor_count, compare_names, file->tensors);
    sort(by_offset(file), file->tensor_count, compare_offsets, file->tensors);
    sort(by_key(file), file->metadata_count, compare_keys, file->metadata);
    for (uint32_t i = 1; i < file->metadata_count; ++i)
        if (compare_keys(file->metadata, by_key(file)[i - 1], by_key(file)[i]) == 0)
            return damaged(file, "there twice: the metadata key", file->metadata[by_key(file)[i]].key);
    for (uint32_t i = 1; i < file->tensor_count; ++i)
        if (compare_names(file->tensors, by_name(file)[i - 1], by_name(file)[i]) == 0)
            return damaged(file, "there twice: the tensor", file->tensors[by_name(file)[i]].name);
    for (uint32_t i = 0; i < file->tensor_count; ++i) {
        const mmebm_stored_tensor *tensor = &file->tensors[by_offset(file)[i]];
        if (tensor->begin != file->data_size)
            return damaged(file, tensor->begin < file->data_size ? "data overlaps, tensor" : "hole before the data of",
                           tensor->name);
        file->data_size = tensor->end;
    }
    return MMEBM_OK;
}

static mmebm_status parse_crc(const mmebm_safetensors *file, const char *key, uint32_t *crc)
{
    const char *text = "";
    MMEBM_TRY(mmebm__safetensors_metadata(file, key, &text));
    uint32_t value = 0;
    for (uint32_t i = 0; i < MMEBM_CRC_DIGITS; ++i) {
        static const char hexadecimal[] = "0123456789abcdef";
        const char *digit = text[i] ? strchr(hexadecimal, text[i]) : NULL;
        if (!digit) return damaged(file, "wanted 8 hexadecimal digits in the metadata", key);
        value = value << 4 | (uint32_t)(digit - hexadecimal);
    }
    if (text[MMEBM_CRC_DIGITS] != '\0') return damaged(file, "wanted 8 hexadecimal digits in the metadata", key);
    *crc = value;
    return MMEBM_OK;
}

static mmebm_status check_metadata(mmebm_safetensors *file)
{
    uint32_t stored, sum = 0;
    MMEBM_TRY(parse_crc(file, MMEBM_METADATA_SUM_KEY, &stored));
    for (uint32_t i = 0; i < file->metadata_count; ++i)
        if (strcmp(file->metadata[i].key, MMEBM_METADATA_SUM_KEY) != 0)
            sum += mmebm__metadata_crc(file->metadata[i].key, file->metadata[i].value);
    if (sum != stored)
        return mmebm__fail(file->context, MMEBM_E_FORMAT, "%s: the metadata is damaged: checksum %08x, stored %08x",
                           file->what, (unsigned)sum, (unsigned)stored);
    for (uint32_t t = 0; t < file->tensor_count; ++t) {
        char key[sizeof MMEBM_TENSOR_CRC_PREFIX + MMEBM_FILE_MAX_NAME];
        snprintf(key, sizeof key, "%s%s", MMEBM_TENSOR_CRC_PREFIX, file->tensors[t].name);
        MMEBM_TRY(parse_crc(file, key, &file->tensors[t].crc));
    }
    return MMEBM_OK;
}

/* The header's text to file->header. */
static mmebm_status read_text(mmebm_safetensors *file)
{
    unsigned char length_bytes[LENGTH_BYTES];
    int exact;
    const uint64_t bound = mmebm__reader_bound(file->reader, &exact);
    MMEBM_TRY(mmebm__reader_read(file->reader, length_bytes, sizeof length_bytes));
    const uint64_t length = get_u32(length_bytes) | (uint64_t)get_u32(length_bytes + 4) << 32;
    if (length < 2 || length > MMEBM_JSON_MAX_LENGTH || length > bound - LENGTH_BYTES)
        return mmebm__fail(file->context, MMEBM_E_FORMAT,
                           "'%s' is not a safetensors file: header of %llu bytes, wanted 2 to %d, inside the file",
                           file->path, (unsigned long long)length, MMEBM_JSON_MAX_LENGTH);
    file->header_size = (size_t)length;
    file->header = mmebm__allocate(file->context, file->header_size);
    file->strings = mmebm__allocate(file->context, file->header_size);
    if (!file->header || !file->strings) return MMEBM_E_MEMORY;
    return mmebm__reader_read(file->reader, file->header, file->header_size);
}

static mmebm_status check_size(const mmebm_safetensors *file)
{
    int exact;
    const uint64_t bound = mmebm__reader_bound(file->reader, &exact);
    const uint64_t room = bound - LENGTH_BYTES - file->header_size;
    if (file->data_size > room || (exact && file->data_size < room))
        return mmebm__fail(file->context, MMEBM_E_FORMAT,
                           "'%s': the header tells of %llu bytes of data, the file %s %llu", file->path,
                           (unsigned long long)file->data_size, exact ? "has" : "can hold at most",
                           (unsigned long long)room);
    return MMEBM_OK;
}

static mmebm_status read_header(mmebm_safetensors *file)
{
    mmebm_json json;
    MMEBM_TRY(read_text(file));
    MMEBM_TRY(mmebm__json_parse(file->context, file->what, file->header, file->header_size, &json));
    const mmebm_status status = read_entries(file, &json);
    mmebm__json_free(&json);
    MMEBM_TRY(status);
    MMEBM_TRY(check_order(file));
    MMEBM_TRY(check_size(file));
    return check_metadata(file);
}

mmebm_status mmebm__safetensors_open(mmebm_context *context, const char *path, mmebm_safetensors **file)
{
    *file = NULL;
    mmebm_safetensors *f = mmebm__allocate(context, sizeof *f);
    if (!f) return MMEBM_E_MEMORY;
    f->context = context;
    f->path = path;
    snprintf(f->what, sizeof f->what, "'%.200s': header", path);
    mmebm_status status = mmebm__reader_open(context, path, &f->reader);
    if (status == MMEBM_OK) status = read_header(f);
    if (status != MMEBM_OK) mmebm__safetensors_close(&f);
    *file = f;
    return status;
}

void mmebm__safetensors_close(mmebm_safetensors **file)
{
    mmebm_safetensors *f = *file;
    *file = NULL;
    if (!f) return;
    mmebm__reader_close(&f->reader);
    mmebm__free(f->context, f->order, (2 * (size_t)f->tensor_room + f->metadata_room) * sizeof *f->order);
    mmebm__free(f->context, f->metadata, f->metadata_room * sizeof *f->metadata);
    mmebm__free(f->context, f->tensors, f->tensor_room * sizeof *f->tensors);
    mmebm__free(f->context, f->strings, f->header_size);
    mmebm__free(f->context, f->header, f->header_size);
    mmebm__free(f->context, f, sizeof *f);
}

/* ---- what a file holds */

mmebm_status mmebm__safetensors_metadata(const mmebm_safetensors *file, const char *key, const char **value)
{
    for (uint32_t low = 0, high = file->metadata_count; low < high;) {
        const uint32_t middle = low + (high - low) / 2;
        const mmebm_metadata *pair = &file->metadata[by_key(file)[middle]];
        const int difference = strcmp(key, pair->key);
        if (difference == 0) {
            *value = pair->value;
            return MMEBM_OK;
        }
        if (difference < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return damaged(file, "missing: the metadata key", key);
}

uint32_t mmebm__safetensors_count(const mmebm_safetensors *file)
{
    return file->tensor_count;
}

mmebm_stored_tensor *mmebm__safetensors_find(mmebm_safetensors *file, const char *name)
{
    for (uint32_t low = 0, high = file->tensor_count; low < high;) {
        const uint32_t middle = low + (high - low) / 2;
        mmebm_stored_tensor *tensor = &file->tensors[by_name(file)[middle]];
        const int difference = strcmp(name, tensor->name);
        if (difference == 0) return tensor;
        if (difference < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

mmebm_status mmebm__safetensors_target(mmebm_safetensors *file, const char *name, uint32_t rank, const int64_t *shape,
                                       float *memory, uint32_t on_device)
{
    mmebm_stored_tensor *tensor = mmebm__safetensors_find(file, name);
    if (!tensor) return damaged(file, "missing: the tensor", name);
    if (tensor->dtype == MMEBM_STORED_U8)
        return mmebm__fail(file->context, MMEBM_E_DTYPE, "%s: tensor '%s' has dtype 'U8', wanted F32 or BF16",
                           file->what, name);
    if (tensor->rank != rank || memcmp(tensor->shape, shape, rank * sizeof *shape) != 0)
        return mmebm__fail(file->context, MMEBM_E_SHAPE, "%s: tensor '%s' has not the shape that the graph wants",
                           file->what, name);
    tensor->memory = memory;
    tensor->on_device = on_device;
    return MMEBM_OK;
}

/* ---- data */

static mmebm_status load_tensor(mmebm_safetensors *file, const mmebm_stored_tensor *tensor, mmebm_piece *piece)
{
    uLong crc = 0;
    for (size_t first = 0, count; first < tensor->count; first += count) {
        count = mmebm__stored_piece_count(tensor, first);
        const size_t size = count * mmebm__stored_dtype_size(tensor->dtype);
        MMEBM_TRY(mmebm__reader_read(file->reader, piece->bytes, size));
        crc = crc32(crc, piece->bytes, (uInt)size);
        if (tensor->memory) MMEBM_TRY(mmebm__stored_decode(file->context, tensor, first, count, piece));
    }
    if (crc != tensor->crc)
        return mmebm__fail(file->context, MMEBM_E_FORMAT, "'%s': tensor '%s' is damaged: checksum %08lx, stored %08x",
                           file->path, tensor->name, crc, (unsigned)tensor->crc);
    return MMEBM_OK;
}

mmebm_status mmebm__safetensors_load(mmebm_safetensors *file)
{
    mmebm_piece *piece = mmebm__allocate(file->context, sizeof *piece);
    if (!piece) return MMEBM_E_MEMORY;
    mmebm_status status = MMEBM_OK;
    for (uint32_t i = 0; i < file->tensor_count && status == MMEBM_OK; ++i)
        status = load_tensor(file, &file->tensors[by_offset(file)[i]], piece);
    if (status == MMEBM_OK) status = mmebm__reader_finish(file->reader);
    mmebm__free(file->context, piece, sizeof *piece);
    return status;
}


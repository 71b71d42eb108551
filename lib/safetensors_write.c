/* SPDX-License-Identifier: Apache-2.0
 *
 * Writing of the container (safetensors.h): layout, checksums, header, data.
 */
#include "safetensors.h"

#include <stdio.h>
#include <string.h>
#include <zlib.h>

#include "file_stream.h"
#include "json.h"

enum { ALIGNMENT = 8 /* the data section starts at a multiple of this */ };

/* Offsets, larger elements first so that all are aligned; and checksums, which stand before the data. */
static mmebm_status lay_out(mmebm_context *context, uint32_t count, mmebm_stored_tensor *tensors, mmebm_piece *piece)
{
    uint64_t end = 0;
    for (uint32_t d = 0; d < MMEBM_STORED_DTYPE_COUNT; ++d)
        for (uint32_t t = 0; t < count; ++t) {
            if (tensors[t].dtype != d) continue;
            tensors[t].begin = end;
            end += (uint64_t)tensors[t].count * mmebm__stored_dtype_size(d);
            tensors[t].end = end;
        }
    for (uint32_t t = 0; t < count; ++t) {
        uLong crc = 0;
        for (size_t first = 0, n; first < tensors[t].count; first += n) {
            n = mmebm__stored_piece_count(&tensors[t], first);
            MMEBM_TRY(mmebm__stored_encode(context, &tensors[t], first, n, piece));
            crc = crc32(crc, piece->bytes, (uInt)(n * mmebm__stored_dtype_size(tensors[t].dtype)));
        }
        tensors[t].crc = (uint32_t)crc;
    }
    return MMEBM_OK;
}

static void write_pair(mmebm_text *text, const char *key, const char *value, uint32_t *sum)
{
    mmebm__text_key(text, key);
    mmebm__text_string(text, value);
    *sum += mmebm__metadata_crc(key, value);
}

static void write_metadata(mmebm_text *text, uint32_t tensor_count, const mmebm_stored_tensor *tensors,
                           uint32_t metadata_count, const mmebm_metadata *metadata)
{
    char crc[MMEBM_CRC_DIGITS + 1];
    uint32_t sum = 0;
    mmebm__text_key(text, "__metadata__");
    mmebm__text_raw(text, "{");
    for (uint32_t m = 0; m < metadata_count; ++m) write_pair(text, metadata[m].key, metadata[m].value, &sum);
    for (uint32_t t = 0; t < tensor_count; ++t) {
        char key[sizeof MMEBM_TENSOR_CRC_PREFIX + MMEBM_FILE_MAX_NAME];
        snprintf(key, sizeof key, "%s%s", MMEBM_TENSOR_CRC_PREFIX, tensors[t].name);
        snprintf(crc, sizeof crc, "%08x", (unsigned)tensors[t].crc);
        write_pair(text, key, crc, &sum);
    }
    snprintf(crc, sizeof crc, "%08x", (unsigned)sum);
    write_pair(text, MMEBM_METADATA_SUM_KEY, crc, &sum);
    mmebm__text_raw(text, "}");
}

static void write_header(mmebm_text *text, uint32_t tensor_count, const mmebm_stored_tensor *tensors,
                         uint32_t metadata_count, const mmebm_metadata *metadata)
{
    mmebm__text_raw(text, "{");
    write_metadata(text, tensor_count, tensors, metadata_count, metadata);
    for (uint32_t t = 0; t < tensor_count; ++t) {
        mmebm__text_key(text, tensors[t].name);
        mmebm__text_raw(text, "{\"dtype\":");
        mmebm__text_string(text, mmebm__stored_dtype_name(tensors[t].dtype));
        mmebm__text_raw(text, ",\"shape\":");
        mmebm__text_integers(text, tensors[t].rank, tensors[t].shape);
        mmebm__text_raw(text, ",\"data_offsets\":");
        mmebm__text_integers(text, 2, (const int64_t[2]){(int64_t)tensors[t].begin, (int64_t)tensors[t].end});
        mmebm__text_raw(text, "}");
    }
    mmebm__text_raw(text, "}");
    while (text->status == MMEBM_OK && text->length % ALIGNMENT != 0) mmebm__text_raw(text, " ");
}

static mmebm_status write_all(mmebm_context *context, mmebm_file_writer *writer, const mmebm_text *header,
                              uint32_t tensor_count, const mmebm_stored_tensor *tensors, mmebm_piece *piece)
{
    unsigned char length_bytes[8];
    for (int k = 0; k < 8; ++k) length_bytes[k] = (unsigned char)((uint64_t)header->length >> 8 * k);
    MMEBM_TRY(mmebm__writer_write(writer, length_bytes, sizeof length_bytes));
    MMEBM_TRY(mmebm__writer_write(writer, header->data, header->length));
    for (uint32_t d = 0; d < MMEBM_STORED_DTYPE_COUNT; ++d)
        for (uint32_t t = 0; t < tensor_count; ++t) {
            if (tensors[t].dtype != d) continue;
            for (size_t first = 0, n; first < tensors[t].count; first += n) {
                n = mmebm__stored_piece_count(&tensors[t], first);
                MMEBM_TRY(mmebm__stored_encode(context, &tensors[t], first, n, piece));
                MMEBM_TRY(mmebm__writer_write(writer, piece->bytes, n * mmebm__stored_dtype_size(d)));
            }
        }
    return mmebm__writer_commit(writer);
}

static mmebm_status check_names(mmebm_context *context, const char *path, uint32_t count,
                                const mmebm_stored_tensor *tensors)
{
    if (count > MMEBM_FILE_MAX_TENSORS)
        return mmebm__fail(context, MMEBM_E_UNSUPPORTED, "'%s': %u tensors to store, at most %d fit into a file", path,
                           count, MMEBM_FILE_MAX_TENSORS);
    for (uint32_t t = 0; t < count; ++t)
        if (strlen(tensors[t].name) > MMEBM_FILE_MAX_NAME)
            return mmebm__fail(context, MMEBM_E_UNSUPPORTED, "'%s': the name of a tensor has more than %d bytes", path,
                               MMEBM_FILE_MAX_NAME);
    return MMEBM_OK;
}

mmebm_status mmebm__safetensors_save(mmebm_context *context, const char *path, int gzip, uint32_t tensor_count,
                                     mmebm_stored_tensor *tensors, uint32_t metadata_count,
                                     const mmebm_metadata *metadata)
{
    MMEBM_TRY(check_names(context, path, tensor_count, tensors));
    mmebm_text header = {.context = context};
    mmebm_file_writer *writer = NULL;
    mmebm_piece *piece = mmebm__allocate(context, sizeof *piece);
    mmebm_status status = piece ? lay_out(context, tensor_count, tensors, piece) : MMEBM_E_MEMORY;
    if (status == MMEBM_OK) {
        write_header(&header, tensor_count, tensors, metadata_count, metadata);
        status = header.status;
    }
    if (status == MMEBM_OK) status = mmebm__writer_open(context, path, gzip, &writer);
    if (status == MMEBM_OK) status = write_all(context, writer, &header, tensor_count, tensors, piece);
    mmebm__writer_close(&writer);
    mmebm__text_free(&header);
    mmebm__free(context, piece, sizeof *piece);
    return status;
}

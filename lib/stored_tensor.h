/* SPDX-License-Identifier: Apache-2.0
 *
 * One tensor of a file: its entry in the header, the memory it comes from or goes to, and the conversion between the
 * two, piece by piece. Shared by safetensors.c (reading) and safetensors_write.c.
 */
#ifndef MMEBM_STORED_TENSOR_H
#define MMEBM_STORED_TENSOR_H

#include "context.h"

enum {
    MMEBM_PIECE_BYTES = 1 << 16,               /* of tensor data, as stored */
    MMEBM_PIECE_FLOATS = MMEBM_PIECE_BYTES / 2 /* most floats of a piece: bf16 */
};

/* As stored. In memory F32 and BF16 are floats, U8 bytes. In order of falling element size. */
typedef enum mmebm_stored_dtype {
    MMEBM_STORED_F32 = 0,
    MMEBM_STORED_BF16 = 1, /* rounded to nearest even when written */
    MMEBM_STORED_U8 = 2,
    MMEBM_STORED_DTYPE_COUNT = 3
} mmebm_stored_dtype;

typedef struct mmebm_stored_tensor {
    const char *name;
    mmebm_stored_dtype dtype;
    uint32_t rank;
    int64_t shape[MMEBM_MAX_RANK];
    size_t count;        /* elements */
    void *memory;        /* source of save; target of load, NULL = checked and dropped */
    uint32_t on_device;  /* memory is a device address; floats only */
    uint64_t begin, end; /* bytes of the data section; set by open and save */
    uint32_t crc;        /* CRC-32 of these bytes; set by open and save */
} mmebm_stored_tensor;

/* Room for one piece, as stored and as floats. */
typedef struct mmebm_piece {
    unsigned char bytes[MMEBM_PIECE_BYTES];
    float floats[MMEBM_PIECE_FLOATS];
} mmebm_piece;

const char *mmebm__stored_dtype_name(mmebm_stored_dtype dtype);
size_t mmebm__stored_dtype_size(mmebm_stored_dtype dtype);

/* Sets name, dtype, rank, shape and count of a tensor to save. */
void mmebm__stored_describe(mmebm_stored_tensor *tensor, const char *name, mmebm_stored_dtype dtype, uint32_t rank,
                            const int64_t *shape);

/* Elements in the piece that starts at element `first`. */
size_t mmebm__stored_piece_count(const mmebm_stored_tensor *tensor, size_t first);
/* Memory -> piece->bytes, and piece->bytes -> memory, for `count` elements from `first` on. */
mmebm_status mmebm__stored_encode(mmebm_context *context, const mmebm_stored_tensor *tensor, size_t first, size_t count,
                                  mmebm_piece *piece);
mmebm_status mmebm__stored_decode(mmebm_context *context, const mmebm_stored_tensor *tensor, size_t first, size_t count,
                                  mmebm_piece *piece);

/* CRC-32 of "<key>\0<value>\0". The checksum of the metadata is the sum of these, modulo 2^32, over all pairs but its
 * own: it does not depend on their order. */
uint32_t mmebm__metadata_crc(const char *key, const char *value);
#define MMEBM_METADATA_SUM_KEY "mmebm.crc32"
#define MMEBM_TENSOR_CRC_PREFIX "crc32."
enum { MMEBM_CRC_DIGITS = 8 }; /* lower-case hexadecimal */

#endif /* MMEBM_STORED_TENSOR_H */

/* SPDX-License-Identifier: Apache-2.0
 *
 * The container of all files: safetensors (8 bytes of header length, a JSON header, tensor data), with checksums in its
 * metadata. docs/file-format.md is the exact text. Tensor data is never held twice: it streams in pieces between the
 * file and the host or device memory that each tensor names.
 *
 *   reading: open (header read and checked) -> metadata, find; set each wanted tensor's memory -> load -> close
 *   writing: fill an array of mmebm_stored_tensor and one of mmebm_metadata -> save
 *
 * Called by model_file.c and trainer_file.c.
 */
#ifndef MMEBM_SAFETENSORS_H
#define MMEBM_SAFETENSORS_H

#include "stored_tensor.h"

enum {
    MMEBM_FILE_MAX_TENSORS = 65536,
    MMEBM_FILE_MAX_METADATA = 2 * MMEBM_FILE_MAX_TENSORS, /* a checksum a tensor, and the rest */
    MMEBM_FILE_MAX_NAME = 127                             /* bytes of a tensor's name */
};

typedef struct mmebm_metadata {
    const char *key, *value;
} mmebm_metadata;

/* Writes path as a whole or not at all (safetensors_write.c). The container adds its own metadata, the checksums.
 * Tensors are laid out in the given order, those of larger elements first. */
mmebm_status mmebm__safetensors_save(mmebm_context *context, const char *path, int gzip, uint32_t tensor_count,
                                     mmebm_stored_tensor *tensors, uint32_t metadata_count,
                                     const mmebm_metadata *metadata);

typedef struct mmebm_safetensors mmebm_safetensors;

/* path must outlive the file. */
mmebm_status mmebm__safetensors_open(mmebm_context *context, const char *path, mmebm_safetensors **file);
void mmebm__safetensors_close(mmebm_safetensors **file); /* NULL is fine */
/* The value of a metadata key: MMEBM_E_FORMAT without it. Lives as long as the file. */
mmebm_status mmebm__safetensors_metadata(const mmebm_safetensors *file, const char *key, const char **value);
uint32_t mmebm__safetensors_count(const mmebm_safetensors *file);
/* NULL if there is none of that name. */
mmebm_stored_tensor *mmebm__safetensors_find(mmebm_safetensors *file, const char *name);
/* The tensor of that name, if it has that shape and is F32 or BF16 (else MMEBM_E_FORMAT, MMEBM_E_SHAPE, MMEBM_E_DTYPE);
 * its target is set. */
mmebm_status mmebm__safetensors_target(mmebm_safetensors *file, const char *name, uint32_t rank, const int64_t *shape,
                                       float *memory, uint32_t on_device);
/* Once, after the targets are set: reads all data, checks every checksum and that the file ends where it should. */
mmebm_status mmebm__safetensors_load(mmebm_safetensors *file);

#endif /* MMEBM_SAFETENSORS_H */

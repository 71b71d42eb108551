/* SPDX-License-Identifier: Apache-2.0
 *
 * What files of all kinds share: a draft that collects metadata and tensors until they are saved, the metadata that
 * says what a file is, and models in files. model_file.c implements this and the public calls for networks and
 * models; trainer_file.c builds checkpoints with it.
 */
#ifndef MMEBM_MODEL_FILE_H
#define MMEBM_MODEL_FILE_H

#include "graph_json.h"
#include "model.h"
#include "safetensors.h"

enum { MMEBM_FILE_FORMAT = 1 }; /* "mmebm.format": files of a higher one are MMEBM_E_VERSION */

typedef enum mmebm_file_kind {
    MMEBM_FILE_NETWORK = 0,
    MMEBM_FILE_MODEL = 1,
    MMEBM_FILE_TRAINER = 2, /* holds all that a model file holds */
    MMEBM_FILE_KIND_COUNT = 3
} mmebm_file_kind;

/* ---- writing: begin, add, save, end */

enum { MMEBM_DRAFT_MAX_VALUES = 12 };

typedef struct mmebm_file_draft {
    mmebm_context *context;
    struct {
        const char *key;
        mmebm_text text;
    } values[MMEBM_DRAFT_MAX_VALUES];
    uint32_t value_count;
    mmebm_stored_tensor *tensors;
    uint32_t tensor_count, tensor_room;
} mmebm_file_draft;

/* On failure *draft needs no end, but may be ended. */
mmebm_status mmebm__draft_begin(mmebm_context *context, mmebm_file_kind kind, uint32_t tensor_room,
                                mmebm_file_draft *draft);
void mmebm__draft_end(mmebm_file_draft *draft);
/* A new metadata value, to be written by the caller. */
mmebm_text *mmebm__draft_value(mmebm_file_draft *draft, const char *key);
/* A new tensor, to be described by the caller. There is room for what _begin was told. */
mmebm_stored_tensor *mmebm__draft_tensor(mmebm_file_draft *draft);
/* The model's options, graphs and weights. */
void mmebm__draft_model(mmebm_file_draft *draft, const mmebm_model *model, mmebm_stored_dtype dtype);
mmebm_status mmebm__draft_save(mmebm_file_draft *draft, const char *path, const mmebm_save_options *options);

/* Checks path and options (given NULL = defaults) of a call that saves. */
mmebm_status mmebm__save_options_read(mmebm_context *context, const char *call, const char *path,
                                      const mmebm_save_options *given, mmebm_save_options *options);

/* ---- reading */

/* Opens a file of this kind, or of the kind `other`. */
mmebm_status mmebm__file_open(mmebm_context *context, const char *path, mmebm_file_kind kind, mmebm_file_kind other,
                              mmebm_safetensors **file);
/* Makes the stored model with zero weights and names its device memory as target of the stored ones: they arrive with
 * mmebm__safetensors_load. *tensor_count = how many tensors of the file are the model's. */
mmebm_status mmebm__file_model(mmebm_context *context, const char *path, mmebm_safetensors *file, mmebm_model **model,
                               uint32_t *tensor_count);
/* MMEBM_E_FORMAT unless the file has `wanted` tensors: none that nobody asked for. */
mmebm_status mmebm__file_check_count(mmebm_context *context, const char *path, const mmebm_safetensors *file,
                                     uint32_t wanted);

#endif /* MMEBM_MODEL_FILE_H */

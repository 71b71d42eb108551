/* SPDX-License-Identifier: Apache-2.0
 *
 * Structs as JSON objects, described by tables: one line {key, type, offset} a field serves writing and reading alike,
 * so that the two cannot differ. Reading wants every key once and no other. Used for layers (graph_json.c), model
 * options (model_file.c) and trainer options and counters (trainer_file.c).
 */
#ifndef MMEBM_FIELDS_H
#define MMEBM_FIELDS_H

#include "json.h"

typedef enum mmebm_field_type {
    MMEBM_FIELD_U32 = 0,
    MMEBM_FIELD_U64 = 1,
    MMEBM_FIELD_I64 = 2,
    MMEBM_FIELD_FLOAT = 3,
    MMEBM_FIELD_DOUBLE = 4, /* "nan", "inf" and "-inf" too: a counter may hold them */
    MMEBM_FIELD_PAIR = 5,   /* int64_t [2] */
    MMEBM_FIELD_U64_PAIR = 6, /* uint64_t [2] */
    MMEBM_FIELD_CHOICE = 7, /* uint32_t: names[value - 1]; a value without a name is written as a number */
    MMEBM_FIELD_TEXT = 8,   /* char [extra] */
    MMEBM_FIELD_SHAPE = 9,  /* int64_t [MMEBM_MAX_RANK], and uint32_t rank at offset `extra` */
    MMEBM_FIELD_STRUCT = 10 /* by the table `inner` */
} mmebm_field_type;

typedef struct mmebm_field_table mmebm_field_table;

typedef struct mmebm_field {
    const char *key;
    mmebm_field_type type;
    size_t offset, extra;
    const char *const *names; /* MMEBM_FIELD_CHOICE, ends with NULL */
    const mmebm_field_table *inner;
} mmebm_field;

struct mmebm_field_table {
    const mmebm_field *fields;
    uint32_t count; /* at most MMEBM_FIELDS_MAX, other keys of the same object included */
    uint32_t later; /* so many of the last came after the first release: files without them leave the memory as it is */
};
enum { MMEBM_FIELDS_MAX = 64 };

/* Adds "key":value pairs of *memory to text, without braces. */
void mmebm__fields_write(mmebm_text *text, const mmebm_field_table *table, const void *memory);
/* Reads all of them from an object that also has the `other_count` keys `others`, whose values become other_nodes. */
mmebm_status mmebm__fields_read(const mmebm_json *json, uint32_t object, const mmebm_field_table *table, void *memory,
                                uint32_t other_count, const char *const *others, uint32_t *other_nodes);

#endif /* MMEBM_FIELDS_H */

/* SPDX-License-Identifier: Apache-2.0
 *
 * JSON for the files (docs/file-format.md): strict reading of text that nobody vouches for, and a small writer.
 *
 * Reading: jsmn finds the tokens; json.c then walks them against the grammar of RFC 8259, because jsmn alone accepts
 * some text that is no JSON. A parsed text is an array of nodes in the order of the text; node 0 is the root, the
 * children of node k start at k + 1, and the node after the whole subtree of k is nodes[k].next. An object's children
 * alternate: key, value, key, value. Length, depth and number of nodes are bounded, strings are valid UTF-8 without
 * U+0000, and nothing depends on the locale.
 *
 * safetensors.c reads and writes the header with this, graph_json.c, model_file.c and trainer_file.c what the
 * metadata holds.
 */
#ifndef MMEBM_JSON_H
#define MMEBM_JSON_H

#include "context.h"

enum {
    MMEBM_JSON_MAX_LENGTH = 16 << 20, /* bytes of one text */
    MMEBM_JSON_MAX_NODES = 1 << 20,
    MMEBM_JSON_MAX_DEPTH = 16,
    MMEBM_JSON_MAX_NUMBER = 64 /* characters of one number */
};

typedef enum mmebm_json_kind {
    MMEBM_JSON_OBJECT = 0,
    MMEBM_JSON_ARRAY = 1,
    MMEBM_JSON_STRING = 2,
    MMEBM_JSON_NUMBER = 3,
    MMEBM_JSON_LITERAL = 4, /* true, false, null */
    MMEBM_JSON_KIND_COUNT = 5
} mmebm_json_kind;

typedef struct mmebm_json_node {
    mmebm_json_kind kind;
    uint32_t start, end; /* bytes of the text; of a string: without its quotes */
    uint32_t children;   /* values of an array, pairs of an object */
    uint32_t next;
} mmebm_json_node;

typedef struct mmebm_json {
    mmebm_context *context;
    const char *what; /* names the text in sentences */
    const char *text;
    mmebm_json_node *nodes;
    uint32_t count;
} mmebm_json;

/* Parses text, which must outlive *json, as must what. On failure *json needs no free, but may be freed. */
mmebm_status mmebm__json_parse(mmebm_context *context, const char *what, const char *text, size_t length,
                               mmebm_json *json);
void mmebm__json_free(mmebm_json *json);

/* MMEBM_E_FORMAT with "<what>: byte <n>: found '<the node>', wanted <wanted>". */
mmebm_status mmebm__json_fail(const mmebm_json *json, uint32_t node, const char *wanted);

/* Values of one kind; the wrong kind is MMEBM_E_FORMAT. */
mmebm_status mmebm__json_expect(const mmebm_json *json, uint32_t node, mmebm_json_kind kind);
mmebm_status mmebm__json_integer(const mmebm_json *json, uint32_t node, int64_t min, int64_t max, int64_t *value);
mmebm_status mmebm__json_unsigned(const mmebm_json *json, uint32_t node, uint64_t max, uint64_t *value);
mmebm_status mmebm__json_real(const mmebm_json *json, uint32_t node, double *value); /* finite */
mmebm_status mmebm__json_float(const mmebm_json *json, uint32_t node, float *value);  /* finite */
/* Decodes escapes into out with a final 0; more than size - 1 bytes is MMEBM_E_FORMAT. */
mmebm_status mmebm__json_string(const mmebm_json *json, uint32_t node, char *out, size_t size);

/* The value of one key; missing is MMEBM_E_FORMAT. */
mmebm_status mmebm__json_member(const mmebm_json *json, uint32_t object, const char *key, uint32_t *value);
/* The values of exactly these keys, in their order: a key that is missing, unknown or there twice is MMEBM_E_FORMAT.
 * The last `optional` of them may be missing: 0, which is no value's node. count <= 64. */
mmebm_status mmebm__json_members(const mmebm_json *json, uint32_t object, uint32_t count, uint32_t optional,
                                 const char *const *keys, uint32_t *values);
/* An array of integers: its length, at most capacity, and its values. */
mmebm_status mmebm__json_integers(const mmebm_json *json, uint32_t array, uint32_t capacity, int64_t min, int64_t max,
                                  uint32_t *count, int64_t *values);

/* Bytes of the UTF-8 character at string[0 .. length), 0 if there is none that is valid: no overlong forms, no
 * surrogates, nothing above U+10FFFF. length >= 1. */
uint32_t mmebm__utf8_length(const char *string, size_t length);

/* ---- writing (json_text.c) */

/* Text that grows up to MMEBM_JSON_MAX_LENGTH. After the first failure nothing more is added; the caller looks at
 * status once, at the end. Start with {.context = context}. */
typedef struct mmebm_text {
    mmebm_context *context;
    char *data; /* ends with 0 once anything was added */
    size_t length, capacity;
    mmebm_status status;
} mmebm_text;

void mmebm__text_free(mmebm_text *text);
void mmebm__text_raw(mmebm_text *text, const char *string); /* as it is */
void mmebm__text_string(mmebm_text *text, const char *string); /* quoted, escaped; MMEBM_E_ARGUMENT if not UTF-8 */
void mmebm__text_integer(mmebm_text *text, int64_t value);
void mmebm__text_unsigned(mmebm_text *text, uint64_t value);
/* Shortest fixed or exponent form of 9 (float) or 17 (double) digits: reads back as the same bits. MMEBM_E_ARGUMENT if
 * not finite. */
void mmebm__text_float(mmebm_text *text, float value);
void mmebm__text_double(mmebm_text *text, double value);
void mmebm__text_integers(mmebm_text *text, uint32_t count, const int64_t *values); /* [a,b,c] */
/* "key": with a comma before it unless it follows the opening brace */
void mmebm__text_key(mmebm_text *text, const char *key);

#endif /* MMEBM_JSON_H */

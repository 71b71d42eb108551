/* SPDX-License-Identifier: Apache-2.0
 *
 * Structs as JSON objects (fields.h).
 */
#include "fields.h"

#include <math.h>
#include <string.h>

/* ---- writing */

static void write_double(mmebm_text *text, double value)
{
    if (isfinite(value))
        mmebm__text_double(text, value);
    else
        mmebm__text_string(text, isnan(value) ? "nan" : value > 0 ? "inf" : "-inf");
}

static void write_choice(mmebm_text *text, const char *const *names, uint32_t value)
{
    uint32_t count = 0;
    while (names[count]) ++count;
    if (value >= 1 && value <= count)
        mmebm__text_string(text, names[value - 1]);
    else
        mmebm__text_unsigned(text, value);
}

static void write_value(mmebm_text *text, const mmebm_field *field, const unsigned char *memory)
{
    const void *at = memory + field->offset;
    const uint64_t *pair = at;
    switch (field->type) {
    case MMEBM_FIELD_U32: mmebm__text_unsigned(text, *(const uint32_t *)at); break;
    case MMEBM_FIELD_U64: mmebm__text_unsigned(text, *(const uint64_t *)at); break;
    case MMEBM_FIELD_I64: mmebm__text_integer(text, *(const int64_t *)at); break;
    case MMEBM_FIELD_FLOAT: mmebm__text_float(text, *(const float *)at); break;
    case MMEBM_FIELD_DOUBLE: write_double(text, *(const double *)at); break;
    case MMEBM_FIELD_PAIR: mmebm__text_integers(text, 2, at); break;
    case MMEBM_FIELD_U64_PAIR:
        mmebm__text_raw(text, "[");
        mmebm__text_unsigned(text, pair[0]);
        mmebm__text_raw(text, ",");
        mmebm__text_unsigned(text, pair[1]);
        mmebm__text_raw(text, "]");
        break;
    case MMEBM_FIELD_CHOICE: write_choice(text, field->names, *(const uint32_t *)at); break;
    case MMEBM_FIELD_TEXT: mmebm__text_string(text, at); break;
    case MMEBM_FIELD_SHAPE:
        mmebm__text_integers(text, *(const uint32_t *)(const void *)(memory + field->extra), at);
        break;
    case MMEBM_FIELD_STRUCT:
        mmebm__text_raw(text, "{");
        mmebm__fields_write(text, field->inner, at);
        mmebm__text_raw(text, "}");
        break;
    }
}

void mmebm__fields_write(mmebm_text *text, const mmebm_field_table *table, const void *memory)
{
    for (uint32_t f = 0; f < table->count; ++f) {
        mmebm__text_key(text, table->fields[f].key);
        write_value(text, &table->fields[f], memory);
    }
}

/* ---- reading */

static mmebm_status read_u32(const mmebm_json *json, uint32_t node, uint32_t *value)
{
    uint64_t wide;
    MMEBM_TRY(mmebm__json_unsigned(json, node, UINT32_MAX, &wide));
    *value = (uint32_t)wide;
    return MMEBM_OK;
}

static mmebm_status read_double(const mmebm_json *json, uint32_t node, double *value)
{
    if (json->nodes[node].kind != MMEBM_JSON_STRING) return mmebm__json_real(json, node, value);
    char name[8];
    MMEBM_TRY(mmebm__json_string(json, node, name, sizeof name));
    if (strcmp(name, "nan") == 0)
        *value = NAN;
    else if (strcmp(name, "inf") == 0 || strcmp(name, "-inf") == 0)
        *value = name[0] == '-' ? -INFINITY : INFINITY;
    else
        return mmebm__json_fail(json, node, "a number, nan, inf or -inf");
    return MMEBM_OK;
}

static mmebm_status read_choice(const mmebm_json *json, uint32_t node, const char *const *names, uint32_t *value)
{
    if (json->nodes[node].kind == MMEBM_JSON_NUMBER) return read_u32(json, node, value);
    char name[32];
    MMEBM_TRY(mmebm__json_string(json, node, name, sizeof name));
    for (uint32_t k = 0; names[k]; ++k) {
        if (strcmp(name, names[k]) != 0) continue;
        *value = k + 1;
        return MMEBM_OK;
    }
    return mmebm__json_fail(json, node, "a known name");
}

/* An array of exactly two integers. */
static mmebm_status read_pair(const mmebm_json *json, uint32_t node, int is_signed, void *pair)
{
    MMEBM_TRY(mmebm__json_expect(json, node, MMEBM_JSON_ARRAY));
    if (json->nodes[node].children != 2) return mmebm__json_fail(json, node, "an array of two integers");
    for (uint32_t k = 0; k < 2; ++k) /* integers have no children: they follow each other */
        if (is_signed)
            MMEBM_TRY(mmebm__json_integer(json, node + 1 + k, -INT64_MAX, INT64_MAX, (int64_t *)pair + k));
        else
            MMEBM_TRY(mmebm__json_unsigned(json, node + 1 + k, UINT64_MAX, (uint64_t *)pair + k));
    return MMEBM_OK;
}

static mmebm_status read_value(const mmebm_json *json, uint32_t node, const mmebm_field *field, unsigned char *memory)
{
    void *at = memory + field->offset;
    switch (field->type) {
    case MMEBM_FIELD_U32: return read_u32(json, node, at);
    case MMEBM_FIELD_U64: return mmebm__json_unsigned(json, node, UINT64_MAX, at);
    case MMEBM_FIELD_I64: return mmebm__json_integer(json, node, -INT64_MAX, INT64_MAX, at);
    case MMEBM_FIELD_FLOAT: return mmebm__json_float(json, node, at);
    case MMEBM_FIELD_DOUBLE: return read_double(json, node, at);
    case MMEBM_FIELD_PAIR: return read_pair(json, node, 1, at);
    case MMEBM_FIELD_U64_PAIR: return read_pair(json, node, 0, at);
    case MMEBM_FIELD_CHOICE: return read_choice(json, node, field->names, at);
    case MMEBM_FIELD_TEXT: return mmebm__json_string(json, node, at, field->extra);
    case MMEBM_FIELD_SHAPE:
        return mmebm__json_integers(json, node, MMEBM_MAX_RANK, 1, INT64_MAX, (void *)(memory + field->extra), at);
    case MMEBM_FIELD_STRUCT: return mmebm__fields_read(json, node, field->inner, at, 0, NULL, NULL);
    }
    return MMEBM_E_STATE; /* the switch names all types */
}

mmebm_status mmebm__fields_read(const mmebm_json *json, uint32_t object, const mmebm_field_table *table, void *memory,
                                uint32_t other_count, const char *const *others, uint32_t *other_nodes)
{
    const char *keys[MMEBM_FIELDS_MAX];
    uint32_t nodes[MMEBM_FIELDS_MAX];
    for (uint32_t k = 0; k < other_count; ++k) keys[k] = others[k];
    for (uint32_t f = 0; f < table->count; ++f) keys[other_count + f] = table->fields[f].key;
    MMEBM_TRY(mmebm__json_members(json, object, other_count + table->count, table->later, keys, nodes));
    for (uint32_t k = 0; k < other_count; ++k) other_nodes[k] = nodes[k];
    for (uint32_t f = 0; f < table->count; ++f)
        if (nodes[other_count + f]) MMEBM_TRY(read_value(json, nodes[other_count + f], &table->fields[f], memory));
    return MMEBM_OK;
}

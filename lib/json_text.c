/* SPDX-License-Identifier: Apache-2.0
 *
 * Writing of JSON (json.h): bounded text, escaped strings, numbers that read back as the same bits in any locale.
 */
#include "json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void mmebm__text_free(mmebm_text *text)
{
    mmebm__free(text->context, text->data, text->capacity);
    text->data = NULL;
    text->length = text->capacity = 0;
}

static void text_bytes(mmebm_text *text, const char *bytes, size_t length)
{
    enum { FIRST_CAPACITY = 1024 };
    if (text->status != MMEBM_OK) return;
    if (length > MMEBM_JSON_MAX_LENGTH - text->length) {
        text->status = mmebm__fail(text->context, MMEBM_E_ARGUMENT,
                                   "a file's header would take more than %d bytes of JSON", MMEBM_JSON_MAX_LENGTH);
        return;
    }
    if (text->length + length + 1 > text->capacity) {
        size_t capacity = text->capacity ? text->capacity : FIRST_CAPACITY;
        while (capacity < text->length + length + 1) capacity *= 2;
        if (!mmebm__grow(text->context, (void **)&text->data, text->capacity, capacity, 1)) {
            text->status = MMEBM_E_MEMORY;
            return;
        }
        text->capacity = capacity;
    }
    memcpy(text->data + text->length, bytes, length);
    text->length += length;
    text->data[text->length] = '\0';
}

void mmebm__text_raw(mmebm_text *text, const char *string)
{
    text_bytes(text, string, strlen(string));
}

void mmebm__text_string(mmebm_text *text, const char *string)
{
    size_t left = strlen(string);
    text_bytes(text, "\"", 1);
    for (const char *at = string; left > 0;) {
        const uint32_t length = mmebm__utf8_length(at, left);
        char escape[8];
        if (length == 0) {
            if (text->status == MMEBM_OK)
                text->status = mmebm__fail(text->context, MMEBM_E_ARGUMENT,
                                           "a name that is not valid UTF-8 cannot be stored in a file");
            return;
        }
        if ((unsigned char)*at < 0x20) {
            snprintf(escape, sizeof escape, "\\u%04x", (unsigned)*at);
            text_bytes(text, escape, 6);
        } else {
            if (*at == '"' || *at == '\\') text_bytes(text, "\\", 1);
            text_bytes(text, at, length);
        }
        at += length;
        left -= length;
    }
    text_bytes(text, "\"", 1);
}

void mmebm__text_integer(mmebm_text *text, int64_t value)
{
    char number[24];
    snprintf(number, sizeof number, "%lld", (long long)value);
    mmebm__text_raw(text, number);
}

void mmebm__text_unsigned(mmebm_text *text, uint64_t value)
{
    char number[24];
    snprintf(number, sizeof number, "%llu", (unsigned long long)value);
    mmebm__text_raw(text, number);
}

/* As "%.<digits>g", but with '.' in every locale: the digits are taken from "%e" by their positions, counted from the
 * exponent's letter backwards. */
static void text_real(mmebm_text *text, double value, int digit_count)
{
    char scientific[48], mantissa[24], out[64];
    if (value - value != 0) {
        if (text->status == MMEBM_OK)
            text->status = mmebm__fail(text->context, MMEBM_E_ARGUMENT, "a value to store is not finite");
        return;
    }
    snprintf(scientific, sizeof scientific, "%.*e", digit_count - 1, value);
    const int negative = scientific[0] == '-';
    const char *letter = strchr(scientific, 'e');
    const int exponent = (int)strtol(letter + 1, NULL, 10);
    mantissa[0] = scientific[negative];
    memcpy(mantissa + 1, letter - (digit_count - 1), (size_t)digit_count - 1);
    int used = digit_count;
    while (used > 1 && mantissa[used - 1] == '0') --used;
    mantissa[used] = '\0';
    const char *sign = negative ? "-" : "";
    if (exponent < -5 || exponent >= digit_count)
        snprintf(out, sizeof out, "%s%.1s%s%se%d", sign, mantissa, used > 1 ? "." : "", mantissa + 1, exponent);
    else if (exponent < 0)
        snprintf(out, sizeof out, "%s0.%.*s%s", sign, -exponent - 1, "00000", mantissa);
    else if (used <= exponent + 1)
        snprintf(out, sizeof out, "%s%s%.*s", sign, mantissa, exponent + 1 - used, "00000000000000000");
    else
        snprintf(out, sizeof out, "%s%.*s.%s", sign, exponent + 1, mantissa, mantissa + exponent + 1);
    mmebm__text_raw(text, out);
}

void mmebm__text_float(mmebm_text *text, float value)
{
    text_real(text, value, 9);
}

void mmebm__text_double(mmebm_text *text, double value)
{
    text_real(text, value, 17);
}

void mmebm__text_integers(mmebm_text *text, uint32_t count, const int64_t *values)
{
    mmebm__text_raw(text, "[");
    for (uint32_t i = 0; i < count; ++i) {
        if (i > 0) mmebm__text_raw(text, ",");
        mmebm__text_integer(text, values[i]);
    }
    mmebm__text_raw(text, "]");
}

void mmebm__text_key(mmebm_text *text, const char *key)
{
    if (text->length > 0 && text->data[text->length - 1] != '{') mmebm__text_raw(text, ",");
    mmebm__text_string(text, key);
    mmebm__text_raw(text, ":");
}

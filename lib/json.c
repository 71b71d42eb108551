/* SPDX-License-Identifier: Apache-2.0
 *
 * Strict reading of JSON over the tokens of jsmn (json.h). json_text.c writes.
 */
#include "json.h"

#include <stdlib.h>
#include <stdio.h>
#include <string.h>

#define JSMN_STATIC
#define JSMN_STRICT
#define JSMN_PARENT_LINKS
#include <jsmn.h>

enum { LONGEST_KEY = 64 }; /* of objects whose keys are known */

/* ---- strings */

uint32_t mmebm__utf8_length(const char *string, size_t length)
{
    static const struct {
        unsigned char first, last, second_min, second_max;
        uint32_t length;
    } rows[] = {
        /* table 3-7 of the Unicode standard */
        {0x00, 0x7f, 0, 0, 1},       {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3},
        {0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3},
        {0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4},
    };
    const unsigned char *text = (const unsigned char *)string;
    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; ++r) {
        if (text[0] < rows[r].first || text[0] > rows[r].last) continue;
        if (rows[r].length > length) return 0;
        if (rows[r].length > 1 && (text[1] < rows[r].second_min || text[1] > rows[r].second_max)) return 0;
        for (uint32_t k = 2; k < rows[r].length; ++k)
            if ((text[k] & 0xc0) != 0x80) return 0;
        return rows[r].length;
    }
    return 0;
}

static uint32_t utf8_encode(uint32_t code, char out[4])
{
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    const uint32_t length = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    static const unsigned char lead[5] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (uint32_t k = length; k-- > 1; code >>= 6) out[k] = (char)(0x80 | (code & 0x3f));
    out[0] = (char)(lead[length] | code);
    return length;
}

/* Four hexadecimal digits at text[0 .. length), or UINT32_MAX. */
static uint32_t hex4(const char *text, size_t length)
{
    uint32_t code = 0;
    if (length < 4) return UINT32_MAX;
    for (int k = 0; k < 4; ++k) {
        const char c = text[k];
        const int digit = c >= '0' && c <= '9'   ? c - '0'
                          : c >= 'a' && c <= 'f' ? c - 'a' + 10
                          : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                                 : -1;
        if (digit < 0) return UINT32_MAX;
        code = code << 4 | (uint32_t)digit;
    }
    return code;
}

/* Decodes the escape at text[0] == '\\' into out; returns the bytes read, 0 if it is not valid. */
static size_t decode_escape(const char *text, size_t length, char out[4], uint32_t *out_length)
{
    static const char letters[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
    if (length < 2) return 0;
    const char *letter = memchr(letters, text[1], sizeof letters - 1);
    if (letter) {
        out[0] = meanings[letter - letters];
        *out_length = 1;
        return 2;
    }
    if (text[1] != 'u') return 0;
    uint32_t code = hex4(text + 2, length - 2);
    size_t read = 6;
    if (code >= 0xd800 && code < 0xdc00 && length >= 8 && text[6] == '\\' && text[7] == 'u') {
        const uint32_t low = hex4(text + 8, length - 8);
        if (low < 0xdc00 || low > 0xdfff) return 0;
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
        read = 12;
    }
    if (code == UINT32_MAX || code == 0 || (code >= 0xd800 && code < 0xe000)) return 0;
    *out_length = utf8_encode(code, out);
    return read;
}

/* Decodes a string's inside; out NULL only checks. *written counts the decoded bytes. Returns 0 for invalid text or
 * more than size bytes. */
static int decode_string(const char *text, size_t length, char *out, size_t size, size_t *written)
{
    *written = 0;
    for (size_t at = 0; at < length;) {
        char piece[4];
        uint32_t piece_length;
        size_t read;
        if (text[at] == '\\') {
            read = decode_escape(text + at, length - at, piece, &piece_length);
        } else {
            piece_length = mmebm__utf8_length(text + at, length - at);
            memcpy(piece, text + at, piece_length);
            read = (unsigned char)text[at] < 0x20 ? 0 : piece_length;
        }
        if (read == 0 || (out && piece_length > size - *written)) return 0;
        if (out) memcpy(out + *written, piece, piece_length);
        *written += piece_length;
        at += read;
    }
    return 1;
}

/* ---- the grammar */

typedef struct checker {
    const char *text;
    size_t length, position;
    const jsmntok_t *tokens;
    mmebm_json_node *nodes;
    uint32_t count, next;
} checker;

static char current(const checker *c)
{
    return c->position < c->length ? c->text[c->position] : '\0';
}

static void skip_space(checker *c)
{
    while (c->position < c->length && strchr(" \t\n\r", c->text[c->position]) && c->text[c->position] != '\0')
        ++c->position;
}

static size_t digits(const char *text, size_t length)
{
    size_t n = 0;
    while (n < length && text[n] >= '0' && text[n] <= '9') ++n;
    return n;
}

static int is_number(const char *text, size_t length)
{
    if (length > MMEBM_JSON_MAX_NUMBER) return 0;
    size_t at = length > 0 && text[0] == '-';
    const size_t whole = digits(text + at, length - at);
    if (whole == 0 || (whole > 1 && text[at] == '0')) return 0;
    at += whole;
    if (at < length && text[at] == '.') {
        const size_t fraction = digits(text + at + 1, length - at - 1);
        if (fraction == 0) return 0;
        at += 1 + fraction;
    }
    if (at < length && (text[at] == 'e' || text[at] == 'E')) {
        ++at;
        if (at < length && (text[at] == '+' || text[at] == '-')) ++at;
        const size_t exponent = digits(text + at, length - at);
        if (exponent == 0) return 0;
        at += exponent;
    }
    return at == length;
}

static int is_literal(const char *text, size_t length)
{
    return (length == 4 && (memcmp(text, "true", 4) == 0 || memcmp(text, "null", 4) == 0)) ||
           (length == 5 && memcmp(text, "false", 5) == 0);
}

static int check_value(checker *c);

/* The children of an array or object, its closing bracket included. */
static int check_children(checker *c, mmebm_json_node *node)
{
    const int object = node->kind == MMEBM_JSON_OBJECT;
    ++c->position;
    skip_space(c);
    while (current(c) != (object ? '}' : ']')) {
        if (node->children > 0) {
            if (current(c) != ',') return 0;
            ++c->position;
        }
        if (object) {
            const uint32_t key = c->next;
            if (!check_value(c) || c->nodes[key].kind != MMEBM_JSON_STRING) return 0;
            skip_space(c);
            if (current(c) != ':') return 0;
            ++c->position;
        }
        if (!check_value(c)) return 0;
        ++node->children;
        skip_space(c);
    }
    ++c->position;
    return c->position == node->end;
}

/* One value at the current position must be the next token, no more and no less. Recursion is bounded: the depth of
 * brackets was checked before. */
static int check_value(checker *c)
{
    size_t decoded;
    skip_space(c);
    if (c->next == c->count) return 0;
    const jsmntok_t *token = &c->tokens[c->next];
    mmebm_json_node *node = &c->nodes[c->next++];
    const size_t quote = token->type == JSMN_STRING;
    if (token->start < 0 || token->end < token->start || (size_t)token->end > c->length) return 0;
    if ((size_t)token->start != c->position + quote || (quote && current(c) != '"')) return 0;
    node->start = (uint32_t)token->start;
    node->end = (uint32_t)token->end;
    const char *inside = c->text + node->start;
    const size_t inside_length = node->end - node->start;
    int valid;
    if (token->type == JSMN_STRING) {
        node->kind = MMEBM_JSON_STRING;
        c->position = node->end + 1;
        valid = decode_string(inside, inside_length, NULL, 0, &decoded);
    } else if (token->type == JSMN_PRIMITIVE) {
        node->kind = is_number(inside, inside_length) ? MMEBM_JSON_NUMBER : MMEBM_JSON_LITERAL;
        c->position = node->end;
        valid = node->kind == MMEBM_JSON_NUMBER || is_literal(inside, inside_length);
    } else {
        node->kind = token->type == JSMN_OBJECT ? MMEBM_JSON_OBJECT : MMEBM_JSON_ARRAY;
        valid = check_children(c, node);
    }
    node->next = c->next;
    return valid;
}

/* Depth of brackets outside strings, before jsmn sees them: closing one costs jsmn time in proportion to the depth. */
static uint32_t bracket_depth(const char *text, size_t length)
{
    uint32_t depth = 0, deepest = 0;
    int in_string = 0;
    for (size_t i = 0; i < length; ++i) {
        const char c = text[i];
        if (in_string) {
            if (c == '\\')
                ++i;
            else
                in_string = c != '"';
        } else if (c == '"') {
            in_string = 1;
        } else if (c == '[' || c == '{') {
            if (++depth > deepest) deepest = depth;
        } else if ((c == ']' || c == '}') && depth > 0) {
            --depth;
        }
    }
    return deepest;
}

static mmebm_status check_tokens(mmebm_json *json, size_t length, const jsmntok_t *tokens)
{
    checker c = {.text = json->text, .length = length, .tokens = tokens, .nodes = json->nodes, .count = json->count};
    if (check_value(&c)) {
        skip_space(&c);
        if (c.position == length && c.next == c.count) return MMEBM_OK;
    }
    return mmebm__fail(json->context, MMEBM_E_FORMAT, "%s: not valid JSON near byte %zu", json->what, c.position);
}

mmebm_status mmebm__json_parse(mmebm_context *context, const char *what, const char *text, size_t length,
                               mmebm_json *json)
{
    *json = (mmebm_json){.context = context, .what = what, .text = text};
    if (length > MMEBM_JSON_MAX_LENGTH)
        return mmebm__fail(context, MMEBM_E_FORMAT, "%s: %zu bytes of JSON, at most %d are read", what, length,
                           MMEBM_JSON_MAX_LENGTH);
    if (bracket_depth(text, length) > MMEBM_JSON_MAX_DEPTH)
        return mmebm__fail(context, MMEBM_E_FORMAT, "%s: JSON nested deeper than %d", what, MMEBM_JSON_MAX_DEPTH);
    jsmn_parser parser;
    jsmn_init(&parser);
    const int count = jsmn_parse(&parser, text, length, NULL, 0);
    if (count <= 0) return mmebm__fail(context, MMEBM_E_FORMAT, "%s: not valid JSON near byte %u", what, parser.pos);
    if (count > MMEBM_JSON_MAX_NODES)
        return mmebm__fail(context, MMEBM_E_FORMAT, "%s: %d JSON values, at most %d are read", what, count,
                           MMEBM_JSON_MAX_NODES);
    const size_t tokens_size = (size_t)count * sizeof(jsmntok_t);
    jsmntok_t *tokens = mmebm__allocate(context, tokens_size);
    json->count = (uint32_t)count;
    json->nodes = mmebm__allocate(context, json->count * sizeof *json->nodes);
    mmebm_status status = tokens && json->nodes ? MMEBM_OK : MMEBM_E_MEMORY;
    if (status == MMEBM_OK) {
        jsmn_init(&parser);
        if (jsmn_parse(&parser, text, length, tokens, json->count) != count)
            status = mmebm__fail(context, MMEBM_E_FORMAT, "%s: not valid JSON near byte %u", what, parser.pos);
        else
            status = check_tokens(json, length, tokens);
    }
    mmebm__free(context, tokens, tokens_size);
    if (status != MMEBM_OK) mmebm__json_free(json);
    return status;
}

void mmebm__json_free(mmebm_json *json)
{
    if (json->nodes) mmebm__free(json->context, json->nodes, json->count * sizeof *json->nodes);
    json->nodes = NULL;
    json->count = 0;
}

/* ---- values */

mmebm_status mmebm__json_fail(const mmebm_json *json, uint32_t node, const char *wanted)
{
    enum { SHOWN = 40 };
    const mmebm_json_node *n = &json->nodes[node];
    const uint32_t length = n->end - n->start;
    return mmebm__fail(json->context, MMEBM_E_FORMAT, "%s: byte %u: found '%.*s%s', wanted %s", json->what, n->start,
                       (int)(length < SHOWN ? length : SHOWN), json->text + n->start, length < SHOWN ? "" : "...",
                       wanted);
}

mmebm_status mmebm__json_expect(const mmebm_json *json, uint32_t node, mmebm_json_kind kind)
{
    static const char *const names[MMEBM_JSON_KIND_COUNT] = {"an object", "an array", "a string", "a number",
                                                             "true, false or null"};
    return json->nodes[node].kind == kind ? MMEBM_OK : mmebm__json_fail(json, node, names[kind]);
}

/* Digits without sign, fraction or exponent; 0 if there is anything else or the value exceeds max. */
static int parse_digits(const char *text, size_t length, uint64_t max, uint64_t *value)
{
    uint64_t v = 0;
    if (length == 0 || digits(text, length) != length) return 0;
    for (size_t i = 0; i < length; ++i) {
        if (__builtin_mul_overflow(v, (uint64_t)10, &v)) return 0;
        if (__builtin_add_overflow(v, (uint64_t)(text[i] - '0'), &v)) return 0;
    }
    *value = v;
    return v <= max;
}

mmebm_status mmebm__json_integer(const mmebm_json *json, uint32_t node, int64_t min, int64_t max, int64_t *value)
{
    MMEBM_TRY(mmebm__json_expect(json, node, MMEBM_JSON_NUMBER));
    const mmebm_json_node *n = &json->nodes[node];
    const uint32_t negative = json->text[n->start] == '-';
    uint64_t magnitude;
    if (parse_digits(json->text + n->start + negative, n->end - n->start - negative, INT64_MAX, &magnitude)) {
        *value = negative ? -(int64_t)magnitude : (int64_t)magnitude;
        if (*value >= min && *value <= max) return MMEBM_OK;
    }
    char wanted[80];
    snprintf(wanted, sizeof wanted, "an integer from %lld to %lld", (long long)min, (long long)max);
    return mmebm__json_fail(json, node, wanted);
}

mmebm_status mmebm__json_unsigned(const mmebm_json *json, uint32_t node, uint64_t max, uint64_t *value)
{
    MMEBM_TRY(mmebm__json_expect(json, node, MMEBM_JSON_NUMBER));
    const mmebm_json_node *n = &json->nodes[node];
    if (parse_digits(json->text + n->start, n->end - n->start, max, value)) return MMEBM_OK;
    char wanted[80];
    snprintf(wanted, sizeof wanted, "an integer from 0 to %llu", (unsigned long long)max);
    return mmebm__json_fail(json, node, wanted);
}

/* strtod would look for the locale's decimal point: the point is taken out and the exponent corrected instead. */
mmebm_status mmebm__json_real(const mmebm_json *json, uint32_t node, double *value)
{
    MMEBM_TRY(mmebm__json_expect(json, node, MMEBM_JSON_NUMBER));
    const mmebm_json_node *n = &json->nodes[node];
    char plain[MMEBM_JSON_MAX_NUMBER + 24];
    size_t length = 0;
    long fraction = 0, exponent = 0;
    int after_point = 0;
    for (uint32_t i = n->start; i < n->end; ++i) {
        const char c = json->text[i];
        if (c == '.') {
            after_point = 1;
        } else if (c == 'e' || c == 'E') {
            exponent = strtol(json->text + i + 1, NULL, 10); /* stops at the end of the number; saturates */
            break;
        } else {
            plain[length++] = c;
            fraction += after_point;
        }
    }
    if (exponent > 100000) exponent = 100000;
    if (exponent < -100000) exponent = -100000;
    snprintf(plain + length, sizeof plain - length, "e%ld", exponent - fraction);
    *value = strtod(plain, NULL);
    return *value - *value == 0 ? MMEBM_OK : mmebm__json_fail(json, node, "a number in the range of double");
}

mmebm_status mmebm__json_float(const mmebm_json *json, uint32_t node, float *value)
{
    double real;
    MMEBM_TRY(mmebm__json_real(json, node, &real));
    if (real >= 0x1.ffffffp127 || real <= -0x1.ffffffp127) /* they would round to infinity */
        return mmebm__json_fail(json, node, "a number in the range of float");
    *value = (float)real;
    return MMEBM_OK;
}

mmebm_status mmebm__json_string(const mmebm_json *json, uint32_t node, char *out, size_t size)
{
    MMEBM_TRY(mmebm__json_expect(json, node, MMEBM_JSON_STRING));
    const mmebm_json_node *n = &json->nodes[node];
    size_t written;
    if (!decode_string(json->text + n->start, n->end - n->start, out, size - 1, &written)) {
        char wanted[64];
        snprintf(wanted, sizeof wanted, "a string of at most %zu bytes", size - 1);
        return mmebm__json_fail(json, node, wanted);
    }
    out[written] = '\0';
    return MMEBM_OK;
}

static mmebm_status key_missing(const mmebm_json *json, uint32_t object, const char *key)
{
    return mmebm__fail(json->context, MMEBM_E_FORMAT, "%s: byte %u: the key '%s' is missing", json->what,
                       json->nodes[object].start, key);
}

mmebm_status mmebm__json_member(const mmebm_json *json, uint32_t object, const char *key, uint32_t *value)
{
    MMEBM_TRY(mmebm__json_expect(json, object, MMEBM_JSON_OBJECT));
    for (uint32_t pair = 0, node = object + 1; pair < json->nodes[object].children; ++pair) {
        char found[LONGEST_KEY];
        MMEBM_TRY(mmebm__json_string(json, node, found, sizeof found));
        *value = node + 1;
        if (strcmp(found, key) == 0) return MMEBM_OK;
        node = json->nodes[node + 1].next;
    }
    return key_missing(json, object, key);
}

mmebm_status mmebm__json_members(const mmebm_json *json, uint32_t object, uint32_t count, uint32_t optional,
                                 const char *const *keys, uint32_t *values)
{
    uint64_t found = 0;
    MMEBM_TRY(mmebm__json_expect(json, object, MMEBM_JSON_OBJECT));
    for (uint32_t pair = 0, node = object + 1; pair < json->nodes[object].children; ++pair) {
        char key[LONGEST_KEY];
        uint32_t k = 0;
        MMEBM_TRY(mmebm__json_string(json, node, key, sizeof key));
        while (k < count && strcmp(key, keys[k]) != 0) ++k;
        if (k == count) return mmebm__json_fail(json, node, "a known key");
        if (found >> k & 1) return mmebm__json_fail(json, node, "each key once");
        found |= UINT64_C(1) << k;
        values[k] = node + 1;
        node = json->nodes[node + 1].next;
    }
    for (uint32_t k = 0; k < count; ++k) {
        if (found >> k & 1) continue;
        if (k < count - optional) return key_missing(json, object, keys[k]);
        values[k] = 0;
    }
    return MMEBM_OK;
}

mmebm_status mmebm__json_integers(const mmebm_json *json, uint32_t array, uint32_t capacity, int64_t min, int64_t max,
                                  uint32_t *count, int64_t *values)
{
    MMEBM_TRY(mmebm__json_expect(json, array, MMEBM_JSON_ARRAY));
    *count = json->nodes[array].children;
    if (*count > capacity) {
        char wanted[64];
        snprintf(wanted, sizeof wanted, "an array of at most %u integers", capacity);
        return mmebm__json_fail(json, array, wanted);
    }
    for (uint32_t i = 0; i < *count; ++i) /* integers have no children: they follow each other */
        MMEBM_TRY(mmebm__json_integer(json, array + 1 + i, min, max, &values[i]));
    return MMEBM_OK;
}

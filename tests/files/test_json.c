/* SPDX-License-Identifier: Apache-2.0
 *
 * The JSON reader takes exactly RFC 8259 within its caps; numbers survive writing and reading bit for bit in any
 * locale.
 */
#include <locale.h>

#include "file_support.h"
#include "json.h"

static mmebm_context *context;
static counting_allocator allocator;

static mmebm_status parse(const char *text, size_t length)
{
    mmebm_json json;
    const mmebm_status status = mmebm__json_parse(context, "text", text, length, &json);
    if (status == MMEBM_OK) mmebm__json_free(&json);
    return status;
}

TEST(valid_texts_are_read)
{
    static const char *const texts[] = {
        "{}", "[]", " [ ] ", "\t\r\n{\n}\n", "[0]", "[-0]", "[1.5e+10]", "[1E5]", "[0.1]", "[-12.25e-3]",
        "[true,false,null]", "[\"\"]", "[\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"]", "[\"\\u00e4\\uD834\\uDD1E\"]",
        "[\"\xc3\xa4\xf0\x9d\x84\x9e\"]", "{\"a\":1}", "{\"a\":{\"b\":[1,[2,{}]]},\"c\":\"d\"}",
        "{ \"a\" : 1 , \"b\" : 2 }", "[[[[]]],{\"\":[]}]", "[{},{},[],[{}]]", "\"alone\"",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; ++i)
        CHECK_MSG(parse(texts[i], strlen(texts[i])) == MMEBM_OK, "%s", texts[i]);
}

TEST(everything_else_is_refused)
{
    static const char *const texts[] = {
        "", " ", "{", "[", "}", "]", "{]", "[}", "[1", "{\"a\"", "{\"a\":", "{\"a\":1", "[1,]", "[,1]", "[1,,2]",
        "[,]", "{,}", "{\"a\":1,}", "{\"a\" 1}", "{\"a\":1 \"b\":2}", "[1 2]", "[\"a\" \"b\"]", "{\"a\"}",
        "{\"a\",\"b\"}", "{1:2}", "{a:1}", "{null:1}", "{\"a\":1:2}", "{\"a\"::1}", "{:1}", "[\"a\":1]", "[1:2]",
        "{\"a\":\"b\":\"c\"}", "{[]:1}", "{{}:1}", "{\"a\":1,2}", "{\"a\":[1,2}", "[[1,2]", "[]]", "[][]", "{}{}",
        "[]x", "[] []", "[],", ",[]", "[01]", "[00]", "[-]", "[+1]", "[1.]", "[.5]", "[1.e5]", "[1e]", "[1e+]",
        "[1e5.5]", "[0x10]", "[1_000]", "[--1]", "[1-2]", "[NaN]", "[Infinity]", "[-Infinity]", "[nan]", "[nul]",
        "[nulll]", "[tru]", "[truee]", "[falsy]", "[True]", "[\"\\x\"]", "[\"\\u12\"]", "[\"\\u12G4\"]",
        "[\"\\uD800\"]", "[\"\\uDC00\"]", "[\"\\uD800\\uD800\"]", "[\"\\uD800x\"]", "[\"\\u0000\"]", "[\"\t\"]",
        "[\"\n\"]", "[\"a]", "[\"a\\\"]", "['a']", "[\"\\", "[\"\\u", "[\"\x80\"]", "[\"\xc3\"]", "[\"\xc0\xaf\"]",
        "[\"\xe0\x80\xaf\"]", "[\"\xed\xa0\x80\"]", "[\"\xf4\x90\x80\x80\"]", "[\"\xff\"]", "[1]/", "[1]/**/",
        "//\n[1]", "\xef\xbb\xbf[]", "[1\f]", "[\v]", "1", "true", "nothing", "{\"a\":}", "{\"a\":,\"b\":1}",
        "[\"a\",\"b\"", ":", ":[]", "[:]", "{\"a\"}:1", "[{\"a\":1]}",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; ++i) {
        CHECK_MSG(parse(texts[i], strlen(texts[i])) == MMEBM_E_FORMAT, "%s", texts[i]);
        CHECK(mmebm_last_error(context)[0] != '\0');
    }
    CHECK(parse("[]\0[]", 5) == MMEBM_E_FORMAT);
    CHECK(parse("[1\0]", 4) == MMEBM_E_FORMAT);
    CHECK(parse("[\"a\0b\"]", 7) == MMEBM_E_FORMAT);
}

/* Text without a final 0, in memory of exactly its size: an address sanitizer sees one byte too many. */
TEST(every_beginning_of_a_text_is_refused)
{
    static const char text[] = "{\"a\\u00e4\\uD834\\uDD1E\":[1.5e3,-2,{\"b\":[true,null,\"\xc3\xa4\"]}],"
                               "\"c\":{\"d\":\"\"}}";
    for (size_t length = 0; length < sizeof text - 1; ++length) {
        char *copy = malloc(length + 1);
        REQUIRE(copy);
        char *exact = copy + 1; /* an odd address, ending at the end of the block */
        memcpy(exact, text, length);
        CHECK_MSG(parse(exact, length) == MMEBM_E_FORMAT, "%zu bytes", length);
        free(copy);
    }
    CHECK(parse(text, sizeof text - 1) == MMEBM_OK);
}

TEST(depth_length_and_count_are_capped)
{
    char nested[2 * MMEBM_JSON_MAX_DEPTH + 4];
    for (int depth = MMEBM_JSON_MAX_DEPTH; depth <= MMEBM_JSON_MAX_DEPTH + 1; ++depth) {
        memset(nested, '[', (size_t)depth);
        memset(nested + depth, ']', (size_t)depth);
        CHECK(parse(nested, 2 * (size_t)depth) == (depth > MMEBM_JSON_MAX_DEPTH ? MMEBM_E_FORMAT : MMEBM_OK));
    }
    const size_t size = (size_t)MMEBM_JSON_MAX_LENGTH + 1;
    char *text = malloc(size);
    REQUIRE(text);
    memset(text, '[', size); /* deep: must be refused at once, not after time that grows with the square */
    CHECK(parse(text, size - 1) == MMEBM_E_FORMAT);
    memset(text, ' ', size);
    memcpy(text, "[]", 2);
    CHECK(parse(text, size - 1) == MMEBM_OK);
    CHECK(parse(text, size) == MMEBM_E_FORMAT);
    for (size_t i = 0; i + 1 < size; i += 2) memcpy(text + i, "1,", 2);
    text[0] = '[';
    text[size - 2] = ']';
    const uint64_t peak = allocator.peak;
    CHECK(parse(text, size - 1) == MMEBM_E_FORMAT);
    CHECK(allocator.peak == peak); /* refused before memory was taken for it */
    free(text);
}

TEST(values_are_checked)
{
    static const char text[] = "{\"i\":-5,\"big\":9223372036854775808,\"huge\":18446744073709551615,"
                               "\"over\":18446744073709551616,"
                               "\"real\":2.5,\"exponent\":1e2,\"s\":\"\\u00e4b\",\"n\":null,"
                               "\"a\":[1,2,3],\"far\":1e400,"
                               "\"wide\":1e39,\"low\":-9223372036854775808}";
    static const char *const keys[] = {"i", "big", "huge", "over", "real", "exponent",
                                       "s", "n",   "a",    "far",  "wide", "low"};
    enum { I, BIG, HUGE_, OVER, REAL, EXPONENT, S, N, A, FAR, WIDE, LOW, KEYS };
    uint32_t node[KEYS], count;
    mmebm_json json;
    int64_t integer, integers[3];
    uint64_t natural;
    double real;
    float single;
    char string[4];
    REQUIRE(mmebm__json_parse(context, "text", text, sizeof text - 1, &json) == MMEBM_OK);
    REQUIRE(mmebm__json_members(&json, 0, KEYS, 0, keys, node) == MMEBM_OK);
    CHECK(mmebm__json_integer(&json, node[I], -5, 5, &integer) == MMEBM_OK && integer == -5);
    CHECK(mmebm__json_integer(&json, node[I], -4, 5, &integer) == MMEBM_E_FORMAT);
    CHECK(mmebm__json_integer(&json, node[BIG], INT64_MIN, INT64_MAX, &integer) == MMEBM_E_FORMAT);
    CHECK(mmebm__json_integer(&json, node[LOW], INT64_MIN, INT64_MAX, &integer) == MMEBM_E_FORMAT);
    CHECK(mmebm__json_unsigned(&json, node[HUGE_], UINT64_MAX, &natural) == MMEBM_OK && natural == UINT64_MAX);
    CHECK(mmebm__json_unsigned(&json, node[OVER], UINT64_MAX, &natural) == MMEBM_E_FORMAT);
    CHECK(mmebm__json_unsigned(&json, node[I], UINT64_MAX, &natural) == MMEBM_E_FORMAT);
    CHECK(mmebm__json_integer(&json, node[REAL], 0, 9, &integer) == MMEBM_E_FORMAT);
    CHECK(mmebm__json_integer(&json, node[EXPONENT], 0, 999, &integer) == MMEBM_E_FORMAT);
    CHECK(mmebm__json_real(&json, node[EXPONENT], &real) == MMEBM_OK && real == 100.0);
    CHECK(mmebm__json_real(&json, node[REAL], &real) == MMEBM_OK && real == 2.5);
    CHECK(mmebm__json_real(&json, node[FAR], &real) == MMEBM_E_FORMAT);
    CHECK(mmebm__json_float(&json, node[WIDE], &single) == MMEBM_E_FORMAT);
    CHECK(mmebm__json_string(&json, node[S], string, 4) == MMEBM_OK && strcmp(string, "\xc3\xa4" "b") == 0);
    CHECK(mmebm__json_string(&json, node[S], string, 3) == MMEBM_E_FORMAT);
    CHECK(mmebm__json_string(&json, node[I], string, 4) == MMEBM_E_FORMAT);
    CHECK(mmebm__json_expect(&json, node[N], MMEBM_JSON_LITERAL) == MMEBM_OK);
    CHECK(mmebm__json_integers(&json, node[A], 3, 0, 9, &count, integers) == MMEBM_OK);
    CHECK(count == 3 && integers[0] == 1 && integers[2] == 3);
    CHECK(mmebm__json_integers(&json, node[A], 2, 0, 9, &count, integers) == MMEBM_E_FORMAT);
    CHECK(mmebm__json_integers(&json, node[A], 3, 0, 2, &count, integers) == MMEBM_E_FORMAT);
    CHECK(mmebm__json_members(&json, 0, KEYS - 1, 0, keys, node) == MMEBM_E_FORMAT); /* an unknown key */
    mmebm__json_free(&json);
}

TEST(the_last_keys_may_be_missing)
{
    static const char *const keys[] = {"a", "b", "later"};
    static const struct {
        const char *text;
        uint32_t optional;
        mmebm_status wanted;
    } cases[] = {{"{\"a\":1,\"b\":2}", 1, MMEBM_OK},
                 {"{\"a\":1,\"b\":2}", 0, MMEBM_E_FORMAT},
                 {"{\"a\":1,\"later\":2}", 1, MMEBM_E_FORMAT},
                 {"{\"later\":0,\"b\":2,\"a\":1}", 1, MMEBM_OK}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; ++i) {
        mmebm_json json;
        uint32_t nodes[3];
        REQUIRE(mmebm__json_parse(context, "text", cases[i].text, strlen(cases[i].text), &json) == MMEBM_OK);
        CHECK(mmebm__json_members(&json, 0, 3, cases[i].optional, keys, nodes) == cases[i].wanted);
        if (cases[i].wanted == MMEBM_OK) CHECK((nodes[2] != 0) == (strstr(cases[i].text, "later") != NULL));
        mmebm__json_free(&json);
    }
}

TEST(keys_must_be_there_once)
{
    static const char *const keys[] = {"a", "b"};
    static const char *const texts[] = {
        "{\"a\":1,\"a\":2}", "{\"a\":1}", "{}", "{\"a\":1,\"b\":2,\"c\":3}", "[1,2]", "{\"a\":1,\"\\u0061\":2}",
    };
    uint32_t nodes[2];
    mmebm_json json;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; ++i) {
        REQUIRE(mmebm__json_parse(context, "text", texts[i], strlen(texts[i]), &json) == MMEBM_OK);
        CHECK_MSG(mmebm__json_members(&json, 0, 2, 0, keys, nodes) == MMEBM_E_FORMAT, "%s", texts[i]);
        mmebm__json_free(&json);
    }
}

/* ---- writing */

/* Writes a number as the only element of an array and reads it back. */
static int float_survives(float value)
{
    mmebm_text text = {.context = context};
    mmebm_json json;
    float back = 1.0f;
    int same = 0;
    mmebm__text_raw(&text, "[");
    mmebm__text_float(&text, value);
    mmebm__text_raw(&text, "]");
    if (text.status == MMEBM_OK && mmebm__json_parse(context, "text", text.data, text.length, &json) == MMEBM_OK) {
        same = mmebm__json_float(&json, 1, &back) == MMEBM_OK && memcmp(&back, &value, sizeof back) == 0;
        mmebm__json_free(&json);
    }
    if (!same) printf("  %a became '%s', %a\n", (double)value, text.data ? text.data : "", (double)back);
    mmebm__text_free(&text);
    return same;
}

static int double_survives(double value)
{
    mmebm_text text = {.context = context};
    mmebm_json json;
    double back = 1.0;
    int same = 0;
    mmebm__text_raw(&text, "[");
    mmebm__text_double(&text, value);
    mmebm__text_raw(&text, "]");
    if (text.status == MMEBM_OK && mmebm__json_parse(context, "text", text.data, text.length, &json) == MMEBM_OK) {
        same = mmebm__json_real(&json, 1, &back) == MMEBM_OK && memcmp(&back, &value, sizeof back) == 0;
        mmebm__json_free(&json);
    }
    if (!same) printf("  %a became '%s', %a\n", value, text.data ? text.data : "", back);
    mmebm__text_free(&text);
    return same;
}

/* 64-bit linear congruential numbers (Knuth's MMIX constants); the upper half is used. */
static uint32_t next_bits(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(*state >> 32);
}

static void numbers_survive(int count)
{
    static const float edges[] = {0.0f,  -0.0f, 1.0f,         -1.0f,    0.1f,         1e-6f,         0.70710678f,
                                  1e10f, 1e9f,  999999999.0f, 0.00001f, 0.000012345f, 3.4028235e38f, -3.4028235e38f,
                                  1e-10f, 1.17549435e-38f, 1.4e-45f, 123456789.0f};
    uint64_t state = 1;
    for (size_t i = 0; i < sizeof edges / sizeof edges[0]; ++i) CHECK(float_survives(edges[i]));
    for (int i = 0; i < count; ++i) {
        const uint32_t bits = next_bits(&state);
        const uint64_t wide = (uint64_t)next_bits(&state) << 32 | next_bits(&state);
        float single;
        double real;
        memcpy(&single, &bits, sizeof single);
        memcpy(&real, &wide, sizeof real);
        if (isfinite(single)) CHECK(float_survives(single));
        if (isfinite(real)) CHECK(double_survives(real));
    }
}

TEST(numbers_survive_bit_for_bit)
{
    numbers_survive(20000);
}

TEST(numbers_survive_in_a_locale_with_a_decimal_comma)
{
    static const char *const names[] = {"de_DE.UTF-8", "de_DE.utf8",  "de_DE",
                                        "fr_FR.UTF-8", "fr_FR.utf8", "cs_CZ.UTF-8"};
    const char *found = NULL;
    for (size_t i = 0; i < sizeof names / sizeof names[0] && !found; ++i) found = setlocale(LC_NUMERIC, names[i]);
    if (!found && open_folder()) { /* make one, where the system has what that takes */
        char command[600];
        snprintf(command, sizeof command, "localedef -i de_DE -f UTF-8 %s/de_DE.UTF-8 2>/dev/null", test_folder);
        if (system(command) == 0 && setenv("LOCPATH", test_folder, 1) == 0) found = setlocale(LC_NUMERIC, names[0]);
    }
    if (!found) SKIP("no such locale is installed or can be made");
    CHECK(localeconv()->decimal_point[0] == ',');
    numbers_survive(1000);
    setlocale(LC_NUMERIC, "C");
    if (test_folder[0]) close_folder();
}

TEST(numbers_are_easy_to_read)
{
    static const struct {
        float value;
        const char *text;
    } rows[] = {{0.0f, "0"}, {1.0f, "1"}, {-2.5f, "-2.5"}, {0.5f, "0.5"}, {1000.0f, "1000"}, {0.001f, "0.00100000005"},
                {1e10f, "1e10"}, {1.5e-7f, "1.50000005e-7"}, {12345.678f, "12345.6777"}, {100000000.0f, "100000000"}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; ++i) {
        mmebm_text text = {.context = context};
        mmebm__text_float(&text, rows[i].value);
        REQUIRE(text.status == MMEBM_OK);
        CHECK_MSG(strcmp(text.data, rows[i].text) == 0, "%s, wanted %s", text.data, rows[i].text);
        mmebm__text_free(&text);
    }
}

TEST(strings_are_escaped)
{
    mmebm_text text = {.context = context};
    mmebm__text_string(&text, "a\"b\\c\n\x01\x1f\xc3\xa4/");
    REQUIRE(text.status == MMEBM_OK);
    CHECK(strcmp(text.data, "\"a\\\"b\\\\c\\u000a\\u0001\\u001f\xc3\xa4/\"") == 0);
    mmebm__text_free(&text);
}

TEST(what_json_cannot_hold_is_refused)
{
    mmebm_text text = {.context = context};
    mmebm__text_string(&text, "a\xff");
    CHECK(text.status == MMEBM_E_ARGUMENT);
    mmebm__text_string(&text, "fine");
    CHECK(text.status == MMEBM_E_ARGUMENT); /* the first failure stays */
    mmebm__text_free(&text);
    text = (mmebm_text){.context = context};
    mmebm__text_float(&text, NAN);
    CHECK(text.status == MMEBM_E_ARGUMENT);
    mmebm__text_free(&text);
    text = (mmebm_text){.context = context};
    mmebm__text_double(&text, -INFINITY);
    CHECK(text.status == MMEBM_E_ARGUMENT);
    mmebm__text_free(&text);
}

static mmebm_status parse_and_write(void *user)
{
    mmebm_text text = {.context = context};
    (void)user;
    for (int i = 0; i < 500; ++i) mmebm__text_raw(&text, i ? ",[1,2]" : "[[1,2]");
    mmebm__text_raw(&text, "]");
    mmebm_status status = text.status;
    if (status == MMEBM_OK) status = parse(text.data, text.length);
    mmebm__text_free(&text);
    return status;
}

TEST(memory_may_end_anywhere)
{
    CHECK(survives_allocation_failures(&allocator, parse_and_write, NULL));
}

int main(void)
{
    context = open_context(&allocator);
    if (!context) return EXIT_FAILURE;
    RUN(valid_texts_are_read);
    RUN(everything_else_is_refused);
    RUN(every_beginning_of_a_text_is_refused);
    RUN(depth_length_and_count_are_capped);
    RUN(values_are_checked);
    RUN(the_last_keys_may_be_missing);
    RUN(keys_must_be_there_once);
    RUN(numbers_survive_bit_for_bit);
    RUN(numbers_survive_in_a_locale_with_a_decimal_comma);
    RUN(numbers_are_easy_to_read);
    RUN(strings_are_escaped);
    RUN(what_json_cannot_hold_is_refused);
    RUN(memory_may_end_anywhere);
    mmebm_context_destroy(&context);
    return HARNESS_RESULT();
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * The container: what is written is read again; damage anywhere is found; no file, however made, crashes the reader or
 * makes it take memory that the file cannot fill; a write that fails leaves the old file.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <zlib.h>

#include "file_stream.h"
#include "file_support.h"
#include "safetensors.h"

static mmebm_context *context;
static counting_allocator allocator;

/* ---- a small file: three kinds of tensors, one without elements, one without axes */

enum { TENSORS = 5, FLOATS = 6, HALVES = 3, BYTES = 5 };
static const float float_values[FLOATS] = {0.0f, -1.5f, 3.25e-30f, 1e30f, 0.1f, -0.0f};
static const float half_values[HALVES] = {1.0f, -0.15625f, 1.00390625f}; /* the last lies between two bf16 */
static const float scalar_value[1] = {42.0f};

typedef struct contents {
    float floats[FLOATS], halves[HALVES], scalar[1], none[1];
    unsigned char bytes[BYTES];
} contents;

static mmebm_status save_small(const char *path, int gzip)
{
    contents source;
    mmebm_stored_tensor tensors[TENSORS];
    static const mmebm_metadata metadata[] = {{"kind", "a \"test\""}, {"empty", ""}, {"umlaut", "\xc3\xa4"}};
    memcpy(source.floats, float_values, sizeof source.floats);
    memcpy(source.halves, half_values, sizeof source.halves);
    memcpy(source.scalar, scalar_value, sizeof source.scalar);
    memcpy(source.bytes, "hello", BYTES);
    mmebm__stored_describe(&tensors[0], "bytes", MMEBM_STORED_U8, 1, (const int64_t[]){BYTES});
    mmebm__stored_describe(&tensors[1], "halves", MMEBM_STORED_BF16, 1, (const int64_t[]){HALVES});
    mmebm__stored_describe(&tensors[2], "floats", MMEBM_STORED_F32, 2, (const int64_t[]){2, 3});
    mmebm__stored_describe(&tensors[3], "none", MMEBM_STORED_F32, 2, (const int64_t[]){0, 7});
    mmebm__stored_describe(&tensors[4], "scalar", MMEBM_STORED_F32, 0, NULL);
    void *const memory[TENSORS] = {source.bytes, source.halves, source.floats, source.none, source.scalar};
    for (int t = 0; t < TENSORS; ++t) tensors[t].memory = memory[t];
    return mmebm__safetensors_save(context, path, gzip, TENSORS, tensors, 3, metadata);
}

/* Opens, points every tensor that it knows at *into, loads. */
static mmebm_status load_small(const char *path, contents *into)
{
    mmebm_safetensors *file;
    memset(into, 0x77, sizeof *into);
    mmebm_status status = mmebm__safetensors_open(context, path, &file);
    if (status != MMEBM_OK) return status;
    static const char *const names[] = {"floats", "halves", "scalar", "none", "bytes"};
    void *const memory[] = {into->floats, into->halves, into->scalar, into->none, into->bytes};
    static const size_t counts[] = {FLOATS, HALVES, 1, 0, BYTES};
    for (int t = 0; t < TENSORS; ++t) {
        mmebm_stored_tensor *tensor = mmebm__safetensors_find(file, names[t]);
        if (tensor && tensor->count == counts[t]) tensor->memory = memory[t];
    }
    status = mmebm__safetensors_load(file);
    mmebm__safetensors_close(&file);
    return status;
}

static int is_small(const contents *found)
{
    static const float rounded[HALVES] = {1.0f, -0.15625f, 1.0f}; /* to even */
    return memcmp(found->floats, float_values, sizeof float_values) == 0 &&
           memcmp(found->halves, rounded, sizeof rounded) == 0 && found->scalar[0] == 42.0f &&
           memcmp(found->bytes, "hello", BYTES) == 0;
}

static void check_round_trip(int gzip)
{
    const char *path = in_folder("small");
    contents found;
    mmebm_safetensors *file;
    const char *value;
    REQUIRE(save_small(path, gzip) == MMEBM_OK);
    CHECK(load_small(path, &found) == MMEBM_OK);
    CHECK(is_small(&found));
    CHECK(count_files(".tmp.") == 0);
    REQUIRE(mmebm__safetensors_open(context, path, &file) == MMEBM_OK);
    CHECK(mmebm__safetensors_count(file) == TENSORS);
    CHECK(mmebm__safetensors_metadata(file, "kind", &value) == MMEBM_OK && strcmp(value, "a \"test\"") == 0);
    CHECK(mmebm__safetensors_metadata(file, "empty", &value) == MMEBM_OK && strcmp(value, "") == 0);
    CHECK(mmebm__safetensors_metadata(file, "umlaut", &value) == MMEBM_OK && strcmp(value, "\xc3\xa4") == 0);
    CHECK(mmebm__safetensors_metadata(file, "absent", &value) == MMEBM_E_FORMAT);
    CHECK(mmebm__safetensors_find(file, "absent") == NULL);
    const mmebm_stored_tensor *tensor = mmebm__safetensors_find(file, "floats");
    CHECK(tensor && tensor->rank == 2 && tensor->shape[0] == 2 && tensor->shape[1] == 3);
    float memory[FLOATS];
    CHECK(mmebm__safetensors_target(file, "floats", 2, (const int64_t[]){2, 3}, memory, 0) == MMEBM_OK);
    CHECK(mmebm__safetensors_target(file, "floats", 2, (const int64_t[]){3, 2}, memory, 0) == MMEBM_E_SHAPE);
    CHECK(mmebm__safetensors_target(file, "floats", 1, (const int64_t[]){6}, memory, 0) == MMEBM_E_SHAPE);
    CHECK(mmebm__safetensors_target(file, "bytes", 1, (const int64_t[]){5}, memory, 0) == MMEBM_E_DTYPE);
    CHECK(mmebm__safetensors_target(file, "absent", 1, (const int64_t[]){6}, memory, 0) == MMEBM_E_FORMAT);
    mmebm__safetensors_close(&file);
}

TEST(a_plain_file_is_read_again)
{
    check_round_trip(0);
}

TEST(a_compressed_file_is_read_again)
{
    check_round_trip(1);
    const file_bytes bytes = read_bytes(in_folder("small"));
    CHECK(bytes.size > 2 && bytes.data[0] == 0x1f && bytes.data[1] == 0x8b);
    free(bytes.data);
}

TEST(equal_contents_make_equal_files)
{
    for (int gzip = 0; gzip <= 1; ++gzip) {
        REQUIRE(save_small(in_folder("one"), gzip) == MMEBM_OK && save_small(in_folder("two"), gzip) == MMEBM_OK);
        const file_bytes one = read_bytes(in_folder("one")), two = read_bytes(in_folder("two"));
        CHECK(one.size == two.size && memcmp(one.data, two.data, one.size) == 0);
        free(one.data);
        free(two.data);
    }
}

/* The data section starts at a multiple of 8 and holds 4-byte elements first: all tensors are aligned. */
TEST(data_is_aligned)
{
    mmebm_safetensors *file;
    REQUIRE(save_small(in_folder("small"), 0) == MMEBM_OK);
    const file_bytes bytes = read_bytes(in_folder("small"));
    REQUIRE(bytes.size > 8);
    CHECK((bytes.data[0] | bytes.data[1] << 8) % 8 == 0 && bytes.data[8] == '{');
    free(bytes.data);
    REQUIRE(mmebm__safetensors_open(context, in_folder("small"), &file) == MMEBM_OK);
    CHECK(mmebm__safetensors_find(file, "floats")->begin % 4 == 0);
    CHECK(mmebm__safetensors_find(file, "scalar")->begin % 4 == 0);
    CHECK(mmebm__safetensors_find(file, "halves")->begin == 4 * (FLOATS + 1));
    CHECK(mmebm__safetensors_find(file, "bytes")->begin == 4 * (FLOATS + 1) + 2 * HALVES);
    mmebm__safetensors_close(&file);
}

TEST(bf16_rounds_to_nearest_even)
{
    static const uint32_t rows[][2] = {
        {0x3f800000, 0x3f80}, {0x3f808000, 0x3f80}, {0x3f808001, 0x3f81}, {0x3f818000, 0x3f82}, {0x3f817fff, 0x3f81},
        {0x80000000, 0x8000}, {0x00000001, 0x0000}, {0x00008001, 0x0001}, {0x7f7fffff, 0x7f80}, {0x7f800000, 0x7f80},
        {0xff800000, 0xff80}, {0x7f800001, 0x7fc0}, {0xffc12345, 0xffc1}, {0x7fffffff, 0x7fff},
    };
    enum { ROWS = sizeof rows / sizeof rows[0] };
    mmebm_stored_tensor tensor;
    mmebm_piece *piece = malloc(sizeof *piece);
    float values[ROWS];
    REQUIRE(piece);
    for (int i = 0; i < ROWS; ++i) memcpy(&values[i], &rows[i][0], sizeof values[i]);
    mmebm__stored_describe(&tensor, "t", MMEBM_STORED_BF16, 1, (const int64_t[]){ROWS});
    tensor.memory = values;
    CHECK(mmebm__stored_encode(context, &tensor, 0, ROWS, piece) == MMEBM_OK);
    for (int i = 0; i < ROWS; ++i) {
        const uint32_t found = piece->bytes[2 * i] | (uint32_t)piece->bytes[2 * i + 1] << 8;
        CHECK_MSG(found == rows[i][1], "%08x became %04x", rows[i][0], found);
    }
    free(piece);
}

/* Several pieces, the last of them short, on the host and on the device. */
TEST(large_tensors_stream_in_pieces)
{
    enum { COUNT = 3 * MMEBM_PIECE_BYTES / 4 + 5 };
    float *values = malloc(COUNT * sizeof *values), *found = malloc(COUNT * sizeof *values), *device;
    mmebm_stored_tensor tensors[2];
    mmebm_safetensors *file;
    REQUIRE(values && found && mmebm__device_floats(context, COUNT, &device) == MMEBM_OK);
    for (int i = 0; i < COUNT; ++i) values[i] = (float)i * 0.37f;
    CHECK(context->ops->upload(context->device, device, values, COUNT * sizeof *values) == MMEBM_OK);
    mmebm__stored_describe(&tensors[0], "device", MMEBM_STORED_F32, 1, (const int64_t[]){COUNT});
    mmebm__stored_describe(&tensors[1], "host", MMEBM_STORED_F32, 1, (const int64_t[]){COUNT});
    tensors[0].memory = device;
    tensors[0].on_device = 1;
    tensors[1].memory = values;
    for (int gzip = 0; gzip <= 1; ++gzip) {
        CHECK(mmebm__safetensors_save(context, in_folder("large"), gzip, 2, tensors, 0, NULL) == MMEBM_OK);
        CHECK(tensors[0].crc == tensors[1].crc);
        REQUIRE(mmebm__safetensors_open(context, in_folder("large"), &file) == MMEBM_OK);
        CHECK(mmebm__safetensors_target(file, "host", 1, (const int64_t[]){COUNT}, device, 1) == MMEBM_OK);
        CHECK(mmebm__safetensors_target(file, "device", 1, (const int64_t[]){COUNT}, found, 0) == MMEBM_OK);
        memset(found, 0, COUNT * sizeof *found);
        CHECK(mmebm__safetensors_load(file) == MMEBM_OK);
        CHECK(memcmp(values, found, COUNT * sizeof *found) == 0);
        memset(found, 0, COUNT * sizeof *found);
        CHECK(context->ops->download(context->device, found, device, COUNT * sizeof *found) == MMEBM_OK);
        CHECK(memcmp(values, found, COUNT * sizeof *found) == 0);
        mmebm__safetensors_close(&file);
    }
    mmebm__device_free(context, device, COUNT);
    free(values);
    free(found);
}

/* ---- damage */

static int is_damage(mmebm_status status)
{
    return status == MMEBM_E_FORMAT || status == MMEBM_E_DTYPE;
}

static void truncate_everywhere(int gzip)
{
    contents found;
    REQUIRE(save_small(in_folder("small"), gzip) == MMEBM_OK);
    const file_bytes bytes = read_bytes(in_folder("small"));
    for (size_t size = 0; size < bytes.size; ++size) {
        const mmebm_status status = load_small(bytes_as_file(bytes.data, size), &found);
        CHECK_MSG(status == MMEBM_E_FORMAT, "%zu of %zu bytes: %s", size, bytes.size, mmebm_status_name(status));
        CHECK(mmebm_last_error(context)[0] != '\0');
    }
    free(bytes.data);
}

TEST(a_plain_file_cut_anywhere_is_refused)
{
    truncate_everywhere(0);
}

TEST(a_compressed_file_cut_anywhere_is_refused)
{
    truncate_everywhere(1);
}

/* A flipped bit is found, or it is one of those that carry nothing: *harmless counts these, they load as before. */
static void flip_everywhere(int gzip, int *harmless)
{
    contents found;
    REQUIRE(save_small(in_folder("small"), gzip) == MMEBM_OK);
    const file_bytes bytes = read_bytes(in_folder("small"));
    for (size_t bit = 0; bit < 8 * bytes.size; ++bit) {
        bytes.data[bit / 8] ^= (unsigned char)(1u << bit % 8);
        const mmebm_status status = load_small(bytes_as_file(bytes.data, bytes.size), &found);
        bytes.data[bit / 8] ^= (unsigned char)(1u << bit % 8);
        CHECK_MSG(is_damage(status) || (status == MMEBM_OK && is_small(&found)), "bit %zu: %s", bit,
                  mmebm_status_name(status));
        *harmless += status == MMEBM_OK;
    }
    free(bytes.data);
}

/* In a plain file every bit counts but bit 5 of a hexadecimal letter in an escape, of which this file has none. The
 * shape of the tensor without elements is checked by whoever knows the shape: its axes' bits are the others. */
TEST(every_flipped_bit_of_a_plain_file_is_found)
{
    int harmless = 0;
    flip_everywhere(0, &harmless);
    CHECK_MSG(harmless <= 8, "%d bits carry nothing", harmless);
}

/* gzip's header has a time, a flag and a system that its checksum does not cover: 5 bytes and some flags. */
TEST(every_flipped_bit_of_a_compressed_file_is_found)
{
    int harmless = 0;
    flip_everywhere(1, &harmless);
    CHECK_MSG(harmless <= 64, "%d bits carry nothing", harmless);
}

TEST(bytes_after_the_end_are_refused)
{
    contents found;
    for (int gzip = 0; gzip <= 1; ++gzip) {
        REQUIRE(save_small(in_folder("small"), gzip) == MMEBM_OK);
        file_bytes bytes = read_bytes(in_folder("small"));
        REQUIRE(bytes.data);
        bytes.data[bytes.size] = 0; /* read_bytes leaves room for it */
        REQUIRE(write_bytes(in_folder("long"), bytes.data, bytes.size + 1));
        CHECK(load_small(in_folder("long"), &found) == MMEBM_E_FORMAT);
        free(bytes.data);
    }
}

/* ---- headers that nobody should write */

#define META "\"__metadata__\":{\"mmebm.crc32\":\"00000000\"}"
#define ENTRY(name, dtype, shape, begin, end)                                                      \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" begin "," end "]}"

TEST(hostile_headers_are_refused)
{
    static const struct {
        const char *header;
        size_t data_size;
        mmebm_status status;
        const char *sentence; /* a part of it */
    } rows[] = {
        {"{}", 0, MMEBM_E_FORMAT, "mmebm.crc32"},
        {"{" ENTRY("a", "F32", "[1]", "0", "4") "}", 4, MMEBM_E_FORMAT, "mmebm.crc32"},
        {"{" META "," ENTRY("a", "F32", "[1]", "0", "4") "}", 4, MMEBM_E_FORMAT, "crc32.a"},
        {"{\"__metadata__\":{\"mmebm.crc32\":\"0000000\"}}", 0, MMEBM_E_FORMAT, "8 hexadecimal"},
        {"{\"__metadata__\":{\"mmebm.crc32\":\"000000000\"}}", 0, MMEBM_E_FORMAT, "8 hexadecimal"},
        {"{\"__metadata__\":{\"mmebm.crc32\":\"0000000A\"}}", 0, MMEBM_E_FORMAT, "8 hexadecimal"},
        {"{\"__metadata__\":{\"mmebm.crc32\":\"00000001\"}}", 0, MMEBM_E_FORMAT, "metadata is damaged"},
        {"{\"__metadata__\":{\"a\":1}}", 0, MMEBM_E_FORMAT, "a string"},
        {"{\"__metadata__\":{\"a\":{}}}", 0, MMEBM_E_FORMAT, "a string"},
        {"{\"__metadata__\":[]}", 0, MMEBM_E_FORMAT, "an object"},
        {"{" META "," META "}", 0, MMEBM_E_FORMAT, "once"},
        {"{\"__metadata__\":{\"a\":\"\",\"a\":\"\"}}", 0, MMEBM_E_FORMAT, "twice"},
        {"[]", 0, MMEBM_E_FORMAT, "an object"},
        {"\"\"", 0, MMEBM_E_FORMAT, "an object"},
        {"{\"a\":1}", 0, MMEBM_E_FORMAT, "an object"},
        {"{\"a\":{}}", 0, MMEBM_E_FORMAT, "missing"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":1}}", 4, MMEBM_E_FORMAT, "known key"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"shape\":[1],\"data_offsets\":[0,4]}}", 4, MMEBM_E_FORMAT, "once"},
        {"{" ENTRY("a", "F16", "[1]", "0", "2") "}", 2, MMEBM_E_DTYPE, "F16"},
        {"{" ENTRY("a", "f32", "[1]", "0", "4") "}", 4, MMEBM_E_DTYPE, "f32"},
        {"{" ENTRY("a", "a type with a very long name", "[1]", "0", "4") "}", 4, MMEBM_E_FORMAT, "string of at most"},
        {"{\"a\":{\"dtype\":4,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, MMEBM_E_FORMAT, "a string"},
        {"{" ENTRY("a", "F32", "[-1]", "0", "4") "}", 4, MMEBM_E_FORMAT, "integer"},
        {"{" ENTRY("a", "F32", "[1.0]", "0", "4") "}", 4, MMEBM_E_FORMAT, "integer"},
        {"{" ENTRY("a", "F32", "[1e0]", "0", "4") "}", 4, MMEBM_E_FORMAT, "integer"},
        {"{" ENTRY("a", "F32", "[\"1\"]", "0", "4") "}", 4, MMEBM_E_FORMAT, "a number"},
        {"{" ENTRY("a", "F32", "1", "0", "4") "}", 4, MMEBM_E_FORMAT, "an array"},
        {"{" ENTRY("a", "F32", "[9223372036854775808]", "0", "4") "}", 4, MMEBM_E_FORMAT, "integer"},
        {"{" ENTRY("a", "F32", "[1,1,1,1,1,1,1]", "0", "4") "}", 4, MMEBM_E_FORMAT, "at most 6"},
        {"{" ENTRY("a", "F32", "[4294967296,4294967296,4]", "0", "4") "}", 4, MMEBM_E_FORMAT, "do not agree"},
        {"{" ENTRY("a", "F32", "[4611686018427387905]", "0", "4") "}", 4, MMEBM_E_FORMAT, "do not agree"},
        {"{" ENTRY("a", "F32", "[0,9223372036854775807]", "0", "4") "}", 4, MMEBM_E_FORMAT, "do not agree"},
        {"{" ENTRY("a", "F32", "[2]", "0", "4") "}", 4, MMEBM_E_FORMAT, "do not agree"},
        {"{" ENTRY("a", "F32", "[1]", "4", "0") "}", 4, MMEBM_E_FORMAT, "do not agree"},
        {"{" ENTRY("a", "F32", "[1]", "0", "1e2") "}", 4, MMEBM_E_FORMAT, "integer"},
        {"{" ENTRY("a", "F32", "[1]", "-4", "0") "}", 4, MMEBM_E_FORMAT, "integer"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4, MMEBM_E_FORMAT, "two offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,4]}}", 4, MMEBM_E_FORMAT, "at most 2"},
        {"{" ENTRY("a", "F32", "[1]", "4", "8") "}", 8, MMEBM_E_FORMAT, "hole"},
        {"{" ENTRY("a", "F32", "[1]", "0", "4")
         "," ENTRY("b", "F32", "[1]", "8", "12") "}", 12, MMEBM_E_FORMAT, "hole"},
        {"{" ENTRY("a", "F32", "[2]", "0", "8")
         "," ENTRY("b", "F32", "[2]", "4", "12") "}", 12, MMEBM_E_FORMAT, "overlaps"},
        {"{" ENTRY("a", "F32", "[1]", "0", "4")
         "," ENTRY("b", "F32", "[1]", "0", "4") "}", 4, MMEBM_E_FORMAT, "overlaps"},
        {"{" ENTRY("a", "F32", "[1]", "0", "4") "," ENTRY("a", "F32", "[1]", "4", "8") "}", 8, MMEBM_E_FORMAT, "twice"},
        {"{" ENTRY("a", "F32", "[1]", "0", "4")
         "," ENTRY("\\u0061", "F32", "[1]", "4", "8") "}", 8, MMEBM_E_FORMAT, "twice"},
        {"{" ENTRY("a", "F32", "[1]", "0", "4") "}", 3, MMEBM_E_FORMAT, "tells of 4"},
        {"{" ENTRY("a", "F32", "[1]", "0", "4") "}", 5, MMEBM_E_FORMAT, "tells of 4"},
        {"{" ENTRY("a", "F32", "[1099511627776]", "0", "4398046511104") "}", 4, MMEBM_E_FORMAT, "tells of"},
        {"{" ENTRY("a", "U8", "[9223372036854775807]", "0", "9223372036854775807") "}", 4, MMEBM_E_FORMAT, "tells of"},
        {"{\"a\0b\":1}", 0, MMEBM_E_FORMAT, "JSON"},
        {"{" META "}x", 0, MMEBM_E_FORMAT, "JSON"},
        {"[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]", 0, MMEBM_E_FORMAT, "deeper"},
    };
    mmebm_safetensors *file;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; ++i) {
        REQUIRE(write_container(in_folder("hostile"), rows[i].header, NULL, rows[i].data_size));
        const mmebm_status status = mmebm__safetensors_open(context, in_folder("hostile"), &file);
        CHECK_MSG(status == rows[i].status && !file, "%s: %s", rows[i].header, mmebm_status_name(status));
        CHECK_MSG(strstr(mmebm_last_error(context), rows[i].sentence) != NULL, "%s: %s", rows[i].header,
                  mmebm_last_error(context));
        if (file) mmebm__safetensors_close(&file);
    }
}

TEST(a_name_has_a_longest_length)
{
    char header[512], name[MMEBM_FILE_MAX_NAME + 2];
    mmebm_safetensors *file;
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    snprintf(header, sizeof header, "{\"%s\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", name);
    REQUIRE(write_container(in_folder("hostile"), header, NULL, 4));
    CHECK(mmebm__safetensors_open(context, in_folder("hostile"), &file) == MMEBM_E_FORMAT);
    CHECK(strstr(mmebm_last_error(context), "shorter") != NULL);
    mmebm_stored_tensor tensor;
    mmebm__stored_describe(&tensor, name, MMEBM_STORED_F32, 1, (const int64_t[]){0});
    CHECK(mmebm__safetensors_save(context, in_folder("unwritten"), 0, 1, &tensor, 0, NULL) == MMEBM_E_UNSUPPORTED);
    CHECK(access(in_folder("unwritten"), F_OK) != 0);
}

/* Sorting and looking up may not take time that grows with the square, whatever the order in the file. */
TEST(many_tensors_are_read_in_any_order)
{
    enum { COUNT = 20000, LINE = 80 };
    char *header = malloc((size_t)COUNT * LINE);
    mmebm_safetensors *file;
    REQUIRE(header);
    for (int order = 0; order < 3; ++order) {
        size_t at = (size_t)sprintf(header, "{");
        for (int i = 0; i < COUNT; ++i) {
            const int k = order == 0 ? i : order == 1 ? COUNT - 1 - i : (int)(i * 7919LL % COUNT);
            at += (size_t)sprintf(header + at, "%s\"t%d\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[%d,%d]}",
                                  i ? "," : "", k, k, k + 1);
        }
        sprintf(header + at, "}");
        REQUIRE(write_container(in_folder("many"), header, NULL, COUNT));
        CHECK(mmebm__safetensors_open(context, in_folder("many"), &file) == MMEBM_E_FORMAT);
        CHECK(strstr(mmebm_last_error(context), "mmebm.crc32") != NULL); /* all else was right */
    }
    free(header);
}

/* ---- memory that a file may ask for */

TEST(a_huge_header_length_is_refused)
{
    static const uint64_t lengths[] = {0, 1, 100, (uint64_t)16 << 20, ((uint64_t)16 << 20) + 8, (uint64_t)1 << 32,
                                       INT64_MAX, UINT64_MAX, UINT64_MAX - 7};
    contents found;
    const uint64_t peak = allocator.peak;
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; ++i) {
        unsigned char bytes[64] = {0};
        for (int k = 0; k < 8; ++k) bytes[k] = (unsigned char)(lengths[i] >> 8 * k);
        bytes[8] = '{';
        REQUIRE(write_bytes(in_folder("huge"), bytes, sizeof bytes));
        CHECK(load_small(in_folder("huge"), &found) == MMEBM_E_FORMAT);
    }
    CHECK(allocator.peak == peak);
}

/* gzip of `bytes` followed by `zeros` zeros. */
static int write_gzip(const char *path, const void *bytes, size_t size, size_t zeros)
{
    static const char block[1 << 16];
    gzFile file = gzopen(path, "wb9");
    if (!file) return 0;
    int fine = gzwrite(file, bytes, (unsigned)size) == (int)size;
    for (size_t piece; fine && zeros > 0; zeros -= piece) {
        piece = zeros < sizeof block ? zeros : sizeof block;
        fine = gzwrite(file, block, (unsigned)piece) == (int)piece;
    }
    return gzclose(file) == Z_OK && fine;
}

TEST(a_gzip_bomb_takes_no_memory)
{
    static const char header[] = "{" ENTRY("a", "U8", "[1073741824]", "0", "1073741824") "}";
    static const char small[] = "{\"__metadata__\":{\"mmebm.crc32\":\"00000000\"}}";
    unsigned char bytes[256] = {sizeof header - 1};
    mmebm_safetensors *file;
    contents found;
    allocator.peak = allocator.bytes;
    memcpy(bytes + 8, header, sizeof header - 1);
    REQUIRE(write_gzip(in_folder("bomb"), bytes, 8 + sizeof header - 1, 1000)); /* asks for 1 GiB that is not there */
    CHECK(load_small(in_folder("bomb"), &found) == MMEBM_E_FORMAT);
    CHECK(strstr(mmebm_last_error(context), "can hold at most") != NULL);
    bytes[0] = 0;
    bytes[3] = 1; /* a header of 16 MiB in a file of some bytes */
    REQUIRE(write_gzip(in_folder("bomb"), bytes, 9, 1000));
    CHECK(load_small(in_folder("bomb"), &found) == MMEBM_E_FORMAT);
    bytes[0] = sizeof small - 1;
    bytes[3] = 0;
    memcpy(bytes + 8, small, sizeof small - 1);
    REQUIRE(write_gzip(in_folder("bomb"), bytes, 8 + sizeof small - 1, (size_t)64 << 20)); /* goes on and on */
    CHECK(mmebm__safetensors_open(context, in_folder("bomb"), &file) == MMEBM_OK);
    CHECK(mmebm__safetensors_load(file) == MMEBM_E_FORMAT);
    CHECK(strstr(mmebm_last_error(context), "goes on") != NULL);
    mmebm__safetensors_close(&file);
    CHECK_MSG(allocator.peak - allocator.bytes < 1 << 20, "%llu bytes", (unsigned long long)allocator.peak);
}

TEST(damaged_gzip_data_is_refused)
{
    static const unsigned char rows[][24] = {
        {0x1f, 0x8b}, {0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0xff, 0xff}, {0x1f, 0x8b, 7, 0, 0, 0, 0, 0, 0, 3},
        {0x1f, 0x8b, 8, 0xff, 0, 0, 0, 0, 0, 3, 6}, {0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0},
    };
    contents found;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; ++i) {
        REQUIRE(write_bytes(in_folder("gzip"), rows[i], sizeof rows[i]));
        CHECK(load_small(in_folder("gzip"), &found) == MMEBM_E_FORMAT);
    }
}

/* ---- places that are no files */

TEST(what_is_no_file_is_not_read)
{
    contents found;
    REQUIRE(mkdir(in_folder("folder"), 0755) == 0 && mkfifo(in_folder("fifo"), 0644) == 0);
    CHECK(load_small(in_folder("absent"), &found) == MMEBM_E_IO);
    CHECK(strstr(mmebm_last_error(context), "No such file") != NULL);
    CHECK(load_small(in_folder("folder"), &found) == MMEBM_E_IO);
    CHECK(load_small(in_folder("fifo"), &found) == MMEBM_E_IO); /* and does not wait for a writer */
    CHECK(load_small("/dev/zero", &found) == MMEBM_E_IO);
    CHECK(load_small("", &found) == MMEBM_E_IO);
}

TEST(what_is_no_file_is_not_replaced)
{
    struct stat info;
    CHECK(save_small(in_folder("folder"), 0) == MMEBM_E_IO);
    CHECK(save_small(in_folder("fifo"), 0) == MMEBM_E_IO);
    CHECK(save_small("/dev/full", 0) == MMEBM_E_IO);
    CHECK(stat("/dev/full", &info) != 0 || S_ISCHR(info.st_mode));
    CHECK(save_small(in_folder("absent/file"), 0) == MMEBM_E_IO);
    CHECK(save_small("", 0) == MMEBM_E_IO);
    CHECK(count_files(".tmp.") == 0);
}

TEST(a_name_in_the_current_folder_is_written)
{
    char before[512];
    contents found;
    REQUIRE(getcwd(before, sizeof before) && chdir(test_folder) == 0);
    CHECK(save_small("plain", 0) == MMEBM_OK);
    CHECK(load_small("plain", &found) == MMEBM_OK);
    REQUIRE(chdir(before) == 0);
}

TEST(a_folder_without_permission_is_an_error)
{
    const uid_t user = geteuid();
    REQUIRE(mkdir(in_folder("closed"), 0755) == 0);
    if (user == 0) REQUIRE(chmod(test_folder, 0755) == 0);
    if (user == 0 && seteuid(65534) != 0) SKIP("root cannot become another user here");
    if (user != 0) REQUIRE(chmod(in_folder("closed"), 0555) == 0);
    const mmebm_status status = save_small(in_folder("closed/file"), 0);
    if (user == 0) REQUIRE(seteuid(0) == 0);
    CHECK(status == MMEBM_E_IO);
    CHECK(strstr(mmebm_last_error(context), "Permission denied") != NULL);
}

/* ---- replacing */

TEST(permissions_are_kept)
{
    struct stat info;
    const mode_t mask = umask(027);
    unlink(in_folder("mode"));
    REQUIRE(save_small(in_folder("mode"), 0) == MMEBM_OK && stat(in_folder("mode"), &info) == 0);
    CHECK((info.st_mode & 0777) == 0640);
    REQUIRE(chmod(in_folder("mode"), 0604) == 0);
    REQUIRE(save_small(in_folder("mode"), 0) == MMEBM_OK && stat(in_folder("mode"), &info) == 0);
    CHECK((info.st_mode & 0777) == 0604);
    umask(mask);
}

/* Saves while files may have `size` bytes at most: what a full disk does, without one. */
static mmebm_status save_within(rlim_t size, int gzip)
{
    struct rlimit old_limit, limit;
    if (getrlimit(RLIMIT_FSIZE, &old_limit) != 0) return MMEBM_OK;
    limit = (struct rlimit){.rlim_cur = size, .rlim_max = old_limit.rlim_max};
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) return MMEBM_OK;
    const mmebm_status status = save_small(in_folder("kept"), gzip);
    return setrlimit(RLIMIT_FSIZE, &old_limit) == 0 ? status : MMEBM_OK;
}

TEST(a_write_that_fails_leaves_the_old_file)
{
    enum { STEP = 23 };
    struct sigaction ignore = {.sa_handler = SIG_IGN}, old_action;
    REQUIRE(sigaction(SIGXFSZ, &ignore, &old_action) == 0);
    for (int gzip = 0; gzip <= 1; ++gzip) {
        REQUIRE(save_small(in_folder("whole"), gzip) == MMEBM_OK);
        const file_bytes whole = read_bytes(in_folder("whole"));
        REQUIRE(write_bytes(in_folder("kept"), "old", 3));
        for (size_t size = 0; size < whole.size; size += STEP) {
            CHECK(save_within(size, gzip) == MMEBM_E_IO);
            CHECK(strstr(mmebm_last_error(context), "File too large") != NULL);
            const file_bytes bytes = read_bytes(in_folder("kept"));
            CHECK(bytes.size == 3 && memcmp(bytes.data, "old", 3) == 0);
            free(bytes.data);
            CHECK(count_files("kept.tmp.") == 0);
        }
        CHECK(save_within(whole.size, gzip) == MMEBM_OK);
        free(whole.data);
    }
    sigaction(SIGXFSZ, &old_action, NULL);
}

/* A program that is killed while it saves again and again leaves a file that loads. */
TEST(a_killed_writer_leaves_a_whole_file)
{
    enum { KILLS = 20 };
    contents found;
    REQUIRE(save_small(in_folder("killed"), 0) == MMEBM_OK);
    for (int k = 0; k < KILLS; ++k) {
        int running[2];
        char byte;
        REQUIRE(pipe(running) == 0);
        const pid_t child = fork();
        REQUIRE(child >= 0);
        if (child == 0) {
            for (int i = 0;; ++i) {
                if (save_small(in_folder("killed"), i % 2) != MMEBM_OK || write(running[1], "x", 1) != 1) _exit(1);
            }
        }
        CHECK(read(running[0], &byte, 1) == 1);
        usleep((useconds_t)(k * 97 % 1000));
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        close(running[0]);
        close(running[1]);
        CHECK(load_small(in_folder("killed"), &found) == MMEBM_OK && is_small(&found));
    }
}

/* A name left by a process that was killed is not in the way, even if the system gives its number again. */
TEST(left_temporary_files_are_not_in_the_way)
{
    char name[64];
    for (int number = 0; number < 3; ++number) {
        snprintf(name, sizeof name, "left.tmp.%ld.%d", (long)getpid(), number);
        REQUIRE(write_bytes(in_folder(name), "left", 4));
    }
    CHECK(save_small(in_folder("left"), 0) == MMEBM_OK);
    CHECK(count_files("left.tmp.") == 3);
}

/* ---- memory */

typedef struct file_call {
    int gzip, load;
} file_call;

static mmebm_status save_or_load(void *user)
{
    const file_call *call = user;
    contents found;
    return call->load ? load_small(in_folder("memory"), &found) : save_small(in_folder("memory"), call->gzip);
}

TEST(memory_may_end_anywhere)
{
    for (int gzip = 0; gzip <= 1; ++gzip)
        for (int load = 0; load <= 1; ++load) {
            file_call call = {gzip, load};
            CHECK(survives_allocation_failures(&allocator, save_or_load, &call));
        }
    CHECK(count_files("memory.tmp.") == 0);
}

int main(void)
{
    SKIP_WITHOUT_DEVICE(test_backend());
    context = open_context(&allocator);
    if (!context || !open_folder()) return EXIT_FAILURE;
    RUN(a_plain_file_is_read_again);
    RUN(a_compressed_file_is_read_again);
    RUN(equal_contents_make_equal_files);
    RUN(data_is_aligned);
    RUN(bf16_rounds_to_nearest_even);
    RUN(large_tensors_stream_in_pieces);
    RUN(a_plain_file_cut_anywhere_is_refused);
    RUN(a_compressed_file_cut_anywhere_is_refused);
    RUN(every_flipped_bit_of_a_plain_file_is_found);
    RUN(every_flipped_bit_of_a_compressed_file_is_found);
    RUN(bytes_after_the_end_are_refused);
    RUN(hostile_headers_are_refused);
    RUN(a_name_has_a_longest_length);
    RUN(many_tensors_are_read_in_any_order);
    RUN(a_huge_header_length_is_refused);
    RUN(a_gzip_bomb_takes_no_memory);
    RUN(damaged_gzip_data_is_refused);
    RUN(what_is_no_file_is_not_read);
    RUN(what_is_no_file_is_not_replaced);
    RUN(a_name_in_the_current_folder_is_written);
    RUN(a_folder_without_permission_is_an_error);
    RUN(permissions_are_kept);
    RUN(a_write_that_fails_leaves_the_old_file);
    RUN(a_killed_writer_leaves_a_whole_file);
    RUN(left_temporary_files_are_not_in_the_way);
    RUN(memory_may_end_anywhere);
    close_folder();
    mmebm_context_destroy(&context);
    return HARNESS_RESULT();
}

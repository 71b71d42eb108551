/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as a network, model or checkpoint: the readers return a status, and what they accept can be saved and
 * loaded again.
 *
 * Ordinary build: a test that makes its seeds (small files of each kind), replays the files named as arguments and
 * then as many mutations as --mutations says. With -DMMEBM_LIBFUZZER and -fsanitize=fuzzer: a libFuzzer target
 * (docs/file-format.md, "Fuzzing").
 *
 * The first byte of an input is no part of the file: if it is odd, the checksums are made right first. Without that
 * hardly any mutation would pass them.
 */
#include <zlib.h>

#include "../files/every_kind.h"
#include "../files/file_support.h"
#include "json.h"
#include "stored_tensor.h"

enum { LARGEST_FILE = 1 << 16, MEMORY_LIMIT = 64 << 20 };

/* ---- a context whose memory is limited: a file may ask for a large trainer */

typedef struct limited_memory {
    size_t in_use, blocks;
} limited_memory;

static void *limited_allocate(void *user, size_t size, size_t alignment)
{
    limited_memory *memory = user;
    if (size > MEMORY_LIMIT - memory->in_use) return NULL;
    void *block = aligned_alloc(alignment, (size + alignment - 1) & ~(alignment - 1));
    if (!block) return NULL;
    memory->in_use += size;
    ++memory->blocks;
    return block;
}

static void limited_release(void *user, void *block, size_t size)
{
    limited_memory *memory = user;
    memory->in_use -= size;
    --memory->blocks;
    free(block);
}

static limited_memory memory;

static mmebm_context *limited_context(void)
{
    mmebm_context_options options;
    mmebm_context *context = NULL;
    if (mmebm_context_options_init(&options) != MMEBM_OK) return NULL;
    options.backend = "reference";
    options.n_threads = 1;
    options.allocate = limited_allocate;
    options.release = limited_release;
    options.allocator_user = &memory;
    return mmebm_context_create(&options, &context, NULL, 0) == MMEBM_OK ? context : NULL;
}

/* ---- right checksums for a changed file */

/* Writes the checksum over the 8 characters of a string node; other lengths stay. */
static void patch(const mmebm_json *json, char *text, uint32_t node, uint32_t crc)
{
    char digits[MMEBM_CRC_DIGITS + 1];
    if (json->nodes[node].end - json->nodes[node].start != MMEBM_CRC_DIGITS) return;
    snprintf(digits, sizeof digits, "%08x", (unsigned)crc);
    memcpy(text + json->nodes[node].start, digits, MMEBM_CRC_DIGITS);
}

/* CRC of a tensor's data as its entry says, 0 if that makes no sense. */
static uint32_t entry_crc(const mmebm_json *json, uint32_t entry, const unsigned char *data, size_t data_size)
{
    uint32_t node, count;
    int64_t offsets[2];
    if (mmebm__json_member(json, entry, "data_offsets", &node) != MMEBM_OK ||
        mmebm__json_integers(json, node, 2, 0, (int64_t)data_size, &count, offsets) != MMEBM_OK || count != 2 ||
        offsets[0] > offsets[1])
        return 0;
    return (uint32_t)crc32(0, data + offsets[0], (uInt)(offsets[1] - offsets[0]));
}

static void repair_parsed(const mmebm_json *json, char *text, const unsigned char *data, size_t data_size)
{
    static char key[LARGEST_FILE], value[LARGEST_FILE], name[LARGEST_FILE + 8];
    uint32_t metadata, sum_node = 0, sum = 0;
    if (mmebm__json_member(json, 0, "__metadata__", &metadata) != MMEBM_OK ||
        json->nodes[metadata].kind != MMEBM_JSON_OBJECT)
        return;
    for (uint32_t node = 1; node < json->count; node = json->nodes[node + 1].next) {
        uint32_t crc_node;
        if (node + 1 == metadata || mmebm__json_string(json, node, key, sizeof key) != MMEBM_OK) continue;
        snprintf(name, sizeof name, "%s%s", MMEBM_TENSOR_CRC_PREFIX, key);
        if (mmebm__json_member(json, metadata, name, &crc_node) == MMEBM_OK)
            patch(json, text, crc_node, entry_crc(json, node + 1, data, data_size));
    }
    for (uint32_t node = metadata + 1; node < json->nodes[metadata].next; node = json->nodes[node + 1].next) {
        if (mmebm__json_string(json, node, key, sizeof key) != MMEBM_OK) return;
        if (strcmp(key, MMEBM_METADATA_SUM_KEY) == 0)
            sum_node = node + 1;
        else if (mmebm__json_string(json, node + 1, value, sizeof value) == MMEBM_OK)
            sum += mmebm__metadata_crc(key, value);
    }
    if (sum_node) patch(json, text, sum_node, sum);
}

static void repair(mmebm_context *context, unsigned char *bytes, size_t size)
{
    mmebm_json json;
    if (size < 8) return;
    const size_t length = bytes[0] | (size_t)bytes[1] << 8 | (size_t)bytes[2] << 16;
    if (length > size - 8) return;
    char *text = (char *)bytes + 8;
    if (mmebm__json_parse(context, "seed", text, length, &json) != MMEBM_OK) return;
    repair_parsed(&json, text, bytes + 8 + length, size - 8 - length);
    mmebm__json_free(&json);
}

/* ---- one input */

/* What was accepted must be accepted again; otherwise the fuzzer is told. */
static void must(mmebm_status status, const mmebm_context *context)
{
    if (status == MMEBM_OK || status == MMEBM_E_MEMORY) return;
    printf("%s\n", mmebm_last_error(context));
    abort();
}

static void try_network(mmebm_context *context, const char *path, const char *again)
{
    mmebm_network *network;
    if (mmebm_network_load(context, path, &network) != MMEBM_OK) return;
    must(mmebm_network_save(network, again, NULL), context);
    mmebm_network_destroy(&network);
    must(mmebm_network_load(context, again, &network), context);
    mmebm_network_destroy(&network);
}

static void try_model(mmebm_context *context, const char *path, const char *again)
{
    mmebm_model *model;
    if (mmebm_model_load(context, path, &model) != MMEBM_OK) return;
    must(mmebm_model_save(model, again, NULL), context);
    mmebm_model_destroy(&model);
    must(mmebm_model_load(context, again, &model), context);
    mmebm_model_destroy(&model);
}

static void try_trainer(mmebm_context *context, const char *path, const char *again)
{
    mmebm_model *model;
    mmebm_trainer *trainer;
    if (mmebm_trainer_load(context, path, &model, &trainer) != MMEBM_OK) return;
    must(mmebm_trainer_save(trainer, again, NULL), context);
    mmebm_trainer_destroy(&trainer);
    mmebm_model_destroy(&model);
    must(mmebm_trainer_load(context, again, &model, &trainer), context);
    mmebm_trainer_destroy(&trainer);
    mmebm_model_destroy(&model);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static unsigned char bytes[LARGEST_FILE];
    static mmebm_context *context;
    if (size < 1 || size > LARGEST_FILE) return 0;
    if (!context && !((context = limited_context()) && open_folder())) abort();
    const size_t held = memory.blocks;
    memcpy(bytes, data + 1, size - 1);
    if (data[0] & 1) repair(context, bytes, size - 1);
    char path[64];
    snprintf(path, sizeof path, "%s", bytes_as_file(bytes, size - 1));
    try_network(context, path, in_folder("again"));
    try_model(context, path, in_folder("again"));
    try_trainer(context, path, in_folder("again"));
    if (memory.blocks != held) abort();
    return 0;
}

#ifndef MMEBM_LIBFUZZER

/* ---- seeds */

enum { KINDS = 3, SEEDS = 2 * KINDS };
static file_bytes seeds[SEEDS]; /* of each kind, plain and compressed */

static mmebm_trainer *small_trainer(mmebm_model *model)
{
    mmebm_trainer_options options;
    mmebm_trainer *trainer = NULL;
    if (mmebm_trainer_options_init(&options, "default") != MMEBM_OK) return NULL;
    options.batch = 2;
    options.guard_interval = 0;
    return mmebm_trainer_create(model, &options, &trainer) == MMEBM_OK ? trainer : NULL;
}

static int make_seeds(void)
{
    mmebm_context *context = limited_context();
    mmebm_network *network = NULL;
    mmebm_model *model = context ? small_model(context) : NULL;
    mmebm_trainer *trainer = model ? small_trainer(model) : NULL;
    mmebm_save_options options;
    int made = trainer && open_folder() && make_every_kind(context, &network) == MMEBM_OK &&
               mmebm_save_options_init(&options) == MMEBM_OK;
    for (int s = 0; s < SEEDS && made; ++s) {
        const char *path = in_folder("seed");
        options.gzip = s % 2;
        const mmebm_status status = s / 2 == 0   ? mmebm_network_save(network, path, &options)
                                    : s / 2 == 1 ? mmebm_model_save(model, path, &options)
                                                 : mmebm_trainer_save(trainer, path, &options);
        seeds[s] = read_bytes(path);
        made = status == MMEBM_OK && seeds[s].data && seeds[s].size + 1 < LARGEST_FILE;
    }
    if (!made && context) printf("  %s\n", mmebm_last_error(context));
    mmebm_network_destroy(&network);
    mmebm_trainer_destroy(&trainer);
    mmebm_model_destroy(&model);
    close_folder();
    mmebm_context_destroy(&context);
    return made;
}

/* ---- replay */

static uint32_t next_number(uint64_t *state, uint32_t below)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(*state >> 33) % below;
}

/* Changes, removes, doubles or inserts a few bytes; numbers and JSON's own characters are the likely ones. */
static size_t mutate(unsigned char *bytes, size_t size, uint64_t *state)
{
    static const char likely[] = "0123456789-.,:[]{}\"e\\ ";
    for (uint32_t change = 1 + next_number(state, 4); change > 0 && size > 16; --change) {
        const size_t at = next_number(state, (uint32_t)size);
        const size_t count = 1 + next_number(state, size - at < 12 ? (uint32_t)(size - at) : 12);
        switch (next_number(state, 4)) {
        case 0:
            bytes[at] ^= (unsigned char)(1u << next_number(state, 8));
            break;
        case 1:
            bytes[at] = (unsigned char)likely[next_number(state, sizeof likely - 1)];
            break;
        case 2:
            memmove(bytes + at, bytes + at + count, size - at - count);
            size -= count;
            break;
        default:
            if (size + count >= LARGEST_FILE) break;
            memmove(bytes + at + count, bytes + at, size - at);
            size += count;
        }
    }
    return size;
}

/* The length field follows what was removed or inserted in the header, half of the time. */
static void fit_length(unsigned char *bytes, size_t old_size, size_t size)
{
    const size_t length = (bytes[0] | (size_t)bytes[1] << 8 | (size_t)bytes[2] << 16) + size - old_size;
    for (int k = 0; k < 3; ++k) bytes[k] = (unsigned char)(length >> 8 * k);
}

static uint32_t mutation_count = 4000;

TEST(mutated_files_are_survived)
{
    static unsigned char input[LARGEST_FILE + 1];
    uint64_t state = 1;
    for (uint32_t m = 0; m < mutation_count; ++m) {
        const file_bytes *seed = &seeds[m % SEEDS];
        input[0] = (unsigned char)(m / SEEDS % 2);
        memcpy(input + 1, seed->data, seed->size);
        const size_t size = mutate(input + 1, seed->size, &state);
        if (next_number(&state, 2)) fit_length(input + 1, seed->size, size);
        LLVMFuzzerTestOneInput(input, size + 1);
    }
}

TEST(seeds_are_accepted)
{
    static unsigned char input[LARGEST_FILE + 1];
    for (int s = 0; s < SEEDS; ++s) {
        for (unsigned char repaired = 0; repaired <= 1; ++repaired) {
            input[0] = repaired;
            memcpy(input + 1, seeds[s].data, seeds[s].size);
            unlink(in_folder("again"));
            LLVMFuzzerTestOneInput(input, seeds[s].size + 1);
            CHECK(access(in_folder("again"), F_OK) == 0);
        }
    }
}

/* A changed weight, which only the repair lets through: proves that mutations reach the inside. */
TEST(repaired_files_are_accepted)
{
    static unsigned char input[LARGEST_FILE + 1];
    for (int s = 0; s < SEEDS; s += 2) {
        for (unsigned char repaired = 0; repaired <= 1; ++repaired) {
            input[0] = repaired;
            memcpy(input + 1, seeds[s].data, seeds[s].size);
            const size_t length = input[1] | (size_t)input[2] << 8 | (size_t)input[3] << 16;
            input[1 + 8 + length] ^= 1; /* first byte of the first tensor */
            unlink(in_folder("again"));
            LLVMFuzzerTestOneInput(input, seeds[s].size + 1);
            CHECK((access(in_folder("again"), F_OK) == 0) == (repaired == 1));
        }
    }
}

static void replay(const char *path)
{
    const file_bytes bytes = read_bytes(path);
    if (bytes.data) LLVMFuzzerTestOneInput(bytes.data, bytes.size);
    free(bytes.data);
}

/* Arguments: --mutations N, --seeds FOLDER (writes the seeds there as a first corpus), inputs to replay. */
int main(int count, char **arguments)
{
    if (!make_seeds()) return EXIT_FAILURE;
    for (int a = 1; a < count; ++a) {
        if (strcmp(arguments[a], "--mutations") == 0 && a + 1 < count) {
            mutation_count = (uint32_t)strtoul(arguments[++a], NULL, 10);
        } else if (strcmp(arguments[a], "--seeds") == 0 && a + 1 < count) {
            const char *folder = arguments[++a];
            for (int s = 0; s < SEEDS; ++s) {
                char path[512];
                snprintf(path, sizeof path, "%s/seed%d", folder, s);
                memmove(seeds[s].data + 1, seeds[s].data, seeds[s].size); /* read_bytes leaves room for a byte */
                seeds[s].data[0] = 1;
                if (!write_bytes(path, seeds[s].data, seeds[s].size + 1)) return EXIT_FAILURE;
            }
            return EXIT_SUCCESS;
        } else {
            replay(arguments[a]);
        }
    }
    RUN(seeds_are_accepted);
    RUN(repaired_files_are_accepted);
    RUN(mutated_files_are_survived);
    close_folder();
    for (int s = 0; s < SEEDS; ++s) free(seeds[s].data);
    return HARNESS_RESULT();
}
#endif

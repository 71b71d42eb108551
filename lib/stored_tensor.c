/* SPDX-License-Identifier: Apache-2.0
 *
 * Conversion between a tensor's memory and its bytes in a file (stored_tensor.h).
 */
#include "stored_tensor.h"

#include <string.h>
#include <zlib.h>

static const struct {
    const char *name;
    size_t size;
} dtypes[MMEBM_STORED_DTYPE_COUNT] = {{"F32", 4}, {"BF16", 2}, {"U8", 1}};

const char *mmebm__stored_dtype_name(mmebm_stored_dtype dtype)
{
    return dtypes[dtype].name;
}

size_t mmebm__stored_dtype_size(mmebm_stored_dtype dtype)
{
    return dtypes[dtype].size;
}

void mmebm__stored_describe(mmebm_stored_tensor *tensor, const char *name, mmebm_stored_dtype dtype, uint32_t rank,
                            const int64_t *shape)
{
    *tensor = (mmebm_stored_tensor){.name = name, .dtype = dtype, .rank = rank, .count = 1};
    for (uint32_t d = 0; d < rank; ++d) {
        tensor->shape[d] = shape[d];
        tensor->count *= (size_t)shape[d];
    }
}

/* ---- bytes: little-endian on any host */

static void put_u32(unsigned char *bytes, uint32_t value)
{
    bytes[0] = (unsigned char)value;
    bytes[1] = (unsigned char)(value >> 8);
    bytes[2] = (unsigned char)(value >> 16);
    bytes[3] = (unsigned char)(value >> 24);
}

static uint32_t get_u32(const unsigned char *bytes)
{
    return (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

static uint32_t bf16_of(uint32_t bits)
{
    if ((bits & 0x7fffffff) > 0x7f800000) return bits >> 16 | 0x40; /* NaN: rounding could make it infinity */
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

static void encode(mmebm_stored_dtype dtype, size_t count, const void *memory, unsigned char *bytes)
{
    const float *values = memory;
    if (dtype == MMEBM_STORED_U8) {
        memcpy(bytes, memory, count);
        return;
    }
    for (size_t i = 0; i < count; ++i) {
        uint32_t bits;
        memcpy(&bits, &values[i], sizeof bits);
        if (dtype == MMEBM_STORED_F32) {
            put_u32(bytes + 4 * i, bits);
        } else {
            bits = bf16_of(bits);
            bytes[2 * i] = (unsigned char)bits;
            bytes[2 * i + 1] = (unsigned char)(bits >> 8);
        }
    }
}

static void decode(mmebm_stored_dtype dtype, size_t count, const unsigned char *bytes, void *memory)
{
    float *values = memory;
    if (dtype == MMEBM_STORED_U8) {
        memcpy(memory, bytes, count);
        return;
    }
    for (size_t i = 0; i < count; ++i) {
        const uint32_t bits = dtype == MMEBM_STORED_F32
                                  ? get_u32(bytes + 4 * i)
                                  : (uint32_t)bytes[2 * i] << 16 | (uint32_t)bytes[2 * i + 1] << 24;
        memcpy(&values[i], &bits, sizeof bits);
    }
}

/* Address of element `first` in a tensor's memory. */
static void *memory_at(const mmebm_stored_tensor *tensor, size_t first)
{
    const size_t size = tensor->dtype == MMEBM_STORED_U8 ? 1 : sizeof(float);
    return (char *)tensor->memory + first * size;
}

size_t mmebm__stored_piece_count(const mmebm_stored_tensor *tensor, size_t first)
{
    const size_t most = MMEBM_PIECE_BYTES / dtypes[tensor->dtype].size, left = tensor->count - first;
    return left < most ? left : most;
}

mmebm_status mmebm__stored_encode(mmebm_context *context, const mmebm_stored_tensor *tensor, size_t first, size_t count,
                                  mmebm_piece *piece)
{
    const void *memory = memory_at(tensor, first);
    if (tensor->on_device) {
        MMEBM_TRY(context->ops->download(context->device, piece->floats, memory, count * sizeof(float)));
        memory = piece->floats;
    }
    encode(tensor->dtype, count, memory, piece->bytes);
    return MMEBM_OK;
}

mmebm_status mmebm__stored_decode(mmebm_context *context, const mmebm_stored_tensor *tensor, size_t first, size_t count,
                                  mmebm_piece *piece)
{
    void *memory = memory_at(tensor, first);
    decode(tensor->dtype, count, piece->bytes, tensor->on_device ? piece->floats : memory);
    if (!tensor->on_device) return MMEBM_OK;
    return context->ops->upload(context->device, memory, piece->floats, count * sizeof(float));
}

uint32_t mmebm__metadata_crc(const char *key, const char *value)
{
    const uLong crc = crc32(0, (const Bytef *)key, (uInt)strlen(key) + 1);
    return (uint32_t)crc32(crc, (const Bytef *)value, (uInt)strlen(value) + 1);
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * The example's own small generator, for permutations and crops: a 64-bit counter that a mixing function turns into
 * numbers, so that a stream is known by its seed alone.
 */
#ifndef POLYMNIST_RANDOM_H
#define POLYMNIST_RANDOM_H

#include <stdint.h>

typedef struct random_stream {
    uint64_t counter;
} random_stream;

static inline uint64_t random_mix(uint64_t value)
{
    value = (value ^ (value >> 32)) * UINT64_C(0xd6e8feb86659fd93);
    value = (value ^ (value >> 32)) * UINT64_C(0xd6e8feb86659fd93);
    return value ^ (value >> 32);
}

/* Streams of different numbers are independent of each other. */
static inline random_stream random_start(uint64_t seed, uint64_t number)
{
    return (random_stream){random_mix(seed + UINT64_C(0x9e3779b97f4a7c15)) ^ random_mix(~number)};
}

/* 0 .. bound - 1, all equally likely: values beyond the last whole multiple of bound are drawn again */
static inline uint32_t random_below(random_stream *stream, uint32_t bound)
{
    const uint32_t limit = UINT32_MAX - UINT32_MAX % bound;
    uint32_t value;
    do {
        stream->counter += UINT64_C(0x9e3779b97f4a7c15);
        value = (uint32_t)(random_mix(stream->counter) >> 32);
    } while (value >= limit);
    return value % bound;
}

static inline void random_shuffle(random_stream *stream, uint32_t *values, uint32_t count)
{
    for (uint32_t i = count; i > 1; --i) {
        const uint32_t j = random_below(stream, i);
        const uint32_t kept = values[i - 1];
        values[i - 1] = values[j];
        values[j] = kept;
    }
}

#endif

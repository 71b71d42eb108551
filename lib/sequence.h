/* SPDX-License-Identifier: Apache-2.0
 *
 * Recorded sequences: backend calls that come again and again with the same arguments (a chain of n steps, a training
 * step) are recorded and replayed from their second run on, where the backend offers that. What may change between runs
 * lies in device memory (backend_api.h). Used by chain.c and trainer.c.
 */
#ifndef MMEBM_SEQUENCE_H
#define MMEBM_SEQUENCE_H

#include "context.h"

enum { MMEBM_SEQUENCE_KEY_WORDS = 192, MMEBM_SEQUENCE_SLOTS = 4 };

/* All arguments on which the calls depend, pointers included. */
typedef struct mmebm_sequence_key {
    uint32_t count;
    uint64_t words[MMEBM_SEQUENCE_KEY_WORDS];
} mmebm_sequence_key;

void mmebm__sequence_key_add(mmebm_sequence_key *key, uint64_t word);
void mmebm__sequence_key_add_pointer(mmebm_sequence_key *key, const void *pointer);
void mmebm__sequence_key_add_float(mmebm_sequence_key *key, float value);

typedef struct mmebm_sequence_slot {
    mmebm_sequence_key key;
    mmebm_sequence *sequence;
    uint64_t used; /* time of the last use; 0 = never */
    int recorded;  /* 0: seen once */
} mmebm_sequence_slot;

/* Zero-filled at the start. Without mmebm__sequence_open, or where the backend records nothing, calls are just made. */
typedef struct mmebm_sequence_cache {
    mmebm_sequence_slot *slots;
    uint64_t time;
} mmebm_sequence_cache;

typedef mmebm_status (*mmebm_sequence_calls)(void *user);

/* Takes all the memory that runs will want. After a failure close it. */
mmebm_status mmebm__sequence_open(mmebm_context *context, mmebm_sequence_cache *cache);

/* Runs `calls`, which may do nothing but call the backend, or replays what they did under the same key. */
mmebm_status mmebm__sequence_run(mmebm_context *context, mmebm_sequence_cache *cache, const mmebm_sequence_key *key,
                                 mmebm_sequence_calls calls, void *user);
void mmebm__sequence_close(mmebm_context *context, mmebm_sequence_cache *cache);
size_t mmebm__sequence_size(const mmebm_sequence_cache *cache); /* bytes held, but for the backend's own */

#endif /* MMEBM_SEQUENCE_H */

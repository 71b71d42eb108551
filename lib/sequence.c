/* SPDX-License-Identifier: Apache-2.0
 *
 * The cache of recorded sequences (sequence.h): a few slots, the longest unused of which gives way. A backend without
 * sequences runs the calls each time.
 */
#include "sequence.h"

#include <string.h>

void mmebm__sequence_key_add(mmebm_sequence_key *key, uint64_t word)
{
    /* a key that does not fit is counted on, which mmebm__sequence_run sees */
    if (key->count < MMEBM_SEQUENCE_KEY_WORDS) key->words[key->count] = word;
    ++key->count;
}

void mmebm__sequence_key_add_pointer(mmebm_sequence_key *key, const void *pointer)
{
    mmebm__sequence_key_add(key, (uint64_t)(uintptr_t)pointer);
}

void mmebm__sequence_key_add_float(mmebm_sequence_key *key, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    mmebm__sequence_key_add(key, bits);
}

static int same_key(const mmebm_sequence_key *a, const mmebm_sequence_key *b)
{
    return a->count == b->count && memcmp(a->words, b->words, a->count * sizeof a->words[0]) == 0;
}

mmebm_status mmebm__sequence_open(mmebm_context *context, mmebm_sequence_cache *cache)
{
    if (!context->ops->sequence_create) return MMEBM_OK;
    cache->slots = mmebm__allocate(context, MMEBM_SEQUENCE_SLOTS * sizeof *cache->slots);
    if (!cache->slots) return MMEBM_E_MEMORY;
    for (int s = 0; s < MMEBM_SEQUENCE_SLOTS; ++s)
        MMEBM_TRY(context->ops->sequence_create(context->device, &cache->slots[s].sequence));
    return MMEBM_OK;
}

static mmebm_sequence_slot *find(const mmebm_sequence_cache *cache, const mmebm_sequence_key *key)
{
    for (int s = 0; s < MMEBM_SEQUENCE_SLOTS; ++s)
        if (cache->slots[s].used && same_key(&cache->slots[s].key, key)) return &cache->slots[s];
    return NULL;
}

static mmebm_sequence_slot *oldest(const mmebm_sequence_cache *cache)
{
    mmebm_sequence_slot *slot = &cache->slots[0];
    for (int s = 1; s < MMEBM_SEQUENCE_SLOTS; ++s)
        if (cache->slots[s].used < slot->used) slot = &cache->slots[s];
    return slot;
}

/* The calls only queue while they are recorded, so the record is replayed at once. */
static mmebm_status record(mmebm_context *context, mmebm_sequence_slot *slot, mmebm_sequence_calls calls, void *user)
{
    const mmebm_backend_ops *ops = context->ops;
    MMEBM_TRY(ops->sequence_begin(context->device));
    const mmebm_status status = calls(user);
    char sentence[MMEBM_ERROR_SIZE];
    memcpy(sentence, context->error, sizeof sentence);
    const mmebm_status ended = ops->sequence_end(context->device, slot->sequence);
    slot->recorded = status == MMEBM_OK && ended == MMEBM_OK;
    if (status == MMEBM_OK) return ended;
    memcpy(context->error, sentence, sizeof sentence); /* the first failure, not what followed from it */
    return status;
}

mmebm_status mmebm__sequence_run(mmebm_context *context, mmebm_sequence_cache *cache, const mmebm_sequence_key *key,
                                 mmebm_sequence_calls calls, void *user)
{
    if (!cache->slots || key->count > MMEBM_SEQUENCE_KEY_WORDS) return calls(user);
    mmebm_sequence_slot *slot = find(cache, key);
    if (!slot) {
        slot = oldest(cache);
        slot->recorded = 0;
        slot->key = *key;
        slot->used = ++cache->time;
        return calls(user);
    }
    slot->used = ++cache->time;
    if (!slot->recorded) MMEBM_TRY(record(context, slot, calls, user));
    return context->ops->sequence_replay(context->device, slot->sequence);
}

void mmebm__sequence_close(mmebm_context *context, mmebm_sequence_cache *cache)
{
    if (!cache->slots) return;
    for (int s = 0; s < MMEBM_SEQUENCE_SLOTS; ++s)
        if (cache->slots[s].sequence) context->ops->sequence_destroy(context->device, cache->slots[s].sequence);
    mmebm__free(context, cache->slots, MMEBM_SEQUENCE_SLOTS * sizeof *cache->slots);
    memset(cache, 0, sizeof *cache);
}

size_t mmebm__sequence_size(const mmebm_sequence_cache *cache)
{
    return cache->slots ? MMEBM_SEQUENCE_SLOTS * sizeof *cache->slots : 0;
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * Recorded sequences (lib/sequence.c) on a backend that only counts: what is called when, which slot gives way, what a
 * failure leaves behind, and that all memory is taken when a cache is opened.
 */
#include "api_support.h"
#include "sequence.h"

/* The counting backend: one recording at a time. */
typedef struct counts {
    int created, destroyed, begun, ended, replayed;
    int fail_create, fail_end; /* the call with this number fails, counted from 1 */
} counts;
static counts seen;

static mmebm_status fake_create(mmebm_device *device, mmebm_sequence **sequence)
{
    (void)device;
    if (++seen.created == seen.fail_create) {
        --seen.created;
        return MMEBM_E_MEMORY;
    }
    *sequence = (mmebm_sequence *)(void *)&seen;
    return MMEBM_OK;
}

static mmebm_status fake_begin(mmebm_device *device)
{
    (void)device;
    ++seen.begun;
    return MMEBM_OK;
}

static mmebm_status fake_end(mmebm_device *device, mmebm_sequence *sequence)
{
    (void)device;
    CHECK(sequence != NULL);
    return ++seen.ended == seen.fail_end ? MMEBM_E_DEVICE : MMEBM_OK;
}

static mmebm_status fake_replay(mmebm_device *device, mmebm_sequence *sequence)
{
    (void)device;
    CHECK(sequence != NULL);
    ++seen.replayed;
    return MMEBM_OK;
}

static void fake_destroy(mmebm_device *device, mmebm_sequence *sequence)
{
    (void)device;
    CHECK(sequence != NULL);
    ++seen.destroyed;
}

typedef struct bench {
    counting_allocator allocator;
    mmebm_context *context;
    const mmebm_backend_ops *kept;
    mmebm_backend_ops ops;
    mmebm_sequence_cache cache;
    int called;
    mmebm_status answer; /* of the calls */
} bench;

static mmebm_status count_call(void *user)
{
    bench *on = user;
    ++on->called;
    return on->answer == MMEBM_OK ? MMEBM_OK : mmebm__fail(on->context, on->answer, "the calls failed");
}

static int bench_open(bench *on)
{
    memset(on, 0, sizeof *on);
    memset(&seen, 0, sizeof seen);
    on->context = open_context(&on->allocator);
    if (!on->context) return 0;
    on->kept = on->context->ops;
    on->ops = *on->kept;
    on->ops.sequence_create = fake_create;
    on->ops.sequence_begin = fake_begin;
    on->ops.sequence_end = fake_end;
    on->ops.sequence_replay = fake_replay;
    on->ops.sequence_destroy = fake_destroy;
    on->context->ops = &on->ops;
    return 1;
}

static void bench_close(bench *on)
{
    mmebm__sequence_close(on->context, &on->cache);
    CHECK(seen.created == seen.destroyed);
    on->context->ops = on->kept;
    mmebm_context_destroy(&on->context);
    CHECK(on->allocator.blocks == 0 && on->allocator.errors == 0);
}

static mmebm_status run(bench *on, uint64_t word)
{
    mmebm_sequence_key key = {.count = 0};
    mmebm__sequence_key_add(&key, word);
    return mmebm__sequence_run(on->context, &on->cache, &key, count_call, on);
}

TEST(the_second_run_is_recorded_and_replayed)
{
    bench on;
    REQUIRE(bench_open(&on));
    CHECK(mmebm__sequence_open(on.context, &on.cache) == MMEBM_OK);
    CHECK(seen.created == MMEBM_SEQUENCE_SLOTS);
    const uint64_t allocations = on.allocator.calls;
    CHECK(run(&on, 1) == MMEBM_OK && on.called == 1 && !seen.begun && !seen.replayed);
    CHECK(run(&on, 1) == MMEBM_OK && on.called == 2 && seen.begun == 1 && seen.ended == 1 && seen.replayed == 1);
    for (int k = 2; k < 5; ++k) CHECK(run(&on, 1) == MMEBM_OK && on.called == 2 && seen.replayed == k);
    CHECK(seen.begun == 1 && seen.created == MMEBM_SEQUENCE_SLOTS && on.allocator.calls == allocations);
    bench_close(&on);
}

TEST(the_longest_unused_gives_way)
{
    bench on;
    REQUIRE(bench_open(&on));
    CHECK(mmebm__sequence_open(on.context, &on.cache) == MMEBM_OK);
    for (uint64_t word = 0; word < MMEBM_SEQUENCE_SLOTS; ++word)
        for (int k = 0; k < 2; ++k) CHECK(run(&on, word) == MMEBM_OK);
    CHECK(seen.begun == MMEBM_SEQUENCE_SLOTS);
    CHECK(run(&on, 0) == MMEBM_OK && seen.begun == MMEBM_SEQUENCE_SLOTS); /* 1 is the oldest now */
    CHECK(run(&on, 77) == MMEBM_OK && run(&on, 77) == MMEBM_OK && seen.begun == MMEBM_SEQUENCE_SLOTS + 1);
    const int called = on.called;
    CHECK(run(&on, 0) == MMEBM_OK && run(&on, 2) == MMEBM_OK && on.called == called);
    CHECK(run(&on, 1) == MMEBM_OK && on.called == called + 1 && seen.begun == MMEBM_SEQUENCE_SLOTS + 1);
    CHECK(seen.created == MMEBM_SEQUENCE_SLOTS && !seen.destroyed);
    bench_close(&on);
}

TEST(a_failed_record_is_made_again)
{
    bench on;
    REQUIRE(bench_open(&on));
    CHECK(mmebm__sequence_open(on.context, &on.cache) == MMEBM_OK);
    CHECK(run(&on, 1) == MMEBM_OK);
    on.answer = MMEBM_E_UNSUPPORTED;
    CHECK(run(&on, 1) == MMEBM_E_UNSUPPORTED && seen.ended == 1 && !seen.replayed);
    CHECK(!strcmp(mmebm_last_error(on.context), "the calls failed"));
    on.answer = MMEBM_OK;
    seen.fail_end = 2;
    CHECK(run(&on, 1) == MMEBM_E_DEVICE && seen.begun == 2 && !seen.replayed);
    CHECK(run(&on, 1) == MMEBM_OK && seen.begun == 3 && seen.replayed == 1);
    CHECK(run(&on, 1) == MMEBM_OK && seen.begun == 3 && seen.replayed == 2);
    bench_close(&on);
}

TEST(without_a_cache_calls_are_just_made)
{
    bench on;
    REQUIRE(bench_open(&on));
    for (int k = 1; k < 4; ++k) CHECK(run(&on, 1) == MMEBM_OK && on.called == k && !seen.begun);
    on.ops.sequence_create = NULL;
    CHECK(mmebm__sequence_open(on.context, &on.cache) == MMEBM_OK && !on.cache.slots);
    CHECK(run(&on, 1) == MMEBM_OK && !seen.begun);
    on.ops.sequence_create = fake_create;
    CHECK(mmebm__sequence_open(on.context, &on.cache) == MMEBM_OK);
    mmebm_sequence_key key = {.count = 0}; /* more words than a key holds */
    for (uint64_t word = 0; word <= MMEBM_SEQUENCE_KEY_WORDS; ++word) mmebm__sequence_key_add(&key, word);
    for (int k = 0; k < 3; ++k)
        CHECK(mmebm__sequence_run(on.context, &on.cache, &key, count_call, &on) == MMEBM_OK && !seen.begun);
    bench_close(&on);
}

TEST(opening_may_fail_anywhere)
{
    for (int n = 1; n <= MMEBM_SEQUENCE_SLOTS; ++n) {
        bench on;
        REQUIRE(bench_open(&on));
        seen.fail_create = n;
        CHECK(mmebm__sequence_open(on.context, &on.cache) == MMEBM_E_MEMORY);
        bench_close(&on);
    }
    bench on;
    REQUIRE(bench_open(&on));
    on.allocator.fail_at = on.allocator.calls + 1;
    CHECK(mmebm__sequence_open(on.context, &on.cache) == MMEBM_E_MEMORY);
    bench_close(&on);
}

int main(void)
{
    SKIP_WITHOUT_DEVICE(test_backend());
    RUN(the_second_run_is_recorded_and_replayed);
    RUN(the_longest_unused_gives_way);
    RUN(a_failed_record_is_made_again);
    RUN(without_a_cache_calls_are_just_made);
    RUN(opening_may_fail_anywhere);
    return HARNESS_RESULT();
}

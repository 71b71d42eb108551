/* SPDX-License-Identifier: Apache-2.0
 *
 * The whole test framework. A test program is one file with TEST(...) functions and a main that RUNs them; each
 * prints one line, "PASS name", "FAIL name" or "SKIP name: why", which tests/run.sh counts. CHECK goes on after a
 * failure so that one run shows them all.
 */
#ifndef MMEBM_TEST_HARNESS_H
#define MMEBM_TEST_HARNESS_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

__attribute__((unused)) static int harness_failures_;       /* of the running test */
__attribute__((unused)) static const char *harness_skip_;   /* why the running test cannot run here */
__attribute__((unused)) static int harness_total_failures_;

#define TEST(name) static void name(void)
#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            ++harness_failures_;                                                                   \
            printf("  %s:%d: %s\n", __FILE__, __LINE__, #condition);                               \
        }                                                                                          \
    } while (0)
/* CHECK with a printf explanation */
#define CHECK_MSG(condition, ...)                                                                  \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            ++harness_failures_;                                                                   \
            printf("  %s:%d: %s: ", __FILE__, __LINE__, #condition);                               \
            printf(__VA_ARGS__);                                                                   \
            printf("\n");                                                                          \
        }                                                                                          \
    } while (0)
/* leaves the running test when going on makes no sense */
#define REQUIRE(condition)                                                                         \
    do {                                                                                           \
        if (condition) break; /* evaluated once: it may create something */                        \
        ++harness_failures_;                                                                       \
        printf("  %s:%d: %s\n", __FILE__, __LINE__, #condition);                                   \
        return;                                                                                    \
    } while (0)
#define SKIP(why)                                                                                  \
    do {                                                                                           \
        harness_skip_ = (why);                                                                     \
        return;                                                                                    \
    } while (0)
#define RUN(name)                                                                                  \
    do {                                                                                           \
        harness_failures_ = 0;                                                                     \
        harness_skip_ = NULL;                                                                      \
        name();                                                                                    \
        if (harness_failures_)                                                                     \
            printf("FAIL %s\n", #name);                                                            \
        else if (harness_skip_)                                                                    \
            printf("SKIP %s: %s\n", #name, harness_skip_);                                         \
        else                                                                                       \
            printf("PASS %s\n", #name);                                                            \
        harness_total_failures_ += harness_failures_;                                              \
        fflush(stdout);                                                                            \
    } while (0)
#define HARNESS_RESULT() (harness_total_failures_ ? EXIT_FAILURE : EXIT_SUCCESS)

#endif /* MMEBM_TEST_HARNESS_H */

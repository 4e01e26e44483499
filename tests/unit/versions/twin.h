/* One shard's versions as the tests see them, over each of the ways in which they can be kept. What holds for one must
 * hold for all. */
#ifndef TESTS_VERSIONS_TWIN_H
#define TESTS_VERSIONS_TWIN_H

#include <criterion/criterion.h>

#include "core/versions/versions.h"

enum twin_kind {
    TWIN_MEMORY,   /* no store */
    TWIN_STORED,   /* a store, and everything hot */
    TWIN_EVICTED,  /* a store, and twin_settle leaves next to nothing hot */
    TWIN_REOPENED, /* twin_settle closes and opens the store on disk */
    TWIN_KINDS
};

struct twin {
    enum twin_kind kind;
    struct store *store;
    struct versions *versions;
    uint64_t time;
    uint64_t hot_bytes_max; /* 0: what fits the kind */
    char path[64];          /* of the store */
};

const char *twin_name(enum twin_kind kind);
void twin_open(struct twin *self, enum twin_kind kind);
void twin_close(struct twin *self);
/* Brings the twin into the state that its kind is about. */
void twin_settle(struct twin *self);
/* Waits until the store has all that was applied. */
void twin_drain(struct twin *self);

/* What an operation makes. */
struct twin_put {
    const char *key;
    const char *type;
    const void *value;
    uint32_t value_size;
    uint64_t version;
    bool tombstone;
    uint64_t object_time; /* 0: the entry's */
};
/* Applies one entry with these operations, and facts. */
enum sluice_status twin_apply(struct twin *self, uint64_t time, const struct twin_put *puts, uint32_t count,
                              const struct versions_fact *facts, uint32_t fact_count);
/* One put of a text at the next time; gives the revision. */
uint64_t twin_put(struct twin *self, const char *key, uint64_t version, const char *value);
uint64_t twin_delete(struct twin *self, const char *key, uint64_t version);

struct slice slice_of(const char *text);
/* Asserts what a version is, and releases it. */
void twin_expect(struct version *version, const char *key, uint64_t number, uint64_t revision, const char *value);

/* A seed from the operating system, or from the environment's SEED to replay a failure; printed. */
uint64_t test_seed(const char *what);

/* A directory of one's own, removed by twin_remove. */
void twin_directory(char path[64]);
void twin_remove(const char *path);

/* One test for every kind. */
#define TWIN_TEST(suite, name)                                                                                         \
    static void name##_holds(struct twin *twin);                                                                       \
    static void name##_over(enum twin_kind kind)                                                                       \
    {                                                                                                                  \
        struct twin twin;                                                                                              \
        twin_open(&twin, kind);                                                                                        \
        name##_holds(&twin);                                                                                           \
        twin_close(&twin);                                                                                             \
    }                                                                                                                  \
    Test(suite, name##_in_memory)                                                                                      \
    {                                                                                                                  \
        name##_over(TWIN_MEMORY);                                                                                      \
    }                                                                                                                  \
    Test(suite, name##_over_a_store)                                                                                   \
    {                                                                                                                  \
        name##_over(TWIN_STORED);                                                                                      \
    }                                                                                                                  \
    Test(suite, name##_after_eviction)                                                                                 \
    {                                                                                                                  \
        name##_over(TWIN_EVICTED);                                                                                     \
    }                                                                                                                  \
    Test(suite, name##_after_reopening)                                                                                \
    {                                                                                                                  \
        name##_over(TWIN_REOPENED);                                                                                    \
    }                                                                                                                  \
    static void name##_holds(struct twin *twin)

#endif

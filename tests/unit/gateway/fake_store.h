/* The fake's memory: keys, versions, and the log of all that was written. Not thread-safe. */
#ifndef TESTS_FAKE_STORE_H
#define TESTS_FAKE_STORE_H

#include "api/sluice.h"

struct fake_version {
    char *key;
    char *content_type;
    struct sluice_value *value;
    size_t size;
    uint64_t version, revision, epoch, time_ns, object_time_ns;
    uint32_t operation;
    bool deleted;
    bool created; /* nothing, or a tombstone, was there before */
};

struct fake_replay {
    char *key; /* the Idempotency-Key */
    uint64_t revision;
    size_t size; /* of the request's value: another one is another request */
};

#define FAKE_LOG_MAX    (1u << 20)
#define FAKE_BUCKETS    4096u
#define FAKE_REPLAY_MAX 64u

struct fake_store {
    struct fake_version **log; /* in order; entry i has operation i + 1 */
    size_t log_count, log_capacity, epoch_begin;
    uint64_t revision, epoch, time_ns, forgotten;
    struct fake_latest *buckets[FAKE_BUCKETS];
    struct fake_replay replays[FAKE_REPLAY_MAX];
    size_t replay_count;
};

/* An answer with what it points to. */
struct fake_answer {
    struct sluice_answer answer;
    struct sluice_object *objects;
    const char **prefixes;
    size_t *prefix_sizes;
    char *json, *cursor;
    char **texts; /* keys that no version has */
    size_t text_count;
};
void fake_answer_free(struct fake_answer *self);
void fake_answer_json(struct fake_answer *self, enum sluice_status status, const char *json);

void fake_store_reset(struct fake_store *self);
void fake_store_next_epoch(struct fake_store *self);
void fake_object(const struct fake_version *version, struct sluice_object *out, bool value);
void fake_store_write(struct fake_store *self, const struct sluice_write *request, struct fake_answer *out);
void fake_store_get(struct fake_store *self, const struct sluice_get *request, struct fake_answer *out);
void fake_store_list(struct fake_store *self, const struct sluice_list *request, struct fake_answer *out);
void fake_store_history(struct fake_store *self, const struct sluice_history *request, struct fake_answer *out);
void fake_store_snapshot(struct fake_store *self, const struct sluice_snapshot *request, struct fake_answer *out);

#endif

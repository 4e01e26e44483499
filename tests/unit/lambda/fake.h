/* A node as the lambda host sees it, in memory: objects, an outbox with the deduplication of target shards, cursors,
 * files. */
#ifndef TEST_LAMBDA_FAKE_H
#define TEST_LAMBDA_FAKE_H

#include <pthread.h>
#include <stdatomic.h>

#include "api/sluice_lambda.h"
#include "core/base/clock.h"
#include "core/lambda/lambda.h"

#define FAKE_WRITES_MAX  65536
#define FAKE_OBJECTS_MAX 256

struct fake_write {
    uint64_t client, sequence, watermark;
    char key[64], value[64];
    uint64_t ns;
    unsigned times; /* asked for; applied once */
    bool remove, trigger;
};

struct fake_object {
    char key[64], value[64];
    uint64_t version, time;
    bool deleted;
};

struct fake {
    pthread_mutex_t lock;
    struct fake_write *writes; /* applied, in order */
    size_t write_count;
    struct fake_object objects[FAKE_OBJECTS_MAX];
    size_t object_count;
    uint64_t cursors[64]; /* by shard */
    unsigned cursor_calls;
    char files[8][256]; /* file N is version N of every lambda; "" is NOT_FOUND */
    atomic_uint rooms, changes, reads;
    atomic_int owners;          /* handed out and not given back */
    atomic_uint unavailable;    /* so many further writes fail */
    enum sluice_status failure; /* … with this */
    bool write_applies;         /* … but are applied */
    char refused_key[64];       /* writes to it fail with refused_status */
    enum sluice_status refused_status;
    atomic_bool no_cursor; /* cursors can't be written */
    void (*on_cursor)(void *arg, uint32_t shard, uint64_t revision);
    void *on_cursor_arg;
    uint32_t fail_per_million; /* of all writes, at random */
    uint64_t random;
};

struct fake *fake_create(void);
void fake_destroy(struct fake *self);
struct lambda_env fake_env(struct fake *self);
/* Options with short pauses; `directory` is fresh, and removed by fake_destroy. */
struct lambda_host_options fake_options(struct fake *self);
size_t fake_write_count(struct fake *self);
/* The write at `index`, by value. */
struct fake_write fake_write_at(struct fake *self, size_t index);
uint64_t fake_cursor(struct fake *self, uint32_t shard);
unsigned fake_cursor_calls(struct fake *self);
void fake_object_add(struct fake *self, const char *key, uint64_t version, uint64_t time, const char *value);

/* Path of a fixture that the Makefile built; static. */
const char *fixture(const char *name);
/* SHA-256 of a file, as 64 digits. */
void fixture_sha256(const char *path, char out[65]);
struct buf *fixture_read(const char *path);

/* Waits for a condition, at most ten seconds (a hundred under sanitizers). */
#define EVENTUALLY(condition, ...)                                                                                     \
    do {                                                                                                               \
        uint64_t eventually_until = clock_monotonic_ns() + 20 * NS_PER_S;                                              \
        while (!(condition) && clock_monotonic_ns() < eventually_until)                                                \
            usleep(500);                                                                                               \
        cr_assert(condition, __VA_ARGS__);                                                                             \
    } while (0)

/* A lambda of the map that calls the test back: version V of it is file V. */
typedef int (*fake_callback)(const struct sluice_host *host, struct sluice_context *context,
                             const struct sluice_event *event, void *closure);
struct fake_lambda {
    const char *name;
    uint64_t version;
    int kind;
    const char *pattern;
    fake_callback callback;
    void *closure;
    bool disabled;
};
/* The map with these lambdas; map_free frees. */
struct map *fake_map(struct fake *self, const struct fake_lambda *lambdas, size_t count);
void fake_map_free(struct map *map);
/* Applies it, and waits until all of them are active. */
void fake_load(struct lambda_host *host, struct fake *self, const struct fake_lambda *lambdas, size_t count);
/* The active lambda with this name and a reference, or NULL. */
struct lambda *fake_lambda(struct lambda_host *host, const char *name);
/* Offers one event; the value is copied into a buffer of its own. */
bool fake_offer(struct lambda_feed *feed, const char *key, uint64_t revision, uint32_t operation, const char *value);
/* A field of the lambda's status: a number, or -1. */
long fake_status(struct lambda_host *host, const char *name, const char *field);
bool fake_status_says(struct lambda_host *host, const char *name, const char *words);

#endif

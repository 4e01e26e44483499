/* The lambda ABI, version 1: C, found by name, grows at its end.
 *
 * A lambda is a shared object that exports sluice_lambda_initialize and may export sluice_lambda_shutdown. The store
 * loads it while it runs, calls initialize, which registers watches, and from then on calls the callbacks for each
 * stable change that they match: per key in revision order, on worker threads (different keys at the same time, so a
 * closure shared between keys needs its own care).
 *
 * A run is a transaction: put and remove are held back until the callback returns 0; a failed run leaves nothing. Reads
 * are pinned to the event's time. */
#ifndef SLUICE_LAMBDA_H
#define SLUICE_LAMBDA_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SLUICE_LAMBDA_ABI 1u

/* What a lambda must export is exported even where it hides its symbols by default; printf's arguments are checked. */
#ifdef __GNUC__
#define SLUICE_LAMBDA_EXPORT __attribute__((visibility("default")))
#define SLUICE_LAMBDA_PRINTF __attribute__((format(printf, 2, 3)))
#else
#define SLUICE_LAMBDA_EXPORT
#define SLUICE_LAMBDA_PRINTF
#endif

/* Kinds of patterns. */
#define SLUICE_KEY    1
#define SLUICE_PREFIX 2
#define SLUICE_GLOB   3
#define SLUICE_REGEX  4

/* Results of context calls: 0 or one of these (negative). */
#define SLUICE_LAMBDA_NOT_FOUND   (-1)
#define SLUICE_LAMBDA_INVALID     (-2)
#define SLUICE_LAMBDA_UNAVAILABLE (-3)
#define SLUICE_LAMBDA_DEADLINE    (-4)
#define SLUICE_LAMBDA_MEMORY      (-5)
#define SLUICE_LAMBDA_GONE        (-6)

/* One version of one object. Memory belongs to the store and is valid until the callback returns. */
struct sluice_lambda_object {
    const char *key;          /* NUL-terminated */
    const char *content_type; /* NUL-terminated */
    const void *value;
    uint64_t size;
    uint64_t version;
    uint64_t revision;
    uint64_t time_ns; /* platform time */
    uint64_t object_time_ns;
    uint32_t shard;
    uint32_t deleted; /* 1: a tombstone */
};

/* What woke the callback; `object.value` is borrowed in place. */
struct sluice_event {
    uint32_t size;    /* sizeof of the store's own struct sluice_event */
    uint32_t attempt; /* 1, and more when an earlier run failed */
    struct sluice_lambda_object object;
};

struct sluice_context; /* one run; valid until the callback returns, on its thread alone */

/* Returning other than 0, or running past the deadline, is a failure: retried with back-off, then parked with its error
 * visible. */
typedef int (*sluice_callback)(struct sluice_context *context, const struct sluice_event *event, void *closure);

/* For list, history and snapshot; return other than 0 to stop early. `object->value` is NULL in list and history
 * without values. */
typedef int (*sluice_visit)(void *arg, const struct sluice_lambda_object *object);

/* What the store offers. A field beyond `size` does not exist in that store. */
struct sluice_host {
    uint32_t abi; /* SLUICE_LAMBDA_ABI of the store */
    uint32_t size;
    void *self;

    /* Within initialize only: calls `callback` with `closure` for each stable change of a key that matches. 0, or
     * SLUICE_LAMBDA_INVALID for a bad pattern (see host->error). */
    int (*watch)(const struct sluice_host *host, int kind, const char *pattern, sluice_callback callback,
                 void *closure);
    /* Within initialize: says in words why it fails; shown to whoever uploads. */
    void (*error)(const struct sluice_host *host, const char *format, ...) SLUICE_LAMBDA_PRINTF;

    /* Within a callback. All reads answer as of the event's time, unless told otherwise: a version that came later is
     * not found, a time that lies later is invalid, so that a run that is repeated reads the same. A deleted object is
     * not found; `out` then holds its tombstone
     * (`deleted`, `version`), else zeros. */
    int (*get)(struct sluice_context *context, const char *key, struct sluice_lambda_object *out);
    int (*get_version)(struct sluice_context *context, const char *key, uint64_t version,
                       struct sluice_lambda_object *out);
    int (*get_at)(struct sluice_context *context, const char *key, uint64_t time_ns, struct sluice_lambda_object *out);
    /* The keys that begin with `prefix`, in their order, without values. What list, history and snapshot find is
     * gathered before it is visited: at most 64 MiB in one run, SLUICE_LAMBDA_MEMORY beyond. A visitor may read on. */
    int (*list)(struct sluice_context *context, const char *prefix, sluice_visit visit, void *arg);
    /* Versions of `key` up to the event's time, newest first, at most `limit`. */
    int (*history)(struct sluice_context *context, const char *key, uint32_t limit, int with_values, sluice_visit visit,
                   void *arg);
    /* Several keys at the event's time: `visit` once per key in the order given; a missing one has version 0. */
    int (*snapshot)(struct sluice_context *context, const char *const *keys, size_t count, sluice_visit visit,
                    void *arg);
    /* Effects; copied; happen after the callback has returned 0. */
    int (*put)(struct sluice_context *context, const char *key, const void *value, uint64_t size,
               const char *content_type);
    int (*remove)(struct sluice_context *context, const char *key);
    int (*trigger)(struct sluice_context *context, const char *key, const void *value, uint64_t size,
                   const char *content_type);
    /* A line into the lambda's log (GET /v1/lambdas/NAME/log), at most 1,024 bytes. */
    void (*log)(struct sluice_context *context, const char *format, ...) SLUICE_LAMBDA_PRINTF;
    /* Adds to a counter of the lambda, shown with it and in /metrics. At most 64 names of at most 64 bytes. */
    void (*counter)(struct sluice_context *context, const char *name, int64_t delta);
    /* Why this run fails; shown with the parked event. */
    void (*fail)(struct sluice_context *context, const char *format, ...) SLUICE_LAMBDA_PRINTF;
};

/* Exported by every lambda. `config_json` is the manifest's `config` ("{}" without one). `*state` is handed to
 * shutdown. Return 0, or anything else to refuse. */
SLUICE_LAMBDA_EXPORT int sluice_lambda_initialize(const struct sluice_host *host, const char *config_json,
                                                  void **state);
/* Optional: the lambda is being unloaded; no callback runs any more. */
SLUICE_LAMBDA_EXPORT void sluice_lambda_shutdown(void *state);
/* Optional: `const uint32_t sluice_lambda_abi = SLUICE_LAMBDA_ABI;` lets a store that is older than the header say so,
 * instead of handing over an interface that lacks the end. */
SLUICE_LAMBDA_EXPORT extern const uint32_t sluice_lambda_abi;

#ifdef __cplusplus
}
#endif
#endif

/* libsluice: the client library. Routes by the cluster map, follows leaders, retries with idempotency, resumes watches.
 *
 * A client belongs to one thread and is driven by it: sluice_process does what is due and calls back; sluice_fd,
 * sluice_arm and sluice_timeout_ns fit it into any event loop. Calls return at once; the answer comes by callback from
 * sluice_process, exactly once per call (also on failure, also at sluice_close: UNAVAILABLE or OUTCOME_UNKNOWN).
 * Callbacks may start further calls. sluice_wait drives it for programs without a loop. Pointers in requests are
 * borrowed during the call (copied where needed); pointers in answers are valid during the callback. */
#ifndef SLUICE_H
#define SLUICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api/sluice_status.h"

#ifdef __cplusplus
extern "C" {
#endif

struct sluice_client;
struct sluice_watch;

/* PEM files for TLS with the nodes over tcp: all three, or none where the cluster has no TLS. Read by sluice_open, and
 * not again. */
struct sluice_tls {
    const char *ca;          /* whose certificates are accepted; the cluster's own */
    const char *certificate; /* ours, with its chain; for clients is enough (extended key usage) */
    const char *key;         /* its key, without a password */
};

struct sluice_options {
    size_t size;              /* sizeof(struct sluice_options) of the caller */
    const char *const *nodes; /* fabric addresses of some core nodes: "shm:NAME", "tcp:HOST:PORT" */
    size_t node_count;
    uint32_t timeout_ms;    /* default of calls; 0: 5,000 */
    uint32_t in_flight_max; /* calls beyond are answered BUSY at once; 0: 4,096 */
    bool prefer_tcp;        /* ignore shm addresses in the map */
    struct sluice_tls tls;
    char *error; /* where sluice_open says why it failed, of error_size bytes; NULL: nowhere */
    size_t error_size;
};

/* Never waits: connecting goes on in the background, calls wait for it until their deadline. */
enum sluice_status sluice_open(const struct sluice_options *options, struct sluice_client **out) SLUICE_MUST_CHECK;
void sluice_close(struct sluice_client *client);

int sluice_fd(const struct sluice_client *client);
/* Before sleeping on the descriptor: false when there is work already. */
bool sluice_arm(struct sluice_client *client);
uint64_t
sluice_timeout_ns(const struct sluice_client *client); /* how long one may sleep; UINT64_MAX: until the descriptor */
void sluice_process(struct sluice_client *client);
/* Processes until *done is true or `timeout_ms` has passed; false then. */
bool sluice_wait(struct sluice_client *client, const volatile bool *done, uint32_t timeout_ms);

/* Shared immutable bytes. Fill the data of a fresh one before it is handed to anybody. */
struct sluice_value;
struct sluice_value *sluice_value_create(uint32_t size); /* NULL: no memory */
uint8_t *sluice_value_data(struct sluice_value *value);
struct sluice_value *sluice_value_ref(struct sluice_value *value);
void sluice_value_unref(struct sluice_value *value);

/* One version of one object. */
struct sluice_object {
    const char *key;
    size_t key_size;
    const char *content_type;
    size_t content_type_size;
    const void *data; /* NULL where values were not asked for */
    size_t data_size; /* bytes at `data`: less than size where a range was asked for */
    struct sluice_value
        *value;    /* owns `data` when not NULL: ref it to keep the bytes beyond the callback, without a copy */
    uint64_t size; /* of the whole value */
    uint64_t version;
    uint64_t revision;
    uint64_t epoch; /* of the shard; above 1 it is part of the ETag */
    uint64_t time_ns;
    uint64_t object_time_ns;
    uint32_t shard;
    uint32_t operation;
    bool deleted;
    bool created; /* a write's answer: nothing, or a tombstone, was there before */
};

struct sluice_answer {
    enum sluice_status status;
    const char *detail; /* never NULL: what was expected, what came, what to do */
    const struct sluice_object *objects;
    size_t object_count;
    const char *const *prefixes; /* list with a delimiter */
    const size_t *prefix_sizes;
    size_t prefix_count;
    uint64_t at_ns;           /* of the cut: list, snapshot; else the answering shard's HLC */
    const char *cursor;       /* list, history: next page; NULL: the end */
    const char *watch_cursor; /* list, snapshot: a watch from here has no hole */
    const char *json;         /* control calls: the answer as the REST contract spells it */
    uint32_t retry_after_ms;  /* BUSY, UNAVAILABLE */
    bool replayed;            /* an Idempotency-Key's first answer again */
    bool durable;             /* writes: persisted on a quorum (volatile pools: delivered to one, as promised there) */
};
typedef void (*sluice_done)(void *arg, const struct sluice_answer *answer);

/* What all calls share. */
struct sluice_call {
    uint32_t timeout_ms; /* 0: the client's default; at most 60,000 */
    uint64_t after_ns;   /* answer with nothing older; 0 none */
    bool admin;          /* keys below _sluice/ are allowed */
};

enum sluice_operation_kind { SLUICE_PUT = 1, SLUICE_DELETE = 2 };
struct sluice_operation {
    enum sluice_operation_kind kind;
    const char *key;
    size_t key_size;
    const char *content_type;
    size_t content_type_size;
    const void *data; /* either data and data_size (copied) … */
    size_t data_size;
    struct sluice_value *value; /* … or a value (referenced), of which the first data_size bytes count; for a write of
                                   one operation it is never copied */
    uint64_t if_version;        /* with if_match */
    uint64_t if_epoch;          /* 0 any */
    bool if_match;
    bool if_absent;  /* If-None-Match: * */
    bool if_present; /* If-Match: * */
    bool has_object_time;
    uint64_t object_time_ns;
};
struct sluice_write {
    struct sluice_call call;
    const struct sluice_operation *operations; /* of one shard; else CONFLICT, whose json lists each key's shard */
    size_t operation_count;
    const char *idempotency_key; /* NULL: none. Scope: subject, method, key */
    size_t idempotency_key_size;
    const char *subject; /* whose token; NULL: none */
    bool ack_delivered;
};
void sluice_write(struct sluice_client *client, const struct sluice_write *request, sluice_done done, void *arg);

struct sluice_get {
    struct sluice_call call;
    const char *key;
    size_t key_size;
    uint64_t version;        /* 0: not by version */
    uint64_t at_ns;          /* 0: not by time */
    bool by_object_time;     /* INVALID: not offered in this release */
    bool stable;             /* any replica's stable prefix */
    bool head;               /* no value */
    uint64_t offset, length; /* range; length 0: everything from offset */
};
/* One object. DELETED comes with an object whose version is the tombstone's. RANGE where offset is at or beyond the
 * size. */
void sluice_get(struct sluice_client *client, const struct sluice_get *request, sluice_done done, void *arg);

struct sluice_list {
    struct sluice_call call;
    const char *prefix;
    size_t prefix_size;
    char delimiter; /* 0 none */
    uint32_t limit; /* objects and prefixes together; 0: 1,000; at most 10,000 */
    const char *cursor;
    uint64_t at_ns; /* 0: now */
    bool values;
};
void sluice_list(struct sluice_client *client, const struct sluice_list *request, sluice_done done, void *arg);

struct sluice_history {
    struct sluice_call call;
    const char *key;
    size_t key_size;
    uint64_t version_from, version_to; /* inclusive; 0: open */
    uint64_t time_from_ns, time_to_ns; /* inclusive; 0: open */
    uint32_t limit;                    /* 0: 1,000; at most 10,000 */
    const char *cursor;
    bool descending;
    bool values;
};
void sluice_history(struct sluice_client *client, const struct sluice_history *request, sluice_done done, void *arg);

struct sluice_snapshot {
    struct sluice_call call;
    const char *const *keys;
    const size_t *key_sizes;
    size_t key_count;
    const char *const *prefixes;
    const size_t *prefix_sizes;
    size_t prefix_count;
    uint64_t at_ns; /* 0: now */
};
/* One consistent cut. Keys that have no version then are objects with version 0. At most 64 MiB of values: TOO_LARGE
 * beyond. */
void sluice_snapshot(struct sluice_client *client, const struct sluice_snapshot *request, sluice_done done, void *arg);

struct sluice_watch_options {
    int kind; /* 1 key, 2 prefix, 3 glob, 4 regex */
    const char *pattern;
    size_t pattern_size;
    const char *cursor; /* resume; NULL: from now */
    bool values;
    bool admin;                /* see _sluice/ too */
    uint32_t progress_ms;      /* progress so often, from 10 to 60,000; 0: 1,000 */
    uint64_t buffer_bytes_max; /* what may wait while paused before upstream is stopped (and resumed from the cursor
                                  later); 0: 1 MiB */
};
enum sluice_watch_event_type {
    SLUICE_WATCH_PUT,
    SLUICE_WATCH_DELETE,
    SLUICE_WATCH_PROGRESS, /* everything up to closed_ns was seen */
    SLUICE_WATCH_READY,    /* once: subscribed everywhere; events from now on are not missed */
    SLUICE_WATCH_END,      /* the last event: GONE, INVALID (bad pattern or cursor), EPOCH_LOST, or OK after
                              sluice_watch_stop */
};
struct sluice_watch_event {
    enum sluice_watch_event_type type;
    const struct sluice_object *object;
    const char *cursor; /* resume after this event; at most 512 bytes; NULL where there is none yet */
    uint64_t closed_ns;
    enum sluice_status status; /* END */
    const char *detail;
};
typedef void (*sluice_watch_handler)(void *arg, const struct sluice_watch_event *event);
/* INVALID: bad pattern or cursor; `error` (256 bytes) says where. Shards are in order each, and merged as they come. */
enum sluice_status sluice_watch_start(struct sluice_client *client, const struct sluice_watch_options *options,
                                      sluice_watch_handler handler, void *arg, struct sluice_watch **out,
                                      char *error) SLUICE_MUST_CHECK;
/* Stops at once; END is not reported; the pointer is invalid afterwards. Allowed within its handler. */
void sluice_watch_stop(struct sluice_watch *watch);
void sluice_watch_pause(struct sluice_watch *watch);
void sluice_watch_resume(struct sluice_watch *watch);

/* Control calls: JSON in, JSON out, as in the REST contract. */
void sluice_pool_put(struct sluice_client *client, const struct sluice_call *call, const char *prefix,
                     const char *policy_json, sluice_done done, void *arg);
void sluice_pool_delete(struct sluice_client *client, const struct sluice_call *call, const char *prefix, bool force,
                        sluice_done done, void *arg);
void sluice_pool_get(struct sluice_client *client, const struct sluice_call *call, const char *prefix /* NULL: all */,
                     sluice_done done, void *arg);
struct sluice_lambda_upload {
    struct sluice_call call;
    const char *name;
    const char *manifest_json; /* NULL: {} */
    struct sluice_value *file;
    size_t file_size;
};
void sluice_lambda_upload(struct sluice_client *client, const struct sluice_lambda_upload *request, sluice_done done,
                          void *arg);
void sluice_lambda_get(struct sluice_client *client, const struct sluice_call *call, const char *name /* NULL: all */,
                       sluice_done done, void *arg);
void sluice_lambda_delete(struct sluice_client *client, const struct sluice_call *call, const char *name,
                          sluice_done done, void *arg);
/* "enable", "disable". */
void sluice_lambda_action(struct sluice_client *client, const struct sluice_call *call, const char *name,
                          const char *action, sluice_done done, void *arg);
/* The lambda's output: PUT events whose object's data is one line; stop with sluice_watch_stop. */
enum sluice_status sluice_lambda_log(struct sluice_client *client, const char *name, sluice_watch_handler handler,
                                     void *arg, struct sluice_watch **out) SLUICE_MUST_CHECK;
/* Nodes, shards, leaders, frontiers, lag. */
void sluice_cluster(struct sluice_client *client, const struct sluice_call *call, sluice_done done, void *arg);
/* Nodes come, go and are replaced: `change` is "node_add" {"node"?, "addresses"?}, "node_remove" {"node", "force"?} or
 * "node_replace" {"old", "new"?, "addresses"?}; NULL is {}. Answers {"node", "state", "shards_moving"} once the map
 * says so; the data follow. */
void sluice_node_change(struct sluice_client *client, const struct sluice_call *call, const char *change,
                        const char *json, sluice_done done, void *arg);
/* Moves the lead: {"shard"?, "from"?, "to"?}: of that shard or of all, where `from` leads, to `to` or any member.
 * Answers {"shards": [{"shard", "from", "to"}]} of those whose leaders have begun to hand over: none where everything
 * is so already, or `to` is no member. */
void sluice_transfer(struct sluice_client *client, const struct sluice_call *call, const char *json, sluice_done done,
                     void *arg);

/* Is a majority of the nodes connected and the map known? For readiness. */
bool sluice_ready(const struct sluice_client *client);
/* The client's HLC: at or above everything that it has seen. */
uint64_t sluice_time_ns(const struct sluice_client *client);
struct sluice_figures {
    uint64_t calls, retries, reconnects, in_flight;
};
void sluice_figures(const struct sluice_client *client, struct sluice_figures *out);

#ifdef __cplusplus
}
#endif
#endif

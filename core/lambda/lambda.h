/* The lambda host of a node: loads users' code, runs it for each stable change that it watches, sends what it wrote.
 *
 * The node's reactor feeds it: a feed is one lambda on one shard, as long as this replica leads the shard. Events of a
 * key run in revision order, different keys at the same time, on worker threads. A run is a transaction: what it puts
 * and removes is held back until its callbacks returned 0, then sent in order, each with an identity that is the same
 * when the run is repeated by another leader, so that the shard that it goes to applies it once. A run that fails is
 * tried again with growing pauses, then parked: its error stays visible and the cursor moves on.
 *
 * The reactor never waits here: what it hands over goes through a list without locks; loading, user code, effects and
 * cursors have threads of their own. */
#ifndef LAMBDA_LAMBDA_H
#define LAMBDA_LAMBDA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api/map.h"
#include "api/sluice_status.h"
#include "core/base/buf.h"
#include "core/versions/versions.h"

#define LAMBDA_NAME_BYTES_MAX 48u /* letters, digits, `.`, `_`, `-`, not a leading `.` */
#define LAMBDA_FILE_BYTES_MAX (64u << 20)
#define LAMBDA_EFFECTS_MAX    1024u       /* of one run */
#define LAMBDA_RUN_BYTES_MAX  (64u << 20) /* of one run: its effects together, and what it lists together */
#define LAMBDA_LOG_LINES      256u        /* kept per lambda */
#define LAMBDA_LOG_LINE_BYTES 1024u
#define LAMBDA_PARKED_SHOWN   16u
#define LAMBDA_WATCHES_MAX    64u
#define LAMBDA_COUNTERS_MAX   64u

struct lambda_host;
struct lambda;      /* one loaded version of a lambda; counted references */
struct lambda_feed; /* one lambda on one shard */

/* --- What the node gives -------------------------------------------------------------------------------------------
 */

/* One version of one object, as the node answers it. */
struct lambda_object {
    const char *key;
    size_t key_size;
    const char *content_type;
    size_t content_type_size;
    const void *value; /* NULL where values were not asked for */
    uint64_t value_size;
    uint64_t version; /* 0: there is none (snapshot) */
    uint64_t revision;
    uint64_t time;
    uint64_t object_time;
    uint32_t shard;
    bool deleted;
    void *owner; /* given back through lambda_env.release; NULL: nothing to release */
};

/* On whose behalf a call is made. */
struct lambda_call {
    const char *lambda;
    uint32_t shard; /* whose event is handled */
    uint64_t epoch;
    uint64_t at;          /* reads: as of this platform time. It waits until the shard asked has closed it */
    uint64_t deadline_ns; /* clock_monotonic_ns: answer DEADLINE rather than later */
};

/* One effect. */
struct lambda_write {
    uint64_t client;     /* wire_command.client: the same on every node that handles this lambda, shard and epoch */
    uint64_t sequence;   /* of the effect: the same when the run is repeated */
    uint64_t watermark;  /* wire_command.watermark */
    uint32_t timeout_ms; /* wire_command.deadline is the present HLC and this: a write that is held up for longer than
                            the watermark stays behind could otherwise apply again what its shard has forgotten */
    bool remove;
    bool trigger; /* dispatch only, at most once: never sent again */
    const char *key;
    size_t key_size;
    const char *content_type;
    size_t content_type_size;
    const void *value;
    uint64_t value_size;
};

/* The object's owner passes to the visitor, where there is one; without one all is borrowed during the call. False
 * stops. */
typedef bool (*lambda_visit)(void *arg, const struct lambda_object *object);

/* Synchronous, any thread but the reactor, several at a time. They return by the call's deadline. Pointers given are
 * borrowed during the call; what comes back in an object lives until its owner is released. */
struct lambda_env {
    void *arg;
    /* The newest version at call->at (version 0), or that version, whatever its time. NOT_FOUND, GONE; a tombstone is
     * OK with `deleted`. */
    enum sluice_status (*get)(void *arg, const struct lambda_call *call, const char *key, size_t key_size,
                              uint64_t version, struct lambda_object *out);
    /* The keys below a prefix (plain bytes) at call->at in key order, tombstones left out, without values. */
    enum sluice_status (*list)(void *arg, const struct lambda_call *call, const char *prefix, size_t prefix_size,
                               lambda_visit visit, void *visit_arg);
    /* Versions of a key with time <= call->at, newest first, tombstones too. */
    enum sluice_status (*history)(void *arg, const struct lambda_call *call, const char *key, size_t key_size,
                                  uint32_t limit, bool values, lambda_visit visit, void *visit_arg);
    /* Once per key in the order given, with values; version 0 where there is none. */
    enum sluice_status (*snapshot)(void *arg, const struct lambda_call *call, const char *const *keys,
                                   const size_t *key_sizes, size_t count, lambda_visit visit, void *visit_arg);
    /* OK: applied, now or earlier. What its shard refuses is final; UNAVAILABLE, BUSY, OUTCOME_UNKNOWN, DEADLINE and
     * what is inside (NOT_LEADER, STALE_MAP …) is asked again with the same sequence. */
    enum sluice_status (*write)(void *arg, const struct lambda_call *call, const struct lambda_write *write);
    /* OK: it is durable in the shard that events of this lambda up to `revision` were handled. */
    enum sluice_status (*cursor)(void *arg, const char *lambda, uint32_t shard, uint64_t epoch, uint64_t revision);
    /* The uploaded file: object _sluice/lambdas/NAME, that version. */
    enum sluice_status (*fetch)(void *arg, const char *name, uint64_t version, struct lambda_object *out);
    void (*release)(void *arg, void *owner);

    /* News, from any thread of the host; they return at once (post to the reactor). A feed that had refused an event
     * has room; `tag` is what lambda_feed_start was given. */
    void (*room)(void *arg, uint64_t tag);
    /* A lambda became active, failed or is being unloaded: ask lambda_host_each. */
    void (*changed)(void *arg);
};

struct lambda_host_options {
    struct lambda_env env;
    const char *directory;     /* for the shared objects; created; what lies in it is removed */
    const char *program;       /* what is executed with --lambda-check; NULL: /proc/self/exe */
    bool allow_inprocess;      /* false: no lambda is loaded */
    uint32_t workers;          /* 0: one a processor, at most 4; see README.md for when there are more */
    uint64_t deadline_ns;      /* of a run; 0: 5 s */
    uint64_t retry_first_ns;   /* pause before the second try, doubling; 0: 100 ms */
    uint32_t tries;            /* 0: 5 */
    uint64_t cursor_ns;        /* a feed's cursor moves at most so often; 0: 100 ms */
    uint64_t watermark_ns;     /* a watermark is a cursor that has been durable for so long; 0: 5 s */
    uint64_t check_ns;         /* wall clock and processor time of a check; 0: 5 s */
    uint32_t queue_events_max; /* of a feed; 0: 1,024 */
    uint64_t queue_bytes_max;  /* of a feed's values; 0: 16 MiB */
};

/* Copies the options and starts the threads. On failure `error` says why. */
enum sluice_status lambda_host_create(const struct lambda_host_options *options, struct lambda_host **out, char *error,
                                      size_t error_size) SLUICE_MUST_CHECK;
/* All feeds must be stopped and all lambdas released. Reports the last cursors, unloads what can be unloaded, waits for
 * checks (their processes are killed). A run that does not return within twice its deadline is left behind with its
 * thread: after this call the env is not used any more. */
void lambda_host_destroy(struct lambda_host *self);

/* --- Which lambdas there are: reactor ------------------------------------------------------------------------------
 */

/* Loads what the map has and the host has not, lets go of what the map has no more. Returns at once. An older version
 * serves until the newer one is active; where that fails to load, events wait at the cursor. `map` is borrowed during
 * the call. */
enum sluice_status lambda_host_apply_map(struct lambda_host *self, const struct map *map) SLUICE_MUST_CHECK;

/* Calls back for each active lambda under a lock of the host: the callback may call lambda_ref (to keep it), name,
 * version and match, and lambda_feed_start. Any thread. */
void lambda_host_each(struct lambda_host *self, void (*each)(void *arg, struct lambda *lambda), void *arg);
struct lambda *lambda_ref(struct lambda *self);
/* It is unloaded when the host has let go of it and the last reference is gone. */
void lambda_unref(struct lambda *self);
const char *lambda_name(const struct lambda *self);
uint64_t lambda_version(const struct lambda *self);
/* Should be fed still? False once it was replaced, disabled or removed. Any thread. */
bool lambda_active(const struct lambda *self);
/* Does it watch this key? Any thread. */
bool lambda_match(const struct lambda *self, const char *key, size_t size);

/* --- Events: reactor -----------------------------------------------------------------------------------------------
 */

/* This replica leads the shard now: events from `from_revision` on will be offered, those before are done (it is the
 * durable cursor and 1, or later for one that was registered later). A feed of the same lambda and shard that was
 * stopped may still be sending; this one's first run waits for it. */
enum sluice_status lambda_feed_start(struct lambda_host *self, struct lambda *lambda, uint32_t shard, uint64_t epoch,
                                     uint64_t from_revision, uint64_t tag, struct lambda_feed **out) SLUICE_MUST_CHECK;
/* In order of (revision, operation). Takes a reference on version->owner (copies without one). False: no room; offer
 * the same again after env.room. */
bool lambda_feed_offer(struct lambda_feed *feed, const struct version *version) SLUICE_MUST_CHECK;
/* Everything up to `revision` that matches was offered: lets the cursor pass revisions without events. */
void lambda_feed_passed(struct lambda_feed *feed, uint64_t revision);
/* Once in each round of the reactor: as far as it knows, this node leads all shards that are fed. Effects are sent only
 * while that was said less than a second ago (env.changed asks for a round otherwise), so that a node that was halted
 * and does not know yet that it was deposed sends nothing that its successor has sent, and that target shards have
 * forgotten. A host that was never told so does not ask. */
void lambda_host_alive(struct lambda_host *self);
/* The replica ceased to lead, or the lambda is being replaced. What is queued is dropped, runs whose callbacks have not
 * returned leave nothing, effects that are being sent are sent once more at most. The pointer is invalid afterwards. */
void lambda_feed_stop(struct lambda_feed *feed);

/* --- What people ask: any thread -----------------------------------------------------------------------------------
 */

/* A JSON array (heap; free it): one object a lambda, or the one named. NULL when memory is out. */
char *lambda_host_status(struct lambda_host *self, const char *name);

struct lambda_log_subscription;
/* `time_ns` is wall clock. Called for the lines that are kept, then for each further one, from any thread and under a
 * lock: it returns at once and calls nothing of the host. */
typedef void (*lambda_log_line)(void *arg, uint64_t number, uint64_t time_ns, const char *line, size_t size);
/* NOT_FOUND: no such lambda on this node. A subscription outlives upgrades of the lambda. */
enum sluice_status lambda_host_log_subscribe(struct lambda_host *self, const char *name, lambda_log_line line,
                                             void *arg, struct lambda_log_subscription **out) SLUICE_MUST_CHECK;
/* No call is made after it returns. */
void lambda_log_unsubscribe(struct lambda_log_subscription *subscription);

/* --- Trying an upload ----------------------------------------------------------------------------------------------
 */

/* OK: `text` is {"watches":[{"kind":3,"pattern":"…"},…]}. UNPROCESSABLE: the loader's or initialize's own words. */
typedef void (*lambda_checked)(void *arg, enum sluice_status status, const char *text);
/* Loads and initialises `file` in a throw-away process (see lambda_check_main), within limits of time and memory, and
 * calls `done` on a thread of the host; also when the host is destroyed meanwhile (CLOSED). BUSY when several checks
 * run: `done` is not called then. */
enum sluice_status lambda_host_check(struct lambda_host *self, struct buf *file, const char *config, size_t config_size,
                                     lambda_checked done, void *arg) SLUICE_MUST_CHECK;
/* What a program does when its first argument is "--lambda-check"; returns its exit code. Called before anything else
 * in main. */
int lambda_check_main(int argc, char **argv);

#endif

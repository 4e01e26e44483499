/* What the files of this folder share.
 *
 * Locks, from outer to inner: host->lock (scheduling: events, feeds, slots, statistics), then host->report_lock (log
 * lines, counters, subscriptions) or host->loader_lock (its jobs). None is held over user code, calls of the env, or
 * disk. The reactor takes none of them to feed events. */
#ifndef LAMBDA_LAMBDA_INTERNAL_H
#define LAMBDA_LAMBDA_INTERNAL_H

#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdatomic.h>

#include "api/sluice_lambda.h"
#include "core/base/clock.h"
#include "core/base/panic.h"
#include "core/base/pattern.h"
#include "core/lambda/lambda.h"

#define LAMBDA__ERROR_BYTES   512u
#define LAMBDA__OVERDUE_MAX   2u               /* runs past their deadline before a lambda is given no more threads */
#define LAMBDA__GROWTH        4u               /* threads for each configured worker, at most */
#define LAMBDA__EXTRA_IDLE_NS (5 * NS_PER_S)   /* an additional thread leaves after so long without work */
#define LAMBDA__TICK_NS       (10 * NS_PER_MS) /* of the keeper, while anything runs */
#define LAMBDA__WRITE_MS      2000u            /* of one attempt to send an effect; must be below watermark_ns */
#define LAMBDA__ALIVE_NS                                                                                               \
    (1 * NS_PER_S) /* how long the reactor's word counts; with LAMBDA__WRITE_MS below watermark_ns */
#define LAMBDA__SEND_FIRST_NS (10 * NS_PER_MS) /* pause before an effect is sent again, doubling */
#define LAMBDA__SEND_LAST_NS  (1 * NS_PER_S)
#define LAMBDA__PASSED_REPORT 4096u /* revisions without events before the cursor moves for them alone */
#define LAMBDA__CHECKS_MAX    4u
#define LAMBDA__BUCKETS       256u /* of a feed's keys; a power of two */

/* --- arena.c: memory of one run -------------------------------------------------------------------------------------
 */

struct lambda__arena {
    struct lambda__chunk *chunks;
    uint64_t bytes;
};
/* 16-byte aligned; NULL when memory is out. */
void *lambda__arena_take(struct lambda__arena *self, size_t size);
/* A copy with a NUL behind it. */
char *lambda__arena_text(struct lambda__arena *self, const char *text, size_t size);
void lambda__arena_free(struct lambda__arena *self);

/* --- library.c: a shared object in this process ---------------------------------------------------------------------
 */

struct lambda__watch {
    int kind;
    char *text;
    struct pattern *pattern;
    sluice_callback callback;
    void *closure;
};

struct lambda__library {
    struct sluice_host host; /* what the lambda holds on to; host.self is this struct */
    void *handle;
    int (*initialize)(const struct sluice_host *, const char *, void **);
    void (*shutdown)(void *);
    void *state;
    bool initializing; /* watch and error are allowed */
    bool initialized;
    struct lambda__watch watches[LAMBDA_WATCHES_MAX];
    size_t watch_count;
    char words[LAMBDA__ERROR_BYTES]; /* initialize's own */
};

/* Loads and finds the symbols. UNPROCESSABLE with words in `error`; nothing is left behind then. */
enum sluice_status lambda__library_open(struct lambda__library *self, const char *path, char *error,
                                        size_t error_size) SLUICE_MUST_CHECK;
/* On failure the library is still open. */
enum sluice_status lambda__library_initialize(struct lambda__library *self, const char *config, char *error,
                                              size_t error_size) SLUICE_MUST_CHECK;
/* Undoes whatever was done. */
void lambda__library_close(struct lambda__library *self);

/* elf.c: NULL, or why these bytes can't be a lambda on this machine (within `words`). */
const char *lambda__file_error(const void *data, size_t size, char words[LAMBDA__ERROR_BYTES]);

/* --- Lambdas and names ----------------------------------------------------------------------------------------------
 */

enum lambda__state { LAMBDA__LOADING, LAMBDA__ACTIVE, LAMBDA__FAILED };

/* One version of a lambda. */
struct lambda {
    struct lambda_host *host;
    struct lambda__slot *slot;
    struct lambda *next_job;      /* host->loader_lock */
    struct lambda *next_instance; /* all that are loaded; the loader's alone */
    uint64_t job_at_ns;           /* not before; the loader's */
    bool unload;                  /* what the job is */
    atomic_uint refs;
    atomic_bool active;
    uint64_t version;
    char sha256[65];
    char *config;
    struct lambda__watch *wanted; /* of the map */
    size_t wanted_count;
    struct lambda__library library;
    char *path;
    /* host->lock */
    enum lambda__state state;
    char error[LAMBDA__ERROR_BYTES];
    struct lambda__event *ready_first, *ready_last; /* heads that may be worked on */
    struct lambda *turn_next;                       /* lambdas with such events take turns */
    bool in_turn;
    unsigned running;
    unsigned overdue; /* runs past their deadline that have not returned */
};

struct lambda__parked {
    char *key;
    uint64_t version, revision;
    uint32_t shard;
    char error[LAMBDA__ERROR_BYTES];
};

struct lambda__statistics {
    uint64_t events, runs, failures, parked, effects, refused;
};

struct lambda__counter {
    char name[65];
    int64_t value;
};

struct lambda__logged {
    uint64_t number, time_ns;
    size_t size;
    char text[];
};

/* What belongs to a name over all its versions. Lives as long as the host. */
struct lambda__slot {
    struct lambda__slot *next;
    struct lambda_host *host;
    char name[LAMBDA_NAME_BYTES_MAX + 1];
    /* host->lock */
    bool present; /* in the map */
    bool enabled;
    uint64_t wanted;         /* version of the map */
    struct lambda *current;  /* serves, or failed; NULL none */
    struct lambda *upcoming; /* being loaded */
    struct lambda__statistics statistics;
    struct lambda__parked parked[LAMBDA_PARKED_SHOWN]; /* the latest, round */
    /* host->report_lock */
    struct lambda__logged *lines[LAMBDA_LOG_LINES]; /* round */
    uint64_t line_count;
    struct lambda_log_subscription *subscriptions;
    struct lambda__counter *counters;
    size_t counter_count;
};

/* --- Events ---------------------------------------------------------------------------------------------------------
 */

/* What the reactor hands over, in order. */
enum lambda__item_kind { LAMBDA__ITEM_START, LAMBDA__ITEM_EVENT, LAMBDA__ITEM_STOP };
struct lambda__item {
    struct lambda__item *next;
    struct lambda_feed *feed;
    enum lambda__item_kind kind;
};

struct lambda__effect {
    struct lambda__effect *next;
    bool remove, trigger;
    size_t key_size, content_type_size;
    uint64_t value_size;
    const char *key, *content_type;
    const void *value;
};

/* Effects of a run whose callbacks have returned 0. */
struct lambda__outbox {
    struct lambda__arena arena;
    struct lambda__effect *first, *last;
    unsigned count;
};

enum lambda__event_state {
    LAMBDA__QUEUED,  /* behind another, or its feed is gated */
    LAMBDA__READY,   /* in its lambda's list */
    LAMBDA__HELD,    /* in a worker's hands */
    LAMBDA__WAITING, /* to be tried or sent again, in the host's list */
};

/* The events of one key stand in a line. Its first one, the head, is the only one at work, and the one that the feed's
 * buckets hold. */
struct lambda__event {
    struct lambda__item item;            /* first: the intake hands out items */
    struct lambda__event *older, *newer; /* undone events of the feed, in order */
    struct lambda__event *behind;        /* the next one in its line */
    struct lambda__event *line_end;      /* of a head */
    struct lambda__event *bucket_next;   /* of a head */
    struct lambda__event *list_next;     /* ready (its lambda's) or waiting (the host's, by due_ns) */
    struct buf *owner;
    const void *value;
    uint64_t value_size;
    uint64_t version, revision, time, object_time;
    uint64_t due_ns;
    uint64_t pause_ns; /* before an effect is sent again */
    uint32_t operation;
    uint32_t hash; /* of the key */
    uint32_t attempts;
    uint32_t sent; /* effects of the outbox that are dealt with */
    bool deleted;
    bool sending; /* the callbacks have returned 0; the outbox is what is left to do */
    enum lambda__event_state state;
    struct lambda__outbox outbox;
    uint32_t key_size, content_type_size;
    char text[]; /* key, NUL, content type, NUL */
};

static inline const char *lambda__event_key(const struct lambda__event *event)
{
    return event->text;
}
static inline const char *lambda__event_content_type(const struct lambda__event *event)
{
    return event->text + event->key_size + 1;
}

struct lambda_feed {
    struct lambda__item start, stop;
    struct lambda_host *host;
    struct lambda *lambda;
    uint32_t shard;
    uint64_t epoch, tag, client;
    /* Between the reactor and the workers. */
    _Atomic uint64_t passed;
    _Atomic uint64_t queued_bytes;
    atomic_uint queued_events;
    atomic_bool refused; /* an event; tell when there is room */
    atomic_bool stopped;
    /* host->lock */
    struct lambda_feed *next; /* of the host */
    struct lambda__event *oldest, *newest;
    struct lambda__event *buckets[LAMBDA__BUCKETS];
    unsigned held;      /* events in a worker's hands */
    unsigned abandoned; /* runs that were given up and have not returned */
    bool gated;         /* a former feed of the same lambda and shard still sends */
    bool stop_seen;
    bool last_tried;  /* the report that a stopped feed is owed */
    uint64_t taken;   /* highest revision that was offered */
    uint64_t dropped; /* lowest revision of an event that was dropped undone; 0 none */
    uint64_t done;    /* highest revision of a handled event */
    uint64_t durable; /* the cursor as the shard has it */
    uint64_t report_at_ns, report_pause_ns;
    uint64_t aging, aging_since_ns; /* a durable cursor on its way to become the watermark */
    _Atomic uint64_t confirmed;     /* what the watermark is made of; 0 none */
    uint64_t passed_seen;           /* before the intake was last drained */
    bool starved;                   /* refused for want of memory */
};

/* One call of a lambda's callbacks, on its worker's stack. */
struct lambda__run {
    struct lambda__run *next, *previous; /* host->runs */
    struct lambda__event *event;
    struct lambda_feed *feed;
    uint64_t started_ns;
    bool listed; /* in host->runs: its callbacks are running */
    bool overdue;
    bool abandoned; /* the event was parked meanwhile; what comes of the run is discarded */
};

/* --- The host -------------------------------------------------------------------------------------------------------
 */

struct lambda__check;

struct lambda_host {
    struct lambda_host_options options;
    char *directory, *program;

    _Atomic(struct lambda__item *) intake; /* the newest first */
    atomic_uint sleepers;                  /* workers that nobody has promised a wake-up */
    sem_t wake, keeper_wake;
    atomic_bool keeper_asleep;
    _Atomic uint64_t alive_ns; /* when the reactor last said that it leads; 0 never */
    atomic_bool closed;        /* no call of the env any more */
    atomic_uint env_calls;

    pthread_mutex_t lock;
    pthread_cond_t gone; /* a worker or check left */
    bool stopping;
    struct lambda__slot *slots;
    struct lambda_feed *feeds;
    struct lambda__event *garbage;         /* to be freed outside of the lock */
    struct lambda *turn_first, *turn_last; /* lambdas with ready events */
    struct lambda__event *waiting;
    struct lambda__run *runs;
    unsigned threads, threads_stuck;
    unsigned held; /* events in workers' hands */
    pthread_t keeper;
    uint64_t keeper_until_ns; /* sleeps, unless woken */
    bool keeper_stop;
    struct lambda__check *checks;
    unsigned check_count, checks_running;
    bool checks_stopped;
    uint64_t files; /* tells the files of checks apart */

    pthread_mutex_t report_lock;

    pthread_mutex_t loader_lock;
    pthread_cond_t loader_wake;
    pthread_t loader;
    bool loader_stop;
    struct lambda *jobs_first, *jobs_last;
    struct lambda *instances;
};

/* Around each call of the env; false when it may not be used any more. */
bool lambda__env_enter(struct lambda_host *self) SLUICE_MUST_CHECK;
void lambda__env_leave(struct lambda_host *self);

/* host.c */
struct lambda__slot *lambda__slot_find(struct lambda_host *self, const char *name);

/* loader.c */
enum sluice_status lambda__loader_start(struct lambda_host *self) SLUICE_MUST_CHECK;
/* Unloads what is left; all references but those of stuck runs are gone. */
void lambda__loader_stop(struct lambda_host *self);
void lambda__loader_push(struct lambda_host *self, struct lambda *lambda);
struct lambda *lambda__create(struct lambda_host *host, struct lambda__slot *slot, const struct map_lambda *map);
void lambda__free(struct lambda *self);
/* Writes a file that did not exist, for dlopen. */
enum sluice_status lambda__file_write(const char *path, const void *data, size_t size, char *error,
                                      size_t error_size) SLUICE_MUST_CHECK;

/* feed.c; under host->lock. */
void lambda__intake_drain(struct lambda_host *self);
/* The next event to be worked on, lambdas taking turns; NULL: nothing that may run. */
struct lambda__event *lambda__pick(struct lambda_host *self);
/* A head may be worked on. */
void lambda__event_ready(struct lambda__event *event);
/* Handled, parked or dropped: leaves the feed, and the one behind it takes its place. Its memory stays the caller's. */
void lambda__event_remove(struct lambda__event *event);
/* The same for an event that is given up undone: the cursor stays before it. */
void lambda__event_discard(struct lambda__event *event);
/* After a worker let go of an event: opens the gates that waited for the feed. */
void lambda__feed_settle(struct lambda_feed *feed);
/* Has an event been refused, and is there room again? Answers true once; the caller then calls env.room outside the
 * lock. */
bool lambda__feed_room(struct lambda_feed *feed);
/* How far the feed got: every event up to there is done. `passed` was read before the intake was last drained. */
uint64_t lambda__feed_cursor(const struct lambda_feed *feed, uint64_t passed);
/* Outside the lock. */
void lambda__garbage_free(struct lambda__event *garbage);
void lambda__event_free(struct lambda__event *event);
/* Outside the lock; `told` is what lambda__feed_room said. */
void lambda__room_tell(struct lambda_host *self, bool told, uint64_t tag);

/* workers.c */
enum sluice_status lambda__workers_start(struct lambda_host *self) SLUICE_MUST_CHECK;
/* Any thread: one more worker looks for work. */
void lambda__worker_wake(struct lambda_host *self);
/* Under host->lock: starts one more thread, within bounds, when some lambda with work is served by nobody because all
 * threads are busy with others. */
void lambda__workers_grow(struct lambda_host *self);
/* Under host->lock: is this lambda allowed one more thread? */
bool lambda__may_run(const struct lambda_host *self, const struct lambda *lambda);

/* run.c */
struct lambda__run;
/* Under host->lock, with an event that was picked. */
void lambda__run_begin(struct lambda_host *host, struct lambda__run *run, struct lambda__event *event);
/* Called without the lock, comes back with it: carries the event on as far as it goes now. */
void lambda__run_work(struct lambda_host *host, struct lambda__run *run);
/* Under host->lock: parks the event of a run that does not come back. */
void lambda__run_abandon(struct lambda_host *host, struct lambda__run *run);
/* The identity of effects: FNV-1a over name, NUL, shard and epoch (little-endian), finished as in splitmix64; never 0.
 * Frozen: nodes of different releases must agree on it. */
uint64_t lambda__client(const char *lambda, uint32_t shard, uint64_t epoch);

/* keeper.c */
enum sluice_status lambda__keeper_start(struct lambda_host *self) SLUICE_MUST_CHECK;
void lambda__keeper_stop(struct lambda_host *self);
/* Any thread: it looks at its list again. */
void lambda__keeper_wake(struct lambda_host *self);
/* Under host->lock. */
void lambda__wait(struct lambda_host *self, struct lambda__event *event, uint64_t due_ns);

/* context.c */
struct lambda__owned {
    struct lambda__owned *next;
    void *owner;
};
struct sluice_context {
    struct lambda_host *host;
    struct lambda_feed *feed;
    const struct sluice_event *event;
    struct lambda_call call;
    struct lambda__arena arena;
    struct lambda__owned *owned;
    struct lambda__outbox outbox;
    char error[LAMBDA__ERROR_BYTES];
};
extern const struct sluice_host lambda__host_interface; /* without self */
void lambda__context_free(struct sluice_context *self);

/* report.c; any thread. */
void lambda__print(struct lambda__slot *slot, const char *format, ...) __attribute__((format(printf, 2, 3)));
void lambda__vprint(struct lambda__slot *slot, const char *format, va_list arguments)
    __attribute__((format(printf, 2, 0)));
void lambda__count(struct lambda__slot *slot, const char *name, int64_t delta);
/* Under host->lock. */
void lambda__park_note(struct lambda__slot *slot, const struct lambda__event *event, uint32_t shard, const char *error);
void lambda__slot_clear(struct lambda__slot *slot);

/* check.c: kills what runs, and waits for it. */
void lambda__checks_stop(struct lambda_host *self);

#endif

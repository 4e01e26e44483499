/* The store's inside: queue, index thread, flush thread. Private to the files store*.c. */
#ifndef VERSIONS_STORE___H
#define VERSIONS_STORE___H

#include <pthread.h>
#include <stdatomic.h>

#include "core/base/queue.h"
#include "core/versions/store.h"

#define STORE_BATCH_BYTES_MAX   (4u << 20)
#define STORE_BATCH_ENTRIES_MAX 4096u
/* Written to RocksDB's memory since the last flush: then it is flushed, so that at most twice this waits in memory. */
#define STORE_FLUSH_BYTES (16u << 20)
/* Nothing waits for the index, so after waking the thread lets a batch gather. */
#define STORE_GATHER_NS 2000000

struct store_group {
    struct store_group *next;
    struct store *store;
    uint32_t group;
    uint64_t epoch;
    _Atomic uint64_t indexed;
    /* Under the store's mutex. */
    uint64_t flushing; /* the flush under way covers up to here */
    uint64_t durable;
    bool news;
    /* The index thread's. */
    uint64_t written, written_time; /* in the batch that is being built */
    uint64_t ingested;              /* of a snapshot; 0: nothing since the last batch */
    uint64_t marked;                /* the last revision of a snapshot that a mark was made for */
    bool touched;
    struct store_group *next_touched;
};

/* One version of an item's entry: its record is complete but for the checksum. */
struct item_made {
    struct cold_record record;
    uint64_t version;
    uint32_t key_size;
};

enum item_type {
    ITEM_ENTRY,
    ITEM_INGEST,
    ITEM_COMPACT,
    ITEM_FINISH,
    ITEM_REPAIR,
    ITEM_ERASE,
    ITEM_BARRIER,
    ITEM_FLUSH,
    ITEM_STOP
};

struct store_item {
    enum item_type type;
    struct store_group *group;
    bool *reached; /* ITEM_BARRIER, ITEM_ERASE, ITEM_FINISH, ITEM_REPAIR: set under the store's mutex when the index
                      thread has come here */
    struct entry entry;  /* one reference */
    uint64_t upto, gaps; /* ITEM_COMPACT; upto and time: ITEM_FINISH */
    uint64_t time;
    const struct versions_fact *facts; /* ITEM_FINISH */
    uint32_t fact_count;
    uint64_t cost; /* of memory */
    uint32_t made_count;
    uint32_t facts_size;
    struct item_made made[]; /* then the facts: struct item_fact, name, value, each */
};

struct item_fact {
    uint32_t name_size, value_size;
};

struct store {
    struct cold cold;
    struct queue *queue;
    pthread_t index_thread, flush_thread;
    int news_fd;
    rocksdb_writeoptions_t *write_options;
    atomic_uint_fast64_t behind_bytes, behind_entries;
    atomic_int error;        /* enum sluice_status; not OK: nothing more is written */
    pthread_mutex_t mutex;   /* groups, barriers, flush state; never held during I/O */
    pthread_cond_t progress; /* the index thread got on, or a barrier was reached */
    pthread_cond_t flush_wanted;
    struct store_group *groups;
    uint64_t waiters;     /* for room */
    uint64_t since_flush; /* bytes written */
    uint64_t flush_bytes; /* that the flush covers which runs */
    uint64_t (*free_bytes)(const char *path, uint64_t *total);
    atomic_bool full; /* the flush thread waits for room */
    bool flush_asked, flush_runs, stop;
    bool reclaim_started, reclaim_runs, reclaim_again;
    pthread_t reclaim_thread;
    char *path;
    struct store_item stop_item, flush_item; /* the latter is queued at most once */
    atomic_bool flush_queued;
    /* The index thread's. */
    rocksdb_writebatch_t *batch;
    struct store_group *touched;
};

/* store_item.c */
void store__item_encode(struct store *self, const struct store_item *item);
void store__state_encode(struct store *self, struct store_group *group);
void store__progress_encode(struct store *self, struct store_group *group, char kind, uint64_t revision);
void store__fact_encode(struct store *self, uint32_t group, struct slice name, const uint8_t *value, size_t size);
void store__entry_encode(struct store *self, uint32_t group, const struct entry *entry);
/* store_ingest.c, for the index thread: what these items ask for. */
void store__run_finish(struct store *self, const struct store_item *item);
void store__run_compact(struct store *self, const struct store_item *item);
void store__run_repair(struct store *self, const struct store_item *item);
/* store_aside.c */
bool store__condemned(const char *path);
bool store__was_set_aside(const char *path);
enum sluice_status store__set_aside(const char *path, char *error, size_t error_size) SLUICE_MUST_CHECK;
/* store_index.c */
/* Marks all keys of a kind as gone, in the batch. */
void store__delete_kind(struct store *self, char kind, uint32_t group);
/* Writes the batch as it is; false: it failed, and the store with it. */
bool store__write_now(struct store *self, const char *what);
void *store__index_run(void *arg);
void *store__flush_run(void *arg);
/* Keeps the first error, and wakes everybody who waits. */
void store__fail(struct store *self, enum sluice_status status);
void store__ring_news(struct store *self);
/* store_reclaim.c: has the space of what was erased given back, some time; before the store closes, gives that up. */
void store__reclaim(struct store *self);
void store__reclaim_stop(struct store *self);
/* Waits until all that was written is durable. */
void store__flush_now(struct store *self);

#endif

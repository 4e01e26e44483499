/* The log's inside. Private to wal.c, wal_write.c, wal_segments.c and wal_recover.c.
 *
 * Three parties: the reactor appends and submits; the persist thread gathers, writes and completes; the keeper thread
 * prepares segments ahead and recycles those that nobody needs. Submissions travel through a queue; the table of
 * segments is shared under a mutex that is never held during I/O. */
#ifndef VERSIONS_WAL___H
#define VERSIONS_WAL___H

#include <pthread.h>
#include <stdatomic.h>

#include "core/base/queue.h"
#include "core/versions/wal_format.h"

#define WAL_QUEUE_CAPACITY 4096u
#define WAL_READY_MAX      2u /* segments prepared ahead */
#define WAL_FLUSH_SEGMENTS 4u /* so many in use: the store should be flushed */
#define WAL_SUBMIT_RECORDS 16u
#define WAL_FULL_RETRY_NS  250000000

/* Sorted by group (or node). */
struct wal__row {
    uint32_t group;
    uint64_t epoch;
    uint64_t value;
};
struct wal__rows {
    struct wal__row *items;
    uint32_t count, capacity, last; /* last: where the previous look-up ended */
};

struct wal__segment {
    struct wal__segment *next; /* in the order of use */
    uint64_t number;
    uint64_t first_sequence, last_sequence; /* 0: no batch yet */
    uint64_t end;                           /* where the next batch goes */
    uint64_t bytes;                         /* how long it is */
    struct wal__rows highest;               /* group → highest index of its entries here */
    bool dying;                             /* no longer needed */
    bool left_out;                          /* of the checkpoint that is being written: goes once that is durable */
    /* Recovery: */
    bool live;
    bool ends;               /* its last batch says that another segment follows */
    uint32_t follower;       /* the lower half of that one's number */
    bool unread;             /* not all of it could be read */
    uint64_t later_sequence; /* the highest one of a batch header beyond `end`; 0: none */
    uint64_t stray_sequence; /* the same of a batch that belongs elsewhere */
    uint64_t stray_log;
};

struct wal__submission {
    uint64_t ticket;
    uint32_t count, capacity, done;
    struct wal_record records[];
};

/* What the batch in the making holds. */
struct wal__gathered {
    uint32_t records;
    uint64_t payload;
    uint64_t ticket;      /* complete once the batch is written; 0: none */
    uint32_t checkpoints; /* records of a checkpoint; 0: none */
};

struct wal {
    struct wal_device device;
    bool thread;
    uint64_t log;       /* identity */
    atomic_uint format; /* that batches are written in: the latest one found, until wal_use_format */

    /* The reactor's. */
    struct wal__submission *pending; /* appended, not submitted */
    uint64_t ticket;
    struct queue *submitted; /* to the persist thread; without threads too, so that there is one way */
    struct queue *returned;  /* empty submissions on their way back */

    atomic_uint_fast64_t completed;
    atomic_int error; /* enum sluice_status; the first one stays */
    atomic_bool rung;
    int completed_fd;
    atomic_bool closing; /* nobody waits for room any more */
    atomic_bool ended;   /* the persist thread has seen its end */
    atomic_bool wants_flush;
    atomic_bool full;  /* no segment could be made for want of room */
    atomic_bool holds; /* a whole batch in `buffer` waits for room */
    atomic_uint_fast64_t bytes_written, bytes_payload, batches, records;

    /* The persist thread's. */
    pthread_t persist_thread;
    struct wal_buffer buffer;
    struct wal__submission *taken; /* partly encoded */
    uint64_t sequence;             /* of the last batch written */
    bool stop_seen;
    struct wal__gathered held; /* of the batch in `buffer` */
    uint32_t held_flags;
    size_t held_body; /* its size before it was rounded up */

    /* Shared. */
    pthread_mutex_t mutex;
    pthread_cond_t keeper_work, ready_changed;
    pthread_t keeper_thread;
    bool keeper_stop, keeper_wanted; /* wanted: prepare a segment */
    enum sluice_status keeper_error;
    struct wal__segment *segments; /* in use, oldest first; the last one is written */
    struct wal__segment *current;
    uint32_t segment_count;
    bool checkpoint_due;
    bool cut;                      /* what follows the damage found at the start is dropped; the next batch says so */
    struct wal__segment *spare;    /* to be recycled or removed */
    uint64_t ready[WAL_READY_MAX]; /* numbers of segments that may be written */
    uint32_t ready_count;
    uint64_t next_number;
    struct wal__segment fresh;  /* the rows of the batch in the making, whose segment is not known yet */
    struct wal__rows promises;  /* group → highest ballot promised or accepted under */
    struct wal__rows released;  /* group → revision */
    struct wal__rows ceilings;  /* node → ceiling */
    struct wal__rows forgotten; /* group → sequence of the batch */
    struct wal__rows mended;    /* group → the damage that it has got over */
    uint64_t lost_at;           /* the sequence after the latest damage; 0: none was ever found */
    void (*damaged)(void *arg, const struct wal_damage *damage);
    bool known;
};

/* In the queue: the persist thread ends; it looks whether a checkpoint is due. */
extern struct wal__submission wal__stop, wal__nudge;

/* wal_segments.c; all under the mutex. */
struct wal__row *wal__rows_find(struct wal__rows *self, uint32_t group);
/* Finds or adds; NULL: no memory. */
struct wal__row *wal__rows_make(struct wal__rows *self, uint32_t group, uint64_t epoch);
/* value = max(value, given) within the latest epoch. */
enum sluice_status wal__rows_raise(struct wal__rows *self, uint32_t group, uint64_t epoch,
                                   uint64_t value) SLUICE_MUST_CHECK;
struct wal__segment *wal__segment_add(struct wal *self, uint64_t number);
void wal__segment_free(struct wal__segment *segment);
/* Takes note of a record in a batch of this sequence, which is or will be in `segment`. */
enum sluice_status wal__note(struct wal *self, struct wal__segment *segment, uint64_t sequence,
                             const struct wal_record *record) SLUICE_MUST_CHECK;
/* Marks what nobody needs any more; true when a checkpoint is due for it. */
bool wal__mark_dying(struct wal *self);
/* Adds to `records` how many it wrote. */
enum sluice_status wal__checkpoint_encode(struct wal *self, struct wal_buffer *buffer,
                                          uint32_t *records) SLUICE_MUST_CHECK;
/* The checkpoint is durable: what it left out goes to the keeper. */
void wal__bury(struct wal *self);
/* What the fresh batch holds is held by this segment. */
enum sluice_status wal__merge_fresh(struct wal *self, struct wal__segment *segment) SLUICE_MUST_CHECK;

/* wal_keeper.c */
void *wal__keeper_run(void *arg);
/* Does what there is to do; under the mutex, which it gives up during I/O. */
void wal__keep(struct wal *self);
/* Without a thread: tries again to prepare a segment for which there was no room. */
void wal__retry_full(struct wal *self);
/* A segment that may be written; waits for the keeper. Under the mutex. */
enum sluice_status wal__next_segment(struct wal *self, uint64_t *number) SLUICE_MUST_CHECK;

/* wal_write.c */
void *wal__persist_run(void *arg);
/* Writes one batch of what was submitted; false when there is nothing. */
bool wal__write_batch(struct wal *self, uint32_t flags);
void wal__fail(struct wal *self, enum sluice_status status, const char *what);

/* wal_recover.c */
struct wal__replay {
    void (*record)(void *arg, const struct wal_record *record);
    void *arg;
};
enum sluice_status wal__recover(struct wal *self, const struct wal__replay *replay, char *error,
                                size_t error_size) SLUICE_MUST_CHECK;

#endif

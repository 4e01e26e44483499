/* The log's own segments: one set a node for all groups; preallocated, recycled, written with O_DIRECT|O_DSYNC in 4 KiB
 * blocks by a persist thread.
 *
 * What is written is a sequence of batches of records, each checksummed; what was submitted while a write was under way
 * is one contiguous write: one group commit. After a crash a last batch that is torn is dropped whole: nothing in it
 * was acknowledged. Bad bytes with a good batch after them, a missing or swapped segment, a batch in a wrong place, one
 * that was never written though its successor was, and a segment that cannot be read are damage, reported with segment
 * and offset. What this file alone cannot tell from a torn end is the loss of its very end. The encoding
 * and the recovery scan are pure and work on a `wal_device`, so the simulator runs them over a disk of its own. */
#ifndef VERSIONS_WAL_H
#define VERSIONS_WAL_H

#include <stdbool.h>
#include <stdint.h>

#include "core/versions/entry.h"

enum wal_record_type {
    WAL_ENTRY =
        1, /* an entry accepted (again) under its ballot; a later record of the same group and index replaces it */
    WAL_PROMISE = 2, /* group, epoch, ballot: promised */
    WAL_CEILING = 3, /* node (in group), ceiling (in ballot): closed-time ceiling granted to that node */
    WAL_FORGET = 4,  /* the group's epoch is gone: drop what came before for it */
    WAL_STABLE = 5, /* group, epoch, index (in ballot): entries up to here are chosen. A hint for recovery, written with
                       the entries of its group commit */
};

struct wal_record {
    enum wal_record_type type;
    uint32_t group;
    uint64_t epoch;
    uint64_t ballot;
    struct entry entry; /* WAL_ENTRY: the record holds a reference on its body */
};

/* Segments by number on something that keeps bytes. create, recycle, remove and write return when their outcome is
 * durable, and what list and read show is durable too. STORAGE_FULL of create and of a write beyond a segment's end:
 * nothing was written, and it may be tried again; any other failure is final. read and write: 4 KiB multiples, aligned
 * memory. With wal_options.thread they are called from two threads, for different segments. Real:
 * wal_device_open_directory. */
struct wal_device {
    void *context;
    uint64_t segment_bytes;
    enum sluice_status (*list)(void *context, uint64_t *numbers,
                               uint32_t *count /* in: room, out: found, perhaps more than room */);
    enum sluice_status (*create)(void *context, uint64_t number); /* preallocates, zeroed */
    enum sluice_status (*recycle)(void *context, uint64_t from,
                                  uint64_t to); /* renames a segment no longer needed; its bytes stay */
    enum sluice_status (*remove)(void *context, uint64_t number);
    /* Bytes never written are zero, those beyond the segment's end as well. */
    enum sluice_status (*read)(void *context, uint64_t number, uint64_t offset, void *data, uint32_t size);
    /* A batch larger than segment_bytes is written at the start of a segment of its own, which it makes longer. */
    enum sluice_status (*write)(void *context, uint64_t number, uint64_t offset, const void *data, uint32_t size);
    void (*close)(void *context);
    /* How long a segment is: it may stem from a time when segment_bytes was another number. NULL: all are
     * segment_bytes. */
    enum sluice_status (*size)(void *context, uint64_t number, uint64_t *bytes);
};
#define WAL_SEGMENT_BYTES     (64u << 20)
#define WAL_SEGMENT_BYTES_MIN (64u << 10)
/* Creates the directory if need be, and locks it. segment_bytes 0: 64 MiB. O_DIRECT|O_DSYNC, or O_DSYNC where the file
 * system knows no O_DIRECT. */
enum sluice_status wal_device_open_directory(const char *path, uint64_t segment_bytes, struct wal_device *out,
                                             char *error, size_t error_size) SLUICE_MUST_CHECK;

/* Where the log is not what was written. */
struct wal_damage {
    uint64_t segment, offset;
    const char *what; /* borrowed */
};

struct wal;
struct wal_options {
    struct wal_device device; /* taken; closed by wal_close */
    bool thread;              /* false: wal_flush does the work in the caller (tests, simulator) */
    /* Called for each damage that is found, before the records. NULL: damage is an error (CORRUPT, or what reading
     * gave): right for who has no peer to be repaired from. */
    void (*damaged)(void *arg, const struct wal_damage *damage);
    bool lost;  /* what stood beside the log is gone: every group may have lost records, as after damage */
    bool known; /* the device has held a log before: if it is empty, that is damage */
};
/* Opens and replays: `replay` is called for each surviving record in order (the record's references are the callee's to
 * take with buf_ref).
 *
 * After damage: entries and hints come from before the first damage alone, so that what comes is a state that was once
 * durable; of what is whole behind it come promises (an entry's ballot too), ceilings and forgotten groups. Any group
 * may have lost records: a lost batch does not say whose they were. VERSION: a later release wrote it. */
enum sluice_status wal_open(const struct wal_options *options,
                            void (*replay)(void *arg, const struct wal_record *record), void *arg, struct wal **out,
                            char *error, size_t error_size) SLUICE_MUST_CHECK;
/* Writes what is queued, stops the thread. */
void wal_close(struct wal *self);
/* May the group have lost records? So it is for every group once damage was found, over any number of starts, until
 * wal_mend: its replica must not vote meanwhile. */
bool wal_lost(struct wal *self, uint32_t group);
/* Queues the record that says that the group's replica has been made whole by its peers (or is new here). */
enum sluice_status wal_mend(struct wal *self, uint32_t group, uint64_t epoch) SLUICE_MUST_CHECK;
/* From now on batches are written in this format, if it is later than the one until now. Any thread. */
void wal_use_format(struct wal *self, uint32_t format);
/* The disk has no room for the next segment. What was submitted waits and is written once there is room; the node
 * should take no further writes. */
bool wal_full(const struct wal *self);

/* Queues a record (its body gets a further reference). Reactor only. Everything appended before a wal_submit is one
 * batch, later batches may be joined. */
enum sluice_status wal_append(struct wal *self, const struct wal_record *record) SLUICE_MUST_CHECK;
/* Hands what was appended to the persist thread; `ticket` rises by one with each call that had something to hand over,
 * and is returned. */
uint64_t wal_submit(struct wal *self);
/* Readable when wal_completed may have risen. */
int wal_fd(const struct wal *self);
/* All batches up to this ticket are on stable storage. `*error`: OK, or why the log can't go on: a failed write is
 * never retried; the node must stop. */
uint64_t wal_completed(struct wal *self, enum sluice_status *error);
/* Without a thread: writes what was submitted. */
void wal_flush(struct wal *self);
/* Entries of `group` up to `revision` are durable elsewhere; segments that hold nothing else are recycled (the latest
 * promises and ceilings are carried forward). */
void wal_release(struct wal *self, uint32_t group, uint64_t revision);
/* True when so many segments are in use that store_flush is due. */
bool wal_wants_flush(const struct wal *self);
/* Bytes written to the device and payload bytes among them, since open; batches. For metrics. */
struct wal_figures {
    uint64_t bytes_written, bytes_payload, batches, records;
};
void wal_figures(const struct wal *self, struct wal_figures *out);

#endif

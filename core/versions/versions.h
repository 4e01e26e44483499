/* The version log: latest, history and time, per shard. Hot (memory) over cold (RocksDB).
 *
 * `struct versions` is one shard's history. Its hot part holds, in memory, every entry that the cold part does not have
 * yet, and as a cache what was recently written or read. Volatile pools have the hot part alone. `struct store` is the
 * cold part: one RocksDB a node for all shards, filled by an index thread behind the log's own segments (wal.h), its
 * own log off. All calls on `versions` are the reactor's; a read may wait for the disk. */
#ifndef VERSIONS_VERSIONS_H
#define VERSIONS_VERSIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "core/versions/entry.h"

struct versions;
struct store;

#define VERSION_TOMBSTONE 1u

/* One version of one object. Borrowed views into `owner` (one reference held by whoever holds the struct; NULL when all
 * is borrowed from the caller). */
struct version {
    const char *key;
    const char *content_type;
    const void *value; /* NULL when it was not asked for */
    uint32_t key_size;
    uint32_t content_type_size;
    uint32_t value_size; /* the object's size also when value is NULL */
    uint32_t flags;      /* VERSION_TOMBSTONE */
    uint64_t version;
    uint64_t revision;
    uint64_t time; /* platform time (HLC) */
    uint64_t object_time;
    uint32_t operation; /* index within the entry's batch */
    struct buf *owner;
};
void version_release(struct version *version);

/* A durable fact of the shard's state machine beside the versions (idempotency records, closed prefixes, cursors).
 * Empty value: forget it. */
struct versions_fact {
    struct slice name;  /* at most 64 bytes */
    struct slice value; /* at most 64 KiB */
};

struct versions_options {
    uint32_t group;
    uint64_t epoch;
    struct store *store;    /* NULL: memory alone (volatile pools, the simulator) */
    uint64_t hot_bytes_max; /* cache beyond what the store lacks; memory alone: versions_full answers true beyond it */
};

/* CONFLICT: the store holds a later epoch of the group (the map is older than the data). What it holds of an earlier
 * one is erased. */
enum sluice_status versions_create(const struct versions_options *options, struct versions **out) SLUICE_MUST_CHECK;
void versions_destroy(struct versions *self);
/* Forgets everything of the group, in the store too (a dropped pool or epoch). */
enum sluice_status versions_erase(struct versions *self) SLUICE_MUST_CHECK;

/* Highest revision applied; after create: what the store had durably. `*time` is that entry's HLC. */
uint64_t versions_applied(const struct versions *self, uint64_t *time);
/* Applies one stable entry (revision = applied + 1) with the versions that it made and the facts that it changed. The
 * entry's body is referenced, not copied: keys, content types and values of `made` lie within it, and each key occurs
 * once. Times never fall. All or nothing. MEMORY; INVALID (a key that no check let pass, a number that is not the
 * next); INTERNAL (a time before the last one's); the store's error when it cannot go on. Waits only while the store is
 * more than 64 MiB or 65,536 entries behind. */
enum sluice_status versions_apply(struct versions *self, const struct entry *entry, const struct version *made,
                                  uint32_t made_count, const struct versions_fact *facts,
                                  uint32_t fact_count) SLUICE_MUST_CHECK;
/* The store says that it has everything up to `revision`: the hot part may let go. */
void versions_indexed(struct versions *self, uint64_t revision);
bool versions_full(const struct versions *self);
/* Calls back for each fact as of `applied`: at start, and for a snapshot. Waits for the store to have what was applied;
 * one fact at a time is in memory. */
enum sluice_status versions_facts(struct versions *self, void (*each)(void *arg, struct slice name, struct slice value),
                                  void *arg) SLUICE_MUST_CHECK;

/* Reads. OK fills `out` (release it); NOT_FOUND: no such key or version, ever; a tombstone is OK with its flag set.
 * GONE: retention dropped it. CORRUPT: found damaged. */
enum sluice_status versions_latest(struct versions *self, struct slice key, bool with_value,
                                   struct version *out) SLUICE_MUST_CHECK;
enum sluice_status versions_by_version(struct versions *self, struct slice key, uint64_t version, bool with_value,
                                       struct version *out) SLUICE_MUST_CHECK;
/* The newest version with platform time <= time. */
enum sluice_status versions_by_time(struct versions *self, struct slice key, uint64_t time, bool with_value,
                                    struct version *out) SLUICE_MUST_CHECK;

/* Borrowed, but whoever wants to keep it may take a reference on its owner. False stops. It must not change the
 * versions. */
typedef bool (*versions_visit)(void *arg, const struct version *version);
struct versions_range {
    struct slice prefix; /* plain bytes; empty: all */
    struct slice after;  /* keys strictly greater; empty: from the start */
    uint64_t at;         /* the newest version with time <= at of each key; UINT64_MAX: latest */
    bool tombstones;     /* visit them too */
    bool values;
};
/* In key order (bytewise). */
enum sluice_status versions_list(struct versions *self, const struct versions_range *range, versions_visit visit,
                                 void *arg) SLUICE_MUST_CHECK;
struct versions_span {
    uint64_t version_from, version_to; /* inclusive; 0 and UINT64_MAX for all */
    uint64_t time_from, time_to;       /* platform time, inclusive */
    bool descending;
    bool values;
};
enum sluice_status versions_history(struct versions *self, struct slice key, const struct versions_span *span,
                                    versions_visit visit, void *arg) SLUICE_MUST_CHECK;
/* How many versions, tombstones included, lie under a pool prefix (text_prefix_holds); stops counting at `limit`. */
enum sluice_status versions_count(struct versions *self, struct slice prefix, uint64_t limit,
                                  uint64_t *out) SLUICE_MUST_CHECK;

/* The stable entry at `revision`, with one reference on its body. NOT_FOUND beyond applied; GONE: compaction or a
 * snapshot left it out; CORRUPT: damaged, see versions_repair. */
enum sluice_status versions_entry(struct versions *self, uint64_t revision, struct entry *out) SLUICE_MUST_CHECK;
/* The lowest revision whose entry has time > `time` (applied + 1 when there is none): where a watch resumes. */
enum sluice_status versions_revision_after(struct versions *self, uint64_t time, uint64_t *out) SLUICE_MUST_CHECK;
uint64_t versions_hot_bytes(const struct versions *self);

/* The first revision at or after `revision` whose entry is retained. NOT_FOUND: none up to applied. */
enum sluice_status versions_next(struct versions *self, uint64_t revision, uint64_t *next) SLUICE_MUST_CHECK;
/* Drops entries up to `upto` that made no version (ballots' first ones, cursors, members, changes of the map,
 * conditions that failed), by and by. Everything else stays what it was. BUSY, MEMORY: ask again some time. */
enum sluice_status versions_compact(struct versions *self, uint64_t upto) SLUICE_MUST_CHECK;

/* Revisions up to here may be left out; all beyond are kept. */
uint64_t versions_gaps(const struct versions *self);

/* Taking in a snapshot: retained entries beyond what was applied, in order and perhaps with gaps, then the facts.
 * Nothing of it can be read before the end: until then all answers, versions_applied too, are those of before; and
 * versions_apply may go on meanwhile, which the snapshot then does not disturb.
 *
 * begin: `*position` tells up to where everything retained is held already: applied, or what an attempt that was broken
 * off, by a crash too, had brought (durably, before a crash). It may be called again at any time. */
enum sluice_status versions_ingest_begin(struct versions *self, uint64_t *position) SLUICE_MUST_CHECK;
/* One entry beyond the position, with those of its versions that are retained (as in versions_apply, but a key's first
 * one may have any number). Waits while the store is more than its bound behind: memory is bounded. INVALID: it does
 * not follow; CONFLICT: no begin (memory alone). */
enum sluice_status versions_ingest_entry(struct versions *self, const struct entry *entry, const struct version *made,
                                         uint32_t made_count) SLUICE_MUST_CHECK;
/* The end: `applied` becomes `upto`, its time `time`, and the facts these, instead of all others, in one atomic step
 * that is durable on return (the caller waits for one flush). INVALID: something held lies beyond `upto`, or `upto` was
 * applied already; nothing has changed then. */
enum sluice_status versions_ingest_finish(struct versions *self, uint64_t upto, uint64_t time,
                                          const struct versions_fact *facts, uint64_t fact_count) SLUICE_MUST_CHECK;

/* Writes an entry back that was found damaged (CORRUPT); durable on return. INVALID: it is none of this group and
 * epoch, not applied, or its body does not fit its checksum. CONFLICT: it contradicts what can still be read of the
 * damaged one or of its neighbours. */
enum sluice_status versions_repair(struct versions *self, const struct entry *entry) SLUICE_MUST_CHECK;

/* The store: one a node. `index thread` inside: versions_apply hands batches to it and never waits, unless it is more
 * than a stated bound behind. */
struct store_options {
    const char *path;        /* a directory; created */
    uint64_t cache_bytes;    /* block cache; 0: 64 MiB */
    uint32_t blob_bytes_min; /* values of at least this many bytes go to blob files; 0: 512 */
    bool memory;             /* RocksDB on its in-memory environment, for tests */
    /* Not NULL: a store that is damaged beyond single entries is renamed `path`.damaged-TIME and an empty one opened;
     * then, and at each start until store_settle, this becomes true: every group may have lost what it held. NULL: that
     * is an error (CORRUPT). */
    bool *set_aside;
    /* What may still be written to the file system of `path`, and what it holds in all; NULL: store_free_bytes. */
    uint64_t (*free_bytes)(const char *path, uint64_t *total);
};
enum sluice_status store_open(const struct store_options *options, struct store **out, char *error,
                              size_t error_size) SLUICE_MUST_CHECK;
/* It is durable elsewhere (wal_options.lost) that the store before this one was set aside. */
enum sluice_status store_settle(struct store *self) SLUICE_MUST_CHECK;
/* What was read shows that the store is damaged beyond single entries: the next start sets it aside. */
void store_condemn(struct store *self);
/* From now on what is written may be of this format: a release that does not read it refuses the store. Reactor. */
enum sluice_status store_use_format(struct store *self, uint32_t format) SLUICE_MUST_CHECK;
/* Does it hold nothing of any group? */
bool store_empty(const struct store *self);
/* The first group from `from` on that it holds anything of; false: none. */
bool store_next_group(const struct store *self, uint32_t from, uint32_t *group);
/* Erases, durably, what it holds of a group that nobody has opened. */
enum sluice_status store_erase(struct store *self, uint32_t group) SLUICE_MUST_CHECK;
/* Waits for the index thread, flushes, closes. All versions must be destroyed before. */
void store_close(struct store *self);
/* Readable when store_poll has news. */
int store_fd(const struct store *self);
/* News for the reactor: `group` has all revisions up to `indexed` in the store (readable there), and all up to
 * `durable` on disk: log segments below that may be recycled. `error` is not OK when the store can't go on (it says so
 * in the log; the node must stop). */
typedef void (*store_news)(void *arg, uint32_t group, uint64_t indexed, uint64_t durable);
enum sluice_status store_poll(struct store *self, store_news news, void *arg) SLUICE_MUST_CHECK;
/* Asks the index thread to flush what it has, so that segments can be recycled; news follow. */
void store_flush(struct store *self);
/* Is there too little room on the disk to flush? What was written stays in memory and in the log until there is: a
 * flush that fails for want of room would end the store. Any thread. */
bool store_full(const struct store *self);
/* Bytes that may still be written to the file system of `path`; 0 when it cannot be asked. For the node's check before
 * it takes writes. */
uint64_t store_free_bytes(const char *path, uint64_t *total);

#endif

/* The cold part: what RocksDB holds, and how it is read. Private to core/versions; cold_format.c has the encodings,
 * cold_open.c the options, cold_read.c and cold_scan.c the reads. Any thread may read; the store's index thread alone
 * writes. */
#ifndef VERSIONS_COLD_H
#define VERSIONS_COLD_H

#include <rocksdb/c.h>

#include "api/release.h"
#include "core/base/text.h"
#include "core/versions/entry.h"
#include "core/versions/versions.h"

/* One column family holds all, so that one memtable flush is one consistent prefix of everything that was written (its
 * C interface flushes column families one by one, which atomic_flush does not join). The key's first byte tells the
 * kind: 'E' group BE32, revision BE64              → the entry: header and body, as in the log 'I' group BE32, key,
 * 0x00, ~version BE64   → struct cold_record, content type 'S' group BE32                             → struct
 * cold_state 'F' group BE32, name                       → a fact's value, then the CRC32C of both 'M' group BE32, time
 * BE64, revision BE64   → nothing: a mark for every COLD_MARK_EVERY-th revision, so that a time is found 'D' group
 * BE32, revision BE64 → nothing: the entry made no version, compaction may drop it 'P' group BE32 → struct
 * cold_progress: how far a snapshot has been taken in 'R' group BE32 → the same: up to where compaction or a snapshot
 * may have left revisions out 'V' → struct cold_stamp Big-endian numbers sort as they count; the complement puts a
 * key's newest version first. */
#define COLD_MARK_EVERY 64u

#define COLD_HEAD_BYTES          5u
#define COLD_INDEX_KEY_BYTES_MIN (COLD_HEAD_BYTES + 1u + 1u + 8u)
#define COLD_KEY_BYTES_MAX       (COLD_HEAD_BYTES + KEY_BYTES_MAX + 1u + 8u)

#define COLD_STAMP_MAGIC 0x31534c53u /* "SLS1" */
struct cold_stamp {
    uint32_t magic;
    uint32_t format; /* of all that stands here: the latest one that anything was written in */
};
_Static_assert(sizeof(struct cold_stamp) == 8, "frozen layout");
#define COLD_FORMAT release_formats_latest()->store /* that this release reads */

struct cold_state {
    uint32_t crc; /* CRC32C of what follows, and of the group */
    uint32_t reserved;
    uint64_t applied;
    uint64_t time;
    uint64_t epoch;
};
_Static_assert(sizeof(struct cold_state) == 32, "frozen layout");

struct cold_progress {
    uint32_t crc; /* CRC32C of what follows, the kind and the group */
    uint32_t reserved;
    uint64_t epoch;
    uint64_t revision;
};
_Static_assert(sizeof(struct cold_progress) == 24, "frozen layout");

struct cold_record {
    uint32_t crc;    /* CRC32C of what follows, the content type, and the whole key of the record */
    uint16_t format; /* 1 */
    uint16_t flags;  /* VERSION_… */
    uint64_t revision;
    uint64_t time;
    uint64_t object_time;
    uint32_t operation;
    uint32_t value_size;
    uint32_t value_offset; /* in the entry's body, as the next two */
    uint32_t key_offset;
    uint32_t type_offset;
    uint32_t type_size;
};
_Static_assert(sizeof(struct cold_record) == 56 && offsetof(struct cold_record, operation) == 32, "frozen layout");

struct cold {
    rocksdb_t *db;
    rocksdb_readoptions_t *point; /* one key, or one object's newest record: filters apply */
    rocksdb_readoptions_t *walk;  /* over many keys or backwards, in the order of all keys */
    rocksdb_options_t *options;
    rocksdb_env_t *env; /* in memory; NULL otherwise */
    rocksdb_cache_t *cache;
    uint32_t format; /* that the store says it has */
    /* A shard's own copy of this struct says what its reads may see. */
    uint64_t until; /* records of later revisions belong to a snapshot that is not whole: they are not there */
    uint64_t gaps;  /* up to here revisions may be missing, beyond it none is */
};

enum sluice_status cold_open(struct cold *self, const struct store_options *options, char *error,
                             size_t error_size) SLUICE_MUST_CHECK;
void cold_close(struct cold *self);
/* Says in the store that what follows may be of this format. It is as durable as what follows. */
enum sluice_status cold_use_format(struct cold *self, uint32_t format) SLUICE_MUST_CHECK;
/* Logs a RocksDB error, frees it and says what it means. */
enum sluice_status cold__error(const char *what, char *error);

/* The kinds of keys that belong to a group. */
#define COLD_KINDS 8
extern const char cold_kinds[COLD_KINDS];
/* Where the iterator stands: a key of this kind, and of which group. */
bool cold__group_at(const rocksdb_iterator_t *iterator, char kind, uint32_t *group);

/* Encodings; each returns the key's size. */
typedef uint8_t cold_key[COLD_KEY_BYTES_MAX];
size_t cold__head(cold_key out, char kind, uint32_t group);
size_t cold__entry_key(cold_key out, uint32_t group, uint64_t revision);
/* What all records of a key begin with. */
size_t cold__index_prefix(cold_key out, uint32_t group, struct slice key);
size_t cold__index_key(cold_key out, uint32_t group, struct slice key, uint64_t version);
size_t cold__fact_key(cold_key out, uint32_t group, struct slice name);
size_t cold__dropable_key(cold_key out, uint32_t group, uint64_t revision);
size_t cold__mark_key(cold_key out, uint32_t group, uint64_t time, uint64_t revision);
/* Takes an index key apart; false when it is none of `group`. */
bool cold__index_key_parse(const void *data, size_t size, uint32_t group, struct slice *key, uint64_t *version);
uint32_t cold__record_crc(const struct cold_record *record, const void *type, const void *key, size_t key_size);
/* Checks a record. `*type` borrows from `value`. */
enum sluice_status cold__record_read(const void *key, size_t key_size, const void *value, size_t value_size,
                                     struct cold_record *out, const char **type) SLUICE_MUST_CHECK;
uint32_t cold__state_crc(const struct cold_state *state, uint32_t group);
uint32_t cold__progress_crc(const struct cold_progress *progress, char kind, uint32_t group);
uint32_t cold__fact_crc(struct slice name, const void *value, size_t value_size);

/* Makes a version out of its record. */
enum sluice_status cold__version(const struct cold *self, uint32_t group, struct slice key, uint64_t number,
                                 const struct cold_record *record, const char *type, bool with_value,
                                 struct version *out) SLUICE_MUST_CHECK;

/* Reads. As in versions.h; NOT_FOUND where the store has nothing. */
enum sluice_status cold_state(const struct cold *self, uint32_t group, struct cold_state *out) SLUICE_MUST_CHECK;
/* NOT_FOUND: none, or none of this epoch. */
enum sluice_status cold_progress(const struct cold *self, char kind, uint32_t group, uint64_t epoch,
                                 uint64_t *revision) SLUICE_MUST_CHECK;
/* The header of an entry whose body need not be whole. */
enum sluice_status cold_entry_header(const struct cold *self, uint32_t group, uint64_t revision, struct entry *out,
                                     uint32_t *body_size) SLUICE_MUST_CHECK;
/* The first entry in [revision, last]. */
enum sluice_status cold_next(const struct cold *self, uint32_t group, uint64_t revision, uint64_t last,
                             uint64_t *next) SLUICE_MUST_CHECK;
enum sluice_status cold_entry(const struct cold *self, uint32_t group, uint64_t revision,
                              struct entry *out) SLUICE_MUST_CHECK;
enum sluice_status cold_latest(const struct cold *self, uint32_t group, struct slice key, bool with_value,
                               struct version *out) SLUICE_MUST_CHECK;
enum sluice_status cold_by_version(const struct cold *self, uint32_t group, struct slice key, uint64_t version,
                                   bool with_value, struct version *out) SLUICE_MUST_CHECK;
/* The newest version with time <= `time` among those below number `below`. */
enum sluice_status cold_by_time(const struct cold *self, uint32_t group, struct slice key, uint64_t time,
                                uint64_t below, bool with_value, struct version *out) SLUICE_MUST_CHECK;
/* Versions of the span (inclusive numbers); false in *more when `visit` stopped it. */
enum sluice_status cold_history(const struct cold *self, uint32_t group, struct slice key,
                                const struct versions_span *span, versions_visit visit, void *arg,
                                bool *more) SLUICE_MUST_CHECK;
/* The lowest revision in [1, last] with a time above `time`; last + 1 when there is none. */
enum sluice_status cold_revision_after(const struct cold *self, uint32_t group, uint64_t time, uint64_t last,
                                       uint64_t *out) SLUICE_MUST_CHECK;
enum sluice_status cold_facts(const struct cold *self, uint32_t group,
                              void (*each)(void *arg, struct slice name, struct slice value),
                              void *arg) SLUICE_MUST_CHECK;

/* Keys in order, each at its newest record. */
struct cold_keys;
enum sluice_status cold_keys_open(const struct cold *self, uint32_t group, struct slice prefix, struct slice after,
                                  struct cold_keys **out) SLUICE_MUST_CHECK;
void cold_keys_close(struct cold_keys *self);
/* The current key, borrowed until the next move; false at the end (or on an error, which cold_keys_close_status tells).
 */
bool cold_keys_current(const struct cold_keys *self, struct slice *key);
enum sluice_status cold_keys_newest(const struct cold_keys *self, bool with_value,
                                    struct version *out) SLUICE_MUST_CHECK;
/* Counts the current key's records with numbers below `below`, at most `limit`; then moves on as cold_keys_skip does.
 */
enum sluice_status cold_keys_count(struct cold_keys *self, uint64_t below, uint64_t limit,
                                   uint64_t *out) SLUICE_MUST_CHECK;
void cold_keys_skip(struct cold_keys *self);
enum sluice_status cold_keys_status(const struct cold_keys *self) SLUICE_MUST_CHECK;

#endif

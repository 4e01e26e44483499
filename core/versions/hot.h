/* The memory twin: one shard's history, or its recent part, in memory. Private to core/versions.
 *
 * Objects hang in a hash table (found by key) and in a skip list (found in key order; Pugh, 1990). Each holds its
 * versions in order: the numbers are contiguous and end with the newest one, so a version is found by subtraction and a
 * time by binary search. Entries stand in a deque by revision. Values are never copied: an object's versions and the
 * deque refer to the body of the entry that brought them.
 *
 * Over a store the hot part may let go of what the store has. It goes in the order of revisions: first entries leave
 * the deque, and with them the versions that have a successor; then newest versions that nobody asked for lately
 * (CLOCK; Corbató, 1968). */
#ifndef VERSIONS_HOT_H
#define VERSIONS_HOT_H

#include <stdbool.h>
#include <stdint.h>

#include "core/base/buf.h"
#include "core/versions/entry.h"
#include "core/versions/versions.h"

#define HOT_HEIGHT_MAX 20u
#define HOT_RING_CHUNK 512u

struct hot_version {
    uint64_t revision;
    uint64_t time;
    uint64_t object_time;
    struct buf *body; /* one reference */
    uint32_t value_offset, value_size;
    uint32_t key_offset;
    uint32_t type_offset;
    uint16_t operation;
    uint8_t type_size;
    uint8_t flags;
    uint32_t charge; /* bytes accounted for this version's part of the body */
};
_Static_assert(sizeof(struct hot_version) == 56, "a binary search by time touches few cache lines");

struct hot_object {
    struct hot_object *next; /* of the bucket */
    uint64_t hash;
    struct hot_version *versions; /* [start, start + count), oldest first; number first + i */
    uint64_t first;
    uint32_t start, count, capacity; /* capacity 1: versions points at `one` */
    uint16_t key_size;
    uint8_t height;
    bool referenced; /* since the clock's hand last passed */
    bool pending;    /* named by the entry that is being applied */
    struct hot_version one;
    struct hot_object *forward[]; /* `height` links, then the key */
};

struct hot_slot {
    uint64_t ballot, opened, time, epoch;
    struct buf *body; /* one reference, or NULL */
    uint32_t body_crc;
    uint16_t kind;
    uint16_t reserved;
    uint32_t made_count;
    union {
        struct hot_object *one;
        struct hot_object **many; /* made_count > 1: heap */
    } made;
};

/* The kind of a slot whose revision is left out: compaction dropped it, or a snapshot did not have it. */
#define HOT_GAP UINT16_MAX

struct hot_table {
    struct hot_object **buckets;
    uint64_t mask;
};

struct hot {
    struct hot_table table, old; /* old: while the table grows, its buckets move over a few at a time */
    uint64_t moved;              /* buckets of `old` below this have moved */
    uint64_t objects;
    uint64_t hand;      /* of the clock, a bucket of `table` */
    uint64_t fruitless; /* buckets that it passed since it last found an object that may go */
    uint64_t hash_seed;
    uint64_t level_state;
    struct hot_object *head[HOT_HEIGHT_MAX];
    uint32_t levels;
    struct hot_slot **chunks; /* of HOT_RING_CHUNK slots; chunk 0 holds revision `base` */
    uint64_t chunk_count, chunk_capacity;
    uint64_t base;
    uint64_t first, last;  /* revisions in the deque; empty: first = last + 1 */
    uint64_t bytes;        /* all that is accounted */
    uint64_t window_bytes; /* of it, what the deque keeps alive */
    bool all_keys;         /* every key that has a version is here */
    bool whole;            /* every version is */
};

enum sluice_status hot_init(struct hot *self, uint64_t applied) SLUICE_MUST_CHECK;
void hot_deinit(struct hot *self);

/* All or nothing: on failure (MEMORY, INVALID for a number that is not the next) nothing has changed. */
enum sluice_status hot_apply(struct hot *self, const struct entry *entry, const struct version *made,
                             uint32_t made_count) SLUICE_MUST_CHECK;
struct hot_object *hot_find(struct hot *self, struct slice key);
/* The slot of a revision in [first, last]. */
struct hot_slot *hot_slot(const struct hot *self, uint64_t revision);
/* The lowest revision in the deque whose time is above `time`; last + 1 when there is none. */
uint64_t hot_revision_after(const struct hot *self, uint64_t time);
/* Keeps a newest version that was read from the store. Failing to is no error: it is a cache. */
void hot_cache(struct hot *self, const struct version *version);
/* Lets go of what the store has (revisions <= indexed) until `bytes_max` is met, in so many steps at most. */
void hot_evict(struct hot *self, uint64_t indexed, uint64_t bytes_max, uint32_t steps_max);

/* hot_ingest.c. Leaves the revisions up to `until` out. */
enum sluice_status hot_skip(struct hot *self, uint64_t until, uint64_t time) SLUICE_MUST_CHECK;
/* Lets go of entries up to there that made no version. */
void hot_compact(struct hot *self, uint64_t from, uint64_t upto);
/* A second twin with the same content, which shares the bodies; of one without a store. */
enum sluice_status hot_dup(const struct hot *from, uint32_t group, struct hot *out) SLUICE_MUST_CHECK;

/* The first object whose key is >= `key` (or > with `strictly`); NULL at the end. */
struct hot_object *hot_seek(const struct hot *self, struct slice key, bool strictly);
static inline struct hot_object *hot_next(const struct hot_object *object)
{
    return object->forward[0];
}
static inline const char *hot_key(const struct hot_object *object)
{
    return (const char *)&object->forward[object->height];
}
static inline const struct hot_version *hot_at(const struct hot_object *object, uint64_t number)
{
    return &object->versions[object->start + (uint32_t)(number - object->first)];
}
static inline uint64_t hot_last(const struct hot_object *object)
{
    return object->first + object->count - 1;
}
/* How many of the object's versions have a time <= `time`: they are the first so many. */
uint32_t hot_count_until(const struct hot_object *object, uint64_t time);
/* Fills `out` with borrowed views: owner is the body, without a reference of its own. */
void hot_view(const struct hot_object *object, uint64_t number, bool with_value, struct version *out);

int hot__compare(const char *a, size_t a_size, const char *b, size_t b_size);
/* hot_order.c: the skip list. */
uint8_t hot__level(struct hot *self);
void hot__order_insert(struct hot *self, struct hot_object *object);
void hot__order_remove(struct hot *self, struct hot_object *object);
/* hot_ring.c: the deque. Makes room for one more slot, so that hot__ring_push cannot fail. */
enum sluice_status hot__ring_reserve(struct hot *self) SLUICE_MUST_CHECK;
struct hot_slot *hot__ring_push(struct hot *self);
void hot__ring_pop(struct hot *self); /* the oldest; its contents are gone already */
/* hot_evict.c */
/* Gives the version a body of its own where it shares a larger one: what stays for long must not keep its neighbours.
 */
void hot__version_own(struct hot *self, struct hot_version *version, uint32_t key_size);
void hot__version_drop(struct hot *self, struct hot_version *version);
void hot__object_destroy(struct hot *self, struct hot_object *object);
/* Moves so many buckets of the old table over. */
void hot__table_move(struct hot *self, uint32_t buckets);
void hot__table_remove(struct hot *self, struct hot_object *object);

#endif

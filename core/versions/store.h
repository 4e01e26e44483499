/* What a shard's versions need of the store. Private to core/versions. */
#ifndef VERSIONS_STORE_H
#define VERSIONS_STORE_H

#include "core/versions/cold.h"
#include "core/versions/versions.h"

/* How far the index thread may be behind before versions_apply waits. */
#define STORE_BEHIND_BYTES_MAX   (64u << 20)
#define STORE_BEHIND_ENTRIES_MAX 65536u

struct store_group;
struct store_item;

/* What the store holds of a group. */
struct store_found {
    struct cold_state state;
    uint64_t held; /* of a snapshot that was being taken in; 0: none */
    uint64_t gaps; /* up to here compaction or a snapshot may have left revisions out */
};
/* Joins a group. What the store holds under an older epoch is erased; under a newer one: CONFLICT. */
enum sluice_status store__group_open(struct store *self, uint32_t group, uint64_t epoch, struct store_group **out,
                                     struct store_found *found) SLUICE_MUST_CHECK;
/* Waits until the index thread has done with the group. */
void store__group_close(struct store_group *group);
const struct cold *store__cold(const struct store_group *group);

/* One entry on its way to the index thread; holds a reference on the body and copies of the rest. NULL: no memory. */
struct store_item *store__item_create(struct store_group *group, const struct entry *entry, const struct version *made,
                                      uint32_t made_count, const struct versions_fact *facts, uint32_t fact_count);
void store__item_destroy(struct store_item *item);
/* Takes the item. Waits while the index thread is too far behind. The store's error when it can't go on (the item is
 * gone then, too). */
enum sluice_status store__push(struct store_group *group, struct store_item *item) SLUICE_MUST_CHECK;
/* The same for an entry of a snapshot. */
enum sluice_status store__push_ingested(struct store_group *group, struct store_item *item) SLUICE_MUST_CHECK;
/* Ends a snapshot: its facts take the place of all others, and `upto` is what the store has. Durable on return. */
enum sluice_status store__finish(struct store_group *group, uint64_t upto, uint64_t time,
                                 const struct versions_fact *facts, uint32_t fact_count) SLUICE_MUST_CHECK;
/* Drops entries up to there that made no version, by and by; revisions up to `gaps` may be missing then. */
enum sluice_status store__compact(struct store_group *group, uint64_t upto, uint64_t gaps) SLUICE_MUST_CHECK;
/* Writes an entry anew. Durable on return. */
enum sluice_status store__repair(struct store_group *group, const struct entry *entry) SLUICE_MUST_CHECK;
/* The highest revision of the group that can be read from the store. */
uint64_t store__indexed(const struct store_group *group);
/* Waits until all that was pushed can be read from the store. */
enum sluice_status store__drain(struct store_group *group) SLUICE_MUST_CHECK;
/* Drops all of the group, durably. */
enum sluice_status store__erase(struct store_group *group) SLUICE_MUST_CHECK;

#endif

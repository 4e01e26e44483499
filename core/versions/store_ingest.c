/* What the index thread does for snapshots, compaction and repair. */
#include <string.h>

#include "core/base/log.h"
#include "core/versions/store__.h"

#define COMPACT_BATCH 4096u

void store__run_finish(struct store *self, const struct store_item *item)
{
    struct store_group *group = item->group;
    /* One batch lies in one memtable, and that is flushed whole: all of it becomes durable, or nothing. */
    store__delete_kind(self, 'F', group->group);
    for (uint32_t i = 0; i < item->fact_count; i++)
        store__fact_encode(self, group->group, item->facts[i].name, item->facts[i].value.data,
                           item->facts[i].value.size);
    group->written = item->upto;
    group->written_time = item->time;
    store__state_encode(self, group);
    store__progress_encode(self, group, 'R', item->upto);
    store__delete_kind(self, 'P', group->group);
    if (store__write_now(self, "ending a snapshot"))
        store__flush_now(self);
}

void store__run_repair(struct store *self, const struct store_item *item)
{
    store__entry_encode(self, item->group->group, &item->entry);
    if (store__write_now(self, "writing a repaired entry"))
        store__flush_now(self);
}

/* The revision that a key of entries that may be dropped names; false when it is none of this group up to `upto`. */
static bool droppable(const rocksdb_iterator_t *iterator, const cold_key from, uint64_t upto, uint64_t *revision)
{
    size_t size;
    if (!rocksdb_iter_valid(iterator))
        return false;
    const char *key = rocksdb_iter_key(iterator, &size);
    if (size != COLD_HEAD_BYTES + sizeof(*revision) || memcmp(key, from, COLD_HEAD_BYTES) != 0)
        return false;
    memcpy(revision, key + COLD_HEAD_BYTES, sizeof(*revision));
    *revision = __builtin_bswap64(*revision);
    return *revision <= upto;
}

void store__run_compact(struct store *self, const struct store_item *item)
{
    struct store_group *group = item->group;
    cold_key from;
    uint64_t revision;
    uint32_t count = 0;
    bool ok = true;
    size_t size = cold__dropable_key(from, group->group, 0);
    /* Before anything is missing it is said that something may be. */
    store__progress_encode(self, group, 'R', item->gaps);
    rocksdb_iterator_t *iterator = rocksdb_create_iterator(self->cold.db, self->cold.walk);
    for (rocksdb_iter_seek(iterator, (const char *)from, size); ok && droppable(iterator, from, item->upto, &revision);
         rocksdb_iter_next(iterator)) {
        cold_key key;
        size_t key_size = cold__entry_key(key, group->group, revision);
        rocksdb_writebatch_delete(self->batch, (const char *)key, key_size);
        key_size = cold__dropable_key(key, group->group, revision);
        rocksdb_writebatch_delete(self->batch, (const char *)key, key_size);
        if (++count % COMPACT_BATCH == 0)
            ok = store__write_now(self, "compacting");
    }
    char *failure = NULL;
    rocksdb_iter_get_error(iterator, &failure);
    rocksdb_iter_destroy(iterator);
    if (failure != NULL)
        cold__error("compacting", failure); /* nothing is lost: what could not be read stays */
    if (ok)
        ok = store__write_now(self, "compacting");
    if (ok && count > 0)
        LOG_DEBUG("store", "group=%u %u entries without versions were dropped", group->group, count);
}

/* Reads of one entry, one version, one group's facts. */
#include <stdlib.h>
#include <string.h>

#include "core/base/crc.h"
#include "core/base/log.h"
#include "core/base/panic.h"
#include "core/versions/cold.h"

/* A value of one key, pinned where RocksDB has it; NULL with OK: there is none. */
static enum sluice_status get(const struct cold *self, const void *key, size_t key_size, rocksdb_pinnableslice_t **out)
{
    char *failure = NULL;
    *out = rocksdb_get_pinned(self->db, self->point, (const char *)key, key_size, &failure);
    return failure == NULL ? SLUICE_OK : cold__error("reading", failure);
}

static enum sluice_status damaged(uint32_t group, const char *what, uint64_t number)
{
    LOG_ERROR("store", "group=%u %s %llu is damaged", group, what, (unsigned long long)number);
    return SLUICE_CORRUPT;
}

enum sluice_status cold_state(const struct cold *self, uint32_t group, struct cold_state *out)
{
    cold_key key;
    size_t key_size = cold__head(key, 'S', group);
    rocksdb_pinnableslice_t *found;
    enum sluice_status status = get(self, key, key_size, &found);
    if (status != SLUICE_OK || found == NULL)
        return status != SLUICE_OK ? status : SLUICE_NOT_FOUND;
    size_t size;
    const char *value = rocksdb_pinnableslice_value(found, &size);
    if (size == sizeof(*out))
        memcpy(out, value, sizeof(*out));
    rocksdb_pinnableslice_destroy(found);
    if (size != sizeof(*out) || out->crc != cold__state_crc(out, group))
        return damaged(group, "the state record", 0);
    return SLUICE_OK;
}

enum sluice_status cold_progress(const struct cold *self, char kind, uint32_t group, uint64_t epoch, uint64_t *revision)
{
    cold_key key;
    struct cold_progress progress = {0};
    size_t key_size = cold__head(key, kind, group);
    rocksdb_pinnableslice_t *found;
    enum sluice_status status = get(self, key, key_size, &found);
    if (status != SLUICE_OK || found == NULL)
        return status != SLUICE_OK ? status : SLUICE_NOT_FOUND;
    size_t size;
    const char *value = rocksdb_pinnableslice_value(found, &size);
    if (size == sizeof(progress))
        memcpy(&progress, value, sizeof(progress));
    rocksdb_pinnableslice_destroy(found);
    if (size != sizeof(progress) || progress.crc != cold__progress_crc(&progress, kind, group))
        return damaged(group, "the record of its progress", 0);
    *revision = progress.revision;
    return progress.epoch == epoch ? SLUICE_OK : SLUICE_NOT_FOUND;
}

enum sluice_status cold_entry_header(const struct cold *self, uint32_t group, uint64_t revision, struct entry *out,
                                     uint32_t *body_size)
{
    cold_key key;
    size_t key_size = cold__entry_key(key, group, revision), size;
    rocksdb_pinnableslice_t *found;
    enum sluice_status status = get(self, key, key_size, &found);
    if (status != SLUICE_OK || found == NULL)
        return status != SLUICE_OK ? status : SLUICE_NOT_FOUND;
    const char *value = rocksdb_pinnableslice_value(found, &size);
    status = entry_header_read(value, size, out, body_size);
    rocksdb_pinnableslice_destroy(found);
    return status;
}

enum sluice_status cold_next(const struct cold *self, uint32_t group, uint64_t revision, uint64_t last, uint64_t *next)
{
    cold_key from;
    enum sluice_status status = SLUICE_NOT_FOUND;
    if (revision > last)
        return status;
    if (revision > self->gaps) {
        *next = revision;
        return SLUICE_OK;
    }
    size_t size = cold__entry_key(from, group, revision), key_size;
    rocksdb_iterator_t *iterator = rocksdb_create_iterator(self->db, self->walk);
    rocksdb_iter_seek(iterator, (const char *)from, size);
    if (rocksdb_iter_valid(iterator)) {
        const char *key = rocksdb_iter_key(iterator, &key_size);
        if (key_size == size && memcmp(key, from, COLD_HEAD_BYTES) == 0) {
            memcpy(next, key + COLD_HEAD_BYTES, sizeof(*next));
            *next = __builtin_bswap64(*next);
            status = *next <= last ? SLUICE_OK : SLUICE_NOT_FOUND;
        }
    }
    char *failure = NULL;
    rocksdb_iter_get_error(iterator, &failure);
    rocksdb_iter_destroy(iterator);
    return failure == NULL ? status : cold__error("reading entries", failure);
}

static enum sluice_status entry_copy(const char *value, size_t size, uint32_t group, uint64_t revision,
                                     struct entry *out)
{
    uint32_t body_size;
    struct entry entry;
    enum sluice_status status = entry_header_read(value, size, &entry, &body_size);
    if (status != SLUICE_OK)
        return status;
    if (size != sizeof(struct entry_header) + body_size || entry.group != group || entry.index != revision)
        return SLUICE_CORRUPT;
    if (body_size > 0) {
        entry.body = buf_dup(value + sizeof(struct entry_header), body_size);
        if (entry.body == NULL)
            return SLUICE_MEMORY;
        if (crc32c(entry.body->data, body_size) != entry.body_crc) {
            buf_unref(entry.body);
            return SLUICE_CORRUPT;
        }
    }
    *out = entry;
    return SLUICE_OK;
}

enum sluice_status cold_entry(const struct cold *self, uint32_t group, uint64_t revision, struct entry *out)
{
    cold_key key;
    size_t key_size = cold__entry_key(key, group, revision);
    rocksdb_pinnableslice_t *found;
    enum sluice_status status = get(self, key, key_size, &found);
    if (status != SLUICE_OK)
        return status;
    if (found == NULL)
        return damaged(group, "the store has lost an entry: revision", revision);
    size_t size;
    const char *value = rocksdb_pinnableslice_value(found, &size);
    status = entry_copy(value, size, group, revision, out);
    rocksdb_pinnableslice_destroy(found);
    return status == SLUICE_CORRUPT ? damaged(group, "revision", revision) : status;
}

/* Makes a version out of its record: without the value from the record alone, with it from the entry. */
enum sluice_status cold__version(const struct cold *self, uint32_t group, struct slice key, uint64_t number,
                                 const struct cold_record *record, const char *type, bool with_value,
                                 struct version *out)
{
    *out = (struct version){
        .key_size = (uint32_t)key.size,
        .content_type_size = record->type_size,
        .value_size = record->value_size,
        .flags = record->flags,
        .version = number,
        .revision = record->revision,
        .time = record->time,
        .object_time = record->object_time,
        .operation = record->operation,
    };
    if (!with_value) {
        struct buf *words = buf_create((uint32_t)key.size + record->type_size);
        if (words == NULL)
            return SLUICE_MEMORY;
        memcpy(words->data, key.data, key.size);
        memcpy(words->data + key.size, type, record->type_size);
        out->owner = words;
        out->key = (const char *)words->data;
        out->content_type = out->key + key.size;
        return SLUICE_OK;
    }
    struct entry entry;
    enum sluice_status status = cold_entry(self, group, record->revision, &entry);
    if (status != SLUICE_OK)
        return status;
    uint64_t size = entry.body == NULL ? 0 : entry.body->size;
    if ((uint64_t)record->value_offset + record->value_size > size || record->key_offset + key.size > size ||
        (uint64_t)record->type_offset + record->type_size > size || entry.time != record->time ||
        memcmp(entry.body->data + record->key_offset, key.data, key.size) != 0) {
        buf_unref(entry.body);
        return damaged(group, "the index does not fit the entry of revision", record->revision);
    }
    out->owner = entry.body;
    out->key = (const char *)entry.body->data + record->key_offset;
    out->content_type = (const char *)entry.body->data + record->type_offset;
    out->value = entry.body->data + record->value_offset;
    return SLUICE_OK;
}

enum sluice_status cold_by_version(const struct cold *self, uint32_t group, struct slice key, uint64_t version,
                                   bool with_value, struct version *out)
{
    cold_key name;
    struct cold_record record;
    const char *type;
    rocksdb_pinnableslice_t *found;
    if (key.size > KEY_BYTES_MAX)
        return SLUICE_NOT_FOUND;
    size_t name_size = cold__index_key(name, group, key, version);
    enum sluice_status status = get(self, name, name_size, &found);
    if (status != SLUICE_OK || found == NULL)
        return status != SLUICE_OK ? status : SLUICE_NOT_FOUND;
    size_t size;
    const char *value = rocksdb_pinnableslice_value(found, &size);
    status = cold__record_read(name, name_size, value, size, &record, &type);
    if (status == SLUICE_OK && record.revision > self->until)
        status = SLUICE_NOT_FOUND;
    else if (status == SLUICE_OK)
        status = cold__version(self, group, key, version, &record, type, with_value, out);
    else
        damaged(group, "the index record of version", version);
    rocksdb_pinnableslice_destroy(found);
    return status;
}

enum sluice_status cold_facts(const struct cold *self, uint32_t group,
                              void (*each)(void *arg, struct slice name, struct slice value), void *arg)
{
    cold_key from;
    size_t from_size = cold__fact_key(from, group, (struct slice){0});
    rocksdb_iterator_t *iterator = rocksdb_create_iterator(self->db, self->walk);
    enum sluice_status status = SLUICE_OK;
    for (rocksdb_iter_seek(iterator, (const char *)from, from_size); rocksdb_iter_valid(iterator);
         rocksdb_iter_next(iterator)) {
        size_t key_size, value_size;
        const char *key = rocksdb_iter_key(iterator, &key_size);
        const char *value = rocksdb_iter_value(iterator, &value_size);
        if (key_size < from_size || memcmp(key, from, from_size) != 0)
            break;
        struct slice name = {key + from_size, key_size - from_size};
        uint32_t crc = 0;
        if (value_size > sizeof(crc))
            memcpy(&crc, value + value_size - sizeof(crc), sizeof(crc));
        if (value_size <= sizeof(crc) || crc != cold__fact_crc(name, value, value_size - sizeof(crc))) {
            status = damaged(group, "a fact", 0);
            break;
        }
        each(arg, name, (struct slice){value, value_size - sizeof(crc)});
    }
    char *failure = NULL;
    rocksdb_iter_get_error(iterator, &failure);
    rocksdb_iter_destroy(iterator);
    if (failure != NULL)
        return cold__error("reading facts", failure);
    return status;
}

static uint64_t mark_revision(const char *key, size_t size)
{
    uint64_t revision;
    memcpy(&revision, key + size - sizeof(revision), sizeof(revision));
    return __builtin_bswap64(revision);
}

/* The first mark with a time above `time` bounds the answer from above, its predecessor from below. */
static enum sluice_status mark_after(const struct cold *self, uint32_t group, uint64_t time, uint64_t last,
                                     uint64_t *low, uint64_t *high)
{
    cold_key from;
    size_t size = cold__mark_key(from, group, time, UINT64_MAX), key_size;
    rocksdb_iterator_t *iterator = rocksdb_create_iterator(self->db, self->walk);
    *low = 1;
    *high = last;
    rocksdb_iter_seek(iterator, (const char *)from, size);
    if (rocksdb_iter_valid(iterator)) {
        const char *key = rocksdb_iter_key(iterator, &key_size);
        if (key_size == size && memcmp(key, from, COLD_HEAD_BYTES) == 0 && mark_revision(key, key_size) < last)
            *high = mark_revision(key, key_size);
    }
    rocksdb_iter_seek_for_prev(iterator, (const char *)from, size);
    if (rocksdb_iter_valid(iterator)) {
        const char *key = rocksdb_iter_key(iterator, &key_size);
        if (key_size == size && memcmp(key, from, COLD_HEAD_BYTES) == 0 && mark_revision(key, key_size) < *high)
            *low = mark_revision(key, key_size) + 1;
    }
    char *failure = NULL;
    rocksdb_iter_get_error(iterator, &failure);
    rocksdb_iter_destroy(iterator);
    return failure == NULL ? SLUICE_OK : cold__error("reading marks", failure);
}

enum sluice_status cold_revision_after(const struct cold *self, uint32_t group, uint64_t time, uint64_t last,
                                       uint64_t *out)
{
    uint64_t low, high;
    enum sluice_status status = mark_after(self, group, time, last, &low, &high);
    high = high == last ? last + 1 : high; /* the answer lies in [low, high] */
    while (status == SLUICE_OK && low < high) {
        uint64_t middle = low + (high - low) / 2, next;
        struct entry entry;
        status = cold_next(self, group, middle, last, &next);
        if (status == SLUICE_NOT_FOUND) {
            high = middle;
            status = SLUICE_OK;
            continue;
        }
        if (status == SLUICE_OK)
            status = cold_entry(self, group, next, &entry);
        if (status != SLUICE_OK)
            break;
        buf_unref(entry.body);
        if (entry.time <= time)
            low = next + 1;
        else
            high = middle;
    }
    if (status == SLUICE_OK && low <= last && low <= self->gaps) {
        status = cold_next(self, group, low, last, out);
        if (status != SLUICE_NOT_FOUND)
            return status;
        low = last + 1;
        status = SLUICE_OK;
    }
    *out = low;
    return status;
}

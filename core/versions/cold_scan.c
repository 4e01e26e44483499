/* Reads that walk the index: newest version, by time, history, keys in order. */
#include <stdlib.h>
#include <string.h>

#include "core/base/panic.h"
#include "core/versions/cold.h"
#include "core/versions/memory.h"

#define NEXT_BEFORE_SEEK 8 /* stepping over a few records is cheaper than seeking past them */

static enum sluice_status iterator_status(rocksdb_iterator_t *iterator)
{
    char *failure = NULL;
    rocksdb_iter_get_error(iterator, &failure);
    return failure == NULL ? SLUICE_OK : cold__error("walking the index", failure);
}

/* Where the iterator stands: the key (borrowed) and version number, if it is a record of `group`. */
static bool stands_at(const rocksdb_iterator_t *iterator, uint32_t group, struct slice *key, uint64_t *number)
{
    if (!rocksdb_iter_valid(iterator))
        return false;
    size_t size;
    const char *name = rocksdb_iter_key(iterator, &size);
    return cold__index_key_parse(name, size, group, key, number);
}

static bool same_key(struct slice a, struct slice b)
{
    return a.size == b.size && memcmp(a.data, b.data, a.size) == 0;
}

static enum sluice_status record_here(const rocksdb_iterator_t *iterator, struct cold_record *out, const char **type)
{
    size_t name_size, value_size;
    const char *name = rocksdb_iter_key(iterator, &name_size);
    const char *value = rocksdb_iter_value(iterator, &value_size);
    return cold__record_read(name, name_size, value, value_size, out, type);
}

enum sluice_status cold_latest(const struct cold *self, uint32_t group, struct slice key, bool with_value,
                               struct version *out)
{
    return cold_by_time(self, group, key, UINT64_MAX, UINT64_MAX, with_value, out);
}

/* Numbers are contiguous and their times never fall, so the version sought lies between two whose times are known: its
 * place is guessed from them (interpolation search), with every other guess in the middle, so that uneven times cost a
 * logarithm at most. */
static enum sluice_status search_time(const struct cold *self, uint32_t group, struct slice key, uint64_t time,
                                      uint64_t high, uint64_t high_time, uint64_t *found)
{
    uint64_t low = 0, low_time = 0; /* low: time <= `time`, or before the first; high: time > `time` */
    bool middle = false;
    while (high - low > 1) {
        uint64_t guess = low + (high - low) / 2;
        if (!middle && low_time > 0) {
            __uint128_t part = (__uint128_t)(time - low_time) * (high - low) / (high_time - low_time);
            guess = low + (uint64_t)part;
            guess = guess <= low ? low + 1 : guess >= high ? high - 1 : guess;
        }
        middle = !middle;
        struct version version;
        enum sluice_status status = cold_by_version(self, group, key, guess, false, &version);
        if (status == SLUICE_NOT_FOUND) { /* below the oldest that is kept */
            low = guess;
            low_time = 0;
            continue;
        }
        if (status != SLUICE_OK)
            return status;
        version_release(&version);
        if (version.time <= time) {
            low = guess;
            low_time = version.time;
        } else {
            high = guess;
            high_time = version.time;
        }
    }
    *found = low;
    return SLUICE_OK;
}

enum sluice_status cold_by_time(const struct cold *self, uint32_t group, struct slice key, uint64_t time,
                                uint64_t below, bool with_value, struct version *out)
{
    cold_key name;
    struct slice at;
    uint64_t number;
    if (key.size > KEY_BYTES_MAX)
        return SLUICE_NOT_FOUND;
    size_t size = cold__index_key(name, group, key, below == UINT64_MAX ? UINT64_MAX : below - 1);
    rocksdb_iterator_t *iterator = rocksdb_create_iterator(self->db, self->point);
    rocksdb_iter_seek(iterator, (const char *)name, size);
    enum sluice_status status = iterator_status(iterator);
    struct cold_record record;
    const char *type;
    for (bool seen = false; status == SLUICE_OK && !seen;) {
        if (!stands_at(iterator, group, &at, &number) || !same_key(at, key))
            status = SLUICE_NOT_FOUND;
        else
            status = record_here(iterator, &record, &type);
        seen = status != SLUICE_OK || record.revision <= self->until;
        if (!seen)
            rocksdb_iter_next(iterator);
    }
    if (status == SLUICE_OK && record.time <= time) {
        status = cold__version(self, group, key, number, &record, type, with_value, out);
    } else if (status == SLUICE_OK) {
        uint64_t found = 0;
        status = search_time(self, group, key, time, number, record.time, &found);
        if (status == SLUICE_OK)
            status = found == 0 ? SLUICE_NOT_FOUND : cold_by_version(self, group, key, found, with_value, out);
    }
    rocksdb_iter_destroy(iterator);
    return status;
}

/* A view of one record within the walk; released by the caller. */
static enum sluice_status version_here(const struct cold *self, uint32_t group, const rocksdb_iterator_t *iterator,
                                       bool with_value, struct version *out)
{
    struct slice key;
    uint64_t number;
    struct cold_record record;
    const char *type;
    bool here = stands_at(iterator, group, &key, &number);
    ASSERT(here);
    enum sluice_status status = record_here(iterator, &record, &type);
    return status != SLUICE_OK ? status : cold__version(self, group, key, number, &record, type, with_value, out);
}

/* Narrows the span's numbers to where its times begin, in the direction of the walk. NOT_FOUND: nothing can match. */
static enum sluice_status narrow(const struct cold *self, uint32_t group, struct slice key, struct versions_span *span)
{
    struct version version;
    uint64_t below = span->version_to == UINT64_MAX ? UINT64_MAX : span->version_to + 1;
    if (span->version_from > span->version_to || span->time_from > span->time_to)
        return SLUICE_NOT_FOUND;
    if (span->descending && span->time_to < UINT64_MAX) {
        enum sluice_status status = cold_by_time(self, group, key, span->time_to, below, false, &version);
        if (status != SLUICE_OK)
            return status;
        span->version_to = version.version;
        version_release(&version);
    }
    if (!span->descending && span->time_from > 0) {
        enum sluice_status status = cold_by_time(self, group, key, span->time_from - 1, below, false, &version);
        if (status == SLUICE_NOT_FOUND)
            return SLUICE_OK;
        if (status != SLUICE_OK)
            return status;
        if (span->version_from <= version.version)
            span->version_from = version.version + 1;
        version_release(&version);
    }
    return SLUICE_OK;
}

/* Visits the record at which the iterator stands; *more turns false where the walk ends. */
static enum sluice_status history_step(const struct cold *self, uint32_t group, struct slice key, uint64_t number,
                                       const rocksdb_iterator_t *iterator, const struct versions_span *span,
                                       versions_visit visit, void *arg, bool *in_span, bool *more)
{
    struct cold_record record;
    const char *type;
    enum sluice_status status = record_here(iterator, &record, &type);
    if (status != SLUICE_OK)
        return status;
    if (record.revision > self->until)
        return SLUICE_OK;
    *in_span = span->descending ? record.time >= span->time_from : record.time <= span->time_to;
    if (!*in_span || record.time < span->time_from || record.time > span->time_to)
        return SLUICE_OK;
    struct version version;
    status = cold__version(self, group, key, number, &record, type, span->values, &version);
    if (status != SLUICE_OK)
        return status;
    *more = visit(arg, &version);
    version_release(&version);
    return SLUICE_OK;
}

enum sluice_status cold_history(const struct cold *self, uint32_t group, struct slice key,
                                const struct versions_span *asked, versions_visit visit, void *arg, bool *more)
{
    struct versions_span span = *asked;
    cold_key name;
    struct slice at;
    uint64_t number;
    *more = true;
    if (key.size > KEY_BYTES_MAX)
        return SLUICE_OK;
    enum sluice_status status = narrow(self, group, key, &span);
    if (status != SLUICE_OK)
        return status == SLUICE_NOT_FOUND ? SLUICE_OK : status;
    rocksdb_iterator_t *iterator = rocksdb_create_iterator(self->db, self->walk);
    /* Newest first is the index's own order; ascending walks it backwards. */
    size_t size = cold__index_key(name, group, key, span.descending ? span.version_to : span.version_from);
    if (span.descending)
        rocksdb_iter_seek(iterator, (const char *)name, size);
    else
        rocksdb_iter_seek_for_prev(iterator, (const char *)name, size);
    bool in_span = true;
    while (*more && in_span && stands_at(iterator, group, &at, &number) && same_key(at, key) &&
           number >= span.version_from && number <= span.version_to) {
        status = history_step(self, group, key, number, iterator, &span, visit, arg, &in_span, more);
        if (status != SLUICE_OK)
            break;
        if (span.descending)
            rocksdb_iter_next(iterator);
        else
            rocksdb_iter_prev(iterator);
    }
    if (status == SLUICE_OK)
        status = iterator_status(iterator);
    rocksdb_iter_destroy(iterator);
    return status;
}

struct cold_keys {
    const struct cold *cold;
    rocksdb_iterator_t *iterator;
    uint32_t group;
    size_t prefix_size;
    size_t key_size;
    enum sluice_status status;
    cold_key prefix;
    uint8_t key[KEY_BYTES_MAX]; /* the current one: the iterator's own bytes move under it */
};

/* Is the record at which the iterator stands one that may be seen? A damaged one is: it is told when it is read. */
static bool seen_here(const struct cold *self, const rocksdb_iterator_t *iterator)
{
    struct cold_record record;
    const char *type;
    return self->until == UINT64_MAX || record_here(iterator, &record, &type) != SLUICE_OK ||
           record.revision <= self->until;
}

/* Takes note of the key at which the iterator stands; none: the end. */
static void keys_settle(struct cold_keys *self)
{
    while (rocksdb_iter_valid(self->iterator) && !seen_here(self->cold, self->iterator))
        rocksdb_iter_next(self->iterator);
    struct slice key;
    uint64_t number;
    self->key_size = 0;
    size_t size;
    if (!rocksdb_iter_valid(self->iterator)) {
        self->status = iterator_status(self->iterator);
        return;
    }
    const char *name = rocksdb_iter_key(self->iterator, &size);
    if (size < self->prefix_size || memcmp(name, self->prefix, self->prefix_size) != 0)
        return;
    if (!stands_at(self->iterator, self->group, &key, &number) || key.size > KEY_BYTES_MAX) {
        self->status = SLUICE_CORRUPT;
        return;
    }
    memcpy(self->key, key.data, key.size);
    self->key_size = key.size;
}

enum sluice_status cold_keys_open(const struct cold *self, uint32_t group, struct slice prefix, struct slice after,
                                  struct cold_keys **out)
{
    struct cold_keys *keys = memory__allocate_zeroed(1, sizeof(*keys));
    if (keys == NULL)
        return SLUICE_MEMORY;
    if (prefix.size > KEY_BYTES_MAX || after.size > KEY_BYTES_MAX) {
        /* Nothing begins with more than a key can hold, but keys lie after anything; cut, it still sorts before them.
         */
        prefix.size = prefix.size > KEY_BYTES_MAX + 1 ? KEY_BYTES_MAX + 1 : prefix.size;
        after.size = after.size > KEY_BYTES_MAX ? KEY_BYTES_MAX : after.size;
    }
    keys->cold = self;
    keys->group = group;
    keys->prefix_size = cold__head(keys->prefix, 'I', group);
    if (prefix.size > 0)
        memcpy(keys->prefix + keys->prefix_size, prefix.data, prefix.size);
    keys->prefix_size += prefix.size;
    keys->iterator = rocksdb_create_iterator(self->db, self->walk);
    if (after.size > 0) {
        memcpy(keys->key, after.data, after.size);
        keys->key_size = after.size;
        cold_keys_skip(keys);
    } else {
        rocksdb_iter_seek(keys->iterator, (const char *)keys->prefix, keys->prefix_size);
        keys_settle(keys);
    }
    *out = keys;
    return SLUICE_OK;
}

void cold_keys_close(struct cold_keys *self)
{
    rocksdb_iter_destroy(self->iterator);
    free(self);
}

enum sluice_status cold_keys_status(const struct cold_keys *self)
{
    return self->status;
}

bool cold_keys_current(const struct cold_keys *self, struct slice *key)
{
    *key = (struct slice){self->key, self->key_size};
    return self->key_size > 0;
}

enum sluice_status cold_keys_newest(const struct cold_keys *self, bool with_value, struct version *out)
{
    return version_here(self->cold, self->group, self->iterator, with_value, out);
}

/* A key's records end where its zero byte would be a one. */
static void keys_seek_past(struct cold_keys *self)
{
    cold_key name;
    size_t size = cold__index_prefix(name, self->group, (struct slice){self->key, self->key_size});
    name[size - 1] = 1;
    rocksdb_iter_seek(self->iterator, (const char *)name, size);
}

void cold_keys_skip(struct cold_keys *self)
{
    struct slice key;
    uint64_t number;
    struct slice current = {self->key, self->key_size};
    int steps = 0;
    while (steps < NEXT_BEFORE_SEEK && stands_at(self->iterator, self->group, &key, &number) &&
           same_key(key, current)) {
        rocksdb_iter_next(self->iterator);
        steps++;
    }
    if (steps == 0 || steps == NEXT_BEFORE_SEEK)
        keys_seek_past(self);
    keys_settle(self);
}

enum sluice_status cold_keys_count(struct cold_keys *self, uint64_t below, uint64_t limit, uint64_t *out)
{
    struct slice key;
    uint64_t number;
    struct slice current = {self->key, self->key_size};
    *out = 0;
    while (*out < limit && stands_at(self->iterator, self->group, &key, &number) && same_key(key, current)) {
        if (number < below && seen_here(self->cold, self->iterator))
            ++*out;
        rocksdb_iter_next(self->iterator);
    }
    cold_keys_skip(self);
    return self->status;
}

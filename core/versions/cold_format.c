/* How versions, entries, facts and states stand in RocksDB. Frozen. */
#include <string.h>

#include "core/base/crc.h"
#include "core/base/panic.h"
#include "core/versions/cold.h"

static void put32(uint8_t *out, uint32_t value)
{
    value = __builtin_bswap32(value);
    memcpy(out, &value, sizeof(value));
}

static void put64(uint8_t *out, uint64_t value)
{
    value = __builtin_bswap64(value);
    memcpy(out, &value, sizeof(value));
}

static uint64_t get64(const uint8_t *in)
{
    uint64_t value;
    memcpy(&value, in, sizeof(value));
    return __builtin_bswap64(value);
}

static uint32_t get32(const void *in)
{
    uint32_t value;
    memcpy(&value, in, sizeof(value));
    return __builtin_bswap32(value);
}

const char cold_kinds[COLD_KINDS] = {'D', 'E', 'F', 'I', 'M', 'P', 'R', 'S'};

bool cold__group_at(const rocksdb_iterator_t *iterator, char kind, uint32_t *group)
{
    size_t size;
    if (!rocksdb_iter_valid(iterator))
        return false;
    const char *key = rocksdb_iter_key(iterator, &size);
    if (size < COLD_HEAD_BYTES || key[0] != kind)
        return false;
    *group = get32(key + 1);
    return true;
}

size_t cold__head(cold_key out, char kind, uint32_t group)
{
    out[0] = (uint8_t)kind;
    put32(out + 1, group);
    return COLD_HEAD_BYTES;
}

size_t cold__entry_key(cold_key out, uint32_t group, uint64_t revision)
{
    size_t size = cold__head(out, 'E', group);
    put64(out + size, revision);
    return size + 8;
}

size_t cold__index_prefix(cold_key out, uint32_t group, struct slice key)
{
    ASSERT(key.size <= KEY_BYTES_MAX);
    size_t size = cold__head(out, 'I', group);
    memcpy(out + size, key.data, key.size);
    out[size + key.size] = 0;
    return size + key.size + 1;
}

size_t cold__index_key(cold_key out, uint32_t group, struct slice key, uint64_t version)
{
    size_t size = cold__index_prefix(out, group, key);
    put64(out + size, ~version);
    return size + 8;
}

bool cold__index_key_parse(const void *data, size_t size, uint32_t group, struct slice *key, uint64_t *version)
{
    const uint8_t *bytes = data;
    cold_key wanted;
    if (size < COLD_INDEX_KEY_BYTES_MIN || memcmp(bytes, wanted, cold__head(wanted, 'I', group)) != 0)
        return false;
    if (bytes[size - 9] != 0)
        return false;
    *key = (struct slice){bytes + COLD_HEAD_BYTES, size - COLD_HEAD_BYTES - 9};
    *version = ~get64(bytes + size - 8);
    return true;
}

size_t cold__fact_key(cold_key out, uint32_t group, struct slice name)
{
    ASSERT(name.size <= KEY_BYTES_MAX);
    size_t size = cold__head(out, 'F', group);
    if (name.size > 0)
        memcpy(out + size, name.data, name.size);
    return size + name.size;
}

size_t cold__dropable_key(cold_key out, uint32_t group, uint64_t revision)
{
    size_t size = cold__head(out, 'D', group);
    put64(out + size, revision);
    return size + 8;
}

size_t cold__mark_key(cold_key out, uint32_t group, uint64_t time, uint64_t revision)
{
    size_t size = cold__head(out, 'M', group);
    put64(out + size, time);
    put64(out + size + 8, revision);
    return size + 16;
}

uint32_t cold__record_crc(const struct cold_record *record, const void *type, const void *key, size_t key_size)
{
    uint32_t crc = crc32c((const uint8_t *)record + sizeof(record->crc), sizeof(*record) - sizeof(record->crc));
    crc = crc32c_extend(crc, type, record->type_size);
    return crc32c_extend(crc, key, key_size);
}

static bool inside(uint32_t offset, uint32_t size)
{
    return (uint64_t)offset + size <= ENTRY_BODY_BYTES_MAX;
}

enum sluice_status cold__record_read(const void *key, size_t key_size, const void *value, size_t value_size,
                                     struct cold_record *out, const char **type)
{
    if (value_size < sizeof(*out))
        return SLUICE_CORRUPT;
    memcpy(out, value, sizeof(*out));
    *type = (const char *)value + sizeof(*out);
    if (out->type_size > UINT8_MAX || value_size != sizeof(*out) + out->type_size)
        return SLUICE_CORRUPT;
    if (out->crc != cold__record_crc(out, *type, key, key_size))
        return SLUICE_CORRUPT;
    if (out->format != 1)
        return SLUICE_VERSION;
    if (!inside(out->value_offset, out->value_size) || !inside(out->type_offset, out->type_size) ||
        !inside(out->key_offset, KEY_BYTES_MAX))
        return SLUICE_CORRUPT;
    return SLUICE_OK;
}

uint32_t cold__state_crc(const struct cold_state *state, uint32_t group)
{
    uint32_t crc = crc32c((const uint8_t *)state + sizeof(state->crc), sizeof(*state) - sizeof(state->crc));
    return crc32c_extend(crc, &group, sizeof(group));
}

uint32_t cold__progress_crc(const struct cold_progress *progress, char kind, uint32_t group)
{
    uint32_t crc = crc32c((const uint8_t *)progress + sizeof(progress->crc), sizeof(*progress) - sizeof(progress->crc));
    return crc32c_extend(crc32c_extend(crc, &kind, sizeof(kind)), &group, sizeof(group));
}

uint32_t cold__fact_crc(struct slice name, const void *value, size_t value_size)
{
    return crc32c_extend(crc32c(name.data, name.size), value, value_size);
}

/* Bytes that claim to be an entry's header, an index record or a record's key. What is taken is within its bounds, and
 * means the same when written again. The first byte chooses whether checksums are put right first, so that what lies
 * behind them is reached. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/crc.h"
#include "core/base/panic.h"
#include "core/versions/cold.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_header(const uint8_t *data, size_t size, bool repair)
{
    uint8_t bytes[sizeof(struct entry_header)] = {0};
    struct entry entry;
    uint32_t body_size;
    memcpy(bytes, data, size < sizeof(bytes) ? size : sizeof(bytes));
    if (repair) {
        const uint32_t magic = ENTRY_MAGIC, crc = crc32c(bytes + 8, sizeof(bytes) - 8);
        memcpy(bytes, &magic, 4);
        memcpy(bytes + 4, &crc, 4);
    }
    if (entry_header_read(bytes, size < sizeof(bytes) && !repair ? size : sizeof(bytes), &entry, &body_size) !=
        SLUICE_OK)
        return;
    ASSERT(body_size <= ENTRY_BODY_BYTES_MAX && entry.body == NULL);
    struct buf *body = body_size == 0 ? NULL : buf_create(body_size);
    ASSERT(body_size == 0 || body != NULL);
    struct entry_header again;
    entry.body = body;
    entry_header_write(&entry, &again);
    ASSERT(memcmp(&again, bytes, sizeof(again)) == 0);
    buf_unref(body);
}

static void try_record(const uint8_t *data, size_t size, bool repair)
{
    size_t key_size = size < 40 ? size : 40;
    uint8_t *value = malloc(size + 1);
    size_t value_size = size - key_size;
    struct cold_record record;
    const char *type;
    memcpy(value, data + key_size, value_size);
    if (repair && value_size >= sizeof(record)) {
        memcpy(&record, value, sizeof(record));
        record.type_size = (uint32_t)(value_size - sizeof(record));
        record.crc = cold__record_crc(&record, value + sizeof(record), data, key_size);
        memcpy(value, &record, sizeof(record));
    }
    if (cold__record_read(data, key_size, value, value_size, &record, &type) == SLUICE_OK) {
        ASSERT((uint64_t)record.value_offset + record.value_size <= ENTRY_BODY_BYTES_MAX);
        ASSERT((const uint8_t *)type + record.type_size == value + value_size);
    }
    free(value);
}

static void try_key(const uint8_t *data, size_t size)
{
    struct slice key;
    uint64_t version;
    cold_key again;
    if (size < COLD_HEAD_BYTES)
        return;
    uint32_t group;
    memcpy(&group, data + 1, sizeof(group));
    group = __builtin_bswap32(group);
    if (!cold__index_key_parse(data, size, group, &key, &version))
        return;
    ASSERT(key.size + 14 == size && key.size > 0);
    if (key.size <= KEY_BYTES_MAX)
        ASSERT(cold__index_key(again, group, key, version) == size && memcmp(again, data, size) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    bool repair = data[0] & 1;
    try_header(data + 1, size - 1, repair);
    try_record(data + 1, size - 1, repair);
    try_key(data + 1, size - 1);
    return 0;
}

#include "core/versions/entry.h"

#include <string.h>

#include "core/base/crc.h"
#include "core/base/panic.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the frozen formats are little-endian and are used as they stand in memory"
#endif

#define CHECKED_FROM offsetof(struct entry_header, body_crc)

static uint32_t header_crc(const struct entry_header *header)
{
    return crc32c((const uint8_t *)header + CHECKED_FROM, sizeof(*header) - CHECKED_FROM);
}

void entry_header_write(const struct entry *entry, struct entry_header *out)
{
    ASSERT(entry->body == NULL || entry->body->size <= ENTRY_BODY_BYTES_MAX);
    *out = (struct entry_header){
        .magic = ENTRY_MAGIC,
        .body_crc = entry->body == NULL ? 0 : entry->body_crc,
        .body_size = entry->body == NULL ? 0 : entry->body->size,
        .ballot = entry->ballot,
        .index = entry->index,
        .time = entry->time,
        .epoch = entry->epoch,
        .group = entry->group,
        .kind = entry->kind,
        .opened = entry->opened,
    };
    out->header_crc = header_crc(out);
}

enum sluice_status entry_header_read(const void *data, size_t size, struct entry *out, uint32_t *body_size)
{
    struct entry_header header;
    if (size < sizeof(header))
        return SLUICE_CORRUPT;
    memcpy(&header, data, sizeof(header));
    if (header.magic != ENTRY_MAGIC || header.header_crc != header_crc(&header))
        return SLUICE_CORRUPT;
    /* What a later release may put into the zero fields is not ours to guess at. */
    if (header.kind > ENTRY_MEMBERS || header.flags != 0)
        return SLUICE_CORRUPT;
    if (header.body_size > ENTRY_BODY_BYTES_MAX || (header.body_size == 0 && header.body_crc != 0))
        return SLUICE_CORRUPT;
    *out = (struct entry){
        .index = header.index,
        .ballot = header.ballot,
        .time = header.time,
        .epoch = header.epoch,
        .group = header.group,
        .kind = header.kind,
        .body_crc = header.body_crc,
        .opened = header.opened,
    };
    *body_size = header.body_size;
    return SLUICE_OK;
}

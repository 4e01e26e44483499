#include "core/versions/wal_format.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/crc.h"
#include "core/base/panic.h"
#include "core/versions/memory.h"

#define CHECKED_FROM offsetof(struct wal_batch_header, body_crc)

enum sluice_status wal_buffer_reserve(struct wal_buffer *self, size_t extra)
{
    size_t needed = (size_t)wal_block_round(self->size + extra);
    if (needed <= self->capacity)
        return SLUICE_OK;
    size_t capacity = self->capacity < WAL_BLOCK_BYTES * 16 ? WAL_BLOCK_BYTES * 16 : self->capacity;
    while (capacity < needed)
        capacity *= 2;
    uint8_t *data = memory__allocate_aligned(WAL_BLOCK_BYTES, capacity);
    if (data == NULL)
        return SLUICE_MEMORY;
    if (self->size > 0)
        memcpy(data, self->data, self->size);
    free(self->data);
    self->data = data;
    self->capacity = capacity;
    return SLUICE_OK;
}

void wal_buffer_free(struct wal_buffer *self)
{
    free(self->data);
    *self = (struct wal_buffer){0};
}

static size_t pad8(size_t size)
{
    return (size + 7) & ~(size_t)7;
}

enum sluice_status wal_encode_raw(struct wal_buffer *self, uint16_t type, uint32_t size, uint8_t **data)
{
    const struct wal_record_header header = {.size = size, .type = type};
    size_t padded = pad8(size);
    enum sluice_status status = wal_buffer_reserve(self, sizeof(header) + padded);
    if (status != SLUICE_OK)
        return status;
    memcpy(self->data + self->size, &header, sizeof(header));
    *data = self->data + self->size + sizeof(header);
    memset(*data + size, 0, padded - size);
    self->size += sizeof(header) + padded;
    return SLUICE_OK;
}

enum sluice_status wal_encode(struct wal_buffer *self, const struct wal_record *record)
{
    uint8_t *data;
    if (record->type != WAL_ENTRY) {
        const struct wal_words words = {.group = record->group, .epoch = record->epoch, .ballot = record->ballot};
        enum sluice_status status = wal_encode_raw(self, (uint16_t)record->type, sizeof(words), &data);
        if (status == SLUICE_OK)
            memcpy(data, &words, sizeof(words));
        return status;
    }
    struct entry_header header;
    entry_header_write(&record->entry, &header);
    enum sluice_status status = wal_encode_raw(self, WAL_ENTRY, (uint32_t)sizeof(header) + header.body_size, &data);
    if (status != SLUICE_OK)
        return status;
    memcpy(data, &header, sizeof(header));
    if (header.body_size > 0)
        memcpy(data + sizeof(header), record->entry.body->data, header.body_size);
    return SLUICE_OK;
}

enum sluice_status wal_batch_begin(struct wal_buffer *self)
{
    self->size = 0;
    enum sluice_status status = wal_buffer_reserve(self, sizeof(struct wal_batch_header));
    if (status == SLUICE_OK)
        self->size = sizeof(struct wal_batch_header);
    return status;
}

static uint32_t header_crc(const struct wal_batch_header *header)
{
    return crc32c((const uint8_t *)header + CHECKED_FROM, sizeof(*header) - CHECKED_FROM);
}

enum sluice_status wal_batch_end(struct wal_buffer *self, const struct wal_batch_header *fields)
{
    struct wal_batch_header header = *fields;
    size_t body_size = self->size - sizeof(header);
    ASSERT(body_size <= WAL_BATCH_BYTES_MAX);
    size_t end = (size_t)wal_block_round(self->size);
    enum sluice_status status = wal_buffer_reserve(self, end - self->size);
    if (status != SLUICE_OK)
        return status;
    header.magic = WAL_BATCH_MAGIC;
    header.body_size = (uint32_t)body_size;
    header.body_crc = crc32c(self->data + sizeof(header), body_size);
    header.header_crc = header_crc(&header);
    memcpy(self->data, &header, sizeof(header));
    memset(self->data + self->size, 0, end - self->size);
    self->size = end;
    return SLUICE_OK;
}

bool wal_batch_header_read(const void *block, struct wal_batch_header *out)
{
    struct wal_batch_header header;
    memcpy(&header, block, sizeof(header));
    if (header.magic != WAL_BATCH_MAGIC || header.header_crc != header_crc(&header))
        return false;
    if (header.body_size > WAL_BATCH_BYTES_MAX || header.reserved != 0 || header.sequence == 0)
        return false;
    *out = header;
    return true;
}

bool wal_batch_body_valid(const struct wal_batch_header *header, const void *body)
{
    return crc32c(body, header->body_size) == header->body_crc;
}

int wal_record_next(const void *body, size_t size, size_t *offset, struct wal_record_header *out, const uint8_t **data)
{
    const uint8_t *bytes = body;
    if (*offset == size)
        return 0;
    if (size - *offset < sizeof(*out))
        return -1;
    memcpy(out, bytes + *offset, sizeof(*out));
    size_t left = size - *offset - sizeof(*out);
    if (out->reserved != 0 || pad8(out->size) > left)
        return -1;
    *data = bytes + *offset + sizeof(*out);
    *offset += sizeof(*out) + pad8(out->size);
    return 1;
}

static enum sluice_status decode_entry(const uint8_t *data, uint32_t size, struct wal_record *out)
{
    struct entry entry;
    uint32_t body_size;
    enum sluice_status status = entry_header_read(data, size, &entry, &body_size);
    if (status != SLUICE_OK)
        return status;
    data += sizeof(struct entry_header);
    if (size != sizeof(struct entry_header) + body_size)
        return SLUICE_CORRUPT;
    if (body_size > 0) {
        /* The batch's own checksum held, so this one fails only if the body was damaged before it was written. */
        if (crc32c(data, body_size) != entry.body_crc)
            return SLUICE_CORRUPT;
        entry.body = buf_dup(data, body_size);
        if (entry.body == NULL)
            return SLUICE_MEMORY;
    }
    *out = (struct wal_record){
        .type = WAL_ENTRY, .group = entry.group, .epoch = entry.epoch, .ballot = entry.ballot, .entry = entry};
    return SLUICE_OK;
}

enum sluice_status wal_decode(const struct wal_record_header *header, const uint8_t *data, struct wal_record *out)
{
    struct wal_words words;
    if (header->type == WAL_ENTRY)
        return decode_entry(data, header->size, out);
    bool known = (header->type >= WAL_PROMISE && header->type <= WAL_STABLE) || header->type == WAL__LOST ||
                 header->type == WAL__WHOLE;
    if (!known || header->size != sizeof(words))
        return SLUICE_CORRUPT;
    memcpy(&words, data, sizeof(words));
    *out = (struct wal_record){
        .type = (enum wal_record_type)header->type, .group = words.group, .epoch = words.epoch, .ballot = words.ballot};
    return SLUICE_OK;
}

enum sluice_status wal_checkpoint_read(const void *data, size_t size, struct wal_checkpoint_view *out)
{
    const uint8_t *at = data;
    if (size < sizeof(out->head))
        return SLUICE_CORRUPT;
    memcpy(&out->head, at, sizeof(out->head));
    uint64_t words = (uint64_t)out->head.promise_count + out->head.ceiling_count + out->head.forget_count;
    uint64_t expected = sizeof(out->head) + (uint64_t)out->head.segment_count * sizeof(struct wal_checkpoint_segment) +
                        words * sizeof(struct wal_words);
    if (size != expected)
        return SLUICE_CORRUPT;
    out->segments = at + sizeof(out->head);
    out->promises = out->segments + out->head.segment_count * sizeof(struct wal_checkpoint_segment);
    out->ceilings = out->promises + out->head.promise_count * sizeof(struct wal_words);
    out->forgets = out->ceilings + out->head.ceiling_count * sizeof(struct wal_words);
    return SLUICE_OK;
}

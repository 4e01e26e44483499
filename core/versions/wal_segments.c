/* Which segments hold what, and when one of them may go. */
#include <stdlib.h>
#include <string.h>

#include "core/base/panic.h"
#include "core/versions/memory.h"
#include "core/versions/wal__.h"

#define ROWS_FIRST 8u

/* The first row with a group >= `group`. */
static uint32_t rows_place(const struct wal__rows *self, uint32_t group)
{
    uint32_t low = 0, high = self->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (self->items[middle].group < group)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

struct wal__row *wal__rows_find(struct wal__rows *self, uint32_t group)
{
    if (self->last < self->count && self->items[self->last].group == group)
        return &self->items[self->last];
    uint32_t at = rows_place(self, group);
    if (at == self->count || self->items[at].group != group)
        return NULL;
    self->last = at;
    return &self->items[at];
}

struct wal__row *wal__rows_make(struct wal__rows *self, uint32_t group, uint64_t epoch)
{
    struct wal__row *row = wal__rows_find(self, group);
    if (row != NULL)
        return row;
    if (self->count == self->capacity) {
        uint32_t capacity = self->capacity == 0 ? ROWS_FIRST : self->capacity * 2;
        struct wal__row *grown = memory__reallocate(self->items, capacity * sizeof(*grown));
        if (grown == NULL)
            return NULL;
        self->items = grown;
        self->capacity = capacity;
    }
    uint32_t at = rows_place(self, group);
    memmove(&self->items[at + 1], &self->items[at], (self->count - at) * sizeof(self->items[0]));
    self->items[at] = (struct wal__row){.group = group, .epoch = epoch};
    self->count++;
    self->last = at;
    return &self->items[at];
}

enum sluice_status wal__rows_raise(struct wal__rows *self, uint32_t group, uint64_t epoch, uint64_t value)
{
    struct wal__row *row = wal__rows_make(self, group, epoch);
    if (row == NULL)
        return SLUICE_MEMORY;
    if (epoch > row->epoch) {
        row->epoch = epoch;
        row->value = value;
    } else if (epoch == row->epoch && value > row->value) {
        row->value = value;
    }
    return SLUICE_OK;
}

struct wal__segment *wal__segment_add(struct wal *self, uint64_t number)
{
    struct wal__segment *segment = memory__allocate_zeroed(1, sizeof(*segment));
    if (segment == NULL)
        return NULL;
    segment->number = number;
    segment->bytes = self->device.segment_bytes;
    struct wal__segment **link = &self->segments;
    while (*link != NULL)
        link = &(*link)->next;
    *link = segment;
    self->segment_count++;
    return segment;
}

void wal__segment_free(struct wal__segment *segment)
{
    free(segment->highest.items);
    free(segment);
}

static void forget_in(struct wal__segment *segment, const struct wal_record *record)
{
    struct wal__row *row = wal__rows_find(&segment->highest, record->group);
    if (row != NULL && row->epoch <= record->epoch)
        row->value = 0;
}

static enum sluice_status note_forget(struct wal *self, uint64_t sequence, const struct wal_record *record)
{
    struct wal__row *promise = wal__rows_find(&self->promises, record->group);
    if (promise != NULL && promise->epoch <= record->epoch)
        promise->value = 0;
    for (struct wal__segment *segment = self->segments; segment != NULL; segment = segment->next)
        forget_in(segment, record);
    forget_in(&self->fresh, record);
    enum sluice_status status = SLUICE_OK;
    if (self->lost_at != 0) /* who begins anew has nothing to lose */
        status = wal__rows_raise(&self->mended, record->group, 0, self->lost_at);
    return status != SLUICE_OK ? status : wal__rows_raise(&self->forgotten, record->group, record->epoch, sequence);
}

enum sluice_status wal__note(struct wal *self, struct wal__segment *segment, uint64_t sequence,
                             const struct wal_record *record)
{
    enum sluice_status status;
    uint32_t type = record->type;
    if (type == WAL__LOST && record->ballot > self->lost_at)
        self->lost_at = record->ballot;
    if (type == WAL__WHOLE)
        return wal__rows_raise(&self->mended, record->group, 0, record->ballot);
    switch (record->type) {
    case WAL_ENTRY:
        status = wal__rows_raise(&segment->highest, record->group, record->epoch, record->entry.index);
        /* Accepting under a ballot is a promise too, and would be lost with the entry. */
        return status != SLUICE_OK ? status
                                   : wal__rows_raise(&self->promises, record->group, record->epoch, record->ballot);
    case WAL_PROMISE:
        return wal__rows_raise(&self->promises, record->group, record->epoch, record->ballot);
    case WAL_CEILING:
        return wal__rows_raise(&self->ceilings, record->group, 0, record->ballot);
    case WAL_FORGET:
        return note_forget(self, sequence, record);
    case WAL_STABLE:
        return SLUICE_OK; /* a hint; what is in the store is stable anyway */
    }
    return SLUICE_OK;
}

static bool needed(struct wal *self, struct wal__segment *segment)
{
    for (uint32_t i = 0; i < segment->highest.count; i++) {
        const struct wal__row *row = &segment->highest.items[i];
        const struct wal__row *released = wal__rows_find(&self->released, row->group);
        /* A revision was released within its epoch. */
        uint64_t until = released == NULL || released->epoch < row->epoch ? 0 : released->value;
        if (row->value > until)
            return true;
    }
    return false;
}

bool wal__mark_dying(struct wal *self)
{
    bool due = false;
    uint32_t in_use = 0;
    for (struct wal__segment *segment = self->segments; segment != NULL; segment = segment->next) {
        if (segment != self->current && !segment->dying && !needed(self, segment))
            segment->dying = due = true;
        in_use += !segment->dying;
    }
    atomic_store(&self->wants_flush, in_use >= WAL_FLUSH_SEGMENTS);
    return due;
}

/* Words for each row that still says something. */
static uint32_t put_rows(uint8_t *at, const struct wal__rows *rows)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < rows->count; i++) {
        const struct wal__row *row = &rows->items[i];
        const struct wal_words words = {.group = row->group, .epoch = row->epoch, .ballot = row->value};
        if (row->value == 0)
            continue;
        memcpy(at + count * sizeof(words), &words, sizeof(words));
        count++;
    }
    return count;
}

/* A forgotten group need not be remembered once everything older is gone. */
static void expire_forgotten(struct wal *self)
{
    uint64_t oldest = UINT64_MAX;
    for (const struct wal__segment *segment = self->segments; segment != NULL; segment = segment->next)
        if (!segment->dying && segment->first_sequence != 0 && segment->first_sequence < oldest)
            oldest = segment->first_sequence;
    for (uint32_t i = 0; i < self->forgotten.count; i++)
        if (self->forgotten.items[i].value < oldest)
            self->forgotten.items[i].value = 0;
}

/* Damage that was found, and who has got over it, outlive their segments beside the checkpoint. */
static enum sluice_status encode_lost(struct wal *self, struct wal_buffer *buffer, uint32_t *records)
{
    const struct wal_record lost = {.type = (enum wal_record_type)WAL__LOST, .ballot = self->lost_at};
    enum sluice_status status = wal_encode(buffer, &lost);
    ++*records;
    for (uint32_t i = 0; i < self->mended.count && status == SLUICE_OK; i++) {
        const struct wal__row *row = &self->mended.items[i];
        const struct wal_record whole = {
            .type = (enum wal_record_type)WAL__WHOLE, .group = row->group, .ballot = row->value};
        if (row->value < self->lost_at)
            continue;
        status = wal_encode(buffer, &whole);
        ++*records;
    }
    return status;
}

enum sluice_status wal__checkpoint_encode(struct wal *self, struct wal_buffer *buffer, uint32_t *records)
{
    expire_forgotten(self);
    for (struct wal__segment *segment = self->segments; segment != NULL; segment = segment->next)
        segment->left_out = segment->dying;
    size_t rows = (size_t)self->promises.count + self->ceilings.count + self->forgotten.count;
    size_t room = sizeof(struct wal_checkpoint) + self->segment_count * sizeof(struct wal_checkpoint_segment) +
                  rows * sizeof(struct wal_words);
    size_t before = buffer->size;
    uint8_t *data;
    enum sluice_status status = wal_encode_raw(buffer, WAL__CHECKPOINT, (uint32_t)room, &data);
    if (status != SLUICE_OK)
        return status;
    struct wal_checkpoint head = {0};
    uint8_t *at = data + sizeof(head);
    for (const struct wal__segment *segment = self->segments; segment != NULL; segment = segment->next) {
        const struct wal_checkpoint_segment item = {segment->number, segment->first_sequence, segment->last_sequence};
        if (segment->dying)
            continue;
        memcpy(at, &item, sizeof(item));
        at += sizeof(item);
        head.segment_count++;
    }
    head.promise_count = put_rows(at, &self->promises);
    at += head.promise_count * sizeof(struct wal_words);
    head.ceiling_count = put_rows(at, &self->ceilings);
    at += head.ceiling_count * sizeof(struct wal_words);
    head.forget_count = put_rows(at, &self->forgotten);
    at += head.forget_count * sizeof(struct wal_words);
    memcpy(data, &head, sizeof(head));
    /* What was left out makes the record shorter: once more, with its true size. */
    uint32_t size = (uint32_t)(at - data);
    buffer->size = before;
    uint8_t *same;
    status = wal_encode_raw(buffer, WAL__CHECKPOINT, size, &same);
    ASSERT(status == SLUICE_OK && same == data);
    ++*records;
    return self->lost_at == 0 ? SLUICE_OK : encode_lost(self, buffer, records);
}

void wal__bury(struct wal *self)
{
    struct wal__segment **link = &self->segments;
    while (*link != NULL) {
        struct wal__segment *segment = *link;
        if (!segment->left_out) {
            link = &segment->next;
            continue;
        }
        *link = segment->next;
        self->segment_count--;
        segment->next = self->spare;
        self->spare = segment;
    }
}

enum sluice_status wal__merge_fresh(struct wal *self, struct wal__segment *segment)
{
    enum sluice_status status = SLUICE_OK;
    for (uint32_t i = 0; i < self->fresh.highest.count && status == SLUICE_OK; i++) {
        const struct wal__row *row = &self->fresh.highest.items[i];
        if (row->value > 0)
            status = wal__rows_raise(&segment->highest, row->group, row->epoch, row->value);
    }
    self->fresh.highest.count = 0;
    return status;
}

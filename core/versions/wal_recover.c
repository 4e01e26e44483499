/* What a start finds: which batches count, whether the end is torn or the middle damaged, and the records in order.
 *
 * One write is under way at a time, so a batch whose successor exists anywhere was durable once. An end is therefore
 * torn if no later batch is found, and damaged if one is. Segments that were recycled leave gaps in the sequence; the
 * newest checkpoint tells which segments count, and from its own batch on the sequence has no gap at all.
 *
 * Where the caller can be repaired from elsewhere the log is cut at its first damage. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/log.h"
#include "core/base/panic.h"
#include "core/versions/memory.h"
#include "core/versions/wal__.h"

#define WINDOW_BYTES (1u << 20)

struct recovery {
    struct wal *wal;
    const struct wal__replay *replay;
    char *error;
    size_t error_size;
    struct wal__segment **segments; /* all that exist; later those that count, in order */
    uint32_t count;
    struct wal_buffer window; /* bytes [start, start + size) of segment `number` */
    uint64_t number, start;
    uint64_t checkpoint_sequence; /* 0: none found */
    struct bytes checkpoint;      /* its data */
    uint64_t records;
    uint64_t cut;         /* the lowest sequence that is provably missing; UINT64_MAX: none */
    uint32_t live_count;  /* of `segments`: those that count */
    uint32_t after_count; /* behind them, those that follow the cut */
    bool words_only;      /* what is replayed lies behind the cut */
};

#define FAIL(recovery, status, ...) (snprintf((recovery)->error, (recovery)->error_size, __VA_ARGS__), (status))

/* Damage, by which the batch `missing` is missing. CORRUPT where that is an error, else OK. */
static enum sluice_status damaged(struct recovery *self, uint64_t number, uint64_t offset, uint64_t missing,
                                  const char *what)
{
    LOG_ERROR("wal", "segment %" PRIu64 " is damaged at offset %" PRIu64 ": %s", number, offset, what);
    if (self->wal->damaged != NULL) {
        const struct wal_damage damage = {.segment = number, .offset = offset, .what = what};
        self->wal->damaged(self->replay->arg, &damage);
        if (missing < self->cut)
            self->cut = missing;
        return SLUICE_OK;
    }
    return FAIL(self, SLUICE_CORRUPT,
                "the log is damaged in segment %016" PRIx64 " at offset %" PRIu64
                ": %s; this replica cannot vouch for what it acknowledged: move its data away and let it join anew",
                number, offset, what);
}

/* Bytes of a segment, from the window where they are in it. */
static enum sluice_status read_at(struct recovery *self, struct wal__segment *segment, uint64_t offset, uint64_t size,
                                  const uint8_t **out)
{
    bool inside = self->window.size > 0 && self->number == segment->number && offset >= self->start &&
                  offset + size <= self->start + self->window.size;
    if (!inside) {
        uint64_t wanted = wal_block_round(size);
        if (wanted < WINDOW_BYTES && offset + WINDOW_BYTES <= segment->bytes)
            wanted = WINDOW_BYTES;
        self->window.size = 0;
        enum sluice_status status = wal_buffer_reserve(&self->window, (size_t)wanted);
        if (status == SLUICE_OK)
            status = self->wal->device.read(self->wal->device.context, segment->number, offset, self->window.data,
                                            (uint32_t)wanted);
        if (status == SLUICE_IO && wanted > wal_block_round(size)) {
            /* What cannot be read may lie beyond what is asked for. */
            wanted = wal_block_round(size);
            status = self->wal->device.read(self->wal->device.context, segment->number, offset, self->window.data,
                                            (uint32_t)wanted);
        }
        if (status == SLUICE_IO)
            segment->unread = true;
        if (status != SLUICE_OK)
            return FAIL(self, status, "segment %016" PRIx64 " cannot be read at offset %" PRIu64 ": %s",
                        segment->number, offset, sluice_status_text(status));
        self->number = segment->number;
        self->start = offset;
        self->window.size = (size_t)wanted;
    }
    *out = self->window.data + (offset - self->start);
    return SLUICE_OK;
}

/* Is there a header of this segment and place? */
static enum sluice_status header_at(struct recovery *self, struct wal__segment *segment, uint64_t offset,
                                    struct wal_batch_header *header, bool *found)
{
    const uint8_t *block;
    enum sluice_status status = read_at(self, segment, offset, WAL_BLOCK_BYTES, &block);
    if (status != SLUICE_OK)
        return status;
    *found = wal_batch_header_read(block, header);
    if (*found && (header->segment != segment->number || header->offset != offset)) {
        /* Left from before the segment was recycled, or written to a wrong place. */
        if (header->sequence > segment->stray_sequence) {
            segment->stray_sequence = header->sequence;
            segment->stray_log = header->log;
        }
        *found = false;
    }
    if (!*found)
        return SLUICE_OK;
    if (WAL_BATCH_FORMAT(header->flags) > WAL_FORMAT)
        return FAIL(self, SLUICE_VERSION,
                    "segment %016" PRIx64 " has format %u, this release reads %u; use the release that wrote it",
                    segment->number, WAL_BATCH_FORMAT(header->flags), WAL_FORMAT);
    if (WAL_BATCH_FORMAT(header->flags) > atomic_load(&self->wal->format))
        atomic_store(&self->wal->format, WAL_BATCH_FORMAT(header->flags));
    if (self->wal->log == 0)
        self->wal->log = header->log;
    if (self->wal->log != header->log)
        return FAIL(self, SLUICE_CORRUPT,
                    "segment %016" PRIx64 " belongs to another log; the directory holds files of two nodes",
                    segment->number);
    return SLUICE_OK;
}

/* A whole valid batch at `offset`, the successor of `before` (0: any). */
static enum sluice_status batch_at(struct recovery *self, struct wal__segment *segment, uint64_t offset,
                                   uint64_t before, struct wal_batch_header *header, const uint8_t **body, bool *found)
{
    *found = false;
    if (offset + WAL_BLOCK_BYTES > segment->bytes)
        return SLUICE_OK;
    bool here;
    enum sluice_status status = header_at(self, segment, offset, header, &here);
    if (status != SLUICE_OK || !here || (before != 0 && header->sequence != before + 1))
        return status;
    const uint8_t *bytes;
    uint64_t size = sizeof(*header) + (uint64_t)header->body_size;
    /* A cut file ends early; where the device cannot tell, what is beyond is zero and fails the check. */
    if (self->wal->device.size != NULL && offset + size > segment->bytes)
        return SLUICE_OK;
    status = read_at(self, segment, offset, size, &bytes);
    if (status != SLUICE_OK)
        return status;
    *body = bytes + sizeof(*header);
    *found = wal_batch_body_valid(header, *body);
    return SLUICE_OK;
}

static enum sluice_status keep_checkpoint(struct recovery *self, const struct wal__segment *segment,
                                          const struct wal_batch_header *header, const uint8_t *body)
{
    struct wal_record_header record;
    const uint8_t *data;
    size_t offset = 0;
    int next;
    while ((next = wal_record_next(body, header->body_size, &offset, &record, &data)) == 1) {
        if (record.type != WAL__CHECKPOINT || header->sequence < self->checkpoint_sequence)
            continue;
        self->checkpoint.size = 0;
        enum sluice_status status = bytes_append(&self->checkpoint, data, record.size);
        if (status != SLUICE_OK)
            return FAIL(self, status, "no memory for the log's checkpoint");
        self->checkpoint_sequence = header->sequence;
    }
    return next == 0
               ? SLUICE_OK
               : damaged(self, segment->number, header->offset, header->sequence, "a batch holds malformed records");
}

/* Finds the segment's run of batches, and what lies beyond its end. */
static enum sluice_status scan(struct recovery *self, struct wal__segment *segment)
{
    struct wal_batch_header header;
    const uint8_t *body;
    bool found = true;
    enum sluice_status status = SLUICE_OK;
    while (status == SLUICE_OK) {
        status = batch_at(self, segment, segment->end, segment->last_sequence, &header, &body, &found);
        if (status != SLUICE_OK || !found)
            break;
        if (segment->first_sequence == 0)
            segment->first_sequence = header.sequence;
        segment->last_sequence = header.sequence;
        segment->ends = header.flags & WAL_BATCH_NEXT;
        segment->follower = header.record_count;
        segment->end += wal_block_round(sizeof(header) + header.body_size);
        status = keep_checkpoint(self, segment, &header, body);
    }
    for (uint64_t offset = segment->end; status == SLUICE_OK && offset + WAL_BLOCK_BYTES <= segment->bytes;
         offset += WAL_BLOCK_BYTES) {
        status = header_at(self, segment, offset, &header, &found);
        /* A torn first batch is no sign of a later one. */
        if (status == SLUICE_OK && found && header.sequence > segment->later_sequence &&
            (offset > segment->end || segment->last_sequence != 0))
            segment->later_sequence = header.sequence;
    }
    /* Whether that is damage is seen once it is known which segments count. */
    return status == SLUICE_IO && self->wal->damaged != NULL ? SLUICE_OK : status;
}

static enum sluice_status list_segments(struct recovery *self)
{
    struct wal *wal = self->wal;
    uint64_t *numbers = NULL;
    uint32_t count = 0, room = 0;
    enum sluice_status status = SLUICE_OK;
    do {
        free(numbers);
        room = count;
        numbers = memory__allocate_zeroed(room + 1, sizeof(*numbers));
        status = numbers == NULL ? SLUICE_MEMORY : wal->device.list(wal->device.context, numbers, &count);
    } while (status == SLUICE_OK && count > room);
    if (status == SLUICE_OK) {
        self->segments = memory__allocate_zeroed(count + 1, sizeof(struct wal__segment *));
        status = self->segments == NULL ? SLUICE_MEMORY : SLUICE_OK;
    }
    for (uint32_t i = 0; i < count && status == SLUICE_OK; i++) {
        struct wal__segment *segment = memory__allocate_zeroed(1, sizeof(*segment));
        if (segment == NULL) {
            status = SLUICE_MEMORY;
            break;
        }
        segment->number = numbers[i];
        segment->bytes = wal->device.segment_bytes;
        self->segments[self->count++] = segment;
        if (wal->device.size != NULL)
            status = wal->device.size(wal->device.context, segment->number, &segment->bytes);
        if (segment->number >= wal->next_number)
            wal->next_number = segment->number + 1;
    }
    free(numbers);
    return status == SLUICE_OK
               ? status
               : FAIL(self, status, "the log's segments cannot be listed: %s", sluice_status_text(status));
}

static struct wal__segment *find(const struct recovery *self, uint64_t number)
{
    for (uint32_t i = 0; i < self->count; i++)
        if (self->segments[i]->number == number)
            return self->segments[i];
    return NULL;
}

/* Those that the checkpoint names must be there, and hold what they held. */
static enum sluice_status check_listed(struct recovery *self)
{
    struct wal_checkpoint_view view;
    if (wal_checkpoint_read(self->checkpoint.data, self->checkpoint.size, &view) != SLUICE_OK)
        return FAIL(self, SLUICE_CORRUPT, "the log's checkpoint is malformed");
    for (uint32_t i = 0; i < view.head.segment_count; i++) {
        struct wal_checkpoint_segment listed;
        memcpy(&listed, view.segments + i * sizeof(listed), sizeof(listed));
        struct wal__segment *segment = find(self, listed.number);
        if (listed.last_sequence == 0)
            continue;
        enum sluice_status status = SLUICE_OK;
        if (segment == NULL)
            status = damaged(self, listed.number, 0, listed.first_sequence, "the segment is missing");
        else if (segment->first_sequence != listed.first_sequence)
            status = damaged(self, segment->number, 0, listed.first_sequence,
                             segment->unread ? "it cannot be read" : "its first batch is no longer whole");
        else if (segment->last_sequence < listed.last_sequence)
            status = damaged(self, segment->number, segment->end, segment->last_sequence + 1,
                             segment->unread ? "it cannot be read" : "a batch that was durable is no longer whole");
        if (status != SLUICE_OK)
            return status;
        if (segment != NULL)
            segment->live = segment->first_sequence != 0;
    }
    return SLUICE_OK;
}

static int by_sequence(const void *a, const void *b)
{
    const struct wal__segment *left = *(struct wal__segment *const *)a, *right = *(struct wal__segment *const *)b;
    if (left->live != right->live)
        return left->live ? -1 : 1;
    return left->first_sequence < right->first_sequence ? -1 : left->first_sequence > right->first_sequence;
}

/* Those that count must follow one another without a gap, but for the segments that were recycled before the
 * checkpoint.
 */
static enum sluice_status check_sequence(struct recovery *self)
{
    for (uint32_t i = 0; i < self->live_count; i++) {
        struct wal__segment *segment = self->segments[i], *before = i == 0 ? NULL : self->segments[i - 1];
        uint64_t last = before == NULL ? 0 : before->last_sequence;
        bool gap_allowed = self->checkpoint_sequence != 0 && segment->first_sequence <= self->checkpoint_sequence;
        if (segment->first_sequence == last + 1 || (gap_allowed && segment->first_sequence > last))
            continue;
        enum sluice_status status = before == NULL
                                        ? damaged(self, segment->number, 0, 1, "the log's beginning is missing")
                                        : damaged(self, before->number, before->end, last + 1,
                                                  "a batch is missing there, and later ones follow");
        if (status != SLUICE_OK)
            return status;
    }
    return SLUICE_OK;
}

/* Which segments count? They come first then, in order. */
static enum sluice_status choose(struct recovery *self)
{
    uint64_t from = self->checkpoint_sequence != 0 ? self->checkpoint_sequence : 1;
    bool names_itself = self->checkpoint_sequence == 0;
    if (self->checkpoint_sequence != 0) {
        enum sluice_status status = check_listed(self);
        if (status != SLUICE_OK)
            return status;
    }
    for (uint32_t i = 0; i < self->count; i++) {
        struct wal__segment *segment = self->segments[i];
        segment->live = segment->live || (segment->first_sequence != 0 && segment->first_sequence >= from);
        self->live_count += segment->live;
        names_itself =
            names_itself || (segment->live && segment->first_sequence <= from && segment->last_sequence >= from);
    }
    if (!names_itself)
        return FAIL(self, SLUICE_CORRUPT, "the log's checkpoint does not count its own segment");
    if (self->count > 0)
        qsort(self->segments, self->count, sizeof(struct wal__segment *), by_sequence);
    return check_sequence(self);
}

/* The segment that the last one says follows it. */
static struct wal__segment *follower_of(const struct recovery *self, const struct wal__segment *tail)
{
    for (uint32_t i = 0; i < self->count; i++)
        if ((uint32_t)self->segments[i]->number == tail->follower)
            return self->segments[i];
    return NULL;
}

/* Beyond the last batch there may be a torn one, and nothing after it. */
static enum sluice_status check_end(struct recovery *self)
{
    const struct wal__segment *tail = self->live_count == 0 ? NULL : self->segments[self->live_count - 1];
    uint64_t last = tail == NULL ? 0 : tail->last_sequence;
    for (uint32_t i = 0; i < self->count; i++) {
        const struct wal__segment *segment = self->segments[i];
        const char *what = NULL;
        bool ends = i + 1 >= self->live_count; /* in the others what follows is known already */
        if (ends && (segment == tail ? segment->later_sequence > last + 1 : segment->later_sequence > last))
            what = "a batch is not whole, and a later one follows";
        else if (segment->stray_sequence > last + 1 && segment->stray_log == self->wal->log)
            what = "a batch stands there that belongs elsewhere";
        else if (ends && segment->unread)
            what = "it cannot be read";
        enum sluice_status status =
            what == NULL ? SLUICE_OK : damaged(self, segment->number, segment->end, last + 1, what);
        if (status != SLUICE_OK)
            return status;
    }
    for (uint32_t i = 0; i < self->count && tail == NULL; i++)
        if (self->segments[i]->stray_sequence > 1)
            return damaged(self, self->segments[i]->number, 0, 1, "it was recycled by a log that is missing");
    if (tail == NULL && self->wal->known)
        return damaged(self, 0, 0, 1, "the whole log is missing");
    if (tail != NULL && tail->ends && follower_of(self, tail) == NULL)
        return damaged(self, tail->number, tail->end, last + 1, "the segment that follows it is missing");
    return SLUICE_OK;
}

/* What begins before the cut counts, what begins behind it may still tell of promises. New batches get numbers that
 * none of the lost ones can have had, should they turn up again. */
static void cut(struct recovery *self)
{
    struct wal *wal = self->wal;
    uint32_t all = self->live_count;
    uint64_t highest = 0;
    if (self->cut == UINT64_MAX)
        return;
    while (self->live_count > 0 && self->segments[self->live_count - 1]->first_sequence >= self->cut)
        self->live_count--;
    self->after_count = all - self->live_count;
    for (uint32_t i = 0; i < self->count; i++) {
        const struct wal__segment *segment = self->segments[i];
        uint64_t candidates[] = {segment->last_sequence, segment->later_sequence,
                                 segment->stray_log == wal->log ? segment->stray_sequence : 0};
        for (size_t j = 0; j < sizeof(candidates) / sizeof(candidates[0]); j++)
            highest = candidates[j] > highest ? candidates[j] : highest;
    }
    wal->cut = true;
    wal->sequence = highest + (self->count + 4) * (wal->device.segment_bytes / WAL_BLOCK_BYTES);
    wal->next_number += 4;
}

static bool is_forgotten(struct wal *wal, uint64_t sequence, const struct wal_record *record)
{
    const struct wal__row *row = record->type == WAL_CEILING ? NULL : wal__rows_find(&wal->forgotten, record->group);
    return row != NULL && record->epoch <= row->epoch && sequence < row->value;
}

static enum sluice_status deliver(struct recovery *self, struct wal__segment *segment, uint64_t sequence,
                                  const struct wal_record *record)
{
    struct wal_record word;
    if (is_forgotten(self->wal, sequence, record))
        return SLUICE_OK;
    if (self->words_only && record->type == WAL_STABLE)
        return SLUICE_OK;
    if (self->words_only && record->type == WAL_ENTRY) {
        word = (struct wal_record){
            .type = WAL_PROMISE, .group = record->group, .epoch = record->epoch, .ballot = record->ballot};
        record = &word;
    }
    enum sluice_status status = wal__note(self->wal, segment, sequence, record);
    if (status != SLUICE_OK)
        return FAIL(self, status, "no memory to replay the log");
    if ((uint32_t)record->type >= WAL__LOST)
        return SLUICE_OK;
    self->replay->record(self->replay->arg, record);
    self->records++;
    return SLUICE_OK;
}

/* What a checkpoint carries stands for records that went with their segments. */
static enum sluice_status deliver_words(struct recovery *self, struct wal__segment *segment, uint64_t sequence,
                                        enum wal_record_type type, const uint8_t *items, uint32_t count)
{
    enum sluice_status status = SLUICE_OK;
    for (uint32_t i = 0; i < count && status == SLUICE_OK; i++) {
        struct wal_words words;
        memcpy(&words, items + i * sizeof(words), sizeof(words));
        const struct wal_record record = {
            .type = type, .group = words.group, .epoch = words.epoch, .ballot = words.ballot};
        status = deliver(self, segment, sequence, &record);
    }
    return status;
}

static enum sluice_status load_forgotten(struct recovery *self)
{
    struct wal_checkpoint_view view;
    enum sluice_status status = wal_checkpoint_read(self->checkpoint.data, self->checkpoint.size, &view);
    for (uint32_t i = 0; status == SLUICE_OK && i < view.head.forget_count; i++) {
        struct wal_words words;
        memcpy(&words, view.forgets + i * sizeof(words), sizeof(words));
        status = wal__rows_raise(&self->wal->forgotten, words.group, words.epoch, words.ballot);
    }
    return status;
}

static enum sluice_status replay_batch(struct recovery *self, struct wal__segment *segment,
                                       const struct wal_batch_header *header, const uint8_t *body)
{
    struct wal_record_header record_header;
    const uint8_t *data;
    size_t offset = 0;
    enum sluice_status status = SLUICE_OK;
    while (status == SLUICE_OK && wal_record_next(body, header->body_size, &offset, &record_header, &data) == 1) {
        if (record_header.type == WAL__CHECKPOINT) {
            struct wal_checkpoint_view view;
            status = wal_checkpoint_read(data, record_header.size, &view);
            if (status == SLUICE_OK)
                status =
                    deliver_words(self, segment, header->sequence, WAL_PROMISE, view.promises, view.head.promise_count);
            if (status == SLUICE_OK)
                status =
                    deliver_words(self, segment, header->sequence, WAL_CEILING, view.ceilings, view.head.ceiling_count);
        } else {
            struct wal_record record;
            status = wal_decode(&record_header, data, &record);
            if (status == SLUICE_OK) {
                status = deliver(self, segment, header->sequence, &record);
                buf_unref(record.entry.body);
            }
        }
    }
    if (status == SLUICE_CORRUPT)
        return FAIL(self, SLUICE_CORRUPT,
                    "segment %016" PRIx64 " holds a record at offset %" PRIu64 " that is not what its batch says",
                    segment->number, header->offset);
    return status;
}

static enum sluice_status replay_segment(struct recovery *self, struct wal__segment *segment)
{
    struct wal_batch_header header;
    const uint8_t *body;
    uint64_t offset = 0, last = 0;
    enum sluice_status status = SLUICE_OK;
    while (offset < segment->end) {
        bool found;
        status = batch_at(self, segment, offset, last, &header, &body, &found);
        if (status == SLUICE_OK && !found)
            status = FAIL(self, SLUICE_CORRUPT,
                          "segment %016" PRIx64 " reads differently the second time, at offset %" PRIu64,
                          segment->number, offset);
        if (status == SLUICE_OK)
            status = replay_batch(self, segment, &header, body);
        if (status != SLUICE_OK)
            return status;
        last = header.sequence;
        offset += wal_block_round(sizeof(header) + header.body_size);
    }
    return status;
}

/* Makes a segment without batches the current one. */
static void go_on_in(struct wal *wal, struct wal__segment *segment)
{
    struct wal__segment **link = &wal->spare;
    while (*link != segment)
        link = &(*link)->next;
    *link = segment->next;
    segment->next = NULL;
    wal->current->next = segment;
    wal->current = segment;
    wal->segment_count++;
}

/* Hands the segments over to the log: those that count in order, then those behind a cut until it is settled; the
 * others to be recycled. */
static enum sluice_status adopt(struct recovery *self)
{
    struct wal *wal = self->wal;
    enum sluice_status status = SLUICE_OK;
    struct wal__segment **link = &wal->segments;
    uint32_t all = self->count, counted = self->live_count + self->after_count;
    for (uint32_t i = 0; i < all; i++) {
        struct wal__segment *segment = self->segments[i];
        if (segment->end > segment->bytes)
            segment->bytes = segment->end;
        if (i < counted) {
            *link = segment;
            link = &segment->next;
            wal->segment_count++;
            segment->dying = i >= self->live_count;
            if (!wal->cut) {
                wal->current = segment;
                wal->sequence = segment->last_sequence;
            }
        } else {
            /* Without any batch this is a new log: what strange segments hold must not become part of it. */
            if (counted == 0)
                segment->bytes = 0;
            segment->next = wal->spare;
            wal->spare = segment;
        }
        /* What cannot be read is not written again either. */
        if (segment->unread && i >= counted)
            segment->bytes = 0;
    }
    /* The last one was left already: the log goes on where it says. */
    if (!wal->cut && wal->current != NULL && wal->current->ends)
        go_on_in(wal, follower_of(self, wal->current));
    self->count = 0;
    for (struct wal__segment *segment = wal->segments; segment != NULL && status == SLUICE_OK;
         segment = segment->next) {
        self->words_only = segment->dying;
        status = replay_segment(self, segment);
        if (segment->unread && segment->dying)
            segment->bytes = 0;
    }
    return status;
}

static void report(struct recovery *self)
{
    struct wal *wal = self->wal;
    struct wal__segment *tail = wal->current;
    struct wal_batch_header header;
    bool found = false;
    if (tail != NULL && tail->end + WAL_BLOCK_BYTES <= tail->bytes &&
        header_at(self, tail, tail->end, &header, &found) == SLUICE_OK && found)
        LOG_INFO("wal", "segment %" PRIu64 " ends with a torn batch at offset %" PRIu64 "; it was never acknowledged",
                 tail->number, tail->end);
    LOG_INFO("wal", "replayed %" PRIu64 " records of %u segments", self->records, wal->segment_count);
}

enum sluice_status wal__recover(struct wal *wal, const struct wal__replay *replay, char *error, size_t error_size)
{
    struct recovery self = {.wal = wal, .replay = replay, .error = error, .error_size = error_size, .cut = UINT64_MAX};
    wal->next_number = 1;
    enum sluice_status status = list_segments(&self);
    for (uint32_t i = 0; i < self.count && status == SLUICE_OK; i++)
        status = scan(&self, self.segments[i]);
    if (status == SLUICE_OK)
        status = choose(&self);
    if (status == SLUICE_OK)
        status = check_end(&self);
    if (status == SLUICE_OK)
        cut(&self);
    if (status == SLUICE_OK && self.checkpoint_sequence != 0)
        status = load_forgotten(&self);
    if (status == SLUICE_OK)
        status = adopt(&self);
    if (status == SLUICE_OK)
        report(&self);
    for (uint32_t i = 0; i < self.count; i++)
        wal__segment_free(self.segments[i]);
    free(self.segments);
    wal_buffer_free(&self.window);
    bytes_free(&self.checkpoint);
    return status;
}

/* The persist thread's work: gathers what was submitted into one batch, writes it, says so. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "core/base/log.h"
#include "core/base/panic.h"
#include "core/versions/wal__.h"

#define BUFFER_BYTES_KEPT (2 * (size_t)WAL_GATHER_BYTES) /* one that grew for a large batch is given back */

struct wal__submission wal__stop, wal__nudge;

static bool failed(struct wal *self)
{
    return atomic_load(&self->error) != SLUICE_OK;
}

static void ring(struct wal *self)
{
    uint64_t one = 1;
    if (self->completed_fd < 0 || atomic_exchange(&self->rung, true))
        return;
    ssize_t written;
    do
        written = write(self->completed_fd, &one, sizeof(one));
    while (written < 0 && errno == EINTR);
    ASSERT(written == (ssize_t)sizeof(one) || errno == EAGAIN);
}

void wal__fail(struct wal *self, enum sluice_status status, const char *what)
{
    int none = SLUICE_OK;
    if (atomic_compare_exchange_strong(&self->error, &none, (int)status))
        LOG_ERROR("wal", "%s: %s; the log takes nothing more", what, sluice_status_text(status));
    ring(self);
}

static void give_back(struct wal *self, struct wal__submission *submission)
{
    submission->count = submission->done = 0;
    if (!queue_push(self->returned, submission))
        free(submission);
}

/* Copies the records into the batch, once, until it is large enough; lets go of their bodies. */
static void take_records(struct wal *self, struct wal__gathered *gathered)
{
    struct wal__submission *taken = self->taken;
    while (taken->done < taken->count && (failed(self) || self->buffer.size < WAL_GATHER_BYTES)) {
        struct wal_record *record = &taken->records[taken->done++];
        enum sluice_status status = SLUICE_OK;
        if (!failed(self))
            status = wal_encode(&self->buffer, record);
        if (status == SLUICE_OK) {
            pthread_mutex_lock(&self->mutex);
            status = wal__note(self, &self->fresh, self->sequence + 1, record);
            pthread_mutex_unlock(&self->mutex);
        }
        if (status != SLUICE_OK)
            wal__fail(self, status, "gathering a batch");
        gathered->records++;
        if (record->type == WAL_ENTRY && record->entry.body != NULL) {
            gathered->payload += record->entry.body->size;
            buf_unref(record->entry.body);
        }
    }
}

static void gather(struct wal *self, struct wal__gathered *gathered)
{
    while (self->buffer.size < WAL_GATHER_BYTES && !self->stop_seen) {
        if (self->taken == NULL)
            self->taken = queue_pop(self->submitted);
        if (self->taken == NULL)
            return;
        if (self->taken == &wal__stop || self->taken == &wal__nudge) {
            self->stop_seen = self->taken == &wal__stop;
            if (self->stop_seen)
                atomic_store(&self->ended, true);
            self->taken = NULL;
            continue;
        }
        take_records(self, gathered);
        if (self->taken->done == self->taken->count) {
            gathered->ticket = self->taken->ticket;
            give_back(self, self->taken);
            self->taken = NULL;
        }
    }
}

/* Does the batch fit where the last one ended? A block stays for the note that another segment follows. One that fits
 * no segment has one of its own. */
static bool fits(const struct wal__segment *current, uint64_t size)
{
    return current != NULL && (current->end == 0 || current->end + size + WAL_BLOCK_BYTES <= current->bytes);
}

/* Says in the segment that is left where the log goes on. */
static enum sluice_status note_next(struct wal *self, uint64_t number)
{
    struct wal__segment *segment = self->current;
    struct wal_buffer block = {0};
    if (segment == NULL || segment->end + WAL_BLOCK_BYTES > segment->bytes)
        return SLUICE_OK; /* a large batch had it alone */
    const struct wal_batch_header header = {
        .log = self->log,
        .sequence = self->sequence + 1,
        .segment = segment->number,
        .offset = segment->end,
        .record_count = (uint32_t)number,
        .flags = WAL_BATCH_NEXT | atomic_load(&self->format) << 24,
    };
    enum sluice_status status = wal_batch_begin(&block);
    if (status == SLUICE_OK)
        status = wal_batch_end(&block, &header);
    if (status == SLUICE_OK)
        status = self->device.write(self->device.context, segment->number, segment->end, block.data, WAL_BLOCK_BYTES);
    wal_buffer_free(&block);
    if (status != SLUICE_OK)
        return status == SLUICE_STORAGE_FULL ? SLUICE_IO : status;
    pthread_mutex_lock(&self->mutex);
    segment->last_sequence = ++self->sequence;
    segment->end += WAL_BLOCK_BYTES;
    pthread_mutex_unlock(&self->mutex);
    atomic_fetch_add(&self->bytes_written, WAL_BLOCK_BYTES);
    return SLUICE_OK;
}

/* Makes a segment current that takes a batch of `size`. */
static enum sluice_status place(struct wal *self, uint64_t size)
{
    uint64_t number = 0;
    pthread_mutex_lock(&self->mutex);
    bool stays = fits(self->current, size);
    enum sluice_status status = stays ? SLUICE_OK : wal__next_segment(self, &number);
    pthread_mutex_unlock(&self->mutex);
    if (stays || status != SLUICE_OK)
        return status;
    status = note_next(self, number);
    if (status != SLUICE_OK)
        return status;
    pthread_mutex_lock(&self->mutex);
    struct wal__segment *segment = wal__segment_add(self, number);
    if (segment != NULL) {
        self->current = segment;
        if (wal__mark_dying(self))
            self->checkpoint_due = true;
    }
    pthread_mutex_unlock(&self->mutex);
    return segment == NULL ? SLUICE_MEMORY : SLUICE_OK;
}

/* Under the mutex: the batch is on stable storage. */
static void written(struct wal *self, uint64_t size, bool checkpoint)
{
    struct wal__segment *segment = self->current;
    if (segment->first_sequence == 0)
        segment->first_sequence = self->sequence;
    segment->last_sequence = self->sequence;
    segment->end += size;
    if (segment->end > segment->bytes)
        segment->bytes = segment->end;
    if (checkpoint)
        wal__bury(self);
    if (segment->end > segment->bytes / 2 && self->ready_count == 0)
        self->keeper_wanted = true;
    if (self->spare != NULL || self->keeper_wanted) {
        if (self->thread)
            pthread_cond_signal(&self->keeper_work);
        else
            wal__keep(self);
    }
}

static enum sluice_status write_out(struct wal *self, const struct wal__gathered *gathered, size_t body, uint32_t flags)
{
    uint64_t size = wal_block_round(body);
    enum sluice_status status = place(self, size);
    if (status != SLUICE_OK)
        return status;
    pthread_mutex_lock(&self->mutex);
    struct wal__segment *segment = self->current;
    status = wal__merge_fresh(self, segment);
    pthread_mutex_unlock(&self->mutex);
    if (status != SLUICE_OK)
        return status;
    self->buffer.size = body; /* also after an attempt that found no room */
    const struct wal_batch_header header = {
        .log = self->log,
        .sequence = self->sequence + 1,
        .segment = segment->number,
        .offset = segment->end,
        .record_count = gathered->records + gathered->checkpoints,
        .flags = flags | atomic_load(&self->format) << 24,
    };
    status = wal_batch_end(&self->buffer, &header);
    if (status == SLUICE_OK)
        status =
            self->device.write(self->device.context, segment->number, segment->end, self->buffer.data, (uint32_t)size);
    if (status != SLUICE_OK)
        return status;
    self->sequence++;
    pthread_mutex_lock(&self->mutex);
    written(self, size, gathered->checkpoints > 0);
    pthread_mutex_unlock(&self->mutex);
    atomic_fetch_add(&self->bytes_written, size);
    atomic_fetch_add(&self->bytes_payload, gathered->payload);
    atomic_fetch_add(&self->records, gathered->records);
    atomic_fetch_add(&self->batches, 1);
    return SLUICE_OK;
}

/* Writes the batch in the buffer; keeps it where there is no room for it. False: nothing was done. */
static bool finish_batch(struct wal *self, uint32_t flags)
{
    struct wal__gathered *gathered = &self->held;
    if (!atomic_load(&self->holds))
        self->held_body = self->buffer.size;
    enum sluice_status status = write_out(self, gathered, self->held_body, flags);
    bool full = status == SLUICE_STORAGE_FULL;
    if (atomic_exchange(&self->holds, full) != full)
        LOG_WARN("wal", full ? "the disk has no room for what is to be written; it waits until there is"
                             : "the disk has room again; what waited is written");
    if (full) {
        self->held_flags = flags;
        return false;
    }
    if (self->buffer.capacity > BUFFER_BYTES_KEPT)
        wal_buffer_free(&self->buffer);
    if (status != SLUICE_OK) {
        wal__fail(self, status, "writing to the log");
        return true;
    }
    if (gathered->ticket != 0) {
        atomic_store(&self->completed, gathered->ticket);
        ring(self);
    }
    return true;
}

bool wal__write_batch(struct wal *self, uint32_t flags)
{
    if (atomic_load(&self->holds))
        return finish_batch(self, self->held_flags);
    if (!self->thread)
        wal__retry_full(self);
    struct wal__gathered *gathered = &self->held;
    *gathered = (struct wal__gathered){0};
    enum sluice_status status = wal_batch_begin(&self->buffer);
    if (status != SLUICE_OK)
        wal__fail(self, status, "beginning a batch");
    gather(self, gathered);
    if (failed(self))
        return gathered->records > 0;
    pthread_mutex_lock(&self->mutex);
    if (self->cut)
        self->lost_at = self->sequence + 1;
    if (self->checkpoint_due)
        status = wal__checkpoint_encode(self, &self->buffer, &gathered->checkpoints);
    self->checkpoint_due = false;
    pthread_mutex_unlock(&self->mutex);
    if (status != SLUICE_OK) {
        wal__fail(self, status, "gathering a checkpoint");
        return true;
    }
    if (gathered->records == 0 && gathered->checkpoints == 0 && flags == 0)
        return false;
    return finish_batch(self, flags);
}

void *wal__persist_run(void *arg)
{
    struct wal *self = arg;
    for (;;) {
        if (wal__write_batch(self, 0))
            continue;
        if (self->stop_seen || atomic_load(&self->closing))
            return NULL;
        if (atomic_load(&self->holds)) {
            nanosleep(&(struct timespec){.tv_nsec = WAL_FULL_RETRY_NS}, NULL);
            continue;
        }
        if (!queue_prepare_sleep(self->submitted))
            continue;
        struct pollfd bell = {.fd = queue_fd(self->submitted), .events = POLLIN};
        while (poll(&bell, 1, -1) < 0)
            ASSERT(errno == EINTR);
        queue_awake(self->submitted);
    }
}

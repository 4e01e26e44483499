#include "core/versions/wal.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "core/base/panic.h"
#include "core/base/random.h"
#include "core/versions/memory.h"
#include "core/versions/wal__.h"

#define QUEUE_FULL_WAIT_NS 100000

static void free_segments(struct wal__segment *segment)
{
    while (segment != NULL) {
        struct wal__segment *next = segment->next;
        wal__segment_free(segment);
        segment = next;
    }
}

static void free_submission(struct wal__submission *submission)
{
    if (submission == NULL || submission == &wal__stop || submission == &wal__nudge)
        return;
    for (uint32_t i = submission->done; i < submission->count; i++)
        buf_unref(submission->records[i].entry.body);
    free(submission);
}

/* Everything but the threads; takes what was only partly made, too. */
static void release(struct wal *self)
{
    struct wal__submission *submission;
    free_submission(self->pending);
    free_submission(self->taken);
    while (self->submitted != NULL && (submission = queue_pop(self->submitted)) != NULL)
        free_submission(submission);
    while (self->returned != NULL && (submission = queue_pop(self->returned)) != NULL)
        free(submission);
    queue_destroy(self->submitted);
    queue_destroy(self->returned);
    if (self->completed_fd >= 0)
        close(self->completed_fd);
    wal_buffer_free(&self->buffer);
    free_segments(self->segments);
    free_segments(self->spare);
    free(self->fresh.highest.items);
    free(self->promises.items);
    free(self->released.items);
    free(self->ceilings.items);
    free(self->forgotten.items);
    free(self->mended.items);
    self->device.close(self->device.context);
    pthread_cond_destroy(&self->keeper_work);
    pthread_cond_destroy(&self->ready_changed);
    pthread_mutex_destroy(&self->mutex);
    free(self);
}

static void stop_keeper(struct wal *self)
{
    pthread_mutex_lock(&self->mutex);
    self->keeper_stop = true;
    pthread_cond_signal(&self->keeper_work);
    pthread_mutex_unlock(&self->mutex);
    pthread_join(self->keeper_thread, NULL);
}

static enum sluice_status start_threads(struct wal *self)
{
    /* Signals are the process's business, not these threads'. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    bool keeper = pthread_create(&self->keeper_thread, NULL, wal__keeper_run, self) == 0;
    bool persist = keeper && pthread_create(&self->persist_thread, NULL, wal__persist_run, self) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (keeper && !persist)
        stop_keeper(self);
    return keeper && persist ? SLUICE_OK : SLUICE_MEMORY;
}

/* The first batch shall not wait for a segment, and a full disk shall be told at the start. */
static enum sluice_status prepare_first(struct wal *self, char *error, size_t error_size)
{
    pthread_mutex_lock(&self->mutex);
    self->keeper_wanted = self->current == NULL;
    wal__keep(self);
    enum sluice_status status = self->current == NULL && self->ready_count == 0 ? self->keeper_error : SLUICE_OK;
    self->checkpoint_due = wal__mark_dying(self) || self->cut;
    pthread_mutex_unlock(&self->mutex);
    if (status != SLUICE_OK)
        snprintf(error, error_size, "the log's first segment of %llu bytes cannot be made: %s",
                 (unsigned long long)self->device.segment_bytes, sluice_status_text(status));
    return status;
}

/* Before anything else happens it is durable which segments still count and that every group may have lost something.
 */
static enum sluice_status settle_damage(struct wal *self, char *error, size_t error_size)
{
    wal__write_batch(self, 0);
    enum sluice_status status = (enum sluice_status)atomic_load(&self->error);
    if (status == SLUICE_OK && atomic_load(&self->holds))
        status = SLUICE_STORAGE_FULL;
    if (status != SLUICE_OK)
        snprintf(error, error_size, "that the log was damaged cannot be written to it: %s", sluice_status_text(status));
    self->cut = false;
    return status;
}

enum sluice_status wal_open(const struct wal_options *options,
                            void (*replay)(void *arg, const struct wal_record *record), void *arg, struct wal **out,
                            char *error, size_t error_size)
{
    const struct wal__replay to = {.record = replay, .arg = arg};
    enum sluice_status status = SLUICE_MEMORY;
    snprintf(error, error_size, "no memory for the log");
    struct wal *self = memory__allocate_zeroed(1, sizeof(*self));
    if (self == NULL) {
        options->device.close(options->device.context);
        return status;
    }
    self->device = options->device;
    self->thread = options->thread;
    self->damaged = options->damaged;
    self->known = options->known;
    atomic_init(&self->format, release_formats_at(0)->log);
    self->completed_fd = -1;
    pthread_mutex_init(&self->mutex, NULL);
    pthread_cond_init(&self->keeper_work, NULL);
    pthread_cond_init(&self->ready_changed, NULL);
    status = queue_create(WAL_QUEUE_CAPACITY, &self->submitted);
    if (status == SLUICE_OK)
        status = queue_create(WAL_QUEUE_CAPACITY, &self->returned);
    if (status == SLUICE_OK && self->thread) {
        self->completed_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        if (self->completed_fd < 0)
            status = SLUICE_IO;
    }
    if (status == SLUICE_OK)
        status = wal__recover(self, &to, error, error_size);
    self->cut = self->cut || options->lost;
    if (status == SLUICE_OK)
        status = prepare_first(self, error, error_size);
    if (status == SLUICE_OK && self->log == 0)
        self->log = random_os() | 1;
    if (status == SLUICE_OK && self->cut)
        status = settle_damage(self, error, error_size);
    if (status == SLUICE_OK && self->thread)
        status = start_threads(self);
    if (status != SLUICE_OK) {
        release(self);
        return status;
    }
    *out = self;
    return SLUICE_OK;
}

void wal_use_format(struct wal *self, uint32_t format)
{
    ASSERT(format <= WAL_FORMAT);
    if (format > atomic_load(&self->format))
        atomic_store(&self->format, format);
}

void wal_close(struct wal *self)
{
    if (self == NULL)
        return;
    wal_submit(self);
    if (self->thread) {
        /* What waits for room is waited for no longer: it was never acknowledged. */
        while (!queue_push(self->submitted, &wal__stop) && !atomic_load(&self->holds))
            nanosleep(&(struct timespec){.tv_nsec = QUEUE_FULL_WAIT_NS}, NULL);
        while (!atomic_load(&self->ended) && !atomic_load(&self->holds))
            nanosleep(&(struct timespec){.tv_nsec = QUEUE_FULL_WAIT_NS}, NULL);
        atomic_store(&self->closing, true);
        pthread_join(self->persist_thread, NULL);
        self->stop_seen = false;
    }
    while (wal__write_batch(self, 0))
        continue;
    /* After it the last batch is no longer the last one: if it is found damaged, that was no torn write. */
    if (self->sequence > 0 && !atomic_load(&self->holds))
        wal__write_batch(self, WAL_BATCH_CLOSING);
    if (self->thread)
        stop_keeper(self);
    release(self);
}

static struct wal__submission *submission_get(struct wal *self)
{
    struct wal__submission *submission = queue_pop(self->returned);
    if (submission != NULL)
        return submission;
    submission = memory__allocate(sizeof(*submission) + WAL_SUBMIT_RECORDS * sizeof(struct wal_record));
    if (submission != NULL)
        *submission = (struct wal__submission){.capacity = WAL_SUBMIT_RECORDS};
    return submission;
}

enum sluice_status wal_append(struct wal *self, const struct wal_record *record)
{
    enum sluice_status error = (enum sluice_status)atomic_load_explicit(&self->error, memory_order_relaxed);
    if (error != SLUICE_OK)
        return error;
    ASSERT((record->type >= WAL_ENTRY && record->type <= WAL_STABLE) || (uint32_t)record->type == WAL__WHOLE);
    struct wal__submission *pending = self->pending;
    if (pending == NULL) {
        pending = submission_get(self);
        if (pending == NULL)
            return SLUICE_MEMORY;
        self->pending = pending;
    }
    if (pending->count == pending->capacity) {
        uint32_t capacity = pending->capacity * 2;
        struct wal__submission *grown =
            memory__reallocate(pending, sizeof(*pending) + capacity * sizeof(struct wal_record));
        if (grown == NULL)
            return SLUICE_MEMORY;
        grown->capacity = capacity;
        self->pending = pending = grown;
    }
    struct wal_record *copy = &pending->records[pending->count++];
    *copy = *record;
    if (record->type != WAL_ENTRY) {
        copy->entry = (struct entry){0};
        return SLUICE_OK;
    }
    ASSERT(record->entry.group == record->group);
    if (record->entry.body != NULL)
        buf_ref(record->entry.body);
    return SLUICE_OK;
}

uint64_t wal_submit(struct wal *self)
{
    struct wal__submission *pending = self->pending;
    if (pending == NULL || pending->count == 0)
        return self->ticket;
    pending->ticket = self->ticket + 1;
    /* Thousands of submissions ahead of the disk: this is the back-pressure. */
    while (!queue_push(self->submitted, pending)) {
        /* While there is no room on the disk more is gathered under this same ticket. */
        if (atomic_load(&self->holds))
            return self->ticket + 1;
        if (self->thread)
            nanosleep(&(struct timespec){.tv_nsec = QUEUE_FULL_WAIT_NS}, NULL);
        else
            wal__write_batch(self, 0);
    }
    self->pending = NULL;
    return ++self->ticket;
}

int wal_fd(const struct wal *self)
{
    return self->completed_fd;
}

uint64_t wal_completed(struct wal *self, enum sluice_status *error)
{
    if (atomic_load(&self->rung)) {
        uint64_t count;
        ssize_t got;
        do
            got = read(self->completed_fd, &count, sizeof(count));
        while (got < 0 && errno == EINTR);
        /* In this order: a completion that finds `rung` still set does not ring, but is seen below. */
        atomic_store(&self->rung, false);
    }
    *error = (enum sluice_status)atomic_load(&self->error);
    return atomic_load(&self->completed);
}

void wal_flush(struct wal *self)
{
    ASSERT(!self->thread);
    while (wal__write_batch(self, 0))
        continue;
}

void wal_release(struct wal *self, uint32_t group, uint64_t revision)
{
    pthread_mutex_lock(&self->mutex);
    const struct wal__row *promise = wal__rows_find(&self->promises, group);
    /* Without memory the segment is released another time. */
    enum sluice_status status = wal__rows_raise(&self->released, group, promise == NULL ? 0 : promise->epoch, revision);
    bool due = status == SLUICE_OK && wal__mark_dying(self);
    if (due)
        self->checkpoint_due = true;
    pthread_mutex_unlock(&self->mutex);
    if (due && self->thread)
        (void)!queue_push(self->submitted, &wal__nudge); /* full: it is awake */
}

bool wal_lost(struct wal *self, uint32_t group)
{
    pthread_mutex_lock(&self->mutex);
    const struct wal__row *row = wal__rows_find(&self->mended, group);
    bool lost = self->lost_at != 0 && (row == NULL || row->value < self->lost_at);
    pthread_mutex_unlock(&self->mutex);
    return lost;
}

enum sluice_status wal_mend(struct wal *self, uint32_t group, uint64_t epoch)
{
    pthread_mutex_lock(&self->mutex);
    const struct wal_record record = {
        .type = (enum wal_record_type)WAL__WHOLE, .group = group, .epoch = epoch, .ballot = self->lost_at};
    pthread_mutex_unlock(&self->mutex);
    return record.ballot == 0 ? SLUICE_OK : wal_append(self, &record);
}

bool wal_full(const struct wal *self)
{
    return atomic_load(&self->full) || atomic_load(&self->holds);
}

bool wal_wants_flush(const struct wal *self)
{
    return atomic_load(&self->wants_flush);
}

void wal_figures(const struct wal *self, struct wal_figures *out)
{
    *out = (struct wal_figures){
        .bytes_written = atomic_load(&self->bytes_written),
        .bytes_payload = atomic_load(&self->bytes_payload),
        .batches = atomic_load(&self->batches),
        .records = atomic_load(&self->records),
    };
}

/* The keeper: prepares segments ahead of need, and recycles those that nobody needs, so that no write waits for either.
 */
#include <stdlib.h>
#include <time.h>

#include "core/base/log.h"
#include "core/versions/wal__.h"

static void add_ready(struct wal *self, uint64_t number)
{
    self->ready[self->ready_count++] = number;
    self->keeper_wanted = false;
    if (atomic_exchange(&self->full, false))
        LOG_WARN("wal", "the disk has room for another segment again");
    pthread_cond_broadcast(&self->ready_changed);
}

/* One that was made longer for a large batch, or stems from another configuration, is not worth keeping. */
static void keep_spare(struct wal *self, struct wal__segment *spare)
{
    /* What could not be read once would be damage at every start until it is written again. */
    bool recycle = self->ready_count < WAL_READY_MAX && spare->bytes == self->device.segment_bytes && !spare->unread;
    uint64_t number = recycle ? self->next_number++ : 0;
    pthread_mutex_unlock(&self->mutex);
    enum sluice_status status = recycle ? self->device.recycle(self->device.context, spare->number, number)
                                        : self->device.remove(self->device.context, spare->number);
    pthread_mutex_lock(&self->mutex);
    /* It holds nothing that counts; the next start finds it and tries again. */
    if (status != SLUICE_OK)
        LOG_WARN("wal", "segment %llu stays unused on the disk: %s", (unsigned long long)spare->number,
                 sluice_status_text(status));
    else if (recycle)
        add_ready(self, number);
    wal__segment_free(spare);
}

void wal__keep(struct wal *self)
{
    for (;;) {
        struct wal__segment *spare = self->spare;
        if (spare != NULL) {
            self->spare = spare->next;
            keep_spare(self, spare);
        } else if (self->keeper_wanted && self->ready_count == 0) {
            uint64_t number = self->next_number++;
            pthread_mutex_unlock(&self->mutex);
            enum sluice_status status = self->device.create(self->device.context, number);
            pthread_mutex_lock(&self->mutex);
            if (status == SLUICE_OK) {
                add_ready(self, number);
            } else {
                self->keeper_wanted = false;
                self->keeper_error = status;
                if (status == SLUICE_STORAGE_FULL && !atomic_exchange(&self->full, true))
                    LOG_WARN("wal", "the disk has no room for another segment of %llu bytes",
                             (unsigned long long)self->device.segment_bytes);
                pthread_cond_broadcast(&self->ready_changed);
            }
        } else {
            return;
        }
    }
}

void wal__retry_full(struct wal *self)
{
    if (!atomic_load(&self->full))
        return;
    pthread_mutex_lock(&self->mutex);
    self->keeper_wanted = true;
    wal__keep(self);
    pthread_mutex_unlock(&self->mutex);
}

void *wal__keeper_run(void *arg)
{
    struct wal *self = arg;
    pthread_mutex_lock(&self->mutex);
    for (;;) {
        wal__keep(self);
        if (self->keeper_stop)
            break;
        if (!atomic_load(&self->full)) {
            pthread_cond_wait(&self->keeper_work, &self->mutex);
            continue;
        }
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += WAL_FULL_RETRY_NS;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        if (pthread_cond_timedwait(&self->keeper_work, &self->mutex, &until) != 0)
            self->keeper_wanted = true;
    }
    pthread_mutex_unlock(&self->mutex);
    return NULL;
}

enum sluice_status wal__next_segment(struct wal *self, uint64_t *number)
{
    /* An earlier failure to prepare one ahead of need was nobody's misfortune: it is tried again now. */
    self->keeper_error = SLUICE_OK;
    while (self->ready_count == 0 && self->keeper_error == SLUICE_OK) {
        self->keeper_wanted = true;
        if (self->thread) {
            pthread_cond_signal(&self->keeper_work);
            pthread_cond_wait(&self->ready_changed, &self->mutex);
        } else {
            wal__keep(self);
        }
    }
    if (self->ready_count == 0)
        return self->keeper_error;
    *number = self->ready[0];
    self->ready_count--;
    for (uint32_t i = 0; i < self->ready_count; i++)
        self->ready[i] = self->ready[i + 1];
    return SLUICE_OK;
}

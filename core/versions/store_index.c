/* The index thread, which fills RocksDB, and the flush thread, which makes it durable. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/panic.h"
#include "core/versions/store__.h"

void store__ring_news(struct store *self)
{
    uint64_t one = 1;
    ssize_t written;
    do
        written = write(self->news_fd, &one, sizeof(one));
    while (written < 0 && errno == EINTR);
    ASSERT(written == (ssize_t)sizeof(one) || errno == EAGAIN);
}

void store__fail(struct store *self, enum sluice_status status)
{
    int none = SLUICE_OK;
    pthread_mutex_lock(&self->mutex);
    if (atomic_compare_exchange_strong(&self->error, &none, (int)status))
        LOG_ERROR("store", "nothing more is written: %s", sluice_status_text(status));
    pthread_cond_broadcast(&self->progress);
    pthread_mutex_unlock(&self->mutex);
    store__ring_news(self);
}

static bool failed(struct store *self)
{
    return atomic_load(&self->error) != SLUICE_OK;
}

/* Under the mutex: hands the flush thread its work. What it covers is settled here, by the thread that writes: all that
 * is readable now is in RocksDB's memory before the flush begins. */
static void flush_begin(struct store *self)
{
    if (self->flush_runs) {
        self->flush_asked = true;
        return;
    }
    self->flush_asked = false;
    self->flush_runs = true;
    self->flush_bytes = self->since_flush;
    self->since_flush = 0;
    for (struct store_group *group = self->groups; group != NULL; group = group->next)
        group->flushing = atomic_load(&group->indexed);
    pthread_cond_signal(&self->flush_wanted);
}

/* Writes the batch and publishes what is readable now. */
static void write_batch(struct store *self, uint64_t entries, uint64_t bytes)
{
    char *failure = NULL;
    if (self->touched == NULL)
        return;
    for (struct store_group *group = self->touched; group != NULL; group = group->next_touched) {
        if (group->written > 0)
            store__state_encode(self, group);
        if (group->ingested > 0)
            store__progress_encode(self, group, 'P', group->ingested);
        group->ingested = 0;
    }
    size_t size;
    rocksdb_writebatch_data(self->batch, &size);
    if (!failed(self))
        rocksdb_write(self->cold.db, self->write_options, self->batch, &failure);
    rocksdb_writebatch_clear(self->batch);
    if (failure != NULL)
        store__fail(self, cold__error("writing", failure));

    pthread_mutex_lock(&self->mutex);
    self->since_flush += size;
    while (self->touched != NULL) {
        struct store_group *group = self->touched;
        self->touched = group->next_touched;
        group->touched = false;
        if (!failed(self)) {
            atomic_store(&group->indexed, group->written);
            group->news = true;
        }
    }
    if (self->since_flush >= STORE_FLUSH_BYTES)
        flush_begin(self);
    atomic_fetch_sub(&self->behind_entries, entries);
    atomic_fetch_sub(&self->behind_bytes, bytes);
    if (self->waiters > 0)
        pthread_cond_broadcast(&self->progress);
    pthread_mutex_unlock(&self->mutex);
    store__ring_news(self);
}

static void add_entry(struct store *self, struct store_item *item)
{
    struct store_group *group = item->group;
    store__item_encode(self, item);
    if (item->type == ITEM_INGEST) {
        group->ingested = item->entry.index;
    } else {
        group->written = item->entry.index;
        group->written_time = item->entry.time;
    }
    if (!group->touched) {
        group->touched = true;
        group->next_touched = self->touched;
        self->touched = group;
    }
}

/* A failed flush leaves the data in memory and RocksDB refusing writes: nothing becomes durable any more. */
void store__flush_now(struct store *self)
{
    char *failure = NULL;
    if (failed(self))
        return;
    rocksdb_flushoptions_t *options = rocksdb_flushoptions_create();
    rocksdb_flushoptions_set_wait(options, 1);
    rocksdb_flush(self->cold.db, options, &failure);
    rocksdb_flushoptions_destroy(options);
    if (failure != NULL)
        store__fail(self, cold__error("flushing", failure));
}

void store__delete_kind(struct store *self, char kind, uint32_t group)
{
    cold_key from, to;
    size_t size = cold__head(from, kind, group);
    cold__head(to, (char)(kind + (group == UINT32_MAX)), group + 1);
    rocksdb_writebatch_delete_range(self->batch, (const char *)from, size, (const char *)to, size);
}

bool store__write_now(struct store *self, const char *what)
{
    char *failure = NULL;
    rocksdb_write(self->cold.db, self->write_options, self->batch, &failure);
    rocksdb_writebatch_clear(self->batch);
    if (failure != NULL)
        store__fail(self, cold__error(what, failure));
    return failure == NULL;
}

/* Drops all keys of the group, durably: marked as gone here, and by and by from the disk. */
static void erase_group(struct store *self, uint32_t group)
{
    for (size_t i = 0; i < COLD_KINDS; i++)
        store__delete_kind(self, cold_kinds[i], group);
    if (!store__write_now(self, "erasing a group"))
        return;
    store__flush_now(self);
    store__reclaim(self);
}

static void control(struct store *self, struct store_item *item)
{
    if (item->type == ITEM_ERASE && !failed(self))
        erase_group(self, item->group->group);
    else if (item->type == ITEM_FINISH && !failed(self))
        store__run_finish(self, item);
    else if (item->type == ITEM_REPAIR && !failed(self))
        store__run_repair(self, item);
    pthread_mutex_lock(&self->mutex);
    if (item->type == ITEM_ERASE) {
        struct store_group *group = item->group;
        atomic_store(&group->indexed, 0);
        group->durable = group->flushing = 0;
        group->written = group->written_time = group->marked = 0;
        group->news = false;
    }
    if (item->type == ITEM_FINISH && !failed(self)) {
        struct store_group *group = item->group;
        atomic_store(&group->indexed, item->upto);
        group->durable = group->flushing = item->upto;
        group->news = true;
    }
    if (item->type == ITEM_FLUSH) {
        atomic_store(&self->flush_queued, false);
        flush_begin(self);
    } else {
        *item->reached = true;
        pthread_cond_broadcast(&self->progress);
    }
    pthread_mutex_unlock(&self->mutex);
}

/* Takes what is queued, a batch at a time. False once it is told to stop. */
static bool drain(struct store *self)
{
    uint64_t entries = 0, bytes = 0;
    bool goes_on = true;
    struct store_item *item;
    while (goes_on && (item = queue_pop(self->queue)) != NULL) {
        enum item_type type = item->type;
        bool is_entry = type == ITEM_ENTRY || type == ITEM_INGEST;
        if (is_entry) {
            add_entry(self, item);
            entries++;
            bytes += item->cost;
            store__item_destroy(item);
        }
        if (!is_entry || bytes >= STORE_BATCH_BYTES_MAX || entries >= STORE_BATCH_ENTRIES_MAX) {
            write_batch(self, entries, bytes);
            entries = bytes = 0;
        }
        if (type == ITEM_STOP) {
            goes_on = false;
        } else if (type == ITEM_COMPACT) {
            if (!failed(self))
                store__run_compact(self, item);
            store__item_destroy(item);
        } else if (!is_entry) {
            control(self, item);
        }
    }
    write_batch(self, entries, bytes);
    return goes_on;
}

void *store__index_run(void *arg)
{
    struct store *self = arg;
    while (drain(self)) {
        if (!queue_prepare_sleep(self->queue))
            continue;
        struct pollfd bell = {.fd = queue_fd(self->queue), .events = POLLIN};
        while (poll(&bell, 1, -1) < 0)
            ASSERT(errno == EINTR);
        queue_awake(self->queue);
        const struct timespec gather = {.tv_nsec = STORE_GATHER_NS};
        nanosleep(&gather, NULL);
    }
    return NULL;
}

/* Twice what is written, since the levels below are merged with it, and something for the rest. RocksDB takes a flush
 * that found no room for the end. */
#define FLUSH_ROOM_BYTES (16u << 20)
#define ROOM_AGAIN_NS    (200 * NS_PER_MS)

/* False: the store closes before there is room. */
static bool await_room(struct store *self)
{
    for (;;) {
        uint64_t total, free_bytes = self->free_bytes(self->path, &total);
        pthread_mutex_lock(&self->mutex);
        uint64_t needed = 2 * self->flush_bytes + FLUSH_ROOM_BYTES;
        bool stop = self->stop;
        pthread_mutex_unlock(&self->mutex);
        bool full = total != 0 && free_bytes < needed && !failed(self);
        if (full && stop)
            return false;
        if (full != atomic_exchange(&self->full, full))
            LOG_WARN(
                "store",
                full ? "%s has %llu MiB left and %llu are needed: what was written stays in the log until there is room"
                     : "%s has room again: %llu MiB, and %llu are needed",
                self->path, (unsigned long long)(free_bytes >> 20), (unsigned long long)(needed >> 20));
        if (!full)
            return true;
        const struct timespec again = {.tv_nsec = ROOM_AGAIN_NS};
        nanosleep(&again, NULL);
    }
}

void *store__flush_run(void *arg)
{
    struct store *self = arg;
    pthread_mutex_lock(&self->mutex);
    for (;;) {
        while (!self->flush_runs && !self->stop)
            pthread_cond_wait(&self->flush_wanted, &self->mutex);
        if (!self->flush_runs)
            break;
        pthread_mutex_unlock(&self->mutex);
        bool room = await_room(self);
        if (room)
            store__flush_now(self);
        pthread_mutex_lock(&self->mutex);
        self->flush_runs = false;
        if (!room)
            break;
        for (struct store_group *group = self->groups; group != NULL && !failed(self); group = group->next)
            if (group->flushing > group->durable) {
                group->durable = group->flushing;
                group->news = true;
            }
        if (self->flush_asked && !self->stop)
            flush_begin(self);
        pthread_cond_broadcast(&self->progress);
        store__ring_news(self);
    }
    pthread_mutex_unlock(&self->mutex);
    return NULL;
}

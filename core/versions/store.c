#include "core/versions/versions.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "core/base/log.h"
#include "core/base/panic.h"
#include "core/versions/memory.h"
#include "core/versions/store__.h"

/* Entries wait for room before they are queued, so the rest is for several reactors' last entries and for control
 * items. */
#define QUEUE_CAPACITY (STORE_BEHIND_ENTRIES_MAX * 2)

static enum sluice_status start_threads(struct store *self)
{
    /* Signals are the process's business, not these threads'. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    bool index = pthread_create(&self->index_thread, NULL, store__index_run, self) == 0;
    bool flush = index && pthread_create(&self->flush_thread, NULL, store__flush_run, self) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (index && !flush) {
        bool pushed = queue_push(self->queue, &self->stop_item);
        ASSERT(pushed);
        pthread_join(self->index_thread, NULL);
    }
    return index && flush ? SLUICE_OK : SLUICE_MEMORY;
}

/* Opens RocksDB, or an empty one in place of a damaged one. */
static enum sluice_status open_cold(struct store *self, const struct store_options *options, char *error,
                                    size_t error_size)
{
    bool may_set_aside = options->set_aside != NULL && !options->memory;
    bool before = may_set_aside && store__was_set_aside(options->path);
    bool condemned = !options->memory && store__condemned(options->path);
    enum sluice_status status = SLUICE_CORRUPT;
    if (condemned)
        snprintf(error, error_size, "the store in %s was found damaged while it was used; move it away", options->path);
    else
        status = cold_open(&self->cold, options, error, error_size);
    if (status == SLUICE_CORRUPT && may_set_aside) {
        LOG_ERROR("store", "%s", error);
        status = store__set_aside(options->path, error, error_size);
        if (status == SLUICE_OK)
            status = cold_open(&self->cold, options, error, error_size);
        before = true;
    }
    if (may_set_aside)
        *options->set_aside = before;
    return status;
}

enum sluice_status store_use_format(struct store *self, uint32_t format)
{
    return cold_use_format(&self->cold, format);
}

enum sluice_status store_open(const struct store_options *options, struct store **out, char *error, size_t error_size)
{
    enum sluice_status status = SLUICE_MEMORY;
    if (error_size > 0)
        snprintf(error, error_size, "no memory for the store");
    struct store *self = memory__allocate_zeroed(1, sizeof(*self));
    if (self == NULL)
        return status;
    pthread_mutex_init(&self->mutex, NULL);
    pthread_cond_init(&self->progress, NULL);
    pthread_cond_init(&self->flush_wanted, NULL);
    self->stop_item.type = ITEM_STOP;
    self->flush_item.type = ITEM_FLUSH;
    self->news_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (self->news_fd < 0)
        goto fail;
    self->free_bytes = options->free_bytes == NULL ? store_free_bytes : options->free_bytes;
    self->path = strdup(options->path);
    if (self->path == NULL)
        goto fail_after_fd;
    status = queue_create(QUEUE_CAPACITY, &self->queue);
    if (status != SLUICE_OK)
        goto fail_after_path;
    status = open_cold(self, options, error, error_size);
    if (status != SLUICE_OK)
        goto fail_after_queue;
    self->batch = rocksdb_writebatch_create();
    self->write_options = rocksdb_writeoptions_create();
    rocksdb_writeoptions_disable_WAL(self->write_options, 1);
    status = start_threads(self);
    if (status != SLUICE_OK)
        goto fail_after_cold;
    *out = self;
    return SLUICE_OK;

fail_after_cold:
    rocksdb_writeoptions_destroy(self->write_options);
    rocksdb_writebatch_destroy(self->batch);
    cold_close(&self->cold);
fail_after_queue:
    queue_destroy(self->queue);
fail_after_path:
    free(self->path);
fail_after_fd:
    close(self->news_fd);
fail:
    free(self);
    return status;
}

void store_close(struct store *self)
{
    if (self == NULL)
        return;
    ASSERT(self->groups == NULL);
    bool pushed = queue_push(self->queue, &self->stop_item);
    ASSERT(pushed);
    pthread_join(self->index_thread, NULL);
    pthread_mutex_lock(&self->mutex);
    self->stop = true;
    pthread_cond_signal(&self->flush_wanted);
    pthread_mutex_unlock(&self->mutex);
    pthread_join(self->flush_thread, NULL);
    store__reclaim_stop(self);
    if (!store_full(self))
        store__flush_now(self);
    rocksdb_writeoptions_destroy(self->write_options);
    rocksdb_writebatch_destroy(self->batch);
    cold_close(&self->cold);
    queue_destroy(self->queue);
    free(self->path);
    close(self->news_fd);
    pthread_cond_destroy(&self->flush_wanted);
    pthread_cond_destroy(&self->progress);
    pthread_mutex_destroy(&self->mutex);
    free(self);
}

bool store_empty(const struct store *self)
{
    rocksdb_iterator_t *iterator = rocksdb_create_iterator(self->cold.db, self->cold.walk);
    size_t size;
    rocksdb_iter_seek(iterator, "S", 1);
    bool holds = rocksdb_iter_valid(iterator) && rocksdb_iter_key(iterator, &size)[0] == 'S';
    rocksdb_iter_destroy(iterator);
    return !holds;
}

bool store_next_group(const struct store *self, uint32_t from, uint32_t *group)
{
    rocksdb_iterator_t *iterator = rocksdb_create_iterator(self->cold.db, self->cold.walk);
    bool found = false;
    for (size_t i = 0; i < COLD_KINDS; i++) {
        cold_key key;
        uint32_t number;
        rocksdb_iter_seek(iterator, (const char *)key, cold__head(key, cold_kinds[i], from));
        if (cold__group_at(iterator, cold_kinds[i], &number) && (!found || number < *group)) {
            *group = number;
            found = true;
        }
    }
    rocksdb_iter_destroy(iterator);
    return found;
}

int store_fd(const struct store *self)
{
    return self->news_fd;
}

enum sluice_status store_poll(struct store *self, store_news news, void *arg)
{
    uint64_t count;
    ssize_t got;
    do
        got = read(self->news_fd, &count, sizeof(count));
    while (got < 0 && errno == EINTR);
    ASSERT(got == (ssize_t)sizeof(count) || errno == EAGAIN);
    if (got < 0)
        return (enum sluice_status)atomic_load(&self->error); /* whoever has news rings after noting them */
    /* A group joins and leaves on this same thread, so the list stands while the callback runs without the lock. */
    pthread_mutex_lock(&self->mutex);
    struct store_group *group = self->groups;
    while (group != NULL) {
        struct store_group *next = group->next;
        if (group->news) {
            uint64_t indexed = atomic_load(&group->indexed), durable = group->durable;
            group->news = false;
            pthread_mutex_unlock(&self->mutex);
            news(arg, group->group, indexed, durable);
            pthread_mutex_lock(&self->mutex);
        }
        group = next;
    }
    pthread_mutex_unlock(&self->mutex);
    return (enum sluice_status)atomic_load(&self->error);
}

void store_flush(struct store *self)
{
    if (atomic_exchange(&self->flush_queued, true))
        return;
    bool pushed = queue_push(self->queue, &self->flush_item);
    ASSERT(pushed);
}

bool store_full(const struct store *self)
{
    return atomic_load(&self->full);
}

uint64_t store_free_bytes(const char *path, uint64_t *total)
{
    struct statvfs found;
    *total = 0;
    if (statvfs(path, &found) != 0)
        return 0;
    *total = (uint64_t)found.f_blocks * found.f_frsize;
    return (uint64_t)found.f_bavail * found.f_frsize;
}

/* Queues a control item and waits until the index thread has come to it. */
static enum sluice_status reach_item(struct store *self, struct store_item *item)
{
    bool reached = false;
    item->reached = &reached;
    bool pushed = queue_push(self->queue, item);
    ASSERT(pushed);
    pthread_mutex_lock(&self->mutex);
    while (!reached)
        pthread_cond_wait(&self->progress, &self->mutex);
    pthread_mutex_unlock(&self->mutex);
    return (enum sluice_status)atomic_load(&self->error);
}

static enum sluice_status reach(struct store *self, struct store_group *group, enum item_type type)
{
    struct store_item item = {.type = type, .group = group};
    return reach_item(self, &item);
}

enum sluice_status store__finish(struct store_group *group, uint64_t upto, uint64_t time,
                                 const struct versions_fact *facts, uint32_t fact_count)
{
    struct store_item item = {
        .type = ITEM_FINISH, .group = group, .upto = upto, .time = time, .facts = facts, .fact_count = fact_count};
    return reach_item(group->store, &item);
}

enum sluice_status store__repair(struct store_group *group, const struct entry *entry)
{
    struct store_item item = {.type = ITEM_REPAIR, .group = group, .entry = *entry};
    return reach_item(group->store, &item);
}

enum sluice_status store__compact(struct store_group *group, uint64_t upto, uint64_t gaps)
{
    struct store_item *item = memory__allocate_zeroed(1, sizeof(*item));
    if (item == NULL)
        return SLUICE_MEMORY;
    item->type = ITEM_COMPACT;
    item->group = group;
    item->upto = upto;
    item->gaps = gaps;
    bool pushed = queue_push(group->store->queue, item);
    if (!pushed)
        store__item_destroy(item);
    return pushed ? SLUICE_OK : SLUICE_BUSY;
}

enum sluice_status store__push_ingested(struct store_group *group, struct store_item *item)
{
    item->type = ITEM_INGEST;
    return store__push(group, item);
}

enum sluice_status store__drain(struct store_group *group)
{
    return reach(group->store, group, ITEM_BARRIER);
}

enum sluice_status store__erase(struct store_group *group)
{
    return reach(group->store, group, ITEM_ERASE);
}

enum sluice_status store_erase(struct store *self, uint32_t group)
{
    struct store_group scratch = {.store = self, .group = group};
    return reach(self, &scratch, ITEM_ERASE);
}

const struct cold *store__cold(const struct store_group *group)
{
    return &group->store->cold;
}

uint64_t store__indexed(const struct store_group *group)
{
    return atomic_load(&group->indexed);
}

static enum sluice_status check_epoch(struct store_group *group, struct cold_state *state)
{
    if (state->epoch == group->epoch)
        return SLUICE_OK;
    if (state->epoch > group->epoch) {
        LOG_ERROR("store",
                  "group=%u holds epoch %llu, but epoch %llu was asked for: the cluster map is older than the data",
                  group->group, (unsigned long long)state->epoch, (unsigned long long)group->epoch);
        return SLUICE_CONFLICT;
    }
    LOG_WARN("store", "group=%u epoch %llu has ended; its data is dropped for epoch %llu", group->group,
             (unsigned long long)state->epoch, (unsigned long long)group->epoch);
    *state = (struct cold_state){0};
    return store__erase(group);
}

static enum sluice_status find_progress(struct store_group *group, struct store_found *found)
{
    const struct cold *cold = &group->store->cold;
    found->held = found->gaps = 0;
    enum sluice_status status = cold_progress(cold, 'P', group->group, group->epoch, &found->held);
    if (status == SLUICE_OK || status == SLUICE_NOT_FOUND) {
        found->held = status == SLUICE_OK ? found->held : 0;
        status = cold_progress(cold, 'R', group->group, group->epoch, &found->gaps);
    }
    if (status == SLUICE_NOT_FOUND) {
        found->gaps = 0;
        status = SLUICE_OK;
    }
    return status;
}

enum sluice_status store__group_open(struct store *self, uint32_t group_number, uint64_t epoch,
                                     struct store_group **out, struct store_found *found)
{
    struct cold_state *state = &found->state;
    struct store_group *group = memory__allocate_zeroed(1, sizeof(*group));
    if (group == NULL)
        return SLUICE_MEMORY;
    group->store = self;
    group->group = group_number;
    group->epoch = epoch;
    enum sluice_status status = cold_state(&self->cold, group_number, state);
    if (status == SLUICE_NOT_FOUND)
        *state = (struct cold_state){0};
    else if (status == SLUICE_OK)
        status = check_epoch(group, state);
    if (status == SLUICE_OK || status == SLUICE_NOT_FOUND)
        status = find_progress(group, found);
    if (status != SLUICE_OK) {
        free(group);
        return status;
    }
    atomic_store(&group->indexed, state->applied);
    group->written = state->applied;
    group->written_time = state->time;
    pthread_mutex_lock(&self->mutex);
    group->next = self->groups;
    self->groups = group;
    /* When nothing waits for a flush, what can be read is durable: that is so after a start. */
    if (self->since_flush == 0 && !self->flush_runs && state->applied > 0) {
        group->durable = state->applied;
        group->news = true;
        store__ring_news(self);
    }
    pthread_mutex_unlock(&self->mutex);
    *out = group;
    return SLUICE_OK;
}

void store__group_close(struct store_group *group)
{
    struct store *self = group->store;
    enum sluice_status status = store__drain(group);
    if (status != SLUICE_OK)
        LOG_WARN("store", "group=%u closes behind its log: %s", group->group, sluice_status_text(status));
    pthread_mutex_lock(&self->mutex);
    struct store_group **link = &self->groups;
    while (*link != group)
        link = &(*link)->next;
    *link = group->next;
    pthread_mutex_unlock(&self->mutex);
    free(group);
}

static bool has_room(struct store *self)
{
    return atomic_load(&self->behind_bytes) < STORE_BEHIND_BYTES_MAX &&
           atomic_load(&self->behind_entries) < STORE_BEHIND_ENTRIES_MAX;
}

static void wait_for_room(struct store *self)
{
    pthread_mutex_lock(&self->mutex);
    self->waiters++;
    while (!has_room(self) && atomic_load(&self->error) == SLUICE_OK)
        pthread_cond_wait(&self->progress, &self->mutex);
    self->waiters--;
    pthread_mutex_unlock(&self->mutex);
}

enum sluice_status store__push(struct store_group *group, struct store_item *item)
{
    struct store *self = group->store;
    if (!has_room(self))
        wait_for_room(self);
    enum sluice_status status = (enum sluice_status)atomic_load(&self->error);
    if (status != SLUICE_OK) {
        store__item_destroy(item);
        return status;
    }
    atomic_fetch_add(&self->behind_bytes, item->cost);
    atomic_fetch_add(&self->behind_entries, 1);
    bool pushed = queue_push(self->queue, item);
    ASSERT(pushed);
    return SLUICE_OK;
}

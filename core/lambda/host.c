/* The host itself: which lambdas there are by the map, its start and its end. */
#include "core/lambda/lambda.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/log.h"
#include "core/lambda/lambda__.h"

bool lambda__env_enter(struct lambda_host *self)
{
    atomic_fetch_add(&self->env_calls, 1);
    if (!atomic_load(&self->closed))
        return true;
    lambda__env_leave(self);
    return false;
}

void lambda__env_leave(struct lambda_host *self)
{
    atomic_fetch_sub(&self->env_calls, 1);
}

/* --- Lambdas --------------------------------------------------------------------------------------------------------
 */

struct lambda *lambda_ref(struct lambda *self)
{
    atomic_fetch_add(&self->refs, 1);
    return self;
}

void lambda_unref(struct lambda *self)
{
    if (self == NULL || atomic_fetch_sub(&self->refs, 1) != 1)
        return;
    self->unload = true;
    lambda__loader_push(self->host, self);
}

const char *lambda_name(const struct lambda *self)
{
    return self->slot->name;
}
uint64_t lambda_version(const struct lambda *self)
{
    return self->version;
}
bool lambda_active(const struct lambda *self)
{
    return atomic_load(&self->active);
}

bool lambda_match(const struct lambda *self, const char *key, size_t size)
{
    for (size_t i = 0; i < self->library.watch_count; i++)
        if (pattern_match(self->library.watches[i].pattern, key, size))
            return true;
    return false;
}

void lambda_host_each(struct lambda_host *self, void (*each)(void *arg, struct lambda *lambda), void *arg)
{
    pthread_mutex_lock(&self->lock);
    for (struct lambda__slot *slot = self->slots; slot != NULL; slot = slot->next)
        if (slot->current != NULL && lambda_active(slot->current))
            each(arg, slot->current);
    pthread_mutex_unlock(&self->lock);
}

/* --- The map --------------------------------------------------------------------------------------------------------
 */

struct lambda__slot *lambda__slot_find(struct lambda_host *self, const char *name)
{
    struct lambda__slot *slot = self->slots;
    while (slot != NULL && strcmp(slot->name, name) != 0)
        slot = slot->next;
    return slot;
}

/* The name becomes part of a file's. */
static bool name_good(const char *name)
{
    size_t size = strlen(name);
    return size > 0 && size <= LAMBDA_NAME_BYTES_MAX && name[0] != '.' &&
           strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.") == size;
}

/* Under the lock: takes both versions out of service. */
static bool slot_drop(struct lambda__slot *slot)
{
    struct lambda *current = slot->current, *upcoming = slot->upcoming;
    slot->current = slot->upcoming = NULL;
    if (current != NULL)
        atomic_store(&current->active, false);
    lambda_unref(current);
    lambda_unref(upcoming);
    return current != NULL;
}

static bool same(const struct lambda *lambda, const struct map_lambda *map)
{
    return lambda->version == map->version && strcmp(lambda->sha256, map->sha256) == 0 &&
           strcmp(lambda->config, map->config == NULL ? "{}" : map->config) == 0;
}

static enum sluice_status slot_follow(struct lambda_host *self, struct lambda__slot *slot, const struct map_lambda *map,
                                      bool *changed)
{
    slot->present = true;
    slot->enabled = map->enabled;
    slot->wanted = map->version;
    if (!map->enabled) {
        *changed |= slot_drop(slot);
        return SLUICE_OK;
    }
    struct lambda *latest = slot->upcoming != NULL ? slot->upcoming : slot->current;
    if (latest != NULL && same(latest, map))
        return SLUICE_OK;
    struct lambda *fresh = lambda__create(self, slot, map);
    if (fresh == NULL)
        return SLUICE_MEMORY;
    lambda_unref(slot->upcoming);
    slot->upcoming = fresh;
    lambda__loader_push(self, lambda_ref(fresh));
    return SLUICE_OK;
}

enum sluice_status lambda_host_apply_map(struct lambda_host *self, const struct map *map)
{
    enum sluice_status status = SLUICE_OK;
    bool changed = false;
    pthread_mutex_lock(&self->lock);
    for (struct lambda__slot *slot = self->slots; slot != NULL; slot = slot->next) {
        bool kept = false;
        for (size_t i = 0; i < map->lambda_count && !kept; i++)
            kept = strcmp(map->lambdas[i].name, slot->name) == 0;
        if (kept || !slot->present)
            continue;
        slot->present = false;
        changed |= slot_drop(slot);
        lambda__slot_clear(slot);
    }
    for (size_t i = 0; i < map->lambda_count && status == SLUICE_OK; i++) {
        const struct map_lambda *each = &map->lambdas[i];
        if (!name_good(each->name)) {
            LOG_WARN("lambda", "the map names a lambda \"%s\", which is no name; it is not loaded", each->name);
            continue;
        }
        struct lambda__slot *slot = lambda__slot_find(self, each->name);
        if (slot == NULL) {
            slot = calloc(1, sizeof(*slot));
            if (slot == NULL) {
                status = SLUICE_MEMORY;
                break;
            }
            memcpy(slot->name, each->name, strlen(each->name));
            slot->host = self;
            slot->next = self->slots;
            self->slots = slot;
        }
        status = slot_follow(self, slot, each, &changed);
    }
    pthread_mutex_unlock(&self->lock);
    if (changed)
        self->options.env.changed(self->options.env.arg);
    return status;
}

/* --- Start and end --------------------------------------------------------------------------------------------------
 */

static void defaults(struct lambda_host_options *options)
{
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    if (options->workers == 0)
        options->workers = processors < 1 ? 1 : processors > 4 ? 4 : (uint32_t)processors;
    if (options->deadline_ns == 0)
        options->deadline_ns = 5 * NS_PER_S;
    if (options->retry_first_ns == 0)
        options->retry_first_ns = 100 * NS_PER_MS;
    if (options->tries == 0)
        options->tries = 5;
    if (options->tries > 20)
        options->tries = 20;
    if (options->cursor_ns == 0)
        options->cursor_ns = 100 * NS_PER_MS;
    if (options->watermark_ns == 0)
        options->watermark_ns = 5 * NS_PER_S;
    if (options->check_ns == 0)
        options->check_ns = 5 * NS_PER_S;
    if (options->queue_events_max == 0)
        options->queue_events_max = 1024;
    if (options->queue_bytes_max == 0)
        options->queue_bytes_max = 16u << 20;
}

/* Makes the directory, or empties it of what a former process left. */
static enum sluice_status directory_prepare(const char *path, char *error, size_t error_size)
{
    if (mkdir(path, 0700) != 0 && errno != EEXIST) {
        snprintf(error, error_size, "%s can't be made: %s", path, strerror(errno));
        return SLUICE_IO;
    }
    DIR *directory = opendir(path);
    if (directory == NULL) {
        snprintf(error, error_size, "%s can't be read: %s", path, strerror(errno));
        return SLUICE_IO;
    }
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;)
        if (entry->d_name[0] != '.')
            (void)unlinkat(dirfd(directory), entry->d_name, 0);
    closedir(directory);
    return SLUICE_OK;
}

static void host_free(struct lambda_host *self)
{
    while (self->slots != NULL) {
        struct lambda__slot *slot = self->slots;
        self->slots = slot->next;
        lambda__slot_clear(slot);
        free(slot);
    }
    pthread_cond_destroy(&self->loader_wake);
    pthread_cond_destroy(&self->gone);
    pthread_mutex_destroy(&self->loader_lock);
    pthread_mutex_destroy(&self->report_lock);
    pthread_mutex_destroy(&self->lock);
    sem_destroy(&self->keeper_wake);
    sem_destroy(&self->wake);
    free(self->program);
    free(self->directory);
    free(self);
}

/* Under the lock: until somebody left, or a moment. */
static void wait_gone(struct lambda_host *self)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    uint64_t ns = (uint64_t)until.tv_nsec + 10 * NS_PER_MS;
    until.tv_sec += (time_t)(ns / NS_PER_S);
    until.tv_nsec = (long)(ns % NS_PER_S);
    pthread_cond_timedwait(&self->gone, &self->lock, &until);
}

/* All but those that are held by runs that do not return. */
static void workers_leave(struct lambda_host *self)
{
    pthread_mutex_lock(&self->lock);
    self->stopping = true;
    while (self->threads > self->threads_stuck) {
        lambda__worker_wake(self);
        wait_gone(self);
    }
    pthread_mutex_unlock(&self->lock);
}

enum sluice_status lambda_host_create(const struct lambda_host_options *options, struct lambda_host **out, char *error,
                                      size_t error_size)
{
    enum sluice_status status = directory_prepare(options->directory, error, error_size);
    if (status != SLUICE_OK)
        return status;
    snprintf(error, error_size, "no memory or threads for the lambda host");
    struct lambda_host *self = calloc(1, sizeof(*self));
    if (self == NULL)
        return SLUICE_MEMORY;
    self->options = *options;
    defaults(&self->options);
    ASSERT(self->options.watermark_ns >= LAMBDA__WRITE_MS * NS_PER_MS + LAMBDA__ALIVE_NS);
    pthread_mutex_init(&self->lock, NULL);
    pthread_mutex_init(&self->report_lock, NULL);
    pthread_mutex_init(&self->loader_lock, NULL);
    pthread_cond_init(&self->gone, NULL);
    pthread_cond_init(&self->loader_wake, NULL);
    sem_init(&self->wake, 0, 0);
    sem_init(&self->keeper_wake, 0, 0);
    self->directory = strdup(options->directory);
    self->program = strdup(options->program == NULL ? "/proc/self/exe" : options->program);
    status = SLUICE_MEMORY;
    if (self->directory == NULL || self->program == NULL)
        goto fail;
    self->options.directory = self->directory;
    self->options.program = self->program;
    status = lambda__loader_start(self);
    if (status != SLUICE_OK)
        goto fail;
    status = lambda__keeper_start(self);
    if (status != SLUICE_OK)
        goto fail_after_loader;
    status = lambda__workers_start(self);
    if (status != SLUICE_OK)
        goto fail_after_keeper;
    *out = self;
    return SLUICE_OK;

fail_after_keeper:
    workers_leave(self);
    lambda__keeper_stop(self);
fail_after_loader:
    lambda__loader_stop(self);
fail:
    host_free(self);
    return status;
}

/* Feeds that nothing but a run that does not return keeps in memory count as over. */
static bool feeds_over(const struct lambda_host *self)
{
    for (const struct lambda_feed *feed = self->feeds; feed != NULL; feed = feed->next)
        if (feed->abandoned == 0 || feed->held > 0)
            return false;
    return true;
}

void lambda_host_destroy(struct lambda_host *self)
{
    if (self == NULL)
        return;
    lambda__checks_stop(self);
    pthread_mutex_lock(&self->lock);
    lambda__intake_drain(self);
    for (const struct lambda_feed *feed = self->feeds; feed != NULL; feed = feed->next)
        ASSERT(feed->stop_seen);
    lambda__keeper_wake(self);
    while (!feeds_over(self))
        wait_gone(self);
    for (struct lambda__slot *slot = self->slots; slot != NULL; slot = slot->next)
        slot_drop(slot);
    pthread_mutex_unlock(&self->lock);
    workers_leave(self);
    lambda__keeper_stop(self);
    lambda__loader_stop(self);
    atomic_store(&self->closed, true);
    while (atomic_load(&self->env_calls) > 0)
        usleep(1000);
    pthread_mutex_lock(&self->lock);
    unsigned stuck = self->threads;
    pthread_mutex_unlock(&self->lock);
    if (stuck == 0) {
        host_free(self);
        return;
    }
    /* Their memory and the code that they run must stay. */
    LOG_WARN("lambda", "%u run%s of lambdas did not return; left behind with %s", stuck, stuck == 1 ? "" : "s",
             stuck == 1 ? "its thread" : "their threads");
}

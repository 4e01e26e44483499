/* The thread that fetches, loads, initialises and unloads. User code runs here too (initialize, shutdown), one at a
 * time. */
#include <errno.h>
#include <fcntl.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/log.h"
#include "core/lambda/lambda__.h"

#define FETCH_PAUSE_NS    (500 * NS_PER_MS) /* the shard that holds the file may have no leader yet */
#define INSTANCE_PAUSE_NS (100 * NS_PER_MS) /* a former instance of the same file is still in use */

/* --- Lambdas in memory ----------------------------------------------------------------------------------------------
 */

struct lambda *lambda__create(struct lambda_host *host, struct lambda__slot *slot, const struct map_lambda *map)
{
    struct lambda *self = calloc(1, sizeof(*self));
    if (self == NULL)
        return NULL;
    self->host = host;
    self->slot = slot;
    atomic_init(&self->refs, 1);
    self->version = map->version;
    memcpy(self->sha256, map->sha256, sizeof(self->sha256));
    self->config = strdup(map->config == NULL ? "{}" : map->config);
    self->wanted = calloc(map->watch_count + 1, sizeof(*self->wanted));
    if (self->config == NULL || self->wanted == NULL)
        goto fail;
    for (size_t i = 0; i < map->watch_count; i++) {
        self->wanted[i].kind = map->watches[i].kind;
        self->wanted[i].text = strdup(map->watches[i].pattern);
        if (self->wanted[i].text == NULL)
            goto fail;
        self->wanted_count++;
    }
    return self;

fail:
    lambda__free(self);
    return NULL;
}

void lambda__free(struct lambda *self)
{
    for (size_t i = 0; i < self->wanted_count; i++)
        free(self->wanted[i].text);
    free(self->wanted);
    free(self->config);
    free(self->path);
    free(self);
}

/* --- Loading --------------------------------------------------------------------------------------------------------
 */

enum sluice_status lambda__file_write(const char *path, const void *data, size_t size, char *error, size_t error_size)
{
    (void)unlink(path);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0700);
    if (fd < 0)
        goto fail;
    for (size_t done = 0; done < size;) {
        ssize_t written = write(fd, (const uint8_t *)data + done, size - done);
        if (written < 0 && errno != EINTR)
            goto fail_after_open;
        done += written < 0 ? 0 : (size_t)written;
    }
    if (close(fd) == 0)
        return SLUICE_OK;
    fd = -1;

fail_after_open:
    snprintf(error, error_size, "%s can't be written: %s", path, strerror(errno));
    if (fd >= 0)
        close(fd);
    (void)unlink(path);
    return SLUICE_IO;
fail:
    snprintf(error, error_size, "%s can't be made: %s", path, strerror(errno));
    return SLUICE_IO;
}

static bool digest_good(const struct lambda *self, const void *data, size_t size)
{
    uint8_t digest[SHA256_DIGEST_LENGTH];
    char text[2 * SHA256_DIGEST_LENGTH + 1];
    SHA256(data, size, digest);
    for (size_t i = 0; i < sizeof(digest); i++)
        snprintf(text + 2 * i, 3, "%02x", digest[i]);
    return strcmp(text, self->sha256) == 0;
}

/* Brings the file to the disk. AGAIN: the store can't answer just now. */
static enum sluice_status fetch(struct lambda_host *host, struct lambda *self, char *error, size_t error_size)
{
    const struct lambda_env *env = &host->options.env;
    struct lambda_object object = {0};
    enum sluice_status status = env->fetch(env->arg, lambda_name(self), self->version, &object);
    if (status == SLUICE_UNAVAILABLE || status == SLUICE_DEADLINE || status == SLUICE_OUTCOME_UNKNOWN ||
        status == SLUICE_BUSY || status == SLUICE_NOT_LEADER || status == SLUICE_STALE_MAP || status == SLUICE_AGAIN ||
        status == SLUICE_CLOSED || status == SLUICE_NOT_FOUND || status == SLUICE_MEMORY) {
        snprintf(error, error_size, "its file can't be read yet: %s", sluice_status_text(status));
        return SLUICE_AGAIN;
    }
    if (status != SLUICE_OK) {
        snprintf(error, error_size, "its file can't be read: %s", sluice_status_text(status));
        return status;
    }
    char words[LAMBDA__ERROR_BYTES];
    if (object.deleted || object.value_size > LAMBDA_FILE_BYTES_MAX) {
        snprintf(error, error_size, object.deleted ? "its file was deleted" : "its file is larger than %u MiB",
                 LAMBDA_FILE_BYTES_MAX >> 20);
        status = SLUICE_UNPROCESSABLE;
    } else if (!digest_good(self, object.value, object.value_size)) {
        snprintf(error, error_size, "the file that was stored does not have the checksum of the upload");
        status = SLUICE_CORRUPT;
    } else if (lambda__file_error(object.value, object.value_size, words) != NULL) {
        snprintf(error, error_size, "%s", words);
        status = SLUICE_UNPROCESSABLE;
    } else {
        status = lambda__file_write(self->path, object.value, object.value_size, error, error_size);
    }
    if (object.owner != NULL)
        env->release(env->arg, object.owner);
    return status;
}

static bool watches_equal(const struct lambda *self, char *error, size_t error_size)
{
    const struct lambda__library *library = &self->library;
    bool equal = library->watch_count == self->wanted_count;
    for (size_t i = 0; i < self->wanted_count && equal; i++)
        equal = library->watches[i].kind == self->wanted[i].kind &&
                strcmp(library->watches[i].text, self->wanted[i].text) == 0;
    if (!equal)
        snprintf(
            error, error_size,
            "initialize registered other watches here (%zu, the first is \"%.100s\") than when it was uploaded (%zu, "
            "\"%.100s\"): they may depend on its config alone",
            library->watch_count, library->watches[0].text, self->wanted_count,
            self->wanted_count == 0 ? "" : self->wanted[0].text);
    return equal;
}

static enum sluice_status load(struct lambda_host *host, struct lambda *self, char *error, size_t error_size)
{
    if (!host->options.allow_inprocess) {
        snprintf(error, error_size, "this node does not run lambdas in its process (allow_inprocess)");
        return SLUICE_FORBIDDEN;
    }
    if (self->path == NULL && asprintf(&self->path, "%s/%s.%llu.so", host->directory, lambda_name(self),
                                       (unsigned long long)self->version) < 0) {
        self->path = NULL;
        snprintf(error, error_size, "no memory");
        return SLUICE_MEMORY;
    }
    enum sluice_status status = fetch(host, self, error, error_size);
    if (status != SLUICE_OK)
        return status;
    status = lambda__library_open(&self->library, self->path, error, error_size);
    if (status != SLUICE_OK)
        goto fail;
    status = lambda__library_initialize(&self->library, self->config, error, error_size);
    if (status != SLUICE_OK)
        goto fail_after_open;
    status = SLUICE_UNPROCESSABLE;
    if (!watches_equal(self, error, error_size))
        goto fail_after_open;
    return SLUICE_OK;

fail_after_open:
    lambda__library_close(&self->library);
fail:
    (void)unlink(self->path);
    return status;
}

/* --- Jobs -----------------------------------------------------------------------------------------------------------
 */

void lambda__loader_push(struct lambda_host *self, struct lambda *lambda)
{
    pthread_mutex_lock(&self->loader_lock);
    lambda->next_job = NULL;
    if (self->jobs_last != NULL)
        self->jobs_last->next_job = lambda;
    else
        self->jobs_first = lambda;
    self->jobs_last = lambda;
    pthread_cond_signal(&self->loader_wake);
    pthread_mutex_unlock(&self->loader_lock);
}

/* dlopen gives what is loaded already for the same name, with all that it remembers. */
static bool instance_in_use(const struct lambda_host *self, const struct lambda *lambda)
{
    for (const struct lambda *each = self->instances; each != NULL; each = each->next_instance)
        if (each->slot == lambda->slot && each->version == lambda->version)
            return true;
    return false;
}

static bool still_wanted(struct lambda_host *self, const struct lambda *lambda)
{
    pthread_mutex_lock(&self->lock);
    bool wanted = lambda->slot->upcoming == lambda;
    pthread_mutex_unlock(&self->lock);
    return wanted;
}

/* Puts a lambda that was loaded, or that failed to, into its place. */
static void install(struct lambda_host *self, struct lambda *lambda, enum sluice_status status, const char *error)
{
    pthread_mutex_lock(&self->lock);
    struct lambda__slot *slot = lambda->slot;
    lambda->state = status == SLUICE_OK ? LAMBDA__ACTIVE : LAMBDA__FAILED;
    snprintf(lambda->error, sizeof(lambda->error), "%s", error);
    bool wanted = slot->upcoming == lambda;
    struct lambda *former = NULL;
    if (wanted) {
        former = slot->current;
        slot->current = lambda; /* with the reference of `upcoming` */
        slot->upcoming = NULL;
        if (former != NULL)
            atomic_store(&former->active, false);
        atomic_store(&lambda->active, status == SLUICE_OK);
    }
    pthread_mutex_unlock(&self->lock);
    if (!wanted)
        return;
    if (status == SLUICE_OK)
        lambda__print(slot, "version %llu is active", (unsigned long long)lambda->version);
    else
        lambda__print(slot, "version %llu can't be loaded: %s", (unsigned long long)lambda->version, error);
    LOG_INFO("lambda", "%s version %llu: %s%s", slot->name, (unsigned long long)lambda->version,
             status == SLUICE_OK ? "active" : "failed: ", error);
    lambda_unref(former);
    if (lambda__env_enter(self)) {
        self->options.env.changed(self->options.env.arg);
        lambda__env_leave(self);
    }
}

/* Not now, but later: `error` says why. */
static void postpone(struct lambda_host *self, struct lambda *lambda, const char *error, uint64_t pause_ns)
{
    pthread_mutex_lock(&self->lock);
    snprintf(lambda->error, sizeof(lambda->error), "%s", error);
    pthread_mutex_unlock(&self->lock);
    lambda->job_at_ns = clock_monotonic_ns() + pause_ns;
    lambda__loader_push(self, lambda);
}

static void job_load(struct lambda_host *self, struct lambda *lambda)
{
    char error[LAMBDA__ERROR_BYTES] = "";
    if (!still_wanted(self, lambda)) {
        lambda_unref(lambda);
        return;
    }
    if (instance_in_use(self, lambda)) {
        postpone(self, lambda, "waits for runs of its former instance to return", INSTANCE_PAUSE_NS);
        return;
    }
    enum sluice_status status = load(self, lambda, error, sizeof(error));
    if (status == SLUICE_AGAIN) {
        postpone(self, lambda, error, FETCH_PAUSE_NS);
        return;
    }
    if (status == SLUICE_OK) {
        lambda->next_instance = self->instances;
        self->instances = lambda;
    }
    install(self, lambda, status, error);
    lambda_unref(lambda);
}

static void job_unload(struct lambda_host *self, struct lambda *lambda)
{
    struct lambda **link = &self->instances;
    while (*link != NULL && *link != lambda)
        link = &(*link)->next_instance;
    if (*link != NULL) {
        *link = lambda->next_instance;
        lambda__library_close(&lambda->library);
        (void)unlink(lambda->path);
        LOG_INFO("lambda", "%s version %llu: unloaded", lambda_name(lambda), (unsigned long long)lambda->version);
    }
    lambda__free(lambda);
}

/* Takes the first job that is due, under the loader's lock; else the time when one will be. */
static struct lambda *job_take(struct lambda_host *self, uint64_t *due)
{
    uint64_t now = clock_monotonic_ns();
    *due = UINT64_MAX;
    struct lambda *before = NULL;
    for (struct lambda *job = self->jobs_first; job != NULL; before = job, job = job->next_job) {
        if (!job->unload && !self->loader_stop && job->job_at_ns > now) {
            *due = job->job_at_ns < *due ? job->job_at_ns : *due;
            continue;
        }
        if (before != NULL)
            before->next_job = job->next_job;
        else
            self->jobs_first = job->next_job;
        if (self->jobs_last == job)
            self->jobs_last = before;
        return job;
    }
    return NULL;
}

static void *loader(void *arg)
{
    struct lambda_host *self = arg;
    pthread_mutex_lock(&self->loader_lock);
    for (;;) {
        uint64_t due;
        struct lambda *job = job_take(self, &due);
        if (job != NULL) {
            pthread_mutex_unlock(&self->loader_lock);
            if (job->unload)
                job_unload(self, job);
            else
                job_load(self, job);
            pthread_mutex_lock(&self->loader_lock);
            continue;
        }
        if (self->loader_stop)
            break;
        if (due == UINT64_MAX) {
            pthread_cond_wait(&self->loader_wake, &self->loader_lock);
            continue;
        }
        /* Condition variables know no CLOCK_BOOTTIME. */
        uint64_t now = clock_monotonic_ns();
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        uint64_t ns = (uint64_t)until.tv_nsec + (due > now ? due - now : 0);
        until.tv_sec += (time_t)(ns / NS_PER_S);
        until.tv_nsec = (long)(ns % NS_PER_S);
        pthread_cond_clockwait(&self->loader_wake, &self->loader_lock, CLOCK_MONOTONIC, &until);
    }
    pthread_mutex_unlock(&self->loader_lock);
    return NULL;
}

enum sluice_status lambda__loader_start(struct lambda_host *self)
{
    return pthread_create(&self->loader, NULL, loader, self) == 0 ? SLUICE_OK : SLUICE_MEMORY;
}

void lambda__loader_stop(struct lambda_host *self)
{
    pthread_mutex_lock(&self->loader_lock);
    self->loader_stop = true;
    pthread_cond_signal(&self->loader_wake);
    pthread_mutex_unlock(&self->loader_lock);
    pthread_join(self->loader, NULL);
}

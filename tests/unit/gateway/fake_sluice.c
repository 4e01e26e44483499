#include "tests/unit/gateway/fake_sluice.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/panic.h"
#include "core/base/pattern.h"
#include "tests/unit/gateway/fake_store.h"

/* --- Values ----------------------------------------------------------------------------------------------------------
 */

struct sluice_value {
    atomic_uint references;
    uint32_t size;
    uint8_t data[] __attribute__((aligned(16)));
};
static atomic_long values;

struct sluice_value *sluice_value_create(uint32_t size)
{
    struct sluice_value *self = malloc(sizeof(*self) + size);
    if (self == NULL)
        return NULL;
    atomic_init(&self->references, 1);
    self->size = size;
    atomic_fetch_add(&values, 1);
    return self;
}

uint8_t *sluice_value_data(struct sluice_value *value)
{
    return value->data;
}

struct sluice_value *sluice_value_ref(struct sluice_value *value)
{
    atomic_fetch_add(&value->references, 1);
    return value;
}

void sluice_value_unref(struct sluice_value *value)
{
    if (value == NULL || atomic_fetch_sub(&value->references, 1) != 1)
        return;
    atomic_fetch_sub(&values, 1);
    free(value);
}

long fake_values(void)
{
    return atomic_load(&values);
}

/* --- Calls that wait for sluice_process
 * -------------------------------------------------------------------------------- */

struct pending {
    struct pending *next;
    sluice_done done;
    void *arg;
    struct fake_answer answer;
    bool held;
};

struct sluice_watch {
    struct sluice_client *client;
    struct sluice_watch *next;
    sluice_watch_handler handler;
    void *arg;
    struct pattern *pattern; /* NULL: a lambda's log */
    bool values, admin, ready_told, paused, dead;
    uint64_t seen; /* events of the store's log */
    uint64_t progress_ns;
};

struct sluice_client {
    int fd;
    struct pending *first, *last;
    struct sluice_watch *watches;
    struct sluice_figures figures;
};

static struct {
    pthread_mutex_t lock;
    struct sluice_client *client;
    struct fake_store store;
    enum sluice_status fail;
    unsigned fail_count, waiting, watch_count, paused_count, calls;
    uint32_t retry_after_ms;
    bool hold, not_ready, mute;
    enum sluice_status end;
    char idempotency_key[256], subject[64];
    bool ack_delivered, admin;
} fake = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void lock(void)
{
    pthread_mutex_lock(&fake.lock);
}

static void unlock(void)
{
    pthread_mutex_unlock(&fake.lock);
}

static void ring(void)
{
    uint64_t one = 1;
    if (fake.client != NULL && write(fake.client->fd, &one, sizeof(one)) < 0)
        PANIC("the fake's doorbell");
}

void fake_reset(void)
{
    lock();
    fake_store_reset(&fake.store);
    fake.fail_count = fake.calls = 0;
    fake.hold = fake.not_ready = fake.mute = false;
    fake.end = SLUICE_OK;
    unlock();
}

void fake_fail(enum sluice_status status, unsigned count, uint32_t retry_after_ms)
{
    lock();
    fake.fail = status;
    fake.fail_count = count;
    fake.retry_after_ms = retry_after_ms;
    unlock();
}

void fake_hold(bool hold)
{
    lock();
    fake.hold = hold;
    for (struct pending *call = fake.client != NULL ? fake.client->first : NULL; call != NULL && !hold;
         call = call->next)
        call->held = false;
    ring();
    unlock();
}

static unsigned read_count(const unsigned *count)
{
    lock();
    unsigned result = *count;
    unlock();
    return result;
}

unsigned fake_waiting(void)
{
    return read_count(&fake.waiting);
}

unsigned fake_watch_count(void)
{
    return read_count(&fake.watch_count);
}

unsigned fake_paused_count(void)
{
    return read_count(&fake.paused_count);
}

unsigned fake_call_count(void)
{
    return read_count(&fake.calls);
}

void fake_set_ready(bool ready)
{
    lock();
    fake.not_ready = !ready;
    unlock();
}

void fake_mute_watches(bool mute)
{
    lock();
    fake.mute = mute;
    ring();
    unlock();
}

void fake_end_watches(enum sluice_status status)
{
    lock();
    fake.end = status;
    ring();
    unlock();
}

void fake_forget(uint64_t revision)
{
    lock();
    fake.store.forgotten = revision;
    unlock();
}

void fake_next_epoch(void)
{
    lock();
    fake_store_next_epoch(&fake.store);
    unlock();
}

void fake_last_write(char idempotency_key[256], char subject[64], bool *ack_delivered, bool *admin)
{
    lock();
    memcpy(idempotency_key, fake.idempotency_key, sizeof(fake.idempotency_key));
    memcpy(subject, fake.subject, sizeof(fake.subject));
    *ack_delivered = fake.ack_delivered;
    *admin = fake.admin;
    unlock();
}

void fake_put(const char *key, const void *data, size_t size)
{
    struct sluice_operation operation = {.kind = SLUICE_PUT,
                                         .key = key,
                                         .key_size = strlen(key),
                                         .content_type = "text/plain",
                                         .content_type_size = 10,
                                         .data = data,
                                         .data_size = size};
    struct sluice_write write = {.operations = &operation, .operation_count = 1};
    struct fake_answer answer = {0};
    lock();
    fake_store_write(&fake.store, &write, &answer);
    fake_answer_free(&answer);
    ring();
    unlock();
}

/* A place in the queue for a call's answer, which is filled in there. NULL: it is to fail. With the lock held. */
static struct pending *enqueue(struct sluice_client *client, sluice_done done, void *arg, bool *failed)
{
    struct pending *call = calloc(1, sizeof(*call));
    ASSERT(call != NULL);
    call->done = done;
    call->arg = arg;
    call->held = fake.hold;
    if (client->last != NULL)
        client->last->next = call;
    else
        client->first = call;
    client->last = call;
    fake.waiting++;
    fake.calls++;
    client->figures.calls++;
    *failed = fake.fail_count > 0;
    if (*failed) {
        fake.fail_count--;
        call->answer.answer.status = fake.fail;
        call->answer.answer.detail = sluice_status_text(fake.fail);
        call->answer.answer.retry_after_ms = fake.retry_after_ms;
    }
    return call;
}

/* --- The library's face
 * -------------------------------------------------------------------------------------------------- */

enum sluice_status sluice_open(const struct sluice_options *options, struct sluice_client **out)
{
    ASSERT(options->size == sizeof(*options));
    for (size_t i = 0; i < options->node_count; i++) {
        if (strncmp(options->nodes[i], "shm:", 4) != 0 && strncmp(options->nodes[i], "tcp:", 4) != 0) {
            (void)snprintf(options->error, options->error_size, "shm:NAME or tcp:HOST:PORT was expected; came: %s",
                           options->nodes[i]);
            return SLUICE_INVALID;
        }
    }
    struct sluice_client *self = calloc(1, sizeof(*self));
    ASSERT(self != NULL);
    self->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    lock();
    fake.client = self;
    unlock();
    *out = self;
    return SLUICE_OK;
}

static void deliver(struct sluice_client *client, bool closing)
{
    for (;;) {
        lock();
        struct pending **link = &client->first, *before = NULL, *call;
        while ((call = *link) != NULL && call->held && !closing) {
            before = call;
            link = &call->next;
        }
        if (call != NULL) {
            *link = call->next;
            if (client->last == call)
                client->last = before;
            fake.waiting--;
        }
        unlock();
        if (call == NULL)
            return;
        if (closing) {
            fake_answer_free(&call->answer);
            call->answer.answer.status = SLUICE_UNAVAILABLE;
            call->answer.answer.detail = "the client is closed";
        }
        call->done(call->arg, &call->answer.answer);
        fake_answer_free(&call->answer);
        free(call);
    }
}

static void bury(struct sluice_client *client)
{
    struct sluice_watch **link = &client->watches, *watch;
    while ((watch = *link) != NULL) {
        if (!watch->dead) {
            link = &watch->next;
            continue;
        }
        *link = watch->next;
        fake.watch_count--;
        fake.paused_count -= watch->paused;
        pattern_destroy(watch->pattern);
        free(watch);
    }
}

void sluice_close(struct sluice_client *client)
{
    if (client == NULL)
        return;
    deliver(client, true);
    lock();
    for (struct sluice_watch *watch = client->watches; watch != NULL; watch = watch->next)
        watch->dead = true;
    bury(client);
    fake.client = NULL;
    unlock();
    close(client->fd);
    free(client);
}

int sluice_fd(const struct sluice_client *client)
{
    return client->fd;
}

static bool has_work(const struct sluice_client *client)
{
    for (const struct pending *call = client->first; call != NULL; call = call->next) {
        if (!call->held)
            return true;
    }
    for (const struct sluice_watch *watch = client->watches; watch != NULL && !fake.mute; watch = watch->next) {
        if (watch->dead || !watch->ready_told || (!watch->paused && watch->seen < fake.store.log_count))
            return true;
    }
    return false;
}

bool sluice_arm(struct sluice_client *client)
{
    lock();
    bool idle = !has_work(client);
    unlock();
    return idle;
}

uint64_t sluice_timeout_ns(const struct sluice_client *client)
{
    return client->watches != NULL ? NS_PER_S : UINT64_MAX;
}

/* One event for the watch, if there is one. With the lock held, which is given up while its handler runs. */
static bool tell(struct sluice_watch *watch, const struct sluice_watch_event *event)
{
    unlock();
    watch->handler(watch->arg, event);
    lock();
    return !watch->dead;
}

static void run_watch(struct sluice_watch *watch)
{
    char cursor[32];
    if (fake.end != SLUICE_OK) {
        struct sluice_watch_event event = {
            .type = SLUICE_WATCH_END, .status = fake.end, .detail = sluice_status_text(fake.end)};
        watch->dead = true;
        (void)tell(watch, &event);
        return;
    }
    if (!watch->ready_told) {
        watch->ready_told = true;
        snprintf(cursor, sizeof(cursor), "r%llu", (unsigned long long)watch->seen);
        struct sluice_watch_event event = {
            .type = SLUICE_WATCH_READY, .cursor = cursor, .closed_ns = fake.store.time_ns};
        if (!tell(watch, &event))
            return;
    }
    while (!watch->paused && !watch->dead && watch->pattern != NULL && watch->seen < fake.store.log_count) {
        const struct fake_version *version = fake.store.log[watch->seen++];
        if (!pattern_match(watch->pattern, version->key, strlen(version->key)) ||
            (!watch->admin && strncmp(version->key, "_sluice/", 8) == 0))
            continue;
        struct sluice_object object;
        fake_object(version, &object, watch->values);
        snprintf(cursor, sizeof(cursor), "r%llu", (unsigned long long)watch->seen);
        struct sluice_watch_event event = {
            .type = version->deleted ? SLUICE_WATCH_DELETE : SLUICE_WATCH_PUT, .object = &object, .cursor = cursor};
        if (!tell(watch, &event))
            return;
    }
    uint64_t now = clock_monotonic_ns();
    if (watch->paused || watch->dead || now - watch->progress_ns < NS_PER_S)
        return;
    watch->progress_ns = now;
    snprintf(cursor, sizeof(cursor), "r%llu", (unsigned long long)watch->seen);
    struct sluice_watch_event event = {.type = watch->pattern != NULL ? SLUICE_WATCH_PROGRESS : SLUICE_WATCH_PUT,
                                       .cursor = cursor,
                                       .closed_ns = fake.store.time_ns};
    struct sluice_object line = {.key = "", .data = "a line\nof the lambda", .data_size = 20};
    event.object = watch->pattern != NULL ? NULL : &line;
    (void)tell(watch, &event);
}

void sluice_process(struct sluice_client *client)
{
    uint64_t count;
    ssize_t got = read(client->fd, &count, sizeof(count));
    (void)got;
    deliver(client, false);
    lock();
    bool told = false;
    enum sluice_status end = fake.end; /* one that is asked for meanwhile is the next turn's */
    for (struct sluice_watch *watch = client->watches; watch != NULL && !fake.mute; watch = watch->next) {
        told = told || !watch->dead;
        if (!watch->dead)
            run_watch(watch);
    }
    if (told && fake.end == end)
        fake.end = SLUICE_OK;
    bury(client);
    unlock();
}

bool sluice_wait(struct sluice_client *client, const volatile bool *done, uint32_t timeout_ms)
{
    uint64_t until = clock_monotonic_ns() + timeout_ms * NS_PER_MS;
    while (!*done && clock_monotonic_ns() < until)
        sluice_process(client);
    return *done;
}

void sluice_write(struct sluice_client *client, const struct sluice_write *request, sluice_done done, void *arg)
{
    bool failed;
    lock();
    struct pending *call = enqueue(client, done, arg, &failed);
    snprintf(fake.idempotency_key, sizeof(fake.idempotency_key), "%.*s", (int)request->idempotency_key_size,
             request->idempotency_key != NULL ? request->idempotency_key : "");
    snprintf(fake.subject, sizeof(fake.subject), "%s", request->subject != NULL ? request->subject : "");
    fake.ack_delivered = request->ack_delivered;
    fake.admin = request->call.admin;
    if (!failed)
        fake_store_write(&fake.store, request, &call->answer);
    unlock();
}

void sluice_get(struct sluice_client *client, const struct sluice_get *request, sluice_done done, void *arg)
{
    bool failed;
    lock();
    struct pending *call = enqueue(client, done, arg, &failed);
    if (!failed)
        fake_store_get(&fake.store, request, &call->answer);
    unlock();
}

void sluice_list(struct sluice_client *client, const struct sluice_list *request, sluice_done done, void *arg)
{
    bool failed;
    lock();
    struct pending *call = enqueue(client, done, arg, &failed);
    if (!failed)
        fake_store_list(&fake.store, request, &call->answer);
    unlock();
}

void sluice_history(struct sluice_client *client, const struct sluice_history *request, sluice_done done, void *arg)
{
    bool failed;
    lock();
    struct pending *call = enqueue(client, done, arg, &failed);
    if (!failed)
        fake_store_history(&fake.store, request, &call->answer);
    unlock();
}

void sluice_snapshot(struct sluice_client *client, const struct sluice_snapshot *request, sluice_done done, void *arg)
{
    bool failed;
    lock();
    struct pending *call = enqueue(client, done, arg, &failed);
    if (!failed)
        fake_store_snapshot(&fake.store, request, &call->answer);
    unlock();
}

/* --- Watches
 * -------------------------------------------------------------------------------------------------------------- */

static void add_watch(struct sluice_client *client, struct sluice_watch *watch)
{
    lock();
    watch->client = client;
    watch->progress_ns = clock_monotonic_ns();
    watch->next = client->watches;
    client->watches = watch;
    fake.watch_count++;
    unlock();
}

enum sluice_status sluice_watch_start(struct sluice_client *client, const struct sluice_watch_options *options,
                                      sluice_watch_handler handler, void *arg, struct sluice_watch **out, char *error)
{
    struct pattern *pattern;
    unsigned long long from = 0;
    enum sluice_status status =
        pattern_compile(options->kind, options->pattern, options->pattern_size, &pattern, error, 256);
    if (status != SLUICE_OK)
        return status;
    char rest;
    if (options->cursor != NULL && sscanf(options->cursor, "r%llu%c", &from, &rest) != 1) {
        pattern_destroy(pattern);
        snprintf(error, 256, "the cursor is none of this store's");
        return SLUICE_INVALID;
    }
    struct sluice_watch *watch = calloc(1, sizeof(*watch));
    ASSERT(watch != NULL);
    lock();
    bool gone = options->cursor != NULL && from < fake.store.forgotten;
    watch->seen = options->cursor != NULL ? from : fake.store.log_count;
    unlock();
    if (gone) {
        pattern_destroy(pattern);
        free(watch);
        snprintf(error, 256, "the events after this cursor are no longer kept");
        return SLUICE_GONE;
    }
    watch->handler = handler;
    watch->arg = arg;
    watch->pattern = pattern;
    watch->values = options->values;
    watch->admin = options->admin;
    add_watch(client, watch);
    *out = watch;
    return SLUICE_OK;
}

enum sluice_status sluice_lambda_log(struct sluice_client *client, const char *name, sluice_watch_handler handler,
                                     void *arg, struct sluice_watch **out)
{
    if (strcmp(name, "missing") == 0)
        return SLUICE_NOT_FOUND;
    struct sluice_watch *watch = calloc(1, sizeof(*watch));
    ASSERT(watch != NULL);
    watch->handler = handler;
    watch->arg = arg;
    add_watch(client, watch);
    *out = watch;
    return SLUICE_OK;
}

void sluice_watch_stop(struct sluice_watch *watch)
{
    lock();
    watch->dead = true;
    unlock();
}

void sluice_watch_pause(struct sluice_watch *watch)
{
    lock();
    fake.paused_count += !watch->paused;
    watch->paused = true;
    unlock();
}

void sluice_watch_resume(struct sluice_watch *watch)
{
    lock();
    fake.paused_count -= watch->paused;
    watch->paused = false;
    unlock();
}

/* --- Control
 * --------------------------------------------------------------------------------------------------------------- */

static void control(struct sluice_client *client, enum sluice_status status, const char *json, sluice_done done,
                    void *arg)
{
    bool failed;
    lock();
    struct pending *call = enqueue(client, done, arg, &failed);
    if (!failed)
        fake_answer_json(&call->answer, status, json);
    unlock();
}

void sluice_pool_put(struct sluice_client *client, const struct sluice_call *request, const char *prefix,
                     const char *policy_json, sluice_done done, void *arg)
{
    (void)request;
    bool bad = strstr(policy_json, "\"kind\"") == NULL;
    control(client,
            strcmp(prefix, "taken") == 0 ? SLUICE_CONFLICT
            : bad                        ? SLUICE_UNPROCESSABLE
                                         : SLUICE_OK,
            policy_json, done, arg);
}

void sluice_pool_delete(struct sluice_client *client, const struct sluice_call *request, const char *prefix, bool force,
                        sluice_done done, void *arg)
{
    (void)request;
    control(client,
            strcmp(prefix, "missing") == 0 ? SLUICE_NOT_FOUND
            : force || *prefix != '\0'     ? SLUICE_OK
                                           : SLUICE_CONFLICT,
            "{\"deleted\":true}", done, arg);
}

void sluice_pool_get(struct sluice_client *client, const struct sluice_call *request, const char *prefix,
                     sluice_done done, void *arg)
{
    (void)request;
    bool missing = prefix != NULL && strcmp(prefix, "missing") == 0;
    control(client, missing ? SLUICE_NOT_FOUND : SLUICE_OK,
            prefix == NULL    ? "{\"pools\":[{\"prefix\":\"\",\"kind\":\"persistent\"}]}"
            : *prefix == '\0' ? "{\"prefix\":\"\",\"kind\":\"persistent\"}"
                              : "{\"prefix\":\"farm\",\"kind\":\"volatile\"}",
            done, arg);
}

void sluice_lambda_upload(struct sluice_client *client, const struct sluice_lambda_upload *request, sluice_done done,
                          void *arg)
{
    char json[512];
    bool elf = request->file_size >= 4 && memcmp(sluice_value_data(request->file), "\177ELF", 4) == 0;
    snprintf(json, sizeof(json),
             "{\"name\":\"%.60s\",\"version\":1,\"size\":%zu,\"state\":\"running\",\"manifest\":%.300s}", request->name,
             request->file_size, request->manifest_json != NULL ? request->manifest_json : "{}");
    control(client, elf ? SLUICE_OK : SLUICE_UNPROCESSABLE, json, done, arg);
}

static void lambda(struct sluice_client *client, const char *name, const char *json, sluice_done done, void *arg)
{
    control(client, name != NULL && strcmp(name, "missing") == 0 ? SLUICE_NOT_FOUND : SLUICE_OK, json, done, arg);
}

void sluice_lambda_get(struct sluice_client *client, const struct sluice_call *request, const char *name,
                       sluice_done done, void *arg)
{
    (void)request;
    lambda(client, name, name == NULL ? "{\"lambdas\":[]}" : "{\"name\":\"shapes\",\"state\":\"running\"}", done, arg);
}

void sluice_lambda_delete(struct sluice_client *client, const struct sluice_call *request, const char *name,
                          sluice_done done, void *arg)
{
    (void)request;
    lambda(client, name, "{\"deleted\":true}", done, arg);
}

void sluice_lambda_action(struct sluice_client *client, const struct sluice_call *request, const char *name,
                          const char *action, sluice_done done, void *arg)
{
    (void)request;
    lambda(client, name, strcmp(action, "enable") == 0 ? "{\"state\":\"running\"}" : "{\"state\":\"disabled\"}", done,
           arg);
}

void sluice_cluster(struct sluice_client *client, const struct sluice_call *request, sluice_done done, void *arg)
{
    (void)request;
    control(client, SLUICE_OK, "{\"nodes\":[],\"shards\":[]}", done, arg);
}

void sluice_node_change(struct sluice_client *client, const struct sluice_call *request, const char *change,
                        const char *json, sluice_done done, void *arg)
{
    char text[1024];
    (void)request;
    snprintf(text, sizeof(text), "{\"change\":\"%s\",\"asked\":%s}", change, json);
    control(client, SLUICE_OK, text, done, arg);
}

void sluice_transfer(struct sluice_client *client, const struct sluice_call *request, const char *json,
                     sluice_done done, void *arg)
{
    char text[1024];
    (void)request;
    snprintf(text, sizeof(text), "{\"asked\":%s}", json);
    control(client, SLUICE_OK, text, done, arg);
}

bool sluice_ready(const struct sluice_client *client)
{
    (void)client;
    lock();
    bool ready = !fake.not_ready;
    unlock();
    return ready;
}

uint64_t sluice_time_ns(const struct sluice_client *client)
{
    (void)client;
    return fake.store.time_ns;
}

void sluice_figures(const struct sluice_client *client, struct sluice_figures *out)
{
    *out = client->figures;
}

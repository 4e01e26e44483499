/* What the lambda host asks of the node, answered through the inner client: reads at the event's time, effects,
 * cursors. Called from worker threads. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/client.h"
#include "core/node/lambda_env.h"

/* Keeps an answer's bytes beyond the callback: the value by reference, the strings by copy. */
struct kept {
    struct sluice_value *value;
    char strings[];
};

static enum sluice_status keep(const struct sluice_object *object, struct lambda_object *out)
{
    size_t copied = object->value == NULL ? object->data_size : 0;
    struct kept *kept = malloc(sizeof(*kept) + object->key_size + object->content_type_size + 2 + copied);
    if (kept == NULL)
        return SLUICE_MEMORY;
    char *key = kept->strings, *type = key + object->key_size + 1, *data = type + object->content_type_size + 1;
    memcpy(key, object->key, object->key_size);
    key[object->key_size] = '\0';
    memcpy(type, object->content_type, object->content_type_size);
    type[object->content_type_size] = '\0';
    if (copied > 0)
        memcpy(data, object->data, copied);
    kept->value = object->value == NULL ? NULL : sluice_value_ref(object->value);
    *out = (struct lambda_object){
        .key = key,
        .key_size = object->key_size,
        .content_type = type,
        .content_type_size = object->content_type_size,
        .value = object->data == NULL    ? NULL
                 : object->value != NULL ? object->data
                                         : data,
        .value_size = object->size,
        .version = object->version,
        .revision = object->revision,
        .time = object->time_ns,
        .object_time = object->object_time_ns,
        .shard = object->shard,
        .deleted = object->deleted,
        .owner = kept,
    };
    return SLUICE_OK;
}

static void borrow(const struct sluice_object *object, struct lambda_object *out)
{
    *out = (struct lambda_object){
        .key = object->key,
        .key_size = object->key_size,
        .content_type = object->content_type,
        .content_type_size = object->content_type_size,
        .value = object->data,
        .value_size = object->size,
        .version = object->version,
        .revision = object->revision,
        .time = object->time_ns,
        .object_time = object->object_time_ns,
        .shard = object->shard,
        .deleted = object->deleted,
    };
}

static void release(void *arg, void *owner)
{
    struct kept *kept = owner;
    (void)arg;
    if (kept == NULL)
        return;
    if (kept->value != NULL)
        sluice_value_unref(kept->value);
    free(kept);
}

static uint32_t timeout_of(const struct lambda_call *call)
{
    uint64_t now = clock_monotonic_ns();
    uint64_t left = call->deadline_ns > now ? (call->deadline_ns - now) / NS_PER_MS : 0;
    return left == 0 ? 1 : left > 60000 ? 60000 : (uint32_t)left;
}

/* ---- get, fetch ---- */

struct getting {
    struct sluice_get request;
    struct lambda_object *out;
    enum sluice_status status;
    struct inner_call *call;
};

static void got(void *arg, const struct sluice_answer *answer)
{
    struct getting *getting = arg;
    getting->status = answer->status;
    if ((answer->status == SLUICE_OK || answer->status == SLUICE_DELETED) && answer->object_count == 1) {
        getting->status = keep(&answer->objects[0], getting->out);
        if (getting->status == SLUICE_OK && answer->status == SLUICE_DELETED)
            getting->out->deleted = true;
    }
    inner_done(getting->call);
}

static void start_get(struct sluice_client *client, struct inner_call *call)
{
    struct getting *getting = call->arg;
    getting->call = call;
    sluice_get(client, &getting->request, got, getting);
}

static enum sluice_status get(void *arg, const struct lambda_call *call, const char *key, size_t key_size,
                              uint64_t version, struct lambda_object *out)
{
    struct node__lambdas *self = arg;
    struct getting getting = {.out = out,
                              .request = {.call = {.timeout_ms = timeout_of(call)},
                                          .key = key,
                                          .key_size = key_size,
                                          .version = version,
                                          .at_ns = version == 0 ? call->at : 0}};
    return inner_run(self->inner, start_get, &getting) ? getting.status : SLUICE_CLOSED;
}

static enum sluice_status fetch(void *arg, const char *name, uint64_t version, struct lambda_object *out)
{
    struct node__lambdas *self = arg;
    char key[80];
    int size = snprintf(key, sizeof(key), "_sluice/lambdas/%s", name);
    struct getting getting = {
        .out = out,
        .request = {
            .call = {.timeout_ms = 10000, .admin = true}, .key = key, .key_size = (size_t)size, .version = version}};
    return inner_run(self->inner, start_get, &getting) ? getting.status : SLUICE_CLOSED;
}

/* ---- list, history, snapshot: the visits happen on the client's thread while the caller waits ---- */

struct scanning {
    struct sluice_list list;
    struct sluice_history history;
    struct sluice_snapshot snapshot;
    lambda_visit visit;
    void *visit_arg;
    enum sluice_status status;
    char *cursor;
    bool stopped;
    struct inner_call *call;
};

static void scanned(void *arg, const struct sluice_answer *answer)
{
    struct scanning *scanning = arg;
    scanning->status = answer->status;
    for (size_t i = 0; answer->status == SLUICE_OK && i < answer->object_count && !scanning->stopped; i++) {
        struct lambda_object object;
        borrow(&answer->objects[i], &object);
        scanning->stopped = !scanning->visit(scanning->visit_arg, &object);
    }
    free(scanning->cursor);
    scanning->cursor = answer->status == SLUICE_OK && answer->cursor != NULL ? strdup(answer->cursor) : NULL;
    inner_done(scanning->call);
}

static void start_list(struct sluice_client *client, struct inner_call *call)
{
    struct scanning *scanning = call->arg;
    scanning->call = call;
    sluice_list(client, &scanning->list, scanned, scanning);
}

static enum sluice_status list(void *arg, const struct lambda_call *call, const char *prefix, size_t prefix_size,
                               lambda_visit visit, void *visit_arg)
{
    struct node__lambdas *self = arg;
    struct scanning scanning = {.visit = visit,
                                .visit_arg = visit_arg,
                                .list = {.prefix = prefix, .prefix_size = prefix_size, .at_ns = call->at}};
    do {
        scanning.list.call.timeout_ms = timeout_of(call);
        scanning.list.cursor = scanning.cursor;
        if (!inner_run(self->inner, start_list, &scanning))
            scanning.status = SLUICE_CLOSED;
    } while (scanning.status == SLUICE_OK && scanning.cursor != NULL && !scanning.stopped);
    free(scanning.cursor);
    return scanning.status;
}

static void start_history(struct sluice_client *client, struct inner_call *call)
{
    struct scanning *scanning = call->arg;
    scanning->call = call;
    sluice_history(client, &scanning->history, scanned, scanning);
}

static enum sluice_status history(void *arg, const struct lambda_call *call, const char *key, size_t key_size,
                                  uint32_t limit, bool values, lambda_visit visit, void *visit_arg)
{
    struct node__lambdas *self = arg;
    struct scanning scanning = {.visit = visit,
                                .visit_arg = visit_arg,
                                .history = {.call = {.timeout_ms = timeout_of(call)},
                                            .key = key,
                                            .key_size = key_size,
                                            .time_to_ns = call->at,
                                            .limit = limit,
                                            .descending = true,
                                            .values = values}};
    if (!inner_run(self->inner, start_history, &scanning))
        return SLUICE_CLOSED;
    free(scanning.cursor);
    return scanning.status;
}

static void start_snapshot(struct sluice_client *client, struct inner_call *call)
{
    struct scanning *scanning = call->arg;
    scanning->call = call;
    sluice_snapshot(client, &scanning->snapshot, scanned, scanning);
}

static enum sluice_status snapshot(void *arg, const struct lambda_call *call, const char *const *keys,
                                   const size_t *key_sizes, size_t count, lambda_visit visit, void *visit_arg)
{
    struct node__lambdas *self = arg;
    struct scanning scanning = {.visit = visit,
                                .visit_arg = visit_arg,
                                .snapshot = {.call = {.timeout_ms = timeout_of(call)},
                                             .keys = keys,
                                             .key_sizes = key_sizes,
                                             .key_count = count,
                                             .at_ns = call->at}};
    if (!inner_run(self->inner, start_snapshot, &scanning))
        return SLUICE_CLOSED;
    free(scanning.cursor);
    return scanning.status;
}

/* ---- effects and cursors ---- */

struct writing {
    const struct lambda_write *write;
    struct sluice_operation operation;
    struct sluice_write request;
    const char *lambda;
    uint32_t shard;
    uint64_t revision;
    enum sluice_status status;
    struct inner_call *call;
};

static void written(void *arg, const struct sluice_answer *answer)
{
    struct writing *writing = arg;
    writing->status = answer->status;
    inner_done(writing->call);
}

static void start_write(struct sluice_client *client, struct inner_call *call)
{
    struct writing *writing = call->arg;
    writing->call = call;
    sluice__write_as(client, &writing->request, writing->write->client, writing->write->sequence,
                     writing->write->watermark, written, writing);
}

static enum sluice_status write_effect(void *arg, const struct lambda_call *call, const struct lambda_write *write)
{
    struct node__lambdas *self = arg;
    /* The deadline was set before the host made sure that this node leads; a fresh time-out would outlast that. */
    uint32_t left = timeout_of(call);
    if (write->trigger)
        return SLUICE_UNPROCESSABLE; /* this release has no trigger pools */
    struct writing writing = {
        .write = write,
        .operation = {.kind = write->remove ? SLUICE_DELETE : SLUICE_PUT,
                      .key = write->key,
                      .key_size = write->key_size,
                      .content_type = write->content_type,
                      .content_type_size = write->content_type_size,
                      .data = write->value,
                      .data_size = write->value_size},
        .request = {.call = {.timeout_ms = left < write->timeout_ms ? left : write->timeout_ms}, .operation_count = 1},
    };
    writing.request.operations = &writing.operation;
    return inner_run(self->inner, start_write, &writing) ? writing.status : SLUICE_CLOSED;
}

static void start_cursor(struct sluice_client *client, struct inner_call *call)
{
    struct writing *writing = call->arg;
    writing->call = call;
    sluice__cursor(client, writing->lambda, writing->shard, writing->revision, written, writing);
}

static enum sluice_status move_cursor(void *arg, const char *lambda, uint32_t shard, uint64_t epoch, uint64_t revision)
{
    struct node__lambdas *self = arg;
    struct writing writing = {.lambda = lambda, .shard = shard, .revision = revision};
    (void)epoch;
    return inner_run(self->inner, start_cursor, &writing) ? writing.status : SLUICE_CLOSED;
}

/* ---- news ---- */

static void nothing(struct node *node, void *arg)
{
    (void)node;
    (void)arg;
}

/* The flag is what counts; the task only wakes the reactor, which is awake where its queue is full. */
static void room(void *arg, uint64_t tag)
{
    struct node__lambdas *self = arg;
    (void)tag;
    atomic_store(&self->room, true);
    (void)node__post(self->node, nothing, NULL);
}

static void changed(void *arg)
{
    struct node__lambdas *self = arg;
    atomic_store(&self->changed, true);
    (void)node__post(self->node, nothing, NULL);
}

struct lambda_env lambda_env__make(struct node__lambdas *self)
{
    return (struct lambda_env){
        .arg = self,
        .get = get,
        .list = list,
        .history = history,
        .snapshot = snapshot,
        .write = write_effect,
        .cursor = move_cursor,
        .fetch = fetch,
        .release = release,
        .room = room,
        .changed = changed,
    };
}

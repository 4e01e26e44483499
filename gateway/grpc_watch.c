/* sluice.v1.Store.Watch. Clients that watch the same pattern from now on share one watch at the store, a hub. Who comes
 * with a cursor has a watch of its own, and so has who reads too slowly for the hub: it leaves, and goes on from its
 * cursor once it has read what waits for it. Nothing waits for a client without bound. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/clock.h"
#include "core/base/panic.h"
#include "core/base/pattern.h"
#include "gateway/convert.h"
#include "gateway/grpc__.h"

#define READY_NS         (5 * NS_PER_S) /* for all shards to be reached */
#define CURSOR_BYTES_MAX 512

struct rpc_hub {
    struct rpc_shared *shared;
    struct rpc_hub *previous, *next;
    struct sluice_watch *watch; /* NULL: ended */
    struct watch *watchers;
    bool values, admin;
    bool ready;
    bool handling; /* an event is being handed out: watchers leave, the hub stays */
    int kind;
    uint64_t closed_ns;
    char cursor[CURSOR_BYTES_MAX + 1]; /* after what was handed out; empty: none yet */
    size_t pattern_size;
    char pattern[];
};

struct watch {
    struct rpc *rpc;
    struct sluice_watch_options options; /* borrows from the request */
    struct rpc_hub *hub;                 /* NULL: none */
    struct watch *previous, *next;       /* of the hub's */
    struct sluice_watch *own;            /* NULL: none */
    char *cursor;                        /* behind the hub: to go on from; else NULL */
    struct gateway_timer timer;          /* until all shards are reached */
    bool opened;
    bool paused; /* the own watch */
};

/* --- One client --------------------------------------------------------------------------------------------------*/

static void hub_leave(struct watch *self);
static void on_own_event(void *arg, const struct sluice_watch_event *event);

static struct sluice_client *client_of(const struct watch *self)
{
    return gateway__client(self->rpc->shared->gateway);
}

/* Stops what feeds it, and ends the call. */
static void watch_finish(struct watch *self, enum sluice_status status, const char *detail)
{
    gateway__timer_clear(self->rpc->shared->gateway, &self->timer);
    hub_leave(self);
    if (self->own != NULL)
        sluice_watch_stop(self->own);
    self->own = NULL;
    rpc_fail(self->rpc, status != SLUICE_OK ? status : SLUICE_UNAVAILABLE, detail);
}

static void watch_release(void *state)
{
    struct watch *self = state;
    free(self->cursor);
    free(self);
}

static enum sluice_status copy_message(const struct rpc_message *from, struct rpc_message *out)
{
    *out = (struct rpc_message){.data = from->data, .data_size = from->data_size};
    if (from->value != NULL)
        out->value = sluice_value_ref(from->value);
    enum sluice_status status = bytes_append(&out->head, from->head.data, from->head.size);
    if (status != SLUICE_OK)
        rpc_message_free(out);
    return status;
}

/* The headers, and the place that a client goes on from which breaks off before the first change. */
static void watch_open(struct watch *self, const char *cursor, uint64_t closed_ns)
{
    struct rpc_message message = {0};
    struct sluice_watch_event event = {.type = SLUICE_WATCH_PROGRESS, .cursor = cursor, .closed_ns = closed_ns};
    if (self->opened)
        return;
    self->opened = true;
    gateway__timer_clear(self->rpc->shared->gateway, &self->timer);
    rpc_open(self->rpc);
    if (cursor == NULL || cursor[0] == '\0')
        return;
    if (convert_watch_event(&event, false, &message) == SLUICE_OK)
        rpc_send(self->rpc, &message);
    else
        rpc_message_free(&message); /* the next progress tells it as well */
}

static enum sluice_status start_own(struct watch *self, const char *cursor, char error[256])
{
    struct sluice_watch_options options = self->options;
    options.cursor = cursor;
    error[0] = '\0';
    return sluice_watch_start(client_of(self), &options, on_own_event, self, &self->own, error);
}

static void on_own_event(void *arg, const struct sluice_watch_event *event)
{
    struct watch *self = arg;
    struct rpc_message message = {0};
    if (event->type == SLUICE_WATCH_END) {
        self->own = NULL;
        watch_finish(self, event->status, event->detail);
        return;
    }
    if (event->type == SLUICE_WATCH_READY) {
        watch_open(self, event->cursor, event->closed_ns);
        return;
    }
    /* What is past may come before all shards are reached. */
    watch_open(self, NULL, 0);
    if (convert_watch_event(event, self->options.values, &message) != SLUICE_OK) {
        rpc_message_free(&message);
        watch_finish(self, SLUICE_MEMORY, "no memory for an event: resume from the last cursor");
        return;
    }
    if (!rpc_send(self->rpc, &message) && !self->paused) {
        self->paused = true;
        sluice_watch_pause(self->own);
    }
}

/* --- A hub -------------------------------------------------------------------------------------------------------*/

static void hub_free(struct rpc_hub *self)
{
    ASSERT(self->watchers == NULL);
    if (self->watch != NULL)
        sluice_watch_stop(self->watch);
    if (self->previous != NULL)
        self->previous->next = self->next;
    else
        self->shared->hubs = self->next;
    if (self->next != NULL)
        self->next->previous = self->previous;
    free(self);
}

static void hub_leave(struct watch *watch)
{
    struct rpc_hub *self = watch->hub;
    if (self == NULL)
        return;
    if (watch->previous != NULL)
        watch->previous->next = watch->next;
    else
        self->watchers = watch->next;
    if (watch->next != NULL)
        watch->next->previous = watch->previous;
    watch->hub = NULL;
    watch->previous = watch->next = NULL;
    if (self->watchers == NULL && !self->handling)
        hub_free(self);
}

static void keep_place(struct rpc_hub *self, const struct sluice_watch_event *event)
{
    if (event->cursor != NULL)
        snprintf(self->cursor, sizeof(self->cursor), "%s", event->cursor);
    if (event->closed_ns > self->closed_ns)
        self->closed_ns = event->closed_ns;
}

/* It has all that was handed out, the message included. */
static void fall_behind(struct watch *watch, const char *cursor)
{
    hub_leave(watch);
    watch->cursor = cursor[0] != '\0' ? strdup(cursor) : NULL;
    if (watch->cursor == NULL)
        watch_finish(watch, SLUICE_UNAVAILABLE, "the client reads too slowly: resume from the last cursor");
}

static void hub_deliver(struct rpc_hub *self, const struct sluice_watch_event *event)
{
    struct rpc_message message = {0}, copy;
    bool failed = convert_watch_event(event, self->values, &message) != SLUICE_OK;
    keep_place(self, event);
    for (struct watch *watch = self->watchers, *next; watch != NULL; watch = next) {
        next = watch->next;
        watch_open(watch, NULL, 0);
        if (failed || copy_message(&message, &copy) != SLUICE_OK)
            watch_finish(watch, SLUICE_MEMORY, "no memory for an event: resume from the last cursor");
        else if (!rpc_send(watch->rpc, &copy))
            fall_behind(watch, self->cursor);
    }
    rpc_message_free(&message);
}

static void on_hub_event(void *arg, const struct sluice_watch_event *event)
{
    struct rpc_hub *self = arg;
    self->handling = true;
    if (event->type == SLUICE_WATCH_END) {
        self->watch = NULL;
        while (self->watchers != NULL)
            watch_finish(self->watchers, event->status, event->detail);
    } else if (event->type == SLUICE_WATCH_READY) {
        self->ready = true;
        keep_place(self, event);
        for (struct watch *watch = self->watchers; watch != NULL; watch = watch->next)
            watch_open(watch, self->cursor, self->closed_ns);
    } else {
        hub_deliver(self, event);
    }
    self->handling = false;
    if (self->watchers == NULL)
        hub_free(self);
}

static struct rpc_hub *hub_find(const struct watch *watch)
{
    const struct sluice_watch_options *wanted = &watch->options;
    for (struct rpc_hub *hub = watch->rpc->shared->hubs; hub != NULL; hub = hub->next)
        if (hub->kind == wanted->kind && hub->values == wanted->values && hub->admin == wanted->admin &&
            hub->pattern_size == wanted->pattern_size && memcmp(hub->pattern, wanted->pattern, hub->pattern_size) == 0)
            return hub;
    return NULL;
}

static enum sluice_status hub_create(const struct watch *watch, struct rpc_hub **out, char error[256])
{
    struct rpc_shared *shared = watch->rpc->shared;
    struct sluice_watch_options options = watch->options;
    struct rpc_hub *self = calloc(1, sizeof(*self) + options.pattern_size);
    if (self == NULL) {
        snprintf(error, 256, "no memory");
        return SLUICE_MEMORY;
    }
    *self = (struct rpc_hub){.shared = shared,
                             .values = options.values,
                             .admin = options.admin,
                             .kind = options.kind,
                             .pattern_size = options.pattern_size};
    memcpy(self->pattern, options.pattern, options.pattern_size);
    options.pattern = self->pattern;
    enum sluice_status status = sluice_watch_start(client_of(watch), &options, on_hub_event, self, &self->watch, error);
    if (status != SLUICE_OK) {
        free(self);
        return status;
    }
    self->next = shared->hubs;
    if (self->next != NULL)
        self->next->previous = self;
    shared->hubs = self;
    *out = self;
    return SLUICE_OK;
}

static enum sluice_status hub_join(struct watch *watch, char error[256])
{
    struct rpc_hub *hub = hub_find(watch);
    if (hub == NULL) {
        enum sluice_status status = hub_create(watch, &hub, error);
        if (status != SLUICE_OK)
            return status;
    }
    watch->hub = hub;
    watch->next = hub->watchers;
    if (watch->next != NULL)
        watch->next->previous = watch;
    hub->watchers = watch;
    if (hub->ready)
        watch_open(watch, hub->cursor, hub->closed_ns);
    return SLUICE_OK;
}

/* --- The call ----------------------------------------------------------------------------------------------------*/

static void on_not_ready(struct gateway_timer *timer)
{
    struct watch *self = (struct watch *)(void *)((char *)timer - offsetof(struct watch, timer));
    watch_finish(self, SLUICE_UNAVAILABLE, "the watch did not reach all shards in time; try again");
}

/* There is room again, or it was thought so. */
static void watch_ready(struct rpc *rpc)
{
    struct watch *self = rpc->state;
    if (self->paused) {
        self->paused = false;
        sluice_watch_resume(self->own);
    }
    if (self->cursor == NULL)
        return;
    char error[256];
    char *cursor = self->cursor;
    self->cursor = NULL;
    enum sluice_status status = start_own(self, cursor, error);
    free(cursor);
    if (status != SLUICE_OK)
        watch_finish(self, status, error);
}

static void watch_gone(struct rpc *rpc)
{
    watch_finish(rpc->state, SLUICE_UNAVAILABLE,
                 "this gateway ends its streams: resume from the last cursor, here or at another");
}

/* All that can match begins with these bytes: what a token must allow. */
static enum sluice_status watch_allowed(const struct rpc *rpc, struct sluice_watch_options *options, char error[256])
{
    struct pattern *pattern;
    const char *why = NULL;
    enum sluice_status status =
        pattern_compile(options->kind, options->pattern, options->pattern_size, &pattern, error, 256);
    if (status != SLUICE_OK)
        return status;
    size_t size;
    const char *prefix = pattern_prefix(pattern, &size);
    status = options->kind == SLUICE__V1__WATCH_REQUEST__PATTERN_KEY
                 ? auth_key(rpc->subject, AUTH_READ, options->pattern, options->pattern_size, &why)
                 : auth_prefix(rpc->subject, AUTH_READ, prefix, size, &why);
    options->admin = auth_internal(prefix, size);
    pattern_destroy(pattern);
    if (status != SLUICE_OK)
        snprintf(error, 256, "%s", why);
    return status;
}

static void watch_start(struct rpc *rpc)
{
    struct sluice_watch_options options;
    char error[256];
    const char *wrong = convert_watch((const Sluice__V1__WatchRequest *)rpc->request, &options);
    enum sluice_status status = wrong != NULL ? SLUICE_INVALID : watch_allowed(rpc, &options, error);
    if (status != SLUICE_OK) {
        rpc_fail(rpc, status, wrong != NULL ? wrong : error);
        return;
    }
    struct watch *self = calloc(1, sizeof(*self));
    if (self == NULL) {
        rpc_fail(rpc, SLUICE_MEMORY, NULL);
        return;
    }
    *self = (struct watch){.rpc = rpc, .options = options, .timer.run = on_not_ready};
    rpc->state = self;
    gateway__timer_set(rpc->shared->gateway, &self->timer, clock_monotonic_ns() + READY_NS);
    status = options.cursor != NULL ? start_own(self, options.cursor, error) : hub_join(self, error);
    if (status != SLUICE_OK)
        watch_finish(self, status, error);
}

const struct rpc_method rpc_watch_methods[] = {
    {.path = "/sluice.v1.Store/Watch",
     .request = &sluice__v1__watch_request__descriptor,
     .request_bytes_max = RPC_SMALL_BYTES_MAX,
     .start = watch_start,
     .ready = watch_ready,
     .gone = watch_gone,
     .release = watch_release},
};
const size_t rpc_watch_method_count = sizeof(rpc_watch_methods) / sizeof(rpc_watch_methods[0]);

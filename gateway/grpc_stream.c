/* sluice.v1.Store's streams: History, page by page, and Watch. Neither runs ahead of a client that reads slowly. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/pattern.h"
#include "gateway/convert.h"
#include "gateway/grpc__.h"

/* --- History -----------------------------------------------------------------------------------------------------*/

/* Versions of one page: with values as many as make up about this many bytes, as far as the last page tells. */
#define PAGE_BYTES   ((uint64_t)512 << 10)
#define PAGE_RECORDS 1000u
#define PAGE_FIRST   8u

struct history {
    struct sluice_history request;
    char *cursor;
    uint32_t left; /* UINT32_MAX: all */
    uint32_t page;
    bool asking; /* the store's answer is due */
    bool gone;
};

static void history_release(void *state)
{
    struct history *self = state;
    free(self->cursor);
    free(self);
}

static void history_ask(struct rpc *rpc);

/* Adapts to what the versions weigh, so that neither a page nor the number of pages grows without need. */
static uint32_t page_next(uint32_t page, const struct sluice_answer *answer)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < answer->object_count; i++)
        bytes += answer->objects[i].data_size;
    if (answer->object_count == 0)
        return page;
    uint64_t fitting = PAGE_BYTES / (bytes / answer->object_count + 64);
    uint64_t most = (uint64_t)page * 4 < PAGE_RECORDS ? (uint64_t)page * 4 : PAGE_RECORDS;
    return fitting < 1 ? 1 : fitting > most ? (uint32_t)most : (uint32_t)fitting;
}

static void history_page(void *arg, const struct sluice_answer *answer)
{
    struct rpc *rpc = arg;
    struct history *self = rpc->state;
    self->asking = false;
    if (self->gone) {
        rpc_fail(rpc, SLUICE_UNAVAILABLE, "the call was given up");
        return;
    }
    if (answer->status != SLUICE_OK) {
        rpc_fail_answer(rpc, answer);
        return;
    }
    bool room = true;
    for (size_t i = 0; i < answer->object_count && self->left > 0; i++) {
        struct rpc_message message = {0};
        enum sluice_status status = convert_object(&answer->objects[i], &message);
        if (status != SLUICE_OK) {
            rpc_message_free(&message);
            rpc_fail(rpc, status, NULL);
            return;
        }
        room = rpc_send(rpc, &message);
        self->left -= self->left != UINT32_MAX;
    }
    free(self->cursor);
    self->cursor = NULL;
    if (answer->cursor == NULL || self->left == 0) {
        rpc_succeed(rpc, NULL);
        return;
    }
    self->cursor = strdup(answer->cursor);
    if (self->cursor == NULL) {
        rpc_fail(rpc, SLUICE_MEMORY, NULL);
        return;
    }
    if (self->request.values)
        self->page = page_next(self->page, answer);
    if (room)
        history_ask(rpc);
}

static void history_ask(struct rpc *rpc)
{
    struct history *self = rpc->state;
    struct sluice_history *request = &self->request;
    request->call = rpc_call(rpc);
    request->call.admin = auth_internal(request->key, request->key_size);
    request->cursor = self->cursor;
    request->limit = self->left < self->page ? self->left : self->page;
    self->asking = true;
    sluice_history(gateway__client(rpc->shared->gateway), request, history_page, rpc);
}

/* May come late, when the next page is on its way already. */
static void history_ready(struct rpc *rpc)
{
    struct history *self = rpc->state;
    if (!self->asking)
        history_ask(rpc);
}

static void history_start(struct rpc *rpc)
{
    const Sluice__V1__HistoryRequest *message = (const Sluice__V1__HistoryRequest *)rpc->request;
    struct sluice_history request;
    const char *error = convert_history(message, &request), *why = NULL;
    enum sluice_status status = SLUICE_INVALID;
    if (error == NULL)
        status = auth_key(rpc->subject, AUTH_READ, request.key, request.key_size, &why);
    if (status != SLUICE_OK) {
        rpc_fail(rpc, status, error != NULL ? error : why);
        return;
    }
    struct history *self = calloc(1, sizeof(*self));
    if (self == NULL) {
        rpc_fail(rpc, SLUICE_MEMORY, NULL);
        return;
    }
    /* What the request points to lives as long as the call. */
    *self = (struct history){.request = request,
                             .left = message->limit > 0 ? message->limit : UINT32_MAX,
                             .page = request.values ? PAGE_FIRST : PAGE_RECORDS};
    rpc->state = self;
    history_ask(rpc);
}

static void history_gone(struct rpc *rpc)
{
    struct history *self = rpc->state;
    self->gone = true;
    if (!self->asking)
        rpc_fail(rpc, SLUICE_UNAVAILABLE, "the call was given up");
}

/* --- Watch -------------------------------------------------------------------------------------------------------*/

struct watch {
    struct sluice_watch *watch;
    bool values;
    bool paused;
};

static void watch_event(void *arg, const struct sluice_watch_event *event)
{
    struct rpc *rpc = arg;
    struct watch *self = rpc->state;
    if (event->type == SLUICE_WATCH_READY) {
        rpc_open(rpc);
        return;
    }
    if (event->type == SLUICE_WATCH_END) {
        self->watch = NULL;
        rpc_fail(rpc, event->status != SLUICE_OK ? event->status : SLUICE_UNAVAILABLE, event->detail);
        return;
    }
    struct rpc_message message = {0};
    enum sluice_status status = convert_watch_event(event, self->values, &message);
    if (status != SLUICE_OK) {
        rpc_message_free(&message);
        sluice_watch_stop(self->watch);
        rpc_fail(rpc, status, "no memory for an event: resume from the last cursor");
        return;
    }
    if (!rpc_send(rpc, &message) && !self->paused) {
        self->paused = true;
        sluice_watch_pause(self->watch);
    }
}

static void watch_ready(struct rpc *rpc)
{
    struct watch *self = rpc->state;
    if (!self->paused)
        return;
    self->paused = false;
    sluice_watch_resume(self->watch);
}

static void watch_gone(struct rpc *rpc)
{
    struct watch *self = rpc->state;
    sluice_watch_stop(self->watch);
    rpc_fail(rpc, SLUICE_UNAVAILABLE, "this gateway ends its streams: resume from the last cursor, here or at another");
}

/* All that can match begins with these bytes: what a token must allow. */
static enum sluice_status watch_allowed(const struct rpc *rpc, struct sluice_watch_options *options, char *error,
                                        size_t error_size)
{
    struct pattern *pattern;
    const char *why = NULL;
    enum sluice_status status =
        pattern_compile(options->kind, options->pattern, options->pattern_size, &pattern, error, error_size);
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
        snprintf(error, error_size, "%s", why);
    return status;
}

static void watch_start(struct rpc *rpc)
{
    struct sluice_watch_options options;
    char text[256];
    const char *error = convert_watch((const Sluice__V1__WatchRequest *)rpc->request, &options);
    enum sluice_status status = SLUICE_INVALID;
    if (error == NULL) {
        status = watch_allowed(rpc, &options, text, sizeof(text));
        error = text;
    }
    if (status != SLUICE_OK) {
        rpc_fail(rpc, status, error);
        return;
    }
    struct watch *self = calloc(1, sizeof(*self));
    if (self == NULL) {
        rpc_fail(rpc, SLUICE_MEMORY, NULL);
        return;
    }
    self->values = options.values;
    rpc->state = self;
    status = sluice_watch_start(gateway__client(rpc->shared->gateway), &options, watch_event, rpc, &self->watch, text);
    if (status != SLUICE_OK)
        rpc_fail(rpc, status, text);
}

const struct rpc_method rpc_stream_methods[] = {
    {.path = "/sluice.v1.Store/History",
     .request = &sluice__v1__history_request__descriptor,
     .request_bytes_max = RPC_SMALL_BYTES_MAX,
     .start = history_start,
     .ready = history_ready,
     .gone = history_gone,
     .release = history_release},
    {.path = "/sluice.v1.Store/Watch",
     .request = &sluice__v1__watch_request__descriptor,
     .request_bytes_max = RPC_SMALL_BYTES_MAX,
     .start = watch_start,
     .ready = watch_ready,
     .gone = watch_gone,
     .release = free},
};
const size_t rpc_stream_method_count = sizeof(rpc_stream_methods) / sizeof(rpc_stream_methods[0]);

/* sluice.v1.Store.History: page by page, never ahead of a client that reads slowly. */
#include <stdlib.h>
#include <string.h>

#include "gateway/convert.h"
#include "gateway/grpc__.h"

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

const struct rpc_method rpc_history_methods[] = {
    {.path = "/sluice.v1.Store/History",
     .request = &sluice__v1__history_request__descriptor,
     .request_bytes_max = RPC_SMALL_BYTES_MAX,
     .start = history_start,
     .ready = history_ready,
     .gone = history_gone,
     .release = history_release},
};
const size_t rpc_history_method_count = sizeof(rpc_history_methods) / sizeof(rpc_history_methods[0]);

/* Calls in the gateway's loop: how they get there from gRPC's thread, and the order of their handlers. */
#include <string.h>

#include "core/base/clock.h"
#include "core/base/panic.h"
#include "gateway/grpc__.h"

#define CALL_TIMEOUT_MS_MAX 60000u
#define RETRY_MS            100u

static void link_started(struct rpc *self)
{
    struct rpc_shared *shared = self->shared;
    self->has_started = true;
    self->next = shared->started;
    if (self->next != NULL)
        self->next->previous = self;
    shared->started = self;
}

void rpc__unlink(struct rpc *self)
{
    if (!self->has_started)
        return;
    if (self->previous != NULL)
        self->previous->next = self->next;
    else
        self->shared->started = self->next;
    if (self->next != NULL)
        self->next->previous = self->previous;
    self->previous = self->next = NULL;
}

static void attend_one(struct rpc *self, unsigned attention)
{
    const struct rpc_method *method = self->method;
    /* Once a call was handed over, nobody but its handlers, in this thread, finishes it. */
    if (self->over)
        return;
    if (!self->has_started) {
        if ((attention & RPC_ATTEND_GONE) || self->shared->stopping) {
            rpc_fail(self, SLUICE_UNAVAILABLE, "the call was given up before it began; nothing was applied");
            return;
        }
        ASSERT(attention & RPC_ATTEND_START);
        link_started(self);
        method->start(self);
        return;
    }
    if ((attention & RPC_ATTEND_GONE) && method->gone != NULL)
        method->gone(self);
    else if ((attention & RPC_ATTEND_READY) && method->ready != NULL)
        method->ready(self);
}

static void attend_all(struct gateway_job *job)
{
    struct rpc_shared *self = (struct rpc_shared *)(void *)((char *)job - offsetof(struct rpc_shared, attend_job));
    pthread_mutex_lock(&self->lock);
    struct rpc *first = self->attend_first;
    self->attend_first = self->attend_last = NULL;
    self->attend_posted = false;
    pthread_mutex_unlock(&self->lock);

    while (first != NULL) {
        struct rpc *rpc = first;
        pthread_mutex_lock(&self->lock);
        first = rpc->attend_next;
        unsigned attention = rpc->attention;
        rpc->attention = 0;
        rpc->attended = false;
        pthread_mutex_unlock(&self->lock);
        attend_one(rpc, attention);
        rpc__unref(rpc);
    }
    rpc__shared_unref(self);
}

/* One job carries all that waits by the time it runs. */
void rpc__attend(struct rpc *self, enum rpc_attention attention)
{
    struct rpc_shared *shared = self->shared;
    pthread_mutex_lock(&shared->lock);
    self->attention |= attention;
    if (!self->attended) {
        rpc__ref(self);
        self->attended = true;
        self->attend_next = NULL;
        if (shared->attend_last != NULL)
            shared->attend_last->attend_next = self;
        else
            shared->attend_first = self;
        shared->attend_last = self;
    }
    if (!shared->attend_posted) {
        /* Where the loop has no room, the next call that needs it tries again. */
        shared->attend_job.run = attend_all;
        rpc__shared_ref(shared);
        shared->attend_posted = gateway__post(shared->gateway, &shared->attend_job);
        if (!shared->attend_posted)
            rpc__shared_unref(shared);
    }
    pthread_mutex_unlock(&shared->lock);
}

void rpc__gone_all(struct rpc_shared *shared)
{
    for (struct rpc *rpc = shared->started, *next; rpc != NULL; rpc = next) {
        next = rpc->next; /* a handler finishes no call but its own */
        if (rpc->method->gone != NULL)
            rpc->method->gone(rpc);
    }
}

/* --- Shorthands --------------------------------------------------------------------------------------------------*/

void rpc_succeed(struct rpc *self, struct rpc_message *message)
{
    rpc_finish(self, &(struct rpc_outcome){.status = SLUICE_OK}, message);
}

void rpc_fail(struct rpc *self, enum sluice_status status, const char *detail)
{
    ASSERT(status != SLUICE_OK);
    struct rpc_outcome outcome = {.status = status, .detail = detail};
    if (status == SLUICE_BUSY)
        outcome.retry_after_ms = RETRY_MS;
    rpc_finish(self, &outcome, NULL);
}

void rpc_fail_answer(struct rpc *self, const struct sluice_answer *answer)
{
    ASSERT(answer->status != SLUICE_OK);
    struct rpc_outcome outcome = {.status = answer->status,
                                  .detail = answer->detail,
                                  .json = answer->json,
                                  .retry_after_ms = answer->retry_after_ms};
    if (answer->status == SLUICE_DELETED && answer->object_count > 0)
        outcome.version = answer->objects[0].version;
    rpc_finish(self, &outcome, NULL);
}

struct sluice_call rpc_call(const struct rpc *self)
{
    struct sluice_call out = {.after_ns = self->after_ns};
    if (self->deadline_ns != UINT64_MAX) {
        uint64_t now = clock_monotonic_ns();
        uint64_t left_ms = self->deadline_ns > now ? (self->deadline_ns - now) / NS_PER_MS : 0;
        out.timeout_ms = left_ms < 1 ? 1 : left_ms > CALL_TIMEOUT_MS_MAX ? CALL_TIMEOUT_MS_MAX : (uint32_t)left_ms;
    }
    return out;
}

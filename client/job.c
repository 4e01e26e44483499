/* One call of the user's: counted, bounded in time, answered exactly once. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/client__.h"

static void say_verdict(struct timer *timer)
{
    struct job *self = LIST__OF(timer, struct job, verdict);
    job__fail(self, self->status, self->detail);
}

void *job__create(struct sluice_client *client, size_t size, const struct sluice_call *call, sluice_done done,
                  void *arg, void (*deinit)(struct job *self))
{
    struct job *self = calloc(1, size);
    if (self == NULL) {
        /* Nothing can be put off without memory. */
        const struct sluice_answer answer = {.status = SLUICE_MEMORY, .detail = sluice_status_text(SLUICE_MEMORY)};
        done(arg, &answer);
        return NULL;
    }
    uint32_t timeout_ms = call->timeout_ms == 0                      ? client->timeout_ms
                          : call->timeout_ms > CLIENT_TIMEOUT_MS_MAX ? CLIENT_TIMEOUT_MS_MAX
                                                                     : call->timeout_ms;
    self->client = client;
    self->done = done;
    self->arg = arg;
    self->deadline_ns = clock_monotonic_ns() + timeout_ms * NS_PER_MS;
    self->after = call->after_ns;
    self->admin = call->admin;
    self->deinit = deinit;
    self->verdict.fire = say_verdict;
    list__init(&self->waiter.link);
    list__append(&client->jobs, &self->link);
    client->in_flight++;
    client->figures.calls++;
    if (client->closing) {
        job__refuse(self, SLUICE_UNAVAILABLE, "the client is being closed; nothing was applied");
        return NULL;
    }
    if (client->in_flight > client->in_flight_max) {
        job__refuse(self, SLUICE_BUSY, "%u calls are in flight, as many as this client takes; try again in a moment",
                    client->in_flight_max);
        return NULL;
    }
    return self;
}

void job__refuse(struct job *self, enum sluice_status status, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(self->detail, sizeof(self->detail), format, arguments);
    va_end(arguments);
    self->status = status;
    timer__set(&self->client->timers, &self->verdict, clock_monotonic_ns());
}

static void map_changed(struct map_waiter *waiter)
{
    struct job *self = LIST__OF(waiter, struct job, waiter);
    if (self->mapped != NULL && !self->mapped(self))
        return;
    list__remove(&self->waiter.link);
    timer__stop(&self->client->timers, &self->verdict);
    self->go(self);
}

void job__when_mapped(struct job *self, bool (*mapped)(struct job *self), void (*go)(struct job *self))
{
    if (self->client->map != NULL && (mapped == NULL || mapped(self))) {
        go(self);
        return;
    }
    self->mapped = mapped;
    self->go = go;
    self->waiter.changed = map_changed;
    list__append(&self->client->map_waiters, &self->waiter.link);
    self->status = SLUICE_UNAVAILABLE;
    snprintf(self->detail, sizeof(self->detail), "%s",
             self->client->map == NULL
                 ? "no core node could be reached before the deadline; nothing was applied, try again"
                 : "the cluster map did not change in time; try again");
    timer__set(&self->client->timers, &self->verdict, self->deadline_ns);
}

static void begin_later(struct timer *timer)
{
    struct job *self = LIST__OF(timer, struct job, verdict);
    self->verdict.fire = say_verdict;
    job__when_mapped(self, NULL, self->go);
}

void job__later(struct job *self, void (*go)(struct job *self))
{
    self->go = go;
    self->verdict.fire = begin_later;
    timer__set(&self->client->timers, &self->verdict, clock_monotonic_ns());
}

static void remove_job(struct job *self)
{
    list__remove(&self->link);
    list__remove(&self->waiter.link);
    timer__stop(&self->client->timers, &self->verdict);
    self->client->in_flight--;
}

void job__answer(struct job *self, const struct sluice_answer *answer)
{
    /* The answer may lie in the job, so that it is freed after the callback; nobody can find it any more by then. */
    remove_job(self);
    self->done(self->arg, answer);
    if (self->deinit != NULL)
        self->deinit(self);
    free(self);
}

static uint32_t retry_after_ms(enum sluice_status status)
{
    return status == SLUICE_BUSY ? 100 : status == SLUICE_UNAVAILABLE ? 1000 : 0;
}

void job__fail(struct job *self, enum sluice_status status, const char *detail)
{
    const struct sluice_answer answer = {
        .status = status,
        .detail = detail,
        .at_ns = self->client->seen_time,
        .retry_after_ms = retry_after_ms(status),
    };
    job__answer(self, &answer);
}

void job__fail_reply(struct job *self, const struct reply *reply)
{
    /* What only client and node understand is not for users. */
    if (reply->status == SLUICE_STALE_MAP || reply->status == SLUICE_NOT_LEADER)
        job__fail(self, SLUICE_UNAVAILABLE, "the cluster map changed meanwhile; nothing was applied, try again");
    else
        job__fail(self, reply->status, reply->detail);
}

void job__answer_json(struct job *self, enum sluice_status status, const char *detail, const char *json)
{
    const struct sluice_answer answer = {
        .status = status,
        .detail = detail,
        .at_ns = self->client->seen_time,
        .json = json,
        .retry_after_ms = retry_after_ms(status),
        .durable = true,
    };
    job__answer(self, &answer);
}

void job__ask(struct job *self, struct ask *ask, enum wire_type type,
              void (*done)(struct ask *self, const struct reply *reply))
{
    *ask = (struct ask){
        .client = self->client,
        .type = (uint8_t)type,
        .flags = self->admin ? WIRE_FLAG_ADMIN : 0,
        .after = self->after,
        .deadline_ns = self->deadline_ns,
        .done = done,
        .owner = self,
    };
}

void job__nothing(void *arg, const struct sluice_answer *answer)
{
    (void)arg;
    (void)answer;
}

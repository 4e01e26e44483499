/* Opening, closing, and the turn of the wheel. */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/client__.h"
#include "core/base/panic.h"

#define POLL_BUDGET 1024u

uint64_t client__cluster_time(const struct sluice_client *self)
{
    /* A client's wall clock may be wrong by more than the nodes bear; what they said last, and the time since, is not.
     */
    if (self->now_time_at == 0)
        return clock_realtime_ns();
    return self->now_time + (clock_monotonic_ns() - self->now_time_at);
}

void client__saw_time(struct sluice_client *self, uint64_t time)
{
    if (time <= self->seen_time)
        return;
    self->seen_time = time;
    if (self->now_time_at == 0 || time > client__cluster_time(self)) {
        self->now_time = time;
        self->now_time_at = clock_monotonic_ns();
    }
}

static enum sluice_status open_fabric(struct sluice_client *self, const struct sluice_tls *files, char *error,
                                      size_t error_size)
{
    struct fabric_options options = {
        .size = sizeof(options),
        .identity = {.role = FABRIC_ROLE_CLIENT, .incarnation = self->id},
        .spin_ns = UINT32_MAX,
    };
    enum sluice_status status =
        fabric_tls_create(files->ca, files->certificate, files->key, &options.tls, error, error_size);
    if (status != SLUICE_OK)
        return status;
    status = fabric_create(&options, &self->fabric);
    fabric_tls_destroy(options.tls);
    return status;
}

enum sluice_status sluice_open(const struct sluice_options *options, struct sluice_client **out)
{
    if (options->size < sizeof(struct sluice_options) || options->node_count == 0)
        return SLUICE_INVALID;
    char nowhere[256], *error = options->error ? options->error : nowhere;
    size_t error_size = options->error ? options->error_size : sizeof(nowhere);
    (void)snprintf(error, error_size, "no memory or descriptors");
    enum sluice_status status = SLUICE_MEMORY;
    struct sluice_client *self = calloc(1, sizeof(*self));
    if (self == NULL)
        return status;
    list__init(&self->peers);
    list__init(&self->map_waiters);
    list__init(&self->waiting);
    list__init(&self->jobs);
    list__init(&self->watches);
    list__init(&self->sequences);
    self->map_again.fire = route__map_again;
    random_seed(&self->random, random_os());
    while (self->id == 0)
        self->id = random_os();
    self->timeout_ms = options->timeout_ms == 0                      ? CLIENT_TIMEOUT_MS_DEFAULT
                       : options->timeout_ms > CLIENT_TIMEOUT_MS_MAX ? CLIENT_TIMEOUT_MS_MAX
                                                                     : options->timeout_ms;
    self->in_flight_max = options->in_flight_max == 0 ? CLIENT_IN_FLIGHT_MAX : options->in_flight_max;
    self->prefer_tcp = options->prefer_tcp;
    status = open_fabric(self, &options->tls, error, error_size);
    if (status != SLUICE_OK)
        goto fail;
    status = link__open_seeds(self, options);
    if (status != SLUICE_OK) {
        (void)snprintf(error, error_size, "addresses like shm:NAME or tcp:HOST:PORT were expected; came: %s",
                       options->nodes[0]);
        goto fail_after_fabric;
    }
    *out = self;
    return SLUICE_OK;

fail_after_fabric:
    link__close_all(self);
    fabric_destroy(self->fabric);
fail:
    free(self);
    return status;
}

void sluice_close(struct sluice_client *client)
{
    if (client == NULL)
        return;
    ASSERT(!client->processing);
    /* Callbacks may start further calls; those are refused, and answered here too. */
    client->closing = true;
    watch__close_all(client);
    while (!list__empty(&client->jobs)) {
        struct job *job = LIST__OF(client->jobs.next, struct job, link);
        enum sluice_status status = job->closed == NULL ? SLUICE_UNAVAILABLE : job->closed(job);
        job__fail(job, status,
                  status == SLUICE_OUTCOME_UNKNOWN ? "the client was closed while the write was under way; it may have "
                                                     "been applied: repeat it with the same key"
                                                   : "the client was closed; nothing was applied");
    }
    /* Routes first: they may be asking a peer who leads. */
    route__drop_map(client);
    link__close_all(client);
    fabric_destroy(client->fabric);
    free(client->slots);
    free(client);
}

int sluice_fd(const struct sluice_client *client)
{
    return fabric_fd(client->fabric);
}

uint64_t sluice_timeout_ns(const struct sluice_client *client)
{
    const struct timer *first = timer__first(&client->timers);
    if (first == NULL)
        return UINT64_MAX;
    uint64_t now = clock_monotonic_ns();
    return first->at_ns > now ? first->at_ns - now : 0;
}

bool sluice_arm(struct sluice_client *client)
{
    fabric_flush(client->fabric);
    return sluice_timeout_ns(client) > 0 && fabric_arm(client->fabric);
}

static void run_timers(struct sluice_client *self)
{
    /* A timer that is set again for now waits for the next turn, so that this ends. */
    uint64_t now = clock_monotonic_ns();
    for (struct timer *timer = timer__first(&self->timers); timer != NULL && timer->at_ns <= now;
         timer = timer__first(&self->timers)) {
        timer__stop(&self->timers, timer);
        timer->fire(timer);
    }
}

void sluice_process(struct sluice_client *client)
{
    ASSERT(!client->processing);
    client->processing = true;
    run_timers(client);
    (void)fabric_poll(client->fabric, POLL_BUDGET, link__event, client);
    run_timers(client);
    fabric_flush(client->fabric);
    client->processing = false;
}

bool sluice_wait(struct sluice_client *client, const volatile bool *done, uint32_t timeout_ms)
{
    uint64_t end = clock_monotonic_ns() + timeout_ms * NS_PER_MS;
    for (;;) {
        sluice_process(client);
        if (*done)
            return true;
        uint64_t now = clock_monotonic_ns();
        if (now >= end)
            return false;
        uint64_t pause = sluice_timeout_ns(client);
        fabric_wait(client->fabric, pause < end - now ? pause : end - now);
    }
}

bool sluice_ready(const struct sluice_client *client)
{
    size_t members = 0;
    for (size_t i = 0; client->map != NULL && i < client->map->node_count; i++)
        members += client->map->nodes[i].state == MAP_NODE_UP || client->map->nodes[i].state == MAP_NODE_DRAINING;
    return client->map != NULL && client->peers_up >= members / 2 + 1;
}

uint64_t sluice_time_ns(const struct sluice_client *client)
{
    return client->seen_time;
}

void sluice_figures(const struct sluice_client *client, struct sluice_figures *out)
{
    *out = client->figures;
    out->in_flight = client->in_flight;
}

/* --- Values: a buffer whose tail is zeroed up to a multiple of 8, as it goes into a command --- */

struct sluice_value *sluice_value_create(uint32_t size)
{
    if (size > WIRE_BODY_BYTES_MAX)
        return NULL;
    uint32_t padded = (uint32_t)wire_pad(size);
    struct buf *buf = buf_create(padded);
    if (buf != NULL)
        memset(buf->data + size, 0, padded - size);
    return (struct sluice_value *)(void *)buf;
}

uint8_t *sluice_value_data(struct sluice_value *value)
{
    return ((struct buf *)(void *)value)->data;
}

struct sluice_value *sluice_value_ref(struct sluice_value *value)
{
    return (struct sluice_value *)(void *)buf_ref((struct buf *)(void *)value);
}

void sluice_value_unref(struct sluice_value *value)
{
    buf_unref((struct buf *)(void *)value);
}

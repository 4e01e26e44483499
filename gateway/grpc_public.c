/* What any client may ask without a token: grpc.health.v1.Health and server reflection. */
#include <stdlib.h>
#include <string.h>

#include "api/proto/health.pb-c.h"
#include "core/base/clock.h"
#include "gateway/grpc__.h"
#include "gateway/protowire.h"
#include "gateway/reflection.h"

#define HEALTH_PERIOD_NS NS_PER_S

/* --- Health ------------------------------------------------------------------------------------------------------*/

typedef Grpc__Health__V1__HealthCheckResponse__ServingStatus serving;
#define SERVING         GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING
#define NOT_SERVING     GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING
#define SERVICE_UNKNOWN GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN

struct health_watch {
    serving told;
};

/* What a service is worth: those that need the store serve as long as a majority of its nodes is connected. */
static serving health_of(const struct rpc *rpc)
{
    static const char *const with_store[] = {"", "sluice.v1.Store", "sluice.v1.Lambdas", "sluice.v1.Cluster"};
    static const char *const without[] = {"grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection",
                                          "grpc.reflection.v1alpha.ServerReflection"};
    const char *service = ((const Grpc__Health__V1__HealthCheckRequest *)rpc->request)->service;
    for (size_t i = 0; i < sizeof(with_store) / sizeof(with_store[0]); i++)
        if (strcmp(service, with_store[i]) == 0)
            return sluice_ready(gateway__client(rpc->shared->gateway)) ? SERVING : NOT_SERVING;
    for (size_t i = 0; i < sizeof(without) / sizeof(without[0]); i++)
        if (strcmp(service, without[i]) == 0)
            return SERVING;
    return SERVICE_UNKNOWN;
}

static enum sluice_status health_pack(serving status, struct rpc_message *out)
{
    Grpc__Health__V1__HealthCheckResponse response = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    *out = (struct rpc_message){0};
    response.status = status;
    return protowire_append(&out->head, &response.base);
}

static void health_check_start(struct rpc *self)
{
    struct rpc_message message;
    serving health = health_of(self);
    if (health == SERVICE_UNKNOWN) {
        rpc_fail(self, SLUICE_NOT_FOUND, "no service has this name");
        return;
    }
    enum sluice_status status = health_pack(health, &message);
    if (status == SLUICE_OK)
        rpc_succeed(self, &message);
    else
        rpc_fail(self, status, NULL);
}

/* Tells a watcher what is new to it; a slow one misses what was true in between, as the service allows. */
static void health_tell(struct rpc *self)
{
    struct health_watch *watch = self->state;
    struct rpc_message message;
    serving now = health_of(self);
    if (now != watch->told && health_pack(now, &message) == SLUICE_OK) {
        watch->told = now;
        rpc_send(self, &message);
    }
}

static void health_tick(struct gateway_timer *timer)
{
    struct rpc_shared *shared =
        (struct rpc_shared *)(void *)((char *)timer - offsetof(struct rpc_shared, health_timer));
    for (struct rpc *rpc = shared->health_watchers; rpc != NULL; rpc = rpc->link)
        health_tell(rpc);
    gateway__timer_set(shared->gateway, timer, clock_monotonic_ns() + HEALTH_PERIOD_NS);
}

static void health_watch_start(struct rpc *self)
{
    struct rpc_shared *shared = self->shared;
    struct health_watch *watch = malloc(sizeof(*watch));
    if (watch == NULL) {
        rpc_fail(self, SLUICE_MEMORY, NULL);
        return;
    }
    watch->told = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__UNKNOWN;
    self->state = watch;
    self->link = shared->health_watchers;
    shared->health_watchers = self;
    shared->health_timer.run = health_tick;
    if (self->link == NULL)
        gateway__timer_set(shared->gateway, &shared->health_timer, clock_monotonic_ns() + HEALTH_PERIOD_NS);
    health_tell(self);
}

static void health_watch_gone(struct rpc *self)
{
    struct rpc_shared *shared = self->shared;
    struct rpc **link = &shared->health_watchers;
    while (*link != self)
        link = &(*link)->link;
    *link = self->link;
    if (shared->health_watchers == NULL)
        gateway__timer_clear(shared->gateway, &shared->health_timer);
    rpc_fail(self, SLUICE_UNAVAILABLE, "this gateway ends its streams");
}

/* --- Reflection --------------------------------------------------------------------------------------------------*/

static enum sluice_status reflection_received(struct rpc *self, const char **why)
{
    struct rpc_message message = {0};
    enum sluice_status status =
        reflection_answer((const Grpc__Reflection__V1alpha__ServerReflectionRequest *)self->request, &message.head);
    if (status != SLUICE_OK) {
        *why = "no memory for the answer";
        rpc_message_free(&message);
        return status;
    }
    rpc_send(self, &message);
    return SLUICE_OK;
}

#define REFLECTION(package)                                                                                            \
    {                                                                                                                  \
        .path = "/" package ".ServerReflection/ServerReflectionInfo", .takes_stream = true, .public = true,            \
        .request = &grpc__reflection__v1alpha__server_reflection_request__descriptor,                                  \
        .request_bytes_max = RPC_SMALL_BYTES_MAX, .received = reflection_received                                      \
    }

const struct rpc_method rpc_public_methods[] = {
    {.path = "/grpc.health.v1.Health/Check",
     .public = true,
     .request = &grpc__health__v1__health_check_request__descriptor,
     .request_bytes_max = RPC_SMALL_BYTES_MAX,
     .start = health_check_start},
    {.path = "/grpc.health.v1.Health/Watch",
     .public = true,
     .request = &grpc__health__v1__health_check_request__descriptor,
     .request_bytes_max = RPC_SMALL_BYTES_MAX,
     .start = health_watch_start,
     .gone = health_watch_gone,
     .release = free},
    REFLECTION("grpc.reflection.v1alpha"),
    REFLECTION("grpc.reflection.v1"),
};
const size_t rpc_public_method_count = sizeof(rpc_public_methods) / sizeof(rpc_public_methods[0]);

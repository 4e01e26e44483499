/* What the gateway offers to its protocols beside HTTP (gRPC): its loop, its client, its timers. See auth.h for who may
 * do what, and sluice_status_… for how outcomes are spelled. */
#ifndef GATEWAY_SERVICE___H
#define GATEWAY_SERVICE___H

#include <stdbool.h>
#include <stdint.h>

#include "api/sluice.h"

struct gateway;
struct auth;

/* Work for the loop's thread; the caller's storage, untouched by the gateway once `run` was called. */
struct gateway_job {
    void (*run)(struct gateway_job *self);
};
/* Any thread. False when 65,536 jobs wait already (answer BUSY). Jobs run in the order in which they were posted, each
 * exactly once, the last ones before the client is closed. */
bool gateway__post(struct gateway *self, struct gateway_job *job) SLUICE_MUST_CHECK;

/* The loop's thread alone may touch it. */
struct sluice_client *gateway__client(struct gateway *self);
const struct auth *gateway__auth(const struct gateway *self);
uint64_t gateway__value_bytes_max(const struct gateway *self);

/* A point in time at which the loop calls back. The caller's storage; zero-initialise it. The loop's thread alone. */
struct gateway_timer {
    void (*run)(struct gateway_timer *self);
    uint64_t due_ns; /* clock_monotonic_ns */
    struct gateway_timer *previous, *next;
    bool armed;
};
/* Arms, or moves. `run` is called once, at or after due_ns; it may arm again. */
void gateway__timer_set(struct gateway *self, struct gateway_timer *timer, uint64_t due_ns);
void gateway__timer_clear(struct gateway *self, struct gateway_timer *timer);

#endif

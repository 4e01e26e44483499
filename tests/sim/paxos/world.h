/* A simulated world: time, clocks, a network that loses, doubles, delays, reorders and cuts, and disks that finish late
 * and forget what a crash interrupts. One thread, one seed; knows nothing of what runs in it. */
#ifndef TESTS_SIM_PAXOS_WORLD_H
#define TESTS_SIM_PAXOS_WORLD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/random.h"

#define WORLD_NODES_MAX 8 /* nodes are 1 … 7 */

struct world;
struct world_event {
    uint64_t at, number;
    void (*run)(struct world *world, struct world_event *event); /* borrows the event */
    void *arg;
    uint64_t a, b;
    size_t size;
    uint64_t data[]; /* `size` bytes */
};

/* Rates are per million. */
struct world_faults {
    uint32_t lose, twice, late;
    uint64_t link_ns_max, late_ns_max;
    uint64_t disk_ns_max;
};

struct world_clock {
    int64_t drift_ppm; /* of the monotonic clock */
    uint64_t began_ns; /* each machine counts from a start of its own */
    int64_t skew_ns;   /* of the wall clock */
};

struct world {
    uint64_t seed, now, events, numbers;
    uint64_t trace; /* a digest of all that happened: the same seed gives the same */
    bool calm;      /* no faults any more */
    struct random random;
    struct world_faults faults;
    bool cut[WORLD_NODES_MAX][WORLD_NODES_MAX]; /* from, to */
    struct world_event **queue;
    size_t queue_count, queue_capacity;
    const char *replay; /* how to see it again, printed with a failure */
};

void world_init(struct world *self, uint64_t seed);
void world_deinit(struct world *self);
/* Says what is wrong and which seed shows it again, and ends the process. */
_Noreturn void world_fail(const struct world *self, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* After `delay_ns`, with room for `size` bytes of data, cleared. */
struct world_event *world_after(struct world *self, uint64_t delay_ns, size_t size,
                                void (*run)(struct world *world, struct world_event *event), void *arg);
/* Runs what comes next; false: nothing is left. */
bool world_step(struct world *self);
uint64_t world_below(struct world *self, uint64_t bound);
/* Does a fault of this rate happen? Never in a calm world. */
bool world_fault(struct world *self, uint32_t per_million);
void world_mix(struct world *self, uint64_t value);

uint64_t world_monotonic(const struct world *self, const struct world_clock *clock);
uint64_t world_realtime(const struct world *self, const struct world_clock *clock);

/* `data` arrives at `to` once, twice or never: `run` gets it with event->a = from, event->b = to. */
void world_send(struct world *self, uint32_t from, uint32_t to, const void *data, size_t size,
                void (*run)(struct world *world, struct world_event *event), void *arg);

/* ---- Disks: records of one size, written in order by group commits ---- */

struct world_disk {
    struct world *world;
    size_t record_size;
    uint8_t *records; /* not durable yet: [0, writing) is being written, [writing, submitted) waits for that */
    size_t count, capacity, writing, submitted;
    uint64_t tickets, writing_ticket, life;
    /* Calls for each record that has become durable, in order; then once for the group commit. */
    void (*durable)(void *arg, const void *record);
    void (*done)(void *arg, uint64_t ticket);
    void *arg;
};

void world_disk_init(struct world_disk *self, struct world *world, size_t record_size);
void world_disk_deinit(struct world_disk *self);
void world_disk_write(struct world_disk *self, const void *record);
/* What was written so far goes to the disk with the next group commit; returns its ticket, 0 where there is nothing. */
uint64_t world_disk_submit(struct world_disk *self);
/* Of what was under way some first part has become durable (`durable` is called for it), the rest is lost. */
void world_disk_crash(struct world_disk *self);

#endif

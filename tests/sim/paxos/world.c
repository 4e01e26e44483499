#include "tests/sim/paxos/world.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/clock.h"
#include "core/base/panic.h"

#define LINK_NS_MIN (20 * NS_PER_US)
#define DISK_NS_MIN (50 * NS_PER_US)
#define EPOCH_NS    (UINT64_C(1700000000) * NS_PER_S)

void world_init(struct world *self, uint64_t seed)
{
    memset(self, 0, sizeof(*self));
    self->seed = seed;
    random_seed(&self->random, seed);
}

void world_deinit(struct world *self)
{
    for (size_t i = 0; i < self->queue_count; i++)
        free(self->queue[i]);
    free(self->queue);
}

void world_fail(const struct world *self, const char *format, ...)
{
    va_list arguments;
    fflush(stdout);
    fprintf(stderr, "\nseed %llu, event %llu, %.3f ms: ", (unsigned long long)self->seed,
            (unsigned long long)self->events, (double)self->now / 1e6);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, "\nTo see it again: %s --seed %llu --verbose\n", self->replay == NULL ? "the same" : self->replay,
            (unsigned long long)self->seed);
    exit(1);
}

/* ---- Time: a heap of events ---- */

static bool earlier(const struct world_event *a, const struct world_event *b)
{
    return a->at != b->at ? a->at < b->at : a->number < b->number;
}

static void swap(struct world *self, size_t a, size_t b)
{
    struct world_event *held = self->queue[a];
    self->queue[a] = self->queue[b];
    self->queue[b] = held;
}

struct world_event *world_after(struct world *self, uint64_t delay_ns, size_t size,
                                void (*run)(struct world *world, struct world_event *event), void *arg)
{
    struct world_event *event = calloc(1, sizeof(*event) + size);
    if (self->queue_count == self->queue_capacity) {
        self->queue_capacity = self->queue_capacity == 0 ? 1024 : self->queue_capacity * 2;
        self->queue = realloc(self->queue, self->queue_capacity * sizeof(struct world_event *));
    }
    ASSERT(event != NULL && self->queue != NULL);
    event->at = self->now + delay_ns;
    event->number = ++self->numbers;
    event->run = run;
    event->arg = arg;
    event->size = size;
    size_t at = self->queue_count++;
    self->queue[at] = event;
    for (; at > 0 && earlier(self->queue[at], self->queue[(at - 1) / 2]); at = (at - 1) / 2)
        swap(self, at, (at - 1) / 2);
    return event;
}

bool world_step(struct world *self)
{
    if (self->queue_count == 0)
        return false;
    struct world_event *event = self->queue[0];
    self->queue[0] = self->queue[--self->queue_count];
    for (size_t at = 0;;) {
        size_t least = at, left = 2 * at + 1, right = left + 1;
        if (left < self->queue_count && earlier(self->queue[left], self->queue[least]))
            least = left;
        if (right < self->queue_count && earlier(self->queue[right], self->queue[least]))
            least = right;
        if (least == at)
            break;
        swap(self, at, least);
        at = least;
    }
    ASSERT(event->at >= self->now);
    self->now = event->at;
    self->events++;
    world_mix(self, event->at);
    event->run(self, event);
    free(event);
    return true;
}

uint64_t world_below(struct world *self, uint64_t bound)
{
    return random_below(&self->random, bound);
}

bool world_fault(struct world *self, uint32_t per_million)
{
    return !self->calm && per_million != 0 && random_chance(&self->random, per_million);
}

void world_mix(struct world *self, uint64_t value)
{
    self->trace = (self->trace ^ value) * UINT64_C(0x9E3779B97F4A7C15);
    self->trace ^= self->trace >> 29;
}

uint64_t world_monotonic(const struct world *self, const struct world_clock *clock)
{
    int64_t elapsed = (int64_t)self->now;
    return (uint64_t)(elapsed + elapsed / 1000000 * clock->drift_ppm) + clock->began_ns;
}

uint64_t world_realtime(const struct world *self, const struct world_clock *clock)
{
    return (uint64_t)((int64_t)(self->now + EPOCH_NS) + clock->skew_ns);
}

/* ---- Network ---- */

void world_send(struct world *self, uint32_t from, uint32_t to, const void *data, size_t size,
                void (*run)(struct world *world, struct world_event *event), void *arg)
{
    ASSERT(from < WORLD_NODES_MAX && to < WORLD_NODES_MAX);
    if (self->cut[from][to] || world_fault(self, self->faults.lose))
        return;
    for (uint32_t copies = world_fault(self, self->faults.twice) ? 2 : 1; copies > 0; copies--) {
        uint64_t delay = LINK_NS_MIN + world_below(self, self->faults.link_ns_max + 1);
        if (world_fault(self, self->faults.late))
            delay += world_below(self, self->faults.late_ns_max + 1);
        struct world_event *event = world_after(self, delay, size, run, arg);
        event->a = from;
        event->b = to;
        memcpy(event->data, data, size);
    }
}

/* ---- Disks ---- */

void world_disk_init(struct world_disk *self, struct world *world, size_t record_size)
{
    memset(self, 0, sizeof(*self));
    self->world = world;
    self->record_size = record_size;
}

void world_disk_deinit(struct world_disk *self)
{
    free(self->records);
    self->records = NULL;
}

void world_disk_write(struct world_disk *self, const void *record)
{
    if (self->count == self->capacity) {
        self->capacity = self->capacity == 0 ? 64 : self->capacity * 2;
        self->records = realloc(self->records, self->capacity * self->record_size);
        ASSERT(self->records != NULL);
    }
    memcpy(self->records + self->count++ * self->record_size, record, self->record_size);
}

static void became_durable(struct world_disk *self, size_t count)
{
    for (size_t i = 0; i < count; i++)
        self->durable(self->arg, self->records + i * self->record_size);
    memmove(self->records, self->records + count * self->record_size, (self->count - count) * self->record_size);
    self->count -= count;
    self->submitted -= count;
}

static void start(struct world_disk *self);

static void finished(struct world *world, struct world_event *event)
{
    struct world_disk *self = event->arg;
    (void)world;
    if (event->a != self->life)
        return; /* the machine has crashed since */
    size_t count = self->writing;
    uint64_t ticket = self->writing_ticket;
    self->writing = 0;
    became_durable(self, count);
    if (self->submitted > 0)
        start(self);
    self->done(self->arg, ticket);
}

/* One group commit takes along all that waits. */
static void start(struct world_disk *self)
{
    self->writing = self->submitted;
    self->writing_ticket = self->tickets;
    uint64_t delay = DISK_NS_MIN + world_below(self->world, self->world->faults.disk_ns_max + 1);
    world_after(self->world, delay, 0, finished, self)->a = self->life;
}

uint64_t world_disk_submit(struct world_disk *self)
{
    if (self->count == self->submitted)
        return 0;
    self->submitted = self->count;
    uint64_t ticket = ++self->tickets;
    if (self->writing == 0)
        start(self);
    return ticket;
}

void world_disk_crash(struct world_disk *self)
{
    size_t kept = self->writing == 0 ? 0 : world_below(self->world, self->writing + 1);
    became_durable(self, kept);
    self->count = self->submitted = self->writing = 0;
    self->life++;
}

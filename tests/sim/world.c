/* Time, events, clocks. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/sim.h"

struct sim sim;

void sim_fail(const char *format, ...)
{
    va_list arguments;
    fflush(stdout);
    fprintf(stderr, "\nseed %llu, event %llu, %llu ms: ", (unsigned long long)sim.seed,
            (unsigned long long)sim.events_run, (unsigned long long)(sim.now / NS_PER_MS));
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, "\nTo see it again: make sim SEED=%llu STEPS=%llu\n", (unsigned long long)sim.seed,
            (unsigned long long)sim.steps);
    exit(1);
}

void sim_say(const char *format, ...)
{
    va_list arguments;
    if (!sim.verbose)
        return;
    printf("%8.3f ", (double)sim.now / 1e6);
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    printf("\n");
}

static bool earlier(const struct sim_event *a, const struct sim_event *b)
{
    return a->time != b->time ? a->time < b->time : a->number < b->number;
}

static void swap(size_t a, size_t b)
{
    struct sim_event *held = sim.queue[a];
    sim.queue[a] = sim.queue[b];
    sim.queue[b] = held;
}

struct sim_event *sim_after(uint64_t delay, void (*run)(struct sim_event *event), void *arg)
{
    struct sim_event *event = calloc(1, sizeof(*event));
    if (sim.queue_count == sim.queue_capacity) {
        sim.queue_capacity = sim.queue_capacity == 0 ? 1024 : sim.queue_capacity * 2;
        sim.queue = realloc(sim.queue, sim.queue_capacity * sizeof(struct sim_event *));
    }
    ASSERT(event != NULL && sim.queue != NULL);
    event->time = sim.now + delay;
    event->number = ++sim.numbers;
    event->run = run;
    event->arg = arg;
    size_t at = sim.queue_count++;
    sim.queue[at] = event;
    while (at > 0 && earlier(sim.queue[at], sim.queue[(at - 1) / 2])) {
        swap(at, (at - 1) / 2);
        at = (at - 1) / 2;
    }
    return event;
}

bool sim_run_one(void)
{
    if (sim.queue_count == 0)
        return false;
    struct sim_event *event = sim.queue[0];
    sim.queue[0] = sim.queue[--sim.queue_count];
    for (size_t at = 0;;) {
        size_t least = at, left = 2 * at + 1, right = left + 1;
        if (left < sim.queue_count && earlier(sim.queue[left], sim.queue[least]))
            least = left;
        if (right < sim.queue_count && earlier(sim.queue[right], sim.queue[least]))
            least = right;
        if (least == at)
            break;
        swap(at, least);
        at = least;
    }
    ASSERT(event->time >= sim.now);
    sim.now = event->time;
    sim.events_run++;
    sim.trace = (sim.trace ^ event->time ^ event->size << 40) * UINT64_C(0x9E3779B97F4A7C15);
    event->run(event); /* frees it, or holds it for later */
    return true;
}

uint64_t sim_monotonic(const struct sim_node *node)
{
    int64_t elapsed = (int64_t)sim.now;
    return (uint64_t)(elapsed + elapsed / 1000000 * node->drift_ppm + (int64_t)NS_PER_S * node->id);
}

uint64_t sim_realtime(const struct sim_node *node)
{
    return (uint64_t)((int64_t)(sim.now + SIM_EPOCH_NS) + node->skew_ns);
}

bool sim_fault(uint32_t per_million)
{
    return random_chance(&sim.random, per_million) && !sim.healing;
}

void sim_free_event(struct sim_event *event)
{
    free(event->data);
    free(event);
}

void sim_world_free(void)
{
    for (size_t i = 0; i < sim.queue_count; i++)
        sim_free_event(sim.queue[i]);
    free(sim.queue);
    for (uint32_t i = 0; i <= SIM_GROUPS_MAX; i++)
        free(sim.logs[i].entries);
    free(sim.history);
}

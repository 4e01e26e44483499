/* Frames on their way: late, lost, doubled, reordered, damaged. */
#include <stdlib.h>
#include <string.h>

#include "tests/sim/sim.h"

uint64_t sim_link_delay(void)
{
    uint64_t delay = 20 * NS_PER_US + random_below(&sim.random, sim.faults.link_ns_max);
    return sim_fault(sim.faults.late) ? delay + random_below(&sim.random, 500 * NS_PER_MS) : delay;
}

struct sim_event *sim_frame(uint64_t delay, void (*run)(struct sim_event *event), const struct slice *parts,
                            unsigned count)
{
    struct sim_event *event = sim_after(delay, run, NULL);
    for (unsigned i = 0; i < count; i++)
        event->size += parts[i].size;
    event->data = malloc(event->size + 1);
    ASSERT(event->data != NULL);
    uint8_t *at = event->data;
    for (unsigned i = 0; i < count; i++) {
        if (parts[i].size > 0)
            memcpy(at, parts[i].data, parts[i].size);
        at += parts[i].size;
    }
    return event;
}

bool sim_corrupt(uint8_t *data, size_t size)
{
    if (size == 0 || !sim_fault(sim.faults.corrupt))
        return false;
    for (uint64_t flips = 1 + random_below(&sim.random, 3); flips > 0; flips--)
        data[random_below(&sim.random, size)] ^= (uint8_t)(1u << random_below(&sim.random, 8));
    sim.totals.corrupted++;
    return true;
}

static void arrive(struct sim_event *event)
{
    struct sim_node *node = &sim.nodes[event->b];
    if (node->up) {
        if (sim_node_hold(node, event))
            return;
        host_peer_message(node->host, (uint16_t)event->a, event->data, event->size);
        sim_node_round(node);
    }
    free(event->data);
    free(event);
}

void sim_send_peer(void *arg, uint16_t to, const struct slice *parts, unsigned count)
{
    const struct sim_node *node = arg;
    if (sim.cut[node->id][to] || sim_fault(sim.faults.lose))
        return;
    for (uint32_t copies = sim_fault(sim.faults.twice) ? 2 : 1; copies > 0; copies--) {
        struct sim_event *event = sim_frame(sim_link_delay(), arrive, parts, count);
        event->a = node->id;
        event->b = to;
        (void)sim_corrupt(event->data, event->size);
    }
}

static void arrive_at_client(struct sim_event *event)
{
    sim_client_reply(event->a, event->data, event->size);
    free(event->data);
    free(event);
}

void sim_send_client(void *arg, void *link, const struct slice *parts, unsigned count, struct buf *payload,
                     uint32_t offset, uint32_t size)
{
    struct slice all[8];
    (void)arg;
    ASSERT(count < 8);
    memcpy(all, parts, count * sizeof(*parts));
    if (payload != NULL)
        all[count++] = (struct slice){payload->data + offset, size};
    if ((uintptr_t)link > SIM_CLIENTS_MAX) {
        sim_link_send(link, all, count);
        return;
    }
    if (sim_fault(sim.faults.lose))
        return;
    sim_frame(sim_link_delay(), arrive_at_client, all, count)->a = (uint32_t)(uintptr_t)link - 1;
}

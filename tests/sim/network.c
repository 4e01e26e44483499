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
        if (!participant_refuses(node->participant, (uint16_t)event->a))
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

/* ---- Links between nodes, for what they tell each other of the cluster: reliable and ordered until they break ---- */

enum wire_news { WIRE_NEWS_UP, WIRE_NEWS_DOWN, WIRE_NEWS_MESSAGE };

static struct sim_wire *wire_of(uint32_t a, uint32_t b)
{
    return a < b ? &sim.wires[a][b] : &sim.wires[b][a];
}

static void hear(struct sim_event *event)
{
    struct sim_node *node = &sim.nodes[event->b >> 8];
    uint16_t from = (uint16_t)(event->b & 255);
    bool same = (event->a >> 8) == (wire_of(node->id, from)->generation & 0xFFFFFF);
    if (node->up && node->incarnation == event->c) {
        if (sim_node_hold(node, event))
            return;
        switch (event->a & 255) {
        case WIRE_NEWS_UP:
            participant_link_up(node->participant, from);
            break;
        case WIRE_NEWS_DOWN:
            participant_link_down(node->participant, from);
            break;
        default:
            if (same && !participant_message(node->participant, from, event->data, event->size))
                host_peer_message(node->host, from, event->data, event->size);
        }
        sim_node_round(node);
    }
    sim_free_event(event);
}

/* In order: nothing overtakes what was told to that node before. */
static void tell(struct sim_node *node, uint32_t from, enum wire_news news, const struct slice *parts, unsigned count)
{
    struct sim_wire *wire = wire_of(node->id, from);
    uint64_t at = sim.now + sim_link_delay();
    if (at <= wire->last[node->id > from])
        at = wire->last[node->id > from] + 1;
    wire->last[node->id > from] = at;
    struct sim_event *event = sim_frame(at - sim.now, hear, parts, count);
    event->a = (uint32_t)(wire->generation << 8) | news;
    event->b = node->id << 8 | from;
    event->c = node->incarnation;
}

static void cut_wire(uint32_t a, uint32_t b)
{
    struct sim_wire *wire = wire_of(a, b);
    if (!wire->up)
        return;
    wire->up = false;
    wire->generation++;
    tell(&sim.nodes[a], b, WIRE_NEWS_DOWN, NULL, 0);
    tell(&sim.nodes[b], a, WIRE_NEWS_DOWN, NULL, 0);
}

void sim_wires_of_node(const struct sim_node *node)
{
    for (uint32_t id = 1; id <= sim.node_count; id++)
        if (id != node->id)
            cut_wire(node->id, id);
}

void sim_wire_send(void *arg, uint16_t to, const struct slice *parts, unsigned count)
{
    const struct sim_node *node = arg;
    if (to == node->id || to > sim.node_count || !wire_of(node->id, to)->up)
        return;
    if (sim.cut[node->id][to] || sim_fault(sim.faults.lose / 20))
        cut_wire(node->id, to);
    else
        tell(&sim.nodes[to], node->id, WIRE_NEWS_MESSAGE, parts, count);
}

/* Whoever can reach each other is connected after a while. */
void sim_wires_tick(void)
{
    for (uint32_t a = 1; a <= sim.node_count; a++)
        for (uint32_t b = a + 1; b <= sim.node_count; b++) {
            struct sim_wire *wire = wire_of(a, b);
            if (wire->up || !sim.nodes[a].up || !sim.nodes[b].up || sim.cut[a][b] || sim.cut[b][a] ||
                random_below(&sim.random, 5) != 0)
                continue;
            wire->up = true;
            wire->generation++;
            tell(&sim.nodes[a], b, WIRE_NEWS_UP, NULL, 0);
            tell(&sim.nodes[b], a, WIRE_NEWS_UP, NULL, 0);
        }
}

/* ---- Clients ---- */

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

/* The fabric as libsluice sees it, between simulated users and nodes: links that are reliable and ordered until they
 * break. It stands in for core/rdma, and the clocks below for the operating system's, at link time. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/rdma/fabric.h"
#include "tests/sim/sim.h"

struct message {
    struct message *next;
    enum fabric_event_type type;
    struct fabric_link *link;
    uint8_t *data;
    uint32_t size;
};

struct fabric {
    struct sim_user *user;
    struct message *inbox, **inbox_tail;
};

/* Freed at the end of the run: frames on their way, and the host, may still name it. */
struct fabric_link {
    struct fabric_link *next;
    struct fabric *fabric; /* NULL: the client let go of it */
    struct fabric_identity peer;
    uint64_t node_incarnation;
    void *context;
    bool up, broken;
    uint64_t full_until;               /* the reader is slow: frames wait */
    uint64_t to_node_at, to_client_at; /* when the latest frame of each direction arrives */
};

uint64_t __wrap_clock_monotonic_ns(void);
uint64_t __wrap_clock_realtime_ns(void);
uint64_t __wrap_random_os(void);

uint64_t __wrap_clock_monotonic_ns(void)
{
    return sim.now + NS_PER_S;
}

uint64_t __wrap_clock_realtime_ns(void)
{
    return (uint64_t)((int64_t)(sim.now + SIM_EPOCH_NS) + (sim.user == NULL ? 0 : sim.user->skew_ns));
}

uint64_t __wrap_random_os(void)
{
    return random_next(&sim.random);
}

static uint64_t later(uint64_t *at)
{
    uint64_t when = sim.now + sim_link_delay();
    *at = when > *at ? when : *at + 1;
    return *at - sim.now;
}

/* ---- Towards the client ---- */

static void reach_client(struct sim_event *event)
{
    struct fabric_link *link = event->arg;
    struct fabric *fabric = link->fabric;
    if (fabric != NULL) {
        struct message *message = calloc(1, sizeof(*message));
        ASSERT(message != NULL);
        *message = (struct message){.type = event->a, .link = link, .data = event->data, .size = (uint32_t)event->size};
        event->data = NULL;
        *fabric->inbox_tail = message;
        fabric->inbox_tail = &message->next;
        sim_user_turn(fabric->user);
    }
    free(event->data);
    free(event);
}

static void tell_client(struct fabric_link *link, enum fabric_event_type type)
{
    sim_after(later(&link->to_client_at), reach_client, link)->a = type;
}

/* ---- Towards the node ---- */

static struct sim_node *node_of(const struct fabric_link *link)
{
    struct sim_node *node = &sim.nodes[link->peer.node];
    return node->up && node->incarnation == link->node_incarnation ? node : NULL;
}

static void reach_node(struct sim_event *event)
{
    struct fabric_link *link = event->arg;
    struct sim_node *node = node_of(link);
    if (node != NULL) {
        if (sim_node_hold(node, event))
            return;
        if (event->data == NULL) {
            host_client_down(node->host, link);
            sim_map_link_down(node, link);
        } else if (!link->broken)
            host_client_message(node->host, link, event->data, event->size);
        sim_node_round(node);
    }
    free(event->data);
    free(event);
}

void sim_link_break(struct fabric_link *link)
{
    if (link->broken)
        return;
    link->broken = true;
    sim.totals.links_broken += link->up;
    tell_client(link, FABRIC_LINK_DOWN);
    sim_after(later(&link->to_node_at), reach_node, link);
}

void sim_links_of_node(const struct sim_node *node)
{
    for (struct fabric_link *link = sim.links; link != NULL; link = link->next)
        if (link->peer.node == node->id)
            sim_link_break(link);
}

/* A link bears no loss: it breaks. */
static bool carries(struct fabric_link *link, uint32_t from, uint32_t to)
{
    if (link->broken)
        return false;
    if (sim.cut[from][to] || sim_fault(sim.faults.lose / 20)) {
        sim_link_break(link);
        return false;
    }
    return true;
}

void sim_link_send(struct fabric_link *link, const struct slice *parts, unsigned count)
{
    if (!carries(link, link->peer.node, 0))
        return;
    struct sim_event *event = sim_frame(later(&link->to_client_at), reach_client, parts, count);
    event->arg = link;
    event->a = FABRIC_MESSAGE;
}

static void writable(struct sim_event *event)
{
    struct fabric_link *link = event->arg;
    struct sim_node *node = node_of(link);
    if (node != NULL && !link->broken) {
        if (sim_node_hold(node, event))
            return;
        host_client_writable(node->host, link);
        sim_node_round(node);
    }
    free(event);
}

uint64_t sim_link_pending(struct fabric_link *link)
{
    if (sim.now >= link->full_until && !link->broken && sim_fault(sim.faults.slow_reader)) {
        link->full_until = sim.now + random_below(&sim.random, 500 * NS_PER_MS);
        sim_after(link->full_until - sim.now, writable, link);
    }
    return sim.now < link->full_until ? HOST_LINK_PENDING_MAX + 1 : 0;
}

static void connected(struct sim_event *event)
{
    struct fabric_link *link = event->arg;
    struct sim_node *node = &sim.nodes[link->peer.node];
    if (node->up && sim_node_hold(node, event))
        return;
    if (!node->up || sim.cut[0][node->id] || sim.cut[node->id][0]) {
        sim_link_break(link);
    } else {
        link->node_incarnation = link->peer.incarnation = node->incarnation;
        tell_client(link, FABRIC_LINK_UP);
    }
    free(event);
}

/* ---- What libsluice calls ---- */

enum sluice_status fabric_create(const struct fabric_options *options, struct fabric **out)
{
    (void)options;
    struct fabric *self = calloc(1, sizeof(*self));
    ASSERT(self != NULL && sim.user != NULL);
    self->user = sim.user;
    self->inbox_tail = &self->inbox;
    *out = self;
    return SLUICE_OK;
}

static void drop_inbox(struct fabric *self, const struct fabric_link *link)
{
    struct message **at = &self->inbox;
    while (*at != NULL) {
        struct message *message = *at;
        if (link != NULL && message->link != link) {
            at = &message->next;
            continue;
        }
        *at = message->next;
        free(message->data);
        free(message);
    }
    self->inbox_tail = at;
}

void fabric_destroy(struct fabric *self)
{
    drop_inbox(self, NULL);
    for (struct fabric_link *link = sim.links; link != NULL; link = link->next)
        if (link->fabric == self)
            fabric_link_close(link);
    free(self);
}

enum sluice_status fabric_connect(struct fabric *self, const char *address, void *context, struct fabric_link **out)
{
    uint32_t node = 0;
    if (sscanf(address, "tcp:node:%u", &node) != 1 || node == 0 || node > sim.node_count)
        return SLUICE_INVALID;
    struct fabric_link *link = calloc(1, sizeof(*link));
    ASSERT(link != NULL);
    *link = (struct fabric_link){.next = sim.links,
                                 .fabric = self,
                                 .context = context,
                                 .peer = {.role = FABRIC_ROLE_NODE, .node = node, .cluster = SIM_CLUSTER}};
    sim.links = link;
    sim_after(later(&link->to_node_at), connected, link);
    *out = link;
    return SLUICE_OK;
}

unsigned fabric_poll(struct fabric *self, unsigned budget, fabric_handler handler, void *arg)
{
    unsigned count = 0;
    while (self->inbox != NULL && count < budget) {
        struct message *message = self->inbox;
        struct fabric_link *link = message->link;
        self->inbox = message->next;
        if (self->inbox == NULL)
            self->inbox_tail = &self->inbox;
        const struct fabric_event event = {.type = message->type,
                                           .link = link,
                                           .data = message->data,
                                           .size = message->size,
                                           .reason = FABRIC_DOWN_CLOSED,
                                           .text = "the link broke"};
        link->up = link->up || message->type == FABRIC_LINK_UP;
        if (message->type == FABRIC_LINK_DOWN)
            link->up = false;
        count++;
        handler(arg, &event);
        if (message->type == FABRIC_LINK_DOWN)
            link->fabric = NULL;
        free(message->data);
        free(message);
    }
    return count;
}

enum sluice_status fabric_send(struct fabric_link *link, const struct slice *parts, unsigned part_count,
                               struct buf *payload, uint32_t payload_offset, uint32_t payload_size)
{
    struct slice all[8];
    ASSERT(part_count < 8);
    if (!link->up)
        return link->broken ? SLUICE_CLOSED : SLUICE_AGAIN;
    memcpy(all, parts, part_count * sizeof(*parts));
    if (payload_size > 0)
        all[part_count++] = (struct slice){payload->data + payload_offset, payload_size};
    if (carries(link, 0, link->peer.node))
        sim_frame(later(&link->to_node_at), reach_node, all, part_count)->arg = link;
    return SLUICE_OK;
}

void fabric_link_close(struct fabric_link *link)
{
    drop_inbox(link->fabric, link);
    link->fabric = NULL;
    link->up = false;
    if (!link->broken)
        sim_after(later(&link->to_node_at), reach_node, link);
    link->broken = true;
}

void fabric_flush(struct fabric *self)
{
    (void)self;
}

uint64_t fabric_pending(const struct fabric_link *link)
{
    (void)link;
    return 0;
}

bool fabric_arm(struct fabric *self)
{
    return self->inbox == NULL;
}

int fabric_fd(const struct fabric *self)
{
    (void)self;
    return -1;
}

void fabric_wait(struct fabric *self, uint64_t timeout_ns)
{
    (void)self;
    (void)timeout_ns;
    base_panic(__FILE__, __LINE__, "nobody sleeps in a simulation");
}

const struct fabric_identity *fabric_link_peer(const struct fabric_link *link)
{
    return &link->peer;
}

void *fabric_link_context(const struct fabric_link *link)
{
    return link->context;
}

void fabric_link_set_context(struct fabric_link *link, void *context)
{
    link->context = context;
}

void sim_links_free(void)
{
    while (sim.links != NULL) {
        struct fabric_link *link = sim.links;
        sim.links = link->next;
        free(link);
    }
}

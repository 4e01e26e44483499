/* One request, from its start to its one answer: sent, redirected, repeated, given up. What is repeated is byte for
 * byte what was sent before, so that a shard that has applied it knows it again. */
#include <stdlib.h>
#include <string.h>

#include "client/client__.h"
#include "core/base/panic.h"

#define DELAY_MIN_MS       5u
#define DELAY_MAX_MS       100u
#define PATIENCE_NS        (200 * NS_PER_MS) /* no answer for so long: is the leader the leader still? */
#define STREAM_PATIENCE_NS (3 * NS_PER_S)    /* nodes tell of progress every second */
#define BUSY_NS_MAX        NS_PER_S
#define HOPS_MAX           3u
#define HOPEFUL_BACKOFF_MS 100u

static void ask_timer(struct timer *timer);

/* --- Slots: request numbers that find their ask, and never one that came later to the same place --- */

static bool slot_take(struct ask *self)
{
    struct sluice_client *client = self->client;
    if (client->slot_free == 0) {
        uint32_t count = client->slot_count == 0 ? 64 : client->slot_count * 2;
        struct slot *slots = realloc(client->slots, count * sizeof(*slots));
        if (slots == NULL)
            return false;
        for (uint32_t i = client->slot_count; i < count; i++)
            slots[i] = (struct slot){.generation = 0, .next_free = i + 1 < count ? i + 2 : 0};
        client->slots = slots;
        client->slot_free = client->slot_count + 1;
        client->slot_count = count;
    }
    struct slot *slot = &client->slots[client->slot_free - 1];
    uint32_t index = client->slot_free - 1;
    client->slot_free = slot->next_free;
    slot->ask = self;
    if (++slot->generation == 0)
        slot->generation = 1;
    self->request_id = (uint64_t)slot->generation << 32 | index;
    return true;
}

static void slot_give(struct ask *self)
{
    struct sluice_client *client = self->client;
    if (self->request_id == 0)
        return;
    uint32_t index = (uint32_t)self->request_id;
    struct slot *slot = &client->slots[index];
    ASSERT(slot->ask == self);
    slot->ask = NULL;
    slot->next_free = client->slot_free;
    client->slot_free = index + 1;
    self->request_id = 0;
}

static struct ask *slot_find(const struct sluice_client *client, uint64_t request_id)
{
    uint32_t index = (uint32_t)request_id;
    if (index >= client->slot_count || client->slots[index].generation != request_id >> 32)
        return NULL;
    return client->slots[index].ask;
}

/* --- States --- */

static void set_timer(struct ask *self)
{
    uint64_t at = self->wake_ns < self->deadline_ns ? self->wake_ns : self->deadline_ns;
    timer__set(&self->client->timers, &self->timer, at);
}

/* Out of whatever list it is in. */
static void detach(struct ask *self)
{
    if (self->state == ASK_IN_FLIGHT && self->peer != NULL)
        self->peer->load_bytes -= self->sent_bytes;
    list__remove(&self->link);
    slot_give(self);
    self->state = ASK_IDLE;
    self->peer = NULL;
}

static void finish(struct ask *self, const struct reply *reply)
{
    detach(self);
    timer__stop(&self->client->timers, &self->timer);
    self->route = NULL;
    self->done(self, reply);
}

void ask__fail(struct ask *self, enum sluice_status status, const char *detail)
{
    const struct reply reply = {.status = status, .detail = detail};
    finish(self, &reply);
}

static void wait_until(struct ask *self, uint64_t wake_ns)
{
    detach(self);
    self->state = ASK_WAITING;
    self->wake_ns = wake_ns;
    list__append(&self->client->waiting, &self->link);
    set_timer(self);
}

static void wait_a_little(struct ask *self)
{
    self->delay_ms = self->delay_ms == 0 ? DELAY_MIN_MS : self->delay_ms * 2;
    if (self->delay_ms > DELAY_MAX_MS)
        self->delay_ms = DELAY_MAX_MS;
    self->hops = 0;
    self->client->figures.retries++;
    wait_until(self, clock_monotonic_ns() + self->delay_ms * NS_PER_MS);
}

static void park(struct ask *self, bool first)
{
    detach(self);
    self->scout = false;
    self->hops = 0;
    self->wake_ns = CLIENT_NEVER;
    route__park(self->route, self, first);
    set_timer(self);
}

static void verdict_later(struct ask *self, enum sluice_status status, const char *detail)
{
    self->verdict = status;
    self->verdict_detail = detail;
    wait_until(self, clock_monotonic_ns());
}

/* --- Sending --- */

static uint32_t timeout_left_ms(const struct ask *self, uint64_t now)
{
    if (self->deadline_ns == CLIENT_NEVER)
        return CLIENT_TIMEOUT_MS_MAX;
    uint64_t left = self->deadline_ns > now ? (self->deadline_ns - now) / NS_PER_MS : 0;
    return left == 0 ? 1 : left > CLIENT_TIMEOUT_MS_MAX ? CLIENT_TIMEOUT_MS_MAX : (uint32_t)left;
}

/* A node is sent no more than this, nor beyond LINK_BYTES_MIN more than it answers within a second: what would wait for
 * longer is told early, and where there is time for more attempts it waits here. */
#define LINK_BYTES_MAX (64u << 20)
#define LINK_BYTES_MIN (4u << 20)

static bool has_room(struct peer *peer, uint64_t bytes, uint64_t now)
{
    uint64_t load = peer->load_bytes + bytes;
    return peer->load_bytes == 0 || (load <= LINK_BYTES_MAX && drain_allows(&peer->drain, now, load, LINK_BYTES_MIN));
}

/* Too much is in flight there. It may be over in a moment; if not, the caller must know, and before the time is over.
 */
static bool bears_refusal(struct ask *self, uint64_t now)
{
    if (self->busy_until_ns == 0) {
        uint64_t left = self->deadline_ns > now ? self->deadline_ns - now : 0;
        self->busy_until_ns = now + (left / 2 < BUSY_NS_MAX ? left / 2 : BUSY_NS_MAX);
    }
    return now < self->busy_until_ns || self->stream || self->maybe_applied;
}

static void send(struct ask *self, struct peer *peer)
{
    struct sluice_client *client = self->client;
    uint64_t now = clock_monotonic_ns();
    if (self->writes && !has_room(peer, self->body_size + self->payload_size, now)) {
        if (bears_refusal(self, now))
            wait_a_little(self);
        else
            verdict_later(self, SLUICE_BUSY,
                          "as much is under way to the shard's leader as it takes; nothing was applied, try again");
        return;
    }
    if (self->prepare != NULL)
        self->prepare(self);
    if (!slot_take(self)) {
        wait_a_little(self);
        return;
    }
    bool anywhere = self->any_replica && !self->needs_leader;
    const struct wire_header header = {
        .magic = WIRE_MAGIC,
        .version = WIRE_VERSION,
        .type = self->type,
        .body_size = (uint32_t)(self->body_size + self->payload_size),
        .request_id = self->request_id,
        .time = client->seen_time,
        .map_epoch = client->map == NULL ? 0 : client->map->epoch,
        .shard = self->route != NULL ? self->route->id : self->shard,
        .flags = self->flags | (anywhere ? WIRE_FLAG_STABLE : 0),
        .after = self->after,
        .timeout_ms = timeout_left_ms(self, now),
        .body_crc = self->body_crc,
    };
    const struct slice parts[2] = {{&header, sizeof(header)}, {self->body, self->body_size}};
    enum sluice_status status = fabric_send(peer->link, parts, self->body_size > 0 ? 2 : 1, self->payload, 0,
                                            self->payload != NULL ? self->payload_size : 0);
    if (status == SLUICE_TOO_LARGE) {
        verdict_later(self, SLUICE_TOO_LARGE, "the request is larger than the node takes");
        return;
    }
    if (status != SLUICE_OK) {
        wait_a_little(self);
        return;
    }
    self->state = ASK_IN_FLIGHT;
    self->peer = peer;
    self->sent_bytes = self->writes ? self->body_size + self->payload_size : 0;
    if (peer->load_bytes == 0)
        drain_begin(&peer->drain, now);
    peer->load_bytes += self->sent_bytes;
    self->heard_ns = now;
    self->wake_ns = now + self->patience_ns;
    list__append(&peer->in_flight, &self->link);
    set_timer(self);
}

static struct peer *any_peer(struct ask *self)
{
    struct sluice_client *client = self->client;
    struct peer *found = NULL;
    uint32_t skip = client->peers_up == 0 ? 0 : self->turn % (uint32_t)client->peers_up;
    for (struct list *item = client->peers.next; item != &client->peers; item = item->next) {
        struct peer *peer = LIST__OF(item, struct peer, link_of_client);
        if (peer->link == NULL)
            continue;
        found = peer;
        if (skip-- == 0)
            break;
    }
    return found;
}

/* To a node that need not lead anything. */
static void route_plain(struct ask *self)
{
    struct peer *peer = self->target == ASK_ANY ? any_peer(self) : link__peer(self->client, self->node);
    /* Whoever has just begun to dial may be connected in a moment. */
    bool hopeful = peer != NULL && peer->contact.backoff_ms < HOPEFUL_BACKOFF_MS;
    if (peer != NULL && peer->link != NULL)
        send(self, peer);
    else if (self->once && !hopeful)
        verdict_later(self, SLUICE_UNAVAILABLE, "that node is not connected");
    else
        wait_until(self, CLIENT_NEVER);
}

void ask__route(struct ask *self)
{
    struct sluice_client *client = self->client;
    bool scout = self->scout;
    detach(self);
    self->scout = false;
    self->route = NULL;
    if (self->target == ASK_NODE || self->target == ASK_ANY) {
        route_plain(self);
        return;
    }
    if (client->map == NULL) {
        wait_until(self, CLIENT_NEVER);
        return;
    }
    struct route *route =
        self->target == ASK_KEY ? route__of_key(client, self->key, self->key_size) : route__find(client, self->shard);
    if (route == NULL) {
        if (self->target == ASK_SHARD)
            verdict_later(self, SLUICE_STALE_MAP, "the shard is no more: its pool was deleted");
        else
            verdict_later(self, SLUICE_UNAVAILABLE, "no live pool holds the key; nothing was applied");
        return;
    }
    bool anywhere = self->any_replica && !self->needs_leader;
    struct peer *peer = route__choose(route, anywhere, anywhere ? self->silent : 0);
    if (peer == NULL && anywhere && self->silent != 0) {
        /* All were silent once: they may have been slow. */
        self->silent = 0;
        peer = route__choose(route, true, 0);
    }
    self->route = route;
    if (peer == NULL || (!anywhere && !scout && !list__empty(&route->parked)))
        park(self, scout);
    else
        send(self, peer);
}

void ask__start(struct ask *self)
{
    list__init(&self->link);
    self->timer = (struct timer){.fire = ask_timer};
    self->state = ASK_IDLE;
    self->peer = NULL;
    self->route = NULL;
    self->request_id = 0;
    self->wake_ns = CLIENT_NEVER;
    self->patience_ns = self->stream ? STREAM_PATIENCE_NS : PATIENCE_NS;
    self->busy_until_ns = 0;
    self->delay_ms = self->hops = self->turn = 0;
    self->silent = 0;
    self->maybe_applied = self->needs_leader = self->scout = false;
    self->verdict = SLUICE_OK;
    ask__route(self);
}

void ask__send_cancel(struct peer *peer, uint64_t request_id, uint32_t shard)
{
    const struct wire_header header = {
        .magic = WIRE_MAGIC,
        .version = WIRE_VERSION,
        .type = WIRE_CANCEL,
        .request_id = request_id,
        .time = peer->contact.client->seen_time,
        .shard = shard,
    };
    const struct slice part = {&header, sizeof(header)};
    /* Where the link is too full for this, the node's events find nobody here and are passed over. */
    enum sluice_status status = fabric_send(peer->link, &part, 1, NULL, 0, 0);
    (void)status;
}

static void cancel_stream(struct ask *self)
{
    if (self->stream && self->state == ASK_IN_FLIGHT && self->peer != NULL && self->peer->link != NULL)
        ask__send_cancel(self->peer, self->request_id, self->shard);
}

void ask__cancel(struct ask *self)
{
    /* Zeroed memory is an ask that was never started. */
    if (self->link.next == NULL)
        return;
    cancel_stream(self);
    detach(self);
    timer__stop(&self->client->timers, &self->timer);
    self->route = NULL;
}

bool ask__maybe_applied(const struct ask *self)
{
    return self->writes && (self->maybe_applied || self->state == ASK_IN_FLIGHT);
}

void ask__lost(struct ask *self)
{
    self->maybe_applied = ask__maybe_applied(self);
    if (self->once) {
        ask__fail(self, SLUICE_UNAVAILABLE, "the node's link was lost");
        return;
    }
    cancel_stream(self);
    self->client->figures.retries++;
    ask__route(self);
}

void ask__wake_waiting(struct sluice_client *self)
{
    struct list waiting;
    list__move(&self->waiting, &waiting);
    while (!list__empty(&waiting)) {
        struct ask *ask = LIST__OF(waiting.next, struct ask, link);
        if (ask->verdict == SLUICE_OK && ask->wake_ns == CLIENT_NEVER) {
            ask__route(ask);
        } else {
            list__remove(&ask->link);
            list__append(&self->waiting, &ask->link);
        }
    }
}

/* --- Time --- */

static void deadline_passed(struct ask *self)
{
    if (ask__maybe_applied(self))
        ask__fail(self, SLUICE_OUTCOME_UNKNOWN,
                  "no answer came before the deadline; the write may have been applied: repeat it with the same key");
    else if (self->writes)
        ask__fail(
            self, SLUICE_UNAVAILABLE,
            "nobody took the write before the deadline: no leader could be reached; nothing was applied, try again");
    else if (self->state == ASK_IN_FLIGHT)
        ask__fail(self, SLUICE_DEADLINE, "no answer came before the deadline; try again, or allow more time");
    else
        ask__fail(self, SLUICE_UNAVAILABLE, "no node that can answer could be reached before the deadline; try again");
}

/* In flight for long: the node may have stopped, or be cut off, without its link telling. */
static void wonder(struct ask *self, uint64_t now)
{
    bool leads = self->route != NULL && (!self->any_replica || self->needs_leader);
    if (self->stream && now - self->heard_ns < STREAM_PATIENCE_NS) {
        self->wake_ns = self->heard_ns + STREAM_PATIENCE_NS;
        set_timer(self);
        return;
    }
    if (self->any_replica && !leads) {
        /* The leader may be as far away, so any other replica comes first: stable reads go on without a majority. */
        if (self->peer != NULL)
            self->silent |= UINT64_C(1) << self->peer->node;
        ask__lost(self);
        return;
    }
    if (leads && self->route->id == MAP_GROUP) {
        /* Changes of the map can be repeated, and nobody but the leader can be asked who leads. */
        self->patience_ns *= 2;
        route__no_leader(self->route, self->peer);
        ask__lost(self);
        return;
    }
    /* What is not sent yet says nothing of the other side. */
    if (leads && fabric_pending(self->peer->link) == 0)
        route__probe(self->route, self->peer);
    self->patience_ns *= 2;
    self->wake_ns = now + self->patience_ns;
    if (self->stream)
        self->wake_ns = now + STREAM_PATIENCE_NS;
    set_timer(self);
}

static void ask_timer(struct timer *timer)
{
    struct ask *self = LIST__OF(timer, struct ask, timer);
    uint64_t now = clock_monotonic_ns();
    if (self->verdict != SLUICE_OK)
        ask__fail(self, self->verdict, self->verdict_detail);
    else if (now >= self->deadline_ns)
        deadline_passed(self);
    else if (self->state == ASK_IN_FLIGHT)
        wonder(self, now);
    else if (self->state == ASK_WAITING)
        ask__route(self);
    else
        set_timer(self);
}

/* --- Answers --- */

static void not_leader(struct ask *self, struct peer *peer, const struct wire_header *header)
{
    struct route *route = self->route;
    if (route == NULL) {
        wait_a_little(self);
        return;
    }
    uint16_t leader = header->node <= UINT16_MAX ? (uint16_t)header->node : 0;
    if (self->any_replica && !self->needs_leader) {
        self->needs_leader = true;
        if (leader != 0 && leader != peer->node)
            route->leader = leader;
        ask__route(self);
        return;
    }
    const struct peer *named = leader == 0 || leader == peer->node ? NULL : link__peer(self->client, leader);
    if (named == NULL) {
        route__no_leader(route, peer);
        park(self, true);
        return;
    }
    /* Two that name each other would send it back and forth. */
    bool go = named->link != NULL && self->hops < HOPS_MAX;
    self->client->figures.retries++;
    if (!go) {
        route->leader = leader;
        route->turn++;
        park(self, true);
        return;
    }
    self->hops++;
    detach(self);
    self->scout = true; /* past those that are parked, who follow at once */
    route->leader = leader;
    ask__route(self);
    route__leads(route, leader);
}

static void no_quorum(struct ask *self, const struct peer *peer)
{
    struct route *route = self->route;
    if (route == NULL) {
        wait_a_little(self);
        return;
    }
    bool all = route__no_quorum(route, peer);
    park(self, true);
    if (all)
        route__no_quorum_fail(route);
}

static void busy(struct ask *self, const struct reply *reply)
{
    if (bears_refusal(self, clock_monotonic_ns()))
        wait_a_little(self);
    else
        finish(self, reply);
}

/* What a node refuses before it has looked at what it applied: that says nothing about earlier attempts. */
static bool refused_at_the_door(enum sluice_status status)
{
    return status == SLUICE_STORAGE_FULL || status == SLUICE_INVALID || status == SLUICE_FORBIDDEN ||
           status == SLUICE_TOO_LARGE || status == SLUICE_VERSION;
}

static void answered(struct ask *self, struct peer *peer, const struct reply *reply)
{
    struct sluice_client *client = self->client;
    if (self->once) {
        finish(self, reply);
        return;
    }
    switch (reply->status) {
    case SLUICE_NOT_LEADER:
        not_leader(self, peer, reply->header);
        return;
    case SLUICE_UNAVAILABLE:
        no_quorum(self, peer);
        return;
    case SLUICE_STALE_MAP:
        client->figures.retries++;
        self->turn++;
        if (self->route != NULL)
            route__no_leader(self->route, peer);
        link__ask_map(peer);
        wait_a_little(self);
        return;
    case SLUICE_BUSY:
        self->turn++;
        busy(self, reply);
        return;
    case SLUICE_OUTCOME_UNKNOWN:
        self->maybe_applied = self->maybe_applied || self->writes;
        wait_a_little(self);
        return;
    case SLUICE_AGAIN:
    case SLUICE_CLOSED:
    case SLUICE_MEMORY:
        self->turn++;
        wait_a_little(self);
        return;
    case SLUICE_CORRUPT:
        /* A write whose bytes were damaged on the way; a read that found damage is told. */
        if (self->writes) {
            wait_a_little(self);
            return;
        }
        break;
    case SLUICE_IO:
    case SLUICE_INTERNAL:
        if (self->writes) {
            self->maybe_applied = true;
            wait_a_little(self);
            return;
        }
        break;
    case SLUICE_DEADLINE:
        /* A leader refuses what comes too late before it looks at what came earlier: an attempt that was lost may stand
         * in the log, with a time before the deadline. */
        if (self->writes && self->maybe_applied) {
            ask__fail(
                self, SLUICE_OUTCOME_UNKNOWN,
                "the write was repeated until its deadline; it may have been applied: repeat it with the same key");
            return;
        }
        if (self->writes) {
            ask__fail(self, SLUICE_UNAVAILABLE,
                      "the write reached its shard after the deadline; nothing was applied, try again");
            return;
        }
        break;
    default:
        if (self->maybe_applied && refused_at_the_door(reply->status)) {
            wait_a_little(self);
            return;
        }
        break;
    }
    finish(self, reply);
}

void ask__message(struct peer *peer, const struct wire_header *header, const uint8_t *body)
{
    char detail[CLIENT_DETAIL_BYTES];
    struct ask *self = slot_find(peer->contact.client, header->request_id);
    if (self == NULL || self->state != ASK_IN_FLIGHT || self->peer != peer)
        return;
    struct reply reply = {
        .status = sluice_status_known(header->status) ? (enum sluice_status)header->status : SLUICE_INTERNAL,
        .header = header,
        .body = body,
        .body_size = header->body_size,
        .flags = header->flags,
    };
    struct route *route = self->route;
    bool leads = route != NULL && (!self->any_replica || self->needs_leader);
    if (header->type == WIRE_EVENT) {
        self->heard_ns = peer->heard_ns;
        self->delay_ms = 0;
        reply.detail = "";
        if (leads && route->leader != peer->node)
            route__leads(route, peer->node);
        if (self->stream && self->event != NULL)
            self->event(self, &reply);
        return;
    }
    if (header->type != WIRE_REPLY)
        return;
    reply.detail = sluice_status_text(reply.status);
    if (reply.status != SLUICE_OK && (header->flags & WIRE_FLAG_RECORD) == 0 && header->body_size > 0) {
        size_t size = header->body_size < sizeof(detail) - 1 ? header->body_size : sizeof(detail) - 1;
        memcpy(detail, body, size);
        detail[size] = '\0';
        reply.detail = detail;
    }
    /* It has answered; whatever follows, it is in flight no more. */
    if (reply.status == SLUICE_OK && self->sent_bytes > 0)
        drain_done(&peer->drain, clock_monotonic_ns(), self->sent_bytes);
    detach(self);
    if (reply.status == SLUICE_OK && leads &&
        (route->leader != peer->node || !list__empty(&route->parked) || route->no_quorum_ns != 0)) {
        self->state = ASK_IDLE;
        route__leads(route, peer->node);
    }
    answered(self, peer, &reply);
}

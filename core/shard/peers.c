/* Messages between nodes. */
#include <string.h>

#include "core/base/crc.h"
#include "core/shard/host__.h"

static void persist_ceiling(struct host *self, const struct pairs_effect *effect)
{
    const struct wal_record record = {.type = WAL_CEILING, .group = effect->node, .ballot = effect->ceiling};
    enum sluice_status status = self->env.persist(self->env.arg, &record);
    if (status != SLUICE_OK)
        self->env.fatal(self->env.arg, status, "a ceiling could not be handed to the disk");
    self->ceiling_sequence = effect->sequence;
    self->ceilings_dirty = true;
}

void peers__carry_out(struct host *self)
{
    for (uint32_t i = 0; i < self->pairs_effects.count; i++) {
        const struct pairs_effect *effect = &self->pairs_effects.items[i];
        if (effect->type == PAIRS_EFFECT_PERSIST_CEILING) {
            persist_ceiling(self, effect);
            continue;
        }
        struct peer_header header = {
            .magic = PEER_MAGIC, .version = PEER_VERSION_MIN, .kind = PEER_PAIRS, .time = self->clock.last};
        struct peer_pairs body;
        peer_pairs_write(&effect->message, &body);
        peer_header_seal(&header, &body, sizeof(body));
        const struct slice parts[2] = {{&header, sizeof(header)}, {&body, sizeof(body)}};
        self->env.send_peer(self->env.arg, effect->node, parts, 2);
    }
    self->pairs_effects.count = 0;
}

void host_peer_add(struct host *self, uint16_t node)
{
    ASSERT(self->started);
    if (node != self->options.pairs.node && !self->peer_added[node]) {
        self->peer_added[node] = true;
        pairs_set_member(&self->pairs, node, true);
    }
}

void host_peer_up(struct host *self, uint16_t node)
{
    (void)node;
    self->next_tick_ns = 0;
}

void host_peer_down(struct host *self, uint16_t node, uint64_t incarnation, bool proof)
{
    pairs_peer_down(&self->pairs, node, incarnation, proof);
    group__tick_all(self);
}

void peers__send(struct host *self, uint16_t node, struct peer_header *header, struct slice *parts, unsigned count)
{
    if (self->peer_version[node] == PEER_SPEECHLESS)
        return;
    header->magic = PEER_MAGIC;
    header->version = self->peer_version[node] == 0 ? PEER_VERSION_MIN : self->peer_version[node];
    header->time = self->clock.last;
    peer_header_seal(header, parts[1].data, parts[1].size);
    parts[0] = (struct slice){header, sizeof(*header)};
    self->figures.peer_messages++;
    self->env.send_peer(self->env.arg, node, parts, count);
}

uint8_t host_peer_version(const struct host *self, uint16_t node)
{
    return node >= PAIRS_NODES_MAX || self->peer_version[node] == PEER_SPEECHLESS ? 0 : self->peer_version[node];
}

/* A beat says what its sender understands. */
static void agree_on_version(struct host *self, uint16_t from, const struct peer_header *header, const uint8_t *body,
                             size_t size)
{
    uint8_t min, max;
    peer_pairs_versions(body, size, header->version, &min, &max);
    uint8_t agreed = peer_version_agreed(min, max);
    if (agreed == 0 && self->peer_version[from] != PEER_SPEECHLESS)
        LOG_ERROR("shard",
                  "node %u speaks the peer protocol's versions %u to %u, this node %u to %u: they can't work together; "
                  "upgrade the older one, a release at a time",
                  from, min, max, PEER_VERSION_MIN, PEER_VERSION);
    self->peer_version[from] = agreed == 0 ? PEER_SPEECHLESS : agreed;
}

static void receive_paxos(struct host *self, uint16_t from, const struct peer_header *header, const uint8_t *body,
                          size_t size)
{
    uint32_t count = 0;
    struct replica *replica = host__replica(self, header->group);
    if (replica == NULL)
        return; /* the map that creates the group has not come by yet */
    enum sluice_status status =
        peer_paxos_read(body, size, header->group, from, &self->message, self->received, &count);
    if (status == SLUICE_OK) {
        struct paxos_event event = {.type = PAXOS_EVENT_MESSAGE, .message = &self->message};
        self->figures.peer_messages++;
        replica__step(replica, &event, self->received, NULL);
    } else {
        LOG_WARN("shard", "group=%u node %u sent a message that was dropped: %s", header->group, from,
                 sluice_status_text(status));
    }
    for (uint32_t i = 0; i < count; i++) {
        buf_unref(self->received[i].body);
        self->received[i].body = NULL;
    }
}

static void receive_pairs(struct host *self, uint16_t from, const struct peer_header *header, const uint8_t *body,
                          size_t size)
{
    struct pairs_message message;
    agree_on_version(self, from, header, body, size);
    if (self->peer_version[from] == PEER_SPEECHLESS)
        return;
    enum sluice_status status = peer_pairs_read(body, size, header->time, &message);
    uint64_t incarnation = self->pairs.peers[from].incarnation;
    if (status == SLUICE_OK)
        status = pairs_receive(&self->pairs, from, &message, host__now(self), host_time(self), &self->pairs_effects);
    if (status != SLUICE_OK) {
        LOG_WARN("shard", "node %u sent a beat that was dropped: %s", from, sluice_status_text(status));
        return;
    }
    peers__carry_out(self);
    if (self->pairs.peers[from].incarnation != incarnation)
        group__tick_all(self);
}

static void receive_for_group(struct host *self, uint16_t from, const struct peer_header *header, const uint8_t *body,
                              size_t size)
{
    struct replica *replica = host__replica(self, header->group);
    struct peer_snapshot_ack ack;
    if (replica == NULL)
        return;
    if (header->kind == PEER_REPAIR_ASK || header->kind == PEER_REPAIR)
        repair__message(replica, from, header->kind, body, size);
    else if (header->kind == PEER_SNAPSHOT)
        install__message(replica, from, body, size);
    else if (peer_snapshot_ack_read(body, size, &ack) == SLUICE_OK)
        snapshot__acknowledged(replica, from, &ack);
    else
        LOG_WARN("shard", "group=%u node %u sent a malformed word about a snapshot", header->group, from);
}

void host_peer_message(struct host *self, uint16_t from, const void *data, size_t size)
{
    const uint8_t *bytes = data;
    struct peer_header header;
    if (size < sizeof(header) || from == 0 || from >= PAIRS_NODES_MAX || !self->peer_added[from]) {
        LOG_WARN("shard", "a peer message of %zu bytes from node %u was dropped", size, from);
        return;
    }
    memcpy(&header, data, sizeof(header));
    if (header.magic != PEER_MAGIC || header.version < PEER_VERSION_MIN || header.version > PEER_VERSION) {
        /* Damage on the way looks the same, so nothing but a beat changes what is known of the peer. */
        LOG_WARN("shard",
                 "node %u sent a message of the peer protocol's version %u, this node speaks %u to %u; if it goes on, "
                 "upgrade the older one, a release at a time",
                 from, header.version, PEER_VERSION_MIN, PEER_VERSION);
        return;
    }
    if (peer_header_check(&header, bytes + sizeof(header), size - sizeof(header)) != SLUICE_OK) {
        LOG_WARN("shard", "a message from node %u was damaged on its way and is dropped", from);
        return;
    }
    uint64_t wall = self->env.realtime_ns(self->env.arg);
    if (header.time > wall + HLC_AHEAD_MAX_NS && header.time > self->clock.last + HLC_AHEAD_MAX_NS)
        LOG_WARN("shard", "the clock of node %u leads this one's by %llu ms; check the time service", from,
                 (unsigned long long)((header.time - wall) / NS_PER_MS));
    hlc_merge(&self->clock, header.time);
    bytes += sizeof(header);
    size -= sizeof(header);
    if (header.kind == PEER_PAXOS)
        receive_paxos(self, from, &header, bytes, size);
    else if (header.kind == PEER_PAIRS)
        receive_pairs(self, from, &header, bytes, size);
    else if (header.kind >= PEER_SNAPSHOT && header.kind <= PEER_REPAIR)
        receive_for_group(self, from, &header, bytes, size);
    else if (header.kind == PEER_MAP_CHANGE)
        host_map_change(self, (const char *)bytes, size);
    else
        LOG_WARN("shard", "node %u sent a message of an unknown kind %u", from, header.kind);
}

void host_map_change(struct host *self, const char *json, size_t size)
{
    struct replica *replica = host__replica(self, MAP_GROUP);
    if (replica == NULL || size == 0 || size > WIRE_BODY_BYTES_MAX)
        return;
    if (replica->paxos.role == PAXOS_LEADER) {
        const struct host__pending nobody = {0};
        struct buf *body = buf_dup(json, (uint32_t)size);
        if (body == NULL || !replica__takes_writes(replica) ||
            replica__queue(replica, body, crc32c(json, size), ENTRY_MAP, &nobody) != SLUICE_OK)
            buf_unref(body);
        return;
    }
    uint16_t leader = replica->paxos.leader;
    if (leader == 0 || leader == self->options.pairs.node)
        return;
    struct peer_header header = {.kind = PEER_MAP_CHANGE};
    struct slice parts[2] = {[1] = {json, size}};
    peers__send(self, leader, &header, parts, 2);
}

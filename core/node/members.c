/* Who else there is. The map names the nodes and where they are; nodes that do not keep the map themselves are told of
 * it by those that do. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "core/node/node__.h"
#include "core/shard/peer.h"

/* Kinds of peer messages that are between nodes, above those of the shards. */
enum members_kind { MEMBERS_GREETING = PEER_KIND_NODE, MEMBERS_MAP };

/* Sent when a link comes up, and again when what it says has changed. Frozen layout, little-endian. */
struct members_greeting {
    uint64_t map_epoch; /* 0: none */
    uint32_t level_min, level_max;
    uint32_t holds_map; /* is fed by the map group's log */
    uint32_t level;     /* at which the cluster works as far as is known there; 0: not said */
};
_Static_assert(sizeof(struct members_greeting) == 24, "frozen layout");

struct node__member *members__find(struct node *self, uint32_t id)
{
    for (size_t i = 0; i < self->member_count; i++)
        if (self->members[i].id == id)
            return &self->members[i];
    return NULL;
}

struct node__member *members__make(struct node *self, uint16_t id)
{
    struct node__member *found = members__find(self, id);
    if (found != NULL || self->member_count == NODE_MEMBERS_MAX)
        return found;
    self->members[self->member_count] = (struct node__member){.id = id, .known = true};
    return &self->members[self->member_count++];
}

static void drop_addresses(struct node__member *member)
{
    for (size_t i = 0; i < member->address_count; i++)
        free(member->addresses[i]);
    member->address_count = 0;
}

enum sluice_status members__add_address(struct node__member *member, const char *address)
{
    if (member->address_count == NODE_ADDRESSES_MAX)
        return SLUICE_OK;
    char *copy = strdup(address);
    if (copy == NULL)
        return SLUICE_MEMORY;
    member->addresses[member->address_count++] = copy;
    return SLUICE_OK;
}

void members__free(struct node *self)
{
    for (size_t i = 0; i < self->member_count; i++)
        drop_addresses(&self->members[i]);
    self->member_count = 0;
}

/* ---- Following the map ---- */

static bool same_addresses(const struct node__member *member, const struct map_node *node)
{
    size_t count = node->address_count < NODE_ADDRESSES_MAX ? node->address_count : NODE_ADDRESSES_MAX;
    if (member->address_count != count)
        return false;
    for (size_t i = 0; i < count; i++)
        if (strcmp(member->addresses[i], node->addresses[i]) != 0)
            return false;
    return true;
}

void members__follow_map(struct node *self)
{
    const struct map *map = node__map(self);
    bool changed = false;
    if (map == NULL)
        return;
    for (size_t i = 0; i < map->node_count; i++) {
        const struct map_node *node = &map->nodes[i];
        if (node->id >= PAIRS_NODES_MAX)
            continue;
        struct node__member *member = members__find(self, node->id);
        if (member == NULL) {
            member = members__make(self, node->id);
            if (member == NULL)
                continue;
            LOG_INFO("node", "node %u belongs to the cluster now", node->id);
            changed = true;
        }
        host_peer_add(self->host, node->id);
        bool known = node->state != MAP_NODE_GONE;
        if (known != member->known)
            LOG_INFO("node", "node %u %s", node->id, known ? "belongs to the cluster again" : "has left the cluster");
        member->known = known;
        /* A node that has not said where it is keeps the place that the options gave it. */
        if (node->address_count == 0 || same_addresses(member, node))
            continue;
        changed = true;
        drop_addresses(member);
        for (size_t k = 0; k < node->address_count; k++)
            if (members__add_address(member, node->addresses[k]) != SLUICE_OK)
                LOG_WARN("node", "no memory to keep an address of node %u", node->id);
        member->dial_at_ns = 0;
    }
    if (changed)
        data__keep_peers(self);
}

/* ---- Messages between nodes ---- */

static void send_to(struct node *self, struct node__member *member, uint8_t kind, const void *head, size_t head_size,
                    const void *body, size_t body_size)
{
    struct peer_header header = {
        .magic = PEER_MAGIC, .version = PEER_VERSION_MIN, .kind = kind, .time = host_time(self->host)};
    peer_header_seal(&header, head, head_size);
    const struct slice parts[3] = {{&header, sizeof(header)}, {head, head_size}, {body, body_size}};
    links__send_peer(self, member->id, parts, body_size == 0 ? 2 : 3);
}

void members__greet(struct node *self, struct node__member *member)
{
    const struct map *map = node__map(self);
    const struct members_greeting greeting = {
        .map_epoch = map == NULL ? 0 : map->epoch,
        .level_min = MAP_LEVEL_MIN,
        .level_max = MAP_LEVEL,
        .holds_map = host_group_has(self->host, MAP_GROUP, NULL),
        .level = map == NULL ? 0 : map->level,
    };
    if (member->link != NULL)
        send_to(self, member, MEMBERS_GREETING, &greeting, sizeof(greeting), NULL, 0);
}

void members__greet_all(struct node *self)
{
    for (size_t i = 0; i < self->member_count; i++)
        members__greet(self, &self->members[i]);
}

/* Not told: who is fed by the map group's log. Who only believes that it is, but is no member by the map, is told too:
 * that is how a node that was away learns that it was removed. */
static bool to_be_told(const struct map *map, const struct node__member *member)
{
    return member->link != NULL && member->greeted && member->map_epoch < map->epoch &&
           !(member->holds_map && map_replica_find(&map->group, member->id) != NULL);
}

void members__tell(struct node *self)
{
    const struct map *map = node__map(self);
    if (map == NULL)
        return;
    const char *text = node__map_text(self);
    for (size_t i = 0; i < self->member_count; i++) {
        struct node__member *member = &self->members[i];
        if (!to_be_told(map, member))
            continue;
        member->map_epoch = map->epoch;
        send_to(self, member, MEMBERS_MAP, text, strlen(text), NULL, 0);
    }
}

static void on_greeting(struct node *self, struct node__member *member, const void *data, size_t size)
{
    struct members_greeting greeting;
    const struct map *map = node__map(self);
    if (size != sizeof(greeting)) {
        LOG_WARN("node", "node %u sent a greeting of %zu bytes; %zu were expected", member->id, size, sizeof(greeting));
        return;
    }
    memcpy(&greeting, data, sizeof(greeting));
    uint32_t level = map == NULL ? MAP_LEVEL_MIN : map->level;
    if (greeting.level_max < level || greeting.level_min > MAP_LEVEL)
        LOG_WARN("node",
                 "node %u understands levels %u to %u, the cluster works at level %u: it is not heard; upgrade it",
                 member->id, greeting.level_min, greeting.level_max, level);
    if (greeting.level != 0)
        levels__heard(self, member, greeting.level);
    member->greeted = true;
    member->level_max = greeting.level_max;
    member->holds_map = greeting.holds_map != 0;
    member->map_epoch = greeting.map_epoch;
    members__tell(self);
}

static void on_map(struct node *self, struct node__member *member, const void *data, size_t size)
{
    char error[256];
    struct map *map = NULL;
    enum sluice_status status = map_parse(data, size, &map, error);
    if (status != SLUICE_OK) {
        LOG_WARN("node", "node %u sent a cluster map that cannot be read: %s", member->id, error);
        return;
    }
    const struct map *known = node__map(self);
    char *text = strndup(data, size);
    if (text == NULL || (known != NULL && known->epoch >= map->epoch) ||
        memcmp(map->cluster, self->identity.cluster, sizeof(map->cluster)) != 0) {
        free(text);
        map_destroy(map);
        return;
    }
    map_destroy(self->told_map);
    free(self->told_text);
    self->told_map = map;
    self->told_text = text;
    if (member->map_epoch < map->epoch)
        member->map_epoch = map->epoch;
}

bool members__message(struct node *self, struct node__member *member, const void *data, size_t size)
{
    struct peer_header header;
    if (size < sizeof(header))
        return false;
    memcpy(&header, data, sizeof(header));
    const uint8_t *body = (const uint8_t *)data + sizeof(header);
    size -= sizeof(header);
    if (header.magic != PEER_MAGIC || header.version < PEER_VERSION_MIN || header.version > PEER_VERSION ||
        header.kind < PEER_KIND_NODE)
        return false;
    if (peer_header_check(&header, body, size) != SLUICE_OK || header.head_size != size) {
        LOG_WARN("node", "node %u sent a damaged message; it was dropped", member->id);
        return true;
    }
    if (header.kind == MEMBERS_GREETING)
        on_greeting(self, member, body, size);
    else if (header.kind == MEMBERS_MAP)
        on_map(self, member, body, size);
    /* Another kind is of a later release, whose nodes use it among themselves. */
    return true;
}

void members__change(struct node *self, const char *json, size_t size)
{
    if (host_group_has(self->host, MAP_GROUP, NULL)) {
        host_map_change(self->host, json, size);
        return;
    }
    /* Somebody who holds the map passes it on to its leader. */
    for (size_t i = 0; i < self->member_count; i++) {
        struct node__member *member = &self->members[(self->register_turn + i) % self->member_count];
        if (member->link == NULL || !member->greeted || !member->holds_map)
            continue;
        self->register_turn = (self->register_turn + i + 1) % self->member_count;
        send_to(self, member, PEER_MAP_CHANGE, json, size, NULL, 0);
        return;
    }
}

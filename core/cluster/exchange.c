/* What nodes tell each other: who they are, and the map, for nodes that are not fed by its log. */
#include <stdlib.h>
#include <string.h>

#include "core/cluster/participant__.h"
#include "core/shard/peer.h"

/* Kinds of peer messages that are between nodes, above those of the shards. */
enum exchange_kind { EXCHANGE_GREETING = PEER_KIND_NODE, EXCHANGE_MAP };

/* Sent when a link comes up, and again when what it says has changed. Frozen layout, little-endian. */
struct exchange_greeting {
    uint64_t map_epoch; /* 0: none */
    uint32_t level_min, level_max;
    uint32_t holds_map; /* is fed by the map group's log */
    uint32_t level;     /* at which the cluster works as far as is known there; 0: not said */
};
_Static_assert(sizeof(struct exchange_greeting) == 24, "frozen layout");

static void send_to(struct participant *self, uint16_t node, uint8_t kind, const void *head, size_t size)
{
    struct peer_header header = {
        .magic = PEER_MAGIC, .version = PEER_VERSION_MIN, .kind = kind, .time = host_time(self->host)};
    peer_header_seal(&header, head, size);
    const struct slice parts[2] = {{&header, sizeof(header)}, {head, size}};
    self->env.send(self->env.arg, node, parts, 2);
}

static void greet(struct participant *self, uint16_t node)
{
    const struct map *map = participant_map(self);
    /* Who doubts that it is fed any more asks for the map, whichever it has. */
    bool doubted = map != NULL && residence__doubted(self, map);
    const struct exchange_greeting greeting = {
        .map_epoch = map == NULL || doubted ? 0 : map->epoch,
        .level_min = MAP_LEVEL_MIN,
        .level_max = MAP_LEVEL,
        .holds_map = host_group_has(self->host, MAP_GROUP, NULL) && !doubted,
        .level = map == NULL ? 0 : map->level,
    };
    if (self->peers[node].up)
        send_to(self, node, EXCHANGE_GREETING, &greeting, sizeof(greeting));
}

void exchange__greet_all(struct participant *self)
{
    for (uint16_t node = 1; node < PARTICIPANT_NODES; node++)
        greet(self, node);
}

void participant_link_up(struct participant *self, uint16_t node)
{
    ASSERT(node < PARTICIPANT_NODES);
    struct participant__peer *peer = &self->peers[node];
    peer->up = true;
    peer->greeted = false;
    peer->up_at_ns = self->env.monotonic_ns(self->env.arg);
    greet(self, node);
}

void participant_link_down(struct participant *self, uint16_t node)
{
    ASSERT(node < PARTICIPANT_NODES);
    self->peers[node].up = false;
}

bool participant_refuses(const struct participant *self, uint16_t node)
{
    const struct map *map = participant_map(self);
    return self->peers[node].greeted && map != NULL && self->peers[node].level_max < map->level;
}

static void tell(struct participant *self, uint16_t node)
{
    const struct map *map = participant_map(self);
    struct participant__peer *peer = &self->peers[node];
    if (map == NULL || !peer->up || !peer->greeted)
        return;
    const char *text = participant_map_text(self);
    peer->map_epoch = map->epoch;
    send_to(self, node, EXCHANGE_MAP, text, strlen(text));
}

/* Not told of each change: who is fed by the map group's log. Who only believes that it is, but is no member by the
 * map, is told too: that is how a node learns that it was removed. */
void exchange__tell(struct participant *self)
{
    const struct map *map = participant_map(self);
    for (uint16_t node = 1; map != NULL && node < PARTICIPANT_NODES; node++)
        if (self->peers[node].map_epoch < map->epoch &&
            (!self->peers[node].holds_map || map_replica_find(&map->group, node) == NULL))
            tell(self, node);
}

static void on_greeting(struct participant *self, uint16_t from, const void *data, size_t size)
{
    struct exchange_greeting greeting;
    struct participant__peer *peer = &self->peers[from];
    const struct map *map = participant_map(self);
    char words[240];
    if (size != sizeof(greeting)) {
        LOG_WARN("cluster", "node %u sent a greeting of %zu bytes; %zu were expected", from, size, sizeof(greeting));
        return;
    }
    memcpy(&greeting, data, sizeof(greeting));
    uint32_t level = map == NULL ? MAP_LEVEL_MIN : map->level;
    if (greeting.level_max < level || greeting.level_min > MAP_LEVEL)
        LOG_WARN("cluster",
                 "node %u understands levels %u to %u, the cluster works at level %u: it is not heard; upgrade it",
                 from, greeting.level_min, greeting.level_max, level);
    if (greeting.level != 0 && !self->failed && !participant_understands(greeting.level, words, sizeof(words))) {
        LOG_ERROR("cluster", "node %u says that %s", from, words);
        participant__fail(self, SLUICE_VERSION, words);
    }
    peer->greeted = true;
    peer->level_max = greeting.level_max;
    peer->holds_map = greeting.holds_map != 0;
    peer->map_epoch = greeting.map_epoch;
    /* Even if it believes that the log feeds it: it may hold an earlier placement's replica, which nobody feeds. */
    if (map != NULL && greeting.map_epoch < map->epoch)
        tell(self, from);
}

static void on_map(struct participant *self, uint16_t from, const void *data, size_t size)
{
    char error[256];
    struct map *map = NULL;
    enum sluice_status status = map_parse(data, size, &map, error);
    if (status != SLUICE_OK) {
        LOG_WARN("cluster", "node %u sent a cluster map that cannot be read: %s", from, error);
        return;
    }
    const struct map *known = participant_map(self);
    char *text = strndup(data, size);
    /* The same as the log's is heard too: it is somebody else's word for it. */
    if (text == NULL || map->epoch < self->options.joined || (known != NULL && known->epoch > map->epoch) ||
        (self->told_map != NULL && self->told_map->epoch >= map->epoch) ||
        memcmp(map->cluster, self->options.cluster, sizeof(map->cluster)) != 0) {
        free(text);
        map_destroy(map);
        return;
    }
    map_destroy(self->told_map);
    free(self->told_text);
    self->told_map = map;
    self->told_text = text;
    if (self->map_epoch_seen == map->epoch)
        self->map_epoch_seen--; /* to be followed once more */
    if (self->peers[from].map_epoch < map->epoch)
        self->peers[from].map_epoch = map->epoch;
}

bool participant_message(struct participant *self, uint16_t from, const void *data, size_t size)
{
    struct peer_header header;
    if (size < sizeof(header) || from >= PARTICIPANT_NODES)
        return false;
    memcpy(&header, data, sizeof(header));
    const uint8_t *body = (const uint8_t *)data + sizeof(header);
    size -= sizeof(header);
    if (header.magic != PEER_MAGIC || header.version < PEER_VERSION_MIN || header.version > PEER_VERSION ||
        header.kind < PEER_KIND_NODE)
        return false;
    if (peer_header_check(&header, body, size) != SLUICE_OK || header.head_size != size) {
        LOG_WARN("cluster", "node %u sent a damaged message; it was dropped", from);
        return true;
    }
    if (header.kind == EXCHANGE_GREETING)
        on_greeting(self, from, body, size);
    else if (header.kind == EXCHANGE_MAP)
        on_map(self, from, body, size);
    /* Another kind is of a later release, whose nodes use it among themselves. */
    return true;
}

void participant_change(struct participant *self, const char *json, size_t size)
{
    if (host_group_has(self->host, MAP_GROUP, NULL)) {
        host_map_change(self->host, json, size);
        return;
    }
    /* Somebody who holds the map passes it on to its leader. */
    for (uint16_t i = 1; i <= PARTICIPANT_NODES; i++) {
        uint16_t node = (uint16_t)((self->change_turn + i) % PARTICIPANT_NODES);
        const struct participant__peer *peer = &self->peers[node];
        if (!peer->up || !peer->greeted || !peer->holds_map)
            continue;
        self->change_turn = node;
        send_to(self, node, PEER_MAP_CHANGE, json, size);
        return;
    }
}

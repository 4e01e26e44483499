/* What a node tells the map: that it is there, and which shards have arrived where they are wanted. And whom it lets
 * lead.
 */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/cluster/participant__.h"

#define REGISTER_EVERY_NS (200 * NS_PER_MS)
#define SETTLE_EVERY_NS   (50 * NS_PER_MS)
#define SETTLE_REPORT_MAX 256 /* shards in one report */
/* The lead goes to whom the map prefers once that node has been there for a while; a try that failed is not repeated
 * for longer. */
#define LEAD_EVERY_NS   NS_PER_S
#define LEAD_AFTER_NS   (3 * NS_PER_S)
#define LEAD_AGAIN_NS   (30 * NS_PER_S)
#define LEAD_OFFERS_MAX 8 /* to one node at a time */

static void bootstrap(struct participant *self)
{
    char *change = self->env.bootstrap(self->env.arg);
    if (change != NULL)
        participant_change(self, change, strlen(change));
    free(change);
}

/* Tells the map which process speaks for this node by now, until the map says so itself. */
void arrival__register(struct participant *self, uint64_t now)
{
    self->register_at_ns = now + REGISTER_EVERY_NS;
    const struct map *map = participant_map(self);
    if (map == NULL) {
        if (self->options.joined == 0 && self->options.founders != 0)
            bootstrap(self);
        return;
    }
    const struct map_node *node = map_node_find(map, self->options.node);
    if (node == NULL || node->state == MAP_NODE_GONE) {
        self->register_at_ns = now + NS_PER_S; /* not a member yet, or not any more: only a new map can change that */
        return;
    }
    if (node->state != MAP_NODE_JOINING && node->incarnation == self->options.incarnation &&
        node->level_max == MAP_LEVEL) {
        self->register_at_ns = UINT64_MAX; /* until another map says otherwise */
        return;
    }
    char incarnation[24];
    const char *address;
    snprintf(incarnation, sizeof(incarnation), "%llu", (unsigned long long)self->options.incarnation);
    json_t *addresses = json_array();
    for (unsigned i = 0; (address = self->env.address(self->env.arg, i)) != NULL; i++)
        json_array_append_new(addresses, json_string(address));
    json_t *change =
        json_pack("{s:s, s:i, s:s, s:o, s:[i, i]}", "change", "node_register", "node", (int)self->options.node,
                  "incarnation", incarnation, "addresses", addresses, "levels", MAP_LEVEL_MIN, MAP_LEVEL);
    char *text = change == NULL ? NULL : json_dumps(change, JSON_COMPACT);
    if (text != NULL)
        participant_change(self, text, strlen(text));
    free(text);
    json_decref(change);
}

void participant_caught_up(struct participant *self, uint32_t group)
{
    char text[160];
    int size =
        snprintf(text, sizeof(text), "{\"change\":\"shard_admit\",\"shard\":%u,\"node\":%u,\"incarnation\":\"%llu\"}",
                 group, self->options.node, (unsigned long long)self->options.incarnation);
    participant_change(self, text, (size_t)size);
}

void participant_members_changed(struct participant *self, uint32_t group, uint64_t epoch, uint64_t members)
{
    LOG_DEBUG("cluster", "group=%u epoch=%llu its members are %llx now", group, (unsigned long long)epoch,
              (unsigned long long)members);
    self->settle_at_ns = 0;
}

struct settling {
    struct participant *participant;
    const struct map *map;
    json_t *shards;
};

static void look_whether_settled(void *arg, const struct host_group_status *status)
{
    struct settling *settling = arg;
    const struct map *map = settling->map;
    const struct map_shard *shard = status->group == MAP_GROUP ? &map->group : map_shard_find(map, status->group);
    if (shard == NULL || shard->moving == 0 || shard->epoch != status->epoch || strcmp(status->role, "leader") != 0)
        return;
    if (status->members != map_wanted(shard) || !status->settled ||
        json_array_size(settling->shards) >= SETTLE_REPORT_MAX)
        return;
    char moving[24], members[24];
    snprintf(moving, sizeof(moving), "%llu", (unsigned long long)shard->moving);
    snprintf(members, sizeof(members), "%llu", (unsigned long long)status->members);
    json_array_append_new(settling->shards, json_pack("{s:I, s:I, s:s, s:s}", "shard", (json_int_t)shard->id, "epoch",
                                                      (json_int_t)shard->epoch, "moving", moving, "members", members));
}

static bool anything_moves(const struct map *map)
{
    bool moves = map->group.moving != 0;
    for (size_t i = 0; !moves && i < map->shard_count; i++)
        moves = map->shards[i].moving != 0;
    return moves;
}

void arrival__settle(struct participant *self, const struct map *map, uint64_t now)
{
    struct settling settling = {.map = map, .shards = json_array()};
    self->settle_at_ns = UINT64_MAX;
    if (!anything_moves(map)) {
        json_decref(settling.shards);
        return;
    }
    host_each_group(self->host, look_whether_settled, &settling);
    bool told = json_array_size(settling.shards) > 0;
    /* A report that is lost is made again; one that arrives brings a new map, which looks anew. */
    self->settle_at_ns = now + (told ? 4 * SETTLE_EVERY_NS : SETTLE_EVERY_NS);
    json_t *document = told ? json_pack("{s:s, s:O}", "change", "shards_settled", "shards", settling.shards) : NULL;
    char *text = document == NULL ? NULL : json_dumps(document, JSON_COMPACT);
    if (text != NULL)
        participant_change(self, text, strlen(text));
    free(text);
    json_decref(document);
    json_decref(settling.shards);
}

struct leading {
    struct participant *participant;
    const struct map *map;
    uint64_t now;
};

/* The map prefers another leader, who is a member and has been there for a while. */
static void offer_lead(void *arg, const struct host_group_status *status)
{
    struct leading *leading = arg;
    struct participant *self = leading->participant;
    const struct map *map = leading->map;
    const struct map_shard *shard = status->group == MAP_GROUP ? &map->group : map_shard_find(map, status->group);
    if (shard == NULL || shard->moving != 0 || shard->epoch != status->epoch || strcmp(status->role, "leader") != 0)
        return;
    uint16_t preferred = shard->replicas[0].node;
    if (preferred == self->options.node || preferred >= PARTICIPANT_NODES)
        return;
    struct participant__peer *peer = &self->peers[preferred];
    if (!peer->up || (status->members >> preferred & 1) == 0 || leading->now < peer->up_at_ns + LEAD_AFTER_NS ||
        leading->now < peer->lead_at_ns)
        return;
    peer->lead_held++;
    if (peer->lead_offers >= LEAD_OFFERS_MAX)
        return;
    peer->lead_offers++;
    LOG_DEBUG("cluster", "group=%u node %u may lead it again", status->group, preferred);
    host_group_transfer(self->host, status->group, preferred);
}

void arrival__offer_leads(struct participant *self, const struct map *map, uint64_t now)
{
    struct leading leading = {.participant = self, .map = map, .now = now};
    self->lead_at_ns = now + LEAD_EVERY_NS;
    host_each_group(self->host, offer_lead, &leading);
    for (uint16_t node = 1; node < PARTICIPANT_NODES; node++) {
        struct participant__peer *peer = &self->peers[node];
        /* It has taken none of those that were offered a moment ago. */
        if (peer->lead_offered && peer->lead_held >= peer->lead_held_before)
            peer->lead_at_ns = now + LEAD_AGAIN_NS;
        peer->lead_offered = peer->lead_offers > 0;
        peer->lead_held_before = peer->lead_held;
        peer->lead_held = peer->lead_offers = 0;
    }
}

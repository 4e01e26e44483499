/* The cluster as a whole: the map, and what each node says of itself. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/client__.h"

#define NODES_MAX 64

/* What a node said of a replica. */
struct said {
    uint32_t shard;
    const json_t *entry;
};

/* What a node said, and how its word on a shard is found. */
struct witness {
    uint16_t node;
    const struct gather_node *told;
    struct said *shards; /* by number */
    size_t count;
};

struct cluster_job {
    struct job job;
    struct gather gather;
    struct witness witnesses[NODES_MAX]; /* in the order of the answers */
    size_t count;
    const struct witness *by_node[NODES_MAX];
};

static void cluster_deinit(struct job *job)
{
    struct cluster_job *self = (struct cluster_job *)job;
    for (size_t i = 0; i < self->count; i++)
        free(self->witnesses[i].shards);
    gather__deinit(&self->gather);
}

static uint64_t number_of(const json_t *object, const char *name)
{
    const json_t *value = json_object_get(object, name);
    if (json_is_string(value))
        return strtoull(json_string_value(value), NULL, 10);
    return json_is_integer(value) && json_integer_value(value) > 0 ? (uint64_t)json_integer_value(value) : 0;
}

static json_t *number_text(uint64_t number)
{
    char text[24];
    snprintf(text, sizeof(text), "%llu", (unsigned long long)number);
    return json_string(text);
}

static int compare_said(const void *a, const void *b)
{
    uint32_t left = ((const struct said *)a)->shard, right = ((const struct said *)b)->shard;
    return (left > right) - (left < right);
}

static bool hear(struct witness *self, const struct gather_node *told)
{
    const json_t *shards = json_object_get(told->json, "shards"), *entry;
    size_t i;
    *self = (struct witness){.node = told->node, .told = told};
    self->shards = calloc(json_array_size(shards) + 1, sizeof(*self->shards));
    if (self->shards == NULL)
        return false;
    json_array_foreach(shards, i, entry)
    {
        self->shards[self->count++] = (struct said){.shard = (uint32_t)number_of(entry, "id"), .entry = entry};
    }
    qsort(self->shards, self->count, sizeof(*self->shards), compare_said);
    return true;
}

static bool hear_all(struct cluster_job *self)
{
    for (size_t i = 0; i < self->gather.count; i++) {
        const struct gather_node *told = &self->gather.nodes[i];
        if (told->node >= NODES_MAX || self->count == NODES_MAX)
            continue;
        struct witness *witness = &self->witnesses[self->count];
        if (!hear(witness, told))
            return false;
        self->count++;
        self->by_node[told->node] = witness;
    }
    return true;
}

/* What the node says of its replica of a shard (or of the map group); NULL: nothing. */
static const json_t *replica_entry(const struct cluster_job *self, uint16_t node, uint32_t shard)
{
    const struct witness *witness = node < NODES_MAX ? self->by_node[node] : NULL;
    const struct said wanted = {.shard = shard};
    const struct said *found = witness == NULL || witness->count == 0
                                   ? NULL
                                   : bsearch(&wanted, witness->shards, witness->count, sizeof(wanted), compare_said);
    return found == NULL ? NULL : found->entry;
}

/* Who leads under the highest ballot, in its own word; a deposed leader that has not heard yet has a lower one. */
static uint16_t leader_of(const struct cluster_job *self, uint32_t shard, const json_t **entry)
{
    uint64_t highest = 0;
    uint16_t leader = 0;
    *entry = NULL;
    for (size_t i = 0; i < self->count; i++) {
        const json_t *its = replica_entry(self, self->witnesses[i].node, shard);
        const char *role = json_string_value(json_object_get(its, "role"));
        uint64_t ballot = number_of(its, "ballot");
        if (role == NULL || strcmp(role, "leader") != 0 || (leader != 0 && ballot <= highest))
            continue;
        highest = ballot;
        leader = self->witnesses[i].node;
        *entry = its;
    }
    return leader;
}

static bool linked(const struct cluster_job *self, uint16_t node)
{
    const struct peer *peer = link__peer(self->job.client, node);
    return peer != NULL && peer->link != NULL;
}

static json_t *node_json(const struct map_node *node, const struct cluster_job *self)
{
    static const char *const kept[] = {"uptime_ms", "storage", "peers", "figures", "log"};
    json_t *addresses = json_array();
    const struct witness *witness = node->id < NODES_MAX ? self->by_node[node->id] : NULL;
    const json_t *told = witness == NULL ? NULL : witness->told->json;
    for (size_t i = 0; i < node->address_count; i++)
        json_array_append_new(addresses, json_string(node->addresses[i]));
    json_t *document =
        json_pack("{s:i, s:s, s:b, s:o, s:o}", "id", (int)node->id, "state",
                  told != NULL             ? "up"
                  : linked(self, node->id) ? "silent"
                                           : "unreachable",
                  "reachable", told != NULL, "addresses", addresses, "incarnation", number_text(node->incarnation));
    json_object_set_new(document, "membership", json_string(map_node_state_name(node->state)));
    json_object_set_new(document, "levels", json_pack("[i, i]", (int)node->level_min, (int)node->level_max));
    for (size_t i = 0; i < sizeof(kept) / sizeof(kept[0]); i++) {
        json_t *value = json_object_get(told, kept[i]);
        if (value != NULL)
            json_object_set(document, kept[i], value);
    }
    return document;
}

static bool member_by(const json_t *leader, const char *set, uint16_t node)
{
    size_t i;
    const json_t *id;
    json_array_foreach(json_object_get(leader, set), i, id)
    {
        if (json_integer_value(id) == node)
            return true;
    }
    return false;
}

/* `leader` is what the leader says of the shard; NULL: nobody leads. A node can be wanted by the map, a member by the
 * log, both, or one of them while the shard moves. */
static json_t *replica_json(uint16_t node, bool wanted, const json_t *entry, const json_t *leader)
{
    const char *role = json_string_value(json_object_get(entry, "role"));
    json_t *document = json_pack("{s:i, s:s, s:b}", "node", (int)node, "role",
                                 entry == NULL  ? "unreachable"
                                 : role == NULL ? ""
                                                : role,
                                 "wanted", wanted);
    if (json_object_get(leader, "members") != NULL) {
        bool learns = member_by(leader, "learners", node);
        json_object_set_new(document, "member", json_boolean(member_by(leader, "members", node)));
        json_object_set_new(document, "learner", json_boolean(learns));
        if (learns && entry != NULL && role != NULL && strcmp(role, "follower") == 0)
            json_object_set_new(document, "role", json_string("learner"));
    }
    if (entry == NULL)
        return document;
    uint64_t stable = number_of(entry, "stable"), ahead = number_of(leader, "stable");
    static const char *const numbers[] = {"stable", "last", "applied", "persisted", "snapshot_bytes"};
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
        if (i < 3 || json_object_get(entry, numbers[i]) != NULL)
            json_object_set_new(document, numbers[i], number_text(number_of(entry, numbers[i])));
    if (leader != NULL)
        json_object_set_new(document, "lag", json_integer((json_int_t)(ahead > stable ? ahead - stable : 0)));
    return document;
}

/* Replicas that the map wants, that leave, and that only the log knows of. */
static json_t *replicas_json(const struct map_shard *shard, const struct cluster_job *self, const json_t *leader)
{
    json_t *replicas = json_array();
    uint64_t shown = 0;
    for (size_t i = 0; i < shard->replica_count + shard->leaving_count; i++) {
        bool wanted = i < shard->replica_count;
        uint16_t node = wanted ? shard->replicas[i].node : shard->leaving[i - shard->replica_count].node;
        shown |= node < 64 ? UINT64_C(1) << node : 0;
        json_array_append_new(replicas, replica_json(node, wanted, replica_entry(self, node, shard->id), leader));
    }
    size_t i;
    const json_t *id;
    json_array_foreach(json_object_get(leader, "members"), i, id)
    {
        json_int_t node = json_integer_value(id);
        if (node > 0 && node < 64 && (shown >> node & 1) == 0)
            json_array_append_new(
                replicas, replica_json((uint16_t)node, false, replica_entry(self, (uint16_t)node, shard->id), leader));
    }
    return replicas;
}

static json_t *shard_json(const struct map *map, const struct map_shard *shard, const struct cluster_job *self)
{
    const json_t *entry = NULL;
    uint16_t leader = leader_of(self, shard->id, &entry);
    json_t *document = json_pack("{s:I, s:s*, s:I, s:i, s:b, s:o}", "id", (json_int_t)shard->id, "pool",
                                 shard->pool < map->pool_count ? map->pools[shard->pool].prefix : NULL, "epoch",
                                 (json_int_t)shard->epoch, "leader", (int)leader, "moving", shard->moving != 0,
                                 "replicas", replicas_json(shard, self, entry));
    if (entry != NULL)
        json_object_set_new(document, "stable", number_text(number_of(entry, "stable")));
    return document;
}

static void told(struct gather *gather)
{
    struct cluster_job *self = LIST__OF(gather, struct cluster_job, gather);
    const struct map *map = self->job.client->map;
    const json_t *entry = NULL;
    char cluster[33];
    if (!hear_all(self)) {
        job__fail(&self->job, SLUICE_MEMORY, "no memory for the answer");
        return;
    }
    json_t *nodes = json_array(), *shards = json_array();
    for (size_t i = 0; i < sizeof(map->cluster); i++)
        snprintf(cluster + 2 * i, 3, "%02x", map->cluster[i]);
    for (size_t i = 0; i < map->node_count; i++)
        json_array_append_new(nodes, node_json(&map->nodes[i], self));
    for (size_t i = 0; i < map->shard_count; i++)
        json_array_append_new(shards, shard_json(map, &map->shards[i], self));
    json_t *document =
        json_pack("{s:s, s:I, s:i, s:i, s:o, s:o, s:o}", "cluster", cluster, "map_epoch", (json_int_t)map->epoch,
                  "level", (int)map->level, "map_leader", (int)leader_of(self, MAP_GROUP, &entry), "map_group",
                  shard_json(map, &map->group, self), "nodes", nodes, "shards", shards);
    char *text = document == NULL ? NULL : json_dumps(document, JSON_COMPACT);
    json_decref(document);
    if (text == NULL)
        job__fail(&self->job, SLUICE_MEMORY, "no memory for the answer");
    else
        job__answer_json(&self->job, SLUICE_OK, sluice_status_text(SLUICE_OK), text);
    free(text);
}

static void go(struct job *job)
{
    struct cluster_job *self = (struct cluster_job *)job;
    self->gather.prompt = true;
    if (!gather__start(&self->gather, job, WIRE_STATUS, NULL, 0, told))
        job__fail(job, SLUICE_MEMORY, "no memory for the request");
}

void sluice_cluster(struct sluice_client *client, const struct sluice_call *call, sluice_done done, void *arg)
{
    struct cluster_job *self = job__create(client, sizeof(*self), call, done, arg, cluster_deinit);
    if (self != NULL)
        job__later(&self->job, go);
}

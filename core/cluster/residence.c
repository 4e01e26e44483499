/* The groups of a node: opened, closed and erased as the map wants it. */
#include <stdlib.h>

#include "core/cluster/participant__.h"

#define ERASE_EVERY_NS (50 * NS_PER_MS) /* a shard at a time, which may wait for the disk */

/* A group begins with its founders, the preferred leader first. Whoever joins later begins there too: it is none of
 * them any more, and the log teaches it what became of the members, one step at a time. */
static void set_founders(struct host_group *group, uint64_t founders, const struct map_shard *shard)
{
    for (size_t i = 0; shard != NULL && i < shard->replica_count; i++) {
        uint16_t node = shard->replicas[i].node;
        if (node < 64 && (founders >> node & 1) != 0)
            group->replicas[group->replica_count++] = node;
    }
    for (uint16_t node = 1; node < 64 && group->replica_count < PAXOS_REPLICAS_MAX; node++) {
        bool there = (founders >> node & 1) == 0;
        for (uint32_t i = 0; i < group->replica_count; i++)
            there = there || group->replicas[i] == node;
        if (!there)
            group->replicas[group->replica_count++] = node;
    }
}

/* What this node left of the group and has not erased yet goes before it begins anew. */
static enum sluice_status erase_before(struct participant *self, uint32_t group)
{
    uint32_t found;
    bool closed;
    if (!host_next_left(self->host, group, &found, &closed) || found != group || !closed)
        return SLUICE_OK;
    return host_erase_left(self->host, group);
}

/* After damage the group is told that it has lost something, which its own records then say, in the same batch that
 * ends the log's saying so. (A volatile one's do only when it is admitted.) */
static enum sluice_status add_group(struct participant *self, struct host_group *group)
{
    enum sluice_status status = erase_before(self, group->group);
    if (status == SLUICE_OK && group->versions == NULL)
        status = self->env.versions(self->env.arg, group, &group->versions);
    bool lost = self->env.lost(self->env.arg, group->group);
    group->lost = lost && (self->young_from == 0 || group->group < self->young_from);
    if (status == SLUICE_OK)
        status = host_group_add(self->host, group);
    if (status == SLUICE_OK && lost && !(group->lost && group->memory_only && group->amnesiac))
        status = self->env.mend(self->env.arg, group->group, group->epoch);
    return status;
}

enum sluice_status residence__open_map(struct participant *self, uint64_t founders, bool host)
{
    struct host_group group = {.group = MAP_GROUP, .epoch = 1};
    struct cluster *cluster = NULL;
    enum sluice_status status = self->env.versions(self->env.arg, &group, &group.versions);
    if (status != SLUICE_OK)
        return status;
    status = cluster_create(group.versions, &cluster);
    if (status != SLUICE_OK) {
        versions_destroy(group.versions);
        return status;
    }
    if (self->cluster != NULL)
        cluster_destroy(self->cluster);
    self->cluster = cluster;
    const struct map *map = participant_map(self);
    const struct map_replica *own = map == NULL ? NULL : map_replica_find(&map->group, self->options.node);
    group.since = own == NULL ? 0 : own->since;
    if (!host && own == NULL) {
        versions_destroy(group.versions);
        return SLUICE_OK;
    }
    set_founders(&group, founders, NULL);
    return add_group(self, &group);
}

/* What this node left while it was down is not open, and so nobody's business but this one's. Only a map that knows
 * this very process says what is left: it is later than any that the process before followed, so whatever that one came
 * to hold, this map names or has taken away again. A map from the disk, or from a peer that lags, may be from before.
 */
void residence__erase_left(struct participant *self, const struct map *map, uint64_t now)
{
    const struct map_node *own = map_node_find(map, self->options.node);
    bool known = own != NULL && own->incarnation == self->options.incarnation, closed;
    uint32_t group;
    self->erase_at_ns = UINT64_MAX; /* until there is another map */
    while (host_next_left(self->host, self->erase_from, &group, &closed)) {
        const struct map_shard *shard = group == MAP_GROUP ? &map->group : map_shard_find(map, group);
        self->erase_from = group + 1;
        if ((!known && !closed) || (shard != NULL && map_replica_find(shard, self->options.node) != NULL))
            continue;
        if (!closed)
            LOG_INFO("cluster", "group=%u was left while this node was down; what is held of it is erased", group);
        enum sluice_status status = host_erase_left(self->host, group);
        if (status == SLUICE_STORAGE_FULL)
            self->erase_from = group; /* the word that it has gone finds no room */
        else if (status != SLUICE_OK)
            participant__fail(self, status, "what was left of a shard could not be erased");
        self->erase_at_ns = now + (status == SLUICE_OK ? ERASE_EVERY_NS : NS_PER_S);
        return;
    }
    self->erased_left = known;
}

/* Closed at once, erased one by one. */
static void leave(struct participant *self, uint32_t group)
{
    host_group_leave(self->host, group);
    self->erased_left = false;
    self->erase_from = 0;
    self->erase_at_ns = 0;
}

static void join(struct participant *self, const struct map *map, const struct map_shard *shard,
                 const struct map_replica *own)
{
    bool memory_only = map->pools[shard->pool].kind == MAP_POOL_VOLATILE;
    struct host_group group = {
        .group = shard->id,
        .epoch = shard->epoch,
        .memory_only = memory_only,
        .since = own->since,
        .amnesiac = memory_only && own->incarnation != self->options.incarnation,
    };
    set_founders(&group, shard->founders, shard);
    enum sluice_status status = add_group(self, &group);
    if (status != SLUICE_OK)
        participant__fail(self, status, "a shard could not be opened");
}

/* Tells the replica what the map wants of it. */
static void want(struct participant *self, const struct map_shard *shard)
{
    struct host_wanted nodes[MAP_REPLICAS_MAX];
    for (size_t i = 0; i < shard->replica_count; i++)
        nodes[i] = (struct host_wanted){.node = shard->replicas[i].node, .since = shard->replicas[i].since};
    host_group_want(self->host, shard->id, nodes, (uint32_t)shard->replica_count);
}

/* The promise that makes good what the log had lost is written before the log says no more that it had. */
static void admit(struct participant *self, const struct map_shard *shard)
{
    host_group_admit(self->host, shard->id);
    enum sluice_status status =
        self->env.lost(self->env.arg, shard->id) ? self->env.mend(self->env.arg, shard->id, shard->epoch) : SLUICE_OK;
    if (status != SLUICE_OK)
        participant__fail(self, status, "what the log had lost could not be made good");
}

static void follow_shard(struct participant *self, const struct map *map, const struct map_shard *shard)
{
    const struct map_replica *own = map_replica_find(shard, self->options.node);
    uint64_t epoch = 0;
    bool here = host_group_has(self->host, shard->id, &epoch);
    if (here && own == NULL)
        leave(self, shard->id);
    if (own == NULL)
        return;
    if (here && (epoch != shard->epoch || own->since > host_group_since(self->host, shard->id))) {
        host_group_remove(self->host, shard->id, true);
        here = false;
    }
    if (!here)
        join(self, map, shard, own);
    else if (map->pools[shard->pool].kind == MAP_POOL_VOLATILE && own->incarnation == self->options.incarnation)
        admit(self, shard);
    want(self, shard);
}

bool residence__doubted(const struct participant *self, const struct map *map)
{
    const struct map_replica *own = map_replica_find(&map->group, self->options.node);
    return host_group_has(self->host, MAP_GROUP, NULL) &&
           (own == NULL || own->since > host_group_since(self->host, MAP_GROUP));
}

static void follow_map_group(struct participant *self, const struct map *map)
{
    const struct map_replica *own = map_replica_find(&map->group, self->options.node);
    bool doubted = residence__doubted(self, map);
    /* Only on somebody else's word: the log itself may be behind. */
    bool told = self->told_map != NULL && self->told_map->epoch >= map->epoch, leaves = doubted && told;
    self->doubt_at_ns = doubted && !told ? 0 : UINT64_MAX;
    if (leaves) {
        LOG_INFO("cluster", "this node does not keep the cluster map any more%s",
                 own == NULL ? "" : " as it did before");
        host_group_remove(self->host, MAP_GROUP, true);
    }
    bool joins = own != NULL && !host_group_has(self->host, MAP_GROUP, NULL);
    if (joins) {
        enum sluice_status status = residence__open_map(self, map->group.founders, true);
        if (status != SLUICE_OK)
            participant__fail(self, status, "the cluster map could not be opened");
        LOG_INFO("cluster", "this node keeps the cluster map from now on");
    }
    if (own != NULL && !self->failed)
        want(self, &map->group);
    if (leaves || joins)
        exchange__greet_all(self);
}

struct leftovers {
    const struct map *map;
    uint32_t groups[CLUSTER_SHARDS_MAX];
    size_t count;
};

static void find_leftover(void *arg, const struct host_group_status *status)
{
    struct leftovers *leftovers = arg;
    if (status->group != MAP_GROUP && map_shard_find(leftovers->map, status->group) == NULL &&
        leftovers->count < CLUSTER_SHARDS_MAX)
        leftovers->groups[leftovers->count++] = status->group;
}

void participant_follow(struct participant *self)
{
    const struct map *map = participant_map(self);
    if (map == NULL || self->failed || map->epoch <= self->map_epoch_seen)
        return;
    self->map_epoch_seen = map->epoch;
    self->settle_at_ns = 0;
    if (self->register_at_ns == UINT64_MAX)
        self->register_at_ns = 0;
    if (!self->erased_left) {
        self->erase_at_ns = 0;
        self->erase_from = 0;
    }
    if (!self->env.map_comes(self->env.arg, map)) {
        self->failed = true;
        return;
    }
    for (size_t i = 0; i < map->node_count; i++)
        if (map->nodes[i].id < PARTICIPANT_NODES)
            host_peer_add(self->host, map->nodes[i].id);
    follow_map_group(self, map);
    map = participant_map(self);
    const struct map_node *own = map_node_find(map, self->options.node);
    if (self->young_from == 0 && own != NULL && own->incarnation == self->options.incarnation)
        self->young_from = map->next_shard;
    host_set_map_epoch(self->host, map->epoch);
    struct leftovers *leftovers = calloc(1, sizeof(*leftovers));
    if (leftovers == NULL) {
        participant__fail(self, SLUICE_MEMORY, "no memory to follow the cluster map");
        return;
    }
    leftovers->map = map;
    host_each_group(self->host, find_leftover, leftovers);
    for (size_t i = 0; i < leftovers->count; i++)
        leave(self, leftovers->groups[i]);
    free(leftovers);
    for (size_t i = 0; i < map->shard_count && !self->failed; i++)
        follow_shard(self, map, &map->shards[i]);
    self->env.map_came(self->env.arg, map);
    exchange__tell(self);
}

/* Keeps the replicas of this node as the cluster map wants them, and this process registered in it. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/node/node__.h"

#define REGISTER_EVERY_NS (200 * NS_PER_MS)

/* The map group's members come from the configuration of the first start: they must agree before there is a map. */
enum sluice_status groups__open(struct node *self, char *error, size_t error_size)
{
    const struct versions_options options = {
        .group = MAP_GROUP, .epoch = 1, .store = self->store, .hot_bytes_max = 4u << 20};
    struct host_group group = {.group = MAP_GROUP, .epoch = 1};
    enum sluice_status status = versions_create(&options, &group.versions);
    if (status == SLUICE_OK)
        status = cluster_create(group.versions, &self->cluster);
    if (status != SLUICE_OK) {
        snprintf(error, error_size, "the cluster map in %s cannot be read: %s", self->options.data_path,
                 sluice_status_text(status));
        return status;
    }
    for (size_t i = 0; i < self->identity.member_count; i++)
        group.replicas[i] = self->identity.members[i];
    group.replica_count = (uint32_t)self->identity.member_count;
    status = host_group_add(self->host, &group);
    if (status != SLUICE_OK)
        snprintf(error, error_size, "the map group cannot be recovered from %s: %s", self->options.data_path,
                 sluice_status_text(status));
    return status;
}

enum sluice_status groups__map_apply(void *arg, const struct entry *entry, struct versions *versions,
                                     struct machine_outcome *outcome, char **reply)
{
    struct node *self = arg;
    enum sluice_status status = cluster_apply(self->cluster, entry, versions, outcome, reply);
    /* The reply to whoever asked for the change names the map that has it. */
    if (status == SLUICE_OK && cluster_map(self->cluster) != NULL)
        host_set_map_epoch(self->host, cluster_map(self->cluster)->epoch);
    return status;
}

static const struct map_replica *own_replica(const struct node *self, const struct map_shard *shard)
{
    for (size_t i = 0; i < shard->replica_count; i++)
        if (shard->replicas[i].node == self->options.id)
            return &shard->replicas[i];
    return NULL;
}

static void join(struct node *self, const struct map *map, const struct map_shard *shard, const struct map_replica *own)
{
    bool memory_only = map->pools[shard->pool].kind == MAP_POOL_VOLATILE;
    struct host_group group = {
        .group = shard->id,
        .epoch = shard->epoch,
        .replica_count = (uint32_t)shard->replica_count,
        .memory_only = memory_only,
        .amnesiac = memory_only && own->incarnation != self->identity.incarnation,
    };
    for (size_t i = 0; i < shard->replica_count; i++)
        group.replicas[i] = shard->replicas[i].node;
    enum sluice_status status = host_group_add(self->host, &group);
    if (status != SLUICE_OK)
        node__fail(self, status, "a shard could not be opened");
}

static void follow_shard(struct node *self, const struct map *map, const struct map_shard *shard)
{
    const struct map_replica *own = own_replica(self, shard);
    uint64_t epoch = 0;
    bool here = host_group_has(self->host, shard->id, &epoch);
    if (here && (own == NULL || epoch != shard->epoch)) {
        host_group_remove(self->host, shard->id, true);
        here = false;
    }
    if (own == NULL)
        return;
    if (!here)
        join(self, map, shard, own);
    else if (map->pools[shard->pool].kind == MAP_POOL_VOLATILE && own->incarnation == self->identity.incarnation)
        host_group_admit(self->host, shard->id);
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

void groups__follow_map(struct node *self)
{
    const struct map *map = cluster_map(self->cluster);
    if (map == NULL || map->epoch == self->map_epoch_seen)
        return;
    self->map_epoch_seen = map->epoch;
    host_set_map_epoch(self->host, map->epoch);
    struct leftovers *leftovers = calloc(1, sizeof(*leftovers));
    if (leftovers == NULL) {
        node__fail(self, SLUICE_MEMORY, "no memory to follow the cluster map");
        return;
    }
    leftovers->map = map;
    host_each_group(self->host, find_leftover, leftovers);
    for (size_t i = 0; i < leftovers->count; i++)
        host_group_remove(self->host, leftovers->groups[i], true);
    free(leftovers);
    for (size_t i = 0; i < map->shard_count && !self->failed; i++)
        follow_shard(self, map, &map->shards[i]);
    control__map_changed(self);
    lambdas__map_changed(self);
}

static void bootstrap(struct node *self)
{
    char *change = cluster_bootstrap(self->identity.cluster, self->identity.members, self->identity.member_count);
    if (change != NULL)
        host_map_change(self->host, change, strlen(change));
    free(change);
}

/* Tells the map which process speaks for this node by now, until the map says so itself. */
void groups__register(struct node *self, uint64_t now)
{
    if (now < self->register_at_ns)
        return;
    self->register_at_ns = now + REGISTER_EVERY_NS;
    const struct map *map = cluster_map(self->cluster);
    if (map == NULL) {
        bootstrap(self);
        return;
    }
    const struct map_node *node = map_node_find(map, self->options.id);
    if (node != NULL && node->incarnation == self->identity.incarnation) {
        self->register_at_ns = UINT64_MAX;
        return;
    }
    char incarnation[24];
    snprintf(incarnation, sizeof(incarnation), "%llu", (unsigned long long)self->identity.incarnation);
    json_t *addresses = json_array();
    const struct node__member *own = NULL;
    for (size_t i = 0; i < self->member_count; i++)
        if (self->members[i].id == self->options.id && self->members[i].address_count > 0)
            own = &self->members[i];
    for (size_t i = 0; own != NULL && i < own->address_count; i++)
        json_array_append_new(addresses, json_string(own->addresses[i]));
    for (unsigned i = 0; own == NULL && fabric_listen_address(self->fabric, i) != NULL; i++)
        json_array_append_new(addresses, json_string(fabric_listen_address(self->fabric, i)));
    json_t *change = json_pack("{s:s, s:i, s:s, s:o}", "change", "node_register", "node", self->options.id,
                               "incarnation", incarnation, "addresses", addresses);
    char *text = change == NULL ? NULL : json_dumps(change, JSON_COMPACT);
    if (text != NULL)
        host_map_change(self->host, text, strlen(text));
    free(text);
    json_decref(change);
}

void groups__caught_up(void *arg, uint32_t group, uint64_t epoch)
{
    struct node *self = arg;
    char text[160];
    (void)epoch;
    int size =
        snprintf(text, sizeof(text), "{\"change\":\"shard_admit\",\"shard\":%u,\"node\":%u,\"incarnation\":\"%llu\"}",
                 group, self->options.id, (unsigned long long)self->identity.incarnation);
    host_map_change(self->host, text, (size_t)size);
}

bool groups__owns(void *arg, uint32_t shard, const char *key, size_t size)
{
    struct node *self = arg;
    const struct map *map = cluster_map(self->cluster);
    const struct map_shard *entry = map == NULL ? NULL : map_shard_find(map, shard);
    /* With an affinity the client alone evaluates the regex; the pool is checked here all the same. */
    const struct map_pool *pool = entry == NULL ? NULL : map_pool_of(map, key, size);
    if (pool == NULL || pool != &map->pools[entry->pool])
        return false;
    return pool->affinity != NULL || map_shard_of(pool, key, size) == shard;
}

struct readiness {
    uint32_t led, count;
};

static void count_led(void *arg, const struct host_group_status *status)
{
    struct readiness *readiness = arg;
    readiness->count++;
    readiness->led += status->leader != 0;
}

bool groups__ready(const struct node *self)
{
    struct readiness readiness = {0};
    const struct map *map = cluster_map(self->cluster);
    if (map == NULL)
        return false;
    host_each_group(self->host, count_led, &readiness);
    return readiness.led == readiness.count;
}

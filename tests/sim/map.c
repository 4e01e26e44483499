/* The cluster map of a run: what stands for the map group. Users ask any node for it. */
#include <stdlib.h>
#include <string.h>

#include "tests/sim/sim.h"

static const char *address_of(uint32_t node)
{
    static const char *const addresses[SIM_NODES_MAX + 1] = {"",           "tcp:node:1", "tcp:node:2",
                                                             "tcp:node:3", "tcp:node:4", "tcp:node:5"};
    return addresses[node];
}

static void fill_shard(struct map_shard *shard, uint32_t id)
{
    *shard = (struct map_shard){.id = id, .epoch = 1, .replica_count = sim.node_count};
    for (uint32_t i = 0; i < sim.node_count; i++) {
        shard->replicas[i].node = (uint16_t)(1 + (id + i) % sim.node_count);
        shard->replicas[i].incarnation = 1;
        shard->founders |= UINT64_C(1) << shard->replicas[i].node;
    }
}

/* Strings are borrowed: map_format copies what it needs. */
void sim_map_make(void)
{
    struct map_node nodes[SIM_NODES_MAX] = {0};
    char *addresses[SIM_NODES_MAX];
    struct map_shard shards[SIM_GROUPS_MAX];
    uint32_t numbers[SIM_GROUPS_MAX];
    char root[] = "", error[256];
    for (uint32_t i = 0; i < sim.node_count; i++) {
        addresses[i] = strdup(address_of(i + 1));
        nodes[i] = (struct map_node){.id = (uint16_t)(i + 1),
                                     .state = MAP_NODE_UP,
                                     .level_min = MAP_LEVEL_MIN,
                                     .level_max = MAP_LEVEL,
                                     .incarnation = 1,
                                     .addresses = &addresses[i],
                                     .address_count = 1};
    }
    for (uint32_t i = 0; i < sim.group_count; i++) {
        numbers[i] = i + 1;
        fill_shard(&shards[i], i + 1);
    }
    struct map_pool pool = {.prefix = root,
                            .kind = sim.memory_only ? MAP_POOL_VOLATILE : MAP_POOL_PERSISTENT,
                            .state = MAP_POOL_LIVE,
                            .replicas = sim.node_count,
                            .shards = numbers,
                            .shard_count = sim.group_count};
    struct map map = {.epoch = 1,
                      .cluster = SIM_CLUSTER,
                      .level = MAP_LEVEL,
                      .next_shard = sim.group_count + 1,
                      .nodes = nodes,
                      .node_count = sim.node_count,
                      .pools = &pool,
                      .pool_count = 1,
                      .shards = shards,
                      .shard_count = sim.group_count};
    fill_shard(&map.group, MAP_GROUP);
    sim.map_json = map_format(&map);
    if (sim.map_json == NULL || map_parse(sim.map_json, strlen(sim.map_json), &sim.map, error) != SLUICE_OK)
        sim_fail("the simulator's map is none: %s", error);
    for (uint32_t i = 0; i < sim.node_count; i++)
        free(addresses[i]);
}

uint32_t sim_group_of(const char *key, size_t size)
{
    return map_shard_of(&sim.map->pools[0], key, size);
}

uint32_t sim_group_of_key(uint32_t key)
{
    char name[16];
    size_t size = sim_key_name(key, name);
    return sim_group_of(name, size);
}

void sim_map_answer(struct sim_node *node, void *link, const struct wire_header *request)
{
    if (request->type != WIRE_MAP) {
        static const char text[] = "the simulator's nodes have no control calls";
        host_reply(node->host, link, request, SLUICE_INVALID, 0, text, sizeof(text) - 1);
    } else if (request->map_epoch < sim.map->epoch) {
        host_reply(node->host, link, request, SLUICE_OK, WIRE_FLAG_MORE, sim.map_json, strlen(sim.map_json));
    }
}

void sim_map_free(void)
{
    map_destroy(sim.map);
    free(sim.map_json);
}

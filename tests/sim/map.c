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
    struct host_wanted wanted[PAXOS_REPLICAS_MAX];
    *shard = (struct map_shard){.id = id, .epoch = 1, .replica_count = sim_wanted(id, wanted)};
    for (uint32_t i = 0; i < shard->replica_count; i++)
        shard->replicas[i] = (struct map_replica){.node = wanted[i].node, .since = wanted[i].since, .incarnation = 1};
    shard->founders = id == MAP_GROUP ? map_wanted(shard) : sim.placement[id].founders;
}

/* Strings are borrowed: map_format copies what it needs. */
static void make(uint64_t epoch)
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
                            .replicas = sim.replica_count,
                            .shards = numbers,
                            .shard_count = sim.group_count};
    struct map map = {.epoch = epoch,
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

void sim_map_make(void)
{
    sim.placement[MAP_GROUP].wanted = UINT64_C(2); /* nobody asks the map group of a simulation */
    make(1);
}

void sim_map_change(void)
{
    uint64_t epoch = sim.map->epoch + 1;
    sim_map_free();
    make(epoch);
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

/* The cluster map of a run: the first one, the newest that any node has shown, and that all nodes show the same. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/crc.h"
#include "tests/sim/sim.h"

const char *sim_address(uint32_t node)
{
    static const char *const addresses[SIM_NODES_MAX + 1] = {"",           "tcp:node:1", "tcp:node:2",
                                                             "tcp:node:3", "tcp:node:4", "tcp:node:5"};
    return addresses[node];
}

static void fill_shard(struct map_shard *shard, uint32_t id)
{
    *shard = (struct map_shard){.id = id, .epoch = 1, .replica_count = sim.replica_count};
    for (uint32_t i = 0; i < sim.replica_count; i++)
        shard->replicas[i] = (struct map_replica){
            .node = (uint16_t)(1 + (id + i) % sim.node_count), /* the preferred leaders are spread */
            .incarnation = sim.memory_only ? 1 : 0};
    shard->founders = map_wanted(shard);
}

static void take(const char *text)
{
    char error[256];
    map_destroy(sim.map);
    sim.map = NULL;
    if (map_parse(text, strlen(text), &sim.map, error) != SLUICE_OK)
        sim_fail("the simulator's map is none: %s", error);
}

/* As a fresh cluster's: nobody has registered yet. The processes that begin a volatile pool are known. */
void sim_map_make(void)
{
    struct map_node nodes[SIM_NODES_MAX] = {0};
    struct map_shard shards[SIM_GROUPS_MAX];
    uint32_t numbers[SIM_GROUPS_MAX];
    char root[] = "";
    for (uint32_t i = 0; i < sim.node_count; i++)
        nodes[i] = (struct map_node){
            .id = (uint16_t)(i + 1), .level_min = 1, .level_max = 1, .incarnation = sim.memory_only ? 1 : 0};
    for (uint32_t i = 0; i < sim.group_count; i++) {
        numbers[i] = i + 1;
        fill_shard(&shards[i], i + 1);
        sim.placement[i + 1].founders = sim.placement[i + 1].members = shards[i].founders;
    }
    struct map_pool pool = {.prefix = root,
                            .kind = sim.memory_only ? MAP_POOL_VOLATILE : MAP_POOL_PERSISTENT,
                            .state = MAP_POOL_LIVE,
                            .replicas = sim.replica_count,
                            .shards = numbers,
                            .shard_count = sim.group_count};
    const struct map map = {.cluster = SIM_CLUSTER,
                            .next_shard = sim.group_count + 1,
                            .nodes = nodes,
                            .node_count = sim.node_count,
                            .pools = &pool,
                            .pool_count = 1,
                            .shards = shards,
                            .shard_count = sim.group_count};
    sim.map_first = map_format(&map);
    if (sim.map_first == NULL)
        sim_fail("no memory");
    take(sim.map_first);
    sim.placement[MAP_GROUP].founders = sim.placement[MAP_GROUP].members = (UINT64_C(2) << sim.node_count) - 2;
}

char *sim_map_bootstrap(void)
{
    char *change = NULL;
    if (asprintf(&change, "{\"change\":\"bootstrap\",\"map\":%s}", sim.map_first) < 0)
        sim_fail("no memory");
    return change;
}

const struct map_shard *sim_shard(uint32_t group)
{
    return group == MAP_GROUP ? &sim.map->group : map_shard_find(sim.map, group);
}

uint64_t sim_wanted(uint32_t group)
{
    return map_wanted(sim_shard(group));
}

bool sim_moving(uint32_t group)
{
    return sim_shard(group)->moving != 0 || sim.placement[group].members != sim_wanted(group);
}

/* The newest map of all. What moves from now on may have one copy for a while: damage that nobody has met yet could be
 * in it. */
static void adopt(const struct sim_node *node, const struct map *map, const char *text)
{
    uint64_t moved[SIM_GROUPS_MAX + 1];
    for (uint32_t group = 0; group <= sim.group_count; group++)
        moved[group] = sim_shard(group)->moving;
    sim_say("node %u shows map %llu", node->id, (unsigned long long)map->epoch);
    take(text);
    sim.totals.maps++;
    for (uint32_t group = 0; group <= sim.group_count; group++) {
        const struct map_shard *shard = sim_shard(group);
        if (shard->epoch != 1)
            sim_fail("group %u begins epoch %llu, empty, and a quorum of its processes is alive", group,
                     (unsigned long long)shard->epoch);
        if (shard->moving == moved[group])
            continue;
        sim.totals.placements += shard->moving != 0;
        sim_say("group %u: wanted on %llx, members %llx%s", group, (unsigned long long)sim_wanted(group),
                (unsigned long long)sim.placement[group].members, shard->moving == 0 ? ", arrived" : "");
        if (shard->moving != 0)
            sim_store_scrub(group);
        else if (sim.placement[group].members != sim_wanted(group))
            sim_fail("group %u has arrived, by the map, and its log says that its members are %llx", group,
                     (unsigned long long)sim.placement[group].members);
    }
}

void sim_map_check(struct sim_node *node)
{
    const struct map *map = participant_map(node->participant);
    if (map == NULL || map->epoch == node->map_seen)
        return;
    const char *text = participant_map_text(node->participant);
    uint32_t crc = crc32c(text, strlen(text));
    if (map->epoch < node->map_seen)
        sim_fail("node %u went back from map %llu to %llu", node->id, (unsigned long long)node->map_seen,
                 (unsigned long long)map->epoch);
    if (map->epoch >= SIM_MAPS_MAX)
        sim_fail("there are more than %u maps: nodes tell each other the same for ever", SIM_MAPS_MAX);
    node->map_seen = map->epoch;
    if (sim.map_crcs[map->epoch] != 0 && sim.map_crcs[map->epoch] != crc)
        sim_fail("node %u shows another map %llu than was seen before", node->id, (unsigned long long)map->epoch);
    sim.map_crcs[map->epoch] = crc;
    if (map->epoch > sim.map->epoch)
        adopt(node, map, text);
}

/* ---- Users ask any node for it, and hear of each change ---- */

static void send(struct sim_node *node, struct sim_subscriber *subscriber)
{
    const struct map *map = participant_map(node->participant);
    if (map == NULL || map->epoch <= subscriber->epoch)
        return;
    const char *text = participant_map_text(node->participant);
    const struct wire_header request = {.request_id = subscriber->request_id};
    subscriber->epoch = map->epoch;
    host_reply(node->host, subscriber->link, &request, SLUICE_OK, WIRE_FLAG_MORE, text, strlen(text));
}

void sim_map_tell(struct sim_node *node)
{
    for (size_t i = 0; i < node->subscriber_count; i++)
        send(node, &node->subscribers[i]);
}

void sim_map_answer(struct sim_node *node, void *link, const struct wire_header *request)
{
    if (request->type != WIRE_MAP) {
        static const char text[] = "the simulator's nodes have no control calls";
        host_reply(node->host, link, request, SLUICE_INVALID, 0, text, sizeof(text) - 1);
        return;
    }
    size_t at = 0;
    while (at < node->subscriber_count &&
           (node->subscribers[at].link != link || node->subscribers[at].request_id != request->request_id))
        at++;
    if (at == SIM_SUBSCRIBERS_MAX)
        sim_fail("more than %u users of node %u want to hear of the map", SIM_SUBSCRIBERS_MAX, node->id);
    if (at == node->subscriber_count)
        node->subscriber_count++;
    node->subscribers[at] =
        (struct sim_subscriber){.link = link, .request_id = request->request_id, .epoch = request->map_epoch};
    send(node, &node->subscribers[at]);
}

void sim_map_link_down(struct sim_node *node, const void *link)
{
    for (size_t i = 0; i < node->subscriber_count;)
        if (node->subscribers[i].link == link)
            node->subscribers[i] = node->subscribers[--node->subscriber_count];
        else
            i++;
}

/* ---- Keys ---- */

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

void sim_map_free(void)
{
    map_destroy(sim.map);
    free(sim.map_first);
}

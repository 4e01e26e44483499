/* Nodes come, go and are replaced: what the map then wants, and what it keeps until the logs have followed. */
#include <criterion/criterion.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/random.h"
#include "core/cluster/changes.h"
#include "core/cluster/cluster.h"

static struct map *map;
static struct change last;

static enum sluice_status apply(const char *json)
{
    free(last.reply);
    last = (struct change){.map = map, .time = 77};
    cr_assert_eq(change_apply(&last, json, strlen(json)), SLUICE_OK);
    if (last.text != NULL) {
        if (map != NULL)
            map_destroy(map);
        map = last.result;
        free(last.text);
    }
    return last.outcome;
}

__attribute__((format(printf, 1, 2))) static enum sluice_status change(const char *format, ...)
{
    char text[4096];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    return apply(text);
}

static enum sluice_status come(unsigned node, unsigned incarnation)
{
    return change("{\"change\":\"node_register\",\"node\":%u,\"incarnation\":\"%u\",\"addresses\":[\"shm:n%u\"],"
                  "\"levels\":[1,2]}",
                  node, incarnation, node);
}

static void found(size_t nodes)
{
    static const uint8_t cluster[16] = {1, 2, 3};
    static const uint16_t ids[] = {1, 2, 3, 4, 5, 6, 7};
    char *text = cluster_bootstrap(cluster, ids, nodes);
    map = NULL;
    memset(&last, 0, sizeof(last));
    cr_assert_eq(apply(text), SLUICE_OK, "%s", last.words);
    free(text);
    for (unsigned i = 1; i <= nodes; i++)
        cr_assert_eq(come(i, 1), SLUICE_OK, "%s", last.words);
}

static void open_three(void)
{
    found(3);
}

static void close_map(void)
{
    free(last.reply);
    if (map != NULL)
        map_destroy(map);
}

static enum map_node_state state_of(uint16_t node)
{
    const struct map_node *found_node = map_node_find(map, node);
    cr_assert_not_null(found_node);
    return found_node->state;
}

static size_t held_by(uint16_t node)
{
    size_t held = 0;
    for (size_t i = 0; i < map->shard_count; i++)
        held += (map_wanted(&map->shards[i]) >> node & 1) != 0;
    return held;
}

static size_t moving(void)
{
    size_t count = map->group.moving != 0;
    for (size_t i = 0; i < map->shard_count; i++)
        count += map->shards[i].moving != 0;
    return count;
}

/* The leader of the shard says that its log's members are what is wanted. */
static void settle(const struct map_shard *shard)
{
    cr_assert_eq(
        change("{\"change\":\"shards_settled\",\"shards\":[{\"shard\":%u,\"epoch\":\"%llu\",\"moving\":\"%llu\","
               "\"members\":\"%llu\"}]}",
               shard->id, (unsigned long long)shard->epoch, (unsigned long long)shard->moving,
               (unsigned long long)map_wanted(shard)),
        SLUICE_OK);
}

static void settle_all(void)
{
    for (size_t i = 0; i < map->shard_count; i++)
        if (map->shards[i].moving != 0)
            settle(&map->shards[i]);
    if (map->group.moving != 0)
        settle(&map->group);
    cr_assert_eq(moving(), 0);
}

Test(members, two_nodes_join_three_and_take_their_share, .init = open_three, .fini = close_map)
{
    cr_assert_eq(change("{\"change\":\"node_add\",\"addresses\":[\"shm:n4\"]}"), SLUICE_OK, "%s", last.words);
    cr_assert_not_null(strstr(last.reply, "\"node\":4"));
    cr_assert_eq(state_of(4), MAP_NODE_JOINING);
    cr_assert_eq(held_by(4), 0, "a node that has not come yet holds nothing");
    cr_assert_eq(come(4, 1), SLUICE_OK);
    cr_assert_eq(state_of(4), MAP_NODE_UP);
    cr_assert_eq(held_by(4), 6, "24 replicas over four nodes");
    settle_all();
    cr_assert_eq(change("{\"change\":\"node_add\",\"node\":5}"), SLUICE_OK);
    cr_assert_eq(come(5, 1), SLUICE_OK);
    cr_assert_eq(map->group.replica_count, 5, "from five nodes on the map itself is on five");
    for (uint16_t node = 1; node <= 5; node++)
        cr_assert(held_by(node) == 4 || held_by(node) == 5, "node %u holds %zu", node, held_by(node));
    for (size_t i = 0; i < map->shard_count; i++)
        cr_assert_eq(map->shards[i].founders, 0xe, "who began a shard is not forgotten");
}

Test(members, who_leaves_keeps_its_replica_until_the_log_has_followed, .init = open_three, .fini = close_map)
{
    cr_assert_eq(change("{\"change\":\"node_add\",\"node\":4}"), SLUICE_OK);
    cr_assert_eq(come(4, 1), SLUICE_OK);
    settle_all();
    cr_assert_eq(change("{\"change\":\"node_remove\",\"node\":2}"), SLUICE_OK, "%s", last.words);
    cr_assert_eq(state_of(2), MAP_NODE_DRAINING);
    cr_assert_eq(held_by(2), 0);
    size_t leaving = 0;
    for (size_t i = 0; i < map->shard_count; i++)
        leaving += map->shards[i].leaving_count == 1 && map->shards[i].leaving[0].node == 2;
    cr_assert_eq(leaving, 6);
    settle_all();
    cr_assert_eq(state_of(2), MAP_NODE_GONE, "with nothing left it has gone by itself");
    uint64_t epoch = map->epoch;
    cr_assert_eq(change("{\"change\":\"node_remove\",\"node\":2}"), SLUICE_OK, "asking again is no mistake");
    cr_assert_not_null(strstr(last.reply, "\"state\":\"gone\""));
    cr_assert_eq(map->epoch, epoch, "nor is it a change");
    cr_assert_eq(come(2, 9), SLUICE_NOT_FOUND, "and does not come back as if nothing had been");
}

Test(members, an_old_report_settles_nothing, .init = open_three, .fini = close_map)
{
    cr_assert_eq(change("{\"change\":\"node_add\",\"node\":4}"), SLUICE_OK);
    cr_assert_eq(come(4, 1), SLUICE_OK);
    struct map_shard before = {0};
    for (size_t i = 0; i < map->shard_count; i++)
        if (map->shards[i].moving != 0)
            before = map->shards[i];
    cr_assert_neq(before.id, 0);
    cr_assert_eq(change("{\"change\":\"node_remove\",\"node\":4,\"force\":true}"), SLUICE_OK, "%s", last.words);
    uint64_t epoch = map->epoch;
    settle(&before);
    cr_assert_eq(map->epoch, epoch, "nothing changed, so there is no new map");
    cr_assert_neq(map_shard_find(map, before.id)->moving, 0);
}

Test(members, a_node_that_never_comes_back_is_replaced_with_one_change, .init = open_three, .fini = close_map)
{
    cr_assert_eq(change("{\"change\":\"node_replace\",\"old\":3}"), SLUICE_OK, "%s", last.words);
    cr_assert_not_null(strstr(last.reply, "\"node\":4"));
    cr_assert_eq(state_of(3), MAP_NODE_DRAINING);
    cr_assert_eq(held_by(4), 8, "it takes every place of the old one");
    for (size_t i = 0; i < map->shard_count; i++)
        cr_assert_eq(map_wanted(&map->shards[i]), 0x16, "and nobody else moves");
    cr_assert_eq(come(4, 1), SLUICE_OK);
    cr_assert_eq(held_by(4), 8);
    settle_all();
    cr_assert_eq(state_of(3), MAP_NODE_GONE);
    cr_assert_eq(change("{\"change\":\"node_replace\",\"old\":3,\"new\":4}"), SLUICE_OK, "asking again is no mistake");
    cr_assert_not_null(strstr(last.reply, "\"replaces\":3"));
    cr_assert_eq(change("{\"change\":\"node_replace\",\"old\":3,\"new\":5}"), SLUICE_NOT_FOUND);
}

Test(members, removing_says_when_replicas_would_be_too_few, .init = open_three, .fini = close_map)
{
    cr_assert_eq(change("{\"change\":\"node_remove\",\"node\":2}"), SLUICE_CONFLICT);
    cr_assert_not_null(strstr(last.words, "3 replicas"));
    cr_assert_eq(change("{\"change\":\"node_remove\",\"node\":2,\"force\":true}"), SLUICE_OK);
    for (size_t i = 0; i < map->shard_count; i++)
        cr_assert_eq(map->shards[i].replica_count, 2);
    cr_assert_eq(change("{\"change\":\"node_remove\",\"node\":1,\"force\":true}"), SLUICE_OK);
    cr_assert_eq(change("{\"change\":\"node_remove\",\"node\":3,\"force\":true}"), SLUICE_CONFLICT,
                 "the last node stays");
    cr_assert_eq(change("{\"change\":\"node_add\",\"node\":2}"), SLUICE_OK, "a change of mind is allowed");
    cr_assert_eq(state_of(2), MAP_NODE_UP);
    cr_assert_eq(held_by(2), 8);
}

Test(members, wrong_requests_are_refused_with_words, .init = open_three, .fini = close_map)
{
    cr_assert_eq(change("{\"change\":\"node_add\",\"node\":2}"), SLUICE_CONFLICT);
    cr_assert_not_null(strstr(last.words, "replace"));
    cr_assert_eq(change("{\"change\":\"node_add\",\"node\":64}"), SLUICE_INVALID);
    cr_assert_eq(change("{\"change\":\"node_remove\",\"node\":9}"), SLUICE_NOT_FOUND);
    cr_assert_eq(change("{\"change\":\"node_remove\"}"), SLUICE_INVALID);
    cr_assert_eq(change("{\"change\":\"node_replace\",\"old\":2,\"new\":2}"), SLUICE_CONFLICT);
    cr_assert_eq(change("{\"change\":\"node_replace\",\"old\":9}"), SLUICE_NOT_FOUND);
    cr_assert_eq(change("{\"change\":\"shards_settled\",\"shards\":[{\"shard\":1},7,null]}"), SLUICE_OK);
}

Test(members, the_level_rises_once_every_node_understands_it, .fini = close_map)
{
    found(3);
    cr_assert_eq(map->level, 2);
    map_destroy(map);
    free(last.reply);
    static const uint8_t cluster[16] = {1};
    static const uint16_t ids[] = {1, 2};
    char *text = cluster_bootstrap(cluster, ids, 2);
    map = NULL;
    memset(&last, 0, sizeof(last));
    cr_assert_eq(apply(text), SLUICE_OK);
    free(text);
    cr_assert_eq(come(1, 1), SLUICE_OK);
    cr_assert_eq(map->level, 1, "node 2 has not said what it understands");
    cr_assert_eq(change("{\"change\":\"node_register\",\"node\":2,\"incarnation\":\"1\",\"addresses\":[]}"), SLUICE_OK);
    cr_assert_eq(map->level, 1, "it is of an older release");
    cr_assert_eq(change("{\"change\":\"node_add\"}"), SLUICE_CONFLICT);
    cr_assert_not_null(strstr(last.words, "node 2"));
    cr_assert_eq(come(2, 2), SLUICE_OK);
    cr_assert_eq(map->level, 2, "and was upgraded");
    cr_assert_eq(change("{\"change\":\"node_register\",\"node\":2,\"incarnation\":\"3\",\"addresses\":[]}"),
                 SLUICE_VERSION, "the way back is closed");
    cr_assert_not_null(strstr(last.words, "level 2"));
}

/* Every release makes the same map of the same entry: what it understands itself is not asked. */
Test(members, the_level_follows_from_what_the_nodes_said_whoever_applies_it, .init = open_three, .fini = close_map)
{
    static const char *const said = "{\"change\":\"node_register\",\"node\":%d,\"incarnation\":\"2\","
                                    "\"addresses\":[],\"levels\":[2,%d]}";
    char text[256];
    const int levels[] = {MAP_LEVEL + 7, MAP_LEVEL + 5, MAP_LEVEL + 6};
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(map->level, 2);
        snprintf(text, sizeof(text), said, i + 1, levels[i]);
        cr_assert_eq(apply(text), SLUICE_OK, "%s", last.words);
    }
    cr_assert_eq(map->level, MAP_LEVEL + 5, "the lowest of what they understand");
    cr_assert_eq(change("{\"change\":\"node_add\",\"node\":4,\"levels\":[1,%d]}", MAP_LEVEL), SLUICE_VERSION,
                 "who asks to be added and is of an older release is told so");
    cr_assert_eq(change("{\"change\":\"node_add\",\"node\":4,\"levels\":[1,%d]}", MAP_LEVEL + 5), SLUICE_OK);
}

Test(members, the_level_rises_when_the_last_node_of_an_older_release_is_gone, .init = open_three, .fini = close_map)
{
    for (int node = 1; node <= 2; node++)
        cr_assert_eq(change("{\"change\":\"node_register\",\"node\":%d,\"incarnation\":\"2\",\"addresses\":[],"
                            "\"levels\":[1,9]}",
                            node),
                     SLUICE_OK);
    cr_assert_eq(map->level, 2);
    cr_assert_eq(change("{\"change\":\"node_remove\",\"node\":3,\"force\":true}"), SLUICE_OK, "%s", last.words);
    cr_assert_eq(map->level, 2, "it still holds replicas");
    settle_all();
    cr_assert_eq(map_node_find(map, 3)->state, MAP_NODE_GONE);
    cr_assert_eq(map->level, 9);
}

Test(members, a_volatile_shard_that_moves_keeps_its_memory_while_any_is_left, .init = open_three, .fini = close_map)
{
    cr_assert_eq(change("{\"change\":\"pool_begin\",\"prefix\":\"v\",\"policy\":{\"kind\":\"volatile\",\"shards\":1}}"),
                 SLUICE_OK);
    cr_assert_eq(change("{\"change\":\"node_replace\",\"old\":3}"), SLUICE_OK);
    const uint32_t id = map->shards[map->shard_count - 1].id;
    cr_assert_eq(come(4, 1), SLUICE_OK);
    cr_assert_eq(map_shard_find(map, id)->epoch, 1);
    cr_assert_eq(come(1, 2), SLUICE_OK);
    cr_assert_eq(come(2, 2), SLUICE_OK);
    cr_assert_eq(map_shard_find(map, id)->epoch, 1, "node 3 may still have it all");
    cr_assert_eq(come(3, 2), SLUICE_OK);
    const struct map_shard *shard = map_shard_find(map, id);
    cr_assert_eq(shard->epoch, 2);
    cr_assert_eq(shard->leaving_count, 0);
    for (size_t i = 0; i < shard->replica_count; i++)
        cr_assert(shard->replicas[i].since == 0 && shard->replicas[i].incarnation != 0);
    cr_assert_eq(shard->founders, map_wanted(shard));
}

/* ---- Long random lives ---- */

static struct random dice;
static unsigned incarnations[64];

static void check_map(void)
{
    size_t usable = 0;
    for (size_t i = 0; i < map->node_count; i++) {
        const struct map_node *node = &map->nodes[i];
        bool held = map_replica_find(&map->group, node->id) != NULL;
        for (size_t k = 0; k < map->shard_count; k++)
            held = held || map_replica_find(&map->shards[k], node->id) != NULL;
        cr_assert(node->state != MAP_NODE_GONE || !held, "node %u has gone and holds something", node->id);
        cr_assert(node->state != MAP_NODE_DRAINING || held, "node %u holds nothing and has not gone", node->id);
        cr_assert(node->state != MAP_NODE_DRAINING || held_by(node->id) == 0);
        usable += node->state == MAP_NODE_UP || (node->state == MAP_NODE_JOINING && held_by(node->id) > 0);
    }
    for (size_t i = 0; i <= map->shard_count; i++) {
        const struct map_shard *shard = i < map->shard_count ? &map->shards[i] : &map->group;
        uint64_t wanted = map_wanted(shard);
        for (size_t k = 0; k < shard->leaving_count; k++)
            cr_assert_eq(wanted >> shard->leaving[k].node & 1, 0);
        cr_assert(shard->leaving_count == 0 || shard->moving != 0);
        for (size_t k = 0; k < shard->replica_count; k++)
            cr_assert(shard->replicas[k].since != 0 || (shard->founders >> shard->replicas[k].node & 1) != 0);
        if (i < map->shard_count)
            cr_assert_eq(shard->replica_count, usable < 3 ? usable : 3);
    }
}

static void random_change(void)
{
    unsigned node = 1 + (unsigned)random_below(&dice, 10), other = 1 + (unsigned)random_below(&dice, 10);
    switch (random_below(&dice, 7)) {
    case 0:
        change("{\"change\":\"node_add\",\"node\":%u}", node);
        break;
    case 1:
        change("{\"change\":\"node_remove\",\"node\":%u,\"force\":%s}", node, other < 4 ? "true" : "false");
        break;
    case 2:
        change("{\"change\":\"node_replace\",\"old\":%u,\"new\":%u}", node, other);
        break;
    case 3:
        change("{\"change\":\"node_replace\",\"old\":%u}", node);
        break;
    case 4:
    case 5:
        come(node, ++incarnations[node]);
        break;
    default:
        for (size_t i = 0; i < map->shard_count; i++)
            if (random_below(&dice, 3) > 0)
                settle(&map->shards[i]);
        if (random_below(&dice, 3) > 0)
            settle(&map->group);
        break;
    }
}

Test(members, whatever_happens_to_nodes_the_map_stays_whole, .init = open_three, .fini = close_map)
{
    uint64_t seed = random_os();
    printf("seed %llu\n", (unsigned long long)seed);
    random_seed(&dice, seed);
    for (unsigned i = 0; i < 64; i++)
        incarnations[i] = 1;
    for (int i = 0; i < 1500; i++) {
        random_change();
        check_map();
    }
    settle_all();
    check_map();
}

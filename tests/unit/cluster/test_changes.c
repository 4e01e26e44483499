#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/cluster/changes.h"
#include "core/cluster/cluster.h"

/* A map, and changes applied to it one after the other. */
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

static void found(size_t nodes)
{
    static const uint8_t cluster[16] = {1, 2, 3};
    static const uint16_t ids[] = {1, 2, 3, 4, 5};
    char *change = cluster_bootstrap(cluster, ids, nodes), text[128];
    map = NULL;
    memset(&last, 0, sizeof(last));
    cr_assert_eq(apply(change), SLUICE_OK, "%s", last.words);
    free(change);
    for (size_t i = 1; i <= nodes; i++) {
        snprintf(text, sizeof(text),
                 "{\"change\":\"node_register\",\"node\":%zu,\"incarnation\":\"1\",\"addresses\":[\"shm:n%zu\"]}", i,
                 i);
        cr_assert_eq(apply(text), SLUICE_OK, "%s", last.words);
    }
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

static const struct map_pool *pool(const char *prefix)
{
    return map_pool_find(map, prefix, strlen(prefix));
}

TestSuite(changes, .init = open_three, .fini = close_map);

Test(changes, a_fresh_cluster_has_a_root_pool_of_eight_shards_on_three_nodes_with_leaders_spread)
{
    cr_assert_eq(map->shard_count, CLUSTER_ROOT_SHARDS);
    size_t preferred[4] = {0};
    for (size_t i = 0; i < map->shard_count; i++) {
        cr_assert_eq(map->shards[i].replica_count, 3);
        preferred[map->shards[i].replicas[0].node]++;
    }
    for (size_t node = 1; node <= 3; node++)
        cr_assert_geq(preferred[node], 2);
}

Test(changes, bootstrap_happens_once)
{
    static const uint8_t other[16] = {9};
    static const uint16_t ids[] = {1};
    char *change = cluster_bootstrap(other, ids, 1);
    uint64_t epoch = map->epoch;
    cr_assert_eq(apply(change), SLUICE_OK);
    cr_assert_eq(map->epoch, epoch);
    cr_assert_eq(map->node_count, 3);
    free(change);
}

Test(changes, each_change_raises_the_epoch_by_one)
{
    uint64_t epoch = map->epoch;
    cr_assert_eq(apply("{\"change\":\"pool_begin\",\"prefix\":\"farm\",\"policy\":{\"shards\":2}}"), SLUICE_OK);
    cr_assert_eq(map->epoch, epoch + 1);
}

Test(changes, a_pool_is_routed_to_only_once_it_is_live_and_aborting_leaves_no_trace)
{
    cr_assert_eq(apply("{\"change\":\"pool_begin\",\"prefix\":\"farm\",\"policy\":{\"shards\":2}}"), SLUICE_OK, "%s",
                 last.words);
    cr_assert_eq(map_pool_of(map, "farm/cow", 8), pool(""));
    cr_assert_eq(apply("{\"change\":\"pool_live\",\"prefix\":\"farm\"}"), SLUICE_OK);
    cr_assert_eq(map_pool_of(map, "farm/cow", 8), pool("farm"));
    cr_assert_eq(map_pool_of(map, "farmland/x", 10), pool(""));
    cr_assert_eq(apply("{\"change\":\"pool_abort\",\"prefix\":\"farm\"}"), SLUICE_CONFLICT);
    cr_assert_eq(apply("{\"change\":\"pool_begin\",\"prefix\":\"ranch\"}"), SLUICE_OK);
    cr_assert_eq(apply("{\"change\":\"pool_abort\",\"prefix\":\"ranch\"}"), SLUICE_OK);
    cr_assert_null(pool("ranch"));
}

Test(changes, shard_numbers_are_never_reused)
{
    cr_assert_eq(apply("{\"change\":\"pool_begin\",\"prefix\":\"a\",\"policy\":{\"shards\":2}}"), SLUICE_OK);
    uint32_t first = pool("a")->shards[0];
    cr_assert_eq(apply("{\"change\":\"pool_delete\",\"prefix\":\"a\"}"), SLUICE_OK);
    cr_assert_eq(apply("{\"change\":\"pool_begin\",\"prefix\":\"a\",\"policy\":{\"shards\":2}}"), SLUICE_OK);
    cr_assert_gt(pool("a")->shards[0], first + 1);
}

Test(changes, what_a_pool_is_cannot_be_changed)
{
    cr_assert_eq(apply("{\"change\":\"pool_begin\",\"prefix\":\"a\",\"policy\":{\"kind\":\"volatile\",\"shards\":2}}"),
                 SLUICE_OK);
    cr_assert_eq(apply("{\"change\":\"pool_begin\",\"prefix\":\"a\",\"policy\":{\"kind\":\"persistent\"}}"),
                 SLUICE_CONFLICT);
    cr_assert_eq(apply("{\"change\":\"pool_begin\",\"prefix\":\"a\",\"policy\":{\"shards\":3}}"), SLUICE_CONFLICT);
    cr_assert_eq(apply("{\"change\":\"pool_begin\",\"prefix\":\"a\",\"policy\":{\"kind\":\"volatile\",\"shards\":2}}"),
                 SLUICE_OK);
}

Test(changes, nonsense_is_refused_with_words_and_changes_nothing)
{
    static const char *const bad[] = {"",
                                      "[]",
                                      "{}",
                                      "{\"change\":7}",
                                      "{\"change\":\"fly\"}",
                                      "{\"change\":\"pool_begin\"}",
                                      "{\"change\":\"pool_begin\",\"prefix\":\"a//b\"}",
                                      "{\"change\":\"pool_begin\",\"prefix\":\"a\",\"policy\":7}",
                                      "{\"change\":\"pool_begin\",\"prefix\":\"a\",\"policy\":{\"kind\":\"gas\"}}",
                                      "{\"change\":\"pool_begin\",\"prefix\":\"a\",\"policy\":{\"shards\":0}}",
                                      "{\"change\":\"pool_begin\",\"prefix\":\"a\",\"policy\":{\"colour\":1}}",
                                      "{\"change\":\"pool_begin\",\"prefix\":\"a\",\"policy\":{\"affinity\":\"(\"}}",
                                      "{\"change\":\"pool_begin\",\"prefix\":\"_sluice/x\"}",
                                      "{\"change\":\"pool_delete\",\"prefix\":\"\"}",
                                      "{\"change\":\"pool_live\",\"prefix\":\"none\"}",
                                      "{\"change\":\"node_register\",\"node\":9,\"incarnation\":\"1\"}",
                                      "{\"change\":\"node_register\",\"node\":1,\"incarnation\":\"x\"}",
                                      "{\"change\":\"lambda_put\",\"name\":\"../x\",\"version\":1}",
                                      "{\"change\":\"lambda_put\",\"name\":\"x\",\"version\":1,\"sha256\":\"short\"}",
                                      "{\"change\":\"lambda_delete\",\"name\":\"none\"}",
                                      "{\"change\":\"shard_admit\",\"shard\":1,\"node\":1,\"incarnation\":\"55\"}"};
    uint64_t epoch = map->epoch;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        cr_assert_neq(apply(bad[i]), SLUICE_OK, "%s", bad[i]);
        cr_assert_gt(strlen(last.words), 5, "%s", bad[i]);
        cr_assert_eq(map->epoch, epoch);
    }
}

static const char *const lambda = "{\"change\":\"lambda_put\",\"name\":\"thumb\",\"version\":%d,\"sha256\":"
                                  "\"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\","
                                  "\"config\":{},\"placement\":\"leader\",\"isolation\":\"inprocess\",\"size\":5,"
                                  "\"watches\":[{\"kind\":2,\"pattern\":\"farm/\"}]}";

Test(changes, a_lambda_is_put_upgraded_disabled_and_deleted)
{
    char text[512];
    snprintf(text, sizeof(text), lambda, 1);
    cr_assert_eq(apply(text), SLUICE_OK, "%s", last.words);
    cr_assert_eq(map_lambda_find(map, "thumb")->registered_ns, 77);
    cr_assert_eq(apply(text), SLUICE_CONFLICT, "the same version again");
    snprintf(text, sizeof(text), lambda, 2);
    cr_assert_eq(apply(text), SLUICE_OK, "%s", last.words);
    cr_assert_eq(map->lambda_count, 1);
    cr_assert_eq(map_lambda_find(map, "thumb")->version, 2);
    cr_assert_eq(apply("{\"change\":\"lambda_enable\",\"name\":\"thumb\",\"enabled\":false}"), SLUICE_OK);
    cr_assert_not(map_lambda_find(map, "thumb")->enabled);
    cr_assert_eq(apply("{\"change\":\"lambda_delete\",\"name\":\"thumb\"}"), SLUICE_OK);
    cr_assert_eq(map->lambda_count, 0);
}

static void restart(unsigned node, unsigned incarnation)
{
    char text[128];
    snprintf(text, sizeof(text), "{\"change\":\"node_register\",\"node\":%u,\"incarnation\":\"%u\",\"addresses\":[]}",
             node, incarnation);
    cr_assert_eq(apply(text), SLUICE_OK, "%s", last.words);
}

Test(changes, a_volatile_shard_keeps_its_epoch_while_a_quorum_remembers_and_begins_the_next_without)
{
    cr_assert_eq(
        apply("{\"change\":\"pool_begin\",\"prefix\":\"fast\",\"policy\":{\"kind\":\"volatile\",\"shards\":1}}"),
        SLUICE_OK);
    uint32_t shard = pool("fast")->shards[0];
    char admit[128];
    restart(1, 2);
    cr_assert_eq(map_shard_find(map, shard)->epoch, 1);
    snprintf(admit, sizeof(admit), "{\"change\":\"shard_admit\",\"shard\":%u,\"node\":1,\"incarnation\":\"2\"}", shard);
    cr_assert_eq(apply(admit), SLUICE_OK, "%s", last.words);
    restart(2, 2);
    cr_assert_eq(map_shard_find(map, shard)->epoch, 1, "nodes 1 and 3 remember");
    restart(3, 2);
    cr_assert_eq(map_shard_find(map, shard)->epoch, 2, "only node 1 remembers");
    for (size_t i = 0; i < 3; i++)
        cr_assert_eq(map_shard_find(map, shard)->replicas[i].incarnation, 2);
}

Test(changes, a_persistent_shard_knows_no_epochs)
{
    for (unsigned node = 1; node <= 3; node++)
        restart(node, 2);
    cr_assert_eq(map->shards[0].epoch, 1);
}

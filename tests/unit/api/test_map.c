/* The cluster map: what is written is read the same, what makes no sense is refused with a sentence, and keys find
 * their pool. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/map.h"

static const char document[] =
    "{\"format\":1,\"epoch\":12,\"cluster\":\"000102030405060708090a0b0c0d0e0f\",\"next_shard\":8,"
    "\"nodes\":[{\"id\":1,\"incarnation\":\"18446744073709551615\",\"addresses\":[\"shm:n1\",\"tcp:h:1\"]},"
    "{\"id\":2,\"incarnation\":\"5\",\"addresses\":[]}],"
    "\"pools\":[{\"prefix\":\"\",\"kind\":\"persistent\",\"state\":\"live\",\"replicas\":3,\"affinity\":null,"
    "\"shards\":[1,2],\"retention\":{\"count\":\"0\",\"age\":\"0\",\"bytes\":\"0\"},\"lateness\":\"0\"},"
    "{\"prefix\":\"farm\",\"kind\":\"volatile\",\"state\":\"live\",\"replicas\":2,\"affinity\":\"farm/([^/]+)\","
    "\"shards\":[7],\"retention\":{\"count\":\"10\",\"age\":\"3600000000000\",\"bytes\":\"1\"},\"lateness\":\"50\"},"
    "{\"prefix\":\"farm/new\",\"kind\":\"persistent\",\"state\":\"creating\",\"replicas\":1,\"affinity\":null,"
    "\"shards\":[3],\"retention\":{\"count\":\"0\",\"age\":\"0\",\"bytes\":\"0\"},\"lateness\":\"0\"}],"
    "\"shards\":[{\"id\":1,\"epoch\":1,\"replicas\":[{\"node\":1,\"incarnation\":\"0\"},{\"node\":2,\"incarnation\":"
    "\"0\"}]},{\"id\":2,\"epoch\":1,\"replicas\":[{\"node\":2,\"incarnation\":\"0\"}]},"
    "{\"id\":3,\"epoch\":1,\"replicas\":[{\"node\":1,\"incarnation\":\"0\"}]},"
    "{\"id\":7,\"epoch\":4,\"replicas\":[{\"node\":1,\"incarnation\":\"18446744073709551615\"}]}],"
    "\"lambdas\":[{\"name\":\"thumb\",\"version\":3,"
    "\"sha256\":\"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\",\"config\":\"{\\\"a\\\":1}\","
    "\"placement\":\"leader\",\"isolation\":\"inprocess\",\"enabled\":true,\"registered_ns\":\"1700000000000000001\","
    "\"size\":4096,\"watches\":[{\"kind\":2,\"pattern\":\"farm/\"}]}]}";

static struct map *parse(const char *text)
{
    struct map *map = NULL;
    char error[256] = "";
    cr_assert_eq(map_parse(text, strlen(text), &map, error), SLUICE_OK, "%s", error);
    return map;
}

Test(map, what_is_read_is_written_the_same)
{
    struct map *map = parse(document);
    cr_assert_eq(map->epoch, 12);
    cr_assert_eq(map->cluster[15], 15);
    cr_assert_eq(map->nodes[0].incarnation, UINT64_MAX);
    cr_assert_eq(map->pools[1].retention_age_ns, UINT64_C(3600000000000));
    cr_assert_str_eq(map->pools[1].affinity, "farm/([^/]+)");
    cr_assert_null(map->pools[0].affinity);
    cr_assert_eq(map_shard_find(map, 7)->epoch, 4);
    cr_assert_eq(map_shard_find(map, 7)->pool, 1);
    cr_assert_null(map_shard_find(map, 4));
    cr_assert_eq(map->lambdas[0].registered_ns, UINT64_C(1700000000000000001));
    cr_assert_str_eq(map->lambdas[0].config, "{\"a\":1}");
    char *text = map_format(map);
    cr_assert_str_eq(text, document);
    free(text);
    map_destroy(map);
}

Test(map, fields_of_a_later_release_are_passed_over)
{
    char *text = NULL;
    cr_assert_gt(asprintf(&text, "{\"later\":[1,{}],%s", document + 1), 0);
    map_destroy(parse(text));
    free(text);
}

Test(map, no_document_that_was_cut_off_is_taken)
{
    size_t size = strlen(document);
    for (size_t left = 0; left < size; left++) {
        struct map *map = NULL;
        char error[256] = "";
        char *copy = malloc(left + 1);
        memcpy(copy, document, left);
        cr_assert_eq(map_parse(copy, left, &map, error), SLUICE_INVALID);
        cr_assert_neq(error[0], '\0');
        free(copy);
    }
}

Test(map, no_bit_turned_over_does_harm)
{
    char *copy = strdup(document);
    for (size_t bit = 0; bit < strlen(document) * 8; bit++) {
        struct map *map = NULL;
        char error[256] = "";
        copy[bit / 8] = (char)(copy[bit / 8] ^ (1 << bit % 8));
        if (map_parse(copy, sizeof(document) - 1, &map, error) == SLUICE_OK) {
            char *text = map_format(map);
            cr_assert_not_null(text);
            free(text);
            map_destroy(map);
        } else {
            cr_assert_neq(error[0], '\0');
        }
        copy[bit / 8] = (char)(copy[bit / 8] ^ (1 << bit % 8));
    }
    free(copy);
}

/* The document with the first `from` replaced. */
static char *altered(const char *from, const char *to)
{
    const char *at = strstr(document, from);
    char *out = NULL;
    cr_assert_not_null(at, "%s", from);
    cr_assert_gt(asprintf(&out, "%.*s%s%s", (int)(at - document), document, to, at + strlen(from)), 0);
    return out;
}

Test(map, what_makes_no_sense_is_refused_with_a_sentence)
{
    static const char *const cases[][2] = {
        {"\"id\":2,\"incarnation\":\"5\"", "\"id\":1,\"incarnation\":\"5\""}, /* a node twice */
        {"\"shards\":[1,2]", "\"shards\":[1,2,7]"},                           /* a shard of two pools */
        {"\"shards\":[1,2]", "\"shards\":[1]"},                               /* a shard of none */
        {"\"shards\":[1,2]", "\"shards\":[1,2,5]"}, /* a pool with a shard that is not there */
        {"\"shards\":[7]", "\"shards\":[]"},
        {"\"prefix\":\"farm\"", "\"prefix\":\"farm/new\""}, /* a pool twice */
        {"\"prefix\":\"farm\"", "\"prefix\":\"farm/\""},
        {"\"prefix\":\"farm\"", "\"prefix\":\"a//b\""},
        {"\"prefix\":\"farm\"", "\"prefix\":\"a/../b\""},
        {"\"prefix\":\"farm\"", "\"prefix\":\"a\\u0085\""},
        {"\"kind\":\"volatile\"", "\"kind\":\"vague\""},
        {"\"state\":\"creating\"", "\"state\":\"dreaming\""},
        {"\"replicas\":3", "\"replicas\":0"},
        {"\"replicas\":3", "\"replicas\":8"},
        {"\"id\":3,\"epoch\"", "\"id\":2,\"epoch\""},                                     /* a shard twice */
        {"\"id\":7,\"epoch\"", "\"id\":8,\"epoch\""},                                     /* not below next_shard */
        {"{\"node\":2,\"incarnation\":\"0\"}]}", "{\"node\":1,\"incarnation\":\"0\"}]}"}, /* two on one node */
        {"{\"node\":2,\"incarnation\":\"0\"}]}", "{\"node\":3,\"incarnation\":\"0\"}]}"}, /* a node that is not there */
        {"\"lateness\":\"50\"", "\"lateness\":\"50s\""},
        {"\"lateness\":\"50\"", "\"lateness\":\"18446744073709551616\""},
        {"\"lateness\":\"50\"", "\"lateness\":-1"},
        {"\"cluster\":\"00", "\"cluster\":\"0X"},
        {"\"sha256\":\"01", "\"sha256\":\"0"},
        {"\"kind\":2", "\"kind\":5"},
        {"\"enabled\":true", "\"enabled\":1"},
        {"\"format\":1", "\"format\":1,\"format\":1"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct map *map = NULL;
        char error[256] = "";
        char *text = altered(cases[i][0], cases[i][1]);
        cr_assert_eq(map_parse(text, strlen(text), &map, error), SLUICE_INVALID, "%s", cases[i][1]);
        cr_assert_gt(strlen(error), 10);
        free(text);
    }
}

Test(map, a_newer_format_asks_for_a_newer_program)
{
    struct map *map = NULL;
    char error[256] = "";
    char *text = altered("\"format\":1", "\"format\":2");
    cr_assert_eq(map_parse(text, strlen(text), &map, error), SLUICE_VERSION);
    cr_assert_not_null(strstr(error, "newer release"));
    free(text);
}

static const char *pool_of(const struct map *map, const char *key)
{
    const struct map_pool *pool = map_pool_of(map, key, strlen(key));
    return pool == NULL ? NULL : pool->prefix;
}

Test(map, a_key_lies_in_the_live_pool_with_the_longest_prefix)
{
    struct map *map = parse(document);
    cr_assert_str_eq(pool_of(map, "other/x"), "");
    cr_assert_str_eq(pool_of(map, "farm/cow"), "farm");
    cr_assert_str_eq(pool_of(map, "farmland/cow"), "");
    cr_assert_str_eq(pool_of(map, "farm"), "", "a pool does not hold the object that has its name");
    cr_assert_str_eq(pool_of(map, "farm/new/cow"), "farm", "a pool that is being created holds nothing yet");
    map->pools[2].state = MAP_POOL_LIVE;
    cr_assert_str_eq(pool_of(map, "farm/new/cow"), "farm/new");
    cr_assert_str_eq(pool_of(map, "farm/new"), "farm");
    cr_assert_not_null(map_pool_find(map, "farm/newer", 8));
    cr_assert_null(map_pool_find(map, "farm/newer", 10));
    cr_assert_null(map_pool_find(map, "far", 3));
    map_destroy(map);
}

Test(map, a_token_always_finds_the_same_shard)
{
    struct map *map = parse(document);
    const struct map_pool *root = map_pool_find(map, "", 0);
    /* Frozen: another hash would look for stored objects where they are not. */
    uint32_t numbers[] = {0, 1, 2, 3, 4, 5, 6, 7};
    const struct map_pool eight = {.shards = numbers, .shard_count = 8};
    static const uint32_t frozen[8] = {7, 6, 3, 0, 2, 3, 6, 1};
    for (unsigned i = 0; i < 8; i++) {
        char token[16];
        int size = snprintf(token, sizeof(token), "farm/cow%u", i);
        cr_assert_eq(map_shard_of(&eight, token, (size_t)size), frozen[i]);
    }
    bool used[8] = {false};
    for (unsigned i = 0; i < 64; i++) {
        char token[16];
        int size = snprintf(token, sizeof(token), "cow%u", i);
        uint32_t shard = map_shard_of(root, token, (size_t)size);
        cr_assert(shard == 1 || shard == 2);
        used[shard] = true;
    }
    cr_assert(used[1] && used[2]);
    map_destroy(map);
}

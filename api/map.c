#include "api/map.h"

#include <isa-l/crc.h>
#include <jansson.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/wire.h"

#define ERROR_BYTES       256
#define ADDRESS_BYTES_MAX 256u
#define NAME_BYTES_MAX    255u
/* Bounds what a hostile document can make us allocate, and what is looked for one by one. */
#define ITEMS_MAX   65536u
#define NODES_MAX   1024u
#define LAMBDAS_MAX 4096u

struct reading {
    struct map *map;
    char *error;
};

__attribute__((format(printf, 2, 3))) static enum sluice_status refuse(const struct reading *reading,
                                                                       const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(reading->error, ERROR_BYTES, format, arguments);
    va_end(arguments);
    return SLUICE_INVALID;
}

static enum sluice_status no_memory(const struct reading *reading)
{
    snprintf(reading->error, ERROR_BYTES, "no memory for the cluster map");
    return SLUICE_MEMORY;
}

/* ---- Pieces of a document ---- */

/* 64-bit numbers come as text where they can pass 2^53, as numbers elsewhere; both are read everywhere. */
static bool read_number(const json_t *value, uint64_t *out)
{
    if (json_is_integer(value)) {
        if (json_integer_value(value) < 0)
            return false;
        *out = (uint64_t)json_integer_value(value);
        return true;
    }
    const char *text = json_string_value(value);
    if (text == NULL || *text == '\0')
        return false;
    uint64_t number = 0;
    for (; *text >= '0' && *text <= '9'; text++)
        if (__builtin_mul_overflow(number, 10u, &number) ||
            __builtin_add_overflow(number, (uint64_t)(*text - '0'), &number))
            return false;
    *out = number;
    return *text == '\0';
}

static enum sluice_status number_of(const struct reading *reading, const json_t *object, const char *what,
                                    const char *name, uint64_t low, uint64_t high, uint64_t *out)
{
    if (!read_number(json_object_get(object, name), out) || *out < low || *out > high)
        return refuse(reading, "cluster map: %s needs \"%s\", a number from %llu to %llu", what, name,
                      (unsigned long long)low, (unsigned long long)high);
    return SLUICE_OK;
}

/* A field that an earlier writer may have left out. */
static enum sluice_status optional_number(const struct reading *reading, const json_t *object, const char *what,
                                          const char *name, uint64_t *out)
{
    const json_t *value = json_object_get(object, name);
    *out = 0;
    if (value == NULL || json_is_null(value))
        return SLUICE_OK;
    return number_of(reading, object, what, name, 0, UINT64_MAX, out);
}

static enum sluice_status text_of(const struct reading *reading, const json_t *object, const char *what,
                                  const char *name, size_t size_max, char **out)
{
    const json_t *value = json_object_get(object, name);
    if (!json_is_string(value) || json_string_length(value) > size_max)
        return refuse(reading, "cluster map: %s needs \"%s\", a text of at most %zu bytes", what, name, size_max);
    *out = strdup(json_string_value(value));
    return *out == NULL ? no_memory(reading) : SLUICE_OK;
}

static enum sluice_status array_of(const struct reading *reading, const json_t *object, const char *what,
                                   const char *name, size_t count_max, size_t item, void *out, const json_t **array)
{
    *array = json_object_get(object, name);
    if (!json_is_array(*array) || json_array_size(*array) > count_max)
        return refuse(reading, "cluster map: %s needs \"%s\", an array of at most %zu items", what, name, count_max);
    void *items = calloc(json_array_size(*array) + 1, item);
    if (items == NULL)
        return no_memory(reading);
    memcpy(out, &items, sizeof(items));
    return SLUICE_OK;
}

/* A pool's prefix is a key or empty. JSON is UTF-8 already and holds no NUL. */
static bool prefix_good(const char *prefix)
{
    size_t size = strlen(prefix);
    if (size == 0)
        return true;
    if (size > WIRE_KEY_BYTES_MAX)
        return false;
    for (const char *segment = prefix; segment != NULL;) {
        const char *slash = strchr(segment, '/');
        size_t length = slash == NULL ? strlen(segment) : (size_t)(slash - segment);
        if (length == 0 || (length <= 2 && memcmp(segment, "..", length) == 0))
            return false;
        segment = slash == NULL ? NULL : slash + 1;
    }
    const uint8_t *bytes = (const uint8_t *)prefix;
    for (size_t i = 0; i < size; i++)
        if (bytes[i] < 0x20 || bytes[i] == 0x7f || (bytes[i] == 0xc2 && bytes[i + 1] < 0xa0))
            return false;
    return true;
}

static int hex_digit(char digit)
{
    if (digit >= '0' && digit <= '9')
        return digit - '0';
    return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

/* ---- Sections ---- */

static enum sluice_status read_cluster(const struct reading *reading, const json_t *document)
{
    const char *text = json_string_value(json_object_get(document, "cluster"));
    if (text == NULL || strlen(text) != 32)
        return refuse(reading, "cluster map: \"cluster\" is 32 hexadecimal digits");
    for (size_t i = 0; i < 16; i++) {
        int high = hex_digit(text[2 * i]), low = hex_digit(text[2 * i + 1]);
        if (high < 0 || low < 0)
            return refuse(reading, "cluster map: \"cluster\" is 32 hexadecimal digits");
        reading->map->cluster[i] = (uint8_t)(high * 16 + low);
    }
    return SLUICE_OK;
}

/* Both came with the second level; a map from before speaks of nodes that are up and understand the first alone. */
static enum sluice_status read_node_state(const struct reading *reading, const json_t *item, struct map_node *node)
{
    const json_t *state = json_object_get(item, "state"), *levels = json_object_get(item, "levels");
    uint64_t low = 1, high = 1;
    node->state = MAP_NODE_UP;
    if (state != NULL) {
        int known = MAP_NODE_UP;
        while (known <= MAP_NODE_GONE &&
               (!json_is_string(state) ||
                strcmp(json_string_value(state), map_node_state_name((enum map_node_state)known)) != 0))
            known++;
        if (known > MAP_NODE_GONE)
            return refuse(reading, "cluster map: node %u has a state that is not known here", node->id);
        node->state = (enum map_node_state)known;
    }
    if (levels != NULL &&
        (json_array_size(levels) != 2 || !read_number(json_array_get(levels, 0), &low) ||
         !read_number(json_array_get(levels, 1), &high) || low < 1 || high < low || high > UINT16_MAX))
        return refuse(reading, "cluster map: node %u needs \"levels\", the lowest and the highest one", node->id);
    node->level_min = (uint16_t)low;
    node->level_max = (uint16_t)high;
    return SLUICE_OK;
}

static enum sluice_status read_node(const struct reading *reading, const json_t *item, struct map_node *node)
{
    uint64_t id = 0;
    const json_t *addresses = NULL;
    enum sluice_status status = number_of(reading, item, "a node", "id", 1, UINT16_MAX, &id);
    if (status == SLUICE_OK)
        status = number_of(reading, item, "a node", "incarnation", 0, UINT64_MAX, &node->incarnation);
    if (status == SLUICE_OK)
        status =
            array_of(reading, item, "a node", "addresses", ITEMS_MAX, sizeof(char *), &node->addresses, &addresses);
    if (status != SLUICE_OK)
        return status;
    node->id = (uint16_t)id;
    status = read_node_state(reading, item, node);
    if (status != SLUICE_OK)
        return status;
    for (size_t i = 0; i < json_array_size(addresses); i++) {
        const json_t *text = json_array_get(addresses, i);
        if (!json_is_string(text) || json_string_length(text) == 0 || json_string_length(text) > ADDRESS_BYTES_MAX)
            return refuse(reading, "cluster map: node %u has an address that is no text of 1 to %u bytes", node->id,
                          ADDRESS_BYTES_MAX);
        node->addresses[i] = strdup(json_string_value(text));
        if (node->addresses[i] == NULL)
            return no_memory(reading);
        node->address_count++;
    }
    return SLUICE_OK;
}

static enum sluice_status read_nodes(const struct reading *reading, const json_t *document)
{
    struct map *map = reading->map;
    const json_t *array = NULL;
    enum sluice_status status =
        array_of(reading, document, "it", "nodes", NODES_MAX, sizeof(*map->nodes), &map->nodes, &array);
    for (size_t i = 0; status == SLUICE_OK && i < json_array_size(array); i++) {
        map->node_count = i + 1;
        status = read_node(reading, json_array_get(array, i), &map->nodes[i]);
        for (size_t k = 0; status == SLUICE_OK && k < i; k++)
            if (map->nodes[k].id == map->nodes[i].id)
                status = refuse(reading, "cluster map: node %u is there twice", map->nodes[i].id);
    }
    return status;
}

static bool read_kind(const char *text, enum map_pool_kind *out)
{
    for (int kind = MAP_POOL_PERSISTENT; kind <= MAP_POOL_TRIGGER; kind++)
        if (text != NULL && strcmp(text, map_pool_kind_name((enum map_pool_kind)kind)) == 0) {
            *out = (enum map_pool_kind)kind;
            return true;
        }
    return false;
}

static bool read_state(const char *text, enum map_pool_state *out)
{
    for (int state = MAP_POOL_LIVE; state <= MAP_POOL_DELETING; state++)
        if (text != NULL && strcmp(text, map_pool_state_name((enum map_pool_state)state)) == 0) {
            *out = (enum map_pool_state)state;
            return true;
        }
    return false;
}

static enum sluice_status read_pool_shards(const struct reading *reading, const json_t *item, struct map_pool *pool)
{
    const json_t *array = NULL;
    enum sluice_status status =
        array_of(reading, item, "a pool", "shards", ITEMS_MAX, sizeof(*pool->shards), &pool->shards, &array);
    if (status != SLUICE_OK)
        return status;
    if (json_array_size(array) == 0)
        return refuse(reading, "cluster map: pool \"%.64s\" has no shard", pool->prefix);
    for (size_t i = 0; i < json_array_size(array); i++) {
        uint64_t id = 0;
        if (!read_number(json_array_get(array, i), &id) || id == 0 || id > UINT32_MAX)
            return refuse(reading, "cluster map: pool \"%.64s\" names a shard that is no number", pool->prefix);
        pool->shards[pool->shard_count++] = (uint32_t)id;
    }
    return SLUICE_OK;
}

static enum sluice_status read_policy(const struct reading *reading, const json_t *item, struct map_pool *pool)
{
    uint64_t replicas = 0;
    const json_t *affinity = json_object_get(item, "affinity");
    const json_t *retention = json_object_get(item, "retention");
    if (!read_kind(json_string_value(json_object_get(item, "kind")), &pool->kind) ||
        !read_state(json_string_value(json_object_get(item, "state")), &pool->state))
        return refuse(reading, "cluster map: pool \"%.64s\" has a kind or a state that is not known here",
                      pool->prefix);
    enum sluice_status status = number_of(reading, item, "a pool", "replicas", 1, MAP_REPLICAS_MAX, &replicas);
    pool->replicas = (uint32_t)replicas;
    if (status == SLUICE_OK && affinity != NULL && !json_is_null(affinity))
        status = text_of(reading, item, "a pool", "affinity", WIRE_KEY_BYTES_MAX, &pool->affinity);
    if (status == SLUICE_OK)
        status = optional_number(reading, retention, "retention", "count", &pool->retention_count);
    if (status == SLUICE_OK)
        status = optional_number(reading, retention, "retention", "age", &pool->retention_age_ns);
    if (status == SLUICE_OK)
        status = optional_number(reading, retention, "retention", "bytes", &pool->retention_bytes);
    if (status == SLUICE_OK)
        status = optional_number(reading, item, "a pool", "lateness", &pool->lateness_ns);
    return status;
}

static int compare_pools(const void *left, const void *right)
{
    return strcmp(((const struct map_pool *)left)->prefix, ((const struct map_pool *)right)->prefix);
}

static enum sluice_status read_pools(const struct reading *reading, const json_t *document)
{
    struct map *map = reading->map;
    const json_t *array = NULL;
    enum sluice_status status =
        array_of(reading, document, "it", "pools", ITEMS_MAX, sizeof(*map->pools), &map->pools, &array);
    for (size_t i = 0; status == SLUICE_OK && i < json_array_size(array); i++) {
        struct map_pool *pool = &map->pools[i];
        const json_t *item = json_array_get(array, i);
        map->pool_count = i + 1;
        status = text_of(reading, item, "a pool", "prefix", WIRE_KEY_BYTES_MAX, &pool->prefix);
        if (status == SLUICE_OK && !prefix_good(pool->prefix))
            status = refuse(reading, "cluster map: \"%.64s\" is no prefix for a pool", pool->prefix);
        if (status == SLUICE_OK)
            status = read_policy(reading, item, pool);
        if (status == SLUICE_OK)
            status = read_pool_shards(reading, item, pool);
    }
    if (status != SLUICE_OK)
        return status;
    qsort(map->pools, map->pool_count, sizeof(*map->pools), compare_pools);
    for (size_t i = 1; i < map->pool_count; i++)
        if (compare_pools(&map->pools[i - 1], &map->pools[i]) == 0)
            return refuse(reading, "cluster map: pool \"%.64s\" is there twice", map->pools[i].prefix);
    return SLUICE_OK;
}

static enum sluice_status read_replica(const struct reading *reading, const json_t *entry,
                                       const struct map_shard *shard, struct map_replica *replica)
{
    uint64_t node = 0;
    enum sluice_status status = number_of(reading, entry, "a replica", "node", 1, UINT16_MAX, &node);
    if (status == SLUICE_OK)
        status = number_of(reading, entry, "a replica", "incarnation", 0, UINT64_MAX, &replica->incarnation);
    if (status != SLUICE_OK)
        return status;
    if (map_node_find(reading->map, (uint16_t)node) == NULL)
        return refuse(reading, "cluster map: shard %u has a replica on node %u, which is not there", shard->id,
                      (unsigned)node);
    if (map_replica_find(shard, (uint16_t)node) != NULL)
        return refuse(reading, "cluster map: shard %u has two replicas on node %u", shard->id, (unsigned)node);
    replica->node = (uint16_t)node;
    return optional_number(reading, entry, "a replica", "since", &replica->since);
}

static enum sluice_status read_founders(const struct reading *reading, const json_t *item, struct map_shard *shard)
{
    size_t i;
    const json_t *array = json_object_get(item, "founders"), *value;
    if (array == NULL) { /* nothing has changed since */
        for (i = 0; i < shard->replica_count; i++)
            if (shard->replicas[i].node < 64)
                shard->founders |= UINT64_C(1) << shard->replicas[i].node;
        return SLUICE_OK;
    }
    json_array_foreach(array, i, value)
    {
        uint64_t node = 0;
        if (!read_number(value, &node) || node == 0 || node > 63)
            return refuse(reading, "cluster map: shard %u names a founder that is no node", shard->id);
        shard->founders |= UINT64_C(1) << node;
    }
    return SLUICE_OK;
}

static enum sluice_status read_replicas(const struct reading *reading, const json_t *item, struct map_shard *shard)
{
    const json_t *array = json_object_get(item, "replicas"), *leaving = json_object_get(item, "leaving");
    size_t count = json_array_size(array);
    enum sluice_status status = SLUICE_OK;
    if (!json_is_array(array) || count == 0 || count > MAP_REPLICAS_MAX)
        return refuse(reading, "cluster map: shard %u needs 1 to %u replicas", shard->id, MAP_REPLICAS_MAX);
    if (json_array_size(leaving) > MAP_REPLICAS_MAX)
        return refuse(reading, "cluster map: shard %u has more than %u replicas that leave", shard->id,
                      MAP_REPLICAS_MAX);
    for (size_t i = 0; status == SLUICE_OK && i < count; i++) {
        status = read_replica(reading, json_array_get(array, i), shard, &shard->replicas[i]);
        shard->replica_count += status == SLUICE_OK;
    }
    for (size_t i = 0; status == SLUICE_OK && i < json_array_size(leaving); i++) {
        status = read_replica(reading, json_array_get(leaving, i), shard, &shard->leaving[i]);
        shard->leaving_count += status == SLUICE_OK;
    }
    if (status == SLUICE_OK)
        status = optional_number(reading, item, "a shard", "moving", &shard->moving);
    return status == SLUICE_OK ? read_founders(reading, item, shard) : status;
}

/* A map from before the second level does not speak of its own group: it was on all nodes. */
static enum sluice_status read_group(const struct reading *reading, const json_t *document)
{
    struct map *map = reading->map;
    const json_t *item = json_object_get(document, "map_group");
    map->group = (struct map_shard){.id = MAP_GROUP, .epoch = 1, .pool = SIZE_MAX};
    if (item != NULL)
        return read_replicas(reading, item, &map->group);
    for (size_t i = 0; i < map->node_count && i < MAP_REPLICAS_MAX; i++) {
        map->group.replicas[map->group.replica_count++] = (struct map_replica){.node = map->nodes[i].id};
        if (map->nodes[i].id < 64)
            map->group.founders |= UINT64_C(1) << map->nodes[i].id;
    }
    return SLUICE_OK;
}

static int compare_shards(const void *left, const void *right)
{
    uint32_t a = ((const struct map_shard *)left)->id, b = ((const struct map_shard *)right)->id;
    return (a > b) - (a < b);
}

static enum sluice_status read_shards(const struct reading *reading, const json_t *document)
{
    struct map *map = reading->map;
    const json_t *array = NULL;
    enum sluice_status status =
        array_of(reading, document, "it", "shards", ITEMS_MAX, sizeof(*map->shards), &map->shards, &array);
    for (size_t i = 0; status == SLUICE_OK && i < json_array_size(array); i++) {
        struct map_shard *shard = &map->shards[i];
        const json_t *item = json_array_get(array, i);
        uint64_t id = 0;
        status = number_of(reading, item, "a shard", "id", 1, (uint64_t)map->next_shard - 1, &id);
        if (status == SLUICE_OK)
            status = number_of(reading, item, "a shard", "epoch", 1, UINT64_MAX, &shard->epoch);
        shard->id = (uint32_t)id;
        shard->pool = SIZE_MAX;
        if (status == SLUICE_OK)
            status = read_replicas(reading, item, shard);
        map->shard_count = i + 1;
    }
    if (status != SLUICE_OK)
        return status;
    qsort(map->shards, map->shard_count, sizeof(*map->shards), compare_shards);
    for (size_t i = 1; i < map->shard_count; i++)
        if (map->shards[i - 1].id == map->shards[i].id)
            return refuse(reading, "cluster map: shard %u is there twice", map->shards[i].id);
    return SLUICE_OK;
}

/* Every shard belongs to exactly one pool, and every shard that a pool names is there. */
static enum sluice_status join_shards(const struct reading *reading)
{
    struct map *map = reading->map;
    for (size_t p = 0; p < map->pool_count; p++)
        for (size_t i = 0; i < map->pools[p].shard_count; i++) {
            uint32_t id = map->pools[p].shards[i];
            struct map_shard *shard = (struct map_shard *)(uintptr_t)map_shard_find(map, id);
            if (shard == NULL)
                return refuse(reading, "cluster map: pool \"%.64s\" names shard %u, which is not there",
                              map->pools[p].prefix, id);
            if (shard->pool != SIZE_MAX)
                return refuse(reading, "cluster map: shard %u is named twice by pools", id);
            shard->pool = p;
        }
    for (size_t i = 0; i < map->shard_count; i++)
        if (map->shards[i].pool == SIZE_MAX)
            return refuse(reading, "cluster map: shard %u belongs to no pool", map->shards[i].id);
    return SLUICE_OK;
}

static enum sluice_status read_watches(const struct reading *reading, const json_t *item, struct map_lambda *lambda)
{
    const json_t *array = NULL;
    enum sluice_status status =
        array_of(reading, item, "a lambda", "watches", ITEMS_MAX, sizeof(*lambda->watches), &lambda->watches, &array);
    for (size_t i = 0; status == SLUICE_OK && i < json_array_size(array); i++) {
        const json_t *entry = json_array_get(array, i);
        uint64_t kind = 0;
        lambda->watch_count = i + 1;
        status = number_of(reading, entry, "a watch", "kind", WIRE_PATTERN_KEY, WIRE_PATTERN_REGEX, &kind);
        lambda->watches[i].kind = (int)kind;
        if (status == SLUICE_OK)
            status = text_of(reading, entry, "a watch", "pattern", WIRE_KEY_BYTES_MAX, &lambda->watches[i].pattern);
    }
    return status;
}

static enum sluice_status read_sha256(const struct reading *reading, const json_t *item, struct map_lambda *lambda)
{
    const char *text = json_string_value(json_object_get(item, "sha256"));
    if (text == NULL || strlen(text) != sizeof(lambda->sha256) - 1)
        return refuse(reading, "cluster map: a lambda needs \"sha256\", 64 hexadecimal digits");
    for (size_t i = 0; text[i] != '\0'; i++)
        if (hex_digit(text[i]) < 0)
            return refuse(reading, "cluster map: a lambda needs \"sha256\", 64 hexadecimal digits");
    memcpy(lambda->sha256, text, sizeof(lambda->sha256));
    return SLUICE_OK;
}

static enum sluice_status read_lambda(const struct reading *reading, const json_t *item, struct map_lambda *lambda)
{
    const json_t *enabled = json_object_get(item, "enabled");
    enum sluice_status status = text_of(reading, item, "a lambda", "name", NAME_BYTES_MAX, &lambda->name);
    if (status == SLUICE_OK && (lambda->name[0] == '\0' || !prefix_good(lambda->name)))
        status = refuse(reading, "cluster map: a lambda has a name that is none");
    if (status == SLUICE_OK && !json_is_boolean(enabled))
        status = refuse(reading, "cluster map: lambda %.64s needs \"enabled\", true or false", lambda->name);
    lambda->enabled = json_is_true(enabled);
    if (status == SLUICE_OK)
        status = number_of(reading, item, "a lambda", "version", 1, UINT64_MAX, &lambda->version);
    if (status == SLUICE_OK)
        status = read_sha256(reading, item, lambda);
    if (status == SLUICE_OK)
        status = text_of(reading, item, "a lambda", "config", WIRE_BODY_BYTES_MAX, &lambda->config);
    if (status == SLUICE_OK)
        status = text_of(reading, item, "a lambda", "placement", NAME_BYTES_MAX, &lambda->placement);
    if (status == SLUICE_OK)
        status = text_of(reading, item, "a lambda", "isolation", NAME_BYTES_MAX, &lambda->isolation);
    if (status == SLUICE_OK)
        status = number_of(reading, item, "a lambda", "registered_ns", 0, UINT64_MAX, &lambda->registered_ns);
    if (status == SLUICE_OK)
        status = number_of(reading, item, "a lambda", "size", 0, UINT64_MAX, &lambda->size);
    if (status == SLUICE_OK)
        status = read_watches(reading, item, lambda);
    return status;
}

static enum sluice_status read_lambdas(const struct reading *reading, const json_t *document)
{
    struct map *map = reading->map;
    const json_t *array = NULL;
    enum sluice_status status =
        array_of(reading, document, "it", "lambdas", LAMBDAS_MAX, sizeof(*map->lambdas), &map->lambdas, &array);
    for (size_t i = 0; status == SLUICE_OK && i < json_array_size(array); i++) {
        status = read_lambda(reading, json_array_get(array, i), &map->lambdas[i]);
        if (status == SLUICE_OK && map_lambda_find(map, map->lambdas[i].name) != NULL)
            status = refuse(reading, "cluster map: lambda %.64s is there twice", map->lambdas[i].name);
        map->lambda_count = i + 1;
    }
    return status;
}

static enum sluice_status read_document(const struct reading *reading, const json_t *document)
{
    uint64_t format = 0, next_shard = 0;
    if (!json_is_object(document) || !read_number(json_object_get(document, "format"), &format) || format == 0)
        return refuse(reading, "a cluster map is a JSON object with a \"format\"");
    if (format != MAP_FORMAT) {
        snprintf(reading->error, ERROR_BYTES,
                 "the cluster map has format %llu, this program reads format %d; use a newer release",
                 (unsigned long long)format, MAP_FORMAT);
        return SLUICE_VERSION;
    }
    enum sluice_status status = number_of(reading, document, "it", "epoch", 0, UINT64_MAX, &reading->map->epoch);
    if (status == SLUICE_OK)
        status = number_of(reading, document, "it", "next_shard", 1, UINT32_MAX, &next_shard);
    reading->map->next_shard = (uint32_t)next_shard;
    uint64_t level = 0;
    if (status == SLUICE_OK)
        status = optional_number(reading, document, "it", "level", &level);
    reading->map->level = level == 0 ? 1 : level > UINT32_MAX ? UINT32_MAX : (uint32_t)level;
    if (status == SLUICE_OK)
        status = read_cluster(reading, document);
    if (status == SLUICE_OK)
        status = read_nodes(reading, document);
    if (status == SLUICE_OK)
        status = read_group(reading, document);
    if (status == SLUICE_OK)
        status = read_pools(reading, document);
    if (status == SLUICE_OK)
        status = read_shards(reading, document);
    if (status == SLUICE_OK)
        status = join_shards(reading);
    if (status == SLUICE_OK)
        status = read_lambdas(reading, document);
    return status;
}

enum sluice_status map_parse(const char *json, size_t size, struct map **out, char *error)
{
    json_error_t where;
    struct reading reading = {.error = error};
    json_t *document = json_loadb(json, size, JSON_REJECT_DUPLICATES, &where);
    if (document == NULL && json_error_code(&where) == json_error_out_of_memory)
        return no_memory(&reading);
    if (document == NULL)
        return refuse(&reading, "a cluster map is JSON: %s at line %d, column %d", where.text, where.line,
                      where.column);
    enum sluice_status status = SLUICE_OK;
    reading.map = calloc(1, sizeof(*reading.map));
    if (reading.map == NULL)
        status = no_memory(&reading);
    else
        status = read_document(&reading, document);
    json_decref(document);
    if (status != SLUICE_OK) {
        map_destroy(reading.map);
        return status;
    }
    *out = reading.map;
    return SLUICE_OK;
}

void map_destroy(struct map *self)
{
    if (self == NULL)
        return;
    for (size_t i = 0; i < self->node_count; i++) {
        for (size_t k = 0; k < self->nodes[i].address_count; k++)
            free(self->nodes[i].addresses[k]);
        free(self->nodes[i].addresses);
    }
    for (size_t i = 0; i < self->pool_count; i++) {
        free(self->pools[i].prefix);
        free(self->pools[i].affinity);
        free(self->pools[i].shards);
    }
    for (size_t i = 0; self->lambdas != NULL && i < self->lambda_count; i++) {
        struct map_lambda *lambda = &self->lambdas[i];
        for (size_t k = 0; k < lambda->watch_count; k++)
            free(lambda->watches[k].pattern);
        free(lambda->watches);
        free(lambda->name);
        free(lambda->config);
        free(lambda->placement);
        free(lambda->isolation);
    }
    free(self->nodes);
    free(self->pools);
    free(self->shards);
    free(self->lambdas);
    free(self);
}

/* ---- Looking up ---- */

const struct map_pool *map_pool_find(const struct map *self, const char *prefix, size_t size)
{
    size_t low = 0, high = self->pool_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const char *name = self->pools[middle].prefix;
        size_t length = strlen(name);
        int order = memcmp(name, prefix, length < size ? length : size);
        if (order == 0 && length == size)
            return &self->pools[middle];
        if (order == 0)
            order = length < size ? -1 : 1;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

const struct map_pool *map_pool_of(const struct map *self, const char *key, size_t size)
{
    /* Prefixes end at a segment: each slash of the key, from the last one on, ends a candidate. */
    for (size_t end = size; end > 0; end--) {
        if (end == size || key[end] != '/')
            continue;
        const struct map_pool *pool = map_pool_find(self, key, end);
        if (pool != NULL && pool->state == MAP_POOL_LIVE)
            return pool;
    }
    const struct map_pool *root = map_pool_find(self, "", 0);
    return root != NULL && root->state == MAP_POOL_LIVE ? root : NULL;
}

const struct map_shard *map_shard_find(const struct map *self, uint32_t id)
{
    const struct map_shard wanted = {.id = id};
    if (self->shard_count == 0)
        return NULL;
    return bsearch(&wanted, self->shards, self->shard_count, sizeof(wanted), compare_shards);
}

const struct map_node *map_node_find(const struct map *self, uint16_t id)
{
    for (size_t i = 0; i < self->node_count; i++)
        if (self->nodes[i].id == id)
            return &self->nodes[i];
    return NULL;
}

struct map_lambda *map_lambda_find(const struct map *self, const char *name)
{
    for (size_t i = 0; i < self->lambda_count; i++)
        if (self->lambdas[i].name != NULL && strcmp(self->lambdas[i].name, name) == 0)
            return &self->lambdas[i];
    return NULL;
}

/* The finisher of MurmurHash3 (Appleby, 2011). A CRC is linear: keys that differ in a digit, as cow1 … cow8 do, would
 * meet in half of the shards or fewer. */
static uint32_t mix(uint32_t hash)
{
    hash = (hash ^ hash >> 16) * 0x85ebca6bu;
    hash = (hash ^ hash >> 13) * 0xc2b2ae35u;
    return hash ^ hash >> 16;
}

uint32_t map_shard_of(const struct map_pool *pool, const char *token, size_t size)
{
    /* CRC32C with the usual inversions. ISA-L takes an int as size; tokens are keys or parts of them. */
    uint32_t hash = ~0u;
    while (size > 0) {
        int step = size > INT_MAX ? INT_MAX : (int)size;
        hash = crc32_iscsi((unsigned char *)(uintptr_t)token, step, hash);
        token += step;
        size -= (size_t)step;
    }
    return pool->shards[mix(~hash) % pool->shard_count];
}

const char *map_pool_kind_name(enum map_pool_kind kind)
{
    static const char *const names[] = {
        [MAP_POOL_PERSISTENT] = "persistent", [MAP_POOL_VOLATILE] = "volatile", [MAP_POOL_TRIGGER] = "trigger"};
    return names[kind];
}

const char *map_pool_state_name(enum map_pool_state state)
{
    static const char *const names[] = {
        [MAP_POOL_LIVE] = "live", [MAP_POOL_CREATING] = "creating", [MAP_POOL_DELETING] = "deleting"};
    return names[state];
}

/* ---- Members ---- */

const struct map_replica *map_replica_find(const struct map_shard *shard, uint16_t node)
{
    for (size_t i = 0; i < shard->replica_count; i++)
        if (shard->replicas[i].node == node)
            return &shard->replicas[i];
    for (size_t i = 0; i < shard->leaving_count; i++)
        if (shard->leaving[i].node == node)
            return &shard->leaving[i];
    return NULL;
}

uint64_t map_wanted(const struct map_shard *shard)
{
    uint64_t mask = 0;
    for (size_t i = 0; i < shard->replica_count; i++)
        if (shard->replicas[i].node < 64)
            mask |= UINT64_C(1) << shard->replicas[i].node;
    return mask;
}

const char *map_node_state_name(enum map_node_state state)
{
    static const char *const names[] = {"up", "joining", "draining", "gone"};
    return names[state];
}

/* The cluster map as its JSON document. */
#include <jansson.h>
#include <stdio.h>

#include "api/map.h"

static json_t *number_text(uint64_t number)
{
    char text[24];
    snprintf(text, sizeof(text), "%llu", (unsigned long long)number);
    return json_string(text);
}

/* These count changes that people make: they stay far below 2^53, but a document that says otherwise is kept whole. */
static json_t *small_number(uint64_t number)
{
    return number < UINT64_C(1) << 53 ? json_integer((json_int_t)number) : number_text(number);
}

/* Takes `item`; jansson's functions answer -1 for a NULL one, which is how running out of memory shows. */
static bool add(json_t *array, json_t *item)
{
    return json_array_append_new(array, item) == 0;
}

static bool set(json_t *object, const char *name, json_t *value)
{
    return json_object_set_new(object, name, value) == 0;
}

static json_t *format_nodes(const struct map *self)
{
    json_t *array = json_array();
    bool good = array != NULL;
    for (size_t i = 0; good && i < self->node_count; i++) {
        const struct map_node *node = &self->nodes[i];
        json_t *addresses = json_array();
        good = addresses != NULL;
        for (size_t k = 0; good && k < node->address_count; k++)
            good = add(addresses, json_string(node->addresses[k]));
        json_t *item = good ? json_pack("{s:i, s:o, s:O}", "id", (int)node->id, "incarnation",
                                        number_text(node->incarnation), "addresses", addresses)
                            : NULL;
        json_decref(addresses);
        if (item != NULL && node->state != MAP_NODE_UP)
            good = set(item, "state", json_string(map_node_state_name(node->state)));
        if (item != NULL && good && node->level_max > 1)
            good = set(item, "levels", json_pack("[i, i]", (int)node->level_min, (int)node->level_max));
        good = add(array, item) && good;
    }
    if (good)
        return array;
    json_decref(array);
    return NULL;
}

static json_t *format_pools(const struct map *self)
{
    json_t *array = json_array();
    bool good = array != NULL;
    for (size_t i = 0; good && i < self->pool_count; i++) {
        const struct map_pool *pool = &self->pools[i];
        json_t *shards = json_array();
        good = shards != NULL;
        for (size_t k = 0; good && k < pool->shard_count; k++)
            good = add(shards, json_integer(pool->shards[k]));
        if (good)
            good =
                add(array,
                    json_pack("{s:s, s:s, s:s, s:i, s:s?, s:O, s:{s:o, s:o, s:o}, s:o}", "prefix", pool->prefix, "kind",
                              map_pool_kind_name(pool->kind), "state", map_pool_state_name(pool->state), "replicas",
                              (int)pool->replicas, "affinity", pool->affinity, "shards", shards, "retention", "count",
                              number_text(pool->retention_count), "age", number_text(pool->retention_age_ns), "bytes",
                              number_text(pool->retention_bytes), "lateness", number_text(pool->lateness_ns)));
        json_decref(shards);
    }
    if (good)
        return array;
    json_decref(array);
    return NULL;
}

static json_t *format_replicas(const struct map_replica *replicas, size_t count)
{
    json_t *array = json_array();
    bool good = array != NULL;
    for (size_t i = 0; good && i < count; i++) {
        json_t *item =
            json_pack("{s:i, s:o}", "node", (int)replicas[i].node, "incarnation", number_text(replicas[i].incarnation));
        if (item != NULL && replicas[i].since != 0)
            good = set(item, "since", number_text(replicas[i].since));
        good = add(array, item) && good;
    }
    if (good)
        return array;
    json_decref(array);
    return NULL;
}

static json_t *format_mask(uint64_t mask)
{
    json_t *array = json_array();
    bool good = array != NULL;
    for (unsigned node = 0; good && node < 64; node++)
        if ((mask >> node & 1) != 0)
            good = add(array, json_integer((json_int_t)node));
    if (good)
        return array;
    json_decref(array);
    return NULL;
}

/* What only a shard that has moved has to say is left out otherwise: there may be thousands of them. */
static json_t *format_shard(const struct map_shard *shard)
{
    json_t *item = json_pack("{s:I, s:o, s:o}", "id", (json_int_t)shard->id, "epoch", small_number(shard->epoch),
                             "replicas", format_replicas(shard->replicas, shard->replica_count));
    bool good = item != NULL;
    if (good && shard->leaving_count > 0)
        good = set(item, "leaving", format_replicas(shard->leaving, shard->leaving_count));
    if (good && shard->founders != map_wanted(shard))
        good = set(item, "founders", format_mask(shard->founders));
    if (good && shard->moving != 0)
        good = set(item, "moving", small_number(shard->moving));
    if (good)
        return item;
    json_decref(item);
    return NULL;
}

static json_t *format_shards(const struct map *self)
{
    json_t *array = json_array();
    bool good = array != NULL;
    for (size_t i = 0; good && i < self->shard_count; i++)
        good = add(array, format_shard(&self->shards[i]));
    if (good)
        return array;
    json_decref(array);
    return NULL;
}

static json_t *format_lambdas(const struct map *self)
{
    json_t *array = json_array();
    bool good = array != NULL;
    for (size_t i = 0; good && i < self->lambda_count; i++) {
        const struct map_lambda *lambda = &self->lambdas[i];
        json_t *watches = json_array();
        good = watches != NULL;
        for (size_t k = 0; good && k < lambda->watch_count; k++)
            good = add(watches,
                       json_pack("{s:i, s:s}", "kind", lambda->watches[k].kind, "pattern", lambda->watches[k].pattern));
        if (good)
            good = add(array,
                       json_pack("{s:s, s:o, s:s, s:s, s:s, s:s, s:b, s:o, s:o, s:O}", "name", lambda->name, "version",
                                 small_number(lambda->version), "sha256", lambda->sha256, "config", lambda->config,
                                 "placement", lambda->placement, "isolation", lambda->isolation, "enabled",
                                 lambda->enabled ? 1 : 0, "registered_ns", number_text(lambda->registered_ns), "size",
                                 small_number(lambda->size), "watches", watches));
        json_decref(watches);
    }
    if (good)
        return array;
    json_decref(array);
    return NULL;
}

char *map_format(const struct map *self)
{
    char cluster[33];
    for (size_t i = 0; i < 16; i++)
        snprintf(cluster + 2 * i, 3, "%02x", self->cluster[i]);
    /* json_pack releases what it was given when one of them is NULL. */
    json_t *document =
        json_pack("{s:i, s:o, s:s, s:I, s:o, s:o, s:o, s:o}", "format", MAP_FORMAT, "epoch", small_number(self->epoch),
                  "cluster", cluster, "next_shard", (json_int_t)self->next_shard, "nodes", format_nodes(self), "pools",
                  format_pools(self), "shards", format_shards(self), "lambdas", format_lambdas(self));
    bool good = document != NULL;
    if (good && self->level > 1)
        good = set(document, "level", json_integer((json_int_t)self->level));
    /* At the first level members are fixed, and the readers of then know no more. */
    if (good && self->level > 1 && self->group.replica_count > 0)
        good = set(document, "map_group", format_shard(&self->group));
    char *text = good ? json_dumps(document, JSON_COMPACT) : NULL;
    json_decref(document);
    return text;
}

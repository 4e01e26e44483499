#include "core/cluster/changes.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/pattern.h"
#include "core/base/text.h"
#include "core/cluster/changes__.h"
#include "core/cluster/cluster.h"

#define MAP_TEXT_BYTES_MAX (14u << 20)
#define LAMBDAS_MAX        256u

void change__refuse(struct edit *edit, enum sluice_status outcome, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(edit->change->words, sizeof(edit->change->words), format, arguments);
    va_end(arguments);
    edit->change->outcome = outcome;
}

static const char *text_of(const struct edit *edit, const char *name)
{
    return json_string_value(json_object_get(edit->document, name));
}

bool change__number(const json_t *value, uint64_t *out)
{
    if (json_is_integer(value) && json_integer_value(value) >= 0) {
        *out = (uint64_t)json_integer_value(value);
        return true;
    }
    const char *text = json_string_value(value);
    char *end = NULL;
    if (text == NULL || *text < '0' || *text > '9')
        return false;
    *out = strtoull(text, &end, 10);
    return *end == '\0';
}

static void *grown(void *array, size_t count, size_t item)
{
    return reallocarray(array, count + 1, item);
}

/* ---- Shards ---- */

static enum sluice_status add_shards(struct map *map, struct map_pool *pool, size_t pool_index, size_t count)
{
    struct map_shard *shards = reallocarray(map->shards, map->shard_count + count, sizeof(*shards));
    if (shards == NULL)
        return SLUICE_MEMORY;
    map->shards = shards;
    pool->shards = calloc(count, sizeof(*pool->shards));
    if (pool->shards == NULL)
        return SLUICE_MEMORY;
    size_t first = map->shard_count;
    for (size_t i = 0; i < count; i++) {
        struct map_shard *shard = &map->shards[map->shard_count++];
        *shard = (struct map_shard){.id = map->next_shard++, .epoch = 1, .pool = pool_index};
        pool->shards[pool->shard_count++] = shard->id;
    }
    return membership__place_new(map, first);
}

/* ---- Bootstrap ---- */

static enum sluice_status apply_bootstrap(struct edit *edit)
{
    char error[256];
    if (edit->change->map != NULL) {
        /* Somebody was first, which is what the author wanted too: nothing changes. */
        map_destroy(edit->next);
        edit->next = NULL;
        return SLUICE_OK;
    }
    char *text = json_dumps(json_object_get(edit->document, "map"), JSON_COMPACT);
    if (text == NULL) {
        change__refuse(edit, SLUICE_INVALID, "bootstrap needs a map");
        return SLUICE_OK;
    }
    enum sluice_status status = map_parse(text, strlen(text), &edit->next, error);
    free(text);
    if (status == SLUICE_MEMORY)
        return status;
    if (status != SLUICE_OK)
        change__refuse(edit, status, "%s", error);
    return SLUICE_OK;
}

/* ---- Pools ---- */

struct policy {
    enum map_pool_kind kind;
    uint64_t shards, replicas, retention_count, retention_age_ns, retention_bytes, lateness_ns;
    const char *affinity;
    bool has_kind, has_shards, has_affinity, has_replicas;
};

static bool policy_number(struct edit *edit, const json_t *object, const char *name, uint64_t low, uint64_t high,
                          uint64_t *out, bool *given)
{
    const json_t *value = json_object_get(object, name);
    if (value == NULL || json_is_null(value))
        return true;
    if (!change__number(value, out) || *out < low || *out > high) {
        change__refuse(edit, SLUICE_INVALID, "\"%s\" must be a number from %llu to %llu", name, (unsigned long long)low,
                       (unsigned long long)high);
        return false;
    }
    if (given != NULL)
        *given = true;
    return true;
}

static bool policy_kind(struct edit *edit, const json_t *object, struct policy *out)
{
    const json_t *value = json_object_get(object, "kind");
    if (value == NULL)
        return true;
    const char *kind = json_string_value(value);
    out->has_kind = true;
    if (kind != NULL && strcmp(kind, "persistent") == 0)
        out->kind = MAP_POOL_PERSISTENT;
    else if (kind != NULL && strcmp(kind, "volatile") == 0)
        out->kind = MAP_POOL_VOLATILE;
    else if (kind != NULL && strcmp(kind, "trigger") == 0) {
        change__refuse(edit, SLUICE_UNPROCESSABLE,
                       "trigger pools are not offered by this release; use a volatile pool");
        return false;
    } else {
        change__refuse(edit, SLUICE_INVALID, "\"kind\" must be \"persistent\", \"volatile\" or \"trigger\"");
        return false;
    }
    return true;
}

static bool policy_affinity(struct edit *edit, const json_t *object, struct policy *out)
{
    const json_t *value = json_object_get(object, "affinity");
    char error[256];
    struct pattern *pattern = NULL;
    if (value == NULL || json_is_null(value))
        return true;
    out->affinity = json_string_value(value);
    out->has_affinity = true;
    if (out->affinity == NULL ||
        pattern_compile(4, out->affinity, strlen(out->affinity), &pattern, error, sizeof(error)) != SLUICE_OK) {
        change__refuse(edit, SLUICE_INVALID, "\"affinity\" must be a regular expression: %s",
                       out->affinity == NULL ? "a text was expected" : error);
        return false;
    }
    pattern_destroy(pattern);
    return true;
}

static bool policy_read(struct edit *edit, struct policy *out)
{
    static const char *const known[] = {"kind",      "shards",   "replicas", "affinity",
                                        "retention", "lateness", "prefix",   "state"};
    const json_t *object = json_object_get(edit->document, "policy");
    const char *name;
    json_t *value;
    *out = (struct policy){.kind = MAP_POOL_PERSISTENT, .shards = CLUSTER_ROOT_SHARDS, .replicas = CLUSTER_REPLICAS};
    if (object != NULL && !json_is_object(object)) {
        change__refuse(edit, SLUICE_INVALID, "a pool's policy is a JSON object");
        return false;
    }
    json_object_foreach((json_t *)(uintptr_t)object, name, value)
    {
        size_t i = 0;
        while (i < sizeof(known) / sizeof(known[0]) && strcmp(known[i], name) != 0)
            i++;
        if (i == sizeof(known) / sizeof(known[0])) {
            change__refuse(edit, SLUICE_INVALID,
                           "a pool has no \"%s\"; known are kind, shards, replicas, affinity, retention, lateness",
                           name);
            return false;
        }
    }
    const json_t *retention = json_object_get(object, "retention");
    if (json_object_size(retention) > 0 &&
        (json_object_get(retention, "count") != NULL || json_object_get(retention, "age") != NULL ||
         json_object_get(retention, "bytes") != NULL)) {
        change__refuse(edit, SLUICE_UNPROCESSABLE,
                       "retention is not offered by this release: pools keep every version; leave \"retention\" out");
        return false;
    }
    const json_t *shards = json_object_get(object, "shards");
    bool counted = !json_is_array(shards); /* GET answers with the list of shards; PUT of that answer is no change */
    return policy_kind(edit, object, out) && policy_affinity(edit, object, out) &&
           (!counted ||
            policy_number(edit, object, "shards", 1, CLUSTER_POOL_SHARDS_MAX, &out->shards, &out->has_shards)) &&
           policy_number(edit, object, "replicas", 1, MAP_REPLICAS_MAX, &out->replicas, &out->has_replicas) &&
           policy_number(edit, object, "lateness", 0, UINT64_MAX, &out->lateness_ns, NULL);
}

static enum sluice_status pool_reply(struct edit *edit, const struct map_pool *pool, bool created)
{
    json_t *document =
        json_pack("{s:{s:s, s:s, s:i, s:i}, s:s, s:b}", "pool", "prefix", pool->prefix, "kind",
                  map_pool_kind_name(pool->kind), "shards", (int)pool->shard_count, "replicas", (int)pool->replicas,
                  "state", pool->state == MAP_POOL_LIVE ? "live" : "creating", "created", created);
    edit->change->reply = document == NULL ? NULL : json_dumps(document, JSON_COMPACT);
    json_decref(document);
    return edit->change->reply == NULL ? SLUICE_MEMORY : SLUICE_OK;
}

/* What a pool is cannot be changed; how it is kept may. */
static enum sluice_status pool_again(struct edit *edit, struct map_pool *pool, const struct policy *policy)
{
    const char *field = NULL;
    if (policy->has_kind && policy->kind != pool->kind)
        field = "kind";
    else if (policy->has_shards && policy->shards != pool->shard_count)
        field = "shards";
    else if (policy->has_affinity && (pool->affinity == NULL || strcmp(pool->affinity, policy->affinity) != 0))
        field = "affinity";
    else if (policy->has_replicas && policy->replicas != pool->replicas)
        field = "replicas";
    if (field != NULL) {
        change__refuse(edit, SLUICE_CONFLICT, "the pool's \"%s\" cannot be changed once it exists; make another pool",
                       field);
        return SLUICE_OK;
    }
    pool->lateness_ns = policy->lateness_ns;
    return pool_reply(edit, pool, false);
}

static enum sluice_status apply_pool_begin(struct edit *edit)
{
    const char *prefix = text_of(edit, "prefix");
    struct policy policy;
    const char *why = prefix == NULL      ? "a pool needs a prefix"
                      : prefix[0] == '\0' ? NULL
                                          : text_key_error(prefix, strlen(prefix));
    if (why != NULL) {
        change__refuse(edit, SLUICE_INVALID, "%s", why);
        return SLUICE_OK;
    }
    if (!policy_read(edit, &policy))
        return SLUICE_OK;
    struct map *map = edit->next;
    struct map_pool *pool = (struct map_pool *)(uintptr_t)map_pool_find(map, prefix, strlen(prefix));
    if (pool != NULL)
        return pool_again(edit, pool, &policy);
    if (strncmp(prefix, "_sluice", 7) == 0 && (prefix[7] == '/' || prefix[7] == '\0')) {
        change__refuse(edit, SLUICE_FORBIDDEN, "keys below _sluice/ are the store's own");
        return SLUICE_OK;
    }
    if (map->shard_count + policy.shards > CLUSTER_SHARDS_MAX) {
        change__refuse(edit, SLUICE_CONFLICT, "a cluster has at most %d shards; %zu are in use", CLUSTER_SHARDS_MAX,
                       map->shard_count);
        return SLUICE_OK;
    }
    struct map_pool *pools = grown(map->pools, map->pool_count, sizeof(*pools));
    if (pools == NULL)
        return SLUICE_MEMORY;
    map->pools = pools;
    size_t at = map->pool_count;
    while (at > 0 && strcmp(pools[at - 1].prefix, prefix) > 0) {
        pools[at] = pools[at - 1];
        at--;
    }
    map->pool_count++;
    for (size_t i = 0; i < map->shard_count; i++)
        map->shards[i].pool += map->shards[i].pool >= at;
    pool = &pools[at];
    *pool = (struct map_pool){
        .prefix = strdup(prefix),
        .kind = policy.kind,
        .state = MAP_POOL_CREATING,
        .replicas = (uint32_t)policy.replicas,
        .affinity = policy.affinity == NULL ? NULL : strdup(policy.affinity),
        .lateness_ns = policy.lateness_ns,
    };
    if (pool->prefix == NULL)
        return SLUICE_MEMORY;
    enum sluice_status status = add_shards(map, pool, at, (size_t)policy.shards);
    return status != SLUICE_OK ? status : pool_reply(edit, pool, true);
}

static struct map_pool *pool_named(struct edit *edit)
{
    const char *prefix = text_of(edit, "prefix");
    struct map_pool *pool =
        prefix == NULL ? NULL : (struct map_pool *)(uintptr_t)map_pool_find(edit->next, prefix, strlen(prefix));
    if (pool == NULL)
        change__refuse(edit, SLUICE_NOT_FOUND, "there is no pool %s", prefix == NULL ? "without a prefix" : prefix);
    return pool;
}

static enum sluice_status apply_pool_live(struct edit *edit)
{
    struct map_pool *pool = pool_named(edit);
    if (pool == NULL)
        return SLUICE_OK;
    pool->state = MAP_POOL_LIVE;
    return pool_reply(edit, pool, false);
}

static void remove_pool(struct map *map, struct map_pool *pool)
{
    size_t at = (size_t)(pool - map->pools), kept = 0;
    for (size_t i = 0; i < map->shard_count; i++) {
        if (map->shards[i].pool == at)
            continue;
        map->shards[kept] = map->shards[i];
        map->shards[kept].pool -= map->shards[kept].pool > at;
        kept++;
    }
    map->shard_count = kept;
    free(pool->prefix);
    free(pool->affinity);
    free(pool->shards);
    memmove(pool, pool + 1, (map->pool_count - at - 1) * sizeof(*pool));
    map->pool_count--;
}

static enum sluice_status apply_pool_remove(struct edit *edit, bool abort_only)
{
    struct map_pool *pool = pool_named(edit);
    if (pool == NULL)
        return SLUICE_OK;
    if (pool->prefix[0] == '\0') {
        change__refuse(edit, SLUICE_CONFLICT, "the root pool cannot be removed");
        return SLUICE_OK;
    }
    if (abort_only && pool->state == MAP_POOL_LIVE) {
        change__refuse(edit, SLUICE_CONFLICT, "the pool is live by now");
        return SLUICE_OK;
    }
    remove_pool(edit->next, pool);
    return SLUICE_OK;
}

/* ---- Lambdas ---- */

static bool lambda_name_good(const char *name)
{
    size_t size = name == NULL ? 0 : strlen(name);
    return size > 0 && size <= MACHINE_LAMBDA_BYTES_MAX &&
           strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.") == size && name[0] != '.';
}

static void lambda_clear(struct map_lambda *lambda)
{
    for (size_t i = 0; i < lambda->watch_count; i++)
        free(lambda->watches[i].pattern);
    free(lambda->watches);
    free(lambda->name);
    free(lambda->config);
    free(lambda->placement);
    free(lambda->isolation);
}

static enum sluice_status lambda_watches(struct map_lambda *lambda, const json_t *list)
{
    size_t count = json_array_size(list);
    lambda->watches = calloc(count + 1, sizeof(*lambda->watches));
    if (lambda->watches == NULL)
        return SLUICE_MEMORY;
    for (size_t i = 0; i < count; i++) {
        const json_t *item = json_array_get(list, i);
        const char *pattern = json_string_value(json_object_get(item, "pattern"));
        struct map_watch *watch = &lambda->watches[lambda->watch_count];
        if (pattern == NULL)
            continue;
        watch->kind = (int)json_integer_value(json_object_get(item, "kind"));
        if ((watch->pattern = strdup(pattern)) == NULL)
            return SLUICE_MEMORY;
        lambda->watch_count++;
    }
    return SLUICE_OK;
}

static enum sluice_status lambda_fill(struct edit *edit, struct map_lambda *lambda)
{
    uint64_t version = 0, size = 0;
    const char *name = text_of(edit, "name"), *sha256 = text_of(edit, "sha256");
    const json_t *config = json_object_get(edit->document, "config");
    const char *placement = text_of(edit, "placement"), *isolation = text_of(edit, "isolation");
    (void)change__number(json_object_get(edit->document, "size"), &size);
    if (!change__number(json_object_get(edit->document, "version"), &version) || sha256 == NULL ||
        strlen(sha256) != 64) {
        change__refuse(edit, SLUICE_INVALID, "lambda_put needs a version and the SHA-256 of the file");
        return SLUICE_OK;
    }
    *lambda = (struct map_lambda){
        .name = strdup(name),
        .version = version,
        .config = json_is_string(config)   ? strdup(json_string_value(config))
                  : json_is_object(config) ? json_dumps(config, JSON_COMPACT)
                                           : strdup("{}"),
        .placement = strdup(placement == NULL ? "leader" : placement),
        .isolation = strdup(isolation == NULL ? "inprocess" : isolation),
        .enabled = true,
        .registered_ns = edit->change->time,
        .size = size,
    };
    memcpy(lambda->sha256, sha256, 65);
    if (lambda->name == NULL || lambda->config == NULL || lambda->placement == NULL || lambda->isolation == NULL)
        return SLUICE_MEMORY;
    if (strcmp(lambda->placement, "leader") != 0)
        change__refuse(edit, SLUICE_UNPROCESSABLE, "placement \"%s\" is not offered by this release; \"leader\" is",
                       lambda->placement);
    else if (strcmp(lambda->isolation, "inprocess") != 0)
        change__refuse(edit, SLUICE_UNPROCESSABLE, "isolation \"%s\" is not offered by this release; \"inprocess\" is",
                       lambda->isolation);
    return lambda_watches(lambda, json_object_get(edit->document, "watches"));
}

static enum sluice_status apply_lambda_put(struct edit *edit)
{
    struct map *map = edit->next;
    const char *name = text_of(edit, "name");
    struct map_lambda fresh = {0};
    if (!lambda_name_good(name)) {
        change__refuse(edit, SLUICE_INVALID,
                       "a lambda's name has 1 to %u of the characters a-z A-Z 0-9 _ - . and does not begin with a dot",
                       MACHINE_LAMBDA_BYTES_MAX);
        return SLUICE_OK;
    }
    enum sluice_status status = lambda_fill(edit, &fresh);
    struct map_lambda *lambda = map_lambda_find(map, name);
    if (status == SLUICE_OK && edit->change->outcome == SLUICE_OK && lambda == NULL) {
        if (map->lambda_count >= LAMBDAS_MAX)
            change__refuse(edit, SLUICE_CONFLICT, "a cluster has at most %u lambdas; remove one", LAMBDAS_MAX);
        struct map_lambda *lambdas = grown(map->lambdas, map->lambda_count, sizeof(*lambdas));
        if (lambdas == NULL)
            status = SLUICE_MEMORY;
        else {
            map->lambdas = lambdas;
            lambda = &lambdas[map->lambda_count];
        }
        if (status == SLUICE_OK && edit->change->outcome == SLUICE_OK) {
            *lambda = fresh;
            map->lambda_count++;
            return SLUICE_OK;
        }
    } else if (status == SLUICE_OK && edit->change->outcome == SLUICE_OK) {
        if (fresh.version <= lambda->version) {
            change__refuse(edit, SLUICE_CONFLICT, "version %llu of %s was uploaded meanwhile",
                           (unsigned long long)lambda->version, name);
        } else {
            fresh.registered_ns = lambda->registered_ns; /* its cursors go on */
            lambda_clear(lambda);
            *lambda = fresh;
            return SLUICE_OK;
        }
    }
    lambda_clear(&fresh);
    return status;
}

static struct map_lambda *lambda_named(struct edit *edit)
{
    const char *name = text_of(edit, "name");
    struct map_lambda *lambda = name == NULL ? NULL : map_lambda_find(edit->next, name);
    if (lambda == NULL)
        change__refuse(edit, SLUICE_NOT_FOUND, "there is no lambda %s", name == NULL ? "without a name" : name);
    return lambda;
}

static enum sluice_status apply_lambda_delete(struct edit *edit)
{
    struct map_lambda *lambda = lambda_named(edit);
    if (lambda == NULL)
        return SLUICE_OK;
    struct map *map = edit->next;
    size_t at = (size_t)(lambda - map->lambdas);
    lambda_clear(lambda);
    memmove(lambda, lambda + 1, (map->lambda_count - at - 1) * sizeof(*lambda));
    map->lambda_count--;
    return SLUICE_OK;
}

static enum sluice_status apply_lambda_enable(struct edit *edit)
{
    struct map_lambda *lambda = lambda_named(edit);
    if (lambda != NULL)
        lambda->enabled = json_is_true(json_object_get(edit->document, "enabled"));
    return SLUICE_OK;
}

/* ---- The whole ---- */

static enum sluice_status dispatch(struct edit *edit)
{
    const char *name = text_of(edit, "change");
    if (name == NULL) {
        change__refuse(edit, SLUICE_INVALID, "a change of the map is a JSON object with a \"change\"");
        return SLUICE_OK;
    }
    if (strcmp(name, "bootstrap") == 0)
        return apply_bootstrap(edit);
    if (edit->next == NULL) {
        change__refuse(edit, SLUICE_UNAVAILABLE, "the cluster has not been bootstrapped yet; try again");
        return SLUICE_OK;
    }
    if (strcmp(name, "node_register") == 0)
        return membership__register(edit);
    if (strcmp(name, "node_add") == 0)
        return membership__add(edit);
    if (strcmp(name, "node_remove") == 0)
        return membership__remove(edit);
    if (strcmp(name, "node_replace") == 0)
        return membership__replace(edit);
    if (strcmp(name, "shards_settled") == 0)
        return membership__settled(edit);
    if (strcmp(name, "shard_admit") == 0)
        return membership__admit(edit);
    if (strcmp(name, "pool_begin") == 0)
        return apply_pool_begin(edit);
    if (strcmp(name, "pool_live") == 0)
        return apply_pool_live(edit);
    if (strcmp(name, "pool_abort") == 0 || strcmp(name, "pool_delete") == 0)
        return apply_pool_remove(edit, name[5] == 'a');
    if (strcmp(name, "lambda_put") == 0)
        return apply_lambda_put(edit);
    if (strcmp(name, "lambda_delete") == 0)
        return apply_lambda_delete(edit);
    if (strcmp(name, "lambda_enable") == 0)
        return apply_lambda_enable(edit);
    change__refuse(edit, SLUICE_INVALID, "\"%.64s\" is no change that this release knows", name);
    return SLUICE_OK;
}

static enum sluice_status copy_map(struct edit *edit)
{
    char error[256];
    if (edit->change->map == NULL)
        return SLUICE_OK;
    char *text = map_format(edit->change->map);
    enum sluice_status status = text == NULL ? SLUICE_MEMORY : map_parse(text, strlen(text), &edit->next, error);
    free(text);
    return status;
}

/* The new map is what its text says, so that every node and every restart reads the same. */
static enum sluice_status finish(struct edit *edit)
{
    struct change *change = edit->change;
    char error[256];
    if (change->outcome != SLUICE_OK || edit->next == NULL)
        return SLUICE_OK;
    edit->next->epoch++;
    change->text = map_format(edit->next);
    if (change->text == NULL)
        return SLUICE_MEMORY;
    enum sluice_status status = SLUICE_OK;
    if (strlen(change->text) > MAP_TEXT_BYTES_MAX)
        change__refuse(edit, SLUICE_CONFLICT, "the cluster map would grow beyond %u MiB", MAP_TEXT_BYTES_MAX >> 20);
    else
        status = map_parse(change->text, strlen(change->text), &change->result, error);
    if (status == SLUICE_MEMORY)
        return status;
    if (status != SLUICE_OK)
        change__refuse(edit, SLUICE_INVALID, "the change would leave a map that makes no sense: %s", error);
    if (change->outcome != SLUICE_OK) {
        free(change->text);
        change->text = NULL;
    }
    return SLUICE_OK;
}

enum sluice_status change_apply(struct change *self, const char *json, size_t size)
{
    json_error_t where;
    struct edit edit = {.change = self, .document = json_loadb(json, size, 0, &where)};
    self->outcome = SLUICE_OK;
    if (edit.document == NULL) {
        change__refuse(&edit, SLUICE_INVALID, "a change of the map is JSON: %s at line %d", where.text, where.line);
        return SLUICE_OK;
    }
    enum sluice_status status = copy_map(&edit);
    if (status == SLUICE_OK)
        status = dispatch(&edit);
    if (status == SLUICE_OK)
        status = finish(&edit);
    if (edit.next != NULL)
        map_destroy(edit.next);
    json_decref(edit.document);
    if (self->outcome != SLUICE_OK) {
        free(self->reply);
        self->reply = NULL;
    }
    return status;
}

char *cluster_bootstrap(const uint8_t cluster[16], const uint16_t *nodes, size_t node_count)
{
    struct map map = {.next_shard = 1};
    struct map_pool root = {
        .prefix = (char[]){""}, .kind = MAP_POOL_PERSISTENT, .state = MAP_POOL_LIVE, .replicas = CLUSTER_REPLICAS};
    char *text = NULL, *change = NULL;
    memcpy(map.cluster, cluster, sizeof(map.cluster));
    map.nodes = calloc(node_count, sizeof(*map.nodes));
    if (map.nodes == NULL)
        return NULL;
    map.node_count = node_count;
    for (size_t i = 0; i < node_count; i++)
        map.nodes[i] = (struct map_node){.id = nodes[i], .level_min = 1, .level_max = 1};
    map.pools = &root;
    map.pool_count = 1;
    if (add_shards(&map, &root, 0, CLUSTER_ROOT_SHARDS) == SLUICE_OK)
        text = map_format(&map);
    if (text != NULL && asprintf(&change, "{\"change\":\"bootstrap\",\"map\":%s}", text) < 0)
        change = NULL;
    free(text);
    free(map.shards);
    free(root.shards);
    free(map.nodes);
    return change;
}

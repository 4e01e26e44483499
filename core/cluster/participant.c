#include "core/cluster/participant.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/cluster/participant__.h"

#define DOUBT_EVERY_NS NS_PER_S

enum sluice_status participant_create(const struct participant_options *options, const struct participant_env *env,
                                      struct participant **out)
{
    struct participant *self = calloc(1, sizeof(*self));
    if (self == NULL)
        return SLUICE_MEMORY;
    self->options = *options;
    self->env = *env;
    self->host = options->host;
    self->doubt_at_ns = UINT64_MAX;
    *out = self;
    return SLUICE_OK;
}

void participant_destroy(struct participant *self)
{
    if (self == NULL)
        return;
    if (self->cluster != NULL)
        cluster_destroy(self->cluster);
    map_destroy(self->told_map);
    free(self->told_text);
    free(self);
}

void participant__fail(struct participant *self, enum sluice_status status, const char *what)
{
    if (!self->failed)
        self->env.fatal(self->env.arg, status, what);
    self->failed = true;
}

bool participant_understands(uint32_t level, char *error, size_t error_size)
{
    if (level >= MAP_LEVEL_MIN && level <= MAP_LEVEL)
        return true;
    snprintf(error, error_size,
             "the cluster works at level %u, and this release understands levels %u to %u: start this node with the "
             "release that the others run; its data are as they were",
             level, MAP_LEVEL_MIN, MAP_LEVEL);
    return false;
}

/* Before there is a map, its group's members are those of the first start. A node that joined waits for the map, unless
 * it has kept the map itself: it may be the only one that does, and what it has in its store may be a map of before. */
enum sluice_status participant_open(struct participant *self, char *error, size_t error_size)
{
    uint32_t found;
    bool closed, kept = host_next_left(self->host, MAP_GROUP, &found, &closed) && found == MAP_GROUP;
    bool host = self->options.founders != 0 && (self->options.joined == 0 || kept);
    enum sluice_status status = residence__open_map(self, self->options.founders, host);
    const struct map *map = participant_map(self);
    if (status != SLUICE_OK)
        snprintf(error, error_size, "the cluster map cannot be recovered: %s", sluice_status_text(status));
    else if (map != NULL && !participant_understands(map->level, error, error_size))
        status = SLUICE_VERSION;
    return status;
}

/* ---- The map ---- */

const struct map *participant_map(const struct participant *self)
{
    const struct map *map = self->cluster == NULL ? NULL : cluster_map(self->cluster);
    if (map == NULL || (self->told_map != NULL && self->told_map->epoch > map->epoch))
        map = self->told_map;
    return map == NULL || map->epoch < self->options.joined ? NULL : map;
}

const char *participant_map_text(const struct participant *self)
{
    const struct map *map = participant_map(self);
    return map == NULL ? NULL : map == self->told_map ? self->told_text : cluster_map_text(self->cluster);
}

/* A snapshot has replaced the map group's history here: the map is read anew. */
void participant_installed(struct participant *self, uint32_t group)
{
    struct cluster *cluster = NULL;
    if (group != MAP_GROUP)
        return;
    enum sluice_status status = cluster_create(host_group_versions(self->host, MAP_GROUP), &cluster);
    if (status != SLUICE_OK) {
        participant__fail(self, status, "the cluster map of a snapshot could not be read");
        return;
    }
    cluster_destroy(self->cluster);
    self->cluster = cluster;
}

enum sluice_status participant_map_apply(struct participant *self, const struct entry *entry, struct versions *versions,
                                         struct machine_outcome *outcome, char **reply)
{
    enum sluice_status status = cluster_apply(self->cluster, entry, versions, outcome, reply);
    /* Whoever it is about may not hear of it: a node that registers itself waits for the map to say so. */
    if (status == SLUICE_OK && outcome->status == SLUICE_VERSION && *reply != NULL)
        LOG_WARN("cluster", "refused: %s", *reply);
    /* The reply to whoever asked for the change names the map that has it. */
    if (status == SLUICE_OK && participant_map(self) != NULL)
        host_set_map_epoch(self->host, participant_map(self)->epoch);
    return status;
}

bool participant_owns(const struct participant *self, uint32_t shard, const char *key, size_t size)
{
    const struct map *map = participant_map(self);
    const struct map_shard *entry = map == NULL ? NULL : map_shard_find(map, shard);
    /* With an affinity the client alone evaluates the regex; the pool is checked here all the same. */
    const struct map_pool *pool = entry == NULL ? NULL : map_pool_of(map, key, size);
    if (pool == NULL || pool != &map->pools[entry->pool])
        return false;
    return pool->affinity != NULL || map_shard_of(pool, key, size) == shard;
}

/* ---- A round ---- */

void participant_tick(struct participant *self, bool leads)
{
    uint64_t now = self->env.monotonic_ns(self->env.arg);
    if (self->failed)
        return;
    if (now >= self->register_at_ns)
        arrival__register(self, now);
    const struct map *map = participant_map(self);
    if (map == NULL)
        return;
    if (now >= self->doubt_at_ns) {
        self->doubt_at_ns = now + DOUBT_EVERY_NS;
        exchange__greet_all(self);
    }
    if (now >= self->settle_at_ns)
        arrival__settle(self, map, now);
    if (now >= self->erase_at_ns && self->map_epoch_seen == map->epoch)
        residence__erase_left(self, map, now);
    if (now >= self->lead_at_ns && leads)
        arrival__offer_leads(self, map, now);
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

uint64_t participant_next_ns(const struct participant *self)
{
    if (participant_map(self) == NULL)
        return self->register_at_ns;
    return earlier(earlier(earlier(self->register_at_ns, self->settle_at_ns), self->doubt_at_ns),
                   earlier(self->lead_at_ns, self->erase_at_ns));
}

/* ---- What it is asked for ---- */

struct readiness {
    uint32_t led, count;
};

static void count_known(void *arg, const struct host_group_status *status)
{
    struct readiness *readiness = arg;
    readiness->count++;
    readiness->led += status->leader != 0;
}

bool participant_ready(const struct participant *self)
{
    struct readiness readiness = {0};
    if (participant_map(self) == NULL)
        return false;
    host_each_group(self->host, count_known, &readiness);
    return readiness.led == readiness.count;
}

struct led {
    uint64_t reachable; /* mask of nodes that could take over */
    size_t count;
};

static void count_led(void *arg, const struct host_group_status *status)
{
    struct led *led = arg;
    led->count += strcmp(status->role, "leader") == 0 && (status->members & led->reachable) != 0;
}

bool participant_led_nothing(const struct participant *self)
{
    struct led led = {0};
    for (uint16_t id = 1; id < PARTICIPANT_NODES; id++)
        if (self->peers[id].up)
            led.reachable |= UINT64_C(1) << id;
    if (host_leads(self->host) > 0)
        host_each_group(self->host, count_led, &led);
    return led.count == 0;
}

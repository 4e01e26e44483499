/* Where a request goes: the cluster map, and for each shard who leads it. While nobody is known to lead a shard its
 * requests are parked, and one of them is sent around to find out: so an election costs a few messages, however much
 * is in flight. */
#include <stdlib.h>
#include <string.h>

#include "client/client__.h"
#include "core/base/crc.h"
#include "core/base/log.h"
#include "core/base/panic.h"
#include "core/base/text.h"

#define DELAY_MIN_MS      5u
#define DELAY_MAX_MS      100u
#define NO_QUORUM_LONG_NS NS_PER_S /* an election, or nodes that have only just started, are over by then */
#define PROBE_TIMEOUT_NS  NS_PER_S
#define MAP_AGAIN_MS_MIN  10u
#define MAP_AGAIN_MS_MAX  5000u

/* --- Routes --- */

static void route_retry(struct timer *timer);

static struct route *route_create(struct sluice_client *client, uint32_t id)
{
    struct route *self = calloc(1, sizeof(*self));
    if (self == NULL)
        return NULL;
    self->client = client;
    self->id = id;
    self->retry.fire = route_retry;
    list__init(&self->parked);
    return self;
}

static void route_destroy(struct route *self)
{
    if (self == NULL)
        return;
    ASSERT(list__empty(&self->parked));
    timer__stop(&self->client->timers, &self->retry);
    if (self->probe != NULL)
        ask__cancel(self->probe);
    free(self->probe);
    free(self);
}

static int compare_routes(const void *key, const void *item)
{
    uint32_t id = *(const uint32_t *)key, other = (*(struct route *const *)item)->id;
    return (id > other) - (id < other);
}

struct route *route__find(const struct sluice_client *self, uint32_t shard)
{
    if (self->map == NULL)
        return NULL;
    if (shard == MAP_GROUP)
        return self->map_group;
    struct route *const *found = self->map->shard_count == 0 ? NULL
                                                             : bsearch(&shard, self->routes, self->map->shard_count,
                                                                       sizeof(struct route *), compare_routes);
    return found == NULL ? NULL : *found;
}

struct route *route__of_key(const struct sluice_client *self, const char *key, size_t size)
{
    const struct map_pool *pool = self->map == NULL ? NULL : map_pool_of(self->map, key, size);
    const char *token = key;
    size_t token_size = size;
    if (pool == NULL)
        return NULL;
    if (pool->affinity != NULL) {
        const struct pattern *affinity = self->affinities[pool - self->map->pools];
        if (affinity == NULL)
            return NULL;
        /* A key that the expression does not match stands for itself. */
        if (!pattern_capture(affinity, key, size, &token, &token_size)) {
            token = key;
            token_size = size;
        }
    }
    return route__find(self, map_shard_of(pool, token, token_size));
}

bool route__shards_of_prefix(const struct sluice_client *self, const char *prefix, size_t size, uint32_t **out,
                             size_t *count)
{
    const struct map *map = self->map;
    const struct map_pool *around = NULL; /* the innermost pool that holds every key with the prefix */
    uint32_t *shards = malloc((map->shard_count + 1) * sizeof(*shards));
    *count = 0;
    if (shards == NULL)
        return false;
    for (size_t end = size + 1; end > 0 && around == NULL; end--)
        if (end == 1 || prefix[end - 2] == '/') {
            const struct map_pool *pool = map_pool_find(map, prefix, end == 1 ? 0 : end - 2);
            around = pool != NULL && pool->state == MAP_POOL_LIVE ? pool : NULL;
        }
    for (size_t i = 0; i < map->pool_count; i++) {
        const struct map_pool *pool = &map->pools[i];
        size_t length = strlen(pool->prefix);
        /* Or it lies within the prefix: "farm/" begins with it. */
        bool within = length >= size && length > 0 && memcmp(pool->prefix, prefix, size) == 0;
        if (pool != around && (!within || pool->state != MAP_POOL_LIVE))
            continue;
        memcpy(shards + *count, pool->shards, pool->shard_count * sizeof(*shards));
        *count += pool->shard_count;
    }
    *out = shards;
    return true;
}

/* --- Choosing --- */

static size_t replica_count(const struct route *self, const struct map_shard **shard)
{
    const struct map *map = self->client->map;
    *shard = self->id == MAP_GROUP ? &map->group : map_shard_find(map, self->id);
    /* One that is on its way out may lead still. */
    return *shard == NULL ? 0 : (*shard)->replica_count + (*shard)->leaving_count;
}

static struct peer *replica_peer(const struct route *self, const struct map_shard *shard, size_t index)
{
    uint16_t node =
        index < shard->replica_count ? shard->replicas[index].node : shard->leaving[index - shard->replica_count].node;
    struct peer *peer = link__peer(self->client, node);
    return peer != NULL && peer->link != NULL ? peer : NULL;
}

struct peer *route__choose(struct route *self, bool any_replica, uint64_t silent)
{
    const struct map_shard *shard = NULL;
    size_t count = replica_count(self, &shard);
    struct peer *leader = self->leader == 0 ? NULL : link__peer(self->client, self->leader);
    if (!any_replica && leader != NULL && leader->link != NULL)
        return leader;
    /* Readers that take any replica spread over them, and prefer one on this host. */
    size_t first = any_replica ? (size_t)(self->client->id + self->id) : self->turn;
    struct peer *found = NULL;
    for (size_t i = 0; i < count; i++) {
        struct peer *peer = replica_peer(self, shard, (first + i) % count);
        if (peer != NULL && (silent >> peer->node & 1) == 0 &&
            (found == NULL || (any_replica && peer->local && !found->local)))
            found = peer;
    }
    return found;
}

/* --- Parking --- */

static void retry_soon(struct route *self)
{
    if (self->retry.armed)
        return;
    self->delay_ms = self->delay_ms == 0 ? DELAY_MIN_MS : self->delay_ms * 2;
    if (self->delay_ms > DELAY_MAX_MS)
        self->delay_ms = DELAY_MAX_MS;
    timer__set(&self->client->timers, &self->retry, clock_monotonic_ns() + self->delay_ms * NS_PER_MS);
}

void route__park(struct route *self, struct ask *ask, bool first)
{
    ask->state = ASK_PARKED;
    ask->route = self;
    if (first)
        list__prepend(&self->parked, &ask->link);
    else
        list__append(&self->parked, &ask->link);
    retry_soon(self);
}

static void unpark(struct route *self)
{
    struct list parked;
    list__move(&self->parked, &parked);
    while (!list__empty(&parked))
        ask__route(LIST__OF(parked.next, struct ask, link));
}

/* Sends the one that has waited longest to the next replica; where that replica leads, all others follow. With no
 * replica connected they wait for a link, which starts this again. */
static void route_retry(struct timer *timer)
{
    struct route *self = LIST__OF(timer, struct route, retry);
    if (list__empty(&self->parked))
        return;
    if (route__choose(self, false, 0) == NULL)
        return;
    struct ask *ask = LIST__OF(self->parked.next, struct ask, link);
    /* Should its answer be long in coming, the next one goes. */
    if (ask->link.next != &self->parked)
        retry_soon(self);
    list__remove(&ask->link);
    ask->state = ASK_IDLE;
    ask->scout = true;
    ask__route(ask);
}

void route__leads(struct route *self, uint16_t node)
{
    self->leader = node;
    self->delay_ms = 0;
    self->no_quorum_ns = 0;
    self->refused = 0;
    if (list__empty(&self->parked))
        return;
    timer__stop(&self->client->timers, &self->retry);
    unpark(self);
}

void route__no_leader(struct route *self, const struct peer *peer)
{
    if (self->leader == peer->node)
        self->leader = 0;
    self->turn++;
    self->no_quorum_ns = 0;
    self->refused = 0;
}

bool route__no_quorum(struct route *self, const struct peer *peer)
{
    const struct map_shard *shard = NULL;
    uint64_t now = clock_monotonic_ns();
    if (self->no_quorum_ns == 0)
        self->no_quorum_ns = now;
    self->refused |= UINT64_C(1) << peer->node % 64;
    if (self->leader == peer->node)
        self->leader = 0;
    self->turn++;
    if (now - self->no_quorum_ns < NO_QUORUM_LONG_NS)
        return false;
    size_t count = replica_count(self, &shard);
    for (size_t i = 0; i < count; i++) {
        const struct peer *other = replica_peer(self, shard, i);
        /* One that has said nothing ever since is no better than one that refuses: it was asked in its turn. */
        bool silent = other != NULL && other->heard_ns < self->no_quorum_ns;
        if (other != NULL && !silent && (self->refused & UINT64_C(1) << other->node % 64) == 0)
            return false;
    }
    return true;
}

void route__no_quorum_fail(struct route *self)
{
    struct list parked, kept;
    list__init(&kept);
    list__move(&self->parked, &parked);
    while (!list__empty(&parked)) {
        struct ask *ask = LIST__OF(parked.next, struct ask, link);
        list__remove(&ask->link);
        if (ask->stream || ask->maybe_applied) {
            list__append(&kept, &ask->link);
            continue;
        }
        ask->state = ASK_IDLE;
        ask__fail(ask, SLUICE_UNAVAILABLE, ROUTE_NO_QUORUM);
    }
    while (!list__empty(&kept)) {
        struct ask *ask = LIST__OF(kept.next, struct ask, link);
        list__remove(&ask->link);
        list__append(&self->parked, &ask->link);
    }
}

static bool is_replica(const struct route *self, const struct peer *peer)
{
    const struct map_shard *shard = NULL;
    size_t count = replica_count(self, &shard);
    for (size_t i = 0; i < count; i++)
        if (replica_peer(self, shard, i) == peer)
            return true;
    return false;
}

static void route_link_up(struct route *self, const struct peer *peer)
{
    if (list__empty(&self->parked) || !is_replica(self, peer))
        return;
    if (self->leader == peer->node)
        unpark(self);
    else
        timer__set(&self->client->timers, &self->retry, clock_monotonic_ns());
}

void route__link_up(struct sluice_client *self, const struct peer *peer)
{
    if (self->map == NULL)
        return;
    for (size_t i = 0; i < self->map->shard_count; i++)
        route_link_up(self->routes[i], peer);
    route_link_up(self->map_group, peer);
}

/* --- A leader that does not answer --- */

static void probed(struct ask *ask, const struct reply *reply)
{
    struct route *self = ask->owner;
    uint16_t leader = 0;
    if (reply->status == SLUICE_OK)
        leader = ask->node;
    else if (reply->status == SLUICE_NOT_LEADER && reply->header != NULL && reply->header->node <= UINT16_MAX)
        leader = (uint16_t)reply->header->node;
    self->probe = NULL;
    free(ask);
    if (leader == 0 || leader == self->silent)
        return;
    struct peer *silent = link__peer(self->client, self->silent);
    LOG_DEBUG("client", "shard %u is led by node %u now", self->id, leader);
    route__leads(self, leader);
    if (silent == NULL)
        return;
    /* What the old leader was asked is asked again of the new one. */
    struct list moved;
    list__init(&moved);
    for (struct list *item = silent->in_flight.next; item != &silent->in_flight;) {
        struct ask *other = LIST__OF(item, struct ask, link);
        item = item->next;
        if (other->route == self && !other->any_replica) {
            list__remove(&other->link);
            list__append(&moved, &other->link);
        }
    }
    while (!list__empty(&moved))
        ask__lost(LIST__OF(moved.next, struct ask, link));
}

void route__probe(struct route *self, const struct peer *silent)
{
    const struct map_shard *shard = NULL;
    size_t count = replica_count(self, &shard);
    struct peer *other = NULL;
    if (self->probe != NULL || self->id == MAP_GROUP)
        return;
    for (size_t i = 0; i < count && other == NULL; i++) {
        other = replica_peer(self, shard, (self->turn + i) % count);
        if (other == silent)
            other = NULL;
    }
    self->turn++;
    if (other == NULL)
        return;
    struct ask *ask = calloc(1, sizeof(*ask));
    if (ask == NULL)
        return;
    ask->client = self->client;
    ask->type = WIRE_TIME;
    ask->target = ASK_NODE;
    ask->node = other->node;
    ask->shard = self->id;
    ask->once = true;
    ask->deadline_ns = clock_monotonic_ns() + PROBE_TIMEOUT_NS;
    ask->done = probed;
    ask->owner = self;
    self->probe = ask;
    self->silent = silent->node;
    ask__start(ask);
}

/* --- The map --- */

static void affinities_free(struct pattern **affinities, size_t count)
{
    for (size_t i = 0; affinities != NULL && i < count; i++)
        pattern_destroy(affinities[i]);
    free(affinities);
}

static struct pattern **affinities_compile(const struct map *map)
{
    struct pattern **affinities = calloc(map->pool_count + 1, sizeof(*affinities));
    for (size_t i = 0; affinities != NULL && i < map->pool_count; i++) {
        char error[256];
        const char *text = map->pools[i].affinity;
        if (text == NULL)
            continue;
        enum sluice_status status =
            pattern_compile(WIRE_PATTERN_REGEX, text, strlen(text), &affinities[i], error, sizeof(error));
        if (status == SLUICE_MEMORY) {
            affinities_free(affinities, map->pool_count);
            return NULL;
        }
        /* A newer release may know patterns that this one doesn't: the other pools are served all the same. */
        if (status != SLUICE_OK)
            LOG_WARN("client", "pool %s has an affinity that this release cannot read: %s", map->pools[i].prefix,
                     error);
    }
    return affinities;
}

/* What is known of shards that stay is kept; those that went are left in `old`. */
static struct route **routes_make(struct sluice_client *self, const struct map *map, struct route **old,
                                  size_t old_count)
{
    struct route **routes = calloc(map->shard_count + 1, sizeof(struct route *));
    if (routes == NULL)
        return NULL;
    for (size_t i = 0; i < map->shard_count; i++) {
        struct route **found =
            old_count == 0 ? NULL : bsearch(&map->shards[i].id, old, old_count, sizeof(struct route *), compare_routes);
        routes[i] = found != NULL ? *found : route_create(self, map->shards[i].id);
        if (routes[i] == NULL) {
            for (size_t k = 0; k < i; k++)
                if (old_count == 0 ||
                    bsearch(&map->shards[k].id, old, old_count, sizeof(struct route *), compare_routes) == NULL)
                    route_destroy(routes[k]);
            free(routes);
            return NULL;
        }
    }
    return routes;
}

/* Routes of shards that are no more: who waited there looks for its key's shard again. */
static void routes_retire(struct sluice_client *self, struct route **old, size_t old_count)
{
    struct list orphans;
    list__init(&orphans);
    for (size_t i = 0; i < old_count; i++) {
        struct route *route = old[i];
        if (route__find(self, route->id) == route)
            continue;
        while (!list__empty(&route->parked)) {
            struct list *item = route->parked.next;
            list__remove(item);
            list__append(&orphans, item);
        }
        for (struct list *item = self->peers.next; item != &self->peers; item = item->next) {
            struct peer *peer = LIST__OF(item, struct peer, link_of_client);
            for (struct list *flying = peer->in_flight.next; flying != &peer->in_flight; flying = flying->next)
                if (LIST__OF(flying, struct ask, link)->route == route)
                    LIST__OF(flying, struct ask, link)->route = NULL;
        }
        route_destroy(route);
    }
    while (!list__empty(&orphans)) {
        struct ask *ask = LIST__OF(orphans.next, struct ask, link);
        list__remove(&ask->link);
        ask->state = ASK_IDLE;
        ask->route = NULL;
        ask__route(ask);
    }
}

static bool install(struct sluice_client *self, struct map *map)
{
    struct map *old_map = self->map;
    struct route **old = self->routes;
    size_t old_count = old_map == NULL ? 0 : old_map->shard_count;
    struct pattern **affinities = affinities_compile(map);
    struct route **routes = affinities == NULL ? NULL : routes_make(self, map, old, old_count);
    if (self->map_group == NULL)
        self->map_group = route_create(self, MAP_GROUP);
    if (routes == NULL || self->map_group == NULL) {
        affinities_free(affinities, map->pool_count);
        for (size_t i = 0; routes != NULL && i < map->shard_count; i++)
            if (old_count == 0 ||
                bsearch(&map->shards[i].id, old, old_count, sizeof(struct route *), compare_routes) == NULL)
                route_destroy(routes[i]);
        free(routes);
        return false;
    }
    affinities_free(self->affinities, old_map == NULL ? 0 : old_map->pool_count);
    self->map = map;
    self->affinities = affinities;
    self->routes = routes;
    routes_retire(self, old, old_count);
    free(old);
    map_destroy(old_map);
    return true;
}

/* A node sends each map once. Where there was no memory for it (which jansson tells as bad JSON), it is asked for
 * again; ever more seldom, as it may be bad indeed. */
static void take_later(struct sluice_client *self)
{
    self->map_again_ms = self->map_again_ms == 0 ? MAP_AGAIN_MS_MIN : self->map_again_ms * 2;
    if (self->map_again_ms > MAP_AGAIN_MS_MAX)
        self->map_again_ms = MAP_AGAIN_MS_MAX;
    timer__set(&self->timers, &self->map_again, clock_monotonic_ns() + self->map_again_ms * NS_PER_MS);
}

void route__map_again(struct timer *timer)
{
    struct sluice_client *self = LIST__OF(timer, struct sluice_client, map_again);
    if (self->map != NULL && link__follow_map(self) != SLUICE_OK)
        take_later(self);
    for (struct list *item = self->peers.next; item != &self->peers; item = item->next) {
        struct peer *peer = LIST__OF(item, struct peer, link_of_client);
        if (peer->link != NULL)
            link__ask_map(peer);
    }
}

static void tell_waiters(struct sluice_client *self)
{
    struct list waiters;
    ask__wake_waiting(self);
    watch__map_changed(self);
    list__move(&self->map_waiters, &waiters);
    while (!list__empty(&waiters)) {
        struct map_waiter *waiter = LIST__OF(waiters.next, struct map_waiter, link);
        list__remove(&waiter->link);
        list__append(&self->map_waiters, &waiter->link);
        waiter->changed(waiter);
    }
}

void route__take_map(struct sluice_client *self, const uint8_t *text, size_t size)
{
    char error[256];
    struct map *map = NULL;
    uint32_t crc = crc32c(text, size);
    if (self->map != NULL && self->map_size == size && self->map_crc == crc)
        return; /* each node sends it */
    enum sluice_status status = map_parse((const char *)text, size, &map, error);
    if (status != SLUICE_OK) {
        LOG_WARN("client", "a cluster map could not be read: %s", error);
        take_later(self);
        return;
    }
    if (self->map != NULL &&
        (map->epoch <= self->map->epoch || memcmp(map->cluster, self->map->cluster, sizeof(map->cluster)) != 0)) {
        map_destroy(map);
        return;
    }
    if (!install(self, map)) {
        LOG_WARN("client", "no memory for a new cluster map; the old one stays in use");
        map_destroy(map);
        take_later(self);
        return;
    }
    self->map_crc = crc;
    self->map_size = size;
    self->map_again_ms = 0;
    timer__stop(&self->timers, &self->map_again);
    LOG_DEBUG("client", "cluster map of epoch %llu", (unsigned long long)map->epoch);
    if (link__follow_map(self) != SLUICE_OK) {
        LOG_WARN("client", "no memory to follow the cluster map in full");
        take_later(self);
    }
    tell_waiters(self);
}

void route__drop_map(struct sluice_client *self)
{
    timer__stop(&self->timers, &self->map_again);
    if (self->map != NULL) {
        for (size_t i = 0; i < self->map->shard_count; i++)
            route_destroy(self->routes[i]);
        affinities_free(self->affinities, self->map->pool_count);
        free(self->routes);
    }
    route_destroy(self->map_group);
    map_destroy(self->map);
    self->map = NULL;
}

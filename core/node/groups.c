/* Keeps the replicas of this node as the cluster map wants them, and this process registered in it. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/node/node__.h"

#define REGISTER_EVERY_NS (200 * NS_PER_MS)
#define SETTLE_EVERY_NS   (50 * NS_PER_MS)
#define ERASE_EVERY_NS    (50 * NS_PER_MS) /* a shard at a time, which may wait for the disk */
#define SETTLE_REPORT_MAX 256              /* shards in one report */
/* The lead goes to whom the map prefers once that node has been there for a while; a try that failed is not repeated
 * for longer. */
#define LEAD_EVERY_NS   NS_PER_S
#define LEAD_AFTER_NS   (3 * NS_PER_S)
#define LEAD_AGAIN_NS   (30 * NS_PER_S)
#define LEAD_OFFERS_MAX 8 /* to one node at a time */

/* A group begins with its founders, the preferred leader first. Whoever joins later begins there too: it is none of
 * them any more, and the log teaches it what became of the members, one step at a time. */
static void set_founders(struct host_group *group, uint64_t founders, const struct map_shard *shard)
{
    for (size_t i = 0; shard != NULL && i < shard->replica_count; i++) {
        uint16_t node = shard->replicas[i].node;
        if (node < 64 && (founders >> node & 1) != 0)
            group->replicas[group->replica_count++] = node;
    }
    for (uint16_t node = 1; node < 64 && group->replica_count < PAXOS_REPLICAS_MAX; node++) {
        bool there = (founders >> node & 1) == 0;
        for (uint32_t i = 0; i < group->replica_count; i++)
            there = there || group->replicas[i] == node;
        if (!there)
            group->replicas[group->replica_count++] = node;
    }
}

/* After damage the group is told that it has lost something, which its own records then say, in the same batch that
 * ends the log's saying so. (A volatile one's do only when it is admitted.) */
static enum sluice_status add_group(struct node *self, struct host_group *group)
{
    group->lost = wal_lost(self->wal, group->group);
    enum sluice_status status = host_group_add(self->host, group);
    if (status == SLUICE_OK && group->lost && !(group->memory_only && group->amnesiac))
        status = wal_mend(self->wal, group->group, group->epoch);
    return status;
}

/* The map as it stands in the store, and where `host` the group whose log makes it. */
static enum sluice_status open_map(struct node *self, uint64_t founders, bool host)
{
    const struct versions_options options = {
        .group = MAP_GROUP, .epoch = 1, .store = self->store, .hot_bytes_max = 4u << 20};
    struct host_group group = {.group = MAP_GROUP, .epoch = 1};
    struct cluster *cluster = NULL;
    enum sluice_status status = versions_create(&options, &group.versions);
    if (status != SLUICE_OK)
        return status;
    status = cluster_create(group.versions, &cluster);
    if (status != SLUICE_OK) {
        versions_destroy(group.versions);
        return status;
    }
    if (self->cluster != NULL)
        cluster_destroy(self->cluster);
    self->cluster = cluster;
    const struct map *map = node__map(self);
    const struct map_replica *own = map == NULL ? NULL : map_replica_find(&map->group, self->options.id);
    group.since = own == NULL ? 0 : own->since;
    if (!host && own == NULL) {
        versions_destroy(group.versions);
        return SLUICE_OK;
    }
    set_founders(&group, founders, NULL);
    return add_group(self, &group);
}

/* Before there is a map, its group's members are those of the first start. A node that joined waits for the map, unless
 * its own store has one that counts it in. */
enum sluice_status groups__open(struct node *self, char *error, size_t error_size)
{
    uint64_t founders = 0;
    for (size_t i = 0; i < self->identity.founder_count; i++)
        founders |= UINT64_C(1) << self->identity.founders[i];
    enum sluice_status status = open_map(self, founders, founders != 0);
    if (status != SLUICE_OK)
        snprintf(error, error_size, "the cluster map in %s cannot be recovered: %s", self->options.data_path,
                 sluice_status_text(status));
    else if (node__map(self) != NULL && !levels__understood(node__map(self)->level, error, error_size))
        status = SLUICE_VERSION;
    return status;
}

/* A snapshot has replaced the map group's history here: the map is read anew. */
void groups__installed(void *arg, uint32_t group, uint64_t epoch)
{
    struct node *self = arg;
    struct cluster *cluster = NULL;
    (void)epoch;
    if (group != MAP_GROUP)
        return;
    enum sluice_status status = cluster_create(host_group_versions(self->host, MAP_GROUP), &cluster);
    if (status != SLUICE_OK) {
        node__fail(self, status, "the cluster map of a snapshot could not be read");
        return;
    }
    cluster_destroy(self->cluster);
    self->cluster = cluster;
}

enum sluice_status groups__map_apply(void *arg, const struct entry *entry, struct versions *versions,
                                     struct machine_outcome *outcome, char **reply)
{
    struct node *self = arg;
    enum sluice_status status = cluster_apply(self->cluster, entry, versions, outcome, reply);
    /* Whoever it is about may not hear of it: a node that registers itself waits for the map to say so. */
    if (status == SLUICE_OK && outcome->status == SLUICE_VERSION && *reply != NULL)
        LOG_WARN("node", "refused: %s", *reply);
    /* The reply to whoever asked for the change names the map that has it. */
    if (status == SLUICE_OK && node__map(self) != NULL)
        host_set_map_epoch(self->host, node__map(self)->epoch);
    return status;
}

/* What this node left while it was down is not open, and so nobody's business but this one's. Only a map that knows
 * this very process says what is left: it is later than any that the process before followed, so whatever that one came
 * to hold, this map names or has taken away again. A map from the disk, or from a peer that lags, may be from before.
 */
static void erase_left(struct node *self, const struct map *map, uint64_t now)
{
    const struct map_node *own = map_node_find(map, self->options.id);
    bool known = own != NULL && own->incarnation == self->identity.incarnation, closed;
    uint32_t group;
    self->erase_at_ns = UINT64_MAX; /* until there is another map */
    while (host_next_left(self->host, self->erase_from, &group, &closed)) {
        const struct map_shard *shard = group == MAP_GROUP ? &map->group : map_shard_find(map, group);
        self->erase_from = group + 1;
        if ((!known && !closed) || (shard != NULL && map_replica_find(shard, self->options.id) != NULL))
            continue;
        if (!closed)
            LOG_INFO("node", "group=%u was left while this node was down; what is held of it is erased", group);
        enum sluice_status status = host_erase_left(self->host, group);
        if (status != SLUICE_OK)
            node__fail(self, status, "what was left of a shard could not be erased");
        self->erase_at_ns = now + ERASE_EVERY_NS;
        return;
    }
    self->erased_left = known;
}

/* Closed at once, erased one by one. */
static void leave(struct node *self, uint32_t group)
{
    host_group_leave(self->host, group);
    self->erased_left = false;
    self->erase_from = 0;
    self->erase_at_ns = 0;
}

static void join(struct node *self, const struct map *map, const struct map_shard *shard, const struct map_replica *own)
{
    bool memory_only = map->pools[shard->pool].kind == MAP_POOL_VOLATILE;
    struct host_group group = {
        .group = shard->id,
        .epoch = shard->epoch,
        .memory_only = memory_only,
        .since = own->since,
        .amnesiac = memory_only && own->incarnation != self->identity.incarnation,
    };
    set_founders(&group, shard->founders, shard);
    enum sluice_status status = add_group(self, &group);
    if (status != SLUICE_OK)
        node__fail(self, status, "a shard could not be opened");
}

/* Tells the replica what the map wants of it. */
static void want(struct node *self, const struct map_shard *shard)
{
    struct host_wanted nodes[MAP_REPLICAS_MAX];
    for (size_t i = 0; i < shard->replica_count; i++)
        nodes[i] = (struct host_wanted){.node = shard->replicas[i].node, .since = shard->replicas[i].since};
    host_group_want(self->host, shard->id, nodes, (uint32_t)shard->replica_count);
}

/* The promise that makes good what the log had lost is written before the log says no more that it had. */
static void admit(struct node *self, const struct map_shard *shard)
{
    host_group_admit(self->host, shard->id);
    enum sluice_status status =
        wal_lost(self->wal, shard->id) ? wal_mend(self->wal, shard->id, shard->epoch) : SLUICE_OK;
    if (status != SLUICE_OK)
        node__fail(self, status, "what the log had lost could not be made good");
}

static void follow_shard(struct node *self, const struct map *map, const struct map_shard *shard)
{
    const struct map_replica *own = map_replica_find(shard, self->options.id);
    uint64_t epoch = 0;
    bool here = host_group_has(self->host, shard->id, &epoch);
    if (here && own == NULL)
        leave(self, shard->id);
    if (own == NULL)
        return;
    if (here && (epoch != shard->epoch || own->since > host_group_since(self->host, shard->id))) {
        host_group_remove(self->host, shard->id, true);
        here = false;
    }
    if (!here)
        join(self, map, shard, own);
    else if (map->pools[shard->pool].kind == MAP_POOL_VOLATILE && own->incarnation == self->identity.incarnation)
        admit(self, shard);
    want(self, shard);
}

static void follow_map_group(struct node *self, const struct map *map)
{
    const struct map_replica *own = map_replica_find(&map->group, self->options.id);
    bool here = host_group_has(self->host, MAP_GROUP, NULL);
    /* Only on somebody else's word: the log itself may be behind. */
    bool left = own == NULL || own->since > host_group_since(self->host, MAP_GROUP);
    if (here && left && self->told_map == map) {
        LOG_INFO("node", "this node does not keep the cluster map any more%s", own == NULL ? "" : " as it did before");
        host_group_remove(self->host, MAP_GROUP, true);
    }
    if (own != NULL && !host_group_has(self->host, MAP_GROUP, NULL)) {
        enum sluice_status status = open_map(self, map->group.founders, true);
        if (status != SLUICE_OK)
            node__fail(self, status, "the cluster map could not be opened");
        LOG_INFO("node", "this node keeps the cluster map from now on");
    }
    if (own != NULL && !self->failed)
        want(self, &map->group);
    if (here != host_group_has(self->host, MAP_GROUP, NULL))
        members__greet_all(self);
}

struct leftovers {
    const struct map *map;
    uint32_t groups[CLUSTER_SHARDS_MAX];
    size_t count;
};

static void find_leftover(void *arg, const struct host_group_status *status)
{
    struct leftovers *leftovers = arg;
    if (status->group != MAP_GROUP && map_shard_find(leftovers->map, status->group) == NULL &&
        leftovers->count < CLUSTER_SHARDS_MAX)
        leftovers->groups[leftovers->count++] = status->group;
}

void groups__follow_map(struct node *self)
{
    const struct map *map = node__map(self);
    if (map == NULL || map->epoch <= self->map_epoch_seen)
        return;
    self->map_epoch_seen = map->epoch;
    self->settle_at_ns = 0;
    if (!self->erased_left) {
        self->erase_at_ns = 0;
        self->erase_from = 0;
    }
    levels__follow_map(self);
    if (self->failed)
        return;
    members__follow_map(self);
    follow_map_group(self, map);
    map = node__map(self);
    host_set_map_epoch(self->host, map->epoch);
    struct leftovers *leftovers = calloc(1, sizeof(*leftovers));
    if (leftovers == NULL) {
        node__fail(self, SLUICE_MEMORY, "no memory to follow the cluster map");
        return;
    }
    leftovers->map = map;
    host_each_group(self->host, find_leftover, leftovers);
    for (size_t i = 0; i < leftovers->count; i++)
        leave(self, leftovers->groups[i]);
    free(leftovers);
    for (size_t i = 0; i < map->shard_count && !self->failed; i++)
        follow_shard(self, map, &map->shards[i]);
    control__map_changed(self);
    lambdas__map_changed(self);
    members__tell(self);
}

static void bootstrap(struct node *self)
{
    char *change = cluster_bootstrap(self->identity.cluster, self->identity.founders, self->identity.founder_count);
    if (change != NULL)
        members__change(self, change, strlen(change));
    free(change);
}

/* Tells the map which process speaks for this node by now, until the map says so itself. */
void groups__register(struct node *self, uint64_t now)
{
    if (now < self->register_at_ns)
        return;
    self->register_at_ns = now + REGISTER_EVERY_NS;
    const struct map *map = node__map(self);
    if (map == NULL) {
        if (self->identity.founder_count > 0)
            bootstrap(self);
        return;
    }
    const struct map_node *node = map_node_find(map, self->options.id);
    if (node == NULL || node->state == MAP_NODE_GONE) {
        self->register_at_ns = now + NS_PER_S; /* not a member yet, or not any more: only a new map can change that */
        return;
    }
    if (node->incarnation == self->identity.incarnation && node->level_max == MAP_LEVEL) {
        self->register_at_ns = UINT64_MAX;
        return;
    }
    char incarnation[24];
    snprintf(incarnation, sizeof(incarnation), "%llu", (unsigned long long)self->identity.incarnation);
    json_t *addresses = json_array();
    const struct node__member *own = members__find(self, self->options.id);
    if (own != NULL && own->address_count == 0)
        own = NULL;
    for (size_t i = 0; own != NULL && i < own->address_count; i++)
        json_array_append_new(addresses, json_string(own->addresses[i]));
    for (unsigned i = 0; own == NULL && fabric_listen_address(self->fabric, i) != NULL; i++)
        json_array_append_new(addresses, json_string(fabric_listen_address(self->fabric, i)));
    json_t *change = json_pack("{s:s, s:i, s:s, s:o, s:[i, i]}", "change", "node_register", "node", self->options.id,
                               "incarnation", incarnation, "addresses", addresses, "levels", MAP_LEVEL_MIN, MAP_LEVEL);
    char *text = change == NULL ? NULL : json_dumps(change, JSON_COMPACT);
    if (text != NULL)
        members__change(self, text, strlen(text));
    free(text);
    json_decref(change);
}

void groups__caught_up(void *arg, uint32_t group, uint64_t epoch)
{
    struct node *self = arg;
    char text[160];
    (void)epoch;
    int size =
        snprintf(text, sizeof(text), "{\"change\":\"shard_admit\",\"shard\":%u,\"node\":%u,\"incarnation\":\"%llu\"}",
                 group, self->options.id, (unsigned long long)self->identity.incarnation);
    members__change(self, text, (size_t)size);
}

bool groups__owns(void *arg, uint32_t shard, const char *key, size_t size)
{
    struct node *self = arg;
    const struct map *map = node__map(self);
    const struct map_shard *entry = map == NULL ? NULL : map_shard_find(map, shard);
    /* With an affinity the client alone evaluates the regex; the pool is checked here all the same. */
    const struct map_pool *pool = entry == NULL ? NULL : map_pool_of(map, key, size);
    if (pool == NULL || pool != &map->pools[entry->pool])
        return false;
    return pool->affinity != NULL || map_shard_of(pool, key, size) == shard;
}

struct readiness {
    uint32_t led, count;
};

static void count_known(void *arg, const struct host_group_status *status)
{
    struct readiness *readiness = arg;
    readiness->count++;
    readiness->led += status->leader != 0;
}

bool groups__ready(const struct node *self)
{
    struct readiness readiness = {0};
    const struct map *map = node__map(self);
    if (map == NULL)
        return false;
    host_each_group(self->host, count_known, &readiness);
    return readiness.led == readiness.count;
}

/* ---- Arriving, and who leads ---- */

void groups__members_changed(void *arg, uint32_t group, uint64_t epoch, uint64_t members)
{
    struct node *self = arg;
    LOG_DEBUG("node", "group=%u epoch=%llu its members are %llx now", group, (unsigned long long)epoch,
              (unsigned long long)members);
    self->settle_at_ns = 0;
}

struct settling {
    struct node *node;
    const struct map *map;
    json_t *shards;
    bool any_moving; /* of those that this node leads, and not arrived yet */
};

static void look_whether_settled(void *arg, const struct host_group_status *status)
{
    struct settling *settling = arg;
    const struct map *map = settling->map;
    const struct map_shard *shard = status->group == MAP_GROUP ? &map->group : map_shard_find(map, status->group);
    if (shard == NULL || shard->moving == 0 || shard->epoch != status->epoch || strcmp(status->role, "leader") != 0)
        return;
    if (status->members != map_wanted(shard) || !status->settled ||
        json_array_size(settling->shards) >= SETTLE_REPORT_MAX) {
        settling->any_moving = true;
        return;
    }
    char moving[24], members[24];
    snprintf(moving, sizeof(moving), "%llu", (unsigned long long)shard->moving);
    snprintf(members, sizeof(members), "%llu", (unsigned long long)status->members);
    json_array_append_new(settling->shards, json_pack("{s:I, s:I, s:s, s:s}", "shard", (json_int_t)shard->id, "epoch",
                                                      (json_int_t)shard->epoch, "moving", moving, "members", members));
}

static bool anything_moves(const struct map *map)
{
    bool moves = map->group.moving != 0;
    for (size_t i = 0; !moves && i < map->shard_count; i++)
        moves = map->shards[i].moving != 0;
    return moves;
}

static void report_settled(struct node *self, const struct map *map, uint64_t now)
{
    struct settling settling = {.node = self, .map = map, .shards = json_array()};
    self->settle_at_ns = UINT64_MAX;
    if (!anything_moves(map)) {
        json_decref(settling.shards);
        return;
    }
    host_each_group(self->host, look_whether_settled, &settling);
    bool told = json_array_size(settling.shards) > 0;
    /* A report that is lost is made again; one that arrives brings a new map, which looks anew. */
    self->settle_at_ns = now + (told ? 4 * SETTLE_EVERY_NS : SETTLE_EVERY_NS);
    json_t *document = told ? json_pack("{s:s, s:O}", "change", "shards_settled", "shards", settling.shards) : NULL;
    char *text = document == NULL ? NULL : json_dumps(document, JSON_COMPACT);
    if (text != NULL)
        members__change(self, text, strlen(text));
    free(text);
    json_decref(document);
    json_decref(settling.shards);
}

struct leading {
    struct node *node;
    const struct map *map;
    uint64_t now;
};

/* The map prefers another leader, who is a member and has been there for a while. */
static void offer_lead(void *arg, const struct host_group_status *status)
{
    struct leading *leading = arg;
    struct node *self = leading->node;
    const struct map *map = leading->map;
    const struct map_shard *shard = status->group == MAP_GROUP ? &map->group : map_shard_find(map, status->group);
    if (shard == NULL || shard->moving != 0 || shard->epoch != status->epoch || strcmp(status->role, "leader") != 0)
        return;
    uint16_t preferred = shard->replicas[0].node;
    struct node__member *member = members__find(self, preferred);
    if (preferred == self->options.id || member == NULL || member->link == NULL || preferred >= 64 ||
        (status->members >> preferred & 1) == 0 || leading->now < member->up_at_ns + LEAD_AFTER_NS ||
        leading->now < member->lead_at_ns)
        return;
    member->lead_held++;
    if (member->lead_offers >= LEAD_OFFERS_MAX)
        return;
    member->lead_offers++;
    LOG_DEBUG("node", "group=%u node %u may lead it again", status->group, preferred);
    host_group_transfer(self->host, status->group, preferred);
}

void groups__settle(struct node *self, uint64_t now)
{
    const struct map *map = node__map(self);
    if (map == NULL)
        return;
    if (now >= self->settle_at_ns)
        report_settled(self, map, now);
    if (now >= self->erase_at_ns && self->map_epoch_seen == map->epoch)
        erase_left(self, map, now);
    if (now >= self->lead_at_ns && !atomic_load(&self->handing_over)) {
        struct leading leading = {.node = self, .map = map, .now = now};
        self->lead_at_ns = now + LEAD_EVERY_NS;
        host_each_group(self->host, offer_lead, &leading);
        for (size_t i = 0; i < self->member_count; i++) {
            struct node__member *member = &self->members[i];
            /* It has taken none of those that were offered a moment ago. */
            if (member->lead_offered && member->lead_held >= member->lead_held_before)
                member->lead_at_ns = now + LEAD_AGAIN_NS;
            member->lead_offered = member->lead_offers > 0;
            member->lead_held_before = member->lead_held;
            member->lead_held = member->lead_offers = 0;
        }
    }
}

uint64_t groups__next_ns(const struct node *self)
{
    if (node__map(self) == NULL)
        return UINT64_MAX;
    uint64_t next = self->settle_at_ns < self->lead_at_ns ? self->settle_at_ns : self->lead_at_ns;
    return self->erase_at_ns < next ? self->erase_at_ns : next;
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

bool groups__led_nothing(const struct node *self)
{
    struct led led = {0};
    for (size_t i = 0; i < self->member_count; i++)
        if (self->members[i].link != NULL)
            led.reachable |= UINT64_C(1) << self->members[i].id;
    if (host_leads(self->host) > 0)
        host_each_group(self->host, count_led, &led);
    return led.count == 0;
}

/* Nodes come and go. The map says what is wanted; each shard's log moves its members there, and its leader reports when
 * it has arrived (shards_settled). Until then those that leave are named, and keep what they hold. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/cluster/changes__.h"
#include "core/cluster/cluster.h"
#include "core/cluster/placement.h"

#define NODE_ID_MAX      63u
#define ADDRESSES_MAX    8u
#define GROUP_FEW        3u /* replicas of the map itself */
#define GROUP_MANY       5u /* from as many nodes on */
#define SETTLED_LEVEL    2u
#define PERSON_SAYS_NODE "name the node by its number, 1 to 63"

static uint64_t bit(uint16_t node)
{
    return node <= NODE_ID_MAX ? UINT64_C(1) << node : 0;
}

static struct map_node *node_of(struct map *map, uint64_t id)
{
    return id > UINT16_MAX ? NULL : (struct map_node *)(uintptr_t)map_node_find(map, (uint16_t)id);
}

static bool holds(const struct map *map, uint16_t node)
{
    bool found = map_replica_find(&map->group, node) != NULL;
    for (size_t i = 0; !found && i < map->shard_count; i++)
        found = map_replica_find(&map->shards[i], node) != NULL;
    return found;
}

/* Nodes that replicas may be put on. One that is still to come counts once somebody was told to be replaced by it. */
static uint64_t usable_nodes(const struct map *map)
{
    uint64_t mask = 0;
    for (size_t i = 0; i < map->node_count; i++) {
        const struct map_node *node = &map->nodes[i];
        if (node->state == MAP_NODE_UP || (node->state == MAP_NODE_JOINING && holds(map, node->id)))
            mask |= bit(node->id);
    }
    return mask;
}

/* ---- Placement ---- */

static void take_placement(const struct map_shard *shard, uint32_t wanted, struct placement_shard *out)
{
    *out = (struct placement_shard){.wanted = wanted, .count = (uint32_t)shard->replica_count};
    for (size_t i = 0; i < shard->replica_count; i++)
        out->nodes[i] = shard->replicas[i].node;
}

/* False: more replicas would be on their way out than the map can name. */
static bool give_placement(const struct map *map, const struct placement_shard *placement, struct map_shard *shard)
{
    struct map_shard before = *shard;
    shard->replica_count = placement->count;
    shard->leaving_count = 0;
    for (uint32_t i = 0; i < placement->count; i++) {
        const struct map_replica *known = map_replica_find(&before, placement->nodes[i]);
        shard->replicas[i] =
            known != NULL ? *known : (struct map_replica){.node = placement->nodes[i], .since = map->epoch + 1};
    }
    for (size_t i = 0; i < before.replica_count + before.leaving_count; i++) {
        const struct map_replica *old =
            i < before.replica_count ? &before.replicas[i] : &before.leaving[i - before.replica_count];
        if (map_replica_find(shard, old->node) != NULL)
            continue;
        if (shard->leaving_count == MAP_REPLICAS_MAX)
            return false;
        shard->leaving[shard->leaving_count++] = *old;
    }
    if (map_wanted(shard) != map_wanted(&before))
        shard->moving = map->epoch + 1;
    return true;
}

/* Places everything anew, changing as little as can be. `old` (0: none) hands its places to `new`. */
static enum sluice_status replan(struct edit *edit, uint16_t old, uint16_t new)
{
    struct map *map = edit->next;
    uint64_t usable = usable_nodes(map) | (old == 0 ? 0 : bit(new));
    if (old != 0)
        usable &= ~bit(old);
    struct placement_shard *placements = calloc(map->shard_count + 1, sizeof(*placements));
    if (placements == NULL)
        return SLUICE_MEMORY;
    struct placement_shard *group = &placements[map->shard_count];
    uint32_t many = (uint32_t)__builtin_popcountll(usable);
    for (size_t i = 0; i < map->shard_count; i++)
        take_placement(&map->shards[i], map->pools[map->shards[i].pool].replicas, &placements[i]);
    take_placement(&map->group, many >= GROUP_MANY ? GROUP_MANY : GROUP_FEW, group);
    for (size_t i = 0; old != 0 && i <= map->shard_count; i++) {
        struct placement_shard *placement = &placements[i];
        bool there = false;
        for (uint32_t k = 0; k < placement->count; k++)
            there = there || placement->nodes[k] == new;
        for (uint32_t k = 0; !there && k < placement->count; k++)
            if (placement->nodes[k] == old)
                placement->nodes[k] = new;
    }
    placement_solve(usable, placements, map->shard_count, 0);
    placement_solve(usable, group, 1, 0);
    bool good = give_placement(map, group, &map->group);
    for (size_t i = 0; good && i < map->shard_count; i++)
        good = give_placement(map, &placements[i], &map->shards[i]);
    free(placements);
    if (!good)
        change__refuse(edit, SLUICE_CONFLICT,
                       "too many replicas of one shard are on their way already; wait until they have moved "
                       "(sluice cluster shows them) and repeat this");
    return SLUICE_OK;
}

enum sluice_status membership__place_new(struct map *map, size_t first)
{
    struct placement_shard *placements = calloc(map->shard_count + 1, sizeof(*placements));
    if (placements == NULL)
        return SLUICE_MEMORY;
    for (size_t i = 0; i < map->shard_count; i++)
        take_placement(&map->shards[i], map->pools[map->shards[i].pool].replicas, &placements[i]);
    placement_solve(usable_nodes(map), placements, map->shard_count, first);
    for (size_t i = first; i < map->shard_count; i++) {
        struct map_shard *shard = &map->shards[i];
        bool in_memory = map->pools[shard->pool].kind == MAP_POOL_VOLATILE;
        shard->replica_count = placements[i].count;
        for (uint32_t k = 0; k < placements[i].count; k++) {
            const struct map_node *node = map_node_find(map, placements[i].nodes[k]);
            shard->replicas[k] =
                (struct map_replica){.node = node->id, .incarnation = in_memory ? node->incarnation : 0};
        }
        shard->founders = map_wanted(shard);
    }
    free(placements);
    return SLUICE_OK;
}

/* ---- Levels ---- */

/* The level rises once every node that belongs to the cluster understands it, and never falls. It follows from what
 * they said alone, not from what the release that applies this understands: the map is the same everywhere, and a node
 * that does not understand its level stops. */
static void raise_level(struct map *map)
{
    uint32_t level = UINT32_MAX;
    for (size_t i = 0; i < map->node_count; i++)
        if (map->nodes[i].state != MAP_NODE_GONE && map->nodes[i].state != MAP_NODE_JOINING &&
            map->nodes[i].level_max < level)
            level = map->nodes[i].level_max;
    if (level > map->level && level <= UINT16_MAX)
        map->level = level;
}

/* A node that does not say what it understands is of the first release. False: it does not understand the cluster. */
static bool level_understood(struct edit *edit, uint64_t node, uint16_t *low, uint16_t *high)
{
    const json_t *levels = json_object_get(edit->document, "levels");
    uint64_t least = 1, most = 1;
    if (!change__number(json_array_get(levels, 0), &least) || !change__number(json_array_get(levels, 1), &most) ||
        least < 1 || most < least || most > UINT16_MAX)
        least = most = 1;
    *low = (uint16_t)least;
    *high = (uint16_t)most;
    if (most >= edit->next->level && least <= edit->next->level)
        return true;
    change__refuse(edit, SLUICE_VERSION,
                   "this cluster works at level %u, node %llu understands %u to %u: start it with a release that does",
                   edit->next->level, (unsigned long long)node, *low, *high);
    return false;
}

/* ---- Gone ---- */

/* A node that is to go and holds nothing any more has gone. It may have been the last one of an older release. */
static void finish_drains(struct map *map)
{
    for (size_t i = 0; i < map->node_count; i++)
        if (map->nodes[i].state == MAP_NODE_DRAINING && !holds(map, map->nodes[i].id))
            map->nodes[i].state = MAP_NODE_GONE;
    raise_level(map);
}

static size_t shards_moving(const struct map *map)
{
    size_t count = map->group.moving != 0;
    for (size_t i = 0; i < map->shard_count; i++)
        count += map->shards[i].moving != 0;
    return count;
}

static enum sluice_status reply(struct edit *edit, const struct map_node *node, const struct map_node *replaced)
{
    json_t *document = json_pack("{s:i, s:s, s:i}", "node", (int)node->id, "state", map_node_state_name(node->state),
                                 "shards_moving", (int)shards_moving(edit->next));
    if (document != NULL && replaced != NULL)
        json_object_set_new(document, "replaces", json_integer(replaced->id));
    edit->change->reply = document == NULL ? NULL : json_dumps(document, JSON_COMPACT);
    json_decref(document);
    return edit->change->reply == NULL ? SLUICE_MEMORY : SLUICE_OK;
}

/* ---- Registering ---- */

/* A volatile replica's memory went with its process. Where no quorum of memories is left the shard begins a new epoch,
 * empty. While its members move the map does not know the quorum: then only if no memory at all is left. */
static void forget_memory(struct map *map, uint16_t node, uint64_t incarnation)
{
    for (size_t i = 0; i < map->shard_count; i++) {
        struct map_shard *shard = &map->shards[i];
        struct map_replica *replica = (struct map_replica *)(uintptr_t)map_replica_find(shard, node);
        size_t voters = 0;
        if (map->pools[shard->pool].kind != MAP_POOL_VOLATILE || replica == NULL || replica->incarnation == incarnation)
            continue;
        if (replica->incarnation == 0 && shard->moving != 0)
            continue; /* it has never held anything */
        replica->incarnation = 0;
        for (size_t k = 0; k < shard->replica_count; k++)
            voters += shard->replicas[k].incarnation != 0;
        for (size_t k = 0; k < shard->leaving_count; k++)
            voters += shard->leaving[k].incarnation != 0;
        if (voters >= (shard->moving != 0 ? 1 : shard->replica_count / 2 + 1))
            continue;
        shard->epoch++;
        shard->leaving_count = 0;
        shard->moving = 0;
        for (size_t k = 0; k < shard->replica_count; k++) {
            const struct map_node *member = map_node_find(map, shard->replicas[k].node);
            shard->replicas[k].incarnation = member == NULL ? 0 : member->incarnation;
            shard->replicas[k].since = 0;
        }
        shard->founders = map_wanted(shard);
    }
}

/* What is said is so already: no new map for it. */
static void unchanged(struct edit *edit)
{
    map_destroy(edit->next);
    edit->next = NULL;
}

static bool same_addresses(const struct map_node *node, const json_t *list)
{
    bool same = node->address_count == json_array_size(list);
    for (size_t i = 0; same && i < node->address_count; i++) {
        const char *text = json_string_value(json_array_get(list, i));
        same = text != NULL && strcmp(text, node->addresses[i]) == 0;
    }
    return same;
}

static enum sluice_status set_addresses(struct map_node *node, const json_t *list)
{
    size_t count = json_array_size(list) < ADDRESSES_MAX ? json_array_size(list) : ADDRESSES_MAX;
    char **addresses = calloc(count + 1, sizeof(*addresses));
    if (addresses == NULL)
        return SLUICE_MEMORY;
    for (size_t i = 0; i < node->address_count; i++)
        free(node->addresses[i]);
    free(node->addresses);
    node->addresses = addresses;
    node->address_count = 0;
    for (size_t i = 0; i < count; i++) {
        const char *text = json_string_value(json_array_get(list, i));
        if (text == NULL)
            continue;
        if ((addresses[node->address_count] = strdup(text)) == NULL)
            return SLUICE_MEMORY;
        node->address_count++;
    }
    return SLUICE_OK;
}

enum sluice_status membership__register(struct edit *edit)
{
    struct map *map = edit->next;
    uint64_t id = 0, incarnation = 0;
    uint16_t low, high;
    if (!change__number(json_object_get(edit->document, "node"), &id) ||
        !change__number(json_object_get(edit->document, "incarnation"), &incarnation) || incarnation == 0 ||
        id > UINT16_MAX) {
        change__refuse(edit, SLUICE_INVALID, "node_register needs a node and its incarnation");
        return SLUICE_OK;
    }
    struct map_node *node = node_of(map, id);
    if (node == NULL || node->state == MAP_NODE_GONE) {
        change__refuse(edit, SLUICE_NOT_FOUND,
                       node == NULL ? "node %llu is no member of this cluster" : "node %llu was removed",
                       (unsigned long long)id);
        return SLUICE_OK;
    }
    if (incarnation < node->incarnation) {
        change__refuse(edit, SLUICE_CONFLICT, "node %llu has started again since", (unsigned long long)id);
        return SLUICE_OK;
    }
    if (!level_understood(edit, id, &low, &high))
        return SLUICE_OK;
    bool arrives = node->state == MAP_NODE_JOINING;
    const json_t *addresses = json_object_get(edit->document, "addresses");
    if (!arrives && node->incarnation == incarnation && node->level_min == low && node->level_max == high &&
        same_addresses(node, addresses)) {
        unchanged(edit);
        return SLUICE_OK;
    }
    node->incarnation = incarnation;
    node->level_min = low;
    node->level_max = high;
    if (arrives)
        node->state = MAP_NODE_UP;
    raise_level(map);
    enum sluice_status status = set_addresses(node, addresses);
    if (status != SLUICE_OK)
        return status;
    forget_memory(map, (uint16_t)id, incarnation);
    return arrives ? replan(edit, 0, 0) : SLUICE_OK;
}

enum sluice_status membership__admit(struct edit *edit)
{
    uint64_t id = 0, node = 0, incarnation = 0;
    if (!change__number(json_object_get(edit->document, "shard"), &id) ||
        !change__number(json_object_get(edit->document, "node"), &node) ||
        !change__number(json_object_get(edit->document, "incarnation"), &incarnation)) {
        change__refuse(edit, SLUICE_INVALID, "shard_admit needs a shard, a node and its incarnation");
        return SLUICE_OK;
    }
    const struct map_shard *shard = map_shard_find(edit->next, (uint32_t)id);
    const struct map_node *member = node_of(edit->next, node);
    const struct map_replica *replica =
        shard == NULL || member == NULL ? NULL : map_replica_find(shard, (uint16_t)node);
    if (replica == NULL || member->incarnation != incarnation)
        change__refuse(edit, SLUICE_CONFLICT, "the shard, the node or its process is no longer what it was");
    else if (replica->incarnation == incarnation)
        unchanged(edit); /* said before */
    else
        ((struct map_replica *)(uintptr_t)replica)->incarnation = incarnation;
    return SLUICE_OK;
}

/* ---- Coming, going, replacing ---- */

static bool level_reached(struct edit *edit)
{
    const struct map *map = edit->next;
    if (map->level >= SETTLED_LEVEL)
        return true;
    for (size_t i = 0; i < map->node_count; i++)
        if (map->nodes[i].state != MAP_NODE_GONE && map->nodes[i].level_max < SETTLED_LEVEL) {
            change__refuse(edit, SLUICE_CONFLICT,
                           "nodes cannot be added or removed yet: node %u %s; start all nodes with this release first",
                           map->nodes[i].id,
                           map->nodes[i].incarnation == 0 ? "has not registered yet"
                                                          : "runs a release whose members are fixed");
            break;
        }
    return false;
}

/* The lowest number that was never given; then that of a node that has gone. 0: all are in use. */
static uint16_t free_number(const struct map *map)
{
    for (uint16_t id = 1; id <= NODE_ID_MAX; id++)
        if (map_node_find(map, id) == NULL)
            return id;
    for (uint16_t id = 1; id <= NODE_ID_MAX; id++)
        if (map_node_find(map, id)->state == MAP_NODE_GONE)
            return id;
    return 0;
}

/* Declares a node: a fresh one, or one that had gone. NULL: refused, or memory is out. */
static struct map_node *declare(struct edit *edit, const char *field, enum sluice_status *status)
{
    struct map *map = edit->next;
    const json_t *given = json_object_get(edit->document, field);
    uint64_t id = 0;
    *status = SLUICE_OK;
    if (given == NULL || json_is_null(given))
        id = free_number(map);
    else if (!change__number(given, &id) || id == 0 || id > NODE_ID_MAX) {
        change__refuse(edit, SLUICE_INVALID, "\"%s\": " PERSON_SAYS_NODE, field);
        return NULL;
    }
    if (id == 0) {
        change__refuse(edit, SLUICE_CONFLICT, "a cluster has at most %u nodes; remove one first", NODE_ID_MAX);
        return NULL;
    }
    struct map_node *node = node_of(map, id);
    if (node == NULL) {
        struct map_node *grown = reallocarray(map->nodes, map->node_count + 1, sizeof(*grown));
        if (grown == NULL) {
            *status = SLUICE_MEMORY;
            return NULL;
        }
        map->nodes = grown;
        node = &grown[map->node_count++];
        *node = (struct map_node){.id = (uint16_t)id, .state = MAP_NODE_GONE};
    }
    if (node->state == MAP_NODE_GONE) {
        node->state = MAP_NODE_JOINING;
        node->level_min = node->level_max = 1;
    }
    const json_t *addresses = json_object_get(edit->document, "addresses");
    if (node->state == MAP_NODE_JOINING && (json_array_size(addresses) > 0 || node->addresses == NULL))
        *status = set_addresses(node, addresses);
    return *status == SLUICE_OK ? node : NULL;
}

enum sluice_status membership__add(struct edit *edit)
{
    enum sluice_status status;
    if (!level_reached(edit))
        return SLUICE_OK;
    struct map_node *node = declare(edit, "node", &status);
    if (node == NULL)
        return status;
    uint16_t id = node->id, low, high;
    /* A person who adds a node does not know; a node that asks to be added says so. */
    if (json_object_get(edit->document, "levels") != NULL && !level_understood(edit, id, &low, &high))
        return SLUICE_OK;
    if (node->state == MAP_NODE_UP) {
        change__refuse(edit, SLUICE_CONFLICT,
                       "node %u is a member already: start it with the data directory that it has; if that is lost, "
                       "let a new node take its place: sluice cluster replace %u",
                       id, id);
        return SLUICE_OK;
    }
    if (node->state == MAP_NODE_DRAINING) { /* it was to go, and stays after all */
        node->state = MAP_NODE_UP;
        status = replan(edit, 0, 0);
    }
    return status != SLUICE_OK || edit->change->outcome != SLUICE_OK ? status
                                                                     : reply(edit, node_of(edit->next, id), NULL);
}

/* A person who takes a node away hears when that leaves fewer replicas than a pool wants. */
static bool enough_left(struct edit *edit, uint64_t left)
{
    const struct map *map = edit->next;
    uint32_t before = (uint32_t)__builtin_popcountll(usable_nodes(map)), after = (uint32_t)__builtin_popcountll(left);
    if (after == 0) {
        change__refuse(edit, SLUICE_CONFLICT, "the last node cannot be removed; add another one first");
        return false;
    }
    if (json_is_true(json_object_get(edit->document, "force")))
        return true;
    for (size_t i = 0; i < map->pool_count; i++) {
        uint32_t wanted = map->pools[i].replicas;
        if (after < wanted && after < before) {
            change__refuse(edit, SLUICE_CONFLICT,
                           "%u nodes would be left, and the pool %s wants %u replicas: add a node first, or replace "
                           "this one, or accept fewer with force",
                           after, map->pools[i].prefix[0] == '\0' ? "/" : map->pools[i].prefix, wanted);
            return false;
        }
    }
    return true;
}

static struct map_node *named(struct edit *edit, const char *field)
{
    uint64_t id = 0;
    if (!change__number(json_object_get(edit->document, field), &id)) {
        change__refuse(edit, SLUICE_INVALID, "\"%s\": " PERSON_SAYS_NODE, field);
        return NULL;
    }
    struct map_node *node = node_of(edit->next, id);
    if (node == NULL || node->state == MAP_NODE_GONE) {
        change__refuse(edit, SLUICE_NOT_FOUND,
                       node == NULL ? "there is no node %llu; sluice cluster shows those that are there"
                                    : "node %llu has been removed already",
                       (unsigned long long)id);
        return NULL;
    }
    return node;
}

/* What is asked for is so already: the answer, and no new map for it. */
static enum sluice_status reply_unchanged(struct edit *edit, const struct map_node *node,
                                          const struct map_node *replaced)
{
    enum sluice_status status = reply(edit, node, replaced);
    unchanged(edit);
    return status;
}

static const struct map_node *gone(const struct edit *edit, const char *field)
{
    uint64_t id = 0;
    const struct map_node *node =
        change__number(json_object_get(edit->document, field), &id) ? node_of(edit->next, id) : NULL;
    return node != NULL && node->state == MAP_NODE_GONE ? node : NULL;
}

enum sluice_status membership__remove(struct edit *edit)
{
    if (!level_reached(edit))
        return SLUICE_OK;
    /* Whoever asks again, since the first answer was lost, hears of success as well. */
    if (gone(edit, "node") != NULL)
        return reply_unchanged(edit, gone(edit, "node"), NULL);
    struct map_node *node = named(edit, "node");
    if (node == NULL)
        return SLUICE_OK;
    enum sluice_status status = SLUICE_OK;
    if (node->state != MAP_NODE_DRAINING) {
        if (!enough_left(edit, usable_nodes(edit->next) & ~bit(node->id)))
            return SLUICE_OK;
        node->state = MAP_NODE_DRAINING;
        status = replan(edit, 0, 0);
        finish_drains(edit->next);
    }
    return status != SLUICE_OK || edit->change->outcome != SLUICE_OK ? status : reply(edit, node, NULL);
}

enum sluice_status membership__replace(struct edit *edit)
{
    enum sluice_status status;
    if (!level_reached(edit))
        return SLUICE_OK;
    uint64_t successor = 0;
    const struct map_node *before =
        change__number(json_object_get(edit->document, "new"), &successor) ? node_of(edit->next, successor) : NULL;
    if (gone(edit, "old") != NULL && before != NULL && before->state != MAP_NODE_GONE)
        return reply_unchanged(edit, before, gone(edit, "old"));
    const struct map_node *old = named(edit, "old");
    if (old == NULL)
        return SLUICE_OK;
    uint16_t old_id = old->id;
    struct map_node *new = declare(edit, "new", &status); /* may move the nodes in memory */
    if (new == NULL)
        return status;
    if (new->id == old_id) {
        change__refuse(edit, SLUICE_CONFLICT,
                       "a node cannot take its own place: give the new one another number, or none for the next free "
                       "one");
        return SLUICE_OK;
    }
    if (new->state == MAP_NODE_DRAINING) {
        change__refuse(edit, SLUICE_CONFLICT, "node %u is being removed itself", new->id);
        return SLUICE_OK;
    }
    uint16_t new_id = new->id;
    bool had_places = (usable_nodes(edit->next) & bit(old_id)) != 0;
    node_of(edit->next, old_id)->state = MAP_NODE_DRAINING;
    status = had_places ? replan(edit, old_id, new_id) : SLUICE_OK;
    finish_drains(edit->next);
    if (status != SLUICE_OK || edit->change->outcome != SLUICE_OK)
        return status;
    return reply(edit, node_of(edit->next, new_id), node_of(edit->next, old_id));
}

/* ---- Arriving ---- */

static bool settle(struct map *map, const json_t *item)
{
    uint64_t id = 0, epoch = 0, moving = 0, members = 0;
    if (!change__number(json_object_get(item, "shard"), &id) ||
        !change__number(json_object_get(item, "epoch"), &epoch) ||
        !change__number(json_object_get(item, "moving"), &moving) ||
        !change__number(json_object_get(item, "members"), &members) || id > UINT32_MAX)
        return false;
    struct map_shard *shard =
        id == MAP_GROUP ? &map->group : (struct map_shard *)(uintptr_t)map_shard_find(map, (uint32_t)id);
    if (shard == NULL || shard->epoch != epoch || shard->moving == 0 || shard->moving != moving ||
        map_wanted(shard) != members)
        return false; /* something else is wanted by now */
    shard->moving = 0;
    shard->leaving_count = 0;
    return true;
}

enum sluice_status membership__settled(struct edit *edit)
{
    size_t i;
    const json_t *item;
    bool any = false;
    json_array_foreach(json_object_get(edit->document, "shards"), i, item)
    {
        any = settle(edit->next, item) || any;
    }
    finish_drains(edit->next);
    if (!any)
        unchanged(edit);
    return SLUICE_OK;
}

/* Which nodes hold which groups: what stands for the cluster map's changes of placement, and for a node that follows
 * them. */
#include <stdlib.h>
#include <string.h>

#include "tests/sim/sim.h"

static uint64_t bit(uint32_t node)
{
    return UINT64_C(1) << node;
}

uint32_t sim_wanted(uint32_t group, struct host_wanted nodes[PAXOS_REPLICAS_MAX])
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < sim.node_count; i++) {
        uint32_t node = 1 + (group + i) % sim.node_count; /* the preferred leaders are spread */
        if (sim.placement[group].wanted & bit(node))
            nodes[count++] = (struct host_wanted){.node = (uint16_t)node, .since = sim.placement[group].since[node]};
    }
    return count;
}

void sim_placement_draw(void)
{
    for (uint32_t group = 1; group <= sim.group_count; group++) {
        struct sim_placement *placement = &sim.placement[group];
        for (uint32_t i = 0; i < sim.replica_count; i++)
            placement->wanted |= bit(1 + (group + i) % sim.node_count);
        placement->founders = placement->members = placement->held = placement->wanted;
    }
}

bool sim_whole(const struct paxos *paxos)
{
    return !paxos->options.amnesiac && paxos->members_highest <= paxos->stable;
}

bool sim_holds(const struct sim_node *node, uint32_t group)
{
    return (sim.placement[group].held & bit(node->id)) != 0;
}

static void open_group(struct sim_node *node, uint32_t group)
{
    const struct sim_placement *placement = &sim.placement[group];
    struct host_group description = {.group = group,
                                     .epoch = 1,
                                     .memory_only = sim.memory_only,
                                     .amnesiac = sim.memory_only && node->incarnation > 1,
                                     .lost = sim_disk_lost(node, group)};
    /* Whoever came later begins there too, without a vote; the log tells what became of the members. */
    description.since = placement->since[node->id];
    for (uint32_t i = 0; i < sim.node_count; i++) {
        uint32_t id = 1 + (group + i) % sim.node_count;
        if (placement->founders & bit(id))
            description.replicas[description.replica_count++] = (uint16_t)id;
    }
    description.versions = node->kept[group] != NULL ? node->kept[group] : sim_disk_versions(node, group);
    node->kept[group] = NULL;
    if (host_group_add(node->host, &description) != SLUICE_OK)
        sim_fail("node %u cannot open group %u", node->id, group);
    if (description.lost) {
        sim.totals.lost_replicas++;
        sim_disk_mend(node, group);
    }
    node->checked[group] = 0;
    const struct paxos *paxos = &host__replica(node->host, group)->paxos;
    sim_say("node %u opens group %u at revision %llu, with entries up to %llu%s", node->id, group,
            (unsigned long long)paxos->stable, (unsigned long long)paxos->last,
            paxos->options.amnesiac ? ", without a vote" : "");
    if (sim.faults.members != 0 || sim.faults.lie != 0) {
        struct host_wanted nodes[PAXOS_REPLICAS_MAX];
        uint32_t count = sim_wanted(group, nodes);
        host_group_want(node->host, group, nodes, count);
    }
}

void sim_open_groups(struct sim_node *node)
{
    for (uint32_t group = 1; group <= sim.group_count; group++) {
        if (!sim_holds(node, group) && (sim.placement[group].wanted & bit(node->id))) {
            sim.placement[group].held |= bit(node->id);
        }
        if (sim_holds(node, group))
            open_group(node, group);
    }
}

/* A node hears of a change of the map: it joins what it is to hold, and tells its replicas what is wanted. */
static void hear(struct sim_event *event)
{
    struct sim_node *node = event->arg;
    uint32_t group = event->a;
    if (node->up) {
        struct host_wanted nodes[PAXOS_REPLICAS_MAX];
        uint32_t count = sim_wanted(group, nodes);
        if (sim_node_hold(node, event))
            return;
        if ((sim.placement[group].wanted & bit(node->id)) && !sim_holds(node, group)) {
            sim.placement[group].held |= bit(node->id);
            open_group(node, group);
        }
        host_set_map_epoch(node->host, sim.map->epoch);
        if (host_group_has(node->host, group, NULL))
            host_group_want(node->host, group, nodes, count);
        sim_node_round(node);
    }
    free(event);
}

static void tell_all(uint32_t group)
{
    for (uint32_t id = 1; id <= sim.node_count; id++)
        sim_after(random_below(&sim.random, 200 * NS_PER_MS), hear, &sim.nodes[id])->a = group;
}

/* One that is on its way out, with all its data, may stay as what it was; one that has gone begins anew. */
static void place(uint32_t group, uint32_t node)
{
    struct sim_placement *placement = &sim.placement[group];
    if ((placement->wanted & bit(node)) == 0 && (placement->held & bit(node)) == 0)
        placement->since[node] = sim.map->epoch + 1;
    placement->wanted |= bit(node);
}

/* One node comes, one goes, or both: a node is added, taken away, or replaced. */
void sim_placement_change(void)
{
    uint32_t group = 1 + (uint32_t)random_below(&sim.random, sim.group_count);
    struct sim_placement *placement = &sim.placement[group];
    uint32_t in = 1 + (uint32_t)random_below(&sim.random, sim.node_count);
    uint32_t out = 1 + (uint32_t)random_below(&sim.random, sim.node_count);
    uint32_t count = (uint32_t)__builtin_popcountll(placement->wanted);
    /* Mostly one change is done before the next; the map group sees to no more than that. */
    if (placement->members != placement->wanted && random_below(&sim.random, 8) != 0)
        return;
    if (sim.memory_only && !sim_survives(group, 1))
        return;
    /* Whoever gave the group up may be asked to take it up again, by the same process too. */
    if (random_below(&sim.random, 3) != 0)
        place(group, in);
    if (random_below(&sim.random, 3) != 0 && (placement->wanted & bit(out)) && count > 1)
        placement->wanted &= ~bit(out);
    /* Damage that nobody has met yet could be in the only copy that stays. */
    sim_store_scrub(group);
    sim.totals.placements++;
    sim_say("group %u: wanted on %llx, members %llx", group, (unsigned long long)placement->wanted,
            (unsigned long long)placement->members);
    sim_map_change();
    tell_all(group);
}

/* The log's members, as the entry that names them is applied somewhere first. */
void sim_members_chosen(uint32_t group, uint64_t members)
{
    struct sim_placement *placement = &sim.placement[group];
    uint64_t changed = placement->members ^ members;
    if ((changed & (changed - 1)) != 0)
        sim_fail("members of group %u go from %llx to %llx: more than one at a time", group,
                 (unsigned long long)placement->members, (unsigned long long)members);
    sim.totals.member_changes += changed != 0;
    sim_say("group %u: members %llx become %llx at revision %zu", group, (unsigned long long)placement->members,
            (unsigned long long)members, sim.logs[group].count);
    placement->members = members;
}

/* Does a leader say that the members are those that are wanted, with an entry behind the one that says so? That is when
 * a node reports it to the map, and those who left give the group up. */
static bool settled(uint32_t group)
{
    const struct sim_placement *placement = &sim.placement[group];
    for (uint32_t id = 1; id <= sim.node_count; id++) {
        const struct replica *replica = sim.nodes[id].up ? host__replica(sim.nodes[id].host, group) : NULL;
        if (replica != NULL && replica->leading && replica->paxos.members.voters == placement->wanted &&
            placement->members == placement->wanted && paxos_settled(&replica->paxos))
            return true;
    }
    return false;
}

/* Replicas that are neither wanted nor members any more are given up, with their data. */
void sim_placement_tick(void)
{
    for (uint32_t group = 1; group <= sim.group_count; group++) {
        struct sim_placement *placement = &sim.placement[group];
        if (!settled(group))
            continue;
        for (uint32_t id = 1; id <= sim.node_count; id++) {
            struct sim_node *node = &sim.nodes[id];
            if (!node->up || sim.now < node->paused_until || !(placement->held & ~placement->wanted & bit(id)))
                continue;
            placement->held &= ~bit(id);
            sim_say("node %u gives group %u up", id, group);
            sim_lambda_role(node, group, false);
            sim_store_forget(host_group_versions(node->host, group));
            host_group_remove(node->host, group, true);
            sim_disk_forget(node, group);
            sim_node_round(node);
        }
    }
}

/* Leadership is handed over, for no reason or because a node is to stop. */
void sim_transfer(void)
{
    uint32_t group = 1 + (uint32_t)random_below(&sim.random, sim.group_count);
    for (uint32_t id = 1; id <= sim.node_count; id++) {
        struct sim_node *node = &sim.nodes[id];
        const struct replica *replica = node->up ? host__replica(node->host, group) : NULL;
        if (replica == NULL || sim.now < node->paused_until || !replica->leading)
            continue;
        host_group_transfer(
            node->host, group,
            (uint16_t)(random_below(&sim.random, 2) == 0 ? 0 : 1 + random_below(&sim.random, sim.node_count)));
        sim.totals.transfers++;
        sim_say("node %u is to hand group %u over", id, group);
        sim_node_round(node);
    }
}

/* Whoever else votes must be whole, and a quorum, while nothing is about to change that. */
bool sim_may_lie(const struct sim_node *node)
{
    for (uint32_t group = 1; group <= sim.group_count; group++) {
        const struct sim_placement *placement = &sim.placement[group];
        uint64_t sound = 0;
        if ((placement->held & bit(node->id)) == 0)
            continue;
        if (placement->members != placement->wanted)
            return false;
        for (uint32_t id = 1; id <= sim.node_count; id++) {
            const struct sim_node *other = &sim.nodes[id];
            const struct replica *replica = other->up ? host__replica(other->host, group) : NULL;
            bool whole = replica == NULL ? !other->unsound[group] : sim_whole(&replica->paxos);
            if (id != node->id && whole)
                sound |= bit(id);
        }
        if (paxos_mask_count(sound & placement->members) < paxos_mask_count(placement->members) / 2 + 1)
            return false;
    }
    return true;
}

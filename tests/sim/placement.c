/* Operators: nodes are added, removed and replaced, leads handed over. What becomes of it is the cluster's own
 * business.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/sim.h"

/* What an operator has asked for may be chosen a while later. */
#define ASKED_NS (10 * NS_PER_S)

static uint64_t bit(uint32_t node)
{
    return UINT64_C(1) << node;
}

bool sim_whole(const struct paxos *paxos)
{
    return !paxos->options.amnesiac && paxos->members_highest <= paxos->stable;
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

/* ---- What an operator does ---- */

static bool anything_moves(void)
{
    for (uint32_t group = 0; group <= sim.group_count; group++)
        if (sim_moving(group))
            return true;
    return false;
}

static enum map_node_state state_of(uint32_t id)
{
    return map_node_find(sim.map, (uint16_t)id)->state;
}

/* Somebody who can be asked, and any node that is in that state; NULL and 0: there is none. */
static struct sim_node *any_node(void)
{
    struct sim_node *node = &sim.nodes[1 + random_below(&sim.random, sim.node_count)];
    return node->up && sim.now >= node->paused_until && participant_map(node->participant) != NULL ? node : NULL;
}

static uint32_t any_in(enum map_node_state state)
{
    uint32_t first = (uint32_t)random_below(&sim.random, sim.node_count);
    for (uint32_t i = 0; i < sim.node_count; i++) {
        uint32_t id = 1 + (first + i) % sim.node_count;
        if (state_of(id) == state)
            return id;
    }
    return 0;
}

void sim_perhaps_wipe(struct sim_node *node)
{
    if (sim.faults.members == 0 || sim.healing || state_of(node->id) != MAP_NODE_GONE ||
        random_below(&sim.random, 2) == 0)
        return;
    sim_say("node %u is made empty", node->id);
    sim_disk_wipe(node);
    sim_store_wipe(node);
    node->empty = true;
    node->joined = node->founders = 0;
    sim.totals.wiped++;
}

static void ask(struct sim_node *node, const char *change)
{
    sim_say("node %u is told: %s", node->id, change);
    sim.asked_until = sim.now + ASKED_NS;
    participant_change(node->participant, change, strlen(change));
    sim_node_round(node);
}

void sim_ask_in(const struct sim_node *node)
{
    struct sim_node *other = any_node();
    char change[64];
    snprintf(change, sizeof(change), "{\"change\":\"node_add\",\"node\":%u}", node->id);
    if (other != NULL)
        ask(other, change);
}

void sim_operate(void)
{
    struct sim_node *node = any_node();
    char change[128] = "";
    uint32_t in = any_in(MAP_NODE_GONE), out = any_in(MAP_NODE_UP), back = any_in(MAP_NODE_DRAINING);
    /* Mostly one change is done before the next. */
    if (node == NULL || (anything_moves() && random_below(&sim.random, 8) != 0))
        return;
    for (uint32_t group = 1; sim.memory_only && group <= sim.group_count; group++)
        if (!sim_survives(group, 1))
            return;
    uint64_t kind = random_below(&sim.random, 8);
    if (in != 0 && kind < 2)
        snprintf(change, sizeof(change), "{\"change\":\"node_add\",\"node\":%u}", in);
    else if (in != 0 && out != 0 && kind < 4)
        snprintf(change, sizeof(change), "{\"change\":\"node_replace\",\"old\":%u,\"new\":%u}", out, in);
    else if (back != 0 && kind == 4)
        snprintf(change, sizeof(change), "{\"change\":\"node_add\",\"node\":%u}", back);
    else if (out != 0)
        snprintf(change, sizeof(change), "{\"change\":\"node_remove\",\"node\":%u,\"force\":true}", out);
    if (change[0] != '\0')
        ask(node, change);
}

/* Leadership is handed over, for no reason or because a node is to stop. */
void sim_transfer(void)
{
    uint32_t group = (uint32_t)random_below(&sim.random, sim.group_count + 1);
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
    if (sim.map->epoch == 0)
        return false; /* what a quorum has never had, it can't mend */
    for (uint32_t group = 0; group <= sim.group_count; group++) {
        uint64_t members = sim.placement[group].members, sound = 0;
        if (!node->store[group].held && (sim_wanted(group) & bit(node->id)) == 0)
            continue;
        if (sim_moving(group))
            return false;
        for (uint32_t id = 1; id <= sim.node_count; id++) {
            const struct sim_node *other = &sim.nodes[id];
            const struct replica *replica = other->up ? host__replica(other->host, group) : NULL;
            bool whole = replica == NULL ? !other->unsound[group] : sim_whole(&replica->paxos);
            if (id != node->id && whole && sim_store_readable(other, group))
                sound |= bit(id);
        }
        if (paxos_mask_count(sound & members) < paxos_mask_count(members) / 2 + 1)
            return false;
    }
    return true;
}

/* Disks that lose what they held, and an adversary who waits for that: random faults seldom meet in the order in which
 * a vote outlives the memory of its voter. */
#include <stdio.h>
#include <string.h>

#include "tests/sim/paxos/sim.h"

#define AMBUSH_TICK_NS NS_PER_MS
#define AMBUSH_NS      (3 * NS_PER_S)    /* whoever does not walk into it by then is left alone */
#define LEASE_NS       (400 * NS_PER_MS) /* more than any lease and its drift */

/* One disk at a time may lose what it held: what then is left holds everything, and is a quorum. */
bool node_may_lose(const struct sim_node *node)
{
    const struct sim *sim = node->sim;
    for (uint32_t group = 1; group <= sim->group_count; group++) {
        uint64_t voters = sim->oracles[group].members.voters;
        if (paxos_mask_count(sim->wanted[group] == 0 ? voters : voters & sim->wanted[group]) < 3)
            return false;
        for (uint32_t id = 1; id <= sim->node_count; id++) {
            const struct sim_group *held = &sim->nodes[id].groups[group];
            if (id != node->id && (held->disk.amnesiac || held->paxos.members_highest > held->paxos.stable))
                return false;
        }
    }
    return true;
}

/* All that a disk held of a group, or its end: found when it is opened. */
void node_lose(struct sim_node *node, bool all)
{
    for (uint32_t id = 1; id <= node->sim->group_count; id++) {
        struct sim_group *group = &node->groups[id];
        uint64_t kept = group->disk.stable;
        group->disk.amnesiac = true;
        if (all) {
            kept = 0;
            group->disk.stable = group->disk.promised = 0;
            group->disk.members = (struct paxos_members){0};
        } else {
            kept += world_below(&node->sim->world, 4);
        }
        for (uint64_t index = kept + 1; index < group->disk.log.capacity; index++)
            *log_at(&group->disk.log, index) = (struct accepted){0};
    }
    node->sim->figures.losses++;
}

/* ---- The ambush ----
 *
 * Of five voters three stop hearing their leader. One of them stands, and its word reaches one more, the voter, who
 * promises. Then the candidate stands still, the voter loses its memory, comes back, and is added anew by the leader,
 * whom it may serve now. Only then does the candidate's word reach a witness, who knows of that and of nothing later,
 * and the candidate goes on: three have promised, and one of them serves another. */

static struct sim_group *held(struct sim *sim, uint32_t node)
{
    return &sim->nodes[node].groups[sim->ambush.group];
}

static void enter(struct sim *sim, enum ambush_phase phase)
{
    sim->ambush.phase = phase;
    sim->ambush.since = sim->world.now;
    sim->ambush.acknowledged = sim->oracles[sim->ambush.group].acknowledged;
    if (sim->verbose)
        printf("%10.3f group %u: ambush enters %u, leader %u, candidate %u, voter %u, witness %u\n",
               (double)sim->world.now / 1e6, sim->ambush.group, phase, sim->ambush.leader, sim->ambush.candidate,
               sim->ambush.voter, sim->ambush.witness);
}

/* What becomes of the word of one who stands, or would: for how long it is under way yet, UINT64_MAX where it is lost.
 */
uint64_t ambush_delay_ns(struct sim *sim, uint32_t group, uint32_t from, uint32_t to, enum paxos_message_type type)
{
    struct ambush *self = &sim->ambush;
    if ((type != PAXOS_PREVOTE && type != PAXOS_PREPARE) || self->phase == AMBUSH_NONE || self->phase == AMBUSH_FREE ||
        self->group != group || from == self->leader)
        return 0;
    if (self->phase == AMBUSH_SILENT && self->candidate == 0)
        self->candidate = from;
    if (from != self->candidate)
        return UINT64_MAX;
    if (type == PAXOS_PREVOTE)
        return 0;
    if (self->phase == AMBUSH_SILENT && self->voter == 0 && sim->world.cut[self->leader][to])
        self->voter = to;
    bool arrives = to == self->voter || (self->phase == AMBUSH_ASKED && to == self->witness);
    return arrives ? 0 : NS_PER_MS;
}

static void cut_both(struct sim *sim, uint32_t a, uint32_t b)
{
    sim->world.cut[a][b] = sim->world.cut[b][a] = true;
}

static bool silenced(struct sim *sim)
{
    struct ambush *self = &sim->ambush;
    const struct paxos *candidate = &held(sim, self->candidate)->paxos;
    if (self->candidate == 0 || candidate->role != PAXOS_CANDIDATE ||
        (candidate->votes & paxos_mask((uint16_t)self->voter)) == 0)
        return false;
    memset(sim->world.cut, 0, sizeof(sim->world.cut));
    do
        self->witness = 1 + (uint32_t)world_below(&sim->world, sim->node_count);
    while (self->witness == self->leader || self->witness == self->candidate || self->witness == self->voter);
    struct sim_node *voter = &sim->nodes[self->voter];
    if (!node_may_lose(voter))
        return false;
    self->instance = held(sim, self->voter)->paxos.options.instance;
    node_crash(voter);
    node_lose(voter, true);
    node_start(voter);
    return true;
}

static bool knows(struct sim *sim, uint32_t node)
{
    const struct paxos_members *members = &held(sim, node)->paxos.members;
    if (sim->memory_only)
        return !held(sim, sim->ambush.voter)->paxos.options.amnesiac;
    uint16_t voter = (uint16_t)sim->ambush.voter;
    return (members->voters & paxos_mask(voter)) != 0 && paxos_members_instance(members, voter) > sim->ambush.instance;
}

static bool added(struct sim *sim)
{
    struct ambush *self = &sim->ambush;
    if (!knows(sim, self->leader) || !knows(sim, self->witness))
        return false;
    cut_both(sim, self->witness, self->leader);
    cut_both(sim, self->witness, self->voter);
    return true;
}

static void ambush_tick(struct world *world, struct world_event *event)
{
    struct sim *sim = event->arg;
    struct ambush *self = &sim->ambush;
    uint64_t waited = world->now - self->since;
    if (world->calm || waited > AMBUSH_NS || held(sim, self->leader)->paxos.role != PAXOS_LEADER)
        enter(sim, AMBUSH_NONE);
    if (self->candidate != 0 && self->phase != AMBUSH_NONE && self->phase != AMBUSH_FREE &&
        (held(sim, self->candidate)->paxos.votes & paxos_mask((uint16_t)self->voter)) != 0)
        sim->nodes[self->candidate].paused_until = world->now + 2 * AMBUSH_TICK_NS;
    switch (self->phase) {
    case AMBUSH_NONE:
        memset(world->cut, 0, sizeof(world->cut));
        return;
    case AMBUSH_SILENT:
        if (silenced(sim))
            enter(sim, AMBUSH_LOST);
        break;
    case AMBUSH_LOST:
        if (added(sim))
            enter(sim, AMBUSH_ADDED);
        break;
    case AMBUSH_ADDED:
        if (waited > LEASE_NS)
            enter(sim, AMBUSH_ASKED);
        break;
    case AMBUSH_ASKED:
        if (held(sim, self->witness)->paxos.promised_durable >= held(sim, self->candidate)->paxos.ballot &&
            sim->oracles[self->group].acknowledged > self->acknowledged) {
            sim->figures.ambushes++;
            enter(sim, AMBUSH_FREE);
        }
        break;
    case AMBUSH_FREE:
        if (waited > LEASE_NS)
            enter(sim, AMBUSH_NONE);
        break;
    }
    world_after(world, AMBUSH_TICK_NS, 0, ambush_tick, sim);
}

void ambush_lay(struct sim *sim, uint32_t group)
{
    struct ambush *self = &sim->ambush;
    uint32_t leader = 0, spared;
    for (uint32_t id = 1; id <= sim->node_count; id++) {
        if (!sim->nodes[id].up || sim->nodes[id].groups[group].disk.amnesiac)
            return;
        if (sim->nodes[id].groups[group].paxos.leading)
            leader = id;
    }
    if (self->phase != AMBUSH_NONE || leader == 0 || paxos_mask_count(sim->oracles[group].members.voters) != 5)
        return;
    *self = (struct ambush){.group = group, .leader = leader};
    do
        spared = 1 + (uint32_t)world_below(&sim->world, sim->node_count);
    while (spared == leader);
    for (uint32_t id = 1; id <= sim->node_count; id++)
        sim->world.cut[leader][id] = id != leader && id != spared;
    enter(sim, AMBUSH_SILENT);
    world_after(&sim->world, AMBUSH_TICK_NS, 0, ambush_tick, sim);
}

/* What must hold, seen from outside: the disks (or, for volatile groups, the memories) are what counts, not what
 * replicas believe. */
#include <stdlib.h>
#include <string.h>

#include "core/base/panic.h"
#include "tests/sim/paxos/sim.h"

static unsigned long long ull(uint64_t value)
{
    return value;
}

static struct oracle_index *at(struct oracle *self, uint64_t index)
{
    if (index >= self->capacity) {
        uint64_t capacity = index * 2 + 64;
        self->indexes = realloc(self->indexes, capacity * sizeof(*self->indexes));
        ASSERT(self->indexes != NULL);
        memset(self->indexes + self->capacity, 0, (capacity - self->capacity) * sizeof(*self->indexes));
        self->capacity = capacity;
    }
    return &self->indexes[index];
}

static bool same(const struct value *a, const struct value *b)
{
    /* `opened` speaks of ballots, and one replica may know more of them than another. */
    return a->id == b->id && a->time == b->time && a->members == b->members &&
           a->members_instance == b->members_instance && a->size == b->size && a->flags == b->flags;
}

static void check_closed(const struct sim *sim, uint32_t group, uint64_t index, uint64_t time, uint64_t closed)
{
    if (time <= closed)
        world_fail(&sim->world, "closed time: revision %llu of group %u has time %llu, and %llu was closed before it",
                   ull(index), group, ull(time), ull(closed));
}

static bool suffices(const struct vote *vote, uint64_t voters)
{
    return paxos_mask_count(voters & vote->voters) >= quorum_size(paxos_mask_count(voters));
}

/* A value is chosen at an index once a quorum of those who decide there holds it under one ballot; who decides is known
 * once everything before it is chosen. Times rise, and none was closed at an earlier index. */
static bool choose(struct sim *sim, uint32_t group, uint64_t index)
{
    struct oracle *self = &sim->oracles[group];
    struct oracle_index *slot = at(self, index);
    const struct vote *found = NULL;
    for (uint32_t i = 0; i < slot->count && found == NULL; i++)
        if (slot->votes[i].ballot >= self->members_ballot && suffices(&slot->votes[i], self->members.voters))
            found = &slot->votes[i];
    if (found == NULL)
        return false;
    slot->chosen = true;
    slot->value = found->value;
    slot->members = self->members;
    slot->members_ballot = self->members_ballot;
    if (found->value.members != 0) {
        paxos_members_apply(&self->members, found->value.members, found->value.members_instance, index);
        self->members_ballot = found->ballot;
    }
    return true;
}

static void extend(struct sim *sim, uint32_t group)
{
    struct oracle *self = &sim->oracles[group];
    while (choose(sim, group, self->prefix + 1)) {
        uint64_t index = self->prefix + 1;
        uint64_t closed = at(self, self->prefix)->closed;
        const struct value *value = &at(self, index)->value, *before = &at(self, self->prefix)->value;
        if (closed > self->prefix_closed)
            self->prefix_closed = closed;
        if (value->time <= before->time)
            world_fail(&sim->world, "times do not rise at revision %llu of group %u", ull(index), group);
        check_closed(sim, group, index, value->time, self->prefix_closed);
        self->prefix = index;
    }
}

void oracle_begin(struct sim *sim, uint32_t group, uint64_t voters)
{
    sim->oracles[group].members = (struct paxos_members){.voters = voters};
}

const struct value *oracle_chosen(struct sim *sim, uint32_t group, uint64_t index)
{
    ASSERT(index <= sim->oracles[group].prefix);
    return &at(&sim->oracles[group], index)->value;
}

/* A vote stays one though the disk that held it loses it later: what was chosen stays chosen, and that a quorum can do
 * without that disk is what is to be shown. */
void oracle_vote(struct sim *sim, uint32_t group, uint32_t node, uint64_t index, const struct accepted *accepted)
{
    struct oracle_index *slot = at(&sim->oracles[group], index);
    uint32_t i = 0;
    while (i < slot->count && slot->votes[i].ballot != accepted->ballot)
        i++;
    if (i == slot->capacity) {
        slot->capacity = slot->capacity * 2 + 2;
        slot->votes = realloc(slot->votes, slot->capacity * sizeof(*slot->votes));
        ASSERT(slot->votes != NULL);
    }
    if (i == slot->count)
        slot->votes[slot->count++] = (struct vote){.ballot = accepted->ballot, .value = accepted->value};
    struct vote *vote = &slot->votes[i];
    if (!same(&vote->value, &accepted->value))
        world_fail(&sim->world, "two values were accepted at revision %llu of group %u under one ballot, %llx",
                   ull(index), group, ull(accepted->ballot));
    vote->voters |= paxos_mask((uint16_t)node);
    if (slot->chosen && !same(&slot->value, &vote->value) && vote->ballot >= slot->members_ballot &&
        suffices(vote, slot->members.voters))
        world_fail(&sim->world, "agreement: two values were chosen at revision %llu of group %u, the second under %llx",
                   ull(index), group, ull(vote->ballot));
    extend(sim, group);
}

void oracle_stable(struct sim_node *node, uint32_t group, uint64_t stable)
{
    struct sim *sim = node->sim;
    struct sim_group *self = &node->groups[group];
    if (stable <= self->stable_seen)
        world_fail(&sim->world, "the stable index of node %u in group %u went from %llu to %llu", node->id, group,
                   ull(self->stable_seen), ull(stable));
    for (uint64_t index = self->stable_seen + 1; index <= stable; index++) {
        const struct oracle_index *slot = at(&sim->oracles[group], index);
        if (index > sim->oracles[group].prefix)
            world_fail(&sim->world, "node %u takes revision %llu of group %u for stable, and no quorum holds it",
                       node->id, ull(index), group);
        if (!same(&slot->value, &log_at(&self->log, index)->value))
            world_fail(&sim->world, "agreement: node %u applied another value at revision %llu of group %u", node->id,
                       ull(index), group);
    }
    self->stable_seen = stable;
    if (self->paxos.role == PAXOS_LEADER && stable > sim->oracles[group].acknowledged)
        sim->oracles[group].acknowledged = stable;
}

/* ---- Messages: nothing is said that a crash could make untrue ---- */

static void check_ballot(struct sim_node *node, uint32_t group, uint64_t ballot)
{
    struct oracle *self = &node->sim->oracles[group];
    for (size_t i = 0; i < self->ballot_count; i++) {
        if (self->ballots[i].ballot != ballot)
            continue;
        if (self->ballots[i].incarnation != node->incarnation)
            world_fail(&node->sim->world, "two processes of node %u led group %u under one ballot, %llx", node->id,
                       group, ull(ballot));
        return;
    }
    if (self->ballot_count == self->ballot_capacity) {
        self->ballot_capacity = self->ballot_capacity * 2 + 16;
        self->ballots = realloc(self->ballots, self->ballot_capacity * sizeof(*self->ballots));
        ASSERT(self->ballots != NULL);
    }
    self->ballots[self->ballot_count++] = (struct oracle_ballot){.ballot = ballot, .incarnation = node->incarnation};
}

static void check_persisted(struct sim_node *node, uint32_t group, const struct paxos_message *message)
{
    struct sim *sim = node->sim;
    struct sim_group *self = &node->groups[group];
    /* What was known to be chosen when the process began is on disk without looking. */
    uint64_t index = message->persisted > 16 ? message->persisted - 16 : 0;
    while (!sim->memory_only && ++index <= message->persisted) {
        const struct accepted *disk = log_at(&self->disk.log, index);
        const struct oracle_index *slot = at(&sim->oracles[group], index);
        bool holds = disk->ballot == message->ballot || (slot->chosen && same(&slot->value, &disk->value));
        if (!holds)
            world_fail(&sim->world, "node %u says that revision %llu of group %u is on its disk, and it is not",
                       node->id, ull(index), group);
    }
}

void oracle_sent(struct sim_node *node, uint32_t group, const struct paxos_message *message)
{
    const struct sim *sim = node->sim;
    const struct sim_group *self = &node->groups[group];
    switch (message->type) {
    case PAXOS_ACCEPT:
        check_ballot(node, group, message->ballot);
        break;
    case PAXOS_PROMISE:
    case PAXOS_ACCEPTED:
        if (message->ballot > self->disk.promised)
            world_fail(&sim->world, "node %u answers ballot %llx of group %u before its promise is on disk", node->id,
                       ull(message->ballot), group);
        if (message->ballot < self->paxos.promised)
            world_fail(&sim->world, "node %u answers ballot %llx of group %u and has promised %llx", node->id,
                       ull(message->ballot), group, ull(self->paxos.promised));
        if (message->type == PAXOS_ACCEPTED)
            check_persisted(node, group, message);
        break;
    default:
        break;
    }
}

/* ---- States ---- */

static void close_time(struct sim *sim, uint32_t group, uint64_t index, uint64_t time)
{
    struct oracle *self = &sim->oracles[group];
    struct oracle_index *slot = at(self, index);
    if (time > slot->closed)
        slot->closed = time;
    if (index >= self->prefix)
        return;
    /* Times rise, so the next one is the lowest. */
    check_closed(sim, group, index + 1, at(self, index + 1)->value.time, time);
    if (time > self->prefix_closed)
        self->prefix_closed = time;
}

static void check_replica(struct sim_node *node, uint32_t id)
{
    struct sim *sim = node->sim;
    struct sim_group *group = &node->groups[id];
    const struct paxos *paxos = &group->paxos;
    if (paxos->promised < group->promised_seen)
        world_fail(&sim->world, "the promise of node %u in group %u went back", node->id, id);
    group->promised_seen = paxos->promised;
    if (paxos->stable != group->stable_seen)
        world_fail(&sim->world, "node %u moved the stable index of group %u without a word", node->id, id);
    if (paxos->stable > paxos->last || paxos->match > paxos->last || paxos->match_durable > paxos->match ||
        paxos->promised_durable > paxos->promised || paxos->last - paxos->stable > paxos->options.window)
        world_fail(&sim->world, "the state of node %u in group %u contradicts itself", node->id, id);
    if (paxos->promised_durable > group->disk.promised)
        world_fail(&sim->world, "node %u takes its promise in group %u for durable", node->id, id);
    if (paxos->closed_time > group->closed_seen) {
        group->closed_seen = paxos->closed_time;
        sim->figures.closings++;
        close_time(sim, id, paxos->closed_index, paxos->closed_time);
    }
}

void oracle_node(struct sim_node *node)
{
    for (uint32_t group = 1; group <= node->sim->group_count; group++)
        check_replica(node, group);
}

/* Who holds a lease answers reads from what it has applied: nothing that was acknowledged may lie beyond. */
void oracle_leases(struct sim *sim)
{
    for (uint32_t group = 1; group <= sim->group_count; group++) {
        uint32_t holder = 0;
        for (uint32_t id = 1; id <= sim->node_count; id++) {
            struct sim_node *node = &sim->nodes[id];
            const struct paxos *paxos = &node->groups[group].paxos;
            if (!node_can(node) || paxos->role != PAXOS_LEADER || !paxos_lease_valid(paxos, node_now(node)))
                continue;
            sim->figures.leases++;
            if (holder != 0)
                world_fail(&sim->world, "nodes %u and %u hold the lease of group %u at once", holder, id, group);
            if (paxos->stable < sim->oracles[group].acknowledged)
                world_fail(&sim->world,
                           "node %u holds the lease of group %u with revision %llu, and %llu was acknowledged", id,
                           group, ull(paxos->stable), ull(sim->oracles[group].acknowledged));
            holder = id;
        }
    }
}

void oracle_free(struct sim *sim)
{
    for (uint32_t group = 0; group <= SIM_GROUPS_MAX; group++) {
        struct oracle *self = &sim->oracles[group];
        for (uint64_t i = 0; i < self->capacity; i++)
            free(self->indexes[i].votes);
        free(self->indexes);
        free(self->ballots);
    }
}

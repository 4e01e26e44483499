/* Who votes. Members change by entries of the log, one node at a time, so that quorums of neighbouring sets intersect
 * (Raft thesis, 4.1); such an entry is proposed alone, nothing follows it until it is stable, and it governs from the
 * next index on ("Reconfiguring a State Machine", with a window of one).
 *
 * A candidate needs a quorum of the members that govern the end of the log that it adopted, whoever it began with. That
 * suffices: had a later change been chosen, a quorum of the members before it would have accepted it, and one of them
 * is among those that promised, and reported it. */
#include <string.h>

#include "core/consensus/paxos__.h"

static uint32_t rank_of(uint64_t voters, uint16_t node)
{
    return paxos_mask_count(voters & (paxos_mask(node) - 1));
}

void paxos_members_apply(struct paxos_members *self, uint64_t voters, uint64_t instance, uint64_t index)
{
    struct paxos_members was = *self;
    /* Members change one at a time. Who did not know them before can't tell whom this entry added: those that the group
     * began with count as any process. */
    bool one = paxos_mask_count(voters & ~was.voters) == 1 && was.voters != 0;
    uint32_t count = 0;
    memset(self->instances, 0, sizeof(self->instances));
    for (uint64_t rest = voters; rest != 0 && count < PAXOS_REPLICAS_MAX; rest &= rest - 1, count++) {
        uint16_t node = (uint16_t)__builtin_ctzll(rest);
        self->instances[count] = (was.voters & paxos_mask(node)) != 0 ? was.instances[rank_of(was.voters, node)]
                                 : one                                ? instance
                                                                      : 0;
    }
    self->voters = voters;
    self->index = index;
}

uint64_t paxos_members_instance(const struct paxos_members *self, uint16_t node)
{
    if ((self->voters & paxos_mask(node)) == 0)
        return UINT64_MAX;
    return self->instances[rank_of(self->voters, node)];
}

bool members__possible(uint64_t voters)
{
    return voters != 0 && (voters & 1) == 0 && paxos_mask_count(voters) <= PAXOS_REPLICAS_MAX;
}

bool members__step(uint64_t from, uint64_t to)
{
    return paxos_mask_count(from ^ to) == 1 && members__possible(to);
}

bool members__votes(const struct paxos *self, uint16_t node)
{
    return (self->members.voters & paxos_mask(node)) != 0;
}

void members__governing(const struct paxos *self, uint64_t end, struct paxos_members *out)
{
    *out = self->members;
    for (uint64_t index = self->stable + 1; index < end; index++) {
        const struct paxos_slot *slot = paxos__slot(self, index);
        if (slot->members != 0)
            paxos_members_apply(out, slot->members, slot->members_instance, index);
    }
}

void members__note(struct paxos *self, uint64_t index)
{
    if (paxos__slot(self, index)->members != 0 && index > self->members_highest)
        self->members_highest = index;
}

uint64_t members__pending(const struct paxos *self)
{
    if (self->members_highest <= self->stable)
        return 0;
    for (uint64_t index = self->stable + 1; index <= self->last; index++)
        if (paxos__slot(self, index)->members != 0)
            return index;
    return 0;
}

void members__stable(struct step *step, uint64_t index)
{
    struct paxos *self = step->self;
    const struct paxos_slot *slot = paxos__slot(self, index);
    uint64_t own = paxos_mask(self->options.node), was = self->members.voters;
    paxos_members_apply(&self->members, slot->members, slot->members_instance, index);
    /* Added again, as a replica that came after the loss: what one before it may have promised has no weight any more.
     */
    if ((was & own) == 0 && (slot->members & own) != 0 && slot->members_instance >= self->options.whole_from &&
        !self->options.memory_only)
        self->options.amnesiac = false;
    if (self->role == PAXOS_LEADER)
        self->leaving |= was & ~slot->members & ~own;
    /* Whoever holds an entry behind it knows that it was chosen, also after a restart, and without asking those who
     * have left: they may go once there is one. */
    if (self->role == PAXOS_LEADER && self->opened <= index)
        self->opened = index + 1;
    /* Who learns a long history passes many of these in one step; what the members are now is all that is told. */
    struct paxos_effects *effects = step->effects;
    if (effects->items[effects->count - 1].type != PAXOS_EFFECT_MEMBERS)
        (void)paxos__effect(step, PAXOS_EFFECT_MEMBERS);
    effects->items[effects->count - 1].first = index;
}

uint64_t members__reached(const struct paxos *self, const uint64_t by_node[PAXOS_NODES_MAX])
{
    uint64_t values[PAXOS_REPLICAS_MAX] = {0};
    uint32_t count = 0;
    for (uint64_t rest = self->members.voters; rest != 0; rest &= rest - 1)
        values[count++] = by_node[__builtin_ctzll(rest)];
    return count == 0 ? 0 : quorum_reached(values, count);
}

bool members__quorum(uint64_t voters, uint64_t nodes)
{
    return voters != 0 && paxos_mask_count(voters & nodes) >= quorum_size(paxos_mask_count(voters));
}

/* ---- Where the group should be ---- */

bool paxos_set_wanted(struct paxos *self, uint64_t wanted, const uint64_t since[PAXOS_NODES_MAX])
{
    wanted &= ~UINT64_C(1);
    /* Who comes anew may have been here before and have thrown everything away since, in the same process: what it
     * acknowledged then says nothing. */
    uint64_t anew = wanted & ~self->wanted;
    bool news = self->wanted != wanted;
    for (uint64_t rest = wanted; rest != 0; rest &= rest - 1) {
        uint16_t node = (uint16_t)__builtin_ctzll(rest);
        uint64_t placed = since == NULL ? 0 : since[node];
        if (self->since[node] != placed) {
            anew |= paxos_mask(node);
            news = true;
        }
        self->since[node] = placed;
    }
    anew &= ~self->members.voters;
    for (uint64_t rest = anew; rest != 0; rest &= rest - 1)
        memset(&self->followers[__builtin_ctzll(rest)], 0, sizeof(self->followers[0]));
    self->leaving &= ~anew;
    self->wanted = wanted;
    return news;
}

bool paxos_settled(const struct paxos *self)
{
    return members__pending(self) == 0 && (self->members.index == 0 || self->stable > self->members.index);
}

uint64_t paxos_learners(const struct paxos *self)
{
    uint64_t learners = self->wanted & ~self->members.voters & ~paxos_mask(self->options.node);
    /* No more than one step's messages have room for. */
    while (paxos_mask_count(learners | self->leaving | self->members.voters) > PAXOS_AUDIENCE_MAX && learners != 0)
        learners &= learners - 1;
    return learners;
}

uint64_t members__audience(const struct paxos *self)
{
    return (self->members.voters | paxos_learners(self) | self->leaving) & ~paxos_mask(self->options.node);
}

bool members__lacks(const struct paxos *self, uint16_t node)
{
    const struct paxos_follower *follower = &self->followers[node];
    bool since_added = follower->learner && follower->whole_from > paxos_members_instance(&self->members, node);
    return members__votes(self, node) && (follower->lost || since_added);
}

static bool keeps_up(const struct paxos *self, uint16_t node)
{
    const struct paxos_follower *follower = &self->followers[node];
    /* Something of its own must be on its disk: by then that knows which replica this is. */
    return follower->acknowledged && !follower->snapshot && follower->match > 0 &&
           follower->incarnation == self->pairs->peers[node].incarnation &&
           pairs_alive(self->pairs, node, 0, self->heard_now_ns) &&
           follower->match + self->options.window / 4 >= self->last;
}

/* Could these go on without anybody else? Who is removed is missed at once, so those who stay must be there, keep up
 * and count: one that has lost its memory, or is down, is no voter to rely on. */
static bool can_go_on(const struct paxos *self, uint64_t voters)
{
    uint64_t sound = paxos_mask(self->options.node);
    for (uint64_t rest = voters & ~sound; rest != 0; rest &= rest - 1) {
        uint16_t node = (uint16_t)__builtin_ctzll(rest);
        if (leader__counts(self, node) && keeps_up(self, node))
            sound |= paxos_mask(node);
    }
    return members__quorum(voters, sound & voters);
}

bool paxos_next_members(const struct paxos *self, uint64_t *voters, uint64_t *instance)
{
    uint64_t now = self->members.voters;
    uint32_t count = paxos_mask_count(now);
    *voters = *instance = 0;
    if (self->role != PAXOS_LEADER || !self->leading || self->wanted == 0 || self->transfer_to != 0 ||
        members__pending(self) != 0 || !members__votes(self, self->options.node))
        return false;
    for (uint64_t rest = now & ~paxos_mask(self->options.node); rest != 0 && !self->options.memory_only;
         rest &= rest - 1) {
        uint16_t node = (uint16_t)__builtin_ctzll(rest);
        const struct paxos_follower *follower = &self->followers[node];
        if (follower->acknowledged && members__lacks(self, node) && can_go_on(self, now & ~paxos_mask(node))) {
            *voters = now & ~paxos_mask(node);
            return true;
        }
    }
    for (uint64_t rest = paxos_learners(self); rest != 0 && count < PAXOS_REPLICAS_MAX; rest &= rest - 1) {
        uint16_t node = (uint16_t)__builtin_ctzll(rest);
        if (keeps_up(self, node)) {
            *voters = now | paxos_mask(node);
            *instance = self->followers[node].instance;
            return true;
        }
    }
    uint64_t surplus = now & ~self->wanted & ~paxos_mask(self->options.node);
    if (surplus == 0 || ((self->wanted & ~now) != 0 && count < PAXOS_REPLICAS_MAX))
        return false;
    for (uint64_t rest = surplus; rest != 0; rest &= rest - 1)
        if (can_go_on(self, now & ~(rest & -rest))) {
            *voters = now & ~(rest & -rest);
            return true;
        }
    return false;
}

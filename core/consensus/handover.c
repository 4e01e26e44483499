/* Leadership transfer (Raft thesis, 3.10). The leader stops proposing, feeds its successor to the end, ceases to lead
 * and to read, and only then says PAXOS_TRANSFER. The successor stands at once; its PREPARE names the ballot that was
 * given up, and a voter that promised just that ballot takes it for the owner's own word that its leases in this group
 * have ended: the leader read nothing after it said so, and leads under that ballot never again. */
#include "core/consensus/paxos__.h"

static uint16_t successor(const struct paxos *self, uint64_t now)
{
    uint16_t best = 0;
    for (uint64_t rest = self->members.voters & ~paxos_mask(self->options.node); rest != 0; rest &= rest - 1) {
        uint16_t node = (uint16_t)__builtin_ctzll(rest);
        const struct paxos_follower *follower = &self->followers[node];
        bool fits = follower->acknowledged && !follower->learner && !follower->lost && !follower->snapshot &&
                    pairs_alive(self->pairs, node, follower->incarnation, now);
        if (!fits || (self->wanted != 0 && (self->wanted & paxos_mask(node)) == 0))
            continue;
        if (best == 0 || follower->match > self->followers[best].match)
            best = node;
    }
    return best;
}

static void finish(struct step *step)
{
    struct paxos *self = step->self;
    uint16_t node = self->transfer_to;
    const struct paxos_follower *follower = &self->followers[node];
    if (self->stable != self->last || follower->match != self->last)
        return;
    (void)paxos__send(step, node, PAXOS_TRANSFER, self->ballot);
    self->transfer_to = 0;
    election__step_down(step);
    /* Should the word be lost, this one stands again. */
    election__timer(self, step->now, self->options.election_ns);
}

enum sluice_status handover__begin(struct step *step)
{
    struct paxos *self = step->self;
    uint16_t node = step->event->node;
    if (self->role != PAXOS_LEADER || !self->leading)
        return SLUICE_NOT_LEADER;
    if (node == self->options.node)
        return SLUICE_OK;
    if (node == 0)
        node = successor(self, step->now);
    if (node == 0 || !members__votes(self, node))
        return SLUICE_AGAIN;
    self->transfer_to = node;
    self->transfer_until_ns = step->now + self->options.election_ns;
    finish(step);
    return SLUICE_OK;
}

void handover__progress(struct step *step)
{
    struct paxos *self = step->self;
    if (self->transfer_to == 0 || self->role != PAXOS_LEADER)
        return;
    if (step->now >= self->transfer_until_ns)
        self->transfer_to = 0; /* it does not keep up: better a leader that is to go than none */
    else
        finish(step);
}

void handover__if_unwanted(struct step *step)
{
    struct paxos *self = step->self;
    uint64_t own = paxos_mask(self->options.node), voters = self->members.voters;
    if (self->role != PAXOS_LEADER || !self->leading || self->transfer_to != 0 || self->wanted == 0 ||
        (voters & ~self->wanted) != own || (self->wanted & ~voters) != 0 || members__pending(self) != 0)
        return;
    uint16_t node = successor(self, step->now);
    if (node == 0)
        return;
    self->transfer_to = node;
    self->transfer_until_ns = step->now + self->options.election_ns;
    finish(step);
}

/* Who was removed can't stand for its own ballot again, and its process goes on beating: to the members that is a
 * leader that lives, or at least one whose lease they granted. So it says to one after the other that it leads no more.
 */
void handover__resign(struct step *step)
{
    struct paxos *self = step->self;
    uint64_t voters = self->members.voters;
    if (self->role != PAXOS_FOLLOWER || self->leader != 0 || voters == 0 ||
        paxos_ballot_node(self->promised) != self->options.node || members__votes(self, self->options.node))
        return;
    for (uint64_t skip = step->now / self->options.election_ns % paxos_mask_count(voters); skip > 0; skip--)
        voters &= voters - 1;
    (void)paxos__send(step, (uint16_t)__builtin_ctzll(voters), PAXOS_TRANSFER, self->promised);
    election__timer(self, step->now, self->options.election_ns);
}

void handover__take(struct step *step, const struct paxos_message *message)
{
    struct paxos *self = step->self;
    if (self->role != PAXOS_FOLLOWER || self->options.amnesiac || message->ballot != self->promised ||
        self->leader != message->from)
        return;
    self->released = message->ballot;
    self->standing = ((self->highest_seen >> 16) + 1) << 16 | self->options.node;
    election__stand(step);
}

/* Phase 2 at an acceptor that is also a learner: contiguous, durable before it counts. */
#include <string.h>

#include "core/consensus/paxos__.h"

/* Cumulative. `granted` is false where the leader must step back to `received`. */
static void accepted(struct step *step, bool contiguous)
{
    struct paxos *self = step->self;
    if (self->promised_durable < self->ballot || self->leader == 0)
        return;
    struct paxos_message *message = paxos__send(step, self->leader, PAXOS_ACCEPTED, self->ballot);
    message->granted = contiguous;
    self->acknowledged = self->ballot;
    self->acknowledged_incarnation = self->leader_incarnation;
    message->learner = self->options.amnesiac;
    message->received = self->match;
    message->persisted = self->match_durable;
    message->read = self->read_heard;
    message->defections = self->pairs->peers[self->leader].defections;
}

/* The first word of a new leader: it was elected by a quorum, so no lease of its predecessor can stand any more,
 * whoever this replica granted one. */
static void follow(struct step *step, const struct paxos_message *message)
{
    struct paxos *self = step->self;
    if (message->ballot > self->promised)
        election__leave_for(step, message->ballot);
    if (self->ballot != message->ballot) {
        self->ballot = message->ballot;
        self->read_heard = 0;
        self->match = self->stable;
        /* After a restart: what was accepted under this very ballot before is contiguous from the stable index on. */
        while (self->match < self->last && paxos__slot(self, self->match + 1)->ballot == message->ballot)
            self->match++;
        if (self->match_durable > self->match)
            self->match_durable = self->match;
    }
    if (self->leader != message->from || self->role != PAXOS_FOLLOWER) {
        self->role = PAXOS_FOLLOWER;
        self->leading = false;
        self->leader = message->from;
        paxos__effect(step, PAXOS_EFFECT_FOLLOWING)->node = message->from;
    }
    self->leader_incarnation = message->incarnation;
    self->election_at_ns = 0;
}

/* Entries beyond `match`, as many as there is room for. True when something was stored. */
static bool store(struct step *step, const struct paxos_message *message)
{
    struct paxos *self = step->self;
    uint64_t start = self->match + 1, end = message->first + message->entry_count;
    uint64_t max = paxos__index_max(self);
    if (end > max + 1)
        end = max + 1;
    if (start >= end)
        return false;
    struct paxos_effect *effect = paxos__effect(step, PAXOS_EFFECT_STORE);
    effect->first = start;
    effect->count = (uint32_t)(end - start);
    effect->source = (uint32_t)(start - message->first);
    effect->ballot = self->ballot;
    effect->sequence = self->options.memory_only ? 0 : ++self->sequence;
    for (uint64_t index = start; index < end; index++) {
        const struct paxos_message_entry *entry = &message->entries[index - message->first];
        *paxos__slot(self, index) = (struct paxos_slot){.ballot = self->ballot,
                                                        .time = entry->time,
                                                        .opened = paxos__opened(self, index, entry->opened),
                                                        .size = entry->size,
                                                        .flags = entry->flags,
                                                        .sequence = effect->sequence,
                                                        .members = entry->members,
                                                        .members_instance = entry->members_instance};
        members__note(self, index);
        paxos__note_time(self, entry->time);
    }
    self->match = end - 1;
    if (self->match > self->last)
        self->last = self->match;
    return true;
}

static void look_for_memory(struct step *step, const struct paxos_message *message)
{
    struct paxos *self = step->self;
    /* The leader knows this process, and this process holds all that the leader had by then: everything that the former
     * process can have acknowledged. */
    if (self->options.amnesiac && self->options.memory_only &&
        message->peer_incarnation == self->pairs->options.incarnation && self->match >= message->last)
        paxos__effect(step, PAXOS_EFFECT_CAUGHT_UP);
}

void follower__accept(struct step *step, const struct paxos_message *message)
{
    struct paxos *self = step->self;
    if (message->ballot < self->promised) {
        (void)paxos__send(step, message->from, PAXOS_REJECT, self->promised);
        return;
    }
    ASSERT(self->role != PAXOS_LEADER || message->ballot != self->ballot);
    follow(step, message);
    (void)paxos__advance_durable(self);
    if (message->read > self->read_heard)
        self->read_heard = message->read;
    if (message->lost && message->peer_incarnation == self->pairs->options.incarnation && !self->options.amnesiac) {
        self->options.amnesiac = true;
        self->options.whole_from = self->options.instance;
        (void)paxos__effect(step, PAXOS_EFFECT_LOST);
    }
    if (message->first > self->match + 1) {
        accepted(step, false);
        return;
    }
    bool stored = store(step, message);
    (void)paxos__advance_durable(self);
    /* Chosen under this leader's count, and equal here up to match. What is applied may not be on disk here yet; the
     * disk keeps log order, so whatever is durable later has everything before it. */
    uint64_t stable = message->stable < self->match ? message->stable : self->match;
    paxos__stable(step, stable);
    if (message->closed_time > self->closed_time) {
        self->closed_time = message->closed_time;
        self->closed_index = message->closed_index;
        self->closed_ballot = message->ballot;
    }
    look_for_memory(step, message);
    if (self->options.memory_only || !stored)
        accepted(step, true);
    /* It was removed, and as it told so itself, it holds no lease any more. */
    if (self->members.index != 0 && !members__votes(self, message->from) && message->stable >= self->members.index &&
        members__votes(self, self->options.node)) {
        self->acknowledged = 0;
        election__step_down(step);
    }
}

/* A lost answer must not matter, so who asked for votes already asks it too. */
void follower__ask(struct step *step)
{
    if (step->self->role <= PAXOS_PRECANDIDATE)
        accepted(step, true);
}

void follower__disclaimed(struct step *step, const struct paxos_message *message)
{
    struct paxos *self = step->self;
    if (self->role > PAXOS_PRECANDIDATE || self->leader != message->from || message->transfer == 0 ||
        message->transfer != self->promised || message->incarnation < self->leader_incarnation)
        return;
    self->acknowledged = 0;
    election__step_down(step);
}

void follower__persisted(struct step *step)
{
    struct paxos *self = step->self;
    bool moved = paxos__advance_durable(self);
    if (self->role == PAXOS_FOLLOWER && self->leader != 0 &&
        (moved || self->promise_acknowledged != self->promised_durable)) {
        self->promise_acknowledged = self->promised_durable;
        accepted(step, true);
    }
}

enum sluice_status follower__installed(struct step *step)
{
    struct paxos *self = step->self;
    const struct paxos_snapshot *snapshot = step->event->snapshot;
    if (self->role != PAXOS_FOLLOWER || !members__possible(snapshot->members.voters))
        return SLUICE_INVALID;
    if (snapshot->index <= self->stable)
        return SLUICE_OK;
    /* It stands for a chosen log, so what is held beyond it stays, and what it covers is as durable as it is. */
    self->stable = snapshot->index;
    self->stable_time = snapshot->time;
    if (snapshot->opened > self->stable_opened)
        self->stable_opened = snapshot->opened;
    self->members = snapshot->members;
    /* Added after the loss; who has lost everything does not know what the members were before. */
    if (!self->options.memory_only && members__votes(self, self->options.node) &&
        paxos_members_instance(&self->members, self->options.node) >= self->options.whole_from)
        self->options.amnesiac = false;
    if (self->last < self->stable)
        self->last = self->stable;
    if (self->match < self->stable)
        self->match = self->stable;
    if (self->match_durable < self->stable)
        self->match_durable = self->stable;
    self->compacted = self->compacted > self->stable ? self->compacted : self->stable;
    paxos__note_time(self, snapshot->time);
    paxos__effect(step, PAXOS_EFFECT_MEMBERS)->first = self->members.index;
    if (self->leader != 0 && self->ballot == self->promised)
        accepted(step, true);
    return SLUICE_OK;
}

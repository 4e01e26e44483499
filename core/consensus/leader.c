/* Phase 2 at the leader: proposing, and counting what is durable. */
#include <string.h>

#include "core/consensus/paxos__.h"

bool leader__counts(const struct paxos *self, uint16_t node)
{
    const struct paxos_follower *follower = &self->followers[node];
    return follower->acknowledged && !follower->learner && !follower->lost &&
           follower->instance >= paxos_members_instance(&self->members, node);
}

static void reads_done(struct step *step)
{
    struct paxos *self = step->self;
    uint64_t rounds[PAXOS_NODES_MAX] = {0};
    if (self->read_done == self->read_sequence || !self->leading)
        return;
    for (uint64_t rest = self->members.voters; rest != 0; rest &= rest - 1) {
        uint16_t node = (uint16_t)__builtin_ctzll(rest);
        if (node == self->options.node)
            rounds[node] = self->read_sequence;
        else if (leader__counts(self, node))
            rounds[node] = self->followers[node].read;
    }
    uint64_t done = members__reached(self, rounds);
    if (done <= self->read_done)
        return;
    self->read_done = done;
    paxos__effect(step, PAXOS_EFFECT_READ)->sequence = done;
}

/* Whoever echoes the round has promised no higher ballot since it began, so while a quorum does, nobody else can have
 * chosen anything that this leader does not know (Raft thesis, 6.4). No clock is in it. */
enum sluice_status leader__read(struct step *step)
{
    struct paxos *self = step->self;
    if (self->role != PAXOS_LEADER)
        return SLUICE_NOT_LEADER;
    self->read_sequence++;
    feed__meet_new(self, self->members.voters & ~paxos_mask(self->options.node));
    for (uint64_t rest = self->members.voters & ~paxos_mask(self->options.node); rest != 0; rest &= rest - 1)
        feed__accept(step, (uint16_t)__builtin_ctzll(rest), false);
    reads_done(step);
    return SLUICE_OK;
}

/* A leader's ballot opens with a no-op behind the suffix: an index that nobody holds anything chosen at, so that
 * whoever acknowledges it has stored it, and with it `opened`. (At the end of the suffix it would not do: a follower
 * that knows that entry to be chosen stores nothing, and the next leader might hear of this ballot from nobody, and
 * bring back what this one has closed time over.) A suffix may fill the window; then the no-op comes once there is
 * room, and proposals after it. */
static bool open_with_noop(struct step *step)
{
    struct paxos *self = step->self;
    /* Nothing follows a members entry that is not stable. */
    if (self->last >= self->opened || paxos__index_max(self) < self->opened || members__pending(self) != 0)
        return false;
    uint64_t floor = self->time_floor;
    uint64_t time = step->event->time > floor ? step->event->time : floor + 1;
    struct paxos_effect *noop = paxos__effect(step, PAXOS_EFFECT_STORE_NOOP);
    noop->first = ++self->last;
    noop->count = 1;
    noop->ballot = self->ballot;
    noop->sequence = ++self->sequence;
    paxos__note_time(self, time);
    *paxos__slot(self, self->last) =
        (struct paxos_slot){.ballot = self->ballot, .time = time, .opened = self->ballot, .sequence = self->sequence};
    self->match = self->last;
    (void)paxos__advance_durable(self);
    return true;
}

/* A leader that was removed goes on, without a say and without leases, until a quorum knows (Raft thesis, 4.2.2): they
 * hear its beats, and would wait for it for ever. */
static bool removal_known(const struct paxos *self)
{
    uint64_t known = 0;
    for (uint64_t rest = self->members.voters; rest != 0; rest &= rest - 1) {
        uint16_t node = (uint16_t)__builtin_ctzll(rest);
        if (self->followers[node].stable >= self->members.index)
            known |= paxos_mask(node);
    }
    return members__quorum(self->members.voters, known);
}

static void commit(struct step *step)
{
    struct paxos *self = step->self;
    /* Everything above the old stable index was proposed again under this ballot, so counting replicas is enough; but a
     * members entry among it changes who counts for what follows. */
    for (;;) {
        uint64_t reached[PAXOS_NODES_MAX] = {0};
        for (uint64_t rest = self->members.voters; rest != 0; rest &= rest - 1) {
            uint16_t node = (uint16_t)__builtin_ctzll(rest);
            if (node == self->options.node)
                reached[node] = self->match_durable;
            else if (leader__counts(self, node))
                reached[node] = self->followers[node].match;
        }
        uint64_t index = members__reached(self, reached), pending = members__pending(self);
        if (index > self->match)
            index = self->match;
        if (pending != 0 && index > pending)
            index = pending;
        if (index > self->stable) {
            paxos__stable(step, index);
        } else if (open_with_noop(step)) {
            feed__all(step);
        } else {
            break;
        }
    }
    if (!self->leading && self->stable >= self->opened) {
        self->leading = true;
        paxos__effect(step, PAXOS_EFFECT_LEADING)->ballot = self->ballot;
        reads_done(step);
    }
    if (!members__votes(self, self->options.node) && removal_known(self))
        election__step_down(step); /* the others choose whom they like */
    else
        handover__progress(step);
    handover__if_unwanted(step);
}

/* Adopting index by index can bring back, behind the log of a later leader, a value of an earlier one that was never
 * chosen; it would come with a time that the later one may have closed already. So each entry carries `opened`: the
 * highest ballot known to begin its log at or before it. A leader's log begins where the suffix that its phase 1 found
 * ends, and that quorum held nothing beyond; so behind an entry opened by ballot b, a value of a ballot below b was not
 * chosen, and the log ends before it. Whatever was chosen is kept: had it been, that phase 1 would have found it. */
uint64_t leader__end(const struct paxos *self)
{
    uint64_t opened = self->opened_seen > self->stable_opened ? self->opened_seen : self->stable_opened;
    uint64_t time = self->stable_time;
    for (uint64_t index = self->stable + 1; index <= self->last; index++) {
        const struct paxos_slot *slot = paxos__slot(self, index);
        /* Times rise in every leader's log, so one that falls is another sign of the same. */
        if (slot->ballot < opened || slot->time <= time)
            return index - 1;
        opened = slot->opened > opened ? slot->opened : opened;
        time = slot->time;
    }
    return self->last;
}

/* Phase 1 is complete: the suffix is proposed again under the new ballot, and a no-op behind it opens the ballot. */
void leader__begin(struct step *step)
{
    struct paxos *self = step->self;
    self->role = PAXOS_LEADER;
    self->leader = self->options.node;
    self->leader_incarnation = self->pairs->options.incarnation;
    self->leading = false;
    self->quorum_lost_ns = 0;
    self->election_at_ns = 0;
    self->waiting_ns = step->now;
    self->last = leader__end(self);
    self->leaving = 0;
    self->transfer_to = 0;
    self->released = 0;
    self->read_sequence = self->read_done = 0;
    if (self->last > self->stable) {
        struct paxos_effect *effect = paxos__effect(step, PAXOS_EFFECT_REWRITE);
        effect->first = self->stable + 1;
        effect->count = (uint32_t)(self->last - self->stable);
        effect->ballot = self->ballot;
        effect->sequence = ++self->sequence;
        for (uint64_t index = self->stable + 1; index <= self->last; index++) {
            paxos__slot(self, index)->ballot = self->ballot;
            paxos__slot(self, index)->sequence = self->sequence;
        }
    }
    /* Above everything that was promised to be closed, and everything in the log. */
    if (self->pairs->ceiling_highest > self->time_floor)
        self->time_floor = self->pairs->ceiling_highest;
    self->opened = self->last + 1;
    self->match = self->last;
    (void)paxos__advance_durable(self);
    (void)open_with_noop(step);
    memset(self->followers, 0, sizeof(self->followers));
    for (uint64_t rest = members__audience(self); rest != 0; rest &= rest - 1) {
        uint16_t node = (uint16_t)__builtin_ctzll(rest);
        feed__meet(self, node);
        feed__node(step, node);
    }
    commit(step);
}

enum sluice_status leader__propose(struct step *step)
{
    struct paxos *self = step->self;
    const struct paxos_event *event = step->event;
    if (self->role != PAXOS_LEADER)
        return SLUICE_NOT_LEADER;
    if (event->proposal_count == 0 || event->proposal_count > PAXOS_MESSAGE_ENTRIES_MAX)
        return SLUICE_INVALID;
    if (event->proposal_count > paxos_room(self))
        return SLUICE_AGAIN;
    uint64_t time = self->time_floor;
    for (uint32_t i = 0; i < event->proposal_count; i++) {
        if (event->proposals[i].time <= time)
            return SLUICE_INVALID;
        if (event->proposals[i].members != 0 && (event->proposal_count != 1 || !self->leading ||
                                                 !members__step(self->members.voters, event->proposals[i].members)))
            return SLUICE_INVALID;
        time = event->proposals[i].time;
    }
    if (self->last == self->stable)
        self->waiting_ns = step->now;
    struct paxos_effect *effect = paxos__effect(step, PAXOS_EFFECT_STORE);
    effect->first = self->last + 1;
    effect->count = event->proposal_count;
    effect->ballot = self->ballot;
    effect->sequence = self->options.memory_only ? 0 : ++self->sequence;
    for (uint32_t i = 0; i < event->proposal_count; i++) {
        const struct paxos_proposal *proposal = &event->proposals[i];
        *paxos__slot(self, ++self->last) = (struct paxos_slot){.ballot = self->ballot,
                                                               .time = proposal->time,
                                                               .opened = self->ballot,
                                                               .size = proposal->size,
                                                               .flags = proposal->flags,
                                                               .sequence = effect->sequence,
                                                               .members = proposal->members,
                                                               .members_instance = proposal->members_instance};
        members__note(self, self->last);
        paxos__note_time(self, proposal->time);
    }
    self->match = self->last;
    (void)paxos__advance_durable(self);
    feed__all(step);
    commit(step);
    return SLUICE_OK;
}

void leader__persisted(struct step *step)
{
    if (paxos__advance_durable(step->self))
        commit(step);
}

static void note_acknowledgement(struct paxos *self, struct paxos_follower *follower,
                                 const struct paxos_message *message)
{
    struct pairs_peer *peer = &self->pairs->peers[message->from];
    bool newcomer = message->instance != follower->instance;
    if (newcomer) {
        /* What its former process said is no word of this one. It may know less of what is chosen, and so acknowledge
         * less for now; but its log must reach as far as it was acknowledged. And a loss is made good by no restart:
         * what a voter had lost, or was told that it had, its next process has lost as well. */
        bool shortened = follower->acknowledged && message->last < follower->match;
        bool had_lost = members__lacks(self, message->from);
        follower->lost = (shortened || had_lost) && !self->options.memory_only;
        follower->match = follower->received = follower->read = 0;
        follower->defections = 0;
    }
    follower->incarnation = message->incarnation;
    follower->instance = message->instance;
    follower->acknowledged = true;
    follower->learner = message->learner;
    follower->whole_from = message->whole_from;
    if (message->learner)
        follower->lost = false; /* it says so itself, until it is added anew */
    follower->stable = newcomer || message->stable > follower->stable ? message->stable : follower->stable;
    if (message->defections > follower->defections)
        follower->defections = message->defections;
    if (message->incarnation == peer->incarnation && message->defections > peer->their_defections)
        peer->their_defections = message->defections;
    uint64_t persisted = message->persisted < self->last ? message->persisted : self->last;
    /* A learner counts for nothing yet, so its latest word is taken as it is: one that begins anew holds less. */
    bool learns = !members__votes(self, message->from);
    if (persisted > follower->match || learns)
        follower->match = persisted;
    if (message->received > follower->received || learns)
        follower->received = message->received < self->last ? message->received : self->last;
    if (message->read > follower->read && message->read <= self->read_sequence)
        follower->read = message->read;
    if ((self->leaving & paxos_mask(message->from)) != 0 && follower->stable > self->members.index)
        self->leaving &= ~paxos_mask(message->from);
}

void leader__accepted(struct step *step, const struct paxos_message *message)
{
    struct paxos *self = step->self;
    if (message->ballot != self->ballot || self->role != PAXOS_LEADER) {
        /* Given up. Who says so of a ballot of its own never leads under it again: rounds only rise. */
        paxos__send(step, message->from, PAXOS_REJECT, self->promised)->transfer = message->ballot;
        return;
    }
    if ((members__audience(self) & paxos_mask(message->from)) == 0)
        return;
    struct paxos_follower *follower = &self->followers[message->from];
    /* A late word of a former process or replica, before the present one was heard: it would pass for a loss. And one
     * of another placement on that node speaks of data that are gone. */
    if (message->instance < follower->instance ||
        ((self->wanted & paxos_mask(message->from)) != 0 && message->since != self->since[message->from]))
        return;
    note_acknowledgement(self, follower, message);
    feed__answered(self, message);
    reads_done(step);
    commit(step);
    if (self->role == PAXOS_LEADER)
        feed__node(step, message->from);
}

/* Both ways: a beat of theirs came, and ours was answered. A leader that hears a quorum but can't be heard by it would
 * keep everybody waiting. */
static bool quorum_heard(const struct paxos *self, uint64_t now)
{
    uint64_t heard = paxos_mask(self->options.node);
    for (uint64_t rest = self->members.voters & ~heard; rest != 0; rest &= rest - 1) {
        uint16_t node = (uint16_t)__builtin_ctzll(rest);
        if (pairs_alive(self->pairs, node, 0, now) && now < self->pairs->peers[node].lease_until_ns)
            heard |= paxos_mask(node);
    }
    return members__quorum(self->members.voters, heard);
}

void leader__tick(struct step *step)
{
    struct paxos *self = step->self;
    if (quorum_heard(self, step->now)) {
        self->quorum_lost_ns = 0;
    } else if (self->quorum_lost_ns == 0) {
        self->quorum_lost_ns = step->now;
    } else if (step->now - self->quorum_lost_ns >= self->options.election_ns) {
        election__step_down(step); /* check-quorum: nobody waits for a leader that reaches nobody */
        return;
    }
    handover__progress(step);
    handover__if_unwanted(step);
    if (self->role != PAXOS_LEADER)
        return;
    /* A removed one that is not heard is not waited for; it is told by whoever it asks. */
    for (uint64_t rest = self->leaving; rest != 0; rest &= rest - 1)
        if (self->pairs->peers[__builtin_ctzll(rest)].silent)
            self->leaving &= ~(rest & -rest);
    feed__tick(step);
}

uint64_t leader__next_tick(const struct paxos *self)
{
    uint64_t next = self->quorum_lost_ns == 0 ? UINT64_MAX : self->quorum_lost_ns + self->options.election_ns;
    if (self->transfer_to != 0 && self->transfer_until_ns < next)
        next = self->transfer_until_ns;
    uint64_t fed = feed__next_tick(self);
    return fed < next ? fed : next;
}

/* Phase 1: who leads. Pre-vote (Raft thesis, 9.6) keeps a node that comes back from disturbing anybody; leases keep
 * votes from being given away. */
#include <string.h>

#include "core/consensus/paxos__.h"

void election__timer(struct paxos *self, uint64_t now, uint64_t base)
{
    self->election_at_ns = now + base + paxos__random(self, base == 0 ? self->options.election_ns / 8 : base);
}

static void votes_clear(struct paxos *self)
{
    memset(self->votes, 0, sizeof(self->votes));
}

/* One's own vote must be among them: only once that is on disk can a later process of this node not use the ballot
 * again. */
static bool votes_suffice(const struct paxos *self)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < self->options.replica_count; i++)
        count += self->votes[i].complete;
    return count >= quorum_size(self->options.replica_count) &&
           self->votes[paxos__replica(self, self->options.node)].complete;
}

static void become_follower(struct step *step, uint16_t leader, uint64_t incarnation)
{
    struct paxos *self = step->self;
    bool changed = self->role == PAXOS_LEADER || self->leader != leader;
    self->role = PAXOS_FOLLOWER;
    self->leading = false;
    self->leader = leader;
    self->leader_incarnation = incarnation;
    if (changed)
        paxos__effect(step, PAXOS_EFFECT_FOLLOWING)->node = leader;
}

void election__step_down(struct step *step, uint64_t ballot)
{
    (void)ballot;
    become_follower(step, 0, 0);
    election__timer(step->self, step->now, step->self->options.election_ns / 2);
}

void election__leave_for(struct step *step, uint64_t ballot)
{
    struct paxos *self = step->self;
    ASSERT(ballot > self->promised);
    uint16_t owner = paxos_ballot_node(self->promised), next = paxos_ballot_node(ballot);
    if (owner != next)
        pairs_defect(self->pairs, owner);
    self->promised = ballot;
    struct paxos_effect *effect = paxos__effect(step, PAXOS_EFFECT_PERSIST_PROMISE);
    effect->ballot = ballot;
    effect->sequence = ++self->sequence;
    self->promise_sequence = self->sequence;
    if (ballot > self->highest_seen)
        self->highest_seen = ballot;
}

/* The promised ballot's owner may hold a lease here that this replica's vote would break. It counts on this replica
 * only once that has acknowledged the ballot with an ACCEPTED; a ballot that was merely promised, to a candidate that
 * may never lead, binds nobody. A process that is fresh cannot tell what its former one acknowledged and granted: until
 * that has run out, its own first ACCEPTED proves nothing. */
static bool protected_from(const struct paxos *self, uint16_t candidate, uint64_t now)
{
    uint16_t owner = paxos_ballot_node(self->promised);
    if (self->promised == 0 || owner == candidate)
        return false;
    if (owner == self->options.node)
        return self->role == PAXOS_LEADER && self->quorum_lost_ns == 0;
    if (self->pairs->peers[owner].dead)
        return false;
    if (self->leader == owner && self->leader_incarnation < self->pairs->peers[owner].incarnation)
        return false; /* another process speaks for that node by now, and it does not lead */
    if (pairs_fresh(self->pairs, now))
        return true;
    /* What the owner's present process is granted, beat by beat, is no lease of the one that led. */
    return self->acknowledged == self->promised &&
           self->acknowledged_incarnation == self->pairs->peers[owner].incarnation &&
           pairs_grant_runs(self->pairs, owner, now);
}

/* ---- Standing ---- */

void election__start(struct step *step)
{
    struct paxos *self = step->self;
    election__timer(self, step->now, self->options.election_ns);
    if (self->options.amnesiac || protected_from(self, self->options.node, step->now)) {
        election__timer(self, step->now, self->options.election_ns / 8);
        return;
    }
    uint64_t round = (self->highest_seen >> 16) + 1;
    self->role = PAXOS_PRECANDIDATE;
    self->standing = round << 16 | self->options.node;
    votes_clear(self);
    for (uint32_t i = 0; i < self->options.replica_count; i++) {
        if (self->options.replicas[i] == self->options.node)
            self->votes[i].complete = true;
        else
            (void)paxos__send(step, self->options.replicas[i], PAXOS_PREVOTE, self->standing);
    }
    if (votes_suffice(self))
        election__stand(step);
}

static void ask(struct step *step, uint32_t replica)
{
    struct paxos *self = step->self;
    struct paxos_message *message = paxos__send(step, self->options.replicas[replica], PAXOS_PREPARE, self->ballot);
    message->first = self->votes[replica].next;
}

/* Phase 1a, once a quorum would follow. */
void election__stand(struct step *step)
{
    struct paxos *self = step->self;
    /* A beat of the present leader may have come since the pre-vote began, and with it a grant. */
    if (self->standing <= self->promised || protected_from(self, self->options.node, step->now)) {
        self->role = PAXOS_FOLLOWER;
        return;
    }
    self->role = PAXOS_CANDIDATE;
    self->leader = 0;
    self->ballot = self->standing;
    self->opened_seen = self->stable_opened;
    self->match = self->stable;
    if (self->match_durable > self->match)
        self->match_durable = self->match;
    election__leave_for(step, self->ballot);
    votes_clear(self);
    for (uint32_t i = 0; i < self->options.replica_count; i++) {
        self->votes[i].next = self->stable + 1;
        if (self->options.replicas[i] != self->options.node)
            ask(step, i);
    }
    election__timer(self, step->now, self->options.election_ns);
}

static void leader_lives(struct paxos *self)
{
    self->election_at_ns = 0;
}

/* An idle group is watched through its leader's beats alone. */
void election__tick(struct step *step)
{
    struct paxos *self = step->self;
    if (self->role == PAXOS_FOLLOWER && self->leader != 0) {
        const struct pairs_peer *peer = &self->pairs->peers[self->leader];
        if (pairs_alive(self->pairs, self->leader, self->leader_incarnation, step->now)) {
            leader_lives(self);
            return;
        }
        if (self->election_at_ns == 0) {
            /* Beats have failed for a lease already, or the connection did: only rivals are to be kept apart. */
            election__timer(self, step->now,
                            peer->suspected || peer->dead ? self->options.election_ns / 16
                                                          : self->options.election_ns / 4);
            return;
        }
    }
    if (self->election_at_ns != 0 && step->now >= self->election_at_ns)
        election__start(step);
}

/* ---- Voting ---- */

/* Would this replica promise? A candidate that lies more than a window behind is refused, since it could not hold what
 * it has to adopt; the replica that is furthest among any quorum is never refused for that, so somebody can always win.
 */
static bool would_promise(const struct paxos *self, const struct paxos_message *message, uint64_t now)
{
    if (self->options.amnesiac || message->ballot <= self->promised ||
        self->stable > message->last + self->options.window)
        return false;
    if (protected_from(self, message->from, now))
        return false;
    bool follows = self->role == PAXOS_FOLLOWER && self->leader != 0 && self->leader != message->from;
    return !follows || !pairs_alive(self->pairs, self->leader, self->leader_incarnation, now);
}

void election__prevote(struct step *step, const struct paxos_message *message)
{
    struct paxos *self = step->self;
    bool granted = would_promise(self, message, step->now);
    struct paxos_message *reply =
        paxos__send(step, message->from, PAXOS_PREVOTE_REPLY, granted ? message->ballot : self->promised);
    reply->granted = granted;
}

void election__prevote_reply(struct step *step, const struct paxos_message *message)
{
    struct paxos *self = step->self;
    uint32_t replica = paxos__replica(self, message->from);
    if (self->role != PAXOS_PRECANDIDATE || !message->granted || message->ballot != self->standing)
        return;
    self->votes[replica].complete = true;
    if (votes_suffice(self))
        election__stand(step);
}

/* Phase 1b. Entries known chosen are marked so; their values, times and sizes are the caller's to fill in from its
 * store. */
static void promise(struct step *step, uint16_t to, uint64_t first, uint64_t their_stable)
{
    struct paxos *self = step->self;
    struct paxos_message *message = paxos__send(step, to, PAXOS_PROMISE, self->promised);
    uint64_t bytes = 0;
    message->first = first;
    message->ceiling = self->pairs->ceiling_highest;
    message->stable_opened = self->stable_opened;
    /* The candidate asks for nothing that it knows to be chosen; what these entries say of ballots that opened counts
     * all the same. */
    for (uint64_t index = self->stable + 1; index <= self->last && index <= their_stable; index++)
        if (paxos__slot(self, index)->opened > message->stable_opened)
            message->stable_opened = paxos__slot(self, index)->opened;
    message->defections = self->pairs->peers[to].defections;
    for (uint64_t index = first; index <= self->last && message->entry_count < PAXOS_MESSAGE_ENTRIES_MAX; index++) {
        struct paxos_message_entry *entry = &message->entries[message->entry_count];
        if (index <= self->stable) {
            *entry = (struct paxos_message_entry){.ballot = UINT64_MAX};
        } else {
            const struct paxos_slot *slot = paxos__slot(self, index);
            *entry = (struct paxos_message_entry){.ballot = slot->ballot,
                                                  .time = slot->time,
                                                  .opened = slot->opened,
                                                  .size = slot->size,
                                                  .flags = slot->flags};
        }
        bytes += entry->size;
        if (message->entry_count > 0 && bytes > PAXOS_MESSAGE_BYTES_MAX)
            break;
        message->entry_count++;
    }
}

void election__prepare(struct step *step, const struct paxos_message *message)
{
    struct paxos *self = step->self;
    if (self->options.amnesiac || message->first == 0)
        return;
    if (message->ballot == self->promised && self->role == PAXOS_FOLLOWER) {
        /* A further page, or the same again. */
        if (self->promised_durable == self->promised)
            promise(step, message->from, message->first, message->stable);
        return;
    }
    if (message->ballot <= self->promised || protected_from(self, message->from, step->now)) {
        struct paxos_message *reply = paxos__send(step, message->from, PAXOS_REJECT, self->promised);
        reply->granted = false;
        return;
    }
    become_follower(step, 0, 0);
    election__leave_for(step, message->ballot);
    self->promise_to = message->from;
    self->promise_first = message->first;
    self->promise_stable = message->stable;
    election__timer(self, step->now, self->options.election_ns);
}

/* ---- Winning ---- */

/* Takes over what an acceptor reported at `index`. Reporting a value under a higher ballot than one has accepted
 * oneself is safe: that ballot's leader did propose it, and if any lower ballot had chosen another value, that leader
 * would have proposed the other ("Paxos Made Simple", 2.2). */
static bool adopt(struct step *step, const struct paxos_message *message, uint32_t i)
{
    struct paxos *self = step->self;
    const struct paxos_message_entry *entry = &message->entries[i];
    uint64_t index = message->first + i;
    if (index <= self->stable)
        return true;
    if (index > self->last + 1 || index > paxos__index_max(self))
        return false;
    struct paxos_slot *slot = paxos__slot(self, index);
    bool chosen = entry->ballot == UINT64_MAX && index == self->stable + 1 && self->match == self->stable;
    uint64_t opened = paxos__opened(self, index, entry->opened);
    if (index <= self->last && !chosen && slot->ballot >= entry->ballot) {
        slot->opened = opened;
        return true;
    }
    struct paxos_effect *effect = paxos__effect(step, PAXOS_EFFECT_STORE);
    effect->first = index;
    effect->source = i;
    effect->count = 1;
    /* A chosen value may be accepted under any higher ballot; it goes to disk so that the log there has no holes. */
    effect->ballot = chosen ? self->ballot : entry->ballot;
    effect->sequence = chosen ? ++self->sequence : 0;
    *slot = (struct paxos_slot){.ballot = effect->ballot,
                                .time = entry->time,
                                .opened = opened,
                                .size = entry->size,
                                .flags = entry->flags,
                                .sequence = self->sequence};
    if (index > self->last)
        self->last = index;
    paxos__note_time(self, entry->time);
    if (chosen) {
        self->match = index;
        self->stable = index;
        self->stable_time = entry->time;
        if (slot->opened > self->stable_opened)
            self->stable_opened = slot->opened;
    }
    return true;
}

void election__promise(struct step *step, const struct paxos_message *message)
{
    struct paxos *self = step->self;
    uint32_t replica = paxos__replica(self, message->from);
    if (self->role != PAXOS_CANDIDATE || message->ballot != self->ballot || self->votes[replica].complete)
        return;
    if (message->first > self->votes[replica].next)
        return;
    uint64_t was = self->stable;
    uint32_t taken = 0, room = PAXOS_EFFECTS_MAX - 8;
    while (taken < message->entry_count && step->effects->count < room && adopt(step, message, taken))
        taken++;
    if (self->stable > was)
        paxos__effect(step, PAXOS_EFFECT_STABLE)->first = self->stable;
    if (message->ceiling > self->time_floor)
        self->time_floor = message->ceiling;
    struct paxos_follower *follower = &self->followers[replica];
    follower->incarnation = message->incarnation;
    follower->defections = message->defections;
    uint64_t next = message->first + taken;
    if (next > self->votes[replica].next)
        self->votes[replica].next = next;
    if (self->votes[replica].next <= message->last) {
        ask(step, replica);
        election__timer(self, step->now, self->options.election_ns);
        return;
    }
    self->votes[replica].complete = true;
    /* Only now: everything that this acceptor knows to be chosen is stable here too, and lies before what may be cut.
     */
    if (message->stable_opened > self->opened_seen)
        self->opened_seen = message->stable_opened;
    if (votes_suffice(self))
        leader__begin(step);
}

void election__persisted(struct step *step)
{
    struct paxos *self = step->self;
    if (self->promised_durable == self->promised || self->promise_sequence > self->sequence_durable)
        return;
    self->promised_durable = self->promised;
    if (self->role == PAXOS_CANDIDATE && self->ballot == self->promised) {
        self->votes[paxos__replica(self, self->options.node)].complete = true;
        if (votes_suffice(self))
            leader__begin(step);
    } else if (self->promise_to != 0 && self->promise_to == paxos_ballot_node(self->promised)) {
        promise(step, self->promise_to, self->promise_first, self->promise_stable);
    }
    self->promise_to = 0;
}

/* Phase 1: who leads. Pre-vote (Raft thesis, 9.6) keeps a node that comes back from disturbing anybody; leases keep
 * votes from being given away. */
#include <string.h>

#include "core/consensus/paxos__.h"

void election__timer(struct paxos *self, uint64_t now, uint64_t base)
{
    self->election_at_ns = now + base + paxos__random(self, base == 0 ? self->options.election_ns / 8 : base);
}

/* Whom a candidate needs: see members.c. */
static void governing(const struct paxos *self, struct paxos_members *out)
{
    members__governing(self, leader__end(self), out);
}

/* The vote of a replica that has forgotten something is as good as any where the members name a replica that came after
 * that: it need not know it. (An older log may name an older one; there its vote is none.) */
static bool may_vote(const struct paxos_members *members, uint16_t node, uint64_t instance, uint64_t whole_from)
{
    uint64_t added = paxos_members_instance(members, node);
    return instance >= added && whole_from <= added;
}

/* One's own vote must be among them: only once that is on disk can a later process of this node not use the ballot
 * again. And the vote of a process that was followed by one which lost its memory is none: it was added anew, as that
 * later process. */
static bool votes_suffice(const struct paxos *self)
{
    struct paxos_members members;
    uint64_t votes = 0;
    governing(self, &members);
    for (uint64_t rest = self->votes; rest != 0; rest &= rest - 1) {
        uint16_t node = (uint16_t)__builtin_ctzll(rest);
        const struct paxos_follower *voter = &self->followers[node];
        if (node == self->options.node ? self->options.instance >= paxos_members_instance(&members, node)
                                       : may_vote(&members, node, voter->instance, voter->whole_from))
            votes |= paxos_mask(node);
    }
    return (self->votes & paxos_mask(self->options.node)) != 0 && members__quorum(members.voters, votes);
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

void election__step_down(struct step *step)
{
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
    if (candidate == self->options.node && self->released == self->promised)
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
    if (self->options.amnesiac || !members__votes(self, self->options.node) ||
        protected_from(self, self->options.node, step->now)) {
        election__timer(self, step->now, self->options.election_ns / 8);
        handover__resign(step);
        return;
    }
    struct paxos_members members;
    governing(self, &members);
    uint64_t round = (self->highest_seen >> 16) + 1, own = paxos_mask(self->options.node);
    self->role = PAXOS_PRECANDIDATE;
    self->standing = round << 16 | self->options.node;
    self->votes = own;
    for (uint64_t rest = members.voters & ~own; rest != 0; rest &= rest - 1)
        (void)paxos__send(step, (uint16_t)__builtin_ctzll(rest), PAXOS_PREVOTE, self->standing);
    if (members__quorum(members.voters, self->votes))
        election__stand(step);
}

static void ask(struct step *step, uint16_t node)
{
    struct paxos *self = step->self;
    struct paxos_message *message = paxos__send(step, node, PAXOS_PREPARE, self->ballot);
    message->first = self->followers[node].vote_next;
    message->transfer = self->released;
    self->asked |= paxos_mask(node);
}

/* All whose vote is needed by what is known so far; adopting may have told of more. */
static void ask_all(struct step *step)
{
    struct paxos *self = step->self;
    struct paxos_members members;
    governing(self, &members);
    for (uint64_t rest = members.voters & ~self->asked; rest != 0; rest &= rest - 1) {
        uint16_t node = (uint16_t)__builtin_ctzll(rest);
        self->followers[node].vote_next = self->stable + 1;
        if (node != self->options.node)
            ask(step, node);
    }
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
    if (self->released != self->promised)
        self->released = 0;
    self->role = PAXOS_CANDIDATE;
    self->leader = 0;
    self->ballot = self->standing;
    self->opened_seen = self->stable_opened;
    self->match = self->stable;
    if (self->match_durable > self->match)
        self->match_durable = self->match;
    election__leave_for(step, self->ballot);
    self->votes = 0;
    self->asked = self->stalled = 0;
    ask_all(step);
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
 * it has to adopt, and one that lacks what can't be fed; the replica that is furthest among any quorum is never refused
 * for that, so somebody can always win.
 */
static bool would_promise(const struct paxos *self, const struct paxos_message *message, uint64_t now)
{
    if ((self->options.amnesiac && self->options.memory_only) || message->ballot <= self->promised ||
        self->stable > message->last + self->options.window || message->stable < self->compacted)
        return false;
    if (protected_from(self, message->from, now))
        return false;
    bool follows = self->role == PAXOS_FOLLOWER && self->leader != 0 && self->leader != message->from;
    return !follows || !pairs_alive(self->pairs, self->leader, self->leader_incarnation, now);
}

/* A leader that stands again has given up what it led: its rounds only rise, and it stands for nothing while it leads;
 * a late word of a former process tells nothing, and is not heard. Its beats go on arriving, so without this nobody
 * would look for another leader where it can be heard and hears nobody. Whoever follows it has promised just that
 * ballot. */
static void note_abdication(struct step *step, const struct paxos_message *message)
{
    struct paxos *self = step->self;
    if (self->role > PAXOS_PRECANDIDATE || self->leader != message->from || message->ballot <= self->promised ||
        message->incarnation < self->leader_incarnation)
        return;
    self->acknowledged = 0;
    become_follower(step, 0, 0);
    election__timer(self, step->now, self->options.election_ns);
}

void election__prevote(struct step *step, const struct paxos_message *message)
{
    struct paxos *self = step->self;
    note_abdication(step, message);
    bool granted = would_promise(self, message, step->now);
    struct paxos_message *reply =
        paxos__send(step, message->from, PAXOS_PREVOTE_REPLY, granted ? message->ballot : self->promised);
    reply->granted = granted;
    if (!granted && self->leader != message->from)
        follower__ask(step);
    /* It was removed and does not know: a leader tells it, so that it asks no more. */
    if (self->role == PAXOS_LEADER && self->leading && message->stable < self->members.index &&
        (members__audience(self) & paxos_mask(message->from)) == 0)
        feed__tell(step, message->from);
}

void election__prevote_reply(struct step *step, const struct paxos_message *message)
{
    struct paxos *self = step->self;
    if (self->role != PAXOS_PRECANDIDATE || !message->granted || message->ballot != self->standing)
        return;
    struct paxos_members members;
    governing(self, &members);
    if (!may_vote(&members, message->from, message->instance, message->whole_from))
        return;
    self->votes |= paxos_mask(message->from);
    if (members__quorum(members.voters, self->votes))
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
        if (index <= self->stable)
            *entry = (struct paxos_message_entry){.ballot = UINT64_MAX};
        else
            *entry = paxos__told(self, index, paxos__slot(self, index)->ballot);
        bytes += entry->size;
        if (message->entry_count > 0 && bytes > PAXOS_MESSAGE_BYTES_MAX)
            break;
        message->entry_count++;
    }
}

void election__prepare(struct step *step, const struct paxos_message *message)
{
    struct paxos *self = step->self;
    if ((self->options.amnesiac && self->options.memory_only) || message->first == 0)
        return;
    if (message->ballot == self->promised && self->role == PAXOS_FOLLOWER) {
        /* A further page, or the same again. */
        if (self->promised_durable == self->promised && message->first > self->compacted)
            promise(step, message->from, message->first, message->stable);
        return;
    }
    /* The owner of the promised ballot itself asked the sender to stand: it holds no lease in this group any more. */
    bool released = message->transfer != 0 && message->transfer == self->promised;
    /* What can't be fed can't be reported either: a candidate that lacks it would take the gap for nothing. */
    if (message->ballot <= self->promised || message->first <= self->compacted ||
        (!released && protected_from(self, message->from, step->now))) {
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

/* A run of chosen values is one STORE and one STABLE: false where this one does not continue the last. */
static bool extend(struct step *step, uint64_t index, uint32_t source, uint64_t ballot)
{
    struct paxos_effects *effects = step->effects;
    if (effects->count < 2 || effects->items[effects->count - 1].type != PAXOS_EFFECT_STABLE)
        return false;
    struct paxos_effect *run = &effects->items[effects->count - 2];
    if (run->type != PAXOS_EFFECT_STORE || run->ballot != ballot || run->sequence == 0 ||
        run->first + run->count != index || run->source + run->count != source)
        return false;
    run->count++;
    return true;
}

/* Takes over what an acceptor reported at `index`. Reporting a value under a higher ballot than one has accepted
 * oneself is safe: that ballot's leader did propose it, and if any lower ballot had chosen another value, that leader
 * would have proposed the other ("Paxos Made Simple", 2.2). */
static bool adopt(struct step *step, const struct paxos_message *message, uint32_t i, uint64_t index_max)
{
    struct paxos *self = step->self;
    const struct paxos_message_entry *entry = &message->entries[i];
    uint64_t index = message->first + i;
    if (index <= self->stable)
        return true;
    if (index > self->last + 1 || index > index_max)
        return false;
    struct paxos_slot *slot = paxos__slot(self, index);
    bool chosen = entry->ballot == UINT64_MAX && index == self->stable + 1 && self->match == self->stable;
    uint64_t opened = paxos__opened(self, index, entry->opened);
    if (index <= self->last && !chosen && slot->ballot >= entry->ballot) {
        slot->opened = opened;
        return true;
    }
    /* A chosen value may be accepted under any higher ballot; it goes to disk so that the log there has no holes. */
    uint64_t ballot = chosen ? self->ballot : entry->ballot;
    bool extended = chosen && entry->members == 0 && extend(step, index, i, ballot);
    uint64_t sequence = chosen && !extended ? ++self->sequence : 0;
    if (!extended) {
        struct paxos_effect *effect = paxos__effect(step, PAXOS_EFFECT_STORE);
        effect->first = index;
        effect->source = i;
        effect->count = 1;
        effect->ballot = ballot;
        effect->sequence = sequence;
    }
    *slot = (struct paxos_slot){.ballot = ballot,
                                .time = entry->time,
                                .opened = opened,
                                .size = entry->size,
                                .flags = entry->flags,
                                .sequence = self->sequence,
                                .members = entry->members,
                                .members_instance = entry->members_instance};
    members__note(self, index);
    if (index > self->last)
        self->last = index;
    paxos__note_time(self, entry->time);
    if (chosen) {
        self->match = index;
        (void)paxos__advance_durable(self);
        paxos__stable(step, index);
    }
    return true;
}

void election__promise(struct step *step, const struct paxos_message *message)
{
    struct paxos *self = step->self;
    struct paxos_follower *follower = &self->followers[message->from];
    uint64_t mask = paxos_mask(message->from);
    if (self->role != PAXOS_CANDIDATE || message->ballot != self->ballot || (self->votes & mask) != 0 ||
        (self->asked & mask) == 0)
        return;
    if (message->first > follower->vote_next)
        return;
    /* What becomes stable in this step makes room only after it: a run is stored before any of it is applied. */
    uint64_t index_max = paxos__index_max(self);
    uint32_t taken = 0, room = PAXOS_EFFECTS_MAX - 24;
    while (taken < message->entry_count && step->effects->count < room && adopt(step, message, taken, index_max))
        taken++;
    if (message->ceiling > self->time_floor)
        self->time_floor = message->ceiling;
    follower->incarnation = message->incarnation;
    follower->instance = message->instance;
    follower->whole_from = message->whole_from;
    follower->defections = message->defections;
    uint64_t next = message->first + taken;
    bool news = next > follower->vote_next;
    if (news)
        follower->vote_next = next;
    if (follower->vote_next <= message->last) {
        if (news) {
            ask(step, message->from);
            election__timer(self, step->now, self->options.election_ns);
        } else if (message->entry_count > taken) {
            self->stalled |= mask; /* the ring is full of what is on its way to the disk */
        }
        return;
    }
    self->votes |= mask;
    /* Only now: everything that this acceptor knows to be chosen is stable here too, and lies before what may be cut.
     */
    if (message->stable_opened > self->opened_seen)
        self->opened_seen = message->stable_opened;
    if (votes_suffice(self))
        leader__begin(step);
    else
        ask_all(step);
}

/* A volatile replica keeps its promises on disk, and the disk may lose them. A candidate may still count one of them,
 * for as long as it stands, and this replica would accept from a lower ballot meanwhile. So before it counts again it
 * promises what lies above anything that it can have promised: no candidate is so many elections ahead of the leader
 * that taught it. That leader has to be elected again, once, above that. */
#define FORGOTTEN_ROUNDS (UINT64_C(1) << 20)

void election__admit(struct step *step)
{
    struct paxos *self = step->self;
    self->options.amnesiac = false;
    if (!self->options.forgot)
        return;
    self->options.forgot = false;
    become_follower(step, 0, 0);
    election__leave_for(step, ((self->highest_seen >> 16) + FORGOTTEN_ROUNDS) << 16);
    election__timer(self, step->now, self->options.election_ns);
}

void election__persisted(struct step *step)
{
    struct paxos *self = step->self;
    if (self->role == PAXOS_CANDIDATE && self->stalled != 0 && paxos__advance_durable(self)) {
        for (uint64_t rest = self->stalled; rest != 0; rest &= rest - 1)
            ask(step, (uint16_t)__builtin_ctzll(rest));
        self->stalled = 0;
    }
    if (self->promised_durable == self->promised || self->promise_sequence > self->sequence_durable)
        return;
    self->promised_durable = self->promised;
    if (self->role == PAXOS_CANDIDATE && self->ballot == self->promised) {
        self->votes |= paxos_mask(self->options.node);
        if (votes_suffice(self))
            leader__begin(step);
    } else if (self->promise_to != 0 && self->promise_to == paxos_ballot_node(self->promised) &&
               self->promise_first > self->compacted /* it may have risen meanwhile */) {
        promise(step, self->promise_to, self->promise_first, self->promise_stable);
    }
    self->promise_to = 0;
}

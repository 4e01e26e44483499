/* Phase 2 at the leader: proposing, feeding followers each at its pace, counting what is durable. */
#include <string.h>

#include "core/consensus/paxos__.h"

#define STABLE_NEWS_NS   (5 * UINT64_C(1000000)) /* an idle follower hears of a new stable index after this */
#define UNANSWERED_MAX   4u
#define CATCH_UP_ENTRIES 512u /* ahead of its acknowledgement, for a follower that is behind */

static bool is_self(const struct paxos *self, uint32_t replica)
{
    return self->options.replicas[replica] == self->options.node;
}

/* One ACCEPT from follower->next on; without entries it is a probe that tells stable index and closed time. */
static void accept(struct step *step, uint32_t replica, bool with_entries)
{
    struct paxos *self = step->self;
    struct paxos_follower *follower = &self->followers[replica];
    struct paxos_message *message = paxos__send(step, self->options.replicas[replica], PAXOS_ACCEPT, self->ballot);
    uint64_t bytes = 0;
    message->first = follower->next;
    message->closed_time = self->closed_time;
    message->closed_index = self->closed_index;
    for (uint64_t index = follower->next;
         with_entries && index <= self->last && message->entry_count < PAXOS_MESSAGE_ENTRIES_MAX; index++) {
        struct paxos_message_entry entry = {.ballot = self->ballot};
        if (index > self->stable) {
            const struct paxos_slot *slot = paxos__slot(self, index);
            entry = (struct paxos_message_entry){.ballot = self->ballot,
                                                 .time = slot->time,
                                                 .opened = slot->opened,
                                                 .size = slot->size,
                                                 .flags = slot->flags};
        }
        bytes += entry.size;
        if (message->entry_count > 0 && bytes > PAXOS_MESSAGE_BYTES_MAX)
            break;
        message->entries[message->entry_count++] = entry;
    }
    follower->next += message->entry_count;
    follower->sent_stable = self->stable;
    follower->sent_ns = step->now;
}

/* Sends what the follower lacks, as far as its pace and one step's room for messages allow. */
static void feed(struct step *step, uint32_t replica)
{
    struct paxos *self = step->self;
    struct paxos_follower *follower = &self->followers[replica];
    uint32_t most = PAXOS_EFFECT_MESSAGES_MAX / self->options.replica_count;
    for (uint32_t i = 0; i < most && follower->next <= self->last; i++) {
        bool behind = follower->match < self->stable && self->stable - follower->match > CATCH_UP_ENTRIES;
        if (follower->probing && i > 0)
            return;
        if (behind && follower->next > follower->match + CATCH_UP_ENTRIES)
            return;
        if (follower->next > follower->match + self->options.window)
            return;
        accept(step, replica, true);
    }
}

static void feed_all(struct step *step)
{
    for (uint32_t i = 0; i < step->self->options.replica_count; i++)
        if (!is_self(step->self, i) && !step->self->followers[i].probing)
            feed(step, i);
}

/* A leader's ballot opens with a no-op behind the suffix: an index that nobody holds anything chosen at, so that
 * whoever acknowledges it has stored it, and with it `opened`. (At the end of the suffix it would not do: a follower
 * that knows that entry to be chosen stores nothing, and the next leader might hear of this ballot from nobody, and
 * bring back what this one has closed time over.) A suffix may fill the window; then the no-op comes once there is
 * room, and proposals after it. */
static bool open_with_noop(struct step *step)
{
    struct paxos *self = step->self;
    if (self->last >= self->opened || paxos__index_max(self) < self->opened)
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

static void commit(struct step *step)
{
    struct paxos *self = step->self;
    uint64_t reached[PAXOS_REPLICAS_MAX] = {0};
    for (uint32_t i = 0; i < self->options.replica_count; i++) {
        if (is_self(self, i))
            reached[i] = self->match_durable;
        else if (self->followers[i].acknowledged && !self->followers[i].learner)
            reached[i] = self->followers[i].match;
    }
    /* Everything above the old stable index was proposed again under this ballot, so counting replicas is enough. */
    paxos__stable(step, quorum_reached(reached, self->options.replica_count));
    if (open_with_noop(step))
        feed_all(step);
    if (!self->leading && self->stable >= self->opened) {
        self->leading = true;
        paxos__effect(step, PAXOS_EFFECT_LEADING)->ballot = self->ballot;
    }
}

/* Adopting index by index can bring back, behind the log of a later leader, a value of an earlier one that was never
 * chosen; it would come with a time that the later one may have closed already. So each entry carries `opened`: the
 * highest ballot known to begin its log at or before it. A leader's log begins where the suffix that its phase 1 found
 * ends, and that quorum held nothing beyond; so behind an entry opened by ballot b, a value of a ballot below b was not
 * chosen, and the log ends before it. Whatever was chosen is kept: had it been, that phase 1 would have found it. */
static void cut_what_was_not_chosen(struct paxos *self)
{
    uint64_t opened = self->opened_seen > self->stable_opened ? self->opened_seen : self->stable_opened;
    uint64_t time = self->stable_time;
    for (uint64_t index = self->stable + 1; index <= self->last; index++) {
        const struct paxos_slot *slot = paxos__slot(self, index);
        /* Times rise in every leader's log, so one that falls is another sign of the same. */
        if (slot->ballot < opened || slot->time <= time) {
            self->last = index - 1;
            return;
        }
        opened = slot->opened > opened ? slot->opened : opened;
        time = slot->time;
    }
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
    cut_what_was_not_chosen(self);
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
    for (uint32_t i = 0; i < self->options.replica_count; i++) {
        struct paxos_follower *follower = &self->followers[i];
        memset(follower, 0, sizeof(*follower));
        follower->next = self->stable + 1;
        follower->probing = true;
        if (!is_self(self, i))
            feed(step, i);
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
        time = event->proposals[i].time;
    }
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
                                                               .sequence = effect->sequence};
        paxos__note_time(self, proposal->time);
    }
    self->match = self->last;
    (void)paxos__advance_durable(self);
    feed_all(step);
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
    bool newcomer = message->incarnation != follower->incarnation;
    if (newcomer && self->options.memory_only)
        follower->match = follower->received = 0; /* its memory went with its process */
    if (newcomer)
        follower->defections = 0;
    follower->incarnation = message->incarnation;
    follower->acknowledged = true;
    follower->learner = message->learner;
    follower->stable = newcomer || message->stable > follower->stable ? message->stable : follower->stable;
    if (message->defections > follower->defections)
        follower->defections = message->defections;
    if (message->incarnation == peer->incarnation && message->defections > peer->their_defections)
        peer->their_defections = message->defections;
    uint64_t persisted = message->persisted < self->last ? message->persisted : self->last;
    if (persisted > follower->match)
        follower->match = persisted;
    if (message->received > follower->received)
        follower->received = message->received < self->last ? message->received : self->last;
}

void leader__accepted(struct step *step, const struct paxos_message *message)
{
    struct paxos *self = step->self;
    if (self->role != PAXOS_LEADER || message->ballot != self->ballot)
        return;
    uint32_t replica = paxos__replica(self, message->from);
    struct paxos_follower *follower = &self->followers[replica];
    note_acknowledgement(self, follower, message);
    follower->unanswered = 0;
    if (follower->match >= follower->next)
        follower->next = follower->match + 1;
    if (follower->probing || !message->granted) {
        /* It says where it stands: go on from there. */
        uint64_t next = (message->received < self->last ? message->received : self->last) + 1;
        if (follower->probing || next < follower->next)
            follower->next = next > follower->match ? next : follower->match + 1;
        follower->probing = false;
    }
    commit(step);
    feed(step, replica);
}

/* Must this follower be spoken to? It lacks entries, or its word for our ballot is not that of the process that speaks
 * for it now. */
static bool wanting(const struct paxos *self, uint32_t replica)
{
    const struct paxos_follower *follower = &self->followers[replica];
    const struct pairs_peer *peer = &self->pairs->peers[self->options.replicas[replica]];
    return !follower->acknowledged || follower->match < self->last || follower->stable < self->stable ||
           follower->learner ||
           (peer->incarnation != 0 &&
            (follower->incarnation != peer->incarnation || follower->defections != peer->their_defections));
}

/* Ever more seldom where no answer comes, and not at all to a node that is not heard: its next beat brings this up
 * again. */
static uint64_t resend_at(const struct paxos *self, uint32_t replica)
{
    const struct paxos_follower *follower = &self->followers[replica];
    if (follower->unanswered == UNANSWERED_MAX && self->pairs->peers[self->options.replicas[replica]].silent)
        return UINT64_MAX;
    return follower->sent_ns + (self->options.resend_ns << follower->unanswered);
}

void leader__tick(struct step *step)
{
    struct paxos *self = step->self;
    uint32_t heard = 0;
    for (uint32_t i = 0; i < self->options.replica_count; i++)
        heard += is_self(self, i) || pairs_alive(self->pairs, self->options.replicas[i], 0, step->now);
    if (heard >= quorum_size(self->options.replica_count)) {
        self->quorum_lost_ns = 0;
    } else if (self->quorum_lost_ns == 0) {
        self->quorum_lost_ns = step->now;
    } else if (step->now - self->quorum_lost_ns >= self->options.election_ns) {
        election__step_down(step, 0); /* check-quorum: nobody waits for a leader that reaches nobody */
        return;
    }
    for (uint32_t i = 0; i < self->options.replica_count; i++) {
        struct paxos_follower *follower = &self->followers[i];
        if (is_self(self, i))
            continue;
        bool lacking = wanting(self, i);
        if (lacking && step->now >= resend_at(self, i)) {
            /* Lost, or not yet answered: ask where it stands; its answer sets next right. Who does not answer is sent
             * no values. */
            bool first = !follower->probing;
            if (first)
                follower->next = follower->match + 1;
            follower->probing = true;
            follower->unanswered += follower->unanswered < UNANSWERED_MAX;
            accept(step, i, first);
        } else if (follower->sent_stable < self->stable && step->now - follower->sent_ns >= STABLE_NEWS_NS) {
            accept(step, i, false);
        }
    }
}

uint64_t leader__next_tick(const struct paxos *self)
{
    uint64_t next = self->quorum_lost_ns == 0 ? UINT64_MAX : self->quorum_lost_ns + self->options.election_ns;
    for (uint32_t i = 0; i < self->options.replica_count; i++) {
        const struct paxos_follower *follower = &self->followers[i];
        uint64_t due = UINT64_MAX;
        if (is_self(self, i))
            continue;
        if (wanting(self, i))
            due = resend_at(self, i);
        if (follower->sent_stable < self->stable && follower->sent_ns + STABLE_NEWS_NS < due)
            due = follower->sent_ns + STABLE_NEWS_NS;
        if (due < next)
            next = due;
    }
    return next;
}

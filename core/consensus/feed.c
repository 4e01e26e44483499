/* Feeding: what a leader sends to each follower, when, and how much of it at a time.
 *
 * What is not chosen yet goes out at once, as far ahead of the acknowledgements as the window and a bound on bytes
 * allow. A follower that stands at or before the stable index lacks what nobody waits for: it is fed in pages, each
 * after the one before was received, at the pace that all groups of the node share, so that one that comes back does
 * not slow the others; only where no quorum is to be had without it, it is in a hurry. */
#include <string.h>

#include "core/consensus/paxos__.h"

#define STABLE_NEWS_NS   (5 * UINT64_C(1000000)) /* an idle follower hears of a new stable index after this */
#define UNANSWERED_MAX   4u
#define CATCH_UP_ENTRIES 512u                      /* ahead of its acknowledgement, for a follower that is behind */
#define URGENT_NS        (100 * UINT64_C(1000000)) /* entries have waited so long for a quorum: pace no more */

/* One ACCEPT from follower->next on; without entries it is a probe that tells stable index and closed time. */
void feed__accept(struct step *step, uint16_t node, bool with_entries)
{
    struct paxos *self = step->self;
    struct paxos_follower *follower = &self->followers[node];
    struct paxos_message *message = paxos__send(step, node, PAXOS_ACCEPT, self->ballot);
    uint64_t bytes = 0;
    message->first = follower->next;
    message->closed_time = self->closed_time;
    message->closed_index = self->closed_index;
    message->read = self->read_sequence;
    message->lost = follower->lost;
    /* It takes no more than a window; what it had to leave would be waited for until it is sent again. */
    uint64_t end = follower->next + self->options.window;
    end = end <= self->last ? end : self->last + 1;
    for (uint64_t index = follower->next;
         with_entries && index < end && message->entry_count < PAXOS_MESSAGE_ENTRIES_MAX; index++) {
        struct paxos_message_entry entry = {.ballot = self->ballot};
        if (index > self->stable)
            entry = paxos__told(self, index, self->ballot);
        bytes += entry.size;
        if (message->entry_count > 0 && bytes > PAXOS_MESSAGE_BYTES_MAX)
            break;
        message->entries[message->entry_count++] = entry;
    }
    if (message->entry_count > 0)
        follower->paging = follower->next <= self->stable;
    follower->next += message->entry_count;
    follower->flight_bytes += bytes;
    follower->sent_stable = self->stable;
    follower->sent_ns = step->now;
}

void paxos_fed(struct paxos *self, uint16_t node, uint64_t first, uint32_t count, uint64_t bytes)
{
    struct paxos_follower *follower = &self->followers[node];
    if (self->role != PAXOS_LEADER || !follower->paging)
        return;
    follower->flight_bytes += bytes;
    if (count > 0 && follower->next > first + count && first + count > follower->match)
        follower->next = first + count;
}

static bool lags(const struct paxos *self, const struct paxos_follower *follower)
{
    return follower->next <= self->stable;
}

static bool in_flight(const struct paxos_follower *follower)
{
    return follower->match + 1 < follower->next;
}

/* When a page of what is chosen may go to this follower. */
static uint64_t turn_at(const struct paxos *self, uint16_t node)
{
    if (self->options.pace == NULL || self->transfer_to == node)
        return 0;
    uint64_t due = self->options.pace->due_ns, urgent = self->waiting_ns + URGENT_NS + 1;
    return self->last > self->stable && urgent < due ? urgent : due;
}

/* What it lacks can't be fed, or there is so much of it that a snapshot is the shorter way. */
static bool snapshot_due(const struct paxos *self, const struct paxos_follower *follower)
{
    if (follower->next <= self->compacted)
        return true;
    return self->options.behind_max != 0 && follower->match < self->stable &&
           self->stable - follower->match > self->options.behind_max;
}

/* A follower of whom nothing is known under this ballot. */
void feed__meet(struct paxos *self, uint16_t node)
{
    struct paxos_follower *follower = &self->followers[node];
    memset(follower, 0, sizeof(*follower));
    follower->next = self->stable + 1;
    follower->probing = true;
}

/* Learners come and go with what is wanted; one that was not fed until now begins with a question. */
void feed__meet_new(struct paxos *self, uint64_t audience)
{
    for (uint64_t rest = audience; rest != 0; rest &= rest - 1) {
        uint16_t node = (uint16_t)__builtin_ctzll(rest);
        if (self->followers[node].next == 0)
            feed__meet(self, node);
    }
}

/* Sends what the follower lacks, as far as its pace and one step's room for messages allow. */
void feed__node(struct step *step, uint16_t node)
{
    struct paxos *self = step->self;
    struct paxos_follower *follower = &self->followers[node];
    uint32_t most = PAXOS_EFFECT_MESSAGES_MAX / PAXOS_AUDIENCE_MAX;
    follower->paced = false;
    if (!in_flight(follower))
        follower->flight_bytes = 0;
    for (uint32_t i = 0; i < most && follower->next <= self->last && !follower->snapshot; i++) {
        bool behind = follower->match < self->stable && self->stable - follower->match > CATCH_UP_ENTRIES;
        if ((follower->probing && i > 0) || follower->paging)
            return;
        if (behind && follower->next > follower->match + CATCH_UP_ENTRIES)
            return;
        if (follower->next > follower->match + self->options.window)
            return;
        if (self->options.follower_bytes_max != 0 && follower->flight_bytes >= self->options.follower_bytes_max)
            return;
        if (follower->acknowledged && snapshot_due(self, follower)) {
            follower->snapshot = true;
            paxos__effect(step, PAXOS_EFFECT_SNAPSHOT)->node = node;
            return;
        }
        if (follower->acknowledged && lags(self, follower) && step->now < turn_at(self, node)) {
            follower->paced = true;
            return;
        }
        /* Where it stands is not known yet, and the guess lies before what can be fed: ask without values. */
        feed__accept(step, node, follower->next > self->compacted);
    }
}

void feed__all(struct step *step)
{
    uint64_t audience = members__audience(step->self);
    feed__meet_new(step->self, audience);
    for (uint64_t rest = audience; rest != 0; rest &= rest - 1) {
        uint16_t node = (uint16_t)__builtin_ctzll(rest);
        if (!step->self->followers[node].probing)
            feed__node(step, node);
    }
}

void feed__tell(struct step *step, uint16_t node)
{
    struct paxos *self = step->self;
    if (paxos_mask_count(members__audience(self)) >= PAXOS_AUDIENCE_MAX - 1)
        return;
    self->leaving |= paxos_mask(node);
    feed__meet(self, node);
    feed__node(step, node);
}

/* Must this follower be spoken to? It lacks entries, or its word for our ballot is not that of the process that speaks
 * for it now. */
static bool wanting(const struct paxos *self, uint16_t node)
{
    const struct paxos_follower *follower = &self->followers[node];
    const struct pairs_peer *peer = &self->pairs->peers[node];
    return !follower->acknowledged || follower->match < self->last || follower->stable < self->stable ||
           follower->learner || follower->read < self->read_sequence ||
           (peer->incarnation != 0 &&
            (follower->incarnation != peer->incarnation || follower->defections != peer->their_defections));
}

/* Ever more seldom where no answer comes, and not at all to a node that is not heard: its next beat brings this up
 * again. */
static uint64_t resend_at(const struct paxos *self, uint16_t node)
{
    const struct paxos_follower *follower = &self->followers[node];
    if (follower->unanswered == UNANSWERED_MAX && self->pairs->peers[node].silent)
        return UINT64_MAX;
    return follower->sent_ns + (self->options.resend_ns << follower->unanswered);
}

void feed__answered(struct paxos *self, const struct paxos_message *message)
{
    struct paxos_follower *follower = &self->followers[message->from];
    follower->unanswered = 0;
    if (follower->match >= follower->next)
        follower->next = follower->match + 1;
    if (follower->probing || !message->granted) {
        /* It says where it stands: go on from there. */
        uint64_t next = (message->received < self->last ? message->received : self->last) + 1;
        if (follower->probing || next < follower->next)
            follower->next = next > follower->match ? next : follower->match + 1;
        follower->probing = follower->paging = false;
    }
    if (message->received + 1 >= follower->next)
        follower->paging = false;
}

/* It waits for its turn, and nothing that was sent is unanswered. */
static bool waits_for_turn(const struct paxos_follower *follower)
{
    return follower->paced && !in_flight(follower);
}

void feed__tick(struct step *step)
{
    struct paxos *self = step->self;
    uint64_t audience = members__audience(self);
    feed__meet_new(self, audience);
    for (uint64_t rest = audience; rest != 0; rest &= rest - 1) {
        uint16_t node = (uint16_t)__builtin_ctzll(rest);
        struct paxos_follower *follower = &self->followers[node];
        bool waits = waits_for_turn(follower), lacking = wanting(self, node);
        if (waits && step->now >= turn_at(self, node)) {
            feed__node(step, node);
        } else if (lacking && !waits && step->now >= resend_at(self, node)) {
            /* Lost, or not yet answered: ask where it stands; its answer sets next right. Who does not answer is sent
             * no values, and who lags gets no page twice because a disk is slow. */
            bool first = !follower->probing && !follower->snapshot && follower->match >= self->stable;
            if (!follower->probing)
                follower->next = follower->match + 1;
            follower->probing = true;
            follower->flight_bytes = 0;
            follower->unanswered += follower->unanswered < UNANSWERED_MAX;
            feed__accept(step, node, first);
        } else if (follower->sent_stable < self->stable && step->now - follower->sent_ns >= STABLE_NEWS_NS) {
            feed__accept(step, node, false);
        }
    }
}

uint64_t feed__next_tick(const struct paxos *self)
{
    uint64_t next = UINT64_MAX;
    for (uint64_t rest = members__audience(self); rest != 0; rest &= rest - 1) {
        uint16_t node = (uint16_t)__builtin_ctzll(rest);
        const struct paxos_follower *follower = &self->followers[node];
        uint64_t due = UINT64_MAX;
        if (waits_for_turn(follower))
            due = turn_at(self, node);
        else if (wanting(self, node))
            due = resend_at(self, node);
        if (follower->sent_stable < self->stable && follower->sent_ns + STABLE_NEWS_NS < due)
            due = follower->sent_ns + STABLE_NEWS_NS;
        next = due < next ? due : next;
    }
    return next;
}

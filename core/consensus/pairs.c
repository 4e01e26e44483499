#include "core/consensus/pairs.h"

#include <string.h>

#include "core/base/panic.h"

static uint64_t lease_max(const struct pairs *self)
{
    return self->options.idle_lease_ns > self->options.lease_ns ? self->options.idle_lease_ns : self->options.lease_ns;
}

static bool busy(const struct pairs *self, uint64_t now_ns)
{
    return self->work_ns != 0 && now_ns - self->work_ns < self->options.idle_after_ns;
}

static struct pairs_effect *effect_add(struct pairs_effects *effects)
{
    ASSERT(effects->count < PAIRS_EFFECTS_MAX);
    struct pairs_effect *effect = &effects->items[effects->count++];
    memset(effect, 0, sizeof(*effect));
    return effect;
}

void pairs_init(struct pairs *self, const struct pairs_options *options, uint64_t now_ns, uint64_t ceilings_max)
{
    ASSERT(options->node > 0 && options->node < PAIRS_NODES_MAX && options->incarnation > 0);
    memset(self, 0, sizeof(*self));
    self->options = *options;
    self->started_ns = now_ns;
    self->ceiling_highest = ceilings_max;
    self->ceiling_wanted = 0;
}

void pairs_set_member(struct pairs *self, uint16_t node, bool member)
{
    ASSERT(node > 0 && node < PAIRS_NODES_MAX && node != self->options.node);
    if (self->peers[node].known == member)
        return;
    memset(&self->peers[node], 0, sizeof(self->peers[node]));
    self->peers[node].known = member;
}

static void beat(struct pairs *self, uint16_t node, uint64_t now_ns, uint64_t time, struct pairs_effects *effects)
{
    struct pairs_peer *peer = &self->peers[node];
    bool is_busy = busy(self, now_ns);
    struct pairs_effect *effect = effect_add(effects);
    effect->type = PAIRS_EFFECT_SEND;
    effect->node = node;
    effect->message = (struct pairs_message){
        .type = PAIRS_BEAT,
        .incarnation = self->options.incarnation,
        .peer_incarnation = peer->incarnation,
        .sent_ns = now_ns,
        .lease_ns = is_busy ? self->options.lease_ns : self->options.idle_lease_ns,
        .ceiling = self->ceiling_wanted,
        .time = time,
    };
    peer->next_beat_ns = now_ns + (is_busy ? self->options.beat_ns : self->options.idle_beat_ns);
}

static void acknowledge(struct pairs *self, uint16_t node, uint64_t sent_ns, uint64_t lease_ns, uint64_t time,
                        struct pairs_effects *effects)
{
    const struct pairs_peer *peer = &self->peers[node];
    struct pairs_effect *effect = effect_add(effects);
    effect->type = PAIRS_EFFECT_SEND;
    effect->node = node;
    effect->message = (struct pairs_message){
        .type = PAIRS_BEAT_ACK,
        .incarnation = self->options.incarnation,
        .peer_incarnation = peer->incarnation,
        .sent_ns = sent_ns,
        .lease_ns = lease_ns,
        .ceiling = peer->ceiling_durable,
        .defections = peer->defections,
        .time = time,
    };
}

void pairs_tick(struct pairs *self, uint64_t now_ns, uint64_t time, struct pairs_effects *effects, uint64_t *next_ns)
{
    uint64_t next = UINT64_MAX;
    if (self->ceiling_wanted > self->ceiling_own_pending) {
        struct pairs_effect *effect = effect_add(effects);
        effect->type = PAIRS_EFFECT_PERSIST_CEILING;
        effect->node = self->options.node;
        effect->ceiling = self->ceiling_wanted;
        effect->sequence = ++self->sequence;
        self->ceiling_own_pending = self->ceiling_wanted;
        self->ceiling_own_sequence = self->sequence;
        if (self->ceiling_wanted > self->ceiling_highest)
            self->ceiling_highest = self->ceiling_wanted;
    }
    for (uint16_t node = 1; node < PAIRS_NODES_MAX; node++) {
        struct pairs_peer *peer = &self->peers[node];
        if (!peer->known)
            continue;
        peer->silent = now_ns > peer->heard_ns + lease_max(self);
        if (now_ns >= peer->next_beat_ns)
            beat(self, node, now_ns, time, effects);
        if (peer->ceiling_news) {
            /* Says at once that a ceiling is durable, without a lease: its beat was answered before. */
            peer->ceiling_news = false;
            acknowledge(self, node, 0, 0, time, effects);
        }
        if (peer->next_beat_ns < next)
            next = peer->next_beat_ns;
    }
    *next_ns = next;
}

/* A peer's process began anew: what its former one was promised or promised has ended with it. */
static void meet(struct pairs_peer *peer, uint64_t incarnation)
{
    peer->incarnation = incarnation;
    peer->dead = false;
    peer->granted_until_ns = 0;
    peer->lease_until_ns = 0;
    peer->their_defections = 0;
    peer->their_ceiling = 0;
    peer->next_beat_ns = 0;
}

static void receive_beat(struct pairs *self, uint16_t from, const struct pairs_message *message, uint64_t now_ns,
                         uint64_t time, struct pairs_effects *effects)
{
    struct pairs_peer *peer = &self->peers[from];
    uint64_t lease = message->lease_ns > lease_max(self) ? lease_max(self) : message->lease_ns;
    if (peer->dead)
        lease = 0;
    if (now_ns + lease > peer->granted_until_ns)
        peer->granted_until_ns = now_ns + lease;
    if (message->ceiling > peer->ceiling_pending) {
        struct pairs_effect *effect = effect_add(effects);
        effect->type = PAIRS_EFFECT_PERSIST_CEILING;
        effect->node = from;
        effect->ceiling = message->ceiling;
        effect->sequence = ++self->sequence;
        peer->ceiling_pending = message->ceiling;
        peer->ceiling_sequence = self->sequence;
        if (message->ceiling > self->ceiling_highest)
            self->ceiling_highest = message->ceiling;
    }
    acknowledge(self, from, message->sent_ns, lease, time, effects);
}

static void receive_ack(struct pairs *self, uint16_t from, const struct pairs_message *message)
{
    struct pairs_peer *peer = &self->peers[from];
    if (message->peer_incarnation != self->options.incarnation)
        return;
    /* Counted from sending, and shortened by how much faster the voter's clock may run than ours. */
    uint64_t lease = message->lease_ns - message->lease_ns / 1000000 * self->options.drift_ppm;
    if (message->lease_ns > 0 && message->sent_ns + lease > peer->lease_until_ns)
        peer->lease_until_ns = message->sent_ns + lease;
    if (message->defections > peer->their_defections)
        peer->their_defections = message->defections;
    if (message->ceiling > peer->their_ceiling)
        peer->their_ceiling = message->ceiling;
}

enum sluice_status pairs_receive(struct pairs *self, uint16_t from, const struct pairs_message *message,
                                 uint64_t now_ns, uint64_t time, struct pairs_effects *effects)
{
    if (from == 0 || from >= PAIRS_NODES_MAX || !self->peers[from].known || message->incarnation == 0)
        return SLUICE_INVALID;
    if (message->type != PAIRS_BEAT && message->type != PAIRS_BEAT_ACK)
        return SLUICE_INVALID;
    if (message->type == PAIRS_BEAT_ACK && message->sent_ns > now_ns)
        return SLUICE_INVALID;
    struct pairs_peer *peer = &self->peers[from];
    if (message->incarnation < peer->incarnation)
        return SLUICE_OK; /* of a process that is no more */
    if (message->incarnation > peer->incarnation)
        meet(peer, message->incarnation);
    peer->suspected = false;
    peer->silent = false;
    peer->heard_ns = now_ns;
    if (message->type == PAIRS_BEAT)
        receive_beat(self, from, message, now_ns, time, effects);
    else
        receive_ack(self, from, message);
    return SLUICE_OK;
}

void pairs_persisted(struct pairs *self, uint64_t sequence)
{
    if (self->ceiling_own_sequence <= sequence)
        self->ceiling_own_durable = self->ceiling_own_pending;
    for (uint16_t node = 1; node < PAIRS_NODES_MAX; node++) {
        struct pairs_peer *peer = &self->peers[node];
        if (peer->known && peer->ceiling_sequence <= sequence && peer->ceiling_durable < peer->ceiling_pending) {
            peer->ceiling_durable = peer->ceiling_pending;
            peer->ceiling_news = true;
        }
    }
}

void pairs_peer_down(struct pairs *self, uint16_t node, uint64_t incarnation, bool proof)
{
    if (node == 0 || node >= PAIRS_NODES_MAX || !self->peers[node].known)
        return;
    struct pairs_peer *peer = &self->peers[node];
    if (incarnation < peer->incarnation)
        return; /* another process has followed it, which holds grants of its own */
    if (incarnation > peer->incarnation)
        meet(peer, incarnation);
    peer->suspected = true;
    if (proof) {
        peer->dead = true;
        peer->granted_until_ns = 0;
    }
}

void pairs_work(struct pairs *self, uint64_t now_ns)
{
    bool was_busy = busy(self, now_ns);
    self->work_ns = now_ns;
    if (was_busy)
        return;
    for (uint16_t node = 1; node < PAIRS_NODES_MAX; node++)
        self->peers[node].next_beat_ns = 0;
}

void pairs_want_ceiling(struct pairs *self, uint64_t time, uint64_t wall)
{
    uint64_t span = self->options.ceiling_ahead_ns, most = wall + span;
    /* Half of the span is slack: as long as that is left nothing needs to be written. */
    if (time <= self->ceiling_wanted && wall + span / 2 <= self->ceiling_wanted)
        return;
    /* What can't be reached yet is approached in steps, each of which is written. */
    if (most <= self->ceiling_wanted || (most < time && most - self->ceiling_wanted < span / 8))
        return;
    self->ceiling_wanted = most;
    for (uint16_t node = 1; node < PAIRS_NODES_MAX; node++)
        self->peers[node].next_beat_ns = 0;
}

bool pairs_grant_runs(const struct pairs *self, uint16_t holder, uint64_t now_ns)
{
    if (holder == 0 || holder >= PAIRS_NODES_MAX || holder == self->options.node)
        return false;
    const struct pairs_peer *peer = &self->peers[holder];
    if (peer->dead)
        return false;
    return now_ns < peer->granted_until_ns;
}

bool pairs_fresh(const struct pairs *self, uint64_t now_ns)
{
    return now_ns < self->started_ns + lease_max(self);
}

bool pairs_alive(const struct pairs *self, uint16_t node, uint64_t incarnation, uint64_t now_ns)
{
    if (node == self->options.node)
        return incarnation == 0 || incarnation == self->options.incarnation;
    if (node == 0 || node >= PAIRS_NODES_MAX)
        return false;
    const struct pairs_peer *peer = &self->peers[node];
    return peer->known && !peer->dead && !peer->suspected && now_ns < peer->granted_until_ns &&
           (incarnation == 0 || incarnation == peer->incarnation);
}

void pairs_defect(struct pairs *self, uint16_t holder)
{
    if (holder > 0 && holder < PAIRS_NODES_MAX && holder != self->options.node)
        self->peers[holder].defections++;
}

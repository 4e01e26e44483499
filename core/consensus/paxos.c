#include "core/consensus/paxos.h"

#include <stddef.h>
#include <string.h>

#include "core/consensus/paxos__.h"

struct paxos_slot *paxos__slot(const struct paxos *self, uint64_t index)
{
    return &self->slots[index & (self->options.window - 1)];
}

struct paxos_message_entry paxos__told(const struct paxos *self, uint64_t index, uint64_t ballot)
{
    const struct paxos_slot *slot = paxos__slot(self, index);
    return (struct paxos_message_entry){.ballot = ballot,
                                        .time = slot->time,
                                        .opened = slot->opened,
                                        .members = slot->members,
                                        .members_instance = slot->members_instance,
                                        .size = slot->size,
                                        .flags = slot->flags};
}

struct paxos_effect *paxos__effect(struct step *step, enum paxos_effect_type type)
{
    ASSERT(step->effects->count < PAXOS_EFFECTS_MAX);
    struct paxos_effect *effect = &step->effects->items[step->effects->count++];
    memset(effect, 0, sizeof(*effect));
    effect->type = type;
    return effect;
}

struct paxos_message *paxos__send(struct step *step, uint16_t node, enum paxos_message_type type, uint64_t ballot)
{
    struct paxos *self = step->self;
    ASSERT(step->effects->message_count < PAXOS_EFFECT_MESSAGES_MAX);
    struct paxos_effect *effect = paxos__effect(step, PAXOS_EFFECT_SEND);
    effect->node = node;
    effect->message = step->effects->message_count++;
    struct paxos_message *message = &step->effects->messages[effect->message];
    memset(message, 0, offsetof(struct paxos_message, entries));
    message->type = (uint8_t)type;
    message->from = self->options.node;
    message->epoch = self->options.epoch;
    message->ballot = ballot;
    message->last = self->last;
    message->stable = self->stable;
    message->incarnation = self->pairs->options.incarnation;
    message->instance = self->options.instance;
    message->since = self->options.since;
    message->whole_from = self->options.amnesiac ? self->options.whole_from : 0;
    message->peer_incarnation = self->pairs->peers[node].incarnation;
    return message;
}

uint64_t paxos__opened(const struct paxos *self, uint64_t index, uint64_t opened)
{
    /* It speaks of ballots, not of the value: what was known here stays true when another value comes. */
    uint64_t known = index <= self->last && index > self->stable ? paxos__slot(self, index)->opened : 0;
    return known > opened ? known : opened;
}

uint64_t paxos__random(struct paxos *self, uint64_t bound)
{
    /* xorshift64: enough to keep rivals apart, and repeatable. */
    self->random ^= self->random << 13;
    self->random ^= self->random >> 7;
    self->random ^= self->random << 17;
    return bound == 0 ? 0 : self->random % bound;
}

void paxos__note_time(struct paxos *self, uint64_t time)
{
    if (time > self->last_time)
        self->last_time = time;
    if (time > self->time_floor)
        self->time_floor = time;
}

void paxos__stable(struct step *step, uint64_t index)
{
    struct paxos *self = step->self;
    ASSERT(index <= self->last && index <= self->match);
    if (index <= self->stable)
        return;
    uint64_t first = self->stable + 1;
    struct paxos_effects *effects = step->effects;
    if (effects->count == 0 || effects->items[effects->count - 1].type != PAXOS_EFFECT_STABLE)
        (void)paxos__effect(step, PAXOS_EFFECT_STABLE);
    effects->items[effects->count - 1].first = index;
    for (uint64_t i = first; i <= index; i++) {
        self->stable = i;
        if (paxos__slot(self, i)->members != 0)
            members__stable(step, i);
    }
    self->waiting_ns = step->now;
    self->stable_time = paxos__slot(self, index)->time;
    if (paxos__slot(self, index)->opened > self->stable_opened)
        self->stable_opened = paxos__slot(self, index)->opened;
}

bool paxos__advance_durable(struct paxos *self)
{
    uint64_t before = self->match_durable;
    if (self->options.memory_only) {
        self->match_durable = self->match;
        return self->match_durable != before;
    }
    while (self->match_durable < self->match &&
           paxos__slot(self, self->match_durable + 1)->sequence <= self->sequence_durable)
        self->match_durable++;
    return self->match_durable != before;
}

uint64_t paxos__index_max(const struct paxos *self)
{
    uint64_t low = self->match_durable < self->stable ? self->match_durable : self->stable;
    return low + self->options.window;
}

enum sluice_status paxos_init(struct paxos *self, const struct paxos_options *options, struct pairs *pairs,
                              struct paxos_slot *slots, const struct paxos_recovered *recovered, uint64_t now_ns)
{
    memset(self, 0, sizeof(*self));
    bool power = options->window >= 2 && (options->window & (options->window - 1)) == 0;
    if (options->node == 0 || options->node >= PAXOS_NODES_MAX || options->replica_count > PAXOS_REPLICAS_MAX ||
        !power || recovered->stable > recovered->last || recovered->last - recovered->stable > options->window)
        return SLUICE_INVALID;
    self->options = *options;
    if (self->options.instance == 0)
        self->options.instance = pairs->options.incarnation << PAXOS_INSTANCE_BITS;
    if (self->options.whole_from == 0)
        self->options.whole_from = self->options.instance;
    self->pairs = pairs;
    self->slots = slots;
    self->members = recovered->members;
    if (self->members.voters == 0)
        for (uint32_t i = 0; i < options->replica_count; i++) {
            if (options->replicas[i] == 0 || options->replicas[i] >= PAXOS_NODES_MAX)
                return SLUICE_INVALID;
            self->members.voters |= paxos_mask(options->replicas[i]);
        }
    self->compacted = recovered->compacted;
    self->promised = self->promised_durable = recovered->promised;
    self->highest_seen = recovered->promised;
    self->heard_now_ns = now_ns;
    self->stable = recovered->stable;
    self->last = recovered->last;
    self->match = self->match_durable = recovered->stable;
    self->stable_time = recovered->stable_time;
    self->stable_opened = recovered->stable_opened;
    paxos__note_time(self, recovered->stable_time);
    self->random = options->seed | 1;
    bool first = recovered->promised == 0 && options->preferred == options->node;
    first = first || self->members.voters == paxos_mask(options->node);
    election__timer(self, now_ns, first ? 0 : options->election_ns);
    if (first)
        self->election_at_ns = now_ns;
    return SLUICE_OK;
}

void paxos_recover_slot(struct paxos *self, uint64_t index, const struct paxos_slot *slot)
{
    ASSERT(index > self->stable && index <= self->last);
    *paxos__slot(self, index) = *slot;
    paxos__slot(self, index)->sequence = 0;
    members__note(self, index);
    if (slot->time > self->last_time)
        paxos__note_time(self, slot->time);
}

/* What no correct replica of this group sends. */
static bool message_possible(const struct paxos *self, const struct paxos_message *message)
{
    /* From any node of the cluster: whoever lags does not know all members yet. */
    if (message->from == 0 || message->from >= PAXOS_NODES_MAX || message->from == self->options.node)
        return false;
    if (message->entry_count > PAXOS_MESSAGE_ENTRIES_MAX || message->ballot == UINT64_MAX ||
        message->incarnation == 0 || message->instance >> PAXOS_INSTANCE_BITS != message->incarnation)
        return false;
    if (message->first > UINT64_MAX - PAXOS_MESSAGE_ENTRIES_MAX)
        return false;
    for (uint32_t i = 0; i < message->entry_count; i++)
        if (message->entries[i].members != 0 && !members__possible(message->entries[i].members))
            return false;
    switch (message->type) {
    case PAXOS_PREVOTE:
    case PAXOS_PREPARE:
    case PAXOS_TRANSFER:
        return paxos_ballot_node(message->ballot) == message->from && message->entry_count == 0;
    case PAXOS_ACCEPT:
        for (uint32_t i = 0; i < message->entry_count; i++)
            if (message->entries[i].ballot != message->ballot)
                return false;
        return paxos_ballot_node(message->ballot) == message->from && message->first > 0;
    case PAXOS_PROMISE:
        for (uint32_t i = 0; i < message->entry_count; i++)
            /* Equal where a PREPARE came twice, and entries of the ballot between. */
            if (message->entries[i].ballot > message->ballot && message->entries[i].ballot != UINT64_MAX)
                return false;
        return message->first > 0 && paxos_ballot_node(message->ballot) == self->options.node;
    case PAXOS_ACCEPTED:
        return paxos_ballot_node(message->ballot) == self->options.node && message->persisted <= message->received;
    case PAXOS_PREVOTE_REPLY:
    case PAXOS_REJECT:
        return message->entry_count == 0;
    default:
        return false;
    }
}

static enum sluice_status receive(struct step *step)
{
    struct paxos *self = step->self;
    const struct paxos_message *message = step->event->message;
    if (message->epoch != self->options.epoch)
        return SLUICE_OK;
    if (!message_possible(self, message))
        return SLUICE_INVALID;
    if (message->incarnation < self->pairs->peers[message->from].incarnation)
        return SLUICE_OK; /* of a process that is no more */
    if (message->ballot > self->highest_seen)
        self->highest_seen = message->ballot;
    switch (message->type) {
    case PAXOS_PREVOTE:
        election__prevote(step, message);
        break;
    case PAXOS_PREVOTE_REPLY:
        election__prevote_reply(step, message);
        break;
    case PAXOS_PREPARE:
        election__prepare(step, message);
        break;
    case PAXOS_PROMISE:
        election__promise(step, message);
        break;
    case PAXOS_ACCEPT:
        follower__accept(step, message);
        break;
    case PAXOS_ACCEPTED:
        leader__accepted(step, message);
        break;
    case PAXOS_TRANSFER:
        handover__take(step, message);
        break;
    default:
        follower__disclaimed(step, message);
        if (message->ballot > self->ballot && self->role != PAXOS_FOLLOWER)
            election__step_down(step);
        break;
    }
    return SLUICE_OK;
}

enum sluice_status paxos_step(struct paxos *self, const struct paxos_event *event, struct paxos_effects *effects)
{
    struct step step = {.self = self, .event = event, .effects = effects, .now = event->now_ns};
    effects->count = 0;
    effects->message_count = 0;
    self->heard_now_ns = event->now_ns;
    switch (event->type) {
    case PAXOS_EVENT_TICK:
        if (self->role == PAXOS_LEADER)
            leader__tick(&step);
        else
            election__tick(&step);
        return SLUICE_OK;
    case PAXOS_EVENT_MESSAGE:
        return receive(&step);
    case PAXOS_EVENT_PROPOSE:
        return leader__propose(&step);
    case PAXOS_EVENT_PERSISTED:
        if (event->sequence > self->sequence_durable)
            self->sequence_durable = event->sequence;
        election__persisted(&step);
        if (self->role == PAXOS_LEADER)
            leader__persisted(&step);
        else
            follower__persisted(&step);
        return SLUICE_OK;
    case PAXOS_EVENT_CAMPAIGN:
        if (self->role == PAXOS_FOLLOWER && !self->options.amnesiac)
            election__start(&step);
        return SLUICE_OK;
    case PAXOS_EVENT_ADMIT:
        if (self->options.memory_only)
            election__admit(&step);
        return SLUICE_OK;
    case PAXOS_EVENT_TRANSFER:
        return handover__begin(&step);
    case PAXOS_EVENT_READ:
        return leader__read(&step);
    case PAXOS_EVENT_COMPACT:
        if (event->index + self->options.window > self->stable)
            return SLUICE_INVALID;
        if (event->index > self->compacted)
            self->compacted = event->index;
        return SLUICE_OK;
    case PAXOS_EVENT_SNAPSHOT_ENDED:
        if (event->node == 0 || event->node >= PAXOS_NODES_MAX)
            return SLUICE_INVALID;
        self->followers[event->node].snapshot = false;
        return SLUICE_OK;
    case PAXOS_EVENT_INSTALLED:
        return follower__installed(&step);
    }
    return SLUICE_INVALID;
}

uint64_t paxos_next_tick_ns(const struct paxos *self)
{
    if (self->role == PAXOS_LEADER)
        return leader__next_tick(self);
    return self->election_at_ns == 0 ? UINT64_MAX : self->election_at_ns;
}

/* Does the voter's latest word still speak of our ballot? See pairs.h. */
static bool counts(const struct paxos *self, uint16_t node)
{
    const struct paxos_follower *follower = &self->followers[node];
    const struct pairs_peer *peer = &self->pairs->peers[node];
    return leader__counts(self, node) && follower->incarnation == peer->incarnation &&
           follower->defections == peer->their_defections;
}

bool paxos_lease_valid(const struct paxos *self, uint64_t now_ns)
{
    uint64_t held = paxos_mask(self->options.node);
    /* Whoever hears that the leader was removed may vote for another at once. */
    if (self->role != PAXOS_LEADER || !self->leading || !members__votes(self, self->options.node))
        return false;
    for (uint64_t rest = self->members.voters & ~held; rest != 0; rest &= rest - 1) {
        uint16_t node = (uint16_t)__builtin_ctzll(rest);
        if (counts(self, node) && now_ns < self->pairs->peers[node].lease_until_ns)
            held |= paxos_mask(node);
    }
    return members__quorum(self->members.voters, held);
}

uint64_t paxos_time_floor(const struct paxos *self)
{
    return self->time_floor;
}

uint64_t paxos_close_time(struct paxos *self, uint64_t time)
{
    uint64_t ceilings[PAXOS_NODES_MAX] = {0};
    if (self->role != PAXOS_LEADER || !self->leading)
        return self->closed_time;
    for (uint64_t rest = self->members.voters; rest != 0; rest &= rest - 1) {
        uint16_t node = (uint16_t)__builtin_ctzll(rest);
        if (node == self->options.node)
            ceilings[node] = self->pairs->ceiling_own_durable;
        else if (counts(self, node))
            ceilings[node] = self->pairs->peers[node].their_ceiling;
    }
    uint64_t ceiling = members__reached(self, ceilings);
    uint64_t closable = time < ceiling ? time : ceiling;
    if (closable > self->closed_time) {
        self->closed_time = closable;
        self->closed_index = self->last;
        self->closed_ballot = self->ballot;
        if (closable > self->time_floor)
            self->time_floor = closable;
    }
    return self->closed_time;
}

uint32_t paxos_room(const struct paxos *self)
{
    if (self->role != PAXOS_LEADER || self->last < self->opened || self->transfer_to != 0 ||
        members__pending(self) != 0 || !members__votes(self, self->options.node))
        return 0;
    uint64_t max = paxos__index_max(self);
    return max > self->last ? (uint32_t)(max - self->last) : 0;
}

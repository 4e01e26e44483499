#include <stdlib.h>
#include <string.h>

#include "core/base/crc.h"
#include "core/shard/host__.h"

#define CAUGHT_UP_EVERY_NS (100 * NS_PER_MS)

static struct entry *slot(struct replica *self, uint64_t index)
{
    return &self->log[index & (self->host->options.window - 1)];
}

static struct host__pending *pending_slot(struct replica *self, uint64_t index)
{
    return &self->pending[index & (self->host->options.window - 1)];
}

enum sluice_status replica__entry(struct replica *self, uint64_t index, struct entry *out)
{
    if (index <= versions_applied(self->versions, NULL))
        return versions_entry(self->versions, index, out);
    const struct entry *held = slot(self, index);
    if (held->index != index)
        return SLUICE_NOT_FOUND;
    *out = *held;
    if (out->body != NULL)
        buf_ref(out->body);
    return SLUICE_OK;
}

static uint32_t body_size(const struct entry *entry)
{
    return entry->body == NULL ? 0 : entry->body->size;
}

static void place(struct replica *self, uint64_t index, struct entry *entry)
{
    struct entry *held = slot(self, index);
    host__load_drop(self, body_size(held));
    buf_unref(held->body);
    *held = *entry;
    host__load_add(self, body_size(held));
    entry->body = NULL;
}

static void persist_entry(struct replica *self, uint64_t index, uint64_t sequence)
{
    const struct wal_record record = {.type = WAL_ENTRY,
                                      .group = self->group,
                                      .epoch = self->epoch,
                                      .ballot = slot(self, index)->ballot,
                                      .entry = *slot(self, index)};
    enum sluice_status status = self->host->env.persist(self->host->env.arg, &record);
    if (status != SLUICE_OK)
        self->host->env.fatal(self->host->env.arg, status, "an entry could not be handed to the disk");
    self->persist_sequence = sequence;
    self->dirty = true;
    host__busy(self);
}

static void persist_promise(struct replica *self, uint64_t ballot, uint64_t sequence)
{
    const struct wal_record record = {
        .type = WAL_PROMISE, .group = self->group, .epoch = self->epoch, .ballot = ballot};
    enum sluice_status status = self->host->env.persist(self->host->env.arg, &record);
    if (status != SLUICE_OK)
        self->host->env.fatal(self->host->env.arg, status, "a promise could not be handed to the disk");
    self->persist_sequence = sequence;
    self->dirty = true;
    host__busy(self);
}

/* Values are taken from the event's entries in the order of their indexes; `ballot` is the one they are now accepted
 * under. */
static void effect_store(struct replica *self, const struct paxos_effect *effect, struct entry *entries)
{
    for (uint32_t i = 0; i < effect->count; i++) {
        struct entry *entry = &entries[effect->source + i];
        entry->index = effect->first + i;
        if (effect->ballot != 0)
            entry->ballot = effect->ballot;
        entry->opened = self->slots[entry->index & (self->host->options.window - 1)].opened;
        place(self, entry->index, entry);
        if (effect->sequence != 0 && !self->memory_only)
            persist_entry(self, effect->first + i, effect->sequence);
    }
}

/* Told with each message until it is admitted; the map group need not hear of it that often. */
static void effect_caught_up(struct replica *self)
{
    struct host *host = self->host;
    uint64_t now = host__now(host);
    if (self->caught_up_ns != 0 && now < self->caught_up_ns + CAUGHT_UP_EVERY_NS)
        return;
    self->caught_up_ns = now;
    host->env.caught_up(host->env.arg, self->group, self->epoch);
}

static void effect_store_noop(struct replica *self, const struct paxos_effect *effect)
{
    struct entry noop = {.index = effect->first,
                         .ballot = effect->ballot,
                         .time = self->paxos.last_time,
                         .epoch = self->epoch,
                         .opened = effect->ballot,
                         .group = self->group,
                         .kind = ENTRY_NOOP};
    hlc_merge(&self->host->clock, noop.time);
    place(self, effect->first, &noop);
    if (effect->sequence != 0 && !self->memory_only)
        persist_entry(self, effect->first, effect->sequence);
}

static void effect_rewrite(struct replica *self, const struct paxos_effect *effect)
{
    for (uint64_t index = effect->first; index < effect->first + effect->count; index++) {
        slot(self, index)->ballot = effect->ballot;
        slot(self, index)->opened = self->slots[index & (self->host->options.window - 1)].opened;
        if (effect->sequence != 0 && !self->memory_only)
            persist_entry(self, index, effect->sequence);
    }
}

/* Sends one consensus message with its values. What lies at or below the stable index comes from the store. */
static void effect_send(struct replica *self, uint16_t node, const struct paxos_message *message)
{
    static const uint8_t padding[8];
    struct peer_header header = {.kind = PEER_PAXOS, .group = self->group};
    struct peer_paxos body;
    struct slice parts[2 + 3 * PAXOS_MESSAGE_ENTRIES_MAX];
    struct entry_header headers[PAXOS_MESSAGE_ENTRIES_MAX];
    struct entry entries[PAXOS_MESSAGE_ENTRIES_MAX];
    unsigned count = 2;
    uint32_t gathered = 0;
    uint64_t bytes = 0, began = 0;
    bool chosen = message->entry_count > 0 && message->first <= self->paxos.stable;
    if (chosen)
        began = host__now(self->host);
    peer_paxos_write(message, &body);
    for (; gathered < message->entry_count; gathered++) {
        struct entry *entry = &entries[gathered];
        enum sluice_status status = replica__entry(self, message->first + gathered, entry);
        if (status != SLUICE_OK) {
            if (status == SLUICE_CORRUPT)
                (void)repair__want(self, message->first + gathered);
            LOG_WARN("shard", "group=%u cannot send revision %llu to node %u: %s", self->group,
                     (unsigned long long)(message->first + gathered), node, sluice_status_text(status));
            break;
        }
        /* Consensus does not know the sizes of what is stable; a page that is cut short is still a true page. */
        uint32_t size = body_size(entry);
        bytes += size;
        if (gathered > 0 && bytes > PAXOS_MESSAGE_BYTES_MAX) {
            bytes -= size;
            buf_unref(entry->body);
            break;
        }
        entry->ballot = message->entries[gathered].ballot;
        entry_header_write(entry, &headers[gathered]);
        parts[count++] = (struct slice){&headers[gathered], sizeof(headers[gathered])};
        if (entry->body != NULL) {
            parts[count++] = (struct slice){entry->body->data, entry->body->size};
            size_t rest = wire_pad(entry->body->size) - entry->body->size;
            if (rest != 0)
                parts[count++] = (struct slice){padding, rest};
        }
    }
    body.entry_count = gathered;
    parts[1] = (struct slice){&body, sizeof(body)};
    /* A message that lost its first value says nothing. */
    if (gathered > 0 || message->entry_count == 0)
        peers__send(self->host, node, &header, parts, count);
    if (chosen) {
        paxos_fed(&self->paxos, node, message->first, gathered, bytes);
        host__pace(self->host, began, bytes, gathered);
    }
    for (uint32_t i = 0; i < gathered; i++)
        buf_unref(entries[i].body);
}

void replica__forget_until(struct replica *self, uint64_t index)
{
    for (uint32_t i = 0; i < self->host->options.window; i++)
        if (self->log[i].index != 0 && self->log[i].index <= index) {
            host__load_drop(self, body_size(&self->log[i]));
            buf_unref(self->log[i].body);
            self->log[i] = (struct entry){0};
        }
}

static void answer_pending(struct replica *self, const struct entry *entry, const struct machine_outcome *outcome,
                           char *reply)
{
    struct host__pending *who = pending_slot(self, entry->index);
    if (who->type != 0) {
        struct host__pending copy = *who;
        who->type = 0;
        /* Another leader's value may have taken the place of ours: then ours is not this one. */
        if (self->paxos.role == PAXOS_LEADER)
            serve__written(self, &copy, entry, outcome, reply);
        else
            serve__lost(self, &copy);
    }
}

#define MEMBERS_FACT "V"
#define OPENED_FACT  "O"

static bool is_named(struct slice name, const char *letter)
{
    return name.size == 1 && memcmp(name.data, letter, 1) == 0;
}

static void find_own(void *arg, struct slice name, struct slice value)
{
    struct replica *self = arg;
    if (is_named(name, MEMBERS_FACT) && value.size == sizeof(self->members))
        memcpy(&self->members, value.data, sizeof(self->members));
    if (is_named(name, OPENED_FACT) && value.size == sizeof(self->opened))
        memcpy(&self->opened, value.data, sizeof(self->opened));
}

struct versions_fact replica__members_fact(const struct replica *self)
{
    return (struct versions_fact){.name = {MEMBERS_FACT, 1}, .value = {&self->members, sizeof(self->members)}};
}

struct versions_fact replica__opened_fact(const struct host__opened *opened)
{
    return (struct versions_fact){.name = {OPENED_FACT, 1}, .value = {opened, sizeof(*opened)}};
}

bool replica__is_members_fact(struct slice name)
{
    return is_named(name, MEMBERS_FACT);
}

bool replica__is_own_fact(struct slice name)
{
    return is_named(name, MEMBERS_FACT) || is_named(name, OPENED_FACT);
}

enum sluice_status replica__load_facts(struct replica *self)
{
    return versions_facts(self->versions, find_own, self);
}

enum sluice_status replica__members_apply(struct versions *versions, struct paxos_members *members,
                                          const struct entry *entry)
{
    struct entry_members change;
    if (!peer_members(entry, &change))
        return SLUICE_CORRUPT;
    paxos_members_apply(members, change.voters, change.instance, entry->index);
    const struct versions_fact fact = {.name = {MEMBERS_FACT, 1}, .value = {members, sizeof(*members)}};
    return versions_apply(versions, entry, NULL, 0, &fact, 1);
}

enum sluice_status replica__apply(struct replica *self, const struct entry *entry, struct machine_outcome *outcome,
                                  char **reply)
{
    struct host *host = self->host;
    if (entry->kind == ENTRY_MEMBERS)
        return replica__members_apply(self->versions, &self->members, entry);
    if (self->machine != NULL)
        return machine_apply(self->machine, entry, outcome);
    return host->env.map_apply(host->env.arg, entry, self->versions, outcome, reply);
}

static bool compaction_due(const struct replica *self)
{
    uint64_t tail = self->host->options.compact_tail;
    return self->paxos.stable > self->compacted + tail + tail / 4;
}

static void effect_stable(struct replica *self, uint64_t stable)
{
    struct host *host = self->host;
    uint64_t drained = 0;
    for (uint64_t index = versions_applied(self->versions, NULL) + 1; index <= stable; index++) {
        struct entry *entry = slot(self, index);
        ASSERT(entry->index == index);
        struct machine_outcome outcome = {
            .status = SLUICE_OK, .revision = index, .time = entry->time, .detail = "success"};
        char *reply = NULL;
        hlc_merge(&host->clock, entry->time);
        enum sluice_status status = replica__apply(self, entry, &outcome, &reply);
        if (status != SLUICE_OK) {
            free(reply);
            host->env.fatal(host->env.arg, status, "a stable entry could not be applied");
            return;
        }
        host->figures.applied++;
        struct entry done = *entry;
        *entry = (struct entry){0};
        host__load_drop(self, body_size(&done));
        drained += body_size(&done);
        answer_pending(self, &done, &outcome, reply);
        buf_unref(done.body);
        free(reply);
    }
    if (drained > 0)
        host__drained(self, drained);
    if (compaction_due(self))
        host__busy(self);
}

/* What made no version (ballots' first entries, cursors, members, changes of the map, conditions that failed) says
 * nothing any more once its facts are kept: beyond a tail it goes, a quarter of the tail at a time. The tail is no
 * shorter than what a follower is fed that lags: who needs more gets a snapshot, so nobody is fed from what goes. */
void replica__compact(struct replica *self)
{
    if (!compaction_due(self))
        return;
    uint64_t upto = self->paxos.stable - self->host->options.compact_tail;
    enum sluice_status status = versions_compact(self->versions, upto);
    if (status != SLUICE_OK) {
        LOG_DEBUG("shard", "group=%u compaction waits: %s", self->group, sluice_status_text(status));
        return; /* the next entry tries again */
    }
    self->compacted = upto;
    self->host->figures.compactions++;
    struct paxos_event event = {.type = PAXOS_EVENT_COMPACT, .index = upto};
    replica__step(self, &event, NULL, NULL);
}

static void effect_following(struct replica *self)
{
    read__forget_rounds(self);
    for (uint32_t i = 0; i < self->host->options.window; i++)
        if (self->pending[i].type != 0) {
            struct host__pending who = self->pending[i];
            self->pending[i].type = 0;
            serve__lost(self, &who);
        }
    if (self->leading) {
        self->leading = false;
        watch__end_all(self, SLUICE_NOT_LEADER, "another replica leads this shard by now");
        self->host->env.role(self->host->env.arg, self->group, self->epoch, false);
    }
}

static void carry_out(struct replica *self, const struct paxos_effect *effect, struct entry *entries,
                      const struct paxos_effects *effects)
{
    switch (effect->type) {
    case PAXOS_EFFECT_STORE:
        effect_store(self, effect, entries);
        break;
    case PAXOS_EFFECT_STORE_NOOP:
        effect_store_noop(self, effect);
        break;
    case PAXOS_EFFECT_REWRITE:
        effect_rewrite(self, effect);
        break;
    case PAXOS_EFFECT_PERSIST_PROMISE:
        persist_promise(self, effect->ballot, effect->sequence);
        break;
    case PAXOS_EFFECT_SEND:
        effect_send(self, effect->node, &effects->messages[effect->message]);
        break;
    case PAXOS_EFFECT_STABLE:
        effect_stable(self, effect->first);
        break;
    case PAXOS_EFFECT_RECEIVED:
        break;
    case PAXOS_EFFECT_LEADING:
        self->leading = true;
        self->host->env.role(self->host->env.arg, self->group, self->epoch, true);
        break;
    case PAXOS_EFFECT_FOLLOWING:
        effect_following(self);
        break;
    case PAXOS_EFFECT_MEMBERS:
        if (self->host->env.members != NULL)
            self->host->env.members(self->host->env.arg, self->group, self->epoch, self->paxos.members.voters);
        break;
    case PAXOS_EFFECT_READ:
        self->rounds_done = effect->sequence;
        break;
    case PAXOS_EFFECT_SNAPSHOT:
        snapshot__begin(self, effect->node);
        break;
    case PAXOS_EFFECT_LOST:
        if (group__note_lost(self) != SLUICE_OK)
            self->host->env.fatal(self->host->env.arg, SLUICE_IO, "a loss could not be handed to the disk");
        break;
    case PAXOS_EFFECT_CAUGHT_UP:
        effect_caught_up(self);
        break;
    }
}

void replica__step(struct replica *self, struct paxos_event *event, struct entry *entries,
                   const struct host__pending *who)
{
    struct host *host = self->host;
    event->now_ns = host__now(host);
    event->time = hlc_now(&host->clock, host->env.realtime_ns(host->env.arg));
    uint64_t first = self->paxos.last + 1;
    enum sluice_status status = paxos_step(&self->paxos, event, &host->effects);
    if (status != SLUICE_OK) {
        if (event->type == PAXOS_EVENT_MESSAGE)
            LOG_DEBUG("shard", "group=%u a message of node %u was refused: %s", self->group, event->message->from,
                      sluice_status_text(status));
        for (uint32_t i = 0; who != NULL && i < event->proposal_count; i++)
            if (who[i].type != 0)
                serve__not_leader(self, who[i].link, who[i].request_id);
        return;
    }
    /* The clients are noted before the effects run: with one replica in memory an entry is stable at once. */
    for (uint32_t i = 0; who != NULL && i < event->proposal_count; i++)
        *pending_slot(self, first + i) = who[i];
    /* Effects may be long-lived while callbacks never step the group again: replies and feeds only queue. */
    for (uint32_t i = 0; i < host->effects.count; i++)
        carry_out(self, &host->effects.items[i], entries, &host->effects);
    if (self->paxos.role == PAXOS_LEADER && self->paxos.wanted != 0) {
        self->stepped = true;
        host__busy(self);
    }
    self->due_ns = paxos_next_tick_ns(&self->paxos);
    /* Without a leader that is heard, the next beat may tell more. */
    if (self->due_ns == UINT64_MAX && self->paxos.role != PAXOS_LEADER &&
        (self->paxos.leader == 0 ||
         !pairs_alive(&host->pairs, self->paxos.leader, self->paxos.leader_incarnation, event->now_ns)))
        self->due_ns = event->now_ns + host->options.pairs.beat_ns;
    if (self->due_ns < host->next_tick_ns)
        host->next_tick_ns = self->due_ns;
}

enum sluice_status replica__queue(struct replica *self, struct buf *body, uint32_t crc, uint16_t kind,
                                  const struct host__pending *who)
{
    if (self->queued_count == self->queued_capacity) {
        uint32_t capacity = self->queued_capacity == 0 ? 64 : self->queued_capacity * 2;
        struct host__queued *grown = realloc(self->queued, capacity * sizeof(*grown));
        if (grown == NULL)
            return SLUICE_MEMORY;
        self->queued = grown;
        self->queued_capacity = capacity;
    }
    host__load_add(self, body == NULL ? 0 : body->size);
    host__busy(self);
    self->queued[self->queued_count++] =
        (struct host__queued){.body = body, .body_crc = crc, .kind = kind, .who = *who};
    return SLUICE_OK;
}

bool replica__takes_writes(const struct replica *self)
{
    uint32_t room = paxos_room(&self->paxos);
    /* Nothing can be proposed while the members change or the lead is handed over. That lasts for a round trip or two:
     * what comes meanwhile waits, and is not refused. */
    if (room == 0 && self->paxos.last - self->paxos.stable < self->host->options.window / 2)
        room = self->host->options.window / 2;
    return self->queued_count < room;
}

/* One batch of what is queued from `first` on, that fits one message and the window. Returns how many it took. */
static uint32_t propose_batch(struct replica *self, uint32_t first, uint32_t most)
{
    struct host *host = self->host;
    struct paxos_proposal proposals[PAXOS_MESSAGE_ENTRIES_MAX];
    struct entry entries[PAXOS_MESSAGE_ENTRIES_MAX];
    struct host__pending who[PAXOS_MESSAGE_ENTRIES_MAX];
    uint32_t count = 0;
    uint64_t bytes = 0;
    who[0].type = 0;
    hlc_merge(&host->clock, paxos_time_floor(&self->paxos));
    while (first + count < self->queued_count && count < most) {
        struct host__queued *queued = &self->queued[first + count];
        uint32_t size = queued->body == NULL ? 0 : queued->body->size;
        if (count > 0 && bytes + size > PAXOS_MESSAGE_BYTES_MAX)
            break;
        bytes += size;
        uint64_t time = hlc_now(&host->clock, host->env.realtime_ns(host->env.arg));
        proposals[count] = (struct paxos_proposal){.time = time, .size = size, .flags = queued->kind};
        entries[count] = (struct entry){.index = self->paxos.last + 1 + count,
                                        .ballot = self->paxos.ballot,
                                        .time = time,
                                        .epoch = self->epoch,
                                        .opened = self->paxos.ballot,
                                        .group = self->group,
                                        .kind = queued->kind,
                                        .body_crc = queued->body_crc,
                                        .body = queued->body};
        who[count] = queued->who;
        count++;
    }
    host__load_drop(self, bytes);
    host->written_bytes += bytes;
    struct paxos_event event = {.type = PAXOS_EVENT_PROPOSE, .proposals = proposals, .proposal_count = count};
    replica__step(self, &event, entries, who);
    host->figures.proposals += count;
    for (uint32_t i = 0; i < count; i++)
        buf_unref(entries[i].body);
    return count;
}

/* Proposes what was gathered. Where this replica leads no more, that is how its clients come to know. */
void replica__propose(struct replica *self)
{
    uint32_t done = 0;
    while (done < self->queued_count) {
        uint32_t room = self->paxos.role == PAXOS_LEADER ? paxos_room(&self->paxos) : PAXOS_MESSAGE_ENTRIES_MAX;
        if (room == 0)
            break;
        done += propose_batch(self, done, room < PAXOS_MESSAGE_ENTRIES_MAX ? room : PAXOS_MESSAGE_ENTRIES_MAX);
    }
    self->queued_count -= done;
    memmove(self->queued, self->queued + done, self->queued_count * sizeof(*self->queued));
}

void replica__propose_members(struct replica *self)
{
    struct host *host = self->host;
    uint64_t voters, instance;
    if (!self->stepped)
        return;
    self->stepped = false;
    if (!paxos_next_members(&self->paxos, &voters, &instance))
        return;
    const struct entry_members change = {.voters = voters, .instance = instance};
    struct buf *body = buf_dup(&change, sizeof(change));
    if (body == NULL)
        return;
    hlc_merge(&host->clock, paxos_time_floor(&self->paxos));
    uint64_t time = hlc_now(&host->clock, host->env.realtime_ns(host->env.arg));
    struct entry entry = {.index = self->paxos.last + 1,
                          .ballot = self->paxos.ballot,
                          .time = time,
                          .epoch = self->epoch,
                          .opened = self->paxos.ballot,
                          .group = self->group,
                          .kind = ENTRY_MEMBERS,
                          .body_crc = crc32c(&change, sizeof(change)),
                          .body = body};
    const struct paxos_proposal proposal = {
        .time = time, .size = sizeof(change), .flags = ENTRY_MEMBERS, .members = voters, .members_instance = instance};
    const struct host__pending nobody = {0};
    struct paxos_event event = {.type = PAXOS_EVENT_PROPOSE, .proposals = &proposal, .proposal_count = 1};
    replica__step(self, &event, &entry, &nobody);
    buf_unref(entry.body);
}

void replica__tick(struct replica *self)
{
    struct paxos_event event = {.type = PAXOS_EVENT_TICK};
    replica__step(self, &event, NULL, NULL);
}

void replica__submitted(struct replica *self, uint64_t ticket)
{
    if (self->ticket_count == self->ticket_capacity) {
        uint32_t capacity = self->ticket_capacity == 0 ? 64 : self->ticket_capacity * 2;
        struct host__ticket *grown = calloc(capacity, sizeof(*grown));
        if (grown == NULL) {
            self->host->env.fatal(self->host->env.arg, SLUICE_MEMORY, "no memory to follow the disk");
            return;
        }
        for (uint32_t i = 0; i < self->ticket_count; i++)
            grown[i] = self->tickets[(self->ticket_first + i) % self->ticket_capacity];
        free(self->tickets);
        self->tickets = grown;
        self->ticket_first = 0;
        self->ticket_capacity = capacity;
    }
    uint32_t at = (self->ticket_first + self->ticket_count++) % self->ticket_capacity;
    self->tickets[at] = (struct host__ticket){.ticket = ticket, .sequence = self->persist_sequence};
    self->dirty = false;
}

void replica__persisted(struct replica *self, uint64_t ticket)
{
    uint64_t sequence = 0;
    while (self->ticket_count > 0 && self->tickets[self->ticket_first].ticket <= ticket) {
        sequence = self->tickets[self->ticket_first].sequence;
        self->ticket_first = (self->ticket_first + 1) % self->ticket_capacity;
        self->ticket_count--;
    }
    if (sequence != 0) {
        struct paxos_event event = {.type = PAXOS_EVENT_PERSISTED, .sequence = sequence};
        replica__step(self, &event, NULL, NULL);
    }
}

uint64_t replica__closed_time(struct replica *self)
{
    uint64_t time = 0;
    uint64_t applied = versions_applied(self->versions, &time);
    /* Times rise strictly along the log, so what is applied closes everything up to its own time. */
    if (self->paxos.closed_index <= applied && self->paxos.closed_time > time)
        time = self->paxos.closed_time;
    return time;
}

bool replica__closed(struct replica *self, uint64_t time)
{
    if (time <= replica__closed_time(self))
        return true;
    if (!self->leading)
        return false;
    struct host *host = self->host;
    uint64_t wall = host->env.realtime_ns(host->env.arg), now = hlc_now(&host->clock, wall);
    /* Queued values have no time yet; theirs will be above what is closed now. */
    (void)paxos_close_time(&self->paxos, now);
    if (time <= replica__closed_time(self))
        return true;
    uint64_t wanted = host->pairs.ceiling_wanted;
    /* Never for a time to come: a ceiling is durable, and the next leader's times begin above it. Who asks for the year
     * 2100 waits, and nobody else. */
    if (self->paxos.closed_time < time)
        pairs_want_ceiling(&host->pairs, time < now ? time : now, wall);
    if (host->pairs.ceiling_wanted != wanted)
        host->next_tick_ns = 0; /* not at the next beat: where there are no peers, there is none */
    return false;
}

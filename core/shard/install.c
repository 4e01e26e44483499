/* Snapshots, at the receiver: entries are taken into the versions where nobody reads them yet; the facts are held until
 * all are there; then one atomic step makes both what this replica holds, the state machine is read anew, and consensus
 * is told. A break, or a crash, before that costs what was not on the disk; after it there is nothing to go on with.
 *
 * Only a follower takes one: it comes from a leader that is alive, and whoever stands for election meanwhile follows
 * that leader again or leads itself, and then needs none. All of it happens within the call that brings the last part,
 * so that consensus can't have another role by the time it is told. */
#include <stdlib.h>
#include <string.h>

#include "core/shard/host__.h"

static uint64_t position_of(const struct replica *self)
{
    uint64_t applied = versions_applied(self->versions, NULL);
    return self->install.begun && self->install.position > applied ? self->install.position : applied;
}

static void acknowledge(struct replica *self, uint16_t to, uint64_t id, enum sluice_status status,
                        enum peer_snapshot_state state)
{
    const struct peer_snapshot_ack ack = {.epoch = self->epoch,
                                          .id = id,
                                          .position = position_of(self),
                                          .facts = id == self->install.id ? self->install.facts.size : 0,
                                          .status = status,
                                          .state = state};
    struct peer_header header = {.kind = PEER_SNAPSHOT_ACK, .group = self->group};
    struct slice parts[2] = {[1] = {&ack, sizeof(ack)}};
    peers__send(self->host, to, &header, parts, 2);
}

void install__drop(struct replica *self)
{
    bytes_free(&self->install.facts);
    self->install.facts = (struct bytes){0};
    self->install.begun = self->install.flushed = false;
    self->install.id = self->install.position = 0;
}

static enum sluice_status begin(struct replica *self)
{
    uint64_t position = 0;
    enum sluice_status status = versions_ingest_begin(self->versions, &position);
    if (status != SLUICE_OK)
        return status;
    if (!self->install.begun || position > self->install.position)
        self->install.position = position;
    self->install.begun = true;
    return SLUICE_OK;
}

/* The versions that the entry made, by the numbers that came with it. */
static enum sluice_status versions_of(const struct entry *entry, const uint8_t *numbers, uint32_t count,
                                      struct version **out, uint32_t *made_count)
{
    const struct wire_command *command = NULL;
    const char *why = NULL;
    struct wire_operation_view view;
    size_t offset = 0;
    *out = NULL;
    *made_count = 0;
    if (count == 0)
        return SLUICE_OK;
    if (entry->kind != ENTRY_COMMAND || entry->body == NULL ||
        wire_command_read(entry->body->data, entry->body->size, &command, &why) != SLUICE_OK ||
        command->kind != WIRE_COMMAND_WRITE || command->operation_count != count)
        return SLUICE_INVALID;
    struct version *made = calloc(count, sizeof(*made));
    if (made == NULL)
        return SLUICE_MEMORY;
    for (uint32_t i = 0; i < count && wire_operation_next(command, &offset, &view); i++) {
        uint64_t number;
        memcpy(&number, numbers + i * sizeof(number), sizeof(number));
        if (number != 0)
            made[(*made_count)++] = machine_version(&view, entry, i, number);
    }
    *out = made;
    return SLUICE_OK;
}

static enum sluice_status take_entries(struct replica *self, const struct peer_snapshot *snapshot, const uint8_t *data,
                                       size_t size)
{
    size_t offset = 0;
    uint64_t before = snapshot->first - 1;
    enum sluice_status status = SLUICE_OK;
    for (uint32_t i = 0; i < snapshot->count && status == SLUICE_OK; i++) {
        struct entry entry = {0};
        struct version *made = NULL;
        const uint8_t *numbers = NULL;
        uint32_t count = 0, made_count = 0;
        status = peer_snapshot_entry(data, size, &offset, &entry);
        if (status != SLUICE_OK)
            return status;
        status = peer_snapshot_numbers(data, size, &offset, &numbers, &count);
        if (status == SLUICE_OK && (entry.group != self->group || entry.epoch != self->epoch || entry.index <= before ||
                                    entry.index > snapshot->upto))
            status = SLUICE_INVALID;
        if (status == SLUICE_OK && entry.index > position_of(self)) {
            status = versions_of(&entry, numbers, count, &made, &made_count);
            if (status == SLUICE_OK)
                status = versions_ingest_entry(self->versions, &entry, made, made_count);
            if (status == SLUICE_OK)
                self->install.position = entry.index;
            free(made);
        }
        before = entry.index;
        buf_unref(entry.body);
    }
    if (status == SLUICE_OK && offset != size)
        status = SLUICE_INVALID;
    if (status == SLUICE_OK && snapshot->upto > self->install.position)
        self->install.position = snapshot->upto;
    return status;
}

static enum sluice_status take_facts(struct replica *self, const struct peer_snapshot *snapshot, const uint8_t *data,
                                     size_t size)
{
    size_t offset = 0;
    for (uint32_t i = 0; i < snapshot->count; i++) {
        struct slice name, value;
        enum sluice_status status = peer_snapshot_fact(data, size, &offset, &name, &value);
        if (status != SLUICE_OK)
            return status;
    }
    if (offset != size)
        return SLUICE_INVALID;
    if (snapshot->first < self->install.facts.size)
        return SLUICE_OK; /* it came twice */
    return bytes_append(&self->install.facts, data, size);
}

/* All facts as the versions take them; the members among them. */
static enum sluice_status read_facts(struct replica *self, struct versions_fact **out, uint64_t *out_count,
                                     struct paxos_members *members)
{
    struct versions_fact *facts = NULL;
    uint64_t count = 0, capacity = 0;
    size_t offset = 0;
    enum sluice_status status = SLUICE_OK;
    *members = (struct paxos_members){0};
    while (status == SLUICE_OK && offset < self->install.facts.size) {
        if (count == capacity) {
            capacity = capacity == 0 ? 256 : 2 * capacity;
            struct versions_fact *grown = reallocarray(facts, capacity, sizeof(*facts));
            if (grown == NULL) {
                status = SLUICE_MEMORY;
                break;
            }
            facts = grown;
        }
        struct versions_fact *fact = &facts[count++];
        status =
            peer_snapshot_fact(self->install.facts.data, self->install.facts.size, &offset, &fact->name, &fact->value);
        if (status == SLUICE_OK && replica__is_members_fact(fact->name)) {
            status = fact->value.size == sizeof(*members) ? SLUICE_OK : SLUICE_INVALID;
            if (status == SLUICE_OK)
                memcpy(members, fact->value.data, sizeof(*members));
        }
    }
    if (status == SLUICE_OK && members->voters == 0)
        status = SLUICE_INVALID;
    if (status != SLUICE_OK) {
        free(facts);
        return status;
    }
    *out = facts;
    *out_count = count;
    return SLUICE_OK;
}

/* The versions are others by now: what was made of them is made anew, and consensus builds on them. */
static enum sluice_status take_over(struct replica *self, const struct paxos_snapshot *snapshot)
{
    struct host *host = self->host;
    struct paxos_event event = {.type = PAXOS_EVENT_INSTALLED, .snapshot = snapshot};
    if (self->machine != NULL) {
        struct machine *fresh = NULL;
        enum sluice_status status = machine_create(self->versions, &fresh);
        if (status != SLUICE_OK)
            return status;
        machine_destroy(self->machine);
        self->machine = fresh;
    }
    self->members = snapshot->members;
    self->compacted = versions_gaps(self->versions);
    hlc_merge(&host->clock, snapshot->time);
    replica__forget_until(self, snapshot->index);
    replica__step(self, &event, NULL, NULL);
    if (host->env.installed != NULL)
        host->env.installed(host->env.arg, self->group, self->epoch);
    host->figures.snapshots_installed++;
    LOG_INFO("shard", "group=%u a snapshot up to revision %llu is installed", self->group,
             (unsigned long long)snapshot->index);
    return SLUICE_OK;
}

/* The last step waits until the store has flushed everything before it. So that it does not wait for long, the store is
 * asked to begin, and the step is taken when the sender asks again. */
static bool flushed_before(struct replica *self)
{
    if (self->memory_only || self->host->options.store == NULL || self->install.flushed)
        return true;
    self->install.flushed = true;
    store_flush(self->host->options.store);
    return false;
}

static enum sluice_status finish(struct replica *self, const struct peer_snapshot *end)
{
    struct versions_fact *facts = NULL;
    uint64_t count = 0;
    struct paxos_snapshot snapshot = {.index = end->upto, .time = end->time, .opened = end->opened};
    enum sluice_status status = read_facts(self, &facts, &count, &snapshot.members);
    if (status != SLUICE_OK)
        return status;
    status = versions_ingest_finish(self->versions, end->upto, end->time, facts, count);
    free(facts);
    if (status != SLUICE_OK)
        return status;
    install__drop(self);
    status = take_over(self, &snapshot);
    if (status != SLUICE_OK)
        self->host->env.fatal(self->host->env.arg, status, "the state of a snapshot could not be read");
    return SLUICE_OK;
}

/* What the message says to do, once it is known to follow what is held. */
static enum sluice_status take(struct replica *self, const struct peer_snapshot *snapshot, const uint8_t *data,
                               size_t size)
{
    switch (snapshot->type) {
    case PEER_SNAPSHOT_ENTRIES:
        return take_entries(self, snapshot, data, size);
    case PEER_SNAPSHOT_FACTS:
        return take_facts(self, snapshot, data, size);
    case PEER_SNAPSHOT_FINISH:
        return snapshot->upto <= versions_applied(self->versions, NULL) ? SLUICE_OK : finish(self, snapshot);
    default:
        return SLUICE_OK;
    }
}

static bool follows(const struct replica *self, const struct peer_snapshot *snapshot)
{
    uint64_t position = position_of(self);
    size_t facts = self->install.facts.size;
    switch (snapshot->type) {
    case PEER_SNAPSHOT_ENTRIES:
        return snapshot->first <= position + 1;
    case PEER_SNAPSHOT_FACTS:
        return snapshot->upto <= position && snapshot->first <= facts;
    case PEER_SNAPSHOT_FINISH:
        return snapshot->upto <= versions_applied(self->versions, NULL) ||
               (snapshot->upto == position && facts == snapshot->facts_size);
    default:
        return true;
    }
}

void install__message(struct replica *self, uint16_t from, const void *data, size_t size)
{
    struct peer_snapshot snapshot;
    enum sluice_status status = peer_snapshot_read(data, size, &snapshot);
    if (status != SLUICE_OK) {
        LOG_WARN("shard", "group=%u node %u sent a part of a snapshot that is malformed", self->group, from);
        return;
    }
    if (snapshot.epoch != self->epoch || self->paxos.role != PAXOS_FOLLOWER)
        return;
    uint64_t applied = versions_applied(self->versions, NULL);
    self->installing = snapshot.end > applied ? snapshot.end : 0;
    self->installing_ns = host__now(self->host);
    if (snapshot.id != self->install.id) {
        self->install.id = snapshot.id; /* facts are as of another end; entries are entries */
        self->install.facts.size = 0;
        self->install.flushed = false;
    }
    if (snapshot.type == PEER_SNAPSHOT_BEGIN || !self->install.begun)
        status = begin(self);
    if (status == SLUICE_OK && !follows(self, &snapshot)) {
        acknowledge(self, from, snapshot.id, SLUICE_OK, PEER_SNAPSHOT_BEHIND);
        return;
    }
    if (status == SLUICE_OK && snapshot.type == PEER_SNAPSHOT_FINISH && snapshot.upto > applied &&
        !flushed_before(self)) {
        acknowledge(self, from, snapshot.id, SLUICE_OK, PEER_SNAPSHOT_GOING);
        return;
    }
    if (status == SLUICE_OK)
        status = take(self, &snapshot, (const uint8_t *)data + sizeof(snapshot), size - sizeof(snapshot));
    if (status == SLUICE_CONFLICT) {
        /* The log has gone on past what was taken in: begin again from there. */
        install__drop(self);
        return;
    }
    if (status != SLUICE_OK)
        LOG_WARN("shard", "group=%u a part of node %u's snapshot, revisions %llu to %llu, can't be taken: %s",
                 self->group, from, (unsigned long long)snapshot.first, (unsigned long long)snapshot.upto,
                 sluice_status_text(status));
    acknowledge(self, from, snapshot.id, status,
                snapshot.type == PEER_SNAPSHOT_FINISH ? PEER_SNAPSHOT_INSTALLED : PEER_SNAPSHOT_GOING);
}

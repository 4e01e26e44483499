/* Snapshots, at the sender: the stable entries that are kept, in order and perhaps with gaps, then the state machine's
 * facts as of the end, past consensus and its window, to a replica that lacks more than it should be fed.
 *
 * The log is the data, and its entries are immutable and chosen: so making a snapshot stops nobody and copies nothing
 * but the facts, which are bounded, and whoever sends is right, leader or not. It begins at what the receiver holds, so
 * it goes on by itself after a break. The receiver's position is the truth; whenever something seems lost it is asked
 * where it stands. See install.c for the other end. */
#include <stdlib.h>
#include <string.h>

#include "core/shard/host__.h"

#define CHUNKS_IN_FLIGHT 4u
#define CHUNK_ENTRIES    1024u
#define ASK_AGAIN_NS     (500 * NS_PER_MS)
#define REPAIR_NS        (50 * NS_PER_MS) /* a damaged entry is on its way from elsewhere */
#define GIVE_UP_NS       (15 * NS_PER_S)

struct host__sending {
    struct host__sending *next;
    uint16_t node;
    uint64_t id;
    uint64_t revision; /* the next to be sent; 0: the receiver has not said where it stands */
    uint64_t end;      /* what was there when it began, and in the second lap what has come since */
    uint64_t damaged;  /* the entry that was found to be */
    bool second_lap, finish_sent;
    struct bytes facts; /* second lap: as of `end`, as they are sent */
    size_t facts_sent;
    uint64_t time, opened;           /* second lap: of the entry `end` */
    uint64_t acked;                  /* the receiver's position, and the bytes of facts that it holds */
    uint64_t upto[CHUNKS_IN_FLIGHT]; /* where the latest chunks end, the oldest at `chunks` modulo their number */
    uint64_t chunks;
    uint64_t sent_ns, heard_ns, pace_ns;
};

static struct host__sending *sending_to(const struct replica *self, uint16_t node)
{
    struct host__sending *sending = self->sendings;
    while (sending != NULL && sending->node != node)
        sending = sending->next;
    return sending;
}

static void sending_free(struct replica *self, struct host__sending *sending)
{
    struct host__sending **at = &self->sendings;
    while (*at != sending)
        at = &(*at)->next;
    *at = sending->next;
    bytes_free(&sending->facts);
    free(sending);
}

static void end_transfer(struct replica *self, struct host__sending *sending, bool done)
{
    struct paxos_event event = {.type = PAXOS_EVENT_SNAPSHOT_ENDED, .node = sending->node};
    LOG_INFO("shard", "group=%u the snapshot for node %u %s", self->group, sending->node,
             done ? "is installed there" : "did not get through");
    self->host->figures.snapshots_sent += done;
    sending_free(self, sending);
    if (self->paxos.role == PAXOS_LEADER)
        replica__step(self, &event, NULL, NULL);
}

void snapshot__drop_all(struct replica *self)
{
    while (self->sendings != NULL)
        sending_free(self, self->sendings);
}

uint64_t snapshot__receivers(const struct replica *self)
{
    uint64_t mask = 0;
    for (const struct host__sending *sending = self->sendings; sending != NULL; sending = sending->next)
        mask |= UINT64_C(1) << sending->node;
    return mask;
}

static void send(struct replica *self, struct host__sending *sending, const struct bytes *message, uint64_t now)
{
    struct peer_header header = {.kind = PEER_SNAPSHOT, .group = self->group};
    struct slice parts[2] = {[1] = {message->data, message->size}};
    peers__send(self->host, sending->node, &header, parts, 2);
    self->host->figures.snapshot_bytes += message->size;
    sending->sent_ns = now;
}

static void send_bare(struct replica *self, struct host__sending *sending, struct peer_snapshot snapshot, uint64_t now)
{
    struct bytes message = {.data = (uint8_t *)&snapshot, .size = sizeof(snapshot)};
    snapshot.epoch = self->epoch;
    snapshot.id = sending->id;
    snapshot.end = sending->end;
    send(self, sending, &message, now);
}

static void ask(struct replica *self, struct host__sending *sending, uint64_t now)
{
    sending->revision = 0;
    send_bare(self, sending, (struct peer_snapshot){.type = PEER_SNAPSHOT_BEGIN}, now);
}

void snapshot__begin(struct replica *self, uint16_t node)
{
    uint64_t now = host__now(self->host);
    if (sending_to(self, node) != NULL)
        return;
    struct host__sending *sending = calloc(1, sizeof(*sending));
    if (sending == NULL)
        return; /* consensus asks again */
    sending->node = node;
    sending->id = random_next(&self->host->random) | 1;
    sending->end = versions_applied(self->versions, NULL);
    sending->heard_ns = now;
    sending->next = self->sendings;
    self->sendings = sending;
    host__busy(self);
    LOG_INFO("shard", "group=%u node %u lacks more than it can be fed; it is sent a snapshot", self->group, node);
    ask(self, sending, now);
}

/* ---- Chunks ---- */

/* The numbers of the versions that the entry made, as peer.h lays them out. The entry says what was asked for; what
 * became of it stands in the versions: nothing, where a condition failed. */
static enum sluice_status append_numbers(struct replica *self, const struct entry *entry, struct bytes *message)
{
    const struct wire_command *command = NULL;
    const char *why = NULL;
    struct wire_operation_view view;
    size_t offset = 0, at = message->size;
    uint64_t count = 0;
    enum sluice_status status = bytes_append(message, &count, sizeof(count));
    if (self->machine == NULL || entry->kind != ENTRY_COMMAND || entry->body == NULL ||
        wire_command_read(entry->body->data, entry->body->size, &command, &why) != SLUICE_OK ||
        command->kind != WIRE_COMMAND_WRITE)
        return status;
    for (uint32_t number = 0; status == SLUICE_OK && wire_operation_next(command, &offset, &view); number++) {
        const struct slice key = {view.key, view.operation->key_size};
        struct version version;
        uint64_t made = 0;
        status = versions_by_time(self->versions, key, entry->time, false, &version);
        if (status == SLUICE_OK) {
            if (version.revision == entry->index && version.operation == number)
                made = version.version;
            version_release(&version);
        } else if (status == SLUICE_NOT_FOUND || status == SLUICE_GONE) {
            status = SLUICE_OK;
        }
        if (status == SLUICE_OK)
            status = bytes_append(message, &made, sizeof(made));
        count++;
    }
    if (status == SLUICE_OK)
        memcpy(message->data + at, &count, sizeof(count));
    return status;
}

static enum sluice_status append_entry(struct replica *self, const struct entry *entry, struct bytes *message)
{
    static const uint8_t padding[8];
    struct entry_header header;
    uint32_t size = entry->body == NULL ? 0 : entry->body->size;
    size_t before = message->size;
    entry_header_write(entry, &header);
    enum sluice_status status = bytes_reserve(message, sizeof(header) + wire_pad(size));
    if (status == SLUICE_OK)
        status = bytes_append(message, &header, sizeof(header));
    if (status == SLUICE_OK && size > 0)
        status = bytes_append(message, entry->body->data, size);
    if (status == SLUICE_OK)
        status = bytes_append(message, padding, wire_pad(size) - size);
    if (status == SLUICE_OK)
        status = append_numbers(self, entry, message);
    if (status != SLUICE_OK)
        message->size = before;
    return status;
}

static void chunk_sent(struct replica *self, struct host__sending *sending, struct bytes *message,
                       const struct peer_snapshot *head, uint64_t upto, uint64_t now)
{
    memcpy(message->data, head, sizeof(*head));
    send(self, sending, message, now);
    sending->upto[sending->chunks++ % CHUNKS_IN_FLIGHT] = upto;
}

/* What is kept of the entries from sending->revision on, up to the end or a chunk's size. */
static enum sluice_status send_entries(struct replica *self, struct host__sending *sending, uint64_t now)
{
    struct bytes message = {0};
    struct peer_snapshot head = {.type = PEER_SNAPSHOT_ENTRIES,
                                 .epoch = self->epoch,
                                 .id = sending->id,
                                 .first = sending->revision,
                                 .end = sending->end};
    uint64_t next = sending->revision;
    enum sluice_status status = bytes_append(&message, &head, sizeof(head));
    while (status == SLUICE_OK && next <= sending->end && head.count < CHUNK_ENTRIES &&
           (head.count == 0 || message.size < self->host->options.snapshot_chunk)) {
        struct entry entry;
        uint64_t found = 0;
        status = versions_next(self->versions, next, &found);
        if (status == SLUICE_NOT_FOUND || (status == SLUICE_OK && found > sending->end)) {
            next = sending->end + 1; /* nothing more is kept */
            status = SLUICE_OK;
            break;
        }
        if (status == SLUICE_OK)
            status = versions_entry(self->versions, found, &entry);
        sending->damaged = found;
        if (status != SLUICE_OK)
            break;
        status = append_entry(self, &entry, &message);
        buf_unref(entry.body);
        if (status != SLUICE_OK)
            break;
        next = found + 1;
        head.count++;
    }
    if (status == SLUICE_CORRUPT && head.count > 0)
        status = SLUICE_OK; /* up to there; the damaged one is met again with the next chunk */
    if (status == SLUICE_OK) {
        head.upto = next - 1;
        sending->revision = next;
        chunk_sent(self, sending, &message, &head, head.upto, now);
    }
    bytes_free(&message);
    return status;
}

struct gathering {
    struct bytes *facts;
    enum sluice_status status;
};

static void gather_fact(void *arg, struct slice name, struct slice value)
{
    static const uint8_t padding[8];
    struct gathering *gathering = arg;
    const struct peer_fact fact = {.name_size = (uint32_t)name.size, .value_size = (uint32_t)value.size};
    size_t size = sizeof(fact) + name.size + value.size;
    if (gathering->status == SLUICE_OK)
        gathering->status = bytes_append(gathering->facts, &fact, sizeof(fact));
    if (gathering->status == SLUICE_OK)
        gathering->status = bytes_append(gathering->facts, name.data, name.size);
    if (gathering->status == SLUICE_OK)
        gathering->status = bytes_append(gathering->facts, value.data, value.size);
    if (gathering->status == SLUICE_OK)
        gathering->status = bytes_append(gathering->facts, padding, wire_pad(size) - size);
}

static void gather_other_fact(void *arg, struct slice name, struct slice value)
{
    if (!replica__is_own_fact(name))
        gather_fact(arg, name, value);
}

/* The second lap ends at what is applied now, and the facts are those of now: consensus feeds the rest. The members are
 * said even where no entry has changed them yet, since the receiver may know none. */
static enum sluice_status begin_second_lap(struct replica *self, struct host__sending *sending)
{
    struct gathering gathering = {&sending->facts, SLUICE_OK};
    struct entry newest;
    sending->second_lap = true;
    sending->end = versions_applied(self->versions, &sending->time);
    enum sluice_status status = versions_entry(self->versions, sending->end, &newest);
    sending->damaged = sending->end;
    if (status == SLUICE_OK) {
        sending->opened = newest.opened;
        buf_unref(newest.body);
    } else if (status == SLUICE_GONE) {
        sending->opened = self->paxos.stable_opened; /* this replica was given a snapshot up to there itself */
        status = SLUICE_OK;
    }
    if (status == SLUICE_OK)
        status = versions_facts(self->versions, gather_other_fact, &gathering);
    const struct host__opened at_end = {sending->end, sending->opened};
    const struct versions_fact members = replica__members_fact(self), opened = replica__opened_fact(&at_end);
    gather_fact(&gathering, members.name, members.value);
    gather_fact(&gathering, opened.name, opened.value);
    if (status == SLUICE_OK && gathering.status == SLUICE_OK && sending->facts.size > PEER_FACTS_BYTES_MAX)
        status = SLUICE_TOO_LARGE;
    return status != SLUICE_OK ? status : gathering.status;
}

static enum sluice_status send_facts(struct replica *self, struct host__sending *sending, uint64_t now)
{
    struct bytes message = {0};
    struct peer_snapshot head = {.type = PEER_SNAPSHOT_FACTS,
                                 .epoch = self->epoch,
                                 .id = sending->id,
                                 .first = sending->facts_sent,
                                 .upto = sending->end,
                                 .end = sending->end};
    size_t offset = sending->facts_sent;
    while (offset < sending->facts.size && offset - sending->facts_sent < self->host->options.snapshot_chunk) {
        struct slice name, value;
        enum sluice_status status =
            peer_snapshot_fact(sending->facts.data, sending->facts.size, &offset, &name, &value);
        if (status != SLUICE_OK)
            return status;
        head.count++;
    }
    enum sluice_status status = bytes_append(&message, &head, sizeof(head));
    if (status == SLUICE_OK)
        status = bytes_append(&message, sending->facts.data + sending->facts_sent, offset - sending->facts_sent);
    if (status == SLUICE_OK) {
        sending->facts_sent = offset;
        chunk_sent(self, sending, &message, &head, sending->end + offset, now);
    }
    bytes_free(&message);
    return status;
}

static enum sluice_status send_next(struct replica *self, struct host__sending *sending, uint64_t now)
{
    if (sending->revision > sending->end && !sending->second_lap) {
        enum sluice_status status = begin_second_lap(self, sending);
        if (status != SLUICE_OK)
            return status;
    }
    if (sending->revision <= sending->end)
        return send_entries(self, sending, now);
    if (sending->facts_sent < sending->facts.size)
        return send_facts(self, sending, now);
    send_bare(self, sending,
              (struct peer_snapshot){.type = PEER_SNAPSHOT_FINISH,
                                     .upto = sending->end,
                                     .time = sending->time,
                                     .opened = sending->opened,
                                     .facts_size = sending->facts.size},
              now);
    sending->finish_sent = true;
    return SLUICE_OK;
}

/* It is this side's turn. Answers may come twice or never, so it is the position in them that counts. */
static bool may_send(const struct host__sending *sending)
{
    return sending->revision != 0 && !sending->finish_sent &&
           sending->upto[sending->chunks % CHUNKS_IN_FLIGHT] <= sending->acked;
}

void snapshot__pump(struct replica *self, uint64_t now)
{
    for (struct host__sending *sending = self->sendings, *next; sending != NULL; sending = next) {
        next = sending->next;
        if (self->paxos.role != PAXOS_LEADER) {
            sending_free(self, sending); /* the next leader has its own */
            continue;
        }
        if (now - sending->heard_ns > GIVE_UP_NS) {
            end_transfer(self, sending, false);
            continue;
        }
        if (!may_send(sending) && now - sending->sent_ns > ASK_AGAIN_NS)
            ask(self, sending, now);
        while (may_send(sending) && now >= sending->pace_ns && now >= self->host->pace.due_ns) {
            uint64_t began = host__now(self->host), bytes = self->host->figures.snapshot_bytes;
            uint64_t revision = sending->revision;
            enum sluice_status status = send_next(self, sending, now);
            if (status == SLUICE_CORRUPT && repair__want(self, sending->damaged)) {
                sending->pace_ns = now + REPAIR_NS;
                break;
            }
            if (status != SLUICE_OK) {
                LOG_WARN("shard", "group=%u the snapshot for node %u stops at revision %llu: %s", self->group,
                         sending->node, (unsigned long long)sending->revision, sluice_status_text(status));
                end_transfer(self, sending, false);
                break;
            }
            host__pace(self->host, began, self->host->figures.snapshot_bytes - bytes, sending->revision - revision);
        }
    }
}

uint64_t snapshot__next_ns(const struct replica *self)
{
    uint64_t due = UINT64_MAX;
    for (const struct host__sending *sending = self->sendings; sending != NULL; sending = sending->next) {
        uint64_t pace_ns = sending->pace_ns > self->host->pace.due_ns ? sending->pace_ns : self->host->pace.due_ns;
        uint64_t at = may_send(sending) ? pace_ns : sending->sent_ns + ASK_AGAIN_NS + 1;
        due = at < due ? at : due;
    }
    return due;
}

void snapshot__acknowledged(struct replica *self, uint16_t from, const struct peer_snapshot_ack *ack)
{
    struct host__sending *sending = sending_to(self, from);
    if (sending == NULL || sending->id != ack->id || ack->epoch != self->epoch)
        return;
    sending->heard_ns = host__now(self->host);
    self->host->next_tick_ns = 0;
    if (ack->status != SLUICE_OK || ack->state == PEER_SNAPSHOT_INSTALLED) {
        if (ack->status != SLUICE_OK)
            LOG_WARN("shard", "group=%u node %u refuses the snapshot: %s", self->group, from,
                     sluice_status_text((enum sluice_status)ack->status));
        end_transfer(self, sending, ack->status == SLUICE_OK);
        return;
    }
    if (ack->position + ack->facts > sending->acked)
        sending->acked = ack->position + ack->facts;
    if (sending->revision != 0 && ack->state != PEER_SNAPSHOT_BEHIND)
        return;
    /* It says where it stands: go on from there. It may hold more than this replica has applied so far; then it is
     * asked again, or fed. */
    if (ack->position > versions_applied(self->versions, NULL))
        return;
    if (sending->second_lap && ack->position > sending->end) {
        sending->id = random_next(&self->host->random) | 1; /* its facts are others */
        sending->second_lap = false; /* an earlier snapshot had come further: this one ends later, too */
        sending->facts.size = 0;
    }
    sending->finish_sent = false;
    sending->revision = ack->position + 1;
    sending->facts_sent = sending->second_lap && ack->facts <= sending->facts.size ? ack->facts : 0;
    sending->acked = ack->position + ack->facts;
    memset(sending->upto, 0, sizeof(sending->upto));
}

/* Snapshots: stable entries in order, past consensus and its window, to a replica that lacks more than it should be
 * fed.
 *
 * The log is the data, and its entries are immutable and chosen: so making a snapshot stops nobody and copies nothing,
 * the state machine at the other end makes the facts from them, and whoever sends is right, leader or not. It begins at
 * what the receiver holds, so it goes on by itself after a break. The receiver's position is the truth; whenever
 * something seems lost it is asked where it stands. */
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
    uint64_t end;      /* what was there when it began, and in a second lap what has come since */
    bool second_lap, finish_sent;
    uint64_t acked;                  /* the receiver's position */
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

static enum sluice_status append_entry(const struct entry *entry, struct bytes *message)
{
    static const uint8_t padding[8];
    struct entry_header header;
    uint32_t size = entry->body == NULL ? 0 : entry->body->size;
    entry_header_write(entry, &header);
    enum sluice_status status = bytes_reserve(message, sizeof(header) + wire_pad(size));
    if (status == SLUICE_OK)
        status = bytes_append(message, &header, sizeof(header));
    if (status == SLUICE_OK && size > 0)
        status = bytes_append(message, entry->body->data, size);
    if (status == SLUICE_OK)
        status = bytes_append(message, padding, wire_pad(size) - size);
    return status;
}

/* Entries from sending->revision on, up to the end or a chunk's size. */
static enum sluice_status send_entries(struct replica *self, struct host__sending *sending, uint64_t now)
{
    struct bytes message = {0};
    struct peer_snapshot head = {.type = PEER_SNAPSHOT_ENTRIES,
                                 .epoch = self->epoch,
                                 .id = sending->id,
                                 .first = sending->revision,
                                 .end = sending->end};
    enum sluice_status status = bytes_append(&message, &head, sizeof(head));
    while (status == SLUICE_OK && sending->revision + head.count <= sending->end && head.count < CHUNK_ENTRIES &&
           (head.count == 0 || message.size < self->host->options.snapshot_chunk)) {
        struct entry entry;
        status = versions_entry(self->versions, sending->revision + head.count, &entry);
        if (status != SLUICE_OK)
            break;
        status = append_entry(&entry, &message);
        buf_unref(entry.body);
        head.count++;
    }
    if (status == SLUICE_CORRUPT && head.count > 0)
        status = SLUICE_OK; /* up to there; the damaged one is met again with the next chunk */
    if (status == SLUICE_OK) {
        head.upto = sending->revision + head.count - 1;
        memcpy(message.data, &head, sizeof(head));
        send(self, sending, &message, now);
        sending->revision += head.count;
        sending->upto[sending->chunks++ % CHUNKS_IN_FLIGHT] = head.upto;
    }
    bytes_free(&message);
    return status;
}

static enum sluice_status send_next(struct replica *self, struct host__sending *sending, uint64_t now)
{
    if (sending->revision > sending->end && !sending->second_lap) {
        /* What has come meanwhile, once; consensus feeds the rest. */
        sending->second_lap = true;
        sending->end = versions_applied(self->versions, NULL);
    }
    if (sending->revision <= sending->end)
        return send_entries(self, sending, now);
    send_bare(self, sending, (struct peer_snapshot){.type = PEER_SNAPSHOT_FINISH, .upto = sending->end}, now);
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
            if (status == SLUICE_CORRUPT && repair__want(self, sending->revision)) {
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
    if (ack->position > sending->acked)
        sending->acked = ack->position;
    if (sending->revision != 0 && ack->state != PEER_SNAPSHOT_BEHIND)
        return;
    /* It says where it stands: go on from there. */
    sending->finish_sent = false;
    sending->revision = ack->position + 1;
    memset(sending->upto, 0, sizeof(sending->upto));
}

/* ---- At the receiver ---- */

static void acknowledge(struct replica *self, uint16_t to, uint64_t id, enum sluice_status status,
                        enum peer_snapshot_state state)
{
    const struct peer_snapshot_ack ack = {.epoch = self->epoch,
                                          .id = id,
                                          .position = versions_applied(self->versions, NULL),
                                          .status = status,
                                          .state = state};
    struct peer_header header = {.kind = PEER_SNAPSHOT_ACK, .group = self->group};
    struct slice parts[2] = {[1] = {&ack, sizeof(ack)}};
    peers__send(self->host, to, &header, parts, 2);
}

/* What is applied is on disk, or needs none: consensus may build on it. */
static void install(struct replica *self)
{
    const struct paxos_snapshot snapshot = {.index = self->install.index,
                                            .time = self->install.time,
                                            .opened = self->install.opened,
                                            .members = self->install.members};
    struct paxos_event event = {.type = PAXOS_EVENT_INSTALLED, .snapshot = &snapshot};
    self->install.index = 0;
    if (self->paxos.role == PAXOS_FOLLOWER && snapshot.members.voters != 0) {
        replica__forget_until(self, snapshot.index);
        replica__step(self, &event, NULL, NULL);
    }
    if (self->install.finish_id != 0) {
        self->host->figures.snapshots_installed++;
        acknowledge(self, self->install.from, self->install.finish_id, SLUICE_OK, PEER_SNAPSHOT_INSTALLED);
    }
    self->install.finish_id = 0;
}

void snapshot__submitted(struct replica *self, uint64_t ticket)
{
    if (self->install.index != 0 && self->install.ticket == 0)
        self->install.ticket = ticket;
}

void snapshot__persisted(struct replica *self, uint64_t ticket)
{
    if (self->install.index != 0 && self->install.ticket != 0 && self->install.ticket <= ticket)
        install(self);
}

static enum sluice_status keep(struct replica *self, const struct entry *entry)
{
    const struct wal_record record = {
        .type = WAL_ENTRY, .group = self->group, .epoch = self->epoch, .ballot = entry->ballot, .entry = *entry};
    if (self->memory_only)
        return SLUICE_OK;
    self->dirty = true;
    host__busy(self);
    return self->host->env.persist(self->host->env.arg, &record);
}

static enum sluice_status take_entries(struct replica *self, const struct peer_snapshot *snapshot, const uint8_t *data,
                                       size_t size)
{
    struct host *host = self->host;
    size_t offset = 0;
    for (uint32_t i = 0; i < snapshot->count; i++) {
        struct entry entry;
        enum sluice_status status = peer_snapshot_entry(data, size, &offset, &entry);
        if (status != SLUICE_OK)
            return status;
        uint64_t applied = versions_applied(self->versions, NULL);
        if (entry.group != self->group || entry.epoch != self->epoch || entry.index != snapshot->first + i)
            status = SLUICE_INVALID;
        if (status == SLUICE_OK && entry.index == applied + 1) {
            struct machine_outcome outcome = {.status = SLUICE_OK, .revision = entry.index, .time = entry.time};
            char *reply = NULL;
            hlc_merge(&host->clock, entry.time);
            status = keep(self, &entry);
            if (status == SLUICE_OK)
                status = replica__apply(self, &entry, &outcome, &reply);
            free(reply);
            if (status != SLUICE_OK)
                host->env.fatal(host->env.arg, status, "an entry of a snapshot could not be applied");
            self->install.index = entry.index;
            self->install.time = entry.time;
            self->install.opened = entry.opened;
            self->install.members = self->members;
            self->install.ticket = 0;
            host->figures.applied++;
        }
        buf_unref(entry.body);
        if (status != SLUICE_OK)
            return status;
    }
    return offset == size ? SLUICE_OK : SLUICE_INVALID;
}

void snapshot__message(struct replica *self, uint16_t from, const void *data, size_t size)
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
    if (snapshot.type == PEER_SNAPSHOT_ENTRIES && snapshot.first > applied + 1) {
        acknowledge(self, from, snapshot.id, SLUICE_OK, PEER_SNAPSHOT_BEHIND);
        return;
    }
    if (snapshot.type == PEER_SNAPSHOT_ENTRIES)
        status = take_entries(self, &snapshot, (const uint8_t *)data + sizeof(snapshot), size - sizeof(snapshot));
    if (snapshot.type == PEER_SNAPSHOT_FINISH && snapshot.upto > applied) {
        acknowledge(self, from, snapshot.id, SLUICE_OK, PEER_SNAPSHOT_BEHIND);
        return;
    }
    if (snapshot.type == PEER_SNAPSHOT_FINISH) {
        self->install.from = from;
        self->install.finish_id = snapshot.id;
        if (self->install.index == 0)
            install(self); /* all of it has been on disk for long */
        else if (self->memory_only)
            install(self);
        return;
    }
    if (self->install.index != 0 && self->memory_only)
        install(self);
    acknowledge(self, from, snapshot.id, status, PEER_SNAPSHOT_GOING);
    if (status != SLUICE_OK)
        LOG_WARN("shard", "group=%u a part of node %u's snapshot can't be taken: %s", self->group, from,
                 sluice_status_text(status));
}

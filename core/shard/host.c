#include "core/shard/host.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/crc.h"
#include "core/shard/host__.h"

#define TICK_ALL_NS (250 * NS_PER_MS)

uint64_t host__now(const struct host *self)
{
    return self->env.monotonic_ns(self->env.arg);
}

struct replica *host__replica(const struct host *self, uint32_t group)
{
    return group < self->table_size ? self->table[group] : NULL;
}

void host__busy(struct replica *replica)
{
    if (replica->busy)
        return;
    replica->busy = true;
    replica->busy_next = replica->host->busy;
    replica->host->busy = replica;
}

/* Of one group; what gets done within a second is taken beyond it. */
#define LOAD_BYTES_MIN (1u << 20)

void host__drained(struct replica *self, uint64_t bytes)
{
    drain_done(&self->drain, host__now(self->host), bytes);
}

void host__load_add(struct replica *self, uint64_t bytes)
{
    if (self->load_bytes == self->read_bytes)
        drain_begin(&self->drain, host__now(self->host));
    self->load_bytes += bytes;
    self->host->load_bytes += bytes;
}

void host__load_drop(struct replica *self, uint64_t bytes)
{
    ASSERT(bytes <= self->load_bytes && self->load_bytes <= self->host->load_bytes);
    self->load_bytes -= bytes;
    self->host->load_bytes -= bytes;
}

/* One group can use up half of what there is, so that one that has lost its quorum does not stop the others. A single
 * request is always taken: values may be larger than any bound. */
bool host__load_room(const struct replica *self, uint64_t bytes)
{
    uint64_t most = self->host->options.waiting_bytes_max;
    return self->load_bytes == 0 || (self->load_bytes + bytes <= most / 2 && self->host->load_bytes + bytes <= most);
}

/* Nor more than it gets done in a while: who would wait for longer is told at once. */
bool host__write_room(struct replica *self, uint64_t bytes)
{
    uint64_t writes = self->load_bytes - self->read_bytes;
    return host__load_room(self, bytes) &&
           (writes == 0 || drain_allows(&self->drain, host__now(self->host), writes + bytes, LOAD_BYTES_MIN));
}

uint64_t host_time(struct host *self)
{
    return hlc_now(&self->clock, self->env.realtime_ns(self->env.arg));
}

struct hlc *host_clock(struct host *self)
{
    return &self->clock;
}

void host_set_map_epoch(struct host *self, uint64_t epoch)
{
    self->map_epoch = epoch;
}

enum sluice_status host_create(const struct host_options *options, const struct host_env *env, struct host **out)
{
    struct host *self = calloc(1, sizeof(*self));
    if (self == NULL)
        return SLUICE_MEMORY;
    self->env = *env;
    self->options = *options;
    if (self->options.election_ns == 0)
        self->options.election_ns = 150 * NS_PER_MS;
    if (self->options.resend_ns == 0)
        self->options.resend_ns = 50 * NS_PER_MS;
    if (self->options.window == 0)
        self->options.window = 1024;
    if (self->options.progress_ns == 0)
        self->options.progress_ns = NS_PER_S;
    if (self->options.hot_bytes_max == 0)
        self->options.hot_bytes_max = 64u << 20;
    if (self->options.volatile_bytes_max == 0)
        self->options.volatile_bytes_max = 256u << 20;
    if (self->options.behind_max == 0)
        self->options.behind_max = 65536;
    if (self->options.compact_tail < self->options.behind_max)
        self->options.compact_tail = self->options.behind_max;
    if (self->options.compact_tail < self->options.window)
        self->options.compact_tail = self->options.window;
    if (self->options.snapshot_chunk == 0)
        self->options.snapshot_chunk = 1u << 20;
    if (self->options.catch_up_rate == 0)
        self->options.catch_up_rate = 16u << 20;
    if (self->options.requests_max == 0)
        self->options.requests_max = 16384;
    if (self->options.waiting_bytes_max == 0)
        self->options.waiting_bytes_max = 256u << 20;
    random_seed(&self->random, options->seed);
    *out = self;
    return SLUICE_OK;
}

void host_start(struct host *self)
{
    pairs_init(&self->pairs, &self->options.pairs, host__now(self), self->ceilings_max);
    hlc_merge(&self->clock, self->ceilings_max);
    self->started = true;
}

void host_destroy(struct host *self)
{
    if (self == NULL)
        return;
    while (self->replicas != NULL) {
        struct replica *next = self->replicas->next;
        group__destroy(self->replicas);
        self->replicas = next;
    }
    while (self->recovered != NULL) {
        struct host__recovered *next = self->recovered->next;
        group__recovered_clear(self->recovered);
        free(self->recovered->entries);
        free(self->recovered);
        self->recovered = next;
    }
    free(self->table);
    free(self);
}

/* ---- Clients ---- */

void host_client_message(struct host *self, void *link, const void *data, size_t size)
{
    const struct wire_header *header = NULL;
    const char *why = "malformed";
    enum sluice_status status = wire_header_read(data, size, &header, &why);
    if (status != SLUICE_OK) {
        LOG_WARN("shard", "a client sent %zu bytes that are no request: %s", size, why);
        const struct wire_header request = {0};
        host_reply(self, link, &request, SLUICE_INVALID, 0, why, strlen(why));
        return;
    }
    self->client_ns = host__now(self);
    pairs_work(&self->pairs, self->client_ns);
    serve__message(self, link, header, (const uint8_t *)data + sizeof(*header));
}

void host_client_writable(struct host *self, void *link)
{
    watch__writable(self, link);
}

void host_client_down(struct host *self, void *link)
{
    watch__link_down(self, link);
    for (struct replica *replica = self->replicas; replica != NULL; replica = replica->next) {
        bool idle = replica->paxos.last == replica->paxos.stable; /* then nobody waits for an entry */
        for (uint32_t i = 0; !idle && i < self->options.window; i++)
            if (replica->pending[i].link == link)
                replica->pending[i].link = NULL;
        for (uint32_t i = 0; i < replica->queued_count; i++)
            if (replica->queued[i].who.link == link)
                replica->queued[i].who.link = NULL;
        read__drop_waiting(replica, link);
    }
}

/* ---- Disk, time, rounds ---- */

#define CLIENTS_WORK_NS    NS_PER_S
#define CATCH_UP_SHARE     9u    /* of the reactor's time a tenth, at most */
#define CATCH_UP_BYTES_MIN 1024u /* what an entry costs however small it is */

void host__pace(struct host *self, uint64_t began_ns, uint64_t bytes, uint64_t entries)
{
    uint64_t now = host__now(self);
    if (self->client_ns == 0 || now - self->client_ns > CLIENTS_WORK_NS)
        return;
    if (now - self->written_ns >= NS_PER_S) {
        self->written_rate = self->written_bytes * 1000 / ((now - self->written_ns) / NS_PER_MS);
        self->written_bytes = 0;
        self->written_ns = now;
    }
    /* Faster than what is being written, or it would never be there. */
    uint64_t rate = self->options.catch_up_rate + 2 * self->written_rate;
    if (bytes < entries * CATCH_UP_BYTES_MIN)
        bytes = entries * CATCH_UP_BYTES_MIN;
    uint64_t by_time = (now - began_ns) * CATCH_UP_SHARE, by_bytes = bytes * NS_PER_MS / (rate / 1000 + 1);
    uint64_t from = self->pace.due_ns > began_ns ? self->pace.due_ns : began_ns;
    self->pace.due_ns = from + (by_time > by_bytes ? by_time : by_bytes);
}

void host_persisted(struct host *self, uint64_t ticket)
{
    uint64_t sequence = 0;
    while (self->ceiling_ticket_count > 0 && self->ceiling_tickets[self->ceiling_ticket_first].ticket <= ticket) {
        sequence = self->ceiling_tickets[self->ceiling_ticket_first].sequence;
        self->ceiling_ticket_first = (self->ceiling_ticket_first + 1) % 64;
        self->ceiling_ticket_count--;
    }
    if (sequence != 0) {
        pairs_persisted(&self->pairs, sequence);
        self->next_tick_ns = 0; /* the acknowledgement of a ceiling is a beat's business */
    }
    for (struct replica *replica = self->busy; replica != NULL; replica = replica->busy_next)
        replica__persisted(replica, ticket);
}

void host_indexed(struct host *self, uint32_t group, uint64_t revision)
{
    struct replica *replica = host__replica(self, group);
    if (replica != NULL)
        versions_indexed(replica->versions, revision);
}

static uint64_t heard_nodes(const struct host *self, uint64_t now)
{
    uint64_t heard = 0;
    for (uint16_t node = 1; node < PAIRS_NODES_MAX; node++) {
        const struct pairs_peer *peer = &self->pairs.peers[node];
        if (!self->peer_added[node])
            continue;
        if (pairs_alive(&self->pairs, node, peer->incarnation, now))
            heard ^= UINT64_C(0x9e3779b97f4a7c15) * (2u * node);
        if (now < peer->lease_until_ns)
            heard ^= UINT64_C(0x9e3779b97f4a7c15) * (2u * node + 1);
    }
    return heard;
}

void host_tick(struct host *self)
{
    uint64_t now = host__now(self);
    if (now < self->next_tick_ns)
        return;
    uint64_t next = UINT64_MAX;
    pairs_tick(&self->pairs, now, host_time(self), &self->pairs_effects, &next);
    self->next_tick_ns = next;
    peers__carry_out(self);
    /* Groups watch each other through the beats of their nodes, so that a thousand idle ones need no timers: all are
     * looked at when a node has fallen silent, spoken again, or its leases have changed, and otherwise seldom. */
    uint64_t heard = heard_nodes(self, now);
    if (heard != self->heard || now >= self->all_due_ns) {
        self->heard = heard;
        self->all_due_ns = now + TICK_ALL_NS;
        group__tick_all(self);
        return;
    }
    for (struct replica *replica = self->replicas; replica != NULL; replica = replica->next) {
        if (replica->due_ns <= now)
            replica__tick(replica);
        else if (replica->due_ns < self->next_tick_ns)
            self->next_tick_ns = replica->due_ns;
    }
}

/* Stable indexes ride along in group commits, so that a restart applies what was chosen without asking anybody. */
static void note_stable(struct replica *self)
{
    uint64_t stable = self->paxos.stable;
    if (self->memory_only || stable == self->stable_noted)
        return;
    const struct wal_record record = {.type = WAL_STABLE, .group = self->group, .epoch = self->epoch, .ballot = stable};
    enum sluice_status status = self->host->env.persist(self->host->env.arg, &record);
    if (status != SLUICE_OK)
        self->host->env.fatal(self->host->env.arg, status, "a stable index could not be handed to the disk");
    self->stable_noted = stable;
}

void host__submit(struct host *self)
{
    bool dirty = self->ceilings_dirty || self->noted;
    for (struct replica *replica = self->busy; replica != NULL; replica = replica->busy_next)
        if (replica->dirty) {
            dirty = true;
            note_stable(replica);
        }
    if (!dirty)
        return;
    self->noted = false;
    uint64_t ticket = self->env.persist_submit(self->env.arg);
    for (struct replica *replica = self->busy; replica != NULL; replica = replica->busy_next)
        if (replica->dirty)
            replica__submitted(replica, ticket);
    if (self->ceilings_dirty) {
        self->ceilings_dirty = false;
        if (self->ceiling_ticket_count == 64) {
            /* More group commits are under way than there is room for: the last one answers for this one too. */
            uint32_t last = (self->ceiling_ticket_first + 63) % 64;
            self->ceiling_tickets[last] = (struct host__ticket){.ticket = ticket, .sequence = self->ceiling_sequence};
        } else {
            uint32_t at = (self->ceiling_ticket_first + self->ceiling_ticket_count++) % 64;
            self->ceiling_tickets[at] = (struct host__ticket){.ticket = ticket, .sequence = self->ceiling_sequence};
        }
    }
}

void host_flush(struct host *self)
{
    uint64_t now = host__now(self);
    for (struct replica *replica = self->busy; replica != NULL; replica = replica->busy_next) {
        if (replica->queued_count > 0)
            replica__propose(replica);
        if (replica->stepped)
            replica__propose_members(replica);
    }
    for (struct replica *replica = self->busy; replica != NULL; replica = replica->busy_next) {
        if (replica->waiting != NULL)
            read__waiting(replica, now);
        if (replica->readers != NULL)
            watch__pump(replica, now);
        if (replica->sendings != NULL)
            snapshot__pump(replica, now);
        if (replica->repairs != NULL)
            repair__pump(replica, now);
    }
    host__submit(self);
    for (struct replica **at = &self->busy; *at != NULL;) {
        struct replica *replica = *at;
        replica__compact(replica);
        replica->busy = replica->queued_count > 0 || replica->waiting != NULL || replica->readers != NULL ||
                        replica->dirty || replica->ticket_count > 0 || replica->sendings != NULL ||
                        replica->repairs != NULL;
        if (replica->busy)
            at = &replica->busy_next;
        else
            *at = replica->busy_next;
    }
}

uint64_t host_next_ns(const struct host *self)
{
    uint64_t next = self->next_tick_ns;
    for (const struct replica *replica = self->busy; replica != NULL; replica = replica->busy_next) {
        uint64_t watch = watch__next_ns(replica), snapshot = snapshot__next_ns(replica);
        if (snapshot < next)
            next = snapshot;
        if (replica->repairs != NULL && repair__next_ns(replica) < next)
            next = repair__next_ns(replica);
        if (watch < next)
            next = watch;
        /* What waits is looked at again whenever something happens; this bounds how late a deadline is noticed. */
        if (replica->waiting != NULL && next > host__now(self) + 5 * NS_PER_MS)
            next = host__now(self) + 5 * NS_PER_MS;
    }
    return next;
}

void host_each_group(const struct host *self, void (*each)(void *arg, const struct host_group_status *status),
                     void *arg)
{
    for (const struct replica *replica = self->replicas; replica != NULL; replica = replica->next) {
        struct host_group_status status = {
            .group = replica->group,
            .epoch = replica->epoch,
            .role = replica->paxos.role == PAXOS_LEADER     ? "leader"
                    : replica->paxos.role == PAXOS_FOLLOWER ? "follower"
                                                            : "candidate",
            .leader = replica->paxos.leader,
            .ballot = replica->paxos.promised,
            .stable = replica->paxos.stable,
            .last = replica->paxos.last,
        };
        status.members = replica->paxos.members.voters;
        status.settled = paxos_settled(&replica->paxos);
        status.learners = replica->paxos.role == PAXOS_LEADER ? paxos_learners(&replica->paxos) : 0;
        status.snapshot_to = snapshot__receivers(replica);
        status.applied = versions_applied(replica->versions, &status.time);
        if (replica->installing > status.applied && host__now(self) - replica->installing_ns < 5 * NS_PER_S) {
            status.installing = replica->installing;
            status.ingested = replica->install.begun && replica->install.position > status.applied
                                  ? replica->install.position
                                  : status.applied;
        }
        for (const struct host__reader *reader = replica->readers; reader != NULL; reader = reader->next)
            status.watches += !reader->is_feed;
        each(arg, &status);
    }
}

void host_figures(const struct host *self, struct host_figures *out)
{
    *out = self->figures;
}

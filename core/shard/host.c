#include "core/shard/host.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/crc.h"
#include "core/shard/host__.h"

uint64_t host__now(const struct host *self)
{
    return self->env.monotonic_ns(self->env.arg);
}

struct replica *host__replica(const struct host *self, uint32_t group)
{
    for (struct replica *replica = self->replicas; replica != NULL; replica = replica->next)
        if (replica->group == group)
            return replica;
    return NULL;
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
    random_seed(&self->random, options->seed);
    *out = self;
    return SLUICE_OK;
}

/* ---- What the segments held ---- */

static struct host__recovered *recovered_of(struct host *self, uint32_t group, bool make)
{
    struct host__recovered *found = self->recovered;
    while (found != NULL && found->group != group)
        found = found->next;
    if (found == NULL && make) {
        found = calloc(1, sizeof(*found));
        if (found != NULL) {
            found->group = group;
            found->next = self->recovered;
            self->recovered = found;
        }
    }
    return found;
}

static void recovered_clear(struct host__recovered *recovered)
{
    for (size_t i = 0; i < recovered->count; i++)
        buf_unref(recovered->entries[i].body);
    recovered->count = 0;
    recovered->first = 0;
    recovered->promised = 0;
    recovered->stable = 0;
}

/* Entries come in the order in which they were accepted: within a group indexes rise, and step back where a new leader
 * wrote again. */
static enum sluice_status recovered_entry(struct host__recovered *recovered, const struct entry *entry)
{
    if (recovered->count == 0)
        recovered->first = entry->index;
    if (entry->index < recovered->first)
        return SLUICE_OK; /* what lies before the kept part is in the store already */
    size_t at = (size_t)(entry->index - recovered->first);
    if (at > recovered->count) {
        /* A hole: the segments between were recycled, so everything before is in the store. */
        for (size_t i = 0; i < recovered->count; i++)
            buf_unref(recovered->entries[i].body);
        recovered->count = 0;
        recovered->first = entry->index;
        at = 0;
    }
    if (at >= recovered->capacity) {
        size_t capacity = recovered->capacity == 0 ? 256 : recovered->capacity * 2;
        struct entry *grown = realloc(recovered->entries, capacity * sizeof(*grown));
        if (grown == NULL)
            return SLUICE_MEMORY;
        recovered->entries = grown;
        recovered->capacity = capacity;
    }
    if (at == recovered->count)
        recovered->count++;
    else
        buf_unref(recovered->entries[at].body);
    recovered->entries[at] = *entry;
    if (entry->body != NULL)
        buf_ref(entry->body);
    return SLUICE_OK;
}

enum sluice_status host_recover(struct host *self, const struct wal_record *record)
{
    if (record->type == WAL_CEILING) {
        if (record->ballot > self->ceilings_max)
            self->ceilings_max = record->ballot;
        return SLUICE_OK;
    }
    struct host__recovered *recovered = recovered_of(self, record->group, true);
    if (recovered == NULL)
        return SLUICE_MEMORY;
    if (record->epoch < recovered->epoch)
        return SLUICE_OK;
    if (record->epoch > recovered->epoch || record->type == WAL_FORGET) {
        recovered_clear(recovered);
        recovered->epoch = record->epoch;
    }
    switch (record->type) {
    case WAL_PROMISE:
        if (record->ballot > recovered->promised)
            recovered->promised = record->ballot;
        return SLUICE_OK;
    case WAL_STABLE:
        if (record->ballot > recovered->stable)
            recovered->stable = record->ballot;
        return SLUICE_OK;
    case WAL_ENTRY:
        if (record->ballot > recovered->promised)
            recovered->promised = record->ballot;
        return recovered_entry(recovered, &record->entry);
    default:
        return SLUICE_OK;
    }
}

void host_start(struct host *self)
{
    pairs_init(&self->pairs, &self->options.pairs, host__now(self), self->ceilings_max);
    hlc_merge(&self->clock, self->ceilings_max);
    self->started = true;
}

/* ---- Groups ---- */

static const struct entry *recovered_at(const struct host__recovered *recovered, uint64_t index)
{
    if (recovered == NULL || recovered->count == 0 || index < recovered->first ||
        index - recovered->first >= recovered->count)
        return NULL;
    return &recovered->entries[index - recovered->first];
}

/* Applies what is known to be chosen and was not yet in the store when the process ended. */
static enum sluice_status replay_stable(struct replica *self, const struct host__recovered *recovered)
{
    uint64_t applied = versions_applied(self->versions, NULL);
    while (recovered != NULL && applied < recovered->stable) {
        const struct entry *entry = recovered_at(recovered, applied + 1);
        if (entry == NULL)
            break;
        struct machine_outcome outcome;
        char *reply = NULL;
        enum sluice_status status = self->machine != NULL ? machine_apply(self->machine, entry, &outcome)
                                                          : self->host->env.map_apply(self->host->env.arg, entry,
                                                                                      self->versions, &outcome, &reply);
        free(reply);
        if (status != SLUICE_OK)
            return status;
        applied++;
    }
    return SLUICE_OK;
}

static enum sluice_status open_consensus(struct replica *self, const struct host_group *group,
                                         const struct host__recovered *recovered)
{
    struct host *host = self->host;
    struct paxos_options options = {
        .node = host->options.pairs.node,
        .epoch = group->epoch,
        .replica_count = group->replica_count,
        .preferred = group->replicas[0],
        .memory_only = group->memory_only,
        .amnesiac = group->amnesiac,
        .election_ns = host->options.election_ns,
        .resend_ns = host->options.resend_ns,
        .window = host->options.window,
        .follower_bytes_max = 8u << 20,
        .seed = random_next(&host->random),
    };
    memcpy(options.replicas, group->replicas, sizeof(options.replicas));
    struct paxos_recovered state = {.promised = recovered == NULL ? 0 : recovered->promised};
    state.stable = versions_applied(self->versions, &state.stable_time);
    state.last = state.stable;
    while (!group->memory_only && recovered_at(recovered, state.last + 1) != NULL &&
           state.last - state.stable < host->options.window)
        state.last++;
    struct entry newest;
    if (state.stable > 0 && versions_entry(self->versions, state.stable, &newest) == SLUICE_OK) {
        state.stable_opened = newest.opened;
        buf_unref(newest.body);
    }
    hlc_merge(&host->clock, state.stable_time);
    enum sluice_status status = paxos_init(&self->paxos, &options, &host->pairs, self->slots, &state, host__now(host));
    if (status != SLUICE_OK)
        return status;
    for (uint64_t index = state.stable + 1; index <= state.last; index++) {
        const struct entry *entry = recovered_at(recovered, index);
        const struct paxos_slot slot = {.ballot = entry->ballot,
                                        .time = entry->time,
                                        .opened = entry->opened,
                                        .size = entry->body == NULL ? 0 : entry->body->size,
                                        .flags = entry->kind};
        paxos_recover_slot(&self->paxos, index, &slot);
        struct entry *held = &self->log[index & (host->options.window - 1)];
        *held = *entry;
        if (held->body != NULL)
            buf_ref(held->body);
        hlc_merge(&host->clock, entry->time);
    }
    return SLUICE_OK;
}

static void replica_destroy(struct replica *self)
{
    serve__drop_waiting(self, NULL);
    for (struct host__reader *reader = self->readers; reader != NULL;) {
        struct host__reader *next = reader->next;
        pattern_destroy(reader->pattern);
        free(reader);
        reader = next;
    }
    for (uint32_t i = 0; self->log != NULL && i < self->host->options.window; i++)
        buf_unref(self->log[i].body);
    for (uint32_t i = 0; i < self->queued_count; i++)
        buf_unref(self->queued[i].body);
    machine_destroy(self->machine);
    if (self->versions != NULL)
        versions_destroy(self->versions);
    free(self->queued);
    free(self->tickets);
    free(self->pending);
    free(self->log);
    free(self->slots);
    free(self);
}

enum sluice_status host_group_add(struct host *self, const struct host_group *group)
{
    struct replica *replica = calloc(1, sizeof(*replica));
    if (replica == NULL)
        return SLUICE_MEMORY;
    enum sluice_status status = SLUICE_MEMORY;
    uint32_t window = self->options.window;
    replica->host = self;
    replica->group = group->group;
    replica->epoch = group->epoch;
    replica->memory_only = group->memory_only;
    replica->waiting_tail = &replica->waiting;
    replica->versions = group->versions;
    replica->slots = calloc(window, sizeof(*replica->slots));
    replica->log = calloc(window, sizeof(*replica->log));
    replica->pending = calloc(window, sizeof(*replica->pending));
    if (replica->slots == NULL || replica->log == NULL || replica->pending == NULL)
        goto fail;
    if (replica->versions == NULL) {
        const struct versions_options options = {
            .group = group->group,
            .epoch = group->epoch,
            .store = group->memory_only ? NULL : self->options.store,
            .hot_bytes_max = group->memory_only ? self->options.volatile_bytes_max : self->options.hot_bytes_max,
        };
        status = versions_create(&options, &replica->versions);
        if (status != SLUICE_OK)
            goto fail;
    }
    if (group->group != MAP_GROUP) {
        status = machine_create(replica->versions, &replica->machine);
        if (status != SLUICE_OK)
            goto fail;
    }
    struct host__recovered *recovered = recovered_of(self, group->group, false);
    if (recovered != NULL && recovered->epoch != group->epoch)
        recovered = NULL;
    status = replay_stable(replica, group->memory_only ? NULL : recovered);
    if (status == SLUICE_OK)
        status = open_consensus(replica, group, recovered);
    if (status != SLUICE_OK)
        goto fail;
    if (recovered != NULL)
        recovered_clear(recovered);
    replica->next = self->replicas;
    self->replicas = replica;
    self->next_tick_ns = 0;
    return SLUICE_OK;

fail:
    replica_destroy(replica);
    return status;
}

void host_group_remove(struct host *self, uint32_t group, bool erase)
{
    for (struct replica **at = &self->replicas; *at != NULL; at = &(*at)->next) {
        struct replica *replica = *at;
        if (replica->group != group)
            continue;
        *at = replica->next;
        for (uint32_t i = 0; i < self->options.window; i++)
            if (replica->pending[i].type != 0)
                serve__lost(replica, &replica->pending[i]);
        for (uint32_t i = 0; i < replica->queued_count; i++)
            serve__not_leader(replica, replica->queued[i].who.link, replica->queued[i].who.request_id);
        watch__end_all(replica, SLUICE_EPOCH_LOST, "this shard, or its epoch, has ended");
        if (replica->leading)
            self->env.role(self->env.arg, group, replica->epoch, false);
        if (erase) {
            const struct wal_record record = {.type = WAL_FORGET, .group = group, .epoch = replica->epoch};
            enum sluice_status status = versions_erase(replica->versions);
            if (status == SLUICE_OK)
                status = self->env.persist(self->env.arg, &record);
            if (status != SLUICE_OK)
                self->env.fatal(self->env.arg, status, "a group could not be erased");
        }
        replica_destroy(replica);
        return;
    }
}

bool host_group_has(const struct host *self, uint32_t group, uint64_t *epoch)
{
    const struct replica *replica = host__replica(self, group);
    if (replica != NULL && epoch != NULL)
        *epoch = replica->epoch;
    return replica != NULL;
}

void host_group_admit(struct host *self, uint32_t group)
{
    struct replica *replica = host__replica(self, group);
    struct paxos_event event = {.type = PAXOS_EVENT_ADMIT};
    if (replica != NULL)
        replica__step(replica, &event, NULL, NULL);
}

void host_group_want(struct host *self, uint32_t group, const uint16_t *nodes, uint32_t count)
{
    struct replica *replica = host__replica(self, group);
    uint64_t wanted = 0;
    for (uint32_t i = 0; i < count; i++)
        if (nodes[i] > 0 && nodes[i] < PAIRS_NODES_MAX)
            wanted |= UINT64_C(1) << nodes[i];
    if (replica == NULL || replica->wanted == wanted)
        return;
    replica->wanted = wanted;
    self->next_tick_ns = 0;
}

void host_group_transfer(struct host *self, uint32_t group, uint16_t node)
{
    (void)self;
    (void)group;
    (void)node;
}

void host_transfer_all(struct host *self)
{
    for (struct replica *replica = self->replicas; replica != NULL; replica = replica->next)
        host_group_transfer(self, replica->group, 0);
}

uint32_t host_leads(const struct host *self)
{
    uint32_t count = 0;
    for (const struct replica *replica = self->replicas; replica != NULL; replica = replica->next)
        count += replica->paxos.role == PAXOS_LEADER;
    return count;
}

struct versions *host_group_versions(const struct host *self, uint32_t group)
{
    const struct replica *replica = host__replica(self, group);
    return replica == NULL ? NULL : replica->versions;
}

uint64_t host_cursor(const struct host *self, uint32_t group, const char *lambda)
{
    const struct replica *replica = host__replica(self, group);
    return replica == NULL || replica->machine == NULL ? 0 : machine_cursor(replica->machine, lambda, strlen(lambda));
}

void host_destroy(struct host *self)
{
    if (self == NULL)
        return;
    while (self->replicas != NULL) {
        struct replica *next = self->replicas->next;
        replica_destroy(self->replicas);
        self->replicas = next;
    }
    while (self->recovered != NULL) {
        struct host__recovered *next = self->recovered->next;
        recovered_clear(self->recovered);
        free(self->recovered->entries);
        free(self->recovered);
        self->recovered = next;
    }
    free(self);
}

/* ---- Peers ---- */

static void persist_ceiling(struct host *self, const struct pairs_effect *effect)
{
    const struct wal_record record = {.type = WAL_CEILING, .group = effect->node, .ballot = effect->ceiling};
    enum sluice_status status = self->env.persist(self->env.arg, &record);
    if (status != SLUICE_OK)
        self->env.fatal(self->env.arg, status, "a ceiling could not be handed to the disk");
    self->ceiling_sequence = effect->sequence;
    self->ceilings_dirty = true;
}

static void carry_out_pairs(struct host *self)
{
    for (uint32_t i = 0; i < self->pairs_effects.count; i++) {
        const struct pairs_effect *effect = &self->pairs_effects.items[i];
        if (effect->type == PAIRS_EFFECT_PERSIST_CEILING) {
            persist_ceiling(self, effect);
            continue;
        }
        struct peer_header header = {
            .magic = PEER_MAGIC, .version = PEER_VERSION, .kind = PEER_PAIRS, .time = self->clock.last};
        struct peer_pairs body;
        peer_pairs_write(&effect->message, &body);
        peer_header_seal(&header, &body, sizeof(body));
        const struct slice parts[2] = {{&header, sizeof(header)}, {&body, sizeof(body)}};
        self->env.send_peer(self->env.arg, effect->node, parts, 2);
    }
    self->pairs_effects.count = 0;
}

static void tick_groups(struct host *self)
{
    for (struct replica *replica = self->replicas; replica != NULL; replica = replica->next)
        replica__tick(replica);
}

void host_peer_add(struct host *self, uint16_t node)
{
    ASSERT(self->started);
    if (node != self->options.pairs.node && !self->peer_added[node]) {
        self->peer_added[node] = true;
        pairs_set_member(&self->pairs, node, true);
    }
}

void host_peer_up(struct host *self, uint16_t node)
{
    (void)node;
    self->next_tick_ns = 0;
}

void host_peer_down(struct host *self, uint16_t node, bool proof)
{
    pairs_peer_down(&self->pairs, node, proof, host__now(self));
    tick_groups(self);
}

static void receive_paxos(struct host *self, uint16_t from, const struct peer_header *header, const uint8_t *body,
                          size_t size)
{
    uint32_t count = 0;
    struct replica *replica = host__replica(self, header->group);
    if (replica == NULL)
        return; /* the map that creates the group has not come by yet */
    enum sluice_status status =
        peer_paxos_read(body, size, header->group, from, &self->message, self->received, &count);
    if (status == SLUICE_OK) {
        struct paxos_event event = {.type = PAXOS_EVENT_MESSAGE, .message = &self->message};
        self->figures.peer_messages++;
        replica__step(replica, &event, self->received, NULL);
    } else {
        LOG_WARN("shard", "group=%u node %u sent a message that was dropped: %s", header->group, from,
                 sluice_status_text(status));
    }
    for (uint32_t i = 0; i < count; i++) {
        buf_unref(self->received[i].body);
        self->received[i].body = NULL;
    }
}

static void receive_pairs(struct host *self, uint16_t from, const struct peer_header *header, const uint8_t *body,
                          size_t size)
{
    struct pairs_message message;
    enum sluice_status status = peer_pairs_read(body, size, header->time, &message);
    uint64_t incarnation = self->pairs.peers[from].incarnation;
    if (status == SLUICE_OK)
        status = pairs_receive(&self->pairs, from, &message, host__now(self), host_time(self), &self->pairs_effects);
    if (status != SLUICE_OK) {
        LOG_WARN("shard", "node %u sent a beat that was dropped: %s", from, sluice_status_text(status));
        return;
    }
    carry_out_pairs(self);
    if (self->pairs.peers[from].incarnation != incarnation)
        tick_groups(self);
}

void host_peer_message(struct host *self, uint16_t from, const void *data, size_t size)
{
    const uint8_t *bytes = data;
    struct peer_header header;
    if (size < sizeof(header) || from == 0 || from >= PAIRS_NODES_MAX || !self->peer_added[from]) {
        LOG_WARN("shard", "a peer message of %zu bytes from node %u was dropped", size, from);
        return;
    }
    memcpy(&header, data, sizeof(header));
    if (header.magic != PEER_MAGIC || header.version != PEER_VERSION) {
        LOG_WARN("shard", "node %u speaks peer protocol version %u, this node speaks %u; upgrade one of them", from,
                 header.version, PEER_VERSION);
        return;
    }
    if (peer_header_check(&header, bytes + sizeof(header), size - sizeof(header)) != SLUICE_OK) {
        LOG_WARN("shard", "a message from node %u was damaged on its way and is dropped", from);
        return;
    }
    uint64_t wall = self->env.realtime_ns(self->env.arg);
    if (header.time > wall + HLC_AHEAD_MAX_NS && header.time > self->clock.last + HLC_AHEAD_MAX_NS)
        LOG_WARN("shard", "the clock of node %u leads this one's by %llu ms; check the time service", from,
                 (unsigned long long)((header.time - wall) / NS_PER_MS));
    hlc_merge(&self->clock, header.time);
    bytes += sizeof(header);
    size -= sizeof(header);
    if (header.kind == PEER_PAXOS)
        receive_paxos(self, from, &header, bytes, size);
    else if (header.kind == PEER_PAIRS)
        receive_pairs(self, from, &header, bytes, size);
    else if (header.kind == PEER_MAP_CHANGE)
        host_map_change(self, (const char *)bytes, size);
    else
        LOG_WARN("shard", "node %u sent a message of an unknown kind %u", from, header.kind);
}

void host_map_change(struct host *self, const char *json, size_t size)
{
    struct replica *replica = host__replica(self, MAP_GROUP);
    if (replica == NULL || size == 0 || size > WIRE_BODY_BYTES_MAX)
        return;
    if (replica->paxos.role == PAXOS_LEADER) {
        const struct host__pending nobody = {0};
        struct buf *body = buf_dup(json, (uint32_t)size);
        if (body == NULL || paxos_room(&replica->paxos) <= replica->queued_count ||
            replica__queue(replica, body, crc32c(json, size), ENTRY_MAP, &nobody) != SLUICE_OK)
            buf_unref(body);
        return;
    }
    uint16_t leader = replica->paxos.leader;
    if (leader == 0 || leader == self->options.pairs.node)
        return;
    struct peer_header header = {
        .magic = PEER_MAGIC, .version = PEER_VERSION, .kind = PEER_MAP_CHANGE, .time = self->clock.last};
    peer_header_seal(&header, json, size);
    const struct slice parts[2] = {{&header, sizeof(header)}, {json, size}};
    self->env.send_peer(self->env.arg, leader, parts, 2);
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
    pairs_work(&self->pairs, host__now(self));
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
        for (uint32_t i = 0; i < self->options.window; i++)
            if (replica->pending[i].link == link)
                replica->pending[i].link = NULL;
        for (uint32_t i = 0; i < replica->queued_count; i++)
            if (replica->queued[i].who.link == link)
                replica->queued[i].who.link = NULL;
        serve__drop_waiting(replica, link);
    }
}

/* ---- Disk, time, rounds ---- */

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
    for (struct replica *replica = self->replicas; replica != NULL; replica = replica->next)
        replica__persisted(replica, ticket);
}

void host_indexed(struct host *self, uint32_t group, uint64_t revision)
{
    struct replica *replica = host__replica(self, group);
    if (replica != NULL)
        versions_indexed(replica->versions, revision);
}

void host_tick(struct host *self)
{
    uint64_t now = host__now(self);
    if (now < self->next_tick_ns)
        return;
    uint64_t next = UINT64_MAX;
    pairs_tick(&self->pairs, now, host_time(self), &self->pairs_effects, &next);
    self->next_tick_ns = next;
    carry_out_pairs(self);
    tick_groups(self);
}

/* Stable indexes ride along in group commits, so that a restart applies what was chosen without asking anybody. */
static void note_stable(struct replica *self)
{
    if (self->memory_only || self->paxos.stable == self->stable_noted)
        return;
    const struct wal_record record = {
        .type = WAL_STABLE, .group = self->group, .epoch = self->epoch, .ballot = self->paxos.stable};
    enum sluice_status status = self->host->env.persist(self->host->env.arg, &record);
    if (status != SLUICE_OK)
        self->host->env.fatal(self->host->env.arg, status, "a stable index could not be handed to the disk");
    self->stable_noted = self->paxos.stable;
}

static void submit(struct host *self)
{
    bool dirty = self->ceilings_dirty;
    for (struct replica *replica = self->replicas; replica != NULL; replica = replica->next)
        if (replica->dirty) {
            dirty = true;
            note_stable(replica);
        }
    if (!dirty)
        return;
    uint64_t ticket = self->env.persist_submit(self->env.arg);
    for (struct replica *replica = self->replicas; replica != NULL; replica = replica->next)
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
    for (struct replica *replica = self->replicas; replica != NULL; replica = replica->next)
        if (replica->queued_count > 0)
            replica__propose(replica);
    for (struct replica *replica = self->replicas; replica != NULL; replica = replica->next) {
        if (replica->waiting != NULL)
            serve__waiting(replica, now);
        if (replica->readers != NULL)
            watch__pump(replica, now);
    }
    submit(self);
}

uint64_t host_next_ns(const struct host *self)
{
    uint64_t next = self->next_tick_ns;
    for (const struct replica *replica = self->replicas; replica != NULL; replica = replica->next) {
        uint64_t watch = watch__next_ns(replica);
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
        for (uint32_t i = 0; i < replica->paxos.options.replica_count; i++)
            status.members |= UINT64_C(1) << replica->paxos.options.replicas[i];
        status.applied = versions_applied(replica->versions, &status.time);
        for (const struct host__reader *reader = replica->readers; reader != NULL; reader = reader->next)
            status.watches += !reader->is_feed;
        each(arg, &status);
    }
}

void host_figures(const struct host *self, struct host_figures *out)
{
    *out = self->figures;
}

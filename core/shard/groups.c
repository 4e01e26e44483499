/* Groups: what the segments held of them, joining, leaving. */
#include <stdlib.h>
#include <string.h>

#include "core/shard/host__.h"

/* Records of a promise under a group's number with this bit, with the placement where an epoch is otherwise, say from
 * which replica (its instance) on the node's vote is good again: it had lost something, or begins without what its node
 * held of the group at an earlier time; so what older replicas promised can't be relied upon, and what the log says of
 * them is not said of it. */
#define LOST_GROUP 0x80000000u

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

void group__recovered_clear(struct host__recovered *recovered)
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
    struct host__recovered *recovered = recovered_of(self, record->group & ~LOST_GROUP, true);
    if (recovered == NULL)
        return SLUICE_MEMORY;
    if ((record->group & LOST_GROUP) != 0) {
        /* A group that was left and came back has the same replica in both words, and the later placement counts. */
        if (record->ballot > recovered->lost ||
            (record->ballot == recovered->lost && record->epoch > recovered->lost_since)) {
            recovered->lost = record->ballot;
            recovered->lost_since = record->epoch;
        }
        return SLUICE_OK;
    }
    if (record->epoch < recovered->epoch)
        return SLUICE_OK;
    if (record->epoch > recovered->epoch || record->type == WAL_FORGET) {
        group__recovered_clear(recovered);
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
        enum sluice_status status = replica__apply(self, entry, &outcome, &reply);
        free(reply);
        if (status != SLUICE_OK)
            return status;
        applied++;
    }
    return SLUICE_OK;
}

/* From this replica on nothing was forgotten, which is on disk before any entry of it is. */
static enum sluice_status note_whole_from(struct replica *self)
{
    struct host *host = self->host;
    self->paxos.options.whole_from = self->paxos.options.instance;
    const struct wal_record record = {.type = WAL_PROMISE,
                                      .group = self->group | LOST_GROUP,
                                      .epoch = self->paxos.options.since,
                                      .ballot = self->paxos.options.instance};
    if (self->memory_only)
        return SLUICE_OK;
    self->dirty = true;
    host__busy(self);
    return host->env.persist(host->env.arg, &record);
}

enum sluice_status group__note_lost(struct replica *self)
{
    LOG_ERROR(
        "shard",
        "group=%u this replica has lost a part of its log; it has no vote until it holds everything again and was "
        "taken into the members anew",
        self->group);
    return note_whole_from(self);
}

/* Has this process no vote, although the members name its node? */
static bool without_vote(const struct replica *self, const struct host_group *group, uint64_t lost)
{
    uint64_t added = paxos_members_instance(&self->members, self->host->options.pairs.node);
    if (group->memory_only)
        return group->amnesiac;
    /* No member, by what it knows: the log may yet tell that it became one, and as which replica. */
    if (added == UINT64_MAX)
        return group->amnesiac || group->lost || lost != 0;
    return group->amnesiac || group->lost || (group->since != 0 && added == 0) || added < lost;
}

/* What the next replica that this process opens is called; all before it, of earlier processes too, are less. */
static uint64_t next_instance(const struct host *self)
{
    return (self->options.pairs.incarnation << PAXOS_INSTANCE_BITS) + self->opened;
}

/* The highest ballot known to open at or before the newest stable entry; false: the disk does not tell. A vote without
 * it could bring back what lies below a time that was closed. */
static bool newest_opened(const struct replica *self, const struct host__recovered *recovered, uint64_t *opened)
{
    uint64_t stable = versions_applied(self->versions, NULL);
    struct entry newest;
    if (stable == 0)
        return true;
    enum sluice_status status = versions_entry(self->versions, stable, &newest);
    if (status == SLUICE_OK) {
        *opened = newest.opened;
        buf_unref(newest.body);
        return true;
    }
    const struct entry *logged = recovered_at(recovered, stable);
    if (logged != NULL)
        *opened = logged->opened;
    else if (status == SLUICE_GONE && self->opened.index == stable)
        *opened = self->opened.ballot;
    else
        return false;
    return true;
}

static enum sluice_status open_consensus(struct replica *self, const struct host_group *group,
                                         const struct host__recovered *recovered, uint64_t lost, uint64_t opened)
{
    struct host *host = self->host;
    struct paxos_options options = {
        .node = host->options.pairs.node,
        .epoch = group->epoch,
        .instance = next_instance(host),
        .since = group->since,
        .whole_from = lost,
        .replica_count = group->replica_count,
        .preferred = group->replica_count == 0 ? 0 : group->replicas[0],
        .memory_only = group->memory_only,
        .amnesiac = without_vote(self, group, lost),
        .forgot = group->memory_only && group->amnesiac && group->lost,
        .election_ns = host->options.election_ns,
        .resend_ns = host->options.resend_ns,
        .window = host->options.window,
        .follower_bytes_max = 32u << 20,
        .pace = &host->pace,
        .behind_max = host->options.behind_max,
        .seed = random_next(&host->random),
    };
    memcpy(options.replicas, group->replicas, sizeof(options.replicas));
    host->opened++;
    struct paxos_recovered state = {
        .promised = recovered == NULL ? 0 : recovered->promised, .stable_opened = opened, .members = self->members};
    self->compacted = state.compacted = versions_gaps(self->versions);
    state.stable = versions_applied(self->versions, &state.stable_time);
    state.last = state.stable;
    while (!group->memory_only && recovered_at(recovered, state.last + 1) != NULL &&
           state.last - state.stable < host->options.window)
        state.last++;
    hlc_merge(&host->clock, state.stable_time);
    enum sluice_status status = paxos_init(&self->paxos, &options, &host->pairs, self->slots, &state, host__now(host));
    if (status != SLUICE_OK)
        return status;
    for (uint64_t index = state.stable + 1; index <= state.last; index++) {
        const struct entry *entry = recovered_at(recovered, index);
        struct paxos_slot slot = {.ballot = entry->ballot,
                                  .time = entry->time,
                                  .opened = entry->opened,
                                  .size = entry->body == NULL ? 0 : entry->body->size,
                                  .flags = entry->kind};
        struct entry_members members;
        if (peer_members(entry, &members)) {
            slot.members = members.voters;
            slot.members_instance = members.instance;
        }
        paxos_recover_slot(&self->paxos, index, &slot);
        struct entry *held = &self->log[index & (host->options.window - 1)];
        *held = *entry;
        if (held->body != NULL)
            buf_ref(held->body);
        host__load_add(self, slot.size);
        hlc_merge(&host->clock, entry->time);
    }
    return SLUICE_OK;
}

void group__destroy(struct replica *self)
{
    struct host *host = self->host;
    for (struct replica **at = &host->busy; self->busy && *at != NULL; at = &(*at)->busy_next)
        if (*at == self) {
            *at = self->busy_next;
            break;
        }
    if (host__replica(host, self->group) == self)
        host->table[self->group] = NULL;
    read__drop_waiting(self, NULL);
    snapshot__drop_all(self);
    install__drop(self);
    repair__drop_all(self);
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
    host__load_drop(self, self->load_bytes);
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

/* Numbers of groups are given one after the other, so that a table by number stays small. */
static enum sluice_status make_room(struct host *self, uint32_t group)
{
    if (group < self->table_size)
        return SLUICE_OK;
    uint32_t size = self->table_size == 0 ? 64 : self->table_size;
    while (size <= group && size < UINT32_MAX / 2)
        size *= 2;
    struct replica **grown = size <= group ? NULL : reallocarray(self->table, size, sizeof(struct replica *));
    if (grown == NULL)
        return SLUICE_MEMORY;
    memset(grown + self->table_size, 0, (size - self->table_size) * sizeof(struct replica *));
    self->table = grown;
    self->table_size = size;
    return SLUICE_OK;
}

enum sluice_status host_group_add(struct host *self, const struct host_group *given)
{
    struct host_group known = *given;
    const struct host_group *group = &known;
    struct replica *replica = calloc(1, sizeof(*replica));
    if (replica == NULL)
        return SLUICE_MEMORY;
    enum sluice_status status = make_room(self, group->group);
    const struct host__recovered *before = recovered_of(self, group->group, false);
    /* It comes back before what it held at an earlier time was erased. */
    if (status == SLUICE_OK && before != NULL && before->left)
        status = host_erase_left(self, group->group);
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
    if (status == SLUICE_OK && (replica->slots == NULL || replica->log == NULL || replica->pending == NULL))
        status = SLUICE_MEMORY;
    if (status != SLUICE_OK)
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
    uint64_t lost = recovered == NULL ? 0 : recovered->lost; /* of whatever epoch */
    uint64_t lost_since = recovered == NULL || group->memory_only ? 0 : recovered->lost_since;
    /* The disk may know of a later placement than a map of an earlier time does. */
    if (lost_since > known.since)
        known.since = lost_since;
    if (recovered != NULL && recovered->epoch != group->epoch)
        recovered = NULL;
    for (uint32_t i = 0; i < group->replica_count; i++)
        replica->members.voters |= paxos_mask(group->replicas[i]);
    status = replica__load_facts(replica);
    if (status == SLUICE_OK)
        status = replay_stable(replica, group->memory_only ? NULL : recovered);
    uint64_t opened = 0;
    if (status == SLUICE_OK && !newest_opened(replica, recovered, &opened))
        known.lost = known.lost || replica->members.voters != paxos_mask(self->options.pairs.node);
    if (status == SLUICE_OK)
        status = open_consensus(replica, group, recovered, lost, opened);
    if (status != SLUICE_OK)
        goto fail;
    /* What the log will say of earlier placements on this node is not said of this one, and not of its next process.
     * That is on disk before any entry is; as long as none is, nothing was acknowledged that could be lost. */
    bool anew = group->since != 0 && replica->paxos.last == 0 && lost_since != group->since;
    if (known.lost && !group->memory_only)
        status = group__note_lost(replica);
    else if (anew)
        status = note_whole_from(replica);
    if (status != SLUICE_OK)
        goto fail;
    if (recovered != NULL)
        group__recovered_clear(recovered);
    replica->next = self->replicas;
    self->replicas = replica;
    self->table[group->group] = replica;
    self->next_tick_ns = 0;
    return SLUICE_OK;

fail:
    group__destroy(replica);
    return status;
}

/* What a node held of a group that it leaves for good. */
struct left {
    uint32_t group;
    bool memory_only;
    uint64_t epoch, promised;
    uint64_t since, instance; /* replicas before this instance are void */
};

/* The data go, and two words stay, which are on the disk before the data are not. What this node promised binds it also
 * afterwards: should it come back, a candidate of then may still count that promise as this process's. And no replica
 * until now has a vote any more: a start under a map of before would open one that has forgotten what it acknowledged,
 * with members that still count on it. */
static enum sluice_status note_left(struct host *self, const struct left *left)
{
    const struct wal_record forget = {.type = WAL_FORGET, .group = left->group, .epoch = left->epoch};
    const struct wal_record promise = {
        .type = WAL_PROMISE, .group = left->group, .epoch = left->epoch, .ballot = left->promised};
    const struct wal_record lost = {
        .type = WAL_PROMISE, .group = left->group | LOST_GROUP, .epoch = left->since, .ballot = left->instance};
    struct host__recovered *recovered = recovered_of(self, left->group, true);
    if (recovered == NULL)
        return SLUICE_MEMORY;
    group__recovered_clear(recovered);
    recovered->epoch = left->epoch;
    recovered->promised = left->promised;
    enum sluice_status status = SLUICE_OK;
    if (!left->memory_only) {
        recovered->lost = left->instance;
        recovered->lost_since = left->since;
        status = self->env.persist(self->env.arg, &lost);
    }
    if (status == SLUICE_OK)
        status = self->env.persist(self->env.arg, &forget);
    if (status == SLUICE_OK && left->promised != 0)
        status = self->env.persist(self->env.arg, &promise);
    if (status != SLUICE_OK)
        return status;
    self->noted = true;
    if (!left->memory_only) {
        host__submit(self);
        if (self->env.persist_wait != NULL)
            status = self->env.persist_wait(self->env.arg);
    }
    if (status == SLUICE_OK)
        recovered->left = false;
    return status;
}

static void erase(struct replica *replica)
{
    struct host *self = replica->host;
    const struct left left = {.group = replica->group,
                              .memory_only = replica->memory_only,
                              .epoch = replica->epoch,
                              .promised = replica->paxos.promised,
                              .since = replica->paxos.options.since,
                              .instance = next_instance(self)};
    enum sluice_status status = note_left(self, &left);
    if (status == SLUICE_OK)
        status = versions_erase(replica->versions);
    if (status != SLUICE_OK)
        self->env.fatal(self->env.arg, status, "a group could not be erased");
}

/* What erasing it later, or another replica of it, has to know. */
static void keep_left(const struct replica *replica)
{
    struct host__recovered *recovered = recovered_of(replica->host, replica->group, true);
    if (recovered == NULL) {
        replica->host->env.fatal(replica->host->env.arg, SLUICE_MEMORY, "a group could not be left");
        return;
    }
    recovered->left = true;
    recovered->epoch = replica->epoch;
    recovered->promised = replica->paxos.promised;
    recovered->lost = replica->paxos.options.whole_from;
    recovered->lost_since = replica->paxos.options.since;
}

static void take_away(struct host *self, uint32_t group, void (*last)(struct replica *replica))
{
    for (struct replica **at = &self->replicas; *at != NULL; at = &(*at)->next) {
        struct replica *replica = *at;
        if (replica->group != group)
            continue;
        *at = replica->next;
        self->table[group] = NULL;
        for (uint32_t i = 0; i < self->options.window; i++)
            if (replica->pending[i].type != 0)
                serve__lost(replica, &replica->pending[i]);
        for (uint32_t i = 0; i < replica->queued_count; i++)
            serve__not_leader(replica, replica->queued[i].who.link, replica->queued[i].who.request_id);
        watch__end_all(replica, SLUICE_STALE_MAP, "this node holds the shard no more");
        if (replica->leading)
            self->env.role(self->env.arg, group, replica->epoch, false);
        if (last != NULL)
            last(replica);
        group__destroy(replica);
        return;
    }
}

void host_group_remove(struct host *self, uint32_t group, bool erases)
{
    take_away(self, group, erases ? erase : NULL);
}

static void leave(struct replica *replica)
{
    if (replica->memory_only)
        erase(replica);
    else
        keep_left(replica);
}

void host_group_leave(struct host *self, uint32_t group)
{
    take_away(self, group, leave);
}

enum sluice_status host_erase_left(struct host *self, uint32_t group)
{
    ASSERT(host__replica(self, group) == NULL);
    const struct host__recovered *recovered = recovered_of(self, group, false);
    struct left left = {.group = group, .epoch = 1, .instance = next_instance(self)};
    if (recovered != NULL && recovered->epoch > left.epoch)
        left.epoch = recovered->epoch;
    if (recovered != NULL) {
        left.promised = recovered->promised;
        left.since = recovered->lost_since;
    }
    enum sluice_status status = note_left(self, &left);
    if (status == SLUICE_OK && self->options.store != NULL)
        status = store_erase(self->options.store, group);
    return status;
}

bool host_next_left(const struct host *self, uint32_t from, uint32_t *group, bool *closed)
{
    uint32_t stored;
    bool found = false;
    *closed = false;
    for (const struct host__recovered *item = self->recovered; item != NULL; item = item->next)
        if (item->group >= from && (item->count > 0 || item->left) && host__replica(self, item->group) == NULL &&
            (!found || item->group < *group)) {
            *group = item->group;
            *closed = item->left;
            found = true;
        }
    for (uint32_t at = from; self->options.store != NULL && store_next_group(self->options.store, at, &stored);
         at = stored + 1) {
        if (found && *group <= stored)
            break;
        if (host__replica(self, stored) == NULL) {
            *group = stored;
            *closed = false;
            return true;
        }
        if (stored == UINT32_MAX)
            break;
    }
    return found;
}

void group__tick_all(struct host *self)
{
    for (struct replica *replica = self->replicas; replica != NULL; replica = replica->next)
        replica__tick(replica);
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

uint64_t host_group_since(const struct host *self, uint32_t group)
{
    const struct replica *replica = host__replica(self, group);
    return replica == NULL ? 0 : replica->paxos.options.since;
}

void host_group_want(struct host *self, uint32_t group, const struct host_wanted *nodes, uint32_t count)
{
    struct replica *replica = host__replica(self, group);
    uint64_t wanted = 0, since[PAXOS_NODES_MAX] = {0};
    for (uint32_t i = 0; i < count; i++)
        if (nodes[i].node > 0 && nodes[i].node < PAXOS_NODES_MAX) {
            wanted |= paxos_mask(nodes[i].node);
            since[nodes[i].node] = nodes[i].since;
        }
    if (replica == NULL || !paxos_set_wanted(&replica->paxos, wanted, since))
        return;
    replica->due_ns = 0;
    self->next_tick_ns = 0;
}

void host_group_transfer(struct host *self, uint32_t group, uint16_t node)
{
    struct replica *replica = host__replica(self, group);
    struct paxos_event event = {.type = PAXOS_EVENT_TRANSFER, .node = node};
    if (replica != NULL && replica->paxos.role == PAXOS_LEADER)
        replica__step(replica, &event, NULL, NULL);
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

/* A node: what core/shard/host.c does with its groups and pairs, with numbers for values. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/panic.h"
#include "tests/sim/paxos/sim.h"

/* A message on its way: the pairs' or a group's, with the values of its entries behind it. */
struct letter {
    uint64_t group; /* 0: of the pairs */
    union {
        struct pairs_message pairs;
        struct paxos_message paxos; /* sent only as far as its entries reach */
    } body;
};

struct accepted *log_at(struct sim_log *log, uint64_t index)
{
    ASSERT(index > 0 && index < UINT64_C(1) << 24);
    if (index >= log->capacity) {
        uint64_t capacity = index * 2 + 64;
        log->entries = realloc(log->entries, capacity * sizeof(*log->entries));
        ASSERT(log->entries != NULL);
        memset(log->entries + log->capacity, 0, (capacity - log->capacity) * sizeof(*log->entries));
        log->capacity = capacity;
    }
    return &log->entries[index];
}

bool node_can(const struct sim_node *node)
{
    return node->up && node->sim->world.now >= node->paused_until;
}

uint64_t node_now(const struct sim_node *node)
{
    return world_monotonic(&node->sim->world, &node->clock);
}

uint64_t node_time(struct sim_node *node)
{
    return hlc_now(&node->hlc, world_realtime(&node->sim->world, &node->clock));
}

static void defer(struct world *world, const struct world_event *event, uint64_t until)
{
    uint64_t delay = until - world->now + world_below(world, 10 * NS_PER_US);
    struct world_event *later = world_after(world, delay, event->size, event->run, event->arg);
    later->a = event->a;
    later->b = event->b;
    memcpy(later->data, event->data, event->size);
}

/* A process that stands still takes things in when it goes on, in any order. */
static bool deferred(struct sim_node *node, const struct world_event *event)
{
    if (node->sim->world.now >= node->paused_until)
        return false;
    defer(&node->sim->world, event, node->paused_until);
    return true;
}

/* ---- Disk ---- */

/* An acceptance counts once its group commit has ended, or once it was found again after a crash. What a crash kept of
 * a group commit was never spoken of, and some of it may lie beyond the window. */
static void remember(struct sim_node *node, const struct record *record)
{
    if (node->fresh_count == node->fresh_capacity) {
        node->fresh_capacity = node->fresh_capacity * 2 + 64;
        node->fresh = realloc(node->fresh, node->fresh_capacity * sizeof(*node->fresh));
        ASSERT(node->fresh != NULL);
    }
    node->fresh[node->fresh_count++] = *record;
}

static void count_votes(struct sim_node *node)
{
    for (size_t i = 0; i < node->fresh_count; i++) {
        const struct record *record = &node->fresh[i];
        const struct accepted entry = {.ballot = record->ballot, .value = record->value};
        if (node->groups[record->group].disk.amnesiac)
            continue; /* no vote, until it was added again */
        oracle_vote(node->sim, record->group, node->id, record->index, &entry);
    }
    node->fresh_count = 0;
}

/* What a snapshot holds was chosen, so it may be taken from what is known of that. */
static void install(struct sim_node *node, const struct record *record, bool same)
{
    struct sim_group *group = &node->groups[record->group];
    if (record->index <= group->disk.stable || (same && node->up && group->paxos.role != PAXOS_FOLLOWER)) {
        group->installing = same ? 0 : group->installing;
        return;
    }
    for (uint64_t index = group->disk.stable + 1; index <= record->index; index++)
        *log_at(&group->disk.log, index) =
            (struct accepted){.ballot = UINT64_MAX, .value = *oracle_chosen(node->sim, record->group, index)};
    group->disk.stable = record->index;
    group->disk.members = record->members;
}

static void record_durable(void *arg, const void *data)
{
    struct sim_node *node = arg;
    const struct record *record = data;
    struct sim_group *group = &node->groups[record->group];
    bool same = record->incarnation == node->incarnation;
    switch (record->type) {
    case RECORD_CEILING:
        if (record->ballot > node->ceilings_on_disk)
            node->ceilings_on_disk = record->ballot;
        if (same)
            node->ceiling_sequence_durable = record->sequence;
        return;
    case RECORD_PROMISE:
        if (record->ballot > group->disk.promised)
            group->disk.promised = record->ballot;
        if (node->sim->memory_only && paxos_ballot_node(record->ballot) == 0)
            group->disk.amnesiac = false; /* above all that was lost */
        break;
    case RECORD_ENTRY: {
        const struct accepted entry = {.ballot = record->ballot, .value = record->value};
        *log_at(&group->disk.log, record->index) = entry;
        if (record->ballot > group->disk.promised)
            group->disk.promised = record->ballot;
        if (same)
            remember(node, record);
        break;
    }
    case RECORD_STABLE:
        if (record->index <= group->disk.stable)
            return;
        group->disk.stable = record->index;
        group->disk.members = record->members;
        return;
    case RECORD_INSTALLED:
        install(node, record, same);
        return;
    }
    if (same && record->sequence > group->sequence_durable)
        group->sequence_durable = record->sequence;
}

static void tell_installed(struct sim_node *node, uint32_t id)
{
    struct sim_group *group = &node->groups[id];
    uint64_t index = group->installing;
    if (index == 0 || group->disk.stable < index)
        return;
    group->installing = 0;
    const struct accepted *last = log_at(&group->disk.log, index);
    const struct paxos_snapshot snapshot = {
        .index = index, .time = last->value.time, .opened = last->value.opened, .members = group->install_members};
    struct paxos_event event = {.type = PAXOS_EVENT_INSTALLED, .snapshot = &snapshot};
    for (uint64_t i = 1; i <= index; i++) {
        struct accepted *held = log_at(&group->log, i);
        if (i > group->paxos.stable)
            *held = *log_at(&group->disk.log, i);
        /* The log begins anew behind it. */
        if (index > group->paxos.stable)
            held->value.id = 0;
    }
    (void)node_step(node, id, &event, NULL);
    group->stable_seen = group->paxos.stable > group->stable_seen ? group->paxos.stable : group->stable_seen;
    node->sim->figures.snapshots++;
}

static void tell_durable(struct sim_node *node)
{
    count_votes(node);
    if (node->ceiling_sequence_durable > node->ceiling_sequence_told) {
        node->ceiling_sequence_told = node->ceiling_sequence_durable;
        pairs_persisted(&node->pairs, node->ceiling_sequence_told);
        node->pairs_next_ns = 0;
    }
    for (uint32_t i = 1; i <= node->sim->group_count; i++)
        tell_installed(node, i);
    for (uint32_t i = 1; i <= node->sim->group_count; i++) {
        struct sim_group *group = &node->groups[i];
        if (group->sequence_durable == group->sequence_told)
            continue;
        group->sequence_told = group->sequence_durable;
        struct paxos_event event = {.type = PAXOS_EVENT_PERSISTED, .sequence = group->sequence_durable};
        (void)node_step(node, i, &event, NULL);
    }
    node_settle(node);
}

static void told_later(struct world *world, struct world_event *event)
{
    struct sim_node *node = event->arg;
    (void)world;
    if (node->up && node->incarnation == event->a && !deferred(node, event))
        tell_durable(node);
}

static void disk_done(void *arg, uint64_t ticket)
{
    struct sim_node *node = arg;
    (void)ticket;
    if (node_can(node))
        tell_durable(node);
    else if (node->up)
        world_after(&node->sim->world, node->paused_until - node->sim->world.now, 0, told_later, node)->a =
            node->incarnation;
}

static void write_entry(struct sim_node *node, uint32_t group, uint64_t index, uint64_t sequence)
{
    const struct accepted *entry = log_at(&node->groups[group].log, index);
    const struct record record = {.type = RECORD_ENTRY,
                                  .group = group,
                                  .index = index,
                                  .ballot = entry->ballot,
                                  .sequence = sequence,
                                  .incarnation = node->incarnation,
                                  .value = entry->value};
    world_disk_write(&node->disk, &record);
    node->groups[group].dirty = true;
}

/* The stable indexes ride at the end of the group commit. */
static void submit(struct sim_node *node)
{
    bool dirty = node->ceilings_dirty;
    for (uint32_t i = 1; i <= node->sim->group_count; i++) {
        struct sim_group *group = &node->groups[i];
        dirty = dirty || group->dirty;
        if (!group->dirty || node->sim->memory_only || group->paxos.stable == group->stable_noted)
            continue;
        const struct record record = {
            .type = RECORD_STABLE, .group = i, .index = group->paxos.stable, .members = group->paxos.members};
        world_disk_write(&node->disk, &record);
        group->stable_noted = group->paxos.stable;
    }
    for (uint32_t i = 1; i <= node->sim->group_count; i++)
        node->groups[i].dirty = false;
    node->ceilings_dirty = false;
    if (dirty)
        (void)world_disk_submit(&node->disk);
}

/* ---- Messages ---- */

static void arrive(struct world *world, struct world_event *event);

static void carry_out_pairs(struct sim_node *node, const struct pairs_effects *effects)
{
    static struct letter out; /* of no group */
    struct sim *sim = node->sim;
    for (uint32_t i = 0; i < effects->count; i++) {
        const struct pairs_effect *effect = &effects->items[i];
        if (effect->type == PAIRS_EFFECT_SEND) {
            out.body.pairs = effect->message;
            world_send(&sim->world, node->id, effect->node, &out,
                       offsetof(struct letter, body) + sizeof(out.body.pairs), arrive, &sim->nodes[effect->node]);
            continue;
        }
        const struct record record = {.type = RECORD_CEILING,
                                      .ballot = effect->ceiling,
                                      .sequence = effect->sequence,
                                      .incarnation = node->incarnation};
        world_disk_write(&node->disk, &record);
        node->ceilings_dirty = true;
    }
}

static void arrive_pairs(struct sim_node *node, uint32_t from, const struct pairs_message *message)
{
    static struct pairs_effects effects;
    struct sim *sim = node->sim;
    uint64_t incarnation = node->pairs.peers[from].incarnation;
    effects.count = 0;
    hlc_merge(&node->hlc, message->time);
    if (pairs_receive(&node->pairs, (uint16_t)from, message, node_now(node), node_time(node), &effects) != SLUICE_OK)
        world_fail(&sim->world, "node %u refused a beat of node %u", node->id, from);
    carry_out_pairs(node, &effects);
    struct paxos_event tick = {.type = PAXOS_EVENT_TICK};
    for (uint32_t i = 1; i <= sim->group_count && node->pairs.peers[from].incarnation != incarnation; i++)
        (void)node_step(node, i, &tick, NULL);
}

static void arrive_paxos(struct sim_node *node, uint32_t from, const struct letter *letter)
{
    struct value values[PAXOS_MESSAGE_ENTRIES_MAX];
    struct paxos_message *message = &node->sim->message;
    memcpy(message, &letter->body.paxos, offsetof(struct paxos_message, entries));
    memcpy(message->entries, letter->body.paxos.entries, message->entry_count * sizeof(message->entries[0]));
    memcpy(values, &letter->body.paxos.entries[message->entry_count], message->entry_count * sizeof(values[0]));
    struct paxos_event event = {.type = PAXOS_EVENT_MESSAGE, .message = message};
    if (node_step(node, (uint32_t)letter->group, &event, values) != SLUICE_OK)
        world_fail(&node->sim->world, "node %u refused a message of type %u from node %u", node->id, message->type,
                   from);
}

static void arrive(struct world *world, struct world_event *event)
{
    struct sim_node *node = event->arg;
    const struct letter *letter = (const void *)event->data;
    if (!node->up || deferred(node, event))
        return;
    if (letter->group != 0) {
        uint64_t delay =
            ambush_delay_ns(node->sim, (uint32_t)letter->group, (uint32_t)event->a, node->id, letter->body.paxos.type);
        if (delay > 0 && delay < UINT64_MAX)
            defer(world, event, world->now + delay);
        if (delay > 0)
            return;
    }
    if (letter->group == 0)
        arrive_pairs(node, (uint32_t)event->a, &letter->body.pairs);
    else
        arrive_paxos(node, (uint32_t)event->a, letter);
    node_settle(node);
}

static void say_message(const struct sim_node *node, uint32_t group, uint32_t to, const struct paxos_message *message)
{
    static const char *const names[] = {"?",      "PREVOTE",  "PREVOTE_REPLY", "PREPARE", "PROMISE",
                                        "ACCEPT", "ACCEPTED", "REJECT",        "TRANSFER"};
    printf("%10.3f group %u: %u -> %u %s %llx first %llu count %u last %llu stable %llu persisted %llu%s\n",
           (double)node->sim->world.now / 1e6, group, node->id, to,
           names[message->type <= PAXOS_TRANSFER ? message->type : 0], (unsigned long long)message->ballot,
           (unsigned long long)message->first, message->entry_count, (unsigned long long)message->last,
           (unsigned long long)message->stable, (unsigned long long)message->persisted,
           message->granted ? " granted" : "");
}

/* Values, times and sizes come from the log; now and then the sender can read only the first of many. */
static void send_paxos(struct sim_node *node, uint32_t group, uint32_t to, const struct paxos_message *message)
{
    static union {
        struct letter letter;
        uint64_t room[(sizeof(struct letter) + PAXOS_MESSAGE_ENTRIES_MAX * sizeof(struct value)) / 8 + 1];
    } out;
    struct world *world = &node->sim->world;
    uint32_t count = message->entry_count;
    if (count > 1 && world_below(world, 16) == 0)
        count = 1 + (uint32_t)world_below(world, count);
    out.letter.group = group;
    memcpy(&out.letter.body.paxos, message, offsetof(struct paxos_message, entries));
    struct paxos_message *body = &out.letter.body.paxos;
    struct value *values = (struct value *)(void *)&body->entries[count];
    body->entry_count = count;
    for (uint32_t i = 0; i < count; i++) {
        uint64_t index = message->first + i;
        const struct accepted *entry = log_at(&node->groups[group].log, index);
        if (entry->value.id == 0)
            world_fail(world, "node %u sends revision %llu of group %u, which it does not hold", node->id,
                       (unsigned long long)index, group);
        values[i] = entry->value;
        body->entries[i] = message->entries[i];
        if (index > node->groups[group].paxos.stable)
            continue;
        body->entries[i] = (struct paxos_message_entry){.ballot = message->entries[i].ballot,
                                                        .time = entry->value.time,
                                                        .opened = entry->value.opened,
                                                        .members = entry->value.members,
                                                        .members_instance = entry->value.members_instance,
                                                        .size = entry->value.size,
                                                        .flags = entry->value.flags};
    }
    if (node->sim->verbose)
        say_message(node, group, to, body);
    oracle_sent(node, group, message);
    node->sim->figures.messages++;
    /* Whoever was removed while it led says so for as long as it lives, now and then. */
    if (message->type != PAXOS_TRANSFER)
        node->sim->message_ns = world->now;
    world_mix(world, message->type ^ message->ballot << 4 ^ message->first << 20 ^ (uint64_t)count << 50);
    world_send(world, node->id, to, &out, (size_t)((uint8_t *)&values[count] - (uint8_t *)&out), arrive,
               &node->sim->nodes[to]);
}

/* ---- Effects ---- */

static void store(struct sim_node *node, uint32_t group, const struct paxos_effect *effect, const struct value *values)
{
    struct sim_group *self = &node->groups[group];
    for (uint32_t i = 0; i < effect->count; i++) {
        uint64_t index = effect->first + i;
        struct accepted *entry = log_at(&self->log, index);
        const struct paxos_slot *slot = &self->slots[index & (self->paxos.options.window - 1)];
        if (effect->type == PAXOS_EFFECT_STORE)
            entry->value = values[effect->source + i];
        else if (effect->type == PAXOS_EFFECT_STORE_NOOP)
            entry->value = (struct value){.id = UINT64_C(1) << 63 | effect->ballot, .time = slot->time};
        entry->value.opened = slot->opened;
        entry->ballot = effect->ballot;
        if (effect->sequence != 0 && !node->sim->memory_only)
            write_entry(node, group, index, effect->sequence);
        if (node->sim->memory_only && effect->ballot == self->paxos.ballot && !self->paxos.options.amnesiac)
            oracle_vote(node->sim, group, node->id, index, entry);
    }
}

static void admit(struct world *world, struct world_event *event)
{
    struct sim_node *node = event->arg;
    if (!node->up || node->incarnation != event->b || deferred(node, event))
        return;
    struct sim_group *group = &node->groups[event->a];
    struct paxos_event step = {.type = PAXOS_EVENT_ADMIT};
    /* From now on what it holds counts, unless it promises more in the same step: then what it accepts next does. */
    uint64_t counts = group->paxos.options.amnesiac && !group->paxos.options.forgot ? group->paxos.match : 0;
    if (group->paxos.options.amnesiac)
        node->sim->figures.admissions++;
    (void)world;
    (void)node_step(node, (uint32_t)event->a, &step, NULL);
    for (uint64_t index = 1; index <= counts; index++)
        oracle_vote(node->sim, (uint32_t)event->a, node->id, index, log_at(&group->log, index));
    node_settle(node);
}

/* A snapshot is on its way for a while; what comes of it, the leader hears, or gives it up. */
static void snapshot_ended(struct world *world, struct world_event *event)
{
    struct sim_node *node = event->arg;
    (void)world;
    if (!node->up || node->incarnation != event->b || deferred(node, event))
        return;
    struct paxos_event step = {.type = PAXOS_EVENT_SNAPSHOT_ENDED, .node = (uint16_t)(event->a >> 8)};
    (void)node_step(node, (uint32_t)event->a & 0xff, &step, NULL);
    node_settle(node);
}

static void snapshot_arrives(struct world *world, struct world_event *event)
{
    struct sim_node *node = event->arg;
    uint32_t id = (uint32_t)event->b;
    struct sim_group *group = &node->groups[id];
    struct record record;
    (void)world;
    if (!node->up || deferred(node, event))
        return;
    memcpy(&record, event->data, sizeof(record));
    if (group->installing != 0 || group->paxos.role != PAXOS_FOLLOWER || record.index <= group->paxos.stable)
        return;
    record.incarnation = node->incarnation;
    group->installing = record.index;
    group->install_members = record.members;
    world_disk_write(&node->disk, &record);
    group->dirty = true;
    node_settle(node);
}

static void send_snapshot(struct sim_node *node, uint32_t group, uint16_t to)
{
    struct world *world = &node->sim->world;
    const struct paxos *paxos = &node->groups[group].paxos;
    const struct record record = {
        .type = RECORD_INSTALLED, .group = group, .index = paxos->stable, .members = paxos->members};
    uint64_t taken = world_below(world, 100 * NS_PER_MS);
    if (!world->cut[node->id][to] && !world_fault(world, 100000)) {
        struct world_event *comes = world_after(world, taken, sizeof(record), snapshot_arrives, &node->sim->nodes[to]);
        comes->b = group;
        memcpy(comes->data, &record, sizeof(record));
    }
    struct world_event *ends = world_after(world, taken + world_below(world, 20 * NS_PER_MS), 0, snapshot_ended, node);
    ends->a = (uint64_t)to << 8 | group;
    ends->b = node->incarnation;
}

/* What was stable anywhere when the round began is stable here now. */
static void reads_answered(struct sim_node *node, uint32_t group, uint64_t sequence)
{
    struct sim_group *self = &node->groups[group];
    uint32_t kept = 0;
    for (uint32_t i = 0; i < self->read_count; i++) {
        const struct sim_read *read = &self->reads[i];
        if (read->sequence > sequence) {
            self->reads[kept++] = *read;
            continue;
        }
        if (self->paxos.stable < read->acknowledged)
            world_fail(&node->sim->world,
                       "node %u answers a read in group %u at revision %llu, and %llu was "
                       "acknowledged before it",
                       node->id, group, (unsigned long long)self->paxos.stable, (unsigned long long)read->acknowledged);
        node->sim->figures.reads++;
    }
    self->read_count = kept;
}

void node_read(struct sim_node *node, uint32_t group)
{
    struct sim_group *self = &node->groups[group];
    if (self->paxos.role != PAXOS_LEADER || self->read_count == SIM_READS_MAX)
        return;
    self->reads[self->read_count++] = (struct sim_read){.sequence = self->paxos.read_sequence + 1,
                                                        .acknowledged = node->sim->oracles[group].acknowledged};
    struct paxos_event event = {.type = PAXOS_EVENT_READ};
    if (node_step(node, group, &event, NULL) != SLUICE_OK)
        world_fail(&node->sim->world, "a leader refuses a read round");
    node_settle(node);
}

void node_compact(struct sim_node *node, uint32_t group)
{
    struct sim_group *self = &node->groups[group];
    if (self->paxos.stable <= self->paxos.options.window)
        return;
    uint64_t most = self->paxos.stable - self->paxos.options.window;
    struct paxos_event event = {.type = PAXOS_EVENT_COMPACT,
                                .index = most - world_below(&node->sim->world, most < 20 ? most : 20)};
    if (node_step(node, group, &event, NULL) != SLUICE_OK)
        world_fail(&node->sim->world, "compaction up to %llu was refused", (unsigned long long)event.index);
    for (uint64_t index = 1; index <= event.index; index++)
        log_at(&self->log, index)->value.id = 0;
    node->sim->figures.compactions++;
}

static void carry_out(struct sim_node *node, uint32_t group, const struct paxos_effect *effect,
                      const struct value *values)
{
    struct sim *sim = node->sim;
    struct world_event *later;
    switch (effect->type) {
    case PAXOS_EFFECT_STORE:
    case PAXOS_EFFECT_STORE_NOOP:
    case PAXOS_EFFECT_REWRITE:
        store(node, group, effect, values);
        break;
    case PAXOS_EFFECT_PERSIST_PROMISE: {
        const struct record record = {.type = RECORD_PROMISE,
                                      .group = group,
                                      .ballot = effect->ballot,
                                      .sequence = effect->sequence,
                                      .incarnation = node->incarnation};
        world_disk_write(&node->disk, &record);
        node->groups[group].dirty = true;
        break;
    }
    case PAXOS_EFFECT_SEND:
        send_paxos(node, group, effect->node, &sim->effects.messages[effect->message]);
        break;
    case PAXOS_EFFECT_STABLE:
        oracle_stable(node, group, effect->first);
        break;
    case PAXOS_EFFECT_LEADING:
        sim->figures.elections++;
        if (sim->verbose)
            printf("%10.3f node %u leads group %u under %llx from revision %llu\n", (double)sim->world.now / 1e6,
                   node->id, group, (unsigned long long)effect->ballot,
                   (unsigned long long)node->groups[group].paxos.stable);
        break;
    case PAXOS_EFFECT_CAUGHT_UP:
        later = world_after(&sim->world, world_below(&sim->world, 200 * NS_PER_MS), 0, admit, node);
        later->a = group;
        later->b = node->incarnation;
        break;
    case PAXOS_EFFECT_MEMBERS:
        if (sim->verbose)
            printf("%10.3f group %u: node %u has members %llx by revision %llu\n", (double)sim->world.now / 1e6, group,
                   node->id, (unsigned long long)node->groups[group].paxos.members.voters,
                   (unsigned long long)effect->first);
        break;
    case PAXOS_EFFECT_READ:
        reads_answered(node, group, effect->sequence);
        break;
    case PAXOS_EFFECT_SNAPSHOT:
        send_snapshot(node, group, effect->node);
        break;
    case PAXOS_EFFECT_LOST:
        node->groups[group].disk.amnesiac = true;
        break;
    case PAXOS_EFFECT_FOLLOWING:
        node->groups[group].read_count = 0;
        break;
    case PAXOS_EFFECT_RECEIVED:
        break;
    }
}

/* It was added to the members again: from now on what it holds counts. */
static void admitted_again(struct sim_node *node, uint32_t id)
{
    struct sim_group *group = &node->groups[id];
    if (!group->disk.amnesiac || group->paxos.options.amnesiac || node->sim->memory_only)
        return;
    group->disk.amnesiac = false;
    node->sim->figures.admissions++;
    for (uint64_t index = group->disk.stable + 1; index < group->disk.log.capacity; index++)
        if (log_at(&group->disk.log, index)->value.id != 0 && !log_at(&group->disk.log, index)->forgotten)
            oracle_vote(node->sim, id, node->id, index, log_at(&group->disk.log, index));
}

enum sluice_status node_step(struct sim_node *node, uint32_t group, struct paxos_event *event,
                             const struct value *values)
{
    struct sim *sim = node->sim;
    event->now_ns = node_now(node);
    event->time = node_time(node);
    enum sluice_status status = paxos_step(&node->groups[group].paxos, event, &sim->effects);
    admitted_again(node, group);
    /* Effects never step a group again, so one buffer does for all. */
    for (uint32_t i = 0; status == SLUICE_OK && i < sim->effects.count; i++)
        carry_out(node, group, &sim->effects.items[i], values);
    return status;
}

/* ---- Time ---- */

static void wake(struct world *world, struct world_event *event);

static void schedule(struct sim_node *node)
{
    struct world *world = &node->sim->world;
    uint64_t due = node->pairs_next_ns, now = node_now(node);
    for (uint32_t i = 1; i <= node->sim->group_count; i++) {
        uint64_t group = paxos_next_tick_ns(&node->groups[i].paxos);
        due = group < due ? group : due;
    }
    uint64_t delay = due > now ? due - now : 0;
    if (delay > NS_PER_S)
        delay = NS_PER_S;
    world_after(world, delay + 10 * NS_PER_US, 0, wake, node)->a = ++node->wakes;
}

static void send_beats(struct sim_node *node)
{
    static struct pairs_effects effects;
    uint64_t next = UINT64_MAX;
    effects.count = 0;
    pairs_tick(&node->pairs, node_now(node), node_time(node), &effects, &next);
    node->pairs_next_ns = next;
    carry_out_pairs(node, &effects);
}

static void wake(struct world *world, struct world_event *event)
{
    struct sim_node *node = event->arg;
    (void)world;
    if (!node->up || event->a != node->wakes || deferred(node, event))
        return;
    send_beats(node);
    struct paxos_event tick = {.type = PAXOS_EVENT_TICK};
    for (uint32_t i = 1; i <= node->sim->group_count; i++)
        (void)node_step(node, i, &tick, NULL);
    node_settle(node);
}

void node_settle(struct sim_node *node)
{
    submit(node);
    schedule(node);
    oracle_node(node);
    oracle_leases(node->sim);
}

void node_peer_down(struct sim_node *node, uint32_t peer, uint64_t incarnation, bool proof)
{
    struct paxos_event tick = {.type = PAXOS_EVENT_TICK};
    pairs_peer_down(&node->pairs, (uint16_t)peer, incarnation, proof);
    for (uint32_t i = 1; i <= node->sim->group_count; i++)
        (void)node_step(node, i, &tick, NULL);
    node_settle(node);
}

/* ---- Start and end ---- */

static void group_start(struct sim_node *node, uint32_t id)
{
    struct sim *sim = node->sim;
    struct sim_group *group = &node->groups[id];
    struct paxos_options options = {
        .node = (uint16_t)node->id,
        .epoch = 1,
        .memory_only = sim->memory_only,
        .amnesiac = sim->memory_only ? node->incarnation > 1 : group->disk.amnesiac,
        .forgot = sim->memory_only && group->disk.amnesiac,
        .behind_max = sim->behind_max,
        .election_ns = 150 * NS_PER_MS,
        .resend_ns = 50 * NS_PER_MS,
        .window = sim->window,
        .follower_bytes_max = 256u << 10,
        .seed = random_next(&sim->world.random),
    };
    uint64_t began = sim->began[id];
    for (uint64_t rest = began; rest != 0 && (began & paxos_mask((uint16_t)node->id)) != 0; rest &= rest - 1)
        options.replicas[options.replica_count++] = (uint16_t)__builtin_ctzll(rest);
    options.preferred = (uint16_t)__builtin_ctzll(began);
    struct paxos_recovered recovered = {.promised = group->disk.promised};
    if (!sim->memory_only) {
        recovered.stable = recovered.last = recovered.compacted = group->disk.stable;
        recovered.members = group->disk.members;
        if (recovered.stable > 0 && sim->compact == 0)
            recovered.compacted = 0;
        if (recovered.stable > 0) {
            recovered.stable_time = log_at(&group->disk.log, recovered.stable)->value.time;
            recovered.stable_opened = log_at(&group->disk.log, recovered.stable)->value.opened;
        }
        while (log_at(&group->disk.log, recovered.last + 1)->value.id != 0 &&
               recovered.last - recovered.stable < sim->window)
            recovered.last++;
    }
    if (group->slots == NULL)
        group->slots = calloc(sim->window, sizeof(*group->slots));
    if (paxos_init(&group->paxos, &options, &node->pairs, group->slots, &recovered, node_now(node)) != SLUICE_OK)
        world_fail(&sim->world, "node %u cannot open group %u", node->id, id);
    free(group->log.entries);
    group->log = (struct sim_log){0};
    for (uint64_t index = 1; index <= recovered.last; index++) {
        const struct accepted *entry = log_at(&group->disk.log, index);
        const struct paxos_slot slot = {.ballot = entry->ballot,
                                        .time = entry->value.time,
                                        .opened = entry->value.opened,
                                        .members = entry->value.members,
                                        .members_instance = entry->value.members_instance,
                                        .size = entry->value.size,
                                        .flags = entry->value.flags};
        *log_at(&group->log, index) = *entry;
        hlc_merge(&node->hlc, entry->value.time);
        if (index <= recovered.compacted)
            log_at(&group->log, index)->value.id = 0;
        if (index <= recovered.stable)
            continue;
        paxos_recover_slot(&group->paxos, index, &slot);
        if (!entry->forgotten && !group->disk.amnesiac)
            oracle_vote(sim, id, node->id, index, entry);
    }
    /* Never spoken of, and not promised either: when it comes to light after a later crash it is no vote any more. */
    for (uint64_t index = recovered.last + 1; log_at(&group->disk.log, index)->value.id != 0; index++)
        log_at(&group->disk.log, index)->forgotten = true;
    if (sim->verbose)
        printf("%10.3f group %u: node %u starts with promise %llx, stable %llu, last %llu\n",
               (double)sim->world.now / 1e6, id, node->id, (unsigned long long)recovered.promised,
               (unsigned long long)recovered.stable, (unsigned long long)recovered.last);
    paxos_set_wanted(&group->paxos, group->wanted, NULL);
    group->installing = group->read_count = 0;
    group->dirty = false;
    group->sequence_durable = group->sequence_told = 0;
    group->stable_noted = group->stable_seen = recovered.stable;
    group->promised_seen = recovered.promised;
    group->closed_seen = 0;
}

void node_start(struct sim_node *node)
{
    struct sim *sim = node->sim;
    const struct pairs_options options = {
        .node = (uint16_t)node->id,
        .incarnation = ++node->incarnation,
        .lease_ns = 60 * NS_PER_MS,
        .beat_ns = 20 * NS_PER_MS,
        .idle_lease_ns = 300 * NS_PER_MS,
        .idle_beat_ns = 100 * NS_PER_MS,
        .idle_after_ns = sim->idle_after_ns,
        .drift_ppm = 1000,
        .ceiling_ahead_ns = 250 * NS_PER_MS,
    };
    ASSERT(!node->up);
    node->up = true;
    node->paused_until = 0;
    node->hlc = (struct hlc){0};
    hlc_merge(&node->hlc, node->ceilings_on_disk);
    node->ceilings_dirty = false;
    node->ceiling_sequence_durable = node->ceiling_sequence_told = 0;
    node->pairs_next_ns = 0;
    if (node->disk.record_size == 0)
        world_disk_init(&node->disk, &sim->world, sizeof(struct record));
    node->disk.durable = record_durable;
    node->disk.done = disk_done;
    node->disk.arg = node;
    pairs_init(&node->pairs, &options, node_now(node), node->ceilings_on_disk);
    for (uint32_t id = 1; id <= sim->node_count; id++)
        if (id != node->id)
            pairs_set_member(&node->pairs, (uint16_t)id, true);
    for (uint32_t i = 1; i <= sim->group_count; i++)
        group_start(node, i);
    node_settle(node);
}

void node_crash(struct sim_node *node)
{
    ASSERT(node->up);
    world_disk_crash(&node->disk);
    node->fresh_count = 0;
    node->up = false;
    node->sim->figures.crashes++;
}

void node_free(struct sim_node *node)
{
    for (uint32_t i = 0; i <= SIM_GROUPS_MAX; i++) {
        free(node->groups[i].slots);
        free(node->groups[i].log.entries);
        free(node->groups[i].disk.log.entries);
    }
    world_disk_deinit(&node->disk);
    free(node->fresh);
}

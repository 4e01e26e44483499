/* What must hold: agreement, rising times, closed time, one lease, and linearizable histories. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/crc.h"
#include "tests/check/check.h"
#include "tests/sim/sim.h"

static void check_entry(struct sim_node *node, uint32_t group, const struct entry *entry)
{
    struct sim_log *log = &sim.logs[group];
    const struct sim_chosen chosen = {.time = entry->time,
                                      .crc = entry->body == NULL ? 0 : crc32c(entry->body->data, entry->body->size),
                                      .kind = entry->kind};
    if (entry->index <= log->count) {
        const struct sim_chosen *known = &log->entries[entry->index - 1];
        if (known->time != chosen.time || known->crc != chosen.crc || known->kind != chosen.kind)
            sim_fail("agreement: node %u applied another entry at revision %llu of group %u", node->id,
                     (unsigned long long)entry->index, group);
        return;
    }
    if (entry->index != log->count + 1)
        sim_fail("node %u applied revision %llu of group %u before %llu was", node->id,
                 (unsigned long long)entry->index, group, (unsigned long long)log->count + 1);
    if (log->count > 0 && chosen.time <= log->entries[log->count - 1].time)
        sim_fail("time does not rise at revision %llu of group %u", (unsigned long long)entry->index, group);
    if (entry->index > log->closed_index && chosen.time <= log->closed_time)
        sim_fail("closed time: revision %llu of group %u has a time that was closed at revision %llu",
                 (unsigned long long)entry->index, group, (unsigned long long)log->closed_index);
    if (log->count == log->capacity) {
        log->capacity = log->capacity == 0 ? 256 : log->capacity * 2;
        log->entries = realloc(log->entries, log->capacity * sizeof(*log->entries));
    }
    log->entries[log->count++] = chosen;
    if (entry->kind == ENTRY_MEMBERS) {
        struct entry_members body;
        if (entry->body == NULL || entry->body->size != sizeof(body))
            sim_fail("revision %llu of group %u names members and is malformed", (unsigned long long)entry->index,
                     group);
        memcpy(&body, entry->body->data, sizeof(body));
        sim_members_chosen(group, body.voters);
    }
}

static void check_closed(struct sim_node *node, const struct replica *replica)
{
    struct sim_log *log = &sim.logs[replica->group];
    const struct paxos *paxos = &replica->paxos;
    if (paxos->closed_time <= log->closed_time)
        return;
    for (uint64_t index = paxos->closed_index + 1; index <= log->count; index++)
        if (log->entries[index - 1].time <= paxos->closed_time)
            sim_fail("closed time: node %u closed a time of group %u that revision %llu already has", node->id,
                     replica->group, (unsigned long long)index);
    log->closed_time = paxos->closed_time;
    log->closed_index = paxos->closed_index;
}

void sim_check_node(struct sim_node *node)
{
    sim.looking = true;
    for (uint32_t group = 0; group <= sim.group_count; group++) {
        struct replica *replica = host__replica(node->host, group);
        if (replica == NULL)
            continue;
        uint64_t applied = versions_applied(replica->versions, NULL);
        if (applied < node->checked[group])
            sim_fail("the stable prefix of node %u in group %u went back", node->id, group);
        for (uint64_t index = node->checked[group] + 1; index <= applied; index++) {
            struct entry entry;
            enum sluice_status status = versions_entry(replica->versions, index, &entry);
            /* A snapshot leaves out what carries no version; only what was chosen before can be in it. */
            if (status == SLUICE_GONE && sim.behind_max != 0 && index <= sim.logs[group].count)
                continue;
            if (status != SLUICE_OK)
                sim_fail("node %u has lost revision %llu of group %u: %s", node->id, (unsigned long long)index, group,
                         sluice_status_text(status));
            check_entry(node, group, &entry);
            buf_unref(entry.body);
        }
        node->checked[group] = applied;
        check_closed(node, replica);
    }
    sim.looking = false;
}

void sim_check_leases(void)
{
    if (sim.leases_off)
        return;
    for (uint32_t group = 0; group <= sim.group_count; group++) {
        uint32_t holder = 0;
        for (uint32_t id = 1; id <= sim.node_count; id++) {
            const struct sim_node *node = &sim.nodes[id];
            const struct replica *replica = node->up ? host__replica(node->host, group) : NULL;
            if (replica == NULL || sim.now < node->paused_until ||
                !paxos_lease_valid(&replica->paxos, sim_monotonic(node)))
                continue;
            if (holder != 0)
                sim_fail("nodes %u and %u hold the lease of group %u at once", holder, id, group);
            holder = id;
        }
    }
}

/* ---- Histories ---- */

static void add(struct check_history *history, const struct sim_operation *operation)
{
    static const enum check_kind kinds[] = {
        [SIM_PUT] = CHECK_PUT,       [SIM_PUT_IF] = CHECK_PUT_IF, [SIM_PUT_ABSENT] = CHECK_PUT_ABSENT,
        [SIM_DELETE] = CHECK_DELETE, [SIM_GET] = CHECK_GET,       [SIM_GET_AT] = CHECK_GET_AT};
    const struct check_operation item = {
        .kind = kinds[operation->kind],
        .outcome = operation->ended == 0 ? CHECK_UNKNOWN
                   : operation->failed   ? CHECK_FAILED
                                         : CHECK_OK,
        .key = operation->key,
        .client = operation->client,
        .line = history->count + 1,
        .start = operation->started,
        .end = operation->ended,
        .value = operation->value,
        .version = operation->ended == 0 ? 0 : operation->version,
        .seen = operation->ended != 0 && operation->seen && (operation->kind >= SIM_GET || operation->failed),
        .deleted = operation->deleted,
        .condition = operation->kind == SIM_PUT_IF ? operation->condition : 0,
        .at = operation->at,
        .time = operation->failed || operation->ended == 0 ? 0 : operation->time,
    };
    check_history_add(history, &item);
}

void sim_check_history(void)
{
    struct check_history history;
    struct check_result result;
    check_history_init(&history);
    for (size_t i = 0; i < sim.history_count; i++)
        add(&history, &sim.history[i]);
    for (uint32_t i = 0; i < SIM_CLIENTS_MAX; i++)
        if (sim.clients[i].now != NULL)
            add(&history, sim.clients[i].now);
    for (uint32_t i = 0; i < sim.user_count; i++)
        for (int k = 0; k < 2; k++) {
            const struct sim_operation *now = k == 0 ? sim.users[i].now : sim.users[i].pair;
            if (now != NULL)
                add(&history, now);
        }
    check_linearizable(&history, CHECK_STEPS_MAX, &result);
    if (result.verdict != CHECK_GOOD)
        sim_fail("the history is not good: %s (lines are those of --verbose)", result.text);
    sim.totals.operations = history.count;
    for (size_t i = 0; i < history.count; i++)
        sim.totals.unknown += history.operations[i].outcome == CHECK_UNKNOWN;
    check_history_free(&history);
}

static void check_temporal_read(struct versions *versions, const struct sim_operation *read)
{
    struct version version;
    char key[16];
    size_t size = (size_t)snprintf(key, sizeof(key), "key%u", read->key);
    enum sluice_status status = versions_by_time(versions, (struct slice){key, size}, read->at, false, &version);
    uint64_t now = status == SLUICE_OK ? version.version : 0;
    if (status == SLUICE_OK)
        version_release(&version);
    if (now != read->version)
        sim_fail("key %u at one past time was version %llu when client %u asked, and is version %llu now", read->key,
                 (unsigned long long)read->version, read->client, (unsigned long long)now);
}

static void check_written(struct versions *versions, const struct sim_operation *write)
{
    struct version version;
    char key[16], value[24] = "";
    size_t size = (size_t)snprintf(key, sizeof(key), "key%u", write->key);
    if (versions_by_version(versions, (struct slice){key, size}, write->version, true, &version) != SLUICE_OK)
        sim_fail("durability: version %llu of key %u was acknowledged and is lost", (unsigned long long)write->version,
                 write->key);
    bool deleted = (version.flags & VERSION_TOMBSTONE) != 0;
    memcpy(value, version.value == NULL ? "" : version.value,
           version.value == NULL || version.value_size > 20 ? 0 : version.value_size);
    if (deleted != (write->kind == SIM_DELETE) || (!deleted && strtoull(value, NULL, 10) != write->value))
        sim_fail("durability: version %llu of key %u is not what was acknowledged", (unsigned long long)write->version,
                 write->key);
    version_release(&version);
}

bool sim_at_rest(void)
{
    for (uint32_t group = 0; group <= sim.group_count; group++)
        for (uint32_t id = 1; id <= sim.node_count; id++) {
            const struct replica *replica = host__replica(sim.nodes[id].host, group);
            if ((sim_wanted(group) >> id & 1) &&
                (replica == NULL || versions_applied(replica->versions, NULL) != sim.logs[group].count))
                return false;
        }
    return true;
}

/* Everything that moved has arrived, everybody knows, and nobody holds what is another's. */
static void check_map_end(void)
{
    for (uint32_t group = 0; group <= sim.group_count; group++) {
        if (sim_moving(group))
            sim_fail("liveness: group %u is on its way still, long after the last fault: members %llx, wanted %llx",
                     group, (unsigned long long)sim.placement[group].members, (unsigned long long)sim_wanted(group));
        for (uint32_t id = 1; id <= sim.node_count; id++)
            if (!(sim_wanted(group) >> id & 1) && host_group_has(sim.nodes[id].host, group, NULL))
                sim_fail("liveness: node %u holds group %u still, long after it was to leave it", id, group);
    }
    for (uint32_t id = 1; id <= sim.node_count; id++) {
        const struct map_node *node = map_node_find(sim.map, (uint16_t)id);
        if (sim.nodes[id].map_seen != sim.map->epoch)
            sim_fail("liveness: node %u knows map %llu of %llu, long after the last fault", id,
                     (unsigned long long)sim.nodes[id].map_seen, (unsigned long long)sim.map->epoch);
        if (node->state != MAP_NODE_GONE &&
            (node->state != MAP_NODE_UP || node->incarnation != sim.nodes[id].incarnation))
            sim_fail("liveness: the map knows node %u as %s, start %llu of %llu", id, map_node_state_name(node->state),
                     (unsigned long long)node->incarnation, (unsigned long long)sim.nodes[id].incarnation);
    }
    if (sim.map->level != MAP_LEVEL)
        sim_fail("liveness: the cluster works at level %u, and all nodes understand %u", sim.map->level, MAP_LEVEL);
}

void sim_check_end(void)
{
    sim.looking = true; /* to the end of the run */
    check_map_end();
    for (uint32_t group = 0; group <= sim.group_count; group++)
        for (uint32_t id = 1; id <= sim.node_count; id++) {
            if (!(sim_wanted(group) >> id & 1))
                continue;
            if (!host_group_has(sim.nodes[id].host, group, NULL))
                sim_fail("node %u has not joined group %u", id, group);
            uint64_t applied = versions_applied(host__replica(sim.nodes[id].host, group)->versions, NULL);
            if (applied != sim.logs[group].count)
                sim_fail("liveness: node %u stands at revision %llu of %llu in group %u, long after the last fault", id,
                         (unsigned long long)applied, (unsigned long long)sim.logs[group].count, group);
        }
    for (size_t i = 0; i < sim.history_count; i++) {
        const struct sim_operation *operation = &sim.history[i];
        if (operation->ended == 0 || operation->failed)
            continue;
        for (uint32_t id = 1; id <= sim.node_count; id++) {
            struct versions *versions = host_group_versions(sim.nodes[id].host, operation->group);
            if (!(sim_wanted(operation->group) >> id & 1))
                continue;
            if (operation->kind <= SIM_DELETE)
                check_written(versions, operation);
            else if (operation->kind == SIM_GET_AT)
                check_temporal_read(versions, operation);
        }
    }
}

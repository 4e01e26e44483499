/* What must hold: agreement, rising times, closed time, one lease, and linearizable histories. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/crc.h"
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
    for (uint32_t group = 1; group <= sim.group_count; group++) {
        struct replica *replica = host__replica(node->host, group);
        uint64_t applied = versions_applied(replica->versions, NULL);
        if (applied < node->checked[group])
            sim_fail("the stable prefix of node %u in group %u went back", node->id, group);
        for (uint64_t index = node->checked[group] + 1; index <= applied; index++) {
            struct entry entry;
            if (versions_entry(replica->versions, index, &entry) != SLUICE_OK)
                sim_fail("node %u has lost revision %llu of group %u", node->id, (unsigned long long)index, group);
            check_entry(node, group, &entry);
            buf_unref(entry.body);
        }
        node->checked[group] = applied;
        check_closed(node, replica);
    }
}

void sim_check_leases(void)
{
    for (uint32_t group = 1; group <= sim.group_count; group++) {
        uint32_t holder = 0;
        for (uint32_t id = 1; id <= sim.node_count; id++) {
            const struct sim_node *node = &sim.nodes[id];
            if (!node->up || sim.now < node->paused_until ||
                !paxos_lease_valid(&host__replica(node->host, group)->paxos, sim_monotonic(node)))
                continue;
            if (holder != 0)
                sim_fail("nodes %u and %u hold the lease of group %u at once", holder, id, group);
            holder = id;
        }
    }
}

/* ---- Histories ----
 * Each write that happened has a version of its own, and versions are given in the order in which writes take effect.
 * So a history of one key is linearizable exactly if the order of versions agrees with real time, and each read saw
 * what the write of its version wrote (a special case of Wing and Gong, 1993, that needs no search). */

struct point {
    uint64_t started, ended, version;
    bool writes;
    const struct sim_operation *operation;
};

static int by_start(const void *a, const void *b)
{
    const struct point *left = a, *right = b;
    return left->started < right->started ? -1 : left->started > right->started;
}

static int by_end(const void *a, const void *b)
{
    const struct point *left = a, *right = b;
    return left->ended < right->ended ? -1 : left->ended > right->ended;
}

static const struct sim_operation *writer_of(uint32_t key, uint64_t value)
{
    for (size_t i = 0; i < sim.history_count; i++)
        if (sim.history[i].key == key && sim.history[i].kind <= SIM_PUT_ABSENT && sim.history[i].value == value)
            return &sim.history[i];
    for (uint32_t i = 0; i < sim.client_count; i++)
        if (sim.clients[i].now != NULL && sim.clients[i].now->key == key &&
            sim.clients[i].now->kind <= SIM_PUT_ABSENT && sim.clients[i].now->value == value)
            return sim.clients[i].now;
    return NULL;
}

static void check_read(const struct sim_operation *read)
{
    if (read->deleted || read->version == 0)
        return;
    const struct sim_operation *write = writer_of(read->key, read->value);
    if (write == NULL)
        sim_fail("a read of key %u saw value %llu, which nobody wrote", read->key, (unsigned long long)read->value);
    if (write->failed)
        sim_fail("a read of key %u saw value %llu, whose write was refused", read->key,
                 (unsigned long long)read->value);
    if (write->ended != 0 && write->version != read->version)
        sim_fail("key %u: value %llu was written as version %llu and read as version %llu", read->key,
                 (unsigned long long)read->value, (unsigned long long)write->version,
                 (unsigned long long)read->version);
    if (write->started > read->ended)
        sim_fail("key %u: value %llu was read before it was written", read->key, (unsigned long long)read->value);
}

static void check_order(uint32_t key, struct point *points, size_t count)
{
    struct point *ends = malloc((count + 1) * sizeof(*ends));
    memcpy(ends, points, count * sizeof(*ends));
    qsort(points, count, sizeof(*points), by_start);
    qsort(ends, count, sizeof(*ends), by_end);
    uint64_t newest = 0, newest_write = 0;
    size_t ended = 0;
    /* Along real time: whatever begins after others have ended must be at or past the newest that they made or saw. */
    for (size_t i = 0; i < count; i++) {
        for (; ended < count && ends[ended].ended < points[i].started; ended++) {
            if (ends[ended].version > newest)
                newest = ends[ended].version;
            if (ends[ended].writes && ends[ended].version > newest_write)
                newest_write = ends[ended].version;
        }
        if (points[i].writes ? points[i].version <= newest : points[i].version < newest)
            sim_fail("key %u is not linearizable: client %u %s version %llu at %llu us, after version %llu was %s", key,
                     points[i].operation->client, points[i].writes ? "made" : "saw",
                     (unsigned long long)points[i].version, (unsigned long long)(points[i].started / 1000),
                     (unsigned long long)newest, newest == newest_write ? "made" : "seen");
    }
    free(ends);
}

static void check_unique(uint32_t key, const struct point *points, size_t count)
{
    uint64_t top = 0;
    for (size_t i = 0; i < count; i++)
        top = points[i].version > top ? points[i].version : top;
    bool *made = calloc(top + 1, sizeof(*made));
    for (size_t i = 0; i < count; i++) {
        if (!points[i].writes)
            continue;
        if (made[points[i].version])
            sim_fail("version %llu of key %u was given twice", (unsigned long long)points[i].version, key);
        made[points[i].version] = true;
    }
    free(made);
}

void sim_check_history(void)
{
    struct point *points = malloc((sim.history_count + 1) * sizeof(*points));
    for (uint32_t key = 0; key < SIM_KEYS; key++) {
        size_t count = 0;
        for (size_t i = 0; i < sim.history_count; i++) {
            const struct sim_operation *operation = &sim.history[i];
            if (operation->key != key || operation->ended == 0)
                continue;
            if (operation->kind >= SIM_GET)
                check_read(operation);
            if (operation->kind == SIM_GET_AT || (operation->failed && !operation->seen))
                continue;
            /* A condition that failed saw the version that made it fail. */
            points[count++] = (struct point){.started = operation->started,
                                             .ended = operation->ended,
                                             .version = operation->version,
                                             .writes = operation->kind <= SIM_DELETE && !operation->failed,
                                             .operation = operation};
        }
        check_unique(key, points, count);
        check_order(key, points, count);
    }
    free(points);
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

void sim_check_end(void)
{
    for (uint32_t group = 1; group <= sim.group_count; group++)
        for (uint32_t id = 1; id <= sim.node_count; id++) {
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
            if (operation->kind <= SIM_DELETE)
                check_written(versions, operation);
            else if (operation->kind == SIM_GET_AT)
                check_temporal_read(versions, operation);
        }
    }
}

/* Watches of users: nothing missed, nothing repeated, and what progress says is true. */
#include <stdio.h>
#include <string.h>

#include "tests/sim/sim.h"

static void restart(struct sim_event *event);

static void take(struct sim_user *user, const struct sluice_object *object)
{
    struct sim_watch *watch = &user->watch;
    uint32_t key = sim_key_number(object->key, object->key_size), shard = object->shard;
    if (key >= SIM_KEYS || shard > sim.group_count)
        sim_fail("user %u's watch shows a key that nobody wrote", user->id);
    if (object->revision < watch->revision[shard] ||
        (object->revision == watch->revision[shard] && object->operation <= watch->operation[shard]))
        sim_fail("user %u's watch shows revision %llu of shard %u after revision %llu", user->id,
                 (unsigned long long)object->revision, shard, (unsigned long long)watch->revision[shard]);
    watch->revision[shard] = object->revision;
    watch->operation[shard] = object->operation;
    if (watch->last[key] != 0 && object->version != watch->last[key] + 1)
        sim_fail("user %u's watch shows version %llu of key %u after version %llu", user->id,
                 (unsigned long long)object->version, key, (unsigned long long)watch->last[key]);
    if (object->time_ns <= watch->closed)
        sim_fail("user %u's watch shows version %llu of key %u, whose time it had called closed", user->id,
                 (unsigned long long)object->version, key);
    if (watch->last[key] == 0)
        watch->first[key] = object->version;
    watch->last[key] = object->version;
    sim.totals.events++;
}

static void handle(void *arg, const struct sluice_watch_event *event)
{
    struct sim_user *user = arg;
    struct sim_watch *watch = &user->watch;
    switch (event->type) {
    case SLUICE_WATCH_READY:
        if (!watch->ready)
            watch->ready_at = sim.now;
        watch->ready = true;
        break;
    case SLUICE_WATCH_PUT:
    case SLUICE_WATCH_DELETE:
        take(user, event->object);
        break;
    case SLUICE_WATCH_PROGRESS:
        if (event->closed_ns < watch->closed)
            sim_fail("user %u's watch took back what it had called closed", user->id);
        watch->closed = event->closed_ns;
        if (watch->progress_count < SIM_PROGRESS_MAX && watch->ready && random_below(&sim.random, 4) == 0) {
            watch->progress[watch->progress_count].closed = event->closed_ns;
            memcpy(watch->progress[watch->progress_count++].last, watch->last, sizeof(watch->last));
        }
        break;
    case SLUICE_WATCH_END:
        watch->watch = NULL;
        /* Nodes whose clocks were set apart refuse each other's times; a flipped bit in a client's may do the same. */
        if (event->status != SLUICE_OK && event->status != SLUICE_UNAVAILABLE &&
            !(event->status == SLUICE_INVALID && (sim.faults.jump != 0 || sim.faults.corrupt != 0)))
            sim_fail("user %u's watch ended: %s (%s)", user->id, event->detail, sluice_status_text(event->status));
        sim_after(10 * NS_PER_MS, restart, user);
        return;
    }
    if (event->cursor != NULL) {
        snprintf(watch->cursor, sizeof(watch->cursor), "%s", event->cursor);
        watch->resumes = true;
    }
    /* Now and then it is left, and resumed from its cursor. */
    if (watch->resumes && !sim.ending && random_below(&sim.random, 200) == 0) {
        sluice_watch_stop(watch->watch);
        watch->watch = NULL;
        sim.totals.resumed++;
        sim_after(random_below(&sim.random, NS_PER_S), restart, user);
    }
}

void sim_watch_start(struct sim_user *user)
{
    struct sim_watch *watch = &user->watch;
    char error[256] = "";
    const struct sluice_watch_options options = {.kind = 2,
                                                 .pattern = "key",
                                                 .pattern_size = 3,
                                                 .cursor = watch->resumes ? watch->cursor : NULL,
                                                 .values = true,
                                                 .progress_ms = 100};
    sim.user = user;
    enum sluice_status status = sluice_watch_start(user->client, &options, handle, user, &watch->watch, error);
    sim.user = NULL;
    if (status != SLUICE_OK)
        sim_fail("user %u cannot watch: %s", user->id, error);
}

static void restart(struct sim_event *event)
{
    struct sim_user *user = event->arg;
    if (user->client != NULL && user->watch.watch == NULL) {
        /* Without a cursor it begins anew, from now. */
        if (!user->watch.resumes)
            user->watch = (struct sim_watch){0};
        sim_watch_start(user);
        sim_user_turn(user);
    }
    sim_free_event(event);
}

static uint64_t version_at(struct versions *versions, uint32_t key, uint64_t at)
{
    struct version version;
    char name[16];
    size_t size = sim_key_name(key, name);
    if (versions_by_time(versions, (struct slice){name, size}, at, false, &version) != SLUICE_OK)
        return 0;
    uint64_t number = version.version;
    version_release(&version);
    return number;
}

static bool cut_shows(struct versions *versions, uint32_t key, const struct sim_cut *cut)
{
    struct version version;
    char name[16];
    size_t size = sim_key_name(key, name);
    if (versions_by_time(versions, (struct slice){name, size}, cut->at, false, &version) != SLUICE_OK)
        return cut->versions[key] == 0;
    bool deleted = (version.flags & VERSION_TOMBSTONE) != 0;
    uint64_t number = deleted ? SIM_CUT_DELETED : version.version;
    version_release(&version);
    return number == cut->versions[key];
}

#define CUTS_LOOKED_AT 32

void sim_check_cuts(struct sim_node *node)
{
    sim.looking = true;
    for (uint32_t key = 0; key < SIM_KEYS && sim.cut_count > 0; key++) {
        struct replica *replica = host__replica(node->host, sim_group_of_key(key));
        if (replica == NULL)
            continue;
        uint64_t closed = replica__closed_time(replica);
        for (uint32_t i = 0; i < CUTS_LOOKED_AT; i++) {
            const struct sim_cut *cut = &sim.cuts[(i * 61 + sim.events_run) % sim.cut_count];
            if (cut->at > closed)
                continue;
            sim.totals.cuts_again++;
            if (!cut_shows(replica->versions, key, cut))
                sim_fail(
                    "a cut showed version %llu of key %u, and node %u, for which that time is closed, shows another",
                    (unsigned long long)cut->versions[key], key, node->id);
        }
    }
}

static void check_watch(const struct sim_user *user, uint32_t key, struct versions *versions)
{
    const struct sim_watch *watch = &user->watch;
    uint64_t latest = version_at(versions, key, UINT64_MAX);
    bool must = false; /* something was written for certain once it was ready */
    for (size_t i = 0; i < sim.history_count; i++)
        must = must || (sim.history[i].key == key && sim.history[i].kind <= SIM_DELETE && sim.history[i].ended != 0 &&
                        !sim.history[i].failed && sim.history[i].started > watch->ready_at);
    if (watch->ready && (must || watch->last[key] != 0) && watch->last[key] != latest)
        sim_fail("user %u's watch saw key %u up to version %llu, not %llu", user->id, key,
                 (unsigned long long)watch->last[key], (unsigned long long)latest);
    for (size_t i = 0; i < sim.history_count; i++)
        if (sim.history[i].key == key && sim.history[i].kind <= SIM_DELETE && sim.history[i].ended != 0 &&
            !sim.history[i].failed && watch->ready && sim.history[i].started > watch->ready_at &&
            sim.history[i].version < watch->first[key])
            sim_fail("user %u's watch missed version %llu of key %u, written after it was ready", user->id,
                     (unsigned long long)sim.history[i].version, key);
    for (size_t i = 0; i < watch->progress_count; i++) {
        uint64_t there = version_at(versions, key, watch->progress[i].closed);
        if (there > watch->progress[i].last[key] && watch->first[key] != 0 && there >= watch->first[key])
            sim_fail("user %u's watch called a time closed before it had shown version %llu of key %u", user->id,
                     (unsigned long long)there, key);
    }
}

void sim_check_users(void)
{
    for (uint32_t key = 0; key < SIM_KEYS; key++) {
        uint32_t group = sim_group_of_key(key);
        bool watched = false;
        for (uint32_t id = 1; id <= sim.node_count; id++) {
            if (!(sim_wanted(group) >> id & 1))
                continue;
            struct versions *versions = host_group_versions(sim.nodes[id].host, group);
            for (size_t i = 0; versions != NULL && i < sim.cut_count; i++)
                if (!cut_shows(versions, key, &sim.cuts[i]))
                    sim_fail("a cut showed version %llu of key %u, and node %u shows version %llu at the same time now",
                             (unsigned long long)sim.cuts[i].versions[key], key, id,
                             (unsigned long long)version_at(versions, key, sim.cuts[i].at));
            for (uint32_t i = 0; versions != NULL && !watched && i < sim.user_count; i++)
                check_watch(&sim.users[i], key, versions);
            watched = true;
        }
    }
}

/* Nodes: the real host over a simulated network and disk. */
#include <stdlib.h>
#include <string.h>

#include "tests/sim/sim.h"

static uint64_t env_client_pending(void *arg, void *link)
{
    (void)arg;
    return (uintptr_t)link > SIM_CLIENTS_MAX ? sim_link_pending(link) : 0;
}

/* ---- The rest of what a host asks for ---- */

static uint64_t env_monotonic(void *arg)
{
    return sim_monotonic(arg);
}

static uint64_t env_realtime(void *arg)
{
    return sim_realtime(arg);
}

static bool env_owns(void *arg, uint32_t shard, const char *key, size_t size)
{
    const struct sim_node *node = arg;
    return participant_owns(node->participant, shard, key, size);
}

static bool env_storage_full(void *arg)
{
    const struct sim_node *node = arg;
    return sim.now < node->full_until && !sim.healing;
}

static enum sluice_status env_map_apply(void *arg, const struct entry *entry, struct versions *versions,
                                        struct machine_outcome *outcome, char **reply)
{
    const struct sim_node *node = arg;
    if (entry->kind == ENTRY_MAP && entry->body != NULL && entry->index > sim.logs[MAP_GROUP].count)
        sim_say("map change %llu: %.*s", (unsigned long long)entry->index, (int)entry->body->size,
                (const char *)entry->body->data);
    return participant_map_apply(node->participant, entry, versions, outcome, reply);
}

static void env_control(void *arg, void *link, const struct wire_header *header, const void *body)
{
    (void)body;
    sim_map_answer(arg, link, header);
}

static void env_role(void *arg, uint32_t group, uint64_t epoch, bool leading)
{
    (void)epoch;
    sim.totals.elections += leading;
    sim_say("node %u %s group %u", ((struct sim_node *)arg)->id, leading ? "leads" : "leads no more", group);
    if (group != MAP_GROUP)
        sim_lambda_role(arg, group, leading);
}

static void strike_leader(struct sim_event *event)
{
    for (uint32_t id = 1; id <= sim.node_count; id++) {
        const struct replica *replica = sim.nodes[id].up ? host__replica(sim.nodes[id].host, event->a) : NULL;
        if (replica != NULL && replica->leading && sim_crash(&sim.nodes[id]))
            break;
    }
    free(event);
}

void sim_strike(uint32_t group, uint64_t within_ns)
{
    sim_after(random_below(&sim.random, within_ns), strike_leader, NULL)->a = group;
}

static void env_caught_up(void *arg, uint32_t group, uint64_t epoch)
{
    struct sim_node *node = arg;
    (void)epoch;
    participant_caught_up(node->participant, group);
}

static void env_members(void *arg, uint32_t group, uint64_t epoch, uint64_t members)
{
    struct sim_node *node = arg;
    participant_members_changed(node->participant, group, epoch, members);
}

static void env_installed(void *arg, uint32_t group, uint64_t epoch)
{
    struct sim_node *node = arg;
    (void)epoch;
    sim.totals.snapshots++;
    sim_say("node %u has a snapshot of group %u", node->id, group);
    sim_store_durable(node, group, versions_applied(host_group_versions(node->host, group), NULL));
    participant_installed(node->participant, group);
    sim_check_cuts(node);
}

static void env_fatal(void *arg, enum sluice_status status, const char *what)
{
    struct sim_node *node = arg;
    sim_fail("node %u cannot go on: %s: %s", node->id, what, sluice_status_text(status));
}

/* ---- And what a participant asks for ---- */

static enum sluice_status env_versions(void *arg, const struct host_group *group, struct versions **out)
{
    struct sim_node *node = arg;
    *out = sim_store_open(node, group->group, group->epoch);
    sim_say("node %u opens group %u at revision %llu%s", node->id, group->group,
            (unsigned long long)versions_applied(*out, NULL), group->amnesiac ? ", without a vote" : "");
    return SLUICE_OK;
}

static const char *env_address(void *arg, unsigned index)
{
    return index == 0 ? sim_address(((struct sim_node *)arg)->id) : NULL;
}

static char *env_bootstrap(void *arg)
{
    (void)arg;
    return sim_map_bootstrap();
}

static bool env_map_comes(void *arg, const struct map *map)
{
    struct sim_node *node = arg;
    node->founders = map->group.founders;
    return true;
}

static void env_map_came(void *arg, const struct map *map)
{
    (void)map;
    sim_map_tell(arg);
}

static void open_participant(struct sim_node *node)
{
    struct participant_options options = {
        .node = (uint16_t)node->id, .incarnation = node->incarnation, .cluster = SIM_CLUSTER, .host = node->host};
    const struct participant_env env = {
        .arg = node,
        .monotonic_ns = env_monotonic,
        .send = sim_wire_send,
        .versions = env_versions,
        .lost = sim_disk_lost,
        .mend = sim_disk_mend,
        .address = env_address,
        .bootstrap = env_bootstrap,
        .map_comes = env_map_comes,
        .map_came = env_map_came,
        .fatal = env_fatal,
    };
    char error[256];
    options.joined = node->joined;
    options.founders = node->empty ? node->founders : sim.placement[MAP_GROUP].founders;
    if (participant_create(&options, &env, &node->participant) != SLUICE_OK ||
        participant_open(node->participant, error, sizeof(error)) != SLUICE_OK)
        sim_fail("node %u cannot open its part of the cluster: %s", node->id, error);
}

/* ---- Rounds, and the life of a process ---- */

static void wake(struct sim_event *event)
{
    struct sim_node *node = event->arg;
    if (node->up && node->incarnation == event->c) {
        if (sim_node_hold(node, event))
            return;
        if (node->wake_at <= sim.now)
            node->wake_set = false;
        sim_node_round(node);
    }
    free(event);
}

/* A volatile replica has a vote again. What it was admitted for is put to the test: whoever taught it may be the next
 * to go. */
static void look_for_admitted(struct sim_node *node)
{
    for (uint32_t group = 1; sim.memory_only && group <= sim.group_count; group++) {
        const struct replica *replica = host__replica(node->host, group);
        bool votes = replica != NULL && !replica->paxos.options.amnesiac;
        if (votes && node->voteless[group] && random_below(&sim.random, 2) == 0)
            sim_strike(group, 5 * NS_PER_MS);
        node->voteless[group] = replica != NULL && !votes;
    }
}

void sim_node_round(struct sim_node *node)
{
    host_tick(node->host);
    participant_tick(node->participant, true);
    host_flush(node->host);
    participant_follow(node->participant);
    sim_lambda_round(node);
    look_for_admitted(node);
    sim_check_node(node);
    sim_map_check(node);
    uint64_t now = sim_monotonic(node), next = host_next_ns(node->host), part = participant_next_ns(node->participant);
    if (part < next)
        next = part;
    uint64_t delay = next <= now ? 1000 : next - now > NS_PER_S ? NS_PER_S : next - now;
    if (!node->wake_set || sim.now + delay < node->wake_at) {
        node->wake_set = true;
        node->wake_at = sim.now + delay;
        sim_after(delay, wake, node)->c = node->incarnation;
    }
}

static void awake(struct sim_event *event)
{
    struct sim_node *node = event->arg;
    bool same = node->up && node->incarnation == event->c;
    free(event);
    if (!same)
        return;
    if (sim.now < node->paused_until) {
        /* It was stopped again meanwhile. */
        sim_after(node->paused_until - sim.now, awake, node)->c = node->incarnation;
        return;
    }
    size_t count = node->held.count;
    struct sim_event *items[4096];
    memcpy(items, node->held.items, count * sizeof(*items));
    node->held.count = 0;
    for (size_t i = 0; i < count; i++)
        items[i]->run(items[i]);
}

bool sim_node_hold(struct sim_node *node, struct sim_event *event)
{
    if (sim.now >= node->paused_until)
        return false;
    if (node->held.count == 4096)
        sim_fail("a paused node got more than the simulator holds for it");
    if (node->held.count == 0)
        sim_after(node->paused_until - sim.now, awake, node)->c = node->incarnation;
    node->held.items[node->held.count++] = event;
    return true;
}

void sim_node_start(struct sim_node *node)
{
    const struct host_options options = {
        .pairs = {.node = (uint16_t)node->id,
                  .incarnation = ++node->incarnation,
                  .lease_ns = 60 * NS_PER_MS,
                  .beat_ns = 20 * NS_PER_MS,
                  .idle_lease_ns = 300 * NS_PER_MS,
                  .idle_beat_ns = 100 * NS_PER_MS,
                  .idle_after_ns = NS_PER_S,
                  .drift_ppm = 1000,
                  .ceiling_ahead_ns = 250 * NS_PER_MS},
        .seed = random_next(&sim.random),
        .store = (struct store *)node,
        .window = 64,
        .leases_off = sim.leases_off,
        .behind_max = sim.behind_max,
        .catch_up_rate = sim.catch_up_rate,
        .progress_ns = 50 * NS_PER_MS,
    };
    const struct host_env env = {
        .arg = node,
        .monotonic_ns = env_monotonic,
        .realtime_ns = env_realtime,
        .send_peer = sim_send_peer,
        .send_client = sim_send_client,
        .client_pending = env_client_pending,
        .persist = sim_disk_persist,
        .persist_submit = sim_disk_submit,
        .persist_wait = sim_disk_wait,
        .owns = env_owns,
        .storage_full = env_storage_full,
        .map_apply = env_map_apply,
        .control = env_control,
        .role = env_role,
        .caught_up = env_caught_up,
        .members = env_members,
        .installed = env_installed,
        .fatal = env_fatal,
    };
    ASSERT(!node->up && host_create(&options, &env, &node->host) == SLUICE_OK);
    node->up = true;
    node->paused_until = 0;
    node->wake_set = false;
    sim_disk_open(node);
    host_start(node->host);
    for (uint32_t id = 1; id <= sim.node_count; id++)
        host_peer_add(node->host, (uint16_t)id);
    sim_say("node %u starts as process %llu", node->id, (unsigned long long)node->incarnation);
    open_participant(node);
    sim_lambda_start(node);
    sim_node_round(node);
    sim_check_cuts(node);
}

void sim_node_crash(struct sim_node *node)
{
    ASSERT(node->up);
    node->up = false;
    sim.totals.crashes++;
    sim_say("node %u ends", node->id);
    sim_links_of_node(node);
    sim_lambda_stop(node);
    sim_wires_of_node(node);
    for (uint32_t group = 0; group <= sim.group_count; group++) {
        const struct replica *replica = host__replica(node->host, group);
        node->unsound[group] = replica == NULL || !sim_whole(&replica->paxos);
    }
    sim_disk_crash(node);
    for (size_t i = 0; i < node->held.count; i++) {
        free(node->held.items[i]->data);
        free(node->held.items[i]);
    }
    node->held.count = 0;
    participant_destroy(node->participant);
    node->participant = NULL;
    host_destroy(node->host);
    node->host = NULL;
    node->map_seen = 0;
    node->subscriber_count = 0;
    sim_store_crash(node);
}

void sim_node_free(struct sim_node *node)
{
    if (node->up)
        sim_node_crash(node);
    sim_disk_free(node);
    sim_store_wipe(node);
    free(node->lambda);
}

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
    (void)arg;
    return sim_group_of(key, size) == shard;
}

static bool env_storage_full(void *arg)
{
    const struct sim_node *node = arg;
    return sim.now < node->full_until && !sim.healing;
}

static enum sluice_status env_map_apply(void *arg, const struct entry *entry, struct versions *versions,
                                        struct machine_outcome *outcome, char **reply)
{
    (void)arg;
    (void)outcome;
    (void)reply;
    return versions_apply(versions, entry, NULL, 0, NULL, 0);
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

/* Stands for the map group: admits at once, which is the hardest case for the rule that leads here. */
static void env_caught_up(void *arg, uint32_t group, uint64_t epoch)
{
    struct sim_node *node = arg;
    (void)epoch;
    node->host->next_tick_ns = 0;
    host__replica(node->host, group)->paxos.options.amnesiac = false;
    /* What it was admitted for is put to the test: whoever taught it may be the next to go. */
    if (random_below(&sim.random, 4) == 0)
        sim_strike(group, 5 * NS_PER_MS);
}

static void env_installed(void *arg, uint32_t group, uint64_t epoch)
{
    (void)epoch;
    sim.totals.snapshots++;
    sim_say("node %u has a snapshot of group %u", ((struct sim_node *)arg)->id, group);
    sim_check_cuts(arg);
}

static void env_fatal(void *arg, enum sluice_status status, const char *what)
{
    struct sim_node *node = arg;
    sim_fail("node %u cannot go on: %s: %s", node->id, what, sluice_status_text(status));
}

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

void sim_node_round(struct sim_node *node)
{
    host_tick(node->host);
    host_flush(node->host);
    sim_lambda_round(node);
    sim_check_node(node);
    uint64_t now = sim_monotonic(node), next = host_next_ns(node->host);
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
        .window = 64,
        .leases_off = sim.leases_off,
        .behind_max = sim.behind_max,
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
        .owns = env_owns,
        .storage_full = env_storage_full,
        .map_apply = env_map_apply,
        .control = env_control,
        .role = env_role,
        .caught_up = env_caught_up,
        .installed = env_installed,
        .fatal = env_fatal,
    };
    ASSERT(!node->up && host_create(&options, &env, &node->host) == SLUICE_OK);
    host_set_map_epoch(node->host, sim.map->epoch);
    node->up = true;
    node->paused_until = 0;
    node->wake_set = false;
    sim_disk_open(node);
    host_start(node->host);
    for (uint32_t id = 1; id <= sim.node_count; id++)
        host_peer_add(node->host, (uint16_t)id);
    sim_say("node %u starts as process %llu", node->id, (unsigned long long)node->incarnation);
    sim_open_groups(node);
    sim_lambda_start(node);
    sim_check_cuts(node);
    sim_node_round(node);
}

void sim_node_crash(struct sim_node *node)
{
    ASSERT(node->up);
    node->up = false;
    sim.totals.crashes++;
    sim_say("node %u ends", node->id);
    sim_links_of_node(node);
    sim_lambda_stop(node);
    for (uint32_t group = 1; group <= sim.group_count; group++) {
        struct replica *replica = host__replica(node->host, group);
        node->unsound[group] = replica == NULL || !sim_whole(&replica->paxos);
        if (replica == NULL)
            continue;
        if (!sim.keep_versions) {
            sim_store_forget(replica->versions);
            continue;
        }
        node->kept[group] = replica->versions;
        replica->versions = NULL;
    }
    sim_disk_crash(node);
    for (size_t i = 0; i < node->held.count; i++) {
        free(node->held.items[i]->data);
        free(node->held.items[i]);
    }
    node->held.count = 0;
    host_destroy(node->host);
    node->host = NULL;
}

void sim_node_free(struct sim_node *node)
{
    if (node->up)
        sim_node_crash(node);
    sim_disk_free(node);
    for (uint32_t group = 1; group <= SIM_GROUPS_MAX; group++)
        versions_destroy(node->kept[group]);
    free(node->lambda);
}

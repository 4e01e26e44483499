/* Consensus under the simulator: draws a cluster and its faults from a seed, runs it, then ends the faults and asks for
 * progress, agreement and silence.
 *
 * sim_paxos [--seed N] [--seeds COUNT] [--steps EVENTS] [--verbose] */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/paxos/sim.h"

#define FAULT_TICK_NS (10 * NS_PER_MS)
#define HEAL_NS       (6 * NS_PER_S)

static struct sim sim;

static uint64_t below(uint64_t bound)
{
    return world_below(&sim.world, bound);
}

static uint32_t maybe(uint32_t most)
{
    return below(2) == 0 ? 0 : 1 + (uint32_t)below(most);
}

/* A swarm: each run draws which faults it has and how much of each (Groce et al., 2012). */
static uint64_t some_nodes(uint32_t count)
{
    uint64_t nodes = 0;
    while (paxos_mask_count(nodes) < count)
        nodes |= paxos_mask((uint16_t)(1 + below(sim.node_count)));
    return nodes;
}

/* Members come and go. Where disks may lose what they held, three at least are wanted: two could not do without one. */
static void draw_members(void)
{
    sim.change = sim.memory_only ? 0 : 1 + (uint32_t)below(20000);
    if (!sim.memory_only && sim.node_count >= 3 && below(2) == 0)
        sim.lose = 1 + (uint32_t)below(400000);
    uint32_t least = sim.lose != 0 ? 3 : 1;
    for (uint32_t group = 1; group <= sim.group_count; group++) {
        uint32_t count = least + (uint32_t)below(sim.node_count + 1 - least);
        sim.wanted[group] = sim.began[group] = some_nodes(count);
    }
}

/* Five voters, of whom one loses its memory at a time that somebody has chosen; of other faults there are few. */
static void draw_ambushes(void)
{
    sim.node_count = 5;
    sim.group_count = 1;
    sim.crash = sim.partition = sim.pause = sim.change = sim.transfer = 0;
    sim.lose = 1;
    sim.ambushed = 100000;
    sim.window = sim.window < 16 ? 16 : sim.window;
    sim.began[1] = some_nodes(5);
    sim.wanted[1] = sim.memory_only ? 0 : sim.began[1];
}

static void draw(void)
{
    static const uint32_t sizes[] = {3, 3, 3, 3, 3, 5, 5, 4, 2, 1, 7};
    sim.node_count = sizes[below(sizeof(sizes) / sizeof(sizes[0]))];
    sim.group_count = 1 + (uint32_t)below(SIM_GROUPS_MAX);
    sim.memory_only = below(5) == 0;
    sim.window = 4u << below(5);
    sim.idle_after_ns = below(3) == 0 ? 20 * NS_PER_MS : NS_PER_S;
    bool slow_link = below(3) == 0, slow_disk = below(3) == 0;
    sim.world.faults = (struct world_faults){
        .lose = maybe(100000),
        .twice = maybe(100000),
        .late = maybe(50000),
        .link_ns_max = below(slow_link ? 20 * NS_PER_MS : NS_PER_MS),
        .late_ns_max = 1 + below(NS_PER_S),
        .disk_ns_max = below(slow_disk ? 50 * NS_PER_MS : NS_PER_MS),
    };
    sim.crash = maybe(8000);
    sim.partition = maybe(20000);
    sim.pause = maybe(4000);
    if (below(3) == 0) {
        /* A violent run: leaders come and go before they have told everybody anything. */
        sim.crash = 4000 + (uint32_t)below(20000);
        sim.partition = 10000 + (uint32_t)below(80000);
    }
    if (sim.node_count > 1 && below(2) == 0)
        draw_members();
    for (uint32_t group = 1; group <= sim.group_count; group++)
        if (sim.began[group] == 0)
            sim.began[group] = (UINT64_C(2) << sim.node_count) - 2;
    sim.transfer = maybe(10000);
    sim.read = maybe(200000);
    sim.compact = below(3) == 0 && !sim.memory_only ? 1 + (uint32_t)below(100000) : 0;
    sim.behind_max = sim.compact != 0 && below(2) == 0 ? 1 + below(300) : 0;
    /* In some runs one change follows the other, and who was away for a moment lags by several. (Not where a restart
     * leaves nothing to feed from: the last voter of a set that shrank, having forgotten how far it knew its log to be
     * chosen, may then find nobody who can tell: docs/consensus.md.) */
    if (sim.change != 0 && sim.compact == 0 && below(4) == 0)
        sim.change = 1 + (uint32_t)below(300000);
    if (sim.memory_only && sim.node_count >= 3 && below(2) == 0)
        sim.lose = 1 + (uint32_t)below(400000);
    if (below(16) == 0)
        draw_ambushes();
    uint64_t skew = below(300 * NS_PER_MS), drift = below(500);
    for (uint32_t id = 1; id <= sim.node_count; id++)
        sim.nodes[id] = (struct sim_node){
            .sim = &sim,
            .id = id,
            .clock = {.drift_ppm = (int64_t)below(2 * drift + 1) - (int64_t)drift,
                      .began_ns = NS_PER_S + below(100 * NS_PER_S),
                      .skew_ns = (int64_t)below(2 * skew + 1) - (int64_t)skew},
        };
}

/* ---- What keeps it busy ---- */

static void propose(struct sim_node *node, uint32_t group, uint32_t count)
{
    struct paxos_proposal proposals[16];
    struct value values[16];
    struct paxos *paxos = &node->groups[group].paxos;
    hlc_merge(&node->hlc, paxos_time_floor(paxos));
    for (uint32_t i = 0; i < count; i++) {
        uint32_t size = below(20) == 0 ? (uint32_t)below(700u << 10) : (uint32_t)below(200);
        values[i] = (struct value){.id = ++sim.values,
                                   .time = node_time(node),
                                   .opened = paxos->ballot,
                                   .size = size,
                                   .flags = (uint32_t)below(4)};
        proposals[i] = (struct paxos_proposal){.time = values[i].time, .size = size, .flags = values[i].flags};
    }
    struct paxos_event event = {.type = PAXOS_EVENT_PROPOSE, .proposals = proposals, .proposal_count = count};
    uint32_t room = paxos_room(paxos);
    enum sluice_status status = node_step(node, group, &event, values);
    if (status != (count <= room ? SLUICE_OK : SLUICE_AGAIN))
        world_fail(&sim.world, "node %u answers %d to %u proposals with room for %u", node->id, (int)status, count,
                   room);
    sim.figures.proposals += status == SLUICE_OK ? count : 0;
    pairs_work(&node->pairs, node_now(node));
    node_settle(node);
}

/* As core/shard does: at most one step at a time, by an entry of the log. */
static bool change_members(struct sim_node *node, uint32_t group)
{
    struct paxos *paxos = &node->groups[group].paxos;
    struct paxos_proposal proposal = {0};
    if (!paxos_next_members(paxos, &proposal.members, &proposal.members_instance) || paxos_room(paxos) == 0)
        return false;
    hlc_merge(&node->hlc, paxos_time_floor(paxos));
    proposal.time = node_time(node);
    struct value value = {.id = ++sim.values,
                          .time = proposal.time,
                          .members = proposal.members,
                          .members_instance = proposal.members_instance};
    struct paxos_event event = {.type = PAXOS_EVENT_PROPOSE, .proposals = &proposal, .proposal_count = 1};
    if (node_step(node, group, &event, &value) != SLUICE_OK)
        world_fail(&sim.world, "node %u refuses the members that it asked for", node->id);
    sim.figures.changes++;
    pairs_work(&node->pairs, node_now(node));
    node_settle(node);
    return true;
}

/* Whoever believes to lead is given values, asked to close time, or both. */
static void work(struct world *world, struct world_event *event)
{
    struct sim_node *node = &sim.nodes[1 + below(sim.node_count)];
    uint32_t group = 1 + (uint32_t)below(sim.group_count);
    struct paxos *paxos = &node->groups[group].paxos;
    (void)event;
    if (!sim.idle)
        world_after(world, below(4 * NS_PER_MS), 0, work, NULL);
    if (!node_can(node) || paxos->role != PAXOS_LEADER || sim.idle)
        return;
    if (change_members(node, group))
        return;
    uint64_t what = below(4);
    if (what != 0)
        propose(node, group, 1 + (uint32_t)below(below(8) == 0 ? 16 : 3));
    if (what < 2) {
        uint64_t time = node_time(node);
        (void)paxos_close_time(paxos, time);
        pairs_want_ceiling(&node->pairs, time, time);
        node->pairs_next_ns = below(2) == 0 ? 0 : node->pairs_next_ns;
        node_settle(node);
    }
}

/* ---- Faults ---- */

/* A volatile group keeps its word while a quorum of processes survives, and no more is asked of it. */
static bool may_crash(void)
{
    for (uint32_t group = 1; sim.memory_only && group <= sim.group_count; group++) {
        uint64_t voters = sim.oracles[group].members.voters, whole = 0;
        for (uint32_t id = 1; id <= sim.node_count; id++)
            if (sim.nodes[id].up && !sim.nodes[id].groups[group].paxos.options.amnesiac)
                whole |= paxos_mask((uint16_t)id);
        if (paxos_mask_count(voters & whole) <= quorum_size(paxos_mask_count(voters)))
            return false;
    }
    return true;
}

static void crash(struct sim_node *node);

/* Who leads a group in which somebody has forgotten what it had promised is to end: does anybody count on that one now?
 */
static void strike(struct world *world, struct world_event *event)
{
    (void)world;
    for (uint32_t id = 1; id <= sim.node_count && !sim.world.calm && may_crash(); id++)
        if (sim.nodes[id].up && sim.nodes[id].groups[event->a].paxos.role == PAXOS_LEADER) {
            crash(&sim.nodes[id]);
            return;
        }
}

static void restart(struct world *world, struct world_event *event)
{
    struct sim_node *node = event->arg;
    (void)world;
    if (node->up)
        return;
    node_start(node);
    for (uint32_t group = 1; group <= sim.group_count; group++)
        if (node->groups[group].disk.amnesiac && below(2) == 0)
            world_after(&sim.world, below(40 * NS_PER_MS), 0, strike, NULL)->a = group;
}

static void death_is_told(struct world *world, struct world_event *event)
{
    struct sim_node *node = event->arg;
    (void)world;
    /* It names one process, and may be told when another has followed that one. */
    if (node_can(node))
        node_peer_down(node, (uint32_t)event->a, event->b, below(2) == 0);
}

static void crash(struct sim_node *node)
{
    node_crash(node);
    if (world_fault(&sim.world, sim.lose) && node_may_lose(node))
        node_lose(node, below(2) == 0);
    world_after(&sim.world, below(below(2) == 0 ? 50 * NS_PER_MS : 2 * NS_PER_S), 0, restart, node);
    if (below(2) == 0)
        return;
    uint64_t late = below(4) == 0 ? 2 * NS_PER_S : NS_PER_MS;
    for (uint32_t other = 1; other <= sim.node_count; other++) {
        if (other == node->id)
            continue;
        struct world_event *told = world_after(&sim.world, below(late), 0, death_is_told, &sim.nodes[other]);
        told->a = node->id;
        told->b = node->incarnation;
    }
}

/* Some directions of some links. */
static void cut_links(void)
{
    uint64_t share = 1 + below(4);
    for (uint32_t from = 1; from <= sim.node_count; from++)
        for (uint32_t to = 1; to <= sim.node_count; to++)
            sim.world.cut[from][to] = from != to && below(5) < share;
}

/* The map's word reaches the nodes at their own times. */
static void tell_wanted(struct sim_node *node, uint32_t group)
{
    node->groups[group].wanted = sim.wanted[group];
    if (node->up)
        paxos_set_wanted(&node->groups[group].paxos, sim.wanted[group], NULL);
}

static void transfer(struct sim_node *node, uint32_t group)
{
    struct paxos_event event = {.type = PAXOS_EVENT_TRANSFER, .node = (uint16_t)below(sim.node_count + 1)};
    if (!node_can(node) || node->groups[group].paxos.role != PAXOS_LEADER)
        return;
    sim.figures.transfers += node_step(node, group, &event, NULL) == SLUICE_OK;
    node_settle(node);
}

static void group_tick(struct world *world, uint32_t group)
{
    if (world_fault(world, sim.change)) {
        uint32_t least = sim.lose != 0 ? 3 : 1;
        sim.wanted[group] = some_nodes(least + (uint32_t)below(sim.node_count + 1 - least));
    }
    for (uint32_t id = 1; id <= sim.node_count; id++) {
        struct sim_node *node = &sim.nodes[id];
        if (sim.change != 0 && below(20) == 0)
            tell_wanted(node, group);
        if (world_fault(world, sim.transfer))
            transfer(node, group);
        if (node_can(node) && world_fault(world, sim.read))
            node_read(node, group);
        if (node_can(node) && world_fault(world, sim.compact))
            node_compact(node, group);
    }
}

static void fault_tick(struct world *world, struct world_event *event)
{
    (void)event;
    if (world->calm)
        return;
    for (uint32_t id = 1; id <= sim.node_count; id++) {
        struct sim_node *node = &sim.nodes[id];
        if (node->up && world_fault(world, sim.crash) && may_crash()) {
            crash(node);
        } else if (node->up && world_fault(world, sim.pause)) {
            node->paused_until = world->now + below(2 * NS_PER_S);
            sim.figures.pauses++;
        }
    }
    if (world_fault(world, sim.partition)) {
        cut_links();
        sim.figures.partitions++;
    } else if (sim.ambush.phase == AMBUSH_NONE && below(50) == 0) {
        memset(world->cut, 0, sizeof(world->cut));
    }
    for (uint32_t group = 1; group <= sim.group_count; group++)
        group_tick(world, group);
    if (world_fault(world, sim.ambushed))
        ambush_lay(&sim, 1 + (uint32_t)below(sim.group_count));
    world_after(world, FAULT_TICK_NS, 0, fault_tick, NULL);
}

/* ---- After the faults ---- */

static void run_for(uint64_t time_ns)
{
    uint64_t until = sim.world.now + time_ns;
    while (sim.world.queue_count > 0 && sim.world.queue[0]->at <= until && world_step(&sim.world))
        ;
    sim.world.now = until;
}

static void all_up(void)
{
    for (uint32_t id = 1; id <= sim.node_count; id++)
        if (!sim.nodes[id].up)
            node_start(&sim.nodes[id]);
}

static void demand_progress(const char *when)
{
    uint64_t before[SIM_GROUPS_MAX + 1];
    for (uint32_t group = 1; group <= sim.group_count; group++)
        before[group] = sim.oracles[group].acknowledged;
    run_for(HEAL_NS);
    for (uint32_t group = 1; group <= sim.group_count; group++)
        if (sim.oracles[group].acknowledged == before[group])
            world_fail(&sim.world, "liveness: group %u answered nothing for %llu s %s", group,
                       (unsigned long long)(HEAL_NS / NS_PER_S), when);
}

/* A quorum whose members all reach each other makes progress, whichever directions the other links have. */
static void quorum_of_links(void)
{
    uint32_t chosen[SIM_NODES_MAX], count = sim.node_count / 2 + 1;
    for (uint32_t i = 0; i < sim.node_count; i++)
        chosen[i] = i + 1;
    for (uint32_t i = 0; i + 1 < sim.node_count; i++) {
        uint32_t k = i + (uint32_t)below(sim.node_count - i), held = chosen[i];
        chosen[i] = chosen[k];
        chosen[k] = held;
    }
    cut_links();
    for (uint32_t i = 0; i < count; i++) {
        for (uint32_t k = 0; k < count; k++)
            sim.world.cut[chosen[i]][chosen[k]] = false;
        if (!sim.nodes[chosen[i]].up)
            node_start(&sim.nodes[chosen[i]]);
    }
}

/* Small windows and slow links take their time. */
static bool settled(void)
{
    bool all = true;
    for (uint32_t group = 1; group <= sim.group_count; group++) {
        uint64_t voters = sim.oracles[group].members.voters;
        all = all && (sim.wanted[group] == 0 || voters == sim.wanted[group]);
        for (uint32_t id = 1; id <= sim.node_count; id++)
            if ((voters & paxos_mask((uint16_t)id)) != 0)
                all = all && sim.nodes[id].groups[group].paxos.stable + 64 > sim.oracles[group].prefix &&
                      !sim.nodes[id].groups[group].disk.amnesiac;
    }
    return all;
}

/* With a window of four entries and a slow link it takes long to send thousands. */
static bool level(void)
{
    for (uint32_t group = 1; group <= sim.group_count; group++)
        for (uint32_t id = 1; id <= sim.node_count; id++)
            if (((sim.oracles[group].members.voters | sim.wanted[group]) & paxos_mask((uint16_t)id)) != 0 &&
                sim.nodes[id].groups[group].paxos.stable != sim.oracles[group].prefix)
                return false;
    return true;
}

static void demand_convergence(void)
{
    for (uint32_t group = 1; group <= sim.group_count; group++) {
        uint32_t leaders = 0;
        for (uint32_t id = 1; id <= sim.node_count; id++) {
            const struct paxos *paxos = &sim.nodes[id].groups[group].paxos;
            leaders +=
                paxos->role == PAXOS_LEADER && paxos->leading && paxos_lease_valid(paxos, node_now(&sim.nodes[id]));
            uint64_t own = paxos_mask((uint16_t)id);
            if (((sim.oracles[group].members.voters | sim.wanted[group]) & own) == 0)
                continue; /* nobody tells it anything */
            if (paxos->stable != sim.oracles[group].prefix)
                world_fail(&sim.world,
                           "liveness: node %u stands at revision %llu of %llu in group %u, long after the "
                           "last fault",
                           id, (unsigned long long)paxos->stable, (unsigned long long)sim.oracles[group].prefix, group);
        }
        if (sim.wanted[group] != 0 && sim.oracles[group].members.voters != sim.wanted[group])
            world_fail(&sim.world, "liveness: group %u has members %llx, and %llx are wanted", group,
                       (unsigned long long)sim.oracles[group].members.voters, (unsigned long long)sim.wanted[group]);
        if (leaders != 1)
            world_fail(&sim.world, "liveness: %u leaders of group %u hold a lease, long after the last fault", leaders,
                       group);
    }
}

/* A node that was removed, and knows only nodes that were removed as well, asks for ever: its node's map ends that. */
static bool somebody_asks(void)
{
    for (uint32_t group = 1; group <= sim.group_count; group++)
        for (uint32_t id = 1; id <= sim.node_count; id++) {
            uint64_t own = paxos_mask((uint16_t)id);
            if ((sim.oracles[group].members.voters & own) == 0 &&
                (sim.nodes[id].groups[group].paxos.members.voters & own) != 0)
                return true;
        }
    return false;
}

static void heal(void)
{
    sim.world.calm = true;
    for (uint32_t group = 1; group <= sim.group_count; group++)
        for (uint32_t id = 1; id <= sim.node_count; id++)
            tell_wanted(&sim.nodes[id], group);
    if (!sim.memory_only && sim.wanted[1] == 0 && below(2) == 0) {
        bool everybody = below(2) == 0;
        quorum_of_links();
        if (everybody)
            all_up();
        demand_progress("though a quorum reaches each other");
        quorum_of_links();
        all_up();
        demand_progress("though another quorum reaches each other");
    }
    memset(sim.world.cut, 0, sizeof(sim.world.cut));
    all_up();
    demand_progress("without faults");
    for (uint32_t more = 0; more < 10 && !settled(); more++)
        demand_progress("without faults");
    sim.idle = true;
    run_for(4 * NS_PER_S);
    for (uint32_t more = 0; more < 50 && !(level() && settled()); more++) {
        for (uint32_t id = 1; id <= sim.node_count; id++)
            for (uint32_t group = 1; group <= sim.group_count; group++)
                (void)change_members(&sim.nodes[id], group);
        run_for(4 * NS_PER_S);
    }
    demand_convergence();
    run_for(2 * NS_PER_S);
    /* Idle groups cost nothing: only beats are sent. */
    if (sim.node_count > 1 && !somebody_asks() && sim.world.now - sim.message_ns < NS_PER_S)
        world_fail(&sim.world, "idle groups still send messages");
}

static void run_seed(uint64_t seed, uint64_t steps)
{
    world_init(&sim.world, seed);
    sim.world.replay = "sim_paxos";
    draw();
    for (uint32_t group = 1; group <= sim.group_count; group++) {
        oracle_begin(&sim, group, sim.began[group]);
        for (uint32_t id = 1; id <= sim.node_count; id++)
            tell_wanted(&sim.nodes[id], group);
    }
    for (uint32_t id = 1; id <= sim.node_count; id++)
        node_start(&sim.nodes[id]);
    world_after(&sim.world, FAULT_TICK_NS, 0, fault_tick, NULL);
    world_after(&sim.world, 0, 0, work, NULL);
    while (sim.world.events < (sim.ambushed == 0 ? steps : 4 * steps) && world_step(&sim.world))
        ;
    heal();
}

static void clear(void)
{
    bool verbose = sim.verbose;
    for (uint32_t id = 1; id <= SIM_NODES_MAX; id++)
        node_free(&sim.nodes[id]);
    oracle_free(&sim);
    world_deinit(&sim.world);
    memset(&sim, 0, sizeof(sim));
    sim.verbose = verbose;
}

static void add(struct sim_figures *total)
{
    const uint64_t *from = (const uint64_t *)&sim.figures;
    uint64_t *to = (uint64_t *)total;
    for (size_t i = 0; i < sizeof(*total) / sizeof(*to); i++)
        to[i] += from[i];
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"seed", required_argument, NULL, 's'},
                                            {"seeds", required_argument, NULL, 'n'},
                                            {"steps", required_argument, NULL, 't'},
                                            {"verbose", no_argument, NULL, 'v'},
                                            {0}};
    uint64_t seed = 1, seeds = 1, steps = 15000, trace = 0;
    struct sim_figures total = {0};
    int option;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (option == 's')
            seed = strtoull(optarg, NULL, 10);
        else if (option == 'n')
            seeds = strtoull(optarg, NULL, 10);
        else if (option == 't')
            steps = strtoull(optarg, NULL, 10);
        else if (option == 'v')
            sim.verbose = true;
        else
            return 64;
    }
    for (uint64_t i = 0; i < seeds; i++) {
        run_seed(seed + i, steps);
        add(&total);
        trace = (trace ^ sim.world.trace) * 31;
        clear();
    }
    printf("%llu seeds: %llu crashes, %llu partitions, %llu pauses, %llu elections, %llu proposals, %llu closings, "
           "%llu messages, %llu admissions, %llu changes, %llu transfers, %llu reads, %llu snapshots, %llu losses, "
           "%llu compactions, %llu ambushes, trace %016llx: no violation\n",
           (unsigned long long)seeds, (unsigned long long)total.crashes, (unsigned long long)total.partitions,
           (unsigned long long)total.pauses, (unsigned long long)total.elections, (unsigned long long)total.proposals,
           (unsigned long long)total.closings, (unsigned long long)total.messages, (unsigned long long)total.admissions,
           (unsigned long long)total.changes, (unsigned long long)total.transfers, (unsigned long long)total.reads,
           (unsigned long long)total.snapshots, (unsigned long long)total.losses, (unsigned long long)total.compactions,
           (unsigned long long)total.ambushes, (unsigned long long)trace);
    return 0;
}

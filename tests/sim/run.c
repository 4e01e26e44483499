/* One run: a swarm of faults drawn from the seed, then peace, in which everything must come to agree. */
#include <stdlib.h>
#include <string.h>

#include "tests/sim/sim.h"

#define FAULT_TICK_NS (10 * NS_PER_MS)
#define HEAL_NS       (5 * NS_PER_S)
/* Replicas that only answer each other, for ever and ever faster, get nowhere: a run in peace takes a hundredth of
 * these. */
#define HEAL_EVENTS_MAX 5000000u

static uint32_t maybe(uint32_t most)
{
    return random_below(&sim.random, 2) ? 0 : 1 + (uint32_t)random_below(&sim.random, most);
}

/* A wall clock as the time service keeps it. */
static int64_t near_skew(void)
{
    return (int64_t)random_below(&sim.random, 2 * sim.faults.skew_ns + 1) - (int64_t)sim.faults.skew_ns;
}

/* A swarm: each run draws which faults it has and how much of each (Groce et al., 2012). */
static void draw(void)
{
    sim.node_count = random_below(&sim.random, 4) == 0 ? 5 : random_below(&sim.random, 10) == 0 ? 1 : 3;
    sim.group_count = 1 + (uint32_t)random_below(&sim.random, SIM_GROUPS_MAX);
    sim.client_count = 2 + (uint32_t)random_below(&sim.random, SIM_CLIENTS_MAX - 1);
    sim.user_count = (uint32_t)random_below(&sim.random, SIM_USERS_MAX + 1);
    sim.replica_count = sim.node_count == 5 && random_below(&sim.random, 2) == 0 ? 3 : sim.node_count;
    sim.lambdas = random_below(&sim.random, 3) == 0;
    sim.memory_only = random_below(&sim.random, 4) == 0;
    sim.real_log = random_below(&sim.random, 3) == 0;
    sim.keep_versions = !sim.memory_only && random_below(&sim.random, 4) == 0;
    sim.faults = (struct sim_faults){
        .lose = maybe(100000),
        .twice = maybe(100000),
        .late = maybe(50000),
        .crash = maybe(6000),
        .partition = maybe(10000),
        .pause = maybe(4000),
        .corrupt = maybe(30000),
        .jump = maybe(2000),
        .stall = maybe(2000),
        .write_error = maybe(500),
        .damage = maybe(1000000),
        .lie = sim.memory_only || !sim.real_log ? 0 : maybe(1000000),
        .unreadable = sim.memory_only ? 0 : maybe(20000),
        .members = sim.node_count == 1 ? 0 : maybe(20000),
        .transfer = sim.memory_only || sim.node_count == 1 ? 0 : maybe(20000),
        .slow_reader = maybe(20000),
        .full = maybe(1000),
        .disk_ns_max = 1 + random_below(&sim.random, random_below(&sim.random, 3) == 0 ? 50 * NS_PER_MS : NS_PER_MS),
        .drift_ppm = (uint32_t)random_below(&sim.random, 500),
        /* A leader's times begin up to 250 ms ahead, and 500 ms ahead of a node's clock are refused. */
        .skew_ns = random_below(&sim.random, 100 * NS_PER_MS),
        .link_ns_max = 1 + random_below(&sim.random, random_below(&sim.random, 3) == 0 ? 20 * NS_PER_MS : NS_PER_MS),
    };
    sim.leases_off = random_below(&sim.random, 6) == 0;
    if (sim.leases_off)
        sim.faults.drift_ppm = (uint32_t)random_below(&sim.random, 200000);
    sim.behind_max = random_below(&sim.random, 3) == 0 ? 8 + (uint32_t)random_below(&sim.random, 120) : 0;
    sim.keep_versions = sim.keep_versions || (sim.behind_max != 0 && !sim.memory_only);
    /* Who lags is fed for a while, and much happens meanwhile. */
    if (random_below(&sim.random, 4) == 0)
        sim.catch_up_rate = (32u << 10) + random_below(&sim.random, 480u << 10);
    /* The store's own facts, of members and of snapshots, can't be made again from entries alone. */
    sim.keep_versions = sim.keep_versions || ((sim.faults.members != 0 || sim.faults.lie != 0) && !sim.memory_only);
    if (random_below(&sim.random, 3) == 0) {
        /* A violent run: leaders come and go before they have told everybody anything. */
        sim.faults.crash = 3000 + (uint32_t)random_below(&sim.random, 15000);
        sim.faults.partition = 10000 + (uint32_t)random_below(&sim.random, 50000);
    }
    /* A disk's lies are found where a process begins. */
    if (sim.faults.lie != 0 && sim.faults.crash < 3000)
        sim.faults.crash = 3000;
    for (uint32_t id = 1; id <= sim.node_count; id++) {
        struct sim_node *node = &sim.nodes[id];
        node->id = id;
        node->drift_ppm = (int64_t)random_below(&sim.random, 2 * sim.faults.drift_ppm + 1) - sim.faults.drift_ppm;
        node->skew_ns = near_skew();
    }
}

#define ASK_AGAIN_NS (200 * NS_PER_MS)

static void restart(struct sim_event *event)
{
    struct sim_node *node = event->arg;
    free(event);
    if (!node->up)
        sim_start(node);
}

/* A node that was made empty begins once the cluster says that it takes it in, as of which map. */
void sim_start(struct sim_node *node)
{
    sim_perhaps_wipe(node);
    bool asks = node->empty && node->joined == 0;
    if (asks && map_node_find(sim.map, (uint16_t)node->id)->state == MAP_NODE_GONE) {
        sim_ask_in(node);
        sim_after(ASK_AGAIN_NS, restart, node);
        return;
    }
    if (asks)
        node->joined = sim.map->epoch;
    sim_node_start(node);
}

/* A volatile pool keeps its word while a quorum of processes survives, and asks no more of the simulator. While its
 * members move, the leader may remove one that is whole before it notices that another has just died: so there must be
 * a quorum without either. */
bool sim_survives(uint32_t group, uint32_t deaths)
{
    const struct sim_placement *placement = &sim.placement[group];
    uint64_t whole = 0;
    for (uint32_t id = 1; id <= sim.node_count; id++) {
        const struct replica *replica = sim.nodes[id].up ? host__replica(sim.nodes[id].host, group) : NULL;
        if (replica != NULL && replica->paxos.members_highest > replica->paxos.stable)
            return false;
        if (replica != NULL && !replica->paxos.options.amnesiac)
            whole |= paxos_mask((uint16_t)id);
    }
    uint32_t all = paxos_mask_count(placement->members), left = paxos_mask_count(whole & placement->members);
    uint32_t moved = sim_moving(group) || sim.now < sim.asked_until;
    return left >= deaths + moved && left - deaths - moved >= (all - moved) / 2 + 1;
}

bool sim_may_crash(void)
{
    for (uint32_t group = 1; sim.memory_only && group <= sim.group_count; group++)
        if (!sim_survives(group, 1))
            return false;
    return true;
}

bool sim_crash(struct sim_node *node)
{
    node->crash_point = SIM_CRASH_NOW;
    if (sim.healing || !sim_may_crash())
        return false;
    sim_node_crash(node);
    /* At once, as a supervisor would, or after a while: what the former process had granted may run still. */
    uint64_t pause = random_below(&sim.random, 3) == 0 ? 40 * NS_PER_MS : 2 * NS_PER_S;
    sim_after(random_below(&sim.random, pause), restart, node);
    if (random_below(&sim.random, 2) == 0)
        for (uint32_t other = 1; other <= sim.node_count; other++)
            if (sim.nodes[other].up) {
                host_peer_down(sim.nodes[other].host, (uint16_t)node->id, node->incarnation,
                               random_below(&sim.random, 2) == 0);
                sim_node_round(&sim.nodes[other]);
            }
    return true;
}

static void partition(void)
{
    sim.totals.partitions++;
    for (uint32_t from = 0; from <= sim.node_count; from++)
        for (uint32_t to = 0; to <= sim.node_count; to++)
            sim.cut[from][to] = from != to && random_below(&sim.random, 3) == 0; /* asymmetric too */
}

static void heal_links(void)
{
    memset(sim.cut, 0, sizeof(sim.cut));
}

static void fault_tick(struct sim_event *event)
{
    for (uint32_t id = 1; id <= sim.node_count; id++) {
        struct sim_node *node = &sim.nodes[id];
        if (node->up && sim_fault(sim.faults.crash)) {
            enum sim_crash_point points[] = {SIM_CRASH_NOW, SIM_CRASH_NOW, SIM_CRASH_IN_WRITE, SIM_CRASH_AFTER_WRITE};
            node->crash_point = points[random_below(&sim.random, 4)];
            if (node->crash_point == SIM_CRASH_NOW)
                (void)sim_crash(node);
        } else if (node->up && sim_fault(sim.faults.pause)) {
            node->paused_until = sim.now + random_below(&sim.random, 2 * NS_PER_S);
            sim.totals.pauses++;
        }
        if (node->up && sim.now >= node->paused_until && random_below(&sim.random, 30) == 0)
            sim_disk_release(node);
        if (node->up && sim_fault(sim.faults.unreadable))
            sim_store_damage(node);
        if (node->up && sim.now >= node->paused_until && sim.now / FAULT_TICK_NS % 64 == id)
            sim_check_cuts(node);
        if (sim_fault(sim.faults.full)) {
            node->full_until = sim.now + random_below(&sim.random, NS_PER_S);
            sim.totals.full_disks++;
        }
        if (sim_fault(sim.faults.jump)) {
            node->skew_ns = (int64_t)random_below(&sim.random, 2 * NS_PER_S) - (int64_t)NS_PER_S;
            sim.totals.jumps++;
        }
    }
    if (sim_fault(sim.faults.members))
        sim_operate();
    sim_wires_tick();
    if (sim_fault(sim.faults.transfer))
        sim_transfer();
    if (sim_fault(sim.faults.partition))
        partition();
    else if (random_below(&sim.random, 100) == 0)
        heal_links();
    sim_check_leases();
    sim_after(FAULT_TICK_NS, fault_tick, NULL);
    free(event);
}

/* An ambush for leases: when nobody has asked for anything for a while, and leases are long, a leader is cut off and
 * all others end and begin at once. They don't know what they had granted. */
#define QUIET_NS  (2 * NS_PER_S)
#define AMBUSH_NS (1700 * NS_PER_MS)
#define HUSH_NS   (4 * NS_PER_S)

static void ambush(struct sim_event *event)
{
    uint32_t leader = 0;
    free(event);
    for (uint32_t id = 1; id <= sim.node_count && leader == 0; id++) {
        const struct sim_node *node = &sim.nodes[id];
        const struct replica *replica = node->up ? host__replica(node->host, 1) : NULL;
        if (replica != NULL && sim.now >= node->paused_until && replica->leading)
            leader = id;
    }
    if (leader == 0 || sim.healing)
        return;
    for (uint32_t id = 1; id <= sim.node_count; id++) {
        if (id == leader)
            continue;
        sim.cut[leader][id] = sim.cut[id][leader] = true;
        if (sim.nodes[id].up && sim_crash(&sim.nodes[id]))
            sim_after(NS_PER_MS, restart, &sim.nodes[id]);
    }
}

static void hush(struct sim_event *event)
{
    free(event);
    if (sim.healing)
        return;
    sim.quiet_until = sim.now + QUIET_NS;
    sim_after(AMBUSH_NS, ambush, NULL);
    sim_after(HUSH_NS, hush, NULL);
}

static void run_in_peace(uint64_t span)
{
    uint64_t until = sim.now + span, most = sim.events_run + HEAL_EVENTS_MAX;
    while (sim.now < until && sim_run_one())
        if (sim.events_run > most)
            sim_fail("liveness: more than %u events without faults, and no end", HEAL_EVENTS_MAX);
}

void sim_run_seed(uint64_t seed, uint64_t steps)
{
    memset(&sim.random, 0, sizeof(sim.random));
    random_seed(&sim.random, seed);
    sim.seed = seed;
    sim.steps = steps;
    draw();
    sim_map_make();
    for (uint32_t id = 1; id <= sim.node_count; id++)
        sim_node_start(&sim.nodes[id]);
    sim_after(FAULT_TICK_NS, fault_tick, NULL);
    if (seed % 8 == 3 && sim.node_count > 1 && !sim.memory_only)
        sim_after(HUSH_NS / 2, hush, NULL);
    sim_clients_start();
    sim_users_start();
    while (sim.events_run < steps && sim_run_one())
        if ((sim.events_run & 63) == 0)
            sim_check_leases();
    /* Faults stop; everything must come to rest in agreement. */
    sim.healing = true;
    heal_links();
    sim.quiet_until = 0;
    sim.catch_up_rate = 0;
    for (uint32_t id = 1; id <= sim.node_count; id++)
        if (sim.nodes[id].up) {
            sim.nodes[id].host->options.catch_up_rate = 16u << 20;
            sim.nodes[id].host->pace.due_ns = 0;
        }
    /* Clocks more than 500 ms apart stop writes, as they should. */
    for (uint32_t id = 1; id <= sim.node_count; id++)
        sim.nodes[id].skew_ns = near_skew();
    for (uint32_t id = 1; id <= sim.node_count; id++)
        if (!sim.nodes[id].up)
            sim_start(&sim.nodes[id]);
    uint64_t before = sim.totals.acknowledged;
    run_in_peace(HEAL_NS);
    if (sim.totals.acknowledged == before)
        sim_fail("liveness: no write succeeded in %llu s without faults", (unsigned long long)(HEAL_NS / NS_PER_S));
    /* Clients end what they are at, so that replicas can be compared. */
    for (uint32_t i = 0; i < sim.client_count; i++)
        sim.clients[i].deadline = 0;
    sim.client_count = 0;
    sim.ending = true;
    run_in_peace(2 * NS_PER_S);
    for (uint32_t more = 0; more < 20 && !sim_check_lambdas(false); more++)
        run_in_peace(2 * NS_PER_S);
    (void)sim_check_lambdas(true);
    for (uint32_t more = 0; more < 20 && !sim_at_rest(); more++)
        run_in_peace(100 * NS_PER_MS);
}

void sim_clear(void)
{
    sim_users_free();
    for (uint32_t id = 1; id <= SIM_NODES_MAX; id++)
        sim_node_free(&sim.nodes[id]);
    for (uint32_t i = 0; i < SIM_CLIENTS_MAX; i++)
        free(sim.clients[i].now);
    sim_links_free();
    sim_world_free();
    sim_map_free();
    bool verbose = sim.verbose;
    memset(&sim, 0, sizeof(sim));
    sim.verbose = verbose;
}

/* A whole cluster in one process, one thread and one seed: the real shards, consensus and state machines over a
 * simulated network, disks and clocks. */
#ifndef TESTS_SIM_H
#define TESTS_SIM_H

#include <stdbool.h>
#include <stdint.h>

#include "core/base/random.h"
#include "core/cluster/participant.h"
#include "core/shard/host__.h"
#include "tests/sim/disk.h"
#include "tests/sim/users.h"

#define SIM_NODES_MAX   5
#define SIM_GROUPS_MAX  3
#define SIM_CLIENTS_MAX 8
#define SIM_MAPS_MAX    4096
#define SIM_EPOCH_NS    (UINT64_C(1700000000) * NS_PER_S) /* the wall clock where the run begins */
#define SIM_CLUSTER                                                                                                    \
    {                                                                                                                  \
        0x51, 0x1c, 0xe0                                                                                               \
    }

/* Which faults a run has, and how much; drawn from the seed (a swarm). Rates are per million. */
struct sim_faults {
    uint32_t lose, twice, late; /* frames */
    uint32_t corrupt;           /* bits of a frame flip */
    uint32_t slow_reader;       /* a user takes no events for up to half a second */
    uint32_t full;              /* a disk is full for up to a second, per fault tick */
    uint32_t damage;            /* a copy of a log is damaged in one place and read, per start */
    uint32_t lie;               /* so is the log itself, where a quorum can mend it, per start */
    uint32_t unreadable;        /* an entry can't be read any more on one node, per fault tick */
    uint32_t members;           /* a node is added, removed or replaced, per fault tick */
    uint32_t transfer;          /* a leader hands over, per fault tick */
    uint32_t crash;             /* per fault tick (10 ms) and node */
    uint32_t partition;         /* per fault tick */
    uint32_t pause;             /* a process stands still for up to 2 s */
    uint32_t jump;              /* a wall clock is set, per fault tick */
    uint32_t write_error;       /* a write to the disk fails; the process must stop */
    uint32_t stall;             /* a group commit takes up to a second */
    uint64_t disk_ns_max;       /* how long a group commit may take otherwise */
    uint32_t drift_ppm;         /* of monotonic clocks, each way */
    uint64_t skew_ns;           /* of wall clocks, each way */
    uint64_t link_ns_max;
};

struct sim_event {
    uint64_t time, number;
    void (*run)(struct sim_event *event);
    void *arg;
    uint32_t a, b;
    uint64_t c;
    uint8_t *data;
    size_t size;
};

/* Where a process ends that is to end. */
enum sim_crash_point { SIM_CRASH_NOW, SIM_CRASH_IN_WRITE, SIM_CRASH_AFTER_WRITE };

/* An entry that one replica can't read any more. */
#define SIM_BAD_MAX 32
struct sim_bad {
    const struct versions *versions;
    uint32_t group;
    uint64_t revision;
};

/* What a node's store has of a group. */
struct sim_kept {
    struct versions *open, *closed; /* in use by the process; left by it */
    uint64_t durable;               /* so much at least: the log may have forgotten it */
    bool held;                      /* and not erased */
    bool was_open;                  /* as the process ended */
};

/* A user who wants to hear of each change of the map. */
#define SIM_SUBSCRIBERS_MAX 64
struct sim_subscriber {
    void *link;
    uint64_t request_id, epoch;
};

/* Between two nodes. */
struct sim_wire {
    bool up;
    uint64_t generation;
    uint64_t last[2]; /* when the last news reaches the node with the lower, the higher number */
};

struct sim_lambda;
struct sim_node {
    uint32_t id; /* 1 … */
    bool up;
    enum sim_crash_point crash_point;
    uint64_t paused_until, full_until;
    uint64_t incarnation;
    int64_t drift_ppm;
    int64_t skew_ns;
    struct host *host;
    struct participant *participant;
    struct sim_lambda *lambda;
    struct sim_kept store[SIM_GROUPS_MAX + 1];
    bool voteless[SIM_GROUPS_MAX + 1]; /* of a volatile group, in the round before */
    bool unsound[SIM_GROUPS_MAX + 1];  /* as it ended, it had forgotten something, or members were changing */
    bool empty;                        /* it is not of those that began the cluster: it was made empty later */
    uint64_t joined;                   /* epoch of the map that took it in then; 0: none yet */
    uint64_t founders;                 /* whom it knows to have begun the cluster */
    uint64_t map_seen;                 /* epoch of the newest map that it has shown */
    struct sim_subscriber subscribers[SIM_SUBSCRIBERS_MAX];
    size_t subscriber_count;
    struct sim_disk disk;
    bool wake_set;
    uint64_t wake_at;
    uint64_t checked[SIM_GROUPS_MAX + 1]; /* applied entries compared so far */
    struct {
        struct sim_event *items[4096];
        size_t count;
    } held; /* what arrived while it stood still */
};

/* Where a group's replicas are: masks of nodes. */
struct sim_placement {
    uint64_t founders;
    uint64_t members; /* as the log chose them last */
};

/* The one log that all replicas of a group must hold. */
struct sim_log {
    struct sim_chosen {
        uint64_t time;
        uint32_t crc;
        uint16_t kind;
    } * entries;
    size_t count, capacity;
    uint64_t closed_time, closed_index;
};

enum sim_kind { SIM_PUT, SIM_PUT_IF, SIM_PUT_ABSENT, SIM_DELETE, SIM_GET, SIM_GET_AT };
struct sim_operation {
    enum sim_kind kind;
    uint32_t client, key, group;
    uint64_t started, ended; /* 0: no answer, its outcome is unknown */
    uint64_t value;          /* written, or read (0: none) */
    uint64_t condition;
    uint64_t at;      /* SIM_GET_AT */
    uint64_t version; /* made or seen */
    uint64_t time;    /* platform time of that version */
    bool failed;      /* certainly not applied; a condition failed at `version`, where that is known */
    bool seen;        /* version says what was there */
    bool deleted;
    bool repeated; /* under the same idempotency key */
};

struct sim_client {
    uint32_t id;
    uint64_t sequence;
    uint64_t attempt;          /* names the latest request on the wire */
    bool damaged;              /* and its bits have flipped: what is answered is no word of the store's */
    struct sim_operation *now; /* under way */
    uint64_t deadline;
    uint32_t node; /* asked last */
    uint64_t hlc;
};

/* What a run did, to be said in one line. */
#define SIM_TOTALS(x)                                                                                                  \
    x(operations, "operations") x(acknowledged, "acknowledged writes") x(reads, "reads")                               \
        x(unknown, "unknown outcomes") x(batches, "batches") x(cuts, "cuts") x(cuts_again, "keys of cuts read again")  \
            x(events, "events watched") x(resumed, "watches resumed") x(repeated, "writes repeated by key")            \
                x(effects, "effects of lambdas") x(effects_again, "effects tried again") x(cursors, "cursors moved")   \
                    x(elections, "elections") x(transfers, "transfers") x(placements, "placements") x(maps, "maps")    \
                        x(wiped, "nodes made empty") x(member_changes, "changes of members") x(snapshots, "snapshots") \
                            x(crashes, "crashes") x(pauses, "pauses") x(partitions, "partitions")                      \
                                x(links_broken, "broken links") x(corrupted, "damaged frames") x(jumps, "clock jumps") \
                                    x(torn, "torn writes") x(write_errors, "failed writes")                            \
                                        x(damaged, "damaged copies of logs") x(flipped, "logs with flipped bits")      \
                                            x(lost_writes, "with lost writes")                                         \
                                                x(misdirected, "with misdirected writes")                              \
                                                    x(bad_sectors, "with unreadable sectors")                          \
                                                        x(lost_segments, "with missing segments")                      \
                                                            x(lost_replicas, "replicas that began with a loss")        \
                                                                x(read_errors, "entries that could not be read")       \
                                                                    x(repairs, "repaired from peers")                  \
                                                                        x(full_disks, "full disks")                    \
                                                                            x(recycled, "recycled segments")
struct sim_totals {
#define SIM_TOTAL(name, text) uint64_t name;
    SIM_TOTALS(SIM_TOTAL)
#undef SIM_TOTAL
};

struct sim {
    uint64_t seed, steps, now, events_run, numbers;
    struct random random;
    struct sim_faults faults;
    uint32_t node_count, group_count, client_count;
    uint32_t user_count, replica_count;
    bool memory_only, healing, ending;
    bool keep_versions; /* the store has everything that was applied when a process ends; else what it took in time */
    bool leases_off;    /* monotonic clocks may drift at will */
    uint64_t catch_up_rate; /* bytes a second; 0: as always */
    uint32_t behind_max;    /* entries; who lacks more gets a snapshot. 0: nobody */
    bool lambdas;           /* feeds, cursors and effects */
    bool real_log;          /* core/versions' own segments over a simulated device, instead of a list of records */
    struct sim_node nodes[SIM_NODES_MAX + 1];
    bool cut[SIM_NODES_MAX + 1][SIM_NODES_MAX + 1]; /* from, to; 0: users */
    struct sim_user users[SIM_USERS_MAX], *user;    /* user: whose turn it is */
    struct fabric_link *links;
    struct sim_wire wires[SIM_NODES_MAX + 1][SIM_NODES_MAX + 1];
    struct map *map; /* the newest that any node has shown; at first: the one that all propose */
    char *map_first;
    uint32_t map_crcs[SIM_MAPS_MAX];      /* by epoch; 0: not seen */
    uint64_t quiet_until;                 /* nobody asks for anything new */
    uint64_t asked_until;                 /* an operator's wish may be under way */
    uint64_t handled[SIM_GROUPS_MAX + 1]; /* by lambdas, on any node */
    struct sim_bad bad[SIM_BAD_MAX];
    size_t bad_count;
    bool looking; /* it is the simulator that reads */
    struct sim_cut cuts[SIM_CUTS_MAX];
    size_t cut_count;
    struct sim_log logs[SIM_GROUPS_MAX + 1];
    struct sim_placement placement[SIM_GROUPS_MAX + 1];
    struct sim_client clients[SIM_CLIENTS_MAX];
    struct sim_operation *history;
    size_t history_count, history_capacity;
    uint64_t values;
    struct sim_event **queue;
    size_t queue_count, queue_capacity;
    struct sim_totals totals; /* of this run */
    uint64_t trace;           /* a digest of everything that happened, to prove that a seed replays */
    bool verbose;
};

extern struct sim sim;

/* Says what is wrong, with the seed that shows it again, and ends. */
_Noreturn void sim_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* With --verbose: what happens. */
void sim_say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* world.c: time and events. */
struct sim_event *sim_after(uint64_t delay, void (*run)(struct sim_event *event), void *arg);
bool sim_run_one(void);
uint64_t sim_monotonic(const struct sim_node *node);
uint64_t sim_realtime(const struct sim_node *node);
/* True when the run goes on with that chance; no faults while healing. */
bool sim_fault(uint32_t per_million);
void sim_world_free(void);
void sim_free_event(struct sim_event *event);

/* run.c */
void sim_run_seed(uint64_t seed, uint64_t steps);
void sim_clear(void);
/* Starts it, or asks first that it is taken in. */
void sim_start(struct sim_node *node);
/* Ends the process and starts it again later. False: the run can't afford it now. */
bool sim_crash(struct sim_node *node);
bool sim_may_crash(void);
/* Whoever leads the group is to end, if the run can afford it, within so long. */
void sim_strike(uint32_t group, uint64_t within_ns);
/* Would so many deaths leave a volatile group its quorum? */
bool sim_survives(uint32_t group, uint32_t deaths);

/* network.c */
struct sim_event *sim_frame(uint64_t delay, void (*run)(struct sim_event *event), const struct slice *parts,
                            unsigned count);
/* Flips some bits. True when that happened. */
bool sim_corrupt(uint8_t *data, size_t size);
uint64_t sim_link_delay(void);
void sim_send_peer(void *arg, uint16_t to, const struct slice *parts, unsigned count);
/* What nodes tell each other of the cluster, over links that break. */
void sim_wire_send(void *arg, uint16_t to, const struct slice *parts, unsigned count);
void sim_wires_of_node(const struct sim_node *node);
void sim_wires_tick(void);
void sim_send_client(void *arg, void *link, const struct slice *parts, unsigned count, struct buf *payload,
                     uint32_t offset, uint32_t size);

/* nodes.c */
void sim_node_start(struct sim_node *node);
void sim_node_crash(struct sim_node *node);
void sim_node_round(struct sim_node *node);
/* Runs `event` at the node now, or when it is awake again; false: it is down, the event is dropped. */
bool sim_node_hold(struct sim_node *node, struct sim_event *event);
void sim_node_free(struct sim_node *node);

/* clients.c */
struct sim_operation *sim_operation_draw(uint32_t client);
void sim_note(const struct sim_operation *operation);

/* users.c */
size_t sim_key_name(uint32_t key, char out[16]);
/* SIM_KEYS: none of ours. */
uint32_t sim_key_number(const char *key, size_t size);

/* lambdas.c */
void sim_lambda_start(struct sim_node *node);
void sim_lambda_stop(struct sim_node *node);
void sim_lambda_role(struct sim_node *node, uint32_t group, bool leading);
void sim_lambda_round(struct sim_node *node);
/* Each event had its effect once, in order, as far as effects have come. False: some are still to come; with `complete`
 * that is a failure. */
bool sim_check_lambdas(bool complete);

/* placement.c */
/* A node is added, removed or replaced. */
void sim_operate(void);
/* A node that is down and has left the cluster may come back as an empty one, under its number. */
void sim_perhaps_wipe(struct sim_node *node);
/* Any node that can be asked is to take this one in. */
void sim_ask_in(const struct sim_node *node);
void sim_transfer(void);
/* It has forgotten nothing, and knows of no change of members that may or may not come. */
bool sim_whole(const struct paxos *paxos);
void sim_members_chosen(uint32_t group, uint64_t members);
/* Could the groups do without what this node holds? */
bool sim_may_lie(const struct sim_node *node);

/* store.c */
bool sim_persistent(uint32_t group);
/* What the store has of the group, for a process that opens it. */
struct versions *sim_store_open(struct sim_node *node, uint32_t group, uint64_t epoch);
/* The process has ended: the store may be behind. */
void sim_store_crash(struct sim_node *node);
void sim_store_durable(struct sim_node *node, uint32_t group, uint64_t revision);
void sim_store_wipe(struct sim_node *node);

/* unreadable.c */
void sim_store_damage(struct sim_node *node);
bool sim_store_readable(const struct sim_node *node, uint32_t group);
void sim_store_forget(const struct versions *versions);
/* All copies are read and found good: fewer of them are to hold what there is. */
void sim_store_scrub(uint32_t group);

/* map.c */
void sim_map_make(void);
void sim_map_free(void);
/* The first change of a fresh cluster; heap. */
char *sim_map_bootstrap(void);
const char *sim_address(uint32_t node);
/* Of the newest map. */
const struct map_shard *sim_shard(uint32_t group);
uint64_t sim_wanted(uint32_t group);
bool sim_moving(uint32_t group);
/* The map that the node shows is what others show, and newer than what it showed before. */
void sim_map_check(struct sim_node *node);
void sim_map_answer(struct sim_node *node, void *link, const struct wire_header *request);
void sim_map_tell(struct sim_node *node);
void sim_map_link_down(struct sim_node *node, const void *link);
uint32_t sim_group_of(const char *key, size_t size);
uint32_t sim_group_of_key(uint32_t key);

/* fabric.c */
void sim_link_send(struct fabric_link *link, const struct slice *parts, unsigned count);
uint64_t sim_link_pending(struct fabric_link *link);
void sim_link_break(struct fabric_link *link);
void sim_links_of_node(const struct sim_node *node);
void sim_links_free(void);
void sim_clients_start(void);
void sim_client_reply(uint32_t client, const uint8_t *data, size_t size);

/* check.c */
void sim_check_node(struct sim_node *node);
void sim_check_leases(void);
/* watches.c: what cuts showed is what this node shows, as far as it has closed their times. */
void sim_check_cuts(struct sim_node *node);
void sim_check_history(void);
/* All replicas have applied what there is: a cursor may have moved a moment ago. */
bool sim_at_rest(void);
/* Everything has healed: all replicas hold the same, and all that was acknowledged. */
void sim_check_end(void);

#endif

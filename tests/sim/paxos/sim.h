/* Replicas of several Paxos groups that share the pairs of their nodes, over a simulated world. What core/shard does
 * with real values is done here with numbers, so that thousands of runs cost seconds. */
#ifndef TESTS_SIM_PAXOS_SIM_H
#define TESTS_SIM_PAXOS_SIM_H

#include "core/base/clock.h"
#include "core/consensus/paxos.h"
#include "tests/sim/paxos/world.h"

#define SIM_NODES_MAX  7
#define SIM_GROUPS_MAX 4 /* groups are 1 … 4 */

struct value {
    uint64_t id; /* 0: nothing was ever here */
    uint64_t time, opened;
    uint64_t members, members_instance; /* a members entry's */
    uint32_t size, flags;
};

struct accepted {
    uint64_t ballot;
    bool forgotten; /* on disk beyond what a restart could take up again */
    struct value value;
};

/* A log by index, from 1 on; what lies beyond is empty. */
struct sim_log {
    struct accepted *entries;
    uint64_t capacity;
};

enum record_type { RECORD_PROMISE = 1, RECORD_ENTRY, RECORD_STABLE, RECORD_CEILING, RECORD_INSTALLED };
struct record {
    enum record_type type;
    uint32_t group;
    uint64_t index;  /* STABLE, INSTALLED: up to here */
    uint64_t ballot; /* CEILING: the time */
    uint64_t sequence;
    uint64_t incarnation; /* of the writer: sequences begin anew */
    struct value value;
    struct paxos_members members; /* STABLE, INSTALLED: as of `index` */
};

/* A linearizable read that waits for a quorum's word. */
struct sim_read {
    uint64_t sequence, acknowledged;
};
#define SIM_READS_MAX 16

struct sim_group {
    struct paxos paxos;
    struct paxos_slot *slots;
    struct sim_log log; /* what this process holds in memory */
    bool dirty;
    uint64_t sequence_durable, sequence_told;
    uint64_t stable_noted;
    uint64_t wanted; /* as this node's map says */
    struct paxos_members install_members;
    uint64_t installing; /* a snapshot up to here is on its way to the disk */
    struct sim_read reads[SIM_READS_MAX];
    uint32_t read_count;
    uint64_t stable_seen, promised_seen, closed_seen;
    struct { /* what is on disk */
        struct sim_log log;
        uint64_t promised, stable;
        struct paxos_members members;
        bool amnesiac; /* it has lost what it had acknowledged; of a volatile group, what it had promised */
    } disk;
};

struct sim_node {
    struct sim *sim;
    uint32_t id;
    bool up;
    uint64_t paused_until;
    uint64_t incarnation;
    uint64_t wakes; /* only the latest wake-up counts */
    struct world_clock clock;
    struct hlc hlc;
    struct pairs pairs;
    uint64_t pairs_next_ns;
    bool ceilings_dirty;
    uint64_t ceiling_sequence_durable, ceiling_sequence_told;
    uint64_t ceilings_on_disk;
    struct world_disk disk;
    struct record *fresh; /* entries that are on disk, and the process was not told yet */
    size_t fresh_count, fresh_capacity;
    struct sim_group groups[SIM_GROUPS_MAX + 1];
};

/* ---- What is true, seen from outside (oracle.c) ---- */

struct vote {
    uint64_t ballot;
    uint64_t voters; /* a mask of nodes */
    struct value value;
};

struct oracle_index {
    struct vote *votes;
    uint32_t count, capacity;
    bool chosen;
    struct paxos_members members; /* who decides here */
    uint64_t members_ballot;      /* under which they were chosen: votes of a lower one were not counted among them */
    struct value value;
    uint64_t closed; /* the highest time that was closed up to this very index */
};

struct oracle_ballot {
    uint64_t ballot, incarnation;
};

struct oracle {
    struct oracle_index *indexes;
    uint64_t capacity;
    uint64_t prefix;               /* chosen without a gap up to here */
    uint64_t prefix_closed;        /* the highest time closed at an index <= prefix */
    struct paxos_members members;  /* who decides behind the prefix */
    uint64_t members_ballot;       /* under which they were chosen: votes of a lower one were not counted among them */
    uint64_t acknowledged;         /* a leader has answered for everything up to here */
    struct oracle_ballot *ballots; /* who sends ACCEPT under them */
    size_t ballot_count, ballot_capacity;
};

/* An adversary who knows what it waits for (losses.c). */
enum ambush_phase {
    AMBUSH_NONE,
    AMBUSH_SILENT, /* the leader is not heard, and a candidate gets its first vote */
    AMBUSH_LOST,   /* the voter has forgotten */
    AMBUSH_ADDED,  /* and belongs to the members again; the witness's leases run out */
    AMBUSH_ASKED,  /* the witness hears the candidate */
    AMBUSH_FREE,   /* the candidate goes on */
};
struct ambush {
    enum ambush_phase phase;
    uint32_t group, leader, candidate, voter, witness;
    uint64_t since, acknowledged;
    uint64_t instance; /* of the voter, when it voted */
};

struct sim_figures {
    uint64_t crashes, partitions, pauses, elections, proposals, closings, leases, messages, admissions;
    uint64_t changes, transfers, reads, snapshots, losses, compactions, ambushes;
};

struct sim {
    struct world world;
    uint32_t node_count, group_count;
    bool memory_only;
    uint32_t window;
    uint64_t idle_after_ns;
    uint32_t crash, partition, pause;               /* per million, node and fault tick */
    uint32_t change, transfer, read, compact, lose; /* per million, group and fault tick; lose: of crashes */
    uint32_t ambushed;                              /* per million and fault tick */
    struct ambush ambush;
    uint64_t behind_max;
    uint64_t wanted[SIM_GROUPS_MAX + 1]; /* what the map says by now */
    uint64_t began[SIM_GROUPS_MAX + 1];  /* the members that the group began with */
    bool idle;                           /* no proposals, nothing wanted */
    bool verbose;
    struct sim_node nodes[SIM_NODES_MAX + 1];
    struct oracle oracles[SIM_GROUPS_MAX + 1];
    struct sim_figures figures;
    uint64_t values;
    uint64_t message_ns; /* when the latest message of consensus (not a beat) was sent */
    struct paxos_effects effects;
    struct paxos_message message;
};

struct accepted *log_at(struct sim_log *log, uint64_t index);

/* node.c */
void node_start(struct sim_node *node);
void node_crash(struct sim_node *node);
void node_free(struct sim_node *node);
/* An event of a group, with the values it carries, and everything that follows from it. */
enum sluice_status node_step(struct sim_node *node, uint32_t group, struct paxos_event *event,
                             const struct value *values);
/* After whatever was done to a node from outside: the disk, the next wake-up, the checks. */
void node_settle(struct sim_node *node);
void node_peer_down(struct sim_node *node, uint32_t peer, uint64_t incarnation, bool proof);
bool node_can(const struct sim_node *node);
uint64_t node_now(const struct sim_node *node);
uint64_t node_time(struct sim_node *node);

void node_compact(struct sim_node *node, uint32_t group);
void node_read(struct sim_node *node, uint32_t group);

/* losses.c: a process starts after its disk lost entries, or all there was. */
void node_lose(struct sim_node *node, bool all);
bool node_may_lose(const struct sim_node *node);
void ambush_lay(struct sim *sim, uint32_t group);
/* For how long what `from` says to `to`, if it stands for leader, is under way yet; UINT64_MAX: it is lost. */
uint64_t ambush_delay_ns(struct sim *sim, uint32_t group, uint32_t from, uint32_t to, enum paxos_message_type type);

/* oracle.c: each ends the run when it finds a broken promise */
void oracle_vote(struct sim *sim, uint32_t group, uint32_t node, uint64_t index, const struct accepted *accepted);
void oracle_begin(struct sim *sim, uint32_t group, uint64_t voters);
/* The chosen value at an index of the prefix. */
const struct value *oracle_chosen(struct sim *sim, uint32_t group, uint64_t index);
void oracle_stable(struct sim_node *node, uint32_t group, uint64_t stable);
void oracle_sent(struct sim_node *node, uint32_t group, const struct paxos_message *message);
void oracle_node(struct sim_node *node);
void oracle_leases(struct sim *sim);
void oracle_free(struct sim *sim);

#endif

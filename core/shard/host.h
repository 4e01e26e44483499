/* All replicas of one reactor: joins consensus, log segments, versions, watches and closed time, and answers core RPC.
 *
 * A deterministic state machine of a whole node without its I/O: messages, time and finished disk writes go in,
 * messages and records for the disk come out through `host_env`. core/node drives it with the real fabric and disk,
 * tests/sim with simulated ones. One thread. */
#ifndef SHARD_HOST_H
#define SHARD_HOST_H

#include "api/map.h"
#include "api/wire.h"
#include "core/consensus/paxos.h"
#include "core/shard/machine.h"
#include "core/versions/versions.h"
#include "core/versions/wal.h"

struct host;
struct host_feed;

/* What the host asks of whoever drives it. `link` is the driver's name for a client's connection. */
struct host_env {
    void *arg;
    uint64_t (*monotonic_ns)(void *arg);
    uint64_t (*realtime_ns)(void *arg);
    /* One frame to a peer; dropped where there is no connection: consensus sends again. */
    void (*send_peer)(void *arg, uint16_t node, const struct slice *parts, unsigned count);
    /* One frame to a client; AGAIN and CLOSED are the driver's to see to (a link that is over its bound is closed). */
    void (*send_client)(void *arg, void *link, const struct slice *parts, unsigned count, struct buf *payload,
                        uint32_t offset, uint32_t size);
    /* Bytes that wait on a client's link. Watches send no more beyond HOST_LINK_PENDING_MAX until host_client_writable.
     */
    uint64_t (*client_pending)(void *arg, void *link);
    /* Records for the disk, and the end of a group commit, which returns the ticket that host_persisted will be called
     * with (0: nothing to do). */
    enum sluice_status (*persist)(void *arg, const struct wal_record *record);
    uint64_t (*persist_submit)(void *arg);
    /* Waits until what was handed over is on the disk: before the data of a group go, which stay where it is not OK.
     * NULL: it is at once. */
    enum sluice_status (*persist_wait)(void *arg);
    /* Does the shard hold this key by the map in force? */
    bool (*owns)(void *arg, uint32_t shard, const char *key, size_t size);
    bool (*storage_full)(void *arg);
    /* The map group applied an entry: `reply` becomes a heap string (or NULL). */
    enum sluice_status (*map_apply)(void *arg, const struct entry *entry, struct versions *versions,
                                    struct machine_outcome *outcome, char **reply);
    /* A request that is not the shards' business (WIRE_MAP, WIRE_STATUS, WIRE_LAMBDA_…). */
    void (*control)(void *arg, void *link, const struct wire_header *header, const void *body);
    /* This replica leads (reads may begin) or ceased to. */
    void (*role)(void *arg, uint32_t group, uint64_t epoch, bool leading);
    /* A volatile replica that had lost its memory holds everything again: have the map group admit it. */
    void (*caught_up)(void *arg, uint32_t group, uint64_t epoch);
    /* The log's members changed: a mask of nodes. NULL: nobody asks. */
    void (*members)(void *arg, uint32_t group, uint64_t epoch, uint64_t members);
    /* A snapshot has taken the place of this replica's history: what was made of its versions must be made anew (of the
     * map group's: the map). NULL: nobody asks. */
    void (*installed)(void *arg, uint32_t group, uint64_t epoch);
    /* The replica can't go on: disk, memory or damaged data. The process must stop. */
    void (*fatal)(void *arg, enum sluice_status status, const char *what);
};
#define HOST_LINK_PENDING_MAX (1u << 20)

struct host_options {
    struct pairs_options pairs;
    uint64_t seed;
    uint64_t election_ns;        /* 0: 150 ms */
    uint64_t resend_ns;          /* 0: 50 ms */
    uint32_t window;             /* entries a group may have unstable; 0: 1,024 */
    uint64_t progress_ns;        /* of watches; 0: 1 s */
    struct store *store;         /* NULL: everything in memory (the simulator) */
    uint64_t hot_bytes_max;      /* per group; 0: 64 MiB */
    uint64_t volatile_bytes_max; /* per volatile group; 0: 256 MiB */
    bool leases_off;             /* clocks are not to be trusted: a linearizable read asks a quorum each time */
    uint32_t behind_max;         /* entries; who lacks more gets a snapshot; 0: 65,536 */
    uint32_t compact_tail;       /* entries; older ones that made no version are dropped; 0, or less than behind_max:
                                    behind_max, so that nobody is fed from what goes */
    uint32_t snapshot_chunk;     /* bytes of a snapshot in one message; 0: 1 MiB */
    uint64_t catch_up_rate;      /* bytes a second to replicas that lag, while clients work; 0: 16 MiB */
    uint32_t requests_max;       /* requests that wait in one group, writes and reads each; 0: 16,384 */
    uint64_t waiting_bytes_max;  /* of requests that wait in all groups; 0: 256 MiB */
};

enum sluice_status host_create(const struct host_options *options, const struct host_env *env,
                               struct host **out) SLUICE_MUST_CHECK;
void host_destroy(struct host *self);

/* Before the groups are added: what the log's segments held, in order. */
enum sluice_status host_recover(struct host *self, const struct wal_record *record) SLUICE_MUST_CHECK;
/* After the last record: beats and ceilings begin. */
void host_start(struct host *self);

struct host_group {
    uint32_t group; /* 0: the map group */
    uint64_t epoch;
    /* The members that the group began with, the preferred leader first; the log tells what became of them. */
    uint16_t replicas[PAXOS_REPLICAS_MAX];
    uint32_t replica_count;
    bool memory_only;
    bool amnesiac;
    /* 0: it is of those that the group began with. Else which placement on this node it is, rising from one to the
     * next: it came later and without a vote, and none that its node had before is its own. */
    uint64_t since;
    bool lost;                 /* the disk may have lost something. A persistent group begins as an amnesiac; of a
                                  volatile one only promises were there, and host_group_admit makes that good */
    struct versions *versions; /* given: used and destroyed by the host (the simulator keeps one across a crash); NULL:
                                  the host creates it */
};
/* Joins a group with what was recovered of it. */
enum sluice_status host_group_add(struct host *self, const struct host_group *group) SLUICE_MUST_CHECK;
/* Leaves it; `erase` drops its data, which waits for the disk. Requests in flight are answered STALE_MAP or
 * OUTCOME_UNKNOWN. */
void host_group_remove(struct host *self, uint32_t group, bool erase);
/* Leaves it for good; host_next_left names it until host_erase_left, which can be at leisure. */
void host_group_leave(struct host *self, uint32_t group);
/* The disk may hold something of groups that are not here: those of host_group_leave (`closed`), and those left by a
 * former process, when the node was down as it left them. The first one from `from` on; false: none. */
bool host_next_left(const struct host *self, uint32_t from, uint32_t *group, bool *closed);
/* Erases it. Where it was left by a former process, only where a map of a later time than that one says that the node
 * has no replica of the group. STORAGE_FULL: nothing is erased; ask again when there is room. */
enum sluice_status host_erase_left(struct host *self, uint32_t group) SLUICE_MUST_CHECK;
bool host_group_has(const struct host *self, uint32_t group, uint64_t *epoch);
/* host_group.since of one that is there. */
uint64_t host_group_since(const struct host *self, uint32_t group);
/* A volatile replica that began as an amnesiac holds everything, and the map says so: it has a vote again. What that
 * has to write is handed to env.persist before this returns. */
void host_group_admit(struct host *self, uint32_t group);
/* The placement that the cluster map wants, told to every replica: whoever leads moves the log's members there, one at
 * a time. None: leave the members as they are. */
struct host_wanted {
    uint16_t node;
    uint64_t since; /* as in host_group */
};
void host_group_want(struct host *self, uint32_t group, const struct host_wanted *nodes, uint32_t count);
/* Hands the lead over, to `node` or (0) to the replica that holds most; nothing happens where this one does not lead.
 */
void host_group_transfer(struct host *self, uint32_t group, uint16_t node);
/* Every group that this node leads; before a clean stop. host_leads tells when it is done. */
void host_transfer_all(struct host *self);
/* Groups that this node leads. */
uint32_t host_leads(const struct host *self);
struct versions *host_group_versions(const struct host *self, uint32_t group);

void host_peer_add(struct host *self, uint16_t node);
void host_peer_message(struct host *self, uint16_t from, const void *data, size_t size);
void host_peer_up(struct host *self, uint16_t node);
/* The version of the peer protocol that is spoken with it; 0: none yet, or none that both understand. */
uint8_t host_peer_version(const struct host *self, uint16_t node);
/* The process of that incarnation: its connection closed, or (`proof`) the operating system says that it has ended. */
void host_peer_down(struct host *self, uint16_t node, uint64_t incarnation, bool proof);

void host_client_message(struct host *self, void *link, const void *data, size_t size);
void host_client_writable(struct host *self, void *link);
void host_client_down(struct host *self, void *link);

void host_persisted(struct host *self, uint64_t ticket);
void host_indexed(struct host *self, uint32_t group, uint64_t revision);
/* Time passes. */
void host_tick(struct host *self);
/* Ends a round: proposes what was gathered, hands records to the disk, moves watches on. */
void host_flush(struct host *self);
/* Monotonic time of the next host_tick at the latest. */
uint64_t host_next_ns(const struct host *self);

/* Proposes a change of the map: here when this node leads the map group, else by the node that does. No answer: the map
 * itself is the answer. */
void host_map_change(struct host *self, const char *json, size_t size);

/* A reader within the process that is called for each stable version from a revision on, like a watch. */
struct host_feed_options {
    uint32_t group;
    uint64_t epoch;
    uint64_t from;      /* first revision wanted */
    bool internal_keys; /* below _sluice/ too */
    bool (*match)(void *arg, const char *key, size_t size);
    bool (*offer)(void *arg, const struct version *version,
                  uint64_t epoch);                /* false: full; host_feed_kick when there is room */
    void (*passed)(void *arg, uint64_t revision); /* everything up to here was offered */
    void *arg;
};
enum sluice_status host_feed_start(struct host *self, const struct host_feed_options *options,
                                   struct host_feed **out) SLUICE_MUST_CHECK;
void host_feed_stop(struct host_feed *feed);
void host_feed_kick(struct host_feed *feed);
uint64_t host_cursor(const struct host *self, uint32_t group, const char *lambda);

struct host_group_status {
    uint32_t group;
    uint64_t epoch;
    const char *role;
    uint16_t leader;
    uint64_t ballot, stable, last, applied, time;
    uint64_t watches;
    bool settled;         /* see paxos_settled */
    uint64_t members;     /* masks of nodes: who votes, by the stable log */
    uint64_t learners;    /* whom this leader feeds beside them */
    uint64_t snapshot_to; /* to whom it sends a snapshot */
    uint64_t installing;  /* this replica takes in a snapshot that ends here; 0: none */
    uint64_t ingested;    /* and has got so far */
};
void host_each_group(const struct host *self, void (*each)(void *arg, const struct host_group_status *status),
                     void *arg);
/* HLC: a fresh time, and what peers showed. */
uint64_t host_time(struct host *self);
struct hlc *host_clock(struct host *self);

/* Builds and sends one reply; for env.control too. `text` becomes the body where no body is given. */
void host_reply(struct host *self, void *link, const struct wire_header *request, enum sluice_status status,
                uint32_t flags, const void *body, size_t size);
void host_set_map_epoch(struct host *self, uint64_t epoch);

struct host_figures {
    uint64_t writes, reads, watch_events, proposals, applied, peer_messages;
    uint64_t refused_busy;                                        /* requests that found the queues full */
    uint64_t snapshots_sent, snapshots_installed, snapshot_bytes; /* bytes: sent */
    uint64_t compactions;
    uint64_t repairs; /* damaged entries that a peer gave back */
    uint64_t read_rounds;
};
void host_figures(const struct host *self, struct host_figures *out);

#endif

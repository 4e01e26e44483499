/* A node's part in its cluster: it holds the replicas that the cluster map wants here, says which process speaks for
 * the node, tells and hears of the map, reports shards that have arrived, and offers the lead to whom the map prefers.
 *
 * Deterministic and without I/O, like the host that it governs: core/node drives it with real links and disks,
 * tests/sim with simulated ones. One thread, the host's. */
#ifndef CLUSTER_PARTICIPANT_H
#define CLUSTER_PARTICIPANT_H

#include "core/cluster/cluster.h"
#include "core/shard/host.h"

struct participant;

struct participant_env {
    void *arg;
    uint64_t (*monotonic_ns)(void *arg);
    /* One frame to a node; dropped where there is no link. */
    void (*send)(void *arg, uint16_t node, const struct slice *parts, unsigned count);
    /* The versions of a group that is to be opened. `out` stays NULL where the host is to make them, but not for the
     * map group. */
    enum sluice_status (*versions)(void *arg, const struct host_group *group, struct versions **out);
    /* May the log have lost something of the group, and: it says so no more. */
    bool (*lost)(void *arg, uint32_t group);
    enum sluice_status (*mend)(void *arg, uint32_t group, uint64_t epoch);
    /* Where others reach this node, borrowed; NULL beyond the last. */
    const char *(*address)(void *arg, unsigned index);
    /* The first change of a fresh cluster: heap text. */
    char *(*bootstrap)(void *arg);
    /* There is a later map: before the groups follow it (false: this node can't go on), and after. */
    bool (*map_comes)(void *arg, const struct map *map);
    void (*map_came)(void *arg, const struct map *map);
    /* The node can't go on; nothing more is done then. */
    void (*fatal)(void *arg, enum sluice_status status, const char *what);
};

struct participant_options {
    uint16_t node; /* 1 … 63 */
    uint64_t incarnation;
    uint8_t cluster[16];
    uint64_t
        founders; /* mask of the nodes that the cluster began with; 0: not known yet, which only who joined may say */
    uint64_t joined;   /* epoch of the map that took this node in, empty; 0: it was there from the beginning. Earlier
                          maps are not heard: what they say of a node of this number, another one held */
    struct host *host; /* outlives the participant */
};

enum sluice_status participant_create(const struct participant_options *options, const struct participant_env *env,
                                      struct participant **out) SLUICE_MUST_CHECK;
void participant_destroy(struct participant *self);

/* After host_start: opens the map group as far as this node has it. `error`: why not. */
enum sluice_status participant_open(struct participant *self, char *error, size_t error_size) SLUICE_MUST_CHECK;

/* A link to another node is there, or is not any more. */
void participant_link_up(struct participant *self, uint16_t node);
void participant_link_down(struct participant *self, uint16_t node);
/* A message between nodes that is not the shards' business. False: it is. */
bool participant_message(struct participant *self, uint16_t from, const void *data, size_t size);
/* Does that node not understand the level at which the cluster works? Then nothing that it says to shards counts. */
bool participant_refuses(const struct participant *self, uint16_t node);

/* Once a round, before host_flush: registers this process, reports what has arrived, offers the lead (if `leads`). */
void participant_tick(struct participant *self, bool leads);
/* Once a round, after host_flush: follows the newest map. */
void participant_follow(struct participant *self);
/* Monotonic time of the next participant_tick at the latest. */
uint64_t participant_next_ns(const struct participant *self);

/* The newest map known here, from the log or from another node, borrowed until the next message or round; NULL before
 * there is one that knows this node. Its text likewise. */
const struct map *participant_map(const struct participant *self);
const char *participant_map_text(const struct participant *self);
/* A change of the map, from wherever this node stands. No answer: the map itself is the answer. */
void participant_change(struct participant *self, const char *json, size_t size);
/* Are all groups that this node holds led by somebody, by a map that is known? */
bool participant_ready(const struct participant *self);
/* Does this node lead nothing that another one, to which there is a link, could lead? */
bool participant_led_nothing(const struct participant *self);

/* What the host asks for (host_env), to be passed on. */
bool participant_owns(const struct participant *self, uint32_t shard, const char *key, size_t size);
enum sluice_status participant_map_apply(struct participant *self, const struct entry *entry, struct versions *versions,
                                         struct machine_outcome *outcome, char **reply) SLUICE_MUST_CHECK;
void participant_caught_up(struct participant *self, uint32_t group);
void participant_installed(struct participant *self, uint32_t group);
void participant_members_changed(struct participant *self, uint32_t group, uint64_t epoch, uint64_t members);

/* Does this release understand a cluster that works at that level? False: `error` says what to do. */
bool participant_understands(uint32_t level, char *error, size_t error_size) SLUICE_MUST_CHECK;

#endif

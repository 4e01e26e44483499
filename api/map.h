/* The cluster map as everybody reads it: nodes, pools, shards, lambdas. A JSON document on the wire and in the log;
 * this is its parsed form. Changing it is core/cluster's business; routing by it is the client's. */
#ifndef SLUICE_MAP_H
#define SLUICE_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api/release.h"
#include "api/sluice_status.h"

#define MAP_GROUP        0u /* the Paxos group that keeps the map; shards are 1, 2, 3 … */
#define MAP_FORMAT       1
#define MAP_REPLICAS_MAX 7
/* The levels that this release understands. The map's own is raised once every node that belongs to the cluster
 * understands it, so that a release can be rolled out node by node. Nobody who applies a change of the map may look at
 * these: the same entry makes the same map in every release. */
#define MAP_LEVEL     sluice_release.level
#define MAP_LEVEL_MIN sluice_release.level_min

enum map_pool_kind { MAP_POOL_PERSISTENT, MAP_POOL_VOLATILE, MAP_POOL_TRIGGER };
enum map_pool_state { MAP_POOL_LIVE, MAP_POOL_CREATING, MAP_POOL_DELETING };

/* Joining: declared, has not registered yet. Draining: its replicas move away. Gone: holds nothing, may be forgotten.
 */
enum map_node_state { MAP_NODE_UP, MAP_NODE_JOINING, MAP_NODE_DRAINING, MAP_NODE_GONE };

struct map_node {
    uint16_t id;
    enum map_node_state state;
    uint16_t level_min, level_max; /* that its process understands; 1 to 1 where it did not say */
    uint64_t incarnation;          /* the process that registered last; 0 none yet */
    char **addresses;              /* fabric addresses, best first */
    size_t address_count;
};

struct map_replica {
    uint16_t node;
    uint64_t incarnation; /* volatile pools: the process that votes; 0: it must be admitted again */
    /* 0: of those that the shard began with. Else the map's epoch that placed it here: it starts without members and is
     * taught. */
    uint64_t since;
};

struct map_shard {
    uint32_t id;
    uint64_t epoch;                                /* 1, and one more each time that a volatile shard lost its memory */
    struct map_replica replicas[MAP_REPLICAS_MAX]; /* wanted; the first one is preferred as leader */
    size_t replica_count;
    struct map_replica
        leaving[MAP_REPLICAS_MAX]; /* not wanted any more, and kept until the log's members are settled */
    size_t leaving_count;
    uint64_t founders; /* mask of the nodes that the shard, in this epoch, began with */
    uint64_t moving;   /* the epoch of the map that wants this, until the log's members are known to be it; then 0 */
    size_t pool;       /* index into pools */
};

struct map_pool {
    char *prefix; /* "" is the root */
    enum map_pool_kind kind;
    enum map_pool_state state;
    uint32_t replicas; /* wanted */
    char *affinity;    /* regex or NULL; keys whose first group (or whole match) is equal share a shard */
    uint32_t *shards;  /* shard numbers */
    size_t shard_count;
    uint64_t retention_count, retention_age_ns, retention_bytes; /* 0: no limit */
    uint64_t lateness_ns;
    void *affinity_compiled; /* the router's */
};

struct map_watch {
    int kind; /* enum wire_pattern_kind */
    char *pattern;
};

struct map_lambda {
    char *name;
    uint64_t version; /* of the upload: 1, 2, 3 … = version of the object _sluice/lambdas/NAME */
    char sha256[65];
    char *config;    /* JSON text, given to initialize */
    char *placement; /* "leader" */
    char *isolation; /* "inprocess" */
    bool enabled;
    uint64_t registered_ns; /* HLC: events with a later time run it */
    uint64_t size;
    struct map_watch *watches;
    size_t watch_count;
};

struct map {
    uint64_t epoch; /* one more with each change */
    uint8_t cluster[16];
    uint32_t level; /* the highest that all nodes understand */
    uint32_t next_shard;
    struct map_shard group; /* of the map itself: MAP_GROUP's placement; it belongs to no pool */
    struct map_node *nodes;
    size_t node_count;
    struct map_pool *pools; /* sorted by prefix */
    size_t pool_count;
    struct map_shard *shards; /* sorted by id */
    size_t shard_count;
    struct map_lambda *lambdas;
    size_t lambda_count;
};

/* Parses a document. INVALID with a sentence in `error` (256 bytes); VERSION where the format is newer. map_destroy
 * frees. */
enum sluice_status map_parse(const char *json, size_t size, struct map **out, char *error) SLUICE_MUST_CHECK;
/* The document as text (heap; free it). NULL when memory is out. */
char *map_format(const struct map *self);
void map_destroy(struct map *self);

const struct map_pool *map_pool_find(const struct map *self, const char *prefix, size_t size);
/* The live pool that holds the key: the longest matching prefix. */
const struct map_pool *map_pool_of(const struct map *self, const char *key, size_t size);
const struct map_shard *map_shard_find(const struct map *self, uint32_t id);
const struct map_node *map_node_find(const struct map *self, uint16_t id);
/* What the map says of the node's replica of the shard, wanted or leaving; NULL: the node is to hold none. */
const struct map_replica *map_replica_find(const struct map_shard *shard, uint16_t node);
/* The nodes that are wanted, as a mask. */
uint64_t map_wanted(const struct map_shard *shard);
const char *map_node_state_name(enum map_node_state state);
struct map_lambda *map_lambda_find(const struct map *self, const char *name);
/* The shard of a key in its pool: CRC32C of `token` (the key, or what the affinity regex captured) modulo the number of
 * shards. */
uint32_t map_shard_of(const struct map_pool *pool, const char *token, size_t size);
const char *map_pool_kind_name(enum map_pool_kind kind);
const char *map_pool_state_name(enum map_pool_state state);

#endif

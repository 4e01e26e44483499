/* The cluster map as a state machine: nodes, pools, placement, lambdas, kept by the map group's log. Every node applies
 * the same changes in the same order.
 *
 * A change is a JSON document {"change": NAME, …}. What an author did wrong is an outcome with words; nothing is
 * changed then. Changes:
 *
 * bootstrap       map                                the first one; ignored later
 * node_register   node, incarnation, addresses, levels    a process speaks for the node; one that was declared is up
 * node_add        node?, addresses?                  declares a node; without a number it gets one
 * node_remove     node, force?                       its replicas move away; then it has gone
 * node_replace    old, new?, addresses?              the new one takes every place of the old one, which goes
 * shards_settled  shards [{shard, epoch, moving, members}]    the logs' members are what is wanted
 * pool_begin      prefix, policy                     shards are placed, keys are not yet routed there; repeated with a
 *                                                    live pool: its policy is changed where it may be
 * pool_live, pool_abort, pool_delete    prefix
 * lambda_put      name, version, sha256, config, placement, isolation, size, watches
 * lambda_delete   name
 * lambda_enable   name, enabled
 * shard_admit     shard, node, incarnation           a volatile replica holds everything again */
#ifndef CLUSTER_CLUSTER_H
#define CLUSTER_CLUSTER_H

#include "api/map.h"
#include "core/shard/machine.h"
#include "core/versions/versions.h"

struct cluster;

/* Loads the map from the map group's facts (none yet: an empty map of epoch 0). */
enum sluice_status cluster_create(struct versions *versions, struct cluster **out) SLUICE_MUST_CHECK;
void cluster_destroy(struct cluster *self);
/* Applies one stable entry of the map group; the shape of host_env.map_apply. */
enum sluice_status cluster_apply(struct cluster *self, const struct entry *entry, struct versions *versions,
                                 struct machine_outcome *outcome, char **reply) SLUICE_MUST_CHECK;
/* The map in force, borrowed until the next apply; NULL before bootstrap. Its text likewise. */
const struct map *cluster_map(const struct cluster *self);
const char *cluster_map_text(const struct cluster *self);

#define CLUSTER_ROOT_SHARDS     8
#define CLUSTER_REPLICAS        3
#define CLUSTER_SHARDS_MAX      4096
#define CLUSTER_POOL_SHARDS_MAX 256
/* The first change of a fresh cluster: nodes 1 … and the root pool over them. Heap text; NULL when memory is out. */
char *cluster_bootstrap(const uint8_t cluster[16], const uint16_t *nodes, size_t node_count);

#endif

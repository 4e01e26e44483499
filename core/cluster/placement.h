/* Which nodes hold a shard. Pure: the placement that is, and the nodes that may be used, in; the one to be wanted, out.
 *
 * It keeps what can stay, gives each shard as many replicas as it wants (or as there are nodes), evens out the number
 * of replicas per node to within one with as few moves as that takes, and then does the same for the preferred leaders,
 * by reordering alone. */
#ifndef CLUSTER_PLACEMENT_H
#define CLUSTER_PLACEMENT_H

#include "api/map.h"

#define PLACEMENT_NODES_MAX 64

struct placement_shard {
    uint32_t wanted;                  /* replicas, at least 1 */
    uint16_t nodes[MAP_REPLICAS_MAX]; /* in: what is; out: what is wanted, the preferred leader first */
    uint32_t count;
};

/* `usable` is a mask of nodes 1 … 63, not empty. Shards before `first` are counted and stay as they are. */
void placement_solve(uint64_t usable, struct placement_shard *shards, size_t count, size_t first);

#endif

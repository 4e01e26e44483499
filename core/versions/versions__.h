/* One shard's versions. Private to core/versions. */
#ifndef VERSIONS_VERSIONS___H
#define VERSIONS_VERSIONS___H

#include "core/versions/facts.h"
#include "core/versions/hot.h"
#include "core/versions/store.h"
#include "core/versions/versions.h"

struct versions {
    struct hot hot;
    struct facts facts;         /* without a store */
    struct store_group *stored; /* NULL: memory alone */
    const struct cold *cold;    /* NULL: memory alone */
    uint64_t applied, time;
    uint64_t indexed;
    uint64_t hot_bytes_max;
    uint64_t epoch;
    uint32_t group;
};

/* Lets the cache shrink to its bound. */
void versions__evict(struct versions *self, uint32_t steps_max);
#define VERSIONS_EVICT_STEPS      256u  /* with one entry or read */
#define VERSIONS_EVICT_STEPS_NEWS 4096u /* when the store has caught up with much at once */

#endif

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
    const struct cold *cold;    /* the view; NULL: memory alone */
    struct cold view;           /* the store's, with what this shard's reads may see */
    uint64_t applied, time;
    uint64_t indexed;
    uint64_t hot_bytes_max;
    uint64_t epoch;
    uint32_t group;
    /* A snapshot that is being taken in: what is held of it, or was when the process ended; 0: nothing. */
    uint64_t held, held_time;
    struct hot *next;   /* without a store: what will take the place of `hot` */
    uint64_t gaps;      /* revisions up to here may be left out */
    uint64_t compacted; /* so far by this process */
};

/* ingest.c. Brings the view up to date. */
void versions__see(struct versions *self);
/* Forgets about a snapshot; what the store has of it stays hidden only as long as `held` says so. */
void versions__ingest_drop(struct versions *self);
/* The log went on while a snapshot was being taken in. */
void versions__ingest_passed(struct versions *self);

/* Lets the cache shrink to its bound. */
void versions__evict(struct versions *self, uint32_t steps_max);
#define VERSIONS_EVICT_STEPS      256u  /* with one entry or read */
#define VERSIONS_EVICT_STEPS_NEWS 4096u /* when the store has caught up with much at once */

#endif

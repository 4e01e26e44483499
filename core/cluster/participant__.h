/* What the files of a participant share. */
#ifndef CLUSTER_PARTICIPANT_INTERNAL_H
#define CLUSTER_PARTICIPANT_INTERNAL_H

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/panic.h"
#include "core/cluster/participant.h"

#define PARTICIPANT_NODES PAIRS_NODES_MAX

/* Another node, as this one knows it. */
struct participant__peer {
    bool up; /* there is a link */
    /* What it said of itself on this link. */
    bool greeted, holds_map;
    uint32_t level_max;
    uint64_t map_epoch;                                /* that it has, or that was sent to it */
    uint64_t up_at_ns;                                 /* monotonic */
    uint64_t lead_at_ns;                               /* the lead of a shard is not offered to it before */
    uint32_t lead_offers, lead_held, lead_held_before; /* shards offered in this round; led here that are its own */
    bool lead_offered;
};

struct participant {
    struct participant_options options;
    struct participant_env env;
    struct host *host;
    struct cluster *cluster; /* the map as the map group's log has it here */
    struct map *told_map;    /* the map as another node told it; NULL: none */
    char *told_text;
    struct participant__peer peers[PARTICIPANT_NODES];
    uint64_t map_epoch_seen;
    uint64_t register_at_ns;
    uint64_t settle_at_ns; /* when to look next whether shards that move have arrived */
    uint64_t lead_at_ns;   /* when to look next whether others should lead what this node leads */
    uint64_t erase_at_ns;  /* when to look next for what was left of shards that this node holds no more */
    uint32_t erase_from;   /* the first group that was not looked at yet */
    bool erased_left;
    uint64_t doubt_at_ns; /* when to ask the others next whether this node's replica of the map is the one that is
                             wanted: what is held here says that it is not, and may be behind */
    uint32_t young_from;  /* shards from this one on were made when this process was there: nothing of them was lost
                             before; 0: not known */
    uint16_t change_turn; /* whom a change of the map was sent to last, where this node does not hold it */
    bool failed;
};

void participant__fail(struct participant *self, enum sluice_status status, const char *what);

/* exchange.c: greetings, and the map for those that do not keep it. */
void exchange__greet_all(struct participant *self);
void exchange__tell(struct participant *self);

/* residence.c: the groups of this node. */
enum sluice_status residence__open_map(struct participant *self, uint64_t founders, bool host) SLUICE_MUST_CHECK;
/* Is this node's replica of the map group not wanted, by the map that is known here? */
bool residence__doubted(const struct participant *self, const struct map *map);
/* Erases one of the groups that were left, at most. */
void residence__erase_left(struct participant *self, const struct map *map, uint64_t now);

/* arrival.c: what this node tells the map, and whom it lets lead. */
void arrival__register(struct participant *self, uint64_t now);
void arrival__settle(struct participant *self, const struct map *map, uint64_t now);
void arrival__offer_leads(struct participant *self, const struct map *map, uint64_t now);

#endif

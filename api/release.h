/* What this release understands and writes. One object file holds it, so that tests can link a release that is one
 * ahead of this one and roll it out beside it. */
#ifndef SLUICE_RELEASE_H
#define SLUICE_RELEASE_H

#include <stdint.h>

/* What is on disk, and from which level of the cluster on it is written so: until all nodes understand a format, each
 * of them can go back to the release before. */
struct release_formats {
    uint32_t level;
    uint32_t node;  /* node.json */
    uint32_t log;   /* batches of the log */
    uint32_t store; /* what stands in RocksDB */
};
#define RELEASE_FORMATS_MAX 2

struct release {
    /* What the nodes may do with each other: raised by the cluster map once every node that belongs to the cluster
     * understands it. 1: members fixed at the first start. 2: members change. */
    uint16_t level_min, level;
    uint8_t peer_min, peer; /* core/shard/peer.h, agreed on by each two nodes */
    uint16_t fabric_min, fabric;
    struct release_formats formats[RELEASE_FORMATS_MAX]; /* by rising level; the last one is the latest that is read */
    uint32_t format_count;
};

extern const struct release sluice_release;

/* The formats that a node writes while the cluster works at this level. */
const struct release_formats *release_formats_at(uint32_t level);
/* The latest formats that this release reads. */
const struct release_formats *release_formats_latest(void);

#endif

/* Changes of the cluster map as a pure function: map and change in, new map out. */
#ifndef CLUSTER_CHANGES_H
#define CLUSTER_CHANGES_H

#include "api/map.h"

struct change {
    const struct map *map;      /* in: NULL before bootstrap */
    uint64_t time;              /* in: HLC of the entry */
    enum sluice_status outcome; /* out: what the author is told */
    char words[512];            /* out: why, where the outcome is not OK */
    char *reply;                /* out: JSON, heap; NULL where there is nothing to say */
    struct map *result;         /* out: the new map and its text; NULL where nothing changed */
    char *text;
};
/* A return other than OK means that this process can't go on (memory). */
enum sluice_status change_apply(struct change *self, const char *json, size_t size) SLUICE_MUST_CHECK;

#endif

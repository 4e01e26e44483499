/* What the files of this folder share. */
#ifndef CLUSTER_CHANGES_INTERNAL_H
#define CLUSTER_CHANGES_INTERNAL_H

#include <jansson.h>

#include "core/cluster/changes.h"

/* One change under way: `next` is a copy of the map that may be altered freely. */
struct edit {
    struct change *change;
    struct map *next;
    json_t *document;
};

__attribute__((format(printf, 3, 4))) void change__refuse(struct edit *edit, enum sluice_status outcome,
                                                          const char *format, ...);
/* 64-bit numbers come as text or as numbers. */
bool change__number(const json_t *value, uint64_t *out);

/* members.c: nodes come and go, and with them the wanted placement. */
enum sluice_status membership__register(struct edit *edit) SLUICE_MUST_CHECK;
enum sluice_status membership__add(struct edit *edit) SLUICE_MUST_CHECK;
enum sluice_status membership__remove(struct edit *edit) SLUICE_MUST_CHECK;
enum sluice_status membership__replace(struct edit *edit) SLUICE_MUST_CHECK;
enum sluice_status membership__settled(struct edit *edit) SLUICE_MUST_CHECK;
enum sluice_status membership__admit(struct edit *edit) SLUICE_MUST_CHECK;
/* Replicas for shards that are new, from `first` on: the others stay where they are. */
enum sluice_status membership__place_new(struct map *map, size_t first) SLUICE_MUST_CHECK;

#endif

/* Facts in memory, for shards without a store. Private to core/versions. */
#ifndef VERSIONS_FACTS_H
#define VERSIONS_FACTS_H

#include <stdint.h>

#include "core/versions/versions.h"

#define FACT_NAME_BYTES_MAX  64u
#define FACT_VALUE_BYTES_MAX 65536u

struct fact;
struct facts {
    struct fact **buckets;
    uint64_t mask, count, bytes;
};

enum sluice_status facts_init(struct facts *self) SLUICE_MUST_CHECK;
void facts_deinit(struct facts *self);
/* In two steps, so that the caller can give up between them: prepare allocates (MEMORY changes nothing), commit cannot
 * fail. A fact with an empty value is forgotten. */
enum sluice_status facts_prepare(const struct versions_fact *facts, uint32_t count,
                                 struct fact **out) SLUICE_MUST_CHECK;
void facts_commit(struct facts *self, const struct versions_fact *facts, uint32_t count, struct fact *prepared);
void facts_discard(struct fact *prepared);
void facts_each(const struct facts *self, void (*each)(void *arg, struct slice name, struct slice value), void *arg);

#endif

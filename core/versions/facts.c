#include "core/versions/facts.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/crc.h"
#include "core/base/panic.h"
#include "core/versions/memory.h"

#define BUCKETS_FIRST 64u

struct fact {
    struct fact *next;
    uint32_t hash;
    uint32_t value_size;
    uint8_t name_size;
    uint8_t bytes[]; /* name, value */
};

enum sluice_status facts_init(struct facts *self)
{
    *self = (struct facts){.mask = BUCKETS_FIRST - 1};
    self->buckets = memory__allocate_zeroed(BUCKETS_FIRST, sizeof(struct fact *));
    return self->buckets == NULL ? SLUICE_MEMORY : SLUICE_OK;
}

void facts_deinit(struct facts *self)
{
    for (uint64_t i = 0; self->buckets != NULL && i <= self->mask; i++)
        while (self->buckets[i] != NULL) {
            struct fact *fact = self->buckets[i];
            self->buckets[i] = fact->next;
            free(fact);
        }
    free(self->buckets);
    *self = (struct facts){0};
}

static uint64_t cost_of(const struct fact *fact)
{
    return sizeof(*fact) + fact->name_size + fact->value_size;
}

static void link_fact(struct facts *self, struct fact *fact)
{
    struct fact **bucket = &self->buckets[fact->hash & self->mask];
    fact->next = *bucket;
    *bucket = fact;
}

/* Names are the state machine's own or digests, so a plain checksum spreads them well enough. */
static void grow(struct facts *self)
{
    if (self->count <= self->mask)
        return;
    uint64_t count = (self->mask + 1) * 2;
    struct fact **buckets = memory__allocate_zeroed(count, sizeof(struct fact *));
    if (buckets == NULL)
        return;
    struct facts old = *self;
    self->buckets = buckets;
    self->mask = count - 1;
    for (uint64_t i = 0; i <= old.mask; i++)
        while (old.buckets[i] != NULL) {
            struct fact *fact = old.buckets[i];
            old.buckets[i] = fact->next;
            link_fact(self, fact);
        }
    free(old.buckets);
}

static void forget(struct facts *self, struct slice name)
{
    uint32_t hash = crc32c(name.data, name.size);
    struct fact **link = &self->buckets[hash & self->mask];
    while (*link != NULL) {
        struct fact *fact = *link;
        if (fact->hash == hash && fact->name_size == name.size && memcmp(fact->bytes, name.data, name.size) == 0) {
            *link = fact->next;
            self->bytes -= cost_of(fact);
            self->count--;
            free(fact);
            return;
        }
        link = &fact->next;
    }
}

static struct fact *create(const struct versions_fact *from)
{
    struct fact *fact = memory__allocate(sizeof(*fact) + from->name.size + from->value.size);
    if (fact == NULL)
        return NULL;
    fact->hash = crc32c(from->name.data, from->name.size);
    fact->name_size = (uint8_t)from->name.size;
    fact->value_size = (uint32_t)from->value.size;
    memcpy(fact->bytes, from->name.data, from->name.size);
    memcpy(fact->bytes + from->name.size, from->value.data, from->value.size);
    return fact;
}

void facts_discard(struct fact *prepared)
{
    while (prepared != NULL) {
        struct fact *next = prepared->next;
        free(prepared);
        prepared = next;
    }
}

enum sluice_status facts_prepare(const struct versions_fact *facts, uint32_t count, struct fact **out)
{
    struct fact *prepared = NULL;
    for (uint32_t i = count; i-- > 0;) {
        if (facts[i].value.size == 0)
            continue;
        struct fact *fact = create(&facts[i]);
        if (fact == NULL) {
            facts_discard(prepared);
            return SLUICE_MEMORY;
        }
        fact->next = prepared;
        prepared = fact;
    }
    *out = prepared;
    return SLUICE_OK;
}

void facts_commit(struct facts *self, const struct versions_fact *facts, uint32_t count, struct fact *prepared)
{
    for (uint32_t i = 0; i < count; i++) {
        forget(self, facts[i].name);
        if (facts[i].value.size == 0)
            continue;
        struct fact *fact = prepared;
        prepared = fact->next;
        grow(self);
        link_fact(self, fact);
        self->count++;
        self->bytes += cost_of(fact);
    }
    ASSERT(prepared == NULL);
}

void facts_each(const struct facts *self, void (*each)(void *arg, struct slice name, struct slice value), void *arg)
{
    for (uint64_t i = 0; i <= self->mask; i++)
        for (const struct fact *fact = self->buckets[i]; fact != NULL; fact = fact->next)
            each(arg, (struct slice){fact->bytes, fact->name_size},
                 (struct slice){fact->bytes + fact->name_size, fact->value_size});
}

/* The deque of entries by revision: chunks of slots behind a directory, so that it grows without copying and shrinks
 * from the front. */
#include <stdlib.h>
#include <string.h>

#include "core/base/panic.h"
#include "core/versions/hot.h"
#include "core/versions/memory.h"

#define DIRECTORY_FIRST 16u

struct hot_slot *hot_slot(const struct hot *self, uint64_t revision)
{
    ASSERT(revision >= self->first && revision <= self->last);
    uint64_t at = revision - self->base;
    return &self->chunks[at / HOT_RING_CHUNK][at % HOT_RING_CHUNK];
}

enum sluice_status hot__ring_reserve(struct hot *self)
{
    uint64_t at = self->last + 1 - self->base;
    if (at / HOT_RING_CHUNK < self->chunk_count)
        return SLUICE_OK;
    if (self->chunk_count == self->chunk_capacity) {
        uint64_t capacity = self->chunk_capacity == 0 ? DIRECTORY_FIRST : self->chunk_capacity * 2;
        struct hot_slot **grown = memory__reallocate(self->chunks, capacity * sizeof(*grown));
        if (grown == NULL)
            return SLUICE_MEMORY;
        self->chunks = grown;
        self->chunk_capacity = capacity;
    }
    struct hot_slot *chunk = memory__allocate(HOT_RING_CHUNK * sizeof(*chunk));
    if (chunk == NULL)
        return SLUICE_MEMORY;
    self->chunks[self->chunk_count++] = chunk;
    return SLUICE_OK;
}

struct hot_slot *hot__ring_push(struct hot *self)
{
    self->last++;
    ASSERT((self->last - self->base) / HOT_RING_CHUNK < self->chunk_count);
    return hot_slot(self, self->last);
}

void hot__ring_pop(struct hot *self)
{
    ASSERT(self->first <= self->last);
    self->first++;
    if (self->first - self->base < HOT_RING_CHUNK)
        return;
    free(self->chunks[0]);
    self->chunk_count--;
    memmove(self->chunks, self->chunks + 1, self->chunk_count * sizeof(*self->chunks));
    self->base += HOT_RING_CHUNK;
}

uint64_t hot_revision_after(const struct hot *self, uint64_t time)
{
    uint64_t low = self->first, high = self->last + 1;
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        if (hot_slot(self, middle)->time <= time)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

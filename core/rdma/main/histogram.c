#include "core/rdma/main/histogram.h"

#include "core/base/panic.h"

/* Values below 64 have a slot each; above, the six bits behind the first one choose the step. */
static unsigned slot_of(uint64_t value)
{
    if (value < HISTOGRAM_STEPS)
        return (unsigned)value;
    unsigned shift = 63u - 6u - (unsigned)__builtin_clzll(value);
    return (shift + 1) * HISTOGRAM_STEPS + (unsigned)((value >> shift) - HISTOGRAM_STEPS);
}

static uint64_t slot_end(unsigned slot)
{
    if (slot < HISTOGRAM_STEPS)
        return slot;
    unsigned shift = slot / HISTOGRAM_STEPS - 1;
    uint64_t begin = (uint64_t)(HISTOGRAM_STEPS + slot % HISTOGRAM_STEPS) << shift;
    return begin + ((UINT64_C(1) << shift) - 1);
}

void histogram_add(struct histogram *self, uint64_t value)
{
    unsigned slot = slot_of(value);
    ASSERT(slot < HISTOGRAM_SLOTS);
    self->slots[slot]++;
    if (self->count == 0 || value < self->least)
        self->least = value;
    if (value > self->greatest)
        self->greatest = value;
    self->count++;
}

uint64_t histogram_at(const struct histogram *self, uint32_t per_million)
{
    ASSERT(per_million <= 1000000);
    /* Rounded up: the 99th of a hundred, the second of two. */
    uint64_t rank = (self->count / 1000000) * per_million + ((self->count % 1000000) * per_million + 999999) / 1000000;
    uint64_t seen = 0;
    for (unsigned slot = 0; slot < HISTOGRAM_SLOTS && self->count > 0; slot++) {
        seen += self->slots[slot];
        if (seen == 0 || seen < rank)
            continue;
        uint64_t end = slot_end(slot);
        return end < self->greatest ? end : self->greatest;
    }
    return self->greatest;
}

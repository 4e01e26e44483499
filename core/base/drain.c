#include "core/base/drain.h"

#include "core/base/clock.h"

/* A measurement takes so long, and the next one counts for a quarter beside those before; one that took much longer,
 * since nothing happened, stands for itself. */
#define MEASURE_NS (200 * NS_PER_MS)

static void measure(struct drain *self, uint64_t now_ns)
{
    uint64_t took = now_ns - self->since_ns;
    if (took < MEASURE_NS)
        return;
    uint64_t rate = self->bytes * 1000 / (took / NS_PER_MS);
    self->rate = self->known && took < 4 * MEASURE_NS ? (3 * self->rate + rate) / 4 : rate;
    self->known = true;
    self->since_ns = now_ns;
    self->bytes = 0;
}

void drain_begin(struct drain *self, uint64_t now_ns)
{
    *self = (struct drain){.since_ns = now_ns};
}

void drain_done(struct drain *self, uint64_t now_ns, uint64_t bytes)
{
    self->bytes += bytes;
    measure(self, now_ns);
}

bool drain_allows(struct drain *self, uint64_t now_ns, uint64_t bytes, uint64_t least)
{
    measure(self, now_ns);
    return bytes <= least || !self->known || bytes <= self->rate;
}

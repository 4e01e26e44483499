/* Durations counted in fixed memory, however long one measures: 64 steps for each doubling, so a percentile is at most
 * 1.6% too large. The least and the greatest are exact. */
#ifndef RDMA_PERF_HISTOGRAM_H
#define RDMA_PERF_HISTOGRAM_H

#include <stdint.h>

#define HISTOGRAM_STEPS 64u
#define HISTOGRAM_SLOTS (59u * HISTOGRAM_STEPS) /* every 64-bit number has one */

struct histogram {
    uint64_t count, least, greatest;
    uint64_t slots[HISTOGRAM_SLOTS];
};

/* Zero-initialise it. */
void histogram_add(struct histogram *self, uint64_t value);
/* The smallest duration that at least `per_million` in a million do not exceed; 0 when nothing was counted. */
uint64_t histogram_at(const struct histogram *self, uint32_t per_million);

#endif

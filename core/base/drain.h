/* How fast a queue gets done: whoever would wait in it for too long can be told at once, before a deadline says so.
 * Measured only while there is work without a pause, so that idle times slow nothing down. Not thread-safe. */
#ifndef CORE_BASE_DRAIN_H
#define CORE_BASE_DRAIN_H

#include <stdbool.h>
#include <stdint.h>

struct drain {
    uint64_t since_ns, bytes; /* of the present measurement */
    uint64_t rate;            /* bytes a second */
    bool known;
};

/* The queue was empty, and is not any more. What was measured before speaks of another time. */
void drain_begin(struct drain *self, uint64_t now_ns);
void drain_done(struct drain *self, uint64_t now_ns, uint64_t bytes);
/* May the queue be `bytes` long? Up to `least` it may always; beyond, what gets done within a second. True as long as
 * the rate is not known, which takes a fifth of a second of work. */
bool drain_allows(struct drain *self, uint64_t now_ns, uint64_t bytes, uint64_t least);

#endif

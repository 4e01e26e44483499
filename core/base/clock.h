/* Clocks of the operating system, and the hybrid logical clock built over one. Times are nanoseconds. */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NS_PER_US UINT64_C(1000)
#define NS_PER_MS UINT64_C(1000000)
#define NS_PER_S  UINT64_C(1000000000)

/* CLOCK_BOOTTIME: for durations, leases and timeouts. Never compared between machines. Any thread. */
uint64_t clock_monotonic_ns(void);
/* CLOCK_REALTIME since 1970 UTC: feeds the HLC and nothing else. Any thread. */
uint64_t clock_realtime_ns(void);

/* Hybrid logical clock (Kulkarni et al., 2014), 64-bit nanoseconds: never goes back, follows causality.
 * Owned by one thread; the caller passes the wall clock, so a simulator can drive it. */
struct hlc {
    uint64_t last;
};

/* A time for a new event: max(wall, last + 1). */
uint64_t hlc_now(struct hlc *clock, uint64_t wall_ns);
/* Merges a time seen from outside. */
void hlc_merge(struct hlc *clock, uint64_t seen);

/* A peer's time may lead ours by this much at most; a client's is refused beyond it. */
#define HLC_AHEAD_MAX_NS (500 * NS_PER_MS)

/* Formats as RFC 3339 in UTC with nine decimals ("2026-11-23T02:40:00.000000000Z"). `out` holds at least 32 bytes. */
#define CLOCK_TEXT_BYTES 32
void clock_format_rfc3339(uint64_t time_ns, char out[CLOCK_TEXT_BYTES]);
/* Parses RFC 3339 with up to nine decimals and a zone, or decimal nanoseconds since 1970. False if it is neither or out
 * of range. */
bool clock_parse(const char *text, size_t len, uint64_t *out_ns);

#endif

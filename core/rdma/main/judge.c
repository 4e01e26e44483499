/* Is a network fit to carry a cluster? Judged by the times that nodes have by default (core/node, core/shard). */
#include <stdarg.h>
#include <stdio.h>

#include "core/rdma/main/perf.h"

#define LEASE_MS       60 /* how long a leader may serve reads on its own after a renewal was sent */
#define RENEWAL_MS     20
#define ELECTION_MS    150
#define CATCH_UP_BYTES (8u << 20) /* a second, which a replica that lags is sent by default */
#define SMALL_BYTES    4096u      /* messages no larger than this stand for what keeps a cluster together */

static void add(struct perf_judgement *self, enum perf_fit fit, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void add(struct perf_judgement *self, enum perf_fit fit, const char *format, ...)
{
    if (fit > self->fit)
        self->fit = fit;
    if (self->reason_count == sizeof(self->reasons) / sizeof(self->reasons[0]))
        return;
    va_list args;
    va_start(args, format);
    (void)vsnprintf(self->reasons[self->reason_count++], sizeof(self->reasons[0]), format, args);
    va_end(args);
}

/* A renewal that is sent every 20 ms keeps a lease of 60 ms unbroken while answers come within 40 ms; within 20 ms one
 * of them may even be lost. */
static void judge_latency(struct perf_judgement *self, const struct perf_result *result)
{
    const struct histogram *trips = &result->round_trips;
    double median = 1e-6 * (double)histogram_at(trips, 500000), high = 1e-6 * (double)histogram_at(trips, 999000),
           most = 1e-6 * (double)trips->greatest;
    if (high >= LEASE_MS - RENEWAL_MS)
        add(self, PERF_UNFIT,
            "one round trip in a thousand takes %.1f ms and more: leases of %d ms, renewed every %d, would lapse all "
            "the time",
            high, LEASE_MS, RENEWAL_MS);
    else if (most >= ELECTION_MS)
        add(self, PERF_TIGHT,
            "a round trip took %.1f ms: after %d ms without a word the others elect a new leader. Look for pauses of "
            "the network or of these machines",
            most, ELECTION_MS);
    else if (high >= RENEWAL_MS || most >= LEASE_MS - RENEWAL_MS)
        add(self, PERF_TIGHT,
            "round trips of up to %.1f ms (99.9%%: %.1f ms): a leader whose renewals take over %d ms loses its lease "
            "of "
            "%d ms now and then, and reads wait meanwhile",
            most, high, LEASE_MS - RENEWAL_MS, LEASE_MS);
    else if (self->reason_count == 0)
        add(self, PERF_FIT,
            "round trips keep leases (longest %.3f ms; leases of %d ms bear %d); a put waits %.3f ms for its followers",
            most, LEASE_MS, LEASE_MS - RENEWAL_MS, median);
}

static void judge_rate(struct perf_judgement *self, const char *where, double bytes)
{
    if (bytes < CATCH_UP_BYTES)
        add(self, PERF_UNFIT, "%.2f MB/s %s: a replica that lags is sent %.1f MB/s, and would never catch up",
            1e-6 * bytes, where, 1e-6 * CATCH_UP_BYTES);
}

static void judge_bandwidth(struct perf_judgement *self, const struct perf_result *result)
{
    /* Small messages measure processors, not the network. */
    if (result->size > SMALL_BYTES && result->direction & PERF_THERE)
        judge_rate(self, "there", result->there.bytes);
    if (result->size > SMALL_BYTES && result->direction & PERF_BACK)
        judge_rate(self, "back", result->back.bytes);
    double high = 1e-6 * (double)histogram_at(&result->round_trips, 990000);
    if (high >= LEASE_MS - RENEWAL_MS)
        add(self, PERF_TIGHT,
            "behind a full load of %u bytes a message a renewal takes %.1f ms: leases of %d ms would lapse while such "
            "a load lasts",
            result->size, high, LEASE_MS);
}

void perf_judge(struct perf_judgement *self, const struct perf_result *result)
{
    if (result->test == PERF_BANDWIDTH)
        judge_bandwidth(self, result);
    else if (result->size <= SMALL_BYTES)
        judge_latency(self, result);
}

/* What the files of fabric-perf share. One process serves: it echoes, swallows or pours as it is asked. The other one
 * asks and measures. Both are nodes of a cluster of their own, so that a link is what links between core nodes are. */
#ifndef RDMA_PERF_H
#define RDMA_PERF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/clock.h"
#include "core/rdma/fabric.h"
#include "core/rdma/main/histogram.h"

#define PERF_SIZES_MAX   16u
#define PERF_SIZE_MAX    (64u << 20)
#define PERF_SECONDS_MAX 3600.0
#define PERF_WAIT_NS     (100 * NS_PER_MS)
#define PERF_SILENCE_NS  (10 * NS_PER_S) /* a peer that owes something and sends nothing for so long is given up */

enum perf_direction { PERF_THERE = 1, PERF_BACK = 2, PERF_BOTH = 3 };

/* --- what goes over the link: the first byte of each message says what it is --- */

enum perf_kind {
    PERF_DATA = 'D', /* a load of the asked size */
    PERF_PING = 'P', /* comes back at once, whatever else is going on */
    PERF_START = 'S',
    PERF_READY = 'R',
    PERF_DONE = 'E',  /* all of the load was sent */
    PERF_TALLY = 'T', /* what of it came */
};
enum perf_test { PERF_LATENCY = 1, PERF_BANDWIDTH = 2 };

struct perf_control {
    uint8_t kind; /* not DATA, not PING */
    uint8_t test, direction;
    uint8_t unused[5]; /* 0 */
    uint64_t size;     /* of a message */
    uint64_t duration_ns;
    uint64_t messages, bytes, elapsed_ns; /* of a tally */
};
_Static_assert(sizeof(struct perf_control) == 48, "two releases may measure with each other");

/* --- one direction of a load --- */

/* Who pours. */
struct perf_pour {
    struct buf *data;
    uint64_t until_ns;
    bool running;
};
enum sluice_status perf_pour_start(struct perf_pour *self, uint32_t size, uint64_t duration_ns) SLUICE_MUST_CHECK;
void perf_pour_stop(struct perf_pour *self);
/* Sends as much as should be under way now, and DONE at the end. False: the link takes nothing any more. */
bool perf_pour_on(struct perf_pour *self, struct fabric_link *link);

/* There is room for more under way: do not sleep. */
bool perf_pour_ready(const struct perf_pour *self, const struct fabric_link *link);

/* Who swallows. */
struct perf_tally {
    uint64_t started_ns, first_ns, last_ns;
    uint64_t messages, bytes, first_bytes;
};
void perf_tally_add(struct perf_tally *self, uint32_t size);
/* Bytes and messages a second, from the first arrival to the last. */
struct perf_rate {
    double bytes, messages;
    uint64_t total_messages;
};
struct perf_rate perf_tally_rate(const struct perf_tally *self);

/* --- the two sides --- */

struct perf_options {
    const char *address;
    bool latency, bandwidth;
    enum perf_direction direction;
    uint32_t sizes[PERF_SIZES_MAX];
    unsigned size_count; /* 0: each test's own */
    double seconds;
    uint32_t spin_ns;
    bool json;
    struct fabric_options fabric; /* identity, and whatever else both sides have in common */
};

/* Serves at options->address until `stop`, or, where `once`, until its client has gone. Calls `listening` with the
 * address. False: `error` says why. */
bool perf_serve(const struct perf_options *options, bool once, const volatile int *stop,
                void (*listening)(void *arg, const char *address), void *arg, char *error, size_t error_size);

struct perf_result {
    enum perf_test test;
    enum perf_direction direction;
    uint32_t size;
    struct histogram round_trips; /* of the pings; while a load is on its way there, of pings behind it */
    struct perf_rate there, back;
};
/* Measures against whoever serves at `address`: latencies first, then bandwidths. Reports each result as it is there.
 * False: `error` says why. */
bool perf_measure(const struct perf_options *options, const char *address, const volatile int *stop,
                  void (*result)(void *arg, const struct perf_result *result), void *arg, char *error,
                  size_t error_size);

/* --- what it means --- */

enum perf_fit { PERF_FIT, PERF_TIGHT, PERF_UNFIT };
struct perf_judgement {
    enum perf_fit fit;
    char reasons[8][256];
    unsigned reason_count;
};
/* Pure. What one result says about a cluster with the times that nodes have by default. */
void perf_judge(struct perf_judgement *self, const struct perf_result *result);

/* Prints results as they come, or gathers them for one JSON document. */
struct perf_report;
struct perf_report *perf_report_create(bool json);
void perf_report_address(struct perf_report *self, const char *address, bool tls);
void perf_report_result(void *report, const struct perf_result *result);
/* Ends the report and gives it back. */
enum perf_fit perf_report_finish(struct perf_report *self);

#endif

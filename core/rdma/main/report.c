/* What a person or a program gets to see. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/panic.h"
#include "core/rdma/main/perf.h"

struct perf_report {
    json_t *document, *latency, *bandwidth; /* NULL: text */
    enum perf_test last;
    struct perf_judgement judgement;
};

static const char *const fits[] = {[PERF_FIT] = "fit", [PERF_TIGHT] = "tight", [PERF_UNFIT] = "unfit"};

struct perf_report *perf_report_create(bool json)
{
    struct perf_report *self = calloc(1, sizeof(*self));
    if (!self)
        PANIC("out of memory");
    if (json) {
        self->document = json_pack("{s:[]}", "latency");
        if (!self->document || json_object_set_new(self->document, "bandwidth", json_array()) != 0)
            PANIC("out of memory");
        self->latency = json_object_get(self->document, "latency");
        self->bandwidth = json_object_get(self->document, "bandwidth");
    }
    return self;
}

void perf_report_address(struct perf_report *self, const char *address, bool tls)
{
    bool secured = tls && strncmp(address, "tcp:", 4) == 0;
    self->last = 0;
    if (!self->document)
        printf("%s%s\n", address, secured ? " (TLS)" : "");
    else if (json_object_set_new(self->document, "address", json_string(address)) != 0 ||
             json_object_set_new(self->document, "tls", json_boolean(secured)) != 0)
        PANIC("out of memory");
}

/* --- text --- */

static void print_size(uint32_t size)
{
    if (size >= 1u << 20 && size % (1u << 20) == 0)
        printf("  %7u MiB", size >> 20);
    else if (size >= 1u << 10 && size % (1u << 10) == 0)
        printf("  %7u KiB", size >> 10);
    else
        printf("  %7u B  ", size);
}

static double one_way_us(const struct histogram *trips, uint32_t per_million)
{
    return 0.5e-3 * (double)histogram_at(trips, per_million);
}

static void print_latency(const struct perf_result *result, bool head)
{
    const struct histogram *trips = &result->round_trips;
    if (head)
        printf("  latency, one way (half a round trip), us\n"
               "  %11s %10s %9s %9s %9s %9s %9s %9s\n",
               "size", "count", "least", "50%", "90%", "99%", "99.9%", "most");
    print_size(result->size);
    printf(" %10llu %9.2f %9.2f %9.2f %9.2f %9.2f %9.2f\n", (unsigned long long)trips->count,
           0.5e-3 * (double)trips->least, one_way_us(trips, 500000), one_way_us(trips, 900000),
           one_way_us(trips, 990000), one_way_us(trips, 999000), 0.5e-3 * (double)trips->greatest);
}

static void print_rate(const struct perf_rate *rate, bool measured)
{
    if (measured)
        printf(" %12.1f %12.0f", 1e-6 * rate->bytes, rate->messages);
    else
        printf(" %12s %12s", "", "");
}

static void print_bandwidth(const struct perf_result *result, bool head)
{
    if (head)
        printf("  bandwidth; and the round trip of a small message behind the load, ms\n"
               "  %11s %12s %12s %12s %12s %9s %9s\n",
               "size", "there MB/s", "messages/s", "back MB/s", "messages/s", "50%", "99%");
    print_size(result->size);
    print_rate(&result->there, result->direction & PERF_THERE);
    print_rate(&result->back, result->direction & PERF_BACK);
    if (result->round_trips.count > 0)
        printf(" %9.3f %9.3f\n", 1e-6 * (double)histogram_at(&result->round_trips, 500000),
               1e-6 * (double)histogram_at(&result->round_trips, 990000));
    else
        printf(" %9s %9s\n", "-", "-");
}

/* --- JSON --- */

static json_t *trips_json(const struct histogram *trips, double part)
{
    json_t *object =
        json_pack("{s:f, s:f, s:f, s:f, s:f, s:f}", "min", part * (double)trips->least, "p50",
                  part * (double)histogram_at(trips, 500000), "p90", part * (double)histogram_at(trips, 900000), "p99",
                  part * (double)histogram_at(trips, 990000), "p999", part * (double)histogram_at(trips, 999000), "max",
                  part * (double)trips->greatest);
    if (!object)
        PANIC("out of memory");
    return object;
}

static json_t *rate_json(const struct perf_rate *rate)
{
    return json_pack("{s:f, s:f, s:I}", "bytes_per_second", rate->bytes, "messages_per_second", rate->messages,
                     "messages", (json_int_t)rate->total_messages);
}

static void gather(struct perf_report *self, const struct perf_result *result)
{
    json_t *object = json_pack("{s:I}", "size", (json_int_t)result->size);
    int failed = object == NULL;
    const struct histogram *trips = &result->round_trips;
    if (!failed && result->test == PERF_LATENCY) {
        failed |= json_object_set_new(object, "count", json_integer((json_int_t)trips->count));
        failed |= json_object_set_new(object, "one_way_us", trips_json(trips, 0.5e-3));
        failed |= json_object_set_new(object, "round_trip_us", trips_json(trips, 1e-3));
    } else if (!failed) {
        if (result->direction & PERF_THERE)
            failed |= json_object_set_new(object, "there", rate_json(&result->there));
        if (result->direction & PERF_BACK)
            failed |= json_object_set_new(object, "back", rate_json(&result->back));
        if (trips->count > 0)
            failed |= json_object_set_new(object, "loaded_round_trip_us", trips_json(trips, 1e-3));
    }
    if (failed || json_array_append_new(result->test == PERF_LATENCY ? self->latency : self->bandwidth, object) != 0)
        PANIC("out of memory");
}

static void dump(struct perf_report *self)
{
    const struct perf_judgement *judgement = &self->judgement;
    json_t *reasons = json_array();
    int failed = reasons == NULL;
    for (unsigned i = 0; i < judgement->reason_count && !failed; i++)
        failed |= json_array_append_new(reasons, json_string(judgement->reasons[i]));
    failed = failed || json_object_set_new(self->document, "verdict", json_string(fits[judgement->fit])) != 0 ||
             json_object_set_new(self->document, "reasons", reasons) != 0;
    if (failed)
        PANIC("out of memory");
    (void)json_dumpf(self->document, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    putchar('\n');
    json_decref(self->document);
}

/* --- both --- */

void perf_report_result(void *report, const struct perf_result *result)
{
    struct perf_report *self = report;
    perf_judge(&self->judgement, result);
    if (self->document)
        gather(self, result);
    else if (result->test == PERF_LATENCY)
        print_latency(result, self->last != result->test);
    else
        print_bandwidth(result, self->last != result->test);
    (void)fflush(stdout);
    self->last = result->test;
}

enum perf_fit perf_report_finish(struct perf_report *self)
{
    static const char *const words[] = {
        [PERF_FIT] = "fit to carry a cluster with the default times",
        [PERF_TIGHT] = "carries a cluster with the default times, but tightly",
        [PERF_UNFIT] = "NOT fit to carry a cluster with the default times",
    };
    const struct perf_judgement *judgement = &self->judgement;
    enum perf_fit fit = judgement->fit;
    if (self->document) {
        dump(self);
    } else if (self->last != 0) {
        printf("  %s\n", words[fit]);
        for (unsigned i = 0; i < judgement->reason_count; i++)
            printf("  - %s\n", judgement->reasons[i]);
    }
    free(self);
    return fit;
}

#include "gateway/metrics.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const route_names[METRICS_ROUTE_COUNT] = {
#define METRICS_ROUTE_NAME(name, text) [METRICS_##name] = text,
    METRICS_ROUTES(METRICS_ROUTE_NAME)
#undef METRICS_ROUTE_NAME
};

/* Upper bounds in microseconds. */
static const uint32_t bounds_us[METRICS_BUCKET_COUNT] = {50,    100,   250,    500,    1000,    2500,    5000,
                                                         10000, 25000, 100000, 250000, 1000000, 5000000, 60000000};

enum sluice_status metrics_init(struct metrics *self)
{
    *self = (struct metrics){0};
    self->requests = calloc((size_t)METRICS_ROUTE_COUNT * METRICS_STATUS_MAX, sizeof(*self->requests));
    return self->requests != NULL ? SLUICE_OK : SLUICE_MEMORY;
}

void metrics_deinit(struct metrics *self)
{
    free(self->requests);
    *self = (struct metrics){0};
}

void metrics_count(struct metrics *self, enum metrics_route route, unsigned status, uint64_t took_ns)
{
    if (status >= METRICS_STATUS_MAX)
        status = 0;
    self->requests[(size_t)route * METRICS_STATUS_MAX + status]++;
    struct metrics_histogram *latency = &self->latency[route];
    size_t bucket = 0;
    while (bucket < METRICS_BUCKET_COUNT && took_ns > bounds_us[bucket] * UINT64_C(1000))
        bucket++;
    latency->buckets[bucket]++;
    latency->count++;
    latency->sum_ns += took_ns;
}

static void emit_format(struct emit *out, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void emit_format(struct emit *out, const char *format, ...)
{
    char line[256];
    va_list arguments;
    va_start(arguments, format);
    int size = vsnprintf(line, sizeof(line), format, arguments);
    va_end(arguments);
    if (size > 0)
        emit_bytes(out, line, (size_t)size < sizeof(line) ? (size_t)size : sizeof(line) - 1);
}

static void emit_one(struct emit *out, const char *name, const char *type, const char *help, uint64_t value)
{
    emit_format(out, "# HELP %s %s\n# TYPE %s %s\n%s %llu\n", name, help, name, type, name, (unsigned long long)value);
}

static void emit_requests(const struct metrics *self, struct emit *out)
{
    emit_text(out, "# HELP sluice_http_requests_total Requests answered, by route and status.\n"
                   "# TYPE sluice_http_requests_total counter\n");
    for (size_t route = 0; route < METRICS_ROUTE_COUNT; route++) {
        for (size_t status = 0; status < METRICS_STATUS_MAX; status++) {
            uint64_t count = self->requests[route * METRICS_STATUS_MAX + status];
            if (count > 0)
                emit_format(out, "sluice_http_requests_total{route=\"%s\",status=\"%zu\"} %llu\n", route_names[route],
                            status, (unsigned long long)count);
        }
    }
}

static void emit_latency(const struct metrics *self, struct emit *out)
{
    emit_text(out, "# HELP sluice_http_request_seconds From a request's first line to the end of its answer.\n"
                   "# TYPE sluice_http_request_seconds histogram\n");
    for (size_t route = 0; route < METRICS_ROUTE_COUNT; route++) {
        const struct metrics_histogram *latency = &self->latency[route];
        if (latency->count == 0)
            continue;
        uint64_t below = 0;
        for (size_t i = 0; i < METRICS_BUCKET_COUNT; i++) {
            below += latency->buckets[i];
            emit_format(out, "sluice_http_request_seconds_bucket{route=\"%s\",le=\"%g\"} %llu\n", route_names[route],
                        bounds_us[i] / 1e6, (unsigned long long)below);
        }
        emit_format(out, "sluice_http_request_seconds_bucket{route=\"%s\",le=\"+Inf\"} %llu\n", route_names[route],
                    (unsigned long long)latency->count);
        emit_format(out, "sluice_http_request_seconds_sum{route=\"%s\"} %.9f\n", route_names[route],
                    (double)latency->sum_ns / 1e9);
        emit_format(out, "sluice_http_request_seconds_count{route=\"%s\"} %llu\n", route_names[route],
                    (unsigned long long)latency->count);
    }
}

void metrics_emit(const struct metrics *self, const struct sluice_figures *figures, uint64_t in_flight, uint64_t memory,
                  bool ready, struct emit *out)
{
    emit_requests(self, out);
    emit_latency(self, out);
    emit_one(out, "sluice_http_in_flight", "gauge", "Requests under way, event streams included.", in_flight);
    emit_one(out, "sluice_http_connections", "gauge", "Open connections.", self->connections);
    emit_one(out, "sluice_http_memory_bytes", "gauge", "Bodies and answers under way.", memory);
    emit_one(out, "sluice_http_received_bytes_total", "counter", "Bytes of bodies received.", self->received_bytes);
    emit_one(out, "sluice_http_sent_bytes_total", "counter", "Bytes of values sent.", self->sent_bytes);
    emit_one(out, "sluice_http_streams", "gauge", "Open event streams.", self->streams);
    emit_one(out, "sluice_http_stream_events_total", "counter", "Events queued for event streams.",
             self->stream_events);
    emit_one(out, "sluice_http_streams_cut_total", "counter", "Event streams cut since their client did not read.",
             self->streams_cut);
    emit_one(out, "sluice_watches_upstream", "gauge", "Watches at the store that several streams may share.",
             self->hubs);
    emit_one(out, "sluice_client_calls_total", "counter", "Calls to the store.", figures->calls);
    emit_one(out, "sluice_client_retries_total", "counter", "Calls repeated by the client library.", figures->retries);
    emit_one(out, "sluice_client_reconnects_total", "counter", "Connections to nodes made anew.", figures->reconnects);
    emit_one(out, "sluice_client_in_flight", "gauge", "Calls that wait for the store.", figures->in_flight);
    emit_one(out, "sluice_ready", "gauge", "1 while a majority of the nodes is connected.", ready);
}

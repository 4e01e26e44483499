/* Counts what the gateway does, and writes it as Prometheus text. The loop's thread alone. */
#ifndef GATEWAY_METRICS_H
#define GATEWAY_METRICS_H

#include <stdint.h>

#include "api/sluice.h"
#include "gateway/emit.h"

/* X(NAME, route as shown) */
#define METRICS_ROUTES(X)                                                                                              \
    X(OBJECT, "/v1/objects/{key}")                                                                                     \
    X(LIST, "/v1/objects")                                                                                             \
    X(HISTORY, "/v1/history/{key}")                                                                                    \
    X(SNAPSHOT, "/v1/snapshot")                                                                                        \
    X(BATCH, "/v1/batch")                                                                                              \
    X(WATCH, "/v1/watch")                                                                                              \
    X(POOLS, "/v1/pools")                                                                                              \
    X(POOL, "/v1/pools/{prefix}")                                                                                      \
    X(LAMBDAS, "/v1/lambdas")                                                                                          \
    X(LAMBDA, "/v1/lambdas/{name}")                                                                                    \
    X(LAMBDA_ENABLE, "/v1/lambdas/{name}/enable")                                                                      \
    X(LAMBDA_DISABLE, "/v1/lambdas/{name}/disable")                                                                    \
    X(LAMBDA_LOG, "/v1/lambdas/{name}/log")                                                                            \
    X(NODES, "/v1/cluster/nodes")                                                                                      \
    X(NODE, "/v1/cluster/nodes/{id}")                                                                                  \
    X(NODE_REPLACE, "/v1/cluster/nodes/{id}/replace")                                                                  \
    X(TRANSFER, "/v1/cluster/transfer")                                                                                \
    X(CLUSTER, "/v1/cluster")                                                                                          \
    X(HEALTH, "/healthz")                                                                                              \
    X(READY, "/readyz")                                                                                                \
    X(METRICS, "/metrics")                                                                                             \
    X(OPENAPI, "/openapi.yaml")                                                                                        \
    X(NONE, "other")

enum metrics_route {
#define METRICS_ROUTE_ENUM(name, text) METRICS_##name,
    METRICS_ROUTES(METRICS_ROUTE_ENUM)
#undef METRICS_ROUTE_ENUM
        METRICS_ROUTE_COUNT
};

#define METRICS_STATUS_MAX   600
#define METRICS_BUCKET_COUNT 14
struct metrics_histogram {
    uint64_t buckets[METRICS_BUCKET_COUNT + 1]; /* not cumulative; the last one is +Inf */
    uint64_t sum_ns, count;
};
struct metrics {
    uint64_t *requests; /* by route, then by status */
    struct metrics_histogram latency[METRICS_ROUTE_COUNT];
    uint64_t received_bytes, sent_bytes, refused_connections;
    uint64_t stream_events, streams_cut;
    uint64_t streams, hubs, connections; /* at present */
};
enum sluice_status metrics_init(struct metrics *self) SLUICE_MUST_CHECK;
void metrics_deinit(struct metrics *self);
void metrics_count(struct metrics *self, enum metrics_route route, unsigned status, uint64_t took_ns);
void metrics_emit(const struct metrics *self, const struct sluice_figures *figures, uint64_t in_flight, uint64_t memory,
                  bool ready, struct emit *out);

#endif

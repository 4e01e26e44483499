/* gRPC beside HTTP: the services of api/proto on a port of their own. */
#ifndef GATEWAY_GRPC_H
#define GATEWAY_GRPC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api/sluice_status.h"

struct gateway;
struct gateway_grpc;

/* Listens on `address` ("127.0.0.1:8081"; port 0: any free one) and answers from a thread of its own; what touches the
 * store's client runs in the gateway's loop. INVALID, MEMORY or IO with a sentence in `error`. */
enum sluice_status gateway_grpc_start(struct gateway *gateway, const char *address, struct gateway_grpc **out,
                                      char *error, size_t error_size) SLUICE_MUST_CHECK;
/* The port listened on. */
uint16_t gateway_grpc_port(const struct gateway_grpc *self);

/* Prometheus text: how calls ended, what is under way. Any thread. */
struct emit;
void gateway_grpc_metrics(const struct gateway_grpc *self, struct emit *out);

/* The loop's thread: takes no further calls and ends the streams; other calls go on. */
void gateway_grpc_drain(struct gateway_grpc *self);
/* Is no call under way? */
bool gateway_grpc_idle(const struct gateway_grpc *self);
/* The loop's thread: drains, cuts off what is left, and ends gRPC's thread. Best after the store's client was closed,
 * which answers every call: then nothing is left to cut off. Run the jobs that are posted by then. */
void gateway_grpc_stop(struct gateway_grpc *self);

#endif

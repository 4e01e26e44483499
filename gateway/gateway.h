/* The gateway: HTTP, server-sent events and gRPC in front of the store. Stateless; it reaches the core through
 * libsluice alone. One gateway is one thread's loop: libmicrohttpd and libsluice are driven by the same epoll, so that
 * an answer needs no hop between threads. */
#ifndef GATEWAY_GATEWAY_H
#define GATEWAY_GATEWAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api/sluice_status.h"

struct gateway;

struct gateway_options {
    const char *listen; /* "HOST:PORT" of HTTP, HOST an IP address or "localhost"; NULL: "127.0.0.1:8080"; port 0: any
                           free one */
    const char *grpc_listen;  /* "HOST:PORT" of gRPC; NULL: none */
    const char *const *nodes; /* fabric addresses of some core nodes: "shm:NAME", "tcp:HOST:PORT" */
    size_t node_count;
    bool prefer_tcp;                                               /* ignore shm addresses in the cluster map */
    const char *core_tls_ca, *core_tls_certificate, *core_tls_key; /* TLS with the nodes; PEM; all three or none */
    uint64_t value_bytes_max;                                      /* 0: 64 MiB, which is also the most */
    uint64_t memory_max; /* of bodies and answers under way, all requests together; beyond it they get 429; 0: 1 GiB */
    uint32_t connections_max;                        /* 0: 20,000, or what the limit of open files allows */
    const char *tokens_path;                         /* JSON (see README.md); NULL: no tokens, everything is allowed */
    const char *tls_certificate_path, *tls_key_path; /* PEM; both or neither */
    bool insecure;                                   /* listen beyond loopback without tokens or without TLS */
    const char *const *hosts;                        /* further names that a request's Host may have */
    size_t host_count;
    const char *const *origins; /* web origins ("https://app.example") whose pages may call */
    size_t origin_count;
};

/* Binds its ports and opens the client; nothing waits for the cluster. Options are copied. On failure `error` says what
 * was expected, what came and what to do. */
enum sluice_status gateway_create(const struct gateway_options *options, struct gateway **out, char *error,
                                  size_t error_size) SLUICE_MUST_CHECK;
/* Serves until gateway_stop: ends event streams, lets requests under way finish for a while, then returns. One thread.
 */
void gateway_run(struct gateway *self);
/* Any thread, also a signal handler. */
void gateway_stop(struct gateway *self);
/* After gateway_run has returned, or where it was never called. NULL is ignored. */
void gateway_destroy(struct gateway *self);

/* The ports listened on; 0: none. */
uint16_t gateway_port(const struct gateway *self);
uint16_t gateway_grpc_listen_port(const struct gateway *self);

#endif

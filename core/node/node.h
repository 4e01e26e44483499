/* A core node: wires consensus, fabric, disk, shards, cluster map and lambdas to threads. Used by sluiced and,
 * embedded, by `sluice up`. */
#ifndef NODE_NODE_H
#define NODE_NODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api/sluice_status.h"

struct node;

struct node_options {
    size_t size;               /* sizeof(struct node_options) of the caller */
    uint16_t id;               /* 1 … 63 */
    const char *data_path;     /* created; belongs to this node for ever */
    const char *cluster_name;  /* names the cluster at its first start; NULL: "sluice" */
    const char *const *listen; /* fabric addresses to listen on */
    size_t listen_count;
    const char *const *peers;   /* "2=shm:NAME", "3=tcp:HOST:PORT": the nodes that begin the cluster; several addresses
                                   by repeating. A node that is not among them joins them at its first start */
    size_t peer_count;          /* 0: a cluster of one */
    uint64_t segment_bytes;     /* of the log; 0: 64 MiB */
    uint64_t cache_bytes;       /* versions kept in memory; 0: 256 MiB */
    uint64_t volatile_bytes;    /* of volatile pools, at most; 0: 1 GiB */
    uint64_t catch_up_rate;     /* bytes a second to replicas that lag, while clients work; 0: 8 MiB a processor */
    uint32_t lambda_workers;    /* 0: one a processor, at most 4 */
    bool allow_inprocess;       /* lambdas may run in this process */
    uint32_t free_percent_min;  /* read-only below so much free disk; 0: 5 */
    const char *health_address; /* "HOST:PORT" for /healthz and /readyz; NULL: none */
    const char *const *join;    /* addresses of members of a running cluster: the first start becomes a node of it. Of
                                   the peers only this node's own is taken then: where the others can reach it */
    size_t join_count;
    const char *tls_ca; /* PEM files for TLS between nodes, and with clients, over tcp: all three or none. Whose */
    const char *tls_certificate; /* certificates are accepted; this node's own with its chain; its key. Read at the */
    const char *tls_key;         /* start, and not again */
    const char *advertise;       /* where the others reach this node, unless a peer says so; NULL: where it listens */
};

/* A program that holds a node calls this before anything else in main: a node starts its own program once more to try
 * out an upload. Returns the exit code of that, or -1 where the program was started by somebody else. */
int node_helper_main(int argc, char **argv);

/* Checks the options, opens and recovers the data, listens. On failure `error` says what was expected, what came and
 * what to do. */
enum sluice_status node_create(const struct node_options *options, struct node **out, char *error,
                               size_t error_size) SLUICE_MUST_CHECK;
/* Starts the threads. */
enum sluice_status node_start(struct node *self) SLUICE_MUST_CHECK;
/* Stops cleanly and waits, at most about half a second: what this node leads is handed to others first. Any thread but
 * the node's own. */
void node_stop(struct node *self);
void node_destroy(struct node *self);

/* Becomes readable when the node has stopped by itself (disk failed, data damaged); node_error says why. */
int node_failed_fd(const struct node *self);
const char *node_error(const struct node *self);
/* The address listened on, with the port that was picked; NULL beyond the last. */
const char *node_address(const struct node *self, unsigned index);
/* Any thread: does the node see a quorum, and are all its shards led by somebody? */
bool node_ready(const struct node *self);

#endif

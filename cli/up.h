/* The parts of `sluice up`: its options, the data directory's layout, one node in this process, several as children. */
#ifndef CLI_UP_H
#define CLI_UP_H

#include <sys/types.h>

#include "cli/cli.h"

#define UP_NODES_MAX     9u
#define UP_ADDRESS_BYTES 128

struct up {
    struct cli_common common; /* its URL is where the gateway will answer */
    const char *data;         /* as given, for people */
    char *path;               /* absolute */
    const char *http, *grpc;  /* ADDR:PORT */
    const char *tokens, *certificate, *key;
    const char *log_level;
    const char *program; /* as this program was called, for examples */
    bool insecure, verbose;
    unsigned nodes; /* 0: as the directory says */
    bool tcp, fabric_set;
    uint32_t restart_after_s;
    int lock_fd;
    char cluster[40]; /* the cluster's name, unlike any other's */
    uint16_t ports[UP_NODES_MAX];
};

/* --- up_layout.c: DATA/up.ini says what was made there; node N lives in DATA/nodeN ---------------------------------
 */

/* Makes the directory, locks it, reads or writes its up.ini, picks ports. Complains and returns an exit code. */
int up_layout_open(struct up *self);
void up_layout_close(struct up *self);
/* DATA/NAME; free it. */
char *up_path(const struct up *self, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Where node 1 … nodes listens: "shm:…" or "tcp:…". */
void up_address(const struct up *self, unsigned node, char out[UP_ADDRESS_BYTES]);
/* Can ADDR:PORT be listened on? Complains if not. */
bool up_can_listen(const struct up *self, const char *option, const char *address);

/* --- up.c ----------------------------------------------------------------------------------------------------------
 */

/* Does the gateway say that the cluster is ready? */
bool up_ready(const struct up *self);
/* What a person can do now. */
void up_greet(const struct up *self);

/* Serve until a signal or a failure. SIGINT, SIGTERM and SIGCHLD are blocked. Return an exit code. */
int up_single(struct up *self);
int up_cluster(struct up *self);

#endif

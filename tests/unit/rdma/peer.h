/* A process of the fabric as the tests see it: counts what happens to it and keeps the last of each. */
#ifndef TEST_PEER_H
#define TEST_PEER_H

#include <criterion/criterion.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "core/base/clock.h"
#include "core/rdma/fabric.h"

#define PATIENCE_NS (20 * NS_PER_S)

struct peer {
    struct fabric *fabric;
    struct fabric_link *link; /* the last that came up */
    unsigned ups, downs, messages, writables, completions;
    uint64_t bytes;
    enum fabric_down reason;
    char text[256];
    uint64_t cookie;
    enum sluice_status status;
    void (*on_message)(struct peer *self, const struct fabric_event *event);
    void (*on_event)(struct peer *self, const struct fabric_event *event); /* of any type, after the counting */
    void *arg;
};

/* Options of a node of the tests' cluster; a test changes what it is about. */
struct fabric_options peer_options(uint32_t role);
void peer_create(struct peer *self, const struct fabric_options *options);
void peer_destroy(struct peer *self);
/* Starts to listen; returns the address to connect to. */
const char *peer_listen(struct peer *self, const char *scheme);
void peer_connect(struct peer *self, const char *address);
unsigned peer_poll(struct peer *self);
/* Creates two, connected to each other: `right` listens. */
void peers_connect(struct peer *left, const struct fabric_options *left_options, struct peer *right,
                   const struct fabric_options *right_options, const char *scheme);
void peers_plain(struct peer *left, struct peer *right, const char *scheme);

enum sluice_status peer_send(struct peer *self, const void *data, size_t size);
enum sluice_status peer_send_buf(struct peer *self, struct buf *buf);

/* Polls up to three peers until `condition` holds. */
#define POLL_UNTIL3(a, b, c, condition)                                                                                \
    do {                                                                                                               \
        uint64_t poll_deadline = clock_monotonic_ns() + PATIENCE_NS;                                                   \
        while (!(condition)) {                                                                                         \
            cr_assert_lt(clock_monotonic_ns(), poll_deadline, "waited in vain for: %s", #condition);                   \
            if (peers_step((a), (b), (c)) == 0)                                                                        \
                peers_rest();                                                                                          \
        }                                                                                                              \
    } while (0)
#define POLL_UNTIL(a, b, condition) POLL_UNTIL3(a, b, NULL, condition)
unsigned peers_step(struct peer *a, struct peer *b, struct peer *c);
void peers_rest(void);

/* From now on every peer has a certificate of one authority, unless its options say otherwise. */
void peers_use_tls(void);

/* A test over each provider, and over tcp with TLS. */
#define OVER_BOTH(suite, promise)                                                                                      \
    static void promise(const char *scheme);                                                                           \
    Test(suite, promise##_over_shm)                                                                                    \
    {                                                                                                                  \
        promise("shm");                                                                                                \
    }                                                                                                                  \
    Test(suite, promise##_over_tcp)                                                                                    \
    {                                                                                                                  \
        promise("tcp");                                                                                                \
    }                                                                                                                  \
    Test(suite, promise##_over_tls)                                                                                    \
    {                                                                                                                  \
        peers_use_tls();                                                                                               \
        promise("tcp");                                                                                                \
    }                                                                                                                  \
    static void promise(const char *scheme)

/* Runs `body` in a child process; it never returns. */
pid_t in_child(void (*body)(const char *address, int ready), const char *address, int *ready);
void child_kill(pid_t child, int signal);
/* The address that a child listens on, sent through its pipe. */
void child_address(int ready, char *out, size_t out_size);

#endif

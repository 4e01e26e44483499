/* A small cluster of hosts for tests: real shards over a queue of frames, disks that answer at once, and a clock that
 * the test moves. */
#ifndef TESTS_UNIT_SHARD_SMALL_H
#define TESTS_UNIT_SHARD_SMALL_H

#include "core/shard/host__.h"

#define SMALL_NODES_MAX 7
#define SMALL_MS        UINT64_C(1000000)

/* A client's connection: what was answered last. */
struct small_link {
    uint32_t replies, events;
    struct wire_header header;
    uint8_t body[4096];
    size_t size; /* of the body, cut to the array */
};

struct small_node {
    uint16_t id;
    bool up;
    bool full; /* its disk */
    uint64_t incarnation;
    struct host *host;
    uint64_t submitted, tickets;
    struct wal_record *records;
    size_t record_count, record_capacity;
    uint64_t members; /* told last */
    uint32_t installed;
};

struct small_frame {
    struct small_frame *next;
    uint16_t from, to;
    size_t size;
    uint8_t data[] __attribute__((aligned(8)));
};

struct small {
    struct host_options options; /* for every node; pairs are filled in */
    uint64_t now, wall;
    uint32_t count;
    struct small_node nodes[SMALL_NODES_MAX + 1];
    struct small_frame *frames, **frames_tail;
    bool cut[SMALL_NODES_MAX + 1][SMALL_NODES_MAX + 1]; /* from, to */
    uint64_t sent_bytes;
    /* A look at each frame before it is delivered; false drops it. */
    bool (*filter)(struct small_frame *frame);
    bool memory_only;
    uint64_t client, sequence;                 /* writes are a client's that may repeat them; 0: nobody's */
    uint64_t founders;                         /* mask; 0: all */
    uint64_t joined, lost;                     /* masks of nodes: see host_group */
    struct store *stores[SMALL_NODES_MAX + 1]; /* NULL: in memory */
};
extern struct small small;

void small_open(uint32_t count);
void small_close(void);
void small_start(uint16_t id);
/* The process ends; what was on its disk stays. */
void small_stop(uint16_t id);
/* Time passes, in steps of a millisecond. */
void small_run(uint64_t ns);
/* Until the condition holds; false: it did not within `ns`. */
bool small_until(bool (*condition)(void), uint64_t ns);
/* Who leads group 1 and may read; 0 nobody. */
uint16_t small_leader(void);
uint16_t small_wait_leader(void);
struct replica *small_replica(uint16_t id);
/* Requests to one node; the answer, when it comes, is in the link. */
void small_send_write(uint16_t id, struct small_link *link, const char *key, const void *value, size_t size,
                      uint64_t deadline);
void small_send_get(uint16_t id, struct small_link *link, const char *key, uint32_t flags);
/* To the leader, whoever that is, until it is answered OK. */
void small_put(const char *key, const void *value, size_t size);
enum sluice_status small_get(const char *key, char *value, size_t room);
/* Bytes as if a peer had sent them. */
void small_inject(uint16_t from, uint16_t to, const void *data, size_t size);

#endif

/* Core nodes that do what a test tells them, on the real fabric, and a client before them; all in one thread and in
 * simulated time: clock_monotonic_ns moves on with each turn and no otherwise. */
#ifndef TESTS_CLIENT_FAKE_H
#define TESTS_CLIENT_FAKE_H

#include <criterion/criterion.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/map.h"
#include "api/sluice.h"
#include "api/wire.h"
#include "core/base/buf.h"
#include "core/base/clock.h"
#include "core/rdma/fabric.h"

extern bool fake_in_client; /* the client is at work, not the nodes before it */

#define FAKE_NODES_MAX 3
#define FAKE_LINKS_MAX 8

struct fake;
struct bed;
typedef void (*fake_script)(struct fake *node, struct fabric_link *link, const struct wire_header *header,
                            const uint8_t *body);

struct fake {
    struct bed *bed;
    struct fabric *fabric; /* NULL: the node is down */
    uint16_t id;
    bool dying; /* goes down when its script returns */
    char address[64];
    struct fabric_link *links[FAKE_LINKS_MAX];
    bool map_asked[FAKE_LINKS_MAX];
    unsigned link_count;
    unsigned asked[128]; /* requests by type */
};

struct bed {
    struct fake nodes[FAKE_NODES_MAX];
    unsigned count;
    struct sluice_client *client;
    char *map;           /* NULL: nodes don't tell it yet */
    const char *lambdas; /* of the map that is made next: JSON, "{…},{…}"; NULL: none */
    uint64_t epoch;
    uint64_t time; /* of every message */
    fake_script script;
};

/* Nodes 1 … count listen, and know a map with the root pool: shards 1 … 4, of which number k is led by node (k - 1) %
 * count + 1. */
void bed_open(struct bed *self, unsigned count, fake_script script);
void bed_close(struct bed *self);
void fake_up(struct fake *self);
void fake_down(struct fake *self);
/* Closes the node's links; the node itself stays up. */
void fake_cut(struct fake *self);
/* A further map, told to all who asked. `pools` and `shards` are JSON to be added behind the root's: ",{…}". */
void bed_map(struct bed *self, const char *pools, const char *shards, uint32_t next_shard);
/* Turns until *done; fails the test after `ms`. */
void bed_run(struct bed *self, const volatile bool *done, uint32_t ms);
/* Turns until *count has reached `least`; fails the test after `ms`. */
void bed_wait(struct bed *self, const volatile unsigned *count, unsigned least, uint32_t ms);
/* Turns for so long. */
void bed_idle(struct bed *self, uint32_t ms);
uint16_t bed_leader(const struct bed *self, uint32_t shard);

/* Answers. */
void fake_reply(struct fake *node, struct fabric_link *link, const struct wire_header *request,
                enum sluice_status status, uint32_t flags, const void *body, size_t size);
/* To a change of the map: names the map that has it, which comes later. */
void fake_changed(struct fake *node, struct fabric_link *link, const struct wire_header *request, const char *text);
void fake_refuse(struct fake *node, struct fabric_link *link, const struct wire_header *request,
                 enum sluice_status status, const char *text);
void fake_not_leader(struct fake *node, struct fabric_link *link, const struct wire_header *request, uint16_t leader);
void fake_event(struct fake *node, struct fabric_link *link, uint64_t request_id, uint32_t flags, uint64_t time,
                const void *body, size_t size);
struct fake_record {
    const char *key, *value;
    uint64_t version, revision, time, epoch;
    uint32_t shard, operation;
    bool tombstone;
};
void fake_add(struct bytes *out, const struct fake_record *record);
/* What a leader answers to a put: version 1 of each key at revision 1. */
void fake_written(struct fake *node, struct fabric_link *link, const struct wire_header *request, const uint8_t *body);

/* An answer, kept. */
struct got {
    bool done;
    unsigned calls;
    enum sluice_status status;
    char detail[512];
    char *json, *cursor, *watch_cursor;
    size_t count, prefix_count;
    char keys[64][64], prefixes[64][64];
    uint64_t versions[64], epochs[64];
    bool deleted[64];
    char data[64][64];
    size_t data_size[64];
    uint64_t at, size;
    uint32_t retry_after_ms;
    bool replayed, durable;
};
void got_answer(void *arg, const struct sluice_answer *answer);
void got_free(struct got *self);

/* A put of one key; runs nothing. */
void start_put(struct bed *bed, const char *key, const char *value, uint32_t timeout_ms, struct got *got);
void start_get(struct bed *bed, const char *key, uint32_t timeout_ms, struct got *got);

#endif

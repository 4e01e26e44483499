/* What the files of this folder share. Everything here belongs to the reactor thread unless it says otherwise. */
#ifndef NODE_NODE_INTERNAL_H
#define NODE_NODE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "core/base/buf.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/panic.h"
#include "core/base/queue.h"
#include "core/base/random.h"
#include "core/cluster/participant.h"
#include "core/node/node.h"
#include "core/rdma/fabric.h"
#include "core/shard/host.h"
#include "core/versions/versions.h"
#include "core/versions/wal.h"

#define NODE_MEMBERS_MAX   63 /* nodes of a cluster */
#define NODE_FOUNDERS_MAX  7  /* of them, those that the first start may name: they begin the map group */
#define NODE_ADDRESSES_MAX 4

/* A node of the cluster, this one among them: first as the options name it, then as the map does. */
struct node__member {
    uint16_t id;
    char *addresses[NODE_ADDRESSES_MAX];
    size_t address_count;
    bool known;               /* to the map in force, and not gone */
    struct fabric_link *link; /* up, or NULL */
    struct fabric_link *dialing;
    size_t next_address;
    uint64_t dial_at_ns;
    uint64_t dial_backoff_ns;
    char last_words[160]; /* why it could not be reached last */
};

/* A client that wants to hear of each change of the map. */
struct node__subscriber {
    struct node__subscriber *next;
    struct fabric_link *link;
    uint64_t request_id;
    uint64_t sent_epoch;
};

/* Work that another thread hands to the reactor. */
struct node__task {
    void (*run)(struct node *node, void *arg);
    void *arg;
};

struct node__identity {
    uint8_t cluster[16];
    uint16_t id;
    uint64_t incarnation;
    uint32_t format;                      /* that node.json is written in */
    uint16_t founders[NODE_FOUNDERS_MAX]; /* whom the first start named; a node that joined later is told by the map */
    size_t founder_count;
    uint64_t joined; /* see participant_options */
    char *peers;     /* JSON: where the others are, as last known; for a node that does not hold the map itself */
    int lock_fd;
};

struct node__lambdas; /* lambdas.c */

struct node {
    struct node_options options; /* with copies of all strings */
    struct node__identity identity;
    struct node__member members[NODE_MEMBERS_MAX];
    size_t member_count;
    struct fabric *fabric;
    struct wal *wal;
    struct store *store;
    struct host *host;
    struct participant *participant;
    struct queue *tasks; /* of struct node__task * */
    struct node__subscriber *subscribers;
    struct fabric_link *closing[64]; /* links to be closed at the end of the round */
    unsigned closing_count;
    struct node__lambdas *lambdas;
    void *health; /* health.c */
    uint64_t started_ns;
    uint32_t level_seen; /* the level that the map had when it was followed last; 0: never */
    uint64_t space_at_ns;
    uint64_t ready_at_ns;
    uint64_t ticket;
    uint64_t free_bytes, total_bytes;
    bool storage_full;
    bool wal_flush_asked;
    bool failed;
    char error[256];
    int failed_fd;
    pthread_t thread;
    bool thread_started;
    atomic_bool stopping;
    atomic_bool handing_over; /* a clean stop: first the others take the lead */
    uint64_t hand_over_until_ns;
    bool handed_over;
    atomic_bool ready;
    atomic_bool gone; /* the reactor has ended; what it did not run of the tasks is dropped */
};

/* The newest map known here, borrowed until the next round; NULL before there is one. */
const struct map *node__map(const struct node *self);

/* join.c: a node that is added to a running cluster asks its members whom they are and to be taken in. Blocks. */
enum sluice_status join__ask(struct node *self, char *error, size_t error_size) SLUICE_MUST_CHECK;

/* members.c: who else there is. */
struct node__member *members__find(struct node *self, uint32_t id);
/* NULL: there is no room for another, or no memory. */
struct node__member *members__make(struct node *self, uint16_t id);
enum sluice_status members__add_address(struct node__member *member, const char *address) SLUICE_MUST_CHECK;
void members__free(struct node *self);
void members__follow_map(struct node *self, const struct map *map);

/* levels.c: releases side by side. */
void levels__follow_map(struct node *self, const struct map *map);

/* data.c: the data directory: who it belongs to, its lock, and the count of starts. */
enum sluice_status data__open(struct node *self, char *error, size_t error_size) SLUICE_MUST_CHECK;
void data__close(struct node *self);
/* Keeps where the others are, so that a start finds them. */
void data__keep_peers(struct node *self);
/* Keeps whom the cluster began with, where that is not known yet. */
enum sluice_status data__keep_founders(struct node *self, uint64_t founders) SLUICE_MUST_CHECK;
/* node.json says from now on that it has this format, if that is later than the one until now. */
enum sluice_status data__use_format(struct node *self, uint32_t format) SLUICE_MUST_CHECK;
/* Path below the data directory; heap. */
char *data__path(const struct node *self, const char *name);

/* links.c: the fabric's side. */
void links__event(void *arg, const struct fabric_event *event);
void links__dial(struct node *self, uint64_t now);
uint64_t links__next_ns(const struct node *self);
void links__close_marked(struct node *self);
void links__send_peer(void *arg, uint16_t node, const struct slice *parts, unsigned count);
void links__send_client(void *arg, void *link, const struct slice *parts, unsigned count, struct buf *payload,
                        uint32_t offset, uint32_t size);
uint64_t links__client_pending(void *arg, void *link);

/* groups.c: this node's part in the cluster. */
enum sluice_status groups__open(struct node *self, char *error, size_t error_size) SLUICE_MUST_CHECK;
/* As in host_env. */
bool groups__owns(void *arg, uint32_t shard, const char *key, size_t size);
enum sluice_status groups__map_apply(void *arg, const struct entry *entry, struct versions *versions,
                                     struct machine_outcome *outcome, char **reply);
void groups__caught_up(void *arg, uint32_t group, uint64_t epoch);
void groups__members_changed(void *arg, uint32_t group, uint64_t epoch, uint64_t members);
void groups__installed(void *arg, uint32_t group, uint64_t epoch);

/* control.c: requests that are not the shards' business. */
void control__request(void *arg, void *link, const struct wire_header *header, const void *body);
void control__map_changed(struct node *self);
void control__link_down(struct node *self, struct fabric_link *link);

/* lambdas.c */
enum sluice_status lambdas__create(struct node *self, char *error, size_t error_size) SLUICE_MUST_CHECK;
enum sluice_status lambdas__start(struct node *self) SLUICE_MUST_CHECK;
void lambdas__stop(struct node *self);
void lambdas__destroy(struct node *self);
void lambdas__map_changed(struct node *self);
/* Once a round: feeds begin, end and go on. */
void lambdas__round(struct node *self);
void lambdas__role(void *arg, uint32_t group, uint64_t epoch, bool leading);
void lambdas__request(struct node *self, struct fabric_link *link, const struct wire_header *header, const void *body);
void lambdas__link_down(struct node *self, struct fabric_link *link);
void lambdas__cancel(struct node *self, struct fabric_link *link, uint64_t request_id);

/* health.c */
enum sluice_status health__start(struct node *self, char *error, size_t error_size) SLUICE_MUST_CHECK;
void health__stop(struct node *self);

/* node.c: any thread. Runs on the reactor; dropped when the node stops first. */
bool node__post(struct node *self, void (*run)(struct node *node, void *arg), void *arg);
/* The node can't go on. */
void node__fail(void *arg, enum sluice_status status, const char *what);

#endif

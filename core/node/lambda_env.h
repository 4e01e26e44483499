/* The lambda host's side of a node; shared by lambdas.c and lambda_env.c. */
#ifndef NODE_LAMBDA_ENV_H
#define NODE_LAMBDA_ENV_H

#include "core/lambda/lambda.h"
#include "core/node/inner.h"
#include "core/node/node__.h"

/* One lambda on one shard that this node leads. */
struct node__feed {
    struct node__feed *next;
    struct lambda *lambda;
    struct lambda_feed *sink;
    struct host_feed *source;
    uint32_t group;
    uint64_t epoch;
};

struct node__led {
    uint32_t group;
    uint64_t epoch;
};

/* An upload that is being tried for a client. */
struct node__check {
    struct node__check *next;
    struct node *node;
    struct fabric_link *link; /* NULL: the client has gone */
    struct wire_header header;
    enum sluice_status status;
    char *text;
};

/* A client that follows a lambda's log. */
struct node__tail {
    struct node__tail *next;
    struct node *node;
    struct fabric_link *link;
    uint64_t request_id;
    uint64_t number; /* names it to other threads */
    struct lambda_log_subscription *subscription;
};

struct node__lambdas {
    struct node *node;
    struct inner *inner;
    struct lambda_host *host;
    struct node__feed *feeds;
    struct node__led *led;
    size_t led_count, led_capacity;
    struct node__check *checks;
    struct node__tail *tails;
    uint64_t tails_made;
    bool closed; /* no feeds, checks or tails any more */
    atomic_bool room, changed;
};

struct lambda_env lambda_env__make(struct node__lambdas *self);

#endif

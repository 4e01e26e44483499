/* The same question to all nodes. */
#include <jansson.h>
#include <stdlib.h>

#include "client/client__.h"

#define GATHER_TIMEOUT_NS NS_PER_S

static void told(struct ask *ask, const struct reply *reply)
{
    struct gather *self = ask->owner;
    struct gather_node *node = LIST__OF(ask, struct gather_node, ask);
    if (reply->status == SLUICE_OK)
        node->json = json_loadb((const char *)reply->body, reply->body_size, 0, NULL);
    if (--self->left == 0)
        self->done(self);
}

bool gather__start(struct gather *self, struct job *job, enum wire_type type, const void *body, size_t size,
                   void (*done)(struct gather *self))
{
    const struct map *map = job->client->map;
    uint64_t deadline = clock_monotonic_ns() + GATHER_TIMEOUT_NS;
    gather__deinit(self);
    self->nodes = calloc(map->node_count + 1, sizeof(*self->nodes));
    if (self->nodes == NULL || map->node_count == 0)
        return false;
    self->done = done;
    for (size_t i = 0; i < map->node_count; i++)
        if (map->nodes[i].state == MAP_NODE_UP ||
            map->nodes[i].state == MAP_NODE_DRAINING) /* the others answer nobody */
            self->nodes[self->count++].node = map->nodes[i].id;
    self->left = self->count;
    if (self->count == 0)
        return false;
    for (size_t i = 0; i < self->count; i++) {
        struct gather_node *node = &self->nodes[i];
        job__ask(job, &node->ask, type, told);
        node->ask.owner = self;
        node->ask.target = ASK_NODE;
        node->ask.node = node->node;
        node->ask.once = true;
        node->ask.body = body;
        node->ask.body_size = size;
        if (node->ask.deadline_ns > deadline)
            node->ask.deadline_ns = deadline;
        ask__start(&node->ask);
    }
    return true;
}

void gather__deinit(struct gather *self)
{
    for (size_t i = 0; i < self->count; i++) {
        ask__cancel(&self->nodes[i].ask);
        json_decref(self->nodes[i].json);
    }
    free(self->nodes);
    *self = (struct gather){0};
}

/* The same question to all nodes. */
#include <jansson.h>
#include <stdlib.h>

#include "client/client__.h"

#define GATHER_TIMEOUT_NS NS_PER_S
/* Who is not linked may be in a moment, if it was dialled just now. */
#define GATHER_DIAL_NS (100 * NS_PER_MS)
/* Once somebody has answered a prompt question the others have so long, and as often as long as that took. */
#define PROMPT_NS    (200 * NS_PER_MS)
#define PROMPT_TIMES 3

static void told(struct ask *ask, const struct reply *reply)
{
    struct gather *self = ask->owner;
    struct gather_node *node = LIST__OF(ask, struct gather_node, ask);
    if (reply->status == SLUICE_OK)
        node->json = json_loadb((const char *)reply->body, reply->body_size, 0, NULL);
    if (--self->left == 0) {
        timer__stop(&self->client->timers, &self->stragglers);
        self->done(self);
        return;
    }
    uint64_t now = clock_monotonic_ns();
    if (self->prompt && reply->status == SLUICE_OK && !self->stragglers.armed)
        timer__set(&self->client->timers, &self->stragglers, now + PROMPT_NS + PROMPT_TIMES * (now - self->started_ns));
}

static void enough(struct timer *timer)
{
    struct gather *self = LIST__OF(timer, struct gather, stragglers);
    for (size_t i = 0; i < self->count; i++)
        ask__cancel(&self->nodes[i].ask);
    self->left = 0;
    self->done(self);
}

bool gather__start(struct gather *self, struct job *job, enum wire_type type, const void *body, size_t size,
                   void (*done)(struct gather *self))
{
    const struct map *map = job->client->map;
    bool prompt = self->prompt;
    gather__deinit(self);
    self->prompt = prompt;
    self->client = job->client;
    self->stragglers = (struct timer){.fire = enough};
    self->started_ns = clock_monotonic_ns();
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
        const struct peer *peer = link__peer(job->client, node->node);
        bool linked = peer != NULL && peer->link != NULL;
        uint64_t deadline = self->started_ns + (linked || !self->prompt ? GATHER_TIMEOUT_NS : GATHER_DIAL_NS);
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
    if (self->client != NULL)
        timer__stop(&self->client->timers, &self->stragglers);
    free(self->nodes);
    *self = (struct gather){0};
}

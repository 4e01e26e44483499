/* Lambdas as the node runs them, without threads: the real feeds, cursors and identities of effects. Whoever leads a
 * shard hands its events, one after the other, to a callback that puts one object for each; the put's identity is the
 * event's, and the cursor moves behind what was handled. After any number of failovers each event must have had its
 * effect once, in the order of revisions. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/client.h"
#include "tests/sim/sim.h"

#define NAME         "counter"
#define QUEUE_MAX    8u
#define CURSOR_NS    (100 * NS_PER_MS)
#define WATERMARK_NS (5 * NS_PER_S)

struct item {
    uint64_t revision;
    uint32_t operation;
};

/* One shard's feed on the node that leads it. */
struct sim_feed {
    struct sim_node *node;
    uint32_t group;
    uint64_t generation; /* of the lead; answers to older ones' requests say nothing */
    struct host_feed *source;
    struct item queue[QUEUE_MAX];
    uint32_t count;
    bool refused, writing, moving, wanted;
    uint64_t passed, handled, durable, durable_since, aged;
};

struct sim_lambda {
    struct sim_user user; /* the node's inner client */
    struct sim_feed feeds[SIM_GROUPS_MAX + 1];
};

/* What a request was for: the process, or its lead, may be another one when the answer comes. */
struct flight {
    struct sim_feed *feed;
    uint64_t generation, revision;
};

static void pump(struct sim_feed *feed);

static size_t output_name(uint32_t group, char out[16])
{
    return (size_t)snprintf(out, 16, "out%u", group);
}

/* Which keys' events are handled. */
static bool handled_key(const char *key, size_t size)
{
    return sim_key_number(key, size) < 2;
}

static bool match(void *arg, const char *key, size_t size)
{
    (void)arg;
    return handled_key(key, size);
}

static bool offer(void *arg, const struct version *version, uint64_t epoch)
{
    struct sim_feed *feed = arg;
    (void)epoch;
    if (feed->count == QUEUE_MAX) {
        feed->refused = true;
        return false;
    }
    feed->queue[feed->count++] = (struct item){version->revision, version->operation};
    feed->wanted = true;
    return true;
}

static void passed(void *arg, uint64_t revision)
{
    struct sim_feed *feed = arg;
    feed->passed = revision;
}

/* ---- Effects and cursors ---- */

static void retry(struct sim_event *event)
{
    const struct flight *flight = (const void *)event->data;
    if (flight->feed->source != NULL && flight->feed->generation == flight->generation)
        pump(flight->feed);
    sim_free_event(event);
}

static struct flight *flight_of(struct sim_feed *feed, uint64_t revision)
{
    struct flight *flight = malloc(sizeof(*flight));
    ASSERT(flight != NULL);
    *flight = (struct flight){.feed = feed, .generation = feed->generation, .revision = revision};
    return flight;
}

static void again_later(struct sim_feed *feed, uint64_t delay)
{
    sim_after(delay, retry, NULL)->data = (void *)flight_of(feed, 0);
}

static void written(void *arg, const struct sluice_answer *answer)
{
    struct flight *flight = arg;
    struct sim_feed *feed = flight->feed;
    bool mine = feed->source != NULL && feed->generation == flight->generation;
    free(flight);
    if (!mine)
        return;
    feed->writing = false;
    if (answer->status == SLUICE_OK) {
        feed->handled = feed->queue[0].revision;
        memmove(feed->queue, feed->queue + 1, --feed->count * sizeof(*feed->queue));
        sim.totals.effects++;
        sim.totals.effects_again += feed->handled <= sim.handled[feed->group];
        if (feed->handled > sim.handled[feed->group])
            sim.handled[feed->group] = feed->handled;
        if (feed->refused) {
            feed->refused = false;
            host_feed_kick(feed->source);
        }
        again_later(feed, 1 + random_below(&sim.random, 100 * NS_PER_US));
    } else {
        again_later(feed, random_below(&sim.random, 50 * NS_PER_MS));
    }
}

static void moved(void *arg, const struct sluice_answer *answer)
{
    struct flight *flight = arg;
    struct sim_feed *feed = flight->feed;
    if (feed->source != NULL && feed->generation == flight->generation) {
        feed->moving = false;
        if (answer->status == SLUICE_OK && flight->revision > feed->durable) {
            feed->durable = flight->revision;
            sim.totals.cursors++;
        }
        again_later(feed, CURSOR_NS);
    }
    free(flight);
}

static void write_effect(struct sim_feed *feed, struct sluice_client *client)
{
    const struct item *item = &feed->queue[0];
    char key[16], value[48];
    const struct sluice_operation operation = {
        .kind = SLUICE_PUT,
        .key = key,
        .key_size = output_name(feed->group, key),
        .data = value,
        .data_size =
            (size_t)snprintf(value, sizeof(value), "%llu.%u", (unsigned long long)item->revision, item->operation),
    };
    const struct sluice_write write = {.call = {.timeout_ms = 1000}, .operations = &operation, .operation_count = 1};
    feed->writing = true;
    /* A watermark lets the target forget effects: only of a cursor that is older than any effect on its way. */
    sluice__write_as(client, &write, 1000 + feed->group, item->revision << 20 | (uint64_t)item->operation << 10,
                     feed->aged == 0 ? 0 : (feed->aged + 1) << 20, written, flight_of(feed, item->revision));
}

static void move_cursor(struct sim_feed *feed, struct sluice_client *client)
{
    uint64_t cursor = feed->count > 0 ? feed->queue[0].revision - 1 : feed->passed;
    if (sim.now - feed->durable_since > WATERMARK_NS) {
        feed->aged = feed->durable;
        feed->durable_since = sim.now;
    }
    if (feed->moving || feed->handled <= feed->durable || cursor <= feed->durable)
        return;
    feed->moving = true;
    sluice__cursor(client, NAME, feed->group, cursor, moved, flight_of(feed, cursor));
}

static void pump(struct sim_feed *feed)
{
    struct sim_user *user = &feed->node->lambda->user;
    if (!feed->node->up || feed->source == NULL || user->client == NULL)
        return;
    if (sim.now < feed->node->paused_until) {
        again_later(feed, feed->node->paused_until - sim.now + 1);
        return;
    }
    sim.user = user;
    if (!feed->writing && feed->count > 0)
        write_effect(feed, user->client);
    move_cursor(feed, user->client);
    sim.user = NULL;
    sim_user_turn(user);
}

/* ---- Leading, and ceasing to ---- */

void sim_lambda_role(struct sim_node *node, uint32_t group, bool leading)
{
    if (!sim.lambdas)
        return;
    struct sim_feed *feed = &node->lambda->feeds[group];
    feed->generation++;
    if (feed->source != NULL)
        host_feed_stop(feed->source);
    feed->source = NULL;
    /* The host is in the midst of a step: a feed begins at the end of the round. */
    feed->wanted = leading;
}

void sim_lambda_round(struct sim_node *node)
{
    for (uint32_t group = 1; sim.lambdas && group <= sim.group_count; group++) {
        struct sim_feed *feed = &node->lambda->feeds[group];
        if (!feed->wanted)
            continue;
        feed->wanted = false;
        if (feed->source == NULL) {
            uint64_t cursor = host_cursor(node->host, group, NAME);
            *feed = (struct sim_feed){.node = node,
                                      .group = group,
                                      .generation = feed->generation,
                                      .passed = cursor,
                                      .handled = cursor,
                                      .durable = cursor,
                                      .durable_since = sim.now};
            const struct host_feed_options options = {.group = group,
                                                      .epoch = 1,
                                                      .from = cursor + 1,
                                                      .match = match,
                                                      .offer = offer,
                                                      .passed = passed,
                                                      .arg = feed};
            if (host_feed_start(node->host, &options, &feed->source) != SLUICE_OK)
                sim_fail("node %u cannot feed group %u", node->id, group);
        }
        again_later(feed, 1);
    }
}

void sim_lambda_start(struct sim_node *node)
{
    const char *nodes[] = {"tcp:node:1", "tcp:node:2", "tcp:node:3", "tcp:node:4", "tcp:node:5"};
    const struct sluice_options options = {.size = sizeof(options), .nodes = nodes, .node_count = sim.node_count};
    if (!sim.lambdas)
        return;
    if (node->lambda == NULL)
        node->lambda = calloc(1, sizeof(*node->lambda));
    ASSERT(node->lambda != NULL);
    node->lambda->user.id = 100 + node->id;
    node->lambda->user.wake_at = 0;
    sim.user = &node->lambda->user;
    if (sluice_open(&options, &node->lambda->user.client) != SLUICE_OK)
        sim_fail("no memory");
    sim.user = NULL;
    sim_user_turn(&node->lambda->user);
}

/* The process ends: nothing of it is left but the requests that are on their way. */
void sim_lambda_stop(struct sim_node *node)
{
    if (node->lambda == NULL)
        return;
    for (uint32_t group = 1; group <= SIM_GROUPS_MAX; group++) {
        node->lambda->feeds[group].generation++;
        node->lambda->feeds[group].source = NULL;
        node->lambda->feeds[group].wanted = false;
    }
    struct sluice_client *client = node->lambda->user.client;
    node->lambda->user.client = NULL;
    sim.user = &node->lambda->user;
    sluice_close(client);
    sim.user = NULL;
}

/* ---- Checks ---- */

struct outputs {
    struct item *items;
    size_t count, capacity;
};

static bool collect(void *arg, const struct version *version)
{
    struct outputs *outputs = arg;
    char text[48] = "";
    struct item item = {0};
    if (outputs->count == outputs->capacity) {
        outputs->capacity = outputs->capacity == 0 ? 256 : 2 * outputs->capacity;
        outputs->items = realloc(outputs->items, outputs->capacity * sizeof(*outputs->items));
        ASSERT(outputs->items != NULL);
    }
    memcpy(text, version->value, version->value_size < sizeof(text) - 1 ? version->value_size : sizeof(text) - 1);
    unsigned long long revision = 0;
    if (sscanf(text, "%llu.%u", &revision, &item.operation) != 2)
        sim_fail("a lambda's output is not what it wrote: %s", text);
    item.revision = revision;
    outputs->items[outputs->count++] = item;
    return true;
}

static bool collect_event(void *arg, const struct version *version)
{
    struct outputs *outputs = arg;
    if (outputs->count == outputs->capacity) {
        outputs->capacity = outputs->capacity == 0 ? 256 : 2 * outputs->capacity;
        outputs->items = realloc(outputs->items, outputs->capacity * sizeof(*outputs->items));
        ASSERT(outputs->items != NULL);
    }
    outputs->items[outputs->count++] = (struct item){version->revision, version->operation};
    return true;
}

static int by_revision(const void *a, const void *b)
{
    const struct item *left = a, *right = b;
    if (left->revision != right->revision)
        return left->revision < right->revision ? -1 : 1;
    return left->operation < right->operation ? -1 : left->operation > right->operation;
}

/* As any node that holds it shows it. */
static void history_of(const char *key, size_t size, versions_visit visit, struct outputs *outputs)
{
    uint32_t group = sim_group_of(key, size), node = (uint32_t)__builtin_ctzll(sim_wanted(group));
    const struct versions_span span = {.version_to = UINT64_MAX, .time_to = UINT64_MAX, .values = true};
    struct versions *versions = host_group_versions(sim.nodes[node].host, group);
    enum sluice_status status = versions_history(versions, (struct slice){key, size}, &span, visit, outputs);
    if (status != SLUICE_OK && status != SLUICE_NOT_FOUND)
        sim_fail("the history of %s cannot be read: %s", key, sluice_status_text(status));
}

/* False: there are events whose effects are still to come. */
static bool check_group(uint32_t group, bool complete)
{
    struct outputs events = {0}, outputs = {0};
    char key[16];
    for (uint32_t number = 0; number < SIM_KEYS; number++) {
        size_t size = sim_key_name(number, key);
        if (sim_group_of(key, size) == group && handled_key(key, size))
            history_of(key, size, collect_event, &events);
    }
    if (events.count > 0)
        qsort(events.items, events.count, sizeof(*events.items), by_revision);
    history_of(key, output_name(group, key), collect, &outputs);
    for (size_t i = 0; i < outputs.count; i++)
        if (i >= events.count || by_revision(&outputs.items[i], &events.items[i]) != 0)
            sim_fail("a lambda's effect %zu in shard %u is of event %llu.%u, not %llu.%u: not once each, in order", i,
                     group, (unsigned long long)outputs.items[i].revision, outputs.items[i].operation,
                     i < events.count ? (unsigned long long)events.items[i].revision : 0,
                     i < events.count ? events.items[i].operation : 0);
    bool all = outputs.count == events.count;
    if (!all && complete)
        sim_fail("liveness: a lambda handled %zu of %zu events of shard %u, long after the last fault", outputs.count,
                 events.count, group);
    free(events.items);
    free(outputs.items);
    return all;
}

bool sim_check_lambdas(bool complete)
{
    bool all = true;
    for (uint32_t group = 1; sim.lambdas && group <= sim.group_count; group++)
        all = check_group(group, complete) && all;
    return all;
}

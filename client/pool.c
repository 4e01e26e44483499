/* Pools. A new one is first named in the map, where nothing is routed to it yet; then each shard that holds its keys so
 * far is told to take no more of them, and says whether it holds any; then it goes live. A delete goes the other way.
 * Every step can be repeated, so that whoever repeats the call finishes what a dead client began. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/client__.h"
#include "core/base/text.h"

/* One command to one shard. */
struct shard_order {
    struct ask ask;
    struct wire_command *command;
};

struct pool_job {
    struct job job;
    struct change change;
    char *prefix;
    json_t *policy;
    bool force;
    bool unknown; /* there is no such pool; only what was left of it is cleared away */
    struct shard_order *orders;
    size_t order_count, order_left;
    uint64_t held;                          /* versions that stand in the way */
    void (*ordered)(struct pool_job *self); /* all shards have done as told */
    bool aborted;
};

static void orders_free(struct pool_job *self)
{
    for (size_t i = 0; i < self->order_count; i++) {
        ask__cancel(&self->orders[i].ask);
        free(self->orders[i].command);
    }
    free(self->orders);
    self->orders = NULL;
    self->order_count = self->order_left = 0;
}

static void pool_deinit(struct job *job)
{
    struct pool_job *self = (struct pool_job *)job;
    orders_free(self);
    change__deinit(&self->change);
    json_decref(self->policy);
    free(self->prefix);
}

static void no_memory(struct pool_job *self)
{
    job__fail(&self->job, SLUICE_MEMORY, "no memory; repeat the call to finish it");
}

/* --- Pools as users see them --- */

static json_t *number_text(uint64_t number)
{
    char text[24];
    snprintf(text, sizeof(text), "%llu", (unsigned long long)number);
    return json_string(text);
}

/* What is not limited is left out, so that this document can be put again as it is. */
static json_t *pool_json(const struct map_pool *pool)
{
    json_t *retention = json_object();
    if (pool->retention_count > 0)
        json_object_set_new(retention, "count", number_text(pool->retention_count));
    if (pool->retention_age_ns > 0)
        json_object_set_new(retention, "age", number_text(pool->retention_age_ns));
    if (pool->retention_bytes > 0)
        json_object_set_new(retention, "bytes", number_text(pool->retention_bytes));
    return json_pack("{s:s, s:s, s:s, s:I, s:I, s:s?, s:o, s:o}", "prefix", pool->prefix, "kind",
                     map_pool_kind_name(pool->kind), "state", map_pool_state_name(pool->state), "shards",
                     (json_int_t)pool->shard_count, "replicas", (json_int_t)pool->replicas, "affinity", pool->affinity,
                     "retention", retention, "lateness", number_text(pool->lateness_ns));
}

static void answer_document(struct job *job, json_t *document)
{
    char *text = document == NULL ? NULL : json_dumps(document, JSON_COMPACT);
    json_decref(document);
    if (text == NULL)
        job__fail(job, SLUICE_MEMORY, "no memory for the answer");
    else
        job__answer_json(job, SLUICE_OK, sluice_status_text(SLUICE_OK), text);
    free(text);
}

static const struct map_pool *pool_of(const struct pool_job *self)
{
    return map_pool_find(self->job.client->map, self->prefix, strlen(self->prefix));
}

/* --- Orders to shards --- */

static void order_done(struct ask *ask, const struct reply *reply)
{
    struct pool_job *self = ask->owner;
    struct wire_record_view view;
    size_t offset = 0;
    if (reply->status == SLUICE_CONFLICT && (reply->flags & WIRE_FLAG_RECORD) &&
        wire_record_next(reply->body, reply->body_size, &offset, &view) == 1) {
        self->held += view.record->version;
    } else if (reply->status != SLUICE_OK && reply->status != SLUICE_STALE_MAP) {
        job__fail_reply(&self->job, reply);
        return;
    }
    if (--self->order_left > 0)
        return;
    orders_free(self);
    self->ordered(self);
}

/* Adds the same order to all shards of a pool. */
static bool order(struct pool_job *self, enum wire_command_kind kind, const char *prefix, const struct map_pool *pool)
{
    struct shard_order *grown =
        reallocarray(self->orders, self->order_count + pool->shard_count, sizeof(*self->orders));
    if (grown == NULL)
        return false;
    self->orders = grown;
    for (size_t i = 0; i < pool->shard_count; i++) {
        struct shard_order *each = &self->orders[self->order_count];
        struct wire_command *command = write__command(kind, prefix, strlen(prefix), 0);
        if (command == NULL)
            return false;
        job__ask(&self->job, &each->ask, WIRE_WRITE, order_done);
        each->command = command;
        write__ask(&each->ask, command, pool->shards[i]);
        self->order_count++;
    }
    return true;
}

static void orders_go(struct pool_job *self, void (*ordered)(struct pool_job *self))
{
    self->ordered = ordered;
    self->order_left = self->order_count;
    if (self->order_count == 0) {
        ordered(self);
        return;
    }
    for (size_t i = 0; i < self->order_count; i++)
        ask__start(&self->orders[i].ask);
}

static void send_change(struct pool_job *self, const char *name,
                        void (*done)(struct ask *ask, const struct reply *reply))
{
    json_t *document = json_pack("{s:s, s:s}", "change", name, "prefix", self->prefix);
    if (!change__send(&self->change, &self->job, document, done))
        no_memory(self);
}

/* --- Put --- */

static bool change_shows(struct job *job)
{
    return change__shows(&((struct pool_job *)job)->change);
}

static void put_done(struct job *job)
{
    struct pool_job *self = (struct pool_job *)job;
    const struct map_pool *pool = pool_of(self);
    if (pool == NULL)
        job__fail(job, SLUICE_CONFLICT, "the pool was deleted by somebody else meanwhile");
    else
        answer_document(job, pool_json(pool));
}

static void live(struct ask *ask, const struct reply *reply)
{
    struct pool_job *self = ask->owner;
    if (reply->status != SLUICE_OK)
        job__fail_reply(&self->job, reply);
    else
        job__when_mapped(&self->job, change_shows, put_done);
}

static void aborted(struct ask *ask, const struct reply *reply)
{
    struct pool_job *self = ask->owner;
    char detail[CLIENT_DETAIL_BYTES];
    if (reply->status != SLUICE_OK && reply->status != SLUICE_NOT_FOUND) {
        job__fail_reply(&self->job, reply);
        return;
    }
    snprintf(detail, sizeof(detail),
             "the enclosing pool holds %llu versions under %s, history included; a pool can be made only where nothing "
             "was: choose another prefix",
             (unsigned long long)self->held, self->prefix);
    job__fail(&self->job, SLUICE_CONFLICT, detail);
}

static void reopened(struct pool_job *self)
{
    send_change(self, "pool_abort", aborted);
}

static const struct map_pool *enclosing(const struct pool_job *self)
{
    return map_pool_of(self->job.client->map, self->prefix, strlen(self->prefix));
}

static void closed(struct pool_job *self)
{
    if (self->held == 0) {
        send_change(self, "pool_live", live);
        return;
    }
    const struct map_pool *around = enclosing(self);
    if (around == NULL)
        reopened(self);
    else if (!order(self, WIRE_COMMAND_OPEN_PREFIX, self->prefix, around))
        no_memory(self);
    else
        orders_go(self, reopened);
}

static void begun_shows(struct job *job)
{
    struct pool_job *self = (struct pool_job *)job;
    const struct map_pool *pool = pool_of(self), *around = enclosing(self);
    if (pool == NULL) {
        job__fail(job, SLUICE_CONFLICT, "the pool was deleted by somebody else meanwhile");
    } else if (pool->state == MAP_POOL_LIVE) {
        answer_document(job, pool_json(pool));
    } else if (around == NULL) {
        send_change(self, "pool_live", live);
    } else if (!order(self, WIRE_COMMAND_CLOSE_PREFIX, self->prefix, around)) {
        no_memory(self);
    } else {
        self->held = 0;
        orders_go(self, closed);
    }
}

static void begun(struct ask *ask, const struct reply *reply)
{
    struct pool_job *self = ask->owner;
    if (reply->status != SLUICE_OK)
        job__fail_reply(&self->job, reply);
    else
        job__when_mapped(&self->job, change_shows, begun_shows);
}

static void put_go(struct job *job)
{
    struct pool_job *self = (struct pool_job *)job;
    json_t *document =
        json_pack("{s:s, s:s, s:O}", "change", "pool_begin", "prefix", self->prefix, "policy", self->policy);
    if (!change__send(&self->change, job, document, begun))
        job__refuse(job, SLUICE_MEMORY, "no memory; nothing was changed");
}

/* --- Delete --- */

static void delete_answer(struct pool_job *self)
{
    if (self->unknown)
        job__fail(&self->job, SLUICE_NOT_FOUND, "there is no such pool");
    else
        answer_document(&self->job, json_pack("{s:s, s:b}", "prefix", self->prefix, "deleted", 1));
}

static bool below(const char *prefix, const struct map_pool *pool)
{
    return text_prefix_holds(prefix, strlen(prefix), pool->prefix, strlen(pool->prefix));
}

static void nested_closed(struct pool_job *self)
{
    const struct map *map = self->job.client->map;
    for (size_t i = 0; i < map->pool_count; i++)
        if (text_prefix_holds(map->pools[i].prefix, strlen(map->pools[i].prefix), self->prefix, strlen(self->prefix)) &&
            !order(self, WIRE_COMMAND_OPEN_PREFIX, self->prefix, &map->pools[i])) {
            no_memory(self);
            return;
        }
    orders_go(self, delete_answer);
}

/* The keys go back to the enclosing pools. Those of pools within the deleted one don't: their prefixes were closed
 * there by the deleted one's, and are now closed in their own right. */
static void deleted_shows(struct job *job)
{
    struct pool_job *self = (struct pool_job *)job;
    const struct map *map = job->client->map;
    const struct map_pool *around = enclosing(self);
    for (size_t i = 0; around != NULL && i < map->pool_count; i++)
        if (below(self->prefix, &map->pools[i]) && map->pools[i].state == MAP_POOL_LIVE &&
            !order(self, WIRE_COMMAND_CLOSE_PREFIX, map->pools[i].prefix, around)) {
            no_memory(self);
            return;
        }
    orders_go(self, nested_closed);
}

static void deleted(struct ask *ask, const struct reply *reply)
{
    struct pool_job *self = ask->owner;
    bool gone_before = reply->status == SLUICE_NOT_FOUND && ask->maybe_applied;
    if (reply->status == SLUICE_OK)
        job__when_mapped(&self->job, change_shows, deleted_shows);
    else if (gone_before)
        deleted_shows(&self->job);
    else
        job__fail_reply(&self->job, reply);
}

static void refuse_delete(struct pool_job *self)
{
    char detail[CLIENT_DETAIL_BYTES];
    snprintf(detail, sizeof(detail),
             "the pool holds %llu versions, history included; delete it with force=true to lose them",
             (unsigned long long)self->held);
    job__fail(&self->job, SLUICE_CONFLICT, detail);
}

/* Its shards take no more, and hold nothing; else they go on as before. */
static void emptied(struct pool_job *self)
{
    const struct map_pool *pool = pool_of(self);
    if (self->held == 0)
        send_change(self, "pool_delete", deleted);
    else if (pool == NULL)
        refuse_delete(self);
    else if (!order(self, WIRE_COMMAND_OPEN_PREFIX, self->prefix, pool))
        no_memory(self);
    else
        orders_go(self, refuse_delete);
}

static void delete_go(struct job *job)
{
    struct pool_job *self = (struct pool_job *)job;
    const struct map_pool *pool = pool_of(self);
    if (pool == NULL) {
        self->unknown = true;
        deleted_shows(job);
    } else if (self->force || pool->state != MAP_POOL_LIVE) {
        send_change(self, "pool_delete", deleted);
    } else if (!order(self, WIRE_COMMAND_CLOSE_PREFIX, self->prefix, pool)) {
        no_memory(self);
    } else {
        orders_go(self, emptied);
    }
}

/* --- Starting --- */

/* A slash at either end is dropped; the root is "" or "/". */
static bool take_prefix(struct pool_job *self, const char *prefix)
{
    prefix += *prefix == '/';
    size_t size = strlen(prefix);
    size -= size > 0 && prefix[size - 1] == '/';
    const char *why = size == 0 ? NULL : text_key_error(prefix, size);
    if (why != NULL) {
        job__refuse(&self->job, SLUICE_INVALID, "a pool's prefix is written like a key: %s", why);
        return false;
    }
    self->prefix = text__dup(prefix, size);
    if (self->prefix != NULL)
        return true;
    job__refuse(&self->job, SLUICE_MEMORY, "no memory; nothing was changed");
    return false;
}

void sluice_pool_put(struct sluice_client *client, const struct sluice_call *call, const char *prefix,
                     const char *policy_json, sluice_done done, void *arg)
{
    json_error_t where;
    struct pool_job *self = job__create(client, sizeof(*self), call, done, arg, pool_deinit);
    if (self == NULL || !take_prefix(self, prefix))
        return;
    self->policy = json_loads(policy_json == NULL ? "{}" : policy_json, JSON_REJECT_DUPLICATES, &where);
    if (!json_is_object(self->policy)) {
        job__refuse(&self->job, SLUICE_INVALID, "a pool's policy is a JSON object: line %d, column %d: %s", where.line,
                    where.column, self->policy == NULL ? where.text : "another type came");
        return;
    }
    job__later(&self->job, put_go);
}

void sluice_pool_delete(struct sluice_client *client, const struct sluice_call *call, const char *prefix, bool force,
                        sluice_done done, void *arg)
{
    struct pool_job *self = job__create(client, sizeof(*self), call, done, arg, pool_deinit);
    if (self == NULL || !take_prefix(self, prefix))
        return;
    if (self->prefix[0] == '\0') {
        job__refuse(&self->job, SLUICE_CONFLICT, "the root pool cannot be removed");
        return;
    }
    self->force = force;
    job__later(&self->job, delete_go);
}

static void get_go(struct job *job)
{
    struct pool_job *self = (struct pool_job *)job;
    const struct map *map = job->client->map;
    if (self->prefix != NULL) {
        const struct map_pool *pool = pool_of(self);
        if (pool == NULL)
            job__fail(job, SLUICE_NOT_FOUND, "there is no such pool");
        else
            answer_document(job, pool_json(pool));
        return;
    }
    json_t *pools = json_array();
    for (size_t i = 0; i < map->pool_count; i++)
        json_array_append_new(pools, pool_json(&map->pools[i]));
    answer_document(job, json_pack("{s:o}", "pools", pools));
}

void sluice_pool_get(struct sluice_client *client, const struct sluice_call *call, const char *prefix, sluice_done done,
                     void *arg)
{
    struct pool_job *self = job__create(client, sizeof(*self), call, done, arg, pool_deinit);
    if (self == NULL || (prefix != NULL && !take_prefix(self, prefix)))
        return;
    job__later(&self->job, get_go);
}

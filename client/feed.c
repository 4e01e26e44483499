/* One shard's part of a watch: subscribed at whoever leads the shard, taken up again where it broke off, each event
 * handed over once. A lambda's log is fed the same way, from each node. */
#include <stdlib.h>
#include <string.h>

#include "client/watch__.h"

#define RESTART_PAUSE_NS (200 * NS_PER_MS)
#define MISSING_PAUSE_NS NS_PER_S /* until a node may have heard of a lambda */

/* From the last operation that came, or from the time up to which everything did, whichever is later. */
static void prepare(struct ask *ask)
{
    struct feed *self = ask->owner;
    struct wire_query *query = self->query;
    if (query == NULL)
        return;
    bool by_position = self->received_revision != 0 && self->received_time > self->received_closed;
    query->flags =
        (uint16_t)((self->watch->values ? WIRE_QUERY_VALUES : 0u) | (by_position ? 0u : WIRE_QUERY_FROM_TIME));
    query->from = by_position ? self->received_revision : self->received_closed;
    query->operation = by_position ? self->received_next : 0;
    /* The map may be late with an epoch when a stream begins; once it stands, another epoch means that events are lost.
     */
    query->epoch = self->acknowledged || self->received_revision != 0 ? self->epoch : 0;
}

/* --- Handing over --- */

static bool say_record(struct feed *self, const struct wire_record_view *view)
{
    struct sluice_watch *watch = self->watch;
    const struct wire_record *record = view->record;
    struct sluice_object object;
    if (record->revision < self->revision || (record->revision == self->revision && record->operation < self->next))
        return true;
    self->revision = record->revision;
    self->next = record->operation + 1;
    self->time = record->time;
    /* Times rise strictly along a shard's log. */
    if (record->time - 1 > self->closed)
        self->closed = record->time - 1;
    record__object(view, watch->values, NULL, &object);
    const struct sluice_watch_event event = {
        .type = object.deleted ? SLUICE_WATCH_DELETE : SLUICE_WATCH_PUT,
        .object = &object,
        .cursor = watch__cursor(watch),
        .closed_ns = watch->closed,
    };
    return watch__say(watch, &event);
}

/* Stops where the user pauses. False: the watch is gone. */
static bool say_records(struct feed *self, const uint8_t *bytes, size_t size, size_t *offset)
{
    struct wire_record_view view;
    while (!self->watch->paused && wire_record_next(bytes, size, offset, &view) == 1)
        if (!say_record(self, &view))
            return false;
    return true;
}

static bool say_line(struct feed *self, const uint8_t *bytes, size_t size, uint64_t time)
{
    struct sluice_watch *watch = self->watch;
    const struct sluice_object object = {
        .key = watch->pattern,
        .key_size = watch->pattern_size,
        .content_type = "text/plain",
        .content_type_size = 10,
        .data = bytes,
        .data_size = size,
        .size = size,
        .time_ns = time,
        .object_time_ns = time,
    };
    const struct sluice_watch_event event = {.type = SLUICE_WATCH_PUT, .object = &object, .detail = ""};
    return watch__say(watch, &event);
}

static void take_progress(struct feed *self, uint64_t closed)
{
    if (closed > self->closed)
        self->closed = closed;
    /* Whatever was handed over before it is no later than it, also where that time is not known. 0: the replica is
     * behind what was handed over. */
    if (closed != 0 && self->time == CLIENT_NEVER)
        self->time = self->closed;
    watch__closed_moved(self->watch);
}

/* Keeps it for later. A shard for which there is no room is stopped, and taken up again where it stood. */
static bool put_off(struct feed *self, const uint8_t *bytes, size_t size, size_t offset, uint64_t time)
{
    struct sluice_watch *watch = self->watch;
    struct chunk *chunk = NULL;
    if (watch->chunk_bytes + sizeof(*chunk) + size <= watch->buffer_bytes_max || offset > 0)
        chunk = malloc(sizeof(*chunk) + size);
    if (chunk == NULL)
        return false;
    *chunk = (struct chunk){.feed = self, .size = size, .offset = offset, .time = time};
    if (size > 0)
        memcpy(chunk->bytes, bytes, size);
    list__append(&watch->chunks, &chunk->link);
    watch->chunk_bytes += sizeof(*chunk) + size;
    return true;
}

static void chunk_free(struct sluice_watch *watch, struct chunk *chunk)
{
    list__remove(&chunk->link);
    watch->chunk_bytes -= sizeof(*chunk) + chunk->size;
    free(chunk);
}

/* The stream ends here for now; where it goes on was noted before. */
static void halt(struct feed *self)
{
    ask__cancel(&self->ask);
    self->halted = true;
}

bool feed__drain(struct sluice_watch *watch)
{
    while (!watch->paused && !list__empty(&watch->chunks)) {
        struct chunk *chunk = LIST__OF(watch->chunks.next, struct chunk, link);
        struct feed *feed = chunk->feed;
        bool alive = true;
        if (watch->log)
            alive = say_line(feed, chunk->bytes, chunk->size, chunk->time);
        else if (chunk->size == 0)
            take_progress(feed, chunk->time);
        else
            alive = say_records(feed, chunk->bytes, chunk->size, &chunk->offset);
        if (!alive)
            return false;
        if (watch->log || chunk->offset >= chunk->size)
            chunk_free(watch, chunk);
    }
    return true;
}

/* --- What comes --- */

/* Notes how far the stream has come. False: malformed, or of another epoch than it was; the watch has ended then. */
static bool note_records(struct feed *self, const struct reply *reply)
{
    struct wire_record_view view;
    size_t offset = 0;
    int last;
    while ((last = wire_record_next(reply->body, reply->body_size, &offset, &view)) == 1) {
        if (self->epoch != 0 && view.record->epoch != self->epoch &&
            (self->acknowledged || self->received_revision != 0)) {
            watch__end(self->watch, SLUICE_EPOCH_LOST,
                       "the pool lost its memory and began a new epoch; list again and watch from there");
            return false;
        }
        self->epoch = view.record->epoch;
        self->received_revision = view.record->revision;
        self->received_next = view.record->operation + 1;
        self->received_time = view.record->time;
    }
    if (last == 0)
        return true;
    watch__end(self->watch, SLUICE_INTERNAL, "a node's events cannot be read");
    return false;
}

/* False: the watch is gone. A line for which there is no room is lost: the log is for people. */
static bool line_came(struct feed *self, const struct reply *reply)
{
    struct sluice_watch *watch = self->watch;
    if (!watch->paused && list__empty(&watch->chunks))
        return say_line(self, reply->body, reply->body_size, reply->header->time);
    (void)put_off(self, reply->body, reply->body_size, 0, reply->header->time);
    return true;
}

/* False: the watch is gone. */
static bool progress_came(struct feed *self, const struct reply *reply)
{
    struct sluice_watch *watch = self->watch;
    const struct map *map = watch->client->map;
    bool first = !self->acknowledged;
    uint64_t closed = reply->header->time;
    self->acknowledged = true;
    /* The node knows of pools that we don't: until our map has them, we have not seen everything up to that time. */
    if (map == NULL || reply->header->map_epoch <= map->epoch) {
        if (closed > self->received_closed)
            self->received_closed = closed;
        if (closed != 0 && self->received_time > self->received_closed)
            self->received_time = self->received_closed;
        if (!watch->paused && list__empty(&watch->chunks))
            take_progress(self, closed);
        else if (!put_off(self, NULL, 0, 0, closed))
            halt(self);
    }
    return !first || watch__acknowledged(watch);
}

/* False: the watch is gone, or the stream was stopped. */
static bool take_event(struct feed *self, const struct reply *reply)
{
    struct sluice_watch *watch = self->watch;
    size_t offset = 0;
    if (watch->log)
        return line_came(self, reply);
    if (reply->body_size > 0) {
        bool direct = !watch->paused && list__empty(&watch->chunks);
        if (!direct && watch->chunk_bytes + sizeof(struct chunk) + reply->body_size > watch->buffer_bytes_max) {
            halt(self);
            return false;
        }
        if (!note_records(self, reply))
            return false;
        if (direct && !say_records(self, reply->body, reply->body_size, &offset))
            return false;
        if (offset < reply->body_size && !put_off(self, reply->body, reply->body_size, offset, 0)) {
            /* No memory: what the user has not got is asked for again. */
            self->received_revision = self->revision;
            self->received_next = self->next;
            self->received_time = self->time;
            halt(self);
            return false;
        }
    }
    return (reply->flags & WIRE_FLAG_CLOSED) == 0 || progress_came(self, reply);
}

static void event_came(struct ask *ask, const struct reply *reply)
{
    /* Nothing of the watch is touched afterwards, so it does not matter whether it is still there. */
    if (!take_event(ask->owner, reply))
        return;
}

/* There is no such lambda: neither the node nor our map, which is as new as the node's, knows of one. */
static bool unheard_of(const struct sluice_watch *watch, const struct reply *reply)
{
    const struct map *map = watch->client->map;
    return !watch__lambda_known(watch) && map != NULL && reply->header != NULL &&
           reply->header->map_epoch <= map->epoch;
}

static void restart_soon(struct feed *self)
{
    struct sluice_watch *watch = self->watch;
    uint64_t pause = self->missing ? MISSING_PAUSE_NS : RESTART_PAUSE_NS;
    self->halted = true;
    timer__set(&watch->client->timers, &watch->again, clock_monotonic_ns() + pause);
}

static void stream_ended(struct ask *ask, const struct reply *reply)
{
    struct feed *self = ask->owner;
    struct sluice_watch *watch = self->watch;
    switch (reply->status) {
    case SLUICE_STALE_MAP:
        /* Its pool was deleted. */
        feed__remove(self);
        return;
    case SLUICE_NOT_FOUND:
        self->missing = true;
        if (watch->log && !unheard_of(watch, reply)) {
            restart_soon(self);
            return;
        }
        break;
    case SLUICE_OK:
    case SLUICE_UNAVAILABLE:
    case SLUICE_DEADLINE:
        restart_soon(self);
        return;
    default:
        break;
    }
    watch__end(watch, reply->status, reply->detail);
}

/* --- Life --- */

static struct feed *feed_make(struct sluice_watch *watch, enum wire_type type)
{
    struct feed *self = calloc(1, sizeof(*self));
    if (self == NULL)
        return NULL;
    self->watch = watch;
    self->ask = (struct ask){
        .client = watch->client,
        .type = (uint8_t)type,
        .stream = true,
        .flags = watch->admin ? WIRE_FLAG_ADMIN : 0,
        .deadline_ns = CLIENT_NEVER,
        .done = stream_ended,
        .event = event_came,
        .prepare = prepare,
        .owner = self,
    };
    return self;
}

struct feed *feed__create(struct sluice_watch *watch, uint32_t shard, uint64_t epoch)
{
    struct feed *self = feed_make(watch, WIRE_WATCH);
    size_t size;
    if (self == NULL)
        return NULL;
    self->query = query__create(watch->pattern, watch->pattern_size, 0, &size);
    if (self->query == NULL) {
        free(self);
        return NULL;
    }
    self->query->kind = (uint8_t)watch->kind;
    self->query->limit = watch->progress_ms < WIRE_PROGRESS_MS_MAX ? watch->progress_ms : WIRE_PROGRESS_MS_MAX;
    self->ask.target = ASK_SHARD;
    self->ask.shard = shard;
    self->ask.body = self->query;
    self->ask.body_size = size;
    self->shard = shard;
    self->epoch = epoch;
    self->received_closed = self->closed = watch->from.time;
    self->time = watch->begun ? CLIENT_NEVER : 0;
    for (size_t i = 0; i < watch->from.count; i++) {
        const struct watch_position *position = &watch->from.positions[i];
        if (position->shard != shard)
            continue;
        self->epoch = position->epoch;
        self->received_revision = self->revision = position->revision;
        self->received_next = self->next = position->operation;
        self->received_time = self->time = CLIENT_NEVER;
    }
    return self;
}

struct feed *feed__create_log(struct sluice_watch *watch, uint16_t node)
{
    struct feed *self = feed_make(watch, WIRE_LAMBDA_LOG);
    if (self == NULL)
        return NULL;
    self->ask.target = ASK_NODE;
    self->ask.node = node;
    self->ask.body = watch->pattern;
    self->ask.body_size = watch->pattern_size;
    return self;
}

void feed__start(struct feed *self)
{
    self->halted = false;
    self->missing = false;
    ask__start(&self->ask);
}

void feed__destroy(struct feed *self)
{
    struct sluice_watch *watch = self->watch;
    ask__cancel(&self->ask);
    for (struct list *item = watch->chunks.next; item != &watch->chunks;) {
        struct chunk *chunk = LIST__OF(item, struct chunk, link);
        item = item->next;
        if (chunk->feed == self)
            chunk_free(watch, chunk);
    }
    free(self->query);
    free(self);
}

void feed__remove(struct feed *self)
{
    struct sluice_watch *watch = self->watch;
    size_t at = 0;
    while (watch->feeds[at] != self)
        at++;
    watch->feeds[at] = watch->feeds[--watch->feed_count];
    feed__destroy(self);
    watch__closed_moved(watch);
}

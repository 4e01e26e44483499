/* Watches: one stream per shard that can hold what matches, merged as they come.
 *
 * A watch begins at a time that all its shards have passed, or where a cursor left off. Each shard's stream then runs
 * by itself. What is closed on all of them is closed for the watch; a cursor is that time, and the positions of the
 * shards that are ahead of it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/watch__.h"
#include "core/base/panic.h"

#define PROGRESS_MS_DEFAULT  1000u
#define PROGRESS_MS_MAX      60000u
#define BUFFER_BYTES_DEFAULT (1u << 20)
#define RETRY_NS             (100 * NS_PER_MS)
#define LAMBDA_NAME_MAX      48u /* of those that there can be */

static void watch_free(struct sluice_watch *self)
{
    list__remove(&self->link);
    timer__stop(&self->client->timers, &self->progress);
    timer__stop(&self->client->timers, &self->again);
    cut__deinit(&self->cut);
    while (self->feed_count > 0)
        feed__destroy(self->feeds[--self->feed_count]);
    ASSERT(list__empty(&self->chunks));
    free(self->feeds);
    pattern_destroy(self->compiled);
    free(self->pattern);
    free(self);
}

bool watch__say(struct sluice_watch *self, const struct sluice_watch_event *event)
{
    self->busy++;
    self->handler(self->arg, event);
    self->busy--;
    if (!self->stopped)
        return true;
    watch_free(self);
    return false;
}

void watch__end(struct sluice_watch *self, enum sluice_status status, const char *detail)
{
    const struct sluice_watch_event event = {
        .type = SLUICE_WATCH_END, .status = status, .detail = detail, .closed_ns = self->closed};
    self->ended = true;
    self->handler(self->arg, &event);
    watch_free(self);
}

/* --- Cursors --- */

void watch__closed_moved(struct sluice_watch *self)
{
    uint64_t closed = CLIENT_NEVER;
    for (size_t i = 0; i < self->feed_count; i++)
        if (self->feeds[i]->closed < closed)
            closed = self->feeds[i]->closed;
    /* A shard that joined late holds it back, but takes nothing back that was said. */
    if (closed != CLIENT_NEVER && closed > self->closed)
        self->closed = closed;
}

static bool list_positions(const struct sluice_watch *self, struct watch_cursor *out)
{
    *out = (struct watch_cursor){.time = self->closed};
    for (size_t i = 0; i < self->feed_count; i++) {
        const struct feed *feed = self->feeds[i];
        if (feed->time <= self->closed)
            continue;
        if (out->count == WATCH_LISTED_MAX)
            return false;
        /* One that joined late and has shown nothing yet is read from its beginning. */
        out->positions[out->count++] = (struct watch_position){
            .shard = feed->shard,
            .epoch = feed->epoch,
            .revision = feed->revision == 0 ? 1 : feed->revision,
            .operation = feed->revision == 0 ? 0 : feed->next,
        };
    }
    return true;
}

const char *watch__cursor(struct sluice_watch *self)
{
    struct watch_cursor cursor;
    if (self->closed == 0 || self->log)
        return NULL;
    bool fits = list_positions(self, &cursor) && position__write(&cursor, self->cursor);
    if (!fits) {
        /* What the shards' own events tell of their times may do. Else this event has no cursor: who resumes from an
         * earlier one sees it again. */
        watch__closed_moved(self);
        fits = list_positions(self, &cursor) && position__write(&cursor, self->cursor);
    }
    return fits ? self->cursor : NULL;
}

char *watch__cursor_at(uint64_t time)
{
    const struct watch_cursor cursor = {.time = time};
    char *text = malloc(WATCH_CURSOR_BYTES + 1);
    if (text != NULL && !position__write(&cursor, text))
        PANIC("a cursor without positions does not fit");
    return text;
}

/* --- Beginning --- */

static bool shards_of(const struct sluice_watch *self, uint32_t **out, size_t *count)
{
    const struct sluice_client *client = self->client;
    if (self->kind != WIRE_PATTERN_KEY)
        return route__shards_of_prefix(client, self->prefix.data, self->prefix.size, out, count);
    const struct route *route = route__of_key(client, self->pattern, self->pattern_size);
    *out = malloc(sizeof(**out));
    if (*out == NULL)
        return false;
    *count = route != NULL;
    if (route != NULL)
        (*out)[0] = route->id;
    return true;
}

static bool has_feed(const struct sluice_watch *self, uint32_t shard)
{
    for (size_t i = 0; i < self->feed_count; i++)
        if (self->feeds[i]->shard == shard)
            return true;
    return false;
}

static bool add_feed(struct sluice_watch *self, struct feed *feed)
{
    struct feed **grown = feed == NULL ? NULL : reallocarray(self->feeds, self->feed_count + 1, sizeof(struct feed *));
    if (grown == NULL) {
        if (feed != NULL)
            feed__destroy(feed);
        return false;
    }
    self->feeds = grown;
    self->feeds[self->feed_count++] = feed;
    feed__start(feed);
    return true;
}

static void retry_later(struct sluice_watch *self)
{
    timer__set(&self->client->timers, &self->again, clock_monotonic_ns() + RETRY_NS);
}

/* Streams for the shards that have none yet. */
static void subscribe(struct sluice_watch *self, const uint32_t *shards, size_t count)
{
    const struct map *map = self->client->map;
    for (size_t i = 0; i < count; i++) {
        const struct map_shard *shard = map_shard_find(map, shards[i]);
        if (has_feed(self, shards[i]) || shard == NULL)
            continue;
        if (!add_feed(self, feed__create(self, shards[i], shard->epoch)))
            retry_later(self);
    }
    if (self->feed_count == 0)
        return;
    if (!self->begun)
        self->closed = self->from.time;
    self->begun = true;
}

bool watch__lambda_known(const struct sluice_watch *self)
{
    return self->client->map != NULL && map_lambda_find(self->client->map, self->pattern) != NULL;
}

static void subscribe_logs(struct sluice_watch *self)
{
    const struct map *map = self->client->map;
    if (self->ready && !watch__lambda_known(self)) {
        watch__end(self, SLUICE_NOT_FOUND, "the lambda was removed");
        return;
    }
    for (size_t i = 0; i < map->node_count; i++) {
        bool known = map->nodes[i].state == MAP_NODE_GONE;
        for (size_t k = 0; k < self->feed_count; k++)
            known = known || self->feeds[k]->ask.node == map->nodes[i].id;
        if (!known && !add_feed(self, feed__create_log(self, map->nodes[i].id)))
            retry_later(self);
    }
    self->begun = true;
    timer__set(&self->client->timers, &self->again, clock_monotonic_ns());
}

static void begin(struct sluice_watch *self);

static void cut_known(struct cut *cut, const struct reply *failed)
{
    struct sluice_watch *self = LIST__OF(cut, struct sluice_watch, cut);
    uint64_t time = cut->time;
    self->cutting = false;
    cut__deinit(cut);
    if (failed != NULL) {
        retry_later(self);
        return;
    }
    self->from.time = time;
    begin(self);
}

static void begin(struct sluice_watch *self)
{
    uint32_t *shards = NULL;
    size_t count = 0;
    if (self->client->map == NULL || self->cutting)
        return;
    if (self->log) {
        subscribe_logs(self);
        return;
    }
    if (!shards_of(self, &shards, &count) || count == 0) {
        retry_later(self);
    } else if (self->from.time != 0) {
        subscribe(self, shards, count);
    } else {
        self->cutting = cut__start(&self->cut, self->client, shards, count, 0, CLIENT_NEVER, cut_known);
        if (!self->cutting)
            retry_later(self);
    }
    free(shards);
}

bool watch__acknowledged(struct sluice_watch *self)
{
    if (self->ready || !self->begun || self->paused || !list__empty(&self->chunks))
        return true;
    bool any = false, all = true;
    for (size_t i = 0; i < self->feed_count; i++) {
        const struct feed *feed = self->feeds[i];
        any = any || feed->ask.state == ASK_IN_FLIGHT;
        all = all && feed->acknowledged;
    }
    /* Nodes don't acknowledge that a log is followed; but what is sent is read in order. Whether there is such a lambda
     * the map says; a node that knows of none has the last word where the map has none either. */
    if (self->log ? !any || !watch__lambda_known(self) : !all)
        return true;
    self->ready = true;
    const struct sluice_watch_event event = {
        .type = SLUICE_WATCH_READY, .cursor = watch__cursor(self), .closed_ns = self->closed, .detail = ""};
    return watch__say(self, &event);
}

/* --- Timers --- */

static void progress_due(struct timer *timer)
{
    struct sluice_watch *self = LIST__OF(timer, struct sluice_watch, progress);
    timer__set(&self->client->timers, timer, clock_monotonic_ns() + self->progress_ms * NS_PER_MS);
    if (!self->ready || self->paused || !list__empty(&self->chunks))
        return;
    watch__closed_moved(self);
    const struct sluice_watch_event event = {
        .type = SLUICE_WATCH_PROGRESS, .cursor = watch__cursor(self), .closed_ns = self->closed, .detail = ""};
    if (!watch__say(self, &event))
        return; /* it is gone */
}

static void again_due(struct timer *timer)
{
    struct sluice_watch *self = LIST__OF(timer, struct sluice_watch, again);
    if (!self->begun) {
        begin(self);
        return;
    }
    if (!feed__drain(self) || self->paused)
        return;
    for (size_t i = 0; i < self->feed_count; i++)
        if (self->feeds[i]->halted)
            feed__start(self->feeds[i]);
    if (!watch__acknowledged(self))
        return;
    if (self->log && !self->ready)
        retry_later(self);
    else if (!self->log)
        watch__follow(self);
}

/* --- The map --- */

/* False: the watch has ended. */
static bool drop_lost(struct sluice_watch *self)
{
    const struct map *map = self->client->map;
    for (size_t i = 0; i < self->feed_count;) {
        struct feed *feed = self->feeds[i];
        const struct map_shard *shard = map_shard_find(map, feed->shard);
        if (shard != NULL && shard->epoch > feed->epoch && feed->epoch != 0 && feed->acknowledged) {
            watch__end(self, SLUICE_EPOCH_LOST,
                       "the pool lost its memory and began a new epoch; list again and watch from there");
            return false;
        }
        if (shard == NULL)
            feed__remove(feed);
        else
            i++;
    }
    return true;
}

void watch__follow(struct sluice_watch *self)
{
    uint32_t *shards = NULL;
    size_t count = 0;
    if (!drop_lost(self))
        return;
    if (shards_of(self, &shards, &count))
        subscribe(self, shards, count);
    else
        retry_later(self);
    free(shards);
}

void watch__map_changed(struct sluice_client *self)
{
    /* Handlers may stop any watch, and start others. */
    struct list watches;
    list__move(&self->watches, &watches);
    while (!list__empty(&watches)) {
        struct sluice_watch *watch = LIST__OF(watches.next, struct sluice_watch, link);
        list__remove(&watch->link);
        list__append(&self->watches, &watch->link);
        if (watch->log || !watch->begun)
            begin(watch);
        else
            watch__follow(watch);
    }
}

/* --- The user's side --- */

static struct sluice_watch *watch_create(struct sluice_client *client, const char *pattern, size_t size,
                                         sluice_watch_handler handler, void *arg)
{
    struct sluice_watch *self = calloc(1, sizeof(*self));
    if (self == NULL)
        return NULL;
    self->pattern = text__dup(pattern, size);
    if (self->pattern == NULL) {
        free(self);
        return NULL;
    }
    self->pattern_size = size;
    self->client = client;
    self->handler = handler;
    self->arg = arg;
    self->progress_ms = PROGRESS_MS_DEFAULT;
    self->buffer_bytes_max = BUFFER_BYTES_DEFAULT;
    self->progress.fire = progress_due;
    self->again.fire = again_due;
    list__init(&self->chunks);
    list__append(&client->watches, &self->link);
    return self;
}

enum sluice_status sluice_watch_start(struct sluice_client *client, const struct sluice_watch_options *options,
                                      sluice_watch_handler handler, void *arg, struct sluice_watch **out, char *error)
{
    struct watch_cursor from = {0};
    struct pattern *compiled = NULL;
    if (client->closing) {
        snprintf(error, 256, "the client is being closed");
        return SLUICE_UNAVAILABLE;
    }
    if (options->cursor != NULL && !position__read(options->cursor, &from)) {
        snprintf(error, 256, "the cursor is not one of a watch; watch without one, from now on");
        return SLUICE_INVALID;
    }
    enum sluice_status status =
        pattern_compile(options->kind, options->pattern, options->pattern_size, &compiled, error, 256);
    if (status != SLUICE_OK)
        return status;
    struct sluice_watch *self = watch_create(client, options->pattern, options->pattern_size, handler, arg);
    if (self == NULL) {
        pattern_destroy(compiled);
        snprintf(error, 256, "no memory for a watch");
        return SLUICE_MEMORY;
    }
    self->compiled = compiled;
    self->prefix.data = pattern_prefix(compiled, &self->prefix.size);
    self->kind = options->kind;
    self->values = options->values;
    self->admin = options->admin;
    self->from = from;
    if (options->progress_ms != 0)
        self->progress_ms = options->progress_ms < WIRE_PROGRESS_MS_MIN ? WIRE_PROGRESS_MS_MIN
                            : options->progress_ms > PROGRESS_MS_MAX    ? PROGRESS_MS_MAX
                                                                        : options->progress_ms;
    if (options->buffer_bytes_max != 0)
        self->buffer_bytes_max = options->buffer_bytes_max;
    timer__set(&client->timers, &self->progress, clock_monotonic_ns() + self->progress_ms * NS_PER_MS);
    *out = self;
    begin(self);
    return SLUICE_OK;
}

enum sluice_status sluice_lambda_log(struct sluice_client *client, const char *name, sluice_watch_handler handler,
                                     void *arg, struct sluice_watch **out)
{
    size_t size = strlen(name);
    if (size == 0 || size > LAMBDA_NAME_MAX)
        return size == 0 ? SLUICE_INVALID : SLUICE_NOT_FOUND;
    if (client->closing)
        return SLUICE_UNAVAILABLE;
    struct sluice_watch *self = watch_create(client, name, size, handler, arg);
    if (self == NULL)
        return SLUICE_MEMORY;
    self->log = true;
    self->admin = true;
    *out = self;
    begin(self);
    return SLUICE_OK;
}

void sluice_watch_stop(struct sluice_watch *watch)
{
    if (watch == NULL || watch->ended)
        return;
    watch->stopped = true;
    if (watch->busy == 0)
        watch_free(watch);
}

void sluice_watch_pause(struct sluice_watch *watch)
{
    watch->paused = true;
}

void sluice_watch_resume(struct sluice_watch *watch)
{
    watch->paused = false;
    timer__set(&watch->client->timers, &watch->again, clock_monotonic_ns());
}

void watch__close_all(struct sluice_client *self)
{
    while (!list__empty(&self->watches))
        watch__end(LIST__OF(self->watches.next, struct sluice_watch, link), SLUICE_UNAVAILABLE,
                   "the client was closed; resume from the last cursor");
}

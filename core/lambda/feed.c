/* Events on their way from the reactor to a worker: the intake, the lines of keys, the turns of lambdas, and how far a
 * feed got.
 *
 * The reactor pushes items onto a list with one atomic exchange; whoever holds the host's lock takes the whole list and
 * puts the items where they belong. */
#include <stdlib.h>
#include <string.h>

#include "core/base/crc.h"
#include "core/lambda/lambda__.h"

static void intake_push(struct lambda_host *host, struct lambda__item *item)
{
    struct lambda__item *head = atomic_load_explicit(&host->intake, memory_order_relaxed);
    do
        item->next = head;
    while (!atomic_compare_exchange_weak(&host->intake, &head, item));
    lambda__worker_wake(host);
}

enum sluice_status lambda_feed_start(struct lambda_host *self, struct lambda *lambda, uint32_t shard, uint64_t epoch,
                                     uint64_t from_revision, uint64_t tag, struct lambda_feed **out)
{
    struct lambda_feed *feed = calloc(1, sizeof(*feed));
    if (feed == NULL)
        return SLUICE_MEMORY;
    uint64_t before = from_revision > 0 ? from_revision - 1 : 0;
    feed->start = (struct lambda__item){.feed = feed, .kind = LAMBDA__ITEM_START};
    feed->stop = (struct lambda__item){.feed = feed, .kind = LAMBDA__ITEM_STOP};
    feed->host = self;
    feed->lambda = lambda_ref(lambda);
    feed->shard = shard;
    feed->epoch = epoch;
    feed->tag = tag;
    feed->client = lambda__client(lambda_name(lambda), shard, epoch);
    feed->durable = before;
    feed->aging = before;
    feed->aging_since_ns = clock_monotonic_ns();
    atomic_init(&feed->passed, before);
    intake_push(self, &feed->start);
    *out = feed;
    return SLUICE_OK;
}

/* Views of the caller's become the event's own, with the bytes that they point to. */
static struct lambda__event *event_create(struct lambda_feed *feed, const struct version *version)
{
    size_t size = sizeof(struct lambda__event) + version->key_size + version->content_type_size + 2;
    struct lambda__event *event = malloc(size);
    if (event == NULL)
        return NULL;
    memset(event, 0, sizeof(*event));
    event->item = (struct lambda__item){.feed = feed, .kind = LAMBDA__ITEM_EVENT};
    event->value = version->value;
    event->value_size = version->value_size;
    if (version->owner != NULL) {
        event->owner = buf_ref(version->owner);
    } else if (version->value != NULL) {
        event->owner = buf_dup(version->value, version->value_size);
        if (event->owner == NULL) {
            free(event);
            return NULL;
        }
        event->value = event->owner->data;
    }
    event->version = version->version;
    event->revision = version->revision;
    event->time = version->time;
    event->object_time = version->object_time;
    event->operation = version->operation;
    event->deleted = (version->flags & VERSION_TOMBSTONE) != 0;
    event->hash = crc32c(version->key, version->key_size);
    event->key_size = version->key_size;
    event->content_type_size = version->content_type_size;
    memcpy(event->text, version->key, version->key_size);
    event->text[version->key_size] = '\0';
    char *content_type = event->text + version->key_size + 1;
    if (version->content_type_size > 0)
        memcpy(content_type, version->content_type, version->content_type_size);
    content_type[version->content_type_size] = '\0';
    return event;
}

static bool has_room(const struct lambda_feed *feed, uint64_t bytes)
{
    unsigned events = atomic_load(&feed->queued_events);
    uint64_t queued = atomic_load(&feed->queued_bytes);
    /* One value that is larger than the bound is taken alone. */
    return events < feed->host->options.queue_events_max &&
           (events == 0 || queued + bytes <= feed->host->options.queue_bytes_max);
}

bool lambda_feed_offer(struct lambda_feed *feed, const struct version *version)
{
    ASSERT(!atomic_load(&feed->stopped));
    if (!has_room(feed, version->value_size)) {
        atomic_store(&feed->refused, true);
        /* A worker may have made room between the two: then nobody would tell. */
        if (!has_room(feed, version->value_size) || !atomic_exchange(&feed->refused, false))
            return false;
    }
    struct lambda__event *event = event_create(feed, version);
    if (event == NULL) {
        /* Memory may come back without any event of this feed leaving: the keeper tells. */
        atomic_store(&feed->refused, true);
        lambda__keeper_wake(feed->host);
        return false;
    }
    atomic_fetch_add(&feed->queued_events, 1);
    atomic_fetch_add(&feed->queued_bytes, version->value_size);
    intake_push(feed->host, &event->item);
    return true;
}

void lambda_feed_passed(struct lambda_feed *feed, uint64_t revision)
{
    uint64_t before = atomic_load(&feed->passed);
    if (revision <= before)
        return;
    atomic_store(&feed->passed, revision);
    if (revision / LAMBDA__PASSED_REPORT != before / LAMBDA__PASSED_REPORT)
        lambda__keeper_wake(feed->host);
}

void lambda_host_alive(struct lambda_host *self)
{
    atomic_store(&self->alive_ns, clock_monotonic_ns());
}

void lambda_feed_stop(struct lambda_feed *feed)
{
    atomic_store(&feed->stopped, true);
    intake_push(feed->host, &feed->stop);
}

void lambda__event_free(struct lambda__event *event)
{
    lambda__arena_free(&event->outbox.arena);
    buf_unref(event->owner);
    free(event);
}

void lambda__garbage_free(struct lambda__event *garbage)
{
    while (garbage != NULL) {
        struct lambda__event *next = garbage->list_next;
        lambda__event_free(garbage);
        garbage = next;
    }
}

/* --- Lines ----------------------------------------------------------------------------------------------------------
 */

static struct lambda__event **bucket_of(struct lambda_feed *feed, const struct lambda__event *event)
{
    return &feed->buckets[event->hash & (LAMBDA__BUCKETS - 1)];
}

/* Where the head of the event's line is linked in, or the end of the bucket. */
static struct lambda__event **head_of(struct lambda_feed *feed, const struct lambda__event *event)
{
    struct lambda__event **link = bucket_of(feed, event);
    while (*link != NULL && ((*link)->hash != event->hash || (*link)->key_size != event->key_size ||
                             memcmp((*link)->text, event->text, event->key_size) != 0))
        link = &(*link)->bucket_next;
    return link;
}

void lambda__event_ready(struct lambda__event *event)
{
    struct lambda_feed *feed = event->item.feed;
    struct lambda *lambda = feed->lambda;
    if (feed->gated) {
        event->state = LAMBDA__QUEUED;
        return;
    }
    event->state = LAMBDA__READY;
    event->list_next = NULL;
    if (lambda->ready_last != NULL)
        lambda->ready_last->list_next = event;
    else
        lambda->ready_first = event;
    lambda->ready_last = event;
    if (!lambda->in_turn) {
        struct lambda_host *host = feed->host;
        lambda->in_turn = true;
        lambda->turn_next = NULL;
        if (host->turn_last != NULL)
            host->turn_last->turn_next = lambda;
        else
            host->turn_first = lambda;
        host->turn_last = lambda;
    }
}

static void event_enter(struct lambda__event *event)
{
    struct lambda_feed *feed = event->item.feed;
    ASSERT(event->revision >= feed->taken);
    feed->taken = event->revision;
    event->older = feed->newest;
    if (feed->newest != NULL)
        feed->newest->newer = event;
    else
        feed->oldest = event;
    feed->newest = event;
    feed->lambda->slot->statistics.events++;

    struct lambda__event **head = head_of(feed, event);
    if (*head != NULL) {
        (*head)->line_end->behind = event;
        (*head)->line_end = event;
        event->state = LAMBDA__QUEUED;
        return;
    }
    *head = event;
    event->line_end = event;
    lambda__event_ready(event);
}

void lambda__event_remove(struct lambda__event *event)
{
    struct lambda_feed *feed = event->item.feed;
    if (event->older != NULL)
        event->older->newer = event->newer;
    else
        feed->oldest = event->newer;
    if (event->newer != NULL)
        event->newer->older = event->older;
    else
        feed->newest = event->older;

    struct lambda__event **link = bucket_of(feed, event), *next = event->behind;
    while (*link != event)
        link = &(*link)->bucket_next;
    if (next == NULL) {
        *link = event->bucket_next;
    } else {
        next->bucket_next = event->bucket_next;
        next->line_end = event->line_end;
        *link = next;
        lambda__event_ready(next);
    }
    event->behind = event->bucket_next = event->line_end = NULL;
    atomic_fetch_sub(&feed->queued_events, 1);
    atomic_fetch_sub(&feed->queued_bytes, event->value_size);
}

void lambda__event_discard(struct lambda__event *event)
{
    struct lambda_feed *feed = event->item.feed;
    if (feed->dropped == 0 || event->revision < feed->dropped)
        feed->dropped = event->revision;
    lambda__event_remove(event);
}

bool lambda__feed_room(struct lambda_feed *feed)
{
    const struct lambda_host_options *options = &feed->host->options;
    unsigned events = atomic_load(&feed->queued_events);
    /* Half of it, so that the reactor is not asked for each single event. */
    if (events > options->queue_events_max / 2 ||
        (events > 0 && atomic_load(&feed->queued_bytes) > options->queue_bytes_max / 2))
        return false;
    return atomic_load(&feed->refused) && !atomic_load(&feed->stopped) && atomic_exchange(&feed->refused, false);
}

void lambda__room_tell(struct lambda_host *self, bool told, uint64_t tag)
{
    if (!told || !lambda__env_enter(self))
        return;
    self->options.env.room(self->options.env.arg, tag);
    lambda__env_leave(self);
}

/* --- Turns ----------------------------------------------------------------------------------------------------------
 */

bool lambda__may_run(const struct lambda_host *self, const struct lambda *lambda)
{
    return lambda->running < self->options.workers && lambda->overdue < LAMBDA__OVERDUE_MAX;
}

struct lambda__event *lambda__pick(struct lambda_host *self)
{
    struct lambda *before = NULL;
    for (struct lambda *lambda = self->turn_first; lambda != NULL; before = lambda, lambda = lambda->turn_next) {
        if (!lambda__may_run(self, lambda))
            continue;
        struct lambda__event *event = lambda->ready_first;
        ASSERT(event != NULL && event->state == LAMBDA__READY);
        lambda->ready_first = event->list_next;
        if (lambda->ready_first == NULL)
            lambda->ready_last = NULL;
        /* Out of its place in the turn, and to its end if there is more to do. */
        if (before != NULL)
            before->turn_next = lambda->turn_next;
        else
            self->turn_first = lambda->turn_next;
        if (self->turn_last == lambda)
            self->turn_last = before;
        lambda->turn_next = NULL;
        lambda->in_turn = lambda->ready_first != NULL;
        if (lambda->in_turn) {
            if (self->turn_last != NULL)
                self->turn_last->turn_next = lambda;
            else
                self->turn_first = lambda;
            self->turn_last = lambda;
        }
        event->state = LAMBDA__HELD;
        event->item.feed->held++;
        lambda->running++;
        self->held++;
        return event;
    }
    return NULL;
}

/* Takes a feed's events out of its lambda's list. */
static void turn_forget(struct lambda_feed *feed)
{
    struct lambda *lambda = feed->lambda;
    struct lambda_host *host = feed->host;
    struct lambda__event *kept_last = NULL, **link = &lambda->ready_first;
    while (*link != NULL) {
        if ((*link)->item.feed == feed) {
            *link = (*link)->list_next;
        } else {
            kept_last = *link;
            link = &(*link)->list_next;
        }
    }
    lambda->ready_last = kept_last;
    if (!lambda->in_turn || lambda->ready_first != NULL)
        return;
    struct lambda *before = NULL;
    for (struct lambda *each = host->turn_first; each != lambda; each = each->turn_next)
        before = each;
    if (before != NULL)
        before->turn_next = lambda->turn_next;
    else
        host->turn_first = lambda->turn_next;
    if (host->turn_last == lambda)
        host->turn_last = before;
    lambda->in_turn = false;
}

/* --- Feeds ----------------------------------------------------------------------------------------------------------
 */

static bool same_place(const struct lambda_feed *a, const struct lambda_feed *b)
{
    return a != b && a->shard == b->shard && a->lambda->slot == b->lambda->slot;
}

static void feed_enter(struct lambda_feed *feed)
{
    struct lambda_host *host = feed->host;
    for (struct lambda_feed *other = host->feeds; other != NULL; other = other->next)
        if (same_place(feed, other) && other->stop_seen && other->held > 0)
            feed->gated = true;
    feed->passed_seen = feed->durable;
    feed->next = host->feeds;
    host->feeds = feed;
}

void lambda__feed_settle(struct lambda_feed *feed)
{
    if (!feed->stop_seen || feed->held > 0)
        return;
    for (struct lambda_feed *other = feed->host->feeds; other != NULL; other = other->next) {
        if (!other->gated || !same_place(feed, other))
            continue;
        other->gated = false;
        for (struct lambda_feed *third = feed->host->feeds; third != NULL; third = third->next)
            if (same_place(other, third) && third->stop_seen && third->held > 0)
                other->gated = true;
        for (unsigned i = 0; i < LAMBDA__BUCKETS && !other->gated; i++)
            for (struct lambda__event *head = other->buckets[i]; head != NULL; head = head->bucket_next)
                if (head->state == LAMBDA__QUEUED)
                    lambda__event_ready(head);
    }
    lambda__keeper_wake(feed->host);
}

/* Drops what nobody works on; the others follow as their workers come back. */
static void feed_stop(struct lambda_feed *feed)
{
    struct lambda_host *host = feed->host;
    feed->stop_seen = true;
    turn_forget(feed);
    for (struct lambda__event **link = &host->waiting; *link != NULL;) {
        if ((*link)->item.feed == feed)
            *link = (*link)->list_next;
        else
            link = &(*link)->list_next;
    }
    memset(feed->buckets, 0, sizeof(feed->buckets));
    struct lambda__event *newest = NULL, *next;
    for (struct lambda__event *event = feed->oldest; event != NULL; event = next) {
        next = event->newer;
        event->behind = NULL;
        if (event->state == LAMBDA__HELD) {
            struct lambda__event **bucket = bucket_of(feed, event);
            event->line_end = event;
            event->bucket_next = *bucket;
            *bucket = event;
            newest = event;
            continue;
        }
        if (event->older != NULL)
            event->older->newer = next;
        else
            feed->oldest = next;
        if (next != NULL)
            next->older = event->older;
        atomic_fetch_sub(&feed->queued_events, 1);
        atomic_fetch_sub(&feed->queued_bytes, event->value_size);
        /* The cursor must not pass what was dropped: nothing from here on counts as seen. */
        if (feed->dropped == 0 || event->revision < feed->dropped)
            feed->dropped = event->revision;
        event->list_next = host->garbage;
        host->garbage = event;
    }
    feed->newest = newest;
    lambda__feed_settle(feed);
}

void lambda__intake_drain(struct lambda_host *self)
{
    struct lambda__item *newest = atomic_exchange(&self->intake, NULL), *oldest = NULL;
    while (newest != NULL) {
        struct lambda__item *next = newest->next;
        newest->next = oldest;
        oldest = newest;
        newest = next;
    }
    while (oldest != NULL) {
        struct lambda__item *next = oldest->next;
        switch (oldest->kind) {
        case LAMBDA__ITEM_START:
            feed_enter(oldest->feed);
            break;
        case LAMBDA__ITEM_EVENT:
            event_enter((struct lambda__event *)oldest);
            break;
        case LAMBDA__ITEM_STOP:
            feed_stop(oldest->feed);
            break;
        }
        oldest = next;
    }
}

uint64_t lambda__feed_cursor(const struct lambda_feed *feed, uint64_t passed)
{
    uint64_t cursor = passed;
    if (feed->taken > 0 && feed->taken - 1 > cursor)
        cursor = feed->taken - 1; /* of the newest revision more operations may follow */
    if (feed->oldest != NULL && feed->oldest->revision - 1 < cursor)
        cursor = feed->oldest->revision - 1;
    if (feed->dropped > 0 && feed->dropped - 1 < cursor)
        cursor = feed->dropped - 1;
    return cursor;
}

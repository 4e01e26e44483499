/* One event in a worker's hands: the callbacks, then what they wrote, then what becomes of it. */
#include <stdio.h>
#include <string.h>

#include "core/lambda/lambda__.h"

enum outcome {
    OUTCOME_DONE,
    OUTCOME_FAILED,  /* the callbacks; to be tried again, or parked */
    OUTCOME_UNSENT,  /* an effect; to be sent again */
    OUTCOME_DISCARD, /* the feed was stopped */
};

uint64_t lambda__client(const char *lambda, uint32_t shard, uint64_t epoch)
{
    uint8_t tail[13] = {0};
    for (unsigned i = 0; i < 4; i++)
        tail[1 + i] = (uint8_t)(shard >> (8 * i));
    for (unsigned i = 0; i < 8; i++)
        tail[5 + i] = (uint8_t)(epoch >> (8 * i));
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (const char *at = lambda; *at != '\0'; at++)
        hash = (hash ^ (uint8_t)*at) * UINT64_C(0x100000001b3);
    for (size_t i = 0; i < sizeof(tail); i++)
        hash = (hash ^ tail[i]) * UINT64_C(0x100000001b3);
    hash = (hash ^ (hash >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    hash = (hash ^ (hash >> 27)) * UINT64_C(0x94d049bb133111eb);
    hash ^= hash >> 31;
    return hash == 0 ? 1 : hash;
}

/* --- The callbacks --------------------------------------------------------------------------------------------------
 */

void lambda__run_begin(struct lambda_host *host, struct lambda__run *run, struct lambda__event *event)
{
    struct lambda_feed *feed = event->item.feed;
    *run = (struct lambda__run){.event = event, .feed = feed};
    run->started_ns = clock_monotonic_ns();
    if (host->keeper_until_ns > run->started_ns + LAMBDA__TICK_NS)
        lambda__keeper_wake(host);
    if (event->sending || atomic_load(&feed->stopped))
        return;
    run->listed = true;
    run->next = host->runs;
    if (host->runs != NULL)
        host->runs->previous = run;
    host->runs = run;
    event->attempts++;
    feed->lambda->slot->statistics.runs++;
}

static void run_unlist(struct lambda_host *host, struct lambda__run *run)
{
    if (run->previous != NULL)
        run->previous->next = run->next;
    else
        host->runs = run->next;
    if (run->next != NULL)
        run->next->previous = run->previous;
    run->listed = false;
}

/* All watches that match run as one. On success the effects are the event's, unless the run was abandoned meanwhile. */
static bool call(struct lambda_host *host, struct lambda__run *run, struct sluice_context *context)
{
    struct lambda__event *event = run->event;
    struct lambda_feed *feed = run->feed;
    const struct sluice_event view = {
        .size = sizeof(view),
        .attempt = event->attempts,
        .object =
            {
                .key = lambda__event_key(event),
                .content_type = lambda__event_content_type(event),
                .value = event->value,
                .size = event->value_size,
                .version = event->version,
                .revision = event->revision,
                .time_ns = event->time,
                .object_time_ns = event->object_time,
                .shard = feed->shard,
                .deleted = event->deleted,
            },
    };
    /* Field by field: its error buffer need not be cleared for each event. */
    context->host = host;
    context->feed = feed;
    context->event = &view;
    context->call = (struct lambda_call){.lambda = lambda_name(feed->lambda),
                                         .shard = feed->shard,
                                         .epoch = feed->epoch,
                                         .at = event->time,
                                         .deadline_ns = run->started_ns + host->options.deadline_ns};
    memset(&context->arena, 0, sizeof(context->arena));
    memset(&context->outbox, 0, sizeof(context->outbox));
    context->owned = NULL;
    context->error[0] = '\0';
    const struct lambda__library *library = &feed->lambda->library;
    for (size_t i = 0; i < library->watch_count; i++) {
        const struct lambda__watch *watch = &library->watches[i];
        if (!pattern_match(watch->pattern, view.object.key, event->key_size))
            continue;
        int result = watch->callback(context, &view, watch->closure);
        if (result != 0) {
            if (context->error[0] == '\0')
                snprintf(context->error, sizeof(context->error), "the callback returned %d", result);
            return false;
        }
    }
    uint64_t took = clock_monotonic_ns() - run->started_ns;
    if (took <= host->options.deadline_ns)
        return true;
    snprintf(context->error, sizeof(context->error), "it took %.3f s; the deadline is %.3f s",
             (double)took / (double)NS_PER_S, (double)host->options.deadline_ns / (double)NS_PER_S);
    return false;
}

void lambda__run_abandon(struct lambda_host *host, struct lambda__run *run)
{
    struct lambda__event *event = run->event;
    struct lambda_feed *feed = run->feed;
    char error[LAMBDA__ERROR_BYTES];
    snprintf(error, sizeof(error),
             "it has not returned after %.3f s; code in this process can't be stopped, so its thread is lost until it "
             "returns",
             (double)(clock_monotonic_ns() - run->started_ns) / (double)NS_PER_S);
    run->abandoned = true;
    feed->abandoned++;
    feed->held--;
    feed->lambda->running--;
    host->held--;
    feed->lambda->slot->statistics.failures++;
    host->threads_stuck++;
    if (atomic_load(&feed->stopped)) {
        lambda__event_discard(event);
    } else {
        feed->lambda->slot->statistics.parked++;
        lambda__park_note(feed->lambda->slot, event, feed->shard, error);
        if (event->revision > feed->done)
            feed->done = event->revision;
        lambda__event_remove(event);
    }
    lambda__print(feed->lambda->slot, "run on %s version %llu is parked: %s", lambda__event_key(event),
                  (unsigned long long)event->version, error);
    lambda__feed_settle(feed);
}

/* --- Effects --------------------------------------------------------------------------------------------------------
 */

/* Would the same request be refused for ever? Then it is reported; anything else is a matter of time. */
static bool refused(enum sluice_status status)
{
    switch (status) {
    case SLUICE_INVALID:
    case SLUICE_UNAUTHENTICATED:
    case SLUICE_FORBIDDEN:
    case SLUICE_NOT_FOUND:
    case SLUICE_DELETED:
    case SLUICE_METHOD_NOT_ALLOWED:
    case SLUICE_CONFLICT:
    case SLUICE_GONE:
    case SLUICE_CONDITION_FAILED:
    case SLUICE_TOO_LARGE:
    case SLUICE_UNSUPPORTED_MEDIA:
    case SLUICE_RANGE:
    case SLUICE_UNPROCESSABLE:
    case SLUICE_IDEMPOTENCY_MISMATCH:
    case SLUICE_TRIGGER_POOL:
        return true;
    default:
        return false;
    }
}

static enum sluice_status send_one(struct lambda_host *host, const struct lambda__event *event,
                                   const struct lambda__effect *effect)
{
    const struct lambda_feed *feed = event->item.feed;
    uint64_t confirmed = atomic_load(&feed->confirmed);
    ASSERT(event->sent < LAMBDA_EFFECTS_MAX && event->operation < 1024 && event->revision >> 44 == 0);
    const struct lambda_write write = {
        .client = feed->client,
        .sequence = event->revision << 20 | (uint64_t)event->operation << 10 | event->sent,
        .watermark = confirmed == 0 ? 0 : (confirmed + 1) << 20,
        .timeout_ms = LAMBDA__WRITE_MS,
        .remove = effect->remove,
        .trigger = effect->trigger,
        .key = effect->key,
        .key_size = effect->key_size,
        .content_type = effect->content_type,
        .content_type_size = effect->content_type_size,
        .value = effect->value,
        .value_size = effect->value_size,
    };
    /* The deadline first: a halt from here on ends behind it. */
    uint64_t now = clock_monotonic_ns(), alive = atomic_load(&host->alive_ns);
    const struct lambda_call call = {.lambda = lambda_name(feed->lambda),
                                     .shard = feed->shard,
                                     .epoch = feed->epoch,
                                     .at = event->time,
                                     .deadline_ns = now + LAMBDA__WRITE_MS * NS_PER_MS};
    if (!lambda__env_enter(host))
        return SLUICE_CLOSED;
    enum sluice_status status = SLUICE_AGAIN;
    if (alive == 0 || now < alive + LAMBDA__ALIVE_NS)
        status = host->options.env.write(host->options.env.arg, &call, &write);
    else
        host->options.env.changed(host->options.env.arg);
    lambda__env_leave(host);
    return status;
}

/* In order; an effect that can't be sent now holds back those after it. */
static enum outcome send_all(struct lambda_host *host, struct lambda__event *event,
                             struct lambda__statistics *statistics)
{
    struct lambda_feed *feed = event->item.feed;
    struct lambda__slot *slot = feed->lambda->slot;
    while (event->outbox.first != NULL) {
        if (atomic_load(&feed->stopped))
            return OUTCOME_DISCARD;
        const struct lambda__effect *effect = event->outbox.first;
        enum sluice_status status = send_one(host, event, effect);
        if (status == SLUICE_OK) {
            statistics->effects++;
        } else if (effect->trigger || refused(status)) {
            statistics->refused++;
            lambda__print(slot, "%s %s, an effect of %s version %llu, was refused: %s",
                          effect->remove    ? "remove"
                          : effect->trigger ? "trigger"
                                            : "put",
                          effect->key, lambda__event_key(event), (unsigned long long)event->version,
                          sluice_status_text(status));
        } else {
            if (event->pause_ns == 0 && status != SLUICE_AGAIN)
                lambda__print(slot, "%s, an effect of %s version %llu, is sent again: %s", effect->key,
                              lambda__event_key(event), (unsigned long long)event->version, sluice_status_text(status));
            event->pause_ns = event->pause_ns == 0 ? LAMBDA__SEND_FIRST_NS : event->pause_ns * 2;
            if (event->pause_ns > LAMBDA__SEND_LAST_NS)
                event->pause_ns = LAMBDA__SEND_LAST_NS;
            return OUTCOME_UNSENT;
        }
        event->pause_ns = 0;
        event->sent++;
        event->outbox.first = effect->next;
    }
    return OUTCOME_DONE;
}

/* --- What becomes of it ---------------------------------------------------------------------------------------------
 */

/* The event goes to whoever next lets go of the lock. */
static void garbage_add(struct lambda_host *host, struct lambda__event *event)
{
    event->list_next = host->garbage;
    host->garbage = event;
}

/* Under the lock. `error` says why it failed. */
static void settle(struct lambda_host *host, struct lambda__event *event, enum outcome outcome, const char *error)
{
    struct lambda_feed *feed = event->item.feed;
    struct lambda__slot *slot = feed->lambda->slot;
    feed->held--;
    feed->lambda->running--;
    host->held--;
    if (outcome == OUTCOME_FAILED) {
        slot->statistics.failures++;
        lambda__print(slot, "run on %s version %llu failed, try %u of %u: %s", lambda__event_key(event),
                      (unsigned long long)event->version, event->attempts, host->options.tries, error);
    }
    if (outcome == OUTCOME_DISCARD || (outcome != OUTCOME_DONE && atomic_load(&feed->stopped))) {
        lambda__event_discard(event);
    } else if (outcome == OUTCOME_UNSENT) {
        lambda__wait(host, event, clock_monotonic_ns() + event->pause_ns);
        return;
    } else if (outcome == OUTCOME_FAILED && event->attempts < host->options.tries) {
        lambda__wait(host, event, clock_monotonic_ns() + (host->options.retry_first_ns << (event->attempts - 1)));
        return;
    } else {
        if (outcome == OUTCOME_FAILED) {
            slot->statistics.parked++;
            lambda__park_note(slot, event, feed->shard, error);
        }
        if (event->revision > feed->done)
            feed->done = event->revision;
        lambda__event_remove(event);
    }
    garbage_add(host, event);
}

/* Under the lock: the callbacks have returned. False: too late, the event was parked without them. */
static bool run_end(struct lambda_host *host, struct lambda__run *run)
{
    struct lambda *lambda = run->feed->lambda;
    run_unlist(host, run);
    if (run->overdue) {
        lambda->overdue--;
        lambda__worker_wake(host); /* it may be given threads again */
    }
    if (!run->abandoned)
        return true;
    lambda__print(lambda->slot, "the run on %s version %llu that was parked has returned after all",
                  lambda__event_key(run->event), (unsigned long long)run->event->version);
    host->threads_stuck--;
    run->feed->abandoned--;
    lambda__keeper_wake(host); /* the feed may be waiting for this alone */
    return false;
}

/* Runs the callbacks; takes the lock. The outbox is the event's then, if they returned 0 in time. */
static enum outcome run_callbacks(struct lambda_host *host, struct lambda__run *run, struct sluice_context *context,
                                  bool *abandoned)
{
    struct lambda__event *event = run->event;
    bool good = call(host, run, context);
    if (good) {
        event->outbox = context->outbox;
        memset(&context->outbox, 0, sizeof(context->outbox));
    }
    lambda__context_free(context);
    pthread_mutex_lock(&host->lock);
    if (good && run->overdue) {
        /* Decided under the lock, where the keeper decides too. */
        snprintf(context->error, sizeof(context->error), "it ran past its deadline");
        lambda__arena_free(&event->outbox.arena);
        memset(&event->outbox, 0, sizeof(event->outbox));
        good = false;
    }
    event->sending = good;
    *abandoned = !run_end(host, run);
    return good ? OUTCOME_DONE : OUTCOME_FAILED;
}

void lambda__run_work(struct lambda_host *host, struct lambda__run *run)
{
    struct lambda__event *event = run->event;
    struct lambda_feed *feed = run->feed;
    struct sluice_context context;
    enum outcome outcome = OUTCOME_DISCARD;
    bool abandoned = false, locked = run->listed;
    if (run->listed)
        outcome = run_callbacks(host, run, &context, &abandoned);
    if (abandoned) {
        garbage_add(host, event);
        return;
    }
    if (event->sending && event->outbox.first != NULL) {
        struct lambda__statistics statistics = {0};
        if (locked)
            pthread_mutex_unlock(&host->lock);
        outcome = send_all(host, event, &statistics);
        pthread_mutex_lock(&host->lock);
        locked = true;
        feed->lambda->slot->statistics.effects += statistics.effects;
        feed->lambda->slot->statistics.refused += statistics.refused;
    }
    if (!locked)
        pthread_mutex_lock(&host->lock);
    settle(host, event, outcome, context.error);
    bool room = lambda__feed_room(feed);
    uint64_t tag = feed->tag;
    lambda__feed_settle(feed);
    if (room) {
        pthread_mutex_unlock(&host->lock);
        lambda__room_tell(host, room, tag);
        pthread_mutex_lock(&host->lock);
    }
}

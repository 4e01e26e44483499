/* The host's clock: wakes events that wait for another try, sees runs that take too long, moves cursors, lets go of
 * feeds that were stopped. Sleeps for good while nothing is due. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/lambda/lambda__.h"

#define REPORT_PAUSE_FIRST_NS (100 * NS_PER_MS)
#define REPORT_PAUSE_LAST_NS  (1 * NS_PER_S)

void lambda__keeper_wake(struct lambda_host *self)
{
    if (atomic_exchange(&self->keeper_asleep, false))
        sem_post(&self->keeper_wake);
}

void lambda__wait(struct lambda_host *self, struct lambda__event *event, uint64_t due_ns)
{
    struct lambda__event **link = &self->waiting;
    while (*link != NULL && (*link)->due_ns <= due_ns)
        link = &(*link)->list_next;
    event->state = LAMBDA__WAITING;
    event->due_ns = due_ns;
    event->list_next = *link;
    *link = event;
    if (due_ns < self->keeper_until_ns)
        lambda__keeper_wake(self);
}

static void earlier(uint64_t *until, uint64_t candidate)
{
    if (candidate < *until)
        *until = candidate;
}

static void wake_waiting(struct lambda_host *self, uint64_t now, uint64_t *until)
{
    while (self->waiting != NULL && self->waiting->due_ns <= now) {
        struct lambda__event *event = self->waiting;
        self->waiting = event->list_next;
        lambda__event_ready(event);
        lambda__worker_wake(self);
    }
    if (self->waiting != NULL)
        earlier(until, self->waiting->due_ns);
}

static void watch_runs(struct lambda_host *self, uint64_t now, uint64_t *until)
{
    uint64_t deadline = self->options.deadline_ns;
    for (struct lambda__run *run = self->runs; run != NULL; run = run->next) {
        struct lambda *lambda = run->feed->lambda;
        if (run->abandoned)
            continue;
        if (!run->overdue && now > run->started_ns + deadline) {
            run->overdue = true;
            lambda->overdue++;
            lambda__print(lambda->slot, "run on %s version %llu is past its deadline of %.3f s and has not returned",
                          lambda__event_key(run->event), (unsigned long long)run->event->version,
                          (double)deadline / (double)NS_PER_S);
        }
        if (now > run->started_ns + 2 * deadline)
            lambda__run_abandon(self, run);
    }
    if (self->held > 0)
        earlier(until, now + LAMBDA__TICK_NS);
}

/* --- Cursors --------------------------------------------------------------------------------------------------------
 */

/* What should be reported of the feed, 0 nothing. A cursor's move is an entry of the shard's log, so it never moves for
 * the entries that moves of cursors make: only for handled events, or for a great many revisions without any. */
static uint64_t reportable(const struct lambda_feed *feed)
{
    uint64_t cursor = lambda__feed_cursor(feed, feed->passed_seen);
    if (cursor <= feed->durable)
        return 0;
    return feed->done > feed->durable || cursor >= feed->durable + LAMBDA__PASSED_REPORT ? cursor : 0;
}

/* A watermark lets target shards forget effects; what they have forgotten they would apply again. So it is made of a
 * cursor that has been durable for longer than an effect of a former leader may be on its way. */
static void age(struct lambda_feed *feed, uint64_t now)
{
    if (now - feed->aging_since_ns < feed->host->options.watermark_ns)
        return;
    atomic_store(&feed->confirmed, feed->aging);
    feed->aging = feed->durable;
    feed->aging_since_ns = now;
}

/* Called with the lock held, which is let go meanwhile. */
static void report(struct lambda_host *self, struct lambda_feed *feed, uint64_t cursor)
{
    enum sluice_status status = SLUICE_CLOSED;
    pthread_mutex_unlock(&self->lock);
    if (lambda__env_enter(self)) {
        status = self->options.env.cursor(self->options.env.arg, lambda_name(feed->lambda), feed->shard, feed->epoch,
                                          cursor);
        lambda__env_leave(self);
    }
    pthread_mutex_lock(&self->lock);
    uint64_t now = clock_monotonic_ns();
    if (status == SLUICE_OK) {
        feed->durable = cursor;
        feed->report_pause_ns = 0;
        feed->report_at_ns = now + self->options.cursor_ns;
        age(feed, now);
        return;
    }
    feed->report_pause_ns = feed->report_pause_ns == 0 ? REPORT_PAUSE_FIRST_NS : feed->report_pause_ns * 2;
    if (feed->report_pause_ns > REPORT_PAUSE_LAST_NS)
        feed->report_pause_ns = REPORT_PAUSE_LAST_NS;
    feed->report_at_ns = now + feed->report_pause_ns;
}

/* True: the lock was let go, look at everything again. */
static bool move_cursors(struct lambda_host *self, uint64_t now, uint64_t *until)
{
    for (struct lambda_feed *feed = self->feeds; feed != NULL; feed = feed->next) {
        uint64_t cursor = reportable(feed);
        if (cursor == 0) {
            /* The reactor is about to say that it has passed the last revision handled. */
            if (feed->done > feed->durable && feed->oldest == NULL && !feed->stop_seen)
                earlier(until, now + self->options.cursor_ns);
            continue;
        }
        bool last = feed->stop_seen && feed->held == 0;
        if (last && feed->last_tried)
            continue; /* one attempt is owed to a stopped feed; the next leader handles again what is behind the cursor
                       */
        feed->last_tried = last;
        if (last || now >= feed->report_at_ns) {
            report(self, feed, cursor);
            return true;
        }
        earlier(until, feed->report_at_ns);
    }
    return false;
}

/* --- Feeds ----------------------------------------------------------------------------------------------------------
 */

/* Takes one feed that is over out of the list. */
static struct lambda_feed *retire(struct lambda_host *self)
{
    for (struct lambda_feed **link = &self->feeds; *link != NULL; link = &(*link)->next) {
        struct lambda_feed *feed = *link;
        if (!feed->stop_seen || feed->held > 0 || feed->abandoned > 0 || (reportable(feed) != 0 && !feed->last_tried))
            continue;
        ASSERT(feed->oldest == NULL);
        *link = feed->next;
        return feed;
    }
    return NULL;
}

/* A feed that refused an event for want of memory may have nothing queued whose end would bring room. */
static bool starved(struct lambda_host *self, uint64_t *until, uint64_t now, uint64_t *tag)
{
    for (struct lambda_feed *feed = self->feeds; feed != NULL; feed = feed->next) {
        if (!atomic_load(&feed->refused) || atomic_load(&feed->queued_events) > 0) {
            feed->starved = false;
        } else if (!feed->starved) {
            feed->starved = true;
            earlier(until, now + LAMBDA__TICK_NS);
        } else if (lambda__feed_room(feed)) {
            feed->starved = false;
            *tag = feed->tag;
            return true;
        }
    }
    return false;
}

static void keeper_sleep(struct lambda_host *self, uint64_t now, uint64_t until)
{
    int result;
    if (until == UINT64_MAX) {
        do
            result = sem_wait(&self->keeper_wake);
        while (result != 0 && errno == EINTR);
    } else if (until > now) {
        struct timespec at;
        clock_gettime(CLOCK_MONOTONIC, &at);
        uint64_t ns = (uint64_t)at.tv_nsec + (until - now);
        at.tv_sec += (time_t)(ns / NS_PER_S);
        at.tv_nsec = (long)(ns % NS_PER_S);
        do
            result = sem_clockwait(&self->keeper_wake, CLOCK_MONOTONIC, &at);
        while (result != 0 && errno == EINTR);
    }
    atomic_store(&self->keeper_asleep, false);
}

/* One look at everything; the time until which there is nothing to do. */
static uint64_t keeper_look(struct lambda_host *self)
{
    uint64_t now = clock_monotonic_ns(), until = UINT64_MAX, tag = 0;
    for (struct lambda_feed *feed = self->feeds; feed != NULL; feed = feed->next)
        feed->passed_seen = atomic_load(&feed->passed);
    lambda__intake_drain(self);
    wake_waiting(self, now, &until);
    watch_runs(self, now, &until);
    lambda__workers_grow(self);
    if (self->turn_first != NULL)
        lambda__worker_wake(self);
    bool again = move_cursors(self, now, &until);
    bool room = starved(self, &until, now, &tag);
    struct lambda_feed *over = retire(self);
    struct lambda__event *garbage = self->garbage;
    self->garbage = NULL;
    if (over != NULL)
        pthread_cond_broadcast(&self->gone);
    if (!again && !room && over == NULL && garbage == NULL)
        return until;
    pthread_mutex_unlock(&self->lock);
    lambda__room_tell(self, room, tag);
    lambda__garbage_free(garbage);
    if (over != NULL) {
        lambda_unref(over->lambda);
        free(over);
    }
    pthread_mutex_lock(&self->lock);
    return now;
}

static void *keeper(void *arg)
{
    struct lambda_host *self = arg;
    pthread_mutex_lock(&self->lock);
    while (!self->keeper_stop) {
        /* Announced before looking, so that what is said from now on wakes. */
        atomic_store(&self->keeper_asleep, true);
        uint64_t until = keeper_look(self);
        self->keeper_until_ns = until;
        pthread_mutex_unlock(&self->lock);
        keeper_sleep(self, clock_monotonic_ns(), until);
        pthread_mutex_lock(&self->lock);
        self->keeper_until_ns = 0;
    }
    pthread_mutex_unlock(&self->lock);
    return NULL;
}

enum sluice_status lambda__keeper_start(struct lambda_host *self)
{
    return pthread_create(&self->keeper, NULL, keeper, self) == 0 ? SLUICE_OK : SLUICE_MEMORY;
}

void lambda__keeper_stop(struct lambda_host *self)
{
    pthread_mutex_lock(&self->lock);
    self->keeper_stop = true;
    pthread_mutex_unlock(&self->lock);
    atomic_store(&self->keeper_asleep, false);
    sem_post(&self->keeper_wake);
    pthread_join(self->keeper, NULL);
}

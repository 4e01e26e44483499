#include <criterion/criterion.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fake.h"

/* One host with one lambda, fed on one shard. */
struct bench {
    struct fake *fake;
    struct lambda_host *host;
    struct lambda *lambda;
    struct lambda_feed *feed;
};

static struct lambda_host *host_with(const struct lambda_host_options *options)
{
    struct lambda_host *host;
    char error[256];
    cr_assert_eq(lambda_host_create(options, &host, error, sizeof(error)), SLUICE_OK, "%s", error);
    return host;
}

static struct lambda_feed *feed_of(struct lambda_host *host, struct lambda *lambda, uint32_t shard, uint64_t from)
{
    struct lambda_feed *feed;
    cr_assert_eq(lambda_feed_start(host, lambda, shard, 1, from, shard, &feed), SLUICE_OK);
    return feed;
}

static struct bench bench_create(fake_callback callback, void *closure, void (*adjust)(struct lambda_host_options *))
{
    struct bench bench = {.fake = fake_create()};
    struct lambda_host_options options = fake_options(bench.fake);
    if (adjust != NULL)
        adjust(&options);
    bench.host = host_with(&options);
    const struct fake_lambda lambda = {"probe", 1, SLUICE_GLOB, "in/**", callback, closure, false};
    fake_load(bench.host, bench.fake, &lambda, 1);
    bench.lambda = fake_lambda(bench.host, "probe");
    bench.feed = feed_of(bench.host, bench.lambda, 1, 1);
    return bench;
}

static void bench_destroy(struct bench *bench)
{
    if (bench->feed != NULL)
        lambda_feed_stop(bench->feed);
    lambda_unref(bench->lambda);
    lambda_host_destroy(bench->host);
    fake_destroy(bench->fake);
}

/* --- Order ----------------------------------------------------------------------------------------------------------
 */

struct record {
    pthread_mutex_t lock;
    char lines[4096];
};

static void note(struct record *record, const char *key, uint64_t revision, uint32_t attempt)
{
    pthread_mutex_lock(&record->lock);
    size_t used = strlen(record->lines);
    snprintf(record->lines + used, sizeof(record->lines) - used, "%s:%llu.%u ", key, (unsigned long long)revision,
             attempt);
    pthread_mutex_unlock(&record->lock);
}

/* A value "failN" fails the first N tries. */
static int record_and_fail(const struct sluice_host *host, struct sluice_context *context,
                           const struct sluice_event *event, void *closure)
{
    note(closure, event->object.key, event->object.revision, event->attempt);
    unsigned fails = 0;
    if (sscanf(event->object.value, "fail%u", &fails) == 1 && event->attempt <= fails) {
        host->put(context, "out/never", "x", 1, NULL);
        host->fail(context, "on purpose, try %u", event->attempt);
        return 7;
    }
    return 0;
}

Test(dispatch, a_key_is_handled_in_revision_order_even_while_tries_fail)
{
    struct record record = {.lock = PTHREAD_MUTEX_INITIALIZER};
    struct bench bench = bench_create(record_and_fail, &record, NULL);
    cr_assert(fake_offer(bench.feed, "in/a", 1, 0, "ok"));
    cr_assert(fake_offer(bench.feed, "in/a", 2, 0, "fail2"));
    cr_assert(fake_offer(bench.feed, "in/a", 3, 0, "ok"));
    cr_assert(fake_offer(bench.feed, "in/a", 3, 1, "ok"));
    lambda_feed_passed(bench.feed, 3);
    EVENTUALLY(fake_cursor(bench.fake, 1) == 3, "cursor %llu", (unsigned long long)fake_cursor(bench.fake, 1));
    cr_assert_str_eq(record.lines, "in/a:1.1 in/a:2.1 in/a:2.2 in/a:2.3 in/a:3.1 in/a:3.1 ");
    cr_assert_eq(fake_write_count(bench.fake), 0u, "a try that failed leaves nothing");
    cr_assert_eq(fake_status(bench.host, "probe", "events"), 4);
    cr_assert_eq(fake_status(bench.host, "probe", "runs"), 6);
    cr_assert_eq(fake_status(bench.host, "probe", "failures"), 2);
    cr_assert_eq(fake_status(bench.host, "probe", "parked"), 0);
    bench_destroy(&bench);
}

Test(dispatch, what_keeps_failing_is_parked_with_its_error_and_holds_up_nobody)
{
    struct record record = {.lock = PTHREAD_MUTEX_INITIALIZER};
    struct bench bench = bench_create(record_and_fail, &record, NULL);
    uint64_t start = clock_monotonic_ns();
    cr_assert(fake_offer(bench.feed, "in/a", 1, 0, "fail99"));
    cr_assert(fake_offer(bench.feed, "in/b", 2, 0, "ok"));
    cr_assert(fake_offer(bench.feed, "in/a", 3, 0, "ok"));
    lambda_feed_passed(bench.feed, 3);
    EVENTUALLY(fake_cursor(bench.fake, 1) == 3, "the cursor moves past what was parked");
    cr_assert_geq(clock_monotonic_ns() - start, (2 + 4 + 8 + 16) * NS_PER_MS, "pauses double");
    cr_assert_not_null(strstr(record.lines, "in/a:1.5 "));
    cr_assert_null(strstr(record.lines, "in/a:1.6 "));
    const char *other = strstr(record.lines, "in/b:2.1 "), *fifth = strstr(record.lines, "in/a:1.5 ");
    cr_assert(other != NULL && other < fifth, "another key does not wait: %s", record.lines);
    cr_assert(strstr(record.lines, "in/a:3.1 ") > fifth, "the same key does: %s", record.lines);
    cr_assert_eq(fake_status(bench.host, "probe", "parked"), 1);
    cr_assert_eq(fake_status(bench.host, "probe", "failures"), 5);
    cr_assert(fake_status_says(bench.host, "probe",
                               "\"parked_events\":[{\"key\":\"in/a\",\"version\":1,\"shard\":1,\"revision\":1,"
                               "\"error\":\"on purpose, try 5\"}]"),
              "%s", lambda_host_status(bench.host, "probe"));
    bench_destroy(&bench);
}

static int fail_plainly(const struct sluice_host *host, struct sluice_context *context,
                        const struct sluice_event *event, void *closure)
{
    (void)host;
    (void)context;
    (void)event;
    (void)closure;
    return -3;
}

Test(dispatch, only_the_last_parked_events_are_shown)
{
    struct bench bench = bench_create(fail_plainly, NULL, NULL);
    for (unsigned i = 1; i <= 20; i++) {
        char key[16];
        snprintf(key, sizeof(key), "in/%u", i);
        cr_assert(fake_offer(bench.feed, key, i, 0, "x"));
        EVENTUALLY(fake_status(bench.host, "probe", "parked") == (long)i, "parked");
    }
    cr_assert(fake_status_says(bench.host, "probe", "\"key\":\"in/20\""));
    cr_assert(fake_status_says(bench.host, "probe", "\"key\":\"in/5\""));
    cr_assert_not(fake_status_says(bench.host, "probe", "\"key\":\"in/4\""));
    cr_assert(fake_status_says(bench.host, "probe", "the callback returned -3"));
    bench_destroy(&bench);
}

/* --- Threads --------------------------------------------------------------------------------------------------------
 */

static int meet(const struct sluice_host *host, struct sluice_context *context, const struct sluice_event *event,
                void *closure)
{
    (void)host;
    (void)context;
    (void)event;
    pthread_barrier_wait(closure);
    return 0;
}

Test(dispatch, different_keys_run_at_the_same_time)
{
    pthread_barrier_t barrier;
    pthread_barrier_init(&barrier, NULL, 3);
    struct bench bench = bench_create(meet, &barrier, NULL);
    cr_assert(fake_offer(bench.feed, "in/a", 1, 0, "x"));
    cr_assert(fake_offer(bench.feed, "in/b", 2, 0, "x"));
    pthread_barrier_wait(&barrier); /* only passes when both are in their callbacks */
    lambda_feed_passed(bench.feed, 2);
    EVENTUALLY(fake_cursor(bench.fake, 1) == 2, "done");
    bench_destroy(&bench);
    pthread_barrier_destroy(&barrier);
}

struct held {
    sem_t entered, leave;
    atomic_uint runs;
};

static void held_init(struct held *held)
{
    sem_init(&held->entered, 0, 0);
    sem_init(&held->leave, 0, 0);
    atomic_init(&held->runs, 0);
}

static int hold(const struct sluice_host *host, struct sluice_context *context, const struct sluice_event *event,
                void *closure)
{
    struct held *held = closure;
    host->put(context, "out/held", event->object.value, event->object.size, NULL);
    atomic_fetch_add(&held->runs, 1);
    sem_post(&held->entered);
    while (sem_wait(&held->leave) != 0)
        continue;
    return 0;
}

static int count_run(const struct sluice_host *host, struct sluice_context *context, const struct sluice_event *event,
                     void *closure)
{
    (void)host;
    (void)context;
    (void)event;
    atomic_fetch_add((atomic_uint *)closure, 1);
    return 0;
}

Test(dispatch, a_lambda_that_takes_long_does_not_hold_up_another)
{
    struct held held;
    atomic_uint runs = 0;
    held_init(&held);
    struct fake *fake = fake_create();
    struct lambda_host_options options = fake_options(fake);
    options.workers = 2;
    struct lambda_host *host = host_with(&options);
    const struct fake_lambda lambdas[] = {{"slow", 1, SLUICE_PREFIX, "in/", hold, &held, false},
                                          {"quick", 2, SLUICE_PREFIX, "in/", count_run, &runs, false}};
    fake_load(host, fake, lambdas, 2);
    struct lambda *slow = fake_lambda(host, "slow"), *quick = fake_lambda(host, "quick");
    struct lambda_feed *slow_feed = feed_of(host, slow, 1, 1), *quick_feed = feed_of(host, quick, 2, 1);
    char key[16];
    for (unsigned i = 1; i <= 8; i++) {
        snprintf(key, sizeof(key), "in/%u", i);
        cr_assert(fake_offer(slow_feed, key, i, 0, "x"));
    }
    sem_wait(&held.entered);
    sem_wait(&held.entered); /* both workers are its */
    for (unsigned i = 1; i <= 8; i++) {
        snprintf(key, sizeof(key), "in/%u", i);
        cr_assert(fake_offer(quick_feed, key, i, 0, "x"));
    }
    EVENTUALLY(atomic_load(&runs) == 8, "the other lambda gets threads of its own");
    cr_assert_eq(atomic_load(&held.runs), 2u, "and the first one not more than there are workers");
    for (int i = 0; i < 8; i++)
        sem_post(&held.leave);
    EVENTUALLY(atomic_load(&held.runs) == 8, "all are handled in the end");
    lambda_feed_stop(slow_feed);
    lambda_feed_stop(quick_feed);
    lambda_unref(slow);
    lambda_unref(quick);
    lambda_host_destroy(host);
    fake_destroy(fake);
}

/* --- Deadlines ------------------------------------------------------------------------------------------------------
 */

static void short_deadline(struct lambda_host_options *options)
{
    options->deadline_ns = 100 * NS_PER_MS;
}

static int slow_at_first(const struct sluice_host *host, struct sluice_context *context,
                         const struct sluice_event *event, void *closure)
{
    (void)closure;
    host->put(context, "out/x", "x", 1, NULL);
    if (event->attempt == 1)
        usleep(150 * 1000);
    return 0;
}

Test(dispatch, a_run_past_its_deadline_counts_as_failed_and_is_tried_again)
{
    struct bench bench = bench_create(slow_at_first, NULL, short_deadline);
    cr_assert(fake_offer(bench.feed, "in/a", 1, 0, "x"));
    EVENTUALLY(fake_write_count(bench.fake) == 1, "the second try is good");
    cr_assert_eq(fake_status(bench.host, "probe", "failures"), 1);
    cr_assert_eq(fake_status(bench.host, "probe", "runs"), 2);
    cr_assert_eq(fake_write_at(bench.fake, 0).times, 1u);
    bench_destroy(&bench);
}

Test(dispatch, a_run_that_does_not_return_is_parked_and_said_so)
{
    struct held held;
    held_init(&held);
    struct bench bench = bench_create(hold, &held, short_deadline);
    cr_assert(fake_offer(bench.feed, "in/a", 1, 0, "first"));
    cr_assert(fake_offer(bench.feed, "in/a", 2, 0, "second"));
    cr_assert(fake_offer(bench.feed, "in/b", 3, 0, "third"));
    lambda_feed_passed(bench.feed, 3);
    EVENTUALLY(fake_status(bench.host, "probe", "parked") == 2, "parked: %s", lambda_host_status(bench.host, NULL));
    cr_assert(fake_status_says(bench.host, "probe", "has not returned after"));
    cr_assert(fake_status_says(bench.host, "probe", "no further event is handled until one returns"), "%s",
              lambda_host_status(bench.host, "probe"));
    cr_assert_eq(fake_status(bench.host, "probe", "overdue"), 2);
    cr_assert_eq(atomic_load(&held.runs), 2u, "two threads lost are enough");
    cr_assert_eq(fake_write_count(bench.fake), 0u);
    /* One comes back: what it did is discarded, and the next event has its turn. */
    sem_post(&held.leave);
    EVENTUALLY(atomic_load(&held.runs) == 3, "the line goes on");
    for (int i = 0; i < 2; i++)
        sem_post(&held.leave);
    EVENTUALLY(fake_cursor(bench.fake, 1) == 3, "cursor");
    EVENTUALLY(fake_status(bench.host, "probe", "overdue") == 0, "all are back");
    cr_assert_eq(fake_write_count(bench.fake), 1u);
    cr_assert_str_eq(fake_write_at(bench.fake, 0).value, "second");
    bench_destroy(&bench);
}

Test(dispatch, a_host_can_end_while_a_run_does_not_return)
{
    /* They stay: the thread that is left behind uses them. */
    static struct held kept;
    static struct bench bench;
    struct held *held = &kept;
    held_init(held);
    bench = bench_create(hold, held, short_deadline);
    cr_assert(fake_offer(bench.feed, "in/a", 1, 0, "x"));
    sem_wait(&held->entered);
    lambda_feed_stop(bench.feed);
    lambda_unref(bench.lambda);
    lambda_host_destroy(bench.host);
    sem_post(&held->leave);
    usleep(50 * 1000);
    cr_assert_eq(fake_write_count(bench.fake), 0u, "nothing is sent after the end");
}

/* --- Bounds, start and stop -----------------------------------------------------------------------------------------
 */

static void small_queue(struct lambda_host_options *options)
{
    options->queue_events_max = 8;
    options->queue_bytes_max = 100;
}

Test(dispatch, a_full_queue_refuses_and_tells_when_there_is_room)
{
    struct held held;
    held_init(&held);
    struct bench bench = bench_create(hold, &held, small_queue);
    uint64_t revision = 1;
    while (fake_offer(bench.feed, "in/a", revision, 0, "x"))
        revision++;
    cr_assert_eq(revision, 9u);
    cr_assert_eq(atomic_load(&bench.fake->rooms), 0u);
    cr_assert_not(fake_offer(bench.feed, "in/a", revision, 0, "x"));
    for (int i = 0; i < 8; i++)
        sem_post(&held.leave);
    EVENTUALLY(atomic_load(&bench.fake->rooms) == 1, "told once: %u", atomic_load(&bench.fake->rooms));
    cr_assert(fake_offer(bench.feed, "in/a", revision, 0, "x"));
    sem_post(&held.leave);
    EVENTUALLY(fake_write_count(bench.fake) == 9, "nothing is lost");
    bench_destroy(&bench);
}

Test(dispatch, the_queue_is_bounded_in_bytes_but_takes_one_large_value)
{
    struct held held;
    held_init(&held);
    struct bench bench = bench_create(hold, &held, small_queue);
    char large[201];
    memset(large, 'x', 200);
    large[200] = '\0';
    cr_assert(fake_offer(bench.feed, "in/a", 1, 0, large));
    cr_assert_not(fake_offer(bench.feed, "in/b", 2, 0, "x"));
    sem_post(&held.leave);
    EVENTUALLY(atomic_load(&bench.fake->rooms) == 1, "room");
    large[60] = '\0';
    cr_assert(fake_offer(bench.feed, "in/a", 2, 0, large));
    cr_assert_not(fake_offer(bench.feed, "in/b", 3, 0, large));
    sem_post(&held.leave);
    EVENTUALLY(atomic_load(&bench.fake->rooms) == 2, "room");
    bench_destroy(&bench);
}

Test(dispatch, stopping_drops_what_is_queued_and_what_runs_leaves_nothing)
{
    struct held held;
    held_init(&held);
    struct bench bench = bench_create(hold, &held, NULL);
    sem_post(&held.leave);
    cr_assert(fake_offer(bench.feed, "in/a", 1, 0, "first"));
    EVENTUALLY(fake_write_count(bench.fake) == 1, "the first is handled");
    sem_wait(&held.entered);
    for (unsigned i = 2; i <= 20; i++)
        cr_assert(fake_offer(bench.feed, i % 2 ? "in/a" : "in/b", i, 0, "later"));
    sem_wait(&held.entered);
    lambda_feed_stop(bench.feed);
    bench.feed = NULL;
    for (int i = 0; i < 20; i++)
        sem_post(&held.leave);
    EVENTUALLY(fake_cursor(bench.fake, 1) == 1, "the cursor tells what was done, and no more: %llu",
               (unsigned long long)fake_cursor(bench.fake, 1));
    usleep(20 * 1000);
    cr_assert_eq(fake_cursor(bench.fake, 1), 1u);
    cr_assert_eq(fake_write_count(bench.fake), 1u);
    cr_assert_leq(atomic_load(&held.runs), 3u);
    cr_assert_eq(fake_status(bench.host, "probe", "queued"), 0);
    bench_destroy(&bench);
}

Test(dispatch, a_feed_that_takes_over_waits_for_what_the_former_one_is_doing)
{
    struct held held;
    held_init(&held);
    struct bench bench = bench_create(hold, &held, NULL);
    cr_assert(fake_offer(bench.feed, "in/a", 1, 0, "old"));
    sem_wait(&held.entered);
    lambda_feed_stop(bench.feed);
    bench.feed = feed_of(bench.host, bench.lambda, 1, 1);
    cr_assert(fake_offer(bench.feed, "in/a", 1, 0, "again"));
    cr_assert(fake_offer(bench.feed, "in/b", 2, 0, "other"));
    usleep(30 * 1000);
    cr_assert_eq(atomic_load(&held.runs), 1u, "the former one is still at work");
    for (int i = 0; i < 3; i++)
        sem_post(&held.leave);
    EVENTUALLY(fake_write_count(bench.fake) == 2, "then it goes on");
    cr_assert_eq(atomic_load(&held.runs), 3u);
    bench_destroy(&bench);
}

/* --- Cursors --------------------------------------------------------------------------------------------------------
 */

static int hold_revision_two(const struct sluice_host *host, struct sluice_context *context,
                             const struct sluice_event *event, void *closure)
{
    return event->object.revision == 2 ? hold(host, context, event, closure) : 0;
}

Test(dispatch, the_cursor_stays_before_the_first_event_that_is_not_done)
{
    struct held held;
    held_init(&held);
    struct bench bench = bench_create(hold_revision_two, &held, NULL);
    for (unsigned i = 1; i <= 6; i++) {
        char key[16];
        snprintf(key, sizeof(key), "in/%u", i);
        cr_assert(fake_offer(bench.feed, key, i, 0, "x"));
    }
    lambda_feed_passed(bench.feed, 9);
    EVENTUALLY(fake_cursor(bench.fake, 1) == 1, "all up to 1 are done");
    usleep(30 * 1000);
    cr_assert_eq(fake_cursor(bench.fake, 1), 1u);
    sem_post(&held.leave);
    EVENTUALLY(fake_cursor(bench.fake, 1) == 9, "and then everything that was passed");
    bench_destroy(&bench);
}

Test(dispatch, the_cursor_does_not_pass_a_revision_whose_operations_may_follow)
{
    struct record record = {.lock = PTHREAD_MUTEX_INITIALIZER};
    struct bench bench = bench_create(record_and_fail, &record, NULL);
    cr_assert(fake_offer(bench.feed, "in/a", 5, 0, "ok"));
    EVENTUALLY(fake_cursor(bench.fake, 1) == 4, "4 is certain");
    usleep(30 * 1000);
    cr_assert_eq(fake_cursor(bench.fake, 1), 4u);
    cr_assert(fake_offer(bench.feed, "in/b", 5, 1, "ok"));
    lambda_feed_passed(bench.feed, 5);
    EVENTUALLY(fake_cursor(bench.fake, 1) == 5, "5");
    bench_destroy(&bench);
}

/* The shard's log grows by an entry with each move of a cursor. */
static void log_grows(void *arg, uint32_t shard, uint64_t revision)
{
    (void)shard;
    lambda_feed_passed(arg, revision + 1);
}

Test(dispatch, a_cursors_own_move_does_not_move_it_again)
{
    struct record record = {.lock = PTHREAD_MUTEX_INITIALIZER};
    struct bench bench = bench_create(record_and_fail, &record, NULL);
    bench.fake->on_cursor_arg = bench.feed; /* before anything is fed: no move yet */
    bench.fake->on_cursor = log_grows;
    cr_assert(fake_offer(bench.feed, "in/a", 1, 0, "ok"));
    lambda_feed_passed(bench.feed, 1);
    EVENTUALLY(fake_cursor(bench.fake, 1) >= 1, "moved");
    usleep(100 * 1000);
    cr_assert_leq(fake_cursor_calls(bench.fake), 2u);
    /* Where nothing matches for long, it moves now and then all the same. */
    lambda_feed_passed(bench.feed, 10000);
    EVENTUALLY(fake_cursor(bench.fake, 1) == 10000, "moved");
    bench_destroy(&bench);
}

Test(dispatch, moves_of_the_cursor_are_gathered_and_repeated_when_they_fail)
{
    struct record record = {.lock = PTHREAD_MUTEX_INITIALIZER};
    struct bench bench = bench_create(record_and_fail, &record, NULL);
    atomic_store(&bench.fake->no_cursor, true);
    for (unsigned i = 1; i <= 100; i++)
        cr_assert(fake_offer(bench.feed, "in/a", i, 0, "ok"));
    lambda_feed_passed(bench.feed, 100);
    EVENTUALLY(fake_status(bench.host, "probe", "runs") == 100, "handled");
    cr_assert_eq(fake_cursor(bench.fake, 1), 0u);
    atomic_store(&bench.fake->no_cursor, false);
    EVENTUALLY(fake_cursor(bench.fake, 1) == 100, "repeated");
    cr_assert_leq(fake_cursor_calls(bench.fake), 3u);
    bench_destroy(&bench);
}

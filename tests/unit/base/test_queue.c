#include <criterion/criterion.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "core/base/clock.h"
#include "core/base/queue.h"
#include "core/base/random.h"

static struct queue *create(uint32_t capacity)
{
    struct queue *queue = NULL;
    cr_assert_eq(queue_create(capacity, &queue), SLUICE_OK);
    return queue;
}

static void *item_of(uint64_t number)
{
    return (void *)(uintptr_t)(number + 1);
}

static bool readable(const struct queue *queue)
{
    struct pollfd poll_fd = {.fd = queue_fd(queue), .events = POLLIN};
    return poll(&poll_fd, 1, 0) == 1;
}

Test(queue, gives_items_in_order_over_many_laps)
{
    struct queue *queue = create(4);
    uint64_t pushed = 0, popped = 0;
    for (int round = 0; round < 1000; round++) {
        for (int i = 0; i < 3; i++)
            cr_assert(queue_push(queue, item_of(pushed++)));
        for (int i = 0; i < 3; i++)
            cr_assert_eq(queue_pop(queue), item_of(popped++));
        cr_assert_null(queue_pop(queue));
    }
    queue_destroy(queue);
}

Test(queue, refuses_when_full_and_takes_again_after_a_pop)
{
    static const uint32_t capacities[][2] = {{1, 2}, {2, 2}, {3, 4}, {5, 8}, {1000, 1024}};
    for (size_t i = 0; i < sizeof(capacities) / sizeof(capacities[0]); i++) {
        struct queue *queue = create(capacities[i][0]);
        for (uint64_t n = 0; n < capacities[i][1]; n++)
            cr_assert(queue_push(queue, item_of(n)));
        cr_assert_not(queue_push(queue, item_of(77)));
        cr_assert_eq(queue_pop(queue), item_of(0));
        cr_assert(queue_push(queue, item_of(capacities[i][1])));
        cr_assert_not(queue_push(queue, item_of(77)));
        for (uint64_t n = 1; n <= capacities[i][1]; n++)
            cr_assert_eq(queue_pop(queue), item_of(n));
        cr_assert_null(queue_pop(queue));
        queue_destroy(queue);
    }
}

Test(queue, refuses_a_capacity_that_makes_no_sense)
{
    struct queue *queue;
    cr_assert_eq(queue_create(0, &queue), SLUICE_INVALID);
    cr_assert_eq(queue_create(UINT32_MAX, &queue), SLUICE_INVALID);
    queue_destroy(NULL);
}

Test(queue, rings_only_a_consumer_that_announced_sleep)
{
    struct queue *queue = create(8);
    cr_assert(queue_push(queue, item_of(0)));
    cr_assert_not(readable(queue));
    cr_assert_not(queue_prepare_sleep(queue), "an item is there");
    cr_assert_eq(queue_pop(queue), item_of(0));

    cr_assert(queue_prepare_sleep(queue));
    cr_assert_not(readable(queue));
    cr_assert(queue_push(queue, item_of(1)));
    cr_assert(readable(queue));
    queue_awake(queue);
    cr_assert_not(readable(queue));
    cr_assert_eq(queue_pop(queue), item_of(1));

    cr_assert(queue_prepare_sleep(queue));
    queue_awake(queue); /* woken by something else */
    cr_assert(queue_push(queue, item_of(2)));
    cr_assert_not(readable(queue));
    queue_destroy(queue);
}

/* The narrowest place alone: one push against one announcement of sleep, both let go at once, round after round. */
struct duel {
    struct queue *queue;
    atomic_uint go, done;
};

#define DUELS 300000u

static void await(atomic_uint *counter, unsigned value)
{
    for (unsigned spins = 0; atomic_load_explicit(counter, memory_order_acquire) != value; spins++)
        if (spins % 1024 == 1023)
            sched_yield();
}

static void *push_on_go(void *arg)
{
    struct duel *duel = arg;
    for (unsigned round = 1; round <= DUELS; round++) {
        await(&duel->go, round);
        for (unsigned pause = round % 32; pause > 0; pause--)
            atomic_signal_fence(memory_order_seq_cst);
        bool pushed = queue_push(duel->queue, item_of(round));
        atomic_store_explicit(&duel->done, pushed ? round : UINT32_MAX, memory_order_release);
    }
    return NULL;
}

Test(queue, a_push_and_an_announcement_of_sleep_at_once_never_miss_each_other, .timeout = 120)
{
    struct duel duel = {.queue = create(2)};
    pthread_t thread;
    cr_assert_eq(pthread_create(&thread, NULL, push_on_go, &duel), 0);
    for (unsigned round = 1; round <= DUELS; round++) {
        atomic_store_explicit(&duel.go, round, memory_order_release);
        for (unsigned pause = round / 32 % 32; pause > 0; pause--)
            atomic_signal_fence(memory_order_seq_cst);
        bool sleeps = queue_prepare_sleep(duel.queue);
        await(&duel.done, round);
        cr_assert(!sleeps || readable(duel.queue), "in round %u the consumer would have slept on an item", round);
        queue_awake(duel.queue);
        cr_assert_eq(queue_pop(duel.queue), item_of(round));
    }
    pthread_join(thread, NULL);
    queue_destroy(duel.queue);
}

#define PRODUCERS  3
#define ITEMS_EACH 30000u

struct producer {
    struct queue *queue;
    uint64_t number;
    struct random random;
};

static void *produce(void *arg)
{
    struct producer *self = arg;
    for (uint64_t i = 0; i < ITEMS_EACH; i++) {
        while (!queue_push(self->queue, item_of(self->number * ITEMS_EACH + i)))
            sched_yield();
        /* Pauses let the consumer run dry and sleep; their ends hit all places of its way there. */
        for (uint64_t pause = random_below(&self->random, 64) == 0 ? random_below(&self->random, 2000) : 0; pause > 0;
             pause--)
            atomic_signal_fence(memory_order_seq_cst);
    }
    return NULL;
}

/* The consumer sleeps with a time limit far beyond what a push takes: a sleep that runs into it while items are due was
 * a lost wake-up. */
Test(queue, no_wake_up_and_no_item_is_lost_between_threads, .timeout = 120)
{
    uint64_t seed = random_os();
    struct queue *queue = create(64);
    struct producer producers[PRODUCERS];
    pthread_t threads[PRODUCERS];
    for (uint64_t i = 0; i < PRODUCERS; i++) {
        producers[i] = (struct producer){.queue = queue, .number = i};
        random_seed(&producers[i].random, seed + i);
        cr_assert_eq(pthread_create(&threads[i], NULL, produce, &producers[i]), 0);
    }

    uint64_t next[PRODUCERS] = {0}, left = (uint64_t)PRODUCERS * ITEMS_EACH, sleeps = 0;
    while (left > 0) {
        void *item = queue_pop(queue);
        if (item != NULL) {
            uint64_t number = (uint64_t)(uintptr_t)item - 1;
            cr_assert_eq(number % ITEMS_EACH, next[number / ITEMS_EACH], "in order by producer (seed %lu)", seed);
            next[number / ITEMS_EACH]++;
            left--;
        } else if (queue_prepare_sleep(queue)) {
            struct pollfd poll_fd = {.fd = queue_fd(queue), .events = POLLIN};
            cr_assert_eq(poll(&poll_fd, 1, 20000), 1, "lost wake-up with %lu items to come (seed %lu)", left, seed);
            queue_awake(queue);
            sleeps++;
        }
    }
    for (int i = 0; i < PRODUCERS; i++)
        pthread_join(threads[i], NULL);
    cr_assert_null(queue_pop(queue));
    cr_assert_gt(sleeps, 0, "the test never slept, so it showed nothing");
    queue_destroy(queue);
}

struct pair {
    struct queue *there, *back;
};

static void *echo(void *arg)
{
    struct pair *pair = arg;
    for (;;) {
        void *item = queue_pop(pair->there);
        if (item != NULL) {
            cr_assert(queue_push(pair->back, item));
            if (item == item_of(0))
                return NULL;
        } else if (queue_prepare_sleep(pair->there)) {
            struct pollfd poll_fd = {.fd = queue_fd(pair->there), .events = POLLIN};
            if (poll(&poll_fd, 1, 20000) != 1)
                return pair; /* never woken */
            queue_awake(pair->there);
        }
    }
}

/* Ping-pong: each side sleeps for each item, so every push meets a consumer somewhere between awake and asleep. */
Test(queue, a_push_against_a_consumer_falling_asleep_always_wakes_it, .timeout = 120)
{
    struct pair pair = {.there = create(2), .back = create(2)};
    pthread_t thread;
    cr_assert_eq(pthread_create(&thread, NULL, echo, &pair), 0);
    for (uint64_t i = 10000; i-- > 0;) {
        cr_assert(queue_push(pair.there, item_of(i)));
        void *item;
        while ((item = queue_pop(pair.back)) == NULL)
            if (queue_prepare_sleep(pair.back)) {
                struct pollfd poll_fd = {.fd = queue_fd(pair.back), .events = POLLIN};
                cr_assert_eq(poll(&poll_fd, 1, 20000), 1, "lost wake-up");
                queue_awake(pair.back);
            }
        cr_assert_eq(item, item_of(i));
    }
    void *stuck;
    pthread_join(thread, &stuck);
    cr_assert_null(stuck);
    queue_destroy(pair.there);
    queue_destroy(pair.back);
}

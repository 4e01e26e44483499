/* Many links in one fabric, and what they cost when they are quiet. */
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "tests/unit/rdma/peer.h"

static double cpu_seconds(void)
{
    struct rusage usage;
    (void)getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           1e-6 * (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

static void answer(struct peer *self, const struct fabric_event *event)
{
    (void)self;
    struct slice part = {event->data, event->size};
    cr_assert_eq(fabric_send(event->link, &part, 1, NULL, 0, 0), SLUICE_OK);
}

static struct fabric_link **connect_many(struct peer *left, struct peer *right, const char *scheme, unsigned count)
{
    struct fabric_options client = peer_options(FABRIC_ROLE_CLIENT), node = peer_options(FABRIC_ROLE_NODE);
    client.ring_bytes = node.ring_bytes = 16u << 10;
    client.connect_timeout_ms = node.connect_timeout_ms = 20000;
    client.spin_ns = node.spin_ns = UINT32_MAX;
    struct rlimit limit;
    cr_assert_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = limit.rlim_max;
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
    peer_create(left, &client);
    peer_create(right, &node);
    const char *address = peer_listen(right, scheme);
    struct fabric_link **links = calloc(count, sizeof(*links));
    for (unsigned i = 0; i < count; i++)
        cr_assert_eq(fabric_connect(left->fabric, address, NULL, &links[i]), SLUICE_OK);
    POLL_UNTIL(left, right, left->ups == count && right->ups == count);
    return links;
}

OVER_BOTH(many, two_thousand_links_in_one_fabric_all_work)
{
    struct peer left = {0}, right = {0};
    const unsigned count = 2000;
    struct fabric_link **links = connect_many(&left, &right, scheme, count);
    right.on_message = answer;
    for (unsigned round = 1; round <= 3; round++) {
        for (unsigned i = 0; i < count; i++) {
            struct slice part = {"moo", 3};
            cr_assert_eq(fabric_send(links[i], &part, 1, NULL, 0, 0), SLUICE_OK);
        }
        POLL_UNTIL(&left, &right, left.messages == round * count);
    }
    for (unsigned i = 0; i < count; i += 2)
        fabric_link_close(links[i]);
    POLL_UNTIL(&left, &right, right.downs == count / 2);
    for (unsigned i = 1; i < count; i += 2) {
        struct slice part = {"moo", 3};
        cr_assert_eq(fabric_send(links[i], &part, 1, NULL, 0, 0), SLUICE_OK);
    }
    POLL_UNTIL(&left, &right, left.messages == 3 * count + count / 2);
    free(links);
    peer_destroy(&left);
    peer_destroy(&right);
}

struct sleeper {
    struct peer *peer;
    uint64_t until;
};

static void *sleep_until(void *arg)
{
    struct sleeper *self = arg;
    while (clock_monotonic_ns() < self->until) {
        if (peer_poll(self->peer) == 0)
            fabric_wait(self->peer->fabric, 100 * NS_PER_MS);
    }
    return NULL;
}

OVER_BOTH(many, a_hundred_idle_links_use_no_measurable_time)
{
    struct peer left = {0}, right = {0};
    free(connect_many(&left, &right, scheme, 100));
    while (peers_step(&left, &right, NULL))
        continue;
    double before = cpu_seconds();
    struct sleeper sleepers[2] = {{&left, clock_monotonic_ns() + NS_PER_S}, {&right, clock_monotonic_ns() + NS_PER_S}};
    pthread_t thread;
    cr_assert_eq(pthread_create(&thread, NULL, sleep_until, &sleepers[1]), 0);
    (void)sleep_until(&sleepers[0]);
    cr_assert_eq(pthread_join(thread, NULL), 0);
    double used = cpu_seconds() - before;
    cr_log_info("%s: 100 idle links, both ends: %.3f%% of a core", scheme, 100 * used);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    cr_assert_lt(used, 0.004, "both ends of 100 idle links used %.2f%% of a core", 100 * used);
#endif
    peer_destroy(&left);
    peer_destroy(&right);
}

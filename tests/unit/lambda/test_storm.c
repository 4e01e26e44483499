/* Several lambdas on several shards, callbacks and writes that fail at random, feeds that stop and start again at the
 * cursor: each effect of each event is applied exactly once, and in order for each key. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/random.h"
#include "fake.h"

#define LAMBDAS 3
#define SHARDS  2
#define EVENTS  300
#define KEYS    5

static int put_two(const struct sluice_host *host, struct sluice_context *context, const struct sluice_event *event,
                   void *closure)
{
    const char *name = closure;
    char key[64], value[64];
    snprintf(value, sizeof(value), "%llu", (unsigned long long)event->object.revision);
    for (int i = 0; i < 2; i++) {
        snprintf(key, sizeof(key), "out/%s/%u/%s/%d", name, event->object.shard, event->object.key, i);
        if (host->put(context, key, value, strlen(value), NULL) != 0)
            return 1;
        /* Some fail between their effects, on their first tries. */
        if ((event->object.revision * 7 + event->attempt * 3 + event->object.shard) % 11 == 0)
            return 2;
    }
    return 0;
}

static void new_feed(struct lambda_host *host, struct fake *fake, struct lambda *lambda, uint32_t place,
                     struct lambda_feed **feed, uint64_t *next)
{
    *next = fake_cursor(fake, place) + 1;
    cr_assert_eq(lambda_feed_start(host, lambda, place, 1, *next, place, feed), SLUICE_OK);
}

Test(storm, every_effect_is_applied_once_and_in_order)
{
    uint64_t seed = random_os();
    fprintf(stderr, "seed %llu\n", (unsigned long long)seed);
    struct random random;
    random_seed(&random, seed);
    struct fake *fake = fake_create();
    fake->fail_per_million = 100000;
    fake->random = seed | 1;
    struct lambda_host_options options = fake_options(fake);
    options.queue_events_max = 32;
    options.cursor_ns = NS_PER_MS;
    options.retry_first_ns = NS_PER_MS / 2;
    struct lambda_host *host;
    char error[256];
    cr_assert_eq(lambda_host_create(&options, &host, error, sizeof(error)), SLUICE_OK, "%s", error);
    static const char *const names[LAMBDAS] = {"a", "b", "c"};
    struct fake_lambda lambdas[LAMBDAS];
    for (unsigned i = 0; i < LAMBDAS; i++)
        lambdas[i] =
            (struct fake_lambda){names[i], i + 1, SLUICE_PREFIX, "in/", put_two, (void *)(uintptr_t)names[i], false};
    fake_load(host, fake, lambdas, LAMBDAS);

    /* The fake counts cursors by shard alone, so each lambda has shards of its own. */
    struct lambda *loaded[LAMBDAS];
    struct lambda_feed *feeds[LAMBDAS][SHARDS];
    uint64_t next[LAMBDAS][SHARDS];
    for (unsigned i = 0; i < LAMBDAS; i++) {
        loaded[i] = fake_lambda(host, names[i]);
        for (unsigned k = 0; k < SHARDS; k++)
            new_feed(host, fake, loaded[i], 1 + i * SHARDS + k, &feeds[i][k], &next[i][k]);
    }
    unsigned restarts = 0;
    uint64_t until = clock_monotonic_ns() + 120 * NS_PER_S;
    for (bool all = false; !all;) {
        cr_assert_lt(clock_monotonic_ns(), until, "seed %llu: not done", (unsigned long long)seed);
        all = true;
        for (unsigned i = 0; i < LAMBDAS; i++) {
            for (unsigned k = 0; k < SHARDS; k++) {
                uint32_t place = 1 + i * SHARDS + k;
                all = all && fake_cursor(fake, place) >= EVENTS;
                for (unsigned burst = (unsigned)random_below(&random, 8); burst > 0 && next[i][k] <= EVENTS; burst--) {
                    char key[16];
                    snprintf(key, sizeof(key), "in/%llu", (unsigned long long)(next[i][k] * 2654435761u % KEYS));
                    if (!fake_offer(feeds[i][k], key, next[i][k], 0, "x"))
                        break;
                    lambda_feed_passed(feeds[i][k], next[i][k]++);
                }
                if (random_chance(&random, 10000)) {
                    lambda_feed_stop(feeds[i][k]);
                    new_feed(host, fake, loaded[i], place, &feeds[i][k], &next[i][k]);
                    restarts++;
                }
            }
        }
        usleep(200);
    }
    for (unsigned i = 0; i < LAMBDAS; i++) {
        for (unsigned k = 0; k < SHARDS; k++)
            lambda_feed_stop(feeds[i][k]);
        cr_assert_eq(fake_status(host, names[i], "parked"), 0);
        lambda_unref(loaded[i]);
    }
    lambda_host_destroy(host);
    fprintf(stderr, "%u restarts\n", restarts);
    cr_assert_eq(fake->write_count, (size_t)LAMBDAS * SHARDS * EVENTS * 2, "seed %llu", (unsigned long long)seed);
    /* First applications of each key rise. */
    for (size_t i = 0; i < fake->write_count; i++)
        for (size_t k = i; k-- > 0;)
            if (strcmp(fake->writes[k].key, fake->writes[i].key) == 0) {
                cr_assert_lt(atol(fake->writes[k].value), atol(fake->writes[i].value), "seed %llu: %s",
                             (unsigned long long)seed, fake->writes[i].key);
                break;
            }
    fake_destroy(fake);
}

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/lambda/lambda__.h"
#include "fake.h"

static struct lambda_host *host_with(struct fake *fake, const struct lambda_host_options *options,
                                     fake_callback callback, void *closure, struct lambda **lambda)
{
    struct lambda_host *host;
    char error[256];
    cr_assert_eq(lambda_host_create(options, &host, error, sizeof(error)), SLUICE_OK, "%s", error);
    const struct fake_lambda one = {"probe", 1, SLUICE_GLOB, "in/**", callback, closure, false};
    fake_load(host, fake, &one, 1);
    *lambda = fake_lambda(host, "probe");
    return host;
}

/* Puts as many objects as the value says, and sees that none is there before it returns. */
static int put_many(const struct sluice_host *host, struct sluice_context *context, const struct sluice_event *event,
                    void *closure)
{
    struct fake *fake = closure;
    size_t before = fake_write_count(fake);
    int count = atoi(event->object.value);
    for (int i = 0; i < count; i++) {
        char key[32], value[32];
        snprintf(key, sizeof(key), "out/%d", i);
        snprintf(value, sizeof(value), "%llu-%d", (unsigned long long)event->object.revision, i);
        if (host->put(context, key, value, strlen(value), "text/plain") != 0) {
            host->fail(context, "put %d was refused", i);
            return 1;
        }
        memset(value, 'x', sizeof(value)); /* it was copied */
        memset(key, 'x', sizeof(key));
    }
    if (host->remove(context, "/out/gone") != 0)
        return 1;
    usleep(2000);
    cr_assert_eq(fake_write_count(fake), before, "effects come after the run");
    return 0;
}

Test(effects, are_sent_in_order_after_the_run_with_their_identity)
{
    struct fake *fake = fake_create();
    struct lambda_host_options options = fake_options(fake);
    struct lambda *lambda;
    struct lambda_host *host = host_with(fake, &options, put_many, fake, &lambda);
    struct lambda_feed *feed;
    cr_assert_eq(lambda_feed_start(host, lambda, 3, 2, 7, 0, &feed), SLUICE_OK);
    cr_assert(fake_offer(feed, "in/a", 7, 5, "3"));
    lambda_feed_passed(feed, 7);
    EVENTUALLY(fake_cursor(fake, 3) == 7, "done");
    cr_assert_eq(fake_write_count(fake), 4u);
    for (unsigned i = 0; i < 4; i++) {
        struct fake_write write = fake_write_at(fake, i);
        char key[16], value[16];
        snprintf(key, sizeof(key), "out/%u", i);
        snprintf(value, sizeof(value), "7-%u", i);
        cr_assert_str_eq(write.key, i == 3 ? "out/gone" : key);
        cr_assert_str_eq(write.value, i == 3 ? "" : value);
        cr_assert_eq(write.remove, i == 3);
        cr_assert_eq(write.client, lambda__client("probe", 3, 2));
        cr_assert_eq(write.sequence, (UINT64_C(7) << 20 | 5 << 10 | i));
    }
    cr_assert_eq(fake_status(host, "probe", "effects"), 4);
    lambda_feed_stop(feed);
    lambda_unref(lambda);
    lambda_host_destroy(host);
    fake_destroy(fake);
}

Test(effects, the_identity_is_the_same_in_every_release)
{
    cr_assert_eq(lambda__client("motion", 1, 1), UINT64_C(0x867d59a7e4986958));
    cr_assert_eq(lambda__client("motion", 2, 1), UINT64_C(0xdefc000361233e54));
    cr_assert_eq(lambda__client("motion", 1, 2), UINT64_C(0x6431659534f9467c));
    cr_assert_neq(lambda__client("motion1", 1, 1), lambda__client("motion", 11, 1));
}

Test(effects, what_another_leader_repeats_is_applied_once)
{
    struct fake *fake = fake_create();
    struct lambda_host_options options = fake_options(fake);
    struct lambda *lambda;
    struct lambda_host *host = host_with(fake, &options, put_many, fake, &lambda);
    struct lambda_feed *feed;
    cr_assert_eq(lambda_feed_start(host, lambda, 3, 1, 1, 0, &feed), SLUICE_OK);
    /* The third answer is lost, though applied, and then nobody can be reached. */
    fake->write_applies = true;
    fake->failure = SLUICE_OUTCOME_UNKNOWN;
    cr_assert(fake_offer(feed, "in/a", 1, 0, "0"));
    EVENTUALLY(fake_write_count(fake) == 1, "the first is through");
    atomic_store(&fake->unavailable, 1000000);
    cr_assert(fake_offer(feed, "in/a", 2, 0, "4"));
    EVENTUALLY(fake_write_count(fake) == 2, "one more");
    lambda_feed_stop(feed);
    lambda_unref(lambda);
    lambda_host_destroy(host);
    cr_assert_eq(fake_write_count(fake), 2u, "the others wait behind it");

    atomic_store(&fake->unavailable, 0);
    host = host_with(fake, &options, put_many, fake, &lambda);
    cr_assert_eq(lambda_feed_start(host, lambda, 3, 1, 1, 0, &feed), SLUICE_OK);
    cr_assert(fake_offer(feed, "in/a", 1, 0, "0"));
    cr_assert(fake_offer(feed, "in/a", 2, 0, "4"));
    lambda_feed_passed(feed, 2);
    EVENTUALLY(fake_cursor(fake, 3) == 2, "done");
    cr_assert_eq(fake_write_count(fake), 6u, "each once: 1 of the first, 5 of the second");
    cr_assert_geq(fake_write_at(fake, 0).times, 2u);
    cr_assert_geq(fake_write_at(fake, 1).times, 2u);
    lambda_feed_stop(feed);
    lambda_unref(lambda);
    lambda_host_destroy(host);
    fake_destroy(fake);
}

Test(effects, a_target_that_is_away_gets_them_later_in_order)
{
    struct fake *fake = fake_create();
    struct lambda_host_options options = fake_options(fake);
    struct lambda *lambda;
    struct lambda_host *host = host_with(fake, &options, put_many, fake, &lambda);
    struct lambda_feed *feed;
    cr_assert_eq(lambda_feed_start(host, lambda, 3, 1, 1, 0, &feed), SLUICE_OK);
    static const enum sluice_status passing[] = {SLUICE_UNAVAILABLE, SLUICE_BUSY, SLUICE_DEADLINE, SLUICE_NOT_LEADER,
                                                 SLUICE_STORAGE_FULL};
    for (unsigned i = 0; i < sizeof(passing) / sizeof(passing[0]); i++) {
        fake->failure = passing[i];
        atomic_store(&fake->unavailable, 2);
        cr_assert(fake_offer(feed, "in/a", i + 1, 0, "2"));
        lambda_feed_passed(feed, i + 1);
        EVENTUALLY(fake_write_count(fake) == 3 * (i + 1), "%s passes", sluice_status_code(passing[i]));
    }
    for (size_t i = 1; i < fake_write_count(fake); i++)
        cr_assert_gt(fake_write_at(fake, i).sequence, fake_write_at(fake, i - 1).sequence);
    cr_assert_eq(fake_status(host, "probe", "refused"), 0);
    cr_assert_eq(fake_status(host, "probe", "runs"), 5, "the callbacks ran once each");
    lambda_feed_stop(feed);
    lambda_unref(lambda);
    lambda_host_destroy(host);
    fake_destroy(fake);
}

Test(effects, one_that_is_refused_is_reported_and_the_others_go_on)
{
    struct fake *fake = fake_create();
    struct lambda_host_options options = fake_options(fake);
    struct lambda *lambda;
    struct lambda_host *host = host_with(fake, &options, put_many, fake, &lambda);
    struct lambda_feed *feed;
    cr_assert_eq(lambda_feed_start(host, lambda, 3, 1, 1, 0, &feed), SLUICE_OK);
    strcpy(fake->refused_key, "out/1");
    fake->refused_status = SLUICE_TOO_LARGE;
    cr_assert(fake_offer(feed, "in/a", 1, 0, "3"));
    lambda_feed_passed(feed, 1);
    EVENTUALLY(fake_cursor(fake, 3) == 1, "done");
    cr_assert_eq(fake_write_count(fake), 3u);
    cr_assert_eq(fake_write_at(fake, 1).sequence, UINT64_C(1) << 20 | 2, "numbers stay with their effects");
    cr_assert_eq(fake_status(host, "probe", "refused"), 1);
    cr_assert_eq(fake_status(host, "probe", "failures"), 0);
    lambda_feed_stop(feed);
    lambda_unref(lambda);
    lambda_host_destroy(host);
    fake_destroy(fake);
}

Test(effects, a_run_has_at_most_1024)
{
    struct fake *fake = fake_create();
    struct lambda_host_options options = fake_options(fake);
    struct lambda *lambda;
    struct lambda_host *host = host_with(fake, &options, put_many, fake, &lambda);
    struct lambda_feed *feed;
    cr_assert_eq(lambda_feed_start(host, lambda, 3, 1, 1, 0, &feed), SLUICE_OK);
    cr_assert(fake_offer(feed, "in/a", 1, 0, "1023"));
    EVENTUALLY(fake_write_count(fake) == 1024, "1,023 puts and a remove");
    cr_assert(fake_offer(feed, "in/a", 2, 0, "1025"));
    EVENTUALLY(fake_status(host, "probe", "parked") == 1, "too many");
    cr_assert(fake_status_says(host, "probe", "put 1024 was refused"));
    cr_assert_eq(fake_write_count(fake), 1024u);
    lambda_feed_stop(feed);
    lambda_unref(lambda);
    lambda_host_destroy(host);
    fake_destroy(fake);
}

Test(effects, the_watermark_is_a_cursor_that_has_been_durable_for_a_while)
{
    struct fake *fake = fake_create();
    struct lambda_host_options options = fake_options(fake);
    options.watermark_ns = 3000 * NS_PER_MS;
    struct lambda *lambda;
    struct lambda_host *host = host_with(fake, &options, put_many, fake, &lambda);
    struct lambda_feed *feed;
    cr_assert_eq(lambda_feed_start(host, lambda, 3, 1, 101, 0, &feed), SLUICE_OK);
    uint64_t start = clock_monotonic_ns(), revision = 101;
    for (; clock_monotonic_ns() - start < 3300 * NS_PER_MS; revision++) {
        cr_assert(fake_offer(feed, "in/a", revision, 0, "0"));
        lambda_feed_passed(feed, revision);
        usleep(20 * 1000);
    }
    EVENTUALLY(fake_write_count(fake) == revision - 101, "handled");
    cr_assert_eq(fake_write_at(fake, 0).watermark, 0u, "a fresh leader can't know");
    struct fake_write last = fake_write_at(fake, fake_write_count(fake) - 1);
    cr_assert_eq(last.watermark, UINT64_C(101) << 20, "what was durable when it began: up to 100");
    for (size_t i = 0; i < fake_write_count(fake); i++) {
        struct fake_write each = fake_write_at(fake, i);
        cr_assert(each.watermark == 0 || each.ns >= start + 3000 * NS_PER_MS);
    }
    lambda_feed_stop(feed);
    lambda_unref(lambda);
    lambda_host_destroy(host);
    fake_destroy(fake);
}

Test(effects, are_not_sent_while_the_reactor_does_not_say_that_it_leads)
{
    struct fake *fake = fake_create();
    struct lambda_host_options options = fake_options(fake);
    struct lambda *lambda;
    struct lambda_host *host = host_with(fake, &options, put_many, fake, &lambda);
    struct lambda_feed *feed;
    cr_assert_eq(lambda_feed_start(host, lambda, 3, 1, 1, 0, &feed), SLUICE_OK);
    lambda_host_alive(host);
    cr_assert(fake_offer(feed, "in/a", 1, 0, "0"));
    EVENTUALLY(fake_write_count(fake) == 1, "it was said just now");
    usleep(1100 * 1000);
    unsigned changes = atomic_load(&fake->changes);
    cr_assert(fake_offer(feed, "in/a", 2, 0, "0"));
    EVENTUALLY(atomic_load(&fake->changes) > changes, "the reactor is asked for a round");
    usleep(50 * 1000);
    cr_assert_eq(fake_write_count(fake), 1u);
    lambda_host_alive(host);
    EVENTUALLY(fake_write_count(fake) == 2, "then it is sent");
    lambda_feed_stop(feed);
    lambda_unref(lambda);
    lambda_host_destroy(host);
    fake_destroy(fake);
}

static int trigger_one(const struct sluice_host *host, struct sluice_context *context, const struct sluice_event *event,
                       void *closure)
{
    (void)event;
    (void)closure;
    return host->trigger(context, "calls/a", "x", 1, NULL) | host->put(context, "out/b", "y", 1, NULL);
}

Test(effects, a_trigger_is_sent_at_most_once)
{
    struct fake *fake = fake_create();
    struct lambda_host_options options = fake_options(fake);
    struct lambda *lambda;
    struct lambda_host *host = host_with(fake, &options, trigger_one, NULL, &lambda);
    struct lambda_feed *feed;
    cr_assert_eq(lambda_feed_start(host, lambda, 3, 1, 1, 0, &feed), SLUICE_OK);
    atomic_store(&fake->unavailable, 1);
    cr_assert(fake_offer(feed, "in/a", 1, 0, "x"));
    cr_assert(fake_offer(feed, "in/a", 2, 0, "x"));
    EVENTUALLY(fake_write_count(fake) == 3, "the put of the first, both of the second");
    cr_assert_str_eq(fake_write_at(fake, 0).key, "out/b");
    cr_assert(fake_write_at(fake, 1).trigger);
    cr_assert_eq(fake_status(host, "probe", "refused"), 1);
    lambda_feed_stop(feed);
    lambda_unref(lambda);
    lambda_host_destroy(host);
    fake_destroy(fake);
}

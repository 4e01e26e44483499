#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fake.h"

static struct lambda_host *host_of(struct fake *fake, bool allow)
{
    struct lambda_host_options options = fake_options(fake);
    options.allow_inprocess = allow;
    struct lambda_host *host;
    char error[256];
    cr_assert_eq(lambda_host_create(&options, &host, error, sizeof(error)), SLUICE_OK, "%s", error);
    return host;
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

static void apply(struct lambda_host *host, struct fake *fake, const struct fake_lambda *lambdas, size_t count)
{
    struct map *map = fake_map(fake, lambdas, count);
    cr_assert_eq(lambda_host_apply_map(host, map), SLUICE_OK);
    fake_map_free(map);
}

Test(loading, an_upgrade_takes_over_when_it_is_active)
{
    struct fake *fake = fake_create();
    struct lambda_host *host = host_of(fake, true);
    atomic_uint old_runs = 0, new_runs = 0;
    struct fake_lambda one = {"probe", 1, SLUICE_GLOB, "in/*", count_run, &old_runs, false};
    fake_load(host, fake, &one, 1);
    struct lambda *first = fake_lambda(host, "probe");
    struct lambda_feed *feed;
    cr_assert_eq(lambda_feed_start(host, first, 1, 1, 1, 0, &feed), SLUICE_OK);
    cr_assert(fake_offer(feed, "in/a", 1, 0, "x"));
    lambda_feed_passed(feed, 1);
    EVENTUALLY(fake_cursor(fake, 1) == 1, "handled by version 1");

    unsigned changes = atomic_load(&fake->changes);
    one = (struct fake_lambda){"probe", 2, SLUICE_KEY, "in/b", count_run, &new_runs, false};
    fake_load(host, fake, &one, 1);
    EVENTUALLY(atomic_load(&fake->changes) > changes, "the node is told");
    cr_assert_not(lambda_active(first));
    struct lambda *second = fake_lambda(host, "probe");
    cr_assert(lambda_match(second, "in/b", 4) && !lambda_match(second, "in/a", 4));
    lambda_feed_stop(feed);
    cr_assert_eq(lambda_feed_start(host, second, 1, 1, 2, 0, &feed), SLUICE_OK);
    lambda_unref(first);
    cr_assert(fake_offer(feed, "in/b", 2, 0, "x"));
    EVENTUALLY(atomic_load(&new_runs) == 1, "handled by version 2");
    cr_assert_eq(atomic_load(&old_runs), 1u);
    cr_assert_eq(fake_status(host, "probe", "version"), 2);
    lambda_feed_stop(feed);
    lambda_unref(second);
    lambda_host_destroy(host);
    fake_destroy(fake);
}

Test(loading, a_lambda_that_is_removed_while_events_are_queued_goes_in_peace)
{
    struct fake *fake = fake_create();
    struct lambda_host *host = host_of(fake, true);
    atomic_uint runs = 0;
    for (int round = 0; round < 20; round++) {
        const struct fake_lambda one = {"probe", 1, SLUICE_GLOB, "in/*", count_run, &runs, false};
        fake_load(host, fake, &one, 1);
        struct lambda *lambda = fake_lambda(host, "probe");
        struct lambda_feed *feed;
        cr_assert_eq(lambda_feed_start(host, lambda, 1, 1, 1, 0, &feed), SLUICE_OK);
        for (unsigned i = 1; i <= 200; i++) {
            char key[16];
            snprintf(key, sizeof(key), "in/%u", i % 7);
            cr_assert(fake_offer(feed, key, i, 0, "x"));
        }
        apply(host, fake, NULL, 0);
        cr_assert_not(lambda_active(lambda));
        lambda_feed_stop(feed);
        lambda_unref(lambda);
        cr_assert(!fake_status_says(host, NULL, "probe"), "it is not listed any more");
    }
    cr_assert_null(fake_lambda(host, "probe"));
    lambda_host_destroy(host);
    fake_destroy(fake);
}

Test(loading, disabled_it_rests_and_enabled_it_starts_afresh)
{
    struct fake *fake = fake_create();
    struct lambda_host *host = host_of(fake, true);
    atomic_uint runs = 0;
    struct fake_lambda one = {"probe", 1, SLUICE_GLOB, "in/*", count_run, &runs, false};
    for (int round = 0; round < 5; round++) {
        one.disabled = false;
        fake_load(host, fake, &one, 1); /* the fixture refuses an instance that remembers the last round */
        cr_assert(fake_status_says(host, "probe", "\"state\":\"active\""));
        one.disabled = true;
        apply(host, fake, &one, 1);
        cr_assert_null(fake_lambda(host, "probe"));
        cr_assert(fake_status_says(host, "probe", "\"state\":\"disabled\""));
    }
    lambda_host_destroy(host);
    fake_destroy(fake);
}

Test(loading, the_same_version_waits_until_its_former_instance_is_gone)
{
    struct fake *fake = fake_create();
    struct lambda_host *host = host_of(fake, true);
    atomic_uint runs = 0;
    struct fake_lambda one = {"probe", 1, SLUICE_GLOB, "in/*", count_run, &runs, false};
    fake_load(host, fake, &one, 1);
    struct lambda *held = fake_lambda(host, "probe");
    one.disabled = true;
    apply(host, fake, &one, 1);
    one.disabled = false;
    apply(host, fake, &one, 1);
    EVENTUALLY(fake_status_says(host, "probe", "former instance"), "it says what it waits for");
    lambda_unref(held);
    EVENTUALLY(fake_status_says(host, "probe", "\"state\":\"active\",\"error\":null"), "%s",
               lambda_host_status(host, "probe"));
    lambda_host_destroy(host);
    fake_destroy(fake);
}

Test(loading, a_file_that_is_not_there_yet_is_waited_for)
{
    struct fake *fake = fake_create();
    struct lambda_host *host = host_of(fake, true);
    atomic_uint runs = 0;
    const struct fake_lambda one = {"probe", 1, SLUICE_GLOB, "in/*", count_run, &runs, false};
    struct map *map = fake_map(fake, &one, 1);
    fake->files[1][0] = '\0';
    cr_assert_eq(lambda_host_apply_map(host, map), SLUICE_OK);
    EVENTUALLY(fake_status_says(host, "probe", "\"state\":\"loading\",\"error\":\"its file can't be read yet"), "%s",
               lambda_host_status(host, "probe"));
    snprintf(fake->files[1], sizeof(fake->files[1]), "%s", fixture("call_back"));
    EVENTUALLY(fake_status_says(host, "probe", "\"state\":\"active\""), "then it is loaded");
    fake_map_free(map);
    lambda_host_destroy(host);
    fake_destroy(fake);
}

/* --- What can't be loaded -------------------------------------------------------------------------------------------
 */

static void fails_with(const char *file, void (*change)(struct map_lambda *), bool allow, const char *words)
{
    struct fake *fake = fake_create();
    struct lambda_host *host = host_of(fake, allow);
    atomic_uint runs = 0;
    snprintf(fake->files[1], sizeof(fake->files[1]), "%s", file);
    const struct fake_lambda one = {"probe", 1, SLUICE_GLOB, "in/*", count_run, &runs, false};
    struct map *map = fake_map(fake, &one, 1);
    if (change != NULL)
        change(&map->lambdas[0]);
    cr_assert_eq(lambda_host_apply_map(host, map), SLUICE_OK);
    EVENTUALLY(fake_status_says(host, "probe", "\"state\":\"failed\""), "%s", lambda_host_status(host, "probe"));
    cr_assert(fake_status_says(host, "probe", words), "%s", lambda_host_status(host, "probe"));
    cr_assert_null(fake_lambda(host, "probe"));
    fake_map_free(map);
    lambda_host_destroy(host);
    fake_destroy(fake); /* sees that no file is left behind */
}

static void other_watch(struct map_lambda *lambda)
{
    free(lambda->watches[0].pattern);
    lambda->watches[0].pattern = strdup("elsewhere/*");
}
static void other_sum(struct map_lambda *lambda)
{
    lambda->sha256[5] = lambda->sha256[5] == '0' ? '1' : '0';
}
static void other_config(struct map_lambda *lambda)
{
    free(lambda->config);
    lambda->config = strdup("{}");
}

Test(loading, other_watches_than_those_in_the_map_are_refused)
{
    fails_with(fixture("call_back"), other_watch, true, "initialize registered other watches here");
}

Test(loading, a_damaged_file_is_refused)
{
    fails_with(fixture("call_back"), other_sum, true, "does not have the checksum of the upload");
}

Test(loading, initialize_may_refuse_in_its_own_words)
{
    fails_with(fixture("call_back"), other_config, true, "initialize refused: no address in {}");
}

Test(loading, a_node_that_does_not_allow_it_loads_nothing)
{
    fails_with(fixture("call_back"), NULL, false, "does not run lambdas in its process");
}

Test(loading, what_is_no_lambda_is_refused)
{
    fails_with(fixture("no_symbol"), NULL, true, "sluice_lambda_initialize");
}

Test(loading, a_failed_version_takes_the_former_one_out_of_service)
{
    struct fake *fake = fake_create();
    struct lambda_host *host = host_of(fake, true);
    atomic_uint runs = 0;
    struct fake_lambda one = {"probe", 1, SLUICE_GLOB, "in/*", count_run, &runs, false};
    fake_load(host, fake, &one, 1);
    struct lambda *first = fake_lambda(host, "probe");
    snprintf(fake->files[2], sizeof(fake->files[2]), "%s", fixture("no_symbol"));
    one.version = 2;
    apply(host, fake, &one, 1);
    EVENTUALLY(fake_status_says(host, "probe", "\"version\":2,\"state\":\"failed\""), "failed");
    cr_assert_not(lambda_active(first));
    lambda_unref(first);
    one.version = 3;
    fake_load(host, fake, &one, 1);
    cr_assert(fake_status_says(host, "probe", "\"version\":3,\"state\":\"active\",\"error\":null"));
    lambda_host_destroy(host);
    fake_destroy(fake);
}

Test(loading, a_directory_that_cannot_be_made_is_an_error_with_words)
{
    struct fake *fake = fake_create();
    struct lambda_host_options options = {.env = fake_env(fake), .directory = "/proc/nowhere/lambdas"};
    struct lambda_host *host;
    char error[256];
    cr_assert_eq(lambda_host_create(&options, &host, error, sizeof(error)), SLUICE_IO);
    cr_assert_not_null(strstr(error, "/proc/nowhere/lambdas can't be made"));
    fake_destroy(fake);
}

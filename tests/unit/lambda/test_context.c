#include <criterion/criterion.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fake.h"

struct seen {
    char text[2048];
    struct fake *fake;
    unsigned stop_after;
};

static void see(struct seen *seen, const char *format, ...)
{
    size_t used = strlen(seen->text);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(seen->text + used, sizeof(seen->text) - used, format, arguments);
    va_end(arguments);
}

static int visit(void *arg, const struct sluice_lambda_object *object)
{
    struct seen *seen = arg;
    see(seen, "%s@%llu=%.*s%s ", object->key, (unsigned long long)object->version,
        object->value ? (int)object->size : 0, object->value ? (const char *)object->value : "",
        object->deleted ? "(deleted)" : "");
    return seen->stop_after > 0 && --seen->stop_after == 0;
}

/* A call's name, its result, and the value that it gave. */
static void told(struct seen *seen, const char *call, int result, const struct sluice_lambda_object *object)
{
    see(seen, "%s %d", call, result);
    if (object != NULL)
        see(seen, "=%.*s", (int)object->size, (const char *)object->value);
    see(seen, " ");
}

static int read_everything(const struct sluice_host *host, struct sluice_context *context,
                           const struct sluice_event *event, void *closure)
{
    struct seen *seen = closure;
    struct sluice_lambda_object object, first;
    unsigned before = atomic_load(&seen->fake->reads);
    told(seen, "own", host->get(context, "/in/a", &object), NULL);
    cr_assert_eq(object.value, event->object.value, "the event's own value in place");
    told(seen, "version", host->get_version(context, "in/a", event->object.version, &object), NULL);
    cr_assert_eq(atomic_load(&seen->fake->reads), before, "without asking anybody");
    told(seen, "other", host->get(context, "x", &first), &first);
    told(seen, "before", host->get_version(context, "x", 1, &object), &object);
    told(seen, "later", host->get_version(context, "x", 3, &object), NULL);
    cr_assert_eq(object.version, 0u);
    told(seen, "zero", host->get_version(context, "x", 0, &object), NULL);
    told(seen, "at", host->get_at(context, "x", 15, &object), &object);
    told(seen, "future", host->get_at(context, "x", event->object.time_ns + 1, &object), NULL);
    told(seen, "none", host->get(context, "nothing", &object), NULL);
    told(seen, "deleted", host->get(context, "d", &object), NULL);
    cr_assert(object.deleted == 1 && object.version == 1);
    told(seen, "bad", host->get(context, "a//b", &object), NULL);
    told(seen, "bad", host->get(context, NULL, &object), NULL);
    told(seen, "internal", host->put(context, "_sluice/x", "x", 1, NULL), NULL);
    see(seen, "\n");
    see(seen, "list %d: ", host->list(context, "", visit, seen));
    seen->stop_after = 1;
    see(seen, "stop %d: ", host->list(context, "", visit, seen));
    see(seen, "\nhistory %d: ", host->history(context, "x", 10, 1, visit, seen));
    see(seen, "bare %d: ", host->history(context, "x", 1, 0, visit, seen));
    const char *keys[] = {"x", "nothing", "/d"};
    see(seen, "\nsnapshot %d: ", host->snapshot(context, keys, 3, visit, seen));
    const char *bad[] = {"x", "a//b"};
    see(seen, "bad %d\n", host->snapshot(context, bad, 2, visit, seen));
    /* What was read first is there still. */
    cr_assert(first.size == 2 && memcmp(first.value, "x2", 2) == 0 && strcmp(first.key, "x") == 0);
    cr_assert_eq(host->watch(host, SLUICE_KEY, "y", NULL, NULL), SLUICE_LAMBDA_INVALID, "only in initialize");
    return 0;
}

Test(context, reads_are_as_of_the_events_time_and_live_until_the_callback_returns)
{
    struct fake *fake = fake_create();
    struct seen seen = {.fake = fake};
    fake_object_add(fake, "d", 1, 5, NULL);
    fake_object_add(fake, "x", 1, 10, "x1");
    fake_object_add(fake, "x", 2, 20, "x2");
    fake_object_add(fake, "x", 3, 100, "x3");
    fake_object_add(fake, "y", 1, 20, "y1");
    struct lambda_host_options options = fake_options(fake);
    struct lambda_host *host;
    char error[256];
    cr_assert_eq(lambda_host_create(&options, &host, error, sizeof(error)), SLUICE_OK);
    const struct fake_lambda one = {"probe", 1, SLUICE_REGEX, "in/[a-z]", read_everything, &seen, false};
    fake_load(host, fake, &one, 1);
    struct lambda *lambda = fake_lambda(host, "probe");
    cr_assert(lambda_match(lambda, "in/a", 4));
    cr_assert_not(lambda_match(lambda, "in/ab", 5));
    struct lambda_feed *feed;
    cr_assert_eq(lambda_feed_start(host, lambda, 1, 1, 1, 0, &feed), SLUICE_OK);
    cr_assert(fake_offer(feed, "in/a", 5, 0, "mine")); /* at time 50 */
    lambda_feed_passed(feed, 5);
    EVENTUALLY(fake_cursor(fake, 1) == 5, "done");
    cr_assert_str_eq(seen.text,
                     "own 0 version 0 other 0=x2 before 0=x1 later -1 zero -1 at 0=x1 future -2 none -1 deleted -1 "
                     "bad -2 bad -2 internal -2 \n"
                     "x@2= y@1= list 0: x@2= stop 0: x@2=x2 x@1=x1 \nhistory 0: x@2= bare 0: "
                     "x@2=x2 nothing@0= d@1= \nsnapshot 0: bad -2\n",
                     "%s", seen.text);
    lambda_feed_stop(feed);
    lambda_unref(lambda);
    lambda_host_destroy(host);
    fake_destroy(fake); /* sees that everything was given back */
}

/* --- Log and counters -----------------------------------------------------------------------------------------------
 */

static int talk(const struct sluice_host *host, struct sluice_context *context, const struct sluice_event *event,
                void *closure)
{
    (void)closure;
    host->log(context, "line\tof\xff %llu", (unsigned long long)event->object.revision);
    host->counter(context, "frames", 2);
    host->counter(context, "balance", -5);
    host->counter(context, "", 1);
    char name[100];
    memset(name, 'n', sizeof(name));
    name[99] = '\0';
    host->counter(context, name, 1);
    return 0;
}

struct lines {
    atomic_uint count;
    uint64_t last;
    char text[64];
};

static void take_line(void *arg, uint64_t number, uint64_t time_ns, const char *line, size_t size)
{
    struct lines *lines = arg;
    cr_assert_gt(time_ns, 0u);
    cr_assert(lines->last == 0 || number == lines->last + 1, "no line is missed or repeated");
    lines->last = number;
    snprintf(lines->text, sizeof(lines->text), "%.*s", (int)size, line);
    atomic_fetch_add(&lines->count, 1);
}

Test(context, log_lines_are_kept_within_bounds_and_followed)
{
    struct fake *fake = fake_create();
    struct lambda_host_options options = fake_options(fake);
    struct lambda_host *host;
    char error[256];
    cr_assert_eq(lambda_host_create(&options, &host, error, sizeof(error)), SLUICE_OK);
    const struct fake_lambda one = {"probe", 1, SLUICE_PREFIX, "in/", talk, NULL, false};
    fake_load(host, fake, &one, 1);
    struct lambda *lambda = fake_lambda(host, "probe");
    struct lambda_feed *feed;
    cr_assert_eq(lambda_feed_start(host, lambda, 1, 1, 1, 0, &feed), SLUICE_OK);
    for (unsigned i = 1; i <= 400; i++)
        cr_assert(fake_offer(feed, "in/a", i, 0, "x"));
    EVENTUALLY(fake_status(host, "probe", "runs") == 400, "all ran");
    EVENTUALLY(fake_status(host, "probe", "queued") == 0, "all done");

    struct lines lines = {0};
    struct lambda_log_subscription *subscription;
    cr_assert_eq(lambda_host_log_subscribe(host, "nobody", take_line, &lines, &subscription), SLUICE_NOT_FOUND);
    cr_assert_eq(lambda_host_log_subscribe(host, "probe", take_line, &lines, &subscription), SLUICE_OK);
    cr_assert_eq(atomic_load(&lines.count), LAMBDA_LOG_LINES);
    cr_assert_str_eq(lines.text, "line of? 400");
    cr_assert(fake_offer(feed, "in/a", 401, 0, "x"));
    EVENTUALLY(atomic_load(&lines.count) == LAMBDA_LOG_LINES + 1, "followed");
    cr_assert_str_eq(lines.text, "line of? 401");
    lambda_log_unsubscribe(subscription);
    cr_assert(fake_offer(feed, "in/a", 402, 0, "x"));
    EVENTUALLY(fake_status_says(host, "probe", "\"counters\":{\"frames\":804,\"balance\":-2010}"), "%s",
               lambda_host_status(host, NULL));
    cr_assert_eq(atomic_load(&lines.count), LAMBDA_LOG_LINES + 1);
    lambda_feed_stop(feed);
    lambda_unref(lambda);
    lambda_host_destroy(host);
    fake_destroy(fake);
}

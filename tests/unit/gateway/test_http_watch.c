/* Server-sent events: nothing missed, nothing repeated, a slow client costs itself alone. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "tests/unit/gateway/http_client.h"

static struct server server;

static void setup(void)
{
    server_start(&server, NULL);
}

static void teardown(void)
{
    server_stop(&server);
}

TestSuite(http_watch, .init = setup, .fini = teardown);

static struct http_stream watch(const char *target, const char *headers)
{
    struct http_stream stream;
    http_stream_open(&server, target, headers, &stream);
    cr_expect_not_null(strstr(stream.head, "Content-Type: text/event-stream"));
    http_stream_expect(&stream, "retry: 1000\n\n", __LINE__);
    return stream;
}

#define EXPECT_EVENT(stream, text) http_stream_expect(stream, text, __LINE__)

static void wait_for(unsigned (*count)(void), unsigned expected)
{
    for (int i = 0; i < 1000 && count() != expected; i++)
        usleep(5000);
    cr_expect_eq(count(), expected);
}

Test(http_watch, changes_come_with_a_cursor)
{
    struct http_stream fd = watch("/v1/watch?prefix=farm/", NULL);
    fake_put("barn/a", "x", 1);
    fake_put("farm/a", "x", 1);
    char *text = http_stream_until(&fd, "\"key\":\"farm/a\"", 5000);
    cr_assert_not_null(text);
    cr_expect(strstr(text, "event: put\nid: r2\ndata: {") != NULL && strstr(text, "barn") == NULL, "%s", text);
    cr_expect_null(strstr(text, "\"data\":"));
    free(text);
    EXPECT(&server, 200, "DELETE", "/v1/objects/farm/a", NULL, NULL);
    EXPECT_EVENT(&fd, "event: delete\nid: r3\n");
    http_stream_close(&fd);
}

Test(http_watch, values_come_where_they_are_asked_for)
{
    struct http_stream fd = watch("/v1/watch?key=farm/a&data=true", NULL);
    fake_put("farm/a", "hello", 5);
    EXPECT_EVENT(&fd, "\"data\":\"aGVsbG8=\"}\n\n");
    http_stream_close(&fd);
}

Test(http_watch, globs_and_regular_expressions_choose)
{
    struct http_stream glob = watch("/v1/watch?glob=farm/*/cow", NULL),
                       regex = watch("/v1/watch?regex=farm/%5Ba-c%5D%2B/cow", NULL);
    fake_put("farm/d/e/cow", "", 0);
    fake_put("farm/abc/cow", "", 0);
    EXPECT_EVENT(&glob, "id: r2\n");
    EXPECT_EVENT(&regex, "id: r2\n");
    http_stream_close(&glob);
    http_stream_close(&regex);
}

Test(http_watch, a_stream_begins_with_the_cursor_that_it_could_be_resumed_from)
{
    fake_put("a", "", 0);
    struct http_stream fd = watch("/v1/watch?prefix=", NULL);
    EXPECT_EVENT(&fd, "event: progress\nid: r1\ndata: {\"closed_ns\":\"");
    http_stream_close(&fd);
}

Test(http_watch, it_resumes_from_a_cursor_in_the_query_or_the_header)
{
    fake_put("a", "", 0);
    fake_put("b", "", 0);
    fake_put("c", "", 0);
    static const struct {
        const char *target, *headers;
    } requests[] = {{"/v1/watch?prefix=&from=r1", NULL}, {"/v1/watch?prefix=&from=r0", "Last-Event-ID: r1\r\n"}};
    for (size_t i = 0; i < 2; i++) {
        struct http_stream fd = watch(requests[i].target, requests[i].headers);
        char *text = http_stream_until(&fd, "\"key\":\"c\"", 5000);
        cr_assert_not_null(text);
        cr_expect(strstr(text, "\"key\":\"b\"") != NULL && strstr(text, "\"key\":\"a\"") == NULL, "%s", text);
        free(text);
        http_stream_close(&fd);
    }
}

Test(http_watch, progress_comes_every_second)
{
    struct http_stream fd = watch("/v1/watch?prefix=", NULL);
    uint64_t before = clock_monotonic_ns();
    EXPECT_EVENT(&fd, "event: progress");
    EXPECT_EVENT(&fd, "event: progress");
    cr_expect_lt(clock_monotonic_ns() - before, 4 * NS_PER_S);
    http_stream_close(&fd);
}

Test(http_watch, a_cursor_that_is_too_old_is_410_before_the_stream_begins)
{
    for (int i = 0; i < 5; i++)
        fake_put("a", "", 0);
    fake_forget(4);
    struct answer answer;
    http_call(&server, "GET", "/v1/watch?prefix=&from=r2", NULL, NULL, 0, &answer);
    cr_expect(answer.status == 410 && answer_has(&answer, "\"code\":\"gone\""), "%d", answer.status);
    answer_free(&answer);
    struct http_stream fd = watch("/v1/watch?prefix=&from=r4", NULL);
    http_stream_close(&fd);
}

Test(http_watch, a_watch_that_ends_before_it_began_is_a_problem_and_after_that_an_event)
{
    struct http_stream shared = watch("/v1/watch?prefix=", NULL), own = watch("/v1/watch?prefix=&from=r0", NULL);
    fake_end_watches(SLUICE_EPOCH_LOST);
    EXPECT_EVENT(&shared, "event: error\ndata: {\"type\":\"about:blank\"");
    EXPECT_EVENT(&shared, "\"code\":\"epoch_lost\"");
    cr_expect(http_stream_ends(&shared));
    EXPECT_EVENT(&own, "\"code\":\"epoch_lost\"");
    cr_expect(http_stream_ends(&own));
    http_stream_close(&shared);
    http_stream_close(&own);
    wait_for(fake_watch_count, 0);
    fake_mute_watches(true);
    int fd = http_connect(&server);
    http_send_text(fd, "GET /v1/watch?prefix=x HTTP/1.1\r\nHost: localhost\r\n\r\n");
    wait_for(fake_watch_count, 1);
    fake_end_watches(SLUICE_GONE);
    fake_mute_watches(false);
    struct answer answer;
    http_read(fd, false, &answer);
    cr_expect_eq(answer.status, 410);
    answer_free(&answer);
    close(fd);
}

Test(http_watch, clients_of_one_pattern_share_one_watch_at_the_store)
{
    enum { CLIENTS = 50 };
    struct http_stream fds[CLIENTS];
    for (int i = 0; i < CLIENTS; i++)
        fds[i] = watch("/v1/watch?prefix=farm/", NULL);
    cr_expect_eq(fake_watch_count(), 1);
    struct http_stream other = watch("/v1/watch?prefix=farm/&data=true", NULL);
    cr_expect_eq(fake_watch_count(), 2);
    fake_put("farm/x", "x", 1);
    for (int i = 0; i < CLIENTS; i++)
        EXPECT_EVENT(&fds[i], "\"key\":\"farm/x\"");
    for (int i = 0; i < CLIENTS; i++)
        http_stream_close(&fds[i]);
    wait_for(fake_watch_count, 1);
    http_stream_close(&other);
    wait_for(fake_watch_count, 0);
}

Test(http_watch, a_client_that_leaves_is_noticed_while_nothing_happens)
{
    struct http_stream fd = watch("/v1/watch?prefix=&from=r0", NULL);
    cr_expect_eq(fake_watch_count(), 1);
    http_stream_close(&fd);
    uint64_t before = clock_monotonic_ns();
    wait_for(fake_watch_count, 0);
    cr_expect_lt(clock_monotonic_ns() - before, 3 * NS_PER_S);
}

Test(http_watch, a_client_that_closes_its_sending_side_is_still_served)
{
    struct http_stream fd = watch("/v1/watch?prefix=", NULL);
    shutdown(fd.fd, SHUT_WR);
    usleep(50000);
    fake_put("a", "", 0);
    EXPECT_EVENT(&fd, "\"key\":\"a\"");
    http_stream_close(&fd);
}

/* Counts the events of a stream until `last` was seen, and checks that their cursors rise by one. */
static unsigned count_events(struct http_stream *stream, const char *last, bool *in_order)
{
    static const char mark[] = "event: put\nid: r";
    char *text = http_stream_until(stream, last, 20000);
    unsigned count = 0;
    unsigned long long before = 0, cursor;
    *in_order = text != NULL;
    for (const char *at = text; at != NULL && (at = strstr(at, mark)) != NULL; count++) {
        at += sizeof(mark) - 1;
        cursor = strtoull(at, NULL, 10);
        *in_order = *in_order && (before == 0 || cursor == before + 1);
        before = cursor;
    }
    free(text);
    return count;
}

Test(http_watch, a_client_that_falls_behind_its_hub_misses_nothing_and_repeats_nothing)
{
    enum { EVENTS = 400 };
    static char value[20000];
    struct http_stream slow = watch("/v1/watch?prefix=&data=true", NULL),
                       quick = watch("/v1/watch?prefix=&data=true", NULL);
    bool in_order;
    memset(value, 'x', sizeof(value));
    for (int i = 0; i < EVENTS - 1; i++)
        fake_put("a", value, sizeof(value));
    fake_put("last", "x", 1);
    cr_expect_eq(count_events(&quick, "\"key\":\"last\"", &in_order), EVENTS);
    cr_expect(in_order);
    cr_expect_eq(count_events(&slow, "\"key\":\"last\"", &in_order), EVENTS);
    cr_expect(in_order, "it was served from its cursor on a watch of its own");
    http_stream_close(&slow);
    http_stream_close(&quick);
}

Test(http_watch, a_client_with_a_cursor_that_does_not_read_pauses_its_watch)
{
    enum { EVENTS = 600 };
    static char value[20000];
    bool in_order;
    memset(value, 'x', sizeof(value));
    struct http_stream fd = watch("/v1/watch?prefix=&data=true&from=r0", NULL);
    for (int i = 0; i < EVENTS - 1; i++)
        fake_put("a", value, sizeof(value));
    fake_put("last", "x", 1);
    wait_for(fake_paused_count, 1);
    EXPECT(&server, 200, "GET", "/healthz", NULL, NULL);
    cr_expect_eq(count_events(&fd, "\"key\":\"last\"", &in_order), EVENTS);
    cr_expect(in_order);
    cr_expect_eq(fake_paused_count(), 0);
    http_stream_close(&fd);
}

Test(http_watch, a_large_value_is_left_out_and_its_place_named)
{
    static char value[(1 << 20) + 1];
    struct http_stream fd = watch("/v1/watch?prefix=&data=true", NULL);
    fake_put("big one", value, sizeof(value));
    EXPECT_EVENT(&fd, "\"truncated\":true,\"url\":\"/v1/objects/big%20one?version=1\"}");
    fake_put("largest", value, sizeof(value) - 1);
    EXPECT_EVENT(&fd, "\"key\":\"largest\"");
    EXPECT_EVENT(&fd, "AA==\"}\n\n");
    http_stream_close(&fd);
}

Test(http_watch, internal_objects_are_seen_by_those_who_name_them)
{
    struct http_stream fd = watch("/v1/watch?prefix=", NULL), internal = watch("/v1/watch?prefix=_sluice/", NULL);
    fake_put("_sluice/map", "", 0);
    fake_put("a", "", 0);
    char *text = http_stream_until(&fd, "\"key\":\"a\"", 5000);
    cr_expect(text != NULL && strstr(text, "_sluice/map") == NULL, "%s", text);
    free(text);
    EXPECT_EVENT(&internal, "_sluice/map");
    http_stream_close(&fd);
    http_stream_close(&internal);
}

Test(http_watch, a_lambdas_log_is_lines)
{
    struct http_stream fd = watch("/v1/lambdas/shapes/log", NULL);
    EXPECT_EVENT(&fd, "event: log\ndata: a line of the lambda\n\n");
    http_stream_close(&fd);
    EXPECT(&server, 404, "GET", "/v1/lambdas/missing/log", NULL, NULL);
}

Test(http_watch, streams_end_when_the_gateway_stops)
{
    struct http_stream fd = watch("/v1/watch?prefix=", NULL);
    gateway_stop(server.gateway);
    cr_expect(http_stream_ends(&fd));
    http_stream_close(&fd);
}

Test(http_watch, many_idle_clients_get_each_event)
{
    enum { CLIENTS = 500 };
    static struct http_stream fds[CLIENTS];
    for (int i = 0; i < CLIENTS; i++)
        fds[i] = watch("/v1/watch?prefix=", NULL);
    fake_put("news", "", 0);
    for (int i = 0; i < CLIENTS; i++)
        EXPECT_EVENT(&fds[i], "\"key\":\"news\"");
    for (int i = 0; i < CLIENTS; i++)
        http_stream_close(&fds[i]);
    wait_for(fake_watch_count, 0);
}

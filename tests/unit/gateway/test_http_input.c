/* Input that is wrong costs its sender an error that says what to do, and nobody else anything. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/random.h"
#include "tests/unit/gateway/http_client.h"

static struct server server;

static void setup(void)
{
    struct gateway_options options = {.value_bytes_max = 100000};
    server_start(&server, &options);
}

static void teardown(void)
{
    EXPECT(&server, 200, "GET", "/healthz", NULL, NULL);
    server_stop(&server);
}

TestSuite(http_input, .init = setup, .fini = teardown);

Test(http_input, malformed_keys)
{
    const char *const bad[] = {"",       "/",        "a/",    "a//b",      ".",      "..",   "a/./b",
                               "a/../b", "%2e%2e/x", "a%00b", "a%",        "a%2",    "a%zz", "a%0Ab",
                               "a%7F",   "%FF",      "%C3",   "%ED%A0%80", "a/%2Fb", "//a",  "a%2F"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        char target[128];
        snprintf(target, sizeof(target), "/v1/objects/%s", bad[i]);
        EXPECT(&server, 400, "GET", target, NULL, NULL);
        EXPECT(&server, 400, "PUT", target, NULL, "x");
        snprintf(target, sizeof(target), "/v1/history/%s", bad[i]);
        EXPECT(&server, 400, "GET", target, NULL, NULL);
    }
    char long_key[1200] = "/v1/objects/";
    memset(long_key + 12, 'k', 1025);
    EXPECT(&server, 400, "GET", long_key, NULL, NULL);
    long_key[12 + 1024] = '\0';
    EXPECT(&server, 404, "GET", long_key, NULL, NULL);
}

Test(http_input, malformed_queries_are_named)
{
    static const struct {
        const char *target, *says;
    } bad[] = {
        {"/v1/objects/k?foo=1", "foo"},
        {"/v1/objects/k?version=1&version=2", "twice"},
        {"/v1/objects/k?version=", "version"},
        {"/v1/objects/k?version=0", "version"},
        {"/v1/objects/k?version=-1", "version"},
        {"/v1/objects/k?version=1x", "version"},
        {"/v1/objects/k?version=99999999999999999999", "version"},
        {"/v1/objects/k?at=yesterday", "RFC 3339"},
        {"/v1/objects/k?at=2026-11-23T02:40:00", "zone"},
        {"/v1/objects/k?at=0", "at is a time"},
        {"/v1/objects/k?at=1&version=1", "not by both"},
        {"/v1/objects/k?at=1&clock=object", "not offered"},
        {"/v1/objects/k?at=1&clock=sun", "clock"},
        {"/v1/objects/k?consistency=eventual", "consistency"},
        {"/v1/objects/k?at=%zz", "encoded"},
        {"/v1/objects?limit=0", "limit"},
        {"/v1/objects?limit=10001", "limit"},
        {"/v1/objects?delimiter=ab", "delimiter"},
        {"/v1/objects?delimiter=", "delimiter"},
        {"/v1/objects?delimiter=%C3%A9", "delimiter"},
        {"/v1/objects?cursor=nonsense", "cursor"},
        {"/v1/objects?at=never", "at"},
        {"/v1/history/k?order=up", "order"},
        {"/v1/history/k?from=then", "from"},
        {"/v1/history/k?data=yes", "data"},
        {"/v1/history/k?data=true", "Accept"},
        {"/v1/history/k?clock=object", "not offered"},
        {"/v1/watch", "one of key"},
        {"/v1/watch?key=a&prefix=b", "one of key"},
        {"/v1/watch?regex=%5B", "1"},
        {"/v1/watch?glob=%5B", "1"},
        {"/v1/watch?prefix=a&from=", "from"},
        {"/v1/watch?prefix=a&from=nonsense", "cursor"},
        {"/v1/watch?prefix=a&data=1", "data"},
        {"/healthz?x", "x"},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct answer answer;
        http_call(&server, "GET", bad[i].target, NULL, NULL, 0, &answer);
        cr_expect_eq(answer.status, 400, "%s: %d %s", bad[i].target, answer.status, answer.body);
        cr_expect(answer_has(&answer, bad[i].says), "%s: %s", bad[i].target, answer.body);
        answer_free(&answer);
    }
}

Test(http_input, malformed_headers)
{
    static const struct {
        const char *method, *headers, *says;
    } bad[] = {
        {"GET", "Sluice-Timeout: 5\r\n", "Sluice-Timeout"},
        {"GET", "Sluice-Timeout: 61s\r\n", "Sluice-Timeout"},
        {"GET", "Sluice-Timeout: \r\n", "Sluice-Timeout"},
        {"GET", "Sluice-After: soon\r\n", "Sluice-After"},
        {"GET", "Sluice-After: 2100-01-01T00:00:00Z\r\n", "ahead"},
        {"GET", "If-None-Match: 3\r\n", "If-None-Match"},
        {"GET", "If-Match: \"3\r\n", "If-Match"},
        {"GET", "Accept-Datetime: 2026-11-23\r\n", "Accept-Datetime"},
        {"GET", "Sluice-Timeout: 1s\r\nSluice-Timeout: 2s\r\n", "more than once"},
        {"PUT", "If-Match: x\r\n", "If-Match"},
        {"PUT", "If-Unmodified-Since: Thu, 01 Jan 2015 00:00:00 GMT\r\n", "If-Match"},
        {"PUT", "Sluice-Object-Time: noon\r\n", "Sluice-Object-Time"},
        {"PUT", "Idempotency-Key: \r\n", "Idempotency-Key"},
        {"PUT", "Idempotency-Key: a\r\nIf-Match: \"1\", \"2\"\r\n", "Idempotency-Key"},
        {"PUT", "Content-Type: text\r\n", "Content-Type"},
        {"PUT", "Content-Type: text/\xc3\xa9\r\n", "Content-Type"},
        {"DELETE", "If-None-Match: *\r\n", "If-None-Match"},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct answer answer;
        bool put = strcmp(bad[i].method, "PUT") == 0;
        http_call(&server, bad[i].method, "/v1/objects/k", bad[i].headers, put ? "x" : NULL, put, &answer);
        cr_expect_eq(answer.status, 400, "%s: %d %s", bad[i].headers, answer.status, answer.body);
        cr_expect(answer_has(&answer, bad[i].says), "%s: %s", bad[i].headers, answer.body);
        answer_free(&answer);
    }
    EXPECT(&server, 400, "PUT", "/v1/objects/k?ack=never", NULL, "x");
    char long_key[400] = "Idempotency-Key: ";
    memset(long_key + 17, 'i', 256);
    strcat(long_key, "\r\n");
    EXPECT(&server, 400, "PUT", "/v1/objects/k", long_key, "x");
    EXPECT(&server, 404, "GET", "/v1/objects/k", NULL, NULL);
}

Test(http_input, malformed_documents)
{
    static const struct {
        const char *target, *body, *says;
    } bad[] = {
        {"/v1/snapshot", "", "JSON"},
        {"/v1/snapshot", "{", "line 1"},
        {"/v1/snapshot", "[]", "object"},
        {"/v1/snapshot", "{}", "at least one"},
        {"/v1/snapshot", "{\"keys\":[\"a\"],\"keys\":[\"b\"]}", "duplicate"},
        {"/v1/snapshot", "{\"keys\":\"a\"}", "list"},
        {"/v1/snapshot", "{\"keys\":[1]}", "keys[0]"},
        {"/v1/snapshot", "{\"keys\":[\"a\",\"b//c\"]}", "keys[1]"},
        {"/v1/snapshot", "{\"keys\":[\"a\"],\"at\":\"x\"}", "at is a time"},
        {"/v1/snapshot", "{\"keys\":[\"a\"],\"when\":1}", "when"},
        {"/v1/batch", "{}", "operations"},
        {"/v1/batch", "{\"operations\":[]}", "1 to 1024"},
        {"/v1/batch", "{\"operations\":[1]}", "operations[0]"},
        {"/v1/batch", "{\"operations\":[{\"op\":\"get\",\"key\":\"a\"}]}", "op is"},
        {"/v1/batch", "{\"operations\":[{\"op\":\"put\"}]}", "missing"},
        {"/v1/batch", "{\"operations\":[{\"op\":\"put\",\"key\":\"a/\"}]}", "slash"},
        {"/v1/batch", "{\"operations\":[{\"op\":\"put\",\"key\":\"a\",\"data\":\"x\"}]}", "base64"},
        {"/v1/batch", "{\"operations\":[{\"op\":\"put\",\"key\":\"a\",\"data\":7}]}", "base64"},
        {"/v1/batch", "{\"operations\":[{\"op\":\"delete\",\"key\":\"a\",\"data\":\"\"}]}", "no data"},
        {"/v1/batch", "{\"operations\":[{\"op\":\"put\",\"key\":\"a\",\"content_type\":\"x\"}]}", "content_type"},
        {"/v1/batch", "{\"operations\":[{\"op\":\"put\",\"key\":\"a\",\"content_type\":1}]}", "content_type"},
        {"/v1/batch", "{\"operations\":[{\"op\":\"put\",\"key\":\"a\",\"if_match\":\"x\"}]}", "if_match"},
        {"/v1/batch", "{\"operations\":[{\"op\":\"put\",\"key\":\"a\",\"if_match\":0}]}", "if_match"},
        {"/v1/batch", "{\"operations\":[{\"op\":\"put\",\"key\":\"a\",\"if_none_match\":\"1\"}]}", "if_none_match"},
        {"/v1/batch", "{\"operations\":[{\"op\":\"put\",\"key\":\"a\",\"object_time\":\"x\"}]}", "object_time"},
        {"/v1/batch", "{\"operations\":[{\"op\":\"put\",\"key\":\"a\",\"colour\":\"x\"}]}", "colour"},
        {"/v1/batch", "{\"operations\":[{\"op\":\"put\",\"key\":\"\\u0000\"}]}", "JSON"},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct answer answer;
        http_call(&server, "POST", bad[i].target, "Content-Type: application/json\r\n", bad[i].body,
                  strlen(bad[i].body), &answer);
        cr_expect_eq(answer.status, 400, "%s: %d %s", bad[i].body, answer.status, answer.body);
        cr_expect(answer_has(&answer, bad[i].says), "%s: %s", bad[i].body, answer.body);
        answer_free(&answer);
    }
    EXPECT(&server, 415, "POST", "/v1/snapshot", "Content-Type: text/xml\r\n", "<a/>");
    EXPECT(&server, 415, "PUT", "/v1/pools/farm", "Content-Type: text/xml\r\n", "<a/>");
    EXPECT(&server, 400, "PUT", "/v1/pools/farm", NULL, "[]");
    EXPECT(&server, 400, "PUT", "/v1/pools/farm", NULL, "{");
    EXPECT(&server, 400, "POST", "/v1/batch", "If-Match: \"1\"\r\n",
           "{\"operations\":[{\"op\":\"put\",\"key\":\"a\"}]}");
    cr_expect_eq(fake_call_count(), 0, "nothing of this reaches the store");
}

Test(http_input, deep_and_large_documents_are_refused)
{
    static char deep[60000];
    memset(deep, '[', sizeof(deep) - 1);
    EXPECT(&server, 400, "POST", "/v1/snapshot", NULL, deep);
    static char large[(1 << 20) + 100];
    memset(large, ' ', sizeof(large) - 1);
    EXPECT(&server, 413, "POST", "/v1/snapshot", NULL, large);
}

Test(http_input, wrong_methods_are_told_which_there_are)
{
    static const struct {
        const char *method, *target, *allow;
    } bad[] = {
        {"POST", "/v1/objects/k", "GET, HEAD, PUT, DELETE"},
        {"PATCH", "/v1/objects/k", "GET, HEAD, PUT, DELETE"},
        {"PUT", "/v1/objects", "GET, HEAD"},
        {"DELETE", "/v1/history/k", "GET"},
        {"HEAD", "/v1/watch", "GET"},
        {"GET", "/v1/batch", "POST"},
        {"GET", "/v1/snapshot", "POST"},
        {"POST", "/v1/pools/farm", "GET, HEAD, PUT, DELETE"},
        {"PUT", "/v1/lambdas", "GET, HEAD, POST"},
        {"GET", "/v1/lambdas/a/enable", "POST"},
        {"POST", "/healthz", "GET, HEAD"},
        {"OPTIONS", "/v1/cluster", "GET, HEAD"},
        {"BREW", "/v1/cluster", "GET, HEAD"},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct answer answer;
        http_call(&server, bad[i].method, bad[i].target, NULL, NULL, 0, &answer);
        cr_expect_eq(answer.status, 405, "%s %s: %d", bad[i].method, bad[i].target, answer.status);
        cr_expect_str_eq(answer_header(&answer, "Allow"), bad[i].allow);
        answer_free(&answer);
    }
}

Test(http_input, paths_where_nothing_is)
{
    const char *const bad[] = {
        "/",          "/v1",         "/v1/",         "/v2/objects/k",          "/v1/objectsx",
        "/v1/watch/", "/v1/holds/a", "/v1/graphs/a", "/v1/lambdas/a/rollback", "/v1/lambdas/a/b/log",
        "/HEALTHZ",   "/healthz/"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        EXPECT(&server, 404, "GET", bad[i], NULL, NULL);
    EXPECT(&server, 400, "GET", "/v1/lambdas/%2F", NULL, NULL);
    EXPECT(&server, 400, "GET", "/v1/lambdas/", NULL, NULL);
    EXPECT(&server, 400, "GET", "/v1/pools/", NULL, NULL);
    EXPECT(&server, 400, "GET", "/v1/pools/farm/", NULL, NULL);
    EXPECT(&server, 200, "GET", "/v1/pools/%2F", NULL, NULL);
    EXPECT(&server, 200, "GET", "/v1/pools//", NULL, NULL);
}

static void expect_raw(const char *bytes, size_t size, int low, int high)
{
    struct answer answer;
    http_raw(&server, bytes, size, &answer);
    cr_expect(answer.status == 0 || (answer.status >= low && answer.status <= high), "%.60s: %d %s", bytes,
              answer.status, answer.body);
    answer_free(&answer);
}

#define RAW(text) expect_raw(text, sizeof(text) - 1, 400, 505)

Test(http_input, requests_that_are_no_http)
{
    RAW("");
    RAW("\r\n\r\n");
    RAW("GET\r\n\r\n");
    RAW("GET /\r\n\r\n");
    RAW("GET / HTTP/9.9\r\nHost: localhost\r\n\r\n");
    RAW("GET / HTTP/0.9\r\n\r\n");
    RAW("GET  /  x HTTP/1.1\r\nHost: localhost\r\n\r\n");
    RAW("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03");
    RAW("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    RAW("GET * HTTP/1.1\r\nHost: localhost\r\n\r\n");
    RAW("GET v1/objects HTTP/1.1\r\nHost: localhost\r\n\r\n");
    RAW("GET /v1/objects/a\0b HTTP/1.1\r\nHost: localhost\r\n\r\n");
    RAW("GET /healthz HTTP/1.1\r\n\r\n");
    RAW("GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n");
    RAW("GET /healthz HTTP/1.1\r\nHost localhost\r\n\r\n");
    RAW("PUT /v1/objects/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n");
    RAW("PUT /v1/objects/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n");
    RAW("PUT /v1/objects/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999999\r\n\r\n");
    RAW("PUT /v1/objects/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\nabcde");
    RAW("PUT /v1/objects/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nTransfer-Encoding: "
        "chunked\r\n\r\n0\r\n\r\n");
    RAW("PUT /v1/objects/k HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\nabc");
    RAW("PUT /v1/objects/k HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n");
    RAW("PUT /v1/objects/k HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nabc");
    EXPECT(&server, 404, "GET", "/v1/objects/k", NULL, NULL);
}

Test(http_input, half_requests_leave_nothing_behind)
{
    const char *const halves[] = {
        "G",
        "GET /v1/objects/k",
        "GET /v1/objects/k HTTP/1.1\r\nHost: loc",
        "PUT /v1/objects/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc",
        "PUT /v1/objects/k HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        "POST /v1/lambdas HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; "
        "boundary=x\r\nContent-Length: 900\r\n\r\n"
        "--x\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nab",
    };
    for (size_t i = 0; i < sizeof(halves) / sizeof(halves[0]); i++) {
        for (int half_close = 0; half_close < 2; half_close++) {
            int fd = http_connect(&server);
            http_send_text(fd, halves[i]);
            usleep(2000);
            if (half_close)
                expect_raw(halves[i], strlen(halves[i]), 400, 499);
            close(fd);
        }
    }
    EXPECT(&server, 404, "GET", "/v1/objects/k", NULL, NULL);
}

Test(http_input, absolute_targets_are_taken)
{
    struct answer answer;
    static const char text[] = "GET http://localhost/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    http_raw(&server, text, sizeof(text) - 1, &answer);
    cr_expect_eq(answer.status, 200);
    answer_free(&answer);
}

Test(http_input, long_targets_and_headers_have_their_own_statuses)
{
    static char target[10000] = "/v1/objects/";
    memset(target + 12, 'a', 9000);
    EXPECT(&server, 414, "GET", target, NULL, NULL);
    static char header[14000] = "X-Long: ";
    memset(header + 8, 'a', 10000);
    strcpy(header + 10008, "\r\n");
    EXPECT(&server, 431, "GET", "/healthz", header, NULL);
    static char enormous[70000] = "X-Long: ";
    memset(enormous + 8, 'a', 60000);
    strcpy(enormous + 60008, "\r\n");
    EXPECT(&server, 431, "GET", "/healthz", enormous, NULL);
}

Test(http_input, an_oversized_value_is_413_before_its_body_is_read)
{
    struct answer answer;
    int fd = http_connect(&server);
    http_send_text(
        fd,
        "PUT /v1/objects/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 70000000\r\nExpect: 100-continue\r\n\r\n");
    http_read(fd, false, &answer);
    cr_expect_eq(answer.status, 413);
    cr_expect(answer_has(&answer, "100000 bytes"), "the limit is in the text: %s", answer.body);
    answer_free(&answer);
    close(fd);
    static char value[100001];
    http_call(&server, "PUT", "/v1/objects/k", NULL, value, 100001, &answer);
    cr_expect_eq(answer.status, 413);
    cr_expect_not(answer.closed, "a short body that is refused is read, so that the connection lives");
    answer_free(&answer);
    http_call(&server, "PUT", "/v1/objects/k", NULL, value, 100000, &answer);
    cr_expect_eq(answer.status, 201);
    answer_free(&answer);
}

Test(http_input, a_chunked_value_that_grows_too_large_is_413)
{
    struct answer answer;
    static char chunk[65536];
    int fd = http_connect(&server);
    http_send_text(fd, "PUT /v1/objects/k HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n");
    for (int i = 0; i < 3; i++) {
        http_send_text(fd, "10000\r\n");
        http_send(fd, chunk, sizeof(chunk));
        http_send_text(fd, "\r\n");
    }
    http_send_text(fd, "0\r\n\r\n");
    http_read(fd, false, &answer);
    cr_expect_eq(answer.status, 413);
    answer_free(&answer);
    close(fd);
    /* One without an end is cut off. */
    fd = http_connect(&server);
    http_send_text(fd, "PUT /v1/objects/k HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n");
    for (int i = 0; i < 100; i++) {
        http_send_text(fd, "10000\r\n");
        http_send(fd, chunk, sizeof(chunk));
        http_send_text(fd, "\r\n");
    }
    http_read(fd, false, &answer);
    cr_expect(answer.closed);
    answer_free(&answer);
    close(fd);
}

Test(http_input, expect_100_continue_is_answered_before_the_body)
{
    bool found;
    struct answer answer;
    int fd = http_connect(&server);
    http_send_text(
        fd, "PUT /v1/objects/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    free(http_read_until(fd, "100 Continue\r\n\r\n", 5000, &found));
    cr_assert(found);
    http_send_text(fd, "hello");
    http_read(fd, false, &answer);
    cr_expect_eq(answer.status, 201);
    answer_free(&answer);
    close(fd);
}

Test(http_input, random_bytes_never_stop_the_gateway)
{
    uint64_t seed = random_os();
    struct random random;
    random_seed(&random, seed);
    static const char *const seeds[] = {
        "GET /v1/objects/k?version=1 HTTP/1.1\r\nHost: localhost\r\nRange: bytes=1-2\r\nIf-None-Match: \"1\"\r\n\r\n",
        "PUT /v1/objects/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nIf-Match: \"1\", \"2\"\r\n\r\nhello",
        "PUT /v1/objects/k HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "POST /v1/batch HTTP/1.1\r\nHost: localhost\r\nContent-Length: "
        "44\r\n\r\n{\"operations\":[{\"op\":\"put\",\"key\":\"a\"}]}     ",
        "GET /v1/watch?glob=a/** HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: r0\r\n\r\n",
    };
    for (int round = 0; round < 400; round++) {
        char bytes[512];
        const char *from = seeds[random_below(&random, sizeof(seeds) / sizeof(seeds[0]))];
        size_t size = strlen(from);
        memcpy(bytes, from, size);
        for (uint64_t i = random_below(&random, 6) + 1; i > 0; i--)
            bytes[random_below(&random, size)] = (char)random_below(&random, 256);
        int fd = http_connect(&server);
        http_send(fd, bytes, random_below(&random, 4) == 0 ? random_below(&random, size) : size);
        close(fd);
    }
    struct answer answer;
    http_call(&server, "GET", "/healthz", NULL, NULL, 0, &answer);
    cr_expect_eq(answer.status, 200, "seed %llu", (unsigned long long)seed);
    answer_free(&answer);
}

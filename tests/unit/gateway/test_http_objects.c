/* Objects over HTTP, as clients see them. */
#include <criterion/criterion.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

TestSuite(http_objects, .init = setup, .fini = teardown);

static struct answer call(const char *method, const char *target, const char *headers, const char *body)
{
    struct answer answer;
    http_call(&server, method, target, headers, body, body != NULL ? strlen(body) : 0, &answer);
    return answer;
}

static void put(const char *target, const char *body)
{
    struct answer answer = call("PUT", target, "Content-Type: text/plain\r\n", body);
    cr_assert(answer.status == 200 || answer.status == 201, "%d %s", answer.status, answer.body);
    answer_free(&answer);
}

Test(http_objects, the_first_version_is_201_and_a_further_one_200_with_both_times)
{
    struct answer answer = call("PUT", "/v1/objects/farm/cow", "Content-Type: text/plain\r\n", "moo");
    cr_assert_eq(answer.status, 201);
    cr_expect_str_eq(answer_header(&answer, "ETag"), "\"1\"");
    cr_expect_str_eq(answer_header(&answer, "Sluice-Version"), "1");
    cr_expect_str_eq(answer_header(&answer, "Sluice-Revision"), "1");
    json_t *json = json_loads(answer.body, 0, NULL);
    cr_assert_not_null(json);
    cr_expect_str_eq(json_string_value(json_object_get(json, "key")), "farm/cow");
    cr_expect_eq(json_integer_value(json_object_get(json, "size")), 3);
    cr_expect(json_is_string(json_object_get(json, "time_ns")) && json_is_string(json_object_get(json, "object_time")));
    cr_expect_null(json_object_get(json, "durable"));
    cr_expect_str_eq(answer_header(&answer, "Sluice-Time"), json_string_value(json_object_get(json, "time")));
    json_decref(json);
    answer_free(&answer);
    EXPECT(&server, 200, "PUT", "/v1/objects/farm/cow", NULL, "muh");
}

Test(http_objects, a_value_comes_back_as_it_was_put)
{
    char value[256];
    struct answer answer;
    for (size_t i = 0; i < sizeof(value); i++)
        value[i] = (char)i;
    http_call(&server, "PUT", "/v1/objects/bytes", "Content-Type: image/x-test; a=b\r\n", value, sizeof(value),
              &answer);
    cr_assert_eq(answer.status, 201);
    answer_free(&answer);
    answer = call("GET", "/v1/objects/bytes", NULL, NULL);
    cr_assert_eq(answer.status, 200);
    cr_expect(answer.size == sizeof(value) && memcmp(answer.body, value, sizeof(value)) == 0);
    cr_expect_str_eq(answer_header(&answer, "Content-Type"), "image/x-test; a=b");
    cr_expect_str_eq(answer_header(&answer, "X-Content-Type-Options"), "nosniff");
    cr_expect_not_null(answer_header(&answer, "Last-Modified"));
    cr_expect_null(answer_header(&answer, "Memento-Datetime"));
    answer_free(&answer);
}

Test(http_objects, an_empty_value_is_a_value)
{
    struct answer answer = call("PUT", "/v1/objects/empty", NULL, "");
    cr_assert_eq(answer.status, 201);
    answer_free(&answer);
    answer = call("GET", "/v1/objects/empty", NULL, NULL);
    cr_expect(answer.status == 200 && answer.size == 0);
    cr_expect_str_eq(answer_header(&answer, "Content-Length"), "0");
    cr_expect_str_eq(answer_header(&answer, "Content-Type"), "application/octet-stream");
    answer_free(&answer);
}

Test(http_objects, a_chunked_upload_is_gathered)
{
    struct answer answer;
    int fd = http_connect(&server);
    http_send_text(fd, "PUT /v1/objects/chunks HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n");
    char chunk[10000];
    memset(chunk, 'x', sizeof(chunk));
    for (int i = 0; i < 20; i++) {
        http_send_text(fd, "2710\r\n");
        http_send(fd, chunk, sizeof(chunk));
        http_send_text(fd, "\r\n");
    }
    http_send_text(fd, "0\r\n\r\n");
    http_read(fd, false, &answer);
    cr_expect_eq(answer.status, 201);
    cr_expect(answer_has(&answer, "\"size\":200000"));
    answer_free(&answer);
    close(fd);
}

Test(http_objects, keys_are_decoded_once_and_one_leading_slash_is_dropped)
{
    put("/v1/objects/a%2Fb%20c/%C3%A9", "1");
    struct answer answer = call("GET", "/v1/objects//a/b%20c/%c3%a9", NULL, NULL);
    cr_expect_eq(answer.status, 200);
    answer_free(&answer);
    answer = call("GET", "/v1/objects/%2Fa/b%20c/%c3%a9", NULL, NULL);
    cr_expect_eq(answer.status, 200);
    answer_free(&answer);
    put("/v1/objects/a+b%2541", "1");
    answer = call("GET", "/v1/objects?prefix=a+b", NULL, NULL);
    cr_expect(answer_has(&answer, "\"key\":\"a+b%41\""), "%s", answer.body);
    answer_free(&answer);
}

Test(http_objects, head_says_what_get_would_say)
{
    put("/v1/objects/k", "0123456789");
    struct answer answer = call("HEAD", "/v1/objects/k", NULL, NULL);
    cr_expect_eq(answer.status, 200);
    cr_expect_str_eq(answer_header(&answer, "Content-Length"), "10");
    cr_expect_str_eq(answer_header(&answer, "ETag"), "\"1\"");
    answer_free(&answer);
    EXPECT(&server, 404, "HEAD", "/v1/objects/none", NULL, NULL);
}

Test(http_objects, a_tombstone_keeps_older_versions_readable)
{
    put("/v1/objects/k", "one");
    struct answer answer = call("DELETE", "/v1/objects/k", NULL, NULL);
    cr_expect_eq(answer.status, 200);
    cr_expect_str_eq(answer_header(&answer, "Sluice-Version"), "2");
    answer_free(&answer);
    answer = call("GET", "/v1/objects/k", NULL, NULL);
    cr_expect_eq(answer.status, 404);
    cr_expect(answer_has(&answer, "\"code\":\"deleted\"") && answer_has(&answer, "\"version\":2"));
    cr_expect_str_eq(answer_header(&answer, "Sluice-Version"), "2");
    answer_free(&answer);
    answer = call("GET", "/v1/objects/k?version=1", NULL, NULL);
    cr_expect(answer.status == 200 && answer_has(&answer, "one"));
    cr_expect_not_null(answer_header(&answer, "Memento-Datetime"));
    cr_expect_str_eq(answer_header(&answer, "Link"), "</v1/objects/k>; rel=\"original timegate\"");
    answer_free(&answer);
    EXPECT(&server, 404, "DELETE", "/v1/objects/k", NULL, NULL);
    EXPECT(&server, 201, "PUT", "/v1/objects/k", "If-None-Match: *\r\n", "again");
    EXPECT(&server, 200, "PUT", "/v1/objects/k", NULL, "and again");
    EXPECT(&server, 200, "DELETE", "/v1/objects/k", NULL, NULL);
    EXPECT(&server, 201, "PUT", "/v1/objects/k", NULL, "after a tombstone");
}

Test(http_objects, conditions_are_the_stores_to_decide)
{
    EXPECT(&server, 412, "PUT", "/v1/objects/k", "If-Match: *\r\n", "x");
    EXPECT(&server, 201, "PUT", "/v1/objects/k", "If-None-Match: *\r\n", "one");
    EXPECT(&server, 200, "PUT", "/v1/objects/k", "If-Match: \"1\"\r\n", "two");
    EXPECT(&server, 200, "PUT", "/v1/objects/k", "If-Match: *\r\n", "three");
    struct answer answer = call("PUT", "/v1/objects/k", "If-Match: \"1\"\r\n", "x");
    cr_expect_eq(answer.status, 412);
    cr_expect_str_eq(answer_header(&answer, "ETag"), "\"3\"");
    cr_expect_str_eq(answer_header(&answer, "Sluice-Version"), "3");
    answer_free(&answer);
    EXPECT(&server, 412, "PUT", "/v1/objects/k", "If-None-Match: *\r\n", "x");
    EXPECT(&server, 412, "PUT", "/v1/objects/k", "If-Match: W/\"3\"\r\n", "x");
    EXPECT(&server, 412, "PUT", "/v1/objects/k", "If-Match: \"other\"\r\n", "x");
    EXPECT(&server, 412, "PUT", "/v1/objects/k", "If-Match: \"2.3\"\r\n", "x");
    EXPECT(&server, 412, "DELETE", "/v1/objects/k", "If-Match: \"2\"\r\n", NULL);
    EXPECT(&server, 200, "DELETE", "/v1/objects/k", "If-Match: \"3\"\r\n", NULL);
}

Test(http_objects, lists_of_entity_tags_are_resolved)
{
    put("/v1/objects/k", "one");
    EXPECT(&server, 200, "PUT", "/v1/objects/k", "If-Match: \"7\", \"1\"\r\n", "two");
    EXPECT(&server, 412, "PUT", "/v1/objects/k", "If-Match: \"7\", \"1\"\r\n", "x");
    EXPECT(&server, 412, "PUT", "/v1/objects/k", "If-None-Match: \"2\"\r\n", "x");
    EXPECT(&server, 200, "PUT", "/v1/objects/k", "If-None-Match: \"1\"\r\n", "three");
    EXPECT(&server, 201, "PUT", "/v1/objects/new", "If-None-Match: \"1\"\r\n", "one");
    EXPECT(&server, 412, "PUT", "/v1/objects/nothing", "If-Match: \"1\", \"2\"\r\n", "x");
    EXPECT(&server, 412, "PUT", "/v1/objects/k", "If-Match: \"3\"\r\nIf-None-Match: \"3\"\r\n", "x");
}

Test(http_objects, a_later_epoch_is_part_of_the_entity_tag)
{
    fake_next_epoch();
    struct answer answer = call("PUT", "/v1/objects/v", NULL, "one");
    cr_expect_eq(answer.status, 201);
    cr_expect_str_eq(answer_header(&answer, "ETag"), "\"2.1\"");
    cr_expect(answer_has(&answer, "\"epoch\":2"));
    answer_free(&answer);
    EXPECT(&server, 412, "PUT", "/v1/objects/v", "If-Match: \"1\"\r\n", "x");
    EXPECT(&server, 200, "PUT", "/v1/objects/v", "If-Match: \"2.1\"\r\n", "two");
    EXPECT(&server, 304, "GET", "/v1/objects/v", "If-None-Match: \"2.2\"\r\n", NULL);
    EXPECT(&server, 200, "GET", "/v1/objects/v", "If-None-Match: \"2\"\r\n", NULL);
}

Test(http_objects, a_get_with_conditions_answers_304_or_412)
{
    put("/v1/objects/k", "value");
    struct answer answer = call("GET", "/v1/objects/k", "If-None-Match: \"1\"\r\n", NULL);
    cr_expect_eq(answer.status, 304);
    cr_expect_str_eq(answer_header(&answer, "ETag"), "\"1\"");
    answer_free(&answer);
    EXPECT(&server, 304, "HEAD", "/v1/objects/k", "If-None-Match: W/\"1\"\r\n", NULL);
    EXPECT(&server, 304, "GET", "/v1/objects/k", "If-None-Match: *\r\n", NULL);
    EXPECT(&server, 200, "GET", "/v1/objects/k", "If-None-Match: \"2\"\r\n", NULL);
    EXPECT(&server, 412, "GET", "/v1/objects/k", "If-Match: \"2\"\r\n", NULL);
    EXPECT(&server, 200, "GET", "/v1/objects/k", "If-Match: \"2\", \"1\"\r\n", NULL);
    EXPECT(&server, 304, "GET", "/v1/objects/k", "If-Modified-Since: Fri, 01 Jan 2100 00:00:00 GMT\r\n", NULL);
    EXPECT(&server, 200, "GET", "/v1/objects/k", "If-Modified-Since: Thu, 01 Jan 2015 00:00:00 GMT\r\n", NULL);
    EXPECT(&server, 412, "GET", "/v1/objects/k", "If-Unmodified-Since: Thu, 01 Jan 2015 00:00:00 GMT\r\n", NULL);
    EXPECT(&server, 404, "GET", "/v1/objects/none", "If-None-Match: \"1\"\r\n", NULL);
}

static void expect_range(const char *headers, int status, const char *body, const char *content_range)
{
    struct answer answer = call("GET", "/v1/objects/digits", headers, NULL);
    cr_expect_eq(answer.status, status, "%s: %d", headers, answer.status);
    if (body != NULL)
        cr_expect(answer.size == strlen(body) && memcmp(answer.body, body, answer.size) == 0, "%s: %s", headers,
                  answer.body);
    const char *came = answer_header(&answer, "Content-Range");
    cr_expect((came == NULL) == (content_range == NULL) && (came == NULL || strcmp(came, content_range) == 0), "%s: %s",
              headers, came);
    answer_free(&answer);
}

Test(http_objects, ranges_give_parts)
{
    put("/v1/objects/digits", "0123456789");
    expect_range("Range: bytes=0-0\r\n", 206, "0", "bytes 0-0/10");
    expect_range("Range: bytes=2-5\r\n", 206, "2345", "bytes 2-5/10");
    expect_range("Range: bytes=7-\r\n", 206, "789", "bytes 7-9/10");
    expect_range("Range: bytes=7-999\r\n", 206, "789", "bytes 7-9/10");
    expect_range("Range: bytes=-3\r\n", 206, "789", "bytes 7-9/10");
    expect_range("Range: bytes=-99\r\n", 206, "0123456789", "bytes 0-9/10");
    expect_range("Range: bytes=10-\r\n", 416, NULL, "bytes */10");
    expect_range("Range: bytes=-0\r\n", 416, NULL, "bytes */10");
    expect_range("Range: bytes=0-1,4-5\r\n", 200, "0123456789", NULL);
    expect_range("Range: rows=0-1\r\n", 200, "0123456789", NULL);
    expect_range("Range: bytes=2-3\r\nIf-Range: \"1\"\r\n", 206, "23", "bytes 2-3/10");
    expect_range("Range: bytes=2-3\r\nIf-Range: \"2\"\r\n", 200, "0123456789", NULL);
    expect_range("Range: bytes=2-3\r\nIf-Range: Fri, 01 Jan 2100 00:00:00 GMT\r\n", 200, "0123456789", NULL);
    expect_range("Range: bytes=2-3\r\nIf-None-Match: \"1\"\r\n", 304, NULL, NULL);
    expect_range("Range: bytes=9-2\r\n", 416, NULL, NULL);
}

Test(http_objects, reads_by_time_and_by_accept_datetime)
{
    put("/v1/objects/k", "old");
    struct answer answer = call("GET", "/v1/objects/k", NULL, NULL);
    char target[128], accept[128];
    snprintf(target, sizeof(target), "/v1/objects/k?at=%s&clock=platform", answer_header(&answer, "Sluice-Time"));
    snprintf(accept, sizeof(accept), "Accept-Datetime: %s\r\n", answer_header(&answer, "Last-Modified"));
    answer_free(&answer);
    put("/v1/objects/k", "new");
    answer = call("GET", target, NULL, NULL);
    cr_expect(answer.status == 200 && answer_has(&answer, "old"), "%s: %d %s", target, answer.status, answer.body);
    cr_expect_not_null(answer_header(&answer, "Memento-Datetime"));
    answer_free(&answer);
    answer = call("GET", "/v1/objects/k", accept, NULL);
    cr_expect_eq(answer.status, 200);
    cr_expect_str_eq(answer_header(&answer, "Vary"), "Accept-Datetime");
    answer_free(&answer);
    EXPECT(&server, 404, "GET", "/v1/objects/k", "Accept-Datetime: Thu, 01 Jan 2015 00:00:00 GMT\r\n", NULL);
    answer = call("GET", "/v1/objects/k", "Accept-Datetime: Fri, 01 Jan 2100 00:00:00 GMT\r\n", NULL);
    cr_expect(answer.status == 200 && answer_has(&answer, "new"), "what is to come means now");
    answer_free(&answer);
    EXPECT(&server, 404, "GET", "/v1/objects/k?at=1000000000000000000", NULL, NULL);
}

Test(http_objects, object_time_is_kept_and_shown)
{
    struct answer answer = call("PUT", "/v1/objects/k", "Sluice-Object-Time: 2026-11-23T02:40:00.5+01:00\r\n", "x");
    cr_expect_eq(answer.status, 201);
    cr_expect(answer_has(&answer, "\"object_time\":\"2026-11-23T01:40:00.500000000Z\""), "%s", answer.body);
    answer_free(&answer);
    answer = call("GET", "/v1/objects/k", NULL, NULL);
    cr_expect_str_eq(answer_header(&answer, "Sluice-Object-Time"), "2026-11-23T01:40:00.500000000Z");
    answer_free(&answer);
}

Test(http_objects, a_repetition_is_answered_like_the_first_and_says_so)
{
    struct answer answer = call("PUT", "/v1/objects/k", "Idempotency-Key: abc\r\n", "x");
    cr_expect_eq(answer.status, 201);
    cr_expect_null(answer_header(&answer, "Idempotency-Replayed"));
    answer_free(&answer);
    answer = call("PUT", "/v1/objects/k", "Idempotency-Key: abc\r\n", "x");
    cr_expect_eq(answer.status, 201);
    cr_expect_str_eq(answer_header(&answer, "Idempotency-Replayed"), "true");
    cr_expect_str_eq(answer_header(&answer, "Sluice-Version"), "1");
    answer_free(&answer);
    answer = call("PUT", "/v1/objects/k", "Idempotency-Key: abc\r\n", "another");
    cr_expect(answer.status == 422 && answer_has(&answer, "idempotency_mismatch"));
    answer_free(&answer);
}

Test(http_objects, what_is_asked_of_a_write_reaches_the_store)
{
    char key[256], subject[64];
    bool delivered, admin;
    struct answer answer = call("PUT", "/v1/objects/k?ack=delivered", "Idempotency-Key: k-1\r\n", "x");
    cr_expect_eq(answer.status, 201);
    cr_expect(answer_has(&answer, "\"durable\":false"));
    answer_free(&answer);
    fake_last_write(key, subject, &delivered, &admin);
    cr_expect(strcmp(key, "k-1") == 0 && delivered && !admin);
    EXPECT(&server, 201, "PUT", "/v1/objects/_sluice/x?ack=persisted", NULL, "x");
    fake_last_write(key, subject, &delivered, &admin);
    cr_expect(key[0] == '\0' && !delivered && admin);
}

Test(http_objects, a_page_that_could_hold_script_is_shown_in_a_sandbox)
{
    EXPECT(&server, 201, "PUT", "/v1/objects/page", "Content-Type: text/html\r\n", "<script></script>");
    EXPECT(&server, 201, "PUT", "/v1/objects/image", "Content-Type: image/png\r\n", "png");
    struct answer answer = call("GET", "/v1/objects/page", NULL, NULL);
    cr_expect_str_eq(answer_header(&answer, "Content-Security-Policy"), "sandbox");
    answer_free(&answer);
    answer = call("GET", "/v1/objects/image", NULL, NULL);
    cr_expect_null(answer_header(&answer, "Content-Security-Policy"));
    answer_free(&answer);
}

Test(http_objects, one_connection_serves_many_requests_also_at_once)
{
    put("/v1/objects/k", "value");
    int fd = http_connect(&server);
    for (int i = 0; i < 50; i++) {
        struct answer answer;
        http_send_text(fd, "GET /v1/objects/k HTTP/1.1\r\nHost: localhost\r\n\r\n");
        http_read(fd, false, &answer);
        cr_assert(answer.status == 200 && strcmp(answer.body, "value") == 0 && !answer.closed);
        answer_free(&answer);
    }
    bool found;
    for (int i = 0; i < 20; i++)
        http_send_text(fd, "GET /v1/objects/k HTTP/1.1\r\nHost: localhost\r\n\r\n");
    http_send_text(fd, "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    char *text = http_read_until(fd, "\"status\":\"ok\"", 5000, &found);
    int count = 0;
    for (const char *at = text; (at = strstr(at, "\r\n\r\nvalue")) != NULL; at++)
        count++;
    cr_expect(found && count == 20, "%d answers", count);
    free(text);
    close(fd);
}

/* --- Lists, history, snapshots, batches ------------------------------------------------------------------------------
 */

Test(http_objects, lists_come_in_pages_and_roll_up_at_a_delimiter)
{
    put("/v1/objects/farm/a", "1");
    put("/v1/objects/farm/b/x", "2");
    put("/v1/objects/farm/b/y", "3");
    put("/v1/objects/farm/c", "4");
    put("/v1/objects/_sluice/hidden", "5");
    struct answer answer = call("GET", "/v1/objects?prefix=farm/&delimiter=/", NULL, NULL);
    cr_expect_eq(answer.status, 200);
    cr_expect(answer_has(&answer, "\"prefixes\":[\"farm/b/\"]") && answer_has(&answer, "farm/a") &&
              answer_has(&answer, "farm/c"));
    cr_expect(answer_has(&answer, "\"content_type\":\"text/plain\"") && answer_has(&answer, "\"at_ns\":\"") &&
              answer_has(&answer, "watch_cursor"));
    cr_expect_not(answer_has(&answer, "\"cursor\""));
    answer_free(&answer);
    answer = call("GET", "/v1/objects?limit=2", NULL, NULL);
    cr_expect(answer_has(&answer, "\"cursor\":\"k:farm/b/x\""), "%s", answer.body);
    answer_free(&answer);
    answer = call("GET", "/v1/objects?limit=2&cursor=k:farm/b/x", NULL, NULL);
    cr_expect(answer_has(&answer, "farm/b/y") && answer_has(&answer, "farm/c") && !answer_has(&answer, "farm/a"));
    cr_expect_not(answer_has(&answer, "hidden"), "internal objects are seen by those who name them");
    answer_free(&answer);
    answer = call("GET", "/v1/objects?prefix=_sluice/", NULL, NULL);
    cr_expect(answer_has(&answer, "hidden"));
    answer_free(&answer);
    answer = call("GET", "/v1/objects?prefix=none/", NULL, NULL);
    cr_expect(answer.status == 200 && answer_has(&answer, "\"objects\":[]"));
    answer_free(&answer);
}

Test(http_objects, history_tells_versions_and_tombstones)
{
    put("/v1/objects/k", "one");
    put("/v1/objects/k", "two");
    EXPECT(&server, 200, "DELETE", "/v1/objects/k", NULL, NULL);
    struct answer answer = call("GET", "/v1/history/k", NULL, NULL);
    json_t *json = json_loads(answer.body, 0, NULL), *versions = json_object_get(json, "versions");
    cr_assert_eq(json_array_size(versions), 3);
    cr_expect(json_is_true(json_object_get(json_array_get(versions, 2), "deleted")));
    cr_expect_null(json_object_get(json_array_get(versions, 0), "data"));
    json_decref(json);
    answer_free(&answer);
    answer = call("GET", "/v1/history/k?order=desc&limit=1", NULL, NULL);
    cr_expect(answer_has(&answer, "\"version\":3") && answer_has(&answer, "\"cursor\":\"v2\""), "%s", answer.body);
    answer_free(&answer);
    answer = call("GET", "/v1/history/k?from=2&to=2", NULL, NULL);
    cr_expect(answer_has(&answer, "\"version\":2") && !answer_has(&answer, "\"version\":1,"), "%s", answer.body);
    answer_free(&answer);
    answer = call("GET", "/v1/history/k?to=2001-01-01T00:00:00Z", NULL, NULL);
    cr_expect(answer.status == 200 && answer_has(&answer, "\"versions\":[]"));
    answer_free(&answer);
    EXPECT(&server, 404, "GET", "/v1/history/none", NULL, NULL);
}

Test(http_objects, history_streams_values_over_many_pages)
{
    char body[32];
    for (int i = 1; i <= 150; i++) {
        snprintf(body, sizeof(body), "value %d", i);
        put("/v1/objects/k", body);
    }
    struct answer answer = call("GET", "/v1/history/k?data=true", "Accept: application/x-ndjson\r\n", NULL);
    cr_assert_eq(answer.status, 200);
    cr_expect_not(answer.closed);
    int lines = 0;
    for (char *line = answer.body, *end; (end = strchr(line, '\n')) != NULL; line = end + 1, lines++) {
        *end = '\0';
        json_t *json = json_loads(line, 0, NULL);
        cr_assert_eq(json_integer_value(json_object_get(json, "version")), lines + 1);
        cr_expect_not_null(json_object_get(json, "data"));
        json_decref(json);
    }
    cr_expect_eq(lines, 150);
    answer_free(&answer);
    answer = call("GET", "/v1/history/k?data=true&limit=70", "Accept: multipart/mixed\r\n", NULL);
    cr_assert_eq(answer.status, 200);
    const char *type = answer_header(&answer, "Content-Type");
    cr_assert(strncmp(type, "multipart/mixed; boundary=", 26) == 0);
    char boundary[80], end[96];
    snprintf(boundary, sizeof(boundary), "--%.60s\r\n", type + 26);
    snprintf(end, sizeof(end), "--%.60s--\r\n", type + 26);
    int parts = 0;
    for (const char *at = answer.body; (at = strstr(at, boundary)) != NULL; at++)
        parts++;
    cr_expect_eq(parts, 70);
    cr_expect(answer_has(&answer, "\r\n\r\nvalue 70\r\n") && answer_has(&answer, end));
    answer_free(&answer);
    answer = call("GET", "/v1/history/none?data=true", "Accept: multipart/mixed\r\n", NULL);
    cr_expect_eq(answer.status, 404);
    answer_free(&answer);
}

Test(http_objects, a_history_stream_that_fails_midway_breaks_off)
{
    static char value[300000];
    memset(value, 'x', sizeof(value) - 1);
    for (int i = 0; i < 100; i++)
        put("/v1/objects/k", value);
    struct http_stream stream;
    http_stream_open(&server, "/v1/history/k?data=true", "Accept: application/x-ndjson\r\n", &stream);
    http_stream_expect(&stream, "\"version\":1,", __LINE__);
    fake_fail(SLUICE_UNAVAILABLE, 1, 0);
    cr_expect_not(http_stream_ends(&stream), "nobody takes the part for the whole");
    http_stream_close(&stream);
}

Test(http_objects, a_client_that_leaves_a_history_stream_harms_nobody)
{
    static char value[300000];
    memset(value, 'x', sizeof(value) - 1);
    for (int i = 0; i < 100; i++)
        put("/v1/objects/k", value);
    for (int i = 0; i < 20; i++) {
        bool found;
        int fd = http_connect(&server);
        fake_hold(i % 2 == 1);
        http_send_text(fd,
                       "GET /v1/history/k?data=true HTTP/1.1\r\nHost: localhost\r\nAccept: multipart/mixed\r\n\r\n");
        free(http_read_until(fd, "\r\n\r\n", i % 2 == 1 ? 20 : 5000, &found));
        close(fd);
        fake_hold(false);
    }
    EXPECT(&server, 200, "GET", "/healthz", NULL, NULL);
}

Test(http_objects, a_snapshot_holds_values_and_names_what_is_missing)
{
    put("/v1/objects/a", "one");
    put("/v1/objects/b/c", "two");
    struct answer answer = call("POST", "/v1/snapshot", "Content-Type: application/json\r\n",
                                "{\"keys\":[\"/a\",\"none\"],\"prefixes\":[\"b/\"],\"at\":\"2100-01-01T00:00:00Z\"}");
    cr_assert_eq(answer.status, 200, "%s", answer.body);
    cr_expect(answer_has(&answer, "\"data\":\"b25l\"") && answer_has(&answer, "\"data\":\"dHdv\""));
    cr_expect(answer_has(&answer, "\"missing\":[\"none\"]") &&
              answer_has(&answer, "\"at_ns\":\"4102444800000000000\""));
    answer_free(&answer);
}

Test(http_objects, a_batch_is_all_or_none)
{
    struct answer answer = call("POST", "/v1/batch", "Content-Type: application/json; charset=utf-8\r\n",
                                "{\"operations\":[{\"op\":\"put\",\"key\":\"a\",\"data\":\"b25l\",\"content_type\":"
                                "\"text/plain\",\"if_none_match\":\"*\"},"
                                "{\"op\":\"put\",\"key\":\"b\",\"object_time\":\"1795401600000000000\"}]}");
    cr_assert_eq(answer.status, 200, "%s", answer.body);
    cr_expect(answer_has(&answer, "\"revision\":1,") &&
              answer_has(&answer, "\"object_time_ns\":\"1795401600000000000\""));
    answer_free(&answer);
    EXPECT(&server, 412, "POST", "/v1/batch", NULL,
           "{\"operations\":[{\"op\":\"delete\",\"key\":\"b\"},{\"op\":\"put\",\"key\":\"a\",\"if_match\":"
           "\"\\\"7\\\"\"}]}");
    EXPECT(&server, 200, "GET", "/v1/objects/b", NULL, NULL);
    EXPECT(&server, 200, "POST", "/v1/batch", NULL,
           "{\"operations\":[{\"op\":\"delete\",\"key\":\"b\",\"if_match\":1},{\"op\":\"put\",\"key\":\"a\",\"if_"
           "match\":\"*\"}]}");
    answer = call("POST", "/v1/batch", NULL,
                  "{\"operations\":[{\"op\":\"put\",\"key\":\"a\"},{\"op\":\"put\",\"key\":\"elsewhere/b\"}]}");
    cr_expect(answer.status == 409 && answer_has(&answer, "\"shards\":{\"a\":1,\"elsewhere/b\":2}"), "%s", answer.body);
    json_t *json = json_loads(answer.body, 0, NULL);
    cr_expect_not_null(json);
    json_decref(json);
    answer_free(&answer);
    EXPECT(&server, 404, "POST", "/v1/batch", NULL, "{\"operations\":[{\"op\":\"delete\",\"key\":\"none\"}]}");
}

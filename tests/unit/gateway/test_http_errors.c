/* Outcomes that a healthy store does not give: each becomes a problem document with the table's status and code, and
 * with what the client needs to go on. */
#include <criterion/criterion.h>
#include <jansson.h>
#include <stdio.h>
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

TestSuite(http_errors, .init = setup, .fini = teardown);

static const struct {
    const char *method, *target, *headers, *body;
} operations[] = {
    {"GET", "/v1/objects/k", NULL, NULL},
    {"GET", "/v1/objects/k", "If-None-Match: \"1\"\r\n", NULL},
    {"GET", "/v1/objects/k", "Range: bytes=1-2\r\n", NULL},
    {"HEAD", "/v1/objects/k", NULL, NULL},
    {"PUT", "/v1/objects/k", NULL, "x"},
    {"PUT", "/v1/objects/k", "If-Match: \"1\",\"2\"\r\n", "x"},
    {"DELETE", "/v1/objects/k", NULL, NULL},
    {"GET", "/v1/objects", NULL, NULL},
    {"GET", "/v1/history/k", NULL, NULL},
    {"GET", "/v1/history/k?data=true", "Accept: multipart/mixed\r\n", NULL},
    {"POST", "/v1/snapshot", NULL, "{\"keys\":[\"k\"]}"},
    {"POST", "/v1/batch", NULL, "{\"operations\":[{\"op\":\"put\",\"key\":\"k\"}]}"},
    {"GET", "/v1/pools", NULL, NULL},
    {"GET", "/v1/pools/farm", NULL, NULL},
    {"PUT", "/v1/pools/farm", NULL, "{\"kind\":\"volatile\"}"},
    {"DELETE", "/v1/pools/farm", NULL, NULL},
    {"GET", "/v1/lambdas", NULL, NULL},
    {"POST", "/v1/lambdas?name=a", NULL, "\177ELF"},
    {"GET", "/v1/lambdas/a", NULL, NULL},
    {"DELETE", "/v1/lambdas/a", NULL, NULL},
    {"POST", "/v1/lambdas/a/enable", NULL, NULL},
    {"POST", "/v1/lambdas/a/disable", NULL, NULL},
    {"GET", "/v1/cluster", NULL, NULL},
};

/* Every operation answers this status of the store with the table's HTTP status. */
static void expect_everywhere(enum sluice_status status)
{
    for (size_t i = 0; i < sizeof(operations) / sizeof(operations[0]); i++) {
        struct answer answer;
        fake_fail(status, 1, 0);
        http_call(&server, operations[i].method, operations[i].target, operations[i].headers, operations[i].body,
                  operations[i].body != NULL ? strlen(operations[i].body) : 0, &answer);
        cr_expect_eq(answer.status, sluice_status_http(status), "%s %s: %d %s", operations[i].method,
                     operations[i].target, answer.status, answer.body);
        if (strcmp(operations[i].method, "HEAD") != 0) {
            json_t *json = json_loads(answer.body, 0, NULL);
            cr_assert_not_null(json, "%s", answer.body);
            cr_expect_str_eq(json_string_value(json_object_get(json, "code")), sluice_status_code(status));
            cr_expect_eq(json_integer_value(json_object_get(json, "status")), answer.status);
            cr_expect_str_eq(json_string_value(json_object_get(json, "type")), "about:blank");
            cr_expect_not_null(json_string_value(json_object_get(json, "title")));
            cr_expect_not_null(json_string_value(json_object_get(json, "detail")));
            cr_expect_str_eq(answer_header(&answer, "Content-Type"), "application/problem+json");
            json_decref(json);
        }
        bool retry = answer.status == 429 || answer.status == 503;
        cr_expect_eq(answer_header(&answer, "Retry-After") != NULL, retry, "%s %s", operations[i].method,
                     operations[i].target);
        answer_free(&answer);
    }
}

Test(http_errors, busy_is_429_with_retry_after)
{
    expect_everywhere(SLUICE_BUSY);
}

Test(http_errors, unavailable_is_503_with_retry_after)
{
    expect_everywhere(SLUICE_UNAVAILABLE);
}

Test(http_errors, a_deadline_is_504)
{
    expect_everywhere(SLUICE_DEADLINE);
}

Test(http_errors, an_unknown_outcome_is_504)
{
    expect_everywhere(SLUICE_OUTCOME_UNKNOWN);
}

Test(http_errors, a_full_disk_is_507)
{
    expect_everywhere(SLUICE_STORAGE_FULL);
}

Test(http_errors, what_is_gone_is_410)
{
    expect_everywhere(SLUICE_GONE);
}

Test(http_errors, a_lost_epoch_is_410)
{
    expect_everywhere(SLUICE_EPOCH_LOST);
}

Test(http_errors, too_large_is_413)
{
    expect_everywhere(SLUICE_TOO_LARGE);
}

Test(http_errors, a_conflict_is_409)
{
    expect_everywhere(SLUICE_CONFLICT);
}

Test(http_errors, unprocessable_is_422)
{
    expect_everywhere(SLUICE_UNPROCESSABLE);
}

Test(http_errors, a_trigger_pool_is_405)
{
    expect_everywhere(SLUICE_TRIGGER_POOL);
}

Test(http_errors, invalid_is_400)
{
    expect_everywhere(SLUICE_INVALID);
}

Test(http_errors, what_is_corrupt_is_500_and_what_stays_inside_has_a_status_too)
{
    expect_everywhere(SLUICE_CORRUPT);
    expect_everywhere(SLUICE_NOT_LEADER);
    expect_everywhere(SLUICE_MEMORY);
    expect_everywhere(SLUICE_INTERNAL);
}

Test(http_errors, retry_after_is_the_stores_rounded_up_to_seconds)
{
    struct answer answer;
    fake_fail(SLUICE_UNAVAILABLE, 1, 2100);
    http_call(&server, "GET", "/v1/objects/k", NULL, NULL, 0, &answer);
    cr_expect_str_eq(answer_header(&answer, "Retry-After"), "3");
    answer_free(&answer);
}

Test(http_errors, a_range_error_whose_size_cannot_be_had_says_why)
{
    EXPECT(&server, 201, "PUT", "/v1/objects/k", NULL, "0123");
    fake_fail(SLUICE_RANGE, 2, 0);
    EXPECT(&server, 416, "GET", "/v1/objects/k", "Range: bytes=9-\r\n", NULL);
}

Test(http_errors, a_condition_that_fails_again_and_again_is_412_at_last)
{
    EXPECT(&server, 201, "PUT", "/v1/objects/k", NULL, "x");
    unsigned before = fake_call_count();
    for (int i = 0; i < 2; i++) {
        fake_fail(SLUICE_CONDITION_FAILED, 100, 0);
        EXPECT(&server, 412, "PUT", "/v1/objects/k", "If-Match: \"1\",\"2\"\r\n", "x");
        fake_fail(SLUICE_OK, 0, 0);
    }
    cr_expect_lt(fake_call_count() - before, 20);
}

Test(http_errors, readiness_follows_the_cluster)
{
    EXPECT(&server, 200, "GET", "/readyz", NULL, NULL);
    fake_set_ready(false);
    struct answer answer;
    http_call(&server, "GET", "/readyz", NULL, NULL, 0, &answer);
    cr_expect(answer.status == 503 && answer_header(&answer, "Retry-After") != NULL);
    answer_free(&answer);
    EXPECT(&server, 200, "GET", "/healthz", NULL, NULL);
    fake_set_ready(true);
}

Test(http_errors, a_refused_upload_is_422_in_the_loaders_words)
{
    EXPECT(&server, 422, "POST", "/v1/lambdas?name=a", NULL, "no ELF");
}

Test(http_errors, a_timeout_counts_from_the_head_of_the_request)
{
    struct answer answer;
    int fd = http_connect(&server);
    http_send_text(
        fd, "PUT /v1/objects/late HTTP/1.1\r\nHost: localhost\r\nSluice-Timeout: 20ms\r\nContent-Length: 4\r\n\r\nab");
    usleep(60000);
    http_send_text(fd, "cd");
    http_read(fd, false, &answer);
    cr_expect(answer.status == 504, "%d", answer.status);
    answer_free(&answer);
    close(fd);
    EXPECT(&server, 404, "GET", "/v1/objects/late", NULL, NULL);
}

Test(http_errors, a_watch_that_does_not_reach_the_store_is_503)
{
    fake_mute_watches(true);
    struct answer answer;
    http_call(&server, "GET", "/v1/watch?prefix=", "Sluice-Timeout: 50ms\r\n", NULL, 0, &answer);
    cr_expect(answer.status == 503 && answer_header(&answer, "Retry-After") != NULL, "%d", answer.status);
    answer_free(&answer);
    EXPECT(&server, 503, "GET", "/v1/lambdas/a/log", "Sluice-Timeout: 50ms\r\n", NULL);
    fake_mute_watches(false);
}

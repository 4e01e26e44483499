/* Pools, lambdas, the gateway's own state, and its limits. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
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

TestSuite(http_control, .init = setup, .fini = teardown);

#define FORM             "Content-Type: multipart/form-data; boundary=xyz\r\n"
#define PART(name, text) "--xyz\r\nContent-Disposition: form-data; name=\"" name "\"\r\n\r\n" text "\r\n"
#define END              "--xyz--\r\n"

static void expect_upload(int status, const char *says, const char *target, const char *headers, const char *body)
{
    struct answer answer;
    http_call(&server, "POST", target, headers, body, strlen(body), &answer);
    cr_expect_eq(answer.status, status, "%s: %d %s", body, answer.status, answer.body);
    cr_expect(answer_has(&answer, says), "%s: %s", says, answer.body);
    answer_free(&answer);
}

Test(http_control, a_lambda_comes_as_a_form_or_alone)
{
    expect_upload(201, "\"name\":\"shapes\"", "/v1/lambdas", FORM,
                  PART("manifest", "{\"name\":\"shapes\",\"config\":{\"a\":1}}") PART("file", "\177ELF and so on") END);
    expect_upload(201, "\"config\":{\"a\":1}", "/v1/lambdas?name=shapes", FORM,
                  PART("file", "\177ELF and so on") PART("manifest", "{\"config\":{\"a\":1}}") END);
    expect_upload(201, "\"size\":9", "/v1/lambdas?name=alone", "Content-Type: application/octet-stream\r\n",
                  "\177ELFalone");
}

Test(http_control, a_form_that_is_wrong_says_how)
{
    expect_upload(415, "multipart/form-data", "/v1/lambdas", NULL, "\177ELF");
    expect_upload(400, "boundary", "/v1/lambdas", "Content-Type: multipart/form-data\r\n", "x");
    expect_upload(400, "file is missing", "/v1/lambdas", FORM, PART("manifest", "{\"name\":\"a\"}") END);
    expect_upload(400, "name", "/v1/lambdas", FORM, PART("file", "\177ELF") END);
    expect_upload(400, "no JSON object", "/v1/lambdas", FORM, PART("file", "\177ELF") PART("manifest", "{") END);
    expect_upload(400, "no JSON object", "/v1/lambdas", FORM, PART("file", "\177ELF") PART("manifest", "[]") END);
    expect_upload(400, "differ", "/v1/lambdas?name=b", FORM,
                  PART("file", "\177ELF") PART("manifest", "{\"name\":\"a\"}") END);
    expect_upload(400, "no other", "/v1/lambdas?name=b", FORM, PART("file", "\177ELF") PART("extra", "x") END);
    expect_upload(400, "twice", "/v1/lambdas?name=b", FORM, PART("file", "\177ELF") PART("file", "\177ELF") END);
    expect_upload(400, "malformed", "/v1/lambdas?name=b", FORM, PART("file", "\177ELF"));
    expect_upload(400, "", "/v1/lambdas?name=b", FORM, "no boundary at all");
    expect_upload(400, "slash", "/v1/lambdas?name=a/b", NULL, "\177ELF");
    expect_upload(400, "slash", "/v1/lambdas?name=", NULL, "\177ELF");
    expect_upload(400, "missing or empty", "/v1/lambdas?name=a", NULL, "");
    expect_upload(422, "unprocessable", "/v1/lambdas?name=a", NULL, "text");
    static char manifest[400000];
    int at = sprintf(manifest, "--xyz\r\nContent-Disposition: form-data; name=\"manifest\"\r\n\r\n");
    memset(manifest + at, ' ', 300000);
    strcpy(manifest + at + 300000, "\r\n" END);
    expect_upload(413, "limit", "/v1/lambdas?name=a", FORM, manifest);
}

Test(http_control, a_large_upload_comes_through_whole)
{
    struct answer answer;
    static char body[5 << 20];
    int at = sprintf(body, "--xyz\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.so\"\r\nContent-Type: "
                           "application/octet-stream\r\n\r\n\177ELF");
    memset(body + at, '\r', 4 << 20);
    at += 4 << 20;
    at += sprintf(body + at, "\r\n--xyz--\r\n");
    http_call(&server, "POST", "/v1/lambdas?name=a", FORM, body, (size_t)at, &answer);
    cr_expect_eq(answer.status, 201, "%s", answer.body);
    cr_expect(answer_has(&answer, "\"size\":4194308"), "%s", answer.body);
    answer_free(&answer);
}

Test(http_control, lambdas_are_shown_switched_and_removed)
{
    EXPECT(&server, 200, "GET", "/v1/lambdas", NULL, NULL);
    EXPECT(&server, 200, "GET", "/v1/lambdas/shapes", NULL, NULL);
    EXPECT(&server, 404, "GET", "/v1/lambdas/missing", NULL, NULL);
    EXPECT(&server, 200, "POST", "/v1/lambdas/shapes/enable", NULL, NULL);
    EXPECT(&server, 200, "POST", "/v1/lambdas/shapes/disable", NULL, "");
    EXPECT(&server, 404, "POST", "/v1/lambdas/missing/disable", NULL, NULL);
    EXPECT(&server, 200, "DELETE", "/v1/lambdas/shapes", NULL, NULL);
    EXPECT(&server, 404, "DELETE", "/v1/lambdas/missing", NULL, NULL);
}

Test(http_control, pools_are_documents)
{
    struct answer answer;
    EXPECT(&server, 200, "GET", "/v1/pools", NULL, NULL);
    http_call(&server, "GET", "/v1/pools/%2F", NULL, NULL, 0, &answer);
    cr_expect(answer.status == 200 && answer_has(&answer, "\"prefix\":\"\""), "%s", answer.body);
    answer_free(&answer);
    EXPECT(&server, 200, "GET", "/v1/pools/farm", NULL, NULL);
    EXPECT(&server, 404, "GET", "/v1/pools/missing", NULL, NULL);
    EXPECT(&server, 200, "PUT", "/v1/pools/farm%2Fnorth", "Content-Type: application/json\r\n",
           "{\"kind\":\"volatile\"}");
    EXPECT(&server, 409, "PUT", "/v1/pools/taken", NULL, "{\"kind\":\"volatile\"}");
    EXPECT(&server, 409, "DELETE", "/v1/pools/%2F", NULL, NULL);
    EXPECT(&server, 200, "DELETE", "/v1/pools/farm?force=true", NULL, NULL);
    EXPECT(&server, 400, "DELETE", "/v1/pools/farm?force=1", NULL, NULL);
    EXPECT(&server, 404, "DELETE", "/v1/pools/missing", NULL, NULL);
}

Test(http_control, it_describes_itself)
{
    struct answer answer;
    http_call(&server, "GET", "/openapi.yaml", NULL, NULL, 0, &answer);
    cr_expect(answer.status == 200 && answer.size > 10000 && strncmp(answer.body, "openapi: 3.1.0", 14) == 0);
    answer_free(&answer);
    EXPECT(&server, 201, "PUT", "/v1/objects/k", NULL, "12345");
    http_call(&server, "GET", "/metrics", NULL, NULL, 0, &answer);
    cr_expect_eq(answer.status, 200);
    cr_expect(answer_has(&answer, "sluice_http_requests_total{route=\"/v1/objects/{key}\",status=\"201\"} 1\n"), "%s",
              answer.body);
    cr_expect(answer_has(&answer, "sluice_http_request_seconds_count{route=\"/v1/objects/{key}\"} 1\n"));
    cr_expect(answer_has(&answer, "sluice_http_received_bytes_total 5\n") &&
              answer_has(&answer, "sluice_client_calls_total 1\n"));
    answer_free(&answer);
}

Test(http_control, a_call_under_way_is_answered_when_the_gateway_stops)
{
    struct answer answer;
    int fd = http_connect(&server);
    fake_hold(true);
    http_send_text(fd, "GET /v1/objects/k HTTP/1.1\r\nHost: localhost\r\n\r\n");
    while (fake_waiting() == 0)
        usleep(1000);
    gateway_stop(server.gateway);
    usleep(50000);
    fake_hold(false);
    http_read(fd, false, &answer);
    cr_expect_eq(answer.status, 404);
    answer_free(&answer);
    close(fd);
}

Test(http_control, many_calls_under_way_at_once_are_all_answered)
{
    enum { CALLS = 800 };
    static int fds[CALLS];
    EXPECT(&server, 201, "PUT", "/v1/objects/k", NULL, "value");
    fake_hold(true);
    for (int i = 0; i < CALLS; i++) {
        fds[i] = http_connect(&server);
        http_send_text(fds[i], "GET /v1/objects/k HTTP/1.1\r\nHost: localhost\r\n\r\n");
    }
    while (fake_waiting() < CALLS)
        usleep(1000);
    fake_hold(false);
    for (int i = 0; i < CALLS; i++) {
        struct answer answer;
        http_read(fds[i], false, &answer);
        cr_expect(answer.status == 200 && strcmp(answer.body, "value") == 0);
        answer_free(&answer);
        close(fds[i]);
    }
}

Test(http_control, clients_that_give_up_while_the_store_thinks_harm_nobody)
{
    fake_hold(true);
    for (int i = 0; i < 100; i++) {
        int fd = http_connect(&server);
        http_send_text(fd, i % 2 == 0 ? "GET /v1/objects/k HTTP/1.1\r\nHost: localhost\r\n\r\n"
                                      : "PUT /v1/objects/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx");
        if (i % 3 == 0) {
            while (fake_waiting() < (unsigned)i / 2)
                usleep(1000);
        }
        close(fd);
    }
    fake_hold(false);
    EXPECT(&server, 200, "GET", "/healthz", NULL, NULL);
}

#ifndef __SANITIZE_THREAD__ /* its own background thread wakes twenty times a second */
Test(http_control, nothing_is_done_while_nothing_is_asked)
{
    struct rusage before, after;
    EXPECT(&server, 200, "GET", "/healthz", NULL, NULL);
    usleep(100000);
    getrusage(RUSAGE_SELF, &before);
    sleep(2);
    getrusage(RUSAGE_SELF, &after);
    cr_expect_leq(after.ru_nvcsw - before.ru_nvcsw, 3, "%ld times awake", after.ru_nvcsw - before.ru_nvcsw);
}
#endif

Test(http_limits, bodies_share_a_bounded_memory)
{
    struct server small;
    struct gateway_options options = {.memory_max = 300000};
    server_start(&small, &options);
    static char body[200000];
    int fd = http_connect(&small);
    struct answer answer;
    http_send_text(fd, "PUT /v1/objects/slow HTTP/1.1\r\nHost: localhost\r\nContent-Length: 200001\r\n\r\n");
    http_send(fd, body, sizeof(body));
    usleep(100000);
    http_call(&small, "PUT", "/v1/objects/k", NULL, body, sizeof(body), &answer);
    cr_expect_eq(answer.status, 429, "%d", answer.status);
    cr_expect_not_null(answer_header(&answer, "Retry-After"));
    answer_free(&answer);
    http_send(fd, body, 1);
    http_read(fd, false, &answer);
    cr_expect_eq(answer.status, 201);
    answer_free(&answer);
    close(fd);
    usleep(20000);
    http_call(&small, "PUT", "/v1/objects/k", NULL, body, sizeof(body), &answer);
    cr_expect_eq(answer.status, 201, "what one has given back another may take: %d %s", answer.status, answer.body);
    answer_free(&answer);
    server_stop(&small);
}

Test(http_limits, beyond_the_limit_connections_wait_their_turn)
{
    struct server small;
    struct gateway_options options = {.connections_max = 8};
    server_start(&small, &options);
    int fds[8];
    for (int i = 0; i < 8; i++) {
        struct answer answer;
        fds[i] = http_connect(&small);
        http_send_text(fds[i], "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
        http_read(fds[i], false, &answer);
        cr_expect_eq(answer.status, 200);
        answer_free(&answer);
    }
    bool found;
    int ninth = http_connect(&small);
    http_send_text(ninth, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
    free(http_read_until(ninth, "200 OK", 200, &found));
    cr_expect_not(found);
    close(fds[3]);
    free(http_read_until(ninth, "200 OK", 5000, &found));
    cr_expect(found, "a place was free");
    close(ninth);
    for (int i = 0; i < 8; i++) {
        if (i != 3)
            close(fds[i]);
    }
    server_stop(&small);
}

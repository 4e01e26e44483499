/* Who may call: Host and Origin, tokens, TLS, and what an address may be listened on with. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/unit/gateway/http_client.h"

#define READER "reader-token-0123456789"
#define BARN   "barn-token-0123456789ab"
#define ADMIN  "admin-token-0123456789a"

static const char tokens[] = "{\"tokens\":[{\"token\":\"" READER "\",\"role\":\"read\"},"
                             "{\"token\":\"" BARN "\",\"role\":\"write\",\"prefix\":\"farm/\",\"subject\":\"barn\"},"
                             "{\"token\":\"" ADMIN "\",\"role\":\"admin\"}]}";

static char path[64];

static const char *write_file(const char *text)
{
    strcpy(path, "/tmp/sluice-test-XXXXXX");
    int fd = mkstemp(path);
    cr_assert(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
    return path;
}

Test(http_access, a_foreign_host_or_origin_is_refused_without_tokens)
{
    struct server server;
    const char *const hosts[] = {"store.example"}, *const origins[] = {"https://app.example"};
    struct gateway_options options = {.hosts = hosts, .host_count = 1, .origins = origins, .origin_count = 1};
    server_start(&server, &options);
    char own[128];
    EXPECT(&server, 200, "GET", "/v1/cluster", "Host: localhost:1\r\n", NULL);
    EXPECT(&server, 200, "GET", "/v1/cluster", "Host: 127.0.0.1\r\n", NULL);
    EXPECT(&server, 200, "GET", "/v1/cluster", "Host: [::1]:80\r\n", NULL);
    EXPECT(&server, 200, "GET", "/v1/cluster", "Host: Store.Example\r\n", NULL);
    EXPECT(&server, 403, "GET", "/v1/cluster", "Host: evil.example\r\n", NULL);
    EXPECT(&server, 403, "GET", "/v1/cluster", "Host: 10.0.0.1\r\n", NULL);
    EXPECT(&server, 403, "GET", "/v1/cluster", "Host: a b\r\n", NULL);
    EXPECT(&server, 403, "POST", "/v1/lambdas?name=a", "Origin: https://evil.example\r\n", "\177ELF");
    EXPECT(&server, 403, "GET", "/v1/cluster", "Origin: null\r\n", NULL);
    EXPECT(&server, 403, "GET", "/v1/cluster", "Host: localhost:1\r\nOrigin: http://localhost:2\r\n", NULL);
    EXPECT(&server, 403, "GET", "/v1/cluster", "Host: localhost:1\r\nOrigin: https://localhost:1\r\n", NULL);
    EXPECT(&server, 403, "GET", "/healthz", "Host: evil.example\r\n", NULL);
    snprintf(own, sizeof(own), "Host: localhost:%u\r\nOrigin: http://localhost:%u\r\n", server.port, server.port);
    EXPECT(&server, 200, "GET", "/v1/cluster", own, NULL);
    EXPECT(&server, 200, "GET", "/v1/cluster", "Origin: https://app.example\r\n", NULL);
    cr_expect_eq(fake_call_count(), 6, "%u", fake_call_count());
    server_stop(&server);
}

Test(http_access, the_target_names_the_host_in_absolute_form)
{
    struct server server;
    struct answer answer;
    static const char text[] = "GET http://evil.example/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    server_start(&server, NULL);
    http_raw(&server, text, sizeof(text) - 1, &answer);
    cr_expect_eq(answer.status, 403);
    answer_free(&answer);
    server_stop(&server);
}

Test(http_access, pages_of_an_allowed_origin_are_told_so)
{
    struct server server;
    struct answer answer;
    const char *const origins[] = {"https://app.example"};
    struct gateway_options options = {.origins = origins, .origin_count = 1};
    server_start(&server, &options);
    http_call(&server, "OPTIONS", "/v1/objects/k",
              "Origin: https://app.example\r\nAccess-Control-Request-Method: PUT\r\nAccess-Control-Request-Headers: "
              "if-match\r\n",
              NULL, 0, &answer);
    cr_expect_eq(answer.status, 204);
    cr_expect_str_eq(answer_header(&answer, "Access-Control-Allow-Origin"), "https://app.example");
    cr_expect_not_null(strstr(answer_header(&answer, "Access-Control-Allow-Methods"), "PUT"));
    answer_free(&answer);
    http_call(&server, "GET", "/v1/objects/k", "Origin: https://app.example\r\n", NULL, 0, &answer);
    cr_expect_eq(answer.status, 404);
    cr_expect_str_eq(answer_header(&answer, "Access-Control-Allow-Origin"), "https://app.example");
    cr_expect_str_eq(answer_header(&answer, "Vary"), "Origin");
    answer_free(&answer);
    http_call(&server, "OPTIONS", "/v1/objects/k",
              "Origin: https://evil.example\r\nAccess-Control-Request-Method: PUT\r\n", NULL, 0, &answer);
    cr_expect_eq(answer.status, 403);
    answer_free(&answer);
    http_call(&server, "GET", "/v1/cluster", NULL, NULL, 0, &answer);
    cr_expect_null(answer_header(&answer, "Access-Control-Allow-Origin"));
    answer_free(&answer);
    server_stop(&server);
}

Test(http_access, tokens_decide_where_there_are_any)
{
    struct server server;
    struct answer answer;
    struct gateway_options options = {.tokens_path = write_file(tokens)};
    server_start(&server, &options);
    const char *reader = "Authorization: Bearer " READER "\r\n", *barn = "Authorization: Bearer " BARN "\r\n",
               *admin = "Authorization: Bearer " ADMIN "\r\n";
    http_call(&server, "GET", "/v1/objects/farm/a", NULL, NULL, 0, &answer);
    cr_expect_eq(answer.status, 401);
    cr_expect_str_eq(answer_header(&answer, "WWW-Authenticate"), "Bearer realm=\"sluice\"");
    answer_free(&answer);
    EXPECT(&server, 401, "PUT", "/v1/objects/farm/a", "Authorization: Bearer wrong-wrong-wrong-wrong\r\n", "x");
    EXPECT(&server, 401, "GET", "/metrics", NULL, NULL);
    EXPECT(&server, 401, "GET", "/v1/cluster", NULL, NULL);
    EXPECT(&server, 200, "GET", "/healthz", NULL, NULL);
    EXPECT(&server, 200, "GET", "/readyz", NULL, NULL);
    EXPECT(&server, 200, "GET", "/openapi.yaml", NULL, NULL);
    EXPECT(&server, 200, "GET", "/metrics", reader, NULL);
    EXPECT(&server, 200, "GET", "/v1/cluster", "Authorization: Bearer " READER "\r\nHost: any.example\r\n", NULL);

    EXPECT(&server, 201, "PUT", "/v1/objects/farm/a", barn, "x");
    char key[256], subject[64];
    bool delivered, is_admin;
    fake_last_write(key, subject, &delivered, &is_admin);
    cr_expect_str_eq(subject, "barn");
    EXPECT(&server, 200, "GET", "/v1/objects/farm/a", barn, NULL);
    EXPECT(&server, 200, "GET", "/v1/objects/farm/a", reader, NULL);
    EXPECT(&server, 403, "PUT", "/v1/objects/farm/a", reader, "x");
    EXPECT(&server, 403, "DELETE", "/v1/objects/farm/a", reader, NULL);
    EXPECT(&server, 403, "PUT", "/v1/objects/farmland/a", barn, "x");
    EXPECT(&server, 403, "GET", "/v1/objects/farm", barn, NULL);
    EXPECT(&server, 403, "GET", "/v1/history/other/a", barn, NULL);
    EXPECT(&server, 200, "GET", "/v1/objects?prefix=farm/", barn, NULL);
    EXPECT(&server, 403, "GET", "/v1/objects?prefix=farm", barn, NULL);
    EXPECT(&server, 403, "GET", "/v1/objects", barn, NULL);
    EXPECT(&server, 403, "GET", "/v1/objects?prefix=_sluice/", reader, NULL);
    EXPECT(&server, 200, "GET", "/v1/objects?prefix=_sluice/", admin, NULL);
    EXPECT(&server, 403, "POST", "/v1/snapshot", barn, "{\"keys\":[\"farm/a\",\"other\"]}");
    EXPECT(&server, 403, "POST", "/v1/snapshot", barn, "{\"prefixes\":[\"\"]}");
    EXPECT(&server, 200, "POST", "/v1/snapshot", barn, "{\"keys\":[\"farm/a\"],\"prefixes\":[\"farm/b\"]}");
    EXPECT(&server, 403, "POST", "/v1/batch", reader, "{\"operations\":[{\"op\":\"put\",\"key\":\"farm/a\"}]}");
    EXPECT(&server, 403, "POST", "/v1/batch", barn,
           "{\"operations\":[{\"op\":\"put\",\"key\":\"farm/a\"},{\"op\":\"put\",\"key\":\"b\"}]}");
    EXPECT(&server, 403, "GET", "/v1/watch?prefix=", barn, NULL);
    EXPECT(&server, 403, "GET", "/v1/watch?glob=*/a", barn, NULL);
    EXPECT(&server, 403, "GET", "/v1/watch?regex=farm.*", barn, NULL);
    EXPECT(&server, 403, "GET", "/v1/watch?key=other", barn, NULL);
    EXPECT(&server, 403, "GET", "/v1/watch?prefix=_sluice/", reader, NULL);
    EXPECT(&server, 403, "POST", "/v1/lambdas?name=a", barn, "\177ELF");
    EXPECT(&server, 403, "GET", "/v1/lambdas", reader, NULL);
    EXPECT(&server, 403, "GET", "/v1/lambdas/a/log", reader, NULL);
    EXPECT(&server, 201, "POST", "/v1/lambdas?name=a", admin, "\177ELF");
    EXPECT(&server, 403, "PUT", "/v1/pools/farm", barn, "{\"kind\":\"volatile\"}");
    EXPECT(&server, 200, "GET", "/v1/pools/farm", barn, NULL);
    EXPECT(&server, 200, "PUT", "/v1/pools/farm", admin, "{\"kind\":\"volatile\"}");
    int fd = http_connect(&server);
    bool found;
    http_send_text(fd, "GET /v1/watch?glob=farm/** HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer " BARN "\r\n\r\n");
    free(http_read_until(fd, "retry: 1000", 5000, &found));
    cr_expect(found);
    close(fd);
    server_stop(&server);
    unlink(path);
}

static void expect_refused(struct gateway_options options, const char *says)
{
    static const char *const nodes[] = {"shm:test"};
    struct gateway *gateway = NULL;
    char error[512] = "";
    if (options.node_count == 0)
        options.nodes = nodes;
    options.node_count = 1;
    cr_expect_neq(gateway_create(&options, &gateway, error, sizeof(error)), SLUICE_OK);
    cr_expect_not_null(strstr(error, says), "\"%s\" is not in \"%s\"", says, error);
}

Test(http_access, an_address_that_others_reach_needs_tokens_and_tls)
{
    expect_refused((struct gateway_options){.listen = "0.0.0.0:0"}, "--tokens");
    expect_refused((struct gateway_options){.listen = "[::]:0"}, "--tokens");
    expect_refused((struct gateway_options){.listen = "0.0.0.0:0", .tokens_path = write_file(tokens)},
                   "--tls-certificate");
    unlink(path);
    struct server server;
    struct gateway_options options = {.listen = "0.0.0.0:0", .insecure = true};
    server_start(&server, &options);
    EXPECT(&server, 200, "GET", "/healthz", "Host: gateway:8080\r\n", NULL);
    EXPECT(&server, 200, "GET", "/healthz", "Host: 10.1.2.3\r\n", NULL);
    EXPECT(&server, 403, "GET", "/healthz", "Host: evil.example\r\n", NULL);
    server_stop(&server);
}

Test(http_access, options_that_are_wrong_say_how)
{
    static const char *const bad_nodes[] = {"10.0.0.1:7400"};
    expect_refused((struct gateway_options){.listen = "8080"}, "HOST:PORT");
    expect_refused((struct gateway_options){.listen = "example.org:80"}, "IP address");
    expect_refused((struct gateway_options){.listen = "127.0.0.1:99999"}, "HOST:PORT");
    expect_refused((struct gateway_options){.listen = "192.0.2.1:0", .insecure = true}, "cannot listen");
    expect_refused((struct gateway_options){.nodes = bad_nodes, .node_count = 1}, "shm:NAME");
    expect_refused((struct gateway_options){.tokens_path = "/nonexistent"}, "/nonexistent");
    expect_refused((struct gateway_options){.listen = "127.0.0.1:0", .tls_key_path = "/nonexistent"}, "both");
    expect_refused((struct gateway_options){.value_bytes_max = UINT64_C(1) << 40}, "67108864");
}

Test(http_access, tls_is_spoken_where_a_certificate_is_given)
{
    if (system("command -v openssl curl >/dev/null") != 0)
        cr_skip_test("openssl and curl are needed");
    char directory[] = "/tmp/sluice-tls-XXXXXX", command[512], key[64], certificate[64];
    cr_assert_not_null(mkdtemp(directory));
    snprintf(key, sizeof(key), "%s/key.pem", directory);
    snprintf(certificate, sizeof(certificate), "%s/cert.pem", directory);
    snprintf(
        command, sizeof(command),
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost -addext "
        "subjectAltName=DNS:localhost -keyout %s -out %s 2>/dev/null",
        key, certificate);
    cr_assert_eq(system(command), 0);
    struct server server;
    struct gateway_options options = {.tls_certificate_path = certificate, .tls_key_path = key};
    server_start(&server, &options);
    snprintf(command, sizeof(command),
             "curl -sf --max-time 10 --cacert %s -H 'Content-Type: text/plain' -X PUT --data-binary @%s "
             "https://localhost:%u/v1/objects/k "
             ">/dev/null && curl -sf --max-time 10 --cacert %s https://localhost:%u/v1/objects/k | cmp - %s",
             certificate, key, server.port, certificate, server.port, key);
    cr_expect_eq(system(command), 0);
    struct answer answer;
    http_call(&server, "GET", "/healthz", NULL, NULL, 0, &answer);
    cr_expect_eq(answer.status, 0, "plain HTTP gets no answer");
    answer_free(&answer);
    server_stop(&server);
    unlink(key);
    unlink(certificate);
    rmdir(directory);
}

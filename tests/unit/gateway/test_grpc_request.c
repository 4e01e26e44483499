#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/proto/sluice.pb-c.h"
#include "core/base/clock.h"
#include "gateway/grpc__.h"

static size_t detail_of(const char *text, const char **out)
{
    struct rpc_outcome outcome = {.status = SLUICE_NOT_FOUND, .detail = text};
    return rpc__detail(&outcome, out);
}

Test(grpc_request, words_are_cut_between_characters)
{
    char text[2000];
    const char *out;
    cr_assert_eq(detail_of(NULL, &out), strlen(sluice_status_text(SLUICE_NOT_FOUND)));
    cr_assert_eq(detail_of("short", &out), 5);
    for (int shift = 0; shift < 4; shift++) {
        memset(text, 'a', sizeof(text));
        for (size_t i = (size_t)shift; i + 3 < sizeof(text); i += 4)
            memcpy(text + i, "\xf0\x9f\x90\x84", 4);
        text[1999] = '\0';
        size_t size = detail_of(text, &out);
        cr_assert(size <= 1024 && size > 1020);
        cr_assert_neq((uint8_t)out[size] & 0xc0, 0x80, "a character is cut in two at %zu", size);
    }
}

static const char *trailer(const struct rpc_outcome *outcome, const char *name)
{
    static struct rpc_trailer trailers[RPC_TRAILERS_MAX];
    size_t count = rpc__trailers(outcome, trailers);
    for (size_t i = 0; i < count; i++)
        if (strcmp(trailers[i].name, name) == 0)
            return trailers[i].value;
    return NULL;
}

Test(grpc_request, trailers_tell_what_is_known_and_nothing_else)
{
    struct rpc_outcome all = {
        .status = SLUICE_CONFLICT, .version = UINT64_MAX, .retry_after_ms = 250, .json = "{\"shards\":{}}"};
    cr_assert_str_eq(trailer(&all, "sluice-code"), "conflict");
    cr_assert_str_eq(trailer(&all, "sluice-version"), "18446744073709551615");
    cr_assert_str_eq(trailer(&all, "grpc-retry-pushback-ms"), "250");
    cr_assert_str_eq(trailer(&all, "sluice-detail-bin"), "{\"shards\":{}}");
    struct rpc_outcome code = {.status = SLUICE_CONFLICT};
    cr_assert_null(trailer(&code, "sluice-version"));
    cr_assert_null(trailer(&code, "grpc-retry-pushback-ms"));
    cr_assert_null(trailer(&code, "sluice-detail-bin"));
}

Test(grpc_request, a_large_document_is_left_out_of_the_trailers)
{
    static char json[5000];
    struct rpc_outcome outcome = {.status = SLUICE_CONFLICT, .json = json};
    memset(json, ' ', 4096);
    cr_assert_not_null(trailer(&outcome, "sluice-detail-bin"));
    json[4096] = ' ';
    cr_assert_null(trailer(&outcome, "sluice-detail-bin"));
}

Test(grpc_request, a_deadline_becomes_a_timeout_of_at_most_a_minute)
{
    struct rpc rpc = {.deadline_ns = UINT64_MAX, .after_ns = 7};
    cr_assert_eq(rpc_call(&rpc).timeout_ms, 0);
    cr_assert_eq(rpc_call(&rpc).after_ns, 7);
    rpc.deadline_ns = clock_monotonic_ns() + 3 * NS_PER_S;
    cr_assert(rpc_call(&rpc).timeout_ms > 2000 && rpc_call(&rpc).timeout_ms <= 3000);
    rpc.deadline_ns = clock_monotonic_ns() + 3600 * NS_PER_S;
    cr_assert_eq(rpc_call(&rpc).timeout_ms, 60000);
    rpc.deadline_ns = 1;
    cr_assert_eq(rpc_call(&rpc).timeout_ms, 1, "nothing left is not the default");
}

static struct slice slice(const char *text)
{
    return (struct slice){text, strlen(text)};
}

Test(grpc_request, metadata_is_read_and_what_is_wrong_refuses_the_call)
{
    static const struct rpc_method method = {.path = "/x"};
    struct rpc_shared shared = {.auth = auth_create_open()};
    const char *why = NULL;
    char text[32];
    struct rpc rpc = {.method = &method, .shared = &shared};
    rpc__metadata(&rpc, slice("sluice-after"), slice("2026-01-01T00:00:00Z"));
    rpc__metadata(&rpc, slice("user-agent"), slice("sluice-after"));
    cr_assert_eq(rpc__admit(&rpc, &why), SLUICE_OK);
    cr_assert_eq(rpc.after_ns, UINT64_C(1767225600000000000));

    rpc = (struct rpc){.method = &method, .shared = &shared};
    rpc__metadata(&rpc, slice("sluice-after"), slice("soon"));
    cr_assert_eq(rpc__admit(&rpc, &why), SLUICE_INVALID);
    rpc = (struct rpc){.method = &method, .shared = &shared};
    snprintf(text, sizeof(text), "%llu", (unsigned long long)(clock_realtime_ns() + 10 * NS_PER_S));
    rpc__metadata(&rpc, slice("sluice-after"), slice(text));
    cr_assert_eq(rpc__admit(&rpc, &why), SLUICE_INVALID);
    auth_destroy((struct auth *)(uintptr_t)shared.auth);
}

Test(grpc_request, memory_of_requests_is_counted_until_they_end)
{
    static const uint8_t put[] = {0x0a, 1, 'k', 0x12, 3, 'm', 'o', 'o'};
    const struct slice piece = {put, sizeof(put)};
    static const struct rpc_method unary = {.request = &sluice__v1__put_request__descriptor,
                                            .value_field = 2,
                                            .request_bytes_max = 100,
                                            .start = (void (*)(struct rpc *))abort};
    static const struct rpc_method answered = {
        .request = &sluice__v1__put_request__descriptor, .value_field = 2, .request_bytes_max = 100};
    struct rpc_shared shared = {.value_bytes_max = 3, .memory_max = 1000};
    const char *why = NULL;
    struct rpc rpc = {.method = &unary, .shared = &shared};
    for (size_t i = 1; i <= 3; i++) {
        cr_assert_eq(rpc__decode(&rpc, &piece, 1, &why), SLUICE_OK);
        cr_assert_eq(shared.held_bytes, i * sizeof(put), "parts of a stream pile up");
        cr_assert(rpc.value_size == 3 && memcmp(sluice_value_data(rpc.value), "moo", 3) == 0);
    }
    rpc__request_free(&rpc);
    cr_assert_eq(shared.held_bytes, 0);

    rpc = (struct rpc){.method = &answered, .shared = &shared};
    for (size_t i = 1; i <= 3; i++) {
        cr_assert_eq(rpc__decode(&rpc, &piece, 1, &why), SLUICE_OK);
        cr_assert_eq(shared.held_bytes, sizeof(put));
    }
    rpc__request_free(&rpc);

    shared.held_bytes = 1000;
    rpc = (struct rpc){.method = &unary, .shared = &shared};
    cr_assert_eq(rpc__decode(&rpc, &piece, 1, &why), SLUICE_BUSY);
    rpc__request_free(&rpc);
    cr_assert_eq(shared.held_bytes, 1000);

    shared = (struct rpc_shared){.value_bytes_max = 2, .memory_max = 1000};
    cr_assert_eq(rpc__decode(&rpc, &piece, 1, &why), SLUICE_TOO_LARGE);
    cr_assert_not_null(strstr(why, "2 bytes"));
    rpc__request_free(&rpc);
}

Test(grpc_request, figures_are_prometheus_text)
{
    struct rpc_shared shared = {.figures_count = 2, .held_bytes = 77};
    shared.figures[0].path = "/sluice.v1.Store/Put";
    shared.figures[1].path = "other";
    shared.figures[0].ended[0] = 5;
    shared.figures[0].ended[9] = 1;
    shared.figures[1].ended[12] = 2;
    struct emit out = {0};
    rpc__metrics(&shared, 3, &out);
    emit_char(&out, '\0');
    cr_assert_not(out.failed);
    static const char *const lines[] = {"\nsluice_grpc_calls_total{method=\"sluice.v1.Store/Put\",code=\"0\"} 5\n",
                                        "\nsluice_grpc_calls_total{method=\"sluice.v1.Store/Put\",code=\"9\"} 1\n",
                                        "\nsluice_grpc_calls_total{method=\"other\",code=\"12\"} 2\n",
                                        "\nsluice_grpc_in_flight 3\n", "\nsluice_grpc_memory_bytes 77\n"};
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++)
        cr_assert_not_null(strstr((const char *)out.out.data, lines[i]), "%s", lines[i]);
    emit_free(&out);
}

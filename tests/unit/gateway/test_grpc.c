/* The gRPC services over a real port, in one process with a store in memory. gRPC's C core carries no instrumentation,
 * so ThreadSanitizer sees its hand-overs between threads as races: that build leaves these tests out. */
#ifndef __SANITIZE_THREAD__

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "api/proto/health.pb-c.h"
#include "api/proto/reflection.pb-c.h"
#include "api/proto/sluice.pb-c.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "gateway/gateway.h"
#include "tests/unit/gateway/fake_sluice.h"
#include "tests/unit/gateway/grpc_client.h"

#define TEXT(text) ((char *)(uintptr_t)(text))
#define WAIT_MS    10000

enum { OK = 0, CANCELLED = 1, INVALID_ARGUMENT = 3, DEADLINE_EXCEEDED = 4, NOT_FOUND = 5, PERMISSION_DENIED = 7 };
enum { RESOURCE_EXHAUSTED = 8, FAILED_PRECONDITION = 9, UNIMPLEMENTED = 12, UNAVAILABLE = 14, UNAUTHENTICATED = 16 };

static struct gateway *gateway;
static pthread_t loop;
static bool runs;
static struct grpc_client *client;
static long values_before;

static void *run(void *arg)
{
    gateway_run(arg);
    return NULL;
}

static enum sluice_status create(const struct gateway_options *more, char error[256])
{
    static const char *const nodes[] = {"shm:fake"};
    struct gateway_options options = *more;
    options.listen = "127.0.0.1:0";
    options.nodes = nodes;
    options.node_count = 1;
    return gateway_create(&options, &gateway, error, 256);
}

static void start_with(const struct gateway_options *more)
{
    char error[256] = "";
    log_set_level(LOG_LEVEL_NONE);
    values_before = fake_values();
    fake_reset();
    fake_set_ready(true);
    cr_assert_eq(create(more, error), SLUICE_OK, "%s", error);
    cr_assert_eq(pthread_create(&loop, NULL, run, gateway), 0);
    runs = true;
    client = grpc_client_open(gateway_grpc_listen_port(gateway), false);
}

static void start(void)
{
    start_with(&(struct gateway_options){.grpc_listen = "127.0.0.1:0"});
}

/* The loop ends, with all that is under way. */
static void stop(void)
{
    if (runs) {
        gateway_stop(gateway);
        pthread_join(loop, NULL);
        gateway_destroy(gateway);
    }
    runs = false;
}

static void end(void)
{
    stop();
    grpc_client_close(client);
    fake_reset();
    cr_assert_eq(fake_values(), values_before, "%ld values are left", fake_values() - values_before);
}

static bool waits_for(unsigned (*count)(void), unsigned wanted)
{
    for (int i = 0; i < WAIT_MS && count() != wanted; i++)
        usleep(1000);
    return count() == wanted;
}

/* --- Requests ----------------------------------------------------------------------------------------------------*/

static int put(const char *key, const char *data, struct grpc_result *result)
{
    Sluice__V1__PutRequest request = SLUICE__V1__PUT_REQUEST__INIT;
    request.key = TEXT(key);
    request.data.data = (uint8_t *)TEXT(data);
    request.data.len = strlen(data);
    return grpc_client_call(client, "/sluice.v1.Store/Put", &request.base, WAIT_MS, NULL, result);
}

/* The data, to be compared at once; NULL where it failed. */
static const char *get(const char *key, struct grpc_result *result)
{
    static char data[256];
    Sluice__V1__GetRequest request = SLUICE__V1__GET_REQUEST__INIT;
    struct bytes reply = {0};
    request.key = TEXT(key);
    int status = grpc_client_call(client, "/sluice.v1.Store/Get", &request.base, WAIT_MS, &reply, result);
    if (status == OK) {
        Sluice__V1__Object *object = sluice__v1__object__unpack(NULL, reply.size, reply.data);
        cr_assert_not_null(object);
        snprintf(data, sizeof(data), "%.*s", (int)object->data.len, (const char *)object->data.data);
        sluice__v1__object__free_unpacked(object, NULL);
    }
    bytes_free(&reply);
    return status == OK ? data : NULL;
}

static struct grpc_stream *watch_from(struct grpc_client *which, const char *prefix, const char *cursor)
{
    Sluice__V1__WatchRequest request = SLUICE__V1__WATCH_REQUEST__INIT;
    request.pattern_case = SLUICE__V1__WATCH_REQUEST__PATTERN_PREFIX;
    request.prefix = TEXT(prefix);
    request.from = TEXT(cursor);
    request.data = 1;
    struct grpc_stream *stream = grpc_stream_open(which, "/sluice.v1.Store/Watch", 0);
    grpc_stream_write(stream, &request.base);
    grpc_stream_write_end(stream);
    return stream;
}

static struct grpc_stream *watch_with(struct grpc_client *which, const char *prefix)
{
    return watch_from(which, prefix, "");
}

/* The next change, past progress; false at the end. The caller frees it. */
static bool next_change(struct grpc_stream *stream, Sluice__V1__WatchEvent **out)
{
    struct bytes message = {0};
    *out = NULL;
    while (grpc_stream_read(stream, &message)) {
        *out = sluice__v1__watch_event__unpack(NULL, message.size, message.data);
        cr_assert_not_null(*out);
        if ((*out)->type != SLUICE__V1__WATCH_EVENT__TYPE__PROGRESS)
            break;
        sluice__v1__watch_event__free_unpacked(*out, NULL);
        *out = NULL;
    }
    bytes_free(&message);
    return *out != NULL;
}

/* --- What calls say ----------------------------------------------------------------------------------------------*/

Test(grpc, what_was_put_is_got, .init = start, .fini = end)
{
    struct grpc_result result;
    cr_assert_eq(put("farm/cow", "moo", &result), OK, "%s", result.detail);
    cr_assert_str_eq(result.code, "");
    cr_assert_str_eq(get("farm/cow", &result), "moo");
    cr_assert_str_eq(get("/farm/cow", &result), "moo");
}

Test(grpc, failures_carry_status_words_and_the_stable_code, .init = start, .fini = end)
{
    struct grpc_result result;
    cr_assert_null(get("none", &result));
    cr_assert_eq(result.status, NOT_FOUND);
    cr_assert_str_eq(result.code, "not_found");
    cr_assert_str_neq(result.detail, "");

    fake_fail(SLUICE_BUSY, 1, 250);
    cr_assert_eq(put("k", "v", &result), RESOURCE_EXHAUSTED);
    cr_assert_str_eq(result.code, "busy");
    cr_assert_str_eq(result.pushback, "250");

    fake_fail(SLUICE_OUTCOME_UNKNOWN, 1, 0);
    cr_assert_eq(put("k", "v", &result), DEADLINE_EXCEEDED);
    cr_assert_str_eq(result.code, "outcome_unknown");
    cr_assert_str_eq(result.pushback, "");
}

Test(grpc, a_tombstones_version_is_told, .init = start, .fini = end)
{
    struct grpc_result result;
    Sluice__V1__DeleteRequest request = SLUICE__V1__DELETE_REQUEST__INIT;
    request.key = TEXT("k");
    cr_assert_eq(put("k", "v", &result), OK);
    cr_assert_eq(grpc_client_call(client, "/sluice.v1.Store/Delete", &request.base, WAIT_MS, NULL, &result), OK);
    cr_assert_null(get("k", &result));
    cr_assert_eq(result.status, NOT_FOUND);
    cr_assert_str_eq(result.code, "deleted");
    cr_assert_str_eq(result.version, "2");
}

Test(grpc, unknown_methods_are_unimplemented, .init = start, .fini = end)
{
    struct grpc_result result;
    Sluice__V1__GetRequest request = SLUICE__V1__GET_REQUEST__INIT;
    cr_assert_eq(grpc_client_call(client, "/sluice.v1.Store/None", &request.base, WAIT_MS, NULL, &result),
                 UNIMPLEMENTED);
    cr_assert_str_eq(result.code, "method_not_allowed");
    cr_assert_not_null(strstr(result.detail, "/sluice.v1.Store/None"));
}

Test(grpc, a_stream_that_ends_without_a_request_is_refused, .init = start, .fini = end)
{
    struct grpc_result result;
    struct grpc_stream *stream = grpc_stream_open(client, "/sluice.v1.Store/Get", WAIT_MS);
    grpc_stream_write_end(stream);
    cr_assert_eq(grpc_stream_close(stream, &result), INVALID_ARGUMENT);
}

Test(grpc, a_deadline_passes_while_the_store_is_silent, .init = start, .fini = end)
{
    Sluice__V1__PutRequest request = SLUICE__V1__PUT_REQUEST__INIT;
    struct grpc_result result;
    request.key = TEXT("k");
    fake_hold(true);
    uint64_t begin = clock_monotonic_ns();
    cr_assert_eq(grpc_client_call(client, "/sluice.v1.Store/Put", &request.base, 200, NULL, &result),
                 DEADLINE_EXCEEDED);
    cr_assert_lt(clock_monotonic_ns() - begin, 3 * NS_PER_S);
    fake_hold(false);
    cr_assert_eq(put("k", "v", &result), OK);
}

/* --- Who may -----------------------------------------------------------------------------------------------------*/

static char tokens_path[] = "/tmp/sluice-test-tokens-XXXXXX";

static void start_with_tokens(void)
{
    static const char tokens[] =
        "{\"tokens\":[{\"token\":\"reader-token-0123456789\",\"role\":\"read\",\"subject\":\"reader\"},"
        "{\"token\":\"writer-token-0123456789\",\"role\":\"write\",\"prefix\":\"farm\",\"subject\":\"writer\"},"
        "{\"token\":\"admin-token-0123456789\",\"role\":\"admin\",\"subject\":\"admin\"}]}";
    int fd = mkstemp(tokens_path);
    cr_assert(fd >= 0 && write(fd, tokens, strlen(tokens)) == (ssize_t)strlen(tokens));
    close(fd);
    start_with(&(struct gateway_options){.grpc_listen = "127.0.0.1:0", .tokens_path = tokens_path});
    unlink(tokens_path);
}

static int call_empty(const char *method, struct grpc_result *result)
{
    Sluice__V1__StatusRequest empty = SLUICE__V1__STATUS_REQUEST__INIT;
    return grpc_client_call(client, method, &empty.base, WAIT_MS, NULL, result);
}

Test(grpc, tokens_say_who_may_do_what_where, .init = start_with_tokens, .fini = end)
{
    struct grpc_result result;
    char idempotency[256], subject[64];
    bool delivered, admin;
    cr_assert_eq(put("farm/cow", "moo", &result), UNAUTHENTICATED);
    cr_assert_str_eq(result.code, "unauthenticated");
    grpc_client_authorize(client, "Bearer nonsense-0123456789");
    cr_assert_eq(put("farm/cow", "moo", &result), UNAUTHENTICATED);

    grpc_client_authorize(client, "Bearer writer-token-0123456789");
    cr_assert_eq(put("farm/cow", "moo", &result), OK, "%s", result.detail);
    fake_last_write(idempotency, subject, &delivered, &admin);
    cr_assert_str_eq(subject, "writer");
    cr_assert_not(admin);
    cr_assert_eq(put("farmland/cow", "moo", &result), PERMISSION_DENIED);
    cr_assert_str_eq(result.code, "forbidden");
    cr_assert_eq(call_empty("/sluice.v1.Lambdas/List", &result), PERMISSION_DENIED);

    grpc_client_authorize(client, "Bearer reader-token-0123456789");
    cr_assert_str_eq(get("farm/cow", &result), "moo");
    cr_assert_eq(put("farm/cow", "no", &result), PERMISSION_DENIED);
    cr_assert_null(get("_sluice/lambdas/x", &result));
    cr_assert_eq(result.status, PERMISSION_DENIED);
    cr_assert_eq(call_empty("/sluice.v1.Cluster/Status", &result), OK, "%s", result.detail);

    grpc_client_authorize(client, "Bearer admin-token-0123456789");
    cr_assert_eq(put("_sluice/x", "internal", &result), OK);
    fake_last_write(idempotency, subject, &delivered, &admin);
    cr_assert(admin);
}

Test(grpc, a_watch_is_allowed_by_what_all_its_matches_begin_with, .init = start_with_tokens, .fini = end)
{
    struct grpc_result result;
    grpc_client_authorize(client, "Bearer writer-token-0123456789");
    struct grpc_stream *stream = watch_with(client, "farm/");
    cr_assert(grpc_stream_headers(stream));
    grpc_stream_cancel(stream);
    cr_assert_eq(grpc_stream_close(stream, &result), CANCELLED);
    cr_assert_eq(grpc_stream_close(watch_with(client, "far"), &result), PERMISSION_DENIED);
}

Test(grpc, an_upload_is_refused_before_its_file_is_taken, .init = start_with_tokens, .fini = end)
{
    struct grpc_result result;
    grpc_client_authorize(client, "Bearer reader-token-0123456789");
    struct grpc_stream *stream = grpc_stream_open(client, "/sluice.v1.Lambdas/Upload", WAIT_MS);
    /* Not a message was sent. */
    cr_assert_eq(grpc_stream_close(stream, &result), PERMISSION_DENIED);
}

Test(grpc, health_and_reflection_need_no_token, .init = start_with_tokens, .fini = end)
{
    struct grpc_result result;
    cr_assert_eq(call_empty("/grpc.health.v1.Health/Check", &result), OK);
    struct grpc_stream *stream =
        grpc_stream_open(client, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", WAIT_MS);
    Grpc__Reflection__V1alpha__ServerReflectionRequest request =
        GRPC__REFLECTION__V1ALPHA__SERVER_REFLECTION_REQUEST__INIT;
    request.message_request_case = GRPC__REFLECTION__V1ALPHA__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_LIST_SERVICES;
    request.list_services = TEXT("");
    struct bytes message = {0};
    for (int i = 0; i < 3; i++) {
        grpc_stream_write(stream, &request.base);
        cr_assert(grpc_stream_read(stream, &message));
    }
    grpc_stream_write_end(stream);
    cr_assert_not(grpc_stream_read(stream, &message));
    bytes_free(&message);
    cr_assert_eq(grpc_stream_close(stream, &result), OK);
}

/* --- Streams -----------------------------------------------------------------------------------------------------*/

Test(grpc, a_watch_stands_once_its_headers_are_there, .init = start, .fini = end)
{
    Sluice__V1__WatchEvent *event;
    struct grpc_stream *stream = watch_with(client, "farm/");
    cr_assert(grpc_stream_headers(stream));
    cr_assert_eq(fake_watch_count(), 1);
    fake_put("farm/cow", "moo", 3);
    cr_assert(next_change(stream, &event));
    cr_assert_str_eq(event->object->key, "farm/cow");
    cr_assert(event->object->data.len == 3 && memcmp(event->object->data.data, "moo", 3) == 0);
    sluice__v1__watch_event__free_unpacked(event, NULL);
    grpc_stream_cancel(stream);
    cr_assert_eq(grpc_stream_close(stream, NULL), CANCELLED);
    cr_assert(waits_for(fake_watch_count, 0), "the store still has the watch");
}

enum { CHANGES = 400, CHANGE_BYTES = 8000 };

static void make_changes(void)
{
    static char data[CHANGE_BYTES];
    for (int i = 0; i < CHANGES; i++) {
        memset(data, 'a' + i % 26, sizeof(data));
        fake_put("farm/cow", data, sizeof(data));
    }
}

static void read_changes(struct grpc_stream *stream, int first)
{
    Sluice__V1__WatchEvent *event;
    for (int i = first; i < CHANGES; i++) {
        cr_assert(next_change(stream, &event), "ended after %d changes", i);
        cr_assert_eq(event->object->version, (uint64_t)i + 1, "%d", i);
        cr_assert(event->object->data.len == CHANGE_BYTES &&
                  event->object->data.data[CHANGE_BYTES - 1] == 'a' + i % 26);
        sluice__v1__watch_event__free_unpacked(event, NULL);
    }
}

Test(grpc, clients_that_watch_the_same_share_a_watch, .init = start, .fini = end)
{
    struct grpc_stream *streams[5], *other = watch_with(client, "fa");
    cr_assert(grpc_stream_headers(other));
    for (int i = 0; i < 5; i++) {
        streams[i] = watch_with(client, "farm/");
        cr_assert(grpc_stream_headers(streams[i]));
    }
    cr_assert_eq(fake_watch_count(), 2);
    make_changes();
    for (int i = 0; i < 5; i++)
        read_changes(streams[i], 0);
    for (int i = 0; i < 5; i++) {
        grpc_stream_cancel(streams[i]);
        cr_assert_eq(grpc_stream_close(streams[i], NULL), CANCELLED);
    }
    cr_assert(waits_for(fake_watch_count, 1));
    read_changes(other, 0);
    grpc_stream_cancel(other);
    grpc_stream_close(other, NULL);
}

Test(grpc, a_watch_that_is_not_read_holds_up_nobody_and_misses_nothing, .init = start, .fini = end)
{
    struct grpc_client *slow = grpc_client_open(gateway_grpc_listen_port(gateway), true);
    struct grpc_stream *stream = watch_with(slow, "farm/"), *fast = watch_with(client, "farm/");
    cr_assert(grpc_stream_headers(stream) && grpc_stream_headers(fast));
    cr_assert_eq(fake_watch_count(), 1);
    make_changes();
    read_changes(fast, 0);
    read_changes(stream, 0);
    /* It has a watch of its own by now. */
    cr_assert_eq(fake_watch_count(), 2);
    grpc_stream_cancel(stream);
    grpc_stream_close(stream, NULL);
    cr_assert(waits_for(fake_watch_count, 1));
    grpc_stream_cancel(fast);
    grpc_stream_close(fast, NULL);
    grpc_client_close(slow);
}

Test(grpc, a_watch_from_a_cursor_is_paused_while_it_is_not_read, .init = start, .fini = end)
{
    struct grpc_client *slow = grpc_client_open(gateway_grpc_listen_port(gateway), true);
    struct grpc_stream *first = watch_with(client, "farm/");
    Sluice__V1__WatchEvent *event;
    cr_assert(grpc_stream_headers(first));
    make_changes();
    cr_assert(next_change(first, &event));
    struct grpc_stream *stream = watch_from(slow, "farm/", event->cursor);
    sluice__v1__watch_event__free_unpacked(event, NULL);
    grpc_stream_cancel(first);
    grpc_stream_close(first, NULL);
    cr_assert(waits_for(fake_paused_count, 1), "the store's watch is not paused");
    read_changes(stream, 1);
    cr_assert(waits_for(fake_paused_count, 0), "the store's watch is still paused");
    grpc_stream_cancel(stream);
    grpc_stream_close(stream, NULL);
    cr_assert(waits_for(fake_watch_count, 0));
    grpc_client_close(slow);
}

Test(grpc, a_watch_that_reaches_no_shards_is_given_up, .init = start, .fini = end)
{
    struct grpc_result result;
    fake_mute_watches(true);
    struct grpc_stream *stream = watch_with(client, "farm/");
    cr_assert_eq(grpc_stream_close(stream, &result), UNAVAILABLE);
    cr_assert_str_eq(result.code, "unavailable");
    cr_assert(waits_for(fake_watch_count, 0));
}

Test(grpc, the_end_of_a_watch_says_why, .init = start, .fini = end)
{
    struct grpc_result result;
    struct bytes message = {0};
    struct grpc_stream *stream = watch_with(client, "farm/");
    cr_assert(grpc_stream_headers(stream));
    fake_end_watches(SLUICE_GONE);
    while (grpc_stream_read(stream, &message))
        ;
    bytes_free(&message);
    cr_assert_eq(grpc_stream_close(stream, &result), 11);
    cr_assert_str_eq(result.code, "gone");
    cr_assert(waits_for(fake_watch_count, 0));
}

Test(grpc, history_is_paged_to_its_end, .init = start, .fini = end)
{
    enum { VERSIONS = 300 };
    static char data[20000];
    for (int i = 0; i < VERSIONS; i++)
        fake_put("farm/cow", data, (size_t)(i % 7) * 3000);
    Sluice__V1__HistoryRequest request = SLUICE__V1__HISTORY_REQUEST__INIT;
    request.key = TEXT("farm/cow");
    request.data = 1;
    for (int round = 0; round < 2; round++) {
        request.limit = round == 0 ? 0 : 123;
        struct grpc_stream *stream = grpc_stream_open(client, "/sluice.v1.Store/History", WAIT_MS);
        struct bytes message = {0};
        grpc_stream_write(stream, &request.base);
        grpc_stream_write_end(stream);
        uint64_t seen = 0;
        while (grpc_stream_read(stream, &message)) {
            Sluice__V1__Object *object = sluice__v1__object__unpack(NULL, message.size, message.data);
            cr_assert_not_null(object);
            cr_assert_eq(object->version, ++seen);
            cr_assert_eq(object->data.len, (seen - 1) % 7 * 3000);
            sluice__v1__object__free_unpacked(object, NULL);
        }
        bytes_free(&message);
        cr_assert_eq(grpc_stream_close(stream, NULL), OK);
        cr_assert_eq(seen, round == 0 ? VERSIONS : 123);
    }
}

Test(grpc, health_is_watched, .init = start, .fini = end)
{
    struct bytes message = {0};
    Grpc__Health__V1__HealthCheckRequest request = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
    struct grpc_stream *stream = grpc_stream_open(client, "/grpc.health.v1.Health/Watch", 0);
    grpc_stream_write(stream, &request.base);
    grpc_stream_write_end(stream);
    static const int expected[] = {1, 2, 1};
    for (size_t i = 0; i < sizeof(expected) / sizeof(expected[0]); i++) {
        fake_set_ready(expected[i] == 1);
        cr_assert(grpc_stream_read(stream, &message));
        cr_assert(message.size == 2 && message.data[1] == expected[i]);
    }
    bytes_free(&message);
    grpc_stream_cancel(stream);
    cr_assert_eq(grpc_stream_close(stream, NULL), CANCELLED);
}

/* --- Giving up and stopping --------------------------------------------------------------------------------------*/

static struct grpc_stream *held_put(const char *key)
{
    Sluice__V1__PutRequest request = SLUICE__V1__PUT_REQUEST__INIT;
    static uint8_t data[100000];
    request.key = TEXT(key);
    request.data.data = data;
    request.data.len = sizeof(data);
    struct grpc_stream *stream = grpc_stream_open(client, "/sluice.v1.Store/Put", 0);
    grpc_stream_write(stream, &request.base);
    grpc_stream_write_end(stream);
    return stream;
}

Test(grpc, calls_that_are_given_up_leave_nothing_behind, .init = start, .fini = end)
{
    enum { CALLS = 50 };
    struct grpc_stream *streams[CALLS];
    struct grpc_result result;
    fake_hold(true);
    for (int i = 0; i < CALLS; i++)
        streams[i] = held_put("k");
    cr_assert(waits_for(fake_waiting, CALLS));
    for (int i = 0; i < CALLS; i++) {
        grpc_stream_cancel(streams[i]);
        cr_assert_eq(grpc_stream_close(streams[i], &result), CANCELLED);
    }
    fake_hold(false);
    cr_assert(waits_for(fake_waiting, 0));
    cr_assert_eq(put("k", "v", &result), OK);
}

static void *stop_in_thread(void *arg)
{
    (void)arg;
    stop();
    return NULL;
}

Test(grpc, a_stopping_gateway_answers_what_is_under_way, .init = start, .fini = end)
{
    struct grpc_result result;
    pthread_t stopper;
    fake_hold(true);
    struct grpc_stream *waiting = held_put("k"), *stream = watch_with(client, "farm/");
    cr_assert(grpc_stream_headers(stream));
    cr_assert(waits_for(fake_waiting, 1));
    cr_assert_eq(pthread_create(&stopper, NULL, stop_in_thread, NULL), 0);
    /* The watch is told at once, the put waits for its answer. */
    struct bytes message = {0};
    while (grpc_stream_read(stream, &message))
        ;
    cr_assert_eq(grpc_stream_close(stream, &result), UNAVAILABLE);
    cr_assert_str_eq(result.code, "unavailable");
    cr_assert_not_null(strstr(result.detail, "resume"));
    fake_hold(false);
    cr_assert(grpc_stream_read(waiting, &message));
    bytes_free(&message);
    cr_assert_eq(grpc_stream_close(waiting, &result), OK);
    pthread_join(stopper, NULL);
}

Test(grpc, a_put_whose_answer_never_comes_ends_with_the_stores_own_word, .init = start, .fini = end)
{
    struct grpc_result result;
    pthread_t stopper;
    fake_hold(true);
    struct grpc_stream *waiting = held_put("k");
    cr_assert(waits_for(fake_waiting, 1));
    cr_assert_eq(pthread_create(&stopper, NULL, stop_in_thread, NULL), 0);
    int status = grpc_stream_close(waiting, &result);
    cr_assert_neq(status, OK);
    cr_assert_str_neq(result.code, "", "the call was cut off: %s", result.detail);
    pthread_join(stopper, NULL);
}

Test(grpc, a_half_sent_upload_and_open_streams_end_with_the_gateway, .init = start, .fini = end)
{
    Sluice__V1__UploadRequest request = SLUICE__V1__UPLOAD_REQUEST__INIT;
    static uint8_t data[100000];
    request.name = TEXT("half");
    request.file.data = data;
    request.file.len = sizeof(data);
    struct grpc_stream *upload = grpc_stream_open(client, "/sluice.v1.Lambdas/Upload", 0);
    grpc_stream_write(upload, &request.base);
    struct grpc_stream *info =
        grpc_stream_open(client, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", 0);
    usleep(100000);
    stop();
    cr_assert_eq(grpc_stream_close(upload, NULL), UNAVAILABLE);
    cr_assert_eq(grpc_stream_close(info, NULL), UNAVAILABLE);
}

/* --- Where it listens --------------------------------------------------------------------------------------------*/

static const char *refusal(const char *address)
{
    static char error[256];
    log_set_level(LOG_LEVEL_NONE);
    error[0] = '\0';
    enum sluice_status status = create(&(struct gateway_options){.grpc_listen = address}, error);
    if (status == SLUICE_OK)
        gateway_destroy(gateway);
    return status == SLUICE_OK ? NULL : error;
}

Test(grpc, an_address_is_one_or_refused)
{
    static const char *const wrong[] = {"nonsense",    "127.0.0.1",        "127.0.0.1:", ":8081",
                                        "unix:/tmp/x", "dns:///x:8081",    "[::1]",      "127.0.0.1:999999",
                                        "[::1]:port",  "example.org:8081", "::1:8081",   "localhost:x"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        const char *error = refusal(wrong[i]);
        cr_assert_not_null(error, "%s", wrong[i]);
        cr_assert_not_null(strstr(error, wrong[i]), "%s", error);
    }
    cr_assert_null(refusal("127.0.0.1:0"));
    cr_assert_null(refusal("localhost:0"));
}

Test(grpc, beyond_loopback_it_wants_tokens)
{
    const char *error = refusal("0.0.0.0:0");
    cr_assert_not_null(error);
    cr_assert_not_null(strstr(error, "--tokens"), "%s", error);
}

Test(grpc, a_port_is_listened_on_once, .init = start, .fini = end)
{
    struct gateway *first = gateway;
    char address[32];
    snprintf(address, sizeof(address), "127.0.0.1:%u", gateway_grpc_listen_port(gateway));
    const char *error = refusal(address);
    cr_assert_not_null(error);
    cr_assert_not_null(strstr(error, address), "%s", error);
    gateway = first;
}

#endif

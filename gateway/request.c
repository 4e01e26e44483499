/* From bytes to a request: target, headers, query, key, rights. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "core/base/panic.h"
#include "core/base/text.h"
#include "gateway/http__.h"

struct request *request__create(struct gateway *gateway, struct MHD_Connection *connection, const char *target)
{
    /* The target itself, its path decoded, its query decoded, each with a zero byte. */
    size_t size = strlen(target), storage = 2 * size + 4;
    struct request *request = malloc(sizeof(*request) + storage);
    if (request == NULL)
        return NULL;
    memset(request, 0, sizeof(*request));
    request->gateway = gateway;
    request->connection = connection;
    request->started_ns = clock_monotonic_ns();
    request->storage_size = size;
    memcpy(request->storage, target, size + 1);
    gateway->requests++;
    return request;
}

void request__destroy(struct request *request)
{
    struct gateway *gateway = request->gateway;
    if (request->release != NULL)
        request->release(request);
    if (request->held != NULL)
        MHD_destroy_response(request->held);
    collect__free(&request->body);
    ASSERT(gateway->memory >= request->memory && gateway->requests > 0);
    gateway->memory -= request->memory;
    gateway->requests--;
    free(request);
}

/* --- Headers ------------------------------------------------------------------------------------------------------ */

#define H(text, member)                                                                                                \
    {                                                                                                                  \
        text, sizeof(text) - 1, offsetof(struct headers, member)                                                       \
    }
static const struct known_header {
    const char *name;
    size_t size, offset;
} known_headers[] = {
    H("Host", host),
    H("Origin", origin),
    H("Authorization", authorization),
    H("Content-Type", content_type),
    H("Content-Length", content_length),
    H("Transfer-Encoding", transfer_encoding),
    H("Expect", expect),
    H("Accept", accept),
    H("Range", range),
    H("If-Range", if_range),
    H("If-Match", if_match),
    H("If-None-Match", if_none_match),
    H("If-Modified-Since", if_modified_since),
    H("If-Unmodified-Since", if_unmodified_since),
    H("Accept-Datetime", accept_datetime),
    H("Last-Event-ID", last_event_id),
    H("Idempotency-Key", idempotency_key),
    H("Sluice-Object-Time", object_time),
    H("Sluice-Timeout", timeout),
    H("Sluice-After", after),
    H("Access-Control-Request-Method", request_method),
};
#undef H

struct header_pass {
    struct headers *out;
    size_t bytes;
    const char *twice; /* a header that may be given once */
    bool zero;         /* a value with a zero byte in it */
};

static enum MHD_Result on_header(void *arg, enum MHD_ValueKind kind, const char *name, size_t name_size,
                                 const char *value, size_t value_size)
{
    (void)kind;
    struct header_pass *pass = arg;
    pass->bytes += name_size + value_size + 4;
    if (value == NULL)
        return MHD_YES;
    if (strlen(value) != value_size || strlen(name) != name_size)
        pass->zero = true;
    for (size_t i = 0; i < sizeof(known_headers) / sizeof(known_headers[0]); i++) {
        const struct known_header *known = &known_headers[i];
        if (known->size != name_size || strncasecmp(known->name, name, name_size) != 0)
            continue;
        const char **slot = (const char **)((char *)pass->out + known->offset);
        /* Lists may be given in parts (RFC 9110, 5.3); of those, Accept alone is of use without the rest. */
        if (*slot != NULL && known->offset != offsetof(struct headers, accept))
            pass->twice = known->name;
        else if (*slot == NULL)
            *slot = value;
        break;
    }
    return MHD_YES;
}

static bool read_headers(struct request *request)
{
    struct header_pass pass = {.out = &request->headers};
    MHD_get_connection_values_n(request->connection, MHD_HEADER_KIND, on_header, &pass);
    const struct headers *headers = &request->headers;
    if (pass.bytes > HTTP_HEADER_BYTES_MAX) {
        reply__problem_as(request, SLUICE_INVALID, 431, "the headers are %zu bytes long; at most %u are taken",
                          pass.bytes, HTTP_HEADER_BYTES_MAX);
        return false;
    }
    if (pass.twice != NULL) {
        reply__problem(request, SLUICE_INVALID, "the header %s is given more than once", pass.twice);
        return false;
    }
    if (pass.zero) {
        reply__problem(request, SLUICE_INVALID, "a header has a zero byte in it");
        return false;
    }
    /* Where two readers could disagree on where a body ends, a second request could hide in it (RFC 9112, 11.2). */
    if (headers->transfer_encoding != NULL &&
        (headers->content_length != NULL || strcasecmp(headers->transfer_encoding, "chunked") != 0)) {
        reply__problem(request, SLUICE_INVALID,
                       "a body has either a Content-Length or \"Transfer-Encoding: chunked\", and no other encoding");
        return false;
    }
    return true;
}

static bool read_timing(struct request *request)
{
    const struct headers *headers = &request->headers;
    if (headers->timeout != NULL && !parse_timeout(headers->timeout, &request->call.timeout_ms)) {
        reply__problem(request, SLUICE_INVALID,
                       "Sluice-Timeout is a duration from 1ms to 60s, for example 250ms or 2s, not \"%.40s\"",
                       headers->timeout);
        return false;
    }
    if (headers->after == NULL)
        return true;
    if (!request__time(request, "Sluice-After", headers->after, strlen(headers->after), &request->call.after_ns))
        return false;
    uint64_t limit = clock_realtime_ns() + HLC_AHEAD_MAX_NS;
    if (request->call.after_ns > limit) {
        reply__problem(request, SLUICE_INVALID, "Sluice-After is more than 500 ms ahead of this machine's clock");
        return false;
    }
    return true;
}

/* --- Paths -------------------------------------------------------------------------------------------------------- */

/* What follows the route's path, decoded once. A key may begin with one slash, which is dropped. */
static bool read_tail(struct request *request, const char *tail, size_t size)
{
    enum tail_kind kind = request->route->tail;
    if (kind == TAIL_NONE)
        return true;
    char *decoded = request->storage + request->storage_size + 1;
    size_t length;
    if (!parse_percent(tail, size, decoded, &length)) {
        reply__problem(request, SLUICE_INVALID,
                       "the path is badly encoded: a percent sign is followed by two hex digits, and they are not 00");
        return false;
    }
    decoded[length] = '\0';
    request->key = decoded;
    request->key_size = length;
    if (kind == TAIL_LAMBDA) {
        if (memchr(decoded, '/', length) == NULL && text_key_error(decoded, length) == NULL && length <= 255)
            return true;
        reply__problem(request, SLUICE_INVALID, "a lambda's name is 1 to 255 bytes of UTF-8 without a slash");
        return false;
    }
    if (kind == TAIL_NODE) {
        uint64_t id = 0;
        if (parse_u64(decoded, length, &id) && id >= 1 && id <= 63)
            return true;
        reply__problem(request, SLUICE_INVALID, "a node's number lies between 1 and 63");
        return false;
    }
    if (length > 0 && decoded[0] == '/') {
        request->key++;
        request->key_size--;
    }
    if (kind == TAIL_POOL && request->key_size == 0 && length == 1)
        return true; /* the root */
    const char *error = text_key_error(request->key, request->key_size);
    if (error != NULL)
        reply__problem(request, SLUICE_INVALID, "%s: %s",
                       kind == TAIL_POOL ? "a pool's prefix is spelled like a key" : "the key is malformed", error);
    return error == NULL;
}

static void reply_method(struct request *request)
{
    /* The name of the method is the client's bytes, so it is not quoted. */
    reply__problem(request, SLUICE_METHOD_NOT_ALLOWED, "this method is not offered here; see the header Allow");
    char allow[64] = "";
    for (size_t i = 0; i < ROUTE_OPERATIONS_MAX; i++) {
        static const char *const names[] = {"GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS"};
        const struct operation *operation = &request->route->operations[i];
        if (operation->run == NULL)
            break;
        size_t used = strlen(allow);
        snprintf(allow + used, sizeof(allow) - used, "%s%s%s", used > 0 ? ", " : "", names[operation->method],
                 operation->method == METHOD_GET && !operation->no_head ? ", HEAD" : "");
    }
    if (request->held != NULL)
        reply__header(request->held, "Allow", allow);
}

static bool find_operation(struct request *request, const char **tail, size_t *tail_size)
{
    const struct parse_target *target = &request->target;
    request->route = route__match(target->path, target->path_size, tail, tail_size);
    if (request->route == NULL) {
        reply__problem(request, SLUICE_NOT_FOUND,
                       "there is nothing at this path; GET /openapi.yaml describes what is there");
        return false;
    }
    for (size_t i = 0; i < ROUTE_OPERATIONS_MAX; i++) {
        const struct operation *operation = &request->route->operations[i];
        if (operation->run != NULL &&
            (operation->method == request->method ||
             (request->method == METHOD_HEAD && operation->method == METHOD_GET && !operation->no_head))) {
            request->operation = operation;
            return true;
        }
    }
    reply_method(request);
    return false;
}

/* A page of another origin that is allowed to call asks first what it may send (the Fetch standard's preflight). */
static bool is_preflight(const struct request *request)
{
    return request->method == METHOD_OPTIONS && request->headers.origin != NULL &&
           request->headers.request_method != NULL && origin__allowed(request->gateway, request->headers.origin);
}

static bool reply_preflight(struct request *request)
{
    struct MHD_Response *response = MHD_create_response_from_buffer(0, (void *)(uintptr_t) "", MHD_RESPMEM_PERSISTENT);
    if (response != NULL) {
        reply__header(response, "Access-Control-Allow-Methods", "GET, HEAD, PUT, POST, DELETE");
        reply__header(response, "Access-Control-Allow-Headers",
                      "Authorization, Content-Type, If-Match, If-None-Match, Idempotency-Key, Range, Last-Event-ID, "
                      "Accept-Datetime, Sluice-Object-Time, Sluice-Timeout, Sluice-After");
        reply__header(response, "Access-Control-Max-Age", "600");
    }
    reply__response(request, 204, response);
    return false;
}

static uint64_t body_limit(const struct request *request)
{
    uint64_t values = request->gateway->options.value_bytes_max;
    switch (request->operation->body) {
    case BODY_VALUE:
        return values;
    case BODY_LAMBDA:
        return values + HTTP_JSON_BYTES_MAX;
    case BODY_BATCH: /* values in base64 */
        return values / 3 * 4 + HTTP_JSON_BYTES_MAX;
    case BODY_JSON:
    case BODY_NONE:
        break;
    }
    return HTTP_JSON_BYTES_MAX;
}

static bool check_length(struct request *request)
{
    uint64_t size;
    request->body_limit = body_limit(request);
    const char *text = request->headers.content_length;
    if (text == NULL)
        return true;
    if (!parse_u64(text, strlen(text), &size)) {
        reply__problem(request, SLUICE_INVALID, "Content-Length is a decimal number");
        return false;
    }
    if (size > request->body_limit) {
        reply__problem(request, SLUICE_TOO_LARGE, "the body is %llu bytes long; the limit is %llu bytes",
                       (unsigned long long)size, (unsigned long long)request->body_limit);
        return false;
    }
    bool gathered = request->operation->body != BODY_NONE && request->operation->body != BODY_LAMBDA;
    if (gathered && size > 0 && !collect__reserve(&request->body, size, request->body_limit)) {
        reply__problem(request, SLUICE_BUSY, "there is no memory for a body of this size now; try again");
        return false;
    }
    return true;
}

static bool log_in(struct request *request)
{
    const char *why;
    const char *authorization = request->headers.authorization;
    enum sluice_status status = auth_login(request->gateway->auth, authorization,
                                           authorization != NULL ? strlen(authorization) : 0, &request->subject, &why);
    if (status != SLUICE_OK)
        reply__problem(request, status, "%s", why);
    return status == SLUICE_OK;
}

bool request__open(struct request *request)
{
    const char *tail = NULL;
    size_t tail_size = 0;
    if (!read_headers(request))
        return false;
    if (request->storage_size > HTTP_TARGET_BYTES_MAX) {
        reply__problem_as(request, SLUICE_INVALID, 414, "the request's target is %zu bytes long; at most %u are taken",
                          request->storage_size, HTTP_TARGET_BYTES_MAX);
        return false;
    }
    if (!parse_target(request->storage, request->storage_size, &request->target)) {
        reply__problem(request, SLUICE_INVALID, "the request's target is a path that begins with a slash");
        return false;
    }
    const char *foreign = origin__error(request->gateway, request);
    if (foreign != NULL) {
        reply__problem(request, SLUICE_FORBIDDEN, "%s", foreign);
        return false;
    }
    if (is_preflight(request))
        return reply_preflight(request);
    if (!find_operation(request, &tail, &tail_size))
        return false;
    bool open = request->route->id == METRICS_HEALTH || request->route->id == METRICS_READY ||
                request->route->id == METRICS_OPENAPI;
    if (!open && !log_in(request))
        return false;
    char error[160];
    char *storage = request->storage + request->storage_size + 1 + tail_size + 1;
    if (parse_query(request->target.query, request->target.query_size, request->operation->parameters, storage,
                    &request->query, error, sizeof(error)) != SLUICE_OK) {
        reply__problem(request, SLUICE_INVALID, "%s", error);
        return false;
    }
    return read_tail(request, tail, tail_size) && read_timing(request) &&
           (request->operation->check == NULL || request->operation->check(request)) && check_length(request);
}

/* --- Values from queries and headers ----------------------------------------------------------------------------- */

const char *request__parameter(const struct request *request, const char *name, size_t *size)
{
    const struct parse_parameter *parameter = parse_query_find(&request->query, name);
    if (size != NULL)
        *size = parameter != NULL ? parameter->value_size : 0;
    return parameter != NULL ? parameter->value : NULL;
}

bool request__time(struct request *request, const char *name, const char *text, size_t size, uint64_t *out)
{
    if (clock_parse(text, size, out) && *out > 0)
        return true;
    reply__problem(request, SLUICE_INVALID,
                   "%s is a time: RFC 3339 with a zone (2026-11-23T02:40:00.5Z) or nanoseconds since 1970", name);
    return false;
}

bool request__flag(struct request *request, const char *name, bool *out)
{
    const char *text = request__parameter(request, name, NULL);
    if (text == NULL)
        return true;
    *out = strcmp(text, "true") == 0;
    if (*out || strcmp(text, "false") == 0)
        return true;
    reply__problem(request, SLUICE_INVALID, "%s is true or false", name);
    return false;
}

bool request__number(struct request *request, const char *name, uint64_t low, uint64_t high, uint64_t *out)
{
    size_t size;
    uint64_t value;
    const char *text = request__parameter(request, name, &size);
    if (text == NULL)
        return true;
    if (parse_u64(text, size, &value) && value >= low && value <= high) {
        *out = value;
        return true;
    }
    reply__problem(request, SLUICE_INVALID, "%s is a number from %llu to %llu", name, (unsigned long long)low,
                   (unsigned long long)high);
    return false;
}

/* --- Bodies ------------------------------------------------------------------------------------------------------- */

#define COLLECT_BYTES_MIN 4096u

bool collect__reserve(struct collect *self, uint64_t extra, uint64_t limit)
{
    uint64_t needed = self->size + extra;
    if (needed <= self->capacity)
        return true;
    if (needed > limit || limit > UINT32_MAX)
        return false;
    uint64_t capacity = self->capacity > 0 ? (uint64_t)self->capacity * 2 : extra;
    if (capacity < needed)
        capacity = needed;
    if (capacity < COLLECT_BYTES_MIN && self->capacity > 0)
        capacity = COLLECT_BYTES_MIN;
    if (capacity > limit)
        capacity = limit;
    struct sluice_value *value = sluice_value_create((uint32_t)capacity);
    if (value == NULL)
        return false;
    if (self->size > 0)
        memcpy(sluice_value_data(value), sluice_value_data(self->value), self->size);
    if (self->value != NULL)
        sluice_value_unref(self->value);
    self->value = value;
    self->capacity = (uint32_t)capacity;
    return true;
}

bool collect__append(struct collect *self, const void *data, size_t size, uint64_t limit)
{
    if (!collect__reserve(self, size, limit))
        return false;
    memcpy(sluice_value_data(self->value) + self->size, data, size);
    self->size += (uint32_t)size;
    return true;
}

const char *collect__data(const struct collect *self)
{
    return self->value != NULL ? (const char *)sluice_value_data(self->value) : "";
}

void collect__free(struct collect *self)
{
    if (self->value != NULL)
        sluice_value_unref(self->value);
    *self = (struct collect){0};
}

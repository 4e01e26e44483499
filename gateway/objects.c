/* PUT, GET, HEAD and DELETE of one object. What conditions need is read from the request's headers where it is needed,
 * so that the plain ways keep no state at all. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/panic.h"
#include "gateway/http__.h"

#define IDEMPOTENCY_KEY_BYTES_MAX 255u
#define CONDITION_ATTEMPTS_MAX    4

static bool check_key(struct request *request, enum auth_role role)
{
    const char *why;
    enum sluice_status status = auth_key(request->subject, role, request->key, request->key_size, &why);
    request->call.admin = auth_internal(request->key, request->key_size);
    if (status != SLUICE_OK)
        reply__problem(request, status, "%s", why);
    return status == SLUICE_OK;
}

static bool check_etags(struct request *request, const char *name, const char *text)
{
    struct parse_etags etags;
    if (text == NULL || parse_etags(text, &etags))
        return true;
    reply__problem(request, SLUICE_INVALID, "%s is * or a list of entity tags, for example \"3\", \"4\"", name);
    return false;
}

/* --- Writes --------------------------------------------------------------------------------------------------------
 */

/* The store takes one version as a condition. Lists are resolved here: read, choose, write if nothing has changed. */
enum plan { PLAN_PLAIN, PLAN_VERSION, PLAN_ABSENT, PLAN_PRESENT, PLAN_RESOLVE, PLAN_FAIL };

struct write_state {
    int attempts;
};

static enum plan make_plan(const struct request *request, uint64_t *version, uint64_t *epoch)
{
    struct parse_etags etags;
    const struct headers *headers = &request->headers;
    if (headers->if_match != NULL && parse_etags(headers->if_match, &etags)) {
        if (headers->if_none_match != NULL)
            return PLAN_RESOLVE;
        if (etags.any)
            return PLAN_PRESENT;
        if (etags.count > 1)
            return PLAN_RESOLVE;
        if (!etags.tags[0].ours || etags.tags[0].weak)
            return PLAN_FAIL;
        *version = etags.tags[0].version;
        *epoch = etags.tags[0].epoch;
        return PLAN_VERSION;
    }
    if (headers->if_none_match != NULL && parse_etags(headers->if_none_match, &etags))
        return etags.any ? PLAN_ABSENT : PLAN_RESOLVE;
    return PLAN_PLAIN;
}

static bool check_write(struct request *request)
{
    const struct headers *headers = &request->headers;
    const char *ack = request__parameter(request, "ack", NULL);
    uint64_t version, epoch, time;
    if (!check_key(request, AUTH_WRITE) || !check_etags(request, "If-Match", headers->if_match) ||
        !check_etags(request, "If-None-Match", headers->if_none_match))
        return false;
    if (headers->if_unmodified_since != NULL || headers->if_modified_since != NULL) {
        reply__problem(request, SLUICE_INVALID,
                       "dates are too coarse for a condition on a write; use If-Match with the ETag");
        return false;
    }
    if (ack != NULL && strcmp(ack, "persisted") != 0 && strcmp(ack, "delivered") != 0) {
        reply__problem(request, SLUICE_INVALID, "ack is persisted or delivered");
        return false;
    }
    if (headers->object_time != NULL &&
        !request__time(request, "Sluice-Object-Time", headers->object_time, strlen(headers->object_time), &time))
        return false;
    if (headers->idempotency_key == NULL)
        return true;
    size_t size = strlen(headers->idempotency_key);
    if (size == 0 || size > IDEMPOTENCY_KEY_BYTES_MAX) {
        reply__problem(request, SLUICE_INVALID, "an Idempotency-Key is 1 to %u bytes long", IDEMPOTENCY_KEY_BYTES_MAX);
        return false;
    }
    if (make_plan(request, &version, &epoch) == PLAN_RESOLVE) {
        reply__problem(request, SLUICE_INVALID, "with an Idempotency-Key, a condition is one entity tag or *");
        return false;
    }
    return true;
}

bool object__check_put(struct request *request)
{
    const char *type = request->headers.content_type;
    if (type != NULL && type[0] == '\0')
        type = request->headers.content_type = NULL;
    if (type != NULL && !parse_content_type_valid(type, strlen(type))) {
        reply__problem(request, SLUICE_INVALID, "Content-Type is a media type, printable ASCII of at most 255 bytes");
        return false;
    }
    return check_write(request);
}

bool object__check_delete(struct request *request)
{
    struct parse_etags etags;
    if (!check_write(request))
        return false;
    if (request->headers.if_none_match != NULL && parse_etags(request->headers.if_none_match, &etags) && etags.any) {
        reply__problem(request, SLUICE_INVALID, "If-None-Match: * on DELETE would ask to delete what is not there");
        return false;
    }
    return true;
}

static void reply_written(struct request *request, const struct sluice_answer *answer, bool absent_before)
{
    const struct sluice_object *object = &answer->objects[0];
    struct emit json = {0};
    emit_char(&json, '{');
    emit_object(&json, object, EMIT_OBJECT_TIME);
    if (!answer->durable)
        emit_text(&json, ",\"durable\":false");
    emit_char(&json, '}');
    struct MHD_Response *response = reply__json_response(&json, "application/json");
    if (response != NULL) {
        reply__object_headers(response, object);
        if (answer->replayed)
            reply__header(response, "Idempotency-Replayed", "true");
    }
    bool created = request->method == METHOD_PUT && (object->created || absent_before);
    reply__response(request, created ? 201 : 200, response);
}

static void on_written(void *arg, const struct sluice_answer *answer);
static void resolve(struct request *request);

static void send_write(struct request *request, enum plan plan, uint64_t version, uint64_t epoch)
{
    const struct headers *headers = &request->headers;
    const char *ack = request__parameter(request, "ack", NULL);
    bool put = request->method == METHOD_PUT;
    struct sluice_operation operation = {
        .kind = put ? SLUICE_PUT : SLUICE_DELETE,
        .key = request->key,
        .key_size = request->key_size,
        .if_match = plan == PLAN_VERSION,
        .if_version = version,
        .if_epoch = epoch,
        .if_absent = plan == PLAN_ABSENT,
        .if_present = plan == PLAN_PRESENT,
    };
    if (put) {
        operation.content_type = headers->content_type != NULL ? headers->content_type : "application/octet-stream";
        operation.content_type_size = strlen(operation.content_type);
        operation.value = request->body.value;
        operation.data = request->body.value == NULL ? "" : NULL;
        operation.data_size = request->body.size;
    }
    if (headers->object_time != NULL)
        operation.has_object_time =
            clock_parse(headers->object_time, strlen(headers->object_time), &operation.object_time_ns);
    struct sluice_write write = {
        .call = request->call,
        .operations = &operation,
        .operation_count = 1,
        .idempotency_key = headers->idempotency_key,
        .idempotency_key_size = headers->idempotency_key != NULL ? strlen(headers->idempotency_key) : 0,
        .subject = auth_subject_name(request->subject),
        .ack_delivered = ack != NULL && strcmp(ack, "delivered") == 0,
    };
    sluice_write(request->gateway->client, &write, on_written, request);
}

static void on_written(void *arg, const struct sluice_answer *answer)
{
    struct request *request = arg;
    const struct headers *headers = &request->headers;
    bool absent =
        headers->if_match == NULL && headers->if_none_match != NULL && strchr(headers->if_none_match, '*') != NULL;
    if (answer->status == SLUICE_OK) {
        ASSERT(answer->object_count == 1);
        reply_written(request, answer, absent);
        return;
    }
    struct write_state *state = request->state;
    if (answer->status == SLUICE_CONDITION_FAILED && state != NULL && ++state->attempts < CONDITION_ATTEMPTS_MAX)
        resolve(request); /* the object has changed since it was looked at; the list may name the new version too */
    else
        reply__answer_problem(request, answer);
}

static void on_present(void *arg, const struct sluice_answer *answer)
{
    struct request *request = arg;
    const struct headers *headers = &request->headers;
    bool there = answer->status == SLUICE_OK && answer->object_count == 1;
    if (!there && answer->status != SLUICE_NOT_FOUND && answer->status != SLUICE_DELETED) {
        reply__answer_problem(request, answer);
        return;
    }
    struct parse_etags etags;
    const struct sluice_object *object = there ? &answer->objects[0] : NULL;
    bool met = true;
    if (headers->if_match != NULL)
        met = there && parse_etags(headers->if_match, &etags) &&
              parse_etags_match(&etags, object->epoch, object->version, false);
    if (met && headers->if_none_match != NULL)
        met = !there || !parse_etags(headers->if_none_match, &etags) ||
              !parse_etags_match(&etags, object->epoch, object->version, true);
    if (!met) {
        struct sluice_answer failed = *answer;
        failed.status = SLUICE_CONDITION_FAILED;
        failed.detail =
            there ? "the object's version does not fit If-Match or If-None-Match" : "there is no such object";
        reply__answer_problem(request, &failed);
        return;
    }
    send_write(request, there ? PLAN_VERSION : PLAN_ABSENT, there ? object->version : 0, there ? object->epoch : 0);
}

static void resolve(struct request *request)
{
    struct sluice_get get = {.call = request->call, .key = request->key, .key_size = request->key_size, .head = true};
    sluice_get(request->gateway->client, &get, on_present, request);
}

static void release_state(struct request *request)
{
    free(request->state);
}

static void run_write(struct request *request)
{
    uint64_t version = 0, epoch = 0;
    enum plan plan = make_plan(request, &version, &epoch);
    if (plan == PLAN_FAIL) {
        reply__problem(request, SLUICE_CONDITION_FAILED,
                       "If-Match names no version of this store: its tags are \"VERSION\"");
        return;
    }
    if (plan != PLAN_RESOLVE) {
        send_write(request, plan, version, epoch);
        return;
    }
    request->state = calloc(1, sizeof(struct write_state));
    request->release = release_state;
    if (request->state == NULL)
        reply__problem(request, SLUICE_MEMORY, "there is no memory for this request now; try again");
    else
        resolve(request);
}

void object__put(struct request *request)
{
    run_write(request);
}

void object__delete(struct request *request)
{
    run_write(request);
}

/* --- Reads ---------------------------------------------------------------------------------------------------------
 */

/* An instant in whole seconds stands for its end, so that what Memento-Datetime says leads back to the same version;
 * one to come means now (RFC 7089, 4.5). */
static bool memento_time(const struct request *request, uint64_t *out)
{
    int64_t seconds;
    if (request->headers.accept_datetime == NULL || request__parameter(request, "at", NULL) != NULL ||
        request__parameter(request, "version", NULL) != NULL)
        return false;
    if (!parse_http_date(request->headers.accept_datetime, &seconds) || seconds < 0 ||
        (uint64_t)seconds >= UINT64_MAX / NS_PER_S)
        return false;
    *out = (uint64_t)seconds * NS_PER_S + NS_PER_S - 1;
    return true;
}

static bool check_get_header_fields(struct request *request)
{
    const struct headers *headers = &request->headers;
    struct parse_range range;
    int64_t seconds;
    if (!check_etags(request, "If-Match", headers->if_match) ||
        !check_etags(request, "If-None-Match", headers->if_none_match))
        return false;
    if (headers->accept_datetime != NULL && !parse_http_date(headers->accept_datetime, &seconds)) {
        reply__problem(request, SLUICE_INVALID, "Accept-Datetime is a date like Mon, 23 Nov 2026 02:40:00 GMT");
        return false;
    }
    if (headers->range != NULL && request->method == METHOD_GET && !parse_range(headers->range, &range)) {
        reply__problem(request, SLUICE_RANGE,
                       "Range is malformed; write bytes=FIRST-LAST, bytes=FIRST- or bytes=-COUNT");
        return false;
    }
    return true;
}

bool object__check_get(struct request *request)
{
    size_t size;
    uint64_t number = 0;
    if (!check_key(request, AUTH_READ) || !request__number(request, "version", 1, UINT64_MAX, &number) ||
        !check_get_header_fields(request))
        return false;
    const char *at = request__parameter(request, "at", &size);
    if (at != NULL && number != 0) {
        reply__problem(request, SLUICE_INVALID, "ask by version or by at, not by both");
        return false;
    }
    if (at != NULL && !request__time(request, "at", at, size, &number))
        return false;
    const char *clock = request__parameter(request, "clock", NULL);
    if (clock != NULL && strcmp(clock, "platform") != 0) {
        reply__problem(request, SLUICE_INVALID,
                       strcmp(clock, "object") == 0
                           ? "reading by the object clock is not offered in this release; use clock=platform"
                           : "clock is platform or object");
        return false;
    }
    const char *consistency = request__parameter(request, "consistency", NULL);
    if (consistency != NULL && strcmp(consistency, "linearizable") != 0 && strcmp(consistency, "stable") != 0) {
        reply__problem(request, SLUICE_INVALID, "consistency is linearizable or stable");
        return false;
    }
    return true;
}

static void fill_get(const struct request *request, struct sluice_get *out)
{
    size_t size;
    *out = (struct sluice_get){.call = request->call, .key = request->key, .key_size = request->key_size};
    if (request->query.count == 0 && request->headers.accept_datetime == NULL)
        return;
    const char *text = request__parameter(request, "version", &size);
    if (text != NULL && !parse_u64(text, size, &out->version))
        out->version = 0;
    text = request__parameter(request, "at", &size);
    if (text != NULL && !clock_parse(text, size, &out->at_ns))
        out->at_ns = 0;
    if (memento_time(request, &out->at_ns) && out->at_ns >= clock_realtime_ns())
        out->at_ns = 0;
    text = request__parameter(request, "consistency", NULL);
    out->stable = text != NULL && strcmp(text, "stable") == 0;
}

static ssize_t no_body(void *arg, uint64_t position, char *out, size_t size)
{
    (void)arg;
    (void)position;
    (void)out;
    (void)size;
    return MHD_CONTENT_READER_END_WITH_ERROR;
}

static void unref_value(void *arg)
{
    sluice_value_unref(arg);
}

/* Script in a stored page must not speak for whoever looks at it: such types are shown in a sandbox of no origin. */
static bool may_hold_script(const char *type, size_t size)
{
    return memmem(type, size, "html", 4) != NULL || memmem(type, size, "xml", 3) != NULL ||
           memmem(type, size, "HTML", 4) != NULL || memmem(type, size, "XML", 3) != NULL;
}

static void memento_headers(const struct request *request, struct MHD_Response *response,
                            const struct sluice_object *object)
{
    bool negotiated = request->headers.accept_datetime != NULL;
    if (!negotiated && request__parameter(request, "at", NULL) == NULL &&
        request__parameter(request, "version", NULL) == NULL)
        return;
    char date[PARSE_HTTP_DATE_BYTES];
    parse_http_date_format((int64_t)(object->time_ns / NS_PER_S), date);
    reply__header(response, "Memento-Datetime", date);
    struct emit link = {0};
    emit_text(&link, "</v1/objects/");
    emit_path(&link, object->key, object->key_size);
    emit_text(&link, ">; rel=\"original timegate\"");
    emit_char(&link, '\0');
    if (!link.failed)
        reply__header(response, "Link", (const char *)link.out.data);
    emit_free(&link);
    if (negotiated)
        reply__header(response, "Vary", "Accept-Datetime");
}

static void value_headers(const struct request *request, struct MHD_Response *response,
                          const struct sluice_object *object)
{
    char type[256], text[EMIT_TIME_BYTES];
    size_t type_size = object->content_type_size < sizeof(type) ? object->content_type_size : 0;
    if (type_size > 0)
        memcpy(type, object->content_type, type_size);
    type[type_size] = '\0';
    reply__header(response, "Content-Type", type_size > 0 ? type : "application/octet-stream");
    reply__object_headers(response, object);
    if (object->object_time_ns != object->time_ns) {
        emit_time_text(object->object_time_ns, text);
        reply__header(response, "Sluice-Object-Time", text);
    }
    parse_http_date_format((int64_t)(object->time_ns / NS_PER_S), text);
    reply__header(response, "Last-Modified", text);
    reply__header(response, "Accept-Ranges", "bytes");
    reply__header(response, "Cache-Control", "no-cache");
    reply__header(response, "X-Content-Type-Options", "nosniff");
    if (may_hold_script(type, type_size))
        reply__header(response, "Content-Security-Policy", "sandbox");
    if (request->query.count > 0 || request->headers.accept_datetime != NULL)
        memento_headers(request, response, object);
}

/* HEAD and 304: the headers of the whole, and its length. */
static void reply_headers(struct request *request, unsigned status, const struct sluice_object *object)
{
    struct MHD_Response *response = MHD_create_response_from_callback(object->size, 1, no_body, NULL, NULL);
    if (response != NULL)
        value_headers(request, response, object);
    reply__response(request, status, response);
}

static void reply_value(struct request *request, const struct sluice_object *object, const struct parse_range *range)
{
    struct MHD_Response *response;
    if (!request__charge(request, object->data_size)) {
        reply__problem(request, SLUICE_BUSY, "too many answers are under way at once; try again");
        return;
    }
    request->gateway->metrics.sent_bytes += object->data_size;
    if (object->value != NULL && object->data_size > 0)
        response = MHD_create_response_from_buffer_with_free_callback_cls(
            object->data_size, (void *)(uintptr_t)object->data, unref_value, sluice_value_ref(object->value));
    else
        response = MHD_create_response_from_buffer(
            object->data_size, (void *)(uintptr_t)(object->data_size > 0 ? object->data : ""), MHD_RESPMEM_MUST_COPY);
    if (response == NULL) {
        if (object->value != NULL && object->data_size > 0)
            sluice_value_unref(object->value);
        reply__response(request, 500, NULL);
        return;
    }
    value_headers(request, response, object);
    if (range != NULL) {
        char text[80];
        snprintf(text, sizeof(text), "bytes %llu-%llu/%llu", (unsigned long long)range->first,
                 (unsigned long long)(range->first + object->data_size - 1), (unsigned long long)object->size);
        reply__header(response, "Content-Range", text);
    }
    reply__response(request, range != NULL ? 206 : 200, response);
}

static void reply_range_error(struct request *request, const struct sluice_answer *answer, uint64_t size)
{
    struct emit json = {0};
    char text[48];
    reply__problem_emit(&json, SLUICE_RANGE, 416, answer->detail, NULL);
    struct MHD_Response *response = reply__json_response(&json, "application/problem+json");
    snprintf(text, sizeof(text), "bytes */%llu", (unsigned long long)size);
    if (response != NULL)
        reply__header(response, "Content-Range", text);
    reply__response(request, 416, response);
}

static void on_size_of_range_error(void *arg, const struct sluice_answer *answer)
{
    struct request *request = arg;
    if (answer->status != SLUICE_OK || answer->object_count != 1) {
        reply__answer_problem(request, answer);
        return;
    }
    struct sluice_answer failed = {.detail = "the range begins at or beyond the end of the value"};
    reply_range_error(request, &failed, answer->objects[0].size);
}

static void on_value(void *arg, const struct sluice_answer *answer)
{
    struct request *request = arg;
    if (answer->status == SLUICE_OK) {
        ASSERT(answer->object_count == 1);
        if (request->method == METHOD_HEAD)
            reply_headers(request, 200, &answer->objects[0]);
        else
            reply_value(request, &answer->objects[0], NULL);
        return;
    }
    reply__answer_problem(request, answer);
}

static void on_part(void *arg, const struct sluice_answer *answer)
{
    struct request *request = arg;
    struct parse_range range;
    if (answer->status == SLUICE_OK) {
        ASSERT(answer->object_count == 1);
        const struct sluice_object *object = &answer->objects[0];
        if (!parse_range(request->headers.range, &range))
            range.kind = PARSE_RANGE_NONE;
        if (range.kind == PARSE_RANGE_SUFFIX)
            range.first = object->size - object->data_size;
        reply_value(request, object, object->data_size > 0 ? &range : NULL);
        return;
    }
    if (answer->status != SLUICE_RANGE) {
        reply__answer_problem(request, answer);
    } else if (answer->object_count == 1) {
        reply_range_error(request, answer, answer->objects[0].size);
    } else {
        struct sluice_get get;
        fill_get(request, &get);
        get.head = true;
        sluice_get(request->gateway->client, &get, on_size_of_range_error, request);
    }
}

/* RFC 9110, 13.2.2: the order of conditions. 0: go on. */
static unsigned precondition(const struct request *request, const struct sluice_object *object)
{
    const struct headers *headers = &request->headers;
    struct parse_etags etags;
    int64_t seconds, modified = (int64_t)(object->time_ns / NS_PER_S);
    if (headers->if_match != NULL) {
        if (!parse_etags(headers->if_match, &etags) ||
            !parse_etags_match(&etags, object->epoch, object->version, false))
            return 412;
    } else if (headers->if_unmodified_since != NULL && parse_http_date(headers->if_unmodified_since, &seconds) &&
               modified > seconds) {
        return 412;
    }
    if (headers->if_none_match != NULL) {
        if (parse_etags(headers->if_none_match, &etags) &&
            parse_etags_match(&etags, object->epoch, object->version, true))
            return 304;
    } else if (headers->if_modified_since != NULL && parse_http_date(headers->if_modified_since, &seconds) &&
               modified <= seconds) {
        return 304;
    }
    return 0;
}

/* Does If-Range let the range stand? Dates are weak here, since versions come faster than seconds. */
static bool range_stands(const struct request *request, const struct sluice_object *object)
{
    struct parse_etags etags;
    if (request->headers.if_range == NULL)
        return true;
    return parse_etags(request->headers.if_range, &etags) && !etags.any &&
           parse_etags_match(&etags, object->epoch, object->version, false);
}

/* What the conditions need is known; the value is fetched by its version, so that both are of one. */
static void on_facts(void *arg, const struct sluice_answer *answer)
{
    struct request *request = arg;
    if (answer->status != SLUICE_OK) {
        reply__answer_problem(request, answer);
        return;
    }
    ASSERT(answer->object_count == 1);
    const struct sluice_object *object = &answer->objects[0];
    unsigned status = precondition(request, object);
    if (status == 412) {
        struct sluice_answer failed = *answer;
        failed.status = SLUICE_CONDITION_FAILED;
        failed.detail = "the version that is there does not fit the conditions";
        reply__answer_problem(request, &failed);
        return;
    }
    if (status == 304 || request->method == METHOD_HEAD) {
        reply_headers(request, status == 304 ? 304 : 200, object);
        return;
    }
    struct sluice_get get;
    struct parse_range range = {.kind = PARSE_RANGE_NONE};
    fill_get(request, &get);
    get.at_ns = 0;
    get.version = object->version;
    if (request->headers.range != NULL && range_stands(request, object) && !parse_range(request->headers.range, &range))
        range.kind = PARSE_RANGE_NONE;
    if (range.kind == PARSE_RANGE_NONE) {
        sluice_get(request->gateway->client, &get, on_value, request);
        return;
    }
    uint64_t last = range.last;
    if (range.kind == PARSE_RANGE_SUFFIX) {
        if (last == 0 || object->size == 0) {
            struct sluice_answer failed = {.detail = "the range holds no byte of the value"};
            reply_range_error(request, &failed, object->size);
            return;
        }
        get.offset = last < object->size ? object->size - last : 0;
    } else {
        get.offset = range.first;
        get.length = last == UINT64_MAX ? 0 : last - range.first + 1;
    }
    sluice_get(request->gateway->client, &get, on_part, request);
}

void object__get(struct request *request)
{
    const struct headers *headers = &request->headers;
    struct sluice_get get;
    struct parse_range range = {.kind = PARSE_RANGE_NONE};
    fill_get(request, &get);
    bool conditions = headers->if_match != NULL || headers->if_none_match != NULL ||
                      headers->if_modified_since != NULL || headers->if_unmodified_since != NULL;
    if (headers->range != NULL && request->method == METHOD_GET && !parse_range(headers->range, &range))
        range.kind = PARSE_RANGE_NONE;
    bool facts_first =
        conditions || range.kind == PARSE_RANGE_SUFFIX || (range.kind != PARSE_RANGE_NONE && headers->if_range != NULL);
    get.head = request->method == METHOD_HEAD || facts_first;
    if (!facts_first && range.kind == PARSE_RANGE_FROM) {
        get.offset = range.first;
        get.length = range.last == UINT64_MAX ? 0 : range.last - range.first + 1;
    }
    sluice_get(request->gateway->client, &get,
               facts_first                      ? on_facts
               : range.kind == PARSE_RANGE_FROM ? on_part
                                                : on_value,
               request);
}

/* Answers: JSON, problems (RFC 9457), and the headers that every version carries. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/panic.h"
#include "gateway/http__.h"

void reply__header(struct MHD_Response *response, const char *name, const char *value)
{
    /* Fails without memory, or for a value that no header can have; the answer is better than none without it. */
    (void)!MHD_add_response_header(response, name, value);
}

static void add_origin_headers(struct request *request, struct MHD_Response *response)
{
    const char *origin = request->headers.origin;
    if (origin == NULL || !origin__allowed(request->gateway, origin))
        return;
    reply__header(response, "Access-Control-Allow-Origin", origin);
    reply__header(response, "Access-Control-Expose-Headers",
                  "ETag, Sluice-Version, Sluice-Revision, Sluice-Time, Sluice-Object-Time, Memento-Datetime, "
                  "Idempotency-Replayed, Content-Range, Retry-After");
    reply__header(response, "Vary", "Origin");
}

void reply__response(struct request *request, unsigned status, struct MHD_Response *response)
{
    ASSERT(!request->replied);
    request->replied = true;
    request->status = status;
    if (response == NULL)
        request->broken = true;
    else if (request->gateway->options.origin_count > 0)
        add_origin_headers(request, response);
    if (request->stage != STAGE_RUNNING) {
        request->held = response;
        return;
    }
    if (response != NULL) {
        if (MHD_queue_response(request->connection, status, response) != MHD_YES)
            request->broken = true;
        MHD_destroy_response(response);
    }
    if (request->suspended) {
        request->suspended = false;
        request->gateway->resumed = true;
        MHD_resume_connection(request->connection);
    }
}

struct MHD_Response *reply__json_response(struct emit *json, const char *type)
{
    struct MHD_Response *response = NULL;
    if (!json->failed)
        response = MHD_create_response_from_buffer(json->out.size, json->out.data, MHD_RESPMEM_MUST_FREE);
    if (response == NULL) {
        emit_free(json);
        return NULL;
    }
    *json = (struct emit){0};
    reply__header(response, "Content-Type", type);
    return response;
}

void reply__json(struct request *request, unsigned status, struct emit *json)
{
    reply__response(request, status, reply__json_response(json, "application/json"));
}

void reply__json_text(struct request *request, unsigned status, const char *json)
{
    struct emit text = {0};
    emit_text(&text, json != NULL ? json : "{}");
    reply__json(request, status, &text);
}

void reply__static(struct request *request, unsigned status, const char *type, const char *text, size_t size)
{
    struct MHD_Response *response =
        MHD_create_response_from_buffer(size, (void *)(uintptr_t)text, MHD_RESPMEM_PERSISTENT);
    if (response != NULL)
        reply__header(response, "Content-Type", type);
    reply__response(request, status, response);
}

/* --- Problems ----------------------------------------------------------------------------------------------------- */

void reply__problem_emit(struct emit *out, enum sluice_status status, unsigned http, const char *detail,
                         const char *extra)
{
    const char *title = sluice_status_text(status);
    emit_text(out, "{\"type\":\"about:blank\",\"title\":");
    emit_string(out, title, strlen(title));
    emit_text(out, ",\"status\":");
    emit_u64(out, http);
    emit_text(out, ",\"code\":\"");
    emit_text(out, sluice_status_code(status));
    emit_text(out, "\",\"detail\":");
    emit_string(out, detail, strlen(detail));
    if (extra != NULL) {
        emit_char(out, ',');
        emit_text(out, extra);
    }
    emit_char(out, '}');
}

static struct MHD_Response *problem_response(enum sluice_status status, unsigned http, const char *detail,
                                             const char *extra, uint32_t retry_after_ms)
{
    struct emit json = {0};
    reply__problem_emit(&json, status, http, detail, extra);
    struct MHD_Response *response = reply__json_response(&json, "application/problem+json");
    if (response == NULL)
        return NULL;
    if (http == 429 || http == 503) {
        char seconds[EMIT_U64_BYTES];
        emit_u64_text(retry_after_ms > 0 ? (retry_after_ms + 999u) / 1000u : 1, seconds);
        reply__header(response, "Retry-After", seconds);
    }
    if (http == 401)
        reply__header(response, "WWW-Authenticate", "Bearer realm=\"sluice\"");
    return response;
}

static void reply_problem(struct request *request, enum sluice_status status, unsigned http, const char *format,
                          va_list arguments) __attribute__((format(printf, 4, 0)));
static void reply_problem(struct request *request, enum sluice_status status, unsigned http, const char *format,
                          va_list arguments)
{
    char detail[512];
    vsnprintf(detail, sizeof(detail), format, arguments);
    reply__response(request, http, problem_response(status, http, detail, NULL, 0));
}

void reply__problem(struct request *request, enum sluice_status status, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    reply_problem(request, status, (unsigned)sluice_status_http(status), format, arguments);
    va_end(arguments);
}

void reply__problem_as(struct request *request, enum sluice_status status, unsigned http, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    reply_problem(request, status, http, format, arguments);
    va_end(arguments);
}

/* What an answer says besides its detail: the members of its JSON, or of the version that stood in the way. */
static void answer_extra(const struct sluice_answer *answer, struct emit *out)
{
    if (answer->json != NULL && answer->json[0] == '{') {
        const char *end = strrchr(answer->json, '}');
        if (end != NULL && end > answer->json + 1)
            emit_bytes(out, answer->json + 1, (size_t)(end - answer->json - 1));
    } else if (answer->object_count == 1 && answer->objects[0].version > 0) {
        emit_text(out, "\"version\":");
        emit_u64(out, answer->objects[0].version);
    }
    if (out->out.size > 0)
        emit_char(out, '\0');
}

void reply__answer_problem(struct request *request, const struct sluice_answer *answer)
{
    unsigned http = (unsigned)sluice_status_http(answer->status);
    struct emit extra = {0};
    answer_extra(answer, &extra);
    const char *members = extra.out.size > 0 && !extra.failed ? (const char *)extra.out.data : NULL;
    struct MHD_Response *response =
        problem_response(answer->status, http, answer->detail, members, answer->retry_after_ms);
    emit_free(&extra);
    if (response != NULL && answer->object_count == 1 && answer->objects[0].version > 0) {
        char text[EMIT_ETAG_BYTES];
        emit_u64_text(answer->objects[0].version, text);
        reply__header(response, "Sluice-Version", text);
        if (answer->status == SLUICE_CONDITION_FAILED && !answer->objects[0].deleted) {
            emit_etag(&answer->objects[0], text);
            reply__header(response, "ETag", text);
        }
    }
    if (response != NULL && answer->status == SLUICE_METHOD_NOT_ALLOWED)
        reply__header(response, "Allow", "GET, HEAD, PUT, DELETE");
    if (response != NULL && answer->status == SLUICE_TRIGGER_POOL)
        reply__header(response, "Allow", "PUT");
    if (response != NULL && answer->replayed)
        reply__header(response, "Idempotency-Replayed", "true");
    reply__response(request, http, response);
}

void reply__object_headers(struct MHD_Response *response, const struct sluice_object *object)
{
    char text[EMIT_ETAG_BYTES];
    emit_etag(object, text);
    reply__header(response, "ETag", text);
    emit_u64_text(object->version, text);
    reply__header(response, "Sluice-Version", text);
    emit_u64_text(object->revision, text);
    reply__header(response, "Sluice-Revision", text);
    emit_time_text(object->time_ns, text);
    reply__header(response, "Sluice-Time", text);
}

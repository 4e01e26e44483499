/* Keys in order, and the versions of one key: as one JSON page, or streamed with their values. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/random.h"
#include "gateway/stream.h"

#define PAGE_RECORDS_MAX 10000u
#define STREAM_PAGE      64u /* versions asked for at once while streaming */

static void emit_cursor(struct emit *out, const char *name, const char *cursor)
{
    if (cursor == NULL)
        return;
    emit_text(out, ",\"");
    emit_text(out, name);
    emit_text(out, "\":");
    emit_string(out, cursor, strlen(cursor));
}

/* --- List -----------------------------------------------------------------------------------------------------------
 */

/* One leading slash is dropped, as from keys. */
static const char *list_prefix(const struct request *request, size_t *size)
{
    const char *prefix = request__parameter(request, "prefix", size);
    if (prefix == NULL)
        return "";
    if (*size > 0 && prefix[0] == '/') {
        (*size)--;
        return prefix + 1;
    }
    return prefix;
}

static bool read_list(struct request *request, struct sluice_list *out)
{
    size_t size;
    uint64_t limit = 0;
    const char *prefix = list_prefix(request, &size);
    *out = (struct sluice_list){.call = request->call, .prefix = prefix, .prefix_size = size};
    if (size > 1024) {
        reply__problem(request, SLUICE_INVALID, "a prefix is at most 1,024 bytes long, like a key");
        return false;
    }
    const char *delimiter = request__parameter(request, "delimiter", &size);
    if (delimiter != NULL && (size != 1 || delimiter[0] <= ' ' || delimiter[0] >= 0x7f)) {
        reply__problem(request, SLUICE_INVALID, "delimiter is one printable ASCII character, most often /");
        return false;
    }
    out->delimiter = delimiter != NULL ? delimiter[0] : '\0';
    out->cursor = request__parameter(request, "cursor", NULL);
    const char *at = request__parameter(request, "at", &size);
    if (!request__number(request, "limit", 1, PAGE_RECORDS_MAX, &limit) ||
        (at != NULL && !request__time(request, "at", at, size, &out->at_ns)))
        return false;
    out->limit = (uint32_t)limit;
    return true;
}

bool list__check(struct request *request)
{
    size_t size;
    const char *why, *prefix = list_prefix(request, &size);
    struct sluice_list list;
    enum sluice_status status = auth_prefix(request->subject, AUTH_READ, prefix, size, &why);
    request->call.admin = auth_internal(prefix, size);
    if (status != SLUICE_OK)
        reply__problem(request, status, "%s", why);
    return status == SLUICE_OK && read_list(request, &list);
}

static void on_list(void *arg, const struct sluice_answer *answer)
{
    struct request *request = arg;
    if (answer->status != SLUICE_OK) {
        reply__answer_problem(request, answer);
        return;
    }
    struct emit json = {0};
    emit_text(&json, "{\"objects\":[");
    for (size_t i = 0; i < answer->object_count; i++) {
        emit_text(&json, i > 0 ? ",{" : "{");
        emit_object(&json, &answer->objects[i], EMIT_CONTENT_TYPE | EMIT_OBJECT_TIME);
        emit_char(&json, '}');
    }
    emit_text(&json, "],\"prefixes\":[");
    for (size_t i = 0; i < answer->prefix_count; i++) {
        if (i > 0)
            emit_char(&json, ',');
        emit_string(&json, answer->prefixes[i], answer->prefix_sizes[i]);
    }
    emit_text(&json, "],");
    emit_times(&json, "at", answer->at_ns);
    emit_cursor(&json, "cursor", answer->cursor);
    emit_cursor(&json, "watch_cursor", answer->watch_cursor);
    emit_char(&json, '}');
    reply__json(request, 200, &json);
}

void list__run(struct request *request)
{
    struct sluice_list list;
    if (read_list(request, &list))
        sluice_list(request->gateway->client, &list, on_list, request);
}

/* --- History --------------------------------------------------------------------------------------------------------
 */

#define BOUNDARY_BYTES 48u
enum format { FORMAT_JSON, FORMAT_NDJSON, FORMAT_MULTIPART };

struct history_state {
    struct stream stream;
    struct request *request; /* NULL: it is over, while a page is on its way */
    enum format format;
    bool opened;
    bool asking; /* a page is on its way */
    bool values;
    bool last;     /* there is no further page */
    uint64_t left; /* versions that may still be sent; UINT64_MAX: all */
    char *cursor;
    char boundary[BOUNDARY_BYTES]; /* drawn by lot: no value can hold it on purpose */
};

static bool read_bound(struct request *request, const char *name, uint64_t *version, uint64_t *time_ns)
{
    size_t size;
    const char *text = request__parameter(request, name, &size);
    if (text == NULL)
        return true;
    /* A number below a second's worth of nanoseconds cannot be a time that matters: it is a version. */
    uint64_t number;
    if (parse_u64(text, size, &number) && number < NS_PER_S) {
        *version = number;
        return true;
    }
    if (clock_parse(text, size, time_ns))
        return true;
    reply__problem(request, SLUICE_INVALID,
                   "%s is a version (1, 2, 3 …) or a time (RFC 3339 or nanoseconds since 1970)", name);
    return false;
}

static bool read_history(struct request *request, struct sluice_history *out, bool *values)
{
    uint64_t limit = 0;
    *values = false;
    *out = (struct sluice_history){.call = request->call, .key = request->key, .key_size = request->key_size};
    const char *clock = request__parameter(request, "clock", NULL), *order = request__parameter(request, "order", NULL);
    if (clock != NULL && strcmp(clock, "platform") != 0) {
        reply__problem(request, SLUICE_INVALID,
                       strcmp(clock, "object") == 0
                           ? "the object clock is not offered in this release; use clock=platform"
                           : "clock is platform or object");
        return false;
    }
    if (order != NULL && strcmp(order, "asc") != 0 && strcmp(order, "desc") != 0) {
        reply__problem(request, SLUICE_INVALID, "order is asc or desc");
        return false;
    }
    out->descending = order != NULL && strcmp(order, "desc") == 0;
    out->cursor = request__parameter(request, "cursor", NULL);
    if (!read_bound(request, "from", &out->version_from, &out->time_from_ns) ||
        !read_bound(request, "to", &out->version_to, &out->time_to_ns) ||
        !request__number(request, "limit", 1, PAGE_RECORDS_MAX, &limit) || !request__flag(request, "data", values))
        return false;
    out->limit = (uint32_t)limit;
    return true;
}

static enum format wanted_format(const struct request *request)
{
    if (parse_accepts(request->headers.accept, "multipart/mixed"))
        return FORMAT_MULTIPART;
    return parse_accepts(request->headers.accept, "application/x-ndjson") ? FORMAT_NDJSON : FORMAT_JSON;
}

bool history__check(struct request *request)
{
    const char *why;
    bool values;
    struct sluice_history history;
    enum sluice_status status = auth_key(request->subject, AUTH_READ, request->key, request->key_size, &why);
    request->call.admin = auth_internal(request->key, request->key_size);
    if (status != SLUICE_OK) {
        reply__problem(request, status, "%s", why);
        return false;
    }
    if (!read_history(request, &history, &values))
        return false;
    if (values && wanted_format(request) == FORMAT_JSON) {
        reply__problem(request, SLUICE_INVALID,
                       "data=true needs \"Accept: multipart/mixed\" or \"Accept: application/x-ndjson\", since values "
                       "are streamed");
        return false;
    }
    return true;
}

static void on_history(void *arg, const struct sluice_answer *answer)
{
    struct request *request = arg;
    if (answer->status != SLUICE_OK) {
        reply__answer_problem(request, answer);
        return;
    }
    struct emit json = {0};
    emit_text(&json, "{\"versions\":[");
    for (size_t i = 0; i < answer->object_count; i++) {
        emit_text(&json, i > 0 ? ",{" : "{");
        emit_object(&json, &answer->objects[i], EMIT_CONTENT_TYPE | EMIT_OBJECT_TIME | EMIT_DELETED);
        emit_char(&json, '}');
    }
    emit_char(&json, ']');
    emit_cursor(&json, "cursor", answer->cursor);
    emit_char(&json, '}');
    reply__json(request, 200, &json);
}

/* --- History, streamed
 * ------------------------------------------------------------------------------------------------ */

static void emit_header_u64(struct emit *out, const char *name, uint64_t value)
{
    emit_text(out, name);
    emit_u64(out, value);
    emit_text(out, "\r\n");
}

static void emit_part(struct emit *out, const struct sluice_object *object, const char *boundary)
{
    char text[EMIT_ETAG_BYTES];
    emit_text(out, "--");
    emit_text(out, boundary);
    emit_text(out, "\r\nContent-Type: ");
    if (object->content_type_size > 0)
        emit_bytes(out, object->content_type, object->content_type_size);
    else
        emit_text(out, "application/octet-stream");
    emit_text(out, "\r\nETag: ");
    emit_etag(object, text);
    emit_text(out, text);
    emit_text(out, "\r\n");
    emit_header_u64(out, "Sluice-Version: ", object->version);
    emit_header_u64(out, "Sluice-Revision: ", object->revision);
    emit_text(out, "Sluice-Time: ");
    emit_time_text(object->time_ns, text);
    emit_text(out, text);
    emit_text(out, "\r\nSluice-Object-Time: ");
    emit_time_text(object->object_time_ns, text);
    emit_text(out, text);
    emit_text(out, object->deleted ? "\r\nSluice-Deleted: true\r\n" : "\r\n");
    emit_header_u64(out, "Content-Length: ", object->data_size);
    emit_text(out, "\r\n");
    emit_bytes(out, object->data, object->data_size);
    emit_text(out, "\r\n");
}

static void emit_version(struct emit *out, const struct sluice_object *object, const struct history_state *self)
{
    if (self->format == FORMAT_MULTIPART) {
        emit_part(out, object, self->boundary);
        return;
    }
    emit_char(out, '{');
    emit_object(out, object, EMIT_CONTENT_TYPE | EMIT_OBJECT_TIME | EMIT_DELETED | (self->values ? EMIT_DATA : 0));
    emit_text(out, "}\n");
}

static void ask_page(struct history_state *self);

static void free_history(struct history_state *self)
{
    free(self->cursor);
    free(self);
}

static void on_history_drained(struct stream *stream)
{
    struct history_state *self = (struct history_state *)((char *)stream - offsetof(struct history_state, stream));
    if (!self->last && !self->asking)
        ask_page(self);
}

static void open_history(struct history_state *self)
{
    self->opened = true;
    stream__open(&self->stream, self->request);
    self->stream.drained = on_history_drained;
    struct MHD_Response *response = stream__response(&self->stream);
    char type[BOUNDARY_BYTES + 32] = "application/x-ndjson";
    if (self->format == FORMAT_MULTIPART)
        snprintf(type, sizeof(type), "multipart/mixed; boundary=%s", self->boundary);
    if (response != NULL) {
        reply__header(response, "Content-Type", type);
        reply__header(response, "X-Content-Type-Options", "nosniff");
    }
    reply__response(self->request, 200, response);
}

/* A page that fails after the first one breaks the body off, so that nobody takes the part for the whole. */
static void on_page(void *arg, const struct sluice_answer *answer)
{
    struct history_state *self = arg;
    self->asking = false;
    if (self->request == NULL) {
        free_history(self); /* the client has gone meanwhile */
        return;
    }
    if (answer->status != SLUICE_OK) {
        if (!self->opened)
            reply__answer_problem(self->request, answer);
        else
            stream__push(&self->stream, NULL);
        return;
    }
    if (!self->opened)
        open_history(self);
    for (size_t i = 0; i < answer->object_count && self->left > 0; i++) {
        struct emit text = {0};
        emit_version(&text, &answer->objects[i], self);
        stream__push_text(&self->stream, &text);
        self->left -= self->left != UINT64_MAX;
    }
    free(self->cursor);
    self->cursor = answer->cursor != NULL ? strdup(answer->cursor) : NULL;
    if (answer->cursor != NULL && self->cursor == NULL) {
        stream__push(&self->stream, NULL);
        return;
    }
    if (self->cursor != NULL && self->left > 0) {
        if (answer->object_count == 0)
            ask_page(self);
        return;
    }
    self->last = true;
    if (self->format == FORMAT_MULTIPART) {
        struct emit text = {0};
        emit_text(&text, "--");
        emit_text(&text, self->boundary);
        emit_text(&text, "--\r\n");
        stream__push_text(&self->stream, &text);
    }
    stream__end(&self->stream);
}

static void ask_page(struct history_state *self)
{
    struct sluice_history history;
    bool values;
    if (!read_history(self->request, &history, &values))
        return;
    history.values = self->values;
    if (self->cursor != NULL)
        history.cursor = self->cursor;
    history.limit = (uint32_t)(self->left < STREAM_PAGE ? self->left : STREAM_PAGE);
    self->asking = true;
    sluice_history(self->request->gateway->client, &history, on_page, self);
}

static void release_history(struct request *request)
{
    struct history_state *self = request->state;
    if (self->opened)
        stream__close(&self->stream);
    self->request = NULL;
    if (!self->asking)
        free_history(self);
}

void history__run(struct request *request)
{
    struct sluice_history history;
    bool values;
    if (!read_history(request, &history, &values))
        return;
    enum format format = wanted_format(request);
    if (format == FORMAT_JSON) {
        sluice_history(request->gateway->client, &history, on_history, request);
        return;
    }
    struct history_state *self = calloc(1, sizeof(*self));
    if (self == NULL) {
        reply__problem(request, SLUICE_MEMORY, "there is no memory for a stream now; try again");
        return;
    }
    self->request = request;
    self->format = format;
    snprintf(self->boundary, sizeof(self->boundary), "sluice-%016llx%016llx", (unsigned long long)random_os(),
             (unsigned long long)random_os());
    self->values = values || format == FORMAT_MULTIPART;
    self->left = history.limit > 0 ? history.limit : UINT64_MAX;
    request->state = self;
    request->release = release_history;
    ask_page(self);
}

/* Watches as server-sent events (WHATWG HTML, section 9.2).
 *
 * Clients that want the same pattern from now on share one watch at the store (a hub): an event is written once and
 * queued for each. A client that asks for a cursor, or that fell behind its hub, has a watch of its own from its cursor
 * on, which is paused while the client's queue is full. So a slow client costs its own queue and nobody's time. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "core/base/panic.h"
#include "core/base/pattern.h"
#include "gateway/stream.h"

#define CURSOR_BYTES_MAX  512u
#define WATCH_VALUE_MAX   (1u << 20) /* larger ones are left out */
#define SOCKET_SEND_BYTES (64 << 10)
#define READY_DEFAULT_MS  5000u

struct hub {
    struct gateway *gateway;
    struct hub *previous, *next;
    struct sluice_watch *watch;
    struct watcher *watchers;
    int kind;
    bool values, admin, ready;
    bool handling; /* in its handler: it is freed there */
    uint64_t closed_ns;
    char cursor[CURSOR_BYTES_MAX + 1]; /* after the last event; empty: none yet */
    size_t pattern_size;
    char pattern[];
};

struct watcher {
    struct stream stream;
    struct request *request;
    struct hub *hub;                 /* NULL: on its own */
    struct watcher *previous, *next; /* of the hub's */
    struct sluice_watch *own;
    struct gateway_timer timer; /* until the answer has begun */
    bool opened;                /* the answer has begun */
    bool paused;
    bool behind; /* has left its hub; its own watch starts when its queue is empty */
    int kind;
    bool values, admin;
    const char *pattern; /* borrowed from the request */
    size_t pattern_size;
    char cursor[CURSOR_BYTES_MAX + 1]; /* after what was queued */
};

/* --- Events as text ------------------------------------------------------------------------------------------------
 */

static void emit_id(struct emit *out, const char *cursor)
{
    if (cursor == NULL || cursor[0] == '\0')
        return;
    emit_text(out, "id: ");
    emit_text(out, cursor);
    emit_char(out, '\n');
}

static void emit_change(struct emit *out, const struct sluice_watch_event *event, bool values)
{
    const struct sluice_object *object = event->object;
    emit_text(out, event->type == SLUICE_WATCH_DELETE ? "event: delete\n" : "event: put\n");
    emit_id(out, event->cursor);
    emit_text(out, "data: {");
    bool put = event->type == SLUICE_WATCH_PUT, large = object->size > WATCH_VALUE_MAX;
    emit_object(out, object, EMIT_CONTENT_TYPE | EMIT_OBJECT_TIME | (put && values && !large ? EMIT_DATA : 0));
    if (put && values && large) {
        emit_text(out, ",\"truncated\":true,\"url\":\"/v1/objects/");
        emit_path(out, object->key, object->key_size);
        emit_text(out, "?version=");
        emit_u64(out, object->version);
        emit_char(out, '"');
    }
    emit_text(out, "}\n\n");
}

static void emit_progress(struct emit *out, const char *cursor, uint64_t closed_ns)
{
    emit_text(out, "event: progress\n");
    emit_id(out, cursor);
    emit_text(out, "data: {\"closed_ns\":\"");
    emit_u64(out, closed_ns);
    emit_text(out, "\"}\n\n");
}

static void emit_error(struct emit *out, enum sluice_status status, const char *detail)
{
    emit_text(out, "event: error\ndata: ");
    reply__problem_emit(out, status, (unsigned)sluice_status_http(status), detail != NULL ? detail : "", NULL);
    emit_text(out, "\n\n");
}

static struct chunk *event_chunk(const struct sluice_watch_event *event, bool values)
{
    struct emit text = {0};
    if (event->type == SLUICE_WATCH_PROGRESS)
        emit_progress(&text, event->cursor, event->closed_ns);
    else
        emit_change(&text, event, values);
    return chunk__create(&text);
}

static void keep_cursor(char *to, const char *cursor)
{
    if (cursor != NULL)
        snprintf(to, CURSOR_BYTES_MAX + 1, "%s", cursor);
}

/* --- One client -----------------------------------------------------------------------------------------------------
 */

static void on_own_event(void *arg, const struct sluice_watch_event *event);

static void stop_own(struct watcher *self)
{
    if (self->own != NULL)
        sluice_watch_stop(self->own);
    self->own = NULL;
    self->paused = false;
}

static enum sluice_status start_own(struct watcher *self, const char *cursor, char error[256])
{
    struct sluice_watch_options options = {
        .kind = self->kind,
        .pattern = self->pattern,
        .pattern_size = self->pattern_size,
        .cursor = cursor,
        .values = self->values,
        .admin = self->admin,
    };
    self->behind = false;
    error[0] = '\0';
    return sluice_watch_start(self->request->gateway->client, &options, on_own_event, self, &self->own, error);
}

static void give_up(struct watcher *self, enum sluice_status status, const char *detail)
{
    if (!self->opened) {
        gateway__timer_clear(self->request->gateway, &self->timer);
        reply__problem(self->request, status != SLUICE_OK ? status : SLUICE_UNAVAILABLE, "%s", detail);
        return;
    }
    struct emit text = {0};
    emit_error(&text, status, detail);
    stream__push_text(&self->stream, &text);
    stream__end(&self->stream);
}

static void on_drained(struct stream *stream)
{
    struct watcher *self = (struct watcher *)((char *)stream - offsetof(struct watcher, stream));
    char error[256];
    if (self->paused) {
        self->paused = false;
        sluice_watch_resume(self->own);
    }
    if (!self->behind)
        return;
    enum sluice_status status = start_own(self, self->cursor[0] != '\0' ? self->cursor : NULL, error);
    if (status != SLUICE_OK)
        give_up(self, status, error);
}

/* Begins the answer. */
static void open_watcher(struct watcher *self, const char *cursor, uint64_t closed_ns)
{
    gateway__timer_clear(self->request->gateway, &self->timer);
    /* The kernel would keep megabytes for a client that does not read. */
    int send_bytes = SOCKET_SEND_BYTES;
    (void)setsockopt(self->request->peer->fd, SOL_SOCKET, SO_SNDBUF, &send_bytes, sizeof(send_bytes));
    self->opened = true;
    self->stream.keep_alive = true;
    self->stream.drained = on_drained;
    /* What a client that breaks off before the first event resumes from. */
    struct emit text = {0};
    emit_text(&text, "retry: 1000\n\n");
    if (cursor != NULL && cursor[0] != '\0')
        emit_progress(&text, cursor, closed_ns);
    keep_cursor(self->cursor, cursor);
    stream__push_text(&self->stream, &text);
    struct MHD_Response *response = stream__response(&self->stream);
    if (response != NULL) {
        reply__header(response, "Content-Type", "text/event-stream");
        reply__header(response, "Cache-Control", "no-store");
        reply__header(response, "X-Accel-Buffering", "no");
    }
    reply__response(self->request, 200, response);
}

static void on_own_event(void *arg, const struct sluice_watch_event *event)
{
    struct watcher *self = arg;
    switch (event->type) {
    case SLUICE_WATCH_READY:
        if (!self->opened)
            open_watcher(self, event->cursor, event->closed_ns);
        return;
    case SLUICE_WATCH_END:
        self->own = NULL;
        give_up(self, event->status, event->detail);
        return;
    case SLUICE_WATCH_PUT:
    case SLUICE_WATCH_DELETE:
    case SLUICE_WATCH_PROGRESS:
        break;
    }
    /* Events of the past may come before all shards are subscribed. */
    if (!self->opened)
        open_watcher(self, NULL, 0);
    struct chunk *chunk = event_chunk(event, self->values);
    keep_cursor(self->cursor, event->cursor);
    stream__push(&self->stream, chunk);
    chunk__unref(chunk);
    self->request->gateway->metrics.stream_events++;
    if (!stream__has_room(&self->stream) && !self->paused && self->own != NULL) {
        self->paused = true;
        sluice_watch_pause(self->own);
    }
}

/* --- Many clients ----------------------------------------------------------------------------------------------------
 */

static void hub_free(struct hub *self)
{
    ASSERT(self->watchers == NULL);
    if (self->watch != NULL)
        sluice_watch_stop(self->watch);
    if (self->previous != NULL)
        self->previous->next = self->next;
    else
        self->gateway->hubs = self->next;
    if (self->next != NULL)
        self->next->previous = self->previous;
    self->gateway->metrics.hubs--;
    free(self);
}

static void hub_leave(struct watcher *watcher)
{
    struct hub *self = watcher->hub;
    if (self == NULL)
        return;
    if (watcher->previous != NULL)
        watcher->previous->next = watcher->next;
    else
        self->watchers = watcher->next;
    if (watcher->next != NULL)
        watcher->next->previous = watcher->previous;
    watcher->hub = NULL;
    watcher->previous = watcher->next = NULL;
    if (self->watchers == NULL && !self->handling)
        hub_free(self);
}

static void hub_ended(struct hub *self, const struct sluice_watch_event *event)
{
    self->watch = NULL;
    struct watcher *watcher;
    while ((watcher = self->watchers) != NULL) {
        hub_leave(watcher);
        give_up(watcher, event->status, event->detail);
    }
}

static void hub_deliver(struct hub *self, const struct sluice_watch_event *event)
{
    struct chunk *chunk = event_chunk(event, self->values);
    struct watcher *next;
    for (struct watcher *watcher = self->watchers; watcher != NULL; watcher = next) {
        next = watcher->next;
        if (!watcher->opened)
            open_watcher(watcher, NULL, 0);
        if (!stream__has_room(&watcher->stream)) {
            /* Its cursor is where its queue ends. Its own watch starts when that is empty. */
            hub_leave(watcher);
            watcher->behind = true;
            continue;
        }
        stream__push(&watcher->stream, chunk);
        keep_cursor(watcher->cursor, event->cursor);
        self->gateway->metrics.stream_events++;
    }
    chunk__unref(chunk);
    keep_cursor(self->cursor, event->cursor);
    if (event->closed_ns > self->closed_ns)
        self->closed_ns = event->closed_ns;
}

static void on_hub_event(void *arg, const struct sluice_watch_event *event)
{
    struct hub *self = arg;
    self->handling = true;
    if (event->type == SLUICE_WATCH_END) {
        hub_ended(self, event);
    } else if (event->type == SLUICE_WATCH_READY) {
        self->ready = true;
        keep_cursor(self->cursor, event->cursor);
        self->closed_ns = event->closed_ns;
        for (struct watcher *watcher = self->watchers; watcher != NULL; watcher = watcher->next) {
            if (!watcher->opened)
                open_watcher(watcher, self->cursor, self->closed_ns);
        }
    } else {
        hub_deliver(self, event);
    }
    self->handling = false;
    if (self->watchers == NULL)
        hub_free(self);
}

static struct hub *hub_find(const struct watcher *watcher)
{
    for (struct hub *hub = watcher->request->gateway->hubs; hub != NULL; hub = hub->next) {
        if (hub->kind == watcher->kind && hub->values == watcher->values && hub->admin == watcher->admin &&
            hub->pattern_size == watcher->pattern_size &&
            memcmp(hub->pattern, watcher->pattern, hub->pattern_size) == 0)
            return hub;
    }
    return NULL;
}

static enum sluice_status hub_create(const struct watcher *watcher, struct hub **out, char error[256])
{
    struct gateway *gateway = watcher->request->gateway;
    struct hub *self = calloc(1, sizeof(*self) + watcher->pattern_size);
    if (self == NULL)
        return SLUICE_MEMORY;
    self->gateway = gateway;
    self->kind = watcher->kind;
    self->values = watcher->values;
    self->admin = watcher->admin;
    self->pattern_size = watcher->pattern_size;
    memcpy(self->pattern, watcher->pattern, watcher->pattern_size);
    struct sluice_watch_options options = {.kind = self->kind,
                                           .pattern = self->pattern,
                                           .pattern_size = self->pattern_size,
                                           .values = self->values,
                                           .admin = self->admin};
    enum sluice_status status = sluice_watch_start(gateway->client, &options, on_hub_event, self, &self->watch, error);
    if (status != SLUICE_OK) {
        free(self);
        return status;
    }
    self->next = gateway->hubs;
    if (self->next != NULL)
        self->next->previous = self;
    gateway->hubs = self;
    gateway->metrics.hubs++;
    *out = self;
    return SLUICE_OK;
}

static enum sluice_status join_hub(struct watcher *watcher, char error[256])
{
    struct hub *hub = hub_find(watcher);
    if (hub == NULL) {
        enum sluice_status status = hub_create(watcher, &hub, error);
        if (status != SLUICE_OK)
            return status;
    }
    watcher->hub = hub;
    watcher->next = hub->watchers;
    if (watcher->next != NULL)
        watcher->next->previous = watcher;
    hub->watchers = watcher;
    if (hub->ready)
        open_watcher(watcher, hub->cursor, hub->closed_ns);
    return SLUICE_OK;
}

/* --- Requests
 * --------------------------------------------------------------------------------------------------------- */

static void on_not_ready(struct gateway_timer *timer)
{
    struct watcher *self = (struct watcher *)((char *)timer - offsetof(struct watcher, timer));
    hub_leave(self);
    stop_own(self);
    reply__problem(self->request, SLUICE_UNAVAILABLE, "the watch did not reach all shards in time; try again");
}

static void release_watcher(struct request *request)
{
    struct watcher *self = request->state;
    if (self->stream.request != NULL) {
        gateway__timer_clear(request->gateway, &self->timer);
        hub_leave(self);
        stop_own(self);
        stream__close(&self->stream);
    }
    free(self);
}

/* Exactly one of key, prefix, glob and regex. */
static bool read_pattern(struct request *request, struct watcher *out)
{
    static const char *const kinds[] = {"key", "prefix", "glob", "regex"};
    int found = 0;
    for (int i = 0; i < 4; i++) {
        const char *pattern = request__parameter(request, kinds[i], &out->pattern_size);
        if (pattern == NULL)
            continue;
        found++;
        out->kind = i + 1;
        out->pattern = pattern;
    }
    if (found != 1) {
        reply__problem(request, SLUICE_INVALID, "say what to watch with one of key, prefix, glob and regex");
        return false;
    }
    (void)request__parameter(request, kinds[out->kind - 1], &out->pattern_size);
    if (out->kind <= 2 && out->pattern_size > 0 && out->pattern[0] == '/') {
        out->pattern++;
        out->pattern_size--;
    }
    return true;
}

/* What every match begins with has to lie where the token may read. */
static bool check_pattern(struct request *request, struct watcher *watcher)
{
    struct pattern *pattern;
    char error[256];
    enum sluice_status status =
        pattern_compile(watcher->kind, watcher->pattern, watcher->pattern_size, &pattern, error, sizeof(error));
    if (status != SLUICE_OK) {
        reply__problem(request, status, "%s",
                       status == SLUICE_INVALID ? error : "there is no memory for this pattern now");
        return false;
    }
    size_t size;
    const char *why, *prefix = pattern_prefix(pattern, &size);
    status = watcher->kind == 1 ? auth_key(request->subject, AUTH_READ, prefix, size, &why)
                                : auth_prefix(request->subject, AUTH_READ, prefix, size, &why);
    watcher->admin = auth_internal(prefix, size);
    pattern_destroy(pattern);
    if (status != SLUICE_OK)
        reply__problem(request, status, "%s", why);
    return status == SLUICE_OK;
}

bool watch__check(struct request *request)
{
    struct watcher *self = calloc(1, sizeof(*self));
    if (self == NULL) {
        reply__problem(request, SLUICE_MEMORY, "there is no memory for a watch now; try again");
        return false;
    }
    request->state = self;
    request->release = release_watcher;
    self->request = request;
    size_t size;
    const char *cursor = request__parameter(request, "from", &size);
    /* The header is what a browser sends when it connects again, so it is the later one. */
    if (request->headers.last_event_id != NULL && request->headers.last_event_id[0] != '\0') {
        cursor = request->headers.last_event_id;
        size = strlen(cursor);
    }
    if (cursor != NULL && (size == 0 || size > CURSOR_BYTES_MAX)) {
        reply__problem(request, SLUICE_INVALID, "from is the id of an event, 1 to %u bytes long", CURSOR_BYTES_MAX);
        return false;
    }
    if (cursor != NULL)
        memcpy(self->cursor, cursor, size + 1);
    return request__flag(request, "data", &self->values) && read_pattern(request, self) && check_pattern(request, self);
}

void watch__run(struct request *request)
{
    struct watcher *self = request->state;
    struct gateway *gateway = request->gateway;
    char error[256] = "";
    stream__open(&self->stream, request);
    uint32_t timeout_ms = request->call.timeout_ms > 0 ? request->call.timeout_ms : READY_DEFAULT_MS;
    self->timer.run = on_not_ready;
    gateway__timer_set(gateway, &self->timer, gateway->now_ns + timeout_ms * NS_PER_MS);
    enum sluice_status status = self->cursor[0] != '\0' ? start_own(self, self->cursor, error) : join_hub(self, error);
    if (status == SLUICE_OK)
        return;
    gateway__timer_clear(gateway, &self->timer);
    reply__problem(request, status, "%s", error[0] != '\0' ? error : sluice_status_text(status));
}

/* --- What a lambda prints
 * ---------------------------------------------------------------------------------------------- */

static void on_line(void *arg, const struct sluice_watch_event *event)
{
    struct watcher *self = arg;
    if (event->type == SLUICE_WATCH_END) {
        self->own = NULL;
        give_up(self, event->status, event->detail);
        return;
    }
    if (!self->opened)
        open_watcher(self, NULL, 0);
    if (event->type != SLUICE_WATCH_PUT || event->object == NULL)
        return;
    struct emit text = {0};
    emit_text(&text, "event: log\ndata: ");
    const char *data = event->object->data;
    for (size_t i = 0; i < event->object->data_size; i++)
        emit_char(&text, data[i] == '\n' || data[i] == '\r' ? ' ' : data[i]);
    emit_text(&text, "\n\n");
    /* A log has no cursor to resume from: what a client does not read in time is lost to it, and it is told so. */
    if (!stream__has_room(&self->stream)) {
        emit_free(&text);
        stop_own(self);
        give_up(self, SLUICE_BUSY, "lines came faster than they were read; some are lost, connect again");
        return;
    }
    stream__push_text(&self->stream, &text);
    self->request->gateway->metrics.stream_events++;
}

void lambda__log(struct request *request)
{
    struct watcher *self = calloc(1, sizeof(*self));
    if (self == NULL) {
        reply__problem(request, SLUICE_MEMORY, "there is no memory for a stream now; try again");
        return;
    }
    struct gateway *gateway = request->gateway;
    self->request = request;
    request->state = self;
    request->release = release_watcher;
    stream__open(&self->stream, request);
    uint32_t timeout_ms = request->call.timeout_ms > 0 ? request->call.timeout_ms : READY_DEFAULT_MS;
    self->timer.run = on_not_ready;
    gateway__timer_set(gateway, &self->timer, gateway->now_ns + timeout_ms * NS_PER_MS);
    enum sluice_status status = sluice_lambda_log(gateway->client, request->key, on_line, self, &self->own);
    if (status == SLUICE_OK)
        return;
    gateway__timer_clear(gateway, &self->timer);
    reply__problem(request, status, "%s", sluice_status_text(status));
}

#include "gateway/stream.h"

#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "core/base/panic.h"

#define STREAM_TICK_NS (5 * NS_PER_S)

struct chunk *chunk__create(struct emit *text)
{
    struct chunk *self = NULL;
    if (!text->failed && text->out.size <= UINT32_MAX)
        self = malloc(sizeof(*self) + text->out.size);
    if (self != NULL) {
        self->references = 1;
        self->size = (uint32_t)text->out.size;
        if (self->size > 0)
            memcpy(self->data, text->out.data, self->size);
    }
    emit_free(text);
    return self;
}

void chunk__unref(struct chunk *self)
{
    if (self == NULL)
        return;
    ASSERT(self->references > 0);
    if (--self->references == 0)
        free(self);
}

/* While requests are under way, and while none is: an event costs some two microseconds a client. */
#define WAKES_BUSY 8u
#define WAKES_IDLE 24u

static void wake(struct stream *self)
{
    struct gateway *gateway = self->request->gateway;
    if (!self->waiting || self->waking)
        return;
    self->waking = true;
    self->wake_next = NULL;
    self->wake_previous = gateway->wakes_last;
    if (gateway->wakes_last != NULL)
        gateway->wakes_last->wake_next = self;
    else
        gateway->wakes = self;
    gateway->wakes_last = self;
}

static void leave_wakes(struct stream *self)
{
    struct gateway *gateway = self->request->gateway;
    if (!self->waking)
        return;
    if (self->wake_previous != NULL)
        self->wake_previous->wake_next = self->wake_next;
    else
        gateway->wakes = self->wake_next;
    if (self->wake_next != NULL)
        self->wake_next->wake_previous = self->wake_previous;
    else
        gateway->wakes_last = self->wake_previous;
    self->waking = false;
}

void stream__wake_some(struct gateway *gateway)
{
    /* libmicrohttpd looks through all suspended connections for those to resume, so there is a part for their number.
     */
    uint64_t most =
        gateway->metrics.streams / 256 + (gateway->requests > gateway->metrics.streams ? WAKES_BUSY : WAKES_IDLE);
    struct stream *self;
    for (uint64_t i = 0; i < most && (self = gateway->wakes) != NULL; i++) {
        leave_wakes(self);
        self->waiting = false;
        gateway->resumed = true;
        MHD_resume_connection(self->request->connection);
    }
}

static ssize_t on_read(void *arg, uint64_t position, char *out, size_t size)
{
    (void)position;
    struct stream *self = arg;
    size_t filled = 0;
    self->read_ns = self->request->gateway->now_ns;
    if (self->failed)
        return MHD_CONTENT_READER_END_WITH_ERROR;
    while (self->count > 0 && filled < size) {
        struct chunk *chunk = self->chunks[self->first];
        size_t left = chunk->size - self->taken, part = left < size - filled ? left : size - filled;
        memcpy(out + filled, chunk->data + self->taken, part);
        filled += part;
        self->taken += (uint32_t)part;
        self->queued -= part;
        if (self->taken == chunk->size) {
            chunk__unref(chunk);
            self->first = (self->first + 1) % self->capacity;
            self->count--;
            self->taken = 0;
        }
    }
    if (self->count == 0 && self->drained != NULL && !self->ended)
        self->drained(self);
    if (filled > 0)
        return (ssize_t)filled;
    if (self->count > 0)
        return on_read(arg, position, out, size);
    if (self->ended)
        return MHD_CONTENT_READER_END_OF_STREAM;
    self->waiting = true;
    MHD_suspend_connection(self->request->connection);
    return 0;
}

static void on_tick(struct gateway_timer *timer)
{
    struct gateway *gateway = (struct gateway *)((char *)timer - offsetof(struct gateway, stream_timer));
    for (struct stream *self = gateway->streams; self != NULL; self = self->next) {
        if (self->queued > 0 && gateway->now_ns >= self->read_ns + STREAM_CUT_NS) {
            gateway->metrics.streams_cut++;
            self->read_ns = gateway->now_ns;
            shutdown(self->request->peer->fd, SHUT_RDWR);
        } else if (self->keep_alive && gateway->now_ns >= self->written_ns + STREAM_KEEP_ALIVE_NS) {
            stream__on_socket(self);
        }
    }
    if (gateway->streams != NULL)
        gateway__timer_set(gateway, timer, gateway->now_ns + STREAM_TICK_NS);
}

void stream__open(struct stream *self, struct request *request)
{
    struct gateway *gateway = request->gateway;
    *self = (struct stream){.request = request, .read_ns = gateway->now_ns, .written_ns = gateway->now_ns};
    self->next = gateway->streams;
    if (self->next != NULL)
        self->next->previous = self;
    gateway->streams = self;
    gateway->metrics.streams++;
    gateway->stream_timer.run = on_tick;
    if (!gateway->stream_timer.armed)
        gateway__timer_set(gateway, &gateway->stream_timer, gateway->now_ns + STREAM_TICK_NS);
    /* A suspended connection is out of libmicrohttpd's sight: that its client has gone is learned here. */
    struct epoll_event event = {.events = EPOLLRDHUP | EPOLLET, .data.ptr = self};
    (void)epoll_ctl(gateway->epoll_fd, EPOLL_CTL_ADD, request->peer->fd, &event);
}

struct MHD_Response *stream__response(struct stream *self)
{
    /* The block is for bodies of a known size; this one's chunks are built in the connection's own memory. */
    return MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 16, on_read, self, NULL);
}

void stream__close(struct stream *self)
{
    struct gateway *gateway = self->request->gateway;
    struct epoll_event event = {0};
    (void)epoll_ctl(gateway->epoll_fd, EPOLL_CTL_DEL, self->request->peer->fd, &event);
    leave_wakes(self);
    if (self->previous != NULL)
        self->previous->next = self->next;
    else
        gateway->streams = self->next;
    if (self->next != NULL)
        self->next->previous = self->previous;
    gateway->metrics.streams--;
    for (; self->count > 0; self->count--) {
        chunk__unref(self->chunks[self->first]);
        self->first = (self->first + 1) % self->capacity;
    }
    free(self->chunks);
    *self = (struct stream){0};
}

static bool grow(struct stream *self)
{
    uint32_t capacity = self->capacity > 0 ? self->capacity * 2 : 4;
    struct chunk **chunks = malloc(capacity * sizeof(struct chunk *));
    if (chunks == NULL)
        return false;
    for (uint32_t i = 0; i < self->count; i++)
        chunks[i] = self->chunks[(self->first + i) % self->capacity];
    free(self->chunks);
    self->chunks = chunks;
    self->capacity = capacity;
    self->first = 0;
    return true;
}

void stream__push(struct stream *self, struct chunk *chunk)
{
    if (self->ended || self->failed)
        return;
    if (chunk == NULL || (self->count == self->capacity && !grow(self))) {
        self->failed = true;
        wake(self);
        return;
    }
    if (chunk->size == 0)
        return;
    chunk->references++;
    self->chunks[(self->first + self->count++) % self->capacity] = chunk;
    self->queued += chunk->size;
    self->written_ns = self->request->gateway->now_ns;
    wake(self);
}

void stream__push_text(struct stream *self, struct emit *text)
{
    struct chunk *chunk = chunk__create(text);
    stream__push(self, chunk);
    chunk__unref(chunk);
}

void stream__end(struct stream *self)
{
    self->ended = true;
    wake(self);
}

bool stream__has_room(const struct stream *self)
{
    return self->queued < STREAM_BYTES_MAX;
}

void stream__end_all(struct gateway *gateway)
{
    for (struct stream *self = gateway->streams; self != NULL; self = self->next)
        stream__end(self);
}

void stream__on_socket(void *stream)
{
    struct stream *self = stream;
    if (!self->keep_alive)
        return;
    /* Writing to a client that has gone is what shows it; one that has only closed its sending side takes a comment. */
    struct emit comment = {0};
    emit_text(&comment, ":\n\n");
    stream__push_text(self, &comment);
}

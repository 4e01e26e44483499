#include "tests/unit/gateway/http_client.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/base/buf.h"
#include "core/base/clock.h"
#include "core/base/log.h"

#define ANSWER_TIMEOUT_MS 20000

static void *run(void *arg)
{
    gateway_run(arg);
    return NULL;
}

void server_start(struct server *self, const struct gateway_options *options)
{
    static const char *const nodes[] = {"shm:test"};
    struct gateway_options filled = options != NULL ? *options : (struct gateway_options){0};
    char error[512] = "";
    log_set_level(LOG_LEVEL_ERROR);
    fake_reset();
    filled.nodes = nodes;
    filled.node_count = 1;
    if (filled.listen == NULL)
        filled.listen = "127.0.0.1:0";
    cr_assert_eq(gateway_create(&filled, &self->gateway, error, sizeof(error)), SLUICE_OK, "%s", error);
    self->port = gateway_port(self->gateway);
    cr_assert_eq(pthread_create(&self->thread, NULL, run, self->gateway), 0);
}

void server_stop(struct server *self)
{
    gateway_stop(self->gateway);
    pthread_join(self->thread, NULL);
    gateway_destroy(self->gateway);
    cr_expect_eq(fake_watch_count(), 0);
    fake_reset();
    cr_expect_eq(fake_values(), 0, "%ld values are still referenced", fake_values());
}

void answer_free(struct answer *self)
{
    free(self->head);
    free(self->body);
    *self = (struct answer){0};
}

const char *answer_header(const struct answer *self, const char *name)
{
    static _Thread_local char value[1024];
    size_t size = strlen(name);
    for (const char *line = self->head; line != NULL && *line != '\0'; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncasecmp(line, name, size) != 0 || line[size] != ':')
            continue;
        const char *from = line + size + 1;
        from += strspn(from, " ");
        snprintf(value, sizeof(value), "%.*s", (int)strcspn(from, "\r\n"), from);
        return value;
    }
    return NULL;
}

bool answer_has(const struct answer *self, const char *text)
{
    return self->body != NULL && memmem(self->body, self->size, text, strlen(text)) != NULL;
}

int http_connect(const struct server *self)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(self->port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert(fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0);
    return fd;
}

/* A server that refuses a body may close while it is sent: then what was not taken does not matter. */
void http_send(int fd, const void *data, size_t size)
{
    const char *at = data;
    while (size > 0) {
        ssize_t sent = send(fd, at, size, MSG_NOSIGNAL);
        if (sent <= 0)
            return;
        at += sent;
        size -= (size_t)sent;
    }
}

void http_send_text(int fd, const char *text)
{
    http_send(fd, text, strlen(text));
}

struct reader {
    int fd;
    struct bytes have; /* ends with a zero byte that is not counted */
    uint64_t until_ns;
    bool ended;
};

/* False at the end of the connection or of the time. */
static bool more(struct reader *self)
{
    uint64_t now = clock_monotonic_ns();
    struct pollfd poll_fd = {.fd = self->fd, .events = POLLIN};
    int left_ms = now < self->until_ns ? (int)((self->until_ns - now) / NS_PER_MS) + 1 : 0;
    if (self->ended || poll(&poll_fd, 1, left_ms) <= 0)
        return false;
    cr_assert_eq(bytes_reserve(&self->have, 65536 + 1), SLUICE_OK);
    ssize_t got = recv(self->fd, self->have.data + self->have.size, 65536, 0);
    self->ended = got <= 0;
    if (got > 0)
        self->have.size += (size_t)got;
    self->have.data[self->have.size] = '\0';
    return got > 0;
}

static bool have(struct reader *self, size_t size)
{
    while (self->have.size < size) {
        if (!more(self))
            return false;
    }
    return true;
}

/* Undoes the chunked encoding of what follows `at`. */
static void read_chunks(struct reader *self, size_t at, struct answer *out)
{
    struct bytes body = {0};
    for (;;) {
        char *line;
        while ((line = memmem(self->have.data + at, self->have.size - at, "\r\n", 2)) == NULL) {
            if (!more(self))
                break;
        }
        if (line == NULL)
            break;
        size_t size = strtoul((char *)self->have.data + at, NULL, 16);
        at = (size_t)(line - (char *)self->have.data) + 2;
        if (!have(self, at + size + 2))
            break;
        cr_assert_eq(bytes_append(&body, self->have.data + at, size), SLUICE_OK);
        at += size + 2;
        if (size == 0) {
            out->closed = false;
            break;
        }
        out->closed = true; /* until the last chunk */
    }
    cr_assert_eq(bytes_append(&body, "", 1), SLUICE_OK);
    out->body = (char *)body.data;
    out->size = body.size - 1;
}

void http_read(int fd, bool head, struct answer *out)
{
    struct reader reader = {.fd = fd, .until_ns = clock_monotonic_ns() + ANSWER_TIMEOUT_MS * NS_PER_MS};
    char *end = NULL;
    *out = (struct answer){0};
    for (;;) {
        while (reader.have.size == 0 || (end = memmem(reader.have.data, reader.have.size, "\r\n\r\n", 4)) == NULL) {
            if (!more(&reader)) {
                bytes_free(&reader.have);
                out->closed = true;
                return;
            }
        }
        out->status = atoi((char *)reader.have.data + 9);
        if (out->status != 100)
            break;
        size_t used = (size_t)(end + 4 - (char *)reader.have.data);
        memmove(reader.have.data, reader.have.data + used, reader.have.size - used + 1);
        reader.have.size -= used;
    }
    size_t at = (size_t)(end + 4 - (char *)reader.have.data);
    out->head = strndup((char *)reader.have.data, at);
    const char *length = answer_header(out, "Content-Length");
    const char *coding = answer_header(out, "Transfer-Encoding");
    if (head || out->status == 204 || out->status == 304) {
        out->body = strdup("");
    } else if (coding != NULL) {
        read_chunks(&reader, at, out);
    } else {
        out->size = length != NULL ? strtoul(answer_header(out, "Content-Length"), NULL, 10) : SIZE_MAX - at;
        if (!have(&reader, at + out->size)) {
            out->size = reader.have.size - at;
            out->closed = true;
        }
        out->body = calloc(1, out->size + 1);
        memcpy(out->body, reader.have.data + at, out->size);
    }
    bytes_free(&reader.have);
}

void http_call(const struct server *self, const char *method, const char *target, const char *headers, const void *body,
               size_t size, struct answer *out)
{
    struct bytes request = {0};
    bool host = headers != NULL && strcasestr(headers, "host:") != NULL;
    bool length =
        headers != NULL && (strcasestr(headers, "content-length:") || strcasestr(headers, "transfer-encoding:"));
    int fd = http_connect(self);
    cr_assert_eq(bytes_printf(&request, "%s %s HTTP/1.1\r\n%s%s", method, target, host ? "" : "Host: localhost\r\n",
                              headers != NULL ? headers : ""),
                 SLUICE_OK);
    if (body != NULL && !length)
        cr_assert_eq(bytes_printf(&request, "Content-Length: %zu\r\n", size), SLUICE_OK);
    cr_assert_eq(bytes_printf(&request, "\r\n"), SLUICE_OK);
    if (size > 0)
        cr_assert_eq(bytes_append(&request, body, size), SLUICE_OK);
    http_send(fd, request.data, request.size);
    bytes_free(&request);
    http_read(fd, strcmp(method, "HEAD") == 0, out);
    close(fd);
    if (out->body == NULL)
        out->body = strdup("");
}

void http_raw(const struct server *self, const char *bytes, size_t size, struct answer *out)
{
    int fd = http_connect(self);
    http_send(fd, bytes, size);
    shutdown(fd, SHUT_WR);
    http_read(fd, false, out);
    close(fd);
    if (out->body == NULL)
        out->body = strdup("");
}

char *http_read_until(int fd, const char *text, int timeout_ms, bool *found)
{
    struct reader reader = {.fd = fd, .until_ns = clock_monotonic_ns() + (uint64_t)timeout_ms * NS_PER_MS};
    *found = false;
    while (!*found && more(&reader))
        *found = memmem(reader.have.data, reader.have.size, text, strlen(text)) != NULL;
    return reader.have.data != NULL ? (char *)reader.have.data : strdup("");
}

void http_expect(const struct server *self, int status, const char *method, const char *target, const char *headers,
                 const char *body, int line)
{
    struct answer answer;
    http_call(self, method, target, headers, body, body != NULL ? strlen(body) : 0, &answer);
    cr_expect(answer.status == status, "line %d: %s %s %s: expected %d, came %d: %s", line, method, target,
              headers != NULL ? headers : "", status, answer.status, answer.body);
    answer_free(&answer);
}

/* --- Streams ---------------------------------------------------------------------------------------------------- */

static void append(char **text, size_t *size, const char *data, size_t more)
{
    *text = realloc(*text, *size + more + 1);
    cr_assert_not_null(*text);
    memcpy(*text + *size, data, more);
    *size += more;
    (*text)[*size] = '\0';
}

/* Undoes the encoding of what is there. */
static void decode(struct http_stream *self)
{
    size_t used = 0;
    while (used < self->raw_size && !self->ended) {
        if (self->chunk_left == 0) {
            char *end = memmem(self->raw + used, self->raw_size - used, "\r\n", 2);
            if (end == NULL)
                break;
            size_t size = strtoul(self->raw + used, NULL, 16);
            used = (size_t)(end - self->raw) + 2;
            self->ended = size == 0;
            self->chunk_left = size + 2;
            continue;
        }
        size_t part = self->raw_size - used < self->chunk_left ? self->raw_size - used : self->chunk_left;
        size_t data = self->chunk_left > 2 ? self->chunk_left - 2 : 0;
        append(&self->text, &self->text_size, self->raw + used, part < data ? part : data);
        used += part;
        self->chunk_left -= part;
    }
    memmove(self->raw, self->raw + used, self->raw_size - used);
    self->raw_size -= used;
}

static bool stream_more(struct http_stream *self, int timeout_ms)
{
    char data[65536];
    struct pollfd poll_fd = {.fd = self->fd, .events = POLLIN};
    if (self->ended || poll(&poll_fd, 1, timeout_ms) <= 0)
        return false;
    ssize_t got = recv(self->fd, data, sizeof(data), 0);
    if (got > 0)
        append(&self->raw, &self->raw_size, data, (size_t)got);
    return got > 0;
}

void http_stream_open(const struct server *self, const char *target, const char *headers, struct http_stream *out)
{
    char request[1024], *end = NULL;
    *out = (struct http_stream){.fd = http_connect(self)};
    snprintf(request, sizeof(request), "GET %s HTTP/1.1\r\nHost: localhost\r\n%s\r\n", target,
             headers != NULL ? headers : "");
    http_send_text(out->fd, request);
    append(&out->text, &out->text_size, "", 0);
    while (out->raw == NULL || (end = strstr(out->raw, "\r\n\r\n")) == NULL)
        cr_assert(stream_more(out, 5000), "%s: no answer", target);
    size_t size = (size_t)(end - out->raw) + 4;
    out->head = strndup(out->raw, size);
    memmove(out->raw, out->raw + size, out->raw_size - size);
    out->raw_size -= size;
    cr_assert(strncmp(out->head, "HTTP/1.1 200 ", 13) == 0 && strstr(out->head, "chunked") != NULL, "%s: %s", target,
              out->head);
    decode(out);
}

char *http_stream_until(struct http_stream *self, const char *text, int timeout_ms)
{
    uint64_t until = clock_monotonic_ns() + (uint64_t)timeout_ms * NS_PER_MS;
    size_t size = strlen(text), from = self->at;
    for (;;) {
        char *found = memmem(self->text + from, self->text_size - from, text, size);
        if (found != NULL) {
            char *copy = strndup(self->text + self->at, (size_t)(found - self->text) + size - self->at);
            self->at = (size_t)(found - self->text) + size;
            return copy;
        }
        from = self->text_size > size + self->at ? self->text_size - size : self->at;
        uint64_t now = clock_monotonic_ns();
        if (now >= until || !stream_more(self, (int)((until - now) / NS_PER_MS) + 1))
            return NULL;
        decode(self);
    }
}

void http_stream_expect(struct http_stream *self, const char *text, int line)
{
    char *came = http_stream_until(self, text, 5000);
    cr_expect_not_null(came, "line %d: \"%s\" is not in \"%.300s\"", line, text, self->text + self->at);
    free(came);
}

bool http_stream_ends(struct http_stream *self)
{
    while (stream_more(self, 5000))
        decode(self);
    return self->ended;
}

void http_stream_close(struct http_stream *self)
{
    close(self->fd);
    free(self->raw);
    free(self->text);
    free(self->head);
    *self = (struct http_stream){.fd = -1};
}

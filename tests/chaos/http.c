/* One blocking HTTP exchange over keep-alive. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "tests/chaos/load.h"

#define CONNECT_MS 1000

uint64_t http_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

bool http_init(struct http *self, const char *address, unsigned timeout_ms)
{
    char host[64];
    unsigned port;
    self->fd = -1;
    self->timeout_ms = timeout_ms;
    self->address = (struct sockaddr_in){.sin_family = AF_INET};
    if (sscanf(address, "%63[0-9.]:%u", host, &port) != 2 || inet_pton(AF_INET, host, &self->address.sin_addr) != 1)
        return false;
    self->address.sin_port = htons((uint16_t)port);
    return true;
}

void http_close(struct http *self)
{
    if (self->fd >= 0)
        close(self->fd);
    self->fd = -1;
}

/* A gateway that is cut off would hold a plain connect for a minute. */
static bool open_connection(struct http *self)
{
    int one = 1, error = 0;
    socklen_t size = sizeof(error);
    self->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (self->fd < 0)
        return false;
    setsockopt(self->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    struct pollfd watched = {.fd = self->fd, .events = POLLOUT};
    if ((connect(self->fd, (struct sockaddr *)&self->address, sizeof(self->address)) != 0 && errno != EINPROGRESS) ||
        poll(&watched, 1, CONNECT_MS) != 1 || getsockopt(self->fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0 ||
        error != 0) {
        http_close(self);
        return false;
    }
    return true;
}

static bool send_all(struct http *self, const char *data, size_t size, uint64_t ends_ns)
{
    while (size > 0) {
        ssize_t sent = send(self->fd, data, size, MSG_NOSIGNAL);
        if (sent > 0) {
            data += sent;
            size -= (size_t)sent;
            continue;
        }
        uint64_t now = http_now_ns();
        struct pollfd watched = {.fd = self->fd, .events = POLLOUT};
        if (sent == 0 || errno != EAGAIN || now >= ends_ns ||
            poll(&watched, 1, (int)((ends_ns - now) / 1000000u + 1)) < 0)
            return false;
    }
    return true;
}

/* More of the answer; false when it ended, broke or took too long. */
static bool receive(struct http *self, size_t *have, uint64_t ends_ns)
{
    for (;;) {
        if (*have == sizeof(self->buffer) - 1)
            return false;
        ssize_t came = recv(self->fd, self->buffer + *have, sizeof(self->buffer) - 1 - *have, 0);
        if (came > 0) {
            *have += (size_t)came;
            self->buffer[*have] = '\0';
            return true;
        }
        uint64_t now = http_now_ns();
        struct pollfd watched = {.fd = self->fd, .events = POLLIN};
        if (came == 0 || errno != EAGAIN || now >= ends_ns ||
            poll(&watched, 1, (int)((ends_ns - now) / 1000000u + 1)) < 0)
            return false;
    }
}

static const char *field(const char *head, const char *name)
{
    const char *at = strcasestr(head, name);
    return at == NULL ? NULL : at + strlen(name);
}

/* 2026-11-23T09:07:39.758862637Z */
static uint64_t parse_time(const char *text)
{
    struct tm parts = {0};
    unsigned long nanoseconds = 0;
    int digits = 0, more = 0;
    if (sscanf(text, "%d-%d-%dT%d:%d:%d%n", &parts.tm_year, &parts.tm_mon, &parts.tm_mday, &parts.tm_hour,
               &parts.tm_min, &parts.tm_sec, &digits) != 6)
        return 0;
    parts.tm_year -= 1900;
    parts.tm_mon--;
    if (text[digits] == '.' && sscanf(text + digits + 1, "%9lu%n", &nanoseconds, &more) == 1)
        for (; more < 9; more++)
            nanoseconds *= 10;
    return (uint64_t)timegm(&parts) * 1000000000u + nanoseconds;
}

static void parse_head(const char *head, struct answer *answer)
{
    const char *text;
    if ((text = field(head, "\r\nSluice-Version: ")) != NULL) {
        answer->version = strtoull(text, NULL, 10);
        answer->has_version = true;
    }
    if ((text = field(head, "\r\nSluice-Revision: ")) != NULL)
        answer->revision = strtoull(text, NULL, 10);
    if ((text = field(head, "\r\nSluice-Time: ")) != NULL)
        answer->time_ns = parse_time(text);
    answer->has_tag = field(head, "\r\nETag: ") != NULL;
    answer->replayed = field(head, "\r\nIdempotency-Replayed: true") != NULL;
}

static void parse_body(struct answer *answer)
{
    const char *text = strstr(answer->body, "\"shard\":");
    if (text != NULL)
        answer->shard = strtoull(text + 8, NULL, 10);
    text = strstr(answer->body, "\"code\":\"");
    if (text != NULL)
        sscanf(text + 8, "%31[a-z_]", answer->code);
}

static bool read_answer(struct http *self, uint64_t ends_ns, size_t *have, struct answer *answer)
{
    char *end;
    *have = 0;
    self->buffer[0] = '\0';
    while ((end = strstr(self->buffer, "\r\n\r\n")) == NULL)
        if (!receive(self, have, ends_ns))
            return false;
    end[2] = '\0';
    const char *length = field(self->buffer, "\r\nContent-Length: ");
    int status;
    if (length == NULL || sscanf(self->buffer, "HTTP/1.1 %d", &status) != 1)
        return false;
    size_t head = (size_t)(end + 4 - self->buffer), body = strtoull(length, NULL, 10);
    if (head + body >= sizeof(self->buffer))
        return false;
    while (*have < head + body)
        if (!receive(self, have, ends_ns))
            return false;
    parse_head(self->buffer, answer);
    answer->body = self->buffer + head;
    answer->body_size = body;
    answer->status = status;
    if (field(self->buffer, "\r\nContent-Type: application/json") != NULL ||
        field(self->buffer, "\r\nContent-Type: application/problem+json") != NULL)
        parse_body(answer);
    if (field(self->buffer, "\r\nConnection: close") != NULL)
        http_close(self);
    return true;
}

void http_exchange(struct http *self, const char *request, size_t size, bool repeatable, struct answer *answer)
{
    uint64_t ends_ns = http_now_ns() + (uint64_t)self->timeout_ms * 1000000u;
    for (int i = 0; i < 2; i++) {
        bool fresh = self->fd < 0;
        size_t have = 0;
        *answer = (struct answer){.shard = UINT64_MAX, .body = ""};
        if (fresh && !open_connection(self))
            return;
        if (send_all(self, request, size, ends_ns) && read_answer(self, ends_ns, &have, answer))
            return;
        http_close(self);
        *answer = (struct answer){.shard = UINT64_MAX, .body = ""};
        if (fresh || have > 0 || !repeatable || http_now_ns() >= ends_ns)
            return;
    }
}

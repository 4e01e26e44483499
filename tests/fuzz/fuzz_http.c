/* Any bytes from a client of the gateway, through a socket: the gateway answers them or closes the connection, and goes
 * on. A store in memory stands behind it.
 *
 * The first byte says how to read the rest. 0: it is what the client sends. Else: lines of a request's head, an empty
 * line, a body, and what HTTP needs is added, so that the fuzzer can work on targets, headers, JSON documents and forms
 * without counting bytes. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/base/buf.h"
#include "core/base/log.h"
#include "core/base/panic.h"
#include "gateway/gateway.h"
#include "tests/unit/gateway/fake_sluice.h"

#define QUIET_MS    100 /* who says nothing for so long won't */
#define RESET_EVERY 512

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct gateway *gateway;
static pthread_t thread;

static void *run(void *arg)
{
    gateway_run(arg);
    return NULL;
}

static void stop(void)
{
    gateway_stop(gateway);
    pthread_join(thread, NULL);
    gateway_destroy(gateway);
    fake_reset();
    ASSERT(fake_values() == 0);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    static const char *const nodes[] = {"shm:none"};
    const struct gateway_options options = {
        .listen = "127.0.0.1:0", .nodes = nodes, .node_count = 1, .value_bytes_max = 1 << 16};
    char error[256];
    (void)argc;
    (void)argv;
    log_set_level(LOG_LEVEL_NONE);
    if (gateway_create(&options, &gateway, error, sizeof(error)) != SLUICE_OK ||
        pthread_create(&thread, NULL, run, gateway) != 0)
        PANIC("%s", error);
    atexit(stop);
    return 0;
}

static void append(struct bytes *out, const void *data, size_t size)
{
    ASSERT(bytes_append(out, data, size) == SLUICE_OK);
}

static void append_text(struct bytes *out, const char *text)
{
    append(out, text, strlen(text));
}

static void make_request(const uint8_t *data, size_t size, struct bytes *out)
{
    char length[64];
    const uint8_t *end = memmem(data, size, "\n\n", 2);
    size_t head = end == NULL ? size : (size_t)(end - data);
    const uint8_t *body = end == NULL ? data + size : end + 2;
    size_t body_size = (size_t)(data + size - body);
    for (size_t at = 0; at < head;) {
        const uint8_t *line = memchr(data + at, '\n', head - at);
        size_t line_size = line == NULL ? head - at : (size_t)(line - data) - at;
        append(out, data + at, line_size);
        append_text(out, at == 0 ? " HTTP/1.1\r\nHost: localhost\r\n" : "\r\n");
        at += line_size + 1;
    }
    snprintf(length, sizeof(length), "Content-Length: %zu\r\n\r\n", body_size);
    append_text(out, body_size > 0 ? length : "\r\n");
    append(out, body, body_size);
}

static int connect_to_gateway(void)
{
    const struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(gateway_port(gateway)), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    /* Closed with a reset: thousands of connections a second would use up the ports. */
    const struct linger linger = {.l_onoff = 1};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ASSERT(fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)) == 0);
    ASSERT(connect(fd, (const struct sockaddr *)&address, sizeof(address)) == 0);
    return fd;
}

/* The first line tells how it went. */
static void check_answer(const char *answer, size_t size)
{
    if (size == 0)
        return; /* closed without a word: half a request, or none */
    ASSERT(size > 12 && memcmp(answer, "HTTP/1.", 7) == 0);
    ASSERT(memcmp(answer + 9, "500", 3) != 0);
}

static void exchange(int fd, const uint8_t *data, size_t size)
{
    char answer[4096], rest[65536];
    size_t have = 0, at = 0;
    struct pollfd wait = {.fd = fd, .events = POLLIN | POLLOUT};
    while (poll(&wait, 1, QUIET_MS) > 0) {
        if ((wait.revents & POLLOUT) != 0 && at < size) {
            ssize_t sent = send(fd, data + at, size - at, MSG_NOSIGNAL | MSG_DONTWAIT);
            if (sent <= 0)
                break;
            at += (size_t)sent;
        }
        if (at == size && (wait.events & POLLOUT) != 0) {
            wait.events = POLLIN;
            (void)shutdown(fd, SHUT_WR);
        }
        if ((wait.revents & (POLLIN | POLLHUP | POLLERR)) == 0)
            continue;
        bool room = have < sizeof(answer);
        ssize_t got = recv(fd, room ? answer + have : rest, room ? sizeof(answer) - have : sizeof(rest), MSG_DONTWAIT);
        if (got <= 0)
            break;
        have += room ? (size_t)got : 0;
        if (room && memmem(answer, have, "text/event-stream", 17) != NULL)
            break; /* it has no end */
    }
    check_answer(answer, have);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static unsigned count;
    struct bytes request = {0};
    if (size == 0)
        return 0;
    if (++count % RESET_EVERY == 0)
        fake_reset();
    if (data[0] == 0)
        append(&request, data + 1, size - 1);
    else
        make_request(data + 1, size - 1, &request);
    int fd = connect_to_gateway();
    exchange(fd, request.data, request.size);
    close(fd);
    bytes_free(&request);
    return 0;
}

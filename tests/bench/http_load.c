/* A closed-loop HTTP load over keep-alive connections, the same for every server that is compared.
 *
 * http_load HOST PORT CONNECTIONS SECONDS METHOD PATH [BODY-BYTES | @FILE] [HEADER …]
 * `%k` in PATH or in a @FILE body becomes a number that differs by connection and request (modulo 1,000), `%b` in a
 * @FILE its base64 form. Prints one JSON object: requests a second, latency percentiles in microseconds, answers that
 * were no 2xx. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SAMPLES_MAX (8u << 20)
#define KEYS        1000u

struct connection {
    int fd;
    uint64_t sent_ns;
    uint64_t number;
    char *request;
    size_t request_size, written;
    char head[8192];
    size_t head_size;
    size_t body_left;
    bool in_body;
    int status;
};

static struct {
    const char *method, *path, *headers[16];
    int header_count;
    char *body;
    size_t body_size;
    bool templated;
    uint32_t *samples;
    size_t sample_count;
    uint64_t failed, started_ns, ends_ns;
} load;

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void die(const char *what)
{
    fprintf(stderr, "http_load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void base64(const char *text, char *out)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t size = strlen(text);
    for (size_t i = 0; i < size; i += 3) {
        unsigned value = (unsigned)(unsigned char)text[i] << 16;
        value |= i + 1 < size ? (unsigned)(unsigned char)text[i + 1] << 8 : 0;
        value |= i + 2 < size ? (unsigned)(unsigned char)text[i + 2] : 0;
        *out++ = digits[value >> 18];
        *out++ = digits[value >> 12 & 63];
        *out++ = i + 1 < size ? digits[value >> 6 & 63] : '=';
        *out++ = i + 2 < size ? digits[value & 63] : '=';
    }
    *out = '\0';
}

/* Copies with %k and %b filled in; returns the size. */
static size_t fill(const char *from, size_t size, uint64_t number, char *out)
{
    char key[32], coded[64];
    size_t at = 0;
    snprintf(key, sizeof(key), "%06llu", (unsigned long long)(number % KEYS));
    base64(key, coded);
    for (size_t i = 0; i < size; i++) {
        const char *put = NULL;
        if (from[i] == '%' && i + 1 < size && (from[i + 1] == 'k' || from[i + 1] == 'b'))
            put = from[i + 1] == 'k' ? key : coded;
        if (put == NULL) {
            out[at++] = from[i];
            continue;
        }
        memcpy(out + at, put, strlen(put));
        at += strlen(put);
        i++;
    }
    return at;
}

static void prepare(struct connection *connection)
{
    char path[2048];
    size_t path_size = fill(load.path, strlen(load.path), connection->number, path);
    char *body = load.body;
    size_t body_size = load.body_size;
    static char filled[1 << 20];
    if (load.templated) {
        body_size = fill(load.body, load.body_size, connection->number, filled);
        body = filled;
    }
    if (connection->request == NULL && (connection->request = malloc(8192 + 2 * body_size + 64)) == NULL)
        die("memory");
    size_t at = (size_t)sprintf(connection->request, "%s %.*s HTTP/1.1\r\nHost: localhost\r\n", load.method,
                                (int)path_size, path);
    for (int i = 0; i < load.header_count; i++)
        at += (size_t)sprintf(connection->request + at, "%s\r\n", load.headers[i]);
    if (body_size > 0)
        at += (size_t)sprintf(connection->request + at, "Content-Length: %zu\r\n", body_size);
    at += (size_t)sprintf(connection->request + at, "\r\n");
    memcpy(connection->request + at, body, body_size);
    connection->request_size = at + body_size;
    connection->written = 0;
    connection->head_size = 0;
    connection->in_body = false;
    connection->sent_ns = now_ns();
}

static void push(struct connection *connection)
{
    while (connection->written < connection->request_size) {
        ssize_t size = send(connection->fd, connection->request + connection->written,
                            connection->request_size - connection->written, MSG_NOSIGNAL);
        if (size < 0 && errno == EAGAIN)
            return;
        if (size < 0)
            die("send");
        connection->written += (size_t)size;
    }
}

static void next(struct connection *connection, uint64_t stride)
{
    connection->number += stride;
    prepare(connection);
    push(connection);
}

/* True when an answer has come whole. */
static bool take(struct connection *connection, const char *data, size_t size)
{
    if (connection->in_body) {
        connection->body_left -= size < connection->body_left ? size : connection->body_left;
        return connection->body_left == 0;
    }
    if (connection->head_size + size >= sizeof(connection->head)) {
        size_t room = sizeof(connection->head) - connection->head_size - 1;
        size_t kept = size < room ? size : room;
        memcpy(connection->head + connection->head_size, data, kept);
        connection->head[connection->head_size + kept] = '\0';
    } else {
        memcpy(connection->head + connection->head_size, data, size);
        connection->head[connection->head_size + size] = '\0';
    }
    char *end = strstr(connection->head, "\r\n\r\n");
    if (end == NULL) {
        connection->head_size += size;
        return false;
    }
    size_t head = (size_t)(end - connection->head) + 4, total = connection->head_size + size;
    connection->status = atoi(connection->head + 9);
    const char *length = strcasestr(connection->head, "\r\ncontent-length:");
    size_t body = length == NULL || length > end ? 0 : strtoull(length + 17, NULL, 10);
    if (length == NULL || length > end) {
        /* Chunked answers of small size: read up to the last chunk. */
        if (strcasestr(connection->head, "transfer-encoding: chunked") != NULL &&
            strstr(end + 4, "0\r\n\r\n") == NULL) {
            connection->head_size += size;
            return false;
        }
        return true;
    }
    size_t have = total - head;
    connection->body_left = body > have ? body - have : 0;
    connection->in_body = true;
    return connection->body_left == 0;
}

static void done(struct connection *connection)
{
    uint64_t taken = now_ns() - connection->sent_ns;
    if (load.sample_count < SAMPLES_MAX)
        load.samples[load.sample_count++] = taken > UINT32_MAX ? UINT32_MAX : (uint32_t)taken;
    if (connection->status < 200 || connection->status > 299)
        load.failed++;
}

static int by_size(const void *a, const void *b)
{
    uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;
    return left < right ? -1 : left > right;
}

static double percentile(double part)
{
    return load.sample_count == 0 ? 0 : load.samples[(size_t)((double)(load.sample_count - 1) * part)] / 1000.0;
}

static void connect_to(struct connection *connection, const char *host, int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int one = 1;
    inet_pton(AF_INET, host, &address.sin_addr);
    connection->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connection->fd < 0 || connect(connection->fd, (struct sockaddr *)&address, sizeof(address)) != 0)
        die("connect");
    setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    fcntl(connection->fd, F_SETFL, O_NONBLOCK);
}

static void read_body(const char *argument)
{
    if (argument[0] != '@') {
        load.body_size = strtoull(argument, NULL, 10);
        load.body = malloc(load.body_size + 1);
        for (size_t i = 0; i < load.body_size; i++)
            load.body[i] = (char)('a' + (i * 7 + i / 64) % 26);
        return;
    }
    FILE *file = fopen(argument + 1, "rb");
    if (file == NULL)
        die(argument + 1);
    load.body = malloc(1 << 20);
    load.body_size = fread(load.body, 1, 1 << 20, file);
    load.templated = true;
    fclose(file);
}

static void run(struct connection *connections, uint64_t count)
{
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    for (uint64_t i = 0; i < count; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &connections[i]};
        epoll_ctl(epoll, EPOLL_CTL_ADD, connections[i].fd, &event);
        connections[i].number = i;
        prepare(&connections[i]);
        push(&connections[i]);
    }
    static char data[1 << 18];
    while (now_ns() < load.ends_ns) {
        struct epoll_event events[256];
        int ready = epoll_wait(epoll, events, 256, 100);
        for (int i = 0; i < ready; i++) {
            struct connection *connection = events[i].data.ptr;
            push(connection);
            ssize_t size = recv(connection->fd, data, sizeof(data), 0);
            if (size < 0 && errno == EAGAIN)
                continue;
            if (size <= 0)
                die("the server closed a connection");
            if (take(connection, data, (size_t)size)) {
                done(connection);
                next(connection, count);
            }
        }
    }
    close(epoll);
}

int main(int argc, char **argv)
{
    if (argc < 7) {
        fprintf(stderr, "http_load HOST PORT CONNECTIONS SECONDS METHOD PATH [BODY-BYTES | @FILE] [HEADER …]\n");
        return 64;
    }
    uint64_t count = strtoull(argv[3], NULL, 10);
    double seconds = atof(argv[4]);
    load.method = argv[5];
    load.path = argv[6];
    if (argc > 7)
        read_body(argv[7]);
    for (int i = 8; i < argc && load.header_count < 16; i++)
        load.headers[load.header_count++] = argv[i];
    load.samples = malloc(SAMPLES_MAX * sizeof(*load.samples));
    struct connection *connections = calloc(count, sizeof(*connections));
    if (load.samples == NULL || connections == NULL)
        die("memory");
    for (uint64_t i = 0; i < count; i++)
        connect_to(&connections[i], argv[1], atoi(argv[2]));
    load.started_ns = now_ns();
    load.ends_ns = load.started_ns + (uint64_t)(seconds * 1e9);
    run(connections, count);
    double taken = (double)(now_ns() - load.started_ns) / 1e9;
    qsort(load.samples, load.sample_count, sizeof(*load.samples), by_size);
    printf("{\"rate\":%.1f,\"p50_us\":%.1f,\"p90_us\":%.1f,\"p99_us\":%.1f,\"max_us\":%.1f,\"count\":%zu,\"failed\":%"
           "llu}\n",
           (double)load.sample_count / taken, percentile(0.5), percentile(0.9), percentile(0.99), percentile(1.0),
           load.sample_count, (unsigned long long)load.failed);
    return load.failed == 0 ? 0 : 2;
}

/* libmicrohttpd, driven from outside: its epoll descriptor is one of the loop's, and a connection that waits for the
 * store is suspended. Suspending, resuming and queueing happen in the loop's thread alone, so the library's own wake-up
 * channel is not needed (in this mode it does not create one). */
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/base/log.h"
#include "core/base/panic.h"
#include "gateway/http__.h"

/* --- Connections ------------------------------------------------------------------------------------------------- */

static void peer_leave(struct gateway *gateway, struct peer *peer)
{
    if (peer->list == NULL)
        return;
    struct peer **last = peer->list == &gateway->waiting ? &gateway->waiting_last : &gateway->uploading_last;
    if (peer->previous != NULL)
        peer->previous->next = peer->next;
    else
        *peer->list = peer->next;
    if (peer->next != NULL)
        peer->next->previous = peer->previous;
    else
        *last = peer->previous;
    peer->list = NULL;
}

static void peer_enter(struct gateway *gateway, struct peer *peer, struct peer **list)
{
    peer_leave(gateway, peer);
    struct peer **last = list == &gateway->waiting ? &gateway->waiting_last : &gateway->uploading_last;
    peer->since_ns = gateway->now_ns;
    peer->list = list;
    peer->next = NULL;
    peer->previous = *last;
    if (*last != NULL)
        (*last)->next = peer;
    else
        *list = peer;
    *last = peer;
}

/* libmicrohttpd has no call that ends a connection: it learns of it from the socket. */
static void peer_cut(struct peer *peer)
{
    shutdown(peer->fd, SHUT_RDWR);
}

/* A client may send a byte now and then and so keep the library's own timeout away; here the whole counts. */
static void on_waiting_timer(struct gateway_timer *timer)
{
    struct gateway *self = (struct gateway *)((char *)timer - offsetof(struct gateway, waiting_timer));
    struct peer *peer;
    while ((peer = self->waiting) != NULL && self->now_ns >= peer->since_ns + HTTP_HEADERS_NS) {
        peer_cut(peer);
        peer_leave(self, peer);
    }
    if (peer != NULL)
        gateway__timer_set(self, timer, peer->since_ns + HTTP_HEADERS_NS);
}

static void on_uploading_timer(struct gateway_timer *timer)
{
    struct gateway *self = (struct gateway *)((char *)timer - offsetof(struct gateway, uploading_timer));
    struct peer *next;
    for (struct peer *peer = self->uploading; peer != NULL; peer = next) {
        next = peer->next;
        uint64_t took_ns = self->now_ns - peer->since_ns;
        uint64_t due = took_ns / NS_PER_S * HTTP_BODY_RATE;
        if (took_ns > HTTP_BODY_GRACE_NS && peer->request->body_bytes < due) {
            peer_cut(peer);
            peer_leave(self, peer);
        }
    }
    if (self->uploading != NULL)
        gateway__timer_set(self, timer, self->now_ns + 5 * NS_PER_S);
}

static void wait_for_request(struct gateway *self, struct peer *peer)
{
    peer_enter(self, peer, &self->waiting);
    if (!self->waiting_timer.armed)
        gateway__timer_set(self, &self->waiting_timer, self->now_ns + HTTP_HEADERS_NS);
}

static void wait_for_body(struct gateway *self, struct peer *peer, struct request *request)
{
    peer_enter(self, peer, &self->uploading);
    peer->request = request;
    if (!self->uploading_timer.armed)
        gateway__timer_set(self, &self->uploading_timer, self->now_ns + 5 * NS_PER_S);
}

static void on_connection(void *arg, struct MHD_Connection *connection, void **context,
                          enum MHD_ConnectionNotificationCode code)
{
    struct gateway *self = arg;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        struct peer *peer = calloc(1, sizeof(*peer));
        *context = peer;
        if (peer == NULL)
            return; /* its requests are refused by on_target */
        const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
        peer->fd = info->connect_fd;
        self->metrics.connections++;
        wait_for_request(self, peer);
        return;
    }
    if (*context == NULL)
        return;
    peer_leave(self, *context);
    self->metrics.connections--;
    /* Where the limit of connections was reached, its next turn listens again. */
    self->resumed = true;
    free(*context);
    *context = NULL;
}

/* --- Requests ---------------------------------------------------------------------------------------------------- */

static void *on_target(void *arg, const char *target, struct MHD_Connection *connection)
{
    struct gateway *self = arg;
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    if (info == NULL || info->socket_context == NULL)
        return NULL;
    struct request *request = request__create(self, connection, target != NULL ? target : "");
    if (request != NULL)
        request->peer = info->socket_context;
    return request;
}

/* The path is decoded where it is known what it means. */
static size_t keep_escaped(void *arg, struct MHD_Connection *connection, char *text)
{
    (void)arg;
    (void)connection;
    return strlen(text);
}

bool request__charge(struct request *request, uint64_t bytes)
{
    struct gateway *self = request->gateway;
    if (bytes > self->options.memory_max - self->memory)
        return false;
    self->memory += bytes;
    request->memory += bytes;
    return true;
}

static void refuse_body(struct request *request, enum sluice_status status, const char *what)
{
    request->body_refused = true;
    collect__free(&request->body);
    if (status == SLUICE_TOO_LARGE)
        reply__problem(request, status, "the body is larger than the limit of %llu bytes",
                       (unsigned long long)request->body_limit);
    else
        reply__problem(request, status, "%s", what);
}

/* False: the connection is to be closed. */
static bool take_body(struct request *request, const char *data, size_t size)
{
    request->body_bytes += size;
    request->gateway->metrics.received_bytes += size;
    if (request->body_refused)
        return request->body_bytes <= request->body_limit + HTTP_DRAIN_BYTES_MAX;
    if (request->body_bytes > request->body_limit) {
        refuse_body(request, SLUICE_TOO_LARGE, NULL);
        return true;
    }
    if (request->operation->body == BODY_NONE)
        return true; /* means nothing for this method */
    bool taken = request__charge(request, size);
    if (taken)
        taken = request->operation->body == BODY_LAMBDA
                    ? lambda__upload_data(request, data, size)
                    : collect__append(&request->body, data, size, request->body_limit);
    if (!taken && !request->replied)
        refuse_body(request, SLUICE_BUSY, "too many bodies are under way at once; try again");
    else if (!taken)
        request->body_refused = true;
    return true;
}

static void queue_held(struct request *request)
{
    struct MHD_Response *response = request->held;
    request->held = NULL;
    if (MHD_queue_response(request->connection, request->status, response) != MHD_YES)
        request->broken = true;
    MHD_destroy_response(response);
}

static bool has_body(const struct request *request)
{
    const struct headers *headers = &request->headers;
    return headers->transfer_encoding != NULL ||
           (headers->content_length != NULL && strcmp(headers->content_length, "0"));
}

/* A short body that is refused is read all the same: an answer that comes before it would close the connection, and
 * perhaps be lost with it. */
static bool worth_draining(const struct request *request)
{
    uint64_t size;
    const struct headers *headers = &request->headers;
    return headers->transfer_encoding == NULL && headers->expect == NULL && headers->content_length != NULL &&
           parse_u64(headers->content_length, strlen(headers->content_length), &size) && size <= HTTP_DRAIN_BYTES_MAX;
}

static enum MHD_Result on_headers(struct request *request, const char *method, const char *version)
{
    static const char *const names[] = {"GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS"};
    request->method = METHOD_OTHER;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(names[i], method) == 0)
            request->method = (enum method)i;
    }
    request->stage = STAGE_BODY;
    request->http_1_0 = strcmp(version, "HTTP/1.0") == 0;
    bool accepted = request__open(request);
    if (request->broken)
        return MHD_NO;
    if (!has_body(request)) {
        peer_leave(request->gateway, request->peer);
        return MHD_YES;
    }
    if (!accepted && !worth_draining(request)) {
        peer_leave(request->gateway, request->peer);
        queue_held(request);
        return request->broken ? MHD_NO : MHD_YES;
    }
    request->body_refused = !accepted;
    wait_for_body(request->gateway, request->peer, request);
    return MHD_YES;
}

/* A time-out that the client asked for counts from its request's head on, for it has waited since. (The default is the
 * store's and counts from when the whole request is there: a large body on a slow line is no fault.) */
static bool in_time(struct request *request)
{
    uint64_t waited_ms = (clock_monotonic_ns() - request->started_ns) / NS_PER_MS;
    if (request->call.timeout_ms == 0)
        return true;
    if (waited_ms >= request->call.timeout_ms) {
        reply__problem(
            request, SLUICE_DEADLINE,
            "Sluice-Timeout, %u ms, had passed before the whole request was here, after %llu ms; nothing was "
            "applied",
            request->call.timeout_ms, (unsigned long long)waited_ms);
        return false;
    }
    request->call.timeout_ms -= (uint32_t)waited_ms;
    return true;
}

static enum MHD_Result on_complete(struct request *request)
{
    request->stage = STAGE_RUNNING;
    if (request->peer->request == request) {
        request->peer->request = NULL;
        peer_leave(request->gateway, request->peer);
    }
    if (request->held != NULL) {
        queue_held(request);
    } else {
        if (in_time(request))
            request->operation->run(request);
        if (!request->replied) {
            MHD_suspend_connection(request->connection);
            request->suspended = true;
        }
    }
    return request->broken ? MHD_NO : MHD_YES;
}

static enum MHD_Result on_request(void *arg, struct MHD_Connection *connection, const char *url, const char *method,
                                  const char *version, const char *data, size_t *size, void **context)
{
    (void)arg;
    (void)connection;
    (void)url;
    struct request *request = *context;
    if (request == NULL || request->broken)
        return MHD_NO;
    if (request->stage == STAGE_NEW)
        return on_headers(request, method, version);
    if (request->stage == STAGE_RUNNING)
        return MHD_YES; /* its answer is on the way */
    if (*size == 0)
        return on_complete(request);
    bool go_on = take_body(request, data, *size);
    *size = 0;
    return go_on && !request->broken ? MHD_YES : MHD_NO;
}

static void on_completed(void *arg, struct MHD_Connection *connection, void **context,
                         enum MHD_RequestTerminationCode code)
{
    (void)connection;
    (void)code;
    struct gateway *self = arg;
    struct request *request = *context;
    *context = NULL;
    if (request == NULL)
        return;
    if (request->replied)
        metrics_count(&self->metrics, request->route != NULL ? request->route->id : METRICS_NONE, request->status,
                      clock_monotonic_ns() - request->started_ns);
    struct peer *peer = request->peer;
    request__destroy(request);
    peer->request = NULL;
    wait_for_request(self, peer);
}

/* --- Start and stop ---------------------------------------------------------------------------------------------- */

static void on_log(void *arg, const char *format, va_list arguments) __attribute__((format(printf, 2, 0)));
static void on_log(void *arg, const char *format, va_list arguments)
{
    (void)arg;
    char line[512];
    vsnprintf(line, sizeof(line), format, arguments);
    line[strcspn(line, "\r\n")] = '\0';
    LOG_DEBUG("http", "%s", line);
}

static enum sluice_status listen_on(struct gateway *self, char *error, size_t error_size)
{
    const char *text = self->options.listen, *host;
    size_t host_size;
    uint16_t port;
    const char *colon = strrchr(text, ':');
    char name[64];
    if (colon == NULL || !parse_host(text, strlen(text), &host, &host_size, &port) || host_size >= sizeof(name)) {
        snprintf(error, error_size, "the address to listen on is HOST:PORT, for example 127.0.0.1:8080, not \"%s\"",
                 text);
        return SLUICE_INVALID;
    }
    snprintf(name, sizeof(name), "%.*s", (int)host_size, host);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE};
    struct addrinfo *found = NULL;
    if (getaddrinfo(strcmp(name, "localhost") == 0 ? "127.0.0.1" : name, colon + 1, &hints, &found) != 0) {
        snprintf(error, error_size, "\"%s\" is no address to listen on: HOST is an IP address or localhost", text);
        return SLUICE_INVALID;
    }
    self->loopback = parse_host_is_loopback(name, host_size);
    int one = 1, zero = 0;
    int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool bound =
        fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) == 0 &&
        (found->ai_family != AF_INET6 || setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof(zero)) == 0) &&
        bind(fd, found->ai_addr, found->ai_addrlen) == 0 && listen(fd, 4096) == 0;
    freeaddrinfo(found);
    if (!bound) {
        snprintf(error, error_size, "cannot listen on %s: %s", text, strerror(errno));
        if (fd >= 0)
            close(fd);
        return SLUICE_IO;
    }
    union {
        struct sockaddr_storage storage;
        struct sockaddr_in four;
        struct sockaddr_in6 six;
    } address;
    socklen_t size = sizeof(address);
    if (getsockname(fd, (struct sockaddr *)&address.storage, &size) == 0)
        self->port = ntohs(address.storage.ss_family == AF_INET6 ? address.six.sin6_port : address.four.sin_port);
    self->listen_fd = fd;
    return SLUICE_OK;
}

static char *read_pem(const char *path, char *error, size_t error_size)
{
    FILE *file = fopen(path, "re");
    char *text = calloc(1, (1u << 20) + 1);
    size_t size = file != NULL && text != NULL ? fread(text, 1, 1u << 20, file) : 0;
    if (size == 0) {
        snprintf(error, error_size, "cannot read the PEM file %s: %s", path,
                 errno != 0 ? strerror(errno) : "it is empty");
        free(text);
        text = NULL;
    }
    if (file != NULL)
        fclose(file);
    return text;
}

static enum sluice_status check_exposure(const struct gateway *self, char *error, size_t error_size)
{
    if (self->loopback || self->options.insecure)
        return SLUICE_OK;
    if (auth_is_open(self->auth)) {
        snprintf(error, error_size,
                 "%s can be reached from other machines: give --tokens FILE, or listen on 127.0.0.1, or take the risk "
                 "with --insecure",
                 self->options.listen);
        return SLUICE_INVALID;
    }
    if (self->options.tls_certificate_path == NULL) {
        snprintf(error, error_size,
                 "%s can be reached from other machines and tokens would cross the network in the clear: give "
                 "--tls-certificate and "
                 "--tls-key, or take the risk with --insecure",
                 self->options.listen);
        return SLUICE_INVALID;
    }
    return SLUICE_OK;
}

static enum sluice_status load_tls(struct gateway *self, char *error, size_t error_size)
{
    const struct gateway_options *options = &self->options;
    if ((options->tls_certificate_path == NULL) != (options->tls_key_path == NULL)) {
        snprintf(error, error_size, "TLS needs both a certificate and its key");
        return SLUICE_INVALID;
    }
    if (options->tls_key_path == NULL)
        return SLUICE_OK;
    self->tls_certificate = read_pem(options->tls_certificate_path, error, error_size);
    if (self->tls_certificate == NULL)
        return SLUICE_IO;
    self->tls_key = read_pem(options->tls_key_path, error, error_size);
    return self->tls_key != NULL ? SLUICE_OK : SLUICE_IO;
}

enum sluice_status server__start(struct gateway *self, char *error, size_t error_size)
{
    enum sluice_status status = load_tls(self, error, error_size);
    if (status == SLUICE_OK)
        status = listen_on(self, error, error_size);
    if (status == SLUICE_OK)
        status = check_exposure(self, error, error_size);
    if (status != SLUICE_OK)
        return status;
    self->check_origin = auth_is_open(self->auth);

    struct MHD_OptionItem tls[] = {
        {MHD_OPTION_HTTPS_MEM_CERT, 0, self->tls_certificate},
        {MHD_OPTION_HTTPS_MEM_KEY, 0, self->tls_key},
        {MHD_OPTION_HTTPS_PRIORITIES, 0, (void *)(uintptr_t) "NORMAL:-VERS-TLS1.0:-VERS-TLS1.1"},
        {MHD_OPTION_END, 0, NULL},
    };
    struct MHD_OptionItem none[] = {{MHD_OPTION_END, 0, NULL}};
    unsigned flags = MHD_USE_ERROR_LOG | MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_TURBO |
                     (self->tls_key != NULL ? MHD_USE_TLS : 0);
    /* clang-format off: one option a line */
    self->daemon = MHD_start_daemon(
        flags, self->port, NULL, NULL, on_request, self, MHD_OPTION_LISTEN_SOCKET, self->listen_fd,
        MHD_OPTION_EXTERNAL_LOGGER, on_log, self, MHD_OPTION_URI_LOG_CALLBACK, on_target, self,
        MHD_OPTION_UNESCAPE_CALLBACK, keep_escaped, self, MHD_OPTION_NOTIFY_COMPLETED, on_completed, self,
        MHD_OPTION_NOTIFY_CONNECTION, on_connection, self, MHD_OPTION_CONNECTION_LIMIT, self->options.connections_max,
        MHD_OPTION_CONNECTION_TIMEOUT, HTTP_IDLE_S, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)HTTP_POOL_BYTES,
        MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1, MHD_OPTION_ARRAY,
        self->tls_key != NULL ? tls : none, MHD_OPTION_END);
    /* clang-format on */
    if (self->daemon == NULL) {
        snprintf(error, error_size, "cannot serve HTTP on %s%s", self->options.listen,
                 self->tls_key != NULL ? ": is the TLS certificate the key's?" : "");
        return SLUICE_IO;
    }
    self->waiting_timer.run = on_waiting_timer;
    self->uploading_timer.run = on_uploading_timer;
    return SLUICE_OK;
}

void server__quiesce(struct gateway *self)
{
    if (self->daemon == NULL || self->listen_fd < 0)
        return;
    MHD_socket fd = MHD_quiesce_daemon(self->daemon);
    ASSERT(fd == self->listen_fd);
    close(fd);
    self->listen_fd = -1;
}

void server__stop(struct gateway *self)
{
    server__quiesce(self);
    if (self->daemon != NULL)
        MHD_stop_daemon(self->daemon);
    else if (self->listen_fd >= 0)
        close(self->listen_fd);
    self->daemon = NULL;
    free(self->tls_certificate);
    free(self->tls_key);
}

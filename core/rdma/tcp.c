/* Processes anywhere: sockets, and the handshake over them. What flows afterwards is tcp_stream.c's. */
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/panic.h"
#include "core/rdma/tcp__stream.h"

#define BACKLOG 4096
/* When a silent peer is given up: a hint for those above, which have leases of their own. */
#define USER_TIMEOUT_MS      15000
#define KEEPALIVE_IDLE_S     5
#define KEEPALIVE_INTERVAL_S 2
#define KEEPALIVE_COUNT      5
/* Retransmissions are doubled by default: after a partition of seconds they would wait as long again before the link
 * comes back to life, and with it the peer's vote. The option came with Linux 6.15, below which thin streams alone are
 * spared. */
#ifndef TCP_RTO_MAX_MS
#define TCP_RTO_MAX_MS 44
#endif
#define RETRANSMIT_MS_MAX 1000
#define HOST_BYTES        256

static void init(struct fabric_link *link)
{
    link->tcp = (struct fabric__tcp){0};
}

static void close_socket(int *fd)
{
    if (*fd >= 0)
        (void)close(*fd);
    *fd = -1;
}

static bool set_option(int fd, int level, int name, int value)
{
    return setsockopt(fd, level, name, &value, sizeof(value)) == 0;
}

/* None of these is needed to be right, only to be fast and to notice a dead machine. */
static void set_options(int fd)
{
    bool all = set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    all = set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1) && all;
    all = set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_IDLE_S) && all;
    all = set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S) && all;
    all = set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_COUNT) && all;
    all = set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, USER_TIMEOUT_MS) && all;
    all = set_option(fd, IPPROTO_TCP, TCP_RTO_MAX_MS, RETRANSMIT_MS_MAX) && all;
    all = set_option(fd, IPPROTO_TCP, TCP_THIN_LINEAR_TIMEOUTS, 1) && all;
    (void)all;
}

/* --- addresses --- */

/* Splits "HOST:PORT" or "[HOST]:PORT". */
static bool split(const char *rest, char host[HOST_BYTES], char port[8])
{
    const char *colon = strrchr(rest, ':');
    if (!colon || colon == rest)
        return false;
    const char *begin = rest;
    size_t size = (size_t)(colon - rest);
    if (*begin == '[') {
        if (begin[size - 1] != ']' || size < 3)
            return false;
        begin++;
        size -= 2;
    } else if (memchr(begin, ':', size)) {
        return false;
    }
    size_t digits = strspn(colon + 1, "0123456789");
    if (size >= HOST_BYTES || digits == 0 || digits > 5 || colon[1 + digits] != 0 || atoi(colon + 1) > 65535)
        return false;
    memcpy(host, begin, size);
    host[size] = 0;
    memcpy(port, colon + 1, digits + 1);
    return true;
}

static void address_text(const struct sockaddr *address, socklen_t size, char *out, size_t out_size)
{
    char host[NI_MAXHOST], port[NI_MAXSERV];
    if (getnameinfo(address, size, host, sizeof(host), port, sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        (void)snprintf(out, out_size, "an unknown address");
    else
        (void)snprintf(out, out_size, strchr(host, ':') ? "[%.80s]:%.8s" : "%.80s:%.8s", host, port);
}

/* --- listening --- */

static int listen_at(const struct addrinfo *at)
{
    int fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -1;
    if (set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1) && bind(fd, at->ai_addr, at->ai_addrlen) == 0 &&
        listen(fd, BACKLOG) == 0)
        return fd;
    int error = errno;
    (void)close(fd);
    errno = error;
    return -1;
}

static enum sluice_status tcp_listen(struct fabric__listener *listener, const char *rest, char *error,
                                     size_t error_size)
{
    char host[HOST_BYTES], port[8];
    if (!split(rest, host, port)) {
        (void)snprintf(
            error, error_size,
            "expected tcp:HOST:PORT (an IPv6 address in brackets, port 0 to have one picked), got \"tcp:%s\"", rest);
        return SLUICE_INVALID;
    }
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *found;
    int failed = getaddrinfo(strcmp(host, "*") == 0 ? NULL : host, port, &hints, &found);
    if (failed) {
        (void)snprintf(error, error_size, "can't look up the address of tcp:%s: %s", rest, gai_strerror(failed));
        return SLUICE_INVALID;
    }
    listener->fd = -1;
    for (const struct addrinfo *at = found; at && listener->fd < 0; at = at->ai_next)
        listener->fd = listen_at(at);
    freeaddrinfo(found);
    if (listener->fd < 0) {
        (void)snprintf(error, error_size, "can't listen on tcp:%s: %s%s", rest, strerror(errno),
                       errno == EADDRINUSE ? "; stop whoever listens there or choose another port" : "");
        return SLUICE_IO;
    }
    listener->bound_size = sizeof(listener->bound);
    int named = getsockname(listener->fd, (struct sockaddr *)&listener->bound, &listener->bound_size);
    ASSERT(named == 0);
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)(const void *)&listener->bound;
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)(const void *)&listener->bound;
    unsigned picked = ntohs(listener->bound.ss_family == AF_INET6 ? v6->sin6_port : v4->sin_port);
    (void)snprintf(listener->address, sizeof(listener->address),
                   strchr(host, ':') ? "tcp:[%.120s]:%u" : "tcp:%.120s:%u", host, picked);
    return SLUICE_OK;
}

static void tcp_unlisten(struct fabric__listener *listener)
{
    close_socket(&listener->fd);
}

static enum sluice_status tcp_accept(struct fabric__listener *listener)
{
    struct fabric *self = listener->fabric;
    struct sockaddr_storage from;
    socklen_t size = sizeof(from);
    int fd = accept4(listener->fd, (struct sockaddr *)&from, &size, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM))
        return SLUICE_MEMORY;
    if (fd < 0) /* EAGAIN, or a connection that broke before it was taken: the next one makes a new edge */
        return errno == EAGAIN ? SLUICE_AGAIN : SLUICE_OK;
    struct fabric_link *link = fabric__link_create(self, &fabric__tcp_provider, true);
    if (!link) {
        (void)close(fd);
        return SLUICE_MEMORY;
    }
    link->fd = fd;
    link->tcp.securing = self->options.tls != NULL;
    set_options(fd);
    address_text((const struct sockaddr *)&from, size, link->name, sizeof(link->name));
    if (fabric__epoll_add(self, fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, &link->source) != SLUICE_OK) {
        fabric_link_close(link);
        return SLUICE_MEMORY;
    }
    return SLUICE_OK;
}

/* --- connecting --- */

static void connect_next(struct fabric_link *link, int last_error)
{
    struct fabric__tcp *tcp = &link->tcp;
    tcp->connecting = false;
    while (tcp->next_address) {
        const struct addrinfo *at = tcp->next_address;
        tcp->next_address = at->ai_next;
        close_socket(&link->fd);
        link->fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (link->fd < 0) {
            last_error = errno;
            continue;
        }
        set_options(link->fd);
        if (connect(link->fd, at->ai_addr, at->ai_addrlen) != 0 && errno != EINPROGRESS) {
            last_error = errno;
            continue;
        }
        if (fabric__epoll_add(link->fabric, link->fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, &link->source) !=
            SLUICE_OK) {
            last_error = ENOMEM;
            continue;
        }
        tcp->connecting = true;
        return;
    }
    fabric__fail(link, FABRIC_DOWN_REFUSED, "can't connect to %s: %s%s", link->name, strerror(last_error),
                 last_error == ECONNREFUSED ? "; is it running there?" : "");
}

static void on_lookup(struct fabric_link *link)
{
    const char *error;
    link->tcp.next_address = fabric__lookup_result(link->tcp.lookup, &error);
    if (error)
        fabric__fail(link, FABRIC_DOWN_REFUSED, "can't look up the address of %s: %s", link->name, error);
    else
        connect_next(link, EADDRNOTAVAIL);
}

static enum sluice_status tcp_connect(struct fabric_link *link, const char *rest)
{
    char host[HOST_BYTES], port[8];
    if (!split(rest, host, port))
        return SLUICE_INVALID;
    enum sluice_status status = fabric__lookup_start(host, port, link->fabric->wake_fd, &link->tcp.lookup);
    if (status != SLUICE_OK)
        return status;
    fabric__activate(link); /* poll looks whether the look-up is done */
    return SLUICE_OK;
}

static void on_connected(struct fabric_link *link)
{
    int error = 0;
    socklen_t size = sizeof(error);
    if (getsockopt(link->fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0)
        error = errno;
    if (error) {
        connect_next(link, error);
        return;
    }
    struct sockaddr_storage peer;
    size = sizeof(peer);
    if (getpeername(link->fd, (struct sockaddr *)&peer, &size) != 0)
        return; /* not yet */
    link->tcp.connecting = false;
    fabric__lookup_release(link->tcp.lookup);
    link->tcp.lookup = NULL;
    link->tcp.next_address = NULL;
    link->tcp.securing = link->fabric->options.tls != NULL;
    if (!link->tcp.securing)
        fabric__greet(link);
}

/* --- handshake --- */

static enum sluice_status send_all(struct fabric_link *link, const void *data, size_t size)
{
    /* The first few hundred bytes of a connection always fit its buffer. */
    struct iovec all = {.iov_base = (void *)(uintptr_t)data, .iov_len = size};
    ssize_t sent = tcp__socket_write(link, &all, 1);
    return sent == (ssize_t)size ? SLUICE_OK : SLUICE_CLOSED;
}

static void hello_add(const struct fabric_link *link, struct fabric__hello *hello)
{
    (void)link;
    (void)hello;
}
static bool tcp_ready(struct fabric_link *link)
{
    close_socket(&link->ring.fd); /* nobody else maps it */
    return true;
}
static enum sluice_status adopt(struct fabric_link *link, const struct fabric__hello *hello)
{
    (void)link;
    (void)hello;
    return SLUICE_OK;
}

static enum sluice_status send_hello(struct fabric_link *link, const struct fabric__hello *hello)
{
    return send_all(link, hello, sizeof(*hello));
}

static enum sluice_status send_verdict(struct fabric_link *link, const char *text)
{
    struct fabric__verdict verdict;
    fabric__verdict_make(text, &verdict);
    return send_all(link, &verdict, sizeof(verdict));
}

/* How many bytes the handshake's next message takes, from the first that came. 0: it is none. */
static size_t expected_size(const struct fabric_link *link)
{
    const struct fabric__tcp *tcp = &link->tcp;
    uint64_t hello = FABRIC__MAGIC_HELLO, verdict = FABRIC__MAGIC_VERDICT;
    size_t known = tcp->hello_have < sizeof(hello) ? tcp->hello_have : sizeof(hello);
    bool may_hello = link->state == LINK__HELLO && memcmp(tcp->hello, &hello, known) == 0;
    /* Who connected may be refused without a hello. */
    bool may_verdict = (link->state == LINK__VERDICT || !link->accepted) && memcmp(tcp->hello, &verdict, known) == 0;
    if (!may_hello && !may_verdict)
        return 0;
    return may_hello ? sizeof(struct fabric__hello) : sizeof(struct fabric__verdict);
}

static void not_a_handshake(struct fabric_link *link)
{
    static const uint8_t tls[] = {0x16, 0x03};
    if (link->tcp.hello_have >= sizeof(tls) && memcmp(link->tcp.hello, tls, sizeof(tls)) == 0) {
        fabric__fail(link, FABRIC_DOWN_PROTOCOL,
                     "expected a connection in the clear, came TLS: give this side a CA, a certificate and a key too");
        return;
    }
    char text[64];
    fabric__describe(link->tcp.hello, link->tcp.hello_have < 12 ? link->tcp.hello_have : 12, text, sizeof(text));
    fabric__fail(link, FABRIC_DOWN_PROTOCOL, "expected a Sluice handshake, came something that begins with \"%s\"",
                 text);
}

/* Reads no byte beyond the handshake's message, since what follows belongs to the stream. False: nothing more to read
 * now. */
static bool handshake_read(struct fabric_link *link)
{
    struct fabric__tcp *tcp = &link->tcp;
    size_t want = expected_size(link) - tcp->hello_have;
    struct iovec rest = {.iov_base = tcp->hello + tcp->hello_have, .iov_len = want};
    bool more;
    ssize_t got = tcp__socket_read(link, &rest, 1, &more);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return errno == EINTR;
    if (got <= 0) {
        fabric__fail(link, FABRIC_DOWN_CLOSED, "%s closed the connection during the handshake%s%s", link->name,
                     got < 0 ? ": " : "", got < 0 ? tcp__socket_error(link) : "");
        return false;
    }
    tcp->hello_have += (uint32_t)got;
    size_t expected = expected_size(link);
    if (expected == 0) {
        not_a_handshake(link);
        return false;
    }
    if (tcp->hello_have < expected)
        return true;
    tcp->hello_have = 0;
    if (expected == sizeof(struct fabric__hello)) {
        struct fabric__hello hello;
        memcpy(&hello, tcp->hello, sizeof(hello));
        if (tcp->session && hello.role == FABRIC_ROLE_NODE && !fabric__session_may_serve(tcp->session))
            fabric__refuse(link, "a node's TLS certificate was expected (extended key usage: serverAuth), came one for "
                                 "clients alone");
        else
            fabric__on_hello(link, &hello);
    } else {
        struct fabric__verdict verdict;
        memcpy(&verdict, tcp->hello, sizeof(verdict));
        fabric__on_verdict(link, &verdict);
    }
    return true;
}

/* --- service --- */

static bool tcp_work(const struct fabric_link *link)
{
    const struct fabric__tcp *tcp = &link->tcp;
    return link->state == LINK__OPENING && tcp->lookup && !tcp->connecting && fabric__lookup_done(tcp->lookup);
}

static bool tcp_rest(struct fabric_link *link)
{
    /* A look-up rings no bell of the link's: it is looked at while it lasts. */
    return link->state != LINK__OPENING || link->tcp.connecting || link->tcp.securing;
}

/* True: there is a session now. */
static bool secure(struct fabric_link *link, unsigned flags)
{
    if (link->fabric->shake_ns_left == 0) {
        link->flags |= flags; /* the next poll has time again */
        return false;
    }
    if (flags & (LINK__SENDABLE | LINK__READABLE | LINK__HUNG) && tcp__secure(link)) {
        link->tcp.securing = false;
        /* What came behind the handshake may have been read with it. */
        link->flags |= LINK__READABLE;
        fabric__activate(link);
        return true;
    }
    if (link->state < LINK__ENDING && (flags & LINK__TIMER))
        fabric__handshake_expired(link);
    return false;
}

static void service_handshake(struct fabric_link *link, unsigned flags)
{
    if (link->tcp.securing) {
        (void)secure(link, flags);
        return;
    }
    if (flags & LINK__READABLE) {
        while (link->state < LINK__ANSWERED && handshake_read(link))
            continue;
    }
    if (link->state == LINK__ANSWERED)
        /* Behind the verdict there may be more, for which there is no further edge. */
        link->flags |= link->tcp.session ? (unsigned)LINK__READABLE : flags & LINK__READABLE;
    else if (flags & LINK__TIMER)
        fabric__handshake_expired(link);
}

static void tcp_service(struct fabric_link *link)
{
    unsigned flags = link->flags;
    if (link->state == LINK__ANSWERED)
        return;
    link->flags = 0;
    if (flags & LINK__HUNG)
        link->tcp.hung = true;
    if (link->state >= LINK__ENDING)
        return;
    if (link->state == LINK__OPENING) {
        if (tcp_work(link))
            on_lookup(link);
        else if (link->tcp.connecting && (flags & (LINK__SENDABLE | LINK__READABLE)))
            on_connected(link);
        if (link->tcp.securing && secure(link, flags))
            fabric__greet(link);
        if (link->state == LINK__OPENING && (flags & LINK__TIMER))
            fabric__handshake_expired(link);
        return;
    }
    if (link->state < LINK__ANSWERED) {
        service_handshake(link, flags);
        return;
    }
    /* TLS may have to send before it can read, and the other way round. */
    if (link->tcp.session && flags & (LINK__SENDABLE | LINK__READABLE))
        flags |= LINK__READABLE | LINK__SENDABLE;
    if (flags & LINK__SENDABLE) {
        link->tcp.blocked = false;
        tcp__publish(link);
    }
    if ((flags & LINK__READABLE) && link->state == LINK__UP)
        tcp__receive(link);
}

static uint64_t tcp_backlog(const struct fabric_link *link)
{
    return link->tcp.blocked ? link->tcp.out_bytes : 0;
}

static enum sluice_status tcp_permit(struct fabric_region *region, struct fabric_link *link,
                                     struct fabric__grant *grant)
{
    (void)region;
    (void)link;
    (void)grant;
    return SLUICE_OK;
}

static void tcp_close(struct fabric_link *link)
{
    fabric__session_destroy(link->tcp.session);
    link->tcp.session = NULL;
    link->tcp.securing = false;
    close_socket(&link->fd);
    tcp__drop_out(link);
    link->tcp.into = NULL;
    link->tcp.grant = NULL;
}

static void tcp_release(struct fabric_link *link)
{
    fabric__lookup_release(link->tcp.lookup);
    link->tcp.lookup = NULL;
    free(link->tcp.unanswered.items);
}

const struct fabric__provider fabric__tcp_provider = {
    .scheme = "tcp:",
    .asks_kernel = true,
    .init = init,
    .discard = tcp__discard_spare,
    .listen = tcp_listen,
    .accept = tcp_accept,
    .unlisten = tcp_unlisten,
    .connect = tcp_connect,
    .work = tcp_work,
    .rest = tcp_rest,
    .service = tcp_service,
    .hello_add = hello_add,
    .send_hello = send_hello,
    .send_verdict = send_verdict,
    .ready = tcp_ready,
    .adopt = adopt,
    .place = tcp__place,
    .place_whole = tcp__place_whole,
    .publish = tcp__publish,
    .credit = tcp__credit,
    .backlog = tcp_backlog,
    .permit = tcp_permit,
    .revoke = tcp__revoke,
    .write = tcp__write,
    .close = tcp_close,
    .release = tcp_release,
};

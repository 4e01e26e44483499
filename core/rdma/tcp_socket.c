/* What a link reads from and writes to: its socket, or a TLS session before it. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>

#include "core/base/clock.h"
#include "core/rdma/tcp__stream.h"

#define TLS_HANDSHAKE 0x16 /* a TLS connection begins with a record of this type */

ssize_t tcp__socket_read(struct fabric_link *link, const struct iovec *vectors, size_t count, bool *more)
{
    if (link->tcp.session) {
        /* A record at a time, and there may be further ones in the session, of which the socket knows nothing. */
        ssize_t got = fabric__session_read(link->tcp.session, vectors[0].iov_base, vectors[0].iov_len);
        *more = got > 0;
        return got;
    }
    size_t wanted = 0;
    for (size_t i = 0; i < count; i++)
        wanted += vectors[i].iov_len;
    ssize_t got = readv(link->fd, vectors, (int)count);
    *more = got == (ssize_t)wanted;
    return got;
}

ssize_t tcp__socket_write(struct fabric_link *link, struct iovec *vectors, size_t count)
{
    if (link->tcp.session)
        return fabric__session_write(link->tcp.session, vectors, count);
    struct msghdr message = {.msg_iov = vectors, .msg_iovlen = count};
    ssize_t sent;
    do
        sent = sendmsg(link->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (sent < 0 && errno == EINTR);
    return sent;
}

const char *tcp__socket_error(const struct fabric_link *link)
{
    if (errno == EPROTO && link->tcp.session)
        return fabric__session_error(link->tcp.session);
    return strerror(errno);
}

/* --- from a connection to a session --- */

/* Somebody of ours without certificates can be told; others are only logged. */
static void no_tls(struct fabric_link *link, const uint8_t *data, size_t size)
{
    static const char why[] = "TLS was expected, came a connection in the clear: give it a CA, a certificate and a key";
    const uint64_t hello = FABRIC__MAGIC_HELLO;
    char text[64];
    struct fabric__hello unread;
    /* What is left unread would turn the end of the connection into a reset, which can overtake the answer. */
    (void)!recv(link->fd, &unread, sizeof(unread), MSG_DONTWAIT);
    if (size == sizeof(hello) && memcmp(data, &hello, sizeof(hello)) == 0) {
        fabric__refuse(link, why);
        return;
    }
    fabric__describe(data, size, text, sizeof(text));
    fabric__fail(link, FABRIC_DOWN_PROTOCOL, "TLS was expected, came something that begins with \"%s\"", text);
}

/* Looks at the first bytes of who connected without taking them. False: nothing to begin with yet, or it has ended. */
static bool begins(struct fabric_link *link)
{
    uint8_t first[8];
    ssize_t got = recv(link->fd, first, sizeof(first), MSG_PEEK | MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    if (got <= 0)
        fabric__fail(link, FABRIC_DOWN_CLOSED, "%s closed the connection before the TLS handshake", link->name);
    else if (first[0] != TLS_HANDSHAKE)
        no_tls(link, first, (size_t)got);
    else
        return true;
    return false;
}

bool tcp__secure(struct fabric_link *link)
{
    struct fabric__tcp *tcp = &link->tcp;
    if (!tcp->session) {
        if (link->accepted && !begins(link))
            return false;
        tcp->session = fabric__session_create(link->fabric->options.tls, link->fd, link->accepted);
        if (!tcp->session) {
            fabric__fail(link, FABRIC_DOWN_CLOSED, "no memory for a TLS session");
            return false;
        }
    }
    uint64_t begin = clock_monotonic_ns(), *left = &link->fabric->shake_ns_left;
    enum fabric__shake shake = fabric__session_shake(tcp->session);
    uint64_t spent = clock_monotonic_ns() - begin;
    *left -= spent < *left ? spent : *left;
    switch (shake) {
    case SHAKE__DONE:
        return true;
    case SHAKE__AGAIN:
        return false;
    case SHAKE__FAILED:
        break;
    }
    fabric__fail(link, FABRIC_DOWN_CLOSED, "%s", fabric__session_error(tcp->session));
    return false;
}

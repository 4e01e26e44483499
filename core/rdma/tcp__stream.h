/* Between tcp.c (sockets, handshake) and tcp_stream.c (what flows once a link is up). */
#ifndef RDMA_TCP_STREAM_H
#define RDMA_TCP_STREAM_H

#include "core/rdma/fabric__provider.h"

enum tcp__kind {
    TCP__RING = 1,   /* length bytes for the receiver's ring at position offset; key: credit */
    TCP__CREDIT = 2, /* key: credit */
    TCP__WRITE =
        3, /* length bytes for the region `key` at offset; cookie: number of the signalled write, 0 unsignalled */
    TCP__ANSWER = 4, /* to a signalled write; cookie: its number, offset: enum sluice_status */
};
struct tcp__frame {
    uint8_t kind;
    uint8_t unused[3]; /* 0 */
    uint32_t length;   /* bytes that follow */
    uint64_t key;
    uint64_t offset;
    uint64_t cookie;
};
_Static_assert(sizeof(struct tcp__frame) == 32, "frozen layout");
_Static_assert(sizeof(struct tcp__frame) == sizeof(((struct fabric__tcp *)0)->header), "a header is collected there");

/* tcp_socket.c: the socket, or the TLS session before it. As recvmsg and sendmsg: -1 and errno. `*more`: there may be
 * more to read at once. */
ssize_t tcp__socket_read(struct fabric_link *link, const struct iovec *vectors, size_t count, bool *more);
ssize_t tcp__socket_write(struct fabric_link *link, struct iovec *vectors, size_t count);
/* What errno of one of these means. */
const char *tcp__socket_error(const struct fabric_link *link);
/* The next step to a TLS session, if there is to be one. True: the link's own handshake may go on. */
bool tcp__secure(struct fabric_link *link);

/* Reads what has come, straight to where it goes. */
void tcp__receive(struct fabric_link *link);
/* Applies received bytes in order. False: the link has failed. */
bool tcp__feed(struct fabric_link *link, const uint8_t *data, size_t size) SLUICE_MUST_CHECK;
void tcp__drop_out(struct fabric_link *link);
void tcp__discard_spare(struct fabric *self);

enum sluice_status tcp__place(struct fabric_link *link, const struct ring__plan *plan,
                              const struct fabric__message *message, uint32_t offset);
bool tcp__place_whole(struct fabric_link *link, const struct fabric__message *message, uint32_t bytes);
/* Ends the open run of frames and hands the socket what it takes. Fails the link when the connection is broken. */
void tcp__publish(struct fabric_link *link);
void tcp__credit(struct fabric_link *link);
enum sluice_status tcp__write(struct fabric_link *link, uint64_t key, uint64_t offset, const void *data, uint32_t size,
                              unsigned flags, uint64_t cookie);
enum sluice_status tcp__revoke(struct fabric_region *region, struct fabric_link *link, struct fabric__grant *grant);

#endif

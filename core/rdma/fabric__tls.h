/* TLS 1.3 under the tcp provider: a session stands between a link and its socket, and looks like one. Nothing here
 * waits, and nothing but tcp.c and tcp_stream.c knows of it. */
#ifndef RDMA_FABRIC_TLS_H
#define RDMA_FABRIC_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

struct fabric__session;

/* What a session of one of them shares: certificates, key, whom to trust. Counted references. */
struct fabric_tls;
struct fabric_tls *fabric__tls_ref(struct fabric_tls *self);

/* The socket stays the caller's. NULL: no memory. */
struct fabric__session *fabric__session_create(struct fabric_tls *tls, int fd, bool accepting);
void fabric__session_destroy(struct fabric__session *self);

/* Goes on with the handshake. AGAIN: when the socket is readable or takes more. */
enum fabric__shake { SHAKE__DONE, SHAKE__AGAIN, SHAKE__FAILED };
enum fabric__shake fabric__session_shake(struct fabric__session *self);
/* As recv and sendmsg: -1 and errno; EAGAIN also where only the other direction of the socket can bring it on. A list
 * that was not taken whole must come again with the same bytes, and may have more behind them. */
ssize_t fabric__session_read(struct fabric__session *self, void *data, size_t size);
ssize_t fabric__session_write(struct fabric__session *self, const struct iovec *vectors, size_t count);
/* Why shake failed, or read or write with EPROTO, in words that say what to do. */
const char *fabric__session_error(const struct fabric__session *self);

/* May the peer's certificate serve, not only call? Nodes' do; clients' need not (extended key usage). */
bool fabric__session_may_serve(const struct fabric__session *self);

/* A key encrypts so many records at most, then the next one is derived (RFC 8446, section 5.5). Tests lower it. */
extern uint32_t fabric__records_per_key;
/* How many keys this side has sealed with. */
uint64_t fabric__session_keys(const struct fabric__session *self);

#endif

/* The fabric: registered memory, one-sided ordered writes between processes, rings of messages built on them, and a
 * wake-up for a sleeping receiver. One header, several providers: `shm` (processes of one host), `tcp` (anywhere),
 * `verbs` (RDMA cards; to come).
 *
 * A fabric belongs to one thread: create, poll, send and close from it alone. Nothing here blocks but fabric_wait, and
 * fabric_listen on a host name. A child made by fork must not touch its parent's fabrics: their memory is not
 * inherited. Addresses: "shm:NAME" (a rendezvous socket in the abstract namespace or a path when NAME has a slash),
 * "tcp:HOST:PORT". */
#ifndef RDMA_FABRIC_H
#define RDMA_FABRIC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api/sluice_status.h"
#include "core/base/buf.h"

struct fabric;
struct fabric_link;   /* a reliable, ordered connection to one process; the fabric frees it after LINK_DOWN */
struct fabric_region; /* registered memory */
struct fabric_tls;    /* a certificate, its key, and whose certificates are accepted */

/* Who a process is. Exchanged in the handshake and checked on both sides before LINK_UP. */
struct fabric_identity {
    uint8_t cluster[16]; /* all zero: a client that does not know yet; nodes of different clusters refuse each other */
    uint32_t role;       /* enum fabric_role */
    uint32_t node;       /* core nodes: their number; clients 0 */
    uint64_t incarnation;
    uint64_t features; /* bit set; fabric_link_peer shows what both sides have */
};
enum fabric_role { FABRIC_ROLE_NODE = 1, FABRIC_ROLE_CLIENT = 2 };

struct fabric_options {
    size_t size; /* sizeof(struct fabric_options) of the caller */
    struct fabric_identity identity;
    uint32_t ring_bytes; /* receive ring of each link; a power of two; 0: 1 MiB for clients, 4 MiB between nodes */
    uint32_t message_bytes_max;  /* larger frames are refused (their link is closed with a log line); 0: 65 MiB */
    uint64_t pending_bytes_max;  /* what fabric_send may queue on a link beyond its ring; 0: 256 MiB */
    uint32_t spin_ns;            /* how long fabric_wait spins before it sleeps. UINT32_MAX: about one wake-up, measured
                                    once a process, at most 20 us, and ever more seldom while it does not pay */
    uint32_t connect_timeout_ms; /* with looking the name up and the handshake; 0: 2,000 */
    uint32_t accept_from_node;   /* reserved, 0 */
    struct fabric_tls *tls;      /* NULL: tcp in the clear. Else every tcp link is TLS 1.3, whoever connects; the fabric
                                    takes      a reference */
};

/* Reads PEM files: certificates that sign the peers', our own with its chain, its key. All three or none (then *out is
 * NULL and OK is returned). They are read once: new files count from the next start on. Each side must show a
 * certificate that the CA has signed; names in it are not looked at, so the CA should be the cluster's own. Who comes
 * as a node needs a certificate for servers and for clients, a client one for clients (extended key usage, where it is
 * given). On failure `error` says what was expected and what came. */
enum sluice_status fabric_tls_create(const char *ca, const char *certificate, const char *key, struct fabric_tls **out,
                                     char *error, size_t error_size) SLUICE_MUST_CHECK;
/* Gives the caller's reference back. NULL is ignored. */
void fabric_tls_destroy(struct fabric_tls *self);

enum sluice_status fabric_create(const struct fabric_options *options, struct fabric **out) SLUICE_MUST_CHECK;
/* Closes all links without reporting them. */
void fabric_destroy(struct fabric *self);

/* Starts to accept links on `address`. Several may be listened on. On failure `error` (256 bytes) says what to do.
 * "tcp:HOST:0" picks a port. */
enum sluice_status fabric_listen(struct fabric *self, const char *address, char *error,
                                 size_t error_size) SLUICE_MUST_CHECK;
/* The address listened on, with the port that was picked; borrowed; NULL beyond the last. */
const char *fabric_listen_address(const struct fabric *self, unsigned index);
/* Starts to connect; LINK_UP or LINK_DOWN follows from fabric_poll. `context` becomes the link's. INVALID: no address.
 * Who connects to us and fails the handshake is never reported, only logged. */
enum sluice_status fabric_connect(struct fabric *self, const char *address, void *context,
                                  struct fabric_link **out) SLUICE_MUST_CHECK;

enum fabric_event_type {
    FABRIC_LINK_UP,    /* handshake done; fabric_link_peer is known. For accepted links the context is NULL until set */
    FABRIC_LINK_DOWN,  /* the last event of a link; `reason`; the pointer is invalid after the callback returns */
    FABRIC_MESSAGE,    /* data (aligned to 8), size: borrowed during the callback */
    FABRIC_WRITABLE,   /* a link that had pending frames has none any more */
    FABRIC_COMPLETION, /* a signalled fabric_write was placed (or failed: status) */
};
enum fabric_down {
    FABRIC_DOWN_CLOSED,   /* closed, reset or timed out: a hint, nothing more */
    FABRIC_DOWN_DEAD,     /* the operating system proved that the peer's process has ended (pidfd) */
    FABRIC_DOWN_REFUSED,  /* could not connect, or the handshake was refused: `text` says why */
    FABRIC_DOWN_PROTOCOL, /* the peer sent what no correct peer sends */
};
struct fabric_event {
    enum fabric_event_type type;
    struct fabric_link *link;
    const uint8_t *data;
    uint32_t size;
    enum fabric_down reason;
    const char *text;
    uint64_t cookie;
    enum sluice_status status;
};
typedef void (*fabric_handler)(void *arg, const struct fabric_event *event);

/* Handles what is there, at most `budget` messages, calling `handler` for each event. Returns the number of events.
 * From within the handler send, connect, close are allowed; poll and wait are not. Also flushes. */
unsigned fabric_poll(struct fabric *self, unsigned budget, fabric_handler handler, void *arg);
/* Sleeps until there may be something to poll, a watched descriptor is readable, or timeout_ns passed. Spins for a
 * bounded time first. */
void fabric_wait(struct fabric *self, uint64_t timeout_ns);
/* A descriptor that becomes readable when fabric_poll has work, for threads that sleep elsewhere: call fabric_arm
 * before sleeping on it; it returns false when there is work already. */
int fabric_fd(const struct fabric *self);
bool fabric_arm(struct fabric *self);
/* fabric_wait also returns when `fd` becomes readable (eventfds of queues and so on). */
enum sluice_status fabric_watch(struct fabric *self, int fd) SLUICE_MUST_CHECK;
void fabric_unwatch(struct fabric *self, int fd);

/* Sends one message made of `parts` (copied) and then `payload` (NULL or a reference that the fabric takes when it must
 * queue; the caller's own reference stays the caller's). In order per link. Placed at the next fabric_flush or
 * fabric_poll at the latest. AGAIN: pending_bytes_max is reached (a single message is taken whatever its size), or
 * LINK_UP has not come yet; CLOSED: the link is down; TOO_LARGE: the peer takes no message so large; MEMORY. With each
 * of these nothing was taken. */
enum sluice_status fabric_send(struct fabric_link *link, const struct slice *parts, unsigned part_count,
                               struct buf *payload, uint32_t payload_offset, uint32_t payload_size) SLUICE_MUST_CHECK;
/* One doorbell for everything sent since the last. */
void fabric_flush(struct fabric *self);
/* Bytes queued on the link beyond its ring. 0: all was placed. */
uint64_t fabric_pending(const struct fabric_link *link);

const struct fabric_identity *fabric_link_peer(const struct fabric_link *link);
void *fabric_link_context(const struct fabric_link *link);
void fabric_link_set_context(struct fabric_link *link, void *context);
/* Closes the link. LINK_DOWN is not reported for it; the pointer is invalid afterwards. Pending frames are dropped. */
void fabric_link_close(struct fabric_link *link);

/* One-sided access below the rings. A region is memory that the named link's peer may write once permitted.
 * Writes on one link are placed in order; a completed write says "placed", never "durable" and never "seen". */
enum fabric_access { FABRIC_ACCESS_NONE = 0, FABRIC_ACCESS_WRITE = 1 };
enum sluice_status fabric_region_create(struct fabric *self, size_t bytes,
                                        struct fabric_region **out) SLUICE_MUST_CHECK;
void *fabric_region_memory(const struct fabric_region *region);
void fabric_region_destroy(struct fabric_region *region);
/* Grants or revokes one peer's right to write the region. Once a revocation has returned, no later-issued write of that
 * peer is placed; on shm, where a mapping can't be taken back, UNPROCESSABLE is returned and the caller must use the
 * ring path. Grants yield a random key, which the caller tells the peer; a new grant has a new one. The right ends with
 * the link. `key` may be NULL when access is NONE. */
enum sluice_status fabric_region_permit(struct fabric_region *region, struct fabric_link *link,
                                        enum fabric_access access, uint64_t *key) SLUICE_MUST_CHECK;
#define FABRIC_WRITE_SIGNAL 1u /* report FABRIC_COMPLETION with cookie */
#define FABRIC_WRITE_WAKE   2u /* wake the receiver if it sleeps */
/* Writes into a region of the peer's. Ordered among writes, and behind messages that were placed (fabric_pending is 0).
 * A signalled write completes with OK or FORBIDDEN; an unsignalled one that the peer does not permit is lost (verbs:
 * the link ends). FORBIDDEN and RANGE can come at once where this side knows; over tcp a write beyond the region ends
 * the link with PROTOCOL. AGAIN and MEMORY: nothing was taken. */
enum sluice_status fabric_write(struct fabric_link *link, uint64_t key, uint64_t offset, const void *data,
                                uint32_t size, unsigned flags, uint64_t cookie) SLUICE_MUST_CHECK;

#endif

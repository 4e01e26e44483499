/* What the files of this folder share: links, and the table that a provider fills in. Nothing outside of core/rdma
 * includes this.
 *
 * The common part (fabric.c, link.c, send.c, handshake.c, wait.c) knows rings, queues, events and time. A provider
 * knows how bytes get into the peer's memory. */
#ifndef RDMA_FABRIC_PROVIDER_H
#define RDMA_FABRIC_PROVIDER_H

#include <netinet/in.h>
#include <sys/socket.h>

#include "api/release.h"
#include "core/rdma/fabric.h"
#include "core/rdma/fabric__tls.h"
#include "core/rdma/ring.h"

struct iovec;
struct addrinfo;

/* --- intrusive lists --- */

struct fabric__node {
    struct fabric__node *next, *prev;
};
static inline void fabric__list_init(struct fabric__node *node)
{
    node->next = node->prev = node;
}
static inline bool fabric__list_empty(const struct fabric__node *node)
{
    return node->next == node;
}
static inline void fabric__list_remove(struct fabric__node *node)
{
    node->prev->next = node->next;
    node->next->prev = node->prev;
    fabric__list_init(node);
}
static inline void fabric__list_push(struct fabric__node *list, struct fabric__node *node)
{
    fabric__list_remove(node);
    node->prev = list->prev;
    node->next = list;
    list->prev->next = node;
    list->prev = node;
}
#define FABRIC__LINK_OF(pointer, member)                                                                               \
    ((struct fabric_link *)(void *)((char *)(pointer)-offsetof(struct fabric_link, member)))

/* --- the bell: how a peer on this host says "look at link 17", and learns whether we sleep --- */

/* One page, mapped by all shm peers. A set bit: the receiver attends the link and will see its tail by itself. So a
 * sender touches the bell only when a link awakes, and looks at it (a cache line that seldom changes) once a flush. */
#define FABRIC__BELL_BYTES 4096u
#define FABRIC__BELL_WORDS (FABRIC__BELL_BYTES / 8 - 1)
#define FABRIC__SLOTS_MAX  (FABRIC__BELL_WORDS * 64)
struct fabric__bell {
    _Atomic uint64_t sleeping; /* 1: whoever sets it to 0 writes the eventfd */
    _Atomic uint64_t words[FABRIC__BELL_WORDS];
};
_Static_assert(sizeof(struct fabric__bell) == FABRIC__BELL_BYTES, "shared between processes");

/* --- what epoll points at --- */

enum fabric__source_kind { SOURCE_BELL, SOURCE_TIMER, SOURCE_WATCH, SOURCE_LISTENER, SOURCE_SOCKET, SOURCE_PIDFD };
struct fabric__source {
    enum fabric__source_kind kind;
    void *owner; /* the listener or the link */
};

/* --- handshake --- */

#define FABRIC__MAGIC_HELLO   UINT64_C(0x3146454349554c53) /* "SLUICEF1" */
#define FABRIC__MAGIC_VERDICT UINT64_C(0x3156454349554c53) /* "SLUICEV1" */
#define FABRIC__VERSION       sluice_release.fabric
#define FABRIC__VERSION_MIN   sluice_release.fabric_min

struct fabric__hello {
    uint64_t magic;
    uint16_t version;     /* the highest that the sender speaks */
    uint16_t version_min; /* and the lowest */
    uint32_t size;        /* of this struct */
    uint8_t cluster[16];
    uint32_t role;
    uint32_t node;
    uint64_t incarnation;
    uint64_t features;
    uint32_t ring_bytes;
    uint32_t message_bytes_max;
    uint32_t slot; /* shm: the link's bit in the sender's bell */
    uint32_t unused[2];
    uint32_t crc; /* CRC32C of all before it */
};
_Static_assert(sizeof(struct fabric__hello) == 80, "frozen layout");

#define FABRIC__TEXT_BYTES 224
struct fabric__verdict {
    uint64_t magic;
    uint32_t status; /* 0: accepted */
    uint32_t crc;    /* CRC32C of text */
    char text[FABRIC__TEXT_BYTES];
};
_Static_assert(sizeof(struct fabric__verdict) == 240, "frozen layout");

/* --- names being looked up in a thread of their own, since the C library can only do that blocking --- */

struct fabric__lookup;
enum sluice_status fabric__lookup_start(const char *host, const char *port, int wake_fd,
                                        struct fabric__lookup **out) SLUICE_MUST_CHECK;
bool fabric__lookup_done(const struct fabric__lookup *self);
/* NULL and a text when there is none. Borrowed. */
const struct addrinfo *fabric__lookup_result(const struct fabric__lookup *self, const char **error);
void fabric__lookup_release(struct fabric__lookup *self);

/* --- links --- */

enum fabric__state {
    LINK__OPENING,  /* looks the name up, connects, or waits to try again */
    LINK__HELLO,    /* waits for the peer's hello */
    LINK__VERDICT,  /* waits for the peer's verdict */
    LINK__ANSWERED, /* both have agreed; LINK_UP is to be reported */
    LINK__UP,
    LINK__LINGER, /* the peer let go without a word; a proof of its death may follow within a moment */
    LINK__ENDING, /* nothing more will come; what was placed is delivered, then LINK_DOWN */
    LINK__DOWN,   /* reported, or closed by us */
};

enum {
    LINK__READABLE = 1, /* its socket may have something to read */
    LINK__SENDABLE = 2, /* its socket may take more */
    LINK__TIMER = 4,    /* `timer_at` has passed */
    LINK__DEAD = 8,     /* the peer's process has ended */
    LINK__HUNG = 16,    /* the peer's end of the socket is closed: read on until that shows */
};

/* Bytes of a message wherever they lie: the caller's parts, then a run of a buffer. */
struct fabric__message {
    const struct slice *parts;
    unsigned part_count;
    struct buf *buf; /* holds `payload`, may be NULL */
    const uint8_t *payload;
    uint32_t payload_size;
    uint32_t total;
};
/* Walks over a range of a message, piece by piece. */
struct fabric__cursor {
    const struct fabric__message *message;
    uint64_t skip;
    uint64_t left;
    unsigned part;
};
static inline struct fabric__cursor fabric__cursor(const struct fabric__message *message, uint32_t offset,
                                                   uint32_t size)
{
    return (struct fabric__cursor){.message = message, .skip = offset, .left = size};
}
/* False at the end. *in_buf: the piece lies in message->buf, which can be referenced. */
bool fabric__cursor_next(struct fabric__cursor *self, const uint8_t **data, uint32_t *size, bool *in_buf);

/* A message that waits for credit. Its bytes are owned: copied parts, a referenced payload. */
struct fabric__pending {
    struct fabric__pending *next;
    struct fabric__message message; /* what was not placed when it was queued */
    uint32_t total;                 /* of the whole message */
    uint32_t before;                /* bytes of it that were placed before it was queued */
    uint32_t placed;                /* bytes of `message` placed since */
    struct slice part;
    uint8_t bytes[];
};

struct fabric__completion {
    uint64_t cookie;
    enum sluice_status status;
};

/* A queue of completions: those that wait for an answer of the peer first (tcp), then those to report. */
struct fabric__completions {
    struct fabric__completion *items;
    uint32_t count, capacity;
};
enum sluice_status fabric__completions_push(struct fabric__completions *self, uint64_t cookie,
                                            enum sluice_status status) SLUICE_MUST_CHECK;

/* A right to write into a region of ours, held by the peer of one link. */
struct fabric__grant {
    struct fabric_region *region;
    uint64_t key;
    struct fabric__grant *next; /* of the link */
};

/* shm: a peer's region that is mapped here. */
struct fabric__window {
    uint64_t key;
    uint8_t *memory;
    uint64_t size;
    struct fabric__window *next;
};

struct fabric__shm {
    struct ring__memory peer;  /* the peer's receive ring */
    struct fabric__bell *bell; /* the peer's */
    int wake_fd;               /* the peer's eventfd */
    uint32_t peer_slot;
    uint32_t slot; /* our own bit for this link */
    int pidfd;
    struct fabric__source pidfd_source;
    struct fabric__window *windows;
    unsigned cold; /* polls in a row that found nothing */
    bool has_slot;
    bool attended; /* our bit is set and the link is in the active list */
    int came[3];   /* descriptors that came with the peer's hello, until they are mapped: ring, bell, eventfd */
};

struct tcp__chunk;
struct fabric__tcp {
    struct fabric__lookup *lookup;
    const struct addrinfo *next_address;
    /* what the socket has not taken yet, in order */
    struct tcp__chunk *out_first, *out_last;
    uint64_t out_bytes;
    uint8_t *batch; /* header of the open run of ring frames, whose length is not known yet; NULL: none is open */
    uint32_t batch_bytes;
    bool blocked; /* the socket is full */
    bool connecting;
    bool hung;
    bool securing;                   /* the TLS handshake is under way */
    struct fabric__session *session; /* NULL: in the clear */
    /* what is being received */
    uint8_t header[32];
    uint32_t header_have;
    bool in_payload;
    uint8_t *into; /* where the payload goes; NULL: nowhere, it was refused */
    uint64_t left;
    struct fabric__grant *grant; /* that `into` lies in; cleared by a revocation in mid-write */
    enum sluice_status write_status;
    uint32_t hello_have;
    uint8_t hello[sizeof(struct fabric__verdict)];
    uint64_t writes_sent, writes_answered; /* signalled ones */
    uint32_t unanswered_first;
    struct fabric__completions unanswered;
};

#define FABRIC__NAME_BYTES 160
struct fabric_link {
    struct fabric *fabric;
    const struct fabric__provider *provider;
    struct fabric__node all, active, dirty, timed;
    enum fabric__state state;
    unsigned flags;
    bool accepted; /* the application learns of it with LINK_UP */
    bool closed;   /* by the application: no event any more */
    bool urgent;   /* counted in fabric->urgent */
    bool greeted;  /* accepted: no longer counted in fabric->greeting */
    bool reported_up;
    bool writable_owed;
    void *context;
    struct fabric_identity peer;
    uint32_t peer_message_max;
    int fd;
    struct fabric__source source;

    struct ring__memory ring; /* our receive ring */
    struct ring__reader reader;
    struct ring__writer writer;

    struct fabric__pending *pending_first, *pending_last;
    uint64_t pending_bytes;
    struct fabric__completions completions;
    struct fabric__grant *grants;

    enum fabric_down reason;
    uint64_t timer_at; /* 0: none */
    uint64_t deadline; /* of the handshake */
    char text[FABRIC__TEXT_BYTES];
    char name[FABRIC__NAME_BYTES]; /* for people: the address, or who came */
    union {
        struct fabric__shm shm;
        struct fabric__tcp tcp;
    };
};

struct fabric__listener {
    struct fabric *fabric;
    const struct fabric__provider *provider;
    struct fabric__listener *next;
    unsigned number;
    int fd;
    bool ready; /* somebody may wait to be accepted */
    bool retry; /* accepting failed for want of descriptors or memory */
    struct fabric__source source;
    struct sockaddr_storage bound;
    socklen_t bound_size;
    char address[FABRIC__NAME_BYTES];
};

struct fabric_region {
    struct fabric *fabric;
    struct fabric__node all;
    uint8_t *memory;
    size_t size;
    int fd;
    bool ever_mapped; /* by a peer on this host */
};

/* --- the provider table --- */

struct fabric__provider {
    const char *scheme;                     /* "shm:" */
    bool asks_kernel;                       /* only a system call tells whether a link has received something */
    void (*init)(struct fabric_link *link); /* the provider's part of a new link */
    void (*discard)(struct fabric *self);   /* what the provider keeps in the fabric */
    /* `rest`: the address behind the scheme. Fills fd, bound and address of the listener. */
    enum sluice_status (*listen)(struct fabric__listener *listener, const char *rest, char *error, size_t error_size);
    /* Takes one waiting connection as a link in LINK__HELLO. AGAIN: none waits. MEMORY: no descriptors or memory now.
     */
    enum sluice_status (*accept)(struct fabric__listener *listener);
    void (*unlisten)(struct fabric__listener *listener);
    /* Begins to connect a link in LINK__OPENING. INVALID: `rest` is no address. What goes wrong later is fabric__fail.
     */
    enum sluice_status (*connect)(struct fabric_link *link, const char *rest);
    /* Has something happened that no flag tells of? Cheap, no system call. */
    bool (*work)(const struct fabric_link *link);
    /* A visit found nothing. True if the link may leave the active list: then whatever comes will activate it. */
    bool (*rest)(struct fabric_link *link);
    /* Takes the flags: goes on with the handshake, reads what came, places bytes in our ring (tcp). */
    void (*service)(struct fabric_link *link);
    /* Sends our hello or verdict. `text` NULL: accepted. */
    void (*hello_add)(const struct fabric_link *link, struct fabric__hello *hello); /* the provider's own fields */
    enum sluice_status (*send_hello)(struct fabric_link *link, const struct fabric__hello *hello);
    enum sluice_status (*send_verdict)(struct fabric_link *link, const char *text);
    /* Our ring was made: whatever else a link needs. */
    bool (*ready)(struct fabric_link *link);
    /* The peer's hello was found good: maps what came with it. */
    enum sluice_status (*adopt)(struct fabric_link *link, const struct fabric__hello *hello);
    /* Places one ring frame at writer.tail: the plan's header and payload_size bytes of `message` from `offset`. Room
     * was checked. Not visible to the peer before publish. MEMORY: nothing was placed. */
    enum sluice_status (*place)(struct fabric_link *link, const struct ring__plan *plan,
                                const struct fabric__message *message, uint32_t offset);
    /* The same for a message that fits one frame, which most do: `bytes` with header and padding. False: not in this
     * way, use place. */
    bool (*place_whole)(struct fabric_link *link, const struct fabric__message *message, uint32_t bytes);
    /* Makes all that was placed visible, tells how far we have read, and wakes the peer if it sleeps. */
    void (*publish)(struct fabric_link *link);
    /* Tells how far we have read, because a quarter of the ring has been. */
    void (*credit)(struct fabric_link *link);
    /* Bytes that were placed but that the operating system does not take now. */
    uint64_t (*backlog)(const struct fabric_link *link);
    enum sluice_status (*permit)(struct fabric_region *region, struct fabric_link *link, struct fabric__grant *grant);
    /* The grant is taken back. UNPROCESSABLE where the peer could go on writing. */
    enum sluice_status (*revoke)(struct fabric_region *region, struct fabric_link *link, struct fabric__grant *grant);
    enum sluice_status (*write)(struct fabric_link *link, uint64_t key, uint64_t offset, const void *data,
                                uint32_t size, unsigned flags, uint64_t cookie);
    /* Lets the peer know, if it is still there, and gives back all but memory that a callback may be reading. */
    void (*close)(struct fabric_link *link);
    /* Gives back the rest. */
    void (*release)(struct fabric_link *link);
};
extern const struct fabric__provider fabric__shm_provider;
extern const struct fabric__provider fabric__tcp_provider;

struct fabric {
    struct fabric_options options;
    struct fabric__node links, active, dirty, timed, dead, regions;
    unsigned active_count;
    struct fabric__listener *listeners;

    int epoll_fd, wake_fd, timer_fd;
    struct fabric__source wake_source, timer_source, watch_source;
    struct fabric__bell *bell;
    int bell_fd;
    struct fabric_link **slots;
    uint32_t slot_count, slot_free; /* slots below slot_count exist; slot_free: where to look for a free one */
    uint64_t *attended;             /* the bits of links in the active list, word by word as in the bell */

    bool in_poll;
    uint64_t shake_ns_left; /* what this poll may still spend on steps of TLS handshakes */
    bool armed;             /* bell->sleeping was set */
    bool fresh;             /* the kernel was asked since the last poll */
    bool timer_fired;
    bool listener_ready;
    unsigned greeting; /* accepted links that are not up */
    unsigned urgent;   /* links and listeners that need the kernel asked at every poll */
    unsigned watches;
    uint64_t timer_armed_at; /* 0: the timer is off */
    int64_t tick;            /* of the coarse clock, when the kernel was last asked */

    uint32_t spin_ns;
    uint32_t spin_skip;    /* waits that do not spin, since spinning has not paid */
    uint32_t spin_backoff; /* how many it will be when the next spin does not pay either */
    bool woke_peer;        /* since the last wait a sleeper was sent something: its answer takes a wake-up longer */
    bool spin_adapts;

    uint8_t *staging; /* tcp reads go through here */
    struct tcp__chunk *spare;
    unsigned spare_count;

    uint64_t log_window;
    unsigned log_lines, log_dropped;

    fabric_handler handler; /* during poll */
    void *handler_arg;
    unsigned events;
};

/* --- between files --- */

/* fabric.c */
struct fabric_link *fabric__link_create(struct fabric *self, const struct fabric__provider *provider, bool accepted);
/* Puts a link where poll visits it. */
void fabric__activate(struct fabric_link *link);
void fabric__deactivate(struct fabric_link *link);
/* The link has come to its end for `reason`. What was placed is still delivered but for PROTOCOL and REFUSED. The first
 * call counts. */
void fabric__fail(struct fabric_link *link, enum fabric_down reason, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The link has been reported, or must not be: out of all lists, freed when poll ends. */
void fabric__bury(struct fabric_link *link);
void fabric__set_state(struct fabric_link *link, enum fabric__state state);
/* A warning about somebody outside; at most ten lines in ten seconds. */
void fabric__complain(struct fabric *self, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* link.c: what poll does with one link */
bool fabric__link_work(const struct fabric_link *link);
void fabric__link_visit(struct fabric_link *link, unsigned budget);
void fabric__link_free(struct fabric_link *link);

/* handshake.c */
enum { FABRIC__RING_BYTES_CLIENT = 1u << 20, FABRIC__RING_BYTES_NODE = 4u << 20 };
void fabric__hello_make(const struct fabric_link *link, struct fabric__hello *out);
/* The connecting side's first step, once it is connected. */
void fabric__greet(struct fabric_link *link);
/* Tells the peer why, and ends. */
void fabric__refuse(struct fabric_link *link, const char *text);
void fabric__on_hello(struct fabric_link *link, const struct fabric__hello *hello);
void fabric__on_verdict(struct fabric_link *link, const struct fabric__verdict *verdict);
/* `text` NULL: accepted. */
void fabric__verdict_make(const char *text, struct fabric__verdict *out);
/* Pure checks, for those above and for tests. False: `text` says what was expected and what came. */
bool fabric__hello_check(const struct fabric *self, const struct fabric__hello *hello,
                         char text[FABRIC__TEXT_BYTES]) SLUICE_MUST_CHECK;
/* The last bytes of the handshake that are due; fails the link when its time is up. */
bool fabric__own_ring(struct fabric_link *link, uint32_t peer_role) SLUICE_MUST_CHECK;
void fabric__handshake_expired(struct fabric_link *link);
/* What came instead of a hello, so that a person can see it. */
void fabric__describe(const uint8_t *data, size_t size, char *out, size_t out_size);

/* send.c */
void fabric__pump(struct fabric_link *link);
void fabric__drop_pending(struct fabric_link *link);
void fabric__mark_dirty(struct fabric_link *link);

/* region.c */
struct fabric__grant *fabric__grant_find(const struct fabric_link *link, uint64_t key);
void fabric__drop_grants(struct fabric_link *link);

/* wait.c */
enum sluice_status fabric__wait_create(struct fabric *self) SLUICE_MUST_CHECK;
void fabric__wait_destroy(struct fabric *self);
/* Asks the kernel what has happened and marks it; waits up to timeout_ns for it. True if anything had. */
bool fabric__collect(struct fabric *self, uint64_t timeout_ns);
enum sluice_status fabric__epoll_add(struct fabric *self, int fd, uint32_t events,
                                     struct fabric__source *source) SLUICE_MUST_CHECK;
/* Sets LINK__TIMER and activates the link at that time; 0: never. */
void fabric__set_timer(struct fabric_link *link, uint64_t at);
/* Poll runs fabric__timers_run at that time at the latest. */
void fabric__timer_at(struct fabric *self, uint64_t at);
void fabric__timers_run(struct fabric *self);
void fabric__disarm(struct fabric *self);

/* shm.c */
void fabric__bell_scan(struct fabric *self);
bool fabric__bell_work(const struct fabric *self);

#endif

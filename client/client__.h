/* What crosses files of libsluice. See README.md for how the parts stand to each other. */
#ifndef CLIENT_CLIENT___H
#define CLIENT_CLIENT___H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api/map.h"
#include "api/sluice.h"
#include "api/wire.h"
#include "core/base/buf.h"
#include "core/base/clock.h"
#include "core/base/drain.h"
#include "core/base/pattern.h"
#include "core/base/random.h"
#include "core/rdma/fabric.h"

#define CLIENT_TIMEOUT_MS_DEFAULT 5000u
#define CLIENT_TIMEOUT_MS_MAX     60000u
#define CLIENT_IN_FLIGHT_MAX      4096u
#define CLIENT_DETAIL_BYTES       512u
#define CLIENT_NEVER              UINT64_MAX

/* --- Lists: circular, intrusive, an item can leave without knowing which list it is in --------------------------- */

struct list {
    struct list *next, *prev;
};
static inline void list__init(struct list *self)
{
    self->next = self->prev = self;
}
static inline bool list__empty(const struct list *self)
{
    return self->next == self;
}
static inline void list__append(struct list *self, struct list *item)
{
    item->prev = self->prev;
    item->next = self;
    self->prev->next = item;
    self->prev = item;
}
static inline void list__prepend(struct list *self, struct list *item)
{
    list__append(self->next, item);
}
static inline void list__remove(struct list *item)
{
    item->prev->next = item->next;
    item->next->prev = item->prev;
    list__init(item);
}
/* Moves everything to the empty list `to`. */
static inline void list__move(struct list *self, struct list *to)
{
    list__init(to);
    if (list__empty(self))
        return;
    *to = *self;
    to->next->prev = to;
    to->prev->next = to;
    list__init(self);
}
#define LIST__OF(item, type, member) ((type *)(void *)((char *)(item)-offsetof(type, member)))

/* --- Timers: a pairing heap of what its owners embed, so that setting one cannot fail ----------------------------- */

struct timer {
    uint64_t at_ns; /* clock_monotonic_ns */
    struct timer *child, *next, *prev;
    bool armed;
    void (*fire)(struct timer *self);
};
struct timers {
    struct timer *root;
};
void timer__set(struct timers *self, struct timer *timer, uint64_t at_ns);
void timer__stop(struct timers *self, struct timer *timer);
/* The earliest, or NULL. */
static inline struct timer *timer__first(const struct timers *self)
{
    return self->root;
}

/* --- The client --------------------------------------------------------------------------------------------------- */

struct ask;
struct route;

/* Who a link's context points to: a seed that is being dialled, or a peer. The first member of both. */
enum contact_kind { CONTACT_SEED, CONTACT_PEER };
struct contact {
    enum contact_kind kind;
    struct sluice_client *client;
    struct fabric_link *dialing; /* NULL: not on its way */
    struct timer redial;
    uint32_t backoff_ms;
};

/* An address from the options. It is dialled while the map is unknown or no node is connected. */
struct seed {
    struct contact contact;
    char *address;
    uint16_t node; /* who answered there last; 0 nobody yet */
};

/* A core node. */
struct peer {
    struct contact contact;
    struct list link_of_client; /* client->peers */
    uint16_t node;
    char **addresses; /* from the map; none: it is known by a seed alone */
    size_t address_count;
    size_t next_address;
    struct fabric_link *link; /* NULL: not connected */
    bool local;               /* the link is shared memory */
    bool in_map;
    struct list in_flight; /* asks that wait for its answer */
    uint64_t load_bytes;   /* of those that write */
    struct drain drain;
    uint64_t heard_ns; /* when it said anything last */
};

struct slot {
    struct ask *ask; /* NULL: free */
    uint32_t generation;
    uint32_t next_free;
};

struct sluice_client {
    struct fabric *fabric;
    struct timers timers;
    struct random random;
    uint64_t id; /* of its writes */
    uint32_t timeout_ms;
    uint32_t in_flight_max;
    bool prefer_tcp;
    bool processing;
    bool closing;

    struct seed *seeds;
    size_t seed_count;
    struct list peers;
    size_t peers_up;

    struct map *map; /* NULL: not known yet */
    uint32_t map_crc;
    size_t map_size;
    struct pattern **affinities; /* one per pool of the map, NULL without */
    struct route **routes;       /* one per shard of the map, in its order */
    struct route *map_group;
    struct list map_waiters; /* struct map_waiter */
    struct timer map_again;  /* asks for a map that could not be taken in */
    uint32_t map_again_ms;

    struct list waiting; /* asks that wait for the map, a link, or a while */
    struct slot *slots;
    uint32_t slot_count, slot_free; /* slot_free: index + 1 */

    struct list jobs;
    struct list watches;
    uint32_t in_flight;    /* jobs */
    uint64_t sequence;     /* of the last write */
    struct list sequences; /* writes that are not answered yet, lowest first */

    uint64_t seen_time;   /* the highest HLC that any message carried */
    uint64_t now_time;    /* estimate of the cluster's HLC … */
    uint64_t now_time_at; /* … at this monotonic time; 0: no message yet */
    struct sluice_figures figures;
};

/* Somebody who wants to know of a new map. */
struct map_waiter {
    struct list link;
    void (*changed)(struct map_waiter *self);
};

/* What the cluster's clock says by now, as well as we can tell; for deadlines. */
uint64_t client__cluster_time(const struct sluice_client *self);
void client__saw_time(struct sluice_client *self, uint64_t time);

/* --- Links (link.c) ----------------------------------------------------------------------------------------------- */

void link__event(void *arg, const struct fabric_event *event);
enum sluice_status link__open_seeds(struct sluice_client *self, const struct sluice_options *options) SLUICE_MUST_CHECK;
void link__close_all(struct sluice_client *self);
struct peer *link__peer(const struct sluice_client *self, uint16_t node);
/* Takes in the nodes of client->map. */
enum sluice_status link__follow_map(struct sluice_client *self) SLUICE_MUST_CHECK;
/* Asks a peer for the map if it has a newer one. */
void link__ask_map(struct peer *peer);

/* --- The map and who leads (route.c) ------------------------------------------------------------------------------ */

/* What we know of one shard, or of the map group (id 0). */
struct route {
    struct sluice_client *client;
    uint32_t id;
    uint16_t leader; /* 0 unknown */
    uint32_t turn;   /* which replica is tried next while nobody is known to lead */
    uint32_t delay_ms;
    uint64_t no_quorum_ns; /* since when nodes say that the quorum is lost; 0 they don't */
    uint64_t refused;      /* nodes that said so since: bit of the node's number */
    struct list parked;    /* asks that wait until somebody leads; one at a time is sent to find out */
    struct timer retry;
    struct ask *probe; /* finds out whether somebody else leads by now, while node `silent` does not answer */
    uint16_t silent;
    bool gone; /* the map has it no more */
};

/* A cluster map that a node sent. */
void route__take_map(struct sluice_client *self, const uint8_t *text, size_t size);
void route__map_again(struct timer *timer);
void route__drop_map(struct sluice_client *self);
struct route *route__find(const struct sluice_client *self, uint32_t shard);
/* The shard of a key; NULL: no live pool holds it, or the affinity does not compile. */
struct route *route__of_key(const struct sluice_client *self, const char *key, size_t size);
/* A connected peer for a request; NULL: none. */
struct peer *route__choose(struct route *self, bool any_replica, uint64_t silent);
void route__park(struct route *self, struct ask *ask, bool first);
/* Somebody leads: everyone who waited is sent there. */
void route__leads(struct route *self, uint16_t node);
/* `peer` knows nobody who leads. */
void route__no_leader(struct route *self, const struct peer *peer);
/* `peer` said that the shard has no quorum. True: so say all that can be reached, for long enough. */
bool route__no_quorum(struct route *self, const struct peer *peer);
/* Answers those that wait and are certainly not applied. */
void route__no_quorum_fail(struct route *self);
#define ROUTE_NO_QUORUM                                                                                                \
    "the shard has lost its quorum: fewer than half of its replicas can be reached; nothing was applied, try again"
void route__link_up(struct sluice_client *self, const struct peer *peer);
/* The leader has not answered for a while: is it the leader still? */
void route__probe(struct route *self, const struct peer *silent);
/* Shards that can hold keys with this prefix of plain bytes. Heap; *count of them. False: no memory. */
bool route__shards_of_prefix(const struct sluice_client *self, const char *prefix, size_t size, uint32_t **out,
                             size_t *count) SLUICE_MUST_CHECK;

/* --- Asks (ask.c): one request, sent as often as it takes --------------------------------------------------------- */

enum ask_target {
    ASK_KEY,   /* the shard of `key` by the map of the moment */
    ASK_SHARD, /* shard number `shard`; 0 the map group */
    ASK_NODE,  /* node number `node` */
    ASK_ANY,   /* any node */
};
enum ask_state { ASK_IDLE, ASK_WAITING, ASK_PARKED, ASK_IN_FLIGHT };

/* The end of an ask, or an event of its stream. */
struct reply {
    enum sluice_status status;
    const struct wire_header *header; /* NULL: no node said so */
    const uint8_t *body;              /* valid during the callback; a wire_record where flags has RECORD */
    size_t body_size;
    uint32_t flags;
    const char *detail; /* never NULL */
};

struct ask {
    /* The owner's: set before ask__start. */
    struct sluice_client *client;
    uint8_t type; /* enum wire_type */
    uint8_t target;
    bool any_replica; /* the stable prefix of any replica will do */
    bool writes;      /* sent is perhaps applied */
    bool stream;      /* answered by events until it ends; has no deadline */
    bool once;        /* whatever the first node answers is the answer */
    uint16_t node;
    uint32_t shard;
    const char *key;
    size_t key_size;
    uint32_t flags;
    uint64_t after;
    const void *body;
    size_t body_size;
    struct buf *payload;
    uint32_t payload_size;
    uint32_t body_crc;
    uint64_t deadline_ns; /* clock_monotonic_ns */
    /* Exactly once; the ask may be freed or started again from within. STALE_MAP: the shard is no more. */
    void (*done)(struct ask *self, const struct reply *reply);
    void (*event)(struct ask *self, const struct reply *reply); /* streams */
    void (*prepare)(struct ask *self); /* or NULL: brings the body up to date before it is sent */
    void *owner;

    /* Its own. */
    struct list link;
    struct timer timer;
    enum ask_state state;
    struct peer *peer;
    struct route *route;
    uint64_t request_id;
    uint64_t sent_bytes;
    uint64_t wake_ns; /* when to try again, or in flight to wonder; NEVER: something will wake it */
    uint64_t patience_ns;
    uint64_t heard_ns;      /* streams: the last event; else when it was sent */
    uint64_t busy_until_ns; /* nodes have refused for want of room: how long that is borne; 0: none has */
    uint32_t delay_ms;
    uint32_t hops; /* redirections in a row */
    uint32_t turn;
    bool maybe_applied;
    uint64_t silent;            /* nodes that let a stable read wait, by bits: others are asked first */
    bool needs_leader;          /* a replica could not answer a stable read */
    bool scout;                 /* sent to find out who leads */
    enum sluice_status verdict; /* not OK: answered with this at the next occasion */
    const char *verdict_detail;
};

/* Sends it, or sees to it that it is sent when that is possible. `done` is not called from within. */
void ask__start(struct ask *self);
/* Gives up without a word; cancels a stream at the node. Does nothing to one that is idle. */
void ask__cancel(struct ask *self);
/* How it would have to end now: could it have been applied? */
bool ask__maybe_applied(const struct ask *self);
/* For route.c and link.c: finds a node and sends it there; the link is gone, or its node leads no more. These may call
 * `done`. */
void ask__route(struct ask *self);
void ask__lost(struct ask *self);
void ask__fail(struct ask *self, enum sluice_status status, const char *detail);
void ask__message(struct peer *peer, const struct wire_header *header, const uint8_t *body);
/* Tries again those that wait for a link or a map. */
void ask__wake_waiting(struct sluice_client *self);
/* Cancels a request whose ask is no more. */
void ask__send_cancel(struct peer *peer, uint64_t request_id, uint32_t shard);

/* --- Jobs (job.c): one call of the user's ------------------------------------------------------------------------- */

struct job {
    struct list link;
    struct sluice_client *client;
    sluice_done done;
    void *arg;
    uint64_t deadline_ns;
    uint64_t after;
    bool admin;
    struct timer verdict; /* answers with `status` at the next occasion */
    enum sluice_status status;
    char detail[CLIENT_DETAIL_BYTES];
    struct map_waiter waiter;
    bool (*mapped)(struct job *self); /* is the map as this job needs it? */
    void (*go)(struct job *self);
    void (*deinit)(struct job *self);                     /* cancels its asks, frees what it holds but itself */
    enum sluice_status (*closed)(const struct job *self); /* or NULL: how it ends when the client is closed */
};

/* A job of `size` bytes, zeroed but for struct job, which is its first member. NULL: `done` was or will be called with
 * the reason (too much in flight, no memory, closing). */
void *job__create(struct sluice_client *client, size_t size, const struct sluice_call *call, sluice_done done,
                  void *arg, void (*deinit)(struct job *self));
/* Answers from the next sluice_process on; for what is wrong with a call at its start. */
void job__refuse(struct job *self, enum sluice_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Goes on with `go`, at once or when there is a map for which `mapped` holds (NULL: any); UNAVAILABLE at the deadline.
 */
void job__when_mapped(struct job *self, bool (*mapped)(struct job *self), void (*go)(struct job *self));
/* The same from the next sluice_process on: for what may answer at once, which a call must not. */
void job__later(struct job *self, void (*go)(struct job *self));
/* Answers now and frees the job. */
void job__answer(struct job *self, const struct sluice_answer *answer);
void job__fail(struct job *self, enum sluice_status status, const char *detail);
void job__fail_reply(struct job *self, const struct reply *reply);
void job__answer_json(struct job *self, enum sluice_status status, const char *detail, const char *json);
void job__nothing(void *arg, const struct sluice_answer *answer);
/* The parts that all of a job's asks share. */
void job__ask(struct job *self, struct ask *ask, enum wire_type type,
              void (*done)(struct ask *self, const struct reply *reply));

/* --- Records and queries (record.c) --------------------------------------------------------------------------------
 */

void record__object(const struct wire_record_view *view, bool values, struct sluice_value *owner,
                    struct sluice_object *out);
/* A wire_query with its texts, in one piece of memory. NULL: no memory. */
struct wire_query *query__create(const char *key, size_t key_size, size_t after_room, size_t *size);
/* Sets `after`, for which room was made; returns the query's size. */
size_t query__set_after(struct wire_query *query, const char *after, size_t size);
/* OK, or INVALID or FORBIDDEN with a sentence. */
enum sluice_status query__check_key(const char *key, size_t size, bool admin, const char **why);
/* NULL, or what is wrong with it. */
const char *query__prefix_error(const char *prefix, size_t size);
/* NUL-terminated heap text of `size` bytes; NULL without memory. */
char *text__dup(const char *text, size_t size);

/* --- Pages (pages.c): what several replies carried, kept together
 * ----------------------------------------------------- */

struct pages {
    struct sluice_value **pages;
    size_t page_count, page_capacity;
    struct sluice_object *objects; /* point into the pages */
    size_t object_count, object_capacity;
    uint64_t bytes;
};
void pages__free(struct pages *self);
/* Takes a reference on `page` for as long as the pages live. */
bool pages__hold(struct pages *self, struct sluice_value *page) SLUICE_MUST_CHECK;
/* Was it taken lately? (No promise for pages of long ago, which may then be held twice.) */
bool pages__holds(const struct pages *self, const struct sluice_value *page);
bool pages__add(struct pages *self, const struct sluice_object *object) SLUICE_MUST_CHECK;
/* Keeps a body and adds all its records. MEMORY, INTERNAL: malformed. */
enum sluice_status pages__take(struct pages *self, const void *bytes, size_t size, bool values) SLUICE_MUST_CHECK;

/* --- Writes (write.c) ------------------------------------------------------------------------------------------------
 */

/* sluice_write by another job, which may lose interest: it sets `done` to job__nothing then. NULL: it could not be
 * started, and `done` is not called. */
struct job *write__start(struct sluice_client *client, const struct sluice_write *request, sluice_done done, void *arg);
/* A command of one operation without a value: CLOSE_PREFIX, OPEN_PREFIX, CURSOR. Heap; NULL without memory. */
struct wire_command *write__command(enum wire_command_kind kind, const char *key, size_t key_size, uint64_t if_version);
/* Fills a job's ask that was set up with job__ask: it sends the command to a shard. */
void write__ask(struct ask *ask, const struct wire_command *command, uint32_t shard);

/* --- Opaque texts: cursors (token.c) --------------------------------------------------------------------------------
 */

enum token_kind { TOKEN_LIST = 1, TOKEN_HISTORY = 2, TOKEN_WATCH = 3 };
/* base64url of version, kind, the bytes and their CRC32C. */
#define TOKEN_TEXT_BYTES(size) ((((size) + 6) * 4 + 2) / 3 + 1)
void token__encode(enum token_kind kind, const void *bytes, size_t size, char *out);
/* The same as heap text; NULL without memory. */
char *token__write(enum token_kind kind, const void *bytes, size_t size);
/* Reads one back; at most `room` bytes. False: no such token. */
bool token__read(enum token_kind kind, const char *text, void *bytes, size_t room, size_t *size) SLUICE_MUST_CHECK;

/* --- The time of a cut (cut.c) --------------------------------------------------------------------------------------
 */

/* Asks the leaders of shards for their time; the highest answer is above everything that was acknowledged before. */
struct cut {
    struct ask *asks;
    size_t count, left;
    uint64_t time;
    void (*done)(struct cut *self, const struct reply *failed); /* failed: NULL: `time` holds it */
};
/* `done` is called later, exactly once unless cut__deinit comes first. False: no memory, or no shard. */
bool cut__start(struct cut *self, struct sluice_client *client, const uint32_t *shards, size_t count, uint64_t after,
                uint64_t deadline_ns, void (*done)(struct cut *self, const struct reply *failed)) SLUICE_MUST_CHECK;
void cut__deinit(struct cut *self);

/* --- A merge over shards (scan.c): the keys below a prefix at one time, in order -------------------------------------
 */

struct scan;
struct scan_shard {
    struct scan *scan;
    struct ask ask;
    struct wire_query *query;
    struct sluice_value *page; /* a copy of the reply that is being read */
    size_t page_size, offset;
    struct wire_record_view view; /* the next record, where `has` */
    bool has, more, fetching;
};
struct scan {
    struct job *job;
    struct scan_shard *shards;
    size_t count;
    uint32_t page_limit;
    bool broken; /* a page ended in the middle of a record */
    bool values;
    /* Every shard shows its next record or is at its end: read on with scan__first and scan__next until it is not ready
     * any more. Or it has failed. Either may end the job. */
    void (*ready)(struct scan *self);
    void (*failed)(struct scan *self, const struct reply *reply);
};
/* Reads begin after `after` (empty: at the first). False: no memory. */
bool scan__start(struct scan *self, struct job *job, const uint32_t *shards, size_t count, const struct slice *prefix,
                 const struct slice *after, uint64_t at) SLUICE_MUST_CHECK;
void scan__deinit(struct scan *self);
bool scan__is_ready(const struct scan *self);
/* The shard with the smallest key; NULL: the end. */
struct scan_shard *scan__first(struct scan *self);
/* Moves on past the shard's record. */
void scan__next(struct scan_shard *shard);
/* Moves all shards on past keys that begin with `group`. */
void scan__skip(struct scan *self, const char *group, size_t size);

/* --- Control (change.c, gather.c): changes of the map, and what all nodes say
 * -------------------------------------------- */

/* One change of the cluster map under way. */
struct change {
    struct ask ask;
    char *text;
    uint64_t epoch; /* the change shows in a map later than this */
    void (*done)(struct ask *ask, const struct reply *reply);
};
/* Takes `document` (jansson's, untyped here). False: no memory. */
bool change__send(struct change *self, struct job *job, void *document,
                  void (*done)(struct ask *ask, const struct reply *reply)) SLUICE_MUST_CHECK;
void change__deinit(struct change *self);
/* Has our map taken in what was changed? */
bool change__shows(const struct change *self);

/* Asks every node of the map the same. One that does not answer within a second is left out; where only what is known
 * by now is wanted (`prompt`), those that answer set the pace for the others. */
struct gather_node {
    struct ask ask;
    uint16_t node;
    void *json; /* json_t *; NULL: it did not answer */
};
struct gather {
    bool prompt; /* set before the start */
    struct sluice_client *client;
    struct timer stragglers;
    uint64_t started_ns;
    struct gather_node *nodes;
    size_t count, left;
    void (*done)(struct gather *self);
};
/* Borrows `body` until it is done. `done` is called later, exactly once unless gather__deinit comes first. False: no
 * memory. Needs a map. */
bool gather__start(struct gather *self, struct job *job, enum wire_type type, const void *body, size_t size,
                   void (*done)(struct gather *self)) SLUICE_MUST_CHECK;
void gather__deinit(struct gather *self);

/* --- Watches (watch.c) -----------------------------------------------------------------------------------------------
 */

/* The cursor of a watch that has seen everything up to `time`. Heap; NULL without memory. */
char *watch__cursor_at(uint64_t time);
void watch__map_changed(struct sluice_client *self);
void watch__close_all(struct sluice_client *self);

#endif

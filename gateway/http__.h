/* HTTP's inside: what the files of this folder share. All of it belongs to the loop's thread.
 *
 * A request's life: opened when its target is read (request.c), its headers are looked at once and its right to be here
 * is checked before its body is read (server.c, route.c), the body is collected, then its handler runs. A handler
 * either replies or calls the store; then the connection is suspended until the callback replies. */
#ifndef GATEWAY_HTTP___H
#define GATEWAY_HTTP___H

#include <microhttpd.h>
#include <stdatomic.h>

#include "core/base/clock.h"
#include "gateway/auth.h"
#include "gateway/emit.h"
#include "gateway/gateway.h"
#include "gateway/metrics.h"
#include "gateway/parse.h"
#include "gateway/service__.h"

#define HTTP_VALUE_BYTES_MAX  (64u << 20)
#define HTTP_TARGET_BYTES_MAX 6144u       /* 414 beyond; a key of 1,024 bytes needs 3,072 when encoded */
#define HTTP_HEADER_BYTES_MAX (8u << 10)  /* 431 beyond */
#define HTTP_POOL_BYTES       (14u << 10) /* of a connection: headers both ways, read and chunk buffers */
#define HTTP_JSON_BYTES_MAX   (1u << 20)  /* bodies that carry no values */
#define HTTP_DRAIN_BYTES_MAX                                                                                           \
    (1u << 20)                 /* of a refused body, read so that the answer arrives and the connection lives */
#define HTTP_IDLE_S        60u /* without a byte either way */
#define HTTP_HEADERS_NS    (75 * NS_PER_S) /* from one answer to the end of the next request's headers */
#define HTTP_BODY_GRACE_NS (30 * NS_PER_S) /* then a body has to come at this rate */
#define HTTP_BODY_RATE     1024u           /* bytes a second */

enum method { METHOD_GET, METHOD_HEAD, METHOD_PUT, METHOD_POST, METHOD_DELETE, METHOD_OPTIONS, METHOD_OTHER };

struct request;
struct stream;

enum body_kind { BODY_NONE, BODY_VALUE, BODY_JSON, BODY_BATCH, BODY_LAMBDA };

/* One method of a route. */
struct operation {
    enum method method;
    enum body_kind body;
    const char *const *parameters; /* of the query; ends with NULL */
    bool no_head;                  /* a GET whose answer has no end */
    /* Before the body is read: conditions, rights. It replies with a problem and returns false, or returns true. */
    bool (*check)(struct request *request);
    /* Once the body is there: replies, now or from a callback. */
    void (*run)(struct request *request);
};

enum tail_kind { TAIL_NONE, TAIL_KEY, TAIL_POOL, TAIL_LAMBDA, TAIL_NODE };
#define ROUTE_OPERATIONS_MAX 3
struct route {
    enum metrics_route id;
    const char *path; /* with TAIL_…, what comes before the tail */
    enum tail_kind tail;
    const char *suffix; /* after a name or a number; NULL: none */
    struct operation operations[ROUTE_OPERATIONS_MAX];
};
/* Finds the route of an encoded path; `tail` is what the route leaves to read, still encoded. NULL: there is none. */
const struct route *route__match(const char *path, size_t size, const char **tail, size_t *tail_size);

/* Bytes that come in pieces, gathered in one value. */
struct collect {
    struct sluice_value *value; /* NULL: nothing yet */
    uint32_t capacity, size;
};

/* Headers that mean something here, borrowed from the connection; NULL: not given. */
struct headers {
    const char *host, *origin, *authorization, *content_type, *content_length, *transfer_encoding, *expect;
    const char *accept, *range, *if_range, *if_match, *if_none_match, *if_modified_since, *if_unmodified_since;
    const char *accept_datetime, *last_event_id, *idempotency_key, *object_time, *timeout, *after;
    const char *request_method; /* Access-Control-Request-Method */
};

enum stage { STAGE_NEW, STAGE_BODY, STAGE_RUNNING };

struct request {
    struct gateway *gateway;
    struct MHD_Connection *connection;
    struct peer *peer;
    const struct route *route;         /* NULL: none */
    const struct operation *operation; /* NULL: the method is not offered */
    enum method method;
    enum stage stage;
    bool suspended;
    bool replied;
    bool http_1_0;
    bool broken; /* no memory for an answer: the connection is closed */
    uint64_t started_ns;
    unsigned status;

    struct parse_target target; /* points into `storage` */
    struct parse_query query;
    struct headers headers;
    const struct auth_subject *subject;
    struct sluice_call call;
    const char *key; /* or pool prefix, or lambda's name; decoded, ends with a zero byte */
    size_t key_size;

    uint64_t body_limit;
    uint64_t body_bytes; /* received */
    bool body_refused;   /* an answer waits for the end of the body */
    struct collect body;
    struct MHD_Response *held; /* an answer that waits */
    uint64_t memory;           /* what it has taken of gateway.memory */

    void *state; /* the handler's, freed by release */
    void (*release)(struct request *request);

    size_t storage_size;
    char storage[]; /* target, decoded key, decoded query */
};

/* What is known of a connection. */
struct peer {
    int fd;
    uint64_t since_ns;
    struct peer **list; /* the list that it is in */
    struct peer *previous, *next;
    struct request *request; /* while its body comes */
};

struct gateway {
    struct gateway_options options;
    struct sluice_client *client;
    struct auth *auth;
    struct MHD_Daemon *daemon;
    struct gateway_grpc *grpc;
    struct queue *jobs;
    int epoll_fd, stop_fd, listen_fd;
    uint16_t port;
    bool loopback;     /* what it listens on */
    bool check_origin; /* no tokens: Host and Origin are the only shield */
    atomic_bool stopping;
    bool resumed;                        /* connections wait for libmicrohttpd's next turn */
    bool closing;                        /* the client is being closed: nothing may be started any more */
    uint64_t now_ns;                     /* of this turn of the loop */
    uint64_t memory;                     /* of bodies and answers under way */
    uint64_t requests;                   /* under way */
    struct gateway_timer *timers;        /* sorted by due_ns */
    struct peer *waiting, *waiting_last; /* for a request, the longest first */
    struct peer *uploading, *uploading_last;
    struct gateway_timer waiting_timer, uploading_timer, stream_timer;
    struct stream *streams;
    struct stream *wakes, *wakes_last; /* that have something for a client that waits, the first come first */
    struct hub *hubs;
    struct metrics metrics;
    char *tls_certificate, *tls_key;
};

/* --- server.c: libmicrohttpd ------------------------------------------------------------------------------------- */

enum sluice_status server__start(struct gateway *self, char *error, size_t error_size) SLUICE_MUST_CHECK;
/* No new connections. */
void server__quiesce(struct gateway *self);
void server__stop(struct gateway *self);
/* Takes `bytes` of the memory that all requests share; false where there is none left. Given back with the request. */
bool request__charge(struct request *request, uint64_t bytes);

/* --- request.c ---------------------------------------------------------------------------------------------------- */

struct request *request__create(struct gateway *gateway, struct MHD_Connection *connection, const char *target);
void request__destroy(struct request *request);
/* Reads headers, finds the operation, checks query, key, rights and conditions. False: it has replied. */
bool request__open(struct request *request);
/* The parameter's value, NULL where it was not given. */
const char *request__parameter(const struct request *request, const char *name, size_t *size);
/* A parameter or header that is a time. False: it has replied. */
bool request__time(struct request *request, const char *name, const char *text, size_t size, uint64_t *out);
/* "true" or "false". False: it has replied. */
bool request__flag(struct request *request, const char *name, bool *out);
/* A decimal number from `low` to `high`; untouched where it was not given. False: it has replied. */
bool request__number(struct request *request, const char *name, uint64_t low, uint64_t high, uint64_t *out);
/* Room for at least `extra` more bytes; false: no memory. */
bool collect__reserve(struct collect *self, uint64_t extra, uint64_t limit);
bool collect__append(struct collect *self, const void *data, size_t size, uint64_t limit);
const char *collect__data(const struct collect *self);
void collect__free(struct collect *self);

/* --- origin.c ----------------------------------------------------------------------------------------------------- */

/* Host and Origin. NULL, or a sentence that says why the request is refused. */
const char *origin__error(const struct gateway *gateway, const struct request *request);
bool origin__allowed(const struct gateway *gateway, const char *origin);

/* --- reply.c ------------------------------------------------------------------------------------------------------ */

/* Takes the response. */
void reply__response(struct request *request, unsigned status, struct MHD_Response *response);
void reply__header(struct MHD_Response *response, const char *name, const char *value);
/* Takes the text. */
struct MHD_Response *reply__json_response(struct emit *json, const char *type);
void reply__json(struct request *request, unsigned status, struct emit *json);
/* The JSON text of an answer, as it is. */
void reply__json_text(struct request *request, unsigned status, const char *json);
void reply__static(struct request *request, unsigned status, const char *type, const char *text, size_t size);
void reply__problem(struct request *request, enum sluice_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The same with another HTTP status than the table's. */
void reply__problem_as(struct request *request, enum sluice_status status, unsigned http, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* What went wrong with a call, with all that the answer tells. */
void reply__answer_problem(struct request *request, const struct sluice_answer *answer);
/* A problem document into `out`: for streams that have begun. `extra`: further members, NULL none. */
void reply__problem_emit(struct emit *out, enum sluice_status status, unsigned http, const char *detail,
                         const char *extra);
/* ETag, Sluice-Version, Sluice-Revision, Sluice-Time. */
void reply__object_headers(struct MHD_Response *response, const struct sluice_object *object);

/* --- Handlers ------------------------------------------------------------------------------------------------------
 */

bool object__check_put(struct request *request);
bool object__check_get(struct request *request);
bool object__check_delete(struct request *request);
void object__put(struct request *request);
void object__get(struct request *request);
void object__delete(struct request *request);
bool list__check(struct request *request);
void list__run(struct request *request);
bool history__check(struct request *request);
void history__run(struct request *request);
bool many__check(struct request *request);
void snapshot__run(struct request *request);
void batch__run(struct request *request);
bool watch__check(struct request *request);
void watch__run(struct request *request);
bool pool__check_read(struct request *request);
bool pool__check_write(struct request *request);
void pool__get(struct request *request);
void pool__put(struct request *request);
void pool__delete(struct request *request);
bool lambda__check(struct request *request);
bool lambda__check_upload(struct request *request);
void lambda__get(struct request *request);
void lambda__upload(struct request *request);
void lambda__delete(struct request *request);
void lambda__enable(struct request *request);
void lambda__disable(struct request *request);
void lambda__log(struct request *request);
bool nodes__check(struct request *request);
void nodes__add(struct request *request);
void nodes__remove(struct request *request);
void nodes__replace(struct request *request);
void nodes__transfer(struct request *request);
bool status__check(struct request *request);
void status__cluster(struct request *request);
void status__health(struct request *request);
void status__ready(struct request *request);
void status__metrics(struct request *request);
void status__openapi(struct request *request);
/* Takes a piece of a lambda's upload. */
bool lambda__upload_data(struct request *request, const char *data, size_t size);

extern const char openapi__text[];
extern const size_t openapi__size;

#endif

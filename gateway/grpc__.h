/* Between the transport (grpc.c, the only file that knows gRPC), the loop (grpc_loop.c) and the services (grpc_*.c,
 * which know the store).
 *
 * A call's life: the completion-queue thread receives and checks the request, then hands the call to the gateway's
 * loop, whose thread runs the method's handlers, since the store's client lives there. Every call is finished exactly
 * once by rpc_finish, also one that its client has given up: the store's calls cannot be withdrawn, so an answer may
 * come to a call that nobody waits for. */
#ifndef GATEWAY_GRPC___H
#define GATEWAY_GRPC___H

#include <protobuf-c/protobuf-c.h>
#include <pthread.h>
#include <stdatomic.h>

#include "api/sluice.h"
#include "core/base/buf.h"
#include "gateway/auth.h"
#include "gateway/emit.h"
#include "gateway/service__.h"

/* Of a request besides its value: names, types, conditions. */
#define RPC_SMALL_BYTES_MAX ((size_t)64 << 10)
/* What may wait for one stream's client before its source is held back. */
#define RPC_BACKLOG_BYTES_MAX ((size_t)64 << 10)

struct rpc;

/* A reply: bytes of its own, and after them, without a copy, a run of a value. */
struct rpc_message {
    struct bytes head;
    struct sluice_value *value; /* NULL: none; else one reference is the message's */
    const void *data;
    size_t data_size;
};
void rpc_message_free(struct rpc_message *self);

/* How a call ended. What is zero is not told. */
struct rpc_outcome {
    enum sluice_status status;
    const char *detail; /* copied, and cut where it is long; NULL: the status's own words */
    const char *json;   /* copied; left out where it is large */
    uint64_t version;   /* of a tombstone */
    uint32_t retry_after_ms;
};

struct rpc_method {
    const char *path;
    bool takes_stream;   /* any number of request messages */
    bool public;         /* needs no token */
    enum auth_role role; /* for everything, asked before a message is taken; 0: by key, in start */
    const ProtobufCMessageDescriptor *request; /* of each request message */
    uint32_t value_field;                      /* its bytes field that goes to rpc.value, 0 none */
    size_t request_bytes_max;                  /* without that field */
    /* Completion-queue thread: one message of a stream is in rpc.request and rpc.value; it may rpc_send, and take what
     * it keeps out of both. Failing ends the call. */
    enum sluice_status (*received)(struct rpc *self, const char **why);
    /* Loop's thread, once: the request is complete. NULL: a stream answered by `received` alone; its end is OK. */
    void (*start)(struct rpc *self);
    /* Loop's thread: there may be room again after rpc_send said that there is none. */
    void (*ready)(struct rpc *self);
    /* Loop's thread, between start and finish: the client is gone or the gateway stops. To stop its sources and
     * rpc_finish, at once or when the store answers. NULL: the store's answer finishes. */
    void (*gone)(struct rpc *self);
    /* Any thread, last of all: frees `state` where it is not NULL. */
    void (*release)(void *state);
};
extern const struct rpc_method rpc_store_methods[], rpc_history_methods[], rpc_watch_methods[];
extern const struct rpc_method rpc_control_methods[], rpc_public_methods[];
extern const size_t rpc_store_method_count, rpc_history_method_count, rpc_watch_method_count;
extern const size_t rpc_control_method_count, rpc_public_method_count;

/* How the calls of one method ended, by gRPC's code. */
#define RPC_METHODS_MAX 24 /* unknown ones are one of them */
#define RPC_CODES       17
struct rpc_figures {
    const char *path;
    atomic_ullong ended[RPC_CODES];
};

/* What all calls share. */
struct rpc_shared {
    struct rpc_figures figures[RPC_METHODS_MAX];
    size_t figures_count;
    struct gateway *gateway;
    const struct auth *auth;
    size_t value_bytes_max;
    bool stopping;
    size_t memory_max;
    atomic_size_t held_bytes; /* of requests that were received and not answered: at most memory_max */

    /* The loop's thread's. */
    struct rpc *started; /* and not finished */
    struct rpc_hub *hubs;
    struct rpc *health_watchers;
    struct gateway_timer health_timer;

    pthread_mutex_t lock;
    /* Under `lock`. */
    struct rpc *attend_first, *attend_last;
    bool attend_posted;
    struct gateway_job attend_job;
};

struct rpc {
    const struct rpc_method *method; /* NULL: unknown */
    struct rpc_shared *shared;
    struct rpc_figures *figures;
    const struct auth_subject *subject;
    ProtobufCMessage *request;  /* the latest one, unpacked */
    struct sluice_value *value; /* its value field; NULL: empty */
    size_t value_size;
    size_t held_bytes;          /* of shared->held_bytes */
    uint64_t deadline_ns;       /* clock_monotonic_ns; UINT64_MAX: none */
    uint64_t after_ns;          /* metadata `sluice-after`; 0 none */
    struct slice authorization; /* valid while the call begins */
    const char *metadata_error; /* NULL: none */
    char limits[160];           /* the words of a message that passes one */
    void *state;                /* the method's */
    struct rpc *link;           /* the method's */
    bool over;                  /* rpc_finish was called; written under the transport's lock */

    /* The loop's thread's. */
    bool has_started;
    struct rpc *previous, *next;

    /* Under shared->lock. */
    unsigned attention;
    bool attended; /* is in the list */
    struct rpc *attend_next;
};

/* --- For the services ---*/

/* Sends the headers before there is a message. Any thread, before rpc_finish. */
void rpc_open(struct rpc *self);
/* Takes the message. False: hold back until `ready` is called. Any thread, before rpc_finish; messages to a client that
 * is gone vanish. */
bool rpc_send(struct rpc *self, struct rpc_message *message);
/* Exactly once; `self` is invalid afterwards. `message` (taken, NULL: none) goes before an OK. */
void rpc_finish(struct rpc *self, const struct rpc_outcome *outcome, struct rpc_message *message);
/* Shorthands: OK; a status with words (NULL: its own); a store's answer that is not OK. */
void rpc_succeed(struct rpc *self, struct rpc_message *message);
void rpc_fail(struct rpc *self, enum sluice_status status, const char *detail);
void rpc_fail_answer(struct rpc *self, const struct sluice_answer *answer);
/* What the store is given: the time left and the rest of the call's metadata. */
struct sluice_call rpc_call(const struct rpc *self);

/* --- Between transport and loop ---*/

enum rpc_attention { RPC_ATTEND_START = 1, RPC_ATTEND_READY = 2, RPC_ATTEND_GONE = 4 };
/* Has the loop call the handler for it. Any thread; START first. */
void rpc__attend(struct rpc *self, enum rpc_attention attention);
/* Loop's thread: tells every started call that has such a handler that it is gone. */
void rpc__gone_all(struct rpc_shared *shared);
void rpc__unlink(struct rpc *self);
/* --- grpc_request.c: what comes with a call ---*/

/* One field of the metadata. */
void rpc__metadata(struct rpc *self, struct slice name, struct slice value);
/* Who calls, and may they, as far as it can be told before there is a message: OK, or a status with a static sentence.
 */
enum sluice_status rpc__admit(struct rpc *self, const char **why) SLUICE_MUST_CHECK;
/* A message in pieces, into request and value. On failure `*why` is a sentence, or NULL. */
enum sluice_status rpc__decode(struct rpc *self, const struct slice *pieces, size_t count,
                               const char **why) SLUICE_MUST_CHECK;
void rpc__request_free(struct rpc *self);

/* How an outcome is spelled: the status's words, cut where they are long, and the trailers. */
#define RPC_TRAILERS_MAX 4
struct rpc_trailer {
    const char *name, *value;
    char number[24];
};
size_t rpc__detail(const struct rpc_outcome *outcome, const char **out);
size_t rpc__trailers(const struct rpc_outcome *outcome, struct rpc_trailer out[RPC_TRAILERS_MAX]);

/* Prometheus text. */
void rpc__metrics(const struct rpc_shared *shared, unsigned calls, struct emit *out);

/* Whether gRPC may listen on `address`, and the PEM texts that it then serves with (NULL: no TLS; the gateway's).
 * INVALID with a sentence in `error`. */
struct rpc_listen {
    char address[64]; /* of digits alone */
    size_t memory_max;
    const char *certificate, *key;
};
enum sluice_status rpc__listen(const struct gateway *gateway, const char *address, struct rpc_listen *out, char *error,
                               size_t error_size) SLUICE_MUST_CHECK;
/* The transport's. */
void rpc__ref(struct rpc *self);
void rpc__unref(struct rpc *self);
void rpc__shared_ref(struct rpc_shared *self);
void rpc__shared_unref(struct rpc_shared *self);

#endif

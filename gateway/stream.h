/* Answers without an end: chunks queued for a client as they come, shared between clients where they are the same. The
 * loop's thread alone. */
#ifndef GATEWAY_STREAM_H
#define GATEWAY_STREAM_H

#include "gateway/http__.h"

#define STREAM_BYTES_MAX     (1u << 20)      /* that may wait for one client */
#define STREAM_CUT_NS        (30 * NS_PER_S) /* a client that has read nothing for so long is gone */
#define STREAM_KEEP_ALIVE_NS (15 * NS_PER_S)

/* Immutable bytes with a count of their owners. */
struct chunk {
    uint32_t references;
    uint32_t size;
    char data[];
};
/* Takes the text; NULL: no memory (now or before). */
struct chunk *chunk__create(struct emit *text);
void chunk__unref(struct chunk *self);

struct stream {
    struct request *request;
    struct stream *previous, *next; /* of the gateway's */
    struct stream *wake_previous, *wake_next;
    bool waking;           /* in the gateway's list of those */
    struct chunk **chunks; /* a ring */
    uint32_t capacity, first, count;
    uint32_t taken;               /* bytes of the first one */
    uint64_t queued;              /* bytes that wait */
    uint64_t read_ns, written_ns; /* when the client last took, when something was last queued */
    bool waiting;                 /* the connection is suspended until there is something */
    bool ended;
    bool keep_alive; /* comments while nothing happens: for server-sent events */
    bool failed;     /* no memory: the stream breaks off */
    /* All that was queued was taken. */
    void (*drained)(struct stream *self);
};

/* The stream is its owner's storage; the request's release calls stream__close. */
void stream__open(struct stream *self, struct request *request);
/* A response whose body comes from here; NULL: no memory. */
struct MHD_Response *stream__response(struct stream *self);
void stream__close(struct stream *self);
/* Takes a reference of its own. */
void stream__push(struct stream *self, struct chunk *chunk);
/* Takes the text. */
void stream__push_text(struct stream *self, struct emit *text);
/* After what is queued the body ends. */
void stream__end(struct stream *self);
/* Is there room for more? */
bool stream__has_room(const struct stream *self);
void stream__end_all(struct gateway *gateway);
/* Resumes some of the connections that have something to send; the others follow in the next turns, so that an event
 * for thousands of clients holds up nobody's request. */
void stream__wake_some(struct gateway *gateway);
/* Its socket says that the client has gone, or half gone. */
void stream__on_socket(void *stream);

#endif

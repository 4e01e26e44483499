/* A gateway over the fake store, in a thread of its own, and a small HTTP client that says what came, byte for byte. */
#ifndef TESTS_HTTP_CLIENT_H
#define TESTS_HTTP_CLIENT_H

#include <pthread.h>

#include "gateway/gateway.h"
#include "tests/unit/gateway/fake_sluice.h"

struct server {
    struct gateway *gateway;
    pthread_t thread;
    uint16_t port;
};
/* NULL: the defaults. Listens on a free port of the loopback unless told otherwise. */
void server_start(struct server *self, const struct gateway_options *options);
/* Checks that nothing is left: no value referenced, no watch running. */
void server_stop(struct server *self);

struct answer {
    int status; /* 0: none came */
    char *head; /* status line and headers, each ending with a line feed */
    char *body;
    size_t size;
    bool closed; /* the connection ended with it */
};
void answer_free(struct answer *self);
/* A header's value, or NULL. Valid until the next call. */
const char *answer_header(const struct answer *self, const char *name);
/* Does the body hold this text? */
bool answer_has(const struct answer *self, const char *text);

int http_connect(const struct server *self);
void http_send(int fd, const void *data, size_t size);
void http_send_text(int fd, const char *text);
/* Reads one answer; `head` is true for the answer to HEAD. */
void http_read(int fd, bool head, struct answer *out);
/* One request on a connection of its own. `headers`: lines that end with \r\n, or NULL. Content-Length is added where
 * there is a body; Host is unless `headers` has it. */
void http_call(const struct server *self, const char *method, const char *target, const char *headers, const void *body,
               size_t size, struct answer *out);
/* The bytes as they are, on a connection of their own. */
void http_raw(const struct server *self, const char *bytes, size_t size, struct answer *out);
/* Reads what comes until it holds `text` (or the time, in ms, is over); returns all of it, to be freed. */
char *http_read_until(int fd, const char *text, int timeout_ms, bool *found);

/* A stream of events under way: what was read and not yet looked at is kept, with the chunked encoding undone. */
struct http_stream {
    int fd;
    char *raw, *text; /* raw: what is still encoded */
    size_t raw_size, text_size, at;
    size_t chunk_left; /* bytes of the present chunk and its line end; 0: its size comes next */
    bool ended;        /* by its last chunk */
    char *head;
};
/* Asks for it; the answer is a 200. */
void http_stream_open(const struct server *self, const char *target, const char *headers, struct http_stream *out);
/* The text up to and with `text`, to be freed; NULL where it does not come in time. The next call goes on after it. */
char *http_stream_until(struct http_stream *self, const char *text, int timeout_ms);
/* The text comes, within five seconds. */
void http_stream_expect(struct http_stream *self, const char *text, int line);
/* Reads on to the end; true where it is a proper one. */
bool http_stream_ends(struct http_stream *self);
void http_stream_close(struct http_stream *self);

/* The call has this status; what came instead is on the record. */
void http_expect(const struct server *self, int status, const char *method, const char *target, const char *headers,
                 const char *body, int line);
#define EXPECT(server, status, method, target, headers, body)                                                          \
    http_expect(server, status, method, target, headers, body, __LINE__)

#endif

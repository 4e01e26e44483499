/* HTTP to the gateway, by libcurl: one request at a time, repeated where that cannot do harm. */
#ifndef CLI_HTTP_H
#define CLI_HTTP_H

#include <curl/curl.h>

#include "cli/cli.h"

/* Takes bytes of a good answer as they come; false ends the transfer. */
typedef bool (*http_sink)(void *arg, const char *data, size_t size);

struct http_request {
    const char *method;
    const char *path;           /* encoded, with its query */
    const char *what;           /* what a message speaks of: the key, the pool … NULL: nothing */
    struct curl_slist *headers; /* freed by http_call; see http_add */
    const void *body;           /* borrowed; NULL: none */
    size_t body_size;
    curl_mime *mime; /* instead of body; freed by http_call */
    bool repeatable; /* may be sent again where nobody knows whether it was applied */
    http_sink sink;  /* NULL: the body is kept in the answer */
    void *arg;
};

#define HTTP_HEADERS_MAX 48
struct http_answer {
    long status; /* 0: none came */
    struct bytes body;
    char *headers[HTTP_HEADERS_MAX]; /* "name: value" */
    size_t header_count;
    bool sunk; /* the sink was called */
};

CURL *http_handle(void);
/* Appends "NAME: VALUE". A line feed in the value is refused. */
void http_add(const struct cli_common *common, struct http_request *request, const char *name, const char *value);
/* A random Idempotency-Key, so that the request can be repeated. */
void http_add_idempotency(const struct cli_common *common, struct http_request *request, const char *given);
/* Sends it until it is answered or the time has passed; complains where it failed. Returns an exit code. */
int http_call(const struct cli_common *common, struct http_request *request, struct http_answer *answer);
/* A header's value, borrowed; NULL where there is none. */
const char *http_header(const struct http_answer *answer, const char *name);
/* The body as JSON; complains and returns NULL where it is none. */
json_t *http_json(const struct cli_common *common, struct http_answer *answer);
void http_answer_free(struct http_answer *answer);
/* GET, and the answer as JSON into `out`. Returns an exit code. */
int http_get_json(const struct cli_common *common, const char *path, const char *what, json_t **out);
/* Does a GET succeed within a second? Says nothing, sends no token, and trusts any certificate: for one's own port. */
bool http_probe(const struct cli_common *common, const char *path);

/* --- Event streams ----------------------------------------------------------------------------------------------- */

struct http_event {
    const char *type; /* "message" where the stream did not say */
    const char *id;   /* the last one seen, "" where none was */
    const char *data;
    size_t data_size;
};
/* False ends the stream. */
typedef bool (*http_on_event)(void *arg, const struct http_event *event);

/* The parser of text/event-stream (WHATWG HTML, section 9.2), fed in pieces. Zero-initialise it, then set the callback.
 */
struct sse_parser {
    http_on_event on_event;
    void *arg;
    struct bytes line, type, data, id;
    bool after_cr, begun, has_data, stopped;
    uint32_t retry_ms; /* what the server asked for; 0: nothing */
};
bool sse_feed(struct sse_parser *self, const char *data, size_t size);
/* Forgets an unfinished event; the last id stays. */
void sse_reset(struct sse_parser *self);
void sse_free(struct sse_parser *self);

/* Follows the stream at `path` for ever: reconnects with Last-Event-ID after a pause, also when nothing has come for
 * `silence_s`. Returns an exit code once the server refuses it, or CLI_OK once the callback has ended it. */
int http_follow(const struct cli_common *common, const char *path, const char *what, long silence_s,
                http_on_event on_event, void *arg);

#endif

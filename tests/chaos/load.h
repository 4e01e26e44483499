/* What the load's two halves share: one blocking HTTP exchange, and its answer in the parts that matter. */
#ifndef TESTS_CHAOS_LOAD_H
#define TESTS_CHAOS_LOAD_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ANSWER_BYTES_MAX (64u << 10)

/* A keep-alive connection; opened when it is needed, closed when it broke. */
struct http {
    struct sockaddr_in address;
    unsigned timeout_ms;
    int fd; /* -1: closed */
    char buffer[ANSWER_BYTES_MAX];
};

struct answer {
    int status; /* 0: none came, the connection broke */
    uint64_t version, revision, time_ns;
    uint64_t shard; /* UINT64_MAX: not said */
    bool has_version, has_tag, replayed;
    char code[32];    /* problem+json's, or empty */
    const char *body; /* in the connection's buffer */
    size_t body_size;
};

uint64_t http_now_ns(void);
/* HOST:PORT as numbers. False: it is none. */
bool http_init(struct http *self, const char *address, unsigned timeout_ms);
void http_close(struct http *self);
/* Sends the request and reads its answer. A connection that had been idle and turns out to be closed is opened once
 * more where nothing of an answer came and `repeatable` says that the request may be sent twice. */
void http_exchange(struct http *self, const char *request, size_t size, bool repeatable, struct answer *answer);

#endif

/* One table of outcomes: text, HTTP status, gRPC code and the stable `code` of problem+json, so that they cannot drift
 * apart. */
#ifndef SLUICE_STATUS_H
#define SLUICE_STATUS_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* X(NAME, wire number, HTTP, gRPC, code, text). Wire numbers are frozen: other machines and log entries hold them. */
#define SLUICE_STATUS_TABLE(X)                                                                                         \
    X(OK, 0, 200, 0, "ok", "success")                                                                                  \
    X(INVALID, 1, 400, 3, "invalid_argument", "the request is malformed")                                              \
    X(UNAUTHENTICATED, 2, 401, 16, "unauthenticated", "a valid bearer token is needed")                                \
    X(FORBIDDEN, 3, 403, 7, "forbidden", "this token or origin may not do that")                                       \
    X(NOT_FOUND, 4, 404, 5, "not_found", "there is no such object")                                                    \
    X(DELETED, 5, 404, 5, "deleted", "the object is deleted")                                                          \
    X(METHOD_NOT_ALLOWED, 6, 405, 12, "method_not_allowed", "this method is not offered here")                         \
    X(CONFLICT, 7, 409, 9, "conflict", "the request conflicts with the present state")                                 \
    X(GONE, 8, 410, 11, "gone", "that version or position is no longer kept")                                          \
    X(EPOCH_LOST, 9, 410, 11, "epoch_lost", "the pool lost its memory and began a new epoch")                          \
    X(CONDITION_FAILED, 10, 412, 9, "condition_failed", "the condition does not hold; nothing was changed")            \
    X(TOO_LARGE, 11, 413, 8, "too_large", "the value is larger than the limit")                                        \
    X(UNSUPPORTED_MEDIA, 12, 415, 3, "unsupported_media_type", "the content type is not understood here")              \
    X(RANGE, 13, 416, 11, "range_not_satisfiable", "the range lies outside of the value")                              \
    X(UNPROCESSABLE, 14, 422, 3, "unprocessable", "the content is well-formed but refused")                            \
    X(IDEMPOTENCY_MISMATCH, 15, 422, 3, "idempotency_mismatch", "this Idempotency-Key was used for another request")   \
    X(BUSY, 16, 429, 8, "busy", "too much is in flight; nothing was applied, try again")                               \
    X(UNAVAILABLE, 17, 503, 14, "unavailable", "no quorum can be reached; nothing was applied, try again")             \
    X(DEADLINE, 18, 504, 4, "deadline_exceeded", "the deadline passed before an answer")                               \
    X(OUTCOME_UNKNOWN, 19, 504, 4, "outcome_unknown", "it may have been applied; repeat it with the same key")         \
    X(STORAGE_FULL, 20, 507, 8, "storage_full", "the node's disk is full; nothing was applied")                        \
    X(TRIGGER_POOL, 21, 405, 9, "trigger_pool", "a trigger pool dispatches events and stores nothing")                 \
    /* The rest stays inside: between client, node and disk. Users see the mapping given. */                           \
    X(NOT_LEADER, 32, 503, 14, "not_leader", "another replica leads this shard")                                       \
    X(STALE_MAP, 33, 503, 14, "stale_map", "the cluster map has moved on")                                             \
    X(AGAIN, 34, 503, 14, "again", "no room or no data right now")                                                     \
    X(CLOSED, 35, 503, 14, "closed", "the connection or queue is closed")                                              \
    X(CORRUPT, 36, 500, 15, "corrupt", "stored or received bytes fail their check")                                    \
    X(IO, 37, 500, 13, "io_error", "the operating system reported an I/O error")                                       \
    X(MEMORY, 38, 503, 8, "out_of_memory", "no memory could be had")                                                   \
    X(VERSION, 39, 500, 12, "version_unsupported", "a format or protocol version is not understood")                   \
    X(INTERNAL, 40, 500, 13, "internal", "the server broke a promise to itself")

enum sluice_status {
#define SLUICE_STATUS_ENUM(name, number, http, grpc, code, text) SLUICE_##name = number,
    SLUICE_STATUS_TABLE(SLUICE_STATUS_ENUM)
#undef SLUICE_STATUS_ENUM
};

#define SLUICE_MUST_CHECK __attribute__((warn_unused_result))

/* Properties of a status. Any thread. Unknown numbers answer as INTERNAL. Strings are static. */
const char *sluice_status_text(enum sluice_status status);
const char *sluice_status_code(enum sluice_status status);
int sluice_status_http(enum sluice_status status);
int sluice_status_grpc(enum sluice_status status);
/* True if `number` (read from a wire or disk) is in the table. */
bool sluice_status_known(uint32_t number);

#ifdef __cplusplus
}
#endif
#endif

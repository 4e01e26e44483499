/* Core RPC: what clients (gateways, libsluice) and core nodes say to each other over the fabric. Frozen layouts,
 * little-endian.
 *
 * A message is a `wire_header` and a body. Hot bodies have fixed layouts (below); control bodies are JSON documents
 * (UTF-8). A write's body is a `wire_command`, built by the client and kept as the log entry's body: nobody
 * re-serialises it. */
#ifndef SLUICE_WIRE_H
#define SLUICE_WIRE_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#include "api/sluice_status.h"

#define WIRE_MAGIC                  0x5753u /* "SW" */
#define WIRE_VERSION                1u
#define WIRE_VALUE_BYTES_MAX        (64u << 20)
#define WIRE_BODY_BYTES_MAX         (WIRE_VALUE_BYTES_MAX + (1u << 20))
#define WIRE_OPERATIONS_MAX         1024u
#define WIRE_KEY_BYTES_MAX          1024u /* of keys, prefixes and patterns */
#define WIRE_CONTENT_TYPE_BYTES_MAX 255u
#define WIRE_PAGE_BYTES                                                                                                \
    (256u << 10) /* list, history: a reply carries records up to this (at least one), then says MORE */

enum wire_type {
    /* client → node */
    WIRE_WRITE = 1, /* body: wire_command. Reply: one wire_record per operation, without values */
    WIRE_GET = 2,   /* body: wire_query. Reply: one wire_record with the value (or the range asked for) */
    WIRE_LIST =
        3, /* body: wire_query (key: prefix, after). Reply: wire_records without values unless WIRE_QUERY_VALUES */
    WIRE_HISTORY = 4, /* body: wire_query. Reply: wire_records */
    WIRE_TIME = 5, /* body: none. Reply: header.time is the shard leader's HLC, at or above all that it acknowledged */
    WIRE_WATCH =
        6, /* body: wire_query (kind, pattern, from). Replies: WIRE_EVENT … until WIRE_CANCEL; a WIRE_REPLY ends it */
    WIRE_CANCEL = 7, /* ends the watch or stream with this request_id */
    WIRE_MAP = 8, /* body: none; header.map_epoch: what the client has. Replies with the cluster map (JSON) at once if
                     newer, and again with each change */
    WIRE_MAP_CHANGE = 9,     /* body: JSON {"change": …}; to the map group's leader. Reply: JSON */
    WIRE_STATUS = 10,        /* Reply: JSON, this node's status */
    WIRE_LAMBDA_CHECK = 11,  /* body: u32 config size, config JSON, shared object: tries it in a throw-away process.
                                Reply: JSON {"watches":[…]} or UNPROCESSABLE with the loader's words */
    WIRE_LAMBDA_STATUS = 12, /* body: name or empty. Reply: JSON: state and counters of lambdas on this node */
    WIRE_LAMBDA_LOG = 13,    /* body: name. WIRE_EVENTs with one text line each, until WIRE_CANCEL */
    WIRE_TRANSFER = 14, /* body: JSON {"shard"?, "from"?, "to"?}. Reply: JSON {"shards":[{"shard","from","to"}]}: those
                           that this node led and has begun to hand over */
    /* node → client */
    WIRE_REPLY = 64,
    WIRE_EVENT = 65, /* of a watch: wire_records; none: progress, header.time is the shard's closed time */
};

struct wire_header {
    uint16_t magic;
    uint8_t version;
    uint8_t type; /* enum wire_type */
    uint32_t body_size;
    uint64_t request_id; /* the client's, echoed; unique per link while in flight */
    uint64_t time;       /* sender's HLC: both sides merge it */
    uint64_t map_epoch;  /* the sender's cluster map */
    uint32_t shard;
    uint32_t status; /* replies: enum sluice_status; then the body is a UTF-8 text when it is not OK (a wire_record may
                        come with DELETED and CONDITION_FAILED instead: flag RECORD) */
    uint32_t flags;  /* WIRE_FLAG_… */
    uint32_t node;   /* replies: the sender; with NOT_LEADER: who leads, 0 unknown */
    uint64_t after;  /* requests: answer with nothing older than this HLC; 0 none */
    uint32_t timeout_ms; /* requests */
    uint32_t body_crc;   /* WIRE_WRITE: CRC32C of the body, becomes the entry's body_crc; else 0 */
};
_Static_assert(sizeof(struct wire_header) == 64, "frozen layout");

#define WIRE_FLAG_MORE                                                                                                 \
    1u /* reply: further WIRE_REPLYs of this request follow (list and history: ask again with `after`/`from`) */
#define WIRE_FLAG_REPLAYED  2u  /* reply: the write had been applied before; this is its first answer */
#define WIRE_FLAG_STABLE    4u  /* read: any replica's stable prefix will do */
#define WIRE_FLAG_ADMIN     8u  /* request: keys below _sluice/ are allowed */
#define WIRE_FLAG_DELIVERED 16u /* write: answer when delivered. Reply: not durable yet */
#define WIRE_FLAG_RECORD    32u /* reply: status is not OK, and the body is a wire_record all the same */
#define WIRE_FLAG_CLOSED    64u /* event: the watch is caught up to header.time (progress) */

enum wire_command_kind {
    WIRE_COMMAND_WRITE = 1, /* puts and deletes, all or none */
    WIRE_COMMAND_CLOSE_PREFIX =
        2, /* operation[0].key is a pool prefix whose keys are refused from here on (STALE_MAP). The reply's
              record.version counts the versions under it: not 0 → refused with CONFLICT, nothing closed */
    WIRE_COMMAND_OPEN_PREFIX = 3, /* undoes it */
    WIRE_COMMAND_CURSOR = 4, /* operation[0]: key is "lambda name", if_version the revision up to which this shard's
                                events were handled (moves forward only) */
};

/* A write. Followed by `operation_count` operations, each 8-byte aligned. */
struct wire_command {
    uint8_t version;          /* 1 */
    uint8_t kind;             /* enum wire_command_kind */
    uint16_t operation_count; /* 1 … WIRE_OPERATIONS_MAX */
    uint32_t size;            /* of the whole command, this struct included */
    uint64_t deadline;  /* HLC: refused with DEADLINE (certainly not applied) when the entry's time is beyond; 0 none */
    uint64_t client;    /* who sends, for exactly-once retries; 0 none */
    uint64_t sequence;  /* the client's, 1, 2, 3 … over all shards */
    uint64_t watermark; /* every sequence of the client below this was answered to it: forget them */
    uint8_t idempotency[16]; /* digest of (subject, method, key, Idempotency-Key); all zero: none */
    uint64_t
        request_digest; /* of body, conditions and query: the same key with another digest is IDEMPOTENCY_MISMATCH */
};
_Static_assert(sizeof(struct wire_command) == 64, "frozen layout");

enum wire_operation_kind { WIRE_PUT = 1, WIRE_DELETE = 2 };
#define WIRE_IF_VERSION  1u /* the latest version is if_version (a tombstone or nothing does not match) */
#define WIRE_IF_ABSENT   2u /* nothing is there, or a tombstone */
#define WIRE_IF_PRESENT  4u /* something is there (If-Match: *) */
#define WIRE_OBJECT_TIME 8u /* object_time was given */

struct wire_operation {
    uint8_t kind;  /* enum wire_operation_kind */
    uint8_t flags; /* WIRE_IF_…, WIRE_OBJECT_TIME */
    uint16_t key_size;
    uint16_t content_type_size;
    uint16_t reserved;
    uint32_t value_size;
    uint32_t size; /* of the whole operation: this struct, key, content type, value, padding to 8 */
    uint64_t if_version;
    uint64_t object_time;
    /* key, content type, then (8-byte aligned) the value */
};
_Static_assert(sizeof(struct wire_operation) == 32, "frozen layout");

enum wire_pattern_kind { WIRE_PATTERN_KEY = 1, WIRE_PATTERN_PREFIX = 2, WIRE_PATTERN_GLOB = 3, WIRE_PATTERN_REGEX = 4 };

#define WIRE_QUERY_VERSION    1u  /* get: by version */
#define WIRE_QUERY_AT         2u  /* get, list: by platform time `at` */
#define WIRE_QUERY_VALUES     4u  /* list, history, watch: with values */
#define WIRE_QUERY_DESCENDING 8u  /* history */
#define WIRE_QUERY_TOMBSTONES 16u /* list: deleted keys too */
#define WIRE_QUERY_NO_VALUE   32u /* get: facts only (HEAD) */
#define WIRE_QUERY_FROM_TIME                                                                                           \
    64u /* watch: from is a time: events with a later time; else `from` is the first revision wanted, 0: from now */
#define WIRE_QUERY_OBJECT_CLOCK 128u /* refused: no release offers it yet */

/* Of a watch: bounds of the time between two progress events. Whoever reads wants a sign of life each second. */
#define WIRE_PROGRESS_MS_MIN 10u
#define WIRE_PROGRESS_MS_MAX 1000u

struct wire_query {
    uint8_t version; /* 1 */
    uint8_t kind;    /* watch: enum wire_pattern_kind */
    uint16_t flags;  /* WIRE_QUERY_… */
    uint16_t key_size;
    uint16_t after_size;
    uint32_t limit;     /* list, history: records, 0: the page's bytes decide. Watch: milliseconds between two progress
                           events, within WIRE_PROGRESS_MS_…; 0: the node's own way */
    uint32_t operation; /* watch: skip operations of revision `from` below this */
    uint64_t object_version;
    uint64_t at;
    uint64_t from, to;           /* history: versions, inclusive, 0 and UINT64_MAX open */
    uint64_t time_from, time_to; /* history: platform times, inclusive */
    uint64_t offset, length; /* get: byte range of the value; length UINT64_MAX: to the end. Reply: record.value_size
                                stays the whole */
    uint64_t epoch;          /* watch: the epoch that `from` belongs to; 0 any */
    /* key (or prefix, or pattern), then after */
};
_Static_assert(sizeof(struct wire_query) == 88, "frozen layout");

#define WIRE_RECORD_TOMBSTONE 1u
#define WIRE_RECORD_VALUE     2u /* carried_size bytes of value follow */
#define WIRE_RECORD_CREATED   4u /* a write's: nothing, or a tombstone, was there before */

/* One version of one object, on its way to a client. Followed by key, content type, value, each record padded to 8
 * bytes. */
struct wire_record {
    uint16_t flags;
    uint16_t key_size;
    uint16_t content_type_size;
    uint16_t reserved;
    uint32_t value_size;   /* the object's */
    uint32_t carried_size; /* bytes of value here */
    uint32_t shard;
    uint32_t operation;
    uint64_t version;
    uint64_t revision;
    uint64_t epoch; /* of the shard */
    uint64_t time;
    uint64_t object_time;
};
_Static_assert(sizeof(struct wire_record) == 64, "frozen layout");

static inline size_t wire_pad(size_t size)
{
    return (size + 7) & ~(size_t)7;
}

/* Checks of bytes that came from outside. On success the pointers borrow from `data`, which is 8-byte aligned.
 * On failure INVALID (or TOO_LARGE, VERSION) and `*why` is a static sentence. */
enum sluice_status wire_header_read(const void *data, size_t size, const struct wire_header **out,
                                    const char **why) SLUICE_MUST_CHECK;
/* Checks the whole command with all operations, keys included (text_key_error is the caller's: api knows no core/base).
 */
enum sluice_status wire_command_read(const void *data, size_t size, const struct wire_command **out,
                                     const char **why) SLUICE_MUST_CHECK;
enum sluice_status wire_query_read(const void *data, size_t size, const struct wire_query **out,
                                   const char **why) SLUICE_MUST_CHECK;

struct wire_operation_view {
    const struct wire_operation *operation;
    const char *key;
    const char *content_type;
    const void *value;
};
/* Walks the operations of a checked command: start with *offset = 0; false at the end. */
int wire_operation_next(const struct wire_command *command, size_t *offset, struct wire_operation_view *out);
static inline const char *wire_query_key(const struct wire_query *query)
{
    return (const char *)(query + 1);
}
static inline const char *wire_query_after(const struct wire_query *query)
{
    return (const char *)(query + 1) + query->key_size;
}

struct wire_record_view {
    const struct wire_record *record;
    const char *key;
    const char *content_type;
    const void *value;
};
/* Walks records in a reply: 1 a record, 0 the end, -1 malformed. */
int wire_record_next(const void *data, size_t size, size_t *offset, struct wire_record_view *out);

/* Sizes for building. The value of an operation starts at sizeof(wire_operation) + wire_pad(key + content type). */
static inline size_t wire_operation_value_offset(size_t key_size, size_t type_size)
{
    return sizeof(struct wire_operation) + wire_pad(key_size + type_size);
}
static inline size_t wire_operation_bytes(size_t key_size, size_t type_size, size_t value_size)
{
    return wire_operation_value_offset(key_size, type_size) + wire_pad(value_size);
}
static inline size_t wire_record_bytes(size_t key_size, size_t type_size, size_t value_size)
{
    return wire_pad(sizeof(struct wire_record) + key_size + type_size + value_size);
}

#endif

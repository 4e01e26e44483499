/* A log entry as it stands on disk and on the wire: a 64-byte header and a body. Frozen format, little-endian. */
#ifndef VERSIONS_ENTRY_H
#define VERSIONS_ENTRY_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/buf.h"

#define ENTRY_MAGIC          0x31454c53u /* "SLE1" */
#define ENTRY_BODY_BYTES_MAX (66u << 20)

enum entry_kind {
    ENTRY_NOOP = 0,    /* opens a ballot; no body */
    ENTRY_COMMAND = 1, /* body: struct wire_command (api/wire.h) */
    ENTRY_MAP = 2,     /* body: a change of the cluster map (the map group alone) */
    ENTRY_MEMBERS = 3, /* body: struct entry_members; who votes from the next index on */
};

struct entry_members {
    uint64_t voters;   /* a mask of nodes */
    uint64_t instance; /* of the replica that is added */
};
_Static_assert(sizeof(struct entry_members) == 16, "frozen layout");

struct entry_header {
    uint32_t magic;
    uint32_t header_crc; /* CRC32C of the header's bytes from body_crc on */
    uint32_t body_crc;   /* CRC32C of the body */
    uint32_t body_size;
    uint64_t ballot;
    uint64_t index;  /* the revision */
    uint64_t time;   /* HLC, platform time of everything in the entry */
    uint64_t epoch;  /* of the group */
    uint32_t group;  /* the shard's number */
    uint16_t kind;   /* enum entry_kind */
    uint16_t flags;  /* 0 */
    uint64_t opened; /* the highest ballot known to begin its log at or before this entry; see core/consensus */
};
_Static_assert(sizeof(struct entry_header) == 64, "one cache line on every replica");
_Static_assert(offsetof(struct entry_header, body_crc) == 8 && offsetof(struct entry_header, group) == 48,
               "frozen layout");

/* An entry in memory. `body` is NULL when empty. Whoever holds the struct holds one reference on body. */
struct entry {
    uint64_t index;
    uint64_t ballot;
    uint64_t time;
    uint64_t epoch;
    uint64_t opened;
    uint32_t group;
    uint16_t kind;
    uint32_t body_crc;
    struct buf *body;
};

/* Fills a header for `entry`, computing header_crc; body_crc is taken from the entry (computed once, when the body was
 * first seen). */
void entry_header_write(const struct entry *entry, struct entry_header *out);
/* Checks magic, checksum and bounds of a header that came from outside; CORRUPT with no change of `out` otherwise.
 * `out->body` stays NULL. */
enum sluice_status entry_header_read(const void *data, size_t size, struct entry *out,
                                     uint32_t *body_size) SLUICE_MUST_CHECK;

#endif

/* How records stand in a segment. Frozen, little-endian. Private to core/versions, and to its tests.
 *
 * A segment is a run of batches, each at a multiple of 4 KiB: a header, records, zeros up to the next block. One batch
 * is one write. Its sequence rises by one from batch to batch over the log's whole life; with segment number, offset
 * and the log's identity in the header, bytes left from a recycled segment, from another log, or placed in a value by a
 * client are never taken for a batch. */
#ifndef VERSIONS_WAL_FORMAT_H
#define VERSIONS_WAL_FORMAT_H

#include "api/release.h"
#include "core/versions/wal.h"

#define WAL_BLOCK_BYTES 4096u
#define WAL_BATCH_MAGIC 0x31424c53u /* "SLB1" */
#define WAL_BATCH_BYTES_MAX                                                                                            \
    (WAL_GATHER_BYTES + ENTRY_BODY_BYTES_MAX + (16u << 20)) /* the last: what a checkpoint may take */
#define WAL_GATHER_BYTES (4u << 20)                         /* a batch takes no further record beyond this */
/* flags: the batch needs a reader of this format at least. 0: the first one; 1: it may hold WAL__LOST and WAL__WHOLE.
 */
#define WAL_BATCH_FORMAT(flags) ((flags) >> 24)
#define WAL_FORMAT              release_formats_latest()->log /* that this release reads */
#define WAL_BATCH_CLOSING       1u                            /* the last one of a log that was closed in order */

struct wal_batch_header {
    uint32_t magic;
    uint32_t header_crc; /* CRC32C of the header's bytes from body_crc on */
    uint32_t body_crc;   /* CRC32C of the records */
    uint32_t body_size;  /* bytes of records */
    uint64_t log;        /* identity, chosen at random when the log was created */
    uint64_t sequence;
    uint64_t segment;
    uint64_t offset;
    uint32_t record_count;
    uint32_t flags;
    uint64_t reserved; /* 0 */
};
_Static_assert(sizeof(struct wal_batch_header) == 64 && offsetof(struct wal_batch_header, sequence) == 24,
               "frozen layout");

/* An empty batch that ends a segment; its record_count is the number (its lower half) of the segment that follows, so
 * that this one is missed if it is not there. */
#define WAL_BATCH_NEXT 2u

/* Before each record; the data is padded to 8 bytes. */
struct wal_record_header {
    uint32_t size;     /* of the data */
    uint16_t type;     /* enum wal_record_type, or WAL__CHECKPOINT */
    uint16_t reserved; /* 0 */
};
_Static_assert(sizeof(struct wal_record_header) == 8, "frozen layout");

/* Data of all records but entries, which are an entry_header and the body. */
struct wal_words {
    uint32_t group;
    uint32_t reserved;
    uint64_t epoch;
    uint64_t ballot;
};
_Static_assert(sizeof(struct wal_words) == 24, "frozen layout");

/* Written before segments are recycled: which ones still count, and what would have been lost with the others. Data:
 * this, then wal_checkpoint_segment and wal_words items. */
#define WAL__CHECKPOINT 64
/* Words of the log's own. LOST: damage was found; what came before the batch numbered `ballot` may be incomplete.
 * WHOLE: the group has got over the damage of that number. */
#define WAL__LOST  65
#define WAL__WHOLE 66
struct wal_checkpoint {
    uint32_t segment_count;
    uint32_t promise_count; /* group, epoch, ballot: the highest one promised or accepted under */
    uint32_t ceiling_count;
    uint32_t forget_count; /* group, epoch, sequence (in ballot): records of batches below it are void */
};
struct wal_checkpoint_segment {
    uint64_t number;
    uint64_t first_sequence, last_sequence; /* what it held by then; 0: nothing */
};
_Static_assert(sizeof(struct wal_checkpoint) == 16 && sizeof(struct wal_checkpoint_segment) == 24, "frozen layout");

static inline uint64_t wal_block_round(uint64_t size)
{
    return (size + WAL_BLOCK_BYTES - 1) & ~(uint64_t)(WAL_BLOCK_BYTES - 1);
}

/* A batch in the making: 4 KiB aligned memory that grows. */
struct wal_buffer {
    uint8_t *data;
    size_t size, capacity;
};
enum sluice_status wal_buffer_reserve(struct wal_buffer *self, size_t extra) SLUICE_MUST_CHECK;
void wal_buffer_free(struct wal_buffer *self);

/* Appends one record. */
enum sluice_status wal_encode(struct wal_buffer *self, const struct wal_record *record) SLUICE_MUST_CHECK;
/* Appends a record of `size` data bytes, filled by the caller. */
enum sluice_status wal_encode_raw(struct wal_buffer *self, uint16_t type, uint32_t size,
                                  uint8_t **data) SLUICE_MUST_CHECK;
/* Starts a batch: room for its header. */
enum sluice_status wal_batch_begin(struct wal_buffer *self) SLUICE_MUST_CHECK;
/* Ends it: checksums, header, zeros up to the block. The other fields of `header` are the caller's. */
enum sluice_status wal_batch_end(struct wal_buffer *self, const struct wal_batch_header *header) SLUICE_MUST_CHECK;

/* Is there a batch header in this block? Checks magic, checksum and bounds; segment, offset, sequence and log are the
 * caller's to compare. */
bool wal_batch_header_read(const void *block, struct wal_batch_header *out);
/* Are these the header's records? */
bool wal_batch_body_valid(const struct wal_batch_header *header, const void *body);
/* Walks records of a valid body: 1 a record, 0 the end, -1 malformed. */
int wal_record_next(const void *body, size_t size, size_t *offset, struct wal_record_header *out, const uint8_t **data);
/* Makes a record of its data; an entry's body has a reference of its own, the caller's. CORRUPT, MEMORY. Not for
 * checkpoints. */
enum sluice_status wal_decode(const struct wal_record_header *header, const uint8_t *data,
                              struct wal_record *out) SLUICE_MUST_CHECK;
/* Finds the parts of a checkpoint's data; unaligned. CORRUPT when they do not fill it. */
struct wal_checkpoint_view {
    struct wal_checkpoint head;
    const uint8_t *segments, *promises, *ceilings, *forgets;
};
enum sluice_status wal_checkpoint_read(const void *data, size_t size,
                                       struct wal_checkpoint_view *out) SLUICE_MUST_CHECK;

#endif

/* A ring of messages in the receiver's memory. The sender writes frames and then the tail into it, one-sidedly; the
 * receiver reads frames in place and writes its head back as credit, into the control line of the sender's own ring.
 * Pure apart from ring__memory_*: no clock, no socket.
 *
 * Memory: one control page, then the ring, then the same ring once more, so that what crosses the end lies in one
 * piece. Positions are 64-bit byte counts that never wrap. Frames begin at multiples of 8: a `ring__frame`, then `size`
 * bytes.
 *
 * The peer may write anything at any time. So the reader reads the tail and each frame header once, into locals, and
 * checks them there. */
#ifndef RDMA_RING_H
#define RDMA_RING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api/sluice_status.h"

#define RING__BYTES_MIN     (16u << 10)
#define RING__BYTES_MAX     (1u << 30)
#define RING__CONTROL_BYTES 4096u

/* Both words are written by the peer, together, so that a flush with data and credit dirties one cache line of the
 * control page. */
struct ring__control {
    _Atomic uint64_t tail;   /* in this ring, what lies before it is whole */
    _Atomic uint64_t credit; /* how far the peer has read in its own ring, which we write */
    uint8_t unused[48];
};
_Static_assert(sizeof(struct ring__control) == 64, "one cache line, shared between processes");

enum ring__kind {
    RING__WHOLE = 1, /* a message */
    RING__FIRST = 2, /* a u32 with the message's size, a u32 0, and the message's beginning */
    RING__MORE = 3,
    RING__LAST = 4,
};
struct ring__frame {
    uint32_t size; /* bytes that follow, without padding */
    uint8_t kind;
    uint8_t unused[3]; /* 0 */
};
_Static_assert(sizeof(struct ring__frame) == 8, "frozen layout");
#define RING__FIRST_BYTES 8u

static inline uint64_t ring__align(uint64_t bytes)
{
    return (bytes + 7) & ~UINT64_C(7);
}
/* A frame with its header takes at most a quarter, and credit is returned for each quarter read. So a sender that waits
 * for room has more than half of the ring unread before it, and the credit that frees it will come without its asking.
 */
static inline uint32_t ring__frame_max(uint32_t ring_bytes)
{
    return ring_bytes / 4;
}

struct ring__memory {
    struct ring__control *control;
    uint8_t *bytes; /* mapped twice, back to back */
    uint32_t size;
    int fd; /* -1 once it was given away */
};
bool ring__size_valid(uint32_t size);
/* Our own ring. The memory is sealed against shrinking, so that nobody's access can fault. */
enum sluice_status ring__memory_create(uint32_t size, struct ring__memory *out) SLUICE_MUST_CHECK;
/* A peer's ring from a descriptor that it sent. Does not take `fd`. CORRUPT: not what a ring of `size` bytes looks
 * like. */
enum sluice_status ring__memory_open(int fd, uint32_t size, struct ring__memory *out) SLUICE_MUST_CHECK;
void ring__memory_close(struct ring__memory *self);

/* Checks that memory behind `fd` has exactly `size` bytes and can't shrink. */
bool ring__sealed(int fd, uint64_t size);
/* Sealed memory of `size` bytes. Returns a descriptor or -1. */
int ring__sealed_create(const char *name, uint64_t size);

struct ring__reader {
    const uint8_t *bytes;
    uint32_t size;
    uint32_t message_max;
    uint64_t origin; /* position that lies at bytes[0]; a multiple of 8. 0 but for tcp, where the receiver itself places
                        what comes */
    uint64_t head;
    uint64_t credited; /* head that the peer was told */
    uint64_t step;     /* bytes that ring__release lets go */
    /* A message that comes in several frames. 0 <= have <= total; grows as bytes arrive, never ahead of them by more
     * than they are. */
    uint8_t *assembly;
    uint32_t have;
    uint32_t total;
    uint32_t capacity;
    bool assembling;
};

enum ring__result {
    RING__EMPTY,
    RING__MESSAGE, /* data, size: valid until ring__release */
    RING__PART,    /* a piece of a larger message was taken in */
    RING__BAD,     /* the peer broke the rules; `why` says how */
    RING__MEMORY,  /* no memory to put the message together */
};
void ring__reader_init(struct ring__reader *self, const struct ring__memory *memory, uint32_t message_max);
void ring__reader_deinit(struct ring__reader *self);
/* Reads the frame at the head, given a tail that was read once. Call ring__release after MESSAGE and PART. */
enum ring__result ring__read(struct ring__reader *self, uint64_t tail, const uint8_t **data, uint32_t *size,
                             const char **why) SLUICE_MUST_CHECK;
void ring__release(struct ring__reader *self);

struct ring__writer {
    uint32_t size;
    uint64_t tail;      /* placed so far */
    uint64_t published; /* what the peer was told */
    uint64_t credit;    /* what the peer has read: credit <= published <= tail <= credit + size */
};
void ring__writer_init(struct ring__writer *self, uint32_t size);
static inline uint64_t ring__room(const struct ring__writer *self)
{
    return self->size - (self->tail - self->credit);
}
/* Takes in a credit that the peer wrote. False: no correct peer says that. */
bool ring__credit(struct ring__writer *self, uint64_t credit) SLUICE_MUST_CHECK;

/* The header of a message that fits one frame. */
static inline uint64_t ring__whole(uint32_t size)
{
    return size | (uint64_t)RING__WHOLE << 32;
}

/* How the next frame of a message of `total` bytes looks of which `placed` were placed. False when there is no room for
 * it yet. `header` takes *header_size bytes (at most RING__HEADER_MAX), *payload_size bytes of the message follow,
 * *padding bytes bring it to a multiple of 8. */
#define RING__HEADER_MAX (sizeof(struct ring__frame) + RING__FIRST_BYTES)
struct ring__plan {
    uint8_t header[RING__HEADER_MAX];
    uint32_t header_size;
    uint32_t payload_size;
    uint32_t padding;
};
bool ring__plan(const struct ring__writer *self, uint32_t total, uint32_t placed,
                struct ring__plan *out) SLUICE_MUST_CHECK;
static inline uint32_t ring__plan_bytes(const struct ring__plan *plan)
{
    return plan->header_size + plan->payload_size + plan->padding;
}

#endif

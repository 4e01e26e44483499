/* What core nodes say to each other: consensus messages of a group with their values, beats of the pair, and map
 * changes on their way to the map group's leader. Frozen layout, little-endian. */
#ifndef SHARD_PEER_H
#define SHARD_PEER_H

#include "core/consensus/paxos.h"
#include "core/versions/entry.h"

#define PEER_MAGIC   0x5053u /* "SP" */
#define PEER_VERSION 2u

enum peer_kind { PEER_PAIRS = 1, PEER_PAXOS = 2, PEER_MAP_CHANGE = 3 };

struct peer_header {
    uint16_t magic;
    uint8_t version;
    uint8_t kind; /* enum peer_kind */
    uint32_t group;
    uint64_t time;      /* sender's HLC */
    uint32_t head_size; /* bytes behind the header that `crc` covers; entries have checksums of their own */
    uint32_t
        crc; /* CRC32C of the header up to here, then of those bytes: a network's checksum is too weak for a vote */
};
_Static_assert(sizeof(struct peer_header) == 24, "frozen layout");

struct peer_pairs {
    uint64_t incarnation, peer_incarnation, sent_ns, lease_ns, ceiling, defections;
    uint32_t type;
    uint32_t reserved;
};
_Static_assert(sizeof(struct peer_pairs) == 56, "frozen layout");

/* Followed by entry_count × (struct entry_header, body, padding to 8). */
struct peer_paxos {
    uint8_t type;
    uint8_t granted;
    uint8_t learner;
    uint8_t reserved;
    uint32_t entry_count;
    uint64_t epoch, ballot, first, last, stable, received, persisted;
    uint64_t incarnation, peer_incarnation, defections, ceiling, closed_time, closed_index, stable_opened;
};
_Static_assert(sizeof(struct peer_paxos) == 120, "frozen layout");

/* Fills in head_size and crc; `head` is what follows the header, without entries. */
void peer_header_seal(struct peer_header *self, const void *head, size_t size);
/* CORRUPT where header or head are not what the sender sealed. `data` is what follows the header. */
enum sluice_status peer_header_check(const struct peer_header *self, const void *data, size_t size) SLUICE_MUST_CHECK;

void peer_pairs_write(const struct pairs_message *message, struct peer_pairs *out);
/* INVALID for what is not a beat. */
enum sluice_status peer_pairs_read(const void *data, size_t size, uint64_t time,
                                   struct pairs_message *out) SLUICE_MUST_CHECK;

void peer_paxos_write(const struct paxos_message *message, struct peer_paxos *out);
/* Fills `out` and copies the bodies into fresh buffers: `entries` holds PAXOS_MESSAGE_ENTRIES_MAX, out->entry_count of
 * them come with a reference each, also on failure after which *count says how many must be released. CORRUPT where a
 * checksum fails; INVALID for a malformed message. */
enum sluice_status peer_paxos_read(const void *data, size_t size, uint32_t group, uint16_t from,
                                   struct paxos_message *out, struct entry *entries, uint32_t *count) SLUICE_MUST_CHECK;

#endif

/* What core nodes say to each other: consensus messages of a group with their values, beats of the pair, and map
 * changes on their way to the map group's leader. Frozen layout, little-endian. */
#ifndef SHARD_PEER_H
#define SHARD_PEER_H

#include "api/release.h"
#include "core/consensus/paxos.h"
#include "core/versions/entry.h"

#define PEER_MAGIC   0x5053u /* "SP" */
#define PEER_VERSION sluice_release.peer

/* A node understands these versions of what follows, says so in its beats, and speaks to each peer in the highest one
 * that both understand; with a peer whose range does not meet this one it does not speak, and says so in its log. Beats
 * are sent in the lowest version, so that two nodes always learn each other's range. */
#define PEER_VERSION_MIN sluice_release.peer_min

/* Kinds from PEER_KIND_NODE on are between nodes, not of a shard. */
enum peer_kind {
    PEER_PAIRS = 1,
    PEER_PAXOS = 2,
    PEER_MAP_CHANGE = 3,
    PEER_SNAPSHOT = 4,     /* struct peer_snapshot, and what its type says */
    PEER_SNAPSHOT_ACK = 5, /* struct peer_snapshot_ack */
    PEER_REPAIR_ASK = 6,   /* struct peer_repair: this stable entry is damaged here; give it to me */
    PEER_REPAIR = 7,       /* struct peer_repair, then the entry with its header */
    PEER_KIND_NODE = 64,
};

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
    uint8_t version_min, version_max; /* that the sender understands; 0 to 0: only the header's */
    uint16_t reserved;
};
_Static_assert(sizeof(struct peer_pairs) == 56, "frozen layout");

/* Followed by entry_count × (struct entry_header, body, padding to 8). */
struct peer_paxos {
    uint8_t type;
    uint8_t granted;
    uint8_t learner;
    uint8_t lost;
    uint32_t entry_count;
    uint64_t epoch, ballot, first, last, stable, received, persisted;
    uint64_t incarnation, peer_incarnation, instance, since, whole_from;
    uint64_t defections, ceiling, closed_time, closed_index, stable_opened;
    uint64_t read, transfer;
};
_Static_assert(sizeof(struct peer_paxos) == 160, "frozen layout");

/* A snapshot on its way: the stable entries that are still kept, in order, then the facts of the state machine as of
 * its end. Everything in it is chosen, so it matters to nobody who leads by now. The receiver says how far it is; that
 * is where the sender goes on, after a break too. */
enum peer_snapshot_type {
    PEER_SNAPSHOT_BEGIN = 1, /* where do you stand? */
    PEER_SNAPSHOT_ENTRIES =
        2,                    /* `count` entries of first … upto, and none else of those is kept: each a header, its
                                 body padded to 8, and its versions: how many numbers (8 bytes; 0, or one an operation),
                                 then the number that each operation made (8 bytes; 0: none that is kept) */
    PEER_SNAPSHOT_FINISH = 3, /* that was all, as of `upto`: say when it is installed */
    PEER_SNAPSHOT_FACTS = 4,  /* `count` facts as of `upto`, that begin at byte `first` of all facts: each struct
                                 peer_fact, name and value, padded to 8 */
};
struct peer_snapshot {
    uint32_t type;
    uint32_t count;
    uint64_t epoch;
    uint64_t id; /* of this transfer */
    uint64_t first, upto;
    uint64_t end;          /* where it ends as far as is known by now; for status alone */
    uint64_t time, opened; /* FINISH: of the entry `upto` */
    uint64_t facts_size;   /* FINISH: bytes of all facts */
};
_Static_assert(sizeof(struct peer_snapshot) == 72, "frozen layout");

struct peer_fact {
    uint32_t name_size, value_size;
};
_Static_assert(sizeof(struct peer_fact) == 8, "frozen layout");

/* More than any group has: answers, sessions and cursors are bounded. */
#define PEER_FACTS_BYTES_MAX (128u << 20)

enum peer_snapshot_state {
    PEER_SNAPSHOT_GOING = 0,
    PEER_SNAPSHOT_BEHIND = 1, /* something before that is missing: go on from here */
    PEER_SNAPSHOT_INSTALLED = 2,
};
struct peer_snapshot_ack {
    uint64_t epoch;
    uint64_t id;
    uint64_t position; /* everything that is kept up to here is held */
    uint64_t facts;    /* bytes of this transfer's facts that are held */
    uint32_t status;   /* enum sluice_status: OK; anything else ends the transfer */
    uint32_t state;    /* enum peer_snapshot_state */
};
_Static_assert(sizeof(struct peer_snapshot_ack) == 40, "frozen layout");

struct peer_repair {
    uint64_t epoch;
    uint64_t revision;
};
_Static_assert(sizeof(struct peer_repair) == 16, "frozen layout");

/* Fills in head_size and crc; `head` is what follows the header, without entries. */
void peer_header_seal(struct peer_header *self, const void *head, size_t size);
/* CORRUPT where header or head are not what the sender sealed. `data` is what follows the header. */
enum sluice_status peer_header_check(const struct peer_header *self, const void *data, size_t size) SLUICE_MUST_CHECK;

void peer_pairs_write(const struct pairs_message *message, struct peer_pairs *out);
/* INVALID for what is not a beat. */
enum sluice_status peer_pairs_read(const void *data, size_t size, uint64_t time,
                                   struct pairs_message *out) SLUICE_MUST_CHECK;

void peer_paxos_write(const struct paxos_message *message, struct peer_paxos *out);
/* Which versions of the protocol the sender of a beat understands, when its header says `version`. */
void peer_pairs_versions(const void *data, size_t size, uint8_t version, uint8_t *min, uint8_t *max);
/* The highest version of `min` … `max` that this node understands too; 0: none. */
uint8_t peer_version_agreed(uint8_t min, uint8_t max);

/* What a members entry says; false where it is none, or malformed. */
bool peer_members(const struct entry *entry, struct entry_members *out);
/* Fills `out` and copies the bodies into fresh buffers: `entries` holds PAXOS_MESSAGE_ENTRIES_MAX, out->entry_count of
 * them come with a reference each, also on failure after which *count says how many must be released. CORRUPT where a
 * checksum fails; INVALID for a malformed message. */
enum sluice_status peer_paxos_read(const void *data, size_t size, uint32_t group, uint16_t from,
                                   struct paxos_message *out, struct entry *entries, uint32_t *count) SLUICE_MUST_CHECK;

enum sluice_status peer_snapshot_read(const void *data, size_t size, struct peer_snapshot *out) SLUICE_MUST_CHECK;
enum sluice_status peer_snapshot_ack_read(const void *data, size_t size,
                                          struct peer_snapshot_ack *out) SLUICE_MUST_CHECK;

/* Walks what follows a peer_snapshot: *offset counts from its end. OK fills the output; the entry's body is a fresh
 * buffer with one reference. INVALID, CORRUPT or MEMORY otherwise. */
enum sluice_status peer_snapshot_entry(const void *data, size_t size, size_t *offset,
                                       struct entry *out) SLUICE_MUST_CHECK;
/* The numbers of its versions, that follow it; *count of them, at `*numbers`, 8 bytes each. INVALID. */
enum sluice_status peer_snapshot_numbers(const void *data, size_t size, size_t *offset, const uint8_t **numbers,
                                         uint32_t *count) SLUICE_MUST_CHECK;
/* Walks facts in the same way; name and value are borrowed from `data`. INVALID. */
enum sluice_status peer_snapshot_fact(const void *data, size_t size, size_t *offset, struct slice *name,
                                      struct slice *value) SLUICE_MUST_CHECK;
/* One entry with its header, alone to the end of `data`; its body is a fresh buffer. */
enum sluice_status peer_entry_read(const void *data, size_t size, struct entry *out) SLUICE_MUST_CHECK;

#endif

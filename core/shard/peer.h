/* What core nodes say to each other: consensus messages of a group with their values, beats of the pair, and map
 * changes on their way to the map group's leader. Frozen layout, little-endian. */
#ifndef SHARD_PEER_H
#define SHARD_PEER_H

#include "core/consensus/paxos.h"
#include "core/versions/entry.h"

#define PEER_MAGIC   0x5053u /* "SP" */
#define PEER_VERSION 2u

/* A node understands these versions of what follows, says so in its beats, and speaks to each peer in the highest one
 * that both understand; with a peer whose range does not meet this one it does not speak, and says so in its log. Beats
 * are sent in the lowest version, so that two nodes always learn each other's range. */
#define PEER_VERSION_MIN 2u

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
    uint64_t incarnation, peer_incarnation, defections, ceiling, closed_time, closed_index, stable_opened;
    uint64_t read, transfer;
};
_Static_assert(sizeof(struct peer_paxos) == 136, "frozen layout");

/* A snapshot on its way: the retained entries in the order of their revisions, then the facts of the state machine at
 * its end. Everything in it is chosen, so it matters to nobody who leads by now. The receiver says how far it is; that
 * is where the sender goes on, after a break too. */
enum peer_snapshot_type {
    PEER_SNAPSHOT_BEGIN = 1,   /* where do you stand? */
    PEER_SNAPSHOT_ENTRIES = 2, /* `count` entries of first … upto, all that are retained of these; each is a header, its
                                  body padded to 8, and a struct peer_made with its version numbers */
    PEER_SNAPSHOT_FACTS = 3,   /* `count` facts from the one with number `first` on, each a struct peer_fact, name and
                                  value, padded to 8; all of it under the header's checksum */
    PEER_SNAPSHOT_FINISH = 4, /* that was all: `first` facts; the state is that at `upto` */
    PEER_SNAPSHOT_CANCEL = 5,
};
struct peer_snapshot {
    uint32_t type;
    uint32_t count;
    uint64_t epoch;
    uint64_t id; /* of this transfer */
    uint64_t first, upto;
    uint64_t end;    /* where it ends as far as is known by now; for status alone */
    uint64_t time;   /* FINISH: HLC of the entry at `upto` */
    uint64_t opened; /* FINISH: see core/consensus */
};
_Static_assert(sizeof(struct peer_snapshot) == 64, "frozen layout");

/* Which versions an entry made: one number for each of its operations, 0 where it made none or retention dropped it;
 * no numbers where it made nothing at all. */
struct peer_made {
    uint32_t count;
    uint32_t reserved;
};
_Static_assert(sizeof(struct peer_made) == 8, "frozen layout");

#define PEER_FACT_NAME_BYTES_MAX  64u
#define PEER_FACT_VALUE_BYTES_MAX 65536u
struct peer_fact {
    uint32_t name_size;
    uint32_t value_size;
};
_Static_assert(sizeof(struct peer_fact) == 8, "frozen layout");

enum peer_snapshot_state {
    PEER_SNAPSHOT_GOING = 0,
    PEER_SNAPSHOT_BEHIND = 1, /* something before that is missing: go on from here */
    PEER_SNAPSHOT_INSTALLED = 2,
};
struct peer_snapshot_ack {
    uint64_t epoch;
    uint64_t id;
    uint64_t position; /* all that is retained up to here is held */
    uint64_t facts;    /* so many are held */
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

/* Walk what follows a peer_snapshot: *offset counts from its end. OK fills the output; the entry's body is a fresh
 * buffer with one reference, `versions` holds WIRE_OPERATIONS_MAX numbers. INVALID, CORRUPT or MEMORY otherwise. */
enum sluice_status peer_snapshot_entry(const void *data, size_t size, size_t *offset, struct entry *out,
                                       uint64_t *versions, uint32_t *version_count) SLUICE_MUST_CHECK;
enum sluice_status peer_snapshot_fact(const void *data, size_t size, size_t *offset, struct slice *name,
                                      struct slice *value) SLUICE_MUST_CHECK;
/* One entry with its header, alone to the end of `data`; its body is a fresh buffer. */
enum sluice_status peer_entry_read(const void *data, size_t size, struct entry *out) SLUICE_MUST_CHECK;

#endif

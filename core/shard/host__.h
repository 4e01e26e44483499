/* What the files of this folder share. */
#ifndef SHARD_HOST_INTERNAL_H
#define SHARD_HOST_INTERNAL_H

#include "core/base/clock.h"
#include "core/base/drain.h"
#include "core/base/log.h"
#include "core/base/panic.h"
#include "core/base/pattern.h"
#include "core/base/random.h"
#include "core/shard/host.h"
#include "core/shard/peer.h"

/* Who waits for an entry of ours to become stable. */
struct host__pending {
    void *link; /* NULL: nobody, or the client has gone */
    uint64_t request_id;
    uint16_t type; /* WIRE_WRITE, WIRE_MAP_CHANGE; 0: free */
};

/* A value on its way into the log: gathered during a round, proposed at its end. */
struct host__queued {
    struct buf *body;
    uint32_t body_crc;
    uint16_t kind;
    struct host__pending who;
};

/* A read that can't be answered yet: it waits for a lease or for closed time. */
struct host__waiting {
    struct host__waiting *next;
    void *link;
    uint64_t deadline_ns;
    uint32_t tries;  /* repairs that it has waited for */
    uint64_t repair; /* revision: it waits until that is whole again; 0 none */
    bool asks;       /* for a round, where there is no lease */
    uint64_t round;  /* of asking a quorum, in this leadership; 0: none */
    struct wire_header header;
    size_t body_size;
    uint8_t body[] __attribute__((aligned(8)));
};

/* A reader of stable entries: a client's watch, or a feed within the process. */
struct host__reader {
    struct host__reader *next;
    struct replica *replica;
    uint64_t next_revision;
    uint32_t next_operation;
    uint64_t after_time; /* entries up to this time are not wanted */
    bool blocked;        /* its sink is full */
    bool dead;           /* to be freed at the end of the round */
    /* A client's watch. */
    void *link;
    uint64_t request_id;
    struct pattern *pattern;
    bool values, admin, announced;
    uint64_t progress_ns; /* monotonic: when the next progress is due */
    uint64_t progress_every_ns;
    uint64_t closed_sent;
    /* A feed. */
    bool is_feed;
    struct host_feed_options feed;
    uint64_t passed_sent;
};

struct host__ticket {
    uint64_t ticket;
    uint64_t sequence;
};

/* The highest ballot known to open at or before the entry at `index`. Entries say so themselves, but a snapshot may
 * have left that one out. */
struct host__opened {
    uint64_t index, ballot;
};

struct replica {
    struct host *host;
    struct replica *next;
    uint32_t group;
    uint64_t epoch;
    bool memory_only;
    bool dirty; /* records handed out since the last submit */
    bool busy;  /* in the host's list of those that a round looks at */
    struct replica *busy_next;
    uint64_t due_ns;       /* monotonic: its next tick */
    uint64_t caught_up_ns; /* when the driver was told last that a volatile replica holds everything again */
    bool leading;
    struct paxos paxos;
    struct paxos_slot *slots;
    struct entry *log; /* window of unstable entries: index & (window - 1) */
    struct host__pending *pending;
    struct versions *versions;
    struct machine *machine; /* NULL for the map group */
    struct host__queued *queued;
    uint32_t queued_count, queued_capacity;
    struct host__waiting *waiting, **waiting_tail;
    struct host__reader *readers;
    struct host__ticket *tickets; /* ring of window entries: submitted, not yet durable */
    uint32_t ticket_first, ticket_count, ticket_capacity;
    uint64_t persist_sequence;    /* highest handed to the disk in this round */
    uint64_t stable_noted;        /* stable index that the segments know of */
    uint64_t load_bytes;          /* of requests that wait here, and of entries that are not stable yet */
    uint64_t read_bytes;          /* of that, reads that wait */
    struct drain drain;           /* of the rest */
    uint32_t waiting_count;       /* reads */
    struct host__repair *repairs; /* damaged entries that others are asked for */
    uint32_t repair_count;
    struct host__sending *sendings; /* snapshots on their way to others */
    /* A snapshot that is being taken in. */
    struct {
        bool begun;
        bool flushed;       /* or asked to be, before the end */
        uint64_t id;        /* of the transfer that the facts are of */
        uint64_t position;  /* all that is kept up to here is held */
        struct bytes facts; /* that have come */
    } install;
    uint64_t compacted;                 /* entries up to here that made no version were dropped */
    uint64_t installing, installing_ns; /* where the snapshot ends that comes in, and when it was heard of last */
    uint64_t rounds_done;               /* of asking a quorum, in this leadership */
    bool stepped;                       /* in this round: perhaps the members can move on */
    struct paxos_members members;       /* as of what is applied; kept as a fact */
    struct host__opened opened;         /* at the end of the latest snapshot; kept as a fact */
};

/* What the segments held of a group that was not added yet. */
struct host__recovered {
    struct host__recovered *next;
    uint32_t group;
    uint64_t epoch;
    uint64_t promised;
    uint64_t stable;
    uint64_t lost;         /* replicas before this instance have no vote */
    uint64_t lost_since;   /* of which placement on this node that one was */
    bool left;             /* a replica of it was closed here, and is to be erased */
    struct entry *entries; /* by index - first; index 0: a hole */
    uint64_t first;
    size_t count, capacity;
};

#define REPAIRS_MAX     64u /* of one group at a time */
#define PEER_SPEECHLESS UINT8_MAX

struct host {
    struct host_env env;
    struct host_options options;
    struct pairs pairs;
    struct hlc clock;
    struct random random;
    struct replica *replicas;
    struct host__recovered *recovered;
    uint64_t ceilings_max;
    uint64_t next_tick_ns;
    uint64_t map_epoch;
    bool started;
    uint64_t heard;         /* which nodes were alive and granted leases at the last look, folded */
    uint64_t all_due_ns;    /* when all groups are looked at next */
    struct replica *busy;   /* something is queued, waits, is read or is on its way to the disk; a thousand idle groups
                               cost a round nothing */
    struct replica **table; /* by number */
    uint32_t table_size;
    bool ceilings_dirty;
    bool noted; /* records of groups that are not here wait to be handed over */
    uint64_t ceiling_sequence;
    struct host__ticket ceiling_tickets[64];
    uint32_t ceiling_ticket_first, ceiling_ticket_count;
    uint64_t load_bytes;                              /* of all groups */
    uint64_t opened;                                  /* how many groups this process has opened */
    uint64_t client_ns;                               /* when a client asked for something last */
    struct paxos_pace pace;                           /* of what replicas are sent that lag, all groups together */
    uint64_t written_bytes, written_ns, written_rate; /* proposed since written_ns; bytes a second before that */
    bool peer_added[PAIRS_NODES_MAX];
    uint8_t peer_version[PAIRS_NODES_MAX]; /* agreed with it; 0: nothing heard yet; PEER_SPEECHLESS: none */
    struct host_figures figures;
    struct paxos_effects effects; /* of the step under way */
    struct pairs_effects pairs_effects;
    struct paxos_message message; /* being received */
    struct entry received[PAXOS_MESSAGE_ENTRIES_MAX];
};

struct replica *host__replica(const struct host *self, uint32_t group);
/* A round, and what the disk has finished, concern this replica from now on. */
void host__busy(struct replica *replica);
/* Hands what was appended for the disk over, and notes who waits for it. */
void host__submit(struct host *self);
/* Something was sent to a replica that lags: when the next may be, so that others' work goes first. */
void host__pace(struct host *self, uint64_t began_ns, uint64_t bytes, uint64_t entries);
uint64_t host__now(const struct host *self);
/* Bytes that a group holds in memory on behalf of requests. Whoever holds more says so before; nothing new is taken
 * when the group or the host is over its bound, so that queues never grow without one. */
void host__load_add(struct replica *self, uint64_t bytes);
void host__load_drop(struct replica *self, uint64_t bytes);
/* Of what was loaded, so much has become stable. */
void host__drained(struct replica *self, uint64_t bytes);
bool host__load_room(const struct replica *self, uint64_t bytes);
bool host__write_room(struct replica *self, uint64_t bytes);

/* groups.c */
void group__recovered_clear(struct host__recovered *recovered);
void group__destroy(struct replica *self);
/* Durably: this replica has no vote until the members take it in anew, as this process or a later one. */
enum sluice_status group__note_lost(struct replica *self) SLUICE_MUST_CHECK;
void group__tick_all(struct host *self);

/* peers.c */
/* Sends and persists what a call of pairs left in host.pairs_effects. */
void peers__carry_out(struct host *self);
/* parts[1] is what the header's checksum covers; parts[0] is filled in. */
void peers__send(struct host *self, uint16_t node, struct peer_header *header, struct slice *parts, unsigned count);

/* replica.c */
void replica__step(struct replica *self, struct paxos_event *event, struct entry *entries,
                   const struct host__pending *who);
void replica__propose(struct replica *self);
/* Is there room for one more value? */
bool replica__takes_writes(const struct replica *self);
/* Where this replica leads: the next step towards the wanted members, if it is time. */
void replica__propose_members(struct replica *self);
/* Applies one stable entry, whatever its kind. `reply`: see host_env.map_apply. */
enum sluice_status replica__apply(struct replica *self, const struct entry *entry, struct machine_outcome *outcome,
                                  char **reply);
/* Applies a members entry over what was before; the result is kept with the versions. */
enum sluice_status replica__members_apply(struct versions *versions, struct paxos_members *members,
                                          const struct entry *entry) SLUICE_MUST_CHECK;
/* The facts that keep them, and what a snapshot that ends here says of the ballot. Values are borrowed. */
struct versions_fact replica__members_fact(const struct replica *self);
struct versions_fact replica__opened_fact(const struct host__opened *opened);
bool replica__is_members_fact(struct slice name);
/* One of these two: the rest are the state machine's. */
bool replica__is_own_fact(struct slice name);
/* Lets go of old entries that made no version, some steps at a time. */
void replica__compact(struct replica *self);
/* What was kept of these with the versions. */
enum sluice_status replica__load_facts(struct replica *self);
void replica__tick(struct replica *self);
/* What was held up to `index` to be applied was applied otherwise. */
void replica__forget_until(struct replica *self, uint64_t index);
void replica__persisted(struct replica *self, uint64_t ticket);
void replica__submitted(struct replica *self, uint64_t ticket);
/* Entry at `index`, in memory or stable, with a reference. */
enum sluice_status replica__entry(struct replica *self, uint64_t index, struct entry *out);
enum sluice_status replica__queue(struct replica *self, struct buf *body, uint32_t crc, uint16_t kind,
                                  const struct host__pending *who);
/* Is the history up to `time` complete here? Moves closed time on where this replica leads. */
bool replica__closed(struct replica *self, uint64_t time);
/* Everything up to this is closed and stable here, as far as is known without asking anybody. */
uint64_t replica__closed_time(struct replica *self);

/* serve.c */
void serve__message(struct host *self, void *link, const struct wire_header *header, const uint8_t *body);
void serve__written(struct replica *self, const struct host__pending *who, const struct entry *entry,
                    const struct machine_outcome *outcome, char *reply);
void serve__lost(struct replica *self, const struct host__pending *who);
void serve__not_leader(struct replica *self, void *link, uint64_t request_id);
void serve__send(struct host *self, void *link, const struct wire_header *header, const struct slice *parts,
                 unsigned count, struct buf *payload, uint32_t offset, uint32_t size);
struct wire_header serve__header(struct host *self, uint64_t request_id, uint32_t shard, enum sluice_status status,
                                 uint32_t flags, size_t body_size);
void serve__text(struct host *self, void *link, const struct wire_header *request, enum sluice_status status,
                 const char *text);
/* Reads what a client asks for. INVALID also where it is well-formed and not offered. */
enum sluice_status serve__query(const void *body, size_t size, const struct wire_query **query,
                                const char **why) SLUICE_MUST_CHECK;
/* What a client is told that must look elsewhere: who leads, or that nobody can. */
void serve__elsewhere(struct replica *self, void *link, uint64_t request_id);
/* A record as it goes to clients: fills `record`; the strings are the version's. */
void serve__record(const struct replica *self, const struct version *version, uint32_t carried,
                   struct wire_record *record);
enum sluice_status serve__append(struct bytes *out, const struct replica *self, const struct version *version,
                                 bool with_value);

/* read.c */
void read__serve(struct replica *self, void *link, const struct wire_header *header, const uint8_t *body);
void read__waiting(struct replica *self, uint64_t now);
void read__drop_waiting(struct replica *self, void *link);
/* Rounds of a leadership that has ended say nothing in the next one. */
void read__forget_rounds(struct replica *self);

/* snapshot.c */
void snapshot__begin(struct replica *self, uint16_t node);
void snapshot__pump(struct replica *self, uint64_t now);
uint64_t snapshot__next_ns(const struct replica *self);
void snapshot__acknowledged(struct replica *self, uint16_t from, const struct peer_snapshot_ack *ack);
void snapshot__drop_all(struct replica *self);
uint64_t snapshot__receivers(const struct replica *self);

/* install.c */
void install__message(struct replica *self, uint16_t from, const void *data, size_t size);
/* Forgets about what was being taken in; what the versions have of it is found again. */
void install__drop(struct replica *self);

/* repair.c */
/* Asks another replica for a damaged entry. False: there is nobody to ask. */
bool repair__want(struct replica *self, uint64_t revision);
bool repair__pending(const struct replica *self, uint64_t revision);
void repair__pump(struct replica *self, uint64_t now);
uint64_t repair__next_ns(const struct replica *self);
void repair__message(struct replica *self, uint16_t from, uint8_t kind, const void *data, size_t size);
void repair__drop_all(struct replica *self);

/* watch.c */
void watch__start(struct replica *self, void *link, const struct wire_header *header, const struct wire_query *query);
void watch__cancel(struct host *self, void *link, uint64_t request_id);
void watch__link_down(struct host *self, void *link);
void watch__writable(struct host *self, void *link);
/* Moves all readers of the replica on, as far as their sinks take it. */
void watch__pump(struct replica *self, uint64_t now);
void watch__end_all(struct replica *self, enum sluice_status status, const char *why);
uint64_t watch__next_ns(const struct replica *self);

#endif

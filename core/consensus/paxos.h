/* Multi-Paxos over a contiguous log: one group's replica as a pure step function (Lamport, "The Part-Time Parliament"
 * and "Paxos Made Simple"; phase 1 once per ballot for the whole suffix).
 *
 * Pure: reads no clock, opens no socket, takes no lock, allocates nothing. Time is an event's field. The caller carries
 * out the effects in order; an effect that needs the disk names a sequence, and messages that depend on it are only
 * emitted once the caller has reported PAXOS_EVENT_PERSISTED for it, so "persist before send" cannot be forgotten.
 *
 * Values live with the caller, in a log addressed by index; consensus keeps index, ballot and time of the unstable
 * suffix alone. Writing (0, stable], the caller's log may answer from a store; (stable, last] it must hold in memory.
 */
#ifndef CONSENSUS_PAXOS_H
#define CONSENSUS_PAXOS_H

#include <stdbool.h>
#include <stdint.h>

#include "api/sluice_status.h"
#include "core/consensus/pairs.h"

#define PAXOS_REPLICAS_MAX        7 /* voters of a group */
#define PAXOS_NODES_MAX           PAIRS_NODES_MAX
#define PAXOS_INSTANCE_BITS       20  /* below the incarnation: how many replicas of a group a process may open */
#define PAXOS_AUDIENCE_MAX        12  /* voters and learners that one leader feeds */
#define PAXOS_MESSAGE_ENTRIES_MAX 256 /* entries in one message */
#define PAXOS_MESSAGE_BYTES_MAX   (1u << 20) /* a message carries at least one entry, and further ones up to this */

/* A ballot is round << 16 | node; 0 is "none". */
static inline uint16_t paxos_ballot_node(uint64_t ballot)
{
    return (uint16_t)(ballot & 0xffff);
}

/* A set of nodes, 1 … 63. */
static inline uint64_t paxos_mask(uint16_t node)
{
    return UINT64_C(1) << (node & 63);
}

static inline uint32_t paxos_mask_count(uint64_t mask)
{
    uint32_t count = 0;
    for (; mask != 0; mask &= mask - 1)
        count++;
    return count;
}

/* Who votes, by the log up to some index. */
struct paxos_members {
    uint64_t voters;                        /* a mask; 0: not known yet, this replica only learns */
    uint64_t index;                         /* of the entry that it stems from; 0: the group began with it */
    uint64_t instances[PAXOS_REPLICAS_MAX]; /* of each voter in the order of the nodes, as it was when it was added:
                                                  an older replica of it has no vote. 0: any */
};
/* What the members entry at `index` makes of them: `instance` is that of the replica that it adds. */
void paxos_members_apply(struct paxos_members *self, uint64_t voters, uint64_t instance, uint64_t index);
/* The instance that a voter must have at least; UINT64_MAX where it is none. */
uint64_t paxos_members_instance(const struct paxos_members *self, uint16_t node);

struct paxos_slot {
    uint64_t ballot; /* under which the entry was accepted here */
    uint64_t time;   /* HLC given by the leader that first proposed it; survives adoption */
    uint32_t size;   /* bytes of the value, for batching */
    uint32_t flags;
    uint64_t opened;   /* the highest ballot known to begin its log at or before this index; see election.c */
    uint64_t sequence; /* on disk once the caller has reported this one; 0: it is */
    uint64_t members;  /* a members entry: the voters from the next index on; 0: another entry */
    uint64_t members_instance;
};

enum paxos_message_type {
    PAXOS_PREVOTE = 1, /* would you promise `ballot`? Changes nothing at the receiver */
    PAXOS_PREVOTE_REPLY,
    PAXOS_PREPARE,  /* phase 1a: promise `ballot`, report what was accepted from `first` on */
    PAXOS_PROMISE,  /* phase 1b: entries from `first` on, in pages; `last` says where they end */
    PAXOS_ACCEPT,   /* phase 2a; with no entries it is a heartbeat or a probe */
    PAXOS_ACCEPTED, /* phase 2b, cumulative */
    PAXOS_REJECT,   /* the receiver has promised `ballot`; the sender's was lower (or a lease runs: granted = false) */
    PAXOS_TRANSFER, /* the leader of `ballot` has ceased to lead and to read: the receiver should stand */
};

/* One entry within a message: the slot's facts; the value travels beside it. */
struct paxos_message_entry {
    uint64_t ballot; /* PROMISE: accepted under; UINT64_MAX where it is known chosen. ACCEPT: equals the message's */
    uint64_t time;
    uint64_t opened;
    uint64_t members;
    uint64_t members_instance;
    uint32_t size;
    uint32_t flags;
};

struct paxos_message {
    uint8_t type;
    bool granted; /* PREVOTE_REPLY */
    bool learner; /* ACCEPTED: the sender has lost its memory and must not be counted */
    bool lost;    /* ACCEPT: the receiver has lost what it had acknowledged, as the leader saw */
    uint16_t from;
    uint32_t entry_count; /* entries first … first + entry_count - 1 follow */
    uint64_t epoch;       /* of the group; others are ignored */
    uint64_t ballot;
    uint64_t first;       /* PREPARE, PROMISE, ACCEPT: index of the first entry; ACCEPT without entries: last + 1 of the
                             leader's view of the receiver */
    uint64_t last;        /* the sender's last index (PREVOTE, PROMISE, ACCEPT) */
    uint64_t stable;      /* the sender's stable index */
    uint64_t received;    /* ACCEPTED: in memory up to here under `ballot` */
    uint64_t persisted;   /* ACCEPTED: on disk up to here under `ballot` */
    uint64_t incarnation; /* of the sender */
    uint64_t instance, since;  /* of the sender: see paxos_options */
    uint64_t peer_incarnation; /* of the receiver as the sender knows it */
    uint64_t whole_from;       /* of an amnesiac: see paxos_options; 0: it has forgotten nothing ever */
    uint64_t defections;       /* PROMISE, ACCEPTED: see pairs.h */
    uint64_t stable_opened;    /* PROMISE: the `opened` of the sender's stable entry */
    uint64_t ceiling;          /* PROMISE */
    uint64_t closed_time;      /* ACCEPT: the leader promises nothing at or below this beyond closed_index */
    uint64_t closed_index;
    uint64_t read;     /* ACCEPT: the newest read round; ACCEPTED: the newest that was heard of under this ballot */
    uint64_t transfer; /* REJECT of an ACCEPTED: the sender's ballot that it has given up. PREPARE: the ballot whose
                          leader asked the sender to stand, having released its leases */
    struct paxos_message_entry entries[PAXOS_MESSAGE_ENTRIES_MAX];
};

enum paxos_event_type {
    PAXOS_EVENT_TICK, /* time passes, or a peer's state in `pairs` changed */
    PAXOS_EVENT_MESSAGE,
    PAXOS_EVENT_PROPOSE,   /* leader only: `count` values; refused with AGAIN when the window is full, NOT_LEADER
                              otherwise */
    PAXOS_EVENT_PERSISTED, /* everything handed out up to `sequence` is on stable storage */
    PAXOS_EVENT_CAMPAIGN,  /* stand for election now, for the preferred leader of a new group */
    PAXOS_EVENT_ADMIT,     /* a volatile replica that had lost its memory is a voter again (the map group said so) */
    PAXOS_EVENT_TRANSFER,  /* leader: hand over to `node`, or (0) to whoever holds most. Nothing can be proposed
                              meanwhile;  it goes on leading where the other does not keep up. NOT_LEADER; AGAIN: nobody
                              fits */
    PAXOS_EVENT_READ,      /* leader: begins a read round, `read_sequence`; PAXOS_EFFECT_READ answers. NOT_LEADER */
    PAXOS_EVENT_COMPACT,   /* entries up to `index` can't be fed any more; INVALID within a window of the stable one */
    PAXOS_EVENT_SNAPSHOT_ENDED, /* leader: the snapshot for `node` was handed over, or given up */
    PAXOS_EVENT_INSTALLED, /* follower: `snapshot` has taken the place of the log up to its index. INVALID elsewhere */
};

/* What a snapshot says of its last entry. */
struct paxos_snapshot {
    uint64_t index;
    uint64_t time;
    uint64_t opened;
    struct paxos_members members;
};

struct paxos_proposal {
    uint64_t time; /* strictly above paxos_time_floor and rising */
    uint32_t size;
    uint32_t flags;   /* carried unread */
    uint64_t members; /* what paxos_next_members said; such a proposal comes alone */
    uint64_t members_instance;
};

struct paxos_event {
    enum paxos_event_type type;
    uint64_t now_ns; /* monotonic */
    uint64_t time;   /* HLC, for the no-op that opens a ballot */
    const struct paxos_message *message;
    const struct paxos_proposal *proposals;
    uint32_t proposal_count; /* at most PAXOS_MESSAGE_ENTRIES_MAX */
    uint64_t sequence;
    uint64_t index;
    uint16_t node;
    const struct paxos_snapshot *snapshot;
};

enum paxos_effect_type {
    PAXOS_EFFECT_STORE, /* place values [source, source + count) of the event at log[first …]; on disk too if sequence
                           is not 0 */
    PAXOS_EFFECT_STORE_NOOP, /* place an empty value at log[first], on disk too */
    PAXOS_EFFECT_REWRITE, /* values log[first … first + count) stay, but are now accepted under `ballot`: on disk again
                           */
    PAXOS_EFFECT_PERSIST_PROMISE, /* `ballot` is promised: on disk */
    PAXOS_EFFECT_SEND,            /* `message` to `node`; its entries' values are log[message.first …] */
    PAXOS_EFFECT_STABLE,          /* the log is chosen, and durable as the pool promises, up to `first`: apply it */
    PAXOS_EFFECT_RECEIVED,        /* leader: a quorum has it in memory up to `first` */
    PAXOS_EFFECT_LEADING,   /* this replica leads under `ballot` and its opening no-op is stable: reads may begin */
    PAXOS_EFFECT_FOLLOWING, /* it no longer leads (answer what is in flight with OUTCOME_UNKNOWN), or the leader changed
                               to `node` (0: unknown) */
    PAXOS_EFFECT_CAUGHT_UP, /* a volatile replica that had lost its memory holds all that it may ever have acknowledged:
                               ask for ADMIT */
    PAXOS_EFFECT_MEMBERS,   /* after the STABLE that brought it: self.members changed by the entry `first` */
    PAXOS_EFFECT_READ,      /* read rounds up to `sequence` are done: such reads may be answered from what is stable */
    PAXOS_EFFECT_SNAPSHOT,  /* leader: `node` lacks entries that can't be fed (or too many): send it a snapshot, and say
                               SNAPSHOT_ENDED; until then it gets no entries */
    PAXOS_EFFECT_LOST,      /* this replica has lost what it had acknowledged: it has no vote until it was removed and
                               added again, across restarts too (options.amnesiac) */
};

struct paxos_effect {
    enum paxos_effect_type type;
    uint16_t node;
    uint32_t source;
    uint32_t count;
    uint64_t first;
    uint64_t ballot;
    uint64_t sequence; /* for the disk; rises by one with each effect that needs it; 0 where none is needed */
    uint32_t message;  /* SEND: index into paxos_effects.messages */
};

#define PAXOS_EFFECTS_MAX         64
#define PAXOS_EFFECT_MESSAGES_MAX 24
struct paxos_effects {
    uint32_t count;
    uint32_t message_count;
    struct paxos_effect items[PAXOS_EFFECTS_MAX];
    struct paxos_message messages[PAXOS_EFFECT_MESSAGES_MAX];
};

/* When the next page of what is chosen already may be sent to a follower that lags, whichever group it is of: shared by
 * the groups of a node, and moved on by the caller by what the last page cost. */
struct paxos_pace {
    uint64_t due_ns;
};

struct paxos_options {
    uint16_t node;
    uint64_t epoch;
    uint16_t replicas[PAXOS_REPLICAS_MAX]; /* the members that the group began with; none: the log will tell */
    uint32_t replica_count;
    /* This replica among all that its node ever opens of the group: rises with each. Its upper bits are the process's
     * incarnation; 0: the first one of the process. */
    uint64_t instance;
    uint64_t since;     /* which placement on this node it is, as the cluster map counts them */
    uint16_t preferred; /* who campaigns first in a group that never had a ballot */
    bool memory_only;   /* volatile pool: entries count when received, only promises go to disk */
    /* amnesiac: the instance from which on this node's replicas have forgotten nothing; 0: this one. */
    uint64_t whole_from;
    bool amnesiac;               /* it may have lost what it acknowledged: a learner until ADMIT (memory_only), or until
                                    it was removed from the members and added again as a replica since whole_from */
    bool forgot;                 /* memory_only, amnesiac: it may also have promised what it does not know of; see
                                    election__admit */
    uint64_t election_ns;        /* base of the randomised election time-out, 150 ms */
    uint64_t resend_ns;          /* an unacknowledged suffix is sent again after this, 50 ms */
    uint32_t window;             /* slots: entries that may be unstable at once; a power of two */
    uint32_t follower_bytes_max; /* unacknowledged bytes per follower; who has so many is sent nothing more until it
                                    has acknowledged them all; 0: no bound */
    const struct paxos_pace *pace; /* outlives the group; NULL: as fast as it takes them */
    uint64_t behind_max; /* entries; a follower that lacks more gets a snapshot; 0: entries as long as there are */
    uint64_t seed;       /* for election time-outs */
};

/* What was on disk at start. */
struct paxos_recovered {
    uint64_t promised;
    uint64_t stable;              /* known chosen (what the store has applied) */
    uint64_t last;                /* stable <= last; slots for (stable, last] are given to paxos_recover_slot */
    uint64_t stable_time;         /* HLC of the stable entry */
    uint64_t stable_opened;       /* and its `opened` */
    struct paxos_members members; /* as of the stable entry; no voters: those of the options */
    uint64_t compacted;           /* entries up to here can't be fed */
};

/* What a leader or candidate knows of another node. */
struct paxos_follower {
    uint64_t next;  /* match < next */
    uint64_t match; /* persisted (memory_only: received) under our ballot; 0 <= match < next */
    uint64_t received;
    uint64_t sent_ns;     /* of the last ACCEPT */
    uint64_t stable;      /* its own, as it said last */
    uint64_t sent_stable; /* the stable index that it was told last */
    uint64_t incarnation, instance, whole_from;
    uint64_t defections;   /* with its latest acknowledgement of our ballot */
    uint32_t unanswered;   /* probes in a row */
    bool acknowledged;     /* it acknowledged our ballot */
    bool learner;          /* it says that it has lost its memory */
    bool lost;             /* it acknowledged less than its former process did */
    bool probing;          /* next is a guess */
    bool snapshot;         /* the caller sends it one */
    bool paging;           /* a page of what is chosen is on its way, and it did not say yet that it has it */
    bool paced;            /* it would be its turn, but for options.pace */
    uint64_t flight_bytes; /* sent since nothing was unacknowledged */
    uint64_t read;         /* the newest read round that it echoed */
    uint64_t vote_next;    /* candidate: the next index to ask for */
};

enum paxos_role { PAXOS_FOLLOWER, PAXOS_PRECANDIDATE, PAXOS_CANDIDATE, PAXOS_LEADER };

struct paxos {
    struct paxos_options options;
    struct pairs *pairs;      /* shared by the node's groups */
    struct paxos_slot *slots; /* caller's memory, options.window of them */
    enum paxos_role role;
    uint64_t promised; /* promised >= any ballot accepted */
    uint64_t promised_durable;
    uint64_t ballot; /* candidate or leader: ours; follower: the one that `match` speaks of */
    uint16_t leader; /* 0 unknown */
    uint64_t leader_incarnation;
    uint64_t stable; /* 0 <= stable <= last */
    uint64_t last;
    uint64_t waiting_ns;  /* leader: since when nothing became stable although something waits for it */
    uint64_t stable_time; /* HLC of the stable entry */
    uint64_t stable_opened;
    uint64_t opened_seen; /* candidate: the highest of its quorum */
    uint64_t last_time;   /* highest HLC in the log */
    uint64_t time_floor;  /* a leader's next time is above this: last_time, ceilings, closed time */
    uint64_t match;       /* follower: chosen, or accepted under `ballot`, up to here */
    uint64_t match_durable;
    uint64_t opened;   /* leader: what must be stable under its ballot before it reads */
    bool leading;      /* LEADING was emitted */
    uint64_t sequence; /* disk sequences handed out */
    uint64_t sequence_durable;
    uint64_t closed_time; /* 0 none */
    uint64_t closed_index;
    uint64_t closed_ballot;
    uint64_t election_at_ns;
    uint64_t heard_now_ns;   /* when the last step was */
    uint64_t quorum_lost_ns; /* leader: since when no quorum was heard; 0 heard */
    uint64_t random;
    uint64_t highest_seen;                            /* ballot */
    struct paxos_follower followers[PAXOS_NODES_MAX]; /* by node */
    struct paxos_members members;                     /* as of the stable index; they govern what follows it */
    uint64_t members_highest;                         /* no members entry that is not stable lies beyond */
    uint64_t leaving;                                 /* leader: removed, and to be told so */
    uint64_t wanted;                                  /* where the cluster map wants the group; 0: leave it */
    uint64_t since[PAXOS_NODES_MAX];                  /* of those: their placements */
    uint64_t standing;                                /* ballot asked for in a pre-vote */
    uint64_t released;                                /* the ballot whose leader asked us to stand */
    uint64_t asked, votes;                            /* candidate: masks of nodes */
    uint64_t stalled;                                 /* of those asked: who has more to tell than there is room for */
    uint64_t promise_sequence;                        /* of the latest PERSIST_PROMISE */
    uint64_t acknowledged;                            /* highest ballot that this process sent an ACCEPTED for */
    uint64_t acknowledged_incarnation;                /* and to which process of its owner */
    uint64_t promise_acknowledged;                    /* follower: durable promise at the time of the last ACCEPTED */
    uint16_t promise_to;                              /* whom to send a PROMISE once it is durable; 0 nobody */
    uint64_t promise_first;
    uint64_t promise_stable;
    uint64_t compacted;
    uint16_t transfer_to; /* leader: nothing is proposed until it has taken over, or transfer_until_ns */
    uint64_t transfer_until_ns;
    uint64_t read_sequence, read_done; /* leader: rounds begun and done */
    uint64_t read_heard;               /* follower: the newest under `ballot` */
};

/* `slots` holds options->window zeroed items and outlives self; they are not touched before they are used, so that an
 * idle group's cost no memory. SLUICE_INVALID for impossible options. */
enum sluice_status paxos_init(struct paxos *self, const struct paxos_options *options, struct pairs *pairs,
                              struct paxos_slot *slots, const struct paxos_recovered *recovered,
                              uint64_t now_ns) SLUICE_MUST_CHECK;
/* After init, before the first step: the facts of entry `index`, which is on disk; called for each of (stable, last] in
 * order. */
void paxos_recover_slot(struct paxos *self, uint64_t index, const struct paxos_slot *slot);

/* One event in, effects out (cleared first). Errors: INVALID (a message that no correct peer sends), NOT_LEADER, AGAIN.
 * Nothing changed then. */
enum sluice_status paxos_step(struct paxos *self, const struct paxos_event *event,
                              struct paxos_effects *effects) SLUICE_MUST_CHECK;

/* After a PAXOS_EFFECT_SEND of entries of which the first is stable: how many of them were sent, for only the caller
 * knows the sizes of those, and how many bytes they had. */
void paxos_fed(struct paxos *self, uint16_t node, uint64_t first, uint32_t count, uint64_t bytes);

/* When the next TICK is due at the latest (monotonic). Idle groups are driven by pairs alone and answer far in the
 * future. */
uint64_t paxos_next_tick_ns(const struct paxos *self);

/* Where the cluster map wants the group, told to every replica: whoever leads feeds the nodes of `wanted` that don't
 * vote as learners. 0: the members are left as they are. `since` (by node; NULL: all 0) are their placements: what a
 * replica of another placement on the same node says counts for nothing, for its data may be gone. False: it is what
 * was wanted before. */
bool paxos_set_wanted(struct paxos *self, uint64_t wanted, const uint64_t since[PAXOS_NODES_MAX]);
/* Leader: the one step that is right to propose now on the way to what is wanted. A voter that has lost its memory is
 * removed, a learner that holds all but the last quarter of a window is added, a voter that is not wanted is removed
 * once all that are wanted vote; the leader itself hands over first. False: none. */
bool paxos_next_members(const struct paxos *self, uint64_t *voters, uint64_t *instance);
/* Are the members what they are going to be? No change of them is in the log, and an entry behind the last one is
 * stable: whoever left may forget what it held. Who is about to be added must not, and is not told yet that it is. */
bool paxos_settled(const struct paxos *self);
/* Leader: whom it feeds without their vote. */
uint64_t paxos_learners(const struct paxos *self);

/* Does this replica lead and hold a lease of a quorum at `now_ns`, so that its applied state answers linearizable
 * reads? */
bool paxos_lease_valid(const struct paxos *self, uint64_t now_ns);
/* Times of proposals must be above this. */
uint64_t paxos_time_floor(const struct paxos *self);
/* Leader: closes time as far as min(`time`, ceiling held by a quorum) allows and returns it; closed_index tells up to
 * where a replica must be stable to serve it. Returns the former closed time when nothing can be closed. Never goes
 * back. */
uint64_t paxos_close_time(struct paxos *self, uint64_t time);
/* Room left in the window: how many values may be proposed now. 0 when not leading. */
uint32_t paxos_room(const struct paxos *self);

/* Quorum arithmetic as pure functions (quorum.c): the highest value that at least a majority of `count` reaches. */
uint64_t quorum_reached(const uint64_t *values, uint32_t count);
static inline uint32_t quorum_size(uint32_t replicas)
{
    return replicas / 2 + 1;
}

#endif

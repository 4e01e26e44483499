/* What one node holds with each other node, for all groups at once: liveness, leases, and the ceiling of closed time.
 *
 * Every node sends a beat to every other; an acknowledged beat is a lease: for its duration the voter promises no other
 * ballot in any group whose promised ballot belongs to the beat's sender. The sender counts from when it sent,
 * shortened by the clocks' drift bound; the voter counts from when it received (Gray and Cheriton, 1989; Raft
 * thesis, 6.4.1).
 *
 * A lease covers a pair of nodes, not a group, so the voter may meanwhile have promised a rival's ballot in one group.
 * `defections` closes that gap: the voter counts, per peer, how often it left one of that peer's ballots for another's.
 * Every acknowledgement carries the count; a leader relies on a voter in a group only while the voter's latest count
 * equals the one that came with the voter's acknowledgement of the leader's ballot in that group. The count is bound to
 * the voter's incarnation, so neither loss, doubling, reordering nor a restart can make an old one look new.
 *
 * The ceiling (closed time): a leader may close time only up to a ceiling that a quorum holds durably, under the same
 * rule. */
#ifndef CONSENSUS_PAIRS_H
#define CONSENSUS_PAIRS_H

#include <stdbool.h>
#include <stdint.h>

#include "api/sluice_status.h"

#define PAIRS_NODES_MAX 64 /* node identities are 1 … 63 */

struct pairs_options {
    uint16_t node;
    uint64_t incarnation;   /* this process's start, unique and increasing per node */
    uint64_t lease_ns;      /* 60 ms while busy */
    uint64_t beat_ns;       /* 20 ms while busy */
    uint64_t idle_lease_ns; /* 300 ms: after `idle_after_ns` without work beats slow down, so that idle means idle */
    uint64_t idle_beat_ns;  /* 100 ms */
    uint64_t idle_after_ns;
    uint32_t drift_ppm;        /* bound on the difference between two nodes' monotonic clock rates */
    uint64_t ceiling_ahead_ns; /* 250 ms at most */
};

/* One beat or its acknowledgement. Fixed layout on the wire is the caller's business. */
struct pairs_message {
    uint8_t type;              /* enum pairs_message_type */
    uint64_t incarnation;      /* of the sender */
    uint64_t peer_incarnation; /* of the receiver, as the sender knows it; 0 when unknown */
    uint64_t sent_ns;          /* beat: sender's monotonic clock; acknowledgement: echo of the beat's */
    uint64_t lease_ns;         /* asked for / granted (0: not granted, e.g. within one lease of a restart) */
    uint64_t
        ceiling; /* beat: wanted (HLC, 0 none); acknowledgement: the highest of the receiver's that is durable here */
    uint64_t defections; /* acknowledgement: see above */
    uint64_t time;       /* sender's HLC */
};
enum pairs_message_type { PAIRS_BEAT = 1, PAIRS_BEAT_ACK = 2 };

struct pairs_peer {
    bool known;           /* part of the cluster */
    bool dead;            /* the operating system proved the death of `incarnation` */
    bool silent;          /* no beat for a lease */
    bool suspected;       /* its connection closed: a hint, elections may start, leases still hold */
    uint64_t incarnation; /* the latest seen; 0 none */
    uint64_t heard_ns;    /* monotonic time of its latest beat or acknowledgement */
    /* As voter for the peer. */
    uint64_t granted_until_ns;
    uint64_t defections;
    uint64_t ceiling_durable; /* of this peer's closings, durable here */
    uint64_t ceiling_pending; /* handed to the disk */
    uint64_t ceiling_sequence;
    bool ceiling_news; /* it became durable since the last acknowledgement */
    /* As leader towards the peer. */
    uint64_t lease_until_ns;
    uint64_t their_defections;
    uint64_t their_ceiling; /* ours, durable there */
    uint64_t next_beat_ns;
};

struct pairs {
    struct pairs_options options;
    uint64_t started_ns;
    uint64_t work_ns;             /* last time that pairs_work was called */
    uint64_t ceiling_wanted;      /* ours, announced */
    uint64_t ceiling_own_durable; /* ours, durable on this node */
    uint64_t ceiling_own_pending;
    uint64_t ceiling_own_sequence;
    uint64_t sequence;        /* of records handed to the disk */
    uint64_t ceiling_highest; /* of anyone's, durable or pending here: what a promise reports */
    struct pairs_peer peers[PAIRS_NODES_MAX];
};

struct pairs_effect {
    enum { PAIRS_EFFECT_SEND, PAIRS_EFFECT_PERSIST_CEILING } type;
    uint16_t node;                /* SEND: to; PERSIST_CEILING: whose ceiling */
    struct pairs_message message; /* SEND */
    uint64_t ceiling;             /* PERSIST_CEILING: report pairs_persisted(sequence) when it is on disk */
    uint64_t sequence;
};
#define PAIRS_EFFECTS_MAX (2 * PAIRS_NODES_MAX + 2)
struct pairs_effects {
    uint32_t count;
    struct pairs_effect items[PAIRS_EFFECTS_MAX];
};

/* All functions are pure in the sense of paxos.h. `now_ns` is the monotonic clock, `time` this node's HLC.
 * `ceilings_max` is the highest ceiling found in the log at start. */
void pairs_init(struct pairs *self, const struct pairs_options *options, uint64_t now_ns, uint64_t ceilings_max);
void pairs_set_member(struct pairs *self, uint16_t node, bool member);
/* Carry on: send due beats. `*next_ns` is when to call again at the latest. */
void pairs_tick(struct pairs *self, uint64_t now_ns, uint64_t time, struct pairs_effects *effects, uint64_t *next_ns);
/* SLUICE_INVALID for a message that no correct peer sends; nothing is changed then. */
enum sluice_status pairs_receive(struct pairs *self, uint16_t from, const struct pairs_message *message,
                                 uint64_t now_ns, uint64_t time, struct pairs_effects *effects) SLUICE_MUST_CHECK;
void pairs_persisted(struct pairs *self, uint64_t sequence);
/* `proof`: the operating system says that the process of that incarnation has ended. Otherwise only its connection
 * closed. What is told late of a process that another has followed since is nothing. */
void pairs_peer_down(struct pairs *self, uint16_t node, uint64_t incarnation, bool proof);
/* There is client work: keep leases short and fresh. The first call after idling makes beats due at once. */
void pairs_work(struct pairs *self, uint64_t now_ns);
/* Wants to be able to close `time`. The next tick announces a ceiling ahead of the wall clock by ceiling_ahead_ns, and
 * none beyond that: a new leader's times begin above all ceilings, and ceilings counted from the times of leaders,
 * election after election, would run away from the clocks. A later time waits until the clock comes near it. */
void pairs_want_ceiling(struct pairs *self, uint64_t time, uint64_t wall);

/* Voter's side: may this node promise a ballot of somebody else where `holder` owns the promised one? */
bool pairs_grant_runs(const struct pairs *self, uint16_t holder, uint64_t now_ns);
/* Voter's side: this process began less than one lease ago, and does not know what its former self granted. */
bool pairs_fresh(const struct pairs *self, uint64_t now_ns);
/* Voter's side: is the owner of a ballot worth waiting for? `incarnation`: the one that led when last heard in the
 * group (0 any). */
bool pairs_alive(const struct pairs *self, uint16_t node, uint64_t incarnation, uint64_t now_ns);
/* Voter's side: called by paxos when it leaves a ballot of `holder` for another node's. */
void pairs_defect(struct pairs *self, uint16_t holder);

#endif

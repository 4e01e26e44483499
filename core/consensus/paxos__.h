/* What the files of this folder share. */
#ifndef CONSENSUS_PAXOS_INTERNAL_H
#define CONSENSUS_PAXOS_INTERNAL_H

#include "core/base/panic.h"
#include "core/consensus/paxos.h"

/* One step under way. */
struct step {
    struct paxos *self;
    const struct paxos_event *event;
    struct paxos_effects *effects;
    uint64_t now;
};

struct paxos_slot *paxos__slot(const struct paxos *self, uint64_t index);
/* What a message says of an entry that is not stable. */
struct paxos_message_entry paxos__told(const struct paxos *self, uint64_t index, uint64_t ballot);
struct paxos_effect *paxos__effect(struct step *step, enum paxos_effect_type type);
/* A message to `node` with the sender's facts filled in. */
struct paxos_message *paxos__send(struct step *step, uint16_t node, enum paxos_message_type type, uint64_t ballot);
/* What is known of ballots that opened at or before `index`, here or by an entry that says `opened`. */
uint64_t paxos__opened(const struct paxos *self, uint64_t index, uint64_t opened);
uint64_t paxos__random(struct paxos *self, uint64_t bound);
void paxos__note_time(struct paxos *self, uint64_t time);
/* stable rises to `index`. */
void paxos__stable(struct step *step, uint64_t index);
/* How far the log is on disk under the ballot that `match` speaks of. True when it moved. */
bool paxos__advance_durable(struct paxos *self);
/* The highest index that the ring has room for. */
uint64_t paxos__index_max(const struct paxos *self);

/* members.c */
bool members__possible(uint64_t voters);
/* May one set follow the other? */
bool members__step(uint64_t from, uint64_t to);
bool members__votes(const struct paxos *self, uint16_t node);
/* Leader: has the voter lost what it acknowledged, by its latest word or ours? Not one that was added after its loss:
 * its latest word may be of the time before it heard of that. */
bool members__lacks(const struct paxos *self, uint16_t node);
/* Who decides on the entry at `end`. */
void members__governing(const struct paxos *self, uint64_t end, struct paxos_members *out);
/* The slot at `index` was written. */
void members__note(struct paxos *self, uint64_t index);
/* The first members entry that is not stable; 0 none. */
uint64_t members__pending(const struct paxos *self);
/* The members entry at `index` has become stable. */
void members__stable(struct step *step, uint64_t index);
/* The highest value that a quorum of the voters reaches. */
uint64_t members__reached(const struct paxos *self, const uint64_t by_node[PAXOS_NODES_MAX]);
/* Is a quorum of `voters` among the nodes? */
bool members__quorum(uint64_t voters, uint64_t nodes);
/* All others that a leader feeds. */
uint64_t members__audience(const struct paxos *self);

/* handover.c */
enum sluice_status handover__begin(struct step *step);
void handover__progress(struct step *step);
/* The last voter that is not wanted is the leader itself. */
void handover__if_unwanted(struct step *step);
void handover__resign(struct step *step);
void handover__take(struct step *step, const struct paxos_message *message);

/* election.c */
void election__timer(struct paxos *self, uint64_t now, uint64_t base);
void election__tick(struct step *step);
void election__start(struct step *step);
void election__prevote(struct step *step, const struct paxos_message *message);
void election__prevote_reply(struct step *step, const struct paxos_message *message);
void election__prepare(struct step *step, const struct paxos_message *message);
void election__promise(struct step *step, const struct paxos_message *message);
void election__persisted(struct step *step);
void election__admit(struct step *step);
/* Gives up leading or standing; `ballot` was seen above ours. */
void election__step_down(struct step *step);
/* Phase 1a under `standing`. */
void election__stand(struct step *step);
/* Moves to a ballot of another node: promised, on disk, and counted as a defection from the former owner. */
void election__leave_for(struct step *step, uint64_t ballot);

/* leader.c */
void leader__begin(struct step *step);
void leader__tick(struct step *step);
enum sluice_status leader__propose(struct step *step);
void leader__accepted(struct step *step, const struct paxos_message *message);
void leader__persisted(struct step *step);
uint64_t leader__next_tick(const struct paxos *self);
enum sluice_status leader__read(struct step *step);
/* Does this voter's acknowledgement of our ballot count? */
bool leader__counts(const struct paxos *self, uint16_t node);
/* The last index of the log that a candidate must take over; what lies beyond was not chosen. */
uint64_t leader__end(const struct paxos *self);

/* feed.c */
/* One ACCEPT from the follower's next index on. */
void feed__accept(struct step *step, uint16_t node, bool with_entries);
void feed__meet(struct paxos *self, uint16_t node);
void feed__meet_new(struct paxos *self, uint64_t audience);
void feed__node(struct step *step, uint16_t node);
void feed__all(struct step *step);
/* A node that was removed is fed until it knows. */
void feed__tell(struct step *step, uint16_t node);
/* What an ACCEPTED says of where its sender stands. */
void feed__answered(struct paxos *self, const struct paxos_message *message);
void feed__tick(struct step *step);
uint64_t feed__next_tick(const struct paxos *self);

/* follower.c */
void follower__accept(struct step *step, const struct paxos_message *message);
void follower__persisted(struct step *step);
/* Asks the leader that this replica stands by whether it still leads: it may live, and lead no more. */
void follower__ask(struct step *step);
/* The owner of the ballot says that it leads under it no more, and never will again: that ends its leases here. */
void follower__disclaimed(struct step *step, const struct paxos_message *message);
enum sluice_status follower__installed(struct step *step);

#endif

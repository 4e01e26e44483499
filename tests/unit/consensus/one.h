/* One replica, node 1 of three, stepped by hand: what it is told, and what it says. For the tests of this folder. */
#ifndef TESTS_UNIT_CONSENSUS_ONE_H
#define TESTS_UNIT_CONSENSUS_ONE_H

#include "core/consensus/paxos.h"

#define MS     UINT64_C(1000000)
#define WINDOW 16u

extern struct pairs pairs;
extern struct paxos self;
extern struct paxos_effects effects; /* of the latest step */
extern uint64_t now;
extern struct paxos_pace pace;

/* A group that never had a ballot; for .init of a suite. */
void open_paxos(void);
enum sluice_status step(struct paxos_event event);
enum sluice_status receive(struct paxos_message message);
/* The disk has all that it was given. */
void persist(void);

/* The first effect of its type, and the first message of its type to a node, of the latest step; NULL: none. */
const struct paxos_effect *effect(enum paxos_effect_type type);
const struct paxos_message *sent(uint16_t node, enum paxos_message_type type);

/* The first replica that a process opens. */
uint64_t process(uint64_t incarnation);
uint64_t ballot(uint64_t round, uint16_t node);
/* Messages of a node's first process. `accept`: entries of its own ballot. */
struct paxos_message from(uint16_t node, enum paxos_message_type type, uint64_t ballot);
struct paxos_message accept(uint16_t node, uint64_t round, uint64_t first, uint32_t count);

/* A beat of the node is heard. */
void grant(uint16_t node);
/* Node 1 is elected with the vote of node 2. */
void lead(void);
/* The node has everything up to `index` on its disk, under our ballot. */
void accepted(uint16_t node, uint64_t index);

#endif

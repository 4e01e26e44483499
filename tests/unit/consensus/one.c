#include "tests/unit/consensus/one.h"

#include <criterion/criterion.h>
#include <string.h>

struct pairs pairs;
struct paxos self;
static struct paxos_slot slots[WINDOW];
struct paxos_effects effects;
uint64_t now;

struct paxos_pace pace;

void open_paxos(void)
{
    static const struct pairs_options options = {.node = 1,
                                                 .incarnation = 1,
                                                 .lease_ns = 60 * MS,
                                                 .beat_ns = 20 * MS,
                                                 .idle_lease_ns = 300 * MS,
                                                 .idle_beat_ns = 100 * MS,
                                                 .idle_after_ns = 1000 * MS};
    static const struct paxos_options group = {.node = 1,
                                               .epoch = 1,
                                               .replicas = {1, 2, 3},
                                               .replica_count = 3,
                                               .preferred = 1,
                                               .election_ns = 150 * MS,
                                               .resend_ns = 50 * MS,
                                               .window = WINDOW,
                                               .follower_bytes_max = 1 << 20,
                                               .pace = &pace,
                                               .seed = 1};
    const struct paxos_recovered nothing = {0};
    now = 1000 * MS;
    pace.due_ns = 0;
    pairs_init(&pairs, &options, 0, 0);
    pairs_set_member(&pairs, 2, true);
    pairs_set_member(&pairs, 3, true);
    memset(slots, 0, sizeof(slots));
    cr_assert_eq(paxos_init(&self, &group, &pairs, slots, &nothing, now), SLUICE_OK);
}

enum sluice_status step(struct paxos_event event)
{
    event.now_ns = now;
    event.time = now;
    return paxos_step(&self, &event, &effects);
}

const struct paxos_effect *effect(enum paxos_effect_type type)
{
    for (uint32_t i = 0; i < effects.count; i++)
        if (effects.items[i].type == type)
            return &effects.items[i];
    return NULL;
}

const struct paxos_message *sent(uint16_t node, enum paxos_message_type type)
{
    for (uint32_t i = 0; i < effects.count; i++)
        if (effects.items[i].type == PAXOS_EFFECT_SEND && effects.items[i].node == node &&
            effects.messages[effects.items[i].message].type == type)
            return &effects.messages[effects.items[i].message];
    return NULL;
}

uint64_t process(uint64_t incarnation)
{
    return incarnation << PAXOS_INSTANCE_BITS;
}

struct paxos_message from(uint16_t node, enum paxos_message_type type, uint64_t ballot)
{
    return (struct paxos_message){.type = (uint8_t)type,
                                  .from = node,
                                  .epoch = 1,
                                  .ballot = ballot,
                                  .incarnation = 1,
                                  .instance = process(1),
                                  .granted = true};
}

enum sluice_status receive(struct paxos_message message)
{
    return step((struct paxos_event){.type = PAXOS_EVENT_MESSAGE, .message = &message});
}

void persist(void)
{
    cr_assert_eq(step((struct paxos_event){.type = PAXOS_EVENT_PERSISTED, .sequence = self.sequence}), SLUICE_OK);
}

uint64_t ballot(uint64_t round, uint16_t node)
{
    return round << 16 | node;
}

void grant(uint16_t node)
{
    struct pairs_effects ignored = {0};
    const struct pairs_message beat = {.type = PAIRS_BEAT, .incarnation = 1, .lease_ns = 60 * MS};
    cr_assert_eq(pairs_receive(&pairs, node, &beat, now, now, &ignored), SLUICE_OK);
}

void lead(void)
{
    cr_assert_eq(step((struct paxos_event){.type = PAXOS_EVENT_TICK}), SLUICE_OK);
    cr_assert_not_null(sent(2, PAXOS_PREVOTE));
    cr_assert_eq(receive(from(2, PAXOS_PREVOTE_REPLY, ballot(1, 1))), SLUICE_OK);
    cr_assert_not_null(sent(2, PAXOS_PREPARE));
    persist();
    struct paxos_message promise = from(2, PAXOS_PROMISE, ballot(1, 1));
    promise.first = 1;
    cr_assert_eq(receive(promise), SLUICE_OK);
    cr_assert_eq(self.role, PAXOS_LEADER);
}

void accepted(uint16_t node, uint64_t index)
{
    struct paxos_message message = from(node, PAXOS_ACCEPTED, self.ballot);
    message.received = message.persisted = index;
    cr_assert_eq(receive(message), SLUICE_OK);
}

struct paxos_message accept(uint16_t node, uint64_t round, uint64_t first, uint32_t count)
{
    struct paxos_message message = from(node, PAXOS_ACCEPT, ballot(round, node));
    message.first = first;
    message.entry_count = count;
    message.last = first + count - 1;
    for (uint32_t i = 0; i < count; i++)
        message.entries[i] = (struct paxos_message_entry){.ballot = message.ballot, .time = 100 * round + first + i};
    return message;
}

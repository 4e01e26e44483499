/* What no correct peer sends and no correct caller asks for: refused, and nothing changes. */
#include <criterion/criterion.h>
#include <string.h>

#include "tests/unit/consensus/one.h"

TestSuite(refusals, .init = open_paxos);

/* A message as node 2 would send it. */
static struct paxos_message sane(enum paxos_message_type type)
{
    bool to_owner = type == PAXOS_PROMISE || type == PAXOS_ACCEPTED;
    struct paxos_message message = {.type = (uint8_t)type,
                                    .from = 2,
                                    .epoch = 1,
                                    .ballot = ballot(4, to_owner ? 1 : 2),
                                    .incarnation = 1,
                                    .instance = UINT64_C(1) << PAXOS_INSTANCE_BITS,
                                    .first = 1,
                                    .last = 2};
    if (type == PAXOS_ACCEPT || type == PAXOS_PROMISE)
        message.entry_count = 2;
    for (uint32_t i = 0; i < message.entry_count; i++)
        message.entries[i] = (struct paxos_message_entry){.ballot = message.ballot, .time = i + 1};
    return message;
}

static void refused(struct paxos_message message, const char *what)
{
    struct paxos before = self;
    cr_assert_eq(step((struct paxos_event){.type = PAXOS_EVENT_MESSAGE, .message = &message}), SLUICE_INVALID, "%s",
                 what);
    cr_assert_eq(effects.count, 0, "%s", what);
    before.heard_now_ns = self.heard_now_ns;
    cr_assert_eq(memcmp(&before, &self, sizeof(self)), 0, "%s", what);
}

Test(refusals, of_what_any_message_must_have)
{
    for (int type = PAXOS_PREVOTE; type <= PAXOS_TRANSFER; type++) {
        struct paxos_message message = sane((enum paxos_message_type)type);
        cr_assert_eq(step((struct paxos_event){.type = PAXOS_EVENT_MESSAGE, .message = &message}), SLUICE_OK,
                     "type %d is sane", type);
        open_paxos();
#define REFUSED(change, what)                                                                                          \
    do {                                                                                                               \
        message = sane((enum paxos_message_type)type);                                                                 \
        change;                                                                                                        \
        refused(message, what);                                                                                        \
    } while (0)
        REFUSED(message.from = 0, "from nobody");
        REFUSED(message.from = 1, "from oneself");
        REFUSED(message.from = PAXOS_NODES_MAX, "from a node that cannot be");
        REFUSED(message.type = 77, "of no type");
        REFUSED(message.entry_count = PAXOS_MESSAGE_ENTRIES_MAX + 1, "with too many entries");
        REFUSED(message.ballot = UINT64_MAX, "under the ballot that means chosen");
        REFUSED(message.incarnation = 0, "of no process");
        REFUSED(message.instance = UINT64_C(2) << PAXOS_INSTANCE_BITS, "of another process's replica");
        REFUSED(message.first = UINT64_MAX, "beyond all indexes");
    }
}

Test(refusals, of_a_ballot_that_is_not_its_owners)
{
    static const enum paxos_message_type by_owner[] = {PAXOS_PREVOTE, PAXOS_PREPARE, PAXOS_ACCEPT, PAXOS_TRANSFER};
    static const enum paxos_message_type to_owner[] = {PAXOS_PROMISE, PAXOS_ACCEPTED};
    struct paxos_message message;
    for (size_t i = 0; i < sizeof(by_owner) / sizeof(by_owner[0]); i++) {
        message = sane(by_owner[i]);
        message.ballot = ballot(4, 3);
        for (uint32_t k = 0; k < message.entry_count; k++)
            message.entries[k].ballot = message.ballot;
        refused(message, "another node's ballot");
    }
    for (size_t i = 0; i < sizeof(to_owner) / sizeof(to_owner[0]); i++) {
        message = sane(to_owner[i]);
        message.ballot = ballot(4, 2);
        refused(message, "an answer to a ballot of the sender");
    }
}

Test(refusals, of_entries_that_cannot_be)
{
    static const enum paxos_message_type without[] = {PAXOS_PREVOTE, PAXOS_PREPARE, PAXOS_TRANSFER, PAXOS_PREVOTE_REPLY,
                                                      PAXOS_REJECT};
    struct paxos_message message;
    for (size_t i = 0; i < sizeof(without) / sizeof(without[0]); i++) {
        message = sane(without[i]);
        message.entry_count = 1;
        refused(message, "entries where there are none");
    }
    for (int i = 0; i < 2; i++) {
        enum paxos_message_type type = i == 0 ? PAXOS_ACCEPT : PAXOS_PROMISE;
        message = sane(type);
        message.first = 0;
        refused(message, "an index 0");
        message = sane(type);
        message.entries[1].ballot = ballot(5, 1);
        refused(message, "an entry of a later ballot");
        message = sane(type);
        message.entries[1].members = 1;
        refused(message, "members without a name");
        message = sane(type);
        message.entries[1].members = (UINT64_C(2) << (PAXOS_REPLICAS_MAX + 1)) - 2;
        refused(message, "more members than a group has");
    }
    message = sane(PAXOS_ACCEPT);
    message.entries[1].ballot = ballot(3, 2);
    refused(message, "an entry of an earlier ballot, to be accepted");
    message = sane(PAXOS_ACCEPTED);
    message.persisted = 2;
    message.received = 1;
    refused(message, "more on disk than was received");
}

Test(refusals, a_message_of_another_epoch_is_not_heard)
{
    struct paxos before = self;
    struct paxos_message message = sane(PAXOS_ACCEPT);
    message.epoch = 2;
    cr_assert_eq(step((struct paxos_event){.type = PAXOS_EVENT_MESSAGE, .message = &message}), SLUICE_OK);
    cr_assert_eq(effects.count, 0);
    before.heard_now_ns = self.heard_now_ns;
    cr_assert_eq(memcmp(&before, &self, sizeof(self)), 0);
}

static enum sluice_status opened(struct paxos_options group, struct paxos_recovered recovered)
{
    static struct paxos_slot slots[WINDOW];
    struct paxos other;
    return paxos_init(&other, &group, &pairs, slots, &recovered, 0);
}

Test(refusals, of_options_and_logs_that_make_no_group)
{
    const struct paxos_recovered nothing = {0};
    const struct paxos_options options = self.options;
    struct paxos_options wrong = options;
    wrong.node = 0;
    cr_assert_eq(opened(wrong, nothing), SLUICE_INVALID);
    wrong.node = PAXOS_NODES_MAX;
    cr_assert_eq(opened(wrong, nothing), SLUICE_INVALID);
    wrong = options;
    wrong.replica_count = PAXOS_REPLICAS_MAX + 1;
    cr_assert_eq(opened(wrong, nothing), SLUICE_INVALID);
    wrong = options;
    wrong.window = 1;
    cr_assert_eq(opened(wrong, nothing), SLUICE_INVALID);
    wrong.window = 12;
    cr_assert_eq(opened(wrong, nothing), SLUICE_INVALID);
    wrong = options;
    wrong.replicas[1] = 0;
    cr_assert_eq(opened(wrong, nothing), SLUICE_INVALID);
    wrong.replicas[1] = PAXOS_NODES_MAX;
    cr_assert_eq(opened(wrong, nothing), SLUICE_INVALID);
    cr_assert_eq(opened(options, (struct paxos_recovered){.stable = 2, .last = 1}), SLUICE_INVALID);
    cr_assert_eq(opened(options, (struct paxos_recovered){.stable = 2, .last = WINDOW + 3}), SLUICE_INVALID);
    cr_assert_eq(opened(options, nothing), SLUICE_OK);
}

Test(refusals, of_events_that_no_caller_may_bring)
{
    const struct paxos_snapshot empty = {.index = 5};
    const struct paxos_proposal proposal = {.time = 1};
    cr_assert_eq(step((struct paxos_event){.type = (enum paxos_event_type)99}), SLUICE_INVALID);
    cr_assert_eq(step((struct paxos_event){.type = PAXOS_EVENT_INSTALLED, .snapshot = &empty}), SLUICE_INVALID);
    cr_assert_eq(step((struct paxos_event){.type = PAXOS_EVENT_SNAPSHOT_ENDED}), SLUICE_INVALID);
    cr_assert_eq(step((struct paxos_event){.type = PAXOS_EVENT_SNAPSHOT_ENDED, .node = PAXOS_NODES_MAX}),
                 SLUICE_INVALID);
    cr_assert_eq(step((struct paxos_event){.type = PAXOS_EVENT_COMPACT, .index = 1}), SLUICE_INVALID);
    cr_assert_eq(step((struct paxos_event){.type = PAXOS_EVENT_PROPOSE, .proposals = &proposal, .proposal_count = 1}),
                 SLUICE_NOT_LEADER);
    cr_assert_eq(step((struct paxos_event){.type = PAXOS_EVENT_TRANSFER, .node = 2}), SLUICE_NOT_LEADER);
    cr_assert_eq(step((struct paxos_event){.type = PAXOS_EVENT_READ}), SLUICE_NOT_LEADER);
}

Test(refusals, of_proposals_that_are_none_too_many_or_impossible)
{
    cr_assert_eq(step((struct paxos_event){.type = PAXOS_EVENT_TICK}), SLUICE_OK);
    struct paxos_message granted = sane(PAXOS_PREVOTE_REPLY), promise = sane(PAXOS_PROMISE);
    granted.ballot = promise.ballot = self.standing;
    granted.granted = true;
    promise.entry_count = 0;
    promise.last = 0;
    cr_assert_eq(step((struct paxos_event){.type = PAXOS_EVENT_MESSAGE, .message = &granted}), SLUICE_OK);
    cr_assert_eq(step((struct paxos_event){.type = PAXOS_EVENT_PERSISTED, .sequence = self.sequence}), SLUICE_OK);
    cr_assert_eq(step((struct paxos_event){.type = PAXOS_EVENT_MESSAGE, .message = &promise}), SLUICE_OK);
    cr_assert_eq(self.role, PAXOS_LEADER);
    struct paxos_proposal proposal = {.time = paxos_time_floor(&self) + 1};
    cr_assert_eq(step((struct paxos_event){.type = PAXOS_EVENT_PROPOSE, .proposals = &proposal}), SLUICE_INVALID);
    cr_assert_eq(step((struct paxos_event){.type = PAXOS_EVENT_PROPOSE,
                                           .proposals = &proposal,
                                           .proposal_count = PAXOS_MESSAGE_ENTRIES_MAX + 1}),
                 SLUICE_INVALID);
    proposal.members = 2 | 4;
    cr_assert_eq(step((struct paxos_event){.type = PAXOS_EVENT_PROPOSE, .proposals = &proposal, .proposal_count = 1}),
                 SLUICE_INVALID, "its ballot is not open yet");
    cr_assert_eq(step((struct paxos_event){.type = PAXOS_EVENT_TRANSFER, .node = 2}), SLUICE_NOT_LEADER);
}

Test(refusals, pairs_know_their_members_and_nobody_else)
{
    struct pairs before = pairs;
    pairs_set_member(&pairs, 2, true);
    pairs_peer_down(&pairs, 0, 1, true);
    pairs_peer_down(&pairs, 9, 1, true);
    pairs_peer_down(&pairs, PAIRS_NODES_MAX, 1, true);
    pairs_defect(&pairs, 0);
    pairs_defect(&pairs, 1);
    pairs_defect(&pairs, PAIRS_NODES_MAX);
    cr_assert_eq(memcmp(&before, &pairs, sizeof(pairs)), 0);
    struct pairs_effects ignored = {0};
    const struct pairs_message beat = {.type = PAIRS_BEAT, .lease_ns = 60 * MS};
    cr_assert_eq(pairs_receive(&pairs, 2, &beat, MS, 1, &ignored), SLUICE_INVALID, "of no process");
    cr_assert_eq(pairs_receive(&pairs, PAIRS_NODES_MAX, &beat, MS, 1, &ignored), SLUICE_INVALID);
    static const uint16_t nobody[] = {0, 1, PAIRS_NODES_MAX};
    for (size_t i = 0; i < sizeof(nobody) / sizeof(nobody[0]); i++)
        cr_assert_not(pairs_grant_runs(&pairs, nobody[i], 0));
    cr_assert_not(pairs_alive(&pairs, 0, 0, 0));
    cr_assert_not(pairs_alive(&pairs, 9, 0, 0));
    cr_assert_not(pairs_alive(&pairs, PAIRS_NODES_MAX, 0, 0));
    cr_assert(pairs_alive(&pairs, 1, 0, 0), "oneself");
    cr_assert(pairs_alive(&pairs, 1, 1, 0));
    cr_assert_not(pairs_alive(&pairs, 1, 2, 0), "but no other process of this node");
}

/* Who decides, who leads, and who may read. */
#include <criterion/criterion.h>
#include <string.h>

#include "tests/unit/consensus/one.h"

TestSuite(members, .init = open_paxos);
TestSuite(handover, .init = open_paxos);
TestSuite(reads, .init = open_paxos);

static void promise_with(uint16_t node, uint64_t incarnation, uint64_t last, uint64_t members)
{
    struct paxos_message promise = from(node, PAXOS_PROMISE, self.ballot);
    promise.incarnation = incarnation;
    promise.instance = process(incarnation);
    promise.first = 1;
    promise.last = last;
    promise.entry_count = (uint32_t)last;
    for (uint64_t i = 0; i < last; i++)
        promise.entries[i] =
            (struct paxos_message_entry){.ballot = ballot(1, 9), .time = 10 + i, .opened = ballot(1, 9)};
    if (last > 0) {
        promise.entries[0].members = members;
        promise.entries[0].members_instance = process(1);
    }
    cr_assert_eq(receive(promise), SLUICE_OK);
}

static void stand(void)
{
    cr_assert_eq(step((struct paxos_event){.type = PAXOS_EVENT_TICK}), SLUICE_OK);
    cr_assert_eq(receive(from(2, PAXOS_PREVOTE_REPLY, ballot(1, 1))), SLUICE_OK);
    cr_assert_eq(self.role, PAXOS_CANDIDATE);
    self.ballot = self.promised = self.standing = ballot(2, 1); /* above those of the logs that are reported */
    persist();
}

Test(members, a_voter_keeps_its_incarnation_through_other_changes)
{
    struct paxos_members members = {.voters = 0xe, .instances = {7, 0, 9}};
    paxos_members_apply(&members, 0x1e, 44, 100);
    cr_assert_eq(paxos_members_instance(&members, 1), 7);
    cr_assert_eq(paxos_members_instance(&members, 3), 9);
    cr_assert_eq(paxos_members_instance(&members, 4), 44);
    paxos_members_apply(&members, 0x1c, 0, 101);
    cr_assert_eq(paxos_members_instance(&members, 1), UINT64_MAX);
    cr_assert_eq(paxos_members_instance(&members, 2), 0);
    cr_assert_eq(paxos_members_instance(&members, 4), 44);
    cr_assert_eq(members.index, 101);
}

Test(members, a_candidate_needs_a_quorum_of_those_whom_the_log_that_it_adopts_names)
{
    pairs_set_member(&pairs, 4, true);
    stand();
    promise_with(2, 1, 2, 0x1e); /* node 4 was added, and something followed: so that was chosen */
    cr_assert_eq(self.role, PAXOS_CANDIDATE, "two of four are no quorum");
    cr_assert_not_null(sent(4, PAXOS_PREPARE), "the new voter is asked");
    promise_with(4, 1, 2, 0x1e);
    cr_assert_eq(self.role, PAXOS_LEADER);
}

Test(members, a_change_that_may_not_have_been_chosen_does_not_govern_yet)
{
    stand();
    promise_with(2, 1, 1, 0x1e);
    cr_assert_eq(self.role, PAXOS_LEADER, "it is the log's last entry: its own quorum is that of the three");
    cr_assert_eq(self.members.voters, 0xe);
    cr_assert_eq(paxos_room(&self), 0, "nothing follows it until it is stable");
}

Test(members, the_vote_of_a_process_before_the_one_that_was_added_is_none)
{
    paxos_members_apply(&self.members, 0x6, 0, 0);
    paxos_members_apply(&self.members, 0xe, process(5), 0); /* node 3 was added as its process 5 */
    stand();
    promise_with(3, 4, 0, 0);
    cr_assert_eq(self.role, PAXOS_CANDIDATE);
    promise_with(2, 1, 0, 0);
    cr_assert_eq(self.role, PAXOS_LEADER);
}

Test(members, a_page_may_hold_any_number_of_changes)
{
    struct paxos_options options = self.options;
    static struct paxos_slot many[PAXOS_MESSAGE_ENTRIES_MAX];
    const struct paxos_recovered nothing = {0};
    options.window = PAXOS_MESSAGE_ENTRIES_MAX;
    cr_assert_eq(paxos_init(&self, &options, &pairs, many, &nothing, now), SLUICE_OK);
    struct paxos_message page = accept(2, 1, 1, PAXOS_MESSAGE_ENTRIES_MAX);
    for (uint32_t i = 0; i < page.entry_count; i++) {
        page.entries[i].members = i % 2 == 0 ? 0x1e : 0xe;
        page.entries[i].members_instance = process(i);
    }
    page.stable = page.last;
    cr_assert_eq(receive(page), SLUICE_OK);
    cr_assert_eq(self.stable, PAXOS_MESSAGE_ENTRIES_MAX);
    cr_assert_eq(self.members.voters, 0xe);
    cr_assert_eq(effect(PAXOS_EFFECT_MEMBERS)->first, PAXOS_MESSAGE_ENTRIES_MAX);
}

Test(members, one_is_added_or_removed_at_a_time_and_alone)
{
    lead();
    persist();
    accepted(2, 1);
    uint64_t voters, instance;
    cr_assert_not(paxos_next_members(&self, &voters, &instance), "nobody wants another placement");
    paxos_set_wanted(&self, 0x1a, NULL); /* 1, 3, 4 in place of 1, 2, 3 */
    pairs_set_member(&pairs, 4, true);
    cr_assert_not(paxos_next_members(&self, &voters, &instance), "the learner holds nothing");
    cr_assert_eq(step((struct paxos_event){.type = PAXOS_EVENT_TICK}), SLUICE_OK);
    cr_assert_not_null(sent(4, PAXOS_ACCEPT), "it is fed");
    grant(4);
    accepted(4, 1);
    cr_assert(paxos_next_members(&self, &voters, &instance));
    cr_assert_eq(voters, 0x1e, "first the new one comes");
    cr_assert_eq(instance, process(1));
    struct paxos_proposal two = {.time = paxos_time_floor(&self) + 1, .members = 0x38};
    cr_assert_eq(step((struct paxos_event){.type = PAXOS_EVENT_PROPOSE, .proposals = &two, .proposal_count = 1}),
                 SLUICE_INVALID);
    const struct paxos_proposal proposal = {
        .time = paxos_time_floor(&self) + 1, .members = voters, .members_instance = instance};
    cr_assert_eq(step((struct paxos_event){.type = PAXOS_EVENT_PROPOSE, .proposals = &proposal, .proposal_count = 1}),
                 SLUICE_OK);
    cr_assert_eq(paxos_room(&self), 0);
    cr_assert_not(paxos_settled(&self), "who is being added may not be told to go");
    persist();
    accepted(4, 2);
    cr_assert_eq(self.stable, 1, "whom it adds has no say in it");
    accepted(2, 2);
    cr_assert_eq(self.stable, 2);
    cr_assert_eq(self.members.voters, 0x1e);
    cr_assert_not_null(effect(PAXOS_EFFECT_MEMBERS));
    cr_assert(paxos_next_members(&self, &voters, &instance));
    cr_assert_eq(voters, 0x1a, "then the old one goes");
}

Test(members, who_was_just_added_is_not_removed_for_what_it_said_before_it_heard_of_that)
{
    uint64_t voters, instance;
    lead();
    persist();
    accepted(2, 1);
    paxos_set_wanted(&self, 2 | 4 | 8 | 16, NULL);
    pairs_set_member(&pairs, 4, true);
    grant(4);
    struct paxos_message forgotten = from(4, PAXOS_ACCEPTED, self.ballot);
    forgotten.received = forgotten.persisted = forgotten.last = 1;
    forgotten.learner = true;
    forgotten.whole_from = forgotten.instance;
    cr_assert_eq(receive(forgotten), SLUICE_OK);
    cr_assert(paxos_next_members(&self, &voters, &instance));
    cr_assert_eq(voters, 2 | 4 | 8 | 16);
    const struct paxos_proposal proposal = {
        .time = paxos_time_floor(&self) + 1, .members = voters, .members_instance = instance};
    cr_assert_eq(step((struct paxos_event){.type = PAXOS_EVENT_PROPOSE, .proposals = &proposal, .proposal_count = 1}),
                 SLUICE_OK);
    persist();
    accepted(2, 2);
    cr_assert_eq(self.members.voters, 2 | 4 | 8 | 16);
    grant(2);
    grant(3);
    accepted(3, 2);
    cr_assert_not(paxos_next_members(&self, &voters, &instance));
    forgotten.incarnation = 2;
    forgotten.instance = process(2);
    forgotten.learner = false;
    forgotten.received = forgotten.persisted = forgotten.last = 2;
    cr_assert_eq(receive(forgotten), SLUICE_OK);
    cr_assert_not(self.followers[4].lost, "what its former process had lost it was added without");
    cr_assert_not(paxos_next_members(&self, &voters, &instance));
    forgotten.learner = true;
    forgotten.incarnation = 3;
    forgotten.instance = forgotten.whole_from = process(3);
    cr_assert_eq(receive(forgotten), SLUICE_OK);
    cr_assert(paxos_next_members(&self, &voters, &instance), "a later process of it that has forgotten is");
    cr_assert_eq(voters, 2 | 4 | 8);
}

Test(members, what_an_earlier_placement_of_a_node_acknowledged_is_not_heard)
{
    uint64_t since[PAXOS_NODES_MAX] = {[2] = 7};
    lead();
    persist();
    paxos_set_wanted(&self, 2 | 4 | 8, since);
    struct paxos_message message = from(2, PAXOS_ACCEPTED, self.ballot);
    message.received = message.persisted = 1;
    message.since = 3;
    cr_assert_eq(receive(message), SLUICE_OK);
    cr_assert_eq(self.stable, 0);
    message.since = 7;
    cr_assert_eq(receive(message), SLUICE_OK);
    cr_assert_eq(self.stable, 1);
}

Test(members, no_more_learn_at_once_than_one_step_can_speak_to)
{
    lead();
    persist();
    accepted(2, 1);
    paxos_set_wanted(&self, (UINT64_C(2) << 40) - 2, NULL);
    cr_assert_eq(paxos_mask_count(paxos_learners(&self)), PAXOS_AUDIENCE_MAX - 3);
    /* Nor is anybody told then that it was removed. */
    pairs_set_member(&pairs, 50, true);
    struct paxos_message prevote = from(50, PAXOS_PREVOTE, ballot(9, 50));
    self.members.index = 1;
    cr_assert_eq(receive(prevote), SLUICE_OK);
    cr_assert_eq(self.leaving, 0);
    paxos_set_wanted(&self, 2 | 4 | 8, NULL);
    prevote.ballot = ballot(10, 50);
    cr_assert_eq(receive(prevote), SLUICE_OK);
    cr_assert_eq(self.leaving, UINT64_C(1) << 50);
}

/* ---- Handing over and reading ---- */

Test(handover, the_leader_ceases_to_read_before_its_successor_may_stand)
{
    lead();
    persist();
    accepted(2, 1);
    grant(2);
    pairs.peers[2].lease_until_ns = now + 50 * MS;
    pairs.peers[2].incarnation = 1;
    cr_assert(paxos_lease_valid(&self, now));
    const struct paxos_proposal proposal = {.time = paxos_time_floor(&self) + 1};
    struct paxos_event propose = {.type = PAXOS_EVENT_PROPOSE, .proposals = &proposal, .proposal_count = 1};
    cr_assert_eq(step(propose), SLUICE_OK);
    cr_assert_eq(step((struct paxos_event){.type = PAXOS_EVENT_TRANSFER, .node = 2}), SLUICE_OK);
    cr_assert_null(sent(2, PAXOS_TRANSFER), "it lacks an entry");
    cr_assert_eq(paxos_room(&self), 0);
    persist();
    accepted(2, 2);
    cr_assert_not_null(sent(2, PAXOS_TRANSFER));
    cr_assert_eq(self.role, PAXOS_FOLLOWER);
    cr_assert_not(paxos_lease_valid(&self, now));
}

Test(handover, only_the_ballot_that_was_given_up_gives_way_to_the_successor)
{
    grant(3);
    cr_assert_eq(receive(accept(3, 4, 1, 1)), SLUICE_OK);
    persist();
    cr_assert_eq(self.acknowledged, ballot(4, 3));
    now += 1000 * MS; /* no longer fresh */
    grant(3);
    struct paxos_message prepare = from(2, PAXOS_PREPARE, ballot(5, 2));
    prepare.first = 1;
    cr_assert_eq(receive(prepare), SLUICE_OK);
    cr_assert_not_null(sent(2, PAXOS_REJECT), "node 3 holds a lease");
    prepare.transfer = ballot(3, 3);
    cr_assert_eq(receive(prepare), SLUICE_OK);
    cr_assert_not_null(sent(2, PAXOS_REJECT), "another ballot was given up");
    prepare.transfer = ballot(4, 3);
    cr_assert_eq(receive(prepare), SLUICE_OK);
    cr_assert_eq(self.promised, ballot(5, 2));
}

Test(handover, a_leader_whose_successor_does_not_keep_up_goes_on)
{
    lead();
    persist();
    accepted(2, 1);
    const struct paxos_proposal proposal = {.time = paxos_time_floor(&self) + 1};
    cr_assert_eq(step((struct paxos_event){.type = PAXOS_EVENT_PROPOSE, .proposals = &proposal, .proposal_count = 1}),
                 SLUICE_OK);
    cr_assert_eq(step((struct paxos_event){.type = PAXOS_EVENT_TRANSFER, .node = 2}), SLUICE_OK);
    cr_assert_eq(paxos_room(&self), 0);
    now += 200 * MS;
    grant(2);
    grant(3);
    cr_assert_eq(step((struct paxos_event){.type = PAXOS_EVENT_TICK}), SLUICE_OK);
    cr_assert_eq(self.role, PAXOS_LEADER);
    cr_assert_gt(paxos_room(&self), 0);
}

Test(reads, a_round_is_done_once_a_quorum_has_echoed_it)
{
    cr_assert_eq(step((struct paxos_event){.type = PAXOS_EVENT_READ}), SLUICE_NOT_LEADER);
    lead();
    persist();
    accepted(2, 1);
    cr_assert_eq(step((struct paxos_event){.type = PAXOS_EVENT_READ}), SLUICE_OK);
    cr_assert_null(effect(PAXOS_EFFECT_READ));
    cr_assert_eq(sent(3, PAXOS_ACCEPT)->read, 1);
    accepted(2, 1);
    cr_assert_null(effect(PAXOS_EFFECT_READ), "that was sent before the round began");
    struct paxos_message echo = from(3, PAXOS_ACCEPTED, self.ballot);
    echo.read = 1;
    cr_assert_eq(receive(echo), SLUICE_OK);
    cr_assert_eq(effect(PAXOS_EFFECT_READ)->sequence, 1);
    echo.read = 9;
    cr_assert_eq(receive(echo), SLUICE_OK);
    cr_assert_null(effect(PAXOS_EFFECT_READ), "nobody can echo a round that did not begin");
}

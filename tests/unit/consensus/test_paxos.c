/* Elections and the log. */
#include <criterion/criterion.h>
#include <string.h>

#include "tests/unit/consensus/one.h"

TestSuite(paxos, .init = open_paxos);

Test(paxos, a_promise_counts_for_oneself_only_once_it_is_durable)
{
    cr_assert_eq(step((struct paxos_event){.type = PAXOS_EVENT_TICK}), SLUICE_OK);
    cr_assert_eq(receive(from(2, PAXOS_PREVOTE_REPLY, ballot(1, 1))), SLUICE_OK);
    struct paxos_message promise = from(2, PAXOS_PROMISE, ballot(1, 1));
    promise.first = 1;
    cr_assert_eq(receive(promise), SLUICE_OK);
    cr_assert_eq(self.role, PAXOS_CANDIDATE, "its own promise is not on disk yet");
    persist();
    cr_assert_eq(self.role, PAXOS_LEADER);
}

Test(paxos, an_entry_is_stable_only_on_the_disks_of_a_quorum)
{
    lead();
    accepted(2, 1);
    cr_assert_eq(self.stable, 0, "our own disk has not answered");
    persist();
    cr_assert_eq(self.stable, 1);
    cr_assert_not_null(effect(PAXOS_EFFECT_LEADING));
}

Test(paxos, a_follower_answers_only_when_its_disk_has)
{
    cr_assert_eq(receive(accept(2, 5, 1, 3)), SLUICE_OK);
    cr_assert_not_null(effect(PAXOS_EFFECT_STORE));
    cr_assert_null(sent(2, PAXOS_ACCEPTED));
    persist();
    cr_assert_not_null(sent(2, PAXOS_ACCEPTED));
    cr_assert_eq(sent(2, PAXOS_ACCEPTED)->persisted, 3);
}

Test(paxos, a_follower_leaves_no_gap)
{
    cr_assert_eq(receive(accept(2, 5, 1, 1)), SLUICE_OK);
    persist();
    cr_assert_eq(receive(accept(2, 5, 3, 1)), SLUICE_OK);
    cr_assert_null(effect(PAXOS_EFFECT_STORE));
    cr_assert_not(sent(2, PAXOS_ACCEPTED)->granted);
    cr_assert_eq(sent(2, PAXOS_ACCEPTED)->received, 1, "the leader is told where to step back to");
}

Test(paxos, a_lower_ballot_is_rejected_and_changes_nothing)
{
    cr_assert_eq(receive(accept(2, 5, 1, 1)), SLUICE_OK);
    cr_assert_eq(receive(accept(3, 4, 1, 1)), SLUICE_OK);
    cr_assert_not_null(sent(3, PAXOS_REJECT));
    cr_assert_eq(self.promised, ballot(5, 2));
}

Test(paxos, a_promise_reports_what_was_accepted_and_under_which_ballot)
{
    cr_assert_eq(receive(accept(2, 5, 1, 2)), SLUICE_OK);
    persist();
    now += 400 * MS; /* no lease of node 2 runs */
    struct paxos_message prepare = from(3, PAXOS_PREPARE, ballot(9, 3));
    prepare.first = 1;
    prepare.last = 0;
    cr_assert_eq(receive(prepare), SLUICE_OK);
    cr_assert_null(sent(3, PAXOS_PROMISE), "not before the promise is durable");
    persist();
    const struct paxos_message *promise = sent(3, PAXOS_PROMISE);
    cr_assert_not_null(promise);
    cr_assert_eq(promise->entry_count, 2);
    cr_assert_eq(promise->entries[1].ballot, ballot(5, 2));
}

Test(paxos, a_voter_promises_nobody_else_while_its_grant_to_the_leader_runs)
{
    cr_assert_eq(receive(accept(2, 5, 1, 1)), SLUICE_OK);
    grant(2);
    persist();
    struct paxos_message prepare = from(3, PAXOS_PREPARE, ballot(9, 3));
    prepare.first = 1;
    cr_assert_eq(receive(prepare), SLUICE_OK);
    cr_assert_eq(self.promised, ballot(5, 2));
    now += 61 * MS;
    cr_assert_eq(receive(prepare), SLUICE_OK);
    cr_assert_eq(self.promised, ballot(9, 3));
    cr_assert_eq(pairs.peers[2].defections, 1);
}

/* Its former process may have granted a lease that it cannot know of, and no beat has come since. */
Test(paxos, a_restarted_voter_promises_nobody_else_for_a_lease_even_once_it_has_acknowledged_its_leader)
{
    const struct pairs_options fresh = pairs.options;
    pairs_init(&pairs, &fresh, now, 0);
    pairs_set_member(&pairs, 2, true);
    pairs_set_member(&pairs, 3, true);
    cr_assert_eq(receive(accept(2, 5, 1, 1)), SLUICE_OK);
    persist();
    cr_assert_not_null(sent(2, PAXOS_ACCEPTED));
    struct paxos_message prepare = from(3, PAXOS_PREPARE, ballot(9, 3));
    prepare.first = 1;
    now += 299 * MS;
    cr_assert_eq(receive(prepare), SLUICE_OK);
    cr_assert_not_null(sent(3, PAXOS_REJECT));
    now += 2 * MS;
    cr_assert_eq(receive(prepare), SLUICE_OK);
    persist();
    cr_assert_not_null(sent(3, PAXOS_PROMISE));
}

Test(paxos, a_new_leader_adopts_the_value_of_the_highest_ballot)
{
    cr_assert_eq(receive(accept(2, 1, 1, 1)), SLUICE_OK);
    persist();
    now += 400 * MS;
    cr_assert_eq(step((struct paxos_event){.type = PAXOS_EVENT_CAMPAIGN}), SLUICE_OK);
    uint64_t mine = self.standing;
    cr_assert_eq(receive(from(3, PAXOS_PREVOTE_REPLY, mine)), SLUICE_OK);
    persist();
    struct paxos_message promise = from(3, PAXOS_PROMISE, mine);
    promise.first = 1;
    promise.last = 1;
    promise.entry_count = 1;
    promise.entries[0] = (struct paxos_message_entry){.ballot = ballot(1, 3), .time = 500};
    cr_assert_eq(receive(promise), SLUICE_OK);
    cr_assert_eq(self.role, PAXOS_LEADER);
    cr_assert_not_null(effect(PAXOS_EFFECT_STORE), "node 3's value takes the place of ours");
    cr_assert_eq(effect(PAXOS_EFFECT_STORE)->sequence, 0);
    cr_assert_not_null(effect(PAXOS_EFFECT_REWRITE), "and is proposed again under our ballot");
    cr_assert_eq(self.slots[1].time, 500);
}

/* Node 1 accepts `count` entries of node 2, and is elected with the vote of node 3, which has nothing. */
static void lead_over(uint32_t count)
{
    cr_assert_eq(receive(accept(2, 1, 1, count)), SLUICE_OK);
    persist();
    now += 400 * MS;
    cr_assert_eq(step((struct paxos_event){.type = PAXOS_EVENT_CAMPAIGN}), SLUICE_OK);
    cr_assert_eq(receive(from(3, PAXOS_PREVOTE_REPLY, self.standing)), SLUICE_OK);
    persist();
    struct paxos_message promise = from(3, PAXOS_PROMISE, self.standing);
    promise.first = 1;
    cr_assert_eq(receive(promise), SLUICE_OK);
    cr_assert_eq(self.role, PAXOS_LEADER);
}

/* An acceptor whose first entry is known chosen, and which holds a full window behind that. */
static struct paxos_message promise_beyond_the_window(void)
{
    struct paxos_message promise = from(3, PAXOS_PROMISE, self.ballot);
    promise.first = 1;
    promise.last = WINDOW + 1;
    promise.entry_count = WINDOW + 1;
    for (uint32_t i = 0; i <= WINDOW; i++)
        promise.entries[i] = (struct paxos_message_entry){.ballot = ballot(0, 2), .time = i + 1};
    promise.entries[0].ballot = UINT64_MAX;
    return promise;
}

Test(paxos, a_candidate_asks_for_the_rest_once_its_disk_has_made_room_and_no_sooner)
{
    now += 400 * MS;
    cr_assert_eq(step((struct paxos_event){.type = PAXOS_EVENT_CAMPAIGN}), SLUICE_OK);
    cr_assert_eq(receive(from(3, PAXOS_PREVOTE_REPLY, self.standing)), SLUICE_OK);
    struct paxos_message promise = promise_beyond_the_window();
    cr_assert_eq(receive(promise), SLUICE_OK);
    cr_assert_eq(self.stable, 1);
    cr_assert_eq(self.last, WINDOW, "the ring keeps what is not on disk");
    const struct paxos_message *asked = sent(3, PAXOS_PREPARE);
    cr_assert_not_null(asked);
    cr_assert_eq(asked->first, WINDOW + 1);
    promise.first = WINDOW + 1;
    promise.entry_count = 1;
    promise.entries[0] = promise.entries[WINDOW];
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(receive(promise), SLUICE_OK);
        cr_assert_null(sent(3, PAXOS_PREPARE), "to ask again changes nothing");
    }
    persist();
    cr_assert_not_null(sent(3, PAXOS_PREPARE));
    cr_assert_eq(receive(promise), SLUICE_OK);
    cr_assert_eq(self.role, PAXOS_LEADER);
    cr_assert_eq(self.last, WINDOW + 1);
}

Test(paxos, a_page_that_skips_entries_is_not_taken)
{
    now += 400 * MS;
    cr_assert_eq(step((struct paxos_event){.type = PAXOS_EVENT_CAMPAIGN}), SLUICE_OK);
    cr_assert_eq(receive(from(3, PAXOS_PREVOTE_REPLY, self.standing)), SLUICE_OK);
    persist();
    struct paxos_message promise = from(3, PAXOS_PROMISE, self.ballot);
    promise.first = promise.last = 2;
    cr_assert_eq(receive(promise), SLUICE_OK);
    cr_assert_eq(self.role, PAXOS_CANDIDATE, "entry 1 may have been chosen");
}

Test(paxos, a_word_of_a_former_process_of_the_leader_ends_nothing)
{
    struct paxos_message message = accept(2, 4, 1, 1);
    message.incarnation = 3;
    message.instance = process(3);
    cr_assert_eq(receive(message), SLUICE_OK);
    persist();
    cr_assert_eq(self.leader, 2);
    struct paxos_message late = from(2, PAXOS_PREVOTE, ballot(9, 2));
    cr_assert_eq(receive(late), SLUICE_OK);
    cr_assert_eq(self.leader, 2, "it stood before it was followed by the one that leads");
    late = from(2, PAXOS_REJECT, ballot(4, 2));
    late.transfer = ballot(4, 2);
    cr_assert_eq(receive(late), SLUICE_OK);
    cr_assert_eq(self.leader, 2);
    late.incarnation = 3;
    late.instance = process(3);
    cr_assert_eq(receive(late), SLUICE_OK);
    cr_assert_eq(self.leader, 0, "its own word does");
}

Test(paxos, a_candidate_of_a_volatile_group_waits_for_no_disk)
{
    self.options.memory_only = true;
    now += 400 * MS;
    cr_assert_eq(step((struct paxos_event){.type = PAXOS_EVENT_CAMPAIGN}), SLUICE_OK);
    cr_assert_eq(receive(from(3, PAXOS_PREVOTE_REPLY, self.standing)), SLUICE_OK);
    persist();
    struct paxos_message promise = promise_beyond_the_window();
    cr_assert_eq(receive(promise), SLUICE_OK);
    cr_assert_eq(self.last, WINDOW, "the ring holds no more in one step");
    cr_assert_not_null(sent(3, PAXOS_PREPARE));
    promise.first = WINDOW + 1;
    promise.entry_count = 1;
    promise.entries[0] = promise.entries[WINDOW];
    cr_assert_eq(receive(promise), SLUICE_OK);
    cr_assert_eq(self.role, PAXOS_LEADER);
    cr_assert_eq(self.last, WINDOW + 1);
}

/* A follower that knows the adopted suffix to be chosen stores none of it, and would not know of this ballot. */
Test(paxos, a_ballot_opens_with_an_entry_that_nobody_can_have_yet)
{
    lead_over(1);
    cr_assert_not_null(effect(PAXOS_EFFECT_STORE_NOOP));
    cr_assert_eq(effect(PAXOS_EFFECT_STORE_NOOP)->first, 2);
    cr_assert_eq(self.slots[2].opened, self.ballot);
    cr_assert_neq(self.slots[1].opened, self.ballot);
    persist();
    accepted(3, 1);
    cr_assert_eq(self.stable, 1);
    cr_assert_not(self.leading, "the ballot is not open on a quorum's disks");
    accepted(3, 2);
    cr_assert_not_null(effect(PAXOS_EFFECT_LEADING));
}

Test(paxos, a_suffix_that_fills_the_window_is_followed_by_the_opening_and_only_then_by_proposals)
{
    lead_over(WINDOW);
    persist();
    cr_assert_eq(self.last, WINDOW);
    cr_assert_eq(paxos_room(&self), 0);
    accepted(3, 2);
    cr_assert_eq(self.stable, 2);
    cr_assert_not_null(effect(PAXOS_EFFECT_STORE_NOOP));
    cr_assert_eq(effect(PAXOS_EFFECT_STORE_NOOP)->first, WINDOW + 1);
    cr_assert_not_null(sent(3, PAXOS_ACCEPT), "and is sent at once");
    cr_assert_eq(paxos_room(&self), 1);
    cr_assert_not(self.leading);
}

static void acknowledge_as(uint64_t incarnation, uint64_t last, bool learner)
{
    struct paxos_message message = from(2, PAXOS_ACCEPTED, self.ballot);
    message.incarnation = incarnation;
    message.instance = process(incarnation);
    message.last = message.received = message.persisted = last;
    message.learner = learner;
    message.whole_from = learner ? message.instance : 0;
    cr_assert_eq(receive(message), SLUICE_OK);
}

Test(paxos, a_voter_that_lost_its_tail_does_not_count_again_until_it_is_added_anew_whatever_restarts)
{
    uint64_t voters, instance;
    lead();
    persist();
    paxos_set_wanted(&self, 2 | 4 | 8, NULL);
    acknowledge_as(1, 1, false);
    cr_assert(self.leading);
    cr_assert_not(paxos_next_members(&self, &voters, &instance));
    acknowledge_as(2, 0, false);
    cr_assert_not(paxos_next_members(&self, &voters, &instance), "without it there is no quorum that keeps up");
    grant(3);
    accepted(3, 1);
    cr_assert(paxos_next_members(&self, &voters, &instance));
    cr_assert_eq(voters, 2 | 8);
    acknowledge_as(3, 0, false);
    cr_assert(paxos_next_members(&self, &voters, &instance), "it restarts before it was told, and is no wiser");
    acknowledge_as(3, 1, true);
    cr_assert(paxos_next_members(&self, &voters, &instance));
    cr_assert_not(self.followers[2].lost, "its own word ends with its being added; the leader's would outlast that");
    acknowledge_as(4, 1, false);
    cr_assert(paxos_next_members(&self, &voters, &instance), "nor does a restart bring back what was lost");
}

Test(paxos, the_window_bounds_what_may_be_unstable)
{
    lead();
    struct paxos_proposal proposals[WINDOW];
    for (uint32_t i = 0; i < WINDOW; i++)
        proposals[i] = (struct paxos_proposal){.time = paxos_time_floor(&self) + 1 + i};
    cr_assert_eq(paxos_room(&self), WINDOW - 1);
    cr_assert_eq(
        step((struct paxos_event){.type = PAXOS_EVENT_PROPOSE, .proposals = proposals, .proposal_count = WINDOW}),
        SLUICE_AGAIN);
    cr_assert_eq(
        step((struct paxos_event){.type = PAXOS_EVENT_PROPOSE, .proposals = proposals, .proposal_count = WINDOW - 1}),
        SLUICE_OK);
    cr_assert_eq(paxos_room(&self), 0);
}

Test(paxos, times_of_proposals_must_rise)
{
    lead();
    const struct paxos_proposal late = {.time = paxos_time_floor(&self)};
    cr_assert_eq(step((struct paxos_event){.type = PAXOS_EVENT_PROPOSE, .proposals = &late, .proposal_count = 1}),
                 SLUICE_INVALID);
}

Test(paxos, reads_need_a_lease_of_a_quorum_that_still_speaks_of_our_ballot)
{
    lead();
    persist();
    accepted(2, 1);
    cr_assert_not(paxos_lease_valid(&self, now));
    struct pairs_effects ignored = {0};
    const struct pairs_message ack = {
        .type = PAIRS_BEAT_ACK, .incarnation = 1, .peer_incarnation = 1, .sent_ns = now, .lease_ns = 60 * MS};
    cr_assert_eq(pairs_receive(&pairs, 2, &ack, now, now, &ignored), SLUICE_OK);
    cr_assert(paxos_lease_valid(&self, now));
    struct pairs_message defected = ack;
    defected.defections = 1;
    cr_assert_eq(pairs_receive(&pairs, 2, &defected, now, now, &ignored), SLUICE_OK);
    cr_assert_not(paxos_lease_valid(&self, now),
                  "it has left one of our ballots: which one, only its next word can tell");
}

Test(paxos, time_is_closed_only_up_to_a_ceiling_that_a_quorum_holds)
{
    lead();
    persist();
    accepted(2, 1);
    cr_assert_eq(paxos_close_time(&self, now), 0);
    pairs.ceiling_own_durable = 5000;
    cr_assert_eq(paxos_close_time(&self, now), 0, "one of three is no quorum");
    struct pairs_effects ignored = {0};
    const struct pairs_message ack = {
        .type = PAIRS_BEAT_ACK, .incarnation = 1, .peer_incarnation = 1, .sent_ns = now, .ceiling = 4000};
    cr_assert_eq(pairs_receive(&pairs, 2, &ack, now, now, &ignored), SLUICE_OK);
    cr_assert_eq(paxos_close_time(&self, now), 4000);
    cr_assert_geq(paxos_time_floor(&self), 4000);
    cr_assert_eq(paxos_close_time(&self, 10), 4000, "it never goes back");
}

Test(paxos, a_replica_that_lost_its_memory_does_not_vote_and_asks_to_be_admitted_once_it_holds_all)
{
    self.options.memory_only = self.options.amnesiac = true;
    struct paxos_message prevote = from(2, PAXOS_PREVOTE, ballot(1, 2));
    cr_assert_eq(receive(prevote), SLUICE_OK);
    cr_assert_not(sent(2, PAXOS_PREVOTE_REPLY)->granted);
    struct paxos_message message = accept(2, 5, 1, 2);
    cr_assert_eq(receive(message), SLUICE_OK);
    cr_assert_null(effect(PAXOS_EFFECT_CAUGHT_UP), "the leader does not know of this process yet");
    message.peer_incarnation = 1;
    cr_assert_eq(receive(message), SLUICE_OK);
    cr_assert_not_null(effect(PAXOS_EFFECT_CAUGHT_UP));
    persist();
    cr_assert_eq(receive(message), SLUICE_OK);
    cr_assert(sent(2, PAXOS_ACCEPTED)->learner);
}

/* A candidate may still count what this replica no longer knows that it promised. */
Test(paxos, a_volatile_replica_whose_promises_are_lost_has_its_leader_elected_anew_before_it_counts_again)
{
    self.options.memory_only = self.options.amnesiac = self.options.forgot = true;
    struct paxos_message message = accept(2, 5, 1, 2);
    message.peer_incarnation = 1;
    cr_assert_eq(receive(message), SLUICE_OK);
    cr_assert_not_null(effect(PAXOS_EFFECT_CAUGHT_UP));
    cr_assert_eq(step((struct paxos_event){.type = PAXOS_EVENT_ADMIT}), SLUICE_OK);
    const struct paxos_effect *promise = effect(PAXOS_EFFECT_PERSIST_PROMISE);
    cr_assert_not_null(promise);
    cr_assert_gt(promise->ballot, ballot(1000000, 63));
    persist();
    cr_assert_eq(receive(message), SLUICE_OK);
    cr_assert_not_null(sent(2, PAXOS_REJECT));
    struct paxos_message prepare = from(2, PAXOS_PREPARE, promise->ballot + 2);
    now += 1000 * MS;
    prepare.ballot = ballot((self.promised >> 16) + 1, 2);
    prepare.first = 3;
    cr_assert_eq(receive(prepare), SLUICE_OK);
    persist();
    cr_assert_not_null(sent(2, PAXOS_PROMISE));
    cr_assert_eq(step((struct paxos_event){.type = PAXOS_EVENT_ADMIT}), SLUICE_OK);
    cr_assert_null(effect(PAXOS_EFFECT_PERSIST_PROMISE), "once is enough");
}

Test(paxos, a_voter_that_hears_from_its_leader_that_it_has_lost_something_has_no_vote_any_more)
{
    struct paxos_message message = accept(2, 4, 1, 1);
    cr_assert_eq(receive(message), SLUICE_OK);
    persist();
    message = accept(2, 4, 2, 1);
    message.lost = true;
    message.peer_incarnation = 7;
    cr_assert_eq(receive(message), SLUICE_OK);
    cr_assert_not(self.options.amnesiac, "another process of this node has");
    message.peer_incarnation = 1;
    cr_assert_eq(receive(message), SLUICE_OK);
    cr_assert(self.options.amnesiac);
    cr_assert_eq(self.options.whole_from, self.options.instance);
    cr_assert_not_null(effect(PAXOS_EFFECT_LOST));
    message.first = 3;
    cr_assert_eq(receive(message), SLUICE_OK);
    cr_assert_null(effect(PAXOS_EFFECT_LOST), "it knows");
}

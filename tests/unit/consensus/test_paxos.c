#include <criterion/criterion.h>
#include <string.h>

#include "core/consensus/paxos.h"

#define MS     UINT64_C(1000000)
#define WINDOW 16u

/* Node 1 of three, and what it says. */
static struct pairs pairs;
static struct paxos self;
static struct paxos_slot slots[WINDOW];
static struct paxos_effects effects;
static uint64_t now;

static struct paxos_pace pace;

static void open_paxos(void)
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

static enum sluice_status step(struct paxos_event event)
{
    event.now_ns = now;
    event.time = now;
    return paxos_step(&self, &event, &effects);
}

static const struct paxos_effect *effect(enum paxos_effect_type type)
{
    for (uint32_t i = 0; i < effects.count; i++)
        if (effects.items[i].type == type)
            return &effects.items[i];
    return NULL;
}

static const struct paxos_message *sent(uint16_t node, enum paxos_message_type type)
{
    for (uint32_t i = 0; i < effects.count; i++)
        if (effects.items[i].type == PAXOS_EFFECT_SEND && effects.items[i].node == node &&
            effects.messages[effects.items[i].message].type == type)
            return &effects.messages[effects.items[i].message];
    return NULL;
}

/* The first replica that a process opens. */
static uint64_t process(uint64_t incarnation)
{
    return incarnation << PAXOS_INSTANCE_BITS;
}

static struct paxos_message from(uint16_t node, enum paxos_message_type type, uint64_t ballot)
{
    return (struct paxos_message){.type = (uint8_t)type,
                                  .from = node,
                                  .epoch = 1,
                                  .ballot = ballot,
                                  .incarnation = 1,
                                  .instance = process(1),
                                  .granted = true};
}

static enum sluice_status receive(struct paxos_message message)
{
    return step((struct paxos_event){.type = PAXOS_EVENT_MESSAGE, .message = &message});
}

static void persist(void)
{
    cr_assert_eq(step((struct paxos_event){.type = PAXOS_EVENT_PERSISTED, .sequence = self.sequence}), SLUICE_OK);
}

static uint64_t ballot(uint64_t round, uint16_t node)
{
    return round << 16 | node;
}

static void grant(uint16_t node)
{
    struct pairs_effects ignored = {0};
    const struct pairs_message beat = {.type = PAIRS_BEAT, .incarnation = 1, .lease_ns = 60 * MS};
    cr_assert_eq(pairs_receive(&pairs, node, &beat, now, now, &ignored), SLUICE_OK);
}

/* Node 1 is elected with the vote of node 2. */
static void lead(void)
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

static void accepted(uint16_t node, uint64_t index)
{
    struct paxos_message message = from(node, PAXOS_ACCEPTED, self.ballot);
    message.received = message.persisted = index;
    cr_assert_eq(receive(message), SLUICE_OK);
}

static struct paxos_message accept(uint16_t node, uint64_t round, uint64_t first, uint32_t count)
{
    struct paxos_message message = from(node, PAXOS_ACCEPT, ballot(round, node));
    message.first = first;
    message.entry_count = count;
    message.last = first + count - 1;
    for (uint32_t i = 0; i < count; i++)
        message.entries[i] = (struct paxos_message_entry){.ballot = message.ballot, .time = 100 * round + first + i};
    return message;
}

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

Test(paxos, a_candidate_of_a_volatile_group_waits_for_no_disk)
{
    self.options.memory_only = true;
    now += 400 * MS;
    cr_assert_eq(step((struct paxos_event){.type = PAXOS_EVENT_CAMPAIGN}), SLUICE_OK);
    cr_assert_eq(receive(from(3, PAXOS_PREVOTE_REPLY, self.standing)), SLUICE_OK);
    persist();
    cr_assert_eq(receive(promise_beyond_the_window()), SLUICE_OK);
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

/* ---- Members ---- */

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

Test(members, a_candidate_needs_a_quorum_of_those_whom_the_log_that_it_adopts_names, .init = open_paxos)
{
    pairs_set_member(&pairs, 4, true);
    stand();
    promise_with(2, 1, 2, 0x1e); /* node 4 was added, and something followed: so that was chosen */
    cr_assert_eq(self.role, PAXOS_CANDIDATE, "two of four are no quorum");
    cr_assert_not_null(sent(4, PAXOS_PREPARE), "the new voter is asked");
    promise_with(4, 1, 2, 0x1e);
    cr_assert_eq(self.role, PAXOS_LEADER);
}

Test(members, a_change_that_may_not_have_been_chosen_does_not_govern_yet, .init = open_paxos)
{
    stand();
    promise_with(2, 1, 1, 0x1e);
    cr_assert_eq(self.role, PAXOS_LEADER, "it is the log's last entry: its own quorum is that of the three");
    cr_assert_eq(self.members.voters, 0xe);
    cr_assert_eq(paxos_room(&self), 0, "nothing follows it until it is stable");
}

Test(members, the_vote_of_a_process_before_the_one_that_was_added_is_none, .init = open_paxos)
{
    paxos_members_apply(&self.members, 0x6, 0, 0);
    paxos_members_apply(&self.members, 0xe, process(5), 0); /* node 3 was added as its process 5 */
    stand();
    promise_with(3, 4, 0, 0);
    cr_assert_eq(self.role, PAXOS_CANDIDATE);
    promise_with(2, 1, 0, 0);
    cr_assert_eq(self.role, PAXOS_LEADER);
}

Test(members, a_page_may_hold_any_number_of_changes, .init = open_paxos)
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

Test(members, one_is_added_or_removed_at_a_time_and_alone, .init = open_paxos)
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

Test(members, who_was_just_added_is_not_removed_for_what_it_said_before_it_heard_of_that, .init = open_paxos)
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
    cr_assert_eq(receive(forgotten), SLUICE_OK);
    cr_assert(paxos_next_members(&self, &voters, &instance), "a later process of it that has forgotten is");
    cr_assert_eq(voters, 2 | 4 | 8);
}

/* ---- Handing over, reading, snapshots ---- */

Test(handover, the_leader_ceases_to_read_before_its_successor_may_stand, .init = open_paxos)
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

Test(handover, only_the_ballot_that_was_given_up_gives_way_to_the_successor, .init = open_paxos)
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

Test(handover, a_leader_whose_successor_does_not_keep_up_goes_on, .init = open_paxos)
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

Test(reads, a_round_is_done_once_a_quorum_has_echoed_it, .init = open_paxos)
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

static void propose(uint32_t size)
{
    const struct paxos_proposal proposal = {.time = paxos_time_floor(&self) + 1, .size = size};
    cr_assert_eq(step((struct paxos_event){.type = PAXOS_EVENT_PROPOSE, .proposals = &proposal, .proposal_count = 1}),
                 SLUICE_OK);
}

/* Node 1 leads with node 2, and six entries are stable that node 3 has not. */
static void leave_behind(void)
{
    lead();
    persist();
    accepted(2, 1);
    for (uint64_t i = 2; i <= 6; i++) {
        propose(0);
        persist();
        accepted(2, i);
    }
    cr_assert_eq(self.stable, 6);
}

Test(feeding, who_lags_is_fed_in_its_turn_page_by_page, .init = open_paxos)
{
    leave_behind();
    pace.due_ns = now + 40 * MS;
    accepted(3, 1);
    cr_assert_null(sent(3, PAXOS_ACCEPT));
    cr_assert_leq(paxos_next_tick_ns(&self), pace.due_ns);
    now += 40 * MS;
    grant(2);
    grant(3);
    cr_assert_eq(step((struct paxos_event){.type = PAXOS_EVENT_TICK}), SLUICE_OK);
    cr_assert_eq(sent(3, PAXOS_ACCEPT)->first, 2);
    cr_assert_eq(sent(3, PAXOS_ACCEPT)->entry_count, 5);
    /* Only two of them fitted; the next page begins behind those, and not before they were received. */
    paxos_fed(&self, 3, 2, 2, 5000);
    accepted(3, 2);
    cr_assert_null(sent(3, PAXOS_ACCEPT));
    accepted(3, 3);
    cr_assert_eq(sent(3, PAXOS_ACCEPT)->first, 4);
}

Test(feeding, who_lags_waits_for_no_turn_where_a_quorum_waits_for_it, .init = open_paxos)
{
    leave_behind();
    pace.due_ns = now + 10000 * MS;
    accepted(3, 1);
    cr_assert_null(sent(3, PAXOS_ACCEPT));
    propose(0);
    persist();
    cr_assert_null(sent(3, PAXOS_ACCEPT));
    uint64_t began = now;
    uint32_t entries = 0;
    for (int i = 0; i < 11; i++) {
        cr_assert_leq(paxos_next_tick_ns(&self), began + 101 * MS, "it asks to be looked at by then");
        cr_assert_eq(entries, 0, "after %d ms nobody else has failed", 10 * i);
        now += 10 * MS;
        grant(2);
        grant(3);
        cr_assert_eq(step((struct paxos_event){.type = PAXOS_EVENT_TICK}), SLUICE_OK);
        entries += sent(3, PAXOS_ACCEPT) == NULL ? 0 : sent(3, PAXOS_ACCEPT)->entry_count;
    }
    cr_assert_eq(entries, 6, "node 2 does not answer, so node 3 is needed");
}

Test(feeding, what_is_not_acknowledged_has_a_bound_in_bytes, .init = open_paxos)
{
    lead();
    persist();
    accepted(2, 1);
    accepted(3, 1);
    propose(1 << 20);
    cr_assert_not_null(sent(3, PAXOS_ACCEPT));
    propose(1);
    cr_assert_null(sent(3, PAXOS_ACCEPT));
    accepted(3, 2);
    cr_assert_eq(sent(3, PAXOS_ACCEPT)->first, 3);
}

Test(snapshots, who_lacks_what_cannot_be_fed_gets_a_snapshot_and_no_entries, .init = open_paxos)
{
    lead();
    persist();
    accepted(2, 1);
    for (uint64_t i = 2; i <= 2 * WINDOW + 4; i++) {
        const struct paxos_proposal proposal = {.time = paxos_time_floor(&self) + 1};
        cr_assert_eq(
            step((struct paxos_event){.type = PAXOS_EVENT_PROPOSE, .proposals = &proposal, .proposal_count = 1}),
            SLUICE_OK);
        persist();
        accepted(2, i);
    }
    cr_assert_eq(step((struct paxos_event){.type = PAXOS_EVENT_COMPACT, .index = self.stable - 1}), SLUICE_INVALID);
    cr_assert_eq(step((struct paxos_event){.type = PAXOS_EVENT_COMPACT, .index = self.stable - WINDOW}), SLUICE_OK);
    accepted(3, 1);
    cr_assert_eq(effect(PAXOS_EFFECT_SNAPSHOT)->node, 3);
    cr_assert_null(sent(3, PAXOS_ACCEPT));
    accepted(3, 1);
    cr_assert_null(effect(PAXOS_EFFECT_SNAPSHOT), "one at a time");
    cr_assert_eq(step((struct paxos_event){.type = PAXOS_EVENT_SNAPSHOT_ENDED, .node = 3}), SLUICE_OK);
    accepted(3, self.stable - 2);
    cr_assert_null(effect(PAXOS_EFFECT_SNAPSHOT));
    cr_assert_eq(sent(3, PAXOS_ACCEPT)->first, self.stable - 1);
}

Test(snapshots, what_was_installed_is_stable_and_brings_the_members, .init = open_paxos)
{
    struct paxos_snapshot snapshot = {.index = 500, .time = 77, .opened = ballot(3, 2), .members = {.voters = 0x16}};
    const struct paxos_event event = {.type = PAXOS_EVENT_INSTALLED, .snapshot = &snapshot};
    cr_assert_eq(step(event), SLUICE_OK);
    cr_assert_eq(self.stable, 500);
    cr_assert_eq(self.last, 500);
    cr_assert_eq(self.members.voters, 0x16);
    cr_assert_geq(paxos_time_floor(&self), 77);
    snapshot.index = 400;
    snapshot.members.voters = 0x2;
    cr_assert_eq(step(event), SLUICE_OK);
    cr_assert_eq(self.members.voters, 0x16, "an older one changes nothing");
    cr_assert_eq(receive(accept(2, 9, 501, 2)), SLUICE_OK);
    cr_assert_eq(self.match, 502);
}

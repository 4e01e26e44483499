#include <criterion/criterion.h>

#include "core/consensus/paxos.h"

#define MS UINT64_C(1000000)

static const struct pairs_options options = {.node = 1,
                                             .incarnation = 5,
                                             .lease_ns = 60 * MS,
                                             .beat_ns = 20 * MS,
                                             .idle_lease_ns = 300 * MS,
                                             .idle_beat_ns = 100 * MS,
                                             .idle_after_ns = 1000 * MS,
                                             .drift_ppm = 1000,
                                             .ceiling_ahead_ns = 250 * MS};
static struct pairs pairs;
static struct pairs_effects effects;

static void open_pairs(void)
{
    pairs_init(&pairs, &options, 10 * MS, 0);
    pairs_set_member(&pairs, 2, true);
    effects.count = 0;
}

static struct pairs_message beat(uint64_t incarnation, uint64_t sent, uint64_t lease)
{
    return (struct pairs_message){.type = PAIRS_BEAT, .incarnation = incarnation, .sent_ns = sent, .lease_ns = lease};
}

static struct pairs_message acknowledgement(uint64_t sent, uint64_t lease)
{
    return (struct pairs_message){
        .type = PAIRS_BEAT_ACK, .incarnation = 3, .peer_incarnation = 5, .sent_ns = sent, .lease_ns = lease};
}

static void receive(struct pairs_message message, uint64_t now)
{
    effects.count = 0;
    cr_assert_eq(pairs_receive(&pairs, 2, &message, now, 1, &effects), SLUICE_OK);
}

TestSuite(pairs, .init = open_pairs);

Test(pairs, a_beat_is_a_grant_that_runs_from_its_receipt)
{
    receive(beat(3, 1, 60 * MS), 1000 * MS);
    cr_assert(pairs_grant_runs(&pairs, 2, 1059 * MS));
    cr_assert_not(pairs_grant_runs(&pairs, 2, 1060 * MS));
    cr_assert_eq(effects.items[0].message.type, PAIRS_BEAT_ACK);
    cr_assert_eq(effects.items[0].message.sent_ns, 1, "the acknowledgement names the beat that it answers");
}

Test(pairs, a_lease_counts_from_sending_and_is_shorter_by_the_drift_bound)
{
    receive(acknowledgement(1000 * MS, 60 * MS), 1030 * MS);
    cr_assert_lt(pairs.peers[2].lease_until_ns, 1060 * MS);
    cr_assert_gt(pairs.peers[2].lease_until_ns, 1059 * MS);
}

Test(pairs, an_acknowledgement_to_a_former_process_is_no_lease)
{
    struct pairs_message message = acknowledgement(1000 * MS, 60 * MS);
    message.peer_incarnation = 4;
    receive(message, 1001 * MS);
    cr_assert_eq(pairs.peers[2].lease_until_ns, 0);
}

Test(pairs, what_a_former_process_said_late_is_ignored)
{
    receive(beat(3, 1, 60 * MS), 1000 * MS);
    receive(beat(2, 1, 300 * MS), 1001 * MS);
    cr_assert_not(pairs_grant_runs(&pairs, 2, 1100 * MS));
    cr_assert_eq(pairs.peers[2].incarnation, 3);
}

Test(pairs, a_new_process_of_a_peer_ends_what_the_former_one_held)
{
    receive(acknowledgement(1000 * MS, 60 * MS), 1001 * MS);
    receive(beat(4, 1, 0), 1010 * MS);
    cr_assert_eq(pairs.peers[2].lease_until_ns, 0);
}

Test(pairs, proof_of_death_ends_a_grant_and_a_closed_connection_does_not)
{
    receive(beat(3, 1, 60 * MS), 1000 * MS);
    pairs_peer_down(&pairs, 2, 3, false);
    cr_assert(pairs_grant_runs(&pairs, 2, 1002 * MS));
    cr_assert_not(pairs_alive(&pairs, 2, 3, 1002 * MS), "but elections may begin");
    pairs_peer_down(&pairs, 2, 3, true);
    cr_assert_not(pairs_grant_runs(&pairs, 2, 1004 * MS));
}

Test(pairs, late_proof_of_a_former_process_does_not_end_the_grant_of_the_one_that_followed_it)
{
    receive(beat(3, 1, 60 * MS), 1000 * MS);
    receive(beat(4, 2, 60 * MS), 1010 * MS);
    pairs_peer_down(&pairs, 2, 3, true);
    cr_assert(pairs_grant_runs(&pairs, 2, 1011 * MS));
    cr_assert(pairs_alive(&pairs, 2, 4, 1011 * MS));
}

Test(pairs, proof_of_the_death_of_a_process_that_was_not_heard_yet_holds_for_it_and_its_predecessors)
{
    receive(beat(3, 1, 60 * MS), 1000 * MS);
    pairs_peer_down(&pairs, 2, 4, true);
    cr_assert_not(pairs_grant_runs(&pairs, 2, 1001 * MS));
    receive(beat(3, 2, 60 * MS), 1002 * MS);
    cr_assert_not(pairs_grant_runs(&pairs, 2, 1003 * MS));
}

Test(pairs, no_lease_is_longer_than_a_restarted_voter_waits)
{
    receive(beat(3, 1, UINT64_MAX / 2), 1000 * MS);
    cr_assert_not(pairs_grant_runs(&pairs, 2, 1301 * MS));
}

Test(pairs, defections_ride_in_acknowledgements)
{
    pairs_defect(&pairs, 2);
    receive(beat(3, 1, 60 * MS), 1000 * MS);
    cr_assert_eq(effects.items[0].message.defections, 1);
}

Test(pairs, a_ceiling_is_acknowledged_only_once_it_is_durable)
{
    struct pairs_message message = beat(3, 1, 60 * MS);
    message.ceiling = 777;
    receive(message, 1000 * MS);
    cr_assert_eq(effects.count, 2);
    cr_assert_eq(effects.items[0].type, PAIRS_EFFECT_PERSIST_CEILING);
    cr_assert_eq(effects.items[1].message.ceiling, 0);
    pairs_persisted(&pairs, effects.items[0].sequence);
    receive(beat(3, 2, 60 * MS), 1020 * MS);
    cr_assert_eq(effects.items[0].message.ceiling, 777);
    cr_assert_geq(pairs.ceiling_highest, 777, "a promise reports it");
}

Test(pairs, beats_are_frequent_with_work_and_seldom_without)
{
    uint64_t next = 0;
    pairs_tick(&pairs, 5000 * MS, 1, &effects, &next);
    cr_assert_eq(next, 5100 * MS);
    pairs_work(&pairs, 5010 * MS);
    effects.count = 0;
    pairs_tick(&pairs, 5010 * MS, 1, &effects, &next);
    cr_assert_eq(effects.count, 1, "the first work after idling makes a beat due at once");
    cr_assert_eq(next, 5030 * MS);
}

Test(pairs, nonsense_is_refused_and_changes_nothing)
{
    struct pairs_message message = beat(3, 1, 60 * MS);
    struct pairs before = pairs;
    cr_assert_eq(pairs_receive(&pairs, 9, &message, MS, 1, &effects), SLUICE_INVALID);
    cr_assert_eq(pairs_receive(&pairs, 0, &message, MS, 1, &effects), SLUICE_INVALID);
    message.type = 99;
    cr_assert_eq(pairs_receive(&pairs, 2, &message, MS, 1, &effects), SLUICE_INVALID);
    message = acknowledgement(2 * MS, 60 * MS);
    cr_assert_eq(pairs_receive(&pairs, 2, &message, MS, 1, &effects), SLUICE_INVALID,
                 "an answer to a beat of the future");
    cr_assert_eq(memcmp(&before, &pairs, sizeof(pairs)), 0);
}

Test(quorum, a_majority_is_needed_whatever_the_order)
{
    const uint64_t three[] = {5, 9, 1}, five[] = {9, 1, 9, 2, 9}, one[] = {4}, four[] = {1, 2, 3, 4};
    cr_assert_eq(quorum_reached(three, 3), 5);
    cr_assert_eq(quorum_reached(five, 5), 9);
    cr_assert_eq(quorum_reached(one, 1), 4);
    cr_assert_eq(quorum_reached(four, 4), 2, "two of four are no majority");
    for (uint32_t replicas = 1; replicas <= PAXOS_REPLICAS_MAX; replicas++)
        cr_assert_gt(2 * quorum_size(replicas), replicas, "two quorums of %u meet", replicas);
}

#define SPAN (250 * MS)
#define WALL (UINT64_C(1700000000000) * MS)

Test(pairs, a_ceiling_is_a_span_ahead_and_renewed_when_half_of_it_is_left)
{
    pairs_want_ceiling(&pairs, WALL, WALL);
    cr_assert_eq(pairs.ceiling_wanted, WALL + SPAN);
    pairs_want_ceiling(&pairs, WALL + SPAN / 2, WALL + SPAN / 2);
    cr_assert_eq(pairs.ceiling_wanted, WALL + SPAN, "as long as half is left nothing is written");
    pairs_want_ceiling(&pairs, WALL + SPAN / 2 + 1, WALL + SPAN / 2 + 1);
    cr_assert_eq(pairs.ceiling_wanted, WALL + SPAN / 2 + 1 + SPAN);
}

/* A new leader's times begin above all ceilings. Were a ceiling counted from those, each election would carry the
 * cluster's times further ahead of its clocks. */
Test(pairs, however_many_leaders_begin_above_a_ceiling_it_stays_within_a_span_of_the_clock)
{
    uint64_t time = WALL, writes = 0, before = 0;
    for (unsigned leaders = 0; leaders < 100; leaders++) {
        for (uint64_t wall = WALL + leaders * MS; wall < WALL + leaders * MS + MS; wall += MS / 10) {
            time = time > wall ? time + 1 : wall;
            pairs_want_ceiling(&pairs, time, wall);
            cr_assert_leq(pairs.ceiling_wanted, wall + SPAN);
            writes += pairs.ceiling_wanted != before;
            before = pairs.ceiling_wanted;
        }
        time = pairs.ceiling_wanted + 1; /* the next one */
    }
    cr_assert_leq(time, WALL + 100 * MS + SPAN + 1);
    cr_assert_leq(writes, 101, "not for each step of the clock");
}

Test(pairs, a_time_within_reach_gets_its_ceiling_at_once)
{
    pairs_want_ceiling(&pairs, WALL, WALL);
    uint64_t wall = WALL + MS, wanted = WALL + SPAN + MS / 2;
    pairs_want_ceiling(&pairs, wanted, wall);
    cr_assert_geq(pairs.ceiling_wanted, wanted);
}

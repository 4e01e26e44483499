/* Followers that lag: entries in pages, and snapshots. */
#include <criterion/criterion.h>
#include <string.h>

#include "tests/unit/consensus/one.h"

TestSuite(feeding, .init = open_paxos);
TestSuite(snapshots, .init = open_paxos);

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

Test(feeding, who_lags_is_fed_in_its_turn_page_by_page)
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

Test(feeding, who_lags_waits_for_no_turn_where_a_quorum_waits_for_it)
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

Test(feeding, what_is_not_acknowledged_has_a_bound_in_bytes)
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

Test(snapshots, who_lacks_what_cannot_be_fed_gets_a_snapshot_and_no_entries)
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

Test(snapshots, what_was_installed_is_stable_and_brings_the_members)
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

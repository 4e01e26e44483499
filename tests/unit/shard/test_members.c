/* Members that change, a lead that is handed over, and reads that ask a quorum. */
#include <criterion/criterion.h>
#include <string.h>

#include "tests/unit/shard/small.h"

static void start(uint32_t count, uint64_t founders)
{
    small_open(count);
    small.founders = founders;
    for (uint16_t id = 1; id <= count; id++)
        small_start(id);
}

static void want(const uint16_t *nodes, uint32_t count)
{
    struct host_wanted wanted[PAXOS_REPLICAS_MAX];
    for (uint32_t i = 0; i < count; i++)
        wanted[i] = (struct host_wanted){.node = nodes[i], .since = small.joined >> nodes[i] & 1};
    for (uint16_t id = 1; id <= small.count; id++)
        if (small.nodes[id].up)
            host_group_want(small.nodes[id].host, 1, wanted, count);
}

static uint64_t wanted_mask;

static bool settled(void)
{
    uint16_t leader = small_leader();
    return leader != 0 && small_replica(leader)->paxos.members.voters == wanted_mask &&
           (wanted_mask >> leader & 1) != 0;
}

static void count_members(void *arg, const struct host_group_status *status)
{
    *(uint64_t *)arg = status->members;
}

TestSuite(members, .fini = small_close);

Test(members, a_node_is_replaced_by_another_and_no_write_is_lost)
{
    char value[16] = "";
    start(4, 0xe); /* nodes 1 to 3 */
    for (int i = 0; i < 20; i++)
        small_put("key", "before", 6);
    const uint16_t nodes[] = {1, 2, 4};
    want(nodes, 3);
    wanted_mask = 0x16;
    cr_assert(small_until(settled, 5000 * SMALL_MS), "members are %llx",
              (unsigned long long)small_replica(small_wait_leader())->paxos.members.voters);
    small_run(300 * SMALL_MS);
    cr_assert_eq(small.nodes[1].members, 0x16, "the node is told");
    uint64_t told = 0;
    host_each_group(small.nodes[4].host, count_members, &told);
    cr_assert_eq(told, 0x16);
    /* The new member counts, and the old one does not: 1 and 3 are no quorum any more, 1 and 4 are one. */
    small_stop(2);
    small_stop(3);
    small_put("key", "after", 5);
    cr_assert_eq(small_get("key", value, sizeof(value)), SLUICE_OK);
    cr_assert_str_eq(value, "after");
}

Test(members, a_change_survives_the_restart_of_every_process)
{
    start(4, 0xe);
    small_put("key", "before", 6);
    const uint16_t nodes[] = {2, 3, 4};
    want(nodes, 3);
    wanted_mask = 0x1c;
    cr_assert(small_until(settled, 5000 * SMALL_MS));
    small_run(300 * SMALL_MS);
    for (uint16_t id = 1; id <= 4; id++)
        small_stop(id);
    for (uint16_t id = 2; id <= 4; id++)
        small_start(id);
    uint16_t leader = small_wait_leader();
    cr_assert_eq(small_replica(leader)->paxos.members.voters, 0x1c);
    small_put("key", "after", 5);
}

Test(members, the_leader_itself_is_removed_after_it_has_handed_over)
{
    start(4, 0xe);
    small_put("key", "before", 6);
    uint16_t leader = small_wait_leader(), nodes[3], count = 0;
    wanted_mask = 0;
    for (uint16_t id = 1; id <= 4; id++)
        if (id != leader) {
            nodes[count++] = id;
            wanted_mask |= UINT64_C(1) << id;
        }
    want(nodes, 3);
    cr_assert(small_until(settled, 5000 * SMALL_MS));
    cr_assert_neq(small_leader(), leader);
    small_put("key", "after", 5);
}

Test(members, writes_that_come_while_members_change_wait_and_are_not_refused)
{
    static struct small_link links[400];
    start(4, 0xe);
    small_put("key", "before", 6);
    memset(links, 0, sizeof(links));
    uint16_t leader = small_wait_leader();
    const uint16_t grown[] = {1, 2, 3, 4};
    want(grown, 4);
    for (int i = 0; i < 400; i++) {
        small_send_write(leader, &links[i], "key", "x", 1, 0);
        small_run(SMALL_MS);
    }
    wanted_mask = 0x1e;
    cr_assert(settled());
    small_run(200 * SMALL_MS);
    for (int i = 0; i < 400; i++)
        cr_assert(links[i].replies == 1 && links[i].header.status == SLUICE_OK, "write %d: %u", i,
                  links[i].header.status);
}

Test(members, a_lead_is_handed_over_within_a_few_milliseconds_and_back)
{
    start(3, 0);
    small_put("key", "before", 6);
    for (int i = 0; i < 6; i++) {
        uint16_t leader = small_wait_leader(), next = (uint16_t)(leader % 3 + 1);
        small_run(100 * SMALL_MS);
        host_group_transfer(small.nodes[leader].host, 1, next);
        small_run(10 * SMALL_MS);
        cr_assert_eq(small_leader(), next);
        cr_assert_eq(host_leads(small.nodes[leader].host), 0);
        small_put("key", "after", 5);
    }
}

Test(members, a_clean_stop_hands_over_whatever_is_led)
{
    start(3, 0);
    small_put("key", "before", 6);
    uint16_t leader = small_wait_leader();
    small_run(100 * SMALL_MS);
    host_transfer_all(small.nodes[leader].host);
    small_run(10 * SMALL_MS);
    cr_assert_eq(host_leads(small.nodes[leader].host), 0);
    cr_assert(small_leader() != 0 && small_leader() != leader);
}

static bool votes_again(void)
{
    uint16_t leader = small_leader();
    if (leader == 0 || small_replica(2)->paxos.options.amnesiac)
        return false;
    const struct paxos_members *members = &small_replica(leader)->paxos.members;
    return members->voters == 0xe && paxos_members_instance(members, 2) == small_replica(2)->paxos.options.instance;
}

Test(members, a_replica_that_lost_its_log_has_no_vote_until_it_was_taken_in_anew)
{
    start(3, 0);
    const uint16_t nodes[] = {1, 2, 3};
    want(nodes, 3);
    for (int i = 0; i < 30; i++)
        small_put("key", "value", 5);
    if (small_wait_leader() == 2) {
        small_run(100 * SMALL_MS);
        host_group_transfer(small.nodes[2].host, 1, 3);
        small_run(50 * SMALL_MS);
    }
    cr_assert_neq(small_leader(), 2);
    small_stop(2);
    /* Its disk is empty. */
    for (size_t i = 0; i < small.nodes[2].record_count; i++)
        buf_unref(small.nodes[2].records[i].entry.body);
    small.nodes[2].record_count = 0;
    small.lost = 1 << 2;
    small_start(2);
    cr_assert(small_replica(2)->paxos.options.amnesiac);
    small.lost = 0;
    cr_assert_gt(small.nodes[2].record_count, 0);
    small_stop(2);
    small_start(2);
    cr_assert(small_replica(2)->paxos.options.amnesiac, "a restart does not give the vote back");
    want(nodes, 3);
    small_put("key", "value", 5);
    cr_assert(small_until(votes_again, 10000 * SMALL_MS));
    small_run(300 * SMALL_MS);
    small_stop(2);
    small_start(2);
    cr_assert_not(small_replica(2)->paxos.options.amnesiac, "taken in anew, it votes after a restart too");
    small_stop((uint16_t)(small_wait_leader() == 1 ? 3 : 1));
    small_put("key", "after", 5);
}

Test(members, a_founder_that_left_and_came_back_empty_does_not_vote_by_its_former_membership)
{
    start(4, 0xe);
    small_put("key", "value", 5);
    small_stop(1);
    for (size_t i = 0; i < small.nodes[1].record_count; i++)
        buf_unref(small.nodes[1].records[i].entry.body);
    small.nodes[1].record_count = 0;
    small.joined = 1 << 1;
    small_start(1);
    cr_assert(small_replica(1)->paxos.options.amnesiac);
    const uint16_t nodes[] = {1, 2, 3, 4};
    want(nodes, 4);
    small_put("key", "value", 5);
    wanted_mask = 0x1e;
    small_run(3000 * SMALL_MS);
    cr_assert(settled());
    cr_assert_not(small_replica(1)->paxos.options.amnesiac);
    small_run(200 * SMALL_MS);
    small_stop(1);
    small_start(1);
    cr_assert_not(small_replica(1)->paxos.options.amnesiac);
    /* A map of before tells nothing of its coming back, but its disk does. */
    small_stop(1);
    small.joined = 0;
    small_start(1);
    cr_assert_eq(host_group_since(small.nodes[1].host, 1), 1);
    cr_assert_not(small_replica(1)->paxos.options.amnesiac);
    cr_assert_gt(small_replica(1)->paxos.stable, 0);
}

Test(members, a_value_that_fills_a_page_is_fed_to_who_lags_with_whatever_follows_it)
{
    static uint8_t value[PAXOS_MESSAGE_BYTES_MAX + 100];
    start(3, 0);
    uint16_t leader = small_wait_leader(), late = leader == 3 ? 2 : 3, other = (uint16_t)(6 - leader - late);
    small_stop(late);
    small_put("key", value, sizeof(value));
    host_group_transfer(small.nodes[leader].host, 1, other);
    small_run(200 * SMALL_MS);
    cr_assert_eq(small_leader(), other, "its no-op, which has no body, follows the value");
    small_put("key", "value", 5);
    small_start(late);
    small_run(1000 * SMALL_MS);
    cr_assert_eq(small_replica(late)->paxos.stable, small_replica(other)->paxos.stable);
}

/* ---- Reads without a lease ---- */

static void start_leaseless(void)
{
    small_open(3);
    small.options.leases_off = true;
    for (uint16_t id = 1; id <= 3; id++)
        small_start(id);
}

Test(reads, without_leases_a_quorum_is_asked_and_one_round_serves_all_that_wait, .init = start_leaseless,
     .fini = small_close)
{
    static struct small_link links[50];
    char value[16] = "";
    struct host_figures before, after;
    small_put("key", "value", 5);
    cr_assert_eq(small_get("key", value, sizeof(value)), SLUICE_OK);
    cr_assert_str_eq(value, "value");
    uint16_t leader = small_wait_leader();
    memset(links, 0, sizeof(links));
    host_figures(small.nodes[leader].host, &before);
    for (int i = 0; i < 50; i++)
        small_send_get(leader, &links[i], "key", 0);
    small_run(5 * SMALL_MS);
    host_figures(small.nodes[leader].host, &after);
    for (int i = 0; i < 50; i++)
        cr_assert(links[i].replies == 1 && links[i].header.status == SLUICE_OK);
    cr_assert_eq(after.read_rounds - before.read_rounds, 1);
}

Test(reads, a_leader_that_reaches_nobody_answers_no_read, .init = start_leaseless, .fini = small_close)
{
    struct small_link link = {0};
    small_put("key", "value", 5);
    uint16_t leader = small_wait_leader();
    for (uint16_t id = 1; id <= 3; id++)
        small.cut[leader][id] = small.cut[id][leader] = true;
    small_send_get(leader, &link, "key", 0);
    small_run(2000 * SMALL_MS);
    cr_assert_eq(link.replies, 1);
    cr_assert_neq(link.header.status, SLUICE_OK);
}

Test(reads, one_node_alone_reads_without_a_lease, .fini = small_close)
{
    char value[16] = "";
    small_open(1);
    small.options.leases_off = true;
    small_start(1);
    small_put("key", "value", 5);
    cr_assert_eq(small_get("key", value, sizeof(value)), SLUICE_OK);
    cr_assert_str_eq(value, "value");
}

static void cut(uint16_t node, bool off)
{
    for (uint16_t other = 1; other <= small.count; other++)
        small.cut[node][other] = small.cut[other][node] = off;
}

/* A node starts with a map that is older than its leaving: it opens the group as the founder that it was. What it
 * acknowledged then is gone, and so its vote has to be, or it and another that missed the change would be a quorum of
 * former days. */
Test(members, a_replica_that_was_erased_has_no_vote_under_the_members_of_before)
{
    start(4, 0xe);
    small_put("key", "before", 6);
    uint16_t leader = small_wait_leader(), left = leader == 1 ? 2 : 1, behind = (uint16_t)(6 - leader - left);
    cut(behind, true);
    const uint16_t nodes[] = {leader, behind, 4};
    want(nodes, 3);
    wanted_mask = UINT64_C(1) << leader | UINT64_C(1) << behind | UINT64_C(1) << 4;
    cr_assert(small_until(settled, 5000 * SMALL_MS));
    small_put("key", "after", 5);
    uint32_t group = 99;
    bool closed;
    host_group_leave(small.nodes[left].host, 1);
    cr_assert(host_next_left(small.nodes[left].host, 0, &group, &closed) && group == 1 && closed);
    cr_assert_eq(host_erase_left(small.nodes[left].host, 1), SLUICE_OK);
    cr_assert_not(host_next_left(small.nodes[left].host, 0, &group, &closed));
    small_stop(left);
    small_start(left);
    cut(leader, true);
    cut(4, true);
    small.cut[behind][left] = small.cut[left][behind] = false;
    for (int i = 0; i < 5000; i++) {
        small_run(SMALL_MS);
        cr_assert_not(small_replica(behind)->leading, "what was acknowledged as \"after\" is lost");
        cr_assert_not(small_replica(left)->leading);
    }
}

/* It was to be erased at leisure, and is wanted again before that: it begins anew all the same. */
Test(members, a_replica_that_comes_back_before_it_was_erased_begins_empty)
{
    const struct store_options options = {.path = "/store", .memory = true};
    char error[256];
    uint32_t group;
    bool closed;
    small_open(3);
    cr_assert_eq(store_open(&options, &small.stores[3], error, sizeof(error)), SLUICE_OK, "%s", error);
    for (uint16_t id = 1; id <= 3; id++)
        small_start(id);
    for (int i = 0; i < 20; i++)
        small_put("key", "before", 6);
    small_run(100 * SMALL_MS);
    struct host *host = small.nodes[3].host;
    cr_assert_gt(small_replica(3)->paxos.stable, 0);
    host_group_leave(host, 1);
    struct host_group again = {.group = 1, .epoch = 1, .replicas = {1, 2, 3}, .replica_count = 3, .since = 7};
    cr_assert_eq(host_group_add(host, &again), SLUICE_OK);
    cr_assert_eq(versions_applied(host_group_versions(host, 1), NULL), 0);
    cr_assert_not(host_next_left(host, 0, &group, &closed));
    for (uint16_t id = 1; id <= 3; id++)
        small_stop(id);
    store_close(small.stores[3]);
    small.stores[3] = NULL;
}

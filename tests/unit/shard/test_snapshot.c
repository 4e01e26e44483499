/* A replica that lacks much gets it as a snapshot: whole, in bounded memory, going on after breaks. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/shard/small.h"

static uint64_t entries_seen, chunks_seen;
static uint32_t lose_one_in; /* frames of snapshots; 0: none */
static struct random chance;

static bool look(struct small_frame *frame)
{
    struct peer_header header;
    struct peer_snapshot snapshot;
    memcpy(&header, frame->data, sizeof(header));
    if (header.kind != PEER_SNAPSHOT && header.kind != PEER_SNAPSHOT_ACK)
        return true;
    if (lose_one_in != 0 && random_below(&chance, lose_one_in) == 0)
        return false;
    if (header.kind != PEER_SNAPSHOT)
        return true;
    memcpy(&snapshot, frame->data + sizeof(header), sizeof(snapshot));
    if (snapshot.type == PEER_SNAPSHOT_ENTRIES) {
        entries_seen += snapshot.count;
        chunks_seen++;
    }
    return true;
}

static void start(void)
{
    small_open(3);
    small.options.behind_max = 100;
    small.options.snapshot_chunk = 2000;
    small.filter = look;
    entries_seen = chunks_seen = lose_one_in = 0;
    for (uint16_t id = 1; id <= 3; id++)
        small_start(id);
}

TestSuite(snapshot, .init = start, .fini = small_close);

static void put_many(int count)
{
    char key[16], value[64];
    for (int i = 0; i < count; i++) {
        snprintf(key, sizeof(key), "key%d", i % 50);
        snprintf(value, sizeof(value), "value %d, and some more so that chunks fill", i);
        small_put(key, value, strlen(value));
    }
}

static uint16_t returning;

static bool caught_up(void)
{
    uint16_t leader = small_leader();
    return leader != 0 && small_replica(returning)->paxos.stable == small_replica(leader)->paxos.stable &&
           small_replica(leader)->sendings == NULL;
}

static bool same_facts(void);

/* The follower holds byte for byte what the leader holds. */
static void same_state(uint16_t id)
{
    struct versions *ours = small_replica(id)->versions, *theirs = small_replica(small_leader())->versions;
    uint64_t time, their_time, last = versions_applied(theirs, &their_time);
    cr_assert_eq(versions_applied(ours, &time), last);
    cr_assert_eq(time, their_time);
    for (uint64_t revision = 1; revision <= last; revision++) {
        struct entry a, b;
        cr_assert_eq(versions_entry(ours, revision, &a), SLUICE_OK);
        cr_assert_eq(versions_entry(theirs, revision, &b), SLUICE_OK);
        cr_assert(a.time == b.time && a.kind == b.kind && a.body_crc == b.body_crc);
        buf_unref(a.body);
        buf_unref(b.body);
    }
    for (int i = 0; i < 50; i++) {
        char key[16];
        struct version a, b;
        snprintf(key, sizeof(key), "key%d", i);
        const struct slice name = {key, strlen(key)};
        cr_assert_eq(versions_latest(ours, name, true, &a), SLUICE_OK);
        cr_assert_eq(versions_latest(theirs, name, true, &b), SLUICE_OK);
        cr_assert(a.version == b.version && a.revision == b.revision && a.value_size == b.value_size &&
                  memcmp(a.value, b.value, a.value_size) == 0);
        version_release(&a);
        version_release(&b);
    }
    cr_assert(same_facts());
}

static void sum_fact(void *arg, struct slice name, struct slice value)
{
    uint64_t hash = 1;
    for (size_t i = 0; i < name.size; i++)
        hash = hash * 31 + ((const uint8_t *)name.data)[i];
    for (size_t i = 0; i < value.size; i++)
        hash = hash * 31 + ((const uint8_t *)value.data)[i];
    *(uint64_t *)arg += hash;
}

static bool same_facts(void)
{
    uint64_t sums[2] = {0, 0};
    cr_assert_eq(versions_facts(small_replica(returning)->versions, sum_fact, &sums[0]), SLUICE_OK);
    cr_assert_eq(versions_facts(small_replica(small_leader())->versions, sum_fact, &sums[1]), SLUICE_OK);
    return sums[0] == sums[1];
}

static uint16_t stop_a_follower(void)
{
    returning = (uint16_t)(small_wait_leader() % 3 + 1);
    small_stop(returning);
    return returning;
}

Test(snapshot, a_replica_that_missed_much_gets_a_snapshot_and_then_follows)
{
    put_many(60);
    uint16_t id = stop_a_follower();
    put_many(600);
    small_start(id);
    cr_assert(small_until(caught_up, 5000 * SMALL_MS));
    struct host_figures figures;
    host_figures(small.nodes[id].host, &figures);
    cr_assert_eq(figures.snapshots_installed, 1);
    cr_assert_gt(entries_seen, 500);
    cr_assert_gt(chunks_seen, 10);
    same_state(id);
    put_many(60);
    cr_assert(small_until(caught_up, 1000 * SMALL_MS));
    host_figures(small.nodes[id].host, &figures);
    cr_assert_eq(figures.snapshots_installed, 1, "what comes after it is fed");
    same_state(id);
    /* And it counts: with another one gone, it is half of the quorum. */
    uint16_t other = (uint16_t)(6 - id - small_leader());
    small_stop(other);
    put_many(60);
}

Test(snapshot, a_replica_that_missed_little_is_fed)
{
    put_many(60);
    uint16_t id = stop_a_follower();
    put_many(50);
    small_start(id);
    cr_assert(small_until(caught_up, 5000 * SMALL_MS));
    cr_assert_eq(chunks_seen, 0);
    same_state(id);
}

Test(snapshot, lost_frames_cost_time_and_nothing_else)
{
    random_seed(&chance, 5);
    put_many(60);
    uint16_t id = stop_a_follower();
    put_many(600);
    lose_one_in = 4;
    small_start(id);
    cr_assert(small_until(caught_up, 60000 * SMALL_MS));
    same_state(id);
}

Test(snapshot, a_receiver_that_dies_in_the_midst_goes_on_from_what_it_held)
{
    put_many(60);
    uint16_t id = stop_a_follower();
    put_many(600);
    small_start(id);
    for (int i = 0; i < 200 && entries_seen < 250; i++)
        small_run(SMALL_MS);
    uint64_t held = versions_applied(small_replica(id)->versions, NULL);
    cr_assert(held > 100 && held < 600, "%llu", (unsigned long long)held);
    small_stop(id);
    small_run(10 * SMALL_MS);
    small_start(id);
    cr_assert_gt(versions_applied(small_replica(id)->versions, NULL), 100, "what was on its disk is there");
    uint64_t before = entries_seen;
    cr_assert(small_until(caught_up, 20000 * SMALL_MS));
    cr_assert_lt(entries_seen - before, 560, "what was held did not come again");
    same_state(id);
}

Test(snapshot, a_new_leader_goes_on_with_what_the_old_one_began)
{
    put_many(60);
    uint16_t id = stop_a_follower();
    put_many(600);
    small_start(id);
    for (int i = 0; i < 200 && entries_seen < 250; i++)
        small_run(SMALL_MS);
    uint16_t leader = small_leader(), other = (uint16_t)(6 - id - leader);
    host_group_transfer(small.nodes[leader].host, 1, other);
    small_run(20 * SMALL_MS);
    cr_assert_eq(small_leader(), other);
    cr_assert_null(small_replica(leader)->sendings);
    cr_assert(small_until(caught_up, 20000 * SMALL_MS));
    same_state(id);
}

Test(snapshot, others_write_on_while_it_goes_over_and_what_they_wrote_is_there)
{
    put_many(60);
    uint16_t id = stop_a_follower();
    put_many(600);
    small_start(id);
    put_many(300);
    cr_assert(small_until(caught_up, 20000 * SMALL_MS));
    same_state(id);
}

Test(snapshot, what_is_under_way_is_bounded_whatever_the_receiver_lacks)
{
    put_many(60);
    uint16_t id = stop_a_follower();
    put_many(600);
    small_start(id);
    uint64_t most = 0;
    for (int i = 0; i < 3000 && !caught_up(); i++) {
        uint64_t before = small.nodes[small_leader()].host->figures.snapshot_bytes;
        host_tick(small.nodes[small_leader()].host);
        host_flush(small.nodes[small_leader()].host); /* without the receiver's answers */
        host_flush(small.nodes[small_leader()].host);
        uint64_t burst = small.nodes[small_leader()].host->figures.snapshot_bytes - before;
        most = burst > most ? burst : most;
        small_run(SMALL_MS);
    }
    cr_assert(caught_up());
    cr_assert_leq(most, 4 * 2300);
    same_state(id);
}

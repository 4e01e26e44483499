/* A replica that lacks much gets it as a snapshot: whole, in bounded memory, going on after breaks. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <unistd.h>

#include "core/shard/machine__.h"
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
        enum sluice_status status = versions_entry(theirs, revision, &b);
        if (status == SLUICE_GONE)
            continue; /* it said nothing any more; the other one may have it yet */
        cr_assert_eq(status, SLUICE_OK);
        status = versions_entry(ours, revision, &a);
        if (status == SLUICE_GONE) {
            cr_assert_neq(b.kind, ENTRY_COMMAND);
            buf_unref(b.body);
            continue;
        }
        cr_assert_eq(status, SLUICE_OK);
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
    if (replica__is_own_fact(name))
        return; /* a snapshot says them even where no entry has; they are compared as they are used */
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
    return sums[0] == sums[1] &&
           small_replica(returning)->members.voters == small_replica(small_leader())->members.voters;
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

static struct store *open_store(uint16_t id)
{
    char path[64], command[80], error[200];
    struct store *store = NULL;
    snprintf(path, sizeof(path), "/tmp/sluice-snapshot-%d-%u", (int)getpid(), id);
    snprintf(command, sizeof(command), "rm -rf %s", path);
    cr_assert_eq(system(command), 0);
    const struct store_options options = {.path = path};
    cr_assert_eq(store_open(&options, &store, error, sizeof(error)), SLUICE_OK, "%s", error);
    return store;
}

/* With stores that outlive a process; they are closed by the caller of end_stored. */
static uint16_t start_stored(void)
{
    for (uint16_t id = 1; id <= 3; id++)
        small_stop(id);
    for (uint16_t id = 1; id <= 3; id++) {
        small.stores[id] = open_store(id);
        small_start(id);
    }
    put_many(60);
    uint16_t id = stop_a_follower();
    put_many(600);
    small_start(id);
    for (int i = 0; i < 400 && entries_seen < 250; i++)
        small_run(SMALL_MS / 4);
    return id;
}

static void end_stored(void)
{
    struct store *stores[4];
    memcpy(stores, small.stores, sizeof(stores));
    small_close();
    for (uint16_t id = 1; id <= 3; id++)
        store_close(stores[id]);
    char command[80];
    snprintf(command, sizeof(command), "rm -rf /tmp/sluice-snapshot-%d-?", (int)getpid());
    cr_assert_eq(system(command), 0);
}

Test(snapshot, a_receiver_that_dies_in_the_midst_goes_on_from_what_it_held)
{
    uint16_t id = start_stored();
    uint64_t before_all = entries_seen, position = 0;
    cr_assert_lt(versions_applied(small_replica(id)->versions, NULL), 100, "nothing of it is seen before the end");
    store_flush(small.stores[id]);
    small_stop(id);
    small_run(10 * SMALL_MS);
    small_start(id);
    cr_assert_eq(versions_ingest_begin(small_replica(id)->versions, &position), SLUICE_OK);
    cr_assert(position > 100 && position < 660, "%llu", (unsigned long long)position);
    cr_assert(small_until(caught_up, 20000 * SMALL_MS));
    cr_assert_lt(entries_seen - before_all, 560, "what was held did not come again");
    same_state(id);
    /* What it was given lasts, and it needs no second one. */
    small_stop(id);
    small_start(id);
    cr_assert(small_until(caught_up, 2000 * SMALL_MS));
    same_state(id);
    cr_assert_eq(small.nodes[id].host->figures.snapshots_installed, 0);
    end_stored();
}

/* The last entry of the snapshot is one that it left out. */
Test(snapshot, what_it_says_of_the_ballot_at_its_end_lasts)
{
    uint16_t id = start_stored();
    cr_assert(small_until(caught_up, 20000 * SMALL_MS));
    struct replica *replica = small_replica(id);
    uint64_t opened = replica->paxos.stable_opened;
    cr_assert_eq(replica__load_facts(replica), SLUICE_OK);
    cr_assert(replica->opened.index > 60 && replica->opened.index <= replica->paxos.stable);
    cr_assert_eq(replica->opened.ballot, opened);
    end_stored();
}

/* ---- Compaction ---- */

static bool gone(uint16_t id, uint64_t revision)
{
    struct entry entry;
    enum sluice_status status = versions_entry(small_replica(id)->versions, revision, &entry);
    if (status == SLUICE_OK)
        buf_unref(entry.body);
    return status == SLUICE_GONE;
}

Test(snapshot, what_made_no_version_goes_everywhere_and_a_snapshot_without_it_gives_the_same_state)
{
    uint16_t id = stop_a_follower(), leader = small_leader();
    put_many(600);
    for (uint16_t node = 1; node <= 3; node++)
        if (node != id) {
            cr_assert(gone(node, 1), "the first entry of a ballot is kept for long at node %u", node);
            cr_assert_geq(small_replica(node)->paxos.compacted, 400);
            cr_assert(!gone(node, 2), "a version is kept");
        }
    cr_assert_geq(small.nodes[leader].host->figures.compactions, 1);
    small_start(id);
    cr_assert(small_until(caught_up, 5000 * SMALL_MS));
    cr_assert(gone(id, 1));
    same_state(id);
    put_many(60);
    cr_assert(small_until(caught_up, 1000 * SMALL_MS));
    same_state(id);
}

Test(snapshot, a_retry_after_a_snapshot_is_answered_and_not_applied_again_by_whoever_took_it_in)
{
    struct version latest;
    struct small_link link = {0};
    uint16_t id = stop_a_follower();
    small.client = 77;
    small.sequence = 5;
    small_put("once", "value", 5);
    small.client = 0;
    put_many(600);
    small_start(id);
    cr_assert(small_until(caught_up, 5000 * SMALL_MS));
    const struct machine *ours = small_replica(id)->machine, *theirs = small_replica(small_leader())->machine;
    cr_assert(ours->answer_count == 1 && theirs->answer_count == 1 && ours->session_count == theirs->session_count);
    host_group_transfer(small.nodes[small_leader()].host, 1, id);
    small_run(100 * SMALL_MS);
    cr_assert_eq(small_leader(), id);
    small.client = 77;
    small_send_write(id, &link, "once", "value", 5, 0);
    small_run(100 * SMALL_MS);
    cr_assert_eq(link.replies, 1);
    cr_assert_eq(link.header.status, SLUICE_OK);
    cr_assert_eq(versions_latest(small_replica(id)->versions, (struct slice){"once", 4}, false, &latest), SLUICE_OK);
    cr_assert_eq(latest.version, 1, "it was applied again");
    version_release(&latest);
}

/* A chunk whose checksums are right and whose content makes no sense. */
Test(snapshot, a_chunk_of_nonsense_is_refused_and_does_no_harm)
{
    put_many(60);
    uint16_t id = stop_a_follower(), leader = small_leader();
    put_many(20);
    small_start(id);
    cr_assert(small_until(caught_up, 5000 * SMALL_MS));
    uint64_t applied = versions_applied(small_replica(id)->versions, NULL);
    const uint32_t types[] = {PEER_SNAPSHOT_BEGIN, PEER_SNAPSHOT_ENTRIES, PEER_SNAPSHOT_FACTS, PEER_SNAPSHOT_FINISH, 9};
    random_seed(&chance, 7);
    for (int i = 0; i < 2000; i++) {
        struct {
            struct peer_header header;
            struct peer_snapshot snapshot;
            uint8_t rest[256];
        } message;
        size_t rest = random_below(&chance, sizeof(message.rest) + 1);
        for (size_t k = 0; k < sizeof(message.rest); k++)
            message.rest[k] = (uint8_t)random_below(&chance, 3 + 250 * (uint64_t)(i % 2));
        message.snapshot = (struct peer_snapshot){.type = types[random_below(&chance, 5)],
                                                  .count = (uint32_t)random_below(&chance, 3),
                                                  .epoch = 1,
                                                  .id = 1 + random_below(&chance, 2),
                                                  .first = random_below(&chance, applied + 3),
                                                  .upto = random_below(&chance, applied + 3),
                                                  .facts_size = random_below(&chance, 300)};
        message.header = (struct peer_header){
            .magic = PEER_MAGIC, .version = PEER_VERSION, .kind = PEER_SNAPSHOT, .group = 1, .time = small.wall};
        peer_header_seal(&message.header, &message.snapshot, sizeof(message.snapshot) + rest);
        small_inject(leader, id, &message, sizeof(message.header) + sizeof(message.snapshot) + rest);
        if (i % 20 == 0)
            small_run(SMALL_MS);
    }
    small_run(100 * SMALL_MS);
    cr_assert_eq(small_replica(id)->paxos.stable, small_replica(leader)->paxos.stable);
    same_state(id);
    put_many(10);
    cr_assert(small_until(caught_up, 1000 * SMALL_MS));
    same_state(id);
}

Test(snapshot, a_replica_that_lags_less_than_the_tail_is_never_fed_from_what_went)
{
    put_many(300);
    uint16_t id = stop_a_follower();
    put_many(90);
    small_start(id);
    cr_assert(small_until(caught_up, 5000 * SMALL_MS));
    cr_assert_eq(chunks_seen, 0);
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

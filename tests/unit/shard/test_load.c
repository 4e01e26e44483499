/* Overload: what waits is bounded and refused early; a deadline that has passed is not worked on. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/shard/small.h"

static void start(void)
{
    small_open(3);
    small.options.requests_max = 20;
    small.options.waiting_bytes_max = 64 << 10;
    for (uint16_t id = 1; id <= 3; id++)
        small_start(id);
}

TestSuite(load, .init = start, .fini = small_close);

static uint16_t cut_leader_off(void)
{
    uint16_t leader = small_wait_leader();
    for (uint16_t id = 1; id <= 3; id++)
        small.cut[leader][id] = small.cut[id][leader] = true;
    return leader;
}

Test(load, a_put_is_read_back_from_the_small_cluster)
{
    char value[16] = "";
    small_put("key", "value", 5);
    cr_assert_eq(small_get("key", value, sizeof(value)), SLUICE_OK);
    cr_assert_str_eq(value, "value");
}

Test(load, writes_beyond_the_bound_of_bytes_are_refused_at_once_and_later_ones_are_taken_again)
{
    static struct small_link links[200];
    static const uint8_t value[1000];
    uint32_t busy = 0, waiting = 0;
    small_put("key", "value", 5);
    memset(links, 0, sizeof(links));
    uint16_t leader = cut_leader_off();
    for (int i = 0; i < 200; i++) {
        small_send_write(leader, &links[i], "key", value, sizeof(value), 0);
        if (links[i].replies == 1) {
            cr_assert_eq(links[i].header.status, SLUICE_BUSY);
            busy++;
        } else {
            waiting++;
        }
        if (i % 10 == 0)
            host_flush(small.nodes[leader].host);
    }
    cr_assert_gt(waiting, 20);
    cr_assert_gt(busy, 100);
    cr_assert_leq(small_replica(leader)->load_bytes, 33 << 10);
    struct host_figures figures;
    host_figures(small.nodes[leader].host, &figures);
    cr_assert_eq(figures.refused_busy, busy);
    memset(small.cut, 0, sizeof(small.cut));
    small_run(2000 * SMALL_MS);
    for (int i = 0; i < 200; i++)
        cr_assert_eq(links[i].replies, 1, "each request is answered once");
    small_put("key", "again", 5);
    small_run(200 * SMALL_MS);
    for (uint16_t id = 1; id <= 3; id++)
        cr_assert_eq(small.nodes[id].host->load_bytes, 0, "what is stable is not counted any more");
}

/* How many writes of `size` bytes the leader takes before it refuses one. */
static int taken_in_a_row(uint16_t leader, struct small_link *links, int most, size_t size)
{
    static const uint8_t value[64 << 10];
    for (int i = 0; i < most; i++) {
        small_send_write(leader, &links[i], "key", value, size, 0);
        if (links[i].replies == 1)
            return links[i].header.status == SLUICE_BUSY ? i : -1;
    }
    return most;
}

Test(load, no_more_is_taken_than_gets_done_in_a_second)
{
    static struct small_link links[700];
    small.options.requests_max = 0;
    small_put("key", "value", 5);
    uint16_t leader = small_wait_leader();
    small.nodes[leader].host->options.waiting_bytes_max = 64 << 20;
    cut_leader_off();
    cr_assert_eq(taken_in_a_row(leader, links, 16, 64 << 10), 16, "how fast it is nobody knows yet");
    small_run(250 * SMALL_MS);
    memset(links, 0, sizeof(links));
    cr_assert_eq(taken_in_a_row(leader, links, 100, 64 << 10), 0, "nothing was done, and a mebibyte waits");
    memset(small.cut, 0, sizeof(small.cut));
    small_run(2000 * SMALL_MS);
    cr_assert_eq(small_replica(leader)->load_bytes, 0);
    /* Once it goes on, more is taken, by and by. */
    leader = small_wait_leader();
    small.nodes[leader].host->options.waiting_bytes_max = 64 << 20;
    int taken = 0;
    for (int i = 0; i < 20 && taken < 32; i++) {
        memset(links, 0, sizeof(links));
        taken = taken_in_a_row(leader, links, 32, 64 << 10);
        small_run(100 * SMALL_MS);
    }
    cr_assert_eq(taken, 32);
}

Test(load, a_read_that_waits_makes_no_write_too_large)
{
    static struct small_link read, write;
    static const uint8_t value[2 << 20];
    small_put("key", "value", 5);
    uint16_t leader = cut_leader_off();
    small.nodes[leader].host->options.waiting_bytes_max = 64 << 20;
    small.now += 400 * SMALL_MS; /* beyond the lease */
    small_send_get(leader, &read, "key", 0);
    for (int i = 0; i < 5; i++) {
        small.now += 100 * SMALL_MS;
        host_flush(small.nodes[leader].host);
    }
    cr_assert_eq(read.replies, 0);
    small_send_write(leader, &write, "key", value, sizeof(value), 0);
    cr_assert_eq(write.replies, 0, "%u", write.header.status);
}

Test(load, reads_that_wait_are_bounded_by_number)
{
    static struct small_link links[60];
    uint32_t busy = 0;
    small_put("key", "value", 5);
    uint16_t leader = cut_leader_off();
    small.now += 400 * SMALL_MS; /* beyond the lease, not yet noticed */
    memset(links, 0, sizeof(links));
    for (int i = 0; i < 60; i++) {
        small_send_get(leader, &links[i], "key", 0);
        busy += links[i].replies == 1 && links[i].header.status == SLUICE_BUSY;
    }
    cr_assert_eq(busy, 40);
    memset(small.cut, 0, sizeof(small.cut));
    small_run(2000 * SMALL_MS);
    for (int i = 0; i < 60; i++)
        cr_assert_eq(links[i].replies, 1);
    cr_assert_eq(small.nodes[leader].host->load_bytes, 0);
}

Test(load, a_write_that_comes_after_its_deadline_is_not_proposed)
{
    struct small_link link = {0};
    small_put("key", "value", 5);
    uint16_t leader = small_wait_leader();
    uint64_t last = small_replica(leader)->paxos.last;
    small_send_write(leader, &link, "key", "late", 4, host_time(small.nodes[leader].host) - SMALL_MS);
    cr_assert_eq(link.replies, 1);
    cr_assert_eq(link.header.status, SLUICE_DEADLINE);
    small_run(10 * SMALL_MS);
    cr_assert_eq(small_replica(leader)->paxos.last, last);
}

/* One-sided access below the rings. */
#include <pthread.h>
#include <string.h>

#include "core/base/random.h"
#include "tests/unit/rdma/peer.h"

#define REGION_BYTES 8192u

struct pair {
    struct peer writer, owner;
    struct fabric_region *region;
    uint8_t *memory;
    uint64_t key;
};

static void setup(struct pair *self, const char *scheme)
{
    *self = (struct pair){0};
    peers_plain(&self->writer, &self->owner, scheme);
    cr_assert_eq(fabric_region_create(self->owner.fabric, REGION_BYTES, &self->region), SLUICE_OK);
    self->memory = fabric_region_memory(self->region);
    cr_assert_eq(fabric_region_permit(self->region, self->owner.link, FABRIC_ACCESS_WRITE, &self->key), SLUICE_OK);
}

static void teardown(struct pair *self)
{
    peer_destroy(&self->writer);
    peer_destroy(&self->owner);
}

OVER_BOTH(region, a_permitted_write_is_placed_and_its_completion_says_so)
{
    struct pair pair;
    setup(&pair, scheme);
    cr_assert_eq(fabric_write(pair.writer.link, pair.key, 100, "moo", 3, FABRIC_WRITE_SIGNAL, 42), SLUICE_OK);
    fabric_flush(pair.writer.fabric);
    POLL_UNTIL(&pair.writer, &pair.owner, pair.writer.completions == 1);
    cr_assert_eq(pair.writer.cookie, 42);
    cr_assert_eq(pair.writer.status, SLUICE_OK);
    cr_assert_arr_eq(pair.memory + 100, "moo", 3);
    cr_assert_eq(pair.owner.completions + pair.owner.messages, 0, "the owner hears nothing");
    teardown(&pair);
}

OVER_BOTH(region, writes_are_placed_in_order_and_completed_in_order)
{
    struct pair pair;
    setup(&pair, scheme);
    for (uint64_t i = 1; i <= 3000; i++) {
        enum sluice_status status = fabric_write(pair.writer.link, pair.key, i % 100 * 8, &i, sizeof(i),
                                                 i % 10 == 0 ? FABRIC_WRITE_SIGNAL : 0, i);
        cr_assert_eq(status, SLUICE_OK);
        if (i % 64 == 0) {
            unsigned before = pair.writer.completions;
            peers_step(&pair.writer, &pair.owner, NULL);
            cr_assert(pair.writer.completions == before || pair.writer.cookie == pair.writer.completions * 10ul);
        }
    }
    POLL_UNTIL(&pair.writer, &pair.owner, pair.writer.completions == 300);
    for (uint64_t i = 2901; i <= 3000; i++) {
        uint64_t value;
        memcpy(&value, pair.memory + i % 100 * 8, sizeof(value));
        cr_assert_eq(value, i);
    }
    teardown(&pair);
}

OVER_BOTH(region, a_large_write_is_placed_whole)
{
    struct pair pair = {0};
    peers_plain(&pair.writer, &pair.owner, scheme);
    const uint32_t size = 9u << 20;
    cr_assert_eq(fabric_region_create(pair.owner.fabric, size, &pair.region), SLUICE_OK);
    cr_assert_eq(fabric_region_permit(pair.region, pair.owner.link, FABRIC_ACCESS_WRITE, &pair.key), SLUICE_OK);
    struct buf *data = buf_create(size);
    memset(data->data, 'x', size);
    cr_assert_eq(fabric_write(pair.writer.link, pair.key, 0, data->data, size, FABRIC_WRITE_SIGNAL, 1), SLUICE_OK);
    POLL_UNTIL(&pair.writer, &pair.owner, pair.writer.completions == 1);
    cr_assert(memcmp(fabric_region_memory(pair.region), data->data, size) == 0);
    buf_unref(data);
    teardown(&pair);
}

OVER_BOTH(region, a_write_without_permission_changes_nothing)
{
    struct pair pair;
    setup(&pair, scheme);
    enum sluice_status status = fabric_write(pair.writer.link, pair.key + 1, 0, "moo", 3, FABRIC_WRITE_SIGNAL, 1);
    if (status == SLUICE_OK) { /* tcp: the receiver says so */
        POLL_UNTIL(&pair.writer, &pair.owner, pair.writer.completions == 1);
        status = pair.writer.status;
    }
    cr_assert_eq(status, SLUICE_FORBIDDEN);
    static const uint8_t zeros[REGION_BYTES];
    cr_assert_arr_eq(pair.memory, zeros, REGION_BYTES);
    cr_assert_eq(pair.owner.downs + pair.writer.downs, 0);
    teardown(&pair);
}

OVER_BOTH(region, a_key_is_its_links_alone)
{
    struct pair pair;
    setup(&pair, scheme);
    struct peer other = {0};
    struct fabric_options node = peer_options(FABRIC_ROLE_NODE);
    peer_create(&other, &node);
    peer_connect(&other, fabric_listen_address(pair.owner.fabric, 0));
    POLL_UNTIL(&other, &pair.owner, other.ups == 1);
    enum sluice_status status = fabric_write(other.link, pair.key, 0, "moo", 3, FABRIC_WRITE_SIGNAL, 1);
    if (status == SLUICE_OK) {
        POLL_UNTIL(&other, &pair.owner, other.completions == 1);
        status = other.status;
    }
    cr_assert_eq(status, SLUICE_FORBIDDEN);
    cr_assert_eq(pair.memory[0], 0);
    peer_destroy(&other);
    teardown(&pair);
}

OVER_BOTH(region, a_write_beyond_the_region_is_never_placed)
{
    struct pair pair;
    setup(&pair, scheme);
    enum sluice_status status = fabric_write(pair.writer.link, pair.key, REGION_BYTES - 2, "moo", 3, 0, 0);
    if (status == SLUICE_OK) { /* tcp: the receiver finds a peer that breaks the rules */
        POLL_UNTIL(&pair.writer, &pair.owner, pair.owner.downs == 1);
        cr_assert_eq(pair.owner.reason, FABRIC_DOWN_PROTOCOL);
    } else {
        cr_assert_eq(status, SLUICE_RANGE);
        cr_assert_eq(fabric_write(pair.writer.link, pair.key, UINT64_MAX, "moo", 3, 0, 0), SLUICE_RANGE);
    }
    cr_assert_eq(pair.memory[REGION_BYTES - 1], 0);
    teardown(&pair);
}

Test(region, over_tcp_a_revocation_that_has_returned_stops_every_later_write)
{
    struct pair pair;
    setup(&pair, "tcp");
    /* Already on its way when the permission goes. */
    cr_assert_eq(fabric_write(pair.writer.link, pair.key, 0, "moo", 3, FABRIC_WRITE_SIGNAL, 1), SLUICE_OK);
    fabric_flush(pair.writer.fabric);
    cr_assert_eq(fabric_region_permit(pair.region, pair.owner.link, FABRIC_ACCESS_NONE, NULL), SLUICE_OK);
    POLL_UNTIL(&pair.writer, &pair.owner, pair.writer.completions == 1);
    cr_assert_eq(pair.writer.status, SLUICE_FORBIDDEN);
    cr_assert_eq(pair.memory[0], 0);
    /* A new grant has a new key; the old one stays worthless. */
    uint64_t key;
    cr_assert_eq(fabric_region_permit(pair.region, pair.owner.link, FABRIC_ACCESS_WRITE, &key), SLUICE_OK);
    cr_assert_neq(key, pair.key);
    cr_assert_eq(fabric_write(pair.writer.link, pair.key, 0, "moo", 3, FABRIC_WRITE_SIGNAL, 2), SLUICE_OK);
    cr_assert_eq(fabric_write(pair.writer.link, key, 10, "moo", 3, FABRIC_WRITE_SIGNAL, 3), SLUICE_OK);
    POLL_UNTIL(&pair.writer, &pair.owner, pair.writer.completions == 3);
    cr_assert_eq(pair.writer.status, SLUICE_OK);
    cr_assert_eq(pair.memory[0], 0);
    cr_assert_arr_eq(pair.memory + 10, "moo", 3);
    teardown(&pair);
}

Test(region, over_tcp_a_write_half_placed_stops_where_the_revocation_met_it)
{
    struct pair pair = {0};
    peers_plain(&pair.writer, &pair.owner, "tcp");
    const uint32_t size = 32u << 20;
    cr_assert_eq(fabric_region_create(pair.owner.fabric, size, &pair.region), SLUICE_OK);
    cr_assert_eq(fabric_region_permit(pair.region, pair.owner.link, FABRIC_ACCESS_WRITE, &pair.key), SLUICE_OK);
    pair.memory = fabric_region_memory(pair.region);
    struct buf *data = buf_create(size);
    memset(data->data, 'x', size);
    cr_assert_eq(fabric_write(pair.writer.link, pair.key, 0, data->data, size, FABRIC_WRITE_SIGNAL, 1), SLUICE_OK);
    POLL_UNTIL(&pair.writer, &pair.owner, pair.memory[0] == 'x');
    cr_assert_eq(pair.memory[size - 1], 0, "the whole write came in one poll: the test needs a larger one");
    cr_assert_eq(fabric_region_permit(pair.region, pair.owner.link, FABRIC_ACCESS_NONE, NULL), SLUICE_OK);
    fabric_region_destroy(pair.region); /* nothing may be written there any more */
    POLL_UNTIL(&pair.writer, &pair.owner, pair.writer.completions == 1);
    cr_assert_eq(pair.writer.status, SLUICE_FORBIDDEN);
    cr_assert_eq(peer_send(&pair.writer, "moo", 3), SLUICE_OK);
    POLL_UNTIL(&pair.writer, &pair.owner, pair.owner.messages == 1);
    buf_unref(data);
    teardown(&pair);
}

Test(region, over_shm_what_was_mapped_once_cannot_be_taken_back_and_the_caller_is_told)
{
    struct pair pair;
    setup(&pair, "shm");
    cr_assert_eq(fabric_region_permit(pair.region, pair.owner.link, FABRIC_ACCESS_NONE, NULL), SLUICE_UNPROCESSABLE);
    cr_assert_eq(fabric_region_permit(pair.region, pair.owner.link, FABRIC_ACCESS_NONE, NULL), SLUICE_UNPROCESSABLE);
    /* A correct peer stops all the same. */
    POLL_UNTIL(&pair.writer, &pair.owner,
               fabric_write(pair.writer.link, pair.key, 0, "moo", 3, 0, 0) == SLUICE_FORBIDDEN);
    struct fabric_region *fresh;
    cr_assert_eq(fabric_region_create(pair.owner.fabric, 100, &fresh), SLUICE_OK);
    cr_assert_eq(fabric_region_permit(fresh, pair.owner.link, FABRIC_ACCESS_NONE, NULL), SLUICE_OK,
                 "nobody has ever mapped it");
    teardown(&pair);
}

OVER_BOTH(region, a_grant_asked_for_twice_is_one_grant)
{
    struct pair pair;
    setup(&pair, scheme);
    uint64_t again;
    cr_assert_eq(fabric_region_permit(pair.region, pair.owner.link, FABRIC_ACCESS_WRITE, &again), SLUICE_OK);
    cr_assert_eq(again, pair.key);
    teardown(&pair);
}

static void *write_later(void *arg)
{
    struct pair *pair = arg;
    peers_rest();
    cr_assert_eq(fabric_write(pair->writer.link, pair->key, 0, "moo", 3, FABRIC_WRITE_WAKE, 0), SLUICE_OK);
    fabric_flush(pair->writer.fabric);
    return NULL;
}

OVER_BOTH(region, a_write_with_wake_wakes_a_sleeper)
{
    struct pair pair;
    setup(&pair, scheme);
    while (peers_step(&pair.writer, &pair.owner, NULL))
        continue;
    pthread_t thread;
    cr_assert_eq(pthread_create(&thread, NULL, write_later, &pair), 0);
    uint64_t start = clock_monotonic_ns();
    while (__atomic_load_n(&pair.memory[2], __ATOMIC_ACQUIRE) == 0) {
        if (peer_poll(&pair.owner) == 0)
            fabric_wait(pair.owner.fabric, 10 * NS_PER_S);
        cr_assert_lt(clock_monotonic_ns() - start, 5 * NS_PER_S, "the sleeper was not woken");
    }
    cr_assert_eq(pthread_join(thread, NULL), 0);
    cr_assert_arr_eq(pair.memory, "moo", 3);
    teardown(&pair);
}

OVER_BOTH(region, closing_the_link_ends_the_permission)
{
    struct pair pair;
    setup(&pair, scheme);
    fabric_link_close(pair.owner.link);
    POLL_UNTIL(&pair.writer, &pair.owner, pair.writer.downs == 1);
    fabric_region_destroy(pair.region);
    teardown(&pair);
}

/* What nodes say to each other: read back as it was written, and refused in every damaged form. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/crc.h"
#include "tests/unit/shard/small.h"

static size_t put(uint8_t *at, const void *data, size_t size)
{
    memcpy(at, data, size);
    return size;
}

/* An entry with a body of `size` bytes and its version numbers, as a snapshot carries it. */
static size_t put_entry(uint8_t *at, uint64_t index, uint32_t size, uint32_t made_count)
{
    struct entry entry = {
        .index = index, .ballot = 65537, .time = 5 * index, .epoch = 1, .group = 1, .kind = ENTRY_COMMAND};
    size_t used = sizeof(struct entry_header);
    entry.body = buf_create(size);
    memset(entry.body->data, 'x', size);
    entry.body_crc = crc32c(entry.body->data, size);
    entry_header_write(&entry, (struct entry_header *)(void *)at);
    used += put(at + used, entry.body->data, size);
    used = wire_pad(used);
    const struct peer_made made = {.count = made_count};
    used += put(at + used, &made, sizeof(made));
    for (uint64_t i = 1; i <= made_count; i++)
        used += put(at + used, &i, sizeof(i));
    buf_unref(entry.body);
    return used;
}

Test(peer, entries_of_a_snapshot_are_read_back_with_the_numbers_of_their_versions)
{
    static uint8_t data[4096] __attribute__((aligned(8)));
    static uint64_t numbers[WIRE_OPERATIONS_MAX];
    size_t size = put_entry(data, 7, 13, 2), offset = 0;
    size += put_entry(data + size, 9, 8, 0);
    struct entry entry;
    uint32_t count = 0;
    cr_assert_eq(peer_snapshot_entry(data, size, &offset, &entry, numbers, &count), SLUICE_OK);
    cr_assert(entry.index == 7 && entry.time == 35 && entry.body->size == 13 && count == 2 && numbers[1] == 2);
    buf_unref(entry.body);
    cr_assert_eq(peer_snapshot_entry(data, size, &offset, &entry, numbers, &count), SLUICE_OK);
    cr_assert(entry.index == 9 && count == 0 && offset == size);
    buf_unref(entry.body);
}

Test(peer, a_snapshot_cut_anywhere_or_with_any_byte_changed_is_refused_or_harmless)
{
    static uint8_t whole[4096] __attribute__((aligned(8)));
    static uint64_t numbers[WIRE_OPERATIONS_MAX];
    size_t size = put_entry(whole, 7, 100, 3);
    for (size_t cut = 0; cut < size; cut++) {
        uint8_t *part = malloc(cut + 1); /* so that a sanitizer sees a read beyond the end */
        struct entry entry;
        uint32_t count;
        size_t offset = 0;
        memcpy(part, whole, cut);
        cr_assert_neq(peer_snapshot_entry(part, cut, &offset, &entry, numbers, &count), SLUICE_OK);
        free(part);
    }
    for (size_t at = 0; at < sizeof(struct entry_header) + 100; at++) {
        struct entry entry;
        uint32_t count;
        size_t offset = 0;
        whole[at] ^= 0x10;
        cr_assert_neq(peer_snapshot_entry(whole, size, &offset, &entry, numbers, &count), SLUICE_OK);
        whole[at] ^= 0x10;
    }
}

Test(peer, facts_are_read_back_and_refused_beyond_their_bounds)
{
    static uint8_t data[256] __attribute__((aligned(8)));
    const struct peer_fact fact = {.name_size = 3, .value_size = 6};
    struct slice name, value;
    size_t offset = 0;
    put(data, &fact, sizeof(fact));
    put(data + sizeof(fact), "abcdefghi", 9);
    cr_assert_eq(peer_snapshot_fact(data, sizeof(fact) + 16, &offset, &name, &value), SLUICE_OK);
    cr_assert(name.size == 3 && value.size == 6 && memcmp(value.data, "defghi", 6) == 0 && offset == 24);
    offset = 0;
    cr_assert_eq(peer_snapshot_fact(data, sizeof(fact) + 15, &offset, &name, &value), SLUICE_INVALID);
    const struct peer_fact bad[] = {
        {0, 6}, {PEER_FACT_NAME_BYTES_MAX + 1, 0}, {1, PEER_FACT_VALUE_BYTES_MAX + 1}, {UINT32_MAX, UINT32_MAX}};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        offset = 0;
        put(data, &bad[i], sizeof(bad[i]));
        cr_assert_eq(peer_snapshot_fact(data, sizeof(data), &offset, &name, &value), SLUICE_INVALID);
    }
}

Test(peer, two_nodes_speak_the_highest_version_that_both_understand)
{
    struct pairs_message beat = {.type = PAIRS_BEAT, .incarnation = 1};
    struct peer_pairs wire;
    uint8_t min, max;
    cr_assert_eq(peer_version_agreed(PEER_VERSION_MIN, PEER_VERSION), PEER_VERSION);
    cr_assert_eq(peer_version_agreed(PEER_VERSION, PEER_VERSION + 3), PEER_VERSION);
    cr_assert_eq(peer_version_agreed(1, PEER_VERSION_MIN), PEER_VERSION_MIN);
    cr_assert_eq(peer_version_agreed(PEER_VERSION + 1, PEER_VERSION + 3), 0);
    cr_assert_eq(peer_version_agreed(0, PEER_VERSION_MIN - 1), 0);
    peer_pairs_write(&beat, &wire);
    peer_pairs_versions(&wire, sizeof(wire), 7, &min, &max);
    cr_assert(min == PEER_VERSION_MIN && max == PEER_VERSION);
    wire.version_max = 0;
    peer_pairs_versions(&wire, sizeof(wire), 7, &min, &max);
    cr_assert(min == 7 && max == 7, "a peer that does not say so understands what it speaks");
}

/* ---- Whole messages, sealed anew after they were changed, so that the checksum does not hide what lies behind it ----
 */

static struct {
    uint8_t *items[4096];
    size_t sizes[4096];
    uint32_t count;
} seen;

static bool keep(struct small_frame *frame)
{
    if (seen.count < 4096) {
        seen.items[seen.count] = malloc(frame->size);
        memcpy(seen.items[seen.count], frame->data, frame->size);
        seen.sizes[seen.count++] = frame->size;
    }
    return true;
}

static void open_three(void)
{
    small_open(3);
    small.filter = keep;
    seen.count = 0;
    for (uint16_t id = 1; id <= 3; id++)
        small_start(id);
}

static void close_three(void)
{
    small_close();
    for (uint32_t i = 0; i < seen.count; i++)
        free(seen.items[i]);
}

Test(peer, damaged_messages_of_every_kind_are_dropped_and_the_cluster_goes_on, .init = open_three, .fini = close_three)
{
    uint64_t seed = random_os();
    struct random random;
    printf("seed %llu\n", (unsigned long long)seed);
    random_seed(&random, seed);
    for (int i = 0; i < 20; i++)
        small_put("key", "value", 5);
    small.filter = NULL;
    uint32_t count = seen.count;
    cr_assert_gt(count, 50);
    for (int round = 0; round < 20000; round++) {
        uint32_t pick = (uint32_t)random_below(&random, count);
        size_t size = seen.sizes[pick];
        uint8_t *copy = malloc(size + 8);
        memcpy(copy, seen.items[pick], size);
        for (uint64_t flips = random_below(&random, 4); flips > 0; flips--)
            copy[random_below(&random, size)] = (uint8_t)random_next(&random);
        if (random_below(&random, 4) == 0)
            size = random_below(&random, size + 1);
        /* A sender with a bug: the kind, or the group, is another one. The checksum is right but for a tenth. */
        struct peer_header header;
        if (size >= sizeof(header)) {
            memcpy(&header, copy, sizeof(header));
            if (random_below(&random, 8) == 0)
                header.kind = (uint8_t)random_below(&random, 9);
            header.time = small.wall + small.now; /* a clock that is far ahead is another test's */
            if (header.kind == PEER_PAXOS || header.kind == PEER_PAIRS)
                header.version =
                    99; /* what a peer says within the protocol is believed; that is the simulator's part */
            if (random_below(&random, 10) != 0 && header.head_size <= size - sizeof(header))
                peer_header_seal(&header, copy + sizeof(header), header.head_size);
            memcpy(copy, &header, sizeof(header));
        }
        host_peer_message(small.nodes[1 + random_below(&random, 3)].host, (uint16_t)random_below(&random, 5), copy,
                          size);
        free(copy);
    }
    /* The next beats say that the versions fit after all. */
    small_run(500 * SMALL_MS);
    small_put("key", "after", 5);
}

/* What nodes say to each other: read back as it was written, and refused in every damaged form. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/crc.h"
#include "tests/unit/shard/small.h"

/* An entry with a body of `size` bytes, as a snapshot carries it. */
static size_t put_entry(uint8_t *at, uint64_t index, uint32_t size)
{
    struct entry entry = {
        .index = index, .ballot = 65537, .time = 5 * index, .epoch = 1, .group = 1, .kind = ENTRY_COMMAND};
    entry.body = buf_create(size);
    memset(entry.body->data, 'x', size);
    entry.body_crc = crc32c(entry.body->data, size);
    entry_header_write(&entry, (struct entry_header *)(void *)at);
    memcpy(at + sizeof(struct entry_header), entry.body->data, size);
    buf_unref(entry.body);
    return sizeof(struct entry_header) + wire_pad(size);
}

Test(peer, entries_of_a_snapshot_are_read_back)
{
    static uint8_t data[4096] __attribute__((aligned(8)));
    size_t size = put_entry(data, 7, 13), offset = 0;
    size += put_entry(data + size, 8, 8);
    struct entry entry;
    cr_assert_eq(peer_snapshot_entry(data, size, &offset, &entry), SLUICE_OK);
    cr_assert(entry.index == 7 && entry.time == 35 && entry.body->size == 13);
    buf_unref(entry.body);
    cr_assert_eq(peer_snapshot_entry(data, size, &offset, &entry), SLUICE_OK);
    cr_assert(entry.index == 8 && offset == size);
    buf_unref(entry.body);
}

Test(peer, a_snapshot_cut_anywhere_or_with_any_byte_changed_is_refused)
{
    static uint8_t whole[4096] __attribute__((aligned(8)));
    size_t size = put_entry(whole, 7, 104);
    for (size_t cut = 0; cut < size; cut++) {
        uint8_t *part = malloc(cut + 1); /* so that a sanitizer sees a read beyond the end */
        struct entry entry;
        size_t offset = 0;
        memcpy(part, whole, cut);
        cr_assert_neq(peer_snapshot_entry(part, cut, &offset, &entry), SLUICE_OK);
        free(part);
    }
    for (size_t at = 0; at < size; at++) {
        struct entry entry;
        size_t offset = 0;
        whole[at] ^= 0x10;
        cr_assert_neq(peer_snapshot_entry(whole, size, &offset, &entry), SLUICE_OK);
        whole[at] ^= 0x10;
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

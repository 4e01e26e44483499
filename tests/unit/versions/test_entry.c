#include <criterion/criterion.h>
#include <string.h>

#include "core/base/crc.h"
#include "core/versions/entry.h"

static struct entry sample(struct buf *body)
{
    return (struct entry){.index = 41,
                          .ballot = 0x30002,
                          .time = 1764000000000000000u,
                          .epoch = 2,
                          .group = 9,
                          .kind = ENTRY_COMMAND,
                          .body_crc = body == NULL ? 0 : crc32c(body->data, body->size),
                          .body = body};
}

Test(entry, header_gives_back_what_was_written)
{
    struct buf *body = buf_dup("body", 4);
    struct entry before = sample(body), after;
    struct entry_header header;
    uint32_t size;
    entry_header_write(&before, &header);
    cr_assert_eq(entry_header_read(&header, sizeof(header), &after, &size), SLUICE_OK);
    cr_assert_eq(size, 4);
    cr_assert_null(after.body);
    cr_assert_eq(after.index, before.index);
    cr_assert_eq(after.ballot, before.ballot);
    cr_assert_eq(after.time, before.time);
    cr_assert_eq(after.epoch, before.epoch);
    cr_assert_eq(after.group, before.group);
    cr_assert_eq(after.kind, before.kind);
    cr_assert_eq(after.body_crc, before.body_crc);
    buf_unref(body);
}

Test(entry, header_is_frozen)
{
    struct entry entry = sample(NULL);
    entry.kind = ENTRY_NOOP;
    struct entry_header header;
    entry_header_write(&entry, &header);
    const uint8_t *bytes = (const uint8_t *)&header;
    const uint8_t front[] = {'S', 'L', 'E', '1'};
    cr_assert_eq(memcmp(bytes, front, 4), 0);
    uint32_t crc;
    memcpy(&crc, bytes + 4, 4);
    cr_assert_eq(crc, crc32c(bytes + 8, 56));
    const uint8_t ballot_and_index[] = {2, 0, 3, 0, 0, 0, 0, 0, 41, 0, 0, 0, 0, 0, 0, 0};
    cr_assert_eq(memcmp(bytes + 16, ballot_and_index, 16), 0);
    const uint8_t group_and_rest[] = {9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    cr_assert_eq(memcmp(bytes + 48, group_and_rest, 16), 0);
}

Test(entry, every_flipped_bit_of_a_header_is_noticed)
{
    struct buf *body = buf_dup("body", 4);
    struct entry before = sample(body);
    struct entry_header header;
    entry_header_write(&before, &header);
    for (size_t bit = 0; bit < sizeof(header) * 8; bit++) {
        struct entry_header damaged = header;
        struct entry untouched = {.index = 77}, out = untouched;
        uint32_t size = 5;
        ((uint8_t *)&damaged)[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        cr_assert_eq(entry_header_read(&damaged, sizeof(damaged), &out, &size), SLUICE_CORRUPT, "bit %zu", bit);
        cr_assert_eq(memcmp(&out, &untouched, sizeof(out)), 0);
        cr_assert_eq(size, 5);
    }
    buf_unref(body);
}

Test(entry, short_header_is_refused)
{
    struct entry before = sample(NULL), out;
    struct entry_header header;
    uint32_t body_size;
    entry_header_write(&before, &header);
    for (size_t size = 0; size < sizeof(header); size++)
        cr_assert_eq(entry_header_read(&header, size, &out, &body_size), SLUICE_CORRUPT);
}

Test(entry, body_beyond_the_limit_is_refused_though_the_checksum_holds)
{
    struct entry before = sample(NULL), out;
    struct entry_header header;
    uint32_t body_size;
    entry_header_write(&before, &header);
    header.body_size = ENTRY_BODY_BYTES_MAX + 1;
    header.header_crc = crc32c((const uint8_t *)&header + 8, sizeof(header) - 8);
    cr_assert_eq(entry_header_read(&header, sizeof(header), &out, &body_size), SLUICE_CORRUPT);
    header.body_size = ENTRY_BODY_BYTES_MAX;
    header.header_crc = crc32c((const uint8_t *)&header + 8, sizeof(header) - 8);
    cr_assert_eq(entry_header_read(&header, sizeof(header), &out, &body_size), SLUICE_OK);
}

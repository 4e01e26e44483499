/* The log on a disk in memory: what was acknowledged survives everything short of damage, and damage is told from a
 * torn end. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/crc.h"
#include "core/base/log.h"
#include "core/versions/wal_format.h"
#include "disk.h"
#include "twin.h"

#define GROUPS      5u
#define INDEXES_MAX 4096u

/* What a replay saw. */
struct seen {
    uint64_t ballots[GROUPS][INDEXES_MAX]; /* of the last record of each entry; 0: none */
    uint64_t promised[GROUPS];
    uint64_t stable[GROUPS];
    uint64_t ceiling[GROUPS];
    uint64_t forgotten[GROUPS]; /* epoch */
    uint64_t records, entries;
    uint64_t highest[GROUPS];
};

static uint32_t body_size_of(uint32_t group, uint64_t index, uint64_t ballot)
{
    uint64_t mix = (group + 1) * 7919 + index * 104729 + ballot * 31;
    return mix % 11 == 0 ? 0 : (uint32_t)(mix % 13 == 0 ? mix % 9000 : mix % 200) + 1;
}

static struct buf *body_of(uint32_t group, uint64_t index, uint64_t ballot)
{
    uint32_t size = body_size_of(group, index, ballot);
    struct buf *body = size == 0 ? NULL : buf_create(size);
    for (uint32_t i = 0; i < size; i++)
        body->data[i] = (uint8_t)(group + index * 3 + ballot * 5 + i);
    return body;
}

static void see(void *arg, const struct wal_record *record)
{
    struct seen *seen = arg;
    cr_assert_lt(record->group, GROUPS);
    seen->records++;
    switch (record->type) {
    case WAL_ENTRY: {
        const struct entry *entry = &record->entry;
        struct buf *wanted = body_of(record->group, entry->index, entry->ballot);
        cr_assert_lt(entry->index, INDEXES_MAX);
        cr_assert_eq(entry->group, record->group);
        cr_assert_eq(entry->ballot, record->ballot);
        cr_assert_eq(entry->epoch, record->epoch);
        cr_assert_eq(entry->body == NULL, wanted == NULL);
        if (wanted != NULL) {
            cr_assert_eq(entry->body->size, wanted->size);
            cr_assert_eq(memcmp(entry->body->data, wanted->data, wanted->size), 0);
        }
        buf_unref(wanted);
        seen->entries++;
        seen->ballots[record->group][entry->index] = entry->ballot;
        if (entry->index > seen->highest[record->group])
            seen->highest[record->group] = entry->index;
        if (entry->ballot > seen->promised[record->group])
            seen->promised[record->group] = entry->ballot;
        break;
    }
    case WAL_PROMISE:
        if (record->ballot > seen->promised[record->group])
            seen->promised[record->group] = record->ballot;
        break;
    case WAL_CEILING:
        if (record->ballot > seen->ceiling[record->group])
            seen->ceiling[record->group] = record->ballot;
        break;
    case WAL_FORGET:
        seen->forgotten[record->group] = record->epoch;
        memset(seen->ballots[record->group], 0, sizeof(seen->ballots[record->group]));
        seen->promised[record->group] = 0;
        seen->highest[record->group] = 0;
        break;
    case WAL_STABLE:
        seen->stable[record->group] = record->ballot;
        break;
    }
}

static enum sluice_status try_open(struct disk *disk, struct seen *seen, struct wal **out, char error[512])
{
    const struct wal_options options = {.device = disk_device(disk)};
    memset(seen, 0, sizeof(*seen));
    error[0] = 0;
    return wal_open(&options, see, seen, out, error, 512);
}

static struct wal *open_log(struct disk *disk, struct seen *seen)
{
    struct wal *wal = NULL;
    char error[512];
    cr_assert_eq(try_open(disk, seen, &wal, error), SLUICE_OK, "%s", error);
    return wal;
}

static void append_entry(struct wal *wal, uint32_t group, uint64_t epoch, uint64_t index, uint64_t ballot)
{
    struct buf *body = body_of(group, index, ballot);
    const struct wal_record record = {.type = WAL_ENTRY,
                                      .group = group,
                                      .epoch = epoch,
                                      .ballot = ballot,
                                      .entry = {.index = index,
                                                .ballot = ballot,
                                                .time = index,
                                                .epoch = epoch,
                                                .group = group,
                                                .kind = ENTRY_COMMAND,
                                                .body_crc = body == NULL ? 0 : crc32c(body->data, body->size),
                                                .body = body}};
    cr_assert_eq(wal_append(wal, &record), SLUICE_OK);
    buf_unref(body);
}

static void append_words(struct wal *wal, enum wal_record_type type, uint32_t group, uint64_t epoch, uint64_t ballot)
{
    const struct wal_record record = {.type = type, .group = group, .epoch = epoch, .ballot = ballot};
    cr_assert_eq(wal_append(wal, &record), SLUICE_OK);
}

static void commit(struct wal *wal)
{
    enum sluice_status error;
    uint64_t ticket = wal_submit(wal);
    wal_flush(wal);
    cr_assert_eq(wal_completed(wal, &error), ticket);
    cr_assert_eq(error, SLUICE_OK);
}

Test(wal, records_come_back_in_order_after_a_close_and_after_none)
{
    struct disk disk, crashed;
    struct seen *seen = malloc(sizeof(*seen));
    disk_init(&disk, 1u << 20, NULL);
    struct wal *wal = open_log(&disk, seen);
    cr_assert_eq(seen->records, 0);
    append_words(wal, WAL_PROMISE, 1, 3, 10);
    for (uint64_t i = 1; i <= 50; i++)
        append_entry(wal, 1, 3, i, 10);
    commit(wal);
    append_entry(wal, 1, 3, 50, 12); /* accepted again: the later record stands */
    append_words(wal, WAL_CEILING, 2, 0, 777);
    append_words(wal, WAL_STABLE, 1, 3, 40);
    commit(wal);
    disk_copy(&crashed, &disk);
    wal_close(wal);
    struct disk *const both[] = {&disk, &crashed};
    for (int i = 0; i < 2; i++) {
        for (int again = 0; again < 3; again++) {
            wal = open_log(both[i], seen);
            cr_assert_eq(seen->records, 54);
            cr_assert_eq(seen->promised[1], 12);
            cr_assert_eq(seen->ballots[1][49], 10);
            cr_assert_eq(seen->ballots[1][50], 12);
            cr_assert_eq(seen->ceiling[2], 777);
            cr_assert_eq(seen->stable[1], 40);
            wal_close(wal);
        }
        disk_deinit(both[i]);
    }
    free(seen);
}

Test(wal, what_was_not_submitted_before_a_crash_is_not_there_and_what_was_completed_is)
{
    struct disk disk, crashed;
    struct seen *seen = malloc(sizeof(*seen));
    disk_init(&disk, 1u << 20, NULL);
    struct wal *wal = open_log(&disk, seen);
    append_entry(wal, 0, 1, 1, 1);
    commit(wal);
    append_entry(wal, 0, 1, 2, 1);
    wal_flush(wal);
    disk_copy(&crashed, &disk);
    struct wal *second = open_log(&crashed, seen);
    cr_assert_eq(seen->highest[0], 1);
    wal_close(second);
    wal_close(wal);
    wal = open_log(&disk, seen);
    cr_assert_eq(seen->highest[0], 2);
    wal_close(wal);
    disk_deinit(&disk);
    disk_deinit(&crashed);
    free(seen);
}

Test(wal, tickets_rise_only_with_something_to_hand_over_and_complete_in_order)
{
    struct disk disk;
    struct seen *seen = malloc(sizeof(*seen));
    enum sluice_status error;
    disk_init(&disk, 1u << 20, NULL);
    struct wal *wal = open_log(&disk, seen);
    cr_assert_eq(wal_submit(wal), 0);
    append_entry(wal, 0, 1, 1, 1);
    cr_assert_eq(wal_submit(wal), 1);
    cr_assert_eq(wal_submit(wal), 1);
    append_entry(wal, 0, 1, 2, 1);
    append_entry(wal, 0, 1, 3, 1);
    cr_assert_eq(wal_submit(wal), 2);
    cr_assert_eq(wal_completed(wal, &error), 0);
    wal_flush(wal);
    cr_assert_eq(wal_completed(wal, &error), 2);
    struct wal_figures figures;
    wal_figures(wal, &figures);
    cr_assert_eq(figures.batches, 1, "both were one group commit");
    cr_assert_eq(figures.records, 3);
    cr_assert_eq(figures.bytes_written, disk.bytes_written);
    wal_close(wal);
    disk_deinit(&disk);
    free(seen);
}

/* Three committed batches, then a last one of several blocks; the disk as it is before and after the last. */
static void sample(struct disk *before, struct disk *after, struct seen *seen)
{
    disk_init(after, 128u << 10, NULL);
    struct wal *wal = open_log(after, seen);
    for (uint64_t i = 1; i <= 30; i++) {
        append_entry(wal, 1, 1, i, 5);
        if (i % 10 == 0)
            commit(wal);
    }
    disk_copy(before, after);
    for (uint64_t i = 31; i <= 90; i++)
        append_entry(wal, 1, 1, i, 5);
    commit(wal);
    struct disk kept;
    disk_copy(&kept, after);
    wal_close(wal);
    disk_deinit(after);
    *after = kept;
}

static void expect_cut(struct disk *disk, struct seen *seen, uint64_t highest)
{
    struct wal *wal = open_log(disk, seen);
    cr_assert_eq(seen->highest[1], highest);
    cr_assert_eq(seen->entries, highest);
    /* The log goes on, and the torn bytes never come back. */
    append_entry(wal, 1, 1, highest + 1, 6);
    commit(wal);
    append_entry(wal, 1, 1, highest + 2, 6);
    commit(wal);
    struct disk crashed;
    disk_copy(&crashed, disk);
    wal_close(wal);
    wal = open_log(&crashed, seen);
    cr_assert_eq(seen->highest[1], highest + 2);
    cr_assert_eq(seen->entries, highest + 2);
    wal_close(wal);
    disk_deinit(&crashed);
}

Test(wal, a_last_batch_torn_at_any_sector_is_dropped_whole_and_silently)
{
    struct disk before, after, torn;
    struct seen *seen = malloc(sizeof(*seen));
    log_set_level(LOG_LEVEL_NONE);
    sample(&before, &after, seen);
    uint64_t number = after.last_number, offset = after.last_offset;
    cr_assert_gt(after.last_size, 2 * 4096);
    /* Written from the front or from the back up to each sector; the rest is what was there before. Padding may be
     * missing. */
    for (int back = 0; back < 2; back++)
        for (uint32_t kept = 0; kept < after.last_size - 4096; kept += 512) {
            disk_copy(&torn, &after);
            uint8_t *data = disk_find(&torn, number)->data + offset;
            const uint8_t *old = disk_find(&before, number)->data + offset;
            if (back)
                memcpy(data, old, after.last_size - kept);
            else
                memcpy(data + kept, old + kept, after.last_size - kept);
            expect_cut(&torn, seen, 30);
            disk_deinit(&torn);
        }
    expect_cut(&after, seen, 90);
    disk_deinit(&before);
    disk_deinit(&after);
    free(seen);
}

Test(wal, a_last_batch_with_any_byte_wrong_is_dropped_whole)
{
    struct disk before, after, bad;
    struct seen *seen = malloc(sizeof(*seen));
    struct wal_batch_header header;
    log_set_level(LOG_LEVEL_NONE);
    sample(&before, &after, seen);
    const uint8_t *batch = disk_find(&after, after.last_number)->data + after.last_offset;
    cr_assert(wal_batch_header_read(batch, &header));
    for (uint32_t at = 0; at < sizeof(header) + header.body_size; at++) {
        disk_copy(&bad, &after);
        disk_find(&bad, after.last_number)->data[after.last_offset + at] ^= 0x40;
        struct wal *wal = open_log(&bad, seen);
        cr_assert_eq(seen->highest[1], 30, "byte %u", at);
        wal_close(wal);
        disk_deinit(&bad);
    }
    disk_deinit(&before);
    disk_deinit(&after);
    free(seen);
}

Test(wal, damage_before_the_last_batch_is_reported_with_its_place)
{
    struct disk before, after, bad;
    struct seen *seen = malloc(sizeof(*seen));
    struct wal *wal;
    char error[512], place[64];
    log_set_level(LOG_LEVEL_NONE);
    sample(&before, &after, seen);
    for (uint64_t at = 0; at < after.last_offset;) {
        struct wal_batch_header header;
        cr_assert(wal_batch_header_read(disk_find(&after, after.last_number)->data + at, &header));
        uint64_t end = sizeof(header) + header.body_size;
        for (uint64_t byte = 0; byte < end; byte += byte < 80 ? 1 : 13) {
            disk_copy(&bad, &after);
            disk_find(&bad, after.last_number)->data[at + byte] ^= 1;
            cr_assert_eq(try_open(&bad, seen, &wal, error), SLUICE_CORRUPT, "byte %llu",
                         (unsigned long long)(at + byte));
            snprintf(place, sizeof(place), "offset %llu", (unsigned long long)at);
            cr_assert_not_null(strstr(error, place), "%s", error);
            cr_assert_not_null(strstr(error, "segment 0000000000000001"), "%s", error);
            disk_deinit(&bad);
        }
        at += wal_block_round(end);
    }
    disk_deinit(&before);
    disk_deinit(&after);
    free(seen);
}

Test(wal, after_a_close_in_order_damage_to_the_last_batch_is_told_from_a_torn_one)
{
    struct disk disk;
    struct seen *seen = malloc(sizeof(*seen));
    struct wal *wal = NULL;
    char error[512];
    log_set_level(LOG_LEVEL_NONE);
    disk_init(&disk, 1u << 20, NULL);
    wal = open_log(&disk, seen);
    append_entry(wal, 1, 1, 1, 1);
    commit(wal);
    wal_close(wal);
    disk.segments[0].data[100] ^= 1;
    cr_assert_eq(try_open(&disk, seen, &wal, error), SLUICE_CORRUPT);
    disk_deinit(&disk);
    free(seen);
}

/* Fills several segments with entries of group 1 up to `last`. */
static struct wal *fill(struct disk *disk, struct seen *seen, uint64_t last)
{
    struct wal *wal = open_log(disk, seen);
    for (uint64_t i = seen->highest[1] + 1; i <= last; i++) {
        append_entry(wal, 1, 1, i, 5);
        if (i % 7 == 0)
            commit(wal);
    }
    commit(wal);
    return wal;
}

Test(wal, a_segment_that_is_missing_or_foreign_is_noticed)
{
    struct disk disk, other, bad;
    struct seen *seen = malloc(sizeof(*seen));
    struct wal *wal;
    char error[512];
    log_set_level(LOG_LEVEL_NONE);
    disk_init(&disk, 64u << 10, NULL);
    wal_close(fill(&disk, seen, 2000));
    cr_assert_geq(disk.count, 4);
    for (uint32_t gone = 0; gone < disk.count; gone++) {
        disk_copy(&bad, &disk);
        uint64_t number = bad.segments[gone].number;
        free(bad.segments[gone].data);
        bad.segments[gone] = bad.segments[--bad.count];
        enum sluice_status status = try_open(&bad, seen, &wal, error);
        /* One that was made ahead of need holds nothing. */
        if (number > disk.last_number) {
            cr_assert_eq(status, SLUICE_OK);
            wal_close(wal);
        } else {
            cr_assert_eq(status, SLUICE_CORRUPT, "segment %llu", (unsigned long long)number);
        }
        disk_deinit(&bad);
    }
    disk_init(&other, 64u << 10, NULL);
    wal_close(fill(&other, seen, 100));
    disk_copy(&bad, &disk);
    struct disk_segment *foreign = &bad.segments[1];
    uint64_t number = foreign->number;
    memcpy(foreign->data, other.segments[0].data, foreign->size);
    struct wal_batch_header header;
    cr_assert(wal_batch_header_read(foreign->data, &header));
    cr_assert_neq(try_open(&bad, seen, &wal, error), SLUICE_OK);
    /* The same where the foreign file bears the fitting number. */
    foreign->number = 1000;
    bad.segments[0].number = header.segment + 2000;
    foreign->number = header.segment;
    cr_assert_eq(try_open(&bad, seen, &wal, error), SLUICE_CORRUPT);
    (void)number;
    disk_deinit(&bad);
    disk_deinit(&disk);
    disk_deinit(&other);
    free(seen);
}

Test(wal, segments_are_recycled_and_promises_and_ceilings_outlive_them)
{
    struct disk disk;
    struct seen *seen = malloc(sizeof(*seen));
    disk_init(&disk, 64u << 10, NULL);
    struct wal *wal = open_log(&disk, seen);
    append_words(wal, WAL_PROMISE, 1, 1, 3);
    append_words(wal, WAL_PROMISE, 2, 4, 99);
    append_words(wal, WAL_CEILING, 3, 0, 12345);
    for (uint64_t i = 1; i <= 4000; i++) {
        append_entry(wal, 1, 1, i, 5);
        if (i % 10 == 0)
            commit(wal);
        if (i > 100)
            wal_release(wal, 1, i - 100);
    }
    commit(wal);
    cr_assert_leq(disk.count, 5, "%u segments", disk.count);
    for (int again = 0; again < 3; again++) {
        struct disk crashed;
        disk_copy(&crashed, &disk);
        struct wal *second = open_log(&crashed, seen);
        cr_assert_eq(seen->promised[1], 5);
        cr_assert_eq(seen->promised[2], 99);
        cr_assert_eq(seen->ceiling[3], 12345);
        for (uint64_t i = 3901; i <= 4000; i++)
            cr_assert_eq(seen->ballots[1][i], 5);
        wal_close(second);
        disk_deinit(&crashed);
        wal_close(wal);
        wal = open_log(&disk, seen);
    }
    wal_close(wal);
    disk_deinit(&disk);
    free(seen);
}

Test(wal, a_group_that_stands_still_keeps_its_segment_and_no_other)
{
    struct disk disk;
    struct seen *seen = malloc(sizeof(*seen));
    disk_init(&disk, 64u << 10, NULL);
    struct wal *wal = open_log(&disk, seen);
    append_entry(wal, 2, 1, 9, 8); /* never released: its quorum is gone */
    for (uint64_t i = 1; i <= 4000; i++) {
        append_entry(wal, 1, 1, i, 5);
        if (i % 10 == 0)
            commit(wal);
        if (i > 100)
            wal_release(wal, 1, i - 100);
    }
    commit(wal);
    cr_assert_leq(disk.count, 6, "%u segments", disk.count);
    wal_close(wal);
    wal = open_log(&disk, seen);
    cr_assert_eq(seen->ballots[2][9], 8);
    cr_assert_eq(seen->highest[1], 4000);
    wal_release(wal, 2, 9);
    wal_release(wal, 1, 4000);
    append_entry(wal, 1, 1, 4001, 5);
    commit(wal);
    wal_close(wal);
    wal = open_log(&disk, seen);
    cr_assert_eq(seen->ballots[2][9], 0, "it was released");
    cr_assert_eq(seen->promised[2], 8, "accepting under a ballot was a promise");
    wal_close(wal);
    disk_deinit(&disk);
    free(seen);
}

Test(wal, a_forgotten_group_stays_forgotten_though_the_segment_that_says_so_goes_first)
{
    struct disk disk;
    struct seen *seen = malloc(sizeof(*seen));
    disk_init(&disk, 64u << 10, NULL);
    struct wal *wal = open_log(&disk, seen);
    append_entry(wal, 2, 1, 5, 8);
    append_words(wal, WAL_PROMISE, 2, 1, 9);
    append_entry(wal, 3, 1, 1, 8); /* keeps the first segment */
    commit(wal);
    for (uint64_t i = 1; i <= 700; i++) {
        append_entry(wal, 1, 1, i, 5);
        if (i % 10 == 0)
            commit(wal);
    }
    append_words(wal, WAL_FORGET, 2, 1, 0);
    commit(wal);
    for (uint64_t i = 701; i <= 3000; i++) {
        append_entry(wal, 1, 1, i, 5);
        if (i % 10 == 0)
            commit(wal);
    }
    wal_release(wal, 1, 2990);
    append_entry(wal, 1, 1, 3001, 5);
    commit(wal);
    wal_close(wal);
    wal = open_log(&disk, seen);
    cr_assert_eq(seen->ballots[3][1], 8, "the first segment is still there");
    cr_assert_eq(seen->ballots[2][5], 0);
    cr_assert_eq(seen->promised[2], 0);
    cr_assert_eq(seen->forgotten[2], 0, "the record itself is gone with its segment");
    append_entry(wal, 2, 2, 1, 3); /* the next epoch is none of that */
    commit(wal);
    wal_close(wal);
    wal = open_log(&disk, seen);
    cr_assert_eq(seen->ballots[2][1], 3);
    cr_assert_eq(seen->ballots[2][5], 0);
    wal_close(wal);
    disk_deinit(&disk);
    free(seen);
}

Test(wal, the_store_is_asked_to_flush_when_many_segments_are_in_use)
{
    struct disk disk;
    struct seen *seen = malloc(sizeof(*seen));
    disk_init(&disk, 64u << 10, NULL);
    struct wal *wal = fill(&disk, seen, 100);
    cr_assert_not(wal_wants_flush(wal));
    wal_close(wal);
    wal = fill(&disk, seen, 3000);
    cr_assert(wal_wants_flush(wal));
    wal_close(wal);
    wal = open_log(&disk, seen);
    cr_assert(wal_wants_flush(wal), "after a start, too");
    wal_release(wal, 1, 3000);
    cr_assert_not(wal_wants_flush(wal));
    wal_close(wal);
    disk_deinit(&disk);
    free(seen);
}

static uint64_t large_seen;

static void see_large(void *arg, const struct wal_record *record)
{
    (void)arg;
    cr_assert_eq(crc32c(record->entry.body->data, record->entry.body->size), record->entry.body_crc);
    large_seen += record->entry.body->size;
}

Test(wal, a_value_larger_than_a_segment_has_one_of_its_own_which_is_not_kept)
{
    struct disk disk;
    char error[512];
    disk_init(&disk, 64u << 10, NULL);
    struct wal_options options = {.device = disk_device(&disk)};
    struct wal *wal;
    cr_assert_eq(wal_open(&options, see_large, NULL, &wal, error, sizeof(error)), SLUICE_OK);
    const uint32_t sizes[] = {100, 300000, ENTRY_BODY_BYTES_MAX, 100, 70000, 70000};
    uint64_t total = 0;
    for (uint64_t i = 0; i < 6; i++) {
        struct buf *body = buf_create(sizes[i]);
        memset(body->data, (int)i, sizes[i]);
        const struct wal_record record = {.type = WAL_ENTRY,
                                          .group = 1,
                                          .epoch = 1,
                                          .ballot = 1,
                                          .entry = {.index = i + 1,
                                                    .ballot = 1,
                                                    .epoch = 1,
                                                    .group = 1,
                                                    .body_crc = crc32c(body->data, sizes[i]),
                                                    .body = body}};
        cr_assert_eq(wal_append(wal, &record), SLUICE_OK);
        buf_unref(body);
        commit(wal);
        total += sizes[i];
    }
    struct disk crashed;
    disk_copy(&crashed, &disk);
    options.device = disk_device(&crashed);
    struct wal *second;
    cr_assert_eq(wal_open(&options, see_large, NULL, &second, error, sizeof(error)), SLUICE_OK, "%s", error);
    cr_assert_eq(large_seen, total);
    wal_close(second);
    disk_deinit(&crashed);
    /* A device that cannot tell sizes is read all the same. */
    disk_copy(&crashed, &disk);
    options.device = disk_device(&crashed);
    options.device.size = NULL;
    large_seen = 0;
    cr_assert_eq(wal_open(&options, see_large, NULL, &second, error, sizeof(error)), SLUICE_OK, "%s", error);
    cr_assert_eq(large_seen, total);
    wal_close(second);
    disk_deinit(&crashed);
    wal_release(wal, 1, 6);
    wal_flush(wal);
    wal_close(wal);
    for (uint32_t i = 0; i < disk.count; i++)
        cr_assert_leq(disk.segments[i].size, 80u << 10);
    disk_deinit(&disk);
}

Test(wal, a_write_that_failed_is_told_once_and_for_all)
{
    struct seen *seen = malloc(sizeof(*seen));
    log_set_level(LOG_LEVEL_NONE);
    for (uint64_t fails_at = 2; fails_at < 40; fails_at++) {
        struct disk disk;
        enum sluice_status error = SLUICE_OK;
        disk_init(&disk, 64u << 10, NULL);
        disk.fails_at = fails_at;
        disk.failure = SLUICE_IO;
        struct wal *wal = open_log(&disk, seen);
        uint64_t completed = 0, index = 0;
        for (int i = 0; i < 60 && error == SLUICE_OK; i++) {
            for (int j = 0; j < 40; j++)
                append_entry(wal, 1, 1, ++index, 5);
            uint64_t ticket = wal_submit(wal);
            wal_flush(wal);
            completed = wal_completed(wal, &error);
            cr_assert(completed == ticket || error != SLUICE_OK);
        }
        cr_assert_eq(error, disk.failure);
        const struct wal_record record = {.type = WAL_PROMISE, .group = 1, .epoch = 1, .ballot = 1};
        cr_assert_eq(wal_append(wal, &record), disk.failure);
        uint64_t writes = disk.operations;
        wal_submit(wal);
        wal_flush(wal);
        cr_assert_eq(wal_completed(wal, &error), completed);
        cr_assert_eq(error, disk.failure);
        wal_close(wal);
        cr_assert_eq(disk.operations, writes, "nothing is tried again");
        disk.fails_at = 0;
        wal = open_log(&disk, seen);
        cr_assert_geq(seen->highest[1], completed * 40);
        wal_close(wal);
        disk_deinit(&disk);
    }
    free(seen);
}

Test(wal, a_disk_too_full_for_the_first_segment_is_told_at_the_start)
{
    struct disk disk;
    struct seen *seen = malloc(sizeof(*seen));
    struct wal *wal;
    char error[512];
    log_set_level(LOG_LEVEL_NONE);
    disk_init(&disk, 64u << 10, NULL);
    disk.fails_at = 1;
    disk.failure = SLUICE_STORAGE_FULL;
    cr_assert_eq(try_open(&disk, seen, &wal, error), SLUICE_STORAGE_FULL);
    cr_assert_not_null(strstr(error, "65536"), "%s", error);
    disk_deinit(&disk);
    free(seen);
}

Test(wal, a_batch_costs_little_more_than_its_payload)
{
    struct disk disk;
    struct wal_options options;
    char error[512];
    disk_init(&disk, 64u << 20, NULL);
    options = (struct wal_options){.device = disk_device(&disk)};
    struct wal *wal;
    cr_assert_eq(wal_open(&options, see_large, NULL, &wal, error, sizeof(error)), SLUICE_OK);
    struct buf *body = buf_create(1024);
    memset(body->data, 1, 1024);
    for (uint64_t i = 1; i <= 256; i++) {
        const struct wal_record record = {
            .type = WAL_ENTRY,
            .group = 1,
            .epoch = 1,
            .ballot = 1,
            .entry = {
                .index = i, .ballot = 1, .epoch = 1, .group = 1, .body_crc = crc32c(body->data, 1024), .body = body}};
        cr_assert_eq(wal_append(wal, &record), SLUICE_OK);
    }
    commit(wal);
    cr_assert_leq(disk.bytes_written, 256 * 1024 * 11 / 10);
    buf_unref(body);
    wal_close(wal);
    disk_deinit(&disk);
}

/* ---- Random life with power failures ---- */

struct life {
    struct random random;
    struct disk disk;
    /* What must be found: acknowledged and not released. */
    uint64_t accepted[GROUPS][INDEXES_MAX]; /* ballot acknowledged */
    uint64_t promised[GROUPS], ceiling[GROUPS], released[GROUPS];
    /* What may be found: also what was written but not acknowledged. */
    uint64_t tried[GROUPS][INDEXES_MAX];
    uint64_t next[GROUPS], ballot[GROUPS];
    uint64_t crashes;
};

/* Appends some records; what they say becomes a duty once the commit is acknowledged. */
static void live(struct life *life, struct wal *wal)
{
    enum sluice_status error = SLUICE_OK;
    while (error == SLUICE_OK) {
        struct {
            uint32_t group;
            uint64_t index, ballot, ceiling;
        } duties[64];
        uint32_t count = 0, wanted = 1 + (uint32_t)random_below(&life->random, 40);
        while (count < wanted) {
            /* Some groups are seldom heard of: what they said long ago must be carried along. */
            uint32_t group = (uint32_t)random_below(&life->random, 300) != 0
                                 ? (uint32_t)random_below(&life->random, 3)
                                 : 3 + (uint32_t)random_below(&life->random, 2);
            uint64_t what = random_below(&life->random, 20);
            duties[count].group = group;
            duties[count].index = duties[count].ceiling = 0;
            if (what == 0 || life->next[group] >= INDEXES_MAX - 1) {
                life->ballot[group] += 1 + random_below(&life->random, 3);
                append_words(wal, WAL_PROMISE, group, 1, life->ballot[group]);
            } else if (what == 1) {
                duties[count].ceiling = life->ceiling[group] + 1 + random_below(&life->random, 9);
                append_words(wal, WAL_CEILING, group, 0, duties[count].ceiling);
            } else {
                uint64_t index = life->next[group] + 1;
                /* A new leader writes unreleased entries again. */
                if (what == 2 && index > life->released[group] + 1) {
                    index -= 1 + random_below(&life->random, index - life->released[group] - 1);
                    life->ballot[group]++;
                } else {
                    life->next[group] = index;
                }
                duties[count].index = index;
                life->tried[group][index] = life->ballot[group];
                append_entry(wal, group, 1, index, life->ballot[group]);
            }
            duties[count].ballot = life->ballot[group];
            count++;
        }
        uint64_t ticket = wal_submit(wal);
        if (random_below(&life->random, 4) != 0) {
            wal_flush(wal);
        } else {
            append_words(wal, WAL_STABLE, 0, 1, 1);
            ticket = wal_submit(wal);
            wal_flush(wal);
        }
        if (wal_completed(wal, &error) < ticket)
            return;
        for (uint32_t i = 0; i < count; i++) {
            uint32_t group = duties[i].group;
            if (duties[i].index != 0)
                life->accepted[group][duties[i].index] = duties[i].ballot;
            if (duties[i].ceiling > life->ceiling[group])
                life->ceiling[group] = duties[i].ceiling;
            else if (duties[i].ceiling == 0)
                life->promised[group] = duties[i].ballot;
        }
        if (random_below(&life->random, 3) == 0) {
            uint32_t group = (uint32_t)random_below(&life->random, GROUPS);
            if (life->next[group] > life->released[group]) {
                life->released[group] += random_below(&life->random, life->next[group] - life->released[group] + 1);
                wal_release(wal, group, life->released[group]);
            }
        }
    }
}

static void check_life(struct life *life, const struct seen *seen)
{
    for (uint32_t group = 0; group < GROUPS; group++) {
        cr_assert_geq(seen->promised[group], life->promised[group]);
        cr_assert_geq(seen->ceiling[group], life->ceiling[group]);
        for (uint64_t index = life->released[group] + 1; index < INDEXES_MAX; index++) {
            cr_assert_geq(seen->ballots[group][index], life->accepted[group][index], "group %u index %llu", group,
                          (unsigned long long)index);
            cr_assert_leq(seen->ballots[group][index], life->tried[group][index]);
        }
        /* What survived unacknowledged counts from here on, as it does for a replica that starts. */
        for (uint64_t index = 0; index < INDEXES_MAX; index++)
            life->accepted[group][index] = life->tried[group][index] = seen->ballots[group][index];
        life->promised[group] = seen->promised[group];
        if (life->ballot[group] < seen->promised[group])
            life->ballot[group] = seen->promised[group];
        life->ceiling[group] = seen->ceiling[group];
        uint64_t highest = seen->highest[group];
        life->next[group] = highest > life->released[group] ? highest : life->released[group];
    }
}

static void run_life(struct life *life, struct seen *seen, uint64_t segment_bytes)
{
    memset(life->accepted, 0, sizeof(life->accepted));
    memset(life->tried, 0, sizeof(life->tried));
    for (uint32_t group = 0; group < GROUPS; group++)
        life->promised[group] = life->ceiling[group] = life->released[group] = life->next[group] = life->ballot[group] =
            0;
    disk_init(&life->disk, segment_bytes, &life->random);
    for (int crash = 0; crash < 12; crash++) {
        life->disk.powerless = false;
        life->disk.power_lost_at = 0;
        struct wal *wal = NULL;
        char error[512];
        /* Power may fail while the log is opened, too. */
        if (random_below(&life->random, 4) == 0)
            life->disk.power_lost_at = life->disk.operations + 1 + random_below(&life->random, 3);
        enum sluice_status status = try_open(&life->disk, seen, &wal, error);
        cr_assert(status == SLUICE_OK || life->disk.powerless, "%s", error);
        if (status != SLUICE_OK)
            continue;
        check_life(life, seen);
        /* The layer above says again what it has durably elsewhere. */
        for (uint32_t group = 0; group < GROUPS; group++)
            wal_release(wal, group, life->released[group]);
        if (life->disk.power_lost_at == 0)
            life->disk.power_lost_at = life->disk.operations + 1 + random_below(&life->random, 120);
        live(life, wal);
        cr_assert(life->disk.powerless);
        wal_close(wal);
        life->crashes++;
    }
    disk_deinit(&life->disk);
}

Test(wal, whatever_power_failures_do_nothing_acknowledged_is_lost, .timeout = 120)
{
    struct life *life = calloc(1, sizeof(*life));
    struct seen *seen = malloc(sizeof(*seen));
    log_set_level(LOG_LEVEL_NONE);
    random_seed(&life->random, test_seed("log under power failures"));
    for (int run = 0; run < 60; run++)
        run_life(life, seen, (64u + 64u * random_below(&life->random, 3)) << 10);
    cr_assert_gt(life->crashes, 300);
    free(seen);
    free(life);
}

/* The log on a disk that lies. Whatever is done to it: what comes back is what was written, and nothing acknowledged is
 * missing without a word. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/crc.h"
#include "core/base/log.h"
#include "core/versions/wal_format.h"
#include "disk.h"
#include "twin.h"

#define GROUPS  3u
#define INDEXES 4096u
#define BATCHES 2048u

struct seen {
    uint64_t highest[GROUPS], lowest[GROUPS], entries, promised[GROUPS], stable[GROUPS];
    uint32_t damages;
    char last[128];
};

static struct buf *body_of(uint32_t group, uint64_t index)
{
    struct buf *body = buf_create((uint32_t)(1 + (group * 977 + index * 7919) % 3000));
    for (uint32_t i = 0; i < body->size; i++)
        body->data[i] = (uint8_t)(group * 31 + index * 7 + i);
    return body;
}

static void see(void *arg, const struct wal_record *record)
{
    struct seen *seen = arg;
    uint32_t group = record->group;
    cr_assert_lt(group, GROUPS);
    if (record->type == WAL_ENTRY) {
        struct buf *wanted = body_of(group, record->entry.index);
        cr_assert(record->entry.body->size == wanted->size &&
                  memcmp(record->entry.body->data, wanted->data, wanted->size) == 0);
        buf_unref(wanted);
        if (seen->highest[group] != 0)
            cr_assert_eq(record->entry.index, seen->highest[group] + 1, "group %u has a hole before %llu", group,
                         (unsigned long long)record->entry.index);
        else
            seen->lowest[group] = record->entry.index;
        seen->highest[group] = record->entry.index;
        seen->entries++;
    }
    if (record->type == WAL_PROMISE && record->ballot > seen->promised[group])
        seen->promised[group] = record->ballot;
    if (record->type == WAL_STABLE)
        seen->stable[group] = record->ballot;
}

static void see_damage(void *arg, const struct wal_damage *damage)
{
    struct seen *seen = arg;
    seen->damages++;
    snprintf(seen->last, sizeof(seen->last), "segment %llu offset %llu: %s", (unsigned long long)damage->segment,
             (unsigned long long)damage->offset, damage->what);
}

static enum sluice_status open_log(struct disk *disk, bool tolerant, struct seen *seen, struct wal **out)
{
    char error[512] = "";
    const struct wal_options options = {
        .device = disk_device(disk), .damaged = tolerant ? see_damage : NULL, .known = disk->operations > 1};
    memset(seen, 0, sizeof(*seen));
    enum sluice_status status = wal_open(&options, see, seen, out, error, sizeof(error));
    if (status != SLUICE_OK)
        cr_assert_neq(error[0], 0);
    if (status != SLUICE_OK && tolerant)
        fprintf(stderr, "refused: %s\n", error);
    return status;
}

static void append(struct wal *wal, uint32_t group, uint64_t index)
{
    struct buf *body = body_of(group, index);
    const struct wal_record record = {.type = WAL_ENTRY,
                                      .group = group,
                                      .epoch = 1,
                                      .ballot = 5,
                                      .entry = {.index = index,
                                                .ballot = 5,
                                                .time = index,
                                                .epoch = 1,
                                                .group = group,
                                                .kind = ENTRY_COMMAND,
                                                .body_crc = crc32c(body->data, body->size),
                                                .body = body}};
    cr_assert_eq(wal_append(wal, &record), SLUICE_OK);
    buf_unref(body);
}

/* What was acknowledged by the end of each batch. */
struct past {
    uint64_t highest[BATCHES][GROUPS];
    uint32_t batches;
    uint64_t released[GROUPS];
};

static void commit(struct wal *wal, struct past *past, const uint64_t *highest)
{
    enum sluice_status error;
    uint64_t ticket = wal_submit(wal);
    wal_flush(wal);
    cr_assert_eq(wal_completed(wal, &error), ticket);
    cr_assert_eq(error, SLUICE_OK);
    memcpy(past->highest[past->batches++], highest, sizeof(past->highest[0]));
}

/* A life of some segments, with recycling, that ends in a crash. */
static void live(struct disk *disk, struct random *random, struct past *past)
{
    struct seen seen;
    struct wal *wal;
    uint64_t highest[GROUPS] = {0};
    memset(past, 0, sizeof(*past));
    disk_init(disk, 128u << 10, random);
    log_set_level(LOG_LEVEL_NONE);
    cr_assert_eq(open_log(disk, false, &seen, &wal), SLUICE_OK);
    uint64_t batches = 30 + random_below(random, 150);
    for (uint64_t i = 0; i < batches; i++) {
        uint32_t count = 1 + (uint32_t)random_below(random, 6);
        for (uint32_t j = 0; j < count; j++) {
            uint32_t group = (uint32_t)random_below(random, GROUPS);
            append(wal, group, ++highest[group]);
        }
        commit(wal, past, highest);
        if (random_below(random, 12) == 0)
            for (uint32_t group = 0; group < GROUPS; group++) {
                past->released[group] += random_below(random, highest[group] - past->released[group] + 1);
                wal_release(wal, group, past->released[group]);
            }
    }
    /* The end is a crash: what would be written in order at a close is not. */
    disk->powerless = true;
    wal_close(wal);
    disk->powerless = false;
}

enum harm { FLIP, ZERO_BLOCK, MISSING, SWAPPED, RENAMED, MISDIRECTED, OLD_BATCH, READ_ERROR, HARMS };
static const char *const harms[HARMS] = {"flip",    "lost write",  "missing segment", "swapped segments",
                                         "renamed", "misdirected", "old batch",       "read error"};

static struct disk_segment *any(struct disk *disk, struct random *random)
{
    return &disk->segments[random_below(random, disk->count)];
}

static uint64_t block_of(const struct disk_segment *segment, struct random *random)
{
    return random_below(random, segment->size / 4096) * 4096;
}

static void harm(struct disk *disk, struct random *random, enum harm kind)
{
    struct disk_segment *a = any(disk, random), *b = any(disk, random);
    uint64_t from = block_of(a, random), to = block_of(b, random), number;
    switch (kind) {
    case FLIP:
        a->data[random_below(random, a->size)] ^= (uint8_t)(1u << random_below(random, 8));
        return;
    case ZERO_BLOCK:
        memset(a->data + from, 0, 4096);
        return;
    case MISSING:
        free(a->data);
        *a = disk->segments[--disk->count];
        return;
    case SWAPPED:
        number = a->number;
        a->number = b->number;
        b->number = number;
        return;
    case RENAMED:
        a->number = 1000 + random_below(random, 100);
        return;
    case MISDIRECTED:
    case OLD_BATCH:
        if (kind == OLD_BATCH)
            to = block_of(a, random);
        memcpy((kind == OLD_BATCH ? a : b)->data + to, a->data + from, 4096);
        return;
    case READ_ERROR:
        disk->bad_number = a->number;
        disk->bad_offset = from;
        return;
    default:
        return;
    }
}

/* Is what was seen the state after some batch? */
static bool is_prefix(const struct past *past, const struct seen *seen, uint32_t *batch)
{
    for (uint32_t i = past->batches + 1; i-- > 0;) {
        bool same = true;
        for (uint32_t group = 0; group < GROUPS; group++) {
            uint64_t was = i == 0 ? 0 : past->highest[i - 1][group];
            /* Where nothing of a group is left, everything was released. */
            same = same && (seen->highest[group] == was || (seen->highest[group] == 0 && was <= past->released[group]));
        }
        if (same) {
            *batch = i;
            return true;
        }
    }
    return false;
}

static void check_after(struct disk *disk, const struct seen *before, bool was_damaged)
{
    struct seen seen;
    struct wal *wal;
    struct past *more = calloc(1, sizeof(*more));
    uint64_t highest[GROUPS];
    /* The log takes records again, and what it says of its loss outlives restarts until the group is mended. */
    bool tolerant = disk->bad_number != 0;
    cr_assert_eq(open_log(disk, tolerant, &seen, &wal), SLUICE_OK);
    cr_assert_eq(seen.damages, 0, "settled damage is told again: %s", seen.last);
    memcpy(highest, seen.highest, sizeof(highest));
    for (uint32_t group = 0; group < GROUPS; group++) {
        cr_assert_eq(seen.highest[group], before->highest[group]);
        cr_assert_eq(wal_lost(wal, group), was_damaged);
    }
    for (int i = 0; i < 40; i++) {
        append(wal, 0, ++highest[0]);
        if (i == 20)
            cr_assert_eq(wal_mend(wal, 1, 1), SLUICE_OK);
        commit(wal, more, highest);
    }
    wal_close(wal);
    cr_assert_eq(open_log(disk, tolerant, &seen, &wal), SLUICE_OK);
    cr_assert_eq(seen.damages, 0, "%s", seen.last);
    cr_assert_eq(seen.highest[0], highest[0]);
    cr_assert_eq(wal_lost(wal, 0), was_damaged);
    cr_assert_eq(wal_lost(wal, 1), false);
    cr_assert_eq(wal_lost(wal, 2), was_damaged);
    wal_close(wal);
    free(more);
}

static void harm_over_many_seeds(enum harm kind, uint32_t rounds, uint32_t *told)
{
    struct random random;
    struct past *past = malloc(sizeof(*past));
    random_seed(&random, test_seed(harms[kind]));
    *told = 0;
    for (uint32_t round = 0; round < rounds; round++) {
        struct disk disk, copy;
        struct seen seen, strict;
        struct wal *wal;
        live(&disk, &random, past);
        harm(&disk, &random, kind);
        disk_copy(&copy, &disk);
        cr_assert_eq(open_log(&disk, true, &seen, &wal), SLUICE_OK);
        uint32_t batch = 0;
        cr_assert(is_prefix(past, &seen, &batch), "%s: what came back was never the log's state", harms[kind]);
        cr_assert(seen.damages > 0 || batch + 1 >= past->batches, "%s: %u of %u batches, and no word", harms[kind],
                  batch, past->batches);
        for (uint32_t group = 0; group < GROUPS; group++)
            cr_assert_eq(wal_lost(wal, group), seen.damages > 0);
        disk.powerless = round % 2 == 0;
        wal_close(wal);
        disk.powerless = false;
        check_after(&disk, &seen, seen.damages > 0);
        /* Who cannot be repaired refuses exactly then. */
        struct wal *refused = NULL;
        enum sluice_status status = open_log(&copy, false, &strict, &refused);
        if (kind != READ_ERROR)
            cr_assert_eq(status == SLUICE_OK, seen.damages == 0);
        if (status == SLUICE_OK)
            wal_close(refused);
        *told += seen.damages > 0;
        disk_deinit(&copy);
        disk_deinit(&disk);
    }
    free(past);
}

#define HARM_TEST(name, kind, least)                                                                                   \
    Test(wal_damage, name, .timeout = 120)                                                                             \
    {                                                                                                                  \
        uint32_t told;                                                                                                 \
        harm_over_many_seeds(kind, 60, &told);                                                                         \
        cr_assert_geq(told, (uint32_t)(least), "only %u of 60 were told", told);                                       \
    }

HARM_TEST(a_flipped_bit_anywhere_is_told_or_costs_nothing, FLIP, 5)
HARM_TEST(a_lost_write_anywhere_is_told_or_costs_nothing, ZERO_BLOCK, 5)
HARM_TEST(a_missing_segment_is_told_or_was_not_needed, MISSING, 5)
HARM_TEST(swapped_segments_are_told_or_were_not_needed, SWAPPED, 5)
HARM_TEST(a_renamed_segment_is_told_or_was_not_needed, RENAMED, 5)
HARM_TEST(a_misdirected_write_is_told_or_costs_nothing, MISDIRECTED, 5)
HARM_TEST(an_old_batch_in_place_of_a_new_one_is_told_or_costs_nothing, OLD_BATCH, 5)
HARM_TEST(a_read_error_is_told_or_costs_nothing, READ_ERROR, 5)

Test(wal_damage, a_batch_of_a_later_format_is_refused_in_words)
{
    struct disk disk;
    struct seen seen;
    struct wal *wal;
    char error[512] = "";
    struct past *past = calloc(1, sizeof(*past));
    const uint64_t highest[GROUPS] = {1};
    log_set_level(LOG_LEVEL_NONE);
    disk_init(&disk, 64u << 10, NULL);
    cr_assert_eq(open_log(&disk, false, &seen, &wal), SLUICE_OK);
    append(wal, 0, 1);
    commit(wal, past, highest);
    wal_close(wal);
    struct wal_batch_header header;
    uint8_t *at = disk_find(&disk, disk.last_number)->data + disk.last_offset;
    memcpy(&header, at, sizeof(header));
    cr_assert_eq(WAL_BATCH_FORMAT(header.flags), WAL_FORMAT);
    header.flags = (header.flags & 0xffffff) | (WAL_FORMAT + 1) << 24;
    header.header_crc = crc32c((uint8_t *)&header + 8, sizeof(header) - 8);
    memcpy(at, &header, sizeof(header));
    const struct wal_options options = {.device = disk_device(&disk), .damaged = see_damage};
    cr_assert_eq(wal_open(&options, see, &seen, &wal, error, sizeof(error)), SLUICE_VERSION);
    cr_assert_not_null(strstr(error, "format 2"), "%s", error);
    disk_deinit(&disk);
    free(past);
}

Test(wal_damage, on_a_full_disk_what_was_submitted_waits_and_is_written_once_there_is_room)
{
    struct disk disk;
    struct seen seen;
    struct wal *wal;
    uint64_t index = 0, ticket = 0, completed;
    enum sluice_status error;
    log_set_level(LOG_LEVEL_NONE);
    disk_init(&disk, 64u << 10, NULL);
    disk.room = 3;
    cr_assert_eq(open_log(&disk, false, &seen, &wal), SLUICE_OK);
    while (!wal_full(wal)) {
        append(wal, 0, ++index);
        ticket = wal_submit(wal);
        wal_flush(wal);
        cr_assert_lt(index, 2000);
    }
    /* Full is said while there is still room for what is under way. */
    completed = wal_completed(wal, &error);
    cr_assert_eq(completed, ticket);
    cr_assert_eq(error, SLUICE_OK);
    for (int i = 0; i < 6000; i++) { /* more than the queue holds */
        append(wal, 0, ++index);
        ticket = wal_submit(wal);
        if (i % 100 == 0)
            wal_flush(wal);
    }
    wal_flush(wal);
    completed = wal_completed(wal, &error);
    cr_assert_lt(completed, ticket);
    cr_assert_eq(error, SLUICE_OK);
    cr_assert(wal_full(wal));
    disk.room = 0;
    while (wal_completed(wal, &error) < ticket) {
        wal_flush(wal);
        cr_assert_eq(error, SLUICE_OK);
        wal_submit(wal);
    }
    cr_assert_not(wal_full(wal));
    wal_close(wal);
    cr_assert_eq(open_log(&disk, false, &seen, &wal), SLUICE_OK);
    cr_assert_eq(seen.highest[0], index);
    cr_assert_eq(seen.lowest[0], 1);
    wal_close(wal);
    disk_deinit(&disk);
}

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/crc.h"
#include "twin.h"

#define SUITE versions

TWIN_TEST(SUITE, an_empty_shard_has_nothing)
{
    struct version version;
    struct entry entry;
    uint64_t out = 99, time = 99;
    twin_settle(twin);
    cr_assert_eq(versions_applied(twin->versions, &time), 0);
    cr_assert_eq(time, 0);
    cr_assert_eq(versions_latest(twin->versions, slice_of("a"), true, &version), SLUICE_NOT_FOUND);
    cr_assert_eq(versions_by_version(twin->versions, slice_of("a"), 1, true, &version), SLUICE_NOT_FOUND);
    cr_assert_eq(versions_by_time(twin->versions, slice_of("a"), UINT64_MAX, true, &version), SLUICE_NOT_FOUND);
    cr_assert_eq(versions_entry(twin->versions, 0, &entry), SLUICE_NOT_FOUND);
    cr_assert_eq(versions_entry(twin->versions, 1, &entry), SLUICE_NOT_FOUND);
    cr_assert_eq(versions_revision_after(twin->versions, 0, &out), SLUICE_OK);
    cr_assert_eq(out, 1);
    cr_assert_eq(versions_count(twin->versions, slice_of(""), UINT64_MAX, &out), SLUICE_OK);
    cr_assert_eq(out, 0);
}

TWIN_TEST(SUITE, each_version_is_found_by_number_and_by_time)
{
    struct version version;
    char text[32];
    for (uint64_t i = 1; i <= 40; i++) {
        snprintf(text, sizeof(text), "value %llu", (unsigned long long)i);
        twin_put(twin, "farm/cow", i, text);   /* time i * 20 - 10 */
        twin_put(twin, "farm/other", i, text); /* time i * 20 */
    }
    twin_settle(twin);
    for (uint64_t i = 1; i <= 40; i++) {
        snprintf(text, sizeof(text), "value %llu", (unsigned long long)i);
        cr_assert_eq(versions_by_version(twin->versions, slice_of("farm/cow"), i, true, &version), SLUICE_OK);
        twin_expect(&version, "farm/cow", i, 2 * i - 1, text);
        for (uint64_t after = 0; after < 20; after++) {
            cr_assert_eq(versions_by_time(twin->versions, slice_of("farm/cow"), i * 20 - 10 + after, true, &version),
                         SLUICE_OK);
            twin_expect(&version, "farm/cow", i, 2 * i - 1, text);
        }
    }
    cr_assert_eq(versions_by_time(twin->versions, slice_of("farm/cow"), 9, true, &version), SLUICE_NOT_FOUND);
    cr_assert_eq(versions_by_version(twin->versions, slice_of("farm/cow"), 0, true, &version), SLUICE_NOT_FOUND);
    cr_assert_eq(versions_by_version(twin->versions, slice_of("farm/cow"), 41, true, &version), SLUICE_NOT_FOUND);
    cr_assert_eq(versions_by_version(twin->versions, slice_of("farm/co"), 1, true, &version), SLUICE_NOT_FOUND);
    cr_assert_eq(versions_latest(twin->versions, slice_of("farm/cow"), true, &version), SLUICE_OK);
    twin_expect(&version, "farm/cow", 40, 79, "value 40");
}

TWIN_TEST(SUITE, a_tombstone_is_a_version_and_numbers_go_on)
{
    struct version version;
    twin_put(twin, "k", 1, "one");
    twin_delete(twin, "k", 2);
    twin_settle(twin);
    cr_assert_eq(versions_latest(twin->versions, slice_of("k"), true, &version), SLUICE_OK);
    twin_expect(&version, "k", 2, 2, NULL);
    twin_put(twin, "k", 3, "three");
    twin_settle(twin);
    cr_assert_eq(versions_latest(twin->versions, slice_of("k"), true, &version), SLUICE_OK);
    twin_expect(&version, "k", 3, 3, "three");
    cr_assert_eq(versions_by_version(twin->versions, slice_of("k"), 2, true, &version), SLUICE_OK);
    twin_expect(&version, "k", 2, 2, NULL);
    cr_assert_eq(versions_by_version(twin->versions, slice_of("k"), 1, true, &version), SLUICE_OK);
    twin_expect(&version, "k", 1, 1, "one");
}

TWIN_TEST(SUITE, without_its_value_a_version_still_tells_all_else)
{
    struct version version;
    const struct twin_put put = {
        .key = "k", .type = "image/jpeg", .value = "picture", .value_size = 7, .version = 1, .object_time = 4};
    cr_assert_eq(twin_apply(twin, 100, &put, 1, NULL, 0), SLUICE_OK);
    twin_settle(twin);
    cr_assert_eq(versions_latest(twin->versions, slice_of("k"), false, &version), SLUICE_OK);
    cr_assert_null(version.value);
    cr_assert_eq(version.value_size, 7);
    cr_assert_eq(version.time, 100);
    cr_assert_eq(version.object_time, 4);
    cr_assert_eq(version.content_type_size, 10);
    cr_assert_eq(memcmp(version.content_type, "image/jpeg", 10), 0);
    cr_assert_eq(memcmp(version.key, "k", 1), 0);
    version_release(&version);
}

TWIN_TEST(SUITE, the_operations_of_a_batch_share_one_revision)
{
    const struct twin_put puts[] = {
        {.key = "b", .type = "text/plain", .value = "bee", .value_size = 3, .version = 1},
        {.key = "a", .type = "text/plain", .value = "", .value_size = 0, .version = 1},
        {.key = "c", .version = 1, .tombstone = true},
    };
    struct version version;
    cr_assert_eq(twin_apply(twin, 5, puts, 3, NULL, 0), SLUICE_OK);
    twin_settle(twin);
    cr_assert_eq(versions_latest(twin->versions, slice_of("b"), true, &version), SLUICE_OK);
    cr_assert_eq(version.operation, 0);
    twin_expect(&version, "b", 1, 1, "bee");
    cr_assert_eq(versions_latest(twin->versions, slice_of("a"), true, &version), SLUICE_OK);
    cr_assert_eq(version.operation, 1);
    twin_expect(&version, "a", 1, 1, "");
    cr_assert_eq(versions_latest(twin->versions, slice_of("c"), true, &version), SLUICE_OK);
    cr_assert_eq(version.operation, 2);
    twin_expect(&version, "c", 1, 1, NULL);
}

TWIN_TEST(SUITE, entries_come_back_as_they_were_applied)
{
    struct entry entry;
    for (uint64_t i = 1; i <= 300; i++) {
        if (i % 3 == 0)
            cr_assert_eq(twin_apply(twin, twin->time, NULL, 0, NULL, 0), SLUICE_OK); /* a no-op keeps the time */
        else
            twin_put(twin, "k", i - (i - 1) / 3, "value");
    }
    twin_settle(twin);
    for (uint64_t i = 1; i <= 300; i++) {
        cr_assert_eq(versions_entry(twin->versions, i, &entry), SLUICE_OK);
        cr_assert_eq(entry.index, i);
        cr_assert_eq(entry.ballot, i * 65536 + 1);
        cr_assert_eq(entry.group, 7);
        cr_assert_eq(entry.epoch, 3);
        cr_assert_eq(entry.time, (i - i / 3) * 10);
        cr_assert_eq(entry.kind, i % 3 == 0 ? ENTRY_NOOP : ENTRY_COMMAND);
        if (i % 3 == 0)
            cr_assert_null(entry.body);
        else
            cr_assert_eq(crc32c(entry.body->data, entry.body->size), entry.body_crc);
        buf_unref(entry.body);
    }
    cr_assert_eq(versions_entry(twin->versions, 301, &entry), SLUICE_NOT_FOUND);
}

TWIN_TEST(SUITE, a_time_leads_to_the_first_entry_after_it)
{
    uint64_t out;
    for (uint64_t i = 1; i <= 400; i++)
        cr_assert_eq(twin_apply(twin, i / 2 * 10, NULL, 0, NULL, 0), SLUICE_OK); /* pairs share a time */
    twin_settle(twin);
    for (uint64_t time = 0; time < 2000; time++) {
        cr_assert_eq(versions_revision_after(twin->versions, time, &out), SLUICE_OK);
        cr_assert_eq(out, time / 10 * 2 + 2, "time %llu gave %llu", (unsigned long long)time, (unsigned long long)out);
    }
    cr_assert_eq(versions_revision_after(twin->versions, 2000, &out), SLUICE_OK);
    cr_assert_eq(out, 401);
    cr_assert_eq(versions_revision_after(twin->versions, UINT64_MAX, &out), SLUICE_OK);
    cr_assert_eq(out, 401);
}

struct listing {
    char text[512];
    size_t size;
    int stop_after; /* 0: never */
};

static bool note(void *arg, const struct version *version)
{
    struct listing *listing = arg;
    int written = snprintf(listing->text + listing->size, sizeof(listing->text) - listing->size, "%.*s=%llu%s%.*s ",
                           (int)version->key_size, version->key, (unsigned long long)version->version,
                           version->flags & VERSION_TOMBSTONE ? "!"
                           : version->value == NULL           ? ""
                                                              : ":",
                           version->value == NULL ? 0 : (int)version->value_size,
                           version->value == NULL ? "" : (const char *)version->value);
    listing->size += (size_t)written;
    return listing->stop_after == 0 || --listing->stop_after > 0;
}

static void expect_list(struct twin *twin, struct versions_range range, int stop_after, const char *expected)
{
    struct listing listing = {.stop_after = stop_after};
    cr_assert_eq(versions_list(twin->versions, &range, note, &listing), SLUICE_OK);
    cr_assert_str_eq(listing.text, expected);
}

TWIN_TEST(SUITE, a_list_is_in_key_order_at_its_time)
{
    twin_put(twin, "farm/b", 1, "b1");  /* 10 */
    twin_put(twin, "farm/a", 1, "a1");  /* 20 */
    twin_put(twin, "farmland", 1, "x"); /* 30 */
    twin_put(twin, "farm/a", 2, "a2");  /* 40 */
    twin_settle(twin);
    twin_delete(twin, "farm/b", 2);     /* 50 */
    twin_put(twin, "farm/c", 1, "c1");  /* 60 */
    twin_put(twin, "farm/a/z", 1, "z"); /* 70 */
    twin_put(twin, "z", 1, "end");      /* 80 */
    const struct versions_range all = {.at = UINT64_MAX}, farm = {.prefix = slice_of("farm/"), .at = UINT64_MAX};
    for (int settled = 0; settled < 2; settled++) {
        struct versions_range range = all;
        expect_list(twin, range, 0, "farm/a=2 farm/a/z=1 farm/c=1 farmland=1 z=1 ");
        range.tombstones = true;
        expect_list(twin, range, 0, "farm/a=2 farm/a/z=1 farm/b=2! farm/c=1 farmland=1 z=1 ");
        range = farm;
        range.values = true;
        expect_list(twin, range, 0, "farm/a=2:a2 farm/a/z=1:z farm/c=1:c1 ");
        expect_list(twin, range, 2, "farm/a=2:a2 farm/a/z=1:z ");
        range.after = slice_of("farm/a");
        expect_list(twin, range, 0, "farm/a/z=1:z farm/c=1:c1 ");
        range.after = slice_of("farm/b");
        expect_list(twin, range, 0, "farm/c=1:c1 ");
        range.after = slice_of("farm/zzz");
        expect_list(twin, range, 0, "");
        range.after = slice_of("a");
        expect_list(twin, range, 0, "farm/a=2:a2 farm/a/z=1:z farm/c=1:c1 ");
        range = farm;
        range.at = 39;
        expect_list(twin, range, 0, "farm/a=1 farm/b=1 ");
        range.at = 10;
        expect_list(twin, range, 0, "farm/b=1 ");
        range.at = 9;
        expect_list(twin, range, 0, "");
        range.at = 50;
        range.tombstones = true;
        expect_list(twin, range, 0, "farm/a=2 farm/b=2! ");
        range = all;
        range.prefix = slice_of("farm/a");
        expect_list(twin, range, 0, "farm/a=2 farm/a/z=1 ");
        range.prefix = slice_of("nothing");
        expect_list(twin, range, 0, "");
        twin_settle(twin);
    }
}

static void expect_history(struct twin *twin, struct versions_span span, int stop_after, const char *expected)
{
    struct listing listing = {.stop_after = stop_after};
    cr_assert_eq(versions_history(twin->versions, slice_of("k"), &span, note, &listing), SLUICE_OK);
    cr_assert_str_eq(listing.text, expected);
}

TWIN_TEST(SUITE, history_goes_both_ways_within_its_span)
{
    for (uint64_t i = 1; i <= 4; i++) {
        twin_put(twin, "k", i, "v");  /* 10, 30, 50, 70 */
        twin_put(twin, "kk", i, "w"); /* 20, 40, 60, 80 */
    }
    twin_settle(twin);
    twin_delete(twin, "k", 5);   /* 90 */
    twin_put(twin, "k", 6, "v"); /* 100 */
    twin_put(twin, "j", 1, "v"); /* 110 */
    const struct versions_span all = {.version_to = UINT64_MAX, .time_to = UINT64_MAX};
    for (int settled = 0; settled < 2; settled++) {
        struct versions_span span = all;
        expect_history(twin, span, 0, "k=1 k=2 k=3 k=4 k=5! k=6 ");
        span.descending = true;
        expect_history(twin, span, 0, "k=6 k=5! k=4 k=3 k=2 k=1 ");
        expect_history(twin, span, 4, "k=6 k=5! k=4 k=3 ");
        span = all;
        span.values = true;
        expect_history(twin, span, 2, "k=1:v k=2:v ");
        span.version_from = 3;
        span.version_to = 5;
        expect_history(twin, span, 0, "k=3:v k=4:v k=5! ");
        span.descending = true;
        expect_history(twin, span, 0, "k=5! k=4:v k=3:v ");
        span = all;
        span.time_from = 30;
        span.time_to = 90;
        expect_history(twin, span, 0, "k=2 k=3 k=4 k=5! ");
        span.descending = true;
        expect_history(twin, span, 0, "k=5! k=4 k=3 k=2 ");
        span.time_from = 31;
        span.time_to = 89;
        expect_history(twin, span, 0, "k=4 k=3 ");
        span.version_to = 3;
        expect_history(twin, span, 0, "k=3 ");
        span.version_from = 4;
        expect_history(twin, span, 0, "");
        span = all;
        span.time_from = 101;
        expect_history(twin, span, 0, "");
        span = all;
        span.time_to = 9;
        expect_history(twin, span, 0, "");
        span.time_to = 0;
        expect_history(twin, span, 0, "");
        twin_settle(twin);
    }
    struct listing none = {0};
    cr_assert_eq(versions_history(twin->versions, slice_of("absent"), &all, note, &none), SLUICE_OK);
    cr_assert_eq(none.size, 0);
}

TWIN_TEST(SUITE, a_count_holds_what_lies_in_the_pool)
{
    uint64_t count;
    twin_put(twin, "farm/a", 1, "x");
    twin_put(twin, "farm/a", 2, "x");
    twin_settle(twin);
    twin_put(twin, "farm/a", 3, "x");
    twin_delete(twin, "farm/b", 1);
    twin_put(twin, "farm", 1, "x");
    twin_put(twin, "farmland/x", 1, "x");
    for (int settled = 0; settled < 2; settled++) {
        cr_assert_eq(versions_count(twin->versions, slice_of("farm"), UINT64_MAX, &count), SLUICE_OK);
        cr_assert_eq(count, 4, "%llu", (unsigned long long)count);
        cr_assert_eq(versions_count(twin->versions, slice_of(""), UINT64_MAX, &count), SLUICE_OK);
        cr_assert_eq(count, 6);
        cr_assert_eq(versions_count(twin->versions, slice_of(""), 2, &count), SLUICE_OK);
        cr_assert_eq(count, 2);
        cr_assert_eq(versions_count(twin->versions, slice_of("far"), 2, &count), SLUICE_OK);
        cr_assert_eq(count, 0);
        twin_settle(twin);
    }
}

struct facts_seen {
    char text[256];
    size_t count;
};

static void see_fact(void *arg, struct slice name, struct slice value)
{
    struct facts_seen *seen = arg;
    seen->count++;
    cr_assert_eq(name.size, 2);
    seen->text[((const char *)name.data)[1] - 'a'] = ((const char *)value.data)[0];
}

TWIN_TEST(SUITE, facts_are_what_was_said_last)
{
    const struct versions_fact first[] = {
        {slice_of("fa"), slice_of("1")}, {slice_of("fb"), slice_of("1")}, {slice_of("fc"), slice_of("1")}};
    const struct versions_fact second[] = {{slice_of("fb"), slice_of("")},
                                           {slice_of("fc"), slice_of("2")},
                                           {slice_of("fd"), slice_of("")},
                                           {slice_of("fe"), slice_of("")},
                                           {slice_of("fe"), slice_of("3")}};
    cr_assert_eq(twin_apply(twin, 1, NULL, 0, first, 3), SLUICE_OK);
    twin_settle(twin);
    cr_assert_eq(twin_apply(twin, 2, NULL, 0, second, 5), SLUICE_OK);
    for (int settled = 0; settled < 2; settled++) {
        struct facts_seen seen = {.text = "....."};
        cr_assert_eq(versions_facts(twin->versions, see_fact, &seen), SLUICE_OK);
        cr_assert_eq(seen.count, 3);
        cr_assert_str_eq(seen.text, "1.2.3");
        twin_settle(twin);
    }
}

TWIN_TEST(SUITE, after_erasing_nothing_is_left_and_the_shard_begins_anew)
{
    struct version version;
    struct facts_seen seen = {0};
    const struct versions_fact fact = {slice_of("fa"), slice_of("1")};
    uint64_t count;
    for (uint64_t i = 1; i <= 100; i++)
        twin_put(twin, "k", i, "value");
    cr_assert_eq(twin_apply(twin, twin->time + 1, NULL, 0, &fact, 1), SLUICE_OK);
    twin_settle(twin);
    cr_assert_eq(versions_erase(twin->versions), SLUICE_OK);
    twin_settle(twin);
    cr_assert_eq(versions_applied(twin->versions, NULL), 0);
    cr_assert_eq(versions_latest(twin->versions, slice_of("k"), true, &version), SLUICE_NOT_FOUND);
    cr_assert_eq(versions_facts(twin->versions, see_fact, &seen), SLUICE_OK);
    cr_assert_eq(seen.count, 0);
    cr_assert_eq(versions_count(twin->versions, slice_of(""), UINT64_MAX, &count), SLUICE_OK);
    cr_assert_eq(count, 0);
    twin->time = 0;
    cr_assert_eq(twin_put(twin, "k", 1, "anew"), 1);
    twin_settle(twin);
    cr_assert_eq(versions_latest(twin->versions, slice_of("k"), true, &version), SLUICE_OK);
    twin_expect(&version, "k", 1, 1, "anew");
}

TWIN_TEST(SUITE, values_of_all_sizes_come_back)
{
    const uint32_t sizes[] = {0, 1, 511, 512, 4095, 4096, 65536, 1u << 20, 9u << 20};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        uint8_t *value = malloc(sizes[i] + 1);
        memset(value, (int)i + 1, sizes[i]);
        const struct twin_put put = {.key = "k", .value = value, .value_size = sizes[i], .version = i + 1};
        cr_assert_eq(twin_apply(twin, i + 1, &put, 1, NULL, 0), SLUICE_OK);
        free(value);
    }
    twin_settle(twin);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct version version;
        cr_assert_eq(versions_by_version(twin->versions, slice_of("k"), i + 1, true, &version), SLUICE_OK);
        cr_assert_eq(version.value_size, sizes[i]);
        for (uint32_t at = 0; at < sizes[i]; at += 97)
            cr_assert_eq(((const uint8_t *)version.value)[at], i + 1);
        version_release(&version);
    }
}

TWIN_TEST(SUITE, a_version_that_is_held_outlives_what_comes_after)
{
    struct version held;
    twin_put(twin, "k", 1, "one");
    twin_settle(twin);
    cr_assert_eq(versions_latest(twin->versions, slice_of("k"), true, &held), SLUICE_OK);
    for (uint64_t i = 2; i < 100; i++)
        twin_put(twin, "k", i, "more");
    twin_settle(twin);
    twin_expect(&held, "k", 1, 1, "one");
}

TWIN_TEST(SUITE, what_no_caller_may_apply_is_refused_and_changes_nothing)
{
    struct version version;
    uint64_t count;
    twin_put(twin, "k", 1, "one");
    const struct twin_put twice[] = {{.key = "n", .version = 1}, {.key = "n", .version = 1}};
    cr_assert_eq(twin_apply(twin, twin->time, twice, 2, NULL, 0), SLUICE_INVALID);
    const struct twin_put skipped[] = {{.key = "n", .version = 1}, {.key = "k", .version = 3}};
    cr_assert_eq(twin_apply(twin, twin->time, skipped, 2, NULL, 0), SLUICE_INVALID);
    char long_key[1026];
    memset(long_key, 'x', 1025);
    long_key[1025] = 0;
    const struct twin_put long_put[] = {{.key = "n", .version = 1}, {.key = long_key, .version = 1}};
    cr_assert_eq(twin_apply(twin, twin->time, long_put, 2, NULL, 0), SLUICE_INVALID);
    cr_assert_eq(twin_apply(twin, twin->time - 1, NULL, 0, NULL, 0), SLUICE_INTERNAL);
    cr_assert_eq(versions_applied(twin->versions, NULL), 1);
    cr_assert_eq(versions_latest(twin->versions, slice_of("n"), false, &version), SLUICE_NOT_FOUND);
    cr_assert_eq(versions_count(twin->versions, slice_of(""), UINT64_MAX, &count), SLUICE_OK);
    cr_assert_eq(count, 1);
    cr_assert_eq(twin_put(twin, "k", 2, "two"), 2);
}

TWIN_TEST(SUITE, the_longest_key_is_a_key_like_others)
{
    char key[1025];
    struct version version;
    memset(key, 'x', 1024);
    key[1024] = 0;
    twin_put(twin, key, 1, "one");
    twin_put(twin, key, 2, "two");
    twin_settle(twin);
    cr_assert_eq(versions_by_time(twin->versions, slice_of(key), 10, true, &version), SLUICE_OK);
    twin_expect(&version, key, 1, 1, "one");
    struct listing listing = {.size = 0};
    struct versions_range range = {.prefix = slice_of(key), .after = slice_of(key), .at = UINT64_MAX};
    cr_assert_eq(versions_list(twin->versions, &range, note, &listing), SLUICE_OK);
    cr_assert_eq(listing.size, 0);
}

Test(SUITE, memory_alone_says_when_it_is_full)
{
    struct twin twin = {.kind = TWIN_MEMORY, .hot_bytes_max = 100000};
    struct versions_options options = {.group = 7, .epoch = 3, .hot_bytes_max = 100000};
    cr_assert_eq(versions_create(&options, &twin.versions), SLUICE_OK);
    char value[1000];
    memset(value, 'x', sizeof(value));
    uint64_t puts = 0;
    while (!versions_full(twin.versions)) {
        const struct twin_put put = {.key = "k", .value = value, .value_size = sizeof(value), .version = ++puts};
        cr_assert_eq(twin_apply(&twin, puts, &put, 1, NULL, 0), SLUICE_OK);
        cr_assert_leq(puts, 100);
    }
    cr_assert_geq(puts, 80);
    versions_destroy(twin.versions);
}

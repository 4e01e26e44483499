/* Snapshots taken in: nothing of one can be read before its end, everything after; it goes on where it was broken off;
 * and what compaction leaves out is missed by nobody. */
#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "core/base/crc.h"
#include "core/base/log.h"
#include "core/base/random.h"
#include "twin.h"

#define REVISIONS 1200u
#define KEYS      37u

/* The history that all tests are about: revision r puts key r * 7 % KEYS, but every fifth makes no version. */
static bool makes(uint64_t revision)
{
    return revision % 5 != 0;
}

static void key_of(uint64_t revision, char key[16])
{
    snprintf(key, 16, "key/%llu", (unsigned long long)(revision * 7 % KEYS));
}

static uint64_t version_of(uint64_t revision)
{
    uint64_t version = 0;
    for (uint64_t at = revision % KEYS; at <= revision; at += KEYS)
        version += at > 0 && makes(at);
    return version;
}

static uint64_t time_of(uint64_t revision)
{
    return 1000 + revision / 3 * 10; /* some have the same */
}

static void build(uint64_t revision, struct entry *entry, struct version *made, uint32_t *count)
{
    char key[16];
    key_of(revision, key);
    uint32_t key_size = (uint32_t)strlen(key), size = revision % 9 == 0 ? 3000 : 20;
    *count = makes(revision);
    *entry = (struct entry){.index = revision,
                            .ballot = 9,
                            .time = time_of(revision),
                            .epoch = 3,
                            .group = 7,
                            .kind = *count == 0 ? ENTRY_NOOP : ENTRY_COMMAND};
    if (*count == 0)
        return;
    entry->body = buf_create(key_size + size);
    memcpy(entry->body->data, key, key_size);
    memset(entry->body->data + key_size, (int)(revision % 251), size);
    entry->body_crc = crc32c(entry->body->data, entry->body->size);
    *made = (struct version){.key = (const char *)entry->body->data,
                             .key_size = key_size,
                             .content_type = "",
                             .value = entry->body->data + key_size,
                             .value_size = size,
                             .version = version_of(revision),
                             .revision = revision,
                             .time = entry->time,
                             .object_time = entry->time};
}

static void apply_until(struct versions *versions, uint64_t until)
{
    for (uint64_t revision = versions_applied(versions, NULL) + 1; revision <= until; revision++) {
        struct entry entry;
        struct version made;
        uint32_t count;
        build(revision, &entry, &made, &count);
        cr_assert_eq(versions_apply(versions, &entry, &made, count, NULL, 0), SLUICE_OK);
        buf_unref(entry.body);
    }
}

/* Entries beyond the position that retention kept: here those that made a version. */
static void ingest_until(struct versions *versions, uint64_t from, uint64_t until)
{
    for (uint64_t revision = from; revision <= until; revision++) {
        struct entry entry;
        struct version made;
        uint32_t count;
        if (!makes(revision) && revision % 10 != 0)
            continue;
        build(revision, &entry, &made, &count);
        cr_assert_eq(versions_ingest_entry(versions, &entry, &made, count), SLUICE_OK);
        buf_unref(entry.body);
    }
}

static bool count_visit(void *arg, const struct version *version)
{
    uint64_t *seen = arg;
    cr_assert_leq(version->revision, seen[0], "revision %llu is visible at %llu", (unsigned long long)version->revision,
                  (unsigned long long)seen[0]);
    seen[1]++;
    return true;
}

/* The versions are those of the history up to `applied`, by every way of reading them. */
static void expect_state(struct versions *versions, uint64_t applied)
{
    uint64_t latest[KEYS] = {0}, made = 0, keys = 0;
    cr_assert_eq(versions_applied(versions, NULL), applied);
    for (uint64_t revision = 1; revision <= applied; revision++)
        if (makes(revision)) {
            keys += latest[revision * 7 % KEYS] == 0;
            latest[revision * 7 % KEYS] = revision;
            made++;
        }
    for (uint64_t number = 0; number < KEYS; number++) {
        struct version version;
        char key[16];
        snprintf(key, sizeof(key), "key/%llu", (unsigned long long)number);
        enum sluice_status status = versions_latest(versions, slice_of(key), true, &version);
        cr_assert_eq(status, latest[number] == 0 ? SLUICE_NOT_FOUND : SLUICE_OK);
        if (status != SLUICE_OK)
            continue;
        cr_assert_eq(version.revision, latest[number]);
        cr_assert_eq(((const uint8_t *)version.value)[0], latest[number] % 251);
        uint64_t last = version.version, seen[2] = {applied, 0};
        version_release(&version);
        cr_assert_eq(last, version_of(latest[number]));
        cr_assert_eq(versions_by_version(versions, slice_of(key), last + 1, true, &version), SLUICE_NOT_FOUND);
        cr_assert_eq(versions_by_time(versions, slice_of(key), UINT64_MAX, false, &version), SLUICE_OK);
        cr_assert_eq(version.version, last);
        version_release(&version);
        for (int descending = 0; descending < 2; descending++) {
            const struct versions_span span = {
                .version_to = UINT64_MAX, .time_to = UINT64_MAX, .descending = descending != 0, .values = true};
            seen[1] = 0;
            cr_assert_eq(versions_history(versions, slice_of(key), &span, count_visit, seen), SLUICE_OK);
            cr_assert_eq(seen[1], last);
        }
    }
    uint64_t seen[2] = {applied, 0}, count;
    const struct versions_range range = {.at = UINT64_MAX, .values = true};
    cr_assert_eq(versions_list(versions, &range, count_visit, seen), SLUICE_OK);
    cr_assert_eq(seen[1], keys);
    cr_assert_eq(versions_count(versions, slice_of("key"), UINT64_MAX, &count), SLUICE_OK);
    cr_assert_eq(count, made);
    for (uint64_t time = 0; time < time_of(applied) + 20; time += 5) {
        uint64_t after, next;
        cr_assert_eq(versions_revision_after(versions, time, &after), SLUICE_OK);
        cr_assert(after == applied + 1 || time_of(after) > time);
        /* Nothing that is retained lies before it and after the time. */
        for (uint64_t at = after; at-- > 1 && time_of(at) > time;)
            cr_assert(versions_next(versions, at, &next) != SLUICE_OK || next >= after);
    }
}

static void find_fact(void *arg, struct slice name, struct slice value)
{
    uint64_t *found = arg;
    cr_assert_eq(name.size, 3);
    found[0]++;
    found[1] += *(const uint8_t *)value.data;
}

static enum sluice_status finish(struct versions *versions, uint64_t upto)
{
    const struct versions_fact facts[] = {{.name = {"one", 3}, .value = {"\1", 1}},
                                          {.name = {"two", 3}, .value = {"\2", 1}}};
    return versions_ingest_finish(versions, upto, time_of(upto), facts, 2);
}

TWIN_TEST(ingest, a_snapshot_cannot_be_read_before_its_end_and_is_whole_after_it)
{
    uint64_t position, found[2] = {0}, next;
    const struct versions_fact old = {.name = {"old", 3}, .value = {"\7", 1}};
    apply_until(twin->versions, 299);
    struct entry entry;
    struct version made;
    uint32_t count;
    build(300, &entry, &made, &count);
    cr_assert_eq(versions_apply(twin->versions, &entry, &made, count, &old, 1), SLUICE_OK);
    twin_settle(twin);
    cr_assert_eq(versions_ingest_begin(twin->versions, &position), SLUICE_OK);
    cr_assert_eq(position, 300);
    ingest_until(twin->versions, 301, 800);
    expect_state(twin->versions, 300);
    if (twin->kind == TWIN_REOPENED)
        twin_settle(twin);
    cr_assert_eq(versions_ingest_begin(twin->versions, &position), SLUICE_OK);
    cr_assert_eq(position, 800);
    expect_state(twin->versions, 300);
    /* What was brought already, or does not follow, is refused. */
    build(800, &entry, &made, &count);
    log_set_level(LOG_LEVEL_NONE);
    cr_assert_eq(versions_ingest_entry(twin->versions, &entry, &made, count), SLUICE_INVALID);
    cr_assert_eq(finish(twin->versions, 700), SLUICE_INVALID);
    log_set_level(LOG_LEVEL_ERROR);
    ingest_until(twin->versions, 801, REVISIONS - 1);
    expect_state(twin->versions, 300);
    cr_assert_eq(finish(twin->versions, REVISIONS), SLUICE_OK);
    cr_assert_eq(versions_facts(twin->versions, find_fact, found), SLUICE_OK);
    cr_assert(found[0] == 2 && found[1] == 3, "facts are the snapshot's, and no others");
    twin_settle(twin);
    expect_state(twin->versions, REVISIONS);
    cr_assert_eq(versions_next(twin->versions, 305, &next), SLUICE_OK);
    cr_assert_eq(next, 306);
    cr_assert_eq(versions_entry(twin->versions, 305, &entry), SLUICE_GONE);
    cr_assert_eq(versions_next(twin->versions, REVISIONS, &next), SLUICE_NOT_FOUND);
    /* Life goes on from there. */
    apply_until(twin->versions, REVISIONS + 100);
    twin_settle(twin);
    expect_state(twin->versions, REVISIONS + 100);
}

TWIN_TEST(ingest, the_log_may_go_on_instead_and_what_was_brought_does_no_harm)
{
    uint64_t position;
    apply_until(twin->versions, 200);
    cr_assert_eq(versions_ingest_begin(twin->versions, &position), SLUICE_OK);
    ingest_until(twin->versions, 201, 600);
    for (uint64_t until = 250; until <= 700; until += 50) {
        apply_until(twin->versions, until);
        twin_settle(twin);
        expect_state(twin->versions, until);
    }
    cr_assert_eq(versions_ingest_begin(twin->versions, &position), SLUICE_OK);
    cr_assert_eq(position, 700);
}

/* A replica begins with nothing, and the log feeds it while the snapshot is on its way. */
TWIN_TEST(ingest, what_the_log_brought_to_an_empty_replica_meanwhile_stays)
{
    uint64_t position;
    struct entry entry;
    struct version made;
    uint32_t count;
    cr_assert_eq(versions_ingest_begin(twin->versions, &position), SLUICE_OK);
    cr_assert_eq(position, 0);
    apply_until(twin->versions, 60);
    build(61, &entry, &made, &count);
    enum sluice_status status = versions_ingest_entry(twin->versions, &entry, &made, count);
    buf_unref(entry.body);
    cr_assert(status == SLUICE_OK || status == SLUICE_CONFLICT, "%s", sluice_status_text(status));
    cr_assert_eq(versions_ingest_begin(twin->versions, &position), SLUICE_OK);
    cr_assert_eq(position, status == SLUICE_OK ? 61 : 60);
    ingest_until(twin->versions, position + 1, REVISIONS - 1);
    cr_assert_eq(finish(twin->versions, REVISIONS), SLUICE_OK);
    twin_settle(twin);
    expect_state(twin->versions, REVISIONS);
}

TWIN_TEST(ingest, compaction_drops_entries_without_versions_and_nothing_else)
{
    apply_until(twin->versions, 900);
    twin_settle(twin);
    cr_assert_eq(versions_compact(twin->versions, 600), SLUICE_OK);
    twin_drain(twin);
    twin_settle(twin);
    expect_state(twin->versions, 900);
    for (uint64_t revision = 1; revision <= 900; revision++) {
        uint64_t next;
        struct entry entry;
        enum sluice_status status = versions_entry(twin->versions, revision, &entry);
        cr_assert_eq(versions_next(twin->versions, revision, &next), SLUICE_OK);
        if (status == SLUICE_OK) {
            cr_assert_eq(next, revision);
            buf_unref(entry.body);
        } else {
            cr_assert_eq(status, SLUICE_GONE);
            cr_assert(revision <= 600 && !makes(revision) && next == revision + 1);
        }
        if (twin->kind != TWIN_STORED && revision <= 600 && !makes(revision))
            cr_assert_eq(status, SLUICE_GONE, "revision %llu", (unsigned long long)revision);
    }
}

static void child(const char *path, int ready)
{
    struct store *store;
    struct versions *versions;
    char error[256];
    uint64_t position;
    const struct store_options options = {.path = path};
    if (store_open(&options, &store, error, sizeof(error)) != SLUICE_OK)
        _exit(1);
    const struct versions_options shard = {.group = 7, .epoch = 3, .store = store, .hot_bytes_max = 1 << 20};
    if (versions_create(&shard, &versions) != SLUICE_OK)
        _exit(1);
    if (versions_applied(versions, NULL) == 0)
        apply_until(versions, 100);
    (void)!write(ready, "r", 1);
    if (versions_applied(versions, NULL) < REVISIONS) {
        if (versions_ingest_begin(versions, &position) != SLUICE_OK)
            _exit(1);
        for (uint64_t at = position + 1; at <= REVISIONS; at += 40) {
            ingest_until(versions, at, at + 39 < REVISIONS ? at + 39 : REVISIONS);
            store_flush(store);
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        }
        if (finish(versions, REVISIONS) != SLUICE_OK)
            _exit(1);
    }
    for (;;)
        pause();
}

struct seen {
    uint64_t applied, position;
};

static void look(const char *path, uint64_t before, int out)
{
    struct store *store;
    struct versions *versions;
    char error[256];
    uint64_t found[2] = {0};
    struct seen seen;
    const struct store_options options = {.path = path};
    cr_assert_eq(store_open(&options, &store, error, sizeof(error)), SLUICE_OK, "%s", error);
    const struct versions_options shard = {.group = 7, .epoch = 3, .store = store, .hot_bytes_max = 1 << 20};
    cr_assert_eq(versions_create(&shard, &versions), SLUICE_OK);
    seen.applied = versions_applied(versions, NULL);
    cr_assert(seen.applied <= 100 || seen.applied == REVISIONS);
    expect_state(versions, seen.applied);
    cr_assert_eq(versions_facts(versions, find_fact, found), SLUICE_OK);
    cr_assert_eq(found[1], seen.applied == REVISIONS ? 3 : 0);
    cr_assert_eq(versions_ingest_begin(versions, &seen.position), SLUICE_OK);
    cr_assert_geq(seen.position, before);
    (void)!write(out, &seen, sizeof(seen));
    _exit(0);
}

/* What a process finds after the one that was killed. In one of its own: RocksDB's threads belong to the process that
 * opened it first, and a fork of that would wait for them for ever. */
static struct seen look_at(const char *path, uint64_t before)
{
    struct seen seen;
    int result[2];
    cr_assert_eq(pipe(result), 0);
    pid_t process = fork();
    if (process == 0)
        look(path, before, result[1]);
    close(result[1]);
    cr_assert_eq(read(result[0], &seen, sizeof(seen)), (ssize_t)sizeof(seen), "what was left is not whole");
    close(result[0]);
    waitpid(process, NULL, 0);
    return seen;
}

Test(ingest, after_kill_9_at_any_moment_it_goes_on_where_it_was, .timeout = 90)
{
    struct random random;
    char path[64];
    uint64_t finished = 0, resumed = 0;
    random_seed(&random, test_seed("ingest crash"));
    log_set_level(LOG_LEVEL_ERROR);
    for (int run = 0; run < 6; run++) {
        uint64_t before = 0;
        bool done = false;
        twin_directory(path);
        for (int crash = 0; crash < 12 && !done; crash++) {
            int ready[2];
            char byte;
            cr_assert_eq(pipe(ready), 0);
            pid_t process = fork();
            if (process == 0)
                child(path, ready[1]);
            close(ready[1]);
            cr_assert_eq(read(ready[0], &byte, 1), 1);
            close(ready[0]);
            /* Ever longer, so that a slow machine gets to the end as well. */
            uint64_t wait = random_below(&random, UINT64_C(60000000) << (crash < 6 ? crash : 6));
            nanosleep(&(struct timespec){.tv_sec = (time_t)(wait / 1000000000), .tv_nsec = (long)(wait % 1000000000)},
                      NULL);
            kill(process, SIGKILL);
            waitpid(process, NULL, 0);
            struct seen seen = look_at(path, before);
            resumed += seen.position > 100 && seen.applied < REVISIONS;
            before = seen.position;
            done = seen.applied == REVISIONS;
            finished += done;
        }
        twin_remove(path);
    }
    cr_assert_gt(finished + resumed, 3);
}

Test(ingest, a_damaged_entry_is_written_back_and_only_by_what_fits)
{
    struct twin twin;
    struct entry entry, wrong;
    struct version made, version;
    uint32_t count;
    twin_open(&twin, TWIN_EVICTED);
    apply_until(twin.versions, 300);
    twin_settle(&twin);
    build(77, &entry, &made, &count);
    cr_assert_eq(versions_repair(twin.versions, &entry), SLUICE_OK);
    wrong = entry;
    wrong.time++;
    cr_assert_eq(versions_repair(twin.versions, &wrong), SLUICE_CONFLICT);
    wrong = entry;
    wrong.body_crc ^= 1;
    cr_assert_eq(versions_repair(twin.versions, &wrong), SLUICE_INVALID);
    wrong = entry;
    wrong.index = 301;
    cr_assert_eq(versions_repair(twin.versions, &wrong), SLUICE_INVALID);
    buf_unref(entry.body);
    build(78, &wrong, &made, &count);
    wrong.index = 77;
    cr_assert_eq(versions_repair(twin.versions, &wrong), SLUICE_CONFLICT);
    buf_unref(wrong.body);
    char key[16];
    key_of(77, key);
    cr_assert_eq(versions_by_version(twin.versions, slice_of(key), version_of(77), true, &version), SLUICE_OK);
    cr_assert_eq(((const uint8_t *)version.value)[0], 77);
    version_release(&version);
    expect_state(twin.versions, 300);
    twin_close(&twin);
}

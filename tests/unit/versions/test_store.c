/* The store: what is durable, what a crash leaves, what damage and full disks do. */
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/crc.h"
#include "core/base/log.h"
#include "core/base/random.h"
#include "twin.h"

#define GROUP 7u
#define EPOCH 3u

struct news {
    uint64_t indexed, durable;
};

static void take_news(void *arg, uint32_t group, uint64_t indexed, uint64_t durable)
{
    struct news *news = arg;
    if (group != GROUP)
        return;
    cr_assert_geq(indexed, news->indexed);
    cr_assert_geq(durable, news->durable);
    *news = (struct news){indexed, durable};
}

/* Waits until the news say so; false after ten seconds, or when the store failed. */
static bool wait_news(struct store *store, struct news *news, uint64_t indexed, uint64_t durable)
{
    for (int i = 0; i < 1000; i++) {
        if (store_poll(store, take_news, news) != SLUICE_OK)
            return false;
        if (news->indexed >= indexed && news->durable >= durable)
            return true;
        struct pollfd bell = {.fd = store_fd(store), .events = POLLIN};
        poll(&bell, 1, 10);
    }
    return false;
}

static struct store *open_store_with(const struct store_options *options)
{
    struct store *store = NULL;
    char error[512] = "";
    cr_assert_eq(store_open(options, &store, error, sizeof(error)), SLUICE_OK, "%s", error);
    return store;
}

static struct store *open_store(const char *path)
{
    return open_store_with(&(struct store_options){.path = path});
}

static struct versions *open_versions(struct store *store, uint32_t group, uint64_t epoch)
{
    struct versions *versions = NULL;
    const struct versions_options options = {.group = group, .epoch = epoch, .store = store, .hot_bytes_max = 1u << 20};
    cr_assert_eq(versions_create(&options, &versions), SLUICE_OK);
    return versions;
}

/* Revision r puts key r % 10, so its version is a function of r; the fact "r" holds r. */
static enum sluice_status apply_numbered(struct versions *versions, uint32_t group, uint32_t value_size)
{
    uint64_t revision = versions_applied(versions, NULL) + 1;
    struct buf *body = buf_create(1 + 8 + value_size);
    body->data[0] = (uint8_t)('0' + revision % 10);
    memcpy(body->data + 1, &revision, 8);
    memset(body->data + 9, (int)revision, value_size);
    const struct entry entry = {.index = revision,
                                .ballot = 1,
                                .time = revision,
                                .epoch = EPOCH,
                                .group = group,
                                .kind = ENTRY_COMMAND,
                                .body_crc = crc32c(body->data, body->size),
                                .body = body};
    const struct version made = {.key = (const char *)body->data,
                                 .key_size = 1,
                                 .value = body->data + 1,
                                 .value_size = 8 + value_size,
                                 .version = (revision - 1) / 10 + 1,
                                 .revision = revision,
                                 .time = revision,
                                 .object_time = revision};
    const struct versions_fact fact = {{"r", 1}, {&revision, 8}};
    enum sluice_status status = versions_apply(versions, &entry, &made, 1, &fact, 1);
    buf_unref(body);
    return status;
}

static bool is_numbered(const struct version *version)
{
    uint64_t revision;
    memcpy(&revision, version->value, 8);
    if (revision != version->revision || version->version != (revision - 1) / 10 + 1)
        return false;
    for (uint32_t i = 8; i < version->value_size; i++)
        if (((const uint8_t *)version->value)[i] != (uint8_t)revision)
            return false;
    return true;
}

static void see_revision(void *arg, struct slice name, struct slice value)
{
    cr_assert_eq(name.size, 1);
    cr_assert_eq(value.size, 8);
    memcpy(arg, value.data, 8);
}

/* Everything up to `applied` is there, and nothing beyond. */
static void check_all(struct versions *versions)
{
    uint64_t time, fact = 0, applied = versions_applied(versions, &time);
    cr_assert_eq(time, applied);
    cr_assert_eq(versions_facts(versions, see_revision, &fact), SLUICE_OK);
    cr_assert_eq(fact, applied);
    for (uint64_t revision = 1; revision <= applied; revision++) {
        struct version version;
        char key = (char)('0' + revision % 10);
        cr_assert_eq(versions_by_version(versions, (struct slice){&key, 1}, (revision - 1) / 10 + 1, true, &version),
                     SLUICE_OK);
        cr_assert(is_numbered(&version));
        version_release(&version);
        struct entry entry;
        cr_assert_eq(versions_entry(versions, revision, &entry), SLUICE_OK);
        buf_unref(entry.body);
    }
    for (int i = 0; i < 10; i++) {
        struct version version;
        char key = (char)('0' + i);
        enum sluice_status status = versions_latest(versions, (struct slice){&key, 1}, true, &version);
        cr_assert_eq(status, applied >= (uint64_t)(i == 0 ? 10 : i) ? SLUICE_OK : SLUICE_NOT_FOUND);
        if (status != SLUICE_OK)
            continue;
        cr_assert_leq(version.revision, applied);
        cr_assert_gt(version.revision + 10, applied);
        version_release(&version);
    }
}

Test(store, news_tell_what_is_readable_and_what_is_durable)
{
    char path[64];
    struct news news = {0};
    twin_directory(path);
    struct store *store = open_store(path);
    struct versions *versions = open_versions(store, GROUP, EPOCH);
    for (int i = 0; i < 100; i++)
        cr_assert_eq(apply_numbered(versions, GROUP, 100), SLUICE_OK);
    cr_assert(wait_news(store, &news, 100, 0));
    store_flush(store);
    cr_assert(wait_news(store, &news, 100, 100));
    versions_destroy(versions);
    store_close(store);
    /* After a start all that is there is durable, and is said to be. */
    store = open_store(path);
    versions = open_versions(store, GROUP, EPOCH);
    news = (struct news){0};
    cr_assert(wait_news(store, &news, 100, 100));
    check_all(versions);
    versions_destroy(versions);
    store_close(store);
    twin_remove(path);
}

Test(store, much_is_flushed_without_being_asked)
{
    char path[64];
    struct news news = {0};
    twin_directory(path);
    struct store *store = open_store(path);
    struct versions *versions = open_versions(store, GROUP, EPOCH);
    for (int i = 0; i < 400; i++)
        cr_assert_eq(apply_numbered(versions, GROUP, 100000), SLUICE_OK);
    cr_assert(wait_news(store, &news, 400, 100));
    versions_indexed(versions, 400);
    cr_assert_leq(versions_hot_bytes(versions), 2u << 20);
    check_all(versions);
    versions_destroy(versions);
    store_close(store);
    twin_remove(path);
}

/* A process that applies and flushes, and tells what it was told is durable. It waits for a word before it begins: all
 * are forked before anything starts a thread. */
struct writer {
    pid_t pid;
    int go, told;
};

static void write_until_killed(const char *path, int go, int told)
{
    struct news news = {0};
    uint64_t word;
    if (read(go, &word, 1) != 1)
        _exit(2);
    struct store *store = open_store(path);
    struct versions *versions = open_versions(store, GROUP, EPOCH);
    for (uint64_t i = 0;; i++) {
        if (apply_numbered(versions, GROUP, (uint32_t)(i % 7 * 300)) != SLUICE_OK)
            _exit(3);
        if (i % 97 == 0)
            store_flush(store);
        if (i % 20 == 0)
            usleep(500);
        uint64_t before = news.durable;
        if (store_poll(store, take_news, &news) != SLUICE_OK)
            _exit(4);
        if (news.durable > before && write(told, &news.durable, 8) != 8)
            _exit(5);
    }
}

static struct writer fork_writer(const char *path)
{
    int go[2], told[2];
    cr_assert_eq(pipe(go), 0);
    cr_assert_eq(pipe(told), 0);
    pid_t pid = fork();
    if (pid == 0) {
        close(told[0]);
        write_until_killed(path, go[0], told[1]);
    }
    close(go[0]);
    close(told[1]);
    return (struct writer){.pid = pid, .go = go[1], .told = told[0]};
}

/* Lets it work until it has told something durable and some time more; gives the last that it told. */
static uint64_t run_and_kill(struct writer *writer, useconds_t more)
{
    uint64_t word, promised = 0;
    int status;
    cr_assert_eq(write(writer->go, "!", 1), 1);
    if (read(writer->told, &word, 8) == 8)
        promised = word;
    usleep(more);
    kill(writer->pid, SIGKILL);
    waitpid(writer->pid, &status, 0);
    cr_assert(WIFSIGNALED(status), "the writer ended by itself: %d", WEXITSTATUS(status));
    while (read(writer->told, &word, 8) == 8)
        promised = word;
    close(writer->go);
    close(writer->told);
    return promised;
}

#define CRASHES 6

Test(store, after_kill_9_a_consistent_prefix_with_all_that_was_durable_is_there, .timeout = 60)
{
    char path[64];
    struct random random;
    struct writer writers[CRASHES];
    random_seed(&random, test_seed("store crash"));
    twin_directory(path);
    for (int i = 0; i < CRASHES; i++)
        writers[i] = fork_writer(path);
    for (int i = 0; i < CRASHES; i++) {
        uint64_t promised = run_and_kill(&writers[i], (useconds_t)random_below(&random, 60000));
        cr_assert_gt(promised, 0);
        struct store *store = open_store(path);
        struct versions *versions = open_versions(store, GROUP, EPOCH);
        cr_assert_geq(versions_applied(versions, NULL), promised);
        check_all(versions);
        versions_destroy(versions);
        store_close(store);
    }
    twin_remove(path);
}

Test(store, groups_are_apart_and_one_can_be_erased)
{
    char path[64];
    twin_directory(path);
    const uint32_t groups[] = {6, 7, 8, UINT32_MAX};
    struct versions *versions[4];
    struct store *store = open_store(path);
    for (int g = 0; g < 4; g++) {
        versions[g] = open_versions(store, groups[g], EPOCH);
        for (int i = 0; i < 200; i++)
            cr_assert_eq(apply_numbered(versions[g], groups[g], 600), SLUICE_OK);
    }
    cr_assert_eq(versions_erase(versions[1]), SLUICE_OK);
    cr_assert_eq(versions_erase(versions[3]), SLUICE_OK);
    for (int reopened = 0; reopened < 2; reopened++) {
        for (int g = 0; g < 4; g++) {
            cr_assert_eq(versions_applied(versions[g], NULL), g % 2 == 0 ? 200 : 0);
            check_all(versions[g]);
            versions_destroy(versions[g]);
        }
        store_close(store);
        store = open_store(path);
        for (int g = 0; g < 4; g++)
            versions[g] = open_versions(store, groups[g], EPOCH);
    }
    for (int g = 0; g < 4; g++)
        versions_destroy(versions[g]);
    store_close(store);
    twin_remove(path);
}

Test(store, groups_that_nobody_opened_are_found_and_can_be_erased)
{
    char path[64];
    twin_directory(path);
    const uint32_t groups[] = {0, 7, 300};
    uint32_t found = 99;
    struct store *store = open_store(path);
    cr_assert_not(store_next_group(store, 0, &found));
    for (int g = 0; g < 3; g++) {
        struct versions *versions = open_versions(store, groups[g], EPOCH);
        for (int i = 0; i < 20; i++)
            cr_assert_eq(apply_numbered(versions, groups[g], 600), SLUICE_OK);
        versions_destroy(versions);
    }
    store_close(store);
    store = open_store(path);
    cr_assert(store_next_group(store, 0, &found) && found == 0);
    cr_assert(store_next_group(store, 1, &found) && found == 7);
    cr_assert(store_next_group(store, 8, &found) && found == 300);
    cr_assert_not(store_next_group(store, 301, &found));
    cr_assert_eq(store_erase(store, 7), SLUICE_OK);
    for (int reopened = 0; reopened < 2; reopened++) {
        cr_assert(store_next_group(store, 1, &found) && found == 300, "%u", found);
        struct versions *versions = open_versions(store, 300, EPOCH);
        cr_assert_eq(versions_applied(versions, NULL), 20);
        versions_destroy(versions);
        store_close(store);
        store = open_store(path);
    }
    store_close(store);
    twin_remove(path);
}

Test(store, a_later_epoch_begins_empty_and_an_earlier_one_is_refused)
{
    char path[64];
    twin_directory(path);
    log_set_level(LOG_LEVEL_NONE);
    struct store *store = open_store(path);
    struct versions *versions = open_versions(store, GROUP, EPOCH);
    for (int i = 0; i < 50; i++)
        cr_assert_eq(apply_numbered(versions, GROUP, 10), SLUICE_OK);
    versions_destroy(versions);
    const struct versions_options earlier = {.group = GROUP, .epoch = EPOCH - 1, .store = store, .hot_bytes_max = 1};
    cr_assert_eq(versions_create(&earlier, &versions), SLUICE_CONFLICT);
    versions = open_versions(store, GROUP, EPOCH);
    check_all(versions);
    cr_assert_eq(versions_applied(versions, NULL), 50);
    versions_destroy(versions);
    versions = open_versions(store, GROUP, EPOCH + 1);
    cr_assert_eq(versions_applied(versions, NULL), 0);
    check_all(versions);
    versions_destroy(versions);
    store_close(store);
    twin_remove(path);
}

Test(store, a_directory_that_is_no_store_is_refused_in_words)
{
    char path[64], file[96], error[512] = "";
    struct store *store = NULL, *second = NULL;
    twin_directory(path);
    log_set_level(LOG_LEVEL_NONE);
    snprintf(file, sizeof(file), "%s/file", path);
    close(open(file, O_CREAT | O_WRONLY, 0600));
    struct store_options options = {.path = file};
    cr_assert_eq(store_open(&options, &store, error, sizeof(error)), SLUICE_IO);
    cr_assert_not_null(strstr(error, file), "%s", error);
    snprintf(file, sizeof(file), "%s/missing/deeper", path);
    cr_assert_eq(store_open(&options, &store, error, sizeof(error)), SLUICE_IO);
    /* Two processes never share one. */
    snprintf(file, sizeof(file), "%s/store", path);
    store = open_store(file);
    cr_assert_neq(store_open(&options, &second, error, sizeof(error)), SLUICE_OK);
    cr_assert_neq(error[0], 0);
    struct versions *versions = open_versions(store, GROUP, EPOCH);
    for (int i = 0; i < 50; i++)
        cr_assert_eq(apply_numbered(versions, GROUP, 1000), SLUICE_OK);
    versions_destroy(versions);
    store_close(store);
    /* Without CURRENT it would look empty, and its tables would be swept away. */
    char current[128], command[256];
    snprintf(current, sizeof(current), "%s/CURRENT", file);
    snprintf(command, sizeof(command), "mv %s %s.kept", current, path);
    cr_assert_eq(system(command), 0);
    cr_assert_eq(store_open(&options, &store, error, sizeof(error)), SLUICE_CORRUPT);
    cr_assert_not_null(strstr(error, "CURRENT"), "%s", error);
    snprintf(command, sizeof(command), "mv %s.kept %s", path, current);
    cr_assert_eq(system(command), 0);
    store = open_store(file);
    versions = open_versions(store, GROUP, EPOCH);
    cr_assert_eq(versions_applied(versions, NULL), 50);
    check_all(versions);
    versions_destroy(versions);
    store_close(store);
    twin_remove(path);
}

/* Flips one byte somewhere in the store's data files; false when there is nothing to flip. */
static bool damage_one_byte(const char *path, struct random *random)
{
    char names[64][300];
    int count = 0;
    DIR *directory = opendir(path);
    struct dirent *entry;
    while ((entry = readdir(directory)) != NULL && count < 64) {
        const char *ending = strrchr(entry->d_name, '.');
        if (ending != NULL && (strcmp(ending, ".sst") == 0 || strcmp(ending, ".blob") == 0))
            snprintf(names[count++], sizeof(names[0]), "%s/%s", path, entry->d_name);
    }
    closedir(directory);
    if (count == 0)
        return false;
    int fd = open(names[random_below(random, (uint64_t)count)], O_RDWR);
    struct stat found;
    cr_assert_eq(fstat(fd, &found), 0);
    off_t at = (off_t)random_below(random, (uint64_t)found.st_size);
    uint8_t byte;
    cr_assert_eq(pread(fd, &byte, 1, at), 1);
    byte ^= (uint8_t)(1u << random_below(random, 8));
    cr_assert_eq(pwrite(fd, &byte, 1, at), 1);
    close(fd);
    return true;
}

/* Reads everything; every answer is right or says CORRUPT. */
static int read_damaged(struct versions *versions, uint64_t applied)
{
    int corrupt = 0;
    for (uint64_t revision = 1; revision <= applied; revision++) {
        struct version version;
        struct entry entry;
        char key = (char)('0' + revision % 10);
        enum sluice_status status =
            versions_by_version(versions, (struct slice){&key, 1}, (revision - 1) / 10 + 1, true, &version);
        cr_assert(status == SLUICE_OK || status == SLUICE_CORRUPT, "%s", sluice_status_text(status));
        if (status == SLUICE_OK) {
            cr_assert(is_numbered(&version));
            version_release(&version);
        }
        corrupt += status == SLUICE_CORRUPT;
        status = versions_entry(versions, revision, &entry);
        cr_assert(status == SLUICE_OK || status == SLUICE_CORRUPT, "%s", sluice_status_text(status));
        if (status == SLUICE_OK)
            buf_unref(entry.body);
    }
    return corrupt;
}

Test(store, damaged_data_is_reported_and_never_served, .timeout = 60)
{
    char path[64], copy[80], command[256];
    struct random random;
    random_seed(&random, test_seed("store damage"));
    twin_directory(path);
    struct store *store = open_store(path);
    struct versions *versions = open_versions(store, GROUP, EPOCH);
    for (int i = 0; i < 60; i++)
        cr_assert_eq(apply_numbered(versions, GROUP, i % 2 == 0 ? 2000 : 20), SLUICE_OK);
    versions_destroy(versions);
    store_close(store);
    log_set_level(LOG_LEVEL_NONE);
    int corrupt = 0, refused = 0;
    for (int round = 0; round < 60; round++) {
        char error[512];
        snprintf(copy, sizeof(copy), "%s.copy", path);
        snprintf(command, sizeof(command), "rm -rf %s && cp -r %s %s", copy, path, copy);
        cr_assert_eq(system(command), 0);
        cr_assert(damage_one_byte(copy, &random));
        const struct store_options options = {.path = copy};
        enum sluice_status status = store_open(&options, &store, error, sizeof(error));
        if (status != SLUICE_OK) {
            cr_assert_eq(status, SLUICE_CORRUPT, "%s", error);
            refused++;
            continue;
        }
        const struct versions_options shard = {
            .group = GROUP, .epoch = EPOCH, .store = store, .hot_bytes_max = 1u << 20};
        status = versions_create(&shard, &versions);
        if (status == SLUICE_OK) {
            corrupt += read_damaged(versions, versions_applied(versions, NULL));
            versions_destroy(versions);
        } else {
            cr_assert_eq(status, SLUICE_CORRUPT, "%s", sluice_status_text(status));
            refused++;
        }
        store_close(store);
    }
    cr_assert_gt(corrupt + refused, 0, "no damage was ever noticed");
    twin_remove(copy);
    twin_remove(path);
}

static _Atomic uint64_t room_left;

static uint64_t say_room(const char *path, uint64_t *total)
{
    (void)path;
    *total = UINT64_C(1) << 40;
    return room_left;
}

static struct store *open_short_store(const char *path)
{
    return open_store_with(&(struct store_options){.path = path, .free_bytes = say_room});
}

static bool wait_full(const struct store *store, bool full)
{
    for (int i = 0; i < 1000 && store_full(store) != full; i++)
        poll(NULL, 0, 10);
    return store_full(store) == full;
}

Test(store, where_there_is_no_room_to_flush_it_waits_and_goes_on_when_there_is)
{
    char path[64];
    struct news news = {0};
    twin_directory(path);
    log_set_level(LOG_LEVEL_NONE);
    room_left = 1u << 20;
    struct store *store = open_short_store(path);
    struct versions *versions = open_versions(store, GROUP, EPOCH);
    for (int i = 0; i < 100; i++)
        cr_assert_eq(apply_numbered(versions, GROUP, 2000), SLUICE_OK);
    store_flush(store);
    cr_assert(wait_full(store, true));
    cr_assert(wait_news(store, &news, 100, 0), "what was written can be read");
    cr_assert_eq(news.durable, 0);
    for (int i = 0; i < 100; i++)
        cr_assert_eq(apply_numbered(versions, GROUP, 2000), SLUICE_OK);
    check_all(versions);
    room_left = UINT64_C(1) << 30;
    cr_assert(wait_full(store, false));
    store_flush(store);
    cr_assert(wait_news(store, &news, 200, 200));
    /* A process that ends meanwhile loses at most what the log has (RocksDB tries once more as it closes). */
    room_left = 1u << 20;
    for (int i = 0; i < 100; i++)
        cr_assert_eq(apply_numbered(versions, GROUP, 2000), SLUICE_OK);
    store_flush(store);
    cr_assert(wait_full(store, true));
    versions_destroy(versions);
    store_close(store);
    room_left = UINT64_C(1) << 30;
    store = open_short_store(path);
    versions = open_versions(store, GROUP, EPOCH);
    cr_assert_geq(versions_applied(versions, NULL), 200);
    check_all(versions);
    versions_destroy(versions);
    store_close(store);
    twin_remove(path);
}

Test(store, a_disk_that_takes_no_more_stops_the_store_and_nothing_becomes_durable)
{
    char path[64];
    struct news news = {0};
    twin_directory(path);
    log_set_level(LOG_LEVEL_NONE);
    struct store *store = open_store(path);
    struct versions *versions = open_versions(store, GROUP, EPOCH);
    for (int i = 0; i < 100; i++)
        cr_assert_eq(apply_numbered(versions, GROUP, 2000), SLUICE_OK);
    store_flush(store);
    cr_assert(wait_news(store, &news, 100, 100));
    signal(SIGXFSZ, SIG_IGN);
    const struct rlimit limit = {.rlim_cur = 64 << 10, .rlim_max = RLIM_INFINITY};
    struct rlimit before;
    cr_assert_eq(getrlimit(RLIMIT_FSIZE, &before), 0);
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    for (int i = 0; i < 100; i++)
        cr_assert_eq(apply_numbered(versions, GROUP, 2000), SLUICE_OK);
    store_flush(store);
    cr_assert_not(wait_news(store, &news, 200, 200));
    cr_assert_neq(store_poll(store, take_news, &news), SLUICE_OK);
    cr_assert_eq(news.durable, 100);
    enum sluice_status status = apply_numbered(versions, GROUP, 10);
    cr_assert(status == SLUICE_IO || status == SLUICE_STORAGE_FULL, "%s", sluice_status_text(status));
    versions_destroy(versions);
    store_close(store);
    setrlimit(RLIMIT_FSIZE, &before);
    store = open_store(path);
    versions = open_versions(store, GROUP, EPOCH);
    cr_assert_eq(versions_applied(versions, NULL), 100);
    check_all(versions);
    versions_destroy(versions);
    store_close(store);
    twin_remove(path);
}

Test(store, many_keys_are_found_whether_hot_or_not, .timeout = 60)
{
    struct twin twin;
    const struct versions_options small = {.group = GROUP, .epoch = EPOCH, .hot_bytes_max = 500000};
    twin_open(&twin, TWIN_STORED);
    versions_destroy(twin.versions);
    struct versions_options options = small;
    options.store = twin.store;
    cr_assert_eq(versions_create(&options, &twin.versions), SLUICE_OK);
    char key[32], value[32];
    for (uint64_t i = 0; i < 20000; i++) {
        snprintf(key, sizeof(key), "key/%llu", (unsigned long long)(i * 7919 % 20000));
        snprintf(value, sizeof(value), "%llu", (unsigned long long)i);
        cr_assert_eq(twin_put(&twin, key, 1, value), i + 1);
        if (i == 10000)
            twin_drain(&twin);
    }
    twin_drain(&twin);
    /* Each call evicts a bounded number, so that none takes long. */
    for (int i = 0; i < 100000 && versions_hot_bytes(twin.versions) > small.hot_bytes_max; i++)
        versions_indexed(twin.versions, 0);
    cr_assert_leq(versions_hot_bytes(twin.versions), small.hot_bytes_max);
    for (uint64_t i = 0; i < 20000; i++) {
        struct version version;
        snprintf(key, sizeof(key), "key/%llu", (unsigned long long)(i * 7919 % 20000));
        snprintf(value, sizeof(value), "%llu", (unsigned long long)i);
        cr_assert_eq(versions_latest(twin.versions, slice_of(key), true, &version), SLUICE_OK);
        twin_expect(&version, key, 1, i + 1, value);
        snprintf(key, sizeof(key), "key/%llux", (unsigned long long)i);
        cr_assert_eq(versions_latest(twin.versions, slice_of(key), true, &version), SLUICE_NOT_FOUND);
    }
    /* The hot cache of what was read keeps to its bound, too. */
    cr_assert_leq(versions_hot_bytes(twin.versions), small.hot_bytes_max + 10000);
    uint64_t count;
    cr_assert_eq(versions_count(twin.versions, slice_of("key"), UINT64_MAX, &count), SLUICE_OK);
    cr_assert_eq(count, 20000);
    twin_close(&twin);
}

Test(store, a_writer_faster_than_the_index_waits_and_loses_nothing, .timeout = 60)
{
    char path[64];
    twin_directory(path);
    struct store *store = open_store(path);
    struct versions *versions = open_versions(store, GROUP, EPOCH);
    /* More than the bounds, in bytes and in entries. */
    for (int i = 0; i < 100; i++)
        cr_assert_eq(apply_numbered(versions, GROUP, 2u << 20), SLUICE_OK);
    for (int i = 0; i < 150000; i++)
        cr_assert_eq(apply_numbered(versions, GROUP, 1), SLUICE_OK);
    struct news news = {0};
    cr_assert(wait_news(store, &news, 150100, 0));
    versions_destroy(versions);
    store_close(store);
    store = open_store(path);
    versions = open_versions(store, GROUP, EPOCH);
    cr_assert_eq(versions_applied(versions, NULL), 150100);
    versions_destroy(versions);
    store_close(store);
    twin_remove(path);
}

static uint64_t bytes_in(const char *path)
{
    uint64_t bytes = 0;
    DIR *directory = opendir(path);
    struct dirent *entry;
    while ((entry = readdir(directory)) != NULL) {
        struct stat found;
        if (fstatat(dirfd(directory), entry->d_name, &found, 0) == 0 && S_ISREG(found.st_mode))
            bytes += (uint64_t)found.st_size;
    }
    closedir(directory);
    return bytes;
}

Test(store, the_space_of_an_erased_group_is_given_back_and_its_neighbour_stays_whole, .timeout = 60)
{
    char path[64];
    twin_directory(path);
    struct store *store = open_store(path);
    struct versions *kept = open_versions(store, GROUP, EPOCH), *erased = open_versions(store, GROUP + 1, EPOCH);
    for (int i = 0; i < 1000; i++) {
        cr_assert_eq(apply_numbered(kept, GROUP, 10000), SLUICE_OK);
        cr_assert_eq(apply_numbered(erased, GROUP + 1, 20000), SLUICE_OK);
    }
    struct news news = {0};
    store_flush(store);
    cr_assert(wait_news(store, &news, 1000, 1000));
    uint64_t before = bytes_in(path), after = before;
    cr_assert_gt(before, 30000000);
    cr_assert_eq(versions_erase(erased), SLUICE_OK);
    for (int i = 0; i < 200 && after > before / 2; i++) {
        usleep(50000);
        after = bytes_in(path);
    }
    cr_assert_leq(after, before / 2, "%llu of %llu bytes stayed", (unsigned long long)after,
                  (unsigned long long)before);
    check_all(kept);
    cr_assert_eq(apply_numbered(erased, GROUP + 1, 100), SLUICE_OK);
    /* Closing in the middle of it is no harm. */
    for (int i = 0; i < 500; i++)
        cr_assert_eq(apply_numbered(erased, GROUP + 1, 20000), SLUICE_OK);
    cr_assert_eq(versions_erase(erased), SLUICE_OK);
    cr_assert_eq(versions_erase(erased), SLUICE_OK);
    versions_destroy(kept);
    versions_destroy(erased);
    store_close(store);
    store = open_store(path);
    kept = open_versions(store, GROUP, EPOCH);
    cr_assert_eq(versions_applied(kept, NULL), 1000);
    check_all(kept);
    versions_destroy(kept);
    store_close(store);
    twin_remove(path);
}

Test(store, free_space_is_told)
{
    uint64_t total, bytes = store_free_bytes("/tmp", &total);
    cr_assert_gt(bytes, 0);
    cr_assert_gt(total, bytes);
    cr_assert_eq(store_free_bytes("/nowhere/at/all", &total), 0);
    cr_assert_eq(total, 0);
}

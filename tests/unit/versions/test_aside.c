/* A store that is damaged beyond single entries is set aside where peers can fill a new one, and refused where not. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/log.h"
#include "twin.h"

static void run(const char *format, const char *path)
{
    char command[256];
    snprintf(command, sizeof(command), format, path, path);
    cr_assert_eq(system(command), 0, "%s", command);
}

static void make(const char *path)
{
    struct twin twin = {.kind = TWIN_REOPENED};
    char error[256] = "";
    const struct store_options options = {.path = path};
    cr_assert_eq(store_open(&options, &twin.store, error, sizeof(error)), SLUICE_OK, "%s", error);
    const struct versions_options shard = {.group = 7, .epoch = 3, .store = twin.store, .hot_bytes_max = 1u << 20};
    cr_assert_eq(versions_create(&shard, &twin.versions), SLUICE_OK);
    twin.time = 1;
    cr_assert(store_empty(twin.store));
    for (uint64_t i = 1; i <= 50; i++)
        twin_put(&twin, "key", i, "value");
    versions_destroy(twin.versions);
    cr_assert_not(store_empty(twin.store));
    store_close(twin.store);
}

static enum sluice_status reopen(const char *path, bool *set_aside, struct store **store)
{
    char error[512] = "";
    const struct store_options options = {.path = path, .set_aside = set_aside};
    enum sluice_status status = store_open(&options, store, error, sizeof(error));
    cr_assert_eq(status == SLUICE_OK, error[0] == 0 || status == SLUICE_OK);
    return status;
}

static void expect_set_aside(const char *path)
{
    struct store *store;
    bool set_aside = false;
    cr_assert_eq(reopen(path, NULL, &store), SLUICE_CORRUPT);
    cr_assert_eq(reopen(path, &set_aside, &store), SLUICE_OK);
    cr_assert(set_aside);
    cr_assert(store_empty(store));
    store_close(store);
    /* What was damaged is kept for whoever wants to look at it. */
    run("test -d %s.damaged-*", path);
    /* A crash before it is known elsewhere changes nothing. */
    set_aside = false;
    cr_assert_eq(reopen(path, &set_aside, &store), SLUICE_OK);
    cr_assert(set_aside);
    cr_assert_eq(store_settle(store), SLUICE_OK);
    store_close(store);
    cr_assert_eq(reopen(path, &set_aside, &store), SLUICE_OK);
    cr_assert_not(set_aside);
    store_close(store);
}

static const char *const harms[] = {
    "rm %s/CURRENT",
    "for f in %s/MANIFEST-*; do truncate -s 20 $f; done",
    "for f in %s/MANIFEST-*; do printf 'xxxxxxxxxxxxxxxx' | dd of=$f bs=1 seek=3 conv=notrunc 2>/dev/null; done",
    "rm %s/*.sst",
};

Test(store_aside, a_store_that_does_not_open_makes_room_for_an_empty_one, .timeout = 60)
{
    log_set_level(LOG_LEVEL_NONE);
    for (size_t i = 0; i < sizeof(harms) / sizeof(harms[0]); i++) {
        char directory[64], path[80];
        twin_directory(directory);
        snprintf(path, sizeof(path), "%s/store", directory);
        make(path);
        log_set_level(LOG_LEVEL_NONE);
        run(harms[i], path);
        expect_set_aside(path);
        twin_remove(directory);
    }
}

Test(store_aside, one_that_is_condemned_while_it_is_used_goes_at_the_next_start)
{
    char directory[64], path[80];
    struct store *store;
    bool set_aside = false;
    log_set_level(LOG_LEVEL_NONE);
    twin_directory(directory);
    snprintf(path, sizeof(path), "%s/store", directory);
    make(path);
    log_set_level(LOG_LEVEL_NONE);
    cr_assert_eq(reopen(path, &set_aside, &store), SLUICE_OK);
    cr_assert_not(set_aside);
    store_condemn(store);
    store_close(store);
    expect_set_aside(path);
    twin_remove(directory);
}

Test(store_aside, a_crash_between_the_two_renames_is_got_over)
{
    char directory[64], path[80];
    struct store *store;
    bool set_aside = false;
    log_set_level(LOG_LEVEL_NONE);
    twin_directory(directory);
    snprintf(path, sizeof(path), "%s/store", directory);
    make(path);
    run("mkdir %s.new && touch %s.new/SET_ASIDE", path);
    run("mv %s %s.damaged-then", path);
    cr_assert_eq(reopen(path, &set_aside, &store), SLUICE_OK);
    cr_assert(set_aside);
    store_close(store);
    twin_remove(directory);
}

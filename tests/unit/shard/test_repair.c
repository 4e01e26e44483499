/* A damaged entry is fetched from another replica, written back, and served. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/shard/small.h"

#define VALUE_BYTES 2000

static char path[64];

static struct store *open_store(void)
{
    const struct store_options options = {.path = path};
    struct store *store = NULL;
    char error[256] = "";
    cr_assert_eq(store_open(&options, &store, error, sizeof(error)), SLUICE_OK, "%s", error);
    return store;
}

static void value_of(int number, uint8_t value[VALUE_BYTES])
{
    struct random random;
    random_seed(&random, (uint64_t)number);
    for (int i = 0; i < VALUE_BYTES; i++)
        value[i] = (uint8_t)random_next(&random); /* nothing that compresses */
}

/* Flips a bit of each place where a file of the store holds these bytes. */
static int damage(const uint8_t *what, size_t size)
{
    int found = 0;
    DIR *directory = opendir(path);
    struct dirent *entry;
    while ((entry = readdir(directory)) != NULL) {
        char name[400];
        struct stat stat;
        snprintf(name, sizeof(name), "%s/%s", path, entry->d_name);
        int fd = open(name, O_RDWR);
        if (fd < 0 || fstat(fd, &stat) != 0 || !S_ISREG(stat.st_mode) || stat.st_size == 0) {
            close(fd);
            continue;
        }
        uint8_t *bytes = malloc((size_t)stat.st_size);
        cr_assert_eq(pread(fd, bytes, (size_t)stat.st_size, 0), stat.st_size);
        for (uint8_t *at = bytes; (at = memmem(at, (size_t)(bytes + stat.st_size - at), what, size)) != NULL; at++) {
            uint8_t flipped = at[5] ^ 1;
            cr_assert_eq(pwrite(fd, &flipped, 1, at + 5 - bytes), 1);
            found++;
        }
        free(bytes);
        close(fd);
    }
    closedir(directory);
    return found;
}

/* Of ten values the one of this number is damaged at node 2, which does not lead. */
static void start_with(int damaged)
{
    snprintf(path, sizeof(path), "/tmp/sluice-repair-%d", (int)getpid());
    char command[100];
    snprintf(command, sizeof(command), "rm -rf %s", path);
    cr_assert_eq(system(command), 0);
    small_open(3);
    small.stores[2] = open_store();
    small.options.hot_bytes_max = 1;
    for (uint16_t id = 1; id <= 3; id++)
        small_start(id);
    /* Another one leads, so that node 2 answers for itself alone. */
    if (small_wait_leader() == 2)
        host_group_transfer(small.nodes[2].host, 1, 1);
    small_run(100 * SMALL_MS);
    cr_assert_neq(small_wait_leader(), 2);
    uint8_t value[VALUE_BYTES];
    for (int i = 0; i < 10; i++) {
        char key[16];
        snprintf(key, sizeof(key), "key%d", i);
        value_of(i, value);
        small_put(key, value, sizeof(value));
    }
    small_run(300 * SMALL_MS);
    small_stop(2);
    store_close(small.stores[2]);
    value_of(damaged, value);
    cr_assert_gt(damage(value, sizeof(value)), 0, "the value is not where it was looked for");
    small.stores[2] = open_store();
    small_start(2);
    small_run(300 * SMALL_MS);
}

static void start(void)
{
    start_with(7);
}

static void stop(void)
{
    char command[100];
    struct store *store = small.stores[2];
    small_close();
    store_close(store);
    snprintf(command, sizeof(command), "rm -rf %s", path);
    (void)!system(command);
}

TestSuite(repair, .init = start, .fini = stop, .timeout = 60);

static bool is_value(const struct small_link *link, int number)
{
    uint8_t value[VALUE_BYTES];
    struct wire_record_view view;
    size_t offset = 0;
    value_of(number, value);
    return link->header.status == SLUICE_OK && wire_record_next(link->body, link->size, &offset, &view) == 1 &&
           view.record->carried_size == VALUE_BYTES && memcmp(view.value, value, VALUE_BYTES) == 0;
}

static uint64_t repairs(void)
{
    struct host_figures figures;
    host_figures(small.nodes[2].host, &figures);
    return figures.repairs;
}

Test(repair, a_read_of_a_damaged_value_waits_until_a_peer_has_given_it)
{
    struct small_link link = {0};
    small_send_get(2, &link, "key7", WIRE_FLAG_STABLE);
    cr_assert_eq(link.replies, 0, "status %u", link.header.status);
    small_run(50 * SMALL_MS);
    cr_assert_eq(link.replies, 1);
    cr_assert(is_value(&link, 7), "status %u", link.header.status);
    cr_assert_eq(repairs(), 1);
    /* Written back: the next one finds it whole, after a restart too. */
    memset(&link, 0, sizeof(link));
    small_send_get(2, &link, "key7", WIRE_FLAG_STABLE);
    cr_assert(link.replies == 1 && is_value(&link, 7));
    small_stop(2);
    store_close(small.stores[2]);
    small.stores[2] = open_store();
    small_start(2);
    small_run(300 * SMALL_MS);
    memset(&link, 0, sizeof(link));
    small_send_get(2, &link, "key7", WIRE_FLAG_STABLE);
    cr_assert(link.replies == 1 && is_value(&link, 7));
    cr_assert_eq(repairs(), 0);
}

Test(repair, where_nobody_can_help_the_read_says_so_and_nothing_wrong_is_served)
{
    struct small_link link = {0};
    small_stop(1);
    small_stop(3);
    small_send_get(2, &link, "key7", WIRE_FLAG_STABLE);
    small_run(6000 * SMALL_MS);
    cr_assert_eq(link.replies, 1);
    cr_assert(link.header.status == SLUICE_CORRUPT || link.header.status == SLUICE_DEADLINE, "status %u",
              link.header.status);
    memset(&link, 0, sizeof(link));
    small_send_get(2, &link, "key6", WIRE_FLAG_STABLE);
    cr_assert(link.replies == 1 && is_value(&link, 6), "the others are served");
}

static bool votes_again(void)
{
    const struct host_wanted nodes[] = {{.node = 1}, {.node = 2}, {.node = 3}};
    for (uint16_t id = 1; id <= 3; id++)
        host_group_want(small.nodes[id].host, 1, nodes, 3);
    return !small_replica(2)->paxos.options.amnesiac;
}

/* What it says of the ballot at its newest entry goes into every election that it votes in. */
Test(repair, a_replica_that_cannot_tell_of_its_newest_entry_has_no_vote_until_it_was_taken_in_anew)
{
    stop();
    start_with(9);
    uint64_t opened = small_replica(small_leader())->paxos.stable_opened;
    cr_assert_gt(opened, 0);
    cr_assert_not(small_replica(2)->paxos.options.amnesiac, "its log tells");
    cr_assert_eq(small_replica(2)->paxos.stable_opened, opened);
    small_stop(2);
    struct small_node *node = &small.nodes[2];
    size_t kept = 0;
    for (size_t i = 0; i < node->record_count; i++) {
        if (node->records[i].type == WAL_ENTRY)
            buf_unref(node->records[i].entry.body);
        else
            node->records[kept++] = node->records[i];
    }
    node->record_count = kept;
    small_start(2);
    cr_assert(small_replica(2)->paxos.options.amnesiac);
    cr_assert(small_until(votes_again, 10000 * SMALL_MS));
}

/* Another value under the same revision. */
static bool forge(struct small_frame *frame)
{
    struct peer_header header;
    memcpy(&header, frame->data, sizeof(header));
    if (header.kind == PEER_REPAIR)
        frame->data[frame->size - 100] ^= 1;
    return true;
}

Test(repair, what_a_peer_gives_is_checked_before_it_is_taken)
{
    struct small_link link = {0};
    small.filter = forge;
    small_send_get(2, &link, "key7", WIRE_FLAG_STABLE);
    small_run(1000 * SMALL_MS);
    cr_assert_eq(repairs(), 0);
    cr_assert_eq(link.replies, 0);
    small.filter = NULL;
    small_run(1000 * SMALL_MS);
    cr_assert_eq(link.replies, 1);
    cr_assert(is_value(&link, 7));
}

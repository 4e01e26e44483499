/* The log in a directory, with its threads. */
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

#include "core/base/clock.h"
#include "core/base/crc.h"
#include "core/base/log.h"
#include "core/base/random.h"
#include "core/versions/wal_format.h"
#include "twin.h"

#define SEGMENT (256u << 10)

struct seen {
    uint64_t highest, entries, promised;
};

static void see(void *arg, const struct wal_record *record)
{
    struct seen *seen = arg;
    if (record->type == WAL_PROMISE && record->ballot > seen->promised)
        seen->promised = record->ballot;
    if (record->type != WAL_ENTRY)
        return;
    uint64_t index;
    cr_assert_geq(record->entry.body->size, 8);
    memcpy(&index, record->entry.body->data, 8);
    cr_assert_eq(index, record->entry.index);
    seen->entries++;
    seen->highest = index;
}

static enum sluice_status try_open(const char *path, uint64_t segment_bytes, bool thread, struct seen *seen,
                                   struct wal **out, char error[512])
{
    struct wal_options options = {.thread = thread};
    error[0] = 0;
    *seen = (struct seen){0};
    enum sluice_status status = wal_device_open_directory(path, segment_bytes, &options.device, error, 512);
    return status != SLUICE_OK ? status : wal_open(&options, see, seen, out, error, 512);
}

static struct wal *open_log(const char *path, bool thread, struct seen *seen)
{
    struct wal *wal = NULL;
    char error[512];
    log_set_level(LOG_LEVEL_ERROR);
    cr_assert_eq(try_open(path, SEGMENT, thread, seen, &wal, error), SLUICE_OK, "%s", error);
    return wal;
}

static enum sluice_status append(struct wal *wal, uint64_t index, uint32_t size)
{
    struct buf *body = buf_create(8 + size);
    memcpy(body->data, &index, 8);
    memset(body->data + 8, (int)index, size);
    const struct wal_record record = {.type = WAL_ENTRY,
                                      .group = 1,
                                      .epoch = 1,
                                      .ballot = 5,
                                      .entry = {.index = index,
                                                .ballot = 5,
                                                .epoch = 1,
                                                .group = 1,
                                                .kind = ENTRY_COMMAND,
                                                .body_crc = crc32c(body->data, body->size),
                                                .body = body}};
    enum sluice_status status = wal_append(wal, &record);
    buf_unref(body);
    return status;
}

/* Waits for a ticket as a reactor does: on the descriptor. */
static enum sluice_status wait_for(struct wal *wal, uint64_t ticket)
{
    enum sluice_status error;
    while (wal_completed(wal, &error) < ticket && error == SLUICE_OK) {
        struct pollfd bell = {.fd = wal_fd(wal), .events = POLLIN};
        cr_assert_eq(poll(&bell, 1, 10000), 1, "no completion was rung");
    }
    return error;
}

Test(wal_device, a_threaded_log_completes_and_recycles)
{
    char path[64];
    struct seen seen;
    twin_directory(path);
    struct wal *wal = open_log(path, true, &seen);
    uint64_t index = 0, ticket = 0;
    for (int i = 0; i < 400; i++) {
        for (int j = 0; j < 10; j++)
            cr_assert_eq(append(wal, ++index, 300), SLUICE_OK);
        ticket = wal_submit(wal);
        if (i % 10 == 0) {
            cr_assert_eq(wait_for(wal, ticket), SLUICE_OK);
            wal_release(wal, 1, index - index % 100);
        }
    }
    cr_assert_eq(ticket, 400);
    cr_assert_eq(wait_for(wal, ticket), SLUICE_OK);
    struct wal_figures figures;
    wal_figures(wal, &figures);
    cr_assert_eq(figures.records, 4000);
    cr_assert_lt(figures.batches, 400, "what waited for a write was joined");
    cr_assert_eq(figures.bytes_payload, 4000 * 308);
    wal_close(wal);
    wal = open_log(path, true, &seen);
    cr_assert_eq(seen.highest, 4000);
    cr_assert_eq(seen.promised, 5);
    wal_close(wal);
    twin_remove(path);
}

Test(wal_device, without_a_thread_there_is_nothing_to_wait_on)
{
    char path[64];
    struct seen seen;
    enum sluice_status error;
    twin_directory(path);
    struct wal *wal = open_log(path, false, &seen);
    cr_assert_lt(wal_fd(wal), 0);
    cr_assert_eq(append(wal, 1, 10), SLUICE_OK);
    uint64_t ticket = wal_submit(wal);
    wal_flush(wal);
    cr_assert_eq(wal_completed(wal, &error), ticket);
    wal_close(wal);
    twin_remove(path);
}

struct writer {
    pid_t pid;
    int go, told;
};

static void write_until_killed(const char *path, int go, int told)
{
    struct seen seen;
    char word;
    if (read(go, &word, 1) != 1)
        _exit(2);
    struct wal *wal = open_log(path, true, &seen);
    uint64_t index = seen.highest, said = 0;
    uint64_t at[4096] = {0};
    for (;;) {
        enum sluice_status error;
        for (int i = 0; i < 5; i++) {
            index++;
            if (append(wal, index, (uint32_t)(index % 5 * 200)) != SLUICE_OK)
                _exit(3);
        }
        uint64_t ticket = wal_submit(wal);
        at[ticket % 4096] = index;
        uint64_t completed = wal_completed(wal, &error);
        if (error != SLUICE_OK)
            _exit(4);
        if (completed > said && write(told, &at[completed % 4096], 8) != 8)
            _exit(5);
        if (completed > said && index > 2000)
            wal_release(wal, 1, index - 2000);
        said = completed;
        if (ticket - completed > 20)
            wait_for(wal, ticket - 10);
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

#define CRASHES 8

Test(wal_device, after_kill_9_everything_acknowledged_is_there, .timeout = 60)
{
    char path[64];
    struct random random;
    struct writer writers[CRASHES];
    struct seen seen;
    random_seed(&random, test_seed("log crash"));
    twin_directory(path);
    for (int i = 0; i < CRASHES; i++)
        writers[i] = fork_writer(path);
    uint64_t acknowledged = 0;
    for (int i = 0; i < CRASHES; i++) {
        uint64_t word;
        int status;
        cr_assert_eq(write(writers[i].go, "!", 1), 1);
        cr_assert_eq(read(writers[i].told, &word, 8), 8);
        usleep((useconds_t)random_below(&random, 100000));
        kill(writers[i].pid, SIGKILL);
        waitpid(writers[i].pid, &status, 0);
        cr_assert(WIFSIGNALED(status), "the writer ended by itself: %d", WEXITSTATUS(status));
        do
            acknowledged = word;
        while (read(writers[i].told, &word, 8) == 8);
        struct wal *wal = open_log(path, false, &seen);
        cr_assert_geq(seen.highest, acknowledged);
        cr_assert_geq(seen.entries, acknowledged < 2000 ? acknowledged : 2000);
        wal_close(wal);
    }
    twin_remove(path);
}

Test(wal_device, two_processes_never_share_a_log)
{
    char path[64], error[512];
    struct seen seen;
    struct wal *wal = NULL;
    twin_directory(path);
    struct wal *first = open_log(path, false, &seen);
    cr_assert_eq(try_open(path, SEGMENT, false, &seen, &wal, error), SLUICE_CONFLICT);
    cr_assert_not_null(strstr(error, path), "%s", error);
    wal_close(first);
    wal_close(open_log(path, false, &seen));
    twin_remove(path);
}

Test(wal_device, what_cannot_be_a_log_is_refused_in_words)
{
    char path[64], file[96], error[512];
    struct seen seen;
    struct wal *wal = NULL;
    log_set_level(LOG_LEVEL_NONE);
    twin_directory(path);
    snprintf(file, sizeof(file), "%s/file", path);
    close(open(file, O_CREAT | O_WRONLY, 0600));
    cr_assert_eq(try_open(file, SEGMENT, false, &seen, &wal, error), SLUICE_IO);
    cr_assert_not_null(strstr(error, file), "%s", error);
    snprintf(file, sizeof(file), "%s/missing/deeper", path);
    cr_assert_eq(try_open(file, SEGMENT, false, &seen, &wal, error), SLUICE_IO);
    cr_assert_eq(try_open(path, 1000, false, &seen, &wal, error), SLUICE_INVALID);
    cr_assert_not_null(strstr(error, "1000"), "%s", error);
    cr_assert_eq(try_open(path, SEGMENT + 1, false, &seen, &wal, error), SLUICE_INVALID);
    /* Files that are none of ours are left alone. */
    const char *const strange[] = {"segment-zz", "segment-1", "lost+found", "segment-00000000000000010"};
    for (int i = 0; i < 4; i++) {
        snprintf(file, sizeof(file), "%s/%s", path, strange[i]);
        close(open(file, O_CREAT | O_WRONLY, 0600));
    }
    wal = open_log(path, false, &seen);
    cr_assert_eq(append(wal, 1, 10), SLUICE_OK);
    wal_close(wal);
    for (int i = 0; i < 4; i++) {
        snprintf(file, sizeof(file), "%s/%s", path, strange[i]);
        cr_assert_eq(access(file, F_OK), 0, "%s", file);
    }
    twin_remove(path);
}

Test(wal_device, a_log_works_where_there_is_no_direct_writing)
{
    char path[64] = "/dev/shm/sluice-versions-XXXXXX";
    struct seen seen;
    cr_assert_not_null(mkdtemp(path));
    struct wal *wal = open_log(path, true, &seen);
    for (uint64_t i = 1; i <= 3000; i++) {
        cr_assert_eq(append(wal, i, 200), SLUICE_OK);
        if (i % 100 == 0)
            wal_submit(wal);
    }
    wal_close(wal);
    wal = open_log(path, true, &seen);
    cr_assert_eq(seen.entries, 3000);
    wal_close(wal);
    twin_remove(path);
}

Test(wal_device, the_size_of_segments_may_change_between_starts)
{
    char path[64], error[512];
    struct seen seen;
    struct wal *wal = NULL;
    const uint64_t sizes[] = {256u << 10, 64u << 10, 1u << 20, 128u << 10, 256u << 10};
    uint64_t index = 0;
    twin_directory(path);
    log_set_level(LOG_LEVEL_ERROR);
    for (int round = 0; round < 5; round++) {
        cr_assert_eq(try_open(path, sizes[round], false, &seen, &wal, error), SLUICE_OK, "%s", error);
        cr_assert_eq(seen.entries, index);
        for (int i = 0; i < 300; i++) {
            cr_assert_eq(append(wal, ++index, 1000), SLUICE_OK);
            if (i % 10 == 0) {
                wal_submit(wal);
                wal_flush(wal);
            }
        }
        wal_close(wal);
    }
    twin_remove(path);
}

/* Where batches stand in the newest segment. */
static uint64_t offsets_in(const char *file, uint64_t offsets[64])
{
    uint64_t count = 0, at = 0;
    uint8_t block[WAL_BLOCK_BYTES];
    struct wal_batch_header header;
    int fd = open(file, O_RDONLY);
    while (count < 64 && pread(fd, block, sizeof(block), (off_t)at) == sizeof(block) &&
           wal_batch_header_read(block, &header)) {
        offsets[count++] = at;
        at += wal_block_round(sizeof(header) + header.body_size);
    }
    close(fd);
    return count;
}

Test(wal_device, a_log_that_was_cut_off_ends_before_the_cut)
{
    char path[64], error[512], file[128], command[256];
    struct seen seen;
    struct wal *wal = NULL;
    uint64_t offsets[64];
    twin_directory(path);
    wal = open_log(path, false, &seen);
    for (uint64_t i = 1; i <= 20; i++) {
        cr_assert_eq(append(wal, i, 6000), SLUICE_OK);
        wal_submit(wal);
        wal_flush(wal);
    }
    /* As a crash leaves it: without the closing batch. */
    snprintf(command, sizeof(command), "cp -r %s %s.crashed", path, path);
    cr_assert_eq(system(command), 0);
    wal_close(wal);
    log_set_level(LOG_LEVEL_NONE);
    snprintf(file, sizeof(file), "%s.crashed/segment-0000000000000001", path);
    cr_assert_eq(offsets_in(file, offsets), 20);
    /* Cut anywhere, on and off the boundaries of blocks and sectors, from long to short: no closing batch follows. */
    uint64_t end = offsets[19] + 8192;
    for (uint64_t cut = end; cut > 0; cut -= cut > 997 ? 997 : cut) {
        char copy[80];
        cr_assert_eq(truncate(file, (off_t)cut), 0);
        uint64_t whole = 0;
        while (whole < 20 && offsets[whole] + sizeof(struct wal_batch_header) + 6080 <= cut)
            whole++;
        snprintf(copy, sizeof(copy), "%s.copy", path);
        snprintf(command, sizeof(command), "rm -rf %s && cp -r %s.crashed %s", copy, path, copy);
        cr_assert_eq(system(command), 0);
        cr_assert_eq(try_open(copy, SEGMENT, false, &seen, &wal, error), SLUICE_OK, "cut at %llu: %s",
                     (unsigned long long)cut, error);
        cr_assert_eq(seen.entries, whole, "cut at %llu: %llu", (unsigned long long)cut,
                     (unsigned long long)seen.entries);
        wal_close(wal);
    }
    snprintf(command, sizeof(command), "rm -rf %s %s.copy %s.crashed", path, path, path);
    cr_assert_eq(system(command), 0);
}

Test(wal_device, a_disk_that_takes_no_more_stops_the_log)
{
    char path[64];
    struct seen seen;
    enum sluice_status status = SLUICE_OK;
    twin_directory(path);
    log_set_level(LOG_LEVEL_NONE);
    struct wal *wal = open_log(path, true, &seen);
    log_set_level(LOG_LEVEL_NONE);
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit before, limit;
    cr_assert_eq(getrlimit(RLIMIT_FSIZE, &before), 0);
    limit = before;
    limit.rlim_cur = 100000; /* the next segment cannot be made, and the current one is not written beyond */
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    uint64_t index = 0, completed = 0;
    for (int i = 0; i < 1000 && status == SLUICE_OK; i++) {
        if (append(wal, ++index, 1000) != SLUICE_OK)
            break;
        uint64_t ticket = wal_submit(wal);
        status = wait_for(wal, ticket);
        if (status == SLUICE_OK)
            completed = index;
    }
    cr_assert_neq(status, SLUICE_OK);
    cr_assert_gt(completed, 10);
    wal_close(wal);
    setrlimit(RLIMIT_FSIZE, &before);
    wal = open_log(path, true, &seen);
    cr_assert_geq(seen.highest, completed);
    wal_close(wal);
    twin_remove(path);
}

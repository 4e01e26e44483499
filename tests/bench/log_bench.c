/* The log's own segments against RocksDB's write-ahead log: what a group commit costs in time and in device bytes.
 *
 * usage: log_bench [--dir DIR] [--rounds N] [--value BYTES] [--long MIB]
 *
 * A commit hands over so many entries of one value each and waits until they are durable. Ways:
 *   segments   our log (wal.h)
 *   rocksdb    one synced WriteBatch per commit, its log as it comes
 *   recycled   the same with recycle_log_file_num
 *   all        our log, and the store filled behind it as in a node
 * Ways take turns within a round; figures are medians over rounds. Device bytes are write_bytes of /proc/self/io, so
 * whatever threads do behind a commit is in them; the preallocation of the first segment is not. --long writes so many
 * MiB with the store behind and segments being recycled, and reports all device bytes, compactions included. */
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <rocksdb/c.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/crc.h"
#include "core/base/log.h"
#include "core/base/panic.h"
#include "core/base/random.h"
#include "core/versions/cold.h"
#include "core/versions/versions.h"
#include "core/versions/wal.h"

enum way { WAY_SEGMENTS, WAY_ROCKSDB, WAY_RECYCLED, WAY_ALL, WAYS };
static const char *const way_names[WAYS] = {"segments", "rocksdb", "recycled", "all"};
static const uint32_t group_sizes[] = {1, 16, 64, 256};
#define SIZES       4
#define ROUNDS_MAX  32
#define COMMITS_MAX 4096

static const char *directory = "/tmp/sluice-log-bench";
static uint32_t value_bytes = 1024;

struct result {
    double p50_us, p99_us, entries_per_s, bytes_per_payload, cpu_us;
};

static uint64_t device_bytes(void)
{
    char text[512] = "";
    int fd = open("/proc/self/io", O_RDONLY);
    ssize_t got = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
    if (fd >= 0)
        close(fd);
    const char *at = got <= 0 ? NULL : strstr(text, "\nwrite_bytes: ");
    if (at == NULL) {
        fprintf(stderr, "log_bench: /proc/self/io cannot be read\n");
        exit(1);
    }
    return strtoull(at + 14, NULL, 10);
}

static double cpu_seconds(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static void check(enum sluice_status status, const char *what, const char *why)
{
    if (status == SLUICE_OK)
        return;
    fprintf(stderr, "log_bench: %s: %s %s\n", what, sluice_status_text(status), why);
    exit(1);
}

static void clear_directory(void)
{
    char command[512];
    snprintf(command, sizeof(command), "rm -rf '%s' && mkdir -p '%s'", directory, directory);
    if (system(command) != 0)
        exit(1);
}

/* Bytes that do not compress, as pictures do not. */
static struct buf *make_body(struct random *random, const char *key)
{
    struct buf *body = buf_create(32 + value_bytes);
    if (body == NULL)
        exit(1);
    memset(body->data, 0, 32);
    memcpy(body->data, key, strlen(key));
    for (uint32_t i = 0; i + 8 <= value_bytes; i += 8) {
        uint64_t word = random_next(random);
        memcpy(body->data + 32 + i, &word, 8);
    }
    return body;
}

static struct entry make_entry(struct random *random, uint64_t index, char key[32])
{
    snprintf(key, 32, "farm/cow%04u", (unsigned)(random_next(random) % 1000));
    struct buf *body = make_body(random, key);
    return (struct entry){.index = index,
                          .ballot = 65537,
                          .time = index,
                          .epoch = 1,
                          .group = 1,
                          .kind = ENTRY_COMMAND,
                          .body_crc = crc32c(body->data, body->size),
                          .body = body};
}

/* ---- The ways ---- */

struct bench {
    enum way way;
    struct random random;
    uint64_t index;
    struct wal *wal;
    struct store *store;
    struct versions *versions;
    rocksdb_t *db;
    rocksdb_options_t *options;
    rocksdb_writeoptions_t *write;
};

static void ignore(void *arg, const struct wal_record *record)
{
    (void)arg;
    (void)record;
}

static void open_segments(struct bench *self)
{
    struct wal_options options = {.thread = true};
    char path[300], error[512] = "";
    snprintf(path, sizeof(path), "%s/log", directory);
    check(wal_device_open_directory(path, 0, &options.device, error, sizeof(error)), "log", error);
    check(wal_open(&options, ignore, NULL, &self->wal, error, sizeof(error)), "log", error);
}

static void open_store(struct bench *self)
{
    char path[300], error[512] = "";
    snprintf(path, sizeof(path), "%s/store", directory);
    const struct store_options options = {.path = path};
    check(store_open(&options, &self->store, error, sizeof(error)), "store", error);
    const struct versions_options shard = {.group = 1, .epoch = 1, .store = self->store, .hot_bytes_max = 32u << 20};
    check(versions_create(&shard, &self->versions), "versions", "");
}

/* As the entries would be kept if there were no log of our own: the same encoding, blobs and compression. */
static void open_rocksdb(struct bench *self, bool recycled)
{
    char path[300], *failure = NULL;
    snprintf(path, sizeof(path), "%s/rocksdb", directory);
    self->options = rocksdb_options_create();
    rocksdb_options_set_create_if_missing(self->options, 1);
    rocksdb_options_set_write_buffer_size(self->options, 16u << 20);
    rocksdb_options_set_max_background_jobs(self->options, 2);
    rocksdb_options_set_compression(self->options, rocksdb_no_compression);
    rocksdb_options_set_enable_blob_files(self->options, 1);
    rocksdb_options_set_min_blob_size(self->options, 512);
    if (recycled)
        rocksdb_options_set_recycle_log_file_num(self->options, 4);
    self->db = rocksdb_open(self->options, path, &failure);
    if (failure != NULL)
        check(SLUICE_IO, "rocksdb", failure);
    self->write = rocksdb_writeoptions_create();
    rocksdb_writeoptions_set_sync(self->write, 1);
}

static void open_way(struct bench *self, enum way way, uint64_t seed)
{
    *self = (struct bench){.way = way};
    random_seed(&self->random, seed);
    clear_directory();
    if (way == WAY_SEGMENTS || way == WAY_ALL)
        open_segments(self);
    if (way == WAY_ALL)
        open_store(self);
    if (way == WAY_ROCKSDB || way == WAY_RECYCLED)
        open_rocksdb(self, way == WAY_RECYCLED);
}

/* What is only in memory and in the log yet has still to be written. */
static void flush_rocksdb(struct bench *self)
{
    char *failure = NULL;
    if (self->db == NULL)
        return;
    rocksdb_flushoptions_t *flush = rocksdb_flushoptions_create();
    rocksdb_flushoptions_set_wait(flush, 1);
    rocksdb_flush(self->db, flush, &failure);
    rocksdb_flushoptions_destroy(flush);
    if (failure != NULL)
        check(SLUICE_IO, "rocksdb", failure);
}

static void close_way(struct bench *self)
{
    versions_destroy(self->versions);
    store_close(self->store);
    wal_close(self->wal);
    if (self->db != NULL) {
        rocksdb_close(self->db);
        rocksdb_writeoptions_destroy(self->write);
        rocksdb_options_destroy(self->options);
    }
    clear_directory();
}

static void news(void *arg, uint32_t group, uint64_t indexed, uint64_t durable)
{
    struct bench *self = arg;
    versions_indexed(self->versions, indexed);
    if (durable > 0)
        wal_release(self->wal, group, durable);
}

static void apply_entry(struct bench *self, const struct entry *entry, const char *key)
{
    struct version latest;
    struct slice name = {key, strlen(key)};
    enum sluice_status status = versions_latest(self->versions, name, false, &latest);
    const struct version made = {
        .key = (const char *)entry->body->data,
        .key_size = (uint32_t)name.size,
        .value = entry->body->data + 32,
        .value_size = value_bytes,
        .version = status == SLUICE_OK ? latest.version + 1 : 1,
        .revision = entry->index,
        .time = entry->time,
        .object_time = entry->time,
    };
    if (status == SLUICE_OK)
        version_release(&latest);
    check(versions_apply(self->versions, entry, &made, 1, NULL, 0), "apply", "");
}

static void commit_segments(struct bench *self, struct entry *entries, char (*keys)[32], uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        const struct wal_record record = {
            .type = WAL_ENTRY, .group = 1, .epoch = 1, .ballot = entries[i].ballot, .entry = entries[i]};
        check(wal_append(self->wal, &record), "append", "");
    }
    uint64_t ticket = wal_submit(self->wal);
    enum sluice_status error = SLUICE_OK;
    while (wal_completed(self->wal, &error) < ticket) {
        check(error, "commit", "");
        struct pollfd bell = {.fd = wal_fd(self->wal), .events = POLLIN};
        poll(&bell, 1, 1000);
    }
    if (self->way != WAY_ALL)
        return;
    for (uint32_t i = 0; i < count; i++)
        apply_entry(self, &entries[i], keys[i]);
    check(store_poll(self->store, news, self), "store", "");
}

static void commit_rocksdb(struct bench *self, const struct entry *entries, uint32_t count)
{
    rocksdb_writebatch_t *batch = rocksdb_writebatch_create();
    for (uint32_t i = 0; i < count; i++) {
        struct entry_header header;
        cold_key key;
        entry_header_write(&entries[i], &header);
        const char *const keys[1] = {(const char *)key};
        const size_t key_sizes[1] = {cold__entry_key(key, 1, entries[i].index)};
        const char *const parts[2] = {(const char *)&header, (const char *)entries[i].body->data};
        const size_t part_sizes[2] = {sizeof(header), entries[i].body->size};
        rocksdb_writebatch_putv(batch, 1, keys, key_sizes, 2, parts, part_sizes);
    }
    char *failure = NULL;
    rocksdb_write(self->db, self->write, batch, &failure);
    if (failure != NULL)
        check(SLUICE_IO, "rocksdb", failure);
    rocksdb_writebatch_destroy(batch);
}

/* Times one commit, without the making of its entries. */
static uint64_t commit(struct bench *self, uint32_t count)
{
    static struct entry entries[256];
    static char keys[256][32];
    for (uint32_t i = 0; i < count; i++)
        entries[i] = make_entry(&self->random, ++self->index, keys[i]);
    uint64_t begin = clock_monotonic_ns();
    if (self->wal != NULL)
        commit_segments(self, entries, keys, count);
    else
        commit_rocksdb(self, entries, count);
    uint64_t spent = clock_monotonic_ns() - begin;
    for (uint32_t i = 0; i < count; i++)
        buf_unref(entries[i].body);
    return spent;
}

/* ---- Figures ---- */

static int by_number(const void *a, const void *b)
{
    double left = *(const double *)a, right = *(const double *)b;
    return left < right ? -1 : left > right;
}

static double median(double *values, uint32_t count)
{
    qsort(values, count, sizeof(*values), by_number);
    return count % 2 == 1 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

static struct result measure(enum way way, uint32_t group_size, uint64_t seed)
{
    static double spent_us[COMMITS_MAX];
    /* Less than half a segment: none is preallocated meanwhile. */
    uint32_t commits = group_size * 400 < 20000 ? 400 : 20000 / group_size;
    struct bench bench;
    open_way(&bench, way, seed);
    for (int i = 0; i < 5; i++)
        commit(&bench, group_size);
    uint64_t bytes = device_bytes();
    double cpu = cpu_seconds(), total = 0;
    for (uint32_t i = 0; i < commits; i++) {
        spent_us[i] = (double)commit(&bench, group_size) / 1e3;
        total += spent_us[i];
    }
    if (way == WAY_ALL) {
        versions_destroy(bench.versions);
        store_close(bench.store);
        bench.versions = NULL;
        bench.store = NULL;
    }
    flush_rocksdb(&bench);
    bytes = device_bytes() - bytes;
    cpu = cpu_seconds() - cpu;
    double entries = (double)commits * group_size;
    struct result result = {
        .p50_us = median(spent_us, commits),
        .p99_us = spent_us[commits * 99 / 100],
        .entries_per_s = entries / total * 1e6,
        .bytes_per_payload = (double)bytes / (entries * (value_bytes + 32)),
        .cpu_us = cpu * 1e6 / entries,
    };
    close_way(&bench);
    return result;
}

static void compare(uint32_t rounds, uint64_t seed)
{
    printf("%-6s %-9s %10s %10s %12s %14s %10s %10s\n", "group", "way", "p50 us", "p99 us", "entries/s",
           "device/payload", "cpu us/e", "p50 ratio");
    for (int size = 0; size < SIZES; size++) {
        static struct result results[WAYS][ROUNDS_MAX];
        for (uint32_t round = 0; round < rounds; round++)
            for (int way = 0; way < WAYS; way++)
                results[way][round] = measure((enum way)way, group_sizes[size], seed + round);
        for (int way = 0; way < WAYS; way++) {
            double p50[ROUNDS_MAX], p99[ROUNDS_MAX], rate[ROUNDS_MAX], bytes[ROUNDS_MAX], cpu[ROUNDS_MAX],
                ratio[ROUNDS_MAX];
            for (uint32_t i = 0; i < rounds; i++) {
                const struct result *result = &results[way][i];
                p50[i] = result->p50_us;
                p99[i] = result->p99_us;
                rate[i] = result->entries_per_s;
                bytes[i] = result->bytes_per_payload;
                cpu[i] = result->cpu_us;
                ratio[i] = result->p50_us / results[WAY_ROCKSDB][i].p50_us;
            }
            double middle = median(ratio, rounds);
            printf("%-6u %-9s %10.0f %10.0f %12.0f %14.3f %10.1f %10.2f (%.2f to %.2f)\n", group_sizes[size],
                   way_names[way], median(p50, rounds), median(p99, rounds), median(rate, rounds),
                   median(bytes, rounds), median(cpu, rounds), middle, ratio[0], ratio[rounds - 1]);
            fflush(stdout);
        }
    }
}

static void run_long(uint64_t mib, uint64_t seed)
{
    struct bench bench;
    uint64_t before = device_bytes();
    open_way(&bench, WAY_ALL, seed);
    uint64_t wanted = (mib << 20) / value_bytes, done = 0;
    double spent = 0;
    struct wal_figures figures;
    while (done < wanted) {
        spent += (double)commit(&bench, 64) / 1e9;
        done += 64;
        if (wal_wants_flush(bench.wal))
            store_flush(bench.store);
    }
    versions_destroy(bench.versions);
    store_close(bench.store);
    bench.versions = NULL;
    bench.store = NULL;
    wal_figures(bench.wal, &figures);
    double payload = (double)done * (value_bytes + 32);
    printf("long: %llu MiB in groups of 64: %.0f entries/s; device bytes a payload byte: log %.3f, all %.3f\n",
           (unsigned long long)mib, (double)done / spent, (double)figures.bytes_written / payload,
           (double)(device_bytes() - before) / payload);
    close_way(&bench);
}

int main(int count, char **arguments)
{
    static const struct option options[] = {{"dir", required_argument, NULL, 'd'},
                                            {"rounds", required_argument, NULL, 'r'},
                                            {"value", required_argument, NULL, 'v'},
                                            {"long", required_argument, NULL, 'l'},
                                            {0}};
    uint32_t rounds = 7;
    uint64_t mib = 0, seed = 1;
    int option;
    while ((option = getopt_long(count, arguments, "", options, NULL)) != -1) {
        if (option == 'd')
            directory = optarg;
        else if (option == 'r')
            rounds = (uint32_t)strtoul(optarg, NULL, 10);
        else if (option == 'v')
            value_bytes = (uint32_t)strtoul(optarg, NULL, 10);
        else if (option == 'l')
            mib = strtoull(optarg, NULL, 10);
        else
            return 2;
    }
    if (rounds < 1 || rounds > ROUNDS_MAX || value_bytes < 8 || value_bytes > (1u << 20)) {
        fprintf(stderr, "log_bench: --rounds 1 to %d, --value 8 to 1048576\n", ROUNDS_MAX);
        return 2;
    }
    log_set_level(LOG_LEVEL_WARN);
    if (mib > 0)
        run_long(mib, seed);
    else
        compare(rounds, seed);
    return 0;
}

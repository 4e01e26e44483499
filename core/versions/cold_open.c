/* Opening RocksDB, and its options. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/base/log.h"
#include "core/base/panic.h"
#include "core/versions/cold.h"

#define CACHE_BYTES        (64u << 20)
#define WRITE_BUFFER_BYTES (64u << 20) /* the index thread flushes long before */
#define BLOB_BYTES_MIN     512u
#define BLOB_FILE_BYTES    (256u << 20)
#define OPEN_FILES_MAX     512
#define INFO_LOG_BYTES     (1u << 20)
#define INFO_LOG_FILES     2u
#define SORTED_RUNS        8 /* more of them cost reads, fewer cost writes */
#define MERGE_WIDTH        4
#define BLOOM_BITS         10

enum sluice_status cold__error(const char *what, char *error)
{
    enum sluice_status status = SLUICE_IO;
    if (strncmp(error, "Corruption", 10) == 0)
        status = SLUICE_CORRUPT;
    else if (strstr(error, "No space left") != NULL || strncmp(error, "IO error: No space", 18) == 0)
        status = SLUICE_STORAGE_FULL;
    LOG_ERROR("store", "%s: %s", what, error);
    rocksdb_free(error);
    return status;
}

/* The index's prefix: all but the version, so that one filter answers "does this key have records at all?". */
static char *prefix_of(void *arg, const char *key, size_t size, size_t *out)
{
    (void)arg;
    *out = size - 8;
    return (char *)(uintptr_t)key;
}

static unsigned char prefix_has(void *arg, const char *key, size_t size)
{
    (void)arg;
    return size >= COLD_INDEX_KEY_BYTES_MIN && key[0] == 'I';
}

static unsigned char prefix_is(void *arg, const char *key, size_t size)
{
    (void)arg;
    (void)key;
    (void)size;
    return 0;
}

static const char *prefix_name(void *arg)
{
    (void)arg;
    return "sluice.key.1";
}

static void prefix_destroy(void *arg)
{
    (void)arg;
}

static void set_table(const struct cold *self, rocksdb_options_t *options)
{
    rocksdb_block_based_table_options_t *table = rocksdb_block_based_options_create();
    rocksdb_block_based_options_set_block_cache(table, self->cache);
    rocksdb_block_based_options_set_cache_index_and_filter_blocks(table, 1);
    rocksdb_block_based_options_set_filter_policy(table, rocksdb_filterpolicy_create_bloom(BLOOM_BITS));
    rocksdb_block_based_options_set_format_version(table, 5);
    rocksdb_options_set_block_based_table_factory(options, table);
    rocksdb_block_based_options_destroy(table);
}

static rocksdb_options_t *make_options(const struct cold *self, uint32_t blob_bytes_min)
{
    rocksdb_options_t *options = rocksdb_options_create();
    rocksdb_options_set_create_if_missing(options, 1);
    rocksdb_options_set_max_background_jobs(options, 2);
    rocksdb_options_set_max_open_files(options, OPEN_FILES_MAX);
    rocksdb_options_set_max_log_file_size(options, INFO_LOG_BYTES);
    rocksdb_options_set_keep_log_file_num(options, INFO_LOG_FILES);
    rocksdb_options_set_info_log_level(options, 2); /* warnings */
    rocksdb_options_set_stats_dump_period_sec(options, 0);
    rocksdb_options_set_stats_persist_period_sec(options, 0);
    rocksdb_options_set_bytes_per_sync(options, 1u << 20);
    rocksdb_options_set_write_buffer_size(options, WRITE_BUFFER_BYTES);
    rocksdb_options_set_max_write_buffer_number(options, 4);
    rocksdb_options_set_compression(options, rocksdb_lz4_compression);
    /* Entries are written once and never again: in blob files compactions move their keys alone. */
    rocksdb_options_set_enable_blob_files(options, 1);
    rocksdb_options_set_min_blob_size(options, blob_bytes_min);
    rocksdb_options_set_blob_file_size(options, BLOB_FILE_BYTES);
    rocksdb_options_set_blob_cache(options, self->cache);
    /* What is left in the tables is small and rewritten by every compaction: size-tiered ones write the least. */
    rocksdb_options_set_compaction_style(options, rocksdb_universal_compaction);
    rocksdb_universal_compaction_options_t *universal = rocksdb_universal_compaction_options_create();
    rocksdb_universal_compaction_options_set_min_merge_width(universal, MERGE_WIDTH);
    rocksdb_options_set_universal_compaction_options(options, universal);
    rocksdb_universal_compaction_options_destroy(universal);
    rocksdb_options_set_level0_file_num_compaction_trigger(options, SORTED_RUNS);
    rocksdb_options_set_prefix_extractor(
        options, rocksdb_slicetransform_create(NULL, prefix_destroy, prefix_of, prefix_has, prefix_is, prefix_name));
    rocksdb_options_set_memtable_prefix_bloom_size_ratio(options, 0.02);
    set_table(self, options);
    if (self->env != NULL)
        rocksdb_options_set_env(options, self->env);
    return options;
}

/* In the same table as what follows it: whatever is found of that, the stamp is found too. */
enum sluice_status cold_use_format(struct cold *self, uint32_t format)
{
    const struct cold_stamp stamp = {.magic = COLD_STAMP_MAGIC, .format = format};
    char *failure = NULL;
    ASSERT(format <= COLD_FORMAT);
    if (format <= self->format)
        return SLUICE_OK;
    rocksdb_writeoptions_t *write = rocksdb_writeoptions_create();
    rocksdb_writeoptions_disable_WAL(write, 1);
    rocksdb_put(self->db, write, "V", 1, (const char *)&stamp, sizeof(stamp), &failure);
    rocksdb_writeoptions_destroy(write);
    if (failure != NULL)
        return cold__error("writing the format", failure);
    self->format = format;
    return SLUICE_OK;
}

static enum sluice_status check_stamp(struct cold *self, char *error, size_t error_size)
{
    char *failure = NULL;
    size_t size = 0;
    char *found = rocksdb_get(self->db, self->point, "V", 1, &size, &failure);
    if (failure != NULL) {
        snprintf(error, error_size, "the store cannot be read: %s", failure);
        return cold__error("reading the format", failure);
    }
    if (found == NULL)
        return cold_use_format(self, release_formats_at(0)->store);
    struct cold_stamp stamp = {0};
    if (size == sizeof(stamp))
        memcpy(&stamp, found, sizeof(stamp));
    rocksdb_free(found);
    if (stamp.magic != COLD_STAMP_MAGIC || stamp.format == 0) {
        snprintf(error, error_size, "the store does not say which format it has");
        return SLUICE_CORRUPT;
    }
    self->format = stamp.format;
    if (stamp.format <= COLD_FORMAT)
        return SLUICE_OK;
    snprintf(error, error_size, "the store has format %u, this release reads %u; use the release that wrote it",
             stamp.format, COLD_FORMAT);
    return SLUICE_VERSION;
}

/* RocksDB takes a directory without the file CURRENT for an empty one, and clears away tables that nothing names. */
static bool holds_orphans(DIR *directory)
{
    bool current = false, tables = false;
    struct dirent *entry;
    while ((entry = readdir(directory)) != NULL) {
        const char *ending = strrchr(entry->d_name, '.');
        if (strcmp(entry->d_name, "CURRENT") == 0)
            current = true;
        if (strncmp(entry->d_name, "MANIFEST-", 9) == 0)
            tables = true;
        if (ending != NULL && (strcmp(ending, ".sst") == 0 || strcmp(ending, ".blob") == 0))
            tables = true;
    }
    return tables && !current;
}

static enum sluice_status check_directory(const char *path, char *error, size_t error_size)
{
    if (mkdir(path, 0700) != 0 && errno != EEXIST) {
        snprintf(error, error_size, "cannot create the directory %s: %s", path, strerror(errno));
        return SLUICE_IO;
    }
    DIR *directory = opendir(path);
    if (directory == NULL) {
        snprintf(error, error_size, "cannot read the directory %s: %s; name another one for the store", path,
                 strerror(errno));
        return SLUICE_IO;
    }
    bool orphans = holds_orphans(directory);
    closedir(directory);
    if (!orphans)
        return SLUICE_OK;
    snprintf(
        error, error_size,
        "the store in %s has lost its file CURRENT; restore the directory, or move it away to fetch all from the peers",
        path);
    return SLUICE_CORRUPT;
}

enum sluice_status cold_open(struct cold *self, const struct store_options *options, char *error, size_t error_size)
{
    *self = (struct cold){.until = UINT64_MAX};
    if (!options->memory) {
        enum sluice_status checked = check_directory(options->path, error, error_size);
        if (checked != SLUICE_OK)
            return checked;
    }
    if (options->memory)
        self->env = rocksdb_create_mem_env();
    self->cache = rocksdb_cache_create_lru(options->cache_bytes == 0 ? CACHE_BYTES : options->cache_bytes);
    self->point = rocksdb_readoptions_create();
    rocksdb_readoptions_set_prefix_same_as_start(self->point, 1);

    self->walk = rocksdb_readoptions_create();
    rocksdb_readoptions_set_total_order_seek(self->walk, 1);
    self->options = make_options(self, options->blob_bytes_min == 0 ? BLOB_BYTES_MIN : options->blob_bytes_min);
    char *failure = NULL;
    self->db = rocksdb_open(self->options, options->path, &failure);
    enum sluice_status status;
    if (failure != NULL) {
        snprintf(error, error_size, "the store in %s cannot be opened: %s", options->path, failure);
        status = cold__error("opening", failure);
        self->db = NULL;
        cold_close(self);
        return status;
    }
    status = check_stamp(self, error, error_size);
    if (status != SLUICE_OK)
        cold_close(self);
    return status;
}

void cold_close(struct cold *self)
{
    if (self->db != NULL)
        rocksdb_close(self->db);
    rocksdb_options_destroy(self->options);
    rocksdb_readoptions_destroy(self->point);
    rocksdb_readoptions_destroy(self->walk);
    rocksdb_cache_destroy(self->cache);
    if (self->env != NULL)
        rocksdb_env_destroy(self->env);
    *self = (struct cold){0};
}

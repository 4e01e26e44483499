/* Gives the space of erased groups back. Blob files hold entries of many groups, so what is left of a file must be
 * moved before the file can go: that is done once as much is dead as alive, which bounds what it costs, and by a thread
 * of its own, since it may take long. */
#include <string.h>

#include "core/base/log.h"
#include "core/versions/store__.h"

#define FORCE_BOTTOMMOST 2 /* RocksDB's kForce: what lies deepest is rewritten too */

/* Rewrites the keys of all entries; with blob collection on, the values with them. */
static void rewrite_entries(struct store *self)
{
    rocksdb_compactoptions_t *options = rocksdb_compactoptions_create();
    rocksdb_compactoptions_set_exclusive_manual_compaction(options, 0);
    rocksdb_compactoptions_set_bottommost_level_compaction(options, FORCE_BOTTOMMOST);
    rocksdb_compact_range_opt(self->cold.db, options, "E", 1, "F", 1);
    rocksdb_compactoptions_destroy(options);
}

static void set_collection(struct store *self, bool on)
{
    const char *const keys[] = {"enable_blob_garbage_collection", "blob_garbage_collection_age_cutoff"};
    const char *const values[] = {on ? "true" : "false", on ? "1.0" : "0.25"};
    char *failure = NULL;
    rocksdb_set_options(self->cold.db, 2, keys, values, &failure);
    if (failure != NULL) {
        LOG_WARN("store", "blob collection cannot be switched: %s", failure);
        rocksdb_free(failure);
    }
}

static void reclaim_once(struct store *self)
{
    uint64_t bytes = 0, dead = 0, total;
    rewrite_entries(self); /* until the keys are gone nobody knows which values are dead */
    if (rocksdb_property_int(self->cold.db, "rocksdb.live-blob-file-size", &bytes) != 0 ||
        rocksdb_property_int(self->cold.db, "rocksdb.live-blob-file-garbage-size", &dead) != 0)
        return;
    if (dead == 0 || dead < bytes / 3)
        return;
    if (self->cold.env == NULL && store_free_bytes(self->path, &total) < bytes - dead) {
        LOG_WARN("store", "%llu MiB of erased groups stay on the disk: there is no room to move their neighbours",
                 (unsigned long long)(dead >> 20));
        return;
    }
    set_collection(self, true);
    rewrite_entries(self);
    set_collection(self, false);
    LOG_INFO("store", "%llu MiB of erased groups were given back", (unsigned long long)(dead >> 20));
}

static void *reclaim_run(void *arg)
{
    struct store *self = arg;
    bool again = true;
    while (again) {
        reclaim_once(self);
        pthread_mutex_lock(&self->mutex);
        again = self->reclaim_again && !self->stop;
        self->reclaim_again = false;
        self->reclaim_runs = again;
        pthread_mutex_unlock(&self->mutex);
    }
    return NULL;
}

void store__reclaim(struct store *self)
{
    pthread_mutex_lock(&self->mutex);
    bool runs = self->reclaim_runs, was_started = self->reclaim_started;
    self->reclaim_again = runs;
    self->reclaim_runs = true;
    self->reclaim_started = true;
    pthread_mutex_unlock(&self->mutex);
    if (runs)
        return;
    if (was_started)
        pthread_join(self->reclaim_thread, NULL);
    if (pthread_create(&self->reclaim_thread, NULL, reclaim_run, self) == 0)
        return;
    LOG_WARN("store", "no thread could be had to give the space of an erased group back");
    pthread_mutex_lock(&self->mutex);
    self->reclaim_runs = self->reclaim_started = false;
    pthread_mutex_unlock(&self->mutex);
}

void store__reclaim_stop(struct store *self)
{
    if (!self->reclaim_started)
        return;
    rocksdb_disable_manual_compaction(self->cold.db);
    pthread_join(self->reclaim_thread, NULL);
}

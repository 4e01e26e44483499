/* A disk in memory that can fail, tear a write and lose power, for the log's tests. */
#ifndef TESTS_VERSIONS_DISK_H
#define TESTS_VERSIONS_DISK_H

#include <stdbool.h>
#include <stdint.h>

#include "core/base/random.h"
#include "core/versions/wal.h"

#define DISK_SEGMENTS_MAX 256u

struct disk_segment {
    uint64_t number;
    uint8_t *data;
    uint64_t size;
};

/* What happens to the write after which power is lost: sectors are kept or lost one by one. */
enum disk_tear { DISK_TEAR_NOTHING_WRITTEN, DISK_TEAR_PREFIX, DISK_TEAR_SECTORS, DISK_TEAR_ALL_WRITTEN };

struct disk {
    uint64_t segment_bytes;
    struct disk_segment segments[DISK_SEGMENTS_MAX];
    uint32_t count;
    struct random *random;
    uint64_t operations;    /* done so far */
    uint64_t power_lost_at; /* the operation (create, recycle, remove, write) that power is lost in; 0: never */
    uint64_t fails_at;      /* the operation that fails, and all after it do; 0: never */
    enum sluice_status failure;
    bool powerless;
    uint64_t last_number, last_offset; /* of the last write, and how long it was */
    uint32_t last_size;
    uint64_t bytes_written;
    uint64_t room;       /* so many segments may exist; 0: any number */
    uint64_t bad_number; /* reads that touch this block of this segment fail */
    uint64_t bad_offset;
};

void disk_init(struct disk *self, uint64_t segment_bytes, struct random *random);
void disk_deinit(struct disk *self);
/* A deep copy, with power. */
void disk_copy(struct disk *self, const struct disk *from);
/* The device; closing it keeps the disk. */
struct wal_device disk_device(struct disk *self);
struct disk_segment *disk_find(struct disk *self, uint64_t number);

#endif

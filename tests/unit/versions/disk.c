#include "disk.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/log.h"

#define SECTOR 512u

void disk_init(struct disk *self, uint64_t segment_bytes, struct random *random)
{
    log_set_level(LOG_LEVEL_ERROR);
    *self = (struct disk){.segment_bytes = segment_bytes, .random = random, .failure = SLUICE_IO};
}

void disk_deinit(struct disk *self)
{
    for (uint32_t i = 0; i < self->count; i++)
        free(self->segments[i].data);
    self->count = 0;
}

void disk_copy(struct disk *self, const struct disk *from)
{
    *self = *from;
    self->powerless = false;
    self->power_lost_at = self->fails_at = 0;
    for (uint32_t i = 0; i < self->count; i++) {
        self->segments[i].data = malloc(from->segments[i].size);
        memcpy(self->segments[i].data, from->segments[i].data, from->segments[i].size);
    }
}

struct disk_segment *disk_find(struct disk *self, uint64_t number)
{
    for (uint32_t i = 0; i < self->count; i++)
        if (self->segments[i].number == number)
            return &self->segments[i];
    return NULL;
}

/* Counts an operation; false when it does not happen. */
static bool goes_through(struct disk *self)
{
    self->operations++;
    if (self->power_lost_at != 0 && self->operations >= self->power_lost_at)
        self->powerless = true;
    return !self->powerless && (self->fails_at == 0 || self->operations < self->fails_at);
}

static enum sluice_status list(void *context, uint64_t *numbers, uint32_t *count)
{
    struct disk *self = context;
    uint32_t room = *count;
    *count = self->count;
    for (uint32_t i = 0; i < self->count && i < room; i++)
        numbers[i] = self->segments[i].number;
    return SLUICE_OK;
}

static enum sluice_status create(void *context, uint64_t number)
{
    struct disk *self = context;
    cr_assert_null(disk_find(self, number), "segment %llu is there already", (unsigned long long)number);
    cr_assert_lt(self->count, DISK_SEGMENTS_MAX);
    if (self->room != 0 && self->count >= self->room)
        return SLUICE_STORAGE_FULL;
    if (!goes_through(self))
        return self->failure;
    self->segments[self->count++] =
        (struct disk_segment){.number = number, .data = calloc(1, self->segment_bytes), .size = self->segment_bytes};
    return SLUICE_OK;
}

static enum sluice_status recycle(void *context, uint64_t from, uint64_t to)
{
    struct disk *self = context;
    struct disk_segment *segment = disk_find(self, from);
    cr_assert_not_null(segment);
    cr_assert_null(disk_find(self, to));
    if (!goes_through(self))
        return self->failure;
    segment->number = to;
    return SLUICE_OK;
}

static enum sluice_status remove_segment(void *context, uint64_t number)
{
    struct disk *self = context;
    struct disk_segment *segment = disk_find(self, number);
    cr_assert_not_null(segment);
    if (!goes_through(self))
        return self->failure;
    free(segment->data);
    *segment = self->segments[--self->count];
    return SLUICE_OK;
}

static enum sluice_status read_segment(void *context, uint64_t number, uint64_t offset, void *data, uint32_t size)
{
    struct disk *self = context;
    struct disk_segment *segment = disk_find(self, number);
    cr_assert_not_null(segment);
    cr_assert_eq(offset % 4096, 0);
    cr_assert_eq(size % 4096, 0);
    cr_assert_eq((uintptr_t)data % 4096, 0);
    memset(data, 0, size);
    if (self->bad_number == number && self->bad_offset >= offset && self->bad_offset < offset + size)
        return SLUICE_IO;
    if (offset < segment->size)
        memcpy(data, segment->data + offset, segment->size - offset < size ? segment->size - offset : size);
    return SLUICE_OK;
}

/* Power goes while the write is under way: its sectors reach the medium in any order, or do not. */
static void tear(struct disk *self, uint8_t *at, const uint8_t *data, uint32_t size)
{
    enum disk_tear kind = (enum disk_tear)random_below(self->random, 4);
    uint32_t prefix = (uint32_t)random_below(self->random, size / SECTOR + 1) * SECTOR;
    for (uint32_t offset = 0; offset < size; offset += SECTOR) {
        bool kept = kind == DISK_TEAR_ALL_WRITTEN || (kind == DISK_TEAR_PREFIX && offset < prefix) ||
                    (kind == DISK_TEAR_SECTORS && random_below(self->random, 2) == 0);
        if (kept)
            memcpy(at + offset, data + offset, SECTOR);
    }
}

static enum sluice_status write_segment(void *context, uint64_t number, uint64_t offset, const void *data,
                                        uint32_t size)
{
    struct disk *self = context;
    struct disk_segment *segment = disk_find(self, number);
    cr_assert_not_null(segment);
    cr_assert_eq(offset % 4096, 0);
    cr_assert_eq(size % 4096, 0);
    cr_assert_gt(size, 0);
    cr_assert_eq((uintptr_t)data % 4096, 0);
    /* Only a batch that fits no segment may make one longer. */
    cr_assert(offset + size <= segment->size || offset == 0);
    if (offset + size > segment->size) {
        segment->data = realloc(segment->data, offset + size);
        memset(segment->data + segment->size, 0, offset + size - segment->size);
        segment->size = offset + size;
    }
    bool had_power = !self->powerless;
    if (!goes_through(self)) {
        if (had_power && self->powerless)
            tear(self, segment->data + offset, data, size);
        return self->failure;
    }
    memcpy(segment->data + offset, data, size);
    self->last_number = number;
    self->last_offset = offset;
    self->last_size = size;
    self->bytes_written += size;
    return SLUICE_OK;
}

static enum sluice_status size_of(void *context, uint64_t number, uint64_t *bytes)
{
    struct disk_segment *segment = disk_find(context, number);
    cr_assert_not_null(segment);
    *bytes = segment->size;
    return SLUICE_OK;
}

static void close_disk(void *context)
{
    (void)context;
}

struct wal_device disk_device(struct disk *self)
{
    return (struct wal_device){.context = self,
                               .segment_bytes = self->segment_bytes,
                               .list = list,
                               .create = create,
                               .recycle = recycle,
                               .remove = remove_segment,
                               .read = read_segment,
                               .write = write_segment,
                               .close = close_disk,
                               .size = size_of};
}

/* Segments of a simulated disk. */
#include <stdlib.h>
#include <string.h>

#include "tests/sim/sim.h"

static struct sim_segment *find(struct sim_disk *self, uint64_t number)
{
    for (uint32_t i = 0; i < self->segment_count; i++)
        if (self->segments[i].number == number)
            return &self->segments[i];
    return NULL;
}

static void note_write(struct sim_disk *self, uint64_t number, uint64_t offset, uint32_t size)
{
    if (self->written_count == self->written_capacity) {
        self->written_capacity = self->written_capacity == 0 ? 256 : 2 * self->written_capacity;
        self->written = realloc(self->written, self->written_capacity * sizeof(*self->written));
        ASSERT(self->written != NULL);
    }
    self->written[self->written_count++] = (struct sim_written){number, offset, size};
}

static void forget_writes(struct sim_disk *self, uint64_t number)
{
    size_t kept = 0;
    for (size_t i = 0; i < self->written_count; i++)
        if (self->written[i].number != number)
            self->written[kept++] = self->written[i];
    self->written_count = kept;
}

static enum sluice_status device_list(void *context, uint64_t *numbers, uint32_t *count)
{
    struct sim_disk *self = context;
    for (uint32_t i = 0; i < self->segment_count && i < *count; i++)
        numbers[i] = self->segments[i].number;
    *count = self->segment_count;
    return SLUICE_OK;
}

static enum sluice_status device_create(void *context, uint64_t number)
{
    struct sim_disk *self = context;
    if (self->dead)
        return SLUICE_IO;
    ASSERT(find(self, number) == NULL);
    self->segments = realloc(self->segments, (self->segment_count + 1) * sizeof(*self->segments));
    uint8_t *bytes = calloc(1, WAL_SEGMENT_BYTES_MIN);
    ASSERT(self->segments != NULL && bytes != NULL);
    self->segments[self->segment_count++] =
        (struct sim_segment){.number = number, .size = WAL_SEGMENT_BYTES_MIN, .bytes = bytes};
    return SLUICE_OK;
}

static enum sluice_status device_recycle(void *context, uint64_t from, uint64_t to)
{
    struct sim_disk *self = context;
    struct sim_segment *segment = find(self, from);
    if (self->dead || segment == NULL)
        return SLUICE_IO;
    ASSERT(find(self, to) == NULL);
    forget_writes(self, from);
    segment->number = to;
    sim.totals.recycled++;
    return SLUICE_OK;
}

static enum sluice_status device_remove(void *context, uint64_t number)
{
    struct sim_disk *self = context;
    struct sim_segment *segment = find(self, number);
    if (self->dead || segment == NULL)
        return SLUICE_IO;
    forget_writes(self, number);
    free(segment->bytes);
    *segment = self->segments[--self->segment_count];
    return SLUICE_OK;
}

static enum sluice_status device_read(void *context, uint64_t number, uint64_t offset, void *data, uint32_t size)
{
    struct sim_disk *self = context;
    const struct sim_segment *segment = find(self, number);
    if (segment == NULL)
        return SLUICE_NOT_FOUND;
    if (segment->bad_size > 0 && offset < segment->bad_offset + segment->bad_size &&
        segment->bad_offset < offset + size)
        return SLUICE_IO;
    uint64_t there = offset >= segment->size ? 0 : segment->size - offset;
    uint32_t taken = there < size ? (uint32_t)there : size;
    if (taken > 0)
        memcpy(data, segment->bytes + offset, taken);
    memset((uint8_t *)data + taken, 0, size - taken);
    return SLUICE_OK;
}

/* Some of the sectors reach the medium, in any order: a first part of them, or a random choice. */
static void write_torn(struct sim_segment *segment, uint64_t offset, const uint8_t *data, uint32_t size)
{
    uint32_t sectors = size / SIM_SECTOR_BYTES, first = (uint32_t)random_below(&sim.random, sectors + 1);
    bool in_order = random_below(&sim.random, 2) == 0;
    for (uint32_t i = 0; i < sectors; i++) {
        if (in_order ? i >= first : random_below(&sim.random, 2) == 0)
            continue;
        memcpy(segment->bytes + offset + (uint64_t)i * SIM_SECTOR_BYTES, data + (size_t)i * SIM_SECTOR_BYTES,
               SIM_SECTOR_BYTES);
    }
    sim.totals.torn++;
}

static enum sluice_status device_write(void *context, uint64_t number, uint64_t offset, const void *data, uint32_t size)
{
    struct sim_disk *self = context;
    struct sim_segment *segment = find(self, number);
    if (self->dead || segment == NULL)
        return SLUICE_IO;
    if (offset + size > segment->size) {
        segment->bytes = realloc(segment->bytes, offset + size);
        ASSERT(segment->bytes != NULL);
        memset(segment->bytes + segment->size, 0, offset + size - segment->size);
        segment->size = offset + size;
    }
    self->broken = !self->tear && sim_fault(sim.faults.write_error) && sim_may_crash();
    sim.totals.write_errors += self->broken;
    if (self->tear || self->broken) {
        write_torn(segment, offset, data, size);
        self->dead = true;
        return SLUICE_IO;
    }
    memcpy(segment->bytes + offset, data, size);
    if (offset <= segment->bad_offset && segment->bad_offset + segment->bad_size <= offset + size)
        segment->bad_size = 0; /* the medium has put other sectors in their place */
    note_write(self, number, offset, size);
    return SLUICE_OK;
}

static enum sluice_status device_size(void *context, uint64_t number, uint64_t *bytes)
{
    const struct sim_segment *segment = find(context, number);
    if (segment == NULL)
        return SLUICE_NOT_FOUND;
    *bytes = segment->size;
    return SLUICE_OK;
}

static void device_close(void *context)
{
    (void)context; /* the segments outlive the process */
}

struct wal_device sim_device(struct sim_disk *disk)
{
    return (struct wal_device){
        .context = disk,
        .segment_bytes = WAL_SEGMENT_BYTES_MIN,
        .list = device_list,
        .create = device_create,
        .recycle = device_recycle,
        .remove = device_remove,
        .read = device_read,
        .write = device_write,
        .close = device_close,
        .size = device_size,
    };
}

/* Any but the one that was written last. */
static bool lose_segment(struct sim_disk *disk)
{
    uint64_t last = disk->written[disk->written_count - 1].number;
    uint32_t at = (uint32_t)random_below(&sim.random, disk->segment_count);
    uint64_t number = disk->segments[at].number;
    if (number >= last)
        return false;
    forget_writes(disk, number);
    free(disk->segments[at].bytes);
    disk->segments[at] = disk->segments[--disk->segment_count];
    return true;
}

enum sim_lie sim_device_damage(struct sim_disk *disk)
{
    if (disk->written_count < 2)
        return SIM_LIE_NONE;
    const struct sim_written *write = &disk->written[random_below(&sim.random, disk->written_count - 1)];
    const struct sim_written *other = &disk->written[random_below(&sim.random, disk->written_count - 1)];
    struct sim_segment *segment = find(disk, write->number), *elsewhere = find(disk, other->number);
    uint8_t *bytes = segment->bytes + write->offset;
    switch (random_below(&sim.random, 5)) {
    case 0:
        for (uint64_t flips = 1 + random_below(&sim.random, 3); flips > 0; flips--)
            bytes[random_below(&sim.random, write->size)] ^= (uint8_t)(1u << random_below(&sim.random, 8));
        return SIM_FLIPPED;
    case 1:
        memset(bytes, 0, write->size);
        return SIM_LOST;
    case 2:
        if (write != other)
            memcpy(elsewhere->bytes + other->offset, bytes, write->size < other->size ? write->size : other->size);
        memset(bytes, 0, write->size);
        return SIM_MISDIRECTED;
    case 3:
        segment->bad_offset = write->offset;
        segment->bad_size = write->size;
        return SIM_UNREADABLE;
    default:
        return lose_segment(disk) ? SIM_MISSING : SIM_LIE_NONE;
    }
}

void sim_device_copy(const struct sim_disk *disk, struct sim_disk *out)
{
    *out = (struct sim_disk){.segment_count = disk->segment_count, .written_count = disk->written_count};
    out->segments = calloc(disk->segment_count + 1, sizeof(*out->segments));
    out->written = calloc(disk->written_count + 1, sizeof(*out->written));
    ASSERT(out->segments != NULL && out->written != NULL);
    if (disk->written_count > 0)
        memcpy(out->written, disk->written, disk->written_count * sizeof(*out->written));
    for (uint32_t i = 0; i < disk->segment_count; i++) {
        out->segments[i] = disk->segments[i];
        out->segments[i].bytes = malloc(disk->segments[i].size);
        ASSERT(out->segments[i].bytes != NULL);
        memcpy(out->segments[i].bytes, disk->segments[i].bytes, disk->segments[i].size);
    }
}

void sim_device_wipe(struct sim_disk *disk)
{
    for (uint32_t i = 0; i < disk->segment_count; i++)
        free(disk->segments[i].bytes);
    free(disk->segments);
    disk->segments = NULL;
    disk->segment_count = 0;
    disk->written_count = 0;
}

void sim_device_free(struct sim_disk *disk)
{
    sim_device_wipe(disk);
    free(disk->written);
}

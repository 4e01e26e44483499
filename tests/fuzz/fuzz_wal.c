/* A log's segments as a damaged disk or a hostile one may hold them. Opening gives an answer; where it is OK, the log
 * goes on, and what is acknowledged after that is there at the next opening.
 *
 * The input is read as a program: it writes batches (whole, with true checksums, with fields of its choice), or raw
 * bytes over what is there. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/crc.h"
#include "core/base/log.h"
#include "core/base/panic.h"
#include "core/versions/wal_format.h"

#define SEGMENT_BYTES 65536u
#define SEGMENTS_MAX  16u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct segment {
    uint64_t number;
    uint8_t *data;
    uint64_t size;
};

struct disk {
    struct segment segments[SEGMENTS_MAX];
    uint32_t count;
};

static struct segment *find(struct disk *disk, uint64_t number)
{
    for (uint32_t i = 0; i < disk->count; i++)
        if (disk->segments[i].number == number)
            return &disk->segments[i];
    return NULL;
}

static enum sluice_status list(void *context, uint64_t *numbers, uint32_t *count)
{
    struct disk *disk = context;
    for (uint32_t i = 0; i < disk->count && i < *count; i++)
        numbers[i] = disk->segments[i].number;
    *count = disk->count;
    return SLUICE_OK;
}

static enum sluice_status create(void *context, uint64_t number)
{
    struct disk *disk = context;
    ASSERT(find(disk, number) == NULL);
    if (disk->count == SEGMENTS_MAX)
        return SLUICE_STORAGE_FULL;
    disk->segments[disk->count++] =
        (struct segment){.number = number, .data = calloc(1, SEGMENT_BYTES), .size = SEGMENT_BYTES};
    return SLUICE_OK;
}

static enum sluice_status recycle(void *context, uint64_t from, uint64_t to)
{
    ASSERT(find(context, to) == NULL);
    find(context, from)->number = to;
    return SLUICE_OK;
}

static enum sluice_status remove_segment(void *context, uint64_t number)
{
    struct disk *disk = context;
    struct segment *segment = find(disk, number);
    free(segment->data);
    *segment = disk->segments[--disk->count];
    return SLUICE_OK;
}

static enum sluice_status read_segment(void *context, uint64_t number, uint64_t offset, void *data, uint32_t size)
{
    struct segment *segment = find(context, number);
    memset(data, 0, size);
    if (offset < segment->size)
        memcpy(data, segment->data + offset, segment->size - offset < size ? segment->size - offset : size);
    return SLUICE_OK;
}

static enum sluice_status write_segment(void *context, uint64_t number, uint64_t offset, const void *data,
                                        uint32_t size)
{
    struct segment *segment = find(context, number);
    ASSERT(offset + size <= segment->size);
    memcpy(segment->data + offset, data, size);
    return SLUICE_OK;
}

static enum sluice_status size_of(void *context, uint64_t number, uint64_t *bytes)
{
    *bytes = find(context, number)->size;
    return SLUICE_OK;
}

static void close_disk(void *context)
{
    (void)context;
}

static struct wal_device device_of(struct disk *disk)
{
    return (struct wal_device){.context = disk,
                               .segment_bytes = SEGMENT_BYTES,
                               .list = list,
                               .create = create,
                               .recycle = recycle,
                               .remove = remove_segment,
                               .read = read_segment,
                               .write = write_segment,
                               .close = close_disk,
                               .size = size_of};
}

struct input {
    const uint8_t *data;
    size_t size;
};

static uint8_t take(struct input *input)
{
    if (input->size == 0)
        return 0;
    input->size--;
    return *input->data++;
}

/* Records as the input says: mostly well formed. */
static void put_records(struct input *input, struct wal_buffer *buffer)
{
    for (uint8_t count = take(input) % 6; count > 0; count--) {
        uint8_t *data;
        uint8_t kind = take(input);
        struct wal_record record = {.type = (enum wal_record_type)(1 + kind % 5),
                                    .group = take(input) % 4,
                                    .epoch = take(input) % 3,
                                    .ballot = take(input)};
        if (kind >= 224) { /* a type, a size and bytes of its own */
            uint32_t size = take(input);
            ASSERT(wal_encode_raw(buffer, take(input) % 70, size, &data) == SLUICE_OK);
            for (uint32_t i = 0; i < size; i++)
                data[i] = take(input);
        } else if (kind >= 192) { /* a checkpoint */
            struct wal_checkpoint head = {take(input) % 4, take(input) % 3, take(input) % 3, take(input) % 3};
            uint32_t words = head.promise_count + head.ceiling_count + head.forget_count;
            uint32_t size = (uint32_t)(sizeof(head) + head.segment_count * sizeof(struct wal_checkpoint_segment) +
                                       words * sizeof(struct wal_words));
            ASSERT(wal_encode_raw(buffer, WAL__CHECKPOINT, size, &data) == SLUICE_OK);
            memcpy(data, &head, sizeof(head));
            for (uint32_t i = sizeof(head); i < size; i++)
                data[i] = i % 8 == 0 ? take(input) % 8 : 0;
        } else {
            uint32_t size = kind % 3 * 50u;
            record.entry = (struct entry){.index = take(input) % 32,
                                          .group = record.group,
                                          .epoch = record.epoch,
                                          .ballot = record.ballot,
                                          .kind = ENTRY_COMMAND};
            record.entry.body = size == 0 ? NULL : buf_create(size);
            if (size > 0) {
                memset(record.entry.body->data, kind, size);
                record.entry.body_crc = crc32c(record.entry.body->data, size);
            }
            ASSERT(wal_encode(buffer, &record) == SLUICE_OK);
            buf_unref(record.entry.body);
        }
    }
}

static void put_batch(struct input *input, struct disk *disk, uint64_t *sequence, uint32_t *at, uint64_t *offset)
{
    struct wal_buffer buffer = {0};
    ASSERT(wal_batch_begin(&buffer) == SLUICE_OK);
    put_records(input, &buffer);
    uint8_t twist = take(input);
    if (twist % 16 == 1)
        ++*sequence;
    struct wal_batch_header header = {
        .log = twist % 64 == 2 ? 8 : 7, .sequence = ++*sequence, .offset = *offset, .record_count = 1};
    if (disk->count == 0 || *offset + wal_block_round(buffer.size) > SEGMENT_BYTES || twist % 8 == 3) {
        if (disk->count == SEGMENTS_MAX - 6) {
            wal_buffer_free(&buffer);
            return;
        }
        ASSERT(create(disk, disk->count + 1) == SLUICE_OK);
        *at = disk->count - 1;
        header.offset = *offset = 0;
    }
    header.segment = disk->segments[*at].number - (twist % 64 == 5); /* as a recycled segment's do */
    ASSERT(wal_batch_end(&buffer, &header) == SLUICE_OK);
    size_t size = twist % 32 == 6 ? buffer.size / 2 : buffer.size; /* torn */
    if (*offset + buffer.size <= SEGMENT_BYTES)
        memcpy(disk->segments[*at].data + *offset, buffer.data, size);
    *offset += buffer.size;
    wal_buffer_free(&buffer);
}

static void see(void *arg, const struct wal_record *record)
{
    uint64_t *highest = arg;
    ASSERT(record->type >= WAL_ENTRY && record->type <= WAL_STABLE);
    if (record->type != WAL_ENTRY)
        return;
    if (record->entry.body != NULL)
        ASSERT(crc32c(record->entry.body->data, record->entry.body->size) == record->entry.body_crc);
    if (record->group == 9)
        *highest = record->entry.index;
}

/* Opens, appends one entry of group 9; false when the log is refused. */
static bool go_on(struct disk *disk, uint64_t *highest)
{
    struct wal_options options = {.device = device_of(disk)};
    struct wal *wal;
    char error[512] = "";
    uint64_t before = *highest;
    *highest = 0;
    enum sluice_status status = wal_open(&options, see, highest, &wal, error, sizeof(error)), failure;
    if (status != SLUICE_OK) {
        ASSERT(status == SLUICE_CORRUPT && error[0] != 0);
        return false;
    }
    ASSERT(*highest == before);
    const struct wal_record record = {.type = WAL_ENTRY,
                                      .group = 9,
                                      .epoch = 1,
                                      .ballot = 1,
                                      .entry = {.index = ++*highest, .group = 9, .epoch = 1, .ballot = 1}};
    ASSERT(wal_append(wal, &record) == SLUICE_OK);
    uint64_t ticket = wal_submit(wal);
    wal_flush(wal);
    ASSERT(wal_completed(wal, &failure) == ticket && failure == SLUICE_OK);
    for (uint32_t group = 0; group < 4; group++)
        wal_release(wal, group, 32);
    wal_close(wal);
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input input = {data, size};
    struct disk disk = {.count = 0};
    uint64_t sequence = 0, offset = 0, highest = 0;
    uint32_t at = 0;
    log_set_level(LOG_LEVEL_NONE);
    while (input.size > 0) {
        uint8_t what = take(&input);
        if (what < 224 || disk.count == 0) {
            put_batch(&input, &disk, &sequence, &at, &offset);
        } else { /* bytes over what is there */
            struct segment *segment = &disk.segments[take(&input) % disk.count];
            uint64_t place = (uint64_t)take(&input) * 256 + take(&input);
            for (uint8_t count = take(&input) % 16; count > 0; count--)
                segment->data[place++ % SEGMENT_BYTES] = take(&input);
        }
    }
    if (go_on(&disk, &highest))
        for (int i = 0; i < 3; i++)
            ASSERT(go_on(&disk, &highest));
    for (uint32_t i = 0; i < disk.count; i++)
        free(disk.segments[i].data);
    return 0;
}

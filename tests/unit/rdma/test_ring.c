/* The ring alone: no link, no socket. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/base/crc.h"
#include "core/base/random.h"
#include "core/rdma/ring.h"

#define RING_BYTES  (64u << 10)
#define MESSAGE_MAX (1u << 20)

struct fixture {
    struct ring__memory memory;
    struct ring__reader reader;
    struct ring__writer writer;
};

static void setup(struct fixture *self)
{
    cr_assert_eq(ring__memory_create(RING_BYTES, &self->memory), SLUICE_OK);
    ring__reader_init(&self->reader, &self->memory, MESSAGE_MAX);
    ring__writer_init(&self->writer, RING_BYTES);
}

static void teardown(struct fixture *self)
{
    ring__reader_deinit(&self->reader);
    ring__memory_close(&self->memory);
}

/* Places the next frame; returns how much of the message it took, or -1 when there is no room. */
static int64_t place(struct fixture *self, const uint8_t *message, uint32_t total, uint32_t placed)
{
    struct ring__plan plan;
    if (!ring__plan(&self->writer, total, placed, &plan))
        return -1;
    uint8_t *at = self->memory.bytes + (self->writer.tail & (RING_BYTES - 1));
    memcpy(at, plan.header, plan.header_size);
    memcpy(at + plan.header_size, message + placed, plan.payload_size);
    self->writer.tail += ring__plan_bytes(&plan);
    self->writer.published = self->writer.tail;
    return plan.payload_size;
}

/* Writes one frame as a broken peer would. */
static void scribble(struct fixture *self, uint32_t size, uint8_t kind, const void *payload, uint32_t payload_size)
{
    struct ring__frame frame = {.size = size, .kind = kind};
    uint8_t *at = self->memory.bytes + (self->writer.tail & (RING_BYTES - 1));
    memcpy(at, &frame, sizeof(frame));
    if (payload_size)
        memcpy(at + sizeof(frame), payload, payload_size);
    self->writer.tail += sizeof(frame) + ring__align(payload_size);
}

static enum ring__result take(struct fixture *self, const uint8_t **data, uint32_t *size, const char **why)
{
    *why = "";
    enum ring__result result = ring__read(&self->reader, self->writer.tail, data, size, why);
    return result;
}

Test(ring, messages_of_any_size_arrive_whole_and_in_order)
{
    struct fixture ring;
    setup(&ring);
    uint64_t seed = random_os();
    cr_log_info("seed %lu", seed);
    struct random random;
    random_seed(&random, seed);
    static uint8_t message[MESSAGE_MAX];
    for (size_t i = 0; i < sizeof(message); i += 8) {
        uint64_t word = random_next(&random);
        memcpy(message + i, &word, 8);
    }
    for (int round = 0; round < 3000; round++) {
        uint32_t total = 1 + (uint32_t)random_below(&random, random_chance(&random, 50000) ? MESSAGE_MAX - 1 : 20000);
        uint32_t placed = 0;
        bool arrived = false;
        while (!arrived) {
            int64_t took = placed < total ? place(&ring, message, total, placed) : -1;
            if (took >= 0)
                placed += (uint32_t)took;
            if (took >= 0 && random_chance(&random, 500000))
                continue;
            const uint8_t *data;
            uint32_t size;
            const char *why;
            enum ring__result result = take(&ring, &data, &size, &why);
            cr_assert(result == RING__EMPTY || result == RING__PART || result == RING__MESSAGE, "%s", why);
            if (result == RING__MESSAGE) {
                cr_assert_eq(size, total);
                cr_assert_eq((uintptr_t)data & 7, 0);
                cr_assert(memcmp(data, message, size) == 0, "seed %lu round %d", seed, round);
                arrived = true;
            }
            if (result != RING__EMPTY)
                ring__release(&ring.reader);
            cr_assert(ring__credit(&ring.writer, ring.reader.head));
        }
        cr_assert_null(ring.reader.assembly);
    }
    teardown(&ring);
}

Test(ring, a_sender_without_room_has_more_than_half_the_ring_unread_before_it)
{
    struct fixture ring;
    setup(&ring);
    struct random random;
    uint64_t seed = random_os();
    cr_log_info("seed %lu", seed);
    random_seed(&random, seed);
    static uint8_t message[RING_BYTES];
    uint64_t credited = 0;
    unsigned blocked = 0;
    for (int i = 0; i < 20000; i++) {
        uint32_t total = (uint32_t)random_below(&random, RING_BYTES / 4 - 8);
        while (place(&ring, message, total, 0) < 0) {
            blocked++;
            cr_assert_gt(ring.writer.tail - ring.reader.head, RING_BYTES / 2, "seed %lu", seed);
            /* The receiver reads, and returns credit only by the quarter. */
            const uint8_t *data;
            uint32_t size;
            const char *why;
            cr_assert_eq(take(&ring, &data, &size, &why), RING__MESSAGE);
            ring__release(&ring.reader);
            if (ring.reader.head - credited >= RING_BYTES / 4)
                credited = ring.reader.head;
            cr_assert(ring__credit(&ring.writer, credited));
        }
    }
    cr_assert_gt(blocked, 1000);
    teardown(&ring);
}

Test(ring, what_crosses_the_end_lies_in_one_piece)
{
    struct ring__memory memory, other;
    cr_assert_eq(ring__memory_create(RING_BYTES, &memory), SLUICE_OK);
    memset(memory.bytes + RING_BYTES - 4, 'x', 8);
    __asm__ volatile("" ::: "memory"); /* two addresses, one byte: no compiler expects that */
    cr_assert_arr_eq(memory.bytes, "xxxx", 4);
    cr_assert_eq(ring__memory_open(memory.fd, RING_BYTES, &other), SLUICE_OK);
    cr_assert_arr_eq(other.bytes + RING_BYTES - 4, "xxxxxxxx", 8);
    ring__memory_close(&other);
    ring__memory_close(&memory);
}

Test(ring, memory_that_its_owner_could_shrink_or_of_another_size_is_refused)
{
    struct ring__memory memory, other;
    cr_assert_eq(ring__memory_create(RING_BYTES, &memory), SLUICE_OK);
    cr_assert_neq(ftruncate(memory.fd, 0), 0, "a ring must be sealed against shrinking");
    cr_assert_eq(ring__memory_open(memory.fd, 2 * RING_BYTES, &other), SLUICE_CORRUPT);
    cr_assert_eq(ring__memory_open(memory.fd, RING_BYTES - 1, &other), SLUICE_CORRUPT);
    cr_assert_eq(ring__memory_open(-1, RING_BYTES, &other), SLUICE_CORRUPT);
    ring__memory_close(&memory);
    int loose = memfd_create("loose", MFD_CLOEXEC);
    cr_assert_eq(ftruncate(loose, RING__CONTROL_BYTES + RING_BYTES), 0);
    cr_assert_eq(ring__memory_open(loose, RING_BYTES, &other), SLUICE_CORRUPT);
    close(loose);
}

static void refuses(const char *what, void (*write)(struct fixture *ring))
{
    struct fixture ring;
    setup(&ring);
    write(&ring);
    const uint8_t *data;
    uint32_t size;
    const char *why;
    enum ring__result result;
    while ((result = take(&ring, &data, &size, &why)) == RING__PART || result == RING__MESSAGE)
        ring__release(&ring.reader);
    cr_assert_eq(result, RING__BAD, "%s was not refused", what);
    cr_assert_neq(why[0], 0, "%s: no word why", what);
    teardown(&ring);
}

static void tail_beyond(struct fixture *ring)
{
    ring->writer.tail = RING_BYTES + 8;
}
static void tail_back(struct fixture *ring)
{
    ring->writer.tail = (uint64_t)-8;
}
static void tail_odd(struct fixture *ring)
{
    ring->writer.tail = 12;
}
static void frame_beyond(struct fixture *ring)
{
    scribble(ring, 64, RING__WHOLE, "cow", 3);
}
static void frame_huge(struct fixture *ring)
{
    scribble(ring, UINT32_MAX, RING__WHOLE, "cow", 3);
}
static void kind_none(struct fixture *ring)
{
    scribble(ring, 3, 0, "cow", 3);
}
static void kind_unknown(struct fixture *ring)
{
    scribble(ring, 3, 5, "cow", 3);
}
static void more_first(struct fixture *ring)
{
    scribble(ring, 3, RING__MORE, "cow", 3);
}
static void last_first(struct fixture *ring)
{
    scribble(ring, 3, RING__LAST, "cow", 3);
}
static void first_short(struct fixture *ring)
{
    scribble(ring, 3, RING__FIRST, "cow", 3);
}
static void first_of(struct fixture *ring, uint32_t total)
{
    uint32_t words[3] = {total, 0, 0};
    scribble(ring, sizeof(words), RING__FIRST, words, sizeof(words));
}
static void first_huge(struct fixture *ring)
{
    first_of(ring, MESSAGE_MAX + 1);
}
static void first_twice(struct fixture *ring)
{
    first_of(ring, 100);
    first_of(ring, 100);
}
static void first_lies(struct fixture *ring)
{
    first_of(ring, 2);
}
static void whole_within(struct fixture *ring)
{
    first_of(ring, 100);
    scribble(ring, 3, RING__WHOLE, "cow", 3);
}
static void too_long(struct fixture *ring)
{
    first_of(ring, 8);
    scribble(ring, 8, RING__MORE, "12345678", 8);
}
static void too_short(struct fixture *ring)
{
    first_of(ring, 100);
    scribble(ring, 8, RING__LAST, "12345678", 8);
}

Test(ring, what_no_correct_peer_writes_is_refused)
{
    refuses("a tail beyond the ring", tail_beyond);
    refuses("a tail that went back", tail_back);
    refuses("a tail within a word", tail_odd);
    refuses("a frame beyond the tail", frame_beyond);
    refuses("a frame larger than the ring", frame_huge);
    refuses("a frame of no kind", kind_none);
    refuses("a frame of an unknown kind", kind_unknown);
    refuses("a middle without a first", more_first);
    refuses("a last without a first", last_first);
    refuses("a first without its size", first_short);
    refuses("a message beyond message_bytes_max", first_huge);
    refuses("a first within a message", first_twice);
    refuses("a first longer than its message", first_lies);
    refuses("a whole message within another", whole_within);
    refuses("a message longer than it said", too_long);
    refuses("a message shorter than it said", too_short);
}

Test(ring, a_promised_size_takes_no_memory_before_the_bytes_come)
{
    struct fixture ring;
    setup(&ring);
    ring.reader.message_max = 1u << 30;
    first_of(&ring, 1u << 30);
    const uint8_t *data;
    uint32_t size;
    const char *why;
    cr_assert_eq(take(&ring, &data, &size, &why), RING__PART);
    cr_assert_leq(ring.reader.capacity, 1u << 20);
    teardown(&ring);
}

Test(ring, credit_for_what_was_never_sent_or_for_less_than_before_is_refused)
{
    struct ring__writer writer;
    ring__writer_init(&writer, RING_BYTES);
    writer.tail = 4096;
    writer.published = 2048;
    cr_assert(ring__credit(&writer, 1024));
    cr_assert(ring__credit(&writer, 2048));
    cr_assert_not(ring__credit(&writer, 2056));
    cr_assert_not(ring__credit(&writer, 1024));
    cr_assert_not(ring__credit(&writer, UINT64_MAX));
    cr_assert_eq(writer.credit, 2048);
}

Test(ring, random_contents_never_lead_the_reader_astray)
{
    struct fixture ring;
    struct random random;
    uint64_t seed = random_os();
    cr_log_info("seed %lu", seed);
    random_seed(&random, seed);
    for (int round = 0; round < 300; round++) {
        setup(&ring);
        for (uint32_t i = 0; i < RING_BYTES; i += 8) {
            /* Mostly plausible headers, so that some of them are believed. */
            uint64_t word = random_next(&random);
            if (random_chance(&random, 700000))
                word = random_below(&random, 32) | random_below(&random, 6) << 32;
            memcpy(ring.memory.bytes + i, &word, 8);
        }
        uint64_t tail = random_below(&random, RING_BYTES + 16) & ~(random_chance(&random, 900000) ? UINT64_C(7) : 0);
        const uint8_t *data;
        uint32_t size;
        const char *why;
        enum ring__result result;
        uint32_t sum = 0;
        while ((result = ring__read(&ring.reader, tail, &data, &size, &why)) == RING__MESSAGE || result == RING__PART) {
            if (result == RING__MESSAGE)
                sum = crc32c_extend(sum, data, size);
            ring__release(&ring.reader);
        }
        cr_assert(result == RING__BAD || result == RING__EMPTY);
        cr_assert_leq(ring.reader.head, (uint64_t)RING_BYTES);
        teardown(&ring);
    }
}

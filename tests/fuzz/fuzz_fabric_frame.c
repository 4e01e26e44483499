/* What a peer may write: into our ring, down a stream, and in place of a handshake. The first byte chooses. Whatever
 * the bytes, nothing outside of the ring is read, a broken rule ends the link, and what is delivered has the size that
 * it says. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/crc.h"
#include "core/base/log.h"
#include "core/base/panic.h"
#include "core/rdma/tcp__stream.h"

#define RING_BYTES   (16u << 10)
#define MESSAGE_MAX  (64u << 10)
#define REGION_BYTES 256u
#define REGION_KEY   7u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint32_t sum;

static uint64_t take(const uint8_t **data, size_t *size)
{
    uint64_t word = 0;
    size_t bytes = *size < sizeof(word) ? *size : sizeof(word);
    memcpy(&word, *data, bytes);
    *data += bytes;
    *size -= bytes;
    return word;
}

static void fuzz_ring(const uint8_t *data, size_t size)
{
    static struct ring__memory memory;
    if (!memory.control && ring__memory_create(RING_BYTES, &memory) != SLUICE_OK)
        PANIC("no ring");
    struct ring__reader reader;
    ring__reader_init(&reader, &memory, MESSAGE_MAX);
    /* Two tails: the peer moves it, perhaps back, perhaps after it has changed what lies there. */
    uint64_t tails[2] = {take(&data, &size), take(&data, &size)};
    if (size > 0 && (data[0] & 1)) { /* mostly near the truth */
        tails[0] %= RING_BYTES + 9;
        tails[1] = tails[0] + tails[1] % RING_BYTES;
    }
    for (int round = 0; round < 2; round++) {
        size_t half = size / 2 < RING_BYTES ? size / 2 : RING_BYTES;
        memset(memory.bytes, 0, RING_BYTES);
        memcpy(memory.bytes, data + (round ? size - half : 0), half);
        const uint8_t *message;
        uint32_t message_size;
        const char *why = NULL;
        enum ring__result result;
        while ((result = ring__read(&reader, tails[round], &message, &message_size, &why)) == RING__MESSAGE ||
               result == RING__PART) {
            if (result == RING__MESSAGE) {
                bool in_ring =
                    message >= memory.bytes && message + message_size <= memory.bytes + (size_t)2 * RING_BYTES;
                ASSERT(message_size <= MESSAGE_MAX);
                ASSERT(in_ring || (message == reader.assembly && message_size <= reader.capacity));
                sum = crc32c_extend(sum, message, message_size);
            }
            ASSERT(reader.have <= reader.total && reader.capacity <= MESSAGE_MAX);
            uint64_t head = reader.head;
            ring__release(&reader);
            ASSERT(reader.head > head && (reader.head & 7) == 0);
        }
        ASSERT(result != RING__BAD || why);
        if (result == RING__BAD)
            break;
    }
    ring__reader_deinit(&reader);
}

static void on_event(void *arg, const struct fabric_event *event)
{
    (void)arg;
    if (event->type == FABRIC_MESSAGE) {
        ASSERT(event->size <= MESSAGE_MAX);
        sum = crc32c_extend(sum, event->data, event->size);
    } else if (event->type == FABRIC_LINK_DOWN) {
        ASSERT(event->text[0] != 0);
    }
}

static struct fabric *fabric_of_one(void)
{
    static struct fabric *fabric;
    struct fabric_options options = {.size = sizeof(options),
                                     .identity = {.role = FABRIC_ROLE_NODE},
                                     .ring_bytes = RING_BYTES,
                                     .message_bytes_max = MESSAGE_MAX,
                                     .pending_bytes_max = 4096};
    if (!fabric) {
        log_set_level(LOG_LEVEL_NONE);
        if (fabric_create(&options, &fabric) != SLUICE_OK)
            PANIC("no fabric");
    }
    return fabric;
}

/* A link that is up, with two signalled writes under way and a region that the peer may write. */
static struct fabric_link *link_up(struct fabric *fabric, struct fabric_region **region)
{
    struct fabric_link *link = fabric__link_create(fabric, &fabric__tcp_provider, false);
    if (!link || !fabric__own_ring(link, FABRIC_ROLE_NODE) || !link->provider->ready(link))
        PANIC("no link");
    ring__writer_init(&link->writer, RING_BYTES);
    link->peer_message_max = MESSAGE_MAX;
    fabric__set_state(link, LINK__UP);
    fabric__set_timer(link, 0);
    link->reported_up = true;
    uint64_t key;
    if (fabric_region_create(fabric, REGION_BYTES, region) != SLUICE_OK ||
        fabric_region_permit(*region, link, FABRIC_ACCESS_WRITE, &key) != SLUICE_OK)
        PANIC("no region");
    link->grants->key = REGION_KEY;
    for (uint64_t i = 0; i < 2; i++) {
        struct slice part = {"moo", 3};
        if (fabric_write(link, 1, 0, "moo", 3, FABRIC_WRITE_SIGNAL, i) != SLUICE_OK ||
            fabric_send(link, &part, 1, NULL, 0, 0) != SLUICE_OK)
            PANIC("nothing can be sent");
    }
    fabric_flush(fabric);
    return link;
}

static void fuzz_stream(const uint8_t *data, size_t size)
{
    struct fabric *fabric = fabric_of_one();
    struct fabric_region *region;
    struct fabric_link *link = link_up(fabric, &region);
    bool open = true;
    while (size > 0 && open) {
        /* In pieces, with a poll between them, and a revocation in mid-stream. */
        size_t piece = 1 + data[0];
        piece = piece < size - 1 ? piece : size - 1;
        if (data[0] == 255)
            (void)!fabric_region_permit(region, link, FABRIC_ACCESS_NONE, NULL);
        open = tcp__feed(link, data + 1, piece) && link->state == LINK__UP;
        data += 1 + piece;
        size -= 1 + piece;
        if (open)
            fabric__activate(link);
        bool alive = open;
        (void)fabric_poll(fabric, 64, on_event, NULL);
        if (!alive || fabric__list_empty(&fabric->links)) {
            link = NULL; /* poll has reported its end and freed it */
            break;
        }
        open = link->state == LINK__UP;
    }
    if (link && !fabric__list_empty(&fabric->links))
        fabric_link_close(link);
    ASSERT(fabric__list_empty(&fabric->links));
    fabric_region_destroy(region);
}

static void fuzz_handshake(const uint8_t *data, size_t size)
{
    struct fabric__hello hello = {0};
    struct fabric__verdict verdict = {0};
    char text[FABRIC__TEXT_BYTES];
    memcpy(&hello, data, size < sizeof(hello) ? size : sizeof(hello));
    memcpy(&verdict, data, size < sizeof(verdict) ? size : sizeof(verdict));
    for (int round = 0; round < 2; round++) {
        if (fabric__hello_check(fabric_of_one(), &hello, text))
            ASSERT(ring__size_valid(hello.ring_bytes));
        else
            ASSERT(memchr(text, 0, sizeof(text)) && text[0] != 0);
        /* And with what is hard to guess set right. */
        hello.magic = FABRIC__MAGIC_HELLO;
        hello.size = sizeof(hello);
        hello.crc = crc32c(&hello, offsetof(struct fabric__hello, crc));
    }
    fabric__describe(data, size, text, sizeof(text));
    ASSERT(memchr(text, 0, sizeof(text)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    switch (data[0] % 3) {
    case 0:
        fuzz_ring(data + 1, size - 1);
        break;
    case 1:
        fuzz_stream(data + 1, size - 1);
        break;
    default:
        fuzz_handshake(data + 1, size - 1);
    }
    return 0;
}

/* What passes between processes of one host without the kernel: frames into the peer's ring, the bell, and writes into
 * regions. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/rdma/shm__memory.h"

#define COLD_VISITS         1000u /* visits that find nothing before a link is no longer looked at */
#define COLD_VISITS_CROWDED 16u   /* the same when many are looked at */
#define CROWD               32u
#define WINDOWS_MAX         1024u /* of one link: a peer can't make us map without bound */

/* --- slots and the bell --- */

bool shm__slot_take(struct fabric_link *link)
{
    struct fabric *self = link->fabric;
    uint32_t slot = self->slot_free;
    while (slot < self->slot_count && self->slots[slot])
        slot++;
    if (slot == self->slot_count) {
        uint32_t count = slot ? 2 * slot : 64;
        if (count > FABRIC__SLOTS_MAX)
            count = FABRIC__SLOTS_MAX;
        struct fabric_link **slots = slot < count ? realloc(self->slots, count * sizeof(struct fabric_link *)) : NULL;
        if (!slots)
            return false;
        memset(slots + slot, 0, (count - slot) * sizeof(struct fabric_link *));
        self->slots = slots;
        self->slot_count = count;
    }
    self->slots[slot] = link;
    self->slot_free = slot + 1;
    link->shm.slot = slot;
    link->shm.has_slot = true;
    return true;
}

static void unattend(struct fabric_link *link)
{
    struct fabric *self = link->fabric;
    uint64_t bit = UINT64_C(1) << (link->shm.slot % 64);
    link->shm.attended = false;
    self->attended[link->shm.slot / 64] &= ~bit;
    atomic_fetch_and(&self->bell->words[link->shm.slot / 64], ~bit);
}

void shm__attend(struct fabric_link *link)
{
    struct fabric *self = link->fabric;
    uint64_t bit = UINT64_C(1) << (link->shm.slot % 64);
    link->shm.attended = true;
    link->shm.cold = 0;
    self->attended[link->shm.slot / 64] |= bit;
    if (!(atomic_load_explicit(&self->bell->words[link->shm.slot / 64], memory_order_relaxed) & bit))
        atomic_fetch_or(&self->bell->words[link->shm.slot / 64], bit);
    fabric__activate(link);
}

void shm__slot_give_back(struct fabric_link *link)
{
    if (!link->shm.has_slot)
        return;
    unattend(link);
    link->shm.has_slot = false;
    link->fabric->slots[link->shm.slot] = NULL;
    if (link->shm.slot < link->fabric->slot_free)
        link->fabric->slot_free = link->shm.slot;
}

bool fabric__bell_work(const struct fabric *self)
{
    uint32_t words = (self->slot_count + 63) / 64;
    for (uint32_t i = 0; i < words; i++) {
        if (atomic_load(&self->bell->words[i]) & ~self->attended[i])
            return true;
    }
    return false;
}

void fabric__bell_scan(struct fabric *self)
{
    uint32_t words = (self->slot_count + 63) / 64;
    for (uint32_t i = 0; i < words; i++) {
        uint64_t fresh = atomic_load_explicit(&self->bell->words[i], memory_order_relaxed) & ~self->attended[i];
        while (fresh) {
            uint32_t slot = i * 64 + (uint32_t)__builtin_ctzll(fresh);
            uint64_t bit = fresh & -fresh;
            fresh &= ~bit;
            struct fabric_link *link = slot < self->slot_count ? self->slots[slot] : NULL;
            /* A bit of nobody's, or of a link whose handshake is not over: the first look at it comes with LINK_UP. */
            if (link && link->state >= LINK__ANSWERED && link->state < LINK__ENDING)
                shm__attend(link);
            else
                atomic_fetch_and(&self->bell->words[i], ~bit);
        }
    }
}

static void ring_bell(struct fabric_link *link)
{
    struct fabric__bell *bell = link->shm.bell;
    _Atomic uint64_t *word = &bell->words[link->shm.peer_slot / 64];
    uint64_t bit = UINT64_C(1) << (link->shm.peer_slot % 64);
    if (!(atomic_load(word) & bit))
        atomic_fetch_or(word, bit);
    if (atomic_load(&bell->sleeping) && atomic_exchange(&bell->sleeping, 0)) {
        uint64_t one = 1;
        link->fabric->woke_peer = true;
        ssize_t written = write(link->shm.wake_fd, &one, sizeof(one));
        (void)written; /* it can't be full but by a peer that fills it itself, and then that peer is awake */
    }
}

bool shm__rest(struct fabric_link *link)
{
    if (!link->shm.attended)
        return true;
    if (++link->shm.cold < (link->fabric->active_count > CROWD ? COLD_VISITS_CROWDED : COLD_VISITS))
        return false;
    unattend(link);
    /* Clear the bit, then look once more: a sender stores its tail, then looks at the bit. One of the two sees the
     * other. */
    if (!fabric__link_work(link))
        return true;
    shm__attend(link);
    return false;
}

/* --- memory --- */

enum sluice_status shm__place(struct fabric_link *link, const struct ring__plan *plan,
                              const struct fabric__message *message, uint32_t offset)
{
    const struct ring__memory *ring = &link->shm.peer;
    uint8_t *at = ring->bytes + (link->writer.tail & (ring->size - 1));
    memcpy(at, plan->header, plan->header_size);
    at += plan->header_size;
    struct fabric__cursor cursor = fabric__cursor(message, offset, plan->payload_size);
    const uint8_t *data;
    uint32_t size;
    bool in_buf;
    while (fabric__cursor_next(&cursor, &data, &size, &in_buf)) {
        memcpy(at, data, size);
        at += size;
    }
    return SLUICE_OK;
}

bool shm__place_whole(struct fabric_link *link, const struct fabric__message *message, uint32_t bytes)
{
    (void)bytes;
    const struct ring__memory *ring = &link->shm.peer;
    uint8_t *at = ring->bytes + (link->writer.tail & (ring->size - 1));
    uint64_t header = ring__whole(message->total);
    memcpy(at, &header, sizeof(header));
    at += sizeof(header);
    for (unsigned i = 0; i < message->part_count; i++) {
        if (message->parts[i].size == 0)
            continue;
        memcpy(at, message->parts[i].data, message->parts[i].size);
        at += message->parts[i].size;
    }
    if (message->payload_size)
        memcpy(at, message->payload, message->payload_size);
    return true;
}

void shm__publish(struct fabric_link *link)
{
    struct ring__control *control = link->shm.peer.control;
    if (link->reader.credited != link->reader.head) {
        link->reader.credited = link->reader.head;
        atomic_store_explicit(&control->credit, link->reader.head, memory_order_release);
    }
    link->writer.published = link->writer.tail;
    /* Sequentially consistent: the tail is out before the bell is looked at. See fabric_arm and shm__rest. */
    atomic_store(&control->tail, link->writer.tail);
    ring_bell(link);
}

void shm__credit(struct fabric_link *link)
{
    link->reader.credited = link->reader.head;
    atomic_store(&link->shm.peer.control->credit, link->reader.head);
    ring_bell(link);
}

/* --- regions --- */

void shm__window_close(struct fabric__window **at)
{
    struct fabric__window *window = *at;
    *at = window->next;
    (void)munmap(window->memory, window->size);
    free(window);
}

struct fabric__window **shm__window(struct fabric_link *link, uint64_t key)
{
    struct fabric__window **at = &link->shm.windows;
    while (*at && (*at)->key != key)
        at = &(*at)->next;
    return at;
}

enum sluice_status shm__window_open(struct fabric_link *link, uint64_t key, uint64_t size, int fd)
{
    unsigned count = 0;
    for (const struct fabric__window *window = link->shm.windows; window; window = window->next)
        count++;
    if (fd < 0 || size == 0 || size > SIZE_MAX / 2 || count == WINDOWS_MAX || !ring__sealed(fd, size))
        return SLUICE_CORRUPT;
    struct fabric__window *window = malloc(sizeof(*window));
    if (!window)
        return SLUICE_MEMORY;
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) {
        free(window);
        return SLUICE_MEMORY;
    }
    (void)madvise(memory, size, MADV_DONTFORK);
    *window = (struct fabric__window){.key = key, .memory = memory, .size = size, .next = link->shm.windows};
    link->shm.windows = window;
    return SLUICE_OK;
}

/* The end goes last, after all earlier writes, and an aligned word at the end goes as one: receivers poll it. */
static void place_in_order(uint8_t *at, const uint8_t *data, uint32_t size)
{
    if (size >= 8 && ((uintptr_t)(at + size) & 7) == 0) {
        uint64_t word;
        memcpy(at, data, size - 8);
        memcpy(&word, data + size - 8, sizeof(word));
        __atomic_store_n((uint64_t *)(void *)(at + size - 8), word, __ATOMIC_RELEASE);
    } else if (size > 0) {
        memcpy(at, data, size - 1);
        __atomic_store_n(at + size - 1, data[size - 1], __ATOMIC_RELEASE);
    }
}

enum sluice_status shm__write(struct fabric_link *link, struct fabric__window *window, uint64_t offset,
                              const void *data, uint32_t size, unsigned flags, uint64_t cookie)
{
    if (offset > window->size || size > window->size - offset)
        return SLUICE_RANGE;
    if (flags & FABRIC_WRITE_SIGNAL) {
        enum sluice_status status = fabric__completions_push(&link->completions, cookie, SLUICE_OK);
        if (status != SLUICE_OK)
            return status;
        fabric__activate(link);
    }
    place_in_order(window->memory + offset, data, size);
    if (flags & FABRIC_WRITE_WAKE)
        fabric__mark_dirty(link);
    return SLUICE_OK;
}

#include "core/base/queue.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "core/base/panic.h"

#define CAPACITY_MAX     (1u << 24)
#define CACHE_LINE_BYTES 64

/* A slot's turn says whose it is: equal to a position, a producer's to fill; one more, the consumer's to empty
 * (Vyukov, "Bounded MPMC queue"). Positions only rise; a slot's turn rises by the capacity with each lap. */
struct slot {
    atomic_uint_fast64_t turn;
    void *item;
};

struct queue {
    uint64_t mask;
    int fd;
    _Alignas(CACHE_LINE_BYTES) atomic_uint_fast64_t tail; /* producers claim positions here */
    _Alignas(CACHE_LINE_BYTES) uint64_t head;             /* the consumer's alone */
    _Alignas(CACHE_LINE_BYTES) atomic_bool sleeping;
    _Alignas(CACHE_LINE_BYTES) struct slot slots[];
};

enum sluice_status queue_create(uint32_t capacity, struct queue **out)
{
    if (capacity == 0 || capacity > CAPACITY_MAX)
        return SLUICE_INVALID;
    uint64_t slots = 2; /* with one slot, "filled" and "free for the next lap" would be the same turn */
    while (slots < capacity)
        slots *= 2;

    size_t bytes = sizeof(struct queue) + slots * sizeof(struct slot);
    bytes = (bytes + CACHE_LINE_BYTES - 1) / CACHE_LINE_BYTES * CACHE_LINE_BYTES;
    struct queue *self = aligned_alloc(CACHE_LINE_BYTES, bytes);
    if (self == NULL)
        return SLUICE_MEMORY;
    memset(self, 0, bytes);
    self->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (self->fd < 0) {
        free(self);
        return SLUICE_IO;
    }
    self->mask = slots - 1;
    for (uint64_t i = 0; i < slots; i++)
        atomic_init(&self->slots[i].turn, i);
    *out = self;
    return SLUICE_OK;
}

void queue_destroy(struct queue *self)
{
    if (self == NULL)
        return;
    close(self->fd);
    free(self);
}

static void ring(struct queue *self)
{
    /* Of many producers that see the sleeper, one makes the system call. */
    if (!atomic_load(&self->sleeping) || !atomic_exchange(&self->sleeping, false))
        return;
    uint64_t one = 1;
    ssize_t written;
    do
        written = write(self->fd, &one, sizeof(one));
    while (written < 0 && errno == EINTR);
    /* A full counter is readable already. */
    ASSERT(written == (ssize_t)sizeof(one) || errno == EAGAIN);
}

bool queue_push(struct queue *self, void *item)
{
    ASSERT(item != NULL);
    struct slot *slot;
    uint64_t position = atomic_load_explicit(&self->tail, memory_order_relaxed);
    for (;;) {
        slot = &self->slots[position & self->mask];
        uint64_t turn = atomic_load_explicit(&slot->turn, memory_order_acquire);
        if (turn == position) {
            if (atomic_compare_exchange_weak_explicit(&self->tail, &position, position + 1, memory_order_relaxed,
                                                      memory_order_relaxed))
                break;
        } else if (turn < position) {
            return false; /* the last lap's item is still in there */
        } else {
            position = atomic_load_explicit(&self->tail, memory_order_relaxed);
        }
    }
    slot->item = item;
    /* Publish, then look for a sleeper; the consumer announces sleep, then looks for an item. All four are sequentially
     * consistent, so at least one side sees the other: no wake-up is lost. */
    atomic_store(&slot->turn, position + 1);
    ring(self);
    return true;
}

void *queue_pop(struct queue *self)
{
    struct slot *slot = &self->slots[self->head & self->mask];
    if (atomic_load_explicit(&slot->turn, memory_order_acquire) != self->head + 1)
        return NULL;
    void *item = slot->item;
    atomic_store_explicit(&slot->turn, self->head + self->mask + 1, memory_order_release);
    self->head++;
    return item;
}

int queue_fd(const struct queue *self)
{
    return self->fd;
}

bool queue_prepare_sleep(struct queue *self)
{
    atomic_store(&self->sleeping, true);
    if (atomic_load(&self->slots[self->head & self->mask].turn) != self->head + 1)
        return true;
    /* A producer may have rung meanwhile; the descriptor then stays readable and ends the next sleep early, no more. */
    atomic_store(&self->sleeping, false);
    return false;
}

void queue_awake(struct queue *self)
{
    atomic_store(&self->sleeping, false);
    uint64_t count;
    ssize_t got;
    do
        got = read(self->fd, &count, sizeof(count));
    while (got < 0 && errno == EINTR);
    ASSERT(got == (ssize_t)sizeof(count) || errno == EAGAIN);
}

#include "core/rdma/ring.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/panic.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "frames are written as they lie in memory");

#define ASSEMBLY_BYTES_FIRST (1u << 20) /* what a message's first frame may have reserved for it at most */

bool ring__size_valid(uint32_t size)
{
    return size >= RING__BYTES_MIN && size <= RING__BYTES_MAX && (size & (size - 1)) == 0;
}

int ring__sealed_create(const char *name, uint64_t size)
{
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -1;
    if (ftruncate(fd, (off_t)size) != 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        int error = errno;
        (void)close(fd);
        errno = error;
        return -1;
    }
    return fd;
}

bool ring__sealed(int fd, uint64_t size)
{
    struct stat info;
    int seals = fcntl(fd, F_GET_SEALS);
    return seals >= 0 && (seals & F_SEAL_SHRINK) && fstat(fd, &info) == 0 && (uint64_t)info.st_size == size;
}

static enum sluice_status map_twice(int fd, uint32_t size, struct ring__memory *out)
{
    size_t whole = RING__CONTROL_BYTES + 2 * (size_t)size;
    uint8_t *base = mmap(NULL, whole, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED)
        return SLUICE_MEMORY;
    size_t once = RING__CONTROL_BYTES + (size_t)size;
    if (mmap(base, once, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
        goto fail;
    if (mmap(base + once, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, RING__CONTROL_BYTES) == MAP_FAILED)
        goto fail;
    /* A child that lives on after its parent must not keep, or write, memory that the peer believes dead with the
     * parent. */
    (void)madvise(base, whole, MADV_DONTFORK);
    out->control = (struct ring__control *)(void *)base;
    out->bytes = base + RING__CONTROL_BYTES;
    out->size = size;
    return SLUICE_OK;

fail:
    (void)munmap(base, whole);
    return SLUICE_MEMORY;
}

enum sluice_status ring__memory_create(uint32_t size, struct ring__memory *out)
{
    ASSERT(ring__size_valid(size));
    *out = (struct ring__memory){.fd = ring__sealed_create("sluice-ring", RING__CONTROL_BYTES + (uint64_t)size)};
    if (out->fd < 0)
        return SLUICE_MEMORY;
    enum sluice_status status = map_twice(out->fd, size, out);
    if (status != SLUICE_OK) {
        (void)close(out->fd);
        out->fd = -1;
    }
    return status;
}

enum sluice_status ring__memory_open(int fd, uint32_t size, struct ring__memory *out)
{
    *out = (struct ring__memory){.fd = -1};
    if (!ring__size_valid(size) || !ring__sealed(fd, RING__CONTROL_BYTES + (uint64_t)size))
        return SLUICE_CORRUPT;
    return map_twice(fd, size, out);
}

void ring__memory_close(struct ring__memory *self)
{
    if (self->control)
        (void)munmap(self->control, RING__CONTROL_BYTES + 2 * (size_t)self->size);
    if (self->fd >= 0)
        (void)close(self->fd);
    *self = (struct ring__memory){.fd = -1};
}

/* --- reading --- */

void ring__reader_init(struct ring__reader *self, const struct ring__memory *memory, uint32_t message_max)
{
    *self = (struct ring__reader){.bytes = memory->bytes, .size = memory->size, .message_max = message_max};
}

void ring__reader_deinit(struct ring__reader *self)
{
    free(self->assembly);
    self->assembly = NULL;
    self->assembling = false;
}

static bool grow(struct ring__reader *self, uint32_t need)
{
    if (need <= self->capacity)
        return true;
    /* Doubling keeps the storage below twice what has arrived, however much the first frame promised. */
    uint64_t capacity = self->capacity ? 2 * (uint64_t)self->capacity : ASSEMBLY_BYTES_FIRST;
    if (capacity < need)
        capacity = need;
    if (capacity > self->total)
        capacity = self->total;
    uint8_t *assembly = realloc(self->assembly, capacity);
    if (!assembly)
        return false;
    self->assembly = assembly;
    self->capacity = (uint32_t)capacity;
    return true;
}

static enum ring__result take_piece(struct ring__reader *self, const struct ring__frame *frame, const uint8_t *data,
                                    uint32_t size, const char **why)
{
    if (self->have + (uint64_t)size > self->total) {
        *why = "a message is longer than its first frame said";
        return RING__BAD;
    }
    if (frame->kind == RING__LAST && self->have + size != self->total) {
        *why = "a message is shorter than its first frame said";
        return RING__BAD;
    }
    if (!grow(self, self->have + size))
        return RING__MEMORY;
    memcpy(self->assembly + self->have, data, size);
    self->have += size;
    return frame->kind == RING__LAST ? RING__MESSAGE : RING__PART;
}

static enum ring__result read_first(struct ring__reader *self, const struct ring__frame *frame, const uint8_t *data,
                                    const char **why)
{
    if (frame->size <= RING__FIRST_BYTES) {
        *why = "a first frame is too short";
        return RING__BAD;
    }
    uint32_t total;
    memcpy(&total, data, sizeof(total));
    if (total > self->message_max) {
        *why = "a message is larger than message_bytes_max";
        return RING__BAD;
    }
    self->assembling = true;
    self->have = 0;
    self->total = total;
    return take_piece(self, frame, data + RING__FIRST_BYTES, frame->size - RING__FIRST_BYTES, why);
}

enum ring__result ring__read(struct ring__reader *self, uint64_t tail, const uint8_t **data, uint32_t *size,
                             const char **why)
{
    uint64_t filled = tail - self->head;
    if (filled == 0)
        return RING__EMPTY;
    if (filled > self->size || (tail & 7)) {
        *why = "the tail lies outside of the ring";
        return RING__BAD;
    }
    const uint8_t *at = self->bytes + ((self->head - self->origin) & (self->size - 1));
    /* One load: the peer may change the header under our hands, and what was checked must be what is used. */
    uint64_t word = __atomic_load_n((const uint64_t *)(const void *)at, __ATOMIC_RELAXED);
    struct ring__frame frame;
    memcpy(&frame, &word, sizeof(frame));
    if (frame.size > ring__frame_max(self->size) - sizeof(frame) || sizeof(frame) + ring__align(frame.size) > filled) {
        *why = "a frame reaches beyond the tail";
        return RING__BAD;
    }
    self->step = sizeof(frame) + ring__align(frame.size);
    at += sizeof(frame);
    if (frame.kind == RING__WHOLE) {
        if (self->assembling || frame.size > self->message_max) {
            *why = self->assembling ? "a message begins within another" : "a message is larger than message_bytes_max";
            return RING__BAD;
        }
        *data = at;
        *size = frame.size;
        return RING__MESSAGE;
    }
    if (frame.kind < RING__WHOLE || frame.kind > RING__LAST || (frame.kind == RING__FIRST) == self->assembling) {
        *why = "a frame of an unknown kind, or out of its order";
        return RING__BAD;
    }
    enum ring__result result =
        frame.kind == RING__FIRST ? read_first(self, &frame, at, why) : take_piece(self, &frame, at, frame.size, why);
    if (result == RING__MESSAGE) {
        *data = self->assembly;
        *size = self->total;
    }
    return result;
}

void ring__release(struct ring__reader *self)
{
    self->head += self->step;
    self->step = 0;
    if (self->assembling && self->have == self->total) {
        free(self->assembly);
        self->assembly = NULL;
        self->capacity = 0;
        self->assembling = false;
    }
}

/* --- writing --- */

void ring__writer_init(struct ring__writer *self, uint32_t size)
{
    *self = (struct ring__writer){.size = size};
}

bool ring__credit(struct ring__writer *self, uint64_t credit)
{
    if (credit - self->credit > self->published - self->credit)
        return false;
    self->credit = credit;
    return true;
}

bool ring__plan(const struct ring__writer *self, uint32_t total, uint32_t placed, struct ring__plan *out)
{
    ASSERT(placed <= total);
    uint32_t most = ring__frame_max(self->size) - (uint32_t)sizeof(struct ring__frame);
    uint32_t left = total - placed;
    struct ring__frame frame = {0};
    uint32_t first = 0;
    if (placed == 0 && left <= most) {
        frame.kind = RING__WHOLE;
    } else if (placed == 0) {
        frame.kind = RING__FIRST;
        first = RING__FIRST_BYTES;
    } else {
        frame.kind = left <= most ? RING__LAST : RING__MORE;
    }
    out->payload_size = left < most - first ? left : most - first;
    out->header_size = (uint32_t)sizeof(frame) + first;
    frame.size = first + out->payload_size;
    out->padding = (uint32_t)(ring__align(frame.size) - frame.size);
    memcpy(out->header, &frame, sizeof(frame));
    if (first) {
        uint32_t words[2] = {total, 0};
        memcpy(out->header + sizeof(frame), words, sizeof(words));
    }
    return ring__plan_bytes(out) <= ring__room(self);
}

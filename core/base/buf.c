#include "core/base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/panic.h"

static void buf_free(struct buf *self)
{
    free(self);
}

struct buf *buf_create(uint32_t size)
{
    struct buf *self = malloc(sizeof(*self) + size);
    if (self == NULL)
        return NULL;
    atomic_init(&self->refs, 1);
    self->size = size;
    self->free = buf_free;
    return self;
}

struct buf *buf_dup(const void *data, uint32_t size)
{
    struct buf *self = buf_create(size);
    if (self != NULL && size > 0)
        memcpy(self->data, data, size);
    return self;
}

struct buf *buf_ref(struct buf *self)
{
    /* Whoever takes a reference holds one already, so nothing needs to be ordered here. */
    unsigned before = atomic_fetch_add_explicit(&self->refs, 1, memory_order_relaxed);
    ASSERT(before > 0 && before < UINT32_MAX);
    return self;
}

void buf_unref(struct buf *self)
{
    if (self == NULL)
        return;
    /* Release what this owner did with the bytes; acquire what all others did before the memory goes. */
    unsigned before = atomic_fetch_sub_explicit(&self->refs, 1, memory_order_acq_rel);
    ASSERT(before > 0);
    if (before == 1)
        self->free(self);
}

#define BYTES_CAPACITY_MIN 64

enum sluice_status bytes_reserve(struct bytes *self, size_t extra)
{
    ASSERT(self->size <= self->capacity);
    if (extra <= self->capacity - self->size)
        return SLUICE_OK;
    if (extra > PTRDIFF_MAX - self->size)
        return SLUICE_MEMORY;

    size_t needed = self->size + extra;
    size_t capacity = self->capacity > PTRDIFF_MAX / 2 ? needed : self->capacity * 2;
    if (capacity < needed)
        capacity = needed;
    if (capacity < BYTES_CAPACITY_MIN)
        capacity = BYTES_CAPACITY_MIN;
    uint8_t *data = realloc(self->data, capacity);
    if (data == NULL)
        return SLUICE_MEMORY;
    self->data = data;
    self->capacity = capacity;
    return SLUICE_OK;
}

enum sluice_status bytes_append(struct bytes *self, const void *data, size_t size)
{
    enum sluice_status status = bytes_reserve(self, size);
    if (status != SLUICE_OK)
        return status;
    if (size > 0)
        memcpy(self->data + self->size, data, size);
    self->size += size;
    return SLUICE_OK;
}

enum sluice_status bytes_printf(struct bytes *self, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    if (length < 0)
        return SLUICE_INVALID;

    enum sluice_status status = bytes_reserve(self, (size_t)length + 1);
    if (status != SLUICE_OK)
        return status;
    va_start(arguments, format);
    int written = vsnprintf((char *)self->data + self->size, (size_t)length + 1, format, arguments);
    va_end(arguments);
    ASSERT(written == length);
    self->size += (size_t)length;
    return SLUICE_OK;
}

void bytes_free(struct bytes *self)
{
    free(self->data);
    *self = (struct bytes){0};
}

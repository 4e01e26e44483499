/* Reference-counted immutable bytes: a value is allocated once and shared by log window, store, disk writer and links.
 */
#ifndef BASE_BUF_H
#define BASE_BUF_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "api/sluice_status.h"

struct buf {
    atomic_uint refs;
    uint32_t size;                  /* bytes valid in data */
    void (*free)(struct buf *self); /* called when the last reference goes */
    uint8_t data[] __attribute__((aligned(16)));
};

/* A buffer of `size` bytes with one reference, contents undefined. NULL when memory is out (no panic: sizes come from
 * clients). */
struct buf *buf_create(uint32_t size);
/* The same, filled from `data`. */
struct buf *buf_dup(const void *data, uint32_t size);
/* Takes a further reference / gives one back. Any thread. NULL is ignored by unref. */
struct buf *buf_ref(struct buf *self);
void buf_unref(struct buf *self);

/* A growable byte string of one owner. Zero-initialise it; bytes_free when done. */
struct bytes {
    uint8_t *data;
    size_t size;
    size_t capacity;
};
enum sluice_status bytes_reserve(struct bytes *self, size_t extra) SLUICE_MUST_CHECK;
enum sluice_status bytes_append(struct bytes *self, const void *data, size_t size) SLUICE_MUST_CHECK;
enum sluice_status bytes_printf(struct bytes *self, const char *format, ...)
    __attribute__((format(printf, 2, 3))) SLUICE_MUST_CHECK;
void bytes_free(struct bytes *self);

/* A borrowed run of bytes. */
struct slice {
    const void *data;
    size_t size;
};

#endif

#include "core/base/crc.h"

#include <isa-l/crc.h>

/* ISA-L counts in int. */
#define CHUNK_BYTES_MAX ((size_t)1 << 30)

uint32_t crc32c_extend(uint32_t crc, const void *data, size_t len)
{
    /* ISA-L works on the bare register: both inversions of the standard form are the caller's. Its parameter lacks a
     * const. */
    unsigned char *bytes = (unsigned char *)(uintptr_t)data;
    uint32_t state = ~crc;
    while (len > 0) {
        size_t chunk = len < CHUNK_BYTES_MAX ? len : CHUNK_BYTES_MAX;
        state = crc32_iscsi(bytes, (int)chunk, state);
        bytes += chunk;
        len -= chunk;
    }
    return ~state;
}

uint32_t crc32c(const void *data, size_t len)
{
    return crc32c_extend(0, data, len);
}

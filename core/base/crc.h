/* CRC32C (Castagnoli), hardware-accelerated by ISA-L. Any thread. */
#ifndef BASE_CRC_H
#define BASE_CRC_H

#include <stddef.h>
#include <stdint.h>

/* The CRC32C of `len` bytes; standard form (initial and final inversion), so crc32c("123456789") is 0xE3069283. */
uint32_t crc32c(const void *data, size_t len);
/* Continues `crc`, a former result, over further bytes. crc32c_extend(0, …) equals crc32c(…). */
uint32_t crc32c_extend(uint32_t crc, const void *data, size_t len);

#endif

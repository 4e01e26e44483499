#include <criterion/criterion.h>
#include <string.h>

#include "core/base/crc.h"
#include "core/base/random.h"

/* The definition, bit by bit (polynomial 0x1EDC6F41, reflected). */
static uint32_t reference(const uint8_t *data, size_t len)
{
    uint32_t crc = UINT32_MAX;
    for (size_t i = 0; i < len; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ ((crc & 1) ? 0x82f63b78u : 0);
    }
    return ~crc;
}

Test(crc, gives_the_published_values)
{
    uint8_t bytes[32];
    cr_assert_eq(crc32c("123456789", 9), 0xe3069283u);
    cr_assert_eq(crc32c("", 0), 0);
    cr_assert_eq(crc32c(NULL, 0), 0);
    /* RFC 3720, B.4 */
    memset(bytes, 0, sizeof(bytes));
    cr_assert_eq(crc32c(bytes, sizeof(bytes)), 0x8a9136aau);
    memset(bytes, 0xff, sizeof(bytes));
    cr_assert_eq(crc32c(bytes, sizeof(bytes)), 0x62a8ab43u);
    for (uint8_t i = 0; i < 32; i++)
        bytes[i] = i;
    cr_assert_eq(crc32c(bytes, sizeof(bytes)), 0x46dd794eu);
}

Test(crc, any_split_at_any_alignment_equals_the_definition)
{
    uint64_t seed = random_os();
    struct random random;
    random_seed(&random, seed);
    uint8_t bytes[5000];
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)random_next(&random);
    for (int i = 0; i < 300; i++) {
        size_t from = random_below(&random, 64), len = random_below(&random, sizeof(bytes) - 64);
        size_t split = random_below(&random, len + 1);
        uint32_t expected = reference(bytes + from, len);
        cr_assert_eq(crc32c(bytes + from, len), expected, "seed %lu", seed);
        uint32_t crc = crc32c_extend(0, bytes + from, split);
        cr_assert_eq(crc32c_extend(crc, bytes + from + split, len - split), expected, "seed %lu", seed);
    }
}

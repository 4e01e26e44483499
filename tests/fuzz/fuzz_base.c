/* Names and times from outside: whatever the bytes, the answer is an answer, and what was taken means the same when
 * written again. */
#include <stdint.h>
#include <string.h>

#include "core/base/clock.h"
#include "core/base/crc.h"
#include "core/base/panic.h"
#include "core/base/text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data;

    const char *error = text_key_error(text, size);
    if (error == NULL) {
        ASSERT(size >= 1 && size <= KEY_BYTES_MAX && text_utf8_valid(text, size));
        ASSERT(memchr(text, '\0', size) == NULL && text[0] != '/' && text[size - 1] != '/');
        ASSERT(text_prefix_holds("", 0, text, size));
        for (size_t i = 0; i < size; i++)
            ASSERT(text_prefix_holds(text, i, text, size) == (i == 0 || text[i] == '/'));
    }

    uint64_t time, again;
    if (clock_parse(text, size, &time)) {
        char written[CLOCK_TEXT_BYTES];
        clock_format_rfc3339(time, written);
        ASSERT(clock_parse(written, strlen(written), &again) && again == time);
    }

    size_t half = size / 2;
    ASSERT(crc32c(data, size) == crc32c_extend(crc32c(data, half), data + half, size - half));
    return 0;
}

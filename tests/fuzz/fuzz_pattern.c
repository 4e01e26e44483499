/* Any bytes as a pattern, any bytes as a key: no crash, no leak, and what matches begins with the prefix. */
#include <stdlib.h>
#include <string.h>

#include "core/base/panic.h"
#include "core/base/pattern.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    int kind = data[0] % 6;
    size_t text_size = data[1] < size - 2 ? data[1] : size - 2;
    const char *text = (const char *)data + 2, *key = text + text_size;
    size_t key_size = size - 2 - text_size;
    struct pattern *pattern;
    char error[128];
    memset(error, 1, sizeof(error));
    enum sluice_status status = pattern_compile(kind, text, text_size, &pattern, error, sizeof(error));
    if (status != SLUICE_OK) {
        ASSERT(!pattern && memchr(error, 0, sizeof(error)) && error[0]);
        return 0;
    }
    size_t prefix_size;
    const char *prefix = pattern_prefix(pattern, &prefix_size);
    bool matched = pattern_match(pattern, key, key_size);
    ASSERT(!matched || (prefix_size <= key_size && !memcmp(prefix, key, prefix_size)));
    if (kind == 1)
        ASSERT(matched == (key_size == text_size && !memcmp(key, text, text_size)));
    if (kind == 2)
        ASSERT(matched == (key_size >= text_size && !memcmp(key, text, text_size)));
    if (kind == 4) {
        const char *out = NULL;
        size_t out_size = 0;
        ASSERT(pattern_capture(pattern, key, key_size, &out, &out_size) == matched);
        ASSERT(!matched || (out >= key && out + out_size <= key + key_size));
    }
    pattern_destroy(pattern);
    return 0;
}

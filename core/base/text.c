#include "core/base/text.h"

#include <stdint.h>
#include <string.h>

/* The length of the well-formed UTF-8 sequence at `data` (Unicode 15, table 3-7), 0 where there is none; its code point
 * in `out`. */
static size_t utf8_decode(const char *data, size_t len, uint32_t *out)
{
    const uint8_t *bytes = (const uint8_t *)data;
    uint8_t first = bytes[0];
    if (first < 0x80) {
        *out = first;
        return 1;
    }
    size_t size = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
    if (first < 0xc2 || first > 0xf4 || size > len)
        return 0;
    uint32_t point = first & (0x7fu >> size);
    for (size_t i = 1; i < size; i++) {
        if ((bytes[i] & 0xc0) != 0x80)
            return 0;
        point = (point << 6) | (bytes[i] & 0x3fu);
    }
    static const uint32_t smallest[] = {[2] = 0x80, [3] = 0x800, [4] = 0x10000};
    if (point < smallest[size] || point > 0x10ffff || (point >= 0xd800 && point <= 0xdfff))
        return 0;
    *out = point;
    return size;
}

bool text_utf8_valid(const char *data, size_t len)
{
    uint32_t point;
    for (size_t at = 0, size; at < len; at += size) {
        size = utf8_decode(data + at, len - at, &point);
        if (size == 0)
            return false;
    }
    return true;
}

static const char *segment_error(const char *segment, size_t len)
{
    if (len == 0)
        return "a key has no empty segment: two slashes may not follow each other";
    if (len <= 2 && memcmp(segment, "..", len) == 0)
        return "a key has no segment \".\" or \"..\"";
    return NULL;
}

const char *text_key_error(const char *key, size_t len)
{
    if (len == 0)
        return "a key is at least one byte long";
    if (len > KEY_BYTES_MAX)
        return "a key is at most 1,024 bytes long";
    if (key[0] == '/')
        return "a key begins with at most one slash";
    if (key[len - 1] == '/')
        return "a key does not end with a slash";

    size_t segment = 0;
    for (size_t at = 0, size; at < len; at += size) {
        uint32_t point;
        size = utf8_decode(key + at, len - at, &point);
        if (size == 0)
            return "a key is valid UTF-8";
        if (point < 0x20 || (point >= 0x7f && point <= 0x9f))
            return "a key has no control character";
        if (point == '/') {
            const char *error = segment_error(key + segment, at - segment);
            if (error != NULL)
                return error;
            segment = at + 1;
        }
    }
    return segment_error(key + segment, len - segment);
}

bool text_prefix_holds(const char *prefix, size_t prefix_len, const char *key, size_t key_len)
{
    if (prefix_len == 0)
        return true;
    return key_len > prefix_len && key[prefix_len] == '/' && memcmp(prefix, key, prefix_len) == 0;
}

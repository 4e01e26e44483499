/* Cursors of watches as text: a time, then for each listed shard its number, epoch, revision and operation, all as
 * LEB128, which keeps 32 shards well within what users and browsers carry. */
#include <string.h>

#include "client/watch__.h"

static uint8_t *put_number(uint8_t *at, uint64_t number)
{
    for (; number >= 0x80; number >>= 7)
        *at++ = (uint8_t)(number | 0x80);
    *at++ = (uint8_t)number;
    return at;
}

/* NULL: cut off, too large, or longer than it need be. */
static const uint8_t *get_number(const uint8_t *at, const uint8_t *end, uint64_t max, uint64_t *out)
{
    *out = 0;
    for (unsigned shift = 0; at != NULL && at < end && shift < 64; shift += 7) {
        uint64_t piece = *at & 0x7f;
        if (shift == 63 && piece > 1)
            return NULL;
        *out |= piece << shift;
        if (*at++ & 0x80)
            continue;
        return (piece == 0 && shift > 0) || *out > max ? NULL : at;
    }
    return NULL;
}

#define POSITION_BYTES_MAX (5 + 10 + 10 + 5)

bool position__write(const struct watch_cursor *cursor, char *out)
{
    uint8_t bytes[WATCH_PAYLOAD_MAX + POSITION_BYTES_MAX];
    uint8_t *at = bytes;
    memcpy(at, &cursor->time, sizeof(cursor->time));
    at += sizeof(cursor->time);
    for (size_t i = 0; i < cursor->count; i++) {
        const struct watch_position *position = &cursor->positions[i];
        at = put_number(at, position->shard);
        at = put_number(at, position->epoch);
        at = put_number(at, position->revision);
        at = put_number(at, position->operation);
        if ((size_t)(at - bytes) > WATCH_PAYLOAD_MAX)
            return false;
    }
    token__encode(TOKEN_WATCH, bytes, (size_t)(at - bytes), out);
    return true;
}

bool position__read(const char *text, struct watch_cursor *out)
{
    uint8_t bytes[WATCH_PAYLOAD_MAX];
    size_t size;
    *out = (struct watch_cursor){0};
    if (!token__read(TOKEN_WATCH, text, bytes, sizeof(bytes), &size) || size < sizeof(out->time))
        return false;
    const uint8_t *at = bytes + sizeof(out->time), *end = bytes + size;
    memcpy(&out->time, bytes, sizeof(out->time));
    while (at != NULL && at < end) {
        uint64_t shard, epoch, revision, operation;
        if (out->count == WATCH_LISTED_MAX)
            return false;
        at = get_number(at, end, UINT32_MAX, &shard);
        at = get_number(at, end, UINT64_MAX, &epoch);
        at = get_number(at, end, UINT64_MAX - 1, &revision);
        at = get_number(at, end, WIRE_OPERATIONS_MAX, &operation);
        if (at == NULL || shard == 0 || revision == 0)
            return false;
        for (size_t i = 0; i < out->count; i++)
            if (out->positions[i].shard == shard)
                return false;
        out->positions[out->count++] = (struct watch_position){
            .shard = (uint32_t)shard, .epoch = epoch, .revision = revision, .operation = (uint32_t)operation};
    }
    return out->time != 0;
}

/* Cursors as users carry them: base64url (RFC 4648, section 5, without padding) of a version, a kind, the bytes, and a
 * CRC32C over all that. The checksum is against mistakes; whoever forges one reads what it may read anyway. */
#include <stdlib.h>
#include <string.h>

#include "client/client__.h"
#include "core/base/crc.h"

#define TOKEN_VERSION   1u
#define TOKEN_BYTES_MAX 4096u

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/* Bits on their way from bytes to letters. */
struct writer {
    uint32_t bits, count;
    char *out;
};

static void write_bytes(struct writer *self, const void *bytes, size_t size)
{
    const uint8_t *at = bytes;
    for (size_t i = 0; i < size; i++) {
        self->bits = self->bits << 8 | at[i];
        for (self->count += 8; self->count >= 6; self->count -= 6)
            *self->out++ = alphabet[self->bits >> (self->count - 6) & 63];
    }
}

void token__encode(enum token_kind kind, const void *bytes, size_t size, char *out)
{
    const uint8_t head[2] = {TOKEN_VERSION, (uint8_t)kind};
    struct writer writer = {.out = out};
    uint32_t crc = crc32c_extend(crc32c(head, sizeof(head)), bytes, size);
    write_bytes(&writer, head, sizeof(head));
    write_bytes(&writer, bytes, size);
    write_bytes(&writer, &crc, sizeof(crc));
    if (writer.count > 0)
        *writer.out++ = alphabet[writer.bits << (6 - writer.count) & 63];
    *writer.out = '\0';
}

char *token__write(enum token_kind kind, const void *bytes, size_t size)
{
    char *text = malloc(TOKEN_TEXT_BYTES(size));
    if (text != NULL)
        token__encode(kind, bytes, size, text);
    return text;
}

static int digit(char letter)
{
    if (letter >= 'A' && letter <= 'Z')
        return letter - 'A';
    if (letter >= 'a' && letter <= 'z')
        return letter - 'a' + 26;
    if (letter >= '0' && letter <= '9')
        return letter - '0' + 52;
    return letter == '-' ? 62 : letter == '_' ? 63 : -1;
}

bool token__read(enum token_kind kind, const char *text, void *bytes, size_t room, size_t *size)
{
    uint8_t raw[TOKEN_BYTES_MAX];
    size_t at = 0;
    uint32_t bits = 0, count = 0;
    for (; *text != '\0'; text++) {
        int value = digit(*text);
        if (value < 0 || at == sizeof(raw))
            return false;
        bits = bits << 6 | (uint32_t)value;
        count += 6;
        if (count >= 8) {
            count -= 8;
            raw[at++] = (uint8_t)(bits >> count);
        }
    }
    /* Only one text stands for the bytes: no lone digit, nothing in the bits that are left over. */
    if (count >= 6 || (bits & ((1u << count) - 1)) != 0)
        return false;
    uint32_t crc;
    if (at < 2 + sizeof(crc) || raw[0] != TOKEN_VERSION || raw[1] != kind)
        return false;
    memcpy(&crc, raw + at - sizeof(crc), sizeof(crc));
    if (crc != crc32c(raw, at - sizeof(crc)) || at - 2 - sizeof(crc) > room)
        return false;
    *size = at - 2 - sizeof(crc);
    if (*size > 0)
        memcpy(bytes, raw + 2, *size);
    return true;
}

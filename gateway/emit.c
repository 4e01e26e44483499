#include "gateway/emit.h"

#include <string.h>

#include "core/base/clock.h"

_Static_assert(EMIT_TIME_BYTES == CLOCK_TEXT_BYTES, "the same text");

void emit_free(struct emit *self)
{
    bytes_free(&self->out);
    *self = (struct emit){0};
}

void emit_bytes(struct emit *self, const void *data, size_t size)
{
    if (bytes_append(&self->out, data, size) != SLUICE_OK)
        self->failed = true;
}

void emit_text(struct emit *self, const char *text)
{
    emit_bytes(self, text, strlen(text));
}

void emit_char(struct emit *self, char c)
{
    emit_bytes(self, &c, 1);
}

size_t emit_u64_text(uint64_t value, char out[EMIT_U64_BYTES])
{
    char digits[EMIT_U64_BYTES];
    size_t count = 0;
    do {
        digits[count++] = (char)('0' + value % 10);
        value /= 10;
    } while (value != 0);
    for (size_t i = 0; i < count; i++)
        out[i] = digits[count - 1 - i];
    out[count] = '\0';
    return count;
}

void emit_u64(struct emit *self, uint64_t value)
{
    char text[EMIT_U64_BYTES];
    emit_bytes(self, text, emit_u64_text(value, text));
}

/* The length of the well-formed UTF-8 sequence at `text`, 0 where there is none (Unicode 15, table 3-7). */
static size_t sequence(const unsigned char *text, size_t size)
{
    unsigned char first = text[0];
    if (first < 0xc2 || first > 0xf4)
        return first < 0x80 ? 1 : 0;
    size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
    if (length > size)
        return 0;
    for (size_t i = 1; i < length; i++) {
        if ((text[i] & 0xc0) != 0x80)
            return 0;
    }
    if ((first == 0xe0 && text[1] < 0xa0) || (first == 0xed && text[1] > 0x9f) || (first == 0xf0 && text[1] < 0x90) ||
        (first == 0xf4 && text[1] > 0x8f))
        return 0;
    return length;
}

static void emit_escape(struct emit *self, unsigned char c)
{
    static const char hex[] = "0123456789abcdef";
    const char *named = c == '"' ? "\\\"" : c == '\\' ? "\\\\" : c == '\n' ? "\\n" : c == '\t' ? "\\t" : NULL;
    if (named != NULL) {
        emit_bytes(self, named, 2);
        return;
    }
    char text[6] = {'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]};
    emit_bytes(self, text, sizeof(text));
}

void emit_string(struct emit *self, const char *text, size_t size)
{
    const unsigned char *bytes = (const unsigned char *)text;
    emit_char(self, '"');
    size_t begin = 0, at = 0;
    while (at < size) {
        unsigned char c = bytes[at];
        if (c >= 0x20 && c < 0x7f && c != '"' && c != '\\') {
            at++;
            continue;
        }
        size_t length = c >= 0x80 ? sequence(bytes + at, size - at) : 0;
        if (length > 1) {
            at += length;
            continue;
        }
        emit_bytes(self, text + begin, at - begin);
        if (c >= 0x80)
            emit_text(self, "\\ufffd");
        else
            emit_escape(self, c);
        begin = ++at;
    }
    emit_bytes(self, text + begin, size - begin);
    emit_char(self, '"');
}

void emit_base64(struct emit *self, const void *data, size_t size)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const uint8_t *from = data;
    size_t needed = (size + 2) / 3 * 4;
    if (size == 0)
        return;
    if (bytes_reserve(&self->out, needed) != SLUICE_OK) {
        self->failed = true;
        return;
    }
    char *to = (char *)self->out.data + self->out.size;
    self->out.size += needed;
    for (; size >= 3; size -= 3, from += 3) {
        uint32_t bits = (uint32_t)from[0] << 16 | (uint32_t)from[1] << 8 | from[2];
        *to++ = digits[bits >> 18];
        *to++ = digits[bits >> 12 & 63];
        *to++ = digits[bits >> 6 & 63];
        *to++ = digits[bits & 63];
    }
    if (size > 0) {
        uint32_t bits = (uint32_t)from[0] << 16 | (size == 2 ? (uint32_t)from[1] << 8 : 0);
        *to++ = digits[bits >> 18];
        *to++ = digits[bits >> 12 & 63];
        *to++ = size == 2 ? digits[bits >> 6 & 63] : '=';
        *to++ = '=';
    }
}

void emit_path(struct emit *self, const char *text, size_t size)
{
    static const char hex[] = "0123456789ABCDEF";
    for (size_t i = 0; i < size; i++) {
        unsigned char c = (unsigned char)text[i];
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
                     c == '.' || c == '_' || c == '~' || c == '/';
        if (plain) {
            emit_char(self, (char)c);
            continue;
        }
        char coded[3] = {'%', hex[c >> 4], hex[c & 15]};
        emit_bytes(self, coded, sizeof(coded));
    }
}

void emit_time_text(uint64_t time_ns, char out[EMIT_TIME_BYTES])
{
    clock_format_rfc3339(time_ns, out);
}

void emit_times(struct emit *self, const char *name, uint64_t time_ns)
{
    char text[EMIT_TIME_BYTES];
    emit_time_text(time_ns, text);
    emit_char(self, '"');
    emit_text(self, name);
    emit_text(self, "\":\"");
    emit_text(self, text);
    emit_text(self, "\",\"");
    emit_text(self, name);
    emit_text(self, "_ns\":\"");
    emit_u64(self, time_ns);
    emit_char(self, '"');
}

void emit_object(struct emit *self, const struct sluice_object *object, unsigned what)
{
    emit_text(self, "\"key\":");
    emit_string(self, object->key, object->key_size);
    emit_text(self, ",\"version\":");
    emit_u64(self, object->version);
    if (object->epoch > 1) {
        emit_text(self, ",\"epoch\":");
        emit_u64(self, object->epoch);
    }
    emit_text(self, ",\"revision\":");
    emit_u64(self, object->revision);
    emit_text(self, ",\"shard\":");
    emit_u64(self, object->shard);
    emit_text(self, ",\"size\":");
    emit_u64(self, object->size);
    if ((what & EMIT_CONTENT_TYPE) != 0 && !object->deleted) {
        emit_text(self, ",\"content_type\":");
        emit_string(self, object->content_type, object->content_type_size);
    }
    emit_char(self, ',');
    emit_times(self, "time", object->time_ns);
    if ((what & EMIT_OBJECT_TIME) != 0) {
        emit_char(self, ',');
        emit_times(self, "object_time", object->object_time_ns);
    }
    if ((what & EMIT_DELETED) != 0)
        emit_text(self, object->deleted ? ",\"deleted\":true" : ",\"deleted\":false");
    if ((what & EMIT_DATA) != 0 && !object->deleted) {
        emit_text(self, ",\"data\":\"");
        emit_base64(self, object->data, object->data_size);
        emit_char(self, '"');
    }
}

void emit_etag(const struct sluice_object *object, char out[EMIT_ETAG_BYTES])
{
    *out++ = '"';
    if (object->epoch > 1) {
        out += emit_u64_text(object->epoch, out);
        *out++ = '.';
    }
    out += emit_u64_text(object->version, out);
    *out++ = '"';
    *out = '\0';
}

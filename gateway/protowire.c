#include <string.h>

#include "core/base/text.h"
#include "gateway/protowire.h"

#define VARINT_BYTES_MAX 10
#define NUMBER_MAX       ((1u << 29) - 1)
#define DEPTH_MAX        16

static const char malformed[] = "the message is no well-formed protocol buffer";
static const char no_memory[] = "no memory could be had for the message";

/* --- Pieces: one message over several runs of memory -------------------------------------------------------------*/

struct pieces {
    const struct slice *piece; /* the present one */
    const struct slice *end;
    size_t offset; /* within it */
    size_t left;   /* in all */
};

static struct pieces pieces_of(const struct slice *piece, size_t count)
{
    struct pieces self = {.piece = piece, .end = piece + count};
    for (size_t i = 0; i < count; i++)
        self.left += piece[i].size;
    return self;
}

/* Takes `size` bytes, of which there are enough. */
static void take(struct pieces *self, uint8_t *out, size_t size)
{
    self->left -= size;
    while (size > 0) {
        size_t here = self->piece->size - self->offset;
        if (here > size)
            here = size;
        if (here > 0)
            memcpy(out, (const uint8_t *)self->piece->data + self->offset, here);
        out += here;
        size -= here;
        self->offset += here;
        if (self->offset == self->piece->size && self->piece + 1 < self->end) {
            self->piece++;
            self->offset = 0;
        }
    }
}

/* Takes a varint; `raw` holds its bytes as they came. Zero: malformed; else how many bytes. */
static size_t take_varint(struct pieces *self, uint8_t raw[VARINT_BYTES_MAX], uint64_t *out)
{
    *out = 0;
    for (size_t i = 0; i < VARINT_BYTES_MAX && self->left > 0; i++) {
        take(self, &raw[i], 1);
        *out |= (uint64_t)(raw[i] & 0x7f) << (7 * i);
        if (!(raw[i] & 0x80))
            return i + 1;
    }
    return 0;
}

static bool tag_read(uint64_t tag, uint32_t *number, enum protowire_type *type)
{
    uint64_t wire = tag & 7;
    *number = (uint32_t)(tag >> 3);
    *type = (enum protowire_type)wire;
    return tag >> 3 >= 1 && tag >> 3 <= NUMBER_MAX &&
           (wire == PROTOWIRE_VARINT || wire == PROTOWIRE_FIXED64 || wire == PROTOWIRE_BYTES ||
            wire == PROTOWIRE_FIXED32);
}

int protowire_next(struct slice *rest, struct protowire_field *out)
{
    if (rest->size == 0)
        return 0;
    struct pieces pieces = pieces_of(rest, 1);
    uint8_t raw[VARINT_BYTES_MAX];
    uint64_t tag;
    *out = (struct protowire_field){0};
    if (take_varint(&pieces, raw, &tag) == 0 || !tag_read(tag, &out->number, &out->type))
        return -1;
    if (out->type == PROTOWIRE_FIXED32 || out->type == PROTOWIRE_FIXED64) {
        size_t size = out->type == PROTOWIRE_FIXED32 ? 4 : 8;
        if (pieces.left < size)
            return -1;
        take(&pieces, raw, size);
        for (size_t i = 0; i < size; i++)
            out->value |= (uint64_t)raw[i] << (8 * i);
    } else if (take_varint(&pieces, raw, &out->value) == 0) {
        return -1;
    }
    if (out->type == PROTOWIRE_BYTES) {
        if (out->value > pieces.left)
            return -1;
        out->bytes = (struct slice){(const uint8_t *)rest->data + (rest->size - pieces.left), (size_t)out->value};
        pieces.left -= out->bytes.size;
    }
    *rest = (struct slice){(const uint8_t *)rest->data + (rest->size - pieces.left), pieces.left};
    return 1;
}

/* --- Taking a message apart --------------------------------------------------------------------------------------*/

static enum sluice_status rest_append(struct protowire_parts *self, const uint8_t *raw, size_t size, size_t rest_max,
                                      const char **why)
{
    if (size > rest_max - self->rest.size) {
        *why = "what the message holds besides its value is too large";
        return SLUICE_TOO_LARGE;
    }
    enum sluice_status status = bytes_append(&self->rest, raw, size);
    if (status != SLUICE_OK)
        *why = no_memory;
    return status;
}

/* Moves `size` bytes of the pieces into rest. */
static enum sluice_status rest_take(struct protowire_parts *self, struct pieces *pieces, size_t size, size_t rest_max,
                                    const char **why)
{
    if (size == 0)
        return SLUICE_OK;
    if (size > rest_max - self->rest.size) {
        *why = "what the message holds besides its value is too large";
        return SLUICE_TOO_LARGE;
    }
    enum sluice_status status = bytes_reserve(&self->rest, size);
    if (status != SLUICE_OK) {
        *why = no_memory;
        return status;
    }
    take(pieces, self->rest.data + self->rest.size, size);
    self->rest.size += size;
    return SLUICE_OK;
}

static enum sluice_status value_take(struct protowire_parts *self, struct pieces *pieces, size_t size, size_t value_max,
                                     const char **why)
{
    /* The last of several counts, as everywhere in protocol buffers. */
    sluice_value_unref(self->value);
    self->value = NULL;
    self->value_size = 0;
    if (size == 0)
        return SLUICE_OK;
    if (size > value_max) {
        *why = "the value is larger than the limit";
        return SLUICE_TOO_LARGE;
    }
    self->value = sluice_value_create((uint32_t)size);
    if (self->value == NULL) {
        *why = "no memory could be had for the value";
        return SLUICE_MEMORY;
    }
    take(pieces, sluice_value_data(self->value), size);
    self->value_size = size;
    return SLUICE_OK;
}

static enum sluice_status field_take(struct protowire_parts *self, struct pieces *pieces, uint32_t value_field,
                                     size_t rest_max, size_t value_max, const char **why)
{
    uint8_t raw[2 * VARINT_BYTES_MAX];
    uint64_t tag, value;
    uint32_t number;
    enum protowire_type type;
    *why = malformed;
    size_t raw_size = take_varint(pieces, raw, &tag);
    if (raw_size == 0 || !tag_read(tag, &number, &type))
        return SLUICE_INVALID;
    size_t body = type == PROTOWIRE_FIXED32 ? 4 : type == PROTOWIRE_FIXED64 ? 8 : 0;
    if (body == 0) {
        size_t more = take_varint(pieces, raw + raw_size, &value);
        if (more == 0)
            return SLUICE_INVALID;
        raw_size += more;
        if (type == PROTOWIRE_BYTES) {
            if (value > pieces->left)
                return SLUICE_INVALID;
            body = (size_t)value;
        }
    }
    if (body > pieces->left)
        return SLUICE_INVALID;
    if (number == value_field && type == PROTOWIRE_BYTES)
        return value_take(self, pieces, body, value_max, why);
    enum sluice_status status = rest_append(self, raw, raw_size, rest_max, why);
    return status != SLUICE_OK ? status : rest_take(self, pieces, body, rest_max, why);
}

enum sluice_status protowire_split(const struct slice *pieces, size_t count, uint32_t value_field, size_t rest_max,
                                   size_t value_max, struct protowire_parts *out, const char **why)
{
    struct pieces left = pieces_of(pieces, count);
    *out = (struct protowire_parts){0};
    enum sluice_status status = SLUICE_OK;
    if (value_field == 0)
        status = rest_take(out, &left, left.left, rest_max, why);
    while (status == SLUICE_OK && left.left > 0)
        status = field_take(out, &left, value_field, rest_max, value_max, why);
    if (status != SLUICE_OK)
        protowire_parts_free(out);
    return status;
}

void protowire_parts_free(struct protowire_parts *self)
{
    bytes_free(&self->rest);
    sluice_value_unref(self->value);
    *self = (struct protowire_parts){0};
}

/* --- Checks before generated code --------------------------------------------------------------------------------*/

static const char *message_error(const ProtobufCMessageDescriptor *descriptor, struct slice data, unsigned *fields,
                                 unsigned depth)
{
    struct protowire_field field;
    int more;
    while ((more = protowire_next(&data, &field)) == 1) {
        if (++*fields > PROTOWIRE_FIELDS_MAX)
            return "the message has too many fields or elements";
        const ProtobufCFieldDescriptor *known = protobuf_c_message_descriptor_get_field(descriptor, field.number);
        if (known == NULL || field.type != PROTOWIRE_BYTES)
            continue;
        if (known->type == PROTOBUF_C_TYPE_STRING) {
            if (!text_utf8_valid(field.bytes.data, field.bytes.size))
                return "a text of the message is not UTF-8";
            if (field.bytes.size > 0 && memchr(field.bytes.data, 0, field.bytes.size) != NULL)
                return "a text of the message holds a zero byte";
        } else if (known->type == PROTOBUF_C_TYPE_MESSAGE) {
            if (depth == DEPTH_MAX)
                return "the message is nested too deeply";
            const char *error = message_error(known->descriptor, field.bytes, fields, depth + 1);
            if (error != NULL)
                return error;
        }
    }
    return more == 0 ? NULL : malformed;
}

enum sluice_status protowire_unpack(const ProtobufCMessageDescriptor *descriptor, const void *data, size_t size,
                                    ProtobufCMessage **out, const char **why)
{
    unsigned fields = 0;
    *why = message_error(descriptor, (struct slice){data, size}, &fields, 0);
    if (*why != NULL)
        return SLUICE_INVALID;
    /* Generated code also refuses a field of another wire type than its own. */
    *out = protobuf_c_message_unpack(descriptor, NULL, size, data);
    if (*out != NULL)
        return SLUICE_OK;
    *why = malformed;
    return SLUICE_INVALID;
}

/* --- Building ----------------------------------------------------------------------------------------------------*/

static size_t varint_write(uint64_t value, uint8_t out[VARINT_BYTES_MAX])
{
    size_t size = 0;
    for (; value >= 0x80; value >>= 7)
        out[size++] = (uint8_t)(value | 0x80);
    out[size++] = (uint8_t)value;
    return size;
}

static size_t head_write(uint32_t number, size_t size, uint8_t out[2 * VARINT_BYTES_MAX])
{
    size_t at = varint_write((uint64_t)number << 3 | PROTOWIRE_BYTES, out);
    return at + varint_write(size, out + at);
}

enum sluice_status protowire_append(struct bytes *out, const ProtobufCMessage *message)
{
    size_t size = protobuf_c_message_get_packed_size(message);
    enum sluice_status status = bytes_reserve(out, size);
    if (status == SLUICE_OK && size > 0)
        out->size += protobuf_c_message_pack(message, out->data + out->size);
    return status;
}

enum sluice_status protowire_append_head(struct bytes *out, uint32_t number, size_t size)
{
    uint8_t head[2 * VARINT_BYTES_MAX];
    return bytes_append(out, head, head_write(number, size, head));
}

size_t protowire_head_size(uint32_t number, size_t size)
{
    uint8_t head[2 * VARINT_BYTES_MAX];
    return head_write(number, size, head);
}

enum sluice_status protowire_append_field(struct bytes *out, uint32_t number, const void *data, size_t size)
{
    enum sluice_status status = protowire_append_head(out, number, size);
    return status == SLUICE_OK && size > 0 ? bytes_append(out, data, size) : status;
}

/* The wire format of Protocol Buffers where the generated code does not reach: values that arrive in pieces and must be
 * copied once, checks before generated code sees a byte, and replies whose value is sent from where it lies.
 * Pure functions over memory; any thread. */
#ifndef GATEWAY_PROTOWIRE_H
#define GATEWAY_PROTOWIRE_H

#include <protobuf-c/protobuf-c.h>

#include "api/sluice.h"
#include "core/base/buf.h"

/* Of one message, at all depths: generated code allocates for each field, known or not. */
#define PROTOWIRE_FIELDS_MAX 20000u

enum protowire_type { PROTOWIRE_VARINT = 0, PROTOWIRE_FIXED64 = 1, PROTOWIRE_BYTES = 2, PROTOWIRE_FIXED32 = 5 };

struct protowire_field {
    uint32_t number;
    enum protowire_type type;
    uint64_t value;     /* VARINT and FIXED… */
    struct slice bytes; /* BYTES: borrowed from the message */
};
/* Takes one field off the front of `rest`: 1, 0 at the end, -1 malformed (groups are). */
int protowire_next(struct slice *rest, struct protowire_field *out);

/* A received message, taken apart: its bytes field `value_field` goes straight from the pieces into a fresh value, all
 * other fields into `rest`. With value_field 0 all of it goes into `rest`. */
struct protowire_parts {
    struct bytes rest;
    struct sluice_value *value; /* NULL: the field is not there or empty */
    size_t value_size;
};
/* INVALID where it is malformed, TOO_LARGE where `rest` would pass rest_max or the value value_max, MEMORY. On failure
 * nothing is left to free and `*why` is a static sentence. `out` is filled from scratch. */
enum sluice_status protowire_split(const struct slice *pieces, size_t count, uint32_t value_field, size_t rest_max,
                                   size_t value_max, struct protowire_parts *out, const char **why) SLUICE_MUST_CHECK;
void protowire_parts_free(struct protowire_parts *self);

/* Checks and unpacks. Beyond being well-formed, strings must be UTF-8 without a zero byte (generated code ends strings
 * at one). On failure INVALID, and `*why` is a static sentence. Free with protobuf_c_message_free_unpacked. */
enum sluice_status protowire_unpack(const ProtobufCMessageDescriptor *descriptor, const void *data, size_t size,
                                    ProtobufCMessage **out, const char **why) SLUICE_MUST_CHECK;

/* Appends a message's fields. */
enum sluice_status protowire_append(struct bytes *out, const ProtobufCMessage *message) SLUICE_MUST_CHECK;
/* Appends a bytes, string or message field. */
enum sluice_status protowire_append_field(struct bytes *out, uint32_t number, const void *data,
                                          size_t size) SLUICE_MUST_CHECK;
/* Appends the tag and length of such a field; its `size` bytes follow by other means. */
enum sluice_status protowire_append_head(struct bytes *out, uint32_t number, size_t size) SLUICE_MUST_CHECK;
/* What protowire_append_head appends. */
size_t protowire_head_size(uint32_t number, size_t size);

#endif

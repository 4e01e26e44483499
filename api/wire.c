#include "api/wire.h"

#include <stdlib.h>
#include <string.h>

/* The smallest form of each: what a reader may look at before it has checked anything. */
_Static_assert(sizeof(struct wire_header) % 8 == 0, "a body begins aligned");
_Static_assert(sizeof(struct wire_command) % 8 == 0, "operations begin aligned");
_Static_assert(WIRE_OPERATIONS_MAX <= UINT16_MAX, "operation_count is 16 bits");

#define OPERATION_FLAGS (WIRE_IF_VERSION | WIRE_IF_ABSENT | WIRE_IF_PRESENT | WIRE_OBJECT_TIME)
#define QUERY_FLAGS                                                                                                    \
    (WIRE_QUERY_VERSION | WIRE_QUERY_AT | WIRE_QUERY_VALUES | WIRE_QUERY_DESCENDING | WIRE_QUERY_TOMBSTONES |          \
     WIRE_QUERY_NO_VALUE | WIRE_QUERY_FROM_TIME | WIRE_QUERY_OBJECT_CLOCK)

static enum sluice_status refuse(enum sluice_status status, const char *sentence, const char **why)
{
    *why = sentence;
    return status;
}

static int aligned(const void *data)
{
    return ((uintptr_t)data & 7) == 0;
}

enum sluice_status wire_header_read(const void *data, size_t size, const struct wire_header **out, const char **why)
{
    const struct wire_header *header = data;
    if (size < sizeof(*header))
        return refuse(SLUICE_INVALID, "a message has a header of 64 bytes; fewer came", why);
    if (!aligned(data))
        return refuse(SLUICE_INVALID, "a message begins at a multiple of 8 bytes", why);
    if (header->magic != WIRE_MAGIC)
        return refuse(SLUICE_INVALID, "the message does not begin as core RPC does", why);
    if (header->version != WIRE_VERSION)
        return refuse(SLUICE_VERSION, "the message is of another version of core RPC; this side speaks version 1", why);
    if (header->body_size > WIRE_BODY_BYTES_MAX)
        return refuse(SLUICE_TOO_LARGE, "a message's body has at most 65 MiB", why);
    if (header->body_size != size - sizeof(*header))
        return refuse(SLUICE_INVALID, "the message is not as long as its header says", why);
    *out = header;
    return SLUICE_OK;
}

/* One operation with `left` bytes from its first to the command's last. */
static enum sluice_status check_operation(const struct wire_operation *operation, size_t left, const char **why)
{
    if (left < sizeof(*operation))
        return refuse(SLUICE_INVALID, "the command ends within an operation", why);
    if (operation->kind != WIRE_PUT && operation->kind != WIRE_DELETE)
        return refuse(SLUICE_INVALID, "an operation is a put or a delete", why);
    if ((operation->flags & ~OPERATION_FLAGS) != 0 || operation->reserved != 0)
        return refuse(SLUICE_INVALID, "an operation has a flag that is not known here", why);
    if (operation->key_size == 0 || operation->key_size > WIRE_KEY_BYTES_MAX)
        return refuse(SLUICE_INVALID, "a key has 1 to 1,024 bytes", why);
    if (operation->content_type_size > WIRE_CONTENT_TYPE_BYTES_MAX)
        return refuse(SLUICE_INVALID, "a content type has at most 255 bytes", why);
    if (operation->value_size > WIRE_VALUE_BYTES_MAX)
        return refuse(SLUICE_TOO_LARGE, "a value has at most 64 MiB", why);
    if (operation->kind == WIRE_DELETE && operation->value_size != 0)
        return refuse(SLUICE_INVALID, "a delete carries no value", why);
    if (operation->size !=
        wire_operation_bytes(operation->key_size, operation->content_type_size, operation->value_size))
        return refuse(SLUICE_INVALID, "an operation's size does not fit its parts", why);
    if (operation->size > left)
        return refuse(SLUICE_INVALID, "the command ends within an operation", why);
    return SLUICE_OK;
}

struct named {
    const char *key;
    size_t size;
};

static int compare_named(const void *left, const void *right)
{
    const struct named *a = left, *b = right;
    if (a->size != b->size)
        return a->size < b->size ? -1 : 1;
    return memcmp(a->key, b->key, a->size);
}

/* All operations of an entry happen at one revision, so a key can't be named twice. Sorting bounds what a hostile
 * sender can make this cost. */
static int keys_differ(const struct wire_command *command)
{
    struct named keys[WIRE_OPERATIONS_MAX];
    struct wire_operation_view view;
    size_t offset = 0, count = 0;
    while (wire_operation_next(command, &offset, &view))
        keys[count++] = (struct named){view.key, view.operation->key_size};
    qsort(keys, count, sizeof(keys[0]), compare_named);
    for (size_t i = 1; i < count; i++)
        if (compare_named(&keys[i - 1], &keys[i]) == 0)
            return 0;
    return 1;
}

enum sluice_status wire_command_read(const void *data, size_t size, const struct wire_command **out, const char **why)
{
    const struct wire_command *command = data;
    if (size < sizeof(*command))
        return refuse(SLUICE_INVALID, "a command has at least 64 bytes; fewer came", why);
    if (!aligned(data))
        return refuse(SLUICE_INVALID, "a command begins at a multiple of 8 bytes", why);
    if (command->version != 1)
        return refuse(SLUICE_VERSION, "the command is of another version; this side reads version 1", why);
    if (command->kind < WIRE_COMMAND_WRITE || command->kind > WIRE_COMMAND_CURSOR)
        return refuse(SLUICE_INVALID, "this kind of command is not known here", why);
    if (size > WIRE_BODY_BYTES_MAX)
        return refuse(SLUICE_TOO_LARGE, "a command has at most 65 MiB", why);
    if (command->size != size)
        return refuse(SLUICE_INVALID, "the command is not as long as it says", why);
    if (command->operation_count == 0 || command->operation_count > WIRE_OPERATIONS_MAX)
        return refuse(SLUICE_INVALID, "a command has 1 to 1,024 operations", why);
    size_t offset = sizeof(*command);
    for (uint16_t i = 0; i < command->operation_count; i++) {
        const struct wire_operation *operation =
            (const struct wire_operation *)(const void *)((const uint8_t *)data + offset);
        enum sluice_status status = check_operation(operation, size - offset, why);
        if (status != SLUICE_OK)
            return status;
        offset += operation->size;
    }
    if (offset != size)
        return refuse(SLUICE_INVALID, "bytes follow the command's last operation", why);
    if (command->operation_count > 1 && !keys_differ(command))
        return refuse(SLUICE_INVALID, "a batch names each key at most once", why);
    *out = command;
    return SLUICE_OK;
}

int wire_operation_next(const struct wire_command *command, size_t *offset, struct wire_operation_view *out)
{
    if (*offset == 0)
        *offset = sizeof(*command);
    if (*offset >= command->size)
        return 0;
    const uint8_t *at = (const uint8_t *)command + *offset;
    const struct wire_operation *operation = (const struct wire_operation *)(const void *)at;
    out->operation = operation;
    out->key = (const char *)(operation + 1);
    out->content_type = out->key + operation->key_size;
    out->value = at + wire_operation_value_offset(operation->key_size, operation->content_type_size);
    *offset += operation->size;
    return 1;
}

enum sluice_status wire_query_read(const void *data, size_t size, const struct wire_query **out, const char **why)
{
    const struct wire_query *query = data;
    if (size < sizeof(*query))
        return refuse(SLUICE_INVALID, "a query has at least 88 bytes; fewer came", why);
    if (!aligned(data))
        return refuse(SLUICE_INVALID, "a query begins at a multiple of 8 bytes", why);
    if (query->version != 1)
        return refuse(SLUICE_VERSION, "the query is of another version; this side reads version 1", why);
    if (query->kind > WIRE_PATTERN_REGEX)
        return refuse(SLUICE_INVALID, "a pattern is a key, a prefix, a glob or a regular expression", why);
    if ((query->flags & ~QUERY_FLAGS) != 0)
        return refuse(SLUICE_INVALID, "the query has a flag that is not known here", why);
    if (query->key_size > WIRE_KEY_BYTES_MAX || query->after_size > WIRE_KEY_BYTES_MAX)
        return refuse(SLUICE_INVALID, "a key, a prefix or a pattern has at most 1,024 bytes", why);
    if (size != sizeof(*query) + query->key_size + query->after_size)
        return refuse(SLUICE_INVALID, "the query is not as long as its parts", why);
    *out = query;
    return SLUICE_OK;
}

int wire_record_next(const void *data, size_t size, size_t *offset, struct wire_record_view *out)
{
    if (*offset == size)
        return 0;
    if (*offset > size || size - *offset < sizeof(struct wire_record) || !aligned(data))
        return -1;
    const uint8_t *at = (const uint8_t *)data + *offset;
    const struct wire_record *record = (const struct wire_record *)(const void *)at;
    if (record->key_size > WIRE_KEY_BYTES_MAX || record->content_type_size > WIRE_CONTENT_TYPE_BYTES_MAX ||
        record->carried_size > record->value_size || record->value_size > WIRE_VALUE_BYTES_MAX ||
        (record->carried_size > 0 && (record->flags & WIRE_RECORD_VALUE) == 0))
        return -1;
    size_t plain = sizeof(*record) + record->key_size + record->content_type_size + record->carried_size;
    size_t left = size - *offset;
    if (plain > left)
        return -1;
    out->record = record;
    out->key = (const char *)(record + 1);
    out->content_type = out->key + record->key_size;
    out->value = out->content_type + record->content_type_size;
    /* The last record of a reply goes without its padding, so that a value can be sent out of its own buffer. */
    *offset += wire_pad(plain) < left ? wire_pad(plain) : left;
    return 1;
}

/* Messages of core RPC: whatever comes, what is taken can be read to its last byte, and what is refused has a reason.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "api/wire.h"
#include "core/base/panic.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile unsigned sink;

static void touch(const void *data, size_t size)
{
    const uint8_t *bytes = data;
    unsigned sum = 0;
    for (size_t i = 0; i < size; i++)
        sum += bytes[i];
    sink = sum;
}

static void read_command(const void *data, size_t size)
{
    const struct wire_command *command = NULL;
    const char *why = NULL;
    struct wire_operation_view view;
    size_t offset = 0, count = 0;
    if (wire_command_read(data, size, &command, &why) != SLUICE_OK) {
        ASSERT(why != NULL);
        return;
    }
    while (wire_operation_next(command, &offset, &view)) {
        touch(view.key, view.operation->key_size);
        touch(view.content_type, view.operation->content_type_size);
        touch(view.value, view.operation->value_size);
        count++;
    }
    ASSERT(offset == size && count == command->operation_count);
}

static void read_records(const void *data, size_t size)
{
    struct wire_record_view view;
    size_t offset = 0;
    int last;
    while ((last = wire_record_next(data, size, &offset, &view)) == 1) {
        touch(view.key, view.record->key_size);
        touch(view.content_type, view.record->content_type_size);
        touch(view.value, view.record->carried_size);
    }
    ASSERT(last == -1 || offset == size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct wire_header *header = NULL;
    const struct wire_query *query = NULL;
    const char *why = NULL;
    /* Aligned as the fabric hands it up, and not a byte more than there is. */
    void *copy = malloc(size > 0 ? size : 1);
    if (copy == NULL)
        return 0;
    memcpy(copy, data, size);
    if (wire_header_read(copy, size, &header, &why) == SLUICE_OK)
        touch(header + 1, header->body_size);
    else
        ASSERT(why != NULL);
    if (wire_query_read(copy, size, &query, &why) == SLUICE_OK) {
        touch(wire_query_key(query), query->key_size);
        touch(wire_query_after(query), query->after_size);
    }
    read_command(copy, size);
    read_records(copy, size);
    free(copy);
    return 0;
}

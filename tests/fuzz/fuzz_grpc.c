/* Any bytes as a request of any method, in two pieces: no crash, no leak, and what passes the checks is what the store
 * may be given. */
#include <stdlib.h>
#include <string.h>

#include "core/base/panic.h"
#include "core/base/text.h"
#include "gateway/convert.h"
#include "gateway/protowire.h"
#include "gateway/reflection.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_operation(const struct sluice_operation *operation)
{
    ASSERT(text_key_error(operation->key, operation->key_size) == NULL);
    ASSERT(operation->content_type_size <= 255);
    ASSERT(operation->if_match + operation->if_absent + operation->if_present <= 1);
}

static void try_put(const ProtobufCMessage *message)
{
    struct sluice_operation operation;
    struct sluice_write write;
    if (convert_put((const Sluice__V1__PutRequest *)message, &operation, &write) == NULL)
        check_operation(&operation);
}

static void try_delete(const ProtobufCMessage *message)
{
    struct sluice_operation operation;
    struct sluice_write write;
    if (convert_delete((const Sluice__V1__DeleteRequest *)message, &operation, &write) == NULL)
        check_operation(&operation);
}

static void try_batch(const ProtobufCMessage *message)
{
    static struct sluice_operation operations[CONVERT_OPERATIONS_MAX];
    const Sluice__V1__BatchRequest *batch = (const Sluice__V1__BatchRequest *)message;
    struct sluice_write write;
    if (batch->n_operations > CONVERT_OPERATIONS_MAX || convert_batch(batch, operations, &write) != NULL)
        return;
    ASSERT(write.operation_count > 0);
    for (size_t i = 0; i < write.operation_count; i++)
        check_operation(&operations[i]);
}

static void try_get(const ProtobufCMessage *message)
{
    struct sluice_get get;
    if (convert_get((const Sluice__V1__GetRequest *)message, &get) == NULL)
        ASSERT(text_key_error(get.key, get.key_size) == NULL && (get.version == 0 || get.at_ns == 0));
}

static void try_list(const ProtobufCMessage *message)
{
    struct sluice_list list;
    if (convert_list((const Sluice__V1__ListRequest *)message, &list) == NULL)
        ASSERT(text_utf8_valid(list.prefix, list.prefix_size) && !(list.delimiter & 0x80));
}

static void try_history(const ProtobufCMessage *message)
{
    struct sluice_history history;
    if (convert_history((const Sluice__V1__HistoryRequest *)message, &history) == NULL)
        ASSERT(text_key_error(history.key, history.key_size) == NULL);
}

static void try_snapshot(const ProtobufCMessage *message)
{
    static const char *names[CONVERT_NAMES_MAX];
    static size_t sizes[CONVERT_NAMES_MAX];
    const Sluice__V1__SnapshotRequest *request = (const Sluice__V1__SnapshotRequest *)message;
    size_t keys = request->n_keys;
    struct sluice_snapshot snapshot;
    if (keys + request->n_prefixes > CONVERT_NAMES_MAX ||
        convert_snapshot(request, names, sizes, names + keys, sizes + keys, &snapshot) != NULL)
        return;
    for (size_t i = 0; i < snapshot.key_count; i++)
        ASSERT(text_key_error(snapshot.keys[i], snapshot.key_sizes[i]) == NULL);
}

static void try_watch(const ProtobufCMessage *message)
{
    struct sluice_watch_options options;
    if (convert_watch((const Sluice__V1__WatchRequest *)message, &options) == NULL)
        ASSERT(options.kind >= 1 && options.kind <= 4 && options.pattern_size <= 1024);
}

static void try_reflection(const ProtobufCMessage *message)
{
    struct bytes out = {0};
    ASSERT(reflection_answer((const Grpc__Reflection__V1alpha__ServerReflectionRequest *)message, &out) == SLUICE_OK);
    Grpc__Reflection__V1alpha__ServerReflectionResponse *response =
        grpc__reflection__v1alpha__server_reflection_response__unpack(NULL, out.size, out.data);
    ASSERT(response != NULL);
    grpc__reflection__v1alpha__server_reflection_response__free_unpacked(response, NULL);
    bytes_free(&out);
}

static const struct {
    const ProtobufCMessageDescriptor *descriptor;
    void (*try)(const ProtobufCMessage *message);
    uint32_t value_field;
} methods[] = {
    {&sluice__v1__put_request__descriptor, try_put, 2},
    {&sluice__v1__delete_request__descriptor, try_delete, 0},
    {&sluice__v1__batch_request__descriptor, try_batch, 0},
    {&sluice__v1__get_request__descriptor, try_get, 0},
    {&sluice__v1__list_request__descriptor, try_list, 0},
    {&sluice__v1__history_request__descriptor, try_history, 0},
    {&sluice__v1__snapshot_request__descriptor, try_snapshot, 0},
    {&sluice__v1__watch_request__descriptor, try_watch, 0},
    {&grpc__reflection__v1alpha__server_reflection_request__descriptor, try_reflection, 0},
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    size_t which = data[0] % (sizeof(methods) / sizeof(methods[0]));
    size_t cut = data[1] < size - 2 ? data[1] : size - 2;
    data += 2;
    size -= 2;
    const struct slice pieces[] = {{data, cut}, {data + cut, size - cut}};
    struct protowire_parts parts;
    const char *why = NULL;
    enum sluice_status status = protowire_split(pieces, 2, methods[which].value_field, 1 << 16, 1 << 16, &parts, &why);
    if (status != SLUICE_OK) {
        ASSERT(why != NULL);
        return 0;
    }
    ProtobufCMessage *message;
    status = protowire_unpack(methods[which].descriptor, parts.rest.data, parts.rest.size, &message, &why);
    if (status == SLUICE_OK) {
        methods[which].try(message);
        protobuf_c_message_free_unpacked(message, NULL);
    } else {
        ASSERT(why != NULL);
    }
    protowire_parts_free(&parts);
    return 0;
}

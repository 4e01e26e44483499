/* sluice.v1.Store, as far as one request has one reply. */
#include <stdlib.h>

#include "gateway/convert.h"
#include "gateway/grpc__.h"
#include "gateway/protowire.h"

/* Ends a call that must not go on. */
static bool refused(struct rpc *self, enum sluice_status status, const char *why)
{
    if (status != SLUICE_OK)
        rpc_fail(self, status, why);
    return status != SLUICE_OK;
}

static bool malformed(struct rpc *self, const char *error)
{
    return refused(self, error != NULL ? SLUICE_INVALID : SLUICE_OK, error);
}

static bool key_refused(struct rpc *self, enum auth_role role, const char *key, size_t size)
{
    const char *why = NULL;
    return refused(self, auth_key(self->subject, role, key, size, &why), why);
}

static bool prefix_refused(struct rpc *self, const char *prefix, size_t size)
{
    const char *why = NULL;
    return refused(self, auth_prefix(self->subject, AUTH_READ, prefix, size, &why), why);
}

/* Packs an answer with `convert`, or passes its failure on. */
static void reply(struct rpc *self, const struct sluice_answer *answer,
                  enum sluice_status (*convert)(const struct rpc *, const struct sluice_answer *, struct rpc_message *))
{
    struct rpc_message message = {0};
    if (answer->status != SLUICE_OK) {
        rpc_fail_answer(self, answer);
        return;
    }
    enum sluice_status status = convert(self, answer, &message);
    if (status == SLUICE_OK) {
        rpc_succeed(self, &message);
        return;
    }
    rpc_message_free(&message);
    rpc_fail(self, status, NULL);
}

/* --- Writes ------------------------------------------------------------------------------------------------------*/

static enum sluice_status put_pack(const struct rpc *self, const struct sluice_answer *answer, struct rpc_message *out)
{
    bool absent_before = ((const Sluice__V1__PutRequest *)self->request)->if_absent;
    return convert_written(answer, absent_before, &out->head);
}

static void put_done(void *arg, const struct sluice_answer *answer)
{
    reply(arg, answer, put_pack);
}

static enum sluice_status delete_pack(const struct rpc *self, const struct sluice_answer *answer,
                                      struct rpc_message *out)
{
    (void)self;
    return convert_written(answer, false, &out->head);
}

static void delete_done(void *arg, const struct sluice_answer *answer)
{
    reply(arg, answer, delete_pack);
}

static void write_one(struct rpc *self, struct sluice_write *write, const struct sluice_operation *operation,
                      sluice_done done)
{
    if (key_refused(self, AUTH_WRITE, operation->key, operation->key_size))
        return;
    write->call = rpc_call(self);
    write->call.admin = auth_internal(operation->key, operation->key_size);
    write->subject = auth_subject_name(self->subject);
    sluice_write(gateway__client(self->shared->gateway), write, done, self);
}

static void put_start(struct rpc *self)
{
    struct sluice_write write;
    struct sluice_operation operation;
    if (malformed(self, convert_put((const Sluice__V1__PutRequest *)self->request, &operation, &write)))
        return;
    operation.value = self->value;
    operation.data_size = self->value_size;
    write_one(self, &write, &operation, put_done);
}

static void delete_start(struct rpc *self)
{
    struct sluice_write write;
    struct sluice_operation operation;
    if (malformed(self, convert_delete((const Sluice__V1__DeleteRequest *)self->request, &operation, &write)))
        return;
    write_one(self, &write, &operation, delete_done);
}

static enum sluice_status batch_pack(const struct rpc *self, const struct sluice_answer *answer,
                                     struct rpc_message *out)
{
    return convert_batch_answer(answer, (const Sluice__V1__BatchRequest *)self->request, &out->head);
}

static void batch_done(void *arg, const struct sluice_answer *answer)
{
    reply(arg, answer, batch_pack);
}

static void batch_start(struct rpc *self)
{
    const Sluice__V1__BatchRequest *request = (const Sluice__V1__BatchRequest *)self->request;
    if (request->n_operations > CONVERT_OPERATIONS_MAX) {
        rpc_fail(self, SLUICE_TOO_LARGE, "a batch holds at most 1,024 operations");
        return;
    }
    struct sluice_operation *operations = malloc((request->n_operations + 1) * sizeof(*operations));
    if (operations == NULL) {
        rpc_fail(self, SLUICE_MEMORY, NULL);
        return;
    }
    struct sluice_write write;
    if (malformed(self, convert_batch(request, operations, &write)))
        goto done;
    write.call = rpc_call(self);
    for (size_t i = 0; i < write.operation_count; i++) {
        if (key_refused(self, AUTH_WRITE, operations[i].key, operations[i].key_size))
            goto done;
        if (operations[i].data_size > self->shared->value_bytes_max) {
            rpc_fail(self, SLUICE_TOO_LARGE, "a value of the batch is larger than the limit");
            goto done;
        }
        write.call.admin |= auth_internal(operations[i].key, operations[i].key_size);
    }
    write.subject = auth_subject_name(self->subject);
    sluice_write(gateway__client(self->shared->gateway), &write, batch_done, self);
done:
    free(operations);
}

/* --- Reads -------------------------------------------------------------------------------------------------------*/

static enum sluice_status get_pack(const struct rpc *self, const struct sluice_answer *answer, struct rpc_message *out)
{
    (void)self;
    return answer->object_count > 0 ? convert_object(&answer->objects[0], out) : SLUICE_INTERNAL;
}

static void get_done(void *arg, const struct sluice_answer *answer)
{
    reply(arg, answer, get_pack);
}

static void get_start(struct rpc *self)
{
    struct sluice_get get;
    if (malformed(self, convert_get((const Sluice__V1__GetRequest *)self->request, &get)) ||
        key_refused(self, AUTH_READ, get.key, get.key_size))
        return;
    uint64_t after_ns = get.call.after_ns;
    get.call = rpc_call(self);
    if (after_ns > get.call.after_ns)
        get.call.after_ns = after_ns;
    get.call.admin = auth_internal(get.key, get.key_size);
    sluice_get(gateway__client(self->shared->gateway), &get, get_done, self);
}

static enum sluice_status list_pack(const struct rpc *self, const struct sluice_answer *answer, struct rpc_message *out)
{
    (void)self;
    return convert_list_answer(answer, &out->head);
}

static void list_done(void *arg, const struct sluice_answer *answer)
{
    reply(arg, answer, list_pack);
}

static void list_start(struct rpc *self)
{
    struct sluice_list list;
    if (malformed(self, convert_list((const Sluice__V1__ListRequest *)self->request, &list)) ||
        prefix_refused(self, list.prefix, list.prefix_size))
        return;
    list.call = rpc_call(self);
    list.call.admin = auth_internal(list.prefix, list.prefix_size);
    sluice_list(gateway__client(self->shared->gateway), &list, list_done, self);
}

static enum sluice_status snapshot_pack(const struct rpc *self, const struct sluice_answer *answer,
                                        struct rpc_message *out)
{
    (void)self;
    return convert_snapshot_answer(answer, &out->head);
}

static void snapshot_done(void *arg, const struct sluice_answer *answer)
{
    reply(arg, answer, snapshot_pack);
}

static bool snapshot_refused(struct rpc *self, struct sluice_snapshot *snapshot)
{
    for (size_t i = 0; i < snapshot->key_count; i++) {
        if (key_refused(self, AUTH_READ, snapshot->keys[i], snapshot->key_sizes[i]))
            return true;
        snapshot->call.admin |= auth_internal(snapshot->keys[i], snapshot->key_sizes[i]);
    }
    for (size_t i = 0; i < snapshot->prefix_count; i++) {
        if (prefix_refused(self, snapshot->prefixes[i], snapshot->prefix_sizes[i]))
            return true;
        snapshot->call.admin |= auth_internal(snapshot->prefixes[i], snapshot->prefix_sizes[i]);
    }
    return false;
}

static void snapshot_start(struct rpc *self)
{
    const Sluice__V1__SnapshotRequest *request = (const Sluice__V1__SnapshotRequest *)self->request;
    size_t keys = request->n_keys, count = keys + request->n_prefixes;
    if (count > CONVERT_NAMES_MAX) {
        rpc_fail(self, SLUICE_TOO_LARGE, "a snapshot names at most 10,000 keys and prefixes");
        return;
    }
    const char **names = malloc((count + 1) * sizeof(*names));
    size_t *sizes = malloc((count + 1) * sizeof(*sizes));
    struct sluice_snapshot snapshot;
    if (names == NULL || sizes == NULL) {
        rpc_fail(self, SLUICE_MEMORY, NULL);
        goto done;
    }
    if (malformed(self, convert_snapshot(request, names, sizes, names + keys, sizes + keys, &snapshot)))
        goto done;
    snapshot.call = rpc_call(self);
    if (!snapshot_refused(self, &snapshot))
        sluice_snapshot(gateway__client(self->shared->gateway), &snapshot, snapshot_done, self);
done:
    free(names);
    free(sizes);
}

const struct rpc_method rpc_store_methods[] = {
    {.path = "/sluice.v1.Store/Put",
     .request = &sluice__v1__put_request__descriptor,
     .value_field = 2, /* data */
     .request_bytes_max = RPC_SMALL_BYTES_MAX,
     .start = put_start},
    {.path = "/sluice.v1.Store/Get",
     .request = &sluice__v1__get_request__descriptor,
     .request_bytes_max = RPC_SMALL_BYTES_MAX,
     .start = get_start},
    {.path = "/sluice.v1.Store/Delete",
     .request = &sluice__v1__delete_request__descriptor,
     .request_bytes_max = RPC_SMALL_BYTES_MAX,
     .start = delete_start},
    {.path = "/sluice.v1.Store/List",
     .request = &sluice__v1__list_request__descriptor,
     .request_bytes_max = RPC_SMALL_BYTES_MAX,
     .start = list_start},
    {.path = "/sluice.v1.Store/Snapshot",
     .request = &sluice__v1__snapshot_request__descriptor,
     .request_bytes_max = (size_t)CONVERT_NAMES_MAX * 1100,
     .start = snapshot_start},
    {.path = "/sluice.v1.Store/Batch",
     .request = &sluice__v1__batch_request__descriptor,
     .request_bytes_max = (size_t)65 << 20,
     .start = batch_start},
};
const size_t rpc_store_method_count = sizeof(rpc_store_methods) / sizeof(rpc_store_methods[0]);

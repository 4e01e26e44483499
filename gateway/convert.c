#include <string.h>

#include "core/base/panic.h"
#include "core/base/text.h"
#include "gateway/convert.h"
#include "gateway/protowire.h"

#define CONTENT_TYPE_BYTES_MAX 255
#define CURSOR_BYTES_MAX       512
#define IDEMPOTENCY_BYTES_MAX  255
#define LIMIT_MAX              10000

/* Field numbers that are written here by hand, since a value follows them or there may be many. */
enum {
    OBJECT_DATA = 10,
    LIST_OBJECTS = 1,
    SNAPSHOT_OBJECTS = 1,
    LIST_PREFIXES = 2,
    BATCH_RESULTS = 1,
    EVENT_OBJECT = 2
};

/* --- Requests ----------------------------------------------------------------------------------------------------*/

/* One leading slash of a name is allowed and ignored. */
static const char *name_of(const char *text, size_t *size)
{
    if (text[0] == '/')
        text++;
    *size = strlen(text);
    return text;
}

static const char *key_of(const char *text, const char **key, size_t *size)
{
    *key = name_of(text, size);
    return text_key_error(*key, *size);
}

static const char *prefix_of(const char *text, const char **prefix, size_t *size)
{
    *prefix = name_of(text, size);
    return *size > KEY_BYTES_MAX ? "a prefix is at most 1,024 bytes long" : NULL;
}

static const char *time_of(int64_t nanoseconds, uint64_t *out)
{
    *out = (uint64_t)nanoseconds;
    return nanoseconds < 0 ? "times are nanoseconds since 1970 and not negative" : NULL;
}

static const char *ack_of(Sluice__V1__Ack ack, bool *delivered)
{
    *delivered = ack == SLUICE__V1__ACK__ACK_DELIVERED;
    return ack == SLUICE__V1__ACK__ACK_DEFAULT || ack == SLUICE__V1__ACK__ACK_PERSISTED || *delivered
               ? NULL
               : "ack is ACK_DEFAULT, ACK_PERSISTED or ACK_DELIVERED";
}

static const char *idempotency_of(const char *key, struct sluice_write *out)
{
    out->idempotency_key_size = strlen(key);
    out->idempotency_key = out->idempotency_key_size > 0 ? key : NULL;
    return out->idempotency_key_size > IDEMPOTENCY_BYTES_MAX ? "an idempotency key is at most 255 bytes long" : NULL;
}

static const char *put_of(const Sluice__V1__PutRequest *in, struct sluice_operation *out)
{
    *out = (struct sluice_operation){.kind = SLUICE_PUT,
                                     .content_type = in->content_type,
                                     .content_type_size = strlen(in->content_type),
                                     .if_match = in->if_version != 0,
                                     .if_version = in->if_version,
                                     .if_epoch = in->if_epoch,
                                     .if_absent = in->if_absent,
                                     .if_present = in->if_present,
                                     .has_object_time = in->object_time_ns != 0};
    const char *error = key_of(in->key, &out->key, &out->key_size);
    if (error == NULL)
        error = time_of(in->object_time_ns, &out->object_time_ns);
    if (error == NULL && out->content_type_size > CONTENT_TYPE_BYTES_MAX)
        error = "a content type is at most 255 bytes long";
    if (error == NULL && out->if_match + out->if_absent + out->if_present > 1)
        error = "at most one of if_version, if_absent and if_present can hold";
    if (error == NULL && in->if_epoch != 0 && !out->if_match)
        error = "if_epoch belongs to if_version, which is missing";
    return error;
}

static const char *delete_of(const Sluice__V1__DeleteRequest *in, struct sluice_operation *out)
{
    *out = (struct sluice_operation){
        .kind = SLUICE_DELETE, .if_match = in->if_version != 0, .if_version = in->if_version, .if_epoch = in->if_epoch};
    const char *error = key_of(in->key, &out->key, &out->key_size);
    if (error == NULL && in->if_epoch != 0 && !out->if_match)
        error = "if_epoch belongs to if_version, which is missing";
    return error;
}

const char *convert_put(const Sluice__V1__PutRequest *in, struct sluice_operation *operation, struct sluice_write *out)
{
    *out = (struct sluice_write){.operations = operation, .operation_count = 1};
    const char *error = put_of(in, operation);
    if (error == NULL)
        error = idempotency_of(in->idempotency_key, out);
    return error != NULL ? error : ack_of(in->ack, &out->ack_delivered);
}

const char *convert_delete(const Sluice__V1__DeleteRequest *in, struct sluice_operation *operation,
                           struct sluice_write *out)
{
    *out = (struct sluice_write){.operations = operation, .operation_count = 1};
    const char *error = delete_of(in, operation);
    if (error == NULL)
        error = idempotency_of(in->idempotency_key, out);
    return error != NULL ? error : ack_of(in->ack, &out->ack_delivered);
}

static const char *operation_of(const Sluice__V1__Operation *in, struct sluice_operation *out)
{
    static const char owned[] = "idempotency_key and ack are the batch's, not an operation's";
    if (in->kind_case == SLUICE__V1__OPERATION__KIND_PUT) {
        const Sluice__V1__PutRequest *put = in->put;
        if (put->idempotency_key[0] != '\0' || put->ack != SLUICE__V1__ACK__ACK_DEFAULT)
            return owned;
        const char *error = put_of(put, out);
        out->data = put->data.data;
        out->data_size = put->data.len;
        return error;
    }
    if (in->kind_case == SLUICE__V1__OPERATION__KIND_DELETE) {
        if (in->delete_->idempotency_key[0] != '\0' || in->delete_->ack != SLUICE__V1__ACK__ACK_DEFAULT)
            return owned;
        return delete_of(in->delete_, out);
    }
    return "an operation is a put or a delete";
}

const char *convert_batch(const Sluice__V1__BatchRequest *in, struct sluice_operation *operations,
                          struct sluice_write *out)
{
    *out = (struct sluice_write){.operations = operations, .operation_count = in->n_operations};
    if (in->n_operations == 0)
        return "a batch holds at least one operation";
    for (size_t i = 0; i < in->n_operations; i++) {
        const char *error = operation_of(in->operations[i], &operations[i]);
        if (error != NULL)
            return error;
    }
    const char *error = idempotency_of(in->idempotency_key, out);
    return error != NULL ? error : ack_of(in->ack, &out->ack_delivered);
}

const char *convert_get(const Sluice__V1__GetRequest *in, struct sluice_get *out)
{
    *out = (struct sluice_get){.version = in->version,
                               .stable = in->consistency == SLUICE__V1__CONSISTENCY__STABLE,
                               .head = in->head,
                               .offset = in->offset,
                               .length = in->length};
    const char *error = key_of(in->key, &out->key, &out->key_size);
    if (error == NULL)
        error = time_of(in->at_ns, &out->at_ns);
    if (error == NULL)
        error = time_of(in->after_ns, &out->call.after_ns);
    if (error == NULL && in->version != 0 && in->at_ns != 0)
        error = "version and at_ns exclude each other";
    if (error == NULL && in->consistency != SLUICE__V1__CONSISTENCY__LINEARIZABLE && !out->stable)
        error = "consistency is LINEARIZABLE or STABLE";
    if (error == NULL && in->clock == SLUICE__V1__CLOCK__OBJECT)
        error = "reading by the object clock is not offered in this release; use PLATFORM";
    if (error == NULL && in->clock != SLUICE__V1__CLOCK__PLATFORM)
        error = "clock is PLATFORM";
    return error;
}

const char *convert_list(const Sluice__V1__ListRequest *in, struct sluice_list *out)
{
    *out = (struct sluice_list){
        .delimiter = in->delimiter[0], .limit = in->limit, .cursor = in->cursor[0] != '\0' ? in->cursor : NULL};
    const char *error = prefix_of(in->prefix, &out->prefix, &out->prefix_size);
    if (error == NULL)
        error = time_of(in->at_ns, &out->at_ns);
    if (error == NULL && in->delimiter[0] != '\0' && (in->delimiter[1] != '\0' || (in->delimiter[0] & 0x80)))
        error = "a delimiter is one ASCII character";
    if (error == NULL && in->limit > LIMIT_MAX)
        error = "limit is at most 10,000";
    return error;
}

const char *convert_history(const Sluice__V1__HistoryRequest *in, struct sluice_history *out)
{
    *out = (struct sluice_history){.version_from = in->version_from,
                                   .version_to = in->version_to,
                                   .descending = in->descending,
                                   .values = in->data};
    const char *error = key_of(in->key, &out->key, &out->key_size);
    if (error == NULL)
        error = time_of(in->time_from_ns, &out->time_from_ns);
    return error != NULL ? error : time_of(in->time_to_ns, &out->time_to_ns);
}

const char *convert_snapshot(const Sluice__V1__SnapshotRequest *in, const char **keys, size_t *key_sizes,
                             const char **prefixes, size_t *prefix_sizes, struct sluice_snapshot *out)
{
    *out = (struct sluice_snapshot){.keys = keys,
                                    .key_sizes = key_sizes,
                                    .key_count = in->n_keys,
                                    .prefixes = prefixes,
                                    .prefix_sizes = prefix_sizes,
                                    .prefix_count = in->n_prefixes};
    if (in->n_keys + in->n_prefixes == 0)
        return "a snapshot names at least one key or prefix";
    const char *error = time_of(in->at_ns, &out->at_ns);
    for (size_t i = 0; i < in->n_keys && error == NULL; i++)
        error = key_of(in->keys[i], &keys[i], &key_sizes[i]);
    for (size_t i = 0; i < in->n_prefixes && error == NULL; i++)
        error = prefix_of(in->prefixes[i], &prefixes[i], &prefix_sizes[i]);
    return error;
}

const char *convert_watch(const Sluice__V1__WatchRequest *in, struct sluice_watch_options *out)
{
    *out = (struct sluice_watch_options){
        .kind = (int)in->pattern_case, .cursor = in->from[0] != '\0' ? in->from : NULL, .values = in->data};
    if (strlen(in->from) > CURSOR_BYTES_MAX)
        return "a cursor is at most 512 bytes long";
    switch (in->pattern_case) {
    case SLUICE__V1__WATCH_REQUEST__PATTERN_KEY:
        return key_of(in->key, &out->pattern, &out->pattern_size);
    case SLUICE__V1__WATCH_REQUEST__PATTERN_PREFIX:
        return prefix_of(in->prefix, &out->pattern, &out->pattern_size);
    case SLUICE__V1__WATCH_REQUEST__PATTERN_GLOB:
        return prefix_of(in->glob, &out->pattern, &out->pattern_size);
    case SLUICE__V1__WATCH_REQUEST__PATTERN_REGEX:
        out->pattern = in->regex;
        out->pattern_size = strlen(in->regex);
        return out->pattern_size > KEY_BYTES_MAX ? "a regular expression is at most 1,024 bytes long" : NULL;
    default:
        return "expected one of key, prefix, glob and regex";
    }
}
_Static_assert(SLUICE__V1__WATCH_REQUEST__PATTERN_KEY == 1 && SLUICE__V1__WATCH_REQUEST__PATTERN_PREFIX == 2 &&
                   SLUICE__V1__WATCH_REQUEST__PATTERN_GLOB == 3 && SLUICE__V1__WATCH_REQUEST__PATTERN_REGEX == 4,
               "the kinds of struct sluice_watch_options");

/* --- Answers -----------------------------------------------------------------------------------------------------*/

void rpc_message_free(struct rpc_message *self)
{
    bytes_free(&self->head);
    sluice_value_unref(self->value);
    *self = (struct rpc_message){0};
}

/* Generated code wants strings that end in a zero byte. */
struct names {
    char key[KEY_BYTES_MAX + 1];
    char content_type[CONTENT_TYPE_BYTES_MAX + 1];
};

static char *copy(char *out, size_t out_max, const char *text, size_t size)
{
    ASSERT(size <= out_max); /* libsluice checks what nodes send */
    if (size > 0)
        memcpy(out, text, size);
    out[size] = '\0';
    return out;
}

static Sluice__V1__Object facts_of(const struct sluice_object *object, struct names *names)
{
    Sluice__V1__Object out = SLUICE__V1__OBJECT__INIT;
    out.key = copy(names->key, KEY_BYTES_MAX, object->key, object->key_size);
    out.content_type =
        copy(names->content_type, CONTENT_TYPE_BYTES_MAX, object->content_type, object->content_type_size);
    out.version = object->version;
    out.revision = object->revision;
    out.shard = object->shard;
    out.epoch = object->epoch;
    out.time_ns = (int64_t)object->time_ns;
    out.object_time_ns = (int64_t)object->object_time_ns;
    out.size = object->size;
    out.deleted = object->deleted;
    return out;
}

/* What an object's message takes besides its data. */
static size_t data_field_size(const struct sluice_object *object)
{
    return object->data_size > 0 ? protowire_head_size(OBJECT_DATA, object->data_size) + object->data_size : 0;
}

/* The end of a message that ends in an object's data: referenced where there is a value to hold on to. */
static enum sluice_status append_data(const struct sluice_object *object, struct rpc_message *out)
{
    if (object->data_size == 0)
        return SLUICE_OK;
    if (object->value == NULL)
        return protowire_append_field(&out->head, OBJECT_DATA, object->data, object->data_size);
    enum sluice_status status = protowire_append_head(&out->head, OBJECT_DATA, object->data_size);
    if (status != SLUICE_OK)
        return status;
    out->value = sluice_value_ref(object->value);
    out->data = object->data;
    out->data_size = object->data_size;
    return SLUICE_OK;
}

enum sluice_status convert_object(const struct sluice_object *object, struct rpc_message *out)
{
    struct names names;
    Sluice__V1__Object facts = facts_of(object, &names);
    enum sluice_status status = protowire_append(&out->head, &facts.base);
    return status == SLUICE_OK ? append_data(object, out) : status;
}

/* An object as the field `number` of a message with several. */
static enum sluice_status append_object(const struct sluice_object *object, uint32_t number, struct bytes *out)
{
    struct names names;
    Sluice__V1__Object facts = facts_of(object, &names);
    size_t size = protobuf_c_message_get_packed_size(&facts.base) + data_field_size(object);
    enum sluice_status status = protowire_append_head(out, number, size);
    if (status == SLUICE_OK)
        status = protowire_append(out, &facts.base);
    if (status == SLUICE_OK && object->data_size > 0)
        status = protowire_append_field(out, OBJECT_DATA, object->data, object->data_size);
    return status;
}

static Sluice__V1__Written written_of(const struct sluice_answer *answer, const struct sluice_object *object,
                                      bool absent_before, struct names *names)
{
    Sluice__V1__Written out = SLUICE__V1__WRITTEN__INIT;
    out.key = copy(names->key, KEY_BYTES_MAX, object->key, object->key_size);
    out.version = object->version;
    out.revision = object->revision;
    out.shard = object->shard;
    out.epoch = object->epoch;
    out.time_ns = (int64_t)object->time_ns;
    out.object_time_ns = (int64_t)object->object_time_ns;
    out.size = object->size;
    out.created = object->created || absent_before;
    out.replayed = answer->replayed;
    out.durable = answer->durable;
    return out;
}

enum sluice_status convert_written(const struct sluice_answer *answer, bool absent_before, struct bytes *out)
{
    struct names names;
    if (answer->object_count == 0)
        return SLUICE_INTERNAL;
    Sluice__V1__Written written = written_of(answer, &answer->objects[0], absent_before, &names);
    return protowire_append(out, &written.base);
}

enum sluice_status convert_batch_answer(const struct sluice_answer *answer, const Sluice__V1__BatchRequest *request,
                                        struct bytes *out)
{
    Sluice__V1__BatchResponse response = SLUICE__V1__BATCH_RESPONSE__INIT;
    if (answer->object_count == 0 || answer->object_count != request->n_operations)
        return SLUICE_INTERNAL;
    response.revision = answer->objects[0].revision;
    response.time_ns = (int64_t)answer->objects[0].time_ns;
    enum sluice_status status = protowire_append(out, &response.base);
    for (size_t i = 0; i < answer->object_count && status == SLUICE_OK; i++) {
        struct names names;
        const Sluice__V1__Operation *operation = request->operations[i];
        bool absent_before = operation->kind_case == SLUICE__V1__OPERATION__KIND_PUT && operation->put->if_absent;
        Sluice__V1__Written written = written_of(answer, &answer->objects[i], absent_before, &names);
        status = protowire_append_head(out, BATCH_RESULTS, protobuf_c_message_get_packed_size(&written.base));
        if (status == SLUICE_OK)
            status = protowire_append(out, &written.base);
    }
    return status;
}

static char *or_empty(const char *text)
{
    return (char *)(uintptr_t)(text != NULL ? text : "");
}

enum sluice_status convert_list_answer(const struct sluice_answer *answer, struct bytes *out)
{
    Sluice__V1__ListResponse response = SLUICE__V1__LIST_RESPONSE__INIT;
    response.at_ns = (int64_t)answer->at_ns;
    response.cursor = or_empty(answer->cursor);
    response.watch_cursor = or_empty(answer->watch_cursor);
    enum sluice_status status = protowire_append(out, &response.base);
    for (size_t i = 0; i < answer->object_count && status == SLUICE_OK; i++)
        status = append_object(&answer->objects[i], LIST_OBJECTS, out);
    for (size_t i = 0; i < answer->prefix_count && status == SLUICE_OK; i++)
        status = protowire_append_field(out, LIST_PREFIXES, answer->prefixes[i], answer->prefix_sizes[i]);
    return status;
}

enum sluice_status convert_snapshot_answer(const struct sluice_answer *answer, struct bytes *out)
{
    enum { SNAPSHOT_MISSING = 2 };
    Sluice__V1__SnapshotResponse response = SLUICE__V1__SNAPSHOT_RESPONSE__INIT;
    response.at_ns = (int64_t)answer->at_ns;
    response.watch_cursor = or_empty(answer->watch_cursor);
    enum sluice_status status = protowire_append(out, &response.base);
    for (size_t i = 0; i < answer->object_count && status == SLUICE_OK; i++) {
        const struct sluice_object *object = &answer->objects[i];
        /* A key that is deleted at that time is as missing as one that never was. */
        status = object->version == 0 || object->deleted
                     ? protowire_append_field(out, SNAPSHOT_MISSING, object->key, object->key_size)
                     : append_object(object, SNAPSHOT_OBJECTS, out);
    }
    return status;
}

enum sluice_status convert_watch_event(const struct sluice_watch_event *event, bool values, struct rpc_message *out)
{
    Sluice__V1__WatchEvent message = SLUICE__V1__WATCH_EVENT__INIT;
    message.type = event->type == SLUICE_WATCH_PUT      ? SLUICE__V1__WATCH_EVENT__TYPE__PUT
                   : event->type == SLUICE_WATCH_DELETE ? SLUICE__V1__WATCH_EVENT__TYPE__DELETE
                                                        : SLUICE__V1__WATCH_EVENT__TYPE__PROGRESS;
    message.cursor = or_empty(event->cursor);
    message.closed_ns = event->type == SLUICE_WATCH_PROGRESS ? (int64_t)event->closed_ns : 0;
    enum sluice_status status = protowire_append(&out->head, &message.base);
    if (status != SLUICE_OK || event->type == SLUICE_WATCH_PROGRESS)
        return status;

    struct names names;
    struct sluice_object object = *event->object;
    Sluice__V1__Object facts = facts_of(&object, &names);
    if (object.size > CONVERT_WATCH_VALUE_MAX) {
        facts.truncated = values && event->type == SLUICE_WATCH_PUT;
        object.data_size = 0;
    }
    size_t size = protobuf_c_message_get_packed_size(&facts.base) + data_field_size(&object);
    status = protowire_append_head(&out->head, EVENT_OBJECT, size);
    if (status == SLUICE_OK)
        status = protowire_append(&out->head, &facts.base);
    return status == SLUICE_OK ? append_data(&object, out) : status;
}

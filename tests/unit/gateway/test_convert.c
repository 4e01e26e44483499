#include <criterion/criterion.h>
#include <string.h>

#include "gateway/convert.h"

#define TEXT(text) ((char *)(uintptr_t)(text))

/* --- Requests ----------------------------------------------------------------------------------------------------*/

Test(convert, a_put_carries_all_that_it_says)
{
    Sluice__V1__PutRequest put = SLUICE__V1__PUT_REQUEST__INIT;
    struct sluice_operation operation;
    struct sluice_write write;
    put.key = TEXT("/farm/cow");
    put.content_type = TEXT("text/plain");
    put.if_version = 7;
    put.if_epoch = 2;
    put.idempotency_key = TEXT("once");
    put.object_time_ns = 12345;
    put.ack = SLUICE__V1__ACK__ACK_DELIVERED;
    cr_assert_null(convert_put(&put, &operation, &write));
    cr_assert_eq(write.operation_count, 1);
    cr_assert_eq(write.operations, &operation);
    cr_assert_eq(operation.kind, SLUICE_PUT);
    cr_assert_str_eq(operation.key, "farm/cow");
    cr_assert_eq(operation.key_size, 8);
    cr_assert_eq(operation.content_type_size, 10);
    cr_assert(operation.if_match && operation.if_version == 7 && operation.if_epoch == 2);
    cr_assert(!operation.if_absent && !operation.if_present);
    cr_assert(operation.has_object_time && operation.object_time_ns == 12345);
    cr_assert_str_eq(write.idempotency_key, "once");
    cr_assert_eq(write.idempotency_key_size, 4);
    cr_assert(write.ack_delivered);
}

static const char *put_error(void (*spoil)(Sluice__V1__PutRequest *))
{
    Sluice__V1__PutRequest put = SLUICE__V1__PUT_REQUEST__INIT;
    struct sluice_operation operation;
    struct sluice_write write;
    put.key = TEXT("k");
    spoil(&put);
    return convert_put(&put, &operation, &write);
}

static void nothing(Sluice__V1__PutRequest *put)
{
    (void)put;
}
static void no_key(Sluice__V1__PutRequest *put)
{
    put->key = TEXT("");
}
static void two_slashes(Sluice__V1__PutRequest *put)
{
    put->key = TEXT("//k");
}
static void dots(Sluice__V1__PutRequest *put)
{
    put->key = TEXT("a/../b");
}
static void two_conditions(Sluice__V1__PutRequest *put)
{
    put->if_version = 1;
    put->if_absent = 1;
}
static void epoch_alone(Sluice__V1__PutRequest *put)
{
    put->if_epoch = 1;
}
static void before_1970(Sluice__V1__PutRequest *put)
{
    put->object_time_ns = -1;
}
static void unknown_ack(Sluice__V1__PutRequest *put)
{
    put->ack = 3;
}
static void long_type(Sluice__V1__PutRequest *put)
{
    static char type[300];
    memset(type, 'x', sizeof(type) - 1);
    put->content_type = type;
}
static void long_idempotency(Sluice__V1__PutRequest *put)
{
    static char key[300];
    memset(key, 'x', sizeof(key) - 1);
    put->idempotency_key = key;
}

Test(convert, a_put_that_makes_no_sense_is_refused)
{
    static void (*const spoilers[])(Sluice__V1__PutRequest *) = {
        no_key, two_slashes, dots, two_conditions, epoch_alone, before_1970, unknown_ack, long_type, long_idempotency};
    cr_assert_null(put_error(nothing));
    for (size_t i = 0; i < sizeof(spoilers) / sizeof(spoilers[0]); i++)
        cr_assert_not_null(put_error(spoilers[i]), "spoiler %zu", i);
}

Test(convert, a_batch_takes_operations_in_their_order)
{
    Sluice__V1__PutRequest put = SLUICE__V1__PUT_REQUEST__INIT;
    Sluice__V1__DeleteRequest delete = SLUICE__V1__DELETE_REQUEST__INIT;
    Sluice__V1__Operation first = SLUICE__V1__OPERATION__INIT, second = SLUICE__V1__OPERATION__INIT;
    Sluice__V1__Operation *operations[] = {&first, &second};
    Sluice__V1__BatchRequest batch = SLUICE__V1__BATCH_REQUEST__INIT;
    struct sluice_operation out[2];
    struct sluice_write write;
    put.key = TEXT("a");
    put.data.data = (uint8_t *)TEXT("value");
    put.data.len = 5;
    delete.key = TEXT("b");
    delete.if_version = 4;
    first.kind_case = SLUICE__V1__OPERATION__KIND_PUT;
    first.put = &put;
    second.kind_case = SLUICE__V1__OPERATION__KIND_DELETE;
    second.delete_ = &delete;
    batch.n_operations = 2;
    batch.operations = operations;
    batch.idempotency_key = TEXT("once");
    cr_assert_null(convert_batch(&batch, out, &write));
    cr_assert_eq(write.operation_count, 2);
    cr_assert(out[0].kind == SLUICE_PUT && out[0].data_size == 5 && memcmp(out[0].data, "value", 5) == 0);
    cr_assert(out[1].kind == SLUICE_DELETE && out[1].if_match && out[1].if_version == 4);
    cr_assert_str_eq(write.idempotency_key, "once");

    put.idempotency_key = TEXT("own");
    cr_assert_not_null(convert_batch(&batch, out, &write));
    put.idempotency_key = TEXT("");
    delete.ack = SLUICE__V1__ACK__ACK_PERSISTED;
    cr_assert_not_null(convert_batch(&batch, out, &write));
    delete.ack = SLUICE__V1__ACK__ACK_DEFAULT;
    second.kind_case = SLUICE__V1__OPERATION__KIND__NOT_SET;
    cr_assert_not_null(convert_batch(&batch, out, &write));
    batch.n_operations = 0;
    cr_assert_not_null(convert_batch(&batch, out, &write));
}

Test(convert, a_get_is_by_version_or_by_time)
{
    Sluice__V1__GetRequest get = SLUICE__V1__GET_REQUEST__INIT;
    struct sluice_get out;
    get.key = TEXT("k");
    get.at_ns = 99;
    get.consistency = SLUICE__V1__CONSISTENCY__STABLE;
    get.head = 1;
    get.offset = 10;
    get.length = 20;
    get.after_ns = 5;
    cr_assert_null(convert_get(&get, &out));
    cr_assert(out.at_ns == 99 && !out.by_object_time && out.stable && out.head);
    cr_assert(out.offset == 10 && out.length == 20 && out.call.after_ns == 5 && out.version == 0);
    get.version = 3;
    cr_assert_not_null(convert_get(&get, &out));
    get.at_ns = 0;
    cr_assert_null(convert_get(&get, &out));
    get.clock = SLUICE__V1__CLOCK__OBJECT;
    cr_assert_not_null(strstr(convert_get(&get, &out), "not offered"));
    get.clock = 2;
    cr_assert_not_null(convert_get(&get, &out));
    get.clock = SLUICE__V1__CLOCK__PLATFORM;
    get.consistency = 2;
    cr_assert_not_null(convert_get(&get, &out));
}

Test(convert, a_list_has_a_delimiter_of_one_character_and_a_bounded_limit)
{
    Sluice__V1__ListRequest list = SLUICE__V1__LIST_REQUEST__INIT;
    struct sluice_list out;
    list.prefix = TEXT("/farm/");
    list.delimiter = TEXT("/");
    list.limit = 10000;
    cr_assert_null(convert_list(&list, &out));
    cr_assert(out.delimiter == '/' && out.limit == 10000 && out.cursor == NULL && out.prefix_size == 5);
    list.cursor = TEXT("c");
    cr_assert_null(convert_list(&list, &out));
    cr_assert_str_eq(out.cursor, "c");
    list.delimiter = TEXT("//");
    cr_assert_not_null(convert_list(&list, &out));
    list.delimiter = TEXT("ä");
    cr_assert_not_null(convert_list(&list, &out));
    list.delimiter = TEXT("");
    list.limit = 10001;
    cr_assert_not_null(convert_list(&list, &out));
}

Test(convert, a_snapshot_names_keys_and_prefixes)
{
    char *keys[] = {TEXT("a"), TEXT("/b/c")}, *prefixes[] = {TEXT("")};
    Sluice__V1__SnapshotRequest snapshot = SLUICE__V1__SNAPSHOT_REQUEST__INIT;
    const char *names[3];
    size_t sizes[3];
    struct sluice_snapshot out;
    snapshot.n_keys = 2;
    snapshot.keys = keys;
    snapshot.n_prefixes = 1;
    snapshot.prefixes = prefixes;
    snapshot.at_ns = 7;
    cr_assert_null(convert_snapshot(&snapshot, names, sizes, names + 2, sizes + 2, &out));
    cr_assert(out.key_count == 2 && out.prefix_count == 1 && out.at_ns == 7);
    cr_assert_str_eq(out.keys[1], "b/c");
    cr_assert(out.key_sizes[1] == 3 && out.prefix_sizes[0] == 0);
    keys[0] = TEXT("a//b");
    cr_assert_not_null(convert_snapshot(&snapshot, names, sizes, names + 2, sizes + 2, &out));
    snapshot.n_keys = snapshot.n_prefixes = 0;
    cr_assert_not_null(convert_snapshot(&snapshot, names, sizes, names, sizes, &out));
}

Test(convert, a_watch_has_exactly_one_pattern)
{
    Sluice__V1__WatchRequest watch = SLUICE__V1__WATCH_REQUEST__INIT;
    struct sluice_watch_options out;
    cr_assert_not_null(convert_watch(&watch, &out));
    for (int kind = 1; kind <= 4; kind++) {
        watch.pattern_case = kind;
        watch.key = TEXT("farm"); /* all patterns share a union */
        watch.from = TEXT(kind == 2 ? "cursor" : "");
        watch.data = kind == 3;
        cr_assert_null(convert_watch(&watch, &out));
        cr_assert(out.kind == kind && out.pattern_size == 4 && out.values == (kind == 3));
        cr_assert_eq(out.cursor == NULL, kind != 2);
    }
}

Test(convert, a_history_has_open_ends_by_default)
{
    Sluice__V1__HistoryRequest history = SLUICE__V1__HISTORY_REQUEST__INIT;
    struct sluice_history out;
    history.key = TEXT("k");
    history.version_from = 3;
    history.time_to_ns = 9;
    history.descending = 1;
    cr_assert_null(convert_history(&history, &out));
    cr_assert(out.version_from == 3 && out.version_to == 0 && out.time_to_ns == 9 && out.descending && !out.values);
    history.time_from_ns = -1;
    cr_assert_not_null(convert_history(&history, &out));
}

/* --- Answers -----------------------------------------------------------------------------------------------------*/

static struct sluice_object object(const char *key, const char *data)
{
    return (struct sluice_object){.key = key,
                                  .key_size = strlen(key),
                                  .content_type = "text/plain; more",
                                  .content_type_size = 10,
                                  .data = data,
                                  .data_size = data != NULL ? strlen(data) : 0,
                                  .size = data != NULL ? strlen(data) : 0,
                                  .version = 3,
                                  .revision = 40,
                                  .epoch = 1,
                                  .time_ns = 1000,
                                  .object_time_ns = 900,
                                  .shard = 5};
}

static struct bytes whole(const struct rpc_message *message)
{
    struct bytes out = {0};
    cr_assert_eq(bytes_append(&out, message->head.data, message->head.size), SLUICE_OK);
    if (message->data_size > 0)
        cr_assert_eq(bytes_append(&out, message->data, message->data_size), SLUICE_OK);
    return out;
}

Test(convert, an_object_is_sent_from_where_its_value_lies)
{
    struct sluice_value *value = sluice_value_create(2000);
    memset(sluice_value_data(value), 'v', 2000);
    struct sluice_object in = object("farm/cow", NULL);
    in.value = value;
    in.data = sluice_value_data(value) + 100;
    in.data_size = 1500;
    in.size = 2000;
    struct rpc_message message = {0};
    cr_assert_eq(convert_object(&in, &message), SLUICE_OK);
    cr_assert_eq(message.value, value);
    cr_assert_eq(message.data, in.data);
    cr_assert_eq(message.data_size, 1500);
    cr_assert_lt(message.head.size, 100);

    struct bytes packed = whole(&message);
    Sluice__V1__Object *out = sluice__v1__object__unpack(NULL, packed.size, packed.data);
    cr_assert_not_null(out);
    cr_assert_str_eq(out->key, "farm/cow");
    cr_assert_str_eq(out->content_type, "text/plain");
    cr_assert(out->version == 3 && out->revision == 40 && out->shard == 5 && out->epoch == 1 && out->size == 2000);
    cr_assert(out->time_ns == 1000 && out->object_time_ns == 900 && !out->deleted);
    cr_assert(out->data.len == 1500 && out->data.data[1499] == 'v');
    sluice__v1__object__free_unpacked(out, NULL);
    bytes_free(&packed);
    rpc_message_free(&message);
    sluice_value_unref(value);
}

Test(convert, data_that_nobody_owns_is_copied)
{
    struct sluice_object in = object("k", "moo");
    struct rpc_message message = {0};
    cr_assert_eq(convert_object(&in, &message), SLUICE_OK);
    cr_assert_null(message.value);
    Sluice__V1__Object *out = sluice__v1__object__unpack(NULL, message.head.size, message.head.data);
    cr_assert(out != NULL && out->data.len == 3 && memcmp(out->data.data, "moo", 3) == 0);
    sluice__v1__object__free_unpacked(out, NULL);
    rpc_message_free(&message);
}

Test(convert, a_watch_event_nests_its_object)
{
    struct sluice_value *value = sluice_value_create(300);
    memset(sluice_value_data(value), 'v', 300);
    struct sluice_object in = object("farm/cow", NULL);
    in.value = value;
    in.data = sluice_value_data(value);
    in.data_size = in.size = 300;
    struct sluice_watch_event event = {.type = SLUICE_WATCH_PUT, .object = &in, .cursor = "here", .closed_ns = 77};
    struct rpc_message message = {0};
    cr_assert_eq(convert_watch_event(&event, true, &message), SLUICE_OK);
    cr_assert_eq(message.value, value);
    struct bytes packed = whole(&message);
    Sluice__V1__WatchEvent *out = sluice__v1__watch_event__unpack(NULL, packed.size, packed.data);
    cr_assert_not_null(out);
    cr_assert(out->type == SLUICE__V1__WATCH_EVENT__TYPE__PUT && out->closed_ns == 0);
    cr_assert_str_eq(out->cursor, "here");
    cr_assert(out->object != NULL && out->object->data.len == 300 && !out->object->truncated);
    cr_assert_str_eq(out->object->key, "farm/cow");
    sluice__v1__watch_event__free_unpacked(out, NULL);
    bytes_free(&packed);
    rpc_message_free(&message);
    sluice_value_unref(value);
}

Test(convert, a_large_value_is_left_out_of_a_watch_event)
{
    /* Nodes send the larger ones without their values. */
    for (int sent = 0; sent < 2; sent++)
        for (int wanted = 0; wanted < 2; wanted++) {
            struct sluice_object in = object("k", "");
            in.size = CONVERT_WATCH_VALUE_MAX + 1;
            in.data_size = sent ? in.size : 0;
            struct sluice_watch_event event = {.type = SLUICE_WATCH_PUT, .object = &in};
            struct rpc_message message = {0};
            cr_assert_eq(convert_watch_event(&event, wanted, &message), SLUICE_OK);
            cr_assert_null(message.value);
            Sluice__V1__WatchEvent *out = sluice__v1__watch_event__unpack(NULL, message.head.size, message.head.data);
            cr_assert(out != NULL && out->object->truncated == wanted && out->object->data.len == 0);
            cr_assert_eq(out->object->size, CONVERT_WATCH_VALUE_MAX + 1);
            sluice__v1__watch_event__free_unpacked(out, NULL);
            rpc_message_free(&message);
        }
}

Test(convert, progress_is_a_time_and_a_cursor)
{
    struct sluice_watch_event event = {.type = SLUICE_WATCH_PROGRESS, .cursor = "here", .closed_ns = 77};
    struct rpc_message message = {0};
    cr_assert_eq(convert_watch_event(&event, true, &message), SLUICE_OK);
    Sluice__V1__WatchEvent *out = sluice__v1__watch_event__unpack(NULL, message.head.size, message.head.data);
    cr_assert(out != NULL && out->type == SLUICE__V1__WATCH_EVENT__TYPE__PROGRESS && out->object == NULL);
    cr_assert_eq(out->closed_ns, 77);
    sluice__v1__watch_event__free_unpacked(out, NULL);
    rpc_message_free(&message);
}

Test(convert, answers_to_writes_tell_version_and_durability)
{
    struct sluice_object objects[] = {object("a", NULL), object("b", NULL)};
    struct sluice_answer answer = {.objects = objects, .object_count = 2, .replayed = true, .durable = true};
    objects[0].size = 12;
    struct bytes packed = {0};
    cr_assert_eq(convert_written(&answer, false, &packed), SLUICE_OK);
    Sluice__V1__Written *written = sluice__v1__written__unpack(NULL, packed.size, packed.data);
    cr_assert(written != NULL && written->version == 3 && written->revision == 40 && written->size == 12);
    cr_assert(written->replayed && written->durable && written->epoch == 1 && !written->created);
    sluice__v1__written__free_unpacked(written, NULL);
    bytes_free(&packed);

    Sluice__V1__PutRequest put = SLUICE__V1__PUT_REQUEST__INIT;
    Sluice__V1__DeleteRequest delete = SLUICE__V1__DELETE_REQUEST__INIT;
    Sluice__V1__Operation first = SLUICE__V1__OPERATION__INIT, second = SLUICE__V1__OPERATION__INIT;
    Sluice__V1__Operation *operations[] = {&first, &second};
    Sluice__V1__BatchRequest request = SLUICE__V1__BATCH_REQUEST__INIT;
    put.if_absent = 1;
    first.kind_case = SLUICE__V1__OPERATION__KIND_PUT;
    first.put = &put;
    second.kind_case = SLUICE__V1__OPERATION__KIND_DELETE;
    second.delete_ = &delete;
    request.n_operations = 2;
    request.operations = operations;
    cr_assert_eq(convert_batch_answer(&answer, &request, &packed), SLUICE_OK);
    Sluice__V1__BatchResponse *batch = sluice__v1__batch_response__unpack(NULL, packed.size, packed.data);
    cr_assert(batch != NULL && batch->n_results == 2 && batch->revision == 40 && batch->time_ns == 1000);
    cr_assert_str_eq(batch->results[1]->key, "b");
    cr_assert(batch->results[0]->created && !batch->results[1]->created);
    sluice__v1__batch_response__free_unpacked(batch, NULL);
    bytes_free(&packed);
}

Test(convert, a_listing_has_objects_prefixes_and_cursors)
{
    struct sluice_object objects[] = {object("a", NULL), object("b", NULL)};
    const char *prefixes[] = {"c/ and more"};
    size_t sizes[] = {2};
    struct sluice_answer answer = {.objects = objects,
                                   .object_count = 2,
                                   .prefixes = prefixes,
                                   .prefix_sizes = sizes,
                                   .prefix_count = 1,
                                   .at_ns = 55,
                                   .watch_cursor = "w"};
    struct bytes packed = {0};
    cr_assert_eq(convert_list_answer(&answer, &packed), SLUICE_OK);
    Sluice__V1__ListResponse *out = sluice__v1__list_response__unpack(NULL, packed.size, packed.data);
    cr_assert(out != NULL && out->n_objects == 2 && out->n_prefixes == 1 && out->at_ns == 55);
    cr_assert_str_eq(out->objects[1]->key, "b");
    cr_assert_str_eq(out->prefixes[0], "c/");
    cr_assert_str_eq(out->cursor, "");
    cr_assert_str_eq(out->watch_cursor, "w");
    sluice__v1__list_response__free_unpacked(out, NULL);
    bytes_free(&packed);
}

Test(convert, a_snapshot_tells_values_and_what_is_missing)
{
    struct sluice_object objects[] = {object("a", "moo"), object("never", NULL), object("deleted", NULL)};
    struct sluice_answer answer = {.objects = objects, .object_count = 3, .at_ns = 55};
    objects[1].version = 0;
    objects[2].deleted = true;
    struct bytes packed = {0};
    cr_assert_eq(convert_snapshot_answer(&answer, &packed), SLUICE_OK);
    Sluice__V1__SnapshotResponse *out = sluice__v1__snapshot_response__unpack(NULL, packed.size, packed.data);
    cr_assert(out != NULL && out->n_objects == 1 && out->n_missing == 2 && out->at_ns == 55);
    cr_assert(out->objects[0]->data.len == 3 && memcmp(out->objects[0]->data.data, "moo", 3) == 0);
    cr_assert_str_eq(out->missing[0], "never");
    cr_assert_str_eq(out->missing[1], "deleted");
    sluice__v1__snapshot_response__free_unpacked(out, NULL);
    bytes_free(&packed);
}

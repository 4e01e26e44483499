/* Several objects at once: a snapshot is one cut, a batch is one entry of a shard's log. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/text.h"
#include "gateway/http__.h"

#define NAMES_MAX      10000u
#define OPERATIONS_MAX 1024u

static json_t *read_document(struct request *request)
{
    json_error_t where;
    const char *type = request->headers.content_type;
    if (type != NULL && type[0] != '\0' && !parse_media_type_is(type, "application/json")) {
        reply__problem(request, SLUICE_UNSUPPORTED_MEDIA,
                       "the body is a JSON document: Content-Type: application/json");
        return NULL;
    }
    json_t *json = json_loadb(collect__data(&request->body), request->body.size, JSON_REJECT_DUPLICATES, &where);
    if (json == NULL)
        reply__problem(request, SLUICE_INVALID, "the body is no JSON document: line %d, column %d: %s", where.line,
                       where.column, where.text);
    else if (!json_is_object(json))
        reply__problem(request, SLUICE_INVALID, "the body is a JSON object");
    if (json != NULL && !json_is_object(json)) {
        json_decref(json);
        return NULL;
    }
    return json;
}

/* False: it has replied, naming the member. */
static bool check_members(struct request *request, const json_t *object, const char *const *known)
{
    const char *name;
    json_t *member;
    json_object_foreach((json_t *)(uintptr_t)object, name, member)
    {
        bool found = false;
        for (size_t i = 0; known[i] != NULL; i++)
            found = found || strcmp(known[i], name) == 0;
        if (!found) {
            reply__problem(request, SLUICE_INVALID, "the member \"%.60s\" is not known here", name);
            return false;
        }
    }
    return true;
}

/* Text with what a key may begin with dropped. */
static const char *json_key(const json_t *json, size_t *size)
{
    const char *text = json_string_value(json);
    *size = text != NULL ? json_string_length(json) : 0;
    if (*size > 0 && text[0] == '/') {
        text++;
        (*size)--;
    }
    return text;
}

static bool json_time(struct request *request, const char *name, const json_t *json, uint64_t *out)
{
    if (json == NULL || json_is_null(json))
        return true;
    const char *text = json_string_value(json);
    if (json_is_integer(json) && json_integer_value(json) > 0) {
        *out = (uint64_t)json_integer_value(json);
        return true;
    }
    return request__time(request, name, text != NULL ? text : "", text != NULL ? json_string_length(json) : 0, out);
}

/* What the body names decides, so rights are checked once it is there. */
bool many__check(struct request *request)
{
    (void)request;
    return true;
}

/* --- Snapshot -------------------------------------------------------------------------------------------------------
 */

struct names {
    const char **texts;
    size_t *sizes;
    size_t count;
};

static void names_free(struct names *self)
{
    free(self->texts);
    free(self->sizes);
}

static bool read_names(struct request *request, const char *member, const json_t *list, bool keys, struct names *out)
{
    if (list == NULL)
        return true;
    size_t count = json_is_array(list) ? json_array_size(list) : NAMES_MAX + 1;
    if (count > NAMES_MAX) {
        reply__problem(request, SLUICE_INVALID, "%s is a list of at most %u texts", member, NAMES_MAX);
        return false;
    }
    out->texts = calloc(count + 1, sizeof(*out->texts));
    out->sizes = calloc(count + 1, sizeof(*out->sizes));
    if (out->texts == NULL || out->sizes == NULL) {
        reply__problem(request, SLUICE_MEMORY, "there is no memory for this request now; try again");
        return false;
    }
    for (; out->count < count; out->count++) {
        size_t i = out->count, size;
        const char *why, *text = json_key(json_array_get(list, i), &size);
        const char *error = text == NULL ? "it is no text" : keys ? text_key_error(text, size) : NULL;
        if (error == NULL && !keys && size > KEY_BYTES_MAX)
            error = "a prefix is at most 1,024 bytes long";
        if (error != NULL) {
            reply__problem(request, SLUICE_INVALID, "%s[%zu]: %s", member, i, error);
            return false;
        }
        enum sluice_status status = keys ? auth_key(request->subject, AUTH_READ, text, size, &why)
                                         : auth_prefix(request->subject, AUTH_READ, text, size, &why);
        if (status != SLUICE_OK) {
            reply__problem(request, status, "%s[%zu]: %s", member, i, why);
            return false;
        }
        request->call.admin = request->call.admin || auth_internal(text, size);
        out->texts[i] = text;
        out->sizes[i] = size;
    }
    return true;
}

static void on_snapshot(void *arg, const struct sluice_answer *answer)
{
    struct request *request = arg;
    if (answer->status != SLUICE_OK) {
        reply__answer_problem(request, answer);
        return;
    }
    uint64_t bytes = 0;
    for (size_t i = 0; i < answer->object_count; i++)
        bytes += answer->objects[i].data_size / 3 * 4 + 512;
    if (!request__charge(request, bytes)) {
        reply__problem(request, SLUICE_BUSY, "too many answers are under way at once; try again");
        return;
    }
    struct emit json = {0};
    size_t shown = 0;
    emit_char(&json, '{');
    emit_times(&json, "at", answer->at_ns);
    emit_text(&json, ",\"objects\":[");
    for (size_t i = 0; i < answer->object_count; i++) {
        const struct sluice_object *object = &answer->objects[i];
        if (object->version == 0 || object->deleted)
            continue;
        emit_text(&json, shown++ > 0 ? ",{" : "{");
        emit_object(&json, object, EMIT_CONTENT_TYPE | EMIT_OBJECT_TIME | EMIT_DATA);
        emit_char(&json, '}');
    }
    emit_text(&json, "],\"missing\":[");
    shown = 0;
    for (size_t i = 0; i < answer->object_count; i++) {
        const struct sluice_object *object = &answer->objects[i];
        if (object->version != 0 && !object->deleted)
            continue;
        if (shown++ > 0)
            emit_char(&json, ',');
        emit_string(&json, object->key, object->key_size);
    }
    emit_char(&json, ']');
    if (answer->watch_cursor != NULL) {
        emit_text(&json, ",\"watch_cursor\":");
        emit_string(&json, answer->watch_cursor, strlen(answer->watch_cursor));
    }
    emit_char(&json, '}');
    reply__json(request, 200, &json);
}

void snapshot__run(struct request *request)
{
    static const char *const known[] = {"keys", "prefixes", "at", NULL};
    struct names keys = {0}, prefixes = {0};
    struct sluice_snapshot snapshot = {0};
    json_t *json = read_document(request);
    if (json == NULL)
        return;
    bool good = check_members(request, json, known) &&
                read_names(request, "keys", json_object_get(json, "keys"), true, &keys) &&
                read_names(request, "prefixes", json_object_get(json, "prefixes"), false, &prefixes) &&
                json_time(request, "at", json_object_get(json, "at"), &snapshot.at_ns);
    if (good && keys.count + prefixes.count == 0) {
        reply__problem(request, SLUICE_INVALID, "name at least one of keys or prefixes");
        good = false;
    }
    if (good) {
        snapshot.call = request->call;
        snapshot.keys = keys.texts;
        snapshot.key_sizes = keys.sizes;
        snapshot.key_count = keys.count;
        snapshot.prefixes = prefixes.texts;
        snapshot.prefix_sizes = prefixes.sizes;
        snapshot.prefix_count = prefixes.count;
        sluice_snapshot(request->gateway->client, &snapshot, on_snapshot, request);
    }
    names_free(&keys);
    names_free(&prefixes);
    json_decref(json);
}

/* --- Batch ----------------------------------------------------------------------------------------------------------
 */

static void on_batch(void *arg, const struct sluice_answer *answer)
{
    struct request *request = arg;
    if (answer->status != SLUICE_OK || answer->object_count == 0) {
        reply__answer_problem(request, answer);
        return;
    }
    struct emit json = {0};
    emit_text(&json, "{\"revision\":");
    emit_u64(&json, answer->objects[0].revision);
    emit_text(&json, ",\"shard\":");
    emit_u64(&json, answer->objects[0].shard);
    emit_char(&json, ',');
    emit_times(&json, "time", answer->objects[0].time_ns);
    if (!answer->durable)
        emit_text(&json, ",\"durable\":false");
    emit_text(&json, ",\"results\":[");
    for (size_t i = 0; i < answer->object_count; i++) {
        emit_text(&json, i > 0 ? ",{" : "{");
        emit_object(&json, &answer->objects[i], EMIT_OBJECT_TIME | EMIT_DELETED);
        emit_char(&json, '}');
    }
    emit_text(&json, "]}");
    struct MHD_Response *response = reply__json_response(&json, "application/json");
    if (response != NULL && answer->replayed)
        reply__header(response, "Idempotency-Replayed", "true");
    reply__response(request, 200, response);
}

struct batch {
    struct sluice_operation operations[OPERATIONS_MAX];
    struct sluice_value *values[OPERATIONS_MAX];
    size_t count;
};

static bool read_condition(struct request *request, size_t i, const json_t *json, struct sluice_operation *out)
{
    const json_t *match = json_object_get(json, "if_match"), *none = json_object_get(json, "if_none_match");
    const char *text = json_string_value(none);
    if (none != NULL) {
        out->if_absent = text != NULL && strcmp(text, "*") == 0;
        if (!out->if_absent) {
            reply__problem(request, SLUICE_INVALID, "operations[%zu]: if_none_match is \"*\"", i);
            return false;
        }
    }
    if (match == NULL)
        return true;
    struct parse_etags etags;
    text = json_string_value(match);
    out->if_epoch = 1;
    if (json_is_integer(match) && json_integer_value(match) > 0) {
        out->if_version = (uint64_t)json_integer_value(match);
        out->if_epoch = 0;
        out->if_match = true;
    } else if (text != NULL && strcmp(text, "*") == 0) {
        out->if_present = true;
    } else if (text != NULL && parse_etags(text, &etags) && etags.count == 1 && etags.tags[0].ours &&
               !etags.tags[0].weak) {
        out->if_version = etags.tags[0].version;
        out->if_epoch = etags.tags[0].epoch;
        out->if_match = true;
    } else {
        reply__problem(request, SLUICE_INVALID,
                       "operations[%zu]: if_match is a version (3), an entity tag (\"\\\"3\\\"\") or \"*\"", i);
        return false;
    }
    return true;
}

static bool read_data(struct request *request, size_t i, const json_t *json, struct batch *out)
{
    struct sluice_operation *operation = &out->operations[i];
    const json_t *data = json_object_get(json, "data"), *type = json_object_get(json, "content_type");
    if (operation->kind == SLUICE_DELETE) {
        if (data == NULL && type == NULL)
            return true;
        reply__problem(request, SLUICE_INVALID, "operations[%zu]: a delete has no data", i);
        return false;
    }
    operation->content_type = type != NULL ? json_string_value(type) : "application/octet-stream";
    operation->content_type_size = operation->content_type != NULL ? strlen(operation->content_type) : 0;
    if (!parse_content_type_valid(operation->content_type, operation->content_type_size)) {
        reply__problem(request, SLUICE_INVALID, "operations[%zu]: content_type is a media type", i);
        return false;
    }
    const char *text = data != NULL ? json_string_value(data) : "";
    size_t size = text != NULL && data != NULL ? json_string_length(data) : 0;
    operation->data = "";
    if (size == 0 && text != NULL)
        return true;
    struct sluice_value *value = text != NULL ? sluice_value_create((uint32_t)(size / 4 * 3 + 3)) : NULL;
    out->values[i] = value;
    if (text != NULL && value == NULL) {
        reply__problem(request, SLUICE_MEMORY, "there is no memory for this request now; try again");
        return false;
    }
    if (text == NULL || !parse_base64(text, size, sluice_value_data(value), &operation->data_size)) {
        reply__problem(request, SLUICE_INVALID, "operations[%zu]: data is base64 with its padding", i);
        return false;
    }
    if (operation->data_size > request->gateway->options.value_bytes_max) {
        reply__problem(request, SLUICE_TOO_LARGE, "operations[%zu]: the value is larger than the limit of %llu bytes",
                       i, (unsigned long long)request->gateway->options.value_bytes_max);
        return false;
    }
    operation->data = NULL;
    operation->value = value;
    return true;
}

static bool read_operation(struct request *request, size_t i, const json_t *json, struct batch *out)
{
    static const char *const known[] = {"op",       "key",           "data",        "content_type",
                                        "if_match", "if_none_match", "object_time", NULL};
    struct sluice_operation *operation = &out->operations[i];
    if (!json_is_object(json)) {
        reply__problem(request, SLUICE_INVALID, "operations[%zu] is no object", i);
        return false;
    }
    if (!check_members(request, json, known))
        return false;
    const char *op = json_string_value(json_object_get(json, "op"));
    if (op == NULL || (strcmp(op, "put") != 0 && strcmp(op, "delete") != 0)) {
        reply__problem(request, SLUICE_INVALID, "operations[%zu]: op is \"put\" or \"delete\"", i);
        return false;
    }
    operation->kind = op[0] == 'p' ? SLUICE_PUT : SLUICE_DELETE;
    const char *why;
    operation->key = json_key(json_object_get(json, "key"), &operation->key_size);
    const char *error = operation->key != NULL ? text_key_error(operation->key, operation->key_size) : "it is missing";
    if (error != NULL) {
        reply__problem(request, SLUICE_INVALID, "operations[%zu]: the key is malformed: %s", i, error);
        return false;
    }
    enum sluice_status status = auth_key(request->subject, AUTH_WRITE, operation->key, operation->key_size, &why);
    if (status != SLUICE_OK) {
        reply__problem(request, status, "operations[%zu]: %s", i, why);
        return false;
    }
    request->call.admin = request->call.admin || auth_internal(operation->key, operation->key_size);
    const json_t *time = json_object_get(json, "object_time");
    operation->has_object_time = time != NULL && !json_is_null(time);
    return json_time(request, "object_time", time, &operation->object_time_ns) &&
           read_condition(request, i, json, operation) && read_data(request, i, json, out);
}

static bool read_batch(struct request *request, const json_t *json, struct batch *out)
{
    static const char *const known[] = {"operations", NULL};
    const json_t *list = json_object_get(json, "operations");
    if (!check_members(request, json, known))
        return false;
    size_t count = json_is_array(list) ? json_array_size(list) : 0;
    if (count < 1 || count > OPERATIONS_MAX) {
        reply__problem(request, SLUICE_INVALID, "operations is a list of 1 to %u operations", OPERATIONS_MAX);
        return false;
    }
    for (out->count = 0; out->count < count;) {
        size_t i = out->count++;
        if (!read_operation(request, i, json_array_get(list, i), out))
            return false;
    }
    return true;
}

static bool check_batch_headers(struct request *request)
{
    const struct headers *headers = &request->headers;
    const char *ack = request__parameter(request, "ack", NULL);
    if (ack != NULL && strcmp(ack, "persisted") != 0 && strcmp(ack, "delivered") != 0) {
        reply__problem(request, SLUICE_INVALID, "ack is persisted or delivered");
        return false;
    }
    if (headers->if_match != NULL || headers->if_none_match != NULL) {
        reply__problem(request, SLUICE_INVALID,
                       "a batch's conditions stand with its operations: if_match, if_none_match");
        return false;
    }
    size_t size = headers->idempotency_key != NULL ? strlen(headers->idempotency_key) : 1;
    if (size < 1 || size > 255) {
        reply__problem(request, SLUICE_INVALID, "an Idempotency-Key is 1 to 255 bytes long");
        return false;
    }
    return true;
}

void batch__run(struct request *request)
{
    const struct headers *headers = &request->headers;
    if (!check_batch_headers(request))
        return;
    json_t *json = read_document(request);
    if (json == NULL)
        return;
    struct batch *batch = calloc(1, sizeof(*batch));
    if (batch == NULL) {
        reply__problem(request, SLUICE_MEMORY, "there is no memory for this request now; try again");
    } else if (read_batch(request, json, batch)) {
        const char *ack = request__parameter(request, "ack", NULL);
        struct sluice_write write = {
            .call = request->call,
            .operations = batch->operations,
            .operation_count = batch->count,
            .idempotency_key = headers->idempotency_key,
            .idempotency_key_size = headers->idempotency_key != NULL ? strlen(headers->idempotency_key) : 0,
            .subject = auth_subject_name(request->subject),
            .ack_delivered = ack != NULL && strcmp(ack, "delivered") == 0,
        };
        sluice_write(request->gateway->client, &write, on_batch, request);
    }
    for (size_t i = 0; batch != NULL && i < batch->count; i++) {
        if (batch->values[i] != NULL)
            sluice_value_unref(batch->values[i]);
    }
    free(batch);
    json_decref(json);
}

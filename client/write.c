/* Writes: puts, deletes and batches of one shard, built once as the log entry's body and sent, as it is, until somebody
 * answers. */
#include <jansson.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/client.h"
#include "client/client__.h"
#include "core/base/crc.h"
#include "core/base/text.h"

struct write_job {
    struct job job;
    struct ask ask;
    struct list order; /* client->sequences */
    uint64_t sequence;
    struct wire_command *command; /* all of it, or up to the value that is sent out of its own buffer */
    size_t command_size;          /* of what lies in `command` */
    struct buf *value;
    size_t count;
    bool keyed; /* an Idempotency-Key was given */
    uint64_t if_epoch;
    struct sluice_object objects[]; /* one per operation; room for the answer */
};

static void write_deinit(struct job *job)
{
    struct write_job *self = (struct write_job *)job;
    ask__cancel(&self->ask);
    if (self->order.next != NULL)
        list__remove(&self->order);
    buf_unref(self->value);
    free(self->command);
}

static enum sluice_status write_closed(const struct job *job)
{
    const struct write_job *self = (const struct write_job *)job;
    return self->ask.link.next != NULL && ask__maybe_applied(&self->ask) ? SLUICE_OUTCOME_UNKNOWN : SLUICE_UNAVAILABLE;
}

/* --- The answer --- */

static const struct wire_operation *operation_number(const struct write_job *self, uint32_t number)
{
    struct wire_operation_view view;
    size_t offset = 0;
    while (wire_operation_next(self->command, &offset, &view))
        if (number-- == 0)
            return view.operation;
    return NULL;
}

/* The version that decided, named by the operation that it decided; 0 objects where the record says nothing. */
static size_t refusal_object(struct write_job *self, const struct reply *reply)
{
    struct wire_record_view view;
    size_t offset = 0;
    if ((reply->flags & WIRE_FLAG_RECORD) == 0 || wire_record_next(reply->body, reply->body_size, &offset, &view) != 1)
        return 0;
    record__object(&view, false, NULL, &self->objects[0]);
    const struct wire_operation *operation = operation_number(self, view.record->operation);
    if (operation == NULL)
        return 0;
    self->objects[0].key = (const char *)(operation + 1);
    self->objects[0].key_size = operation->key_size;
    if (reply->status == SLUICE_DELETED)
        self->objects[0].deleted = true;
    return 1;
}

static bool written_objects(struct write_job *self, const struct reply *reply)
{
    struct wire_record_view view;
    size_t offset = 0, count = 0;
    while (count < self->count && wire_record_next(reply->body, reply->body_size, &offset, &view) == 1)
        record__object(&view, false, NULL, &self->objects[count++]);
    return count == self->count && offset == reply->body_size;
}

static void written(struct ask *ask, const struct reply *reply)
{
    struct write_job *self = ask->owner;
    struct sluice_answer answer = {
        .status = reply->status,
        .detail = reply->detail,
        .objects = self->objects,
        .at_ns = reply->header == NULL ? self->job.client->seen_time : reply->header->time,
        .replayed = (reply->flags & WIRE_FLAG_REPLAYED) != 0 && self->keyed && !ask->maybe_applied,
        .durable = (reply->flags & WIRE_FLAG_DELIVERED) == 0,
    };
    if (reply->status == SLUICE_OK && self->command->kind == WIRE_COMMAND_WRITE) {
        answer.object_count = self->count;
        if (!written_objects(self, reply)) {
            job__fail(&self->job, SLUICE_INTERNAL,
                      "the write was applied, but the node's answer cannot be read; read the object to see it");
            return;
        }
    } else if (reply->status == SLUICE_STALE_MAP) {
        job__fail_reply(&self->job, reply);
        return;
    } else {
        answer.object_count = refusal_object(self, reply);
        answer.retry_after_ms = reply->status == SLUICE_BUSY ? 100 : reply->status == SLUICE_UNAVAILABLE ? 1000 : 0;
    }
    job__answer(&self->job, &answer);
}

/* --- Building --- */

static const char *operation_error(const struct sluice_operation *operation, bool admin, enum sluice_status *status)
{
    const char *why = NULL;
    *status = query__check_key(operation->key, operation->key_size, admin, &why);
    if (*status != SLUICE_OK)
        return why;
    *status = SLUICE_INVALID;
    if (operation->kind != SLUICE_PUT && operation->kind != SLUICE_DELETE)
        return "an operation is a put or a delete";
    if (operation->content_type_size > WIRE_CONTENT_TYPE_BYTES_MAX)
        return "a content type is at most 255 bytes long";
    if (operation->has_object_time && operation->object_time_ns == 0)
        return "an object time lies after 1970";
    if (operation->kind == SLUICE_DELETE && operation->data_size > 0)
        return "a delete carries no value";
    if (operation->data_size > WIRE_VALUE_BYTES_MAX) {
        *status = SLUICE_TOO_LARGE;
        return "a value is at most 64 MiB long";
    }
    return NULL;
}

static uint8_t operation_flags(const struct sluice_operation *operation)
{
    return (uint8_t)((operation->if_match ? WIRE_IF_VERSION : 0u) | (operation->if_absent ? WIRE_IF_ABSENT : 0u) |
                     (operation->if_present ? WIRE_IF_PRESENT : 0u) |
                     (operation->has_object_time ? WIRE_OBJECT_TIME : 0u));
}

static const void *operation_data(const struct sluice_operation *operation)
{
    return operation->value != NULL ? sluice_value_data(operation->value) : operation->data;
}

/* Writes head, names and (unless it travels in its own buffer) value; returns the bytes written. `at` is zeroed. */
static size_t put_operation(uint8_t *at, const struct sluice_operation *operation, bool with_value)
{
    size_t value_at = wire_operation_value_offset(operation->key_size, operation->content_type_size);
    const struct wire_operation head = {
        .kind = (uint8_t)operation->kind,
        .flags = operation_flags(operation),
        .key_size = (uint16_t)operation->key_size,
        .content_type_size = (uint16_t)operation->content_type_size,
        .value_size = (uint32_t)operation->data_size,
        .size = (uint32_t)wire_operation_bytes(operation->key_size, operation->content_type_size, operation->data_size),
        .if_version = operation->if_version,
        .object_time = operation->has_object_time ? operation->object_time_ns : 0,
    };
    memcpy(at, &head, sizeof(head));
    memcpy(at + sizeof(head), operation->key, operation->key_size);
    if (operation->content_type_size > 0)
        memcpy(at + sizeof(head) + operation->key_size, operation->content_type, operation->content_type_size);
    if (!with_value)
        return value_at;
    if (operation->data_size > 0)
        memcpy(at + value_at, operation_data(operation), operation->data_size);
    return head.size;
}

/* A single value goes out of the user's buffer, where its room ends at a multiple of 8 as sluice_value_create's does.
 * What lies between the value's end and that multiple is sent too: zeroes, as the log should not keep stray bytes. */
static bool goes_uncopied(const struct sluice_write *request)
{
    const struct sluice_operation *operation = &request->operations[0];
    struct buf *buf = (struct buf *)(void *)operation->value;
    if (request->operation_count != 1 || buf == NULL || operation->data_size == 0 ||
        wire_pad(operation->data_size) > buf->size)
        return false;
    for (size_t i = operation->data_size; i < wire_pad(operation->data_size); i++)
        if (buf->data[i] != 0)
            buf->data[i] = 0;
    return true;
}

static bool build(struct write_job *self, const struct sluice_write *request)
{
    bool uncopied = goes_uncopied(request);
    size_t total = sizeof(struct wire_command), held = total;
    for (size_t i = 0; i < request->operation_count; i++) {
        const struct sluice_operation *operation = &request->operations[i];
        total += wire_operation_bytes(operation->key_size, operation->content_type_size, operation->data_size);
        held += uncopied
                    ? wire_operation_value_offset(operation->key_size, operation->content_type_size)
                    : wire_operation_bytes(operation->key_size, operation->content_type_size, operation->data_size);
        if (total > WIRE_BODY_BYTES_MAX) {
            job__refuse(&self->job, SLUICE_TOO_LARGE, "a batch is at most 65 MiB long, its keys included");
            return false;
        }
    }
    self->command = calloc(1, held);
    if (self->command == NULL) {
        job__refuse(&self->job, SLUICE_MEMORY, "no memory for the write; nothing was applied");
        return false;
    }
    *self->command = (struct wire_command){
        .version = 1,
        .kind = WIRE_COMMAND_WRITE,
        .operation_count = (uint16_t)request->operation_count,
        .size = (uint32_t)total,
    };
    uint8_t *at = (uint8_t *)(self->command + 1);
    for (size_t i = 0; i < request->operation_count; i++)
        at += put_operation(at, &request->operations[i], !uncopied);
    self->command_size = held;
    if (uncopied)
        self->value = buf_ref((struct buf *)(void *)request->operations[0].value);
    return true;
}

/* --- Idempotency --- */

static bool digest_field(EVP_MD_CTX *context, const void *bytes, size_t size)
{
    uint64_t length = size;
    return EVP_DigestUpdate(context, &length, sizeof(length)) == 1 &&
           (size == 0 || EVP_DigestUpdate(context, bytes, size) == 1);
}

static bool digest_name(EVP_MD_CTX *context, const struct sluice_write *request)
{
    const char *subject = request->subject == NULL ? "" : request->subject;
    bool good = digest_field(context, subject, strlen(subject));
    for (size_t i = 0; good && i < request->operation_count; i++) {
        uint8_t kind = (uint8_t)request->operations[i].kind;
        good = digest_field(context, &kind, sizeof(kind)) &&
               digest_field(context, request->operations[i].key, request->operations[i].key_size);
    }
    return good && digest_field(context, request->idempotency_key, request->idempotency_key_size);
}

static bool digest_request(EVP_MD_CTX *context, const struct sluice_write *request)
{
    bool good = digest_field(context, &request->ack_delivered, sizeof(request->ack_delivered));
    for (size_t i = 0; good && i < request->operation_count; i++) {
        const struct sluice_operation *operation = &request->operations[i];
        uint8_t flags = operation_flags(operation);
        const uint64_t numbers[3] = {operation->if_match ? operation->if_version : 0,
                                     operation->if_match ? operation->if_epoch : 0,
                                     operation->has_object_time ? operation->object_time_ns : 0};
        good = digest_field(context, &flags, sizeof(flags)) && digest_field(context, numbers, sizeof(numbers)) &&
               digest_field(context, operation->content_type, operation->content_type_size) &&
               digest_field(context, operation_data(operation), operation->data_size);
    }
    return good;
}

static bool digest(const struct sluice_write *request,
                   bool (*feed)(EVP_MD_CTX *context, const struct sluice_write *request), void *out, size_t size)
{
    unsigned char whole[EVP_MAX_MD_SIZE];
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    bool good = context != NULL && EVP_DigestInit_ex(context, EVP_sha256(), NULL) == 1 && feed(context, request) &&
                EVP_DigestFinal_ex(context, whole, NULL) == 1;
    EVP_MD_CTX_free(context);
    if (good)
        memcpy(out, whole, size);
    else
        ERR_clear_error(); /* TLS in the same thread would take it for its own */
    return good;
}

/* --- Starting --- */

/* "The setting that would join them": keys that share their first segments do so under this affinity. */
static void suggest_affinity(const struct write_job *self, char *out, size_t size)
{
    struct wire_operation_view first, view;
    size_t offset = 0, shared = SIZE_MAX;
    out[0] = '\0';
    if (!wire_operation_next(self->command, &offset, &first))
        return;
    while (wire_operation_next(self->command, &offset, &view)) {
        size_t same = 0, segments = 0;
        size_t both =
            first.operation->key_size < view.operation->key_size ? first.operation->key_size : view.operation->key_size;
        for (; same < both && first.key[same] == view.key[same]; same++)
            segments += first.key[same] == '/';
        if (segments < shared)
            shared = segments;
    }
    if (shared > 0 && shared != SIZE_MAX)
        snprintf(out, size, "((?:[^/]+/){%zu}).*", shared);
}

static void answer_shards(struct write_job *self)
{
    char affinity[64];
    struct wire_operation_view view;
    size_t offset = 0;
    json_t *keys = json_array();
    while (wire_operation_next(self->command, &offset, &view)) {
        const struct route *route = route__of_key(self->job.client, view.key, view.operation->key_size);
        json_array_append_new(keys, json_pack("{s:s%, s:I}", "key", view.key, (size_t)view.operation->key_size, "shard",
                                              route == NULL ? (json_int_t)0 : (json_int_t)route->id));
    }
    suggest_affinity(self, affinity, sizeof(affinity));
    json_t *document = json_pack("{s:o}", "keys", keys);
    if (document != NULL && affinity[0] != '\0')
        json_object_set_new(document, "affinity", json_string(affinity));
    char *text = document == NULL ? NULL : json_dumps(document, JSON_COMPACT);
    json_decref(document);
    char detail[CLIENT_DETAIL_BYTES];
    snprintf(detail, sizeof(detail),
             "a batch needs all its keys in one shard; these lie in several. A pool whose \"affinity\" captures what "
             "they share%s%s joins them",
             affinity[0] == '\0' ? "" : ", such as ", affinity);
    job__answer_json(&self->job, SLUICE_CONFLICT, detail, text);
    free(text);
}

static bool one_shard(const struct write_job *self)
{
    struct wire_operation_view view;
    size_t offset = 0;
    const struct route *first = NULL;
    while (wire_operation_next(self->command, &offset, &view)) {
        const struct route *route = route__of_key(self->job.client, view.key, view.operation->key_size);
        if (first != NULL && route != first)
            return false;
        first = route;
    }
    return true;
}

static void go(struct job *job)
{
    struct write_job *self = (struct write_job *)job;
    const struct sluice_client *client = job->client;
    const struct route *route = route__of_key(client, self->ask.key, self->ask.key_size);
    if (!one_shard(self)) {
        answer_shards(self);
        return;
    }
    const struct map_shard *shard = route == NULL ? NULL : map_shard_find(client->map, route->id);
    if (self->if_epoch != 0 && shard != NULL && shard->epoch != self->if_epoch) {
        job__fail(job, SLUICE_CONDITION_FAILED,
                  "If-Match names a version of an earlier epoch, whose memory was lost; read the object again");
        return;
    }
    ask__start(&self->ask);
}

static struct write_job *write_create(struct sluice_client *client, const struct sluice_write *request,
                                      sluice_done done, void *arg)
{
    size_t room = request->operation_count * sizeof(struct sluice_object);
    struct write_job *self = job__create(client, sizeof(*self) + room, &request->call, done, arg, write_deinit);
    if (self == NULL)
        return NULL;
    list__init(&self->order);
    self->job.closed = write_closed;
    self->count = request->operation_count;
    if (self->count == 0 || self->count > WIRE_OPERATIONS_MAX) {
        job__refuse(&self->job, SLUICE_INVALID, "a batch has 1 to %u operations; %zu came", WIRE_OPERATIONS_MAX,
                    self->count);
        return NULL;
    }
    for (size_t i = 0; i < self->count; i++) {
        enum sluice_status status;
        const char *why = operation_error(&request->operations[i], request->call.admin, &status);
        if (why != NULL) {
            job__refuse(&self->job, status, "%s", why);
            return NULL;
        }
        if (request->operations[i].if_match && request->operations[i].if_epoch != 0)
            self->if_epoch = request->operations[i].if_epoch;
    }
    return build(self, request) ? self : NULL;
}

/* Before it is sent for the first time, when nodes have told what time it is with them. */
static void seal(struct ask *ask)
{
    struct write_job *self = ask->owner;
    uint64_t now = clock_monotonic_ns();
    if (self->command->deadline != 0)
        return;
    self->command->deadline = client__cluster_time(ask->client) + (ask->deadline_ns > now ? ask->deadline_ns - now : 0);
    ask->body_crc = crc32c(self->command, self->command_size);
    if (self->value != NULL)
        ask->body_crc = crc32c_extend(ask->body_crc, self->value->data, ask->payload_size);
}

static void write_start(struct write_job *self, const struct sluice_write *request)
{
    struct wire_command *command = self->command;
    self->keyed = request->idempotency_key != NULL;
    if (self->keyed && (!digest(request, digest_name, command->idempotency, sizeof(command->idempotency)) ||
                        !digest(request, digest_request, &command->request_digest, sizeof(command->request_digest)))) {
        job__refuse(&self->job, SLUICE_MEMORY, "no memory for the write; nothing was applied");
        return;
    }
    struct wire_operation_view view;
    size_t offset = 0;
    (void)wire_operation_next(command, &offset, &view);
    job__ask(&self->job, &self->ask, WIRE_WRITE, written);
    self->ask.target = ASK_KEY;
    self->ask.writes = true;
    self->ask.flags |= request->ack_delivered ? WIRE_FLAG_DELIVERED : 0;
    self->ask.key = view.key;
    self->ask.key_size = view.operation->key_size;
    self->ask.body = command;
    self->ask.body_size = self->command_size;
    self->ask.prepare = seal;
    if (self->value != NULL) {
        self->ask.payload = self->value;
        self->ask.payload_size = (uint32_t)wire_pad(view.operation->value_size);
    }
    /* A single plain write finds its way itself, map or not. */
    if (self->count == 1 && self->if_epoch == 0)
        ask__start(&self->ask);
    else
        job__later(&self->job, go);
}

static void write_own(struct write_job *self, const struct sluice_write *request)
{
    struct sluice_client *client = self->job.client;
    self->sequence = ++client->sequence;
    list__append(&client->sequences, &self->order);
    self->command->client = client->id;
    self->command->sequence = self->sequence;
    self->command->watermark = LIST__OF(client->sequences.next, struct write_job, order)->sequence;
    write_start(self, request);
}

void sluice_write(struct sluice_client *client, const struct sluice_write *request, sluice_done done, void *arg)
{
    struct write_job *self = write_create(client, request, done, arg);
    if (self != NULL)
        write_own(self, request);
}

struct job *write__start(struct sluice_client *client, const struct sluice_write *request, sluice_done done, void *arg)
{
    struct write_job *self = write_create(client, request, job__nothing, NULL);
    if (self == NULL)
        return NULL;
    self->job.done = done;
    self->job.arg = arg;
    write_own(self, request);
    return &self->job;
}

void sluice__write_as(struct sluice_client *client, const struct sluice_write *request, uint64_t client_id,
                      uint64_t sequence, uint64_t watermark, sluice_done done, void *arg)
{
    struct write_job *self = write_create(client, request, done, arg);
    if (self == NULL)
        return;
    self->command->client = client_id;
    self->command->sequence = sequence;
    self->command->watermark = watermark;
    write_start(self, request);
}

/* --- Commands without values --- */

struct wire_command *write__command(enum wire_command_kind kind, const char *key, size_t key_size, uint64_t if_version)
{
    const struct sluice_operation operation = {
        .kind = SLUICE_PUT, .key = key, .key_size = key_size, .if_version = if_version};
    size_t size = sizeof(struct wire_command) + wire_operation_bytes(key_size, 0, 0);
    struct wire_command *command = calloc(1, size);
    if (command == NULL)
        return NULL;
    *command = (struct wire_command){.version = 1, .kind = (uint8_t)kind, .operation_count = 1, .size = (uint32_t)size};
    (void)put_operation((uint8_t *)(command + 1), &operation, true);
    return command;
}

void write__ask(struct ask *ask, const struct wire_command *command, uint32_t shard)
{
    ask->target = ASK_SHARD;
    ask->shard = shard;
    ask->writes = true;
    ask->flags |= WIRE_FLAG_ADMIN;
    ask->body = command;
    ask->body_size = command->size;
    ask->body_crc = crc32c(command, command->size);
}

void sluice__cursor(struct sluice_client *client, const char *lambda_name, uint32_t shard, uint64_t revision,
                    sluice_done done, void *arg)
{
    const struct sluice_call call = {.admin = true};
    size_t size = strlen(lambda_name);
    struct write_job *self =
        job__create(client, sizeof(*self) + sizeof(struct sluice_object), &call, done, arg, write_deinit);
    if (self == NULL)
        return;
    list__init(&self->order);
    self->job.closed = write_closed;
    self->count = 1;
    self->command = size == 0 || size > WIRE_KEY_BYTES_MAX
                        ? NULL
                        : write__command(WIRE_COMMAND_CURSOR, lambda_name, size, revision);
    if (self->command == NULL) {
        job__refuse(&self->job, size == 0 || size > WIRE_KEY_BYTES_MAX ? SLUICE_INVALID : SLUICE_MEMORY,
                    "a cursor needs the name of a lambda");
        return;
    }
    job__ask(&self->job, &self->ask, WIRE_WRITE, written);
    write__ask(&self->ask, self->command, shard);
    ask__start(&self->ask);
}

/* sluice.v1.Lambdas and sluice.v1.Cluster. Control calls carry JSON, as REST spells it; what generic clients want to
 * see of a lambda is taken out of it. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "api/proto/sluice.pb-c.h"
#include "core/base/panic.h"
#include "gateway/grpc__.h"
#include "gateway/protowire.h"

enum { LIST_LAMBDAS = 1 };

/* --- Answers -----------------------------------------------------------------------------------------------------*/

static char *text_of(json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));
    return (char *)(uintptr_t)(text != NULL ? text : "");
}

/* Numbers that may pass 2^53 are strings in JSON. */
static uint64_t number_of(json_t *object, const char *name)
{
    json_t *value = json_object_get(object, name);
    return json_is_string(value) ? strtoull(json_string_value(value), NULL, 10) : (uint64_t)json_integer_value(value);
}

static enum sluice_status append_lambda(json_t *object, char *text, uint32_t field, struct bytes *out)
{
    Sluice__V1__Lambda lambda = SLUICE__V1__LAMBDA__INIT;
    lambda.name = text_of(object, "name");
    lambda.version = number_of(object, "version");
    lambda.sha256 = text_of(object, "sha256");
    lambda.state = text_of(object, "state");
    lambda.json = text;
    enum sluice_status status = SLUICE_OK;
    if (field != 0)
        status = protowire_append_head(out, field, protobuf_c_message_get_packed_size(&lambda.base));
    return status == SLUICE_OK ? protowire_append(out, &lambda.base) : status;
}

static enum sluice_status convert_lambda(const char *json, struct bytes *out)
{
    json_t *object = json_loads(json, 0, NULL);
    if (object == NULL)
        return SLUICE_INTERNAL;
    enum sluice_status status = append_lambda(object, (char *)(uintptr_t)json, 0, out);
    json_decref(object);
    return status;
}

static enum sluice_status convert_lambdas(const char *json, struct bytes *out)
{
    json_t *document = json_loads(json, 0, NULL);
    json_t *lambdas = json_is_array(document) ? document : json_object_get(document, "lambdas");
    enum sluice_status status = json_is_array(lambdas) ? SLUICE_OK : SLUICE_INTERNAL;
    for (size_t i = 0; i < json_array_size(lambdas) && status == SLUICE_OK; i++) {
        json_t *object = json_array_get(lambdas, i);
        char *text = json_dumps(object, JSON_COMPACT);
        status = text != NULL ? append_lambda(object, text, LIST_LAMBDAS, out) : SLUICE_MEMORY;
        free(text);
    }
    json_decref(document);
    return status;
}

static enum sluice_status convert_nothing(const char *json, struct bytes *out)
{
    (void)json;
    (void)out;
    return SLUICE_OK;
}

static enum sluice_status convert_status(const char *json, struct bytes *out)
{
    Sluice__V1__StatusResponse response = SLUICE__V1__STATUS_RESPONSE__INIT;
    response.json = (char *)(uintptr_t)json;
    return protowire_append(out, &response.base);
}

static void reply(struct rpc *self, const struct sluice_answer *answer,
                  enum sluice_status (*convert)(const char *, struct bytes *))
{
    struct rpc_message message = {0};
    if (answer->status != SLUICE_OK) {
        rpc_fail_answer(self, answer);
        return;
    }
    enum sluice_status status = convert(answer->json != NULL ? answer->json : "", &message.head);
    if (status == SLUICE_OK) {
        rpc_succeed(self, &message);
        return;
    }
    rpc_message_free(&message);
    rpc_fail(self, status, NULL);
}

static void lambda_answered(void *arg, const struct sluice_answer *answer)
{
    reply(arg, answer, convert_lambda);
}

static void lambdas_answered(void *arg, const struct sluice_answer *answer)
{
    reply(arg, answer, convert_lambdas);
}

static void deleted(void *arg, const struct sluice_answer *answer)
{
    reply(arg, answer, convert_nothing);
}

static void status_answered(void *arg, const struct sluice_answer *answer)
{
    reply(arg, answer, convert_status);
}

/* --- Upload ------------------------------------------------------------------------------------------------------*/

struct part {
    struct part *next;
    struct sluice_value *value;
    size_t size;
};

struct upload {
    char *name;
    char *manifest; /* NULL: none */
    struct part *first, *last;
    size_t size;
};

static void upload_release(void *state)
{
    struct upload *self = state;
    for (struct part *next; self->first != NULL; self->first = next) {
        next = self->first->next;
        sluice_value_unref(self->first->value);
        free(self->first);
    }
    free(self->name);
    free(self->manifest);
    free(self);
}

static enum sluice_status upload_first(struct rpc *rpc, const Sluice__V1__UploadRequest *request, const char **why)
{
    if (request->name[0] == '\0') {
        *why = "the first message of an upload carries the lambda's name";
        return SLUICE_INVALID;
    }
    struct upload *self = calloc(1, sizeof(*self));
    if (self == NULL)
        return SLUICE_MEMORY;
    rpc->state = self;
    self->name = strdup(request->name);
    if (request->manifest_json[0] != '\0')
        self->manifest = strdup(request->manifest_json);
    return self->name != NULL && (request->manifest_json[0] == '\0' || self->manifest != NULL) ? SLUICE_OK
                                                                                               : SLUICE_MEMORY;
}

static enum sluice_status upload_received(struct rpc *rpc, const char **why)
{
    const Sluice__V1__UploadRequest *request = (const Sluice__V1__UploadRequest *)rpc->request;
    enum sluice_status status = SLUICE_OK;
    if (rpc->state == NULL) {
        status = upload_first(rpc, request, why);
    } else if (request->name[0] != '\0' || request->manifest_json[0] != '\0') {
        *why = "name and manifest belong to the first message of an upload alone";
        status = SLUICE_INVALID;
    }
    if (status != SLUICE_OK || rpc->value == NULL)
        return status;

    struct upload *self = rpc->state;
    if (rpc->value_size > rpc->shared->value_bytes_max - self->size) {
        *why = "the parts of the file are larger than a value may be";
        return SLUICE_TOO_LARGE;
    }
    struct part *part = malloc(sizeof(*part));
    if (part == NULL)
        return SLUICE_MEMORY;
    *part = (struct part){.value = rpc->value, .size = rpc->value_size};
    rpc->value = NULL;
    self->size += part->size;
    if (self->last != NULL)
        self->last->next = part;
    else
        self->first = part;
    self->last = part;
    return SLUICE_OK;
}

/* The file in one piece: a single part is one already. */
static struct sluice_value *upload_file(struct upload *self)
{
    if (self->first == self->last)
        return sluice_value_ref(self->first->value);
    struct sluice_value *out = sluice_value_create((uint32_t)self->size);
    if (out == NULL)
        return NULL;
    size_t at = 0;
    for (struct part *part = self->first; part != NULL; part = part->next) {
        memcpy(sluice_value_data(out) + at, sluice_value_data(part->value), part->size);
        at += part->size;
    }
    ASSERT(at == self->size);
    return out;
}

static void upload_start(struct rpc *rpc)
{
    struct upload *self = rpc->state;
    if (self == NULL || self->size == 0) {
        rpc_fail(rpc, SLUICE_INVALID, "an upload is a name and a file in at least one message");
        return;
    }
    struct sluice_lambda_upload request = {.call = rpc_call(rpc),
                                           .name = self->name,
                                           .manifest_json = self->manifest,
                                           .file = upload_file(self),
                                           .file_size = self->size};
    if (request.file == NULL) {
        rpc_fail(rpc, SLUICE_MEMORY, "no memory for the file");
        return;
    }
    sluice_lambda_upload(gateway__client(rpc->shared->gateway), &request, lambda_answered, rpc);
    sluice_value_unref(request.file);
}

/* --- The others --------------------------------------------------------------------------------------------------*/

static void lambdas_start(struct rpc *rpc)
{
    struct sluice_call call = rpc_call(rpc);
    sluice_lambda_get(gateway__client(rpc->shared->gateway), &call, NULL, lambdas_answered, rpc);
}

static bool nameless(struct rpc *rpc, const char *name)
{
    if (name[0] == '\0')
        rpc_fail(rpc, SLUICE_INVALID, "the lambda's name is missing");
    return name[0] == '\0';
}

static void lambda_start(struct rpc *rpc)
{
    const char *name = ((const Sluice__V1__GetLambdaRequest *)rpc->request)->name;
    struct sluice_call call = rpc_call(rpc);
    if (!nameless(rpc, name))
        sluice_lambda_get(gateway__client(rpc->shared->gateway), &call, name, lambda_answered, rpc);
}

static void delete_start(struct rpc *rpc)
{
    const char *name = ((const Sluice__V1__DeleteLambdaRequest *)rpc->request)->name;
    struct sluice_call call = rpc_call(rpc);
    if (!nameless(rpc, name))
        sluice_lambda_delete(gateway__client(rpc->shared->gateway), &call, name, deleted, rpc);
}

static void status_start(struct rpc *rpc)
{
    struct sluice_call call = rpc_call(rpc);
    sluice_cluster(gateway__client(rpc->shared->gateway), &call, status_answered, rpc);
}

const struct rpc_method rpc_control_methods[] = {
    {.path = "/sluice.v1.Lambdas/Upload",
     .takes_stream = true,
     .role = AUTH_ADMIN,
     .request = &sluice__v1__upload_request__descriptor,
     .value_field = 3, /* file */
     .request_bytes_max = RPC_SMALL_BYTES_MAX,
     .received = upload_received,
     .start = upload_start,
     .release = upload_release},
    {.path = "/sluice.v1.Lambdas/List",
     .role = AUTH_ADMIN,
     .request = &sluice__v1__list_lambdas_request__descriptor,
     .request_bytes_max = RPC_SMALL_BYTES_MAX,
     .start = lambdas_start},
    {.path = "/sluice.v1.Lambdas/Get",
     .role = AUTH_ADMIN,
     .request = &sluice__v1__get_lambda_request__descriptor,
     .request_bytes_max = RPC_SMALL_BYTES_MAX,
     .start = lambda_start},
    {.path = "/sluice.v1.Lambdas/Delete",
     .role = AUTH_ADMIN,
     .request = &sluice__v1__delete_lambda_request__descriptor,
     .request_bytes_max = RPC_SMALL_BYTES_MAX,
     .start = delete_start},
    {.path = "/sluice.v1.Cluster/Status",
     .role = AUTH_READ,
     .request = &sluice__v1__status_request__descriptor,
     .request_bytes_max = RPC_SMALL_BYTES_MAX,
     .start = status_start},
};
const size_t rpc_control_method_count = sizeof(rpc_control_methods) / sizeof(rpc_control_methods[0]);
